//! Which files of a repository belong to a model.
//!
//! Invariant: a name from the hub or from an index is a path inside the snapshot's folder, or it is refused. To fetch another
//! small file, add its name to [`SMALL`].

use std::path::{Component, Path};

use serde_json::Value;

use super::{Reference, is_gguf};
use crate::error::{Error, Result};
use crate::model::checkpoint::folder;
use crate::text;

/// The small files that are fetched if a repository has them.
pub const SMALL: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    ADAPTER,
    "chat_template.jinja",
    "tokenizer.json",
];

/// The configuration of an adapter: fetched to describe it and to name its base model.
pub const ADAPTER: &str = "adapter_config.json";

/// The files that are fetched if there is no `tokenizer.json`.
const OLDER: [&str; 3] = ["vocab.json", "merges.txt", "tokenizer.model"];

/// The weights in order of preference: a single file, or an index of shards.
pub const WEIGHTS: &[&str] = &[
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The most names that an error lists.
const LISTED: usize = 12;

/// Whether a path stays inside the folder to which it is joined.
pub fn is_safe(name: &str) -> bool {
    let plain = |c: char| !c.is_control() && !"\\:".contains(c);
    !name.is_empty()
        && name.len() < 512
        && name.chars().all(plain)
        && name.split('/').all(|part| !part.is_empty() && part != ".")
        && Path::new(name)
            .components()
            .all(|c| matches!(c, Component::Normal(_)))
}

/// Whether a file is an index of shards.
pub fn is_index(name: &str) -> bool {
    name.ends_with(".index.json")
}

/// Whether a file contains weights, so that its length is not limited.
pub fn is_weights(name: &str) -> bool {
    let path = Path::new(name);
    let ends = |with: &str| {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case(with))
    };
    ["safetensors", "bin", "gguf", "npz", "pt", "pth"]
        .into_iter()
        .any(ends)
}

/// The files of a repository for a reference: the small ones, then the weights or their index.
pub fn choose(reference: &Reference, names: &[String]) -> Result<Vec<String>> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let refuse = |what: String, next: String| Err(Error::Hub { what, next });
    let id = &reference.id;
    if let Some(file) = &reference.file {
        return if has(file) {
            Ok(vec![file.clone()])
        } else {
            refuse(
                format!("`{id}` has no file {file}"),
                format!("Its GGUF files are: {}", listed(&gguf(names))),
            )
        };
    }
    let quantized = gguf(names);
    let weights = WEIGHTS.iter().find(|w| has(w));
    match (has("config.json"), weights) {
        (true, Some(weights)) => {
            let small = SMALL.iter().filter(|s| has(s));
            let bare = !has("tokenizer.json");
            let older = OLDER.iter().filter(|o| bare && has(o));
            let all = small.chain(older).chain([weights]);
            Ok(all.map(ToString::to_string).collect())
        }
        (_, None) if !quantized.is_empty() => refuse(
            format!("`{id}` holds GGUF files, and one of them must be chosen"),
            format!(
                "Name it, as in {id}/{}. There are: {}",
                quantized[0],
                listed(&quantized)
            ),
        ),
        (_, _) if has(ADAPTER) => {
            let (what, next) = folder::adapter(&Value::Null);
            refuse(format!("`{id}` is {what}"), format!("{next}."))
        }
        (false, _) => match folder::by_names(names, None) {
            Some((what, next)) => refuse(format!("`{id}` holds {what}"), format!("{next}.")),
            None => refuse(
                format!(
                    "`{id}` has no config.json, so it is not a model in the layout of transformers"
                ),
                "Look for one that is, or for its GGUF files.".into(),
            ),
        },
        (true, None) => match folder::by_names(names, None) {
            Some((what, next)) => refuse(format!("`{id}` holds {what}"), format!("{next}.")),
            None => refuse(
                format!("`{id}` has neither model.safetensors, pytorch_model.bin nor GGUF files"),
                "Look for a repository with one of these; its page lists conversions.".into(),
            ),
        },
    }
}

