//! A pass as a value: what is read, what differs between its rows, and what is wanted of each. Plain data;
//! `lab/runner` carries it out.
//!
//! Invariant: a row's answer depends on its own text, patches and knockout alone, to the rounding of wider products. To
//! change something else in a row, add a field to [`PassRow`] and its part in [`super::tap::RunTap`]; to want something else of
//! it, add a field to [`Pass`] and one to [`RowCapture`].

use std::collections::HashMap;
use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use super::run::{Recording, Run};
use super::sample::log_softmax;
use crate::edit::positions::Positions;
use crate::edit::receipt::Receipt;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::network::site::{Address, Axis, Site};

/// A value that is put elsewhere: it overwrites an address at a position of one row, after the edits there.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Where.
    pub at: Address,
    /// At which position.
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
        match self.at.site {
            Site::Embed => 0,
            Site::ResidPost => layer + 1,
            Site::FinalNorm | Site::LogitsRaw | Site::Logits => layers,
            _ => layer,
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
    pub null: Option<u64>,
}

impl Knockout {
    /// The sources that a query loses in a layer whose queries see `window` positions; none for all.
    pub(crate) fn hidden(&self, layer: usize, query: usize, window: Option<usize>) -> Vec<usize> {
        if !self.layers.contains(&layer) || !self.targets.contains(&query) {
            return Vec::new();
        }
        let spans = self.sources.iter().map(|j| Positions::Span(*j, j + 1));
        let cut = super::cut::Cut {
            heads: Vec::new(),
            sources: spans.collect(),
            strength: 1.0,
            window,
            null: self.null.map(|seed| seed.wrapping_add(layer as u64)),
        };
        cut.hidden(query, usize::MAX)
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

    /// Whether it is its text and nothing else.
    pub(crate) fn is_plain(&self) -> bool {
        self.patches.is_empty() && self.knockout.is_none()
    }

    /// The first position that differs from the run.
    pub(crate) fn from(&self) -> Option<usize> {
        let patches = self.patches.iter().map(|patch| patch.position);
        let targets = self.knockout.iter().flat_map(|k| k.targets.iter().copied());
        patches.chain(targets).min()
    }

    /// The first block that differs from the run.
    pub(crate) fn entry(&self, layers: usize) -> usize {
        let patches = self.patches.iter().map(|patch| patch.entry(layers));
        let cut = self.knockout.iter().map(|k| k.layers.start);
        patches.chain(cut).min().unwrap_or(layers)
    }
}

/// After which positions the model's own logits are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logits {
    /// After none.
    #[default]
    None,
    /// After the last so many.
    Last(usize),
    /// After this one.
    After(usize),
}

/// What is read, and what is wanted of it.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// The text, its edits and its seed. Rows with a text of their own have its edits.
    pub run: Run,
    /// Replaces directions and units of the edits by random ones of equal size, from this seed.
    pub random: Option<u64>,
    /// Lets numbers that are not finite pass: the caller looks at every row. Rows that are patched or cut are trials, and
    /// always looked at by who asks.
    pub lenient: bool,
    /// What every row has put in, before its own patches.
    pub common: Vec<Patch>,
    /// Rows may differ from this position on; what lies before is read once, and kept for the passes that follow. By default
    /// the first position at which one does.
    pub from: Option<usize>,
    /// The rows.
    pub rows: Vec<PassRow>,
    /// Addresses that are recorded of plain rows, from position `from` on.
    pub record: Vec<Address>,
    /// Which logits are wanted.
    pub logits: Logits,
    /// By how many tokens every row is continued greedily, an end token included.
    pub tail: usize,
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

/// What a row of a pass comes to.
#[derive(Clone, Debug, Default)]
pub struct RowCapture {
    /// The model's own logits after each position that was asked for, `[positions][vocab]`.
    pub logits: Vec<Vec<f32>>,
    /// What was recorded, without the batch dimension.
    pub recorded: HashMap<Address, Tensor>,
    /// What the edits did, in a plain row.
    pub receipts: Vec<Receipt>,
    /// What the row was continued with.
    pub tail: Vec<u32>,
    /// Whether the continuation broke off because its numbers were not finite any more.
    pub silent: bool,
}

impl RowCapture {
    /// Logits after the last position that was asked for, `[vocab]`; empty where none was.
    pub fn last(&self) -> &[f32] {
        self.logits.last().map_or(&[], Vec::as_slice)
    }

    /// Natural log-probabilities after each position that was asked for, `[positions][vocab]`.
    pub fn log_probs(mut self) -> Vec<Vec<f32>> {
        self.logits.par_iter_mut().for_each(|row| log_softmax(row));
        self.logits
    }

    /// As a recording, with its logits where they are those after the last position.
    pub(super) fn recording(mut self, with_output: bool) -> Recording {
        Recording {
            output: self.logits.pop().filter(|_| with_output),
            tensors: self.recorded,
            receipts: self.receipts,
        }
    }

    /// A recorded value.
    ///
    /// # Errors
    ///
    /// When it was not asked for.
    pub fn get(&self, at: Address) -> Result<&Tensor> {
        self.recorded.get(&at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "it was not recorded. Ask for it before the run.".into(),
        })
    }
}
