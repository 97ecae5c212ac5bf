//! Forks: one text read once, its last token read again under many patches side by side.
//!
//! Invariant: a branch without patches gives the logits of the run itself, to rounding; what lies before the last token is
//! computed once and shared, which is exact, because no earlier position sees a later one. To ask something else of a
//! branch, record another address in [`Bench::fork`].

use std::collections::HashMap;

use candle_core::DType;

use super::apply::{Null, Program};
use super::bench::Bench;
use super::run::{Keep, Patch, Run, RunTap};
use crate::error::Result;
use crate::model::network::cache::Cache;
use crate::model::network::site::Address;
use crate::model::network::tap::{Phase, Span};

/// Most branches of one pass.
const ROWS: usize = 64;

/// Bytes that the repeated cache of one pass may take.
const BYTES: usize = 256 << 20;

/// A run, read up to its last token.
pub struct Fork {
    run: Run,
    cache: Cache,
    program: Program,
    values: HashMap<Address, Vec<f32>>,
    /// Logits after the last token, `[vocab]`.
    pub logits: Vec<f32>,
}

impl Bench {
    /// Reads a run under its edits, and keeps what `wanted` addresses hold at its last token.
    pub fn fork(&mut self, run: &Run, wanted: &[Address]) -> Result<Fork> {
        self.model.check_prompt(&run.tokens)?;
        wanted.iter().try_for_each(|a| self.model.offers(*a))?;
        let mut program = self.compile(run, Null::No)?;
        let model = &self.model;
        let mut cache = model.cache(1)?;
        let length = run.tokens.len();
        let span = Span {
            start: 0,
            len: length,
            prompt: run.prompt,
            phase: Phase::Prefill,
        };
        let mut tap = RunTap::new(&mut program, &[], wanted, Keep::Last, self.guard());
        let tokens = model.tokens(&run.tokens)?;
        let x = model
            .transformer
            .trunk(&tokens, span, Some(&mut cache), &mut tap)?;
        let last = x.narrow(1, length - 1, 1)?.contiguous()?;
        let recorded = std::mem::take(&mut tap.recorded);
        let (logits, _) = model.transformer.read_out(&last, None, &mut tap)?;
        program.settle()?;
        let values = recorded
            .into_iter()
            .map(|(at, t)| Ok((at, t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)))
            .collect::<Result<_>>()?;
        cache.truncate(length - 1);
        Ok(Fork {
            run: run.clone(),
            cache,
            program,
            values,
            logits: logits.flatten_all()?.to_vec1()?,
        })
    }
}

impl Fork {
    /// What an address held at the last token, all heads together; nothing if it was not asked for.
    pub fn value(&self, at: Address) -> &[f32] {
        self.values.get(&at).map_or(&[], Vec::as_slice)
    }

    /// Logits after the last token, a row a branch: each branch overwrites one address there.
    pub fn branches(
        &mut self,
        bench: &Bench,
        branches: &[(Address, Vec<f32>)],
    ) -> Result<Vec<Vec<f32>>> {
        let model = &bench.model;
        let position = self.run.tokens.len() - 1;
        let most = (BYTES / self.cache.bytes().max(1)).clamp(1, ROWS);
        let mut out = Vec::with_capacity(branches.len());
        for group in branches.chunks(most) {
            let rows = group.len();
            let patches = group.iter().enumerate().map(|(row, (at, value))| {
                Ok(Patch {
                    at: *at,
                    position,
                    row: Some(row),
                    value: candle_core::Tensor::new(value.as_slice(), &model.transformer.device)?,
                })
            });
            let patches = patches.collect::<Result<Vec<_>>>()?;
            let mut cache = self.cache.copy(rows)?;
            let span = Span {
                start: position,
                len: 1,
                prompt: self.run.prompt,
                phase: Phase::Prefill,
            };
            let token = model
                .tokens(&self.run.tokens[position..])?
                .repeat((rows, 1))?;
            // Every row is a trial, and the caller looks at each.
            let guard = bench.guard().lenient();
            let mut tap = RunTap::new(&mut self.program, &patches, &[], Keep::All, guard);
            let transformer = &model.transformer;
            let x = transformer.trunk(&token, span, Some(&mut cache), &mut tap)?;
            let (logits, _) = transformer.read_out(&x, None, &mut tap)?;
            self.program.settle()?;
            out.extend(logits.squeeze(1)?.to_vec2::<f32>()?);
        }
        Ok(out)
    }
}
