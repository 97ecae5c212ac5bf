//! The user's `config.toml`, next to `keys.toml`.
//!
//! ```toml
//! save = false      # keeps no session files
//! theme = "latte"   # and other settings of the screen, which :set lists
//!
//! [dictionaries]    # names for --dictionary, :dictionary and NAME#1234
//! res8 = "/data/saes/resid_post_8"
//! mlp5 = "google/gemma-scope-2b-pt-mlp/layer_5/width_16k/average_l0_32"
//! old = { path = "sae.pt@resid_post.3", labels = "labels.json" }
//! ```
//!
//! Invariant: a mistake is said with its line and spoils nothing but its own line. Where a mistake may be about `save`, nothing
//! is kept, because a user who asks for that must not be misunderstood. What is written is one value: comments and everything
//! else stay as they are. To add a setting of the screen, see `app/setting.rs`; another one is a field of [`UserConfig`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};
use crate::file::Overwrite;
use crate::{file, text};

/// The name of the file.
pub const NAME: &str = "config.toml";

/// What the file may hold, for a sentence.
const NEXT: &str = "It may hold `save = true` or `save = false`, settings of the screen (:set lists them), and a table [dictionaries] of NAME = \"PATH[@ADDRESS]\".";

/// The user's permanent settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserConfig {
    /// Whether sessions are kept as files.
    pub save: bool,
    /// Names of dictionaries.
    pub dictionaries: BTreeMap<String, NamedDictionary>,
    /// The settings of the screen, as they stand there.
    pub settings: Vec<GivenSetting>,
}

impl Default for UserConfig {
    fn default() -> Self {
        Self {
            save: true,
            dictionaries: BTreeMap::new(),
            settings: Vec::new(),
        }
    }
}

/// A setting of the screen, not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenSetting {
    pub name: String,
    /// Its value without quotes.
    pub words: String,
    /// Its line, from 1.
    pub line: usize,
}

/// Something in the file that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMistake {
    /// What it is, with its line.
    pub what: String,
    /// Whether it may have been meant to turn sessions off.
    pub doubtful: bool,
}

/// A dictionary that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedDictionary {
    /// What the name stands for: `PATH[@ADDRESS]` or a hub id.
    pub path: String,
    /// A file with labels of its features.
    pub labels: Option<PathBuf>,
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

/// The file as it is being read.
struct UserConfigReader<'a> {
    source: &'a str,
    mistakes: Vec<ConfigMistake>,
}

impl UserConfigReader<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.source.get(..at).unwrap_or(self.source);
        before.matches('\n').count() + 1
    }

    fn mistake(&mut self, at: usize, doubtful: bool, why: &str) {
        let why = text::line(why.trim_end_matches('.'));
        let what = format!("line {}: {why}", self.line(at));
        self.mistakes.push(ConfigMistake { what, doubtful });
    }

    /// Whether sessions are kept.
    fn save(&mut self, value: &Spanned<DeValue<'_>>) -> bool {
        if let DeValue::Boolean(save) = value.get_ref() {
            return *save;
        }
        let why = "`save` is a boolean: true or false";
        self.mistake(value.span().start, true, why);
        false
    }

    /// A value of a setting: a word in quotes, a number, true or false.
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other has one value")]
    fn words(&mut self, name: &str, value: &Spanned<DeValue<'_>>) -> Option<String> {
        match value.get_ref() {
            DeValue::String(words) => Some(words.to_string()),
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Float(number) => Some(number.to_string()),
            DeValue::Boolean(on) => Some(on.to_string()),
            _ => {
                let why = format!("`{name}` is no setting, and no table that is known here");
                self.mistake(value.span().start, true, &why);
                None
            }
        }
    }

    fn dictionary(&mut self, name: &str, value: &Spanned<DeValue<'_>>) -> Option<NamedDictionary> {
        let at = value.span().start;
        if name.is_empty() || name.contains(['@', '#', ',', '/', '>']) {
            let why = format!(
                "the name of a dictionary is `{name}`; name it without @ # , / and >, which mean something in NAME@ADDRESS and NAME#1234"
            );
            self.mistake(at, false, &why);
            return None;
        }
        if let DeValue::String(path) = value.get_ref() {
            return Some(NamedDictionary {
                path: path.to_string(),
                labels: None,
            });
        }
        let (mut path, mut labels, mut other) = (None, None, true);
        if let DeValue::Table(table) = value.get_ref() {
            other = false;
            for (key, value) in table {
                match (key.get_ref().as_ref(), value.get_ref()) {
                    ("path", DeValue::String(words)) => path = Some(words.to_string()),
                    ("labels", DeValue::String(words)) => {
                        labels = Some(PathBuf::from(words.as_ref()));
                    }
                    (_, _) => other = true,
                }
            }
        }
        let Some(path) = path.filter(|_| !other) else {
            let why = "a dictionary is \"PATH[@ADDRESS]\" or { path = \"PATH[@ADDRESS]\", labels = \"FILE\" }";
            self.mistake(at, false, why);
            return None;
        };
        Some(NamedDictionary { path, labels })
    }
}

