//! A part of a repository that is not a model: the files of one folder of it, or one file.
//!
//! Invariant: nothing is downloaded but what [`PartFiles::choose`] names; a part that is whole in the cache is used without any
//! request. To ask for other kinds of parts, give other [`PartFiles`].

use std::path::{Path, PathBuf};

use super::cache::Repository;
use super::progress::DownloadWatch;
use super::settings::{HubSettings, cache_folder};
use super::{Reference, download, failure, files};
use crate::error::{Error, Result};

/// `OWNER/NAME/FOLDER[@REVISION]` or `OWNER/NAME:FOLDER[@REVISION]`, also with `hf://` before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryPart {
    pub(super) reference: Reference,
}

/// Which files belong to a part.
pub struct PartFiles<'a> {
    /// The files that are needed, of all files of the repository; those that make a part complete come last.
    #[allow(clippy::type_complexity)] // it is called once
    pub choose: &'a dyn Fn(&RepositoryPart, &[String]) -> Result<Vec<String>>,
    /// Whether a folder or file on the disk is complete.
    pub whole: &'a dyn Fn(&Path) -> bool,
}

impl RepositoryPart {
    /// Parses an id; none if it is none.
    pub fn parse(given: &str) -> Option<Self> {
        let given = given.strip_prefix("hf://").unwrap_or(given);
        let (path, revision) = given.rsplit_once('@').unwrap_or((given, "main"));
        let path = path.trim_end_matches('/').replacen(':', "/", 1);
        let mut parts = path.splitn(3, '/');
        let (owner, name, part) = (parts.next()?, parts.next()?, parts.next());
        let reference = Reference::parse(&format!("{owner}/{name}@{revision}"))?;
        part.is_none_or(files::is_safe).then(|| Self {
            reference: Reference {
                file: part.map(String::from),
                ..reference
            },
        })
    }

    /// `OWNER/NAME`.
    pub fn id(&self) -> &str {
        &self.reference.id
    }

    /// The folder or file in it; empty for all of it.
    pub fn part(&self) -> &str {
        self.reference.file.as_deref().unwrap_or_default()
    }

    /// The path of the part in the cache, after downloading what is missing of it.
    ///
    /// # Errors
    ///
    /// When the hub cannot be reached, lacks the part, or the user stops it.
    pub fn fetch(&self, of: &PartFiles, watch: &mut DownloadWatch<'_>) -> Result<PathBuf> {
        self.fetch_under(&cache_folder(), HubSettings::read, of, watch)
    }

    /// As [`RepositoryPart::fetch`], with the caller's cache; the settings are read only if a hub must be asked.
    ///
    /// # Errors
    ///
    /// As [`RepositoryPart::fetch`].
    pub fn fetch_under(
        &self,
        cache: &Path,
        settings: impl FnOnce() -> Result<HubSettings>,
        of: &PartFiles,
        watch: &mut DownloadWatch<'_>,
    ) -> Result<PathBuf> {
        let repository = Repository::new(cache, self.id());
        let snapshot = repository.snapshot(&repository.commit(&self.reference.revision));
        let there = snapshot.join(self.part());
        if there.exists() && (of.whole)(&there) {
            return Ok(there);
        }
        let settings = settings()?;
        if let Some(variable) = settings.offline {
            let reference = &self.reference;
            return Err(failure::offline(
                reference,
                &settings,
                &repository,
                variable,
            ));
        }
        let choose = |names: &[String]| (of.choose)(self, names);
        let snapshot =
            download::fetch_part(&self.reference, &settings, &repository, &choose, watch)?;
        let there = snapshot.join(self.part());
        if there.exists() {
            return Ok(there);
        }
        Err(Error::Hub {
            what: format!("`{}` has nothing at `{}`", self.id(), self.part()),
            next: format!("Look at {}.", settings.page(self.id())),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_a_folder_behind_it_and_perhaps_a_revision() {
        let parsed = |given: &str| {
            let part = RepositoryPart::parse(given)?;
            let of = (part.id().to_string(), part.part().to_string());
            Some((of, part.reference.revision))
        };
        let of = |id: &str, part: &str, at: &str| Some(((id.into(), part.into()), at.into()));
        assert_eq!(parsed("a/b"), of("a/b", "", "main"));
        assert_eq!(parsed("a/b/"), of("a/b", "", "main"));
        assert_eq!(parsed("a/b/c/d"), of("a/b", "c/d", "main"));
        assert_eq!(parsed("a/b:c/d"), of("a/b", "c/d", "main"));
        assert_eq!(parsed("hf://a/b/c.pt@v1"), of("a/b", "c.pt", "v1"));
        for bad in [
            "", "a", "/a/b/c", "./a/b", "a/b/../c", "a b/c", "a/b:c:d", "~/a/b",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
