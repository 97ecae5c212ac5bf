//! A target prompt with values patched in while it is read: many such branches in one batch, each continued greedily.
//!
//! Invariant: a value acts once, in the pass that reads its position, and afterwards only through keys and values. To return
//! something else of a branch, add a field to [`ContinuedText`].

use crate::error::Result;
use crate::lab::Lab;
use crate::lab::capture::{Capture, Output};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::readout::RowStats;
use crate::lab::run::Run;

/// The most branches that run before cancelling is checked.
pub const SLICE: usize = 32;

/// The number of candidates kept for the first token.
const TOP: usize = 5;

/// The continuation of a branch.
#[derive(Clone, Debug, PartialEq)]
pub struct ContinuedText {
    /// The greedily generated tokens, an end token included.
    pub tokens: Vec<u32>,
    /// Whether the continuation was stopped because its logits were no longer finite.
    pub silent: bool,
    /// The statistics of the first token.
    pub first: RowStats,
    /// The probabilities of the watched tokens as first token, in the order of the request.
    pub watched: Vec<f32>,
}

#[derive(Clone, Debug)]
pub struct TargetPrompt {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The first position at which branches may differ.
    pub from: usize,
}

impl TargetPrompt {
    /// Continues the target greedily under each branch's patches, by at most `count` tokens (at least one).
    ///
    /// # Errors
    ///
    /// When a patch has no place in the target, when the work is stopped, or when the numbers of every branch, or of the
    /// unpatched target, are not finite.
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
        // A patched value may make its own branch overflow; if all branches do, the model itself is the cause.
        if out.iter().all(|w| w.silent && w.tokens.is_empty()) {
            return Err(lab.not_finite("The model's numbers are"));
        }
        Ok(out)
    }
}
