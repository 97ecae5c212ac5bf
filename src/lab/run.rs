//! Runs and recordings: tokens under edits, and the tensors kept from them.
//!
//! Invariant: cancel, edit, record, in that order at every site; recording changes no bit of the run.
//! To keep something else from a run, ask for its address.

use std::collections::HashMap;

use candle_core::Tensor;

use super::apply::Program;
use super::guard::Guard;
use super::pass::{Knockout, Patch, RowCapture};
use crate::edit::receipt::Receipt;
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::Fingerprint;
use crate::model::network::cache::Cache;
use crate::model::network::site::{Address, Axis, Site};
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

    /// What a row of a pass left, with its logits where they are those after the last position.
    pub(crate) fn of(mut row: RowCapture, with_output: bool) -> Self {
        Self {
            output: row.logits.pop().filter(|_| with_output),
            tensors: row.recorded,
            receipts: row.receipts,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.tensors
            .values()
            .map(|t| t.elem_count() * t.dtype().size_in_bytes())
            .sum()
    }
}

/// Which positions a tap keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All positions of the pass.
    All,
    /// The last one.
    Last,
    /// Those from this one on.
    From(usize),
}

/// A run that was read once, for the passes that go on from it: what lies before and below what they change.
pub(crate) struct SharedRun {
    /// What was read: the run under its edits, see `Bench::key`.
    pub(crate) key: u64,
    /// Seed of random edits.
    pub(crate) random: Option<u64>,
    /// What every row has put in.
    pub(crate) common: Vec<Patch>,
    /// As compiled: every pass works on a copy, so that no row sees what another measured.
    pub(crate) program: Program,
    pub(crate) cache: Cache,
    /// What enters every block, and what leaves the last: `[1, end - from, d_model]`.
    pub(crate) streams: Vec<Tensor>,
    /// What was recorded of it, from the first position on.
    pub(crate) values: HashMap<Address, Tensor>,
    /// The first position that rows may change.
    pub(crate) from: usize,
    /// The position after which logits are read.
    pub(crate) read: usize,
    /// Positions that passes cover.
    pub(crate) end: usize,
    /// Whether what comes before a change may be shared.
    pub(crate) shares: bool,
    /// The run's own logits after the position that is read, `[vocab]`.
    pub(crate) logits: Vec<f32>,
    /// What its edits did.
    pub(crate) receipts: Vec<Receipt>,
}

impl SharedRun {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let tensors = self.streams.iter().chain(self.values.values());
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        self.cache.bytes() + tensors.map(size).sum::<usize>()
    }

    /// A value of its first reading, from its first position on.
    pub(crate) fn value(&self, at: Address) -> Option<&Tensor> {
        let stream = match at.site {
            Site::Embed => self.streams.first(),
            Site::ResidPost => self.streams.get(usize::from(at.layer) + 1),
            _ => None,
        };
        self.values.get(&at).or(stream)
    }
}

