//! Value vectors turned from one token to another, as an overlay that leaves the weights as they are.
//!
//! `v_i ← v_i − λ1·‖v_i‖·ê_from + λ2·‖v_i‖·ê_to` (Dai et al. 2022, 2104.08696, section 5.1), where `e_t` is the direction that
//! raises token t's logit through the final norm's gain (the paper, whose model ties embedding and unembedding, takes input
//! embeddings). Invariant: adding `act[i]·Δ_i` to the MLP output gives the model whose down projection has `v_i + Δ_i` in
//! column i. To turn values another way, add a method that returns such deltas.

use candle_core::{DType, Tensor};

use super::blueprint::NormKind;
use super::transformer::Transformer;
use crate::error::Result;

impl Transformer {
    /// The deltas of the value vectors of `units` for tokens `(from, to)` and factors `(λ1, λ2)`: `[units, d_model]`, f32, to
    /// be added to `mlp_out` (before the norm of the MLP output and the multiplier).
    pub fn turned_values(
        &self,
        layer: usize,
        units: &[u32],
        (from, to): (u32, u32),
        (less, more): (f32, f32),
    ) -> Result<Tensor> {
        let away = (self.direction_raising(from)? * -f64::from(less))?;
        let turn = (away + (self.direction_raising(to)? * f64::from(more))?)?;
        let lengths = units
            .iter()
            .map(|unit| {
                let value = self.value_vector(layer, *unit as usize)?;
                Ok(value.sqr()?.sum_all()?.sqrt()?)
            })
            .collect::<Result<Vec<_>>>()?;
        let lengths = Tensor::stack(&lengths, 0)?.to_dtype(DType::F32)?;
        let added = lengths.unsqueeze(1)?.broadcast_mul(&turn)?;
        // `added` is a change of the stream; `mlp_out` still passes a gain and a multiplier, which are divided out.
        let raw = match &self.blocks[layer].norms_mlp.output {
            Some(norm) => {
                let norm = norm.on(&self.device)?;
                let silent = norm.gain.abs()?.lt(1e-6)?;
                let gain = silent.where_cond(&norm.gain.ones_like()?, &norm.gain)?;
                let open = silent.where_cond(&gain.zeros_like()?, &gain.recip()?)?;
                added.broadcast_mul(&open)?
            }
            None => added,
        };
        Ok((raw / self.blueprint.residual_scale)?)
    }

    /// The unit vector of the stream that raises a token's logit most, taking only the final norm's gain into account:
    /// `[d_model]`, f32.
    fn direction_raising(&self, token: u32) -> Result<Tensor> {
        let raised = self.logit_direction(token)?.mul(&self.norm.gain)?;
        let raised = match self.norm.kind {
            NormKind::Rms | NormKind::Identity => raised,
            // LayerNorm subtracts the mean, so the mean of the direction has no effect.
            NormKind::Layer => raised.broadcast_sub(&raised.mean_keepdim(0)?)?,
        };
        let length = (raised.sqr()?.sum_keepdim(0)?.sqrt()? + 1e-12)?;
        Ok(raised.broadcast_div(&length)?)
    }
}
