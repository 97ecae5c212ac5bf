//! Phi 1, 1.5 and 2: parallel attention and MLP on one norm, biases everywhere, a part of each head rotated.

use serde_json::{Value, json};

use super::llama::{NAMES, common, qk_norm};
use super::{ConfigReader, Family, GateUp, TensorNames};
use crate::error::Result;
use crate::model::network::blueprint::{
    Biases, BlockOrder, Blueprint, MlpKind, NormSpec, QkNormOver,
};

/// The family's row of [`super::FAMILIES`].
pub const PHI: Family = Family {
    name: "phi",
    model_types: &["phi"],
    differs: "attention and MLP read the same normed stream, so there is no `resid_mid`; LayerNorm; a bias everywhere, the unembedding included; `partial_rotary_factor`",
    blueprint: read,
    names: TensorNames {
        q_norm: "self_attn.q_layernorm",
        k_norm: "self_attn.k_layernorm",
        attn_out: "self_attn.dense",
        gate_up: GateUp::plain("mlp.fc1"),
        down: "mlp.fc2",
        norm_final: "final_layernorm",
        ..NAMES
    },
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = common(config, "phi")?;
    blueprint.arrangement = BlockOrder::ParallelSharedNorm;
    blueprint.norm = NormSpec::layer(read.number_or("layer_norm_eps", 1e-5));
    blueprint.activation = read.activation(&["hidden_act"], "gelu_new")?;
    blueprint.biases = Biases {
        head: true,
        ..Biases::of_blocks(true)
    };
    blueprint.set_mlp(MlpKind::Plain);
    let normed = read.flag_or("qk_layernorm", false);
    blueprint.qk_norm = normed.then(|| qk_norm(&blueprint, QkNormOver::Head));
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "phi", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
        "vocab_size": 61, "max_position_embeddings": 96, "layer_norm_eps": 1e-5, "hidden_act": "gelu_new",
        "partial_rotary_factor": 0.5, "qk_layernorm": true, "rope_theta": 10000.0
    })
}
