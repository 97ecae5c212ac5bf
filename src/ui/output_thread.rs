//! Outgoing: a thread that writes to the terminal, so that nothing else has to wait for one that stopped reading.
//!
//! Invariant: bytes go out in the order in which they were given, each parcel whole, until the last one is asked for:
//! then whatever still waits is dropped. Nobody waits here without a bound.
//! To write something else, give it to [`Outgoing::send`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tokio::sync::Notify;

/// As much as is written at once; between two of these, the rest of a parcel can be dropped.
const CHUNK: usize = 4096;
/// Ends whatever escape sequence was cut (CAN).
const CUT: u8 = 0x18;

/// The way to a terminal. Clones share it.
#[derive(Clone, Debug)]
pub struct Outgoing(Arc<SharedOutput>);

#[derive(Debug)]
struct SharedOutput {
    queue: Mutex<Queue>,
    /// Something was given, or something is done.
    moved: Condvar,
    /// Everything is written.
    idle: Notify,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OutgoingThread {
    #[default]
    Rests,
    /// A parcel is on its way.
    Writes,
    /// The terminal is being left: what is still queued is dropped.
    Hurries,
}

#[derive(Debug, Default)]
struct Queue {
    /// Each with whether it must be written even when what waits is dropped.
    waiting: VecDeque<(Vec<u8>, bool)>,
    pen: OutgoingThread,
    /// The terminal is gone.
    broken: bool,
    /// No more bytes will be queued.
    closed: bool,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.broken || (self.pen == OutgoingThread::Rests && self.waiting.is_empty())
    }
}

impl SharedOutput {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, to: BorrowedFd<'_>) {
        loop {
            let mut queue = self.lock();
            let parcel = loop {
                if let Some((parcel, _)) = queue.waiting.pop_front() {
                    break parcel;
                }
                if queue.closed {
                    return;
                }
                queue = self
                    .moved
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            queue.pen = OutgoingThread::Writes;
            drop(queue);
            let outcome = self.write_one(to, &parcel);
            let mut queue = self.lock();
            queue.pen = OutgoingThread::Rests;
            queue.broken |= outcome.is_err();
            let over = queue.is_idle();
            drop(queue);
            self.moved.notify_all();
            if over {
                self.idle.notify_one();
            }
            if outcome.is_err() {
                return;
            }
        }
    }

    fn write_one(&self, to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            if self.lock().pen == OutgoingThread::Hurries {
                return Ok(());
            }
            match rustix::io::write(to, &bytes[..bytes.len().min(CHUNK)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                // Somebody made it so that writing does not wait.
                Err(Errno::AGAIN) => {
                    let second = Timespec {
                        tv_sec: 1,
                        tv_nsec: 0,
                    };
                    let mut fds = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
                    let _looked = rustix::event::poll(&mut fds, Some(&second));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Outgoing {
    /// Starts the thread that writes to it.
    pub fn to(terminal: impl AsFd + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(SharedOutput {
            queue: Mutex::default(),
            moved: Condvar::new(),
            idle: Notify::new(),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("lmscope-output".into())
            .spawn(move || of_thread.write_all(terminal.as_fd()))?;
        Ok(Self(shared))
    }

    /// Gives a parcel to be written.
    pub fn send(&self, bytes: Vec<u8>) {
        self.give(bytes, false);
    }

    /// Gives a parcel that [`Self::finish`] lets through: its last bytes undo what this one does.
    pub fn send_first_half(&self, bytes: Vec<u8>) {
        self.give(bytes, true);
    }

    fn give(&self, bytes: Vec<u8>, lasting: bool) {
        if !bytes.is_empty() {
            self.0.lock().waiting.push_back((bytes, lasting));
            self.0.moved.notify_all();
        }
    }

    /// Writes these bytes instead of the frames that still wait, and says whether they were taken in that time.
    pub fn finish(&self, bytes: Vec<u8>, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut queue = self.0.lock();
        queue.waiting.retain(|(_, lasting)| *lasting);
        if queue.pen != OutgoingThread::Rests {
            queue.pen = OutgoingThread::Hurries;
            queue.waiting.push_front((vec![CUT], true));
        }
        queue.waiting.push_back((bytes, true));
        self.0.moved.notify_all();
        while !queue.is_idle() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self
                .0
                .moved
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        !queue.broken
    }

    /// Whether everything was written: the time to draw another frame.
    pub fn is_idle(&self) -> bool {
        self.0.lock().is_idle()
    }

    /// Waits until everything was written.
    pub async fn idle(&self) {
        while !self.is_idle() {
            self.0.idle.notified().await;
        }
    }

    /// Whether the terminal refuses to be written to: it is gone.
    pub fn is_broken(&self) -> bool {
        self.0.lock().broken
    }

    /// Lets the thread end when it has written what waits.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    fn start() -> (Outgoing, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        (Outgoing::to(ours).unwrap(), theirs)
    }

    #[test]
    fn parcels_arrive_in_order_and_the_last_one_is_waited_for() {
        let (out, mut theirs) = start();
        out.send(b"one ".to_vec());
        out.send(Vec::new());
        out.send(b"two".to_vec());
        let mut got = [0; 7];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"one two");
        while !out.is_idle() {
            std::thread::yield_now();
        }
        assert!(out.finish(b"end".to_vec(), Duration::from_secs(10)));
        assert!(out.is_idle() && !out.is_broken());
        out.close();
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"end", "no mark of a cut where nothing was cut");
    }

    #[test]
    fn who_stops_reading_is_not_waited_for() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        while ours.write(&[b'x'; 4096]).is_ok() {}
        ours.set_nonblocking(false).unwrap();
        let out = Outgoing::to(ours).unwrap();
        out.send(b"frame".to_vec());
        let start = Instant::now();
        assert!(!out.finish(b"end".to_vec(), Duration::from_millis(100)));
        assert!(start.elapsed() < Duration::from_secs(5) && !out.is_idle());
        // Read again, it gets what it was to get.
        out.close();
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).unwrap();
        assert!(got.ends_with(b"end"));
    }

    #[test]
    fn what_is_cut_is_ended_before_the_last_word() {
        let (out, mut theirs) = start();
        // More than any socket holds.
        out.send(vec![b'x'; 1 << 24]);
        theirs.read_exact(&mut [0]).unwrap();
        out.finish(b"end".to_vec(), Duration::ZERO);
        out.close();
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).unwrap();
        assert!(got.len() < 1 << 24, "the rest was dropped: {}", got.len());
        assert!(got.ends_with(b"x\x18end"));
    }

    #[test]
    fn what_the_end_undoes_is_written_before_it() {
        let (out, mut theirs) = start();
        // Held up by this one, so that the others still wait.
        out.send(vec![b'x'; 1 << 24]);
        theirs.read_exact(&mut [0]).unwrap();
        out.send_first_half(b"enter".to_vec());
        out.send(b"frame".to_vec());
        // Whether its last bytes are taken in that time depends on how full the socket is by now.
        out.finish(b"leave".to_vec(), Duration::from_millis(50));
        out.close();
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).unwrap();
        assert_eq!(&got[got.len() - 12..], b"x\x18enterleave");
    }

    #[test]
    fn a_terminal_that_is_gone_is_noticed() {
        let (out, theirs) = start();
        drop(theirs);
        out.send(b"x".to_vec());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(out.idle());
        assert!(out.is_broken());
        assert!(!out.finish(b"end".to_vec(), Duration::from_secs(10)));
    }
}
