//! Checkpoints: named tensors from files of other programs, and further contents of those files.
//!
//! Invariant: nothing in a file is executed or trusted; a length is checked before it is used. To add a format, write its
//! reader here and name it in [`weights`].

pub mod array_file;
pub mod assemble;
pub mod changed;
pub(crate) mod folder;
pub mod gguf;
pub mod numpy;
pub mod stored_tensor;
pub mod tensor_file;
pub mod torch;
pub(crate) mod unread;
pub mod weights;
