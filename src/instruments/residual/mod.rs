//! The residual stream as a sum, and a logit as the same sum: direct logit attribution.
//!
//! At one position the figure lists the parts of the sum (embedding, every attention output, every MLP output, biases), and
//! splits them into heads, neurons, and the tokens that attention read; over several positions it is a grid. The sums are in
//! [`crate::instruments::residual::attribution`]; the splits in [`crate::instruments::residual::decomposition`]. Invariant:
//! every figure carries the error of the sum that it shows. Sources: nostalgebraist 2020; Elhage et al. 2021; TransformerLens
//! `logit_attrs`; shares: Ferrando and Voita 2024 (2403.00824).

pub mod attribution;
mod breakdown;
pub mod decomposition;

use std::ops::Range;

use super::{Draft, Measurement};
use crate::error::{Error, Result};
use crate::figure::{
    Anchor, AxisLabel, Body, Cell, Check, Curve, Grid, Scale, Series, Style, Unit,
};
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, PromptPlace, RowOrder,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::instruments::params::{Count, LayerOrAll, ParamKind, ParameterValue, Position, choices};
use crate::instruments::residual::attribution::{
    Attribution, AttributionRequest, LogitPart, PartAtPosition, addresses, check_sum, needs,
};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::effect::EffectScale;
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::model::Card;

choices! {
    /// The parts into which a logit is split.
    pub enum Decomposed { Layer = "layer", Head = "head", Neuron = "neuron", Source = "source" }
}

choices! {
    /// The quantity that is shown of each part.
    pub enum OutputMeasure { Effect = "effect", Size = "size", Cosine = "cosine", Share = "share" }
}

/// The scale of effects, which was a switch here: to centre or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResidualScale(pub EffectScale);

impl ParameterValue for ResidualScale {
    const KIND: ParamKind = EffectScale::KIND;
    const DEFAULT: &'static str = EffectScale::DEFAULT;
    const ABOUT: &'static str = EffectScale::ABOUT;
    const OLDER: &'static [(&'static str, &'static str)] = &[("yes", "centred"), ("no", "logit")];

    fn parse(text: &str) -> std::result::Result<Self, String> {
        EffectScale::parse(text).map(Self)
    }

    fn print(&self) -> String {
        self.0.print()
    }
}

params_over_prompts! {
    /// What `residual` is asked.
    pub struct ResidualParams {
        /// the token whose log-probability or logit is split: a text (its first token) or #ID; "A" - "B" for a logit difference; by default the top prediction at each position
        token: Option<String>,
        /// what it is split into: layer: the output of every component (embedding, attention, MLP); head, neuron: their parts; source: the tokens that attention read from
        by: Decomposed = "layer",
        /// the layer that is split into heads, neurons or sources, or all
        layer: LayerOrAll = "all",
        /// the position whose next token is asked about
        position: Position,
        /// how many positions, up to that one; with more than one the figure is a grid
        window: Count<1, 256> = "1",
        /// with by=layer: effect: direct effect on the token; size: norm of the component output; cosine: with the residual stream before it; share: of the component output in the final residual stream (does not add up to it)
        value: OutputMeasure = "effect",
        on was "centred": ResidualScale,
        /// how many neurons to list
        count: Count<1, 200> = "12",
    }
}

pub struct Residual;

impl Measurement for Residual {
    type Params = ResidualParams;
    const NAME: &'static str = "residual";
    const ABOUT: &'static str = "Direct logit attribution: a logit as a sum over component outputs (embedding, attention, MLP), split further by head, neuron or source token";
    const SOURCE: &'static str = "direct logit attribution: nostalgebraist 2020; Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits)";
    // The change by an edit of the stream has a row of its own, so the rows depend on the edits.
    const ROWS_FOLLOW_EDITS: bool = true;
    const OVER_PROMPTS: Option<OverPrompts<ResidualParams>> = Some(OverPrompts {
        asked: ResidualParams::asked,
        alone: ResidualParams::alone,
        numbers: ResidualParams::numbers,
        note: "direct effects only: what later layers make of a component output counts as theirs; the final norm's scale is frozen; total: the model's own value, measured apart from the parts",
        order: |params| match params.by {
            Decomposed::Head => RowOrder::LargestFirst,
            Decomposed::Layer | Decomposed::Neuron | Decomposed::Source => RowOrder::AsMeasured,
        },
        reads: PromptPart::Positions,
        answers: ListAnswers::Asked,
    });

