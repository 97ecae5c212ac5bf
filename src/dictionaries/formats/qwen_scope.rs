//! Qwen-Scope: `layer{n}.sae.pt` in a folder whose name says k.
//!
//! Source: the layout of `Qwen/SAE-Res-*-W32K-L0_50` and its like (arXiv 2605.11887), as `SAELens` 6.54 reads it.

use super::super::dictionary::Dictionary;
use super::super::gate::FeatureGate;
use super::super::place::{DictionaryPlace, layer_after};
use super::Format;
use super::source::{Source, by_feature, by_width, input, target, vector};
use crate::error::{Error, Result};
use crate::model::network::site::Site;
use crate::text;

/// The row of this format.
pub const QWEN_SCOPE: Format = Format {
    name: "Qwen-Scope",
    about: "layer{n}.sae.pt of Qwen/SAE-Res-MODEL-W{N}K-L0_{k}",
    fits: |source| source.file.ends_with(".sae.pt"),
    read,
};

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let file = source.tensors(&source.file)?;
    let encoder = by_feature(&file, "W_enc")?;
    let decoder = by_width(&file, "W_dec")?;
    let features = encoder.features;
    let Some(k) = layer_after(&source.words, &["L0_"]).filter(|k| *k > 0) else {
        return Err(Error::bad_file(
            &source.path,
            "the k of its TopK stands in the name of its repository (L0_50), and no folder above it has such a name",
            "Keep it in a folder that is called as the repository is, for example SAE-Res-Qwen3-8B-Base-W64K-L0_50.",
        ));
    };
    let layer = layer_after(&source.file, &["layer"]);
    let place = layer.map_or(DictionaryPlace::Unsaid, |layer| {
        DictionaryPlace::At(Site::ResidPost.at(layer))
    });
    let bias = vector(&file, "b_dec", decoder.width)?;
    let model = source.words.rsplit_once("SAE-Res-").and_then(|(_, rest)| {
        let (model, _) = rest.split_once("-W")?;
        Some(format!("Qwen/{}", text::visible(model.as_bytes())))
    });
    Ok(vec![Dictionary {
        name: source.name(),
        format: QWEN_SCOPE.name,
        made_for: model,
        inputs: vec![input(place.clone(), encoder)],
        bias: vector(&file, "b_enc", features)?,
        gate: FeatureGate::TopK(k),
        targets: vec![target(place, decoder, bias)],
        remarks: Vec::new(),
    }])
}
