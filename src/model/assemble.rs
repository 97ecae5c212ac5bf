//! From named tensors to a [`Transformer`]: which tensors a blueprint asks for, and under which names.
//!
//! Invariant: every tensor that the forward pass uses is asked for here, with its shape.
//! To serve a checkpoint that lays a matrix out differently, add a variant to [`Qkv`] or [`GateUp`].

use std::ops::Range;

use super::attention::Attention;
use super::blueprint::{
    Arrangement, Blueprint, Experts, Gain, MlpKind, NormSpec, Positions, QkNormOver,
};
use super::experts::Mixture;
use super::families::{Family, GateUp, Qkv};
use super::linear::Linear;
use super::mlp::{DenseMlp, Mlp};
use super::norm::Norm;
use super::rope::RopeTable;
use super::transformer::{Block, SubNorms, Transformer};
use super::weights::{Layout, Weights};
use crate::error::{Error, Result};

impl Transformer {
    /// Loads every tensor of a family; `context` bounds the position tables.
    pub fn load(
        family: &Family,
        blueprint: Blueprint,
        weights: Weights,
        context: usize,
    ) -> Result<Self> {
        let names = &family.names;
        let weights = weights.under(names.prefixes, &format!("{}.weight", names.embed));
        let b = &blueprint;
        let embed = weights.table(names.embed, b.vocab, b.d_embed)?;
        let projection = |name: &str, from: usize, to: usize| {
            (b.d_embed != b.d_model)
                .then(|| weights.linear(name, from, to, Layout::OutIn, false))
                .transpose()
        };
        let project_in = projection(names.project_in, b.d_embed, b.d_model)?;
        let project_out = projection(names.project_out, b.d_model, b.d_embed)?;
        let positions = match b.positions {
            Positions::Learned { offset } => Some(weights.get(
                &format!("{}.weight", names.positions),
                &[b.context + offset, b.d_model],
            )?),
            Positions::Rotary(_) => None,
        };
        let blocks = (0..b.layers.len())
            .map(|layer| load_block(family, b, &weights, layer))
            .collect::<Result<Vec<_>>>()?;
        let norm = if b.final_norm {
            Norm::load(b.norm, b.d_model, &weights, names.norm_final)?
        } else {
            Norm::identity(b.d_model, &weights.device)?
        };
        let dtype = weights.precision.compute();
        let ropes = match &b.positions {
            Positions::Rotary(ropes) => ropes
                .iter()
                .map(|rope| RopeTable::new(rope, context, dtype, &weights.device))
                .collect::<Result<_>>()?,
            Positions::Learned { .. } => Vec::new(),
        };
        let (device, precision) = (weights.device.clone(), weights.precision);
        let mut damage = weights.damage();
        // A checkpoint may hold a head although the configuration ties it; the configuration decides.
        let head = if b.tied {
            embed.clone()
        } else {
            let outside = weights.under(names.head_prefixes, &format!("{}.weight", names.head));
            let head =
                outside.linear(names.head, b.d_embed, b.vocab, Layout::OutIn, b.biases.head)?;
            damage.extend(outside.damage());
            head
        };
        Ok(Self {
            blueprint,
            embed,
            project_in,
            positions,
            blocks,
            norm,
            project_out,
            head,
            ropes,
            device,
            precision,
            context,
            damage,
        })
    }
}

fn load_block(family: &Family, b: &Blueprint, weights: &Weights, layer: usize) -> Result<Block> {
    let names = &family.names;
    let base = names.block.replace("{}", &layer.to_string());
    let name = |part: &str| format!("{base}.{part}");
    let norm = |part: &str| Norm::load(b.norm, b.d_model, weights, &name(part)).map(Some);
    let none = SubNorms::default;
    let (norms_attn, norms_mlp) = match b.arrangement {
        Arrangement::PreNorm | Arrangement::Parallel => (
            SubNorms {
                input: norm(names.norm_attn)?,
                ..none()
            },
            SubNorms {
                input: norm(names.norm_mlp)?,
                ..none()
            },
        ),
        Arrangement::ParallelSharedNorm => (
            SubNorms {
                input: norm(names.norm_attn)?,
                ..none()
            },
            none(),
        ),
        Arrangement::SandwichNorm => (
            SubNorms {
                input: norm(names.norm_attn)?,
                output: norm(names.norm_attn_out)?,
                ..none()
            },
            SubNorms {
                input: norm(names.norm_mlp)?,
                output: norm(names.norm_mlp_out)?,
                ..none()
            },
        ),
        Arrangement::PostNorm => (
            SubNorms {
                output: norm(names.norm_attn_out)?,
                ..none()
            },
            SubNorms {
                output: norm(names.norm_mlp_out)?,
                ..none()
            },
        ),
        Arrangement::NormedStream => (
            SubNorms {
                stream: norm(names.norm_attn)?,
                ..none()
            },
            SubNorms {
                stream: norm(names.norm_mlp)?,
                ..none()
            },
        ),
    };
    let mlp = match (b.layers[layer].mlp, b.experts) {
        (MlpKind::Experts, Some(experts)) => {
            Mlp::Experts(load_mixture(family, b, experts, weights, &base)?)
        }
        (kind, _) => Mlp::Dense(load_mlp(family, b, kind, weights, &base)?),
    };
    Ok(Block {
        norms_attn,
        attention: load_attention(family, b, weights, &base)?,
        norms_mlp,
        mlp,
    })
}

