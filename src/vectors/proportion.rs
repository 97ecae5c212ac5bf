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

#[cfg(test)]
mod tests {
    use super::*;

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
