//! Meters: how far every token's residual stream lies along each loaded direction.
//!
//! The number is `h·v̂`, in the units of the stream; the cosine and `‖h‖` stand beside it. With all directions, each has one
//! row at its home, the layer it was measured at; with one direction, each layer has a row. The first position is an
//! attention sink in most models and takes no part in the colour scale. Projections on a direction as a monitor: Arditi et al.
//! 2024 (2406.11717, section 5.1); persona vectors, Chen et al. 2025 (2507.21509).

use std::ops::Range;

use candle_core::Tensor;

use crate::edit::direction::{Direction, unit};
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Body, Cell, Grid, Scale, Text};
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, PromptPlace, RowOrder,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::instruments::params::{Count, LayerOrAll, choices};
use crate::instruments::{Draft, Measurement, last};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::run::Run;
use crate::model::Card;
use crate::model::host::ToHost;
use crate::model::network::readout::StatisticsOn;
use crate::model::network::site::{Address, Axis, Site};
use crate::text;

choices! {
    /// Where in the block the stream is read.
    pub enum StreamSite { Pre = "resid_pre", Post = "resid_post" }
}

params_over_prompts! {
    /// What `meters` is asked.
    pub struct MetersParams {
        /// the name of a loaded direction, or a file: one row a layer; or all: one row for each loaded direction, at the layer it was measured at
        direction: String = "all",
        /// where in the block the residual stream is read
        site: StreamSite = "resid_pre",
        /// one layer, or all
        layer: LayerOrAll = "all",
        /// how many of the last positions to read
        window: Count<1, 4096> = "64",
    }
}

pub struct Meters;

/// The parameter of a direction that stands for every one.
const ALL: &str = "all";

/// One row: a direction at a place.
struct DirectionMeter {
    title: String,
    layer: usize,
    /// Unit, `[d_model]`.
    along: Vec<f32>,
    /// The length of a probe's vector, and its bias.
    probe: Option<(f32, f32)>,
}

impl Measurement for Meters {
    type Params = MetersParams;
    const NAME: &'static str = "meters";
    const ABOUT: &'static str =
        "Projection of every token's residual stream on each loaded direction";
    const SOURCE: &'static str = "projections on a direction: Arditi et al. 2024 (2406.11717)";
    const OVER_PROMPTS: Option<OverPrompts<MetersParams>> = Some(OverPrompts {
        asked: MetersParams::asked,
        alone: |params, place| {
            Ok(MetersParams {
                window: Count(place.window),
                ..params.clone()
            })
        },
        numbers: numbers_at,
        note: "projection: the component of the residual stream along the unit direction; the sign is relative to the direction; ‖h‖: the norm of the stream",
        order: |_| RowOrder::AsMeasured,
        reads: PromptPart::Positions,
        answers: ListAnswers::Unasked,
    });

    fn live(params: &MetersParams, card: &Card) -> bool {
        params.layer.within(card.layers).is_ok()
    }

    fn positions(params: &MetersParams, run: &Run) -> Result<Range<usize>> {
        Ok(last(params.window.0, run))
    }

    fn needs(params: &MetersParams, _run: &Run, lab: &Lab) -> Result<Needs> {
        let meters = params.meters(lab)?;
        let mut record: Vec<Address> = meters.iter().map(|m| params.site().at(m.layer)).collect();
        record.sort_unstable();
        record.dedup();
        Ok(Needs {
            record,
            ..Needs::default()
        })
    }

