//! Receipts: what an edit really did, in all and at every position.
//!
//! Invariant: a receipt is measured, never derived from the edit; an edit that changed nothing says why.
//! To say more, add a field here and fill it in `lab/apply.rs` (counts) or `lab/edit_effects.rs` (effects).

use serde::{Deserialize, Deserializer, Serialize};

use super::intervention::EditId;
use crate::text::{grouped, line};

/// What one edit did during a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    #[serde(skip)]
    pub id: EditId,
    /// The edit as it prints.
    pub edit: String,
    /// Whether it was on and not neutral.
    pub active: bool,
    /// Whether what it did, or what the model made of it, is not finite: then its numbers are not-a-number, or null in JSON.
    #[serde(default)]
    pub not_finite: bool,
    /// How many (address, position) values it changed.
    pub fired: usize,
    /// Mean of ‖Δh‖/‖h‖ over those values.
    #[serde(deserialize_with = "number")]
    pub relative: f32,
    /// Mean over [`Receipt::positions`] of KL(unedited ‖ this edit alone), nats, on the same tokens; none until measured.
    pub kl: Option<f32>,
    /// The mean of [`Receipt::draws`]: the same KL for a control of equal size: a random direction of equal norm, or random units
    /// of the same layer and of nearly the same activation rank; none until measured.
    #[serde(rename = "null")]
    pub control: Option<f32>,
    /// That KL in every draw of the control.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "numbers"
    )]
    pub draws: Vec<f32>,
    /// What the control is, where it was chosen among several: which other features, or a change of equal norm; empty for a random
    /// direction or random units.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub control_is: String,
    /// Whether it is to leave the output as it is, as a circuit is: then it does more than its control where the KL is smaller.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps: bool,
    /// Why there is no control; empty where there is one, and until measured.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub no_control: String,
    /// The same KL for this edit on an unrelated text; none until measured, or where the edit has no place there.
    pub elsewhere: Option<f32>,
    /// The seed of the controls; 0 until measured.
    pub seed: u64,
    /// KL(unedited ‖ this edit alone) after each of the last positions: position and nats; empty until measured.
    pub positions: Vec<(usize, f32)>,
    /// How many tokens of the text are prompt.
    #[serde(default)]
    pub prompt: usize,
    /// A caution: where means came from, a capped strength.
    pub note: String,
    /// Why it has changed nothing so far; empty when it has, or when it is off.
    pub why: String,
}

impl Receipt {
    /// Whether it is on and has done nothing.
    pub fn idle(&self) -> bool {
        !self.why.is_empty()
    }

    /// The median of the KL over the positions; none until measured.
    pub fn median(&self) -> Option<f32> {
        let mut all: Vec<f32> = self.positions.iter().map(|(_, kl)| *kl).collect();
        all.sort_by(f32::total_cmp);
        let (low, high) = (
            all.get(all.len().checked_sub(1)? / 2)?,
            all.get(all.len() / 2)?,
        );
        Some((low + high) / 2.0)
    }

    /// The mean KL after the positions from which a token of the text was generated, and how many these are; none where nothing
    /// was generated. After the last position nothing was drawn yet, so it is none of them.
    pub fn generated(&self) -> Option<(f32, usize)> {
        let last = self.positions.last()?.0;
        let drawn = |p: usize| p + 1 >= self.prompt && p < last;
        let own = self.positions.iter().filter(|(p, _)| drawn(*p));
        let own: Vec<f32> = own.map(|(_, kl)| *kl).collect();
        (self.prompt > 0 && !own.is_empty()).then(|| (mean(&own), own.len()))
    }

    /// The smallest and the largest KL of the control's draws.
    pub fn control_range(&self) -> Option<(f32, f32)> {
        range(&self.draws)
    }

    /// What the KL has to pass to be more than the control: [`control_bound`], or [`lower_control_bound`] where the edit is to leave the
    /// output as it is.
    pub fn bound(&self) -> Option<f32> {
        if self.keeps {
            lower_control_bound(&self.draws)
        } else {
            control_bound(&self.draws)
        }
    }

    /// Whether the edit does no more than its control: [`Receipt::bound`] is not passed. An edit that did nothing is not held against one.
    pub fn within_control(&self) -> bool {
        let bound = self.kl.zip(self.bound());
        let within = |(kl, bound): (f32, f32)| if self.keeps { kl >= bound } else { kl <= bound };
        !self.idle() && bound.is_some_and(within)
    }

