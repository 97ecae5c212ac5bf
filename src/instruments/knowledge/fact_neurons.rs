//! The neurons of a fact: those whose score for the answer is large under most wordings of the prompt.
//!
//! This is the refining of Dai et al. 2022 (2104.08696, section 3.3): for every wording keep the neurons whose score is at
//! least `share` of the largest, then those kept under at least `present` of the wordings, moving that threshold by 5 points
//! until a fact has 2 to 5 neurons on average. The paper's rule "under three paraphrases at least" is left out, because there
//! are often only two. The score is the paper's own, integrated gradients ([`super::integrated`]), or, without any gradient,
//! the direct effect on the answer's log-probability (or logit) at the last position ([`crate::instruments::neurons::at_position`]), which comes
//! with every neuron in either case. Invariant: the same prompts and edits give the same neurons in the same order. To score
//! otherwise, add a variant of [`FactScoring`]; refining stays.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;

use super::integrated::{IntegralSteps, LayerAttribution, integrate};
use crate::edit::schedule::Schedule;
use crate::error::Result;
use crate::instruments::neurons::at_position::{NeuronsAtPosition, directions_at, neurons_at};
use crate::lab::Lab;
use crate::lab::effect::{EffectScale, saturation};
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::model::host::ToHost;
use crate::model::network::finite::order;

/// The mean number of neurons for a fact that is aimed at by moving the threshold: from, to.
const AVERAGE: (f32, f32) = (2.0, 5.0);
/// The step by which the threshold moves, and the largest number of steps.
const STEP: (f32, usize) = (0.05, 6);

/// The thresholds of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// The smallest score, as a share of the largest one under the same prompt.
    pub share: f32,
    /// The smallest share of prompts under which a neuron must be kept; the initial threshold.
    pub present: f32,
    /// The most neurons for a fact, strongest first; the paper has no such limit.
    pub most: usize,
    /// The first and the last layer to search.
    pub layers: (usize, usize),
}

impl Search {
    /// The paper's thresholds over all layers.
    pub fn new(layers: usize) -> Self {
        Self {
            share: 0.2,
            present: 0.7,
            most: 5,
            layers: (0, layers.saturating_sub(1)),
        }
    }
}

/// How the neurons of a fact are scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FactScoring {
    /// By the direct effect on the answer.
    Direct,
    /// By integrated gradients of the answer's probability.
    Integrated {
        target: LogitTarget,
        path: IntegralSteps,
    },
}

/// Along which direction direct effects on the answer are read.
#[derive(Clone, Debug)]
pub enum AnswerDirection {
    /// That of the answer on a scale, at each prompt's own distribution.
    Of(LogitTarget, EffectScale),
    /// The same under every prompt: of the stream after the final norm, `[d_model]`.
    Fixed(Tensor),
}

/// A neuron found for a fact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FactNeuron {
    /// Its block.
    pub layer: u16,
    /// Its index in the MLP.
    pub neuron: u32,
    /// The number that it was chosen by: the mean over the prompts.
    pub score: f32,
    /// Mean direct effect on the answer over the prompts.
    pub effect: f32,
    /// Its place among all neurons by that, from 1.
    pub place: usize,
    /// Mean activation over the prompts.
    pub act: f32,
    /// The number of prompts under which its score was large.
    pub prompts: usize,
}

/// The neuron scores of one fact over several prompts.
#[derive(Clone, Debug)]
pub struct FactScores {
    /// The number of prompts.
    pub count: usize,
    /// By integrated gradients: for every prompt, the layer that is least complete.
    pub incomplete: Vec<LayerAttribution>,
    /// By integrated gradients: the most that all neurons of one layer make together under a prompt, in size.
    pub most: f64,
    /// A caution where the answer is as good as certain.
    pub saturated: Option<String>,
    /// Neurons with a large score under at least one prompt.
    candidates: Vec<FactNeuron>,
}

/// A neuron's sums over prompts.
#[derive(Clone, Copy, Default)]
struct NeuronSums {
    score: f64,
    effect: f64,
    act: f64,
    kept: usize,
}

