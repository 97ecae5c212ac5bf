//! The files of fitted lenses, as their authors' programs write them.
//!
//! A Jacobian lens is a `.pt` with `J` (a matrix by layer), `source_layers`, `n_prompts`, `d_model` and `provenance`; matrices are kept in
//! f32, so that a fit can go on from its file. A tuned lens is a folder with `params.pt` (`0.weight`, `0.bias`, ...) and `config.json`.
//!
//! Invariant: a fit goes on only on the model, the text and the settings of its file; otherwise it is refused with what differs.

use std::path::Path;

use super::jacobian::JacobianFit;
use super::tuned::TunedFit;
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::model::Card;
use crate::model::checkpoint::torch::{Pickled, TorchValue, archive_with, facts};
use crate::model::host::ToHost;
use crate::text;

const NEXT: &str = "Give another file, or --force to begin anew.";

/// What a fit was made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LensOrigin {
    /// The model argument.
    pub model: String,
    /// Fingerprint of its weights.
    pub revision: String,
    /// The name of the text file.
    pub text: String,
    /// A checksum of its tokens.
    pub tokens: String,
    /// The tokens of a prompt.
    pub length: usize,
    /// How many first positions are left out.
    pub skipped: usize,
}

impl LensOrigin {
    /// The parts that must agree for a fit to go on, with their keys in the file.
    fn parts(&self) -> [(&'static str, String); 5] {
        [
            ("revision", self.revision.clone()),
            ("text", self.text.clone()),
            ("tokens", self.tokens.clone()),
            ("length", self.length.to_string()),
            ("skipped", self.skipped.to_string()),
        ]
    }
}

/// Writes a fit.
///
/// # Errors
///
/// When the file cannot be written, or is there and may not be overwritten.
pub fn save(
    fit: &JacobianFit,
    origin: &LensOrigin,
    path: &Path,
    overwrite: Overwrite,
) -> Result<()> {
    let means: Vec<Vec<f32>> = (0..fit.blocks()).map(|block| fit.mean(block)).collect();
    let whole = |number: usize| TorchValue::Whole(number as i32);
    let matrices = means.iter().enumerate().map(|(block, mean)| {
        let shape = vec![fit.width, fit.width];
        let numbers = mean.as_slice();
        (whole(block), TorchValue::Tensor { shape, numbers })
    });
    let mut provenance = vec![
        (TorchValue::text("model"), TorchValue::text(&origin.model)),
        (
            TorchValue::text("capture_point"),
            TorchValue::text("block_output"),
        ),
        (
            TorchValue::text("made_by"),
            TorchValue::text(concat!("lmscope ", env!("CARGO_PKG_VERSION"))),
        ),
    ];
    for (key, part) in origin.parts() {
        provenance.push((TorchValue::text(key), TorchValue::Text(part)));
    }
    let value = TorchValue::Dict(vec![
        (TorchValue::text("J"), TorchValue::Dict(matrices.collect())),
        (
            TorchValue::text("source_layers"),
            TorchValue::List((0..fit.blocks()).map(whole).collect()),
        ),
        (TorchValue::text("n_prompts"), whole(fit.prompts)),
        (TorchValue::text("d_model"), whole(fit.width)),
        (TorchValue::text("provenance"), TorchValue::Dict(provenance)),
    ]);
    file::write(path, &archive_with(&value), overwrite)
}

/// Reads a fit in order to go on with it.
///
/// # Errors
///
/// When the file is none of ours, or was made on something else.
pub fn resume(path: &Path, origin: &LensOrigin, card: &Card) -> Result<JacobianFit> {
    let bad = |what: String| Error::bad_file(path, what, NEXT);
    let known = facts(path)?;
    for (key, expected) in origin.parts() {
        let found = known.get(&format!("provenance.{key}"));
        let found = found.ok_or_else(|| {
            bad(format!(
                "it does not say its `{key}`, so a fit cannot go on from it"
            ))
        })?;
        if *found != expected {
            return Err(bad(format!(
                "its {key} is {}, and this fit's is {}",
                text::visible(found.as_bytes()),
                text::visible(expected.as_bytes())
            )));
        }
    }
    let prompts = known.get("n_prompts").and_then(|n| n.parse::<usize>().ok());
    let prompts = prompts
        .filter(|n| *n > 0)
        .ok_or_else(|| bad("it does not say its number of prompts".into()))?;
    let opened = Pickled::open(&[path.to_path_buf()])?;
    let mut means = Vec::new();
    for block in 0..card.layers.saturating_sub(1) {
        let name = format!("J.{block}");
        let stored = opened
            .get(&name)?
            .ok_or_else(|| bad(format!("it lacks the matrix of block {block}")))?;
        let mean: Vec<f32> = stored.load()?.flatten_all()?.host_vec1()?;
        if mean.len() != card.d_model * card.d_model || !mean.iter().all(|x| x.is_finite()) {
            return Err(bad(format!(
                "its matrix of block {block} does not fit the model, or has a number that is not finite"
            )));
        }
        means.push(mean);
    }
    Ok(JacobianFit::from_means(&means, card.d_model, prompts))
}

/// Writes a tuned lens into a folder, which is made if it is not there.
///
/// # Errors
///
/// When a file cannot be written, or is there and may not be overwritten.
pub fn save_tuned(
    fit: &TunedFit,
    origin: &LensOrigin,
    card: &Card,
    folder: &Path,
    overwrite: Overwrite,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Io {
        path: folder.into(),
        source,
    })?;
    let maps: Vec<_> = (0..card.layers)
        .map(|block| fit.map(block))
        .collect::<Result<_>>()?;
    let tensors = maps.iter().enumerate().flat_map(|(block, (weight, bias))| {
        let tensor = |shape, numbers| TorchValue::Tensor { shape, numbers };
        [
            (
                TorchValue::Text(format!("{block}.weight")),
                tensor(vec![fit.width, fit.width], weight.as_slice()),
            ),
            (
                TorchValue::Text(format!("{block}.bias")),
                tensor(vec![fit.width], bias.as_slice()),
            ),
        ]
    });
    let params = archive_with(&TorchValue::Dict(tensors.collect()));
    let mut config = serde_json::json!({
        "base_model_name_or_path": origin.model,
        "d_model": card.d_model,
        "num_hidden_layers": card.layers,
        "bias": true,
        "lens_type": "linear_tuned_lens",
        "made_by": concat!("lmscope ", env!("CARGO_PKG_VERSION")),
        "steps": fit.step,
    });
    for (key, part) in origin.parts() {
        config[key] = part.into();
    }
    file::write(&folder.join("params.pt"), &params, overwrite)?;
    let config = format!("{config:#}\n");
    file::write(&folder.join("config.json"), config.as_bytes(), overwrite)
}
