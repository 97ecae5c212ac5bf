//! What a circuit is made for: pairs of texts, the metric of each, and the values of their corrupted runs.
//!
//! Invariant: a number of the task is the mean over its pairs; the two texts of a pair have equally many tokens. To measure something else of
//! a circuit, ask [`CircuitTask::under`] for its metric.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::bootstrap::WithInterval;
use crate::lab::capture::Capture;
use crate::lab::circuit::edges::EdgeSet;
use crate::lab::circuit::graph::CircuitGraph;
use crate::lab::circuit::means::{MeanCircuit, MeanStreams, SenderMeans};
use crate::lab::circuit::states::{CircuitRow, NodeValues, SenderChanges};
use crate::lab::pairs::{MeasuredPair, Metric};
use crate::lab::pass::{Pass, PassRow};
use crate::lab::run::Run;
use crate::model::Model;
use crate::model::memory;
use crate::model::network::site::Site;
use crate::text::size;

/// Pairs of texts on a model as a graph.
pub struct CircuitTask {
    pub graph: CircuitGraph,
    pub pairs: Vec<MeasuredPair>,
    /// The corrupted runs, by pair.
    pub corrupted: Vec<Arc<NodeValues>>,
    /// The mean metric of the clean runs.
    pub clean: f64,
    /// The mean metric of the corrupted runs.
    pub corrupt: f64,
}

impl CircuitTask {
    /// Reads the corrupted runs.
    ///
    /// # Errors
    ///
    /// When the family is refused, edits are on, texts differ in length, or memory does not suffice.
    pub fn new(lab: &mut Lab, pairs: Vec<MeasuredPair>) -> Result<Self> {
        let graph = CircuitGraph::of(&lab.model)?;
        let edited = |pair: &MeasuredPair| !pair.runs.clean.schedule.is_idle();
        if pairs.iter().any(edited) {
            return Err(Error::Refused {
                address: "circuit".into(),
                why: "a circuit is about the model's own weights, and edits are on. Switch them off; attribution and patching read the edited model.".into(),
            });
        }
        let tokens: usize = pairs.iter().map(|pair| pair.runs.clean.tokens.len()).sum();
        let b = &lab.model.transformer.blueprint;
        let width = 2 * (b.heads + b.kv_heads) * b.head_dim + 3 * b.d_model;
        let need = 4 * tokens * (graph.layers * width + graph.senders() * b.d_model);
        if let Some(free) = memory::available(&lab.model.transformer.device)
            && need as u64 > free
        {
            return Err(Error::TooLarge {
                name: format!("The corrupted runs of {} pairs", pairs.len()),
                need: format!("{} (with what every node writes)", size(need as u64)),
                free: size(free),
                next: "Give fewer or shorter pairs".into(),
            });
        }
        let texts = pairs.iter().map(|pair| pair.runs.corrupt.tokens.clone());
        let corrupted = values(lab, &graph, texts)?;
        let mean = |of: fn(&MeasuredPair) -> f32| {
            let sum: f64 = pairs.iter().map(|pair| f64::from(of(pair))).sum();
            sum / pairs.len().max(1) as f64
        };
        Ok(Self {
            graph,
            clean: mean(|pair| pair.clean),
            corrupt: mean(|pair| pair.corrupt),
            corrupted: corrupted.into_iter().map(Arc::new).collect(),
            pairs,
        })
    }

    /// The mean metric under a circuit, and what senders wrote in every pair if that is wanted. `base` is what they wrote under a
    /// circuit that is like this one but for a few edges.
    ///
    /// # Errors
    ///
    /// When the work is stopped, or numbers are not finite.
    pub fn under(
        &self,
        lab: &mut Lab,
        edges: &Arc<EdgeSet>,
        base: Option<&[Arc<SenderChanges>]>,
        keep: bool,
    ) -> Result<(f64, Vec<Arc<SenderChanges>>)> {
        let (each, changes) = self.under_each(lab, edges, base, keep)?;
        Ok((mean(&each), changes))
    }

