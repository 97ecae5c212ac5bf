//! The tap: the hook that the forward pass calls at every site.
//!
//! Invariant: a tap edits first and then records, so that the recorded value is the one the pass continues with; a tap that
//! changes nothing leaves every bit of the run as it is without a tap. To add a use of the forward pass, implement [`Tap`].

use candle_core::Tensor;

use super::site::Address;
use crate::error::Result;

/// Whether a pass reads a prompt or generates its continuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassPhase {
    /// Reading the prompt.
    Prefill,
    /// Generating, one token at a time.
    Decode,
}

/// The positions that one pass covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassSpan {
    /// Absolute position of the first token of the pass.
    pub start: usize,
    /// How many tokens the pass covers.
    pub len: usize,
    /// How many tokens the prompt has; later positions are generated.
    pub prompt: usize,
    pub phase: PassPhase,
}

impl PassSpan {
    /// A whole prompt in one pass.
    pub fn prompt(len: usize) -> Self {
        Self {
            start: 0,
            len,
            prompt: len,
            phase: PassPhase::Prefill,
        }
    }
}

/// A result of a pass, after all edits.
#[derive(Clone, Copy, Debug)]
pub enum TapOutcome<'a> {
    /// `resid_post` of the last block, `[batch, tokens, d_model]`, with the tokens of the pass if they are known.
    Stream {
        /// `[batch, tokens]`.
        tokens: Option<&'a Tensor>,
        /// The stream.
        x: &'a Tensor,
    },
    /// `[batch, rows, vocab]`, f32.
    Logits(&'a Tensor),
    /// Logits that were reduced without being stored as a tensor. All of them are finite, or -inf for a banned token.
    Finite,
}

/// Called by the forward pass at every site; returning another tensor changes the run.
///
/// Tensors carry a batch dimension in front of the shapes of [`super::site::SITES`]:
/// `[batch, tokens, ..]`, and `[batch, heads, tokens, positions]` for scores and probabilities.
pub trait Tap: Send {
    /// Called with the tokens `[batch, tokens]` of a pass before anything is computed; an error refuses the pass.
    fn reads(&mut self, _tokens: &Tensor, _span: PassSpan) -> Result<()> {
        Ok(())
    }
    /// Called with the positions of the pass before its first site.
    fn begin(&mut self, _span: PassSpan) {}
    /// Called with the value at an address; returns the value that the pass continues with.
    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor>;
    /// A value that the tap has, asked for before it is computed: then the pass does not compute it. It is visited all the same. Asked at
    /// `q`, `k` and `v` (all three or none), at `attn_out`, and at `mlp_out`.
    fn known(&mut self, _at: Address) -> Result<Option<Tensor>> {
        Ok(None)
    }
    /// Whether the tap reads or changes the value at an address. If not, the pass need not compute it as a tensor.
    fn wants(&self, _at: Address) -> bool {
        true
    }
    /// Called once for each layer; an error stops the pass there.
    fn checkpoint(&mut self) -> Result<()> {
        Ok(())
    }
    /// Called with each result of the pass; an error refuses it.
    fn leaves(&mut self, _leaving: TapOutcome<'_>) -> Result<()> {
        Ok(())
    }
    /// Whether gradients are needed, which rules out candle's fused kernels.
    fn differentiable(&self) -> bool {
        false
    }
}

/// A tap that reads and changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTap;

impl Tap for NoTap {
    fn visit(&mut self, _at: Address, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }
    fn wants(&self, _at: Address) -> bool {
        false
    }
}

/// As [`NoTap`], on the implementations that carry gradients.
#[derive(Clone, Copy, Debug, Default)]
pub struct GradientTap;

impl Tap for GradientTap {
    fn visit(&mut self, _at: Address, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }
    fn differentiable(&self) -> bool {
        true
    }
}
