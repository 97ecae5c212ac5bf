//! A pass as a value: what is read, what differs between its rows, and what is wanted of each. Plain data;
//! `lab/runner` carries it out, and keeps what rows share: the text read once, with what lies before and below what they change.
//!
//! Invariant: a row's answer depends on its own text, edits, patches and knockout alone, to the rounding of wider products. To
//! change something else in a row, add a field to [`PassRow`] and its part in [`super::tap::RunTap`]; to want something else of
//! it, add a field to [`Pass`] and one to [`super::capture::Capture`].

use std::collections::HashMap;
use std::ops::Range;

use candle_core::Tensor;

use super::apply::Program;
use super::capture::Output;
use super::gradient::GradientRequest;
use super::run::Run;
use crate::edit::positions::Positions;
use crate::edit::receipt::Receipt;
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::network::cache::Cache;
use crate::model::network::site::{Address, Axis, Site};

/// A value that is put elsewhere: it overwrites an address at a position of one row, after the edits there.
#[derive(Clone, Debug)]
pub struct Patch {
    pub at: Address,
    pub position: usize,
    /// Which head of `q`, `k`, `v` or `z` alone.
    pub head: Option<usize>,
    /// `[width]`, or `[head_dim]` of one head.
    pub value: Tensor,
}

impl Patch {
    /// A whole value.
    pub fn new(at: Address, position: usize, value: Tensor) -> Self {
        Self {
            at,
            position,
            head: None,
            value,
        }
    }

    /// The first block that has to be computed again.
    pub(crate) fn entry(&self, layers: usize) -> usize {
        let layer = usize::from(self.at.layer);
        if self.at.site == Site::Embed {
            0
        } else if self.at.site.spec().layered {
            layer + usize::from(self.at.site == Site::ResidPost)
        } else {
            layers
        }
    }

    /// Whether it lies in the stream that enters the block of its entry, before anything of the block.
    pub(crate) fn at_the_door(&self) -> bool {
        matches!(self.at.site, Site::Embed | Site::ResidPost)
    }

    /// Refuses a patch that has no place, and a value that does not fit it.
    pub(crate) fn check(&self, model: &Model, positions: Range<usize>) -> Result<()> {
        model.offers(self.at)?;
        let refused = |why: String| {
            Err(Error::Refused {
                address: self.at.to_string(),
                why,
            })
        };
        let axis = self.at.site.spec().axis;
        if axis == Axis::Positions {
            return refused(
                "its values run over positions, so a vector of one position cannot be patched there. Use z.".into(),
            );
        }
        if !positions.contains(&self.position) {
            return refused(format!(
                "position {} is not among those that are read again, {} to {}.",
                self.position,
                positions.start,
                positions.end.saturating_sub(1)
            ));
        }
        let blueprint = &model.transformer.blueprint;
        let width = match (self.head, axis) {
            (None, _) => model.width(self.at.site),
            (Some(head), Axis::Heads) if head < blueprint.heads => blueprint.head_dim,
            (Some(head), Axis::KvHeads) if head < blueprint.kv_heads => blueprint.head_dim,
            (Some(head), _) => return refused(format!("it has no head {head}. Use z.")),
        };
        if self.value.elem_count() == width {
            Ok(())
        } else {
            refused(format!(
                "it has {width} numbers, and {} were given.",
                self.value.elem_count()
            ))
        }
    }
}

/// An attention knockout of one row: some positions cannot read some others (Geva et al. 2023, 2304.14767, section 4). A
/// position always reads itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knockout {
    /// The layers in which it acts.
    pub layers: Range<usize>,
    /// The heads; empty for all.
    pub heads: Vec<u32>,
    /// The positions that cannot be read.
    pub sources: Vec<usize>,
    /// The positions that cannot read them.
    pub targets: Vec<usize>,
    /// Cuts as many random other edges of the same positions and heads instead.
    pub control: Option<u64>,
}

impl Knockout {
    /// The sources that a query loses in a layer whose queries see `window` positions; none for all.
    pub(crate) fn hidden(&self, layer: usize, query: usize, window: Option<usize>) -> Vec<usize> {
        if !self.layers.contains(&layer) || !self.targets.contains(&query) {
            return Vec::new();
        }
        let spans = self.sources.iter().map(|j| Positions::Span(*j, j + 1));
        let rule = super::knockout::KnockoutRule {
            heads: Vec::new(),
            sources: spans.collect(),
            strength: 1.0,
            window,
            control: self.control.map(|seed| seed.wrapping_add(layer as u64)),
        };
        rule.hidden_sources(query, usize::MAX)
    }

