//! Converts text to token ids, and token ids to bytes.
//!
//! Invariant: the concatenated bytes of the tokens are the text, whatever the tokenizer's kind; how a token is spelled is read
//! from the decoder in `tokenizer.json` once, never guessed from a token (`bytes.rs`).
//! To add a file that says something about tokens, add a field to [`TokenizerFiles`].
//!
//! Ids agree with Python's `tokenizer(text)`. A BOS comes from the post-processor in `tokenizer.json`; in addition,
//! `add_bos_token: true` in `tokenizer_config.json` is honoured. transformers 4 does so only for the Llama classes, and
//! transformers 5 ignores the key if there is a `tokenizer.json`: for such a model they begin without the BOS that the
//! configuration asks for. `add_bos_token: false` and `add_eos_token` are not read, as in transformers 5.

mod added;
mod bytes;
mod check;
pub mod encoding;
mod gguf;
mod legacy;
mod pre_tokenizers;
pub mod template;

use std::sync::OnceLock;

use serde_json::Value;

use self::bytes::{Pipeline, byte_table};
pub use self::legacy::Older;
use super::checkpoint::gguf::Gguf;
use crate::error::{Error, Result};
use crate::text;

/// The special tokens that a configuration may name, and that a template may print.
pub(crate) const SPECIALS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Whether special tokens are added around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bos {
    /// As Python's `tokenizer(text)`, for prompts as users write them. A text that begins with the BOS gets a second one, as in
    /// Python.
    Add,
    /// No special tokens are added: for text that contains them already, such as a rendered chat template, and for parts of a
    /// text.
    Raw,
}

