//! Gates: which features of a row are active, and how strongly, given its products with the encoder.
//!
//! Invariant: a gate reads one row and nothing else, so that a token's features do not depend on the other tokens; what was
//! trained with a choice over a batch is read with its saved threshold. To add an architecture, add a variant and its arm in
//! [`FeatureGate::active`].
//!
//! Sources: gated 2404.16014; TopK 2406.04093; JumpReLU 2407.14435; BatchTopK 2412.06410; Matryoshka 2503.17547; AbsTopK
//! 2510.00404.

use crate::lab::features::ActiveRow;
use crate::model::network::finite;

/// Which features are active. `h` are the products with the encoder and its scale, plus the bias, `[features]`.
#[derive(Clone, Debug, PartialEq)]
pub enum FeatureGate {
    /// `max(h, 0)`.
    Relu,
    /// `h` where it is larger than the threshold of the feature, `[features]`, and than 0.
    JumpRelu(Vec<f32>),
    /// As [`FeatureGate::JumpRelu`], with one threshold for all.
    Threshold(f32),
    /// `max(h, 0)` of the `k` largest `h`.
    TopK(usize),
    /// `h` of the `k` largest `|h|`, with its sign.
    AbsTopK(usize),
    /// The largest `max(h, 0)` of each of `k` groups of equal size.
    GroupMax(usize),
    /// `max(p·scale + magnitude, 0)` where `p + gate > 0`, for products `p` without bias.
    Gated {
        gate: Vec<f32>,
        /// `exp(r_mag)`.
        scale: Vec<f32>,
        magnitude: Vec<f32>,
    },
}

impl FeatureGate {
    /// The field's name for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Relu => "ReLU",
            Self::JumpRelu(_) => "JumpReLU",
            Self::Threshold(_) => "one threshold",
            Self::TopK(_) => "TopK",
            Self::AbsTopK(_) => "absolute TopK",
            Self::GroupMax(_) => "GroupMax",
            Self::Gated { .. } => "gated",
        }
    }

    /// The active features of a row, by number.
    pub fn active(&self, h: &[f32]) -> ActiveRow {
        match self {
            Self::Relu => above(h, |_| 0.0),
            Self::JumpRelu(thresholds) => above(h, |f| thresholds[f].max(0.0)),
            Self::Threshold(threshold) => above(h, |_| threshold.max(0.0)),
            Self::TopK(k) => {
                let kept = largest(h, *k, |h| h).into_iter();
                kept.filter(|(_, h)| *h > 0.0).collect()
            }
            Self::AbsTopK(k) => {
                let kept = largest(h, *k, f32::abs).into_iter();
                kept.filter(|(_, h)| *h != 0.0).collect()
            }
            Self::GroupMax(k) => {
                let size = (h.len() / (*k).max(1)).max(1);
                let groups = h.chunks_exact(size).enumerate();
                groups
                    .filter_map(|(i, group)| {
                        let (at, h) = largest(group, 1, |h| h).pop()?;
                        (h > 0.0).then_some(((i * size) as u32 + at, h))
                    })
                    .collect()
            }
            Self::Gated {
                gate,
                scale,
                magnitude,
            } => {
                let active = h.iter().enumerate().filter_map(|(f, p)| {
                    let size = p * scale[f] + magnitude[f];
                    (p + gate[f] > 0.0 && size > 0.0).then_some((f as u32, size))
                });
                active.collect()
            }
        }
    }

    /// The gate of some features alone; none where whether one is active depends on the others.
    pub fn of(&self, features: &[u32]) -> Option<Self> {
        let pick =
            |all: &[f32]| -> Vec<f32> { features.iter().map(|f| all[*f as usize]).collect() };
        Some(match self {
            Self::Relu => Self::Relu,
            Self::JumpRelu(thresholds) => Self::JumpRelu(pick(thresholds)),
            Self::Threshold(threshold) => Self::Threshold(*threshold),
            Self::TopK(_) | Self::AbsTopK(_) | Self::GroupMax(_) => return None,
            Self::Gated {
                gate,
                scale,
                magnitude,
            } => Self::Gated {
                gate: pick(gate),
                scale: pick(scale),
                magnitude: pick(magnitude),
            },
        })
    }

    /// The gate for activations that are `n` times as large: [`super::dictionary::Dictionary::fold_decoder_norms`]. None where
    /// that would change which features are active.
    pub fn folded(&self, n: &[f32]) -> Option<Self> {
        let times = |values: &[f32]| values.iter().zip(n).map(|(v, n)| v * n).collect::<Vec<_>>();
        Some(match self {
            Self::Relu => Self::Relu,
            Self::JumpRelu(thresholds) => Self::JumpRelu(times(thresholds)),
            Self::Threshold(threshold) => Self::JumpRelu(n.iter().map(|n| n * threshold).collect()),
            Self::TopK(_) | Self::AbsTopK(_) | Self::GroupMax(_) => return None,
            Self::Gated {
                gate,
                scale,
                magnitude,
            } => Self::Gated {
                gate: times(gate),
                scale: scale.clone(),
                magnitude: times(magnitude),
            },
        })
    }
}

