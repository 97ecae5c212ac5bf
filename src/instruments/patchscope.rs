//! Patchscopes: what does a hidden state mean when another prompt reads it?
//!
//! Takes `resid_post.L[i]` of the run, overwrites `resid_post.L*[slot]` of a target prompt once, while that prompt
//! is read, and lets the model go on greedily (Ghandeharioun et al. 2024, 2401.06102, section 3).
//! The unpatched target stands beside every row: few-shot targets say something by themselves.

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::{Error, Result};
use crate::lab::bench::Bench;
use crate::lab::figure::{Anchor, Body, Entry, Figure, Page, Row, Table};
use crate::lab::run::{Patch, Run};
use crate::model::site::Site;
use crate::text;
use candle_core::{D, DType, Tensor};

/// The instrument.
pub struct Patchscope;

/// One row of [`TEMPLATES`].
pub struct Template {
    /// Its name.
    pub name: &'static str,
    /// The target prompt.
    pub prompt: &'static str,
    /// The text whose last token is overwritten.
    pub slot: &'static str,
    /// One sentence.
    pub about: &'static str,
}

/// Target prompts (the first ones are the paper's; the last three are in the words of the demo's world).
pub const TEMPLATES: &[Template] = &[
    Template {
        name: "description",
        prompt: "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean multinational major appliance and consumer electronics corporation, x",
        slot: "x",
        about: "entity description, the Diana prompt",
    },
    Template {
        name: "identity",
        prompt: "cat -> cat\n1135 -> 1135\nhello -> hello\n?",
        slot: "?",
        about: "token identity: which token is this?",
    },
    Template {
        name: "city",
        prompt: "The largest city in x",
        slot: "x",
        about: "attribute extraction, zero-shot",
    },
    Template {
        name: "world",
        prompt: "Spain: country in Europe, Oslo: capital of Norway, Lena Berg: painter from India, robin: kind of bird, x",
        slot: "x",
        about: "entity description in the demo's world",
    },
    Template {
        name: "echo",
        prompt: "cat -> cat ; Tokyo -> Tokyo ; gold -> gold ; x",
        slot: "x",
        about: "token identity in the demo's world",
    },
    Template {
        name: "capital",
        prompt: "The capital of x",
        slot: "x",
        about: "attribute extraction in the demo's world",
    },
];

/// The names of [`TEMPLATES`].
const NAMES: [&str; TEMPLATES.len()] = {
    let mut names = [""; TEMPLATES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = TEMPLATES[i].name;
        i += 1;
    }
    names
};

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "template",
        kind: Kind::Choice(&NAMES),
        default: "description",
        about: "the target prompt",
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
        about: "the text in the target whose last token is overwritten (last occurrence); the template knows its own, and x is usual",
    },
    Parameter {
        name: "layer",
        kind: Kind::Layer,
        default: "all",
        about: "source layer, or all for the sweep",
    },
    Parameter {
        name: "position",
        kind: Kind::Position,
        default: "-1",
        about: "source position in the run",
    },
    Parameter {
        name: "target",
        kind: Kind::Text,
        default: "same",
        about: "target layer: `same` as the source, or a number",
    },
    Parameter {
        name: "tokens",
        kind: Kind::Count { lo: 1, hi: 200 },
        default: "12",
        about: "how many tokens to write",
    },
];

/// The largest batch of a sweep.
const BATCH: usize = 16;

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

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let layers = bench.model.card.layers;
        let position = arguments.position(self, "position", run.tokens.len())?;
        let sources: Vec<usize> = arguments
            .layer(self, "layer", layers)?
            .map_or_else(|| (0..layers).collect(), |l| vec![l]);
        let fixed = match arguments.text(self, "target") {
            "same" => None,
            text => Some(
                text.parse::<usize>()
                    .ok()
                    .filter(|l| *l < layers)
                    .ok_or_else(|| {
                        Error::argument(
                            "target",
                            text,
                            format!("`same` or a layer from 0 to {}", layers - 1),
                        )
                    })?,
            ),
        };
        let target = self.target(arguments, bench)?;
        let count = arguments.count(self, "tokens")?;

        let wanted: Vec<_> = sources.iter().map(|l| Site::ResidPost.at(*l)).collect();
        let recording = bench.record(run, &wanted)?;
        let states: Vec<Tensor> = wanted
            .iter()
            .map(|a| {
                Ok(recording
                    .get(*a)?
                    .narrow(0, position, 1)?
                    .squeeze(0)?
                    .copy()?)
            })
            .collect::<Result<_>>()?;
        let written = self.sweep(bench, &target, &sources, fixed, &states, count)?;
        let control = bench.continue_patched(&target.tokens, 1, &[], count)?;
        let replaced = self.replaced(bench, &target, &sources, fixed)?;

        let spoken = |bench: &Bench, ids: &[u32]| {
            let said: Vec<u8> = ids
                .iter()
                .filter(|t| !bench.model.is_end(**t))
                .flat_map(|t| bench.model.bytes(*t))
                .collect();
            if said.is_empty() {
                "⟨ends at once⟩".to_string()
            } else {
                text::plain(&said).replace('\n', "⏎")
            }
        };
        let unpatched = spoken(bench, &control[0].0);
        let mut rows = Vec::new();
        for (i, (source, (ids, first))) in sources.iter().zip(&written).enumerate() {
            let length = norm(&states[i])?;
            rows.push(Row {
                anchor: Anchor::cell(*source, position),
                entries: vec![
                    Entry::Text(source.to_string()),
                    Entry::Text(fixed.unwrap_or(*source).to_string()),
                    Entry::Text(spoken(bench, ids)),
                    Entry::Text(unpatched.clone()),
                    Entry::Number(*first),
                    Entry::Number(length / replaced[i].max(f32::MIN_POSITIVE)),
                ],
            });
        }
        let source = bench.visible(run.tokens[position]);
        let page = Page {
            title: format!(
                "{source} at {position} → slot {} of: {}",
                bench.visible(target.tokens[target.slot]),
                text::plain(target.prompt.as_bytes()).replace('\n', "⏎")
            ),
            anchor: Anchor::position(position),
            rows,
        };
        let columns = [
            "layer",
            "into",
            "patched",
            "unpatched",
            "p first",
            "‖h‖ ratio",
        ]
        .iter()
        .map(ToString::to_string)
        .collect();
        Ok(Figure {
            title: format!("patchscope · {}", if arguments.text(self, "prompt").is_empty() { arguments.text(self, "template") } else { "own prompt" }),
            body: Body::Table(Table { columns, pages: vec![page] }),
            notes: vec![
                "patched: greedy continuation after resid_post of the source layer overwrote the slot at the target layer, once; unpatched: the same target left alone".into(),
                "‖h‖ ratio: length of the state over the length of what it replaced".into(),
            ],
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }
}

