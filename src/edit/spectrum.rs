//! The singular values and right singular vectors of a square matrix, in f64.
//!
//! They are the eigenvalues' roots and the eigenvectors of `WᵀW`, found by Householder's reduction to a tridiagonal matrix and
//! implicit QL steps (Martin, Reinsch and Wilkinson 1968; Bowdler et al. 1968). Invariant: the vectors are orthonormal and
//! stand in the order of their values, largest first; values below 1e-7 of the largest are rounding, and left out. Written by hand
//! because faer costs eighteen crates and three minutes of a clean build (see `docs/architecture.md`).

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::model::host::ToHost;

/// Values below this share of the largest one are rounding: the matrix is in f32, and its square is decomposed.
const ROUNDING: f64 = 1e-7;

/// Singular values and right singular vectors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spectrum {
    /// Descending, all above rounding.
    pub values: Vec<f64>,
    /// `[values, width]`, row after row, of length 1 each.
    pub vectors: Vec<f32>,
}

impl Spectrum {
    /// The spectrum of `weight`, `[width, width]`, row after row.
    ///
    /// # Errors
    ///
    /// When the product cannot be computed.
    pub fn of(weight: &[f32], width: usize) -> Result<Self> {
        let wide: Vec<f64> = weight.iter().map(|w| f64::from(*w)).collect();
        let wide = Tensor::from_vec(wide, (width, width), &Device::Cpu)?;
        let gram = wide.t()?.contiguous()?.matmul(&wide)?;
        let (squares, vectors) = eigen(gram.flatten_all()?.host_vec1()?, width);
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|a, b| squares[*b].total_cmp(&squares[*a]));
        let value = |i: usize| squares[i].max(0.0).sqrt();
        let most = order.first().map_or(0.0, |first| value(*first));
        order.retain(|i| value(*i) > ROUNDING * most);
        let rows = order
            .iter()
            .flat_map(|i| &vectors[i * width..(i + 1) * width]);
        Ok(Self {
            vectors: rows.map(|x| *x as f32).collect(),
            values: order.into_iter().map(value).collect(),
        })
    }

    /// How many singular values are above rounding.
    pub fn rank(&self) -> usize {
        self.values.len()
    }
}

/// Eigenvalues of a symmetric matrix `[n, n]` and, row after row, their eigenvectors.
pub(crate) fn eigen(matrix: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    if n == 0 {
        return (Vec::new(), Vec::new());
    }
    let mut state = Eigen {
        n,
        v: matrix,
        d: vec![0.0; n],
        e: vec![0.0; n],
    };
    state.reduce();
    state.iterate();
    (state.d, state.v)
}

/// The matrix on its way to its eigenvectors; what `v` holds of column `j` is contiguous, because every inner loop runs there.
struct Eigen {
    n: usize,
    v: Vec<f64>,
    /// The diagonal.
    d: Vec<f64>,
    /// What stands beside it.
    e: Vec<f64>,
}

impl Eigen {
    fn at(&self, row: usize, column: usize) -> usize {
        column * self.n + row
    }

    /// To tridiagonal form, by reflections that are gathered in `v`.
    fn reduce(&mut self) {
        let n = self.n;
        for j in 0..n {
            self.d[j] = self.v[self.at(n - 1, j)];
        }
        for i in (1..n).rev() {
            let scale: f64 = self.d[..i].iter().map(|x| x.abs()).sum();
            let mut h = 0.0;
            if scale == 0.0 {
                self.e[i] = self.d[i - 1];
                for j in 0..i {
                    self.d[j] = self.v[self.at(i - 1, j)];
                    let (low, high) = (self.at(i, j), self.at(j, i));
                    self.v[low] = 0.0;
                    self.v[high] = 0.0;
                }
            } else {
                for x in &mut self.d[..i] {
                    *x /= scale;
                    h += *x * *x;
                }
                let f = self.d[i - 1];
                let g = if f > 0.0 { -h.sqrt() } else { h.sqrt() };
                self.e[i] = scale * g;
                h -= f * g;
                self.d[i - 1] = f - g;
                self.e[..i].fill(0.0);
                for j in 0..i {
                    let f = self.d[j];
                    let own = self.at(j, i);
                    self.v[own] = f;
                    let column = &self.v[j * n..(j + 1) * n];
                    let mut g = self.e[j] + column[j] * f;
                    for k in j + 1..i {
                        g += column[k] * self.d[k];
                        self.e[k] += column[k] * f;
                    }
                    self.e[j] = g;
                }
                let mut f = 0.0;
                for j in 0..i {
                    self.e[j] /= h;
                    f += self.e[j] * self.d[j];
                }
                let half = f / (h + h);
                for j in 0..i {
                    self.e[j] -= half * self.d[j];
                }
                for j in 0..i {
                    let (f, g) = (self.d[j], self.e[j]);
                    let column = &mut self.v[j * n..(j + 1) * n];
                    for k in j..i {
                        column[k] -= f * self.e[k] + g * self.d[k];
                    }
                    self.d[j] = column[i - 1];
                    column[i] = 0.0;
                }
            }
            self.d[i] = h;
        }
        for i in 0..n - 1 {
            let (corner, own) = (self.at(n - 1, i), self.at(i, i));
            self.v[corner] = self.v[own];
            self.v[own] = 1.0;
            let h = self.d[i + 1];
            let (left, right) = self.v.split_at_mut((i + 1) * n);
            let next = &mut right[..=i];
            if h != 0.0 {
                for k in 0..=i {
                    self.d[k] = next[k] / h;
                }
                for j in 0..=i {
                    let column = &mut left[j * n..=j * n + i];
                    let g: f64 = next.iter().zip(&*column).map(|(a, b)| a * b).sum();
                    for (x, d) in column.iter_mut().zip(&self.d) {
                        *x -= g * d;
                    }
                }
            }
            next.fill(0.0);
        }
        for j in 0..n {
            let corner = self.at(n - 1, j);
            self.d[j] = self.v[corner];
            self.v[corner] = 0.0;
        }
        let corner = self.at(n - 1, n - 1);
        self.v[corner] = 1.0;
        self.e[0] = 0.0;
    }