    /// The same with the metric of every pair.
    ///
    /// # Errors
    ///
    /// Those of [`CircuitTask::under`].
    pub fn under_each(
        &self,
        lab: &mut Lab,
        edges: &Arc<EdgeSet>,
        base: Option<&[Arc<SenderChanges>]>,
        keep: bool,
    ) -> Result<(Vec<f64>, Vec<Arc<SenderChanges>>)> {
        let rows = self.pairs.iter().enumerate().map(|(i, pair)| PassRow {
            tokens: pair.runs.clean.tokens.clone(),
            circuit: Some(CircuitRow {
                graph: self.graph,
                edges: edges.clone(),
                corrupted: self.corrupted[i].clone(),
                base: base.map(|base| base[i].clone()),
                keep,
            }),
            ..PassRow::default()
        });
        let (each, found) = self.metric(lab, rows.collect())?;
        let changes = found.iter().filter_map(|row| row.changes.clone()).collect();
        Ok((each, changes))
    }

    /// The metric of rows, one for each pair.
    fn metric(&self, lab: &mut Lab, rows: Vec<PassRow>) -> Result<(Vec<f64>, Vec<Capture>)> {
        let metrics: Vec<&Metric> = self.pairs.iter().map(|pair| &pair.metric).collect();
        let pass = Pass {
            run: Run::plain(Vec::new()),
            rows,
            output: Metric::outputs(&metrics),
            ..Pass::default()
        };
        let found = lab.run(&pass)?;
        let each = found.iter().zip(&metrics);
        let each = each.map(|(row, metric)| f64::from(metric.of(row.last())));
        Ok((each.collect(), found))
    }

    /// The means of what every sender writes over the corrupted runs.
    ///
    /// # Errors
    ///
    /// When a product fails.
    pub fn means(&self, lab: &Lab) -> Result<SenderMeans> {
        SenderMeans::over(&self.corrupted, &self.graph, &lab.model)
    }

    /// The share of the metric's way from the corrupted runs to the clean ones.
    pub fn share(&self, metric: f64) -> f64 {
        (metric - self.corrupt) / (self.clean - self.corrupt)
    }

    /// How much a change of the metric takes away, in the metric's unit: what moves it from the clean runs towards the corrupted ones.
    pub fn loss(&self, before: f64, after: f64) -> f64 {
        (before - after) * (self.clean - self.corrupt).signum()
    }
}

/// A task with what everything outside a circuit has when it is evaluated.
pub struct Outside<'a> {
    pub task: &'a CircuitTask,
    /// The means; none for the corrupted runs' values.
    streams: Option<Arc<MeanStreams>>,
    /// The mean metric where everything is outside.
    pub nothing: f64,
    /// The same of every pair.
    nothing_each: Vec<f64>,
}

/// The mean over the pairs.
pub fn mean(each: &[f64]) -> f64 {
    each.iter().sum::<f64>() / each.len().max(1) as f64
}

impl<'a> Outside<'a> {
    /// Everything else as in the corrupted runs.
    pub fn corrupted(task: &'a CircuitTask) -> Self {
        Self {
            task,
            streams: None,
            nothing: task.corrupt,
            nothing_each: task
                .pairs
                .iter()
                .map(|pair| f64::from(pair.corrupt))
                .collect(),
        }
    }

    /// Everything else at these means.
    ///
    /// # Errors
    ///
    /// When the work is stopped, or numbers are not finite.
    pub fn means(lab: &mut Lab, task: &'a CircuitTask, means: SenderMeans) -> Result<Self> {
        let streams = MeanStreams::new(task.graph, Arc::new(means), &lab.model)?;
        let mut own = Self {
            task,
            streams: Some(Arc::new(streams)),
            nothing: 0.0,
            nothing_each: Vec::new(),
        };
        own.nothing_each = own.each(lab, &EdgeSet::none(&task.graph))?;
        own.nothing = mean(&own.nothing_each);
        Ok(own)
    }

