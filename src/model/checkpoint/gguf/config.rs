//! Converts GGUF metadata to a config.json with Hugging Face's keys.
//!
//! Invariant: a family file cannot distinguish the result from a config.json of the hub. A value for which GGUF has no key is
//! the constant that all published models of the family have; a value that the family cannot honour is refused. To support
//! another architecture, add its arm to `own_keys` and its row to `names.rs`.

use serde_json::{Map, Value, json};

use super::Gguf;
use super::names::{Architecture, GgufNames, GgufPiece, architecture_of, stored};
use crate::error::{Error, Result};
use crate::model::host::ToHost;

/// What to do about a file with inconsistent metadata.
const OTHER: &str = "Take another file, or the model's safetensors files.";

/// The config.json of a file, and the names of its tensors.
pub fn describe(gguf: &Gguf) -> Result<(Value, GgufNames)> {
    let architecture = architecture_of(gguf)?;
    let meta = GgufMetadata { gguf, architecture };
    let shape = meta.shape()?;
    let mut config = meta.common(&shape)?;
    if let Value::Object(own) = meta.own_keys(&shape)? {
        config.extend(own);
    }
    let scaling = meta.rope_scaling(&shape, &mut config)?;
    config.insert("rope_scaling".into(), scaling);
    Ok((
        Value::Object(config),
        GgufNames {
            architecture,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
        },
    ))
}

/// The sizes from which the others follow.
struct GgufShape {
    layers: usize,
    d_model: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    d_mlp: usize,
    vocab: usize,
    context: usize,
}

struct GgufMetadata<'a> {
    gguf: &'a Gguf,
    architecture: &'static Architecture,
}

