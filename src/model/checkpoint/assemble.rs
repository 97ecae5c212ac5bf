//! Builds a [`Transformer`] from named tensors: which tensors a blueprint needs, and their names.
//!
//! Invariant: every tensor that the forward pass uses is loaded here, with a check of its shape. To support a checkpoint that
//! stores a matrix differently, add a variant to [`Qkv`] or [`GateUp`].

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::model::checkpoint::unread;
use crate::model::checkpoint::weights::{NameProbes, Weights};
use crate::model::network::attention::AttentionWeights;
use crate::model::network::blueprint::{
    BlockOrder, Blueprint, Experts, Gain, MlpKind, NormSpec, PositionEncoding, QkNormOver,
};
use crate::model::network::families::{Family, GateUp, MatrixLayout, Qkv};
use crate::model::network::linear::Linear;
use crate::model::network::mlp::{DenseMlp, Mixture, Mlp};
use crate::model::network::norm::Norm;
use crate::model::network::placement::{NamedDevice, Placement};
use crate::model::network::readout::StatisticsOn;
use crate::model::network::rope::RopeTable;
use crate::model::network::transformer::{Block, SubNorms, Transformer};

impl Transformer {
    /// Loads every tensor of a family; `context` limits the position tables. Also returns notes for the user on how the file
    /// was read.
    pub fn load(
        family: &Family,
        mut blueprint: Blueprint,
        mut weights: Weights,
        context: usize,
        placement: Placement,
    ) -> Result<(Self, Vec<String>)> {
        let (first, home) = (
            placement.device(0).clone(),
            placement.device(blueprint.layers.len()).clone(),
        );
        weights.device = first.clone();
        let names = &family.names;
        let mut notes = Vec::new();
        let probes = probes(family);
        if let Some((name, stored)) = weights.settle_names(&probes) {
            notes.push(format!(
                "the names of the file's tensors are wrapped: `{}` is read as `{}`.",
                plain(&stored),
                plain(&name)
            ));
        }
        let (embed, head) = load_ends(
            family,
            &mut blueprint,
            &mut weights,
            (&first, &home),
            &probes,
            &mut notes,
        )?;
        let b = &blueprint;
        let projection = |weights: &Weights, name: &str, from: usize, to: usize| {
            (b.d_embed != b.d_model)
                .then(|| weights.linear(name, from, to, MatrixLayout::OutIn, false))
                .transpose()
        };
        let project_in = projection(&weights, names.project_in, b.d_embed, b.d_model)?;
        let positions = match b.positions {
            PositionEncoding::Learned { offset } => Some(weights.get(
                &format!("{}.weight", names.positions),
                &[b.context + offset, b.d_model],
            )?),
            PositionEncoding::Rotary(_) => None,
        };
        let blocks = (0..b.layers.len())
            .map(|layer| {
                weights.device = placement.device(layer).clone();
                load_block(family, b, &weights, layer)
            })
            .collect::<Result<Vec<_>>>()?;
        weights.device = home;
        let project_out = projection(&weights, names.project_out, b.d_model, b.d_embed)?;
        let norm = if b.final_norm {
            load_norm(b.norm, b.d_model, &weights, names.norm_final)?
        } else {
            Norm::identity(b.d_model, &weights.device)?
        };
        let dtype = weights.precision.compute();
        let ropes = |device: &NamedDevice| match &b.positions {
            PositionEncoding::Rotary(ropes) => ropes
                .iter()
                .map(|rope| RopeTable::new(rope, context, dtype, &device.device))
                .collect::<Result<_>>(),
            PositionEncoding::Learned { .. } => Ok(Vec::new()),
        };
        let ropes = placement.devices().iter().map(ropes);
        let ropes = ropes.collect::<Result<_>>()?;
        notes.extend(unread::sentence(&weights.unread(), b.layers.len()));
        let (device, precision) = (weights.device.clone(), weights.precision);
        let damage = weights.damage();
        let statistics = StatisticsOn::of(&device);
        let transformer = Self {
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
            placement,
            precision,
            context,
            damage,
            statistics,
        };
        Ok((transformer, notes))
    }
}

/// The tensor names that every checkpoint of a family has, and the possible names of its unembedding.
pub(super) fn probes(family: &Family) -> NameProbes<'static> {
    let names = &family.names;
    let first_block = names.block.replace("{}", "0");
    let mut head = vec![format!("{}.weight", names.head)];
    if names.head != "lm_head" {
        head.push("lm_head.weight".into());
    }
    NameProbes {
        prefixes: names.prefixes,
        first: vec![
            format!("{}.weight", names.embed),
            format!("{first_block}.{}.weight", names.attn_out),
        ],
        head_prefixes: names.head_prefixes,
        head,
    }
}

