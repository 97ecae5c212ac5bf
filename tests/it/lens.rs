//! Lenses: the kernel against the plain way on every family, sites and norms, what settles, files of maps.

use candle_core::{DType, Device, Tensor};
use lmscope::figure::{Body, Figure, Grid};
use lmscope::instruments::logit_lens::lens_view::{LensView, READABLE};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::capture::{Needs, NormOf, Readout, StateStats};
use lmscope::lab::readout::{ReferenceRows, RowRequest, RowStats, Tokens, read};
use lmscope::lab::run::Run;
use lmscope::lab::sample::{entropy, kl, log_softmax, rank, top};
use lmscope::model::kernels::vocabulary::{OtherRow, RowQuestion};
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::readout::ReadoutRequest;
use lmscope::model::network::site::{Address, Site};
use lmscope::model::network::tap::{NoTap, Tap};

use super::tools::{every_family, next, prompt, tiny, values};

fn grid(figure: &Figure) -> &Grid {
    match &figure.body {
        Body::Grid(grid) => grid,
        Body::Table(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => panic!("a grid"),
    }
}

fn lens(lab: &mut Lab, run: &Run, arguments: &Arguments) -> Figure {
    let lens = instrument("lens").unwrap();
    lens.observe(run, arguments, lab).unwrap()
}

/// What some positions say at every layer.
fn see(
    lab: &mut Lab,
    run: &Run,
    view: &LensView,
    positions: std::ops::Range<usize>,
    ask: &Readout,
) -> StateStats {
    let Readout { at, norm, maps, .. } = view.readout(lab.model.card.layers);
    let readout = Readout {
        at,
        norm,
        maps,
        ..ask.clone()
    };
    let needs = Needs::of(readout);
    lab.capture(run, positions, &needs).unwrap().read
}

/// Log-probabilities of a row of logits.
fn normalised(logits: &Tensor) -> Vec<f32> {
    let mut row = values(logits);
    log_softmax(&mut row);
    row
}

/// Everything that the kernel says of a row, the plain way: a whole row of logits, and the definitions.
fn by_hand(row: &[f32], other: &[f32], token: u32, known: usize) -> RowStats {
    let mut logprobs = row.to_vec();
    log_softmax(&mut logprobs);
    let mut theirs = other.to_vec();
    log_softmax(&mut theirs);
    let strongest = top(&logprobs, known, 4);
    RowStats {
        top: strongest.into_iter().map(|(id, p)| (id, p.exp())).collect(),
        tokens: vec![lmscope::lab::readout::TokenStats {
            id: token,
            logit: row[token as usize],
            logprob: logprobs[token as usize],
            rank: rank(row, token),
        }],
        entropy: entropy(&logprobs),
        kl: kl(&theirs, &logprobs),
        ..RowStats::default()
    }
}

fn close(a: f32, b: f32, tolerance: f32, what: &str) {
    assert!(
        (a - b).abs() <= tolerance * (1.0 + b.abs()),
        "{what}: {a} and {b}"
    );
}

/// The strips' sums are those of whole rows, for every family, with its bias, multiplier and cap.
#[test]
fn a_grid_is_every_cell_by_itself() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let layers = lab.model.card.layers;
        let run = Run::plain(prompt(6));
        let view = LensView::plain();
        let recording = lab.record(&run, &view.readout(layers).at).unwrap();
        let transformer = &lab.model.transformer;
        let logits = |l: usize, p: usize| {
            let rows = recording.get(Site::ResidPost.at(l)).unwrap();
            let row = rows.narrow(0, p, 1).unwrap().contiguous().unwrap();
            values(&transformer.unembed(&row).unwrap())
        };
        let known = lab.model.known_tokens();
        let token = 17;
        let plain: Vec<Vec<RowStats>> = (0..layers)
            .map(|l| {
                (0..6)
                    .map(|p| by_hand(&logits(l, p), &logits(layers - 1, p), token, known))
                    .collect()
            })
            .collect();
        let ask = Readout {
            top: 4,
            tokens: vec![token],
            ranks: true,
            entropy: true,
            kl: true,
            ..Readout::default()
        };
        let seen = see(&mut lab, &run, &view, 0..6, &ask);
        for l in 0..layers {
            for p in 0..6 {
                let (a, b) = (&seen.layers[l][p], &plain[l][p]);
                let what = format!("{name} layer {l} position {p}");
                assert_eq!(a.top.len(), 4);
                for (a, b) in a.top.iter().zip(&b.top) {
                    assert_eq!(a.0, b.0, "{what}");
                    close(a.1, b.1, 1e-5, &what);
                }
                close(a.tokens[0].logprob, b.tokens[0].logprob, 1e-5, &what);
                assert_eq!(a.tokens[0].rank, b.tokens[0].rank, "{what}");
                close(a.entropy, b.entropy, 1e-5, &what);
                close(a.kl, b.kl, 1e-4, &what);
            }
        }
        assert!(
            seen.layers[layers - 1].iter().all(|s| s.kl < 1e-5),
            "KL(p ‖ p) = 0"
        );
        assert!(
            seen.layers[0].iter().any(|s| s.kl > 1e-3),
            "{name}: layers differ"
        );
    }
}

