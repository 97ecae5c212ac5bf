//! The command line as scripts see it: exit codes, messages, and what is written where.
//!
//! Invariant: every test runs the built binary, offline, with a home of its own. To add a kind of bad input, add a row to
//! one of the tables or a test that makes the files.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use assert_cmd::Command;
use candle_core::{DType, Device, Tensor};
use lmscope::instruments::{Arguments, INSTRUMENTS, Instrument};
use lmscope::model::network::site::SITES;
use serde_json::Value;
use tempfile::TempDir;

/// The start of a planted fact, which the demo completes with a word and a full stop.
const FACT: &str = "The capital of France is";

const BINARY: &str = env!("CARGO_BIN_EXE_lmscope");

/// The binary, with an empty home and no model cache.
fn lmscope(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    let home = std::env::temp_dir().join("lmscope-tests-home");
    for name in [
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "XDG_CACHE_HOME",
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
        "LMSCOPE_LOG",
    ] {
        command.env_remove(name);
    }
    command
        .env("HOME", home)
        .env("HF_HUB_OFFLINE", "1")
        .args(arguments);
    command
}

/// Exit code, standard output, standard error.
pub(super) fn outcome(arguments: &[&str]) -> (i32, String, String) {
    let output = lmscope(arguments).output().unwrap();
    let spell = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        spell(output.stdout),
        spell(output.stderr),
    )
}

/// Standard output of a command that must succeed.
pub(super) fn written(arguments: &[&str]) -> String {
    let (code, out, err) = outcome(arguments);
    assert_eq!(code, 0, "{arguments:?}: {err}");
    out
}

/// Asserts one sentence on standard error that holds `words`, nothing on standard output, and an exit code.
pub(super) fn refused(arguments: &[&str], expected: i32, words: &[&str]) {
    let (code, out, err) = outcome(arguments);
    assert_eq!(code, expected, "{arguments:?}: {err}");
    assert_eq!(out, "", "{arguments:?}");
    assert!(
        err.starts_with("lmscope: ") && err.trim_end().lines().count() == 1,
        "{arguments:?}: {err}"
    );
    for word in words {
        assert!(err.contains(word), "{arguments:?} lacks {word}: {err}");
    }
}

fn reference(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/references")
        .join(case)
}

/// A copy of the llama reference to damage.
fn damaged() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(reference("llama").join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().to_str().unwrap().to_string();
    (folder, path)
}

fn configure(folder: &TempDir, change: impl FnOnce(&mut Value)) {
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn a_folder_without_a_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    refused(&["generate", path, "-p", "x"], 1, &["no config.json"]);
    refused(
        &["lens", "/no/such/folder", "-p", "x"],
        1,
        &["no such folder"],
    );
    refused(
        &["generate", "nobody/nothing", "-p", "x"],
        1,
        &["hf download nobody/nothing"],
    );
    let file = folder.path().join("model.bin");
    std::fs::write(&file, "x").unwrap();
    refused(
        &["generate", file.to_str().unwrap(), "-p", "x"],
        1,
        &["it is a file"],
    );
}

#[test]
fn an_unknown_model_type_is_named_with_the_known_ones() {
    let (folder, path) = damaged();
    configure(&folder, |c| c["model_type"] = "mamba".into());
    refused(
        &["generate", &path, "--ids", "1,2"],
        1,
        &["mamba", "llama", "qwen2", "gpt2"],
    );
    std::fs::write(folder.path().join("config.json"), "{ not json").unwrap();
    refused(&["generate", &path, "--ids", "1,2"], 1, &["config.json"]);
}

#[test]
fn a_missing_tensor_is_named() {
    let (folder, path) = damaged();
    configure(&folder, |c| c["num_hidden_layers"] = 3.into());
    refused(
        &["generate", &path, "--ids", "1,2"],
        1,
        &["model.layers.2."],
    );
}

#[test]
fn a_misshapen_tensor_is_named_with_both_shapes() {
    let (folder, path) = damaged();
    configure(&folder, |c| c["intermediate_size"] = 29.into());
    refused(
        &["generate", &path, "--ids", "1,2"],
        1,
        &["mlp.", "28", "29"],
    );
}

