//! Progress of a piece of work, reported to a listener as a share of the whole; and stopped sweeps, whose results are kept in
//! memory, and as files where they should outlive the process.
//!
//! Invariant: a part reports shares of its own range only, however deeply parts are nested; a sweep is stored under a digest of
//! everything that its results depend on, so that what is stored under its key is an earlier state of the same sweep, or is
//! ignored. To listen, see [`super::lab::Lab::with_progress`]; to do a part of something, see [`super::lab::Lab::part`]; to
//! keep something else of a sweep, add it to what [`super::trials`] hands over.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::file::{self, Overwrite};

/// A listener that takes shares from 0 to 1.
type ProgressListener = Rc<RefCell<dyn FnMut(f32)>>;

/// Which part of the whole is being done, and the listener.
#[derive(Clone)]
pub struct WorkProgress {
    listener: Option<ProgressListener>,
    part: Range<f32>,
}

impl Default for WorkProgress {
    fn default() -> Self {
        Self {
            listener: None,
            part: 0.0..1.0,
        }
    }
}

impl fmt::Debug for WorkProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of the whole", self.part)
    }
}

impl WorkProgress {
    /// Progress over the whole range 0 to 1, reported to `listener`.
    pub fn reporting_to(listener: impl FnMut(f32) + 'static) -> Self {
        Self {
            listener: Some(Rc::new(RefCell::new(listener))),
            ..Self::default()
        }
    }

    /// Progress over a part of this part: `share` is a range within 0 to 1.
    #[must_use]
    pub fn split(&self, share: Range<f32>) -> Self {
        let Range { start, end } = self.part;
        let at = |done: f32| start + done * (end - start);
        Self {
            listener: self.listener.clone(),
            part: at(share.start)..at(share.end),
        }
    }

    /// Reports that `done`, from 0 to 1, of this part is done.
    pub fn tell(&self, done: f32) {
        // The borrow fails while the listener itself is running; progress of work that the listener starts is not reported.
        if let Some(listener) = &self.listener
            && let Ok(mut listener) = listener.try_borrow_mut()
        {
            let Range { start, end } = self.part;
            listener(start + done * (end - start));
        }
    }
}

/// How many stopped sweeps are kept, in memory and as files.
pub(crate) const KEPT: usize = 8;

/// Stopped sweeps with the results they have so far.
#[derive(Debug, Default)]
pub struct UnfinishedSweeps {
    held: Vec<(u64, Vec<Option<Value>>)>,
    /// The folder where stopped sweeps are kept as files; none to keep them in memory only.
    pub folder: Option<PathBuf>,
    /// Why the file of the latest stopped sweep could not be written.
    pub failure: Option<String>,
    /// Whether a sweep was stopped; set here, cleared by the reader.
    pub stopped: bool,
}

impl UnfinishedSweeps {
    fn path(&self, key: u64) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.join(format!("{key:016x}.json")))
    }

    /// Removes and returns the results so far of a sweep of `count` trials; all none where nothing usable is stored.
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
        // A failure is not fatal: without the file, another process starts the sweep from the beginning.
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

/// Writes the results of a sweep to a file, and removes the oldest files beyond [`KEPT`].
fn write(path: &Path, results: &[Option<Value>]) -> Result<()> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    let fail = |e: std::io::Error| Error::io(folder, e);
    file::private_folder(folder).map_err(fail)?;
    let bytes = serde_json::to_vec(results).map_err(|e| fail(e.into()))?;
    // May overwrite: the file name is a digest of the sweep, so an existing file is an earlier state of the same sweep.
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

/// Whether a file name is one that [`UnfinishedSweeps::path`] makes; only such files are removed.
fn is_ours(name: &std::ffi::OsStr) -> bool {
    let stem = name.to_str().and_then(|name| name.strip_suffix(".json"));
    stem.is_some_and(|s| s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_part_tells_shares_of_the_whole() {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let ears = heard.clone();
        let whole = WorkProgress::reporting_to(move |done| ears.borrow_mut().push(done));
        let half = whole.split(0.5..1.0);
        let quarter = half.split(0.0..0.5);
        for part in [&whole, &half, &quarter] {
            part.tell(0.0);
            part.tell(1.0);
        }
        assert_eq!(*heard.borrow(), [0.0, 1.0, 0.5, 1.0, 0.5, 0.75]);
        WorkProgress::default().tell(1.0);
    }
}
