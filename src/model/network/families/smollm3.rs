//! SmolLM3: Llama's shape; every fourth layer has no rotation.

use serde_json::{Value, json};

use super::config_reader::compare;
use super::llama::{NAMES, attention_biases, common, slide_named};
use super::{ConfigReader, Family};
use crate::error::Result;
use crate::model::network::blueprint::Blueprint;

/// The family's row of [`super::FAMILIES`].
pub const SMOLLM3: Family = Family {
    name: "smollm3",
    model_types: &["smollm3"],
    differs: "layers where `no_rope_layers` says 0 (every fourth by default) do not rotate; tied",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = common(config, "smollm3")?;
    let layers = blueprint.layers.len();
    blueprint.tied = read.flag_or("tie_word_embeddings", true);
    blueprint.biases = attention_biases(config);
    blueprint.biases.mlp = ConfigReader(config).flag_or("mlp_bias", false);
    let interval = read.count_or(&["no_rope_layer_interval"], 4)?;
    let rotates: Vec<bool> = match read.find(&["no_rope_layers"]) {
        None => (1..=layers).map(|l| !l.is_multiple_of(interval)).collect(),
        Some(list) => list
            .as_array()
            .and_then(|l| l.iter().map(|v| v.as_u64().map(|n| n != 0)).collect())
            .filter(|l: &Vec<bool>| l.len() == layers)
            .ok_or_else(|| {
                compare(format!(
                    "`no_rope_layers` is not a list of {layers} zeros and ones"
                ))
            })?,
    };
    for (layer, rotates) in blueprint.layers.iter_mut().zip(&rotates) {
        layer.rope = rotates.then_some(0);
    }
    // As in the class, `use_sliding_window` matters only if `layer_types` is absent.
    let window = read.window()?;
    let slides = window.is_some() && read.flag_or("use_sliding_window", false);
    let sliding = read.sliding(layers, |layer| slides && !rotates[layer])?;
    slide_named(&mut blueprint, window, &sliding)?;
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "smollm3", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-6, "rope_theta": 5_000_000.0,
        "no_rope_layers": [1, 0, 1], "attention_bias": true, "mlp_bias": true, "use_sliding_window": true, "sliding_window": 9
    })
}
