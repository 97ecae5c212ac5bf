//! Tokens as the channel carries them.
//!
//! Invariant: bytes come from the tokenizer unchanged; whoever shows them makes them safe.

use crate::engine::Token;
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::lab::writer::Choice;

/// The tokens of a prompt.
pub(super) fn prompt_tokens(bench: &Bench, run: &Run) -> Vec<Token> {
    let token = |(position, id): (usize, &u32)| Token {
        position,
        id: *id,
        bytes: bench.model.bytes(*id),
        special: special(bench, *id),
        logprob: None,
        rank: None,
        kl: None,
    };
    run.tokens.iter().enumerate().map(token).collect()
}

/// A token the model chose.
pub(super) fn written_token(bench: &Bench, choice: Choice) -> Token {
    Token {
        position: choice.position,
        id: choice.id,
        bytes: bench.model.bytes(choice.id),
        special: special(bench, choice.id),
        logprob: Some(choice.logprob),
        rank: Some(choice.rank),
        kl: choice.kl,
    }
}

fn special(bench: &Bench, id: u32) -> bool {
    bench
        .model
        .tokenizer
        .as_ref()
        .is_some_and(|t| t.is_special(id))
}