    /// From tridiagonal form to eigenvalues, one after the other.
    fn iterate(&mut self) {
        let n = self.n;
        self.e.rotate_left(1);
        self.e[n - 1] = 0.0;
        let (mut shift, mut largest) = (0.0f64, 0.0f64);
        for l in 0..n {
            largest = largest.max(self.d[l].abs() + self.e[l].abs());
            let small = |x: f64| x.abs() <= f64::EPSILON * largest;
            let m = (l..n).find(|m| small(self.e[*m])).unwrap_or(n - 1);
            // Two steps a value are usual; a matrix with a number that is none would never be done.
            let mut left = 64;
            while m > l && left > 0 {
                left -= 1;
                let g = self.d[l];
                let p = (self.d[l + 1] - g) / (2.0 * self.e[l]);
                let r = if p < 0.0 { -p.hypot(1.0) } else { p.hypot(1.0) };
                self.d[l] = self.e[l] / (p + r);
                self.d[l + 1] = self.e[l] * (p + r);
                let (next, h) = (self.d[l + 1], g - self.d[l]);
                for x in &mut self.d[l + 2..] {
                    *x -= h;
                }
                shift += h;
                let mut p = self.d[m];
                let (mut c, mut c2, mut c3) = (1.0, 1.0, 1.0);
                let (mut s, mut s2) = (0.0, 0.0);
                let beside = self.e[l + 1];
                for i in (l..m).rev() {
                    (c3, c2, s2) = (c2, c, s);
                    let g = c * self.e[i];
                    let h = c * p;
                    let r = p.hypot(self.e[i]);
                    self.e[i + 1] = s * r;
                    s = self.e[i] / r;
                    c = p / r;
                    p = c * self.d[i] - s * g;
                    self.d[i + 1] = h + s * (c * g + s * self.d[i]);
                    let (a, b) = self.v.split_at_mut((i + 1) * n);
                    let (a, b) = (&mut a[i * n..], &mut b[..n]);
                    for (x, y) in a.iter_mut().zip(b) {
                        let h = *y;
                        *y = s * *x + c * h;
                        *x = c * *x - s * h;
                    }
                }
                p = -s * s2 * c3 * beside * self.e[l] / next;
                self.e[l] = s * p;
                self.d[l] = c * p;
                if small(self.e[l]) {
                    break;
                }
            }
            self.d[l] += shift;
            self.e[l] = 0.0;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        crate::model::gaussian::normals(&mut rng, n * n)
    }

    #[test]
    fn vectors_are_orthonormal_and_scaled_by_their_values() {
        for n in [1, 2, 3, 17, 64] {
            let weight = random(n, n as u64);
            let found = Spectrum::of(&weight, n).unwrap();
            assert_eq!(found.rank(), n);
            let row = |i: usize| &found.vectors[i * n..(i + 1) * n];
            let times = |x: &[f32]| -> Vec<f64> {
                let product = |w: &[f32]| w.iter().zip(x).map(|(a, b)| f64::from(a * b)).sum();
                weight.chunks(n).map(product).collect()
            };
            for i in 0..n {
                assert!(i == 0 || found.values[i] <= found.values[i - 1]);
                for j in 0..n {
                    let dot =
                        |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
                    let wide =
                        |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
                    let same = f64::from(u8::from(i == j));
                    let product = dot(&wide(row(i)), &wide(row(j)));
                    assert!((product - same).abs() < 1e-6, "{n}: {i} {j} {product}");
                    // What is orthogonal before W is so after it, and as long as the value says.
                    let product = dot(&times(row(i)), &times(row(j)));
                    let size = found.values[i] * found.values[j];
                    let most = found.values[0].powi(2);
                    assert!(
                        (product - same * size).abs() < 1e-5 * most,
                        "{n}: {i} {j} {product} {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_a_matrix_does_not_span_is_left_out() {
        // Of rank 2: an outer product of random vectors, and another one.
        let (n, mut weight) = (12, vec![0f32; 144]);
        let parts = random(n, 3);
        for i in 0..n {
            for j in 0..n {
                weight[i * n + j] =
                    parts[i] * parts[n + j] + 0.1 * parts[2 * n + i] * parts[3 * n + j];
            }
        }
        let found = Spectrum::of(&weight, n).unwrap();
        assert_eq!(found.rank(), 2, "{:?}", found.values);
        assert_eq!(Spectrum::of(&[0.0; 9], 3).unwrap().rank(), 0);
    }
}
