//! The scores of all heads as a grid of layers and heads, and how copying changes when the highest-scoring heads are ablated.
//!
//! Invariant: scores are shown with the score of uniform attention, and ablated heads with as many random other heads. To add a
//! control, add a line to [`copying`].

use super::{AttentionParams, ScoredText};
use crate::error::Result;
use crate::figure::{Anchor, AxisLabel, Cell, Grid};
use crate::instruments::Draft;
use crate::instruments::attention::head_scores::{
    CopyScores, HeadScore, HeadScores, Repeated, ablation_of, beginning, other_heads,
};
use crate::lab::Lab;
use crate::lab::draws::draw_seed;
use crate::lab::run::Run;
use crate::vectors::function_vector::Head;

/// How many random draws of other heads are ablated as a control.
const DRAWS: usize = 8;

/// How often copying is measured: with all heads, without the highest-scoring ones, and once for each draw of other heads.
pub(super) const RUNS: usize = 2 + DRAWS;

impl AttentionParams {
    /// The grid of scores, layers by heads.
    pub(super) fn scores(&self, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let score = self.score;
        let on_prompt = self.on == ScoredText::Prompt;
        let mut texts = Vec::new();
        let runs: Vec<(Run, usize)> = if on_prompt {
            let first = beginning(&lab.model, &run.tokens);
            vec![(run.clone(), first)]
        } else {
            let period = self.period.0;
            for trial in 0..self.trials.0 {
                let seed = draw_seed(run.seed, trial);
                texts.push(Repeated::random(&lab.model, period, seed)?);
            }
            let schedule = &run.schedule;
            let own = texts.iter().map(|text| {
                let own = Run::plain(text.tokens.clone()).under(schedule);
                (own, text.first)
            });
            own.collect()
        };
        let silence = if on_prompt { 0 } else { self.ablate.0 };
        // Weights of the progress bar: scoring takes one pass over every text, and so does each of the [`RUNS`] measurements of
        // copying.
        let share = if silence > 0 {
            1.0 / (1 + RUNS) as f32
        } else {
            1.0
        };
        let found = lab.part(0.0..share, |b| HeadScores::measure(b, score, &runs))?;
        let mut notes = vec![match score {
            HeadScore::Induction => "induction score: mean attention to the token after an earlier occurrence of the current token".to_string(),
            HeadScore::Previous => "previous-token score: mean attention to the token before".into(),
            HeadScore::Duplicate => "duplicate-token score: mean attention to earlier occurrences of the current token".into(),
            HeadScore::Sink => "sink score: mean attention to position 0".into(),
        }];
        notes.push(if on_prompt {
            format!("on this prompt: {} positions have such a token before them", found.queries)
        } else {
            format!(
                "on {} sequences of {} random tokens, each repeated once, after the BOS token where the model has one; seed {}",
                texts.len(),
                texts.first().map_or(0, |t| t.period),
                run.seed
            )
        });
        if found.queries == 0 {
            notes.push("no position of this text has such a token before it, so every score is 0; try a text that repeats itself".into());
        }
        let uniform: Vec<String> = lowest_and_highest(&found.uniform);
        notes.push(format!(
            "control: a head with uniform attention would score {}",
            uniform.join(" to ")
        ));
        let highest = found.top(5);
        let named = highest
            .iter()
            .map(|((l, h), s)| match found.errors[*l][*h] {
                error if error.is_nan() => format!("{l}.{h} {s:.3}"),
                error => format!("{l}.{h} {s:.3} ± {error:.3}"),
            });
        let over = if texts.len() > 1 {
            " (± standard error over the sequences)"
        } else {
            ""
        };
        notes.push(format!(
            "highest: {}{over}",
            named.collect::<Vec<_>>().join(", ")
        ));
        if silence > 0 {
            let heads: Vec<Head> = found.top(silence).into_iter().map(|h| h.0).collect();
            notes.extend(lab.part(share..1.0, |b| copying(b, &texts, &heads, run))?);
        }
        Ok(score_grid(lab, score, &found).notes(notes))
    }
}

fn score_grid(lab: &Lab, score: HeadScore, found: &HeadScores) -> Draft {
    let (layers, heads) = (lab.model.card.layers, lab.model.card.heads);
    let word = score.word();
    let cell = |layer: usize, head: usize| {
        let value = found.values[layer][head] as f32;
        let evenly = found.uniform[layer] as f32;
        let error = found.errors[layer][head] as f32;
        let error = (!error.is_nan()).then_some(("standard error", error));
        Cell::of("", value, Anchor::head(layer, head))
            .more([(word, value), ("evenly", evenly)].into_iter().chain(error))
    };
    let (rows, columns) = (AxisLabel::layers(layers), AxisLabel::heads(heads));
    let value = format!("{word} score");
    let grid = Grid::of(("layer", rows), ("head", columns), value, cell);
    Draft::of(grid).titled(format!("{word} score of every head"))
}

/// The smallest and the largest of some numbers, as text; a single entry if they are equal.
fn lowest_and_highest(values: &[f64]) -> Vec<String> {
    let lo = values.iter().copied().fold(f64::INFINITY, f64::min);
    let hi = values.iter().copied().fold(0.0, f64::max);
    let mut out = vec![format!("{lo:.3}"), format!("{hi:.3}")];
    out.dedup();
    out
}

/// How well the model copies with some heads ablated, compared with as many random other heads ablated.
fn copying(lab: &mut Lab, texts: &[Repeated], heads: &[Head], run: &Run) -> Result<Vec<String>> {
    let seed = run.seed;
    // The run's own edits stay in force during ablation, because the heads were found under them.
    let silent = |heads: &[Head]| {
        let edits = ablation_of(heads);
        edits.iter().fold(run.schedule.clone(), |s, e| s.and(e))
    };
    let all = CopyScores::measure(lab, texts, &run.schedule)?;
    lab.report(1.0 / RUNS as f32)?;
    let without = CopyScores::measure(lab, texts, &silent(heads))?;
    let mut others = Vec::with_capacity(DRAWS);
    for draw in 0..DRAWS {
        lab.report((draw + 2) as f32 / RUNS as f32)?;
        let heads = other_heads(lab, heads, draw_seed(seed, draw));
        others.push(CopyScores::measure(lab, texts, &silent(&heads))?);
    }
    let mean = |of: fn(&CopyScores) -> f64| others.iter().map(of).sum::<f64>() / DRAWS as f64;
    let worst = others.iter().map(|c| c.probability).fold(1.0, f64::min);
    let names: Vec<String> = heads.iter().map(|(l, h)| format!("{l}.{h}")).collect();
    Ok(vec![
        format!(
            "copying: the next token of the second copy has probability {:.3} (top prediction in {:.0} %); with {} ablated {:.3} ({:.0} %)",
            all.probability,
            100.0 * all.right,
            names.join(", "),
            without.probability,
            100.0 * without.right
        ),
        format!(
            "control: with {} random other heads ablated {:.3} ({:.0} %), mean of {DRAWS} draws, lowest {worst:.3}; seed {seed}",
            heads.len(),
            mean(|c| c.probability),
            100.0 * mean(|c| c.right)
        ),
    ])
}
