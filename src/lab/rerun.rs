//! Running again with something put in: the same tokens side by side. Other prompts are read by [`super::batch`].
//!
//! Invariant: a row of a batch sees its own patches and no other's, and a row without patches is the run itself.
//! To ask something else of reruns, add a method of [`Bench`] here.

use candle_core::Tensor;

use super::apply::Null;
use super::bench::Bench;
use super::run::{Keep, Patch, Run, RunTap};
use crate::error::Result;
use crate::model::network::tap::{Span, Tap};

impl Bench {
    /// Logits after `position`, for `rows` copies of a run side by side that differ in what is put into slots:
    /// `[rows][vocab]`, f32. Edits come first, patches after them.
    pub fn reruns(
        &mut self,
        run: &Run,
        position: usize,
        patches: &[Patch],
        rows: usize,
    ) -> Result<Vec<Vec<f32>>> {
        self.model.check_prompt(&run.tokens)?;
        let tokens = self.model.tokens(&run.tokens)?.repeat((rows, 1))?;
        self.batch(run, &tokens, position, patches)
    }

    /// One pass over `tokens` `[rows, n]` under the edits of a run, read out at one position.
    fn batch(
        &mut self,
        run: &Run,
        tokens: &Tensor,
        position: usize,
        patches: &[Patch],
    ) -> Result<Vec<Vec<f32>>> {
        let mut program = self.compile(run, Null::No)?;
        // With patches every row is a trial, and the caller looks at each.
        let guard = self.guard().lenient_if(!patches.is_empty());
        let mut tap = RunTap::new(&mut program, patches, &[], Keep::All, guard);
        let span = Span {
            start: 0,
            len: run.tokens.len(),
            prompt: run.prompt,
            phase: crate::model::network::tap::Phase::Prefill,
        };
        let transformer = &self.model.transformer;
        let x = transformer.trunk(tokens, span, None, &mut tap)?;
        let x = x.narrow(1, position, 1)?.contiguous()?;
        // Edits after the last block see this position and no other.
        tap.begin(Span {
            start: position,
            len: 1,
            ..span
        });
        let (logits, _) = transformer.read_out(&x, None, &mut tap)?;
        Ok(logits.squeeze(1)?.to_vec2()?)
    }
}
