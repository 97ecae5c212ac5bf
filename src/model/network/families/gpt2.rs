//! GPT-2: LayerNorm, learned positions, one fused projection for q, k and v, a plain GELU MLP, biases everywhere.

use serde_json::{Value, json};

use super::config_reader::start;
use super::{ConfigReader, Family, GateUp, MatrixLayout, NAMELESS, Qkv, TensorNames};
use crate::error::Result;
use crate::model::network::blueprint::{Biases, Blueprint, MlpKind, NormSpec, PositionEncoding};

/// The family's row of [`super::FAMILIES`].
pub const GPT2: Family = Family {
    name: "gpt2",
    model_types: &["gpt2"],
    differs: "matrices are stored [in, out]; positions are learned; `mlp_gate` does not exist; the unembedding is tied",
    blueprint: read,
    names: TensorNames {
        prefixes: &["transformer.", ""],
        embed: "wte",
        positions: "wpe",
        block: "h.{}",
        norm_attn: "ln_1",
        qkv: Qkv::Fused("attn.c_attn"),
        attn_out: "attn.c_proj",
        norm_mlp: "ln_2",
        gate_up: GateUp::plain("mlp.c_fc"),
        down: "mlp.c_proj",
        norm_final: "ln_f",
        head: "lm_head",
        layout: MatrixLayout::InOut,
        ..NAMELESS
    },
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    read.refuse_flag(
        "scale_attn_by_inverse_layer_idx",
        "attention scores are divided by the layer",
    )?;
    read.refuse_flag("add_cross_attention", "blocks attend to a second sequence")?;
    let d_model = read.count(&["n_embd", "hidden_size"])?;
    let heads = read.count(&["n_head", "num_attention_heads"])?;
    let layers = read.layers(&["n_layer", "num_hidden_layers"])?;
    let positions = PositionEncoding::Learned { offset: 0 };
    let plain = start("gpt2", (d_model, heads, layers), MlpKind::Plain, positions);
    let scaled = read.flag_or("scale_attn_weights", true);
    Ok(Blueprint {
        d_mlp: read.count_or(&["n_inner"], 4 * d_model)?,
        vocab: read.count(&["vocab_size"])?,
        context: read.count_or(&["n_positions", "n_ctx", "max_position_embeddings"], 1024)?,
        norm: NormSpec::layer(read.number_or("layer_norm_epsilon", 1e-5)),
        score_scale: if scaled { plain.score_scale } else { 1.0 },
        activation: read.activation(&["activation_function"], "gelu_new")?,
        biases: Biases::of_blocks(true),
        tied: read.flag_or("tie_word_embeddings", true),
        ..plain
    })
}

fn tiny() -> Value {
    json!({
        "model_type": "gpt2", "n_embd": 24, "n_layer": 3, "n_head": 4, "n_inner": 56, "vocab_size": 61, "n_positions": 96,
        "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"
    })
}
