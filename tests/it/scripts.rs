//! Scripts: updates and keys in; requests and visible text out. A new test is a new file in `scripts/`.
//!
//! A step has `updates` (words of the little language in [`update`]), `keys` (as `keys.toml` writes them), `type`
//! (a text typed letter by letter); and expects `asks` (everything asked for, in order; by the updates only where nothing is typed), `sees` and `misses`.

use std::path::Path;

use lmscope::app::Event;
use lmscope::engine::{Ending, Update};
use lmscope::figure::Check;
use lmscope::instruments::instrument;
use lmscope::lab::writer::BaselineMode;
use lmscope::model::known::KnownModel;
use lmscope::ui::theme::Theme;
use serde::Deserialize;

use crate::recorded::{
    self, PROMPT, began, lens, loaded, neurons, patchscope, press, say, shown, type_in,
};
use crate::screens::{paint, text};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    about: String,
    size: Option<(u16, u16)>,
    step: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Step {
    updates: Vec<String>,
    keys: String,
    r#type: String,
    paste: String,
    /// What the user's editor leaves.
    edited: String,
    seconds: u64,
    asks: Option<Vec<String>>,
    sees: Vec<String>,
    misses: Vec<String>,
}

fn update(words: &str) -> Update {
    let (name, rest) = words.split_once(' ').unwrap_or((words, ""));
    let number = |s: &str| s.trim().parse::<usize>().unwrap();
    match name {
        "taken" => Update::TakenUp,
        "loaded" => loaded(),
        "counted" => {
            let (tokens, text) = rest.split_once(' ').unwrap();
            Update::Counted {
                text: text.into(),
                chat: false,
                tokens: number(tokens),
            }
        }
        "began" if rest.is_empty() => began(&PROMPT),
        "began" => began(&rest.split('|').collect::<Vec<_>>()),
        // As `began`, with an id for every word, so that texts can be compared.
        "words" => {
            let words: Vec<&str> = rest.split('|').collect();
            let Update::Began(mut tokens) = began(&words) else {
                unreachable!()
            };
            for (token, word) in tokens.iter_mut().zip(words) {
                token.id = word.bytes().fold(7, |id, b| id * 31 % 9973 + u32::from(b));
            }
            Update::Began(tokens)
        }
        "models" => Update::Models(vec![
            KnownModel {
                argument: "demo".into(),
                family: "llama".into(),
                parameters: Some(3_640_000),
                fits: Some(true),
                ..KnownModel::default()
            },
            KnownModel {
                argument: "/models/small.gguf".into(),
                family: "gguf".into(),
                dtypes: "gguf".into(),
                bytes: Some(98_362_432),
                fits: Some(false),
                path: Some("/models/small.gguf".into()),
                ..KnownModel::default()
            },
            KnownModel {
                argument: "some/half".into(),
                missing: Some("model.safetensors".into()),
                bytes: Some(0),
                path: Some("/cache/half".into()),
                ..KnownModel::default()
            },
        ]),
        "token" => {
            let (position, word) = rest.split_once(' ').unwrap();
            recorded::wrote(number(position), word.as_bytes(), None)
        }
        "edited-token" => {
            let (position, word) = rest.split_once(' ').unwrap();
            recorded::wrote(number(position), word.as_bytes(), Some(0.8))
        }
        "ended" => {
            let ending = match rest {
                "stopped" => Ending::Stopped,
                "context" => Ending::Context,
                "end" => Ending::EndToken,
                _ => Ending::Count,
            };
            Update::Ended {
                ending,
                written: 5,
                rate: 61.0,
            }
        }
        "edited" => Update::Edited {
            boundary: rest.trim().parse().ok(),
            receipts: vec![],
        },
        "beside" => Update::Beside {
            beside: match rest {
                "own" => BaselineMode::OwnText,
                "forced" => BaselineMode::Forced,
                _ => BaselineMode::SameText,
            },
            tokens: vec![],
            diverged: None,
        },
        "pair" => {
            let words: Vec<&str> = rest.split('|').collect();
            Update::Token {
                token: recorded::beside(number(words[0]), words[1], words[2], 0.5),
                receipts: vec![],
            }
        }
        "grouped" => Update::Grouped(rest.into()),
        "refused" => Update::Refused(
            rest.split_whitespace()
                .map(|e| e.parse().unwrap())
                .collect(),
        ),
        "kept" => Update::Kept(number(rest) as u64),
        "restored" => Update::Restored(number(rest) as u64),
        "rewound" => Update::Rewound(number(rest)),
        "lens" => shown("lens", lens(0, number(rest), 0.0)),
        "column" => Update::Column {
            slot: "lens",
            column: Box::new(lens(number(rest), number(rest) + 1, 0.0).into()),
        },
        "neurons" => shown("neurons", neurons(0, number(rest))),
        "features" => shown("features", recorded::features(0, number(rest))),
        "answers" => shown("answers", recorded::answers()),
        "circuit" => shown("circuit", recorded::circuit()),
        "saliency" => shown("saliency", recorded::saliency(number(rest))),
        "unmade" => Update::Failed {
            slot: Some("saliency"),
            message: rest.into(),
        },
        "unedited-neurons" => Update::Figure {
            slot: "neurons",
            unedited: true,
            figure: Box::new(neurons(0, number(rest))),
        },
        "unedited-lens" => Update::Figure {
            slot: "lens",
            unedited: true,
            figure: Box::new(lens(0, number(rest), 0.0)),
        },
        "patchscope" => {
            let mut figure = patchscope();
            // Of so many tokens of the text, where that is said.
            figure.provenance.tokens = vec![7; rest.parse().unwrap_or(0)];
            shown("patchscope", figure)
        }
        "dropped" => Update::Dropped(instrument(rest).unwrap().name()),
        "checked" => Update::Checked(Check {
            error: rest.parse().unwrap(),
            tolerance: 1e-4,
        }),
        "failed" => Update::Failed {
            slot: None,
            message: rest.into(),
        },
        "direction" => Update::Direction(lmscope::engine::KnownDirection {
            name: rest.into(),
            addresses: vec!["resid_pre.2".parse().unwrap()],
            anywhere: false,
            length: 3.1,
            remarks: Vec::new(),
            strength: 1.0,
        }),
        "baseline" => {
            let tokens = rest
                .split('|')
                .enumerate()
                .map(|(i, w)| recorded::token(PROMPT.len() + i, w.as_bytes(), Some(-0.1), None))
                .collect();
            Update::Baseline {
                tokens,
                diverges: Some(PROMPT.len() + 1),
            }
        }
        _ => panic!("`{words}` is no update"),
    }
}

