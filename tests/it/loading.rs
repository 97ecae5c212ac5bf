//! Loading: heads that are tied, missing or two; wrapped names; what is not read and said; folders that are no models;
//! tokens that only small files know; tokens without a row, and rows without a token; texts from Windows.
//!
//! Invariant: every checkpoint is made here from a reference or the demo. To add a situation, change one of them in `made`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmscope::engine::{PromptSource, Request, Update, spawn};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::load::{Options, load};
use lmscope::model::tokenizer::{Bos, Tokenizer, TokenizerFiles};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::cli::{outcome, refused, written};

type Tensors = HashMap<String, Tensor>;

const IDS: [u32; 12] = [1, 5, 9, 12, 17, 23, 30, 41, 3, 8, 2, 19];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A reference's configuration and tensors, changed.
struct Made {
    folder: TempDir,
    config: Value,
    tensors: Tensors,
}

fn made(case: &str) -> Made {
    let from = root().join("tests/references").join(case);
    let config = std::fs::read(from.join("config.json")).unwrap();
    let tensors = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu);
    Made {
        folder: tempfile::tempdir().unwrap(),
        config: serde_json::from_slice(&config).unwrap(),
        tensors: tensors.unwrap(),
    }
}

impl Made {
    fn path(&self) -> String {
        self.folder.path().to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.folder.path().join(name), contents).unwrap();
        self
    }

    fn save(&self) -> &Self {
        let file = self.folder.path().join("model.safetensors");
        candle_core::safetensors::save(&self.tensors, file).unwrap();
        self.file("config.json", self.config.to_string())
    }

    fn open(&self) -> lmscope::error::Result<Lab> {
        self.save();
        let options = Options {
            dtype: Some("f32".into()),
            device: Some("cpu".into()),
            ..Options::default()
        };
        load(&self.path(), &options).map(Lab::new)
    }

    /// Logits of all positions, and what is said at loading.
    fn read(&self) -> (Vec<Vec<f32>>, Vec<String>) {
        let mut lab = self.open().unwrap();
        let notes = lab.model.notes.clone();
        (logits(&mut lab), notes)
    }

    fn refusal(&self) -> String {
        match self.open() {
            Ok(_) => panic!("it loads"),
            Err(error) => error.to_string(),
        }
    }

    fn rename(&mut self, name: impl Fn(&str) -> String) {
        let all = std::mem::take(&mut self.tensors);
        self.tensors = all.into_iter().map(|(k, v)| (name(&k), v)).collect();
    }
}

fn logits(lab: &mut Lab) -> Vec<Vec<f32>> {
    let at = "logits".parse().unwrap();
    let found = lab.record(&Run::plain(IDS.to_vec()), &[at]).unwrap();
    found.get(at).unwrap().to_vec2().unwrap()
}

fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn another_head_in_a_tied_file_is_used_and_said() {
    let mut made = made("llama");
    let (own, notes) = made.read();
    assert!(notes.is_empty(), "{notes:?}");
    made.config["tie_word_embeddings"] = true.into();
    let (found, notes) = made.read();
    assert_eq!(apart(&own, &found), 0.0);
    assert!(notes[0].contains("another `lm_head.weight`"), "{notes:?}");
    // The same numbers twice are tied without a word, also where they are stored in another type.
    let embedding = made.tensors["model.embed_tokens.weight"].clone();
    made.tensors
        .insert("lm_head.weight".into(), embedding.clone());
    let (tied, notes) = made.read();
    assert!(notes.is_empty() && apart(&own, &tied) > 0.1, "{notes:?}");
    assert!(made.open().unwrap().model.transformer.blueprint.tied);
    let half = embedding.to_dtype(DType::BF16).unwrap();
    made.tensors
        .insert("model.embed_tokens.weight".into(), half.clone());
    made.tensors
        .insert("lm_head.weight".into(), half.to_dtype(DType::F32).unwrap());
    assert!(made.read().1.is_empty());
}

