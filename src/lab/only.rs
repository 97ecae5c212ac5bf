//! The edit `only`: a circuit alone is left of the model, and everything else has its mean (Wang et al. 2022, 2211.00593, section 3.1).
//!
//! Every receiver reads the means of all senders, with what those write less their means from which the circuit keeps an edge to it;
//! the norm before it sees that mixture. All of it is of one position: texts are read whole or token by token alike, and other positions of
//! a pass keep their bits. The pass's own residual stream is what the logits read, so that a lens on it ends in the model's own output.
//! Invariant: at strength 1 with all edges every value is that of the unedited run, to rounding. To let an edit act under a circuit that is
//! refused, see [`refused_beside`].

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::circuit::graph::{Receiver, Sender};
use super::circuit::means::MeanCircuit;
use super::circuit::mixed::{MixedStreams, add};
use super::formulas::moved;
use crate::edit::Edit;
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::memory;
use crate::model::network::receivers::Projection;
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::PassSpan;
use crate::model::network::transformer::Transformer;
use crate::text::size;

/// A circuit in force.
#[derive(Clone, Debug)]
pub(crate) struct OnlyCircuit {
    circuit: MeanCircuit,
    /// How far everything outside the circuit is moved to its mean: 1 is all the way.
    strength: f32,
    /// The edit that it comes from; none for a row of a pass that runs under a circuit.
    pub(crate) rule: Option<CircuitRule>,
    /// By sender, whether any receiver keeps an edge from it.
    used: Vec<bool>,
    pass: Option<PassUnder>,
}

/// The edit of a circuit in force.
#[derive(Clone, Debug)]
pub(crate) struct CircuitRule {
    pub(crate) edit: Edit,
    pub(crate) receipt: usize,
    /// Where it is in force.
    pub(crate) span: Range<usize>,
    /// The index of its condition.
    pub(crate) watch: Option<usize>,
}

/// The covered lines of a pass on their way up.
#[derive(Clone, Debug)]
struct PassUnder {
    /// Which lines of `[rows * tokens, width]` are covered.
    lines: Vec<usize>,
    /// Their positions.
    positions: Vec<usize>,
    /// What senders write there, less their means.
    mixed: MixedStreams,
    /// All that senders write, `[lines, d_model]`: the stream that receivers would read without the circuit.
    whole: Vec<f32>,
    /// What attention added that the MLP of the same block does not read.
    beside: Vec<f32>,
}

impl PassUnder {
    /// The covered lines of a value, f32.
    fn pick(&self, x: &Tensor) -> Result<(Vec<f32>, usize)> {
        let rows = x.dim(0)? * x.dim(1)?;
        let all = x.to_dtype(DType::F32)?.flatten_all()?.host_vec1::<f32>()?;
        let width = all.len() / rows.max(1);
        let mut own = Vec::with_capacity(self.lines.len() * width);
        for line in &self.lines {
            own.extend_from_slice(&all[line * width..][..width]);
        }
        Ok((own, width))
    }

    /// The value with other covered lines.
    fn put(&self, x: &Tensor, lines: &[f32]) -> Result<Tensor> {
        let width = lines.len() / self.lines.len().max(1);
        let mut all = x.to_dtype(DType::F32)?.flatten_all()?.host_vec1::<f32>()?;
        for (line, own) in self.lines.iter().zip(lines.chunks_exact(width.max(1))) {
            all[line * width..][..width].copy_from_slice(own);
        }
        Ok(Tensor::from_vec(all, x.shape(), x.device())?.to_dtype(x.dtype())?)
    }
}

impl OnlyCircuit {
    pub(crate) fn new(circuit: MeanCircuit, strength: f32, rule: Option<CircuitRule>) -> Self {
        let graph = circuit.streams.graph;
        let mut used = vec![false; graph.senders()];
        for edge in circuit.edges.iter() {
            used[graph.sender_number(graph.ends(edge).0)] = true;
        }
        Self {
            circuit,
            strength,
            rule,
            used,
            pass: None,
        }
    }

    /// Whether it reads or changes the value at an address.
    pub(crate) fn visits(&self, at: Address) -> bool {
        let last = usize::from(at.layer) + 1 == self.circuit.streams.graph.layers;
        match at.site {
            Site::Embed
            | Site::Q
            | Site::K
            | Site::V
            | Site::Z
            | Site::AttnAdd
            | Site::MlpIn
            | Site::MlpAdd => true,
            Site::ResidPost => last,
            Site::ResidPre
            | Site::AttnIn
            | Site::AttnScores
            | Site::AttnProbs
            | Site::AttnOut
            | Site::ResidMid
            | Site::MlpNormed
            | Site::MlpGate
            | Site::MlpUp
            | Site::MlpAct
            | Site::Router
            | Site::MlpOut
            | Site::FinalNorm
            | Site::LogitsRaw
            | Site::Logits => false,
        }
    }

