//! Knowledge neurons: which neurons carry a fact, the effect of editing or ablating them, and control units.
//!
//! Invariant: every claim about units is shown with control units ([`crate::lab::control_units`]). To add a measure of a fact, see
//! [`fact`].

pub mod dose;
pub mod fact;
pub mod fact_neurons;
pub mod facts;
pub mod integrated;
pub mod value_edit;
