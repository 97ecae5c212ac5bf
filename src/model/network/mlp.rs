//! The MLP of a block, with its neurons as a site; or a mixture of experts: a router gives every token weights, and the outputs
//! of the chosen experts are summed with them.
//!
//! Invariant: where a block has a dense MLP, `mlp_out = Σ_i mlp_act[i] · column_i(down) + bias`. The router's weights are a
//! site, `[tokens, experts]`, zero for experts that were not chosen; the sum uses them as edits leave them. The tokens sent to
//! one expert are multiplied together, so the last bits of a token's result may depend on the other tokens of that expert;
//! everything else about a position depends only on it and the positions before it. (Shazeer et al. 2017, 1701.06538; softmax
//! before the choice as in Mixtral, Jiang et al. 2024, 2401.04088.)
//! To add a kind, add a variant of [`Mlp`]; to add an activation, an arm in [`activate`].

use candle_core::{D, DType, Tensor};

use super::attended::softmax;
use super::blueprint::{Activation, Experts};
use super::linear::Linear;
use super::numbers::{made, on_numbers, plain, wide};
use super::site::Site::{MlpAct, MlpGate, MlpUp, Router};
use super::tap::Tap;
use crate::error::Result;
use crate::model::host::ToHost;
use crate::model::kernels::rows::{Gate, activated};

/// The MLP sub-layer of a block.
#[derive(Clone, Debug)]
pub enum Mlp {
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

    /// The dense MLP, whose neurons can be addressed; none for a mixture of experts.
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
        let (gate, up) = self.read(x)?;
        let gate = match gate {
            Some(gate) => Some(tap.visit(MlpGate.at(layer), gate)?),
            None => None,
        };
        let up = tap.visit(MlpUp.at(layer), up)?;
        let neurons = self.neurons(gate, up)?;
        self.down.forward(&tap.visit(MlpAct.at(layer), neurons)?)
    }

    /// The forward pass of an expert, without sites: `[n, d_model] -> [n, d_model]`.
    pub fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = self.read(x)?;
        self.down.forward(&self.neurons(gate, up)?)
    }

    /// The outputs of the gate, if there is one, and of the up projection.
    fn read(&self, x: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
        let Some(gate) = &self.gate else {
            return Ok((None, self.up.forward(x)?));
        };
        let [gate, up] = Linear::forward_all([gate, &self.up], x)?;
        Ok((Some(gate), up))
    }

    fn neurons(&self, gate: Option<Tensor>, up: Tensor) -> Result<Tensor> {
        let (of, by) = match &gate {
            Some(gate) => (gate, Some(&up)),
            None => (&up, None),
        };
        let followed = of.track_op() || up.track_op();
        if let (Some(kind), true, false) =
            (in_kernels(self.activation), of.device().is_cpu(), followed)
            && of.dtype() == DType::F32
        {
            let (of, by) = (plain(of)?, by.map(plain).transpose()?);
            return made(of.dims(), DType::F32, |y| {
                on_numbers(&of, |x| {
                    if let Some(by) = &by {
                        on_numbers(by, |by| activated(kind, x, Some(by), y))
                    } else {
                        activated(kind, x, None, y);
                        Ok(())
                    }
                })?
            });
        }
        let active = activate(self.activation, of)?;
        Ok(match by {
            Some(by) => (active * by)?,
            None => active,
        })
    }
}

/// Weights of a mixture of experts.
#[derive(Clone, Debug)]
pub struct Mixture {
    /// How many experts there are and are chosen, and how they are weighted.
    pub spec: Experts,
    /// `d_model -> experts`.
    pub router: Linear,
    pub experts: Vec<DenseMlp>,
}

impl Mixture {
    /// `[batch, tokens, d_model] -> [batch, tokens, d_model]`.
    pub fn forward(&self, layer: usize, x: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let (batch, tokens, width) = x.dims3()?;
        let scores = self.router.forward(x)?.to_dtype(wide(x.dtype()))?;
        let weights = self.choose(&scores, tap.differentiable())?;
        let weights = tap.visit(Router.at(layer), weights)?;
        let rows = x.reshape((batch * tokens, width))?;
        let weights = weights.reshape((batch * tokens, self.spec.count))?;
        let values: Vec<Vec<f32>> = weights.to_dtype(DType::F32)?.host_vec2()?;
        let mut sum = rows.zeros_like()?;
        for (e, expert) in self.experts.iter().enumerate() {
            let chosen = (0..values.len()).filter(|row| values[*row][e] != 0.0);
            let visitors: Vec<u32> = chosen.map(|row| row as u32).collect();
            if visitors.is_empty() {
                continue;
            }
            let count = visitors.len();
            let visitors = Tensor::from_vec(visitors, count, x.device())?;
            let weight = weights.narrow(1, e, 1)?.contiguous()?;
            let weight = weight.index_select(&visitors, 0)?.to_dtype(x.dtype())?;
            let out = expert
                .plain(&rows.index_select(&visitors, 0)?)?
                .broadcast_mul(&weight)?;
            sum = sum.index_add(&visitors, &out, 0)?;
        }
        Ok(sum.reshape((batch, tokens, width))?)
    }

    /// Router scores `[batch, tokens, experts]` to weights of the same shape. Ties go to the lower index.
    fn choose(&self, scores: &Tensor, differentiable: bool) -> Result<Tensor> {
        let probs = softmax(scores, differentiable)?;
        let (shape, count) = (probs.dims().to_vec(), self.spec.count);
        let values = probs.flatten_all()?.to_dtype(DType::F32)?;
        let values = values.host_vec1::<f32>()?;
        let mut chosen = vec![0f32; values.len()];
        let rows = values.chunks_exact(count);
        for (row, chosen) in rows.zip(chosen.chunks_exact_mut(count)) {
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            let active = &order[..self.spec.active.min(count)];
            active.iter().for_each(|e| chosen[*e] = 1.0);
        }
        let chosen = Tensor::from_vec(chosen, shape, scores.device())?;
        let chosen = (&probs * chosen.to_dtype(probs.dtype())?)?;
        Ok(if self.spec.renormalise {
            chosen.broadcast_div(&chosen.sum_keepdim(D::Minus1)?)?
        } else {
            chosen
        })
    }
}

/// The kernel for an activation, if there is one.
pub(super) fn in_kernels(kind: Activation) -> Option<Gate> {
    match kind {
        Activation::Silu => Some(Gate::Silu),
        Activation::GeluTanh => Some(Gate::GeluTanh),
        Activation::QuickGelu => Some(Gate::QuickGelu),
        Activation::Gelu | Activation::Relu | Activation::ReluSquared => None,
    }
}

/// Applies an activation; every arm carries gradients.
pub fn activate(kind: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match kind {
        Activation::Silu => x.silu()?,
        // The derivatives that candle has of its own for both forms are good to six digits.
        Activation::Gelu if x.track_op() => {
            let above = ((x / std::f64::consts::SQRT_2)?.erf()? + 1.0)?;
            ((x * above)? * 0.5)?
        }
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh if x.track_op() => {
            let rate = 2.0 * std::f64::consts::FRAC_2_PI.sqrt();
            let inner = (((x.sqr()? * 0.044_715)? + 1.0)? * rate)?;
            (x * candle_nn::ops::sigmoid(&(x * inner)?)?)?
        }
        Activation::GeluTanh => x.gelu()?,
        Activation::QuickGelu => (x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?,
        Activation::Relu => x.relu()?,
        Activation::ReluSquared => x.relu()?.sqr()?,
    })
}
