//! Mistral: Llama's shape without biases; in the first version every layer has an attention window.

use serde_json::{Value, json};

use super::llama::{NAMES, common, slide_all};
use super::{ConfigReader, Family};
use crate::error::Result;
use crate::model::network::blueprint::Blueprint;

/// The family's row of [`super::FAMILIES`].
pub const MISTRAL: Family = Family {
    name: "mistral",
    model_types: &["mistral"],
    differs: "every layer sees a sliding window where `sliding_window` is set (v0.1); head_dim may be set apart from the width (Nemo)",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let mut blueprint = common(config, "mistral")?;
    // As in transformers, `layer_types` is not read: all layers have the window, or none.
    slide_all(&mut blueprint, ConfigReader(config).window()?);
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "mistral", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 10, "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "sliding_window": 7
    })
}
