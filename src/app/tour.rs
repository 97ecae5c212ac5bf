//! The tour: ten steps on the embedded model, one idea of the lecture each. A step is done when the person has done it.
//!
//! Invariant: a step says which keys are meant as they are bound now, and goes on by itself; nothing is pressed for the person. To add a
//! step, add a row to [`STEPS`].

use super::App;
use super::commands::{self, CommandResult};
use super::layout::Pane;
use crate::figure::Body;

/// A step.
#[derive(Debug)]
pub struct TourStep {
    /// The idea, in a few words.
    pub idea: &'static str,
    /// What to do and what to see; `{ablate}` stands for the keys of that command.
    text: &'static str,
    /// Whether the person has done it.
    done: fn(&App) -> bool,
}

/// The name of the model that the steps are about.
const DEMO: &str = "demo";

/// How far the tour is; past the last step it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tour {
    pub step: usize,
}

/// The steps in their order.
pub const STEPS: &[TourStep] = &[
    TourStep {
        idea: "A model writes token by token",
        text: "{run} runs the chosen prompt. Beside the text the lens fills: a column a token, a row a layer.",
        done: |app| app.wrote(1),
    },
    TourStep {
        idea: "The residual stream, read early: logit lens",
        text: "{next-pane} goes to the lens, {down} down a layer: find one that says something else than the top row. Below it the answer is not there yet.",
        done: App::found_another_prediction,
    },
    TourStep {
        idea: "One neuron: what it promotes",
        text: "{next-figure} shows the neurons that fire most at this token, and the tokens whose logits each of them raises.",
        done: |app| app.layout.focus == Pane::Figure("neurons") && app.figure("neurons").is_some(),
    },
    TourStep {
        idea: "Does it matter? Ablate it",
        text: "{ablate} sets the neuron under the cursor to 0: an edit, which is listed, and the header says that one is on. {again} writes the text again with it.",
        done: |app| app.history.active() > 0 && app.was_written_under_edits(),
    },
    TourStep {
        idea: "Compare with chance",
        text: "{next-pane} to the edits: KL is how far the output moved, control how far it moves with other neurons off. {undo} takes the text back, and again the edit.",
        done: |app| app.history.active() == 0,
    },
    TourStep {
        idea: "One layer: a steering vector",
        text: "{toggle} switches the first vector on, {new} shows the ready prompts: {down} to the story with an open mood, {run}, and read how the mood turns.",
        done: |app| app.history.active() > 0 && app.wrote(8) && app.asks("Once upon a time"),
    },
    TourStep {
        idea: "With and without",
        text: "{compare} shows beside every token what the model says without the edit.",
        done: |app| app.compare,
    },
    TourStep {
        idea: "A state in words: Patchscopes",
        text: "{toggle}, {new}, {first}, {run}: the first prompt without the vector. {left} goes to `France`, {sweep} lets another prompt say what its state means in every layer.",
        done: |app| app.layout.figure == "patchscope" && app.figure("patchscope").is_some(),
    },
    TourStep {
        idea: "Many features at once: a sparse autoencoder",
        text: "Type `:dictionary world` and Enter: the state of `France` is a sum of a few features of the model's own dictionary, and a rest.",
        done: |app| app.layout.figure == "features" && app.figure("features").is_some(),
    },
    TourStep {
        idea: "Groups: where information moves",
        text: "{right} goes to `is`. Type `:show knockout` and Enter, then {question} and Enter: how the answer fares when `is` cannot attend to a word before it.",
        done: |app| app.figure("knockout").is_some(),
    },
];

impl Tour {
    /// The step that is next; none after the last one.
    pub fn now(self) -> Option<&'static TourStep> {
        STEPS.get(self.step)
    }
}

