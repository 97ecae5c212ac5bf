//! Qwen2 and Qwen2.5: Llama's shape with biases on q, k and v only.

use serde_json::{Value, json};

use super::llama::{NAMES, common, slide_named};
use super::{ConfigReader, Family};
use crate::error::Result;
use crate::model::network::blueprint::{Biases, Blueprint};

/// The family's row of [`super::FAMILIES`].
pub const QWEN2: Family = Family {
    name: "qwen2",
    model_types: &["qwen2"],
    differs: "biases on q, k and v, none on the attention output or the MLP; small sizes tie the unembedding; with `use_sliding_window` the layers from `max_window_layers` on slide",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let mut blueprint = common(config, "qwen2")?;
    blueprint.biases = Biases {
        qkv: true,
        ..Biases::default()
    };
    late_windows(config, &mut blueprint)?;
    Ok(blueprint)
}

/// With `use_sliding_window`, the layers that `layer_types` names have the window; without `layer_types`, those from
/// `max_window_layers` on.
pub(crate) fn late_windows(config: &Value, blueprint: &mut Blueprint) -> Result<()> {
    let read = ConfigReader(config);
    let window = read
        .window()?
        .filter(|_| read.flag_or("use_sliding_window", false));
    let from = read.number_or("max_window_layers", 28.0) as usize;
    let sliding = read.sliding(blueprint.layers.len(), |layer| {
        window.is_some() && layer >= from
    })?;
    slide_named(blueprint, window, &sliding)
}

fn tiny() -> Value {
    json!({
        "model_type": "qwen2", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
        "intermediate_size": 36, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true, "rope_theta": 1_000_000.0, "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 2
    })
}
