//! Tokenizers of folders without a `tokenizer.json`: `vocab.json` with `merges.txt` (OPT, older models like GPT-2), or a
//! SentencePiece `tokenizer.model` (older Llamas).
//!
//! Invariant: they are converted to the vocabulary of a GGUF file and built in the same way; what that way does not support
//! (Unigram models, character maps, collapsed spaces) is refused by name.
//! To add a kind of file, add a reader of a [`PieceList`].

use std::collections::HashMap;

use serde_json::Value;

use super::gguf::{BuiltTokenizer, GgufVocabulary, kind};
use super::{parse, token_named};
use crate::error::{Error, Result};

/// Tokens by id, as listed in a file.
#[derive(Debug, Default)]
struct PieceList {
    /// `gpt2` or `llama`, as in GGUF.
    model: &'static str,
    texts: Vec<String>,
    scores: Vec<f32>,
    kinds: Vec<i64>,
    merges: Option<Vec<String>>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    add_bos: bool,
    add_space_prefix: bool,
}

/// The files of older folders that have no `tokenizer.json`.
#[derive(Clone, Copy, Debug)]
pub enum Older<'a> {
    /// `vocab.json` and `merges.txt`, with `added_tokens.json`.
    ByteLevel {
        /// Tokens and ids.
        vocab: &'a [u8],
        /// Merges by rank.
        merges: &'a [u8],
        /// Additional tokens and ids.
        added: Option<&'a [u8]>,
    },
    /// `tokenizer.model`, with `added_tokens.json`.
    SentencePiece {
        /// The protocol buffer.
        model: &'a [u8],
        /// Additional tokens and ids.
        added: Option<&'a [u8]>,
    },
}

impl Older<'_> {
    /// Builds the tokenizer; `config` is tokenizer_config.json.
    pub(super) fn read(&self, config: &Value) -> Result<BuiltTokenizer> {
        match *self {
            Self::ByteLevel {
                vocab,
                merges,
                added,
            } => byte_level(vocab, merges, added, config),
            Self::SentencePiece { model, added } => sentence_piece(model, added, config),
        }
    }
}

fn byte_level(
    vocab: &[u8],
    merges: &[u8],
    added: Option<&[u8]>,
    config: &Value,
) -> Result<BuiltTokenizer> {
    let vocabulary: HashMap<String, u32> = serde_json::from_slice(vocab).map_err(|e| {
        refuse(
            "vocab.json",
            format!("it is not a table of tokens and ids ({e})"),
        )
    })?;
    let text =
        std::str::from_utf8(merges).map_err(|_| refuse("merges.txt", "it is not UTF-8".into()))?;
    let mut pieces = PieceList {
        model: "gpt2",
        merges: Some(
            text.lines()
                .filter(|l| !l.is_empty() && !l.starts_with("#version"))
                .map(str::to_owned)
                .collect(),
        ),
        add_bos: config["add_bos_token"] == true,
        ..PieceList::default()
    };
    let class = config["tokenizer_class"]
        .as_str()
        .unwrap_or("GPT2Tokenizer");
    let splits = match class.trim_end_matches("Fast") {
        "GPT2Tokenizer" | "CodeGenTokenizer" => "gpt-2",
        "Qwen2Tokenizer" => "qwen2",
        other => {
            let what = format!("how `{other}` splits texts is known from a tokenizer.json only");
            return Err(refuse("vocab.json", what));
        }
    };
    pieces.place(vocabulary, 1, "vocab.json")?;
    pieces.add(added, config)?;
    pieces.built(splits)
}

/// Reads a SentencePiece model from its protocol buffer (sentencepiece_model.proto).
fn sentence_piece(model: &[u8], added: Option<&[u8]>, config: &Value) -> Result<BuiltTokenizer> {
    let bad = |what: &str| refuse("tokenizer.model", what.to_string());
    let mut pieces = PieceList {
        model: "llama",
        add_space_prefix: true,
        add_bos: config["add_bos_token"] != false,
        unknown: Some(0),
        bos: Some(1),
        eos: Some(2),
        ..PieceList::default()
    };
    for field in Fields(model) {
        match field.map_err(bad)? {
            (1, ProtobufValue::Bytes(piece)) => pieces.piece(piece).map_err(bad)?,
            (2, ProtobufValue::Bytes(trainer)) => pieces.trainer(trainer).map_err(bad)?,
            (3, ProtobufValue::Bytes(normalizer)) => pieces.normalizer(normalizer).map_err(bad)?,
            _ => {}
        }
    }
    if pieces.texts.is_empty() {
        return Err(bad("it holds no pieces"));
    }
    pieces.add(added, config)?;
    pieces.built("default")
}

impl PieceList {
    /// Puts tokens at their ids; gaps must not be larger than the list itself.
    fn place(&mut self, table: HashMap<String, u32>, kind_of: i64, file: &str) -> Result<()> {
        let most = self.texts.len() + 2 * table.len() + 1024;
        for (piece, id) in table {
            let id = id as usize;
            if id >= most {
                return Err(refuse(
                    file,
                    format!("`{piece}` has the id {id}, far past the others"),
                ));
            }
            if id >= self.texts.len() {
                self.texts.resize(id + 1, String::new());
                self.kinds.resize(id + 1, kind::UNUSED);
            }
            self.texts[id] = piece;
            self.kinds[id] = kind_of;
        }
        Ok(())
    }