/// A vocabulary of several strips, with logits that grow towards its end: the running maximum moves.
#[test]
fn strips_and_chunks_hide_no_token() {
    let mut lab = tiny(&FAMILIES[0]);
    let (vocab, wide) = (5003, lab.model.card.d_model);
    let weight: Vec<f32> = (0..vocab * wide)
        .map(|i| {
            let (token, at) = (i / wide, i % wide);
            // Fractions of two, so that every product and sum is exact in any order, and ties are ties.
            let noise = (((i * 7919) % 1013) as f32 - 506.0) / 512.0;
            noise + if at == 0 { token as f32 / 512.0 } else { 0.0 }
        })
        .collect();
    let weight = Tensor::from_vec(weight, (vocab, wide), &Device::Cpu).unwrap();
    lab.model.transformer.head =
        lmscope::model::network::linear::Linear::dense(weight.clone(), None).unwrap();
    lab.model.transformer.blueprint.vocab = vocab;
    lab.model.card.vocab = vocab;
    let rows: Vec<f32> = (0..3 * wide)
        .map(|i| (((i * 31) % 17) as f32 - 8.0) / 8.0)
        .collect();
    let rows = Tensor::from_vec(rows, (3, wide), &Device::Cpu).unwrap();
    let logits = rows.matmul(&weight.t().unwrap()).unwrap();
    let logits: Vec<Vec<f32>> = logits.to_vec2().unwrap();
    let finals = {
        let ask = RowRequest {
            top: 1,
            keep: true,
            ..RowRequest::default()
        };
        read(&lab.model, &rows, &ask, &mut |_| Ok(())).unwrap()
    };
    assert_eq!(finals[0].logits.len(), vocab);
    for token in [0u32, 2047, 2048, 4999, 5002] {
        let tokens = [token, 1];
        let ask = RowRequest {
            top: 4,
            tokens: Tokens::Same(&tokens),
            ranks: true,
            entropy: true,
            against: Some(ReferenceRows {
                rows: &finals,
                of: &[2, 1, 0],
            }),
            ..RowRequest::default()
        };
        let said = read(&lab.model, &rows, &ask, &mut |_| Ok(())).unwrap();
        for (row, said) in said.iter().enumerate() {
            let plain = by_hand(&logits[row], &logits[2 - row], token, vocab);
            let ids = |s: &RowStats| s.top.iter().map(|t| t.0).collect::<Vec<_>>();
            assert_eq!(ids(said), ids(&plain));
            assert_eq!(said.tokens[0].rank, plain.tokens[0].rank, "token {token}");
            close(
                said.tokens[0].logprob,
                plain.tokens[0].logprob,
                1e-5,
                "log-probability",
            );
            close(said.entropy, plain.entropy, 1e-5, "entropy");
            close(said.kl, plain.kl, 1e-5, "KL");
        }
    }
}

