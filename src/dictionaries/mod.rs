//! Dictionaries: sparse autoencoders, transcoders and crosscoders, out of the files of many tools.
//!
//! Invariant: a file becomes the one form of [`dictionary`], or is refused with what it has and what was expected; nothing in a
//! file is executed, and matrices stay in the file. To read another format, add a file to [`formats`] and a word to its list.

pub mod dictionary;
pub mod formats;
pub mod gate;
pub mod handles;
pub mod labels;
pub mod matrix;
pub mod norms;
pub mod opened;
pub mod place;

pub use dictionary::Dictionary;
