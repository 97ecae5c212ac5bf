//! Hugging Face names for the tensors of a GGUF file, and the inverse of the converter's changes to their rows.
//!
//! Invariant: a [`GgufPiece`] has the rows of the Hugging Face checkpoint's tensor of that name, in its order, in the type of
//! the file; rows are moved without unpacking, because blocks run along the input. Matrices are `[out, in]`, even if the
//! Hugging Face checkpoint has them `[in, out]` (GPT-2). To support another architecture, add its row to [`ARCHITECTURES`] and
//! its configuration to `config.rs`.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::Gguf;
use crate::error::{Error, Result};
use crate::model::host::ToHost;

/// A Hugging Face name and its GGUF name, both without `.weight` or `.bias`; `{}` is the index of an expert or a head, which
/// GGUF stacks along the first axis.
type NameRow = (&'static str, &'static str);

/// How the file of an architecture is read.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// The `model_type` as which it is presented.
    pub model_type: &'static str,
    /// The prefix of every name except the unembedding's.
    prefix: &'static str,
    /// The text before the layer number.
    block: &'static str,
    /// Embedding, positions and final norm, without the prefix.
    outer: &'static [NameRow],
    /// Names inside a block; the first list that has a name decides.
    inner: &'static [&'static [NameRow]],
    /// The unembedding's name.
    head: &'static str,
    /// Whether rows of queries and keys were reordered, for rotation of neighbouring dimensions instead of halves.
    permuted: bool,
    /// Whether norm gains are stored as `1 + gain`.
    shifted: bool,
}

const LLAMA_OUTER: &[NameRow] = &[("embed_tokens", "token_embd"), ("norm", "output_norm")];

/// Names that the blocks of most families share.
const COMMON: &[NameRow] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

const EXPERTS: &[NameRow] = &[
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.experts.{}.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.{}.up_proj", "ffn_up_exps"),
    ("mlp.experts.{}.down_proj", "ffn_down_exps"),
];

const MIXTRAL: &[NameRow] = &[
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("block_sparse_moe.experts.{}.w1", "ffn_gate_exps"),
    ("block_sparse_moe.experts.{}.w3", "ffn_up_exps"),
    ("block_sparse_moe.experts.{}.w2", "ffn_down_exps"),
];

/// Norms after the sub-layers.
const POST_NORMS: &[NameRow] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