/// Every rank of a lens that opens with ranks, against the plain way: whole rows of logits, sorted.
fn ranks_are_those_of_whole_rows(lab: &mut Lab, run: &Run) {
    let (layers, total) = (lab.model.card.layers, run.tokens.len());
    let figure = lens(lab, run, &Arguments::default());
    let shown = grid(&figure).clone();
    assert_eq!(shown.value, "rank of the answer");
    let recording = lab
        .record(run, &LensView::plain().readout(layers).at)
        .unwrap();
    let transformer = &lab.model.transformer;
    let known = lab.model.known_tokens();
    for position in 0..total {
        let row = |layer: usize| {
            let rows = recording.get(Site::ResidPost.at(layer)).unwrap();
            let row = rows.narrow(0, position, 1).unwrap().contiguous().unwrap();
            values(&transformer.unembed(&row).unwrap())
        };
        let answer = top(&row(layers - 1), known, 1)[0].0;
        let story = &shown.also.stories[position];
        assert_eq!(story.token, lab.visible(answer));
        for layer in 0..layers {
            let cell = &shown.cells[position][layer];
            let counted = rank(&row(layer), answer) + 1;
            // Logits of a batch and of a row alone differ in their last bits, so that near ties may change places.
            let near = |rank: u32| rank.abs_diff(counted) <= counted / 100;
            assert!(near(cell.value as u32), "{} {counted}", cell.value);
            assert!(near(story.ranks[layer]), "{:?} {counted}", story.ranks);
            assert!(cell.value.fract() == 0.0 && cell.more.len() == 5);
        }
        assert_eq!(story.ranks[layers - 1], 1, "the answer is the model's own");
    }
}

/// A vocabulary of more than 8 192 tokens opens with the rank of the answer; a small one does not.
#[test]
fn a_large_vocabulary_opens_with_ranks() {
    let mut lab = tiny(&FAMILIES[0]);
    let run = Run::plain(prompt(5));
    let small = lens(&mut lab, &run, &Arguments::default());
    assert_eq!(grid(&small).value, "probability");
    let (vocab, wide) = (8193, lab.model.card.d_model);
    let weight: Vec<f32> = (0..vocab * wide)
        .map(|i| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as f32 / 32768.0 - 1.0)
        .collect();
    let weight = Tensor::from_vec(weight, (vocab, wide), &Device::Cpu).unwrap();
    lab.model.transformer.head =
        lmscope::model::network::linear::Linear::dense(weight, None).unwrap();
    lab.model.transformer.blueprint.vocab = vocab;
    lab.model.card.vocab = vocab;
    ranks_are_those_of_whole_rows(&mut lab, &run);

    let Ok(real) = std::env::var("LMSCOPE_REAL_MODEL") else {
        println!("LMSCOPE_REAL_MODEL is not set: no real model's ranks were looked at");
        return;
    };
    let mut lab = Lab::open(&real, &lmscope::model::load::Options::default()).unwrap();
    let tokens = lab.model.encode("The capital of France is", false).unwrap();
    ranks_are_those_of_whole_rows(&mut lab, &Run::plain(tokens));
}

/// I24: a residual of nothing says nothing, whatever the strip; ties have rank 0 and the order of their ids.
#[test]
fn the_entropy_of_nothing_is_the_logarithm_of_the_vocabulary() {
    for lab in every_family() {
        let transformer = &lab.model.transformer;
        if transformer.head.bias.is_some() {
            continue;
        }
        let wide = transformer.blueprint.d_embed;
        let rows = Tensor::zeros((2, wide), transformer.dtype(), &Device::Cpu).unwrap();
        let tokens = [40u32];
        let ask = RowRequest {
            top: 3,
            tokens: Tokens::Same(&tokens),
            ranks: true,
            entropy: true,
            ..RowRequest::default()
        };
        let said = read(&lab.model, &rows, &ask, &mut |_| Ok(())).unwrap();
        let vocab = lab.model.card.vocab as f32;
        close(said[1].entropy, vocab.ln(), 1e-6, &lab.model.card.name);
        assert_eq!(
            said[1].tokens[0].rank, 0,
            "rank counts what is strictly stronger"
        );
        assert_eq!(
            said[1].top.iter().map(|t| t.0).collect::<Vec<_>>(),
            [0, 1, 2]
        );
    }
}

