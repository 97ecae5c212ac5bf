//! GGUF files: the numbers of the checkpoints they were made from, quantized products, and files that lie.
//!
//! Invariant: the files are written here ([`convert`]), by the rules of llama.cpp's converter, from the reference
//! checkpoints; what they give is compared with transformers where the format can say the whole configuration, and with
//! the same checkpoint under the configuration that it can say where it cannot.
//! To add a family, add its reference to [`CASES`] and its names to [`convert`].

pub mod convert;
pub mod file;
pub mod vocabulary;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor, Var};
use lmscope::instruments::{Arguments, INSTRUMENTS, Instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::Model;
use lmscope::model::checkpoint::gguf::Gguf;
use lmscope::model::checkpoint::gguf::config::describe;
use lmscope::model::load::{Options, load};
use lmscope::model::network::site::{Address, Site};
use lmscope::model::network::tap::{PassSpan, Tap};
use lmscope::model::tokenizer::Bos;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use convert::convert;
use file::{File, Meta, Stored};

type Outcome = Result<(), Box<dyn std::error::Error>>;
type Tensors = HashMap<String, Tensor>;
/// Keys of a config.json and the JSON that stands there instead.
type Instead = &'static [(&'static str, &'static str)];

const LONG: &str = "activations.safetensors";
const SHORT: &str = "activations.short.safetensors";

/// Most that one number may differ from transformers, in f32.
const TOLERANCE: f32 = 5e-5;

/// A reference, and the keys of its config.json that GGUF cannot say, with what it says instead.
/// Where they matter only past the window, the short prompt is compared with transformers.
const CASES: &[(&str, &str, Instead)] = &[
    ("llama", LONG, &[]),
    ("llama_linear", LONG, &[]),
    (
        "llama_yarn",
        "",
        &[(
            "rope_scaling",
            r#"{"rope_type": "yarn", "factor": 4.0, "beta_fast": 3.0, "beta_slow": 0.6, "original_max_position_embeddings": 32}"#,
        )],
    ),
    ("mistral", SHORT, &[("sliding_window", "null")]),
    ("mixtral", SHORT, &[("sliding_window", "null")]),
    ("qwen2", SHORT, &[("use_sliding_window", "false")]),
    (
        "qwen3",
        SHORT,
        &[("use_sliding_window", "false"), ("layer_types", "null")],
    ),
    ("qwen3_moe", LONG, &[]),
    ("gemma", LONG, &[]),
    ("gemma2", "", &[("query_pre_attn_scalar", "6")]),
    ("gemma3_text", "", &[("query_pre_attn_scalar", "6")]),
    ("phi", LONG, &[]),
    ("phi3", LONG, &[]),
    ("gpt2", LONG, &[]),
    ("gpt_neox", LONG, &[]),
    ("gpt_neox_serial", "", &[("hidden_act", "\"gelu\"")]),
    ("olmo", LONG, &[]),
    ("olmo2", LONG, &[]),
    ("olmoe", "", &[("clip_qkv", "null")]),
    ("starcoder2", LONG, &[]),
    (
        "smollm3",
        "",
        &[
            ("use_sliding_window", "false"),
            ("layer_types", "null"),
            ("no_rope_layers", "[1, 1]"),
        ],
    ),
    ("granite", LONG, &[]),
    ("cohere", LONG, &[]),
    ("stablelm", LONG, &[]),
    ("stablelm_parallel", LONG, &[]),
];

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/references")
        .join(case)
}

fn config(case: &str) -> Result<Value, Box<dyn std::error::Error>> {
    Ok(serde_json::from_slice(&std::fs::read(
        folder(case).join("config.json"),
    )?)?)
}

fn weights(case: &str) -> Result<Tensors, candle_core::Error> {
    candle_core::safetensors::load(folder(case).join("model.safetensors"), &Device::Cpu)
}

fn open(path: &Path, dtype: Option<&str>) -> Result<Model, lmscope::error::Error> {
    let options = Options {
        dtype: dtype.map(Into::into),
        device: Some("cpu".into()),
        ..Options::default()
    };
    load(&path.to_string_lossy(), &options)
}

/// Writes a file and opens it.
pub fn model(file: &File, dtype: Option<&str>) -> Result<Model, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, file.bytes())?;
    Ok(open(&path, dtype)?)
}

