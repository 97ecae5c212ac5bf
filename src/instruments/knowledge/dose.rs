//! Dose curves: the next token's statistics while units are multiplied by several factors.
//!
//! Every row is a pass over the run with the units multiplied by a factor: 0 is ablation, 1 the run itself, 2 doubles them, -1
//! flips the sign. These are the suppressing and amplifying of Dai et al. 2022 (2104.08696, section 4.3) as a curve. The
//! control is the same curve for as many other units of the same layers, each drawn among those next in size: the mean of several draws,
//! and between which probabilities they lie.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::edit::op::{Op, UnitChoice};
use crate::edit::positions::Positions;
use crate::edit::receipt::{mean, range};
use crate::edit::schedule::Schedule;
use crate::edit::{Edit, EditPlace};
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow, Unit};
use crate::instruments::neurons::at_position::{directions_at, neuron, neurons_at};
use crate::instruments::neurons::value_card::ValueCards;
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, RowOrder, table_of,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::instruments::params::{ParameterValue, Strengths, choices};
use crate::instruments::{Draft, Measurement};
use crate::lab::Lab;
use crate::lab::capture::{After, Capture, Output};
use crate::lab::control_units::{ControlDraws, near_in_size};
use crate::lab::draws::{DRAWS, draw_seed};
use crate::lab::effect::EffectScale;
use crate::lab::pass::{Pass, PassRow};
use crate::lab::run::Run;
use crate::lab::sample::{NO_RANK, NO_TOKEN, top};
use crate::lab::target::LogitTarget;
use crate::model::host::ToHost;
use crate::model::network::finite::NOT_FINITE;
use crate::model::network::site::Site;
use crate::text;
use candle_core::DType;

choices! {
    /// The type of the units.
    pub enum UnitSite { Neurons = "mlp_act", Heads = "z" }
}

params_over_prompts! {
    /// What `dose` is asked.
    pub struct DoseParams {
        /// the units as LAYER/UNIT, several with commas, such as 5/17,6/3; by default the neuron with the largest direct effect
        units: String,
        /// mlp_act: the units are neurons; z: they are heads
        site: UnitSite = "mlp_act",
        /// the factors that the units are multiplied by, one row each: 0 ablates, above 1 amplifies, -1 flips the sign
        strengths: Strengths = "-1,0,0.5,1,2,4",
        /// the answer: a text (its first token) or #ID; "A" - "B" for a logit difference; by default the run's top prediction
        token: String,
        on: EffectScale,
        positions: Positions,
    }
}

type UnitsByLayer = BTreeMap<usize, Vec<u32>>;

/// The statistics after one pass.
struct Point {
    /// On the scale that was asked for.
    value: f32,
    p: f32,
    rank: u32,
    kl: f32,
    top: u32,
}

pub struct Dose;

impl Measurement for Dose {
    type Params = DoseParams;
    const NAME: &'static str = "dose";
    const ABOUT: &'static str = "Neurons or heads multiplied by several factors (0 ablates, above 1 amplifies, -1 flips the sign), and the effect on the next token";
    const SOURCE: &'static str = "suppressing and amplifying neurons: Dai et al. 2022 (2104.08696)";
    const READS_END: bool = true;
    const OVER_PROMPTS: Option<OverPrompts<DoseParams>> = Some(OverPrompts {
        asked: DoseParams::asked,
        alone: |params, place| {
            if params.units.is_empty() {
                let expected = "units such as 5/17,6/3: with a list the same ones are multiplied in every prompt; `fact` and `neurons` find some";
                return Err(Error::argument("units", "", expected));
            }
            let given = Some(&params.token).filter(|token| !token.is_empty());
            Ok(DoseParams {
                token: place.difference(given).unwrap_or_default(),
                ..params.clone()
            })
        },
        numbers: |_, body, _| {
            let words = ["times", "top", "least p", "most p"];
            let names = table_of(body)?.columns.iter().map(String::as_str);
            let names: Vec<&str> = names.filter(|name| !words.contains(name)).collect();
            PromptNumbers::of_table(body, "times", &names, |_| true)
        },
        note: "of the answer after the position, with the units multiplied; rank: how many tokens have a higher logit; KL divergence KL(run ‖ edited) in nats; control: as many other units of the same layers, next in size, mean of the draws",
        order: |_| RowOrder::AsMeasured,
        reads: PromptPart::Positions,
        answers: ListAnswers::Asked,
    });