/// With the kernel of the grid: the last row is the model's own distribution, and the figure checks itself.
#[test]
fn the_last_row_is_the_model() {
    for mut lab in every_family() {
        let run = Run::plain(prompt(9));
        let own = lab.last_logits(&run).unwrap();
        let figure = lens(&mut lab, &run, &Arguments::default());
        let last = figure.cell((lab.model.card.layers - 1) as u16, 8).unwrap();
        let mut own = own;
        log_softmax(&mut own);
        let best = top(&own, lab.model.known_tokens(), 1)[0];
        assert_eq!(last.label, lab.visible(best.0));
        close(last.value, best.1.exp(), 1e-5, &lab.model.card.name);
        let check = figure.check.unwrap();
        assert!(check.error.to_bits() == 0 && check.passed());
    }
}

/// The cap keeps ranks and changes probabilities.
#[test]
fn a_soft_cap_keeps_ranks_and_changes_probabilities() {
    let capped = FAMILIES
        .iter()
        .map(tiny)
        .filter(|b| b.model.transformer.blueprint.logit_cap.is_some());
    let mut count = 0;
    for mut lab in capped {
        count += 1;
        let run = Run::plain(prompt(7));
        let ask = Readout {
            top: 5,
            tokens: vec![3, 30],
            ranks: true,
            ..Readout::default()
        };
        let view = LensView::plain();
        let with = see(&mut lab, &run, &view, 0..7, &ask);
        // The same states without the cap, which lies after the blocks; narrow enough to bend these logits.
        lab.model.transformer.blueprint.logit_cap = Some(2.0);
        let narrow = see(&mut lab, &run, &view, 0..7, &ask);
        for (a, b) in with
            .layers
            .iter()
            .flatten()
            .zip(narrow.layers.iter().flatten())
        {
            let ranks = |s: &RowStats| s.tokens.iter().map(|t| t.rank).collect::<Vec<_>>();
            assert_eq!(ranks(a), ranks(b));
            assert_eq!(a.first().0, b.first().0);
        }
        let first = |s: &StateStats| s.layers[0][3].first().1;
        assert!(
            first(&with) > 1.05 * first(&narrow),
            "{} {}",
            first(&with),
            first(&narrow)
        );
    }
    assert!(count > 0, "some family caps its logits");
}

/// The multiplier too: a read-out without it is another distribution.
#[test]
fn a_multiplier_is_part_of_the_reading() {
    let mut lab = tiny(&FAMILIES[0]);
    let run = Run::plain(prompt(7));
    let ask = Readout {
        top: 1,
        entropy: true,
        ..Readout::default()
    };
    let one = see(&mut lab, &run, &LensView::plain(), 0..7, &ask);
    lab.model.transformer.blueprint.logit_scale = 4.0;
    let four = see(&mut lab, &run, &LensView::plain(), 0..7, &ask);
    assert!(four.layers[0][3].entropy < one.layers[0][3].entropy - 0.01);
}

