//! Choosing the next token: candle's sampler, and what we report of the choice.
//!
//! Invariant: the choice at a position depends on logits, settings, seed and position alone, so a rewound or a
//! baseline run of the same seed draws the same numbers.

use candle_core::Tensor;
use candle_transformers::generation::{LogitsProcessor, Sampling as Kind};
use serde::{Deserialize, Serialize};

use crate::error::Result;

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

impl Sampling {
    /// Draws a token for `position` from logits `[vocab]`, f32.
    pub fn choose(&self, logits: &Tensor, position: usize) -> Result<u32> {
        let temperature = self.temperature;
        let kind = match (temperature > 0.0, self.top_k, self.top_p < 1.0) {
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
        Ok(LogitsProcessor::from_sampling(seed, kind).sample(logits)?)
    }
}

/// `ln Σ exp(z)` of a row of logits, natural logarithm; sums in f64 over lanes of f32.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0f64;
    for chunk in logits.chunks(1024) {
        let mut lanes = [0f32; LANES];
        let blocks = chunk.chunks_exact(LANES);
        sum += blocks
            .remainder()
            .iter()
            .map(|z| f64::from(exp(z - top)))
            .sum::<f64>();
        for block in blocks {
            for (lane, z) in lanes.iter_mut().zip(block) {
                *lane += exp(z - top);
            }
        }
        sum += lanes.iter().map(|l| f64::from(*l)).sum::<f64>();
    }
    top + sum.ln() as f32
}

/// How many sums run side by side, so that the compiler can use wide registers.
pub(super) const LANES: usize = 8;

/// `e^x` for `x <= 0`, within 3e-7 of itself: the exponent from the bits of a rounded multiple of ln 2, the rest by
/// a polynomial (Cephes `expf`). Without branches, so that loops over it use wide registers.
pub(super) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let p = 1.987_569_2e-4;
    let p = p * rest + 1.398_2e-3;
    let p = p * rest + 8.333_452e-3;
    let p = p * rest + 4.166_579_6e-2;
    let p = p * rest + 0.166_666_65;
    let p = p * rest + 0.5;
    let p = p * rest * rest + rest + 1.0;
    let power = (shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127))
        << 23;
    p * f32::from_bits(power)
}

/// Natural log-probabilities of logits, in place.
pub fn log_softmax(logits: &mut [f32]) {
    let shift = log_sum_exp(logits);
    logits.iter_mut().for_each(|z| *z -= shift);
}

/// How many values are strictly greater than that of `token`.
pub fn rank(values: &[f32], token: u32) -> u32 {
    let own = values
        .get(token as usize)
        .copied()
        .unwrap_or(f32::NEG_INFINITY);
    values.iter().filter(|v| **v > own).count() as u32
}

/// The `k` largest of the first `known` values: token and value, strongest first, ties by token id.
pub fn top(values: &[f32], known: usize, k: usize) -> Vec<(u32, f32)> {
    let known = known.min(values.len());
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

/// KL(p ‖ q) in nats from two rows of log-probabilities, summed in f64.
pub fn kl(p: &[f32], q: &[f32]) -> f32 {
    let sum: f64 = p
        .iter()
        .zip(q)
        .map(|(p, q)| (f64::from(*p).exp(), f64::from(*p) - f64::from(*q)))
        .filter(|(p, _)| *p > 0.0)
        .map(|(p, d)| p * d)
        .sum();
    sum.max(0.0) as f32
}

/// Entropy in nats of a row of log-probabilities.
pub fn entropy(p: &[f32]) -> f32 {
    p.iter()
        .map(|l| f64::from(*l))
        .filter(|l| l.is_finite())
        .map(|l| -l.exp() * l)
        .sum::<f64>() as f32
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;
    use candle_core::Device;

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
    fn the_exponential_is_within_three_parts_in_ten_million() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "{x}: {error}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        let row: Vec<f32> = (0..5000).map(|i| ((i * 37) % 101) as f32 / 7.0).collect();
        let exact = row.iter().map(|z| f64::from(*z).exp()).sum::<f64>().ln();
        assert!((f64::from(log_sum_exp(&row)) - exact).abs() < 2e-6);
    }

    #[test]
    fn ties_are_broken_by_id_and_padding_is_left_out() {
        assert_eq!(top(&[1.0, 3.0, 3.0, 9.0], 3, 2), [(1, 3.0), (2, 3.0)]);
        assert_eq!(rank(&[1.0, 3.0, 3.0, 9.0], 2), 1);
    }

    #[test]
    fn a_seed_and_a_position_decide_the_draw() {
        let logits = Tensor::new(&[0.0f32, 0.1, 0.2, 0.1], &Device::Cpu).unwrap();
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
}
