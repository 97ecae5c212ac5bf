//! The lab: a model under edits, recorded.
//!
//! Invariant: whatever is shown was measured on a [`run::Run`] that can be repeated. To ask the model something that several
//! instruments need, add a question here; what only one of them needs lives in its own folder.

pub mod apply;
pub mod capture;
pub(crate) mod change;
pub(crate) mod compile;
pub(crate) mod cut;
pub mod guard;
#[allow(clippy::module_inception)] // it holds what the folder is named after
mod lab;
mod lens_rows;
pub(crate) mod measure;
pub mod pass;
pub(crate) mod prepare;
pub mod progress;
pub mod readout;
pub mod run;
pub(crate) mod runner;
pub mod sample;
pub(crate) mod shelf;
pub(crate) mod silence;
pub mod statistics;
pub mod tap;
pub mod target;
pub mod token;
pub mod trials;
pub mod unembed;
pub(crate) mod watch;
pub mod writer;

pub use self::lab::Lab;
