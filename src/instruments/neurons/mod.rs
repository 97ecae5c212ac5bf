//! Neurons ranked by their activations at a position, with the tokens that each one's value vector promotes and suppresses.
//!
//! The ranking is by `|act|·‖v‖` (Geva et al. 2022, LM-Debugger 2204.12130) or by the direct effect on a token (by default the
//! top prediction), `act · v·u / scale` with the final norm's own scale at that position (direct logit attribution,
//! [`crate::instruments::neurons::at_position`]), where `u` is the direction of the token's log-probability there, or of its
//! logit ([`crate::lab::effect`]). The direct effect ignores how later layers react. The total effect is measured: the neuron
//! is set to 0 at that position, and everything after it is computed again.

pub mod at_position;
pub mod contexts;
mod on_device;
pub mod promoters;
pub mod triggers;
pub mod value;
pub mod value_card;

use std::ops::Range;

use candle_core::Tensor;

use super::{Draft, Measurement, last};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow, Unit};
use crate::instruments::neurons::at_position::{NeuronsAtPosition, final_stream, needs};
use crate::instruments::neurons::on_device::{ListedNeuron, NeuronListing};
use crate::instruments::neurons::value_card::ValueCards;
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, RowOrder,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::instruments::params::{Count, LayerOrAll, ParameterValue, choices};
use crate::lab::Lab;
use crate::lab::capture::{After, Capture, Needs, Output, Readout};
use crate::lab::effect::{EffectScale, saturation};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::run::Run;
use crate::lab::sample::top;
use crate::lab::target::LogitTarget;
use crate::model::Card;
use crate::model::host::ToHost;
use crate::model::network::finite;
use crate::model::network::finite::order;
use crate::model::network::readout::StatisticsOn;
use crate::model::network::site::Site;

choices! {
    /// The quantity by which neurons are ranked.
    pub enum NeuronRanking { Size = "size", Effect = "effect" }
}

params_over_prompts! {
    /// What `neurons` is asked.
    pub struct NeuronsParams {
        /// how many neurons to list at every position
        count: Count<1, 200> = "12",
        /// size: |activation| times the norm of the value vector; effect: direct effect on the token
        rank: NeuronRanking = "size",
        /// one layer, or all
        layer: LayerOrAll = "all",
        /// how many of the last positions to read
        window: Count<1, 256> = "16",
        /// the token for direct effects: a text (its first token) or #ID; "A" - "B" for a logit difference; by default the top prediction at each position
        token: Option<String>,
        on: EffectScale,
        /// yes: adds the total effect, measured by ablating each neuron (set to 0) and running again (not live)
        total: bool,
    }
}

pub struct Neurons;

impl Measurement for Neurons {
    type Params = NeuronsParams;
    const NAME: &'static str = "neurons";
    const ABOUT: &'static str = "The neurons with the largest outputs at each position, and the tokens that their value vectors (output weights) promote";
    const SOURCE: &'static str =
        "key-value memories: Geva et al. 2022 (2203.14680), LM-Debugger (2204.12130)";
    const STEADY: bool = true;
    const OVER_PROMPTS: Option<OverPrompts<NeuronsParams>> = Some(OverPrompts {
        asked: NeuronsParams::asked,
        alone: |params, place| {
            Ok(NeuronsParams {
                window: Count(place.window),
                token: place.difference(params.token.as_ref()),
                ..params.clone()
            })
        },
        numbers: |params, body, place| {
            let mut names = vec!["size", "act", "effect"];
            names.extend(params.total.then_some("total"));
            if params.rank == NeuronRanking::Effect {
                names.swap(0, 2);
            }
            let here = |row: &TableRow| row.anchor.position == Some(place.position as u32);
            PromptNumbers::of_table(body, "neuron", &names, here)
        },
        note: "a neuron's means are over the prompts in which it is among the first `count`; those that are so in the most prompts come first; size: |act|·‖v‖, the norm of the neuron's output; effect: direct effect on the answer",
        order: |_| RowOrder::MostPromptsFirst,
        reads: PromptPart::Positions,
        answers: ListAnswers::Asked,
    });

