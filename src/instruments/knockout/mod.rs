//! Attention knockout: cut who reads whom, layers by layers, and see what becomes of the answer (Geva et al. 2023, 2304.14767).
//!
//! A cell cuts the edges from some targets (by default the last token) to some sources in a window of layers around its row,
//! and shows what the answer's probability loses. Invariant: beside every cell stands its null, as many random other edges of the
//! same layers, heads and targets; where there are not as many, the figure says so instead of showing fewer. To cut something else, add a choice of `by` and its trials in `Plan::read`.

mod plan;

use self::plan::{Found, Plan, change, pieces, short};
use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::Result;
use crate::figure::{Anchor, Body, Cell, Check, Figure, Grid, Header, Scale};
use crate::lab::attribution::rounding;
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::lab::sample::NO_RANK;
use crate::lab::trials::Cost;
use crate::model::Card;

/// The instrument.
pub struct Knock;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "token",
        kind: Kind::Text,
        default: "",
        about: "the answer: a text (its first token) or #ID; by default what the model favours",
    },
    Parameter {
        name: "sources",
        kind: Kind::Text,
        default: "",
        about: "what cannot be read, in groups: `subject=Marco Silva; rest`, each a text of the prompt, a position rule or `rest` (everything else but position 0); by default every token by itself",
    },
    Parameter {
        name: "targets",
        kind: Kind::Text,
        default: "last",
        about: "who cannot read it: a position rule, counted in the whole text, or a text of it",
    },
    Parameter {
        name: "by",
        kind: Kind::Choice(&["source", "head"]),
        default: "source",
        about: "source: a column a group, all heads; head: a column a head, all groups together",
    },
    Parameter {
        name: "heads",
        kind: Kind::Text,
        default: "",
        about: "by source: only these heads, such as 0,2; by default all",
    },
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 0, hi: 256 },
        default: "0",
        about: "how many layers are cut at once, around each; 0: a fifth of them",
    },
    Parameter {
        name: "value",
        kind: Kind::Choice(&["change", "relative", "logprob"]),
        default: "change",
        about: "of the answer's probability: its change, its change in shares of what it was, or the change of its logarithm",
    },
];

impl Instrument for Knock {
    fn name(&self) -> &'static str {
        "knockout"
    }

    fn about(&self) -> &'static str {
        "What becomes of an answer when some tokens cannot read some others, in a window of layers at a time"
    }

    fn source(&self) -> &'static str {
        "attention knockout: Geva et al. 2023 (2304.14767)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn cost(&self, tokens: usize, arguments: &Arguments, card: &Card) -> Option<Cost> {
        let groups = arguments.text(self, "sources");
        let columns = match (arguments.text(self, "by"), groups) {
            ("head", _) => card.heads,
            (_, "") => tokens.saturating_sub(1),
            (_, groups) => pieces(groups).len(),
        };
        let alone = arguments.text(self, "targets") == "last";
        Some(Cost {
            passes: 2 * card.layers * columns + 1,
            tokens: if alone { 1 } else { tokens },
        })
    }

    fn reads_end(&self) -> bool {
        true
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let plan = Plan::read(self, run, arguments, bench)?;
        let found = plan.measure(self, run, arguments, bench)?;
        Ok(self.figure(&plan, &found, run, arguments, bench))
    }
}

impl Knock {
    fn figure(
        &self,
        plan: &Plan,
        found: &Found,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
    ) -> Figure {
        let value = arguments.text(self, "value");
        let by_head = arguments.text(self, "by") == "head";
        let measure = |logprob: f32| change(value, logprob, found.base);
        let position = run.tokens.len() - 1;
        let cell = |i: usize| {
            let column = &plan.columns[i / plan.layers];
            let layer = i % plan.layers;
            let anchor = Anchor {
                layer: Some(layer as u16),
                position: column.anchor.position.or(Some(position as u32)),
                unit: column.anchor.unit,
            };
            match &found.outcomes[i] {
                Some(outcome) => Cell {
                    label: String::new(),
                    value: measure(outcome.logprob),
                    anchor,
                    more: [
                        ("before", Some(found.base.exp())),
                        ("after", Some(outcome.logprob.exp())),
                        (
                            "rank after",
                            (outcome.rank != NO_RANK).then_some(outcome.rank as f32),
                        ),
                        ("random edges", outcome.null.map(f32::exp)),
                    ]
                    .into_iter()
                    .filter_map(|(name, v)| Some((name.to_string(), v?)))
                    .collect(),
                },
                None => Cell {
                    value: f32::NAN,
                    anchor,
                    ..Cell::default()
                },
            }
        };
        let cells: Vec<Vec<Cell>> = (0..plan.columns.len())
            .map(|c| {
                (0..plan.layers)
                    .map(|l| cell(c * plan.layers + l))
                    .collect()
            })
            .collect();
        let values = cells
            .iter()
            .flatten()
            .map(|c| c.value)
            .filter(|v| v.is_finite());
        let reach = values.fold(1e-6f32, |most, v| most.max(v.abs()));
        let name = bench.visible(plan.answer);
        let outcomes = found.outcomes.iter().flatten();
        let tolerance = rounding(&bench.model) * found.reach;
        let checks = outcomes.clone().map(|o| Check {
            error: o.gap,
            tolerance,
        });
        let check = checks.reduce(Check::worst).unwrap_or(Check {
            error: 0.0,
            tolerance,
        });
        let nulls: Vec<f32> = outcomes
            .clone()
            .filter_map(|o| o.null)
            .map(measure)
            .collect();
        let cells_done = outcomes.count();
        let mut notes = vec![
            format!(
                "each cell: what becomes of {name} after the last token (p {}, rank {}) when {} cannot read {} in {} layers around the row; a position always reads itself",
                short(found.base.exp()),
                found.base_rank,
                who(&plan.targets),
                if by_head {
                    "the sources with the column's head"
                } else {
                    "the column"
                },
                plan.window
            ),
            if nulls.is_empty() {
                "null: none, for there are not as many other edges as are cut; compare the columns, or cut less".into()
            } else {
                format!(
                    "null: as many random other edges of the same positions, heads and layers cut, in {} of {cells_done} cells that have as many, mean {:+.4}; each such cell carries its own (`random edges`, seed {})",
                    nulls.len(),
                    nulls.iter().sum::<f32>() / nulls.len() as f32,
                    run.seed
                )
            },
        ];
        notes.extend(found.null.clone());
        notes.extend(found.stopped.clone());
        notes.push("a cut of one window says what is read there and nowhere else; what was read earlier has moved on".into());
        Figure {
            title: format!("knockout · {name} without what is cut"),
            body: Body::Grid(Grid {
                also: crate::figure::also::Also::default(),
                row_axis: "layer".into(),
                column_axis: arguments.text(self, "by").into(),
                value: match value {
                    "relative" => format!("relative change of the probability of {name}"),
                    "logprob" => format!("change of the log-probability of {name}"),
                    _ => format!("change of the probability of {name}"),
                },
                rows: (0..plan.layers)
                    .map(|l| Header {
                        label: l.to_string(),
                        anchor: Anchor::layer(l),
                    })
                    .collect(),
                columns: plan
                    .columns
                    .iter()
                    .map(|c| Header {
                        label: c.label.clone(),
                        anchor: c.anchor,
                    })
                    .collect(),
                cells,
                scale: Scale::Diverging { reach },
            }),
            notes,
            check: Some(check),
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}

/// Some positions in words.
fn who(positions: &[usize]) -> String {
    match positions {
        [one] => format!("position {one}"),
        [first, .., last] => format!("positions {first} to {last}"),
        [] => "nobody".into(),
    }
}
