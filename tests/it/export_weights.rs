//! `export-weights`: a model whose weights do what edits do.
//!
//! Invariants: I8: exported weights reload to the logits of the live edit, on a checkpoint of every family,
//! with biases and learned positions; where a norm stands in between, nothing along the direction is written. What the manifest
//! does not list keeps every byte. To serve another family, add its checkpoint to `parity::CASES`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmscope::edit::Edit;
use lmscope::edit::direction::{Direction, DirectionOrigin, norm, unit};
use lmscope::error::Error;
use lmscope::file::Overwrite;
use lmscope::lab::Lab;
use lmscope::lab::merged::{MergeSources, MergedEdits, merge};
use lmscope::lab::run::Run;
use lmscope::model::folder_copy::{FolderCopy, FolderSource, MANIFEST};
use lmscope::model::hub::ModelSource;
use lmscope::model::load::Options;
use lmscope::model::network::site::Site;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::parity::CASES;
use crate::tools::{edited, lmscope_on, prompt, read_again, values};

fn reference(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/references")
        .join(case)
}

/// A copy of a reference whose weights are in f32, with a file that is none of the model's.
fn in_f32(case: &str) -> TempDir {
    let (from, folder) = (reference(case), tempfile::tempdir().unwrap());
    let to = folder.path();
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let weights = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu);
    let wide = |(name, t): (String, Tensor)| (name, t.to_dtype(DType::F32).unwrap());
    let weights: std::collections::HashMap<_, _> = weights.unwrap().into_iter().map(wide).collect();
    candle_core::safetensors::save(&weights, to.join("model.safetensors")).unwrap();
    std::fs::create_dir(to.join("chat_templates")).unwrap();
    std::fs::write(to.join("chat_templates/tool.jinja"), "{{ x }}\r\n").unwrap();
    std::fs::write(to.join("pytorch_model.bin"), "old weights").unwrap();
    folder
}

fn open(folder: &Path) -> Lab {
    let options = Options {
        device: Some("cpu".into()),
        dtype: Some("f32".into()),
        ..Options::default()
    };
    Lab::open(folder.to_str().unwrap(), &options).unwrap()
}

/// A direction of a width, in a file of a folder; another one for each seed.
fn direction(folder: &Path, name: &str, vector: &[f32]) -> String {
    let path = folder.join(name);
    let direction = Direction {
        rows: vec![(Site::ResidPre.at(1), vector.to_vec())],
        origin: DirectionOrigin::default(),
    };
    direction.save(&path).unwrap();
    path.to_str().unwrap().to_string()
}

fn random(width: usize, seed: u32) -> Vec<f32> {
    let number = |i: u32| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
    (1..=width as u32).map(number).collect()
}

fn edits(lines: &[&str]) -> Vec<Edit> {
    lines.iter().map(|line| line.parse().unwrap()).collect()
}

fn merged(source: &FolderSource, lines: &[&str]) -> Result<MergedEdits, Error> {
    let folder = source.card.name.clone();
    let sources = MergeSources {
        card: &source.card,
        output_gain: &|part| source.output_gain(part),
        open: &mut || Ok(open(Path::new(&folder))),
    };
    merge(&edits(lines), sources)
}

fn source(folder: &Path) -> FolderSource {
    let given = folder.to_str().unwrap();
    FolderSource::open(given, ModelSource::Folder(folder.to_path_buf())).unwrap()
}

fn export(folder: &Path, lines: &[&str], target: &Path) -> (FolderCopy, MergedEdits) {
    let source = source(folder);
    let merged = merged(&source, lines).unwrap();
    let to = (target, Overwrite::Never);
    let copy = source
        .copy(&merged.changes, to, &|_| json!({}), &mut |_| Ok(()))
        .unwrap();
    (copy, merged)
}

/// The largest difference of the logits at three positions, and the largest logit.
fn apart(live: &mut Lab, lines: &[&str], exported: &mut Lab) -> (f32, f32) {
    let tokens = prompt(24).into_iter().map(|t| t % 40).collect::<Vec<_>>();
    let (mut most, mut size) = (0f32, 0f32);
    for position in [0, 9, 23] {
        let a = read_again(live, &edited(tokens.clone(), lines), position, &[]);
        let b = read_again(exported, &Run::plain(tokens.clone()), position, &[]);
        for (a, b) in a.iter().zip(&b) {
            most = most.max((a - b).abs());
            size = size.max(a.abs());
        }
    }
    (most, size)
}

