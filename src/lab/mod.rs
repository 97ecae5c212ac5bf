//! The lab: a model under edits, recorded.
//!
//! Invariant: whatever is shown was measured on a [`run::Run`] that can be repeated. To add an operation see
//! [`crate::edit::op`]; to add a position rule see [`crate::edit::positions`]; to add a figure shape
//! see [`crate::figure`]; to add a way to make a direction see [`crate::vectors::contrast`] (two lists of
//! prompts) and [`crate::vectors::task_vector`] (demonstrations).

pub mod apply;
pub mod attribution;
pub mod batch;
pub mod bench;
pub(crate) mod change;
pub(crate) mod compile;
pub(crate) mod cut;
pub mod decomposition;
pub(crate) mod extend;
pub mod fork;
pub mod guard;
pub(crate) mod lookup;
pub(crate) mod measure;
pub mod neurons;
pub(crate) mod prepare;
pub mod readout;
pub mod replace;
pub(crate) mod rerun;
pub mod run;
pub mod sample;
pub(crate) mod shelf;
pub(crate) mod silence;
pub mod statistics;
pub mod step;
pub mod target;
pub mod trials;
pub mod value_card;
pub(crate) mod watch;
pub mod writer;