    fn live(params: &NeuronsParams, card: &Card) -> bool {
        !card.neuron_layers.is_empty() && !params.total
    }

    fn positions(params: &NeuronsParams, run: &Run) -> Result<Range<usize>> {
        Ok(last(params.window.0, run))
    }

    fn needs(params: &NeuronsParams, _run: &Run, lab: &Lab) -> Result<Needs> {
        let top_prediction = || Readout {
            at: vec![Site::ResidPost.at(lab.model.card.layers - 1)],
            top: 1,
            ..Readout::default()
        };
        Ok(Needs {
            read: params.token.is_none().then(top_prediction),
            ..needs(&lab.model)?
        })
    }

    fn figure(params: &NeuronsParams, of: &Capture, lab: &mut Lab) -> Result<Draft> {
        let chosen = LogitTarget::chosen(params.token.as_deref(), &lab.model)?;
        let target = |i: usize| {
            let top_prediction = || of.read.answers.get(i).copied().unwrap_or_default();
            chosen.unwrap_or_else(|| LogitTarget::one(top_prediction()))
        };
        let targets: Vec<LogitTarget> = (0..of.positions.len()).map(target).collect();
        let on_device = lab.model.transformer.statistics == StatisticsOn::Device;
        let (pages, certainty) = if on_device && !params.total {
            params.pages_on_device(of, &targets, lab)?
        } else {
            params.pages(of, &targets, lab)?
        };
        let mut columns = vec!["neuron", "act", "size", "effect"];
        columns.extend(params.total.then_some("total"));
        columns.extend(["promotes", "suppresses"]);
        let total = "total: total effect, the drop of the same when the neuron is set to 0 at that position and the later layers run again; unlike the direct effect it includes what later layers make of the output, and how they compensate";
        Ok(Draft::of(Table::paged(&columns, pages))
            .titled(format!("by {}", params.rank.print()))
            .note("size: |act|·‖v‖, the norm of the neuron's output; effect: direct effect on what the page names (before a soft-cap: on the logit), without the reaction of later layers")
            .notes(targets.iter().any(|t| t.minus.is_none()).then(|| params.on.note().to_string()))
            .note("promotes, suppresses: tokens, by direct logit attribution of the value vector times the sign of the activation")
            .notes(saturation(&certainty))
            .notes(params.total.then(|| total.to_string())))
    }
}

/// A target at one position, and how effects on it are read.
struct TargetAt<'a> {
    target: LogitTarget,
    /// The weight of every logit, `[vocab]`; empty where there is a direction.
    weights: &'a [f32],
    /// After the final norm, `[d_model]`, where it needs no distribution.
    direction: Option<Vec<f32>>,
    /// What one unit of each neuron adds, for every layer with neurons, `[d_mlp]` each; nothing unless neurons are ranked by it.
    views: Vec<&'a [f32]>,
}

impl NeuronsParams {
    /// A page for every position, ranked on the host, and the probabilities of the targets.
    fn pages(
        &self,
        of: &Capture,
        targets: &[LogitTarget],
        lab: &mut Lab,
    ) -> Result<(Vec<TablePage>, Vec<f32>)> {
        let positions = NeuronsAtPosition::of(of, &lab.model)?;
        let last = final_stream(lab, &positions)?;
        let along = lab.effect_weights(&last, Some(targets), self.on)?;
        let views = self.views(&last, targets, lab)?;
        let mut pages = Vec::with_capacity(positions.len());
        for (i, local) in positions.iter().enumerate() {
            lab.report(i as f32 / positions.len() as f32)?;
            let fixed = along.fixed.get(&targets[i]);
            let at = TargetAt {
                target: targets[i],
                weights: &along.weights[i],
                direction: fixed.map(|(row, _)| row.host_vec1()).transpose()?,
                views: views.iter().map(|rows| rows[i].as_slice()).collect(),
            };
            pages.push(self.page(local, &at, &of.run, lab)?);
        }
        Ok((pages, along.shares))
    }

