//! Cohere's Command R: parallel attention and MLP on one norm, interleaved rotation, scaled logits.

use serde_json::{Value, json};

use super::llama::{NAMES, attention_biases, common, qk_norm};
use super::{ConfigReader, Family, rope_of};
use crate::error::Result;
use crate::model::network::blueprint::{
    BlockOrder, Blueprint, NormSpec, PositionEncoding, QkNormOver,
};
use crate::model::network::rope::Rope;

/// The family's row of [`super::FAMILIES`].
pub const COHERE: Family = Family {
    name: "cohere",
    model_types: &["cohere"],
    differs: "attention and MLP read the same normed stream, so there is no `resid_mid`; LayerNorm without bias; neighbouring dimensions are rotated against each other; logits are multiplied by `logit_scale`; `use_qk_norm` has a gain for every head; tied",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = common(config, "cohere")?;
    blueprint.arrangement = BlockOrder::ParallelSharedNorm;
    blueprint.norm = NormSpec {
        bias: false,
        ..NormSpec::layer(read.number_or("layer_norm_eps", 1e-5))
    };
    let normed = read.flag_or("use_qk_norm", false);
    blueprint.qk_norm = normed.then(|| qk_norm(&blueprint, QkNormOver::HeadOwnGain));
    let rope = Rope {
        interleaved: true,
        ..rope_of(config, "cohere", blueprint.head_dim)?
    };
    blueprint.positions = PositionEncoding::Rotary(vec![rope]);
    blueprint.logit_scale = read.number_or("logit_scale", 0.0625);
    blueprint.tied = read.flag_or("tie_word_embeddings", true);
    blueprint.biases = attention_biases(config);
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "cohere", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "layer_norm_eps": 1e-5, "rope_theta": 10000.0,
        "use_qk_norm": true, "logit_scale": 0.4, "attention_bias": true
    })
}
