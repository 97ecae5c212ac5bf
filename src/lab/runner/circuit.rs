//! Rows under a circuit: every receiver reads the corrupted stream with the changes of the senders from which it keeps an edge (Conmy et
//! al. 2023, 2304.14997; Hanna et al. 2024, 2403.17806, section 2).
//!
//! The tap gives the forward pass the queries, keys and values that follow from each receiver's own stream, takes from it what heads and
//! MLPs write, and puts the logits' own stream in place of the last block's. The stream that the pass itself adds up is looked at by nobody.
//! What a circuit leaves as it is in the run that it goes on from ([`CircuitRow::base`], or the corrupted run) is not computed: a node is
//! if an edge into it differs, or if something has changed that it reads over one.
//! Invariant: with all edges a row's logits are those of its text, with none those of the corrupted run, to rounding. To split another
//! receiver, number it in [`crate::lab::circuit::graph`] and mix its stream here.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::output::read_output;
use super::shared::bytes;
use super::tail::tensor;
use super::{Rows, own_run, text};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{After, Capture};
use crate::lab::circuit::graph::{CircuitGraph, Receiver, Sender};
use crate::lab::circuit::states::{CircuitRow, SenderChanges};
use crate::lab::finite_guard::Guard;
use crate::lab::pass::Pass;
use crate::model::Model;
use crate::model::network::finite;
use crate::model::network::norm::Norm;
use crate::model::network::receivers::Projection;
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::{PassPhase, PassSpan, Tap};
use crate::model::network::transformer::Transformer;

impl Lab {
    /// Carries out a pass whose rows run under circuits.
    pub(super) fn circuits(&mut self, pass: &Pass) -> Result<Vec<Capture>> {
        let mut circuits = Vec::with_capacity(pass.rows.len());
        for row in &pass.rows {
            let Some(circuit) = &row.circuit else {
                return Err(refused(
                    "a row without a circuit stands beside rows with one. Read it in a pass of its own.",
                ));
            };
            self.check_circuit(pass, row.tokens.len(), circuit)?;
            if row.knockout.is_some() || !row.patches.is_empty() || row.schedule.is_some() {
                return Err(refused(
                    "a row under a circuit takes no patches, knockouts or edits of its own. Leave them out.",
                ));
            }
            circuits.push(circuit);
        }
        let length = |row: usize| text(pass, &pass.rows[row]).len();
        let mut order: Vec<usize> = (0..pass.rows.len()).collect();
        let entry = |row: &usize| circuits[*row].entry();
        order.sort_by_key(|row| (length(*row), entry(row)));
        let mut out = Rows::with_capacity(order.len());
        let whole = order.len().max(1) as f32;
        for alike in
            order.chunk_by(|a, b| (length(*a), entry(a)) == (length(*b), entry(b)))
        {
            let tokens = length(alike[0]);
            let graph = circuits[alike[0]].graph;
            let changes = 4 * graph.senders() * tokens * self.model.card.d_model;
            let each = bytes(&self.model, tokens, tokens, false) + changes;
            for group in alike.chunks(self.room(each)) {
                let share = out.len() as f32 / whole..(out.len() + group.len()) as f32 / whole;
                let found = self.part(share, |lab| lab.under_circuits(pass, group))?;
                out.extend(group.iter().copied().zip(found));
            }
        }
        out.sort_unstable_by_key(|(row, _)| *row);
        Ok(out.into_iter().map(|(_, row)| row).collect())
    }

    /// Refuses what a circuit cannot be run with.
    fn check_circuit(&self, pass: &Pass, own: usize, circuit: &CircuitRow) -> Result<()> {
        if pass.run.schedule.spans().any(|(_, edits)| edits.iter().any(|edit| edit.active())) {
            return Err(refused(
                "a circuit is run with the model's own weights, and edits would act on some of its values alone. Switch them off.",
            ));
        }
        if !pass.record.is_empty() || pass.tail > 0 || !pass.common.is_empty() {
            return Err(refused(
                "under a circuit the model's output alone is read. Record values in a pass without one.",
            ));
        }
        let tokens = if own == 0 { pass.run.tokens.len() } else { own };
        if circuit.corrupted.tokens != tokens {
            let expected = format!("as many tokens as the clean text, {tokens}");
            let given = format!("{} tokens", circuit.corrupted.tokens);
            return Err(Error::argument("corrupt", given, expected));
        }
        if CircuitGraph::of(&self.model)? != circuit.graph {
            return Err(refused("it belongs to a model of another shape. Make it for this one."));
        }
        Ok(())
    }

