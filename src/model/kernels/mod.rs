//! Products of rows of f32 with weights as a file stores them, and what is read of a product with the unembedding, on the CPU.
//!
//! Invariant: a product is that of the unpacked weights in f32, to 5e-5 of its size: activations are never rounded to eight
//! bits. Its rows do not depend on one another, nor on the number of threads. What is not finite in a row of activations makes
//! that row of the product not finite. Only this folder has unsafe code for speed, and nothing in it knows tensors.
//! To add a kind of block see [`encoding`]; to add a machine see [`machine`].
#![allow(clippy::inline_always)] // What is generic over lanes must become part of the function that is compiled for them.
#![allow(clippy::cast_ptr_alignment)] // Vectors are loaded from any address; records are aligned to four bytes, and so are their fields.

mod activations;
pub mod attention;
mod backward;
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
mod pool;
mod product;
pub mod rows;
mod threads;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vectorised;
pub mod vocabulary;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use backward::backward;
pub use dense::PlainWeights;
pub use packed::Packed;
pub use product::{Product, StoredRows, dense_on, packed_on, products, products_on};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_rows;
