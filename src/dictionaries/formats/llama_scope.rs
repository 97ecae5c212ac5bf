//! Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`, by the authors' recipe; and its release for R1-Distill.
//!
//! Source: He et al. 2024 (2410.20526); `lm_saes/sae.py`, `from_config`, of October 2024. First what the training folded into the
//! data is folded into the weights, then every decoder vector is given length one, and then activations are compared with one
//! threshold. `SAELens` 6.54 leaves the second step out, so that its features are others.

use serde_json::Value;

use super::super::dictionary::Dictionary;
use super::super::gate::FeatureGate;
use super::super::matrix::FeatureScale;
use super::super::norms::InputNorm;
use super::super::place::DictionaryPlace;
use super::Format;
use super::source::{
    Source, by_feature, by_width, count, input, model_name, number, switch, target, vector, word,
};
use crate::error::Result;
use crate::model::checkpoint::tensor_file::TensorFile;
use crate::text;

/// The row of the first release.
pub const LLAMA_SCOPE: Format = Format {
    name: "Llama Scope",
    about: "a folder with hyperparams.json and checkpoints/final.safetensors",
    fits: |source| source.beside("hyperparams.json") && source.has(FINAL),
    read,
};

/// The row of the release for R1-Distill.
pub const DISTILL: Format = Format {
    name: "Llama Scope R1-Distill",
    about: "a folder with config.json and sae_weights.safetensors that has log_jumprelu_threshold",
    fits: |source| {
        source.has("sae_weights.safetensors")
            && source.beside("config.json")
            && !source.beside("cfg.json")
    },
    read: distilled,
};

const FINAL: &str = "checkpoints/final.safetensors";

/// The dictionary as it is stored, with what its config folds.
fn stored(source: &Source, file: &TensorFile, config: &Value) -> Result<Dictionary> {
    let encoder = by_feature(file, "encoder.weight")?;
    let decoder = by_width(file, "decoder.weight")?;
    let (features, width, out) = (encoder.features, encoder.width, decoder.width);
    if let Some(said) = count(config, "d_model").filter(|said| *said != width) {
        let what = format!(
            "its encoder.weight is [{features}, {width}], and its config says d_model {said}"
        );
        return Err(file.bad(what, super::source::NEXT));
    }
    let place = |key: &str| word(config, key).map(|hook| DictionaryPlace::Named(hook.to_string()));
    let from = place("hook_point_in").unwrap_or(DictionaryPlace::Unsaid);
    let to = place("hook_point_out").unwrap_or_else(|| from.clone());
    let mut dictionary = Dictionary {
        name: source.name(),
        format: LLAMA_SCOPE.name,
        made_for: model_name(config, "model_name").or_else(|| Some("Llama-3.1-8B".into())),
        inputs: vec![input(from, encoder)],
        bias: vector(file, "encoder.bias", features)?,
        gate: FeatureGate::Relu,
        targets: vec![target(to, decoder, vector(file, "decoder.bias", out)?)],
        remarks: Vec::new(),
    };
    match word(config, "norm_activation").unwrap_or("dataset-wise") {
        "none" => {}
        "token-wise" => {
            dictionary.inputs[0].norm = InputNorm::ConstantNorm;
            dictionary.targets[0].undo = dictionary.is_autoencoder();
        }
        "dataset-wise" => {
            let norms = config.get("dataset_average_activation_norm");
            let factor = |key: &str, width: usize| {
                let norm = norms.and_then(|norms| number(norms, key));
                let norm = norm.filter(|norm| norm.is_finite() && *norm > 0.0);
                norm.map(|norm| (width as f32).sqrt() / norm)
                    .ok_or_else(|| {
                        source.bad(format!(
                            "its config has no positive dataset_average_activation_norm.{key}"
                        ))
                    })
            };
            let (s_in, s_out) = (factor("in", width)?, factor("out", out)?);
            dictionary.bias.iter_mut().for_each(|b| *b /= s_in);
            let target = &mut dictionary.targets[0];
            target.bias.iter_mut().for_each(|b| *b /= s_out);
            target.scale = FeatureScale::All(s_in / s_out);
        }
        other => {
            let what = format!(
                "its norm_activation is `{}`; none, token-wise and dataset-wise are read",
                text::visible(other.as_bytes())
            );
            return Err(source.bad(what));
        }
    }
    if switch(config, "apply_decoder_bias_to_pre_encoder").unwrap_or(false) {
        dictionary.inputs[0].less = Some(dictionary.targets[0].bias.clone());
    }
    Ok(dictionary)
}

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let Some(config) = source.json("hyperparams.json")? else {
        return Err(source.bad("it has no hyperparams.json"));
    };
    let file = source.tensors(FINAL)?;
    let mut dictionary = stored(source, &file, &config)?;
    if switch(&config, "use_glu_encoder").unwrap_or(false) {
        return Err(source
            .bad("its encoder has a second, gating product (use_glu_encoder), which is not read"));
    }
    let unit = switch(&config, "sparsity_include_decoder_norm").unwrap_or(true);
    if unit {
        dictionary.fold_decoder_norms_watched(source.report)?;
    }
    let threshold = number(&config, "jump_relu_threshold").unwrap_or(0.0);
    let top = count(&config, "top_k");
    dictionary.gate = match (word(&config, "act_fn").unwrap_or("relu"), top) {
        ("jumprelu", _) => FeatureGate::Threshold(threshold),
        ("topk", _) if threshold > 0.0 => FeatureGate::Threshold(threshold),
        ("topk", Some(k)) => FeatureGate::TopK(k),
        ("relu", _) => FeatureGate::Relu,
        (other, _) => {
            let what = format!(
                "its act_fn is `{}`; relu, jumprelu and topk are read",
                text::visible(other.as_bytes())
            );
            return Err(source.bad(what));
        }
    };
    Ok(vec![dictionary])
}

/// Thresholds in the units of the stored weights, one for each feature.
fn distilled(source: &Source) -> Result<Vec<Dictionary>> {
    let Some(config) = source.json("config.json")? else {
        return Err(source.bad("it has no config.json"));
    };
    let file = source.tensors("sae_weights.safetensors")?;
    let mut dictionary = stored(source, &file, &config)?;
    let features = dictionary.features();
    let logs = vector(&file, "log_jumprelu_threshold", features)?;
    let mut thresholds: Vec<f32> = logs.into_iter().map(f32::exp).collect();
    // The stored weights are for activations times s_in, whose products are s_in times as large.
    if word(&config, "norm_activation").unwrap_or("dataset-wise") == "dataset-wise" {
        let norm = config
            .get("dataset_average_activation_norm")
            .and_then(|norms| number(norms, "in"));
        if let Some(norm) = norm {
            let s_in = (dictionary.inputs[0].encoder.width as f32).sqrt() / norm;
            thresholds.iter_mut().for_each(|t| *t /= s_in);
        }
    }
    if switch(&config, "sparsity_include_decoder_norm").unwrap_or(false) {
        // Activations times decoder norms are compared, and activations themselves are the features.
        let n = dictionary.targets[0].decoder.norms(source.report)?;
        let compared = thresholds.iter_mut().zip(n);
        compared.for_each(|(t, n)| *t = if n > 0.0 { *t / n } else { f32::MAX });
    }
    dictionary.gate = FeatureGate::JumpRelu(thresholds);
    Ok(vec![dictionary])
}
