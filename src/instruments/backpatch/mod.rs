//! Back-patching: does an answer come when a later layer's state is put back into an earlier one?
//!
//! A two-hop question ("The capital of the country of X is") fails when the first hop is resolved after the layers that could
//! have used it. The state that left a source layer overwrites what left a target layer at the same position, once, and the
//! model goes on (Biran et al. 2024, 2406.12775, section 6). Three figures: the grid of pairs for one question, the trace of
//! the entities over layers, and the table over a file of questions. Invariant: every rate that takes the best of many pairs
//! is called an oracle's, and the nulls stand beside it. To add a figure, add a module with a function that makes it and an
//! arm in [`Backpatch::observe`].

mod grid;
pub mod hops;
pub mod pairs;
mod table;
mod trace;

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::instruments::backpatch::hops::{Place, last_token_of};
use crate::instruments::backpatch::pairs::Wanted;
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::lab::trials::Cost;
use crate::model::Card;

/// The instrument.
pub struct Backpatch;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "show",
        kind: Kind::Choice(&["pairs", "trace"]),
        default: "pairs",
        about: "pairs: the grid of source and target layers; trace: at which layer the bridge and the answer can be read; a file of questions gives a table",
    },
    Parameter {
        name: "answer",
        kind: Kind::Text,
        default: "",
        about: "the answer looked for, with the space it begins with, spellings separated by |; by default what the run favours now",
    },
    Parameter {
        name: "bridge",
        kind: Kind::Text,
        default: "",
        about: "the entity between the two hops, spellings separated by |, for the trace",
    },
    Parameter {
        name: "entity",
        kind: Kind::Text,
        default: "",
        about: "the text in the prompt whose last token ends the first hop (last occurrence)",
    },
    Parameter {
        name: "position",
        kind: Kind::Text,
        default: "auto",
        about: "where states are taken and put: last, entity, or a position; auto: the entity where one is given, else the last token, and both for a file",
    },
    Parameter {
        name: "measure",
        kind: Kind::Choice(&["auto", "probability", "success"]),
        default: "auto",
        about: "probability: of the answer's first tokens, a success where they come out on top; success: the answer is in what is written; auto: success for a file",
    },
    Parameter {
        name: "tokens",
        kind: Kind::Count { lo: 1, hi: 200 },
        default: "10",
        about: "how many tokens are written, for success",
    },
    Parameter {
        name: "length",
        kind: Kind::Choice(&["own", "replaced"]),
        default: "own",
        about: "own: vectors are put in as they are; replaced: scaled to the length of what they replace",
    },
    Parameter {
        name: "null",
        kind: Kind::Choice(&["beside", "unrelated", "random"]),
        default: "beside",
        about: "which grid is drawn: the run's own states with both nulls in every cell, or one of the nulls alone",
    },
    Parameter {
        name: "unrelated",
        kind: Kind::Text,
        default: "",
        about: "a prompt whose states are the null; by default a text that the model writes by itself",
    },
    Parameter {
        name: "chat",
        kind: Kind::Choice(&["no", "yes"]),
        default: "no",
        about: "yes: the unrelated prompt, and every prompt of a file of questions, is one user turn of the chat template; the reader stays as it is written",
    },
    Parameter {
        name: "reader",
        kind: Kind::Text,
        default: "cat -> cat ; Tokyo -> Tokyo ; gold -> gold ; x ->",
        about: "the prompt that reads states in the trace; its slot is overwritten",
    },
    Parameter {
        name: "slot",
        kind: Kind::Text,
        default: "x",
        about: "the text in the reader whose last token is overwritten (last occurrence)",
    },
    Parameter {
        name: "questions",
        kind: Kind::Text,
        default: "",
        about: "a JSON file of two-hop questions instead of the text that is there: counts by case as a table",
    },
];

