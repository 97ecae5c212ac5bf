//! The passes of a Patchscope: every source at every pair of layers, in batches that share the target prompt before the first
//! placeholder.
//!
//! Invariant: the unpatched target runs through the same passes as the patched ones; the norms of overwritten states are those
//! of the unpatched target.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::plan::{PatchscopePlan, StateSource};
use crate::edit::direction::norm;
use crate::error::Result;
use crate::instruments::patchscope::map::Map;
use crate::instruments::patchscope::target::{ContinuedText, SLICE, TargetPrompt};
use crate::lab::Lab;
use crate::lab::pass::Patch;
use crate::lab::run::Run;
use crate::model::Fingerprint;
use crate::model::host::ToHost;
use crate::model::network::site::Address;
use crate::text;

/// The continuation for one source at one pair of layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DecodedText {
    pub(super) tokens: Vec<u32>,
    /// The most probable first tokens with their probabilities.
    pub(super) top: Vec<(u32, f32)>,
    /// The probabilities of the watched tokens as first token.
    pub(super) watched: Vec<f32>,
    /// The norm of the patched value divided by that of the state it overwrites, at the last placeholder; for the norm map,
    /// before its scaling.
    pub(super) ratio: f32,
}

impl DecodedText {
    fn new(written: ContinuedText, ratio: f32) -> Self {
        Self {
            tokens: written.tokens,
            top: written.first.top,
            watched: written.watched,
            ratio,
        }
    }

    /// The total probability of the watched tokens; without any, that of the most probable first token.
    pub(super) fn probability(&self) -> f32 {
        if self.watched.is_empty() {
            self.top.first().map_or(0.0, |t| t.1)
        } else {
            self.watched.iter().sum()
        }
    }
}

/// The target prompt for a number of source tokens.
pub(super) struct PreparedTarget {
    target: TargetPrompt,
    pub(super) placeholders: Vec<usize>,
    /// Whether the placeholder consists of whole tokens.
    pub(super) whole: bool,
    /// The continuation of the unpatched target.
    pub(super) control: DecodedText,
    replaced: BTreeMap<(Address, usize), f32>,
}

/// All continuations, and the targets by number of source tokens.
pub(super) struct PatchscopeResult {
    /// `[source][pair]`, in the plan's order; none if the sweep was stopped before.
    pub(super) continuations: Vec<Vec<Option<DecodedText>>>,
    pub(super) prepared: BTreeMap<usize, PreparedTarget>,
    /// A note if the sweep was stopped.
    pub(super) note: Option<String>,
}

impl PatchscopeResult {
    /// Notes: that a placeholder is a part of a longer token, or that the sweep was stopped.
    pub(super) fn notes(&self, plan: &PatchscopePlan, lab: &Lab) -> Vec<String> {
        let shared = self.prepared.values().find(|t| !t.whole);
        let token = shared.and_then(|t| Some(t.tokens()[*t.placeholders.last()?]));
        let shared = token.map(|token| {
            format!(
                "the placeholder `{}` is not a token of its own: {} was overwritten. Put a space before it, or choose another placeholder",
                text::plain(plan.template.placeholder.as_bytes()),
                lab.visible(token)
            )
        });
        shared.into_iter().chain(self.note.clone()).collect()
    }

    /// The target into which a source was patched.
    pub(super) fn target<'a>(&'a self, source: &StateSource) -> Option<&'a PreparedTarget> {
        self.prepared.get(&source.positions.len())
    }
}

impl PreparedTarget {
    pub(super) fn tokens(&self) -> &[u32] {
        &self.target.tokens
    }

    fn new(plan: &PatchscopePlan, lab: &mut Lab, count: usize) -> Result<Self> {
        let filled = plan.with_placeholders(lab, count)?;
        let wanted = plan.wanted(|(_, to)| to);
        let recording = lab.record(&Run::plain(filled.tokens.clone()), &wanted)?;
        let mut replaced = BTreeMap::new();
        for at in wanted {
            for placeholder in &filled.placeholders {
                let row = row(recording.get(at)?, *placeholder)?;
                replaced.insert((at, *placeholder), norm(&row));
            }
        }
        let first = filled.placeholders.first().copied().unwrap_or(0);
        let target = TargetPrompt {
            tokens: filled.tokens,
            from: first,
        };
        let mut control = target.branches(lab, vec![Vec::new()], plan.count, &plan.watched)?;
        Ok(Self {
            target,
            placeholders: filled.placeholders,
            whole: filled.whole,
            control: DecodedText::new(control.remove(0), 1.0),
            replaced,
        })
    }
}

fn row(values: &Tensor, position: usize) -> Result<Vec<f32>> {
    let row = values.narrow(0, position, 1)?.flatten_all()?;
    Ok(row.to_dtype(DType::F32)?.host_vec1()?)
}

/// Patches every source of a list into the plan's target, at every pair of layers.
pub(super) fn all(
    plan: &PatchscopePlan,
    sources: &[StateSource],
    lab: &mut Lab,
) -> Result<PatchscopeResult> {
    let mut prepared: BTreeMap<usize, PreparedTarget> = BTreeMap::new();
    for source in sources {
        let count = source.positions.len();
        if let Entry::Vacant(place) = prepared.entry(count) {
            place.insert(PreparedTarget::new(plan, lab, count)?);
        }
    }
    // Sources of as many tokens share a target, so they are read one after the other.
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|i| sources[*i].positions.len());
    let pairs = plan.pairs.len();
    let total = order.len() * pairs;
    let mut parameters = plan.parameters();
    parameters.push(("states".into(), digest(plan, sources)));
    let seed = Run {
        seed: plan.seed,
        ..Run::default()
    };
    let run = sources.iter().find(|s| s.own).map_or(&seed, |s| &s.run);
    let trials = lab.trials(run, parameters, total, SLICE, |lab, range| {
        decode_trials(plan, sources, &order, &prepared, range, lab)
    })?;
    let note = trials.note();
    let mut continuations: Vec<Vec<Option<DecodedText>>> = vec![vec![None; pairs]; sources.len()];
    for (trial, one) in trials.results.into_iter().enumerate() {
        continuations[order[trial / pairs]][trial % pairs] = one;
    }
    Ok(PatchscopeResult {
        continuations,
        prepared,
        note,
    })
}

