//! Dictionaries of every format, written by `tests/references/dictionaries.py` in each tool's own writer or layout: features and
//! reconstructions equal the tool's. And files that lie.

mod features;
mod handles;
pub mod hostile;
mod index;
mod large;
mod opened;
mod planted;
mod screen;
mod single;
mod training;

use std::path::{Path, PathBuf};

use lmscope::dictionaries::dictionary::Encoded;
use lmscope::dictionaries::gate::FeatureGate;
use lmscope::dictionaries::{Dictionary, formats};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references/dictionaries")
}

fn expected() -> serde_json::Map<String, Value> {
    let text = std::fs::read(folder().join("expected.json")).unwrap();
    let Value::Object(map) = serde_json::from_slice(&text).unwrap() else {
        panic!("an object");
    };
    map
}

/// Rows of numbers, one after another.
fn rows(of: &Value) -> Vec<Vec<f32>> {
    let row = |row: &Value| -> Vec<f32> {
        let numbers = row.as_array().unwrap().iter();
        numbers.map(|v| v.as_f64().unwrap() as f32).collect()
    };
    of.as_array().unwrap().iter().map(row).collect()
}

fn flat(of: &Value) -> Vec<f32> {
    rows(of).concat()
}

fn open(path: &str) -> Dictionary {
    let found = formats::open(&folder().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(found.len(), 1, "{path}");
    found.into_iter().next().unwrap()
}

fn dense(encoded: &Encoded, features: usize) -> Vec<f32> {
    let mut out = vec![0f32; encoded.features.len() * features];
    for (row, active) in encoded.features.iter().enumerate() {
        for (f, value) in active {
            out[row * features + *f as usize] = *value;
        }
    }
    out
}

#[track_caller]
fn close(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= 1e-5 * b.abs().max(1.0),
            "{name}, number {i}: {a}, and its tool has {b}"
        );
    }
}

#[test]
fn features_and_reconstructions_are_those_of_each_tool() {
    let cases = expected();
    let mut count = 0;
    for (name, case) in &cases {
        let (Some(x), Some(features)) = (case.get("x"), case.get("features")) else {
            continue;
        };
        let dictionary = open(case["path"].as_str().unwrap());
        let x = flat(x);
        let encoded = dictionary.encode(&[&x]).unwrap();
        let features = flat(features);
        close(name, &dense(&encoded, dictionary.features()), &features);
        // The same features, not only about the same numbers.
        assert!(
            features.iter().any(|f| *f != 0.0) && features.contains(&0.0),
            "{name}"
        );
        let output = dictionary.decode(0, &encoded, &x).unwrap();
        close(name, &output, &flat(&case["output"]));
        count += 1;
    }
    assert_eq!(count, 41);
}

/// Alone or among others, a row has the same features.
#[test]
fn a_row_does_not_depend_on_the_others() {
    for (name, case) in expected() {
        let Some(x) = case.get("x").filter(|_| case.get("features").is_some()) else {
            continue;
        };
        let dictionary = open(case["path"].as_str().unwrap());
        let (all, one) = (flat(x), rows(x)[1].clone());
        let all = dictionary.encode(&[&all]).unwrap();
        let one = dictionary.encode(&[&one]).unwrap();
        assert_eq!(all.features[1], one.features[0], "{name}");
    }
}

/// T22: what the tool itself folds, and what stays the same.
#[test]
fn folding_decoder_norms_changes_activations_and_no_reconstruction() {
    let case = &expected()["saelens_to_fold"];
    let mut dictionary = open("saelens_to_fold");
    let x = flat(&case["x"]);
    let before = dictionary.encode(&[&x]).unwrap();
    let before = dictionary.decode(0, &before, &x).unwrap();
    dictionary.fold_decoder_norms().unwrap();
    let encoded = dictionary.encode(&[&x]).unwrap();
    close("folded", &dense(&encoded, 16), &flat(&case["folded"]));
    let after = dictionary.decode(0, &encoded, &x).unwrap();
    close("folded", &after, &before);
    for norm in dictionary.decoder_norms() {
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    }
    let refused = open("saelens_topk").fold_decoder_norms().unwrap_err();
    assert!(
        refused.to_string().contains("choice of features"),
        "{refused}"
    );
}

