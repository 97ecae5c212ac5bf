//! The way back to what single receivers read: from gradients with respect to queries, keys, values and the MLP's input to those with
//! respect to each receiver's own copy of the stream, through its rows of the projection and the norm before it.
//!
//! Invariant: over all receivers of a block they sum to what [`super::block`] takes back to the stream. The way forwards is in
//! [`crate::model::network::receivers`].

use candle_core::Tensor;

use super::attention::Shaped;
use super::norms::NormAdjoint;
use crate::error::{Error, Result};
use crate::model::kernels::adjoint::Spread;
use crate::model::network::blueprint::QkNormOver;
use crate::model::network::norm::Norm;
use crate::model::network::receivers::Projection;
use crate::model::network::transformer::Transformer;

/// The receivers of one block, and the streams that they read, `[n, d_model]`.
pub struct ReceiverAdjoint<'a> {
    transformer: &'a Transformer,
    layer: usize,
    rows: usize,
    attention: Option<NormAdjoint>,
    mlp: Option<NormAdjoint>,
    /// Of queries, keys and values.
    shapes: [Shaped; 3],
}

impl<'a> ReceiverAdjoint<'a> {
    /// From the streams that attention and the MLP of a block read, `[n, d_model]` each.
    ///
    /// # Errors
    ///
    /// When the model is not on the CPU.
    pub fn new(
        transformer: &'a Transformer,
        layer: usize,
        before_attention: &Tensor,
        before_mlp: &Tensor,
    ) -> Result<Self> {
        if !transformer.device.is_cpu() {
            let expected = "cpu, where the gradients of single receivers are computed";
            return Err(Error::argument("--device", "another device", expected));
        }
        let shape = &transformer.blueprint;
        let attention = &transformer.blocks[layer].attention;
        let read = transformer.attention_norm(layer);
        let adjoint = |norm: Option<&Norm>, x: &Tensor| {
            let own = norm.map(|norm| NormAdjoint::new(norm, x));
            own.transpose()
        };
        let normed = match read {
            Some(norm) => norm.forward(before_attention, false)?,
            None => before_attention.clone(),
        };
        let normed = normed.unsqueeze(0)?;
        let (q_norm, k_norm) = attention.norms.as_ref().map(|(q, k)| (q, k)).unzip();
        Ok(Self {
            transformer,
            layer,
            rows: before_attention.dim(0)?,
            attention: adjoint(read, before_attention)?,
            mlp: adjoint(transformer.mlp_norm(layer), before_mlp)?,
            shapes: [
                Shaped::new(&attention.q, q_norm, &normed, shape.heads, shape)?,
                Shaped::new(&attention.k, k_norm, &normed, shape.kv_heads, shape)?,
                Shaped::new(&attention.v, None, &normed, shape.kv_heads, shape)?,
            ],
        })
    }

    /// From gradients with respect to the queries (or keys, or values) of all heads, `[n, heads * head_dim]`, to those with respect to
    /// what each head's reads: `[heads, n, d_model]`.
    ///
    /// # Errors
    ///
    /// When there is no kernel for the weights.
    pub fn projection(&self, of: Projection, by: &[f32]) -> Result<Vec<f32>> {
        let shape = &self.transformer.blueprint;
        let attention = &self.transformer.blocks[self.layer].attention;
        let (linear, own, heads) = match of {
            Projection::Query => (&attention.q, &self.shapes[0], shape.heads),
            Projection::Key => (&attention.k, &self.shapes[1], shape.kv_heads),
            Projection::Value => (&attention.v, &self.shapes[2], shape.kv_heads),
        };
        let (width, line) = (shape.head_dim, heads * shape.head_dim);
        let alone = Spread {
            units: self.rows,
            each: 1,
        };
        let is_joint = of != Projection::Value
            && attention.norms.is_some()
            && shape
                .qk_norm
                .is_some_and(|n| n.over == QkNormOver::AllHeads);
        let mut out = Vec::with_capacity(heads * self.rows * shape.d_model);
        if is_joint {
            // One norm over all heads: of what a head has, its gradient reaches the projections of all.
            for head in 0..heads {
                let mut only = vec![0f32; by.len()];
                let lines = only.chunks_exact_mut(line).zip(by.chunks_exact(line));
                for (to, from) in lines {
                    let own = head * width..(head + 1) * width;
                    to[own.clone()].copy_from_slice(&from[own]);
                }
                out.extend(linear.adjoint(&own.back(alone, line, only))?);
            }
        } else {
            let by = own.back(alone, line, by.to_vec());
            for head in 0..heads {
                let lines = by.chunks_exact(line);
                let own = lines.flat_map(|line| &line[head * width..(head + 1) * width]);
                let own: Vec<f32> = own.copied().collect();
                out.extend(linear.adjoint_of(head * width..(head + 1) * width, &own)?);
            }
        }
        if let Some(norm) = &self.attention {
            let all = Spread {
                each: heads,
                ..alone
            };
            norm.back(all, &mut out);
        }
        Ok(out)
    }

    /// From gradients with respect to the MLP's input to those with respect to the stream that it reads, `[n, d_model]`.
    pub fn mlp(&self, by: &mut [f32]) {
        if let Some(norm) = &self.mlp {
            let alone = Spread {
                units: self.rows,
                each: 1,
            };
            norm.back(alone, by);
        }
    }
}