    fn measure(params: &DoseParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let strengths = &params.strengths.0;
        let base = lab.last(run, Output::whole(After::Last(1)))?;
        let target = match params.token.as_str() {
            "" => LogitTarget::one(base.first().0),
            text => LogitTarget::parse("token", text, &lab.model)?,
        };
        let output = Output {
            ranks: true,
            kl: Some(Arc::new(vec![vec![base]])),
            ..params.on.output(target)
        };
        let units = params.units(run, target, lab)?;
        let draws = params.control_draws(&units, lab);
        let controls = params.control_units(run, &units, draws.count, lab)?;
        let mut rows = Vec::with_capacity(strengths.len());
        let anchor = anchor(&units, run, params.site);
        let edited = strengths.iter().flat_map(|strength| {
            let row =
                |units: &UnitsByLayer| PassRow::edited(params.schedule(run, units, *strength));
            let beside: Vec<PassRow> = controls.iter().map(row).collect();
            std::iter::once(row(&units)).chain(beside)
        });
        let found = lab.run(&Pass {
            rows: edited.collect(),
            ..Pass::after(run.clone(), output)
        })?;
        let known = lab.model.known_tokens();
        let points: Vec<Point> = found
            .iter()
            .map(|row| Point::of(row, target, params.on, known))
            .collect();
        for (strength, some) in strengths.iter().zip(points.chunks(1 + controls.len())) {
            let (own, others) = (&some[0], &some[1..]);
            let each = |of: fn(&Point) -> f32| -> Vec<f32> { others.iter().map(of).collect() };
            let shares = each(|point| point.p);
            let mut entries = entries![
                *strength,
                own.value,
                own.p,
                match own.rank {
                    NO_RANK => Entry::from(NOT_FINITE),
                    rank => Entry::from(rank),
                },
                own.kl,
                lab.visible(own.top),
            ];
            entries.extend(match range(&shares) {
                None => vec![Entry::Missing; 5],
                Some((low, high)) => entries![
                    mean(&each(|point| point.value)),
                    mean(&shares),
                    mean(&each(|point| point.kl)),
                    low,
                    high,
                ],
            });
            rows.push(
                TableRow::at(anchor, entries)
                    .naming("top", Some(own.top).filter(|top| *top != NO_TOKEN)),
            );
        }
        let name = target.spell(lab);
        let beside = match controls.as_slice() {
            [] => "no control".to_string(),
            [one] => format!("control {}", spell(one)),
            [first, ..] => format!(
                "control {}, and others in {} draws, seed {}",
                spell(first),
                controls.len(),
                run.seed
            ),
        };
        let title = format!(
            "{} {} multiplied · {beside}",
            params.site.print(),
            spell(&units)
        );
        let page = TablePage::of(title, anchor, rows);
        let heading = params.on.heading(target);
        let beside = format!("control {heading}");
        let columns = [
            "times",
            heading,
            "p",
            "rank",
            "KL",
            "top",
            &beside,
            "control p",
            "control KL",
            "least p",
            "most p",
        ];
        Ok(Draft::of(Table::paged(&columns, vec![page]))
            .titled(format!("{} on the {}", spell(&units), params.on.of(target, lab)))
            .note(format!("{heading}, p and rank of {name} after the last token, and KL divergence KL(run ‖ edited) in nats; the row of factor 1 is the run itself"))
            .note(if draws.why.is_empty() {
                format!("control: as many other units of the same layers, mean of {} and the range of their p, each drawn (by the seed) among those next in size (|act|·‖v‖ at the last position; for heads ‖z‖)", text::counted(draws.count, "draw"))
            } else {
                format!("no control of equal size: {}", draws.why)
            }))
    }
}

impl UnitSite {
    fn of(self) -> Site {
        match self {
            Self::Neurons => Site::MlpAct,
            Self::Heads => Site::Z,
        }
    }
}

impl DoseParams {
    /// The units given as a parameter, or the neuron with the largest direct effect at the last position.
    fn units(&self, run: &Run, target: LogitTarget, lab: &mut Lab) -> Result<UnitsByLayer> {
        let heads = self.site == UnitSite::Heads;
        let mut units = UnitsByLayer::new();
        if self.units.is_empty() && !heads {
            let local = neurons_at(lab, run, run.tokens.len() - 1)?.remove(0);
            let here = std::slice::from_ref(&local);
            let along = directions_at(lab, here, Some(&[target]), self.on)?;
            let stream = along.of_stream(&lab.model)?;
            let mut best = (f32::NEG_INFINITY, 0, 0);
            for (layer, _) in &local.activations {
                let view = lab.model.transformer.neuron_views(*layer, &stream)?;
                let effects = local.effects(*layer, &view.squeeze(0)?.host_vec1::<f32>()?);
                if let Some((unit, effect)) = top(&effects, effects.len(), 1).first()
                    && *effect > best.0
                {
                    best = (*effect, *layer, *unit);
                }
            }
            if best.0 == f32::NEG_INFINITY {
                return Err(lab.not_finite("The direct effects of all neurons are"));
            }
            units.insert(best.1, vec![best.2]);
            return Ok(units);
        }
        for part in self.units.split(',') {
            let (layer, unit) = if heads {
                head(part, lab)?
            } else {
                let (layer, unit) = neuron("units", part, &lab.model)?;
                (usize::from(layer), unit)
            };
            let held: &mut Vec<u32> = units.entry(layer).or_default();
            if !held.contains(&unit) {
                held.push(unit);
            }
        }
        Ok(units)
    }