/// Logits and residuals `[tokens, ..]` of a prompt.
fn run(model: Model, ids: &[u32]) -> Result<Tensors, Box<dyn std::error::Error>> {
    let mut names: Vec<String> = (0..model.card.layers)
        .map(|layer| format!("resid_post.{layer}"))
        .collect();
    names.push("logits".into());
    let addresses = names
        .iter()
        .map(|n| n.parse())
        .collect::<Result<Vec<_>, _>>()?;
    let mut lab = Lab::new(model);
    let recording = lab.record(&Run::plain(ids.to_vec()), &addresses)?;
    let found = names.into_iter().zip(&addresses);
    Ok(found
        .map(|(name, at)| Ok((name, recording.get(*at)?.clone())))
        .collect::<Result<_, lmscope::error::Error>>()?)
}

fn largest(t: &Tensor) -> Result<f32, candle_core::Error> {
    t.abs()?.flatten_all()?.max(0)?.to_scalar()
}

/// The reference's prompt, and what transformers gives at the positions it kept.
fn reference(case: &str, file: &str) -> Result<(Vec<u32>, Tensors), candle_core::Error> {
    let mut all = candle_core::safetensors::load(folder(case).join(file), &Device::Cpu)?;
    let tokens = all
        .remove("tokens")
        .map_or_else(|| Tensor::zeros(0, DType::I64, &Device::Cpu), Ok)?;
    Ok((tokens.to_dtype(DType::U32)?.to_vec1()?, all))
}

#[test]
fn converted_checkpoints_agree_with_transformers() -> Outcome {
    for (case, prompt, _) in CASES.iter().filter(|c| !c.1.is_empty()) {
        let file = convert(&config(case)?, &weights(case)?, |_| GgmlDType::F32)?;
        let (ids, expected) = reference(case, prompt)?;
        let found = run(model(&file, Some("f32"))?, &ids)?;
        for (name, tensor) in found {
            let tensor = match expected.get("positions") {
                Some(kept) => tensor.index_select(kept, 0)?,
                None => tensor,
            };
            let difference = largest(&(tensor - &expected[&name])?)?;
            assert!(
                difference <= TOLERANCE,
                "{case}: {name} differs by {difference:.2e}"
            );
        }
    }
    Ok(())
}

#[test]
fn converted_checkpoints_agree_with_their_folders() -> Outcome {
    for (case, _, instead) in CASES.iter().filter(|c| !c.2.is_empty()) {
        let mut config = config(case)?;
        for (key, value) in *instead {
            config[*key] = serde_json::from_str(value)?;
        }
        let patched = tempfile::tempdir()?;
        std::fs::write(patched.path().join("config.json"), config.to_string())?;
        std::fs::copy(
            folder(case).join("model.safetensors"),
            patched.path().join("model.safetensors"),
        )?;
        let (ids, _) = reference(case, LONG)?;
        let expected = run(open(patched.path(), Some("f32"))?, &ids)?;
        let file = convert(&config, &weights(case)?, |_| GgmlDType::F32)?;
        let found = run(model(&file, Some("f32"))?, &ids)?;
        for (name, tensor) in found {
            let difference = largest(&(tensor - &expected[&name])?)?;
            assert!(
                difference <= 1e-5,
                "{case}: {name} differs by {difference:.2e}"
            );
        }
    }
    Ok(())
}

/// The references in bfloat16 are exact in it, and llama's bfloat16 is not in f16: only storage differs.
#[test]
fn sixteen_bit_files_agree() -> Outcome {
    let (ids, _) = reference("llama_bf16", LONG)?;
    let (config, weights) = (config("llama_bf16")?, weights("llama_bf16")?);
    let plain = run(
        model(&convert(&config, &weights, |_| GgmlDType::F32)?, None)?,
        &ids,
    )?;
    for (dtype, tolerance) in [(GgmlDType::BF16, 0.0), (GgmlDType::F16, 1e-2)] {
        let opened = model(&convert(&config, &weights, |_| dtype)?, None)?;
        assert_eq!(
            opened.card.dtype, "f32",
            "sixteen bits are widened on a CPU"
        );
        let found = run(opened, &ids)?;
        let difference = largest(&(&found["logits"] - &plain["logits"])?)?;
        assert!(difference <= tolerance, "{dtype:?}: {difference:.2e}");
    }
    Ok(())
}

