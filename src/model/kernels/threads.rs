//! Runs work on all threads of the pool, and lets them write disjoint parts of one output.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::pool::Pool;

/// Work with fewer multiplications than this runs on one thread.
const ALONE: usize = 1 << 16;

/// Runs `work` on `count` tasks, which cost `cost` multiplications in all.
pub(super) fn each(count: usize, cost: usize, work: impl Fn(usize) + Sync) {
    if alone(count, cost) {
        (0..count).for_each(work);
    } else {
        Pool::global().each(count, &work);
    }
}

fn alone(count: usize, cost: usize) -> bool {
    count < 2 || cost < ALONE || rayon::current_num_threads() == 1
}

/// The results of `count` tasks in order; they cost `cost` multiplications in all.
pub(super) fn map<T: Send>(
    count: usize,
    cost: usize,
    work: impl Fn(usize) -> T + Send + Sync,
) -> Vec<T> {
    if alone(count, cost) {
        return (0..count).map(work).collect();
    }
    let places: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    each(count, cost, |i| {
        let found = work(i);
        *places[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    });
    let found = places.into_iter();
    found
        .filter_map(|place| place.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect()
}

/// Runs `work` on `count` tasks, which cost `cost` multiplications in all. A free thread takes the next task, so each thread
/// does its tasks in ascending order, with one state for all of them; the states are returned.
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
    let states = map(threads, cost, |_| some());
    states.into_iter().flatten().collect()
}

/// Hands every part to `work` once, on several threads; the work costs `cost` multiplications in all.
pub fn hand_out<T: Send>(parts: Vec<T>, cost: usize, work: impl Fn(T) + Sync) {
    let places: Vec<Mutex<Option<T>>> = parts.into_iter().map(|p| Mutex::new(Some(p))).collect();
    each(places.len(), cost, |i| {
        let mut place = places[i].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = place.take() {
            work(part);
        }
    });
}

/// How many of `rows` rows of weights a task should take, so that there are a few tasks for every thread.
pub(super) fn share(rows: usize) -> usize {
    rows.div_ceil(8 * rayon::current_num_threads())
}

/// Into how many parts each of `units` units of work should be divided, so that there are a few tasks for every thread.
pub(super) fn share_of(units: usize) -> usize {
    (4 * rayon::current_num_threads()).div_ceil(units.max(1))
}

/// Runs `work` on groups of consecutive rows of `y`, with `width` numbers in each row (the last may be shorter), and the index
/// of the group's first row; the work costs `cost` multiplications in all.
pub(super) fn rows(
    y: &mut [f32],
    width: usize,
    cost: usize,
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    let units = y.len().div_ceil(width);
    let share = units.div_ceil(4 * rayon::current_num_threads()).max(1);
    let parts = y.chunks_mut(share * width).map(|part| {
        let (start, length) = (part.as_mut_ptr(), part.len());
        PartOfRows { start, length }
    });
    let parts: Vec<PartOfRows> = parts.collect();
    each(parts.len(), cost, |i| {
        // SAFETY: the parts are disjoint, and `y` is borrowed until all tasks are done.
        #[allow(unsafe_code)]
        let part = unsafe { std::slice::from_raw_parts_mut(parts[i].start, parts[i].length) };
        work(i * share, part);
    });
}

/// A part of the output that one task writes.
struct PartOfRows {
    start: *mut f32,
    length: usize,
}

// SAFETY: each part is used by only one task.
#[allow(unsafe_code)]
unsafe impl Sync for PartOfRows {}

/// An output `[rows, out]`, of which the tasks write disjoint columns.
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
    ///
    /// No two tasks write the same columns, and the slice is still alive.
    #[allow(unsafe_code)]
    pub unsafe fn put(&self, row: usize, column: usize, values: &[f32]) {
        assert!(row < self.rows && column + values.len() <= self.out);
        // SAFETY: within the slice, and written by no other task.
        unsafe {
            self.start
                .add(row * self.out + column)
                .copy_from_nonoverlapping(values.as_ptr(), values.len());
        }
    }
}
