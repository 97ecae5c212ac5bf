//! Gemma Scope 2: `config.json` and `params.safetensors` with names in lower case.
//!
//! Source: the layout of `google/gemma-scope-2-*` (Dec 2025), as `SAELens` 6.54 reads it. `attn_out` is the input of the output
//! projection, in spite of its name.

use serde_json::Value;

use super::super::dictionary::Dictionary;
use super::super::gate::FeatureGate;
use super::super::place::{DictionaryPlace, hugging_face, layer_after};
use super::Format;
use super::source::{
    Source, by_feature, by_width, input, model_name, of_target, switch, target, vector, word,
};
use crate::error::Result;
use crate::model::network::site::Site;
use crate::text;

/// The row of this format.
pub const GEMMA_SCOPE_2: Format = Format {
    name: "Gemma Scope 2",
    about: "config.json and params.safetensors in resid_post/layer_L_width_W_l0_SIZE of google/gemma-scope-2-4b-pt and its like",
    fits: |source| weights(source).is_some(),
    read,
};

/// The file of weights: `params.safetensors`, or one of a layer of a cross-layer transcoder.
fn weights(source: &Source) -> Option<String> {
    if source.has("params.safetensors") {
        return Some("params.safetensors".into());
    }
    let one = source
        .file
        .ends_with(".safetensors")
        .then(|| source.file.clone())?;
    let file = source.tensors(&one).ok()?;
    file.has("w_enc").then_some(one)
}

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let name = weights(source).unwrap_or_default();
    let file = source.tensors(&name)?;
    let config = source.json("config.json")?.unwrap_or(Value::Null);
    if let Some(other) = word(&config, "architecture").filter(|a| *a != "jump_relu") {
        let what = format!(
            "its architecture is `{}`; jump_relu is read",
            text::visible(other.as_bytes())
        );
        return Err(source.bad(what));
    }
    let encoder = by_width(&file, "w_enc")?;
    let features = encoder.features;
    let (layer, says) = (layer_after(&source.words, &["layer_"]), |word: &str| {
        source.words.contains(word)
    });
    let at = |site: Site| {
        layer.map_or(DictionaryPlace::Unsaid, |layer| {
            DictionaryPlace::At(site.at(layer))
        })
    };
    let writes = says("transcoder") || says("/clt");
    let from = match word(&config, "hf_hook_point_in") {
        Some(hook) => hugging_face(hook),
        None if says("resid_post") => at(Site::ResidPost),
        None if says("attn_out") => at(Site::Z),
        None if says("mlp_out") => at(Site::MlpAdd),
        None if writes => at(Site::MlpIn),
        None => DictionaryPlace::Unsaid,
    };
    let to = match word(&config, "hf_hook_point_out") {
        Some(hook) => hugging_face(hook),
        None if writes => at(Site::MlpAdd),
        None => from.clone(),
    };
    let across = file.shape("w_dec").is_some_and(|shape| shape.len() == 3);
    let targets = if across {
        let layers = file.shape("w_dec").map_or(0, |shape| shape[1]);
        let own = match (&to, layer) {
            (DictionaryPlace::At(at), _) => usize::from(at.layer),
            (_, Some(layer)) => layer,
            _ => return Err(source.bad("neither its config nor its folder says its layer")),
        };
        if own >= layers {
            return Err(file.bad(
                format!("its w_dec has {layers} layers, and it is of layer {own}"),
                super::source::NEXT,
            ));
        }
        let width = file.shape("w_dec").map_or(0, |shape| shape[2]);
        let mut targets = Vec::new();
        for layer in own..layers {
            let decoder = of_target(&file, "w_dec", layer)?;
            // The bias belongs to the layer's own target; those of later layers are in their files.
            let bias = if layer == own {
                vector(&file, "b_dec", width)?
            } else {
                Vec::new()
            };
            targets.push(target(
                DictionaryPlace::At(Site::MlpAdd.at(layer)),
                decoder,
                bias,
            ));
        }
        targets
    } else {
        let decoder = by_feature(&file, "w_dec")?;
        let bias = vector(&file, "b_dec", decoder.width)?;
        vec![target(to, decoder, bias)]
    };
    let mut dictionary = Dictionary {
        name: source.name(),
        format: GEMMA_SCOPE_2.name,
        made_for: model_name(&config, "model_name"),
        inputs: vec![input(from, encoder)],
        bias: vector(&file, "b_enc", features)?,
        gate: FeatureGate::JumpRelu(vector(&file, "threshold", features)?),
        targets,
        remarks: Vec::new(),
    };
    let skip = file.has("affine_skip_connection");
    if let Some(said) = switch(&config, "affine_connection").filter(|said| *said != skip) {
        let what = format!(
            "config.json says affine_connection {said}, and affine_skip_connection is {}",
            if skip { "there" } else { "missing" }
        );
        return Err(file.bad(what, super::source::NEXT));
    }
    if skip {
        // [d_in, d_out], so that the outputs are its columns.
        dictionary.targets[0].skip = Some(by_width(&file, "affine_skip_connection")?);
    }
    Ok(vec![dictionary])
}
