//! The terminal: entering it, drawing on it, and leaving it as it was.
//!
//! Invariant: whatever happens to the program, [`leave`] has run once when it is over, and every step of it was
//! tried; nothing but this file writes to the terminal. To add a mode that is switched on, add its switching off to
//! [`leave`].

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossterm::clipboard::CopyToClipboard;
use crossterm::cursor::{Hide, Show};
use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::style::Print;
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    SetTitle,
};
use crossterm::{Command, queue};
use ratatui::Frame;
use ratatui::backend::CrosstermBackend;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::{Error, Result};
use crate::model::weights::shrunk;

/// Bytes of text that fit the clipboard sequence of common terminals.
const CLIPBOARD_LIMIT: usize = 74_000;
/// Puts the window title aside, and takes it back (xterm).
const PUSH_TITLE: &str = "\x1b[22;2t";
const POP_TITLE: &str = "\x1b[23;2t";

/// What was written so far: for tests, and for `:stats`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames drawn.
    pub frames: AtomicU64,
    /// Bytes sent.
    pub bytes: AtomicU64,
}

impl Counters {
    /// Frames drawn, and bytes sent.
    pub fn read(&self) -> (u64, u64) {
        (
            self.frames.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }
}

/// Counts what passes.
#[derive(Debug)]
struct Counted<W> {
    inner: W,
    counters: Arc<Counters>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.counters
            .bytes
            .fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Buffers whole frames: ratatui writes a dozen pieces a cell.
type Out<W> = BufWriter<Counted<W>>;

/// The screen while it is ours. Dropping it gives the terminal back.
#[derive(Debug)]
pub struct Terminal {
    inner: ratatui::Terminal<CrosstermBackend<Out<Stdout>>>,
    /// What was drawn and sent so far.
    pub counters: Arc<Counters>,
    /// Whether the screen is ours; shared with the panic hook.
    ours: Arc<AtomicBool>,
    /// Whether frames are wrapped in synchronized updates; off for the few terminals that mishandle them.
    pub synchronized: bool,
}

impl Terminal {
    /// Takes the screen: raw mode, alternate screen, bracketed paste, hidden cursor, window title.
    ///
    /// Call it on the thread that will draw: a panic there gives the terminal back before it is reported, and a
    /// panic anywhere else leaves the screen alone and goes to the log.
    pub fn enter() -> Result<Self> {
        if !io::stdout().is_terminal() {
            return Err(Error::argument(
                "stdout",
                "not a terminal",
                "a terminal; for pipes use a subcommand, for example `lmscope lens`",
            ));
        }
        // Colour is decided by the theme. crossterm 0.29 under NO_COLOR would write a reset in place of every
        // colour, and so lose bold and reversed too; its next release mends this.
        crossterm::style::force_color_output(true);
        let counters = Arc::new(Counters::default());
        let ours = Arc::new(AtomicBool::new(false));
        hook(&ours);
        let out = BufWriter::with_capacity(
            1 << 16,
            Counted {
                inner: io::stdout(),
                counters: Arc::clone(&counters),
            },
        );
        let inner = ratatui::Terminal::new(CrosstermBackend::new(out)).map_err(on_terminal)?;
        let mut terminal = Self {
            inner,
            counters,
            ours,
            synchronized: true,
        };
        terminal.take().map_err(on_terminal)?;
        Ok(terminal)
    }

    fn take(&mut self) -> io::Result<()> {
        // Before the first step, so that a failure halfway is undone as well.
        self.ours.store(true, Ordering::SeqCst);
        if let Ok(before) = rustix::termios::tcgetattr(io::stdin()) {
            let mut undo = Vec::new();
            leave_sequences(&mut undo);
            shrunk::on_screen(before, undo);
        }
        crossterm::terminal::enable_raw_mode()?;
        let out = self.inner.backend_mut();
        enter_sequences(out)?;
        out.flush()
    }

    /// Gives the terminal back; the second call does nothing.
    pub fn leave(&mut self) {
        if self.ours.swap(false, Ordering::SeqCst) {
            leave();
        }
    }

