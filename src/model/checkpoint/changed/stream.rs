//! Which tensors of a checkpoint write to the residual stream, and what has to be added so that a changed embedding leaves the
//! unembedding alone.
//!
//! Invariant: every matrix, table and bias that the forward pass adds to the stream is listed, under the name that the file has
//! for it, with its shape checked; nothing else is. To serve a family that writes through another tensor, list it in
//! [`StreamTensors::of`]; `tests/it/export_weights.rs` compares the logits of every family.

use super::arithmetic::StreamAxis;
use crate::error::{Error, Result};
use crate::model::checkpoint::assemble::{load_norm, probes};
use crate::model::checkpoint::weights::Weights;
use crate::model::host::ToHost;
use crate::model::network::blueprint::{Blueprint, MlpKind, NormKind, PositionEncoding};
use crate::model::network::families::{Family, MatrixLayout};

/// A part of the model that adds to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamPart {
    /// The embedding, with learned positions.
    Embedding,
    /// Attention of a layer.
    Attention(usize),
    /// The MLP of a layer, or its experts.
    Mlp(usize),
}

impl StreamPart {
    /// `embedding`, `attention 3`, `mlp 3`.
    pub fn label(self) -> String {
        match self {
            Self::Embedding => "embedding".into(),
            Self::Attention(layer) => format!("attention {layer}"),
            Self::Mlp(layer) => format!("mlp {layer}"),
        }
    }
}

/// A tensor that writes to the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTensor {
    /// Its name in the file.
    pub name: String,
    pub part: StreamPart,
    pub axis: StreamAxis,
    /// Whether it is a bias, which has no inputs.
    pub bias: bool,
}

/// What keeps the unembedding as it is when the embedding is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untying {
    /// Nothing: the embedding itself does not write to the stream (a projection after it does).
    NotNeeded,
    /// The file holds a tensor for each.
    BothStored,
    /// The file has one tensor for both, the embedding: the unembedding is added under this name.
    AddUnembedding(String),
    /// The file has one tensor for both, the unembedding, and the changed embedding is added under this name.
    AddEmbedding { stored: String, added: String },
}

/// The tensors that write to the stream.
#[derive(Clone, Debug)]
pub struct StreamTensors {
    pub tensors: Vec<StreamTensor>,
    pub untying: Untying,
}

impl StreamTensors {
    /// Finds them in a file.
    ///
    /// # Errors
    ///
    /// When one is missing, or has another shape.
    pub fn of(family: &Family, b: &Blueprint, weights: &mut Weights) -> Result<Self> {
        let probes = probes(family);
        weights.settle_names(&probes);
        let names = &family.names;
        let mut list = StreamTensorList {
            weights,
            tensors: Vec::new(),
        };
        let embedding = format!("{}.weight", names.embed);
        let untying = if b.d_embed == b.d_model {
            let shape = [b.vocab, b.d_embed];
            let head = list.weights.find(probes.head_prefixes, &probes.head);
            let stored = list.weights.has(&embedding);
            if let (false, true, Some(head)) = (stored, b.tied, &head) {
                let stored = list.weights.stored(head).to_owned();
                let added = list.weights.prefixed(&embedding);
                list.weights.check_shape(&stored, &shape)?;
                Untying::AddEmbedding { stored, added }
            } else {
                let part = StreamPart::Embedding;
                list.add(&embedding, part, StreamAxis::Columns, &shape)?;
                if head.is_some() {
                    Untying::BothStored
                } else {
                    let first = probes.head_prefixes.first().copied();
                    let name = format!("{}{}.weight", first.unwrap_or_default(), names.head);
                    Untying::AddUnembedding(name)
                }
            }
        } else {
            let name = format!("{}.weight", names.project_in);
            let shape = [b.d_model, b.d_embed];
            list.add(&name, StreamPart::Embedding, StreamAxis::Rows, &shape)?;
            Untying::NotNeeded
        };
        if let PositionEncoding::Learned { offset } = b.positions {
            let name = format!("{}.weight", names.positions);
            let shape = [b.context + offset, b.d_model];
            list.add(&name, StreamPart::Embedding, StreamAxis::Columns, &shape)?;
        }
        for layer in 0..b.layers.len() {
            let base = names.block.replace("{}", &layer.to_string());
            let attention = format!("{base}.{}", names.attn_out);
            let heads = b.heads * b.head_dim;
            let part = StreamPart::Attention(layer);
            list.linear(&attention, part, names.layout, (heads, b.d_model))?;
            if b.biases.attn_out {
                list.bias(&attention, part, b.d_model)?;
            }
            let part = StreamPart::Mlp(layer);
            let experts = b
                .experts
                .filter(|_| b.layers[layer].mlp == MlpKind::Experts);
            if let Some(experts) = experts {
                for expert in 0..experts.count {
                    let down = names.experts.down.replace("{}", &expert.to_string());
                    let sizes = (experts.width, b.d_model);
                    list.linear(&format!("{base}.{down}"), part, MatrixLayout::OutIn, sizes)?;
                }
            } else {
                let down = format!("{base}.{}", names.down);
                list.linear(&down, part, names.layout, (b.d_mlp, b.d_model))?;
                if b.biases.mlp {
                    list.bias(&down, part, b.d_model)?;
                }
            }
        }
        Ok(Self {
            tensors: list.tensors,
            untying,
        })
    }
}

