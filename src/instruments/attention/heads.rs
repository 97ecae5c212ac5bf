//! What every attention head does for an answer, as a grid of layers and heads.
//!
//! With demonstrations: the average indirect effect (Todd et al. 2024, 2310.15213, section 2.3), the change of the answer's
//! probability when a head's output at the last token of prompts that do not show the task is put to its mean over prompts
//! that do. Without: what the run's own favoured token loses when a head is silenced at the last token. The null puts a
//! random vector of the same length in the same place. Cells are anchored to heads, so that ablation works on them.

use std::path::Path;

use crate::edit::Edit;
use crate::error::Result;
use crate::figure::{Anchor, Body, Cell, Figure, Grid, Header, Scale, Unit};
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::{Bench, reading};
use crate::lab::run::Run;
use crate::vectors::function_vector::{Effects, Head, HeadMeans};
use crate::vectors::shots::{Layout, read};
use crate::vectors::task_vector::Prompts;

/// The instrument.
pub struct Heads;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "demos",
        kind: Kind::Text,
        default: "",
        about: "a file of demonstrations, input and output with a tab between; without one, what silencing each head costs the run's own favoured token",
    },
    Parameter {
        name: "template",
        kind: Kind::Text,
        default: "Q: {x}\\nA: {y}",
        about: "how a demonstration looks",
    },
    Parameter {
        name: "separator",
        kind: Kind::Text,
        default: "\\n\\n",
        about: "what stands between demonstrations",
    },
    Parameter {
        name: "ask",
        kind: Kind::Text,
        default: "",
        about: "how a query without demonstrations is asked, when not as one of them",
    },
    Parameter {
        name: "rank",
        kind: Kind::Choice(&["shuffled", "asked"]),
        default: "shuffled",
        about: "the prompts that heads are put into: demonstrations with permuted labels, or none at all",
    },
    Parameter {
        name: "shots",
        kind: Kind::Count { lo: 1, hi: 1000 },
        default: "10",
        about: "demonstrations before a query",
    },
    Parameter {
        name: "trials",
        kind: Kind::Count { lo: 1, hi: 10_000 },
        default: "100",
        about: "prompts that a head's mean is taken over",
    },
    Parameter {
        name: "prompts",
        kind: Kind::Count { lo: 1, hi: 10_000 },
        default: "25",
        about: "prompts that heads are put into",
    },
    Parameter {
        name: "null",
        kind: Kind::Choice(&["no", "random"]),
        default: "no",
        about: "random: the same grid with a random vector of the same length in every head's place",
    },
];

impl Instrument for Heads {
    fn name(&self) -> &'static str {
        "heads"
    }

    fn about(&self) -> &'static str {
        "What every attention head does for an answer: put to its mean behind demonstrations of a task, or silenced in the run"
    }

    fn source(&self) -> &'static str {
        "average indirect effect: Todd et al. 2024 (2310.15213)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn always_needs_prompt(&self) -> bool {
        false
    }

    fn needs_prompt(&self, arguments: &Arguments) -> bool {
        arguments.text(self, "demos").is_empty()
    }

    fn reads_end(&self) -> bool {
        true
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let null = arguments.text(self, "null") == "random";
        let found = if arguments.text(self, "demos").is_empty() {
            self.silenced(run, bench, null)?
        } else {
            self.shown(run, arguments, bench, null)?
        };
        Ok(self.figure(run, arguments, bench, found, null))
    }
}

/// What was measured, and in which words.
struct Found {
    effects: Effects,
    title: String,
    value: String,
    position: Option<usize>,
    notes: Vec<String>,
}

