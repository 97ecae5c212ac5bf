//! Folders of `SAELens`: `cfg.json` and `sae_weights.safetensors`, of version 6 and before.
//!
//! Source: `sae_lens/loading/pretrained_sae_loaders.py` (`handle_pre_6_0_config`) and `sae_lens/saes/*.py` of 6.54.

use serde_json::Value;

use super::super::dictionary::Dictionary;
use super::super::gate::FeatureGate;
use super::super::norms::InputNorm;
use super::super::place::DictionaryPlace;
use super::Format;
use super::source::{
    Source, by_feature, by_width, count, input, model_name, no_count, number, switch, target,
    vector, word,
};
use crate::error::{Error, Result};
use crate::model::checkpoint::tensor_file::TensorFile;
use crate::text;

/// The row of this format.
pub const SAELENS: Format = Format {
    name: "SAELens",
    about: "a folder with cfg.json and sae_weights.safetensors",
    fits: |source| source.has(WEIGHTS) && source.beside("cfg.json"),
    read,
};

const WEIGHTS: &str = "sae_weights.safetensors";

/// What the config says, of either version.
struct SaeConfig {
    architecture: String,
    k: Option<usize>,
    /// Where the hooks and the model are named.
    metadata: Value,
    normalize: String,
    rescale: bool,
    less: Option<bool>,
    /// The activation function of an old config, where it is another one than that of its architecture.
    function: Option<String>,
}