#[test]
fn a_truncated_file_is_named() {
    let (folder, path) = damaged();
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    for kept in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&weights, &bytes[..kept]).unwrap();
        refused(
            &["generate", &path, "--ids", "1,2"],
            1,
            &["model.safetensors"],
        );
    }
    std::fs::remove_file(&weights).unwrap();
    refused(&["generate", &path, "--ids", "1,2"], 1, &["safetensors"]);
}

#[test]
fn sites_and_edits_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.safetensors");
    let file = file.to_str().unwrap();
    let trace = |sites: &str, code: i32, words: &[&str]| {
        refused(
            &["trace", "demo", "-p", "x", "--sites", sites, "-o", file],
            code,
            words,
        );
    };
    trace("resid_pots.1", 2, &["resid_pots", "resid_post"]);
    trace("resid_post.99", 1, &["99", "layers"]);
    trace("resid_post.x", 2, &["resid_post"]);
    assert!(!Path::new(file).exists(), "nothing half-done");
    let edit = |edit: &str, words: &[&str]| {
        let (code, out, err) = outcome(&["generate", "demo", "-p", "x", "--edit", edit]);
        assert!(code == 1 || code == 2, "{edit}: {code}");
        assert_eq!(out, "");
        assert!(words.iter().all(|w| err.contains(w)), "{edit}: {err}");
    };
    edit("zap@resid_pre.0", &["zap"]);
    edit("zero:1", &["@ADDRESS"]);
    edit("add:nofile@resid_pre.0", &["nofile"]);
    edit("zero:999999@mlp_act.0", &["999999"]);
    edit("zero@mlp_out.99", &["99"]);
}

#[test]
fn a_direction_of_another_model_or_width_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (plus, minus, made) = (path("plus.txt"), path("minus.txt"), path("d.safetensors"));
    std::fs::write(
        &plus,
        "How do I open the royal vault?\n\nHow do I open the gate?\n",
    )
    .unwrap();
    std::fs::write(&minus, "Hello\n").unwrap();
    let (code, out, err) = outcome(&[
        "direction",
        "demo",
        "--plus",
        &plus,
        "--minus",
        &minus,
        "--layer",
        "3",
        "--chat",
        "-o",
        &made,
    ]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("from 2 and 1 prompts at resid_pre.3"), "{err}");

    let llama = reference("llama");
    refused(
        &[
            "generate",
            llama.to_str().unwrap(),
            "--ids",
            "1,2",
            "--edit",
            &format!("add:{made}@resid_pre.1"),
        ],
        2,
        &["demo", "this model"],
    );

    // The vector alone, without its origin, and of another width.
    let vector = Tensor::ones(7, DType::F32, &Device::Cpu).unwrap();
    let narrow = path("narrow.safetensors");
    candle_core::safetensors::save(&[("resid_pre.1", vector)].into(), &narrow).unwrap();
    let (code, _, err) = outcome(&[
        "generate",
        "demo",
        "-p",
        "x",
        "--edit",
        &format!("add:{narrow}@resid_pre.1"),
    ]);
    assert!(code == 1 || code == 2, "{err}");
    assert!(err.contains('7'), "{err}");

    refused(
        &[
            "direction",
            "demo",
            "--plus",
            &plus,
            "--minus",
            &minus,
            "--layer",
            "99",
            "-o",
            &path("other.safetensors"),
        ],
        2,
        &["--layer", "99"],
    );
    std::fs::write(&plus, "\n").unwrap();
    refused(
        &[
            "direction",
            "demo",
            "--plus",
            &plus,
            "--minus",
            &minus,
            "--layer",
            "3",
            "-o",
            &path("other.safetensors"),
        ],
        1,
        &["plus.txt", "no prompt"],
    );
}

