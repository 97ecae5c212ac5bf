//! Qwen3: Llama's shape with norms of each head's queries and keys, and no biases.

use serde_json::{Value, json};

use super::Family;
use super::llama::{NAMES, attention_biases, common, qk_norm};
use super::qwen2::late_windows;
use crate::error::Result;
use crate::model::network::blueprint::{Blueprint, QkNormOver};

/// The family's row of [`super::FAMILIES`].
pub const QWEN3: Family = Family {
    name: "qwen3",
    model_types: &["qwen3"],
    differs: "RMSNorm of each head's queries and keys before the rotation, one gain for all heads; head_dim is not d_model / heads",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let mut blueprint = normed_heads(config, "qwen3")?;
    late_windows(config, &mut blueprint)?;
    Ok(blueprint)
}

/// The settings that the dense and the sparse Qwen3 share.
pub(crate) fn normed_heads(config: &Value, family: &'static str) -> Result<Blueprint> {
    let mut blueprint = common(config, family)?;
    blueprint.biases = attention_biases(config);
    blueprint.qk_norm = Some(qk_norm(&blueprint, QkNormOver::Head));
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "qwen3", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 10, "intermediate_size": 36, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true, "rope_theta": 1_000_000.0, "attention_bias": true, "sliding_window": null
    })
}
