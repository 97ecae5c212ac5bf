//! The logit lens: what would the model say if it stopped here?
//!
//! Reads `resid_post` at every layer, applies the final norm (statistics of that very row) and the unembedding,
//! and keeps the strongest tokens. The last row is the model itself; the figure checks that against the model's
//! own logits. Source: nostalgebraist 2020; Kao et al. 2001.09309.

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::Result;
use crate::lab::bench::{Bench, Reading, reading};
use crate::lab::figure::{Anchor, Body, Cell, Check, Figure, Grid, Header, Scale};
use crate::lab::run::Run;
use crate::lab::writer::{Needs, Step, tolerance};
use crate::model::Card;
use crate::model::site::Site;
use candle_core::Tensor;

/// The instrument.
pub struct Lens;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "top",
        kind: Kind::Count { lo: 1, hi: 50 },
        default: "5",
        about: "how many tokens to keep in every cell",
    },
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 1, hi: 4096 },
        default: "64",
        about: "how many of the last positions to read",
    },
];

impl Instrument for Lens {
    fn name(&self) -> &'static str {
        "lens"
    }

    fn about(&self) -> &'static str {
        "What every layer would have said: the residual stream read through the final norm and the unembedding"
    }

    fn source(&self) -> &'static str {
        "logit lens: nostalgebraist 2020; Kao et al. 2020 (2001.09309)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn live(&self, card: &Card, _arguments: &Arguments) -> Option<Needs> {
        Some(Needs {
            record: Vec::new(),
            unembed: (0..card.layers).map(|l| Site::ResidPost.at(l)).collect(),
        })
    }

    fn column(&self, step: &Step, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let keep = arguments.count(self, "top")?;
        let known = bench.model.known_tokens();
        let position = step.choice.position;
        // One after the other: waking a second thread costs more than a vocabulary of exponentials.
        let cells = step
            .unembedded
            .iter()
            .filter(|(at, _)| at.site == Site::ResidPost)
            .map(|(at, row)| {
                let read = reading(row, known, keep);
                cell(bench, &read, usize::from(at.layer), position)
            })
            .collect();
        Ok(self.figure(
            bench,
            &step.run,
            arguments,
            vec![position],
            vec![cells],
            step.check,
        ))
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let keep = arguments.count(self, "top")?;
        let layers = bench.model.card.layers;
        let wanted: Vec<_> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();
        let recording = bench.record(run, &wanted)?;
        let total = run.tokens.len();
        let first = total - arguments.count(self, "window")?.min(total);
        let mut cells: Vec<Vec<Cell>> = vec![Vec::with_capacity(layers); total - first];
        let last = recording.get(wanted[layers - 1])?;
        for (layer, at) in wanted.iter().enumerate() {
            bench.report(layer as f32 / layers as f32)?;
            let rows = recording.get(*at)?.narrow(0, first, total - first)?;
            for (i, read) in bench.read(&rows, keep)?.iter().enumerate() {
                cells[i].push(cell(bench, read, layer, first + i));
            }
        }
        let check = self.check(run, last, bench)?;
        Ok(self.figure(
            bench,
            run,
            arguments,
            (first..total).collect(),
            cells,
            check,
        ))
    }
}

impl Lens {
    /// The last lens row against the model's own logits, from a pass of their own; none where an edit acts
    /// after the last block, which the lens does not see.
    fn check(&self, run: &Run, last: &Tensor, bench: &mut Bench) -> Result<Option<Check>> {
        if run.schedule.acts_at(Site::FinalNorm) {
            return Ok(None);
        }
        let row = last.narrow(0, last.dim(0)? - 1, 1)?.contiguous()?;
        let lens = bench
            .model
            .transformer
            .unembed(&row)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let own = bench.last_logits(run)?;
        let error = own
            .iter()
            .zip(&lens)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        Ok(Some(Check {
            error,
            tolerance: tolerance(bench.model.transformer.dtype()),
        }))
    }

    fn figure(
        &self,
        bench: &Bench,
        run: &Run,
        arguments: &Arguments,
        positions: Vec<usize>,
        cells: Vec<Vec<Cell>>,
        check: Option<Check>,
    ) -> Figure {
        let rows = (0..bench.model.card.layers)
            .map(|l| Header {
                label: l.to_string(),
                anchor: Anchor::layer(l),
            })
            .collect();
        let columns = positions
            .into_iter()
            .map(|p| Header {
                label: bench.visible(run.tokens[p]),
                anchor: Anchor::position(p),
            })
            .collect();
        let grid = Grid {
            row_axis: "layer".into(),
            column_axis: "position".into(),
            value: "probability".into(),
            rows,
            columns,
            cells,
            scale: Scale::Unit,
        };
        Figure {
            title: "lens · norm own · top-1".into(),
            body: Body::Grid(grid),
            notes: vec!["each cell: the most probable next token after its position, read from resid_post of its layer".into()],
            check,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}

fn cell(bench: &Bench, reading: &Reading, layer: usize, position: usize) -> Cell {
    let more: Vec<(String, f32)> = reading
        .top
        .iter()
        .map(|(id, p)| (bench.visible(*id), *p))
        .collect();
    let (label, value) = more.first().cloned().unwrap_or_default();
    Cell {
        label,
        value,
        anchor: Anchor::cell(layer, position),
        more,
    }
}
