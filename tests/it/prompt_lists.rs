//! Activations of lists of prompts: those of each prompt alone, at the positions of a role, in both containers; and a command that was
//! stopped goes on where it was.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use candle_core::{DType, Device, Tensor};
use lmscope::model::checkpoint::tensor_file::TensorFile;

use super::tools::lmscope_on;

fn lmscope() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lmscope"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn done(given: &[&str]) -> String {
    super::tools::lmscope(given).1
}

fn refused(given: &[&str], word: &str) {
    let (code, _, said) = lmscope_on("", given);
    assert!(code != Some(0) && said.contains(word), "{given:?}: {said}");
}

fn read(file: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    flat.to_vec1().unwrap()
}

const SITES: &str = "resid_post.1,z.2,mlp_act.3";
const ADDRESSES: [&str; 3] = ["resid_post.1", "z.2", "mlp_act.3"];
const PROMPTS: [(&str, &str); 3] = [
    ("The capital of France is", "France"),
    ("In Korea the capital is Seoul", "Korea"),
    ("Spain lies in Europe", "Spain"),
];

/// A list with entities and labels, as a table.
fn table(folder: &Path) -> String {
    let rows = PROMPTS.iter().enumerate();
    let rows: Vec<String> = rows
        .map(|(i, (prompt, entity))| format!("{prompt}\t{entity}\t{}", ["a", "b", "a"][i]))
        .collect();
    let path = folder.join("list.tsv");
    std::fs::write(
        &path,
        format!("prompt\tentity\tlabel\n{}\n", rows.join("\n")),
    )
    .unwrap();
    path.to_str().unwrap().to_string()
}

/// The arrays of one prompt alone.
fn alone(folder: &Path, prompt: &[&str], edits: &[&str]) -> HashMap<String, Tensor> {
    let path = folder.join("alone.safetensors");
    let out = path.to_str().unwrap();
    done(
        &[
            &["trace", "demo", "--force", "--sites", SITES, "-o", out],
            prompt,
            edits,
        ]
        .concat(),
    );
    read(&path)
}

#[test]
fn each_prompt_has_the_values_that_it_has_alone() {
    let folder = tempfile::tempdir().unwrap();
    let list = table(folder.path());
    let path = folder.path().join("x.safetensors");
    let out = path.to_str().unwrap();
    let edits = ["--edit", "add:mood@resid_pre.1:last*2"];
    for (role, at) in [("last", [5, 7, 4]), ("entity", [4, 2, 1])] {
        done(
            &[
                &[
                    "trace",
                    "demo",
                    "--force",
                    "--prompts",
                    &list,
                    "--positions",
                    role,
                    "--sites",
                    SITES,
                    "-o",
                    out,
                ][..],
                &edits,
            ]
            .concat(),
        );
        let held = read(&path);
        let labels: Vec<i64> = held["labels"].to_vec1().unwrap();
        assert_eq!(labels, [0, 1, 0]);
        let spans: Vec<Vec<i64>> = held["positions"].to_vec2().unwrap();
        for (i, (prompt, _)) in PROMPTS.iter().enumerate() {
            let own = alone(folder.path(), &["-p", prompt], &edits);
            let tokens: Vec<i64> = own["tokens"].to_vec1().unwrap();
            let all: Vec<i64> = held["tokens"].get(i).unwrap().to_vec1().unwrap();
            assert_eq!(all[..tokens.len()], tokens);
            assert!(all[tokens.len()..].iter().all(|t| *t == -1));
            let mask: Vec<u8> = held["mask"].get(i).unwrap().to_vec1().unwrap();
            assert_eq!(
                mask.iter().map(|m| usize::from(*m)).sum::<usize>(),
                tokens.len()
            );
            let place = spans[i][0] as usize;
            assert_eq!(spans[i][1] as usize, place + 1, "{role}");
            if role == "last" {
                assert_eq!(place, tokens.len() - 1);
            } else {
                assert!(
                    place > 0 && place < tokens.len() - 1,
                    "{role} {place} {at:?}"
                );
            }
            for address in ADDRESSES {
                let (found, wanted) = (
                    held[address].get(i).unwrap(),
                    own[address].get(place).unwrap(),
                );
                let apart = numbers(&found)
                    .iter()
                    .zip(numbers(&wanted))
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(apart < 1e-4, "{role} {address} of {prompt}: {apart}");
            }
        }
    }
}

