//! What a knockout cuts, cell by cell, and its measurement as trials.
//!
//! Invariant: a trial and its null lose as many edges, or the trial has no null. To cut something else, add a variant of
//! [`By`] and its columns in [`Plan::read`].

use serde::{Deserialize, Serialize};

use super::Knock;
use super::asked::{Asked, By};
use crate::error::{Error, Result};
use crate::figure::{Anchor, Check, Unit};
use crate::instruments::knockout::cuts::{Knockout, Knockouts};
use crate::instruments::lines;
use crate::instruments::params::ParameterValue;
use crate::lab::bench::{Bench, reading};
use crate::lab::run::Run;
use crate::lab::sample::{log_softmax, rank};
use crate::lab::target::first_token;
use crate::model::network::finite;

/// Draws of the null for the strongest cell.
const DRAWS: u64 = 8;

/// A column: what is cut in it.
pub(super) struct Column {
    pub(super) label: String,
    pub(super) anchor: Anchor,
    pub(super) sources: Vec<usize>,
    pub(super) heads: Vec<u32>,
}

/// What is to be measured.
pub(super) struct Plan<'a> {
    pub(super) asked: &'a Asked,
    pub(super) answer: u32,
    pub(super) targets: Vec<usize>,
    pub(super) columns: Vec<Column>,
    pub(super) window: usize,
    pub(super) layers: usize,
}

/// The answer under a cut and under its null.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) logprob: f32,
    pub(super) rank: u32,
    /// None where there are not as many other edges.
    pub(super) null: Option<f32>,
    /// What the row without a cut lies from the run itself.
    pub(super) gap: f32,
}

pub(super) struct Found {
    pub(super) base: f32,
    pub(super) base_rank: u32,
    /// The largest of the run's own logits.
    pub(super) reach: f32,
    pub(super) outcomes: Vec<Option<Outcome>>,
    pub(super) stopped: Option<String>,
    pub(super) null: Option<String>,
}

/// A probability with three significant digits.
pub(super) fn short(p: f32) -> String {
    if p >= 0.1 {
        format!("{p:.3}")
    } else if p >= 0.001 {
        let digits = 2 + (-p.log10()).ceil() as usize;
        format!("{p:.digits$}")
    } else {
        format!("{p:.2e}")
    }
}

