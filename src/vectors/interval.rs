//! Intervals of 95 % of means over a few cases: by the bootstrap, and standard errors.
//!
//! The interval of a mean is that of the studentized bootstrap (bootstrap-t; Efron 1981, Hall 1988): resampled means are taken in units
//! of their own standard error, which covers as often as it says where the percentile bootstrap of few cases does not. Invariant:
//! intervals are seeded, and one of fewer than three cases is none. `.ci/nightly` simulates how often they cover.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How often cases are drawn anew.
const RESAMPLES: usize = 999;

/// The fewest cases that have an interval.
const FEWEST: usize = 3;

/// The mean of some cases, and between which numbers it lies with 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanInterval {
    pub mean: f64,
    /// Not-a-number where there are too few cases.
    pub low: f64,
    pub high: f64,
}

/// The mean and its standard error; the error is not-a-number of fewer than two.
pub fn standard_error(cases: &[f64]) -> (f64, f64) {
    let count = cases.len() as f64;
    let mean = cases.iter().sum::<f64>() / count;
    let square: f64 = cases.iter().map(|x| (x - mean).powi(2)).sum();
    let error = if cases.len() < 2 {
        f64::NAN
    } else {
        (square / (count - 1.0) / count).sqrt()
    };
    (mean, error)
}

impl MeanInterval {
    /// The interval of the mean of some cases.
    pub fn of(cases: &[f64], seed: u64) -> Self {
        let (mean, error) = standard_error(cases);
        if cases.len() < FEWEST || !mean.is_finite() {
            return Self {
                mean,
                low: f64::NAN,
                high: f64::NAN,
            };
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let mut drawn = vec![0.0; cases.len()];
        let mut units: Vec<f64> = Vec::with_capacity(RESAMPLES);
        for _ in 0..RESAMPLES {
            for one in &mut drawn {
                *one = cases[rng.random_range(0..cases.len())];
            }
            let (own, spread) = standard_error(&drawn);
            // A draw of one case alone has no spread to be measured in.
            if spread > 0.0 {
                units.push((own - mean) / spread);
            }
        }
        if units.is_empty() {
            return Self {
                mean,
                low: mean,
                high: mean,
            };
        }
        units.sort_by(f64::total_cmp);
        let at = |share: f64| units[((units.len() - 1) as f64 * share).round() as usize];
        Self {
            mean,
            low: mean - at(0.975) * error,
            high: mean - at(0.025) * error,
        }
    }

    /// `0.41 (0.32 to 0.55)`, without the interval where there is none.
    pub fn sentence(self) -> String {
        if self.low.is_nan() {
            return format!("{:.3}", self.mean);
        }
        format!("{:.3} ({:.3} to {:.3})", self.mean, self.low, self.high)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // of equal numbers the interval is exact
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    #[test]
    fn the_interval_is_about_that_of_the_t_distribution() {
        let cases: Vec<f64> = (0..40).map(|i| f64::from(i % 10)).collect();
        let found = MeanInterval::of(&cases, 1);
        let (mean, error) = standard_error(&cases);
        assert!((found.mean - 4.5).abs() < 1e-12 && (mean - 4.5).abs() < 1e-12);
        // t with 39 degrees of freedom: 2.023.
        assert!(
            (found.low - (mean - 2.023 * error)).abs() < 0.25 * error,
            "{found:?}"
        );
        assert!(
            (found.high - (mean + 2.023 * error)).abs() < 0.25 * error,
            "{found:?}"
        );
        assert_eq!(found, MeanInterval::of(&cases, 1), "the seed decides");
        assert!(MeanInterval::of(&[1.0, 2.0], 1).low.is_nan());
        assert_eq!(MeanInterval::of(&[2.0; 5], 1).low, 2.0);
        assert!(standard_error(&[1.0]).1.is_nan());
        assert!((standard_error(&[1.0, 3.0]).1 - 1.0).abs() < 1e-12);
    }

    /// How often the intervals of a thousand draws hold the mean that they were drawn around, for `.ci/nightly`: 93 to 97 %.
    #[test]
    #[ignore = "a minute or two: run by .ci/nightly"]
    fn intervals_cover_as_often_as_they_say() {
        use crate::vectors::proportion::Proportion;
        let mut rng = StdRng::seed_from_u64(1);
        for (count, skewed) in [(8, false), (20, false), (20, true), (60, true)] {
            let held = (0..1000).map(|draw| {
                let cases: Vec<f64> = (0..count)
                    .map(|_| {
                        let z: f64 = StandardNormal.sample(&mut rng);
                        // A log-normal of moderate skew, with mean 1.
                        if skewed {
                            (0.5 * z - 0.125).exp()
                        } else {
                            1.0 + z
                        }
                    })
                    .collect();
                let found = MeanInterval::of(&cases, draw);
                found.low <= 1.0 && 1.0 <= found.high
            });
            let share = Proportion::count(held).share();
            assert!((0.93..=0.97).contains(&share), "{count} {skewed}: {share}");
        }
        for (count, p) in [(10, 0.5), (30, 0.2), (60, 0.1), (200, 0.03)] {
            let held = (0..1000).map(|_| {
                let (low, high) =
                    Proportion::count((0..count).map(|_| rng.random_bool(p))).interval();
                low <= p && p <= high
            });
            // Wilson's interval is exact on average over shares; at a single one it covers 92 to 98 %, as counts are whole numbers.
            let share = Proportion::count(held).share();
            assert!((0.92..=0.985).contains(&share), "{count} {p}: {share}");
        }
    }
}
