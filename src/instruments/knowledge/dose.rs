//! Dose curves: the next token's statistics while units are multiplied by several factors.
//!
//! Every row is a pass over the run with the units multiplied by a factor: 0 is ablation, 1 the run itself, 2 doubles them, -1
//! flips the sign. These are the suppressing and amplifying of Dai et al. 2022 (2104.08696, section 4.3) as a curve. The
//! control is the same curve for as many other units of the same layers, each drawn among those next in size.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::edit::op::{Op, UnitChoice};
use crate::edit::positions::Positions;
use crate::edit::schedule::Schedule;
use crate::edit::{Edit, EditPlace};
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow, Unit};
use crate::instruments::knowledge::control_units::near_in_size;
use crate::instruments::neurons::at_position::{neuron, neurons_at};
use crate::instruments::neurons::value_card::ValueCards;
use crate::instruments::params::{ParameterValue, Strengths, choices, params};
use crate::instruments::{Draft, Measurement};
use crate::lab::Lab;
use crate::lab::capture::{After, Capture, Output};
use crate::lab::pass::{Pass, PassRow};
use crate::lab::run::Run;
use crate::lab::sample::{NO_RANK, NO_TOKEN, top};
use crate::lab::target::LogitTarget;
use crate::model::network::finite::NOT_FINITE;
use crate::model::network::site::Site;
use candle_core::DType;

choices! {
    /// The type of the units.
    pub enum UnitSite { Neurons = "mlp_act", Heads = "z" }
}

params! {
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
        positions: Positions,
    }
}

const COLUMNS: &[&str] = &[
    "times",
    "logit",
    "p",
    "rank",
    "KL",
    "top",
    "control logit",
    "control p",
    "control KL",
];

type UnitsByLayer = BTreeMap<usize, Vec<u32>>;

/// The statistics after one pass.
struct Point {
    logit: f32,
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
            ..Output::tokens(&target.tokens())
        };
        let units = params.units(run, target, lab)?;
        let control = params.control_units(run, &units, lab)?;
        let mut rows = Vec::with_capacity(strengths.len());
        let anchor = anchor(&units, run, params.site);
        let edited = strengths.iter().flat_map(|strength| {
            let row = |units| PassRow::edited(params.schedule(run, units, *strength));
            [row(&units), row(&control)]
        });
        let found = lab.run(&Pass {
            rows: edited.collect(),
            ..Pass::after(run.clone(), output)
        })?;
        let points: Vec<Point> = found.iter().map(|row| Point::of(row, target)).collect();
        for (strength, pair) in strengths.iter().zip(points.chunks(2)) {
            let (own, other) = (&pair[0], &pair[1]);
            rows.push(TableRow::at(
                anchor,
                entries![
                    strength.to_string(),
                    own.logit,
                    own.p,
                    match own.rank {
                        NO_RANK => Entry::from(NOT_FINITE),
                        rank => Entry::from(rank.to_string()),
                    },
                    own.kl,
                    lab.visible(own.top),
                    other.logit,
                    other.p,
                    other.kl,
                ],
            ));
        }
        let name = target.spell(lab);
        let title = format!(
            "{} {} multiplied · control {}, seed {}",
            params.site.print(),
            spell(&units),
            spell(&control),
            run.seed
        );
        let page = TablePage::of(title, anchor, rows);
        Ok(Draft::of(Table::paged(COLUMNS, vec![page]))
            .titled(format!("{} on {name}", spell(&units)))
            .note(format!("logit, p and rank of {name} after the last token, and KL divergence KL(run ‖ edited) in nats; the row of factor 1 is the run itself"))
            .note("control: as many other units of the same layers, each drawn (by the seed) among those next in size (|act|·‖v‖ at the last position; for heads ‖z‖)"))
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
            let mut best = (f32::NEG_INFINITY, 0, 0);
            for (layer, _) in &local.activations {
                let cards = ValueCards::on(lab);
                let effects =
                    local.effects(*layer, cards.borrow_mut().view(&lab.model, *layer, target)?);
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

    /// As many other units of the same layers, next in the ranking by size.
    fn control_units(
        &self,
        run: &Run,
        units: &UnitsByLayer,
        lab: &mut Lab,
    ) -> Result<UnitsByLayer> {
        let last = run.tokens.len() - 1;
        let mut control = UnitsByLayer::new();
        for (layer, own) in units {
            let sizes = if self.site == UnitSite::Heads {
                let at = Site::Z.at(*layer);
                let z = lab.record(run, &[at])?.get(at)?.narrow(0, last, 1)?;
                let z = z.squeeze(0)?.to_dtype(DType::F32)?;
                z.sqr()?.sum(1)?.sqrt()?.to_vec1::<f32>()?
            } else {
                let local = neurons_at(lab, run, last)?.remove(0);
                let cards = ValueCards::on(lab);
                local.sizes(*layer, &cards.borrow_mut().norms(&lab.model)?[*layer])
            };
            control.insert(*layer, near_in_size(&sizes, own, run.seed));
        }
        Ok(control)
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
    fn of(row: &Capture, target: LogitTarget) -> Self {
        if !row.is_finite() {
            return Self {
                logit: f32::NAN,
                p: f32::NAN,
                rank: NO_RANK,
                kl: f32::NAN,
                top: NO_TOKEN,
            };
        }
        let stats = row.last();
        let token = stats.token(target.token);
        Self {
            logit: target.logit(stats),
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