    /// How many texts the means were taken over; none for the corrupted runs' values.
    pub fn texts(&self) -> Option<usize> {
        self.streams.as_ref().map(|streams| streams.means.texts)
    }

    /// The mean metric under a circuit.
    ///
    /// # Errors
    ///
    /// Those of [`CircuitTask::under`].
    pub fn under(&self, lab: &mut Lab, edges: &EdgeSet) -> Result<f64> {
        Ok(mean(&self.each(lab, edges)?))
    }

    /// The metric of every pair under a circuit.
    ///
    /// # Errors
    ///
    /// Those of [`CircuitTask::under`].
    pub fn each(&self, lab: &mut Lab, edges: &EdgeSet) -> Result<Vec<f64>> {
        let (task, edges) = (self.task, Arc::new(edges.clone()));
        let Some(streams) = &self.streams else {
            return Ok(task.under_each(lab, &edges, None, false)?.0);
        };
        let rows = task.pairs.iter().map(|pair| PassRow {
            tokens: pair.runs.clean.tokens.clone(),
            only: Some(MeanCircuit {
                edges: edges.clone(),
                streams: streams.clone(),
            }),
            ..PassRow::default()
        });
        Ok(task.metric(lab, rows.collect())?.0)
    }

    /// What every sender writes in the clean run of a pair less what it has outside, `[tokens, d_model]` each.
    ///
    /// # Errors
    ///
    /// When a product fails.
    pub fn less(&self, clean: &NodeValues, pair: usize, model: &Model) -> Result<Vec<Vec<f32>>> {
        let graph = &self.task.graph;
        let Some(streams) = &self.streams else {
            return clean.less(&self.task.corrupted[pair], graph, model);
        };
        let mut writes = clean.writes(graph, model)?;
        for (sender, own) in writes.iter_mut().enumerate() {
            for (position, row) in own.chunks_exact_mut(model.card.d_model).enumerate() {
                let mean = streams.of_sender(sender, position);
                row.iter_mut().zip(mean).for_each(|(x, mean)| *x -= mean);
            }
        }
        Ok(writes)
    }

    /// The embeddings that a pair has outside, `[tokens, d_model]`.
    ///
    /// # Errors
    ///
    /// When they were not recorded.
    pub fn embeddings(&self, pair: usize) -> Result<Vec<f32>> {
        let corrupted = &self.task.corrupted[pair];
        let Some(streams) = &self.streams else {
            return Ok(corrupted.at(Site::Embed.at(0))?.to_vec());
        };
        let rows = (0..corrupted.tokens).flat_map(|position| streams.of_sender(0, position));
        Ok(rows.copied().collect())
    }

    /// The interval of 95 % of the share that is left, where other pairs of texts are drawn; none of fewer than three pairs.
    pub fn interval(&self, each: &[f64], seed: u64) -> Option<(f64, f64)> {
        let share = |drawn: &[usize]| {
            let (mut way, mut whole) = (0.0, 0.0);
            for i in drawn {
                way += each[*i] - self.nothing_each[*i];
                whole += f64::from(self.task.pairs[*i].clean) - self.nothing_each[*i];
            }
            way / whole
        };
        let found = (each.len() >= 3).then(|| WithInterval::over(each.len(), seed, share))?;
        Some((found.low, found.high))
    }

    /// The share of the metric's way from nothing but what is outside to the clean runs.
    pub fn share(&self, metric: f64) -> f64 {
        (metric - self.nothing) / (self.task.clean - self.nothing)
    }
}

/// The values of runs at the sites of the graph.
pub fn values(
    lab: &mut Lab,
    graph: &CircuitGraph,
    texts: impl Iterator<Item = Vec<u32>>,
) -> Result<Vec<NodeValues>> {
    let pass = Pass {
        record: NodeValues::addresses(graph),
        ..Pass::texts(Run::plain(Vec::new()), texts)
    };
    let read = lab.run(&pass)?;
    let own = read.iter();
    own.map(|row| NodeValues::of(graph, row.positions.len(), &row.recorded))
        .collect()
}
