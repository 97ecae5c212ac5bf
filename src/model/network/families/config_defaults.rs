//! Completes a config.json as the transformers class of its family does: absent keys, nulls, types, and alternative names of
//! keys.
//!
//! Invariant: what a family file reads after [`complete`] is what transformers' configuration object holds; a value that the
//! class refuses is refused here by name. The table comes from transformers itself (`defaults.json`, written by
//! `tests/references/absent_keys.py`). Configurations made from GGUF files are complete and do not pass through here.
//! To add a family, add its name to that script and run it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::config_reader::compare;
use super::names;
use crate::error::{Error, Result};

const TABLE: &str = include_str!("defaults.json");

/// The keys of a configuration class of transformers, with defaults and types.
#[derive(Debug, Deserialize)]
pub(crate) struct Class {
    keys: BTreeMap<String, ConfigKey>,
    /// Alternative names of keys. If a file has both, the alternative name wins, as in transformers.
    also: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct ConfigKey {
    default: Value,
    types: Vec<JsonType>,
}

/// A JSON type that a class accepts for a key.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum JsonType {
    Int,
    Number,
    Bool,
    Text,
    Null,
    Object,
    List,
}

impl JsonType {
    fn takes(self, value: &Value) -> bool {
        match self {
            Self::Int => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Bool => value.is_boolean(),
            Self::Text => value.is_string(),
            Self::Null => value.is_null(),
            Self::Object => value.is_object(),
            Self::List => value.is_array(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Int => "a whole number",
            Self::Number => "a number",
            Self::Bool => "true or false",
            Self::Text => "a text",
            Self::Null => "null",
            Self::Object => "an object",
            Self::List => "a list",
        }
    }
}

/// Keys that do not matter here: those of training, and token ids that the tokenizer and generation_config.json give more
/// reliably.
const IRRELEVANT: &str = "
    attention_dropout attn_pdrop bos_token_id classifier_dropout dropout embd_pdrop embedding_dropout eos_token_id
    hidden_dropout init_std initializer_range is_decoder layerdrop output_router_logits pad_token_id pretraining_tp
    reorder_and_upcast_attn resid_pdrop residual_dropout router_aux_loss_coef router_jitter_noise
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj use_cache
";

/// Keys that a class allows to be null but that its model needs.
const NEVER_NULL: &[&str] = &["layer_norm_eps", "logit_scale"];

/// The configuration class of a `model_type`.
pub(crate) fn class(model_type: &str) -> Result<Class> {
    let mut table: BTreeMap<String, Class> = serde_json::from_str(TABLE)
        .map_err(|e| Error::Engine(format!("defaults.json of the families is damaged: {e}")))?;
    table.remove(model_type).ok_or_else(|| Error::Config {
        what: format!("there are no defaults for model_type `{model_type}`"),
        next: "Please report this; tests/references/absent_keys.py writes them.".into(),
    })
}

impl Class {
    /// Whether the class knows a key, under either of its names.
    pub fn knows(&self, key: &str) -> bool {
        self.keys.contains_key(key) || self.also.iter().any(|(a, b)| a == key || b == key)
    }

    /// Fills in absent keys, and refuses what the class refuses.
    fn fill(&self, config: &mut Map<String, Value>) -> Result<()> {
        for pair in &self.also {
            // The class may declare either of the two names.
            let (other, key) = if self.keys.contains_key(pair.1) {
                pair
            } else {
                (pair.1, pair.0)
            };
            if let Some(value) = config.get(other).cloned() {
                config.insert(key.clone(), value);
            }
        }
        for (key, known) in &self.keys {
            let Some(value) = config.get(key) else {
                config.insert(key.clone(), known.default.clone());
                continue;
            };
            let never = value.is_null() && NEVER_NULL.contains(&key.as_str());
            let fits = !never && known.types.iter().any(|kind| kind.takes(value));
            if fits || names(IRRELEVANT, key) {
                continue;
            }
            let kinds = known
                .types
                .iter()
                .filter(|kind| !(never && **kind == JsonType::Null));
            let expected: Vec<&str> = kinds.map(|kind| kind.name()).collect();
            return Err(Error::Config {
                what: format!(
                    "`{key}` is {}, and the class of this model takes {}",
                    short(value),
                    expected.join(" or ")
                ),
                next: if value.is_null() {
                    "Leave the key out for its default, or compare config.json with the one on the hub.".into()
                } else {
                    "Compare config.json with the one on the hub.".into()
                },
            });
        }
        Ok(())
    }
}

/// A value, shortened for use in a sentence.
pub(crate) fn short(value: &Value) -> String {
    let text = crate::text::plain(value.to_string().as_bytes());
    crate::text::clip(&text, 60)
}

/// A configuration with the defaults of its class. For a multimodal model it is the text part, with the embedding tied if the
/// whole says so.
pub(crate) fn complete(config: &Value, model_type: &str) -> Result<Value> {
    let wrapper = class(model_type)?;
    let whole = config.as_object().cloned();
    let mut whole = whole.ok_or_else(|| compare("it is not a JSON object".into()))?;
    wrapper.fill(&mut whole)?;
    if !wrapper.knows("text_config") {
        return Ok(Value::Object(whole));
    }
    let mut text = match whole.get("text_config") {
        Some(Value::Object(text)) => text.clone(),
        _ => Map::new(),
    };
    class(&format!("{model_type}_text"))?.fill(&mut text)?;
    // The outer configuration decides whether the text part's embedding is tied.
    if let Some(tied) = whole.get("tie_word_embeddings") {
        text.insert("tie_word_embeddings".into(), tied.clone());
    }
    text.insert("model_type".into(), model_type.into());
    Ok(Value::Object(text))
}