    fn live(params: &ResidualParams, card: &Card) -> bool {
        params.by == Decomposed::Layer && params.position == Position(-1) && !card.norms_stream
    }

    fn positions(params: &ResidualParams, run: &Run) -> Result<Range<usize>> {
        let end = params.position.within(run.tokens.len())? + 1;
        Ok(end - params.window.0.min(end)..end)
    }

    fn needs(_params: &ResidualParams, run: &Run, lab: &Lab) -> Result<Needs> {
        needs(&lab.model, run)
    }

    fn figure(params: &ResidualParams, of: &Capture, lab: &mut Lab) -> Result<Draft> {
        let sum = Attribution::read(lab, of, params.question(lab)?)?;
        Ok(params.by_layer(&sum, &of.run, lab))
    }

    fn measure(params: &ResidualParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        check_sum(&lab.model)?;
        let positions = Self::positions(params, run)?;
        let question = params.question(lab)?;
        match params.by {
            Decomposed::Layer => {
                let sum = lab.attribute(run, positions, question)?;
                Ok(params.by_layer(&sum, run, lab))
            }
            Decomposed::Head => params.by_head(run, positions, question, lab),
            Decomposed::Neuron => params.by_neuron(run, positions, question, lab),
            Decomposed::Source => params.by_source(run, positions.end - 1, question, lab),
        }
    }
}

impl ResidualParams {
    /// The same about one prompt of a list.
    fn alone(&self, place: &PromptPlace) -> Result<Self> {
        if matches!(self.by, Decomposed::Neuron | Decomposed::Source) {
            let expected =
                "layer or head with a list: neurons and source tokens differ between prompts";
            return Err(Error::argument("by", self.by.print(), expected));
        }
        Ok(Self {
            token: place.difference(self.token.as_ref()),
            position: Position(place.position as i64),
            window: Count(1),
            ..self.clone()
        })
    }

    /// The number of every part.
    fn numbers(&self, body: &Body, _place: &PromptPlace) -> Result<PromptNumbers> {
        match body {
            Body::Grid(_) => {
                PromptNumbers::of_cells(body, "head", &["effect"], |cell| vec![cell.value])
            }
            Body::Series(_) | Body::Table(_) | Body::Graph(_) | Body::Text(_) => {
                PromptNumbers::of_series(body, &[self.value.print()])
            }
        }
    }

    fn question(&self, lab: &Lab) -> Result<AttributionRequest> {
        Ok(AttributionRequest {
            target: LogitTarget::chosen(self.token.as_deref(), &lab.model)?,
            scale: self.on.0,
        })
    }

    fn by_layer(&self, sum: &Attribution, run: &Run, lab: &Lab) -> Draft {
        let (many, value) = (self.window.0 > 1, self.value);
        // A grid with one column is also about the top predictions, because a live figure may get more columns.
        let whose = if many && self.token.is_none() {
            sum.scale.of_named(TOP_PREDICTIONS, false)
        } else {
            spelled(sum, lab)
        };
        let title = match (many, value) {
            (false, OutputMeasure::Effect) => format!("{whose}, by component"),
            _ => measure_in_words(value, &whose),
        };
        let body: Body = if many {
            grid(sum, run, value, &whose, lab).into()
        } else {
            series(sum, value, &whose).into()
        };
        let share = (value == OutputMeasure::Share).then(|| "share: max(|x| - |x - c|, 0) for a component output c of the final residual stream x, in sums of magnitudes, divided by the sum over all components; it is not about logits".to_string());
        Draft::of(body)
            .titled(title)
            .notes(self.notes(sum, run, lab))
            .notes(share)
            .checked(Some(sum.check))
    }

