//! Products of rows of f32 with weights as a file stores them, and what is read of a product with the unembedding, on the CPU.
//!
//! Invariant: a product is that of the unpacked weights in f32, to 5e-5 of its size: activations are never rounded to eight
//! bits. Its rows do not depend on one another, nor on the number of threads. What is not finite in a row of activations makes
//! that row of the product not finite. Only this folder has unsafe code for speed, and nothing in it knows tensors.
//! To add a kind of block see [`encoding`]; to add a machine see [`machine`].
#![allow(clippy::inline_always)] // What is generic over lanes must become part of the function that is compiled for them.
#![allow(clippy::cast_ptr_alignment)] // Vectors are loaded from any address; records are aligned to four bytes, and so are their fields.

mod activations;
mod blocks;
mod dense;
pub mod encoding;
mod exponent;
mod kinds;
mod lanes;
pub mod machine;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packed;
mod plain;
mod threads;
#[cfg(target_arch = "x86_64")]
mod tiles;
pub mod vocabulary;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

pub use dense::PlainWeights;
use machine::Processor;
pub use packed::Packed;

/// `x Wᵀ`: `x` is `[rows, input]`, `weights` `[out, input]`, `y` `[rows, out]`.
pub fn dense(weights: PlainWeights, input: usize, x: &[f32], y: &mut [f32]) {
    dense_on(Processor::best(), weights, input, x, y);
}

/// The same with chosen instructions, for tests and measurements.
pub fn dense_on(on: Processor, weights: PlainWeights, input: usize, x: &[f32], y: &mut [f32]) {
    dense::product(on, weights, input, x, y);
}

/// `x Wᵀ` for some rows of `W`: `x` is `[rows, input]`, `y` `[rows, range]`.
pub fn packed(weights: &Packed, range: Range<usize>, x: &[f32], y: &mut [f32]) {
    packed_on(Processor::best(), weights, range, x, y);
}

/// The same with chosen instructions, for tests and measurements.
pub fn packed_on(on: Processor, weights: &Packed, range: Range<usize>, x: &[f32], y: &mut [f32]) {
    blocks::product(on, weights, range, x, y);
}

#[cfg(test)]
mod tests;
