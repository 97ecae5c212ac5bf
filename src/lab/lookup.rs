//! What preparing edits needs to be told: the vectors, units and means that they name.
//!
//! Invariant: an answer is for the model that runs, checked against its shapes, or an error that names what was asked for.
//! To let edits name another thing, add a question here and its answer in `lab/shelf.rs`.

use crate::error::Result;
use crate::model::network::site::Address;

/// What the compiler asks its caller: the vectors, units and means that edits name.
pub trait Lookup {
    /// The direction's vector for an address, checked against the model.
    fn direction(&mut self, name: &str, at: Address) -> Result<Vec<f32>>;
    /// Whether the direction has a vector for an address.
    fn has(&mut self, name: &str, at: Address) -> Result<bool>;
    /// What to know about the direction before it is used; empty where there is nothing.
    fn caution(&mut self, name: &str) -> Result<String>;
    /// The mean of an address over the unedited prompt, `[width]`, and where it came from.
    fn mean(&mut self, at: Address) -> Result<(Vec<f32>, String)>;
    /// The mean of an address in a statistics file, `[width]`, and over what it was taken.
    fn statistic(&mut self, file: &str, at: Address) -> Result<(Vec<f32>, String)>;
    /// An address on another text, `[positions * width]`, and which text that was.
    fn other(&mut self, text: &str, at: Address) -> Result<(Vec<f32>, String)>;
    /// The units of a named set at an address.
    fn units(&mut self, set: &str, at: Address) -> Result<Vec<u32>>;
    /// How large the units of an address are over the unedited run, a number a unit.
    fn sizes(&mut self, at: Address) -> Result<Vec<f32>>;
    /// The first token of a text.
    fn token(&mut self, text: &str) -> Result<u32>;
}
