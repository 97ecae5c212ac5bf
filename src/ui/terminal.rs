//! The terminal: entering it, drawing on it, and restoring it.
//!
//! Invariant: when the program ends, for whatever reason, [`TerminalRestorer::leave`] has run, and every step of it was tried;
//! only this file writes to the terminal, and every wait for the terminal here has a time limit. To add a mode that is switched
//! on, add the code that switches it off to `leave_sequences`.

use std::io::{self, IsTerminal as _, Write};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossterm::clipboard::CopyToClipboard;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, SetTitle,
};
use crossterm::{Command, queue};
use ratatui::backend::{Backend as _, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::cast::Cast;
use super::output_thread::Outgoing;
use crate::error::{Error, Result};
use crate::model::truncated_file;

/// The most bytes of text that fit the clipboard sequence of common terminals.
const CLIPBOARD_LIMIT: usize = 74_000;
/// Saves the window title, to be restored later (xterm).
const PUSH_TITLE: &str = "\x1b[22;2t";
const POP_TITLE: &str = "\x1b[23;2t";
/// Reports of the mouse: buttons, motion with a button held, and places beyond column 223.
const MOUSE_ON: &str = "\x1b[?1000h\x1b[?1002h\x1b[?1006h";
const MOUSE_OFF: &str = "\x1b[?1006l\x1b[?1002l\x1b[?1000l";
/// Asks for the colour of the background (xterm, and most others).
const ASK_BACKGROUND: &[u8] = b"\x1b]11;?\x1b\\";
/// The most cells that are drawn; a larger window is drawn in part.
const MOST_CELLS: u32 = 1 << 20;
/// How long the terminal may take to read the last bytes after a panic.
const AFTER_PANIC: Duration = Duration::from_millis(300);

/// The terminal while the screen has it. Dropping it restores the terminal.
#[derive(Debug)]
pub struct Terminal {
    way_out: TerminalRestorer,
    painted: PaintedScreen,
    /// The recording that is being made.
    cast: Option<Cast>,
    /// Why the recording ended, if not by the user.
    failed: Option<Error>,
    /// Whether the terminal reports the mouse.
    mouse: bool,
}

/// Restores the terminal; clones are for panics and signals.
#[derive(Clone, Debug)]
pub struct TerminalRestorer {
    out: Outgoing,
    /// Whether the screen has the terminal.
    ours: Arc<AtomicBool>,
    /// Whether the terminal took the last bytes.
    heard: Arc<AtomicBool>,
    /// The panic message of the screen's thread.
    failure: Arc<Mutex<Option<String>>>,
}

impl TerminalRestorer {
    /// Restores the terminal, unless that was done already. True if the terminal took the bytes within `patience`; if not,
    /// nobody must write to it any more, because the write would wait forever.
    pub fn leave(&self, patience: Duration) -> bool {
        if self.ours.swap(false, Ordering::SeqCst) {
            truncated_file::off_screen();
            let mut bytes = Vec::new();
            leave_sequences(&mut bytes);
            let heard = self.out.finish(bytes, patience);
            self.heard.store(heard, Ordering::SeqCst);
            let _gone = crossterm::terminal::disable_raw_mode();
        }
        self.heard.load(Ordering::SeqCst)
    }

    /// Whether the screen has the terminal now.
    pub fn is_ours(&self) -> bool {
        self.ours.load(Ordering::SeqCst)
    }

    /// The panic message of the screen's thread; returned once.
    pub fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Installs a panic hook: it keeps the message of this thread for [`Self::failure`], and sends those of other threads to
    /// the log.
    fn hook(&self) {
        let ui = std::thread::current().id();
        let way_out = self.clone();
        let failed = AtomicBool::new(false);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !way_out.ours.load(Ordering::SeqCst) {
                before(info);
            } else if std::thread::current().id() != ui {
                tracing::error!("{info}");
            } else if failed.swap(true, Ordering::SeqCst) {
                // A panic during a panic ends the process at once.
                if way_out.leave(AFTER_PANIC) {
                    before(info);
                }
            } else {
                tracing::error!("the screen failed: {info}");
                *way_out
                    .failure
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(panic_in_one_line(info));
            }
        }));
    }
}

