//! Gemma 3, text only: Gemma 2 without soft-caps, with normed heads, and two rotations.

use serde_json::{Value, json};

use super::gemma2::{SANDWICHED, sandwiched};
use super::llama::{qk_norm, slide};
use super::{Family, Names, Reader};
use crate::error::Result;
use crate::model::blueprint::{Blueprint, Positions, QkNormOver};
use crate::model::rope::Rope;

/// The row of the registry.
pub const GEMMA3: Family = Family {
    name: "gemma3_text",
    model_types: &["gemma3_text", "gemma3"],
    differs: "five of six layers slide and rotate with a base of their own, unscaled; queries and keys are normed; of the multimodal `gemma3` only the text part is read",
    blueprint: read,
    names: Names {
        prefixes: &[
            "model.language_model.",
            "language_model.model.",
            "model.",
            "",
        ],
        head_prefixes: &["", "language_model."],
        ..SANDWICHED
    },
    tiny,
};

/// What config.json leaves out when it is as here.
const DEFAULTS: [(&str, f64); 10] = [
    ("vocab_size", 262_208.0),
    ("hidden_size", 2304.0),
    ("intermediate_size", 9216.0),
    ("num_hidden_layers", 26.0),
    ("num_attention_heads", 8.0),
    ("num_key_value_heads", 4.0),
    ("head_dim", 256.0),
    ("max_position_embeddings", 131_072.0),
    ("sliding_window", 4096.0),
    ("rope_theta", 1_000_000.0),
];

fn read(config: &Value) -> Result<Blueprint> {
    let mut text = config.get("text_config").unwrap_or(config).clone();
    if let Some(text) = text.as_object_mut() {
        for (key, value) in DEFAULTS {
            let whole = json!(value as u64);
            text.entry(key).or_insert(whole);
        }
        // The wrapper ties on behalf of its text part.
        if let Some(tied) = config.get("tie_word_embeddings") {
            text.insert("tie_word_embeddings".into(), tied.clone());
        }
    }
    let config = &text;
    let read = Reader(config);
    let mut blueprint = sandwiched(config, "gemma3_text")?;
    blueprint.qk_norm = Some(qk_norm(&blueprint, QkNormOver::Head));
    blueprint.score_cap = None;
    let pattern = read.count_or(&["sliding_window_pattern"], 6)?;
    let sliding = read.sliding(blueprint.layers.len(), |layer| {
        !(layer + 1).is_multiple_of(pattern)
    })?;
    slide(&mut blueprint, read.window()?, &sliding);
    let nested = |kind: &str| {
        let parameters = config.get("rope_parameters")?;
        parameters.get(kind).filter(|v| v.is_object())
    };
    let (theta, local) = (
        read.number_or("rope_theta", 1e6),
        read.number_or("rope_local_base_freq", 1e4),
    );
    let flat = config
        .get("rope_parameters")
        .filter(|_| nested("full_attention").is_none());
    let scaling = flat.or_else(|| config.get("rope_scaling").filter(|v| v.is_object()));
    let global = nested("full_attention").or(scaling);
    blueprint.positions = Positions::Rotary(vec![
        Rope::read(config, global, theta, blueprint.head_dim, 1.0)?,
        Rope::read(
            config,
            nested("sliding_attention"),
            local,
            blueprint.head_dim,
            1.0,
        )?,
    ]);
    for (layer, slides) in blueprint.layers.iter_mut().zip(sliding) {
        layer.rope = Some(usize::from(slides));
    }
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "gemma3_text", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 10, "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 50000.0, "rope_local_base_freq": 100.0, "sliding_window": 8,
        "query_pre_attn_scalar": 13, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_scaling": {"rope_type": "linear", "factor": 4.0}
    })
}
