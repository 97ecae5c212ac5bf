//! Scores of all edges at once: edge attribution patching, EAP (Syed, Rager and Conmy 2023, 2310.10348), and the same with integrated
//! gradients, EAP-IG on the inputs (Hanna, Pezzelle and Belinkov 2024, 2403.17806, section 3).
//!
//! `score(u -> v) = Σ_positions (what u writes in the corrupted run − in the clean run) · ∂metric/∂(what v reads)`, the mean over the pairs:
//! to first order what the metric changes by if this edge alone has the corrupted value (or the mean, where that is what everything outside
//! a circuit has). EAP takes the gradient in the clean run. EAP-IG takes the mean of the gradients at
//! embeddings on the line from the corrupted to the clean ones, `k/m` of the way for `k = 0 .. m − 1` (the left rule: with the corrupted end,
//! without the clean one).
//! Invariant: the edges out of the embedding sum to the product of its change with the whole gradient. Which the change of the metric is, for a linear model with EAP, and for any
//! as `m` grows with EAP-IG. To score in another way, write another function that returns [`EdgeScores`].

use candle_core::{DType, Tensor};

use super::task::{CircuitTask, Outside, values};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::circuit::graph::{Receiver, Sender};
use crate::lab::circuit::states::NodeValues;
use crate::lab::gradient::GradientRequest;
use crate::lab::pairs::{MeasuredPair, Metric};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::network::adjoint::ReceiverAdjoint;
use crate::model::network::linear::Linear;
use crate::model::network::receivers::Projection;
use crate::model::network::site::{Address, Site};

/// A number for every edge, and how far they add up.
#[derive(Clone, Debug)]
pub struct EdgeScores {
    /// By edge.
    pub scores: Vec<f64>,
    /// The sum over the edges out of the embedding.
    pub out_of_embedding: f64,
    /// What that would be if the scores were exact: the metric without any edge less that of the clean runs.
    pub whole: f64,
}

/// How many pairs are scored together: little enough for what their nodes write to stay near the processor.
const TOGETHER: usize = 32;

/// Scores of every edge, with the corrupted runs' values outside; with `steps` of EAP-IG, without of EAP.
///
/// # Errors
///
/// Those of [`edge_scores_with`].
pub fn edge_scores(lab: &mut Lab, task: &CircuitTask, steps: Option<usize>) -> Result<EdgeScores> {
    edge_scores_with(lab, &Outside::corrupted(task), steps)
}

/// The same with what everything outside a circuit has.
///
/// # Errors
///
/// When the metric has no slope to take, the model is not on the CPU, or the work is stopped.
pub fn edge_scores_with(
    lab: &mut Lab,
    outside: &Outside,
    steps: Option<usize>,
) -> Result<EdgeScores> {
    let task = outside.task;
    let graph = &task.graph;
    if steps.is_none()
        && task
            .pairs
            .iter()
            .any(|pair| matches!(pair.metric, Metric::Kl(_)))
    {
        return Err(Error::argument(
            "metric",
            "kl",
            "difference or probability: KL from the clean run is least there, so that its gradient in the clean run is zero. Or take method=eap-ig",
        ));
    }
    let length = |pair: usize| task.pairs[pair].runs.clean.tokens.len();
    let mut order: Vec<usize> = (0..task.pairs.len()).collect();
    order.sort_by_key(|pair| length(*pair));
    let mut scores = vec![0f64; graph.edges()];
    let mut done = 0;
    for alike in order.chunk_by(|a, b| length(*a) == length(*b)) {
        let tokens = length(alike[0]);
        // What is kept of a pair: what its nodes write, and the gradients of one block's receivers.
        let b = &lab.model.transformer.blueprint;
        let each =
            graph.senders() + (graph.heads + 2 * graph.kv_heads + 2) * (steps.unwrap_or(1) + 1);
        let most = lab.room(4 * tokens * b.d_model * each).min(TOGETHER);
        for some in alike.chunks(most) {
            let whole = order.len() as f32;
            let share = done as f32 / whole..(done + some.len()) as f32 / whole;
            lab.part(share, |lab| {
                add_scores(lab, outside, some, steps, &mut scores)
            })?;
            done += some.len();
        }
    }
    let count = task.pairs.len().max(1) as f64;
    scores.iter_mut().for_each(|score| *score /= count);
    let out =
        (0..graph.receivers()).filter_map(|to| graph.edge(Sender::Embedding, graph.receiver(to)));
    Ok(EdgeScores {
        out_of_embedding: out.map(|edge| scores[edge]).sum(),
        whole: outside.nothing - task.clean,
        scores,
    })
}