/// A target prompt with its slot.
struct Target {
    prompt: String,
    tokens: Vec<u32>,
    slot: usize,
}

impl Patchscope {
    fn target(&self, arguments: &Arguments, bench: &Bench) -> Result<Target> {
        let name = arguments.text(self, "template");
        let template = TEMPLATES
            .iter()
            .find(|t| t.name == name)
            .ok_or_else(|| Error::argument("template", name, "a template of patchscope"))?;
        let own = arguments.text(self, "prompt");
        let prompt = if own.is_empty() { template.prompt } else { own };
        let slot = match arguments.text(self, "slot") {
            "" if own.is_empty() => template.slot,
            "" => "x",
            slot => slot,
        };
        let tokens = bench.model.encode(prompt, false)?;
        let pieces: Vec<Vec<u8>> = tokens.iter().map(|t| bench.model.bytes(*t)).collect();
        let rule = crate::lab::positions::Positions::Token(slot.to_string());
        let crate::lab::positions::Positions::Span(slot, _) =
            rule.resolve(&pieces).map_err(|_| {
                Error::argument(
                    "slot",
                    slot,
                    format!("a text that occurs in the target prompt `{prompt}`"),
                )
            })?
        else {
            return Err(Error::argument("slot", slot, "a text in the target prompt"));
        };
        if slot == 0 {
            return Err(Error::argument(
                "slot",
                "position 0",
                "a slot after the first token, whose state is unlike any other",
            ));
        }
        Ok(Target {
            prompt: prompt.to_string(),
            tokens,
            slot,
        })
    }

    /// All source layers, side by side in batches that read the target once each.
    fn sweep(
        &self,
        bench: &mut Bench,
        target: &Target,
        sources: &[usize],
        fixed: Option<usize>,
        states: &[Tensor],
        count: usize,
    ) -> Result<Vec<(Vec<u32>, f32)>> {
        let mut written = Vec::with_capacity(sources.len());
        for (chunk, (layers, states)) in sources.chunks(BATCH).zip(states.chunks(BATCH)).enumerate()
        {
            bench.report((chunk * BATCH) as f32 / sources.len() as f32)?;
            let patches: Vec<Patch> = layers
                .iter()
                .zip(states)
                .enumerate()
                .map(|(row, (layer, state))| Patch {
                    at: Site::ResidPost.at(fixed.unwrap_or(*layer)),
                    position: target.slot,
                    row: Some(row),
                    value: state.clone(),
                })
                .collect();
            written.extend(bench.continue_patched(
                &target.tokens,
                layers.len(),
                &patches,
                count,
            )?);
        }
        Ok(written)
    }

    /// Lengths of the states that are overwritten, one for each source.
    fn replaced(
        &self,
        bench: &mut Bench,
        target: &Target,
        sources: &[usize],
        fixed: Option<usize>,
    ) -> Result<Vec<f32>> {
        let wanted: Vec<_> = sources
            .iter()
            .map(|l| Site::ResidPost.at(fixed.unwrap_or(*l)))
            .collect();
        let recording = bench.record(&Run::plain(target.tokens.clone()), &wanted)?;
        wanted
            .iter()
            .map(|a| norm(&recording.get(*a)?.narrow(0, target.slot, 1)?))
            .collect()
    }
}

fn norm(row: &Tensor) -> Result<f32> {
    Ok(row
        .flatten_all()?
        .to_dtype(DType::F32)?
        .sqr()?
        .sum(D::Minus1)?
        .sqrt()?
        .to_scalar()?)
}
