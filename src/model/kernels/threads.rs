//! Work on all threads of rayon's pool, and output that they write side by side.

use rayon::prelude::*;

/// Weights whose product is not worth waking another thread.
const ALONE: usize = 1 << 17;

/// Runs `work` on `count` tasks of `cost` multiplications in all.
pub(super) fn each(count: usize, cost: usize, work: impl Fn(usize) + Send + Sync) {
    if count < 2 || cost < ALONE || rayon::current_num_threads() == 1 {
        (0..count).for_each(work);
    } else {
        (0..count).into_par_iter().for_each(work);
    }
}

/// How many units of a matrix's rows a task takes, so that there are a few tasks for every thread.
pub(super) fn share(units: usize, most: usize) -> usize {
    let tasks = 8 * rayon::current_num_threads();
    units.div_ceil(tasks).clamp(1, most)
}

/// `[rows, out]`, of which every task writes columns of its own.
pub(super) struct OutputColumns {
    start: *mut f32,
    rows: usize,
    pub out: usize,
}

// SAFETY: see `put`, the only way to write.
#[allow(unsafe_code)]
unsafe impl Send for OutputColumns {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for OutputColumns {}

impl OutputColumns {
    pub fn new(y: &mut [f32], rows: usize, out: usize) -> Self {
        assert_eq!(y.len(), rows * out);
        Self {
            start: y.as_mut_ptr(),
            rows,
            out,
        }
    }

    /// Writes some columns of a row.
    ///
    /// # Safety
    /// No two tasks write the same columns, and the slice lives.
    #[allow(unsafe_code)]
    pub unsafe fn put(&self, row: usize, column: usize, values: &[f32]) {
        assert!(row < self.rows && column + values.len() <= self.out);
        // SAFETY: within the slice, and nobody else's.
        unsafe {
            self.start
                .add(row * self.out + column)
                .copy_from_nonoverlapping(values.as_ptr(), values.len());
        }
    }
}
