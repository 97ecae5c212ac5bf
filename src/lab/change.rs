//! The formulas of edits on tensors (Arditi et al. 2024, 2406.11717; repeng; Liu et al. 2023, 2311.06668).
//!
//! Invariant: computed in f32, returned in the dtype of the value; whatever an operation does not move keeps its bits.
//! To add a formula, add a variant and its arm in [`Change::on`].

use candle_core::{D, DType, Tensor};

use crate::error::Result;

/// A prepared operation; vectors are f32 on the model's device.
#[derive(Debug)]
pub(super) enum Change {
    /// `x + v`, strength already inside.
    Add(Tensor),
    /// `x + c·‖x‖·v̂`.
    AddUnitNorm(Tensor, f64),
    /// `y·‖x‖/‖y‖`, `y = x + v`, strength already inside.
    AddRenorm(Tensor),
    /// `‖x‖·unit(x/‖x‖ + c·(1 + max(0, cos(x, −v)))·v̂)`.
    Icv(Tensor, f64),
    /// `x − c·(x·v̂)·v̂`.
    ProjectOut(Tensor, f64),
    /// `x + c·(value − x·v̂)·v̂`.
    SetAlong(Tensor, f64, f64),
    /// As `SetAlong` to the nearer bound, where `x·v̂` lies outside them.
    ClampAlong {
        unit: Tensor,
        low: f64,
        high: f64,
        strength: f64,
    },
    /// `x + c·(x·ŝ)·(t̂ − ŝ)`.
    Swap {
        from: Tensor,
        to: Tensor,
        strength: f64,
    },
    /// Units: `x + c·(target − x)`, where the mask is 1. The target is `[width]`, or `[positions, width]` from
    /// position 0 on, its last row standing for what lies beyond.
    Towards {
        mask: Tensor,
        target: Tensor,
        strength: f64,
    },
    /// Units: `x·c`, where the mask is 1.
    Times { mask: Tensor, factor: f64 },
}