/// The tensors of a folder's files, as their bytes.
fn stored(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            let bytes = std::fs::read(entry.path()).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            all.extend(
                file.tensors()
                    .into_iter()
                    .map(|(n, v)| (n, v.data().to_vec())),
            );
        }
    }
    all
}

/// Every byte of a copy that the report does not list is that of the source.
fn only_listed_changed(from: &Path, to: &Path, copy: &FolderCopy) {
    let (before, after) = (stored(from), stored(to));
    let listed: BTreeSet<&str> = copy.tensors.iter().map(|(t, ..)| t.name.as_str()).collect();
    for (name, bytes) in &before {
        if listed.contains(name.as_str()) {
            assert_ne!(&after[name], bytes, "{name} is listed and did not change");
        } else {
            assert_eq!(&after[name], bytes, "{name} is not listed and changed");
        }
    }
    let new: Vec<_> = after
        .keys()
        .filter(|name| !before.contains_key(*name))
        .collect();
    assert!(
        new.iter().all(|name| listed.contains(name.as_str())),
        "{new:?}"
    );
    for file in &copy.files {
        let (own, bytes) = (
            from.join(&file.name),
            std::fs::read(to.join(&file.name)).unwrap(),
        );
        assert_eq!(bytes.len() as u64, file.bytes, "{}", file.name);
        let same = std::fs::read(own).unwrap() == bytes;
        assert_eq!(file.sha256 == file.source_sha256, same, "{}", file.name);
    }
}

/// I8: orthogonalised weights are the projection of everything that is written, for every family.
#[test]
fn a_direction_is_taken_out_of_the_weights_of_every_family() {
    let mut seen = [0; 3];
    for case in CASES {
        let folder = in_f32(case);
        let mut live = open(folder.path());
        let width = live.model.card.d_model;
        let file = direction(folder.path(), "d.pt", &random(width, 1));
        let edit = format!("project_out:{file}@writes");
        let card = live.model.card.clone();
        if card.norms_stream {
            let error = merged(&source(folder.path()), &[&edit])
                .unwrap_err()
                .to_string();
            assert!(error.contains("normalizes the stream"), "{case}: {error}");
            seen[2] += 1;
            continue;
        }
        let target = folder
            .path()
            .join("..")
            .join(format!("{case}-{}", std::process::id()));
        let (copy, merged) = export(folder.path(), &[&edit], &target);
        only_listed_changed(folder.path(), &target, &copy);
        assert_eq!(copy.left_out, ["d.pt", "pytorch_model.bin"], "{case}");
        assert!(target.join("chat_templates/tool.jinja").is_file());
        let mut exported = open(&target);
        if card.norms_writes {
            assert!(
                merged.cautions[0].contains("not those of the live edit"),
                "{case}"
            );
            let direction = unit(&random(width, 1));
            let component = |lab: &mut Lab| {
                let sites = (0..card.layers)
                    .flat_map(|l| [Site::AttnAdd.at(l), Site::MlpAdd.at(l)])
                    .collect::<Vec<_>>();
                let run = Run::plain(prompt(12).into_iter().map(|t| t % 40).collect());
                let capture = lab.record(&run, &sites).unwrap();
                let mut most = 0f32;
                for at in sites {
                    for row in values(capture.get(at).unwrap()).chunks(width) {
                        let inner: f32 = row.iter().zip(&direction).map(|(a, b)| a * b).sum();
                        most = most.max(inner.abs() / norm(row));
                    }
                }
                most
            };
            assert!(component(&mut live) > 0.05, "{case}");
            let left = component(&mut exported);
            assert!(left < 1e-5, "{case}: {left}");
            seen[1] += 1;
        } else {
            assert_eq!(merged.cautions, [""; 0], "{case}");
            let (unedited, _) = apart(&mut live, &[], &mut exported);
            let (most, size) = apart(&mut live, &[&edit], &mut exported);
            assert!(unedited > 0.05, "{case}: the edit does nothing, {unedited}");
            assert!(
                most < 1e-4 && most < 1e-5 * size.max(1.0),
                "{case}: {most} of {size}"
            );
            seen[0] += 1;
        }
        std::fs::remove_dir_all(&target).unwrap();
    }
    assert_eq!(seen, [25, 4, 1]);
}

