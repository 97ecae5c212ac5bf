//! What the rows of a text share: the text read once, with what lies before and below anything that rows change.
//!
//! Invariant: it belongs to one run, its common patches and a first position. To share something else, add a field here and
//! fill it in [`super::runner`].

use std::collections::HashMap;

use candle_core::Tensor;

use super::apply::Program;
use super::pass::Patch;
use crate::edit::receipt::Receipt;
use crate::model::network::cache::Cache;
use crate::model::network::site::{Address, Site};

/// A run that was read once, for the passes that go on from it: what lies before and below what they change.
pub(crate) struct SharedRun {
    /// What was read: the run under its edits, see `Lab::key`.
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
    /// The run's own logits after the position that is read, `[1, vocab]`.
    pub(crate) logits: Tensor,
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