    /// Whether it covers any position of the pass.
    pub(crate) fn is_at_work(&self) -> bool {
        self.pass.is_some()
    }

    /// Prepares for another pass.
    pub(crate) fn begin(&mut self) {
        self.pass = None;
    }

    /// Begins with what the embedding writes, `[rows, tokens, d_model]`, at the lines that are covered. Returns what the logits read of it.
    pub(crate) fn enter(&mut self, x: &Tensor, covered: &[bool], span: PassSpan) -> Result<Tensor> {
        let tokens = x.dim(1)?.max(1);
        let flags = covered.iter().enumerate();
        let lines: Vec<usize> = flags.filter(|(_, own)| **own).map(|(i, _)| i).collect();
        if lines.is_empty() {
            return Ok(x.clone());
        }
        let positions = lines.iter().map(|line| span.start + line % tokens);
        let each = lines.len() * x.dim(2)?;
        self.check_memory(lines.len(), each)?;
        let mut pass = PassUnder {
            positions: positions.collect(),
            mixed: MixedStreams::new(vec![None; self.circuit.streams.graph.senders()], each),
            whole: vec![0.0; each],
            beside: Vec::new(),
            lines,
        };
        let (own, _) = pass.pick(x)?;
        pass.whole.copy_from_slice(&own);
        let left = self.take(&mut pass, Sender::Embedding, &own);
        let out = pass.put(x, &left)?;
        self.pass = Some(pass);
        Ok(out)
    }