/// Every site of the lens is read at that site, on every family, or refused with the reason.
#[test]
fn sublayers_are_read_where_they_are() {
    for mut lab in every_family() {
        let layers = lab.model.card.layers;
        let run = Run::plain(prompt(6));
        for (_, site) in READABLE {
            let name = site.spec().name;
            let arguments = Arguments::default().with("site", name).with("top", 1);
            let given = instrument("lens")
                .unwrap()
                .observe(&run, &arguments, &mut lab);
            if site == Site::ResidMid && lab.model.transformer.blueprint.arrangement.is_parallel() {
                let why = given.unwrap_err().to_string();
                assert!(why.contains("resid_pre"), "{why}");
                continue;
            }
            let figure = given.unwrap();
            let wanted: Vec<_> = (0..layers).map(|l| site.at(l)).collect();
            let recording = lab.record(&run, &wanted).unwrap();
            for l in 0..layers {
                let rows = recording.get(site.at(l)).unwrap();
                let row = rows.narrow(0, 4, 1).unwrap().contiguous().unwrap();
                let own = normalised(&lab.model.transformer.unembed(&row).unwrap());
                let best = top(&own, lab.model.known_tokens(), 1)[0];
                let cell = figure.cell(l as u16, 4).unwrap();
                assert_eq!(
                    cell.label,
                    lab.visible(best.0),
                    "{} {name}.{l}",
                    lab.model.card.name
                );
                close(cell.value, best.1.exp(), 1e-5, name);
            }
        }
    }
}

/// With the last state's norm the logits of the writes add up to those of the state, biases apart: it is the frozen
/// scale of direct attribution. With their own they do not.
#[test]
fn writes_with_the_final_norm_are_parts_of_the_logits() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let layers = lab.model.card.layers;
        let run = Run::plain(prompt(6));
        let wanted: Vec<_> = [Site::AttnAdd, Site::MlpAdd, Site::ResidPost]
            .into_iter()
            .flat_map(|s| (0..layers).map(move |l| s.at(l)))
            .chain([Site::ResidPre.at(0)])
            .collect();
        let recording = lab.record(&run, &wanted).unwrap();
        let transformer = &lab.model.transformer;
        // Where the stream itself is normed in a block, it is no sum of its writes.
        if transformer
            .blocks
            .iter()
            .any(|b| b.norms_mlp.stream.is_some())
        {
            continue;
        }
        let last = recording.get(Site::ResidPost.at(layers - 1)).unwrap();
        let scale = transformer.norm.inverse_scale(last).unwrap();
        let part = |at| {
            let rows = recording.get(at).unwrap();
            let rows = transformer
                .normalize_for_unembed(rows, Some(&scale))
                .unwrap();
            rows.to_dtype(DType::F32).unwrap()
        };
        let whole = part(Site::ResidPost.at(layers - 1));
        let own = transformer.normalize_for_unembed(last, None).unwrap();
        let apart = super::tools::gap(&whole, &own.to_dtype(DType::F32).unwrap());
        assert!(
            apart <= 1e-5 * (1.0 + super::tools::reach(&whole)),
            "{name}: {apart}"
        );
        let nothing = (last * 0.0).unwrap();
        let constant = transformer
            .normalize_for_unembed(&nothing, Some(&scale))
            .unwrap();
        let mut sum = part(Site::ResidPre.at(0));
        for l in 0..layers {
            for site in [Site::AttnAdd, Site::MlpAdd] {
                // The bias of the norm once, not once a part.
                let write = (part(site.at(l)) - &constant).unwrap();
                sum = (sum + write).unwrap();
            }
        }
        let apart = super::tools::gap(&sum, &whole);
        assert!(
            apart <= 1e-4 * (1.0 + super::tools::reach(&whole)),
            "{name}: {apart}"
        );
    }
}

/// The parameter reaches the reading: with the final norm, early rows differ and the last does not.
#[test]
fn the_final_norm_changes_all_rows_but_the_last() {
    let mut lab = tiny(&FAMILIES[0]);
    let layers = lab.model.card.layers;
    let run = Run::plain(prompt(6));
    let ask = Readout {
        top: 1,
        entropy: true,
        ..Readout::default()
    };
    let own = see(&mut lab, &run, &LensView::plain(), 0..6, &ask);
    let view = LensView {
        norm: NormOf::Final,
        ..LensView::plain()
    };
    let frozen = see(&mut lab, &run, &view, 0..6, &ask);
    for p in 0..6 {
        close(
            frozen.layers[layers - 1][p].entropy,
            own.layers[layers - 1][p].entropy,
            1e-5,
            "last",
        );
    }
    let apart = |l: usize| (frozen.layers[l][3].entropy - own.layers[l][3].entropy).abs();
    assert!(apart(0) > 1e-3, "{}", apart(0));
}

