//! Lists of prompts as files: what each prompt is, and what is known of it.
//!
//! A file holds a prompt a line; or, where it ends in `.tsv` or `.csv`, columns with names in the first line; or, where it ends in `.json` or
//! `.jsonl`, a list of texts or objects (of `.jsonl`, one a line). A pipe has no ending and is what its text looks like. Columns and keys:
//! `prompt` or (JSON) `messages`, and, where they are known, `label`, `entity`, `answer`, `alternatives` (a JSON list of texts; in a table
//! between `|`) and `id`, the reader's own name of a prompt.
//!
//! Invariant: nothing is left out silently: an empty prompt, an unknown column or key is an error that names the line. To read another
//! property of a prompt, add a field to [`ListedPrompt`] and its name to `KEYS`.

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::Lab;
use super::pairs::span_of;
use crate::error::{Error, Result};
use crate::figure::{GivenPrompt, GivenTurn};
use crate::model::tokenizer::encoding::{self, EncodedText};
use crate::model::tokenizer::template::Message;

const NEXT: &str = "Write a prompt a line; or a .tsv or .csv file whose first line names its columns (prompt, label, entity, answer, alternatives, id); or a .json list of texts, or of objects with prompt or messages, and label, entity, answer, alternatives, id where you know them.";

/// What may be known of a prompt.
const KEYS: [&str; 7] = [
    "prompt",
    "messages",
    "label",
    "entity",
    "answer",
    "alternatives",
    "id",
];

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptText {
    Plain(String),
    Turns(Vec<Message>),
}

/// A prompt of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPrompt {
    pub text: PromptText,
    /// The class that it belongs to.
    pub label: Option<String>,
    /// The text of the entity that it is about.
    pub entity: Option<String>,
    /// The answer that it asks for.
    pub answer: Option<String>,
    /// Other answers, with which that one is compared.
    pub alternatives: Vec<String>,
    /// What the reader calls it, to find it again in a table of other things; nothing else is made of it.
    pub id: Option<String>,
}

impl ListedPrompt {
    fn plain(text: &str) -> Self {
        Self {
            text: PromptText::Plain(text.to_string()),
            label: None,
            entity: None,
            answer: None,
            alternatives: Vec::new(),
            id: None,
        }
    }

    /// It as it was given; a plain text is one user turn where `chat`.
    pub fn given(&self, chat: bool) -> GivenPrompt {
        match &self.text {
            PromptText::Plain(text) if chat => GivenPrompt::Chat(text.clone()),
            PromptText::Plain(text) => GivenPrompt::Text(text.clone()),
            PromptText::Turns(turns) => {
                let turns = turns.iter().map(|turn| GivenTurn {
                    role: turn.role.clone(),
                    content: turn.content.clone(),
                });
                GivenPrompt::Messages(turns.collect())
            }
        }
    }

    /// What it says, without a template: of a conversation the last turn.
    pub fn words(&self) -> &str {
        match &self.text {
            PromptText::Plain(text) => text,
            PromptText::Turns(turns) => turns.last().map_or("", |turn| &turn.content),
        }
    }
}

/// A position of each prompt by what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionRole {
    /// The last token.
    Last,
    /// The last token of the entity.
    Entity,
    /// Every token.
    All,
    /// The mean over the tokens of the answer that the prompt ends in.
    ResponseMean,
}

impl PositionRole {
    /// The names of all, in the order of the variants.
    pub const NAMES: [&'static str; 4] = ["last", "entity", "all", "response-mean"];

    /// The role of a name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Last, Self::Entity, Self::All, Self::ResponseMean];
        let at = Self::NAMES.iter().position(|own| *own == name)?;
        Some(all[at])
    }

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// A prompt in tokens, and the positions that a role means in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedPrompt {
    pub tokens: Vec<u32>,
    pub positions: Range<usize>,
}

