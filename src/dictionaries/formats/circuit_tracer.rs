//! Sets of circuit-tracer: transcoders of every layer (`layer_{i}.safetensors`) and cross-layer transcoders
//! (`W_enc_{i}.safetensors` with `W_dec_{i}.safetensors`), with a `config.yaml`.
//!
//! Source: `circuit_tracer/transcoder/*.py`; Ameisen et al. 2025.

use std::collections::{BTreeMap, BTreeSet};

use super::super::dictionary::Dictionary;
use super::super::gate::FeatureGate;
use super::super::matrix::FeatureMatrix;
use super::super::place::DictionaryPlace;
use super::Format;
use super::source::{Source, by_feature, by_width, input, of_target, target, vector};
use crate::error::{Error, Result};
use crate::model::checkpoint::tensor_file::TensorFile;
use crate::text;

/// The row of sets of transcoders.
pub const PER_LAYER: Format = Format {
    name: "circuit-tracer",
    about: "layer_{i}.safetensors with config.yaml, one transcoder a layer",
    fits: |source| !numbered(source, "layer_").is_empty() && source.beside(CONFIG),
    read: per_layer,
};

/// The row of cross-layer transcoders.
pub const CROSS_LAYER: Format = Format {
    name: "circuit-tracer CLT",
    about: "W_enc_{i}.safetensors and W_dec_{i}.safetensors with config.yaml",
    fits: |source| {
        let named = !source.file.is_empty();
        !numbered(source, "W_enc_").is_empty() && (named || source.beside(CONFIG))
    },
    read: cross_layer,
};

const CONFIG: &str = "config.yaml";

/// The layers for which there is a file, or the one that was named.
fn numbered(source: &Source, prefix: &str) -> Vec<usize> {
    let layer = |name: &str| -> Option<usize> {
        let middle = name.strip_prefix(prefix)?.strip_suffix(".safetensors")?;
        middle
            .parse()
            .ok()
            .filter(|layer: &usize| layer.to_string() == middle)
    };
    if !source.file.is_empty() {
        return layer(&source.file).into_iter().collect();
    }
    let names = source.names();
    let mut layers: Vec<usize> = names.iter().filter_map(|name| layer(name)).collect();
    layers.sort_unstable();
    layers
}

/// The plain pairs of a YAML file: `key: value` without indentation. Lists and nested values are left out.
fn pairs(words: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(':')?;
        let begins = key.chars().next().is_some_and(char::is_alphabetic);
        // A comment begins at `#` after a blank.
        let value = value.split(" #").next()?.trim().trim_matches(['"', '\'']);
        (begins && !value.is_empty()).then(|| (key.trim().to_string(), value.to_string()))
    };
    words.lines().filter_map(pair).collect()
}

/// What the config says of all layers.
struct SetConfig {
    model: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

impl SetConfig {
    fn of(source: &Source) -> Result<Self> {
        let said = match source.bytes(CONFIG)? {
            Some(bytes) => pairs(&String::from_utf8_lossy(&bytes)),
            None => BTreeMap::new(),
        };
        Ok(Self {
            model: said
                .get("model_name")
                .map(|name| text::visible(name.as_bytes())),
            from: said.get("feature_input_hook").cloned(),
            to: said.get("feature_output_hook").cloned(),
        })
    }

