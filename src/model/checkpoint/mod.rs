//! Checkpoints: named tensors from the files that other programs write, and what else those files hold.
//!
//! Invariant: nothing in a file is run or believed; a length is checked before it is used. To add a format, write its reader here
//! and name it in [`weights`].

pub mod assemble;
pub(crate) mod folder;
pub mod gguf;
pub mod numpy;
pub mod torch;
pub(crate) mod unread;
pub mod weights;
