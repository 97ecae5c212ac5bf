//! Products with dense weights: f32, f16, bf16.
//!
//! Invariant: every number of the product is summed in one order (lanes along the input, strips of [`DEPTH`]), whatever other
//! rows are computed with it and however many threads there are; narrow weights are widened exactly.
//! To add a type, implement [`Element`].
#![allow(unsafe_code)] // Each block says what it relies on.

use std::ops::Range;

use super::lanes::{Lanes, Strided, Width, from_bf16, from_f16};
use super::machine::{Instructions, Processor};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::plain::Plain;
use super::threads::OutputColumns;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// The number of input columns that are multiplied at once: for a few rows they fit the first-level cache.
pub(super) const DEPTH: usize = 1024;

/// The most rows of weights in a task.
const MOST: usize = 64;

/// Dense weights of a matrix, row after row.
#[derive(Clone, Copy, Debug)]
pub enum PlainWeights<'a> {
    /// f32.
    F32(&'a [f32]),
    /// f16, as bits.
    F16(&'a [u16]),
    /// bf16, as bits: the upper half of an f32.
    Bf16(&'a [u16]),
}

impl PlainWeights<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(w) => w.len(),
            Self::F16(w) | Self::Bf16(w) => w.len(),
        }
    }
}

/// A type of weights.
pub(super) trait Element: Copy + Sync {
    const WIDTH: Width;
    /// Loads a vector of weights and widens it to f32.
    ///
    /// # Safety
    ///
    /// `p` points to a vector of numbers; the machine has the instructions of `S`.
    unsafe fn load<S: Lanes>(p: *const Self) -> S::F;
    fn widen(self) -> f32;
}

impl Element for f32 {
    const WIDTH: Width = Width::F32;
    #[inline(always)]
    unsafe fn load<S: Lanes>(p: *const Self) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

/// An f16 number, as bits.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F16(u16);

impl F16 {
    pub fn of(bits: &[u16]) -> &[Self] {
        // SAFETY: the same bits, and the same length.
        unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
    }
}

impl Element for F16 {
    const WIDTH: Width = Width::F16;
    #[inline(always)]
    unsafe fn load<S: Lanes>(p: *const Self) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { S::load_f16(p.cast()) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        from_f16(self.0)
    }
}

/// A bf16 number, as bits: the upper half of an f32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bf16(u16);

impl Bf16 {
    pub fn of(bits: &[u16]) -> &[Self] {
        // SAFETY: the same bits, and the same length.
        unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
    }
}

impl Element for Bf16 {
    const WIDTH: Width = Width::Bf16;
    #[inline(always)]
    unsafe fn load<S: Lanes>(p: *const Self) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { S::load_bf16(p.cast()) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        from_bf16(self.0)
    }
}

/// A task: some rows of weights, with all rows of activations.
#[derive(Clone, Copy)]
struct DenseTask<'a, E> {
    weights: &'a [E],
    input: usize,
    x: &'a [f32],
    y: &'a OutputColumns,
    first: usize,
    last: usize,
}