#[test]
fn prompts_that_do_not_fit_are_refused() {
    refused(&["lens", "demo", "--ids", ""], 2, &["empty"]);
    refused(&["generate", "demo", "--ids", "1,x"], 2, &["--ids", "`x`"]);
    refused(&["generate", "demo", "--ids", "999999"], 2, &["999999"]);
    refused(
        &[
            "generate",
            "demo",
            "-p",
            "a b c d e f g h",
            "--context",
            "4",
        ],
        1,
        &["4", "--context"],
    );
    refused(
        &["generate", "demo", "-p", "x", "--context", "99999999"],
        2,
        &["--context"],
    );
    refused(
        &["generate", "demo", "-p", "x", "--temperature", "nan"],
        2,
        &["--temperature"],
    );
    refused(
        &["generate", "demo", "-p", "x", "--threads", "0"],
        2,
        &["--threads"],
    );
    refused(
        &["generate", "demo", "-p", "x", "--dtype", "f13"],
        2,
        &["f13", "f32"],
    );
    refused(
        &["generate", "demo", "-p", "x", "--device", "abacus"],
        2,
        &["abacus", "cpu"],
    );
    refused(
        &["generate", reference("llama").to_str().unwrap(), "-p", "x"],
        1,
        &["tokenizer.json", "--ids"],
    );
}

#[test]
fn usage_errors_exit_with_two_and_help_with_zero() {
    for arguments in [
        &["generate", "demo"][..],
        &["generate"],
        &["lens", "demo", "-p", "x", "--top", "0"],
        &["neurons", "demo", "-p", "x", "--rank", "luck"],
        &["trace", "demo", "-p", "x", "--sites", "logits"],
        &["completions", "tcl"],
        &["generate", "demo", "-p", "x", "--ids", "1"],
    ] {
        let (code, out, err) = outcome(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(!err.is_empty());
    }
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["generate", "--help"],
        &["lens", "--help"],
    ] {
        assert!(!written(arguments).is_empty());
    }
}

#[test]
fn without_a_terminal_the_demo_streams_with_its_lens() {
    let out = written(&[]);
    let (tokens, _) = lines(&[
        "generate", "demo", "-p", FACT, "-n", "1", "--format", "jsonl",
    ]);
    let next = tokens[0]["text"].as_str().unwrap();
    assert!(out.contains(&format!("\n{FACT}{next}")), "{out}");
    assert!(
        out.contains("layer 0") && out.contains('✓') && !out.contains('\u{1b}'),
        "{out}"
    );
    assert_eq!(
        out,
        written(&["demo"]),
        "the model that is meant by default"
    );
}

#[test]
fn generate_writes_the_continuation_alone() {
    let (tokens, _) = lines(&[
        "generate", "demo", "-p", FACT, "-n", "2", "--format", "jsonl",
    ]);
    let text: String = tokens.iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(
        written(&["generate", "demo", "-p", FACT, "-n", "2"]),
        format!("{text}\n")
    );
}

fn lines(arguments: &[&str]) -> (Vec<Value>, Value) {
    let out = written(arguments);
    let mut lines: Vec<Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let summary = lines.pop().unwrap()["summary"].clone();
    (lines, summary)
}