#[test]
fn the_head_alone_serves_a_tied_model_and_none_serves_no_other() {
    let mut made = made("llama");
    made.config["tie_word_embeddings"] = true.into();
    let embedding = made.tensors["model.embed_tokens.weight"].clone();
    made.tensors.remove("lm_head.weight");
    let (tied, _) = made.read();
    made.tensors.remove("model.embed_tokens.weight");
    made.tensors.insert("lm_head.weight".into(), embedding);
    let (found, notes) = made.read();
    assert_eq!(apart(&tied, &found), 0.0);
    assert!(notes.is_empty(), "{notes:?}");
    made.config["tie_word_embeddings"] = false.into();
    assert!(
        made.refusal()
            .contains("no tensor `model.embed_tokens.weight`")
    );
    let head = made.tensors.remove("lm_head.weight").unwrap();
    made.tensors
        .insert("model.embed_tokens.weight".into(), head);
    made.tensors.insert(
        "score.weight".into(),
        Tensor::zeros((2, 20), DType::F32, &Device::Cpu).unwrap(),
    );
    let error = made.refusal();
    assert!(
        error.contains("no `lm_head.weight`")
            && error.contains("tie_word_embeddings")
            && error.contains("score.weight"),
        "{error}"
    );
}

#[test]
fn a_tied_head_keeps_its_bias() {
    let mut made = made("phi");
    made.config["tie_word_embeddings"] = true.into();
    made.tensors.remove("lm_head.weight");
    let bias = made.tensors["lm_head.bias"].to_dtype(DType::F32).unwrap();
    let (with, notes) = made.read();
    assert!(notes.is_empty(), "{notes:?}");
    let none = made.tensors["lm_head.bias"].zeros_like().unwrap();
    made.tensors.insert("lm_head.bias".into(), none);
    let (without, _) = made.read();
    let bias: Vec<f32> = bias.to_vec1().unwrap();
    assert!(bias.iter().any(|b| b.abs() > 0.01));
    for (with, without) in with.iter().zip(&without) {
        for ((a, b), bias) in with.iter().zip(without).zip(&bias) {
            assert!((a - b - bias).abs() < 1e-5);
        }
    }
}

#[test]
fn wrapped_names_are_unwrapped_and_said() {
    for case in ["llama", "gpt2", "gpt_neox", "opt", "phi"] {
        let plain = made(case).read().0;
        for wrap in [
            "_orig_mod.",
            "module.",
            "module._orig_mod.",
            "base_model.model.",
            "model.",
            "transformer.",
            "llm.",
        ] {
            let mut made = made(case);
            made.rename(|name| format!("{wrap}{name}"));
            let (found, notes) = made.read();
            assert_eq!(apart(&plain, &found), 0.0, "{case}, {wrap}");
            assert!(
                notes.len() == 1 && notes[0].contains("are wrapped"),
                "{case}, {wrap}: {notes:?}"
            );
        }
    }
    // Blocks that were compiled one by one, and a file without the family's own prefix.
    let plain = made("llama").read().0;
    let mut blocks = made("llama");
    blocks.rename(|name| name.replace(".self_attn.", "._orig_mod.self_attn."));
    assert_eq!(apart(&plain, &blocks.read().0), 0.0);
    let mut bare = made("llama");
    bare.rename(|name| name.replace("model.", ""));
    let (found, notes) = bare.read();
    assert!(
        apart(&plain, &found) == 0.0 && notes.is_empty(),
        "{notes:?}"
    );
    let mut strange = made("llama");
    strange.rename(|name| {
        name.replace("embed_tokens", "tok_embeddings")
            .replace("o_proj", "wo")
    });
    let error = strange.refusal();
    assert!(
        error.contains("embed_tokens.weight")
            && error.contains("It holds `")
            && !error.contains("download"),
        "{error}"
    );
}

