//! Converts tokens to the form in which they cross the channel.
//!
//! Invariant: bytes are the tokenizer's, unchanged; whoever shows them must make them safe.

use crate::edit::receipt::FiredAt;
use crate::engine::Token;
use crate::lab::Lab;
use crate::lab::writer::{Choice, Writer};

/// The tokens of a text, with what its edits did at positions that were just read.
pub(super) fn prompt_tokens(lab: &Lab, writer: &Writer) -> Vec<Token> {
    let mut tokens = plain_tokens(lab, 0, &writer.run.tokens);
    for fired in writer.fired() {
        if let Some(token) = tokens.get_mut(fired.position) {
            token.fired.push(*fired);
        }
    }
    tokens
}

/// Tokens without statistics, at consecutive positions from `first` on.
pub(super) fn plain_tokens(lab: &Lab, first: usize, ids: &[u32]) -> Vec<Token> {
    let ids = ids.iter().enumerate();
    ids.map(|(i, id)| plain_token(lab, first + i, *id))
        .collect()
}

/// A token that the model generated.
pub(super) fn written_token(lab: &Lab, choice: Choice, fired: &[FiredAt]) -> Token {
    let other = choice.other.map(|other| Token {
        logprob: Some(other.logprob),
        ..plain_token(lab, choice.position, other.id)
    });
    Token {
        logprob: Some(choice.logprob),
        rank: Some(choice.rank),
        kl: choice.kl,
        fired: fired.to_vec(),
        other: other.map(Box::new),
        ..plain_token(lab, choice.position, choice.id)
    }
}

fn plain_token(lab: &Lab, position: usize, id: u32) -> Token {
    let tokenizer = lab.model.tokenizer.as_ref();
    Token {
        position,
        id,
        bytes: lab.model.bytes(id),
        special: tokenizer.is_some_and(|t| t.is_special(id)),
        logprob: None,
        rank: None,
        kl: None,
        fired: Vec::new(),
        other: None,
    }
}
