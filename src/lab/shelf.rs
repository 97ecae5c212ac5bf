//! The shelf: where compiling edits finds the vectors, units and means that they name.
//!
//! Invariant: a direction of another model is refused. Means and other texts were measured before, because they need
//! passes of their own. To add a source of vectors, add a field and a method.

use std::collections::HashMap;

use super::bench::Bench;
use super::statistics::Statistics;
use crate::edit::direction::{Direction, resolve};
use crate::edit::unit_set::UnitSet;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::network::site::Address;
use crate::model::tokenizer::Bos;

/// What was measured for a program.
#[derive(Default)]
pub(crate) struct Measured {
    /// Means over the prompt, and over what they were taken.
    pub(crate) means: HashMap<Address, (Vec<f32>, String)>,
    /// Addresses on other texts, `[positions * width]`, and which texts.
    pub(crate) others: HashMap<(String, Address), (Vec<f32>, String)>,
    /// How large units are.
    pub(crate) sizes: HashMap<Address, Vec<f32>>,
}

/// What edits name, for the compiler.
pub(crate) struct Shelf<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) measured: &'a Measured,
    /// Directions found so far, so that a file is read once.
    pub(crate) opened: HashMap<String, Direction>,
    /// The same for statistics.
    pub(crate) read: HashMap<String, Statistics>,
}

impl Shelf<'_> {
    fn get(&mut self, name: &str) -> Result<&Direction> {
        if !self.opened.contains_key(name) {
            let found = self.bench.direction(name)?;
            self.opened.insert(name.to_string(), found);
        }
        let held = self.opened.get(name);
        held.ok_or_else(|| Error::Engine(format!("the direction {name} was lost")))
    }

    fn missing(what: &str, at: Address) -> Error {
        Error::Engine(format!("no {what} was prepared for {at}"))
    }

    /// The direction's vector for an address, checked against the model.
    pub(crate) fn direction(&mut self, name: &str, at: Address) -> Result<Vec<f32>> {
        Ok(self.get(name)?.at(at)?.to_vec())
    }

    /// Whether the direction has a vector for an address.
    pub(crate) fn has(&mut self, name: &str, at: Address) -> Result<bool> {
        Ok(self.get(name)?.at(at).is_ok())
    }

    /// What to know about the direction before it is used; empty where there is nothing.
    pub(crate) fn caution(&mut self, name: &str) -> Result<String> {
        let card = &self.bench.model.card;
        Ok(self.get(name)?.caution(card))
    }

    /// The mean of an address over the unedited prompt, `[width]`, and where it came from.
    pub(crate) fn mean(&mut self, at: Address) -> Result<(Vec<f32>, String)> {
        let held = self.measured.means.get(&at).cloned();
        held.ok_or_else(|| Self::missing("mean", at))
    }

    /// The mean of an address in a statistics file, `[width]`, and over what it was taken.
    pub(crate) fn statistic(&mut self, file: &str, at: Address) -> Result<(Vec<f32>, String)> {
        if !self.read.contains_key(file) {
            self.read.insert(file.into(), self.bench.statistics(file)?);
        }
        let held = &self.read[file];
        Ok((held.mean(at)?.to_vec(), held.about()))
    }

    /// An address on another text, `[positions * width]`, and which text that was.
    pub(crate) fn other(&mut self, text: &str, at: Address) -> Result<(Vec<f32>, String)> {
        let held = self.measured.others.get(&(text.to_string(), at)).cloned();
        held.ok_or_else(|| Self::missing("other text", at))
    }

    /// The units of a named set at an address.
    pub(crate) fn units(&mut self, set: &str, at: Address) -> Result<Vec<u32>> {
        let set = self.bench.unit_set(set)?;
        if set.site != at.site {
            let has = set.site.spec().name;
            return Err(Error::Refused {
                address: at.to_string(),
                why: format!("the set has units of `{has}`. Edit those, or choose another set."),
            });
        }
        Ok(set.at(at.layer))
    }

    /// How large the units of an address are over the unedited run, a number a unit.
    pub(crate) fn sizes(&mut self, at: Address) -> Result<Vec<f32>> {
        let held = self.measured.sizes.get(&at).cloned();
        held.ok_or_else(|| Self::missing("size of units", at))
    }

    /// The first token of a text; `#17` is token 17 itself.
    pub(crate) fn token(&mut self, text: &str) -> Result<u32> {
        if let Some(id) = text.strip_prefix('#').and_then(|id| id.parse::<u32>().ok()) {
            let vocab = self.bench.model.card.vocab;
            let known = (id as usize) < vocab;
            let expected = format!("a token from #0 to #{}", vocab - 1);
            return known
                .then_some(id)
                .ok_or_else(|| Error::argument("token", text, expected));
        }
        let tokens = self.bench.model.tokenizer()?.encode(text, Bos::Raw)?;
        tokens
            .first()
            .copied()
            .ok_or_else(|| Error::argument("token", text, "a text that has a token"))
    }
}

/// The direction of a name: a loaded one, or a file; `NAME#-1` is NAME moved by that many layers.
pub(crate) fn find(
    loaded: &HashMap<String, Direction>,
    model: &Model,
    name: &str,
) -> Result<Direction> {
    let found = resolve(name, &|name| match loaded.get(name) {
        Some(held) => Ok(Some(held.clone())),
        None => Direction::at_path(name),
    })?;
    let Some(found) = found else {
        let mut known: Vec<&str> = loaded.keys().map(String::as_str).collect();
        known.sort_unstable();
        let known = if known.is_empty() {
            "none is loaded".to_string()
        } else {
            format!("loaded are {}", known.join(", "))
        };
        let expected = format!("a file, or a loaded direction ({known})");
        return Err(Error::argument("direction", name, expected));
    };
    found.check(&model.card)?;
    found.settled(&model.card)
}

impl Bench {
    /// The direction of a name: a loaded one, or a file; `NAME#-1` is NAME moved by that many layers.
    pub fn direction(&self, name: &str) -> Result<Direction> {
        find(&self.directions, &self.model, name)
    }

    /// The statistics of a file, of this model.
    pub fn statistics(&self, file: &str) -> Result<Statistics> {
        let found = Statistics::load(std::path::Path::new(file))?;
        found.check(&self.model.card)?;
        Ok(found)
    }

    /// The unit set of a name: a kept one, or a file.
    pub fn unit_set(&self, name: &str) -> Result<UnitSet> {
        let found = match self.sets.get(name) {
            Some(held) => held.clone(),
            None if std::path::Path::new(name).exists() => {
                UnitSet::load(std::path::Path::new(name))?
            }
            None => {
                let mut known: Vec<&str> = self.sets.keys().map(String::as_str).collect();
                known.sort_unstable();
                let known = if known.is_empty() {
                    "none is kept".to_string()
                } else {
                    format!("kept are {}", known.join(", "))
                };
                let expected = format!("a file, or a kept unit set ({known})");
                return Err(Error::argument("unit set", name, expected));
            }
        };
        found.check(&self.model.card)?;
        Ok(found)
    }
}