    /// Draws one frame, as one synchronized update. Call it only when something changed.
    pub fn frame(&mut self, draw: impl FnOnce(&mut Frame)) -> Result<()> {
        let synchronized = self.synchronized;
        framed(&mut self.inner, synchronized, draw).map_err(on_terminal)?;
        self.counters.frames.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The size in columns and rows.
    pub fn size(&self) -> Result<(u16, u16)> {
        self.inner
            .size()
            .map(|size| (size.width, size.height))
            .map_err(on_terminal)
    }

    /// Sends text to the terminal's clipboard (OSC 52), which works over SSH and cannot be confirmed.
    pub fn copy(&mut self, text: &str) -> Result<Outcome> {
        let tmux = std::env::var_os("TMUX").is_some_and(|value| !value.is_empty());
        let sequence = clipboard_sequence(text, tmux)?;
        let out = self.inner.backend_mut();
        queue!(out, Print(sequence))
            .and_then(|()| out.flush())
            .map_err(on_terminal)?;
        Ok(Outcome {
            bytes: text.len(),
            tmux,
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How much was sent.
    pub bytes: usize,
    /// Whether tmux stands between.
    pub tmux: bool,
}

impl Outcome {
    /// What can truthfully be said about it.
    pub fn sentence(self) -> String {
        let hint = if self.tmux {
            " Nothing pasted? In tmux: set -g set-clipboard on"
        } else {
            ""
        };
        format!("Sent to the terminal, {} bytes (OSC 52).{hint}", self.bytes)
    }
}

/// The bytes that put text into the terminal's clipboard. In tmux they go both ways: to tmux itself, and wrapped, for
/// the terminal around it; which of the two is let through is the user's setting.
pub fn clipboard_sequence(text: &str, tmux: bool) -> Result<String> {
    if text.len() > CLIPBOARD_LIMIT {
        let size = format!("{} bytes", text.len());
        return Err(Error::argument(
            "text to copy",
            size,
            format!("at most {CLIPBOARD_LIMIT} bytes; `:export FILE` writes any size"),
        ));
    }
    let mut plain = String::new();
    if CopyToClipboard::to_clipboard_from(text)
        .write_ansi(&mut plain)
        .is_err()
    {
        return Err(Error::argument("text to copy", "unwritable", "text"));
    }
    let wrapped = if tmux {
        format!("\x1bPtmux;{}\x1b\\", plain.replace('\x1b', "\x1b\x1b"))
    } else {
        String::new()
    };
    Ok(plain + &wrapped)
}

/// Draws between the marks of a synchronized update, on the same writer, and sends it in one go.
fn framed<W: Write>(
    terminal: &mut ratatui::Terminal<CrosstermBackend<W>>,
    synchronized: bool,
    draw: impl FnOnce(&mut Frame),
) -> io::Result<()> {
    if synchronized {
        queue!(terminal.backend_mut(), BeginSynchronizedUpdate)?;
    }
    let drawn = terminal.draw(draw).map(|_| ());
    if synchronized {
        // Also after a failure: a terminal left waiting shows nothing.
        queue!(terminal.backend_mut(), EndSynchronizedUpdate)?;
    }
    terminal.backend_mut().flush()?;
    drawn
}

fn enter_sequences(out: &mut impl Write) -> io::Result<()> {
    queue!(
        out,
        Print(PUSH_TITLE),
        SetTitle("lmscope"),
        EnterAlternateScreen,
        EnableBracketedPaste,
        Hide
    )
}

/// Undoes [`enter_sequences`], last first; each step is tried whatever became of the others.
fn leave_sequences(out: &mut impl Write) {
    let _ = queue!(out, EndSynchronizedUpdate);
    let _ = queue!(out, Show);
    let _ = queue!(out, DisableBracketedPaste);
    let _ = queue!(out, LeaveAlternateScreen);
    let _ = queue!(out, Print(POP_TITLE));
    let _ = out.flush();
}

/// Gives the terminal back without a handle on it: for panics and signals. Harmless when repeated.
pub fn leave() {
    shrunk::off_screen();
    leave_sequences(&mut io::stdout());
    let _ = crossterm::terminal::disable_raw_mode();
}

/// Lets a panic of this thread give the terminal back first, and keeps those of other threads off the screen.
fn hook(ours: &Arc<AtomicBool>) {
    let ui = std::thread::current().id();
    let ours = Arc::clone(ours);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == ui {
            if ours.swap(false, Ordering::SeqCst) {
                leave();
            }
            before(info);
        } else if ours.load(Ordering::SeqCst) {
            tracing::error!("{info}");
        } else {
            before(info);
        }
    }));
}

fn on_terminal(source: io::Error) -> Error {
    Error::io("the terminal", source)
}

/// Calls `on_gone` once when the terminal has vanished: its window was closed, the connection dropped.
///
/// A thread of its own, because crossterm 0.29 spins on such a terminal and never says so. Without a terminal on
/// standard input or output there is nothing to watch.
pub fn watch_hangup(on_gone: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name("hangup".into())
        .spawn(move || {
            let (stdin, stdout) = (io::stdin(), io::stdout());
            let fd = if stdin.is_terminal() {
                stdin.as_fd()
            } else if stdout.is_terminal() {
                stdout.as_fd()
            } else {
                return;
            };
            while !gone(fd, Duration::from_secs(1)) {}
            on_gone();
        })?;
    Ok(())
}

/// Waits for the other end to vanish, at most `patience`; `true` when it has.
fn gone(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let start = std::time::Instant::now();
    // No events asked for: hang-up and error are reported always, and input is not ours to wait for.
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let timeout = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(0) => false,
        Ok(_) => fds[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL),
        Err(_) => {
            // Interrupted: never become a busy loop.
            std::thread::sleep(patience.saturating_sub(start.elapsed()));
            false
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ratatui::layout::Rect;
    use ratatui::style::{Modifier, Style};
    use ratatui::{TerminalOptions, Viewport};
    use std::cell::RefCell;
    use std::rc::Rc;

    /// A writer whose bytes can be looked at.
    #[derive(Clone, Default)]
    struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Screen = ratatui::Terminal<CrosstermBackend<Out<Shared>>>;

    fn screen() -> (Screen, Shared, Arc<Counters>) {
        crossterm::style::force_color_output(true);
        let (counters, shared) = (Arc::new(Counters::default()), Shared::default());
        let counted = Counted {
            inner: shared.clone(),
            counters: Arc::clone(&counters),
        };
        let backend = CrosstermBackend::new(BufWriter::with_capacity(1 << 16, counted));
        let options = TerminalOptions {
            viewport: Viewport::Fixed(Rect::new(0, 0, 20, 4)),
        };
        (
            ratatui::Terminal::with_options(backend, options).unwrap(),
            shared,
            counters,
        )
    }

    fn draw(screen: &mut Screen, synchronized: bool, word: &str, style: Style) {
        framed(screen, synchronized, |frame| {
            frame.buffer_mut().set_string(0, 0, word, style);
        })
        .unwrap();
    }

    #[test]
    fn an_unchanged_frame_costs_next_to_nothing() {
        let (mut screen, _, counters) = screen();
        let mut bytes = |word| {
            draw(&mut screen, true, word, Style::new());
            counters.read().1
        };
        let (first, second, third) = (bytes("hello"), bytes("hello"), bytes("hallo"));
        assert!(first > 5 && second - first <= 64, "{first} {second}");
        assert!(third > second && third - second <= 100, "{second} {third}");
    }

    #[test]
    fn a_frame_is_one_synchronized_update() {
        for synchronized in [true, false] {
            let (mut screen, shared, _) = screen();
            draw(&mut screen, synchronized, "x", Style::new());
            let text = String::from_utf8(shared.0.borrow().clone()).unwrap();
            assert_eq!(
                text.matches("\x1b[?2026h").count(),
                usize::from(synchronized)
            );
            assert_eq!(
                text.starts_with("\x1b[?2026h") && text.ends_with("\x1b[?2026l"),
                synchronized
            );
        }
    }

    #[test]
    fn leaving_undoes_entering() {
        let (mut entered, mut left) = (Vec::new(), Vec::new());
        enter_sequences(&mut entered).unwrap();
        leave_sequences(&mut left);
        let (entered, left) = (
            String::from_utf8(entered).unwrap(),
            String::from_utf8(left).unwrap(),
        );
        for mode in ["?1049", "?2004"] {
            assert!(entered.contains(&format!("\x1b[{mode}h")), "{mode} on");
            assert!(left.contains(&format!("\x1b[{mode}l")), "{mode} off");
        }
        assert!(left.contains("\x1b[?2026l"), "no frame is left open");
        assert!(
            entered.contains("\x1b[?25l") && left.contains("\x1b[?25h"),
            "the cursor"
        );
        assert!(
            entered.contains(PUSH_TITLE) && left.ends_with(POP_TITLE),
            "the title"
        );
    }

    #[test]
    fn a_broken_writer_does_not_stop_the_way_out() {
        struct Broken(usize);
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut broken = Broken(0);
        leave_sequences(&mut broken);
        assert!(broken.0 >= 5, "every step was tried: {}", broken.0);
    }

    #[test]
    fn no_color_keeps_reversed_and_bold() {
        // crossterm 0.29.0 loses them unless colour output is forced; see Terminal::enter. When its next release is
        // in Cargo.lock, `force_color_output` may go.
        let (mut screen, shared, _) = screen();
        draw(
            &mut screen,
            true,
            "x",
            Style::reset().add_modifier(Modifier::REVERSED | Modifier::BOLD),
        );
        let size = |n| std::num::NonZeroU16::new(n).unwrap();
        let mut parser = vt100::Parser::new(size(4), size(20), 0);
        parser.process(&shared.0.borrow());
        let cell = parser.screen().cell(0, 0).unwrap();
        assert_eq!(cell.contents(), "x");
        assert!(cell.inverse() && cell.bold());
    }

    #[test]
    fn the_clipboard_is_sent_to_and_in_tmux_wrapped_too() {
        assert_eq!(
            clipboard_sequence("hi", false).unwrap(),
            "\x1b]52;c;aGk=\x1b\\"
        );
        let tmux = clipboard_sequence("hi", true).unwrap();
        assert!(tmux.starts_with("\x1b]52;c;aGk="));
        assert!(
            tmux.ends_with("\x1bPtmux;\x1b\x1b]52;c;aGk=\x1b\x1b\\\x1b\\"),
            "{tmux:?}"
        );
        let error = clipboard_sequence(&"x".repeat(80_000), false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("80000 bytes") && error.contains(":export"),
            "{error}"
        );
        let said = Outcome {
            bytes: 2,
            tmux: true,
        }
        .sentence();
        assert!(
            said.starts_with("Sent to the terminal")
                && said.contains("set-clipboard")
                && !said.contains("opied")
        );
    }

    #[test]
    fn a_closed_other_end_is_noticed_and_an_open_one_is_not() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!gone(ours.as_fd(), Duration::from_millis(10)));
        drop(theirs);
        assert!(gone(ours.as_fd(), Duration::from_secs(5)));
    }
}