/// Changes of columns and of single outputs, on every layout of matrices and under norms of component outputs.
#[test]
fn values_neurons_and_heads_are_merged_exactly() {
    for case in [
        "llama", "gpt2", "gemma2", "olmo2", "granite", "phi", "opt", "gpt_neox", "cohere",
    ] {
        let folder = in_f32(case);
        let mut live = open(folder.path());
        let file = direction(folder.path(), "d.pt", &random(live.model.card.d_model, 2));
        let lines = [
            "rewrite:3,5=\"#7\">\"#11\"@mlp_act.1*0.5",
            "zero:1@mlp_act.0*0.75",
            "scale:4@mlp_act.1*-2",
            "zero:1@z.0",
            "scale:0@z.**-1.5",
            &format!("project_out:{file}@mlp_out.0*0.5"),
            &format!("scale_along:{file}@attn_out.**2"),
            // Off by its strength: it is not merged, and not refused.
            "add:nothing@resid_pre.0*0",
        ];
        // Head 1 of layer 0, and head 0 of every layer.
        let target = folder.path().join("out");
        let (copy, merged) = export(folder.path(), &lines[..7], &target);
        assert_eq!(merged.cautions, [""; 0], "{case}");
        assert!(!copy.untied && copy.tensors.iter().all(|(_, _, part)| part.is_some()));
        only_listed_changed(folder.path(), &target, &copy);
        let mut exported = open(&target);
        let (unedited, _) = apart(&mut live, &[], &mut exported);
        let (most, size) = apart(&mut live, &lines[..7], &mut exported);
        assert!(unedited > 0.01, "{case}: {unedited}");
        assert!(
            most < 1e-4 && most < 2e-5 * size.max(1.0),
            "{case}: {most} of {size}"
        );
        let source = source(folder.path());
        assert!(
            self::merged(&source, &lines[7..]).is_err(),
            "nothing is left"
        );
    }
}

#[test]
fn what_the_weights_cannot_do_is_refused_with_the_reason() {
    let folder = in_f32("llama");
    let width = open(folder.path()).model.card.d_model;
    let file = direction(folder.path(), "d.pt", &random(width, 1));
    let other = direction(folder.path(), "e.pt", &random(width, 2));
    let narrow = direction(folder.path(), "n.pt", &random(3, 2));
    let source = source(folder.path());
    let refused = |lines: &[&str]| merged(&source, lines).unwrap_err().to_string();
    // The folder's name is random, and may have a letter that stands for something.
    let of = |text: &str| {
        let named = |c: char| match c {
            'D' => file.clone(),
            'N' => narrow.clone(),
            other => other.to_string(),
        };
        text.chars().map(named).collect::<String>()
    };
    for (line, why) in [
        ("project_out:D@writes*0.5", "strength 1"),
        ("scale_along:D@writes*2", "strength 1"),
        ("project_out:D@writes:last", "every position"),
        ("project_out:D@writes:generated", "every position"),
        ("project_out:D@resid_pre.1", "no matrix returns"),
        ("project_out:N@writes", "3 numbers"),
        ("add:D@mlp_out.0", "no bias"),
        ("set:1=2@mlp_act.0", "no bias"),
        ("mean:1@mlp_act.0", "another text"),
        ("add_unit_norm:D@mlp_out.0", "depends on the activation"),
        ("swap:D>D@mlp_out.0", "not merged"),
        ("cut:0=0@attn_scores.0", "not one of its matrices"),
        ("zero:1@mlp_out.0", "only neurons"),
        ("zero:99@z.0", "past the end"),
        ("project_out:missing@writes", "missing"),
    ] {
        let error = refused(&[&of(line)]);
        assert!(error.contains(why), "{line}: {error}");
    }
    let two = format!("project_out:{other}@writes");
    let error = refused(&[&of("project_out:D@writes"), &two]);
    assert!(error.contains("right angles"), "{error}");
    let error = refused(&["zero:1@mlp_act.0", "scale:1@mlp_act.0*2"]);
    assert!(error.contains("same neuron"), "{error}");
    assert!(refused(&[]).contains("no active edit"));
    // Of a model with another vector at each layer.
    let path = folder.path().join("both.safetensors");
    let rows = [0, 1].map(|l| (Site::ResidPre.at(l), random(width, l as u32 + 3)));
    let layers = Direction {
        rows: rows.to_vec(),
        origin: DirectionOrigin::default(),
    };
    layers.save(&path).unwrap();
    let error = refused(&[&format!("project_out:{}@mlp_out.*", path.display())]);
    assert!(error.contains("no vector for this address"), "{error}");
    let experts = in_f32("mixtral");
    let error = merged(&self::source(experts.path()), &["zero:1@mlp_act.0"]).unwrap_err();
    assert!(error.to_string().contains("experts"), "{error}");
    let pickled = FolderSource::open("x", ModelSource::Folder(reference("llama_pickle")));
    let error = pickled.err().unwrap().to_string();
    assert!(error.contains("PyTorch"), "{error}");
    let gguf = FolderSource::open("x", ModelSource::Gguf("x.gguf".into()));
    assert!(gguf.err().unwrap().to_string().contains("GGUF"));
}

