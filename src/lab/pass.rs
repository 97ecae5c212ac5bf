//! A pass as a value: plain data that says which run is read, how its rows differ, and what is wanted of each row. `lab/runner`
//! carries it out. The runner reads the text that rows share once, and keeps what lies before the first position and below the
//! first block that a row changes.
//!
//! Invariant: a row's result depends only on its own text, edits, patches and knockout, up to the rounding of larger matrix
//! products. To change something else in a row, add a field to [`PassRow`] and its part in [`super::tap::RunTap`]; to get
//! something else from a row, add a field to [`Pass`] and one to [`super::capture::Capture`].

use std::collections::HashMap;
use std::ops::Range;

use candle_core::Tensor;

use super::apply::Program;
use super::capture::Output;
use super::circuit::means::MeanCircuit;
use super::circuit::states::CircuitRow;
use super::gradient::GradientRequest;
use super::run::Run;
use crate::edit::positions::Positions;
use crate::edit::receipt::Receipt;
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::network::cache::Cache;
use crate::model::network::site::{Address, Axis, Site};

/// A patch: a value that overwrites an address at one position of one row, after the edits there.
#[derive(Clone, Debug)]
pub struct Patch {
    pub at: Address,
    pub position: usize,
    /// The head of `q`, `k`, `v` or `z` that is overwritten; none for the whole value.
    pub head: Option<usize>,
    /// `[width]`, or `[head_dim]` for one head.
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

    /// The first block that has to be computed again; `layers` if none.
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

    /// Whether the patch changes the residual stream before block [`Patch::entry`], and nothing inside the block.
    pub(crate) fn is_block_input(&self) -> bool {
        matches!(self.at.site, Site::Embed | Site::ResidPost)
    }

    /// Refuses a patch whose address or position does not exist, and a value of the wrong size.
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

/// An attention knockout of one row: some positions cannot attend to some others (Geva et al. 2023, 2304.14767, section 4). A
/// position can always attend to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knockout {
    /// The layers in which attention is knocked out.
    pub layers: Range<usize>,
    /// The heads; empty for all.
    pub heads: Vec<u32>,
    /// The positions that cannot be attended to.
    pub sources: Vec<usize>,
    /// The positions that cannot attend to them.
    pub targets: Vec<usize>,
    /// The seed of a control, which knocks out as many random other edges of the same positions and heads instead; none for the
    /// knockout itself.
    pub control: Option<u64>,
}

impl Knockout {
    /// The sources to which a query cannot attend in a layer. `window` is the layer's attention window in positions; none if a
    /// query sees all.
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

    /// How many edges the knockout removes over all layers, counted for one head.
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
    /// The row's own text, read as a prompt; empty for the text of the run.
    pub tokens: Vec<u32>,
    /// The row's own edits in place of those of the run.
    pub schedule: Option<Schedule>,
    /// Values that overwrite the row's own.
    pub patches: Vec<Patch>,
    /// The attention edges that are knocked out.
    pub knockout: Option<Knockout>,
    /// The circuit that alone is left of the model. Such rows are read whole, without edits, patches and knockouts.
    pub circuit: Option<CircuitRow>,
    /// The circuit outside of which everything has its mean, under which the row is read with its edits, as under the edit `only`.
    pub only: Option<MeanCircuit>,
}

impl PassRow {
    /// The run with patches.
    pub fn patched(patches: Vec<Patch>) -> Self {
        Self {
            patches,
            ..Self::default()
        }
    }

    /// The run under another schedule of edits.
    pub fn edited(schedule: Schedule) -> Self {
        Self {
            schedule: Some(schedule),
            ..Self::default()
        }
    }

    /// Whether the row has no patches, no knockout and no edits of its own.
    pub(crate) fn is_plain(&self) -> bool {
        self.patches.is_empty()
            && self.knockout.is_none()
            && self.schedule.is_none()
            && self.circuit.is_none()
            && self.only.is_none()
    }

    /// The first position that patches or knockout change.
    pub(crate) fn from(&self) -> Option<usize> {
        let patches = self.patches.iter().map(|patch| patch.position);
        let targets = self.knockout.iter().flat_map(|k| k.targets.iter().copied());
        patches.chain(targets).min()
    }

