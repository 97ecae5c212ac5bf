//! A Hugging Face checkpoint as llama.cpp's `convert_hf_to_gguf.py` writes it (llama-cpp-python 0.3.36).
//!
//! Invariant: names, row orders, stacks and keys follow that script, written down here a second time; nothing of the
//! reader under test is used. For the families below its files and those of the script agree tensor by tensor.
//! Beside its keys stand a few that only llama.cpp's loader knows (`rope.freq_base` for every architecture,
//! `attention.sliding_window_pattern`), so that more of a reference's configuration can be said.

use std::collections::{BTreeMap, HashMap};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};
use serde_json::Value;

use super::file::{File, Meta, Stored, kind};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// `model_type` and `general.architecture`.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("llama", "llama"),
    ("mistral", "llama"),
    ("mixtral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("qwen3_moe", "qwen3moe"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gemma3_text", "gemma3"),
    ("phi", "phi2"),
    ("phi3", "phi3"),
    ("gpt2", "gpt2"),
    ("gpt_neox", "gptneox"),
    ("olmo", "olmo"),
    ("olmo2", "olmo2"),
    ("olmoe", "olmoe"),
    ("starcoder2", "starcoder2"),
    ("smollm3", "smollm3"),
    ("granite", "granite"),
    ("cohere", "command-r"),
    ("stablelm", "stablelm"),
];

