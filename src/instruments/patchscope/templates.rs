//! The library of target prompts: those of the papers, those for the demo model, and the user's own.
//!
//! Invariant: of two templates with the same name the one from the more specific source wins: a file given as parameter, then
//! `templates.toml` in the user's folder, then the built-in ones; every template's placeholder occurs in its prompt. To add a
//! built-in one, add a row to [`TEMPLATES`].

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// One row of [`TEMPLATES`].
#[derive(Debug)]
pub struct BuiltinTemplate {
    pub name: &'static str,
    /// The target prompt.
    pub prompt: &'static str,
    /// The text whose state is overwritten.
    pub placeholder: &'static str,
    /// A one-sentence description.
    pub about: &'static str,
}

/// The built-in target prompts.
pub const TEMPLATES: &[BuiltinTemplate] = &[
    BuiltinTemplate {
        name: "description",
        prompt: "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean multinational major appliance and consumer electronics corporation, x",
        placeholder: "x",
        about: "entity description, the prompt of the Diana table",
    },
    BuiltinTemplate {
        name: "entity",
        prompt: "Syria: Syria is a country in the Middle East, Leonardo DiCaprio: Leonardo DiCaprio is an American actor, Samsung: Samsung is a South Korean multinational corporation, x",
        placeholder: "x",
        about: "entity description in sentences, as for two-hop questions (2406.12775)",
    },
    BuiltinTemplate {
        name: "identity",
        prompt: "cat -> cat\n1135 -> 1135\nhello -> hello\n?",
        placeholder: "?",
        about: "token identity: which token is this?",
    },
    BuiltinTemplate {
        name: "city",
        prompt: "The largest city in x",
        placeholder: "x",
        about: "attribute extraction, zero-shot",
    },
    BuiltinTemplate {
        name: "world",
        prompt: "Spain: country in Europe, Oslo: capital of Norway, Lena Berg: painter from India, robin: kind of bird, x",
        placeholder: "x",
        about: "entity description in the demo's world",
    },
    BuiltinTemplate {
        name: "echo",
        prompt: "cat -> cat ; Tokyo -> Tokyo ; gold -> gold ; x",
        placeholder: "x",
        about: "token identity in the demo's world",
    },
    BuiltinTemplate {
        name: "capital",
        prompt: "The capital of x",
        placeholder: "x",
        about: "attribute extraction in the demo's world",
    },
];

/// The names of [`TEMPLATES`].
pub const NAMES: [&str; TEMPLATES.len()] = {
    let mut names = [""; TEMPLATES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = TEMPLATES[i].name;
        i += 1;
    }
    names
};

/// The file in the user's folder.
const FILE: &str = "templates.toml";

/// A target prompt with its placeholder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchscopeTemplate {
    pub name: String,
    /// The target prompt.
    pub prompt: String,
    /// The text whose state is overwritten.
    #[serde(default = "usual", alias = "slot")]
    pub placeholder: String,
    /// A one-sentence description.
    #[serde(default)]
    pub about: String,
}

fn usual() -> String {
    "x".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateFile {
    #[serde(default)]
    template: Vec<PatchscopeTemplate>,
}

/// Finds a template by name: in the given file, then in the user's folder, then among the built-in ones.
///
/// # Errors
///
/// When a file cannot be read, or no template has the name.
pub fn find(name: &str, library: Option<&Path>) -> Result<PatchscopeTemplate> {
    let mut all = Vec::new();
    if let Some(path) = library {
        all.extend(read(path)?);
    }
    if let Some(path) = own().filter(|p| p.exists()) {
        all.extend(read(&path)?);
    }
    all.extend(TEMPLATES.iter().map(|t| PatchscopeTemplate {
        name: t.name.into(),
        prompt: t.prompt.into(),
        placeholder: t.placeholder.into(),
        about: t.about.into(),
    }));
    if let Some(found) = all.iter().find(|t| t.name == name) {
        return Ok(found.clone());
    }
    let mut names: Vec<&str> = Vec::new();
    for template in &all {
        if !names.contains(&template.name.as_str()) {
            names.push(&template.name);
        }
    }
    let expected = format!(
        "one of {}; your own templates go into `{FILE}` of the config folder or into the file that `library` names",
        names.join(", ")
    );
    Err(Error::argument("template", name, expected))
}

/// `templates.toml` in the user's configuration folder.
fn own() -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "lmscope")?;
    Some(folders.config_dir().join(FILE))
}

