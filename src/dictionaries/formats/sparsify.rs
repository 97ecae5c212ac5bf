//! Folders of `EleutherAI` sparsify: `cfg.json` and `sae.safetensors` in a folder that is named for its hook.
//!
//! Source: `sparsify/sparse_coder.py` and `fused_encoder.py`; `SAELens` 6.54 reads these files otherwise.

use super::super::dictionary::Dictionary;
use super::super::gate::FeatureGate;
use super::super::place::DictionaryPlace;
use super::Format;
use super::source::{
    Source, by_feature, count, input, model_name, no_count, switch, target, vector, word,
};
use crate::error::Result;
use crate::model::network::site::Site;
use crate::text;

/// The row of this format.
pub const SPARSIFY: Format = Format {
    name: "sparsify",
    about: "a folder such as layers.10.mlp with cfg.json and sae.safetensors",
    fits: |source| source.has("sae.safetensors") && source.beside("cfg.json"),
    read,
};

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let Some(config) = source.json("cfg.json")? else {
        return Err(source.bad("it has no cfg.json"));
    };
    let file = source.tensors("sae.safetensors")?;
    let transcode = switch(&config, "transcode").unwrap_or(false);
    let encoder = by_feature(&file, "encoder.weight")?;
    let decoder = by_feature(&file, "W_dec")?;
    let (features, width) = (encoder.features, encoder.width);
    if let Some(said) = count(&config, "d_in").filter(|said| *said != width) {
        return Err(file.bad(
            format!("its encoder.weight is [{features}, {width}], and cfg.json says d_in {said}"),
            super::source::NEXT,
        ));
    }
    let Some(k) = count(&config, "k") else {
        return Err(source.bad(no_count(&config, "k")));
    };
    let gate = match word(&config, "activation").unwrap_or("topk") {
        "topk" if switch(&config, "signed").unwrap_or(false) => FeatureGate::AbsTopK(k),
        "topk" => FeatureGate::TopK(k),
        "groupmax" => FeatureGate::GroupMax(k),
        other => {
            let what = format!(
                "its activation is `{}`; topk and groupmax are read",
                text::visible(other.as_bytes())
            );
            return Err(source.bad(what));
        }
    };
    let folder = std::path::Path::new(&source.words);
    let folder = if source.file.is_empty() {
        Some(folder)
    } else {
        folder.parent()
    };
    let hook = folder
        .and_then(|f| f.file_name())
        .map(|name| name.to_string_lossy().into_owned());
    let (from, to) = places(&hook.unwrap_or_default(), transcode);
    let b_dec = vector(&file, "b_dec", decoder.width)?;
    let mut read = input(from, encoder);
    let mut written = target(to, decoder, b_dec.clone());
    if !transcode {
        read.less = Some(b_dec);
    }
    let skip = switch(&config, "skip_connection").unwrap_or(false);
    if skip != file.has("W_skip") {
        let what = format!(
            "cfg.json says skip_connection {skip}, and W_skip is {}",
            if skip { "missing" } else { "there" }
        );
        return Err(file.bad(what, super::source::NEXT));
    }
    if skip {
        written.skip = Some(by_feature(&file, "W_skip")?);
    }
    let above = source.bytes("../config.json")?;
    let above = above.and_then(|text| serde_json::from_slice(&text).ok());
    Ok(vec![Dictionary {
        name: source.name(),
        format: SPARSIFY.name,
        made_for: above.and_then(|config: serde_json::Value| model_name(&config, "model")),
        inputs: vec![read],
        bias: vector(&file, "encoder.bias", features)?,
        gate,
        targets: vec![written],
        remarks: Vec::new(),
    }])
}

/// What a hook of sparsify is: `layers.10`, `layers.10.mlp`, and the same of other families (`h.3`).
fn places(hook: &str, transcode: bool) -> (DictionaryPlace, DictionaryPlace) {
    let parts: Vec<&str> = hook.split('.').collect();
    let number = parts.iter().position(|part| part.parse::<usize>().is_ok());
    let unsaid = (DictionaryPlace::Unsaid, DictionaryPlace::Unsaid);
    let Some(at) =
        number.filter(|at| *at > 0 && matches!(parts[at - 1], "layers" | "h" | "blocks"))
    else {
        return unsaid;
    };
    let Ok(layer) = parts[at].parse::<usize>() else {
        return unsaid;
    };
    let both = |site: Site| {
        (
            DictionaryPlace::At(site.at(layer)),
            DictionaryPlace::At(site.at(layer)),
        )
    };
    match (&parts[at + 1..], transcode) {
        ([], false) => both(Site::ResidPost),
        ([], true) => (
            DictionaryPlace::At(Site::ResidPre.at(layer)),
            DictionaryPlace::At(Site::ResidPost.at(layer)),
        ),
        (["mlp"], false) => both(Site::MlpOut),
        (["mlp"], true) => (
            DictionaryPlace::At(Site::MlpIn.at(layer)),
            DictionaryPlace::At(Site::MlpOut.at(layer)),
        ),
        (["attn" | "self_attn" | "attention"], false) => both(Site::AttnOut),
        (["attn" | "self_attn" | "attention"], true) => (
            DictionaryPlace::At(Site::AttnIn.at(layer)),
            DictionaryPlace::At(Site::AttnOut.at(layer)),
        ),
        _ => unsaid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_the_output_of_its_module() {
        let at = |site: Site| DictionaryPlace::At(site.at(10));
        assert_eq!(places("layers.10", false).0, at(Site::ResidPost));
        assert_eq!(places("layers.10.mlp", false).1, at(Site::MlpOut));
        assert_eq!(
            places("layers.10.mlp", true),
            (at(Site::MlpIn), at(Site::MlpOut))
        );
        assert_eq!(places("h.10.attn", false).0, at(Site::AttnOut));
        assert_eq!(places("layers.10.norm", false).0, DictionaryPlace::Unsaid);
        assert_eq!(places("10", false).0, DictionaryPlace::Unsaid);
    }
}