/// A panic in one line, with its location if the user asked for a backtrace.
fn panic_in_one_line(info: &PanicHookInfo) -> String {
    let trace = std::backtrace::Backtrace::capture();
    let words = info.payload_as_str().unwrap_or("no reason was given");
    let place = info
        .location()
        .map_or_else(String::new, |l| format!(", {l}"));
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        format!("{words}{place}\n{trace}\n")
    } else {
        format!("{words}{place}")
    }
}

impl Terminal {
    /// Takes the terminal: raw mode, alternate screen, bracketed paste, hidden cursor, window title.
    ///
    /// Must be called on the thread that will draw: a panic there is kept for [`TerminalRestorer::failure`], and a panic on any
    /// other thread leaves the screen alone and goes to the log.
    pub fn enter() -> Result<Self> {
        if !io::stdout().is_terminal() {
            return Err(Error::argument(
                "stdout",
                "not a terminal",
                "a terminal; for pipes use a subcommand, for example `lmscope lens`",
            ));
        }
        // The theme decides about colour. Under NO_COLOR, crossterm 0.29 would write a reset in place of every colour, and so
        // lose bold and reversed; its next release fixes this.
        crossterm::style::force_color_output(true);
        let way_out = TerminalRestorer {
            out: Outgoing::to(io::stdout()).map_err(on_terminal)?,
            ours: Arc::default(),
            heard: Arc::new(AtomicBool::new(true)),
            failure: Arc::default(),
        };
        way_out.hook();
        let mut terminal = Self {
            way_out,
            painted: PaintedScreen::new(),
            cast: None,
            failed: None,
            mouse: false,
        };
        terminal.take()?;
        Ok(terminal)
    }

    /// Takes the terminal again, whatever its state: after the shell had it, and to repaint.
    pub fn take(&mut self) -> Result<()> {
        // Set before the first step, so that a failure halfway is undone as well.
        let again = self.way_out.ours.swap(true, Ordering::SeqCst);
        if again {
            // The shell may have changed the mode; the library would believe it to be raw and do nothing.
            crossterm::terminal::disable_raw_mode().map_err(on_terminal)?;
        }
        if let Ok(before) = rustix::termios::tcgetattr(io::stdin()) {
            let mut undo = Vec::new();
            leave_sequences(&mut undo);
            truncated_file::on_screen(before, undo);
        }
        crossterm::terminal::enable_raw_mode().map_err(on_terminal)?;
        let mut bytes = Vec::new();
        enter_sequences(&mut bytes, again).map_err(on_terminal)?;
        self.way_out.out.send_first_half(bytes);
        // Leaving has ended it, and the shell may have.
        self.mouse = false;
        self.repaint();
        Ok(())
    }

    /// Restores the terminal; a second call does nothing. True if the terminal took the bytes within `patience`.
    pub fn leave(&self, patience: Duration) -> bool {
        self.way_out.leave(patience)
    }

    /// A handle that restores the terminal from another thread, if the screen's own thread does not.
    pub fn way_out(&self) -> TerminalRestorer {
        self.way_out.clone()
    }

    /// The terminal no longer shows what was drawn: the next frame paints everything.
    pub fn repaint(&mut self) {
        self.painted.stale = true;
    }

    /// Draws one frame, as one synchronized update, on a buffer with the terminal's current size. To be called only if
    /// something has changed and [`Self::is_ready`].
    pub fn frame(&mut self, draw: impl FnOnce(&mut Buffer)) -> Result<()> {
        let area = self.area();
        let bytes = self.painted.frame(area, draw).map_err(on_terminal)?;
        if let Some(cast) = &mut self.cast
            && let Err(failure) = cast.frame(&bytes, (area.width, area.height))
        {
            (self.cast, self.failed) = (None, Some(failure));
        }
        self.way_out.out.send(bytes);
        Ok(())
    }

