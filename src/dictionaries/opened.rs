//! Dictionaries on a model: where each reads and writes there, and those that are open.
//!
//! Invariant: a dictionary is on a model only at places that the model has, with activations of its width; what its file says of
//! another model is said. To keep something else of a dictionary, add a field to [`PlacedDictionary`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::dictionary::Dictionary;
use super::formats;
use super::labels::FeatureLabels;
use super::norms::InputNorm;
use super::place::DictionaryPlace;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::network::address::resolve;
use crate::model::network::blueprint::NormKind;
use crate::model::network::site::Address;
use crate::text;

/// A dictionary with its places on a model.
#[derive(Debug)]
pub struct PlacedDictionary {
    pub dictionary: Dictionary,
    /// By input.
    pub reads: Vec<Address>,
    /// By target.
    pub writes: Vec<Address>,
}

/// The dictionaries of a file or folder: one, or a set of several layers.
#[derive(Debug)]
pub struct DictionarySet {
    pub dictionaries: Vec<PlacedDictionary>,
}

impl DictionarySet {
    /// Opens `PATH`, `PATH@ADDRESS` or `PATH@ADDRESS>ADDRESS` on a model: addresses replace what the file says of where it reads
    /// and what it reconstructs.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or does not fit the model.
    pub fn open(given: &str, model: &Model) -> Result<Self> {
        let (path, places) = parse(given, model);
        let found = formats::open(Path::new(path))?;
        if places.is_some() && found.len() > 1 {
            return Err(Error::argument(
                "dictionary",
                text::visible(given.as_bytes()),
                "a set of several layers without an address; name one of its files for that",
            ));
        }
        let placed = found.into_iter().map(|mut dictionary| {
            if let Some((from, to)) = places {
                let at = |at| DictionaryPlace::At(at);
                let one = dictionary.is_autoencoder();
                dictionary
                    .inputs
                    .iter_mut()
                    .for_each(|i| i.place = at(from));
                if one || to.is_some() {
                    let to = at(to.unwrap_or(from));
                    dictionary
                        .targets
                        .iter_mut()
                        .for_each(|t| t.place = to.clone());
                }
            }
            PlacedDictionary::on(dictionary, model)
        });
        Ok(Self {
            dictionaries: placed.collect::<Result<_>>()?,
        })
    }
}

/// A path with the addresses after it.
fn parse<'a>(given: &'a str, model: &Model) -> (&'a str, Option<(Address, Option<Address>)>) {
    let given = given.trim();
    let Some((path, after)) = given.rsplit_once('@') else {
        return (given, None);
    };
    let (from, to) = after.split_once('>').unwrap_or((after, after));
    let address = |text: &str| resolve(text.trim(), &model.card.blueprint).ok();
    match (address(from), address(to)) {
        (Some(from), Some(to)) => (path, Some((from, after.contains('>').then_some(to)))),
        // An `@` of the path itself.
        _ => (given, None),
    }
}

impl PlacedDictionary {
    /// A dictionary on a model.
    ///
    /// # Errors
    ///
    /// When the model lacks a place, or has activations of another width there.
    pub fn on(mut dictionary: Dictionary, model: &Model) -> Result<Self> {
        let about = |error: Error| {
            if let Error::Refused { address, why } = error {
                let why = format!("(dictionary {}) {why}", dictionary.name);
                Error::Refused { address, why }
            } else {
                error
            }
        };
        let mut reads = Vec::new();
        for input in &dictionary.inputs {
            let at = input.place.on(model, input.encoder.width).map_err(about)?;
            if reads.contains(&at) {
                return Err(about(Error::Refused {
                    address: at.to_string(),
                    why: format!(
                        "it is a crosscoder of {} models at one place, and there is one model here. Features of the two need the activations of both.",
                        dictionary.inputs.len()
                    ),
                }));
            }
            reads.push(at);
        }
        let writes = dictionary
            .targets
            .iter()
            .map(|target| target.place.on(model, target.decoder.width).map_err(about));
        let writes = writes.collect::<Result<Vec<_>>>()?;
        if model.transformer.norm.kind == NormKind::Rms {
            // Its tool centres the weights of models with LayerNorm alone.
            let centred = dictionary
                .inputs
                .iter_mut()
                .filter(|i| i.norm == InputNorm::Centred);
            centred.for_each(|input| input.norm = InputNorm::Nothing);
        }
        Ok(Self {
            dictionary,
            reads,
            writes,
        })
    }

    /// What a reader must know of the dictionary: what it is, the model that its file names beside this one, and its remarks.
    pub fn notes(&self, model: &Model) -> Vec<String> {
        let mut notes = vec![self.dictionary.about()];
        if let Some(made_for) = &self.dictionary.made_for {
            notes.push(format!(
                "its file or folder names the model {made_for}; this one is {}",
                model.card.name
            ));
        }
        notes.extend(self.dictionary.remarks.iter().cloned());
        notes
    }
}

/// The dictionaries and labels that were opened, by what was given; kept by the lab.
#[derive(Debug, Default)]
pub struct OpenDictionaries {
    kept: RefCell<BTreeMap<String, Rc<DictionarySet>>>,
    labels: RefCell<BTreeMap<String, Rc<FeatureLabels>>>,
}

impl OpenDictionaries {
    /// The labels of a file, read once; none where no file is named.
    ///
    /// # Errors
    ///
    /// As [`FeatureLabels::open`].
    pub fn labels(&self, given: &str) -> Result<Rc<FeatureLabels>> {
        if let Some(held) = self.labels.borrow().get(given) {
            return Ok(held.clone());
        }
        let labels = Rc::new(match given {
            "" => FeatureLabels::default(),
            path => FeatureLabels::open(Path::new(path))?,
        });
        let mut kept = self.labels.borrow_mut();
        kept.insert(given.to_string(), labels.clone());
        Ok(labels)
    }

    /// What was opened, by what was given.
    pub fn opened(&self) -> Vec<(String, Rc<DictionarySet>)> {
        let kept = self.kept.borrow();
        kept.iter()
            .map(|(given, set)| (given.clone(), set.clone()))
            .collect()
    }

    /// The dictionaries of a file or folder, opened once.
    ///
    /// # Errors
    ///
    /// As [`DictionarySet::open`].
    pub fn get(&self, given: &str, model: &Model) -> Result<Rc<DictionarySet>> {
        if let Some(held) = self.kept.borrow().get(given) {
            return Ok(held.clone());
        }
        let set = Rc::new(DictionarySet::open(given, model)?);
        self.kept
            .borrow_mut()
            .insert(given.to_string(), set.clone());
        Ok(set)
    }
}
