//! Ridge regression from one set of vectors to another, in f64: `y ≈ W x + b`, where `W` is shrunk towards the identity.
//!
//! Invariant: if the outputs equal the inputs, the map is exactly the identity; the offset is not penalised. To regress on
//! something else, make a [`Regression`] of its rows.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::model::host::ToHost;

/// An affine map.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// `[out, in]`, row after row.
    pub weight: Vec<f32>,
    /// `[out]`.
    pub bias: Vec<f32>,
}

impl Affine {
    /// `W x + b`, summed in f64.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let rows = self.weight.par_chunks(x.len().max(1)).zip(&self.bias);
        rows.map(|(row, b)| {
            let sum: f64 = row
                .iter()
                .zip(x)
                .map(|(w, x)| f64::from(*w) * f64::from(*x))
                .sum();
            (sum + f64::from(*b)) as f32
        })
        .collect()
    }
}

/// The inputs of a regression, factored once for any number of outputs.
pub struct Regression {
    mean: Tensor,
    centred: Tensor,
    /// Lower triangle of the Cholesky factor of the penalised Gram matrix, `[width, width]`.
    factor: Vec<f64>,
    width: usize,
}

impl Regression {
    /// Prepares a regression on the rows of `x`, `[n, width]`. `ridge` is the penalty, relative to the mean square of an input
    /// coordinate.
    ///
    /// # Errors
    ///
    /// When the rows span too few dimensions for so small a penalty.
    pub fn new(x: &Tensor, ridge: f64) -> Result<Self> {
        let x = x.to_dtype(DType::F64)?;
        let width = x.dim(1)?;
        let mean = x.mean_keepdim(0)?;
        let centred = x.broadcast_sub(&mean)?;
        let mut gram: Vec<f64> = centred
            .t()?
            .contiguous()?
            .matmul(&centred)?
            .flatten_all()?
            .host_vec1()?;
        let trace: f64 = (0..width).map(|i| gram[i * width + i]).sum();
        let penalty = ridge * trace / width as f64;
        for i in 0..width {
            gram[i * width + i] += penalty;
        }
        let factor = cholesky(gram, width).ok_or_else(|| {
            let expected = format!(
                "a larger number, or more text: {} positions do not determine a map of width {width} with so small a penalty",
                x.dims()[0]
            );
            Error::argument("ridge", ridge, expected)
        })?;
        Ok(Self {
            mean,
            centred,
            factor,
            width,
        })
    }

    /// The map to the rows of `y`, `[n, width]`.
    ///
    /// # Errors
    ///
    /// When the shapes differ.
    pub fn to(&self, y: &Tensor) -> Result<Affine> {
        let d = self.width;
        let y = y.to_dtype(DType::F64)?;
        let target = y.mean_keepdim(0)?;
        // The residual after the identity map; the penalty shrinks the map to this residual towards zero.
        let rest = (y.broadcast_sub(&target)? - &self.centred)?;
        let right: Vec<f64> = rest
            .t()?
            .contiguous()?
            .matmul(&self.centred)?
            .flatten_all()?
            .host_vec1()?;
        let mut weight = right;
        // Each row of the right-hand side belongs to one output coordinate.
        weight.par_chunks_mut(d).for_each(|row| self.solve(row));
        for i in 0..d {
            weight[i * d + i] += 1.0;
        }
        let mean: Vec<f64> = self.mean.flatten_all()?.host_vec1()?;
        let target: Vec<f64> = target.flatten_all()?.host_vec1()?;
        let bias = weight.chunks(d).zip(target).map(|(row, t)| {
            let moved: f64 = row.iter().zip(&mean).map(|(w, m)| w * m).sum();
            (t - moved) as f32
        });
        Ok(Affine {
            bias: bias.collect(),
            weight: weight.iter().map(|w| *w as f32).collect(),
        })
    }

