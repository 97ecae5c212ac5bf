//! `OpenAI`'s autoencoders of GPT-2 small: a state dict that says its activation in words.
//!
//! Source: `sparse_autoencoder/model.py`, where an autoencoder with `TopK` normalises its input, and `paths.py`.

use std::collections::BTreeMap;

use super::super::dictionary::Dictionary;
use super::super::gate::FeatureGate;
use super::super::norms::InputNorm;
use super::super::place::DictionaryPlace;
use super::Format;
use super::source::{Source, by_feature, by_width, input, target, vector};
use crate::error::Result;
use crate::model::checkpoint::torch::facts;
use crate::model::network::site::Site;
use crate::text;

/// The row of this format.
pub const OPENAI: Format = Format {
    name: "OpenAI",
    about: "a .pt with pre_bias, latent_bias and its activation in words",
    fits: |source| {
        let torch = source.ends_in(&["pt", "pth"]);
        torch
            && source
                .tensors(&source.file)
                .is_ok_and(|file| file.has("pre_bias") && file.has("latent_bias"))
    },
    read,
};

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let file = source.tensors(&source.file)?;
    let said = facts(&source.path)?;
    let encoder = by_feature(&file, "encoder.weight")?;
    let decoder = by_width(&file, "decoder.weight")?;
    let features = encoder.features;
    let activation = said.get("activation").map_or("ReLU", String::as_str);
    let (gate, norm) = match activation {
        "ReLU" => (FeatureGate::Relu, InputNorm::Nothing),
        "TopK" => (FeatureGate::TopK(k(source, &said)?), InputNorm::LayerNorm),
        other => {
            let what = format!(
                "its activation is `{}`; ReLU and TopK are read",
                text::visible(other.as_bytes())
            );
            return Err(source.bad(what));
        }
    };
    let place = place(&source.words, &source.file);
    let bias = vector(&file, "pre_bias", encoder.width)?;
    let mut read = input(place.clone(), encoder);
    read.norm = norm;
    read.less = Some(bias.clone());
    let mut written = target(place, decoder, bias);
    written.undo = true;
    Ok(vec![Dictionary {
        name: source.name(),
        format: OPENAI.name,
        made_for: Some("gpt2".into()),
        inputs: vec![read],
        bias: vector(&file, "latent_bias", features)?,
        gate,
        targets: vec![written],
        remarks: Vec::new(),
    }])
}

fn k(source: &Source, said: &BTreeMap<String, String>) -> Result<usize> {
    let k = said
        .get("activation_state_dict.k")
        .and_then(|k| k.parse().ok());
    let after = said.get("activation_state_dict.postact_fn");
    if let Some(other) = after.filter(|after| *after != "ReLU") {
        let what = format!(
            "after its TopK comes `{}`; ReLU is read",
            text::visible(other.as_bytes())
        );
        return Err(source.bad(what));
    }
    k.ok_or_else(|| source.bad("its activation_state_dict has no k"))
}

/// What the path of the release says: `resid_post_mlp_v5_32k/autoencoders/8.pt`.
fn place(words: &str, file: &str) -> DictionaryPlace {
    let sites = [
        ("mlp_post_act", Site::MlpAct),
        ("resid_delta_attn", Site::AttnAdd),
        ("resid_delta_mlp", Site::MlpAdd),
        ("resid_post_attn", Site::ResidMid),
        ("resid_post_mlp", Site::ResidPost),
    ];
    let layer = file
        .split('.')
        .next()
        .and_then(|stem| stem.parse::<usize>().ok());
    let site = sites.iter().find(|(word, _)| words.contains(word));
    match (site, layer) {
        (Some((_, site)), Some(layer)) => DictionaryPlace::At(site.at(layer)),
        _ => DictionaryPlace::Unsaid,
    }
}
