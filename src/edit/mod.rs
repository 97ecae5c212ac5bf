//! Interventions as plain data: an edit, its syntax, and the things that it can name.
//!
//! [`intervention`] is the edit itself, [`op`] its operations, [`grammar`] its syntax; [`schedule`] says which edits were in
//! force at which positions, [`preset`] stores edits in a file. Invariant: nothing here knows a tensor of a pass; edits are
//! compiled in `lab`.
//! To add an operation or a kind of argument, see [`op`].

pub mod condition;
pub mod direction;
pub mod feature;
pub mod grammar;
pub mod intervention;
pub mod op;
pub mod positions;
pub mod preset;
pub mod quotes;
pub mod receipt;
pub mod relation_map;
pub mod schedule;
pub mod spectrum;
pub mod tensor_file;
pub mod unit_set;

pub use intervention::{Edit, EditId, EditIds, EditPlace};
