//! Recognises folders that are not models in the layout of transformers, and further contents of a model's folder.
//!
//! Invariant: it reads only file names and small JSON files, and never refuses a folder that can be loaded. To recognise
//! another kind, add an arm to [`what_it_is`].

use std::path::Path;

use serde_json::Value;

use crate::text;

/// How much of a JSON file is read, in bytes.
const MOST: u64 = 4 << 20;

/// The names of a folder's files, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn json(path: &Path) -> Option<Value> {
    let small = std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MOST);
    small.then(|| serde_json::from_slice(&std::fs::read(path).ok()?).ok())?
}

/// The base model named in an adapter's configuration, made safe to show.
fn base(config: &Value) -> Option<String> {
    let name = config.get("base_model_name_or_path")?.as_str()?;
    (!name.is_empty()).then(|| text::plain(name.as_bytes()))
}

/// The kind of an adapter: `LoRA adapter`, or another one named by `peft_type`.
fn kind(config: &Value) -> String {
    match config.get("peft_type").and_then(Value::as_str) {
        None | Some("LORA") => "LoRA adapter".into(),
        Some(other) => format!("{} adapter", text::plain(other.as_bytes())),
    }
}

/// A description of an adapter, and what to do with it.
pub(crate) fn adapter(config: &Value) -> (String, String) {
    let what = format!(
        "a {} for another model{}",
        kind(config),
        base(config).map_or_else(String::new, |base| format!(" ({base})"))
    );
    let next = match base(config) {
        Some(base) => format!(
            "Open {base} for the model without it, or merge it first (Python: peft's `merge_and_unload`, then `save_pretrained`)"
        ),
        None => "Open the model that it was made for, or merge it first (Python: peft's `merge_and_unload`, then `save_pretrained`)".into(),
    };
    (what, next)
}

/// A description of a folder that cannot be opened, and what to do, if its files tell. `config` is its config.json.
pub(crate) fn what_it_is(folder: &Path, config: Option<&Value>) -> Option<(String, String)> {
    match json(&folder.join("adapter_config.json")) {
        Some(adapters) => Some(adapter(&adapters)),
        None => by_names(&names(folder), config),
    }
}

/// As [`what_it_is`], from file names only, which may include folders.
pub(crate) fn by_names(names: &[String], config: Option<&Value>) -> Option<(String, String)> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let any = |test: &dyn Fn(&str) -> bool| names.iter().find(|n| test(n));
    let ends = |end: &str| any(&|n| n.ends_with(end));
    let layout = "the repository in the layout of transformers (config.json and model.safetensors)";
    let say = |what: &str, next: String| Some((what.to_owned(), next));
    if [
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter_model.bin",
    ]
    .iter()
    .any(|name| has(name))
    {
        return Some(adapter(&Value::Null));
    }
    if has("model_index.json") {
        return say(
            "a diffusers pipeline, which makes images or sound",
            "Its text encoder may be a model of its own; name that subfolder".into(),
        );
    }
    if any(&|n| n.starts_with("consolidated")).is_some() {
        let safe = |n: &str| n.starts_with("consolidated") && n.ends_with(".safetensors");
        let mistral = any(&safe).is_some() || has("tekken.json");
        return if mistral {
            say(
                "weights in Mistral's own layout (params.json, consolidated.safetensors)",
                format!(
                    "Take {layout}; Mistral's repositories hold both, and transformers converts (convert_mistral_weights_to_hf.py)"
                ),
            )
        } else {
            say(
                "weights in Meta's own layout (params.json, consolidated.*.pth)",
                format!("Take {layout}, or convert (transformers' convert_llama_weights_to_hf.py)"),
            )
        };
    }
    if has("modules.json") || has("config_sentence_transformers.json") {
        return say(
            "a sentence-transformers model, which makes embeddings of texts",
            "Give a model that generates text".into(),
        );
    }
    if let Some(file) = ends(".nemo") {
        return say(
            &format!("a NeMo archive ({})", text::plain(file.as_bytes())),
            format!("Convert it with NeMo's exporter to Hugging Face, or take {layout}"),
        );
    }
    if has("model_weights.ckpt") || has("model_config.yaml") {
        return say(
            "an unpacked NeMo model",
            format!("Convert it with NeMo's exporter to Hugging Face, or take {layout}"),
        );
    }
    let keras =
        config.is_some_and(|c| c.get("class_name").is_some() || c.get("registered_name").is_some());
    if keras || ends(".keras").is_some() || has("model.weights.h5") || has("task.json") {
        return say("a Keras model", format!("Take {layout}"));
    }
    let weights = names.iter().any(|n| {
        let n = Path::new(n);
        let is = |end: &str| n.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
        is("safetensors") || is("bin") || is("gguf")
    });
    if weights {
        let file = ends(".gguf");
        return file
            .filter(|_| !has("model.safetensors") && !has("pytorch_model.bin"))
            .and_then(|file| {
                say(
                    "a folder of GGUF files",
                    format!("Name one of them, such as {}", text::plain(file.as_bytes())),
                )
            });
    }
    if ends(".onnx").is_some() || has("onnx") {
        return say("an ONNX model", format!("Take {layout}"));
    }
    for (file, what) in [
        ("tf_model.h5", "weights for TensorFlow (tf_model.h5)"),
        (
            "flax_model.msgpack",
            "weights for Flax (flax_model.msgpack)",
        ),
        ("saved_model.pb", "a TensorFlow SavedModel"),
        ("openvino_model.xml", "an OpenVINO model"),
        ("rust_model.ot", "weights for rust-bert (rust_model.ot)"),
    ] {
        if has(file) {
            return say(what, format!("Take {layout}"));
        }
    }
    if let Some(file) = any(&|n| {
        [".pth", ".pt", ".ckpt", ".tar"]
            .iter()
            .any(|end| n.ends_with(end))
    }) {
        return say(
            &format!("a training checkpoint ({})", text::plain(file.as_bytes())),
            format!("Load it in Python and save it with `save_pretrained`, or take {layout}"),
        );
    }
    None
}