/// Reads a list.
///
/// # Errors
///
/// When the file cannot be read, holds no prompt, or something that is not read.
pub fn read(path: &Path) -> Result<Vec<ListedPrompt>> {
    let path = crate::file::or_standard_input(path);
    let bad = |what: String| Error::bad_file(path, what, NEXT);
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let text = crate::file::words(path)?;
    let ending = if crate::file::is_pipe(path) {
        looks_like(&text)
    } else {
        ending
    };
    let prompts = match ending {
        "json" => {
            let json: Value =
                serde_json::from_str(&text).map_err(|e| bad(format!("it is no JSON ({e})")))?;
            let list = json.as_array().ok_or_else(|| bad("it is no list".into()))?;
            let each = list.iter().enumerate();
            let each = each.map(|(i, value)| {
                of_json(value).map_err(|what| bad(format!("prompt {} {what}", i + 1)))
            });
            each.collect::<Result<Vec<_>>>()?
        }
        "jsonl" => numbered(&text)
            .map(|(number, line)| {
                let json = serde_json::from_str(line).map_err(|e| format!("is no JSON ({e})"));
                let prompt = json.and_then(|json: Value| of_json(&json));
                prompt.map_err(|what| bad(format!("line {number} {what}")))
            })
            .collect::<Result<Vec<_>>>()?,
        "tsv" => of_columns(&text).map_err(bad)?,
        "csv" => of_records(&text).map_err(bad)?,
        _ => numbered(&text)
            .map(|(_, line)| ListedPrompt::plain(line))
            .collect(),
    };
    if prompts.is_empty() {
        return Err(bad("it holds no prompts".into()));
    }
    Ok(prompts)
}

/// The ending of a file with such a text: JSON where all of it is a list, a table where its first line names the column `prompt` beside
/// others, otherwise none.
fn looks_like(text: &str) -> &'static str {
    let first = numbered(text).next().map_or("", |(_, line)| line);
    let object =
        |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|json| json.is_object());
    if first.trim_start().starts_with('[') && serde_json::from_str::<Value>(text).is_ok() {
        "json"
    } else if object(first) {
        "jsonl"
    } else if first.contains('\t') && first.split('\t').any(|name| name.trim() == "prompt") {
        "tsv"
    } else {
        ""
    }
}

/// Lines that are not empty, with their numbers.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    lines.filter(|(_, line)| !line.trim().is_empty())
}

/// A prompt from JSON; the error ends a sentence about it.
fn of_json(value: &Value) -> Result<ListedPrompt, String> {
    if let Some(text) = value.as_str() {
        return filled(ListedPrompt::plain(text));
    }
    let fields = value.as_object().ok_or("is neither a text nor an object")?;
    if let Some(other) = fields.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!(
            "has `{other}`, which is not read; {} are",
            KEYS.join(", ")
        ));
    }
    let word = |key: &str| match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        // A class or a name is often written as a number.
        Some(Value::Number(number)) if ["label", "id"].contains(&key) => {
            Ok(Some(number.to_string()))
        }
        Some(_) => Err(format!("has a `{key}` that is no text")),
    };
    let alternatives = match fields.get("alternatives") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => between_bars(text),
        Some(list) => {
            let texts = list.as_array().into_iter().flatten().map(Value::as_str);
            let texts: Option<Vec<String>> = texts.map(|t| t.map(str::to_string)).collect();
            let texts = texts.filter(|texts| !texts.is_empty());
            texts.ok_or("has `alternatives` that are no list of texts")?
        }
    };
    let text = match (word("prompt")?, fields.get("messages")) {
        (Some(text), None) => PromptText::Plain(text),
        (None, Some(turns)) => PromptText::Turns(
            encoding::messages(turns).map_err(|what| format!("has messages of which {what}"))?,
        ),
        (Some(_), Some(_)) => return Err("has both prompt and messages".into()),
        (None, None) => return Err("has neither prompt nor messages".into()),
    };
    filled(ListedPrompt {
        text,
        label: word("label")?,
        entity: word("entity")?,
        answer: word("answer")?,
        alternatives,
        id: word("id")?,
    })
}

