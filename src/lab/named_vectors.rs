//! The vectors, units and means that edits name, found for the compiler of edits.
//!
//! Invariant: a direction of another model is refused; a mean, another text and the sizes for a control are those of unedited
//! runs. To let edits name another thing, add a method.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::lab::Lab;
use super::run::Run;
use super::statistics::Statistics;
use crate::edit::direction::{Direction, resolve};
use crate::edit::unit_set::UnitSet;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::network::site::{Address, Axis, Site};
use crate::model::tokenizer::Bos;

/// What edits name, for the compiler.
pub(crate) struct NamedVectors<'a> {
    pub(crate) lab: &'a mut Lab,
    given: &'a [u32],
    /// Directions found so far, so that a file is read once.
    opened: HashMap<String, Direction>,
    /// Statistics read so far, so that a file is read once.
    read: HashMap<String, Statistics>,
}

impl<'a> NamedVectors<'a> {
    /// Looks up what edits of a run with this prompt name.
    pub(crate) fn new(lab: &'a mut Lab, given: &'a [u32]) -> Self {
        Self {
            lab,
            given,
            opened: HashMap::new(),
            read: HashMap::new(),
        }
    }

    /// The bytes of every token of the prompt.
    pub(crate) fn prompt_bytes(&self) -> Vec<Vec<u8>> {
        let given = self.given.iter();
        given.map(|t| self.lab.model.bytes(*t)).collect()
    }

    fn direction_named(&mut self, name: &str) -> Result<&Direction> {
        if !self.opened.contains_key(name) {
            let found = self.lab.direction(name)?;
            self.opened.insert(name.to_string(), found);
        }
        let held = self.opened.get(name);
        held.ok_or_else(|| Error::Engine(format!("the direction {name} was lost")))
    }

    /// An address on a text, unedited.
    fn recorded(&mut self, tokens: Vec<u32>, at: Address) -> Result<Tensor> {
        let recording = self.lab.record(&Run::plain(tokens), &[at])?;
        Ok(recording.get(at)?.to_dtype(DType::F32)?)
    }

    /// The direction's vector for an address, checked against the model.
    pub(crate) fn direction(&mut self, name: &str, at: Address) -> Result<Vec<f32>> {
        Ok(self.direction_named(name)?.at(at)?.to_vec())
    }

    /// Whether the direction has a vector for an address.
    pub(crate) fn has_vector(&mut self, name: &str, at: Address) -> Result<bool> {
        Ok(self.direction_named(name)?.at(at).is_ok())
    }

    /// What to know about the direction before it is used; empty where there is nothing.
    pub(crate) fn caution(&mut self, name: &str) -> Result<String> {
        self.direction_named(name)?;
        let (held, card) = (self.opened.get(name), &self.lab.model.card);
        Ok(held.map_or_else(String::new, |held| held.caution(card)))
    }

    /// The mean of an address over the unedited prompt, its first token left out when there are others, `[width]`, and over
    /// what it was taken.
    pub(crate) fn mean(&mut self, at: Address) -> Result<(Vec<f32>, String)> {
        let values = self.recorded(self.given.to_vec(), at)?;
        let values = values.flatten_from(1)?.to_vec2::<f32>()?;
        let rows = &values[usize::from(values.len() > 1)..];
        let mut sums = vec![0f64; rows[0].len()];
        for row in rows {
            let pairs = sums.iter_mut().zip(row);
            pairs.for_each(|(s, v)| *s += f64::from(*v));
        }
        let mean = sums.iter().map(|s| (s / rows.len() as f64) as f32);
        let note = format!("mean over {} tokens of this prompt", rows.len());
        Ok((mean.collect(), note))
    }

    /// The mean of an address in a statistics file, `[width]`, and over what it was taken.
    pub(crate) fn statistic(&mut self, file: &str, at: Address) -> Result<(Vec<f32>, String)> {
        if !self.read.contains_key(file) {
            self.read.insert(file.into(), self.lab.statistics(file)?);
        }
        let held = &self.read[file];
        Ok((held.mean(at)?.to_vec(), held.about()))
    }

