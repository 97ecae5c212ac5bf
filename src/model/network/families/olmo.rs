//! OLMo 1: Llama's shape with norms that learn nothing, and clipped queries, keys and values.

use serde_json::{Value, json};

use super::llama::{NAMES, attention_biases, common};
use super::{ConfigReader, Family};
use crate::error::Result;
use crate::model::network::blueprint::{Blueprint, Gain, NormSpec};

/// The row of the registry.
pub const OLMO: Family = Family {
    name: "olmo",
    model_types: &["olmo"],
    differs: "LayerNorm without gain or bias; queries, keys and values may be clipped (`clip_qkv`)",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = common(config, "olmo")?;
    blueprint.norm = NormSpec {
        gain: Gain::None,
        bias: false,
        ..NormSpec::layer(1e-5)
    };
    blueprint.clip_qkv = read.positive("clip_qkv")?;
    blueprint.biases = attention_biases(config);
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "olmo", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "clip_qkv": 1.1, "attention_bias": true,
        "rope_theta": 10000.0
    })
}