/// Runs the prompts under a schedule and scores every neuron; `along` is the direction of the answer.
///
/// # Errors
///
/// Those of passes, and of gradients where the scores need some.
pub fn ask(
    lab: &mut Lab,
    prompts: &[Vec<u32>],
    schedule: &Schedule,
    along: &AnswerDirection,
    scoring: FactScoring,
    search: Search,
) -> Result<FactScores> {
    let layers = lab.model.card.neuron_layers.iter().copied();
    let chosen: Vec<usize> = layers
        .filter(|l| (search.layers.0..=search.layers.1).contains(l))
        .collect();
    let mut sums: BTreeMap<usize, Vec<NeuronSums>> = BTreeMap::new();
    let (mut incomplete, mut most) = (Vec::new(), 0f64);
    let mut shares = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let run = Run::plain(prompt.clone()).under(schedule);
        let local = neurons_at(lab, &run, prompt.len() - 1)?.remove(0);
        let stream = match along {
            AnswerDirection::Of(target, scale) => {
                let here = std::slice::from_ref(&local);
                let found = directions_at(lab, here, Some(&[*target]), *scale)?;
                shares.extend(&found.shares);
                found.of_stream(&lab.model)?
            }
            AnswerDirection::Fixed(direction) => {
                let norm = &lab.model.transformer.norm;
                norm.seen_from_behind(&direction.unsqueeze(0)?)?
            }
        };
        let effects = chosen.iter().map(|layer| {
            let view = lab.model.transformer.neuron_views(*layer, &stream)?;
            Ok(local.effects(*layer, &view.squeeze(0)?.host_vec1::<f32>()?))
        });
        let effects: Vec<Vec<f32>> = effects.collect::<Result<_>>()?;
        let scores = match scoring {
            FactScoring::Direct => effects.clone(),
            FactScoring::Integrated { target, path } => {
                let share = |i: usize| i as f32 / prompts.len() as f32;
                let mut found = lab.part(share(i)..share(i + 1), |lab| {
                    integrate(lab, &run, &local, &chosen, target, path)
                })?;
                let scores = found.iter().map(|layer| layer.neurons.clone()).collect();
                most = found
                    .iter()
                    .fold(most, |most, layer| most.max(layer.whole.abs()));
                let error = |layer: &LayerAttribution| layer.completeness_error().abs();
                found.sort_by(|a, b| error(b).total_cmp(&error(a)));
                incomplete.extend(found.into_iter().next());
                scores
            }
        };
        add(&mut sums, &chosen, &scores, &effects, &local, search.share);
    }
    Ok(FactScores {
        count: prompts.len(),
        incomplete,
        most,
        saturated: saturation(&shares),
        candidates: candidates(&sums, prompts.len()),
    })
}

/// Adds what one prompt says of every neuron.
fn add(
    sums: &mut BTreeMap<usize, Vec<NeuronSums>>,
    layers: &[usize],
    scores: &[Vec<f32>],
    effects: &[Vec<f32>],
    local: &NeuronsAtPosition,
    share: f32,
) {
    let largest = scores.iter().flatten().copied().fold(0.0, f32::max);
    let least = largest * share;
    for ((layer, scores), effects) in layers.iter().zip(scores).zip(effects) {
        let acts = local.layer(*layer).map_or(&[][..], |(acts, _)| acts);
        let held = sums
            .entry(*layer)
            .or_insert_with(|| vec![NeuronSums::default(); scores.len()]);
        let numbers = scores.iter().zip(effects).zip(acts);
        for (sum, ((score, effect), act)) in held.iter_mut().zip(numbers) {
            sum.score += f64::from(*score);
            sum.effect += f64::from(*effect);
            sum.act += f64::from(*act);
            sum.kept += usize::from(*score >= least && *score > 0.0);
        }
    }
}

/// The neurons that were kept under some prompt, strongest first.
fn candidates(sums: &BTreeMap<usize, Vec<NeuronSums>>, prompts: usize) -> Vec<FactNeuron> {
    let mean = |sum: f64| (sum / prompts as f64) as f32;
    let all = || {
        let layers = sums.iter();
        layers.flat_map(|(layer, row)| row.iter().enumerate().map(move |(i, s)| (*layer, i, *s)))
    };
    let mut effects: Vec<f64> = all().map(|(_, _, sum)| sum.effect).collect();
    effects.sort_by(|a, b| b.total_cmp(a));
    let kept = all().filter(|(_, _, sum)| sum.kept > 0);
    let mut out: Vec<FactNeuron> = kept
        .map(|(layer, i, sum)| FactNeuron {
            layer: layer as u16,
            neuron: i as u32,
            score: mean(sum.score),
            effect: mean(sum.effect),
            place: effects.partition_point(|other| *other > sum.effect) + 1,
            act: mean(sum.act),
            prompts: sum.kept,
        })
        .collect();
    out.sort_by(|a, b| order(b.score, a.score));
    out
}

