//! The formulas of edits (Arditi et al. 2024, 2406.11717; repeng; Liu et al. 2023, 2311.06668; Dai et al. 2022, 2104.08696).
//!
//! Twice: row by row for a CPU ([`rows`]), where an edit of one token must not cost more than a few hundred
//! multiplications do, and on whole tensors for other devices ([`tensors`]). Invariant: both give the same within rounding,
//! which the tests hold them to, and whatever an operation does not move keeps its bits.
//! To add a formula, add a variant of [`Change`] and its arm in both.

mod rows;
mod tensors;

use candle_core::{D, DType, Device, Tensor};

use super::cut::Cut;
use crate::error::Result;

/// Numbers of the host and the same on the model's device.
#[derive(Clone, Debug)]
pub(crate) struct Numbers<T> {
    pub(crate) host: Vec<T>,
    pub(crate) tensor: Tensor,
}

impl<T: candle_core::WithDType> Numbers<T> {
    /// `[width]`, or `[rows, width]`.
    pub(crate) fn new(host: Vec<T>, width: usize, device: &Device) -> Result<Self> {
        let rows = host.len() / width.max(1);
        let tensor = Tensor::from_vec(host.clone(), (rows, width), &Device::Cpu)?;
        let tensor = if rows == 1 {
            tensor.squeeze(0)?
        } else {
            tensor
        };
        Ok(Self {
            host,
            tensor: tensor.to_device(device)?,
        })
    }
}

/// A prepared operation on the value at an address.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// `x + v`, strength already inside.
    Add(Numbers<f32>),
    /// `x + c·‖x‖·v̂`.
    AddUnitNorm(Numbers<f32>, f64),
    /// `y·‖x‖/‖y‖`, `y = x + v`, strength already inside.
    AddRenorm(Numbers<f32>),
    /// `‖x‖·unit(x/‖x‖ + c·(1 + max(0, cos(x, −v)))·v̂)`.
    Icv(Numbers<f32>, f64),
    /// `x − c·(x·v̂)·v̂`.
    ProjectOut(Numbers<f32>, f64),
    /// `x + c·(value − x·v̂)·v̂`.
    SetAlong(Numbers<f32>, f64, f64),
    /// As `SetAlong` to the nearer bound, where `x·v̂` lies outside them.
    ClampAlong {
        unit: Numbers<f32>,
        low: f64,
        high: f64,
        strength: f64,
    },
    /// `x + c·(x·ŝ)·(t̂ − ŝ)`.
    Swap {
        from: Numbers<f32>,
        to: Numbers<f32>,
        strength: f64,
    },
    /// Units: `x + c·(target − x)`, where the mask is 1. The target is `[width]`, or `[positions, width]` from
    /// position 0 on, its last row standing for what lies beyond.
    Towards {
        mask: Numbers<u8>,
        target: Numbers<f32>,
        strength: f64,
    },
    /// Units: `x·c`, where the mask is 1.
    Times { mask: Numbers<u8>, factor: f64 },
    /// `x + Σ_i act[i]·Δ_i` over the units: what the MLP returns when the value vectors of these neurons are
    /// `v_i + Δ_i`. Deltas are `[units, width]`.
    Overlay {
        units: Vec<u32>,
        deltas: Numbers<f32>,
    },
    /// Edges of attention, see [`super::cut`]: the one change of scores, which have no rows of their own position.
    Cut(Cut),
}

/// `‖after − before‖ / ‖before‖` of a row; infinite where the row has no length in f32 any more, in which every norm
/// takes it.
pub(crate) fn moved(before: &[f32], after: &[f32]) -> f64 {
    let mut change = 0f64;
    let squares: f32 = after.iter().map(|a| a * a).sum();
    if !squares.is_finite() {
        return f64::INFINITY;
    }
    for (a, b) in after.iter().zip(before) {
        change += f64::from(a - b) * f64::from(a - b);
    }
    change.sqrt() / (rows::length(before) + 1e-12)
}

