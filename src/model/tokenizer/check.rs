//! Refuses `tokenizer.json` files on which the `tokenizers` crate would panic or exhaust the memory: in a few places it trusts
//! the file, and the file may contradict itself.
//!
//! Invariant: a file that passes can be built and used without a panic, and a text grows at most by a constant factor. To
//! refuse something else, add a line to [`refusal`], and the file that showed it to fuzz/corpus/tokenizer/.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The most bytes that all replacements of a file together may make of one byte; `▁` for a space makes three.
const MOST_GROWTH: usize = 256;

/// The parts of a `tokenizer.json` that are checked.
#[derive(Deserialize)]
pub(super) struct ExpansionRisk {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    model: TokenizerModel,
}

#[derive(Default, Deserialize)]
struct TokenizerModel {
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    vocab: PieceLengths,
    #[serde(default)]
    merges: PieceLengths,
}

/// The lengths in bytes of the entries of a vocabulary or of a list of merges.
#[derive(Clone, Copy, Default)]
struct PieceLengths {
    /// The longest key of a map, or pair of a list.
    longest: usize,
    /// The smallest number of ASCII characters with which the second part of any pair begins.
    ascii: Option<usize>,
}

/// What is wrong with a file, if anything is.
pub(super) fn refusal(suspects: &ExpansionRisk) -> Option<String> {
    let model = &suspects.model;
    let (piece, merge) = (model.vocab.longest, model.merges.longest);
    if merge > piece {
        return Some(format!(
            "a merge makes a piece of {merge} bytes, and the longest piece has {piece}"
        ));
    }
    let prefix = model.continuing_subword_prefix.as_str().unwrap_or_default();
    // The crate cuts off the prefix by its length, without comparing it.
    if !prefix.is_empty() && model.merges.ascii.is_some_and(|n| n < prefix.len()) {
        return Some(format!("a merge lacks the prefix `{prefix}`"));
    }
    if let Some(token) = flat(&suspects.post_processor, "processors")
        .into_iter()
        .find_map(unlisted)
    {
        return Some(format!(
            "its post_processor puts `{token}` around a text and has no id for it"
        ));
    }
    for (part, list) in [
        (&suspects.normalizer, "normalizers"),
        (&suspects.decoder, "decoders"),
    ] {
        let grown = flat(part, list)
            .into_iter()
            .fold(1usize, |all, step| all.saturating_mul(growth(step)));
        if grown > MOST_GROWTH {
            return Some(format!(
                "its {list} turn one byte into {grown}; at most {MOST_GROWTH} are accepted"
            ));
        }
    }
    None
}

/// The steps of a part, with all sequences flattened.
fn flat<'a>(part: &'a Value, list: &str) -> Vec<&'a Value> {
    match part[list].as_array() {
        Some(steps) => steps.iter().flat_map(|step| flat(step, list)).collect(),
        None => vec![part],
    }
}

/// The most bytes that a replacement makes of one byte.
fn growth(step: &Value) -> usize {
    let content = step["content"].as_str().unwrap_or_default().len();
    let Value::Object(pattern) = &step["pattern"] else {
        return 1;
    };
    match pattern.get("String").and_then(Value::as_str) {
        Some(from) if !from.is_empty() => content.div_ceil(from.len()).max(1),
        // A pattern may match the empty text, before every character.
        _ => content + 1,
    }
}

/// The first token that a post-processor's template uses without declaring it.
fn unlisted(processor: &Value) -> Option<&str> {
    let listed: HashSet<&String> = processor["special_tokens"]
        .as_object()
        .map(|tokens| tokens.keys().collect())
        .unwrap_or_default();
    let pieces = ["single", "pair"].map(|key| processor[key].as_array());
    let mut named = pieces
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|piece| piece["SpecialToken"]["id"].as_str());
    named.find(|token| !listed.contains(&(*token).to_owned()))
}

impl<'de> Deserialize<'de> for PieceLengths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PiecesVisitor)
    }
}

struct PiecesVisitor;