/// A checkpoint wide enough for blocks of 256, from a seed.
pub fn wide(case: &str) -> (Value, Tensors) {
    let config = match case {
        "llama" => json!({
            "model_type": "llama", "vocab_size": 96, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
            "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
            "rope_theta": 1000.0, "tie_word_embeddings": false
        }),
        _ => json!({
            "model_type": "mixtral", "vocab_size": 96, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
            "rope_theta": 1000.0, "tie_word_embeddings": true, "num_local_experts": 3, "num_experts_per_tok": 2
        }),
    };
    let size = |key: &str| config[key].as_u64().unwrap_or(0) as usize;
    let (d, ff, kv) = (
        size("hidden_size"),
        size("intermediate_size"),
        size("hidden_size") / size("num_attention_heads") * size("num_key_value_heads"),
    );
    let mut rng = StdRng::seed_from_u64(5);
    let mut tensors = Tensors::new();
    let mut put = |name: &str, shape: &[usize]| {
        let count = shape.iter().product();
        let spread = shape.get(1).map_or(0.2, |n| 1.2 / (*n as f32).sqrt());
        let centre = if shape.len() == 1 { 1.0 } else { 0.0 };
        let values: Vec<f32> = lmscope::model::gaussian::normals(&mut rng, count)
            .into_iter()
            .map(|x| centre + spread * x)
            .collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        tensors.insert(format!("{name}.weight"), tensor);
    };
    put("model.embed_tokens", &[96, d]);
    put("model.norm", &[d]);
    if case == "llama" {
        put("lm_head", &[96, d]);
    }
    for layer in 0..size("num_hidden_layers") {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        put(&name("input_layernorm"), &[d]);
        put(&name("post_attention_layernorm"), &[d]);
        put(&name("self_attn.q_proj"), &[d, d]);
        put(&name("self_attn.k_proj"), &[kv, d]);
        put(&name("self_attn.v_proj"), &[kv, d]);
        put(&name("self_attn.o_proj"), &[d, d]);
        if case == "llama" {
            put(&name("mlp.gate_proj"), &[ff, d]);
            put(&name("mlp.up_proj"), &[ff, d]);
            put(&name("mlp.down_proj"), &[d, ff]);
        } else {
            put(&name("block_sparse_moe.gate"), &[3, d]);
            for e in 0..3 {
                put(&name(&format!("block_sparse_moe.experts.{e}.w1")), &[ff, d]);
                put(&name(&format!("block_sparse_moe.experts.{e}.w3")), &[ff, d]);
                put(&name(&format!("block_sparse_moe.experts.{e}.w2")), &[d, ff]);
            }
        }
    }
    (config, tensors)
}

pub const QUANTIZED: [(GgmlDType, &str); 10] = [
    (GgmlDType::Q8_0, "q8_0"),
    (GgmlDType::Q4_0, "q4_0"),
    (GgmlDType::Q4_1, "q4_1"),
    (GgmlDType::Q5_0, "q5_0"),
    (GgmlDType::Q5_1, "q5_1"),
    (GgmlDType::Q2K, "q2_K"),
    (GgmlDType::Q3K, "q3_K"),
    (GgmlDType::Q4K, "q4_K"),
    (GgmlDType::Q5K, "q5_K"),
    (GgmlDType::Q6K, "q6_K"),
];

/// The norm of a difference over the norm of what was expected.
fn relative(found: &Tensor, expected: &Tensor) -> Result<f32, candle_core::Error> {
    let norm = |t: &Tensor| t.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
    Ok(norm(&(found - expected)?)? / norm(expected)?)
}

