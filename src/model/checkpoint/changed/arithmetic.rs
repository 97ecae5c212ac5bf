//! What a change does to the numbers of one tensor that writes to the residual stream.
//!
//! A matrix is `W = [w_1 .. w_n]`, where `w_i` is what its i-th input (a neuron, a coordinate of a head, a token) writes. First an
//! input is multiplied or gets something added, `w_i ← f_i w_i + δ_i`, then every `w_i` and the bias are changed along directions,
//! in their order: `w ← w + a (w·u) u`, which takes a direction out where `a = -1` (Arditi et al. 2024, 2406.11717, section 4.1).
//! Invariant: sums are in f64, one row of the file at a time; a number that no part of the change concerns is written as it was.
//! To store another kind of number, add it to [`StoredNumber`].

use std::collections::BTreeMap;

use half::{bf16, f16};
use safetensors::Dtype;

/// A change along a direction: `w + factor (w·u) u`.
#[derive(Clone, Debug, PartialEq)]
pub struct AlongDirection {
    /// `u`, `[d_model]`, of length 1.
    pub unit: Vec<f64>,
    /// `a`: -1 takes the direction out, 0 changes nothing.
    pub factor: f64,
}

/// The change of a tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorChange {
    /// The factors of inputs that are multiplied, by their number.
    pub factors: BTreeMap<usize, f64>,
    /// What is added to the vectors of inputs, each `[d_model]`.
    pub added: BTreeMap<usize, Vec<f64>>,
    /// Changes along directions, in order.
    pub along: Vec<AlongDirection>,
}

impl TensorChange {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.factors.is_empty() && self.added.is_empty() && self.along.is_empty()
    }

    /// What of it concerns a bias, which has no inputs.
    #[must_use]
    pub fn of_bias(&self) -> Self {
        Self {
            along: self.along.clone(),
            ..Self::default()
        }
    }
}

/// Where the coordinates of the stream lie in a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamAxis {
    /// `[d_model, inputs]`: a row is a coordinate.
    Rows,
    /// `[inputs, d_model]`, or `[d_model]` for a bias: a row is what one input writes.
    Columns,
}

/// A kind of number that can be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredNumber {
    F64,
    F32,
    F16,
    Bf16,
}

impl StoredNumber {
    /// The kind of a safetensors dtype; none for others.
    pub fn of(dtype: Dtype) -> Option<Self> {
        // Not ours, and it grows.
        #[allow(clippy::wildcard_enum_match_arm)]
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Its size in bytes.
    pub fn width(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn read(self, bytes: &[u8]) -> f64 {
        let mut wide = [0u8; 8];
        let count = bytes.len().min(8);
        wide[..count].copy_from_slice(&bytes[..count]);
        let [a, b, c, d, ..] = wide;
        match self {
            Self::F64 => f64::from_le_bytes(wide),
            Self::F32 => f64::from(f32::from_le_bytes([a, b, c, d])),
            Self::F16 => f16::from_le_bytes([a, b]).to_f64(),
            Self::Bf16 => bf16::from_le_bytes([a, b]).to_f64(),
        }
    }

    /// Appends the nearest number of this kind, and returns it.
    fn write(self, value: f64, out: &mut Vec<u8>) -> f64 {
        match self {
            Self::F64 => {
                out.extend(value.to_le_bytes());
                value
            }
            Self::F32 => {
                let near = value as f32;
                out.extend(near.to_le_bytes());
                f64::from(near)
            }
            Self::F16 => {
                let near = f16::from_f64(value);
                out.extend(near.to_le_bytes());
                near.to_f64()
            }
            Self::Bf16 => {
                let near = bf16::from_f64(value);
                out.extend(near.to_le_bytes());
                near.to_f64()
            }
        }
    }
}

/// How much a tensor changed, as Euclidean norms over all of its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ChangeSizes {
    /// Of the tensor before.
    pub before: f64,
    /// Of the difference that was written.
    pub change: f64,
    /// Of what rounding to the stored kind of number added to the difference.
    pub rounding: f64,
    /// How many numbers became infinite or NaN that were finite before.
    pub lost: usize,
}

/// Sums of squares, of which [`ChangeSizes`] are the roots.
#[derive(Default)]
struct SquareSums {
    before: f64,
    change: f64,
    rounding: f64,
    lost: usize,
}

impl SquareSums {
    fn row(&mut self, kind: StoredNumber, stored: &[u8], row: &[f64], out: &mut Vec<u8>) {
        let width = kind.width();
        for (old, new) in stored.chunks_exact(width).zip(row) {
            let old = kind.read(old);
            let near = kind.write(*new, out);
            self.before += old * old;
            self.change += (near - old) * (near - old);
            self.rounding += (near - new) * (near - new);
            self.lost += usize::from(old.is_finite() && !near.is_finite());
        }
    }

