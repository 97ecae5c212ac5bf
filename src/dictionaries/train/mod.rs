//! Trains a dictionary on the activations of a site.
//!
//! Invariant: training is a function of the model, the text and [`TrainOptions`]: the number of threads, and stops with a later
//! [`state`], change no bit of the result. What is divided: [`activations`] gathers rows, [`losses`] takes gradients of a batch,
//! [`optimiser`] follows them, [`training`] is the loop, [`state`] and [`mod@file`] are what is written. To add a kind, add a row to
//! [`TrainKind`] and its arms in [`losses`].
//!
//! Sources: TopK and AuxK: Gao et al. 2406.04093; BatchTopK: Bussmann et al. 2412.06410; JumpReLU with straight-through gradients:
//! Rajamanoharan et al. 2407.14435; parametrisation and defaults: SAELens 6, `sae_lens/saes` and `training/sae_trainer.py`.

pub mod activations;
pub mod file;
pub mod losses;
pub mod optimiser;
mod select;
pub mod state;
pub mod training;
pub mod weights;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::memory::check_free;

/// What makes the features sparse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainKind {
    /// The `k` largest of every row.
    TopK,
    /// The `k` times as many largest of a batch as it has rows; written with one threshold.
    BatchTopK,
    /// A threshold for every feature, learned with a penalty on their number.
    JumpRelu,
    /// `max(h, 0)`, with a penalty on their sum.
    Standard,
}

impl TrainKind {
    pub const ALL: [Self; 4] = [Self::TopK, Self::BatchTopK, Self::JumpRelu, Self::Standard];

    /// Its name on the command line, that of SAELens.
    pub fn name(self) -> &'static str {
        match self {
            Self::TopK => "topk",
            Self::BatchTopK => "batchtopk",
            Self::JumpRelu => "jumprelu",
            Self::Standard => "standard",
        }
    }

    /// Whether a number of active features is given, rather than a penalty.
    pub fn counts(self) -> bool {
        match self {
            Self::TopK | Self::BatchTopK => true,
            Self::JumpRelu | Self::Standard => false,
        }
    }
}

impl fmt::Display for TrainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TrainKind {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == given);
        found.ok_or_else(|| Error::argument("kind", given, "topk, batchtopk, jumprelu or standard"))
    }
}

/// What is trained, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    pub kind: TrainKind,
    pub features: usize,
    /// How many are active in a row (TopK), or on average (BatchTopK).
    pub k: usize,
    /// The factor of the penalty: on the number of active features (JumpReLU), or on their sum (standard).
    pub penalty: f32,
    /// How many rows are read in all.
    pub tokens: usize,
    /// Rows in a step.
    pub batch: usize,
    /// The learning rate; over the last fifth of the tokens it falls to zero.
    pub rate: f32,
    pub seed: u64,
    /// The factor of AuxK: how much dead features are asked to reconstruct what the others leave out. 0 turns it off.
    pub aux: f32,
    /// A feature is dead when it was inactive in so many rows one after the other.
    pub dead_after: usize,
}

impl TrainOptions {
    /// Refuses what cannot be trained.
    ///
    /// # Errors
    ///
    /// Names the flag.
    pub fn check(&self) -> Result<()> {
        if self.features == 0 {
            return Err(Error::argument("--features", 0, "at least 1 feature"));
        }
        if self.kind.counts() && !(1..=self.features).contains(&self.k) {
            let expected = format!("1 to {}, the number of features", self.features);
            return Err(Error::argument("-k", self.k, expected));
        }
        if self.batch == 0 {
            return Err(Error::argument("--batch", 0, "at least 1 row a step"));
        }
        if self.tokens < self.batch {
            let expected = format!("at least {}, one batch", self.batch);
            return Err(Error::argument("--tokens", self.tokens, expected));
        }
        let factors = [
            ("--lr", self.rate, false),
            ("--l0 or --l1", self.penalty, true),
            ("--aux", self.aux, true),
        ];
        for (flag, value, zero) in factors {
            if !value.is_finite() || value < 0.0 || (value == 0.0 && !zero) {
                return Err(Error::argument(flag, value, "a positive number"));
            }
        }
        Ok(())
    }

    /// Refuses a training that would hold more than the free memory: encoder and decoder, their gradients, two moments of each, what is
    /// written of them, and a batch before and behind the gate.
    ///
    /// # Errors
    ///
    /// With both numbers.
    pub fn check_memory(&self, width: usize) -> Result<()> {
        let weights = (self.features as u64)
            .saturating_mul(width as u64)
            .saturating_mul(2 * 5);
        let batch = (self.features as u64)
            .saturating_mul(self.batch as u64)
            .saturating_mul(3);
        let bytes = weights.saturating_add(batch).saturating_mul(4);
        check_free(
            "a dictionary",
            &format!("training {} features", self.features),
            bytes,
        )
    }
}
