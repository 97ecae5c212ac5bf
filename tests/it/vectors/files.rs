//! Files of directions without a model: identity, what other loaders say, what cannot be written, and damage.

use std::path::Path;

use assert_cmd::Command;
use lmscope::edit::direction::{Direction, DirectionOrigin, FORMATS, norm};
use lmscope::model::network::site::{Address, Site};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{made, open, places, report, spelled};
use crate::lies::guard::peak_of;

fn one(at: Address, vector: &[f32]) -> Direction {
    Direction {
        rows: vec![(at, vector.to_vec())],
        origin: DirectionOrigin::default(),
    }
}

/// What comes back of a direction that was written.
fn again(direction: &Direction, name: &str) -> Result<(Direction, String), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let lost = direction.save(&path).map_err(|e| e.to_string())?;
    Ok((Direction::load(&path).map_err(|e| e.to_string())?, lost))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_was_written_is_read(
        layers in prop::collection::btree_set(1usize..90, 1..6),
        values in prop::collection::vec((1e-3f32..1e30, prop::bool::ANY), 5),
        words in "[a-z\" é]{0,12}",
        strength in -4f32..4.0,
    ) {
        let rows: Vec<_> = layers
            .iter()
            .map(|l| (Site::ResidPost.at(*l), values.iter().map(|(v, minus)| if *minus { -v } else { *v } / *l as f32).collect()))
            .collect();
        let origin = DirectionOrigin {
            model: words.clone(),
            family: "llama".into(),
            method: words.clone(),
            positions: "-2".into(),
            prompts: (3, 4),
            strength,
            cautions: vec![words.clone()],
            notes: vec![words],
            ..DirectionOrigin::default()
        };
        let direction = Direction { rows, origin };
        for name in ["x.gguf", "x.safetensors", "x"] {
            prop_assert_eq!(again(&direction, name).unwrap(), (direction.clone(), String::new()));
        }
        let first = Direction {
            rows: vec![(Site::ResidPre.at(3), direction.rows[0].1.clone())],
            ..direction.clone()
        };
        prop_assert_eq!(again(&first, "direction.pt").unwrap().0, first);
        let removed = direction.moved_to("mlp_out").unwrap();
        let (read, lost) = again(&removed, "x.f32").unwrap();
        prop_assert!(lost.contains("unit norm"));
        prop_assert_eq!(places(&read), places(&removed));
        for ((_, a), (_, b)) in read.rows.iter().zip(&removed.rows) {
            prop_assert!((norm(a) - 1.0).abs() < 1e-5);
            let length = norm(b);
            prop_assert!(a.iter().zip(b).all(|(a, b)| (a - b / length).abs() < 1e-5));
        }
    }
}

#[test]
fn llama_cpps_loader_and_ours_take_and_refuse_the_same_files() {
    let report = report();
    let folder = tempfile::tempdir().unwrap();
    let mut seen = (0, 0);
    let mut same = |path: &Path, case: &Value, name: &str| {
        let read = Direction::load(path);
        if case["n_embd"] == json!(-1) {
            let error = read.map(|d| places(&d)).unwrap_err().to_string();
            assert!(error.ends_with("and nothing else."), "{name}: {error}");
            seen.0 += 1;
            return;
        }
        seen.1 += 1;
        let read = read.unwrap();
        let sums = case["sums"].as_array().unwrap();
        // Theirs begin with layer 1, and where a layer is not in the file they hold zeros.
        for (layer, sum) in sums.iter().enumerate().map(|(i, s)| (i + 1, s)) {
            let at = Site::ResidPost.at(layer);
            let row = read.rows.iter().find(|(a, _)| *a == at);
            let row = row.map_or(&[][..], |(_, v)| v);
            let found = [
                row.iter().map(|v| f64::from(*v)).sum::<f64>(),
                row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum(),
            ];
            for (found, expected) in found.iter().zip(sum.as_array().unwrap()) {
                let expected = expected.as_f64().unwrap();
                assert!(
                    (found - expected).abs() < 1e-5 * expected.abs().max(1.0),
                    "{name} {layer}"
                );
            }
        }
        let last = read.rows.last().unwrap().0.layer;
        assert_eq!(usize::from(last), sums.len(), "{name}");
    };
    for (name, case) in report["odd"].as_object().unwrap() {
        let path = folder.path().join("odd.gguf");
        let hex = case["hex"].as_str().unwrap().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        let bytes: Vec<u8> = hex.chunks(2).map(|pair| byte(pair).unwrap()).collect();
        std::fs::write(&path, bytes).unwrap();
        same(&path, case, name);
    }
    for (name, case) in report["loaded"].as_object().unwrap() {
        same(&made(name), case, name);
    }
    assert!(seen.0 >= 9 && seen.1 >= 9, "{seen:?}");
}

