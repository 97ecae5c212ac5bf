//! The lab: it runs a model under edits and records what happens.
//!
//! Invariant: everything that is shown was measured on a [`run::Run`] that can be repeated. A question to the model that
//! several instruments share belongs here; one that a single instrument needs belongs in that instrument's folder.

pub mod apply;
mod apply_circuit;
mod apply_dictionary;
pub mod bootstrap;
pub mod capture;
pub mod circuit;
pub(crate) mod compile;
pub(crate) mod conditions;
pub mod control_units;
pub mod draws;
pub(crate) mod edit_effects;
pub mod effect;
mod effect_on_device;
pub(crate) mod feature_edits;
pub mod features;
pub mod finite_guard;
pub(crate) mod formulas;
pub mod gradient;
pub(crate) mod inactive;
pub(crate) mod knockout;
#[allow(clippy::module_inception)] // it holds what the folder is named after
mod lab;
mod lens_rows;
pub mod list_cost;
pub mod logit_effects;
pub mod matched;
pub mod merged;
mod named_features;
pub(crate) mod named_vectors;
mod next_tokens;
pub(crate) mod only;
pub mod pairs;
pub mod pass;
pub(crate) mod prepare;
pub mod progress;
pub mod prompt_list;
pub mod prompt_values;
pub mod ranks;
pub mod readout;
pub mod row_programs;
pub mod run;
pub(crate) mod runner;
pub mod sample;
pub mod snippet;
pub mod spaced_answer;
mod splice_cost;
pub mod statistics;
pub mod tap;
pub mod target;
pub mod token;
mod token_choice;
pub mod trials;
pub mod unembed;
pub mod writer;

pub use self::lab::Lab;