#[test]
#[allow(clippy::print_stdout)] // shown when a test fails, or with --nocapture
fn quantized_models_agree_with_their_own_dequantized_weights() -> Outcome {
    let ids: Vec<u32> = (0..24).map(|i| (i * 37 + 5) % 96).collect();
    for case in ["llama", "mixtral"] {
        let (config, weights) = wide(case);
        for (dtype, name) in QUANTIZED {
            let file = convert(&config, &weights, |_| dtype)?;
            let quantized = model(&file, None)?;
            assert_eq!(quantized.card.dtype, name);
            let quantized = run(quantized, &ids)?;
            // The same file, unpacked while loading.
            let dense = run(model(&file, Some("f32"))?, &ids)?;
            for (name, found) in &quantized {
                let apart = relative(found, &dense[name])?;
                println!("{case} {dtype:?} {name}: {apart:.2e}");
                assert!(
                    apart < 1e-3,
                    "{case} in {dtype:?}: {name} is {apart:.2e} apart"
                );
            }
            // And unpacked, it is what candle unpacks.
            let own = weights
                .iter()
                .map(|(name, t)| {
                    let packed = t.rank() > 1 && !name.contains("block_sparse_moe.gate.");
                    let cpu = Device::Cpu;
                    Ok((
                        name.clone(),
                        if packed {
                            QTensor::quantize(t, dtype)?.dequantize(&cpu)?
                        } else {
                            t.clone()
                        },
                    ))
                })
                .collect::<Result<Tensors, candle_core::Error>>()?;
            let own = run(
                model(&convert(&config, &own, |_| GgmlDType::F32)?, Some("f32"))?,
                &ids,
            )?;
            let apart = relative(&dense["logits"], &own["logits"])?;
            assert!(
                apart < 1e-6,
                "{case} in {dtype:?}: unpacked {apart:.2e} apart"
            );
        }
    }
    Ok(())
}

/// One file of every kind of value, with a matrix and a vector.
fn small() -> File {
    let mut file = File::default();
    file.put("general.architecture", "llama");
    file.put(
        "text",
        Meta::Texts(vec!["a".into(), String::new(), "ß".into()]),
    );
    file.put("scores", Meta::Floats(vec![0.5, -1.5]));
    file.put("types", Meta::Ints(vec![1, -3]));
    file.put("flags", Meta::Bools(vec![true, false]));
    file.put("nested", Meta::Nested(vec![vec![1, 2], vec![]]));
    file.put("count", 7usize);
    file.put("epsilon", 1e-5);
    file.put("yes", true);
    let values = |n: usize| (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect();
    file.tensors = vec![
        Stored {
            name: "matrix".into(),
            shape: vec![3, 4],
            kind: 0,
            bytes: values(12),
        },
        Stored {
            name: "vector".into(),
            shape: vec![5],
            kind: 0,
            bytes: values(5),
        },
    ];
    file
}

#[test]
fn metadata_reads_back() -> Outcome {
    let gguf = Gguf::from_bytes(small().bytes())?;
    assert_eq!(gguf.strings("text"), Some(vec!["a", "", "ß"]));
    assert_eq!(gguf.floats("scores"), Some(vec![0.5, -1.5]));
    assert_eq!(gguf.integers("types"), Some(vec![1, -3]));
    assert_eq!(gguf.integers("flags"), Some(vec![1, 0]));
    assert_eq!(gguf.integers("nested"), None);
    assert_eq!(
        (gguf.u32("count"), gguf.number("epsilon"), gguf.bool("yes")),
        (Some(7), Some(1e-5), Some(true))
    );
    assert_eq!(
        (gguf.string("count"), gguf.u32("text"), gguf.bool("gone")),
        (None, None, None)
    );
    let matrix = gguf.tensor("matrix").ok_or("gone")?;
    assert_eq!(matrix.shape, [3, 4]);
    assert_eq!(gguf.bytes("matrix").map(<[u8]>::len), Some(48));
    assert_eq!(
        gguf.bytes("vector").map(|b| b[4..8].to_vec()),
        Some(1f32.to_le_bytes().to_vec())
    );
    Ok(())
}

#[test]
fn a_file_that_ends_early_is_refused_wherever_it_ends() {
    let whole = small().bytes();
    // The last tensor ends 12 bytes before the padding does.
    for length in 0..whole.len() - 12 {
        let wrong = Gguf::from_bytes(whole[..length].to_vec())
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            wrong.contains("download it again"),
            "{length} bytes: {wrong}"
        );
    }
    assert!(Gguf::from_bytes(whole).is_ok());
}

