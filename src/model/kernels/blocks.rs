//! Products with quantized blocks: sixteen rows of weights at once, one in each lane, with up to twelve rows of activations.
//!
//! Invariant: within a block all arithmetic is on integers and exact; the results of blocks are summed in f32, block after
//! block, so a row of the product has the same bits whatever other rows are computed with it and however many threads there
//! are.
//! To add a kind of block, see [`super::kinds`], and name it in [`PackedProduct::task`].
#![allow(unsafe_code)] // Each block says what it relies on.

use std::ops::Range;

use super::activations::Activations;
use super::encoding::Encoding;
use super::kinds::{BlockKind, BlockRows, FourBits, Q2K, Q3K, Q4K, Q5K, Q6K, Q8_0};
use super::lanes::Lanes;
use super::machine::{Instructions, Processor};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::packed::{GROUP, Packed};
use super::plain::Plain;
use super::threads::OutputColumns;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// The bytes of a cache line.
const LINE: usize = 64;

/// How many bytes ahead of the block at work the next ones are fetched.
const AHEAD: usize = 4096;

/// The most groups of sixteen rows in a task.
const MOST: usize = 16;

/// A task: some groups of rows of a matrix, with all rows of activations.
#[derive(Clone, Copy)]
struct PackedTask<'a> {
    weights: &'a Packed,
    x: &'a Activations,
    y: &'a OutputColumns,
    /// The requested rows of the matrix: first, and one past the last.
    rows: (usize, usize),
    first: usize,
    last: usize,
}

/// Computes a task. `MANY`, `SOME` and `FEW` are those of [`Processor::tiles`].
///
/// # Safety
///
/// The machine has the instructions, and no other task has these groups.
#[inline(always)]
unsafe fn strip<S: Lanes, B: BlockKind, const MANY: usize, const SOME: usize, const FEW: usize>(
    task: PackedTask,
) {
    let mut row = 0;
    while row < task.x.rows {
        let rows = task.x.rows_of_tile(row);
        // SAFETY: as the caller promises.
        unsafe {
            if rows == MANY {
                tile::<S, B, MANY>(task, row);
            } else if rows == SOME {
                tile::<S, B, SOME>(task, row);
            } else if rows == FEW {
                tile::<S, B, FEW>(task, row);
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
            // SAFETY: the whole group and all records are behind the pointers, as was just checked, and `y` has sixteen
            // elements.
            unsafe {
                let mut sums = [S::splat(0.0); R];
                for b in 0..blocks {
                    let block = bytes.as_ptr().add(b * size * GROUP);
                    // One row waits for the memory and not for the arithmetic.
                    if R == 1 && lane == 0 {
                        for line in (0..size * GROUP).step_by(LINE) {
                            S::fetch(block.wrapping_add(AHEAD + line));
                        }
                    }
                    let w = BlockRows::<S>::new(block, lane, fields.halves.len());
                    B::add::<S, R>(w, x.as_ptr().add(b * each), &mut sums);
                }
                for (y, sum) in y.iter_mut().zip(sums) {
                    S::store(sum, y[lane..].as_mut_ptr());
                }
            }
        }
        // The requested rows of the sixteen.
        let start = group * GROUP;
        let from = task.rows.0.max(start);
        let to = task.rows.1.min(start + GROUP);
        for (r, y) in y.iter().enumerate().take(task.x.rows - row) {
            // SAFETY: no other task has these groups, as the caller promises.
            unsafe {
                task.y
                    .put(row + r, from - task.rows.0, &y[from - start..to - start]);
            }
        }
    }
}

/// # Safety
///
/// As [`strip`], except that the machine need not be checked.
unsafe fn run<B: BlockKind>(on: Processor, task: PackedTask) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<B: BlockKind>(task: PackedTask) {
        // SAFETY: as the caller promises, and these features are those of the lanes.
        unsafe { strip::<Avx2, B, 4, 2, 1>(task) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
    unsafe fn avx512<B: BlockKind>(task: PackedTask) {
        // SAFETY: as the caller promises, and these features are those of the lanes.
        unsafe { strip::<Avx512, B, 12, 6, 3>(task) }
    }
    // SAFETY: only `Processor::all` makes a processor, of instructions that the machine has; the rest as the caller promises.
    unsafe {
        match on.0 {
            Instructions::Plain => strip::<Plain, B, 1, 1, 1>(task),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => avx2::<B>(task),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => avx512::<B>(task),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => strip::<Neon, B, 4, 2, 1>(task),
        }
    }
}

/// A product `x Wᵀ` with some rows of `W`, divided into tasks.
pub(super) struct PackedProduct<'a> {
    weights: &'a Packed,
    range: Range<usize>,
    x: &'a Activations,
    y: OutputColumns,
    /// The number of groups in a task.
    share: usize,
}

impl<'a> PackedProduct<'a> {
    /// `y` is `[rows, range]`; a task has about `share` rows of weights.
    pub fn new(
        weights: &'a Packed,
        range: Range<usize>,
        x: &'a Activations,
        y: &mut [f32],
        share: usize,
    ) -> Self {
        assert!(range.end <= weights.out);
        Self {
            weights,
            x,
            y: OutputColumns::new(y, x.rows, range.len()),
            range,
            share: share.div_ceil(GROUP).clamp(1, MOST),
        }
    }

    /// The groups that contain the requested rows.
    fn groups(&self) -> Range<usize> {
        self.range.start / GROUP..self.range.end.div_ceil(GROUP)
    }

    pub fn tasks(&self) -> usize {
        if self.range.is_empty() {
            0
        } else {
            self.groups().len().div_ceil(self.share)
        }
    }

    /// # Safety
    ///
    /// Every task is done once, by one thread, while the slices of the product live.
    pub unsafe fn task(&self, on: Processor, i: usize) {
        let groups = self.groups();
        let first = groups.start + i * self.share;
        let task = PackedTask {
            weights: self.weights,
            x: self.x,
            y: &self.y,
            rows: (self.range.start, self.range.end),
            first,
            last: groups.end.min(first + self.share),
        };
        // SAFETY: the tasks have disjoint groups.
        unsafe { any(on, task) };
    }
}

/// The product with some rows of `W` on this thread only, written to the first columns of `y`.
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
        // Plain numbers are never packed (`Packed::new`).
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => return,
    };
    // SAFETY: as the caller promises.
    unsafe { product(on, task) };
}