impl FactScores {
    /// The neurons with a large score under at least `present` of the prompts, strongest first.
    pub fn present(&self, present: f32) -> impl Iterator<Item = &FactNeuron> {
        // The subtraction makes up for rounding: 0.7 of 10 prompts is 7, although 0.7 is inexact in binary.
        let least = (present * self.count as f32 - 1e-4).ceil().max(1.0) as usize;
        self.candidates.iter().filter(move |n| n.prompts >= least)
    }
}

/// Refines the facts of one relation together. Returns the threshold reached, and each fact's neurons, strongest first and not
/// yet cut to [`Search::most`].
pub fn refine(facts: &[FactScores], search: Search) -> (f32, Vec<Vec<FactNeuron>>) {
    let average = |present: f32| {
        let found: usize = facts.iter().map(|f| f.present(present).count()).sum();
        found as f32 / facts.len().max(1) as f32
    };
    let mut present = search.present;
    for _ in 0..STEP.1 {
        let step = match average(present) {
            few if few < AVERAGE.0 => -STEP.0,
            many if many > AVERAGE.1 => STEP.0,
            _ => break,
        };
        let next = present + step;
        if !(0.0..=1.0).contains(&next) {
            break;
        }
        present = next;
    }
    let of = |fact: &FactScores| fact.present(present).copied().collect();
    (present, facts.iter().map(of).collect())
}

/// Drops neurons that more than `share` of a relation's facts have, and at least two facts: they belong to the relation rather
/// than to a fact (Dai et al. 2022, section 5.1: a tenth).
pub fn drop_shared(facts: &mut [Vec<FactNeuron>], share: f32) {
    let mut owners: HashMap<(u16, u32), usize> = HashMap::new();
    for neuron in facts.iter().flatten() {
        *owners.entry((neuron.layer, neuron.neuron)).or_default() += 1;
    }
    let most = (facts.len() as f32 * share).max(1.0);
    for fact in facts {
        fact.retain(|n| owners[&(n.layer, n.neuron)] as f32 <= most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(prompts: &[usize]) -> FactScores {
        let candidate = |(i, prompts): (usize, &usize)| FactNeuron {
            layer: 0,
            neuron: i as u32,
            score: 10.0 - i as f32,
            effect: 10.0 - i as f32,
            place: i + 1,
            act: 1.0,
            prompts: *prompts,
        };
        FactScores {
            count: 20,
            incomplete: Vec::new(),
            most: 0.0,
            saturated: None,
            candidates: prompts.iter().enumerate().map(candidate).collect(),
        }
    }

    #[test]
    fn the_threshold_moves_until_a_fact_has_two_to_five() {
        let search = Search::new(1);
        // 14 of 20 is exactly 0.7: two neurons are kept, so the threshold stays.
        let (present, found) = refine(&[asked(&[14, 20, 13])], search);
        assert!((present - 0.7).abs() < 1e-6);
        assert_eq!(
            found[0].iter().map(|n| n.neuron).collect::<Vec<_>>(),
            [0, 1]
        );
        // Too few neurons: the threshold goes down to 0.6, where 12 of 20 is enough.
        let (present, found) = refine(&[asked(&[12, 20, 3])], search);
        assert!((present - 0.6).abs() < 1e-6, "{present}");
        assert_eq!(found[0].len(), 2);
        // Too many neurons: up to 0.8.
        let (present, found) = refine(&[asked(&[15, 15, 15, 15, 16, 16])], search);
        assert!((present - 0.8).abs() < 1e-6, "{present}");
        assert_eq!(found[0].len(), 2);
        // The threshold moves at most six times.
        let (present, _) = refine(&[asked(&[1])], search);
        assert!((present - 0.4).abs() < 1e-6, "{present}");
        let strongest = refine(&[asked(&[14, 20, 13])], search).1;
        assert_eq!(strongest[0][0].neuron, 0);
    }

    #[test]
    fn neurons_of_the_whole_relation_are_dropped() {
        let search = Search::new(1);
        let facts: Vec<FactScores> = (0..20)
            .map(|i| asked(if i < 3 { &[20, 20, 20] } else { &[20, 1, 20] }))
            .collect();
        let (_, mut found) = refine(&facts, search);
        // Every fact has neurons 0 and 2; three of twenty facts have neuron 1.
        drop_shared(&mut found, 0.15);
        assert_eq!(found[0].iter().map(|n| n.neuron).collect::<Vec<_>>(), [1]);
        assert!(found[5].is_empty());
        drop_shared(&mut found, 0.1);
        assert!(found[0].is_empty());
        // A single fact shares no neuron.
        let mut alone = vec![refine(&facts[..1], search).1.remove(0)];
        drop_shared(&mut alone, 0.0);
        assert_eq!(alone[0].len(), 3);
    }
}
