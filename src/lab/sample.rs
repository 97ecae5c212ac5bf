//! Choosing the next token: candle's sampler, and what we report of the choice.
//!
//! Invariant: the choice at a position depends on logits, settings, seed and position alone, so a rewound or a
//! baseline run of the same seed draws the same numbers.

use std::cmp::Ordering;

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as Kind};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::kernels::vocabulary::{RowQuestion, read_rows};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 takes the most probable token.
    pub temperature: f64,
    /// Keep the smallest set of tokens with this much probability; 1 keeps all.
    pub top_p: f64,
    /// Keep so many tokens; 0 keeps all.
    pub top_k: usize,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            seed: 1,
        }
    }
}

/// The lowest temperature that divides logits; below it the quotient would leave the range of f32, so the top prediction is
/// chosen, which is the limit.
const COLDEST: f64 = 1e-20;

impl Sampling {
    /// Whether it takes the most probable token.
    pub fn is_greedy(&self) -> bool {
        // Of a temperature that is not a number as well.
        !matches!(
            self.temperature.partial_cmp(&COLDEST),
            Some(Ordering::Greater)
        )
    }

    /// Draws a token for `position` from logits `[vocab]`.
    #[allow(clippy::disallowed_methods)] // candle's sampler reads a row that is on the host already
    pub fn choose(&self, logits: &[f32], position: usize) -> Result<u32> {
        let temperature = self.temperature;
        let kind = match (!self.is_greedy(), self.top_k, self.top_p < 1.0) {
            (false, _, _) => Kind::ArgMax,
            (true, 0, false) => Kind::All { temperature },
            (true, 0, true) => Kind::TopP {
                p: self.top_p,
                temperature,
            },
            (true, k, false) => Kind::TopK { k, temperature },
            (true, k, true) => Kind::TopKThenTopP {
                k,
                p: self.top_p,
                temperature,
            },
        };
        let seed = self
            .seed
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(position as u64);
        let logits = Tensor::new(logits, &Device::Cpu)?;
        Ok(LogitsProcessor::from_sampling(seed, kind).sample(&logits)?)
    }
}

/// `ln Σ exp(z)` of a row of logits, natural logarithm. NaN if a logit is NaN or +inf, or if every token is banned.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let total = read_rows(&[logits], 0, &[RowQuestion::default()]);
    total.first().map_or(f32::NAN, |sums| sums.total as f32)
}

/// Natural log-probabilities of logits, in place.
pub fn log_softmax(logits: &mut [f32]) {
    let shift = log_sum_exp(logits);
    logits.iter_mut().for_each(|z| *z -= shift);
}

/// Natural log-probabilities of logits.
pub fn log_probs(logits: &[f32]) -> Vec<f32> {
    let shift = log_sum_exp(logits);
    logits.iter().map(|z| z - shift).collect()
}

/// The token id that stands for the top prediction in a row of logits that are not finite; it is shown as "not finite".
pub const NO_TOKEN: u32 = u32::MAX;

/// The rank that stands for a token's rank in a row of logits that are not finite.
pub const NO_RANK: u32 = u32::MAX;

/// How many values are strictly greater than that of `token`; [`NO_RANK`] if the row contains NaN.
pub fn rank(values: &[f32], token: u32) -> u32 {
    if values.iter().any(|v| v.is_nan()) {
        return NO_RANK;
    }
    let own = values
        .get(token as usize)
        .copied()
        .unwrap_or(f32::NEG_INFINITY);
    values.iter().filter(|v| **v > own).count() as u32
}

/// The `k` largest of the first `known` values: token and value, largest first, ties by token id. Empty if a value is NaN or
/// +inf.
pub fn top(values: &[f32], known: usize, k: usize) -> Vec<(u32, f32)> {
    let known = known.min(values.len());
    if !values.iter().all(|v| *v < f32::INFINITY) {
        return Vec::new();
    }
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    for (id, value) in values[..known].iter().enumerate() {
        if best.len() == k && best.last().is_some_and(|last| *value <= last.1) {
            continue;
        }
        let entry = (id as u32, *value);
        let at = best.partition_point(|held| order(held, &entry).is_lt());
        best.insert(at, entry);
        best.truncate(k);
    }
    best
}