/// The tensors found so far.
struct StreamTensorList<'a> {
    weights: &'a mut Weights,
    tensors: Vec<StreamTensor>,
}

impl StreamTensorList<'_> {
    fn add(
        &mut self,
        name: &str,
        part: StreamPart,
        axis: StreamAxis,
        shape: &[usize],
    ) -> Result<()> {
        let full = self.weights.prefixed(name);
        let name = self.weights.stored(&full).to_owned();
        self.weights.check_shape(&name, shape)?;
        self.tensors.push(StreamTensor {
            name,
            part,
            axis,
            bias: shape.len() == 1,
        });
        Ok(())
    }

    fn linear(
        &mut self,
        name: &str,
        part: StreamPart,
        layout: MatrixLayout,
        (input, output): (usize, usize),
    ) -> Result<()> {
        let name = format!("{name}.weight");
        match layout {
            MatrixLayout::OutIn => self.add(&name, part, StreamAxis::Rows, &[output, input]),
            MatrixLayout::InOut => self.add(&name, part, StreamAxis::Columns, &[input, output]),
        }
    }

    fn bias(&mut self, name: &str, part: StreamPart, width: usize) -> Result<()> {
        self.add(&format!("{name}.bias"), part, StreamAxis::Columns, &[width])
    }
}

/// The gain of the norm between a part's output and the stream, `[d_model]`; none where there is no such norm.
///
/// # Errors
///
/// When the tensor is missing, or the norm is no RMSNorm, whose gain alone decides what passes it.
pub fn output_gain(
    family: &Family,
    b: &Blueprint,
    weights: &Weights,
    part: StreamPart,
) -> Result<Option<Vec<f32>>> {
    let names = &family.names;
    let (layer, name) = match part {
        StreamPart::Attention(layer) => (layer, names.norm_attn_out),
        StreamPart::Mlp(layer) => (layer, names.norm_mlp_out),
        StreamPart::Embedding => return Ok(None),
    };
    if !b.arrangement.norms_writes() {
        return Ok(None);
    }
    if b.norm.kind != NormKind::Rms {
        return Err(Error::Config {
            what: "a LayerNorm stands between the components and the stream".into(),
            next: "Keep the edit live: no matrix does the same.".into(),
        });
    }
    let base = names.block.replace("{}", &layer.to_string());
    let norm = load_norm(b.norm, b.d_model, weights, &format!("{base}.{name}"))?;
    Ok(Some(norm.gain.host_vec1()?))
}
