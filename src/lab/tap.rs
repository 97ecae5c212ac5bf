//! The tap that the lab passes to the forward pass: at every site it stops, edits, patches and records.
//!
//! Invariant: it does these in that order, and recording changes no bit of the run. Under a circuit receivers get their streams before
//! edits and patches act on what they read, and what senders write is taken after them. To change something else in a row, add it
//! to [`super::pass::PassRow`] and its part in [`RunTap`].

use std::collections::HashMap;

use candle_core::{DType, Tensor};

use super::finite_guard::Guard;
use super::pass::{Knockout, Patch};
use super::row_programs::RowPrograms;
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Axis, Site};
use crate::model::network::tap::{PassSpan, Tap, TapOutcome};

/// Which positions of a value are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedPositions {
    /// All positions of the pass.
    All,
    Last,
    /// The positions from this one on.
    From(usize),
}

/// The lab's tap: at every site it stops if it must, edits, patches and records, in that order. A patch changes the values of
/// one row at one position, of one head if it names one, and no other bit.
pub struct RunTap<'a> {
    /// The compiled edits, by rows.
    pub programs: RowPrograms<'a>,
    /// The addresses to record.
    pub wanted: &'a [Address],
    pub keep: RecordedPositions,
    /// Stops the pass if it is cancelled or if its numbers are not finite.
    pub guard: Guard<'a>,
    /// The recorded values, with their batch dimension.
    pub recorded: HashMap<Address, Tensor>,
    patches: HashMap<Address, Vec<(usize, &'a Patch)>>,
    knockouts: Vec<(usize, &'a Knockout)>,
    span: PassSpan,
}

impl<'a> RunTap<'a> {
    /// A tap of these parts; each patch comes with the row that it changes.
    pub fn new(
        programs: RowPrograms<'a>,
        patches: &[(usize, &'a Patch)],
        wanted: &'a [Address],
        keep: RecordedPositions,
        guard: Guard<'a>,
    ) -> Self {
        let mut by_address: HashMap<Address, Vec<(usize, &'a Patch)>> = HashMap::new();
        for (row, patch) in patches {
            by_address.entry(patch.at).or_default().push((*row, patch));
        }
        Self {
            programs,
            wanted,
            keep,
            guard,
            recorded: HashMap::new(),
            patches: by_address,
            knockouts: Vec::new(),
            span: PassSpan::prompt(0),
        }
    }

    /// Adds attention knockouts, each with the row in which it acts.
    #[must_use]
    pub(crate) fn cutting(mut self, knockouts: Vec<(usize, &'a Knockout)>) -> Self {
        self.knockouts = knockouts;
        self
    }

    /// Whether edges of attention are removed in any row.
    pub(crate) fn cuts(&self) -> bool {
        !self.knockouts.is_empty()
    }

    /// Scores `[rows, heads, tokens, positions]` after the knockouts: -inf at every edge that is removed.
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

    /// The part of a value that is recorded: the edited rows, at the positions of [`RunTap::keep`].
    fn kept(&self, at: Address, x: &Tensor) -> Result<Tensor> {
        // Rows of the baseline run, which come after the edited ones, are not recorded.
        let (batch, own) = (x.dim(0)?, self.programs.edited(x.dim(0)?));
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
            RecordedPositions::All => 0,
            RecordedPositions::Last => rows - 1,
            RecordedPositions::From(first) => first.saturating_sub(self.span.start).min(rows - 1),
        };
        if skip == 0 && self.keep != RecordedPositions::Last {
            return Ok(x);
        }
        // A copy: a slice would keep the whole tensor in memory.
        Ok(x.narrow(axis, skip, rows - skip)?.force_contiguous()?)
    }
}

impl Tap for RunTap<'_> {
    fn reads(&mut self, tokens: &Tensor, span: PassSpan) -> Result<()> {
        self.programs.admit(tokens, span)
    }

    fn begin(&mut self, span: PassSpan) {
        self.span = span;
        self.programs.begin(span);
    }

    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        let circuit = self.programs.has_circuit_at(at);
        let x = if circuit {
            let transformer = self.guard.transformer();
            self.programs.give_streams(transformer, at, x)?
        } else {
            x
        };
        let x = self.programs.apply(at, x, self.span)?;
        let x = match self.patches.get(&at) {
            Some(patches) => put(x, patches, self.span)?,
            None => x,
        };
        let x = if at.site == Site::AttnScores && !self.knockouts.is_empty() {
            self.cut(usize::from(at.layer), x)?
        } else {
            x
        };
        let x = if circuit {
            let transformer = self.guard.transformer();
            self.programs.take_writes(transformer, at, x, self.span)?
        } else {
            x
        };
        if self.wanted.contains(&at) {
            if let Some(why) = self.programs.hides(at.site) {
                return Err(Error::Refused {
                    address: at.to_string(),
                    why: why.into(),
                });
            }
            let kept = self.kept(at, &x)?;
            let placement = &self.guard.transformer().placement;
            self.recorded.insert(at, placement.bring_home(at, &kept)?);
        }
        Ok(x)
    }

    fn wants(&self, at: Address) -> bool {
        self.programs.touches(at) || self.patches.contains_key(&at) || self.wanted.contains(&at)
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.guard.checkpoint()
    }

    fn leaves(&mut self, leaving: TapOutcome<'_>) -> Result<()> {
        self.guard.leaves(leaving, self.span, &self.programs)
    }
}

/// Overwrites values in `x`, `[rows, tokens, ..width]`, each patch in its row; patches at positions outside the pass are
/// skipped.
pub(crate) fn put(x: Tensor, patches: &[(usize, &Patch)], span: PassSpan) -> Result<Tensor> {
    let inside = |patch: &Patch| (span.start..span.start + span.len).contains(&patch.position);
    if !patches.iter().any(|(_, patch)| inside(patch)) {
        return Ok(x);
    }
    if x.track_op() {
        // A gradient does not pass through what is written in place: where values are put, it ends.
        let ones = patches.iter().map(|(row, patch)| {
            let value = patch.value.ones_like()?;
            let ones = Patch {
                value,
                ..(*patch).clone()
            };
            Ok((*row, ones))
        });
        let ones = ones.collect::<Result<Vec<_>>>()?;
        let places: Vec<(usize, &Patch)> = ones.iter().map(|(row, patch)| (*row, patch)).collect();
        let nothing = x.detach().zeros_like()?;
        let places = put(nothing.clone(), &places, span)?.to_dtype(DType::F32)?;
        let values = put(nothing, patches, span)?;
        return Ok(places.ne(0f32)?.where_cond(&values, &x)?);
    }
    // A copy: other holders of the tensor must not see the change.
    let own = x.force_contiguous()?;
    let (rows, tokens) = (own.dim(0)?, own.dim(1)?);
    let lines = own.reshape((rows * tokens, ()))?;
    for (row, patch) in patches.iter().filter(|(_, patch)| inside(patch)) {
        let line = row * tokens + patch.position - span.start;
        let value = patch.value.to_dtype(own.dtype())?.on_device(own.device())?;
        let value = value.flatten_all()?;
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