/// The name map of gguf-py, for the families above: the end of a Hugging Face name, and GGUF's.
const NAMES: &[(&str, &str)] = &[
    ("embed_tokens", "token_embd"),
    ("wte", "token_embd"),
    ("embed_in", "token_embd"),
    ("wpe", "position_embd"),
    ("norm", "output_norm"),
    ("ln_f", "output_norm"),
    ("final_layernorm", "output_norm"),
    ("final_layer_norm", "output_norm"),
    ("lm_head", "output"),
    ("embed_out", "output"),
    ("input_layernorm", "attn_norm"),
    ("ln_1", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.dense", "attn_output"),
    ("attention.dense", "attn_output"),
    ("attn.c_proj", "attn_output"),
    ("attn.c_attn", "attn_qkv"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("attention.query_key_value", "attn_qkv"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_layernorm", "attn_q_norm"),
    ("self_attn.k_layernorm", "attn_k_norm"),
    ("ln_2", "ffn_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.dense_4h_to_h", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("gate_proj", "ffn_gate_exps"),
    ("up_proj", "ffn_up_exps"),
    ("down_proj", "ffn_down_exps"),
    ("w1", "ffn_gate_exps"),
    ("w3", "ffn_up_exps"),
    ("w2", "ffn_down_exps"),
];

/// Converts a checkpoint; `matrices` is the type of everything with two dimensions or more.
pub fn convert(
    config: &Value,
    tensors: &HashMap<String, Tensor>,
    matrices: impl Fn(&str) -> GgmlDType,
) -> Outcome<File> {
    let model_type = config["model_type"].as_str().ok_or("no model_type")?;
    let arch = ARCHITECTURES
        .iter()
        .find(|a| a.0 == model_type)
        .ok_or("unknown family")?
        .1;
    let mut file = metadata(config, model_type, arch);
    // Experts and the norms of single heads are stacked in the order of their numbers.
    let mut stacks: BTreeMap<String, BTreeMap<usize, Tensor>> = BTreeMap::new();
    let mut all: BTreeMap<String, Tensor> = BTreeMap::new();
    for (name, tensor) in tensors {
        let tensor = modify(config, model_type, name, tensor.to_dtype(DType::F32)?)?;
        let (name, number) = rename(model_type, name)?;
        match number {
            Some(n) => {
                stacks.entry(name).or_default().insert(n, tensor);
            }
            None => {
                all.insert(name, tensor);
            }
        }
    }
    for (name, parts) in stacks {
        let parts: Vec<Tensor> = parts.into_values().collect();
        all.insert(name, Tensor::stack(&parts, 0)?);
    }
    for (name, values) in factors(config) {
        let length = values.len();
        all.insert(
            name.into(),
            Tensor::from_vec(values, length, &candle_core::Device::Cpu)?,
        );
    }
    for (name, tensor) in all {
        let wide = tensor.rank() > 1 && !name.contains("norm") && !name.contains("ffn_gate_inp");
        let dtype = if wide {
            matrices(&name)
        } else {
            GgmlDType::F32
        };
        let shape = tensor.dims().to_vec();
        let bytes = QTensor::quantize(&tensor, dtype)?.data()?.into_owned();
        let kind = kind(dtype);
        file.tensors.push(Stored {
            name,
            shape,
            kind,
            bytes,
        });
    }
    Ok(file)
}

/// The GGUF name, and the place in a stack.
fn rename(model_type: &str, name: &str) -> Outcome<(String, Option<usize>)> {
    let (stem, part) = name.rsplit_once('.').ok_or("no dot")?;
    let parts: Vec<&str> = stem.split('.').collect();
    let layer = parts.iter().position(|p| *p == "layers" || *p == "h");
    let Some(at) = layer else {
        let last = parts[parts.len() - 1];
        let found = NAMES
            .iter()
            .find(|n| n.0 == last)
            .ok_or(format!("no name for {name}"))?;
        return Ok((format!("{}.{part}", found.1), None));
    };
    let block = parts[at + 1];
    let mut inner = parts[at + 2..].to_vec();
    let mut number = None;
    if let Some(stack) = inner.iter().position(|p| *p == "experts") {
        number = Some(inner[stack + 1].parse()?);
        inner = inner[stack + 2..].to_vec();
    } else if let Some(stack) = inner.iter().position(|p| *p == "norms") {
        number = Some(inner[stack + 1].parse()?);
        inner.truncate(stack);
    }
    let inner = inner.join(".");
    let gguf = match (inner.as_str(), model_type) {
        ("post_attention_layernorm", "gemma2" | "gemma3_text" | "olmo2") => "post_attention_norm",
        ("post_attention_layernorm", _) => "ffn_norm",
        (inner, _) => {
            NAMES
                .iter()
                .find(|n| n.0 == inner)
                .ok_or(format!("no name for {name}"))?
                .1
        }
    };
    Ok((format!("blk.{block}.{gguf}.{part}"), number))
}

/// `modify_tensors` of the script's classes.
fn modify(config: &Value, model_type: &str, name: &str, tensor: Tensor) -> Outcome<Tensor> {
    let number = |key: &str| config[key].as_u64().map(|n| n as usize);
    let heads = number("num_attention_heads")
        .or(number("n_head"))
        .unwrap_or(1);
    let kv_heads = number("num_key_value_heads").unwrap_or(heads);
    let bias = name.ends_with(".bias");
    Ok(match model_type {
        "llama" | "mistral" | "mixtral" | "smollm3" | "granite" | "olmo"
            if !(bias && model_type == "olmo") =>
        {
            if name.contains("q_proj.") {
                permute(&tensor, heads)?
            } else if name.contains("k_proj.") {
                permute(&tensor, kv_heads)?
            } else {
                tensor
            }
        }
        "gemma" | "gemma2" | "gemma3_text" if name.ends_with("norm.weight") => (tensor + 1.0)?,
        "gpt2" if tensor.rank() == 2 && name.contains(".c_") => tensor.t()?.contiguous()?,
        "gpt_neox" if name.contains("query_key_value") => {
            let rows = tensor.dim(0)?;
            let rest = tensor.elem_count() / rows;
            let apart = tensor.reshape((heads, 3, rows / heads / 3, rest))?;
            apart
                .transpose(0, 1)?
                .contiguous()?
                .reshape(tensor.shape())?
        }
        _ => tensor,
    })
}

/// `LlamaModel.permute`.
fn permute(tensor: &Tensor, heads: usize) -> Outcome<Tensor> {
    let rows = tensor.dim(0)?;
    let rest = tensor.elem_count() / rows;
    let apart = tensor.reshape((heads, 2, rows / heads / 2, rest))?;
    Ok(apart
        .transpose(1, 2)?
        .contiguous()?
        .reshape(tensor.shape())?)
}

/// `generate_extra_tensors`: divisors of the rope's frequencies.
fn factors(config: &Value) -> Vec<(&'static str, Vec<f32>)> {
    let scaling = &config["rope_scaling"];
    let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str());
    let list = |key: &str| -> Vec<f32> {
        scaling[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .map(|x| x as f32)
            .collect()
    };
    match kind {
        Some("longrope") => vec![
            ("rope_factors_long.weight", list("long_factor")),
            ("rope_factors_short.weight", list("short_factor")),
        ],
        Some("llama3") => {
            let number = |key: &str| scaling[key].as_f64().unwrap_or(f64::NAN);
            let base = config["rope_theta"].as_f64().unwrap_or(10_000.0);
            let heads = config["num_attention_heads"].as_f64().unwrap_or(1.0);
            let dim = config["head_dim"]
                .as_f64()
                .unwrap_or(config["hidden_size"].as_f64().unwrap_or(0.0) / heads);
            let original = number("original_max_position_embeddings");
            let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
            let one = |i: usize| {
                let wavelength = 2.0 * std::f64::consts::PI * base.powf(2.0 * i as f64 / dim);
                if wavelength < original / high {
                    1.0
                } else if wavelength > original / low {
                    number("factor")
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    1.0 / ((1.0 - smooth) / number("factor") + smooth)
                }
            };
            vec![(
                "rope_freqs.weight",
                (0..dim as usize / 2).map(|i| one(i) as f32).collect(),
            )]
        }
        _ => Vec::new(),
    }
}

/// `set_gguf_parameters` of the script's classes.
fn metadata(config: &Value, model_type: &str, arch: &str) -> File {
    let mut file = File::default();
    file.put("general.architecture", arch);
    let whole = |keys: &[&str]| {
        keys.iter()
            .find_map(|k| config[*k].as_u64())
            .map(|n| n as usize)
    };
    let real = |keys: &[&str]| keys.iter().find_map(|k| config[*k].as_f64());
    let d_model = whole(&["hidden_size", "n_embd"]).unwrap_or(0);
    let heads = whole(&["num_attention_heads", "n_head"]).unwrap_or(1);
    let layers = whole(&["num_hidden_layers", "n_layer"]).unwrap_or(0);
    let mut put = |key: &str, value: Option<Meta>| {
        if let Some(value) = value {
            file.put(format!("{arch}.{key}"), value);
        }
    };
    put("block_count", Some(layers.into()));
    put(
        "context_length",
        whole(&["max_position_embeddings", "n_positions"]).map(Meta::from),
    );
    put("embedding_length", Some(d_model.into()));
    // The script writes four times the width for these two, whatever the checkpoint has.
    let width = match model_type {
        "gpt2" | "phi" => Some(4 * d_model),
        _ => whole(&["intermediate_size"]),
    };
    put("feed_forward_length", width.map(Meta::from));
    put("attention.head_count", Some(heads.into()));
    if model_type != "gpt2" && model_type != "gpt_neox" {
        put(
            "attention.head_count_kv",
            Some(whole(&["num_key_value_heads"]).unwrap_or(heads).into()),
        );
    }
    let head_dim = whole(&["head_dim"]);
    put("attention.key_length", head_dim.map(Meta::from));
    put("attention.value_length", head_dim.map(Meta::from));
    put(
        "attention.layer_norm_rms_epsilon",
        real(&["rms_norm_eps"]).map(Meta::from),
    );
    let epsilon = if model_type == "olmo" {
        Some(1e-5)
    } else {
        real(&["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"])
    };
    put("attention.layer_norm_epsilon", epsilon.map(Meta::from));
    put(
        "rope.freq_base",
        real(&["rope_theta", "rotary_emb_base"]).map(Meta::from),
    );
    put(
        "rope.freq_base_swa",
        real(&["rope_local_base_freq"]).map(Meta::from),
    );
    let partial = real(&["partial_rotary_factor", "rotary_pct"]).unwrap_or(1.0);
    let head_dim = head_dim.unwrap_or(d_model / heads);
    put(
        "rope.dimension_count",
        Some(((partial * head_dim as f64) as usize).into()),
    );
    put(
        "attention.sliding_window",
        whole(&["sliding_window"]).map(Meta::from),
    );
    put(
        "attn_logit_softcapping",
        real(&["attn_logit_softcapping"]).map(Meta::from),
    );
    put(
        "final_logit_softcapping",
        real(&["final_logit_softcapping"]).map(Meta::from),
    );
    put(
        "expert_count",
        whole(&["num_local_experts", "num_experts"]).map(Meta::from),
    );
    put(
        "expert_used_count",
        whole(&["num_experts_per_tok"]).map(Meta::from),
    );
    put(
        "expert_feed_forward_length",
        whole(&["moe_intermediate_size"]).map(Meta::from),
    );
    put(
        "use_parallel_residual",
        config["use_parallel_residual"].as_bool().map(Meta::from),
    );
    put("attention.clamp_kqv", real(&["clip_qkv"]).map(Meta::from));
    put(
        "attention.scale",
        real(&["attention_multiplier"]).map(Meta::from),
    );
    put(
        "embedding_scale",
        real(&["embedding_multiplier"]).map(Meta::from),
    );
    put(
        "residual_scale",
        real(&["residual_multiplier"]).map(Meta::from),
    );
    put(
        "logit_scale",
        real(&["logits_scaling", "logit_scale"]).map(Meta::from),
    );
    if model_type == "gemma3_text" {
        let types = config["layer_types"].as_array().into_iter().flatten();
        let slides = types.map(|t| t == "sliding_attention").collect();
        put(
            "attention.sliding_window_pattern",
            Some(Meta::Bools(slides)),
        );
    }
    let scaling = &config["rope_scaling"];
    let number = |key: &str| scaling[key].as_f64().map(Meta::from);
    let original = scaling["original_max_position_embeddings"]
        .as_u64()
        .map(|n| n as usize);
    match scaling["rope_type"].as_str().or(scaling["type"].as_str()) {
        Some("linear") => {
            put("rope.scaling.type", Some("linear".into()));
            put("rope.scaling.factor", number("factor"));
        }
        Some("yarn") => {
            put("rope.scaling.type", Some("yarn".into()));
            put("rope.scaling.factor", number("factor"));
            put(
                "rope.scaling.original_context_length",
                original.map(Meta::from),
            );
            put("rope.scaling.yarn_attn_factor", number("attention_factor"));
            put("rope.scaling.yarn_beta_fast", number("beta_fast"));
            put("rope.scaling.yarn_beta_slow", number("beta_slow"));
        }
        Some("longrope") => {
            let most = real(&["max_position_embeddings"]).unwrap_or(f64::NAN);
            let original = real(&["original_max_position_embeddings"]).unwrap_or(f64::NAN);
            let attention = (1.0 + (most / original).ln() / original.ln()).sqrt();
            put("rope.scaling.type", Some("longrope".into()));
            put(
                "rope.scaling.original_context_length",
                Some((original as usize).into()),
            );
            put("rope.scaling.attn_factor", Some(attention.into()));
        }
        _ => {}
    }
    file
}