impl UserConfig {
    /// Reads the file in a folder. Settings that it does not contain have their defaults, and so have all if there is no file.
    ///
    /// # Errors
    ///
    /// When the file exists and cannot be read, or has a mistake.
    pub fn read(folder: &Path) -> Result<Self> {
        let (config, mistakes) = Self::read_on(folder)?;
        match mistakes.into_iter().next() {
            Some(mistake) => Err(Error::bad_file(folder.join(NAME), mistake.what, NEXT)),
            None => Ok(config),
        }
    }

    /// As [`UserConfig::read`], but reads on behind mistakes, and says what they are.
    ///
    /// # Errors
    ///
    /// When the file exists and cannot be read at all.
    pub fn read_on(folder: &Path) -> Result<(Self, Vec<ConfigMistake>)> {
        let path = folder.join(NAME);
        if !path.exists() {
            return Ok((Self::default(), Vec::new()));
        }
        let (config, mistakes) = Self::parse(&file::words(&path)?);
        let named = config.dictionaries.into_iter();
        let config = Self {
            dictionaries: named.map(|(n, of)| (n, of.within(folder))).collect(),
            ..config
        };
        Ok((config, mistakes))
    }

    fn parse(source: &str) -> (Self, Vec<ConfigMistake>) {
        let (table, errors) = DeTable::parse_recoverable(source);
        let mut reader = UserConfigReader {
            source,
            mistakes: Vec::new(),
        };
        let mut wrong = Vec::new();
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            let line = reader.line(at);
            // The first of a line says what is wrong; others follow from it.
            if !wrong.contains(&line) {
                wrong.push(line);
                reader.mistake(at, true, &error.message().replace('\n', " "));
            }
        }
        let mut config = Self::default();
        for (key, value) in table.get_ref() {
            let (name, line) = (key.get_ref().as_ref(), reader.line(key.span().start));
            match (name, value.get_ref()) {
                _ if wrong.contains(&line) => {}
                ("save", _) => config.save = reader.save(value),
                ("dictionaries", DeValue::Table(rows)) => {
                    for (key, value) in rows {
                        let name = key.get_ref().as_ref();
                        let line = reader.line(key.span().start);
                        if !wrong.contains(&line)
                            && let Some(found) = reader.dictionary(name, value)
                        {
                            config.dictionaries.insert(name.into(), found);
                        }
                    }
                }
                (name, _) => {
                    if let Some(words) = reader.words(name, value) {
                        let name = name.to_string();
                        config.settings.push(GivenSetting { name, words, line });
                    }
                }
            }
        }
        config.settings.sort_by_key(|given| given.line);
        (config, reader.mistakes)
    }

    /// Writes one setting into the file of a folder, whose other content stays as it is; `value` as TOML spells it. Returns the
    /// path of the file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or written, or holds the setting in a way that cannot be replaced.
    pub fn set(folder: &Path, name: &str, value: &str) -> Result<PathBuf> {
        let path = folder.join(NAME);
        // What a link leads to is written, not the link.
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        let old = if path.exists() {
            file::words(&path)?
        } else {
            String::new()
        };
        let new = with_setting(&old, name, value);
        let said = |source: &str| {
            let (table, _) = DeTable::parse_recoverable(source);
            let found = table.get_ref().get(name)?;
            source.get(found.span()).map(str::to_owned)
        };
        if said(&new).as_deref() != Some(value) {
            let what = format!("`{name} = {value}` cannot be written into it");
            let next = "Mend its mistakes, or write the line yourself.";
            return Err(Error::bad_file(path, what, next));
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        file::write(&path, new.as_bytes(), Overwrite::Allowed)?;
        Ok(path)
    }
}

