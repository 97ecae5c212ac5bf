//! `lmscope doctor MODEL`: what it says of a model, the identities that it measures, and that a broken model fails.
//!
//! Invariant: models are the reference checkpoints, loaded as users load them. To add a fact, add its words to a table.

use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use lmscope::cli::doctor::identities::{Identity, measure, text};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::load::Options;
use lmscope::model::network::families::FAMILIES;
use serde_json::Value;

use super::gguf::convert::convert;
use super::gguf::{QUANTIZED, model, wide};
use super::parity::CASES;
use super::tools::{edited, every_family, prompt, tiny};

fn reference(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/references")
        .join(case)
}

fn open(case: &str, dtype: &str) -> Lab {
    let options = Options {
        dtype: Some(dtype.into()),
        device: Some("cpu".into()),
        ..Options::default()
    };
    Lab::open(reference(case).to_str().unwrap(), &options).unwrap()
}

fn failed(found: &[Identity]) -> Vec<String> {
    let broken = found.iter().filter(|i| !i.passed());
    broken.map(|i| format!("{i:?}")).collect()
}

fn named<'a>(found: &'a [Identity], name: &str) -> &'a Identity {
    found.iter().find(|i| i.name == name).unwrap()
}

#[test]
fn identities_hold_on_every_reference_checkpoint_in_every_dtype() {
    for case in CASES {
        for dtype in ["f32", "f16", "q8_0"] {
            let mut lab = open(case, dtype);
            let tokens = text(&lab).unwrap();
            assert!(
                tokens.len() > 32,
                "{case}: past windows and original contexts"
            );
            let found = measure(&mut lab, &Run::plain(tokens)).unwrap();
            assert!(
                failed(&found).is_empty(),
                "{case} in {dtype}: {:?}",
                failed(&found)
            );
            for identity in &found {
                let refused = identity.measured.is_none();
                let expected = matches!(
                    (case, identity.name),
                    ("opt_350m", "parts = stream") | ("mixtral" | "olmoe", "neurons = MLP")
                );
                assert_eq!(refused, expected, "{case}: {identity:?}");
            }
        }
    }
}

#[test]
fn identities_hold_on_quantized_files_of_every_type() {
    for case in ["llama", "mixtral"] {
        let (config, weights) = wide(case);
        for (kind, name) in QUANTIZED {
            let file = convert(&config, &weights, |_| kind).unwrap();
            let mut lab = Lab::new(model(&file, None).unwrap());
            let tokens = text(&lab).unwrap();
            let found = measure(&mut lab, &Run::plain(tokens)).unwrap();
            for identity in &found {
                println!("{case} {name}: {} {:?}", identity.name, identity.measured);
            }
            assert!(
                failed(&found).is_empty(),
                "{case} in {name}: {:?}",
                failed(&found)
            );
            let need = &lab.model.need;
            assert!(
                need.weights > file.bytes().len() as u64 * 9 / 10,
                "{case} in {name}: {need:?}"
            );
        }
    }
}

#[test]
fn what_was_reached_is_said() {
    let said = |case: &str, name: &str| {
        let mut lab = open(case, "f32");
        let tokens = text(&lab).unwrap();
        let found = measure(&mut lab, &Run::plain(tokens)).unwrap();
        named(&found, name).what.clone()
    };
    assert!(said("gemma2", "masks").contains("causal; window 16)"));
    assert!(said("llama_dynamic", "cache on = off").contains("read again 32 times"));
    assert!(said("opt_350m", "parts = stream").contains("normalized"));
    let mut short = open("gemma2", "f32");
    let found = measure(&mut short, &Run::plain((1..10).collect())).unwrap();
    assert!(
        named(&found, "masks")
            .what
            .contains("window 16, longer than this text")
    );
}

/// An edit is a fault that can be switched on: what it bends, identities notice.
#[test]
fn a_fault_breaks_its_identity_in_every_family() {
    for (edit, broken) in [
        ("zero:1@final_norm", "lens = logits"),
        ("zero:1@resid_pre.1", "parts = stream"),
        ("zero:1@attn_out.0", "heads = attention"),
        ("zero:1@mlp_out.*", "neurons = MLP"),
        ("zero:0@z.1", "probabilities x values = heads"),
    ] {
        for mut lab in every_family() {
            let run = edited(prompt(24), &[edit]);
            let found = measure(&mut lab, &run).unwrap();
            let identity = named(&found, broken);
            assert!(
                !identity.passed() || identity.measured.is_none(),
                "{edit} on {}: {identity:?}",
                lab.model.card.name
            );
            let plain = measure(&mut lab, &run.unedited()).unwrap();
            assert!(failed(&plain).is_empty(), "{:?}", failed(&plain));
        }
    }
}

