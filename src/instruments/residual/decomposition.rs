//! Splits a component output: attention into heads and the tokens that they read, an MLP into neurons.
//!
//! `attn_add·u = scale·Σ_h z_h·view_h + biases` and `z_h = Σ_j probs[h, i, j]·v_j`, so a head's effect is split exactly by the
//! position that it reads; `mlp_add·u = scale·Σ_i act_i·view_i + biases`. Invariant: pieces and biases sum to the part of
//! [`super::attribution`], and the difference is kept as [`OutputParts::rest`]: rounding, or the change by an edit of the
//! component output itself. To split into something else, write a function that returns [`OutputParts`].

use candle_core::{DType, Tensor};

use super::attribution::{Attribution, LogitPart, edited, rounding, to_host};
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::network::heads::Constants;
use crate::model::network::site::{Address, Site};

/// The effect of a component output in pieces.
#[derive(Clone, Debug)]
pub struct OutputParts {
    /// The part that is split.
    pub part: LogitPart,
    /// `[positions][pieces]`: heads, neurons, or heads by source position (`head * sources + source`).
    pub values: Vec<Vec<f32>>,
    /// The contribution of the biases, at each position.
    pub bias: Vec<f32>,
    /// The part minus pieces and biases, at each position.
    pub rest: Vec<f32>,
    /// Whether the rest includes the change by an edit of the component output, so that it is more than rounding.
    pub edited: bool,
    /// The largest rest that rounding explains.
    pub tolerance: f32,
}

/// The addresses to record for splitting attention outputs; with `sources`, also by the tokens that were read.
pub fn of_attention(layers: &[usize], norms_writes: bool, sources: bool) -> Vec<Address> {
    let mut out = Vec::new();
    for &layer in layers {
        if sources {
            out.extend([Site::AttnProbs.at(layer), Site::V.at(layer)]);
        } else {
            out.push(Site::Z.at(layer));
        }
        if norms_writes {
            out.push(Site::AttnOut.at(layer));
        }
    }
    out
}

/// The addresses to record for splitting MLP outputs.
pub fn of_mlp(layers: &[usize], norms_writes: bool) -> Vec<Address> {
    let mut out = Vec::new();
    for &layer in layers {
        out.push(Site::MlpAct.at(layer));
        if norms_writes {
            out.push(Site::MlpOut.at(layer));
        }
    }
    out
}

/// The recorded values at an attribution's positions, as rows, f32.
fn rows(recording: &Capture, at: Address, whole: &Attribution) -> Result<Tensor> {
    let first = whole.positions.first().copied().unwrap_or(0);
    let rows = recording.get(at)?.narrow(0, first, whole.positions.len())?;
    Ok(rows.to_dtype(DType::F32)?.contiguous()?)
}

impl Attribution {
    /// Splits the attention output of a layer into heads, `[positions][heads]`; `recording` holds [`of_attention`].
    pub fn heads(
        &self,
        lab: &Lab,
        run: &Run,
        recording: &Capture,
        layer: usize,
    ) -> Result<OutputParts> {
        let transformer = &lab.model.transformer;
        let width = transformer.blueprint.head_dim;
        let views = to_host(&transformer.head_views(layer, &self.directions)?)?;
        let z = to_host(&rows(recording, Site::Z.at(layer), self)?.flatten_from(1)?)?;
        let scales = self.attention_scales(lab, recording, layer)?;
        let all = transformer.blueprint.heads * width;
        let values = scales.iter().enumerate().map(|(i, scale)| {
            let (view, z) = (&views[i * all..][..all], &z[i * all..][..all]);
            let heads = view.chunks(width).zip(z.chunks(width));
            heads
                .map(|(view, z)| (dot(view, z) * scale) as f32)
                .collect()
        });
        let values = values.collect();
        let constants = transformer.attention_constants(layer, &self.directions)?;
        let sites = [Site::AttnOut, Site::AttnAdd];
        self.pieces(
            lab,
            run,
            LogitPart::Attention(layer),
            values,
            &constants,
            &scales,
            &sites,
        )
    }

