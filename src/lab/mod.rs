//! The lab: a model under edits, recorded.
//!
//! Invariant: whatever is shown was measured on a [`run::Run`] that can be repeated. To add an operation see
//! [`op`]; to add a position rule see [`positions`]; to add a figure shape
//! see [`figure`]; to add a way to make a direction see [`contrast`] (two lists of
//! prompts) and [`task_vector`] (demonstrations).

pub mod also;
pub mod apply;
pub mod attributes;
pub mod attribution;
pub mod batch;
pub mod bench;
mod change;
pub mod combine;
mod compile;
pub mod condition;
pub mod contrast;
mod cut;
mod difference;
pub mod direction;
pub mod edit;
mod extend;
pub mod fact_neurons;
pub mod facts;
pub mod figure;
pub mod fork;
pub mod function_vector;
pub mod grammar;
pub mod guard;
pub mod head_scores;
pub mod heads_seen;
pub mod identities;
pub mod judge;
pub mod knockout;
pub mod languages;
pub mod lens;
pub mod lens_file;
mod measure;
pub mod null_units;
pub mod op;
pub mod outcome;
pub mod patch;
pub mod positions;
mod prepare;
pub mod preset;
pub mod quotes;
pub mod readout;
pub mod receipt;
pub mod replace;
mod rerun;
pub mod ridge;
pub mod run;
pub mod sample;
pub mod schedule;
pub mod selection;
pub mod series;
mod shelf;
pub mod shots;
pub mod sight;
mod silence;
pub mod slots;
pub mod statistics;
pub mod step;
pub mod target;
pub mod task_vector;
pub mod templates;
pub mod trials;
pub mod triggers;
pub mod unit_set;
pub mod value_card;
pub mod value_edit;
mod watch;
pub mod writer;
pub mod writes;