/// Reads a file of templates.
///
/// # Errors
///
/// When the file does not exist or has another form; the error says in which line.
pub fn read(path: &Path) -> Result<Vec<PatchscopeTemplate>> {
    let text = crate::file::words(path)?;
    parse(&text, path)
}

/// Parses templates from text; `path` is for error messages.
///
/// # Errors
///
/// As [`read`].
pub fn parse(text: &str, path: &Path) -> Result<Vec<PatchscopeTemplate>> {
    let bad = |what: String| {
        let next = "Write [[template]] with name, prompt, placeholder (x by default) and about (optional).";
        Error::bad_file(path, what, next)
    };
    let file: TemplateFile = toml::from_str(text).map_err(|e| {
        let line = e.span().map(|s| text[..s.start].matches('\n').count() + 1);
        let place = line.map_or_else(String::new, |l| format!("line {l}: "));
        bad(format!("{place}{}", e.message().replace('\n', ", ")))
    })?;
    if file.template.is_empty() {
        return Err(bad("it holds no templates".into()));
    }
    for (i, template) in file.template.iter().enumerate() {
        let name = &template.name;
        if name.trim().is_empty() {
            return Err(bad(format!("template {} has no name", i + 1)));
        }
        if file.template[..i].iter().any(|t| t.name == *name) {
            return Err(bad(format!("two templates are called `{name}`")));
        }
        if template.placeholder.is_empty() || !template.prompt.contains(&template.placeholder) {
            let placeholder = &template.placeholder;
            return Err(bad(format!(
                "the placeholder `{placeholder}` of `{name}` does not occur in its prompt"
            )));
        }
    }
    Ok(file.template)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_users_templates_come_first_and_the_built_in_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let text = "[[template]]\nname = \"film\"\nprompt = \"Alien: film, x\"\n\n[[template]]\nname = \"world\"\nprompt = \"Mars: planet, ?\"\nslot = \"?\"\n";
        std::fs::write(&path, text).unwrap();
        let library = Some(path.as_path());
        assert_eq!(find("film", library).unwrap().placeholder, "x");
        assert_eq!(find("world", library).unwrap().prompt, "Mars: planet, ?");
        assert_eq!(find("echo", library).unwrap().prompt, TEMPLATES[5].prompt);
        let error = find("flim", library).unwrap_err().to_string();
        assert!(
            error.contains("film") && error.contains("capital"),
            "{error}"
        );
        assert!(find("film", None).is_err(), "without the file");
    }

    #[test]
    fn a_bad_file_is_refused_in_one_sentence() {
        for (text, why) in [
            ("", "it holds no templates"),
            ("[[template]]\nname = \"a\"", "missing field `prompt`"),
            ("x = 1", "unknown field `x`"),
            (
                "[[template]]\nname = \"a\"\nprompt = \"b\"\n",
                "the placeholder `x` of `a` does not occur",
            ),
            (
                "[[template]]\nname = \"a\"\nprompt = \"x\"\nslto = \"x\"\n",
                "line 4: unknown field `slto`",
            ),
            (
                "[[template]]\nname = \"a\"\nprompt = \"x\"\n[[template]]\nname = \"a\"\nprompt = \"x\"\n",
                "two templates are called `a`",
            ),
            (
                "[[template]]\nname = \"\"\nprompt = \"x\"\n",
                "template 1 has no name",
            ),
        ] {
            let error = parse(text, Path::new("t.toml")).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn every_built_in_placeholder_occurs_in_its_prompt() {
        for t in TEMPLATES {
            assert!(t.prompt.contains(t.placeholder), "{}", t.name);
        }
    }
}