    /// The notes that all of these figures have.
    fn notes(&self, sum: &Attribution, run: &Run, lab: &Lab) -> Vec<String> {
        let shape = &lab.model.transformer.blueprint;
        let i = sum.positions.len() - 1;
        let of = sum.targets[i];
        let total: f64 = sum.shares[i].iter().map(|s| f64::from(s.effect)).sum();
        let mut notes = vec![format!(
            "after {}: the parts sum to {total:.6}, the model's own {} is {:.6}; as vectors they sum to the final residual stream within {:.0e} of its largest entry",
            lab.visible(run.tokens[sum.positions[i]]),
            self.on.0.sum_of(of, lab),
            sum.logits[i],
            sum.stream_error.max(1e-9)
        )];
        notes.push("direct effects only: what later layers make of a component output counts as theirs; the final norm's scale is frozen".into());
        if let Some(cap) = shape.logit_cap {
            notes.push(format!(
                "this model soft-caps its logits at {cap}; the logit before the cap is attributed, where the sum is exact"
            ));
        }
        if of.minus.is_none() {
            notes.push(self.on.0.note().into());
            notes.extend(self.on.0.sum_note().map(String::from));
        }
        notes.extend(sum.saturated.clone());
        if run
            .schedule
            .acts_at(crate::model::network::site::Site::FinalNorm)
        {
            notes.push("an edit acts after the last block (at final_norm), outside this sum: the value is that before the edit".into());
        }
        notes
    }
}

/// A description of the targets if none is given.
const TOP_PREDICTIONS: &str = "the top prediction at each position";

/// A description of what a figure's effects are effects on.
pub(crate) fn spelled(sum: &Attribution, lab: &Lab) -> String {
    match sum.targets.as_slice() {
        [first, rest @ ..] if rest.iter().all(|t| t == first) => sum.scale.of(*first, lab),
        _ => sum.scale.of_named(TOP_PREDICTIONS, false),
    }
}

/// The anchor of a part: its layer and position.
fn anchor(part: LogitPart, position: usize) -> Anchor {
    match part.layer() {
        Some(layer) => Anchor::cell(layer, position),
        None => Anchor::position(position),
    }
}

/// The sum at one position, part by part. The total is the model's own logit, which is measured independently.
fn series(sum: &Attribution, value: OutputMeasure, whose: &str) -> Series {
    let kept = parts_with_value(sum, value);
    let values: Vec<f32> = kept
        .iter()
        .map(|k| value_of(&sum.shares[0][*k], value))
        .collect();
    let scale = scale(values.iter().copied(), value);
    let adds = value == OutputMeasure::Effect;
    let curve = Curve {
        total: adds.then(|| sum.logits[0]),
        ..Curve::of(value.print(), Anchor::position(sum.positions[0]), values)
    };
    // Only the layer is in the anchor: with a position, a live figure would grow a column instead of being replaced.
    let points = kept.iter().map(|k| header(sum.parts[*k])).collect();
    let style = if adds { Style::Waterfall } else { Style::Bars };
    Series {
        scale,
        ..Series::of(
            "component",
            &measure_in_words(value, whose),
            points,
            vec![curve],
            style,
        )
    }
}

fn header(part: LogitPart) -> AxisLabel {
    AxisLabel::of(
        part.name(),
        part.layer().map_or_else(Anchor::default, Anchor::layer),
    )
}

/// The indices of the parts that have such a value: constants have only an effect.
fn parts_with_value(sum: &Attribution, value: OutputMeasure) -> Vec<usize> {
    (0..sum.parts.len())
        .filter(|k| {
            value == OutputMeasure::Effect
                || !matches!(sum.parts[*k], LogitPart::NormBias | LogitPart::TokenBias)
        })
        .collect()
}

