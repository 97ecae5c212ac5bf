//! The cache on disk, in the layout of Python's huggingface_hub:
//!
//! ```text
//! models--owner--name/blobs/<etag>                 the bytes; `<etag>.incomplete` while they come in
//! models--owner--name/refs/<revision>              the commit of a branch or tag
//! models--owner--name/snapshots/<commit>/<file>    a relative link to its blob
//! .locks/models--owner--name/<etag>.lock           held by whoever downloads
//! ```
//!
//! Invariant: a snapshot is complete if it has config.json and all of its weights; what Python wrote is never changed. To look
//! for something else, add a method to [`Repository`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::settings::cache_folder;
use super::{ModelSource, Reference, files, is_gguf};
use crate::error::Error;
use crate::file::{self, Overwrite};

/// A repository's folder in the cache, which may not exist.
#[derive(Clone, Debug)]
pub(super) struct Repository {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repository {
    pub fn new(cache: &Path, id: &str) -> Self {
        let name = format!("models--{}", id.replace('/', "--"));
        Self {
            folder: cache.join(&name),
            locks: cache.join(".locks").join(name),
        }
    }

    /// The source that a reference names, if it is complete in the cache.
    pub fn find(&self, reference: &Reference) -> Option<ModelSource> {
        let snapshot = self.snapshot(&self.commit(&reference.revision));
        match &reference.file {
            Some(file) => {
                let path = snapshot.join(file);
                path.is_file().then_some(ModelSource::Gguf(path))
            }
            None => missing(&snapshot)
                .is_none()
                .then_some(ModelSource::Folder(snapshot)),
        }
    }

    /// The first missing file of a reference, if a part of its snapshot exists.
    pub fn lacks(&self, reference: &Reference) -> Option<String> {
        let snapshot = self.snapshot(&self.commit(&reference.revision));
        if !snapshot.is_dir() {
            return None;
        }
        match &reference.file {
            Some(file) => Some(file.clone()),
            None => missing(&snapshot),
        }
    }

    /// The commit of a revision, as far as known; a commit stands for itself.
    pub fn commit(&self, revision: &str) -> String {
        file::words(&self.folder.join("refs").join(revision))
            .ok()
            .map(|s| s.trim().to_string())
            .filter(|commit| files::is_safe(commit))
            .unwrap_or_else(|| revision.to_string())
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Creates the folders for a download, and opens the cache for it; the error contains the path that failed.
    pub fn prepare(&self, commit: &str) -> Result<(), (PathBuf, io::Error)> {
        let blobs = self.folder.join("blobs");
        for folder in [blobs, self.snapshot(commit), self.locks.clone()] {
            std::fs::create_dir_all(&folder).map_err(|e| (folder, e))?;
        }
        Ok(())
    }

    /// The lock file of a blob, open but not locked.
    pub fn lock(&self, etag: &str) -> io::Result<File> {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.locks.join(format!("{etag}.lock")))
    }

    /// Stores the commit of a branch or tag, as Python does; nothing for a commit itself.
    pub fn note(&self, revision: &str, commit: &str) -> Result<(), (PathBuf, io::Error)> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        if file::words(&path).is_ok_and(|s| s == commit) {
            return Ok(());
        }
        let write = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            file::write(&path, commit.as_bytes(), Overwrite::Allowed).map_err(|e| {
                if let Error::Io { source, .. } = e {
                    source
                } else {
                    io::Error::other(e)
                }
            })
        };
        write().map_err(|e| (path.clone(), e))
    }

    /// Adds a blob to a snapshot: as a relative link or, if links fail, as the file itself.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), (PathBuf, io::Error)> {
        let pointer = self.snapshot(commit).join(file);
        let blob = self.blob(etag);
        if pointer.is_file() {
            return Ok(());
        }
        let place = || {
            pointer.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            if pointer.symlink_metadata().is_ok() {
                std::fs::remove_file(&pointer)?;
            }
            let up = "../".repeat(file.split('/').count() + 1);
            symlink(&format!("{up}blobs/{etag}"), &pointer)
                .or_else(|_| std::fs::rename(&blob, &pointer))
                .or_else(|_| std::fs::copy(&blob, &pointer).map(drop))
        };
        place().map_err(|e| (pointer.clone(), e))
    }
}

