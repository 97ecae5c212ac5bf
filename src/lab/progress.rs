//! Progress: how far a piece of work is, told to whoever listens, as a share of the whole; and sweeps that were stopped, to go
//! on with: their results in memory, and as files where they outlive the process.
//!
//! Invariant: a part tells shares of its own range and no other, however deep parts lie in each other; a name stands for
//! everything that results of a sweep depend on, so that what lies under it is an earlier state of the same sweep, or as good as
//! nothing. To listen, see [`super::lab::Lab::with_progress`]; to do a part of something, see [`super::lab::Lab::part`]; to keep something
//! else of a sweep, add it to what [`super::trials`] hands over.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::file::{self, Overwrite};

/// Who listens: takes shares from 0 to 1.
type ProgressListener = Rc<RefCell<dyn FnMut(f32)>>;

/// Which part of a whole is being done, and who is told.
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
    /// The whole of something, told to somebody.
    pub fn reporting_to(listener: impl FnMut(f32) + 'static) -> Self {
        Self {
            listener: Some(Rc::new(RefCell::new(listener))),
            ..Self::default()
        }
    }

    /// A part of this part: `share` of it, from 0 to 1.
    #[must_use]
    pub fn split(&self, share: Range<f32>) -> Self {
        let Range { start, end } = self.part;
        let at = |done: f32| start + done * (end - start);
        Self {
            listener: self.listener.clone(),
            part: at(share.start)..at(share.end),
        }
    }

    /// Tells that `done` of this part is done, from 0 to 1.
    pub fn tell(&self, done: f32) {
        // A listener that works on the lab itself is not told of that.
        if let Some(listener) = &self.listener
            && let Ok(mut listener) = listener.try_borrow_mut()
        {
            let Range { start, end } = self.part;
            listener(start + done * (end - start));
        }
    }
}

/// Sweeps whose results are kept, in memory and as files.
pub(crate) const KEPT: usize = 8;

/// Sweeps that were stopped.
#[derive(Debug, Default)]
pub struct UnfinishedSweeps {
    held: Vec<(u64, Vec<Option<Value>>)>,
    /// The folder in which unfinished sweeps outlive the process, if there is one.
    pub folder: Option<PathBuf>,
    /// Why the latest one that was stopped could not be kept as a file.
    pub failure: Option<String>,
    /// Whether a sweep was stopped since somebody last looked.
    pub stopped: bool,
}

impl UnfinishedSweeps {
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

/// Whether a name is one that [`UnfinishedSweeps::path`] makes: only such files are let go.
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