impl TourStep {
    /// What to do, with the keys as they are bound.
    pub fn words(&self, app: &App) -> String {
        let mut out = String::new();
        let mut parts = self.text.split(['{', '}']);
        // Every second part is the name of a command.
        while let Some(part) = parts.next() {
            out.push_str(part);
            let Some(name) = parts.next() else { break };
            let keys = commands::command(name).map(|row| app.keymap.keys_of(row));
            match keys.and_then(|keys| keys.into_iter().next()) {
                Some(key) => out.push_str(&key),
                None => out.extend([":", name]),
            }
        }
        out
    }
}

impl App {
    /// Begins the tour or goes on with it, goes to the next step (`next`), or ends it (`off`).
    pub(super) fn take_tour(&mut self, word: &str) -> CommandResult {
        let step = self.tour.map(|tour| tour.step);
        match (word.trim(), step) {
            ("", None) if self.settings.model != DEMO => {
                return Err("the tour is on the demo model: `lmscope tour` begins it".into());
            }
            ("", None) => {
                let step = self.left_tour.take().map_or(0, |tour| tour.step);
                self.tour = Some(Tour { step });
            }
            ("" | "off", Some(_)) => {
                let over = |tour: &mut Tour| tour.now().is_none();
                self.left_tour = self.tour.take();
                // One that was finished begins anew.
                let _over = self.left_tour.take_if(over);
            }
            ("next", Some(step)) => {
                self.tour = Some(Tour {
                    step: (step + 1).min(STEPS.len()),
                });
            }
            ("off" | "next", None) => return Err("the tour is not on: `:tour` begins it".into()),
            (other, _) => {
                return Err(
                    format!("`{other}` is no word of the tour: next, off, or nothing").into(),
                );
            }
        }
        Ok(vec![])
    }

    /// Goes on to the first step that is not done yet.
    pub(super) fn go_on_with_tour(&mut self) {
        if self.is_replaying() {
            // What a session does again was done before.
            return;
        }
        while let Some(tour) = self.tour
            && tour.now().is_some_and(|step| (step.done)(self))
        {
            self.tour = Some(Tour {
                step: tour.step + 1,
            });
            self.revision += 1;
        }
    }

    /// Whether the model has written so many tokens and is done.
    fn wrote(&self, tokens: usize) -> bool {
        let text = &self.transcript;
        !text.busy() && text.tokens.len() >= text.prompt + tokens
    }

    /// Whether the text was written under the edits from its beginning, and what they did is measured.
    fn was_written_under_edits(&self) -> bool {
        let measured = self.receipts.iter().any(|own| own.kl.is_some());
        measured && self.wrote(1) && self.transcript.boundaries.is_empty()
    }

    /// Whether these words are in the prompt.
    fn asks(&self, words: &str) -> bool {
        let source = self.transcript.source.as_ref();
        source
            .and_then(|source| source.last_words())
            .is_some_and(|own| own.contains(words))
    }

    /// Whether the cursor is in the lens, at a layer whose top prediction is not that of the last layer.
    fn found_another_prediction(&self) -> bool {
        let Some(Body::Grid(grid)) = self.figure("lens").map(|figure| &figure.body) else {
            return false;
        };
        let position = Some(self.cursor.position as u32);
        let column = grid
            .columns
            .iter()
            .position(|own| own.anchor.position == position);
        let Some(cells) = column.and_then(|column| grid.cells.get(column)) else {
            return false;
        };
        let here = cells
            .iter()
            .find(|cell| cell.anchor.layer.map(usize::from) == Some(self.cursor.layer));
        self.layout.focus == Pane::Figure("lens")
            && here
                .zip(cells.last())
                .is_some_and(|(here, top)| here.label != top.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_a_step_names_is_a_command() {
        assert_eq!(STEPS.len(), 10);
        for step in STEPS {
            let names = step.text.split(['{', '}']).skip(1).step_by(2);
            for name in names {
                assert!(commands::command(name).is_some(), "{name}");
            }
            assert!(
                step.text.len() < 170,
                "two lines of 80 columns: {}",
                step.text
            );
            assert_eq!(
                step.text.matches('{').count(),
                step.text.matches('}').count()
            );
        }
    }
}