impl<'de> Visitor<'de> for PiecesVisitor {
    type Value = PieceLengths;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("pieces or merges")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PieceLengths, A::Error> {
        let mut pieces = PieceLengths::default();
        while let Some(length) = map.next_key_seed(TextLength)? {
            pieces.longest = pieces.longest.max(length);
            map.next_value::<IgnoredAny>()?;
        }
        Ok(pieces)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PieceLengths, A::Error> {
        let mut pieces = PieceLengths::default();
        while let Some(MergeRule { whole, ascii }) = list.next_element()? {
            pieces.longest = pieces.longest.max(whole);
            pieces.ascii = Some(pieces.ascii.map_or(ascii, |least| least.min(ascii)));
        }
        Ok(pieces)
    }

    fn visit_unit<E>(self) -> Result<PieceLengths, E> {
        Ok(PieceLengths::default())
    }
    fn visit_bool<E>(self, _: bool) -> Result<PieceLengths, E> {
        Ok(PieceLengths::default())
    }
    fn visit_i64<E>(self, _: i64) -> Result<PieceLengths, E> {
        Ok(PieceLengths::default())
    }
    fn visit_u64<E>(self, _: u64) -> Result<PieceLengths, E> {
        Ok(PieceLengths::default())
    }
    fn visit_f64<E>(self, _: f64) -> Result<PieceLengths, E> {
        Ok(PieceLengths::default())
    }
    fn visit_str<E>(self, _: &str) -> Result<PieceLengths, E> {
        Ok(PieceLengths::default())
    }
}

/// Reads a string and keeps only its length.
struct TextLength;

impl<'de> DeserializeSeed<'de> for TextLength {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        struct TextJson;
        impl Visitor<'_> for TextJson {
            type Value = usize;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<usize, E> {
                Ok(text.len())
            }
        }
        deserializer.deserialize_str(TextJson)
    }
}

/// A merge: `"a b"` or `["a", "b"]`. Anything else, such as an entry of a Unigram vocabulary, has no length.
struct MergeRule {
    whole: usize,
    /// The number of ASCII characters with which the second part begins.
    ascii: usize,
}

impl<'de> Deserialize<'de> for MergeRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum TokenizerJson {
            Line(String),
            Parts(String, String),
            Other(IgnoredAny),
        }
        let of = |first: &str, second: &str| Self {
            whole: first.len() + second.len(),
            ascii: second.bytes().take_while(u8::is_ascii).count(),
        };
        Ok(match TokenizerJson::deserialize(deserializer)? {
            TokenizerJson::Line(line) => {
                let (first, second) = line.split_once(' ').unwrap_or((&line, ""));
                of(first, second)
            }
            TokenizerJson::Parts(first, second) => of(&first, &second),
            TokenizerJson::Other(_) => Self {
                whole: 0,
                ascii: usize::MAX,
            },
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(file: Value) -> Option<String> {
        refusal(&serde_json::from_str(&file.to_string()).unwrap())
    }

    #[test]
    fn merges_longer_than_every_piece() {
        let vocab = json!({"ab": 0, "é": 1});
        for merges in [
            json!(["a b"]),
            json!([["a", "b"]]),
            json!([]),
            json!(null),
            json!(7),
        ] {
            assert_eq!(
                told(json!({"model": {"vocab": vocab, "merges": merges}})),
                None
            );
        }
        for merges in [json!(["a é"]), json!([["a", "bc"]])] {
            let wrong = told(json!({"model": {"vocab": vocab, "merges": merges}})).unwrap();
            assert!(wrong.contains("a piece of 3 bytes"), "{wrong}");
        }
        let vocab = json!({"a": 0, "##b": 1, "a##b": 2});
        for (second, right) in [("##b", true), ("b", false), ("é", false)] {
            let merges = json!([["a", second]]);
            let model =
                json!({"vocab": vocab, "merges": merges, "continuing_subword_prefix": "##"});
            let wrong = told(json!({"model": model}));
            assert_eq!(wrong.is_none(), right, "{second}: {wrong:?}");
        }
        assert_eq!(told(json!({"model": {"vocab": [["a", -1.0]]}})), None);
    }

    #[test]
    fn tokens_without_an_id() {
        let piece = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
        let processor = |tokens: Value| {
            let one = json!({"type": "TemplateProcessing", "single": [], "pair": [piece], "special_tokens": tokens});
            told(json!({"post_processor": {"type": "Sequence", "processors": [one]}}))
        };
        assert_eq!(
            processor(json!({"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}})),
            None
        );
        assert!(processor(json!({})).unwrap().contains("`<s>`"));
    }

    #[test]
    fn replacements_that_explode() {
        let step = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let steps = |n: usize| json!({"type": "Sequence", "normalizers": vec![step.clone(); n]});
        assert_eq!(told(json!({"normalizer": steps(8)})), None);
        assert!(
            told(json!({"normalizer": steps(9)}))
                .unwrap()
                .contains("one byte into 512")
        );
        let nothing =
            json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "a".repeat(300)});
        assert!(told(json!({"decoder": nothing})).unwrap().contains("301"));
        assert_eq!(
            told(
                json!({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}})
            ),
            None
        );
    }
}
