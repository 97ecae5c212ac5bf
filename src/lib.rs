//! lmscope: an oscilloscope for language models, in a terminal.
#![allow(missing_docs)]
pub mod error;
pub mod text;
pub mod model;
pub mod lab;
pub mod instruments;
pub mod engine;