/// The lab's tap: stop, edit, patch, record, in that order at every site. A patch changes its row, its position and, where
/// it names one, its head, and no bit besides.
pub struct RunTap<'a> {
    /// Edits at work.
    pub program: &'a mut Program,
    /// What to record.
    pub wanted: &'a [Address],
    /// Which positions.
    pub keep: Keep,
    /// What it stops for.
    pub guard: Guard<'a>,
    /// What was recorded, with the batch dimension.
    pub recorded: HashMap<Address, Tensor>,
    patches: HashMap<Address, Vec<(usize, &'a Patch)>>,
    knockouts: Vec<(usize, &'a Knockout)>,
    span: Span,
}

impl<'a> RunTap<'a> {
    /// A tap over these parts; every patch and every knockout with its row of the batch.
    pub fn new(
        program: &'a mut Program,
        patches: &[(usize, &'a Patch)],
        wanted: &'a [Address],
        keep: Keep,
        guard: Guard<'a>,
    ) -> Self {
        let mut by_address: HashMap<Address, Vec<(usize, &'a Patch)>> = HashMap::new();
        for (row, patch) in patches {
            by_address.entry(patch.at).or_default().push((*row, patch));
        }
        Self {
            program,
            wanted,
            keep,
            guard,
            recorded: HashMap::new(),
            patches: by_address,
            knockouts: Vec::new(),
            span: Span::prompt(0),
        }
    }

    /// With edges taken away in some rows.
    #[must_use]
    pub(crate) fn cutting(mut self, knockouts: Vec<(usize, &'a Knockout)>) -> Self {
        self.knockouts = knockouts;
        self
    }

    /// Scores `[rows, heads, tokens, positions]` with every row's edges at -inf.
    fn cut(&self, layer: usize, scores: Tensor) -> Result<Tensor> {
        let (rows, heads, tokens, positions) = scores.dims4()?;
        let window = self.guard.window(layer);
        let mut flags = vec![0u8; rows * heads * tokens * positions];
        let mut any = false;
        for (row, cut) in self.knockouts.iter().filter(|(row, _)| *row < rows) {
            for token in 0..tokens {
                let hidden = cut.hidden(layer, self.span.start + token, window);
                any |= !hidden.is_empty();
                let chosen =
                    (0..heads).filter(|h| cut.heads.is_empty() || cut.heads.contains(&(*h as u32)));
                for head in chosen {
                    let line = ((row * heads + head) * tokens + token) * positions;
                    hidden.iter().for_each(|source| flags[line + source] = 1);
                }
            }
        }
        if !any {
            return Ok(scores);
        }
        let flags = Tensor::from_vec(flags, scores.shape(), scores.device())?;
        let gone = Tensor::new(f32::NEG_INFINITY, scores.device())?.broadcast_as(scores.shape())?;
        Ok(flags.where_cond(&gone, &scores)?)
    }

    /// The positions of a value that are kept.
    fn kept(&self, at: Address, x: &Tensor) -> Result<Tensor> {
        // Rows that run beside the edited ones are nobody's recording.
        let (batch, own) = (x.dim(0)?, self.program.rows(x.dim(0)?));
        let x = if own == batch {
            x.clone()
        } else {
            x.narrow(0, 0, own)?
        };
        let axis = if at.site.spec().axis == Axis::Positions {
            2
        } else {
            1
        };
        let rows = x.dim(axis)?;
        let skip = match self.keep {
            Keep::All => 0,
            Keep::Last => rows - 1,
            Keep::From(first) => first.saturating_sub(self.span.start).min(rows - 1),
        };
        if skip == 0 && self.keep != Keep::Last {
            return Ok(x);
        }
        // A copy, or the slice would keep the whole tensor alive.
        Ok(x.narrow(axis, skip, rows - skip)?.force_contiguous()?)
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
        let x = match self.patches.get(&at) {
            Some(patches) => put(x, patches, self.span)?,
            None => x,
        };
        let x = if at.site == Site::AttnScores && !self.knockouts.is_empty() {
            self.cut(usize::from(at.layer), x)?
        } else {
            x
        };
        if self.wanted.contains(&at) {
            let kept = self.kept(at, &x)?;
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

/// Puts values into `x`, `[rows, tokens, ..width]`, each in its row; those of other positions are left out.
pub(crate) fn put(x: Tensor, patches: &[(usize, &Patch)], span: Span) -> Result<Tensor> {
    let inside = |patch: &Patch| (span.start..span.start + span.len).contains(&patch.position);
    if !patches.iter().any(|(_, patch)| inside(patch)) {
        return Ok(x);
    }
    // A copy of the stream, so that nobody else's handle changes.
    let own = x.force_contiguous()?;
    let (rows, tokens) = (own.dim(0)?, own.dim(1)?);
    let lines = own.reshape((rows * tokens, ()))?;
    for (row, patch) in patches.iter().filter(|(_, patch)| inside(patch)) {
        let line = row * tokens + patch.position - span.start;
        let value = patch.value.to_dtype(own.dtype())?.flatten_all()?;
        match patch.head {
            None => lines.slice_set(&value.unsqueeze(0)?.contiguous()?, 0, line)?,
            Some(head) => {
                let heads = own.dim(2)?;
                let parts = own.reshape((rows * tokens * heads, ()))?;
                parts.slice_set(&value.unsqueeze(0)?.contiguous()?, 0, line * heads + head)?;
            }
        }
    }
    Ok(own)
}
