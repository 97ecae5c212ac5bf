//! The threads that products share: helpers that wait awake for the next product for a short while and then sleep.
//!
//! Invariant: whoever asks works too and never waits for a helper that has not begun, so a machine whose cores others use
//! slows products down and does not stop them. One product at a time has the helpers; who finds them taken works alone.
//! To change how long a helper stays awake, see [`AWAKE`].

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a helper waits awake: longer than what lies between two products of a token.
const AWAKE: Duration = Duration::from_micros(60);

/// A helper that keeps its asker waiting for so long, and for several times as long as a task takes, was taken off its core by
/// somebody else's work...
const CROWDED: Duration = Duration::from_micros(400);

/// ... and for so long nobody asks for helpers, twice as long when it happens again soon after, and so on, so often.
const APART: Duration = Duration::from_millis(20);
const TWICE: u64 = 5;

/// After so many rounds in which nobody had to wait, the next time counts as the first.
const FINE: u64 = 2000;

/// Set in [`Pool::state`] while helpers may begin.
const OPEN: u64 = 1 << 31;

/// What [`Pool::state`] counts rounds in; below are [`OPEN`] and the helpers at work.
const ROUND: u64 = 1 << 32;

/// Work that is cut into numbered tasks, without its type.
#[derive(Clone, Copy)]
struct Job {
    /// Calls the closure at the address with the number of a task.
    call: unsafe fn(*const (), usize),
    closure: *const (),
    count: usize,
}

/// A place on a cache line of its own: the threads write to it all the time.
#[repr(align(128))]
struct Apart<T>(T);

/// Helpers, and the one job that they may have.
pub(super) struct Pool {
    owner: Mutex<()>,
    job: UnsafeCell<Job>,
    next: Apart<AtomicUsize>,
    state: Apart<AtomicU64>,
    asleep: Apart<AtomicUsize>,
    failed: Mutex<Option<Box<dyn Any + Send>>>,
    helpers: OnceLock<Vec<Thread>>,
    began: Instant,
    /// Nanoseconds after `began` until which nobody asks for helpers.
    apart: AtomicU64,
    /// How often lately, and how many rounds ago.
    lately: AtomicU64,
    fine: AtomicU64,
}

// SAFETY: the address in `job` is used only as `each` allows.
#[allow(unsafe_code)]
unsafe impl Send for Pool {}
// SAFETY: `job` is written by the holder of `owner` while no helper is at work, and read by helpers that have counted
// themselves into `state` while it is open, which its next writer waits for. Everything else is made for several threads.
#[allow(unsafe_code)]
unsafe impl Sync for Pool {}