#[test]
fn a_left_over_quantization_config_loads_and_a_real_one_does_not() {
    let mut made = made("llama");
    let plain = made.read().0;
    for scheme in [
        json!({"load_in_8bit": false, "load_in_4bit": false}),
        json!({"load_in_8bit": false, "load_in_4bit": false, "quant_method": "bitsandbytes", "llm_int8_threshold": 6.0}),
        json!({"load_in_4bit": false, "load_in_8bit": null}),
        json!({}),
        Value::Null,
    ] {
        made.config["quantization_config"] = scheme;
        let (found, notes) = made.read();
        assert!(
            apart(&plain, &found) == 0.0 && notes.is_empty(),
            "{notes:?}"
        );
    }
    for (scheme, word) in [
        (
            json!({"load_in_8bit": true, "load_in_4bit": false}),
            "quantized",
        ),
        (
            json!({"load_in_4bit": true, "quant_method": "bitsandbytes"}),
            "bitsandbytes",
        ),
        (json!({"quant_method": "awq", "bits": 4}), "awq"),
        (
            json!({"quant_method": "gptq", "load_in_4bit": false}),
            "gptq",
        ),
    ] {
        made.config["quantization_config"] = scheme;
        let error = made.refusal();
        assert!(error.contains(word), "{error}");
    }
    made.config["quantization_config"] = Value::Null;
    made.config["quantization"] = json!({"group_size": 64, "bits": 4});
    assert!(made.refusal().contains("MLX"));
    made.config["quantization"] = Value::Null;
    let name = "model.layers.0.mlp.up_proj.weight";
    let codes = made.tensors[name].to_dtype(DType::U8).unwrap();
    made.tensors.insert(name.into(), codes);
    assert!(made.refusal().contains("whole numbers"));
}

#[test]
fn what_is_not_read_is_said_once() {
    let mut made = made("llama");
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    made.tensors.insert(
        "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
        zeros((1, 4)),
    );
    assert!(made.read().1.is_empty());
    made.tensors.insert("score.weight".into(), zeros((2, 20)));
    let notes = made.read().1;
    assert_eq!(
        notes,
        ["1 tensor of the file is not used: `score.weight` (a classification head)."]
    );
    made.tensors.remove("score.weight");
    made.config["attention_bias"] = false.into();
    let notes = made.read().1;
    assert!(
        notes.len() == 1 && notes[0].contains("no such biases"),
        "{notes:?}"
    );
    made.config["attention_bias"] = true.into();
    made.config["final_logit_softcapping"] = json!(30.0);
    made.config["use_cache"] = true.into();
    made.config["is_llama_config"] = true.into();
    let notes = made.read().1;
    assert_eq!(
        notes,
        [
            "config.json sets `final_logit_softcapping`, which llama does not know: it is not used, as in transformers."
        ]
    );
    made.config["final_logit_softcapping"] = Value::Null;
    made.config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 55.0});
    let notes = made.read().1;
    assert!(
        notes.len() == 1 && notes[0].contains("they disagree: `rope_scaling` is used"),
        "{notes:?}"
    );
    // The same in other words is no disagreement.
    let before = (
        made.config["rope_scaling"].clone(),
        made.config["rope_theta"].clone(),
    );
    made.config["rope_scaling"] = json!({"type": "linear", "factor": 2});
    made.config["rope_theta"] = json!(55);
    made.config["rope_parameters"] =
        json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 55.0});
    assert_eq!(made.read().1, Vec::<String>::new());
    made.config["rope_parameters"]["factor"] = json!(3.0);
    assert!(made.read().1[0].contains("they disagree"));
    (made.config["rope_scaling"], made.config["rope_theta"]) = before;
    made.config["rope_parameters"] = Value::Null;
    let adapter = json!({"peft_type": "LORA", "base_model_name_or_path": "acme/base-1b"});
    made.file("adapter_config.json", adapter.to_string());
    made.file("adapter_model.safetensors", "");
    let notes = made.read().1;
    assert_eq!(
        notes,
        [
            "the folder also holds a LoRA adapter (adapter_model.safetensors, base acme/base-1b), which is not applied."
        ]
    );
    // On standard error of every subcommand, and among the facts of doctor.
    let (code, out, err) = outcome(&["doctor", &made.path()]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("notes") && out.contains("LoRA adapter"),
        "{out}"
    );
    assert_eq!(err.matches("LoRA adapter").count(), 1, "{err}");
}

#[test]
fn ordinary_models_are_loaded_without_a_word() {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("tests/references"))
        .unwrap()
        .flatten()
    {
        let folder = entry.path();
        let weights = [
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
        ];
        if !folder.join("config.json").exists() || !weights.iter().any(|w| folder.join(w).exists())
        {
            continue;
        }
        let options = Options {
            dtype: Some("f32".into()),
            device: Some("cpu".into()),
            ..Options::default()
        };
        let model = load(&folder.to_string_lossy(), &options).unwrap();
        assert!(
            model.notes.is_empty(),
            "{}: {:?}",
            folder.display(),
            model.notes
        );
        count += 1;
    }
    assert!(count > 30, "{count}");
    assert!(load("demo", &Options::default()).unwrap().notes.is_empty());
    match std::env::var("LMSCOPE_REAL_MODEL") {
        Ok(real) => assert!(load(&real, &Options::default()).unwrap().notes.is_empty()),
        Err(_) => println!("LMSCOPE_REAL_MODEL is not set: no real model was loaded"),
    }
}

