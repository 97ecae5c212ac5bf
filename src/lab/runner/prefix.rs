//! The beginning that the texts of a list share, read once: a text is read on from its end.
//!
//! Invariant: what is recorded of a text is what reading it whole would record, to the rounding of narrower products. Edits and scores
//! before the softmax are not continued: such a text is read whole. To share something else, keep it in [`ReadPrefix`].

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::output::read_output;
use super::tail::tensor;
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::apply::Program;
use crate::lab::capture::{After, Capture, Output};
use crate::lab::pass::ReadPrefix;
use crate::lab::row_programs::RowPrograms;
use crate::lab::run::Run;
use crate::lab::tap::{RecordedPositions, RunTap};
use crate::model::network::cache::{BranchCache, Cache};
use crate::model::network::site::{Address, Axis, Site};
use crate::model::network::tap::{PassPhase, PassSpan, Tap};

/// The axis of positions in what is recorded of one text.
fn positions(at: Address) -> usize {
    usize::from(at.site.spec().axis == Axis::Positions)
}

impl Lab {
    /// Keeps what the next texts that begin with these tokens have in common; of none, nothing. A beginning that is held already and
    /// is at least half as long stays.
    pub fn share_prefix(&mut self, tokens: &[u32]) {
        let held = self.prefix.as_ref().map_or(&[][..], |own| &own.tokens);
        let serves = !tokens.is_empty() && tokens.starts_with(held);
        if serves && 2 * held.len() >= tokens.len() {
            return;
        }
        self.prefix = (!tokens.is_empty()).then(|| ReadPrefix {
            tokens: tokens.to_vec(),
            read: None,
        });
    }

    /// What [`crate::lab::Lab::record`] is asked of a text that begins with the kept prefix; none where it is to be read whole.
    ///
    /// # Errors
    ///
    /// Those of the pass.
    pub(crate) fn after_prefix(
        &mut self,
        run: &Run,
        wanted: &[Address],
        output: &Output,
    ) -> Result<Option<Capture>> {
        let Some(mut prefix) = self.prefix.take() else {
            return Ok(None);
        };
        let read = self.read_on(&mut prefix, run, wanted, output);
        self.prefix = Some(prefix);
        read
    }

    fn read_on(
        &self,
        prefix: &mut ReadPrefix,
        run: &Run,
        wanted: &[Address],
        output: &Output,
    ) -> Result<Option<Capture>> {
        let (start, length) = (prefix.tokens.len(), run.tokens.len());
        let transformer = &self.model.transformer;
        let regime = |total| transformer.rope_scaling_regime(total);
        let fits = start > 0
            && start < length
            && run.tokens.starts_with(&prefix.tokens)
            && run.schedule.latest().is_empty()
            && run.schedule.is_idle()
            && regime(start) == regime(length);
        let continued = |at: &Address| {
            let site = at.site;
            site.spec().layered && (positions(*at) == 0 || site == Site::AttnProbs)
        };
        if !fits || !wanted.iter().all(continued) {
            return Ok(None);
        }
        let held = prefix.read.iter().flat_map(|(_, values)| values.keys());
        let mut all: Vec<Address> = held.copied().collect();
        let count = all.len();
        all.extend(
            wanted
                .iter()
                .filter(|at| !all.contains(at))
                .copied()
                .collect::<Vec<_>>(),
        );
        if prefix.read.is_none() || all.len() > count {
            prefix.read = Some(self.read_prefix(&prefix.tokens, &all)?);
        }
        let Some((cache, values)) = &prefix.read else {
            return Ok(None);
        };
        let mut branch = cache.branch(start, BranchCache::Passing)?;
        let mut program = Program::after(run.prompt);
        let mut tap = self.plain_tap(&mut program, wanted);
        let span = PassSpan {
            start,
            len: length - start,
            prompt: run.prompt,
            phase: PassPhase::Prefill,
        };
        let tokens = tensor(&self.model, std::slice::from_ref(&run.tokens), start)?;
        let x = transformer.trunk(&tokens, span, Some(&mut branch), &mut tap)?;
        let mut stats = Vec::new();
        if output.after == After::Last(1) {
            tap.begin(PassSpan {
                start: length - 1,
                len: 1,
                ..span
            });
            let last = x.narrow(1, length - start - 1, 1)?.contiguous()?;
            stats = read_output(&self.model, &last, &mut tap, |_| output.ask(0, 0))?;
        }
        let mut recorded = HashMap::new();
        for (at, rest) in std::mem::take(&mut tap.recorded) {
            let axis = positions(at);
            let rest = rest.squeeze(0)?;
            let Some(begin) = values.get(&at) else {
                return Ok(None);
            };
            // No position of the beginning looks at a later one.
            let begin = if axis == 1 {
                begin.pad_with_zeros(2, 0, length - start)?
            } else {
                begin.clone()
            };
            recorded.insert(at, Tensor::cat(&[&begin, &rest], axis)?);
        }
        Ok(Some(Capture {
            recorded,
            output: stats,
            ..Capture::of(Arc::new(run.clone()), 0..length)
        }))
    }

    /// A tap that records all positions of one text without edits.
    fn plain_tap<'a>(&'a self, program: &'a mut Program, wanted: &'a [Address]) -> RunTap<'a> {
        RunTap::new(
            RowPrograms::all(program),
            &[],
            wanted,
            RecordedPositions::All,
            self.guard(),
        )
    }

    /// The keys and values of a beginning, and what is recorded of it.
    fn read_prefix(
        &self,
        tokens: &[u32],
        wanted: &[Address],
    ) -> Result<(Cache, HashMap<Address, Tensor>)> {
        let mut cache = self.model.cache(1)?;
        let mut program = Program::after(tokens.len());
        let mut tap = self.plain_tap(&mut program, wanted);
        let span = PassSpan {
            start: 0,
            len: tokens.len(),
            prompt: tokens.len(),
            phase: PassPhase::Prefill,
        };
        let text = self.model.tokens(tokens)?;
        let trunk = &self.model.transformer;
        trunk.trunk(&text, span, Some(&mut cache), &mut tap)?;
        let recorded = std::mem::take(&mut tap.recorded).into_iter();
        let values = recorded.map(|(at, value)| Ok((at, value.squeeze(0)?)));
        Ok((cache, values.collect::<Result<_>>()?))
    }
}
