//! The log: a file in the state folder, never the terminal.
//!
//! Invariant: a command that was not asked to log writes nothing. To log something, use `tracing` where it happens.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

use crate::error::{Error, Result};

/// A log that has grown past this many bytes is put aside as `lmscope.log.old` and begun anew.
const LIMIT: u64 = 4 << 20;

/// The folder for what should survive, but is not worth a backup: `$XDG_STATE_HOME/lmscope` on Linux.
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
        .with_writer(Mutex::new(open()?))
        .finish();
    // Somebody else's subscriber, as in tests, stays.
    let _held = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

fn open() -> Result<File> {
    let folder = state_folder().ok_or_else(|| {
        Error::argument(
            "--log-level",
            "a log file",
            "a home folder to keep it in; set HOME",
        )
    })?;
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    let path = folder.join("lmscope.log");
    if std::fs::metadata(&path).is_ok_and(|m| m.len() > LIMIT) {
        std::fs::rename(&path, folder.join("lmscope.log.old")).map_err(|e| Error::io(&path, e))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|e| Error::io(&path, e))
}