fn play(path: &Path) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let script: Script = toml::from_str(&std::fs::read_to_string(path).unwrap())
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut app = recorded::app(script.size.unwrap_or((120, 40)), vec![]);
    for (i, step) in script.step.iter().enumerate() {
        let at = format!("{name}, step {} ({})", i + 1, script.about);
        let mut asked = Vec::new();
        for words in &step.updates {
            asked.extend(app.update(Event::Engine(update(words))));
        }
        if !(step.keys.is_empty() && step.r#type.is_empty() && step.paste.is_empty()) {
            // What the updates led to belongs to steps without keys.
            asked.clear();
        }
        if !step.keys.is_empty() {
            asked.extend(press(&mut app, &step.keys));
        }
        asked.extend(type_in(&mut app, &step.r#type));
        if !step.edited.is_empty() {
            asked.extend(app.update(Event::Edited(step.edited.clone())));
        }
        if !step.paste.is_empty() {
            asked.extend(app.update(Event::Paste(step.paste.clone())));
        }
        if step.seconds > 0 {
            app.update(Event::Tick(
                app.now + std::time::Duration::from_secs(step.seconds),
            ));
        }
        let asked: Vec<String> = asked.iter().map(say).collect();
        if let Some(expected) = &step.asks {
            assert_eq!(&asked, expected, "{at}");
        }
        let screen = text(&paint(&app, &Theme::default()));
        for wanted in &step.sees {
            assert!(
                screen.contains(wanted),
                "{at}: `{wanted}` is not on the screen:\n{screen}"
            );
        }
        for unwanted in &step.misses {
            assert!(
                !screen.contains(unwanted),
                "{at}: `{unwanted}` is on the screen:\n{screen}"
            );
        }
    }
}

#[test]
fn every_script_plays() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 12, "{paths:?}");
    let failed = paths
        .iter()
        .filter(|p| std::panic::catch_unwind(|| play(p)).is_err())
        .count();
    assert_eq!(failed, 0, "scripts failed; each said why above");
}
