//! New folders: written under a temporary name, which becomes their own when everything in them is on the disk.
//!
//! Invariant: a folder that stands under the name is replaced only with consent, and only where an export has written it. To write
//! another file into one, use [`NewFile`].

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::file::Overwrite;

/// How many bytes are written at once.
pub(super) const PIECE: usize = 1 << 20;

/// A file that is being written.
pub(super) struct NewFile {
    path: PathBuf,
    out: std::io::BufWriter<File>,
}

impl NewFile {
    pub fn create(path: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| Error::io(path, e);
        if let Some(folder) = path.parent() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).create(folder).map_err(fail)?;
        }
        let file = File::create_new(path).map_err(fail)?;
        Ok(Self {
            path: path.to_path_buf(),
            out: std::io::BufWriter::with_capacity(PIECE, file),
        })
    }

    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.out.write_all(bytes);
        written.map_err(|e| Error::io(&self.path, e))
    }

    pub fn finish(mut self) -> Result<()> {
        let written = self
            .out
            .flush()
            .and_then(|()| self.out.get_ref().sync_all());
        written.map_err(|e| Error::io(&self.path, e))
    }
}

/// Refuses a folder that must not be replaced: with consent only an empty one, or one with the file `mark`, which an export has
/// written.
pub(super) fn check_folder(target: &Path, overwrite: Overwrite, mark: &str) -> Result<()> {
    if target.file_name().is_none() {
        let given = target.display().to_string();
        return Err(Error::argument("-o", given, "the name of a new folder"));
    }
    let Ok(found) = std::fs::symlink_metadata(target) else {
        return Ok(());
    };
    let refuse = |what: &str, next: &str| Err(Error::bad_file(target, what, next));
    if !found.is_dir() {
        return refuse("it is a file or a link", "Name a new folder.");
    }
    let fail = |e: std::io::Error| Error::io(target, e);
    let empty = std::fs::read_dir(target).map_err(fail)?.next().is_none();
    let ours = target.join(mark).is_file();
    match overwrite {
        Overwrite::Never => refuse(
            "this folder exists, and nothing was overwritten",
            "Choose another name; --force replaces a folder that export-weights has written.",
        ),
        Overwrite::Allowed if empty || ours => Ok(()),
        Overwrite::Allowed => refuse(
            &format!(
                "export-weights has not written this folder (it has no {mark}), so it is not replaced"
            ),
            "Choose another name, or delete the folder yourself.",
        ),
    }
}

/// A folder under a temporary name, which is deleted unless it gets its own.
pub(super) struct UnfinishedFolder {
    pub path: PathBuf,
    arrived: bool,
}

impl UnfinishedFolder {
    pub fn beside(target: &Path) -> Result<Self> {
        loop {
            let path = sibling(target, "part");
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        arrived: false,
                    });
                }
                // Left over from a killed process with the same process id.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(target, e)),
            }
        }
    }

    /// Gives it its name; a folder of that name is moved away first, and deleted when it has been replaced.
    pub fn take(mut self, target: &Path, overwrite: Overwrite, mark: &str) -> Result<()> {
        check_folder(target, overwrite, mark)?;
        let fail = |e: std::io::Error| Error::io(target, e);
        let old = target.exists().then(|| sibling(target, "old"));
        if let Some(old) = &old {
            std::fs::rename(target, old).map_err(fail)?;
        }
        if let Err(e) = std::fs::rename(&self.path, target) {
            if let Some(old) = &old {
                std::fs::rename(old, target).map_err(fail)?;
            }
            return Err(fail(e));
        }
        self.arrived = true;
        match old {
            Some(old) => std::fs::remove_dir_all(&old).map_err(|e| Error::io(old, e)),
            None => Ok(()),
        }
    }
}

/// A hidden name beside a folder, another one at every call.
fn sibling(target: &Path, ending: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    target.with_file_name(format!(".lmscope-{}-{count}.{ending}", std::process::id()))
}

impl Drop for UnfinishedFolder {
    fn drop(&mut self) {
        if !self.arrived {
            let _absent = std::fs::remove_dir_all(&self.path);
        }
    }
}