    /// How many draws of as many other units there are.
    fn control_draws(&self, units: &UnitsByLayer, lab: &Lab) -> ControlDraws {
        let card = &lab.model.card;
        let count = match self.site {
            UnitSite::Heads => card.heads,
            UnitSite::Neurons => card.d_mlp,
        };
        ControlDraws::of_units(units.values().map(|own| (count, own.len())), DRAWS)
    }

    /// Several draws of as many other units of the same layers, next in the ranking by size.
    fn control_units(
        &self,
        run: &Run,
        units: &UnitsByLayer,
        draws: usize,
        lab: &mut Lab,
    ) -> Result<Vec<UnitsByLayer>> {
        let last = run.tokens.len() - 1;
        let mut controls = vec![UnitsByLayer::new(); draws];
        for (layer, own) in units {
            let sizes = if self.site == UnitSite::Heads {
                let at = Site::Z.at(*layer);
                let z = lab.record(run, &[at])?.get(at)?.narrow(0, last, 1)?;
                let z = z.squeeze(0)?.to_dtype(DType::F32)?;
                z.sqr()?.sum(1)?.sqrt()?.host_vec1::<f32>()?
            } else {
                let local = neurons_at(lab, run, last)?.remove(0);
                let cards = ValueCards::on(lab);
                local.sizes(*layer, &cards.borrow_mut().norms(&lab.model)?[*layer])
            };
            for (draw, control) in controls.iter_mut().enumerate() {
                control.insert(*layer, near_in_size(&sizes, own, draw_seed(run.seed, draw)));
            }
        }
        Ok(controls)
    }

    /// The run's edits and the multiplied units.
    fn schedule(&self, run: &Run, units: &UnitsByLayer, strength: f32) -> Schedule {
        let mut schedule = run.schedule.clone();
        for (layer, units) in units.iter().filter(|(_, units)| !units.is_empty()) {
            let op = Op::Scale(UnitChoice::List(units.clone()));
            schedule = schedule.and(&Edit {
                positions: self.positions.clone(),
                strength,
                ..Edit::new(op, EditPlace::At(self.site.of().at(*layer)))
            });
        }
        schedule
    }
}

impl Point {
    /// The statistics of a row; NaN if the row is not finite.
    fn of(row: &Capture, target: LogitTarget, scale: EffectScale, known: usize) -> Self {
        if !row.is_finite() {
            return Self {
                value: f32::NAN,
                p: f32::NAN,
                rank: NO_RANK,
                kl: f32::NAN,
                top: NO_TOKEN,
            };
        }
        let stats = row.last();
        let token = stats.token(target.token);
        Self {
            value: scale.value(target, stats, known),
            p: token.logprob.exp(),
            rank: token.rank,
            kl: stats.kl,
            top: stats.first().0,
        }
    }
}

/// Reads a head as `L/H`.
fn head(text: &str, lab: &Lab) -> Result<(usize, u32)> {
    let card = &lab.model.card;
    let parts = text.trim().split_once('/').and_then(|(layer, unit)| {
        let layer = layer.trim().parse::<usize>().ok()?;
        Some((layer, unit.trim().parse::<u32>().ok()?))
    });
    parts
        .filter(|(l, h)| *l < card.layers && (*h as usize) < card.heads)
        .ok_or_else(|| {
            let expected = format!(
                "heads as LAYER/HEAD, such as 1/0: heads 0 to {} of layers 0 to {}",
                card.heads - 1,
                card.layers - 1
            );
            Error::argument("units", text, expected)
        })
}

/// Spells units as `5/17,6/3`.
fn spell(units: &UnitsByLayer) -> String {
    let each = units
        .iter()
        .flat_map(|(layer, units)| units.iter().map(move |u| format!("{layer}/{u}")));
    let spelled = each.collect::<Vec<_>>().join(",");
    if spelled.is_empty() {
        "none".into()
    } else {
        spelled
    }
}

/// The anchor of a figure: the unit if there is a single one, else the position.
fn anchor(units: &UnitsByLayer, run: &Run, site: UnitSite) -> Anchor {
    let last = run.tokens.len() - 1;
    let mut all = units
        .iter()
        .flat_map(|(l, us)| us.iter().map(move |u| (*l, *u)));
    match (all.next(), all.next()) {
        (Some((layer, unit)), None) => Anchor::cell(layer, last).with(match site {
            UnitSite::Heads => Unit::Head(unit),
            UnitSite::Neurons => Unit::Neuron(unit),
        }),
        _ => Anchor::position(last),
    }
}
