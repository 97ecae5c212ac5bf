//! Gemma 1: Llama's shape with gains stored as offsets from one and a scaled embedding.

use serde_json::{Value, json};

use super::llama::{NAMES, attention_biases, common};
use super::{ConfigReader, Family};
use crate::error::Result;
use crate::model::network::blueprint::{Activation, Blueprint, Gain};

/// The family's row of [`super::FAMILIES`].
pub const GEMMA: Family = Family {
    name: "gemma",
    model_types: &["gemma"],
    differs: "norm gains are stored minus one; the embedding is multiplied by sqrt(d_model); tanh GELU in the gate; tied",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = offset_gains(config, "gemma")?;
    // Google's first files say `gelu` and mean its tanh approximation, as the class knows.
    let act = read.activation(&["hidden_act"], "gelu_pytorch_tanh")?;
    blueprint.activation = if act == Activation::Gelu {
        Activation::GeluTanh
    } else {
        act
    };
    Ok(blueprint)
}

/// The settings that all Gemmas share.
pub(crate) fn offset_gains(config: &Value, family: &'static str) -> Result<Blueprint> {
    let read = ConfigReader(config);
    read.refuse_flag("use_bidirectional_attention", "attention looks ahead")?;
    let mut blueprint = common(config, family)?;
    blueprint.norm.gain = Gain::OnePlus;
    blueprint.embed_scale = (blueprint.d_model as f64).sqrt();
    blueprint.tied = read.flag_or("tie_word_embeddings", true);
    blueprint.biases = attention_biases(config);
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "gemma", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
        "head_dim": 10, "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-6,
        "hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0
    })
}
