//! Formulas on whole tensors, `[batch, tokens, width]`, for any device.
//!
//! Invariant: computed in f32, returned in the dtype of the value. To add a formula, see [`super`].

use candle_core::{D, DType, Tensor};

use super::Change;
use crate::error::Result;

impl Change {
    /// The whole of `x` changed, `[batch, tokens, width]`; its first token is at position `start`. `act` is what the
    /// neurons of the layer were, `[batch, tokens, d_mlp]`, for an overlay.
    pub(crate) fn on(&self, x: &Tensor, start: usize, act: Option<&Tensor>) -> Result<Tensor> {
        let dtype = x.dtype();
        let wide = x.to_dtype(DType::F32)?;
        let out = match self {
            Self::Add(v) => wide.broadcast_add(&v.tensor)?,
            Self::AddUnitNorm(v, c) => (&wide + (length(&wide)?.broadcast_mul(&v.tensor)? * *c)?)?,
            Self::AddRenorm(v) => {
                let moved = wide.broadcast_add(&v.tensor)?;
                let factor = (length(&wide)? / (length(&moved)? + 1e-12)?)?;
                moved.broadcast_mul(&factor)?
            }
            Self::Icv(v, c) => {
                let size = length(&wide)?;
                let direction = wide.broadcast_div(&(&size + 1e-12)?)?;
                // How far the value points away from the vector, 0 where it does not.
                let away = along(&direction, &v.tensor)?.neg()?.relu()?;
                let step = ((away + 1.0)? * *c)?.broadcast_mul(&v.tensor)?;
                let turned = (direction + step)?;
                let turned = turned.broadcast_div(&(length(&turned)? + 1e-12)?)?;
                turned.broadcast_mul(&size)?
            }
            Self::ProjectOut(v, c) => {
                (&wide - (along(&wide, &v.tensor)?.broadcast_mul(&v.tensor)? * *c)?)?
            }
            Self::SetAlong(v, value, c) => {
                let missing = ((along(&wide, &v.tensor)?.neg()? + *value)? * *c)?;
                (&wide + missing.broadcast_mul(&v.tensor)?)?
            }
            Self::ClampAlong {
                unit,
                low,
                high,
                strength,
            } => {
                let now = along(&wide, &unit.tensor)?;
                let within = now.clamp(*low, *high)?;
                let moved = ((&within - &now)? * *strength)?;
                let moved = (&wide + moved.broadcast_mul(&unit.tensor)?)?;
                // Adding nothing would still turn -0 into 0.
                let outside = now.ne(&within)?.broadcast_as(wide.shape())?;
                outside.where_cond(&moved, &wide)?
            }
            Self::Swap { from, to, strength } => {
                let amount = (along(&wide, &from.tensor)? * *strength)?;
                (&wide + amount.broadcast_mul(&(&to.tensor - &from.tensor)?)?)?
            }
            Self::Towards {
                mask,
                target,
                strength,
            } => {
                let target =
                    rows(&target.tensor, start, wide.dim(1)?)?.broadcast_as(wide.shape())?;
                // At full strength the target itself, not a rounding of it.
                #[allow(clippy::float_cmp)] // exactly full strength
                let moved = if *strength == 1.0 {
                    target.contiguous()?
                } else {
                    (&wide + (target.sub(&wide)? * *strength)?)?
                };
                mask.tensor
                    .broadcast_as(wide.shape())?
                    .where_cond(&moved, &wide)?
            }
            Self::Times { mask, factor } => mask
                .tensor
                .broadcast_as(wide.shape())?
                .where_cond(&(&wide * *factor)?, &wide)?,
            Self::Cut(_) => wide,
            Self::Overlay { units, deltas } => {
                let Some(act) = act else {
                    return Ok(x.clone());
                };
                let index = Tensor::new(units.as_slice(), act.device())?;
                let act = act.to_dtype(DType::F32)?.index_select(&index, 2)?;
                // One unit's delta is kept as a vector.
                let deltas = deltas.tensor.reshape((units.len(), ()))?;
                (&wide + act.broadcast_matmul(&deltas)?)?
            }
        };
        Ok(out.to_dtype(dtype)?)
    }
}

/// `‖x‖` of every row, `[.., 1]`.
fn length(x: &Tensor) -> Result<Tensor> {
    Ok(x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// `x·v` of every row, `[.., 1]`.
fn along(x: &Tensor, v: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_mul(v)?.sum_keepdim(D::Minus1)?)
}

/// The rows of a target for consecutive positions; a target that is one row serves them all.
fn rows(target: &Tensor, start: usize, tokens: usize) -> Result<Tensor> {
    if target.rank() == 1 {
        return Ok(target.clone());
    }
    let last = target.dim(0)? - 1;
    let index: Vec<u32> = (start..start + tokens)
        .map(|p| p.min(last) as u32)
        .collect();
    Ok(target.index_select(&Tensor::new(index, target.device())?, 0)?)
}