/// The files that repeng, torch and llama.cpp read are, byte for byte, what is written today.
#[test]
fn our_files_are_read_by_the_tools_they_are_for() {
    let report = report();
    let folder = tempfile::tempdir().unwrap();
    for name in ["ours.gguf", "ours.pt"] {
        let path = folder.path().join(name);
        open(name).save(&path).unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            std::fs::read(made(name)).unwrap(),
            "{name}"
        );
    }
    let close = |a: f32, b: &Value| (f64::from(a) / b.as_f64().unwrap() - 1.0).abs() < 1e-5;
    let theirs = &report["repeng_reads_ours"];
    assert_eq!(theirs["model_type"], "llama");
    let ours = open("ours.gguf");
    assert_eq!(theirs["layers"].as_object().unwrap().len(), ours.rows.len());
    for (at, vector) in &ours.rows {
        let length = &theirs["layers"][at.layer.to_string()];
        assert!(close(norm(vector), length), "{at}");
    }
    let ours = open("ours.pt");
    assert_eq!(places(&ours), ["resid_pre.5"]);
    assert_eq!(
        report["torch_reads_ours"]["shape"],
        json!([ours.rows[0].1.len()])
    );
    assert!(close(ours.norm(), &report["torch_reads_ours"]["length"]));
}