/// The features that are larger than their threshold.
fn above(h: &[f32], threshold: impl Fn(usize) -> f32) -> ActiveRow {
    let numbered = h.iter().enumerate();
    numbered
        .filter(|(f, h)| **h > threshold(*f))
        .map(|(f, h)| (f as u32, *h))
        .collect()
}

/// The `k` largest by a measure, by number; of equal ones the first.
fn largest(h: &[f32], k: usize, measure: impl Fn(f32) -> f32) -> ActiveRow {
    let mut all: ActiveRow = h.iter().enumerate().map(|(f, h)| (f as u32, *h)).collect();
    let k = k.min(all.len());
    if k < all.len() && k > 0 {
        all.select_nth_unstable_by(k - 1, |a, b| {
            finite::order(measure(b.1), measure(a.1)).then(a.0.cmp(&b.0))
        });
    }
    all.truncate(k);
    all.sort_unstable_by_key(|(f, _)| *f);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: [f32; 6] = [0.5, -2.0, 3.0, 0.1, -0.2, 0.5];

    #[test]
    fn each_gate_keeps_what_its_formula_keeps() {
        let some =
            |list: &[u32]| -> ActiveRow { list.iter().map(|f| (*f, H[*f as usize])).collect() };
        assert_eq!(FeatureGate::Relu.active(&H), some(&[0, 2, 3, 5]));
        assert_eq!(FeatureGate::Threshold(0.3).active(&H), some(&[0, 2, 5]));
        // Not "at least", and never below zero.
        assert_eq!(FeatureGate::Threshold(0.5).active(&H), some(&[2]));
        assert_eq!(
            FeatureGate::Threshold(-1.0).active(&H),
            FeatureGate::Relu.active(&H)
        );
        let thresholds = vec![0.6, -3.0, 0.0, 0.1, 0.0, 0.4];
        assert_eq!(FeatureGate::JumpRelu(thresholds).active(&H), some(&[2, 5]));
        assert_eq!(FeatureGate::TopK(2).active(&H), some(&[0, 2]));
        assert_eq!(
            FeatureGate::TopK(6).active(&H),
            FeatureGate::Relu.active(&H)
        );
        assert_eq!(FeatureGate::AbsTopK(2).active(&H), some(&[1, 2]));
        assert_eq!(FeatureGate::GroupMax(2).active(&H), some(&[2, 5]));
        assert_eq!(FeatureGate::GroupMax(3).active(&H), some(&[0, 2, 5]));
        let gated = FeatureGate::Gated {
            gate: vec![-0.6, 3.0, 0.0, 0.0, 1.0, 0.0],
            scale: vec![1.0, 1.0, 2.0, 1.0, 1.0, 1.0],
            magnitude: vec![0.0, 1.0, -1.0, -1.0, 1.0, 1.0],
        };
        assert_eq!(gated.active(&H), [(2, 5.0), (4, 0.8), (5, 1.5)]);
    }

    /// T20 and T21.
    #[test]
    fn a_threshold_of_zero_and_a_k_of_all_are_the_standard_gate() {
        assert_eq!(
            FeatureGate::JumpRelu(vec![0.0; 6]).active(&H),
            FeatureGate::Relu.active(&H)
        );
        assert_eq!(
            FeatureGate::TopK(6).active(&H),
            FeatureGate::Relu.active(&H)
        );
    }

    #[test]
    fn what_is_not_finite_is_never_among_the_largest() {
        let h = [1.0, f32::NAN, 2.0, f32::INFINITY];
        assert_eq!(FeatureGate::TopK(2).active(&h), [(0, 1.0), (2, 2.0)]);
    }
}
