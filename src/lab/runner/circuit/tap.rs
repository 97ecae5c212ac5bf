//! The tap of rows under circuits: it gives receivers their own streams, and takes what senders write.
//!
//! Invariant: what is not computed is what the run that a row goes on from has there. To take what another node writes, add its site here.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::row::RowState;
use crate::error::{Error, Result};
use crate::lab::circuit::graph::{CircuitGraph, Receiver, Sender};
use crate::lab::circuit::mixed::MixedStreams;
use crate::lab::circuit::states::CircuitRow;
use crate::lab::finite_guard::Guard;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::norm::Norm;
use crate::model::network::receivers::Projection;
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::Tap;
use crate::model::network::transformer::Transformer;

/// The tap of rows under circuits.
pub(super) struct CircuitTap<'a> {
    model: &'a Model,
    transformer: &'a Transformer,
    graph: CircuitGraph,
    guard: Guard<'a>,
    pub rows: Vec<RowState<'a>>,
    tokens: usize,
    /// Numbers of a stream.
    each: usize,
    /// The queries, keys and values of the block that is being computed.
    projected: Vec<(Address, Tensor)>,
    /// Which heads of it are computed, by row.
    busy: Vec<Vec<bool>>,
    /// In which rows its MLP is computed.
    reading: Vec<bool>,
}

