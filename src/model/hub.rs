//! Where a model argument leads: the demo, a folder, or a hub id in the cache that Python fills.
//!
//! Invariant: the environment is read here alone, in Python's order. To add a kind of source, add a variant.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A resolved model argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The model in the binary.
    Demo,
    /// A folder in Hugging Face layout.
    Folder(PathBuf),
}

/// Resolves `demo`, a folder, or `owner/name[@revision]` in the local cache.
pub fn resolve(given: &str) -> Result<Source> {
    if given == "demo" {
        return Ok(Source::Demo);
    }
    let path = Path::new(given);
    if path.is_dir() {
        return Ok(Source::Folder(path.to_path_buf()));
    }
    if path.is_file() {
        let found = "it is a file; this version reads folders in Hugging Face layout".to_string();
        return Err(Error::NotAModel {
            given: given.into(),
            found,
        });
    }
    if let Some(folder) = cached(&cache_folder(), given) {
        return Ok(Source::Folder(folder));
    }
    let found = if is_hub_id(given) {
        format!(
            "there is no such folder, and {} has no snapshot of it (`hf download {given}` fetches one)",
            cache_folder().display()
        )
    } else {
        "there is no such folder".to_string()
    };
    Err(Error::NotAModel {
        given: given.into(),
        found,
    })
}

fn is_hub_id(given: &str) -> bool {
    let mut parts = given.split('/');
    matches!((parts.next(), parts.next(), parts.next()), (Some(a), Some(b), None) if !a.is_empty() && !b.is_empty() && !given.starts_with('.'))
}

/// The hub cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME/hub`, `XDG_CACHE_HOME/huggingface/hub`, `~/.cache/huggingface/hub`.
pub fn cache_folder() -> PathBuf {
    let var = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    var("HF_HUB_CACHE")
        .or_else(|| var("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| var("HF_HOME").map(|h| h.join("hub")))
        .or_else(|| var("XDG_CACHE_HOME").map(|h| h.join("huggingface/hub")))
        .or_else(|| {
            directories::BaseDirs::new().map(|d| d.home_dir().join(".cache/huggingface/hub"))
        })
        .unwrap_or_else(|| PathBuf::from("huggingface/hub"))
}

/// The snapshot of `owner/name[@revision]` in a cache folder.
fn cached(cache: &Path, given: &str) -> Option<PathBuf> {
    let (id, revision) = given.split_once('@').unwrap_or((given, "main"));
    if !is_hub_id(id) {
        return None;
    }
    let repository = cache.join(format!("models--{}", id.replace('/', "--")));
    let commit = std::fs::read_to_string(repository.join("refs").join(revision))
        .map_or_else(|_| revision.to_string(), |s| s.trim().to_string());
    let snapshot = repository.join("snapshots").join(commit);
    snapshot.join("config.json").exists().then_some(snapshot)
}

/// Every model of the cache that has a configuration: id and snapshot folder.
pub fn cached_models() -> Vec<(String, PathBuf)> {
    let cache = cache_folder();
    let Ok(entries) = std::fs::read_dir(&cache) else {
        return Vec::new();
    };
    let mut found: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let id = entry
                .file_name()
                .to_str()?
                .strip_prefix("models--")?
                .replacen("--", "/", 1);
            let folder = cached(&cache, &id)?;
            Some((id, folder))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_snapshot_through_its_ref() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--a--b");
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::create_dir_all(repository.join("snapshots/c0ffee")).unwrap();
        std::fs::write(repository.join("refs/main"), "c0ffee\n").unwrap();
        assert_eq!(cached(cache.path(), "a/b"), None, "no config.json yet");
        std::fs::write(repository.join("snapshots/c0ffee/config.json"), "{}").unwrap();
        assert_eq!(
            cached(cache.path(), "a/b"),
            Some(repository.join("snapshots/c0ffee"))
        );
        assert_eq!(
            cached(cache.path(), "a/b@c0ffee"),
            Some(repository.join("snapshots/c0ffee"))
        );
        assert_eq!(cached(cache.path(), "../b"), None);
    }
}
