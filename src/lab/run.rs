//! Runs and recordings: tokens under edits, and the tensors kept from them.
//!
//! Invariant: a recording belongs to one run, and what it holds is what flowed on.
//! To keep something else from a run, ask for its address.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::edit::receipt::Receipt;
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::Fingerprint;
use crate::model::network::site::Address;

/// Tokens, edits and a seed: what a recording belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// How many of them were given; the rest the model wrote. More than there are where `rest` is not read.
    pub prompt: usize,
    /// What the prompt goes on with and is not read. Edits are prepared for the whole prompt, so that its beginning alone is
    /// what it is in the whole.
    pub rest: Vec<u32>,
    /// Which edits were in force where.
    pub schedule: Schedule,
    /// The seed of anything random.
    pub seed: u64,
}

impl Run {
    /// A prompt without edits.
    pub fn plain(tokens: Vec<u32>) -> Self {
        Self {
            prompt: tokens.len(),
            tokens,
            rest: Vec::new(),
            schedule: Schedule::none(),
            seed: 1,
        }
    }

    /// The same under edits.
    #[must_use]
    pub fn under(self, schedule: &Schedule) -> Self {
        Self {
            schedule: schedule.clone(),
            ..self
        }
    }

    /// Its first so many tokens, at least one where it has any, under the edits of the whole.
    #[must_use]
    pub fn until(mut self, tokens: usize) -> Self {
        let tokens = tokens.max(1);
        if tokens < self.tokens.len() {
            let mut rest = self.tokens.split_off(tokens);
            rest.truncate(self.prompt.saturating_sub(tokens));
            rest.append(&mut self.rest);
            self.rest = rest;
        }
        self
    }

    /// The tokens of the whole prompt, read or not.
    pub fn given(&self) -> Vec<u32> {
        let own = &self.tokens[..self.prompt.min(self.tokens.len())];
        [own, self.rest.as_slice()].concat()
    }

    /// The same tokens without edits.
    #[must_use]
    pub fn unedited(&self) -> Self {
        Self {
            schedule: Schedule::none(),
            ..self.clone()
        }
    }

    /// A digest of tokens and edits.
    pub fn digest(&self) -> u64 {
        let mut hash = Fingerprint::default();
        hash.write(&self.prompt.to_le_bytes());
        self.tokens
            .iter()
            .for_each(|t| hash.write(&t.to_le_bytes()));
        if !self.rest.is_empty() && self.schedule.reads_prompt() {
            let rest = self.rest.iter();
            rest.for_each(|t| hash.write(&t.to_le_bytes()));
        }
        hash.write(&self.schedule.digest().to_le_bytes());
        hash.finish()
    }
}

/// Tensors kept from a run, without the batch dimension, in the dtype of the run.
#[derive(Debug, Default)]
pub struct Recording {
    pub(super) tensors: HashMap<Address, Tensor>,
    /// What the edits did.
    pub receipts: Vec<Receipt>,
    /// The model's own logits after the last position, `[vocab]`, where they were asked for.
    pub output: Option<Vec<f32>>,
}

impl Recording {
    /// A recorded value, shaped as in [`crate::model::network::site::SITES`].
    pub fn get(&self, at: Address) -> Result<&Tensor> {
        self.tensors.get(&at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "it was not recorded. Ask for it before the run.".into(),
        })
    }

    /// Whether every address is there.
    pub fn holds(&self, wanted: &[Address]) -> bool {
        wanted.iter().all(|a| self.tensors.contains_key(a))
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.tensors
            .values()
            .map(|t| t.elem_count() * t.dtype().size_in_bytes())
            .sum()
    }
}
