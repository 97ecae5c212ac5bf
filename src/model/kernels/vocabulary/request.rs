//! What rows are read through, what is asked of them, and what they say: plain data.
//!
//! Invariant: nothing here computes. To ask for something else, add a field to [`RowQuestion`] and one to [`RowSums`].

use crate::model::kernels::dense::PlainWeights;
use crate::model::kernels::packed::Packed;

/// Tokens of the vocabulary that are taken together.
pub const STRIP: usize = 256;

/// An unembedding as it is stored, `[vocab, input]`.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// Plain numbers, and the columns of a row.
    Plain(PlainWeights<'a>, usize),
    /// Blocks.
    Packed(&'a Packed),
}

impl Matrix<'_> {
    pub(super) fn input(&self) -> usize {
        match self {
            Self::Plain(_, input) => *input,
            Self::Packed(packed) => packed.input,
        }
    }

    /// Rows.
    pub(super) fn out(&self) -> usize {
        match self {
            Self::Plain(PlainWeights::F32(w), input) => w.len() / input,
            Self::Plain(PlainWeights::F16(w) | PlainWeights::Bf16(w), input) => w.len() / input,
            Self::Packed(packed) => packed.out,
        }
    }
}

/// The way from a product with the unembedding to a logit.
#[derive(Clone, Copy, Debug)]
pub struct LogitScale<'a> {
    /// `[vocab]`.
    pub bias: Option<&'a [f32]>,
    /// Multiplier.
    pub scale: f32,
    /// Soft-cap.
    pub cap: Option<f32>,
}

/// What rows are read through.
#[derive(Clone, Copy, Debug)]
pub struct Unembedding<'a> {
    pub matrix: Matrix<'a>,
    pub scale: LogitScale<'a>,
    /// How many tokens the tokenizer knows: those behind are padding, which is never among the strongest.
    pub known: usize,
}

/// What a row is compared with.
#[derive(Clone, Copy, Debug)]
pub enum OtherRow<'a> {
    /// Another row of the same reading.
    Row(usize),
    /// Logits, `[vocab]`.
    Logits(&'a [f32]),
}

/// What is asked of a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowQuestion<'a> {
    /// Which row.
    pub row: usize,
    /// How many of the strongest tokens.
    pub top: usize,
    /// Tokens of interest.
    pub tokens: &'a [u32],
    /// Whether their ranks are counted.
    pub ranks: bool,
    pub entropy: bool,
    /// Which row KL and the largest difference are taken from.
    pub against: Option<OtherRow<'a>>,
}

/// What a row says.
#[derive(Clone, Debug, PartialEq)]
pub struct RowSums {
    /// `ln Σ exp(z)`; not-a-number where the row is no distribution.
    pub total: f64,
    /// The strongest tokens and their logits, strongest first, equals by their ids.
    pub top: Vec<(u32, f32)>,
    /// Tokens of interest, their logits, and how many tokens have a larger one. Those that the vocabulary has not are left out.
    pub tokens: Vec<(u32, f32, u32)>,
    /// Nats.
    pub entropy: f64,
    /// KL(other row ‖ this row), nats, to about 2e-7.
    pub kl: f64,
    /// The largest difference of logits from those of the other row.
    pub gap: f32,
}

impl RowSums {
    /// What a row says that is no distribution: nothing but the logits of the tokens of interest.
    pub fn no_distribution(tokens: Vec<(u32, f32, u32)>) -> Self {
        Self {
            total: f64::NAN,
            top: Vec::new(),
            tokens,
            entropy: f64::NAN,
            kl: f64::NAN,
            gap: f32::NAN,
        }
    }

    /// A KL divergence without what rounding and banned tokens make of its sums; `gap`: the largest difference of the rows. Of a row
    /// that is no distribution it is not-a-number.
    pub fn divergence(kl: f64, gap: f32) -> f64 {
        if gap == 0.0 {
            // The same row: the sums were taken in another order, and nothing else is between them.
            0.0
        } else if kl.is_nan() || gap.is_nan() {
            f64::NAN
        } else if kl > 1e20 {
            // A banned token that the other row has.
            f64::INFINITY
        } else {
            kl.max(0.0)
        }
    }
}
