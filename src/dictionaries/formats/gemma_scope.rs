//! Gemma Scope 1: `params.npz` in a folder that says hook and layer.
//!
//! Source: Lieberum et al. 2024 (2408.05147) and the layout of `google/gemma-scope-*`. The transcoders read the stream before the
//! MLP, normed but without the gain.

use super::super::dictionary::Dictionary;
use super::super::gate::FeatureGate;
use super::super::place::{DictionaryPlace, layer_after};
use super::Format;
use super::source::{Source, by_feature, by_width, input, target, vector};
use crate::error::Result;
use crate::model::network::site::Site;

/// The row of this format.
pub const GEMMA_SCOPE: Format = Format {
    name: "Gemma Scope",
    about: "params.npz in layer_L/width_W/average_l0_N of google/gemma-scope-2b-pt-res and its like",
    fits: |source| source.has("params.npz") || source.ends_in(&["npz"]),
    read,
};

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let name = if source.file.is_empty() {
        "params.npz"
    } else {
        &source.file
    };
    let file = source.tensors(name)?;
    let encoder = by_width(&file, "W_enc")?;
    let decoder = by_feature(&file, "W_dec")?;
    let (features, width) = (encoder.features, encoder.width);
    let embedding = source.words.contains("/embedding/");
    let layer = layer_after(&source.words, &["layer_"]);
    let says = |word: &str| source.words.contains(word);
    let at = |site: Site| {
        layer.map_or(DictionaryPlace::Unsaid, |layer| {
            DictionaryPlace::At(site.at(layer))
        })
    };
    let (from, to) = if says("transcoders") {
        (at(Site::MlpNormed), at(Site::MlpAdd))
    } else {
        let one = if embedding {
            DictionaryPlace::At(Site::Embed.at(0))
        } else if says("-res") {
            at(Site::ResidPost)
        } else if says("-mlp") {
            at(Site::MlpAdd)
        } else if says("-att") {
            at(Site::Z)
        } else {
            DictionaryPlace::Unsaid
        };
        (one.clone(), one)
    };
    let bias = vector(&file, "b_dec", decoder.width)?;
    let mut dictionary = Dictionary {
        name: source.name(),
        format: GEMMA_SCOPE.name,
        made_for: model(&source.words),
        inputs: vec![input(from, encoder)],
        bias: vector(&file, "b_enc", features)?,
        gate: FeatureGate::JumpRelu(vector(&file, "threshold", features)?),
        targets: vec![target(to, decoder, bias)],
        remarks: Vec::new(),
    };
    if embedding {
        // It was trained on rows of the table, which the model multiplies by the root of its width.
        dictionary.fold_input_scale((width as f32).sqrt().recip());
    }
    Ok(vec![dictionary])
}

/// The model that a path of the release names.
fn model(words: &str) -> Option<String> {
    let (_, rest) = words.split_once("gemma-scope-")?;
    let mut parts = rest.split(['-', '/']);
    let (size, kind) = (parts.next()?, parts.next()?);
    let known = matches!(size, "2b" | "9b" | "27b") && matches!(kind, "pt" | "it");
    let end = if kind == "it" { "-it" } else { "" };
    known.then(|| format!("google/gemma-2-{size}{end}"))
}