fn value_of(share: &PartAtPosition, value: OutputMeasure) -> f32 {
    match value {
        OutputMeasure::Size => share.size,
        OutputMeasure::Cosine => share.cosine,
        OutputMeasure::Share => share.share,
        OutputMeasure::Effect => share.effect,
    }
}

/// A description of the numbers.
fn measure_in_words(value: OutputMeasure, whose: &str) -> String {
    match value {
        OutputMeasure::Effect => format!("direct effect on the {whose}"),
        OutputMeasure::Size => "norm of the component output".into(),
        OutputMeasure::Cosine => {
            "cosine of the component output with the residual stream before it".into()
        }
        OutputMeasure::Share => "share of the component output in the final residual stream".into(),
    }
}

/// A grid of parts by positions.
fn grid(sum: &Attribution, run: &Run, value: OutputMeasure, whose: &str, lab: &Lab) -> Grid {
    let kept = parts_with_value(sum, value);
    let cell = |row: usize, i: usize| {
        let (part, share) = (sum.parts[kept[row]], &sum.shares[i][kept[row]]);
        Cell::of("", value_of(share, value), anchor(part, sum.positions[i])).more([
            ("effect", share.effect),
            ("size", share.size),
            ("cosine", share.cosine),
        ])
    };
    let columns = if value == OutputMeasure::Effect {
        targets(sum, run, lab)
    } else {
        lab.headers(run, sum.positions.iter().copied())
    };
    let rows = kept.iter().map(|k| header(sum.parts[*k])).collect();
    let grid = Grid::of(
        ("component", rows),
        ("position", columns),
        measure_in_words(value, whose),
        cell,
    );
    let columns = sum.positions.iter().zip(&grid.cells);
    let judged = columns.filter(|(p, _)| sum.positions.len() == 1 || **p > 0);
    let scale = scale(
        judged.flat_map(|(_, column)| column.iter().map(|c| c.value)),
        value,
    );
    grid.scaled(scale)
}

/// Labels of positions with the target token, so that runs with different top predictions can be told apart.
pub(crate) fn targets(sum: &Attribution, run: &Run, lab: &Lab) -> Vec<AxisLabel> {
    let mut columns = lab.headers(run, sum.positions.iter().copied());
    for (column, target) in columns.iter_mut().zip(&sum.targets) {
        column.anchor = column.anchor.with(Unit::Token(target.token));
    }
    columns
}

/// The colour scale of a grid, without the first position of a text, which is an attention sink in many models.
fn scale(values: impl Iterator<Item = f32>, value: OutputMeasure) -> Scale {
    let reach = values.fold(1e-6, |most: f32, v| most.max(v.abs()));
    match value {
        OutputMeasure::Size => Scale::up_to(reach),
        OutputMeasure::Share => Scale::Unit,
        OutputMeasure::Cosine => Scale::Diverging { reach: 1.0 },
        OutputMeasure::Effect => Scale::Diverging { reach },
    }
}

/// The worse of the check of a sum and the unexplained rests of its splits.
pub(crate) fn worst_check(
    check: Check,
    pieces: &[crate::instruments::residual::decomposition::OutputParts],
) -> Check {
    pieces.iter().filter(|p| !p.edited).fold(check, |check, p| {
        let error = p.rest.iter().fold(0f32, |most, r| most.max(r.abs()));
        let own = Check {
            error,
            tolerance: p.tolerance,
        };
        if own.passed() && check.passed() {
            check.worst(own)
        } else if check.passed() {
            own
        } else {
            check
        }
    })
}

/// The addresses of the sum together with some more, without duplicates.
fn all_addresses(
    lab: &Lab,
    run: &Run,
    more: Vec<crate::model::network::site::Address>,
) -> Result<Vec<crate::model::network::site::Address>> {
    let mut wanted = addresses(&lab.model.card, run)?;
    more.into_iter().for_each(|at| {
        if !wanted.contains(&at) {
            wanted.push(at);
        }
    });
    Ok(wanted)
}
