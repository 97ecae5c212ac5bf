//! Work on the prompt: editing the one that was run, another token in the place of the one under the cursor, and how many tokens the
//! text that is being written has.
//!
//! Invariant: a prompt of text is edited as text, in the user's own words, and encoded anew; only where a token was generated, or a
//! prompt was given as ids, is the text before it taken by its ids.

use super::commands::{CommandResult, Unavailable};
use super::layout::Pane;
use super::{App, Effect};
use crate::engine::{PromptSource, Request};
use crate::text;

/// How many tokens a text has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptLength {
    pub text: String,
    pub chat: bool,
    pub tokens: usize,
}

impl App {
    /// Opens the editor with the prompt that was run last, or with the selected ready prompt.
    pub(super) fn edit_prompt(&mut self) -> CommandResult {
        let ready = self.presets.get(self.preset).filter(|_| self.choosing());
        let ready = ready.map(|preset| (preset.text.clone(), preset.chat));
        let (text, chat) = ready
            .or_else(|| self.last_words())
            .ok_or("the prompt is no plain text (token ids, or a conversation); i writes one")?;
        self.settings.chat = chat;
        self.prompt.set(&text);
        self.writing = true;
        self.set_focus(Pane::Transcript);
        Ok(self.count_prompt())
    }

    /// Asks how many tokens the text that is being written has.
    pub(super) fn count_prompt(&mut self) -> Vec<Effect> {
        let text = self.prompt.text().to_string();
        if self.model.is_none() || text.is_empty() {
            return Vec::new();
        }
        let chat = self.settings.chat && self.chat_possible();
        vec![Effect::Ask(Request::CountTokens { text, chat })]
    }

    /// How many tokens the text that is being written has, once that is known of exactly this text.
    pub fn prompt_length(&self) -> Option<usize> {
        let known = self.prompt_counted.as_ref()?;
        let chat = self.settings.chat && self.chat_possible();
        (known.text == self.prompt.text() && known.chat == chat).then_some(known.tokens)
    }

    /// Puts a text in the place of the token under the cursor. In the prompt, the rest of the prompt stays; from a generated token on the
    /// text is written anew.
    pub(super) fn replace_token(&mut self, other: &str) -> CommandResult {
        let at = self.cursor.position;
        let token = self
            .transcript
            .tokens
            .get(at)
            .ok_or("there is no token here")?;
        if token.special {
            return Err(
                "a special token is none of the prompt's words; move the cursor to one that is"
                    .into(),
            );
        }
        // A word in the place of a word keeps the space before it, which an argument cannot begin with.
        let spaced = token.bytes.starts_with(b" ") && other.starts_with(char::is_alphanumeric);
        let other = if spaced {
            format!(" {other}")
        } else {
            other.to_string()
        };
        if other == String::from_utf8_lossy(&token.bytes) {
            return Err("that is the token that stands here".into());
        }
        if at < self.transcript.prompt
            && let Some((words, chat)) = self.last_words()
        {
            let place = self.place_in_words(&words, at).ok_or_else(|| {
                Unavailable(
                    "this token is no part of the words of the prompt: the chat template has put it there, or it begins inside a letter"
                        .into(),
                )
            })?;
            let mut changed = words;
            changed.replace_range(place, &other);
            return Ok(self.start(changed, chat));
        }
        let ids = |tokens: &[crate::engine::Token]| tokens.iter().map(|t| t.id).collect();
        let tokens = &self.transcript.tokens;
        let after = if at < self.transcript.prompt {
            ids(&tokens[at + 1..self.transcript.prompt])
        } else {
            Vec::new()
        };
        let before = ids(&tokens[..at]);
        Ok(self.send_prompt(PromptSource::Spliced {
            before,
            text: other,
            after,
        }))
    }

    /// Where the token at a position stands in the words of the prompt, in bytes; none where the words have it not, or not whole.
    fn place_in_words(&self, words: &str, at: usize) -> Option<std::ops::Range<usize>> {
        let prompt = self.transcript.tokens.get(..self.transcript.prompt)?;
        let all: Vec<u8> = prompt
            .iter()
            .flat_map(|t| t.bytes.iter().copied())
            .collect();
        // The last occurrence: a template puts the user's words behind its own.
        let begin = text::last_in(&all, words.as_bytes())?;
        let before: usize = prompt[..at].iter().map(|t| t.bytes.len()).sum();
        let start = before.checked_sub(begin)?;
        let end = start + prompt.get(at)?.bytes.len();
        (words.is_char_boundary(start) && end <= words.len() && words.is_char_boundary(end))
            .then_some(start..end)
    }

    /// The text under the cursor, as an offer for what replaces it.
    pub(super) fn token_words(&self) -> String {
        let token = self.transcript.tokens.get(self.cursor.position);
        token.map_or_else(String::new, |t| {
            String::from_utf8_lossy(&t.bytes).into_owned()
        })
    }
}
