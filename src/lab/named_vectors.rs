//! Looks up the directions, units and means that edits name, for the compiler of edits.
//!
//! Invariant: a direction of another model is refused; means, values of other texts and the magnitudes used for a control come
//! from unedited runs. To let edits name something else, add a method.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::circuit::file::SavedCircuit;
use super::draws::{FIRST_SEED, draw_number, draw_seed};
use super::features::{ActiveRow, FeatureDictionary};
use super::lab::Lab;
use super::run::Run;
use super::statistics::Statistics;
use crate::edit::Edit;
use crate::edit::direction::{Direction, norm, resolve, same_point};
use crate::edit::op::{RelationTurn, UnitsTurn};
use crate::edit::relation_map::RelationMap;
use crate::edit::unit_set::UnitSet;
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Axis, Site};
use crate::model::tokenizer::Bos;
use crate::model::{Card, Model};

/// How strongly a `rewrite` adds the new token, relative to removing the old one (λ2 = 8 and λ1 = 1 in Dai et al. 2022).
const TURN: f32 = 8.0;

/// Looks up what edits name, on behalf of the compiler.
pub(crate) struct NamedVectors<'a> {
    pub(crate) lab: &'a mut Lab,
    given: &'a [u32],
    /// Directions loaded so far, so that each file is read once.
    opened: HashMap<String, Direction>,
    /// Statistics loaded so far, so that each file is read once.
    read: HashMap<String, Statistics>,
    /// The active features over the unedited prompt, by dictionary and where it reads.
    active: HashMap<(String, Vec<Address>), Arc<Vec<ActiveRow>>>,
}

/// The magnitudes of units under the latest prompt, kept because every draw of a control asks for them.
#[derive(Debug, Default)]
struct UnitSizes {
    prompt: Vec<u32>,
    sizes: HashMap<Address, Vec<f32>>,
}

impl<'a> NamedVectors<'a> {
    /// A look-up for the edits of a run whose prompt is `given`.
    pub(crate) fn new(lab: &'a mut Lab, given: &'a [u32]) -> Self {
        Self {
            lab,
            given,
            opened: HashMap::new(),
            read: HashMap::new(),
            active: HashMap::new(),
        }
    }

    /// How many tokens the prompt has.
    pub(crate) fn given_length(&self) -> usize {
        self.given.len()
    }

    /// The active features of a dictionary over the unedited prompt, by position.
    pub(crate) fn active_in_prompt(
        &mut self,
        dictionary: &Arc<dyn FeatureDictionary>,
    ) -> Result<Arc<Vec<ActiveRow>>> {
        let key = (dictionary.name().to_string(), dictionary.reads().to_vec());
        if let Some(held) = self.active.get(&key) {
            return Ok(held.clone());
        }
        let mut inputs = Vec::new();
        for at in dictionary.reads() {
            let values = self.recorded(self.given.to_vec(), *at)?;
            inputs.push(values.flatten_all()?.host_vec1::<f32>()?);
        }
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let rows = Arc::new(dictionary.active(&inputs)?);
        self.active.insert(key, rows.clone());
        Ok(rows)
    }

    /// Where the dictionary writes whose features an edit changes; nothing for other edits.
    pub(crate) fn written_by(&self, edit: &Edit) -> Result<Vec<Address>> {
        let set = self.lab.changed_by(edit)?;
        Ok(set.iter().flat_map(|d| d.writes().to_vec()).collect())
    }

    /// What is to be said where a direction is a feature that is used elsewhere than where its dictionary writes.
    pub(crate) fn elsewhere(&self, name: &str, at: Address) -> Result<String> {
        let Some(feature) = self.lab.feature_named(name)? else {
            return Ok(String::new());
        };
        let writes = feature.dictionary.writes();
        if writes.iter().any(|write| same_point(*write, at)) {
            return Ok(String::new());
        }
        let places: Vec<String> = writes.iter().map(Address::to_string).collect();
        Ok(format!(
            "`{name}` is a feature that writes to {}, and it is used at {at}",
            places.join(", ")
        ))
    }

    /// The bytes of every token of the prompt.
    pub(crate) fn prompt_bytes(&self) -> Vec<Vec<u8>> {
        self.lab.model.pieces(self.given)
    }

    fn direction_named(&mut self, name: &str) -> Result<&Direction> {
        if !self.opened.contains_key(name) {
            let found = self.lab.direction(name)?;
            self.opened.insert(name.to_string(), found);
        }
        let held = self.opened.get(name);
        held.ok_or_else(|| Error::Engine(format!("the direction {name} was lost")))
    }

