//! The tap: what the forward pass calls at every site.
//!
//! Invariant: edit first, then record, so that what is seen is what flows on; and a tap that changes nothing
//! leaves the run bit for bit as it is without one. To add a use of the forward pass, implement [`Tap`].

use candle_core::Tensor;

use super::site::Address;
use crate::error::Result;

/// Whether a pass reads a prompt or writes its continuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassPhase {
    /// Reading the prompt.
    Prefill,
    /// Writing, one token at a time.
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

/// What a pass comes to, after every edit.
#[derive(Clone, Copy, Debug)]
pub enum TapOutcome<'a> {
    /// `resid_post` of the last block, `[batch, tokens, d_model]`, and where they are known the tokens of the pass.
    Stream {
        /// `[batch, tokens]`.
        tokens: Option<&'a Tensor>,
        /// The stream.
        x: &'a Tensor,
    },
    /// `[batch, rows, vocab]`, f32.
    Logits(&'a Tensor),
    /// Logits that nobody laid out; all of them are finite, or ban a token.
    Finite,
}

/// Called by the forward pass at every site; returning another tensor changes the run.
///
/// Tensors carry a batch dimension in front of the shapes of [`super::site::SITES`]:
/// `[batch, tokens, ..]`, and `[batch, heads, tokens, positions]` for scores and probabilities.
pub trait Tap: Send {
    /// Sees the tokens `[batch, tokens]` of a pass before anything is computed, and may refuse them.
    fn reads(&mut self, _tokens: &Tensor, _span: PassSpan) -> Result<()> {
        Ok(())
    }
    /// Announces which positions the next visits cover.
    fn begin(&mut self, _span: PassSpan) {}
    /// Sees, and may replace, the value at an address.
    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor>;
    /// Whether it looks at the value of an address, or may replace it. What nobody looks at need not be laid out.
    fn wants(&self, _at: Address) -> bool {
        true
    }
    /// Called once a layer, so that work can be stopped within one.
    fn checkpoint(&mut self) -> Result<()> {
        Ok(())
    }
    /// Looks at what the pass came to, and may refuse it.
    fn leaves(&mut self, _leaving: TapOutcome<'_>) -> Result<()> {
        Ok(())
    }
    /// Whether gradients must flow, which forbids candle's fused kernels.
    fn differentiable(&self) -> bool {
        false
    }
}

/// Sees nothing and changes nothing.
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

/// As [`NoTap`], on the paths that gradients can follow.
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
