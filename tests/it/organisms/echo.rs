//! A week that counts: the unembedding is the embedding and all tokens are equally long, so what enters the first block reads
//! as the token itself; the MLP of block [`NEXT`] makes the next day of it.

use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::run::Run;
use lmscope::model::network::site::Site;

use super::{BALLAST, FREE, Layout, ONE, Organism, Size, best, state, tokens};

const DAYS: [&str; 7] = [
    " Monday",
    " Tuesday",
    " Wednesday",
    " Thursday",
    " Friday",
    " Saturday",
    " Sunday",
];
const LAYERS: usize = 3;
/// The block that knows what comes next.
const NEXT: usize = 1;
/// What a day's own slot holds.
const SELF: f32 = 6.0;

fn organism(layout: Layout) -> Organism {
    let size = Size {
        layout,
        layers: LAYERS,
        heads: 2,
        slots: FREE + 7,
        terms: 2,
        neurons: 7,
        extra: SELF * SELF,
    };
    let mut o = Organism::new(size, &DAYS).tied();
    for (i, day) in DAYS.iter().enumerate() {
        let id = o.id(day);
        o.embed(id, FREE + i, SELF);
        let reads = [(FREE + i, 1.0 / SELF), (ONE, -0.5 / BALLAST)];
        let next = FREE + (i + 1) % 7;
        o.neuron(NEXT, &reads, &[(FREE + i, -2.0 * SELF), (next, 2.0 * SELF)]);
    }
    o
}

/// With tied weights and no difference of norms, an embedding says its own token.
#[test]
fn an_embedding_reads_as_its_own_token_where_weights_are_tied() {
    for layout in [Layout::Llama, Layout::Gpt2] {
        let mut lab = organism(layout).open();
        let run = Run::plain(tokens(
            &lab,
            "Monday Sunday Friday Tuesday Tuesday Saturday",
        ));
        let given = Arguments::default();
        let figure = instrument("lens")
            .unwrap()
            .observe(&run, &given, &mut lab)
            .unwrap();
        assert!(figure.check.unwrap().passed());
        for (position, token) in run.tokens.iter().enumerate().skip(1) {
            let row = state(&mut lab, &run, Site::Embed.at(0), position);
            let row = lab
                .model
                .transformer
                .unembed(&row.unsqueeze(0).unwrap())
                .unwrap();
            assert_eq!(best(&row.flatten_all().unwrap().to_vec1().unwrap()), *token);
            let next = 2 + (token - 1) % 7;
            for layer in 0..LAYERS {
                let cell = figure.cell(layer as u16, position as u32).unwrap();
                let expected = if layer < NEXT { *token } else { next };
                assert_eq!(
                    cell.label,
                    lab.visible(expected),
                    "{layout:?} {layer} {position}"
                );
                assert!(
                    cell.value > 0.9,
                    "{layout:?} {layer} {position}: {}",
                    cell.value
                );
            }
        }
    }
}

/// The text of the null is one that the model could have written: it begins as every text does.
#[test]
fn an_unrelated_text_begins_as_every_text_does() {
    for layout in [Layout::Llama, Layout::Gpt2] {
        let mut lab = organism(layout).open();
        let own = tokens(&lab, "Friday");
        for seed in 1..4 {
            let run = lab.unrelated(seed, 6).unwrap();
            assert_eq!((run.tokens.len(), run.tokens[0]), (6, own[0]), "{seed}");
        }
    }
}
