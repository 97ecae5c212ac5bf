//! The logit lens: what would the model predict if it stopped at this layer?
//!
//! Reads a state of every layer, by default `resid_post`, through the final norm and the unembedding, and keeps the top
//! predictions and statistics of the whole distribution. The last state is the model's own output; the figure checks it against
//! the model's logits. Sources: nostalgebraist 2020; Kao et al. 2001.09309; Belrose et al. 2303.08112 and 2607.15495 where a
//! file of maps is given.

use std::ops::Range;

use crate::error::Result;
use crate::figure::cell_details::{CellDetails, Number, TOP};
use crate::figure::{Anchor, AxisLabel, Body, Cell, Grid};
use crate::instruments::logit_lens::cell_value::{LensCell, LensNumber, Opening, TokenChoice};
use crate::instruments::logit_lens::lens_view::{LensView, MapsFile, ReadSite, view};
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, PromptPlace, RowOrder, grid_of,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::instruments::params::{Count, ParameterValue};
use crate::instruments::{Draft, Measurement, last};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs, NormOf};
use crate::lab::run::Run;
use crate::model::Card;
use crate::model::network::site::Site;

params_over_prompts! {
    /// What `lens` is asked.
    pub struct LensParams {
        /// how many tokens to keep in every cell
        top: Count<1, 50> = "5",
        /// how many of the last positions to read
        window: Count<1, 4096> = "64",
        /// the number of a cell: rank (from 1), probability or reciprocal_rank of a token; entropy of the cell; kl: KL divergence of the model's output from the cell, nats; auto: rank if the vocabulary has more than 8192 tokens, else probability
        show: Opening = "auto",
        /// the token of that number: a text, or `answer` for the model's own top prediction; by default the cell's top prediction, for ranks the answer
        of: String,
        site: ReadSite,
        norm: NormOf,
        maps: MapsFile,
    }
}

pub struct Lens;

/// Cautions about a reading with these settings.
pub(crate) fn cautions(view: &LensView, layers: usize) -> Vec<String> {
    let mut notes = Vec::new();
    match (view.site, view.norm) {
        (Site::AttnAdd | Site::MlpAdd, NormOf::Own) => notes.push(
            "a component output is read like a state: its own norm scales it up, however small it is".into(),
        ),
        (Site::AttnAdd | Site::MlpAdd, NormOf::Final) => notes.push(
            "a component output with the last state's norm: its part of the logits, and not a distribution of the model".into(),
        ),
        (_, NormOf::Final) => notes.push(
            "all rows with the last state's norm: early states have smaller norms and look nearly uniform".into(),
        ),
        (_, NormOf::Own) => {}
    }
    if let Some(file) = &view.file {
        notes.push(file.about.clone());
        let lacks = file.layers_without_map(view.site, layers);
        if !lacks.is_empty() {
            let names: Vec<String> = lacks.iter().map(ToString::to_string).collect();
            notes.push(format!(
                "the file has no map for {} of {}: these rows are the plain logit lens",
                view.site.spec().name,
                match names.as_slice() {
                    [one] => format!("layer {one}"),
                    many => format!("layers {}", many.join(", ")),
                }
            ));
        }
    }
    notes
}

/// The numbers of every layer at a position, that of the colours first.
fn numbers_at(_params: &LensParams, body: &Body, place: &PromptPlace) -> Result<PromptNumbers> {
    let grid = grid_of(body)?;
    let numbers = &grid.also.numbers;
    let first = numbers.iter().position(|number| number.value == grid.value);
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by_key(|i| Some(*i) != first);
    let names = order.iter().map(|i| LensCell::SHORT[*i].to_string());
    PromptNumbers::of_column(body, place.position, names.collect(), |column, row| {
        let of = |i: &usize| numbers[*i].values[column][row];
        order.iter().map(of).collect()
    })
}

impl LensParams {
    /// The same about one prompt of a list.
    fn alone(&self, place: &PromptPlace) -> Self {
        let given = Some(&self.of).filter(|of| !of.is_empty());
        Self {
            window: Count(place.window),
            of: place.token(given).unwrap_or_else(|| "answer".into()),
            top: Count(1),
            ..self.clone()
        }
    }

    fn shown(&self, lab: &Lab) -> Result<LensCell> {
        LensCell::of(self.show, &self.of, self.top.0, &lab.model)
    }
}

impl Measurement for Lens {
    type Params = LensParams;
    const NAME: &'static str = "lens";
    const ABOUT: &'static str = "Logit lens: the next-token prediction of every layer, read from the residual stream through the final norm and the unembedding";
    const SOURCE: &'static str = "logit lens: nostalgebraist 2020; Kao et al. 2020 (2001.09309)";
    const STEADY: bool = true;
    const ROWS_ARE_LAYERS: bool = true;
    const OVER_PROMPTS: Option<OverPrompts<LensParams>> = Some(OverPrompts {
        asked: LensParams::asked,
        alone: |params, place| Ok(params.alone(place)),
        numbers: numbers_at,
        note: "rank: of the answer, from 1; p: its probability; top p: that of the layer's own top prediction; KL: of the model's output from the layer, nats; entropy: of the layer, nats",
        order: |_| RowOrder::AsMeasured,
        reads: PromptPart::Positions,
        answers: ListAnswers::Asked,
    });

    fn live(params: &LensParams, _card: &Card) -> bool {
        // A live figure is read together with the model's own output: with each state's own norm and without maps. Not every
        // model has a state between attention and MLP.
        params.norm == NormOf::Own
            && params.maps.0.trim().is_empty()
            && params.site.0 != Site::ResidMid
    }