    /// The value at an address in an unedited run over these tokens, f32.
    fn recorded(&mut self, tokens: Vec<u32>, at: Address) -> Result<Tensor> {
        let recording = self.lab.record(&Run::plain(tokens), &[at])?;
        Ok(recording.get(at)?.to_dtype(DType::F32)?)
    }

    /// The direction's vector for an address, after checking that the direction belongs to the model.
    pub(crate) fn direction(&mut self, name: &str, at: Address) -> Result<Vec<f32>> {
        Ok(self.direction_named(name)?.at(at)?.to_vec())
    }

    /// The direction's control with shuffled labels, in the draw of a seed, and what that is; none if its file has none. Those that are
    /// saved are the draws of the first seed, and those of every other seed are mixed from them, so that seeds share none.
    pub(crate) fn shuffled(
        &mut self,
        name: &str,
        at: Address,
        seed: u64,
    ) -> Result<Option<(Vec<f32>, &'static str)>> {
        let (direction, draw) = (self.direction_named(name)?, draw_number(seed));
        if seed == draw_seed(FIRST_SEED, draw) {
            let is = "the direction of the same prompts with shuffled labels, at the same length";
            return Ok(direction.shuffled(draw, at).map(|vector| (vector, is)));
        }
        let is = "a random mixture of the directions of the same prompts with shuffled labels, at the same length";
        Ok(direction.mixed(seed, at).map(|vector| (vector, is)))
    }

    /// Whether the direction has a vector for an address.
    pub(crate) fn has_vector(&mut self, name: &str, at: Address) -> Result<bool> {
        Ok(self.direction_named(name)?.at(at).is_ok())
    }

    /// A caution about the direction, for the edit's receipt; empty where there is none.
    pub(crate) fn caution(&mut self, name: &str) -> Result<String> {
        self.direction_named(name)?;
        let (held, card) = (self.opened.get(name), &self.lab.model.card);
        Ok(held.map_or_else(String::new, |held| held.caution(card)))
    }

