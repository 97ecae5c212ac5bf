//! Attention: queries, keys and values, rotation, masked scores, probabilities, the write.
//!
//! Invariant: the same kernels run whether or not anybody looks, so recording changes no bit;
//! each query head reads key-value head `h / (heads / kv_heads)`. Masks come from the pass, not from the layer.

use candle_core::{D, DType, Tensor};

use super::blueprint::{Blueprint, QkNormOver};
use super::cache::Cache;
use super::linear::Linear;
use super::norm::Norm;
use super::rope::Rotation;
use super::site::Site::{AttnProbs, AttnScores, K, Q, V, Z};
use super::tap::{PassSpan, Tap};
use crate::error::Result;

/// Weights of one attention layer.
#[derive(Clone, Debug)]
pub struct AttentionWeights {
    /// `d_model -> heads * head_dim`.
    pub q: Linear,
    /// `d_model -> kv_heads * head_dim`.
    pub k: Linear,
    /// `d_model -> kv_heads * head_dim`.
    pub v: Linear,
    /// `heads * head_dim -> d_model`.
    pub out: Linear,
    /// The norms of queries and keys, in families that have them.
    pub norms: Option<(Norm, Norm)>,
}

/// What a pass shares between its layers.
pub struct PassContext<'a> {
    /// The architecture.
    pub blueprint: &'a Blueprint,
    /// The rotations of these positions, as layers choose among them.
    pub rotations: Vec<Rotation>,
    /// `[tokens, positions]`, 0 or -inf, f32, by window; `None` where every query sees everything.
    pub masks: Vec<(Option<usize>, Option<Tensor>)>,
    /// Which positions.
    pub span: PassSpan,
}

impl PassContext<'_> {
    fn mask(&self, window: Option<usize>) -> Option<&Tensor> {
        let found = self.masks.iter().find(|(w, _)| *w == window);
        found.and_then(|(_, mask)| mask.as_ref())
    }
}

