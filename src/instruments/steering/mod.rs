//! Steering: what directions do at several strengths, which one to take, and how far a text lies along them.
//!
//! Invariant: a strength is judged beside random directions of the same length. To add an outcome, see [`outcome`].

pub mod meters;
pub mod outcome;
pub mod select;
pub mod sweep;
