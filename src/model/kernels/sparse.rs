//! Sums and products over chosen rows of a matrix: what few active features add, and their gradients.
//!
//! Invariant: a sum is taken in the order of its list, whatever the number of threads. To add another operation on lists, implement
//! it on lanes here and divide its output among the threads.
#![allow(unsafe_code)] // Each block says what it relies on.

use super::lanes::Lanes;
use super::machine::Processor;
use super::threads;
use super::vectorised::{Vectorised, run};

/// Vectors of columns that are summed at once.
const COLUMNS: usize = 4;

/// Lists of rows of a matrix, each row with a factor: list `i` has the entries from `starts[i]` to `starts[i + 1]`.
#[derive(Clone, Debug)]
pub struct RowLists {
    /// One more than there are lists, ascending from 0.
    pub starts: Vec<usize>,
    pub rows: Vec<u32>,
    pub factors: Vec<f32>,
}

impl Default for RowLists {
    fn default() -> Self {
        Self {
            starts: vec![0],
            rows: Vec::new(),
            factors: Vec::new(),
        }
    }
}

impl RowLists {
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a list.
    pub fn push(&mut self, list: impl IntoIterator<Item = (u32, f32)>) {
        for (row, factor) in list {
            self.rows.push(row);
            self.factors.push(factor);
        }
        self.starts.push(self.rows.len());
    }

    /// # Panics
    ///
    /// If an entry is not a row of the matrix: that is what the unsafe code below relies on.
    fn check(&self, width: usize, matrix: &[f32]) {
        assert!(width > 0 && self.rows.len() == self.factors.len());
        assert!(self.starts.is_sorted() && self.starts.last() == Some(&self.rows.len()));
        let count = matrix.len() / width;
        assert!(self.rows.iter().all(|row| (*row as usize) < count));
    }
}

/// Adds to every row of `y`, `[lists, width]`, the rows of `matrix`, `[.., width]`, that its list names, each times its factor.
///
/// # Panics
///
/// If a length does not fit, or an entry is not a row of the matrix.
pub fn add_rows(width: usize, matrix: &[f32], lists: &RowLists, y: &mut [f32]) {
    add_rows_on(Processor::best(), width, matrix, lists, y);
}

pub(super) fn add_rows_on(
    on: Processor,
    width: usize,
    matrix: &[f32],
    lists: &RowLists,
    y: &mut [f32],
) {
    lists.check(width, matrix);
    assert!(y.len() == lists.len() * width);
    let cost = lists.rows.len() * width;
    threads::rows(y, width, cost, |first, part| {
        for (i, y) in part.chunks_exact_mut(width).enumerate() {
            let span = lists.starts[first + i]..lists.starts[first + i + 1];
            let work = AddRows {
                matrix,
                rows: &lists.rows[span.clone()],
                factors: &lists.factors[span],
                y,
            };
            run(on, work);
        }
    });
}

/// The product of every entry's row of `matrix` with the row of `x`, `[lists, width]`, that its list belongs to: one number an entry.
/// Factors are not used.
///
/// # Panics
///
/// As [`add_rows`].
pub fn row_products(width: usize, matrix: &[f32], lists: &RowLists, x: &[f32]) -> Vec<f32> {
    row_products_on(Processor::best(), width, matrix, lists, x)
}

pub(super) fn row_products_on(
    on: Processor,
    width: usize,
    matrix: &[f32],
    lists: &RowLists,
    x: &[f32],
) -> Vec<f32> {
    lists.check(width, matrix);
    assert!(x.len() == lists.len() * width);
    let mut out = vec![0f32; lists.rows.len()];
    let mut parts = Vec::with_capacity(lists.len());
    let mut left = &mut out[..];
    for (i, span) in lists.starts.windows(2).enumerate() {
        let (own, rest) = left.split_at_mut(span[1] - span[0]);
        left = rest;
        parts.push((i, span[0], own));
    }
    let share = parts.len().div_ceil(32).max(1);
    let mut groups = Vec::new();
    while !parts.is_empty() {
        let rest = parts.split_off(share.min(parts.len()));
        groups.push(std::mem::replace(&mut parts, rest));
    }
    threads::hand_out(groups, lists.rows.len() * width, |group| {
        for (i, start, out) in group {
            let work = RowProducts {
                matrix,
                rows: &lists.rows[start..start + out.len()],
                x: &x[i * width..(i + 1) * width],
                out,
            };
            run(on, work);
        }
    });
    out
}