/// The texts between bars.
fn between_bars(text: &str) -> Vec<String> {
    let texts = text.split('|').filter(|text| !text.is_empty());
    texts.map(str::to_string).collect()
}

/// Refuses a prompt without a text.
fn filled(prompt: ListedPrompt) -> Result<ListedPrompt, String> {
    match &prompt.text {
        PromptText::Plain(text) if text.trim().is_empty() => Err("is empty".into()),
        PromptText::Plain(_) | PromptText::Turns(_) => Ok(prompt),
    }
}

/// The prompts of a table with tabs between its columns.
fn of_columns(text: &str) -> Result<Vec<ListedPrompt>, String> {
    let mut lines = numbered(text);
    let (_, head) = lines.next().ok_or("it is empty")?;
    let names: Vec<&str> = head.split('\t').map(str::trim).collect();
    check_columns(&names)?;
    lines
        .map(|(number, line)| of_cells(&names, number, &line.split('\t').collect::<Vec<_>>()))
        .collect()
}

/// The prompts of a table with commas between its columns, quoted as RFC 4180 has it; lines that begin with `#` are comments, as in the
/// CSV that lmscope writes.
fn of_records(text: &str) -> Result<Vec<ListedPrompt>, String> {
    let mut reader = csv::ReaderBuilder::new();
    let mut reader = reader
        .comment(Some(b'#'))
        .flexible(true)
        .from_reader(text.as_bytes());
    let head = reader
        .headers()
        .map_err(|e| format!("its first line is no CSV ({e})"))?
        .clone();
    let names: Vec<&str> = head.iter().map(str::trim).collect();
    check_columns(&names)?;
    let records = reader.records().map(|record| {
        let record = record.map_err(|e| format!("holds what is no CSV ({e})"))?;
        let number = record.position().map_or(0, csv::Position::line) as usize;
        of_cells(&names, number, &record.iter().collect::<Vec<_>>())
    });
    records.collect()
}

/// Refuses a table of which a column is not read, or named twice, or without prompts.
fn check_columns(names: &[&str]) -> Result<(), String> {
    let unknown = |name: &&&str| !KEYS.contains(*name) || **name == "messages";
    if let Some(other) = names.iter().find(unknown) {
        return Err(format!(
            "its first line names a column `{other}`, which is not read"
        ));
    }
    let twice = |(i, name): &(usize, &&str)| names[..*i].contains(name);
    if let Some((_, name)) = names.iter().enumerate().find(twice) {
        return Err(format!("its first line names the column `{name}` twice"));
    }
    if !names.contains(&"prompt") {
        return Err("its first line names no column `prompt`".into());
    }
    Ok(())
}

/// The prompt of a line of a table; the error ends a sentence about the list.
fn of_cells(names: &[&str], number: usize, cells: &[&str]) -> Result<ListedPrompt, String> {
    if cells.len() != names.len() {
        return Err(format!(
            "line {number} has {} cells and there are {} columns",
            cells.len(),
            names.len()
        ));
    }
    let word = |name: &str| {
        let at = names.iter().position(|own| *own == name)?;
        Some(cells[at].to_string()).filter(|cell| !cell.is_empty())
    };
    filled(ListedPrompt {
        label: word("label"),
        entity: word("entity"),
        answer: word("answer"),
        alternatives: word("alternatives").map_or_else(Vec::new, |t| between_bars(&t)),
        id: word("id"),
        ..ListedPrompt::plain(&word("prompt").unwrap_or_default())
    })
    .map_err(|what| format!("line {number} {what}"))
}

impl ListedPrompt {
    /// Its tokens, however many; a plain text is one user turn where `chat`.
    ///
    /// # Errors
    ///
    /// When it cannot be encoded.
    pub fn tokens(&self, lab: &Lab, chat: bool) -> Result<EncodedText> {
        match &self.text {
            PromptText::Turns(turns) => lab.model.encode_chat(turns),
            PromptText::Plain(text) if chat => lab.model.encode_chat(&[Message::new("user", text)]),
            PromptText::Plain(text) => Ok(EncodedText {
                tokens: lab.model.encode(text, false)?,
                response: None,
            }),
        }
    }

