//! The formulas of edits (Arditi et al. 2024, 2406.11717; repeng; Liu et al. 2023, 2311.06668; Dai et al. 2022, 2104.08696).
//!
//! Each is written once, in [`Change::on`], and computed in two ways: row by row for a CPU ([`rows`]), where an edit of one token must
//! not cost more than a few hundred multiplications do, and on whole tensors for other devices and for gradients, which pass
//! through them ([`tensors`]). Invariant: both give the same within rounding, which the tests hold them to, and whatever an
//! operation does not move keeps its bits.
//! To add a formula, add the arm of its operation; to add something that formulas are made of, a method of [`HiddenState`].

mod dictionary;
mod rows;
mod tensors;

use std::ops::{Add, Div, Mul, Neg, Sub};

use candle_core::{D, DType, Device, Tensor};

use super::knockout::KnockoutRule;
use crate::edit::op::{DirectionTo, DirectionWithin, Op};
use crate::error::Result;
use crate::model::host::ToHost;

pub(crate) use dictionary::{DictionaryChange, DictionaryOperation};
pub(crate) use rows::HostRow;

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
            tensor: tensor.on_device(device)?,
        })
    }
}

/// A direction at one address: as it is, and of length 1.
#[derive(Clone, Debug)]
pub(crate) struct Pointed {
    pub(crate) vector: Numbers<f32>,
    pub(crate) unit: Numbers<f32>,
}

/// What is done to the value at one address.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Changes rows of values by a formula.
    Values(Box<PreparedEdit>),
    /// Changes features of a dictionary, which is read on the host.
    Dictionary(Box<DictionaryChange>),
    /// To edges of attention, see [`super::cut`]: the one change of scores, which have no rows of their own position.
    Cut(KnockoutRule),
}

/// An operation with everything that it works with.
#[derive(Clone, Debug)]
pub(crate) struct PreparedEdit {
    pub(crate) op: Op,
    pub(crate) strength: f64,
    /// The directions that it mentions, in their order.
    pub(crate) directions: Vec<Pointed>,
    /// Its units; empty where all are meant.
    pub(crate) units: Vec<u32>,
    /// `[width]`, 1 where its units are.
    pub(crate) mask: Numbers<u8>,
    /// Where its units go: `[width]`, or `[positions, width]` from position 0 on, the last row standing for what lies beyond; 0
    /// where nothing says so. For an overlay what is added to the value vectors of its units, `[units, width]`.
    pub(crate) target: Numbers<f32>,
}

/// The value `x` at an address, as formulas see it: one row or many.
pub(crate) trait HiddenState {
    type Number: RowNumber;

    /// The same number for every row.
    fn number(&self, number: f64) -> Self::Number;
    /// `x·v`.
    fn dot(&self, v: &Numbers<f32>) -> Self::Number;
    /// `‖x‖`.
    fn length(&self) -> Self::Number;
    /// `x + n·v`; where `n` is 0, `x` keeps its bits.
    fn add(&mut self, n: Self::Number, v: &Numbers<f32>);
    /// `x + n·(to − from)`.
    fn turn(&mut self, n: Self::Number, from: &Numbers<f32>, to: &Numbers<f32>);
    /// `n·x`.
    fn stretch(&mut self, n: Self::Number);
    /// Units times a factor.
    fn scale(&mut self, mask: &Numbers<u8>, factor: f64);
    /// Units `x + c·(target − x)`; at `c` = 1 the target itself, not a rounding of it.
    fn towards(&mut self, mask: &Numbers<u8>, target: &Numbers<f32>, c: f64);
    /// `x + Σ_i act[i]·Δ_i` over the units: what the MLP returns when the value vectors of these neurons are `v_i + Δ_i`.
    fn overlay(&mut self, units: &[u32], deltas: &Numbers<f32>);
}

/// A number that formulas calculate with.
pub(crate) trait RowNumber:
    Clone
    + Neg<Output = Self>
    + Add<f64, Output = Self>
    + Mul<f64, Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    /// The nearest number within bounds.
    fn within(self, low: f64, high: f64) -> Self;
}

/// Added to what is divided by.
const LEAST: f64 = 1e-12;

