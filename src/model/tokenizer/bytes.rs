//! How the tokens of a vocabulary are spelled as bytes.
//!
//! Invariant: the spelling is read from the decoder once, never guessed from a token.
//! To add a kind of decoder, add an arm in [`steps`] and, if it spells tokens in a new way, a [`ByteStep`].

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

/// The most unused ids in a small vocabulary: a wrong id in a file must not exhaust the memory.
const MOST_GAPS: usize = 1 << 18;

/// The parts of `tokenizer.json` that determine how tokens are spelled as bytes.
#[derive(Deserialize)]
pub(super) struct Pipeline {
    #[serde(default)]
    pub decoder: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    /// Whether an added token is spelled literally even if the vocabulary contains it.
    #[serde(skip)]
    pub added_are_letters: bool,
}

/// One step of the conversion from a vocabulary entry to bytes.
enum ByteStep {
    /// Each character stands for a byte, by GPT-2's table.
    ByteLevel(HashMap<char, u8>),
    /// `<0xE2>` is a byte.
    ByteFallback,
    /// A string is replaced by another one: `▁` by a space.
    Replace(String, String),
    /// A word begins with a space, and the continuation of a word with this prefix.
    Prefix(String),
}

/// Reads the steps from the decoder of `tokenizer.json` or, if there is none, from the pre-tokenizer.
fn steps(pipeline: &Pipeline) -> Vec<ByteStep> {
    let source = [&pipeline.decoder, &pipeline.pre_tokenizer]
        .into_iter()
        .find(|part| !part.is_null());
    let mut steps = Vec::new();
    for part in source.map(flat).unwrap_or_default() {
        let string = |key: &str| part[key].as_str().map(str::to_owned);
        match part["type"].as_str() {
            Some("ByteLevel") => steps.push(ByteStep::ByteLevel(byte_characters())),
            Some("ByteFallback") => steps.push(ByteStep::ByteFallback),
            Some("Metaspace") => {
                steps.push(ByteStep::Replace(
                    string("replacement").unwrap_or_else(|| "▁".into()),
                    " ".into(),
                ));
            }
            Some("BPEDecoder") => {
                steps.extend(string("suffix").map(|suffix| ByteStep::Replace(suffix, " ".into())));
            }
            Some("WordPiece") => steps.extend(string("prefix").map(ByteStep::Prefix)),
            Some("Replace") => {
                let from = part["pattern"]["String"].as_str().map(str::to_owned);
                steps.extend(
                    from.zip(string("content"))
                        .map(|(from, to)| ByteStep::Replace(from, to)),
                );
            }
            // The following steps work on the joined text: Llama's decoder removes a leading space.
            Some("Fuse") => break,
            // Splits of a pre-tokenizer, and decoders of speech models, do not affect the spelling.
            _ => {}
        }
    }
    steps
}

/// The parts of a decoder or pre-tokenizer, with all sequences flattened.
fn flat(part: &Value) -> Vec<&Value> {
    match part["decoders"]
        .as_array()
        .or_else(|| part["pretokenizers"].as_array())
    {
        Some(parts) => parts.iter().flat_map(flat).collect(),
        None => vec![part],
    }
}

/// GPT-2's table: printable bytes stand for themselves, the others for the characters from U+0100 on.
pub(super) fn byte_characters() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255).filter(|byte| !printable(byte));
    let others = others.zip('\u{100}'..).map(|(byte, c)| (c, byte));
    (0..=255)
        .filter(printable)
        .map(|byte| (char::from(byte), byte))
        .chain(others)
        .collect()
}

fn spell(piece: &str, steps: &[ByteStep]) -> Vec<u8> {
    let mut piece = piece.to_owned();
    for step in steps {
        match step {
            ByteStep::ByteLevel(table) => {
                let bytes: Option<Vec<u8>> =
                    piece.chars().map(|c| table.get(&c).copied()).collect();
                return bytes.unwrap_or_else(|| piece.into_bytes());
            }
            ByteStep::ByteFallback => {
                let hex = piece
                    .strip_prefix("<0x")
                    .and_then(|rest| rest.strip_suffix('>'))
                    .filter(|hex| hex.len() == 2);
                if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    return vec![byte];
                }
            }
            ByteStep::Replace(from, to) => piece = piece.replace(from.as_str(), to),
            ByteStep::Prefix(prefix) => {
                piece = piece
                    .strip_prefix(prefix.as_str())
                    .map_or_else(|| format!(" {piece}"), str::to_owned);
            }
        }
    }
    piece.into_bytes()
}

/// Builds the table of all tokens' bytes: the bytes, and the end of each token.
///
/// Added tokens are spelled literally, except those that the model's vocabulary contains as well and that are not special:
/// Gemma's runs of `▁`.
pub(super) fn byte_table(
    inner: &tokenizers::Tokenizer,
    pipeline: &Pipeline,
) -> Result<(Vec<u8>, Vec<usize>), String> {
    let steps = steps(pipeline);
    let vocabulary = inner.get_vocab(false);
    let added = inner.get_added_tokens_decoder();
    let size = vocabulary
        .values()
        .chain(added.keys())
        .max()
        .map_or(0, |&id| id as usize + 1);
    // Ids may have gaps, but not more of them than tokens.
    if size > MOST_GAPS + 8 * (vocabulary.len() + added.len()) {
        return Err(format!("it has an id of {}", size - 1));
    }
    let mut pieces: Vec<Vec<u8>> = vec![Vec::new(); size];
    for (piece, &id) in &vocabulary {
        pieces[id as usize] = spell(piece, &steps);
    }
    for (&id, token) in &added {
        if token.special
            || pipeline.added_are_letters
            || vocabulary.get(&token.content) != Some(&id)
        {
            pieces[id as usize] = token.content.clone().into_bytes();
        }
    }
    let ends = std::iter::once(0).chain(pieces.iter().scan(0, |end, piece| {
        *end += piece.len();
        Some(*end)
    }));
    let ends = ends.collect();
    Ok((pieces.concat(), ends))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pipeline(json: Value) -> Pipeline {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn other_decoders() {
        let bytes = |decoder: Value, piece: &str| {
            spell(piece, &steps(&pipeline(json!({"decoder": decoder}))))
        };
        assert_eq!(
            bytes(
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}),
                "▁a"
            ),
            b" a"
        );
        assert_eq!(
            bytes(json!({"type": "BPEDecoder", "suffix": "</w>"}), "a</w>"),
            b"a "
        );
        assert_eq!(
            bytes(
                json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
                "##a"
            ),
            b"a"
        );
        assert_eq!(
            bytes(
                json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
                "a"
            ),
            b" a"
        );
        assert_eq!(bytes(Value::Null, "▁a"), "▁a".as_bytes());
        let only_before = json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]}});
        assert_eq!(spell("Ġa", &steps(&pipeline(only_before))), b" a");
    }
}
