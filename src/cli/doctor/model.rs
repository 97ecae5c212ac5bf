//! How the engine understands a model: everything in which families differ, with its numbers.
//!
//! Invariant: the facts are read from the [`Blueprint`] and the loaded tensors that the forward pass itself uses, so that they
//! cannot differ from what is computed. To add a fact, add a row in [`facts`].

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::machine::present;
use crate::model::Model;
use crate::model::memory::available;
use crate::model::network::blueprint::{
    Activation, Biases, BlockOrder, Blueprint, LayerSpec, MlpKind, PositionEncoding, QkNormOver,
};
use crate::model::network::families::FAMILIES;
use crate::model::network::rope::{Rope, RopeScaling};
use crate::model::tokenizer::Tokenizer;
use crate::text::size;

/// The facts, by name.
pub(super) fn facts(model: &Model) -> Vec<(&'static str, String)> {
    let (b, card) = (&model.transformer.blueprint, &model.card);
    let differs = FAMILIES.iter().find(|f| f.name == b.family);
    let parameters = card.parameters;
    let heads = format!(
        "{}, key-value heads {}, head_dim {}",
        b.heads, b.kv_heads, b.head_dim
    );
    let capped =
        |scale: f64, cap: Option<f64>| format!("x {}, soft-cap {}", round(scale), or_none(cap));
    let (known, longest) = (model.known_tokens(), b.context);
    let (kept, active) = (&card.dtype, model.transformer.dtype().as_str());
    let chat = if card.chat { "yes" } else { "none" };
    let mut facts = vec![
        ("model", card.name.clone()),
        ("family", b.family.to_string()),
        ("differs", differs.map_or("", |f| f.differs).to_string()),
        ("parameters", format!("{parameters} in matrices and tables")),
        ("layers", b.layers.len().to_string()),
        ("width", width(b)),
        ("heads", heads),
        ("MLP", mlp(b)),
        ("arrangement", arrangement(b.arrangement).into()),
        ("norm", norm(b)),
        ("q/k norm", qk_norm(b)),
        ("q/k/v clip", or_none(b.clip_qkv)),
    ];
    facts.extend(positions(b));
    facts.push(("windows", windows(&b.layers)));
    facts.extend([
        ("scores", capped(b.score_scale, b.score_cap)),
        ("embedding", format!("x {}", round(b.embed_scale))),
        ("added outputs", format!("x {}", round(b.residual_scale))),
        ("logits", capped(b.logit_scale, b.logit_cap)),
        ("head", if b.tied { "tied to the embedding" } else { "its own matrix" }.into()),
        ("biases", biases(b.biases)),
        ("vocabulary", format!("{} rows, {known} tokens known", b.vocab)),
        ("context", format!("{} of the {longest} it was made for", card.context)),
        ("tokenizer", tokenizer(model)),
        ("chat template", chat.into()),
        ("dtype", format!("matrices kept in {kept}, activations in {active}, norms and softmax in f32")),
        ("weights", weights(model)),
        ("device", card.device.clone()),
        (
            "attention",
            "scores, mask and softmax step by step, in f32; the same computation with and without recording".into(),
        ),
        ("memory", memory(model)),
        ("fingerprint", card.revision.clone()),
    ]);
    if !model.notes.is_empty() {
        facts.push(("notes", model.notes.join(" ")));
    }
    facts
}

/// The facts that are numbers, for scripts.
pub(super) fn numbers(model: &Model) -> Value {
    let (b, card, need) = (&model.transformer.blueprint, &model.card, &model.need);
    json!({
        "family": b.family, "revision": card.revision, "parameters": card.parameters, "layers": b.layers.len(),
        "d_model": b.d_model, "d_embed": b.d_embed, "heads": b.heads, "kv_heads": b.kv_heads, "head_dim": b.head_dim,
        "d_mlp": b.d_mlp, "experts": b.experts.map(|e| json!({"count": e.count, "active": e.active, "width": e.width})),
        "windows": b.layers.iter().map(|layer| layer.window).collect::<Vec<_>>(),
        "score_scale": b.score_scale, "score_cap": b.score_cap, "embed_scale": b.embed_scale,
        "residual_scale": b.residual_scale, "logit_scale": b.logit_scale, "logit_cap": b.logit_cap, "tied": b.tied,
        "vocab": b.vocab, "known_tokens": model.known_tokens(), "context": card.context, "longest_context": b.context,
        "bos": model.tokenizer.as_ref().and_then(Tokenizer::bos),
        "ends": model.tokenizer.as_ref().map(|t| t.eos().to_vec()), "chat": card.chat,
        "dtype": card.dtype, "device": card.device,
        "memory": {
            "weights_bytes": need.weights, "cache_bytes": need.cache, "work_bytes": need.work(), "total_bytes": need.total(),
            "free_bytes": available(&model.transformer.device),
        },
    })
}