    /// The same, ranked where the activations are.
    fn pages_on_device(
        &self,
        of: &Capture,
        targets: &[LogitTarget],
        lab: &mut Lab,
    ) -> Result<(Vec<TablePage>, Vec<f32>)> {
        let listing = NeuronListing {
            count: self.count.0,
            layer: self.layer.within(lab.model.card.layers)?,
            by_effect: self.rank == NeuronRanking::Effect,
            on: self.on,
        };
        let (listed, along) = on_device::listed(&listing, of, targets, lab)?;
        let all = listed.iter().flatten();
        let all: Vec<(u16, u32)> = all.map(|one| (one.layer, one.neuron)).collect();
        let cards = ValueCards::on(lab);
        cards.borrow_mut().prepare(&lab.model, &all)?;
        let mut pages = Vec::with_capacity(listed.len());
        for ((position, listed), target) in of.positions.clone().zip(&listed).zip(targets) {
            pages.push(self.listing(&of.run, (position, *target), listed, &[], lab));
        }
        Ok((pages, along.shares))
    }

    /// What one unit of each neuron adds along the directions of all positions, for every layer with neurons: `[positions, d_mlp]`
    /// each. Nothing where neurons are ranked otherwise: the few that are listed are read one by one.
    fn views(
        &self,
        last: &Tensor,
        targets: &[LogitTarget],
        lab: &Lab,
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        if self.rank != NeuronRanking::Effect {
            return Ok(Vec::new());
        }
        let along = lab.effect_directions(last, Some(targets), self.on)?;
        let stream = along.of_stream(&lab.model)?;
        let layers = lab.model.card.neuron_layers.iter();
        let views = layers.map(|layer| {
            let views = lab.model.transformer.neuron_views(*layer, &stream)?;
            Ok(views.host_vec2::<f32>()?)
        });
        views.collect()
    }

    fn page(
        &self,
        local: &NeuronsAtPosition,
        along: &TargetAt,
        run: &Run,
        lab: &mut Lab,
    ) -> Result<TablePage> {
        let (neurons, target) = (self.ranked(local, along, lab)?, along.target);
        let cards = ValueCards::on(lab);
        cards.borrow_mut().prepare(&lab.model, &neurons)?;
        let totals = if self.total {
            total_effects(local, &neurons, (target, self.on), run, lab)?
        } else {
            Vec::new()
        };
        let mut cards = cards.borrow_mut();
        let norms = cards.norms(&lab.model)?.to_vec();
        let dots = match &along.direction {
            None => cards.weighted(&lab.model, &neurons, along.weights)?,
            Some(direction) => {
                let dot = |(layer, neuron): &(u16, u32)| {
                    let gained = cards.get(*layer, *neuron).map(|card| card.gained.iter());
                    let pairs = gained.into_iter().flatten().zip(direction);
                    pairs.map(|(v, u)| v * u).sum()
                };
                neurons.iter().map(dot).collect()
            }
        };
        drop(cards);
        let one = |(&(layer, neuron), dot): (&(u16, u32), &f32)| {
            let (at, unit) = (usize::from(layer), neuron as usize);
            let (row, factor) = local.layer(at)?;
            let act = row[unit];
            Some(ListedNeuron {
                layer,
                neuron,
                act,
                size: act.abs() * norms[at][unit] * factor,
                effect: act * local.scale * factor * dot,
            })
        };
        let listed: Vec<ListedNeuron> = neurons.iter().zip(&dots).filter_map(one).collect();
        Ok(self.listing(run, (local.position, target), &listed, &totals, lab))
    }