/// A digest of files and prompts, so that a stopped sweep is resumed only if they are unchanged.
fn digest(plan: &PatchscopePlan, sources: &[StateSource]) -> String {
    let mut hash = Fingerprint::default();
    for source in sources {
        hash.write(&source.run.digest().to_le_bytes());
        hash.write(format!("{:?}", source.positions).as_bytes());
        let noise = source.noised.as_ref().map(|n| (n.first, n.draw, plan.seed));
        hash.write(format!("{noise:?}").as_bytes());
    }
    if let Map::Affine(maps) = &plan.map {
        for (_, map) in &maps.maps {
            let numbers = map.weight.iter().chain(&map.bias);
            numbers.for_each(|v| hash.write(&v.to_bits().to_le_bytes()));
        }
    }
    hash.write(format!("{:?}", plan.template).as_bytes());
    format!("{:016x}", hash.finish())
}

/// The continuations of a range of trials: all pairs of the first source in `order`, then of the second, and so on.
fn decode_trials(
    plan: &PatchscopePlan,
    sources: &[StateSource],
    order: &[usize],
    prepared: &BTreeMap<usize, PreparedTarget>,
    trials: Range<usize>,
    lab: &mut Lab,
) -> Result<Vec<DecodedText>> {
    let pairs = plan.pairs.len();
    let all: Vec<usize> = trials.collect();
    // Sources of as many tokens are one batch, and of further draws only the first token is asked.
    let of = |trial: &usize| {
        let source = &sources[order[trial / pairs]];
        let again = source.noised.as_ref().is_some_and(|noised| noised.draw > 0);
        (source.positions.len(), if again { 1 } else { plan.count })
    };
    let mut out = Vec::with_capacity(all.len());
    for group in all.chunk_by(|a, b| of(a) == of(b)) {
        let (count, tokens) = of(&group[0]);
        let target = &prepared[&count];
        let (mut branches, mut ratios) = (Vec::new(), Vec::new());
        for trial in group {
            let source = &sources[order[trial / pairs]];
            let (puts, ratio) = patches_for(plan, source, trial % pairs, target, lab)?;
            branches.push(puts);
            ratios.push(ratio);
        }
        let written = target
            .target
            .branches(lab, branches, tokens, &plan.watched)?;
        let continuations = written.into_iter().zip(ratios);
        out.extend(continuations.map(|(written, ratio)| DecodedText::new(written, ratio)));
    }
    Ok(out)
}

/// What comes first after the states of sources of one token each, `[source][pair]`, at some pairs of layers.
pub(super) fn first_tokens(
    plan: &PatchscopePlan,
    sources: &[&StateSource],
    pairs: &[usize],
    lab: &mut Lab,
) -> Result<Vec<Vec<DecodedText>>> {
    let target = PreparedTarget::new(plan, lab, 1)?;
    let mut out = Vec::with_capacity(sources.len());
    for source in sources {
        let (mut branches, mut ratios) = (Vec::new(), Vec::new());
        for pair in pairs {
            let (patches, ratio) = patches_for(plan, source, *pair, &target, lab)?;
            branches.push(patches);
            ratios.push(ratio);
        }
        let written = target.target.branches(lab, branches, 1, &plan.watched)?;
        let decoded = written.into_iter().zip(ratios);
        out.push(
            decoded
                .map(|(written, ratio)| DecodedText::new(written, ratio))
                .collect(),
        );
    }
    Ok(out)
}

/// The patches for a source at a pair of layers, and the ratio of norms, see [`DecodedText::ratio`].
fn patches_for(
    plan: &PatchscopePlan,
    source: &StateSource,
    pair: usize,
    target: &PreparedTarget,
    lab: &mut Lab,
) -> Result<(Vec<Patch>, f32)> {
    let (from, to) = plan.addresses(plan.pairs[pair]);
    // All source layers are recorded at once, so that a source is run once.
    let wanted = plan.wanted(|(from, _)| from);
    let (recording, first) = match &source.noised {
        None => (lab.record(&source.run, &wanted)?, 0),
        Some(noised) => (noised.states.clone(), noised.first),
    };
    let values = recording.get(from)?;
    let device = &lab.model.transformer.device;
    let mut out = Vec::with_capacity(target.placeholders.len());
    let mut ratio = 0.0;
    for (i, placeholder) in target.placeholders.iter().enumerate() {
        // One state for all placeholders, or one for each.
        let position = source.positions[i.min(source.positions.len() - 1)];
        let taken = row(values, position - first)?;
        let replaced = target.replaced[&(to, *placeholder)];
        let value = plan.map.apply(&taken, (from, to), replaced)?;
        let length = norm(if matches!(plan.map, Map::Norm) {
            &taken
        } else {
            &value
        });
        ratio = length / replaced.max(f32::MIN_POSITIVE);
        out.push(Patch::new(to, *placeholder, Tensor::new(value, device)?));
    }
    Ok((out, ratio))
}
