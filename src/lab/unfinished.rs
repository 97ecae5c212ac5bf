//! Sweeps that were stopped, to go on with: their results in memory, and as files where they outlive the process.
//!
//! Invariant: a name stands for everything that results depend on, so that what lies under it is an earlier state of the same
//! sweep, or as good as nothing. To keep something else of a sweep, add it to what [`super::trials`] hands over.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::file::{self, Overwrite};

/// Sweeps whose results are kept, in memory and as files.
pub(crate) const KEPT: usize = 8;

/// Sweeps that were stopped.
#[derive(Debug, Default)]
pub struct Unfinished {
    held: Vec<(u64, Vec<Option<Value>>)>,
    /// Where they outlive the process, if anywhere.
    pub folder: Option<PathBuf>,
    /// Why the latest one that was stopped could not be kept as a file.
    pub failure: Option<String>,
    /// Whether a sweep was stopped since somebody last looked.
    pub stopped: bool,
}

impl Unfinished {
    fn path(&self, key: u64) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.join(format!("{key:016x}.json")))
    }

    /// What there is of a sweep of `count` trials; a file that does not fit is as good as none.
    pub(crate) fn take(&mut self, key: u64, count: usize) -> Vec<Option<Value>> {
        let held = self.held.iter().position(|(k, _)| *k == key);
        let held = held.map(|at| self.held.remove(at).1);
        let filed = || {
            let text = file::read(&self.path(key)?, file::SMALL).ok()?;
            serde_json::from_slice::<Vec<Option<Value>>>(&text).ok()
        };
        held.or_else(filed)
            .filter(|results| results.len() == count)
            .unwrap_or_else(|| vec![None; count])
    }

    pub(crate) fn keep(&mut self, key: u64, results: Vec<Option<Value>>) {
        // Without the file the sweep only begins anew in another process.
        let written = self.path(key).map(|path| write(&path, &results));
        self.failure = written.and_then(Result::err).map(|e| e.to_string());
        if let Some(failure) = &self.failure {
            tracing::warn!("{failure}");
        }
        self.held.push((key, results));
        let surplus = self.held.len().saturating_sub(KEPT);
        self.held.drain(..surplus);
    }

    pub(crate) fn forget(&self, key: u64) {
        if let Some(path) = self.path(key)
            && let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{}: {error}", path.display());
        }
    }
}

/// Writes the results of a sweep, and lets the oldest files go.
fn write(path: &Path, results: &[Option<Value>]) -> Result<()> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    let fail = |e: std::io::Error| Error::io(folder, e);
    file::private_folder(folder).map_err(fail)?;
    let bytes = serde_json::to_vec(results).map_err(|e| fail(e.into()))?;
    // The name is a digest that nobody else uses: what stands under it is an earlier state of the same sweep.
    file::write_private(path, &bytes, Overwrite::Allowed)?;
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .map_err(fail)?
        .filter_map(|entry| {
            let entry = entry.ok().filter(|e| is_ours(&e.file_name()))?;
            let facts = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some((facts.modified().ok()?, entry.path()))
        })
        .collect();
    files.sort();
    let surplus = files.len().saturating_sub(KEPT);
    for (_, old) in &files[..surplus] {
        std::fs::remove_file(old).map_err(fail)?;
    }
    Ok(())
}

/// Whether a name is one that [`Unfinished::path`] makes: only such files are let go.
fn is_ours(name: &std::ffi::OsStr) -> bool {
    let stem = name.to_str().and_then(|name| name.strip_suffix(".json"));
    stem.is_some_and(|s| s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit()))
}