/// A number with at most six digits, as short as possible.
fn round(n: f64) -> String {
    let digits = (5 - n.abs().max(1e-9).log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{n:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').into()
    } else {
        text
    }
}

fn or_none(n: Option<f64>) -> String {
    n.map_or_else(|| "none".into(), round)
}

fn width(b: &Blueprint) -> String {
    if b.d_embed == b.d_model {
        b.d_model.to_string()
    } else {
        format!("{}, embedding {} wide and projected", b.d_model, b.d_embed)
    }
}

fn mlp(b: &Blueprint) -> String {
    let act = match b.activation {
        Activation::Silu => "SiLU",
        Activation::Gelu => "GELU",
        Activation::GeluTanh => "GELU (tanh)",
        Activation::QuickGelu => "GELU (sigmoid)",
        Activation::Relu => "ReLU",
        Activation::ReluSquared => "ReLU squared",
    };
    let kind = |kind: MlpKind| match (kind, b.experts) {
        (MlpKind::Gated, _) => format!("{} neurons, gated {act}", b.d_mlp),
        (MlpKind::Plain, _) => format!("{} neurons, {act} without gate", b.d_mlp),
        (MlpKind::Experts, Some(e)) => format!(
            "{} experts of {} neurons, gated {act}, {} a token, their weights {}",
            e.count,
            e.width,
            e.active,
            if e.renormalise {
                "made to sum to one"
            } else {
                "as the softmax gives them"
            }
        ),
        (MlpKind::Experts, None) => "experts without a description".into(),
    };
    grouped(&b.layers, |l| kind(l.mlp))
}

/// A property of the layers: each value with the layers that have it; without layers if all agree.
fn grouped(layers: &[LayerSpec], say: impl Fn(&LayerSpec) -> String) -> String {
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let said = say(layer);
        match groups.iter_mut().find(|(s, _)| *s == said) {
            Some((_, of)) => of.push(i),
            None => groups.push((said, vec![i])),
        }
    }
    match groups.as_slice() {
        [(said, _)] => said.clone(),
        many => many
            .iter()
            .map(|(said, of)| format!("{said} in layers {}", ranges(of)))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

/// Spells layers as ranges: `0-2, 5`.
fn ranges(sorted: &[usize]) -> String {
    let mut out = String::new();
    let mut i = 0;
    while i < sorted.len() {
        let mut end = i;
        while end + 1 < sorted.len() && sorted[end + 1] == sorted[end] + 1 {
            end += 1;
        }
        let comma = if out.is_empty() { "" } else { ", " };
        let _infallible = match end - i {
            0 => write!(out, "{comma}{}", sorted[i]),
            _ => write!(out, "{comma}{}-{}", sorted[i], sorted[end]),
        };
        i = end + 1;
    }
    out
}

fn arrangement(of: BlockOrder) -> &'static str {
    match of {
        BlockOrder::PreNorm => "x + f(norm(x)), attention then MLP",
        BlockOrder::SandwichNorm => "x + norm(f(norm(x))), attention then MLP",
        BlockOrder::PostNorm => "x + norm(f(x)), attention then MLP",
        BlockOrder::NormedStream => {
            "norm(x + f(x)), attention then MLP: the stream itself is normed"
        }
        BlockOrder::Parallel => "x + attention(norm(x)) + MLP(another norm(x)), side by side",
        BlockOrder::ParallelSharedNorm => "x + attention(norm(x)) + MLP(the same), side by side",
    }
}

fn norm(b: &Blueprint) -> String {
    let none = if b.final_norm {
        ""
    } else {
        "; none before the unembedding"
    };
    format!("{}{none}", b.norm.describe())
}

fn qk_norm(b: &Blueprint) -> String {
    let Some(qk) = b.qk_norm else {
        return "none".into();
    };
    let over = match qk.over {
        QkNormOver::Head => "each head, one gain for all",
        QkNormOver::HeadOwnGain => "each head, with a gain of its own",
        QkNormOver::AllHeads => "all heads at once",
    };
    format!("{} over {over}", qk.norm.describe())
}

fn positions(b: &Blueprint) -> Vec<(&'static str, String)> {
    match &b.positions {
        PositionEncoding::Learned { offset } => {
            let text = format!("a learned vector each, {offset} unused rows before the first");
            vec![("positions", text)]
        }
        PositionEncoding::Rotary(ropes) => {
            let say = |layer: &LayerSpec| {
                let rope = layer.rope.and_then(|i| ropes.get(i));
                rope.map_or_else(|| "no rotation".into(), |r| rotation(r, b.head_dim))
            };
            vec![("positions", grouped(&b.layers, say))]
        }
    }
}

fn rotation(rope: &Rope, head_dim: usize) -> String {
    let pairs = if rope.interleaved {
        "neighbours"
    } else {
        "halves"
    };
    let mut out = format!(
        "rope of {} of {head_dim} dimensions ({pairs}), theta {}, scaling {}",
        rope.width,
        round(rope.theta),
        scaling(&rope.scaling)
    );
    if (rope.magnitude - 1.0).abs() > 0.0 {
        let _infallible = write!(out, ", magnitude {}", round(rope.magnitude));
    }
    out
}

fn scaling(of: &RopeScaling) -> String {
    match of {
        RopeScaling::None => "none".into(),
        RopeScaling::Linear { factor } => format!("linear (factor {})", round(*factor)),
        RopeScaling::Dynamic { factor, original } => format!(
            "dynamic (factor {}, past {original} tokens)",
            round(*factor)
        ),
        RopeScaling::Yarn {
            factor,
            original,
            fast,
            slow,
            whole,
        } => format!(
            "yarn (factor {}, original {}, fast {}, slow {}, ramp {})",
            round(*factor),
            round(*original),
            round(*fast),
            round(*slow),
            if *whole {
                "between whole dimensions"
            } else {
                "not rounded"
            }
        ),
        RopeScaling::Long {
            short,
            long,
            original,
        } => format!(
            "longrope (divisors {} up to {original} tokens, {} past them)",
            span(short),
            span(long)
        ),
        RopeScaling::Llama3 {
            factor,
            low,
            high,
            original,
        } => format!(
            "llama3 (factor {}, low {}, high {}, original {})",
            round(*factor),
            round(*low),
            round(*high),
            round(*original)
        ),
        RopeScaling::Divisors(divisors) => format!("divisors {}", span(divisors)),
    }
}

/// The smallest and the largest of some numbers.
fn span(numbers: &[f64]) -> String {
    let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} to {}", round(least), round(most))
}

