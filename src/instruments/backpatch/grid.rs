//! The grid of source and target layers for one question.
//!
//! Invariant: a cell holds the same measure for the run's own state and for every control, the matched one first; a parameter decides
//! which of them is drawn. A pair that sets a wrong answer right and one that keeps a right one are never counted together.

use std::fmt::Write;

use super::{Backpatch, BackpatchGrid, BackpatchParams, quoted, spelled};
use crate::edit::receipt::{NO_MORE, marked, range};
use crate::error::Result;
use crate::figure::{Anchor, AxisLabel, Cell, Grid};
use crate::instruments::backpatch::layer_pairs::{
    AnswerForms, PairScore, SourceAndTarget, Vector, WantedAnswer, block_outputs,
    block_outputs_from, draw_of, is_backward, length, pairs as all_pairs, trials, written_text,
};
use crate::instruments::{Draft, lines};
use crate::lab::Lab;
use crate::lab::pass::PassRow;
use crate::lab::run::Run;
use crate::vectors::proportion::Proportion;

/// The most pairs of layers in one slice of work.
const SLICE: usize = 256;

/// The results of a pair with the run's own state, one of the matched prompt, an unrelated and a random one.
type PairResult = [AnswerForms; 4];

/// The names of these four.
const NAMES: [&str; 4] = ["own", "matched", "unrelated", "random"];

/// The place of the matched control among them.
const MATCHED: usize = 1;

/// What a figure needs in addition to the results.
struct GridContext {
    wanted: WantedAnswer,
    unpatched: AnswerForms,
    position: usize,
    /// Norms of the run's own states, by layer.
    lengths: Vec<f32>,
    other: Run,
    /// What the matched control is, and of how many draws; empty where there is none.
    matched: String,
    draws: usize,
    stopped: Option<String>,
}

pub fn pairs(params: &BackpatchParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
    lab.model.check_prompt(&run.tokens)?;
    let position = params.position(run, lab)?;
    let own = block_outputs_from(lab, run, position, position)?;
    let wanted = params.wanted_answer(run, lab)?;
    let unpatched = wanted
        .of(lab, run, position, vec![PassRow::default()])?
        .swap_remove(0);
    let other = params.unrelated_run(run, lab)?;
    let last = other.tokens.len() - 1;
    // The corresponding position in the other text: the last for the last, else the same index if the text is long enough. A
    // token that begins both texts has the same state in both, which would be no control, so the last position is used for it.
    let begins = position == 0 && run.tokens.first() == other.tokens.first();
    let there = if position + 1 == run.tokens.len() || begins {
        last
    } else {
        position.min(last)
    };
    let elsewhere = block_outputs(lab, &other, there)?;
    let (draws, matched) = params.matched_states(run, position, &wanted, lab)?;
    let layers = lab.model.card.layers;
    let all = all_pairs(layers);
    let renormed = params.scales_norm();
    let found = lab.trials(
        run,
        lines::<Backpatch>(params),
        all.len(),
        SLICE,
        |lab, range| {
            let some = &all[range];
            let vectors = [
                Some(Vector::Own),
                (!draws.is_empty()).then_some(Vector::Draws(&draws)),
                Some(Vector::Other(&elsewhere)),
                Some(Vector::Random(run.seed)),
            ];
            let mut kinds = Vec::new();
            for vector in vectors {
                let found = match vector {
                    Some(vector) => {
                        let rows = trials(&own, position, some, vector, renormed)?;
                        wanted.of(lab, run, position, rows)?
                    }
                    None => Vec::new(),
                };
                kinds.push(found.into_iter());
            }
            let mut out: Vec<PairResult> = Vec::with_capacity(some.len());
            for _ in some {
                out.push(std::array::from_fn(|i| {
                    kinds[i].next().unwrap_or_else(|| AnswerForms {
                        probability: f32::NAN,
                        ..AnswerForms::default()
                    })
                }));
            }
            Ok(out)
        },
    )?;
    let lengths = own.iter().map(length);
    let context = GridContext {
        wanted,
        unpatched,
        position,
        lengths: lengths.collect::<Result<_>>()?,
        other,
        matched,
        draws: draws.len(),
        stopped: found.note(),
    };
    Ok(draft(params, run, lab, &all, &found.results, &context))
}