#[cfg(unix)]
fn symlink(to: &str, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The first file that is missing in a snapshot; none if it is complete.
pub(super) fn missing(snapshot: &Path) -> Option<String> {
    let has = |name: &str| snapshot.join(name).is_file();
    if !has("config.json") {
        return Some("config.json".into());
    }
    let Some(weights) = files::WEIGHTS.iter().find(|w| has(w)) else {
        return Some("the weights".into());
    };
    if !files::is_index(weights) {
        return None;
    }
    match files::shards(&snapshot.join(weights)) {
        Ok(shards) => shards.into_iter().find(|s| !has(s)),
        Err(_) => Some((*weights).to_string()),
    }
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// The model argument that opens it.
    pub id: String,
    /// Its snapshot folder, or the GGUF file in it.
    pub path: PathBuf,
    /// The first missing file; none if the model is complete.
    pub missing: Option<String>,
}

/// All models in the cache: snapshots by id, with `@revision` unless it is main, and the GGUF files in them.
pub fn cached_models() -> Vec<Cached> {
    listed(&cache_folder())
}

fn listed(cache: &Path) -> Vec<Cached> {
    let mut found = Vec::new();
    for (name, folder) in entries(cache) {
        if let Some(id) = name.strip_prefix("models--") {
            repository(&id.replacen("--", "/", 1), &folder, &mut found);
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

fn repository(id: &str, folder: &Path, found: &mut Vec<Cached>) {
    let mut refs = Vec::new();
    walk(&folder.join("refs"), "", &mut refs);
    let read = |(name, path): (String, PathBuf)| Some((name, file::words(&path).ok()?));
    let mut refs: Vec<_> = refs.into_iter().filter_map(read).collect();
    // Of several names of a commit, the simplest.
    refs.sort_by_key(|(name, _)| (name != "main", name.clone()));
    let before = found.len();
    for (commit, snapshot) in entries(&folder.join("snapshots")) {
        let at = match refs.iter().find(|(_, held)| held.trim() == commit) {
            Some((name, _)) if name == "main" => String::new(),
            Some((name, _)) => format!("@{name}"),
            None => format!("@{commit}"),
        };
        let mut files = Vec::new();
        walk(&snapshot, "", &mut files);
        files.retain(|(_, path)| path.is_file() && is_gguf(path));
        let missing = missing(&snapshot);
        // A snapshot with only GGUF files is not a model itself; each of its files is one.
        if missing.is_none() || files.is_empty() {
            found.push(Cached {
                id: format!("{id}{at}"),
                path: snapshot,
                missing,
            });
        }
        found.extend(files.into_iter().map(|(name, path)| Cached {
            id: format!("{id}/{name}{at}"),
            path,
            missing: None,
        }));
    }
    if found.len() == before && folder.join("blobs").is_dir() {
        found.push(Cached {
            id: id.to_string(),
            path: folder.to_path_buf(),
            missing: Some("config.json".into()),
        });
    }
}

/// The names and paths in a folder, sorted; empty if it does not exist.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut out: Vec<_> = listed
        .filter_map(|e| Some((e.file_name().into_string().ok()?, e.path())))
        .collect();
    out.sort();
    out
}

/// The largest depth of folders that are searched; `refs/pr/1` has three.
const DEPTH: usize = 4;

/// Collects all files below a folder: the name relative to it, and the path.
fn walk(folder: &Path, prefix: &str, out: &mut Vec<(String, PathBuf)>) {
    for (name, path) in entries(folder) {
        let name = format!("{prefix}{name}");
        if path.is_dir() && prefix.split('/').count() < DEPTH {
            walk(&path, &format!("{name}/"), out);
        } else {
            out.push((name, path));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn reference(given: &str) -> Reference {
        Reference::parse(given).unwrap()
    }

    #[test]
    fn a_snapshot_counts_when_it_has_config_and_weights() {
        let cache = tempfile::tempdir().unwrap();
        let repository = Repository::new(cache.path(), "a/b");
        let folder = cache.path().join("models--a--b");
        let snapshot = folder.join("snapshots/c0ffee");
        write(&folder.join("refs/main"), "c0ffee\n");
        assert_eq!(repository.lacks(&reference("a/b")), None, "nothing there");
        write(&snapshot.join("config.json"), "{}");
        assert_eq!(repository.find(&reference("a/b")), None);
        assert_eq!(
            repository.lacks(&reference("a/b")),
            Some("the weights".into())
        );
        let index = r#"{"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}}"#;
        write(&snapshot.join("model.safetensors.index.json"), index);
        write(&snapshot.join("one.safetensors"), "");
        assert_eq!(
            repository.lacks(&reference("a/b")),
            Some("two.safetensors".into())
        );
        write(&snapshot.join("two.safetensors"), "");
        for given in ["a/b", "a/b@c0ffee"] {
            let found = repository.find(&reference(given));
            assert_eq!(
                found,
                Some(ModelSource::Folder(snapshot.clone())),
                "{given}"
            );
        }
        assert_eq!(repository.find(&reference("a/b@other")), None);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_relative_and_lead_to_blobs() {
        let cache = tempfile::tempdir().unwrap();
        let repository = Repository::new(cache.path(), "a/b");
        repository.prepare("c0ffee").unwrap();
        std::fs::write(repository.blob("e1"), "bytes").unwrap();
        for (file, expected) in [("x", "../../blobs/e1"), ("q/x", "../../../blobs/e1")] {
            repository.link("c0ffee", file, "e1").unwrap();
            let pointer = repository.snapshot("c0ffee").join(file);
            assert_eq!(std::fs::read_link(&pointer).unwrap(), Path::new(expected));
            assert_eq!(std::fs::read_to_string(&pointer).unwrap(), "bytes");
        }
        repository.note("refs/pr/1", "c0ffee").unwrap();
        repository.note("c0ffee", "c0ffee").unwrap();
        let refs = cache.path().join("models--a--b/refs");
        assert_eq!(
            std::fs::read_to_string(refs.join("refs/pr/1")).unwrap(),
            "c0ffee"
        );
        assert!(!refs.join("c0ffee").exists());
    }

    #[test]
    fn the_list_knows_revisions_parts_and_single_files() {
        let cache = tempfile::tempdir().unwrap();
        let of = |path: &str| cache.path().join(path);
        write(&of("models--a--b/refs/main"), "1111");
        write(&of("models--a--b/refs/refs/pr/7"), "2222");
        for commit in ["1111", "2222", "3333"] {
            let snapshot = format!("models--a--b/snapshots/{commit}");
            write(&of(&format!("{snapshot}/config.json")), "{}");
            if commit != "2222" {
                write(&of(&format!("{snapshot}/model.safetensors")), "");
            }
        }
        write(&of("models--q--g/refs/main"), "4444");
        write(&of("models--q--g/snapshots/4444/x.gguf"), "");
        write(&of("models--begun--only/blobs/e1.incomplete"), "");
        write(&of("datasets--d--d/snapshots/1/config.json"), "{}");
        let found: Vec<(String, bool)> = listed(cache.path())
            .into_iter()
            .map(|c| (c.id, c.missing.is_none()))
            .collect();
        let expected = [
            ("a/b", true),
            ("a/b@3333", true),
            ("a/b@refs/pr/7", false),
            ("begun/only", false),
            ("q/g/x.gguf", true),
        ];
        let expected: Vec<(String, bool)> = expected.map(|(id, whole)| (id.into(), whole)).into();
        assert_eq!(found, expected);
    }
}