    /// With the effects that another receipt of the same edit measured.
    #[must_use]
    pub fn with_effects_of(self, measured: &Self) -> Self {
        Self {
            kl: measured.kl,
            control: measured.control,
            draws: measured.draws.clone(),
            control_is: measured.control_is.clone(),
            no_control: measured.no_control.clone(),
            elsewhere: measured.elsewhere,
            seed: measured.seed,
            positions: measured.positions.clone(),
            prompt: measured.prompt,
            ..self
        }
    }

    /// Takes the counts of another receipt of the same edit: those of the text as it was written, where this one's are
    /// those of a pass that measured.
    pub fn count_as(&mut self, written: &Self) {
        self.fired = written.fired;
        self.relative = written.relative;
        self.not_finite |= written.not_finite;
        self.why.clone_from(&written.why);
    }
}

/// What must be passed to be more than a control: its largest draw, and the one-sided prediction bound of 95 % for another draw, of
/// numbers above 0 on a scale of logarithms (a normal sample of n: mean + t·sd·√(1 + 1/n)). The largest of eight draws alone is passed by
/// a ninth one in a ninth of all cases. None of fewer than two draws.
pub fn control_bound(draws: &[f32]) -> Option<f32> {
    bound(draws, 1.0)
}

/// The same from below: the smallest draw, and the bound above which another draw lies in 95 %.
pub fn lower_control_bound(draws: &[f32]) -> Option<f32> {
    bound(draws, -1.0)
}

/// The bound of draws on the side of this sign.
fn bound(draws: &[f32], sign: f64) -> Option<f32> {
    let finite: Vec<f64> = draws
        .iter()
        .filter(|d| d.is_finite())
        .map(|d| f64::from(*d))
        .collect();
    let outermost = finite.iter().map(|d| sign * d).reduce(f64::max)?;
    let logs = finite.iter().all(|d| *d > 0.0);
    let values: Vec<f64> = finite
        .iter()
        .map(|d| if logs { d.ln() } else { *d })
        .collect();
    let count = values.len() as f64;
    let quantile = T_95
        .get(values.len().checked_sub(2)?)
        .copied()
        .unwrap_or(1.645);
    let mean = values.iter().sum::<f64>() / count;
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let bound = mean + sign * quantile * (square / (count - 1.0) * (1.0 + 1.0 / count)).sqrt();
    let bound = if logs { bound.exp() } else { bound };
    Some((sign * outermost.max(sign * bound)) as f32)
}

/// The quantiles of 95 % of the t distribution, from one degree of freedom on.
const T_95: [f64; 19] = [
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771,
    1.761, 1.753, 1.746, 1.740, 1.734, 1.729,
];

/// The smallest and the largest of some draws; those that are not finite have no part in it. None of none.
pub fn range(draws: &[f32]) -> Option<(f32, f32)> {
    let finite = || draws.iter().copied().filter(|v| v.is_finite());
    let low = finite().reduce(f32::min)?;
    Some((low, finite().reduce(f32::max)?))
}

/// Whether a change is larger than that of every draw of its control, whatever their signs. Of no draws it is.
pub fn exceeds(own: f32, draws: &[f32]) -> bool {
    draws.iter().all(|draw| own.abs() > draw.abs())
}

/// What marks a cell of a grid that does no more than its control, and says so in the name of its numbers.
pub const NO_MORE: &str = "~";

/// The mark of a cell beside the draws of its control: none where it does more, or has no control.
pub fn mark(own: f32, draws: &[f32]) -> &'static str {
    if exceeds(own, draws) { "" } else { NO_MORE }
}

/// The name of the numbers of a grid with such marks, if there is one.
pub fn marked<'a>(value: String, mut marks: impl Iterator<Item = &'a str>) -> String {
    if marks.any(|own| own == NO_MORE) {
        format!("{value} ({NO_MORE} no more than its control)")
    } else {
        value
    }
}

/// The strongest effect of a grid beside its control, for a title; nothing without draws.
pub fn claim(own: f32, draws: &[f32]) -> String {
    let Some((low, high)) = range(draws) else {
        return String::new();
    };
    let less = if exceeds(own, draws) {
        ""
    } else {
        ", no more than its control"
    };
    format!(" · strongest {own:+.3}, control {low:+.3} to {high:+.3}{less}")
}

/// The mean of some numbers.
pub(crate) fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len().max(1) as f32
}

/// A list of numbers, as [`number`] reads them.
fn numbers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
    let read = Vec::<Option<f32>>::deserialize(from)?;
    Ok(read.into_iter().map(|n| n.unwrap_or(f32::NAN)).collect())
}

/// Receipts that lack the effects that were measured before, as those that come with every token do, with these effects, as long as
/// the edit is the same.
pub fn keep_effects(before: &[Receipt], after: Vec<Receipt>) -> Vec<Receipt> {
    let known = |r: Receipt| match before.iter().find(|b| b.id == r.id) {
        Some(held) if r.kl.is_none() => r.with_effects_of(held),
        _ => r,
    };
    after.into_iter().map(known).collect()
}