    /// How many edges it takes away from a model, heads apart.
    pub fn edges(&self, model: &Model) -> usize {
        let windows = model.transformer.blueprint.layers.iter().map(|l| l.window);
        let own = windows.enumerate().map(|(layer, window)| {
            let queries = self.targets.iter();
            queries
                .map(|q| self.hidden(layer, *q, window).len())
                .sum::<usize>()
        });
        own.sum()
    }
}

/// One row of a pass; the default is the run itself.
#[derive(Clone, Debug, Default)]
pub struct PassRow {
    /// A text of its own, read as a prompt; empty for that of the run.
    pub tokens: Vec<u32>,
    /// Edits of its own, instead of those of the run.
    pub schedule: Option<Schedule>,
    /// What is put in.
    pub patches: Vec<Patch>,
    /// What some of its positions cannot read.
    pub knockout: Option<Knockout>,
}

impl PassRow {
    /// The run with values put in.
    pub fn patched(patches: Vec<Patch>) -> Self {
        Self {
            patches,
            ..Self::default()
        }
    }

    /// The run under other edits.
    pub fn edited(schedule: Schedule) -> Self {
        Self {
            schedule: Some(schedule),
            ..Self::default()
        }
    }

    /// Whether it is its text under the edits of the run and nothing else.
    pub(crate) fn is_plain(&self) -> bool {
        self.patches.is_empty() && self.knockout.is_none() && self.schedule.is_none()
    }

    /// The first position at which patches and knockout differ from the run.
    pub(crate) fn from(&self) -> Option<usize> {
        let patches = self.patches.iter().map(|patch| patch.position);
        let targets = self.knockout.iter().flat_map(|k| k.targets.iter().copied());
        patches.chain(targets).min()
    }

    /// The first block in which patches and knockout differ from the run.
    pub(crate) fn entry(&self, layers: usize) -> usize {
        let patches = self.patches.iter().map(|patch| patch.entry(layers));
        let cut = self.knockout.iter().map(|k| k.layers.start);
        patches.chain(cut).min().unwrap_or(layers)
    }
}

/// What is read, and what is wanted of it.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// The text, its edits and its seed. Rows with a text of their own have its edits, unless they have their own.
    pub run: Run,
    /// Replaces directions and units of the edits by random ones of equal size, from this seed.
    pub random: Option<u64>,
    /// Lets numbers that are not finite pass: the caller looks at every row. Rows with patches, a knockout or edits of their own
    /// are trials, and always looked at by who asks.
    pub lenient: bool,
    /// What every row has put in, before its own patches.
    pub common: Vec<Patch>,
    /// Rows may differ from this position on; what lies before is read once, and kept for the passes that follow. By default
    /// the first position at which one does.
    pub from: Option<usize>,
    pub rows: Vec<PassRow>,
    /// Addresses that are recorded of every row, from position `from` on.
    pub record: Vec<Address>,
    /// What is wanted of the model's own output.
    pub output: Output,
    /// By how many tokens every row is continued greedily, an end token included.
    pub tail: usize,
    /// The gradient that is wanted of every row, instead of output and tail.
    pub gradient: Option<GradientRequest>,
}

impl Pass {
    /// A run alone.
    pub fn of(run: Run) -> Self {
        Self {
            run,
            rows: vec![PassRow::default()],
            ..Self::default()
        }
    }

    /// A run alone, and what its last token is followed by.
    pub fn after(run: Run, output: Output) -> Self {
        Self {
            output,
            ..Self::of(run)
        }
    }

    /// Prompts side by side under a schedule.
    pub fn prompts(prompts: &[Vec<u32>], schedule: &Schedule, output: Output) -> Self {
        let run = Run::plain(Vec::new()).under(schedule);
        Self {
            output,
            ..Self::texts(run, prompts.iter().cloned())
        }
    }

    /// Texts of their own under the same edits.
    pub fn texts(run: Run, texts: impl IntoIterator<Item = Vec<u32>>) -> Self {
        let row = |tokens| PassRow {
            tokens,
            ..PassRow::default()
        };
        Self {
            run,
            rows: texts.into_iter().map(row).collect(),
            ..Self::default()
        }
    }
}

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
        let stream = if at.site == Site::Embed {
            self.streams.first()
        } else {
            let after = self.streams.get(usize::from(at.layer) + 1);
            after.filter(|_| at.site == Site::ResidPost)
        };
        self.values.get(&at).or(stream)
    }
}
