//! The folder of a trained dictionary, as SAELens 6 writes it: `cfg.json` and `sae_weights.safetensors`.
//!
//! Invariant: what SAELens computes of the folder, and what [`super::super::formats`] reads of it, is what was trained. To write
//! another fact, add it to the metadata of [`TrainedDictionary::config`].

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::super::dictionary::{Dictionary, Input, Target};
use super::super::gate::FeatureGate;
use super::super::matrix::{FeatureMatrix, FeatureScale};
use super::super::norms::InputNorm;
use super::super::place::DictionaryPlace;
use super::TrainOptions;
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::model::Model;
use crate::model::checkpoint::tensor_file::StoredTensor;
use crate::model::network::address::resolve;
use crate::model::network::names::SPELLINGS;
use crate::model::network::site::{Address, Site};

pub const CONFIG: &str = "cfg.json";
pub const WEIGHTS: &str = "sae_weights.safetensors";

/// The version of SAELens whose keys are written.
const SAELENS: &str = "6.54.12";

/// A trained dictionary: `f = gate((x − b) Wᵀ + c)`, `x̂ = f D + b`, with rows of `D` of length one.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedDictionary {
    pub features: usize,
    pub width: usize,
    /// `W`, `[features, width]`.
    pub encoder: Vec<f32>,
    /// `c`, `[features]`.
    pub encoder_bias: Vec<f32>,
    /// `D`, `[features, width]`.
    pub decoder: Vec<f32>,
    /// `b`, `[width]`.
    pub decoder_bias: Vec<f32>,
    pub gate: FeatureGate,
}

impl TrainedDictionary {
    /// As the form of all dictionaries, at a place.
    pub fn dictionary(&self, name: &str, at: Address) -> Result<Dictionary> {
        let shape = [self.features, self.width];
        let matrix = |numbers: &[f32]| {
            FeatureMatrix::by_feature(StoredTensor::of(&shape, numbers))
                .ok_or_else(|| Error::Engine("a dictionary of two dimensions".into()))
        };
        let place = DictionaryPlace::At(at);
        Ok(Dictionary {
            name: name.into(),
            format: "trained",
            made_for: None,
            inputs: vec![Input {
                place: place.clone(),
                norm: InputNorm::Nothing,
                less: Some(self.decoder_bias.clone()),
                encoder: matrix(&self.encoder)?,
                scale: FeatureScale::One,
            }],
            bias: self.encoder_bias.clone(),
            gate: self.gate.clone(),
            targets: vec![Target {
                place,
                decoder: matrix(&self.decoder)?,
                scale: FeatureScale::One,
                bias: self.decoder_bias.clone(),
                undo: false,
                skip: None,
            }],
            remarks: Vec::new(),
        })
    }

    /// The config, with what is known of the training.
    pub fn config(
        &self,
        model: &Model,
        at: Address,
        options: &TrainOptions,
        about: Value,
    ) -> Value {
        let mut config = json!({
            "architecture": match self.gate {
                FeatureGate::TopK(_) => "topk",
                FeatureGate::Relu => "standard",
                FeatureGate::JumpRelu(_) | FeatureGate::Threshold(_) | FeatureGate::AbsTopK(_)
                | FeatureGate::GroupMax(_) | FeatureGate::Gated { .. } => "jumprelu",
            },
            "d_in": self.width,
            "d_sae": self.features,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": true,
            "normalize_activations": "none",
            "reshape_activations": if at.site == Site::Z { "hook_z" } else { "none" },
            "metadata": {
                "sae_lens_version": SAELENS,
                "sae_lens_training_version": SAELENS,
                "model_name": model.card.name,
                "hook_name": hook(model, at),
                "hook_head_index": null,
                "prepend_bos": model.tokenizer().is_ok_and(|t| t.bos().is_some()),
                "training_architecture": options.kind.name(),
                "lmscope": about,
            },
        });
        if let FeatureGate::TopK(k) = self.gate {
            config["k"] = json!(k);
            config["rescale_acts_by_decoder_norm"] = json!(false);
        }
        config
    }

    /// The bytes of the weights: `W_enc` `[width, features]`, `W_dec` `[features, width]`, biases and, if there are any, thresholds.
    ///
    /// # Errors
    ///
    /// When the safetensors format cannot hold them.
    pub fn weights(&self) -> Result<Vec<u8>> {
        let (features, width) = (self.features, self.width);
        let mut across = vec![0f32; features * width];
        for (f, row) in self.encoder.chunks_exact(width).enumerate() {
            for (i, w) in row.iter().enumerate() {
                across[i * features + f] = *w;
            }
        }
        let mut tensors: Vec<(&str, Vec<usize>, &[f32])> = vec![
            ("W_dec", vec![features, width], &self.decoder),
            ("W_enc", vec![width, features], &across),
            ("b_dec", vec![width], &self.decoder_bias),
            ("b_enc", vec![features], &self.encoder_bias),
        ];
        if let FeatureGate::JumpRelu(thresholds) = &self.gate {
            tensors.push(("threshold", vec![features], thresholds));
        }
        tensor_bytes(&tensors, None)
    }

    /// Writes config and weights into a folder.
    ///
    /// # Errors
    ///
    /// When a file cannot be written; nothing has changed then.
    pub fn save(&self, folder: &Path, config: &Value, overwrite: Overwrite) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let config = format!("{config:#}\n").into_bytes();
        let files: [(PathBuf, Vec<u8>); 2] = [
            (folder.join(WEIGHTS), self.weights()?),
            (folder.join(CONFIG), config),
        ];
        file::write_together(&files, overwrite)
    }
}

/// Tensors of f32 as the bytes of a safetensors file.
///
/// # Errors
///
/// When the format cannot hold them.
pub(super) fn tensor_bytes(
    tensors: &[(&str, Vec<usize>, &[f32])],
    metadata: Option<std::collections::HashMap<String, String>>,
) -> Result<Vec<u8>> {
    let fail = |e: String| Error::Engine(format!("the dictionary was not written: {e}"));
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, numbers)| numbers.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape, _), bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        Ok((*name, view.map_err(|e| fail(e.to_string()))?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, metadata).map_err(|e| fail(e.to_string()))
}

/// The name of TransformerLens for an address, where it has one that means the same tensor; else ours.
fn hook(model: &Model, at: Address) -> String {
    let blueprint = &model.card.blueprint;
    let names = SPELLINGS
        .iter()
        .map(|s| s.name.replace("{}", &at.layer.to_string()));
    let mut same = names.filter(|name| resolve(name, blueprint).is_ok_and(|found| found == at));
    let first = same.next();
    // The usual name of a place of the stream is the short one.
    let short = same.find(|name| name.matches('.').count() == 2);
    match (first, short) {
        (Some(first), Some(short)) if first.matches('.').count() != 2 => short,
        (Some(first), _) => first,
        (None, _) => at.to_string(),
    }
}
