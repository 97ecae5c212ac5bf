//! O5: heads that look at one place each: the token before, the token after the last time, the last time itself, the first
//! token. In the `gpt2` layout: positions are learned waves, tokens are random codes.

use lmscope::figure::{Body, Figure, Unit};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::super::tools::edited;
use super::{BOS_ID, FREE, Layout, Organism, Size, attention, best};

/// Tokens beside the first and the last.
pub const WORDS: usize = 60;
/// The planted heads, layer and head.
pub const PREVIOUS: (usize, usize) = (0, 0);
pub const SINK: (usize, usize) = (0, 1);
pub const DUPLICATE: (usize, usize) = (0, 2);
pub const INDUCTION: (usize, usize) = (1, 2);
/// Heads that look everywhere alike.
pub const IDLE: [(usize, usize); 4] = [(0, 3), (1, 0), (1, 1), (1, 3)];
const CODE: usize = 24;
/// Turns a position, in radians.
const WAVES: [f32; 6] = [2.0, 1.1, 0.6, 0.33, 0.18, 0.1];
const TOKEN: usize = FREE;
const BEFORE: usize = TOKEN + CODE;
const COPIED: usize = BEFORE + CODE;
const WAVE: usize = COPIED + CODE;
/// The same waves, which the first position lacks.
const INNER: usize = WAVE + 2 * WAVES.len();

/// Unit codes, no two of which are alike by more than 0.6.
fn codes() -> Vec<Vec<f32>> {
    let mut rng = StdRng::seed_from_u64(5);
    let mut codes: Vec<Vec<f32>> = Vec::new();
    while codes.len() < WORDS {
        let side = (CODE as f32).sqrt().recip();
        let code: Vec<f32> = (0..CODE)
            .map(|_| if rng.random::<bool>() { side } else { -side })
            .collect();
        let alike = |c: &Vec<f32>| c.iter().zip(&code).map(|(a, b)| a * b).sum::<f32>().abs();
        if codes.iter().all(|c| alike(c) < 0.6) {
            codes.push(code);
        }
    }
    codes
}

/// ` ba`, ` be`, ...
pub fn words() -> impl Iterator<Item = String> {
    let letters = "bdfgklmnprst".chars();
    letters.flat_map(|c| "aeiou".chars().map(move |v| format!(" {c}{v}")))
}

pub fn organism() -> Organism {
    let size = Size {
        layout: Layout::Gpt2,
        layers: 2,
        heads: 4,
        slots: INNER + 2 * WAVES.len(),
        terms: CODE + 2 * WAVES.len() + 1,
        neurons: 2,
        extra: 1.0 + 2.0 * WAVES.len() as f32,
    };
    let words: Vec<String> = words().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut o = Organism::new(size, &words);
    for (word, code) in words.iter().zip(codes()) {
        let id = o.id(word);
        for (i, value) in code.iter().enumerate() {
            o.embed(id, TOKEN + i, *value);
            o.unembed(id, COPIED + i, 30.0 * value);
        }
    }
    for position in 0..o.context() {
        for (i, turn) in WAVES.iter().enumerate() {
            let (sin, cos) = (turn * position as f32).sin_cos();
            let all = if position == 0 {
                [WAVE].as_slice()
            } else {
                &[WAVE, INNER]
            };
            for wave in all {
                o.position(position, wave + 2 * i, cos);
                o.position(position, wave + 2 * i + 1, sin);
            }
        }
    }
    // cos(turn (q - back - k)), summed over the waves, is largest where k lies `back` before q.
    let waves =
        |o: &mut Organism, (layer, head): (usize, usize), wave: usize, back: f32, gain: f32| {
            for (i, turn) in WAVES.iter().enumerate() {
                let (sin, cos) = (turn * back).sin_cos();
                let (c, s) = (wave + 2 * i, wave + 2 * i + 1);
                o.look(layer, head, &[(c, cos), (s, sin)], &[(c, 1.0)], gain);
                o.look(layer, head, &[(s, cos), (c, -sin)], &[(s, 1.0)], gain);
            }
        };
    let same = |o: &mut Organism, (layer, head): (usize, usize), key: usize, gain: f32| {
        for i in 0..CODE {
            o.look(layer, head, &[(TOKEN + i, 1.0)], &[(key + i, 1.0)], gain);
        }
    };
    waves(&mut o, PREVIOUS, WAVE, 1.0, 30.0);
    for i in 0..CODE {
        o.copy(PREVIOUS.0, PREVIOUS.1, TOKEN + i, BEFORE + i);
    }
    o.rest(SINK.0, SINK.1, 50.0);
    // The same token elsewhere: its own position is pushed away by 6 waves of 40 nats and others by 3.8 at most, and the
    // first token, which has no wave there, lies between the two.
    same(&mut o, DUPLICATE, TOKEN, 1200.0);
    waves(&mut o, DUPLICATE, INNER, 0.0, -40.0);
    o.rest(DUPLICATE.0, DUPLICATE.1, 1200.0 - 4.9 * 40.0);
    same(&mut o, INDUCTION, BEFORE, 100.0);
    o.rest(INDUCTION.0, INDUCTION.1, 80.0);
    for i in 0..CODE {
        o.copy(INDUCTION.0, INDUCTION.1, TOKEN + i, COPIED + i);
    }
    o
}

