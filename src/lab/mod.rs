//! The lab: a model under edits, recorded.
//!
//! Invariant: whatever is shown was measured on a [`run::Run`] that can be repeated. To add an operation see
//! [`op`]; to add a position rule see [`positions`]; to add a figure shape
//! see [`figure`]; to add a way to make a direction see [`contrast`].

pub mod apply;
pub mod batch;
pub mod bench;
mod change;
pub mod contrast;
pub mod direction;
pub mod edit;
pub mod figure;
pub mod identities;
pub mod op;
pub mod outcome;
pub mod positions;
pub mod receipt;
pub mod run;
pub mod sample;
pub mod schedule;
pub mod selection;
mod shelf;
pub mod statistics;
pub mod value_card;
pub mod writer;