fn config(all: &Value) -> SaeConfig {
    let version = |of: &Value| word(of, "sae_lens_version").map(str::to_owned);
    let metadata = all.get("metadata").cloned().unwrap_or(Value::Null);
    let version = version(all).or_else(|| version(&metadata));
    let major = version.and_then(|v| v.split('.').next()?.parse::<usize>().ok());
    let new = major.is_some_and(|major| major >= 6);
    let text = |key: &str| word(all, key).map(str::to_owned);
    let mut architecture = text("architecture").unwrap_or_else(|| "standard".into());
    let mut k = count(all, "k");
    let mut other = None;
    if !new {
        let function = text("activation_fn").or_else(|| text("activation_fn_str"));
        let kwargs = all.get("activation_fn_kwargs");
        match function.as_deref() {
            Some("topk") => {
                architecture = "topk".into();
                k = kwargs.and_then(|a| count(a, "k")).or(k);
            }
            None | Some("relu") => {}
            Some(_) => other = function,
        }
    }
    let normalize = match all.get("normalize_activations") {
        Some(Value::Bool(true)) => "expected_average_only_in".into(),
        Some(Value::String(name)) => name.clone(),
        _ => "none".into(),
    };
    SaeConfig {
        architecture,
        k,
        metadata: if word(&metadata, "hook_name").is_some() || new && !metadata.is_null() {
            metadata
        } else {
            all.clone()
        },
        normalize,
        rescale: switch(all, "rescale_acts_by_decoder_norm").unwrap_or(false),
        less: switch(all, "apply_b_dec_to_input"),
        function: other,
    }
}

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let Some(all) = source.json("cfg.json")? else {
        return Err(source.bad("it has no cfg.json"));
    };
    let config = config(&all);
    let file = source.tensors(WEIGHTS)?;
    let metadata = &config.metadata;
    if let Some(other) = &config.function {
        let what = format!(
            "its activation_fn is `{}`; relu and topk are read",
            text::visible(other.as_bytes())
        );
        return Err(source.bad(what));
    }
    let hook = word(metadata, "hook_name").or_else(|| word(metadata, "hook_point"));
    let head = ["hook_head_index", "hook_point_head_index"];
    if head
        .iter()
        .any(|key| metadata.get(*key).is_some_and(Value::is_number))
    {
        return Err(
            source.bad("it was trained on one head alone, and there is no site of one head")
        );
    }
    let place = hook.map_or(DictionaryPlace::Unsaid, |hook| {
        DictionaryPlace::Named(hook.to_string())
    });
    reshape(&all, hook, source)?;
    let transcoder = config.architecture.contains("transcoder");
    let encoder = by_width(&file, "W_enc")?;
    let decoder = by_feature(&file, "W_dec")?;
    let (features, width) = (encoder.features, encoder.width);
    let mut said = vec![("d_sae", features), ("d_in", width)];
    if transcoder {
        said.push(("d_out", decoder.width));
    }
    for (key, found) in said {
        if let Some(said) = count(&all, key).filter(|said| *said != found) {
            return Err(file.bad(
                format!("its W_enc is [{width}, {features}] and its W_dec [{}, {}], and cfg.json says {key} {said}", decoder.features, decoder.width),
                "Are config and weights of one dictionary, and is no matrix transposed?",
            ));
        }
    }
    let out = match word(metadata, "hook_name_out") {
        Some(hook) if transcoder => DictionaryPlace::Named(hook.to_string()),
        None if transcoder => DictionaryPlace::Unsaid,
        _ => place.clone(),
    };
    let b_dec = vector(&file, "b_dec", decoder.width)?;
    let mut read = input(place, encoder);
    let mut written = target(out, decoder, b_dec.clone());
    if config.less.unwrap_or(!transcoder) {
        if transcoder {
            return Err(source
                .bad("it subtracts b_dec from the input of a transcoder, which SAELens refuses"));
        }
        read.less = Some(b_dec);
    }
    let mut remarks = trained_on(metadata);
    read.norm = norm(&config, metadata, source)?;
    written.undo = true;
    if file.has("W_skip") {
        written.skip = Some(by_feature(&file, "W_skip")?);
    }
    if config.architecture.contains("skip") != file.has("W_skip") {
        let what = format!(
            "its architecture is {}, and W_skip is {}",
            config.architecture,
            if file.has("W_skip") {
                "there"
            } else {
                "missing"
            }
        );
        return Err(file.bad(what, "Are config and weights of one dictionary?"));
    }
    let k = || config.k.ok_or_else(|| source.bad(no_count(&all, "k")));
    let gate = match config.architecture.as_str() {
        "standard" | "transcoder" | "skip_transcoder" => FeatureGate::Relu,
        "jumprelu" | "jumprelu_transcoder" | "jumprelu_skip_transcoder" => {
            FeatureGate::JumpRelu(vector(&file, "threshold", features)?)
        }
        "topk" => FeatureGate::TopK(k()?),
        "abstopk" => FeatureGate::AbsTopK(k()?),
        "gated" => FeatureGate::Gated {
            gate: vector(&file, "b_gate", features)?,
            scale: vector(&file, "r_mag", features)?
                .into_iter()
                .map(f32::exp)
                .collect(),
            magnitude: vector(&file, "b_mag", features)?,
        },
        other => {
            let what = format!(
                "its architecture is `{}`; standard, gated, jumprelu, topk, abstopk and transcoders are read",
                text::visible(other.as_bytes())
            );
            return Err(source.bad(what));
        }
    };
    let gated = matches!(gate, FeatureGate::Gated { .. });
    let mut dictionary = Dictionary {
        name: source.name(),
        format: SAELENS.name,
        made_for: model_name(metadata, "model_name"),
        inputs: vec![read],
        bias: if gated {
            vec![0.0; features]
        } else {
            vector(&file, "b_enc", features)?
        },
        gate,
        targets: vec![written],
        remarks: Vec::new(),
    };
    let finetuned = switch(&all, "finetuning_scaling_factor");
    let factors = ["scaling_factor", "finetuning_scaling_factor"];
    let factors = factors.into_iter().find(|name| file.has(name));
    if finetuned == Some(true) && factors.is_none() {
        return Err(file.bad(
            "cfg.json says finetuning_scaling_factor, and scaling_factor is missing",
            super::source::NEXT,
        ));
    }
    if let Some(name) = factors {
        let factors = vector(&file, name, features)?;
        if factors.iter().any(|s| (s - 1.0).abs() > 1e-5) {
            if finetuned == Some(false) {
                return Err(file.bad(
                    format!("it has a {name}, and cfg.json says that there is none (finetuning_scaling_factor: false)"),
                    "Are config and weights of one dictionary?",
                ));
            }
            let target = &mut dictionary.targets[0];
            target.scale = target.scale.times(|f| factors[f], features);
        }
    }
    if config.rescale
        && matches!(
            dictionary.gate,
            FeatureGate::TopK(_) | FeatureGate::AbsTopK(_)
        )
    {
        let n = dictionary.decoder_norms_watched(source.report)?;
        dictionary.rescale(&n);
    }
    if config.normalize == "expected_average_only_in" {
        match factor(source, &file)? {
            Some(factor) => dictionary.fold_input_scale(factor),
            None => remarks.push("its file says that activations were scaled to an average norm of √d_in before training, by a factor that it does not hold: they are read as they are, and activations and L0 may be wrong. The page of the release says norm_scaling_factor; write it as {\"scaling_factor\": S} into activation_scaler.json beside cfg.json".to_string()),
        }
    }
    dictionary.remarks = remarks;
    Ok(vec![dictionary])
}

