//! O10: self-repair. A head of block 0 writes the answer; one of block 1 writes the same, but only where nobody has.
//!
//! What a head writes towards the answer says nothing about what the answer loses without it.

use lmscope::figure::{Body, Unit};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::network::site::Site;

use super::super::tools::{edited, values};
use super::{FREE, Layout, Organism, Size, best, state, tokens};

/// Whom is asked about, and the answers.
pub const ASKED: [&str; 4] = [" Alma", " Boris", " Clara", " David"];
pub const ANSWERS: [&str; 4] = [" amber", " brass", " coral", " denim"];
/// The head that answers and the one that stands by, layer and head.
pub const FIRST: (usize, usize) = (0, 1);
pub const BACKUP: (usize, usize) = (1, 0);
/// What the answer is worth, in nats.
pub const NATS: f32 = 12.0;
const ENTITY: usize = FREE;
const QUESTION: usize = FREE + 1;
const NAMED: usize = FREE + 2;
const ANSWER: usize = NAMED + 4;

pub fn organism(layout: Layout) -> Organism {
    let size = Size {
        layout,
        layers: 3,
        heads: 2,
        slots: ANSWER + 4,
        terms: 6,
        neurons: 2,
        extra: 2.0,
    };
    let words = [ASKED.as_slice(), &ANSWERS, &[" stone"]].concat();
    let mut o = Organism::new(size, &words);
    let question = o.id(" stone");
    o.embed(question, QUESTION, 1.0);
    for i in 0..4 {
        let id = o.id(ASKED[i]);
        o.embed(id, ENTITY, 1.0);
        o.embed(id, NAMED + i, 1.0);
        let id = o.id(ANSWERS[i]);
        o.unembed(id, ANSWER + i, NATS);
    }
    let answered = (0..4).map(|i| (ANSWER + i, -1.0));
    let unanswered: Vec<(usize, f32)> = answered.chain([(QUESTION, 1.0)]).collect();
    for ((layer, head), query) in [(FIRST, vec![(QUESTION, 1.0)]), (BACKUP, unanswered)] {
        o.look(layer, head, &query, &[(ENTITY, 1.0)], 80.0);
        o.rest(layer, head, 40.0);
        for i in 0..4 {
            o.copy(layer, head, NAMED + i, ANSWER + i);
        }
    }
    o
}

pub fn run_of(lab: &Lab, i: usize) -> Run {
    Run::plain(tokens(lab, &format!("{} stone", ASKED[i].trim())))
}

/// The edit that silences a head.
pub fn silence((layer, head): (usize, usize)) -> String {
    format!("zero:{head}@z.{layer}")
}

/// What a head of a run adds to the logit of its answer, at the last position, over the frozen final norm.
fn direct(lab: &mut Lab, run: &Run, (layer, head): (usize, usize), answer: u32) -> f32 {
    let last = run.tokens.len() - 1;
    let end = lab.model.card.layers - 1;
    let stream = values(&state(lab, run, Site::ResidPost.at(end), last));
    let z = state(lab, run, Site::Z.at(layer), last);
    let z = values(&z.narrow(0, head, 1).unwrap());
    let transformer = &lab.model.transformer;
    let mut write = transformer.head_write(layer, head, &z).unwrap();
    if lab.model.card.family == "gpt2" {
        let mean = write.iter().sum::<f32>() / write.len() as f32;
        write.iter_mut().for_each(|w| *w -= mean);
    }
    let factor = transformer.norm.inverse_scale_of(&stream);
    let toward = transformer.head.weight().unwrap();
    let toward = values(&toward.narrow(0, answer as usize, 1).unwrap());
    write.iter().zip(toward).map(|(w, t)| w * t * factor).sum()
}