const PHI: &[NameRow] = &[
    ("self_attn.dense", "attn_output"),
    ("self_attn.q_layernorm", "attn_q_norm"),
    ("self_attn.k_layernorm", "attn_k_norm"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
];

const PHI3: &[NameRow] = &[
    ("self_attn.qkv_proj", "attn_qkv"),
    ("mlp.gate_up_proj", "ffn_up"),
];

const STARCODER2: &[NameRow] = &[("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")];

const STABLELM: &[NameRow] = &[
    ("self_attn.q_layernorm.norms.{}", "attn_q_norm"),
    ("self_attn.k_layernorm.norms.{}", "attn_k_norm"),
];

const GPT2: &[NameRow] = &[
    ("ln_1", "attn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("ln_2", "ffn_norm"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];

const GPT_NEOX: &[NameRow] = &[
    ("attention.query_key_value", "attn_qkv"),
    ("attention.dense", "attn_output"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.dense_4h_to_h", "ffn_down"),
];

/// An architecture with the layout of Llama.
const fn like_llama(name: &'static str, model_type: &'static str) -> Architecture {
    Architecture {
        name,
        model_type,
        prefix: "model.",
        block: "layers.",
        outer: LLAMA_OUTER,
        inner: &[COMMON],
        head: "lm_head",
        permuted: false,
        shifted: false,
    }
}

const fn permuted(name: &'static str, model_type: &'static str) -> Architecture {
    Architecture {
        permuted: true,
        ..like_llama(name, model_type)
    }
}

const fn with(
    name: &'static str,
    model_type: &'static str,
    inner: &'static [&'static [NameRow]],
) -> Architecture {
    Architecture {
        inner,
        ..like_llama(name, model_type)
    }
}

const fn gemma(name: &'static str, inner: &'static [&'static [NameRow]]) -> Architecture {
    let model_type = match name.as_bytes() {
        b"gemma3" => "gemma3_text",
        _ => name,
    };
    Architecture {
        inner,
        shifted: true,
        ..like_llama(name, model_type)
    }
}

/// All architectures that can be read. Mixtral has llama's name in GGUF and comes first: it is chosen if the file has experts.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        inner: &[MIXTRAL, COMMON],
        ..permuted("llama", "mixtral")
    },
    permuted("llama", "llama"),
    like_llama("qwen2", "qwen2"),
    like_llama("qwen3", "qwen3"),
    with("qwen3moe", "qwen3_moe", &[EXPERTS, COMMON]),
    gemma("gemma", &[COMMON]),
    gemma("gemma2", &[POST_NORMS, COMMON]),
    gemma("gemma3", &[POST_NORMS, COMMON]),
    Architecture {
        outer: &[
            ("embed_tokens", "token_embd"),
            ("final_layernorm", "output_norm"),
        ],
        ..with("phi2", "phi", &[PHI, COMMON])
    },
    with("phi3", "phi3", &[PHI3, COMMON]),
    Architecture {
        prefix: "transformer.",
        block: "h.",
        outer: &[
            ("wte", "token_embd"),
            ("wpe", "position_embd"),
            ("ln_f", "output_norm"),
        ],
        ..with("gpt2", "gpt2", &[GPT2])
    },
    Architecture {
        prefix: "gpt_neox.",
        outer: &[
            ("embed_in", "token_embd"),
            ("final_layer_norm", "output_norm"),
        ],
        head: "embed_out",
        ..with("gptneox", "gpt_neox", &[GPT_NEOX, COMMON])
    },
    permuted("olmo", "olmo"),
    with("olmo2", "olmo2", &[POST_NORMS, COMMON]),
    with("olmoe", "olmoe", &[EXPERTS, COMMON]),
    with("starcoder2", "starcoder2", &[STARCODER2, COMMON]),
    permuted("smollm3", "smollm3"),
    permuted("granite", "granite"),
    like_llama("command-r", "cohere"),
    with("stablelm", "stablelm", &[STABLELM, COMMON]),
];

/// The architecture that a file names.
pub fn architecture_of(gguf: &Gguf) -> Result<&'static Architecture> {
    let Some(name) = gguf.string("general.architecture") else {
        return Err(Error::bad_file(
            gguf.path(),
            "it names no `general.architecture`",
            "Is this a language model? A file for another tool cannot be opened.",
        ));
    };
    let experts = gguf.u64(&format!("{name}.expert_count")).unwrap_or(0) > 0;
    ARCHITECTURES
        .iter()
        .find(|a| a.name == name && (a.model_type != "mixtral" || experts))
        .ok_or_else(|| {
            let mut known: Vec<_> = ARCHITECTURES.iter().map(|a| a.name).collect();
            known.dedup();
            let known = known.join(", ");
            let what = format!("its architecture `{name}` is not supported ({known} are)");
            let next = "Take the model's safetensors files instead.";
            Error::bad_file(gguf.path(), what, next)
        })
}

/// A tensor as the file stores it: rows of blocks.
#[derive(Clone, Debug)]
pub struct GgufPiece<'a> {
    /// The type of its blocks.
    pub dtype: GgmlDType,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its rows.
    pub bytes: Cow<'a, [u8]>,
}