/// Refuses activations of another shape than the site has: those of `hook_z` are all heads beside each other there as well.
fn reshape(config: &Value, hook: Option<&str>, source: &Source) -> Result<()> {
    let z = hook.is_some_and(|hook| hook.ends_with("_z"));
    match word(config, "reshape_activations") {
        None | Some("none") => Ok(()),
        Some("hook_z") if z => Ok(()),
        Some(other) => Err(source.bad(format!(
            "its activations are reshaped by `{}` at {}; hook_z at a hook_z is read",
            text::visible(other.as_bytes()),
            text::visible(hook.unwrap_or("no hook").as_bytes())
        ))),
    }
}

/// What its config says of the positions and tokens that it was trained on.
fn trained_on(metadata: &Value) -> Vec<String> {
    let mut said = Vec::new();
    let slice = metadata.get("seqpos_slice").and_then(Value::as_array);
    let whole = |slice: &Vec<Value>| {
        let all = |at: &Value| at.is_null() || at.as_i64() == Some(0);
        slice.iter().take(2).all(all) && slice.get(2).is_none_or(|s| s.is_null() || *s == 1)
    };
    if let Some(slice) = slice.filter(|slice| !whole(slice)) {
        let slice: Vec<String> = slice.iter().map(Value::to_string).collect();
        said.push(format!(
            "it was trained on some positions of a text alone, and is shown at all: seqpos_slice [{}] (begin, end, step)",
            slice.join(", ")
        ));
    }
    if switch(metadata, "prepend_bos") == Some(false) {
        said.push("it was trained on texts without a BOS token before them".into());
    }
    let special = metadata.get("exclude_special_tokens");
    if special.is_some_and(|s| !s.is_null() && *s != false) {
        said.push("it was trained without special tokens (exclude_special_tokens): its features there say little".into());
    }
    said
}

fn norm(config: &SaeConfig, metadata: &Value, source: &Source) -> Result<InputNorm> {
    let centred = metadata
        .get("model_from_pretrained_kwargs")
        .and_then(|k| switch(k, "center_writing_weights"))
        .unwrap_or(false);
    match config.normalize.as_str() {
        "none" | "expected_average_only_in" if centred => Ok(InputNorm::Centred),
        "none" | "expected_average_only_in" => Ok(InputNorm::Nothing),
        // It subtracts the mean anyway.
        "layer_norm" => Ok(InputNorm::LayerNorm),
        "constant_norm_rescale" if !centred => Ok(InputNorm::ConstantNorm),
        other => Err(source.bad(format!(
            "its activations are normalised by `{}`{}; none, expected_average_only_in, constant_norm_rescale and layer_norm are read",
            text::visible(other.as_bytes()),
            if centred { " of centred weights" } else { "" }
        ))),
    }
}

/// The factor to an average norm, where a file beside the weights has it.
fn factor(source: &Source, file: &TensorFile) -> Result<Option<f32>> {
    let Some(scaler) = source.json("activation_scaler.json")? else {
        return Ok(None);
    };
    let factor =
        number(&scaler, "scaling_factor").or_else(|| number(&scaler, "norm_scaling_factor"));
    match factor.filter(|s| s.is_finite() && *s > 0.0) {
        Some(factor) => Ok(Some(factor)),
        None => Err(Error::bad_file(
            file.path().with_file_name("activation_scaler.json"),
            "it has no positive scaling_factor",
            super::source::NEXT,
        )),
    }
}
