//! Shares of counted cases, with their intervals.
//!
//! Invariant: the interval of a share holds the share, and lies within 0 to 1, also where nothing or everything was counted.

/// The standard normal quantile of a two-sided interval of 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proportion {
    pub hits: usize,
    pub of: usize,
}

impl Proportion {
    /// How many of some cases are.
    pub fn count(cases: impl IntoIterator<Item = bool>) -> Self {
        let mut out = Self::default();
        for case in cases {
            out.hits += usize::from(case);
            out.of += 1;
        }
        out
    }

    /// The share; not-a-number of no cases.
    pub fn share(self) -> f64 {
        self.hits as f64 / self.of as f64
    }

    /// Wilson's interval of 95 % (1927): the shares from which this one does not differ significantly. Not-a-number of no cases.
    pub fn interval(self) -> (f64, f64) {
        let (n, p) = (self.of as f64, self.share());
        let square = Z * Z / n;
        let middle = (p + square / 2.0) / (1.0 + square);
        let half = Z / (1.0 + square) * (p * (1.0 - p) / n + square / (4.0 * n)).sqrt();
        // Nothing and everything have an end of their own, which rounding would miss by a hair.
        let low = if self.hits == 0 && self.of > 0 {
            0.0
        } else {
            middle - half
        };
        let high = if self.hits == self.of && self.of > 0 {
            1.0
        } else {
            middle + half
        };
        (low, high)
    }

    /// `17 of 20 (0.85, 0.64 to 0.95)`.
    pub fn sentence(self) -> String {
        if self.of == 0 {
            return "0 of 0".into();
        }
        let (low, high) = self.interval();
        format!(
            "{} of {} ({:.2}, {low:.2} to {high:.2})",
            self.hits,
            self.of,
            self.share()
        )
    }
}

/// Newcombe's interval of 95 % of an area under the ROC curve, from so many cases of each class (2006, Statistics in Medicine 25:559,
/// method 5): the areas θ from which this one differs by no more than the deviation that θ itself would have. Unlike draws of
/// the same cases it has a width where all pairs are in order. Not-a-number where a class has no case.
pub fn auroc_interval(area: f64, plus: usize, minus: usize) -> (f64, f64) {
    let (m, n) = (plus as f64, minus as f64);
    if area.is_nan() || plus == 0 || minus == 0 {
        return (f64::NAN, f64::NAN);
    }
    let half = f64::midpoint(m, n) - 1.0;
    let deviation = |theta: f64| {
        let pairs = 1.0 + half * (1.0 - theta) / (2.0 - theta) + half * theta / (1.0 + theta);
        (theta * (1.0 - theta) * pairs / (m * n)).sqrt()
    };
    let within = |theta: f64| (theta - area).abs() <= Z * deviation(theta);
    let end = |far: f64| {
        // Between the area, which lies within, and the end of the scale, which does not.
        let (mut inside, mut outside) = (area, far);
        for _ in 0..60 {
            let middle = f64::midpoint(inside, outside);
            if within(middle) {
                inside = middle;
            } else {
                outside = middle;
            }
        }
        inside
    };
    (end(0.0), end(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_an_area_has_a_width_where_all_pairs_are_in_order() {
        // Newcombe 2006, method 5, solved by hand for the lower end: (1 − θ)² = z²·θ(1 − θ)(1 + 5(1 − θ)/(2 − θ) + 5θ/(1 + θ))/36.
        let (low, high) = auroc_interval(1.0, 6, 6);
        let term = 1.0 + 5.0 * (1.0 - low) / (2.0 - low) + 5.0 * low / (1.0 + low);
        let deviation = (low * (1.0 - low) * term / 36.0).sqrt();
        assert!((1.0 - low - Z * deviation).abs() < 1e-9 && high > 1.0 - 1e-9);
        // The same the other way round, and narrower with more cases.
        let (a, b) = (auroc_interval(0.8, 10, 20), auroc_interval(0.2, 10, 20));
        assert!((a.0 - (1.0 - b.1)).abs() < 1e-9 && (a.1 - (1.0 - b.0)).abs() < 1e-9);
        let more = auroc_interval(0.8, 100, 200);
        assert!(a.0 < more.0 && more.0 < 0.8 && 0.8 < more.1 && more.1 < a.1);
        assert!(auroc_interval(0.5, 0, 3).0.is_nan());
    }

    #[test]
    fn intervals_are_wilsons() {
        // By statsmodels' proportion_confint(method="wilson").
        for (hits, of, low, high) in [
            (0, 10, 0.0, 0.277_533),
            (10, 10, 0.722_467, 1.0),
            (17, 20, 0.639_584, 0.947_624),
            (1, 2, 0.094_531, 0.905_469),
        ] {
            let found = Proportion { hits, of }.interval();
            assert!(
                (found.0 - low).abs() < 1e-5 && (found.1 - high).abs() < 1e-5,
                "{hits} of {of}: {found:?}"
            );
        }
        for of in 1..200 {
            let (none, all) = (Proportion { hits: 0, of }, Proportion { hits: of, of });
            assert_eq!(none.interval().0.to_bits(), 0f64.to_bits(), "of {of}");
            assert_eq!(all.interval().1.to_bits(), 1f64.to_bits(), "of {of}");
        }
        assert!(Proportion::default().share().is_nan());
        assert_eq!(
            Proportion::count([true, false, true]),
            Proportion { hits: 2, of: 3 }
        );
    }
}
