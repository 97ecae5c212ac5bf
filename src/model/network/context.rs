//! What a pass shares between its layers: its positions, and the masks and rotations that follow from them.
//!
//! Invariant: masks and rotations belong to the positions of `span`. A mask is made when the first layer asks for it: the CPU
//! kernels need none. To share more, add a field and fill it in [`super::transformer::Transformer::prepare`].

use std::collections::BTreeSet;
use std::sync::OnceLock;

use candle_core::{Device, Tensor};

use super::blueprint::Blueprint;
use super::rope::Rotation;
use super::tap::PassSpan;
use crate::error::Result;

/// Masks by attention window: `[tokens, positions]`, 0 or -inf, f32; `None` where every query sees all positions.
type Masks = Vec<(Option<usize>, Option<Tensor>)>;

/// What a pass shares between its layers.
pub struct PassContext<'a> {
    /// The architecture.
    pub blueprint: &'a Blueprint,
    device: &'a Device,
    /// The rotations of these positions; [`super::blueprint::LayerSpec::rope`] is an index into them.
    pub rotations: Vec<Rotation>,
    /// The positions of the pass.
    pub span: PassSpan,
    masks: OnceLock<Masks>,
}

impl<'a> PassContext<'a> {
    pub fn new(
        blueprint: &'a Blueprint,
        device: &'a Device,
        rotations: Vec<Rotation>,
        span: PassSpan,
    ) -> Self {
        Self {
            blueprint,
            device,
            rotations,
            span,
            masks: OnceLock::new(),
        }
    }

    /// The mask for a window, `[tokens, start + tokens]`: 0 where a query may attend, -inf elsewhere. None if every query may
    /// attend to all positions.
    pub(super) fn mask(&self, window: Option<usize>) -> Result<Option<Tensor>> {
        let masks = if let Some(masks) = self.masks.get() {
            masks
        } else {
            let windows: BTreeSet<_> = self.blueprint.layers.iter().map(|l| l.window).collect();
            let made = windows.into_iter().map(|w| Ok((w, self.make(w)?)));
            let made = made.collect::<Result<Masks>>()?;
            self.masks.get_or_init(|| made)
        };
        let found = masks.iter().find(|(w, _)| *w == window);
        Ok(found.and_then(|(_, mask)| mask.clone()))
    }

    fn make(&self, window: Option<usize>) -> Result<Option<Tensor>> {
        let span = self.span;
        let total = span.start + span.len;
        let narrow = window.filter(|w| *w < total);
        if span.len == 1 && narrow.is_none() {
            return Ok(None);
        }
        let sees = |q: usize, k: usize| k <= q && narrow.is_none_or(|w| k + w > q);
        let rows = (span.start..total).flat_map(|q| {
            (0..total).map(move |k| if sees(q, k) { 0.0 } else { f32::NEG_INFINITY })
        });
        let rows: Vec<f32> = rows.collect();
        let shape = (span.len, total);
        Ok(Some(Tensor::from_vec(rows, shape, self.device)?))
    }
}