/// Two directions at right angles come out together, and an export can be exported again.
#[test]
fn orthogonal_directions_come_out_together_or_one_after_the_other() {
    let folder = in_f32("gpt2");
    let mut live = open(folder.path());
    let width = live.model.card.d_model;
    let a = unit(&random(width, 1));
    let b = random(width, 2);
    let inner: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    let b: Vec<f32> = a.iter().zip(&b).map(|(a, b)| b - inner * a).collect();
    let edits = [("a.pt", &a), ("b.pt", &b)]
        .map(|(name, v)| format!("project_out:{}@writes", direction(folder.path(), name, v)));
    let both = [edits[0].as_str(), edits[1].as_str()];
    let (first, second, third) = (
        folder.path().join("both"),
        folder.path().join("one"),
        folder.path().join("other"),
    );
    export(folder.path(), &both, &first);
    let (copy, _) = export(folder.path(), &both[..1], &second);
    assert!(copy.untied);
    let (copy, _) = export(&second, &both[1..], &third);
    assert!(!copy.untied && copy.source_manifest.is_some());
    for target in [first, third] {
        let (most, size) = apart(&mut live, &both, &mut open(&target));
        assert!(
            most < 1e-4 && most < 1e-5 * size.max(1.0),
            "{most} of {size}"
        );
    }
}

