//! Whether a feature keeps its promise: is what follows its strongest contexts a token that it promotes?
//!
//! Beside it the control: what follows the strongest contexts of other features that are active about as often. A feature that
//! promotes frequent tokens hits there, too. Invariant: a context counts once, and contexts are of different windows of the text.
//! The idea is that of Geva et al. 2021 (2012.14913, section 4) for neurons.

use crate::dictionaries::index::{FeatureContext, FeatureIndex, LayerIndex};
use crate::lab::logit_effects::TopAndBottom;
use crate::vectors::proportion::Proportion;

/// How many tokens a feature promises.
pub(super) const PROMISED: usize = 10;

/// How many other features the control has.
const OTHERS: usize = 20;

/// How often a promoted token follows.
#[derive(Clone, Debug)]
pub(super) struct PromiseFit {
    pub own: Proportion,
    /// The same at the contexts of each other feature.
    pub control: Vec<Proportion>,
}

impl PromiseFit {
    /// Counts over the contexts of an index.
    pub fn of(
        index: &FeatureIndex,
        layer: &LayerIndex,
        feature: u32,
        sides: &TopAndBottom,
    ) -> Self {
        let act = layer.largest(feature).unwrap_or_default();
        let count = |of: &[FeatureContext]| {
            let next = of.iter().filter_map(|c| index.after(c.at));
            Proportion::count(next.map(|next| is_promised(sides, act, next)))
        };
        let contexts = layer.contexts(feature);
        let others = layer.similar(feature, OTHERS).into_iter().map(|other| {
            let mut other = layer.contexts(other);
            other.truncate(contexts.len());
            count(&other)
        });
        Self {
            control: others.filter(|share| share.of > 0).collect(),
            own: count(&contexts),
        }
    }

    /// The shares of the control: mean, smallest and largest; none without other features.
    pub fn control_shares(&self) -> Option<(f64, f64, f64)> {
        let shares: Vec<f64> = self.control.iter().map(|c| c.share()).collect();
        let count = shares.len();
        let mean = shares.iter().sum::<f64>() / count as f64;
        let low = shares.iter().copied().fold(f64::INFINITY, f64::min);
        let high = shares.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (count > 0).then_some((mean, low, high))
    }

    /// Whether the share lies above all of the control, with its interval.
    pub fn holds(&self) -> bool {
        let above = self
            .control_shares()
            .map(|(_, _, high)| self.own.interval().0 > high);
        above.unwrap_or(false)
    }
}

/// Whether a token is among those that a feature promotes at an activation.
pub(super) fn is_promised(sides: &TopAndBottom, act: f32, token: u32) -> bool {
    let side = if act < 0.0 {
        &sides.suppressed
    } else {
        &sides.promoted
    };
    side.iter().take(PROMISED).any(|(id, _)| *id == token)
}