    /// Begins to record every frame in a new file, or ends the recording; a sentence on it.
    ///
    /// # Errors
    ///
    /// When there is a recording already, or none; when the file cannot be made.
    pub fn record(&mut self, path: Option<&Path>) -> Result<String> {
        match (path, self.cast.take()) {
            (Some(path), None) => {
                self.cast = Some(Cast::begin(path, self.size())?);
                // The recording begins with all that is on the screen.
                self.repaint();
                Ok(format!(
                    "the screen is recorded in {}; :record ends it",
                    path.display()
                ))
            }
            (Some(path), Some(cast)) => {
                self.cast = Some(cast);
                let expected = "nothing: the screen is being recorded already; :record ends that";
                Err(Error::argument("FILE", path.display(), expected))
            }
            (None, Some(cast)) => Ok(cast.sentence()),
            (None, None) => {
                let expected = "a file, for example :record tour.cast; nothing is being recorded";
                Err(Error::argument("FILE", "", expected))
            }
        }
    }

    /// Why the recording has ended by itself; said once.
    pub fn failed_recording(&mut self) -> Option<Error> {
        self.failed.take()
    }

    /// Whether the last frame was written. A slow connection gets fewer frames, and no frame waits behind another.
    pub fn is_ready(&self) -> bool {
        self.way_out.out.is_idle()
    }

    /// Waits until the last frame is written.
    pub async fn ready(&self) {
        self.way_out.out.idle().await;
    }

    /// Whether the terminal can no longer be written to.
    pub fn is_gone(&self) -> bool {
        self.way_out.out.is_broken()
    }

    /// Whether the terminal has vanished, by any evidence.
    pub fn has_vanished(&self) -> bool {
        // No events requested: hang-up and error are always reported.
        let out = io::stdout();
        let mut fds = [PollFd::new(&out, PollFlags::empty())];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        self.is_gone() || rustix::event::poll(&mut fds, Some(&at_once)).is_ok_and(|n| n > 0)
    }

    /// The size in columns and rows; the previous one if the terminal does not report it.
    fn area(&self) -> Rect {
        let Ok(size) = rustix::termios::tcgetwinsize(io::stdout()) else {
            return self.painted.buffer.area;
        };
        bounded(size.ws_col, size.ws_row)
    }

    /// The size in columns and rows.
    pub fn size(&self) -> (u16, u16) {
        let area = self.area();
        (area.width, area.height)
    }

    /// Begins or ends to listen to the mouse; where nothing changes, nothing is sent.
    pub fn listen_to_mouse(&mut self, on: bool) {
        if self.mouse != on {
            self.mouse = on;
            let words = if on { MOUSE_ON } else { MOUSE_OFF };
            self.way_out.out.send(words.as_bytes().to_vec());
        }
    }

    /// Asks the terminal for the colour of its background (OSC 11); the answer comes as input, if one comes.
    pub fn ask_background(&self) {
        let known = std::env::var("TERM").unwrap_or_default();
        // The Linux console would show the question.
        if !matches!(known.as_str(), "" | "dumb" | "linux") {
            self.way_out.out.send(ASK_BACKGROUND.to_vec());
        }
    }

