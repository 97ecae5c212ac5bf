//! OPT: learned positions after two unused rows, ReLU, biases everywhere; the 350M model norms the stream itself.

use serde_json::{Value, json};

use super::config_reader::start;
use super::{ConfigReader, Family, GateUp, NAMELESS, Qkv, TensorNames};
use crate::error::Result;
use crate::model::network::blueprint::{
    Biases, BlockOrder, Blueprint, Gain, MlpKind, NormSpec, PositionEncoding,
};

/// The family's row of [`super::FAMILIES`].
pub const OPT: Family = Family {
    name: "opt",
    model_types: &["opt"],
    differs: "positions are learned, their table starts with two unused rows; ReLU; the 350M (`do_layer_norm_before` false) normalizes the stream after every component, has no final norm, and a narrower embedding",
    blueprint: read,
    names: TensorNames {
        prefixes: &["model.decoder.", "decoder.", ""],
        embed: "embed_tokens",
        project_in: "project_in",
        project_out: "project_out",
        positions: "embed_positions",
        block: "layers.{}",
        norm_attn: "self_attn_layer_norm",
        qkv: Qkv::Split("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        attn_out: "self_attn.out_proj",
        norm_mlp: "final_layer_norm",
        gate_up: GateUp::plain("fc1"),
        down: "fc2",
        norm_final: "final_layer_norm",
        head: "lm_head",
        ..NAMELESS
    },
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let d_model = read.count(&["hidden_size"])?;
    let heads = read.count(&["num_attention_heads"])?;
    let layers = read.layers(&["num_hidden_layers"])?;
    let positions = PositionEncoding::Learned { offset: 2 };
    let before = read.flag_or("do_layer_norm_before", true);
    let learned = read.flag_or("layer_norm_elementwise_affine", true);
    Ok(Blueprint {
        d_embed: read.count_or(&["word_embed_proj_dim"], d_model)?,
        d_mlp: read.count_or(&["ffn_dim"], 4 * d_model)?,
        vocab: read.count(&["vocab_size"])?,
        context: read.count_or(&["max_position_embeddings"], 2048)?,
        arrangement: if before {
            BlockOrder::PreNorm
        } else {
            BlockOrder::NormedStream
        },
        norm: NormSpec {
            gain: if learned { Gain::Plain } else { Gain::None },
            bias: learned,
            ..NormSpec::layer(1e-5)
        },
        final_norm: before && !read.flag_or("_remove_final_layer_norm", false),
        activation: read.activation(&["activation_function"], "relu")?,
        biases: Biases::of_blocks(read.flag_or("enable_bias", true)),
        tied: read.flag_or("tie_word_embeddings", true),
        ..start("opt", (d_model, heads, layers), MlpKind::Plain, positions)
    })
}

fn tiny() -> Value {
    json!({
        "model_type": "opt", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 40, "vocab_size": 61,
        "max_position_embeddings": 96, "do_layer_norm_before": true, "word_embed_proj_dim": 16, "activation_function": "relu"
    })
}