    fn figure(params: &MetersParams, of: &Capture, lab: &mut Lab) -> Result<Draft> {
        let meters = params.meters(lab)?;
        if meters.is_empty() {
            return Ok(nothing(lab));
        }
        let mut cells: Vec<Vec<Cell>> = vec![Vec::with_capacity(meters.len()); of.positions.len()];
        let rows = meters
            .iter()
            .map(|meter| of.get(params.site().at(meter.layer)));
        let rows: Vec<&Tensor> = rows.collect::<Result<_>>()?;
        let measured = match lab.model.transformer.statistics {
            StatisticsOn::Host => measured_on_host(&meters, &rows)?,
            StatisticsOn::Device => measured_on_device(&meters, &rows)?,
        };
        for (meter, measured) in meters.iter().zip(measured) {
            let positions = of.positions.clone();
            for ((cells, measured), position) in cells.iter_mut().zip(measured).zip(positions) {
                cells.push(cell(meter, measured, position));
            }
        }
        // The first position would wash out all others.
        let counted = cells
            .iter()
            .flatten()
            .filter(|c| c.anchor.position != Some(0));
        let reach = counted
            .map(|c| c.value.abs())
            .filter(|v| v.is_finite())
            .fold(1e-6, f32::max);
        let what = match params.direction.trim() {
            "" | ALL => "every direction where it was measured".to_string(),
            named => text::visible(named.as_bytes()),
        };
        let probed = meters.iter().any(|meter| meter.probe.is_some());
        let rows = meters
            .into_iter()
            .map(|m| AxisLabel::of(m.title, Anchor::layer(m.layer)));
        let columns = lab.headers(&of.run, of.positions.clone());
        let probes = "the cells of a probe, a direction with a bias, say the probability of its first list; their colour is the component";
        let (rows, columns) = (("meter", rows.collect()), ("position", columns));
        let grid = Grid::filled(rows, columns, "projection", cells);
        Ok(Draft::of(grid.scaled(Scale::Diverging { reach }))
            .titled(format!("{what} · {}", params.site().spec().name))
            .note("each cell: the component of the residual stream along the unit direction; the sign is relative to the direction")
            .notes(probed.then(|| probes.to_string()))
            .note("the first position, an attention sink in most models, is left out of the colour scale"))
    }
}

/// The numbers of every meter at a position.
fn numbers_at(params: &MetersParams, body: &Body, place: &PromptPlace) -> Result<PromptNumbers> {
    let Body::Grid(grid) = body else {
        let expected = "a direction: none is loaded that was measured there; name one by its file";
        return Err(Error::argument("direction", &params.direction, expected));
    };
    let cells = || grid.cells.iter().flatten();
    let names = NUMBERS
        .iter()
        .filter(|name| cells().any(|cell| cell.named(name).is_some()));
    let names: Vec<String> = names.map(ToString::to_string).collect();
    PromptNumbers::of_column(body, place.position, names.clone(), |column, row| {
        let of = |name: &String| grid.cells[column][row].named(name).unwrap_or(f32::NAN);
        names.iter().map(of).collect()
    })
}

/// The numbers of a cell, by name.
const NUMBERS: [&str; 4] = ["projection", "cosine", "‖h‖", "probe p"];

/// The projection and the length of every row `[positions, d_model]`, by meter.
type Measured = Vec<Vec<(f64, f64)>>;

fn measured_on_host(meters: &[DirectionMeter], rows: &[&Tensor]) -> Result<Measured> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    let of_meter = |(meter, rows): (&DirectionMeter, &&Tensor)| {
        let rows = rows.host_vec2::<f32>()?;
        let own = rows
            .iter()
            .map(|row| (dot(row, &meter.along), dot(row, row).sqrt()));
        Ok(own.collect())
    };
    meters.iter().zip(rows).map(of_meter).collect()
}

/// The same in one read-back of two numbers a row.
fn measured_on_device(meters: &[DirectionMeter], rows: &[&Tensor]) -> Result<Measured> {
    let of_meter = |(meter, rows): (&DirectionMeter, &&Tensor)| {
        let along = Tensor::new(meter.along.as_slice(), rows.device())?.unsqueeze(1)?;
        let own = [rows.matmul(&along)?, rows.sqr()?.sum_keepdim(1)?.sqrt()?];
        Ok(Tensor::cat(&own, 1)?)
    };
    let all = meters.iter().zip(rows).map(of_meter);
    let all = Tensor::stack(&all.collect::<Result<Vec<_>>>()?, 0)?;
    let positions = all.dim(1)?;
    let numbers = all.flatten_all()?.host_vec1::<f32>()?;
    let pairs: Vec<(f64, f64)> = numbers
        .chunks_exact(2)
        .map(|pair| (f64::from(pair[0]), f64::from(pair[1])))
        .collect();
    Ok(pairs.chunks(positions.max(1)).map(<[_]>::to_vec).collect())
}

