//! Running again with something put in: the same tokens side by side, or many short prompts under one schedule.
//!
//! Invariant: a row of a batch sees its own patches and no other's, and a row without patches is the run itself.
//! To ask something else of reruns, add a method of [`Bench`] here.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::apply::Null;
use super::bench::Bench;
use super::run::{Keep, Patch, Run, RunTap};
use super::schedule::Schedule;
use crate::error::Result;
use crate::model::tap::{Span, Tap};

/// Prompts of equal length that are read side by side.
const SIDE_BY_SIDE: usize = 64;

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

    /// Logits after the last token of every prompt under a schedule, `[prompts][vocab]`, f32, in the order of the
    /// prompts; those of equal length are read side by side. The whole of each is a prompt.
    pub fn last_logits_of(
        &mut self,
        prompts: &[Vec<u32>],
        schedule: &Schedule,
    ) -> Result<Vec<Vec<f32>>> {
        let mut lengths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, prompt) in prompts.iter().enumerate() {
            self.model.check_prompt(prompt)?;
            lengths.entry(prompt.len()).or_default().push(i);
        }
        let mut out = vec![Vec::new(); prompts.len()];
        for (length, group) in lengths {
            for some in group.chunks(SIDE_BY_SIDE) {
                let rows: Vec<Tensor> = some
                    .iter()
                    .map(|i| self.model.tokens(&prompts[*i]))
                    .collect::<Result<_>>()?;
                let run = Run {
                    schedule: schedule.clone(),
                    ..Run::plain(prompts[some[0]].clone())
                };
                let logits = self.batch(&run, &Tensor::cat(&rows, 0)?, length - 1, &[])?;
                for (i, row) in some.iter().zip(logits) {
                    out[*i] = row;
                }
            }
        }
        Ok(out)
    }

    /// One pass over `tokens` `[rows, n]` under the edits of a run, read out at one position.
    fn batch(
        &mut self,
        run: &Run,
        tokens: &Tensor,
        position: usize,
        patches: &[Patch],
    ) -> Result<Vec<Vec<f32>>> {
        let mut program = self.compile(&run.schedule, &run.tokens, run.prompt, Null::No)?;
        // With patches every row is a trial, and the caller looks at each.
        let guard = self.guard().lenient_if(!patches.is_empty());
        let mut tap = RunTap::new(&mut program, patches, &[], Keep::All, guard);
        let span = Span {
            start: 0,
            len: run.tokens.len(),
            prompt: run.prompt,
            phase: crate::model::tap::Phase::Prefill,
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
