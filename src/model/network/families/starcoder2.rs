//! StarCoder 2: LayerNorm, a plain GELU MLP, rotary positions, biases everywhere, grouped-query attention.

use serde_json::{Value, json};

use super::llama::{NAMES, common, slide_all};
use super::{ConfigReader, Family, GateUp, TensorNames};
use crate::error::Result;
use crate::model::network::blueprint::{Biases, Blueprint, MlpKind, NormSpec};

/// The family's row of [`super::FAMILIES`].
pub const STARCODER2: Family = Family {
    name: "starcoder2",
    model_types: &["starcoder2"],
    differs: "LayerNorm and a plain MLP like GPT-2, rotary positions and grouped heads like Llama; `use_bias` puts a bias everywhere; every layer slides where `sliding_window` is set; tied",
    blueprint: read,
    names: TensorNames {
        gate_up: GateUp::plain("mlp.c_fc"),
        down: "mlp.c_proj",
        ..NAMES
    },
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = common(config, "starcoder2")?;
    blueprint.norm = NormSpec::layer(read.number_or("norm_epsilon", 1e-5));
    blueprint.activation = read.activation(&["hidden_act"], "gelu_pytorch_tanh")?;
    blueprint.tied = read.flag_or("tie_word_embeddings", true);
    blueprint.biases = Biases::of_blocks(read.flag_or("use_bias", true));
    blueprint.set_mlp(MlpKind::Plain);
    slide_all(&mut blueprint, read.window()?);
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "starcoder2", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "norm_epsilon": 1e-5,
        "hidden_act": "gelu_pytorch_tanh", "use_bias": true, "sliding_window": 8, "rope_theta": 10000.0
    })
}
