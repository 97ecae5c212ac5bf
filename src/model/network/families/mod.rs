//! Families: how a checkpoint's configuration and tensor names become a [`Blueprint`] and its weights.
//!
//! Invariant: a family holds no forward pass. To add one, write `families/x.rs` with a `pub const` [`Family`]
//! and add a word to [`FAMILIES`]; loading, sites, instruments and the invariant tests follow.

mod cohere;
mod config_defaults;
mod config_reader;
mod config_remarks;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod olmo;
mod olmo2;
mod olmoe;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope_config;
mod smollm3;
mod stablelm;
mod starcoder2;

use serde_json::Value;

use super::blueprint::Blueprint;
use super::rope::Rope;
use crate::error::{Error, Result};
pub(crate) use config_reader::ConfigReader;
pub use config_remarks::remarks;

/// How a checkpoint lays out a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixLayout {
    /// `[out, in]`, as `torch.nn.Linear`.
    OutIn,
    /// `[in, out]`, as GPT-2's `Conv1D`.
    InOut,
}

/// How a checkpoint stores queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub enum Qkv {
    /// Three matrices: queries, keys, values.
    Split(&'static str, &'static str, &'static str),
    /// One matrix: all queries, then all keys, then all values.
    Fused(&'static str),
    /// One matrix: for every head its query, its key and its value.
    FusedByHead(&'static str),
}

/// How a checkpoint stores gate and up.
#[derive(Clone, Copy, Debug)]
pub enum GateUp {
    /// Two matrices; a plain MLP has only `up`.
    Split {
        /// Gate, where there is one.
        gate: &'static str,
        up: &'static str,
    },
    /// One matrix: all of the gate, then all of up.
    Fused(&'static str),
}

impl GateUp {
    /// The matrices of an MLP without a gate.
    const fn plain(up: &'static str) -> Self {
        Self::Split { gate: "", up }
    }
}

/// Tensor names of a mixture of experts, relative to the block, with `{}` for the expert.
#[derive(Clone, Copy, Debug)]
pub struct ExpertNames {
    pub router: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
}

/// Tensor names; those of a block are relative to it. What a family does not have is empty.
#[derive(Clone, Copy, Debug)]
pub struct TensorNames {
    /// Prefixes under which whole checkpoints put everything but the head; the first that fits is used.
    pub prefixes: &'static [&'static str],
    /// Embedding, without `.weight`.
    pub embed: &'static str,
    /// Projection from the embedding's width to the residual stream's.
    pub project_in: &'static str,
    /// Projection from the residual stream's width to the embedding's.
    pub project_out: &'static str,
    /// Learned positions, without `.weight`.
    pub positions: &'static str,
    /// A block, with `{}` for the layer.
    pub block: &'static str,
    /// Norm before attention, or of the stream after it.
    pub norm_attn: &'static str,
    /// Norm of what attention writes.
    pub norm_attn_out: &'static str,
    /// Queries, keys and values.
    pub qkv: Qkv,
    /// Norm of queries; `{}` for the head where every head has a tensor of its own.
    pub q_norm: &'static str,
    /// Norm of keys.
    pub k_norm: &'static str,
    /// Attention output.
    pub attn_out: &'static str,
    /// Norm before the MLP, or of the stream after it.
    pub norm_mlp: &'static str,
    /// Norm of what the MLP writes.
    pub norm_mlp_out: &'static str,
    pub gate_up: GateUp,
    pub down: &'static str,
    /// The mixture of experts.
    pub experts: ExpertNames,
    pub norm_final: &'static str,
    /// Prefixes of the unembedding.
    pub head_prefixes: &'static [&'static str],
    /// Unembedding, when it is not tied.
    pub head: &'static str,
    /// How matrices lie.
    pub layout: MatrixLayout,
}

/// Names of nothing: what families outside Llama's naming fill in.
const NAMELESS: TensorNames = TensorNames {
    prefixes: &[""],
    embed: "",
    project_in: "",
    project_out: "",
    positions: "",
    block: "",
    norm_attn: "",
    norm_attn_out: "",
    qkv: Qkv::Fused(""),
    q_norm: "",
    k_norm: "",
    attn_out: "",
    norm_mlp: "",
    norm_mlp_out: "",
    gate_up: GateUp::Fused(""),
    down: "",
    experts: ExpertNames {
        router: "",
        gate: "",
        up: "",
        down: "",
    },
    norm_final: "",
    head_prefixes: &[""],
    head: "",
    layout: MatrixLayout::OutIn,
};

/// One row of [`FAMILIES`].
#[derive(Debug)]
pub struct Family {
    /// The name, as `model_type` spells it.
    pub name: &'static str,
    /// Every `model_type` it serves.
    pub model_types: &'static [&'static str],
    /// What a reader who knows Llama should know.
    pub differs: &'static str,
    /// Reads config.json.
    pub blueprint: fn(&Value) -> Result<Blueprint>,
    pub names: TensorNames,
    /// A small config.json for tests: two or three layers, every bias, multiplier and odd width that the family can have.
    pub tiny: fn() -> Value,
}