/// T20 and T21 on whole dictionaries.
#[test]
fn a_threshold_of_zero_and_a_k_of_all_are_the_standard_gate() {
    let x = flat(&expected()["saelens_standard"]["x"]);
    let mut dictionary = open("saelens_standard");
    let standard = dictionary.encode(&[&x]).unwrap().features;
    for gate in [
        FeatureGate::JumpRelu(vec![0.0; 16]),
        FeatureGate::Threshold(0.0),
        FeatureGate::TopK(16),
    ] {
        dictionary.gate = gate;
        assert_eq!(dictionary.encode(&[&x]).unwrap().features, standard);
    }
}

#[test]
fn cross_layer_transcoders_write_to_their_own_and_all_later_layers() {
    let case = &expected()["circuit_tracer_clt"];
    let set = formats::open(&folder().join("circuit_tracer_clt")).unwrap();
    assert_eq!(set.len(), 3);
    let width = 8;
    let mut written = vec![vec![0f32; 3 * width]; 3];
    for (layer, dictionary) in set.iter().enumerate() {
        let x = flat(&case["xs"][layer]);
        let encoded = dictionary.encode(&[&x]).unwrap();
        close(
            "active",
            &dense(&encoded, 16),
            &flat(&case["active"][layer]),
        );
        assert_eq!(dictionary.targets.len(), 3 - layer);
        for later in 0..dictionary.targets.len() {
            let part = dictionary.decode(later, &encoded, &x).unwrap();
            let sum = written[layer + later].iter_mut();
            sum.zip(part).for_each(|(sum, part)| *sum += part);
        }
        let place = |i: usize| dictionary.targets[i].place.to_string();
        assert_eq!(place(0), format!("blocks.{layer}.hook_mlp_out"));
        assert_eq!(place(2 - layer), "blocks.2.hook_mlp_out");
    }
    for (layer, written) in written.iter().enumerate() {
        close("written", written, &flat(&case["written"][layer]));
    }
}

#[test]
fn a_crosscoder_reads_and_writes_all_of_its_places() {
    for name in ["crosscoder", "crosscoder_batchtopk"] {
        let case = &expected()[name];
        let dictionary = open(name);
        let xs = [flat(&case["xs"][0]), flat(&case["xs"][1])];
        let encoded = dictionary.encode(&[&xs[0], &xs[1]]).unwrap();
        close(name, &dense(&encoded, 16), &flat(&case["features"]));
        for (i, x) in xs.iter().enumerate() {
            let written = dictionary.decode(i, &encoded, x).unwrap();
            close(name, &written, &flat(&case["written"][i]));
        }
        let one = dictionary.encode(&[&xs[0]]).unwrap_err().to_string();
        assert!(one.contains("reads 2 places"), "{one}");
    }
}

