//! GPT-NeoX and Pythia: parallel attention and MLP with a norm each, fused heads, a quarter of each head rotated.

use serde_json::{Value, json};

use super::config_reader::start;
use super::{ConfigReader, Family, GateUp, NAMELESS, Qkv, TensorNames, rope_of};
use crate::error::Result;
use crate::model::network::blueprint::{
    Biases, BlockOrder, Blueprint, MlpKind, NormSpec, PositionEncoding,
};

/// The family's row of [`super::FAMILIES`].
pub const GPT_NEOX: Family = Family {
    name: "gpt_neox",
    model_types: &["gpt_neox"],
    differs: "q, k and v lie head by head in one matrix; with `use_parallel_residual` the MLP reads the stream before attention is added, so there is no `resid_mid`; the unembedding is `embed_out`, without a bias",
    blueprint: read,
    names: TensorNames {
        prefixes: &["gpt_neox.", ""],
        embed: "embed_in",
        block: "layers.{}",
        norm_attn: "input_layernorm",
        qkv: Qkv::FusedByHead("attention.query_key_value"),
        attn_out: "attention.dense",
        norm_mlp: "post_attention_layernorm",
        gate_up: GateUp::plain("mlp.dense_h_to_4h"),
        down: "mlp.dense_4h_to_h",
        norm_final: "final_layer_norm",
        head: "embed_out",
        ..NAMELESS
    },
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let d_model = read.count(&["hidden_size"])?;
    let heads = read.count(&["num_attention_heads"])?;
    let layers = read.layers(&["num_hidden_layers"])?;
    let rope = rope_of(config, "gpt_neox", (d_model / heads).max(1))?;
    let positions = PositionEncoding::Rotary(vec![rope]);
    let sizes = (d_model, heads, layers);
    Ok(Blueprint {
        d_mlp: read.count_or(&["intermediate_size"], 4 * d_model)?,
        vocab: read.count(&["vocab_size"])?,
        context: read.count_or(&["max_position_embeddings"], 2048)?,
        arrangement: if read.flag_or("use_parallel_residual", true) {
            BlockOrder::Parallel
        } else {
            BlockOrder::PreNorm
        },
        norm: NormSpec::layer(read.number_or("layer_norm_eps", 1e-5)),
        activation: read.activation(&["hidden_act"], "gelu")?,
        biases: Biases {
            mlp: true,
            ..Biases::of_blocks(read.flag_or("attention_bias", true))
        },
        tied: read.flag_or("tie_word_embeddings", false),
        ..start("gpt_neox", sizes, MlpKind::Plain, positions)
    })
}

fn tiny() -> Value {
    json!({
        "model_type": "gpt_neox", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40,
        "vocab_size": 61, "max_position_embeddings": 96, "layer_norm_eps": 1e-5, "hidden_act": "gelu", "rotary_pct": 0.25,
        "rotary_emb_base": 10000, "use_parallel_residual": true
    })
}