#[test]
fn tensors_of_pytorch_say_where_they_belong_or_that_nobody_does() {
    let direction = open("direction.pt");
    assert_eq!(places(&direction), ["resid_pre.5"]);
    assert_eq!(direction.origin.positions, "-1");
    assert!(!direction.origin.anywhere && direction.origin.cautions.is_empty());

    let vector = open("function_vector.pt");
    assert_eq!(vector.rows[0].1, direction.rows[0].1);
    assert!(vector.origin.anywhere && vector.origin.cautions[0].contains("does not say"));
    assert!(!vector.span().contains("resid"), "{}", vector.span());
    assert_eq!(vector.at(Site::MlpOut.at(3)).unwrap(), vector.rows[0].1);
    assert!(again(&vector, "x.gguf").unwrap_err().contains("--at"));
    assert!(vector.shifted(1).is_err());
    let placed = vector.moved_to("resid_post.4").unwrap();
    assert!(placed.origin.cautions.is_empty());
    assert_eq!(
        places(&again(&placed, "x.gguf").unwrap().0),
        ["resid_post.4"]
    );
    assert!(vector.moved_to("resid_post").is_err());
    // Unplaced, it stays so in every format that can say it.
    for name in ["x.safetensors", "x.pt"] {
        assert!(again(&vector, name).unwrap().0.origin.anywhere, "{name}");
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_or_said() {
    let v = [1.0, 2.0];
    let refused = |direction: &Direction, name: &str, word: &str| {
        let error = again(direction, name).unwrap_err();
        assert!(error.contains(word), "{name}: {error}");
    };
    refused(
        &one(Site::ResidPost.at(0), &v),
        "x.gguf",
        "blocks 1 and later",
    );
    refused(
        &one(Site::ResidPre.at(1), &v),
        "x.gguf",
        "blocks 1 and later",
    );
    refused(&one(Site::MlpOut.at(3), &v), "x.gguf", "mlp_out.3");
    refused(&one(Site::ResidPost.at(3), &v), "x.f32", "mlp_out");
    refused(&one(Site::MlpOut.at(3), &v), "x.pt", "resid_pre");
    refused(&one(Site::ResidPost.at(3), &v), "x.npy", ".safetensors");

    let mut two = one(Site::ResidPost.at(3), &v);
    two.rows.push((Site::ResidPre.at(4), v.to_vec()));
    refused(&two, "x.gguf", "two vectors");
    refused(&two, "x.pt", "one vector");

    let mut early = one(Site::ResidPre.at(0), &v);
    early.rows.push((Site::ResidPre.at(1), v.to_vec()));
    early.rows.push((Site::ResidPre.at(2), v.to_vec()));
    let (read, lost) = again(&early, "x.gguf").unwrap();
    assert_eq!(places(&read), ["resid_post.1"]);
    assert!(lost.contains("resid_pre.0, resid_pre.1"), "{lost}");
    assert_eq!(early.span(), "resid_pre.0-2");
}

#[test]
fn json_beside_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let (path, beside) = (
        folder.path().join("v.safetensors"),
        folder.path().join("v.json"),
    );
    let write = |name: &str, shape: Vec<usize>| {
        let bytes: Vec<u8> = (1..=shape.iter().product::<usize>())
            .flat_map(|v| (v as f64).to_le_bytes())
            .collect();
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F64, shape, &bytes).unwrap();
        std::fs::write(&path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
    };
    let read = || Direction::load(&path).map_err(|e| e.to_string());
    write("vector", vec![3]);
    assert!(read().unwrap().origin.anywhere);
    for (text, expected) in [
        (
            json!({"site": "mlp_out", "layer": 4, "model": "m", "strength": 2.5}),
            "mlp_out.4",
        ),
        (json!({"point": "resid_post.7"}), "resid_post.7"),
        (
            json!({"hook_name": "blocks.7.hook_resid_pre", "layer": 7}),
            "resid_pre.7",
        ),
    ] {
        std::fs::write(&beside, text.to_string()).unwrap();
        assert_eq!(places(&read().unwrap()), [expected]);
        assert_eq!(read().unwrap().rows[0].1, [1.0, 2.0, 3.0]);
        let strength = if text["strength"].is_null() { 1.0 } else { 2.5 };
        assert_eq!(read().unwrap().origin.strength, strength);
    }
    for (text, word) in [
        (json!({"layer": 4}), "and no site"),
        (json!({"site": "mlp_out", "layer": -1}), "not a layer"),
        (json!({"site": "resid_post.7", "layer": 6}), "says layer 6"),
        (json!({"site": "nowhere", "layer": 6}), "nowhere"),
        (json!([1]), "not a JSON object"),
    ] {
        std::fs::write(&beside, text.to_string()).unwrap();
        let error = read().unwrap_err();
        assert!(error.contains(word) && error.contains("v.json"), "{error}");
    }
    write("table", vec![2, 3]);
    std::fs::write(&beside, r#"{"site": "attn_out"}"#).unwrap();
    let table = read().unwrap();
    assert_eq!(places(&table), ["attn_out.0", "attn_out.1"]);
    assert_eq!(table.rows[1].1, [4.0, 5.0, 6.0]);
    std::fs::remove_file(&beside).unwrap();
    assert!(read().unwrap().origin.cautions[0].contains("does not name the site"));
    write("table", vec![2, 3, 2]);
    assert!(read().unwrap_err().contains("one vector"));
}

#[test]
fn ds4s_two_files_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let (path, beside) = (folder.path().join("v.f32"), folder.path().join("v.json"));
    let values: [f32; 6] = [0.0, 0.0, 3.0, 4.0, 0.0, 1.0];
    std::fs::write(
        &path,
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>(),
    )
    .unwrap();
    let read = || Direction::load(&path).map_err(|e| e.to_string());
    assert!(read().unwrap_err().contains("does not exist"));
    let good = json!({"format": "ds4-directional-steering-v1", "shape": [3, 2], "component": "ffn_out", "model": "m"});
    let with = |key: &str, value: Value| {
        let mut json = good.clone();
        json[key] = value;
        std::fs::write(&beside, json.to_string()).unwrap();
    };
    with("model", json!("m"));
    let direction = read().unwrap();
    // A row of zeros is no vector.
    assert_eq!(places(&direction), ["mlp_out.1", "mlp_out.2"]);
    assert_eq!(direction.rows[0].1, [3.0, 4.0]);
    assert!(direction.origin.cautions[0].contains("project_out"));
    with("component", json!("attn_out"));
    assert_eq!(places(&read().unwrap()), ["attn_out.1", "attn_out.2"]);
    for (key, value, word) in [
        ("shape", json!([2, 2]), "24 bytes"),
        ("shape", json!([u64::MAX, 2]), "24 bytes"),
        ("shape", json!([0, 2]), "[layers, d_model]"),
        ("shape", json!(6), "[layers, d_model]"),
        ("component", json!("soul"), "`soul`"),
        ("format", json!("ds5"), "`ds5`"),
    ] {
        with(key, value);
        let error = read().unwrap_err();
        assert!(error.contains(word), "{key}: {error}");
    }
}

/// Whatever is wrong with a file, there is a sentence or a direction of finite numbers, and little memory.
#[test]
fn damaged_files_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(4);
    for name in [
        "ours.gguf",
        "llama_mean.gguf",
        "direction.pt",
        "ours.safetensors",
        "ours.f32",
    ] {
        let (path, whole) = (folder.path().join(name), made(name));
        let beside = Path::new(name).with_extension("json");
        if whole.exists() {
            std::fs::copy(&whole, &path).unwrap();
        } else if name.ends_with("f32") {
            open("ours.gguf")
                .moved_to("mlp_out")
                .unwrap()
                .save(&path)
                .unwrap();
        } else {
            open("ours.gguf").save(&path).unwrap();
        }
        let targets = [path.clone(), folder.path().join(beside)];
        for target in targets.iter().filter(|t| t.exists()) {
            let whole = std::fs::read(target).unwrap();
            let mut inputs: Vec<Vec<u8>> = (0..whole.len())
                .step_by(whole.len().div_ceil(150))
                .map(|end| whole[..end].to_vec())
                .collect();
            for _ in 0..400 {
                let mut bytes = whole.clone();
                // Headers stand at the start, but for zip directories.
                let edge = bytes.len().min(700);
                let mut at = rng.random_range(0..2 * edge);
                if at >= edge {
                    at = bytes.len() - 1 - (at - edge);
                }
                match rng.random_range(0..3) {
                    0 => bytes[at] = rng.random(),
                    1 => bytes[at] ^= 1 << rng.random_range(0..8),
                    _ => {
                        let end = (at + 4).min(bytes.len());
                        bytes[at..end].fill(0xff);
                    }
                }
                inputs.push(bytes);
            }
            for bytes in inputs {
                std::fs::write(target, &bytes).unwrap();
                let mut read = Err(String::new());
                let peak = peak_of(|| read = Direction::load(&path).map_err(|e| e.to_string()));
                assert!(peak < (1 << 20) + 64 * bytes.len(), "{name}: {peak} bytes");
                if let Ok(direction) = read {
                    let mut all = direction.rows.iter().flat_map(|(_, v)| v);
                    assert!(
                        !direction.rows.is_empty() && all.all(|v| v.is_finite()),
                        "{name}"
                    );
                }
            }
            std::fs::write(target, &whole).unwrap();
        }
    }
    // A number that is none is named, and a model is not taken for a direction.
    let nan = one(Site::ResidPost.at(1), &[1.0, f32::NAN]);
    for name in ["x.gguf", "x.safetensors", "x.pt"] {
        assert!(again(&nan, name).unwrap_err().contains("NaN"), "{name}");
    }
    std::fs::write(folder.path().join("odd"), b"no such thing at all").unwrap();
    let error = Direction::load(&folder.path().join("odd"))
        .unwrap_err()
        .to_string();
    assert!(
        FORMATS.iter().all(|f| error.contains(f.extensions[0])),
        "{error}"
    );
}