/// The first token, then different words, then the same again.
pub fn repeated(lab: &Lab, length: usize, seed: u64) -> Run {
    let mut words: Vec<u32> = (2..lab.model.card.vocab as u32).collect();
    words.shuffle(&mut StdRng::seed_from_u64(seed));
    words.truncate(length);
    Run::plain([vec![BOS_ID], words.clone(), words].concat())
}

/// The mean weight that a head gives to the place `of(query)` over queries from `first` on.
fn score(rows: &[Vec<f32>], first: usize, of: impl Fn(usize) -> usize) -> f32 {
    let seen: Vec<f32> = (first..rows.len()).map(|q| rows[q][of(q)]).collect();
    seen.iter().sum::<f32>() / seen.len() as f32
}

#[test]
fn planted_heads_score_one_and_idle_ones_what_looking_everywhere_gives() {
    let mut lab = organism().open();
    let length = 40;
    let run = repeated(&lab, length, 1);
    for layer in 0..2 {
        for (head, rows) in attention(&mut lab, &run, layer).iter().enumerate() {
            let at = (layer, head);
            let again = length + 1;
            let found = [
                (PREVIOUS, score(rows, 1, |q| q - 1)),
                (SINK, score(rows, 1, |_| 0)),
                (DUPLICATE, score(rows, again, |q| q - length)),
                (INDUCTION, score(rows, again, |q| q + 1 - length)),
            ];
            for (planted, score) in found {
                if planted == at {
                    assert!((score - 1.0).abs() < 0.005, "{at:?}: {score}");
                } else if IDLE.contains(&at) {
                    let low = 1.0 / again as f32;
                    assert!(
                        score < if planted == SINK { 0.2 } else { 0.1 },
                        "{at:?}: {score}, {low}"
                    );
                } else if planted != SINK {
                    assert!(score < 0.02, "{at:?}: {score}");
                }
            }
            if IDLE.contains(&at) {
                for (q, row) in rows.iter().enumerate() {
                    let even = 1.0 / (q + 1) as f32;
                    assert!(
                        row[..=q].iter().all(|p| (p - even).abs() < 1e-6),
                        "{at:?} {q}"
                    );
                }
            }
        }
    }
}

