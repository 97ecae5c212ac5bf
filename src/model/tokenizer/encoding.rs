//! How texts and conversations become tokens: the user's choices beside the tokenizer's own rules and the chat template.
//!
//! Invariant: the choices hold for every text that is read with the model (the prompt, lists, texts of instruments), and provenance
//! names those that are not the default. To add a choice, add a field to [`TextEncoding`], its line in [`TextEncoding::lines`] and its part in
//! [`Model::encode`](crate::model::Model::encode).

use serde_json::Value;

use super::template::Message;
use super::{Bos, Tokenizer};
use crate::error::{Error, Result};

/// Whether texts begin with the begin token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BosRule {
    /// As the tokenizer, or the chat template, has it.
    #[default]
    Auto,
    /// Always; a text that begins with one gets no second.
    Yes,
    /// Never by itself; one that a text spells out stays.
    No,
}

/// What the user has chosen for all texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextEncoding {
    pub bos: BosRule,
    /// The system turn that comes before every conversation.
    pub system: Option<String>,
    /// The beginning of the answer, which stands after the conversation.
    pub prefill: Option<String>,
    /// Variables of the chat template, such as `enable_thinking`.
    pub arguments: Vec<(String, Value)>,
}

/// A text in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedText {
    pub tokens: Vec<u32>,
    /// Where the answer begins: the first position after the conversation and the mark of the answer's turn. None for a text that is
    /// no conversation.
    pub response: Option<usize>,
}

/// What a file of a conversation should hold, for errors.
pub const EXPECTED: &str = "A conversation is a JSON list of turns such as [{\"role\": \"user\", \"content\": \"Hi\"}], or an object with such a list as `messages`; content is a text, or a list of parts such as {\"type\": \"text\", \"text\": \"Hi\"}";

impl TextEncoding {
    /// Whether it says how conversations are written.
    pub fn is_chat(&self) -> bool {
        self.system.is_some() || self.prefill.is_some() || !self.arguments.is_empty()
    }

    /// The choices that are not the default, for provenance.
    pub fn lines(&self) -> Vec<(String, String)> {
        let bos = match self.bos {
            BosRule::Auto => None,
            BosRule::Yes => Some("yes"),
            BosRule::No => Some("no"),
        };
        let line = |name: &str, value: &str| (name.to_string(), value.to_string());
        let mut lines = Vec::from_iter(bos.map(|bos| line("bos", bos)));
        lines.extend(self.system.iter().map(|text| line("system", text)));
        lines.extend(self.prefill.iter().map(|text| line("prefill", text)));
        let arguments = self.arguments.iter();
        lines.extend(
            arguments.map(|(name, value)| line("template-arg", &format!("{name}={value}"))),
        );
        lines
    }

    /// The ids of a text, with the begin token that the rule asks for.
    ///
    /// # Errors
    ///
    /// When the text cannot be encoded, or the rule asks for a begin token and the tokenizer names none.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        let ids = tokenizer.encode(text, Bos::Add)?;
        // What the tokenizer put before the text, rather than what the text spells out.
        let added = self.bos == BosRule::No
            && ids.first().copied() == tokenizer.bos()
            && ids.len() > tokenizer.encode(text, Bos::Raw)?.len();
        self.begun(tokenizer, ids, added)
    }

    /// The ids of a rendered conversation; a begin token at its front is the template's.
    ///
    /// # Errors
    ///
    /// As [`TextEncoding::encode`].
    pub fn encode_rendered(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        let ids = tokenizer.encode(text, Bos::Raw)?;
        let added = !ids.is_empty() && ids.first().copied() == tokenizer.bos();
        self.begun(tokenizer, ids, added)
    }

    /// Takes the begin token away or puts it there, as the rule says; `added`: the first token was put there by itself.
    fn begun(&self, tokenizer: &Tokenizer, mut ids: Vec<u32>, added: bool) -> Result<Vec<u32>> {
        match self.bos {
            BosRule::Auto => {}
            BosRule::No => {
                ids.drain(..usize::from(added));
            }
            BosRule::Yes => {
                let bos = tokenizer.bos().ok_or_else(|| {
                    let expected = "auto or no: this model's tokenizer names no begin token";
                    Error::argument("--bos", "yes", expected)
                })?;
                if ids.first() != Some(&bos) {
                    ids.insert(0, bos);
                }
            }
        }
        Ok(ids)
    }

    /// The turns that the template gets, and the beginning of the answer: that of the choices, or a last turn of the assistant, which is
    /// gone on with.
    ///
    /// # Errors
    ///
    /// When there is no turn, or two system turns or two beginnings of the answer.
    pub fn conversation(&self, messages: &[Message]) -> Result<(Vec<Message>, String)> {
        let mut turns = messages.to_vec();
        if let Some(system) = &self.system {
            if turns.first().is_some_and(|turn| turn.role == "system") {
                let expected = "a system turn in one place: the conversation begins with one";
                return Err(Error::argument("--system", system, expected));
            }
            turns.insert(0, Message::new("system", system));
        }
        let begun = turns.pop_if(|turn| turn.role == "assistant");
        if let (Some(_), Some(prefill)) = (&begun, &self.prefill) {
            let expected = "the beginning of the answer in one place: the conversation ends with a turn of the assistant";
            return Err(Error::argument("--prefill", prefill, expected));
        }
        if turns.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let begun = begun
            .map(|turn| turn.content)
            .or_else(|| self.prefill.clone());
        Ok((turns, begun.unwrap_or_default()))
    }
}

