//! Input: a thread that reads the keyboard and notices when the terminal has vanished.
//!
//! Invariant: it waits only for the terminal, so that no key is lost, an incomplete sequence is given up in time, and the end
//! of the terminal ends the program. To decode another key, see [`super::decode`].

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::decode::Decoder;
use crate::app::Event;

/// How many batches of events may wait for the app before reading pauses.
const WAITING: usize = 64;
/// How often a paused reader checks whether its terminal still exists.
const LOOK: Duration = Duration::from_millis(50);

/// The source of keys.
enum Keyboard {
    Stdin(io::Stdin),
    /// `/dev/tty`, if standard input is not the terminal.
    Tty(File),
    /// No keyboard: only the end of the terminal can be noticed.
    None(io::Stdout),
}

impl Keyboard {
    fn open() -> Self {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Self::Stdin(stdin);
        }
        File::open("/dev/tty").map_or_else(|_| Self::None(io::stdout()), Self::Tty)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdin(stdin) => stdin.as_fd(),
            Self::Tty(file) => file.as_fd(),
            Self::None(stdout) => stdout.as_fd(),
        }
    }

    fn flags(&self) -> PollFlags {
        match self {
            Self::Stdin(_) | Self::Tty(_) => PollFlags::IN,
            // Hang-up and error are always reported.
            Self::None(_) => PollFlags::empty(),
        }
    }
}

/// Starts reading. `gone` is called once, on the reading thread, when the terminal has vanished. While `ours` is false, input
/// is left to the shell.
pub fn listen(
    ours: impl Fn() -> bool + Send + 'static,
    gone: impl FnOnce() + Send + 'static,
) -> io::Result<Receiver<Vec<Event>>> {
    let (sender, events) = channel(WAITING);
    std::thread::Builder::new()
        .name("lmscope-input".into())
        .spawn(move || {
            let source = Keyboard::open();
            if read(source.fd(), source.flags(), &ours, &sender) == Ended::Gone {
                gone();
            }
        })?;
    Ok(events)
}

/// Why reading ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The terminal vanished.
    Gone,
    /// The receiver was dropped.
    Unheard,
}

fn read(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    ours: &dyn Fn() -> bool,
    events: &Sender<Vec<Event>>,
) -> Ended {
    let mut decoder = Decoder::default();
    let mut bytes = vec![0u8; 1 << 16];
    loop {
        let mut told = Vec::new();
        if !ours() {
            if wait(fd, PollFlags::empty(), Some(LOOK)) == InputWait::Gone {
                return Ended::Gone;
            }
            continue;
        }
        match wait(fd, flags, decoder.patience()) {
            InputWait::Nothing => decoder.expire(&mut told),
            InputWait::Gone => return Ended::Gone,
            // The terminal was handed to the shell during the wait.
            InputWait::Bytes if !ours() => {}
            InputWait::Bytes => match rustix::io::read(fd, &mut bytes) {
                Ok(0) => return Ended::Gone,
                Ok(count) => decoder.feed(&bytes[..count], &mut told),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return Ended::Gone,
            },
        }
        let mut told = (!told.is_empty()).then_some(told);
        while let Some(batch) = told.take() {
            match events.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Closed(_)) => return Ended::Unheard,
                Err(TrySendError::Full(batch)) => {
                    told = Some(batch);
                    if wait(fd, PollFlags::empty(), Some(LOOK)) == InputWait::Gone {
                        return Ended::Gone;
                    }
                }
            }
        }
    }
}

/// The result of waiting for the terminal.
#[derive(Debug, PartialEq, Eq)]
enum InputWait {
    Bytes,
    /// Nothing came in the given time.
    Nothing,
    /// The terminal is gone.
    Gone,
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags, patience: Option<Duration>) -> InputWait {
    let timeout = patience.map(|patience| Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: i64::from(patience.subsec_nanos()),
    });
    loop {
        let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return InputWait::Nothing,
            Ok(_) => {
                let found = fds[0].revents();
                let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
                // Input from before the terminal vanished is of no use any more.
                return if found.intersects(gone) {
                    InputWait::Gone
                } else {
                    InputWait::Bytes
                };
            }
            Err(Errno::INTR) => {}
            // Avoids a busy loop.
            Err(_) => {
                std::thread::sleep(LOOK);
                return InputWait::Nothing;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::app::key::{Code, Key};
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    fn start() -> (
        UnixStream,
        Receiver<Vec<Event>>,
        std::thread::JoinHandle<Ended>,
    ) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, events) = channel(2);
        let reader =
            std::thread::spawn(move || read(theirs.as_fd(), PollFlags::IN, &|| true, &sender));
        (ours, events, reader)
    }

    #[test]
    fn a_lone_escape_is_told_by_the_time_that_passes() {
        let (mut ours, mut events, reader) = start();
        ours.write_all(b"\x1b").unwrap();
        let told = events.blocking_recv().unwrap();
        assert!(matches!(told[..], [Event::Key(key)] if key == Key::plain(Code::Esc)));
        ours.write_all(b"\x1b[").unwrap();
        std::thread::sleep(Duration::from_millis(10));
        ours.write_all(b"A").unwrap();
        let told = events.blocking_recv().unwrap();
        assert!(matches!(told[..], [Event::Key(key)] if key == Key::plain(Code::Up)));
        drop(ours);
        assert_eq!(reader.join().unwrap(), Ended::Gone);
    }

    #[test]
    fn what_is_typed_for_the_shell_is_left_to_it() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut shell = theirs.try_clone().unwrap();
        let is_ours = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (sender, mut events) = channel(2);
        let asked = is_ours.clone();
        let reader = std::thread::spawn(move || {
            let asked = || asked.load(std::sync::atomic::Ordering::SeqCst);
            read(theirs.as_fd(), PollFlags::IN, &asked, &sender)
        });
        ours.write_all(b"q").unwrap();
        assert_eq!(events.blocking_recv().unwrap().len(), 1);
        is_ours.store(false, std::sync::atomic::Ordering::SeqCst);
        ours.write_all(b"ls").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let mut got = [0; 2];
        shell.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ls");
        is_ours.store(true, std::sync::atomic::Ordering::SeqCst);
        ours.write_all(b"j").unwrap();
        assert_eq!(events.blocking_recv().unwrap().len(), 1);
        drop((ours, shell));
        assert_eq!(reader.join().unwrap(), Ended::Gone);
    }

    #[test]
    fn a_closed_other_end_is_noticed_though_nobody_takes_the_keys() {
        let (mut ours, events, reader) = start();
        for _ in 0..4 {
            ours.write_all(b"j").unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(ours);
        assert_eq!(reader.join().unwrap(), Ended::Gone);
        drop(events);
        let (mut ours, events, reader) = start();
        drop(events);
        ours.write_all(b"j").unwrap();
        assert_eq!(reader.join().unwrap(), Ended::Unheard);
    }
}
