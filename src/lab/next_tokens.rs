//! How well a text's own next tokens are predicted: what is asked of the model's output for that, and the loss.
//!
//! Invariant: logits are reduced to the log-probability of the token that follows where they are computed, as everywhere; a loss is a sum
//! in f64 of `-ln p` in nats. To ask something else of next tokens, see [`Output`].

use std::ops::Range;

use super::capture::{After, Capture, Output};

impl Output {
    /// What the model says of the tokens at these positions of texts of one length, from the position before each.
    pub fn next_tokens<'a>(
        texts: impl IntoIterator<Item = &'a [u32]>,
        positions: Range<usize>,
    ) -> Self {
        let own = |text: &'a [u32]| text[positions.clone()].to_vec();
        Self {
            each: texts.into_iter().map(own).collect(),
            after: After::Each(positions.start - 1..positions.end - 1),
            top: 1,
            ..Self::default()
        }
    }
}

impl Capture {
    /// `-ln p` in nats of each token that [`Output::next_tokens`] asked about.
    pub fn next_token_losses(&self) -> impl Iterator<Item = f64> {
        let own = self.output.iter().filter_map(|row| row.tokens.first());
        own.map(|token| -f64::from(token.logprob))
    }
}