impl PreparedEdit {
    /// The formula of every operation: `c` is the strength, `v` its direction as it is, `u` of length 1.
    pub(crate) fn on<X: HiddenState>(&self, x: &mut X) {
        let c = self.strength;
        let v = |i: usize| &self.directions[i].vector;
        let u = |i: usize| &self.directions[i].unit;
        match &self.op {
            Op::Add(_) | Op::Relate(_) => x.add(x.number(c), v(0)),
            Op::AddUnitNorm(_) => x.add(x.length() * c.clamp(-1.0, 1.0), u(0)),
            Op::AddRenorm(_) => {
                let before = x.length();
                x.add(x.number(c), v(0));
                x.stretch(before / (x.length() + LEAST));
            }
            Op::Icv(_) => {
                let size = x.length();
                let shrink = x.number(1.0) / (size.clone() + LEAST);
                // How far the value points away from the vector, 0 where it does not.
                let away = (-x.dot(u(0)) * shrink.clone()).within(0.0, f64::INFINITY);
                x.stretch(shrink);
                x.add((away + 1.0) * c, u(0));
                x.stretch(size / (x.length() + LEAST));
            }
            Op::ProjectOut(_) => x.add(-x.dot(u(0)) * c, u(0)),
            Op::ScaleAlong(_) => x.add(-x.dot(u(0)) * (1.0 - c), u(0)),
            Op::ClampAlong(DirectionWithin(_, low, high)) => {
                let now = x.dot(u(0));
                let inside = now.clone().within(f64::from(*low), f64::from(*high));
                x.add((inside - now) * c, u(0));
            }
            Op::SetAlong(DirectionTo(_, value)) => {
                x.add((-x.dot(u(0)) + f64::from(*value)) * c, u(0));
            }
            Op::Swap(_) => x.turn(x.dot(u(0)) * c, u(0), u(1)),
            Op::Replace(_) => x.towards(&self.mask, v(0), c),
            Op::Zero(_) | Op::Set(_) | Op::Mean(_) | Op::Resample(_) => {
                x.towards(&self.mask, &self.target, c);
            }
            Op::Scale(_) => x.scale(&self.mask, c),
            Op::Rewrite(_) => x.overlay(&self.units, &self.target),
            // What these do is no formula of a value: see the rules of knockouts, dictionaries and circuits.
            Op::Cut(_) | Op::Splice(_) | Op::Only(_) => {}
        }
    }
}

/// `‖after − before‖ / ‖before‖` of a row; infinite where the row has no length in f32 any more, in which every norm
/// takes it.
pub(crate) fn moved(before: &[f32], after: &[f32]) -> f64 {
    let mut change = 0f64;
    if !has_length(after) {
        return f64::INFINITY;
    }
    for (a, b) in after.iter().zip(before) {
        change += f64::from(a - b) * f64::from(a - b);
    }
    change.sqrt() / (rows::length(before) + 1e-12)
}

