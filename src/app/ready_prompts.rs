//! Ready prompts: prompts that a new user can try at once, and what to look at.
//!
//! Invariant: the demo model's list is a file that the tests check; other models get a general list.
//! To add a ready prompt, add a table to `demo/prompts.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::instruments::{Arguments, Instrument};

/// A prompt with a reason to try it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReadyPrompt {
    /// A short title.
    pub title: String,
    pub text: String,
    /// Whether it is encoded by the chat template.
    #[serde(default)]
    pub chat: bool,
    /// What to look at, in one sentence.
    pub look: String,
}

#[derive(Default, Deserialize)]
struct Presets {
    prompt: Vec<ReadyPrompt>,
    /// Parameters of instruments that suit the model better than their defaults, by instrument.
    #[serde(default)]
    defaults: BTreeMap<String, BTreeMap<String, String>>,
}

const DEMO: &str = include_str!("../../demo/prompts.toml");

const NEUTRAL: &str = r#"
[[prompt]]
title = "A fact"
text = "The capital of France is"
look = "At which layer of the lens the answer first comes out on top."

[[prompt]]
title = "Two hops"
text = "The capital of the country whose largest city is Istanbul is"
look = "Whether the country shows in the middle layers before its capital."

[[prompt]]
title = "Indirect object"
text = "When Mary and John went to the store, John gave a drink to"
look = "Where the other name overtakes the one said twice."

[[prompt]]
title = "Repeated words"
text = "river lamp seven cloud paper river lamp seven cloud"
look = "The second half: how sharply the copy wins in the late layers."

[[prompt]]
title = "Four examples"
text = "hot -> cold\nbig -> small\nup -> down\nfast -> slow\nold ->"
look = "When the mapping takes over from plain repetition."

[[prompt]]
title = "A question (chat)"
text = "Explain in one sentence why the sky is blue."
chat = true
look = "The turn marks, and what the first written token was chosen from."
"#;

/// The ready prompts for a model argument.
pub fn presets(model: &str) -> Vec<ReadyPrompt> {
    read(model).prompt
}

/// The parameters an instrument starts with on a model.
pub fn defaults(model: &str, instrument: &dyn Instrument) -> Arguments {
    let given = read(model).defaults.remove(instrument.name());
    let given = Arguments::of(given.unwrap_or_default());
    instrument.read(&given).unwrap_or_else(|error| {
        tracing::error!(
            "the ready parameters of {} do not parse: {error}",
            instrument.name()
        );
        given
    })
}

fn read(model: &str) -> Presets {
    let text = if model == "demo" { DEMO } else { NEUTRAL };
    toml::from_str(text).unwrap_or_else(|error| {
        tracing::error!("the ready prompts do not parse: {error}");
        Presets::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_parse_and_say_what_to_look_at() {
        for model in ["demo", "other"] {
            let list = presets(model);
            assert!(list.len() >= 6, "{model}");
            assert!(
                list.iter()
                    .all(|p| !p.title.is_empty() && !p.text.is_empty() && p.look.ends_with('.'))
            );
        }
        assert_eq!(presets("demo").len(), 8);
    }
}