    /// Rows of one length that begin at one block.
    fn under_circuits(&mut self, pass: &Pass, group: &[usize]) -> Result<Vec<Capture>> {
        let rows = group.iter().map(|i| &pass.rows[*i]);
        let circuits: Vec<&CircuitRow> = rows.filter_map(|row| row.circuit.as_ref()).collect();
        let texts = group.iter().map(|i| text(pass, &pass.rows[*i]).to_vec());
        let texts: Vec<Vec<u32>> = texts.collect();
        for text in &texts {
            self.model.check_prompt(text)?;
        }
        let (model, length) = (&self.model, texts[0].len());
        let wanted = match &pass.output.after {
            After::Nothing => 0..0,
            After::Last(n) => length - n.min(&length)..length,
            After::Each(at) => at.clone(),
        };
        if wanted.end > length {
            let expected = format!("positions to {}", length - 1);
            return Err(Error::argument("after", (wanted.end - 1).to_string(), expected));
        }
        let span = PassSpan {
            start: 0,
            len: length,
            prompt: length,
            phase: PassPhase::Prefill,
        };
        let transformer = &model.transformer;
        let entry = circuits[0].entry();
        let mut tap = CircuitTap::new(model, &circuits, length, self.guard().lenient());
        if circuits.iter().all(|circuit| circuit.base.is_some()) {
            let context = transformer.prepare(span)?;
            let x = tap.corrupted(if entry < transformer.blocks.len() {
                Site::ResidPre.at(entry)
            } else {
                Site::ResidPost.at(entry.saturating_sub(1))
            })?;
            transformer.on_thread_pool(|| {
                transformer.through(entry..transformer.blocks.len(), x, &context, None, &mut tap)
            })?;
        } else {
            let tokens = tensor(model, &texts, 0)?;
            transformer.on_thread_pool(|| transformer.trunk(&tokens, span, None, &mut tap))?;
        }
        let x = tap.read_by_logits()?;
        let fine = finite::rows(&x)?;
        let mut stats = Vec::new();
        if !wanted.is_empty() {
            let own = x.narrow(1, wanted.start, wanted.len())?.contiguous()?;
            stats = read_output(model, &own, &mut tap, |i| {
                let (row, at) = (i / wanted.len(), i % wanted.len());
                pass.output.ask(group[row], wanted.len() - 1 - at)
            })?;
        }
        let changes = std::mem::take(&mut tap.rows);
        let mut out = Vec::with_capacity(group.len());
        for (i, (row, state)) in group.iter().zip(changes).enumerate() {
            let own = stats.iter().skip(i * wanted.len()).take(wanted.len());
            let run = Arc::new(own_run(pass, &pass.rows[*row]));
            let kept = state.circuit.keep.then(|| {
                Arc::new(SenderChanges {
                    edges: state.circuit.edges.clone(),
                    by_sender: state.changes,
                })
            });
            out.push(Capture {
                output: own.cloned().collect(),
                broken: !fine[i],
                changes: kept,
                ..Capture::of(run, 0..length)
            });
        }
        Ok(out)
    }
}

fn refused(why: &str) -> Error {
    Error::Refused {
        address: "circuit".into(),
        why: why.into(),
    }
}

/// One row on its way.
struct RowState<'a> {
    circuit: &'a CircuitRow,
    /// What every sender wrote, less what it wrote in the corrupted run, `[tokens, d_model]`; none where that is nothing. What lies
    /// below the first block that differs is that of the run that the row goes on from.
    changes: Vec<Option<Arc<Vec<f32>>>>,
    /// Whether a sender wrote something else than in the run that the row goes on from.
    moved: Vec<bool>,
    /// The sum of the changes of the first so many senders.
    sum: Vec<f32>,
    summed: usize,
}