    fn positions(params: &LensParams, run: &Run) -> Result<Range<usize>> {
        Ok(last(params.window.0, run))
    }

    fn needs(params: &LensParams, _run: &Run, lab: &Lab) -> Result<Needs> {
        let view = view(params.site, params.norm, &params.maps, lab)?;
        let readout = view.readout(lab.model.card.layers);
        Ok(Needs::of(params.shown(lab)?.request(readout)))
    }

    fn figure(params: &LensParams, of: &Capture, lab: &mut Lab) -> Result<Draft> {
        let shown = params.shown(lab)?;
        let view = view(params.site, params.norm, &params.maps, lab)?;
        let seen = &of.read;
        let (mut cells, mut values, mut stories) = (Vec::new(), Vec::new(), Vec::new());
        for (i, position) in of.positions.clone().enumerate() {
            let (mut column, mut numbers) = (Vec::new(), Vec::new());
            for (layer, rows) in seen.layers.iter().enumerate() {
                let anchor = Anchor::cell(layer, position);
                for rows in [Some(rows), seen.plain.get(layer)].into_iter().flatten() {
                    let Some(row) = rows.get(i) else {
                        column.push(Cell::unread(anchor));
                        numbers.push(shown.no_numbers());
                        continue;
                    };
                    column.push(shown.cell(lab, row, anchor));
                    numbers.push(shown.all_numbers(row));
                }
            }
            // What becomes of a token along the layers is known when all of them were read.
            let rows = seen.layers.iter().filter_map(|layer| layer.get(i));
            let rows = rows.filter(|_| seen.is_whole());
            stories.push(shown.rank_story(lab, position, seen.answers[i], rows));
            cells.push(column);
            values.push(numbers);
        }
        let kind = view.file.as_ref().map(|file| file.kind.name());
        let rows = (0..lab.model.card.layers)
            .flat_map(|l| {
                let own = AxisLabel::of(l.to_string(), Anchor::layer(l));
                let plain = kind.map(|_| AxisLabel::of(format!("{l} plain"), Anchor::layer(l)));
                std::iter::once(own).chain(plain)
            })
            .collect();
        let number = |(i, params): (usize, (LensNumber, TokenChoice))| {
            let column = |rows: &Vec<Vec<f32>>| rows.iter().map(|row| row[i]).collect();
            let values: Vec<Vec<f32>> = values.iter().map(column).collect();
            Number {
                value: LensCell::number_in_words(params, lab),
                scale: LensCell::scale(params, lab, &cells, &values),
                values,
            }
        };
        let numbers: Vec<Number> = shown
            .numbers()
            .into_iter()
            .enumerate()
            .map(number)
            .collect();
        let opens = &numbers[shown.opening_index()];
        let value = opens.value.clone();
        let story_note = stories.last().filter(|_| seen.is_whole()).map(|story| {
            let at = story.anchor.position.unwrap_or_default() as usize;
            format!("after {}: {story}", lab.visible(of.run.tokens[at]))
        });
        let grid = Grid {
            row_axis: "layer".into(),
            column_axis: "position".into(),
            scale: opens.scale,
            value: value.clone(),
            rows,
            columns: lab.headers(&of.run, of.positions.clone()),
            cells,
            also: CellDetails {
                candidates: Some(LensCell::number_in_words(
                    (LensNumber::Probability, TokenChoice::Own),
                    lab,
                )),
                numbers,
                stories,
            },
            opening: None,
        };
        let site = view.site.spec().name;
        let norm = view.norm.print();
        let mut notes = vec![format!(
            "each cell: the top next-token prediction at that position, read from {site} of that layer"
        )];
        notes.extend(story_note);
        let all = of.positions == Self::positions(params, &of.run)?;
        notes.extend(convergence_notes(of, all, &view, lab));
        let mut title = format!("norm {norm} · ");
        if let Some(kind) = kind {
            title.extend([kind, " · "]);
        }
        if view.site != Site::ResidPost {
            title.extend([site, " · "]);
        }
        title += match shown.first {
            (LensNumber::Probability, TokenChoice::Own) => TOP,
            _ => &value,
        };
        Ok(Draft::of(grid).titled(title).notes(notes).checked(of.check))
    }
}

/// The convergence layer at the last position and, if all positions were captured, over all of them; a single column of a
/// longer figure says nothing of the others.
fn convergence_notes(of: &Capture, whole: bool, view: &LensView, lab: &Lab) -> Vec<String> {
    let (seen, count) = (&of.read, of.positions.len());
    let layers = seen.layers.len();
    let from = usize::from(count > 1 && of.positions.start == 0);
    let mut all: Vec<usize> = (from..count).filter_map(|i| seen.settles(i)).collect();
    all.sort_unstable();
    let mut notes = Vec::new();
    if let Some(i) = count.checked_sub(1) {
        let answer = lab.visible(seen.finals[i].first().0);
        let last = match seen.settles(i) {
            _ if !seen.is_whole() => "is read at every layer when writing pauses".into(),
            Some(layer) => format!("converges at layer {layer} of 0-{}", layers - 1),
            None => "is not the top prediction of this lens at the last layer".into(),
        };
        let after = lab.visible(of.run.tokens[of.positions.end - 1]);
        let share = if whole && all.len() + from < count {
            format!("; {} of {} positions converge", all.len(), count - from)
        } else {
            String::new()
        };
        let median = all.get(all.len() / 2).filter(|_| whole);
        let median = median.map_or_else(String::new, |median| {
            format!(
                "; median convergence layer over {} positions: {median}",
                all.len()
            )
        });
        notes.push(format!(
            "after {after} the prediction {answer} {last}{median}{share}"
        ));
    }
    notes.extend(cautions(view, layers));
    notes
}