impl Pool {
    /// That of the process, with as many threads as rayon's.
    pub fn global() -> &'static Self {
        static POOL: OnceLock<Pool> = OnceLock::new();
        let pool = POOL.get_or_init(|| Self {
            owner: Mutex::new(()),
            job: UnsafeCell::new(Job {
                call: |_, _| {},
                closure: std::ptr::null(),
                count: 0,
            }),
            next: Apart(AtomicUsize::new(0)),
            state: Apart(AtomicU64::new(0)),
            asleep: Apart(AtomicUsize::new(0)),
            failed: Mutex::new(None),
            helpers: OnceLock::new(),
            began: Instant::now(),
            apart: AtomicU64::new(0),
            lately: AtomicU64::new(0),
            fine: AtomicU64::new(0),
        });
        pool.helpers.get_or_init(|| {
            let started = (1..rayon::current_num_threads()).map_while(|i| {
                let name = format!("product-{i}");
                let thread = std::thread::Builder::new().name(name);
                let thread = thread.spawn(move || pool.help()).ok()?;
                Some(thread.thread().clone())
            });
            started.collect()
        });
        pool
    }

    /// Runs `work` once for every number below `count`, on some threads at once.
    pub fn each<F: Fn(usize) + Sync>(&self, count: usize, work: &F) {
        let owner = match self.owner.try_lock() {
            Ok(owner) => Some(owner),
            // Whoever held it has left the pool in order (`Round`) on his way out.
            Err(TryLockError::Poisoned(owner)) => Some(owner.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let (Some(owner), false) = (owner, self.is_apart()) else {
            return (0..count).for_each(work);
        };
        let job = Job {
            call: call::<F>,
            closure: std::ptr::from_ref(work).cast(),
            count,
        };
        // SAFETY: `owner` is held, and the round before was closed and waited for, so no helper looks at the job.
        #[allow(unsafe_code)]
        unsafe {
            *self.job.get() = job;
        }
        self.next.0.store(0, Ordering::Relaxed);
        let state = self.state.0.load(Ordering::Relaxed);
        let round = (state & !(ROUND - 1)).wrapping_add(ROUND);
        self.state.0.store(round | OPEN, Ordering::SeqCst);
        if self.asleep.0.load(Ordering::SeqCst) > 0 {
            self.helpers
                .get()
                .into_iter()
                .flatten()
                .for_each(Thread::unpark);
        }
        let mut round = Round {
            pool: self,
            patience: CROWDED,
        };
        let since = Instant::now();
        let mut own = 0;
        loop {
            let i = self.next.0.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            work(i);
            own += 1;
        }
        round.patience = CROWDED.max(4 * since.elapsed() / own.max(1));
        drop(round);
        let failed = lock(&self.failed).take();
        drop(owner);
        if let Some(panic) = failed {
            resume_unwind(panic);
        }
    }

    /// Whether helpers were found to be kept from their cores a moment ago.
    fn is_apart(&self) -> bool {
        let until = self.apart.load(Ordering::Relaxed);
        until > 0 && (self.began.elapsed().as_nanos() as u64) < until
    }

    /// What a helper does all its life.
    fn help(&self) {
        let mut last = 0;
        loop {
            let seen = self.wait(last);
            last = seen & !(ROUND - 1);
            let joined =
                self.state
                    .0
                    .compare_exchange(seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed);
            if joined.is_err() {
                // Another helper came in, or the round was closed: look again.
                last = last.wrapping_sub(ROUND);
                continue;
            }
            // SAFETY: counted in while the round was open; its owner waits for us before anybody writes to the job, and before
            // the closure goes.
            #[allow(unsafe_code)]
            let job = unsafe { *self.job.get() };
            let done = catch_unwind(AssertUnwindSafe(|| {
                loop {
                    let i = self.next.0.fetch_add(1, Ordering::Relaxed);
                    if i >= job.count {
                        break;
                    }
                    // SAFETY: the closure is that of the round we are counted into, whose asker waits.
                    #[allow(unsafe_code)]
                    unsafe {
                        (job.call)(job.closure, i);
                    }
                }
            }));
            if let Err(panic) = done {
                *lock(&self.failed) = Some(panic);
            }
            self.state.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for an open round other than the last one, and returns the state in which it was seen.
    fn wait(&self, last: u64) -> u64 {
        let fresh = |state: u64| state & OPEN != 0 && state & !(ROUND - 1) != last;
        loop {
            let since = Instant::now();
            let mut turns = 0u32;
            while !turns.is_multiple_of(64) || since.elapsed() < AWAKE {
                let state = self.state.0.load(Ordering::Acquire);
                if fresh(state) {
                    return state;
                }
                std::hint::spin_loop();
                turns += 1;
            }
            self.asleep.0.fetch_add(1, Ordering::SeqCst);
            // Looked at once more: an asker who came before the count above sends no call.
            let state = self.state.0.load(Ordering::SeqCst);
            if !fresh(state) {
                std::thread::park();
            }
            self.asleep.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// An open round. Its end closes it and waits for the helpers that have begun, also where a task panics.
struct Round<'a> {
    pool: &'a Pool,
    patience: Duration,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let pool = self.pool;
        // Tasks that nobody has begun are not begun any more; there are some only where one panicked.
        pool.next.0.fetch_add(usize::MAX / 2, Ordering::Relaxed);
        let mut state = pool.state.0.fetch_and(!OPEN, Ordering::AcqRel) & !OPEN;
        let mut turns = 0u32;
        let (mut since, mut crowded) = (None, false);
        while state & (ROUND - 1) != 0 {
            turns += 1;
            if turns.is_multiple_of(64) {
                let since = since.get_or_insert_with(Instant::now);
                if since.elapsed() > self.patience {
                    crowded = true;
                    std::thread::yield_now();
                }
            }
            std::hint::spin_loop();
            state = pool.state.0.load(Ordering::Acquire);
        }
        // Only the owner of the round is here.
        if crowded {
            let lately = pool.lately.load(Ordering::Relaxed);
            let until = pool.began.elapsed() + APART * (1 << lately);
            pool.apart.store(until.as_nanos() as u64, Ordering::Relaxed);
            pool.lately.store(TWICE.min(lately + 1), Ordering::Relaxed);
            pool.fine.store(0, Ordering::Relaxed);
        } else {
            let fine = pool.fine.load(Ordering::Relaxed) + 1;
            pool.fine.store(fine, Ordering::Relaxed);
            if fine == FINE {
                pool.lately.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// # Safety
/// `closure` is the address of a closure of this type that lives.
#[allow(unsafe_code)]
unsafe fn call<F: Fn(usize)>(closure: *const (), i: usize) {
    // SAFETY: as the caller promises.
    let work = unsafe { &*closure.cast::<F>() };
    work(i);
}

fn lock<T>(held: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_from_any_number_of_askers() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for count in [0, 1, 2, 17, 300] {
                        for _ in 0..200 {
                            let done: Vec<AtomicUsize> =
                                (0..count).map(|_| AtomicUsize::new(0)).collect();
                            Pool::global().each(count, &|i: usize| {
                                done[i].fetch_add(1, Ordering::Relaxed);
                            });
                            assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1));
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_task_that_panics_reaches_its_asker_and_leaves_the_pool_in_order() {
        for bad in [0, 30, 63] {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                Pool::global().each(64, &|i: usize| {
                    std::thread::sleep(Duration::from_micros(20));
                    assert!(i != bad, "as planned");
                });
            }));
            assert!(failed.is_err());
            let sum = AtomicUsize::new(0);
            Pool::global().each(64, &|i: usize| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 63 * 32);
        }
    }
}
