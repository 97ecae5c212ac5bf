//! Bare state dicts of ReLU autoencoders: Goodfire's, and those of qresearch; their names say the layer.
//!
//! Source: the layouts of `Goodfire/Llama-3.3-70B-Instruct-SAE-l50` and `qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19`, as
//! `SAELens` 6.54 reads them: nothing is subtracted from the input.

use super::super::dictionary::Dictionary;
use super::super::gate::FeatureGate;
use super::super::place::{DictionaryPlace, layer_after};
use super::Format;
use super::source::{Source, by_feature, by_width, input, target, vector};
use crate::error::Result;
use crate::model::checkpoint::tensor_file::TensorFile;
use crate::model::network::site::Site;
use crate::text;

/// The row of this format.
pub const STATE_DICT: Format = Format {
    name: "Goodfire",
    about: "a .pt or .pth with encoder_linear and decoder_linear, or encoder and decoder, and the layer in its name (l19)",
    fits: |source| {
        let torch = source.ends_in(&["pt", "pth"]);
        torch
            && source
                .tensors(&source.file)
                .is_ok_and(|file| prefix(&file).is_some())
    },
    read,
};

/// What stands after `encoder` and `decoder`.
fn prefix(file: &TensorFile) -> Option<&'static str> {
    ["_linear", ""].into_iter().find(|after| {
        ["encoder", "decoder"].iter().all(|side| {
            file.has(&format!("{side}{after}.weight")) && file.has(&format!("{side}{after}.bias"))
        })
    })
}

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let file = source.tensors(&source.file)?;
    let after = prefix(&file).unwrap_or_default();
    let encoder = by_feature(&file, &format!("encoder{after}.weight"))?;
    let decoder = by_width(&file, &format!("decoder{after}.weight"))?;
    let features = encoder.features;
    let layer = layer_after(&source.file, &["-l", "l", "layer", "layer_"]);
    let place = layer.map_or(DictionaryPlace::Unsaid, |layer| {
        DictionaryPlace::At(Site::ResidPost.at(layer))
    });
    let bias = vector(&file, &format!("decoder{after}.bias"), decoder.width)?;
    let model = source
        .file
        .split_once("-SAE")
        .map(|(model, _)| text::visible(model.as_bytes()));
    Ok(vec![Dictionary {
        name: source.name(),
        format: STATE_DICT.name,
        made_for: model,
        inputs: vec![input(place.clone(), encoder)],
        bias: vector(&file, &format!("encoder{after}.bias"), features)?,
        gate: FeatureGate::Relu,
        targets: vec![target(place, decoder, bias)],
        remarks: Vec::new(),
    }])
}
