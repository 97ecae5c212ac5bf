//! Folders of `dictionary_learning`: `ae.pt` and `config.json`, whose `dict_class` says how the tensors are meant.
//!
//! Source: `dictionary_learning/dictionary.py` and `trainers/*.py` of saprmarks (Aug 2025).

use serde_json::Value;

use super::super::dictionary::Dictionary;
use super::super::gate::FeatureGate;
use super::super::place::DictionaryPlace;
use super::Format;
use super::source::{Source, by_feature, by_width, count, input, model_name, target, vector, word};
use crate::error::Result;
use crate::model::checkpoint::tensor_file::TensorFile;
use crate::model::network::site::Site;
use crate::text;

/// The row of this format.
pub const DICTIONARY_LEARNING: Format = Format {
    name: "dictionary_learning",
    about: "a folder with ae.pt and config.json",
    fits: |source| source.has("ae.pt") && source.beside("config.json"),
    read,
};

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let Some(config) = source.json("config.json")? else {
        return Err(source.bad("it has no config.json"));
    };
    let trainer = config.get("trainer").unwrap_or(&config);
    let file = source.tensors("ae.pt")?;
    let Some(class) = word(trainer, "dict_class") else {
        return Err(source.bad("its config.json has no trainer.dict_class"));
    };
    let place = place(trainer);
    // Names of tensors: of modules of PyTorch, or of parameters.
    let modules = file.has("encoder.weight");
    let (encoder, decoder) = if modules {
        (
            by_feature(&file, "encoder.weight")?,
            by_width(&file, "decoder.weight")?,
        )
    } else {
        (by_width(&file, "W_enc")?, by_feature(&file, "W_dec")?)
    };
    let (features, width) = (encoder.features, encoder.width);
    for (key, found) in [("activation_dim", width), ("dict_size", features)] {
        if let Some(said) = count(trainer, key).filter(|said| *said != found) {
            let what = format!(
                "its encoder is for {features} features and width {width}, and config.json says {key} {said}"
            );
            return Err(file.bad(what, super::source::NEXT));
        }
    }
    let named = |name: &str, length: usize| vector(&file, name, length);
    let b_enc = || named(if modules { "encoder.bias" } else { "b_enc" }, features);
    // The name of the decoder's bias, and whether it is subtracted from the input.
    let (bias, less) = match class {
        "AutoEncoder" => ("bias", true),
        "AutoEncoderNew" => ("decoder.bias", false),
        "GatedAutoEncoder" => ("decoder_bias", true),
        "JumpReluAutoEncoder" => ("b_dec", false),
        "AutoEncoderTopK" | "BatchTopKSAE" | "MatryoshkaBatchTopKSAE" => ("b_dec", true),
        other => {
            let what = format!(
                "its dict_class is `{}`; AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder, AutoEncoderTopK, BatchTopKSAE and MatryoshkaBatchTopKSAE are read",
                text::visible(other.as_bytes())
            );
            return Err(source.bad(what));
        }
    };
    let mut remarks = Vec::new();
    let gate = match class {
        "GatedAutoEncoder" => FeatureGate::Gated {
            gate: named("gate_bias", features)?,
            scale: named("r_mag", features)?
                .into_iter()
                .map(f32::exp)
                .collect(),
            magnitude: named("mag_bias", features)?,
        },
        "JumpReluAutoEncoder" => FeatureGate::JumpRelu(named("threshold", features)?),
        "AutoEncoderTopK" => FeatureGate::TopK(k(&file, trainer)?),
        "BatchTopKSAE" | "MatryoshkaBatchTopKSAE" => {
            let threshold = file.number("threshold")?;
            if threshold < 0.0 {
                remarks.push(
                    "its threshold was never set in training, so every feature above 0 is active"
                        .into(),
                );
            }
            FeatureGate::Threshold(threshold)
        }
        _ => FeatureGate::Relu,
    };
    let gated = matches!(gate, FeatureGate::Gated { .. });
    let b_dec = named(bias, decoder.width)?;
    let mut read = input(place.clone(), encoder);
    read.less = less.then(|| b_dec.clone());
    let mut dictionary = Dictionary {
        name: source.name(),
        format: DICTIONARY_LEARNING.name,
        made_for: model_name(trainer, "lm_name"),
        inputs: vec![read],
        bias: if gated { vec![0.0; features] } else { b_enc()? },
        gate,
        targets: vec![target(place, decoder, b_dec)],
        remarks,
    };
    if class == "AutoEncoder" {
        // As `from_pretrained` does: activations are those of decoder vectors of length one.
        dictionary.fold_decoder_norms_watched(source.report)?;
    }
    Ok(vec![dictionary])
}

/// The k of the file, which must be that of the config.
fn k(file: &TensorFile, trainer: &Value) -> Result<usize> {
    let said = count(trainer, "k");
    let k = if file.has("k") {
        file.number("k")? as usize
    } else {
        said.unwrap_or(0)
    };
    match said {
        Some(said) if said != k => Err(file.bad(
            format!("its k is {k}, and config.json says {said}"),
            super::source::NEXT,
        )),
        _ => Ok(k),
    }
}

/// The output of the block, unless the config names another module.
fn place(trainer: &Value) -> DictionaryPlace {
    let Some(layer) = count(trainer, "layer") else {
        return DictionaryPlace::Unsaid;
    };
    let Some(name) = word(trainer, "submodule_name").filter(|name| !name.is_empty()) else {
        return DictionaryPlace::At(Site::ResidPost.at(layer));
    };
    // `resid_post_layer_12`, `mlp_out_layer_3`, `attention_layer3`.
    let site = [
        ("resid_post", Site::ResidPost),
        ("resid_pre", Site::ResidPre),
        ("mlp", Site::MlpOut),
        ("attn", Site::AttnOut),
        ("attention", Site::AttnOut),
    ];
    let site = site.iter().find(|(word, _)| name.starts_with(word));
    site.map_or_else(
        || DictionaryPlace::Named(name.to_string()),
        |(_, site)| DictionaryPlace::At(site.at(layer)),
    )
}
