//! Scores of all nodes: the change of each to its corrupted value, times the slope of the metric there.
//!
//! Invariant: a score is the first-order change of the metric when this node alone has the corrupted run's values, the mean over the pairs; the control's
//! is the same with the values of an unrelated run of the same length: of another pair's corrupted run if there is one, else of a text that the
//! model writes by itself. To correct another nonlinearity, add its change beside that of the softmax.

use candle_core::{DType, Tensor};

use super::NodeKind;
use super::nodes::Nodes;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::gradient::GradientRequest;
use crate::lab::pairs::MeasuredPair;
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};

/// Scores by node.
#[derive(Clone, Debug)]
pub struct NodeScores {
    pub scores: Vec<f64>,
    /// The same with the values of unrelated runs.
    pub control: Vec<f64>,
}

pub fn node_scores(
    lab: &mut Lab,
    nodes: &Nodes,
    pairs: &[MeasuredPair],
    fix: bool,
    seed: u64,
) -> Result<NodeScores> {
    let mut scores = vec![0f64; nodes.count()];
    let mut control = vec![0f64; nodes.count()];
    let at = nodes.addresses();
    for (i, pair) in pairs.iter().enumerate() {
        lab.report(i as f32 / pairs.len() as f32)?;
        let own = lab.without_progress(|lab| -> Result<_> {
            let clean = slopes(lab, nodes, pair, fix)?;
            let corrupt = recorded(lab, &pair.runs.corrupt, &at)?;
            let other = unrelated(lab, pairs, i, seed)?;
            let other = recorded(lab, &other, &at)?;
            Ok((clean, corrupt, other))
        });
        let (clean, corrupt, other) = own?;
        let mut add = |values: &Capture, into: &mut Vec<f64>| -> Result<()> {
            let found = if fix {
                with_softmax(lab, nodes, pair, &clean, values)?
            } else {
                linear(nodes, pair, &clean, values)?
            };
            into.iter_mut().zip(found).for_each(|(sum, x)| *sum += x);
            Ok(())
        };
        add(&corrupt, &mut scores)?;
        add(&other, &mut control)?;
    }
    let count = pairs.len() as f64;
    for list in [&mut scores, &mut control] {
        list.iter_mut().for_each(|score| *score /= count);
    }
    Ok(NodeScores { scores, control })
}

/// A run that has nothing to do with a pair, as long as its corrupted one.
fn unrelated(lab: &mut Lab, pairs: &[MeasuredPair], pair: usize, seed: u64) -> Result<Run> {
    let length = pairs[pair].runs.corrupt.tokens.len();
    let others = (1..pairs.len()).map(|step| &pairs[(pair + step) % pairs.len()].runs.corrupt);
    let same = others.into_iter().find(|run| run.tokens.len() == length);
    Ok(if let Some(run) = same {
        run.clone()
    } else {
        let own = lab.unrelated(seed, length)?;
        own.under(&pairs[pair].runs.clean.schedule)
    })
}

/// The clean run's values, and the gradient of the metric there, already times its factor.
struct CleanSlopes {
    values: Capture,
    factor: f64,
}

fn slopes(lab: &mut Lab, nodes: &Nodes, pair: &MeasuredPair, fix: bool) -> Result<CleanSlopes> {
    let at = nodes.addresses();
    let length = pair.runs.clean.tokens.len();
    let probs = at
        .iter()
        .map(|at| Site::AttnProbs.at(usize::from(at.layer)));
    let slopes = if fix { probs.collect() } else { at.clone() };
    let mut record = at;
    if fix {
        record.extend(&slopes);
    }
    let values = lab.run_one(&Pass {
        record,
        from: Some(0),
        gradient: Some(GradientRequest {
            of: pair.metric.scalar(),
            each: Vec::new(),
            after: length - 1,
            from: None,
            at: slopes,
            positions: (0..length).collect(),
        }),
        ..Pass::of(pair.runs.clean.clone())
    })?;
    let scalar = values.gradient.as_ref().map_or(f32::NAN, |g| g.scalar);
    let factor = f64::from(pair.metric.factor(scalar));
    Ok(CleanSlopes { values, factor })
}

