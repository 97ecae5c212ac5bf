//! Tokens as the channel carries them.
//!
//! Invariant: bytes come from the tokenizer unchanged; whoever shows them makes them safe.

use crate::edit::receipt::Fired;
use crate::engine::{Rival, Token};
use crate::lab::Lab;
use crate::lab::writer::{Choice, Writer};

/// The tokens of a text, with what its edits did where it was just read.
pub(super) fn prompt_tokens(lab: &Lab, writer: &Writer) -> Vec<Token> {
    let mut tokens = plain_tokens(lab, 0, &writer.run.tokens);
    for fired in writer.fired() {
        if let Some(token) = tokens.get_mut(fired.position) {
            token.fired.push(*fired);
        }
    }
    tokens
}

/// Tokens of which nothing more is known, the first at a position.
pub(super) fn plain_tokens(lab: &Lab, first: usize, ids: &[u32]) -> Vec<Token> {
    let token = |(i, id): (usize, &u32)| Token {
        position: first + i,
        id: *id,
        bytes: lab.model.bytes(*id),
        special: special(lab, *id),
        logprob: None,
        rank: None,
        kl: None,
        fired: Vec::new(),
        other: None,
    };
    ids.iter().enumerate().map(token).collect()
}

/// A token the model chose.
pub(super) fn written_token(lab: &Lab, choice: Choice, fired: &[Fired]) -> Token {
    Token {
        position: choice.position,
        id: choice.id,
        bytes: lab.model.bytes(choice.id),
        special: special(lab, choice.id),
        logprob: Some(choice.logprob),
        rank: Some(choice.rank),
        kl: choice.kl,
        fired: fired.to_vec(),
        other: choice.other.map(|other| Rival {
            id: other.id,
            bytes: lab.model.bytes(other.id),
            special: special(lab, other.id),
            logprob: other.logprob,
        }),
    }
}

fn special(lab: &Lab, id: u32) -> bool {
    lab.model
        .tokenizer
        .as_ref()
        .is_some_and(|t| t.is_special(id))
}
