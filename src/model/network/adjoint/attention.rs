//! The way back through attention: output projection, probabilities, scores, rotation, norms of queries and keys, projections.
//!
//! Invariant: keys and values of the positions before the pass are held: no gradient enters them.

use candle_core::{DType, Tensor};

use super::norms::NormAdjoint;
use super::values::{AdjointTap, Values};
use crate::error::Result;
use crate::model::kernels::adjoint::{self, AttendedGradients, AttendedValues, Spread, add};
use crate::model::kernels::attention::{Turn, by_head as transpose};
use crate::model::network::attended::by_head;
use crate::model::network::attention::AttentionWeights;
use crate::model::network::blueprint::{Blueprint, QkNormOver};
use crate::model::network::cache::Cache;
use crate::model::network::context::PassContext;
use crate::model::network::linear::Linear;
use crate::model::network::norm::Norm;
use crate::model::network::numbers::{on_numbers, plain};
use crate::model::network::rope::Rotation;
use crate::model::network::site::Site::{AttnIn, AttnProbs, AttnScores, K, Q, V, Z};

/// One layer's attention, and the values that it computed from.
pub(super) struct AttentionAdjoint<'a> {
    weights: &'a AttentionWeights,
    spread: Spread,
    rows: usize,
    heads: usize,
    group: usize,
    width: usize,
    before: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    probs: Vec<f32>,
    /// The scores and their cap, if there is one.
    capped: Option<(Vec<f32>, f32)>,
    scale: f32,
    /// The way back through the rotation: cosines and negated sines, `[tokens, half]`.
    turn: Option<BackTurn>,
    q_shape: Shaped,
    k_shape: Shaped,
    v_shape: Shaped,
}

/// A rotation in the other direction.
struct BackTurn {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    interleaved: bool,
}

impl BackTurn {
    fn new(turn: &Rotation) -> Result<Self> {
        let (cos, sin, interleaved) = turn.tables();
        let numbers = |t: &Tensor| on_numbers(&plain(t)?, <[f32]>::to_vec);
        Ok(Self {
            half: cos.dim(1)?,
            cos: numbers(cos)?,
            sin: numbers(&sin.neg()?)?,
            interleaved,
        })
    }

    /// Rotates `[gradients, tokens, heads, width]`.
    fn apply(&self, dims: [usize; 4], by: Vec<f32>) -> Vec<f32> {
        let [count, tokens, heads, width] = dims;
        let turn = Turn {
            cos: &self.cos,
            sin: &self.sin,
            half: self.half,
            interleaved: self.interleaved,
        };
        // The kernel rotates while it exchanges tokens and heads; a second exchange puts them back.
        let mut turned = vec![0f32; by.len()];
        transpose([count, tokens, heads, width], &by, Some(turn), &mut turned);
        let mut back = by;
        transpose([count, heads, tokens, width], &turned, None, &mut back);
        back
    }
}

/// What lies between a projection and the site behind it: clipping and a norm.
#[derive(Default)]
pub(super) struct Shaped {
    /// Where the projection was clipped, no gradient passes: 1 or 0 for every number of it.
    open: Option<Vec<f32>>,
    norm: Option<NormAdjoint>,
    /// Rows that the norm sees for each token: one, before the clipping, or the heads, after it.
    parts: usize,
    after_clipping: bool,
}

impl Shaped {
    /// From the projection's own output, `[rows, tokens, count * width]`, which is computed again where it is needed.
    pub fn new(
        linear: &Linear,
        norm: Option<&Norm>,
        h: &Tensor,
        count: usize,
        shape: &Blueprint,
    ) -> Result<Self> {
        let over = norm.and(shape.qk_norm.map(|n| n.over));
        if over.is_none() && shape.clip_qkv.is_none() {
            return Ok(Self::default());
        }
        let flat = plain(&linear.forward(h)?)?;
        let whole = flat.dim(2)?;
        // A norm over all heads comes before the clipping, one of each head after it.
        let mut own = Self::default();
        if let (Some(norm), Some(QkNormOver::AllHeads)) = (norm, over) {
            own.norm = Some(NormAdjoint::of_width(norm, &flat, whole)?);
            own.parts = 1;
        }
        let inner = match (norm, over) {
            (Some(norm), Some(QkNormOver::AllHeads)) => plain(&norm.forward(&flat, false)?)?,
            _ => flat,
        };
        if let Some(most) = shape.clip_qkv {
            let most = most as f32;
            let inside = |x: &[f32]| x.iter().map(|x| f32::from(x.abs() <= most)).collect();
            own.open = Some(on_numbers(&inner, inside)?);
        }
        if let (Some(norm), Some(QkNormOver::Head | QkNormOver::HeadOwnGain)) = (norm, over) {
            let clipped = match shape.clip_qkv {
                Some(most) => inner.clamp(-most, most)?,
                None => inner,
            };
            own.norm = Some(NormAdjoint::of_width(norm, &clipped, shape.head_dim)?);
            own.parts = count;
            own.after_clipping = true;
        }
        Ok(own)
    }