impl RowState<'_> {
    /// Whether a receiver reads something else than in the run that the row goes on from.
    fn differs(&self, receiver: Receiver) -> bool {
        let circuit = self.circuit;
        circuit.graph.into_receiver(receiver).enumerate().any(|(sender, edge)| {
            let kept = circuit.edges.contains(edge);
            let before = circuit.base.as_ref().is_some_and(|base| base.edges.contains(edge));
            let wrote = self.changes[sender].is_some() || self.moved[sender];
            (kept && self.moved[sender]) || (kept != before && wrote)
        })
    }

    /// Whether a receiver reads of a sender something else than in the corrupted run.
    fn reads_change(&self, receiver: Receiver) -> bool {
        let graph = &self.circuit.graph;
        let kept = self.circuit.edges.senders_of(graph, receiver);
        kept.iter().any(|sender| self.changes[*sender].is_some())
    }

    /// The senders of changes that a receiver keeps, and of those that it does not keep.
    fn parted(&self, receiver: Receiver) -> (Vec<usize>, Vec<usize>) {
        let range = self.circuit.graph.into_receiver(receiver);
        let senders = (0..range.len()).filter(|sender| self.changes[*sender].is_some());
        senders.partition(|sender| self.circuit.edges.contains(range.start + sender))
    }

    /// Brings the sum up to the first so many senders.
    fn sum_up(&mut self, senders: usize) {
        for sender in self.summed..senders {
            if let Some(own) = &self.changes[sender] {
                add(&mut self.sum, own);
            }
        }
        self.summed = self.summed.max(senders);
    }

    /// What a receiver reads, `[tokens, d_model]`: the corrupted stream with the changes that are kept.
    fn mix(&self, receiver: Receiver, corrupted: &[f32], into: &mut [f32]) {
        into.copy_from_slice(corrupted);
        let (kept, gone) = self.parted(receiver);
        let changes = |senders: Vec<usize>| senders.into_iter().filter_map(|s| self.changes[s].as_ref());
        // Of two ways to the same sum the shorter.
        if gone.len() < kept.len() && self.summed == self.circuit.graph.reach(receiver) {
            add(into, &self.sum);
            for change in changes(gone) {
                into.iter_mut().zip(change.iter()).for_each(|(x, y)| *x -= y);
            }
        } else {
            changes(kept).for_each(|change| add(into, change));
        }
    }
}

fn add(into: &mut [f32], x: &[f32]) {
    into.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}

/// The tap of rows under circuits.
struct CircuitTap<'a> {
    model: &'a Model,
    transformer: &'a Transformer,
    graph: CircuitGraph,
    guard: Guard<'a>,
    rows: Vec<RowState<'a>>,
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
    fn new(model: &'a Model, circuits: &[&'a CircuitRow], tokens: usize, guard: Guard<'a>) -> Self {
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
                changes,
                sum: vec![0.0; each],
                summed: 0,
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
    fn corrupted(&self, at: Address) -> Result<Tensor> {
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
                own.map(|job| self.rows[row].parted(job.0))
                    .any(|(kept, gone)| gone.len() < kept.len())
            };
            let dense: Vec<bool> = (0..self.rows.len()).into_par_iter().map(dense).collect();
            let rows = self.rows.par_iter_mut().zip(dense);
            rows.for_each(|(row, dense)| {
                if dense {
                    row.sum_up(reach);
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
                row.mix(*receiver, row.circuit.corrupted.at(corrupted)?, into);
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
                    Projection::Key => {
                        (Receiver::Key { layer, head }, head * group..(head + 1) * group)
                    }
                    Projection::Value => {
                        (Receiver::Value { layer, head }, head * group..(head + 1) * group)
                    }
                };
                for (row, state) in self.rows.iter().enumerate() {
                    // Where nothing is kept that changed, it reads what the corrupted run read.
                    if self.busy[row][heads.clone()].contains(&true)
                        && state.reads_change(receiver)
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
                let y = y.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
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
        let z = z.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
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
            let written = written.flatten_all()?.to_vec1::<f32>()?;
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
        let own = state.changes[sender].as_deref().map(Vec::as_slice);
        let still = change.iter().all(|x| *x == 0.0);
        let same = match own {
            None => still,
            #[allow(clippy::float_cmp)] // the same bits: nothing that reads it has to be computed again
            Some(own) => own == change,
        };
        if !same {
            state.changes[sender] = (!still).then(|| Arc::new(change.to_vec()));
            state.moved[sender] = true;
        }
    }

    /// What the logits read: `[rows, tokens, d_model]`.
    fn read_by_logits(&mut self) -> Result<Tensor> {
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
                let own = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
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
                Ok(own.reshape(x.shape())?)
            }
            Site::MlpAdd => {
                if !self.reading.contains(&true) {
                    return Ok(x);
                }
                let own = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
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
        match at.site {
            Site::Q => {
                self.project(layer)?;
                Ok(self.projected.first().map(|(_, own)| own.clone()))
            }
            Site::K | Site::V => {
                let own = self.projected.iter().find(|(site, _)| *site == at);
                Ok(own.map(|(_, own)| own.clone()))
            }
            // Nobody looks at the stream of the pass itself: it stays that of the corrupted run, which is finite.
            Site::AttnOut => {
                let shape = (self.rows.len(), self.tokens, self.model.card.d_model);
                let (dtype, device) = (self.transformer.dtype(), &self.transformer.device);
                Ok(Some(Tensor::zeros(shape, dtype, device)?))
            }
            Site::MlpOut if !self.reading.contains(&true) => {
                let shape = (self.rows.len(), self.tokens, self.model.card.d_model);
                let (dtype, device) = (self.transformer.dtype(), &self.transformer.device);
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