fn load_attention(
    family: &Family,
    b: &Blueprint,
    weights: &Weights,
    base: &str,
) -> Result<Attention> {
    let names = &family.names;
    let name = |part: &str| format!("{base}.{part}");
    let (q_out, kv_out) = (b.heads * b.head_dim, b.kv_heads * b.head_dim);
    let fused = |fused: &str, parts: [Vec<Range<usize>>; 3]| {
        let loaded = weights.fused(&name(fused), b.d_model, &parts, names.layout, b.biases.qkv)?;
        <[Linear; 3]>::try_from(loaded).map_err(|_| Error::MissingTensor {
            name: name(fused),
            place: "the fused projection".into(),
        })
    };
    let [q, k, v] = match names.qkv {
        Qkv::Split(q, k, v) => {
            let part = |part: &str, out: usize| {
                weights.linear(&name(part), b.d_model, out, names.layout, b.biases.qkv)
            };
            [part(q, q_out)?, part(k, kv_out)?, part(v, kv_out)?]
        }
        Qkv::Fused(whole) => {
            let (k, v) = (q_out + kv_out, q_out + 2 * kv_out);
            fused(whole, [one(0..q_out), one(q_out..k), one(k..v)])?
        }
        Qkv::FusedByHead(whole) => {
            let part = |i: usize| {
                let start = |head: usize| (3 * head + i) * b.head_dim;
                (0..b.heads)
                    .map(|h| start(h)..start(h) + b.head_dim)
                    .collect::<Vec<_>>()
            };
            fused(whole, [part(0), part(1), part(2)])?
        }
    };
    let out = weights.linear(
        &name(names.attn_out),
        q_out,
        b.d_model,
        names.layout,
        b.biases.attn_out,
    )?;
    let norms = b.qk_norm.map(|qk| {
        let load = |part: &str, heads: usize| match qk.over {
            QkNormOver::Head => Norm::load(qk.norm, b.head_dim, weights, &name(part)),
            QkNormOver::AllHeads => Norm::load(qk.norm, heads * b.head_dim, weights, &name(part)),
            QkNormOver::HeadOwnGain => head_gains(qk.norm, heads, b.head_dim, weights, &name(part)),
        };
        Ok::<_, Error>((
            load(names.q_norm, b.heads)?,
            load(names.k_norm, b.kv_heads)?,
        ))
    });
    Ok(Attention {
        q,
        k,
        v,
        out,
        norms: norms.transpose()?,
    })
}

/// Rows that lie together.
fn one(rows: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(rows).collect()
}

/// A norm with a gain of its own for every head: one tensor `[heads, head_dim]`, or where the name has a `{}`, one
/// tensor a head.
fn head_gains(
    spec: NormSpec,
    heads: usize,
    head_dim: usize,
    weights: &Weights,
    name: &str,
) -> Result<Norm> {
    debug_assert!(spec.gain == Gain::Plain && !spec.bias);
    let gain = if name.contains("{}") {
        let one = |h: usize| {
            let name = format!("{}.weight", name.replace("{}", &h.to_string()));
            weights.f32(&name, &[head_dim])
        };
        let gains = (0..heads).map(one).collect::<Result<Vec<_>>>()?;
        candle_core::Tensor::cat(&gains, 0)?
    } else {
        weights
            .f32(&format!("{name}.weight"), &[heads, head_dim])?
            .flatten_all()?
    };
    Norm::new(spec, gain, None)
}

fn load_mlp(
    family: &Family,
    b: &Blueprint,
    kind: MlpKind,
    weights: &Weights,
    base: &str,
) -> Result<DenseMlp> {
    let names = &family.names;
    let name = |part: &str| format!("{base}.{part}");
    let into =
        |part: &str| weights.linear(&name(part), b.d_model, b.d_mlp, names.layout, b.biases.mlp);
    let (gate, up) = match (kind, names.gate_up) {
        (MlpKind::Plain, GateUp::Split { up, .. } | GateUp::Fused(up)) => (None, into(up)?),
        (_, GateUp::Split { gate, up }) => (Some(into(gate)?), into(up)?),
        (_, GateUp::Fused(whole)) => {
            let parts = [one(0..b.d_mlp), one(b.d_mlp..2 * b.d_mlp)];
            let loaded =
                weights.fused(&name(whole), b.d_model, &parts, names.layout, b.biases.mlp)?;
            let [gate, up] = <[Linear; 2]>::try_from(loaded).map_err(|_| Error::MissingTensor {
                name: name(whole),
                place: "the fused projection".into(),
            })?;
            (Some(gate), up)
        }
    };
    let down = weights.linear(
        &name(names.down),
        b.d_mlp,
        b.d_model,
        names.layout,
        b.biases.mlp,
    )?;
    Ok(DenseMlp {
        activation: b.activation,
        gate,
        up,
        down,
    })
}

fn load_mixture(
    family: &Family,
    b: &Blueprint,
    experts: Experts,
    weights: &Weights,
    base: &str,
) -> Result<Mixture> {
    let names = &family.names.experts;
    let plain = |part: String, input: usize, output: usize| {
        weights.linear(&part, input, output, Layout::OutIn, false)
    };
    let expert = |e: usize| {
        let name = |part: &str| format!("{base}.{}", part.replace("{}", &e.to_string()));
        Ok(DenseMlp {
            activation: b.activation,
            gate: Some(plain(name(names.gate), b.d_model, experts.width)?),
            up: plain(name(names.up), b.d_model, experts.width)?,
            down: plain(name(names.down), experts.width, b.d_model)?,
        })
    };
    Ok(Mixture {
        spec: experts,
        router: plain(format!("{base}.{}", names.router), b.d_model, experts.count)?,
        experts: (0..experts.count).map(expert).collect::<Result<_>>()?,
    })
}
