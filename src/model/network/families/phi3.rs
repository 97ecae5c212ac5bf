//! Phi 3, 3.5 and 4: Llama's shape with fused projections and LongRoPE.

use serde_json::{Value, json};

use super::llama::{NAMES, common, slide_all};
use super::{ConfigReader, Family, GateUp, Qkv, TensorNames};
use crate::error::Result;
use crate::model::network::blueprint::Blueprint;

/// The family's row of [`super::FAMILIES`].
pub const PHI3: Family = Family {
    name: "phi3",
    model_types: &["phi3"],
    differs: "q, k and v share a matrix, gate and up another; past the original context `longrope` changes the frequencies of every position",
    blueprint: read,
    names: TensorNames {
        qkv: Qkv::Fused("self_attn.qkv_proj"),
        gate_up: GateUp::Fused("mlp.gate_up_proj"),
        ..NAMES
    },
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let mut blueprint = common(config, "phi3")?;
    slide_all(&mut blueprint, ConfigReader(config).window()?);
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "phi3", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1,
        "intermediate_size": 36, "vocab_size": 61, "max_position_embeddings": 96, "original_max_position_embeddings": 24,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.75, "sliding_window": 19,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.2, 2.0, 4.0]}
    })
}
