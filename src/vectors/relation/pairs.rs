//! Relations as data: a name, templates, and pairs of subject and object.
//!
//! The format is that of the data sets of Hernandez et al. 2024: JSON with `name`, `prompt_templates`, `prompt_templates_zs`,
//! `samples` (`[{"subject": .., "object": ..}]`) and `properties`; what else stands there is passed over. Invariant: every
//! template has one `{}`, and no subject stands there twice. To read another format, add it to [`parse`].

use std::path::Path;

use rand::seq::SliceRandom;
use serde::Deserialize;
use serde_json::Value;

use crate::edit::relation_map::{RelationPair, SUBJECT};
use crate::error::{Error, Result};
use crate::vectors::few_shot::seeded;

/// A relation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Relation {
    pub name: String,
    /// Sentences with `{}` for the subject, up to the object.
    pub prompt_templates: Vec<String>,
    /// Sentences that need no examples before them, where they differ.
    #[serde(default)]
    pub prompt_templates_zs: Vec<String>,
    pub samples: Vec<RelationPair>,
    /// What the file says of itself.
    #[serde(default)]
    pub properties: Value,
}

/// Pairs to make a map from, and pairs held out to judge it.
#[derive(Clone, Debug, PartialEq)]
pub struct RelationSplit {
    pub training: Vec<RelationPair>,
    pub held_out: Vec<RelationPair>,
}

/// Reads a relation.
///
/// # Errors
///
/// When the file does not exist or has another form.
pub fn read(path: &Path) -> Result<Relation> {
    parse(&crate::file::words(path)?, path)
}

/// Parses a relation; `path` is for messages.
///
/// # Errors
///
/// As [`read`].
pub fn parse(text: &str, path: &Path) -> Result<Relation> {
    let bad = |what: String| {
        let next = "A relation is JSON: {\"name\": .., \"prompt_templates\": [\"The capital of {} is\"], \"samples\": [{\"subject\": .., \"object\": ..}]}.";
        Error::bad_file(path, what, next)
    };
    let whole: Value = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    if !whole.is_object() {
        return Err(bad("it is not a JSON object".into()));
    }
    let mut found: Relation = serde_json::from_value(whole).map_err(|e| bad(e.to_string()))?;
    if found.prompt_templates.is_empty() {
        return Err(bad("it has no template".into()));
    }
    let templates = found.prompt_templates.iter();
    for template in templates.chain(&found.prompt_templates_zs) {
        let shown = crate::text::plain(template.as_bytes());
        let count = template.matches(SUBJECT).count();
        if count != 1 {
            return Err(bad(format!(
                "the template `{shown}` has {count} times {{}}, where one subject should stand"
            )));
        }
    }
    let mut samples: Vec<RelationPair> = Vec::with_capacity(found.samples.len());
    for (i, pair) in found.samples.iter().enumerate() {
        let pair = RelationPair {
            subject: pair.subject.trim().into(),
            object: pair.object.trim().into(),
        };
        if pair.subject.is_empty() || pair.object.is_empty() {
            return Err(bad(format!("sample {} has no subject or no object", i + 1)));
        }
        // A subject with several objects counts once, with the first.
        if samples.iter().all(|held| held.subject != pair.subject) {
            samples.push(pair);
        }
    }
    found.samples = samples;
    Ok(found)
}

impl Relation {
    /// One of the templates; that for questions without examples where one is asked for and there is one.
    ///
    /// # Errors
    ///
    /// When there is none of this number.
    pub fn template(&self, number: usize, without_examples: bool) -> Result<&str> {
        let own = &self.prompt_templates;
        let alone = &self.prompt_templates_zs;
        let list = if without_examples && !alone.is_empty() {
            alone
        } else {
            own
        };
        let found = list.get(number).or_else(|| own.get(number));
        found.map(String::as_str).ok_or_else(|| {
            let expected = format!("the number of a template, 0 to {}", own.len() - 1);
            Error::argument("template", number, expected)
        })
    }

    /// Some pairs for training and at most so many others, drawn by a seed.
    ///
    /// # Errors
    ///
    /// When there are too few.
    pub fn split(&self, training: usize, held_out: usize, seed: u64) -> Result<RelationSplit> {
        let count = self.samples.len();
        if count <= training {
            let expected = format!(
                "fewer: the relation has {count} subjects, and at least one has to be held out"
            );
            return Err(Error::argument("examples", training, expected));
        }
        let mut shuffled = self.samples.clone();
        shuffled.shuffle(&mut seeded(seed, "relation"));
        let mut rest = shuffled.split_off(training);
        rest.truncate(held_out);
        Ok(RelationSplit {
            training: shuffled,
            held_out: rest,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
        "name": "country capital city",
        "prompt_templates": ["The capital of {} is", "{}'s capital is"],
        "prompt_templates_zs": ["The capital city of {} is"],
        "properties": {"relation_type": "factual", "fn_type": "ONE_TO_ONE", "symmetric": false},
        "_domain": ["France"],
        "samples": [
            {"subject": "France", "object": "Paris"}, {"subject": "Peru", "object": "Lima"},
            {"subject": "France", "object": "Lyon"}, {"subject": "Japan", "object": "Tokyo"}
        ]
    }"#;

    #[test]
    fn a_relation_is_read_as_the_data_sets_have_it() {
        let found = parse(TEXT, Path::new("capital.json")).unwrap();
        assert_eq!(found.samples.len(), 3, "a subject stands there once");
        assert_eq!(found.samples[0].object, "Paris");
        assert_eq!(found.template(1, false).unwrap(), "{}'s capital is");
        assert_eq!(
            found.template(0, true).unwrap(),
            "The capital city of {} is"
        );
        // There is one template without examples, and two others.
        assert_eq!(found.template(1, true).unwrap(), "{}'s capital is");
        assert!(found.template(2, false).is_err());
        assert_eq!(found.properties["fn_type"], "ONE_TO_ONE");
    }

    #[test]
    fn no_subject_is_on_both_sides_and_the_seed_decides() {
        let found = parse(TEXT, Path::new("capital.json")).unwrap();
        let one = found.split(2, 9, 1).unwrap();
        assert_eq!((one.training.len(), one.held_out.len()), (2, 1));
        assert!(!one.training.contains(&one.held_out[0]));
        assert_eq!(one, found.split(2, 9, 1).unwrap());
        assert!((2..20).any(|seed| found.split(2, 9, seed).unwrap() != one));
        assert!(found.split(3, 9, 1).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        for (text, why) in [
            ("[]", "not a JSON object"),
            (
                r#"{"name": "a", "prompt_templates": [], "samples": []}"#,
                "no template",
            ),
            (
                r#"{"name": "a", "prompt_templates": ["of is"], "samples": []}"#,
                "0 times {}",
            ),
            (
                r#"{"name": "a", "prompt_templates": ["{}"], "samples": [{"subject": " ", "object": "b"}]}"#,
                "sample 1",
            ),
        ] {
            let error = parse(text, Path::new("r")).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
