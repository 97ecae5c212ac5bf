//! Qwen3 with mixtures of experts, in all or some of its blocks.

use serde_json::{Value, json};

use super::llama::{NAMES, slide_all};
use super::qwen3::normed_heads;
use super::{ConfigReader, Family};
use crate::error::Result;
use crate::model::network::blueprint::{Blueprint, Experts, MlpKind};

/// The family's row of [`super::FAMILIES`].
pub const QWEN3_MOE: Family = Family {
    name: "qwen3_moe",
    model_types: &["qwen3_moe"],
    differs: "blocks hold mixtures of experts, except those of `mlp_only_layers` and between `decoder_sparse_step`; whether the chosen weights sum to one is `norm_topk_prob`; with a sliding window every layer slides",
    blueprint: read,
    names: NAMES,
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = normed_heads(config, "qwen3_moe")?;
    blueprint.experts = Some(Experts {
        count: read.count_or(&["num_experts", "num_local_experts"], 128)?,
        active: read.count_or(&["num_experts_per_tok"], 8)?,
        width: read.count_or(&["moe_intermediate_size"], 768)?,
        renormalise: read.flag_or("norm_topk_prob", false),
    });
    let step = read.count_or(&["decoder_sparse_step"], 1)?;
    let dense: Vec<u64> = read
        .find(&["mlp_only_layers"])
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_u64).collect())
        .unwrap_or_default();
    for (i, layer) in blueprint.layers.iter_mut().enumerate() {
        if !dense.contains(&(i as u64)) && (i + 1).is_multiple_of(step) {
            layer.mlp = MlpKind::Experts;
        }
    }
    let slides = read.flag_or("use_sliding_window", false);
    slide_all(&mut blueprint, read.window()?.filter(|_| slides));
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "qwen3_moe", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 10, "intermediate_size": 36, "moe_intermediate_size": 14, "num_experts": 5, "num_experts_per_tok": 2,
        "norm_topk_prob": true, "mlp_only_layers": [1], "decoder_sparse_step": 1, "vocab_size": 61,
        "max_position_embeddings": 96, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0
    })
}
