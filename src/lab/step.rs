//! Steps: what may be asked for at every new token, and what is known of one that was written.
//!
//! Invariant: a step is about one position and holds nothing of earlier ones but the run itself.
//! To compare with another run, add a variant of [`Beside`].

use std::collections::HashMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::run::Run;
use crate::edit::receipt::Fired;
use crate::figure::Check;
use crate::model::network::site::Address;

/// What is read at every new position besides the model's own output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Addresses whose last row is recorded.
    pub record: Vec<Address>,
    /// Residual addresses whose last row is unembedded together with the model's own output.
    pub unembed: Vec<Address>,
}

impl Needs {
    /// Adds another reader's needs.
    pub fn merge(&mut self, other: Self) {
        for (own, more) in [
            (&mut self.record, other.record),
            (&mut self.unembed, other.unembed),
        ] {
            more.into_iter().for_each(|a| {
                if !own.contains(&a) {
                    own.push(a);
                }
            });
        }
    }
}

/// What runs beside the edited text, unedited, in the same passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Beside {
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

impl Beside {
    /// Whether the unedited run chooses tokens of its own.
    pub fn is_lockstep(self) -> bool {
        matches!(self, Self::OwnText | Self::Forced)
    }
}

/// The choice that was not taken: the unedited run's own token, or the one that a forced run would have written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// Its id.
    pub id: u32,
    /// Its natural log-probability in the run that chose it.
    pub logprob: f32,
}

/// What is known of a token that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its position.
    pub position: usize,
    /// Its id.
    pub id: u32,
    /// Natural log-probability before temperature.
    pub logprob: f32,
    /// How many tokens were more probable.
    pub rank: u32,
    /// KL(unedited ‖ edited) of the distribution it was drawn from, nats, while edits are active. In lockstep the two
    /// have different texts once they diverged.
    pub kl: Option<f32>,
    /// In lockstep, what the other run chose here: the unedited one ([`Beside::OwnText`]; none after its end), or the
    /// edited one ([`Beside::Forced`]).
    pub other: Option<Other>,
}

/// One token written and read back in.
#[derive(Debug)]
pub struct Step {
    /// The token.
    pub choice: Choice,
    /// What the edits did at its position.
    pub fired: Vec<Fired>,
    /// Recorded rows at its position, `[width]`, f32, on the model's device.
    pub rows: HashMap<Address, Tensor>,
    /// Logits of residual rows at its position, in the order of the needs.
    pub unembedded: Vec<(Address, Vec<f32>)>,
    /// The model's own logits after it.
    pub logits: Vec<f32>,
    /// Last lens row against the model's own logits, when the lens was read.
    pub check: Option<Check>,
    /// The run so far, this token included.
    pub run: Run,
}
