//! Runs: tokens under edits.
//!
//! Invariant: two runs of one digest flow alike. To make a run depend on something else, add a field and write it into
//! [`Run::digest`].

use std::sync::Arc;

use crate::edit::schedule::Schedule;
use crate::model::Fingerprint;

/// Tokens, edits and a seed: what a capture belongs to.
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
    /// The run whose own strongest tokens are called the answers, where it is not this one: a difference of two runs is of one
    /// token in both. What flows does not depend on it.
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
            seed: 1,
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
