//! Dose curves: what the next token becomes while units are turned down, off, up or around.
//!
//! Every row is a pass over the run with the units times a strength: 0 is ablation, 1 the run itself, 2 doubling, -1
//! the opposite: the suppressing and amplifying of Dai et al. 2022 (2104.08696, section 4.3) as a curve.
//! The null is the same curve for as many other units of the same layers, each drawn among those next in size there.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::figure::{Anchor, Body, Entry, Figure, Page, Row, Table, Unit};
use crate::instruments::knowledge::control_units::near_in_size;
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::{Bench, reading};
use crate::lab::guard::tried;
use crate::lab::neurons::{neuron, sights};
use crate::lab::run::Run;
use crate::lab::sample::{NO_RANK, NO_TOKEN, kl, log_softmax, rank, top};
use crate::lab::target::Target;
use crate::model::network::finite::NOT_FINITE;
use crate::model::network::site::Site;
use candle_core::DType;

/// The instrument.
pub struct Dose;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "units",
        kind: Kind::Text,
        default: "",
        about: "LAYER/UNIT, several between commas, such as 5/17,6/3; by default the neuron with the largest direct effect",
    },
    Parameter {
        name: "site",
        kind: Kind::Choice(&["mlp_act", "z"]),
        default: "mlp_act",
        about: "mlp_act: the units are neurons; z: they are heads",
    },
    Parameter {
        name: "strengths",
        kind: Kind::Text,
        default: "-1,0,0.5,1,2,4",
        about: "what the units are multiplied by, a row each",
    },
    Parameter {
        name: "token",
        kind: Kind::Text,
        default: "",
        about: "the answer: a text (its first token) or #ID; \"A\" - \"B\" for a difference of logits; by default what the run favours",
    },
    Parameter {
        name: "positions",
        kind: Kind::Text,
        default: "all",
        about: "which positions, as in edits",
    },
];

const COLUMNS: &[&str] = &[
    "times",
    "logit",
    "p",
    "rank",
    "KL",
    "top",
    "null logit",
    "null p",
    "null KL",
];

/// The most rows.
const MOST: usize = 64;

/// Units by layer.
type Units = BTreeMap<usize, Vec<u32>>;

/// What one pass gave.
struct Point {
    logit: f32,
    p: f32,
    rank: u32,
    kl: f32,
    top: u32,
}

impl Instrument for Dose {
    fn name(&self) -> &'static str {
        "dose"
    }

    fn about(&self) -> &'static str {
        "What neurons or heads do to the next token when they are turned off, down, up or around"
    }

    fn source(&self) -> &'static str {
        "suppressing and amplifying neurons: Dai et al. 2022 (2104.08696)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn reads_end(&self) -> bool {
        true
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let strengths = self.strengths(arguments)?;
        let mut base = bench.last_logits(run)?;
        let target = match arguments.text(self, "token") {
            "" => Target::one(reading(&base, bench.model.known_tokens(), 1).first().0),
            text => Target::parse("token", text, &bench.model)?,
        };
        log_softmax(&mut base);
        let units = self.units(run, arguments, target, bench)?;
        let null = self.null(run, arguments, &units, bench)?;
        let mut rows = Vec::with_capacity(strengths.len());
        let anchor = anchor(&units, run, arguments.text(self, "site"));
        for (i, strength) in strengths.iter().enumerate() {
            bench.report(i as f32 / strengths.len() as f32)?;
            let own = self.point(run, arguments, &units, *strength, target, &base, bench)?;
            let other = self.point(run, arguments, &null, *strength, target, &base, bench)?;
            rows.push(Row {
                anchor,
                entries: vec![
                    Entry::Text(strength.to_string()),
                    Entry::Number(own.logit),
                    Entry::Number(own.p),
                    match own.rank {
                        NO_RANK => Entry::Text(NOT_FINITE.into()),
                        rank => Entry::Text(rank.to_string()),
                    },
                    Entry::Number(own.kl),
                    Entry::Text(bench.visible(own.top)),
                    Entry::Number(other.logit),
                    Entry::Number(other.p),
                    Entry::Number(other.kl),
                ],
            });
        }
        let name = target.spell(bench);
        Ok(Figure {
            title: format!("dose · {} on {name}", spell(&units)),
            body: Body::Table(Table {
                columns: COLUMNS.iter().map(ToString::to_string).collect(),
                pages: vec![Page {
                    title: format!(
                        "{} {} times · null {}, seed {}",
                        arguments.text(self, "site"),
                        spell(&units),
                        spell(&null),
                        run.seed
                    ),
                    anchor,
                    rows,
                }],
            }),
            notes: vec![
                format!("logit, p and rank of {name} after the last token; KL(run ‖ dosed) there, nats; times 1 is the run itself"),
                "null: as many units of the same layers, each drawn by the seed among those next in size (|act|·‖v‖ at the last position; for heads ‖z‖)".into(),
            ],
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }
}

