//! Steering sweep: one direction, every layer, several strengths: what becomes of a text, or of a list of prompts.
//!
//! Every cell is a pass of its own with one more edit, `op:direction@site.layer:positions*strength`. On the text that is
//! there, the value is the probability of the answers after the last token, or KL(run ‖ edited) there. On a list of prompts
//! it is a mean over them: of the same two, of *success* (the share whose greedy continuation says one of the answers), or of
//! *fluency* (how surprising the edited continuation is to the unedited model, nats a token). The null, a random direction of
//! equal norm, stands beside every cell (steering vectors: Turner et al. 2023, 2308.10248; Arditi et al. 2024, 2406.11717).

mod plan;

use crate::edit::Edit;
use crate::edit::direction::random_like;
use crate::error::{Error, Result};
use crate::figure::{Anchor, Body, Cell, Figure, Grid, Header, Scale};
use crate::instruments::steering::outcome::{Outcome, Subject};
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::lab::trials::Cost;
use crate::model::Card;
use crate::text;
use plan::{Found, Measure, Null, Plan};

/// The instrument.
pub struct Sweep;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "direction",
        kind: Kind::Text,
        default: "",
        about: "a loaded direction's name, or a file; by default the first that is loaded",
    },
    Parameter {
        name: "op",
        kind: Kind::Choice(&[
            "add",
            "add_unit_norm",
            "add_renorm",
            "scale_along",
            "project_out",
        ]),
        default: "add",
        about: "the operation at every cell",
    },
    Parameter {
        name: "strengths",
        kind: Kind::Text,
        default: "-2,-1,-0.5,0,0.5,1,2",
        about: "strengths, a column each",
    },
    Parameter {
        name: "site",
        kind: Kind::Choice(&["resid_pre", "resid_post", "attn_out", "mlp_out"]),
        default: "resid_pre",
        about: "where in the block",
    },
    Parameter {
        name: "positions",
        kind: Kind::Text,
        default: "all",
        about: "which positions, as in edits",
    },
    Parameter {
        name: "measure",
        kind: Kind::Choice(&["auto", "answers", "kl", "success", "fluency"]),
        default: "auto",
        about: "answers: their probability after the last token; kl: how far the distribution moved, nats; with prompts also success: the share that goes on to say an answer, and fluency: surprise of what is written to the unedited model, nats a token; auto: success with prompts, else answers",
    },
    Parameter {
        name: "answers",
        kind: Kind::Text,
        default: "",
        about: "texts separated by |, whose first tokens count, and which are a success when they are written; by default what the run favours now",
    },
    Parameter {
        name: "prompts",
        kind: Kind::Text,
        default: "",
        about: "a file of prompts, one a line, instead of the text that is there: every number is a mean over them",
    },
    Parameter {
        name: "chat",
        kind: Kind::Choice(&["no", "yes"]),
        default: "no",
        about: "yes: every prompt of the file is one user turn of the chat template",
    },
    Parameter {
        name: "tokens",
        kind: Kind::Count { lo: 1, hi: 512 },
        default: "16",
        about: "how many tokens are written after every prompt, for success and fluency",
    },
    Parameter {
        name: "match",
        kind: Kind::Choice(&["contains", "begins"]),
        default: "contains",
        about: "whether a success contains an answer or begins with one",
    },
    Parameter {
        name: "within",
        kind: Kind::Text,
        default: "0.5",
        about: "nats a token by which a cell may be less fluent than the unedited text and still be called the best",
    },
    Parameter {
        name: "null",
        kind: Kind::Choice(&["beside", "columns", "random", "no"]),
        default: "beside",
        about: "a random direction of equal norm: its number in every cell, a column of its own after every strength, the grid for it alone, or not at all",
    },
];

/// The most columns.
const MOST: usize = 64;

/// What the random direction is called while it is measured.
const NULL: &str = "sweep's null";