impl GgufPiece<'_> {
    /// One matrix of a stack, or one row of a matrix.
    fn nth(self, index: usize) -> Option<Self> {
        let (&count, shape) = self.shape.split_first()?;
        if index >= count {
            return None;
        }
        let size = self.bytes.len() / count;
        Some(Self {
            dtype: self.dtype,
            shape: shape.to_vec(),
            bytes: slice(self.bytes, index * size..(index + 1) * size),
        })
    }

    /// Some of the rows.
    pub fn rows(self, range: Range<usize>) -> Option<Self> {
        let (&count, rest) = self.shape.split_first()?;
        if range.end > count || range.start > range.end || !self.rows_are_whole() {
            return None;
        }
        let size = self.bytes.len() / count.max(1);
        let mut shape = vec![range.len()];
        shape.extend(rest);
        Some(Self {
            dtype: self.dtype,
            shape,
            bytes: slice(self.bytes, range.start * size..range.end * size),
        })
    }

    /// The piece with its rows reordered: row `i` of the result is row `from(i)` of the piece.
    fn reorder(self, from: impl Fn(usize) -> usize) -> Option<Self> {
        let count = *self.shape.first()?;
        if !self.rows_are_whole() {
            return None;
        }
        let size = self.bytes.len() / count.max(1);
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for i in 0..count {
            let at = from(i) * size;
            bytes.extend_from_slice(self.bytes.get(at..at + size)?);
        }
        Some(Self {
            dtype: self.dtype,
            shape: self.shape,
            bytes: Cow::Owned(bytes),
        })
    }

    /// Whether rows consist of whole blocks; if not, there are no rows that can be moved.
    fn rows_are_whole(&self) -> bool {
        self.shape.len() > 1 || self.dtype.block_size() == 1
    }

    /// Its numbers unpacked to f32, on the CPU.
    pub fn unpack(&self) -> Result<Tensor> {
        Ok(self.numbers()?.to_dtype(DType::F32)?)
    }

    /// Its numbers on the CPU: plain numbers in their type, quantized ones in f32.
    pub fn numbers(&self) -> Result<Tensor> {
        let cpu = Device::Cpu;
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "every other type has blocks"
        )]
        let dense = match self.dtype {
            GgmlDType::F32 => Some(DType::F32),
            GgmlDType::F16 => Some(DType::F16),
            GgmlDType::BF16 => Some(DType::BF16),
            _ => None,
        };
        Ok(match dense {
            Some(dtype) => Tensor::from_raw_buffer(&self.bytes, dtype, &self.shape, &cpu)?,
            None => self.blocks(&cpu)?.dequantize(&cpu)?,
        })
    }

    /// Its quantized blocks, on a device.
    pub fn blocks(&self, device: &Device) -> Result<QTensor> {
        let storage = QStorage::from_data(Cow::Borrowed(&self.bytes), device, self.dtype)?;
        Ok(QTensor::new(storage, self.shape.as_slice())?)
    }
}

