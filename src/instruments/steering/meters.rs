//! Meters: how far every token's residual stream lies along each loaded direction.
//!
//! The number is `h·v̂`, in the units of the stream; the cosine and `‖h‖` stand beside it. With all directions, each has one
//! row at its home, the layer it was measured at; with one direction, each layer has a row. The first position is an
//! attention sink in most models and takes no part in the colour scale. Projections on a direction as a monitor: Arditi et al.
//! 2024 (2406.11717, section 5.1); persona vectors, Chen et al. 2025 (2507.21509).

use crate::edit::direction::{Direction, unit};
use crate::error::{Error, Result};
use crate::figure::{Anchor, Body, Cell, Figure, Grid, Header, Scale, Text};
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::lab::writer::{Needs, Step};
use crate::model::Card;
use crate::model::network::site::{Address, Axis, Site};
use crate::text;
use candle_core::{DType, Tensor};

/// The instrument.
pub struct Meters;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "direction",
        kind: Kind::Text,
        default: "all",
        about: "a loaded direction's name or a file, a row a layer; or all that are loaded, a row each at its home layer",
    },
    Parameter {
        name: "site",
        kind: Kind::Choice(&["resid_pre", "resid_post"]),
        default: "resid_pre",
        about: "where in the block the stream is read",
    },
    Parameter {
        name: "layer",
        kind: Kind::Layer,
        default: "all",
        about: "one layer, or all",
    },
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 1, hi: 4096 },
        default: "64",
        about: "how many of the last positions to read",
    },
];

/// The parameter of a direction that stands for every one.
const ALL: &str = "all";

/// One row: a direction at a place.
struct Meter {
    title: String,
    layer: usize,
    /// Unit, `[d_model]`.
    along: Vec<f32>,
}