/// ‖Δ‖/‖x‖ of the given values of `[batch, tokens, width]`, counted over both: `[rows]`, f32.
pub(crate) fn ratio(before: &Tensor, after: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let index = Tensor::new(rows, before.device())?;
    let pick = |t: &Tensor| {
        let rows = t.flatten_to(1)?.index_select(&index, 0)?;
        rows.to_dtype(DType::F32)
    };
    let (before, after) = (pick(before)?, pick(after)?);
    let length = |t: Tensor| t.sqr()?.sum(D::Minus1)?.sqrt();
    Ok((length((after - &before)?)? / (length(before)? + 1e-12)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn row(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu)
            .unwrap()
            .reshape((1, 1, values.len()))
            .unwrap()
    }

    fn vector(values: &[f32]) -> Numbers<f32> {
        Numbers::new(values.to_vec(), values.len(), &Device::Cpu).unwrap()
    }

    /// The changed row; both ways of computing it must agree.
    fn after(change: &Change, x: &[f32]) -> Vec<f32> {
        let whole = change.on(&row(x), 0, None).unwrap();
        let whole: Vec<f32> = whole.flatten_all().unwrap().to_vec1().unwrap();
        let mut own = x.to_vec();
        change.row(&mut own, 0, None);
        close(&own, &whole);
        own
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
        let change = Change::Towards {
            mask: Numbers::new(vec![1u8, 0], 2, &Device::Cpu).unwrap(),
            target: Numbers::new(vec![1f32, 1.0, 2.0, 2.0], 2, &Device::Cpu).unwrap(),
            strength: 1.0,
        };
        let x = Tensor::zeros((1, 3, 2), DType::F32, &Device::Cpu).unwrap();
        let out = change.on(&x, 1, None).unwrap().squeeze(0).unwrap();
        assert_eq!(
            out.to_vec2::<f32>().unwrap(),
            [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]
        );
        let out = change.on(&x, 0, None).unwrap().squeeze(0).unwrap();
        assert_eq!(out.to_vec2::<f32>().unwrap()[0], [1.0, 0.0]);
        for (position, expected) in [(0, [1f32, 0.0]), (1, [2.0, 0.0]), (9, [2.0, 0.0])] {
            let mut row = [0f32, 0.0];
            change.row(&mut row, position, None);
            assert_eq!(row.map(f32::to_bits), expected.map(f32::to_bits));
        }
    }

    /// Every formula on random rows: row by row, and as one tensor.
    #[test]
    fn both_ways_of_computing_agree() {
        use rand::SeedableRng;
        let mut rng = rand::rngs::StdRng::seed_from_u64(3);
        let width = 13;
        let mut draw = |n: usize| crate::model::normal::normals(&mut rng, n);
        let numbers = |v: Vec<f32>| Numbers::new(v, 13, &Device::Cpu).unwrap();
        let mask = || Numbers::new((0..13u8).map(|i| i % 2).collect(), 13, &Device::Cpu).unwrap();
        let unit = |v: Vec<f32>| numbers(crate::edit::direction::unit(&v));
        let changes = [
            Change::Add(numbers(draw(width))),
            Change::AddUnitNorm(unit(draw(width)), -0.7),
            Change::AddRenorm(numbers(draw(width))),
            Change::Icv(unit(draw(width)), 0.6),
            Change::ProjectOut(unit(draw(width)), 0.4),
            Change::SetAlong(unit(draw(width)), 1.5, 0.8),
            Change::ClampAlong {
                unit: unit(draw(width)),
                low: -0.1,
                high: 0.2,
                strength: 0.9,
            },
            Change::Swap {
                from: unit(draw(width)),
                to: unit(draw(width)),
                strength: 1.3,
            },
            Change::Towards {
                mask: mask(),
                target: numbers(draw(2 * width)),
                strength: 0.5,
            },
            Change::Times {
                mask: mask(),
                factor: -1.5,
            },
            Change::Overlay {
                units: vec![4, 1],
                deltas: numbers(draw(2 * width)),
            },
        ];
        let (x, act) = (draw(2 * 3 * width), draw(2 * 3 * 5));
        let tensor = |v: &[f32], w| Tensor::from_vec(v.to_vec(), (2, 3, w), &Device::Cpu).unwrap();
        for change in &changes {
            let whole = change.on(&tensor(&x, width), 1, Some(&tensor(&act, 5)));
            let whole = whole.unwrap().flatten_all().unwrap();
            let whole = whole.to_vec1::<f32>().unwrap();
            let mut own = x.clone();
            for (i, row) in own.chunks_exact_mut(width).enumerate() {
                change.row(row, 1 + i % 3, Some(&act[i * 5..(i + 1) * 5]));
            }
            assert_ne!(own, x, "{change:?}");
            close(&own, &whole);
        }
    }
}
