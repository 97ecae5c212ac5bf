//! A position's way through the layers in numbers: entropy, distance from the output, length, turns.
//!
//! Reads the stream after every block at one position, and what its sub-layers added to it. Lengths and angles are of the
//! raw stream, in f64. To say more of a layer, add a column. Sources: Ali et al. 2025 (2502.16570) for the entropies; the
//! lens's own.

use candle_core::DType;

use super::lens::{FILE, NORM, cautions};
use crate::error::Result;
use crate::figure::{Anchor, Body, Entry, Figure, Page, Row, Table};
use crate::instruments::logit_lens::lens_file::LensFile;
use crate::instruments::logit_lens::reading::{NormOf, View, Wish, see};
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::Bench;
use crate::lab::run::{Recording, Run};
use crate::lab::sample::NO_RANK;
use crate::model::network::site::{Address, Site};

/// The instrument.
pub struct Trajectory;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "position",
        kind: Kind::Position,
        default: "-1",
        about: "the position that is read; negative counts from the end",
    },
    NORM,
    FILE,
];

const COLUMNS: &[&str] = &[
    "layer",
    "top",
    "p",
    "answer p",
    "rank",
    "entropy",
    "KL",
    "turn",
    "‖x‖",
    "‖attn‖",
    "‖mlp‖",
];

impl Instrument for Trajectory {
    fn name(&self) -> &'static str {
        "trajectory"
    }

    fn about(&self) -> &'static str {
        "A position through the layers: entropy and KL of the lens, rank of the answer, lengths and turns of the stream"
    }

    fn source(&self) -> &'static str {
        "entropy lens: Ali et al. 2025 (2502.16570)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let position = arguments.position(self, "position", run.tokens.len())?;
        let file = arguments.text(self, "maps").trim();
        let view = View {
            site: Site::ResidPost,
            norm: match arguments.text(self, "norm") {
                "final" => NormOf::Final,
                _ => NormOf::Own,
            },
            file: match file {
                "" => None,
                file => Some(LensFile::open(file, &bench.model)?),
            },
        };
        let wish = Wish {
            top: 1,
            answer: true,
            ranks: true,
            entropy: true,
            kl: true,
            ..Wish::default()
        };
        let layers = bench.model.card.layers;
        let sites = [Site::ResidPre, Site::AttnAdd, Site::MlpAdd, Site::ResidPost];
        let wanted: Vec<Address> = sites
            .iter()
            .flat_map(|site| (0..layers).map(|l| site.at(l)))
            .collect();
        let (recording, _) = bench.record_with_output(run, &wanted)?;
        let seen = see(bench, run, &view, position..position + 1, &wish, false)?;
        let mut rows = Vec::new();
        for layer in 0..layers {
            let said = &seen.layers[layer][0];
            let told = said.tokens.first();
            let state = |site: Site| row(&recording, site.at(layer), position);
            let (before, after) = (state(Site::ResidPre)?, state(Site::ResidPost)?);
            let length = |x: &[f64]| dot(x, x).sqrt();
            let cosine = dot(&before, &after) / (length(&before) * length(&after));
            rows.push(Row {
                anchor: Anchor::cell(layer, position),
                entries: vec![
                    Entry::Text(layer.to_string()),
                    Entry::Text(bench.visible(said.first().0)),
                    Entry::Number(said.first().1),
                    Entry::Number(told.map_or(f32::NAN, |t| t.logprob.exp())),
                    Entry::Text(told.map_or_else(String::new, |t| match t.rank {
                        NO_RANK => String::new(),
                        rank => rank.to_string(),
                    })),
                    Entry::Number(said.entropy),
                    Entry::Number(said.kl),
                    Entry::Number(cosine as f32),
                    Entry::Number(length(&after) as f32),
                    Entry::Number(length(&state(Site::AttnAdd)?) as f32),
                    Entry::Number(length(&state(Site::MlpAdd)?) as f32),
                ],
            });
        }
        let answer = bench.visible(seen.finals[0].first().0);
        let mut notes = vec![match seen.settles(0) {
            Some(layer) => format!(
                "the answer {answer} settles at layer {layer} of 0-{}",
                layers - 1
            ),
            None => format!("the answer {answer} is the strongest at no last layer of this lens"),
        }];
        notes.push(
            "rank of the answer: how many tokens are strictly stronger; entropy and KL(output ‖ layer) in nats; turn: cosine of the stream before and after the block".into(),
        );
        notes.extend(cautions(&view, bench.model.card.layers));
        let after = bench.visible(run.tokens[position]);
        Ok(Figure {
            title: format!("trajectory · after {after} at {position}"),
            body: Body::Table(Table {
                columns: COLUMNS.iter().map(ToString::to_string).collect(),
                pages: vec![Page {
                    title: String::new(),
                    anchor: Anchor::position(position),
                    rows,
                }],
            }),
            notes,
            check: seen.check,
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }
}

/// One recorded row, widened.
fn row(recording: &Recording, at: Address, position: usize) -> Result<Vec<f64>> {
    let row = recording.get(at)?.get(position)?;
    let row = row.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    Ok(row.into_iter().map(f64::from).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
