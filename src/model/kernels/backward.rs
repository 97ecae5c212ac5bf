//! The gradient of a product with respect to its input: `by W`.
//!
//! Invariant: it is computed in f32 from the weights as they are stored; the rows of the result are independent of each other. A
//! few rows are summed over the rows of the weights as they lie; for many, the weights are laid out in panels of columns first, which
//! stay in the caches. To support another storage of weights, add its arm here.

use std::ops::Range;

use super::attention::{HeadShape, Kept, Segment, mix};
use super::dense::PlainWeights;
use super::lanes::{Lanes, from_bf16, from_f16};
use super::machine::Processor;
use super::product::StoredRows;
use super::threads;
use super::vectorised::{Vectorised, run};

/// Into how many parts packed weights are divided for a few rows.
const PARTS: usize = 16;

/// How many rows of weights are unpacked at once.
const STRIP: usize = 512;

/// From this many rows on, the weights are laid out in panels.
const MANY: usize = 32;

/// The columns of a panel: four of the widest vectors.
const PANEL: usize = 64;

/// How many rows of weights are taken at once from a panel: 32 KB.
const PIECE: usize = 128;

/// How many rows a task has at once: they stay in the second-level cache.
const BLOCK: usize = 96;

/// The product of `by`, `[rows, out]`, with `W`, `[out, input]`: `y`, `[rows, input]`.
pub fn backward(input: usize, weights: &StoredRows, by: &[f32], y: &mut [f32]) {
    backward_on(Processor::best(), input, weights, by, y);
}

/// As [`backward`], where many rows are summed with the instructions of a processor.
pub(super) fn backward_on(
    on: Processor,
    input: usize,
    weights: &StoredRows,
    by: &[f32],
    y: &mut [f32],
) {
    let rows = y.len() / input;
    if rows >= MANY {
        let out = by.len() / rows;
        let panels = panels(input, out, weights);
        let cost = rows * out * input;
        threads::rows(y, BLOCK * input, cost, |first, part| {
            let part = part.chunks_mut(BLOCK * input).enumerate();
            for (i, y) in part {
                let by = &by[(first + i) * BLOCK * out..][..y.len() / input * out];
                let work = ManyRows {
                    by,
                    out,
                    panels: &panels,
                    input,
                    y,
                };
                run(on, work);
            }
        });
    } else {
        summed(input, weights, by, y);
    }
}

/// The sum of the rows of the weights, each times its number of `by`.
fn summed(input: usize, weights: &StoredRows, by: &[f32], y: &mut [f32]) {
    let shape = HeadShape {
        batch: 1,
        heads: 1,
        group: 1,
        tokens: y.len() / input,
        width: input,
    };
    match weights {
        StoredRows::Plain(PlainWeights::F32(w)) => {
            mix(shape, by, &[all(Kept::F32(w), w.len() / input)], y);
        }
        StoredRows::Plain(PlainWeights::F16(w)) => {
            mix(shape, by, &[all(Kept::F16(w), w.len() / input)], y);
        }
        StoredRows::Plain(PlainWeights::Bf16(w)) => {
            mix(shape, by, &[all(Kept::Bf16(w), w.len() / input)], y);
        }
        StoredRows::Packed(packed, range) => {
            // Each part unpacks its rows one after the other. Their number is fixed, so that no sum depends on that of the threads.
            let (rows, count) = (y.len() / input, range.len());
            let each = count.div_ceil(PARTS).max(1);
            let parts = threads::map(count.div_ceil(each), rows * count * input, |part| {
                let (mut sums, mut weights) = (vec![0f32; rows * input], vec![0f32; input]);
                for k in part * each..count.min((part + 1) * each) {
                    packed.row(range.start + k, &mut weights);
                    let factors = by.chunks_exact(count).map(|row| row[k]);
                    for (sum, factor) in sums.chunks_exact_mut(input).zip(factors) {
                        let pairs = sum.iter_mut().zip(&weights);
                        pairs.for_each(|(sum, weight)| *sum += factor * weight);
                    }
                }
                sums
            });
            y.fill(0.0);
            for part in parts {
                y.iter_mut().zip(part).for_each(|(y, part)| *y += part);
            }
        }
    }
}

/// Weights `[out, input]` in panels of [`PANEL`] columns, `[panels, out, PANEL]`, f32, with zeros past the last column.
fn panels(input: usize, out: usize, weights: &StoredRows) -> Vec<f32> {
    let mut panels = vec![0f32; input.div_ceil(PANEL) * out * PANEL];
    match weights {
        StoredRows::Plain(PlainWeights::F32(w)) => pack(input, out, |i| w[i], 0..out, &mut panels),
        StoredRows::Plain(PlainWeights::F16(w)) => {
            pack(input, out, |i| from_f16(w[i]), 0..out, &mut panels);
        }
        StoredRows::Plain(PlainWeights::Bf16(w)) => {
            pack(input, out, |i| from_bf16(w[i]), 0..out, &mut panels);
        }
        StoredRows::Packed(packed, range) => {
            for start in (0..out).step_by(STRIP) {
                let end = out.min(start + STRIP);
                let rows = packed.rows(range.start + start..range.start + end);
                pack(input, out, |i| rows[i], start..end, &mut panels);
            }
        }
    }
    panels
}

