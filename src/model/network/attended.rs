//! The core of attention: from queries, keys and values to scores, probabilities, and the weighted sums of values.
//!
//! Invariant: there are two implementations of the same function, the CPU kernels and plain tensor operations (for devices and
//! gradients); which one runs does not depend on whether a tap looks. With the kernels, the result of a query depends bit for
//! bit only on the positions it sees, however many queries are computed together. To change the definition of a score, change
//! both implementations.

use candle_core::{D, DType, Tensor};

use super::context::PassContext;
use super::numbers::{kept, made, on_numbers, plain, wide};
use super::rope::Rotation;
use super::site::Site::{AttnProbs, AttnScores};
use super::tap::Tap;
use crate::error::{Error, Result};
use crate::model::host::lent;
use crate::model::kernels::attention::{self, HeadShape, Segment, ToScores, Turn};
use crate::model::kernels::rows;

/// The inputs of one layer's attention.
pub struct Attended<'a> {
    /// `[batch, heads, tokens, head_dim]`.
    pub q: Tensor,
    /// `[batch, kv_heads, positions, head_dim]`, at the positions after those of the stem.
    pub k: Tensor,
    /// As `k`.
    pub v: Tensor,
    /// Keys and values of a prefix that all rows share, `[1, kv_heads, shared, head_dim]` each.
    pub stem: Option<(&'a Tensor, &'a Tensor)>,
}

impl Attended<'_> {
    /// Attention with the CPU kernels: `z`, `[batch, tokens, heads, head_dim]`, f32.
    pub fn on_kernels(
        &self,
        layer: usize,
        pass: &PassContext,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        let (batch, heads, tokens, width) = self.q.dims4()?;
        let shape = HeadShape {
            batch,
            heads,
            group: heads / self.k.dim(1)?,
            tokens,
            width,
        };
        let dims = [batch, heads, tokens, self.positions()?];
        let to_scores = ToScores {
            start: pass.span.start,
            window: pass.blueprint.layers[layer].window,
            scale: pass.blueprint.score_scale as f32,
            cap: pass.blueprint.score_cap.map(|cap| cap as f32),
        };
        let q = plain(&self.q)?;
        let scores = made(&dims, DType::F32, |y| {
            on_numbers(&q, |q| {
                on_segments(self.stem.map(|(k, _)| k), &self.k, |keys| {
                    attention::scores(shape, q, keys, to_scores, y);
                })
            })?
        })?;
        let scores = plain(&tap.visit(AttnScores.at(layer), scores)?)?;
        let probs = made(&dims, DType::F32, |y| {
            on_numbers(&scores, |scores| {
                y.copy_from_slice(scores);
                rows::softmax(y, dims[3]);
            })
        })?;
        let probs = plain(&tap.visit(AttnProbs.at(layer), probs)?)?;
        made(&[batch, tokens, heads, width], DType::F32, |y| {
            on_numbers(&probs, |probs| {
                on_segments(self.stem.map(|(_, v)| v), &self.v, |values| {
                    attention::mix(shape, probs, values, y);
                })
            })?
        })
    }

    /// The number of key positions, those of the stem included.
    fn positions(&self) -> Result<usize> {
        let shared = self.stem.map_or(Ok(0), |(k, _)| k.dim(2))?;
        Ok(shared + self.k.dim(2)?)
    }

    /// As [`Attended::on_kernels`] in tensor operations that every device has and that carry gradients. The result has the
    /// dtype of the values.
    pub fn plainly(&self, layer: usize, pass: &PassContext, tap: &mut dyn Tap) -> Result<Tensor> {
        let blueprint = pass.blueprint;
        let differentiable = tap.differentiable();
        let (batch, heads, tokens, width) = self.q.dims4()?;
        let kv_heads = self.k.dim(1)?;
        let positions = self.positions()?;
        let shared = positions - self.k.dim(2)?;
        // Query heads that share a key-value head are stacked along the queries, so that keys and values need not be repeated.
        let group = heads / kv_heads;
        let stacked = (batch, kv_heads, group * tokens, width);
        let q = self.q.contiguous()?.reshape(stacked)?;
        let scores = q.matmul(&self.k.transpose(2, 3)?)?;
        let scores = match self.stem {
            Some((k, _)) => {
                let far = across(&q, &k.transpose(2, 3)?)?;
                Tensor::cat(&[&far, &scores], 3)?
            }
            None => scores,
        };
        let scores = (scores * blueprint.score_scale)?
            .reshape((batch, heads, tokens, positions))?
            .to_dtype(wide(self.q.dtype()))?;
        let scores = match blueprint.score_cap {
            Some(cap) => soft_cap(&scores, cap)?,
            None => scores,
        };
        let scores = match pass.mask(layer)? {
            Some(mask) => scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?,
            None => scores,
        };
        let scores = tap.visit(AttnScores.at(layer), scores)?;
        let probs = softmax(&scores, differentiable)?;
        let probs = tap.visit(AttnProbs.at(layer), probs)?;
        let probs = probs.to_dtype(self.v.dtype())?.contiguous()?.reshape((
            batch,
            kv_heads,
            group * tokens,
            positions,
        ))?;
        let z = match self.stem {
            Some((_, far)) => {
                let near = probs.narrow(3, shared, positions - shared)?;
                let near = near.contiguous()?.matmul(&self.v)?;
                (across(&probs.narrow(3, 0, shared)?, far)? + near)?
            }
            None => probs.matmul(&self.v)?,
        };
        Ok(z.reshape((batch, heads, tokens, width))?
            .transpose(1, 2)?
            .contiguous()?)
    }
}