impl Heads {
    /// The effect of means behind demonstrations.
    fn shown(
        &self,
        run: &Run,
        arguments: &Arguments,
        bench: &mut Bench,
        null: bool,
    ) -> Result<Found> {
        let pairs = read(Path::new(arguments.text(self, "demos")))?;
        let (template, separator) = (
            arguments.text(self, "template"),
            arguments.text(self, "separator"),
        );
        let layout = Layout::new(template, separator)?;
        let asked = match arguments.text(self, "ask") {
            "" => layout.clone(),
            other => Layout::new(other, separator)?,
        };
        let prompts = Prompts {
            pairs: &pairs,
            layout: &layout,
            asked: &asked,
            count: arguments.count(self, "shots")?,
            seed: run.seed,
        };
        let clean = prompts.on(bench).clean(arguments.count(self, "trials")?)?;
        let count = arguments.count(self, "prompts")?;
        let by_labels = arguments.text(self, "rank") == "shuffled";
        let corrupt = if by_labels {
            prompts.on(bench).shuffled(count)?
        } else {
            prompts.on(bench).unshown(count)?
        };
        let measured = HeadMeans::measure(bench, &clean)?;
        let random = measured.random_like(run.seed);
        let effects = Effects::indirect(bench, &corrupt, if null { &random } else { &measured })?;
        let mut notes = vec![format!(
            "each cell: by how much the probability of the answer's first token changes when the head's output at the last token is put to {}; {count} prompts {}, whose answers have probability {:.3}",
            if null {
                "a random vector as long as its mean"
            } else {
                "its mean over prompts that show the task"
            },
            if by_labels {
                "with permuted labels"
            } else {
                "without demonstrations"
            },
            effects.base,
        )];
        if !null && let Some((head, effect)) = effects.top(1).first() {
            let chance = Effects::at(bench, &corrupt, &random, *head)?;
            notes.push(format!(
                "null: {}.{} {effect:+.4}; a random vector of its mean's length in the same place {chance:+.4} (seed {}). null=random makes the whole grid of it",
                head.0, head.1, run.seed
            ));
        }
        if run.schedule.latest().iter().any(Edit::active) {
            notes.push("the run's edits are not in force here: the prompts are those of the demonstrations".into());
        }
        Ok(Found {
            effects,
            title: "heads · average indirect effect".into(),
            value: "change of the answer's probability".into(),
            position: None,
            notes,
        })
    }

    /// What the run's favoured token loses without each head.
    fn silenced(&self, run: &Run, bench: &mut Bench, null: bool) -> Result<Found> {
        let logits = bench.last_logits(run)?;
        let favoured = reading(&logits, bench.model.known_tokens(), 1).first().0;
        let width = bench.model.transformer.blueprint.head_dim;
        let effects = if null {
            let own = HeadMeans::of_run(bench, run)?.random_like(run.seed);
            Effects::of(bench, run, favoured, |head| own.head(head).to_vec())?
        } else {
            Effects::of(bench, run, favoured, |_| vec![0.0; width])?
        };
        let name = bench.visible(favoured);
        let instead = if null {
            "replaced by a random vector as long as it is"
        } else {
            "set to zero"
        };
        Ok(Found {
            notes: vec![
                format!(
                    "each cell: by how much the probability of {name} after the last token ({:.3}) changes when the head's output there is {instead}",
                    effects.base
                ),
                "other heads may take a silenced one's place, so a small change does not say that a head did nothing; compare with null=random".into(),
            ],
            effects,
            title: format!("heads · {name} without each head at the last token"),
            value: format!("change of the probability of {name}"),
            position: run.tokens.len().checked_sub(1),
        })
    }

    fn figure(
        &self,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
        found: Found,
        null: bool,
    ) -> Figure {
        let (layers, heads) = (bench.model.card.layers, bench.model.card.heads);
        let effects = &found.effects;
        let cell = |(layer, head): Head| {
            let value = effects.values[layer][head] as f32;
            let at = match found.position {
                Some(position) => Anchor::cell(layer, position),
                None => Anchor::layer(layer),
            };
            let more = [
                ("before", effects.base as f32),
                ("after", effects.base as f32 + value),
            ];
            Cell {
                label: String::new(),
                value,
                anchor: at.with(Unit::Head(head as u32)),
                more: more.map(|(word, p)| (word.to_string(), p)).to_vec(),
            }
        };
        let all = effects.values.iter().flatten();
        let reach = all.filter(|v| v.is_finite());
        let reach = reach.fold(0f64, |most, v| most.max(v.abs())) as f32;
        let mut title = found.title;
        if null {
            title.push_str(" · null: random vectors of the same lengths");
        }
        Figure {
            title,
            body: Body::Grid(Grid {
                also: crate::figure::also::Also::default(),
                row_axis: "layer".into(),
                column_axis: "head".into(),
                value: found.value,
                rows: (0..layers)
                    .map(|l| Header {
                        label: l.to_string(),
                        anchor: Anchor::layer(l),
                    })
                    .collect(),
                columns: (0..heads)
                    .map(|h| Header {
                        label: h.to_string(),
                        anchor: Anchor::default().with(Unit::Head(h as u32)),
                    })
                    .collect(),
                cells: (0..heads)
                    .map(|h| (0..layers).map(|l| cell((l, h))).collect())
                    .collect(),
                scale: Scale::Diverging {
                    reach: reach.max(1e-6),
                },
            }),
            notes: found.notes,
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}