fn draft(
    params: &BackpatchParams,
    run: &Run,
    lab: &Lab,
    all: &[SourceAndTarget],
    found: &[Option<PairResult>],
    context: &GridContext,
) -> Draft {
    let layers = lab.model.card.layers;
    let drawn = match params.control {
        BackpatchGrid::Own => 0,
        BackpatchGrid::Matched => MATCHED,
        BackpatchGrid::Unrelated => 2,
        BackpatchGrid::Random => 3,
    };
    let writes = context.wanted.tokens.is_some();
    let value = |became: &AnswerForms| {
        if writes {
            f32::from(u8::from(became.hit))
        } else {
            became.probability
        }
    };
    // A pair that gives the answer, as the matched prompt's state does too, is marked; on the diagonal nothing is patched.
    let less_at = |at: Option<usize>| {
        let own = at.filter(|i| drawn == 0 && all[*i].0 != all[*i].1);
        let measured = own.and_then(|i| found[i].as_ref());
        let both = measured.filter(|m| m[0].hit && m[MATCHED].hit);
        both.map_or("", |_| NO_MORE)
    };
    let cell = |target: usize, source: usize| {
        let anchor = Anchor::cell(source, context.position);
        let at = all.iter().position(|p| *p == (source, target));
        let Some(measured) = at.and_then(|i| found[i].as_ref()) else {
            return Cell::of("", f32::NAN, anchor);
        };
        let own = &measured[drawn];
        let less = less_at(at);
        let label = if writes {
            written_text(lab, &own.written)
        } else {
            lab.visible(own.top)
        };
        let mut more = vec![(label.clone(), value(own))];
        let shown = NAMES.iter().zip(measured);
        for (name, became) in shown.filter(|(_, m)| !m.probability.is_nan() || m.hit) {
            more.push(((*name).to_string(), value(became)));
        }
        more.push(("rank".into(), own.rank as f32));
        let ratio = context.lengths[source] / context.lengths[target].max(f32::MIN_POSITIVE);
        more.push(("‖h‖ ratio".into(), ratio));
        Cell::of(format!("{less}{label}"), value(own), anchor).more(more)
    };
    let headers: Vec<AxisLabel> = (0..layers)
        .map(|layer| AxisLabel::of(layer.to_string(), Anchor::cell(layer, context.position)))
        .collect();
    let answer = spelled(lab, &context.wanted.firsts);
    let token = lab.visible(run.tokens[context.position]);
    let mut title = format!("{answer} · at {token} ({})", context.position);
    if drawn > 0 {
        let _ = write!(title, " · control: {}", NAMES[drawn]);
    }
    // The claim stands beside its matched control in the title, which every format and screen has.
    let back = |kind: usize| score(all, found, kind, is_backward);
    let word = if context.unpatched.hit {
        "kept right"
    } else {
        "set right"
    };
    let share = |score: PairScore| 100.0 * score.share();
    let _ = write!(title, " · {word} by {:.0} % of pairs", share(back(0)));
    if !context.matched.is_empty() {
        let none = back(0).hits <= back(MATCHED).hits;
        let less = if none {
            ", no more than its control"
        } else {
            ""
        };
        let _ = write!(
            title,
            ", matched control {:.0} %{less}",
            share(back(MATCHED))
        );
    }
    let grid = Grid::of(
        ("target layer", headers.clone()),
        ("source layer", headers),
        marked(
            if writes {
                format!("{answer} is generated")
            } else {
                format!("probability of {answer}")
            },
            (0..all.len()).map(|i| less_at(Some(i))),
        ),
        cell,
    );
    Draft::of(grid)
        .titled(title)
        .notes(notes(params, run, lab, all, found, context))
}

/// How many of the measured pairs give the answer with one kind of vector.
fn score(
    all: &[SourceAndTarget],
    found: &[Option<PairResult>],
    kind: usize,
    keep: impl Fn(SourceAndTarget) -> bool,
) -> PairScore {
    let done = all
        .iter()
        .zip(found)
        .filter_map(|(p, m)| Some((*p, m.as_ref()?)));
    let (pairs, hits): (Vec<SourceAndTarget>, Vec<bool>) =
        done.map(|(pair, m)| (pair, m[kind].hit)).unzip();
    PairScore::of(&pairs, &hits, keep)
}

