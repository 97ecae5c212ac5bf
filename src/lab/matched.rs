//! Matched controls: the states of the same prompt about another entity.
//!
//! A state of an unrelated text differs from a run's own in everything, and says little where it fails: a state of *the same* prompt
//! in which only the entity is another one shows what is the entity's (the corrupted run of causal tracing, Meng et al. 2022,
//! 2202.05262). The other entity is a text that is given, or the entity's embeddings with noise. Invariant: noise is drawn from the
//! run's seed, and every draw is another one. To make the entity another one otherwise, add a way here.

use std::ops::Range;

use candle_core::Tensor;

use super::capture::Output;
use super::draws::{DRAWS, draw_seed};
use super::lab::Lab;
use super::pairs::{embedding_spread, noised};
use super::pass::{Pass, PassRow, Patch};
use super::run::Run;
use crate::error::Result;
use crate::model::network::site::{Address, Site};

/// The standard deviations of the noise on an entity, in those of its own embeddings (Meng et al. 2022).
pub const SIGMA: f64 = 3.0;

/// The most words, counted from the end, among which [`Lab::key_word`] looks, and the most rows of its pass.
const WORDS: usize = 24;
const WORD_ROWS: usize = 48;

/// The words of a text: ranges of tokens, each beginning where a token begins with a space or a line break.
fn words(lab: &Lab, tokens: &[u32]) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for (position, token) in tokens.iter().enumerate() {
        let bytes = lab.model.bytes(*token);
        let begins = bytes.first().is_none_or(u8::is_ascii_whitespace);
        match out.last_mut() {
            Some(word) if !begins => word.end = position + 1,
            Some(_) | None => out.push(position..position + 1),
        }
    }
    out
}

impl Lab {
    /// The word of a run that a position belongs to, up to that position.
    pub fn word_at(&self, run: &Run, position: usize) -> Range<usize> {
        let all = words(self, &run.tokens);
        let own = all.into_iter().find(|word| word.contains(&position));
        own.map_or(position..position + 1, |word| word.start..position + 1)
    }

    /// The word that a prompt is about, by what noise on its embeddings takes from the answer's log-probability: the last word that takes
    /// at least half as much as the one that takes most, because what is asked of it (*the capital of*) mostly stands before it. The
    /// first position, where attention rests, and the last word, which asks, are left out; none where nothing else is left. Of a long
    /// text it is one of the last 24 words; noise is drawn two to eight times, the fewer the more words there are.
    ///
    /// # Errors
    ///
    /// Those of the passes.
    pub fn key_word(&mut self, run: &Run, answers: &[u32]) -> Result<Option<Range<usize>>> {
        let mut all = self.inner_words(run);
        all.pop();
        let drops = self.drops(run, answers, &all)?;
        let most = drops.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let last = (0..drops.len()).rfind(|i| drops[*i] >= most / 2.0);
        Ok(last.map(|i| all[i].clone()))
    }

    /// The last words of a run, without the first position.
    fn inner_words(&self, run: &Run) -> Vec<Range<usize>> {
        let mut all = words(self, &run.tokens);
        all.retain(|word| word.start > 0);
        all.split_off(all.len().saturating_sub(WORDS + 1))
    }

    /// What noise on each of some words takes from the log-probability of answers after a run, mean over the draws, nats.
    fn drops(&mut self, run: &Run, answers: &[u32], words: &[Range<usize>]) -> Result<Vec<f64>> {
        let Some(first) = words.first() else {
            return Ok(Vec::new());
        };
        let draws = (WORD_ROWS / words.len()).clamp(2, DRAWS);
        let mut rows = Vec::with_capacity(words.len() * draws + 1);
        for word in words {
            for patches in self.noised_draws(run, word, draws)? {
                rows.push(PassRow::patched(patches));
            }
        }
        rows.push(PassRow::default());
        let read = self.run(&Pass {
            rows,
            from: Some(first.start),
            ..Pass::after(run.clone(), Output::tokens(answers))
        })?;
        let mut logs: Vec<f64> = read.iter().map(|row| row.last().share().ln()).collect();
        let base = logs.pop().unwrap_or(f64::NAN);
        let mean = |drawn: &[f64]| drawn.iter().sum::<f64>() / draws as f64;
        Ok(logs.chunks(draws).map(|drawn| base - mean(drawn)).collect())
    }

    /// Several draws of noise on some embeddings of a run, as patches.
    ///
    /// # Errors
    ///
    /// When the run does not fit into the context.
    pub fn noised_draws(
        &mut self,
        run: &Run,
        span: &Range<usize>,
        draws: usize,
    ) -> Result<Vec<Vec<Patch>>> {
        let sigma = SIGMA * embedding_spread(self, &run.tokens[span.clone()])?;
        (0..draws)
            .map(|draw| noised(self, run, span.clone(), sigma, draw_seed(run.seed, draw)))
            .collect()
    }

    /// The states that leave every block at a position, `[d_model]` each, in every draw of noise on some embeddings before it.
    ///
    /// # Errors
    ///
    /// Those of the passes.
    pub fn noised_states(
        &mut self,
        run: &Run,
        span: &Range<usize>,
        position: usize,
    ) -> Result<Vec<Vec<Tensor>>> {
        let layers = self.model.card.layers;
        let wanted: Vec<Address> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();
        let draws = self.noised_draws(run, span, DRAWS)?;
        let from = span.start;
        let read = self.run(&Pass {
            from: Some(from),
            record: wanted.clone(),
            rows: draws.into_iter().map(PassRow::patched).collect(),
            ..Pass::of(run.clone())
        })?;
        let states = |row: &super::capture::Capture| {
            let state =
                |at: &Address| Ok(row.get(*at)?.get(position - from)?.force_contiguous()?);
            wanted.iter().map(state).collect()
        };
        read.iter().map(states).collect()
    }
}
