//! A training that was stopped, as a file.
//!
//! Invariant: what is loaded goes on as what was saved would have; it is refused for another model, text, site or other options.
//! To keep something else, add a tensor to `tensors` or a field to [`TrainingFacts`].

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::TrainOptions;
use super::file::tensor_bytes;
use super::optimiser::{GradientMoments, Optimiser};
use super::training::{CurvePoint, DictionaryTrainer};
use super::weights::TrainingWeights;
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::model::checkpoint::tensor_file::TensorFile;

/// The name of the file in the folder of the dictionary.
pub const STATE: &str = "training_state.safetensors";

/// The key of the metadata that holds [`TrainingFacts`].
const FACTS: &str = "lmscope.training";

const NEXT: &str = "Begin again with --force, which overwrites it.";

/// What a training belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingFacts {
    pub options: TrainOptions,
    /// The fingerprint of the model's weights.
    pub revision: String,
    /// How its matrices are stored.
    pub dtype: String,
    /// The address.
    pub site: String,
    /// The digest of text and cut.
    pub text: u64,
}

/// The whole metadata.
#[derive(Debug, Serialize, Deserialize)]
struct SavedTraining {
    facts: TrainingFacts,
    seen: usize,
    /// As bits: a decimal number may come back another one.
    scale: u32,
    limit: u32,
    threshold: (u64, u64),
    place: (usize, usize),
    steps: u32,
    silent: Vec<u64>,
    curve: Vec<CurvePoint>,
}

/// All tensors by name.
fn tensors(trainer: &DictionaryTrainer) -> Vec<(&'static str, &[f32])> {
    let (weights, adam) = (&trainer.weights, &trainer.optimiser);
    vec![
        ("encoder", &weights.encoder),
        ("decoder", &weights.decoder),
        ("encoder_bias", &weights.encoder_bias),
        ("decoder_bias", &weights.decoder_bias),
        ("thresholds", &weights.thresholds),
        ("mean.encoder", &adam.encoder.mean),
        ("mean.decoder", &adam.decoder.mean),
        ("mean.encoder_bias", &adam.encoder_bias.mean),
        ("mean.decoder_bias", &adam.decoder_bias.mean),
        ("mean.thresholds", &adam.thresholds.mean),
        ("square.encoder", &adam.encoder.square),
        ("square.decoder", &adam.decoder.square),
        ("square.encoder_bias", &adam.encoder_bias.square),
        ("square.decoder_bias", &adam.decoder_bias.square),
        ("square.thresholds", &adam.thresholds.square),
    ]
}

/// Writes the state of a training; an earlier state is replaced.
///
/// # Errors
///
/// When the file cannot be written; an earlier state is kept then.
pub fn save(trainer: &DictionaryTrainer, facts: &TrainingFacts, path: &Path) -> Result<()> {
    let begun: Vec<f32> = trainer
        .optimiser
        .begun
        .iter()
        .map(|b| f32::from(u8::from(*b)))
        .collect();
    let mut all: Vec<(&str, Vec<usize>, &[f32])> = tensors(trainer)
        .into_iter()
        .map(|(name, numbers)| (name, vec![numbers.len()], numbers))
        .collect();
    all.push(("begun", vec![begun.len()], &begun));
    let saved = SavedTraining {
        facts: facts.clone(),
        seen: trainer.seen,
        scale: trainer.scale.to_bits(),
        limit: trainer.limit.to_bits(),
        threshold: (trainer.threshold.0.to_bits(), trainer.threshold.1.to_bits()),
        place: trainer.place,
        steps: trainer.optimiser.steps,
        silent: trainer.silent.clone(),
        curve: trainer.curve.clone(),
    };
    let text = serde_json::to_string(&saved)
        .map_err(|e| Error::Engine(format!("the state was not written: {e}")))?;
    let bytes = tensor_bytes(&all, Some(HashMap::from([(FACTS.to_string(), text)])))?;
    file::write(path, &bytes, Overwrite::Allowed)
}