/// Adds the scores of some pairs of one length.
fn add_scores(
    lab: &mut Lab,
    outside: &Outside,
    some: &[usize],
    steps: Option<usize>,
    scores: &mut [f64],
) -> Result<()> {
    let task = outside.task;
    let graph = &task.graph;
    let pairs: Vec<&MeasuredPair> = some.iter().map(|i| &task.pairs[*i]).collect();
    let (clean, rows) = if steps.is_none() {
        // The pass that takes the gradient has the clean runs' values.
        let rows = lab.part(0.0..0.8, |lab| slopes(lab, outside, some, &[], None))?;
        let own = |row: &Capture| NodeValues::of(graph, row.positions.len(), &row.recorded);
        (rows.iter().map(own).collect::<Result<Vec<_>>>()?, rows)
    } else {
        let texts = pairs.iter().map(|pair| pair.runs.clean.tokens.clone());
        let clean = lab.part(0.0..0.2, |lab| values(lab, graph, texts))?;
        let rows = lab.part(0.2..0.8, |lab| slopes(lab, outside, some, &clean, steps))?;
        (clean, rows)
    };
    let of_pair = |i: usize| outside.less(&clean[i], some[i], &lab.model);
    let writes: Vec<Vec<Vec<f32>>> = (0..some.len()).map(of_pair).collect::<Result<_>>()?;
    let each = steps.unwrap_or(1);
    let model = &lab.model;
    let (tokens, width) = (clean[0].tokens, model.card.d_model);
    let size = tokens * width;
    let device = &model.transformer.device;
    // What senders write, by pair: [senders, tokens * d_model].
    let writes = writes.into_iter().map(|own| {
        let count = own.len();
        Tensor::from_vec(own.concat(), (count, size), device).map_err(Error::from)
    });
    let writes: Vec<Tensor> = writes.collect::<Result<_>>()?;
    // The mean over the steps, times the metric's factor, less: corrupted less clean.
    let factors: Vec<f32> = rows
        .iter()
        .enumerate()
        .map(|(row, capture)| {
            let scalar = capture.gradient.as_ref().map_or(0.0, |g| g.scalar);
            -pairs[row / each].metric.factor(scalar) / each as f32
        })
        .collect();
    // One receiver after the other: [receivers, rows * tokens, d_model] to a product with each pair's writes.
    let mut add = |receivers: &[Receiver], gradients: &[f32]| -> Result<()> {
        let Some(first) = receivers.first() else {
            return Ok(());
        };
        let reach = graph.reach(*first);
        for (pair, writes) in writes.iter().enumerate() {
            let mut own = vec![0f32; receivers.len() * size];
            for (receiver, own) in own.chunks_exact_mut(size).enumerate() {
                for row in pair * each..(pair + 1) * each {
                    let from = (receiver * factors.len() + row) * size;
                    let gradient = &gradients[from..from + size];
                    let factor = factors[row];
                    own.iter_mut()
                        .zip(gradient)
                        .for_each(|(sum, g)| *sum += factor * g);
                }
            }
            let own = Tensor::from_vec(own, (receivers.len(), size), device)?;
            let writes = Linear::dense(writes.narrow(0, 0, reach)?, None)?;
            let products = writes.product(&own)?.host_vec2::<f32>()?;
            for (receiver, products) in receivers.iter().zip(products) {
                let edges = graph.into_receiver(*receiver);
                for (edge, product) in edges.zip(products) {
                    scores[edge] += f64::from(product);
                }
            }
        }
        Ok(())
    };
    let stacked = |at: Address| stack(&rows, |row| Ok(row.get(at)?.clone()));
    let gradient = |at: Address| {
        stack(&rows, |row| match &row.gradient {
            Some(own) => Ok(own.get(at)?.clone()),
            None => Err(Error::Engine("a row without a gradient".into())),
        })
    };
    let numbers = |t: Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.host_vec1()?) };
    for layer in 0..graph.layers {
        let before = stacked(Site::ResidPre.at(layer))?;
        let middle = if graph.parallel {
            before.clone()
        } else {
            stacked(Site::ResidMid.at(layer))?
        };
        let adjoint = ReceiverAdjoint::new(&model.transformer, layer, &before, &middle)?;
        let kinds = [
            (Site::Q, Projection::Query, graph.heads),
            (Site::K, Projection::Key, graph.kv_heads),
            (Site::V, Projection::Value, graph.kv_heads),
        ];
        for (site, of, heads) in kinds {
            let own = numbers(gradient(site.at(layer))?)?;
            let own = adjoint.projection(of, &own)?;
            let receivers = (0..heads).map(|head| match of {
                Projection::Query => Receiver::Query { layer, head },
                Projection::Key => Receiver::Key { layer, head },
                Projection::Value => Receiver::Value { layer, head },
            });
            add(&receivers.collect::<Vec<_>>(), &own)?;
        }
        let mut own = numbers(gradient(Site::MlpIn.at(layer))?)?;
        adjoint.mlp(&mut own);
        add(&[Receiver::Mlp { layer }], &own)?;
        lab.report(0.8 + 0.2 * (layer + 1) as f32 / graph.layers as f32)?;
    }
    let last = Site::ResidPost.at(graph.layers - 1);
    add(&[Receiver::Logits], &numbers(gradient(last)?)?)
}

