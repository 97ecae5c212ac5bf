//! OLMo 2: sub-layers read the stream without a norm, and their outputs are normed.

use serde_json::{Value, json};

use super::llama::{NAMES, attention_biases, common, qk_norm};
use super::{ConfigReader, Family, TensorNames};
use crate::error::Result;
use crate::model::network::blueprint::{BlockOrder, Blueprint, NormSpec, QkNormOver};

/// The family's row of [`super::FAMILIES`].
pub const OLMO2: Family = Family {
    name: "olmo2",
    model_types: &["olmo2"],
    differs: "no norm before a sub-layer (`attn_in` and `mlp_in` are the stream itself), one after it; queries and keys are normed over all heads at once",
    blueprint: read,
    names: TensorNames {
        norm_attn: "",
        norm_attn_out: "post_attention_layernorm",
        norm_mlp: "",
        norm_mlp_out: "post_feedforward_layernorm",
        ..NAMES
    },
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = common(config, "olmo2")?;
    blueprint.norm = NormSpec::rms(read.number_or("rms_norm_eps", 1e-5));
    blueprint.arrangement = BlockOrder::PostNorm;
    blueprint.qk_norm = Some(qk_norm(&blueprint, QkNormOver::AllHeads));
    blueprint.biases = attention_biases(config);
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "olmo2", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-6, "rope_theta": 500_000.0
    })
}
