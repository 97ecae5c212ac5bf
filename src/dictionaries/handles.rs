//! Dictionaries as edits name them: what [`crate::lab::features`] asks for, answered with the dictionaries that are open.
//!
//! [`open`] and [`open_watched`] make the labs in which edits can name features; nothing else opens a lab for a user, which
//! `tests/it/architecture.rs` holds.
//! Invariant: a dictionary that a figure shows and one that an edit names are the same, opened once. To let edits ask something else
//! of a dictionary, add it to [`FeatureDictionary`] and to `DictionaryHandle`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{D, DType, Tensor};

use super::dictionary::{Dictionary, Input};
use super::gate::FeatureGate;
use super::norms::InputNorm;
use super::opened::{DictionarySet, OpenDictionaries, PlacedDictionary};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::features::{ActiveRow, FeatureDictionary, FeatureReader, FeatureRows, activation};
use crate::model::Card;
use crate::model::hub::DownloadWatch;
use crate::model::load::Options;
use crate::model::network::site::Address;
use crate::text;

/// Opens a model as a lab whose edits can name features.
///
/// # Errors
///
/// Those of [`Lab::open`].
pub fn open(given: &str, options: &Options) -> Result<Lab> {
    Ok(with_features(Lab::open(given, options)?))
}

/// As [`open`], reporting the progress of a download.
///
/// # Errors
///
/// Those of [`Lab::open_watched`].
pub fn open_watched(given: &str, options: &Options, watch: &mut DownloadWatch<'_>) -> Result<Lab> {
    Ok(with_features(Lab::open_watched(given, options, watch)?))
}

/// A lab whose edits can name features of dictionaries.
#[must_use]
pub fn with_features(mut lab: Lab) -> Lab {
    lab.open_dictionary = Some(handles);
    lab
}

/// One handle for each dictionary of a set.
type SetHandles = Vec<Arc<dyn FeatureDictionary>>;

/// The handles of the dictionaries that are open, by what edits call them; kept by the lab.
#[derive(Debug, Default)]
struct OpenHandles {
    kept: RefCell<BTreeMap<String, (Rc<DictionarySet>, SetHandles)>>,
}

/// The dictionaries of a name, with one handle each: one that is open under it; else what is opened by it; else the only one that is
/// open whose folder or file is called so.
fn handles(lab: &Lab, name: &str) -> Result<Vec<Arc<dyn FeatureDictionary>>> {
    let dictionaries = lab.derived::<OpenDictionaries>();
    let (given, set) = match dictionaries.get(name, lab) {
        Ok(set) => (name.to_string(), set),
        Err(error) => {
            let opened = dictionaries.opened();
            let mut called = opened
                .into_iter()
                .filter(|(given, _)| short_name(given) == name);
            match (called.next(), called.next()) {
                (Some(found), None) => found,
                (Some((first, _)), Some((second, _))) => {
                    let expected =
                        format!("one of the dictionaries that are called so: {first} or {second}");
                    return Err(Error::argument("dictionary", name, expected));
                }
                (None, _) => return Err(error),
            }
        }
    };
    let open = lab.derived::<OpenHandles>();
    if let Some((held, handles)) = open.kept.borrow().get(name)
        && Rc::ptr_eq(held, &set)
    {
        return Ok(handles.clone());
    }
    let several = set.dictionaries.len() > 1;
    let handle = |placed: &PlacedDictionary| -> Arc<dyn FeatureDictionary> {
        let card = &lab.model.card;
        Arc::new(DictionaryHandle::of(placed, (name, &given), several, card))
    };
    let handles: Vec<_> = set.dictionaries.iter().map(handle).collect();
    let mut kept = open.kept.borrow_mut();
    kept.insert(name.to_string(), (set, handles.clone()));
    Ok(handles)
}

/// The last part of a path, without an address behind it.
pub fn short_name(given: &str) -> &str {
    let path = match given.rsplit_once('@') {
        Some((path, after)) if !after.contains('/') => path,
        _ => given,
    };
    let name = Path::new(path).file_name();
    name.and_then(|name| name.to_str()).unwrap_or(path)
}

