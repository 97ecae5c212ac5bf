//! Products of rows of f32 with weights as a file stores them, on the CPU.
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
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use machine::Processor;
pub use packed::Packed;

/// Plain numbers of a matrix, row after row.
#[derive(Clone, Copy, Debug)]
pub enum PlainWeights<'a> {
    /// f32.
    F32(&'a [f32]),
    /// The bits of IEEE numbers of sixteen bits.
    F16(&'a [u16]),
    /// The upper bits of f32.
    Bf16(&'a [u16]),
}

/// `x Wᵀ`: `x` is `[rows, input]`, `weights` `[out, input]`, `y` `[rows, out]`.
pub fn dense(weights: PlainWeights, input: usize, x: &[f32], y: &mut [f32]) {
    dense_on(Processor::best(), weights, input, x, y);
}

/// The same with chosen instructions, for tests and measurements.
pub fn dense_on(on: Processor, weights: PlainWeights, input: usize, x: &[f32], y: &mut [f32]) {
    match weights {
        PlainWeights::F32(weights) => dense::product(on, weights, input, x, y),
        PlainWeights::F16(bits) => dense::product(on, dense::F16::of(bits), input, x, y),
        PlainWeights::Bf16(bits) => dense::product(on, dense::Bf16::of(bits), input, x, y),
    }
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