#[test]
fn vectors_says_what_files_hold_and_turns_them_into_others() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("lmscope").unwrap();
        let done = command.arg("vectors").args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            done.status.code().unwrap(),
            text(done.stdout),
            text(done.stderr),
        )
    };
    let llama = spelled("llama_mean.gguf");
    let (code, out, err) = run(&[&llama, &spelled("direction.pt")]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("resid_post.1-7") && out.contains("resid_pre.5"),
        "{out}"
    );
    assert!(
        err.contains("llama-cvector-generator") && err.contains("#-1"),
        "{err}"
    );

    let (_, out, err) = run(&[&llama, "--format", "json"]);
    let rows: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(rows[0]["at"].as_array().unwrap().len(), 7);
    assert_eq!(rows[0]["width"], 128);
    assert!(rows[0]["cautions"][0].as_str().unwrap().contains("#-1") && err.is_empty());

    let target = folder
        .path()
        .join("moved.safetensors")
        .to_string_lossy()
        .into_owned();
    let (code, out, _) = run(&[&format!("{llama}#-1"), "-o", &target]);
    assert_eq!(code, 0);
    assert!(out.contains("resid_post.0-6"), "{out}");
    let moved = Direction::open(&target).unwrap().unwrap();
    assert_eq!(moved.rows.len(), 7);
    assert!(
        moved.origin.notes.iter().any(|n| n.contains("-1")) && moved.origin.cautions.is_empty()
    );

    let target = folder
        .path()
        .join("placed.gguf")
        .to_string_lossy()
        .into_owned();
    let vector = spelled("function_vector.pt");
    let (code, _, err) = run(&[&vector, "-o", &target]);
    assert!(code == 1 && err.contains("--at"), "{err}");
    let (code, _, err) = run(&[&vector, "--at", "resid_post.3", "-o", &target]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        places(&Direction::open(&target).unwrap().unwrap()),
        ["resid_post.3"]
    );
    assert_eq!(run(&[&vector, &llama, "-o", &target]).0, 2);
    assert_eq!(run(&["no such file"]).0, 2);
}