/// A dictionary on a model as edits see it.
#[derive(Debug)]
struct DictionaryHandle {
    name: String,
    /// Its matrices stay in their files.
    dictionary: Arc<Dictionary>,
    reads: Vec<Address>,
    writes: Vec<Address>,
    caution: String,
}

impl DictionaryHandle {
    fn of(
        placed: &PlacedDictionary,
        (name, given): (&str, &str),
        several: bool,
        card: &Card,
    ) -> Self {
        let is = (name != given).then(|| format!("{name} is {}", text::visible(given.as_bytes())));
        let other = placed.other_model(card).map(|other| {
            let other = text::visible(other.as_bytes());
            format!(
                "{name} WAS MADE FOR {other}, and this model is {}",
                card.name
            )
        });
        let cautions: Vec<String> = is.into_iter().chain(other).collect();
        let caution = cautions.join("; ");
        Self {
            name: if several {
                format!("{name} of layer {}", placed.reads[0].layer)
            } else {
                name.to_string()
            },
            dictionary: Arc::new(placed.dictionary.clone()),
            reads: placed.reads.clone(),
            writes: placed.writes.clone(),
            caution,
        }
    }
}

impl FeatureDictionary for DictionaryHandle {
    fn name(&self) -> &str {
        &self.name
    }

    fn count(&self) -> usize {
        self.dictionary.features()
    }

    fn reads(&self) -> &[Address] {
        &self.reads
    }

    fn writes(&self) -> &[Address] {
        &self.writes
    }

    fn caution(&self) -> String {
        self.caution.clone()
    }

    fn reader(&self, features: &[u32]) -> Result<Arc<dyn FeatureReader>> {
        let chosen = |dictionary: &Dictionary, numbers: &[u32]| -> Vec<FeatureLine> {
            numbers
                .iter()
                .map(|f| FeatureLine::of(dictionary, *f as usize))
                .collect()
        };
        let alone = self.dictionary.of(features).map(Arc::new);
        let all: Vec<u32> = (0..features.len() as u32).collect();
        let (dictionary, numbers) = match alone {
            Some(alone) => (alone, all),
            // Which are active depends on the others, so all are read.
            None => (self.dictionary.clone(), features.to_vec()),
        };
        Ok(Arc::new(HandleReader {
            lines: chosen(&dictionary, &numbers),
            dictionary,
            numbers,
        }))
    }

    fn active(&self, inputs: &[&[f32]]) -> Result<Vec<ActiveRow>> {
        Ok(self.dictionary.encode(inputs)?.features)
    }

    fn reconstruct(&self, target: usize, inputs: &[&[f32]]) -> Result<Vec<f32>> {
        let encoded = self.dictionary.encode(inputs)?;
        self.dictionary.decode(target, &encoded, inputs[0])
    }

    fn direction(&self, target: usize, feature: u32) -> Result<Vec<f32>> {
        let found = self.dictionary.direction(target, feature as usize);
        let found = found.ok_or_else(|| {
            Error::argument(
                "feature",
                feature,
                format!("a feature of {} at that target", self.name),
            )
        })?;
        if found.iter().all(|w| w.is_finite()) {
            return Ok(found);
        }
        Err(Error::not_finite(
            format!(
                "The decoder vector of feature {feature} of {} is not finite",
                self.name
            ),
            "Is its file whole",
        ))
    }
}

/// Some features, ready to be read.
#[derive(Debug)]
struct HandleReader {
    /// With these features alone, where they can be read without the others.
    dictionary: Arc<Dictionary>,
    /// Their numbers there.
    numbers: Vec<u32>,
    lines: Vec<FeatureLine>,
}

/// A feature as a linear function of the normalised inputs: what it is where it is active.
#[derive(Debug)]
struct FeatureLine {
    /// One for each input, `[width]`.
    vectors: Vec<Vec<f32>>,
    offset: f32,
}