    /// Solves the penalised normal equations for one right-hand side, in place.
    fn solve(&self, b: &mut [f64]) {
        let (l, d) = (&self.factor, self.width);
        for i in 0..d {
            let row = &l[i * d..i * d + i];
            let known: f64 = row.iter().zip(b.iter()).map(|(l, z)| l * z).sum();
            b[i] = (b[i] - known) / l[i * d + i];
        }
        for i in (0..d).rev() {
            b[i] /= l[i * d + i];
            let (head, tail) = b.split_at_mut(i);
            let row = &l[i * d..i * d + i];
            for (z, l) in head.iter_mut().zip(row) {
                *z -= l * tail[0];
            }
        }
    }
}

/// The lower Cholesky factor of a symmetric matrix `[width, width]`; none if it is not positive definite. Written by hand
/// because faer costs eighteen crates and three minutes of a clean build (see `docs/architecture.md`).
fn cholesky(mut a: Vec<f64>, width: usize) -> Option<Vec<f64>> {
    let largest = (0..width).map(|i| a[i * width + i]).fold(0.0, f64::max);
    for j in 0..width {
        let (done, rest) = a.split_at_mut((j + 1) * width);
        let pivot = &mut done[j * width..];
        let known: f64 = pivot[..j].iter().map(|v| v * v).sum();
        let square = pivot[j] - known;
        if square.is_nan() || square <= largest * 1e-13 {
            return None;
        }
        let root = square.sqrt();
        pivot[j] = root;
        let pivot = &pivot[..j];
        rest.par_chunks_mut(width).for_each(|row| {
            let known: f64 = row[..j].iter().zip(pivot).map(|(a, b)| a * b).sum();
            row[j] = (row[j] - known) / root;
        });
    }
    Some(a)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Random rows between -1 and 1 from a small linear congruential generator.
    fn rows(n: usize, d: usize, seed: u64) -> Tensor {
        let mut state = seed;
        let values: Vec<f64> = (0..n * d)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
            })
            .collect();
        Tensor::from_vec(values, (n, d), &Device::Cpu).unwrap()
    }

    fn gap(a: &[f32], b: &[f32]) -> f32 {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    }

    #[test]
    fn a_planted_map_is_found_again() {
        let d = 6;
        let x = rows(200, d, 3);
        let planted = rows(d, d, 5);
        let offset = rows(1, d, 7);
        let y = x
            .matmul(&planted.t().unwrap().contiguous().unwrap())
            .unwrap()
            .broadcast_add(&offset)
            .unwrap();
        let found = Regression::new(&x, 1e-9).unwrap().to(&y).unwrap();
        let wanted = |t: &Tensor| -> Vec<f32> {
            let t = t.to_dtype(DType::F32).unwrap();
            t.flatten_all().unwrap().host_vec1().unwrap()
        };
        assert!(gap(&found.weight, &wanted(&planted)) < 1e-5);
        assert!(gap(&found.bias, &wanted(&offset)) < 1e-5);
        let one = wanted(&x.get(4).unwrap());
        assert!(gap(&found.apply(&one), &wanted(&y.get(4).unwrap())) < 1e-5);
    }

    #[test]
    fn a_large_penalty_leaves_the_identity_and_the_shift_of_the_means() {
        let x = rows(40, 4, 3);
        let y = (rows(40, 4, 9) * 2.0).unwrap();
        let found = Regression::new(&x, 1e9).unwrap().to(&y).unwrap();
        for (i, w) in found.weight.iter().enumerate() {
            let wanted = if i % 5 == 0 { 1.0 } else { 0.0 };
            assert!((w - wanted).abs() < 1e-6, "{i}: {w}");
        }
        let same = Regression::new(&x, 0.1).unwrap().to(&x).unwrap();
        assert!(
            same.weight
                .iter()
                .step_by(5)
                .all(|w| w.to_bits() == 1f32.to_bits())
        );
        assert!(same.bias.iter().all(|b| b.abs() < 1e-12));
    }

    #[test]
    fn too_few_rows_need_a_penalty() {
        let x = rows(3, 8, 3);
        let error = Regression::new(&x, 0.0).err().unwrap().to_string();
        assert!(error.contains("3 positions"), "{error}");
        assert!(Regression::new(&x, 0.01).is_ok());
    }
}
