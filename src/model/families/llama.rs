//! Llama 1, 2 and 3.x, and what is shaped like them: RMSNorm, rotary positions, gated SiLU, no biases by default.

use serde_json::{Value, json};

use super::{Family, Names, QkvNames, Reader};
use crate::error::Result;
use crate::model::blueprint::{Biases, Blueprint, MlpKind, NormKind, Positions};
use crate::model::rope::Rope;
use crate::model::weights::Layout;

/// The row of the registry.
pub const LLAMA: Family = Family {
    name: "llama",
    model_types: &["llama"],
    differs: "the reference shape; `attention_bias` puts a bias on q, k, v and the output, `mlp_bias` on the MLP",
    blueprint: read,
    names: NAMES,
    tiny,
};

/// Tensor names that most later families share.
pub(super) const NAMES: Names = Names {
    prefixes: &["model.", ""],
    embed: "embed_tokens",
    positions: "",
    block: "layers.{}",
    norm_attn: "input_layernorm",
    qkv: QkvNames::Split {
        q: "self_attn.q_proj",
        k: "self_attn.k_proj",
        v: "self_attn.v_proj",
    },
    attn_out: "self_attn.o_proj",
    norm_mlp: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    norm_final: "norm",
    head: "lm_head",
    layout: Layout::OutIn,
};

fn read(config: &Value) -> Result<Blueprint> {
    let bias = Reader(config).flag_or("attention_bias", false);
    let biases = Biases {
        qkv: bias,
        attn_out: bias,
        mlp: Reader(config).flag_or("mlp_bias", false),
    };
    common(config, "llama", biases)
}

/// The keys that the Llama-like families share.
pub(super) fn common(config: &Value, family: &'static str, biases: Biases) -> Result<Blueprint> {
    let read = Reader(config);
    let d_model = read.count(&["hidden_size"])?;
    let heads = read.count(&["num_attention_heads"])?;
    let kv_heads = read.count_or(&["num_key_value_heads"], heads)?;
    read.heads(heads, kv_heads)?;
    let head_dim = read.count_or(&["head_dim"], d_model / heads)?;
    Ok(Blueprint {
        family,
        d_model,
        layers: read.count(&["num_hidden_layers"])?,
        heads,
        kv_heads,
        head_dim,
        d_mlp: read.count(&["intermediate_size"])?,
        vocab: read.count(&["vocab_size"])?,
        context: read.count_or(&["max_position_embeddings"], 2048)?,
        norm: NormKind::Rms,
        epsilon: read.number_or("rms_norm_eps", 1e-6),
        mlp: MlpKind::Gated,
        activation: read.activation(&["hidden_act"], "silu")?,
        positions: Positions::Rotary(Rope::from_config(config)?),
        biases,
        tied: read.flag_or("tie_word_embeddings", false),
        score_scale: 1.0 / (head_dim as f64).sqrt(),
    })
}

fn tiny() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-5,
        "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": false, "rope_theta": 5000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    })
}
