//! Integrated gradients of neurons: how much of an answer's probability each neuron of a layer makes at the last position.
//!
//! With `w` the activations of a layer's MLP at the last position of a prompt and `P(x)` the answer's probability when `x`
//! stands in their place, the attribution of neuron `i` is `w_i ∫ ∂P/∂w_i (αw) dα` over 0 to 1 (Dai et al. 2022, 2104.08696,
//! equations 2 and 3, after Sundararajan et al. 2017). All neurons of the layer go from 0 to `w` together, those of other
//! layers and positions follow. The attributions of a layer sum to `P(w) − P(0)` (completeness), to the error of the integral,
//! which is said. Of a difference of two answers it is the difference of their logits that is attributed.
//!
//! Invariant: all of it is measured under the prompt's edits, and nothing is scaled to fit. To add another rule for the
//! points, add a variant of [`IntegralRule`].

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::instruments::neurons::at_position::NeuronsAtPosition;
use crate::instruments::params::choices;
use crate::lab::Lab;
use crate::lab::capture::{Capture, Output};
use crate::lab::gradient::{GradientRequest, Scalar};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::readout::RowStats;
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::model::host::ToHost;
use crate::model::network::site::Site;

choices! {
    /// At which points of `m` equal steps gradients are taken.
    pub enum IntegralRule { Midpoint = "midpoint", Left = "left", Right = "right" }
}

impl IntegralRule {
    /// The share of the activations at step `k` of `0..steps`.
    fn share(self, k: usize, steps: usize) -> f64 {
        let at = match self {
            Self::Midpoint => k as f64 + 0.5,
            Self::Left => k as f64,
            Self::Right => k as f64 + 1.0,
        };
        at / steps as f64
    }
}

/// How the integral is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IntegralSteps {
    /// The number of equal steps; the paper has 20.
    pub steps: usize,
    pub rule: IntegralRule,
}

/// The attributions of a layer's neurons under one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerAttribution {
    pub layer: usize,
    /// `[d_mlp]`, in the unit of the answer's probability.
    pub neurons: Vec<f32>,
    /// `P(w) − P(0)`: what all of the layer's neurons at the last position make together.
    pub whole: f64,
}

impl LayerAttribution {
    /// What the attributions sum to, less what they should.
    pub fn completeness_error(&self) -> f64 {
        self.neurons.iter().map(|x| f64::from(*x)).sum::<f64>() - self.whole
    }
}

/// The attributions of the neurons of these layers at the last position of a run, whose activations are given.
///
/// # Errors
///
/// Those of gradients: what the weights' type does not have, or the memory.
pub fn integrate(
    lab: &mut Lab,
    run: &Run,
    local: &NeuronsAtPosition,
    layers: &[usize],
    target: LogitTarget,
    path: IntegralSteps,
) -> Result<Vec<LayerAttribution>> {
    let wholes = lab.part(0.0..0.05, |lab| wholes(lab, run, local, layers, target))?;
    let count = layers.len().max(1) as f32;
    let mut out = Vec::with_capacity(layers.len());
    for (i, (layer, whole)) in layers.iter().zip(wholes).enumerate() {
        let share = |i: usize| 0.05 + 0.95 * i as f32 / count;
        let neurons = lab.part(share(i)..share(i + 1), |lab| {
            of_layer(lab, run, local, *layer, target, path)
        })?;
        out.push(LayerAttribution {
            layer: *layer,
            neurons,
            whole,
        });
    }
    Ok(out)
}

