//! Products with blocks: sixteen rows of weights at once, one a lane, with up to eight rows of activations.
//!
//! Invariant: within a block everything is whole numbers and exact; the sums of blocks are f32, block after block, so a row of
//! the product has the same bits whatever rows stand beside it and however many threads there are.
//! To add a kind of block, see [`super::kinds`], and name it in [`product`].
#![allow(unsafe_code)] // SAFETY of the whole file: pointers stay within the group and the records whose lengths `strip` compares.

use std::ops::Range;

use super::activations::{Activations, next};
use super::encoding::Encoding;
use super::kinds::{BlockKind, BlockRows, FourBits, Q2K, Q3K, Q4K, Q5K, Q6K, Q8_0};
use super::lanes::Lanes;
use super::machine::{Instructions, Processor};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::packed::{GROUP, Packed};
use super::plain::Plain;
use super::threads::{self, OutputColumns};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// Most groups of sixteen rows that a task takes.
const MOST: usize = 16;

/// A task: some groups of a matrix, with all rows of activations.
#[derive(Clone, Copy)]
struct PackedTask<'a> {
    weights: &'a Packed,
    x: &'a Activations,
    y: &'a OutputColumns,
    /// The rows of the matrix that are asked for.
    rows: (usize, usize),
    first: usize,
    last: usize,
}

/// `MANY` and `SOME` are those of [`Processor::tiles`].
///
/// # Safety
/// The machine has the lanes, and no other task has these groups.
#[inline(always)]
unsafe fn strip<S: Lanes, B: BlockKind, const MANY: usize, const SOME: usize>(task: PackedTask) {
    let mut row = 0;
    while row < task.x.rows {
        let rows = next(task.x.rows - row, [MANY, SOME]);
        unsafe {
            if rows == MANY {
                tile::<S, B, MANY>(task, row);
            } else if rows == SOME {
                tile::<S, B, SOME>(task, row);
            } else {
                tile::<S, B, 1>(task, row);
            }
        }
        row += rows;
    }
}

#[inline(always)]
unsafe fn tile<S: Lanes, B: BlockKind, const R: usize>(task: PackedTask, row: usize) {
    let (size, fields) = (B::ENCODING.bytes(), B::ENCODING.fields());
    let each = B::ENCODING.length() / 32;
    let x = task.x.tile::<R>(row);
    let blocks = task.weights.blocks();
    assert_eq!(x.len(), blocks * each);
    for group in task.first..task.last {
        let bytes = task.weights.group(group);
        assert_eq!(bytes.len(), blocks * size * GROUP);
        let mut y = [[0f32; GROUP]; R];
        for lane in (0..GROUP).step_by(S::N) {
            unsafe {
                let mut sums = [S::splat(0.0); R];
                for b in 0..blocks {
                    let block = bytes.as_ptr().add(b * size * GROUP);
                    let w = BlockRows::<S>::new(block, lane, fields.halves.len());
                    B::add::<S, R>(w, x.as_ptr().add(b * each), &mut sums);
                }
                for (y, sum) in y.iter_mut().zip(sums) {
                    S::store(sum, y[lane..].as_mut_ptr());
                }
            }
        }
        // Those of the sixteen that are asked for.
        let start = group * GROUP;
        let from = task.rows.0.max(start);
        let to = task.rows.1.min(start + GROUP);
        for (r, y) in y.iter().enumerate() {
            unsafe {
                task.y
                    .put(row + r, from - task.rows.0, &y[from - start..to - start]);
            }
        }
    }
}

/// # Safety
/// As [`strip`], but for the machine.
unsafe fn run<B: BlockKind>(on: Processor, task: PackedTask) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<B: BlockKind>(task: PackedTask) {
        unsafe { strip::<Avx2, B, 4, 2>(task) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
    unsafe fn avx512<B: BlockKind>(task: PackedTask) {
        unsafe { strip::<Avx512, B, 8, 3>(task) }
    }
    unsafe {
        match on.0 {
            Instructions::Plain => strip::<Plain, B, 1, 1>(task),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => avx2::<B>(task),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => avx512::<B>(task),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => strip::<Neon, B, 4, 2>(task),
        }
    }
}

/// `x Wᵀ` for some rows of `W`: `x` is `[rows, input]`, `y` `[rows, range]`.
pub(super) fn product(
    on: Processor,
    weights: &Packed,
    range: Range<usize>,
    x: &[f32],
    y: &mut [f32],
) {
    assert!(range.end <= weights.out);
    let rows = x.len() / weights.input;
    let x = Activations::new(x, rows, weights.input / 32, on.tiles());
    let y = OutputColumns::new(y, rows, range.len());
    let (begin, end) = (range.start / GROUP, range.end.div_ceil(GROUP));
    let share = threads::share(end - begin, MOST);
    let count = (end - begin).div_ceil(share);
    threads::each(count, rows * range.len() * weights.input, |i| {
        let first = begin + i * share;
        let last = end.min(first + share);
        let rows = (range.start, range.end);
        let task = PackedTask {
            weights,
            x: &x,
            y: &y,
            rows,
            first,
            last,
        };
        // SAFETY: every task has groups of its own.
        unsafe { any(on, task) };
    });
}

/// The product with some rows of `W`, on this thread alone: the first columns of `y`.
pub(super) fn alone(
    on: Processor,
    weights: &Packed,
    range: Range<usize>,
    x: &Activations,
    y: &OutputColumns,
) {
    assert!(range.end <= weights.out && range.len() <= y.out);
    let task = PackedTask {
        weights,
        x,
        y,
        rows: (range.start, range.end),
        first: range.start / GROUP,
        last: range.end.div_ceil(GROUP),
    };
    // SAFETY: there is no other task.
    unsafe { any(on, task) };
}

/// # Safety
/// As [`run`].
unsafe fn any(on: Processor, task: PackedTask) {
    let product = match task.weights.encoding {
        Encoding::Q4_0 => run::<FourBits<false, false>>,
        Encoding::Q4_1 => run::<FourBits<false, true>>,
        Encoding::Q5_0 => run::<FourBits<true, false>>,
        Encoding::Q5_1 => run::<FourBits<true, true>>,
        Encoding::Q8_0 => run::<Q8_0>,
        Encoding::Q2K => run::<Q2K>,
        Encoding::Q3K => run::<Q3K>,
        Encoding::Q4K => run::<Q4K>,
        Encoding::Q5K => run::<Q5K>,
        Encoding::Q6K => run::<Q6K>,
        // Plain numbers are never interleaved (`Packed::new`).
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => return,
    };
    unsafe { product(on, task) };
}
