//! Matrices of a dictionary where its file keeps them, and the three products that a dictionary needs.
//!
//! Invariant: the numbers stay in the file. A product with all features reads the matrix strip by strip, and a large one is
//! released strip by strip; the sum over active features reads their rows alone, where the file has features as rows. To read
//! another arrangement, add a constructor.

use std::sync::Arc;

use super::Report;
use crate::error::{Error, Result};
use crate::lab::features::ActiveRow;
use crate::model::checkpoint::tensor_file::{NumberKind, StoredTensor};
use crate::model::kernels::{PlainWeights, Product, StoredRows, backward, products};
use crate::model::memory_map::{as_f32, as_u16};

/// Bytes of a matrix that are read at once.
const STRIP: usize = 32 << 20;

/// A matrix with more bytes than this is released from memory while it is read.
const LARGE: usize = 512 << 20;

/// How many vectors of features are read between two reports.
const ROWS_AT_ONCE: usize = 1024;

/// A factor of every feature.
#[derive(Clone, Debug, Default)]
pub enum FeatureScale {
    /// None.
    #[default]
    One,
    /// The same for all.
    All(f32),
    /// One for each feature.
    Each(Arc<Vec<f32>>),
}

impl FeatureScale {
    pub fn of(&self, feature: usize) -> f32 {
        match self {
            Self::One => 1.0,
            Self::All(s) => *s,
            Self::Each(s) => s[feature],
        }
    }

    /// The factors of some features.
    #[must_use]
    pub fn among(&self, features: &[u32]) -> Self {
        match self {
            Self::One => Self::One,
            Self::All(s) => Self::All(*s),
            Self::Each(all) => {
                let own = features.iter().map(|f| all[*f as usize]);
                Self::Each(Arc::new(own.collect()))
            }
        }
    }

    /// This factor times another one of each feature.
    #[must_use]
    pub fn times(&self, other: impl Fn(usize) -> f32, features: usize) -> Self {
        let both = (0..features).map(|f| self.of(f) * other(f));
        Self::Each(Arc::new(both.collect()))
    }

    /// This factor times a number.
    #[must_use]
    pub fn scaled(&self, by: f32) -> Self {
        match self {
            Self::One => Self::All(by),
            Self::All(s) => Self::All(s * by),
            Self::Each(s) => Self::Each(Arc::new(s.iter().map(|s| s * by).collect())),
        }
    }
}

/// How the numbers of a matrix lie in its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MatrixOrder {
    /// A row of `width` numbers a feature; rows begin `step` numbers apart, the first one at `start`.
    FeatureRows { start: usize, step: usize },
    /// `[width, features]`.
    FeatureColumns,
}

/// A matrix between the features and activations of some width.
#[derive(Clone, Debug)]
pub struct FeatureMatrix {
    tensor: StoredTensor,
    pub features: usize,
    pub width: usize,
    arrangement: MatrixOrder,
}

impl FeatureMatrix {
    /// A tensor `[features, width]`.
    pub fn by_feature(tensor: StoredTensor) -> Option<Self> {
        let [features, width] = tensor.shape[..] else {
            return None;
        };
        Some(Self {
            tensor,
            features,
            width,
            arrangement: MatrixOrder::FeatureRows {
                start: 0,
                step: width,
            },
        })
    }

    /// A tensor `[width, features]`.
    pub fn by_width(tensor: StoredTensor) -> Option<Self> {
        let [width, features] = tensor.shape[..] else {
            return None;
        };
        Some(Self {
            tensor,
            features,
            width,
            arrangement: MatrixOrder::FeatureColumns,
        })
    }

    /// One of the targets of a tensor `[features, targets, width]`.
    pub fn of_target(tensor: StoredTensor, target: usize) -> Option<Self> {
        let [features, targets, width] = tensor.shape[..] else {
            return None;
        };
        (target < targets).then_some(Self {
            tensor,
            features,
            width,
            arrangement: MatrixOrder::FeatureRows {
                start: target * width,
                step: targets * width,
            },
        })
    }

    /// Its size in the file, in bytes.
    pub fn bytes(&self) -> usize {
        self.features * self.width * self.tensor.number.width()
    }

