//! What an effect is measured on: a token's logit, or the difference of two tokens' logits.
//!
//! Invariant: texts are taken as they are written, spaces included, and stand for their first token; figures name
//! that token. To add another kind of target, add a field and its part in [`LogitTarget::direction`] and [`LogitTarget::of`].

use candle_core::Tensor;

use super::readout::RowStats;
use crate::error::{Error, Result};
use crate::model::Model;

/// The logit of a token, or the difference of two tokens' logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogitTarget {
    pub token: u32,
    /// The token whose logit is taken away.
    pub minus: Option<u32>,
}

impl LogitTarget {
    pub fn one(token: u32) -> Self {
        Self { token, minus: None }
    }

    /// The token of the parameter `token`; nothing where none is given.
    ///
    /// # Errors
    ///
    /// When the text is no token.
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
        Ok(Self {
            token: first_token(name, token, model)?,
            minus: minus
                .map(|minus| first_token(name, minus, model))
                .transpose()?,
        })
    }

    /// The direction in the normed stream that one unit of it stands for, `[d_model]`, f32.
    pub fn direction(self, model: &Model) -> Result<Tensor> {
        let of = |token| model.transformer.logit_direction(token);
        Ok(match self.minus {
            None => of(self.token)?,
            Some(minus) => (of(self.token)? - of(minus)?)?,
        })
    }

    /// The tokens whose logits have to be read.
    pub fn tokens(self) -> Vec<u32> {
        std::iter::once(self.token).chain(self.minus).collect()
    }

    /// The target's logit in a row whose tokens were read.
    pub fn logit(self, stats: &RowStats) -> f32 {
        let at = |token: u32| stats.token(token).logit;
        at(self.token) - self.minus.map_or(0.0, at)
    }

    /// Its value in a row of logits, or of log-probabilities.
    pub fn of(self, logits: &[f32]) -> f32 {
        let at = |token: u32| logits.get(token as usize).copied().unwrap_or(f32::NAN);
        at(self.token) - self.minus.map_or(0.0, at)
    }
}

/// The first token of a text as it is written, of a text between quotes, or the id after `#`.
pub fn first_token(name: &str, text: &str, model: &Model) -> Result<u32> {
    let quoted = text.trim();
    let inner = quoted.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let known = model.known_tokens();
    if let Some(id) = id_of(text) {
        return if (id as usize) < known {
            Ok(id)
        } else {
            let expected = format!("a text, or a token id below {known} as #17");
            Err(Error::argument(name, text, expected))
        };
    }
    let ids = model.tokenizer()?.encode_literal(inner.unwrap_or(text))?;
    let first = ids.first().copied();
    let first =
        first.ok_or_else(|| Error::argument(name, text, "a text that has at least one token"))?;
    // A tokenizer may have been given words after the model was trained.
    if (first as usize) >= known {
        let expected = format!(
            "a text that begins with a token of the model; this one begins with #{first}, which the tokenizer has but the model, with {known} tokens, does not"
        );
        return Err(Error::argument(name, text, expected));
    }
    Ok(first)
}

/// First tokens of texts separated by `|`, each once, as [`first_token`] reads them; `name` is the parameter, for messages.
///
/// # Errors
///
/// When there is no text, or one without a token that the model has.
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

/// The id that a text names as `#17`, whether or not there is such a token.
pub fn id_of(text: &str) -> Option<u32> {
    text.trim().strip_prefix('#').and_then(|n| n.parse().ok())
}
