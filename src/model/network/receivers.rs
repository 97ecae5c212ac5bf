//! What single receivers read of the residual stream: one head's query, key or value, or the MLP's input, each from a stream of its
//! own.
//!
//! In the forward pass all of them read the same stream; under a circuit each reads a mixture of its own, normed as it then is.
//! Invariant: given the pass's own stream, they are the pass's own values, to rounding. The way back is in [`super::adjoint`]; to change
//! what lies between the stream and a query, change both and [`super::attention`].

use candle_core::Tensor;

use super::blueprint::{BlockOrder, QkNormOver};
use super::linear::Linear;
use super::norm::Norm;
use super::transformer::{Block, Transformer};
use crate::error::Result;
use crate::model::host::ToHost;

/// What is projected from the normed stream for attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    Query,
    Key,
    Value,
}

impl Transformer {
    /// The norm before attention, if the family has one.
    pub fn attention_norm(&self, layer: usize) -> Option<&Norm> {
        self.blocks[layer].norms_attn.input.as_ref()
    }

    /// The norm before the MLP, if the family has one: that of attention where they share it.
    pub fn mlp_norm(&self, layer: usize) -> Option<&Norm> {
        let block: &Block = &self.blocks[layer];
        match self.blueprint.arrangement {
            BlockOrder::ParallelSharedNorm => block.norms_attn.input.as_ref(),
            BlockOrder::Parallel
            | BlockOrder::PreNorm
            | BlockOrder::SandwichNorm
            | BlockOrder::PostNorm
            | BlockOrder::NormedStream => block.norms_mlp.input.as_ref(),
        }
    }

    /// One head's query, key or value before the rotation, from a stream that is normed: `[.., d_model] -> [.., head_dim]`. Keys and
    /// values have the number of a key-value head.
    pub fn projected_head(
        &self,
        layer: usize,
        of: Projection,
        head: usize,
        normed: &Tensor,
    ) -> Result<Tensor> {
        let shape = &self.blueprint;
        let attention = &self.blocks[layer].attention;
        let norms = attention.norms.as_ref();
        let (linear, norm) = match of {
            Projection::Query => (&attention.q, norms.map(|(q, _)| q)),
            Projection::Key => (&attention.k, norms.map(|(_, k)| k)),
            Projection::Value => (&attention.v, None),
        };
        let asked_from = normed.device();
        let normed = &normed.on_device(linear.device())?;
        let width = shape.head_dim;
        let rows = head * width..(head + 1) * width;
        let last = normed.rank() - 1;
        let clipped = |x: Tensor| match shape.clip_qkv {
            Some(most) => x.clamp(-most, most),
            None => Ok(x),
        };
        let over = norm.and(shape.qk_norm.map(|n| n.over));
        if let (Some(norm), Some(QkNormOver::AllHeads)) = (norm, over) {
            // The norm sees all heads of this receiver's own stream.
            let whole = norm.forward(&linear.forward(normed)?, false)?;
            let own = clipped(whole)?.narrow(last, rows.start, width)?;
            return Ok(own.contiguous()?.on_device(asked_from)?);
        }
        let own = linear.part(normed, rows.clone())?;
        let own = match &linear.bias {
            Some(bias) => own.broadcast_add(&bias.narrow(0, rows.start, width)?)?,
            None => own,
        };
        let own = clipped(own)?;
        let own = match (norm, over) {
            (Some(norm), Some(QkNormOver::Head)) => norm.forward(&own, false)?,
            (Some(norm), Some(QkNormOver::HeadOwnGain)) => {
                norm.of_head(head, width)?.forward(&own, false)?
            }
            _ => own,
        };
        Ok(own.on_device(asked_from)?)
    }

    /// What a head writes for rows of its `z`, without the bias: `[n, head_dim] -> [n, d_model]`, f32, before the residual multiplier.
    pub fn head_product(&self, layer: usize, head: usize, z: &Tensor) -> Result<Tensor> {
        let width = self.blueprint.head_dim;
        let weight = self.blocks[layer].attention.out.weight()?;
        let columns = weight.narrow(1, head * width, width)?.contiguous()?;
        Linear::dense(columns, None)?.product(z)
    }

    /// What some heads of a block write for rows of `z`, `[n, heads * head_dim]` flat: `[count * n, d_model]`, head after head, as
    /// [`Transformer::head_product`] has it. The weight is read once for all of them.
    pub fn head_products(&self, layer: usize, heads: &[usize], z: &[f32]) -> Result<Tensor> {
        let (width, line) = (
            self.blueprint.head_dim,
            self.blueprint.heads * self.blueprint.head_dim,
        );
        let mut rows = vec![0f32; heads.len() * z.len()];
        for (part, head) in rows.chunks_exact_mut(z.len().max(1)).zip(heads) {
            let own = head * width..(head + 1) * width;
            let lines = part.chunks_exact_mut(line).zip(z.chunks_exact(line));
            lines.for_each(|(into, z)| into[own.clone()].copy_from_slice(&z[own.clone()]));
        }
        let rows = Tensor::from_vec(rows, (heads.len() * z.len() / line, line), &self.device)?;
        let out = &self.blocks[layer].attention.out;
        if out.has_kernel() && self.device.is_cpu() {
            return out.product(&rows);
        }
        Linear::dense(out.weight()?, None)?.product(&rows)
    }
}
