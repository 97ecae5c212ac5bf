//! Work on all threads of rayon's pool, and output that they write side by side.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Weights whose product is not worth waking another thread.
const ALONE: usize = 1 << 17;

/// Runs `work` on `count` tasks of `cost` multiplications in all.
pub(super) fn each(count: usize, cost: usize, work: impl Fn(usize) + Send + Sync) {
    if alone(count, cost) {
        (0..count).for_each(work);
    } else {
        (0..count).into_par_iter().for_each(work);
    }
}

/// The results of `count` tasks of `cost` multiplications in all, in their order.
pub(super) fn map<T: Send>(
    count: usize,
    cost: usize,
    work: impl Fn(usize) -> T + Send + Sync,
) -> Vec<T> {
    if alone(count, cost) {
        (0..count).map(work).collect()
    } else {
        (0..count).into_par_iter().map(work).collect()
    }
}

/// Runs `work` on `count` tasks of `cost` multiplications in all. A thread that is free takes the next, so that each of them has
/// its tasks in order, and a state for all of them; these come back.
pub(super) fn pull<T: Send>(
    count: usize,
    cost: usize,
    begin: impl Fn() -> T + Send + Sync,
    work: impl Fn(&mut T, usize) + Send + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let some = || {
        let mut state = None;
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= count {
                return state;
            }
            work(state.get_or_insert_with(&begin), task);
        }
    };
    if alone(count, cost) {
        return some().into_iter().collect();
    }
    let threads = rayon::current_num_threads().min(count);
    let states = (0..threads).into_par_iter().with_max_len(1);
    states.filter_map(|_| some()).collect()
}

fn alone(count: usize, cost: usize) -> bool {
    count < 2 || cost < ALONE || rayon::current_num_threads() == 1
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
