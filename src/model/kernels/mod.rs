//! CPU kernels: products of f32 rows with weights as a file stores them, and statistics of the product with the unembedding.
//!
//! Invariant: a product equals that of the unpacked weights in f32 to a relative error of 5e-5: activations are never rounded
//! to eight bits. Its rows do not depend on each other, nor on the number of threads. A row of activations with a value that is
//! not finite gives a row that is not finite. Only this folder contains unsafe code for speed, and nothing in it uses tensors.
//! To add a kind of block see [`encoding`]; to add a machine see [`machine`].
#![allow(clippy::inline_always)] // What is generic over lanes must become part of the function that is compiled for them.
#![allow(clippy::cast_ptr_alignment)] // Vectors are loaded from any address; records are aligned to four bytes, and so are their fields.

mod activations;
pub mod adjoint;
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
pub mod sparse;
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
pub use threads::hand_out;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_rows;
