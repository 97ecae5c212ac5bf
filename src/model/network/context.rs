//! What a pass shares between its layers: its positions, and the masks and rotations that follow from them.
//!
//! Invariant: masks and rotations belong to the positions of `span`. A mask is made when the first layer asks for it: the CPU
//! kernels need none. To share more, add a field and fill it in [`super::transformer::Transformer::prepare`].

use std::collections::BTreeSet;
use std::sync::OnceLock;

use candle_core::{Device, Tensor};

use super::blueprint::Blueprint;
use super::placement::Placement;
use super::rope::Rotation;
use super::tap::PassSpan;
use crate::error::Result;

/// Masks by attention window: `[tokens, positions]`, 0 or -inf, f32; `None` where every query sees all positions.
type Masks = Vec<(Option<usize>, Option<Tensor>)>;

/// What a pass shares between its layers.
pub struct PassContext<'a> {
    /// The architecture.
    pub blueprint: &'a Blueprint,
    placement: &'a Placement,
    /// The rotations of these positions on each device.
    rotations: Vec<Vec<Rotation>>,
    /// The positions of the pass.
    pub span: PassSpan,
    /// By device.
    masks: Vec<OnceLock<Masks>>,
}

impl<'a> PassContext<'a> {
    pub fn new(
        blueprint: &'a Blueprint,
        placement: &'a Placement,
        rotations: Vec<Vec<Rotation>>,
        span: PassSpan,
    ) -> Self {
        let devices = placement.devices().iter();
        Self {
            blueprint,
            placement,
            rotations,
            span,
            masks: devices.map(|_| OnceLock::new()).collect(),
        }
    }

    /// The rotation of a layer's queries and keys, where the layer is; none where they are not rotated.
    pub(super) fn rotation(&self, layer: usize) -> Option<&Rotation> {
        let own = self.rotations.get(self.placement.of(layer))?;
        own.get(self.blueprint.layers[layer].rope?)
    }

    /// The mask of a layer, `[tokens, start + tokens]`, where the layer is: 0 where a query may attend, -inf elsewhere. None if every
    /// query may attend to all positions.
    pub(super) fn mask(&self, layer: usize) -> Result<Option<Tensor>> {
        let window = self.blueprint.layers[layer].window;
        let held = &self.masks[self.placement.of(layer)];
        let masks = if let Some(masks) = held.get() {
            masks
        } else {
            let device = self.placement.device(layer);
            let windows: BTreeSet<_> = self.blueprint.layers.iter().map(|l| l.window).collect();
            let made = windows.into_iter().map(|w| Ok((w, self.make(w, device)?)));
            let made = made.collect::<Result<Masks>>()?;
            held.get_or_init(|| made)
        };
        let found = masks.iter().find(|(w, _)| *w == window);
        Ok(found.and_then(|(_, mask)| mask.clone()))
    }

    fn make(&self, window: Option<usize>, device: &Device) -> Result<Option<Tensor>> {
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
        Ok(Some(Tensor::from_vec(rows, shape, device)?))
    }
}