/// Adds what edits did in one more text to what they did before: counts, and the mean relative size over them. An edit is idle only where
/// it is so in every text.
pub fn add_up(all: &mut Vec<Receipt>, own: &[Receipt]) {
    if all.is_empty() {
        *all = own.to_vec();
        return;
    }
    for (all, own) in all.iter_mut().zip(own) {
        let fired = all.fired + own.fired;
        if own.fired > 0 {
            let size = |of: &Receipt| f64::from(of.relative) * of.fired as f64;
            all.relative = ((size(all) + size(own)) / fired as f64) as f32;
        }
        if own.why.is_empty() {
            all.why.clear();
        }
        all.fired = fired;
        all.not_finite |= own.not_finite;
    }
}

/// What edits did in all of several texts.
pub fn in_words(receipts: &[Receipt]) -> Vec<String> {
    let active = receipts.iter().filter(|receipt| receipt.active);
    active
        .map(|receipt| {
            let edit = line(&receipt.edit);
            if receipt.not_finite {
                format!("WARNING: edit {edit} is NOT FINITE on some texts")
            } else if receipt.fired == 0 {
                format!(
                    "WARNING: edit {edit} NEVER FIRED on these texts: {}",
                    receipt.why
                )
            } else {
                let (fired, relative) = (grouped(receipt.fired), receipt.relative);
                format!("edit {edit} fired {fired} times, mean ‖Δh‖/‖h‖ {relative:.3}")
            }
        })
        .collect()
}

/// JSON has no not-a-number: it is written as null, and read back as what it was.
pub(crate) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    Ok(Option::<f32>::deserialize(from)?.unwrap_or(f32::NAN))
}

/// What one edit did at one position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FiredAt {
    pub edit: EditId,
    pub position: usize,
    /// How many addresses the edit changed at the position.
    pub fired: usize,
    /// Mean of ‖Δh‖/‖h‖ over them.
    #[serde(deserialize_with = "number")]
    pub relative: f32,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_says_over_which_positions_and_against_what() {
        let receipt = Receipt {
            kl: Some(2.0),
            positions: vec![(2, 9.0), (3, 1.0), (4, 3.0), (5, 0.5), (6, 40.0)],
            prompt: 4,
            draws: vec![0.5, f32::NAN, 1.5],
            ..Receipt::default()
        };
        assert_eq!(receipt.median(), Some(3.0));
        // From positions 3 to 5 tokens 4 to 6 were drawn; from the last one none.
        assert_eq!(receipt.generated(), Some((1.5, 3)));
        assert_eq!(receipt.control_range(), Some((0.5, 1.5)));
        assert_eq!(range(&[2.0, f32::NAN, -1.0, 0.5]), Some((-1.0, 2.0)));
        assert_eq!(range(&[f32::NAN]), None);
        // A small change of the other sign is no finding because it lies outside of the range.
        assert!(!exceeds(-0.1, &[0.2, 0.5]) && exceeds(-0.6, &[0.2, 0.5]));
        assert!(!exceeds(0.5, &[0.2, -0.5]) && exceeds(0.1, &[]));
        // Logarithms of 0.5 and 1.5 are 1.1 apart: nothing but a huge number is beyond two such draws.
        let bound = control_bound(&receipt.draws).unwrap();
        let (mean, sd) = (0.75f64.ln() / 2.0, 3f64.ln() / 2f64.sqrt());
        let expected = (mean + 6.314 * sd * 1.5f64.sqrt()).exp();
        assert!(
            (f64::from(bound) / expected - 1.0).abs() < 1e-5,
            "{bound} {expected}"
        );
        assert!(receipt.within_control());
        let strong = Receipt {
            kl: Some(2.0),
            draws: vec![0.50, 0.51, 0.52, 0.5, 0.51, 0.49, 0.5, 0.6],
            ..receipt.clone()
        };
        assert!(!strong.within_control());
        assert!(control_bound(&strong.draws).unwrap() >= 0.6);
        assert_eq!(control_bound(&[1.0]), None);
        let weak = Receipt {
            kl: Some(1.2),
            ..receipt
        };
        assert!(weak.within_control());
        // Nothing was generated where the text is prompt to its end.
        let asked = Receipt { prompt: 7, ..weak };
        assert_eq!(asked.generated(), None);
        let even = Receipt {
            positions: vec![(0, 1.0), (1, 2.0)],
            ..Receipt::default()
        };
        assert_eq!(
            (even.median(), Receipt::default().median()),
            (Some(1.5), None)
        );
    }
}
