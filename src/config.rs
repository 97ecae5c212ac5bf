//! The user's `config.toml`, next to `keys.toml`.
//!
//! ```toml
//! save = false    # keeps no session files
//!
//! [dictionaries]    # names for --dictionary, :dictionary and NAME#1234
//! res8 = "/data/saes/resid_post_8"
//! mlp5 = "google/gemma-scope-2b-pt-mlp/layer_5/width_16k/average_l0_32"
//! old = { path = "sae.pt@resid_post.3", labels = "labels.json" }
//! ```
//!
//! Invariant: it is parsed strictly. An unknown key, or a value of the wrong type, is refused with its line, because a user who
//! asks for nothing to be kept must not be misunderstood. To add a setting, add a field to [`UserConfig`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::{file, text};

/// The name of the file.
pub const NAME: &str = "config.toml";

/// The user's permanent settings.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct UserConfig {
    /// Whether sessions are kept as files.
    pub save: bool,
    /// Names of dictionaries.
    pub dictionaries: BTreeMap<String, NamedDictionary>,
}

impl Default for UserConfig {
    fn default() -> Self {
        Self {
            save: true,
            dictionaries: BTreeMap::new(),
        }
    }
}

/// A dictionary that has a name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(from = "DictionaryEntry")]
pub struct NamedDictionary {
    /// What the name stands for: `PATH[@ADDRESS]` or a hub id.
    pub path: String,
    /// A file with labels of its features.
    pub labels: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a dictionary is \"PATH[@ADDRESS]\" or { path = \"PATH[@ADDRESS]\", labels = \"FILE\" }"
)]
enum DictionaryEntry {
    Path(String),
    Table {
        path: String,
        labels: Option<PathBuf>,
    },
}

impl From<DictionaryEntry> for NamedDictionary {
    fn from(entry: DictionaryEntry) -> Self {
        let (path, labels) = match entry {
            DictionaryEntry::Path(path) => (path, None),
            DictionaryEntry::Table { path, labels } => (path, labels),
        };
        Self { path, labels }
    }
}

impl NamedDictionary {
    /// With paths that are relative to the folder of the file, if they exist there.
    fn within(self, folder: &Path) -> Self {
        let file = self.path.rsplit_once('@').map_or(&*self.path, |at| at.0);
        let there = [self.path.as_str(), file]
            .iter()
            .any(|path| folder.join(path).exists());
        Self {
            path: if there {
                folder.join(&self.path).to_string_lossy().into_owned()
            } else {
                self.path
            },
            labels: self.labels.map(|labels| folder.join(labels)),
        }
    }
}

/// The user's folder for settings; none without a home.
pub fn folder() -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "lmscope")?;
    Some(folders.config_dir().to_path_buf())
}

impl UserConfig {
    /// Reads the file in a folder. Settings that it does not contain have their defaults, and so have all if there is no file.
    ///
    /// # Errors
    ///
    /// When the file exists and cannot be read or parsed.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        if !path.exists() {
            return Ok(Self::default());
        }
        let words = file::words(&path)?;
        let config: Self = toml::from_str(&words).map_err(|e| {
            let line = e.span().map_or(1, |s| {
                let before = &words[..s.start.min(words.len())];
                before.matches('\n').count() + 1
            });
            let why = e.message().trim_end_matches('.').replace('\n', " ");
            let next = "It may hold `save = true` or `save = false`, and a table [dictionaries] of NAME = \"PATH[@ADDRESS]\".";
            Error::bad_file(&path, format!("line {line}: {why}"), next)
        })?;
        let refused = |name: &&String| name.is_empty() || name.contains(['@', '#', ',', '/', '>']);
        if let Some(name) = config.dictionaries.keys().find(refused) {
            let name = text::visible(name.as_bytes());
            return Err(Error::bad_file(
                &path,
                format!("the name of a dictionary is `{name}`"),
                "Name it without @ # , / and >, which mean something in NAME@ADDRESS and NAME#1234.",
            ));
        }
        let named = config.dictionaries.into_iter();
        Ok(Self {
            dictionaries: named.map(|(n, of)| (n, of.within(folder))).collect(),
            ..config
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_strictly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            UserConfig::read(folder.path())
        };
        assert!(UserConfig::read(&folder.path().join("none")).unwrap().save);
        assert!(read("").unwrap().save && read("save = true").unwrap().save);
        assert!(!read("# private\nsave = false\n").unwrap().save);
        for (text, words) in [
            ("\nsav = false", ["line 2", "sav"]),
            ("save = \"no\"", ["line 1", "boolean"]),
            ("save = false\nsave = true", ["line 2", "save"]),
            ("[save]", ["line 1", "boolean"]),
            ("[dictionaries]\na = 3", ["line 2", "PATH[@ADDRESS]"]),
            (
                "[dictionaries]\na = { path = \"x\", label = \"y\" }",
                ["line 2", "labels"],
            ),
            ("[dictionaries]\n\"a#b\" = \"x\"", ["a#b", "NAME#1234"]),
        ] {
            let why = read(text).unwrap_err().to_string();
            assert!(words.iter().all(|w| why.contains(w)), "{text}: {why}");
        }
    }

    #[test]
    fn dictionaries_have_names_and_paths_beside_the_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("own")).unwrap();
        let words = "[dictionaries]\na = \"/x/sae\"\nb = \"own@resid_post.1\"\nc = { path = \"o/n/sub\", labels = \"l.json\" }\n";
        std::fs::write(folder.path().join(NAME), words).unwrap();
        let config = UserConfig::read(folder.path()).unwrap();
        let of = |name: &str| &config.dictionaries[name];
        assert_eq!(of("a").path, "/x/sae");
        let own = folder.path().join("own@resid_post.1");
        assert_eq!(of("b").path, own.to_string_lossy());
        assert_eq!(of("c").path, "o/n/sub");
        assert_eq!(of("c").labels, Some(folder.path().join("l.json")));
    }
}
