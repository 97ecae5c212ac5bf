//! The unedited continuation of the same prompt with the same seed and length, generated one token a turn after the text.
//!
//! Invariant: it never changes the text; it is dropped when the user stops or starts something new.

use super::Worker;
use super::tokens::written_token;
use crate::edit::schedule::Schedule;
use crate::engine::{Token, Update};
use crate::error::{Error, Result};
use crate::lab::writer::Writer;

/// An unedited continuation that is being generated.
pub(super) struct BaselineContinuation {
    writer: Writer,
    tokens: Vec<Token>,
    left: usize,
}

impl Worker {
    pub(super) fn begin_baseline(&mut self) -> Result<()> {
        let (writer, lab) = self.writer()?;
        let run = writer.run.clone();
        let sampling = writer.sampling;
        let left = run.tokens.len() - run.prompt;
        if left == 0 {
            return Err(Error::argument(
                "baseline",
                "nothing written",
                "a text with at least one generated token to compare",
            ));
        }
        let writer = Writer::begin(
            lab,
            run.tokens[..run.prompt].to_vec(),
            Schedule::none(),
            sampling,
        )?;
        self.baseline = Some(BaselineContinuation {
            writer,
            tokens: Vec::new(),
            left,
        });
        Ok(())
    }

    /// One token of the unedited continuation.
    pub(super) fn write_baseline(&mut self) -> Result<()> {
        let (Some(shadow), Some(lab)) = (&mut self.baseline, &mut self.lab) else {
            return Ok(());
        };
        let done = if shadow.left == 0 || !shadow.writer.has_room(lab) {
            true
        } else {
            let step = shadow.writer.step(lab, &[])?;
            shadow.tokens.push(written_token(lab, step.choice, &[]));
            shadow.left -= 1;
            shadow.left == 0 || lab.model.is_end(step.choice.id)
        };
        if done && let Some(shadow) = self.baseline.take() {
            let edited = self
                .writer
                .as_ref()
                .map(|w| w.run.clone())
                .unwrap_or_default();
            let differs = |t: &Token| edited.tokens.get(t.position) != Some(&t.id);
            let diverges = shadow
                .tokens
                .iter()
                .find(|t| differs(t))
                .map(|t| t.position);
            let short = shadow.writer.run.tokens.len() < edited.tokens.len();
            let diverges = diverges.or_else(|| short.then_some(shadow.writer.run.tokens.len()));
            self.tell(Update::Baseline {
                tokens: shadow.tokens,
                diverges,
            });
        }
        Ok(())
    }
}
