//! Qwen2 and Qwen2.5: Llama's shape with biases on q, k and v alone.

use serde_json::{Value, json};

use super::llama::{NAMES, common};
use super::{Family, Reader};
use crate::error::{Error, Result};
use crate::model::blueprint::{Biases, Blueprint};

/// The row of the registry.
pub const QWEN2: Family = Family {
    name: "qwen2",
    model_types: &["qwen2"],
    differs: "biases on q, k and v, none on the attention output or the MLP; small sizes tie the unembedding",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    if Reader(config).flag_or("use_sliding_window", false) {
        return Err(Error::Config {
            what: "`use_sliding_window` is true, and sliding windows are not served for qwen2"
                .into(),
            next:
                "Full attention would give wrong numbers past the window, so the model is refused."
                    .into(),
        });
    }
    common(
        config,
        "qwen2",
        Biases {
            qkv: true,
            attn_out: false,
            mlp: false,
        },
    )
}

fn tiny() -> Value {
    json!({
        "model_type": "qwen2", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
        "intermediate_size": 36, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true, "rope_theta": 1_000_000.0
    })
}
