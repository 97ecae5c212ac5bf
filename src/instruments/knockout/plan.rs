//! The knockouts of all cells, and their measurement as trials.
//!
//! Invariant: a trial and its control remove the same number of edges, or the trial has no control. To cut something else, add
//! a variant of [`KnockoutColumns`] and its columns in [`KnockoutPlan::read`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::AttentionKnockout;
use super::parameters::{KnockoutColumns, KnockoutParams};
use crate::edit::receipt::exceeds;
use crate::error::{Error, Result};
use crate::figure::{Anchor, Unit};
use crate::instruments::lines;
use crate::instruments::params::ParameterValue;
use crate::lab::Lab;
use crate::lab::capture::{Capture, Output};
use crate::lab::draws::{DRAWS, draw_seed};
use crate::lab::pass::{Knockout, Pass, PassRow};
use crate::lab::run::Run;
use crate::lab::target::first_token;
use crate::model::network::finite;

/// The number of cells in a slice.
const SLICE: usize = 16;

/// A column of the figure: the sources and heads that its cells knock out.
pub(super) struct KnockoutColumn {
    pub(super) label: String,
    pub(super) anchor: Anchor,
    pub(super) sources: Vec<usize>,
    pub(super) heads: Vec<u32>,
}

/// What is to be measured: the answer, the targets, and the columns by layers.
pub(super) struct KnockoutPlan<'a> {
    pub(super) params: &'a KnockoutParams,
    pub(super) answer: u32,
    pub(super) targets: Vec<usize>,
    pub(super) columns: Vec<KnockoutColumn>,
    /// Whether the first position is left out.
    pub(super) sink_left_out: bool,
    pub(super) window: usize,
    pub(super) layers: usize,
}

/// The answer's statistics in one cell and in its control.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct KnockoutOutcome {
    pub(super) logprob: f32,
    pub(super) rank: u32,
    /// The log-probability with as many random other edges knocked out; none where there are too few.
    pub(super) control: Option<f32>,
    /// The largest difference of logits between a row without a knockout and the run itself: the rounding of a wider batch.
    pub(super) gap: f32,
}

pub(super) struct KnockoutResult {
    pub(super) base: f32,
    pub(super) base_rank: u32,
    /// The largest absolute value of the run's own logits.
    pub(super) largest_logit: f32,
    pub(super) outcomes: Vec<Option<KnockoutOutcome>>,
    pub(super) stopped: Option<String>,
    pub(super) strongest: Option<StrongestCell>,
}

/// The cell with the largest change, and several draws of its control.
pub(super) struct StrongestCell {
    /// Its number among the cells.
    pub(super) cell: usize,
    /// The log-probabilities with as many random other edges knocked out; none where there are too few others.
    pub(super) draws: Vec<f32>,
    /// What it is, in a sentence.
    pub(super) sentence: String,
}

/// A probability with three significant digits.
pub(super) fn three_digits(p: f32) -> String {
    if p >= 0.1 {
        format!("{p:.3}")
    } else if p >= 0.001 {
        let digits = 2 + (-p.log10()).ceil() as usize;
        format!("{p:.digits$}")
    } else {
        format!("{p:.2e}")
    }
}

