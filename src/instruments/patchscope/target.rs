//! A target prompt with values put into it while it is read, many such branches side by side, and what each goes on with.
//!
//! Invariant: a value acts once, in the pass that reads its position, and lives on through keys and values alone. To ask
//! something else of a branch, add a field to [`ContinuedText`].

use crate::error::Result;
use crate::lab::Lab;
use crate::lab::capture::{Capture, Output};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::readout::RowStats;
use crate::lab::run::Run;

/// Most branches that are read before anybody asks whether to go on.
pub const SLICE: usize = 32;

/// Candidates kept for the first token.
const TOP: usize = 5;

/// What a branch goes on with.
#[derive(Clone, Debug, PartialEq)]
pub struct ContinuedText {
    /// The tokens, greedily, an end token included.
    pub tokens: Vec<u32>,
    /// Whether the continuation broke off because its numbers were no longer finite.
    pub silent: bool,
    /// The most probable first tokens.
    pub first: RowStats,
    /// Probabilities of the watched tokens as the first, in the order they were asked for.
    pub watched: Vec<f32>,
}

#[derive(Clone, Debug)]
pub struct TargetPrompt {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Branches may differ from this position on.
    pub from: usize,
}

impl TargetPrompt {
    /// Goes on from the target under each branch's values, greedily, by at most `count` tokens (one at least).
    ///
    /// # Errors
    ///
    /// When a value has no place here, or the work is stopped; when no branch comes to a distribution, and when the target
    /// left alone does not.
    pub fn branches(
        &self,
        lab: &mut Lab,
        branches: Vec<Vec<Patch>>,
        count: usize,
        watched: &[u32],
    ) -> Result<Vec<ContinuedText>> {
        let pass = Pass {
            from: Some(self.from),
            rows: branches.into_iter().map(PassRow::patched).collect(),
            tail: count.max(1),
            ..Pass::after(
                Run::plain(self.tokens.clone()),
                Output {
                    top: TOP,
                    ..Output::tokens(watched)
                },
            )
        };
        let written = |mut row: Capture| {
            let first = row.output.pop().unwrap_or_default();
            let p = first.tokens.iter().map(|token| token.logprob.exp());
            ContinuedText {
                watched: p.collect(),
                first,
                tokens: row.tail,
                silent: row.silent,
            }
        };
        let out: Vec<ContinuedText> = lab.run(&pass)?.into_iter().map(written).collect();
        // A value may break its own branch; in all of them it is the model that is broken.
        if out.iter().all(|w| w.silent && w.tokens.is_empty()) {
            return Err(lab.not_finite("The model's numbers are"));
        }
        Ok(out)
    }
}
