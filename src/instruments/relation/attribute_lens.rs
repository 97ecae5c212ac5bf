//! The attribute lens: a relation read off every state of a text, as a lens reads the next token (Hernandez et al. 2024,
//! section 6).
//!
//! Every state of the residual stream, at any layer and position, goes through the map of a relation, the final norm and the
//! unembedding: the row says the object that the state has for the relation, whatever the model is about to say. Invariant: the map is
//! the one of its file, with its scale, at every layer; a map that is made from states of one layer says less of others.

use std::ops::Range;
use std::path::PathBuf;

use candle_core::{DType, Tensor};

use crate::edit::relation_map::RelationMap;
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Cell, Grid};
use crate::instruments::params::{Count, params};
use crate::instruments::{Draft, Measurement, last};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::readout::RowRequest;
use crate::lab::run::Run;
use crate::model::Card;
use crate::model::network::site::Site;
use crate::text;

params! {
    /// What `attribute-lens` is asked.
    pub struct AttributeLensParams {
        /// the map of a relation: a file that `relation --save` wrote, or a name that edits know
        map: Option<PathBuf>,
        /// how many tokens to keep in every cell
        top: Count<1, 50> = "5",
        /// how many of the last positions to read
        window: Count<1, 4096> = "64",
    }
}

pub struct AttributeLens;

impl AttributeLensParams {
    fn map(&self, lab: &Lab) -> Result<std::sync::Arc<RelationMap>> {
        let given = self.map.as_ref().map(|path| path.display().to_string());
        if let Some(name) = given {
            lab.relation_map(&name)
        } else {
            let expected = "a file that `lmscope relation MODEL --relation FILE --save NAME` wrote";
            Err(Error::argument("map", "", expected))
        }
    }
}

impl Measurement for AttributeLens {
    type Params = AttributeLensParams;
    const NAME: &'static str = "attribute-lens";
    const ABOUT: &'static str = "Attribute lens: the object that every state of a text has for a relation, read through the relation's map (a file of `relation`)";
    const SOURCE: &'static str = "attribute lens: Hernandez et al. 2024 (2308.09124, section 6)";

    fn live(params: &AttributeLensParams, _card: &Card) -> bool {
        params.map.is_some()
    }

    fn positions(params: &AttributeLensParams, run: &Run) -> Result<Range<usize>> {
        Ok(last(params.window.0, run))
    }

    fn needs(params: &AttributeLensParams, _run: &Run, lab: &Lab) -> Result<Needs> {
        params.map(lab)?;
        Ok(Needs {
            record: (0..lab.model.card.layers)
                .map(|l| Site::ResidPost.at(l))
                .collect(),
            ..Needs::default()
        })
    }

    fn figure(params: &AttributeLensParams, of: &Capture, lab: &mut Lab) -> Result<Draft> {
        let map = params.map(lab)?;
        let (d, layers) = (lab.model.card.d_model, lab.model.card.layers);
        let device = lab.model.transformer.device.clone();
        let weight = Tensor::from_slice(&map.weight, (d, d), &device)?.t()?;
        let bias = Tensor::from_slice(&map.bias, (1, d), &device)?;
        let mut objects = Vec::with_capacity(layers + 1);
        for layer in 0..layers {
            let states = of.get(Site::ResidPost.at(layer))?.to_dtype(DType::F32)?;
            objects.push((states.matmul(&weight)? * map.origin.beta)?.broadcast_add(&bias)?);
        }
        objects.push(bias);
        let ask = RowRequest {
            top: params.top.0,
            ..RowRequest::default()
        };
        let read = lab.read(&Tensor::cat(&objects, 0)?, &ask)?;
        let count = of.positions.len();
        let cell = |row: usize, column: usize| {
            let stats = &read[row * count + column];
            let anchor = Anchor::cell(row, of.positions.start + column);
            let (token, p) = stats.first();
            let more = stats
                .top
                .iter()
                .skip(1)
                .map(|(id, p)| (lab.visible(*id), *p));
            Cell::of(lab.visible(token), p, anchor).more(more)
        };
        let own = map.origin.layer;
        let label = |layer: usize| {
            let mark = if layer == own { " ←" } else { "" };
            AxisLabel::of(format!("{layer}{mark}"), Anchor::layer(layer))
        };
        let grid = Grid::of(
            ("layer", (0..layers).map(label).collect()),
            ("position", lab.headers(&of.run, of.positions.clone())),
            "probability",
            cell,
        );
        let name = text::plain(map.origin.relation.as_bytes());
        let nobody = read
            .last()
            .map_or((crate::lab::sample::NO_TOKEN, f32::NAN), |stats| {
                stats.first()
            });
        Ok(Draft::of(grid)
            .titled(name.clone())
            .note(format!(
                "each cell: the object of `{name}` that the state after that block has, by the map made at layer {own} (←), beta {}; it says nothing of what the model is about to say",
                map.origin.beta
            ))
            .note(format!(
                "control: with no state at all, by b alone, the map says {} ({:.2}); where a cell says that, it says nothing of its token",
                lab.visible(nobody.0), nobody.1
            )))
    }
}