    /// The first block that patches or knockout change; `layers` if there is none.
    pub(crate) fn entry(&self, layers: usize) -> usize {
        let patches = self.patches.iter().map(|patch| patch.entry(layers));
        let cut = self.knockout.iter().map(|k| k.layers.start);
        patches.chain(cut).min().unwrap_or(layers)
    }
}

/// What is read, and what is wanted of each row.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// The text, its edits and its seed. Rows with a text or edits of their own override them.
    pub run: Run,
    /// Accepts numbers that are not finite: the caller looks at every row. This holds without the flag for rows with patches, a
    /// knockout or edits of their own, which are trials.
    pub lenient: bool,
    /// Patches of every row, applied before the row's own.
    pub common: Vec<Patch>,
    /// The first position at which rows may differ. What lies before is read once, and kept for later passes. By default it is
    /// the first position that a row changes.
    pub from: Option<usize>,
    pub rows: Vec<PassRow>,
    /// Addresses that are recorded of every row, from position `from` on.
    pub record: Vec<Address>,
    /// Stops above the last block that a recorded address needs, where nothing is wanted of the output: what lies above is neither
    /// computed nor tested. Only for rows without edits, patches and knockout.
    pub only_recorded: bool,
    /// What is wanted of the model's own output.
    pub output: Output,
    /// The most tokens with which every row is continued greedily; an end token counts.
    pub tail: usize,
    /// The gradient that is wanted of every row, instead of output and tail.
    pub gradient: Option<GradientRequest>,
}

impl Pass {
    /// A run, without any output.
    pub fn of(run: Run) -> Self {
        Self {
            run,
            rows: vec![PassRow::default()],
            ..Self::default()
        }
    }

    /// A run, and the model's output at some of its positions.
    pub fn after(run: Run, output: Output) -> Self {
        Self {
            output,
            ..Self::of(run)
        }
    }

    /// A batch of prompts under one schedule.
    pub fn prompts(prompts: &[Vec<u32>], schedule: &Schedule, output: Output) -> Self {
        let run = Run::plain(Vec::new()).under(schedule);
        Self {
            output,
            ..Self::texts(run, prompts.iter().cloned())
        }
    }

    /// A batch of texts under the edits of `run`.
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

/// A run that was read once, kept for the passes that continue from it: what lies before the positions and below the blocks
/// that they change.
pub(crate) struct SharedRun {
    /// The key of the run under its edits, see `Lab::key`.
    pub(crate) key: u64,
    /// Patches of every row.
    pub(crate) common: Vec<Patch>,
    /// The program as compiled. Every pass works on a copy, so that no row sees what another row measured.
    pub(crate) program: Program,
    pub(crate) cache: Cache,
    /// The stream that enters each block, then the one that leaves the last block: `[1, end - from, d_model]` each.
    pub(crate) streams: Vec<Tensor>,
    /// Recorded values of the run, from position `from` on.
    pub(crate) values: HashMap<Address, Tensor>,
    /// The first position that rows may change.
    pub(crate) from: usize,
    /// The position whose output was read.
    pub(crate) read: usize,
    /// The number of positions that passes cover.
    pub(crate) end: usize,
    /// The run's own logits after position `read`, `[1, vocab]`.
    pub(crate) logits: Tensor,
    /// The receipts of the run's edits.
    pub(crate) receipts: Vec<Receipt>,
}

/// A beginning, and what is kept of it.
pub(crate) struct ReadPrefix {
    /// Its tokens.
    pub(crate) tokens: Vec<u32>,
    /// Keys and values, and what was recorded of it, once a text has asked for it.
    pub(crate) read: Option<(Cache, HashMap<Address, Tensor>)>,
}

/// The memory of a tensor, in bytes.
fn size(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

impl ReadPrefix {
    /// The memory held, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = |(cache, values): &(Cache, HashMap<Address, Tensor>)| {
            cache.bytes() + values.values().map(size).sum::<usize>()
        };
        self.read.as_ref().map_or(0, bytes)
    }
}

impl SharedRun {
    /// The memory held, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let tensors = self.streams.iter().chain(self.values.values());
        self.cache.bytes() + tensors.map(size).sum::<usize>()
    }

    /// The value at an address from position `from` on, if it was recorded or is one of the kept streams.
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