    /// Adds `added_tokens.json`, and marks the tokens that the configuration calls special.
    fn add(&mut self, added: Option<&[u8]>, config: &Value) -> Result<()> {
        let table = parse("added_tokens.json", added)?;
        let table: Option<HashMap<String, u32>> = serde_json::from_value(table)
            .map_err(|e| refuse("added_tokens.json", e.to_string()))?;
        let table = table.unwrap_or_default();
        self.place(table, kind::USER_DEFINED, "added_tokens.json")?;
        if !self.scores.is_empty() {
            self.scores.resize(self.texts.len(), 0.0);
        }
        let find = |pieces: &[String], text: &str| pieces.iter().position(|p| p == text);
        let more = config["additional_special_tokens"].as_array();
        let more = more
            .into_iter()
            .flatten()
            .filter_map(|token| token.as_str().or_else(|| token["content"].as_str()));
        let named = |key: &str| token_named(config, key);
        let keys = ["bos_token", "eos_token", "unk_token", "pad_token"];
        for text in keys.into_iter().filter_map(named).chain(more) {
            if let Some(id) = find(&self.texts, text) {
                self.kinds[id] = kind::CONTROL;
            }
        }
        let id = |key: &str| Some(find(&self.texts, named(key)?)? as u32);
        self.bos = id("bos_token").or(self.bos);
        self.eos = id("eos_token").or(self.eos);
        self.unknown = id("unk_token").or(self.unknown);
        Ok(())
    }

    /// One `SentencePiece`: text, score, type.
    fn piece(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let (mut text, mut score, mut kind_of) = (String::new(), 0f32, 1);
        for field in Fields(bytes) {
            match field? {
                (1, ProtobufValue::Bytes(piece)) => {
                    text = String::from_utf8(piece.to_vec()).map_err(|_| "a piece is not UTF-8")?;
                }
                (2, ProtobufValue::Four(bits)) => score = f32::from_bits(bits),
                (3, ProtobufValue::Number(kind)) => kind_of = kind as i64,
                _ => {}
            }
        }
        self.texts.push(text);
        self.scores.push(score);
        self.kinds.push(kind_of);
        Ok(())
    }

    /// `TrainerSpec`: the type of model and the special ids.
    fn trainer(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        // Negative ids, which mean "none", are encoded as long two's complements.
        let id = |n: u64| u32::try_from(n).ok();
        for field in Fields(bytes) {
            match field? {
                (3, ProtobufValue::Number(2)) => {}
                (3, ProtobufValue::Number(1)) => {
                    return Err("it is a Unigram model; BPE models are supported");
                }
                (3, _) => return Err("it is a word or character model; BPE models are supported"),
                (40, ProtobufValue::Number(n)) => self.unknown = id(n),
                (41, ProtobufValue::Number(n)) => self.bos = id(n),
                (42, ProtobufValue::Number(n)) => self.eos = id(n),
                _ => {}
            }
        }
        Ok(())
    }

    /// `NormalizerSpec`: how spaces are treated.
    fn normalizer(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        // The default is true.
        let mut collapses = true;
        for field in Fields(bytes) {
            match field? {
                (2, ProtobufValue::Bytes(map)) if !map.is_empty() => {
                    return Err("it maps characters before it splits, which is not supported");
                }
                (3, ProtobufValue::Number(flag)) => self.add_space_prefix = flag != 0,
                (4, ProtobufValue::Number(flag)) => collapses = flag != 0,
                (5, ProtobufValue::Number(0)) => {
                    return Err("it does not mark spaces, which is not supported");
                }
                _ => {}
            }
        }
        if collapses {
            return Err("it collapses spaces, which is not supported");
        }
        Ok(())
    }

    fn built(self, pre: &str) -> Result<BuiltTokenizer> {
        let vocabulary = GgufVocabulary {
            model: self.model,
            pre: Some(pre),
            pieces: self.texts.iter().map(String::as_str).collect(),
            scores: self.scores,
            kinds: self.kinds,
            merges: self
                .merges
                .as_ref()
                .map(|m| m.iter().map(String::as_str).collect()),
            add_bos: Some(self.add_bos),
            add_space_prefix: Some(self.add_space_prefix),
            bos: self.bos,
            ends: self.eos.into_iter().collect(),
            unknown: self.unknown,
            ..GgufVocabulary::default()
        };
        vocabulary.tokenizer()
    }
}

/// A value in a protocol buffer, by its wire type.
enum ProtobufValue<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Four(u32),
    Eight,
}

/// The fields of a protocol buffer in order; ends at the first invalid one.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let count = usize::try_from(count).ok().filter(|n| *n <= self.0.len())?;
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, ProtobufValue<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => ProtobufValue::Number(self.number()?),
            1 => {
                self.take(8)?;
                ProtobufValue::Eight
            }
            2 => {
                let length = self.number()?;
                ProtobufValue::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?.try_into().ok()?;
                ProtobufValue::Four(u32::from_le_bytes(bytes))
            }
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, ProtobufValue<'a>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or("it is damaged or no SentencePiece model"))
    }
}

fn refuse(file: &str, what: String) -> Error {
    Error::Text {
        what: format!("{file} cannot be read: {what}"),
        next: "Put a tokenizer.json beside it (Python's `AutoTokenizer.from_pretrained(...).save_pretrained(...)` makes one), or give token ids with --ids"
            .into(),
    }
}
