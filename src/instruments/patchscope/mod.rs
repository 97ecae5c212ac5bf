//! Patchscopes: what does a hidden state mean when another prompt reads it?
//!
//! Takes states of a source (`resid_post.L[i]` of the run, or any other site of residual width, or another prompt), puts them
//! into slots of a target prompt at one target layer, once, while that prompt is read, and lets the model go on greedily
//! (Ghandeharioun et al. 2024, 2401.06102, section 3). Invariant: what the target says unpatched stands beside every
//! reading, and for a list of subjects what an unrelated source says too: few-shot targets say something by themselves.
//! To add a way to show it, add a word to `show` and a file beside `words`.

pub mod attributes;
mod curves;
mod extract;
pub mod fit;
mod grid;
pub mod map;
pub mod placeholders;
mod plan;
pub mod ridge;
mod sweep;
pub mod target;
pub mod templates;
mod words;

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::Result;
use crate::figure::Figure;
use crate::instruments::patchscope::placeholders::Slots;
use crate::lab::bench::Bench;
use crate::lab::run::Run;

use crate::lab::trials::Cost;
use crate::model::Card;
use plan::{Plan, Show};

/// The instrument.
pub struct Patchscope;

/// Sites of residual width that states are taken from and put into.
const PLACES: [&str; 7] = [
    "resid_post",
    "resid_mid",
    "resid_pre",
    "attn_out",
    "attn_add",
    "mlp_out",
    "mlp_add",
];

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "template",
        kind: Kind::Word(&templates::NAMES),
        default: "description",
        about: "the target prompt: a built-in one, or yours from the library or from templates.toml in the config folder",
    },
    Parameter {
        name: "layer",
        kind: Kind::Layer,
        default: "all",
        about: "source layers: all for the sweep, 3, 2-5, 0,4,8; -1 is the embedding",
    },
    Parameter {
        name: "position",
        kind: Kind::Position,
        default: "-1",
        about: "source position; a span A..B or token:\" text\" work too, a span with slots=each",
    },
    Parameter {
        name: "target",
        kind: Kind::Word(&["same", "all", "0", "-1"]),
        default: "same",
        about: "target layers: same as the source, same+2, same-1, all, 3, 2-5; -1 is the embedding",
    },
    Parameter {
        name: "show",
        kind: Kind::Choice(&Show::NAMES),
        default: "table",
        about: "table: what is written; grid: source layers by target layers, the first token's probability; curves: the same over source layers; items: each subject of a list",
    },
    Parameter {
        name: "tokens",
        kind: Kind::Count { lo: 1, hi: 200 },
        default: "12",
        about: "how many tokens to write",
    },
    Parameter {
        name: "answers",
        kind: Kind::Text,
        default: "",
        about: "texts separated by |, in quotes or not, or ids as #17, whose first tokens' probability as the first token is shown",
    },
    Parameter {
        name: "slots",
        kind: Kind::Choice(&Slots::NAMES),
        default: "last",
        about: "which occurrences of the slot: the last, all with the same state, or each with one of several source tokens",
    },
    Parameter {
        name: "prompt",
        kind: Kind::Text,
        default: "",
        about: "a target prompt of your own, instead of the template",
    },
    Parameter {
        name: "slot",
        kind: Kind::Text,
        default: "",
        about: "the text in the target whose last token is overwritten; the template knows its own, and x is usual",
    },
    Parameter {
        name: "null",
        kind: Kind::Choice(&["no", "beside"]),
        default: "no",
        about: "beside: what the state of an unrelated text says in the same slot (a list of subjects always has it)",
    },
    Parameter {
        name: "map",
        kind: Kind::Word(&["identity", "norm"]),
        default: "identity",
        about: "between source and target: identity, norm (scaled to what is replaced), a .safetensors file of affine maps, or a text file to fit them on",
    },
    Parameter {
        name: "ridge",
        kind: Kind::Text,
        default: "0.01",
        about: "penalty of fitted maps, in mean squares of a coordinate; it draws them towards the identity",
    },
    Parameter {
        name: "save",
        kind: Kind::Text,
        default: "",
        about: "a .safetensors file to keep the fitted maps in",
    },
    Parameter {
        name: "from",
        kind: Kind::Text,
        default: "",
        about: "another source prompt instead of the run, or @FILE for one a line; read without edits",
    },
    Parameter {
        name: "chat",
        kind: Kind::Choice(&["no", "yes"]),
        default: "no",
        about: "yes: every source prompt, or subject's prompt, is one user turn of the chat template; the target stays as it is",
    },
    Parameter {
        name: "site",
        kind: Kind::Choice(&PLACES),
        default: "resid_post",
        about: "the site that states are taken from",
    },
    Parameter {
        name: "into",
        kind: Kind::Choice(&PLACES),
        default: "resid_post",
        about: "the site that states are put into",
    },
    Parameter {
        name: "attributes",
        kind: Kind::Text,
        default: "",
        about: "a file of subjects and answers (TSV or JSON): the share of subjects whose answer is said, by layer",
    },
    Parameter {
        name: "library",
        kind: Kind::Text,
        default: "",
        about: "a TOML file of templates: [[template]] with name, prompt, slot and about",
    },
];

impl Instrument for Patchscope {
    fn name(&self) -> &'static str {
        "patchscope"
    }

    fn about(&self) -> &'static str {
        "What a hidden state means when another prompt reads it, for one source layer or all of them"
    }

    fn source(&self) -> &'static str {
        "Patchscopes: Ghandeharioun et al. 2024 (2401.06102)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn always_needs_prompt(&self) -> bool {
        false
    }

    fn needs_prompt(&self, arguments: &Arguments) -> bool {
        ["from", "attributes"]
            .iter()
            .all(|name| arguments.text(self, name).is_empty())
    }

    fn cost(&self, _tokens: usize, arguments: &Arguments, card: &Card) -> Option<Cost> {
        let from = arguments.text(self, "from");
        // How many sources a file holds is not known before it is read.
        if from.starts_with('@') || !arguments.text(self, "attributes").is_empty() {
            return None;
        }
        let (passes, tokens) = plan::size(self, arguments, card.layers)?;
        Some(Cost { passes, tokens })
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let plan = Plan::new(self, run, arguments, bench)?;
        let (title, body, notes) = match (plan.subjects.is_empty(), plan.show) {
            (true, Show::Grid) => grid::draw(&plan, run, bench)?,
            (true, Show::Curves) => curves::draw(&plan, run, bench)?,
            (true, Show::Table | Show::Items) => words::draw(&plan, run, bench)?,
            (false, show) => extract::draw(&plan, show, bench)?,
        };
        let own = plan.sources.iter().any(|s| s.own);
        let unread = Run {
            seed: run.seed,
            ..Run::default()
        };
        Ok(Figure {
            title: format!("patchscope · {}{title}", plan.template.name),
            body,
            notes: plan.notes(run, bench).into_iter().chain(notes).collect(),
            check: None,
            provenance: bench.provenance(if own { run } else { &unread }, plan.parameters),
        })
    }
}