impl Instrument for Sweep {
    fn name(&self) -> &'static str {
        "sweep"
    }

    fn about(&self) -> &'static str {
        "What a direction does at every layer and at several strengths: to the next token, or to a list of prompts"
    }

    fn source(&self) -> &'static str {
        "activation addition: Turner et al. 2023 (2308.10248)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn always_needs_prompt(&self) -> bool {
        false
    }

    fn needs_prompt(&self, arguments: &Arguments) -> bool {
        arguments.text(self, "prompts").trim().is_empty()
    }

    fn cost(&self, tokens: usize, arguments: &Arguments, card: &Card) -> Option<Cost> {
        // How long a list's prompts are is not known before they are read.
        if !self.needs_prompt(arguments) {
            return None;
        }
        let strengths = self.strengths(arguments).ok()?;
        let moved = strengths.iter().filter(|s| **s != 0.0).count();
        let rows = match arguments.text(self, "null") {
            "random" | "no" => 1,
            _ => 2,
        };
        Some(Cost {
            passes: moved * card.layers * rows + 1,
            tokens,
        })
    }

    fn reads_end(&self) -> bool {
        true
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let plan = Plan::read(self, run, arguments, bench)?;
        let mut null = bench.direction(&plan.direction)?;
        for (_, vector) in &mut null.rows {
            *vector = random_like(vector, run.seed);
        }
        bench.directions.insert(NULL.into(), null);
        let found = plan.measure_all(self, arguments, bench);
        bench.directions.remove(NULL);
        let found = found?;
        Ok(self.figure(run, arguments, bench, &plan, &found))
    }
}

impl Sweep {
    fn edit(
        &self,
        arguments: &Arguments,
        direction: &str,
        layer: usize,
        strength: f32,
    ) -> Result<Edit> {
        format!(
            "{}:{direction}@{}.{layer}:{}*{strength}",
            arguments.text(self, "op"),
            arguments.text(self, "site"),
            arguments.text(self, "positions"),
        )
        .parse()
    }

    fn within(&self, arguments: &Arguments) -> Result<f32> {
        let text = arguments.text(self, "within");
        let number = text.trim().parse::<f32>().ok();
        number
            .filter(|n| *n >= 0.0)
            .ok_or_else(|| Error::argument("within", text, "nats a token, 0 or more"))
    }

    fn strengths(&self, arguments: &Arguments) -> Result<Vec<f32>> {
        let text = arguments.text(self, "strengths");
        let bad = || {
            let expected = format!("1 to {MOST} numbers between commas");
            Error::argument("strengths", text, expected)
        };
        let numbers = text.split(',').map(|part| {
            let number = part.trim().parse::<f32>().ok();
            number.filter(|n| n.is_finite()).ok_or_else(bad)
        });
        let numbers = numbers.collect::<Result<Vec<_>>>()?;
        if (1..=MOST).contains(&numbers.len()) {
            Ok(numbers)
        } else {
            Err(bad())
        }
    }

    /// The direction that was named, or the first of those that are loaded.
    fn direction(&self, arguments: &Arguments, bench: &Bench) -> Result<String> {
        let given = arguments.text(self, "direction");
        if !given.is_empty() {
            return Ok(given.to_string());
        }
        bench.directions.keys().min().cloned().ok_or_else(|| {
            let expected = "a direction's file; none is loaded (`lmscope direction` makes one)";
            Error::argument("direction", given, expected)
        })
    }