/// Looks at every address, so that everything is laid out.
struct Looks;

impl Tap for Looks {
    fn visit(&mut self, _at: Address, x: Tensor) -> lmscope::error::Result<Tensor> {
        Ok(x)
    }
}

/// Rows of the stream say the same, to the bit, alone, beside the model's own rows, and where their logits are laid out, with the
/// bias, multiplier and soft-cap of every family; and what is laid out beside is what the model says alone.
#[test]
fn rows_say_the_same_however_they_are_read() {
    for lab in every_family() {
        let name = &lab.model.card.name;
        let transformer = &lab.model.transformer;
        let wide = lab.model.card.d_model;
        let numbers = (0..9 * wide).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 250.0);
        let numbers = Tensor::from_vec(numbers.collect(), (9, wide), &Device::Cpu).unwrap();
        let question = |row: usize, last: usize| RowQuestion {
            row,
            top: 3,
            tokens: &[5, 17],
            ranks: true,
            entropy: true,
            against: Some(OtherRow::Row(last)),
        };
        let known = lab.model.known_tokens();
        let questions: Vec<RowQuestion> = (0..9).map(|row| question(row, 8)).collect();
        let asked = ReadoutRequest {
            questions: &questions,
            whole: &[3],
            known,
            ..ReadoutRequest::default()
        };
        let x = numbers.reshape((3, 3, wide)).unwrap();
        let strips = transformer
            .read_out_statistics(&x, &asked, &mut NoTap)
            .unwrap();
        let laid = transformer
            .read_out_statistics(&x, &asked, &mut Looks)
            .unwrap();
        let normed = transformer.normalize_for_unembed(&numbers, None).unwrap();
        let alone = transformer
            .row_statistics(&normed, &asked, Vec::new(), &mut |_| Ok(()))
            .unwrap();
        let own = numbers.narrow(0, 4, 2).unwrap().unsqueeze(0).unwrap();
        let beside: Vec<RowQuestion> = (0..9).map(|row| question(row + 2, 10)).collect();
        let asked = ReadoutRequest {
            questions: &beside,
            whole: &[5],
            known,
            ..ReadoutRequest::default()
        };
        let (logits, beside) = transformer
            .read_out_beside(&own, &numbers, &asked, vec![9.0; 3], &mut NoTap)
            .unwrap();
        for other in [&laid, &alone, &beside] {
            assert_eq!(
                format!("{:?}", strips.sums),
                format!("{:?}", other.sums),
                "{name}"
            );
        }
        assert_eq!(strips.whole, beside.whole, "{name}");
        let own = transformer.read_out(&own, &mut NoTap).unwrap();
        assert_eq!(values(&logits), values(&own), "{name}");
        let all = values(&transformer.read_out(&x, &mut NoTap).unwrap());
        let row = &all[3 * lab.model.card.vocab..][..lab.model.card.vocab];
        assert_eq!(strips.whole, row, "{name}");
    }
}