/// A file with another value of a setting, or with a line more.
fn with_setting(source: &str, name: &str, value: &str) -> String {
    let (table, _) = DeTable::parse_recoverable(source);
    let spans = |own: &Spanned<DeValue<'_>>| own.span();
    let mut out = source.to_string();
    if let Some(there) = table.get_ref().get(name).map(spans) {
        out.replace_range(there, value);
        return out;
    }
    let line = format!("{name} = {value}\n");
    // Behind the last line that belongs to no table.
    let plain = |own: &&Spanned<DeValue<'_>>| !matches!(own.get_ref(), DeValue::Table(_));
    let last = table.get_ref().values().filter(plain).map(spans);
    let last: Option<Range<usize>> = last.max_by_key(|span| span.end);
    let has_tables = table.get_ref().values().any(|own| !plain(&own));
    match last {
        Some(span) => {
            let end = source[span.end..].find('\n').map(|at| span.end + at + 1);
            match end {
                Some(end) => out.insert_str(end, &line),
                None => out.extend(["\n", &line]),
            }
        }
        None if has_tables => out.insert_str(0, &format!("{line}\n")),
        None => {
            if !source.is_empty() && !source.ends_with('\n') {
                out.push('\n');
            }
            out.push_str(&line);
        }
    }
    out
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
            ("\nsav = [false]", ["line 2", "sav"]),
            ("[dictionary]", ["line 1", "dictionary"]),
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

    #[test]
    fn a_mistake_spoils_its_own_line_and_what_may_mean_save_keeps_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let read = |words: &str| {
            std::fs::write(folder.path().join(NAME), words).unwrap();
            UserConfig::read_on(folder.path()).unwrap()
        };
        let words = "theme = \"nord\"\ncount = = 3\nmouse = true # click\ntemperature = 0.5\n\n[dictionaries]\nbad = 3\na = \"/x/sae\"\n";
        let (config, mistakes) = read(words);
        let found: Vec<_> = config
            .settings
            .iter()
            .map(|own| (&*own.name, &*own.words, own.line))
            .collect();
        assert_eq!(
            found,
            [
                ("theme", "nord", 1),
                ("mouse", "true", 3),
                ("temperature", "0.5", 4)
            ]
        );
        assert_eq!(config.dictionaries["a"].path, "/x/sae");
        assert!(!config.dictionaries.contains_key("bad"));
        let lines: Vec<_> = mistakes
            .iter()
            .map(|own| (&own.what[..7], own.doubtful))
            .collect();
        assert_eq!(
            lines,
            [("line 2:", true), ("line 7:", false)],
            "{mistakes:?}"
        );
        let (config, mistakes) = read("save = \"no\"\ntheme = \"nord\"");
        assert!(!config.save && mistakes.len() == 1 && mistakes[0].doubtful);
        assert_eq!(config.settings.len(), 1);
    }

    #[test]
    fn a_setting_is_written_and_everything_else_stays() {
        for (before, after) in [
            ("", "theme = \"nord\"\n"),
            ("# mine", "# mine\ntheme = \"nord\"\n"),
            (
                "theme = 'mocha'  # dark\ncount = 3\n",
                "theme = \"nord\"  # dark\ncount = 3\n",
            ),
            (
                "# all\nsave = true # kept\n\n[dictionaries]\ntheme = \"/x\"\n",
                "# all\nsave = true # kept\ntheme = \"nord\"\n\n[dictionaries]\ntheme = \"/x\"\n",
            ),
            (
                "[dictionaries]\na = \"/x\"",
                "theme = \"nord\"\n\n[dictionaries]\na = \"/x\"",
            ),
            (
                "count = 3\nwhat is this\n",
                "count = 3\ntheme = \"nord\"\nwhat is this\n",
            ),
            ("count = 3", "count = 3\ntheme = \"nord\"\n"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(NAME);
            std::fs::write(&path, before).unwrap();
            let written = UserConfig::set(folder.path(), "theme", "\"nord\"").unwrap();
            let found = std::fs::read_to_string(&path).unwrap();
            assert_eq!(found, after, "{before}");
            assert_eq!(written.file_name().unwrap(), NAME);
        }
        // A folder that is not there yet, and a link to a file elsewhere.
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("new");
        UserConfig::set(&new, "mouse", "true").unwrap();
        let real = folder.path().join("real.toml");
        std::fs::rename(new.join(NAME), &real).unwrap();
        std::os::unix::fs::symlink(&real, new.join(NAME)).unwrap();
        UserConfig::set(&new, "mouse", "false").unwrap();
        assert!(new.join(NAME).is_symlink());
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "mouse = false\n");
    }
}