/// A file that lies gives a sentence or a model, never a panic; and what it lets through can be read.
#[test]
fn files_that_lie_do_no_harm() -> Outcome {
    let llama = convert(&config("llama")?, &weights("llama")?, |_| GgmlDType::F32)?;
    let mut rng = StdRng::seed_from_u64(1);
    for (file, rounds) in [(small(), 60_000), (llama, 4_000)] {
        let whole = file.bytes();
        // The header is where lies matter; data can be anything.
        let header = whole.len()
            - file
                .tensors
                .iter()
                .map(|t| t.bytes.len().next_multiple_of(32))
                .sum::<usize>();
        for _ in 0..rounds {
            let mut bytes = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..header);
                match rng.random_range(0..4) {
                    0 => bytes[at] = rng.random(),
                    1 => bytes[at] ^= 1 << rng.random_range(0..8),
                    2 => bytes[at..(at + 8).min(header)].fill(0xff),
                    _ => bytes[at..(at + 4).min(header)].fill(0),
                }
            }
            let Ok(gguf) = Gguf::from_bytes(bytes) else {
                continue;
            };
            for (name, tensor) in gguf.tensors() {
                if tensor.kind.readable().is_some() {
                    assert!(gguf.bytes(name).is_some(), "{name}");
                }
            }
            for key in gguf.keys() {
                let _ = (gguf.strings(key), gguf.floats(key), gguf.integers(key));
            }
            let Ok((_, names)) = describe(&gguf) else {
                continue;
            };
            for name in [
                "model.layers.0.self_attn.q_proj.weight",
                "model.layers.1.mlp.up_proj.bias",
                "lm_head.weight",
            ] {
                if let Ok(Some(piece)) = names.piece(&gguf, name) {
                    piece.unpack()?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn types_and_architectures_that_are_not_served_are_named() -> Outcome {
    let (config, weights) = (config("llama")?, weights("llama")?);
    let good = convert(&config, &weights, |_| GgmlDType::F32)?;
    for (number, name) in [(20, "IQ4_NL"), (39, "MXFP4"), (9, "Q8_1"), (77, "type 77")] {
        let mut file = good.clone();
        let tensor = file
            .tensors
            .iter_mut()
            .find(|t| t.name == "blk.1.ffn_up.weight");
        tensor.ok_or("gone")?.kind = number;
        let wrong = model(&file, None).map(|_| ()).unwrap_err().to_string();
        assert!(
            wrong.contains("blk.1.ffn_up.weight") && wrong.contains(name),
            "{wrong}"
        );
    }
    let mut file = good.clone();
    file.metadata[0].1 = "mamba".into();
    let wrong = model(&file, None).map(|_| ()).unwrap_err().to_string();
    assert!(
        wrong.contains("`mamba`") && wrong.contains("qwen3moe"),
        "{wrong}"
    );
    let mut file = good.clone();
    file.put("llama.rope.scaling.type", "spiral");
    file.tensors.retain(|t| t.name != "rope_freqs.weight");
    let wrong = model(&file, None).map(|_| ()).unwrap_err().to_string();
    assert!(wrong.contains("`spiral`"), "{wrong}");
    let mut file = good;
    file.tensors.retain(|t| t.name != "blk.0.attn_k.weight");
    let wrong = model(&file, None).map(|_| ()).unwrap_err().to_string();
    assert!(wrong.contains("k_proj"), "{wrong}");
    Ok(())
}

#[test]
fn parts_open_together() -> Outcome {
    let (ids, expected) = reference("llama", LONG)?;
    let whole = convert(&config("llama")?, &weights("llama")?, |_| GgmlDType::F32)?;
    let half = whole.tensors.len() / 2;
    let folder = tempfile::tempdir()?;
    let path = |no: usize| folder.path().join(format!("tiny-{no:05}-of-00002.gguf"));
    for no in [0, 1] {
        let mut part = File::default();
        if no == 0 {
            part.metadata.clone_from(&whole.metadata);
        }
        part.put("split.no", no);
        part.put("split.count", 2usize);
        part.tensors = if no == 0 {
            &whole.tensors[..half]
        } else {
            &whole.tensors[half..]
        }
        .to_vec();
        std::fs::write(path(no + 1), part.bytes())?;
    }
    for no in [1, 2] {
        let found = run(open(&path(no), None)?, &ids)?;
        let kept = expected.get("positions").map_or_else(
            || Tensor::arange(0, ids.len() as i64, &Device::Cpu),
            |p| Ok(p.clone()),
        )?;
        let found = found["logits"].index_select(&kept, 0)?;
        assert!(largest(&(found - &expected["logits"])?)? <= TOLERANCE);
    }
    std::fs::remove_file(path(2))?;
    let wrong = open(&path(1), None).map(|_| ()).unwrap_err().to_string();
    assert!(wrong.contains("part 2 of 2"), "{wrong}");
    Ok(())
}

const FACT: &str = "The capital of France is";

/// The demo model as a file of a type, with its tokenizer and chat template inside.
#[cfg(feature = "demo")]
fn demo(dtype: GgmlDType) -> Result<File, Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    let json = |name: &str| -> Result<Value, Box<dyn std::error::Error>> {
        Ok(serde_json::from_slice(&std::fs::read(folder.join(name))?)?)
    };
    let tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu)?;
    let mut file = convert(&json("config.json")?, &tensors, |_| dtype)?;
    let tokenizer = json("tokenizer.json")?;
    let vocab = tokenizer["model"]["vocab"]
        .as_object()
        .ok_or("no vocabulary")?;
    let added = tokenizer["added_tokens"]
        .as_array()
        .ok_or("no added tokens")?;
    let mut pieces = vec![(String::new(), 1); 2048];
    for (piece, id) in vocab {
        pieces[id.as_u64().ok_or("no id")? as usize]
            .0
            .clone_from(piece);
    }
    for token in added {
        let text = token["content"].as_str().ok_or("no text")?;
        pieces[token["id"].as_u64().ok_or("no id")? as usize] = (text.into(), 3);
    }
    let merges = tokenizer["model"]["merges"].as_array().ok_or("no merges")?;
    let merge = |m: &Value| Some(format!("{} {}", m[0].as_str()?, m[1].as_str()?));
    file.put("tokenizer.ggml.model", "gpt2");
    file.put("tokenizer.ggml.pre", "gpt-2");
    file.put(
        "tokenizer.ggml.merges",
        Meta::Texts(merges.iter().filter_map(merge).collect()),
    );
    let (texts, kinds) = pieces.into_iter().unzip();
    file.put("tokenizer.ggml.tokens", Meta::Texts(texts));
    file.put("tokenizer.ggml.token_type", Meta::Ints(kinds));
    file.put("tokenizer.ggml.bos_token_id", 0usize);
    file.put("tokenizer.ggml.eos_token_id", 3usize);
    file.put("tokenizer.ggml.add_bos_token", true);
    let template = std::fs::read_to_string(folder.join("chat_template.jinja"))?;
    file.put("tokenizer.chat_template", template.as_str());
    Ok(file)
}

#[test]
#[cfg(feature = "demo")]
fn quantized_files_serve_text_edits_and_every_instrument() -> Outcome {
    use lmscope::edit::schedule::Schedule;
    use lmscope::lab::sample::Sampling;
    use lmscope::lab::writer::Writer;

    let options = Options {
        dtype: Some("f32".into()),
        device: Some("cpu".into()),
        ..Options::default()
    };
    let mut original = Lab::open("demo", &options)?;
    let ids = original.model.encode(FACT, false)?;
    let chat = original.model.encode(FACT, true)?;
    let write = |lab: &mut Lab, edits: &[&str]| -> Result<Vec<u32>, Box<dyn std::error::Error>> {
        let edits = edits
            .iter()
            .map(|e| e.parse())
            .collect::<Result<Vec<_>, _>>()?;
        let mut writer = Writer::begin(
            lab,
            ids.clone(),
            Schedule::always(edits),
            Sampling::default(),
        )?;
        (0..4)
            .map(|_| Ok(writer.step(lab, &[])?.choice.id))
            .collect()
    };
    let expected = write(&mut original, &[])?;
    for (dtype, name) in [(GgmlDType::Q8_0, "q8_0"), (GgmlDType::Q5_1, "q5_1")] {
        let opened = model(&demo(dtype)?, None)?;
        assert_eq!((opened.card.dtype, opened.card.chat), (name, true));
        assert_eq!(opened.encode(FACT, false)?, ids);
        assert_eq!(opened.encode(FACT, true)?, chat);
        assert_eq!(opened.tokenizer()?.encode(FACT, Bos::Raw)?, ids[1..]);
        let mut lab = Lab::new(opened);
        // The demo's directions, as measured on this file.
        lab.directions.clone_from(&original.directions);
        for direction in lab.directions.values_mut() {
            direction
                .origin
                .revision
                .clone_from(&lab.model.card.revision);
        }
        assert_eq!(write(&mut lab, &[])?, expected, "{name}");
        let edited = write(
            &mut lab,
            &["zero@mlp_out.4", "zero@attn_out.5", "zero@mlp_out.6"],
        )?;
        assert_ne!(edited, expected, "{name}: edits change what is written");
        every_instrument_serves(&mut lab, &ids, name)?;
    }
    let half = Options {
        dtype: Some("f16".into()),
        ..options
    };
    every_instrument_serves(&mut Lab::open("demo", &half)?, &ids, "f16")
}

/// Those that read files of prompts are about the same passes as the others.
#[cfg(feature = "demo")]
fn every_instrument_serves(lab: &mut Lab, ids: &[u32], dtype: &str) -> Outcome {
    let words = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/lists/languages.tsv");
    // A map belongs to the weights that it was made of.
    let about_text = |of: &&&dyn Instrument| {
        of.needs_prompt(&Arguments::default()) && of.name() != "attribute-lens"
    };
    for of in INSTRUMENTS.iter().filter(about_text) {
        // There is none for this model.
        if of.parameters().iter().any(|p| p.name == "dictionary") {
            continue;
        }
        let mut arguments = Arguments::default();
        if of.parameters().iter().any(|p| p.name == "words") {
            arguments = arguments.with("words", words.display());
        }
        if matches!(of.name(), "attribution" | "circuit") {
            arguments = arguments.with("corrupt", "The capital of Japan is");
        }
        let figure = of.observe(&Run::plain(ids.to_vec()), &arguments, lab)?;
        assert_eq!(figure.provenance.dtype, dtype, "{}", of.name());
    }
    Ok(())
}

/// Begins the stream with a tensor of our own, and lets gradients through.
struct FromStream(Tensor);

impl Tap for FromStream {
    fn visit(&mut self, at: Address, x: Tensor) -> lmscope::error::Result<Tensor> {
        Ok(if at.site == Site::Embed {
            self.0.clone()
        } else {
            x
        })
    }
    fn differentiable(&self) -> bool {
        true
    }
}

#[test]
fn gradients_through_blocks_are_those_of_the_unpacked_weights() -> Outcome {
    let (config, weights) = wide("llama");
    for kind in [GgmlDType::Q4K, GgmlDType::Q8_0, GgmlDType::F16] {
        let file = convert(&config, &weights, |_| kind)?;
        let gradient = |dtype: Option<&str>| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
            let model = model(&file, dtype)?;
            let tokens = model.tokens(&[1, 2, 3])?;
            let width = model.card.d_model;
            let start: Vec<f32> = (0..3 * width)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
                .collect();
            let leaf = Var::from_tensor(&Tensor::from_vec(start, (1, 3, width), &Device::Cpu)?)?;
            let mut tap = FromStream(leaf.as_tensor().clone());
            let network = &model.transformer;
            let end = network.trunk(&tokens, PassSpan::prompt(3), None, &mut tap)?;
            let logits = network.read_out(&end, &mut tap)?;
            let chosen = logits.narrow(1, 2, 1)?.narrow(2, 4, 1)?.sum_all()?;
            let grads = chosen.backward()?;
            let found = grads.get(&leaf).ok_or("no gradient reaches the stream")?;
            Ok(found.flatten_all()?.to_vec1()?)
        };
        let (stored, unpacked) = (gradient(None)?, gradient(Some("f32"))?);
        let size = |v: &mut dyn Iterator<Item = f32>| v.map(|v| v * v).sum::<f32>().sqrt();
        let apart = size(&mut stored.iter().zip(&unpacked).map(|(a, b)| a - b));
        let norm = size(&mut unpacked.iter().copied());
        assert!(norm > 1e-3, "{kind:?}: {norm}");
        assert!(apart < 1e-3 * norm, "{kind:?}: {apart} of {norm}");
    }
    Ok(())
}