/// A sentence on contents of a model's folder that were not read: adapters and further weights. `weights` are the files that
/// were read.
pub(crate) fn also_holds(folder: &Path, weights: &[String]) -> Option<String> {
    let names = names(folder);
    let has = |name: &str| names.iter().any(|n| n == name);
    let mut found = Vec::new();
    let files: Vec<&str> = ["adapter_model.safetensors", "adapter_model.bin"]
        .into_iter()
        .filter(|file| has(file))
        .collect();
    let config = json(&folder.join("adapter_config.json"));
    if config.is_some() || !files.is_empty() {
        let config = config.unwrap_or(Value::Null);
        let file = files.first().copied().unwrap_or("adapter_config.json");
        let base = base(&config).map_or_else(String::new, |base| format!(", base {base}"));
        found.push(format!(
            "a {} ({file}{base}), which is not applied",
            kind(&config)
        ));
    }
    if has("modules.json") || has("config_sentence_transformers.json") {
        found.push("what sentence-transformers needs to make embeddings of it (modules.json): as a text model it may not generate sensible text".into());
    }
    let index = |n: &str| n.starts_with("model-") && n.contains("-of-");
    let others: Vec<String> = names
        .iter()
        .filter(|n| {
            n.ends_with(".safetensors")
                && !weights.contains(n)
                && !n.starts_with("consolidated")
                && !n.starts_with("adapter_model")
                && n.as_str() != "model.safetensors"
                && !index(n)
                && ["model", "head", "lora", "adapter"]
                    .iter()
                    .any(|word| n.contains(word))
        })
        .map(|n| text::plain(n.as_bytes()))
        .collect();
    match others.as_slice() {
        [] => {}
        [one] => found.push(format!("{one}, which is not read")),
        [one, rest @ ..] => found.push(format!(
            "{one} and {} more files of tensors, which are not read",
            rest.len()
        )),
    }
    (!found.is_empty()).then(|| format!("the folder also holds {}.", found.join("; ")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn made(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn told(files: &[(&str, &str)]) -> String {
        let (what, next) = what_it_is(made(files).path(), None).unwrap();
        format!("{what}. {next}")
    }

    #[test]
    fn kinds_of_folders_are_recognised() {
        let lora = r#"{"peft_type": "LORA", "base_model_name_or_path": "acme/base-1b"}"#;
        let lora = told(&[
            ("adapter_config.json", lora),
            ("adapter_model.safetensors", ""),
        ]);
        assert!(
            lora.contains("LoRA adapter") && lora.contains("Open acme/base-1b"),
            "{lora}"
        );
        let bare = told(&[("adapter_model.bin", "")]);
        assert!(bare.contains("LoRA adapter"), "{bare}");
        for (files, word) in [
            (
                &["params.json", "consolidated.safetensors", "tekken.json"][..],
                "Mistral's own layout",
            ),
            (
                &[
                    "params.json",
                    "consolidated-00001-of-00002.safetensors",
                    "consolidated.safetensors.index.json",
                ],
                "Mistral's own layout",
            ),
            (
                &["params.json", "consolidated.00.pth", "tokenizer.model"],
                "Meta's own layout",
            ),
            (&["model_index.json"], "diffusers"),
            (
                &["modules.json", "model.safetensors"],
                "sentence-transformers",
            ),
            (&["model.onnx"], "ONNX"),
            (&["x.nemo"], "NeMo"),
            (&["model.weights.h5"], "Keras"),
            (&["tf_model.h5"], "TensorFlow"),
            (&["flax_model.msgpack"], "Flax"),
            (&["last.ckpt"], "training checkpoint"),
            (&["a.gguf", "b.gguf"], "GGUF files"),
        ] {
            let files: Vec<(&str, &str)> = files.iter().map(|f| (*f, "{}")).collect();
            let found = told(&files);
            assert!(found.contains(word), "{files:?}: {found}");
        }
        assert_eq!(what_it_is(made(&[("README.md", "")]).path(), None), None);
    }

    #[test]
    fn an_ordinary_folder_holds_nothing_else() {
        let shard = "model-00001-of-00001.safetensors".to_owned();
        let ordinary = made(&[
            ("config.json", "{}"),
            ("model-00001-of-00001.safetensors", ""),
            ("consolidated.safetensors", ""),
            ("params.json", "{}"),
            ("tokenizer.json", "{}"),
        ]);
        assert_eq!(
            also_holds(ordinary.path(), std::slice::from_ref(&shard)),
            None
        );
        let more = made(&[
            ("adapter_config.json", "{}"),
            ("value_head.safetensors", ""),
        ]);
        let said = also_holds(more.path(), &[shard]).unwrap();
        assert!(
            said.contains("a LoRA adapter (adapter_config.json), which is not applied")
                && said.contains("value_head.safetensors, which is not read"),
            "{said}"
        );
    }
}