/// A sum of rows that were checked to exist; `y` is as wide as they are.
struct AddRows<'a> {
    matrix: &'a [f32],
    rows: &'a [u32],
    factors: &'a [f32],
    y: &'a mut [f32],
}

impl Vectorised for AddRows<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let width = self.y.len();
        let mut column = 0;
        // SAFETY: the rows exist and are `width` wide, as was checked; the columns are within a row; the caller's machine has
        // these instructions.
        unsafe {
            while column + COLUMNS * S::N <= width {
                self.columns::<S, COLUMNS>(column);
                column += COLUMNS * S::N;
            }
            while column + S::N <= width {
                self.columns::<S, 1>(column);
                column += S::N;
            }
        }
        for column in column..width {
            for (row, factor) in self.rows.iter().zip(self.factors) {
                self.y[column] += factor * self.matrix[*row as usize * width + column];
            }
        }
    }
}

impl AddRows<'_> {
    /// The sums of `C` vectors of columns.
    ///
    /// # Safety
    ///
    /// The rows exist, and the columns are within them; the machine has the instructions.
    #[inline(always)]
    unsafe fn columns<S: Lanes, const C: usize>(&self, column: usize) {
        let width = self.y.len();
        // SAFETY: as the caller promises. `y` is borrowed mutably by this struct alone.
        unsafe {
            let to = self.y.as_ptr().add(column).cast_mut();
            let mut sums = [S::splat(0.0); C];
            for c in 0..C {
                sums[c] = S::load(to.add(c * S::N));
            }
            for (row, factor) in self.rows.iter().zip(self.factors) {
                let from = self.matrix.as_ptr().add(*row as usize * width + column);
                let factor = S::splat(*factor);
                for c in 0..C {
                    sums[c] = S::fma(factor, S::load(from.add(c * S::N)), sums[c]);
                }
            }
            for c in 0..C {
                S::store(sums[c], to.add(c * S::N));
            }
        }
    }
}

/// Products of rows that were checked to exist with `x`, which is as wide as they are.
struct RowProducts<'a> {
    matrix: &'a [f32],
    rows: &'a [u32],
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Vectorised for RowProducts<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let width = self.x.len();
        let whole = width / S::N * S::N;
        for (row, out) in self.rows.iter().zip(self.out.iter_mut()) {
            let start = *row as usize * width;
            // SAFETY: the row exists, as was checked, and the columns are within it; the caller's machine has these instructions.
            unsafe {
                let from = self.matrix.as_ptr().add(start);
                let mut sums = [S::splat(0.0); 2];
                for (i, column) in (0..whole).step_by(S::N).enumerate() {
                    let x = S::load(self.x.as_ptr().add(column));
                    sums[i % 2] = S::fma(x, S::load(from.add(column)), sums[i % 2]);
                }
                *out = S::sum(S::add(sums[0], sums[1]));
            }
            for column in whole..width {
                *out += self.x[column] * self.matrix[start + column];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_products_of_rows_are_those_of_plain_loops_on_every_processor() {
        let number = |i: usize| ((i * 7919 % 101) as f32 - 50.0) / 25.0;
        for width in [1, 5, 16, 67, 131] {
            let matrix: Vec<f32> = (0..9 * width).map(number).collect();
            let x: Vec<f32> = (0..3 * width).map(|i| number(i + 3)).collect();
            let mut lists = RowLists::default();
            lists.push([(2, 0.5), (8, -1.0), (2, 2.0)]);
            lists.push([]);
            lists.push([(0, 3.0)]);
            let row = |r: u32| &matrix[r as usize * width..][..width];
            let mut sums = x.clone();
            let mut products = Vec::new();
            for i in 0..3 {
                for e in lists.starts[i]..lists.starts[i + 1] {
                    let from = row(lists.rows[e]);
                    let own = &x[i * width..][..width];
                    products.push(own.iter().zip(from).map(|(a, b)| a * b).sum::<f32>());
                    let to = sums[i * width..][..width].iter_mut();
                    to.zip(from).for_each(|(s, w)| *s += lists.factors[e] * w);
                }
            }
            for on in Processor::all() {
                let mut found = x.clone();
                add_rows_on(on, width, &matrix, &lists, &mut found);
                let close = |a: &[f32], b: &[f32]| {
                    assert!(a.len() == b.len());
                    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4), "{on:?}");
                };
                close(&found, &sums);
                close(&row_products_on(on, width, &matrix, &lists, &x), &products);
            }
        }
    }
}
