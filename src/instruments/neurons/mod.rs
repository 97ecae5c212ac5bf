//! Neurons that mattered: activations ranked, with what each one's value vector promotes and suppresses.
//!
//! Ranked by `|act|·‖v‖` (Geva et al. 2022, LM-Debugger 2204.12130) or by the direct effect on a token's logit (by default
//! the favoured one's), `act · v·(γ ⊙ W_U[t]) / scale` with the final norm's own scale at that position (direct logit
//! attribution, [`crate::lab::neurons`]). The direct effect ignores what later layers do with the write, and is on the logit
//! before a soft-cap. The total effect is measured: the neuron is set to 0 at that position and the rest runs again.

pub mod contexts;
pub mod promoters;
pub mod triggers;
pub mod value;

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::Result;
use crate::figure::{Anchor, Body, Entry, Figure, Page, Row, Table, Unit};
use crate::lab::bench::{Bench, reading};
use crate::lab::neurons::{Sight, addresses, sights};
use crate::lab::pass::{Logits, Pass, PassRow, Patch};
use crate::lab::run::Run;
use crate::lab::sample::top;
use crate::lab::step::{Needs, Step};
use crate::lab::target::Target;
use crate::lab::value_card::Sides;
use crate::model::Card;
use crate::model::network::finite;
use crate::model::network::finite::order;
use crate::model::network::site::Site;
use candle_core::Tensor;

/// The instrument.
pub struct Neurons;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "count",
        kind: Kind::Count { lo: 1, hi: 200 },
        default: "12",
        about: "how many neurons to list at every position",
    },
    Parameter {
        name: "rank",
        kind: Kind::Choice(&["size", "effect"]),
        default: "size",
        about: "size: |activation| times the value vector's length; effect: on the logit of the token",
    },
    Parameter {
        name: "layer",
        kind: Kind::Layer,
        default: "all",
        about: "one layer, or all",
    },
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 1, hi: 256 },
        default: "16",
        about: "how many of the last positions to read",
    },
    Parameter {
        name: "token",
        kind: Kind::Text,
        default: "",
        about: "the token whose logit effects are on: a text (its first token) or #ID; \"A\" - \"B\" for a difference; by default the favoured one at each position",
    },
    Parameter {
        name: "total",
        kind: Kind::Choice(&["no", "yes"]),
        default: "no",
        about: "yes: beside the direct effect the total one, from running again without the neuron (not live)",
    },
];

impl Instrument for Neurons {
    fn name(&self) -> &'static str {
        "neurons"
    }

    fn about(&self) -> &'static str {
        "The neurons that wrote most at each position, and the tokens their value vectors promote"
    }

    fn source(&self) -> &'static str {
        "key-value memories: Geva et al. 2022 (2203.14680), LM-Debugger (2204.12130)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn steady(&self) -> bool {
        true
    }

    fn live(&self, card: &Card, arguments: &Arguments) -> Option<Needs> {
        if card.neuron_layers.is_empty() || self.total(arguments) {
            return None;
        }
        Some(Needs {
            record: addresses(card),
            unembed: Vec::new(),
        })
    }

    fn column(&self, step: &Step, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let rows: Vec<&Tensor> = addresses(&bench.model.card)
            .iter()
            .filter_map(|a| step.rows.get(a))
            .collect();
        // One transfer for all layers.
        let all = Tensor::cat(&rows, 0)?.to_vec1::<f32>()?;
        let favoured = reading(&step.logits, bench.model.known_tokens(), 1)
            .first()
            .0;
        let sight = Sight::read(&all, step.choice.position, &bench.model);
        let target = self
            .target(arguments, bench)?
            .unwrap_or(Target::one(favoured));
        let page = self.page(&sight, target, &step.run, arguments, bench)?;
        Ok(self.figure(vec![page], &step.run, arguments, bench))
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let total = run.tokens.len();
        let first = total - arguments.count(self, "window")?.min(total);
        let sights = sights(bench, run, first)?;
        let chosen = self.target(arguments, bench)?;
        let targets = match chosen {
            Some(target) => vec![target; sights.len()],
            None => favoured(&sights, bench)?,
        };
        let mut pages = Vec::with_capacity(sights.len());
        for (i, (sight, target)) in sights.iter().zip(targets).enumerate() {
            bench.report(i as f32 / sights.len() as f32)?;
            pages.push(self.page(sight, target, run, arguments, bench)?);
        }
        Ok(self.figure(pages, run, arguments, bench))
    }
}

/// What the model favours after each position.
fn favoured(sights: &[Sight], bench: &mut Bench) -> Result<Vec<Target>> {
    let transformer = &bench.model.transformer;
    let rows: Vec<Tensor> = sights
        .iter()
        .map(|s| Ok(Tensor::new(s.last.as_slice(), &transformer.device)?))
        .collect::<Result<_>>()?;
    let rows = Tensor::stack(&rows, 0)?.to_dtype(transformer.dtype())?;
    let read = bench.read(&rows, 1)?;
    Ok(read.iter().map(|r| Target::one(r.first().0)).collect())
}

impl Neurons {
    fn total(&self, arguments: &Arguments) -> bool {
        arguments.text(self, "total") == "yes"
    }

    /// The token that was chosen; nothing where it is the favoured one of each position.
    fn target(&self, arguments: &Arguments, bench: &Bench) -> Result<Option<Target>> {
        match arguments.text(self, "token") {
            "" => Ok(None),
            text => Target::parse("token", text, &bench.model).map(Some),
        }
    }