    /// Adds the products of `x`, `[rows, width]`, with all features to `y`, `[rows, features]`. Tells `report` after every strip.
    ///
    /// # Errors
    ///
    /// When a length does not fit the shape, and what `report` says.
    pub fn add_products(&self, x: &[f32], y: &mut [f32], report: Report) -> Result<()> {
        let (features, width) = (self.features, self.width);
        let rows = x.len() / width.max(1);
        if rows * width != x.len() || rows * features != y.len() {
            return Err(Error::Engine(format!(
                "rows of {} numbers do not fit a dictionary of width {width}",
                x.len()
            )));
        }
        match self.arrangement {
            MatrixOrder::FeatureRows { start, step } => {
                let strip = self.strip(step);
                for first in (0..features).step_by(strip) {
                    report(first as f32 / features as f32)?;
                    let count = strip.min(features - first);
                    let mut part = vec![0f32; rows * count];
                    let mut product = |weights: PlainWeights| {
                        let weights = StoredRows::Plain(weights);
                        let y = &mut part[..];
                        products(width, x, &mut [Product { weights, y }]);
                    };
                    if step == width {
                        self.lend(start + first * width, count * width, &mut product);
                    } else {
                        let numbers: Vec<f32> = (first..first + count)
                            .flat_map(|f| self.tensor.read(start + f * step, width))
                            .collect();
                        product(PlainWeights::F32(&numbers));
                    }
                    let to = y.chunks_exact_mut(features);
                    for (to, from) in to.zip(part.chunks_exact(count)) {
                        let to = to[first..first + count].iter_mut();
                        to.zip(from).for_each(|(y, part)| *y += part);
                    }
                    self.release(start + first * step, count * step);
                }
            }
            MatrixOrder::FeatureColumns => {
                let strip = self.strip(features);
                let mut part = vec![0f32; y.len()];
                for first in (0..width).step_by(strip) {
                    report(first as f32 / width as f32)?;
                    let count = strip.min(width - first);
                    let by: Vec<f32> = x
                        .chunks_exact(width)
                        .flat_map(|row| row[first..first + count].iter().copied())
                        .collect();
                    self.lend(first * features, count * features, |weights| {
                        backward(features, &StoredRows::Plain(weights), &by, &mut part);
                    });
                    y.iter_mut().zip(&part).for_each(|(y, part)| *y += part);
                    self.release(first * features, count * features);
                }
            }
        }
        Ok(())
    }

    /// The sum of the active features' vectors, each times its activation and its scale, for every row: `[rows, width]`.
    ///
    /// # Errors
    ///
    /// What `report` says.
    pub fn sums(
        &self,
        active: &[ActiveRow],
        scale: &FeatureScale,
        report: Report,
    ) -> Result<Vec<f32>> {
        let all: usize = active.iter().map(Vec::len).sum();
        let mut done = 0;
        let width = self.width;
        let mut sums = vec![0f64; active.len() * width];
        match self.arrangement {
            MatrixOrder::FeatureRows { start, step } => {
                for (sum, features) in sums.chunks_exact_mut(width.max(1)).zip(active) {
                    for (f, value) in features {
                        done += 1;
                        if done % ROWS_AT_ONCE == 0 {
                            report(done as f32 / all as f32)?;
                        }
                        let f = *f as usize;
                        let by = f64::from(value * scale.of(f));
                        let row = self.tensor.read(start + f * step, width);
                        sum.iter_mut()
                            .zip(row)
                            .for_each(|(s, w)| *s += by * f64::from(w));
                    }
                }
            }
            MatrixOrder::FeatureColumns => {
                // Once through the matrix, whatever the number of rows and features.
                for j in 0..width {
                    for (row, features) in active.iter().enumerate() {
                        let terms = features.iter().map(|(f, value)| {
                            let f = *f as usize;
                            let w = self.tensor.at(j * self.features + f);
                            f64::from(value * scale.of(f)) * f64::from(w)
                        });
                        sums[row * width + j] = terms.sum();
                    }
                    if j % self.strip(self.features) == 0 {
                        report(j as f32 / width as f32)?;
                        self.release(0, j * self.features);
                    }
                }
            }
        }
        self.release(0, self.tensor.shape.iter().product());
        Ok(sums.into_iter().map(|s| s as f32).collect())
    }

