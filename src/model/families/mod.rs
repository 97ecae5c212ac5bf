//! Families: how a checkpoint's configuration and tensor names become a [`Blueprint`] and its weights.
//!
//! Invariant: a family holds no forward pass. To add one, write `families/x.rs` with a `pub const` [`Family`]
//! and add a word to [`FAMILIES`]; loading, sites, instruments and the invariant tests follow.

mod gpt2;
mod llama;
mod qwen2;

use serde_json::Value;

use super::blueprint::{Activation, Blueprint};
use super::weights::Layout;
use crate::error::{Error, Result};

/// How a checkpoint stores queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub enum QkvNames {
    /// Three matrices.
    Split {
        /// Queries.
        q: &'static str,
        /// Keys.
        k: &'static str,
        /// Values.
        v: &'static str,
    },
    /// One matrix: queries, then keys, then values.
    Fused(&'static str),
}

/// Tensor names; those of a block are relative to it.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Prefixes under which whole checkpoints put everything but the head; the first that fits is used.
    pub prefixes: &'static [&'static str],
    /// Embedding, without `.weight`.
    pub embed: &'static str,
    /// Learned positions, without `.weight`.
    pub positions: &'static str,
    /// A block, with `{}` for the layer.
    pub block: &'static str,
    /// Norm before attention.
    pub norm_attn: &'static str,
    /// Queries, keys and values.
    pub qkv: QkvNames,
    /// Attention output.
    pub attn_out: &'static str,
    /// Norm before the MLP.
    pub norm_mlp: &'static str,
    /// Gate, where there is one.
    pub gate: &'static str,
    /// Up.
    pub up: &'static str,
    /// Down.
    pub down: &'static str,
    /// Final norm.
    pub norm_final: &'static str,
    /// Unembedding, outside the prefix, when it is not tied.
    pub head: &'static str,
    /// How matrices lie.
    pub layout: Layout,
}

/// One row of [`FAMILIES`].
#[derive(Debug)]
pub struct Family {
    /// The name, as `model_type` spells it.
    pub name: &'static str,
    /// Every `model_type` it serves.
    pub model_types: &'static [&'static str],
    /// What a reader who knows Llama should know.
    pub differs: &'static str,
    /// Reads config.json.
    pub blueprint: fn(&Value) -> Result<Blueprint>,
    /// Names its tensors.
    pub names: Names,
    /// A small config.json for tests: two layers, every bias and odd width that the family can have.
    pub tiny: fn() -> Value,
}

/// Every family.
pub const FAMILIES: &[Family] = &[llama::LLAMA, qwen2::QWEN2, gpt2::GPT2];

/// The family that serves a config.json.
pub fn family_of(config: &Value) -> Result<&'static Family> {
    let found = config
        .get("model_type")
        .and_then(Value::as_str)
        .ok_or_else(|| Error::Config {
            what: "there is no `model_type`".into(),
            next: "Is this a language model's config.json?".into(),
        })?;
    FAMILIES
        .iter()
        .find(|f| f.model_types.contains(&found))
        .ok_or_else(|| Error::UnknownFamily {
            found: found.to_string(),
            known: FAMILIES
                .iter()
                .flat_map(|f| f.model_types)
                .copied()
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// Reads a config.json with sentences for what is missing.
pub(crate) struct Reader<'a>(pub &'a Value);

impl Reader<'_> {
    /// A positive whole number under any of the keys.
    pub fn count(&self, keys: &[&str]) -> Result<usize> {
        self.find(keys)
            .and_then(Value::as_u64)
            .filter(|n| *n > 0)
            .map(|n| n as usize)
            .ok_or_else(|| Error::Config {
                what: format!("`{}` is missing or no positive number", keys[0]),
                next: "Compare config.json with the one on the hub.".into(),
            })
    }

    /// As [`Reader::count`], with a default when the key is absent or null.
    pub fn count_or(&self, keys: &[&str], default: usize) -> Result<usize> {
        if self.find(keys).is_none() {
            Ok(default)
        } else {
            self.count(keys)
        }
    }

    /// A number, or a default.
    pub fn number_or(&self, key: &str, default: f64) -> f64 {
        self.find(&[key]).and_then(Value::as_f64).unwrap_or(default)
    }

    /// A flag, or a default.
    pub fn flag_or(&self, key: &str, default: bool) -> bool {
        self.find(&[key])
            .and_then(Value::as_bool)
            .unwrap_or(default)
    }

    /// The activation under any of the keys; an unknown one is refused by name.
    pub fn activation(&self, keys: &[&str], default: &str) -> Result<Activation> {
        match self.find(keys).and_then(Value::as_str).unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            other => Err(Error::Config {
                what: format!(
                    "activation `{other}` is not served (silu, gelu, gelu_new, gelu_pytorch_tanh and relu are)"
                ),
                next: "Replacing it would give wrong numbers, so the model is refused.".into(),
            }),
        }
    }

    /// Heads must divide into key-value heads.
    pub fn heads(&self, heads: usize, kv_heads: usize) -> Result<()> {
        if heads.is_multiple_of(kv_heads) {
            return Ok(());
        }
        Err(Error::Config {
            what: format!("{heads} heads do not divide into {kv_heads} key-value heads"),
            next: "Compare config.json with the one on the hub.".into(),
        })
    }

    fn find(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter()
            .find_map(|k| self.0.get(*k).filter(|v| !v.is_null()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_type_names_the_known_ones() {
        let error = family_of(&serde_json::json!({"model_type": "mamba"}))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("mamba") && error.contains("qwen2"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_activation_is_refused() {
        for family in FAMILIES {
            let mut config = (family.tiny)();
            for key in ["hidden_act", "activation_function"] {
                config[key] = "swoosh".into();
            }
            assert!(
                (family.blueprint)(&config)
                    .unwrap_err()
                    .to_string()
                    .contains("swoosh")
            );
        }
    }
}