fn windows(layers: &[LayerSpec]) -> String {
    grouped(layers, |l| match l.window {
        Some(w) => format!("the last {w} positions"),
        None => "every earlier position".into(),
    })
}

fn biases(of: Biases) -> String {
    let named = [
        ("queries, keys and values", of.qkv),
        ("attention output", of.attn_out),
        ("MLP", of.mlp),
        ("unembedding", of.head),
    ];
    present(&named)
}

fn weights(model: &Model) -> String {
    let damage = &model.transformer.damage;
    if damage.is_empty() {
        return "all finite".into();
    }
    let named: Vec<String> = damage.iter().map(ToString::to_string).collect();
    format!("NOT FINITE: {}", named.join("; "))
}

fn memory(model: &Model) -> String {
    let need = &model.need;
    let free = available(&model.transformer.device);
    format!(
        "about {} with a full context (weights {}, keys and values {}, working memory {}), {} free",
        size(need.total()),
        size(need.weights),
        size(need.cache),
        size(need.work()),
        free.map_or_else(|| "an unknown amount".into(), size)
    )
}

fn tokenizer(model: &Model) -> String {
    let Some(tokenizer) = &model.tokenizer else {
        return "none; token ids are taken with --ids".into();
    };
    let bos = tokenizer.bos().map_or("none".into(), |id| id.to_string());
    let ends: Vec<String> = tokenizer.eos().iter().map(ToString::to_string).collect();
    let ends = match ends.as_slice() {
        [] => "none".into(),
        ends => ends.join(", "),
    };
    format!("{}, bos {bos}, ends {ends}", tokenizer.kind())
}
