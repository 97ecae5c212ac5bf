//! Chat templates against Python's jinja2, construct by construct; tokenizers in the shapes of real models.
//!
//! To compare templates of your own, write a file like tests/references/templates/templates.json and name it in
//! LMSCOPE_TEMPLATES: every case whose rendering differs is listed.

use std::path::{Path, PathBuf};

use lmscope::model::template::{Message, Sources, Template};
use serde::Deserialize;
use serde_json::Value;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn references() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references")
}

/// One template and what Python makes of it.
#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    expected: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Cases {
    messages: Vec<Turn>,
    specials: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

/// What jinja2 does and this engine does not, each rarer than the last: methods as values, floats in `e` notation, a
/// slash after a backslash, the arguments that a macro did not name, and filters that no chat template has.
const DIFFERENT: [&str; 10] = [
    "'a'.upper is defined",
    "'é'.encode is defined",
    "'abc' | attr('upper') is defined",
    "1.5e-7",
    "1e16",
    r"'\\d \t \x41 \u00e9 \/'",
    "'a b' | urlencode",
    "'one two three four' | truncate(9)",
    "cycler('a', 'b').next()",
    "macro_kwargs",
];

#[test]
fn templates_render_as_in_python() -> Outcome {
    let own = std::env::var_os("LMSCOPE_TEMPLATES").map(PathBuf::from);
    let file = own
        .clone()
        .unwrap_or_else(|| references().join("templates/templates.json"));
    let all: Cases = serde_json::from_slice(&std::fs::read(file)?)?;
    let turns: Vec<Message> = all
        .messages
        .into_iter()
        .map(|turn| Message::new(turn.role, turn.content))
        .collect();
    let config = serde_json::to_vec(&all.specials)?;
    let mut wrong = Vec::new();
    for case in &all.cases {
        let template = Template::from_sources(&Sources {
            jinja: Some(&case.template),
            tokenizer_config: Some(&config),
            ..Sources::default()
        })?;
        let found = template.ok_or("no template")?.render(&turns, true);
        let right = match (&found, &case.expected, &case.error) {
            (Ok(found), Some(expected), _) => found == expected,
            // A template's own refusal keeps its words; of other errors only that there is one.
            (Err(found), None, Some(error)) => match error.strip_prefix("TemplateError: ") {
                Some(words) => found.to_string().contains(words.trim_end_matches('.')),
                None => true,
            },
            _ => false,
        };
        if right == (own.is_none() && DIFFERENT.contains(&case.name.as_str())) {
            wrong.push(format!(
                "{}: Python {:?}{:?}, here {found:?}",
                case.name, case.expected, case.error
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        all.cases.len(),
        wrong.join("\n")
    );
    assert!(own.is_some() || all.cases.len() > 380);
    Ok(())
}