impl Instrument for Backpatch {
    fn name(&self) -> &'static str {
        "backpatch"
    }

    fn about(&self) -> &'static str {
        "Whether an answer comes when a later layer's state is put back into an earlier one, for every pair of layers"
    }

    fn source(&self) -> &'static str {
        "back-patching: Biran et al. 2024 (2406.12775)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn always_needs_prompt(&self) -> bool {
        false
    }

    fn needs_prompt(&self, arguments: &Arguments) -> bool {
        arguments.text(self, "questions").trim().is_empty()
    }

    fn cost(&self, tokens: usize, arguments: &Arguments, card: &Card) -> Option<Cost> {
        // How many questions there are is not known before they are read, and the trace is short.
        if !self.needs_prompt(arguments) || arguments.text(self, "show") == "trace" {
            return None;
        }
        // Pairs join on their way up: on average they pass a little over half of the blocks, at one position and those after.
        let written = match self.measured(arguments, false) {
            Ok(Some(count)) => count,
            _ => 0,
        };
        let read = match arguments.text(self, "position") {
            "last" => 1,
            "auto" if arguments.text(self, "entity").is_empty() => 1,
            _ => tokens,
        };
        Some(Cost {
            passes: 3 * card.layers * card.layers,
            tokens: read.div_ceil(2) + written,
        })
    }

    fn reads_end(&self) -> bool {
        true
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        if !self.needs_prompt(arguments) {
            return table::table(self, run, arguments, bench);
        }
        match arguments.text(self, "show") {
            "trace" => trace::trace(self, run, arguments, bench),
            _ => grid::pairs(self, run, arguments, bench),
        }
    }
}

impl Backpatch {
    /// How many tokens are written for every trial; none where the next token is enough.
    fn measured(&self, arguments: &Arguments, file: bool) -> Result<Option<usize>> {
        Ok(match (arguments.text(self, "measure"), file) {
            ("success", _) | ("auto", true) => Some(arguments.count(self, "tokens")?),
            _ => None,
        })
    }

    /// The places that `position` means for a file.
    fn places(&self, arguments: &Arguments) -> Result<Vec<Place>> {
        match arguments.text(self, "position") {
            "auto" | "both" => Ok(vec![Place::Entity, Place::Last]),
            "entity" => Ok(vec![Place::Entity]),
            "last" => Ok(vec![Place::Last]),
            other => {
                let expected = "last, entity or auto (both), because every question of a file has its own positions";
                Err(Error::argument("position", other, expected))
            }
        }
    }

    /// The position that `position` means in a run.
    fn position(&self, run: &Run, arguments: &Arguments, bench: &Bench) -> Result<usize> {
        let entity = arguments.text(self, "entity");
        match arguments.text(self, "position") {
            "entity" if entity.is_empty() => {
                let expected = "a text of the prompt in `entity`, whose last token is meant";
                Err(Error::argument("position", "entity", expected))
            }
            "auto" | "entity" if !entity.is_empty() => {
                last_token_of(bench, &run.tokens, "entity", entity)
            }
            "auto" | "last" => Ok(run.tokens.len().saturating_sub(1)),
            _ => arguments.position(self, "position", run.tokens.len()),
        }
    }

    /// The answer looked for, or what the run favours.
    fn wanted(&self, arguments: &Arguments, bench: &Bench, logits: &[f32]) -> Result<Wanted> {
        let tokens = self.measured(arguments, false)?;
        match arguments.text(self, "answer") {
            "" => Wanted::favoured(bench, "answer", logits, tokens),
            text => Wanted::new(bench, "answer", &spellings(text), tokens),
        }
    }

    /// The text whose states are the null.
    fn unrelated(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Run> {
        match arguments.text(self, "unrelated") {
            "" => bench.unrelated(run.seed, run.tokens.len().clamp(2, 32)),
            text => {
                let chat = arguments.text(self, "chat") == "yes";
                Ok(Run::plain(bench.model.encode(text, chat)?))
            }
        }
    }

    fn renormed(&self, arguments: &Arguments) -> bool {
        arguments.text(self, "length") == "replaced"
    }
}

/// Texts separated by `|`.
fn spellings(text: &str) -> Vec<String> {
    text.split('|')
        .filter(|t| !t.is_empty())
        .map(ToString::to_string)
        .collect()
}

/// Tokens as a reader of figures sees them: the first, and how many more.
fn spelled(bench: &Bench, tokens: &[u32]) -> String {
    match tokens {
        [] => String::new(),
        [one] => bench.visible(*one),
        [first, rest @ ..] => format!("{} and {} more", bench.visible(*first), rest.len()),
    }
}