impl Instrument for Meters {
    fn name(&self) -> &'static str {
        "meters"
    }

    fn about(&self) -> &'static str {
        "How far every token's residual stream lies along each loaded direction"
    }

    fn source(&self) -> &'static str {
        "projections on a direction: Arditi et al. 2024 (2406.11717)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn live(&self, card: &Card, arguments: &Arguments) -> Option<Needs> {
        // Which directions there are is known to the bench alone, so every layer that may be a home is read.
        let record = match arguments.layer(self, "layer", card.layers).ok()? {
            Some(layer) => vec![self.site(arguments).at(layer)],
            None => self.addresses(arguments, card),
        };
        Some(Needs {
            record,
            unembed: Vec::new(),
        })
    }

    fn column(&self, step: &Step, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let meters = self.meters(arguments, bench)?;
        if meters.is_empty() {
            return Ok(self.nothing(&step.run, arguments, bench));
        }
        let site = self.site(arguments);
        let mut layers: Vec<usize> = meters.iter().map(|m| m.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        let rows = layers
            .iter()
            .map(|l| {
                step.rows.get(&site.at(*l)).ok_or_else(|| Error::Refused {
                    address: site.at(*l).to_string(),
                    why: "it was not recorded at this token. Ask for the figure again.".into(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        // One transfer for all layers.
        let all = Tensor::cat(&rows, 0)?.to_vec1::<f32>()?;
        let width = bench.model.card.d_model;
        let position = step.choice.position;
        let column = meters
            .iter()
            .map(|meter| {
                let at = layers.binary_search(&meter.layer).unwrap_or(0);
                cell(meter, &all[at * width..(at + 1) * width], position)
            })
            .collect();
        Ok(self.figure(meters, vec![column], position, &step.run, arguments, bench))
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let meters = self.meters(arguments, bench)?;
        if meters.is_empty() {
            return Ok(self.nothing(run, arguments, bench));
        }
        let site = self.site(arguments);
        let total = run.tokens.len();
        let first = total - arguments.count(self, "window")?.min(total);
        let mut wanted: Vec<Address> = meters.iter().map(|m| site.at(m.layer)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let recording = bench.record(run, &wanted)?;
        let mut cells: Vec<Vec<Cell>> = vec![Vec::with_capacity(meters.len()); total - first];
        for meter in &meters {
            let rows = recording.get(site.at(meter.layer))?;
            let rows = rows.narrow(0, first, total - first)?.to_dtype(DType::F32)?;
            for (i, row) in rows.to_vec2::<f32>()?.iter().enumerate() {
                cells[i].push(cell(meter, row, first + i));
            }
        }
        Ok(self.figure(meters, cells, first, run, arguments, bench))
    }
}

/// The cell of a meter over one row of the stream; sums in f64.
fn cell(meter: &Meter, row: &[f32], position: usize) -> Cell {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let projection = dot(row, &meter.along);
    let length = dot(row, row).sqrt();
    Cell {
        label: String::new(),
        value: projection as f32,
        anchor: Anchor::cell(meter.layer, position),
        more: vec![
            ("projection".into(), projection as f32),
            ("cosine".into(), (projection / (length + 1e-12)) as f32),
            ("‖h‖".into(), length as f32),
        ],
    }
}

impl Meters {
    fn site(&self, arguments: &Arguments) -> Site {
        if arguments.text(self, "site") == "resid_post" {
            Site::ResidPost
        } else {
            Site::ResidPre
        }
    }

    fn addresses(&self, arguments: &Arguments, card: &Card) -> Vec<Address> {
        let site = self.site(arguments);
        (0..card.layers).map(|l| site.at(l)).collect()
    }

    /// The rows of the figure, the lowest layer first.
    fn meters(&self, arguments: &Arguments, bench: &Bench) -> Result<Vec<Meter>> {
        let card = &bench.model.card;
        let only = arguments.layer(self, "layer", card.layers)?;
        let named = arguments.text(self, "direction").trim();
        let mut out = Vec::new();
        if named == ALL || named.is_empty() {
            for (name, direction) in &bench.directions {
                let Some((layer, vector)) = self.home(arguments, direction, card) else {
                    continue;
                };
                if only.is_none_or(|only| only == layer) {
                    out.push(Meter {
                        title: format!("{layer} {}", text::visible(name.as_bytes())),
                        layer,
                        along: unit(vector),
                    });
                }
            }
            out.sort_by(|a, b| (a.layer, &a.title).cmp(&(b.layer, &b.title)));
            return Ok(out);
        }
        let direction = bench.direction(named)?;
        for layer in (0..card.layers).filter(|l| only.is_none_or(|only| only == *l)) {
            let vector = vector_of(&direction, self.site(arguments).at(layer))?;
            if vector.len() != card.d_model {
                return Err(Error::argument(
                    "direction",
                    named,
                    format!(
                        "one of the residual stream, {} numbers; this one has {}, at {}",
                        card.d_model,
                        vector.len(),
                        direction.places()
                    ),
                ));
            }
            out.push(Meter {
                title: layer.to_string(),
                layer,
                along: unit(vector),
            });
        }
        Ok(out)
    }

    /// The layer at which a direction is read, and its vector there: where it was measured, and of several places that of
    /// the longest vector. None for directions that are not of the residual stream.
    fn home<'a>(
        &self,
        arguments: &Arguments,
        direction: &'a Direction,
        card: &Card,
    ) -> Option<(usize, &'a [f32])> {
        let of_stream = |(at, vector): &&(Address, Vec<f32>)| {
            at.site.spec().axis == Axis::Model && vector.len() == card.d_model
        };
        let length = |v: &[f32]| crate::edit::direction::norm(v);
        let (at, vector) = direction
            .rows
            .iter()
            .filter(of_stream)
            .max_by(|a, b| length(&a.1).total_cmp(&length(&b.1)))?;
        let measured = usize::from(at.layer);
        // What leaves one block enters the next: the same place in the stream has another layer at the other site.
        let layer = match (at.site, self.site(arguments)) {
            (Site::ResidPre, Site::ResidPost) => measured.saturating_sub(1),
            (Site::ResidPost | Site::MlpOut | Site::MlpAdd, Site::ResidPre) => measured + 1,
            (Site::FinalNorm, _) => card.layers - 1,
            _ => measured,
        };
        Some((layer.min(card.layers - 1), vector))
    }

    fn figure(
        &self,
        meters: Vec<Meter>,
        cells: Vec<Vec<Cell>>,
        first: usize,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
    ) -> Figure {
        let columns = (first..first + cells.len())
            .map(|p| Header {
                label: bench.visible(run.tokens[p]),
                anchor: Anchor::position(p),
            })
            .collect();
        // The first position would wash out all others.
        let counted = cells.iter().enumerate().filter(|(i, _)| first + i > 0);
        let reach = counted
            .flat_map(|(_, column)| column)
            .map(|c| c.value.abs())
            .filter(|v| v.is_finite())
            .fold(1e-6, f32::max);
        let named = arguments.text(self, "direction").trim();
        let what = if named == ALL || named.is_empty() {
            "every direction at its home".to_string()
        } else {
            text::visible(named.as_bytes())
        };
        Figure {
            title: format!("meters · {what} · {}", self.site(arguments).spec().name),
            body: Body::Grid(Grid {
                also: crate::figure::also::Also::default(),
                row_axis: "meter".into(),
                column_axis: "position".into(),
                value: "projection".into(),
                rows: meters
                    .into_iter()
                    .map(|m| Header {
                        label: m.title,
                        anchor: Anchor::layer(m.layer),
                    })
                    .collect(),
                columns,
                cells,
                scale: Scale::Diverging { reach },
            }),
            notes: vec![
                "each cell: the component of the residual stream along a unit direction; its sign is the direction's".into(),
                "the first position, an attention sink in most models, takes no part in the colour scale".into(),
            ],
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }

    fn nothing(&self, run: &Run, arguments: &Arguments, bench: &Bench) -> Figure {
        let line = if bench.directions.is_empty() {
            "No direction is loaded, so there is nothing to measure along."
        } else {
            "No loaded direction has its home there."
        };
        let lines = vec![
            line.to_string(),
            "`lmscope direction` and `lmscope select` make directions; o names one, by its file."
                .to_string(),
        ];
        Figure {
            title: "meters".into(),
            body: Body::Text(Text { lines }),
            notes: Vec::new(),
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}

/// The direction's vector for an address: the one of that layer whatever its site, or as edits choose it.
fn vector_of(direction: &Direction, at: Address) -> Result<&[f32]> {
    let same_layer = direction.rows.iter().find(|(a, _)| a.layer == at.layer);
    let exact = direction.rows.iter().find(|(a, _)| *a == at);
    match exact.or(same_layer.filter(|_| direction.rows.len() > 1)) {
        Some((_, vector)) => Ok(vector),
        None => direction.at(at),
    }
}
