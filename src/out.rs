//! Standard output and standard error: everything that reaches them is written here.
//!
//! Invariant: only [`bytes`] writes its input unchanged; everything else goes through [`crate::text`] first, so that no file,
//! hub, name or argument can move a cursor, set a clipboard or forge a line. Nothing here panics when the other side is closed;
//! a closed pipe is returned as an error, which `cli::exit_code` counts as success. To write something else, add a function
//! that ends in one of these.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::text as spelling;

/// Writes bytes to standard output unchanged, and flushes them: for readers that need them byte for byte.
pub fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|e| Error::io("(standard output)", e))
}

/// Writes text of several lines to standard output, made safe.
pub fn text(text: &str) -> Result<()> {
    bytes(spelling::plain(text.as_bytes()).as_bytes())
}

/// Writes one line to standard output, made safe.
pub fn line(line: &str) -> Result<()> {
    bytes(format!("{}\n", spelling::line(line)).as_bytes())
}

/// Writes a value as one line of JSON whose dangerous characters are escaped.
pub fn json_line(value: &Value) -> Result<()> {
    bytes(format!("{}\n", spelling::json(&value.to_string())).as_bytes())
}

/// Writes a sentence to standard error. An error is ignored, because no script relies on that output.
pub fn note(sentence: &str) {
    let clear = if stderr_is_terminal() { "\r\x1b[K" } else { "" };
    let _gone = writeln!(std::io::stderr(), "{clear}{}", stderr_line(sentence));
}

/// A sentence as [`note`] writes it: one line, made safe, prefixed with the program's name.
pub fn stderr_line(sentence: &str) -> String {
    format!("lmscope: {}", spelling::line(sentence))
}

/// Writes several lines to standard error, made safe.
pub fn error_lines(lines: &str) {
    let lines = spelling::plain(lines.as_bytes());
    let _gone = writeln!(std::io::stderr(), "{}", lines.trim_end());
}

/// Overwrites the status line of a terminal on standard error.
pub fn status(words: &str) {
    let mut err = std::io::stderr();
    let words = spelling::line(words);
    let _gone = write!(err, "\r\x1b[K{words}").and_then(|()| err.flush());
}

/// Removes the status line.
pub fn clear_status() {
    if stderr_is_terminal() {
        status("");
    }
}

/// Whether standard error is a terminal.
pub fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Whether standard output is a terminal.
pub fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Reports every panic as a safe sentence, because its message may quote a file. With `RUST_BACKTRACE` the backtrace follows.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let what = info.to_string().replace('\n', " ");
        note(&format!(
            "thread '{name}' {what}. Please report this with the command that led here."
        ));
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            error_lines(&trace.to_string());
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str =
        "x\u{1b}]52;c;aGFja2Vk\u{7}\u{9b}2J\u{202e}\u{200b}\u{7f}\r\nlmscope: forged";

    /// The variant after another one; the compiler requires an arm for every variant.
    fn after(error: &Error) -> Option<Error> {
        let bad = || HOSTILE.to_string();
        Some(match error {
            Error::NotAModel { .. } => Error::NotThisKind {
                given: bad(),
                found: bad(),
                next: bad(),
            },
            Error::NotThisKind { .. } => Error::Hub {
                what: bad(),
                next: bad(),
            },
            Error::Hub { .. } => Error::DownloadStopped(bad()),
            Error::DownloadStopped(_) => Error::UnknownFamily {
                found: bad(),
                known: bad(),
            },
            Error::UnknownFamily { .. } => Error::Config {
                what: bad(),
                next: bad(),
            },
            Error::Config { .. } => Error::TooLarge {
                name: bad(),
                need: bad(),
                free: bad(),
                next: bad(),
            },
            Error::TooLarge { .. } => Error::MissingTensor {
                name: bad(),
                place: bad(),
                holds: bad(),
            },
            Error::MissingTensor { .. } => Error::TensorShape {
                name: bad(),
                expected: vec![1],
                found: vec![2],
            },
            Error::TensorShape { .. } => Error::bad_file(HOSTILE, bad(), bad()),
            Error::BadFile { .. } => Error::io(HOSTILE, std::io::Error::other(bad())),
            Error::Io { .. } => Error::UnknownSite {
                given: bad(),
                near: Some(bad()),
            },
            Error::UnknownSite { .. } => Error::BadAddress {
                given: bad(),
                why: bad(),
            },
            Error::BadAddress { .. } => Error::Refused {
                address: bad(),
                why: bad(),
            },
            Error::Refused { .. } => Error::BadEdit {
                edit: bad(),
                why: bad(),
            },
            Error::BadEdit { .. } => Error::argument(bad(), bad(), bad()),
            Error::BadArgument { .. } => Error::NoDifference {
                why: bad(),
                next: bad(),
            },
            Error::NoDifference { .. } => Error::EmptyPrompt,
            Error::EmptyPrompt => Error::PromptTooLong {
                tokens: 2,
                context: 1,
                allows: 1,
            },
            Error::PromptTooLong { .. } => Error::Text {
                what: bad(),
                next: bad(),
            },
            Error::Text { .. } => Error::Device {
                device: bad(),
                why: bad(),
            },
            Error::Device { .. } => Error::not_finite(bad(), bad()),
            Error::NotFinite { .. } => Error::Identities {
                model: bad(),
                failed: bad(),
                count: 1,
            },
            Error::Identities { .. } => Error::Cancelled,
            Error::Cancelled => Error::Signal(15),
            Error::Signal(_) => Error::Engine(bad()),
            Error::Engine(_) => Error::Tensor(candle_core::Error::Msg(bad())),
            Error::Tensor(_) => return None,
        })
    }

    #[test]
    fn no_situation_can_act_on_a_terminal_or_forge_a_line() {
        let mut error = Error::NotAModel {
            given: HOSTILE.into(),
            found: HOSTILE.into(),
        };
        let mut seen = 0;
        loop {
            let line = stderr_line(&error.to_string());
            assert!(spelling::is_safe(&line), "{line:?}");
            assert_eq!(line.lines().count(), 1, "{line}");
            seen += usize::from(line.contains("forged"));
            match after(&error) {
                Some(next) => error = next,
                None => break,
            }
        }
        // Of a library's message only the first line is shown.
        assert_eq!(seen, 22, "those with words of others");
    }
}
