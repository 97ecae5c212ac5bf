//! Fits the maps of a lens to a model.
//!
//! Invariant: a fit can stop after any prompt and go on later, and its file says on which model and text it was made and how far it
//! came. To fit another kind of map, add a file here and a word to `cli/lens_fit.rs`.

pub mod jacobian;
pub mod saved;
pub mod tuned;