/// Transposes `[batch, tokens, heads, head_dim]` to `[batch, heads, tokens, head_dim]`, with rotary embedding if `turn` is
/// given; in `dtype`, on the CPU.
pub fn by_head(x: &Tensor, turn: Option<&Rotation>, dtype: DType) -> Result<Tensor> {
    let (batch, tokens, heads, width) = x.dims4()?;
    let wide = plain(x)?;
    made(&[batch, heads, tokens, width], dtype, |y| {
        on_numbers(&wide, |x| {
            let dims = [batch, tokens, heads, width];
            let Some(turn) = turn else {
                attention::by_head(dims, x, None, y);
                return Ok(());
            };
            let (cos, sin, interleaved) = turn.tables();
            let half = cos.dim(1)?;
            let (cos, sin) = (plain(cos)?, plain(sin)?);
            on_numbers(&cos, |cos| {
                on_numbers(&sin, |sin| {
                    let turn = Turn {
                        cos,
                        sin,
                        half,
                        interleaved,
                    };
                    attention::by_head(dims, x, Some(turn), y);
                })
            })?
        })?
    })
}

/// Calls `work` with the keys (or values) of the stem, if any, followed by those of the rows.
fn on_segments(stem: Option<&Tensor>, own: &Tensor, work: impl FnOnce(&[Segment])) -> Result<()> {
    let held = stem.into_iter().chain([own]);
    let held: Vec<_> = held.map(|t| (t, lent(t))).collect();
    let segments = held.iter().map(|(t, (storage, layout))| {
        let (runs, _, positions, width) = t.dims4()?;
        let stride = layout.stride();
        if stride[3] != 1 && width > 1 || stride[2] != width && positions > 1 {
            return Err(Error::Engine("keys that are not side by side".into()));
        }
        Ok(Segment {
            kept: kept(storage, layout.start_offset())?,
            batch: if runs == 1 { 0 } else { stride[0] },
            head: stride[1],
            positions,
        })
    });
    let segments = segments.collect::<Result<Vec<_>>>()?;
    work(&segments);
    Ok(())
}

/// Multiplies every row of a batch with a matrix that the rows share, as one product for each head: `[batch, heads, m, k]`
/// times `[1, heads, k, n]` gives `[batch, heads, m, n]`.
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

/// Softmax over the last dimension, by the slower implementation if gradients are needed.
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