/// The embedding and the unembedding. As in transformers 5, a configuration that ties them is trusted unless the file contains
/// both with different numbers; then the file decides, and the blueprint is changed. If one is missing, the other is used for
/// both.
fn load_ends(
    family: &Family,
    b: &mut Blueprint,
    weights: &mut Weights,
    (embed_device, home): (&Device, &Device),
    probes: &NameProbes<'_>,
    notes: &mut Vec<String>,
) -> Result<(Linear, Linear)> {
    weights.device = home.clone();
    let names = &family.names;
    let embedding = format!("{}.weight", names.embed);
    let own = weights.find(probes.head_prefixes, &probes.head);
    let at = |full: &str| full.trim_end_matches(".weight").to_owned();
    let (vocab, width) = (b.vocab, b.d_embed);
    let first = |prefixes: &[&str]| prefixes.first().copied().unwrap_or_default().to_owned();
    let made_up = format!("{}{}.weight", first(probes.head_prefixes), names.head);
    let (embed, mut head) = match (b.tied, own) {
        (false, Some(own)) => (None, unembedding(weights, &own, width, vocab)?),
        (false, None) if weights.is_made_up() => {
            (None, unembedding(weights, &made_up, width, vocab)?)
        }
        (false, None) => return Err(no_head(weights, &made_up)),
        (true, None) => {
            let embed = weights.table(names.embed, vocab, width)?;
            (Some(embed.clone()), embed)
        }
        (true, Some(own)) if !weights.has(&embedding) => {
            let head = unembedding(weights, &own, width, vocab)?;
            (Some(head.clone()), head)
        }
        (true, Some(own)) => {
            let embed = weights.table(names.embed, vocab, width)?;
            if weights.same(&embedding, &own)? {
                (Some(embed.clone()), embed)
            } else {
                b.tied = false;
                notes.push(format!(
                    "config.json ties the unembedding to the embedding, and the file holds another `{}`: it is used, as in transformers 5 (transformers 4 ties).",
                    plain(&own)
                ));
                let head = unembedding(weights, &own, width, vocab)?;
                (Some(embed), head)
            }
        }
    };
    if b.biases.head {
        let biases: Vec<String> = probes
            .head
            .iter()
            .map(|name| format!("{}.bias", at(name)))
            .collect();
        let found = weights.find(probes.head_prefixes, &biases);
        let name = found.unwrap_or_else(|| format!("{}.bias", at(&made_up)));
        head.bias = Some(weights.at_root(|w| w.get(&name, &[vocab]))?);
    }
    weights.device = embed_device.clone();
    let embed = match embed {
        Some(embed) => embed.on(embed_device)?,
        None => weights.table(names.embed, vocab, width)?,
    };
    Ok((embed, head))
}

fn unembedding(weights: &mut Weights, full: &str, width: usize, vocab: usize) -> Result<Linear> {
    let name = full.trim_end_matches(".weight");
    weights.at_root(|w| w.linear(name, width, vocab, MatrixLayout::OutIn, false))
}

/// The error for a file without an unembedding although config.json asks for one.
fn no_head(weights: &Weights, name: &str) -> Error {
    Error::Config {
        what: format!(
            "the unembedding is not tied to the embedding, and the file has no `{name}` (transformers would make one up at random). {}",
            weights.holds(name)
        ),
        next: "If the model uses its embedding for both, set `tie_word_embeddings` to true in config.json; a model for classification or for embeddings does not generate text.".into(),
    }
}

fn plain(name: &str) -> String {
    crate::text::plain(name.as_bytes())
}

/// Loads `{name}.weight` and `{name}.bias`, as far as the family stores them.
pub(super) fn load_norm(
    spec: NormSpec,
    width: usize,
    weights: &Weights,
    name: &str,
) -> Result<Norm> {
    let stored = || weights.f32(&format!("{name}.weight"), &[width]);
    let gain = match spec.gain {
        Gain::Plain => stored()?,
        Gain::OnePlus => (stored()? + 1.0)?,
        Gain::None => Tensor::ones(width, DType::F32, &weights.device)?,
    };
    let bias = spec
        .bias
        .then(|| weights.f32(&format!("{name}.bias"), &[width]))
        .transpose()?;
    Norm::new(spec, gain, bias)
}

fn load_block(family: &Family, b: &Blueprint, weights: &Weights, layer: usize) -> Result<Block> {
    let names = &family.names;
    let base = names.block.replace("{}", &layer.to_string());
    let name = |part: &str| format!("{base}.{part}");
    let sub_norms = |before: &str, after: &str| -> Result<SubNorms> {
        let norm = |there: bool, part: &str| {
            let load = || load_norm(b.norm, b.d_model, weights, &name(part));
            there.then(load).transpose()
        };
        let stream = b.arrangement == BlockOrder::NormedStream;
        Ok(SubNorms {
            input: norm(!stream && b.arrangement != BlockOrder::PostNorm, before)?,
            output: norm(b.arrangement.norms_writes(), after)?,
            stream: norm(stream, before)?,
        })
    };
    let norms_attn = sub_norms(names.norm_attn, names.norm_attn_out)?;
    let norms_mlp = if b.arrangement == BlockOrder::ParallelSharedNorm {
        SubNorms::default()
    } else {
        sub_norms(names.norm_mlp, names.norm_mlp_out)?
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
) -> Result<AttentionWeights> {
    let names = &family.names;
    let name = |part: &str| format!("{base}.{part}");
    let (q_out, kv_out) = (b.heads * b.head_dim, b.kv_heads * b.head_dim);
    let fused = |fused: &str, parts: [Vec<Range<usize>>; 3]| {
        weights.fused(&name(fused), b.d_model, &parts, names.layout, b.biases.qkv)
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
            QkNormOver::Head => load_norm(qk.norm, b.head_dim, weights, &name(part)),
            QkNormOver::AllHeads => load_norm(qk.norm, heads * b.head_dim, weights, &name(part)),
            QkNormOver::HeadOwnGain => head_gains(qk.norm, heads, b.head_dim, weights, &name(part)),
        };
        Ok::<_, Error>((
            load(names.q_norm, b.heads)?,
            load(names.k_norm, b.kv_heads)?,
        ))
    });
    Ok(AttentionWeights {
        q,
        k,
        v,
        out,
        norms: norms.transpose()?,
    })
}

/// A single range of rows.
fn one(rows: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(rows).collect()
}

/// A norm with a separate gain for every head: one tensor `[heads, head_dim]` or, if the name contains `{}`, one tensor for
/// each head.
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
            let [gate, up] =
                weights.fused(&name(whole), b.d_model, &parts, names.layout, b.biases.mlp)?;
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
        weights.linear(&part, input, output, MatrixLayout::OutIn, false)
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