impl GgufMetadata<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::bad_file(self.gguf.path(), what, OTHER)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.gguf.number(&self.key(name))
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.gguf.bool(&self.key(name))
    }

    /// An integer; a list (one value for each layer) is accepted if its entries agree.
    fn count(&self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        if let Some(n) = self.gguf.u64(&key) {
            return Ok(usize::try_from(n).ok());
        }
        let Some(list) = self.gguf.integers(&key) else {
            return Ok(None);
        };
        match list.split_first() {
            Some((first, rest)) if rest.iter().all(|n| n == first) => {
                Ok(usize::try_from(*first).ok())
            }
            _ => Err(self.wrong(format!(
                "`{key}` differs between layers, which no family here supports"
            ))),
        }
    }

    fn needed(&self, name: &str) -> Result<usize> {
        match self.count(name)? {
            Some(n) if n > 0 => Ok(n),
            _ => Err(self.wrong(format!(
                "`{}` is missing or not a positive number",
                self.key(name)
            ))),
        }
    }

    fn has(&self, tensor: &str) -> bool {
        self.gguf.tensor(tensor).is_some()
    }

    fn rows(&self, tensor: &str) -> Option<usize> {
        self.gguf.tensor(tensor)?.shape.first().copied()
    }

    /// The values of a small tensor, such as rope factors.
    fn values(&self, tensor: &str) -> Result<Option<Vec<f32>>> {
        let numbers = |piece: GgufPiece<'_>| Ok(piece.unpack()?.flatten_all()?.host_vec1()?);
        stored(self.gguf, tensor).map(numbers).transpose()
    }

    fn shape(&self) -> Result<GgufShape> {
        let layers = self.needed("block_count")?;
        // Every block has tensors, so a larger number of blocks is wrong and would waste memory.
        if layers > self.gguf.tensors().count() {
            return Err(self.wrong(format!(
                "`{}` is {layers}, more than the file has tensors",
                self.key("block_count")
            )));
        }
        let d_model = self.needed("embedding_length")?;
        let heads = self.needed("attention.head_count")?;
        let kv_heads = self.count("attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = match self.count("attention.key_length")? {
            Some(n) => n,
            None => d_model / heads,
        };
        if let Some(value) = self.count("attention.value_length")?
            && value != head_dim
        {
            return Err(self.wrong(format!(
                "values are {value} wide and keys {head_dim}, which no family here supports"
            )));
        }
        if head_dim == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(self.wrong(format!(
                "{heads} heads, {kv_heads} key-value heads and a width of {d_model} do not fit together"
            )));
        }
        // Limits the products of these sizes, which are computed when rows are split.
        if [heads, head_dim, d_model].iter().any(|n| *n > 1 << 24) {
            return Err(self.wrong("its sizes are larger than any model's"));
        }
        let Some(vocab) = self.rows("token_embd.weight") else {
            return Err(self.wrong("it has no tensor `token_embd.weight`"));
        };
        if self.flag("attention.causal") == Some(false) {
            return Err(self.wrong("its attention is bidirectional; it does not generate text"));
        }
        Ok(GgufShape {
            layers,
            d_model,
            heads,
            kv_heads,
            head_dim,
            // For some families the converter writes four times the width regardless of the tensors.
            d_mlp: match self.rows("blk.0.ffn_up.weight") {
                Some(rows) if matches!(self.architecture.model_type, "gpt2" | "phi") => rows,
                _ => self.needed("feed_forward_length")?,
            },
            vocab,
            context: self.needed("context_length")?,
        })
    }

    fn common(&self, s: &GgufShape) -> Result<Map<String, Value>> {
        let config = json!({
            "model_type": self.architecture.model_type,
            "hidden_size": s.d_model,
            "num_hidden_layers": s.layers,
            "num_attention_heads": s.heads,
            "num_key_value_heads": s.kv_heads,
            "head_dim": s.head_dim,
            "intermediate_size": s.d_mlp,
            "vocab_size": s.vocab,
            "max_position_embeddings": s.context,
            "rope_theta": self.number("rope.freq_base").unwrap_or(10_000.0),
            "tie_word_embeddings": !self.has("output.weight"),
            "attention_bias": self.has("blk.0.attn_q.bias"),
            "mlp_bias": self.has("blk.0.ffn_up.bias"),
        });
        let Value::Object(mut config) = config else {
            return Ok(Map::new());
        };
        let mut put = |key: &str, value: f64| {
            config.insert(key.into(), value.into());
        };
        if let Some(epsilon) = self.number("attention.layer_norm_rms_epsilon") {
            put("rms_norm_eps", epsilon);
        }
        if let Some(epsilon) = self.number("attention.layer_norm_epsilon") {
            for key in ["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"] {
                put(key, epsilon);
            }
        }
        let rotated = self.count("rope.dimension_count")?.unwrap_or(s.head_dim);
        if rotated != s.head_dim {
            let partial = match self.architecture.model_type {
                "phi" | "phi3" | "stablelm" => "partial_rotary_factor",
                "gpt_neox" => "rotary_pct",
                _ => {
                    return Err(self.wrong(format!(
                        "it rotates {rotated} of {} dimensions, and {} rotates all",
                        s.head_dim, self.architecture.model_type
                    )));
                }
            };
            put(partial, fraction(rotated, s.head_dim));
        } else if self.architecture.model_type == "gpt_neox" {
            put("rotary_pct", 1.0);
        } else {
            put("partial_rotary_factor", 1.0);
        }
        Ok(config)
    }

    /// The keys that only this family's config.json has, or has in its own form.
    fn own_keys(&self, s: &GgufShape) -> Result<Value> {
        let window = self.count("attention.sliding_window")?.filter(|n| *n > 0);
        let number = |key, default| self.number(key).unwrap_or(default);
        // A scale of zero means that there is none.
        let scale = |key, default| self.number(key).filter(|x| *x != 0.0).unwrap_or(default);
        Ok(match self.architecture.model_type {
            "olmo2" if window.is_some() => {
                let what = "it is an OLMo 3 (OLMo 2 with sliding windows), which is not supported";
                return Err(self.wrong(what));
            }
            "llama" | "qwen3" | "olmo2" => json!({"hidden_act": "silu"}),
            "smollm3" => json!({
                "hidden_act": "silu",
                // Every fourth layer has no rope; the format has no key for that.
                "no_rope_layers": (1..=s.layers).map(|n| u8::from(n % 4 != 0)).collect::<Vec<_>>(),
                "use_sliding_window": false,
            }),
            "qwen2" => json!({"hidden_act": "silu", "use_sliding_window": false}),
            "mixtral" => {
                self.check_router()?;
                json!({
                    "hidden_act": "silu",
                    "num_local_experts": self.needed("expert_count")?,
                    "num_experts_per_tok": self.needed("expert_used_count")?,
                })
            }
            kind @ ("qwen3_moe" | "olmoe") => {
                self.check_router()?;
                let dense = |i: &usize| !self.has(&format!("blk.{i}.ffn_gate_inp.weight"));
                json!({
                    "hidden_act": "silu",
                    "moe_intermediate_size": self.count("expert_feed_forward_length")?.unwrap_or(s.d_mlp),
                    "num_experts": self.needed("expert_count")?,
                    "num_experts_per_tok": self.needed("expert_used_count")?,
                    // llama.cpp normalises for Qwen 3 even without the key.
                    "norm_topk_prob": self.flag("expert_weights_norm").unwrap_or(kind == "qwen3_moe"),
                    "decoder_sparse_step": 1,
                    "mlp_only_layers": (0..s.layers).filter(dense).collect::<Vec<_>>(),
                })
            }
            "gemma" => json!({
                "hidden_act": "gelu_pytorch_tanh",
                "hidden_activation": "gelu_pytorch_tanh",
            }),
            "gemma2" => json!({
                "hidden_activation": "gelu_pytorch_tanh",
                "sliding_window": window.unwrap_or(4096),
                "layer_types": layer_types(s.layers, |i| i % 2 == 0),
                // The 27B model divides by the width over the number of heads, the others by the head's own width.
                "attn_logit_softcapping": number("attn_logit_softcapping", 50.0),
                "final_logit_softcapping": number("final_logit_softcapping", 30.0),
                "query_pre_attn_scalar": self.scalar(s, 46),
            }),
            "gemma3_text" => {
                let key = self.key("attention.sliding_window_pattern");
                let listed = self.gguf.integers(&key);
                let every = self.gguf.u64(&key).unwrap_or(6).max(1) as usize;
                let slides = |i: usize| match (window, &listed) {
                    (None, _) => false,
                    (_, Some(list)) => list.get(i).is_some_and(|n| *n != 0),
                    (_, None) => i % every < every - 1,
                };
                json!({
                    "hidden_activation": "gelu_pytorch_tanh",
                    "query_pre_attn_scalar": self.scalar(s, 62),
                    "final_logit_softcapping": self.number("final_logit_softcapping"),
                    "attn_logit_softcapping": null,
                    "rope_local_base_freq": number("rope.freq_base_swa", 10_000.0),
                    "rope_theta": number("rope.freq_base", 1_000_000.0),
                    "sliding_window": window,
                    "layer_types": layer_types(s.layers, slides),
                })
            }
            "phi" => json!({
                "hidden_act": "gelu_new",
                "qk_layernorm": self.has("blk.0.attn_q_norm.weight"),
            }),
            "phi3" => json!({
                "hidden_act": "silu",
                "sliding_window": window,
                "original_max_position_embeddings":
                    self.count("rope.scaling.original_context_length")?.unwrap_or(s.context),
            }),
            "gpt2" => json!({
                "n_embd": s.d_model,
                "n_layer": s.layers,
                "n_head": s.heads,
                "n_inner": s.d_mlp,
                "n_positions": s.context,
                "activation_function": "gelu_new",
            }),
            "gpt_neox" => json!({
                "hidden_act": "gelu",
                "use_parallel_residual": self.flag("use_parallel_residual").unwrap_or(true),
                "attention_bias": self.has("blk.0.attn_qkv.bias"),
                "rotary_emb_base": number("rope.freq_base", 10_000.0),
            }),
            "olmo" => json!({
                "hidden_act": "silu",
                "clip_qkv": self.number("attention.clamp_kqv").filter(|c| *c > 0.0),
            }),
            "starcoder2" => json!({
                "hidden_act": "gelu_pytorch_tanh",
                "use_bias": self.has("blk.0.attn_q.bias"),
                "sliding_window": window,
            }),
            "granite" if self.flag("rope.scaling.finetuned") == Some(false) => {
                return Err(self.wrong("it is a Granite without rope, which is not supported"));
            }
            "granite" => json!({
                "hidden_act": "silu",
                "embedding_multiplier": scale("embedding_scale", 1.0),
                "residual_multiplier": scale("residual_scale", 1.0),
                "logits_scaling": scale("logit_scale", 1.0),
                "attention_multiplier": scale("attention.scale", 1.0 / (s.head_dim as f64).sqrt()),
            }),
            "cohere" => json!({
                "hidden_act": "silu",
                "use_qk_norm": self.has("blk.0.attn_q_norm.weight"),
                "logit_scale": scale("logit_scale", 1.0),
            }),
            "stablelm" => json!({
                "hidden_act": "silu",
                "use_qkv_bias": self.has("blk.0.attn_q.bias"),
                "qk_layernorm": self.has("blk.0.attn_q_norm.weight"),
                // llama.cpp uses the same rule: a parallel block has no separate norm before the MLP.
                "use_parallel_residual": !self.has("blk.0.ffn_norm.weight"),
            }),
            other => return Err(self.wrong(format!("`{other}` has no configuration here"))),
        })
    }

    /// The divisor of Gemma's attention scores: the head's width or, in the one size with `layers` blocks, the width over the
    /// number of heads.
    fn scalar(&self, s: &GgufShape, layers: usize) -> usize {
        if s.layers == layers {
            s.d_model / s.heads
        } else {
            s.head_dim
        }
    }

    /// Refuses routers that do not use a softmax; all families here do.
    fn check_router(&self) -> Result<()> {
        let key = "expert_gating_func";
        match self.count(key)? {
            None | Some(0 | 1) => Ok(()),
            Some(n) => Err(self.wrong(format!(
                "`{}` is {n}, and only softmax (1) is supported",
                self.key(key)
            ))),
        }
    }

    /// `rope_scaling`, from the keys and from tensors with factors.
    fn rope_scaling(&self, s: &GgufShape, config: &mut Map<String, Value>) -> Result<Value> {
        let kind = self.gguf.string(&self.key("rope.scaling.type"));
        if let Some(factors) = self.values("rope_freqs.weight")? {
            // The result of Llama 3's rope: every frequency has its own divisor.
            return Ok(json!({"rope_type": "frequency_factors", "factors": factors}));
        }
        let long = self.values("rope_factors_long.weight")?;
        let short = self.values("rope_factors_short.weight")?;
        if let (Some(long), Some(short)) = (long, short) {
            let original = self.count("rope.scaling.original_context_length")?;
            let original = original.unwrap_or(s.context);
            config.insert("original_max_position_embeddings".into(), original.into());
            let mut scaling = json!({
                "rope_type": "longrope", "long_factor": long, "short_factor": short,
                "factor": s.context as f64 / original.max(1) as f64,
                "original_max_position_embeddings": original,
            });
            if let Some(attention) = self.number("rope.scaling.attn_factor") {
                scaling["attention_factor"] = attention.into();
            }
            return Ok(scaling);
        }
        let factor = self
            .number("rope.scaling.factor")
            .or_else(|| self.number("rope.scale_linear"))
            .filter(|f| *f > 0.0);
        match (kind, factor) {
            (Some("none"), _) | (None | Some("linear"), None) => Ok(Value::Null),
            (None | Some("linear"), Some(factor)) if (factor - 1.0).abs() < f64::EPSILON => {
                Ok(Value::Null)
            }
            (None | Some("linear"), Some(factor)) => {
                Ok(json!({"rope_type": "linear", "factor": factor}))
            }
            (Some("yarn"), Some(factor)) => {
                for (key, plain) in [("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)] {
                    let key = format!("rope.scaling.{key}");
                    if self.number(&key).is_some_and(|x| (x - plain).abs() > 1e-9) {
                        return Err(self.wrong(format!("`{}` is not supported", self.key(&key))));
                    }
                }
                let mut scaling = json!({"rope_type": "yarn", "factor": factor});
                if let Some(original) = self.count("rope.scaling.original_context_length")? {
                    scaling["original_max_position_embeddings"] = original.into();
                }
                for (key, ours) in [
                    ("attn_factor", "attention_factor"),
                    ("yarn_attn_factor", "attention_factor"),
                    ("yarn_beta_fast", "beta_fast"),
                    ("yarn_beta_slow", "beta_slow"),
                ] {
                    if let Some(x) = self.number(&format!("rope.scaling.{key}")) {
                        scaling[ours] = x.into();
                    }
                }
                Ok(scaling)
            }
            (Some("longrope"), _) => Err(self.wrong(
                "its rope is `longrope`, and the factors (`rope_factors_long.weight`) are missing",
            )),
            (Some("yarn"), None) => Err(self.wrong(format!(
                "`{}` is missing, and the rope is `yarn`",
                self.key("rope.scaling.factor")
            ))),
            (Some(other), _) => {
                Err(self.wrong(format!("its rope scaling `{other}` is not supported")))
            }
        }
    }
}

fn layer_types(layers: usize, slides: impl Fn(usize) -> bool) -> Value {
    let kind = |i| {
        if slides(i) {
            "sliding_attention"
        } else {
            "full_attention"
        }
    };
    (0..layers).map(kind).collect::<Vec<_>>().into()
}

/// `part / whole`, rounded such that `whole` times it, truncated to an integer, is `part`.
fn fraction(part: usize, whole: usize) -> f64 {
    let ratio = part as f64 / whole as f64;
    if ((ratio * whole as f64) as usize) < part {
        ratio.next_up()
    } else {
        ratio
    }
}

#[cfg(test)]
mod tests {
    use super::fraction;

    #[test]
    fn fractions_give_their_part_back() {
        for whole in 1..300 {
            for part in 1..=whole {
                assert_eq!((fraction(part, whole) * whole as f64) as usize, part);
            }
        }
    }
}
