//! Products of the same rows with one or several matrices, divided into tasks that the threads share.
//!
//! Invariant: a number of a product does not depend on the other products computed with it. Activations are converted to the
//! form for quantized blocks once for all matrices.
//! To add a storage format of weights, add a variant of [`StoredRows`].

use std::ops::Range;

use super::activations::Activations;
use super::blocks::PackedProduct;
use super::dense::{Bf16, DenseProduct, F16, PlainWeights};
use super::machine::Processor;
use super::packed::Packed;
use super::threads;

/// Rows of weights as they are stored.
#[derive(Clone, Debug)]
pub enum StoredRows<'a> {
    /// `[out, input]`.
    Plain(PlainWeights<'a>),
    /// Some rows of a matrix of quantized blocks.
    Packed(&'a Packed, Range<usize>),
}

/// A product `x Wᵀ`: the weights, and the result `[rows, out]`.
#[derive(Debug)]
pub struct Product<'a> {
    pub weights: StoredRows<'a>,
    pub y: &'a mut [f32],
}

/// A product divided into tasks.
enum Parted<'a> {
    F32(DenseProduct<'a, f32>),
    F16(DenseProduct<'a, F16>),
    Bf16(DenseProduct<'a, Bf16>),
    Packed(PackedProduct<'a>),
}

impl Parted<'_> {
    fn tasks(&self) -> usize {
        match self {
            Self::F32(p) => p.tasks(),
            Self::F16(p) => p.tasks(),
            Self::Bf16(p) => p.tasks(),
            Self::Packed(p) => p.tasks(),
        }
    }

    /// # Safety
    ///
    /// Every task is done once, by one thread, while the slices of the product live.
    #[allow(unsafe_code)]
    unsafe fn task(&self, on: Processor, i: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            match self {
                Self::F32(p) => p.task(on, i),
                Self::F16(p) => p.task(on, i),
                Self::Bf16(p) => p.task(on, i),
                Self::Packed(p) => p.task(on, i),
            }
        }
    }
}

/// `x Wᵀ` with the instructions of a processor, for tests and measurements: `x` is `[rows, input]`, `weights` `[out, input]`,
/// `y` `[rows, out]`.
pub fn dense_on(on: Processor, weights: PlainWeights, input: usize, x: &[f32], y: &mut [f32]) {
    let weights = StoredRows::Plain(weights);
    products_on(on, input, x, &mut [Product { weights, y }]);
}

/// `x Wᵀ` for some rows of `W` with the instructions of a processor: `x` is `[rows, input]`, `y` `[rows, range]`.
pub fn packed_on(on: Processor, weights: &Packed, rows: Range<usize>, x: &[f32], y: &mut [f32]) {
    let input = weights.input;
    let weights = StoredRows::Packed(weights, rows);
    products_on(on, input, x, &mut [Product { weights, y }]);
}

/// Products of `x`, `[rows, input]`, with every matrix.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn products(input: usize, x: &[f32], products: &mut [Product]) {
    products_on(Processor::best(), input, x, products);
}

/// As [`products`], with the instructions of a processor, for tests and measurements.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn products_on(on: Processor, input: usize, x: &[f32], products: &mut [Product]) {
    let rows = x.len() / input;
    let out = |p: &Product| match &p.weights {
        StoredRows::Plain(w) => w.len() / input,
        StoredRows::Packed(_, range) => range.len(),
    };
    let all: usize = products.iter().map(out).sum();
    let share = threads::share(all);
    let blocks = |p: &Product| matches!(p.weights, StoredRows::Packed(..));
    let activations = products
        .iter()
        .any(blocks)
        .then(|| Activations::new(x, rows, input / 32, on.tiles()));
    let parted = products.iter_mut().filter_map(|p| {
        Some(match (&p.weights, &activations) {
            (StoredRows::Plain(PlainWeights::F32(w)), _) => {
                Parted::F32(DenseProduct::new(w, input, x, p.y, share))
            }
            (StoredRows::Plain(PlainWeights::F16(w)), _) => {
                Parted::F16(DenseProduct::new(F16::of(w), input, x, p.y, share))
            }
            (StoredRows::Plain(PlainWeights::Bf16(w)), _) => {
                Parted::Bf16(DenseProduct::new(Bf16::of(w), input, x, p.y, share))
            }
            (StoredRows::Packed(w, range), Some(x)) => {
                assert_eq!(w.input, input);
                Parted::Packed(PackedProduct::new(w, range.clone(), x, p.y, share))
            }
            (StoredRows::Packed(..), None) => return None,
        })
    });
    let parted: Vec<Parted> = parted.collect();
    let count = parted.iter().map(Parted::tasks).sum();
    threads::each(count, rows * all * input, |i| {
        let mut left = i;
        for product in &parted {
            if left < product.tasks() {
                // SAFETY: every task is done once, and everything is borrowed until all are done.
                #[allow(unsafe_code)]
                unsafe {
                    product.task(on, left);
                }
                return;
            }
            left -= product.tasks();
        }
    });
}
