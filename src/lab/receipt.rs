//! Receipts: what an edit really did.
//!
//! Invariant: a receipt is measured, never derived from the edit; an edit that fired nowhere says so.

use serde::{Deserialize, Serialize};

/// What one edit did during a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The edit as it prints.
    pub edit: String,
    /// Whether it was on and not neutral.
    pub active: bool,
    /// How many (address, position) values it changed.
    pub fired: usize,
    /// Mean of ‖Δh‖/‖h‖ over those values.
    pub relative: f32,
    /// Mean over positions of KL(unedited ‖ this edit alone), nats, on the same tokens; none until measured.
    pub kl: Option<f32>,
    /// The same KL for a null of equal size: a random direction of equal norm, or random units of the same
    /// layer; none until measured.
    pub null: Option<f32>,
    /// A caution: where means came from, a capped strength.
    pub note: String,
}

impl Receipt {
    /// Adds a caution, once.
    pub fn remark(&mut self, words: &str) {
        if words.is_empty() || self.note.contains(words) {
            return;
        }
        if !self.note.is_empty() {
            self.note.push_str("; ");
        }
        self.note.push_str(words);
    }

    /// Whether the edit should have done something and did nothing.
    pub fn idle(&self) -> bool {
        self.active && self.fired == 0
    }
}