/// Products of `W` rows of weights with `X` rows of activations over whole vectors of columns.
#[inline(always)]
unsafe fn dots<S: Lanes, E: Element, const W: usize, const X: usize>(
    at: TileAt<E>,
) -> [[f32; W]; X] {
    // SAFETY: the rows and columns exist, and the machine has the instructions, as the caller of `place` promises.
    unsafe {
        let mut vectors = [[S::splat(0.0); W]; X];
        for k in (0..at.depth / S::N * S::N).step_by(S::N) {
            let mut weights = [S::splat(0.0); W];
            for i in 0..W {
                weights[i] = E::load::<S>(at.w.add(i * at.w_row + k));
            }
            for r in 0..X {
                let x = S::load(at.x.add(r * at.x_row + k));
                for i in 0..W {
                    vectors[r][i] = S::fma(weights[i], x, vectors[r][i]);
                }
            }
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

/// The same products over the remaining columns.
#[inline(always)]
unsafe fn rest<S: Lanes, E: Element, const W: usize, const X: usize>(
    at: TileAt<E>,
) -> [[f32; W]; X] {
    let mut sums = [[0.0; W]; X];
    for k in at.depth / S::N * S::N..at.depth {
        for r in 0..X {
            for i in 0..W {
                // SAFETY: the rows and columns exist, as the caller of `place` promises.
                unsafe {
                    sums[r][i] +=
                        (*at.w.add(i * at.w_row + k)).widen() * *at.x.add(r * at.x_row + k);
                }
            }
        }
    }
    sums
}

/// Adds the products of `count` rows of weights with `rows` rows of activations, over one strip of at most [`DEPTH`] columns.
///
/// # Safety
///
/// The rows that `at` points to exist; no other thread writes to its sums; the machine has the instructions.
#[inline(always)]
pub(super) unsafe fn add_products<S: Lanes, E: Element>(at: TileAt<E>, count: usize, rows: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        match S::N {
            16 => tiles::<S, E, 4, 4, 3, 6>(at, count, rows),
            8 => tiles::<S, E, 4, 2, 3, 6>(at, count, rows),
            4 => tiles::<S, E, 8, 4, 3, 6>(at, count, rows),
            _ => tiles::<S, E, 1, 1, 1, 1>(at, count, rows),
        }
    }
}

/// Pointers to a block of weights and activations, and to the sums to which their products are added.
#[derive(Clone, Copy)]
pub(super) struct TileAt<E> {
    pub w: *const E,
    pub w_row: usize,
    pub x: *const f32,
    pub x_row: usize,
    pub depth: usize,
    /// The sums of this task's rows of weights, for the first row of activations.
    pub sums: *mut f32,
    /// The stride in `sums` from one row of activations to the next.
    pub sums_row: usize,
}

/// Adds first the products over whole vectors of columns and then those over the remaining columns, for any number of rows: the
/// order of a sum is part of the invariant.
///
/// # Safety
///
/// `W` rows of weights and `X` rows of activations and sums exist; no other thread writes to the sums; the machine has the
/// instructions.
#[inline(always)]
unsafe fn place<S: Lanes, E: Element, const W: usize, const X: usize>(at: TileAt<E>) {
    let add = |products: [[f32; W]; X]| {
        for (r, products) in products.iter().enumerate() {
            for (i, product) in products.iter().enumerate() {
                // SAFETY: as the caller promises.
                unsafe { *at.sums.add(r * at.sums_row + i) += product };
            }
        }
    };
    let whole = at.depth / S::N * S::N;
    // SAFETY: as the caller promises.
    unsafe {
        if whole > 0 && !(W == 4 && written_out::<S, E, X>(at, whole)) {
            add(dots::<S, E, W, X>(at));
        }
        if whole < at.depth {
            add(rest::<S, E, W, X>(at));
        }
    }
}

/// Computes the products of four rows of weights with `X` rows of activations by a hand-written loop, if the machine has one;
/// else returns false.
///
/// # Safety
///
/// As [`place`].
#[inline(always)]
unsafe fn written_out<S: Lanes, E: Element, const X: usize>(at: TileAt<E>, whole: usize) -> bool {
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
    // SAFETY: as the caller promises.
    unsafe { S::tile::<X>(E::WIDTH, w, x, whole, sums) }
}

/// Combines all of a task's rows of weights, `W` at a time, with `X` rows of activations.
#[inline(always)]
unsafe fn column<S: Lanes, E: Element, const W: usize, const X: usize>(
    at: TileAt<E>,
    count: usize,
) {
    // SAFETY: as the caller promises; this many rows are left.
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

/// Processes all rows of activations: `X` at a time, then `HALF`, then one by one.
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
        // SAFETY: as the caller promises; this many rows are left.
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

/// Computes a task. `FEW` rows of weights are combined with one or `HALF` rows of activations, and `MANY` with `X`, so that the
/// sums fill the registers.
///
/// # Safety
///
/// The machine has the instructions, and no other task has these rows.
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
    // Narrow weights that are used many times are widened once.
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
        // SAFETY: the task's rows and strip are within the slices from which they are taken.
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
        // SAFETY: no other task has these rows, as the caller promises.
        unsafe { task.y.put(row, task.first, sums) }
    }
}

/// # Safety
///
/// As [`part`], except that the machine need not be checked.
unsafe fn run<E: Element>(on: Processor, task: DenseTask<E>) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<E: Element>(task: DenseTask<E>) {
        // SAFETY: as the caller promises, and these features are those of the lanes.
        unsafe { part::<Avx2, E, 4, 2, 3, 6>(task) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
    unsafe fn avx512<E: Element>(task: DenseTask<E>) {
        // SAFETY: as the caller promises, and these features are those of the lanes.
        unsafe { part::<Avx512, E, 4, 4, 3, 6>(task) }
    }
    // SAFETY: only `Processor::all` makes a processor, of instructions that the machine has; the rest as the caller promises.
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

/// A product `x Wᵀ` with `W` `[out, input]`, divided into tasks.
pub(super) struct DenseProduct<'a, E> {
    weights: &'a [E],
    input: usize,
    x: &'a [f32],
    y: OutputColumns,
    /// The number of rows of weights in a task.
    share: usize,
}

impl<'a, E: Element> DenseProduct<'a, E> {
    /// `x` is `[rows, input]`, `y` `[rows, out]`; a task has about `share` rows of weights.
    pub fn new(weights: &'a [E], input: usize, x: &'a [f32], y: &mut [f32], share: usize) -> Self {
        let (out, rows) = (weights.len() / input, x.len() / input);
        assert!(weights.len() == out * input && x.len() == rows * input);
        Self {
            weights,
            input,
            x,
            y: OutputColumns::new(y, rows, out),
            share: share.next_multiple_of(8).clamp(8, MOST),
        }
    }

    pub fn tasks(&self) -> usize {
        self.y.out.div_ceil(self.share)
    }

    /// # Safety
    ///
    /// Every task is done once, by one thread, while the slices of the product live.
    pub unsafe fn task(&self, on: Processor, i: usize) {
        let first = i * self.share;
        let task = DenseTask {
            weights: self.weights,
            input: self.input,
            x: self.x,
            y: &self.y,
            first,
            last: self.y.out.min(first + self.share),
        };
        // SAFETY: the tasks have disjoint rows, and `new` has checked the lengths.
        unsafe { run(on, task) };
    }
}

/// The product with some rows of the weights on this thread only, written to the first columns of `y`, `[rows, width]`.
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
