//! Builds tokenizers from the metadata of GGUF files.
//!
//! Invariant: ids are those of the model's own `tokenizer.json`: byte-level vocabularies split by `pre_tokenizers.rs`, and
//! SentencePiece vocabularies get the merges that Hugging Face derives from tokens and scores. An unknown kind is refused by
//! name.
//! To add a kind of vocabulary, add an arm in [`GgufVocabulary::tokenizer`].

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use super::bytes::Pipeline;
use super::pre_tokenizers::split;
use crate::error::{Error, Result};
use crate::model::checkpoint::gguf::Gguf;

/// The values of `tokenizer.ggml.token_type` (llama.cpp, `llama_token_type`).
pub(super) mod kind {
    pub const UNKNOWN: i64 = 2;
    pub const CONTROL: i64 = 3;
    pub const USER_DEFINED: i64 = 4;
    pub const UNUSED: i64 = 5;
    pub const BYTE: i64 = 6;
}

/// Tokens that end an answer by their text alone, as in llama.cpp: many conversions name only one end token.
const ENDS: [&str; 24] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// A vocabulary as stored in a GGUF file.
#[derive(Debug, Default)]
pub(super) struct GgufVocabulary<'a> {
    /// `tokenizer.ggml.model`: `gpt2`, `llama`, ...
    pub model: &'a str,
    /// `tokenizer.ggml.pre`, of byte-level vocabularies.
    pub pre: Option<&'a str>,
    /// `general.architecture`.
    pub architecture: &'a str,
    /// `general.name`.
    pub name: &'a str,
    /// The tokens by id.
    pub pieces: Vec<&'a str>,
    /// Their scores; empty if there are none.
    pub scores: Vec<f32>,
    /// Their types; empty if there are none.
    pub kinds: Vec<i64>,
    /// `a b` pairs by rank.
    pub merges: Option<Vec<&'a str>>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub bos: Option<u32>,
    /// The tokens for end of text, turn and message, as far as the file names them.
    pub ends: Vec<u32>,
    pub unknown: Option<u32>,
}

/// The tokenizer built from a vocabulary, with its settings.
pub(super) struct BuiltTokenizer {
    pub inner: tokenizers::Tokenizer,
    pub pipeline: Pipeline,
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
}

/// The tokenizer of a vocabulary, as the parts of a `tokenizer.json`.
struct Parts {
    model: BPE,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    /// Whether a BOS is added by default.
    bos: bool,
}

impl<'a> GgufVocabulary<'a> {
    /// Reads the vocabulary in a file.
    pub fn read(gguf: &'a Gguf) -> Result<Self> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| gguf.u32(&key(&format!("{name}_token_id")));
        let flag = |name: &str| gguf.bool(&key(name));
        let pieces = gguf
            .strings(&key("tokens"))
            .ok_or_else(|| refuse("it has no list of tokens (`tokenizer.ggml.tokens`) in UTF-8"))?;
        let count = pieces.len();
        let complete = |name: &str, found: usize| {
            if found == 0 || found >= count {
                return Ok(());
            }
            Err(refuse(format!(
                "`tokenizer.ggml.{name}` has {found} entries for {count} tokens"
            )))
        };
        let scores = gguf.floats(&key("scores")).unwrap_or_default();
        complete("scores", scores.len())?;
        let kinds = gguf.integers(&key("token_type")).unwrap_or_default();
        complete("token_type", kinds.len())?;
        Ok(Self {
            model: gguf.string(&key("model")).unwrap_or("no"),
            pre: gguf.string(&key("pre")),
            architecture: gguf.string("general.architecture").unwrap_or_default(),
            name: gguf.string("general.name").unwrap_or_default(),
            pieces,
            scores,
            kinds,
            merges: gguf.strings(&key("merges")),
            add_bos: flag("add_bos_token"),
            add_eos: flag("add_eos_token"),
            add_space_prefix: flag("add_space_prefix"),
            bos: id("bos"),
            ends: ["eos", "eot", "eom"].into_iter().filter_map(id).collect(),
            unknown: id("unknown"),
        })
    }

