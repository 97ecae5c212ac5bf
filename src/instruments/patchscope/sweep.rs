//! The passes: every source at every pair of layers, in batches that share what lies before the first slot.
//!
//! Invariant: the unpatched target goes through the same passes as the patched ones, and lengths of what is replaced are those of
//! the target left alone.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use super::plan::{Plan, Source};
use crate::error::Result;
use crate::lab::bench::Bench;
use crate::lab::direction::norm;
use crate::lab::patch::{Put, Target, Written};
use crate::lab::patch_map::Map;
use crate::lab::run::Run;
use crate::model::site::Address;

/// What one source said at one pair of layers.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) written: Written,
    /// Length of what was put in over the length of what it replaced, at the last slot; for the norm map, from before it.
    pub(super) ratio: f32,
}

/// A target for a number of source tokens, read up to its first slot.
pub(super) struct Prepared {
    target: Target,
    pub(super) slots: Vec<usize>,
    /// Whether the slot is a token of its own.
    pub(super) whole: bool,
    /// What the target says by itself.
    pub(super) control: Written,
    replaced: BTreeMap<(Address, usize), f32>,
}

/// Everything that was said: `said[source][pair]`, in the plan's order, and the targets by number of source tokens.
pub(super) struct Found {
    pub(super) said: Vec<Vec<Said>>,
    pub(super) prepared: BTreeMap<usize, Prepared>,
}

impl Found {
    /// The target that a source was put into.
    pub(super) fn target<'a>(&'a self, source: &Source) -> Option<&'a Prepared> {
        self.prepared.get(&source.positions.len())
    }
}

impl Prepared {
    /// Tokens of the target.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.target.tokens
    }

    fn new(plan: &Plan, bench: &mut Bench, count: usize) -> Result<Self> {
        let slotted = plan.slotted(bench, count)?;
        let mut wanted: Vec<Address> = plan.pairs.iter().map(|p| plan.addresses(*p).1).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let recording = bench.record(&Run::plain(slotted.tokens.clone()), &wanted)?;
        let mut replaced = BTreeMap::new();
        for at in wanted {
            for slot in &slotted.slots {
                let row = row(recording.get(at)?, *slot)?;
                replaced.insert((at, *slot), norm(&row));
            }
        }
        let first = slotted.slots.first().copied().unwrap_or(0);
        let target = Target::read(bench, &slotted.tokens, first)?;
        let mut control = target.branches(bench, &[Vec::new()], plan.count, &plan.watched)?;
        Ok(Self {
            target,
            slots: slotted.slots,
            whole: slotted.whole,
            control: control.remove(0),
            replaced,
        })
    }
}

fn row(values: &Tensor, position: usize) -> Result<Vec<f32>> {
    let row = values.narrow(0, position, 1)?.flatten_all()?;
    Ok(row.to_dtype(DType::F32)?.to_vec1()?)
}

/// A reading to make: which source, which pair, and what is put where.
struct Job {
    source: usize,
    pair: usize,
    ratio: f32,
    puts: Vec<Put>,
}

/// Puts every source of a list into the plan's target, at every pair of layers.
pub(super) fn all(plan: &Plan, sources: &[Source], bench: &mut Bench) -> Result<Found> {
    let total = (sources.len() * plan.pairs.len()).max(1) as f32;
    let mut said: Vec<Vec<Option<Said>>> = vec![vec![None; plan.pairs.len()]; sources.len()];
    let mut prepared: BTreeMap<usize, Prepared> = BTreeMap::new();
    // Sources of as many tokens share a target.
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|i| sources[*i].positions.len());
    let mut done = 0;
    for group in order.chunk_by(|a, b| sources[*a].positions.len() == sources[*b].positions.len()) {
        let count = sources[group[0]].positions.len();
        let target = Prepared::new(plan, bench, count)?;
        let most = target.target.rows(&bench.model)?;
        let mut waiting: Vec<Job> = Vec::new();
        for i in group {
            for job in jobs(plan, *i, &sources[*i], &target, bench)? {
                waiting.push(job);
                if waiting.len() == most {
                    bench.report(done as f32 / total)?;
                    done += waiting.len();
                    speak(plan, &target, &mut waiting, &mut said, bench)?;
                }
            }
        }
        bench.report(done as f32 / total)?;
        done += waiting.len();
        speak(plan, &target, &mut waiting, &mut said, bench)?;
        prepared.insert(count, target);
    }
    let said = said
        .into_iter()
        .map(|row| row.into_iter().flatten().collect());
    Ok(Found {
        said: said.collect(),
        prepared,
    })
}

/// The readings of one source.
fn jobs(
    plan: &Plan,
    number: usize,
    source: &Source,
    target: &Prepared,
    bench: &mut Bench,
) -> Result<Vec<Job>> {
    let mut wanted: Vec<Address> = plan.pairs.iter().map(|p| plan.addresses(*p).0).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let recording = bench.record(&source.run, &wanted)?;
    let device = &bench.model.transformer.device;
    let mut out = Vec::with_capacity(plan.pairs.len());
    for (pair, layers) in plan.pairs.iter().enumerate() {
        let (from, to) = plan.addresses(*layers);
        let values = recording.get(from)?;
        let mut puts = Vec::new();
        let mut ratio = 0.0;
        for (i, slot) in target.slots.iter().enumerate() {
            // One state for every slot, or one each.
            let position = source.positions[i.min(source.positions.len() - 1)];
            let taken = row(values, position)?;
            let replaced = target.replaced[&(to, *slot)];
            let value = plan.map.apply(&taken, (from, to), replaced)?;
            let length = norm(if matches!(plan.map, Map::Norm) {
                &taken
            } else {
                &value
            });
            ratio = length / replaced.max(f32::MIN_POSITIVE);
            puts.push(Put {
                at: to,
                position: *slot,
                value: Tensor::new(value, device)?,
            });
        }
        out.push(Job {
            source: number,
            pair,
            ratio,
            puts,
        });
    }
    Ok(out)
}

/// Writes what waits.
fn speak(
    plan: &Plan,
    target: &Prepared,
    waiting: &mut Vec<Job>,
    said: &mut [Vec<Option<Said>>],
    bench: &Bench,
) -> Result<()> {
    if waiting.is_empty() {
        return Ok(());
    }
    let branches: Vec<Vec<Put>> = waiting.iter().map(|j| j.puts.clone()).collect();
    let written = target
        .target
        .branches(bench, &branches, plan.count, &plan.watched)?;
    for (job, written) in waiting.drain(..).zip(written) {
        said[job.source][job.pair] = Some(Said {
            written,
            ratio: job.ratio,
        });
    }
    Ok(())
}
