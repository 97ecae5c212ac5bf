//! Output: a thread that writes to the terminal, so that nothing else has to wait for a terminal that does not read.
//!
//! Invariant: parcels of bytes are written as a whole, in the order in which they were sent, until the final one is sent: then
//! waiting parcels are dropped. Every wait here has a time limit. To write something else, send it with [`Outgoing::send`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tokio::sync::Notify;

/// How many bytes are written at once; between two such writes, the rest of a parcel can be dropped.
const CHUNK: usize = 4096;
/// Ends an incomplete escape sequence (CAN).
const CUT: u8 = 0x18;

/// A handle on the output thread of a terminal. Clones share the thread.
#[derive(Clone, Debug)]
pub struct Outgoing(Arc<SharedOutput>);

#[derive(Debug)]
struct SharedOutput {
    queue: Mutex<Queue>,
    /// Signals a new parcel or a finished write.
    moved: Condvar,
    /// Signals that everything is written.
    idle: Notify,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OutgoingThread {
    #[default]
    Idle,
    /// A parcel is being written.
    Writing,
    /// The program leaves the terminal: the rest of the parcel is dropped.
    Leaving,
}

#[derive(Debug, Default)]
struct Queue {
    /// The waiting parcels, each with whether it must be written even when the others are dropped.
    waiting: VecDeque<(Vec<u8>, bool)>,
    thread: OutgoingThread,
    /// Whether the terminal has vanished.
    broken: bool,
    /// Whether no more parcels will be sent.
    closed: bool,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.broken || (self.thread == OutgoingThread::Idle && self.waiting.is_empty())
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
            queue.thread = OutgoingThread::Writing;
            drop(queue);
            let outcome = self.write_one(to, &parcel);
            let mut queue = self.lock();
            queue.thread = OutgoingThread::Idle;
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
            if self.lock().thread == OutgoingThread::Leaving {
                return Ok(());
            }
            match rustix::io::write(to, &bytes[..bytes.len().min(CHUNK)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                // Another process has made the terminal non-blocking.
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
    /// Starts a thread that writes to a terminal.
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

    /// Sends a parcel.
    pub fn send(&self, bytes: Vec<u8>) {
        self.give(bytes, false);
    }

    /// Sends a parcel that [`Self::finish`] does not drop, because the final bytes undo it.
    pub fn send_first_half(&self, bytes: Vec<u8>) {
        self.give(bytes, true);
    }

    fn give(&self, bytes: Vec<u8>, lasting: bool) {
        if !bytes.is_empty() {
            self.0.lock().waiting.push_back((bytes, lasting));
            self.0.moved.notify_all();
        }
    }

    /// Writing the final bytes instead of the parcels that still wait. True if the terminal took them within `patience`.
    pub fn finish(&self, bytes: Vec<u8>, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut queue = self.0.lock();
        queue.waiting.retain(|(_, lasting)| *lasting);
        if queue.thread != OutgoingThread::Idle {
            queue.thread = OutgoingThread::Leaving;
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

    /// Whether everything is written, so that another frame can be drawn.
    pub fn is_idle(&self) -> bool {
        self.0.lock().is_idle()
    }

    /// Waits until everything is written.
    pub async fn idle(&self) {
        while !self.is_idle() {
            self.0.idle.notified().await;
        }
    }

    /// Whether writing to the terminal fails: it has vanished.
    pub fn is_broken(&self) -> bool {
        self.0.lock().broken
    }

    /// Ends the thread after the waiting parcels are written.
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
        // When it is read again, the terminal gets what was sent to it.
        out.close();
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).unwrap();
        assert!(got.ends_with(b"end"));
    }

    #[test]
    fn what_is_cut_is_ended_before_the_last_word() {
        let (out, mut theirs) = start();
        // More than any socket buffers.
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
        // Blocks the thread, so that the following parcels wait.
        out.send(vec![b'x'; 1 << 24]);
        theirs.read_exact(&mut [0]).unwrap();
        out.send_first_half(b"enter".to_vec());
        out.send(b"frame".to_vec());
        // Whether the final bytes are taken in that time depends on how full the socket is.
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