impl Dose {
    fn strengths(&self, arguments: &Arguments) -> Result<Vec<f32>> {
        let text = arguments.text(self, "strengths");
        let bad = || {
            let expected = format!("1 to {MOST} numbers between commas");
            Error::argument("strengths", text, expected)
        };
        let numbers = text.split(',').map(|part| {
            let number = part.trim().parse::<f32>().ok();
            number.filter(|n| n.is_finite()).ok_or_else(bad)
        });
        let numbers = numbers.collect::<Result<Vec<_>>>()?;
        if (1..=MOST).contains(&numbers.len()) {
            Ok(numbers)
        } else {
            Err(bad())
        }
    }

    /// The units that were named, or the neuron with the largest direct effect at the last position.
    fn units(
        &self,
        run: &Run,
        arguments: &Arguments,
        target: Target,
        bench: &mut Bench,
    ) -> Result<Units> {
        let text = arguments.text(self, "units");
        let heads = arguments.text(self, "site") == "z";
        let mut units = Units::new();
        if text.is_empty() && !heads {
            let sight = sights(bench, run, run.tokens.len() - 1)?.remove(0);
            let mut best = (f32::NEG_INFINITY, 0, 0);
            for (layer, _) in &sight.activations {
                let view = bench.cards.view(&bench.model, *layer, target)?;
                let effects = sight.effects(*layer, view);
                if let Some((unit, effect)) = top(&effects, effects.len(), 1).first()
                    && *effect > best.0
                {
                    best = (*effect, *layer, *unit);
                }
            }
            if best.0 == f32::NEG_INFINITY {
                return Err(bench.not_finite("The effects of all neurons are"));
            }
            units.insert(best.1, vec![best.2]);
            return Ok(units);
        }
        for part in text.split(',') {
            let (layer, unit) = if heads {
                head(part, bench)?
            } else {
                let (layer, unit) = neuron("units", part, &bench.model)?;
                (usize::from(layer), unit)
            };
            let held: &mut Vec<u32> = units.entry(layer).or_default();
            if !held.contains(&unit) {
                held.push(unit);
            }
        }
        Ok(units)
    }

    /// As many other units of the same layers, next in size.
    fn null(
        &self,
        run: &Run,
        arguments: &Arguments,
        units: &Units,
        bench: &mut Bench,
    ) -> Result<Units> {
        let last = run.tokens.len() - 1;
        let mut null = Units::new();
        for (layer, own) in units {
            let sizes = if arguments.text(self, "site") == "z" {
                let at = Site::Z.at(*layer);
                let z = bench.record(run, &[at])?.get(at)?.narrow(0, last, 1)?;
                let z = z.squeeze(0)?.to_dtype(DType::F32)?;
                z.sqr()?.sum(1)?.sqrt()?.to_vec1::<f32>()?
            } else {
                let sight = sights(bench, run, last)?.remove(0);
                sight.sizes(*layer, &bench.cards.norms(&bench.model)?[*layer])
            };
            null.insert(*layer, near_in_size(&sizes, own, run.seed));
        }
        Ok(null)
    }

    #[allow(clippy::too_many_arguments)] // the parts of one pass
    fn point(
        &self,
        run: &Run,
        arguments: &Arguments,
        units: &Units,
        strength: f32,
        target: Target,
        base: &[f32],
        bench: &mut Bench,
    ) -> Result<Point> {
        let mut schedule = run.schedule.clone();
        for (layer, units) in units.iter().filter(|(_, units)| !units.is_empty()) {
            let units: Vec<String> = units.iter().map(u32::to_string).collect();
            let edit = format!(
                "scale:{}@{}.{layer}:{}*{strength}",
                units.join(","),
                arguments.text(self, "site"),
                arguments.text(self, "positions")
            );
            schedule = schedule.and(&edit.parse()?);
        }
        let dosed = Run {
            schedule,
            ..run.clone()
        };
        let Some(mut logits) = tried(bench.last_logits(&dosed))? else {
            return Ok(Point {
                logit: f32::NAN,
                p: f32::NAN,
                rank: NO_RANK,
                kl: f32::NAN,
                top: NO_TOKEN,
            });
        };
        let logit = target.of(&logits);
        let favoured = reading(&logits, bench.model.known_tokens(), 1).first().0;
        log_softmax(&mut logits);
        Ok(Point {
            logit,
            p: logits[target.token as usize].exp(),
            rank: rank(&logits, target.token),
            kl: kl(base, &logits),
            top: favoured,
        })
    }
}

/// Reads a head as `L/H`.
fn head(text: &str, bench: &Bench) -> Result<(usize, u32)> {
    let card = &bench.model.card;
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

/// `5/17,6/3`.
fn spell(units: &Units) -> String {
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

/// The unit where there is one alone, else the position.
fn anchor(units: &Units, run: &Run, site: &str) -> Anchor {
    let last = run.tokens.len() - 1;
    let mut all = units
        .iter()
        .flat_map(|(l, us)| us.iter().map(move |u| (*l, *u)));
    match (all.next(), all.next()) {
        (Some((layer, unit)), None) => Anchor::cell(layer, last).with(if site == "z" {
            Unit::Head(unit)
        } else {
            Unit::Neuron(unit)
        }),
        _ => Anchor::position(last),
    }
}