    /// Builds the tokenizer.
    pub fn tokenizer(mut self) -> Result<BuiltTokenizer> {
        if self.model == "llama" {
            // The default ids of SentencePiece.
            self.bos = self.bos.or(Some(1));
            self.unknown = self.unknown.or(Some(0));
            if self.ends.is_empty() {
                self.ends.push(2);
            }
        }
        let count = self.pieces.len();
        let inside = |id: &u32| (*id as usize) < count;
        self.bos = self.bos.filter(inside);
        self.unknown = self.unknown.filter(inside);
        self.ends.retain(inside);

        let ids = self.ids();
        let letters = !matches!(self.model, "llama" | "gemma4");
        let parts = match self.model {
            "gemma4" => self.raw_bytes(&ids)?,
            "gpt2" => self.byte_level(&ids)?,
            "llama" => self.sentence_piece(&ids)?,
            other => {
                return Err(refuse(format!(
                    "its kind (`tokenizer.ggml.model`) is `{other}`; gpt2, llama and gemma4 are supported"
                )));
            }
        };
        let add_bos = self.add_bos.unwrap_or(parts.bos);
        let pipeline = Pipeline {
            decoder: parts.decoder.clone(),
            pre_tokenizer: Value::Null,
            added_are_letters: letters,
        };
        let mut inner = tokenizers::Tokenizer::new(parts.model);
        inner
            .with_normalizer(part::<NormalizerWrapper>(parts.normalizer)?)
            .map_err(|e| refuse(e.to_string()))?;
        inner.with_pre_tokenizer(part::<PreTokenizerWrapper>(parts.pre_tokenizer)?);
        inner.with_decoder(part::<DecoderWrapper>(parts.decoder)?);
        let around = self.around(
            self.bos.filter(|_| add_bos),
            self.ends
                .first()
                .copied()
                .filter(|_| self.add_eos == Some(true)),
        );
        inner.with_post_processor(part::<PostProcessorWrapper>(around)?);
        inner
            .add_tokens(self.added())
            .map_err(|e| refuse(e.to_string()))?;
        Ok(BuiltTokenizer {
            inner,
            pipeline,
            bos: self.bos,
            eos: self.eos(&ids),
        })
    }

    fn kind(&self, id: usize) -> i64 {
        self.kinds.get(id).copied().unwrap_or(1)
    }

