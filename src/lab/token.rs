//! The result of one turn of the writer: the token, its statistics next to those of the baseline run, and what was captured at
//! its position.
//!
//! Invariant: plain data about one position. To report something else of a token, add a field to [`Choice`].

use serde::{Deserialize, Serialize};

use super::capture::Capture;
use crate::edit::receipt::FiredAt;

/// The baseline run: what is read without edits in the same passes as the edited text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaselineMode {
    /// No baseline run: KL is not known.
    Nothing,
    /// The unedited model reads the edited text: KL is exact at every token.
    #[default]
    SameText,
    /// Lockstep: the baseline run generates its own text from the same seed. KL compares equal contexts until the two texts
    /// diverge.
    OwnText,
    /// Lockstep: the edited run is forced to the tokens that the baseline run chooses, so that KL stays exact.
    Forced,
}

impl BaselineMode {
    /// Whether the baseline run chooses the tokens of a text.
    pub fn is_lockstep(self) -> bool {
        matches!(self, Self::OwnText | Self::Forced)
    }
}

/// The token that was not taken: the baseline run's own, or the one that a forced edited run would have written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Other {
    pub id: u32,
    /// Its natural log-probability in the run that chose it.
    pub logprob: f32,
}

/// Statistics of a token that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub position: usize,
    pub id: u32,
    /// Natural log-probability before temperature.
    pub logprob: f32,
    /// How many tokens had a higher probability.
    pub rank: u32,
    /// KL(unedited ‖ edited) in nats of the distribution that the token was drawn from; only while edits are active. In
    /// lockstep the contexts of the two distributions differ once the texts have diverged.
    pub kl: Option<f32>,
    /// In lockstep, the token that the other run chose here: the baseline run ([`BaselineMode::OwnText`]; none after its end),
    /// or the edited run ([`BaselineMode::Forced`]).
    pub other: Option<Other>,
}

/// A token that was written and read back in.
#[derive(Debug)]
pub struct WrittenToken {
    pub choice: Choice,
    /// What each edit did at the token's position.
    pub fired: Vec<FiredAt>,
    /// The captures at the token's position, in the order in which they were asked for.
    pub captures: Vec<Capture>,
}
