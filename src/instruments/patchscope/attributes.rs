//! Subjects with attributes that should be decoded from their states, and the test whether a text states one of them.
//!
//! A file is lines of `subject<TAB>answer|answer`, with an optional third column for the prompt from which the state is taken
//! (by default the subject alone), or a JSON list of `{"subject": .., "answers": [..], "prompt": ..}`. Invariant: the subject
//! occurs in its prompt, and an answer is searched for as whole words, ignoring case: `woman` does not contain the answer
//! `Oman`. To read another form, add it to [`read`].

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// A subject and its answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectFact {
    /// The text whose state is decoded.
    pub subject: String,
    /// Accepted answers; any of them counts.
    pub answers: Vec<String>,
    /// The prompt that the model reads; if empty, the subject alone.
    #[serde(default)]
    pub prompt: String,
}

impl SubjectFact {
    /// The prompt from which the state is taken.
    pub fn text(&self) -> &str {
        if self.prompt.is_empty() {
            &self.subject
        } else {
            &self.prompt
        }
    }

    /// The answers, prepared for searching.
    pub fn prepare_answers(&self) -> SubjectAnswers {
        SubjectAnswers {
            answers: self.answers.iter().map(|a| Words::new(a)).collect(),
            all: Words::new(&self.answers.join(" | ")),
        }
    }
}

/// A text as normalised words, prepared once for many searches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Words(String);

impl Words {
    pub fn new(text: &str) -> Self {
        Self(words(text))
    }
}

/// A subject's answers, prepared for searching.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubjectAnswers {
    answers: Vec<Words>,
    /// All answers as one text.
    all: Words,
}

impl SubjectAnswers {
    /// Whether a text contains one of the answers.
    pub fn said_in(&self, text: &Words) -> bool {
        self.answers.iter().any(|a| says(&text.0, &a.0))
    }

    /// Whether another subject has one of these answers, too.
    pub fn shares(&self, other: &Self) -> bool {
        self.said_in(&other.all) || other.said_in(&self.all)
    }
}

/// Words in lower case, separated by one space; every character that is neither letter nor digit separates words.
fn words(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric());
    words
        .filter(|w| !w.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether a text contains an answer as whole words.
fn says(text: &str, answer: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c == ' ' || unspaced(c));
    let free = |c: Option<char>| c.is_some_and(unspaced);
    let (first, last) = (answer.chars().next(), answer.chars().next_back());
    text.match_indices(answer).any(|(i, found)| {
        let before = text[..i].chars().next_back();
        let after = text[i + found.len()..].chars().next();
        (free(first) || ends(before)) && (free(last) || ends(after))
    }) && !answer.is_empty()
}

/// Whether a letter belongs to a script without spaces between words (Thai, Lao, Chinese, Japanese) or to Korean, where
/// particles are attached to words.
fn unspaced(c: char) -> bool {
    ('\u{0e00}'..='\u{0eff}').contains(&c) || c >= '\u{2e80}'
}

/// Reads a file of subjects.
///
/// # Errors
///
/// When the file does not exist or has another form.
pub fn read(path: &Path) -> Result<Vec<SubjectFact>> {
    let text = crate::file::words(path)?;
    parse(&text, path)
}

/// Parses subjects from text; `path` is for error messages.
///
/// # Errors
///
/// As [`read`].
pub fn parse(text: &str, path: &Path) -> Result<Vec<SubjectFact>> {
    let bad = |what: String| {
        let next = "Write one subject a line: subject, tab, answers separated by |; or a JSON list of {\"subject\": .., \"answers\": [..]}.";
        Error::bad_file(path, what, next)
    };
    let subjects: Vec<SubjectFact> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(|e| bad(e.to_string()))?
    } else {
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty());
        let subject = |(i, line): (usize, &str)| {
            let parts: Vec<&str> = line.split('\t').map(str::trim).collect();
            match parts.as_slice() {
                [subject, answers, rest @ ..] if rest.len() <= 1 => Ok(SubjectFact {
                    subject: (*subject).to_string(),
                    answers: answers.split('|').map(|a| a.trim().to_string()).collect(),
                    prompt: rest.first().map_or_else(String::new, ToString::to_string),
                }),
                _ => Err(bad(format!(
                    "line {} is not subject, answers and (optionally) a prompt, with tabs between them",
                    i + 1
                ))),
            }
        };
        lines.map(subject).collect::<Result<_>>()?
    };
    if subjects.is_empty() {
        return Err(bad("it holds no subjects".into()));
    }
    for (i, subject) in subjects.iter().enumerate() {
        let name = &subject.subject;
        let number = i + 1;
        if name.is_empty() {
            return Err(bad(format!("subject {number} is empty")));
        }
        if subject.answers.is_empty() || subject.answers.iter().any(|a| words(a).is_empty()) {
            return Err(bad(format!(
                "subject {number}, `{name}`, has no answer, or an answer without letters or digits"
            )));
        }
        if !subject.text().contains(name.as_str()) {
            return Err(bad(format!(
                "the prompt of subject {number} does not contain `{name}`"
            )));
        }
    }
    Ok(subjects)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn look(answers: &[&str]) -> SubjectAnswers {
        let subject = SubjectFact {
            subject: "s".into(),
            answers: answers.iter().map(ToString::to_string).collect(),
            prompt: String::new(),
        };
        subject.prepare_answers()
    }

    #[test]
    fn an_answer_is_said_in_whole_words() {
        let s = look(&["Oman", "New York"]);
        assert!(s.said_in(&Words::new(": country, OMAN.")));
        assert!(s.said_in(&Words::new("in new-york city")));
        for text in ["a woman", "New Haven, York", "", "York New"] {
            assert!(!s.said_in(&Words::new(text)), "{text}");
        }
        assert!(look(&["東京"]).said_in(&Words::new(": 東京です")));
    }

    #[test]
    fn answers_that_contain_each_other_are_shared() {
        let europe = look(&["country in Europe"]);
        assert!(europe.shares(&look(&["Europe", "Asia"])));
        assert!(!europe.shares(&look(&["country in Asia"])));
    }

    #[test]
    fn both_forms_are_read_and_what_is_missing_is_said() {
        let path = Path::new("subjects");
        let tabs = "France\tEurope | West\tPeople in France\n\nrobin\tbird\n";
        let json = r#"[{"subject": "France", "answers": ["Europe", "West"], "prompt": "People in France"}, {"subject": "robin", "answers": ["bird"]}]"#;
        let read = parse(tabs, path).unwrap();
        assert_eq!(read, parse(json, path).unwrap());
        assert_eq!(read[0].answers, ["Europe", "West"]);
        assert_eq!(
            (read[0].text(), read[1].text()),
            ("People in France", "robin")
        );
        for (text, why) in [
            ("", "no subject"),
            ("France", "line 1"),
            ("France\tEurope\ta France\tb", "line 1"),
            ("\tEurope", "subject 1 is empty"),
            ("France\t", "no answer"),
            ("France\tEurope|", "no answer"),
            (
                "France\tEurope\tPeople in Spain",
                "does not contain `France`",
            ),
            (r#"[{"subject": "a", "answer": "b"}]"#, "answer"),
        ] {
            let error = parse(text, path).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