#[test]
fn a_model_that_gives_no_numbers_fails() {
    let mut lab = tiny(&FAMILIES[0]);
    let gain = &lab.model.transformer.norm.gain;
    lab.model.transformer.norm.gain = (gain * f64::NAN).unwrap();
    let found = measure(&mut lab, &Run::plain(prompt(12))).unwrap();
    for name in [
        "finite",
        "lens = logits",
        "live lens = logits",
        "cache on = off",
    ] {
        assert!(!named(&found, name).passed(), "{name}");
    }
}

/// Exit code, standard output, standard error.
fn doctor(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lmscope"))
        .arg("doctor")
        .args(arguments)
        .env("HOME", std::env::temp_dir().join("lmscope-tests-home"))
        .output()
        .unwrap();
    let spell = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        spell(output.stdout),
        spell(output.stderr),
    )
}

/// The line of a fact, its columns one space apart.
fn fact(out: &str, name: &str) -> String {
    let line = out.lines().find(|l| l.starts_with(&format!("{name}  ")));
    let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    words.join(" ")
}

#[test]
fn facts_are_those_of_the_configuration() {
    for (case, lines) in [
        (
            "gemma2",
            &[
                ("family", "family gemma2"),
                ("layers", "layers 2"),
                ("heads", "heads 4, key-value heads 2, head_dim 6"),
                ("MLP", "MLP 20 neurons, gated GELU (tanh)"),
                (
                    "arrangement",
                    "arrangement x + norm(f(norm(x))), attention then MLP",
                ),
                (
                    "norm",
                    "norm RMSNorm, gain stored as an offset from 1, epsilon 2e-3",
                ),
                (
                    "positions",
                    "positions rope of 6 of 6 dimensions (halves), theta 100, scaling none",
                ),
                (
                    "windows",
                    "windows the last 16 positions in layers 0; every earlier position in layers 1",
                ),
                ("scores", "scores x 0.377964, soft-cap 3"),
                ("embedding", "embedding x 4"),
                ("logits", "logits x 1, soft-cap 5"),
                ("head", "head tied to the embedding"),
                (
                    "biases",
                    "biases queries, keys and values, attention output",
                ),
                ("context", "context 128 of the 128 it was made for"),
                (
                    "dtype",
                    "dtype matrices kept in f32, activations in f32, norms and softmax in f32",
                ),
            ][..],
        ),
        (
            "qwen3_moe",
            &[
                (
                    "MLP",
                    "MLP 22 neurons, gated SiLU in layers 0; 4 experts of 10 neurons, gated SiLU, 2 a token, their weights made to sum to one in layers 1",
                ),
                (
                    "q/k norm",
                    "q/k norm RMSNorm, epsilon 2e-3 over each head, one gain for all",
                ),
                ("head", "head its own matrix"),
                ("vocabulary", "vocabulary 45 rows, 45 tokens known"),
                (
                    "tokenizer",
                    "tokenizer none; token ids are taken with --ids",
                ),
            ],
        ),
        (
            "phi3",
            &[(
                "positions",
                "positions rope of 6 of 8 dimensions (halves), theta 100, scaling longrope (divisors 1.1 to 1.8 up to 32 tokens, 1.3 to 4.5 past them), magnitude 1.18322",
            )],
        ),
    ] {
        let (code, out, err) = doctor(&[reference(case).to_str().unwrap()]);
        assert_eq!((code, err.as_str()), (0, ""), "{case}: {out}");
        for (name, line) in lines {
            assert_eq!(fact(&out, name), *line, "{case}");
        }
        assert!(
            out.contains("cache on = off") && !out.contains("FAILS"),
            "{out}"
        );
    }
    let (code, out, _) = doctor(&["demo", "--dtype", "q8_0", "--context", "100"]);
    assert_eq!(code, 0, "{out}");
    assert_eq!(
        fact(&out, "tokenizer"),
        "tokenizer byte-level BPE, bos 0, ends 3, 0"
    );
    assert_eq!(
        fact(&out, "context"),
        "context 100 of the 512 it was made for"
    );
    assert_eq!(fact(&out, "chat template"), "chat template yes");
    assert!(fact(&out, "dtype").starts_with("dtype matrices kept in q8_0, activations in f32"));
}