/// A live column of every number equals the whole figure's.
#[test]
fn live_columns_show_what_the_figure_shows() {
    use lmscope::edit::schedule::Schedule;
    use lmscope::lab::sample::Sampling;
    use lmscope::lab::writer::Writer;
    let of = instrument("lens").unwrap();
    let mut lab = tiny(&FAMILIES[1]);
    for (show, what, site) in [
        ("probability", "", "resid_post"),
        ("probability", "answer", "attn_add"),
        ("rank", "", "resid_post"),
        ("reciprocal_rank", "#7", "resid_post"),
        ("entropy", "", "mlp_add"),
        ("kl", "", "resid_pre"),
    ] {
        let arguments = Arguments::default()
            .with("show", show)
            .with("of", what)
            .with("site", site);
        assert!(of.live(&lab.model.card, &arguments));
        let mut writer =
            Writer::begin(&mut lab, prompt(5), Schedule::none(), Sampling::default()).unwrap();
        let live = next(of, &mut writer, &arguments, &mut lab);
        let whole = of.observe(&writer.run, &arguments, &mut lab).unwrap();
        // What is said of the newest position is what the whole figure says of it; the cautions come along.
        let after = |notes: &[String]| -> Vec<String> {
            let notes = notes.iter().filter(|n| n.starts_with("after "));
            notes.cloned().collect()
        };
        let (said, all) = (after(&live.notes), after(&whole.notes));
        assert_eq!(said.len(), 2, "a story, and where the answer settles");
        for (whole, said) in all.iter().zip(&said) {
            assert!(whole.starts_with(said), "{whole} / {said}");
        }
        assert_eq!(live.notes.last() == said.last(), site.starts_with("resid"));
        let (live, whole) = (grid(&live), grid(&whole));
        assert_eq!(live.value, whole.value);
        let last = whole.cells.last().unwrap();
        assert_eq!(live.cells[0].len(), last.len(), "{show} {site}");
        for (a, b) in live.cells[0].iter().zip(last) {
            assert_eq!((&a.label, a.anchor), (&b.label, b.anchor));
            close(a.value, b.value, 2e-5, &format!("{show} {what} {site}"));
            assert!(a.value.is_finite());
        }
        // So does every other number, and the story.
        assert_eq!(live.also.numbers.len(), whole.also.numbers.len());
        for (a, b) in live.also.numbers.iter().zip(&whole.also.numbers) {
            assert_eq!(a.value, b.value);
            let b = b.values.last().unwrap();
            for (a, b) in a.values[0].iter().zip(b) {
                close(*a, *b, 2e-5, &format!("{show} {what} {site}"));
            }
        }
        let (a, b) = (&live.also.stories[0], whole.also.stories.last().unwrap());
        assert_eq!((a.to_string(), &a.ranks), (b.to_string(), &b.ranks));
    }
    for (name, value) in [("norm", "final"), ("site", "resid_mid"), ("maps", "x")] {
        let arguments = Arguments::default().with(name, value);
        assert!(!of.live(&lab.model.card, &arguments), "{name} {value}");
    }
}

/// A difference of entropies is that of the cells, whichever token is the strongest.
#[test]
fn a_difference_of_entropies_needs_no_common_token() {
    let mut lab = tiny(&FAMILIES[0]);
    let run = Run::plain(prompt(6));
    let edited = super::tools::edited(prompt(6), &["scale@mlp_add.0*3"]);
    let arguments = Arguments::default().with("show", "entropy");
    let (a, b) = (
        lens(&mut lab, &edited, &arguments),
        lens(&mut lab, &run, &arguments),
    );
    let difference = a.minus(&b).unwrap();
    let value = |f: &Figure, p: usize, l: usize| grid(f).cells[p][l].value;
    for p in 0..6 {
        for l in 0..lab.model.card.layers {
            let expected = value(&a, p, l) - value(&b, p, l);
            assert!((value(&difference, p, l) - expected).abs() < 1e-6);
        }
    }
}

/// Where the answer is the strongest at no last layer, the figure says so, and of how many positions.
#[test]
fn what_settles_nowhere_is_said() {
    let mut nowhere = 0;
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let run = Run::plain(prompt(6));
        let arguments = Arguments::default().with("window", 1);
        let output = lens(&mut lab, &run, &arguments);
        let writes = lens(&mut lab, &run, &arguments.with("site", "mlp_add"));
        let last = |figure: &Figure| grid(figure).cells[0].last().unwrap().label.clone();
        let settles = last(&output) == last(&writes);
        let note = &writes.notes[2];
        assert!(note.starts_with("after "), "{name}: {:?}", writes.notes);
        let said = note.contains("converges at layer");
        assert_eq!(said, settles, "{name}: {note}");
        let nothing =
            "not the top prediction of this lens at the last layer; 0 of 1 positions converge";
        assert_eq!(note.contains(nothing), !settles, "{name}: {note}");
        nowhere += usize::from(!settles);
    }
    assert!(nowhere > 3);
}
