//! Granite 3: Llama's shape with four multipliers.

use serde_json::{Value, json};

use super::llama::{NAMES, attention_biases, common};
use super::{ConfigReader, Family};
use crate::error::Result;
use crate::model::network::blueprint::Blueprint;

/// The family's row of [`super::FAMILIES`].
pub const GRANITE: Family = Family {
    name: "granite",
    model_types: &["granite"],
    differs: "the embedding, the attention scores and every component output are multiplied (`embedding_multiplier`, `attention_multiplier` in place of 1/sqrt(head_dim), `residual_multiplier`); logits are divided by `logits_scaling`",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = common(config, "granite")?;
    blueprint.biases = attention_biases(config);
    blueprint.biases.mlp = ConfigReader(config).flag_or("mlp_bias", false);
    blueprint.embed_scale = read.number_or("embedding_multiplier", 1.0);
    blueprint.score_scale = read.number_or("attention_multiplier", 1.0);
    blueprint.residual_scale = read.number_or("residual_multiplier", 1.0);
    blueprint.logit_scale = read.positive("logits_scaling")?.unwrap_or(1.0).recip();
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "granite", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "attention_bias": true, "mlp_bias": true, "embedding_multiplier": 3.5, "attention_multiplier": 0.3,
        "residual_multiplier": 0.7, "logits_scaling": 2.5, "tie_word_embeddings": true
    })
}