#[test]
fn all_tokens_are_padded_and_both_containers_hold_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let list = table(folder.path());
    let (tensors, archive) = (
        folder.path().join("x.safetensors"),
        folder.path().join("x.npz"),
    );
    for out in [&tensors, &archive] {
        done(&[
            "trace",
            "demo",
            "--prompts",
            &list,
            "--positions",
            "all",
            "--sites",
            SITES,
            "-o",
            out.to_str().unwrap(),
        ]);
    }
    let held = read(&tensors);
    let file = TensorFile::open(&archive).unwrap();
    for (name, tensor) in &held {
        assert_eq!(file.shape(name).unwrap(), tensor.dims(), "{name}");
        if name != "mask" {
            assert_eq!(file.numbers(name).unwrap(), numbers(tensor), "{name}");
        }
    }
    assert!(file.has("metadata"));
    for (i, (prompt, _)) in PROMPTS.iter().enumerate() {
        let own = alone(folder.path(), &["-p", prompt], &[]);
        for address in ADDRESSES {
            let (found, wanted) = (
                numbers(&held[address].get(i).unwrap()),
                numbers(&own[address]),
            );
            let apart = found
                .iter()
                .zip(&wanted)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(apart < 1e-4, "{address} of {prompt}: {apart}");
            assert!(
                found[wanted.len()..].iter().all(|v| v.to_bits() == 0),
                "padding is zero"
            );
        }
    }
    // The directory of the archive is that of a zip file of numpy: its end record points to the zip64 record.
    let bytes = std::fs::read(&archive).unwrap();
    assert!(
        bytes.starts_with(b"PK\x03\x04") && bytes[bytes.len() - 22..].starts_with(b"PK\x05\x06")
    );
}

#[test]
fn an_answer_is_the_mean_over_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (list, one) = (
        folder.path().join("chats.json"),
        folder.path().join("one.json"),
    );
    let turns = r#"[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The capital of Spain"}]"#;
    std::fs::write(
        &list,
        format!(
            r#"[{{"messages": {turns}, "label": "x"}}, {{"messages": {turns}, "label": "y"}}]"#
        ),
    )
    .unwrap();
    std::fs::write(&one, turns).unwrap();
    let path = folder.path().join("x.safetensors");
    let (list, out) = (list.to_str().unwrap(), path.to_str().unwrap());
    done(&[
        "trace",
        "demo",
        "--prompts",
        list,
        "--positions",
        "response-mean",
        "--sites",
        SITES,
        "-o",
        out,
    ]);
    let held = read(&path);
    let own = alone(folder.path(), &["--messages", one.to_str().unwrap()], &[]);
    let span: Vec<i64> = held["positions"].get(1).unwrap().to_vec1().unwrap();
    let (from, to) = (span[0] as usize, span[1] as usize);
    assert_eq!(to, own["tokens"].dim(0).unwrap());
    assert_eq!(to - from, 4, "the tokens of the answer");
    for address in ADDRESSES {
        let mean = own[address]
            .narrow(0, from, to - from)
            .unwrap()
            .mean(0)
            .unwrap();
        let found = numbers(&held[address].get(1).unwrap());
        let apart = found
            .iter()
            .zip(numbers(&mean))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(apart < 1e-5, "{address}: {apart}");
    }
    refused(
        &[
            "trace",
            "demo",
            "--prompts",
            &table(folder.path()),
            "--positions",
            "response-mean",
            "--sites",
            SITES,
            "-o",
            "y.npz",
        ],
        "end in an answer",
    );
}

#[test]
fn files_are_labels_and_what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(path("a.txt"), "Paris\nRome\n").unwrap();
    std::fs::write(path("b.txt"), "Tokyo\n").unwrap();
    let out = path("x.safetensors");
    done(&[
        "trace",
        "demo",
        "--prompts",
        &path("a.txt"),
        "--prompts",
        &path("b.txt"),
        "--sites",
        "embed",
        "-o",
        &out,
    ]);
    let labels: Vec<i64> = read(Path::new(&out))["labels"].to_vec1().unwrap();
    assert_eq!(labels, [0, 0, 1]);
    let bytes = std::fs::read(&out).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(
        header.metadata().as_ref().unwrap()["lmscope.labels"],
        r#"["a.txt","b.txt"]"#
    );
    // What the reader calls the prompts stands beside them.
    std::fs::write(path("c.csv"), "id,prompt\nq7,Paris\n,Rome\n").unwrap();
    let named = path("y.safetensors");
    done(&[
        "trace",
        "demo",
        "--prompts",
        &path("c.csv"),
        "--sites",
        "embed",
        "-o",
        &named,
    ]);
    let bytes = std::fs::read(&named).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(
        header.metadata().as_ref().unwrap()["lmscope.ids"],
        r#"["q7",null]"#
    );
    let list = path("a.txt");
    let of = |more: &[&'static str], word: &str| {
        let given = ["trace", "demo", "--prompts", &list, "--sites", "embed"];
        refused(&[&given[..], more].concat(), word);
    };
    of(&["-o", "x.pt"], ".npz");
    of(&["-p", "x", "-o", "x.npz"], "cannot be used with");
    of(&["--positions", "entity", "-o", "x.npz"], "entity");
    refused(
        &[
            "trace",
            "demo",
            "--prompts",
            &list,
            "--sites",
            "attn_probs.1",
            "-o",
            &path("y.npz"),
        ],
        "vector for each position",
    );
    refused(
        &[
            "trace",
            "demo",
            "--prompts",
            &list,
            "--sites",
            "embed",
            "-o",
            &out,
        ],
        "taken",
    );
}

