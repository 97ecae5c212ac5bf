//! Presets: a set of edits in a TOML file, with the model they were made on and the mode of changes.
//!
//! ```toml
//! model = "demo"
//! revision = "0f3a…"              # the fingerprint of the weights
//! mode = "from now"               # or "as if always"
//!
//! [[edit]]
//! edit = "add:refusal@resid_pre.3*1.5"
//! on = true
//! ```
//!
//! Invariant: writing and reading are inverse; an unknown key is refused, and a file made on other weights is used with a
//! caution, never silently. To store something else, add a field to `PresetFile`.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::intervention::Edit;
use super::schedule::Mode;
use crate::error::{Error, Result};
use crate::model::Card;

/// Edits, on and off, and the model they were made on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EditPreset {
    /// The model argument; may be empty.
    pub model: String,
    /// The fingerprint of the model's weights; may be empty.
    pub revision: String,
    /// Whether a change of edits also applies to what was read before.
    pub mode: Mode,
    pub edits: Vec<Edit>,
}

/// The contents of the file.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PresetFile {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    model: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    revision: String,
    #[serde(default = "usual_mode")]
    mode: String,
    #[serde(default)]
    edit: Vec<PresetRow>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PresetRow {
    edit: String,
    #[serde(default = "yes")]
    on: bool,
}

fn usual_mode() -> String {
    Mode::default().name().into()
}

fn yes() -> bool {
    true
}

impl fmt::Display for EditPreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |edit: &Edit| PresetRow {
            edit: edit.to_string(),
            on: edit.on,
        };
        let file = PresetFile {
            model: self.model.clone(),
            revision: self.revision.clone(),
            mode: self.mode.name().into(),
            edit: self.edits.iter().map(row).collect(),
        };
        f.write_str(&toml::to_string(&file).map_err(|_| fmt::Error)?)
    }
}

impl EditPreset {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = crate::file::words(path)?;
        Self::parse(&text).map_err(|why| {
            let why = why.trim_end_matches('.').to_string();
            Error::bad_file(path, why, "Correct it, or save one again with :save-edits")
        })
    }

    /// Parses the text of a file, or says what is wrong with it.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let file: PresetFile = toml::from_str(text).map_err(|e| {
            let line = e
                .span()
                .map_or(1, |s| text[..s.start.min(text.len())].lines().count().max(1));
            format!(
                "line {line}: {}; a preset has model, revision, mode and tables [[edit]] with edit and on",
                e.message().trim_end_matches('.')
            )
        })?;
        let modes = [Mode::FromNow, Mode::AsIfAlways];
        let mode = modes.into_iter().find(|m| m.name() == file.mode);
        let edit = |(i, row): (usize, PresetRow)| {
            let edit: Edit = row
                .edit
                .parse()
                .map_err(|e: Error| format!("edit {}: {e}", i + 1))?;
            Ok(Edit { on: row.on, ..edit })
        };
        Ok(Self {
            mode: mode.ok_or_else(|| {
                format!(
                    "the mode is `{}`; write \"{}\" or \"{}\"",
                    file.mode,
                    modes[0].name(),
                    modes[1].name()
                )
            })?,
            edits: file
                .edit
                .into_iter()
                .enumerate()
                .map(edit)
                .collect::<std::result::Result<_, String>>()?,
            model: file.model,
            revision: file.revision,
        })
    }

    /// A caution for using this preset, read from `path`, on a model: that it was made on other weights, or does not say on
    /// which.
    pub fn caution(&self, path: &Path, card: &Card) -> Option<String> {
        let file = path.display();
        if self.revision.is_empty() {
            return Some(format!(
                "CAUTION: {file} does not say which model its edits were made on; neurons and layers may mean something else here."
            ));
        }
        (self.revision != card.revision).then(|| {
            format!(
                "CAUTION: {file} was made on {} (weights {}), and this is {} (weights {}): neurons, layers and directions may mean something else here.",
                if self.model.is_empty() { "another model" } else { &self.model },
                short(&self.revision),
                card.name,
                short(&card.revision),
            )
        })
    }
}

/// The first digits of a fingerprint.
fn short(revision: &str) -> String {
    revision.chars().take(8).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_preset_is_a_file_that_a_person_can_write() {
        let preset = EditPreset::parse(
            "[[edit]]\nedit = \"zero:17@mlp_act.3\"\n[[edit]]\nedit = \"add:calm@resid_pre.2*0.5\"\non = false\n",
        )
        .unwrap();
        assert_eq!(preset.mode, Mode::FromNow);
        assert!(preset.edits[0].on && !preset.edits[1].on);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, words) in [
            ("mood = \"from now\"", ["line 1", "mood"]),
            ("mode = \"always\"", ["always", "as if always"]),
            (
                "\n\n[[edit]]\nedit = \"zero@mlp_out.0\"\nstrength = 2",
                ["line 4", "strength"],
            ),
            (
                "[[edit]]\nedit = \"zap@mlp_out.0\"",
                ["edit 1", "not an operation"],
            ),
            ("[[edit]]\non = true", ["line 1", "edit"]),
            ("edit = 3", ["line 1", "[[edit]]"]),
        ] {
            let why = EditPreset::parse(text).unwrap_err();
            assert!(words.iter().all(|w| why.contains(w)), "{text}: {why}");
        }
    }

    fn any_edit() -> impl Strategy<Value = Edit> {
        let line = prop_oneof![
            (0u32..99, 0usize..20).prop_map(|(n, l)| format!("zero:{n}@mlp_act.{l}")),
            ("[a-zé\"\\\\' ]{1,6}", 0usize..20).prop_map(|(name, l)| {
                let name = serde_json::Value::from(format!("d{name}.gguf"));
                format!("add:{name}@resid_post.{l}:prompt")
            }),
            "[a-z\"\\\\]{1,5}".prop_map(|t| {
                let text = serde_json::Value::from(t);
                format!("resample:3={text}@mlp_act.0/decode")
            }),
        ];
        (line, -9.0f32..9.0, any::<bool>()).prop_map(|(line, strength, on)| Edit {
            strength,
            on,
            ..line.parse().unwrap()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn writing_and_reading_are_inverse(edits in prop::collection::vec(any_edit(), 0..6), always: bool, model in ".{0,9}") {
            let mode = if always { Mode::AsIfAlways } else { Mode::FromNow };
            let preset = EditPreset { model, revision: "0f3a".into(), mode, edits };
            prop_assert_eq!(EditPreset::parse(&preset.to_string()).unwrap(), preset);
        }
    }
}
