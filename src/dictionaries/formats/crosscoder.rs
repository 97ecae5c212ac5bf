//! Crosscoders: of ckkissane (`cfg.json` and `cc_weights.pt`), and of the science-of-finetuning fork of `dictionary_learning`
//! (`config.json` and `model.safetensors`, or one `.pt`).
//!
//! They read several places, mostly the same one of two models. Sources: Lindsey et al. 2024 (sparse crosscoders); the layouts of
//! `ckkissane/crosscoder-gemma-2-2b-model-diff` and `science-of-finetuning/*`.

use serde_json::Value;

use super::super::dictionary::{Dictionary, Input, Target};
use super::super::gate::FeatureGate;
use super::super::matrix::FeatureMatrix;
use super::super::place::DictionaryPlace;
use super::Format;
use super::source::{Source, input, model_name, number, of_target, target, vector, word};
use crate::error::Result;
use crate::model::checkpoint::tensor_file::TensorFile;

/// The row of these formats.
pub const CROSSCODER: Format = Format {
    name: "crosscoder",
    about: "cc_weights.pt with cfg.json, or encoder.weight of three dimensions",
    fits: |source| file_of(source).is_some(),
    read,
};

/// The file of weights, if it is one of a crosscoder.
fn file_of(source: &Source) -> Option<String> {
    if source.has("cc_weights.pt") {
        return Some("cc_weights.pt".into());
    }
    let named = [source.file.as_str(), "model.safetensors"];
    let file = named
        .into_iter()
        .find(|name| !name.is_empty() && source.has(name))?;
    let known = [".safetensors", ".pt"]
        .iter()
        .any(|end| file.ends_with(end));
    let open = known.then(|| source.tensors(file).ok())??;
    let deep = |name: &str| open.shape(name).is_some_and(|shape| shape.len() == 3);
    (deep("encoder.weight") && deep("decoder.weight") || deep("W_enc") && deep("W_dec"))
        .then(|| file.to_string())
}

/// One matrix of a tensor `[places, width, features]` or `[places, features, width]`.
fn part(file: &TensorFile, name: &str, at: usize, by_feature: bool) -> Result<FeatureMatrix> {
    let whole = file.get(name)?;
    let made = whole.part(at).and_then(|part| {
        if by_feature {
            FeatureMatrix::by_feature(part)
        } else {
            FeatureMatrix::by_width(part)
        }
    });
    made.ok_or_else(|| {
        let what = format!(
            "its `{name}` is {:?}; three dimensions are expected",
            whole.shape
        );
        file.bad(what, super::source::NEXT)
    })
}

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let name = file_of(source).unwrap_or_default();
    let file = source.tensors(&name)?;
    let config = match source.json("cfg.json")? {
        Some(config) => config,
        None => source.json("config.json")?.unwrap_or(Value::Null),
    };
    let place = word(&config, "hook_point").map_or(DictionaryPlace::Unsaid, |hook| {
        DictionaryPlace::Named(hook.to_string())
    });
    let modules = file.has("encoder.weight");
    let encoder = if modules { "encoder.weight" } else { "W_enc" };
    let places = file.shape(encoder).map_or(0, |shape| shape[0]);
    if !(1..=64).contains(&places) {
        return Err(file.bad(
            format!("it reads {places} places; 1 to 64 are read"),
            super::source::NEXT,
        ));
    }
    let mut inputs: Vec<Input> = Vec::new();
    let mut targets: Vec<Target> = Vec::new();
    let biases = file.get(if modules { "decoder.bias" } else { "b_dec" })?;
    for at in 0..places {
        inputs.push(input(place.clone(), part(&file, encoder, at, false)?));
        let decoder = if modules {
            part(&file, "decoder.weight", at, true)?
        } else {
            of_target(&file, "W_dec", at)?
        };
        let bias = biases.part(at).filter(|bias| bias.shape == [decoder.width]);
        let Some(bias) = bias else {
            let what = format!(
                "its decoder biases are {:?}; [{places}, {}] is expected",
                biases.shape, decoder.width
            );
            return Err(file.bad(what, super::source::NEXT));
        };
        let bias = bias.read(0, decoder.width);
        targets.push(target(place.clone(), decoder, bias));
    }
    let features = inputs.first().map_or(0, |i| i.encoder.features);
    let b_enc = vector(
        &file,
        if modules { "encoder.bias" } else { "b_enc" },
        features,
    )?;
    let threshold = if file.has("threshold") {
        Some(file.number("threshold")?)
    } else {
        number(&config, "threshold")
    };
    let gate = match threshold {
        // Activations times the sum of the decoder norms are compared.
        Some(threshold) => {
            let mut n = vec![0f64; features];
            for target in &targets {
                let norms = target.decoder.norms(source.report)?;
                n.iter_mut()
                    .zip(norms)
                    .for_each(|(n, norm)| *n += f64::from(norm));
            }
            let compared = n.into_iter().map(|n| {
                if n > 0.0 {
                    (f64::from(threshold) / n) as f32
                } else {
                    f32::MAX
                }
            });
            FeatureGate::JumpRelu(compared.collect())
        }
        None => FeatureGate::Relu,
    };
    Ok(vec![Dictionary {
        name: source.name(),
        format: CROSSCODER.name,
        made_for: model_name(&config, "model_name"),
        inputs,
        bias: b_enc,
        gate,
        targets,
        remarks: Vec::new(),
    }])
}