impl<'a> CircuitTap<'a> {
    pub fn new(
        model: &'a Model,
        circuits: &[&'a CircuitRow],
        tokens: usize,
        guard: Guard<'a>,
    ) -> Self {
        let graph = circuits[0].graph;
        let each = tokens * model.card.d_model;
        let rows = circuits.iter().map(|circuit| {
            let changes = match &circuit.base {
                Some(base) => base.by_sender.clone(),
                None => vec![None; graph.senders()],
            };
            RowState {
                circuit,
                moved: vec![false; graph.senders()],
                mixed: MixedStreams::new(changes, each),
            }
        });
        Self {
            model,
            transformer: &model.transformer,
            graph,
            guard,
            rows: rows.collect(),
            tokens,
            each,
            projected: Vec::new(),
            busy: Vec::new(),
            reading: Vec::new(),
        }
    }

    /// A value of the corrupted runs, `[rows, tokens, ..]` flat in the last axis.
    pub fn corrupted(&self, at: Address) -> Result<Tensor> {
        let mut numbers = Vec::new();
        for row in &self.rows {
            numbers.extend_from_slice(row.circuit.corrupted.at(at)?);
        }
        self.made((self.rows.len(), self.tokens, ()), numbers)
    }

    fn made<S: candle_core::shape::ShapeWithOneHole>(
        &self,
        shape: S,
        numbers: Vec<f32>,
    ) -> Result<Tensor> {
        let whole = Tensor::from_vec(numbers, shape, &self.transformer.device)?;
        Ok(whole.to_dtype(self.transformer.dtype())?)
    }

    /// The streams of receivers in rows, normed: `[jobs * tokens, d_model]`, f32.
    fn streams(
        &mut self,
        jobs: &[(Receiver, usize)],
        corrupted: Address,
        norm: Option<&Norm>,
    ) -> Result<Tensor> {
        let each = self.each;
        if let Some((first, _)) = jobs.first() {
            let reach = self.graph.reach(*first);
            let dense = |row: usize| {
                let own = jobs.iter().filter(|job| job.1 == row);
                let RowState { circuit, mixed, .. } = &self.rows[row];
                own.map(|job| mixed.parted(&circuit.graph, &circuit.edges, job.0))
                    .any(|(kept, gone)| gone.len() < kept.len())
            };
            let dense: Vec<bool> = (0..self.rows.len()).into_par_iter().map(dense).collect();
            let rows = self.rows.par_iter_mut().zip(dense);
            rows.for_each(|(row, dense)| {
                if dense {
                    row.mixed.sum_up(reach);
                }
            });
        }
        let mut numbers = vec![0f32; jobs.len() * each];
        let rows = &self.rows;
        numbers
            .par_chunks_exact_mut(each)
            .zip(jobs)
            .try_for_each(|(into, (receiver, row))| {
                let row = &rows[*row];
                let RowState { circuit, mixed, .. } = row;
                let base = circuit.corrupted.at(corrupted)?;
                mixed.mix(&circuit.graph, &circuit.edges, *receiver, base, into);
                Ok::<_, Error>(())
            })?;
        let width = self.model.card.d_model;
        let x = self.made((jobs.len() * self.tokens, width), numbers)?;
        match norm {
            Some(norm) => norm.forward(&x, false),
            None => Ok(x),
        }
    }

    /// Computes the queries, keys and values of a block from each receiver's own stream.
    fn project(&mut self, layer: usize) -> Result<()> {
        let graph = self.graph;
        let group = graph.heads / graph.kv_heads;
        let differs = |row: &RowState, head: usize| {
            let own = Sender::Head { layer, head };
            graph.inputs_of(own).into_iter().any(|at| row.differs(at))
        };
        let busy = self.rows.par_iter();
        let busy = busy.map(|row| (0..graph.heads).map(|head| differs(row, head)).collect());
        self.busy = busy.collect::<Vec<Vec<bool>>>();
        let width = self.transformer.blueprint.head_dim;
        let kinds = [
            (Site::Q, Projection::Query, graph.heads),
            (Site::K, Projection::Key, graph.kv_heads),
            (Site::V, Projection::Value, graph.kv_heads),
        ];
        let mut jobs: Vec<(Receiver, usize)> = Vec::new();
        for (_, of, count) in kinds {
            for head in 0..count {
                let (receiver, heads) = match of {
                    Projection::Query => (Receiver::Query { layer, head }, head..head + 1),
                    Projection::Key => (
                        Receiver::Key { layer, head },
                        head * group..(head + 1) * group,
                    ),
                    Projection::Value => (
                        Receiver::Value { layer, head },
                        head * group..(head + 1) * group,
                    ),
                };
                for (row, state) in self.rows.iter().enumerate() {
                    // Where nothing is kept that changed, it reads what the corrupted run read.
                    if self.busy[row][heads.clone()].contains(&true) && state.reads_change(receiver)
                    {
                        jobs.push((receiver, row));
                    }
                }
            }
        }
        let norm = self.transformer.attention_norm(layer).cloned();
        let streams = self.streams(&jobs, Site::ResidPre.at(layer), norm.as_ref())?;
        self.projected.clear();
        let mut done = 0;
        for (site, of, count) in kinds {
            let at = site.at(layer);
            let line = count * width;
            let mut numbers = Vec::with_capacity(self.rows.len() * self.tokens * line);
            for row in &self.rows {
                numbers.extend_from_slice(row.circuit.corrupted.at(at)?);
            }
            for head in 0..count {
                let is_own = |receiver: &Receiver| match (of, receiver) {
                    (Projection::Query, Receiver::Query { head: own, .. })
                    | (Projection::Key, Receiver::Key { head: own, .. })
                    | (Projection::Value, Receiver::Value { head: own, .. }) => *own == head,
                    (
                        Projection::Query | Projection::Key | Projection::Value,
                        Receiver::Query { .. }
                        | Receiver::Key { .. }
                        | Receiver::Value { .. }
                        | Receiver::Mlp { .. }
                        | Receiver::Logits,
                    ) => false,
                };
                let own = jobs[done..].iter().take_while(|(at, _)| is_own(at)).count();
                if own == 0 {
                    continue;
                }
                let x = streams.narrow(0, done * self.tokens, own * self.tokens)?;
                let y = self.transformer.projected_head(layer, of, head, &x)?;
                let y = y.to_dtype(DType::F32)?.flatten_all()?.host_vec1::<f32>()?;
                for (i, (_, row)) in jobs[done..done + own].iter().enumerate() {
                    for token in 0..self.tokens {
                        let from = (i * self.tokens + token) * width;
                        let to = (row * self.tokens + token) * line + head * width;
                        numbers[to..to + width].copy_from_slice(&y[from..from + width]);
                    }
                }
                done += own;
            }
            let whole = self.made((self.rows.len(), self.tokens, count, width), numbers)?;
            self.projected.push((at, whole));
        }
        Ok(())
    }

    /// Takes what the heads of a block write, from `z`, `[rows, tokens, heads, head_dim]`.
    fn take_heads(&mut self, layer: usize, z: &Tensor) -> Result<()> {
        let width = self.transformer.blueprint.head_dim;
        let line = self.graph.heads * width;
        let z = z.to_dtype(DType::F32)?.flatten_all()?.host_vec1::<f32>()?;
        let scale = self.transformer.blueprint.residual_scale as f32;
        for head in 0..self.graph.heads {
            let rows: Vec<usize> = (0..self.rows.len())
                .filter(|row| self.busy[*row][head])
                .collect();
            if rows.is_empty() {
                continue;
            }
            let mut changed = Vec::with_capacity(rows.len() * self.tokens * width);
            for row in &rows {
                let corrupted = self.rows[*row].circuit.corrupted.at(Site::Z.at(layer))?;
                for token in 0..self.tokens {
                    let own = &z[(row * self.tokens + token) * line + head * width..][..width];
                    let other = &corrupted[token * line + head * width..][..width];
                    changed.extend(own.iter().zip(other).map(|(a, b)| (a - b) * scale));
                }
            }
            let changed = Tensor::from_vec(
                changed,
                (rows.len() * self.tokens, width),
                &self.transformer.device,
            )?;
            let written = self.transformer.head_product(layer, head, &changed)?;
            let written = written.flatten_all()?.host_vec1::<f32>()?;
            let sender = self.graph.sender_number(Sender::Head { layer, head });
            for (row, written) in rows.into_iter().zip(written.chunks_exact(self.each)) {
                self.take(row, sender, written);
            }
        }
        Ok(())
    }

    /// Keeps the change of a sender in a row.
    fn take(&mut self, row: usize, sender: usize, change: &[f32]) {
        let state = &mut self.rows[row];
        let own = state.mixed.changes[sender].as_deref().map(Vec::as_slice);
        let still = change.iter().all(|x| *x == 0.0);
        let same = match own {
            None => still,
            #[allow(clippy::float_cmp)]
            // the same bits: nothing that reads it has to be computed again
            Some(own) => own == change,
        };
        if !same {
            state.mixed.changes[sender] = (!still).then(|| Arc::new(change.to_vec()));
            state.moved[sender] = true;
        }
    }

    /// What the logits read: `[rows, tokens, d_model]`.
    pub fn read_by_logits(&mut self) -> Result<Tensor> {
        let jobs: Vec<(Receiver, usize)> = (0..self.rows.len())
            .map(|row| (Receiver::Logits, row))
            .collect();
        let last = Site::ResidPost.at(self.graph.layers - 1);
        let x = self.streams(&jobs, last, None)?;
        Ok(x.reshape((self.rows.len(), self.tokens, ()))?)
    }
}

impl Tap for CircuitTap<'_> {
    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        let layer = usize::from(at.layer);
        match at.site {
            Site::Embed => {
                let own = x.to_dtype(DType::F32)?.flatten_all()?.host_vec1::<f32>()?;
                for (row, own) in own.chunks_exact(self.each).enumerate() {
                    let corrupted = self.rows[row].circuit.corrupted.at(at)?;
                    let change: Vec<f32> = own.iter().zip(corrupted).map(|(a, b)| a - b).collect();
                    self.take(row, 0, &change);
                }
                Ok(x)
            }
            Site::Z => {
                self.take_heads(layer, &x)?;
                Ok(x)
            }
            Site::MlpIn => {
                let receiver = Receiver::Mlp { layer };
                self.reading = self.rows.iter().map(|row| row.differs(receiver)).collect();
                if !self.reading.contains(&true) {
                    return Ok(x);
                }
                let jobs: Vec<(Receiver, usize)> =
                    (0..self.rows.len()).map(|row| (receiver, row)).collect();
                let norm = self.transformer.mlp_norm(layer).cloned();
                let stream = if self.graph.parallel {
                    Site::ResidPre
                } else {
                    Site::ResidMid
                };
                let own = self.streams(&jobs, stream.at(layer), norm.as_ref())?;
                Ok(own.reshape(x.shape())?.on_device(x.device())?)
            }
            Site::MlpAdd => {
                if !self.reading.contains(&true) {
                    return Ok(x);
                }
                let own = x.to_dtype(DType::F32)?.flatten_all()?.host_vec1::<f32>()?;
                let sender = self.graph.sender_number(Sender::Mlp { layer });
                for (row, own) in own.chunks_exact(self.each).enumerate() {
                    if self.reading[row] {
                        let corrupted = self.rows[row].circuit.corrupted.at(at)?;
                        let change: Vec<f32> =
                            own.iter().zip(corrupted).map(|(a, b)| a - b).collect();
                        self.take(row, sender, &change);
                    }
                }
                Ok(x)
            }
            Site::ResidPre
            | Site::AttnIn
            | Site::Q
            | Site::K
            | Site::V
            | Site::AttnScores
            | Site::AttnProbs
            | Site::AttnOut
            | Site::AttnAdd
            | Site::ResidMid
            | Site::MlpNormed
            | Site::MlpGate
            | Site::MlpUp
            | Site::MlpAct
            | Site::Router
            | Site::MlpOut
            | Site::ResidPost
            | Site::FinalNorm
            | Site::LogitsRaw
            | Site::Logits => Ok(x),
        }
    }

    fn known(&mut self, at: Address) -> Result<Option<Tensor>> {
        let layer = usize::from(at.layer);
        let there = self.transformer.placement.device_at(at);
        match at.site {
            Site::Q => {
                self.project(layer)?;
                let own = self.projected.first().map(|(_, own)| own);
                Ok(own.map(|own| own.on_device(there)).transpose()?)
            }
            Site::K | Site::V => {
                let own = self.projected.iter().find(|(site, _)| *site == at);
                Ok(own.map(|(_, own)| own.on_device(there)).transpose()?)
            }
            // Nobody looks at the stream of the pass itself: it stays that of the corrupted run, which is finite.
            Site::AttnOut => {
                let shape = (self.rows.len(), self.tokens, self.model.card.d_model);
                let (dtype, device) = (self.transformer.dtype(), there);
                Ok(Some(Tensor::zeros(shape, dtype, device)?))
            }
            Site::MlpOut if !self.reading.contains(&true) => {
                let shape = (self.rows.len(), self.tokens, self.model.card.d_model);
                let (dtype, device) = (self.transformer.dtype(), there);
                Ok(Some(Tensor::zeros(shape, dtype, device)?))
            }
            Site::Embed
            | Site::ResidPre
            | Site::AttnIn
            | Site::AttnScores
            | Site::AttnProbs
            | Site::Z
            | Site::AttnAdd
            | Site::ResidMid
            | Site::MlpNormed
            | Site::MlpIn
            | Site::MlpGate
            | Site::MlpUp
            | Site::MlpAct
            | Site::Router
            | Site::MlpOut
            | Site::MlpAdd
            | Site::ResidPost
            | Site::FinalNorm
            | Site::LogitsRaw
            | Site::Logits => Ok(None),
        }
    }

    fn wants(&self, at: Address) -> bool {
        matches!(at.site, Site::Embed | Site::Z | Site::MlpIn | Site::MlpAdd)
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.guard.checkpoint()
    }
}