    /// The conversation with its answer in tokens, and the positions of the answer: of messages whose last turn is the assistant's, or of
    /// a prompt (a user turn) or messages with an `answer`, or with the answer that --prefill begins.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the model has no chat template; `flag` is that which asks for it.
    pub fn response(&self, lab: &Lab, flag: &str, name: &str) -> Result<PlacedPrompt> {
        let mut turns = match &self.text {
            PromptText::Turns(turns) => turns.clone(),
            PromptText::Plain(text) => vec![Message::new("user", text)],
        };
        let answered = turns.last().is_some_and(|turn| turn.role == "assistant");
        if let Some(answer) = &self.answer {
            if answered {
                let expected = "an answer in one place: a conversation of the list ends with a turn of the assistant and has an `answer` too";
                return Err(Error::argument(flag, name, expected));
            }
            turns.push(Message::new("assistant", answer));
        }
        let EncodedText { tokens, response } = lab.model.encode_chat(&turns)?;
        lab.model.check_prompt(&tokens)?;
        match response {
            Some(first) if first < tokens.len() => Ok(PlacedPrompt {
                positions: first..tokens.len(),
                tokens,
            }),
            Some(_) | None => {
                let expected = "prompts that end in an answer: messages whose last turn is the assistant's, a prompt with an `answer`, or --prefill";
                Err(Error::argument(flag, name, expected))
            }
        }
    }

    /// Its tokens and the positions of a role.
    ///
    /// # Errors
    ///
    /// When it cannot be encoded, does not fit the model, or has no such position.
    pub fn place(&self, lab: &Lab, chat: bool, role: PositionRole) -> Result<PlacedPrompt> {
        if role == PositionRole::ResponseMean {
            return self.response(lab, "--positions", role.name());
        }
        let text = self.tokens(lab, chat)?;
        lab.model.check_prompt(&text.tokens)?;
        let positions = self.positions(lab, &text, role, ("--positions", role.name()))?;
        Ok(PlacedPrompt {
            tokens: text.tokens,
            positions,
        })
    }

    /// The positions of a role in its tokens; `given`: the parameter that names the role, for errors, and the word it does so with.
    ///
    /// # Errors
    ///
    /// When it has no such position.
    pub fn positions(
        &self,
        lab: &Lab,
        text: &EncodedText,
        role: PositionRole,
        (parameter, word): (&str, &str),
    ) -> Result<Range<usize>> {
        let all = text.tokens.len();
        match role {
            PositionRole::Last => Ok(all.saturating_sub(1)..all),
            PositionRole::All => Ok(0..all),
            PositionRole::Entity => {
                let entity = self.entity.as_deref().ok_or_else(|| {
                    let expected =
                        "a list that says the entity of every prompt (a column or key `entity`)";
                    Error::argument(parameter, word, expected)
                })?;
                let span = span_of(lab, &text.tokens, "entity", entity)?;
                Ok(span.end - 1..span.end)
            }
            PositionRole::ResponseMean => match text.response {
                Some(first) if first < all => Ok(first..all),
                Some(_) | None => {
                    let expected = "prompts that end in an answer: messages whose last turn is the assistant's, or --prefill";
                    Err(Error::argument(parameter, word, expected))
                }
            },
        }
    }
}