#[test]
fn loses_nothing_without_the_head_that_gave_the_answer() {
    for layout in [Layout::Llama, Layout::Gpt2] {
        let mut lab = organism(layout).open();
        for i in 0..4 {
            let run = run_of(&lab, i);
            let answer = lab.model.tokenizer().unwrap().single(ANSWERS[i]).unwrap();
            let plain = lab.last_logits(&run).unwrap();
            assert_eq!(best(&plain), answer);
            let mut moved = |edits: &[(usize, usize)]| {
                let lines: Vec<String> = edits.iter().map(|h| silence(*h)).collect();
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                let run = edited(run.tokens.clone(), &lines);
                let row = lab.last_logits(&run).unwrap();
                plain
                    .iter()
                    .zip(&row)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max)
            };
            assert!(moved(&[FIRST]) < 1e-3, "repaired");
            assert!(moved(&[BACKUP]) < 1e-3, "not needed");
            assert!(moved(&[FIRST, BACKUP]) > 0.9 * NATS, "nobody is left");
        }
    }
}

/// The same by knockout: the head that cannot read the subject any more is stood in for.
#[test]
fn repairs_a_cut_edge() {
    for layout in [Layout::Llama, Layout::Gpt2] {
        let mut lab = organism(layout).open();
        let run = run_of(&lab, 3);
        let answer = lab.model.tokenizer().unwrap().single(ANSWERS[3]).unwrap();
        let mut left = |edits: &[&str]| {
            let cut = edited(run.tokens.clone(), edits);
            lab.last_logits(&cut).unwrap()[answer as usize]
        };
        let (first, backup) = ("cut:1=1@attn_scores.0:last", "cut:0=1@attn_scores.1:last");
        let whole = left(&[]);
        for edits in [vec![first], vec![backup]] {
            assert!((left(&edits) - whole).abs() < 1e-3, "{edits:?}");
        }
        assert!(left(&[first, backup]) < 0.1 * whole);
    }
}

#[test]
fn attributes_the_answer_to_the_head_that_is_not_missed() {
    for layout in [Layout::Llama, Layout::Gpt2] {
        let mut lab = organism(layout).open();
        let run = run_of(&lab, 2);
        let answer = lab.model.tokenizer().unwrap().single(ANSWERS[2]).unwrap();
        let cut = edited(run.tokens.clone(), &[&silence(FIRST)]);
        for (run, heads) in [(&run, [NATS, 0.0]), (&cut, [0.0, NATS])] {
            for (at, expected) in [FIRST, BACKUP].into_iter().zip(heads) {
                let found = direct(&mut lab, run, at, answer);
                assert!((found - expected).abs() < 0.05 * NATS, "{at:?}: {found}");
            }
        }
    }
}

/// What `residual` says that a head adds to an answer's logit less another's; its sum must be exact.
fn attributed(lab: &mut Lab, run: &Run, less: usize, of: usize) -> Vec<((usize, usize), f32)> {
    let token = format!("\"{}\" - \"{}\"", ANSWERS[of], ANSWERS[less]);
    let given = Arguments::default().with("by", "head").with("token", token);
    let residual = instrument("residual").unwrap();
    let figure = residual.observe(run, &given, lab).unwrap();
    assert!(figure.check.unwrap().passed());
    let Body::Grid(grid) = &figure.body else {
        panic!("a grid of heads")
    };
    let head = |unit| match unit {
        Some(Unit::Head(head)) => head as usize,
        other => panic!("no head: {other:?}"),
    };
    grid.cells
        .iter()
        .flatten()
        .map(|cell| {
            let layer = usize::from(cell.anchor.layer.unwrap());
            ((layer, head(cell.anchor.unit)), cell.value)
        })
        .collect()
}

/// Attribution and ablation disagree as planted: the head that is credited with everything is not missed, and the one that is
/// credited with nothing steps in.
#[test]
fn residual_credits_the_head_that_is_not_missed() {
    for layout in [Layout::Llama, Layout::Gpt2] {
        let mut lab = organism(layout).open();
        for i in 0..4 {
            let run = run_of(&lab, i);
            let cut = edited(run.tokens.clone(), &[&silence(FIRST)]);
            for (run, credited) in [(&run, FIRST), (&cut, BACKUP)] {
                let found = attributed(&mut lab, run, (i + 1) % 4, i);
                assert_eq!(found.len(), 6, "two heads in each of three layers");
                for (at, effect) in found {
                    let expected = if at == credited { NATS } else { 0.0 };
                    assert!((effect - expected).abs() < 0.01 * NATS, "{at:?}: {effect}");
                }
            }
        }
    }
}
