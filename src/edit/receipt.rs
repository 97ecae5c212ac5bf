//! Receipts: what an edit really did, in all and at every position.
//!
//! Invariant: a receipt is measured, never derived from the edit; an edit that changed nothing says why.
//! To say more, add a field here and fill it in `lab/apply.rs` (counts) or `lab/edit_effects.rs` (effects).

use serde::{Deserialize, Deserializer, Serialize};

use super::intervention::EditId;

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
    /// Mean over positions of KL(unedited ‖ this edit alone), nats, on the same tokens; none until measured.
    pub kl: Option<f32>,
    /// The same KL for a control of equal size: a random direction of equal norm, or random units of the same layer
    /// and of nearly the same activation rank; none until measured.
    #[serde(rename = "null")]
    pub control: Option<f32>,
    /// What the control is, where it was chosen among several: which other features, or a change of equal norm; empty for a random
    /// direction or random units.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub control_is: String,
    /// The same KL for this edit on an unrelated text; none until measured, or where the edit has no place there.
    pub elsewhere: Option<f32>,
    /// The seed of the controls; 0 until measured.
    pub seed: u64,
    /// KL(unedited ‖ this edit alone) after each of the last positions: position and nats; empty until measured.
    pub positions: Vec<(usize, f32)>,
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

    /// Takes the counts of another receipt of the same edit: those of the text as it was written, where this one's are
    /// those of a pass that measured.
    pub fn count_as(&mut self, written: &Self) {
        self.fired = written.fired;
        self.relative = written.relative;
        self.not_finite |= written.not_finite;
        self.why.clone_from(&written.why);
    }
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