impl Change {
    /// The whole of `x` changed, `[batch, tokens, width]`; its first token is at position `start`.
    pub(super) fn on(&self, x: &Tensor, start: usize) -> Result<Tensor> {
        let dtype = x.dtype();
        let wide = x.to_dtype(DType::F32)?;
        let out = match self {
            Self::Add(v) => wide.broadcast_add(v)?,
            Self::AddUnitNorm(v, c) => (&wide + (length(&wide)?.broadcast_mul(v)? * *c)?)?,
            Self::AddRenorm(v) => {
                let moved = wide.broadcast_add(v)?;
                let factor = (length(&wide)? / (length(&moved)? + 1e-12)?)?;
                moved.broadcast_mul(&factor)?
            }
            Self::Icv(v, c) => {
                let size = length(&wide)?;
                let direction = wide.broadcast_div(&(&size + 1e-12)?)?;
                // How far the value points away from the vector, 0 where it does not.
                let away = along(&direction, v)?.neg()?.relu()?;
                let step = ((away + 1.0)? * *c)?.broadcast_mul(v)?;
                let turned = (direction + step)?;
                let turned = turned.broadcast_div(&(length(&turned)? + 1e-12)?)?;
                turned.broadcast_mul(&size)?
            }
            Self::ProjectOut(v, c) => (&wide - (along(&wide, v)?.broadcast_mul(v)? * *c)?)?,
            Self::SetAlong(v, value, c) => {
                let missing = ((along(&wide, v)?.neg()? + *value)? * *c)?;
                (&wide + missing.broadcast_mul(v)?)?
            }
            Self::ClampAlong {
                unit,
                low,
                high,
                strength,
            } => {
                let now = along(&wide, unit)?;
                let within = now.clamp(*low, *high)?;
                let moved = ((&within - &now)? * *strength)?;
                let moved = (&wide + moved.broadcast_mul(unit)?)?;
                // Adding nothing would still turn -0 into 0.
                let outside = now.ne(&within)?.broadcast_as(wide.shape())?;
                outside.where_cond(&moved, &wide)?
            }
            Self::Swap { from, to, strength } => {
                let amount = (along(&wide, from)? * *strength)?;
                (&wide + amount.broadcast_mul(&(to - from)?)?)?
            }
            Self::Towards {
                mask,
                target,
                strength,
            } => {
                let target = rows(target, start, wide.dim(1)?)?.broadcast_as(wide.shape())?;
                // At full strength the target itself, not a rounding of it.
                #[allow(clippy::float_cmp)] // exactly full strength
                let moved = if *strength == 1.0 {
                    target.contiguous()?
                } else {
                    (&wide + (target.sub(&wide)? * *strength)?)?
                };
                mask.broadcast_as(wide.shape())?.where_cond(&moved, &wide)?
            }
            Self::Times { mask, factor } => mask
                .broadcast_as(wide.shape())?
                .where_cond(&(&wide * *factor)?, &wide)?,
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn row(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu)
            .unwrap()
            .reshape((1, 1, values.len()))
            .unwrap()
    }

    fn vector(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn after(change: &Change, x: &[f32]) -> Vec<f32> {
        let out = change.on(&row(x), 0).unwrap();
        out.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn close(found: &[f32], expected: &[f32]) {
        let near = found
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near, "{found:?} {expected:?}");
    }

    #[test]
    fn formulas_by_hand() {
        let (x, e0) = ([3.0, 4.0, 0.0], vector(&[1.0, 0.0, 0.0]));
        close(
            &after(&Change::AddUnitNorm(e0.clone(), 0.5), &x),
            &[5.5, 4.0, 0.0],
        );
        // y = (8, 4, 0), ‖y‖ = √80, back to length 5.
        let factor = 5.0 / 80f32.sqrt();
        close(
            &after(&Change::AddRenorm(vector(&[5.0, 0.0, 0.0])), &x),
            &[8.0 * factor, 4.0 * factor, 0.0],
        );
        close(
            &after(&Change::SetAlong(e0.clone(), -2.0, 1.0), &x),
            &[-2.0, 4.0, 0.0],
        );
        close(
            &after(&Change::SetAlong(e0.clone(), -2.0, 0.5), &x),
            &[0.5, 4.0, 0.0],
        );
        let swap = Change::Swap {
            from: e0.clone(),
            to: vector(&[0.0, 0.0, 1.0]),
            strength: 1.0,
        };
        close(&after(&swap, &x), &[0.0, 4.0, 3.0]);
        // x/5 = (.6, .8, 0); it points along v, so the step is 0.1 exactly.
        let turned = [0.7f32, 0.8, 0.0];
        let length = (0.49f32 + 0.64).sqrt();
        close(
            &after(&Change::Icv(e0.clone(), 0.1), &x),
            &turned.map(|v| 5.0 * v / length),
        );
        // Against v the step grows by the cosine: 0.1·(1 + 0.6).
        let turned = [-0.6f32 + 0.16, 0.8, 0.0];
        let length = (turned[0] * turned[0] + 0.64).sqrt();
        close(
            &after(&Change::Icv(e0, 0.1), &[-3.0, 4.0, 0.0]),
            &turned.map(|v| 5.0 * v / length),
        );
    }

    #[test]
    fn a_component_within_its_bounds_keeps_every_bit() {
        let clamp = |low: f64, high: f64| Change::ClampAlong {
            unit: vector(&[1.0, 0.0]),
            low,
            high,
            strength: 1.0,
        };
        let x = [0.5f32, -0.0];
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&after(&clamp(0.0, 1.0), &x)), bits(&x));
        close(&after(&clamp(0.6, 1.0), &x), &[0.6, 0.0]);
        close(&after(&clamp(-2.0, -1.0), &x), &[-1.0, 0.0]);
    }

    #[test]
    fn targets_follow_positions_and_end_with_their_last_row() {
        let target = Tensor::new(&[[1f32, 1.0], [2.0, 2.0]], &Device::Cpu).unwrap();
        let change = Change::Towards {
            mask: Tensor::new(&[1u8, 0], &Device::Cpu).unwrap(),
            target,
            strength: 1.0,
        };
        let x = Tensor::zeros((1, 3, 2), DType::F32, &Device::Cpu).unwrap();
        let out = change.on(&x, 1).unwrap().squeeze(0).unwrap();
        assert_eq!(
            out.to_vec2::<f32>().unwrap(),
            [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]
        );
        let out = change.on(&x, 0).unwrap().squeeze(0).unwrap();
        assert_eq!(out.to_vec2::<f32>().unwrap()[0], [1.0, 0.0]);
    }
}