impl<'a> Plan<'a> {
    pub(super) fn read(asked: &'a Asked, run: &Run, bench: &mut Bench) -> Result<Self> {
        let (layers, heads) = (bench.model.card.layers, bench.model.card.heads);
        let answer = match &asked.token {
            None => {
                let logits = bench.last_logits(run)?;
                reading(&logits, bench.model.known_tokens(), 1).first().0
            }
            Some(text) => first_token("token", text, &bench.model)?,
        };
        let targets = asked.targets.within("targets", run, bench)?;
        let last = targets.iter().copied().max().unwrap_or(0);
        let groups = asked.sources.before(last, run, bench)?;
        if groups.is_empty() {
            let expected = "targets that have something before them to read";
            return Err(Error::argument("targets", asked.targets.print(), expected));
        }
        let only = asked.heads.within(heads)?;
        if asked.by == By::Head && !only.is_empty() {
            let expected = "nothing with by=head, where every head is a column; by=source cuts only these heads";
            return Err(Error::argument("heads", asked.heads.print(), expected));
        }
        let columns = match asked.by {
            By::Head => {
                let mut sources: Vec<usize> = groups.into_iter().flat_map(|g| g.1).collect();
                sources.sort_unstable();
                sources.dedup();
                let column = |head: u32| Column {
                    label: head.to_string(),
                    anchor: Anchor::default().with(Unit::Head(head)),
                    sources: sources.clone(),
                    heads: vec![head],
                };
                (0..heads as u32).map(column).collect()
            }
            By::Source => {
                let column = |(label, sources): (String, Vec<usize>)| Column {
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
            asked,
            answer,
            targets,
            columns,
            window: match asked.window.0 {
                0 => layers.div_ceil(5),
                some => some.min(layers),
            },
            layers,
        })
    }

    /// The layers that are cut around one.
    fn around(&self, layer: usize) -> std::ops::Range<usize> {
        let first = layer.saturating_sub((self.window - 1) / 2);
        first..(layer + self.window / 2 + 1).min(self.layers)
    }

    fn cut(&self, i: usize, null: Option<u64>) -> Knockout {
        let column = &self.columns[i / self.layers];
        Knockout {
            layers: self.around(i % self.layers),
            heads: column.heads.clone(),
            sources: column.sources.clone(),
            targets: self.targets.clone(),
            null,
        }
    }

    pub(super) fn measure(&self, run: &Run, bench: &mut Bench) -> Result<Found> {
        let first = self.targets.iter().copied().min().unwrap_or(0);
        let mut knockouts = bench.knockouts(run, first)?;
        let answer = self.answer as usize;
        let logged = |row: &[f32]| {
            let mut row = row.to_vec();
            log_softmax(&mut row);
            row
        };
        let own = logged(&knockouts.logits);
        let base_logits = knockouts.logits.clone();
        let count = self.columns.len() * self.layers;
        let slice = (knockouts.slice() / 2).max(1);
        let parameters = lines::<Knock>(self.asked);
        let trials = bench.trials(run, parameters, count, slice, |bench, range| {
            let size = range.len();
            let real = range.clone().map(|i| self.cut(i, None));
            let null = range.clone().map(|i| self.cut(i, Some(run.seed)));
            let cuts: Vec<Knockout> = real.chain(null).collect();
            let rows = knockouts.logits(bench, &cuts)?;
            let (plain, rows) = rows
                .split_last()
                .ok_or_else(|| Error::Engine("a pass without rows".into()))?;
            let gap = Check::of(plain, &base_logits, 0.0).error;
            let windows = knockouts.windows();
            let outcome = |(k, i): (usize, usize)| {
                let row = logged(&rows[k]);
                let fair = self.cut(i, None).edges(windows) == cuts[size + k].edges(windows);
                Outcome {
                    logprob: row[answer],
                    rank: rank(&row, self.answer),
                    null: fair.then(|| logged(&rows[size + k])[answer]),
                    gap,
                }
            };
            Ok(range.enumerate().map(outcome).collect())
        })?;
        let size = |logprob: f32| self.asked.value.of(logprob, own[answer]).abs();
        let strongest = trials
            .results
            .iter()
            .enumerate()
            .filter_map(|(i, o)| o.as_ref().map(|o| (i, o.logprob)))
            // A cut whose numbers are not finite is not the strongest.
            .filter(|(_, logprob)| size(*logprob).is_finite())
            .max_by(|a, b| size(a.1).total_cmp(&size(b.1)));
        let null = match strongest {
            Some((i, logprob)) => Some(self.strongest(bench, &mut knockouts, i, logprob, run)?),
            None => None,
        };
        Ok(Found {
            base: own[answer],
            base_rank: rank(&own, self.answer),
            reach: knockouts
                .logits
                .iter()
                .fold(1.0, |most, z| most.max(z.abs())),
            stopped: trials.note(),
            outcomes: trials.results,
            null,
        })
    }

    /// The strongest cut in words, beside several draws of its null.
    fn strongest(
        &self,
        bench: &Bench,
        knockouts: &mut Knockouts,
        i: usize,
        logprob: f32,
        run: &Run,
    ) -> Result<String> {
        let answer = self.answer as usize;
        let probability = |row: &[f32]| {
            let mut row = row.to_vec();
            log_softmax(&mut row);
            row[answer].exp()
        };
        let layers = self.around(i % self.layers);
        let edges = self.cut(i, None).edges(knockouts.windows());
        let column = &self.columns[i / self.layers];
        let name = match column.anchor.unit {
            Some(Unit::Head(head)) => format!("head {head}"),
            _ => column.label.clone(),
        };
        let said = format!(
            "strongest: `{name}` cut in layers {} to {} ({edges} edges a head), p {} to {}",
            layers.start,
            layers.end - 1,
            short(probability(&knockouts.logits)),
            short(logprob.exp())
        );
        let draws: Vec<Knockout> = (0..DRAWS)
            .map(|draw| self.cut(i, Some(run.seed.wrapping_add(1000 * draw))))
            .collect();
        let others = draws[0].edges(knockouts.windows());
        if others < edges {
            return Ok(format!(
                "{said}; it has no fair null: of other edges there are only {others}"
            ));
        }
        let rows = knockouts.logits(bench, &draws)?;
        let found: Vec<f32> = rows[..draws.len()].iter().map(|r| probability(r)).collect();
        if !finite::all(&found) {
            return Ok(format!("{said}; its null is not finite"));
        }
        Ok(format!(
            "{said}; null: as many random other edges there, mean {}, {} to {} in {DRAWS} draws (seed {})",
            short(found.iter().sum::<f32>() / found.len() as f32),
            short(found.iter().copied().fold(1.0, f32::min)),
            short(found.iter().copied().fold(0.0, f32::max)),
            run.seed
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_probabilities_keep_their_digits() {
        let said = [0.5, 0.04321, 0.00123, 0.000_012_3].map(short);
        assert_eq!(said, ["0.500", "0.0432", "0.00123", "1.23e-5"]);
    }
}
