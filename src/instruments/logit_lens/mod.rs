//! The logit lens: states of every layer read through the final norm and the unembedding, and instruments built on such
//! readings.
//!
//! Invariant: every instrument here reads through [`crate::lab::unembed`]. To derive something else from the readings, add an
//! instrument.

pub(crate) mod cell_value;
pub mod fit;
pub mod languages;
pub mod lens;
pub mod lens_file;
pub mod lens_view;
pub mod settle;
pub mod token_direction;
pub mod track;
pub mod trajectory;
pub mod word_lists;