#[test]
fn repeats_a_text_and_stops_when_either_head_is_silenced() {
    let mut lab = organism().open();
    let run = repeated(&lab, 20, 2);
    let copied = |lab: &mut Lab, edits: &[&str]| {
        (25..40)
            .filter(|end| {
                let cut = edited(run.tokens[..*end].to_vec(), edits);
                let mut row = lab.last_logits(&cut).unwrap();
                let (found, token) = (best(&row), run.tokens[*end]);
                let logit = std::mem::replace(&mut row[token as usize], f32::NEG_INFINITY);
                // Where nothing is copied all tokens are about even, and rounding chooses.
                found == token && logit - row[best(&row) as usize] > 1e-2
            })
            .count()
    };
    assert_eq!(copied(&mut lab, &[]), 15);
    assert_eq!(copied(&mut lab, &["zero:2@z.1"]), 0, "the induction head");
    assert_eq!(
        copied(&mut lab, &["zero:0@z.0"]),
        0,
        "the head that it builds on"
    );
    assert_eq!(
        copied(&mut lab, &["zero:1,2,3@z.0", "zero:0,1,3@z.1"]),
        15,
        "the others"
    );
}

/// What `attention` says of scores.
fn scores(lab: &mut Lab, run: &Run, given: Arguments) -> Figure {
    let given = given.with("show", "scores");
    let attention = instrument("attention").unwrap();
    attention.observe(run, &given, lab).unwrap()
}

/// Every head of a figure of scores, by its anchor.
fn heads(figure: &Figure) -> Vec<((usize, usize), f32)> {
    let Body::Grid(grid) = &figure.body else {
        panic!("a grid of heads")
    };
    let cells = grid.cells.iter().flatten();
    cells
        .map(|cell| match (cell.anchor.layer, cell.anchor.unit) {
            (Some(layer), Some(Unit::Head(head))) => {
                ((usize::from(layer), head as usize), cell.value)
            }
            other => panic!("no head: {other:?}"),
        })
        .collect()
}

const KINDS: [(&str, (usize, usize)); 4] = [
    ("previous", PREVIOUS),
    ("sink", SINK),
    ("duplicate", DUPLICATE),
    ("induction", INDUCTION),
];

#[test]
fn attention_scores_planted_heads_one_and_idle_ones_as_an_even_head() {
    let mut lab = organism().open();
    let period = 25;
    let text = repeated(&lab, period, 4);
    for (kind, planted) in KINDS {
        for on in ["random", "prompt"] {
            let given = Arguments::default()
                .with("score", kind)
                .with("on", on)
                .with("period", period);
            let found = heads(&scores(&mut lab, &text, given));
            assert_eq!(found.len(), 8);
            let again = period + 1..2 * period + 1;
            let even = |queries: std::ops::Range<usize>| {
                let count = queries.len() as f32;
                queries.map(|q| 1.0 / (q + 1) as f32).sum::<f32>() / count
            };
            let even = match kind {
                "previous" => even(2..2 * period + 1),
                "sink" => even(1..2 * period + 1),
                _ => even(again),
            };
            for (at, score) in found {
                let what = format!("{kind} on {on}: {at:?} {score}");
                if at == planted {
                    assert!((score - 1.0).abs() < 0.005, "{what}");
                } else if IDLE.contains(&at) {
                    assert!((score - even).abs() < 1e-5, "{what}, not {even}");
                } else if kind != "sink" {
                    assert!(score < 0.005, "{what}");
                }
            }
        }
    }
}

/// Without the head of the highest score nothing is copied; without others everything is.
#[test]
fn attention_tells_what_copying_loses() {
    let mut lab = organism().open();
    let run = repeated(&lab, 4, 1);
    let given = Arguments::default().with("ablate", 1);
    let notes = scores(&mut lab, &run, given).notes;
    let copying = notes.iter().find(|n| n.starts_with("copying")).unwrap();
    assert!(
        copying.contains("(top prediction in 100 %); with 1.2 ablated"),
        "{copying}"
    );
    let (_, after) = copying.split_once("ablated").unwrap();
    let left: f32 = after.split_whitespace().next().unwrap().parse().unwrap();
    assert!(left < 0.05, "{copying}");
}