    /// An address on another text, unedited, `[positions * width]`, and which text that was.
    pub(crate) fn other_text(&mut self, text: &str, at: Address) -> Result<(Vec<f32>, String)> {
        let tokens = self.lab.model.encode(text, false)?;
        let note = format!("values of another text of {} tokens", tokens.len());
        let rows = self.recorded(tokens, at)?.flatten_all()?;
        Ok((rows.to_vec1()?, note))
    }

    /// The units of a named set at an address.
    pub(crate) fn units(&mut self, set: &str, at: Address) -> Result<Vec<u32>> {
        let set = self.lab.unit_set(set)?;
        if set.site != at.site {
            let has = set.site.spec().name;
            return Err(Error::Refused {
                address: at.to_string(),
                why: format!("the set has units of `{has}`. Edit those, or choose another set."),
            });
        }
        Ok(set.at(at.layer))
    }

    /// How large the units of an address are over the unedited prompt: the mean over its tokens of the magnitude, a number
    /// a unit.
    pub(crate) fn sizes(&mut self, at: Address) -> Result<Vec<f32>> {
        let size = unit_size(at.site, &self.lab.model);
        let rows = self.recorded(self.given.to_vec(), at)?.flatten_from(1)?;
        let mean = rows.abs()?.mean(0)?.to_device(&Device::Cpu)?;
        let mean = mean.to_vec1::<f32>()?;
        Ok(mean.chunks(size).map(|c| c.iter().sum()).collect())
    }

    /// The first token of a text; `#17` is token 17 itself.
    pub(crate) fn token(&mut self, text: &str) -> Result<u32> {
        if let Some(id) = text.strip_prefix('#').and_then(|id| id.parse::<u32>().ok()) {
            let vocab = self.lab.model.card.vocab;
            let known = (id as usize) < vocab;
            let expected = format!("a token from #0 to #{}", vocab - 1);
            return known
                .then_some(id)
                .ok_or_else(|| Error::argument("token", text, expected));
        }
        let tokens = self.lab.model.tokenizer()?.encode(text, Bos::Raw)?;
        tokens
            .first()
            .copied()
            .ok_or_else(|| Error::argument("token", text, "a text that has at least one token"))
    }
}

/// How many coordinates one unit of a site covers.
pub(crate) fn unit_size(site: Site, model: &Model) -> usize {
    if matches!(site.spec().axis, Axis::Heads | Axis::KvHeads) {
        model.transformer.blueprint.head_dim
    } else {
        1
    }
}

/// The direction of a name: a loaded one, or a file; `NAME#-1` is NAME moved by that many layers.
pub(crate) fn find_direction(
    loaded: &HashMap<String, Direction>,
    model: &Model,
    name: &str,
) -> Result<Direction> {
    let found = resolve(name, &|name| match loaded.get(name) {
        Some(held) => Ok(Some(held.clone())),
        None => Direction::at_path(name),
    })?;
    let found = found.ok_or_else(|| unknown_name("direction", name, "loaded", loaded))?;
    found.check(&model.card)?;
    found.with_row_layers(&model.card)
}

/// Refuses a name that is neither a file nor one that the lab holds.
fn unknown_name<T>(what: &str, name: &str, held: &str, all: &HashMap<String, T>) -> Error {
    let mut known: Vec<&str> = all.keys().map(String::as_str).collect();
    known.sort_unstable();
    let known = if known.is_empty() {
        format!("no {what} is {held}")
    } else {
        format!("{held}: {}", known.join(", "))
    };
    let expected = format!("a file, or a {held} {what} ({known})");
    Error::argument(what, name, expected)
}

impl Lab {
    /// The direction of a name: a loaded one, or a file; `NAME#-1` is NAME moved by that many layers.
    pub fn direction(&self, name: &str) -> Result<Direction> {
        find_direction(&self.directions, &self.model, name)
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
            None => return Err(unknown_name("unit set", name, "kept", &self.sets)),
        };
        found.check(&self.model.card)?;
        Ok(found)
    }
}
