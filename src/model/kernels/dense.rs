//! Products with plain numbers: F32, F16, BF16.
//!
//! Invariant: every number of the product is summed in one order (lanes along the input, strips of [`DEPTH`]), whatever rows
//! stand beside it and however many threads there are; narrow weights are widened exactly.
//! To add a type, implement [`Element`].
#![allow(unsafe_code)] // SAFETY of the whole file: pointers stay within rows whose lengths `product` compares.

use std::ops::Range;

use super::lanes::{Lanes, Strided, Width, from_bf16, from_f16};
use super::machine::{Instructions, Processor};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::plain::Plain;
use super::threads::{self, OutputColumns};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// Columns that are multiplied at once: so many of a few rows fit the first cache.
const DEPTH: usize = 1024;

/// Most rows of weights that a task takes.
const MOST: usize = 64;

/// Plain numbers of a matrix, row after row.
#[derive(Clone, Copy, Debug)]
pub enum PlainWeights<'a> {
    /// f32.
    F32(&'a [f32]),
    /// The bits of IEEE numbers of sixteen bits.
    F16(&'a [u16]),
    /// The upper bits of f32.
    Bf16(&'a [u16]),
}

/// A type of weights.
pub(super) trait Element: Copy + Sync {
    const WIDTH: Width;
    /// # Safety
    /// `p` has a vector of numbers behind it; the machine has the lanes.
    unsafe fn load<S: Lanes>(p: *const Self) -> S::F;
    fn widen(self) -> f32;
}

impl Element for f32 {
    const WIDTH: Width = Width::F32;
    #[inline(always)]
    unsafe fn load<S: Lanes>(p: *const Self) -> S::F {
        unsafe { S::load(p) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

/// Bits of an IEEE number of sixteen bits.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F16(u16);

impl F16 {
    fn of(bits: &[u16]) -> &[Self] {
        // SAFETY: the same bits, and the same length.
        unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
    }
}

impl Element for F16 {
    const WIDTH: Width = Width::F16;
    #[inline(always)]
    unsafe fn load<S: Lanes>(p: *const Self) -> S::F {
        unsafe { S::load_f16(p.cast()) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        from_f16(self.0)
    }
}

/// The upper bits of an f32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bf16(u16);

impl Bf16 {
    fn of(bits: &[u16]) -> &[Self] {
        // SAFETY: the same bits, and the same length.
        unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
    }
}

impl Element for Bf16 {
    const WIDTH: Width = Width::Bf16;
    #[inline(always)]
    unsafe fn load<S: Lanes>(p: *const Self) -> S::F {
        unsafe { S::load_bf16(p.cast()) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        from_bf16(self.0)
    }
}

/// A task: some rows of a matrix, with all rows of activations.
#[derive(Clone, Copy)]
struct DenseTask<'a, E> {
    weights: &'a [E],
    input: usize,
    x: &'a [f32],
    y: &'a OutputColumns,
    first: usize,
    last: usize,
}

/// Products of `W` rows of weights with `X` rows of activations over `depth` columns, as far as whole vectors go.
#[inline(always)]
unsafe fn dots<S: Lanes, E: Element, const W: usize, const X: usize>(
    w: *const E,
    w_row: usize,
    x: *const f32,
    x_row: usize,
    depth: usize,
) -> [[f32; W]; X] {
    unsafe {
        let mut vectors = [[S::splat(0.0); W]; X];
        let whole = depth / S::N * S::N;
        let mut k = 0;
        while k < whole {
            let mut weights = [S::splat(0.0); W];
            for i in 0..W {
                weights[i] = E::load::<S>(w.add(i * w_row + k));
            }
            for r in 0..X {
                let x = S::load(x.add(r * x_row + k));
                for i in 0..W {
                    vectors[r][i] = S::fma(weights[i], x, vectors[r][i]);
                }
            }
            k += S::N;
        }
        let mut sums = [[0.0; W]; X];
        for r in 0..X {
            for i in 0..W {
                sums[r][i] = S::sum(vectors[r][i]);
            }
        }
        sums
    }
}

/// Where a block of products comes from and where it is added.
#[derive(Clone, Copy)]
struct TileAt<E> {
    w: *const E,
    w_row: usize,
    x: *const f32,
    x_row: usize,
    depth: usize,
    /// Sums of this task's rows, for the first of the rows of activations.
    sums: *mut f32,
    /// From one row of activations to the next in `sums`.
    sums_row: usize,
}

#[inline(always)]
unsafe fn place<S: Lanes, E: Element, const W: usize, const X: usize>(at: TileAt<E>) {
    unsafe {
        let whole = at.depth / S::N * S::N;
        let w = Strided {
            start: at.w.cast(),
            bytes: at.w_row * size_of::<E>(),
        };
        let x = Strided {
            start: at.x,
            bytes: at.x_row * size_of::<f32>(),
        };
        let sums = Strided {
            start: at.sums.cast_const(),
            bytes: at.sums_row * size_of::<f32>(),
        };
        if whole > 0 && !(W == 4 && S::tile::<X>(E::WIDTH, w, x, whole, sums)) {
            let products = dots::<S, E, W, X>(at.w, at.w_row, at.x, at.x_row, whole);
            for (r, products) in products.iter().enumerate() {
                for (i, product) in products.iter().enumerate() {
                    *at.sums.add(r * at.sums_row + i) += product;
                }
            }
        }
        // One by one, so that the order is the same whichever way the others went.
        for k in whole..at.depth {
            for r in 0..X {
                for i in 0..W {
                    let weight = (*at.w.add(i * at.w_row + k)).widen();
                    *at.sums.add(r * at.sums_row + i) += weight * *at.x.add(r * at.x_row + k);
                }
            }
        }
    }
}

/// All of a task's rows of weights, `W` at a time, with `X` rows of activations.
#[inline(always)]
unsafe fn column<S: Lanes, E: Element, const W: usize, const X: usize>(
    at: TileAt<E>,
    count: usize,
) {
    unsafe {
        let mut row = 0;
        while row < count {
            let at = TileAt {
                w: at.w.add(row * at.w_row),
                sums: at.sums.add(row),
                ..at
            };
            if row + W <= count {
                place::<S, E, W, X>(at);
                row += W;
            } else {
                place::<S, E, 1, X>(at);
                row += 1;
            }
        }
    }
}

/// All rows of activations: `X` at a time, then `HALF`, then one by one.
#[inline(always)]
unsafe fn tiles<
    S: Lanes,
    E: Element,
    const FEW: usize,
    const MANY: usize,
    const HALF: usize,
    const X: usize,
>(
    at: TileAt<E>,
    count: usize,
    rows: usize,
) {
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        unsafe {
            let at = TileAt {
                x: at.x.add(row * at.x_row),
                sums: at.sums.add(row * at.sums_row),
                ..at
            };
            if left >= X {
                column::<S, E, MANY, X>(at, count);
                row += X;
            } else if left >= HALF {
                column::<S, E, FEW, HALF>(at, count);
                row += HALF;
            } else {
                column::<S, E, FEW, 1>(at, count);
                row += 1;
            }
        }
    }
}

/// `FEW` rows of weights go with `HALF` rows of activations or one, and `MANY` with `X`: as many sums as there are registers.
///
/// # Safety
/// The machine has the lanes, and no other task has these rows.
#[inline(always)]
unsafe fn part<
    S: Lanes,
    E: Element,
    const FEW: usize,
    const MANY: usize,
    const HALF: usize,
    const X: usize,
>(
    task: DenseTask<E>,
) {
    let (input, count) = (task.input, task.last - task.first);
    let rows = task.x.len() / input;
    let mut sums = vec![0f32; rows * count];
    // Narrow weights that are read many times are widened once.
    let mut wide = vec![
        0f32;
        if rows > 4 * X && E::WIDTH != Width::F32 {
            count * DEPTH.min(input)
        } else {
            0
        }
    ];
    for k in (0..input).step_by(DEPTH) {
        let depth = DEPTH.min(input - k);
        let rows_of = &task.weights[task.first * input..task.last * input];
        let w = &rows_of[k..];
        let at = TileAt {
            w: w.as_ptr(),
            w_row: input,
            x: task.x[k..].as_ptr(),
            x_row: input,
            depth,
            sums: sums.as_mut_ptr(),
            sums_row: count,
        };
        unsafe {
            if wide.is_empty() {
                tiles::<S, E, FEW, MANY, HALF, X>(at, count, rows);
                continue;
            }
            for row in 0..count {
                let (from, to) = (
                    &w[row * input..][..depth],
                    &mut wide[row * depth..][..depth],
                );
                let whole = depth / S::N * S::N;
                for i in (0..whole).step_by(S::N) {
                    S::store(E::load::<S>(from.as_ptr().add(i)), to.as_mut_ptr().add(i));
                }
                for i in whole..depth {
                    to[i] = from[i].widen();
                }
            }
            let at = TileAt {
                w: wide.as_ptr(),
                w_row: depth,
                x: at.x,
                x_row: input,
                depth,
                sums: at.sums,
                sums_row: count,
            };
            tiles::<S, f32, FEW, MANY, HALF, X>(at, count, rows);
        }
    }
    for (row, sums) in sums.chunks_exact(count).enumerate() {
        unsafe { task.y.put(row, task.first, sums) }
    }
}

/// # Safety
/// As [`part`], but for the machine.
unsafe fn run<E: Element>(on: Processor, task: DenseTask<E>) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<E: Element>(task: DenseTask<E>) {
        unsafe { part::<Avx2, E, 4, 2, 3, 6>(task) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
    unsafe fn avx512<E: Element>(task: DenseTask<E>) {
        unsafe { part::<Avx512, E, 4, 4, 3, 6>(task) }
    }
    unsafe {
        match on.0 {
            Instructions::Plain => part::<Plain, E, 1, 1, 1, 1>(task),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => avx2::<E>(task),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => avx512::<E>(task),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => part::<Neon, E, 8, 4, 3, 6>(task),
        }
    }
}

/// `x Wᵀ`: `weights` is `[out, input]`, `x` `[rows, input]`, `y` `[rows, out]`.
pub(super) fn product(
    on: Processor,
    weights: PlainWeights,
    input: usize,
    x: &[f32],
    y: &mut [f32],
) {
    match weights {
        PlainWeights::F32(weights) => whole(on, weights, input, x, y),
        PlainWeights::F16(bits) => whole(on, F16::of(bits), input, x, y),
        PlainWeights::Bf16(bits) => whole(on, Bf16::of(bits), input, x, y),
    }
}

fn whole<E: Element>(on: Processor, weights: &[E], input: usize, x: &[f32], y: &mut [f32]) {
    let (out, rows) = (weights.len() / input, x.len() / input);
    assert!(weights.len() == out * input && x.len() == rows * input);
    let y = OutputColumns::new(y, rows, out);
    let units = out.div_ceil(8);
    let share = 8 * threads::share(units, MOST / 8);
    threads::each(out.div_ceil(share), rows * out * input, |i| {
        let first = i * share;
        let last = out.min(first + share);
        let task = DenseTask {
            weights,
            input,
            x,
            y: &y,
            first,
            last,
        };
        // SAFETY: every task has rows of its own.
        unsafe { run(on, task) };
    });
}

/// The product with some rows of the weights, on this thread alone: the first columns of `y` `[rows, width]`.
pub(super) fn strip(
    on: Processor,
    weights: PlainWeights,
    input: usize,
    range: Range<usize>,
    x: &[f32],
    y: &OutputColumns,
) {
    let span = range.start * input..range.end * input;
    match weights {
        PlainWeights::F32(weights) => alone(on, &weights[span], input, x, y),
        PlainWeights::F16(bits) => alone(on, F16::of(&bits[span]), input, x, y),
        PlainWeights::Bf16(bits) => alone(on, Bf16::of(&bits[span]), input, x, y),
    }
}

fn alone<E: Element>(on: Processor, weights: &[E], input: usize, x: &[f32], y: &OutputColumns) {
    let out = weights.len() / input;
    assert!(out <= y.out && x.len().is_multiple_of(input));
    for first in (0..out).step_by(MOST) {
        let last = out.min(first + MOST);
        let task = DenseTask {
            weights,
            input,
            x,
            y,
            first,
            last,
        };
        // SAFETY: one task after the other.
        unsafe { run(on, task) };
    }
}