    /// The vector of a feature, without scale: `[width]`.
    pub fn row(&self, feature: usize) -> Vec<f32> {
        match self.arrangement {
            MatrixOrder::FeatureRows { start, step } => {
                self.tensor.read(start + feature * step, self.width)
            }
            MatrixOrder::FeatureColumns => (0..self.width)
                .map(|j| self.tensor.at(j * self.features + feature))
                .collect(),
        }
    }

    /// The vectors of some features, in memory.
    #[must_use]
    pub fn of(&self, features: &[u32]) -> Self {
        let numbers: Vec<f32> = features
            .iter()
            .flat_map(|f| self.row(*f as usize))
            .collect();
        Self {
            tensor: StoredTensor::of(&[features.len(), self.width], &numbers),
            features: features.len(),
            width: self.width,
            arrangement: MatrixOrder::FeatureRows {
                start: 0,
                step: self.width,
            },
        }
    }

    /// The norms of some features' vectors, without scale.
    pub fn norms_of(&self, features: &[u32]) -> Vec<f32> {
        let norm = |f: &u32| {
            let row = self.row(*f as usize);
            let square: f64 = row.iter().map(|w| f64::from(*w).powi(2)).sum();
            square.sqrt() as f32
        };
        features.iter().map(norm).collect()
    }

    /// The norms of all features' vectors, without scale: `[features]`. Reads the whole matrix once.
    ///
    /// # Errors
    ///
    /// What `report` says.
    pub fn norms(&self, report: Report) -> Result<Vec<f32>> {
        let mut squares = vec![0f64; self.features];
        match self.arrangement {
            MatrixOrder::FeatureRows { start, step } => {
                let strip = self.strip(step);
                for (f, square) in squares.iter_mut().enumerate() {
                    let row = self.tensor.read(start + f * step, self.width);
                    *square = row.iter().map(|w| f64::from(*w).powi(2)).sum();
                    if f % strip == 0 {
                        report(f as f32 / self.features as f32)?;
                        self.release(start, f * step);
                    }
                }
            }
            MatrixOrder::FeatureColumns => {
                let strip = self.strip(self.features);
                for j in 0..self.width {
                    let row = self.tensor.read(j * self.features, self.features);
                    squares
                        .iter_mut()
                        .zip(row)
                        .for_each(|(s, w)| *s += f64::from(w).powi(2));
                    if j % strip == 0 {
                        report(j as f32 / self.width as f32)?;
                        self.release(0, j * self.features);
                    }
                }
            }
        }
        self.release(0, self.tensor.shape.iter().product());
        Ok(squares.into_iter().map(|s| s.sqrt() as f32).collect())
    }

    /// How many lines of `step` numbers are read at once.
    fn strip(&self, step: usize) -> usize {
        (STRIP / (step * self.tensor.number.width()).max(1)).max(1)
    }

    /// Lends numbers of the tensor as the kernels take them: in place where they lie right, else a copy.
    fn lend(&self, start: usize, count: usize, mut work: impl FnMut(PlainWeights)) {
        let width = self.tensor.number.width();
        let bytes = &self.tensor.bytes()[start * width..][..count * width];
        match (self.tensor.number, as_f32(bytes), as_u16(bytes)) {
            (NumberKind::F32, Some(numbers), _) => work(PlainWeights::F32(numbers)),
            (NumberKind::F16, _, Some(bits)) => work(PlainWeights::F16(bits)),
            (NumberKind::Bf16, _, Some(bits)) => work(PlainWeights::Bf16(bits)),
            _ => work(PlainWeights::F32(&self.tensor.read(start, count))),
        }
    }

    fn release(&self, start: usize, count: usize) {
        if self.tensor.bytes().len() > LARGE {
            let all: usize = self.tensor.shape.iter().product();
            self.tensor.release(start..(start + count).min(all));
        }
    }
}
