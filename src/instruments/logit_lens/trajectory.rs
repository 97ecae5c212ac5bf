//! The trajectory of a position through the layers in numbers: entropy, distance from the output, norm, angles.
//!
//! Reads the stream after every block at one position, and the component outputs added to it. Norms and angles are of the raw
//! stream, in f64. To report more about a layer, add a column. Sources: Ali et al. 2025 (2502.16570) for the entropies; the
//! lens's own.

use candle_core::DType;

use super::lens::cautions;
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Table, TablePage, TableRow};
use crate::instruments::logit_lens::lens_view::{MapsFile, ReadSite, answer_settles, view};
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, RowOrder,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::instruments::params::Position;
use crate::instruments::{Draft, Measurement};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs, NormOf, Readout};
use crate::lab::run::Run;
use crate::lab::sample::NO_RANK;
use crate::lab::target::first_token;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};

params_over_prompts! {
    /// What `trajectory` is asked.
    pub struct TrajectoryParams {
        /// the position that is read; negative numbers count from the end
        position: Position,
        norm: NormOf,
        maps: MapsFile,
        /// the answer whose probability and rank are shown: a text (its first token) or #ID; by default the model's top prediction
        token: Option<String>,
    }
}

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

/// Those of them that are numbers, that of the answer first.
const NUMBERS: [&str; 9] = [
    "answer p",
    "rank",
    "p",
    "entropy",
    "KL",
    "turn",
    "‖x‖",
    "‖attn‖",
    "‖mlp‖",
];

pub struct Trajectory;

impl Measurement for Trajectory {
    type Params = TrajectoryParams;
    const NAME: &'static str = "trajectory";
    const ABOUT: &'static str = "One position through the layers: entropy and KL divergence of the logit lens, rank of the answer, norm of the residual stream, and how far each block turns it";
    const SOURCE: &'static str = "entropy lens: Ali et al. 2025 (2502.16570)";
    const OVER_PROMPTS: Option<OverPrompts<TrajectoryParams>> = Some(OverPrompts {
        asked: TrajectoryParams::asked,
        alone: |params, place| {
            Ok(TrajectoryParams {
                position: Position(place.position as i64),
                token: place.token(params.token.as_ref()),
                ..params.clone()
            })
        },
        numbers: |_, body, _| PromptNumbers::of_table(body, COLUMNS[0], &NUMBERS, |_| true),
        note: "p: of the layer's own top prediction; rank of the answer: how many tokens have a higher logit; entropy, and KL divergence KL(output ‖ layer), in nats; turn: cosine of the residual stream before and after the block",
        order: |_| RowOrder::AsMeasured,
        reads: PromptPart::Positions,
        answers: ListAnswers::Asked,
    });

    fn measure(params: &TrajectoryParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let position = params.position.within(run.tokens.len())?;
        let view = view(ReadSite(Site::ResidPost), params.norm, &params.maps, lab)?;
        let token = params.token.as_deref();
        let token = token.map(|text| first_token("token", text, &lab.model));
        let token = token.transpose()?;
        let readout = Readout {
            top: 1,
            answer: token.is_none(),
            tokens: token.into_iter().collect(),
            ranks: true,
            entropy: true,
            kl: true,
            ..view.readout(lab.model.card.layers)
        };
        let layers = lab.model.card.layers;
        let sites = [Site::ResidPre, Site::AttnAdd, Site::MlpAdd, Site::ResidPost];
        let wanted: Vec<Address> = sites
            .iter()
            .flat_map(|site| (0..layers).map(|l| site.at(l)))
            .collect();
        let recording = lab.record_with_output(run, &wanted)?;
        let capture = lab.capture(run, position..position + 1, &Needs::of(readout))?;
        let seen = &capture.read;
        let mut rows = Vec::new();
        for layer in 0..layers {
            let stats = &seen.layers[layer][0];
            let token = stats.tokens.first();
            let state = |site: Site| row(&recording, site.at(layer), position);
            let (before, after) = (state(Site::ResidPre)?, state(Site::ResidPost)?);
            let length = |x: &[f64]| dot(x, x).sqrt();
            let cosine = dot(&before, &after) / (length(&before) * length(&after));
            let rank = token.map(|t| t.rank).filter(|rank| *rank != NO_RANK);
            let row = TableRow::at(
                Anchor::cell(layer, position),
                entries![
                    layer,
                    lab.visible(stats.first().0),
                    stats.first().1,
                    token.map_or(f32::NAN, |t| t.logprob.exp()),
                    rank,
                    stats.entropy,
                    stats.kl,
                    cosine as f32,
                    length(&after) as f32,
                    length(&state(Site::AttnAdd)?) as f32,
                    length(&state(Site::MlpAdd)?) as f32,
                ],
            );
            rows.push(row.naming("top", [stats.first().0]));
        }
        let page = TablePage::of("", Anchor::position(position), rows);
        let after = lab.visible(run.tokens[position]);
        Ok(Draft::of(Table::paged(COLUMNS, vec![page]))
            .titled(format!("after {after} at {position}"))
            .note(answer_settles(seen, lab))
            .notes(token.map(|id| format!("the answer is {}", lab.visible(id))))
            .note("rank of the answer: how many tokens have a higher logit; entropy, and KL divergence KL(output ‖ layer), in nats; turn: cosine of the residual stream before and after the block")
            .notes(cautions(&view, layers))
            .checked(capture.check))
    }
}

/// One recorded row, converted to f64.
fn row(recording: &Capture, at: Address, position: usize) -> Result<Vec<f64>> {
    let row = recording.get(at)?.get(position)?;
    let row = row.to_dtype(DType::F32)?.host_vec1::<f32>()?;
    Ok(row.into_iter().map(f64::from).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
