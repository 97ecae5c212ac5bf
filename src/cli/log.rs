//! The log: a file in the state folder, never the terminal.
//!
//! Invariant: nothing is logged unless a flag asks for it; each event is one line, made safe to show, in a file that only its
//! owner can read. To log something, use `tracing` where it happens.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

use crate::error::{Error, Result};
use crate::file;
use crate::text;

/// A log larger than this many bytes is renamed to `lmscope.log.old`, and a new one is begun.
const LIMIT: u64 = 4 << 20;

/// The folder for data that should persist but needs no backup: `$XDG_STATE_HOME/lmscope` on Linux.
pub fn state_folder() -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "lmscope")?;
    Some(
        folders
            .state_dir()
            .unwrap_or_else(|| folders.data_local_dir())
            .to_path_buf(),
    )
}

/// Starts logging at a level, or with a filter such as `lmscope::engine=debug`.
pub fn start(level: &str) -> Result<()> {
    let filter = EnvFilter::try_new(level).map_err(|_| {
        Error::argument(
            "--log-level",
            level,
            "error, warn, info, debug, trace, or a filter such as lmscope=debug",
        )
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Mutex::new(SafeLines(open()?)))
        .finish();
    // A subscriber that is already set, as in tests, is kept.
    let _held = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Makes each event a safe line on its way to the file. An event arrives as one write that ends in a line feed.
struct SafeLines<W>(W);

impl<W: Write> Write for SafeLines<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let event = String::from_utf8_lossy(bytes);
        let said = text::line(event.trim_end_matches('\n'));
        self.0.write_all(format!("{said}\n").as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn open() -> Result<File> {
    let folder = state_folder().ok_or_else(|| {
        Error::argument(
            "--log-level",
            "a log file",
            "a home folder to keep it in; set HOME",
        )
    })?;
    file::private_folder(&folder).map_err(|e| Error::io(&folder, e))?;
    let path = folder.join("lmscope.log");
    if std::fs::metadata(&path).is_ok_and(|m| m.len() > LIMIT) {
        std::fs::rename(&path, folder.join("lmscope.log.old")).map_err(|e| Error::io(&path, e))?;
    }
    file::append_private(&path).map_err(|e| Error::io(&path, e))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_safe_line() {
        let mut lines = SafeLines(Vec::new());
        lines
            .write_all(b"WARN a\x1b]52;c;eA==\x07\nERROR forged\n")
            .unwrap();
        let said = String::from_utf8(lines.0).unwrap();
        assert!(text::is_safe(&said) && said.lines().count() == 1, "{said}");
    }
}
