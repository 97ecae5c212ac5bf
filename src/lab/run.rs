//! Runs: tokens with the edits they are read under.
//!
//! Invariant: two runs with the same digest have the same activations. To make a run depend on something else, add a field and
//! write it into [`Run::digest`].

use std::sync::Arc;

use super::draws::FIRST_SEED;
use crate::edit::schedule::Schedule;
use crate::model::Fingerprint;

/// Tokens, edits and a seed, to which every capture belongs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// How many of the tokens are the prompt; the model wrote the others. It exceeds `tokens.len()` if part of the prompt is in
    /// `rest`.
    pub prompt: usize,
    /// The end of the prompt if it is not read. Edits are compiled for the whole prompt, so that the beginning has the same
    /// values as when the whole is read.
    pub rest: Vec<u32>,
    /// Which edits are in force at which positions.
    pub schedule: Schedule,
    /// The seed of anything random.
    pub seed: u64,
    /// The run whose top predictions are called the answers, if it is not this one: the difference of two runs then concerns
    /// the same token in both. Activations do not depend on it.
    pub answers: Option<Arc<Run>>,
}

impl Run {
    /// A prompt without edits.
    pub fn plain(tokens: Vec<u32>) -> Self {
        Self {
            prompt: tokens.len(),
            tokens,
            rest: Vec::new(),
            schedule: Schedule::none(),
            seed: FIRST_SEED,
            answers: None,
        }
    }

    /// The run under another schedule of edits.
    #[must_use]
    pub fn under(self, schedule: &Schedule) -> Self {
        Self {
            schedule: schedule.clone(),
            ..self
        }
    }

    /// The first `tokens` tokens of the run, at least one if there is any, under the edits compiled for the whole prompt.
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

    /// The tokens of the whole prompt, including the part that is not read.
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