    /// Sends text to the terminal's clipboard (OSC 52). This works over SSH, and cannot be confirmed.
    pub fn copy(&mut self, text: &str) -> Result<CopyOutcome> {
        let tmux = std::env::var_os("TMUX").is_some_and(|value| !value.is_empty());
        let sequence = clipboard_sequence(text, tmux)?;
        self.way_out.out.send(sequence.into_bytes());
        Ok(CopyOutcome {
            bytes: text.len(),
            tmux,
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave(AFTER_PANIC);
        self.way_out.out.close();
    }
}

/// A rectangle of at most [`MOST_CELLS`] cells.
fn bounded(width: u16, height: u16) -> Rect {
    let most = MOST_CELLS / u32::from(width.max(1));
    let most = u16::try_from(most).unwrap_or(u16::MAX);
    Rect::new(0, 0, width, height.min(most))
}

/// The screen as the terminal shows it, and the changes to the next one.
#[derive(Debug)]
struct PaintedScreen {
    buffer: Buffer,
    /// Whether the terminal may show something else.
    stale: bool,
    /// The buffer of the frame before, kept to reuse its memory.
    spare: Buffer,
}

impl PaintedScreen {
    fn new() -> Self {
        Self {
            buffer: Buffer::default(),
            stale: true,
            spare: Buffer::default(),
        }
    }

    /// The bytes of one frame, between the marks of a synchronized update; empty if nothing has changed.
    fn frame(&mut self, area: Rect, draw: impl FnOnce(&mut Buffer)) -> io::Result<Vec<u8>> {
        let mut next = std::mem::take(&mut self.spare);
        next.resize(area);
        next.reset();
        draw(&mut next);
        let whole = self.stale || self.buffer.area != area;
        if whole {
            self.buffer = Buffer::empty(area);
        }
        let changes = self.buffer.diff(&next);
        let mut bytes = Vec::new();
        if whole || !changes.is_empty() {
            queue!(bytes, BeginSynchronizedUpdate)?;
            if whole {
                queue!(bytes, SetAttribute(Attribute::Reset), Clear(ClearType::All))?;
            }
            CrosstermBackend::new(&mut bytes).draw(changes.into_iter())?;
            queue!(bytes, EndSynchronizedUpdate)?;
        }
        self.stale = false;
        self.spare = std::mem::replace(&mut self.buffer, next);
        Ok(bytes)
    }
}

/// The outcome of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOutcome {
    /// How many bytes were sent.
    pub bytes: usize,
    /// Whether tmux is in between.
    pub tmux: bool,
}

impl CopyOutcome {
    /// A sentence about what is known of the outcome.
    pub fn sentence(self) -> String {
        let hint = if self.tmux {
            " Nothing pasted? In tmux: set -g set-clipboard on"
        } else {
            ""
        };
        format!("Sent to the terminal, {} bytes (OSC 52).{hint}", self.bytes)
    }
}

/// The bytes that put text into the terminal's clipboard. In tmux they are sent twice: to tmux itself, and wrapped for the
/// terminal around it; the user's settings decide which of the two is passed on.
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

/// `again` means that the screen was not left, so the saved title is still there.
fn enter_sequences(out: &mut impl Write, again: bool) -> io::Result<()> {
    if !again {
        queue!(out, Print(PUSH_TITLE))?;
    }
    queue!(
        out,
        SetTitle("lmscope"),
        EnterAlternateScreen,
        EnableBracketedPaste,
        Hide
    )
}

/// Undoes [`enter_sequences`] in reverse order; each step is tried whether or not the others succeeded.
fn leave_sequences(out: &mut impl Write) {
    let _ = queue!(out, EndSynchronizedUpdate);
    let _ = queue!(out, SetAttribute(Attribute::Reset));
    let _ = queue!(out, Show);
    let _ = queue!(out, DisableBracketedPaste);
    let _ = queue!(out, Print(MOUSE_OFF));
    // A multiplexer that was enlarged meanwhile would leave rows of this screen on the main screen, unless they are empty.
    let _ = queue!(out, Clear(ClearType::All), MoveTo(0, 0));
    let _ = queue!(out, LeaveAlternateScreen);
    let _ = queue!(out, Print(POP_TITLE));
    let _ = out.flush();
}

fn on_terminal(source: io::Error) -> Error {
    Error::io("the terminal", source)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ratatui::style::{Modifier, Style};

    const AREA: Rect = Rect::new(0, 0, 20, 4);

    fn draw(shown: &mut PaintedScreen, word: &str, style: Style) -> Vec<u8> {
        shown
            .frame(AREA, |buf| {
                super::super::paint::write(buf, 0, 0, word, 20, style);
            })
            .unwrap()
    }

    /// The contents of a terminal of this size after these bytes.
    fn seen(parser: &mut vt100::Parser, bytes: &[u8]) -> String {
        parser.process(bytes);
        parser.screen().contents()
    }

    fn emulator() -> vt100::Parser {
        let size = |n| std::num::NonZeroU16::new(n).unwrap();
        vt100::Parser::new(size(4), size(20), 0)
    }

    #[test]
    fn an_unchanged_frame_costs_nothing() {
        let mut shown = PaintedScreen::new();
        let mut bytes = |word| draw(&mut shown, word, Style::new()).len();
        let (first, second, third) = (bytes("hello"), bytes("hello"), bytes("hallo"));
        assert!(first > 5 && second == 0, "{first} {second}");
        assert!(third > 0 && third <= 100, "{third}");
    }

    #[test]
    fn a_frame_is_one_synchronized_update() {
        let text = String::from_utf8(draw(&mut PaintedScreen::new(), "x", Style::new())).unwrap();
        assert_eq!(text.matches("\x1b[?2026h").count(), 1);
        assert!(text.starts_with("\x1b[?2026h") && text.ends_with("\x1b[?2026l"));
    }

    #[test]
    fn another_size_and_a_lost_screen_paint_everything() {
        let (mut shown, mut parser) = (PaintedScreen::new(), emulator());
        let first = draw(&mut shown, "hello", Style::new());
        assert_eq!(seen(&mut parser, &first), "hello");
        // Another program wrote to the terminal.
        seen(&mut parser, b"\x1b[31;1mnoise\x1b[3;3Hmore");
        shown.stale = true;
        let again = draw(&mut shown, "hello", Style::new());
        assert_eq!(seen(&mut parser, &again), "hello");
        for (width, height) in [(0, 0), (3, 1), (1, 3), (20, 4)] {
            let area = Rect::new(0, 0, width, height);
            let bytes = shown.frame(area, |buf| {
                assert_eq!(buf.area, area, "the terminal's own size");
                super::super::paint::write(buf, 0, 0, "hello", 20, Style::new());
            });
            let text = seen(&mut parser, &bytes.unwrap());
            let cells = if height == 0 { 0 } else { width };
            assert_eq!(text, "hello"[..usize::from(cells.min(5))]);
        }
    }

    #[test]
    fn no_window_is_larger_than_memory() {
        assert_eq!(bounded(0, 0), Rect::new(0, 0, 0, 0));
        assert_eq!(bounded(500, 200), Rect::new(0, 0, 500, 200));
        assert_eq!(bounded(u16::MAX, 2), Rect::new(0, 0, u16::MAX, 2));
        assert!(bounded(u16::MAX, u16::MAX).area() <= MOST_CELLS);
        assert!(bounded(2, u16::MAX).area() <= MOST_CELLS);
    }

    #[test]
    fn leaving_undoes_entering() {
        let (mut entered, mut left) = (Vec::new(), Vec::new());
        enter_sequences(&mut entered, false).unwrap();
        leave_sequences(&mut left);
        let (entered, left) = (
            String::from_utf8(entered).unwrap(),
            String::from_utf8(left).unwrap(),
        );
        for mode in ["?1000", "?1002", "?1006"] {
            assert!(MOUSE_ON.contains(&format!("\x1b[{mode}h")), "{mode} on");
            assert!(left.contains(&format!("\x1b[{mode}l")), "{mode} off");
        }
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
        struct BrokenTerminal(usize);
        impl Write for BrokenTerminal {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut broken = BrokenTerminal(0);
        leave_sequences(&mut broken);
        assert!(broken.0 >= 5, "every step was tried: {}", broken.0);
    }

    #[test]
    fn no_color_keeps_reversed_and_bold() {
        // crossterm 0.29.0 loses them unless colour output is forced; see Terminal::enter. When its next release is
        // in Cargo.lock, `force_color_output` may go.
        crossterm::style::force_color_output(true);
        let style = Style::reset().add_modifier(Modifier::REVERSED | Modifier::BOLD);
        let mut parser = emulator();
        parser.process(&draw(&mut PaintedScreen::new(), "x", style));
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
        let said = CopyOutcome {
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
}
