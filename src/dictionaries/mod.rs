//! Dictionaries: sparse autoencoders, transcoders and crosscoders, out of the files of many tools, and trained here.
//!
//! Invariant: a file becomes the one form of [`dictionary`], or is refused with what it has and what was expected; nothing in a
//! file is executed, and matrices stay in the file. To read another format, add a file to [`formats`] and a word to its list.

pub mod captured;
pub mod dictionary;
pub mod embedded;
pub mod evaluate;
pub mod feature_name;
pub mod formats;
pub mod gate;
pub mod handles;
pub mod in_stream;
pub mod index;
pub mod labels;
pub mod matrix;
pub mod model_name;
pub mod norms;
pub mod opened;
pub mod place;
pub mod train;

pub use dictionary::Dictionary;

/// Is told what share of a long piece of work is done, from 0 to 1; its error ends the work.
pub type Report<'a> = &'a dyn Fn(f32) -> crate::error::Result<()>;
