//! The target on which an effect is measured: a token's logit, or the difference of two tokens' logits.
//!
//! Invariant: a text is taken literally, spaces included, and its first token is used; figures name that token. To add another
//! kind of target, add a field and its part in [`LogitTarget::direction`] and [`LogitTarget::of`].

use candle_core::Tensor;

use super::readout::RowStats;
use crate::error::{Error, Result};
use crate::model::Model;

/// The logit of a token, or the difference of two tokens' logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogitTarget {
    pub token: u32,
    /// The token whose logit is subtracted.
    pub minus: Option<u32>,
}

impl LogitTarget {
    pub fn one(token: u32) -> Self {
        Self { token, minus: None }
    }

    /// The target that the parameter `token` names; none if the parameter is not given.
    ///
    /// # Errors
    ///
    /// When the text has no token.
    pub fn chosen(text: Option<&str>, model: &Model) -> Result<Option<Self>> {
        let parse = |text| Self::parse("token", text, model);
        text.map(parse).transpose()
    }

    /// Reads the parameter `name`: ` Paris`, `" Paris" - " Rome"`, or token ids as `#17`.
    pub fn parse(name: &str, text: &str, model: &Model) -> Result<Self> {
        let (token, minus) = match text.split_once(" - ") {
            Some((token, minus)) if !token.is_empty() && !minus.is_empty() => (token, Some(minus)),
            _ => (text, None),
        };
        if let Some(more) = minus.filter(|minus| minus.contains("\" - ")) {
            let expected = "one token, or the difference of two";
            return Err(Error::argument(name, format!("{token} - {more}"), expected));
        }
        Ok(Self {
            token: first_token(name, token, model)?,
            minus: minus
                .map(|minus| first_token(name, minus, model))
                .transpose()?,
        })
    }

    /// The gradient of the target with respect to the stream after the final norm, `[d_model]`, f32.
    pub fn direction(self, model: &Model) -> Result<Tensor> {
        let of = |token| model.transformer.logit_direction(token);
        Ok(match self.minus {
            None => of(self.token)?,
            Some(minus) => (of(self.token)? - of(minus)?)?,
        })
    }

    /// The tokens whose logits the target needs.
    pub fn tokens(self) -> Vec<u32> {
        std::iter::once(self.token).chain(self.minus).collect()
    }

    /// The target's value in a row whose statistics include the logits of [`LogitTarget::tokens`].
    pub fn logit(self, stats: &RowStats) -> f32 {
        let at = |token: u32| stats.token(token).logit;
        at(self.token) - self.minus.map_or(0.0, at)
    }

    /// The target's value in a row of logits or log-probabilities, `[vocab]`.
    pub fn of(self, logits: &[f32]) -> f32 {
        let at = |token: u32| logits.get(token as usize).copied().unwrap_or(f32::NAN);
        at(self.token) - self.minus.map_or(0.0, at)
    }
}

/// The text between quotation marks; a text without them as it is, spaces included.
fn unquoted(text: &str) -> &str {
    let quoted = text.trim();
    let inner = quoted.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    inner.unwrap_or(text)
}

/// The texts in the value of a parameter by this name whose tokens are looked at: of several and of differences each; ids are none.
pub(super) fn token_texts<'a>(name: &str, value: &'a str) -> impl Iterator<Item = &'a str> {
    let value = Some(value).filter(|_| TOKEN_PARAMETERS.contains(&name));
    let texts = value.into_iter().flat_map(|value| value.split('|'));
    let texts = texts.flat_map(|text| text.split(" - "));
    texts.filter(|text| id_of(text).is_none()).map(unquoted)
}

/// The first token of a text taken literally, or of the text between quotes, or the id after `#`.
pub fn first_token(name: &str, text: &str, model: &Model) -> Result<u32> {
    let known = model.known_tokens();
    if let Some(id) = id_of(text) {
        return if (id as usize) < known {
            Ok(id)
        } else {
            let expected = format!("a text, or a token id below {known} as #17");
            Err(Error::argument(name, text, expected))
        };
    }
    let ids = model.tokenizer()?.encode_literal(unquoted(text))?;
    let first = ids.first().copied();
    let first =
        first.ok_or_else(|| Error::argument(name, text, "a text that has at least one token"))?;
    // The tokenizer may have tokens that were added after training, for which the model has no logits.
    if (first as usize) >= known {
        let expected = format!(
            "a text that begins with a token of the model; this one begins with #{first}, which the tokenizer has but the model, with {known} tokens, does not"
        );
        return Err(Error::argument(name, text, expected));
    }
    Ok(first)
}

/// The first tokens of texts separated by `|`, without duplicates, each read by [`first_token`]; `name` is the parameter, for
/// error messages.
///
/// # Errors
///
/// When there is no text, or a text whose first token the model does not have.
pub fn first_tokens(name: &str, texts: &str, model: &Model) -> Result<Vec<u32>> {
    let mut out = Vec::new();
    for text in texts.split('|').filter(|t| !t.is_empty()) {
        let first = first_token(name, text, model)?;
        if !out.contains(&first) {
            out.push(first);
        }
    }
    if out.is_empty() {
        return Err(Error::argument(name, texts, "texts separated by |"));
    }
    Ok(out)
}

/// The parameters of instruments whose texts [`first_token`] reads.
const TOKEN_PARAMETERS: &[&str] = &["token", "tokens", "answer", "answers", "markers"];

/// What is to be said of a parameter's texts that have several tokens, of which the first alone is looked at.
pub fn cut_to_first(name: &str, texts: &str, model: &Model) -> Vec<String> {
    let Some(tokenizer) = model.tokenizer.as_ref() else {
        return Vec::new();
    };
    let cut = |text: &str| {
        let ids = tokenizer.encode_literal(text).ok()?;
        let first = ids.first().filter(|_| ids.len() > 1)?;
        Some(format!(
            "`{name}`: “{}” has {} tokens, of which the first alone, “{}”, is looked at",
            crate::text::line(text),
            ids.len(),
            crate::text::line(&tokenizer.text(&[*first]))
        ))
    };
    token_texts(name, texts).filter_map(cut).collect()
}

/// The id in a text of the form `#17`; the token may not exist.
pub fn id_of(text: &str) -> Option<u32> {
    text.trim().strip_prefix('#').and_then(|n| n.parse().ok())
}
