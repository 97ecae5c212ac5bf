//! Gemma 3, text only: Gemma 2 without soft-caps, with norms of queries and keys, and two rotations.

use serde_json::{Value, json};

use super::gemma2::{SANDWICHED, sandwiched};
use super::llama::{qk_norm, slide_named};
use super::rope_config::{StandardRope, by_layer_type};
use super::{ConfigReader, Family, TensorNames};
use crate::error::Result;
use crate::model::network::blueprint::{Blueprint, PositionEncoding, QkNormOver};
use crate::model::network::rope::Rope;

/// The family's row of [`super::FAMILIES`].
pub const GEMMA3: Family = Family {
    name: "gemma3_text",
    model_types: &["gemma3_text", "gemma3"],
    differs: "five of six layers slide and rotate with a base of their own, unscaled; queries and keys are normed; of the multimodal `gemma3` only the text part is read",
    blueprint: read,
    names: TensorNames {
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

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = sandwiched(config, "gemma3_text")?;
    blueprint.qk_norm = Some(qk_norm(&blueprint, QkNormOver::Head));
    blueprint.score_cap = None;
    // `sliding_window_pattern` is used only if `layer_types` is absent.
    let listed = read.find(&["layer_types"]).is_some();
    let pattern = match config.get("sliding_window_pattern") {
        Some(_) if !listed => read.count(&["sliding_window_pattern"])?,
        _ => 6,
    };
    let sliding = read.sliding(blueprint.layers.len(), |layer| {
        !(layer + 1).is_multiple_of(pattern)
    })?;
    slide_named(&mut blueprint, read.window()?, &sliding)?;
    let most = read.number_or("max_position_embeddings", 131_072.0);
    let ropes = by_layer_type(config)?
        .iter()
        .map(|StandardRope(rope)| Rope::read(rope, most, blueprint.head_dim))
        .collect::<Result<_>>()?;
    blueprint.positions = PositionEncoding::Rotary(ropes);
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
