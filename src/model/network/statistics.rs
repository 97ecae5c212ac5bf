//! What is asked of rows that are read through the unembedding, and where it is answered: plain data.
//!
//! Invariant: nothing here computes. To ask for something else of a row, see [`crate::model::kernels::vocabulary`]; to look something else
//! up where the logits are, add a field to [`ReadoutRequest`].

use candle_core::Device;

use crate::model::kernels::vocabulary::RowQuestion;

/// Where statistics of the vocabulary are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatisticsOn {
    /// By the CPU kernels, strip by strip: what is not asked for is never laid out, and rows are at hand.
    Host,
    /// Where the tensors are, by tensor operations: only what is asked for becomes numbers of the host.
    Device,
}

impl StatisticsOn {
    /// The way of a model whose output is made on this device. On a CPU the other way gives the same numbers, more slowly.
    pub fn of(device: &Device) -> Self {
        if device.is_cpu() {
            Self::Host
        } else {
            Self::Device
        }
    }
}

/// The strongest token of a row, to be looked up in other rows: which token it is, is known where the logits are.
#[derive(Clone, Copy, Debug)]
pub struct StrongestLookup<'a> {
    /// The row whose strongest token it is, among the first so many tokens.
    pub of: usize,
    pub known: usize,
    /// Rows in which its logit and rank are wanted.
    pub rows: &'a [usize],
}

/// What was looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct StrongestToken {
    pub id: u32,
    /// Its logit in each row, and how many tokens have a larger one there.
    pub rows: Vec<(f32, u32)>,
}

/// Rows that are read together, and what is wanted of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadoutRequest<'a> {
    /// What is asked, each question of one row.
    pub questions: &'a [RowQuestion<'a>],
    /// Rows whose logits are laid out.
    pub whole: &'a [usize],
    /// How many tokens the tokenizer knows.
    pub known: usize,
    /// Tokens to be looked up; served by [`StatisticsOn::Device`] alone, as on the host the rows can be laid out.
    pub lookups: &'a [StrongestLookup<'a>],
    /// A row whose logits stay where they are; as above.
    pub keep: Option<usize>,
}
