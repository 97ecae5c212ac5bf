//! The lab: a model under edits, recorded.
//!
//! Invariant: whatever is shown was measured on a [`run::Run`] that can be repeated. To add an operation see
//! [`edit`]; to add a position rule see [`positions`]; to add a figure shape see [`figure`].

pub mod apply;
pub mod bench;
pub mod direction;
pub mod edit;
pub mod figure;
pub mod identities;
pub mod positions;
pub mod receipt;
pub mod run;
pub mod sample;
pub mod value_card;
pub mod writer;
