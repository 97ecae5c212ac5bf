//! The way back through a norm, with the statistics of the rows that it normed.
//!
//! Invariant: the scale is not held: its own change with the input is part of the gradient.

use candle_core::Tensor;

use crate::error::Result;
use crate::model::kernels::adjoint::{NormShape, Spread, norm};
use crate::model::network::blueprint::NormKind;
use crate::model::network::norm::Norm;
use crate::model::network::numbers::{on_numbers, plain};

/// A norm, and the rows that it normed.
pub(super) struct NormAdjoint {
    /// None for a norm that changes nothing.
    rows: Option<Vec<f32>>,
    gain: Vec<f32>,
    width: usize,
    epsilon: f32,
    centred: bool,
}

impl NormAdjoint {
    /// A norm of `x`, `[.., width]`, of which consecutive rows share one gain.
    pub fn new(of: &Norm, x: &Tensor) -> Result<Self> {
        let width = x.dim(x.rank() - 1)?;
        Self::of_width(of, x, width)
    }

    /// As [`NormAdjoint::new`], with a gain `[gains, width]` of which consecutive rows take one after the other.
    pub fn of_width(of: &Norm, x: &Tensor, width: usize) -> Result<Self> {
        let numbers = |t: &Tensor| on_numbers(&plain(&t.flatten_all()?)?, <[f32]>::to_vec);
        let rows = match of.kind {
            NormKind::Identity => None,
            NormKind::Rms | NormKind::Layer => Some(numbers(x)?),
        };
        Ok(Self {
            rows,
            gain: numbers(&of.gain)?,
            width,
            epsilon: of.epsilon as f32,
            centred: of.kind == NormKind::Layer,
        })
    }

    /// Gradients with respect to the output become those with respect to what there is before gain and bias.
    pub fn back_to_gain(&self, by: &mut [f32]) {
        if self.rows.is_some() {
            for row in by.chunks_exact_mut(self.gain.len()) {
                row.iter_mut()
                    .zip(&self.gain)
                    .for_each(|(g, gain)| *g *= gain);
            }
        }
    }

    /// Gradients with respect to what there is before the gain become those with respect to the input.
    pub fn back_from_gain(&self, spread: Spread, by: &mut [f32]) {
        let gain = vec![1.0; self.gain.len()];
        self.through(&gain, spread, by);
    }

    /// Gradients with respect to the output become those with respect to the input.
    pub fn back(&self, spread: Spread, by: &mut [f32]) {
        self.through(&self.gain, spread, by);
    }

    fn through(&self, gain: &[f32], spread: Spread, by: &mut [f32]) {
        let Some(rows) = &self.rows else {
            return;
        };
        let shape = NormShape {
            gain,
            width: self.width,
            epsilon: self.epsilon,
            centred: self.centred,
        };
        norm(shape, rows, spread, by);
    }
}