impl<'a> KnockoutPlan<'a> {
    pub(super) fn read(params: &'a KnockoutParams, run: &Run, lab: &mut Lab) -> Result<Self> {
        let (layers, heads) = (lab.model.card.layers, lab.model.card.heads);
        let answer = match &params.token {
            None => lab.top_prediction(run)?,
            Some(text) => first_token("token", text, &lab.model)?,
        };
        let targets = params.targets.within("targets", run, lab)?;
        let last = targets.iter().copied().max().unwrap_or(0);
        let groups = params.sources.before(last, run, lab)?;
        if groups.is_empty() {
            let expected = "targets that have at least one position before them";
            return Err(Error::argument("targets", params.targets.print(), expected));
        }
        let only = params.heads.within(heads)?;
        if params.by == KnockoutColumns::Head && !only.is_empty() {
            let expected = "nothing with by=head, where every head is a column; by=source knocks out only these heads";
            return Err(Error::argument("heads", params.heads.print(), expected));
        }
        let columns = match params.by {
            KnockoutColumns::Head => {
                let mut sources: Vec<usize> = groups.into_iter().flat_map(|g| g.1).collect();
                sources.sort_unstable();
                sources.dedup();
                let column = |head: u32| KnockoutColumn {
                    label: head.to_string(),
                    anchor: Anchor::default().with(Unit::Head(head)),
                    sources: sources.clone(),
                    heads: vec![head],
                };
                (0..heads as u32).map(column).collect()
            }
            KnockoutColumns::Source => {
                let column = |(label, sources): (String, Vec<usize>)| KnockoutColumn {
                    label,
                    anchor: sources
                        .last()
                        .map_or_else(Anchor::default, |p| Anchor::position(*p)),
                    sources,
                    heads: only.clone(),
                };
                groups.into_iter().map(column).collect()
            }
        };
        Ok(Self {
            params,
            answer,
            targets,
            columns,
            sink_left_out: params.sources.leaves_sink_out(last),
            window: match params.window.0 {
                0 => layers.div_ceil(5),
                some => some.min(layers),
            },
            layers,
        })
    }

    /// The layers in which a cell of this layer knocks out edges.
    fn layer_window(&self, layer: usize) -> std::ops::Range<usize> {
        let first = layer.saturating_sub((self.window - 1) / 2);
        first..(layer + self.window / 2 + 1).min(self.layers)
    }

    fn cut(&self, i: usize, control: Option<u64>) -> Knockout {
        let column = &self.columns[i / self.layers];
        Knockout {
            layers: self.layer_window(i % self.layers),
            heads: column.heads.clone(),
            sources: column.sources.clone(),
            targets: self.targets.clone(),
            control,
        }
    }

    pub(super) fn measure(&self, run: &Run, lab: &mut Lab) -> Result<KnockoutResult> {
        let first = self.targets.iter().copied().min().unwrap_or(0);
        let output = Output {
            ranks: true,
            whole: true,
            ..Output::tokens(&[self.answer])
        };
        let mut plain = Pass {
            from: Some(first),
            ..Pass::after(run.clone(), output.clone())
        };
        let base = lab.run_one(&plain)?;
        plain.output = Output {
            whole: false,
            kl: Some(Arc::new(vec![base.output.clone()])),
            ..output
        };
        let own = base.last().token(self.answer);
        let count = self.columns.len() * self.layers;
        let parameters = lines::<AttentionKnockout>(self.params);
        let trials = lab.trials(run, parameters, count, SLICE, |lab, range| {
            let size = range.len();
            let real = range.clone().map(|i| self.cut(i, None));
            let control = range.clone().map(|i| self.cut(i, Some(run.seed)));
            let all: Vec<Knockout> = real.chain(control).collect();
            // A row without knockout, computed in the same batch as the others.
            let uncut = Knockout {
                sources: Vec::new(),
                ..self.cut(range.start, None)
            };
            let rows = lab.run(&pass_with_knockouts(&plain, all.iter().chain([&uncut])))?;
            let model = &lab.model;
            let outcome = |(k, i): (usize, usize)| {
                let token = rows[k].last().token(self.answer);
                let fair = self.cut(i, None).edges(model) == all[size + k].edges(model);
                KnockoutOutcome {
                    logprob: token.logprob,
                    rank: token.rank,
                    control: fair.then(|| rows[size + k].last().token(self.answer).logprob),
                    gap: rows[2 * size].last().gap,
                }
            };
            Ok(range.enumerate().map(outcome).collect())
        })?;
        let size = |logprob: f32| self.params.value.of(logprob, own.logprob).abs();
        let strongest = trials
            .results
            .iter()
            .enumerate()
            .filter_map(|(i, o)| o.as_ref().map(|o| (i, o.logprob)))
            // Excludes cells whose numbers are not finite.
            .filter(|(_, logprob)| size(*logprob).is_finite())
            .max_by(|a, b| size(a.1).total_cmp(&size(b.1)));
        let strongest = match strongest {
            Some((i, logprob)) => Some(self.strongest(lab, &plain, &base, i, logprob)?),
            None => None,
        };
        Ok(KnockoutResult {
            base: own.logprob,
            base_rank: own.rank,
            largest_logit: base.logits().iter().fold(1.0, |most, z| most.max(z.abs())),
            stopped: trials.note(),
            outcomes: trials.results,
            strongest,
        })
    }

