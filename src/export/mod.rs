//! x
pub mod colour;