#[test]
fn a_stopped_command_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    // Prompts long enough that a few of them are a slice.
    let long = |i: usize| {
        format!(
            "{i} {}",
            "The capital of France is Paris and ".repeat(55 + i % 3)
        )
    };
    let lines: Vec<String> = (0..40).map(long).collect();
    std::fs::write(path("list.txt"), lines.join("\n")).unwrap();
    let list = path("list.txt");
    let given = |out: &str| -> Vec<String> {
        let given = [
            "trace",
            "demo",
            "--prompts",
            &list,
            "--sites",
            "resid_post.*",
            "-o",
            out,
        ];
        given.iter().map(ToString::to_string).collect()
    };
    let (whole, stopped) = (path("whole.npz"), path("stopped.npz"));
    assert!(
        lmscope()
            .args(given(&whole))
            .output()
            .unwrap()
            .status
            .success()
    );
    let mut child = lmscope().args(given(&stopped)).spawn().unwrap();
    let ledger = path("stopped.npz.unfinished.json");
    while !Path::new(&ledger).exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    let _gone = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(130), "{said}");
    assert!(
        said.contains("the same command continues from there"),
        "{said}"
    );
    assert!(
        !Path::new(&stopped).exists(),
        "nothing under its name before it is complete"
    );
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&ledger).unwrap()).unwrap();
    let kept = kept["prompts"].as_u64().unwrap();
    assert!((1..40).contains(&kept), "{kept}");
    // Another command under that name takes the place of both files, also where it fails before its first prompts are read.
    let other = path("other.npz");
    for ending in ["unfinished", "unfinished.json"] {
        std::fs::copy(format!("{stopped}.{ending}"), format!("{other}.{ending}")).unwrap();
    }
    let mut failing = given(&other);
    failing.extend(["--edit".to_string(), "scale@resid_post.0*1e38".to_string()]);
    let failed = lmscope().args(&failing).output().unwrap();
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        !failed.status.success() && said.contains("is of another command, and is begun anew"),
        "{said}"
    );
    let anew = lmscope().args(given(&other)).output().unwrap();
    let said = String::from_utf8_lossy(&anew.stderr).into_owned();
    assert!(
        anew.status.success() && !said.contains("going on behind"),
        "{said}"
    );
    assert_eq!(
        std::fs::read(&whole).unwrap(),
        std::fs::read(&other).unwrap()
    );
    // Rows that are there are not read again: one that was changed stays.
    let again = lmscope().args(given(&stopped)).output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        again.status.success() && said.contains(&format!("going on behind prompt {kept}")),
        "{said}"
    );
    assert_eq!(
        std::fs::read(&whole).unwrap(),
        std::fs::read(&stopped).unwrap()
    );
    assert!(!Path::new(&ledger).exists() && !Path::new(&path("stopped.npz.unfinished")).exists());
}

