//! Runs and recordings: tokens under edits, and the tensors kept from them.
//!
//! Invariant: cancel, edit, record, in that order at every site; recording changes no bit of the run.
//! To keep something else from a run, ask for its address.

use std::collections::HashMap;

use candle_core::Tensor;

use super::apply::Program;
use super::guard::Guard;
use crate::edit::receipt::Receipt;
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::Fingerprint;
use crate::model::network::site::Address;
use crate::model::network::tap::{Leaving, Span, Tap};

/// Tokens, edits and a seed: what a recording belongs to.
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

/// A value to put into a slot: overwrites `address` at `position` in one row of the batch, or in all.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Where.
    pub at: Address,
    /// At which position.
    pub position: usize,
    /// In which row of the batch.
    pub row: Option<usize>,
    /// `[width]`.
    pub value: Tensor,
}

/// Tensors kept from a run, without the batch dimension, in the dtype of the run.
#[derive(Debug, Default)]
pub struct Recording {
    tensors: HashMap<Address, Tensor>,
    /// What the edits did.
    pub receipts: Vec<Receipt>,
    /// The model's own logits after the last position, `[vocab]`, where they were asked for.
    pub output: Option<Vec<f32>>,
}

impl Recording {
    /// A recorded value, shaped as in [`crate::model::network::site::SITES`].
    pub fn get(&self, at: Address) -> Result<&Tensor> {
        self.tensors.get(&at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "it was not recorded. Ask for it before the run.".into(),
        })
    }

    /// Whether every address is there.
    pub fn holds(&self, wanted: &[Address]) -> bool {
        wanted.iter().all(|a| self.tensors.contains_key(a))
    }

    /// Adds values.
    pub(crate) fn extend(&mut self, more: impl IntoIterator<Item = (Address, Tensor)>) {
        self.tensors.extend(more);
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.tensors
            .values()
            .map(|t| t.elem_count() * t.dtype().size_in_bytes())
            .sum()
    }
}

/// Which rows a tap keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All positions of the pass.
    All,
    /// The last one.
    Last,
}

/// The lab's tap: stop, edit, put into slots, record.
pub struct RunTap<'a> {
    /// Edits at work.
    pub program: &'a mut Program,
    /// Values to put into slots.
    pub patches: &'a [Patch],
    /// What to record.
    pub wanted: &'a [Address],
    /// Which rows.
    pub keep: Keep,
    /// What it stops for.
    pub guard: Guard<'a>,
    /// What was recorded, with the batch dimension.
    pub recorded: HashMap<Address, Tensor>,
    /// How many patches were put in.
    pub patched: usize,
    span: Span,
}

impl<'a> RunTap<'a> {
    /// A tap over these parts.
    pub fn new(
        program: &'a mut Program,
        patches: &'a [Patch],
        wanted: &'a [Address],
        keep: Keep,
        guard: Guard<'a>,
    ) -> Self {
        Self {
            program,
            patches,
            wanted,
            keep,
            guard,
            recorded: HashMap::new(),
            patched: 0,
            span: Span::prompt(0),
        }
    }

    fn patch(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        let span = self.span;
        let mut x = x;
        for patch in self
            .patches
            .iter()
            .filter(|p| p.at == at && (span.start..span.start + span.len).contains(&p.position))
        {
            let dims = x.dims().to_vec();
            let batch = dims[0];
            let position = patch.position - span.start;
            let (first, count) = patch.row.map_or((0, batch), |row| (row, 1));
            let mut shape = dims.clone();
            shape[0] = count;
            shape[1] = 1;
            let mut line = vec![1; dims.len()];
            line[2..].copy_from_slice(&dims[2..]);
            let value = patch
                .value
                .to_dtype(x.dtype())?
                .reshape(line)?
                .broadcast_as(shape)?
                .contiguous()?;
            // A copy of the stream, so that nobody else's handle changes.
            let own = x.copy()?;
            let ranges: Vec<std::ops::Range<usize>> = dims
                .iter()
                .enumerate()
                .map(|(i, d)| match i {
                    0 => first..first + count,
                    1 => position..position + 1,
                    _ => 0..*d,
                })
                .collect();
            x = own.slice_assign(&ranges, &value)?;
            self.patched += 1;
        }
        Ok(x)
    }
}

impl Tap for RunTap<'_> {
    fn reads(&mut self, tokens: &Tensor, span: Span) -> Result<()> {
        self.program.admit(tokens, span)
    }

    fn begin(&mut self, span: Span) {
        self.span = span;
        self.program.begin(span);
    }

    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        let x = self.program.apply(at, x, self.span)?;
        let x = if self.patches.is_empty() {
            x
        } else {
            self.patch(at, x)?
        };
        if self.wanted.contains(&at) {
            // Rows that run beside the edited ones are nobody's recording.
            let (batch, own) = (x.dim(0)?, self.program.rows(x.dim(0)?));
            let x = if own == batch {
                x.clone()
            } else {
                x.narrow(0, 0, own)?
            };
            let kept = match self.keep {
                Keep::All => x.clone(),
                // A copy, or the slice would keep the whole tensor alive.
                Keep::Last => {
                    let axis =
                        if at.site.spec().axis == crate::model::network::site::Axis::Positions {
                            2
                        } else {
                            1
                        };
                    let rows = x.dim(axis)?;
                    x.narrow(axis, rows - 1, 1)?.force_contiguous()?
                }
            };
            self.recorded.insert(at, kept);
        }
        Ok(x)
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.guard.checkpoint()
    }

    fn leaves(&mut self, leaving: Leaving<'_>) -> Result<()> {
        self.guard.leaves(leaving, self.span, self.program)
    }
}
