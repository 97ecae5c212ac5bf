//! The MLP of a block, with its neurons as a site.
//!
//! Invariant: `mlp_out = Σ_i mlp_act[i] · column_i(down) + bias`.
//! To add a kind, add an arm in [`Mlp::forward`]; to add an activation, an arm in [`activate`].

use candle_core::Tensor;

use super::blueprint::{Activation, MlpKind};
use super::linear::Linear;
use super::site::Site::{MlpAct, MlpGate, MlpUp};
use super::tap::Tap;
use crate::error::Result;

/// Weights of one MLP.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// Gated or plain.
    pub kind: MlpKind,
    /// The activation.
    pub activation: Activation,
    /// `d_model -> d_mlp`; only gated MLPs have one.
    pub gate: Option<Linear>,
    /// `d_model -> d_mlp`.
    pub up: Linear,
    /// `d_mlp -> d_model`; its columns are the value vectors.
    pub down: Linear,
}

impl Mlp {
    /// `[batch, tokens, d_model] -> [batch, tokens, d_model]`.
    pub fn forward(&self, layer: usize, x: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
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
}

/// Applies an activation; every arm carries gradients.
pub fn activate(kind: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match kind {
        Activation::Silu => x.silu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::Relu => x.relu()?,
    })
}
