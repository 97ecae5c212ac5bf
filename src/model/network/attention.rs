//! Attention: projections to queries, keys and values, rotation, masked scores, probabilities, and the output projection.
//!
//! Invariant: the same kernels run whether or not a tap looks, so recording changes no bit; each query head reads key-value
//! head `h / (heads / kv_heads)`. Masks come from the pass, not from the layer.

use candle_core::{DType, Tensor};

use super::attended::{Attended, by_head};
use super::blueprint::QkNormOver;
use super::cache::Cache;
use super::context::PassContext;
use super::linear::Linear;
use super::norm::Norm;
use super::site::Site::{AttnOut, K, Q, V, Z};
use super::tap::Tap;
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
        let (batch, tokens, _) = x.dims3()?;
        let (heads, kv_heads, width) = (shape.heads, shape.kv_heads, shape.head_dim);
        let differentiable = tap.differentiable();
        let (q_norm, k_norm) = self.norms.as_ref().map(|(q, k)| (q, k)).unzip();
        let known = [Q, K, V].map(|site| tap.known(site.at(layer)));
        let (q, k, v) = if let [Ok(Some(q)), Ok(Some(k)), Ok(Some(v))] = known {
            (q, k, v)
        } else {
            known.into_iter().try_for_each(|own| own.map(drop))?;
            let [q, k, v] = Linear::forward_all([&self.q, &self.k, &self.v], x)?;
            (
                shaped(q, q_norm, heads, pass, differentiable)?,
                shaped(k, k_norm, kv_heads, pass, differentiable)?,
                shaped(v, None, kv_heads, pass, differentiable)?,
            )
        };
        let q = tap.visit(Q.at(layer), q)?;
        let k = tap.visit(K.at(layer), k)?;
        let v = tap.visit(V.at(layer), v)?;
        let followed = [&q, &k, &v].iter().any(|t| t.track_op());
        let on_kernels = x.device().is_cpu() && !differentiable && !followed;
        let turn = pass.rotation(layer);
        let (q, k, v) = if on_kernels {
            let kept = k.dtype();
            (
                by_head(&q, turn, DType::F32)?,
                by_head(&k, turn, kept)?,
                by_head(&v, None, kept)?,
            )
        } else {
            let turned = |x: Tensor| {
                let x = x.transpose(1, 2)?;
                turn.map_or(Ok(x.clone()), |turn| turn.apply(&x, differentiable))
            };
            (turned(q)?, turned(k)?, v.transpose(1, 2)?)
        };
        let (k, v) = match cache.as_deref_mut() {
            Some(cache) => cache.extend(layer, &k, &v)?,
            None => (k.contiguous()?, v.contiguous()?),
        };
        // The prefix that the rows share comes first, with one key and value for all of them.
        let stem = cache.and_then(|cache| cache.stem(layer));
        let attended = Attended { q, k, v, stem };
        let z = if on_kernels {
            attended.on_kernels(layer, pass, tap)?
        } else {
            attended.plainly(layer, pass, tap)?
        };
        let z = tap.visit(Z.at(layer), z.to_dtype(x.dtype())?)?;
        if let Some(out) = tap.known(AttnOut.at(layer))? {
            return Ok(out);
        }
        self.out
            .forward(&z.reshape((batch, tokens, heads * width))?)
    }
}

/// Splits one projection `[batch, tokens, count * head_dim]` into heads, `[batch, tokens, count, head_dim]`, with the family's
/// clipping and norm.
fn shaped(
    flat: Tensor,
    norm: Option<&Norm>,
    count: usize,
    pass: &PassContext,
    differentiable: bool,
) -> Result<Tensor> {
    let shape = pass.blueprint;
    let (batch, tokens, _) = flat.dims3()?;
    let split = (batch, tokens, count, shape.head_dim);
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