/// KL(p ‖ q) in nats of two rows of log-probabilities, summed in f64; NaN if either contains NaN.
pub fn kl(p: &[f32], q: &[f32]) -> f32 {
    let sum: f64 = p
        .iter()
        .zip(q)
        .map(|(p, q)| (f64::from(*p), f64::from(*q)))
        // Terms with p = 0 count as 0; a NaN in `q` is kept.
        .filter(|(p, q)| p.exp() != 0.0 || q.is_nan())
        .map(|(p, q)| p.exp() * (p - q))
        .sum();
    (if sum < 0.0 { 0.0 } else { sum }) as f32
}

/// Entropy in nats of a row of log-probabilities; NaN if the row contains NaN.
pub fn entropy(p: &[f32]) -> f32 {
    p.iter()
        .map(|l| f64::from(*l))
        .filter(|l| *l != f64::NEG_INFINITY)
        .map(|l| -l.exp() * l)
        .sum::<f64>() as f32
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_zero_logits_is_log_v_and_kl_of_itself_is_zero() {
        let mut row = vec![0.0f32; 50];
        log_softmax(&mut row);
        assert!((entropy(&row) - 50f32.ln()).abs() < 1e-6, "I24");
        assert_eq!(kl(&row, &row), 0.0, "I24");
        let mut other = row.clone();
        other[0] += 3.0;
        log_softmax(&mut other);
        assert!(kl(&row, &other) > 0.1);
    }

    #[test]
    fn the_sum_of_a_long_row_is_exact() {
        let row: Vec<f32> = (0..5000).map(|i| ((i * 37) % 101) as f32 / 7.0).collect();
        let exact = row.iter().map(|z| f64::from(*z).exp()).sum::<f64>().ln();
        assert!((f64::from(log_sum_exp(&row)) - exact).abs() < 1e-6);
    }

    #[test]
    fn ties_are_broken_by_id_and_padding_is_left_out() {
        assert_eq!(top(&[1.0, 3.0, 3.0, 9.0], 3, 2), [(1, 3.0), (2, 3.0)]);
        assert_eq!(rank(&[1.0, 3.0, 3.0, 9.0], 2), 1);
    }

    #[test]
    fn what_is_not_finite_is_kept_by_every_statistic() {
        for bad in [f32::NAN, f32::INFINITY] {
            // Alone in a long row: inside a lane and in the remainder after the last full lane.
            for at in [0, 517, 1029, 2050] {
                let mut row: Vec<f32> = (0..2051).map(|i| (i % 7) as f32).collect();
                row[at] = bad;
                assert!(log_sum_exp(&row).is_nan(), "{bad} at {at}");
                assert!(top(&row, 100, 3).is_empty());
                let mut other = vec![0.0; row.len()];
                log_softmax(&mut other);
                log_softmax(&mut row);
                assert!(kl(&other, &row).is_nan() && kl(&row, &other).is_nan());
                assert!(entropy(&row).is_nan());
                assert_eq!(rank(&row, 3), NO_RANK);
            }
        }
    }

    #[test]
    fn banned_tokens_have_no_probability_and_change_nothing() {
        let mut row = vec![1.0, f32::NEG_INFINITY, 3.0];
        let total = f64::from(log_sum_exp(&row));
        assert!((total - (1f64.exp() + 3f64.exp()).ln()).abs() < 1e-6);
        assert_eq!(top(&row, 3, 2), [(2, 3.0), (0, 1.0)]);
        assert_eq!(rank(&row, 0), 1);
        log_softmax(&mut row);
        assert_eq!(kl(&row, &row), 0.0);
        assert!(entropy(&row).is_finite());
        assert!(log_sum_exp(&[f32::NEG_INFINITY; 3]).is_nan());
    }

    #[test]
    fn a_seed_and_a_position_decide_the_draw() {
        let logits = [0.0f32, 0.1, 0.2, 0.1];
        let draw = |seed, position| {
            Sampling {
                temperature: 1.0,
                seed,
                ..Sampling::default()
            }
            .choose(&logits, position)
            .unwrap()
        };
        let all = |seed| (0..40).map(|p| draw(seed, p)).collect::<Vec<_>>();
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        assert!(
            all(1).iter().any(|t| *t != all(1)[0]),
            "positions draw differently"
        );
        assert_eq!(Sampling::default().choose(&logits, 5).unwrap(), 2);
    }

    #[test]
    fn the_smallest_temperature_chooses_the_strongest() {
        let logits = [0.0f32, 0.1, 0.2, 0.1];
        for temperature in [1e-6, 1e-19, 1e-40, f64::MIN_POSITIVE] {
            let cold = Sampling {
                temperature,
                ..Sampling::default()
            };
            assert_eq!(cold.choose(&logits, 3).unwrap(), 2, "{temperature:e}");
        }
    }
}
