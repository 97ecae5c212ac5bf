//! The outputs of single attention heads: slices of the output projection (Elhage et al. 2021; Todd et al. 2024).
//!
//! Invariant: `attn_out = Σ_h head_write(h) + bias`, the bias counted once and not per head. From `attn_out` to the stream a
//! head's output passes a norm in some families; with the scale of that norm held constant the map is linear, see
//! [`Transformer::head_added`].

use candle_core::{DType, Tensor};

use super::blueprint::{BlockOrder, NormKind};
use super::norm::Norm;
use super::transformer::Transformer;
use crate::error::{Error, Result};
use crate::model::host::ToHost;

/// The constant part of a sub-layer's output, projected on some directions: one number for each direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Constants {
    /// The part from the output projection's bias, to be multiplied by the scale of the norm of the output.
    pub scaled: Vec<f32>,
    /// The part from that norm's bias.
    pub fixed: Vec<f32>,
}

impl Transformer {
    /// The output of one query head for a given `z`, `[head_dim]` to `[d_model]`: `W_O[:, head] z`, the part of `attn_out` that
    /// comes from the head, without the bias. Heads that share keys and values have separate slices.
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
        Ok(slice.matmul(&z)?.squeeze(1)?.host_vec1()?)
    }

    /// What a part of `attn_out`, `[d_model]`, adds to the stream: the part after the norm of the attention output, if the
    /// family has one, and the residual multiplier. `scale` is the norm's scale from [`Transformer::attention_scale`].
    pub fn head_added(&self, layer: usize, written: &[f32], scale: f32) -> Result<Vec<f32>> {
        let factor = self.blueprint.residual_scale;
        let Some(norm) = &self.blocks[layer].norms_attn.output else {
            return Ok(written
                .iter()
                .map(|w| (f64::from(*w) * factor) as f32)
                .collect());
        };
        let gain: Vec<f32> = norm.gain.to_dtype(DType::F32)?.host_vec1()?;
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

    /// What one unit of each coordinate of `z` adds along directions of the stream, `[n, d_model]` to `[n, heads * head_dim]`,
    /// f32: through the output projection, the gain of the norm of the attention output, and the residual multiplier.
    /// Multiplied by `z` and by [`Transformer::attention_scale`] this is a direct effect.
    pub fn head_views(&self, layer: usize, directions: &Tensor) -> Result<Tensor> {
        let block = &self.blocks[layer];
        let read = self.before_write(block.norms_attn.output.as_ref(), directions)?;
        let weight = block.attention.out.weight()?;
        Ok(read.matmul(&weight.on_device(read.device())?)?)
    }

    /// The constant part of what attention adds, along directions `[n, d_model]`, `[n]` each: from the bias of the output
    /// projection, through the norm of the attention output, and from that norm's bias.
    pub fn attention_constants(&self, layer: usize, directions: &Tensor) -> Result<Constants> {
        let block = &self.blocks[layer];
        let norm = block.norms_attn.output.as_ref();
        self.constants(norm, block.attention.out.bias.as_ref(), directions)
    }

    /// Directions of the stream pulled back through the norm of a sub-layer's output (without its scale) and the residual
    /// multiplier.
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
            let column = vector
                .to_dtype(DType::F32)?
                .on_device(directions.device())?;
            let column = column.unsqueeze(1)?;
            Ok(directions.matmul(&column)?.squeeze(1)?.host_vec1()?)
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

    /// The scale that the norm of the attention output has for a row of `attn_out`; 1 if the family has no such norm.
    pub fn attention_scale(&self, layer: usize, attn_out: &[f32]) -> f32 {
        let norm = self.blocks[layer].norms_attn.output.as_ref();
        norm.map_or(1.0, |norm| norm.inverse_scale_of(attn_out))
    }

    /// Refuses architectures that norm the whole stream after each component, where a head's output is not a term of the
    /// stream.
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
