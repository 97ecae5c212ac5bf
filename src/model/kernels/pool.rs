//! The threads that products share: helpers that spin for a short while, waiting for the next product, and then sleep.
//!
//! Invariant: the calling thread works as well and never waits for a helper that has not begun, so on a machine whose cores are
//! busy products become slower but do not stall. The helpers work for one product at a time; a caller who finds them busy works
//! alone. To change how long a helper spins, see [`AWAKE`].

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a helper spins: longer than the time between two products of a token.
const AWAKE: Duration = Duration::from_micros(60);

/// If the caller waits this long for a helper, and several times longer than a task takes, another program must have taken the
/// helper's core.
const PATIENCE: Duration = Duration::from_micros(400);

/// For this long no helpers are used after that; twice as long if it happens again soon, and so on, up to [`MOST_DOUBLINGS`] doublings.
const PAUSE: Duration = Duration::from_millis(20);
const MOST_DOUBLINGS: u64 = 5;

/// After this many rounds without waiting, the doubling starts again.
const PUNCTUAL: u64 = 2000;

/// Set in [`Pool::state`] while helpers may join a round.
const OPEN: u64 = 1 << 31;

/// The unit in which [`Pool::state`] counts rounds; the bits below are [`OPEN`] and the number of helpers at work.
const ROUND: u64 = 1 << 32;

/// A closure to be called for numbered tasks, without its type.
#[derive(Clone, Copy)]
struct Job {
    /// Calls the closure at the address with the number of a task.
    call: unsafe fn(*const (), usize),
    closure: *const (),
    count: usize,
}

/// A value on a cache line of its own, because threads write to it all the time.
#[repr(align(128))]
struct OwnCacheLine<T>(T);

/// The helpers, and their current job.
pub(super) struct Pool {
    owner: Mutex<()>,
    job: UnsafeCell<Job>,
    next: OwnCacheLine<AtomicUsize>,
    state: OwnCacheLine<AtomicU64>,
    asleep: OwnCacheLine<AtomicUsize>,
    failed: Mutex<Option<Box<dyn Any + Send>>>,
    helpers: OnceLock<Vec<Thread>>,
    began: Instant,
    /// The time, in nanoseconds after `began`, until which no helpers are used.
    alone_until: AtomicU64,
    /// How often helpers were slow recently, and how many rounds ago.
    doublings: AtomicU64,
    punctual: AtomicU64,
}

// SAFETY: the address in `job` is used only as `each` allows.
#[allow(unsafe_code)]
unsafe impl Send for Pool {}
// SAFETY: `job` is written by the holder of `owner` while no helper is at work, and read by helpers that have counted
// themselves into `state` while a round is open, for which the next writer waits. All other fields can be shared between
// threads.
#[allow(unsafe_code)]
unsafe impl Sync for Pool {}

impl Pool {
    /// The pool of the process, with as many threads as rayon's.
    pub fn global() -> &'static Self {
        static POOL: OnceLock<Pool> = OnceLock::new();
        let pool = POOL.get_or_init(|| Self {
            owner: Mutex::new(()),
            job: UnsafeCell::new(Job {
                call: |_, _| {},
                closure: std::ptr::null(),
                count: 0,
            }),
            next: OwnCacheLine(AtomicUsize::new(0)),
            state: OwnCacheLine(AtomicU64::new(0)),
            asleep: OwnCacheLine(AtomicUsize::new(0)),
            failed: Mutex::new(None),
            helpers: OnceLock::new(),
            began: Instant::now(),
            alone_until: AtomicU64::new(0),
            doublings: AtomicU64::new(0),
            punctual: AtomicU64::new(0),
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

    /// Runs `work` once for every number below `count`, on several threads.
    pub fn each<F: Fn(usize) + Sync>(&self, count: usize, work: &F) {
        let owner = match self.owner.try_lock() {
            Ok(owner) => Some(owner),
            // The previous holder panicked, but [`Round`] has left the pool in order.
            Err(TryLockError::Poisoned(owner)) => Some(owner.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let (Some(owner), false) = (owner, self.is_alone()) else {
            return (0..count).for_each(work);
        };
        let job = Job {
            call: call::<F>,
            closure: std::ptr::from_ref(work).cast(),
            count,
        };
        // SAFETY: `owner` is held, and the previous round was closed and waited for, so no helper reads the job.
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
            patience: PATIENCE,
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
        round.patience = PATIENCE.max(4 * since.elapsed() / own.max(1));
        drop(round);
        let failed = lock(&self.failed).take();
        drop(owner);
        if let Some(panic) = failed {
            resume_unwind(panic);
        }
    }

    /// Whether helpers were slow recently, so that none are used now.
    fn is_alone(&self) -> bool {
        let until = self.alone_until.load(Ordering::Relaxed);
        until > 0 && (self.began.elapsed().as_nanos() as u64) < until
    }

    /// The loop of a helper thread.
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
                // Another helper joined, or the round was closed, so look again.
                last = last.wrapping_sub(ROUND);
                continue;
            }
            // SAFETY: this helper joined while the round was open; the owner waits for it before anybody writes to the job, and
            // before the closure is dropped.
            #[allow(unsafe_code)]
            let job = unsafe { *self.job.get() };
            let done = catch_unwind(AssertUnwindSafe(|| {
                loop {
                    let i = self.next.0.fetch_add(1, Ordering::Relaxed);
                    if i >= job.count {
                        break;
                    }
                    // SAFETY: the closure belongs to the round that this helper has joined, whose caller waits.
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

    /// Waits for an open round other than the last one; returns the state with it.
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
            // Look once more: a caller who came before the count above does not wake this helper.
            let state = self.state.0.load(Ordering::SeqCst);
            if !fresh(state) {
                std::thread::park();
            }
            self.asleep.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// An open round. Dropping it closes it and waits for the helpers that have joined, even if a task panics.
struct Round<'a> {
    pool: &'a Pool,
    patience: Duration,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let pool = self.pool;
        // Tasks that are not begun yet are skipped; there are some only if one panicked.
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
        // Only the owner of the round gets here.
        if crowded {
            let doublings = pool.doublings.load(Ordering::Relaxed);
            let until = pool.began.elapsed() + PAUSE * (1 << doublings);
            pool.alone_until
                .store(until.as_nanos() as u64, Ordering::Relaxed);
            pool.doublings
                .store(MOST_DOUBLINGS.min(doublings + 1), Ordering::Relaxed);
            pool.punctual.store(0, Ordering::Relaxed);
        } else {
            let punctual = pool.punctual.load(Ordering::Relaxed) + 1;
            pool.punctual.store(punctual, Ordering::Relaxed);
            if punctual == PUNCTUAL {
                pool.doublings.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// # Safety
///
/// `closure` is the address of a live closure of this type.
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