/// The contents of a folder's small files that concern tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// The files of older folders, used in place of `tokenizer`.
    pub older: Option<Older<'a>>,
    /// `added_tokens.json`, used if `tokenizer_config.json` has no `added_tokens_decoder`.
    pub added: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`, of older models.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `generation_config.json`, for the end tokens.
    pub generation: Option<&'a [u8]>,
    /// `config.json`, for what `generation_config.json` does not contain.
    pub config: Option<&'a [u8]>,
}

/// A tokenizer with the bytes of all its tokens.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// A tokenizer that treats special tokens in a text as plain letters; made when it is first needed.
    literal: OnceLock<tokenizers::Tokenizer>,
    /// The concatenated bytes of all tokens.
    bytes: Vec<u8>,
    /// The end of each token in `bytes`; `[vocab_size + 1]`, starting with 0.
    ends: Vec<usize>,
    special: Vec<bool>,
    bos: Option<u32>,
    /// Whether `bos` is added before the post-processor's result.
    prepend_bos: bool,
    eos: Vec<u32>,
    /// Notes for the user on how the files were read.
    pub remarks: Vec<String>,
}

impl Tokenizer {
    /// Reads a tokenizer from the small files of a folder.
    pub fn from_files(files: &TokenizerFiles) -> Result<Self> {
        let config = parse("tokenizer_config.json", files.tokenizer_config)?;
        let map = parse("special_tokens_map.json", files.special_tokens_map)?;
        let config = with_special_tokens_map(config, &map);
        let (mut inner, pipeline) = match &files.older {
            Some(older) => {
                let built = older.read(&config)?;
                (built.inner, built.pipeline)
            }
            None => from_json(files.tokenizer)?,
        };
        let generation = parse("generation_config.json", files.generation)?;
        let model = parse("config.json", files.config)?;

        // A file may contain the truncation and padding of its training run; Python ignores both unless asked.
        inner.with_truncation(None).map_err(|e| unreadable(&e))?;
        inner.with_padding(None);
        let remarks = added::add(&mut inner, &config, files.added).map_err(|e| match e {
            added::AddTokensError::File(error) => error,
            added::AddTokensError::Tokenizer(error) => unreadable(&error),
        })?;

        let named =
            |key: &str| token_named(&config, key).and_then(|token| inner.token_to_id(token));
        // Older models have the ids only in config.json; multimodal ones, in its text part.
        let said = |key: &str| {
            [&generation[key], &model[key], &model["text_config"][key]]
                .into_iter()
                .map(ids)
                .find(|ids| !ids.is_empty())
                .unwrap_or_default()
        };
        // Qwen says `bos_token: null` on purpose, although its generation config names an id.
        let bos = match config.get("bos_token") {
            Some(_) => named("bos_token"),
            None => said("bos_token_id").first().copied(),
        };
        let mut eos = said("eos_token_id");
        eos.extend(named("eos_token").filter(|id| !eos.contains(id)));
        let around = inner.encode_fast("", true).map_err(|e| unreadable(&e))?;
        let prepend_bos = config["add_bos_token"] == true
            && bos.is_some_and(|bos| !around.get_ids().contains(&bos));
        let mut new =
            Self::new(inner, &pipeline, bos, prepend_bos, eos).map_err(|e| unreadable(&e))?;
        new.remarks = remarks;
        Ok(new)
    }

    /// Reads the tokenizer in the metadata of a GGUF file.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let built = gguf::GgufVocabulary::read(gguf)?.tokenizer()?;
        Self::new(built.inner, &built.pipeline, built.bos, false, built.eos)
            .map_err(|e| unreadable(&e))
    }

    fn new(
        inner: tokenizers::Tokenizer,
        pipeline: &Pipeline,
        bos: Option<u32>,
        prepend_bos: bool,
        eos: Vec<u32>,
    ) -> Result<Self, String> {
        let (bytes, ends) = byte_table(&inner, pipeline)?;
        let mut special = vec![false; ends.len() - 1];
        for (id, token) in inner.get_added_tokens_decoder() {
            special[id as usize] = token.special;
        }
        Ok(Self {
            inner,
            literal: OnceLock::new(),
            bytes,
            ends,
            special,
            bos,
            prepend_bos,
            eos,
            remarks: Vec::new(),
        })
    }

    /// The ids of a text; special tokens that it contains are recognised, as in Python.
    pub fn encode(&self, text: &str, bos: Bos) -> Result<Vec<u32>> {
        let ids = encode(&self.inner, text, bos == Bos::Add)?;
        Ok(match (bos, self.bos) {
            (Bos::Add, Some(id)) if self.prepend_bos => std::iter::once(id).chain(ids).collect(),
            (Bos::Add | Bos::Raw, _) => ids,
        })
    }

    /// The ids of a text in which `<|end|>` and similar are plain letters: for text that must not act as a turn mark. No BOS is
    /// added.
    pub fn encode_literal(&self, text: &str) -> Result<Vec<u32>> {
        let literal = self.literal.get_or_init(|| {
            let mut literal = self.inner.clone();
            literal.set_encode_special_tokens(true);
            literal
        });
        encode(literal, text, false)
    }

    /// The bytes of a token, often not whole characters; empty for an id without a token, as in a padded vocabulary.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.ends.get(id), self.ends.get(id + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start..end],
            _ => &[],
        }
    }

    /// A token as [`text::visible`] spells it, or `[151999]` for an id without bytes.
    pub fn visible(&self, id: u32) -> String {
        match self.bytes(id) {
            [] => format!("[{id}]"),
            bytes => text::visible(bytes),
        }
    }

    /// Whether an id has a token; rows of an unembedding may have none.
    pub fn knows(&self, id: u32) -> bool {
        !self.bytes(id).is_empty() || self.inner.id_to_token(id).is_some()
    }

    /// The highest id plus one. The model's unembedding may have more rows, as padding.
    pub fn vocab_size(&self) -> usize {
        self.special.len()
    }

    /// Whether a token is special; the same letters typed by a user are not.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The name of the tokenizer's algorithm.
    pub fn kind(&self) -> &'static str {
        use tokenizers::{DecoderWrapper as Decoder, ModelWrapper as Kind};
        match (self.inner.get_model(), self.inner.get_decoder()) {
            (Kind::BPE(bpe), _) if bpe.byte_fallback => "BPE with byte fallback",
            (Kind::BPE(_), Some(Decoder::ByteLevel(_))) => "byte-level BPE",
            (Kind::BPE(_), _) => "BPE",
            (Kind::Unigram(_), _) => "unigram",
            (Kind::WordPiece(_), _) => "word pieces",
            (Kind::WordLevel(_), _) => "whole words",
        }
    }

    /// The begin token, if the model has one; [`Bos::Add`] does not always add it.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end an answer.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The id of a token in the vocabulary's spelling (`ĠParis`, `▁Paris`, `<|end|>`).
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    /// The id of a text that is a single token, without BOS.
    ///
    /// ` Paris` also finds `▁Paris`, for tokenizers that add a space before a text themselves.
    pub fn single(&self, text: &str) -> Result<u32> {
        let ids = self.encode(text, Bos::Raw)?;
        if let [id] = ids[..] {
            return Ok(id);
        }
        if let Some(word) = text.strip_prefix(' ')
            && let [id] = self.encode(word, Bos::Raw)?[..]
            && self.bytes(id) == text.as_bytes()
        {
            return Ok(id);
        }
        let pieces: Vec<String> = ids.iter().map(|&id| self.visible(id)).collect();
        Err(Error::Text {
            what: match pieces.len() {
                0 => "An empty text has no token".to_owned(),
                n => format!(
                    "`{}` is not one token but {n}: {}",
                    text::plain(text.as_bytes()),
                    pieces.join(" | ")
                ),
            },
            next: "Give a text that is one token; a leading space often makes the difference"
                .into(),
        })
    }

    /// Tokens as prose that is safe to show; special tokens are spelled out.
    pub fn text(&self, ids: &[u32]) -> String {
        text::plain(&self.join(ids))
    }

    /// The concatenated bytes of tokens, unchanged: for files and pipes.
    pub fn join(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|&id| self.bytes(id)).copied().collect()
    }
}

/// Parses a `tokenizer.json`: the tokenizer, and the parts that determine the spelling of its tokens.
fn from_json(json: &[u8]) -> Result<(tokenizers::Tokenizer, Pipeline)> {
    let pipeline: Pipeline = serde_json::from_slice(json).map_err(|e| unreadable(&e))?;
    let suspects = serde_json::from_slice(json).map_err(|e| unreadable(&e))?;
    if let Some(why) = check::refusal(&suspects) {
        return Err(unreadable(&why));
    }
    let inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| unreadable(&e))?;
    Ok((inner, pipeline))
}

fn unreadable(why: &dyn std::fmt::Display) -> Error {
    Error::Text {
        what: format!("tokenizer.json cannot be read: {why}"),
        next: "Download it again, or save it with a current version of the Python `tokenizers`"
            .into(),
    }
}

/// Encodes a text, with or without the post-processor's special tokens.
fn encode(tokenizer: &tokenizers::Tokenizer, text: &str, around: bool) -> Result<Vec<u32>> {
    let encoding = tokenizer
        .encode_fast(text, around)
        .map_err(|e| Error::Text {
            what: format!("The text cannot be encoded: {e}"),
            next: "Give ids with --ids, or check tokenizer.json".into(),
        })?;
    Ok(encoding.get_ids().to_vec())
}

/// Parses a JSON file; a missing file is treated as empty.
pub(crate) fn parse(name: &str, contents: Option<&[u8]>) -> Result<Value> {
    contents.map_or(Ok(Value::Null), |bytes| {
        serde_json::from_slice(bytes).map_err(|e| Error::Text {
            what: format!("{name} is not JSON: {e}"),
            next: "Download it again".into(),
        })
    })
}

/// A special token of `tokenizer_config.json`: a string, or the `content` of an object.
pub(crate) fn token_named<'a>(config: &'a Value, key: &str) -> Option<&'a str> {
    config[key]
        .as_str()
        .or_else(|| config[key]["content"].as_str())
}

/// Adds the special tokens of an older model's `special_tokens_map.json` to its `tokenizer_config.json`. As in Python, they
/// count only if the newer key `added_tokens_decoder` is missing, and then take precedence.
pub(crate) fn with_special_tokens_map(config: Value, map: &Value) -> Value {
    let mut config = if let Value::Object(config) = config {
        config
    } else {
        serde_json::Map::new()
    };
    if let Value::Object(map) = map
        && !config.contains_key("added_tokens_decoder")
    {
        config.extend(map.clone());
    }
    Value::Object(config)
}

/// A single id or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array().map_or_else(
        || one(value).into_iter().collect(),
        |list| list.iter().filter_map(one).collect(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::bytes::byte_characters;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::HashMap;

    /// A special token of `tokenizer.json`.
    fn special(id: usize, content: &str) -> Value {
        added(id, content, true)
    }

    fn added(id: usize, content: &str, special: bool) -> Value {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": special})
    }

    /// A post-processor that adds one token before a text.
    fn before(id: usize, token: &str) -> Value {
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        json!({"type": "TemplateProcessing",
               "single": [{"SpecialToken": {"id": token, "type_id": 0}}, text],
               "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
               "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}})
    }

    /// A tokenizer like GPT-2's: the 256 bytes in order, a few merges, `<|end|>` and an added double space.
    fn byte_level() -> Value {
        let mut vocab: HashMap<String, usize> = byte_characters()
            .into_iter()
            .map(|(c, byte)| (c.to_string(), usize::from(byte)))
            .collect();
        let merges = ["Ġ t", "h e", "Ġt he", "ð Ł"];
        for (i, merge) in merges.iter().enumerate() {
            vocab.insert(merge.replace(' ', ""), 256 + i);
        }
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        json!({"version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
               "padding": null, "added_tokens": [special(260, "<|end|>"), added(261, "  ", false)],
               "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
               "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                         "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges}})
    }

    /// A tokenizer like Llama 2's: `▁` for spaces and before a text, bytes for text without a token, `<s>` before everything.
    fn sentence_piece() -> Value {
        let mut vocab: HashMap<String, usize> = HashMap::new();
        let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
        let pieces = ["▁", "a", "b", "c", "é", "▁a", "▁ab", "▁▁"].map(str::to_owned);
        for piece in ["<unk>", "<s>", "</s>"]
            .map(str::to_owned)
            .into_iter()
            .chain(bytes)
            .chain(pieces)
        {
            vocab.insert(piece, vocab.len());
        }
        json!({"version": "1.0", "truncation": null, "padding": null,
               "added_tokens": [special(0, "<unk>"), special(1, "<s>"), added(vocab["▁▁"], "▁▁", false)],
               "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                   {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
               "pre_tokenizer": null, "post_processor": before(1, "<s>"),
               "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                   {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
               "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                         "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                         "merges": ["▁ a", "▁a b", "▁ ▁"]}})
    }

    fn load(json: &Value, config: &str, generation: &str) -> Tokenizer {
        let json = serde_json::to_vec(json).unwrap();
        let files = TokenizerFiles {
            tokenizer: &json,
            tokenizer_config: Some(config.as_bytes()),
            generation: Some(generation.as_bytes()),
            ..TokenizerFiles::default()
        };
        Tokenizer::from_files(&files).unwrap()
    }

    fn spelled(tokenizer: &Tokenizer, text: &str, bos: Bos) -> Vec<String> {
        tokenizer
            .encode(text, bos)
            .unwrap()
            .into_iter()
            .map(|id| tokenizer.visible(id))
            .collect()
    }

    #[test]
    fn byte_level_pieces_are_bytes() {
        let t = load(&byte_level(), "{}", "{}");
        assert_eq!(
            spelled(&t, " the\u{e9}", Bos::Add),
            ["␣the", "⟨c3⟩", "⟨a9⟩"]
        );
        assert_eq!(
            (0..=255)
                .flat_map(|id| t.bytes(id).to_vec())
                .collect::<Vec<u8>>(),
            (0..=255).collect::<Vec<u8>>()
        );
        assert_eq!(
            (t.id("Ġthe"), t.bytes(258), t.vocab_size()),
            (Some(258), &b" the"[..], 262)
        );
        assert_eq!(
            (t.bytes(261), t.bytes(262), t.visible(262).as_str()),
            (&b"  "[..], &b""[..], "[262]")
        );
        assert_eq!(
            t.encode("truncation is off here", Bos::Raw).unwrap().len(),
            21
        );
        assert_eq!(t.text(&[258, 27, 260]), " the␛<|end|>");
    }

    #[test]
    fn an_emoji_over_three_tokens_joins() {
        let t = load(&byte_level(), "{}", "{}");
        let ids = t.encode("👍", Bos::Raw).unwrap();
        assert_eq!(
            ids.iter().map(|&id| t.visible(id)).collect::<Vec<_>>(),
            ["⟨f0 9f⟩", "⟨91⟩", "⟨8d⟩"]
        );
        let mut stream = text::TextStream::default();
        let said: Vec<String> = ids.iter().map(|&id| stream.push(t.bytes(id))).collect();
        assert_eq!(said, ["", "", "👍"]);
        assert_eq!(t.text(&ids), "👍");
    }

    #[test]
    fn sentence_pieces_are_bytes() {
        let t = load(&sentence_piece(), "{}", "{}");
        assert_eq!(
            spelled(&t, "ab é👍", Bos::Add),
            ["<s>", "␣ab", "␣", "é", "⟨f0⟩", "⟨9f⟩", "⟨91⟩", "⟨8d⟩"]
        );
        assert_eq!(t.bytes(t.id("▁▁").unwrap()), b"  ");
        assert_eq!(t.bytes(t.id("<0x0A>").unwrap()), b"\n");
        assert_eq!(t.bytes(t.id("<s>").unwrap()), b"<s>");
    }

    #[test]
    fn who_adds_the_bos() {
        let encode = |t: &Tokenizer, bos| t.encode("a", bos).unwrap();
        let plain = load(&byte_level(), r#"{"bos_token": "<|end|>"}"#, "{}");
        assert_eq!(
            (encode(&plain, Bos::Add), plain.bos()),
            (vec![97], Some(260))
        );
        let asked = load(
            &byte_level(),
            r#"{"bos_token": {"content": "<|end|>"}, "add_bos_token": true}"#,
            "{}",
        );
        assert_eq!(
            (encode(&asked, Bos::Add), encode(&asked, Bos::Raw)),
            (vec![260, 97], vec![97])
        );
        let mut json = byte_level();
        json["post_processor"] = before(260, "<|end|>");
        for config in [
            r#"{"bos_token": "<|end|>", "add_bos_token": true}"#,
            r#"{"add_bos_token": false}"#,
        ] {
            let both = load(&json, config, "{}");
            assert_eq!(
                (encode(&both, Bos::Add), encode(&both, Bos::Raw)),
                (vec![260, 97], vec![97])
            );
        }
        let nameless = load(&byte_level(), r#"{"add_bos_token": true}"#, "{}");
        assert_eq!(
            (encode(&nameless, Bos::Add), nameless.bos()),
            (vec![97], None)
        );
    }

    #[test]
    fn ids_of_the_ends() {
        let t = load(
            &byte_level(),
            r#"{"eos_token": "<|end|>"}"#,
            r#"{"eos_token_id": [97, 98], "bos_token_id": 99}"#,
        );
        assert_eq!((t.eos(), t.bos()), (&[97, 98, 260][..], Some(99)));
        let t = load(
            &byte_level(),
            r#"{"eos_token": "<|end|>", "bos_token": null}"#,
            r#"{"eos_token_id": 260, "bos_token_id": 99}"#,
        );
        assert_eq!((t.eos(), t.bos()), (&[260][..], None));
        assert_eq!(load(&byte_level(), "{}", "{}").eos(), &[] as &[u32]);
    }

    #[test]
    fn special_tokens_in_a_text() {
        let t = load(
            &byte_level(),
            r#"{"unk_token": "he", "pad_token": "nowhere"}"#,
            "{}",
        );
        assert_eq!(spelled(&t, "a<|end|>", Bos::Raw), ["a", "<|end|>"]);
        assert_eq!(t.encode_literal("a<|end|>").unwrap().len(), 8);
        assert_eq!(t.join(&t.encode_literal("<|end|>").unwrap()), b"<|end|>");
        assert!(
            t.is_special(260) && t.is_special(257),
            "the second only because the configuration says so"
        );
        assert!(!t.is_special(97) && !t.is_special(261) && !t.is_special(999));
        // A named token that is not in the vocabulary gets the next id, as in Python, whether or not the model has a row for
        // it.
        assert_eq!((t.vocab_size(), t.id("nowhere")), (263, Some(262)));
    }

    #[test]
    fn one_token_or_how_it_splits() {
        let t = load(&byte_level(), "{}", "{}");
        assert_eq!(t.single(" the").unwrap(), 258);
        let split = t.single("the x").unwrap_err().to_string();
        assert!(
            split.starts_with("`the x` is not one token but 4: t | he | ␣ | x. Give"),
            "{split}"
        );
        assert!(t.single("").is_err());
        let t = load(&sentence_piece(), "{}", "{}");
        assert_eq!(t.single(" ab").unwrap(), t.id("▁ab").unwrap());
        assert_eq!(t.single("ab").unwrap(), t.id("▁ab").unwrap());
    }

    #[test]
    fn broken_files_say_which() {
        let error = |files: TokenizerFiles| Tokenizer::from_files(&files).unwrap_err().to_string();
        let broken = error(TokenizerFiles {
            tokenizer: b"{",
            ..TokenizerFiles::default()
        });
        assert!(
            broken.starts_with("tokenizer.json cannot be read"),
            "{broken}"
        );
        let mut json = byte_level();
        json["model"]["vocab"]["far"] = json!(4_000_000_000_u32);
        let tokenizer = &serde_json::to_vec(&json).unwrap();
        let far = error(TokenizerFiles {
            tokenizer,
            ..TokenizerFiles::default()
        });
        assert!(far.contains("an id of 4000000000"), "{far}");
        let tokenizer = &serde_json::to_vec(&byte_level()).unwrap();
        let generation = Some(&b"["[..]);
        let broken = error(TokenizerFiles {
            tokenizer,
            generation,
            ..TokenizerFiles::default()
        });
        assert!(
            broken.starts_with("generation_config.json is not JSON"),
            "{broken}"
        );
    }

    #[test]
    fn ends_of_older_models() {
        let tokenizer = &serde_json::to_vec(&byte_level()).unwrap();
        let ends = |generation: &str, config: &str, map: Option<&str>| {
            let tokenizer = Tokenizer::from_files(&TokenizerFiles {
                tokenizer,
                tokenizer_config: None,
                special_tokens_map: map.map(str::as_bytes),
                generation: Some(generation.as_bytes()),
                config: Some(config.as_bytes()),
                older: None,
                added: None,
            });
            let tokenizer = tokenizer.unwrap();
            (tokenizer.bos(), tokenizer.eos().to_vec())
        };
        let ids = r#"{"eos_token_id": [97, 98], "bos_token_id": 99}"#;
        assert_eq!(ends("{}", ids, None), (Some(99), vec![97, 98]));
        assert_eq!(
            ends(r#"{"eos_token_id": 7}"#, ids, None),
            (Some(99), vec![7])
        );
        let text = r#"{"text_config": {"eos_token_id": 96}}"#;
        assert_eq!(ends("{}", text, None), (None, vec![96]));
        let map = r#"{"eos_token": {"content": "<|end|>"}, "bos_token": "a"}"#;
        assert_eq!(ends("{}", ids, Some(map)), (Some(97), vec![97, 98, 260]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn byte_level_tokens_are_the_text(given in "(\\PC|[ \n\t]|<\\|end\\|>| the|👍){0,24}") {
            let t = load(&byte_level(), "{}", "{}");
            for ids in [t.encode(&given, Bos::Raw).unwrap(), t.encode_literal(&given).unwrap()] {
                prop_assert_eq!(&t.join(&ids), given.as_bytes());
                prop_assert_eq!(t.inner.decode(&ids, false).unwrap(), given.clone());
                prop_assert_eq!(t.text(&ids), text::plain(given.as_bytes()));
            }
        }

        #[test]
        fn sentence_piece_tokens_are_the_text(given in "[^▁\\x00]([^▁\\x00]|[ abc\n]|👍){0,24}") {
            let t = load(&sentence_piece(), "{}", "{}");
            let ids = t.encode(&given, Bos::Raw).unwrap();
            prop_assert_eq!(t.join(&ids), format!(" {given}").into_bytes());
            prop_assert_eq!(t.inner.decode(&ids, false).unwrap(), given);
        }
    }
}