/// Values of several rows, `[tokens, ..]` each, one behind the other: `[rows * tokens, width]`, f32.
fn stack(rows: &[Capture], of: impl Fn(&Capture) -> Result<Tensor>) -> Result<Tensor> {
    let own = rows.iter().map(|row| {
        let own = of(row)?.to_dtype(DType::F32)?;
        Ok(own.flatten_from(1)?)
    });
    Ok(Tensor::cat(&own.collect::<Result<Vec<_>>>()?, 0)?)
}

/// The gradients of the metric with respect to what receivers read: for every pair one row, or one a step; without steps also the values of
/// the clean runs, of which `clean` has none then.
fn slopes(
    lab: &mut Lab,
    outside: &Outside,
    some: &[usize],
    clean: &[NodeValues],
    steps: Option<usize>,
) -> Result<Vec<Capture>> {
    let task = outside.task;
    let graph = &task.graph;
    let (mut rows, mut scalars) = (Vec::new(), Vec::new());
    for (i, pair) in some.iter().enumerate() {
        let measured = &task.pairs[*pair];
        let tokens = &measured.runs.clean.tokens;
        for step in 0..steps.unwrap_or(1) {
            let patches = match steps {
                None => Vec::new(),
                Some(steps) => {
                    let part = step as f32 / steps as f32;
                    between(lab, &clean[i], &outside.embeddings(*pair)?, part)?
                }
            };
            scalars.push(measured.metric.scalar());
            rows.push(PassRow {
                tokens: tokens.clone(),
                ..PassRow::patched(patches)
            });
        }
    }
    let length = rows.first().map_or(0, |row: &PassRow| row.tokens.len());
    let mut at = vec![Site::ResidPost.at(graph.layers - 1)];
    for layer in 0..graph.layers {
        at.extend([Site::Q, Site::K, Site::V, Site::MlpIn].map(|site| site.at(layer)));
    }
    let mut record = NodeValues::addresses(graph);
    if steps.is_some() {
        record.retain(|at| matches!(at.site, Site::ResidPre | Site::ResidMid));
    }
    let Some(of) = scalars.first().cloned() else {
        return Ok(Vec::new());
    };
    lab.run(&Pass {
        rows,
        record,
        gradient: Some(GradientRequest {
            of,
            each: scalars,
            after: length - 1,
            from: None,
            at,
            positions: (0..length).collect(),
        }),
        ..Pass::of(Run::plain(Vec::new()))
    })
}

/// The embeddings some part of the way from others to the clean ones, where the two differ.
fn between(lab: &Lab, clean: &NodeValues, other: &[f32], part: f32) -> Result<Vec<Patch>> {
    let at = Site::Embed.at(0);
    let width = lab.model.card.d_model;
    let rows = clean.at(at)?.chunks_exact(width);
    let rows = rows.zip(other.chunks_exact(width)).enumerate();
    let transformer = &lab.model.transformer;
    let patch = |(position, (clean, corrupted)): (usize, (&[f32], &[f32]))| {
        let own: Vec<f32> = clean
            .iter()
            .zip(corrupted)
            .map(|(clean, corrupted)| corrupted + part * (clean - corrupted))
            .collect();
        let value = Tensor::new(own.as_slice(), &transformer.device)?;
        Ok(Patch::new(
            at,
            position,
            value.to_dtype(transformer.dtype())?,
        ))
    };
    rows.filter(|(_, (clean, corrupted))| clean != corrupted)
        .map(patch)
        .collect()
}
