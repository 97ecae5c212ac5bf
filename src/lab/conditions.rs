//! Watches: they measure the conditions of edits while the text is read.
//!
//! Invariant: whether a condition holds at a position is known before any edit acts there, and does not depend on whether the
//! text was read in one pass or token by token. To add a probe, add a variant of [`Watched`].

use std::sync::Arc;

use candle_core::{D, DType, Tensor};

use super::features::FeatureReader;
use super::formulas::has_length;
use crate::edit::condition::Condition;
use crate::error::Result;
use crate::model::host::ToHost;
use crate::model::network::site::Address;
use crate::model::network::tap::PassSpan;

/// The quantity that a watch measures.
#[derive(Clone, Debug)]
pub(crate) enum Watched {
    /// The component of an address's value along a unit vector, `[width]`, f32.
    Along(Address, Tensor),
    /// The activation of a feature.
    Feature(FeatureWatch),
    /// The probability of a token in the unedited model.
    Probability(u32),
}

/// A feature and the values of this pass that it is read from.
#[derive(Clone, Debug)]
pub(crate) struct FeatureWatch {
    reads: Vec<Address>,
    reader: Arc<dyn FeatureReader>,
    /// By address: `[rows, tokens, width]`, flat; empty until the pass has reached it.
    values: Vec<Vec<f32>>,
}

impl FeatureWatch {
    pub(crate) fn new(reads: Vec<Address>, reader: Arc<dyn FeatureReader>) -> Self {
        Self {
            values: vec![Vec::new(); reads.len()],
            reads,
            reader,
        }
    }

    /// Takes a value; the activations by row and token once all are there, NaN where an input is not finite.
    fn take(&mut self, at: Address, x: &Tensor, rows: usize) -> Result<Option<Vec<Vec<f32>>>> {
        let wide = x.narrow(0, 0, rows)?.to_dtype(DType::F32)?;
        let tokens = x.dim(1)?;
        for (read, held) in self.reads.iter().zip(&mut self.values) {
            if *read == at {
                *held = wide.flatten_all()?.host_vec1()?;
            }
        }
        if self.values.iter().any(Vec::is_empty) {
            return Ok(None);
        }
        let values: Vec<Vec<f32>> = self.values.iter_mut().map(std::mem::take).collect();
        if !values.iter().all(|v| has_length(v)) {
            return Ok(Some(vec![vec![f32::NAN; tokens]; rows]));
        }
        let inputs: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
        let read = self.reader.read(0, &inputs)?.activations;
        Ok(Some(
            read.chunks(tokens.max(1)).map(<[f32]>::to_vec).collect(),
        ))
    }
}

/// A condition and what was measured of it so far.
#[derive(Clone, Debug)]
pub(crate) struct ConditionWatch {
    condition: Condition,
    watched: Watched,
    /// Whether the condition holds, by row of the batch and by position; none where it was not measured.
    truths: Vec<Vec<Option<bool>>>,
    /// The first position at which the condition held under the edits before the latest change, in a text that goes on.
    carried: Option<usize>,
    /// The measured value that came nearest to fulfilling the condition.
    nearest: Option<f32>,
}

impl ConditionWatch {
    pub(crate) fn new(condition: Condition, watched: Watched) -> Self {
        Self {
            condition,
            watched,
            truths: Vec::new(),
            carried: None,
            nearest: None,
        }
    }

    /// Whether the watch measures the value at an address.
    pub(crate) fn looks_at(&self, at: Address) -> bool {
        match &self.watched {
            Watched::Along(own, _) => *own == at,
            Watched::Feature(feature) => feature.reads.contains(&at),
            Watched::Probability(_) => false,
        }
    }

    /// The token whose probability in the unedited model the watch needs; none if it measures a direction.
    pub(crate) fn token(&self) -> Option<u32> {
        match self.watched {
            Watched::Along(..) | Watched::Feature(_) => None,
            Watched::Probability(token) => Some(token),
        }
    }

    /// Measures the value `[batch, tokens, ..width]` if `at` is the address of the watch; costs one read-back from the device.
    pub(crate) fn look(
        &mut self,
        at: Address,
        x: &Tensor,
        span: PassSpan,
        rows: usize,
    ) -> Result<()> {
        if !self.looks_at(at) {
            return Ok(());
        }
        let found = match &mut self.watched {
            Watched::Along(_, vector) => {
                let wide = x
                    .narrow(0, 0, rows)?
                    .flatten_from(2)?
                    .to_dtype(DType::F32)?;
                let along = wide.broadcast_mul(vector)?.sum(D::Minus1)?;
                Some(along.host_vec2::<f32>()?)
            }
            Watched::Feature(feature) => feature.take(at, &x.detach(), rows)?,
            Watched::Probability(_) => None,
        };
        for (row, values) in found.into_iter().flatten().enumerate() {
            for (i, value) in values.into_iter().enumerate() {
                self.set(row, span.start + i, value);
            }
        }
        Ok(())
    }