impl FeatureLine {
    fn of(dictionary: &Dictionary, feature: usize) -> Self {
        let (factor, offset) = match &dictionary.gate {
            FeatureGate::Gated {
                scale, magnitude, ..
            } => (scale[feature], magnitude[feature]),
            FeatureGate::Relu
            | FeatureGate::JumpRelu(_)
            | FeatureGate::Threshold(_)
            | FeatureGate::TopK(_)
            | FeatureGate::AbsTopK(_)
            | FeatureGate::GroupMax(_) => (1.0, 0.0),
        };
        let mut line = Self {
            vectors: Vec::new(),
            offset: offset + factor * dictionary.bias[feature],
        };
        for input in &dictionary.inputs {
            let by = factor * input.scale.of(feature);
            let row = input.encoder.row(feature);
            let vector: Vec<f32> = row.iter().map(|w| w * by).collect();
            if let Some(less) = &input.less {
                let product: f64 = vector.iter().zip(less).map(|(w, b)| f64::from(w * b)).sum();
                line.offset -= product as f32;
            }
            line.vectors.push(vector);
        }
        line
    }
}

impl FeatureReader for HandleReader {
    fn read(&self, target: usize, inputs: &[&[f32]]) -> Result<FeatureRows> {
        let encoded = self.dictionary.encode(inputs)?;
        let rows = encoded.features.iter();
        let each = rows.flat_map(|row| self.numbers.iter().map(|f| activation(row, *f)));
        let undone = self.dictionary.targets.get(target).is_some_and(|t| t.undo);
        let norms = encoded.norms.iter();
        Ok(FeatureRows {
            activations: each.collect(),
            undo: norms
                .map(|norm| if undone { norm.back } else { 1.0 })
                .collect(),
        })
    }

    fn differentiable(&self, target: usize, inputs: &[Tensor]) -> Result<(Tensor, Tensor)> {
        let first = inputs
            .first()
            .ok_or_else(|| Error::Engine("a dictionary without inputs".into()))?;
        let (batch, tokens, _) = first.dims3()?;
        let device = first.device();
        let offsets: Vec<f32> = self.lines.iter().map(|line| line.offset).collect();
        let count = offsets.len();
        let mut sum = Tensor::new(offsets, device)?
            .broadcast_as((batch, tokens, count))?
            .contiguous()?;
        let mut undo = Tensor::ones((batch, tokens, 1), DType::F32, device)?;
        let undone = self.dictionary.targets.get(target).is_some_and(|t| t.undo);
        for (i, (input, x)) in self.dictionary.inputs.iter().zip(inputs).enumerate() {
            let (x, back) = normalised(input, x)?;
            if i == 0 && undone {
                undo = back;
            }
            let vectors: Vec<f32> = self
                .lines
                .iter()
                .flat_map(|line| line.vectors[i].iter().copied())
                .collect();
            let vectors = Tensor::from_vec(vectors, (count, input.encoder.width), device)?;
            sum = (sum + x.broadcast_matmul(&vectors.t()?)?)?;
        }
        Ok((sum, undo))
    }
}

/// An input `[batch, tokens, width]` after its norm, and the factor that undoes it, `[batch, tokens, 1]`: as
/// [`InputNorm::apply`], through which gradients pass.
fn normalised(input: &Input, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let width = x.dim(D::Minus1)? as f64;
    let ones = || x.narrow(D::Minus1, 0, 1)?.detach().ones_like();
    let centred = || x.broadcast_sub(&x.mean_keepdim(D::Minus1)?);
    Ok(match input.norm {
        InputNorm::Nothing => (x.clone(), ones()?),
        InputNorm::Centred => (centred()?, ones()?),
        InputNorm::ConstantNorm => {
            let back = (x.sqr()?.sum_keepdim(D::Minus1)? / width)?.sqrt()?;
            (x.broadcast_div(&back)?, back)
        }
        InputNorm::LayerNorm => {
            let centred = centred()?;
            let squares = centred.sqr()?.sum_keepdim(D::Minus1)?;
            let back = (squares / (width - 1.0).max(1.0))?.sqrt()?;
            (centred.broadcast_div(&(&back + 1e-5)?)?, back)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_is_called_as_its_folder_or_file() {
        for (given, name) in [
            ("sae/layer_5", "layer_5"),
            ("sae/layer_5/", "layer_5"),
            ("sae/layer_5@resid_post.5", "layer_5"),
            ("l5@mlp_in.5>mlp_add.5", "l5"),
            ("a@b/c.pt", "c.pt"),
            ("demo", "demo"),
        ] {
            assert_eq!(short_name(given), name, "{given}");
        }
    }
}
