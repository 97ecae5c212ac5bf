//! Llama 1, 2 and 3.x, and models of the same architecture: RMSNorm, rotary positions, gated SiLU, no biases by default.

use serde_json::{Value, json};

use super::config_reader::start;
use super::rope_config::{StandardRope, by_layer_type};
use super::{ConfigReader, ExpertNames, Family, GateUp, NAMELESS, Qkv, TensorNames, rope_of};
use crate::error::Result;
use crate::model::network::blueprint::{
    Biases, Blueprint, MlpKind, NormSpec, PositionEncoding, QkNorm, QkNormOver,
};
use crate::model::network::rope::{Rope, RopeScaling};

/// The family's row of [`super::FAMILIES`].
pub const LLAMA: Family = Family {
    name: "llama",
    model_types: &["llama"],
    differs: "the reference shape; `attention_bias` puts a bias on q, k, v and the output, `mlp_bias` on the MLP",
    blueprint: read,
    names: NAMES,
    tiny,
};

/// Tensor names that most later families share.
pub(crate) const NAMES: TensorNames = TensorNames {
    prefixes: &["model.", ""],
    embed: "embed_tokens",
    block: "layers.{}",
    norm_attn: "input_layernorm",
    qkv: Qkv::Split("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    attn_out: "self_attn.o_proj",
    norm_mlp: "post_attention_layernorm",
    gate_up: GateUp::Split {
        gate: "mlp.gate_proj",
        up: "mlp.up_proj",
    },
    down: "mlp.down_proj",
    experts: ExpertNames {
        router: "mlp.gate",
        gate: "mlp.experts.{}.gate_proj",
        up: "mlp.experts.{}.up_proj",
        down: "mlp.experts.{}.down_proj",
    },
    norm_final: "norm",
    head: "lm_head",
    ..NAMELESS
};

fn read(config: &Value) -> Result<Blueprint> {
    let mut blueprint = common(config, "llama")?;
    blueprint.biases = attention_biases(config);
    blueprint.biases.mlp = ConfigReader(config).flag_or("mlp_bias", false);
    Ok(blueprint)
}

/// The settings that Llama-like families share: no biases, untied, every layer with the same rotation and no window.
pub(crate) fn common(config: &Value, family: &'static str) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let d_model = read.count(&["hidden_size"])?;
    let heads = read.count(&["num_attention_heads"])?;
    let kv_heads = read.count_or(&["num_key_value_heads"], heads)?;
    read.heads(heads, kv_heads)?;
    let head_dim = read.count_or(&["head_dim"], (d_model / heads).max(1))?;
    let rope = if family == "gemma3_text" {
        let [StandardRope(full), _] = by_layer_type(config)?;
        let most = read.number_or("max_position_embeddings", 2048.0);
        Rope::read(&full, most, head_dim)?
    } else {
        rope_of(config, family, head_dim)?
    };
    let sizes = (d_model, heads, read.layers(&["num_hidden_layers"])?);
    Ok(Blueprint {
        kv_heads,
        head_dim,
        d_mlp: read.count_or(&["intermediate_size"], 4 * d_model)?,
        vocab: read.count(&["vocab_size"])?,
        context: stretched(&rope, read.count_or(&["max_position_embeddings"], 2048)?),
        norm: NormSpec::rms(read.number_or("rms_norm_eps", 1e-6)),
        score_scale: 1.0 / (head_dim as f64).sqrt(),
        activation: read.activation(&["hidden_act"], "silu")?,
        tied: read.flag_or("tie_word_embeddings", false),
        ..start(
            family,
            sizes,
            MlpKind::Gated,
            PositionEncoding::Rotary(vec![rope]),
        )
    })
}

/// The context that a rotation supports: `dynamic` stretches as a text grows, so its original length is no limit.
fn stretched(rope: &Rope, positions: usize) -> usize {
    let RopeScaling::Dynamic { factor, .. } = rope.scaling else {
        return positions;
    };
    (positions as f64 * factor.max(1.0) * 4.0).min(f64::from(1 << 24)) as usize
}

/// Biases on queries, keys, values and the attention output if `attention_bias` is set.
pub(crate) fn attention_biases(config: &Value) -> Biases {
    Biases {
        mlp: false,
        ..Biases::of_blocks(ConfigReader(config).flag_or("attention_bias", false))
    }
}

/// RMSNorm of queries and keys with the epsilon of the other norms.
pub(crate) fn qk_norm(blueprint: &Blueprint, over: QkNormOver) -> QkNorm {
    QkNorm {
        norm: blueprint.norm,
        over,
    }
}

/// Gives the window to the layers that `layer_types` calls sliding; an error if there are some and no window.
pub(crate) fn slide_named(
    blueprint: &mut Blueprint,
    window: Option<usize>,
    sliding: &[bool],
) -> Result<()> {
    if window.is_none() && sliding.contains(&true) {
        return Err(crate::error::Error::Config {
            what: "some layers slide, and `sliding_window` is not set".into(),
            next: "Compare sliding_window, use_sliding_window and layer_types with the config.json on the hub.".into(),
        });
    }
    slide(blueprint, window, sliding);
    Ok(())
}

/// Gives the window to the layers marked in `sliding`.
fn slide(blueprint: &mut Blueprint, window: Option<usize>, sliding: &[bool]) {
    for (layer, slides) in blueprint.layers.iter_mut().zip(sliding) {
        layer.window = window.filter(|_| *slides);
    }
}

/// Gives every layer the same window.
pub(crate) fn slide_all(blueprint: &mut Blueprint, window: Option<usize>) {
    blueprint.layers.iter_mut().for_each(|l| l.window = window);
}

fn tiny() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "intermediate_size": 40, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-5,
        "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": false, "rope_theta": 5000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    })
}
