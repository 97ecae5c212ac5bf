//! Tokens that are defined only in the small files of a tokenizer: `added_tokens_decoder`, `added_tokens.json`, named special
//! tokens.
//!
//! Invariant: which tokens are added, in which order and with which properties, is as in transformers 5.24 (`_from_pretrained`
//! and `TokenizersBackend.__init__`): a text that is in the vocabulary keeps its id whatever a file says, others get the next
//! ids. To read another source of tokens, add it to [`tokens`].

use std::collections::HashSet;

use serde_json::Value;
use tokenizers::AddedToken;

use super::{SPECIALS, parse, token_named};
use crate::error::Result;
use crate::text;

/// A token with all properties that a file gives.
fn token(value: &Value, special: Option<bool>) -> Option<AddedToken> {
    if let Some(content) = value.as_str() {
        return Some(AddedToken::from(content, special.unwrap_or(false)));
    }
    let flag = |key: &str| value[key].as_bool();
    let special = special.or_else(|| flag("special")).unwrap_or(false);
    let token = AddedToken::from(value["content"].as_str()?, special)
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .single_word(flag("single_word").unwrap_or(false));
    let normalized = flag("normalized").unwrap_or(!special);
    Some(token.normalized(normalized))
}

/// The tokens that the configuration names: first the standard ones, then others whose key ends in `_token`, then lists.
fn named(config: &Value) -> Vec<AddedToken> {
    let standard = SPECIALS
        .iter()
        .filter_map(|key| token(&config[*key], Some(true)));
    let own = config.as_object().into_iter().flatten();
    let own = own
        .filter(|(key, value)| {
            key.ends_with("_token") && !SPECIALS.contains(&key.as_str()) && value.is_string()
        })
        .filter_map(|(_, value)| token(value, Some(true)));
    let more = ["extra_special_tokens", "additional_special_tokens"]
        .iter()
        .map(|key| &config[*key])
        .find(|value| {
            value
                .as_array()
                .map_or(value.is_object(), |list| !list.is_empty())
        });
    let listed: Vec<AddedToken> = match more {
        Some(Value::Array(list)) => list.iter().filter_map(|v| token(v, Some(true))).collect(),
        Some(Value::Object(map)) => map.values().filter_map(|v| token(v, Some(true))).collect(),
        _ => Vec::new(),
    };
    standard.chain(own).chain(listed).collect()
}

/// The tokens of the files with their ids, sorted by id.
fn tokens(config: &Value, added: Option<&[u8]>) -> Result<Vec<(u32, AddedToken)>> {
    let mut found: Vec<(u32, AddedToken)> =
        if let Some(decoder) = config.get("added_tokens_decoder") {
            let rows = decoder.as_object().into_iter().flatten();
            rows.filter_map(|(id, value)| Some((id.parse().ok()?, token(value, None)?)))
                .collect()
        } else {
            let special: HashSet<String> = named(config).into_iter().map(|t| t.content).collect();
            let table = parse("added_tokens.json", added)?;
            let rows = table.as_object().into_iter().flatten();
            rows.filter_map(|(content, id)| {
                let id = u32::try_from(id.as_u64()?).ok()?;
                Some((
                    id,
                    AddedToken::from(content.as_str(), special.contains(content)),
                ))
            })
            .collect()
        };
    found.sort_by_key(|(id, _)| *id);
    Ok(found)
}

/// Adds them to a tokenizer; returns notes for the user.
pub(super) fn add(
    inner: &mut tokenizers::Tokenizer,
    config: &Value,
    added: Option<&[u8]>,
) -> Result<Vec<String>, AddTokensError> {
    let listed = tokens(config, added)?;
    let known: HashSet<String> = inner
        .get_added_tokens_decoder()
        .into_values()
        .map(|token| token.content)
        .collect();
    let names: HashSet<&str> = SPECIALS
        .iter()
        .filter_map(|key| token_named(config, key))
        .collect();
    let mut new: Vec<AddedToken> = listed
        .iter()
        .map(|(_, token)| {
            let mut token = token.clone();
            token.special |= names.contains(token.content.as_str());
            token
        })
        .collect();
    for token in named(config) {
        let there = |t: &AddedToken| t.content == token.content;
        if !known.contains(&token.content) && !new.iter().any(there) {
            new.push(token);
        }
    }
    inner.add_tokens(new)?;
    let elsewhere: Vec<String> = listed
        .iter()
        .filter_map(|(id, token)| {
            let own = inner.token_to_id(&token.content)?;
            (own != *id).then(|| {
                format!(
                    "`{}` (there {id}, here {own})",
                    text::plain(token.content.as_bytes())
                )
            })
        })
        .collect();
    Ok(match elsewhere.as_slice() {
        [] => Vec::new(),
        [first, rest @ ..] => vec![format!(
            "{} gives {first}{} another id than the tokenizer has: the tokenizer's is used, as in transformers.",
            if config.get("added_tokens_decoder").is_some() {
                "tokenizer_config.json"
            } else {
                "added_tokens.json"
            },
            match rest.len() {
                0 => String::new(),
                n => format!(" and {n} more tokens"),
            }
        )],
    })
}

/// Why tokens were not added: a file is not JSON, or the tokenizer refused them.
pub(super) enum AddTokensError {
    File(crate::error::Error),
    Tokenizer(tokenizers::Error),
}

impl From<crate::error::Error> for AddTokensError {
    fn from(error: crate::error::Error) -> Self {
        Self::File(error)
    }
}

impl From<tokenizers::Error> for AddTokensError {
    fn from(error: tokenizers::Error) -> Self {
        Self::Tokenizer(error)
    }
}