fn slice(bytes: Cow<'_, [u8]>, range: Range<usize>) -> Cow<'_, [u8]> {
    match bytes {
        Cow::Borrowed(all) => Cow::Borrowed(&all[range]),
        Cow::Owned(all) => Cow::Owned(all[range].to_vec()),
    }
}

/// Maps Hugging Face names to the tensors of a file.
#[derive(Clone, Copy, Debug)]
pub struct GgufNames {
    /// The layout of the file.
    pub architecture: &'static Architecture,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl GgufNames {
    /// The GGUF tensor of a name, and the index in its stack.
    fn locate(&self, name: &str) -> Option<(String, Option<usize>)> {
        let a = self.architecture;
        let (name, part) = name.rsplit_once('.')?;
        if !matches!(part, "weight" | "bias") {
            return None;
        }
        if name == a.head {
            return Some((format!("output.{part}"), None));
        }
        let name = name.strip_prefix(a.prefix)?;
        if let Some((_, gguf)) = a.outer.iter().find(|(hf, _)| *hf == name) {
            return Some((format!("{gguf}.{part}"), None));
        }
        let (layer, name) = name.strip_prefix(a.block)?.split_once('.')?;
        let layer: usize = layer.parse().ok()?;
        a.inner.iter().copied().flatten().find_map(|(hf, gguf)| {
            let index = fits(hf, name)?;
            Some((format!("blk.{layer}.{gguf}.{part}"), index))
        })
    }

    /// Whether the file has a tensor.
    pub fn exists(&self, gguf: &Gguf, name: &str) -> bool {
        self.find(gguf, name).is_some()
    }

    /// A tensor as in the Hugging Face checkpoint, but in the type of the file; `None` if it does not exist.
    pub fn piece<'a>(&self, gguf: &'a Gguf, name: &str) -> Result<Option<GgufPiece<'a>>> {
        let Some((tensor, piece)) = self.find(gguf, name) else {
            return Ok(None);
        };
        let short = tensor.rsplit('.').nth(1).unwrap_or("");
        // The converter does not reorder OLMo's biases.
        let permuted = self.architecture.permuted
            && (self.architecture.name != "olmo" || name.ends_with(".weight"));
        let taken_back = if permuted && short == "attn_q" {
            unpermute(piece, self.heads)
        } else if permuted && short == "attn_k" {
            unpermute(piece, self.kv_heads)
        } else if self.architecture.name == "gptneox" && short == "attn_qkv" {
            interleave(piece, self.heads, self.head_dim)
        } else if self.architecture.shifted && name.ends_with("norm.weight") {
            return Ok(Some(shift(&piece)?));
        } else {
            Some(piece)
        };
        taken_back.map(Some).ok_or_else(|| {
            Error::bad_file(
                gguf.path(),
                format!("the rows of tensor `{tensor}` do not divide into the heads that the metadata names"),
                "The file is damaged or was made by a tool that lmscope does not know; take another.",
            )
        })
    }

    /// The stored rows of a name, and the GGUF tensor that contains them.
    fn find<'a>(&self, gguf: &'a Gguf, name: &str) -> Option<(String, GgufPiece<'a>)> {
        let (tensor, index) = self.locate(name)?;
        if let Some(whole) = stored(gguf, &tensor) {
            return match index {
                Some(index) => whole.nth(index).map(|p| (tensor, p)),
                None => Some((tensor, whole)),
            };
        }
        let (blk, rest) = tensor
            .rsplit_once('.')
            .map(|(t, part)| (t, part.to_string()))?;
        let (block, short) = blk.rsplit_once('.')?;
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        // Tensors that newer converters can fuse, and that older ones kept apart.
        let of_block = |short: &str| stored(gguf, &format!("{block}.{short}.{rest}"));
        match (short, index) {
            ("attn_q", _) => of_block("attn_qkv")?.rows(0..q),
            ("attn_k", _) => of_block("attn_qkv")?.rows(q..q + kv),
            ("attn_v", _) => of_block("attn_qkv")?.rows(q + kv..q + 2 * kv),
            ("ffn_gate_exps" | "ffn_up_exps" | "ffn_down_exps", Some(index)) => {
                let fused = of_block("ffn_gate_up_exps");
                match (fused.and_then(|f| f.nth(index)), short) {
                    (Some(both), "ffn_gate_exps") => {
                        let half = both.shape.first()? / 2;
                        both.rows(0..half)
                    }
                    (Some(both), "ffn_up_exps") => {
                        let all = *both.shape.first()?;
                        both.rows(all / 2..all)
                    }
                    _ => of_block(&format!("{}.{index}", short.trim_end_matches("_exps"))),
                }
            }
            _ => None,
        }
        .map(|piece| (tensor, piece))
    }
}

/// Whether a name matches a pattern, and the number in it.
#[allow(clippy::option_option)] // no match, a match without a number, a match with one
fn fits(pattern: &str, name: &str) -> Option<Option<usize>> {
    match pattern.split_once("{}") {
        None => (pattern == name).then_some(None),
        Some((before, after)) => name
            .strip_prefix(before)?
            .strip_suffix(after)?
            .parse()
            .ok()
            .map(Some),
    }
}

pub(crate) fn stored<'a>(gguf: &'a Gguf, tensor: &str) -> Option<GgufPiece<'a>> {
    let info = gguf.tensor(tensor)?;
    gguf.mark(tensor);
    Some(GgufPiece {
        dtype: info.kind.readable()?,
        shape: info.shape.clone(),
        bytes: Cow::Borrowed(gguf.bytes(tensor)?),
    })
}

/// Inverts `LlamaModel.permute` of llama.cpp's converter, which reorders the two halves of each head to neighbouring pairs.
fn unpermute(piece: GgufPiece<'_>, heads: usize) -> Option<GgufPiece<'_>> {
    let rows = *piece.shape.first()?;
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        return None;
    }
    let width = rows / heads;
    let half = width / 2;
    piece.reorder(|row| {
        let (head, at) = (row / width, row % width);
        head * width + 2 * (at % half) + at / half
    })
}