fn recorded(lab: &mut Lab, run: &Run, at: &[Address]) -> Result<Capture> {
    lab.run_one(&Pass {
        record: at.to_vec(),
        ..Pass::of(run.clone())
    })
}

/// The numbers of a value, `[positions, width]`.
fn numbers(value: &Tensor) -> Result<Vec<Vec<f32>>> {
    let own = value.to_dtype(DType::F32)?;
    Ok(own.flatten_from(1)?.host_vec2()?)
}

fn gradient(slopes: &CleanSlopes, at: Address) -> Result<Tensor> {
    let own = slopes.values.gradient.as_ref();
    let own = own.ok_or_else(|| Error::Engine("a row without a gradient".into()))?;
    Ok(own.get(at)?.clone())
}

/// By node: its change times the slope there.
fn linear(
    nodes: &Nodes,
    pair: &MeasuredPair,
    clean: &CleanSlopes,
    values: &Capture,
) -> Result<Vec<f64>> {
    let mut out = vec![0f64; nodes.count()];
    for (layer, at) in nodes.at.iter().enumerate() {
        let Some(at) = *at else { continue };
        let own = numbers(clean.values.get(at)?)?;
        let other = numbers(values.get(at)?)?;
        let slope = numbers(&gradient(clean, at)?)?;
        for column in 0..nodes.columns {
            let node = layer * nodes.columns + column;
            let range = nodes.offset(node)..nodes.offset(node) + nodes.width;
            let places = nodes.places(node, pair).iter();
            let sum = places.map(|(here, there)| {
                let change = own[*here][range.clone()]
                    .iter()
                    .zip(&other[*there][range.clone()]);
                let terms = change.zip(&slope[*here][range.clone()]);
                terms
                    .map(|((a, b), g)| f64::from(b - a) * f64::from(*g))
                    .sum::<f64>()
            });
            out[node] = clean.factor * sum.sum::<f64>();
        }
    }
    Ok(out)
}

/// By node, for queries and keys: the change of the probabilities when all of a node's values are the other run's, times the slope there (AtP*,
/// section 3.1.1).
fn with_softmax(
    lab: &mut Lab,
    nodes: &Nodes,
    pair: &MeasuredPair,
    clean: &CleanSlopes,
    values: &Capture,
) -> Result<Vec<f64>> {
    let mut out = vec![0f64; nodes.count()];
    let group = match nodes.kind {
        NodeKind::Keys => lab.model.transformer.blueprint.heads / nodes.columns,
        NodeKind::Heads
        | NodeKind::Queries
        | NodeKind::Values
        | NodeKind::Resid
        | NodeKind::Attn
        | NodeKind::Mlp
        | NodeKind::Neurons => 1,
    };
    for (layer, at) in nodes.at.iter().enumerate() {
        let Some(at) = *at else { continue };
        // Heads do not read each other within a layer: all of its queries, or keys, are put in at once.
        let other = values.get(at)?;
        let patches = nodes
            .places(layer * nodes.columns, pair)
            .iter()
            .map(|(here, there)| {
                let value = other.get(*there)?.flatten_all()?;
                Ok(Patch::new(at, *here, value))
            });
        let probs = Site::AttnProbs.at(layer);
        let moved = lab.run_one(&Pass {
            rows: vec![PassRow::patched(patches.collect::<Result<_>>()?)],
            record: vec![probs],
            from: Some(0),
            ..Pass::of(pair.runs.clean.clone())
        })?;
        let change = (moved.get(probs)? - clean.values.get(probs)?)?;
        let terms = (change * gradient(clean, probs)?)?.to_dtype(DType::F64)?;
        let by_head: Vec<f64> = terms.flatten_from(1)?.sum(1)?.host_vec1()?;
        for (column, heads) in by_head.chunks_exact(group).enumerate() {
            out[layer * nodes.columns + column] = clean.factor * heads.iter().sum::<f64>();
        }
    }
    Ok(out)
}
