//! What attention heads write into the stream: slices of the output projection (Elhage et al. 2021; Todd et al. 2024).
//!
//! Invariant: `attn_out = Σ_h head_write(h) + bias`, the bias counted once and not per head. What a write becomes on its way
//! into the stream is linear once the scale of the norm behind it is held, see [`Transformer::head_added`].

use candle_core::{DType, Tensor};

use super::blueprint::{BlockOrder, NormKind};
use super::norm::Norm;
use super::transformer::Transformer;
use crate::error::{Error, Result};

/// What a sub-layer adds along some directions whatever it computes, a number a direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Constants {
    /// Contribution of the output projection's bias, before the scale of the norm behind it.
    pub scaled: Vec<f32>,
    /// Contribution of that norm's bias.
    pub fixed: Vec<f32>,
}

impl Transformer {
    /// What one query head writes into `attn_out` when its `z` is this: `W_O[:, head] z`, without the bias;
    /// `z` `[head_dim]` to `[d_model]`. Heads that share keys and values still have slices of their own.
    pub fn head_write(&self, layer: usize, head: usize, z: &[f32]) -> Result<Vec<f32>> {
        let (heads, width) = (self.blueprint.heads, self.blueprint.head_dim);
        if head >= heads || z.len() != width {
            return Err(Error::Refused {
                address: format!("head {head} of z.{layer}"),
                why: format!(
                    "there are heads 0 to {} of {width} numbers, and {} were given.",
                    heads - 1,
                    z.len()
                ),
            });
        }
        let weight = self.blocks[layer].attention.out.weight()?;
        let slice = weight.narrow(1, head * width, width)?.contiguous()?;
        let z = Tensor::new(z, weight.device())?.unsqueeze(1)?;
        Ok(slice.matmul(&z)?.squeeze(1)?.to_vec1()?)
    }

    /// What a part of `attn_out`, `[d_model]`, adds to the stream: through the norm of what attention writes, where the
    /// family has one (its gain, and its scale as [`Transformer::attention_scale`] found it), and the residual multiplier.
    pub fn head_added(&self, layer: usize, written: &[f32], scale: f32) -> Result<Vec<f32>> {
        let factor = self.blueprint.residual_scale;
        let Some(norm) = &self.blocks[layer].norms_attn.output else {
            return Ok(written
                .iter()
                .map(|w| (f64::from(*w) * factor) as f32)
                .collect());
        };
        let gain: Vec<f32> = norm.gain.to_dtype(DType::F32)?.to_vec1()?;
        let middle = match norm.kind {
            NormKind::Layer => {
                written.iter().map(|w| f64::from(*w)).sum::<f64>() / written.len() as f64
            }
            NormKind::Rms | NormKind::Identity => 0.0,
        };
        let factor = factor * f64::from(scale);
        let added = written.iter().zip(gain);
        Ok(added
            .map(|(w, g)| ((f64::from(*w) - middle) * f64::from(g) * factor) as f32)
            .collect())
    }

    /// What one unit of every coordinate of `z` adds along directions of the stream, through the output projection, the gain
    /// of the norm of what attention writes and the residual multiplier: `[n, d_model]` to `[n, heads * head_dim]`, f32.
    /// Times [`Transformer::attention_scale`] it is an effect.
    pub fn head_views(&self, layer: usize, directions: &Tensor) -> Result<Tensor> {
        let block = &self.blocks[layer];
        let read = self.before_write(block.norms_attn.output.as_ref(), directions)?;
        Ok(read.matmul(&block.attention.out.weight()?)?)
    }

    /// What attention adds whatever its heads do: the bias of the output projection, through the same norm, and that
    /// norm's own bias. Along directions `[n, d_model]`: `[n]` each.
    pub fn attention_constants(&self, layer: usize, directions: &Tensor) -> Result<Constants> {
        let block = &self.blocks[layer];
        let norm = block.norms_attn.output.as_ref();
        self.constants(norm, block.attention.out.bias.as_ref(), directions)
    }

    /// Directions of the stream as a sub-layer's output meets them, before its norm, whose scale is left out.
    pub(crate) fn before_write(&self, norm: Option<&Norm>, directions: &Tensor) -> Result<Tensor> {
        let factor = self.blueprint.residual_scale;
        let directions = (directions * factor)?;
        norm.map_or(Ok(directions.clone()), |norm| {
            norm.seen_from_behind(&directions)
        })
    }

    pub(crate) fn constants(
        &self,
        norm: Option<&Norm>,
        bias: Option<&Tensor>,
        directions: &Tensor,
    ) -> Result<Constants> {
        let dots = |vector: &Tensor, directions: &Tensor| -> Result<Vec<f32>> {
            let column = vector.to_dtype(DType::F32)?.unsqueeze(1)?;
            Ok(directions.matmul(&column)?.squeeze(1)?.to_vec1()?)
        };
        let none = vec![0.0; directions.dim(0)?];
        let scaled = match bias {
            Some(bias) => dots(bias, &self.before_write(norm, directions)?)?,
            None => none.clone(),
        };
        let fixed = match norm.and_then(|norm| norm.bias.as_ref()) {
            Some(bias) => dots(bias, &(directions * self.blueprint.residual_scale)?)?,
            None => none,
        };
        Ok(Constants { scaled, fixed })
    }

    /// The scale that the norm of what attention writes had for a row of `attn_out`; 1 where there is no such norm.
    pub fn attention_scale(&self, layer: usize, attn_out: &[f32]) -> f32 {
        let norm = self.blocks[layer].norms_attn.output.as_ref();
        norm.map_or(1.0, |norm| norm.inverse_scale_of(attn_out))
    }

    /// Refuses streams in which a head's write has no size of its own.
    pub fn check_head_writes(&self) -> Result<()> {
        if self.blueprint.arrangement != BlockOrder::NormedStream {
            return Ok(());
        }
        Err(Error::Refused {
            address: "z.*".into(),
            why: "this family normalizes the stream after every component, so head outputs cannot be added to it at another place. Use the method task-vector or layer-average.".into(),
        })
    }
}
