//! The two thin matrices of which a circuit of a head is the product, and what follows from their Gram matrices.
//!
//! A circuit is `W = AᵀB` with `A` and `B` of `[head_dim, d_model]`, so its rank is at most `head_dim`, and no matrix `[d_model, d_model]`
//! is laid out: with `S² = A Aᵀ`, `‖W‖ = ‖S B‖`. Sums are in f64. To take something else of a circuit, add a function here.

use candle_core::{DType, Device, Tensor};

use crate::edit::spectrum::eigen;
use crate::error::Result;
use crate::model::host::ToHost;

/// The rows of one factor of one head, `[head_dim, d_model]`, row after row, in f64.
#[derive(Clone, Debug)]
pub struct Factor {
    pub rows: Vec<f64>,
    /// `d_model`.
    pub width: usize,
}

/// A singular direction of a circuit.
#[derive(Clone, Debug)]
pub struct SingularDirection {
    pub value: f64,
    /// What is read, `[d_model]`, of length 1.
    pub left: Vec<f32>,
    /// What is written (in a QK circuit: what keys are read by), `[d_model]`, of length 1.
    pub right: Vec<f32>,
}

impl Factor {
    /// One head of `[heads, head_dim, d_model]`.
    ///
    /// # Errors
    ///
    /// When a tensor operation fails.
    pub fn of(all: &Tensor, head: usize) -> Result<Self> {
        let own = all.get(head)?.to_dtype(DType::F64)?;
        Ok(Self {
            width: own.dim(1)?,
            rows: own.on_device(&Device::Cpu)?.flatten_all()?.host_vec1()?,
        })
    }

    fn count(&self) -> usize {
        self.rows.len() / self.width.max(1)
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.rows[i * self.width..(i + 1) * self.width]
    }

    /// `A Aᵀ`, `[count, count]`.
    fn gram(&self) -> Vec<f64> {
        let n = self.count();
        let mut gram = vec![0f64; n * n];
        for i in 0..n {
            for j in 0..=i {
                let product = dot(self.row(i), self.row(j));
                gram[i * n + j] = product;
                gram[j * n + i] = product;
            }
        }
        gram
    }

    /// The symmetric root of `A Aᵀ`, `[count, count]`.
    pub fn root(&self) -> Vec<f64> {
        let n = self.count();
        let (squares, vectors) = eigen(self.gram(), n);
        let mut root = vec![0f64; n * n];
        for (square, vector) in squares.iter().zip(vectors.chunks_exact(n.max(1))) {
            let size = square.max(0.0).sqrt();
            for i in 0..n {
                for j in 0..n {
                    root[i * n + j] += size * vector[i] * vector[j];
                }
            }
        }
        root
    }

    /// `S B` for a matrix `S`, `[count, count]`.
    #[must_use]
    pub fn times(&self, matrix: &[f64]) -> Self {
        let n = self.count();
        let mut rows = vec![0f64; self.rows.len()];
        for (i, row) in rows.chunks_exact_mut(self.width.max(1)).enumerate() {
            for j in 0..n {
                let by = matrix[i * n + j];
                row.iter_mut()
                    .zip(self.row(j))
                    .for_each(|(r, x)| *r += by * x);
            }
        }
        Self {
            rows,
            width: self.width,
        }
    }

    /// The Frobenius norm.
    pub fn length(&self) -> f64 {
        dot(&self.rows, &self.rows).sqrt()
    }
}

/// The `most` largest singular directions of `AᵀB`, and the sums of the squares and of the fourth powers of all singular values.
pub fn singular_directions(
    a: &Factor,
    b: &Factor,
    most: usize,
) -> (Vec<SingularDirection>, f64, f64) {
    let n = a.count();
    let root = a.root();
    // With M = S_A S_B the squares of the singular values are the eigenvalues of M Mᵀ = S_A (B Bᵀ) S_A = (S_A B)(S_A B)ᵀ.
    let scaled = b.times(&root);
    let (squares, vectors) = eigen(scaled.gram(), n);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| squares[*j].total_cmp(&squares[*i]));
    let sum: f64 = squares.iter().map(|s| s.max(0.0)).sum();
    let fourth: f64 = squares.iter().map(|s| s.max(0.0).powi(2)).sum();
    let largest = order.first().map_or(0.0, |i| squares[*i]);
    // Below this they are rounding of the squares.
    order.retain(|i| squares[*i] > 1e-14 * largest);
    let direction = |i: usize| {
        let value = squares[i].sqrt();
        let along = &vectors[i * n..(i + 1) * n];
        let right = combined(&scaled, along);
        // u = W z / σ = Aᵀ (B z) / σ.
        let read: Vec<f64> = (0..n).map(|j| dot(b.row(j), &right)).collect();
        let left = combined(a, &read);
        SingularDirection {
            value,
            left: unit(&left),
            right: unit(&right),
        }
    };
    let found = order.into_iter().take(most).map(direction).collect();
    (found, sum, fourth)
}

/// `Σ by_i · row_i`.
fn combined(of: &Factor, by: &[f64]) -> Vec<f64> {
    let mut sum = vec![0f64; of.width];
    for (i, by) in by.iter().enumerate() {
        sum.iter_mut()
            .zip(of.row(i))
            .for_each(|(s, x)| *s += by * x);
    }
    sum
}

fn unit(vector: &[f64]) -> Vec<f32> {
    let length = dot(vector, vector).sqrt().max(f64::MIN_POSITIVE);
    vector.iter().map(|x| (x / length) as f32).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn random(rows: usize, width: usize, seed: u64) -> Factor {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let numbers = crate::model::gaussian::normals(&mut rng, rows * width);
        Factor {
            rows: numbers.into_iter().map(f64::from).collect(),
            width,
        }
    }

    #[test]
    fn a_root_gives_the_norm_of_the_product() {
        let (a, b) = (random(4, 11, 1), random(4, 11, 2));
        let mut square = 0f64;
        for i in 0..11 {
            for j in 0..11 {
                let entry: f64 = (0..4).map(|k| a.row(k)[i] * b.row(k)[j]).sum();
                square += entry * entry;
            }
        }
        let found = b.times(&a.root()).length();
        assert!((found - square.sqrt()).abs() < 1e-9, "{found} {square}");
    }

    #[test]
    fn singular_directions_put_the_circuit_together_again() {
        let (a, b) = (random(3, 9, 3), random(3, 9, 4));
        let (found, sum, _) = singular_directions(&a, &b, 3);
        assert_eq!(found.len(), 3);
        for i in 0..9 {
            for j in 0..9 {
                let own: f64 = (0..3).map(|k| a.row(k)[i] * b.row(k)[j]).sum();
                let terms = found
                    .iter()
                    .map(|d| d.value * f64::from(d.left[i]) * f64::from(d.right[j]));
                assert!((own - terms.sum::<f64>()).abs() < 1e-5);
            }
        }
        let squares: f64 = found.iter().map(|d| d.value.powi(2)).sum();
        assert!((squares - sum).abs() < 1e-9 * sum);
        assert!(found[0].value >= found[1].value && found[1].value >= found[2].value);
    }
}
