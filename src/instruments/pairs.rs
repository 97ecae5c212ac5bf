//! Parameters of the instruments that read pairs of a clean and a corrupted text.
//!
//! Invariant: a word means the same in each of them. To add one that several have, declare its words here.

use super::params::{ParamKind, ParameterValue, choices};
use crate::lab::pairs::MetricKind;

choices! { for MetricKind { Difference = "difference", Probability = "probability", Kl = "kl" } = "difference", "the metric. difference: logit difference between the answer and the other answer; probability: of the answer; kl: KL divergence from the clean run, nats" }

/// A number above zero, if one is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold(pub Option<f64>);

impl ParameterValue for Threshold {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let number = text.parse().ok();
        let number = number.filter(|number: &f64| number.is_finite() && *number > 0.0);
        number
            .map(|number| Self(Some(number)))
            .ok_or_else(|| "a number above 0, for example 0.01".into())
    }

    fn print(&self) -> String {
        self.0.map_or_else(String::new, |number| number.to_string())
    }
}

/// How many edges, as a number or as a share of all: `40` or `5%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EdgeCount {
    Number(usize),
    /// Per cent.
    Share(f64),
}

impl EdgeCount {
    /// The number, of so many edges.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Number(number) => number.min(all),
            Self::Share(share) => ((all as f64 * share / 100.0).round() as usize).clamp(1, all),
        }
    }
}

impl ParameterValue for EdgeCount {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let expected = || "a number of edges, or a share of all of them: 40 or 5%".to_string();
        if let Some(share) = text.strip_suffix('%') {
            let share = share.trim().parse().ok();
            let share = share.filter(|share: &f64| *share > 0.0 && *share <= 100.0);
            share.map(Self::Share).ok_or_else(expected)
        } else {
            let number = text.parse().ok().filter(|number: &usize| *number > 0);
            number.map(Self::Number).ok_or_else(expected)
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Share(share) => format!("{share}%"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_numbers_or_shares() {
        assert_eq!(EdgeCount::parse("40").unwrap().of(1000), 40);
        assert_eq!(EdgeCount::parse("5%").unwrap().of(1000), 50);
        assert_eq!(EdgeCount::parse("4000").unwrap().of(1000), 1000);
        assert_eq!(EdgeCount::parse("2.5%").unwrap().print(), "2.5%");
        for wrong in ["0", "-3", "0%", "101%", "NaN%", "many"] {
            assert!(EdgeCount::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Threshold::parse("0").is_err() && Threshold::parse("inf").is_err());
        assert_eq!(Threshold::parse("").unwrap(), Threshold(None));
    }
}
