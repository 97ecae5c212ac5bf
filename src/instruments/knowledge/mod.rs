//! Knowledge neurons: which neurons hold a fact, what turning or removing them does, and the control units beside it.
//!
//! Invariant: every claim about units has control units beside it ([`control_units`]). To add a measure of a fact, see [`fact`].

pub mod control_units;
pub mod dose;
pub mod fact;
pub mod fact_neurons;
pub mod facts;
pub mod value_edit;
