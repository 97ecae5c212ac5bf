//! What the circuits of single heads are made of: the matrices by which a head reads the residual stream and writes to it (Elhage
//! et al. 2021, "A Mathematical Framework for Transformer Circuits").
//!
//! With rows as vectors, attention scores are `x_q Qᵀ K x_kᵀ` (the QK circuit) and a head moves `x Vᵀ O` (the OV circuit). Invariant:
//! gains of norms are folded into the matrices that follow or precede them, and what LayerNorm takes off is taken off; scales of norms,
//! biases and the rotation of queries and keys are left out, because they depend on a text. To read another part of a head, add a
//! variant of [`HeadInput`].

use candle_core::{DType, Tensor};

use super::blueprint::{NormKind, QkNormOver};
use super::norm::Norm;
use super::transformer::Transformer;
use crate::error::Result;
use crate::model::host::ToHost;

/// What a head reads the stream for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadInput {
    Query,
    Key,
    Value,
}

impl Transformer {
    /// The rows by which every query head of a layer reads the stream: `[heads, head_dim, d_model]`, f32. Heads that share keys and
    /// values have the same ones.
    ///
    /// # Errors
    ///
    /// When a tensor operation fails.
    pub fn head_input_rows(&self, layer: usize, input: HeadInput) -> Result<Tensor> {
        let (block, shape) = (&self.blocks[layer], &self.blueprint);
        let attention = &block.attention;
        let norms = attention.norms.as_ref();
        let (linear, norm, count) = match input {
            HeadInput::Query => (&attention.q, norms.map(|n| &n.0), shape.heads),
            HeadInput::Key => (&attention.k, norms.map(|n| &n.1), shape.kv_heads),
            HeadInput::Value => (&attention.v, None, shape.kv_heads),
        };
        let mut rows = linear.weight()?;
        if let (Some(norm), Some(spec)) = (norm, &shape.qk_norm) {
            rows = normed_rows(&rows, norm, spec.over, count)?;
        }
        if let Some(norm) = &block.norms_attn.input {
            rows = norm.seen_from_behind(&rows)?;
        }
        let rows = rows.reshape((count, shape.head_dim, ()))?;
        let rows = rows.on_device(&self.device)?;
        let owner: Vec<u32> = (0..shape.heads)
            .map(|head| (head * count / shape.heads) as u32)
            .collect();
        Ok(rows.index_select(&Tensor::new(owner, rows.device())?, 0)?)
    }

    /// What one unit of each coordinate of every head's output adds to the stream: `[heads, head_dim, d_model]`, f32.
    ///
    /// # Errors
    ///
    /// When a tensor operation fails.
    pub fn head_output_rows(&self, layer: usize) -> Result<Tensor> {
        let (block, shape) = (&self.blocks[layer], &self.blueprint);
        let mut rows = block.attention.out.weight()?.t()?.contiguous()?;
        if let Some(norm) = &block.norms_attn.output {
            rows = norm.at_scale_one(&rows)?;
        }
        let rows = (rows * shape.residual_scale)?;
        let rows = rows.reshape((shape.heads, shape.head_dim, ()))?;
        Ok(rows.on_device(&self.device)?)
    }
}

/// The rows of a projection, `[count * head_dim, d_model]`, through the gain of the norm of queries or keys.
fn normed_rows(rows: &Tensor, norm: &Norm, over: QkNormOver, count: usize) -> Result<Tensor> {
    let (all, width) = rows.dims2()?;
    let normed_together = match over {
        QkNormOver::AllHeads => 1,
        QkNormOver::Head | QkNormOver::HeadOwnGain => count,
    };
    let split = rows.reshape((normed_together, all / normed_together, width))?;
    let split = match norm.kind {
        NormKind::Layer => split.broadcast_sub(&split.mean_keepdim(1)?)?,
        NormKind::Rms | NormKind::Identity => split,
    };
    let gain = norm.gain.to_dtype(DType::F32)?.flatten_all()?;
    let gain = match over {
        QkNormOver::Head => gain.repeat(count)?,
        QkNormOver::HeadOwnGain | QkNormOver::AllHeads => gain,
    };
    Ok(split
        .reshape((all, width))?
        .broadcast_mul(&gain.unsqueeze(1)?)?)
}
