//! The blueprint: everything in which families differ, as data.
//!
//! Invariant: the forward pass reads a blueprint, never a family's name. To serve a new difference, add a field here, use it in
//! the one place of the forward pass that it concerns, and set it in a family file.

use super::rope::Rope;

/// The function of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `gain * x / rms(x)`.
    Rms,
    /// `gain * (x - mean) / std + bias`.
    Layer,
    /// `x`: the family has no norm where others have one.
    Identity,
}

/// How a checkpoint stores a norm's gain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// The gain itself.
    Plain,
    /// The gain minus one, as Gemma does.
    OnePlus,
    /// The gain is not stored; it is one.
    None,
}

/// A norm as the family uses it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Which function.
    pub kind: NormKind,
    /// How its gain is stored.
    pub gain: Gain,
    /// Whether a bias is stored (LayerNorm only).
    pub bias: bool,
    /// Added to the mean square or the variance before the root.
    pub epsilon: f64,
}

impl NormSpec {
    /// RMSNorm with a plain gain.
    pub fn rms(epsilon: f64) -> Self {
        Self {
            kind: NormKind::Rms,
            gain: Gain::Plain,
            bias: false,
            epsilon,
        }
    }

    /// LayerNorm with gain and bias.
    pub fn layer(epsilon: f64) -> Self {
        Self {
            kind: NormKind::Layer,
            gain: Gain::Plain,
            bias: true,
            epsilon,
        }
    }

    /// Describes the norm: `RMSNorm`, `LayerNorm (no bias)`, ...
    pub fn describe(&self) -> String {
        let kind = match self.kind {
            NormKind::Rms => "RMSNorm",
            NormKind::Layer => "LayerNorm",
            NormKind::Identity => return "none".into(),
        };
        let gain = match (self.gain, self.kind, self.bias) {
            (Gain::OnePlus, ..) => ", gain stored as an offset from 1",
            (Gain::None, ..) => " without gain and bias",
            (Gain::Plain, NormKind::Layer, false) => " without bias",
            (Gain::Plain, ..) => "",
        };
        format!("{kind}{gain}, epsilon {:e}", self.epsilon)
    }
}

/// The order of sub-layers, norms and additions in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOrder {
    /// `x + f(norm(x))`, attention first: Llama and most others.
    PreNorm,
    /// `x + norm(f(norm(x)))`: Gemma 2 and 3.
    SandwichNorm,
    /// `x + norm(f(x))`: OLMo 2.
    PostNorm,
    /// `norm(x + f(x))`: the 350M OPT. The residual stream is normed after every write.
    NormedStream,
    /// `x + attention(norm_1(x)) + mlp(norm_2(x))`: GPT-NeoX.
    Parallel,
    /// `x + attention(norm(x)) + mlp(norm(x))`: Phi, Cohere.
    ParallelSharedNorm,
}

impl BlockOrder {
    /// Whether attention and MLP read the same residual stream, so that there is no `resid_mid`.
    pub fn is_parallel(self) -> bool {
        matches!(self, Self::Parallel | Self::ParallelSharedNorm)
    }

    /// Whether the MLP has a norm of its own before it.
    pub fn norms_mlp_input(self) -> bool {
        matches!(self, Self::PreNorm | Self::SandwichNorm | Self::Parallel)
    }

    /// Whether a sub-layer's output is normed before it is added to the stream.
    pub fn norms_writes(self) -> bool {
        matches!(self, Self::SandwichNorm | Self::PostNorm)
    }
}

/// The activation of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// Gaussian error linear unit, with the error function.
    Gelu,
    /// GELU in its tanh approximation.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)` squared.
    ReluSquared,
}

/// The shape of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(act(gate(x)) * up(x))`.
    Gated,
    /// `down(act(up(x)))`.
    Plain,
    /// A router chooses among gated MLPs.
    Experts,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many experts a token is sent to.
    pub active: usize,
    /// Neurons of one expert.
    pub width: usize,
    /// Whether the weights of the chosen experts are rescaled to sum to one.
    pub renormalise: bool,
}

/// Which matrices have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // independent facts of a checkpoint, in every combination
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The attention output.
    pub attn_out: bool,
    /// Gate, up and down.
    pub mlp: bool,
    /// The unembedding.
    pub head: bool,
}

impl Biases {
    /// Biases on all matrices of the blocks, or on none.
    pub fn of_blocks(there: bool) -> Self {
        Self {
            qkv: there,
            attn_out: there,
            mlp: there,
            head: false,
        }
    }
}

/// How positions enter the computation.
#[derive(Clone, Debug, PartialEq)]
pub enum PositionEncoding {
    /// Queries and keys are rotated; [`LayerSpec::rope`] chooses one of these rotations.
    Rotary(Vec<Rope>),
    /// A learned vector for each position is added to the embedding; the table starts with `offset` unused rows.
    Learned {
        /// Unused rows before position 0.
        offset: usize,
    },
}