/// Whether a repository contains only an adapter.
pub fn is_adapter(names: &[String]) -> bool {
    let has = |name: &str| names.iter().any(|n| n == name);
    has(ADAPTER) && !(has("config.json") && WEIGHTS.iter().any(|w| has(w)))
}

fn gguf(names: &[String]) -> Vec<&str> {
    names
        .iter()
        .map(String::as_str)
        .filter(|n| is_gguf(Path::new(n)) && is_safe(n))
        .collect()
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(LISTED)
        .map(|n| text::plain(n.as_bytes()))
        .collect();
    match (names.len(), names.len().saturating_sub(LISTED)) {
        (0, _) => "none.".into(),
        (_, 0) => format!("{}.", shown.join(", ")),
        (_, more) => format!("{} and {more} more.", shown.join(", ")),
    }
}

/// The shards in an index, in its order, without duplicates.
pub fn shards(index: &Path) -> Result<Vec<String>> {
    let bad = |what: String| Error::bad_file(index, what, "Download it again.");
    let bytes = crate::file::read(index, crate::file::SMALL)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let map = value
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| bad("it has no weight_map".into()))?;
    let mut out: Vec<String> = Vec::new();
    for name in map.values() {
        let name = name.as_str().filter(|n| is_safe(n));
        let name =
            name.ok_or_else(|| bad("weight_map names something that is not a file".into()))?;
        if !out.iter().any(|o| o == name) {
            out.push(name.to_string());
        }
    }
    out.sort();
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn chosen(given: &str, names: &[&str]) -> Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        choose(&Reference::parse(given).unwrap(), &names)
    }

    fn refusal(given: &str, names: &[&str]) -> String {
        chosen(given, names).unwrap_err().to_string()
    }

    #[test]
    fn never_everything() {
        let names = [
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "model.safetensors",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
        ];
        let expected = ["config.json", "tokenizer.json", "model.safetensors"];
        assert_eq!(chosen("a/b", &names).unwrap(), expected);
        let old = ["config.json", "pytorch_model.bin"];
        assert_eq!(chosen("a/b", &old).unwrap(), old);
        let one = ["x.Q4_0.gguf", "x.Q8_0.gguf"];
        assert_eq!(chosen("a/b/x.Q8_0.gguf", &one).unwrap(), ["x.Q8_0.gguf"]);
    }

    #[test]
    fn refusals_say_what_there_is() {
        let gguf = ["README.md", "x.Q4_0.gguf", "x.Q8_0.gguf"];
        assert!(refusal("a/b", &gguf).contains("as in a/b/x.Q4_0.gguf"));
        assert!(refusal("a/b/y.gguf", &gguf).contains("x.Q8_0.gguf"));
        assert!(refusal("a/b", &["adapter_config.json"]).contains("adapter"));
        assert!(refusal("a/b", &["x.bin"]).contains("no config.json"));
        assert!(refusal("a/b", &["config.json"]).contains("neither model.safetensors"));
    }

    #[test]
    fn names_stay_inside() {
        for good in [
            "config.json",
            "q/x.gguf",
            "model-00001-of-00002.safetensors",
        ] {
            assert!(is_safe(good), "{good}");
        }
        for bad in [
            "", "/x", "../x", "a/../x", "a//x", "./x", "a\\x", "c:x", "a\nx", "a/",
        ] {
            assert!(!is_safe(bad), "{bad:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(&index, r#"{"weight_map": {"a": "../../x", "b": "y"}}"#).unwrap();
        assert!(shards(&index).is_err());
        std::fs::write(&index, r#"{"weight_map": {"a": "y", "b": "x", "c": "y"}}"#).unwrap();
        assert_eq!(shards(&index).unwrap(), ["x", "y"]);
    }
}