    fn figure(
        &self,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
        plan: &Plan,
        found: &Found,
    ) -> Figure {
        let anchor = |layer: usize| match &plan.trial.subject {
            Subject::Text(run) => Anchor::cell(layer, run.tokens.len() - 1),
            Subject::Prompts(..) => Anchor::layer(layer),
        };
        let column = |outcomes: &[Outcome], nulls: &[Outcome]| -> Vec<Cell> {
            let cells = outcomes.iter().enumerate();
            cells
                .map(|(layer, own)| Cell {
                    label: own.label.clone(),
                    value: plan.measure.of(own),
                    anchor: anchor(layer),
                    more: plan.numbers(own, nulls.get(layer)),
                })
                .collect()
        };
        let (mut columns, mut cells) = (Vec::new(), Vec::new());
        for (i, strength) in plan.strengths.iter().enumerate() {
            let (real, null) = (&found.real[i], &found.null[i]);
            let mut add = |label: String, outcomes: &[Outcome], nulls: &[Outcome]| {
                columns.push(Header {
                    label,
                    anchor: Anchor::default(),
                });
                cells.push(column(outcomes, nulls));
            };
            match plan.null {
                Null::Alone => add(strength.to_string(), null, &[]),
                Null::No | Null::Beside => add(strength.to_string(), real, null),
                Null::Columns => {
                    add(strength.to_string(), real, null);
                    add(format!("{strength} random"), null, &[]);
                }
            }
        }
        let peak = cells
            .iter()
            .flatten()
            .map(|c| c.value)
            .filter(|v| v.is_finite())
            .fold(0.0, f32::max);
        let alone = if plan.null == Null::Alone {
            format!(
                " · null: a random direction of its length, seed {}",
                run.seed
            )
        } else {
            String::new()
        };
        let name = text::visible(plan.direction.as_bytes());
        Figure {
            title: format!(
                "sweep · {} {name} · {}{alone}",
                arguments.text(self, "op"),
                plan.measure.word()
            ),
            body: Body::Grid(Grid {
                also: crate::figure::also::Also::default(),
                row_axis: "layer".into(),
                column_axis: "strength".into(),
                value: plan.measure.value().into(),
                rows: (0..bench.model.card.layers)
                    .map(|l| Header {
                        label: l.to_string(),
                        anchor: Anchor::layer(l),
                    })
                    .collect(),
                columns,
                cells,
                scale: match plan.measure {
                    Measure::Answers | Measure::Success => Scale::Unit,
                    Measure::Kl | Measure::Fluency => Scale::Range { lo: 0.0, hi: peak },
                },
            }),
            notes: notes(bench, run, plan, found),
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}

fn notes(bench: &Bench, run: &Run, plan: &Plan, found: &Found) -> Vec<String> {
    let mut out: Vec<String> = found.stopped.iter().cloned().collect();
    if let Some((s, layer)) = plan.best(found) {
        let own = &found.real[s][layer];
        let null = found.null[s].get(layer);
        let beside = |measure: Measure| {
            let null = null.map_or_else(String::new, |n| format!(", random {:.3}", measure.of(n)));
            format!(
                "{} {:.3} (unedited {:.3}{null})",
                measure.word(),
                measure.of(own),
                measure.of(&found.unedited)
            )
        };
        let parts: Vec<String> = if plan.measure.writes() {
            [Measure::Success, Measure::Fluency, Measure::Kl]
                .map(beside)
                .into()
        } else {
            [plan.measure, Measure::Kl].map(beside).into()
        };
        out.push(format!(
            "best: strength {} at layer {layer}: {}",
            plan.strengths[s],
            parts.join(", ")
        ));
    }
    let names: Vec<String> = plan
        .trial
        .answers
        .iter()
        .map(|a| bench.visible(*a))
        .collect();
    let words = match &plan.trial.subject {
        Subject::Text(_) => "the most probable next token under one more edit".to_string(),
        Subject::Prompts(prompts, _) => format!(
            "the commonest first token of {} prompts under one more edit",
            prompts.len()
        ),
    };
    let colour = match plan.measure {
        Measure::Answers => format!("probability after the last token of {}", names.join(" or ")),
        Measure::Kl => "KL(run ‖ edited) after the last token".to_string(),
        Measure::Success => format!(
            "share of prompts whose next {} tokens {} {}",
            plan.trial.tokens.unwrap_or(1),
            if plan.trial.begins {
                "begin with"
            } else {
                "say"
            },
            plan.trial.looks.join(" or ")
        ),
        Measure::Fluency => {
            "surprise of what is written to the unedited model, nats a token; lower is more fluent"
                .to_string()
        }
    };
    out.push(format!("each cell: {words}; colour: {colour}"));
    if plan.measure.writes() {
        out.push(format!(
            "the best cell succeeds most among those at most {} nats a token less fluent than the unedited text",
            plan.within
        ));
    }
    out.push(match plan.null {
        Null::No => "a strong edit that breaks the text also moves these numbers: compare with null=beside and read what it writes".into(),
        Null::Beside | Null::Columns | Null::Alone => format!(
            "random: a direction of the same length, seed {}; a strong edit that breaks the text moves its numbers too",
            run.seed
        ),
    });
    out
}
