//! Watches: conditions at work, measured while the text is read.
//!
//! Invariant: what holds at a position is known before any edit of that position asks, and does not depend on whether the
//! text came in one pass or token by token. To add a probe, add a variant of [`Watched`].

use candle_core::{D, DType, Tensor};

use crate::edit::condition::Condition;
use crate::error::Result;
use crate::model::network::site::Address;
use crate::model::network::tap::PassSpan;

/// What a watch measures.
#[derive(Clone, Debug)]
pub(crate) enum Watched {
    /// The component along a unit vector, `[width]`, f32.
    Along(Address, Tensor),
    /// The unedited model's probability of a token.
    Probability(u32),
}

/// A condition with what was measured of it so far.
#[derive(Clone, Debug)]
pub(crate) struct ConditionWatch {
    condition: Condition,
    watched: Watched,
    /// Row of the batch and position, and whether the condition holds there.
    truths: Vec<Vec<Option<bool>>>,
    /// Since when it held in a text that goes on here, under edits before these.
    carried: Option<usize>,
    /// The value nearest to holding.
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

    /// Whether it measures something at an address.
    pub(crate) fn looks_at(&self, at: Address) -> bool {
        matches!(&self.watched, Watched::Along(own, _) if *own == at)
    }

    /// The token whose probability it needs.
    pub(crate) fn token(&self) -> Option<u32> {
        match self.watched {
            Watched::Along(..) => None,
            Watched::Probability(token) => Some(token),
        }
    }

    /// Measures a value `[batch, tokens, ..width]` if this is the address; one read-back.
    pub(crate) fn look(
        &mut self,
        at: Address,
        x: &Tensor,
        span: PassSpan,
        rows: usize,
    ) -> Result<()> {
        let Watched::Along(own, vector) = &self.watched else {
            return Ok(());
        };
        if *own != at {
            return Ok(());
        }
        let wide = x
            .narrow(0, 0, rows)?
            .flatten_from(2)?
            .to_dtype(DType::F32)?;
        let along = wide.broadcast_mul(vector)?.sum(D::Minus1)?;
        for (row, values) in along.to_vec2::<f32>()?.into_iter().enumerate() {
            for (i, value) in values.into_iter().enumerate() {
                self.set(row, span.start + i, value);
            }
        }
        Ok(())
    }

    /// Notes a value that was measured elsewhere, for every row.
    pub(crate) fn note(&mut self, position: usize, value: f32) {
        self.set(0, position, value);
    }

    fn set(&mut self, row: usize, position: usize, value: f32) {
        // What lies before a pass of several rows is the first one's, and theirs.
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

    /// Whether the condition holds in a row of the batch at a position.
    pub(crate) fn holds(&self, row: usize, position: usize) -> bool {
        // Probabilities are those of one text, whatever the batch.
        let row = row.min(self.truths.len().saturating_sub(1));
        if self.condition.latches {
            return self.began(row).is_some_and(|s| position >= s);
        }
        let truth = self.truths.get(row).and_then(|t| t.get(position));
        truth.copied().flatten().unwrap_or(false)
    }

    /// The first position at which it held in the first row.
    pub(crate) fn since(&self) -> Option<usize> {
        self.began(0)
    }

    /// The first position at which it holds in a row, as its values are now: a row of a patched run begins anew.
    fn began(&self, row: usize) -> Option<usize> {
        let truths = self.truths.get(row);
        let own = truths.and_then(|t| t.iter().position(|held| *held == Some(true)));
        own.into_iter().chain(self.carried).min()
    }

    /// Takes over that it has held since a position.
    pub(crate) fn carry(&mut self, since: Option<usize>) {
        self.carried = self.carried.into_iter().chain(since).min();
    }

    /// Why it never held.
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
