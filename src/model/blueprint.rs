//! The blueprint: the axes on which families differ, as data.
//!
//! Invariant: the forward pass reads only a blueprint, never a family's name. To serve a new difference, add a
//! field here, honour it in the one place of the forward pass that it concerns, and set it in a family file.

use super::rope::Rope;

/// Which normalisation the family uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `gain * x / rms(x)`.
    Rms,
    /// `gain * (x - mean) / std + bias`.
    Layer,
}

/// The activation of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// Gaussian error linear unit, with the error function.
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// The shape of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(act(gate(x)) * up(x))`.
    Gated,
    /// `down(act(up(x)))`.
    Plain,
}

/// Which matrices carry a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The attention output.
    pub attn_out: bool,
    /// Gate, up and down.
    pub mlp: bool,
}

/// How positions enter.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rotary(Rope),
    /// A learned vector per position is added to the embedding.
    Learned,
}

/// Everything the forward pass needs to know about an architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// The family's name, for people.
    pub family: &'static str,
    /// Residual width.
    pub d_model: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; query head h reads key-value head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of one head, not always `d_model / heads`.
    pub head_dim: usize,
    /// Neurons in a block.
    pub d_mlp: usize,
    /// Rows of the unembedding.
    pub vocab: usize,
    /// Most positions the model was made for.
    pub context: usize,
    /// Normalisation.
    pub norm: NormKind,
    /// Its epsilon.
    pub epsilon: f64,
    /// Shape of the MLP.
    pub mlp: MlpKind,
    /// Its activation.
    pub activation: Activation,
    /// How positions enter.
    pub positions: Positions,
    /// Which matrices carry a bias.
    pub biases: Biases,
    /// Whether the unembedding is the embedding.
    pub tied: bool,
    /// What attention scores are multiplied by before the softmax, usually `1 / sqrt(head_dim)`.
    pub score_scale: f64,
}

impl Blueprint {
    /// How many weights the matrices and tables of this shape have; biases and norms are left out.
    pub fn parameters(&self) -> usize {
        let attention = self.d_model * self.head_dim * (2 * self.heads + 2 * self.kv_heads);
        let mlp = self.d_model * self.d_mlp * if self.mlp == MlpKind::Gated { 3 } else { 2 };
        let positions = if self.positions == Positions::Learned {
            self.context * self.d_model
        } else {
            0
        };
        let tables = self.vocab * self.d_model * if self.tied { 1 } else { 2 };
        self.layers * (attention + mlp) + tables + positions
    }
}