    /// Back to the projection's output.
    pub fn back(&self, spread: Spread, width: usize, by: Vec<f32>) -> Vec<f32> {
        let mut by = by;
        let rows = Spread {
            units: spread.units * self.parts,
            ..spread
        };
        if let (Some(norm), true) = (&self.norm, self.after_clipping) {
            norm.back(rows, &mut by);
        }
        if let Some(open) = &self.open {
            let mut left = vec![0f32; by.len()];
            adjoint::scaled_by(open, width, spread, &by, &mut left);
            by = left;
        }
        if let (Some(norm), false) = (&self.norm, self.after_clipping) {
            norm.back(rows, &mut by);
        }
        by
    }
}

impl<'a> AttentionAdjoint<'a> {
    pub fn new(
        weights: &'a AttentionWeights,
        values: &Values,
        pass: &PassContext<'a>,
        prefix: Option<&Cache>,
        spread: Spread,
    ) -> Result<Self> {
        let shape = pass.blueprint;
        let turn = pass.rotation(values.layer);
        let numbers = |t: &Tensor| on_numbers(&plain(t)?, <[f32]>::to_vec);
        let (q, k, v) = (values.get(Q)?, values.get(K)?, values.get(V)?);
        let rows = q.dim(0)?;
        let stem = prefix.and_then(|prefix| prefix.stem(values.layer));
        // Keys and values of the prefix, of which there is one for all rows, come first.
        let with_stem = |stem: Option<&Tensor>, own: Tensor| -> Result<Tensor> {
            let Some(stem) = stem else {
                return Ok(own);
            };
            let (_, heads, before, width) = stem.dims4()?;
            let stem = stem
                .to_dtype(DType::F32)?
                .broadcast_as((rows, heads, before, width))?;
            Ok(Tensor::cat(&[&stem.contiguous()?, &own], 2)?)
        };
        let k = with_stem(stem.map(|s| s.0), by_head(&k, turn, DType::F32)?)?;
        let v = with_stem(stem.map(|s| s.1), by_head(&v, None, DType::F32)?)?;
        let h = values.get(AttnIn)?;
        let (q_norm, k_norm) = weights.norms.as_ref().map(|(q, k)| (q, k)).unzip();
        Ok(Self {
            weights,
            spread,
            rows,
            heads: shape.heads,
            group: shape.heads / shape.kv_heads,
            width: shape.head_dim,
            before: k.dim(2)? - spread.units,
            q: numbers(&by_head(&q, turn, DType::F32)?)?,
            k: numbers(&k)?,
            v: numbers(&v)?,
            probs: values.numbers(AttnProbs)?,
            capped: match shape.score_cap {
                Some(cap) => Some((values.numbers(AttnScores)?, cap as f32)),
                None => None,
            },
            scale: shape.score_scale as f32,
            turn: turn.map(BackTurn::new).transpose()?,
            q_shape: Shaped::new(&weights.q, q_norm, &h, shape.heads, shape)?,
            k_shape: Shaped::new(&weights.k, k_norm, &h, shape.kv_heads, shape)?,
            v_shape: Shaped::new(&weights.v, None, &h, shape.kv_heads, shape)?,
        })
    }

    /// From gradients with respect to the output to those with respect to the input, `[.., d_model]`.
    pub fn back(&self, layer: usize, by: Vec<f32>, tap: &mut dyn AdjointTap) -> Result<Vec<f32>> {
        let mut z = self.weights.out.adjoint(&by)?;
        drop(by);
        if tap.wants(Z.at(layer)) {
            tap.visit(Z.at(layer), &mut z)?;
        }
        let inner = [AttnProbs, AttnScores].map(|site| site.at(layer));
        let with_scores = inner.iter().any(|at| tap.wants(*at));
        let found = adjoint::attention(self.attended(), self.spread.each, &z, with_scores);
        let AttendedGradients {
            q,
            k,
            v,
            mut scores,
            mut probs,
        } = found;
        for (at, gradient) in inner.into_iter().zip([&mut probs, &mut scores]) {
            if tap.wants(at) {
                tap.visit(at, gradient)?;
            }
        }
        let kv_heads = self.heads / self.group;
        let mut sum: Option<Vec<f32>> = None;
        let parts = [
            (V, v, kv_heads, &self.v_shape, &self.weights.v),
            (K, k, kv_heads, &self.k_shape, &self.weights.k),
            (Q, q, self.heads, &self.q_shape, &self.weights.q),
        ];
        for (site, gradient, heads, shape, linear) in parts {
            let tokens = self.spread.units;
            let dims = [self.rows * self.spread.each, tokens, heads, self.width];
            let mut own = match (&self.turn, site) {
                (Some(turn), Q | K) => turn.apply(dims, gradient),
                _ => gradient,
            };
            if tap.wants(site.at(layer)) {
                tap.visit(site.at(layer), &mut own)?;
            }
            let own = shape.back(self.spread, heads * self.width, own);
            let read = linear.adjoint(&own)?;
            match &mut sum {
                Some(sum) => add(&read, sum),
                None => sum = Some(read),
            }
        }
        Ok(sum.unwrap_or_default())
    }

    fn attended(&self) -> AttendedValues<'_> {
        AttendedValues {
            rows: self.rows,
            heads: self.heads,
            group: self.group,
            tokens: self.spread.units,
            before: self.before,
            width: self.width,
            q: &self.q,
            k: &self.k,
            v: &self.v,
            probs: &self.probs,
            capped: self.capped.as_ref().map(|(s, cap)| (s.as_slice(), *cap)),
            scale: self.scale,
        }
    }
}