/// Reads a state that [`save`] wrote; with the learning rate that it was trained at, where another one is asked for from here on.
///
/// # Errors
///
/// When it belongs to another training, saying what differs, or is damaged.
pub fn load(path: &Path, facts: &TrainingFacts) -> Result<(DictionaryTrainer, Option<f32>)> {
    let bad = |what: String| Error::bad_file(path, what, NEXT);
    let file = TensorFile::open(path)?;
    let bytes = file::read(path, file::NUMBERS)?;
    let (_, header) =
        safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
    drop(bytes);
    let text = header.metadata().as_ref().and_then(|m| m.get(FACTS));
    let text = text.ok_or_else(|| bad("it is no state of a training".into()))?;
    let saved: SavedTraining =
        serde_json::from_str(text).map_err(|e| bad(format!("its state is damaged ({e})")))?;
    if let Some(what) = difference(&saved.facts, facts) {
        return Err(Error::bad_file(
            path,
            what,
            "Resume with the same model, text and flags (--lr may be another one), or begin again with --force.",
        ));
    }
    let options = &facts.options;
    let vector = |name: &str, length: Option<usize>| -> Result<Vec<f32>> {
        let numbers = file.numbers(name)?;
        match length {
            Some(length) if numbers.len() != length => Err(bad(format!(
                "its `{name}` has {} numbers, and {length} are expected",
                numbers.len()
            ))),
            Some(_) | None => Ok(numbers),
        }
    };
    let decoder_bias = vector("decoder_bias", None)?;
    let (features, width) = (options.features, decoder_bias.len());
    let mut weights = TrainingWeights::new(options, width, &[]);
    let matrix = Some(features * width);
    let thresholds = Some(weights.thresholds.len());
    weights.encoder = vector("encoder", matrix)?;
    weights.decoder = vector("decoder", matrix)?;
    weights.encoder_bias = vector("encoder_bias", Some(features))?;
    weights.decoder_bias = decoder_bias;
    weights.thresholds = vector("thresholds", thresholds)?;
    weights.measure();
    let moments = |name: &str, length: Option<usize>| -> Result<GradientMoments> {
        Ok(GradientMoments {
            mean: vector(&format!("mean.{name}"), length)?,
            square: vector(&format!("square.{name}"), length)?,
        })
    };
    let begun = vector("begun", Some(features))?;
    let optimiser = Optimiser {
        steps: saved.steps,
        encoder: moments("encoder", matrix)?,
        decoder: moments("decoder", matrix)?,
        encoder_bias: moments("encoder_bias", Some(features))?,
        decoder_bias: moments("decoder_bias", Some(width))?,
        thresholds: moments("thresholds", thresholds)?,
        begun: begun.into_iter().map(|b| b > 0.5).collect(),
    };
    if saved.silent.len() != features {
        return Err(bad("it is of another number of features".into()));
    }
    let mut trainer = DictionaryTrainer::with(options, weights, f32::from_bits(saved.scale));
    trainer.optimiser = optimiser;
    trainer.silent = saved.silent;
    trainer.seen = saved.seen;
    trainer.limit = f32::from_bits(saved.limit);
    trainer.threshold = (
        f64::from_bits(saved.threshold.0),
        f64::from_bits(saved.threshold.1),
    );
    trainer.place = saved.place;
    trainer.curve = saved.curve;
    let before = saved.facts.options.rate;
    let changed = (before.to_bits() != options.rate.to_bits()).then_some(before);
    Ok((trainer, changed))
}

/// What differs between the training that was saved and the one that is asked for.
fn difference(saved: &TrainingFacts, asked: &TrainingFacts) -> Option<String> {
    let (a, b) = (&saved.options, &asked.options);
    let rows = [
        ("model", saved.revision.clone(), asked.revision.clone()),
        ("dtype", saved.dtype.clone(), asked.dtype.clone()),
        ("site", saved.site.clone(), asked.site.clone()),
        (
            "text or --context",
            format!("{:016x}", saved.text),
            format!("{:016x}", asked.text),
        ),
        ("--kind", a.kind.to_string(), b.kind.to_string()),
        ("--features", a.features.to_string(), b.features.to_string()),
        ("-k", a.k.to_string(), b.k.to_string()),
        ("--l0 or --l1", a.penalty.to_string(), b.penalty.to_string()),
        ("--tokens", a.tokens.to_string(), b.tokens.to_string()),
        ("--batch", a.batch.to_string(), b.batch.to_string()),
        ("--seed", a.seed.to_string(), b.seed.to_string()),
        ("--aux", a.aux.to_string(), b.aux.to_string()),
        (
            "--dead-after",
            a.dead_after.to_string(),
            b.dead_after.to_string(),
        ),
    ];
    let differs = rows.into_iter().find(|(_, saved, asked)| saved != asked);
    differs.map(|(what, saved, asked)| {
        format!("it is of another training: its {what} is {saved}, and {asked} is asked for")
    })
}
