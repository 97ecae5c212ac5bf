//! Activation patching: which states carry what one prompt says and another does not?
//!
//! Two runs, a clean and a corrupted one (another prompt, or the same with noise on a subject's embeddings). Denoising puts
//! the clean run's values into the corrupted run, a cell at a time, and asks how much of the answer comes back; noising puts
//! the corrupted run's values into the clean one and asks how much is lost (Meng et al. 2022, 2202.05262; Wang et al. 2022,
//! 2211.00593; Zhang and Nanda 2023, 2309.16042). Invariant: 0 is the run that values are put into, 1 the run they come from,
//! and both numbers stand in the notes. To patch another site, add it to `plan::Kind`.

mod case;
pub mod contrast;
mod figure;
mod plan;

use std::sync::atomic::Ordering;

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::lab::trials::Cost;
use crate::model::Card;

/// The instrument.
pub struct Patching;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "corrupt",
        kind: Kind::Text,
        default: "",
        about: "the corrupted prompt, beside the run's own, which is the clean one; without one, the subject is noised",
    },
    Parameter {
        name: "subject",
        kind: Kind::Text,
        default: "",
        about: "the text in the prompt whose embeddings are noised (last occurrence), instead of a corrupted prompt; by default everything after the first token",
    },
    Parameter {
        name: "site",
        kind: Kind::Choice(&["resid", "attn", "mlp", "heads"]),
        default: "resid",
        about: "what is put in: what enters a block, attention's write, the MLP's write (layer by position), or a head's output (layer by head)",
    },
    Parameter {
        name: "way",
        kind: Kind::Choice(&["denoise", "noise"]),
        default: "denoise",
        about: "denoise: clean values into the corrupted run; noise: corrupted values into the clean run",
    },
    Parameter {
        name: "metric",
        kind: Kind::Choice(&["auto", "difference", "probability", "kl"]),
        default: "auto",
        about: "difference: the answer's logit less the other's; probability: of the answer; kl: from the clean run, nats; auto: difference, and for noise probability",
    },
    Parameter {
        name: "answer",
        kind: Kind::Text,
        default: "",
        about: "the clean run's answer, or the difference of two as \" Ann\" - \" Bob\"; by default what each run favours",
    },
    Parameter {
        name: "align",
        kind: Kind::Choice(&["length", "ends"]),
        default: "length",
        about: "length: prompts of unequal length are refused; ends: what they begin and end with is paired, and what lies between from its end",
    },
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 1, hi: 1000 },
        default: "1",
        about: "how many layers around the cell's are patched together (attn and mlp; causal tracing used 10)",
    },
    Parameter {
        name: "positions",
        kind: Kind::Text,
        default: "all",
        about: "for heads: all positions from the first that differs, last, or one position",
    },
    Parameter {
        name: "sigma",
        kind: Kind::Text,
        default: "3",
        about: "noise on the subject, in standard deviations of the embedding table's entries",
    },
    Parameter {
        name: "samples",
        kind: Kind::Count { lo: 1, hi: 1000 },
        default: "10",
        about: "how often noise is drawn; every number is the mean",
    },
    Parameter {
        name: "null",
        kind: Kind::Choice(&["top", "random"]),
        default: "top",
        about: "top: beside the strongest cells, a random change of equal size in the same place; random: the whole grid of it",
    },
    Parameter {
        name: "pairs",
        kind: Kind::Text,
        default: "",
        about: "a JSON file of clean and corrupted prompts instead of the text that is there: every number is the mean",
    },
    Parameter {
        name: "chat",
        kind: Kind::Choice(&["no", "yes"]),
        default: "no",
        about: "yes: the corrupted prompt, and every prompt of the file, is one user turn of the chat template",
    },
];

impl Instrument for Patching {
    fn name(&self) -> &'static str {
        "patching"
    }

    fn about(&self) -> &'static str {
        "Which states carry what a clean prompt says and a corrupted one does not, by layer and position or by head"
    }

    fn source(&self) -> &'static str {
        "activation patching, causal tracing: Meng et al. 2022 (2202.05262), Zhang and Nanda 2023 (2309.16042)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn always_needs_prompt(&self) -> bool {
        false
    }

    fn needs_prompt(&self, arguments: &Arguments) -> bool {
        arguments.text(self, "pairs").trim().is_empty()
    }

    fn cost(&self, tokens: usize, arguments: &Arguments, card: &Card) -> Option<Cost> {
        // How many pairs there are is not known before they are read.
        if !self.needs_prompt(arguments) {
            return None;
        }
        let samples = if arguments.text(self, "corrupt").is_empty() {
            arguments.count(self, "samples").ok()?
        } else {
            1
        };
        let columns = match arguments.text(self, "site") {
            "heads" => card.heads,
            _ => tokens,
        };
        // A trial reads on from its own layer and position: a quarter of a pass on average.
        Some(Cost {
            passes: card.layers * columns * samples,
            tokens: tokens.div_ceil(4),
        })
    }

    fn reads_end(&self) -> bool {
        true
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let mut plan = plan::Plan::read(self, run, arguments, bench)?;
        let found = plan.measure(self, run, arguments, bench)?;
        let nulls = match plan.nulls(run, bench, &found) {
            // The sweep is done; who stops now has waited long enough for what stands beside it.
            Err(Error::Cancelled) => {
                bench.cancel.store(false, Ordering::Relaxed);
                None
            }
            nulls => Some(nulls?),
        };
        let shown = nulls.as_deref().unwrap_or_default();
        let mut figure = figure::figure(self, run, arguments, bench, &plan, &found, shown);
        if nulls.is_none() {
            figure
                .notes
                .push("stopped before the nulls were measured".into());
        }
        Ok(figure)
    }
}