impl AttentionWeights {
    /// `[batch, tokens, d_model] -> [batch, tokens, d_model]`.
    pub fn forward(
        &self,
        layer: usize,
        x: &Tensor,
        pass: &PassContext,
        mut cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        let shape = pass.blueprint;
        let spec = shape.layers[layer];
        let (batch, tokens, _) = x.dims3()?;
        let (heads, kv_heads, width) = (shape.heads, shape.kv_heads, shape.head_dim);
        let differentiable = tap.differentiable();
        let (q_norm, k_norm) = self.norms.as_ref().map(|(q, k)| (q, k)).unzip();
        let q = self.heads(&self.q, q_norm, x, heads, pass, differentiable)?;
        let q = tap.visit(Q.at(layer), q)?.transpose(1, 2)?;
        let k = self.heads(&self.k, k_norm, x, kv_heads, pass, differentiable)?;
        let k = tap.visit(K.at(layer), k)?.transpose(1, 2)?;
        let v = self.heads(&self.v, None, x, kv_heads, pass, differentiable)?;
        let v = tap.visit(V.at(layer), v)?.transpose(1, 2)?;
        let (q, k) = match spec.rope.and_then(|i| pass.rotations.get(i)) {
            Some(turn) => (
                turn.apply(&q, differentiable)?,
                turn.apply(&k, differentiable)?,
            ),
            None => (q, k),
        };
        let (k, v) = match cache.as_deref_mut() {
            Some(cache) => cache.extend(layer, &k, &v)?,
            None => (k.contiguous()?, v.contiguous()?),
        };
        // What the runs share comes first, one key and value for all of them.
        let stem = cache.and_then(|cache| cache.stem(layer));
        let shared = stem.map_or(Ok(0), |(k, _)| k.dim(2))?;
        let positions = shared + k.dim(2)?;

        // The heads that share a key-value head are stacked along its queries, so nothing is repeated.
        let group = heads / kv_heads;
        let q = q
            .contiguous()?
            .reshape((batch, kv_heads, group * tokens, width))?;
        let scores = q.matmul(&k.transpose(2, 3)?)?;
        let scores = match stem {
            Some((k, _)) => {
                let far = across(&q, &k.transpose(2, 3)?)?;
                Tensor::cat(&[&far, &scores], 3)?
            }
            None => scores,
        };
        let scores = (scores * shape.score_scale)?
            .reshape((batch, heads, tokens, positions))?
            .to_dtype(DType::F32)?;
        let scores = match shape.score_cap {
            Some(cap) => soft_cap(&scores, cap)?,
            None => scores,
        };
        let scores = match pass.mask(spec.window) {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let scores = tap.visit(AttnScores.at(layer), scores)?;
        let probs = softmax(&scores, differentiable)?;
        let probs = tap.visit(AttnProbs.at(layer), probs)?.to_dtype(v.dtype())?;
        let probs = probs
            .contiguous()?
            .reshape((batch, kv_heads, group * tokens, positions))?;
        let z = match stem {
            Some((_, far)) => {
                let near = probs.narrow(3, shared, positions - shared)?;
                let near = near.contiguous()?.matmul(&v)?;
                (across(&probs.narrow(3, 0, shared)?, far)? + near)?
            }
            None => probs.matmul(&v)?,
        };
        let z = z
            .reshape((batch, heads, tokens, width))?
            .transpose(1, 2)?
            .contiguous()?;
        let z = tap.visit(Z.at(layer), z)?;
        self.out
            .forward(&z.reshape((batch, tokens, heads * width))?)
    }

    /// One projection as heads, `[batch, tokens, count, head_dim]`: clipped and normed where the family does so.
    fn heads(
        &self,
        projection: &Linear,
        norm: Option<&Norm>,
        x: &Tensor,
        count: usize,
        pass: &PassContext,
        differentiable: bool,
    ) -> Result<Tensor> {
        let shape = pass.blueprint;
        let (batch, tokens, _) = x.dims3()?;
        let split = (batch, tokens, count, shape.head_dim);
        let flat = projection.forward(x)?;
        let over = shape.qk_norm.map(|n| n.over);
        let flat = match (norm, over) {
            (Some(norm), Some(QkNormOver::AllHeads)) => norm.forward(&flat, differentiable)?,
            _ => flat,
        };
        let flat = match shape.clip_qkv {
            Some(most) => flat.clamp(-most, most)?,
            None => flat,
        };
        let heads = flat.reshape(split)?;
        Ok(match (norm, over) {
            (Some(norm), Some(QkNormOver::Head)) => norm.forward(&heads, differentiable)?,
            (Some(norm), Some(QkNormOver::HeadOwnGain)) => norm.per_head(&heads)?,
            _ => heads,
        })
    }
}

/// The product of every row of a batch with one shared matrix a head, as one product a head: `[batch, heads, m, k]` times
/// `[1, heads, k, n]` to `[batch, heads, m, n]`.
fn across(rows: &Tensor, shared: &Tensor) -> Result<Tensor> {
    let (batch, heads, m, k) = rows.dims4()?;
    let flat = rows.transpose(0, 1)?.contiguous()?;
    let out = flat
        .reshape((heads, batch * m, k))?
        .matmul(&shared.squeeze(0)?)?;
    let n = out.dim(2)?;
    Ok(out
        .reshape((heads, batch, m, n))?
        .transpose(0, 1)?
        .contiguous()?)
}

/// Over the last dimension; the slower way where gradients flow.
pub(super) fn softmax(x: &Tensor, differentiable: bool) -> Result<Tensor> {
    Ok(if differentiable {
        candle_nn::ops::softmax(x, D::Minus1)?
    } else {
        candle_nn::ops::softmax_last_dim(&x.contiguous()?)?
    })
}

/// `cap * tanh(x / cap)`.
pub fn soft_cap(x: &Tensor, cap: f64) -> Result<Tensor> {
    Ok(((x / cap)?.tanh()? * cap)?)
}
