//! Slots: vectors that overwrite values of a run, row by row, and the tap that puts them there.
//!
//! Invariant: stop, edit, put into slots, keep, in that order at every site; a slot changes its row, its position and, where it
//! names one, its head, and no bit besides. To put something else into a slot, add a field to [`Slot`] and its arm in [`put`].

use std::collections::HashMap;
use std::ops::Range;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::lab::apply::Program;
use crate::lab::guard::Guard;
use crate::model::Model;
use crate::model::network::site::{Address, Axis, Site};
use crate::model::network::tap::{Leaving, Span, Tap};

/// A vector for a slot: it overwrites the value of an address at a position, after the edits there.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Where.
    pub at: Address,
    /// At which position.
    pub position: usize,
    /// Which head of `q`, `k`, `v` or `z` alone.
    pub head: Option<usize>,
    /// `[width]`, or `[head_dim]` of one head.
    pub value: Tensor,
}

impl Slot {
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
}

/// What one row has in its slots; none at all is the run itself.
pub type Trial = Vec<Slot>;

/// Refuses a slot that does not exist, and a value that does not fit it.
pub(crate) fn check(model: &Model, slot: &Slot, positions: Range<usize>) -> Result<()> {
    model.offers(slot.at)?;
    let refused = |why: String| {
        Err(Error::Refused {
            address: slot.at.to_string(),
            why,
        })
    };
    let axis = slot.at.site.spec().axis;
    if axis == Axis::Positions {
        return refused(
            "its values run over positions, so no vector of a position fits. Use z.".into(),
        );
    }
    if !positions.contains(&slot.position) {
        return refused(format!(
            "position {} is not among those that are read again, {} to {}.",
            slot.position,
            positions.start,
            positions.end.saturating_sub(1)
        ));
    }
    let blueprint = &model.transformer.blueprint;
    let width = match (slot.head, axis) {
        (None, _) => model.width(slot.at.site),
        (Some(head), Axis::Heads) if head < blueprint.heads => blueprint.head_dim,
        (Some(head), Axis::KvHeads) if head < blueprint.kv_heads => blueprint.head_dim,
        (Some(head), _) => return refused(format!("it has no head {head}. Use z.")),
    };
    if slot.value.elem_count() == width {
        Ok(())
    } else {
        refused(format!(
            "it has {width} numbers, and {} were given.",
            slot.value.elem_count()
        ))
    }
}

/// The tap of a replay: stop, edit, put into slots, keep.
pub(crate) struct SlotTap<'a> {
    program: &'a mut Program,
    slots: HashMap<Address, Vec<(usize, &'a Slot)>>,
    /// What is kept.
    pub(crate) wanted: &'a [Address],
    /// The first position that is kept.
    pub(crate) from: usize,
    /// What was kept.
    pub(crate) kept: HashMap<Address, Tensor>,
    guard: Guard<'a>,
    /// The positions of the pass.
    pub(crate) span: Span,
}

impl<'a> SlotTap<'a> {
    pub(crate) fn new(
        program: &'a mut Program,
        slots: Vec<(usize, &'a Slot)>,
        guard: Guard<'a>,
    ) -> Self {
        let mut by_address: HashMap<Address, Vec<(usize, &'a Slot)>> = HashMap::new();
        for (row, slot) in slots {
            by_address.entry(slot.at).or_default().push((row, slot));
        }
        Self {
            program,
            slots: by_address,
            wanted: &[],
            from: 0,
            kept: HashMap::new(),
            guard,
            span: Span::prompt(0),
        }
    }

    /// Logits after one position of a pass, `[rows, vocab]`; the stream holds that position alone, or the whole span.
    pub(crate) fn read_out(
        &mut self,
        model: &Model,
        x: &Tensor,
        span: Span,
        position: usize,
    ) -> Result<Tensor> {
        let x = if x.dim(1)? == 1 {
            x.clone()
        } else {
            x.narrow(1, position - span.start, 1)?.contiguous()?
        };
        // Edits after the last block see this position and no other.
        self.begin(Span {
            start: position,
            len: 1,
            ..span
        });
        let (logits, _) = model.transformer.read_out(&x, None, self)?;
        Ok(logits.squeeze(1)?)
    }
}

impl Tap for SlotTap<'_> {
    fn reads(&mut self, tokens: &Tensor, span: Span) -> Result<()> {
        self.program.admit(tokens, span)
    }

    fn begin(&mut self, span: Span) {
        self.span = span;
        self.program.begin(span);
    }

    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        let x = self.program.apply(at, x, self.span)?;
        let x = match self.slots.get(&at) {
            Some(slots) => put(x, slots, self.span)?,
            None => x,
        };
        if self.wanted.contains(&at) {
            let skip = self.from.saturating_sub(self.span.start);
            let kept = if skip == 0 {
                x.clone()
            } else {
                // A copy, or the slice would keep the whole tensor alive.
                x.narrow(1, skip, x.dim(1)? - skip)?.force_contiguous()?
            };
            self.kept.insert(at, kept);
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

/// Puts vectors into the slots of `x`, `[rows, tokens, ..width]`, each in its row; those of other positions are left out.
pub(crate) fn put(x: Tensor, slots: &[(usize, &Slot)], span: Span) -> Result<Tensor> {
    let inside = |slot: &Slot| (span.start..span.start + span.len).contains(&slot.position);
    if !slots.iter().any(|(_, slot)| inside(slot)) {
        return Ok(x);
    }
    // A copy of the stream, so that nobody else's handle changes.
    let own = x.force_contiguous()?;
    let (rows, tokens) = (own.dim(0)?, own.dim(1)?);
    let lines = own.reshape((rows * tokens, ()))?;
    for (row, slot) in slots.iter().filter(|(_, slot)| inside(slot)) {
        let line = row * tokens + slot.position - span.start;
        let value = slot.value.to_dtype(own.dtype())?.flatten_all()?;
        match slot.head {
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
