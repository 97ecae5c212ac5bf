//! Facts: prompts in several wordings, with their answer.
//!
//! A file is a JSON list of `{"prompts": [...], "answer": " Paris", "relation": "capital", "new": " Rome"}` (the last two keys
//! are optional), or lines of `relation<TAB>answer<TAB>prompt<TAB>prompt...`. Invariant: a fact has a prompt and an answer;
//! answers are literal, including the space that they begin with. To read another form, add it to [`read`].

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// The relation of the fact; facts of one relation can take each other's answers.
    #[serde(default)]
    pub relation: String,
    /// Wordings of a prompt that the answer continues.
    pub prompts: Vec<String>,
    /// The answer, whose first token counts.
    pub answer: String,
    /// The answer to change it into; by default that of another fact of the relation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// Reads a file of facts.
pub fn read(path: &Path) -> Result<Vec<Fact>> {
    let text = crate::file::words(path)?;
    let fail = |why: String| {
        Error::bad_file(
            path,
            why,
            "Write a JSON list of {\"prompts\": [\"...\"], \"answer\": \" ...\"}, or lines of relation, answer and prompts, separated by tabs.",
        )
    };
    let facts: Vec<Fact> = if text.trim_start().starts_with('[') {
        serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?
    } else {
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty());
        let fact = |(i, line): (usize, &str)| {
            let mut parts = line.split('\t').map(ToString::to_string);
            match (parts.next(), parts.next()) {
                (Some(relation), Some(answer)) => Ok(Fact {
                    relation,
                    answer,
                    prompts: parts.filter(|p| !p.is_empty()).collect(),
                    new: None,
                }),
                _ => Err(fail(format!("line {} has no tab", i + 1))),
            }
        };
        lines.map(fact).collect::<Result<_>>()?
    };
    if facts.is_empty() {
        return Err(fail("it holds no facts".into()));
    }
    for (i, fact) in facts.iter().enumerate() {
        if fact.prompts.is_empty() || fact.prompts.iter().any(String::is_empty) {
            return Err(fail(format!(
                "fact {} has no prompt, or an empty one",
                i + 1
            )));
        }
        if fact.answer.is_empty() {
            return Err(fail(format!("fact {} has no answer", i + 1)));
        }
        if fact.new.as_ref() == Some(&fact.answer) {
            return Err(fail(format!(
                "the new answer of fact {} is its answer",
                i + 1
            )));
        }
    }
    Ok(facts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_what_is_missing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facts");
        let read_text = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path)
        };
        let json = r#"[{"prompts": ["The capital of France is"], "answer": " Paris", "relation": "capital"}]"#;
        let tabs = "capital\t Paris\tThe capital of France is\n\n";
        assert_eq!(read_text(json).unwrap(), read_text(tabs).unwrap());
        assert_eq!(read_text(json).unwrap()[0].answer, " Paris");
        for (text, why) in [
            ("[]", "no fact"),
            ("capital Paris", "line 1 has no tab"),
            ("capital\t Paris", "fact 1 has no prompt"),
            (r#"[{"prompts": ["x"], "answer": ""}]"#, "no answer"),
            (r#"[{"prompts": ["x"], "answer": "y", "nwe": "z"}]"#, "nwe"),
            (r#"[{"prompts": ["x"]}]"#, "answer"),
        ] {
            let error = read_text(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
