//! The user's `config.toml`, next to `keys.toml`.
//!
//! ```toml
//! save = false    # keeps no session files
//! ```
//!
//! Invariant: it is parsed strictly. An unknown key, or a value of the wrong type, is refused with its line, because a user who
//! asks for nothing to be kept must not be misunderstood. To add a setting, add a field to [`UserConfig`].

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::file;

/// The name of the file.
pub const NAME: &str = "config.toml";

/// The user's permanent settings.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct UserConfig {
    /// Whether sessions are kept as files.
    pub save: bool,
}

impl Default for UserConfig {
    fn default() -> Self {
        Self { save: true }
    }
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
        let text = file::words(&path)?;
        toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |s| {
                let before = &text[..s.start.min(text.len())];
                before.matches('\n').count() + 1
            });
            let why = e.message().trim_end_matches('.').replace('\n', " ");
            let next = "It may hold `save = true` or `save = false`.";
            Error::bad_file(&path, format!("line {line}: {why}"), next)
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
        ] {
            let why = read(text).unwrap_err().to_string();
            assert!(words.iter().all(|w| why.contains(w)), "{text}: {why}");
        }
    }
}
