//! What one turn of the writer comes to: the token, what the unedited run had to say of it, and what was captured.
//!
//! Invariant: plain data about one position. To say something else of a token, add a field to [`Choice`].

use serde::{Deserialize, Serialize};

use super::capture::Capture;
use crate::edit::receipt::FiredAt;

/// What runs beside the edited text, unedited, in the same passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaselineMode {
    /// Nothing: no KL is known.
    Nothing,
    /// The unedited model reads the edited text: KL is exact at every token.
    #[default]
    SameText,
    /// Lockstep: it goes on with a text of its own, from the same seed. KL compares like with like until the two texts
    /// diverge.
    OwnText,
    /// Lockstep, and the edited run is given the tokens that the unedited one chooses: KL stays exact.
    Forced,
}

impl BaselineMode {
    /// Whether the unedited run chooses tokens of its own.
    pub fn is_lockstep(self) -> bool {
        matches!(self, Self::OwnText | Self::Forced)
    }
}

/// The choice that was not taken: the unedited run's own token, or the one that a forced run would have written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Other {
    pub id: u32,
    /// Its natural log-probability in the run that chose it.
    pub logprob: f32,
}

/// What is known of a token that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub position: usize,
    pub id: u32,
    /// Natural log-probability before temperature.
    pub logprob: f32,
    /// How many tokens were more probable.
    pub rank: u32,
    /// KL(unedited ‖ edited) of the distribution it was drawn from, nats, while edits are active. In lockstep the two
    /// have different texts once they diverged.
    pub kl: Option<f32>,
    /// In lockstep, what the other run chose here: the unedited one ([`BaselineMode::OwnText`]; none after its end), or the
    /// edited one ([`BaselineMode::Forced`]).
    pub other: Option<Other>,
}

/// One token written and read back in.
#[derive(Debug)]
pub struct WrittenToken {
    pub choice: Choice,
    /// What the edits did at its position.
    pub fired: Vec<FiredAt>,
    /// What was asked for at its position, in the order of the needs.
    pub captures: Vec<Capture>,
}
