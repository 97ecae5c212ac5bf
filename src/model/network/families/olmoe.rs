//! OLMoE: Llama's blocks with mixtures of experts, and norms of queries and keys over all heads.

use serde_json::{Value, json};

use super::llama::{NAMES, attention_biases, common, qk_norm};
use super::{ConfigReader, Family};
use crate::error::Result;
use crate::model::network::blueprint::{Blueprint, Experts, MlpKind, NormSpec, QkNormOver};

/// The family's row of [`super::FAMILIES`].
pub const OLMOE: Family = Family {
    name: "olmoe",
    model_types: &["olmoe"],
    differs: "a mixture of experts in every block whose chosen weights do not sum to one unless `norm_topk_prob`; queries and keys are normed over all heads at once, then clipped (`clip_qkv`)",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = common(config, "olmoe")?;
    blueprint.norm = NormSpec::rms(read.number_or("rms_norm_eps", 1e-5));
    blueprint.qk_norm = Some(qk_norm(&blueprint, QkNormOver::AllHeads));
    blueprint.clip_qkv = read.positive("clip_qkv")?;
    blueprint.experts = Some(Experts {
        count: read.count_or(&["num_experts", "num_local_experts"], 64)?,
        active: read.count_or(&["num_experts_per_tok"], 8)?,
        width: blueprint.d_mlp,
        renormalise: read.flag_or("norm_topk_prob", false),
    });
    blueprint.set_mlp(MlpKind::Experts);
    blueprint.biases = attention_biases(config);
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "olmoe", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 18, "num_experts": 5, "num_experts_per_tok": 2, "norm_topk_prob": false, "clip_qkv": 1.2,
        "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-5, "rope_theta": 10000.0
    })
}
