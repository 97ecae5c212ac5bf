//! Resolves a model argument: the demo, a folder, a file, or a hub id, which is downloaded if it is not in the cache.
//!
//! `owner/name`, `owner/name@revision` and `owner/name/file.gguf` are hub ids. The cache is that of Python's huggingface_hub,
//! in its layout, so that `hf`, transformers and lmscope reuse each other's downloads. A complete snapshot is used without any
//! request; `cache` defines completeness.
//!
//! All requests are plain HTTP. `hf-hub` 1.0 is used only to parse ids: it reads a description of any length into memory, and
//! restarts an interrupted file from its first byte, where `/resolve/` with ranges resumes. Files stored in Xet are downloaded
//! in the same way: the hub serves all of them at `/resolve/`, and the Xet protocol would add a second cache, threads of its
//! own and downloads that Python cannot resume. `hf-hub`'s own file description is not used either: it follows the redirect to
//! the storage host and so loses `X-Linked-Etag`, the name of the blob in the cache.
//!
//! Invariant: only the files that belong to a model are downloaded; a blob has its final name only if it is complete.
//! To add a kind of source, add a variant to [`ModelSource`]; to fetch another small file, a name to `files::SMALL`.

mod cache;
mod download;
mod failure;
mod files;
mod part;
mod progress;
mod remote;
mod settings;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use cache::Repository;
pub use cache::{Cached, cached_models};
pub use part::{PartFiles, RepositoryPart};
pub use progress::{DownloadPhase, DownloadWatch, Progress};
pub use settings::{HubSettings, cache_folder};

/// A resolved model argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The model embedded in the binary.
    Demo,
    /// A folder in Hugging Face layout.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

/// A parsed hub id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reference {
    /// `owner/name`; for old models in the cache only a name.
    id: String,
    /// A branch, a tag or a commit.
    revision: String,
    /// One GGUF file of the repository, or a part that is no model.
    file: Option<String>,
}

impl Reference {
    /// Parses `owner/name[/file.gguf][@revision]`.
    fn parse(given: &str) -> Option<Self> {
        let (path, revision) = given.split_once('@').unwrap_or((given, "main"));
        let mut parts = path.splitn(3, '/');
        let (owner, name, file) = (parts.next()?, parts.next(), parts.next());
        let id = match name {
            Some(name) => format!("{owner}/{name}"),
            None => owner.to_string(),
        };
        let named = id.split('/').all(|part| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && !part.contains("..")
                && part.chars().all(plain)
        });
        let fits = file.is_none_or(|f| is_gguf(Path::new(f)) && files::is_safe(f));
        (named && fits && files::is_safe(revision)).then(|| Self {
            id,
            revision: revision.to_string(),
            file: file.map(str::to_string),
        })
    }

    /// The command that fetches it with Python's tool.
    fn by_hand(&self) -> String {
        let file = self.file.as_ref().map(|file| {
            if files::is_weights(file) {
                format!(" {file}")
            } else {
                format!(" --include '{file}/*'")
            }
        });
        let revision = (self.revision != "main").then(|| format!(" --revision {}", self.revision));
        let (file, revision) = (file.unwrap_or_default(), revision.unwrap_or_default());
        format!("hf download {}{file}{revision}", self.id)
    }
}

/// Whether a name is that of a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// Resolves `demo`, a folder, a file, or a hub id, and downloads the files that the cache lacks.
pub fn resolve(given: &str, watch: &mut DownloadWatch<'_>) -> Result<ModelSource> {
    resolve_under(given, &cache_folder(), HubSettings::read, watch)
}

/// As [`resolve`], with the caller's cache; the settings are read only if a hub must be asked.
pub fn resolve_under(
    given: &str,
    cache: &Path,
    settings: impl FnOnce() -> Result<HubSettings>,
    watch: &mut DownloadWatch<'_>,
) -> Result<ModelSource> {
    if given == "demo" {
        return Ok(ModelSource::Demo);
    }
    let refuse = |found: &str| {
        Err(Error::NotAModel {
            given: given.into(),
            found: found.into(),
        })
    };
    let path = Path::new(given);
    if path.is_dir() {
        return Ok(ModelSource::Folder(path.to_path_buf()));
    }
    if path.is_file() {
        if is_gguf(path) {
            return Ok(ModelSource::Gguf(path.to_path_buf()));
        }
        return refuse("it is a file, and its name does not end in .gguf");
    }
    let Some(reference) = Reference::parse(given) else {
        return refuse("there is no such folder or file");
    };
    let repository = Repository::new(cache, &reference.id);
    if let Some(source) = repository.find(&reference) {
        return Ok(source);
    }
    if !reference.id.contains('/') {
        return refuse(
            "there is no such folder, and a hub id has an owner, as in openai-community/gpt2",
        );
    }
    let settings = settings()?;
    if let Some(variable) = settings.offline {
        return Err(failure::offline(
            &reference,
            &settings,
            &repository,
            variable,
        ));
    }
    download::fetch(given, &reference, &settings, &repository, watch)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parts(given: &str) -> Option<(String, String, Option<String>)> {
        Reference::parse(given).map(|r| (r.id, r.revision, r.file))
    }

    #[test]
    fn ids_have_an_owner_a_revision_and_perhaps_a_file() {
        let of = |id: &str, revision: &str, file: Option<&str>| {
            Some((id.into(), revision.into(), file.map(String::from)))
        };
        assert_eq!(parts("a/b"), of("a/b", "main", None));
        assert_eq!(parts("a/b@refs/pr/1"), of("a/b", "refs/pr/1", None));
        assert_eq!(
            parts("a/b/q/x.Q4_0.gguf@v1"),
            of("a/b", "v1", Some("q/x.Q4_0.gguf"))
        );
        assert_eq!(parts("gpt2"), of("gpt2", "main", None));
        for bad in [
            "",
            "/a/b",
            "./a/b",
            "../b",
            "a/../b",
            "a/b/c",
            "a/b@",
            "a/b@../../x",
            "a b/c",
            "a/b@/x",
            "a/b/../x.gguf",
            "~/x",
            "-a/b",
            "a/b@x\\..",
        ] {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_line_for_python_names_file_and_revision() {
        let line = |given| Reference::parse(given).unwrap().by_hand();
        assert_eq!(line("a/b"), "hf download a/b");
        assert_eq!(
            line("a/b/x.gguf@v1"),
            "hf download a/b x.gguf --revision v1"
        );
    }
}
