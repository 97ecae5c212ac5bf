//! O3: two relations of the same subjects. The kind of a subject is a part of its state, which a head copies to the end of the prompt: a
//! linear map. Its badge is looked up: a head copies who it is, and a neuron of its own says which badge that is. A map that is
//! made from a few subjects says the kind of all others and the badge of none, and the change that it implies gives a subject
//! another kind exactly where its rank reaches it.

use lmscope::edit::relation_map::{RelationInverse, RelationPair, RelationPrompts};
use lmscope::figure::{Body, Entry, Figure};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::vectors::relation::fit::{RelationFit, RelationMethod, read_objects};
use lmscope::vectors::relation::states::SubjectStates;

use super::two_hop::LAYOUTS;
use super::{BALLAST, FREE, Layout, ONE, Organism, Size};

const KINDS: usize = 16;
const SUBJECTS: usize = 48;
const KIND_ASKED: usize = FREE;
const BADGE_ASKED: usize = FREE + 1;
const ENTITY: usize = FREE + 2;
const KIND: usize = FREE + 3;
const NAME: usize = KIND + KINDS;
const SAID_KIND: usize = NAME + SUBJECTS;
const KNOWN: usize = SAID_KIND + KINDS;
const SAID_BADGE: usize = KNOWN + SUBJECTS;

/// How much a kind's copy is: its singular value. The first kind has the largest.
fn gain(kind: usize) -> f32 {
    1.0 + 0.125 * (KINDS - kind) as f32
}

/// Words that no other begins with.
fn word(first: char, i: usize) -> String {
    let letter = |n: usize| char::from(b'a' + n as u8);
    format!(" {first}{}{}x", letter(i / 26), letter(i % 26))
}

fn subject(i: usize) -> String {
    word('S', i)
}

/// The kind of a subject, and its badge.
fn kind(i: usize) -> usize {
    (i * 5 + 3) % KINDS
}

fn badge(i: usize) -> usize {
    (i * 7 + 1) % SUBJECTS
}

fn organism(layout: Layout) -> Organism {
    let words: Vec<String> = (0..SUBJECTS)
        .map(subject)
        .chain((0..KINDS).map(|k| word('K', k)))
        .chain((0..SUBJECTS).map(|b| word('B', b)))
        .chain([" kind".into(), " badge".into()])
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let size = Size {
        layout,
        layers: 3,
        heads: 2,
        slots: SAID_BADGE + SUBJECTS,
        terms: SUBJECTS,
        neurons: SUBJECTS,
        extra: 3.0,
    };
    let mut o = Organism::new(size, &words);
    for i in 0..SUBJECTS {
        let id = o.id(&subject(i));
        o.embed(id, ENTITY, 1.0);
        o.embed(id, KIND + kind(i), 1.0);
        o.embed(id, NAME + i, 1.0);
        o.copy(1, 1, NAME + i, KNOWN + i);
        let half = (ONE, -0.5 / BALLAST);
        let said = SAID_BADGE + badge(i);
        o.neuron(2, &[(KNOWN + i, 1.0), half], &[(said, 2.0)]);
        let named = o.id(&word('B', i));
        o.unembed(named, SAID_BADGE + i, 30.0);
    }
    for k in 0..KINDS {
        o.copy_times(1, 0, (KIND + k, SAID_KIND + k), gain(k));
        let named = o.id(&word('K', k));
        o.unembed(named, SAID_KIND + k, 30.0);
    }
    for (head, asked, word) in [(0, KIND_ASKED, " kind"), (1, BADGE_ASKED, " badge")] {
        let id = o.id(word);
        o.embed(id, asked, 1.0);
        o.look(1, head, &[(asked, 1.0)], &[(ENTITY, 1.0)], 80.0);
        o.rest(1, head, 40.0);
    }
    o
}

fn pairs(of: &str) -> Vec<RelationPair> {
    let object = |i: usize| match of {
        "kind" => word('K', kind(i)),
        _ => word('B', badge(i)),
    };
    (0..SUBJECTS)
        .map(|i| RelationPair {
            subject: subject(i).trim().into(),
            object: object(i).trim().into(),
        })
        .collect()
}

fn prompts(of: &str) -> RelationPrompts {
    RelationPrompts {
        template: format!("{{}} {of}"),
        examples: Vec::new(),
    }
}

/// The map of the first eight subjects, and the others.
fn made(lab: &mut Lab, of: &str) -> (RelationFit, Vec<SubjectStates>) {
    let (pairs, prompts) = (pairs(of), prompts(of));
    let fit = RelationFit::measure(lab, &prompts, &pairs[..8], &[0, 1, 2]).unwrap();
    let held = pairs[8..].iter();
    let held = held.map(|pair| SubjectStates::measure(lab, &prompts, pair, &[0, 1, 2]).unwrap());
    let held: Vec<SubjectStates> = held.collect();
    assert!(
        held.iter().all(|own| own.right),
        "the organism knows every {of}"
    );
    (fit, held)
}

/// The share of held-out subjects of which the map of a layer says what the model says.
fn faithfulness(lab: &mut Lab, fit: &RelationFit, held: &[SubjectStates], layer: usize) -> f32 {
    let states: Vec<&[f32]> = held
        .iter()
        .map(|own| own.states[layer].as_slice())
        .collect();
    let objects = fit
        .objects(lab, RelationMethod::Lre, layer, 1.0, &states)
        .unwrap();
    let expected: Vec<u32> = held.iter().map(|own| own.says.0).collect();
    let read = read_objects(lab, &objects, &expected).unwrap();
    read.iter().filter(|r| r.agrees).count() as f32 / held.len() as f32
}