    /// The hook of a layer.
    fn place(hook: Option<&String>, layer: usize) -> DictionaryPlace {
        hook.map_or(DictionaryPlace::Unsaid, |hook| {
            DictionaryPlace::Named(format!("blocks.{layer}.{hook}"))
        })
    }
}

fn per_layer(source: &Source) -> Result<Vec<Dictionary>> {
    let config = SetConfig::of(source)?;
    let layers = numbered(source, "layer_");
    let read = layers.into_iter().map(|layer| {
        let file = source.tensors(&format!("layer_{layer}.safetensors"))?;
        let encoder = by_feature(&file, "W_enc")?;
        let features = encoder.features;
        // Old sets have the decoder the other way round.
        let decoder = match file.shape("W_dec") {
            Some([a, b]) if *a != features && *b == features => by_width(&file, "W_dec")?,
            _ => by_feature(&file, "W_dec")?,
        };
        let mut written = target(
            SetConfig::place(config.to.as_ref(), layer),
            decoder.clone(),
            vector(&file, "b_dec", decoder.width)?,
        );
        if file.has("W_skip") {
            written.skip = Some(by_feature(&file, "W_skip")?);
        }
        let thresholds = "activation_function.threshold";
        let gate = if file.has(thresholds) {
            threshold(&file, thresholds, features)?
        } else {
            FeatureGate::Relu
        };
        Ok(Dictionary {
            name: name_of(source, layer),
            format: PER_LAYER.name,
            made_for: config.model.clone(),
            inputs: vec![input(
                SetConfig::place(config.from.as_ref(), layer),
                encoder,
            )],
            bias: vector(&file, "b_enc", features)?,
            gate,
            targets: vec![written],
            remarks: Vec::new(),
        })
    });
    read.collect()
}

/// One threshold for each feature, or one for all.
fn threshold(file: &TensorFile, name: &str, features: usize) -> Result<FeatureGate> {
    let values = file.numbers(name)?;
    match values.as_slice() {
        [one] => Ok(FeatureGate::Threshold(*one)),
        many if many.len() == features => Ok(FeatureGate::JumpRelu(values)),
        many => Err(file.bad(
            format!(
                "its `{name}` has {} numbers; {features} are expected",
                many.len()
            ),
            super::source::NEXT,
        )),
    }
}

fn cross_layer(source: &Source) -> Result<Vec<Dictionary>> {
    let config = SetConfig::of(source)?;
    let layers = numbered(source, "W_enc_");
    // Layer l writes to l and all later ones, so the layers of a set end together.
    let mut ends = BTreeSet::new();
    let read = layers.into_iter().map(|layer| {
        let file = source.tensors(&format!("W_enc_{layer}.safetensors"))?;
        let out = source.tensors(&format!("W_dec_{layer}.safetensors"))?;
        let encoder = by_feature(&file, &format!("W_enc_{layer}"))?;
        let (features, width) = (encoder.features, encoder.width);
        let name = format!("W_dec_{layer}");
        let Some([_, count, _]) = out.shape(&name) else {
            let what = format!(
                "its `{name}` is {:?}; [features, targets, width] is expected",
                out.shape(&name)
            );
            return Err(out.bad(what, super::source::NEXT));
        };
        let mut targets = Vec::new();
        for later in 0..*count {
            let decoder: FeatureMatrix = of_target(&out, &name, later)?;
            // The bias belongs to the target of its own layer.
            let bias = if later == 0 {
                vector(&file, &format!("b_dec_{layer}"), width)?
            } else {
                Vec::new()
            };
            targets.push(target(
                SetConfig::place(config.to.as_ref(), layer + later),
                decoder,
                bias,
            ));
        }
        let thresholds = format!("threshold_{layer}");
        let gate = if file.has(&thresholds) {
            threshold(&file, &thresholds, features)?
        } else {
            FeatureGate::Relu
        };
        ends.insert(layer + count);
        Ok(Dictionary {
            name: name_of(source, layer),
            format: CROSS_LAYER.name,
            made_for: config.model.clone(),
            inputs: vec![input(
                SetConfig::place(config.from.as_ref(), layer),
                encoder,
            )],
            bias: vector(&file, &format!("b_enc_{layer}"), features)?,
            gate,
            targets,
            remarks: Vec::new(),
        })
    });
    let set: Vec<Dictionary> = read.collect::<Result<_>>()?;
    if ends.len() > 1 {
        return Err(Error::bad_file(
            &source.path,
            "its layers do not write to the same last layer",
            super::source::NEXT,
        ));
    }
    Ok(set)
}

/// The name of one dictionary of a set.
fn name_of(source: &Source, layer: usize) -> String {
    if source.file.is_empty() {
        format!("{}/layer_{layer}", source.name())
    } else {
        source.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_pairs_of_a_config_are_read() {
        let said = pairs(
            "# a set\nmodel_name: \"google/gemma-2-2b\"\nfeature_input_hook: mlp.hook_in # the input\ntranscoders:\n  - hf://x/y\n  id: 3\nscan: 'a: b'\n",
        );
        assert_eq!(said.len(), 3);
        assert_eq!(said["model_name"], "google/gemma-2-2b");
        assert_eq!(said["feature_input_hook"], "mlp.hook_in");
        assert_eq!(said["scan"], "a: b");
    }
}