fn of_layer(
    lab: &mut Lab,
    run: &Run,
    local: &NeuronsAtPosition,
    layer: usize,
    target: LogitTarget,
    path: IntegralSteps,
) -> Result<Vec<f32>> {
    let (at, last) = (Site::MlpAct.at(layer), run.tokens.len() - 1);
    let own = activations(lab, local, layer)?;
    let row = |k: usize| -> Result<PassRow> {
        let part = (&own * path.rule.share(k, path.steps))?;
        Ok(PassRow::patched(vec![Patch::new(at, last, part)]))
    };
    let of = match target.minus {
        None => Scalar::LogProbability(target.token),
        Some(_) => Scalar::Logit(target),
    };
    let read = lab.run(&Pass {
        gradient: Some(GradientRequest {
            each: Vec::new(),
            of,
            after: last,
            from: None,
            at: vec![at],
            positions: vec![last],
        }),
        rows: (0..path.steps).map(row).collect::<Result<_>>()?,
        ..Pass::of(run.clone())
    })?;
    let mut sum = vec![0f64; own.elem_count()];
    for row in &read {
        let gradient = gradient(row, lab)?;
        // The gradient of the probability is that of its logarithm, times itself.
        let factor = match target.minus {
            None => f64::from(gradient.scalar).exp(),
            Some(_) => 1.0,
        };
        let slopes: Vec<f32> = gradient.get(at)?.flatten_all()?.host_vec1()?;
        let terms = sum.iter_mut().zip(slopes);
        terms.for_each(|(sum, slope)| *sum += factor * f64::from(slope));
    }
    let acts = local.layer(layer).map_or(&[][..], |(acts, _)| acts);
    let mean = |(act, sum): (&f32, f64)| (f64::from(*act) * sum / path.steps as f64) as f32;
    Ok(acts.iter().zip(sum).map(mean).collect())
}

fn gradient<'a>(row: &'a Capture, lab: &Lab) -> Result<&'a crate::lab::gradient::Gradient> {
    if row.broken {
        return Err(lab.not_finite("The gradients of a layer's scaled activations are"));
    }
    let own = row.gradient.as_ref();
    own.ok_or_else(|| Error::Engine("a pass without its gradient".into()))
}

/// A layer's activations, `[d_mlp]`.
fn activations(lab: &Lab, local: &NeuronsAtPosition, layer: usize) -> Result<Tensor> {
    let (acts, _) = local
        .layer(layer)
        .ok_or_else(|| lab.model.transformer.no_neurons())?;
    let own = Tensor::new(acts, &Device::Cpu)?;
    Ok(own.on_device(&lab.model.transformer.device)?)
}

/// For every layer, what is lost when all of its neurons at the last position are 0.
fn wholes(
    lab: &mut Lab,
    run: &Run,
    local: &NeuronsAtPosition,
    layers: &[usize],
    target: LogitTarget,
) -> Result<Vec<f64>> {
    let last = run.tokens.len() - 1;
    let mut rows = vec![PassRow::default()];
    for layer in layers {
        let none = activations(lab, local, *layer)?.zeros_like()?;
        rows.push(PassRow::patched(vec![Patch::new(
            Site::MlpAct.at(*layer),
            last,
            none,
        )]));
    }
    let read = lab.run(&Pass {
        rows,
        ..Pass::after(run.clone(), Output::tokens(&target.tokens()))
    })?;
    if read.iter().any(|row| !row.is_finite()) {
        return Err(lab.not_finite("The logits without a layer's neurons are"));
    }
    let value = |stats: &RowStats| match target.minus {
        None => f64::from(stats.token(target.token).logprob).exp(),
        Some(_) => f64::from(target.logit(stats)),
    };
    let mut values = read.iter().map(|row| value(row.last()));
    let whole = values.next().unwrap_or(f64::NAN);
    Ok(values.map(|without| whole - without).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_lie_where_the_rule_says() {
        let of = |rule: IntegralRule| (0..4).map(|k| rule.share(k, 4)).collect::<Vec<f64>>();
        assert_eq!(of(IntegralRule::Midpoint), [0.125, 0.375, 0.625, 0.875]);
        assert_eq!(of(IntegralRule::Left), [0.0, 0.25, 0.5, 0.75]);
        assert_eq!(of(IntegralRule::Right), [0.25, 0.5, 0.75, 1.0]);
    }
}