#[test]
fn a_linear_relation_is_read_of_every_subject_and_a_lookup_of_none() {
    for layout in LAYOUTS {
        let mut lab = organism(layout).open();
        let (fit, held) = made(&mut lab, "kind");
        assert_eq!(faithfulness(&mut lab, &fit, &held, 0), 1.0, "{layout:?}");
        // After block 1 the head has looked: what is done to the subject then says nothing.
        assert!(fit.weights[1].iter().all(|w| w.abs() < 1e-6), "{layout:?}");
        assert!(faithfulness(&mut lab, &fit, &held, 1) < 0.2, "{layout:?}");
        let (fit, held) = made(&mut lab, "badge");
        let found = faithfulness(&mut lab, &fit, &held, 0);
        assert!(found <= 0.1, "{layout:?}: {found}");
    }
}

#[test]
fn an_edit_reaches_the_kinds_that_its_rank_reaches() {
    for layout in LAYOUTS {
        let mut lab = organism(layout).open();
        let (fit, held) = made(&mut lab, "kind");
        let inverse = RelationInverse::new(fit.weights[0].clone(), lab.model.card.d_model).unwrap();
        let values = &inverse.spectrum.values;
        // The kinds, each with its gain, and nothing of that size beside them.
        for (k, value) in values.iter().take(KINDS).enumerate() {
            assert!(
                (value / f64::from(gain(k)) - 1.0).abs() < 0.02 * f64::from(gain(k)),
                "{layout:?} {k}: {value}"
            );
        }
        assert!(
            values.get(KINDS).is_none_or(|v| *v < 0.2),
            "{layout:?}: {values:?}"
        );
        for rank in [1, 4, 8, 12, 16] {
            let mut done = 0;
            for (i, own) in held.iter().enumerate() {
                let j = (i + 1) % held.len();
                let target = &held[j];
                let object: Vec<f32> = target
                    .object
                    .iter()
                    .zip(&own.object)
                    .map(|(a, b)| a - b)
                    .collect();
                let change = inverse.apply(&object, rank);
                let value: Vec<f32> = own.states[0]
                    .iter()
                    .zip(&change)
                    .map(|(s, c)| s + c)
                    .collect();
                let value = candle_core::Tensor::new(value, &candle_core::Device::Cpu).unwrap();
                let at = lmscope::model::network::site::Site::ResidPost.at(0);
                let patch = lmscope::lab::pass::Patch::new(at, own.at, value);
                let row = super::patched(&mut lab, &Run::plain(own.tokens.clone()), patch);
                let says = super::best(&row) == target.says.0;
                // The kinds are in the order of their singular values.
                assert_eq!(
                    says,
                    kind(j + 8) < rank,
                    "{layout:?}: rank {rank}, {i} to {j}"
                );
                done += usize::from(says);
            }
            let share = done as f32 / held.len() as f32;
            assert!(
                (share - rank as f32 / KINDS as f32).abs() < 0.1,
                "{layout:?}: {rank} {share}"
            );
        }
    }
}

fn figure(lab: &mut Lab, of: &str, show: &str) -> Figure {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relation.json");
    let samples: Vec<serde_json::Value> = pairs(of)
        .iter()
        .map(|p| serde_json::json!({"subject": p.subject, "object": p.object}))
        .collect();
    let text = serde_json::json!({"name": of, "prompt_templates": [format!("{{}} {of}")], "samples": samples});
    std::fs::write(&path, text.to_string()).unwrap();
    let given = Arguments::default()
        .with("relation", path.display())
        .with("prompts", "zero-shot")
        .with("show", show);
    let run = Run::default();
    instrument("relation")
        .unwrap()
        .observe(&run, &given, lab)
        .unwrap()
}

fn share(figure: &Figure, row: usize, column: &str) -> f32 {
    let Body::Table(table) = &figure.body else {
        panic!("a table")
    };
    let at = table.columns.iter().position(|c| c == column).unwrap();
    match &table.pages[0].rows[row].entries[at] {
        Entry::Whole(number) => *number as f32,
        Entry::Number(number) => *number,
        Entry::Missing => panic!("no number"),
        Entry::Text(text) => panic!("{text}"),
    }
}

#[test]
fn the_instrument_says_so_beside_its_controls() {
    let mut lab = organism(Layout::Llama).open();
    let found = figure(&mut lab, "kind", "faithfulness");
    assert!(share(&found, 0, "faithful") >= 0.9, "{found:?}");
    assert_eq!(
        share(&found, 1, "faithful"),
        0.0,
        "another subject's state says its own kind"
    );
    let found = figure(&mut lab, "badge", "faithfulness");
    assert!(share(&found, 0, "faithful") <= 0.1, "{found:?}");
    let found = figure(&mut lab, "kind", "causality");
    assert_eq!(
        share(&found, 0, "says o'"),
        1.0,
        "the edit at the chosen rank: {found:?}"
    );
    assert_eq!(share(&found, 3, "says o'"), 0.0, "a random change");
    assert_eq!(share(&found, 4, "says o'"), 0.0, "no change");
}