/// Inverts GPT-NeoX's reordering: the file has all queries, all keys, all values; the checkpoint has them head by head.
fn interleave(piece: GgufPiece<'_>, heads: usize, head_dim: usize) -> Option<GgufPiece<'_>> {
    let rows = *piece.shape.first()?;
    if rows != 3 * heads * head_dim {
        return None;
    }
    piece.reorder(|row| {
        let (head, at) = (row / (3 * head_dim), row % (3 * head_dim));
        (at / head_dim) * heads * head_dim + head * head_dim + at % head_dim
    })
}

/// Subtracts one from a norm gain that is stored as `1 + gain`, f32.
fn shift(piece: &GgufPiece<'_>) -> Result<GgufPiece<'static>> {
    let gain = (piece.unpack()? - 1.0)?.flatten_all()?.host_vec1::<f32>()?;
    Ok(GgufPiece {
        dtype: GgmlDType::F32,
        shape: piece.shape.clone(),
        bytes: Cow::Owned(gain.iter().flat_map(|g| g.to_le_bytes()).collect()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn piece(rows: usize) -> GgufPiece<'static> {
        // Row i has two f32 columns, i and -i.
        let values: Vec<u8> = (0..rows)
            .flat_map(|i| [i as f32, -(i as f32)])
            .flat_map(f32::to_le_bytes)
            .collect();
        GgufPiece {
            dtype: GgmlDType::F32,
            shape: vec![rows, 2],
            bytes: Cow::Owned(values),
        }
    }

    fn first_column(piece: &GgufPiece<'_>) -> Vec<f32> {
        let t = piece.unpack().unwrap();
        t.narrow(1, 0, 1)
            .unwrap()
            .flatten_all()
            .unwrap()
            .host_vec1()
            .unwrap()
    }

    #[test]
    fn permuted_heads_come_back() {
        // The converter's order for 2 heads of 6 rows: reshape(2, 2, 3).swapaxes(1, 2).
        let stored: [usize; 12] = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11];
        let converted = piece(12).reorder(|i| stored[i]).unwrap();
        let back = unpermute(converted, 2).unwrap();
        assert_eq!(
            first_column(&back),
            (0..12).map(|i| i as f32).collect::<Vec<_>>()
        );
        assert!(unpermute(piece(10), 4).is_none());
    }

    #[test]
    fn interleaved_heads_come_back() {
        // 2 heads of width 2: q q k k v v head by head in the checkpoint; all q, all k, all v in the file.
        let stored: [usize; 12] = [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11];
        let converted = piece(12).reorder(|i| stored[i]).unwrap();
        let back = interleave(converted, 2, 2).unwrap();
        assert_eq!(
            first_column(&back),
            (0..12).map(|i| i as f32).collect::<Vec<_>>()
        );
        assert!(interleave(piece(12), 3, 2).is_none());
    }

    #[test]
    fn names_find_their_tensors() {
        let of = |model_type: &str, name: &str| {
            let names = GgufNames {
                architecture: ARCHITECTURES
                    .iter()
                    .find(|a| a.model_type == model_type)
                    .unwrap(),
                heads: 1,
                kv_heads: 1,
                head_dim: 1,
            };
            names.locate(name)
        };
        let at = |s: &str, i: Option<usize>| Some((s.to_string(), i));
        assert_eq!(of("llama", "lm_head.weight"), at("output.weight", None));
        assert_eq!(
            of("llama", "model.layers.3.self_attn.q_proj.bias"),
            at("blk.3.attn_q.bias", None)
        );
        assert_eq!(
            of("gemma2", "model.layers.0.post_attention_layernorm.weight"),
            at("blk.0.post_attention_norm.weight", None)
        );
        assert_eq!(
            of(
                "mixtral",
                "model.layers.1.block_sparse_moe.experts.5.w3.weight"
            ),
            at("blk.1.ffn_up_exps.weight", Some(5))
        );
        assert_eq!(
            of(
                "stablelm",
                "model.layers.1.self_attn.q_layernorm.norms.2.weight"
            ),
            at("blk.1.attn_q_norm.weight", Some(2))
        );
        assert_eq!(
            of("gpt2", "transformer.h.0.attn.c_attn.weight"),
            at("blk.0.attn_qkv.weight", None)
        );
        assert_eq!(
            of(
                "gpt_neox",
                "gpt_neox.layers.0.post_attention_layernorm.bias"
            ),
            at("blk.0.ffn_norm.bias", None)
        );
        assert_eq!(
            of("gpt_neox", "embed_out.weight"),
            at("output.weight", None)
        );
        assert_eq!(of("llama", "model.layers.x.mlp.up_proj.weight"), None);
        assert_eq!(of("llama", "model.rotary.inv_freq"), None);
    }
}