#[test]
fn json_says_the_same_and_a_damaged_model_exits_with_one() {
    let llama = reference("llama");
    let (code, out, err) = doctor(&[llama.to_str().unwrap(), "--format", "json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, err.as_str(), &report["passed"]),
        (0, "", &Value::Bool(true))
    );
    let family = report["facts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["what"] == "family");
    assert_eq!(family.unwrap()["found"], "llama");
    let identities = report["identities"].as_array().unwrap();
    assert!(identities.len() > 8 && identities.iter().all(|i| i["passed"] == true));
    assert!(
        identities
            .iter()
            .all(|i| i["difference"].as_f64() <= i["tolerance"].as_f64())
    );

    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(llama.join("config.json"), folder.path().join("config.json")).unwrap();
    let mut tensors =
        candle_core::safetensors::load(llama.join("model.safetensors"), &Device::Cpu).unwrap();
    let name = "model.layers.1.mlp.down_proj.weight";
    let whole = tensors[name].to_dtype(DType::F32).unwrap();
    let broken = Tensor::full(f32::NAN, whole.shape(), &Device::Cpu).unwrap();
    tensors.insert(name.into(), broken);
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    for format in ["text", "json"] {
        let (code, out, err) = doctor(&[folder.path().to_str().unwrap(), "--format", format]);
        assert_eq!(code, 1, "{out}");
        assert!(
            err.starts_with("lmscope: ")
                && err.contains("finite")
                && err.trim_end().lines().count() == 1,
            "{err}"
        );
        if format == "json" {
            let report: Value = serde_json::from_str(&out).unwrap();
            assert_eq!(report["passed"], false);
        } else {
            assert!(out.contains("FAILS"), "{out}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_read_and_what_fits_once_is_made_smaller() {
    let folder = reference("llama");
    let open = |memory: u64, dtype: Option<&str>| {
        let options = Options {
            dtype: dtype.map(Into::into),
            device: Some("cpu".into()),
            memory: Some(memory),
            ..Options::default()
        };
        lmscope::model::load::load(folder.to_str().unwrap(), &options)
    };
    let roomy = open(1 << 40, None).unwrap();
    assert_eq!((roomy.card.dtype, roomy.notes.len()), ("f32", 0));
    let total = roomy.need.total();
    let tight = open(total + total / 2, None).unwrap();
    assert_eq!((tight.card.dtype, tight.notes.len()), ("f16", 1));
    assert!(tight.notes[0].contains("--dtype f32"), "{:?}", tight.notes);
    assert_eq!(
        open(total, Some("f32")).unwrap().card.dtype,
        "f32",
        "it was asked for, and fits once"
    );
    let refused = open(total / 2, None).err().unwrap().to_string();
    assert!(
        refused.contains("llama") && refused.contains("free"),
        "{refused}"
    );
}

/// The estimate against what a process really takes. The weights are 40 MB, so that they count.
#[cfg(target_os = "linux")]
#[test]
fn the_estimate_is_near_what_is_taken_and_nothing_is_held_twice() {
    use lmscope::model::memory::{MemoryPlan, need, place};
    use lmscope::model::network::linear::Precision;

    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "phi3", "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 4096, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "pad_token_id": 0
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut tensors = std::collections::HashMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let spread = if shape.len() == 1 { 0.0 } else { 0.02 };
        let mean = if shape.len() == 1 { 1.0f32 } else { 0.0 };
        let t = Tensor::randn(mean, spread, shape, &Device::Cpu).unwrap();
        tensors.insert(name, t.to_dtype(DType::F16).unwrap());
    };
    add("model.embed_tokens.weight".into(), &[4096, 512]);
    add("lm_head.weight".into(), &[4096, 512]);
    add("model.norm.weight".into(), &[512]);
    for layer in 0..8 {
        for (name, shape) in [
            ("input_layernorm", &[512][..]),
            ("post_attention_layernorm", &[512]),
            ("self_attn.qkv_proj", &[1536, 512]),
            ("self_attn.o_proj", &[512, 512]),
            ("mlp.gate_up_proj", &[4096, 512]),
            ("mlp.down_proj", &[512, 2048]),
        ] {
            add(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    let stored = tensors.values().map(|t| 2 * t.elem_count() as u64).sum();
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    let (_, b) = lmscope::model::network::families::read(&config).unwrap();
    let lab = |arguments: &[&str]| -> (u64, u64) {
        let output = Command::new(env!("CARGO_BIN_EXE_lmscope"))
            .args(["bench", "--format", "json", "-n", "2"])
            .args(arguments)
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |key: &str| report[key].as_u64().unwrap();
        (
            number("peak_memory_bytes"),
            number("estimated_memory_bytes"),
        )
    };
    let path = folder.path().to_str().unwrap();
    for (dtype, precision) in [
        ("f32", Precision::Dense(DType::F32)),
        ("f16", Precision::Dense(DType::F16)),
        ("q8_0", Precision::Q8),
    ] {
        let (peak, estimate) = lab(&[path, "--dtype", dtype]);
        let plan = MemoryPlan {
            name: "",
            blueprint: &b,
            context: 256,
            place: place(&Device::Cpu),
            available: None,
            stored: Some(stored),
        };
        assert_eq!(estimate, plan.need(precision).total());
        println!(
            "{dtype}: peak {peak}, estimated {estimate}, weights {}",
            need(&b, precision, 256, None).weights
        );
        assert!(
            peak < estimate * 3 / 2 && peak > estimate / 2,
            "{dtype}: {peak} against {estimate}"
        );
    }
    let (peak, estimate) = lab(&["demo"]);
    println!("demo: peak {peak}, estimated {estimate}");
    assert!(
        peak < estimate * 2 && peak > estimate / 4,
        "the demo: {peak} against {estimate}"
    );
}
