//! Reads config.json: keys with defaults, and error sentences for what is missing or unsupported.
//!
//! Invariant: a value that would change the numbers is honoured or refused by name, never ignored. To read a new kind of value,
//! add a method to [`ConfigReader`].

use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::network::blueprint::{
    Activation, Biases, BlockOrder, Blueprint, LayerSpec, MlpKind, NormSpec, PositionEncoding,
};

/// The upper limit of every size in a configuration; a larger value means a damaged file.
const LARGEST: u64 = 1 << 24;

/// The upper limit of the number of blocks.
const MOST_LAYERS: usize = 4096;

/// A config.json with methods that read typed values.
pub(crate) struct ConfigReader<'a>(pub &'a Value);

impl ConfigReader<'_> {
    /// A positive integer under the first of these keys that is present.
    pub fn count(&self, keys: &[&str]) -> Result<usize> {
        self.find(keys)
            .and_then(Value::as_u64)
            .filter(|n| (1..=LARGEST).contains(n))
            .map(|n| n as usize)
            .ok_or_else(|| {
                let key = keys[0];
                compare(format!(
                    "`{key}` is missing, or not a plausible positive number"
                ))
            })
    }

    /// As [`ConfigReader::count`], with a default if the keys are absent or null.
    pub fn count_or(&self, keys: &[&str], default: usize) -> Result<usize> {
        if self.find(keys).is_none() {
            Ok(default)
        } else {
            self.count(keys)
        }
    }

    pub fn number_or(&self, key: &str, default: f64) -> f64 {
        self.number(key).unwrap_or(default)
    }

    /// A number; none if the key is absent.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.find(&[key]).and_then(Value::as_f64)
    }

    /// A cap or a divisor: a number that must be positive if it is present.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        match self.number(key) {
            Some(n) if n <= 0.0 => Err(compare(format!("`{key}` is {n}, and must be above zero"))),
            other => Ok(other),
        }
    }

    pub fn flag_or(&self, key: &str, default: bool) -> bool {
        self.find(&[key])
            .and_then(Value::as_bool)
            .unwrap_or(default)
    }

    /// Refuses a flag that changes the numbers and is not supported.
    pub fn refuse_flag(&self, key: &str, why: &str) -> Result<()> {
        if !self.flag_or(key, false) {
            return Ok(());
        }
        Err(Error::Config {
            what: format!("`{key}` is true: {why}, which is not supported"),
            next: "Ignoring it would give wrong numbers, so the model is refused.".into(),
        })
    }

    /// The activation under the first of these keys that is present; an unknown one is refused by name.
    pub fn activation(&self, keys: &[&str], default: &str) -> Result<Activation> {
        match self.find(keys).and_then(Value::as_str).unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "quick_gelu" => Ok(Activation::QuickGelu),
            "relu" => Ok(Activation::Relu),
            "relu2" => Ok(Activation::ReluSquared),
            other => Err(Error::Config {
                what: format!(
                    "activation `{other}` is not supported (silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu and relu2 are)"
                ),
                next: "Replacing it would give wrong numbers, so the model is refused.".into(),
            }),
        }
    }

    /// Refuses a number of heads that is not a multiple of the number of key-value heads.
    pub fn heads(&self, heads: usize, kv_heads: usize) -> Result<()> {
        if heads.is_multiple_of(kv_heads) {
            return Ok(());
        }
        let what = format!("{heads} heads do not divide into {kv_heads} key-value heads");
        Err(compare(what))
    }

    /// The number of blocks.
    pub fn layers(&self, keys: &[&str]) -> Result<usize> {
        let layers = self.count(keys)?;
        if layers <= MOST_LAYERS {
            return Ok(layers);
        }
        let key = keys[0];
        Err(compare(format!(
            "`{key}` is {layers}, more than any model has"
        )))
    }

    /// For each layer, whether it has an attention window: as `layer_types` says or, if that is absent, as `rule` does. Other
    /// kinds of layers are refused by name.
    pub fn sliding(&self, layers: usize, rule: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
        let Some(kinds) = self.find(&["layer_types"]) else {
            return Ok((0..layers).map(rule).collect());
        };
        let bad = |what: String| Error::Config {
            what,
            next: "Full attention everywhere would give wrong numbers, so the model is refused."
                .into(),
        };
        let kinds: Vec<&str> = kinds
            .as_array()
            .and_then(|k| k.iter().map(Value::as_str).collect())
            .filter(|k: &Vec<&str>| k.len() == layers)
            .ok_or_else(|| bad(format!("`layer_types` is not a list of {layers} names")))?;
        kinds
            .into_iter()
            .map(|kind| match kind {
                "sliding_attention" => Ok(true),
                "full_attention" => Ok(false),
                other => Err(bad(format!(
                    "layer type `{other}` is not supported (full_attention and sliding_attention are)"
                ))),
            })
            .collect()
    }

    /// `sliding_window`, if it is set.
    pub fn window(&self) -> Result<Option<usize>> {
        self.find(&["sliding_window"])
            .map(|_| self.count(&["sliding_window"]))
            .transpose()
    }

    /// The value of the first of these keys that is neither absent nor null.
    pub fn find(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter()
            .find_map(|k| self.0.get(*k).filter(|v| !v.is_null()))
    }
}

/// The error for a value of config.json that cannot be used.
pub(crate) fn compare(what: String) -> Error {
    Error::Config {
        what,
        next: "Compare config.json with the one on the hub.".into(),
    }
}

/// The blueprint that families start from: equal layers, pre-norm, as many key-value heads as heads, no biases, no scales or
/// caps, untied. Sizes that only the family's own keys give are zero.
pub(crate) fn start(
    family: &'static str,
    (d_model, heads, layers): (usize, usize, usize),
    mlp: MlpKind,
    positions: PositionEncoding,
) -> Blueprint {
    let head_dim = (d_model / heads).max(1);
    let layer = LayerSpec {
        rope: Some(0),
        window: None,
        mlp,
    };
    Blueprint {
        family,
        d_model,
        d_embed: d_model,
        layers: vec![layer; layers],
        heads,
        kv_heads: heads,
        head_dim,
        d_mlp: 0,
        experts: None,
        vocab: 0,
        context: 0,
        arrangement: BlockOrder::PreNorm,
        norm: NormSpec::rms(0.0),
        final_norm: true,
        qk_norm: None,
        clip_qkv: None,
        score_scale: 1.0 / (head_dim as f64).sqrt(),
        score_cap: None,
        activation: Activation::Silu,
        positions,
        biases: Biases::default(),
        embed_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        logit_cap: None,
        tied: false,
    }
}