#[test]
fn folders_that_are_no_models_are_named_with_the_way_out() {
    let adapter = r#"{"peft_type": "LORA", "base_model_name_or_path": "acme/base-1b"}"#;
    for (files, words) in [
        (
            &[
                ("adapter_config.json", adapter),
                ("adapter_model.safetensors", ""),
            ][..],
            &["LoRA adapter", "Open acme/base-1b"][..],
        ),
        (
            &[
                ("params.json", "{}"),
                ("consolidated.safetensors", ""),
                ("tekken.json", "{}"),
            ],
            &["Mistral's own layout", "config.json"],
        ),
        (
            &[("config.json", r#"{"model_type": "bert"}"#)],
            &["`bert` is an encoder"],
        ),
        (
            &[("config.json", r#"{"model_type": "t5"}"#)],
            &["encoder with a decoder"],
        ),
        (
            &[
                (
                    "config.json",
                    r#"{"class_name": "LlamaBackbone", "module": "keras_hub"}"#,
                ),
                ("task.json", "{}"),
            ],
            &["Keras"],
        ),
        (&[("model_index.json", "{}")], &["diffusers"]),
        (&[("model.onnx", "")], &["ONNX"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        refused(
            &["lens", folder.path().to_str().unwrap(), "-p", "x"],
            1,
            words,
        );
    }
    // A configuration that is served, with nothing but weights for another program.
    let made = made("llama");
    made.file("config.json", made.config.to_string());
    made.file("flax_model.msgpack", "");
    refused(&["lens", &made.path(), "--ids", "1"], 1, &["Flax"]);
}

#[test]
fn a_gguf_that_is_an_adapter_is_named() {
    // The least header: magic, version 3, no tensors, three texts.
    let text = |s: &str| {
        [
            (s.len() as u64).to_le_bytes().to_vec(),
            s.as_bytes().to_vec(),
        ]
        .concat()
    };
    let entries = [
        ("general.architecture", "llama"),
        ("general.type", "adapter"),
        ("general.base_model.0.name", "Base 1B"),
    ];
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        bytes.extend(text(key));
        bytes.extend(8u32.to_le_bytes());
        bytes.extend(text(value));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("adapter.gguf");
    std::fs::write(&file, bytes).unwrap();
    refused(
        &["lens", file.to_str().unwrap(), "-p", "x"],
        1,
        &["LoRA adapter", "Base 1B"],
    );
}

#[test]
fn added_tokens_have_the_ids_that_transformers_gives_them() {
    let text = std::fs::read_to_string(root().join("tests/references/added_tokens.json")).unwrap();
    let cases: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let file = std::fs::read(root().join("demo/model/tokenizer.json")).unwrap();
    let mut wrong = Vec::new();
    assert!(cases.len() > 20);
    for (name, case) in &cases {
        let config = case["config"].to_string();
        let added = (!case["added"].is_null()).then(|| case["added"].to_string());
        let tokenizer = Tokenizer::from_files(&TokenizerFiles {
            tokenizer: &file,
            tokenizer_config: Some(config.as_bytes()),
            added: added.as_deref().map(str::as_bytes),
            ..TokenizerFiles::default()
        })
        .unwrap();
        for (text, ids) in case["ids"].as_object().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            let found = tokenizer.encode(text, Bos::Add).unwrap();
            if found != ids {
                wrong.push(format!("{name}, {text:?}: {found:?}, not {ids:?}"));
            }
        }
        let other = ["far id", "known id, other text"].contains(&name.as_str());
        if tokenizer.remarks.is_empty() == other {
            wrong.push(format!("{name}: {:?}", tokenizer.remarks));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The demo with `rows` rows more in its embedding, and what `tokenizer_config.json` gets.
fn demo(rows: usize, config: impl FnOnce(&mut Value)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root().join("demo/model"))
        .unwrap()
        .flatten()
    {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let at = |name: &str| folder.path().join(name);
    let json =
        |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let mut tokens = json(&at("tokenizer_config.json"));
    config(&mut tokens);
    std::fs::write(at("tokenizer_config.json"), tokens.to_string()).unwrap();
    if rows > 0 {
        let mut model = json(&at("config.json"));
        let vocab = model["vocab_size"].as_u64().unwrap() as usize + rows;
        model["vocab_size"] = vocab.into();
        std::fs::write(at("config.json"), model.to_string()).unwrap();
        let mut tensors: Tensors =
            candle_core::safetensors::load(at("model.safetensors"), &Device::Cpu).unwrap();
        let table = &tensors["model.embed_tokens.weight"];
        let more =
            Tensor::zeros((rows, table.dim(1).unwrap()), table.dtype(), &Device::Cpu).unwrap();
        let table = Tensor::cat(&[table, &more], 0).unwrap();
        tensors.insert("model.embed_tokens.weight".into(), table);
        candle_core::safetensors::save(&tensors, at("model.safetensors")).unwrap();
    }
    folder
}

fn probe(config: &mut Value) {
    config["added_tokens_decoder"] =
        json!({"2048": {"content": "<|probe|>", "special": true, "normalized": false}});
}

#[test]
fn a_token_without_a_row_is_refused_by_name_everywhere() {
    let folder = demo(0, probe);
    let path = folder.path().to_str().unwrap();
    let list = folder.path().join("list.txt");
    std::fs::write(&list, "The king\nThe <|probe|> king\n").unwrap();
    let list = list.to_str().unwrap();
    let other = folder.path().join("other.txt");
    std::fs::write(&other, "The queen\nThe queen of France\n").unwrap();
    let other = other.to_str().unwrap();
    let said = |arguments: &[&str]| {
        let (code, _, err) = outcome(arguments);
        assert_eq!(code, 1, "{arguments:?}: {err}");
        assert!(
            err.contains("The token `<|probe|>` (id 2048) has no row")
                && err.contains("Leave it out"),
            "{arguments:?}: {err}"
        );
        assert!(
            err.contains("a token that the embedding has no row for"),
            "{err}"
        );
    };
    said(&["generate", path, "-p", "The <|probe|> king", "-n", "1"]);
    said(&[
        "generate",
        path,
        "--chat",
        "-p",
        "The <|probe|> king",
        "-n",
        "1",
    ]);
    said(&["lens", path, "-p", "The <|probe|> king"]);
    said(&[
        "direction",
        path,
        "--plus",
        list,
        "--minus",
        other,
        "--layer",
        "2",
        "-o",
        "/dev/null",
    ]);
    // With a row it is one token, and nothing is said.
    let folder = demo(1, probe);
    let (code, out, err) = outcome(&[
        "lens",
        folder.path().to_str().unwrap(),
        "-p",
        "The <|probe|> king",
    ]);
    assert!(
        code == 0 && out.contains("<|probe|>") && err.is_empty(),
        "{err}"
    );
}

#[test]
fn rows_without_a_token_print_their_id() {
    let folder = demo(3, |_| ());
    let options = Options::default();
    let model = load(&folder.path().to_string_lossy(), &options).unwrap();
    assert!(model.notes.is_empty(), "{:?}", model.notes);
    assert_eq!(model.bytes(2050), b"[2050]");
    assert_eq!(model.tokenizer.as_ref().unwrap().visible(2050), "[2050]");
    let path = folder.path().to_str().unwrap();
    let shown = written(&["lens", path, "--ids", "0,361,2050"]);
    assert!(shown.contains("[2050]"), "{shown}");
}

#[test]
fn a_bos_that_is_typed_twice_is_said_once() {
    let (code, out, err) = outcome(&["lens", "demo", "-p", "<|endoftext|>The king"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.matches("<|endoftext|>").count() >= 2, "{out}");
    assert_eq!(
        err.matches("there are two, as in Python").count(),
        1,
        "{err}"
    );
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.txt");
    std::fs::write(&list, "<|endoftext|>The king\n<|endoftext|>The queen\n").unwrap();
    let list = list.to_str().unwrap();
    let other = folder.path().join("other.txt");
    std::fs::write(&other, "The king of France\nThe queen of Japan\n").unwrap();
    let other = other.to_str().unwrap();
    let out = folder.path().join("d.safetensors");
    let (_, _, err) = outcome(&[
        "direction",
        "demo",
        "--plus",
        list,
        "--minus",
        other,
        "--layer",
        "2",
        "-o",
        out.to_str().unwrap(),
    ]);
    assert_eq!(
        err.matches("there are two, as in Python").count(),
        1,
        "{err}"
    );
    let (_, _, err) = outcome(&["lens", "demo", "-p", "The king"]);
    assert_eq!(err, "");
    // The engine passes it on to the screen, once.
    let (sender, updates) = std::sync::mpsc::channel();
    let handle = spawn(move |update| sender.send(update).is_ok()).unwrap();
    handle.ask(Request::Load {
        model: "demo".into(),
        options: Options::default(),
    });
    for _ in 0..2 {
        handle.ask(Request::Generate {
            prompt: PromptSource::Text("<|endoftext|>The king".into()),
            count: 1,
        });
    }
    let (mut ended, mut noted) = (0, 0);
    while ended < 2 {
        match updates
            .recv_timeout(std::time::Duration::from_mins(1))
            .unwrap()
        {
            Update::Ended { .. } => ended += 1,
            Update::Noted(sentence) => {
                assert!(sentence.contains("there are two"), "{sentence}");
                noted += 1;
            }
            _ => {}
        }
    }
    assert_eq!(noted, 1);
}

#[test]
fn an_empty_prompt_is_the_bos_where_there_is_one() {
    let empty = written(&["generate", "demo", "-p", "", "-n", "3"]);
    assert_eq!(
        empty,
        written(&["generate", "demo", "--ids", "0", "-n", "3"])
    );
    refused(
        &["generate", "demo", "--chat", "-p", "", "-n", "3"],
        2,
        &["--ids"],
    );
    // A tokenizer that puts nothing before a text.
    let folder = demo(0, |_| ());
    let file = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    tokenizer["post_processor"] = Value::Null;
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    refused(
        &[
            "generate",
            folder.path().to_str().unwrap(),
            "-p",
            "",
            "-n",
            "3",
        ],
        2,
        &["--ids"],
    );
}

#[test]
fn a_long_prompt_is_told_only_what_can_be_done() {
    let long = "the king ".repeat(300);
    let (_, _, err) = outcome(&["generate", "demo", "-p", &long, "-n", "1"]);
    assert!(
        err.contains("made for no more") && !err.contains("--context"),
        "{err}"
    );
    let (_, _, err) = outcome(&[
        "generate",
        "demo",
        "-p",
        &long,
        "-n",
        "1",
        "--context",
        "100",
    ]);
    assert!(
        err.contains("raise --context (the model allows 512)"),
        "{err}"
    );
}

#[test]
fn lists_may_come_from_windows() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (plus, minus) = (
        "The king is good\nThe queen is good\n",
        "The king is bad\nThe queen is bad\n",
    );
    let direction = |plus: &str, minus: &str, name: &str| {
        let out = folder.path().join(name);
        let (code, _, err) = outcome(&[
            "direction",
            "demo",
            "--plus",
            plus,
            "--minus",
            minus,
            "--layer",
            "2",
            "-o",
            out.to_str().unwrap(),
        ]);
        (code, err, std::fs::read(out).unwrap_or_default())
    };
    let minus = file("minus.txt", minus.as_bytes());
    let plain = direction(&file("plus.txt", plus.as_bytes()), &minus, "a.safetensors");
    let marked = format!("\u{feff}{}", plus.replace('\n', "\r\n"));
    let windows = direction(
        &file("marked.txt", marked.as_bytes()),
        &minus,
        "b.safetensors",
    );
    assert_eq!(plain.0, 0, "{}", plain.1);
    let vector = |bytes: &[u8]| {
        let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
        names
            .iter()
            .map(|n| tensors.tensor(n).unwrap().data().to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(vector(&plain.2), vector(&windows.2));
    let wide: Vec<u8> = marked.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (code, err, _) = direction(&file("wide.txt", &wide), &minus, "c.safetensors");
    assert!(
        code == 1 && err.contains("UTF-16") && err.contains("Save it as UTF-8"),
        "{err}"
    );
}
