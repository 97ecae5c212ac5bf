//! What an intervention is: one edit, the line it is written as, and what it may name.
//!
//! [`intervention`] is the edit itself, [`op`] what it does, [`grammar`] how it is written; [`schedule`] says which edits were in
//! force where, [`preset`] keeps them in a file. Invariant: nothing here knows a tensor of a pass; edits are compiled in `lab`.
//! To add an operation or a kind of argument, see [`op`].

pub mod condition;
pub mod direction;
pub mod grammar;
pub mod intervention;
pub mod op;
pub mod positions;
pub mod preset;
pub mod quotes;
pub mod receipt;
pub mod schedule;
pub mod unit_set;

pub use intervention::{Edit, EditId, EditIds, EditPlace};