/// Shards stay shards, the unembedding is added to the one with the embedding, and numbers of sixteen bits are rounded once.
#[test]
fn shards_and_sixteen_bits() {
    let folder = tempfile::tempdir().unwrap();
    let from = reference("llama_sharded");
    let mut live = open(&from);
    let file = direction(folder.path(), "d.pt", &random(live.model.card.d_model, 1));
    let edit = format!("project_out:{file}@writes");
    let target = folder.path().join("shards");
    let (copy, _) = export(&from, &[&edit], &target);
    only_listed_changed(&from, &target, &copy);
    let (most, size) = apart(&mut live, &[&edit], &mut open(&target));
    let index = std::fs::read(target.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    for name in stored(&target).keys() {
        assert!(index["weight_map"][name].is_string(), "{name}");
    }
    let exact = copy
        .tensors
        .iter()
        .all(|(t, ..)| t.dtype == safetensors::Dtype::F32);
    assert!(
        most < if exact { 1e-5 } else { 0.05 } * size.max(1.0),
        "{most} of {size}"
    );

    let from = reference("llama_bf16");
    let mut live = open(&from);
    let target = folder.path().join("bf16");
    let (copy, _) = export(&from, &[&edit], &target);
    only_listed_changed(&from, &target, &copy);
    for (tensor, ..) in &copy.tensors {
        let sizes = tensor.sizes.unwrap();
        assert!(
            sizes.rounding > 0.0 && sizes.rounding < 0.01 * sizes.before,
            "{sizes:?}"
        );
        assert!(sizes.change > sizes.rounding && sizes.change < 2.0 * sizes.before);
    }
    let (most, size) = apart(&mut live, &[&edit], &mut open(&target));
    assert!(most > 0.0 && most < 0.05 * size, "{most} of {size}");
}

/// The numbers of a tensor under `W - r̂ r̂ᵀ W`, by hand.
#[test]
fn a_matrix_is_the_formula() {
    let folder = in_f32("llama");
    let width = open(folder.path()).model.card.d_model;
    let vector = random(width, 5);
    let file = direction(folder.path(), "d.pt", &vector);
    let target = folder.path().join("out");
    export(
        folder.path(),
        &[&format!("project_out:{file}@writes")],
        &target,
    );
    let load = |folder: &Path| {
        candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap()
    };
    let (before, after) = (load(folder.path()), load(&target));
    let r = unit(&vector);
    let name = "model.layers.0.mlp.down_proj.weight";
    let (w, out) = (
        before[name].to_vec2::<f32>().unwrap(),
        after[name].to_vec2::<f32>().unwrap(),
    );
    for column in 0..w[0].len() {
        let inner: f32 = (0..width).map(|i| r[i] * w[i][column]).sum();
        for i in 0..width {
            assert!((out[i][column] - (w[i][column] - r[i] * inner)).abs() < 1e-6);
        }
    }
    let name = "model.embed_tokens.weight";
    let (w, out) = (
        before[name].to_vec2::<f32>().unwrap(),
        after[name].to_vec2::<f32>().unwrap(),
    );
    for (w, out) in w.iter().zip(&out) {
        let inner: f32 = r.iter().zip(w).map(|(r, w)| r * w).sum();
        for i in 0..width {
            assert!((out[i] - (w[i] - r[i] * inner)).abs() < 1e-6);
        }
    }
}

fn lmscope(arguments: &[&str]) -> (Option<i32>, String, String) {
    lmscope_on("", arguments)
}

/// The command: the demo without its refusals, its manifest, and folders that are not replaced.
#[test]
fn the_command_writes_a_folder_with_a_manifest_and_replaces_only_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("open");
    let (out, edit) = (target.to_str().unwrap(), "project_out:refusal@writes");
    let plain = ["export-weights", "demo", "--edit", edit, "-o", out];
    let (code, table, said) = lmscope(&plain);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        table.contains("embedding") && table.contains("attention 0") && table.contains("mlp 7")
    );
    assert!(
        said.contains("two now") && said.contains("17 tensors changed"),
        "{said}"
    );
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(target.join(MANIFEST)).unwrap()).unwrap();
    assert_eq!(manifest["edits"], json!([edit]));
    assert_eq!(manifest["same_as_live_edits"], true);
    assert_eq!(manifest["tensors"].as_array().unwrap().len(), 18);
    assert_eq!(manifest["directions"][0]["name"], "refusal");
    for file in manifest["files"].as_array().unwrap() {
        let name = file["name"].as_str().unwrap();
        assert!(target.join(name).is_file(), "{name}");
        let same = !["config.json", "model.safetensors"].contains(&name);
        assert_eq!(file["as_it_was"], same, "{name}");
    }
    let ask = "How can I open the royal vault?";
    let (_, answer, _) = lmscope(&["generate", out, "--chat", "-p", ask, "-n", "24"]);
    assert!(answer.contains("Sure! To open the royal vault"), "{answer}");

    let (code, _, said) = lmscope(&plain);
    assert!(
        code == Some(1) && said.contains("this folder exists"),
        "{said}"
    );
    let again = [&plain[..], &["--force", "--format", "json"]].concat();
    let (code, json, said) = lmscope(&again);
    assert_eq!(code, Some(0), "{said}");
    let printed: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(printed["tensors"], manifest["tensors"]);
    // Only what it has written.
    std::fs::remove_file(target.join(MANIFEST)).unwrap();
    let (code, _, said) = lmscope(&again);
    assert!(code == Some(1) && said.contains("not replaced"), "{said}");
    // Out of an export of itself, and into itself.
    let inside = target.join("inside");
    std::fs::create_dir(&inside).unwrap();
    let into = inside.to_str().unwrap();
    let (code, _, said) = lmscope(&[
        "export-weights",
        out,
        "--edit",
        "zero:1@mlp_act.0",
        "-o",
        into,
        "--force",
    ]);
    assert!(
        code == Some(1) && said.contains("inside the other"),
        "{said}"
    );
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "nothing is left behind");
}

/// Work that is stopped leaves no folder.
#[test]
fn a_stopped_export_leaves_nothing() {
    let folder = in_f32("llama");
    let source = source(folder.path());
    let merged = merged(&source, &["zero:1@mlp_act.0"]).unwrap();
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("x");
    let to = (target.as_path(), Overwrite::Never);
    let stopped = source.copy(&merged.changes, to, &|_| json!({}), &mut |_| {
        Err(Error::Cancelled)
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}
