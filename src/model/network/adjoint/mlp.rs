//! The way back through an MLP.
//!
//! Invariant: the slope of an activation is that of [`activate`], taken by automatic differentiation where the kernels have none: a
//! new activation needs nothing here.

use candle_core::{Tensor, Var};

use super::values::{AdjointTap, Values};
use crate::error::{Error, Result};
use crate::model::kernels::adjoint::{Spread, add, scaled_by};
use crate::model::kernels::rows::{activated, slopes};
use crate::model::network::blueprint::Activation;
use crate::model::network::mlp::{DenseMlp, Mlp, activate, in_kernels};
use crate::model::network::numbers::{on_numbers, plain};
use crate::model::network::site::Site::{MlpAct, MlpGate, MlpUp};

/// An MLP, and by how much its neurons change with what they were computed from.
pub(super) struct MlpAdjoint<'a> {
    mlp: &'a DenseMlp,
    spread: Spread,
    /// The derivative of a neuron by its gate, `[rows, tokens, d_mlp]`; none without gates.
    by_gate: Option<Vec<f32>>,
    /// The derivative of a neuron by the up projection.
    by_up: Vec<f32>,
    width: usize,
}

impl<'a> MlpAdjoint<'a> {
    pub fn new(mlp: &'a Mlp, values: &Values, spread: Spread) -> Result<Self> {
        let mlp = mlp.dense();
        let mlp = mlp.ok_or_else(|| Error::Engine("no way back through experts".into()))?;
        let up = values.get(MlpUp)?;
        let width = up.dim(2)?;
        let (by_gate, by_up) = if mlp.gate.is_some() {
            let gate = values.get(MlpGate)?;
            let slopes = slope(mlp.activation, &gate)?;
            let mut by_gate = vec![0f32; slopes.len()];
            let alone = Spread { each: 1, ..spread };
            on_numbers(&up, |up| {
                scaled_by(up, width, alone, &slopes, &mut by_gate);
            })?;
            (Some(by_gate), active(mlp.activation, &gate)?)
        } else {
            (None, slope(mlp.activation, &up)?)
        };
        Ok(Self {
            mlp,
            spread,
            by_gate,
            by_up,
            width,
        })
    }

    /// From gradients with respect to the output to those with respect to the input, `[.., d_model]`.
    pub fn back(&self, layer: usize, by: Vec<f32>, tap: &mut dyn AdjointTap) -> Result<Vec<f32>> {
        let mut neurons = self.mlp.down.adjoint(&by)?;
        drop(by);
        if tap.wants(MlpAct.at(layer)) {
            tap.visit(MlpAct.at(layer), &mut neurons)?;
        }
        let mut up = vec![0f32; neurons.len()];
        scaled_by(&self.by_up, self.width, self.spread, &neurons, &mut up);
        if tap.wants(MlpUp.at(layer)) {
            tap.visit(MlpUp.at(layer), &mut up)?;
        }
        let mut read = self.mlp.up.adjoint(&up)?;
        if let (Some(gate), Some(by_gate)) = (&self.mlp.gate, &self.by_gate) {
            // The room of the other gradient is used again.
            let mut own = up;
            scaled_by(by_gate, self.width, self.spread, &neurons, &mut own);
            if tap.wants(MlpGate.at(layer)) {
                tap.visit(MlpGate.at(layer), &mut own)?;
            }
            add(&gate.adjoint(&own)?, &mut read);
        }
        Ok(read)
    }
}

/// The activation of every number.
fn active(kind: Activation, x: &Tensor) -> Result<Vec<f32>> {
    let Some(gate) = in_kernels(kind) else {
        return on_numbers(&plain(&activate(kind, x)?)?, <[f32]>::to_vec);
    };
    on_numbers(x, |x| {
        let mut y = vec![0f32; x.len()];
        activated(gate, x, None, &mut y);
        y
    })
}

/// The derivative of an activation at every number.
fn slope(kind: Activation, x: &Tensor) -> Result<Vec<f32>> {
    if let Some(gate) = in_kernels(kind) {
        return on_numbers(x, |x| {
            let mut y = vec![0f32; x.len()];
            slopes(gate, x, &mut y);
            y
        });
    }
    let x = Var::from_tensor(x)?;
    let total = activate(kind, x.as_tensor())?.sum_all()?;
    let slopes = total.backward()?;
    let own = slopes.get(&x).cloned().map_or_else(|| x.zeros_like(), Ok)?;
    on_numbers(&plain(&own)?, <[f32]>::to_vec)
}
