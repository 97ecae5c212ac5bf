//! Bootstrap intervals: how far a number of many texts would move if other texts of the same kind had been read.
//!
//! Invariant: texts are drawn again whole, never tokens, for tokens of one text are not independent; draws are seeded. To give another
//! statistic an interval, pass it as a function of the texts that were drawn.
//!
//! Source: percentile intervals, Efron & Tibshirani 1993, chapter 13.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// How often texts are drawn again.
const DRAWS: usize = 1000;

/// A number with its 95 % interval over texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WithInterval {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl WithInterval {
    /// The statistic of `count` texts, a function of the numbers of those drawn, with the middle 95 % of what it is when they are drawn
    /// again with replacement. Of no text, not-a-number.
    pub fn over(count: usize, seed: u64, of: impl Fn(&[usize]) -> f64) -> Self {
        let all: Vec<usize> = (0..count).collect();
        if all.is_empty() {
            return Self {
                value: f64::NAN,
                low: f64::NAN,
                high: f64::NAN,
            };
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let mut drawn: Vec<f64> = (0..DRAWS)
            .map(|_| {
                let again: Vec<usize> = all.iter().map(|_| rng.random_range(0..count)).collect();
                of(&again)
            })
            .collect();
        drawn.sort_by(f64::total_cmp);
        Self {
            value: of(&all),
            low: drawn[DRAWS / 40],
            high: drawn[DRAWS - 1 - DRAWS / 40],
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_wide_as_the_standard_error_says() {
        // The mean of 400 numbers with variance 1: standard error 0.05, interval ± 0.098.
        let values: Vec<f64> = (0..400)
            .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        let mean =
            |chosen: &[usize]| chosen.iter().map(|i| values[*i]).sum::<f64>() / chosen.len() as f64;
        let found = WithInterval::over(values.len(), 1, mean);
        assert_eq!(found.value, 0.0);
        assert!((found.high - 0.098).abs() < 0.012, "{found:?}");
        assert!((found.low + 0.098).abs() < 0.012, "{found:?}");
        assert_eq!(found, WithInterval::over(values.len(), 1, mean), "seeded");
        assert_ne!(found, WithInterval::over(values.len(), 2, mean));
    }

    #[test]
    fn one_text_has_no_width_and_no_text_no_number() {
        let one = WithInterval::over(1, 1, |_| 3.0);
        assert_eq!((one.value, one.low, one.high), (3.0, 3.0, 3.0));
        assert!(WithInterval::over(0, 1, |_| 3.0).value.is_nan());
    }
}