    /// Ids by token; for a repeated token the later id, as in llama.cpp.
    fn ids(&self) -> HashMap<&'a str, u32> {
        let pieces = self.pieces.iter().enumerate();
        pieces
            .filter(|(_, piece)| !piece.is_empty())
            .map(|(id, piece)| (*piece, id as u32))
            .collect()
    }

    /// The tokens that are searched for in a text before it is split: special ones, and those defined by users.
    fn added(&self) -> Vec<AddedToken> {
        // As in llama.cpp, the model's name tells that these tokens include the following spaces.
        let name = self.name.to_lowercase();
        let phi3 = name.contains("phi-3") || name.contains("phi3");
        let pieces = self.pieces.iter().enumerate();
        let found = pieces.filter_map(|(id, piece)| {
            let special = match self.kind(id) {
                kind::CONTROL | kind::UNKNOWN => true,
                kind::USER_DEFINED => false,
                _ => return None,
            };
            let rstrip = phi3 && !matches!(*piece, "<unk>" | "<s>" | "<|endoftext|>");
            let token = AddedToken::from(*piece, special)
                .normalized(false)
                .rstrip(rstrip);
            (!piece.is_empty()).then_some(token)
        });
        found.collect()
    }

    /// The tokens that end an answer: first those that the file names, then those known by their text.
    fn eos(&self, ids: &HashMap<&str, u32>) -> Vec<u32> {
        let has = |piece: &str| ids.contains_key(piece);
        // In these vocabularies the token ends a part of an answer, not the answer.
        let goes_on =
            (has("<|return|>") && has("<|call|>")) || (has("<|calls|>") && has("<|flush|>"));
        let by_text = ENDS
            .iter()
            .filter(|&&piece| !(goes_on && piece == "<|end|>"))
            .filter_map(|piece| ids.get(piece).copied());
        let mut eos: Vec<u32> = Vec::new();
        for id in self.ends.iter().copied().chain(by_text) {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        eos
    }

    /// The post-processor that adds tokens before and after a text.
    fn around(&self, bos: Option<u32>, eos: Option<u32>) -> Value {
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
        let name = |id: u32| format!("{id}");
        let token =
            |id: Option<u32>| id.map(|id| json!({"SpecialToken": {"id": name(id), "type_id": 0}}));
        let line = |texts: Vec<Value>| -> Vec<Value> {
            token(bos)
                .into_iter()
                .chain(texts)
                .chain(token(eos))
                .collect()
        };
        let named = bos.into_iter().chain(eos).map(|id| {
            let piece = self.pieces.get(id as usize).copied().unwrap_or_default();
            (
                name(id),
                json!({"id": name(id), "ids": [id], "tokens": [piece]}),
            )
        });
        json!({
            "type": "TemplateProcessing",
            "single": line(vec![text("A", 0)]),
            "pair": line(vec![text("A", 0), text("B", 1)]),
            "special_tokens": named.collect::<serde_json::Map<String, Value>>(),
        })
    }

    /// A byte-level vocabulary like GPT-2's: characters stand for bytes.
    fn byte_level(&self, ids: &HashMap<&str, u32>) -> Result<Parts> {
        let known = |name: &&str| split(name).is_some();
        // Files older than the key do not have it; some architectures have always used the same split.
        let name = self
            .pre
            .or_else(|| Some(self.architecture).filter(known))
            .unwrap_or("default");
        let split = split(name).ok_or_else(|| {
            refuse(format!(
                "it splits texts as `{name}` (`tokenizer.ggml.pre`), which is not known here"
            ))
        })?;
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let mut steps: Vec<Value> = split.patterns.iter().map(|p| isolated(p)).collect();
        steps.push(level.clone());
        let model = self
            .bpe(ids, self.listed_merges(ids)?)?
            .ignore_merges(split.ignore_merges);
        Ok(Parts {
            model: model.build().map_err(|e| refuse(e.to_string()))?,
            normalizer: if split.nfc {
                json!({"type": "NFC"})
            } else {
                Value::Null
            },
            pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
            decoder: level,
            bos: split.bos,
        })
    }

    /// A vocabulary like Gemma 4's: listed merges with `▁` for spaces, and bytes for text without a token.
    fn raw_bytes(&self, ids: &HashMap<&str, u32>) -> Result<Parts> {
        let model = self
            .bpe(ids, self.listed_merges(ids)?)?
            .byte_fallback(true)
            .fuse_unk(true);
        Ok(Parts {
            model: model.build().map_err(|e| refuse(e.to_string()))?,
            normalizer: replace(" ", "▁"),
            pre_tokenizer: isolated(r"[^\n]+|[\n]+"),
            decoder: pieces_to_text(),
            bos: true,
        })
    }

    /// A SentencePiece vocabulary: `▁` for spaces, bytes for text without a token; the merge with the highest score comes
    /// first.
    fn sentence_piece(&self, ids: &HashMap<&str, u32>) -> Result<Parts> {
        if self.scores.is_empty() {
            return Err(refuse(
                "its pieces have no scores (`tokenizer.ggml.scores`)",
            ));
        }
        let model = self
            .bpe(ids, self.derived_merges(ids))?
            .byte_fallback(true)
            .fuse_unk(true);
        let mut normalizers = vec![replace(" ", "▁")];
        if self.add_space_prefix.unwrap_or(true) {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        }
        Ok(Parts {
            model: model.build().map_err(|e| refuse(e.to_string()))?,
            normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
            pre_tokenizer: Value::Null,
            decoder: pieces_to_text(),
            bos: true,
        })
    }

    fn bpe(&self, ids: &HashMap<&str, u32>, merges: Vec<(String, String)>) -> Result<BpeBuilder> {
        if ids.is_empty() {
            return Err(refuse("its list of tokens is empty"));
        }
        let vocabulary = ids.iter().map(|(piece, id)| ((*piece).to_owned(), *id));
        let builder = BPE::builder().vocab_and_merges(vocabulary.collect::<Vocab>(), merges);
        let unknown = self.unknown.and_then(|id| self.pieces.get(id as usize));
        Ok(match unknown {
            Some(piece) => builder.unk_token((*piece).to_owned()),
            None => builder,
        })
    }

    /// The merges in the file, without those whose parts or result are not tokens, which could never be applied.
    fn listed_merges(&self, ids: &HashMap<&str, u32>) -> Result<Vec<(String, String)>> {
        let merges = self
            .merges
            .as_ref()
            .ok_or_else(|| refuse("it has no list of merges (`tokenizer.ggml.merges`)"))?;
        let mut whole = String::new();
        let pairs = merges.iter().filter_map(|merge| {
            // A token may begin with a space.
            let first = merge.chars().next()?.len_utf8();
            let at = first + merge.get(first..)?.find(' ')?;
            let (left, right) = (&merge[..at], &merge[at + 1..]);
            whole.clear();
            whole.extend([left, right]);
            let known = |piece: &str| ids.contains_key(piece);
            (known(left) && known(right) && known(&whole))
                .then(|| (left.to_owned(), right.to_owned()))
        });
        Ok(pairs.collect())
    }

    /// The merges that give each token, by score, as Hugging Face derives them (transformers,
    /// `convert_slow_tokenizer.generate_merges`).
    fn derived_merges(&self, ids: &HashMap<&'a str, u32>) -> Vec<(String, String)> {
        struct Merge<'a> {
            score: f32,
            left: &'a str,
            right: &'a str,
            lengths: (usize, usize),
        }
        let mut merges = Vec::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            let unmade = matches!(
                self.kind(id),
                kind::CONTROL | kind::UNKNOWN | kind::UNUSED | kind::BYTE
            );
            if unmade || ids.get(piece) != Some(&(id as u32)) {
                continue;
            }
            let score = self.scores.get(id).copied().unwrap_or_default();
            let length = piece.chars().count();
            let cuts = piece.char_indices().enumerate().skip(1);
            let mut local: Vec<(u32, u32, Merge)> = cuts
                .filter_map(|(n, (at, _))| {
                    let (left, right) = piece.split_at(at);
                    let lengths = (n, length - n);
                    let merge = Merge {
                        score,
                        left,
                        right,
                        lengths,
                    };
                    Some((*ids.get(left)?, *ids.get(right)?, merge))
                })
                .collect();
            local.sort_by_key(|(left, right, _)| (*left, *right));
            merges.extend(local.into_iter().map(|(_, _, merge)| merge));
        }
        merges.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.lengths.cmp(&a.lengths)));
        merges
            .into_iter()
            .map(|merge| (merge.left.to_owned(), merge.right.to_owned()))
            .collect()
    }
}

/// The error for a tokenizer that lacks something, and what to do.
fn refuse(what: impl Into<String>) -> Error {
    Error::Text {
        what: format!("The tokenizer in this GGUF file cannot be used: {}", what.into()),
        next: "Convert the model again with a current llama.cpp, or open its folder in Hugging Face layout".into(),
    }
}

/// Deserializes one part of a `tokenizer.json`.
fn part<T: serde::de::DeserializeOwned>(value: Value) -> Result<Option<T>> {
    serde_json::from_value(value).map_err(|e| refuse(e.to_string()))
}

fn isolated(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn replace(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": from}, "content": to})
}

fn pieces_to_text() -> Value {
    json!({"type": "Sequence", "decoders": [replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}]})
}