    /// A sentence on the strongest cell, with several draws of its control.
    fn strongest(
        &self,
        lab: &mut Lab,
        plain: &Pass,
        base: &Capture,
        i: usize,
        logprob: f32,
    ) -> Result<StrongestCell> {
        let run = &plain.run;
        let log = |of: &Capture| of.last().token(self.answer).logprob;
        let probability = |of: &Capture| log(of).exp();
        let cell = |draws: Vec<f32>, sentence: String| StrongestCell {
            cell: i,
            draws,
            sentence,
        };
        let layers = self.layer_window(i % self.layers);
        let edges = self.cut(i, None).edges(&lab.model);
        let column = &self.columns[i / self.layers];
        let name = match column.anchor.unit {
            Some(Unit::Head(head)) => format!("head {head}"),
            _ => column.label.clone(),
        };
        let sentence = format!(
            "strongest: `{name}` knocked out in layers {} to {} ({edges} edges a head), p {} to {}",
            layers.start,
            layers.end - 1,
            three_digits(probability(base)),
            three_digits(logprob.exp())
        );
        let draws: Vec<Knockout> = (0..DRAWS)
            .map(|draw| self.cut(i, Some(draw_seed(run.seed, draw))))
            .collect();
        let others = draws[0].edges(&lab.model);
        if others < edges {
            let sentence = format!("{sentence}; no control: there are only {others} other edges");
            return Ok(cell(Vec::new(), sentence));
        }
        let rows = lab.run(&pass_with_knockouts(plain, &draws))?;
        let found: Vec<f32> = rows.iter().map(probability).collect();
        if !finite::all(&found) {
            let sentence = format!("{sentence}; its control is not finite (NaN or infinity)");
            return Ok(cell(Vec::new(), sentence));
        }
        let draws: Vec<f32> = rows.iter().map(log).collect();
        let change = |logprob: f32| self.params.value.of(logprob, log(base));
        let changes: Vec<f32> = draws.iter().map(|draw| change(*draw)).collect();
        let within = if exceeds(change(logprob), &changes) {
            ""
        } else {
            ", NO LESS THAN THAT"
        };
        let sentence = format!(
            "{sentence}; control: as many random other edges there, mean {}, {} to {} in {DRAWS} draws (seed {}){within}",
            three_digits(found.iter().sum::<f32>() / found.len() as f32),
            three_digits(found.iter().copied().fold(1.0, f32::min)),
            three_digits(found.iter().copied().fold(0.0, f32::max)),
            run.seed
        );
        Ok(cell(draws, sentence))
    }
}

/// A pass over the run with one row for each knockout.
fn pass_with_knockouts<'a>(plain: &Pass, cuts: impl IntoIterator<Item = &'a Knockout>) -> Pass {
    let row = |cut: &Knockout| PassRow {
        knockout: Some(cut.clone()),
        ..PassRow::default()
    };
    Pass {
        rows: cuts.into_iter().map(row).collect(),
        ..plain.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_probabilities_keep_their_digits() {
        let sentence = [0.5, 0.04321, 0.00123, 0.000_012_3].map(three_digits);
        assert_eq!(sentence, ["0.500", "0.0432", "0.00123", "1.23e-5"]);
    }
}