    fn roots(&self) -> ChangeSizes {
        ChangeSizes {
            before: self.before.sqrt(),
            change: self.change.sqrt(),
            rounding: self.rounding.sqrt(),
            lost: self.lost,
        }
    }
}

/// The numbers of a tensor that is to be changed.
#[derive(Clone, Copy, Debug)]
pub struct StoredMatrix<'a> {
    pub bytes: &'a [u8],
    pub kind: StoredNumber,
    pub axis: StreamAxis,
    /// How many numbers a row of the file has: the length of its last axis.
    pub columns: usize,
}

impl StoredMatrix<'_> {
    /// Writes the changed numbers row by row, each to `out`.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn changed<E>(
        &self,
        change: &TensorChange,
        mut out: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<ChangeSizes, E> {
        let stride = self.columns * self.kind.width();
        let mut sums = SquareSums::default();
        let mut buffer = Vec::with_capacity(stride);
        let directions = match self.axis {
            StreamAxis::Rows => self.components(change),
            StreamAxis::Columns => Vec::new(),
        };
        for (number, stored) in self.bytes.chunks_exact(stride.max(1)).enumerate() {
            let mut row = self.row(change, number, stored);
            match self.axis {
                StreamAxis::Columns => {
                    for along in &change.along {
                        let inner = dot(&row, &along.unit);
                        add(&mut row, along.factor * inner, &along.unit);
                    }
                }
                StreamAxis::Rows => {
                    for (along, inner) in change.along.iter().zip(&directions) {
                        add(&mut row, along.factor * along.unit[number], inner);
                    }
                }
            }
            buffer.clear();
            sums.row(self.kind, stored, &row, &mut buffer);
            out(&buffer)?;
        }
        Ok(sums.roots())
    }

    /// A row of the file with its inputs multiplied and added to.
    fn row(&self, change: &TensorChange, number: usize, stored: &[u8]) -> Vec<f64> {
        let numbers = stored.chunks_exact(self.kind.width());
        let mut row: Vec<f64> = numbers.map(|bytes| self.kind.read(bytes)).collect();
        match self.axis {
            StreamAxis::Rows => {
                for (input, factor) in &change.factors {
                    row[*input] *= factor;
                }
                for (input, added) in &change.added {
                    row[*input] += added[number];
                }
            }
            StreamAxis::Columns => {
                if let Some(factor) = change.factors.get(&number) {
                    row.iter_mut().for_each(|x| *x *= factor);
                }
                if let Some(added) = change.added.get(&number) {
                    add(&mut row, 1.0, added);
                }
            }
        }
        row
    }

    /// For every direction, `w·u` of each input at the moment when its turn comes: `[directions][inputs]`.
    fn components(&self, change: &TensorChange) -> Vec<Vec<f64>> {
        let stride = self.columns * self.kind.width();
        let mut inner = vec![vec![0f64; self.columns]; change.along.len()];
        if inner.is_empty() {
            return inner;
        }
        for (number, stored) in self.bytes.chunks_exact(stride.max(1)).enumerate() {
            let row = self.row(change, number, stored);
            for (along, sums) in change.along.iter().zip(&mut inner) {
                add(sums, along.unit[number], &row);
            }
        }
        // What the directions before it changed along this one.
        for turn in 1..inner.len() {
            let (earlier, later) = inner.split_at_mut(turn);
            let own = &change.along[turn];
            for (along, sums) in change.along.iter().zip(earlier.iter()) {
                add(
                    &mut later[0],
                    along.factor * dot(&along.unit, &own.unit),
                    sums,
                );
            }
        }
        inner
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    if factor != 0.0 {
        to.iter_mut().zip(what).for_each(|(t, w)| *t += factor * w);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn changed(
        rows: &[&[f32]],
        axis: StreamAxis,
        change: &TensorChange,
    ) -> (Vec<f32>, ChangeSizes) {
        let bytes: Vec<u8> = rows
            .iter()
            .flat_map(|row| row.iter().flat_map(|x| x.to_le_bytes()))
            .collect();
        let matrix = StoredMatrix {
            bytes: &bytes,
            kind: StoredNumber::F32,
            axis,
            columns: rows[0].len(),
        };
        let mut out = Vec::new();
        let sizes = matrix
            .changed(change, |bytes| {
                out.extend_from_slice(bytes);
                Ok::<_, Infallible>(())
            })
            .unwrap();
        let numbers = out.chunks_exact(4);
        let numbers = numbers.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        (numbers.collect(), sizes)
    }

    fn along(unit: &[f64], factor: f64) -> AlongDirection {
        AlongDirection {
            unit: unit.to_vec(),
            factor,
        }
    }

    #[test]
    fn both_layouts_give_the_same_by_hand() {
        // Two inputs, which write (1, 2, 3) and (4, 5, 6).
        let change = TensorChange {
            factors: [(1, 2.0)].into(),
            added: [(0, vec![0.5, 0.0, -1.0])].into(),
            along: vec![along(&[0.6, 0.8, 0.0], -1.0), along(&[1.0, 0.0, 0.0], 0.5)],
        };
        let rows: [&[f32]; 2] = [&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]];
        let (as_columns, sizes) = changed(&rows, StreamAxis::Columns, &change);
        // (1.5, 2, 2): component 2.5 along (.6, .8), which leaves (0, 0, 2); then a half more of the first coordinate.
        let near = |found: &[f32], expected: &[f32]| {
            found
                .iter()
                .zip(expected)
                .for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{found:?}"));
        };
        near(&as_columns[..3], &[0.0, 0.0, 2.0]);
        // (8, 10, 12): component 12.8, which leaves (.32, -.24, 12).
        near(&as_columns[3..], &[0.48, -0.24, 12.0]);
        let turned: [&[f32]; 3] = [&[1.0, 4.0], &[2.0, 5.0], &[3.0, 6.0]];
        let (as_rows, other) = changed(&turned, StreamAxis::Rows, &change);
        for (i, value) in as_columns.iter().enumerate() {
            assert!((as_rows[(i % 3) * 2 + i / 3] - value).abs() < 1e-6, "{i}");
        }
        assert!((sizes.change - other.change).abs() < 1e-6 && sizes.lost == 0);
        assert!((sizes.before - 91f64.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_concerned_keeps_its_bits() {
        let change = TensorChange {
            factors: [(0, 0.0)].into(),
            ..TensorChange::default()
        };
        let rows: [&[f32]; 2] = [&[1.0, 0.1], &[2.0, -0.0]];
        let (out, _) = changed(&rows, StreamAxis::Rows, &change);
        let bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [0f32, 0.1, 0.0, -0.0].map(f32::to_bits));
    }

    #[test]
    fn numbers_of_sixteen_bits_are_rounded_once_and_overflow_is_counted() {
        for (kind, limit) in [(StoredNumber::F16, 1e5), (StoredNumber::Bf16, 1e39)] {
            let mut bytes = Vec::new();
            kind.write(1.0, &mut bytes);
            let matrix = StoredMatrix {
                bytes: &bytes,
                kind,
                axis: StreamAxis::Columns,
                columns: 1,
            };
            let times = |factor: f64| {
                let change = TensorChange {
                    factors: [(0, factor)].into(),
                    ..TensorChange::default()
                };
                matrix
                    .changed(&change, |_| Ok::<_, Infallible>(()))
                    .unwrap()
            };
            assert_eq!(times(limit).lost, 1);
            let sizes = times(1.000_01);
            assert!(sizes.lost == 0 && sizes.change == 0.0 && sizes.rounding > 0.0);
        }
    }
}