    /// Splits the attention output of a layer at one position (`i`, counted from the first captured one) by head and source
    /// token: one row of `heads * sources`, with sources from position 0 to the position itself. `recording` holds
    /// [`of_attention`] with sources.
    pub fn sources(
        &self,
        lab: &Lab,
        run: &Run,
        recording: &Capture,
        layer: usize,
        i: usize,
    ) -> Result<OutputParts> {
        let transformer = &lab.model.transformer;
        let shape = &transformer.blueprint;
        let (width, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let position = self.positions[i];
        let count = position + 1;
        let views = to_host(&transformer.head_views(layer, &self.directions)?.get(i)?)?;
        let v = recording.get(Site::V.at(layer))?.narrow(0, 0, count)?;
        let v = to_host(&v.contiguous()?)?;
        let probs = recording.get(Site::AttnProbs.at(layer))?;
        let probs = to_host(
            &probs
                .narrow(1, position, 1)?
                .narrow(2, 0, count)?
                .contiguous()?,
        )?;
        let scales = self.attention_scales(lab, recording, layer)?;
        let mut values = Vec::with_capacity(shape.heads * count);
        for head in 0..shape.heads {
            let view = &views[head * width..][..width];
            for source in 0..count {
                let v = &v[(source * shape.kv_heads + head / group) * width..][..width];
                let prob = f64::from(probs[head * count + source]);
                values.push((prob * dot(view, v) * scales[i]) as f32);
            }
        }
        let constants = transformer.attention_constants(layer, &self.directions)?;
        let one = self.at_position(i);
        let constants = Constants {
            scaled: vec![constants.scaled[i]],
            fixed: vec![constants.fixed[i]],
        };
        let sites = [Site::Z, Site::AttnOut, Site::AttnAdd];
        one.pieces(
            lab,
            run,
            LogitPart::Attention(layer),
            vec![values],
            &constants,
            &scales[i..=i],
            &sites,
        )
    }

    /// Splits the MLP output of a layer into neurons, `[positions][d_mlp]`; `recording` holds [`of_mlp`].
    pub fn neurons(
        &self,
        lab: &Lab,
        run: &Run,
        recording: &Capture,
        layer: usize,
    ) -> Result<OutputParts> {
        let transformer = &lab.model.transformer;
        let views = to_host(&transformer.neuron_views(layer, &self.directions)?)?;
        let acts = to_host(&rows(recording, Site::MlpAct.at(layer), self)?)?;
        let width = lab.model.card.d_mlp;
        let scales = if lab.model.card.norms_writes {
            let out = rows(recording, Site::MlpOut.at(layer), self)?.host_vec2::<f32>()?;
            let scale = |row: &Vec<f32>| f64::from(transformer.write_factor(layer, row));
            out.iter().map(scale).collect()
        } else {
            vec![1.0; self.positions.len()]
        };
        let values = scales.iter().enumerate().map(|(i, scale)| {
            let both = acts[i * width..][..width].iter().zip(&views[i * width..]);
            both.map(|(a, v)| (f64::from(*a) * f64::from(*v) * scale) as f32)
                .collect()
        });
        let values = values.collect();
        let constants = transformer.mlp_constants(layer, &self.directions)?;
        let sites = [Site::MlpOut, Site::MlpAdd];
        self.pieces(
            lab,
            run,
            LogitPart::Mlp(layer),
            values,
            &constants,
            &scales,
            &sites,
        )
    }

    /// The pieces at a single position.
    fn at_position(&self, i: usize) -> Self {
        Self {
            positions: vec![self.positions[i]],
            targets: vec![self.targets[i]],
            shares: vec![self.shares[i].clone()],
            logits: vec![self.logits[i]],
            ..self.clone()
        }
    }

    fn attention_scales(&self, lab: &Lab, recording: &Capture, layer: usize) -> Result<Vec<f64>> {
        if !lab.model.card.norms_writes {
            return Ok(vec![1.0; self.positions.len()]);
        }
        let out = rows(recording, Site::AttnOut.at(layer), self)?.host_vec2::<f32>()?;
        let scale = |row: &Vec<f32>| f64::from(lab.model.transformer.attention_scale(layer, row));
        Ok(out.iter().map(scale).collect())
    }

    #[allow(clippy::too_many_arguments)] // the two sides of a sum, and what may have come between
    fn pieces(
        &self,
        lab: &Lab,
        run: &Run,
        part: LogitPart,
        values: Vec<Vec<f32>>,
        constants: &Constants,
        scales: &[f64],
        between: &[Site],
    ) -> Result<OutputParts> {
        let touched = edited(run, lab.model.card.layers)?;
        let layer = part.layer().unwrap_or(0);
        let (mut bias, mut rest, mut mass) = (Vec::new(), Vec::new(), 1f32);
        for (i, row) in values.iter().enumerate() {
            let constant =
                f64::from(constants.scaled[i]) * scales[i] + f64::from(constants.fixed[i]);
            let sum: f64 = row.iter().map(|v| f64::from(*v)).sum();
            bias.push(constant as f32);
            rest.push((f64::from(self.effect(i, part)) - sum - constant) as f32);
            mass = row.iter().map(|v| v.abs()).sum::<f32>().max(mass);
        }
        Ok(OutputParts {
            part,
            values,
            bias,
            rest,
            edited: between.iter().any(|site| touched.contains(&site.at(layer))),
            tolerance: rounding(&lab.model) * mass,
        })
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let both = a.iter().zip(b);
    both.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
