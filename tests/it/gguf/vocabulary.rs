//! A tokenizer of Hugging Face's as a list, and as the metadata of a GGUF file.
//!
//! Invariant: nothing of the reader under test is used. To say another property, add an entry to [`as_gguf`].

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::file::{File, Meta};

/// A vocabulary as a list: pieces with their ids, merges by rank, kinds and scores as SentencePiece has them.
pub struct Listed {
    pub pieces: Vec<(u64, String)>,
    pub merges: Vec<String>,
    pub kinds: Vec<i32>,
    pub scores: Vec<f32>,
    pub config: Value,
}

pub fn listed(folder: &Path) -> Listed {
    let read = |file: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap()
    };
    let (json, config) = (read("tokenizer.json"), read("tokenizer_config.json"));
    let mut pieces: Vec<(u64, String)> = json["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(piece, id)| (id.as_u64().unwrap(), piece.clone()))
        .collect();
    let mut kinds: HashMap<u64, i32> = HashMap::new();
    for token in json["added_tokens"].as_array().unwrap() {
        let (id, content) = (
            token["id"].as_u64().unwrap(),
            token["content"].as_str().unwrap(),
        );
        let kind = match token["special"].as_bool().unwrap() {
            true if content == "<unk>" => 2,
            true => 3,
            false => 4,
        };
        kinds.insert(id, kind);
        if !pieces.iter().any(|(known, _)| *known == id) {
            pieces.push((id, content.to_owned()));
        }
    }
    pieces.sort();
    let merges: Vec<String> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| match merge.as_array() {
            Some(pair) => format!(
                "{} {}",
                pair[0].as_str().unwrap(),
                pair[1].as_str().unwrap()
            ),
            None => merge.as_str().unwrap().to_owned(),
        })
        .collect();
    let rank = |piece: &str| {
        merges
            .iter()
            .position(|merge| merge.replace(' ', "") == piece)
    };
    let scores = pieces
        .iter()
        .map(|(_, piece)| rank(piece).map_or(-1e6, |rank| -(rank as f32)))
        .collect();
    let kinds = pieces
        .iter()
        .map(|(id, piece)| match kinds.get(id) {
            Some(kind) => *kind,
            None if piece.starts_with("<0x") => 6,
            None => 1,
        })
        .collect();
    Listed {
        pieces,
        merges,
        kinds,
        scores,
        config,
    }
}

/// The same vocabulary as a converter writes it into a GGUF file. What such a file cannot say is lost: `lstrip` and
/// `rstrip`, and which of several merges leads to a piece of SentencePiece's.
pub fn as_gguf(
    folder: &Path,
    model: &'static str,
    pre: &'static str,
    more: &[(&'static str, Meta)],
) -> Vec<u8> {
    let Listed {
        pieces,
        merges,
        kinds,
        scores,
        config,
    } = listed(folder);
    let id = |key: &str| {
        let token = config[key]
            .as_str()
            .or_else(|| config[key]["content"].as_str())?;
        let found = pieces.iter().find(|(_, piece)| piece == token)?;
        Some(Meta::U32(found.0 as u32))
    };
    let mut entries = vec![
        ("tokenizer.ggml.model", Meta::Text(model.into())),
        ("tokenizer.ggml.pre", Meta::Text(pre.into())),
        (
            "tokenizer.ggml.tokens",
            Meta::Texts(pieces.iter().map(|(_, piece)| piece.clone()).collect()),
        ),
        ("tokenizer.ggml.token_type", Meta::Ints(kinds)),
    ];
    entries.push(match model {
        "llama" => ("tokenizer.ggml.scores", Meta::Floats(scores)),
        _ => ("tokenizer.ggml.merges", Meta::Texts(merges.clone())),
    });
    let ids = [
        ("tokenizer.ggml.bos_token_id", "bos_token"),
        ("tokenizer.ggml.eos_token_id", "eos_token"),
        ("tokenizer.ggml.unknown_token_id", "unk_token"),
    ];
    entries.extend(
        ids.into_iter()
            .filter_map(|(key, name)| Some((key, id(name)?))),
    );
    entries.extend(more.iter().cloned());
    gguf_of(&entries)
}

pub fn gguf_of(entries: &[(&'static str, Meta)]) -> Vec<u8> {
    let metadata = entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()));
    File {
        metadata: metadata.collect(),
        tensors: Vec::new(),
    }
    .bytes()
}