fn notes(
    params: &BackpatchParams,
    run: &Run,
    lab: &Lab,
    all: &[SourceAndTarget],
    found: &[Option<PairResult>],
    context: &GridContext,
) -> Vec<String> {
    let score = |kind: usize, keep: &dyn Fn(SourceAndTarget) -> bool| score(all, found, kind, keep);
    let told_of = |score: PairScore| {
        let (low, high) = Proportion {
            hits: score.hits,
            of: score.pairs,
        }
        .interval();
        let share = 100.0 * score.share();
        let oracle = if score.any_success() { "yes" } else { "no" };
        format!(
            "{} of {} pairs ({share:.0} %, {:.0} to {:.0} %; at least one pair: {oracle})",
            score.hits,
            score.pairs,
            100.0 * low,
            100.0 * high
        )
    };
    let answer = spelled(lab, &context.wanted.firsts);
    let unpatched = &context.unpatched;
    let word = if unpatched.hit {
        "the unpatched answer is right, so that a pair can only keep it right; kept"
    } else {
        "the unpatched answer is wrong; set right"
    };
    // Between the draws of the matched control.
    let draws = |draw: usize| {
        let own = move |pair| is_backward(pair) && draw_of(pair, context.draws) == draw;
        100.0 * score(MATCHED, &own).share()
    };
    let each: Vec<f32> = (0..context.draws).map(draws).collect();
    let spread = match range(&each) {
        Some((low, high)) if each.len() > 1 => format!(", {low:.0} to {high:.0} % between draws"),
        _ => String::new(),
    };
    let matched = if context.matched.is_empty() {
        "there is no matched control, because no word of the prompt could be another one: give matched=PROMPT".to_string()
    } else {
        format!(
            "matched control {}{spread}",
            told_of(score(MATCHED, &is_backward))
        )
    };
    let mut notes = vec![
        format!(
            "unpatched: {}; probability of {answer} {:.4}, rank {}{}",
            lab.visible(unpatched.top),
            unpatched.probability,
            unpatched.rank,
            match context.wanted.tokens {
                Some(_) => format!("; generated {:?}", written_text(lab, &unpatched.written)),
                None => String::new(),
            }
        ),
        format!(
            "{word}, that is {}, after patching a later state into an earlier layer (source above target): {}; {matched}; with the state of an unrelated text {}; with random numbers of the same norm {}",
            if context.wanted.tokens.is_some() {
                "the answer is generated"
            } else {
                "the answer is the top prediction"
            },
            told_of(score(0, &is_backward)),
            told_of(score(2, &is_backward)),
            told_of(score(3, &is_backward)),
        ),
        format!(
            "after patching an earlier state into a later layer (source below target): {}",
            told_of(score(0, &|(s, t)| s < t))
        ),
        "`at least one pair` is an oracle: it takes the best of all pairs, with knowledge of the answer; the more pairs, the more often chance alone succeeds, so compare it with the controls".into(),
        format!(
            "each cell: resid_post of the source layer overwrote resid_post of the target layer at position {}, once, while the prompt was read; on the diagonal nothing changes{}",
            context.position,
            if params.scales_norm() {
                "; every state was scaled to the norm of what it replaced, unlike in the paper"
            } else {
                "; ‖h‖ ratio: norm of the state over the norm of what it replaced"
            }
        ),
        format!(
            "matched: {}; unrelated text: {}; seed {}",
            if context.matched.is_empty() {
                "none"
            } else {
                context.matched.as_str()
            },
            quoted(lab, &context.other.tokens),
            run.seed
        ),
    ];
    let off = all
        .iter()
        .zip(found)
        .filter(|((s, t), _)| s == t)
        .filter_map(|(_, m)| Some((m.as_ref()?[0].probability - unpatched.probability).abs()));
    let off = off.fold(0f32, f32::max);
    notes.push(format!(
        "check: patching a state into its own place changes the probability by at most {off:.0e}"
    ));
    notes.extend(context.stopped.clone());
    notes
}