/// The turns of a conversation from its JSON.
///
/// # Errors
///
/// Says what is not read, and of which turn.
pub fn messages(json: &Value) -> Result<Vec<Message>, String> {
    let list = json.get("messages").unwrap_or(json);
    let list = list.as_array().ok_or("it is no list of turns")?;
    if list.is_empty() {
        return Err("it has no turns".into());
    }
    let turn = |(i, turn): (usize, &Value)| {
        let fields = turn.as_object();
        let fields = fields.ok_or_else(|| format!("turn {} is no object", i + 1))?;
        if let Some(other) = fields
            .keys()
            .find(|key| !["role", "content"].contains(&key.as_str()))
        {
            return Err(format!("turn {} has `{other}`, which is not read", i + 1));
        }
        let role = fields.get("role").and_then(Value::as_str);
        let role = role.ok_or_else(|| format!("turn {} has no role", i + 1))?;
        let content = fields.get("content").and_then(content);
        let content =
            content.ok_or_else(|| format!("turn {} has no content that is text", i + 1))?;
        Ok(Message::new(role, content))
    };
    list.iter().enumerate().map(turn).collect()
}

/// The text of a turn: itself, or its parts one after the other; none where a part is no text.
fn content(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_string());
    }
    let part = |part: &Value| {
        part.get("text")
            .and_then(Value::as_str)
            .map(ToString::to_string)
    };
    value.as_array()?.iter().map(part).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conversations_are_read_as_people_save_them() {
        let turns = [
            Message::new("system", "Be brief."),
            Message::new("user", "Hi there"),
        ];
        let list = json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]},
        ]);
        assert_eq!(messages(&list).unwrap(), turns);
        assert_eq!(messages(&json!({ "messages": list })).unwrap(), turns);
        for (json, said) in [
            (json!({"role": "user"}), "no list of turns"),
            (json!([]), "no turns"),
            (
                json!([{"role": "user", "content": "a"}, "b"]),
                "turn 2 is no object",
            ),
            (json!([{"content": "a"}]), "turn 1 has no role"),
            (
                json!([{"role": "user", "content": [{"type": "image"}]}]),
                "no content that is text",
            ),
            (
                json!([{"role": "user", "content": "a", "tool_calls": []}]),
                "`tool_calls`, which is not read",
            ),
        ] {
            let error = messages(&json).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }

    #[test]
    fn turns_come_once_and_in_order() {
        let both = TextEncoding {
            system: Some("S".into()),
            prefill: Some("A".into()),
            ..TextEncoding::default()
        };
        let user = Message::new("user", "U");
        let (turns, begun) = both.conversation(std::slice::from_ref(&user)).unwrap();
        assert_eq!(turns, [Message::new("system", "S"), user.clone()]);
        assert_eq!(begun, "A");
        let answered = [user.clone(), Message::new("assistant", "B")];
        let (turns, begun) = TextEncoding::default().conversation(&answered).unwrap();
        assert_eq!((turns, begun.as_str()), (vec![user.clone()], "B"));
        assert!(
            both.conversation(&answered).is_err(),
            "two beginnings of the answer"
        );
        assert!(
            both.conversation(&[Message::new("system", "T"), user])
                .is_err(),
            "two system turns"
        );
        assert!(TextEncoding::default().conversation(&[]).is_err());
    }
}
