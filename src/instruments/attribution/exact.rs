//! The real thing for a few nodes: their corrupted values put into the clean run, and how well scores order them.
//!
//! Invariant: a node is patched at the positions that its score sums over, in a run of its own. To compare others, choose them in `chosen`.

use candle_core::{DType, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::NodeKind;
use super::nodes::Nodes;
use super::scores::NodeScores;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::pairs::MeasuredPair;
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::ranks::{correlation_interval, rank_correlation};
use crate::model::host::ToHost;

/// Nodes that were patched.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// Nodes with what the metric changed by, the strongest by score first, then random ones.
    pub nodes: Vec<(usize, f64)>,
    /// How many of them are the strongest.
    pub strongest: usize,
}

impl Compared {
    /// The exact effect of a node, if it was patched.
    pub fn effect(&self, node: usize) -> Option<f64> {
        self.nodes
            .iter()
            .find(|(own, _)| *own == node)
            .map(|(_, effect)| *effect)
    }

    /// The rank correlation of scores and effects, with its 95 % interval, in words.
    pub fn in_words(&self, scores: &[f64]) -> Option<String> {
        let part = |range: std::ops::Range<usize>| {
            let own = &self.nodes[range];
            let found: Vec<f64> = own.iter().map(|(node, _)| scores[*node]).collect();
            let effects: Vec<f64> = own.iter().map(|(_, effect)| *effect).collect();
            let rho = rank_correlation(&found, &effects)?;
            let interval = correlation_interval(rho, own.len())
                .map_or_else(String::new, |(lo, hi)| {
                    format!(", 95 % interval {lo:.2} to {hi:.2}")
                });
            Some(format!("{rho:.2} (n = {}{interval})", own.len()))
        };
        let count = self.nodes.len();
        if count < 3 {
            return None;
        }
        let all = part(0..count)?;
        let random = part(self.strongest..count);
        let random = random.map_or_else(String::new, |own| {
            format!(", over the random ones alone {own}")
        });
        Some(format!(
            "rank correlation (Spearman) of scores with patching one node after the other: over the {} strongest and {} random nodes {all}{random}",
            self.strongest,
            count - self.strongest
        ))
    }
}

pub fn compared(
    lab: &mut Lab,
    nodes: &Nodes,
    pairs: &[MeasuredPair],
    found: &NodeScores,
    count: usize,
    seed: u64,
) -> Result<Compared> {
    let (chosen, strongest) = chosen(nodes, found, count, seed);
    let mut effects = vec![0f64; chosen.len()];
    for (i, pair) in pairs.iter().enumerate() {
        let share = i as f32 / pairs.len() as f32..(i + 1) as f32 / pairs.len() as f32;
        let own = lab.part(share, |lab| effects_in(lab, nodes, pair, &chosen))?;
        effects
            .iter_mut()
            .zip(own)
            .for_each(|(sum, x)| *sum += x / pairs.len() as f64);
    }
    Ok(Compared {
        nodes: chosen.into_iter().zip(effects).collect(),
        strongest,
    })
}

/// The strongest nodes, and as many others at random.
fn chosen(nodes: &Nodes, found: &NodeScores, count: usize, seed: u64) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..nodes.count())
        .filter(|node| nodes.is_there(*node))
        .collect();
    order.sort_by(|a, b| found.scores[*b].abs().total_cmp(&found.scores[*a].abs()));
    let strongest = count.min(order.len());
    let mut others = order.split_off(strongest);
    others.shuffle(&mut StdRng::seed_from_u64(seed));
    order.extend(others.into_iter().take(count));
    (order, strongest)
}

/// What the metric changes by in one pair when each node alone has its corrupted values.
fn effects_in(
    lab: &mut Lab,
    nodes: &Nodes,
    pair: &MeasuredPair,
    chosen: &[usize],
) -> Result<Vec<f64>> {
    let mut at: Vec<_> = chosen
        .iter()
        .filter_map(|node| nodes.at[node / nodes.columns])
        .collect();
    at.sort_unstable();
    at.dedup();
    let record = |run| Pass {
        record: at.clone(),
        ..Pass::of(run)
    };
    let corrupt = lab.run_one(&record(pair.runs.corrupt.clone()))?;
    let clean = lab.run_one(&record(pair.runs.clean.clone()))?;
    let rows = chosen.iter().map(|node| {
        let patches = patches(nodes, *node, pair, &clean, &corrupt)?;
        Ok(PassRow::patched(patches))
    });
    let rows = lab.run(&Pass {
        rows: rows.collect::<Result<_>>()?,
        output: pair.metric.output(),
        ..Pass::of(pair.runs.clean.clone())
    })?;
    let effect = |row: &Capture| f64::from(pair.metric.of(row.last())) - f64::from(pair.clean);
    Ok(rows.iter().map(effect).collect())
}

/// What puts a node's corrupted values into the clean run.
fn patches(
    nodes: &Nodes,
    node: usize,
    pair: &MeasuredPair,
    clean: &Capture,
    corrupt: &Capture,
) -> Result<Vec<Patch>> {
    let (layer, column) = (node / nodes.columns, node % nodes.columns);
    let at = nodes.at[layer].ok_or_else(|| Error::Engine("a node that is not there".into()))?;
    let (own, other) = (clean.get(at)?, corrupt.get(at)?);
    let places = nodes.places(node, pair).iter();
    let patch = |(here, there): &(usize, usize)| {
        Ok(match nodes.kind {
            NodeKind::Heads | NodeKind::Queries | NodeKind::Keys | NodeKind::Values => Patch {
                head: Some(column),
                ..Patch::new(at, *here, other.get(*there)?.get(column)?)
            },
            NodeKind::Resid | NodeKind::Attn | NodeKind::Mlp => {
                Patch::new(at, *here, other.get(*there)?.flatten_all()?)
            }
            NodeKind::Neurons => {
                let read = |t: &Tensor, at: usize| -> Result<Vec<f32>> {
                    Ok(t.get(at)?
                        .to_dtype(DType::F32)?
                        .flatten_all()?
                        .host_vec1()?)
                };
                let mut row = read(own, *here)?;
                row[column] = read(other, *there)?[column];
                let value = Tensor::new(row.as_slice(), own.device())?.to_dtype(own.dtype())?;
                Patch::new(at, *here, value)
            }
        })
    };
    places.map(patch).collect()
}