/// What a path, a config or a folder says of places and models.
#[test]
fn places_are_those_that_the_files_say() {
    let said = |path: &str| {
        let found = formats::open(&folder().join(path)).unwrap();
        let dictionary = &found[0];
        (
            dictionary.inputs[0].place.to_string(),
            dictionary.targets[0].place.to_string(),
            dictionary.made_for.clone().unwrap_or_default(),
        )
    };
    for (path, from, to, model) in [
        (
            "saelens_standard",
            "blocks.1.hook_resid_post",
            "blocks.1.hook_resid_post",
            "tiny",
        ),
        (
            "saelens_old",
            "blocks.1.hook_resid_post",
            "blocks.1.hook_resid_post",
            "tiny",
        ),
        (
            "saelens_skip",
            "blocks.1.mlp.hook_in",
            "blocks.1.hook_mlp_out",
            "tiny",
        ),
        (
            "gemma-scope-2b-pt-res/layer_1/width_16/average_l0_4",
            "resid_post.1",
            "resid_post.1",
            "google/gemma-2-2b",
        ),
        (
            "gemma-scope-2b-pt-mlp/layer_1/width_16/average_l0_4",
            "mlp_add.1",
            "mlp_add.1",
            "google/gemma-2-2b",
        ),
        (
            "gemma-scope-2b-pt-res/embedding/width_16/average_l0_4",
            "embed",
            "embed",
            "google/gemma-2-2b",
        ),
        (
            "gemma-scope-2-1b-pt/transcoder/layer_1_width_16_l0_small_affine",
            "mlp_in.1",
            "mlp_add.1",
            "gemma-3-1b-pt",
        ),
        (
            "Llama3_1-8B-Base-L1R-8x",
            "blocks.1.hook_resid_post",
            "blocks.1.hook_resid_post",
            "Llama-3.1-8B",
        ),
        (
            "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5/layer1.sae.pt",
            "resid_post.1",
            "resid_post.1",
            "Qwen/Qwen3-1.7B-Base",
        ),
        (
            "dictionary_learning/BatchTopKSAE/trainer_0",
            "resid_post.1",
            "resid_post.1",
            "tiny",
        ),
        ("sparsify_topk/layers.1", "resid_post.1", "resid_post.1", ""),
        ("sparsify_skip/layers.1.mlp", "mlp_in.1", "mlp_out.1", ""),
        (
            "openai/resid_post_mlp_v5_topk/autoencoders/1.pt",
            "resid_post.1",
            "resid_post.1",
            "gpt2",
        ),
        (
            "goodfire/Llama-3.3-70B-Instruct-SAE-l1.pt",
            "resid_post.1",
            "resid_post.1",
            "Llama-3.3-70B-Instruct",
        ),
        (
            "circuit_tracer",
            "blocks.0.mlp.hook_in",
            "blocks.0.hook_mlp_out",
            "tiny",
        ),
    ] {
        assert_eq!(said(path), (from.into(), to.into(), model.into()), "{path}");
    }
}

/// I15, T17 to T19: W_enc = [I, −I], W_dec its transpose, ReLU, no biases.
#[test]
fn an_identity_dictionary_reconstructs_bit_for_bit() {
    let width = 8;
    let folder = tempfile::tempdir().unwrap();
    let sign = |f: usize| if f < width { 1.0f32 } else { -1.0 };
    let w_enc: Vec<f32> = (0..width)
        .flat_map(|j| (0..2 * width).map(move |f| if f % width == j { sign(f) } else { 0.0 }))
        .collect();
    let w_dec: Vec<f32> = (0..2 * width)
        .flat_map(|f| (0..width).map(move |j| if f % width == j { sign(f) } else { 0.0 }))
        .collect();
    hostile::saelens(folder.path(), width, 2 * width, &w_enc, &w_dec, "standard");
    let dictionary = formats::open(folder.path()).unwrap().remove(0);
    let x = flat(&expected()["saelens_standard"]["x"]);
    let encoded = dictionary.encode(&[&x]).unwrap();
    let output = dictionary.decode(0, &encoded, &x).unwrap();
    assert_eq!(output, x);
    assert!(encoded.features.iter().all(|active| active.len() == width));
    // The rest is nothing, and x̂ + e is x.
    let rest: Vec<f32> = x.iter().zip(&output).map(|(x, y)| x - y).collect();
    assert!(rest.iter().all(|e| *e == 0.0));
    assert_eq!(dictionary.direction(0, 3).unwrap()[3], 1.0);
    assert_eq!(dictionary.direction(0, 3 + width).unwrap()[3], -1.0);
    assert!(dictionary.direction(0, 2 * width).is_none());
}
