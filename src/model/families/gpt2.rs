//! GPT-2: LayerNorm, learned positions, one fused projection for q, k and v, a plain GELU MLP, biases everywhere.

use serde_json::{Value, json};

use super::{Family, Names, QkvNames, Reader};
use crate::error::{Error, Result};
use crate::model::blueprint::{Biases, Blueprint, MlpKind, NormKind, Positions};
use crate::model::weights::Layout;

/// The row of the registry.
pub const GPT2: Family = Family {
    name: "gpt2",
    model_types: &["gpt2"],
    differs: "matrices are stored [in, out]; positions are learned; `mlp_gate` does not exist; the unembedding is tied",
    blueprint: read,
    names: Names {
        prefixes: &["transformer.", ""],
        embed: "wte",
        positions: "wpe",
        block: "h.{}",
        norm_attn: "ln_1",
        qkv: QkvNames::Fused("attn.c_attn"),
        attn_out: "attn.c_proj",
        norm_mlp: "ln_2",
        gate: "",
        up: "mlp.c_fc",
        down: "mlp.c_proj",
        norm_final: "ln_f",
        head: "lm_head",
        layout: Layout::InOut,
    },
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = Reader(config);
    let refuse = |key: &str| Error::Config {
        what: format!("`{key}` changes the attention scores and is not served"),
        next: "Ignoring it would give wrong numbers, so the model is refused.".into(),
    };
    if read.flag_or("scale_attn_by_inverse_layer_idx", false) {
        return Err(refuse("scale_attn_by_inverse_layer_idx"));
    }
    if read.flag_or("add_cross_attention", false) {
        return Err(refuse("add_cross_attention"));
    }
    let d_model = read.count(&["n_embd", "hidden_size"])?;
    let heads = read.count(&["n_head", "num_attention_heads"])?;
    let head_dim = d_model / heads;
    Ok(Blueprint {
        family: "gpt2",
        d_model,
        layers: read.count(&["n_layer", "num_hidden_layers"])?,
        heads,
        kv_heads: heads,
        head_dim,
        d_mlp: read.count_or(&["n_inner"], 4 * d_model)?,
        vocab: read.count(&["vocab_size"])?,
        context: read.count_or(&["n_positions", "n_ctx", "max_position_embeddings"], 1024)?,
        norm: NormKind::Layer,
        epsilon: read.number_or("layer_norm_epsilon", 1e-5),
        mlp: MlpKind::Plain,
        activation: read.activation(&["activation_function"], "gelu_new")?,
        positions: Positions::Learned,
        biases: Biases {
            qkv: true,
            attn_out: true,
            mlp: true,
        },
        tied: read.flag_or("tie_word_embeddings", true),
        score_scale: if read.flag_or("scale_attn_weights", true) {
            1.0 / (head_dim as f64).sqrt()
        } else {
            1.0
        },
    })
}

fn tiny() -> Value {
    json!({
        "model_type": "gpt2", "n_embd": 24, "n_layer": 3, "n_head": 4, "n_inner": 56, "vocab_size": 61, "n_positions": 96,
        "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"
    })
}
