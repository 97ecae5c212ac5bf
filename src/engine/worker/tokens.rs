//! Converts tokens to the form in which they cross the channel.
//!
//! Invariant: bytes are the tokenizer's, unchanged; whoever shows them must make them safe.

use super::Worker;
use crate::edit::receipt::FiredAt;
use crate::engine::{PromptSource, Token, Update};
use crate::error::{Error, Result};
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

/// The tokens of a prompt.
pub(super) fn prompt_ids(lab: &Lab, prompt: PromptSource) -> Result<Vec<u32>> {
    match prompt {
        PromptSource::Text(text) => lab.model.encode(&text, false),
        PromptSource::Chat(text) => lab.model.encode(&text, true),
        PromptSource::Ids(ids) => Ok(ids),
        PromptSource::Messages(turns) => Ok(lab.model.encode_chat(&turns)?.tokens),
        PromptSource::Spliced {
            before,
            text,
            after,
        } => {
            let own = lab.model.tokenizer()?.encode_literal(&text)?;
            Ok([before, own, after].concat())
        }
    }
}

/// The error where no model is loaded.
pub(super) fn no_model() -> Error {
    let expected = "a loaded model; wait until it is loaded, or start with one that exists";
    Error::argument("model", "none", expected)
}

impl Worker {
    /// Says how many tokens a text has; nothing of one that is only being written and cannot be encoded yet.
    pub(super) fn count_tokens(&mut self, text: String, chat: bool) -> Result<()> {
        if let Ok(tokens) = self.lab()?.model.encode(&text, chat) {
            let tokens = tokens.len();
            self.tell(Update::Counted { text, chat, tokens });
        }
        Ok(())
    }
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
