//! Steering sweep: one direction, every layer, several strengths: what the next token becomes.
//!
//! Every cell is a pass of its own over the run with one more edit, `op:direction@site.layer:positions*strength`; the
//! value is the probability of the answers after the last token, or KL(run ‖ edited) there. The null is the same grid
//! for a random direction of equal norm (steering vectors: Turner et al. 2023, 2308.10248; Arditi et al. 2024, 2406.11717).

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::{Error, Result};
use crate::lab::bench::{Bench, reading};
use crate::lab::direction::random_like;
use crate::lab::figure::{Anchor, Body, Cell, Figure, Grid, Header, Scale};
use crate::lab::run::Run;
use crate::lab::sample::{kl, log_softmax};
use crate::text;

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
        kind: Kind::Choice(&["answers", "kl"]),
        default: "answers",
        about: "answers: their probability after the last token; kl: how far the distribution moved, nats",
    },
    Parameter {
        name: "answers",
        kind: Kind::Text,
        default: "",
        about: "texts separated by |, whose first tokens count; by default what the run favours now",
    },
    Parameter {
        name: "null",
        kind: Kind::Choice(&["no", "random"]),
        default: "no",
        about: "random: the same grid for a random direction of equal norm",
    },
];

/// The most columns.
const MOST: usize = 64;

/// What the random direction is called while its grid is made.
const NULL: &str = "sweep's null";

impl Instrument for Sweep {
    fn name(&self) -> &'static str {
        "sweep"
    }

    fn about(&self) -> &'static str {
        "What a direction does to the next token at every layer and at several strengths"
    }

    fn source(&self) -> &'static str {
        "activation addition: Turner et al. 2023 (2308.10248)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let mut base = bench.last_logits(run)?;
        let plan = Plan {
            direction: self.direction(arguments, bench)?,
            strengths: self.strengths(arguments)?,
            answers: self.answers(arguments, bench, &base)?,
            by_kl: arguments.text(self, "measure") == "kl",
        };
        log_softmax(&mut base);
        let mut name = plan.direction.as_str();
        if arguments.text(self, "null") == "random" {
            let mut null = bench.direction(name)?;
            for (_, vector) in &mut null.rows {
                *vector = random_like(vector, run.seed);
            }
            bench.directions.insert(NULL.into(), null);
            name = NULL;
        }
        let cells = self.cells(run, arguments, bench, name, &plan, &base);
        bench.directions.remove(NULL);
        Ok(self.figure(run, arguments, bench, &plan, cells?))
    }
}

/// What a sweep is about, read from its arguments.
struct Plan {
    direction: String,
    strengths: Vec<f32>,
    answers: Vec<u32>,
    by_kl: bool,
}

impl Sweep {
    /// Cells by strength, then layer; `base` are the run's own log-probabilities.
    fn cells(
        &self,
        run: &Run,
        arguments: &Arguments,
        bench: &mut Bench,
        direction: &str,
        plan: &Plan,
        base: &[f32],
    ) -> Result<Vec<Vec<Cell>>> {
        let strengths = &plan.strengths;
        let (layers, last) = (bench.model.card.layers, run.tokens.len() - 1);
        let known = bench.model.known_tokens();
        let mut cells = Vec::with_capacity(strengths.len());
        for (column, strength) in strengths.iter().enumerate() {
            let mut cells_here = Vec::with_capacity(layers);
            for layer in 0..layers {
                let done = (column * layers + layer) as f32 / (strengths.len() * layers) as f32;
                bench.report(done)?;
                let edit = format!(
                    "{}:{direction}@{}.{layer}:{}*{strength}",
                    arguments.text(self, "op"),
                    arguments.text(self, "site"),
                    arguments.text(self, "positions"),
                );
                let edited = Run {
                    schedule: run.schedule.and(&edit.parse()?),
                    ..run.clone()
                };
                let mut logits = bench.last_logits(&edited)?;
                let read = reading(&logits, known, 5);
                log_softmax(&mut logits);
                let value = if plan.by_kl {
                    kl(base, &logits)
                } else {
                    plan.answers.iter().map(|a| logits[*a as usize].exp()).sum()
                };
                let more: Vec<(String, f32)> = read
                    .top
                    .iter()
                    .map(|(id, p)| (bench.visible(*id), *p))
                    .collect();
                cells_here.push(Cell {
                    label: more.first().map(|m| m.0.clone()).unwrap_or_default(),
                    value,
                    anchor: Anchor::cell(layer, last),
                    more,
                });
            }
            cells.push(cells_here);
        }
        Ok(cells)
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

    /// First tokens of the answers; what the run favours where none are given.
    fn answers(&self, arguments: &Arguments, bench: &Bench, base: &[f32]) -> Result<Vec<u32>> {
        let text = arguments.text(self, "answers");
        if text.is_empty() {
            return Ok(vec![reading(base, bench.model.known_tokens(), 1).top[0].0]);
        }
        let mut out = Vec::new();
        for answer in text.split('|').filter(|a| !a.is_empty()) {
            let ids = bench.model.tokenizer()?.encode_literal(answer)?;
            let first = ids.first().copied().ok_or_else(|| {
                Error::argument("answers", answer, "texts that have at least one token")
            })?;
            if !out.contains(&first) {
                out.push(first);
            }
        }
        Ok(out)
    }

    fn figure(
        &self,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
        plan: &Plan,
        cells: Vec<Vec<Cell>>,
    ) -> Figure {
        let names: Vec<String> = plan.answers.iter().map(|a| bench.visible(*a)).collect();
        let (value, what) = if plan.by_kl {
            (
                "KL in nats",
                "KL(run ‖ edited) after the last token".to_string(),
            )
        } else {
            let what = format!("probability after the last token of {}", names.join(" or "));
            ("probability", what)
        };
        let peak = cells.iter().flatten().map(|c| c.value).fold(0.0, f32::max);
        let null = match arguments.text(self, "null") {
            "random" => format!(
                " · null: a random direction of its length, seed {}",
                run.seed
            ),
            _ => String::new(),
        };
        Figure {
            title: format!("sweep · {} {}{null}", arguments.text(self, "op"), text::visible(plan.direction.as_bytes())),
            body: Body::Grid(Grid {
                row_axis: "layer".into(),
                column_axis: "strength".into(),
                value: value.into(),
                rows: (0..bench.model.card.layers)
                    .map(|l| Header {
                        label: l.to_string(),
                        anchor: Anchor::layer(l),
                    })
                    .collect(),
                columns: plan
                    .strengths
                    .iter()
                    .map(|s| Header {
                        label: s.to_string(),
                        anchor: Anchor::position(run.tokens.len() - 1),
                    })
                    .collect(),
                cells,
                scale: if plan.by_kl {
                    Scale::Range { lo: 0.0, hi: peak }
                } else {
                    Scale::Unit
                },
            }),
            notes: vec![
                format!("each cell: the most probable next token under one more edit; colour: {what}"),
                "a strong edit that breaks the text also moves these numbers: compare with null=random and read what it writes".into(),
            ],
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}