/// Whether a row has a length in f32.
pub(crate) fn has_length(row: &[f32]) -> bool {
    let squares: f32 = row.iter().map(|x| x * x).sum();
    squares.is_finite()
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
    use crate::edit::Edit;
    use crate::edit::direction::unit;
    use crate::edit::op::OPS;

    fn row(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu)
            .unwrap()
            .reshape((1, 1, values.len()))
            .unwrap()
    }

    fn vector(values: &[f32]) -> Numbers<f32> {
        Numbers::new(values.to_vec(), values.len(), &Device::Cpu).unwrap()
    }

    /// The operation of an edit with these directions.
    fn prepared(edit: &str, directions: &[&[f32]]) -> PreparedEdit {
        let edit: Edit = edit.parse().unwrap();
        let pointed = |v: &&[f32]| Pointed {
            vector: vector(v),
            unit: vector(&unit(v)),
        };
        let width = directions.first().map_or(2, |v| v.len());
        PreparedEdit {
            op: edit.op,
            strength: f64::from(edit.strength),
            directions: directions.iter().map(pointed).collect(),
            units: Vec::new(),
            mask: Numbers::new(vec![1; width], width, &Device::Cpu).unwrap(),
            target: vector(&vec![0.0; width]),
        }
    }

    fn changed(change: &PreparedEdit, x: &mut [f32], position: usize, neurons: &[f32]) {
        change.on(&mut HostRow {
            x,
            position,
            neurons,
        });
    }

    /// The changed row; both ways of computing it must agree.
    fn after(edit: &str, directions: &[&[f32]], x: &[f32]) -> Vec<f32> {
        let change = prepared(edit, directions);
        let whole = change.on_tensor(&row(x), 0, None).unwrap();
        let whole: Vec<f32> = whole.flatten_all().unwrap().host_vec1().unwrap();
        let mut own = x.to_vec();
        changed(&change, &mut own, 0, &[]);
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
        let (x, e0): ([f32; 3], &[f32]) = ([3.0, 4.0, 0.0], &[1.0, 0.0, 0.0]);
        let of = |edit: &str, x: &[f32]| after(edit, &[e0], x);
        close(&of("add_unit_norm:d@resid_pre.0*0.5", &x), &[5.5, 4.0, 0.0]);
        // y = (8, 4, 0), ‖y‖ = √80, back to length 5.
        let factor = 5.0 / 80f32.sqrt();
        close(
            &of("add_renorm:d@resid_pre.0*5", &x),
            &[8.0 * factor, 4.0 * factor, 0.0],
        );
        close(&of("set_along:d=-2@resid_pre.0", &x), &[-2.0, 4.0, 0.0]);
        close(&of("set_along:d=-2@resid_pre.0*0.5", &x), &[0.5, 4.0, 0.0]);
        let swapped = after("swap:d>e@resid_pre.0", &[e0, &[0.0, 0.0, 1.0]], &x);
        close(&swapped, &[0.0, 4.0, 3.0]);
        // x/5 = (.6, .8, 0); it points along v, so the step is 0.1 exactly.
        let icv = "icv:d@resid_pre.0*0.1";
        let turned = [0.7f32, 0.8, 0.0];
        let length = (0.49f32 + 0.64).sqrt();
        close(&of(icv, &x), &turned.map(|v| 5.0 * v / length));
        // Against v the step grows by the cosine: 0.1·(1 + 0.6).
        let turned = [-0.6f32 + 0.16, 0.8, 0.0];
        let length = (turned[0] * turned[0] + 0.64).sqrt();
        close(
            &of(icv, &[-3.0, 4.0, 0.0]),
            &turned.map(|v| 5.0 * v / length),
        );
    }

    #[test]
    fn a_component_within_its_bounds_keeps_every_bit() {
        let x = [0.5f32, -0.0];
        let clamped = |bounds: &str| {
            let edit = format!("clamp_along:d={bounds}@resid_pre.0");
            after(&edit, &[&[1.0, 0.0]], &x)
        };
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&clamped("0..1")), bits(&x));
        close(&clamped("0.6..1"), &[0.6, 0.0]);
        close(&clamped("-2..-1"), &[-1.0, 0.0]);
    }

    #[test]
    fn targets_follow_positions_and_end_with_their_last_row() {
        let change = PreparedEdit {
            mask: Numbers::new(vec![1u8, 0], 2, &Device::Cpu).unwrap(),
            target: Numbers::new(vec![1f32, 1.0, 2.0, 2.0], 2, &Device::Cpu).unwrap(),
            ..prepared("resample:0=a@mlp_act.0", &[])
        };
        let x = Tensor::zeros((1, 3, 2), DType::F32, &Device::Cpu).unwrap();
        let whole = |start| change.on_tensor(&x, start, None).unwrap();
        let rows = |start| whole(start).squeeze(0).unwrap().host_vec2::<f32>().unwrap();
        assert_eq!(rows(1), [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]);
        assert_eq!(rows(0)[0], [1.0, 0.0]);
        for (position, expected) in [(0, [1f32, 0.0]), (1, [2.0, 0.0]), (9, [2.0, 0.0])] {
            let mut row = [0f32, 0.0];
            changed(&change, &mut row, position, &[]);
            assert_eq!(row.map(f32::to_bits), expected.map(f32::to_bits));
        }
    }

    /// Every operation on random rows: row by row, and as one tensor.
    #[test]
    fn both_ways_of_computing_agree() {
        use rand::SeedableRng;
        let mut rng = rand::rngs::StdRng::seed_from_u64(3);
        let width = 13;
        let mut draw = |n: usize| crate::model::gaussian::normals(&mut rng, n);
        let (x, act) = (draw(2 * 3 * width), draw(2 * 3 * 5));
        let tensor = |v: &[f32], w| Tensor::from_vec(v.to_vec(), (2, 3, w), &Device::Cpu).unwrap();
        for spec in OPS
            .iter()
            .filter(|s| !["cut", "splice", "only"].contains(&s.name))
        {
            let (v, w) = (draw(width), draw(width));
            let change = prepared(spec.example, &[&v, &w]);
            let change = PreparedEdit {
                strength: 0.7 * change.strength,
                units: vec![4, 1],
                mask: Numbers::new((0..13u8).map(|i| i % 2).collect(), 13, &Device::Cpu).unwrap(),
                target: Numbers::new(draw(2 * width), width, &Device::Cpu).unwrap(),
                ..change
            };
            let whole = change.on_tensor(&tensor(&x, width), 1, Some(&tensor(&act, 5)));
            let whole = whole.unwrap().flatten_all().unwrap();
            let whole = whole.host_vec1::<f32>().unwrap();
            let mut own = x.clone();
            for (i, row) in own.chunks_exact_mut(width).enumerate() {
                changed(&change, row, 1 + i % 3, &act[i * 5..(i + 1) * 5]);
            }
            assert_ne!(own, x, "{change:?}");
            close(&own, &whole);
        }
    }
}