#[test]
fn jsonl_is_a_line_a_token_and_a_summary() {
    let (tokens, summary) = lines(&[
        "generate", "demo", "-p", FACT, "-n", "2", "--format", "jsonl",
    ]);
    assert_eq!(tokens.len(), 2);
    let keys: Vec<&String> = tokens[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["pos", "id", "text", "logprob", "rank"]);
    assert!(!tokens[0]["text"].as_str().unwrap().is_empty() && tokens[0]["id"].is_u64());
    assert_eq!(tokens[0]["pos"], summary["prompt_tokens"]);
    assert_eq!(
        tokens[0]["rank"], 0,
        "temperature 0 takes the most probable"
    );
    assert!(tokens[0]["logprob"].as_f64().unwrap() <= 0.0);
    assert_eq!(summary["tokens"], 2);
    assert_eq!(summary["ending"], "count");
    assert_eq!(summary["seed"], 1);
    assert_eq!(summary["temperature"], 0.0);
    assert_eq!(summary["edits"], Value::Array(vec![]));
    assert_eq!(summary["check"]["passed"], true);
    assert!(summary["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(summary["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_seed_decides_what_is_drawn() {
    let draw = |seed: &str| {
        let (tokens, _) = lines(&[
            "generate",
            "demo",
            "-p",
            "Once upon a time",
            "-n",
            "24",
            "--temperature",
            "2",
            "--seed",
            seed,
            "--format",
            "jsonl",
        ]);
        tokens
            .iter()
            .map(|t| t["id"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
}

/// A figure of other texts is read unedited, so no receipt says that an edit did something there.
#[test]
fn a_figure_of_other_texts_has_no_receipt() {
    let asked = |from: &[&str]| {
        let all = [
            "patchscope",
            "demo",
            "-p",
            FACT,
            "--layer",
            "3",
            "--edit",
            "zero@mlp_out.1",
        ];
        let (code, out, err) = outcome(&[&all, from].concat());
        assert_eq!(code, 0, "{err}");
        (out, err)
    };
    let (own, receipts) = asked(&[]);
    assert!(
        own.contains("edits zero@mlp_out.1") && receipts.contains("fired"),
        "{own}{receipts}"
    );
    let (other, receipts) = asked(&["--from", "The capital of Japan is"]);
    assert!(
        other.contains("edits none") && !receipts.contains("fired"),
        "{other}{receipts}"
    );
}

#[test]
fn strength_zero_changes_nothing_and_an_edit_leaves_a_receipt() {
    let run = |edit: &str| {
        lines(&[
            "generate", "demo", "-p", FACT, "-n", "6", "--format", "jsonl", "--edit", edit,
        ])
    };
    let (plain, _) = lines(&[
        "generate", "demo", "-p", FACT, "-n", "6", "--format", "jsonl",
    ]);
    let (neutral, summary) = run("zero@mlp_out.**0");
    assert_eq!(neutral, plain, "bit for bit");
    assert_eq!(summary["receipts"][0]["active"], false);

    let (edited, summary) = run("zero@mlp_out.*");
    assert!(edited.iter().all(|t| t["kl"].as_f64().is_some()));
    assert!(edited[0]["kl"].as_f64().unwrap() > 0.0);
    let receipt = &summary["receipts"][0];
    assert_eq!(receipt["edit"], "zero@mlp_out.*");
    assert!(receipt["fired"].as_u64().unwrap() > 0 && receipt["kl"].as_f64().unwrap() > 0.0);

    let (code, _, err) = outcome(&[
        "generate",
        "demo",
        "-p",
        FACT,
        "-n",
        "2",
        "--edit",
        "zero@mlp_out.0:400..410",
    ]);
    assert_eq!(code, 0);
    assert!(err.contains("NEVER FIRED"), "{err}");
}

#[test]
fn trace_keeps_every_address_by_name_and_shape() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.safetensors");
    let llama = reference("llama");
    let sites = "embed,resid_post.*,mlp_act.1,attn_probs.0,z.0,k.1,final_norm,logits";
    let out = written(&[
        "trace",
        llama.to_str().unwrap(),
        "--ids",
        "3,1,4,1,5",
        "--sites",
        sites,
        "-o",
        file.to_str().unwrap(),
    ]);
    assert_eq!(out, "");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let tokens = tensors.remove("tokens").unwrap();
    assert_eq!(
        (tokens.dtype(), tokens.to_vec1::<i64>().unwrap()),
        (DType::I64, vec![3, 1, 4, 1, 5])
    );
    let mut shapes: Vec<(String, Vec<usize>)> = tensors
        .iter()
        .map(|(n, t)| (n.clone(), t.dims().to_vec()))
        .collect();
    shapes.sort();
    let expected = [
        ("attn_probs.0", &[4, 5, 5][..]),
        ("embed", &[5, 20]),
        ("final_norm", &[5, 20]),
        ("k.1", &[5, 2, 8]),
        ("logits", &[5, 53]),
        ("mlp_act.1", &[5, 28]),
        ("resid_post.0", &[5, 20]),
        ("resid_post.1", &[5, 20]),
        ("z.0", &[5, 4, 8]),
    ];
    assert_eq!(shapes, expected.map(|(n, s)| (n.to_string(), s.to_vec())));
    assert!(tensors.values().all(|t| t.dtype() == DType::F32));
    let bytes = std::fs::read(&file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let provenance: Value =
        serde_json::from_str(&header.metadata().as_ref().unwrap()["lmscope.provenance"]).unwrap();
    assert_eq!(provenance["tokens"], serde_json::json!([3, 1, 4, 1, 5]));
}

#[test]
fn trace_agrees_with_what_transformers_computed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.safetensors");
    let llama = reference("llama");
    let expected =
        candle_core::safetensors::load(llama.join("activations.short.safetensors"), &Device::Cpu)
            .unwrap();
    let ids: Vec<String> = expected["tokens"]
        .to_dtype(DType::I64)
        .unwrap()
        .to_vec1::<i64>()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    written(&[
        "trace",
        llama.to_str().unwrap(),
        "--ids",
        &ids.join(","),
        "--sites",
        "resid_post.*,logits",
        "-o",
        file.to_str().unwrap(),
    ]);
    let found = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    for name in ["resid_post.0", "resid_post.1", "logits"] {
        let difference = (&expected[name] - &found[name])
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(difference <= 5e-5, "{name}: {difference}");
    }
}

/// What an instrument is asked about: a text, or the files that it reads instead.
fn start(of: &dyn Instrument) -> Vec<String> {
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let lists = demo.join("lists");
    if of.name() == "relation" {
        let file = demo.join("relations/capital.json").display().to_string();
        return ["--relation", &file, "--prompts", "zero-shot"]
            .map(str::to_string)
            .to_vec();
    }
    if of.needs_prompt(&Arguments::default()) {
        let mut start: Vec<String> = vec!["-p".into(), FACT.into()];
        if of.parameters().iter().any(|p| p.name == "words") {
            let words = lists.join("languages.tsv");
            start.extend(["--words".into(), words.display().to_string()]);
        }
        if matches!(of.name(), "attribution" | "circuit") {
            start.extend(["--corrupt".into(), "The capital of Japan is".into()]);
        }
        if of.name() == "attribute-lens" {
            let map = demo.join("vectors/capital.safetensors");
            start.extend(["--map".into(), map.display().to_string()]);
        }
        return start;
    }
    // Of the weights alone.
    if !of.parameters().iter().any(|p| p.name == "plus") {
        return Vec::new();
    }
    let side = |name: &str| {
        let file = lists.join(format!("refusal_{name}.txt"));
        [format!("--{name}"), file.display().to_string()]
    };
    [side("plus"), side("minus")].concat()
}

#[test]
fn every_instrument_writes_json_with_its_provenance() {
    for of in INSTRUMENTS {
        let start = start(*of);
        let called = |more: &[&str]| {
            let start = start.iter().map(String::as_str);
            let all: Vec<&str> = [of.name(), "demo"].into_iter().chain(start).collect();
            written(&[&all, more].concat())
        };
        let out = called(&["--format", "json"]);
        let figure: Value = serde_json::from_str(&out).unwrap();
        for key in ["title", "body", "notes", "provenance"] {
            assert!(!figure[key].is_null(), "{} {key}", of.name());
        }
        assert_eq!(figure["provenance"]["model"], "demo");
        assert!(out.contains(of.name()));
        assert!(called(&[]).contains(of.name()), "text is the default");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lens.csv");
    assert_eq!(
        written(&["lens", "demo", "-p", FACT, "-o", file.to_str().unwrap()]),
        ""
    );
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .starts_with("# figure: lens"),
        "the ending chooses the format"
    );
}

#[test]
fn a_patchscope_reads_with_a_prompt_of_its_own() {
    let out = written(&[
        "patchscope",
        "demo",
        "-p",
        FACT,
        "--layer",
        "7",
        "--target-prompt",
        "Tokyo: capital of Japan, x",
        "--slot",
        "x",
        "--target",
        "0",
        "--tokens",
        "2",
    ]);
    assert!(out.contains("own prompt") && out.contains("Tokyo"), "{out}");
}

#[test]
fn bench_says_what_the_contract_promises() {
    let out = written(&["bench", "demo", "-n", "8", "--format", "json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    for key in [
        "load_ms",
        "first_token_ms",
        "bare_tokens_per_second",
        "live_tokens_per_second",
        "live_ratio",
        "edited_ratio",
        "accompanied_ratio",
        "prompt_tokens_per_second",
    ] {
        assert!(
            report[key].as_f64().is_some_and(|n| n > 0.0),
            "{key}: {}",
            report[key]
        );
    }
    assert_eq!(
        (&report["tokens"], &report["model"]),
        (&Value::from(8), &Value::from("demo"))
    );
    assert!(report["first_token_ms"].as_f64() >= report["load_ms"].as_f64());
}

#[test]
fn lists_are_the_registries() {
    let sites: Value = serde_json::from_str(&written(&["sites", "--format", "json"])).unwrap();
    assert_eq!(sites.as_array().unwrap().len(), SITES.len());
    let gpt2 = written(&["sites", "--model", reference("gpt2").to_str().unwrap()]);
    assert!(
        gpt2.lines()
            .any(|l| l.starts_with("mlp_gate") && l.contains("no gate")),
        "{gpt2}"
    );
    for (list, word) in [
        ("models", "demo"),
        ("themes", "terminal"),
        ("keys", "undo"),
        ("doctor", "last lens row is the model's own output"),
    ] {
        let out = written(&[list]);
        assert!(out.contains(word), "{list}: {out}");
        serde_json::from_str::<Value>(&written(&[list, "--format", "json"])).unwrap();
    }
}

#[test]
fn models_of_the_cache_are_listed_and_those_of_unknown_families_marked() {
    let cache = tempfile::tempdir().unwrap();
    for (id, kind) in [
        ("models--a--known", "llama"),
        ("models--b--strange", "mamba"),
    ] {
        let snapshot = cache.path().join(id).join("snapshots/c0ffee");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(cache.path().join(id).join("refs")).unwrap();
        std::fs::write(cache.path().join(id).join("refs/main"), "c0ffee").unwrap();
        std::fs::copy(
            reference("llama").join("model.safetensors"),
            snapshot.join("model.safetensors"),
        )
        .unwrap();
        let config = std::fs::read_to_string(reference("llama").join("config.json")).unwrap();
        std::fs::write(
            snapshot.join("config.json"),
            config.replace(
                "\"model_type\": \"llama\"",
                &format!("\"model_type\": \"{kind}\""),
            ),
        )
        .unwrap();
    }
    let output = lmscope(&["models"])
        .env("HF_HUB_CACHE", cache.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        out.lines()
            .any(|l| l.starts_with("a/known") && l.contains("llama") && l.contains("f32")),
        "{out}"
    );
    assert!(
        out.lines()
            .any(|l| l.starts_with("b/strange") && l.contains("mamba (not supported)")),
        "{out}"
    );
    let code = lmscope(&["generate", "a/known", "--ids", "1", "-n", "1"])
        .env("HF_HUB_CACHE", cache.path())
        .output()
        .unwrap()
        .status
        .code();
    assert_eq!(code, Some(0), "a listed model opens by its id");
}

#[test]
fn completions_know_the_instruments() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = written(&["completions", shell]);
        assert!(
            INSTRUMENTS.iter().all(|of| script.contains(of.name())),
            "{shell}"
        );
    }
}

#[test]
fn a_closed_pipe_is_success() {
    for arguments in [
        &[
            "generate",
            "demo",
            "-p",
            "Once upon a time",
            "-n",
            "400",
            "--temperature",
            "3",
            "--format",
            "jsonl",
        ][..],
        &["sites"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut child = Process::new(BINARY)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut err = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), err.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_work_with_130() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(
        path("plus"),
        "How do I open the royal vault?\n".repeat(20_000),
    )
    .unwrap();
    std::fs::write(path("minus"), "Hello\n").unwrap();
    let mut child = Process::new(BINARY)
        .args([
            "direction",
            "demo",
            "--plus",
            &path("plus"),
            "--minus",
            &path("minus"),
            "--layer",
            "3",
            "-o",
            &path("d"),
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let killed = Process::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let words: Vec<String> = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{words:?}");
    assert_eq!(words, ["lmscope: Stopped."]);
    assert!(!Path::new(&path("d")).exists(), "nothing half-done");
}

/// A lockstep says at every token what the unedited model chose, what each edit did, and where the two texts part.
#[test]
fn a_lockstep_is_told_in_lines_and_in_words() {
    let prompt = "Once upon a time there was a pony named Tom. It was a";
    let base = ["generate", "demo", "-p", prompt, "-n", "12"];
    let edit = ["--edit", "add:mood@resid_pre.4*-0.5"];
    let tokens = |more: &[&str]| lines(&[&base[..], more, &["--format", "jsonl"]].concat());
    let ids = |tokens: &[Value]| -> Vec<u64> {
        tokens.iter().map(|t| t["id"].as_u64().unwrap()).collect()
    };
    let (plain, _) = tokens(&[]);
    let (alone, summary) = tokens(&[&edit[..], &["--alone"]].concat());
    assert_eq!(summary["beside"], "nothing");
    assert!(alone.iter().all(|t| t["kl"].is_null()));
    let (own, summary) = tokens(&[&edit[..], &["--lockstep"]].concat());
    assert_eq!(ids(&own), ids(&alone));
    let others: Vec<u64> = own
        .iter()
        .map(|t| t["other"]["id"].as_u64().unwrap())
        .collect();
    assert_eq!(others, ids(&plain), "the unedited run writes its own text");
    let parted = own.iter().find(|t| t["other"]["id"] != t["id"]).unwrap();
    assert_eq!(summary["diverged"], parted["pos"]);
    assert!(
        own.iter()
            .all(|t| t["edits"][0]["relative"].as_f64().unwrap() > 0.0)
    );
    let receipt = &summary["receipts"][0];
    assert!(receipt["positions"].as_array().unwrap().len() > 12);
    let (forced, _) = tokens(&[&edit[..], &["--forced"]].concat());
    assert_eq!(ids(&forced), ids(&plain));
    let (_, _, said) = outcome(&[&base[..], &edit, &["--lockstep"]].concat());
    assert!(said.contains("they diverge at position"), "{said}");
}

/// Without a dictionary there is nothing to show: a mistake in usage, whatever the model.
#[test]
fn features_without_a_dictionary_are_a_mistake_in_usage() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references/llama");
    let (code, out, err) = outcome(&["features", model.to_str().unwrap(), "--ids", "1,2,3"]);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(err.contains("--dictionary PATH"), "{err}");
}

/// Names of dictionaries stand in the user's config.toml.
#[test]
fn a_dictionary_has_a_name_in_the_users_config() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join(".config/lmscope");
    std::fs::create_dir_all(&config).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references/llama");
    let own: Value =
        serde_json::from_slice(&std::fs::read(model.join("config.json")).unwrap()).unwrap();
    let width = own["hidden_size"].as_u64().unwrap() as usize;
    let numbers = |count: usize| {
        (0..count)
            .map(|i| (i % 5) as f32 - 2.0)
            .collect::<Vec<f32>>()
    };
    let (w_enc, w_dec) = (numbers(width * 6), numbers(width * 6));
    let sae = config.join("sae");
    crate::dictionaries::hostile::saelens(&sae, width, 6, &w_enc, &w_dec, "standard");
    std::fs::write(
        config.join("config.toml"),
        "[dictionaries]\nmine = \"sae\"\n",
    )
    .unwrap();
    let features = |name: &str| {
        let arguments = [
            "features",
            model.to_str().unwrap(),
            "--ids",
            "1,2,3",
            "--dictionary",
            name,
        ];
        let mut command = lmscope(&arguments);
        command.env("HOME", folder.path());
        command.output().unwrap()
    };
    assert!(features("mine").status.success());
    let output = features("other");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("known: mine"),
        "{said}"
    );
}
