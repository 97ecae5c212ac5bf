//! The shelf: where compiling edits finds the vectors that they name.
//!
//! Invariant: a direction of another model is refused. Means and other texts were measured before, because they need
//! passes of their own. To add a source of vectors, add a field and an arm in [`Lookup`].

use std::collections::HashMap;

use candle_core::Tensor;

use super::apply::Lookup;
use super::direction::{Direction, resolve};
use super::edit::{Edit, Place, What};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::site::Address;

/// Directions and means, for the compiler.
pub(super) struct Shelf<'a> {
    pub(super) directions: &'a HashMap<String, Direction>,
    pub(super) model: &'a Model,
    pub(super) means: &'a HashMap<Address, (Vec<f32>, String)>,
    /// Addresses on other texts, and which texts.
    pub(super) others: &'a HashMap<(String, Address), (Tensor, String)>,
    /// What was found so far, so that a file is read once.
    pub(super) opened: HashMap<String, Direction>,
}

impl Shelf<'_> {
    fn get(&mut self, name: &str) -> Result<&Direction> {
        if !self.opened.contains_key(name) {
            let found = find(self.directions, self.model, name)?;
            self.opened.insert(name.to_string(), found);
        }
        let held = self.opened.get(name);
        held.ok_or_else(|| Error::Engine(format!("the direction {name} was lost")))
    }
}

impl Lookup for Shelf<'_> {
    fn direction(&mut self, name: &str, at: Address) -> Result<Vec<f32>> {
        Ok(self.get(name)?.at(at)?.to_vec())
    }

    fn has(&mut self, name: &str, at: Address) -> Result<bool> {
        Ok(self.get(name)?.at(at).is_ok())
    }

    fn caution(&mut self, name: &str) -> Result<String> {
        let card = &self.model.card;
        Ok(self.get(name)?.caution(card))
    }

    fn mean(&mut self, at: Address) -> Result<(Vec<f32>, String)> {
        self.means
            .get(&at)
            .cloned()
            .ok_or_else(|| Error::Engine(format!("no mean was prepared for {at}")))
    }

    fn other(&mut self, text: &str, at: Address) -> Result<(Tensor, String)> {
        self.others
            .get(&(text.to_string(), at))
            .cloned()
            .ok_or_else(|| Error::Engine(format!("no other text was prepared for {at}")))
    }
}

/// The direction of a name: a loaded one, or a file; `NAME#-1` is NAME moved by that many layers.
pub(super) fn find(
    loaded: &HashMap<String, Direction>,
    model: &Model,
    name: &str,
) -> Result<Direction> {
    let found = resolve(name, &|name| match loaded.get(name) {
        Some(held) => Ok(Some(held.clone())),
        None => Direction::open(name),
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
    Ok(found)
}

/// The addresses of an edit, and what to know about its directions. An edit of every layer means those that its
/// direction has vectors for, as llama.cpp steers the layers of a file and no others; a named layer without one is an
/// error when it is compiled.
pub(super) fn places(
    edit: &Edit,
    layers: usize,
    lookup: &mut dyn Lookup,
) -> Result<(Vec<Address>, String)> {
    let all = edit.place.addresses(layers)?;
    let names: Vec<&str> = match &edit.what {
        What::Swap(from, to) => vec![from, to],
        _ => vec![edit.direction()],
    };
    let names: Vec<&str> = names.into_iter().filter(|n| !n.is_empty()).collect();
    let mut cautions: Vec<String> = Vec::new();
    for name in &names {
        let caution = lookup.caution(name)?;
        if !caution.is_empty() && !cautions.contains(&caution) {
            cautions.push(caution);
        }
    }
    let (mut held, mut missing) = (Vec::new(), Vec::new());
    for at in &all {
        let mut here = true;
        for name in &names {
            here &= lookup.has(name, *at)?;
        }
        if here {
            held.push(*at);
        } else {
            missing.push(at.to_string());
        }
    }
    let skips = matches!(edit.place, Place::Every(_)) && !held.is_empty();
    if !skips {
        return Ok((all, cautions.join("; ")));
    }
    if !missing.is_empty() {
        cautions.push(format!(
            "no vector for {}, left as it is",
            missing.join(", ")
        ));
    }
    Ok((held, cautions.join("; ")))
}