/// Persona vectors (Chen et al. 2025, 2507.21509): the mean over responses of the mean over response tokens, plus minus minus, at every
/// layer; computed here from whole conversations, which `trace --messages` stores, and from where the answer begins without it.
#[test]
fn a_persona_vector_is_its_reference_formula() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let questions = [
        "What is the capital of France?",
        "Open the window",
        "Who lives in Korea?",
    ];
    let answers = [
        ("The capital of France is Paris, of course.", "Paris"),
        ("Please, of course I open the window", "No"),
        ("Many people live there", "Nobody lives there at all"),
    ];
    let turns = |i: usize, plus: bool, answered: bool| {
        let answer = if plus { answers[i].0 } else { answers[i].1 };
        let mut turns = vec![serde_json::json!({"role": "user", "content": questions[i]})];
        if answered {
            turns.push(serde_json::json!({"role": "assistant", "content": answer}));
        }
        serde_json::Value::from(turns)
    };
    let trace = |turns: &serde_json::Value| {
        std::fs::write(path("one.json"), turns.to_string()).unwrap();
        let out = path("one.safetensors");
        let one = path("one.json");
        let sites = ["--sites", "resid_post.*", "-o", &out, "--force"];
        done(&[&["trace", "demo", "--messages", &one][..], &sites].concat());
        read(Path::new(&out))
    };
    let mut expected = vec![vec![0f64; 128]; 8];
    for plus in [true, false] {
        let mut rows = Vec::new();
        for i in 0..3 {
            let begins = trace(&turns(i, plus, false))["tokens"].dim(0).unwrap();
            let whole = trace(&turns(i, plus, true));
            let end = whole["tokens"].dim(0).unwrap();
            assert!(end > begins);
            for (layer, sum) in expected.iter_mut().enumerate() {
                let states = &whole[&format!("resid_post.{layer}")];
                let sign = if plus { 1.0 } else { -1.0 };
                for position in begins..end {
                    let row = numbers(&states.get(position).unwrap());
                    for (s, x) in sum.iter_mut().zip(row) {
                        *s += sign * f64::from(x) / (3.0 * (end - begins) as f64);
                    }
                }
            }
            // Half as messages, half as prompts with answers.
            let answer = if plus { answers[i].0 } else { answers[i].1 };
            rows.push(if i == 1 {
                serde_json::json!({"prompt": questions[i], "answer": answer})
            } else {
                serde_json::json!({"messages": turns(i, plus, true)})
            });
        }
        let name = if plus { "plus.json" } else { "minus.json" };
        std::fs::write(path(name), serde_json::Value::from(rows).to_string()).unwrap();
    }
    let (plus, minus, out) = (path("plus.json"), path("minus.json"), path("p.safetensors"));
    let lists = [
        "--plus", &plus, "--minus", &minus, "-o", &out, "--layer", "all",
    ];
    let measure = ["--site", "resid_post", "--positions", "response"];
    done(&[&["direction", "demo"][..], &lists, &measure].concat());
    let found = lmscope::edit::direction::Direction::load(Path::new(&out)).unwrap();
    assert_eq!(found.origin.positions, "mean over the tokens of the answer");
    assert_eq!(found.origin.prompts, (3, 3));
    assert_eq!(found.rows.len(), 8);
    for (at, vector) in &found.rows {
        let expected = &expected[usize::from(at.layer)];
        let length = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
        for (a, b) in vector.iter().zip(expected) {
            assert!((f64::from(*a) - b).abs() < 1e-5 * length, "{at}: {a} {b}");
        }
    }
    // The same from the arrays of the list, as `response-mean` stores them, answers that are keys included.
    let arrays = path("arrays.safetensors");
    done(&[
        "trace",
        "demo",
        "--prompts",
        &plus,
        "--prompts",
        &minus,
        "--positions",
        "response-mean",
        "--sites",
        "resid_post.5",
        "-o",
        &arrays,
    ]);
    let held = numbers(&read(Path::new(&arrays))["resid_post.5"]);
    for (i, b) in expected[5].iter().enumerate() {
        let mean = |from: usize| {
            (from..from + 3)
                .map(|row| f64::from(held[row * 128 + i]))
                .sum::<f64>()
                / 3.0
        };
        assert!((mean(0) - mean(3) - b).abs() < 1e-4, "{i}");
    }
    let fresh = path("q.safetensors");
    let refused_with = |plus: &str, more: &[&str], word: &str| {
        let base = ["direction", "demo", "--layer", "3", "-o", &fresh];
        let lists = ["--plus", plus, "--minus", &minus];
        refused(&[&base[..], &lists, more].concat(), word);
    };
    let response = ["--positions", "response"];
    let letters = [&response[..], &["--method", "caa"]].concat();
    refused_with(&plus, &letters, "caa is measured at the letter");
    std::fs::write(path("bare.txt"), "Hello there\nGood day\n").unwrap();
    refused_with(&path("bare.txt"), &response, "end in an answer");
    let twice = r#"[{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}], "answer": "x"}]"#;
    std::fs::write(path("bare.json"), twice).unwrap();
    refused_with(&path("bare.json"), &response, "in one place");
    let said = done(&[
        "direction",
        "demo",
        "--plus",
        &plus,
        "--minus",
        &minus,
        "--layer",
        "3",
        "-o",
        &fresh,
    ]);
    assert!(said.contains("which were not read"), "{said}");
}