pub const FAMILIES: &[Family] = &[
    llama::LLAMA,
    mistral::MISTRAL,
    mixtral::MIXTRAL,
    qwen2::QWEN2,
    qwen3::QWEN3,
    qwen3_moe::QWEN3_MOE,
    gemma::GEMMA,
    gemma2::GEMMA2,
    gemma3::GEMMA3,
    phi::PHI,
    phi3::PHI3,
    gpt2::GPT2,
    gpt_neox::GPT_NEOX,
    opt::OPT,
    olmo::OLMO,
    olmo2::OLMO2,
    olmoe::OLMOE,
    starcoder2::STARCODER2,
    smollm3::SMOLLM3,
    granite::GRANITE,
    cohere::COHERE,
    stablelm::STABLELM,
];

/// The family that serves a config.json.
pub fn family_of(config: &Value) -> Result<&'static Family> {
    let found = config
        .get("model_type")
        .and_then(Value::as_str)
        .ok_or_else(|| Error::Config {
            what: "there is no `model_type`".into(),
            next: "Is this a language model's config.json?".into(),
        })?;
    if let Some(kind) = other_kind(found) {
        return Err(Error::Config {
            what: format!("model_type `{found}` is {kind}"),
            next: "Give a model that generates text.".into(),
        });
    }
    FAMILIES
        .iter()
        .find(|f| f.model_types.contains(&found))
        .ok_or_else(|| Error::UnknownFamily {
            found: found.to_string(),
            known: FAMILIES
                .iter()
                .flat_map(|f| f.model_types)
                .copied()
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// The family of a config.json and its blueprint; what no family can serve is refused here. Absent keys are those of the
/// family's class in transformers.
pub fn read(config: &Value) -> Result<(&'static Family, Blueprint)> {
    let family = family_of(config)?;
    refuse_quantized(config)?;
    if ConfigReader(config).flag_or("is_encoder_decoder", false) {
        return Err(Error::Config {
            what: "`is_encoder_decoder` is true".into(),
            next: "Give a decoder-only model.".into(),
        });
    }
    let model_type = config.get("model_type").and_then(Value::as_str);
    let whole = config_defaults::complete(config, model_type.unwrap_or(family.name))?;
    let blueprint = (family.blueprint)(&whole)?;
    check_experts(&blueprint)?;
    Ok((family, blueprint))
}

/// No more experts can be chosen than there are.
fn check_experts(blueprint: &Blueprint) -> Result<()> {
    match blueprint.experts {
        Some(experts) if experts.active > experts.count => Err(config_reader::compare(format!(
            "{} experts a token are to be chosen of {} (`num_experts_per_tok`)",
            experts.active, experts.count
        ))),
        _ => Ok(()),
    }
}

/// The same for a configuration that says everything itself, as that of a GGUF file does.
pub fn read_whole(config: &Value) -> Result<(&'static Family, Blueprint)> {
    let family = family_of(config)?;
    let blueprint = (family.blueprint)(config)?;
    check_experts(&blueprint)?;
    Ok((family, blueprint))
}

/// Weights that are stored as codes are refused. What bitsandbytes leaves behind with both of its flags off is no code.
fn refuse_quantized(config: &Value) -> Result<()> {
    let refused = |how: String| {
        Err(Error::Config {
            what: format!("the weights are quantized {how}, which is not supported"),
            next: "Take the original checkpoint (with --dtype q8_0 if memory is short) or a GGUF file."
                .into(),
        })
    };
    let object = |key: &str| config.get(key).and_then(Value::as_object);
    // What mlx_lm writes.
    if let Some(scheme) = object("quantization").filter(|s| s.contains_key("group_size")) {
        let bits = scheme.get("bits").and_then(Value::as_u64).unwrap_or(4);
        return refused(format!("for MLX ({bits} bits)"));
    }
    let mut schemes = ["quantization_config", "compression_config"]
        .map(object)
        .into_iter()
        .flatten();
    let Some(scheme) = schemes.find(|scheme| !scheme.is_empty()) else {
        return Ok(());
    };
    let method = scheme.get("quant_method").and_then(Value::as_str);
    let flags = ["load_in_8bit", "load_in_4bit"].map(|key| scheme.get(key));
    let mut said = flags.iter().flatten().peekable();
    let left_over = said.peek().is_some()
        && said.all(|flag| **flag == false || flag.is_null())
        && method.is_none_or(|method| method == "bitsandbytes");
    if left_over {
        return Ok(());
    }
    refused(format!("by `{}`", method.unwrap_or("an unnamed method")))
}

/// The rope of a family's layers that all rotate alike.
pub(crate) fn rope_of(config: &Value, family: &str, head_dim: usize) -> Result<Rope> {
    let rope_config::StandardRope(rope) = rope_config::standard(config, rope_config::keys(family))?;
    let most = ConfigReader(config).number_or("max_position_embeddings", 2048.0);
    Rope::read(&rope, most, head_dim)
}

/// Kinds of models that write no text, and every `model_type` of each.
const OTHERS: &[(&str, &str)] = &[
    (
        "an encoder: its attention is bidirectional, and it does not generate text",
        "bert roberta xlm-roberta distilbert albert electra deberta deberta-v2 mpnet modernbert nomic_bert new \
        camembert ernie eurobert neobert longformer big_bird",
    ),
    (
        "an encoder with a decoder, but only decoders are supported",
        "t5 mt5 umt5 t5gemma longt5 switch_transformers bart mbart marian pegasus m2m_100 blenderbot led fsmt \
        nllb-moe",
    ),
    (
        "an audio model",
        "whisper wav2vec2 hubert seamless_m4t speecht5 musicgen encodec",
    ),
    (
        "an image model",
        "vit clip siglip siglip_vision_model dinov2 convnext swin detr sam blip segformer",
    ),
];

/// What a `model_type` is that no family serves, where it writes no text.
fn other_kind(model_type: &str) -> Option<&'static str> {
    let mut rows = OTHERS.iter();
    rows.find(|(_, types)| names(types, model_type))
        .map(|(kind, _)| *kind)
}

/// Whether a name is one of a list with blanks between.
pub(crate) fn names(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|own| own == name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_type_names_the_known_ones() {
        let error = family_of(&serde_json::json!({"model_type": "mamba"}))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("mamba") && error.contains("qwen2"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_activation_is_refused() {
        for family in FAMILIES {
            let mut config = (family.tiny)();
            for key in ["hidden_act", "hidden_activation", "activation_function"] {
                config[key] = "swoosh".into();
            }
            assert!(
                (family.blueprint)(&config)
                    .unwrap_err()
                    .to_string()
                    .contains("swoosh"),
                "{}",
                family.name
            );
        }
    }

    #[test]
    fn an_unknown_rope_is_refused() {
        for family in FAMILIES {
            let mut config = (family.tiny)();
            let blueprint = (family.blueprint)(&config).unwrap();
            if matches!(
                blueprint.positions,
                crate::model::network::blueprint::PositionEncoding::Rotary(_)
            ) {
                config["rope_scaling"] = serde_json::json!({"rope_type": "twisted"});
                let error = (family.blueprint)(&config).unwrap_err().to_string();
                assert!(error.contains("twisted"), "{}: {error}", family.name);
            }
        }
    }

    #[test]
    fn foreign_quantization_is_refused_by_name() {
        let mut config = (FAMILIES[0].tiny)();
        config["quantization_config"] = serde_json::json!({"quant_method": "awq"});
        assert!(read(&config).unwrap_err().to_string().contains("awq"));
    }

    #[test]
    fn no_two_families_serve_one_model_type() {
        let mut all: Vec<&str> = FAMILIES
            .iter()
            .flat_map(|f| f.model_types)
            .copied()
            .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
