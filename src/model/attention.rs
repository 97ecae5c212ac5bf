//! Attention: queries, keys and values, rotation, masked scores, probabilities, the write.
//!
//! Invariant: the same kernels run whether or not anybody looks, so recording changes no bit;
//! each query head reads key-value head `h / (heads / kv_heads)`. Masks come from the pass, not from the layer.

use candle_core::{D, DType, Tensor};

use super::blueprint::Blueprint;
use super::cache::Cache;
use super::linear::Linear;
use super::rope::RopeTable;
use super::site::Site::{AttnProbs, AttnScores, K, Q, V, Z};
use super::tap::{Span, Tap};
use crate::error::Result;

/// Weights of one attention layer.
#[derive(Clone, Debug)]
pub struct Attention {
    /// `d_model -> heads * head_dim`.
    pub q: Linear,
    /// `d_model -> kv_heads * head_dim`.
    pub k: Linear,
    /// `d_model -> kv_heads * head_dim`.
    pub v: Linear,
    /// `heads * head_dim -> d_model`.
    pub out: Linear,
}

/// What a pass shares between its layers.
pub struct Pass<'a> {
    /// The architecture.
    pub blueprint: &'a Blueprint,
    /// Rotation tables, for rotary families.
    pub rope: Option<&'a RopeTable>,
    /// `[tokens, positions]`, 0 or -inf, f32; `None` when one query sees everything.
    pub mask: Option<&'a Tensor>,
    /// Which positions.
    pub span: Span,
}

impl Attention {
    /// `[batch, tokens, d_model] -> [batch, tokens, d_model]`.
    pub fn forward(
        &self,
        layer: usize,
        x: &Tensor,
        pass: &Pass,
        cache: Option<&Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        let shape = pass.blueprint;
        let (batch, tokens, _) = x.dims3()?;
        let (heads, kv_heads, width) = (shape.heads, shape.kv_heads, shape.head_dim);
        let differentiable = tap.differentiable();

        let q = tap
            .visit(
                Q.at(layer),
                self.q.forward(x)?.reshape((batch, tokens, heads, width))?,
            )?
            .transpose(1, 2)?;
        let k = tap
            .visit(
                K.at(layer),
                self.k
                    .forward(x)?
                    .reshape((batch, tokens, kv_heads, width))?,
            )?
            .transpose(1, 2)?;
        let v = tap
            .visit(
                V.at(layer),
                self.v
                    .forward(x)?
                    .reshape((batch, tokens, kv_heads, width))?,
            )?
            .transpose(1, 2)?;
        let (q, k) = match pass.rope {
            Some(rope) => (
                rope.rotate(&q, pass.span.start, differentiable)?,
                rope.rotate(&k, pass.span.start, differentiable)?,
            ),
            None => (q, k),
        };
        let (k, v) = match cache {
            Some(cache) => cache.extend(layer, &k, &v)?,
            None => (k.contiguous()?, v.contiguous()?),
        };
        let positions = k.dim(2)?;

        // The heads that share a key-value head are stacked along its queries, so nothing is repeated.
        let group = heads / kv_heads;
        let q = q
            .contiguous()?
            .reshape((batch, kv_heads, group * tokens, width))?;
        let scores = (q.matmul(&k.transpose(2, 3)?)? * shape.score_scale)?;
        let scores = scores
            .reshape((batch, heads, tokens, positions))?
            .to_dtype(DType::F32)?;
        let scores = match pass.mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let scores = tap.visit(AttnScores.at(layer), scores)?;
        let probs = if differentiable {
            candle_nn::ops::softmax(&scores, D::Minus1)?
        } else {
            candle_nn::ops::softmax_last_dim(&scores.contiguous()?)?
        };
        let probs = tap.visit(AttnProbs.at(layer), probs)?.to_dtype(v.dtype())?;
        let z = probs
            .contiguous()?
            .reshape((batch, kv_heads, group * tokens, positions))?
            .matmul(&v)?;
        let z = z
            .reshape((batch, heads, tokens, width))?
            .transpose(1, 2)?
            .contiguous()?;
        let z = tap.visit(Z.at(layer), z)?;
        self.out
            .forward(&z.reshape((batch, tokens, heads * width))?)
    }
}
