//! StableLM 2: Llama's shape with LayerNorm, a quarter of each head rotated, and two block orders.

use serde_json::{Value, json};

use super::llama::{NAMES, common};
use super::{ConfigReader, Family, TensorNames};
use crate::error::Result;
use crate::model::network::blueprint::{
    Biases, BlockOrder, Blueprint, NormSpec, QkNorm, QkNormOver,
};

/// The family's row of [`super::FAMILIES`].
pub const STABLELM: Family = Family {
    name: "stablelm",
    model_types: &["stablelm"],
    differs: "LayerNorm; `partial_rotary_factor`; `qk_layernorm` has a tensor for every head; with `use_parallel_residual` the MLP reads what attention reads, so there is no `resid_mid`",
    blueprint: read,
    names: TensorNames {
        q_norm: "self_attn.q_layernorm.norms.{}",
        k_norm: "self_attn.k_layernorm.norms.{}",
        ..NAMES
    },
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = common(config, "stablelm")?;
    blueprint.norm = NormSpec::layer(read.number_or("layer_norm_eps", 1e-5));
    if read.flag_or("use_parallel_residual", false) {
        blueprint.arrangement = BlockOrder::ParallelSharedNorm;
    }
    blueprint.qk_norm = read.flag_or("qk_layernorm", false).then_some(QkNorm {
        norm: NormSpec {
            bias: false,
            ..blueprint.norm
        },
        over: QkNormOver::HeadOwnGain,
    });
    blueprint.biases = Biases {
        qkv: read.flag_or("use_qkv_bias", false),
        ..Biases::default()
    };
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "stablelm", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "layer_norm_eps": 1e-5, "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25, "use_qkv_bias": true, "qk_layernorm": true
    })
}
