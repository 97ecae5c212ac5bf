//! The shelf: where compiling edits finds the vectors that they name.
//!
//! Invariant: a direction of another model is refused. Means and other texts were measured before, because they need
//! passes of their own. To add a source of vectors, add a field and an arm in [`Lookup`].

use std::collections::HashMap;

use candle_core::Tensor;

use super::apply::Lookup;
use super::direction::Direction;
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
}

impl Lookup for Shelf<'_> {
    fn direction(&mut self, name: &str, at: Address) -> Result<Vec<f32>> {
        Ok(find(self.directions, self.model, name)?.at(at)?.to_vec())
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

/// The direction of a name: a loaded one, or a file.
pub(super) fn find(
    loaded: &HashMap<String, Direction>,
    model: &Model,
    name: &str,
) -> Result<Direction> {
    let found = match loaded.get(name) {
        Some(held) => held.clone(),
        None if std::path::Path::new(name).exists() => Direction::load(std::path::Path::new(name))?,
        None => {
            let mut known: Vec<&str> = loaded.keys().map(String::as_str).collect();
            known.sort_unstable();
            let known = if known.is_empty() {
                "none is loaded".to_string()
            } else {
                format!("loaded are {}", known.join(", "))
            };
            let expected = format!("a file, or a loaded direction ({known})");
            return Err(Error::argument("direction", name, expected));
        }
    };
    found.check(&model.card)?;
    Ok(found)
}