    /// The mean of an address over the unedited prompt, `[width]`, and a note that says over how many tokens. The first token
    /// is left out if there are others.
    pub(crate) fn mean(&mut self, at: Address) -> Result<(Vec<f32>, String)> {
        let values = self.recorded(self.given.to_vec(), at)?;
        let values = values.flatten_from(1)?.host_vec2::<f32>()?;
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

    /// The mean of an address in a statistics file, `[width]`, and a note that says over which text and how many tokens.
    pub(crate) fn statistic(&mut self, file: &str, at: Address) -> Result<(Vec<f32>, String)> {
        if !self.read.contains_key(file) {
            self.read.insert(file.into(), self.lab.statistics(file)?);
        }
        let held = &self.read[file];
        Ok((held.mean(at)?.to_vec(), held.about()))
    }

    /// The values at an address in an unedited run over another text, `[positions * width]`, and a note on that text.
    pub(crate) fn other_text(&mut self, text: &str, at: Address) -> Result<(Vec<f32>, String)> {
        let tokens = self.lab.model.encode(text, false)?;
        let note = format!("values of another text of {} tokens", tokens.len());
        let rows = self.recorded(tokens, at)?.flatten_all()?;
        Ok((rows.host_vec1()?, note))
    }

    /// `W†(o' − o)` for two subjects of a relation, `[d_model]`, and a note that says of what rank `W†` is and how long the
    /// change. The objects' states are those of the unedited model.
    pub(crate) fn relation(&mut self, turn: &RelationTurn) -> Result<(Vec<f32>, String)> {
        let RelationTurn(name, from, to) = turn;
        let map = self.lab.relation_map(name)?;
        let mut object = |subject: &str| -> Result<Vec<f32>> {
            let text = map.origin.prompts.text(subject.trim());
            let tokens = self.lab.model.encode(&text, false)?;
            let at = Site::ResidPost.at(self.lab.model.card.layers - 1);
            let rows = self.recorded(tokens, at)?;
            Ok(rows.get(rows.dim(0)? - 1)?.host_vec1()?)
        };
        let (before, after) = (object(from)?, object(to)?);
        let difference: Vec<f32> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        let rank = map.origin.rank.min(map.inverse.spectrum.rank());
        let change = map.inverse.apply(&difference, rank);
        let note = format!(
            "the inverse of `{}` at rank {rank}, chosen for layer {}; the change has length {:.3}",
            crate::text::plain(map.origin.relation.as_bytes()),
            map.origin.edit_layer,
            norm(&change)
        );
        Ok((change, note))
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

    /// The magnitude of each unit of an address: the mean over the tokens of the unedited prompt, summed over the unit's
    /// coordinates.
    pub(crate) fn sizes(&mut self, at: Address) -> Result<Vec<f32>> {
        let known = self.lab.derived::<RefCell<UnitSizes>>();
        if known.borrow().prompt != self.given {
            *known.borrow_mut() = UnitSizes {
                prompt: self.given.to_vec(),
                sizes: HashMap::new(),
            };
        }
        if let Some(sizes) = known.borrow().sizes.get(&at) {
            return Ok(sizes.clone());
        }
        let size = unit_size(at.site, &self.lab.model);
        let rows = self.recorded(self.given.to_vec(), at)?.flatten_from(1)?;
        let mean = rows.abs()?.mean(0)?.on_device(&Device::Cpu)?;
        let mean = mean.host_vec1::<f32>()?;
        let sizes: Vec<f32> = mean.chunks(size).map(|c| c.iter().sum()).collect();
        known.borrow_mut().sizes.insert(at, sizes.clone());
        Ok(sizes)
    }

    /// What a `rewrite` of this strength adds to the value vectors of neurons: `[units, d_model]`, f32, in terms of `mlp_out`.
    pub(crate) fn turned(
        &mut self,
        layer: usize,
        units: &[u32],
        UnitsTurn(_, from, to): &UnitsTurn,
        strength: f32,
    ) -> Result<Tensor> {
        let turn = (self.token(from)?, self.token(to)?);
        let network = &self.lab.model.transformer;
        network.turned_values(layer, units, turn, (strength, TURN * strength))
    }

    /// The first token of a text, or the token that `#17` names by its id.
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

/// How many coordinates one unit of a site has: `head_dim` for a head, else 1.
pub(crate) fn unit_size(site: Site, model: &Model) -> usize {
    if matches!(site.spec().axis, Axis::Heads | Axis::KvHeads) {
        model.transformer.blueprint.head_dim
    } else {
        1
    }
}

/// Finds a direction by name among the loaded ones, else in a file; `NAME#-1` is NAME moved by that many layers.
pub(crate) fn find_direction(
    loaded: &HashMap<String, Direction>,
    card: &Card,
    name: &str,
) -> Result<Direction> {
    let found = resolve(name, &|name| match loaded.get(name) {
        Some(held) => Ok(Some(held.clone())),
        None => Direction::at_path(name),
    })?;
    let found = found.ok_or_else(|| unknown_name("direction", name, "loaded", loaded))?;
    found.check(card)?;
    found.with_row_layers(card)
}

/// The error for a name that is neither a loaded object nor a file.
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
    /// Finds a direction by name among the loaded ones, else in a file; `NAME#-1` is NAME moved by that many layers, and `NAME#12`
    /// a feature of a dictionary.
    pub fn direction(&self, name: &str) -> Result<Direction> {
        if let Some(feature) = self.feature_direction(name)? {
            return Ok(feature);
        }
        find_direction(&self.directions, &self.model.card, name)
    }

    /// Finds a relation map by name among the loaded ones, else in a file.
    pub fn relation_map(&self, name: &str) -> Result<Arc<RelationMap>> {
        match self.relations.get(name) {
            Some(held) => Ok(held.clone()),
            None if Path::new(name).exists() => {
                let path = Path::new(name);
                Ok(Arc::new(RelationMap::load(path, &self.model.card)?))
            }
            None => Err(unknown_name(
                "relation map",
                name,
                "loaded",
                &self.relations,
            )),
        }
    }

    /// Finds a saved circuit by name among the loaded ones, else in a file.
    pub fn saved_circuit(&self, name: &str) -> Result<Arc<SavedCircuit>> {
        match self.circuits.get(name) {
            Some(held) => Ok(held.clone()),
            None if Path::new(name).exists() => {
                Ok(Arc::new(SavedCircuit::load(Path::new(name), &self.model)?))
            }
            None => Err(unknown_name("circuit", name, "loaded", &self.circuits)),
        }
    }

    /// The loaded circuits by name, each with what it is.
    pub fn known_circuits(&self) -> Vec<(String, String)> {
        let known = self.circuits.iter();
        let mut known: Vec<_> = known
            .map(|(name, own)| (name.clone(), own.about()))
            .collect();
        known.sort();
        known
    }

    /// Loads the statistics of a file and checks that they were measured on this model.
    pub fn statistics(&self, file: &str) -> Result<Statistics> {
        let found = Statistics::load(Path::new(file))?;
        found.check(&self.model.card)?;
        Ok(found)
    }

    /// Finds a unit set by name among the loaded ones, else in a file.
    pub fn unit_set(&self, name: &str) -> Result<UnitSet> {
        let found = match self.sets.get(name) {
            Some(held) => held.clone(),
            None if Path::new(name).exists() => UnitSet::load(Path::new(name))?,
            None => return Err(unknown_name("unit set", name, "kept", &self.sets)),
        };
        found.check(&self.model.card)?;
        Ok(found)
    }
}