/// The cell of a meter over one row of the stream; sums in f64.
fn cell(meter: &DirectionMeter, (projection, length): (f64, f64), position: usize) -> Cell {
    let (value, anchor) = (projection as f32, Anchor::cell(meter.layer, position));
    let odds = |(length, bias): (f32, f32)| value * length + bias;
    let p = meter.probe.map(|probe| 1.0 / (1.0 + (-odds(probe)).exp()));
    let label = p.map_or_else(String::new, |p| format!("{p:.2}"));
    let own = [
        ("projection", value),
        ("cosine", (projection / (length + 1e-12)) as f32),
        ("‖h‖", length as f32),
    ];
    Cell::of(label, value, anchor).more(own.into_iter().chain(p.map(|p| ("probe p", p))))
}

impl MetersParams {
    fn site(&self) -> Site {
        match self.site {
            StreamSite::Pre => Site::ResidPre,
            StreamSite::Post => Site::ResidPost,
        }
    }

    /// The rows of the figure, the lowest layer first.
    fn meters(&self, lab: &Lab) -> Result<Vec<DirectionMeter>> {
        let card = &lab.model.card;
        let only = self.layer.within(card.layers)?;
        let named = self.direction.trim();
        let mut out = Vec::new();
        if named == ALL || named.is_empty() {
            for (name, direction) in &lab.directions {
                let Some((layer, vector)) = self.home(direction, card) else {
                    continue;
                };
                if only.is_none_or(|only| only == layer) {
                    out.push(DirectionMeter {
                        title: format!("{layer} {}", text::visible(name.as_bytes())),
                        layer,
                        along: unit(vector),
                        probe: probe_of(direction, vector),
                    });
                }
            }
            out.sort_by(|a, b| (a.layer, &a.title).cmp(&(b.layer, &b.title)));
            return Ok(out);
        }
        let direction = lab.direction(named)?;
        for layer in (0..card.layers).filter(|l| only.is_none_or(|only| only == *l)) {
            let vector = vector_of(&direction, self.site().at(layer))?;
            if vector.len() != card.d_model {
                return Err(Error::argument(
                    "direction",
                    named,
                    format!(
                        "a direction of the residual stream, {} numbers; this one has {}, at {}",
                        card.d_model,
                        vector.len(),
                        direction.places()
                    ),
                ));
            }
            out.push(DirectionMeter {
                title: layer.to_string(),
                layer,
                along: unit(vector),
                probe: probe_of(&direction, vector),
            });
        }
        Ok(out)
    }

    /// The layer at which a direction is read, and its vector there: where it was measured, and of several places that of
    /// the longest vector. None for directions that are not of the residual stream.
    fn home<'a>(&self, direction: &'a Direction, card: &Card) -> Option<(usize, &'a [f32])> {
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
        let layer = match (at.site, self.site()) {
            (Site::ResidPre, Site::ResidPost) => measured.saturating_sub(1),
            (Site::ResidPost | Site::MlpOut | Site::MlpAdd, Site::ResidPre) => measured + 1,
            (Site::FinalNorm, _) => card.layers - 1,
            _ => measured,
        };
        Some((layer.min(card.layers - 1), vector))
    }
}

/// The length and the bias of a probe's vector; none of another direction.
fn probe_of(direction: &Direction, vector: &[f32]) -> Option<(f32, f32)> {
    let bias = direction.origin.bias?;
    Some((crate::edit::direction::norm(vector), bias))
}

/// What is said where there is nothing to measure along.
fn nothing(lab: &Lab) -> Draft {
    let line = if lab.directions.is_empty() {
        "No direction is loaded, so there is nothing to project on."
    } else {
        "No loaded direction was measured there."
    };
    let next = "`lmscope direction` and `lmscope select` make directions; o opens the form, where you can name one by its file.";
    let lines = [line, next].map(String::from).to_vec();
    Draft::of(Text { lines })
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