/// Writes some rows of weights to the panels; `at` reads their numbers, from the first of these rows on.
fn pack(
    input: usize,
    out: usize,
    at: impl Fn(usize) -> f32 + Sync,
    rows: Range<usize>,
    panels: &mut [f32],
) {
    threads::rows(panels, out * PANEL, input * rows.len(), |first, part| {
        for (i, panel) in part.chunks_exact_mut(out * PANEL).enumerate() {
            let columns = (first + i) * PANEL..input.min((first + i + 1) * PANEL);
            for row in rows.clone() {
                let from = (row - rows.start) * input + columns.start;
                let to = &mut panel[row * PANEL..][..columns.len()];
                to.iter_mut()
                    .enumerate()
                    .for_each(|(j, to)| *to = at(from + j));
            }
        }
    });
}

/// Some rows of the product: `by`, `[rows, out]`, times the panels, to `y`, `[rows, input]`.
struct ManyRows<'a> {
    by: &'a [f32],
    out: usize,
    panels: &'a [f32],
    input: usize,
    y: &'a mut [f32],
}

#[allow(unsafe_code)] // Each block says what it relies on.
impl Vectorised for ManyRows<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        // SAFETY: the caller's machine has these instructions. As many sums as the registers hold.
        unsafe {
            match S::N {
                16 | 4 => self.with::<S, 6, 4>(),
                8 => self.with::<S, 6, 2>(),
                _ => self.with::<S, 1, 1>(),
            }
        }
    }
}

#[allow(unsafe_code)] // Each block says what it relies on.
impl ManyRows<'_> {
    /// In tiles of `R` rows and `C` vectors of columns.
    #[inline(always)]
    unsafe fn with<S: Lanes, const R: usize, const C: usize>(self) {
        let Self {
            by,
            out,
            panels,
            input,
            y,
        } = self;
        let rows = y.len() / input;
        assert!(by.len() == rows * out && panels.len() >= input.div_ceil(PANEL) * out * PANEL);
        for panel in 0..input.div_ceil(PANEL) {
            // A piece of a panel stays in the first-level cache while all rows meet it.
            for k in (0..out).step_by(PIECE) {
                let depth = PIECE.min(out - k);
                for part in (0..PANEL.min(input - panel * PANEL)).step_by(C * S::N) {
                    let column = panel * PANEL + part;
                    let mut row = 0;
                    while row < rows {
                        let tile = ManyTile {
                            by: by[row * out + k..].as_ptr(),
                            out,
                            w: panels[(panel * out + k) * PANEL + part..].as_ptr(),
                            depth,
                            again: k > 0,
                        };
                        let y = &mut y[row * input + column..];
                        let width = input - column;
                        // SAFETY: this many rows are left, and a panel has whole vectors; the caller's machine has
                        // these instructions.
                        unsafe {
                            if row + R <= rows {
                                tile.sums::<S, R, C>(y, input, width);
                                row += R;
                            } else {
                                tile.sums::<S, 1, C>(y, input, width);
                                row += 1;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Pointers to some rows of `by` and to a piece of a panel.
struct ManyTile {
    by: *const f32,
    out: usize,
    w: *const f32,
    depth: usize,
    /// Whether the sums go on from an earlier piece.
    again: bool,
}

#[allow(unsafe_code)] // Each block says what it relies on.
impl ManyTile {
    /// The sums of `R` rows and `C` vectors of columns, of which `width` exist; rows of `y` are `stride` apart.
    #[inline(always)]
    unsafe fn sums<S: Lanes, const R: usize, const C: usize>(
        &self,
        y: &mut [f32],
        stride: usize,
        width: usize,
    ) {
        let whole = C * S::N;
        let mut edge = [0f32; 6 * PANEL];
        let narrow = width < whole;
        if narrow && self.again {
            for r in 0..R {
                edge[r * whole..][..width].copy_from_slice(&y[r * stride..][..width]);
            }
        }
        assert!(narrow || y.len() >= (R - 1) * stride + whole);
        let (to, apart) = if narrow {
            (edge.as_mut_ptr(), whole)
        } else {
            (y.as_mut_ptr(), stride)
        };
        // SAFETY: the rows and vectors exist, in `y` or in `edge`; the caller's machine has these instructions.
        unsafe {
            let mut sums = [[S::splat(0.0); C]; R];
            if self.again {
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c] = S::load(to.add(r * apart + c * S::N));
                    }
                }
            }
            for k in 0..self.depth {
                let mut w = [S::splat(0.0); C];
                for c in 0..C {
                    w[c] = S::load(self.w.add(k * PANEL + c * S::N));
                }
                for r in 0..R {
                    let by = S::splat(*self.by.add(r * self.out + k));
                    for c in 0..C {
                        sums[r][c] = S::fma(by, w[c], sums[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    S::store(sums[r][c], to.add(r * apart + c * S::N));
                }
            }
        }
        if narrow {
            for r in 0..R {
                y[r * stride..][..width].copy_from_slice(&edge[r * whole..][..width]);
            }
        }
    }
}

/// Rows of weights as the values of `positions` positions.
fn all(kept: Kept, positions: usize) -> Segment {
    Segment {
        kept,
        batch: 0,
        head: 0,
        positions,
    }
}