/// The norm of queries and keys, applied before the rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    pub norm: NormSpec,
    /// The dimensions that the norm is taken over.
    pub over: QkNormOver,
}

/// The dimensions that a norm of queries and keys is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNormOver {
    /// Each head separately, with one gain `[head_dim]` for all heads.
    Head,
    /// Each head separately, with a gain `[heads, head_dim]`.
    HeadOwnGain,
    /// All heads together, with a gain `[heads * head_dim]`.
    AllHeads,
}

/// What differs between the layers of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// The index of the layer's rotation; none in layers without one.
    pub rope: Option<usize>,
    /// The attention window: how many positions a query sees, itself included; none for all.
    pub window: Option<usize>,
    /// The shape of the layer's MLP.
    pub mlp: MlpKind,
}

/// Everything the forward pass needs to know about an architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// The family's name, as shown to users.
    pub family: &'static str,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the embedding table. If it is not `d_model`, projections connect the two.
    pub d_embed: usize,
    /// One entry for each block.
    pub layers: Vec<LayerSpec>,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; query head h reads key-value head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of one head; not always `d_model / heads`.
    pub head_dim: usize,
    /// Neurons of a dense (single) MLP.
    pub d_mlp: usize,
    /// The mixture of experts, in layers that have one.
    pub experts: Option<Experts>,
    /// Rows of the unembedding.
    pub vocab: usize,
    /// The longest context the model was made for, in positions.
    pub context: usize,
    /// The order of sub-layers and norms.
    pub arrangement: BlockOrder,
    /// The norms of the blocks and the final one.
    pub norm: NormSpec,
    /// Whether there is a norm before the unembedding.
    pub final_norm: bool,
    /// The norm of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Queries, keys and values are clipped to ± this.
    pub clip_qkv: Option<f64>,
    /// The factor on attention scores before the softmax, usually `1 / sqrt(head_dim)`.
    pub score_scale: f64,
    /// The soft-cap of scores, after the factor: `cap * tanh(score / cap)`.
    pub score_cap: Option<f64>,
    /// The activation of the MLPs.
    pub activation: Activation,
    /// How positions enter.
    pub positions: PositionEncoding,
    /// Which matrices carry a bias.
    pub biases: Biases,
    /// The factor on the embedding.
    pub embed_scale: f64,
    /// The factor on every component output before it is added to the stream.
    pub residual_scale: f64,
    /// The factor on the unembedding's output.
    pub logit_scale: f64,
    /// The soft-cap of logits, after that factor: `cap * tanh(logit / cap)`.
    pub logit_cap: Option<f64>,
    /// Whether the unembedding matrix is the embedding matrix.
    pub tied: bool,
}

impl Blueprint {
    /// The number of weights in the matrices and tables of this shape, without biases and norms.
    pub fn parameters(&self) -> usize {
        let attention = self.d_model * self.head_dim * (2 * self.heads + 2 * self.kv_heads);
        let mlp = |kind: MlpKind| match (kind, self.experts) {
            (MlpKind::Gated, _) => 3 * self.d_model * self.d_mlp,
            (MlpKind::Plain, _) => 2 * self.d_model * self.d_mlp,
            (MlpKind::Experts, Some(e)) => self.d_model * e.count * (3 * e.width + 1),
            (MlpKind::Experts, None) => 0,
        };
        let blocks: usize = self.layers.iter().map(|l| attention + mlp(l.mlp)).sum();
        let positions = match self.positions {
            PositionEncoding::Learned { offset } => (self.context + offset) * self.d_model,
            PositionEncoding::Rotary(_) => 0,
        };
        let tables = self.vocab * self.d_embed * if self.tied { 1 } else { 2 };
        let projections = if self.d_embed == self.d_model {
            0
        } else {
            2 * self.d_embed * self.d_model
        };
        blocks + tables + projections + positions
    }

    /// Gives every layer an MLP of this shape.
    pub fn set_mlp(&mut self, kind: MlpKind) {
        self.layers.iter_mut().for_each(|layer| layer.mlp = kind);
    }

    /// The layers whose neurons can be addressed and attributed to logits: those with a dense MLP, unless the family norms the stream
    /// between components.
    pub fn neuron_layers(&self) -> Vec<usize> {
        if self.arrangement == BlockOrder::NormedStream {
            return Vec::new();
        }
        self.dense_layers()
    }

    /// The layers with a dense MLP, whose neurons can be addressed.
    pub fn dense_layers(&self) -> Vec<usize> {
        (0..self.layers.len())
            .filter(|l| self.layers[*l].mlp != MlpKind::Experts)
            .collect()
    }
}