    /// Refuses so many positions, of `each` numbers together, if what all senders write there does not fit into memory.
    fn check_memory(&self, lines: usize, each: usize) -> Result<()> {
        let kept = self.used.iter().filter(|used| **used).count();
        let need = (4 * each * kept) as u64;
        match memory::available(&Device::Cpu) {
            Some(free) if need > free => Err(Error::TooLarge {
                name: format!("What {kept} heads and MLPs of a circuit write at {lines} positions"),
                need: size(need),
                free: size(free),
                next: "Give a shorter text, or switch the edit on after the prompt, from now"
                    .into(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// What receivers read in place of the pass's own stream: replaces queries, keys, values and inputs of MLPs. `into` gets how far each
    /// was moved, by position.
    pub(crate) fn read(
        &mut self,
        transformer: &Transformer,
        at: Address,
        x: Tensor,
        into: &mut Vec<(usize, f64)>,
    ) -> Result<Tensor> {
        let layer = usize::from(at.layer);
        let graph = self.circuit.streams.graph;
        let Some(pass) = &mut self.pass else {
            return Ok(x);
        };
        let (of, receivers): (_, Vec<Receiver>) = match at.site {
            Site::Q => (
                Some(Projection::Query),
                (0..graph.heads)
                    .map(|head| Receiver::Query { layer, head })
                    .collect(),
            ),
            Site::K => (
                Some(Projection::Key),
                (0..graph.kv_heads)
                    .map(|head| Receiver::Key { layer, head })
                    .collect(),
            ),
            Site::V => (
                Some(Projection::Value),
                (0..graph.kv_heads)
                    .map(|head| Receiver::Value { layer, head })
                    .collect(),
            ),
            Site::MlpIn => (None, vec![Receiver::Mlp { layer }]),
            Site::Embed
            | Site::ResidPre
            | Site::AttnIn
            | Site::AttnScores
            | Site::AttnProbs
            | Site::Z
            | Site::AttnOut
            | Site::AttnAdd
            | Site::ResidMid
            | Site::MlpNormed
            | Site::MlpGate
            | Site::MlpUp
            | Site::MlpAct
            | Site::Router
            | Site::MlpOut
            | Site::MlpAdd
            | Site::ResidPost
            | Site::FinalNorm
            | Site::LogitsRaw
            | Site::Logits => return Ok(x),
        };
        let d = transformer.blueprint.d_model;
        let count = pass.lines.len();
        let streams = streams(&self.circuit, self.strength, pass, &receivers, d, into);
        let rows = Tensor::from_vec(streams, (receivers.len() * count, d), x.device())?;
        let rows = rows.to_dtype(transformer.dtype())?;
        let norm = match of {
            Some(_) => transformer.attention_norm(layer),
            None => transformer.mlp_norm(layer),
        };
        let rows = match norm {
            Some(norm) => norm.forward(&rows, false)?,
            None => rows,
        };
        let Some(of) = of else {
            let own = rows
                .to_dtype(DType::F32)?
                .flatten_all()?
                .host_vec1::<f32>()?;
            return pass.put(&x, &own);
        };
        let width = transformer.blueprint.head_dim;
        let line = receivers.len() * width;
        let mut own = vec![0f32; count * line];
        for head in 0..receivers.len() {
            let read = rows.narrow(0, head * count, count)?;
            let made = transformer.projected_head(layer, of, head, &read)?;
            let made = made
                .to_dtype(DType::F32)?
                .flatten_all()?
                .host_vec1::<f32>()?;
            for (into, made) in own.chunks_exact_mut(line).zip(made.chunks_exact(width)) {
                into[head * width..][..width].copy_from_slice(made);
            }
        }
        pass.put(&x, &own)
    }

    /// Takes what senders write, after everything else has acted on it, and leaves in its place what the logits read of it. `into` gets how
    /// far what the logits read was moved in the end, by position.
    pub(crate) fn write(
        &mut self,
        transformer: &Transformer,
        at: Address,
        x: Tensor,
        into: &mut Vec<(usize, f64)>,
    ) -> Result<Tensor> {
        let Some(mut pass) = self.pass.take() else {
            return Ok(x);
        };
        let layer = usize::from(at.layer);
        let graph = self.circuit.streams.graph;
        let out = match at.site {
            Site::Z => {
                self.take_heads(transformer, &mut pass, layer, &x)?;
                x
            }
            Site::AttnAdd => {
                let (own, _) = pass.pick(&x)?;
                let left = self.of_heads(&pass, layer, &own);
                if graph.parallel {
                    pass.beside.clone_from(&own);
                } else {
                    add(&mut pass.whole, &own);
                }
                pass.put(&x, &left)?
            }
            Site::MlpAdd => {
                let (own, _) = pass.pick(&x)?;
                let beside = std::mem::take(&mut pass.beside);
                add(&mut pass.whole, &beside);
                add(&mut pass.whole, &own);
                let left = self.take(&mut pass, Sender::Mlp { layer }, &own);
                pass.put(&x, &left)?
            }
            Site::ResidPost => {
                let (own, d) = pass.pick(&x)?;
                let lines = own.chunks_exact(d).zip(pass.whole.chunks_exact(d));
                let moves = lines.map(|(own, whole)| moved(whole, own));
                into.extend(pass.positions.iter().copied().zip(moves));
                x
            }
            Site::Embed
            | Site::ResidPre
            | Site::AttnIn
            | Site::Q
            | Site::K
            | Site::V
            | Site::AttnScores
            | Site::AttnProbs
            | Site::AttnOut
            | Site::ResidMid
            | Site::MlpNormed
            | Site::MlpIn
            | Site::MlpGate
            | Site::MlpUp
            | Site::MlpAct
            | Site::Router
            | Site::MlpOut
            | Site::FinalNorm
            | Site::LogitsRaw
            | Site::Logits => x,
        };
        self.pass = Some(pass);
        Ok(out)
    }

    /// Whether the logits keep an edge from a sender.
    fn logits_keep(&self, sender: Sender) -> bool {
        let edge = self.circuit.streams.graph.edge(sender, Receiver::Logits);
        edge.is_some_and(|edge| self.circuit.edges.contains(edge))
    }

    /// Takes what a sender writes, `[lines, d_model]`; what the logits read of it.
    fn take(&self, pass: &mut PassUnder, sender: Sender, own: &[f32]) -> Vec<f32> {
        let streams = &self.circuit.streams;
        let number = streams.graph.sender_number(sender);
        let d = own.len() / pass.lines.len().max(1);
        let kept = self.logits_keep(sender);
        let mut left = own.to_vec();
        let mut change = own.to_vec();
        let lines = change.chunks_exact_mut(d).zip(left.chunks_exact_mut(d));
        for ((change, left), position) in lines.zip(&pass.positions) {
            let mean = streams.of_sender(number, *position);
            for ((change, left), mean) in change.iter_mut().zip(left).zip(mean) {
                *change -= mean;
                if !kept {
                    *left -= self.strength * *change;
                }
            }
        }
        if self.used[number] {
            pass.mixed.changes[number] = Some(Arc::new(change));
        }
        left
    }

    /// Takes what the heads of a block write, from `z`, `[rows, tokens, heads, head_dim]`: of those that the circuit keeps an edge from.
    fn take_heads(
        &self,
        transformer: &Transformer,
        pass: &mut PassUnder,
        layer: usize,
        z: &Tensor,
    ) -> Result<()> {
        let streams = &self.circuit.streams;
        let number = |head: usize| streams.graph.sender_number(Sender::Head { layer, head });
        let heads: Vec<usize> = (0..streams.graph.heads)
            .filter(|head| self.used[number(*head)])
            .collect();
        if heads.is_empty() {
            return Ok(());
        }
        let (z, _) = pass.pick(z)?;
        let written = transformer.head_products(layer, &heads, &z)?;
        let written = written
            .to_dtype(DType::F32)?
            .flatten_all()?
            .host_vec1::<f32>()?;
        let d = transformer.blueprint.d_model;
        let scale = transformer.blueprint.residual_scale as f32;
        let each = pass.lines.len() * d;
        for (head, written) in heads.iter().zip(written.chunks_exact(each)) {
            let mut change = written.to_vec();
            for (change, position) in change.chunks_exact_mut(d).zip(&pass.positions) {
                let mean = streams.of_sender(number(*head), *position);
                let both = change.iter_mut().zip(mean);
                both.for_each(|(x, mean)| *x = *x * scale - mean);
            }
            pass.mixed.changes[number(*head)] = Some(Arc::new(change));
        }
        Ok(())
    }

    /// What the logits read of what attention adds in a block, `[lines, d_model]`.
    fn of_heads(&self, pass: &PassUnder, layer: usize, own: &[f32]) -> Vec<f32> {
        let streams = &self.circuit.streams;
        let graph = &streams.graph;
        let mut left = Vec::with_capacity(own.len());
        for position in &pass.positions {
            left.extend(streams.of_attention(layer, *position));
        }
        for head in 0..graph.heads {
            let sender = Sender::Head { layer, head };
            let change = &pass.mixed.changes[graph.sender_number(sender)];
            if let Some(change) = change
                && self.logits_keep(sender)
            {
                add(&mut left, change);
            }
        }
        towards(&mut left, own, self.strength);
        left
    }
}

/// What receivers of one reach read, `[receivers * lines, d_model]`.
fn streams(
    circuit: &MeanCircuit,
    strength: f32,
    pass: &mut PassUnder,
    receivers: &[Receiver],
    d: usize,
    into: &mut Vec<(usize, f64)>,
) -> Vec<f32> {
    let means = &circuit.streams;
    let graph = &means.graph;
    let Some(first) = receivers.first() else {
        return Vec::new();
    };
    let base = pass.positions.iter();
    let base: Vec<f32> = base
        .flat_map(|position| means.of_receiver(*first, *position))
        .copied()
        .collect();
    pass.mixed.sum_up(graph.reach(*first));
    let each = base.len();
    let mut out = vec![0f32; receivers.len() * each];
    let moves: Vec<Vec<f64>> = out
        .par_chunks_exact_mut(each.max(1))
        .zip(receivers)
        .map(|(own, receiver)| {
            pass.mixed.mix(graph, &circuit.edges, *receiver, &base, own);
            towards(own, &pass.whole, strength);
            let lines = own.chunks_exact(d).zip(pass.whole.chunks_exact(d));
            lines.map(|(own, whole)| moved(whole, own)).collect()
        })
        .collect();
    for moves in moves {
        into.extend(pass.positions.iter().copied().zip(moves));
    }
    out
}

/// Numbers that are only so far on the way from others to these.
fn towards(own: &mut [f32], from: &[f32], strength: f32) {
    #[allow(clippy::float_cmp)] // all the way is exactly one
    if strength == 1.0 {
        return;
    }
    for (own, from) in own.iter_mut().zip(from) {
        *own = from + strength * (*own - from);
    }
}

/// Why a value cannot be edited, patched or recorded under a circuit; none where it can.
pub(crate) fn refused_beside(site: Site) -> Option<&'static str> {
    match site {
        Site::ResidPre | Site::ResidMid | Site::ResidPost => Some(
            "under `only` every receiver reads a stream of its own, so that there is no residual stream that all of them would see changed. Use embed, q, k, v, z, mlp_in, mlp_act, mlp_out, mlp_add or final_norm.",
        ),
        Site::AttnIn | Site::MlpNormed => Some(
            "under `only` every head reads a stream of its own, and this value is read by none. Use q, k, v or mlp_in.",
        ),
        Site::AttnOut | Site::AttnAdd => Some(
            "under `only` heads write one by one, each to some receivers. Use z, which is what each head writes before the output projection.",
        ),
        Site::Embed
        | Site::Q
        | Site::K
        | Site::V
        | Site::AttnScores
        | Site::AttnProbs
        | Site::Z
        | Site::MlpIn
        | Site::MlpGate
        | Site::MlpUp
        | Site::MlpAct
        | Site::Router
        | Site::MlpOut
        | Site::MlpAdd
        | Site::FinalNorm
        | Site::LogitsRaw
        | Site::Logits => None,
    }
}
