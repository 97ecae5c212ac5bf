//! The MLP of a block, with its neurons as a site.
//!
//! Invariant: where a block has one MLP, `mlp_out = Σ_i mlp_act[i] · column_i(down) + bias`.
//! To add a kind, add a variant of [`Mlp`]; to add an activation, an arm in [`activate`].

use candle_core::Tensor;

use super::blueprint::Activation;
use super::experts::Mixture;
use super::linear::Linear;
use super::site::Site::{MlpAct, MlpGate, MlpUp};
use super::tap::Tap;
use crate::error::Result;

/// What stands in the MLP's place.
#[derive(Clone, Debug)]
pub enum Mlp {
    /// One MLP.
    Dense(DenseMlp),
    /// A mixture of experts, whose neurons cannot be addressed.
    Experts(Mixture),
}

impl Mlp {
    /// `[batch, tokens, d_model] -> [batch, tokens, d_model]`.
    pub fn forward(&self, layer: usize, x: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        match self {
            Self::Dense(mlp) => mlp.forward(layer, x, tap),
            Self::Experts(mixture) => mixture.forward(layer, x, tap),
        }
    }

    /// The MLP whose neurons can be addressed; none in a mixture of experts.
    pub fn dense(&self) -> Option<&DenseMlp> {
        match self {
            Self::Dense(mlp) => Some(mlp),
            Self::Experts(_) => None,
        }
    }
}

/// Weights of one MLP.
#[derive(Clone, Debug)]
pub struct DenseMlp {
    /// The activation.
    pub activation: Activation,
    /// `d_model -> d_mlp`; only gated MLPs have one.
    pub gate: Option<Linear>,
    /// `d_model -> d_mlp`.
    pub up: Linear,
    /// `d_mlp -> d_model`; its columns are the value vectors.
    pub down: Linear,
}

impl DenseMlp {
    fn forward(&self, layer: usize, x: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let neurons = match &self.gate {
            Some(gate) => {
                let gate = tap.visit(MlpGate.at(layer), gate.forward(x)?)?;
                let up = tap.visit(MlpUp.at(layer), self.up.forward(x)?)?;
                (activate(self.activation, &gate)? * up)?
            }
            None => activate(
                self.activation,
                &tap.visit(MlpUp.at(layer), self.up.forward(x)?)?,
            )?,
        };
        self.down.forward(&tap.visit(MlpAct.at(layer), neurons)?)
    }

    /// The same without sites, `[n, d_model] -> [n, d_model]`: an expert.
    pub fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let up = self.up.forward(x)?;
        let neurons = match &self.gate {
            Some(gate) => (activate(self.activation, &gate.forward(x)?)? * up)?,
            None => activate(self.activation, &up)?,
        };
        self.down.forward(&neurons)
    }
}

/// Applies an activation; every arm carries gradients.
pub fn activate(kind: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match kind {
        Activation::Silu => x.silu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::QuickGelu => (x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?,
        Activation::Relu => x.relu()?,
        Activation::ReluSquared => x.relu()?.sqr()?,
    })
}
