//! Gemma 2: Gemma with norms before and after every sub-layer, soft-caps, and a window in every other layer.

use serde_json::{Value, json};

use super::gemma::offset_gains;
use super::llama::{NAMES, slide_named};
use super::{ConfigReader, Family, TensorNames};
use crate::error::Result;
use crate::model::network::blueprint::{BlockOrder, Blueprint};

/// The family's row of [`super::FAMILIES`].
pub const GEMMA2: Family = Family {
    name: "gemma2",
    model_types: &["gemma2"],
    differs: "`post_attention_layernorm` normalizes the attention output, not the input of the MLP; scores and logits are soft-capped; even layers slide; scores are divided by sqrt(query_pre_attn_scalar)",
    blueprint: read,
    names: SANDWICHED,
    tiny,
};

/// Gemma's tensor names with four norms in a block.
pub(crate) const SANDWICHED: TensorNames = TensorNames {
    norm_attn_out: "post_attention_layernorm",
    norm_mlp: "pre_feedforward_layernorm",
    norm_mlp_out: "post_feedforward_layernorm",
    ..NAMES
};

fn read(config: &Value) -> Result<Blueprint> {
    let mut blueprint = sandwiched(config, "gemma2")?;
    let read = ConfigReader(config);
    let sliding = read.sliding(blueprint.layers.len(), |layer| layer % 2 == 0)?;
    slide_named(&mut blueprint, read.window()?, &sliding)?;
    Ok(blueprint)
}

/// The settings that Gemma 2 and 3 share.
pub(crate) fn sandwiched(config: &Value, family: &'static str) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = offset_gains(config, family)?;
    blueprint.arrangement = BlockOrder::SandwichNorm;
    blueprint.activation =
        read.activation(&["hidden_activation", "hidden_act"], "gelu_pytorch_tanh")?;
    let scalar = read.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    blueprint.score_scale = scalar.sqrt().recip();
    blueprint.score_cap = read.positive("attn_logit_softcapping")?;
    blueprint.logit_cap = read.positive("final_logit_softcapping")?;
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "gemma2", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 10, "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 10000.0, "sliding_window": 8, "query_pre_attn_scalar": 13,
        "attn_logit_softcapping": 4.0, "final_logit_softcapping": 6.0
    })
}
