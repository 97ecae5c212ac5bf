//! Conditions: an edit acts only where a probe crosses a threshold.
//!
//! With ` when PROBE>NUMBER` the edit acts at the positions where the probe is above the number (`<`: below), with ` once
//! PROBE>NUMBER` from the first such position on. A probe is `DIRECTION@ADDRESS`, the value's component along the unit
//! direction at the same position of the same pass, after earlier edits; `NAME#12`, the activation of a feature there, where its
//! dictionary reads, after earlier edits; or `p("TEXT")`, the probability that the unedited model gives to the first token of a
//! text after this position. Invariants: printing and parsing are inverse; a condition depends on nothing after its position, so
//! that a text generated token by token meets the same conditions as one read at once.
//! To add a probe, add a variant of [`ConditionProbe`], its spelling, and the code in `lab/compile.rs` that prepares to measure
//! it.

use std::fmt;

use super::feature::{FeatureChoice, direction_name};
use super::quotes::{LinePiece, named, quoted, read};
use crate::error::Error;
use crate::model::network::site::Address;

/// The quantity that a condition depends on.
#[derive(Clone, Debug, PartialEq)]
pub enum ConditionProbe {
    /// The component `x·v̂` at an address that the pass visits before the edit's own.
    Along(String, Address),
    /// The activation of a feature, at the places that its dictionary reads.
    Feature(FeatureChoice),
    /// The unedited model's probability of a text's first token as the next token.
    Probability(String),
}

/// The condition under which an edit acts.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The quantity that is compared with the threshold.
    pub probe: ConditionProbe,
    /// Whether the probe must be above the threshold; otherwise below.
    pub above: bool,
    pub threshold: f32,
    /// Whether the edit goes on acting after the condition has held once.
    pub latches: bool,
}

impl Condition {
    /// Whether a measured value fulfils the condition; NaN never does.
    pub fn holds(&self, value: f32) -> bool {
        if self.above {
            value > self.threshold
        } else {
            value < self.threshold
        }
    }

    /// Parses the text after ` when ` or ` once `.
    pub(crate) fn read(whole: LinePiece<'_>, latches: bool) -> Result<Self, String> {
        let text = whole.text;
        let bad = || {
            format!(
                "`{text}` is not a condition; write DIRECTION@ADDRESS>NUMBER, NAME#12>NUMBER for a feature, or p(\"TEXT\")>NUMBER, with > or <"
            )
        };
        let at = whole.rfind(">").max(whole.rfind("<")).ok_or_else(bad)?;
        let (probe, number) = (whole.part(0, at).trim(), text[at + 1..].trim());
        let threshold = number.parse::<f32>().ok().filter(|n| n.is_finite());
        let threshold = threshold.ok_or_else(bad)?;
        let quoted = probe.text.strip_prefix("p(");
        let probe = if let Some(quoted) = quoted.and_then(|p| p.strip_suffix(')')) {
            let plain = read(quoted)?;
            if plain.is_empty() {
                return Err(bad());
            }
            ConditionProbe::Probability(plain)
        } else {
            match probe.rsplit_once('@') {
                Some((name, address)) => {
                    let address = address.text.parse().map_err(|e: Error| e.to_string())?;
                    let name = direction_name(name)?;
                    if name.is_empty() {
                        return Err(bad());
                    }
                    ConditionProbe::Along(name, address)
                }
                None => match FeatureChoice::read(probe)? {
                    Some(feature) if feature.numbers.len() == 1 => ConditionProbe::Feature(feature),
                    Some(_) | None => return Err(bad()),
                },
            }
        };
        Ok(Self {
            probe,
            above: text[at..].starts_with('>'),
            threshold,
            latches,
        })
    }
}

impl fmt::Display for ConditionProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Along(name, at) => write!(f, "{}@{at}", named(name)),
            Self::Feature(feature) => write!(f, "{feature}"),
            Self::Probability(text) => write!(f, "p({})", quoted(text)),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.latches { "once" } else { "when" };
        let side = if self.above { '>' } else { '<' };
        write!(f, "{word} {}{side}{}", self.probe, self.threshold)
    }
}