    /// The table of the neurons at one position, whose cards are made.
    fn listing(
        &self,
        run: &Run,
        (position, target): (usize, LogitTarget),
        listed: &[ListedNeuron],
        totals: &[f32],
        lab: &mut Lab,
    ) -> TablePage {
        let cards = ValueCards::on(lab);
        let cards = cards.borrow();
        let mut rows = Vec::with_capacity(listed.len());
        for (i, one) in listed.iter().enumerate() {
            let Some(card) = cards.get(one.layer, one.neuron) else {
                continue;
            };
            let name = format!("{}/{}", one.layer, one.neuron);
            let mut entries = entries![name, one.act, one.size, one.effect];
            entries.extend(totals.get(i).copied().map(Entry::Number));
            let anchor = Anchor::cell(usize::from(one.layer), position);
            let row = TableRow::at(anchor.with(Unit::Neuron(one.neuron)), entries);
            rows.push(card.sides.listed(one.act, lab, row));
        }
        let title = format!(
            "after {} · effects on the {}",
            lab.visible(run.tokens[position]),
            self.on.of(target, lab)
        );
        TablePage::of(title, Anchor::position(position), rows)
    }

    /// The neurons of one position, strongest first.
    fn ranked(
        &self,
        local: &NeuronsAtPosition,
        along: &TargetAt,
        lab: &mut Lab,
    ) -> Result<Vec<(u16, u32)>> {
        let count = self.count.0;
        let only = self.layer.within(lab.model.card.layers)?;
        let by_effect = self.rank == NeuronRanking::Effect;
        let mut ranked: Vec<(f32, u16, u32)> = Vec::new();
        let cards = ValueCards::on(lab);
        for (i, (layer, _)) in local.activations.iter().enumerate() {
            if only.is_some_and(|only| only != *layer) {
                continue;
            }
            let scores: Vec<f32> = if by_effect {
                let effects = local.effects(*layer, along.views[i]);
                effects.into_iter().map(f32::abs).collect()
            } else {
                local.sizes(*layer, &cards.borrow_mut().norms(&lab.model)?[*layer])
            };
            if !finite::all(&scores) {
                return Err(lab.not_finite(&format!("The output of neurons of layer {layer} is")));
            }
            let best = top(&scores, scores.len(), count);
            ranked.extend(best.into_iter().map(|(i, s)| (s, *layer as u16, i)));
        }
        ranked.sort_by(|a, b| order(b.0, a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        ranked.truncate(count);
        Ok(ranked.iter().map(|(_, l, i)| (*l, *i)).collect())
    }
}

/// The total effect of each neuron: the target's value minus its value when that neuron alone is set to 0 at the position.
fn total_effects(
    local: &NeuronsAtPosition,
    neurons: &[(u16, u32)],
    (target, scale): (LogitTarget, EffectScale),
    run: &Run,
    lab: &mut Lab,
) -> Result<Vec<f32>> {
    let device = lab.model.transformer.device.clone();
    let without = |&(layer, neuron): &(u16, u32)| {
        let at = usize::from(layer);
        let Some((row, _)) = local.layer(at) else {
            return Ok(PassRow::default());
        };
        let mut row = row.to_vec();
        row[neuron as usize] = 0.0;
        let value = Tensor::new(row, &device)?;
        let patch = Patch::new(Site::MlpAct.at(at), local.position, value);
        Ok(PassRow::patched(vec![patch]))
    };
    let own = std::iter::once(Ok(PassRow::default()));
    let pass = Pass {
        from: Some(local.position),
        rows: own
            .chain(neurons.iter().map(without))
            .collect::<Result<_>>()?,
        output: Output {
            after: After::Each(local.position..local.position + 1),
            ..scale.output(target)
        },
        ..Pass::of(run.clone())
    };
    let found = lab.run(&pass)?;
    let known = lab.model.known_tokens();
    let values: Vec<f32> = found
        .iter()
        .map(|row| scale.value(target, row.last(), known))
        .collect();
    Ok(values[1..].iter().map(|after| values[0] - after).collect())
}