/// An error about a prompt of a list, with its place.
pub fn in_list(file: &Path, index: usize, error: Error) -> Error {
    if matches!(error, Error::Cancelled | Error::Signal(_)) {
        return error;
    }
    let what = error.to_string();
    let what = format!(
        "of its prompt {}: {}",
        index + 1,
        what.trim_end_matches('.')
    );
    Error::bad_file(file, what, "Mend that prompt, or leave it out.")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn list(name: &str, text: &str) -> Result<Vec<ListedPrompt>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn lists_are_read_in_every_spelling() {
        let two = [ListedPrompt::plain("one"), ListedPrompt::plain(" two ")];
        assert_eq!(list("x.txt", "one\n\n two \n").unwrap(), two);
        assert_eq!(
            list("x.json", r#"["one", {"prompt": " two "}]"#).unwrap(),
            two
        );
        assert_eq!(
            list("x.jsonl", "\"one\"\n{\"prompt\": \" two \"}\n").unwrap(),
            two
        );
        assert_eq!(list("x.tsv", "prompt\none\n two \n").unwrap(), two);
        let known = ListedPrompt {
            label: Some("1".into()),
            entity: Some("France".into()),
            answer: Some(" Paris".into()),
            alternatives: vec![" Rome".into(), " Oslo".into()],
            id: Some("7".into()),
            ..ListedPrompt::plain("In France")
        };
        let table = "label\tprompt\tanswer\tentity\talternatives\tid\n1\tIn France\t Paris\tFrance\t Rome| Oslo\t7\n";
        assert_eq!(list("x.tsv", table).unwrap(), std::slice::from_ref(&known));
        let commas = "label,prompt,answer,entity,alternatives,id\n# a comment\n1,In France,\" Paris\",France,\" Rome| Oslo\",7\n";
        assert_eq!(list("x.csv", commas).unwrap(), std::slice::from_ref(&known));
        let quoted = list("x.csv", "prompt\n\"one, \"\"two\"\"\nthree\"\n").unwrap();
        assert_eq!(quoted, [ListedPrompt::plain("one, \"two\"\nthree")]);
        let json = r#"[{"prompt": "In France", "label": 1, "answer": " Paris", "entity": "France", "alternatives": [" Rome", " Oslo"], "id": 7}]"#;
        assert_eq!(list("x.json", json).unwrap(), [known]);
        let turns = list(
            "x.json",
            r#"[{"messages": [{"role": "user", "content": "Hi"}]}]"#,
        );
        assert_eq!(
            turns.unwrap()[0].text,
            PromptText::Turns(vec![Message::new("user", "Hi")])
        );
    }

    #[test]
    fn a_pipe_is_what_its_text_looks_like() {
        for (text, ending) in [
            ("prompt\tanswer\na\tb\n", "tsv"),
            ("prompt\none\n", ""),
            ("the prompt\tof tabs\n", ""),
            ("[\"a\",\n \"b\"]\n", "json"),
            ("[INST] a\n[INST] b\n", ""),
            ("{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n", "jsonl"),
            ("{a} is a set\n", ""),
            ("\n", ""),
        ] {
            assert_eq!(looks_like(text), ending, "{text}");
        }
    }

    #[test]
    fn what_is_not_read_is_an_error_with_its_line() {
        for (name, text, said) in [
            ("x.txt", "\n", "no prompts"),
            ("x.json", "{}", "no list"),
            ("x.json", r#"["a", {"promt": "b"}]"#, "prompt 2 has `promt`"),
            (
                "x.json",
                r#"[{"label": "b"}]"#,
                "neither prompt nor messages",
            ),
            ("x.json", r#"[{"prompt": ""}]"#, "prompt 1 is empty"),
            (
                "x.json",
                r#"[{"prompt": "a", "alternatives": [1]}]"#,
                "no list of texts",
            ),
            ("x.jsonl", "\"a\"\n{\n", "line 2 is no JSON"),
            ("x.tsv", "prompt\tclass\na\tb\n", "column `class`"),
            ("x.tsv", "label\na\n", "no column `prompt`"),
            ("x.tsv", "prompt\tlabel\tlabel\na\tb\tc\n", "`label` twice"),
            ("x.tsv", "prompt\tlabel\na\n", "line 2 has 1 cells"),
            ("x.csv", "prompt,label\na\n", "line 2 has 1 cells"),
            ("x.csv", "prompt,class\na,b\n", "column `class`"),
            ("x.csv", "", "no column `prompt`"),
        ] {
            let error = list(name, text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