    fn page(
        &self,
        sight: &Sight,
        target: Target,
        run: &Run,
        arguments: &Arguments,
        bench: &mut Bench,
    ) -> Result<Page> {
        let neurons = self.ranked(sight, target, arguments, bench)?;
        bench.cards.prepare(&bench.model, &neurons)?;
        let totals = if self.total(arguments) {
            total_effects(sight, &neurons, target, run, bench)?
        } else {
            Vec::new()
        };
        let direction = target.direction(&bench.model)?.to_vec1::<f32>()?;
        let norms = bench.cards.norms(&bench.model)?.to_vec();
        let mut rows = Vec::with_capacity(neurons.len());
        for (i, &(layer, neuron)) in neurons.iter().enumerate() {
            let (at, unit) = (usize::from(layer), neuron as usize);
            let (Some(card), Some((row, factor))) =
                (bench.cards.get(layer, neuron), sight.layer(at))
            else {
                continue;
            };
            let act = row[unit];
            let dot: f32 = card.gained.iter().zip(&direction).map(|(v, u)| v * u).sum();
            let mut entries = vec![
                Entry::Text(format!("{layer}/{neuron}")),
                Entry::Number(act),
                Entry::Number(act.abs() * norms[at][unit] * factor),
                Entry::Number(act * sight.scale * factor * dot),
            ];
            entries.extend(totals.get(i).copied().map(Entry::Number));
            entries.extend(words(&card.sides, act, bench).map(Entry::Text));
            rows.push(Row {
                anchor: Anchor::cell(at, sight.position).with(Unit::Neuron(neuron)),
                entries,
            });
        }
        let title = format!(
            "after {} · effect on {}",
            bench.visible(run.tokens[sight.position]),
            target.spell(bench)
        );
        Ok(Page {
            title,
            anchor: Anchor::position(sight.position),
            rows,
        })
    }

    /// The neurons of one position, strongest first.
    fn ranked(
        &self,
        sight: &Sight,
        target: Target,
        arguments: &Arguments,
        bench: &mut Bench,
    ) -> Result<Vec<(u16, u32)>> {
        let count = arguments.count(self, "count")?;
        let only = arguments.layer(self, "layer", bench.model.card.layers)?;
        let by_effect = arguments.text(self, "rank") == "effect";
        let mut ranked: Vec<(f32, u16, u32)> = Vec::new();
        for (layer, _) in &sight.activations {
            if only.is_some_and(|only| only != *layer) {
                continue;
            }
            let scores: Vec<f32> = if by_effect {
                let view = bench.cards.view(&bench.model, *layer, target)?;
                let effects = sight.effects(*layer, view);
                effects.into_iter().map(f32::abs).collect()
            } else {
                sight.sizes(*layer, &bench.cards.norms(&bench.model)?[*layer])
            };
            if !finite::all(&scores) {
                return Err(bench.not_finite(&format!("What neurons of layer {layer} do is")));
            }
            let best = top(&scores, scores.len(), count);
            ranked.extend(best.into_iter().map(|(i, s)| (s, *layer as u16, i)));
        }
        ranked.sort_by(|a, b| order(b.0, a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        ranked.truncate(count);
        Ok(ranked.iter().map(|(_, l, i)| (*l, *i)).collect())
    }

    fn figure(&self, pages: Vec<Page>, run: &Run, arguments: &Arguments, bench: &Bench) -> Figure {
        let rank = arguments.text(self, "rank");
        let mut columns = vec!["neuron", "act", "size", "effect"];
        let mut notes = vec![
            "size is |act|·‖v‖; effect is the direct effect on the token's logit (before a soft-cap), before any later layer reacts".to_string(),
            "tokens are those the write promotes and suppresses at the sign of its activation".to_string(),
        ];
        if self.total(arguments) {
            columns.push("total");
            notes.push(
                "total is what the logit loses when the neuron is 0 at that position and the rest runs again; it holds what later layers make of the write, and what they make up for".to_string(),
            );
        }
        columns.extend(["promotes", "suppresses"]);
        let columns = columns.iter().map(ToString::to_string).collect();
        Figure {
            title: format!("neurons · by {rank}"),
            body: Body::Table(Table { columns, pages }),
            notes,
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}

/// The first tokens that a write of this activation promotes and suppresses; a negative one writes the opposite.
pub(crate) fn words(sides: &Sides, act: f32, bench: &Bench) -> [String; 2] {
    let spell = |side: &[(u32, f32)]| {
        let words = side.iter().take(4).map(|(id, _)| bench.visible(*id));
        words.collect::<Vec<_>>().join(" ")
    };
    let words = [spell(&sides.promoted), spell(&sides.suppressed)];
    if act < 0.0 {
        let [up, down] = words;
        [down, up]
    } else {
        words
    }
}

/// What the target loses when each neuron alone is set to 0 at that position and everything after it runs again.
fn total_effects(
    sight: &Sight,
    neurons: &[(u16, u32)],
    target: Target,
    run: &Run,
    bench: &mut Bench,
) -> Result<Vec<f32>> {
    let device = bench.model.transformer.device.clone();
    let without = |&(layer, neuron): &(u16, u32)| {
        let at = usize::from(layer);
        let Some((row, _)) = sight.layer(at) else {
            return Ok(PassRow::default());
        };
        let mut row = row.to_vec();
        row[neuron as usize] = 0.0;
        let value = Tensor::new(row, &device)?;
        let patch = Patch::new(Site::MlpAct.at(at), sight.position, value);
        Ok(PassRow::patched(vec![patch]))
    };
    let own = std::iter::once(Ok(PassRow::default()));
    let pass = Pass {
        from: Some(sight.position),
        rows: own
            .chain(neurons.iter().map(without))
            .collect::<Result<_>>()?,
        logits: Logits::After(sight.position),
        ..Pass::of(run.clone())
    };
    let mut found = bench.run_map(&pass, |_, _, row| target.of(row.last()))?;
    let before = found.remove(0);
    Ok(found.into_iter().map(|after| before - after).collect())
}