    /// Prepares for a pass.
    pub(crate) fn begin(&mut self) {
        if let Watched::Feature(feature) = &mut self.watched {
            feature.values.iter_mut().for_each(Vec::clear);
        }
    }

    /// Takes a value that was measured elsewhere, the same for every row.
    pub(crate) fn note(&mut self, position: usize, value: f32) {
        self.set(0, position, value);
    }

    fn set(&mut self, row: usize, position: usize, value: f32) {
        // The positions before a pass of several rows were read in one row, so all rows begin with a copy of its truths.
        while self.truths.len() <= row {
            let shared = self.truths.first().cloned();
            self.truths.push(shared.unwrap_or_default());
        }
        let truths = &mut self.truths[row];
        if truths.len() <= position {
            truths.resize(position + 1, None);
        }
        truths[position] = Some(self.condition.holds(value));
        let nearer = |old: f32| {
            if self.condition.above {
                old.max(value)
            } else {
                old.min(value)
            }
        };
        self.nearest = Some(self.nearest.map_or(value, nearer));
    }

    /// Whether the condition holds at a position of a row of the batch.
    pub(crate) fn holds(&self, row: usize, position: usize) -> bool {
        // Probabilities are measured in one text, which stands for every row of the batch.
        let row = row.min(self.truths.len().saturating_sub(1));
        if self.condition.latches {
            return self.began(row).is_some_and(|s| position >= s);
        }
        let truth = self.truths.get(row).and_then(|t| t.get(position));
        truth.copied().flatten().unwrap_or(false)
    }

    /// The first position at which the condition held in row 0.
    pub(crate) fn since(&self) -> Option<usize> {
        self.began(0)
    }

    /// The first position at which the condition held in a row, from that row's own measurements: a patched row may differ from
    /// its run.
    fn began(&self, row: usize) -> Option<usize> {
        let truths = self.truths.get(row);
        let own = truths.and_then(|t| t.iter().position(|held| *held == Some(true)));
        own.into_iter().chain(self.carried).min()
    }

    /// Continues a condition that has held since a position of the same text.
    pub(crate) fn carry(&mut self, since: Option<usize>) {
        self.carried = self.carried.into_iter().chain(since).min();
    }

    /// The reason, for a receipt, why the condition never held.
    pub(crate) fn explain_inactive(&self) -> String {
        match self.nearest {
            Some(nearest) => {
                format!(
                    "its condition never held: `{}` came as near as {nearest:.4}",
                    self.condition
                )
            }
            None => format!("its condition was never measured: `{}`", self.condition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::condition::ConditionProbe;

    fn watch(above: bool, latches: bool) -> ConditionWatch {
        let condition = Condition {
            probe: ConditionProbe::Probability("x".into()),
            above,
            threshold: 0.5,
            latches,
        };
        ConditionWatch::new(condition, Watched::Probability(7))
    }

    #[test]
    fn when_holds_where_it_crosses_and_once_goes_on() {
        let values = [0.1, 0.9, 0.2, 0.5];
        let held = |above, latches| {
            let mut watch = watch(above, latches);
            let each = |(p, v): (usize, &f32)| {
                watch.note(p, *v);
                watch.holds(0, p)
            };
            values.iter().enumerate().map(each).collect::<Vec<_>>()
        };
        assert_eq!(held(true, false), [false, true, false, false]);
        assert_eq!(held(true, true), [false, true, true, true]);
        assert_eq!(held(false, false), [true, false, true, false]);
    }

    #[test]
    fn what_never_held_says_how_near_it_came() {
        let mut watch = watch(true, false);
        assert!(watch.explain_inactive().contains("never measured"));
        for (p, v) in [0.1, 0.31, 0.2].into_iter().enumerate() {
            watch.note(p, v);
        }
        assert!(
            watch.explain_inactive().contains("0.3100"),
            "{}",
            watch.explain_inactive()
        );
        assert!(!watch.holds(0, 1));
    }

    #[test]
    fn a_condition_that_holds_goes_on_after_a_change_of_edits() {
        let mut later = watch(true, true);
        later.carry(Some(3));
        assert!(later.holds(0, 4) && !later.holds(0, 2));
    }
}
