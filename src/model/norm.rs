//! Normalisation, with statistics in f32 whatever the weights.
//!
//! Invariant: the fused and the plain path compute the same function; the plain one carries gradients
//! (candle's fused kernels end the graph silently). To add a kind, add an arm in [`Norm::forward`].

use candle_core::{DType, Tensor};

use super::blueprint::NormKind;
use super::weights::Weights;
use crate::error::Result;

/// A norm with its learned gain, and bias for LayerNorm. Both are kept in f32.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Which function.
    pub kind: NormKind,
    /// `[d_model]`, f32.
    pub gain: Tensor,
    /// `[d_model]`, f32; only LayerNorm has one.
    pub bias: Option<Tensor>,
    /// Added to the mean square or the variance.
    pub epsilon: f64,
}

impl Norm {
    /// Loads `{name}.weight` and, for LayerNorm, `{name}.bias`.
    pub fn load(
        kind: NormKind,
        epsilon: f64,
        width: usize,
        weights: &Weights,
        name: &str,
    ) -> Result<Self> {
        let gain = weights.f32(&format!("{name}.weight"), &[width])?;
        let bias = match kind {
            NormKind::Rms => None,
            NormKind::Layer => Some(weights.f32(&format!("{name}.bias"), &[width])?),
        };
        Ok(Self {
            kind,
            gain,
            bias,
            epsilon,
        })
    }

    /// `[.., d_model] -> [.., d_model]`, in the input's dtype.
    pub fn forward(&self, x: &Tensor, differentiable: bool) -> Result<Tensor> {
        let dtype = x.dtype();
        let wide = x.to_dtype(DType::F32)?;
        let out = match (self.kind, &self.bias, differentiable) {
            (NormKind::Rms, _, false) => {
                candle_nn::ops::rms_norm(&wide.contiguous()?, &self.gain, self.epsilon as f32)?
            }
            (NormKind::Rms, _, true) => wide
                .broadcast_mul(&self.inverse_scale(&wide)?)?
                .broadcast_mul(&self.gain)?,
            (NormKind::Layer, Some(bias), false) => candle_nn::ops::layer_norm(
                &wide.contiguous()?,
                &self.gain,
                bias,
                self.epsilon as f32,
            )?,
            (NormKind::Layer, bias, _) => {
                let centred = wide.broadcast_sub(&wide.mean_keepdim(candle_core::D::Minus1)?)?;
                let out = centred
                    .broadcast_mul(&self.inverse_scale(&wide)?)?
                    .broadcast_mul(&self.gain)?;
                match bias {
                    Some(bias) => out.broadcast_add(bias)?,
                    None => out,
                }
            }
        };
        Ok(out.to_dtype(dtype)?)
    }

    /// `1 / rms(x)` or `1 / std(x)` of one row that has been read back; sums in f64.
    pub fn inverse_scale_of(&self, row: &[f32]) -> f32 {
        let count = row.len().max(1) as f64;
        let mean = match self.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => row.iter().map(|v| f64::from(*v)).sum::<f64>() / count,
        };
        let square = row
            .iter()
            .map(|v| (f64::from(*v) - mean).powi(2))
            .sum::<f64>()
            / count;
        (square + self.epsilon).sqrt().recip() as f32
    }

    /// `1 / rms(x)` or `1 / std(x)`: `[.., d_model] -> [.., 1]`, f32.
    pub fn inverse_scale(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let centred = match self.kind {
            NormKind::Rms => wide,
            NormKind::Layer => wide.broadcast_sub(&wide.mean_keepdim(candle_core::D::Minus1)?)?,
        };
        Ok(
            (centred.sqr()?.mean_keepdim(candle_core::D::Minus1)? + self.epsilon)?
                .sqrt()?
                .recip()?,
        )
    }
}
