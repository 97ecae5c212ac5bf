//! Copies of checkpoints in which some tensors are changed: which tensors write to the residual stream, what a change does to
//! their numbers, and the copy of a file.
//!
//! Invariant: a tensor that no change names keeps every byte. To change tensors in another way, add a field to
//! [`arithmetic::TensorChange`]; to let another tensor be changed, list it in [`stream::StreamTensors::of`].

pub mod arithmetic;
pub mod copy;
pub mod stream;
