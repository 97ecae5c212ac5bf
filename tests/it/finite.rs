//! What is not finite is never fine: models with NaN and infinity in their weights, dtypes that are too narrow, and edits
//! that are too strong, through the binary, the engine and the screen.
//!
//! Invariant: no token is named, nothing passes, settles or is best, and a script sees it from the exit code.
//! To add a way to break a model, add a row to [`BROKEN`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use lmscope::edit::Edit;
use lmscope::edit::direction::{Direction, DirectionOrigin};
use lmscope::edit::schedule::Schedule;
use lmscope::engine::{Ending, Mode, PromptSource, Request, Update, spawn};
use lmscope::error::Error;
use lmscope::figure::{Body, Check};
use lmscope::instruments::{Arguments, INSTRUMENTS, observe};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::Writer;
use lmscope::model::Model;
use lmscope::model::load::Options;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::Site;
use lmscope::ui::theme::{Role, Theme};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{outcome, refused};
use crate::dictionaries::hostile::saelens;
use crate::recorded::{self, began};
use crate::screens::{paint, text};

const FACT: &str = "The capital of France is";
/// As long, with another answer.
const OTHER: &str = "The capital of Japan is";

/// An edit that leaves the range of f32.
const TOO_STRONG: &str = "add:refusal@resid_pre.3*3e38";

/// A tensor of the demo, and what becomes of one of its numbers.
const BROKEN: &[(&str, f32)] = &[
    ("model.layers.4.mlp.down_proj.weight", f32::NAN),
    ("model.layers.0.self_attn.q_proj.weight", f32::INFINITY),
    ("model.norm.weight", f32::NAN),
    ("model.embed_tokens.weight", f32::NEG_INFINITY),
];

/// A copy of a model's folder whose tensors went through `change`, in f32.
fn changed(from: &Path, change: impl Fn(&mut HashMap<String, Tensor>)) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        if entry.path().extension().is_some_and(|e| e != "safetensors") {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    let weights = from.join("model.safetensors");
    let weights = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    let wide = |t: Tensor| t.to_dtype(DType::F32).unwrap();
    let mut weights = weights.into_iter().map(|(n, t)| (n, wide(t))).collect();
    change(&mut weights);
    candle_core::safetensors::save(&weights, folder.path().join("model.safetensors")).unwrap();
    let path = folder.path().to_str().unwrap().to_string();
    (folder, path)
}

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The demo with one number of a tensor replaced.
fn broken_demo(name: &str, value: f32) -> (TempDir, String) {
    changed(&root("demo/model"), |weights| {
        let old = &weights[name];
        let mut numbers: Vec<f32> = old.flatten_all().unwrap().to_vec1().unwrap();
        numbers[1] = value;
        let new = Tensor::from_vec(numbers, old.shape(), &Device::Cpu).unwrap();
        weights.insert(name.to_string(), new);
    })
}

/// The demo with a layer whose weights are past what f16 holds, and what the scale of a Q8_0 block does.
fn loud() -> (TempDir, String) {
    changed(&root("demo/model"), |weights| {
        let name = "model.layers.4.mlp.down_proj.weight";
        let loud = (&weights[name] * 1e10).unwrap();
        weights.insert(name.to_string(), loud);
    })
}

#[test]
fn a_broken_model_names_no_token_and_says_which_tensor() {
    for (name, value) in BROKEN {
        let (_folder, model) = broken_demo(name, *value);
        let words = ["not finite", name, "download it again"];
        refused(&["generate", &model, "-p", FACT, "-n", "3"], 1, &words);
        refused(
            &[
                "generate",
                &model,
                "-p",
                FACT,
                "-n",
                "3",
                "--temperature",
                "1",
            ],
            1,
            &words,
        );
        let (code, out, err) = outcome(&["doctor", &model, "--format", "json"]);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains(name) && err.contains("not finite"), "{err}");
        let json: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json["damage"][0]["tensor"], *name);
        assert_eq!(json["damage"][0]["values"], 1);
        assert_eq!(json["passed"], false);
    }
}

/// A file of the demo.
fn demo_file(name: &str) -> String {
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    demo.join(name).display().to_string()
}

#[test]
fn no_instrument_reads_anything_from_a_broken_model() {
    let (folder, model) = broken_demo(BROKEN[0].0, BROKEN[0].1);
    let file = |name: &str, words: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, words).unwrap();
        path.to_str().unwrap().to_string()
    };
    let text = file("text.txt", &"The river runs through the city. ".repeat(30));
    let asked = |of: &str| {
        let things = [
            "cake", "car", "house", "boat", "dress", "pie", "chair", "letter",
        ];
        let lines = things.map(|thing| format!("How do I {of} a {thing}?\n"));
        lines.concat()
    };
    let (plus, minus) = (asked("steal"), asked("make"));
    let (plus, minus) = (file("plus.txt", &plus), file("minus.txt", &minus));
    let words = file("words.txt", "English,French\ncat,chat\nrain,pluie\n");
    let sae = folder.path().join("sae").to_str().unwrap().to_string();
    let capitals = demo_file("relations/capital.json");
    let lists = ["--plus", &plus, "--minus", &minus];
    let mut lab = Lab::open(&model, &Options::default()).unwrap();
    let rows = (0..lab.model.card.layers)
        .map(|l| (Site::ResidPre.at(l), vec![0.1; lab.model.card.d_model]))
        .collect();
    let origin = DirectionOrigin::default();
    lab.directions
        .insert("d".into(), Direction { rows, origin });
    let run = Run::plain(lab.model.encode(FACT, false).unwrap());
    for of in INSTRUMENTS {
        let mut command = vec![of.name(), &model];
        match of.name() {
            "value" => command.extend(["--neuron", "4/1"]),
            "triggers" => command.extend(["--neuron", "4/1", "--file", &text]),
            "select" => {
                command.extend(lists);
                command.extend(["--markers", " I", "--filter", "no"]);
            }
            "meters" | "sweep" => {
                let arguments = Arguments::default().with("direction", "d");
                let found = observe(*of, &run, &arguments, &mut lab);
                assert!(matches!(found, Err(Error::NotFinite { .. })), "{found:?}");
                continue;
            }
            "features" | "feature" | "feature-logits" | "feature-search" => {
                let width = lab.model.card.d_model;
                let ones = vec![0.1; width * 8];
                saelens(
                    &folder.path().join("sae"),
                    width,
                    8,
                    &ones,
                    &ones,
                    "standard",
                );
                command.extend(["-p", FACT, "--dictionary", &sae]);
            }
            "languages" => command.extend(["-p", FACT, "--words", &words]),
            "probe" => command.extend(lists),
            "attribution" | "circuit" => command.extend(["-p", FACT, "--corrupt", OTHER]),
            "relation" => command.extend(["--relation", &capitals, "--prompts", "zero-shot"]),
            // A map belongs to the weights that it was made of. Weights of other layers are sound, and what a broken neuron writes
            // is left out: see below.
            "attribute-lens" | "promoters" | "composition" | "head-svd" => continue,
            _ => command.extend(["-p", FACT]),
        }
        let (code, out, err) = outcome(&command);
        assert_eq!(code, 1, "{command:?}: {err}");
        assert_eq!(out, "", "{command:?}");
        assert!(err.contains("not finite"), "{command:?}: {err}");
    }
    let made = folder.path().join("d.safetensors");
    let making = [
        "direction",
        &model,
        "--layer",
        "3",
        "-o",
        made.to_str().unwrap(),
    ];
    let (code, _, err) = outcome(&[&making[..], &lists].concat());
    assert!(!made.exists());
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("not finite"), "{err}");
    let (code, out, err) = outcome(&["promoters", &model, "--token", " Paris"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("neurons are left out") && out.contains("check FAILED"),
        "{out}"
    );
    assert!(
        err.contains("WARNING") && err.contains("not finite"),
        "{err}"
    );
}

#[test]
fn scripts_see_it_in_json() {
    let (_folder, model) = broken_demo(BROKEN[0].0, BROKEN[0].1);
    let (code, out, _) = outcome(&[
        "generate", &model, "-p", FACT, "-n", "3", "--format", "jsonl",
    ]);
    assert_eq!(code, 1);
    let lines: Vec<Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 1, "no line of a token: {out}");
    let summary = &lines[0]["summary"];
    assert_eq!(summary["ending"], "not_finite");
    assert_eq!(summary["tokens"], 0);
    assert_eq!(summary["check"]["passed"], false);
    assert!(summary["error"].as_str().unwrap().contains("not finite"));
}

#[test]
fn an_edit_that_is_too_strong_has_a_receipt_without_numbers() {
    let command = [
        "generate", "demo", "-p", FACT, "-n", "3", "--edit", TOO_STRONG,
    ];
    let (code, out, err) = outcome(&command);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(
        err.contains("NOT FINITE") && err.contains("Lower the strength"),
        "{err}"
    );
    assert!(!err.contains("KL 0"), "{err}");
    let (code, out, _) = outcome(&[&command[..], &["--format", "jsonl"]].concat());
    assert_eq!(code, 1);
    let summary: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let receipt = &summary["summary"]["receipts"][0];
    assert_eq!(receipt["not_finite"], true, "{receipt}");
    assert!(
        receipt["kl"].is_null() && receipt["relative"].is_null(),
        "{receipt}"
    );
    for strength in ["inf", "nan", "1e39", "-inf"] {
        let edit = format!("add:refusal@resid_pre.3*{strength}");
        let command = ["generate", "demo", "-p", FACT, "--edit", &edit];
        refused(&command, 2, &["is not a strength"]);
    }
}

#[test]
fn a_trace_is_written_and_its_exit_code_says_what_it_holds() {
    let (folder, model) = broken_demo(BROKEN[0].0, BROKEN[0].1);
    let file = folder.path().join("trace.safetensors");
    let file = file.to_str().unwrap();
    let (code, _, err) = outcome(&[
        "trace",
        &model,
        "-p",
        FACT,
        "--sites",
        "resid_post.*",
        "-o",
        file,
    ]);
    assert_eq!(code, 1);
    assert!(
        err.contains("the file holds NaN or infinity") && err.contains("mlp_out.4"),
        "{err}"
    );
    let held = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let finite = |name: &str| {
        let rows = held[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        rows.iter().all(|v| v.is_finite())
    };
    assert!(finite("resid_post.3") && !finite("resid_post.4"));
}

#[test]
fn weights_past_the_range_of_a_dtype_are_said_at_loading_with_the_way_out() {
    let (_folder, model) = loud();
    let command = |dtype: &'static str| {
        ["lens", model.as_str(), "--dtype", dtype, "-p", FACT].map(str::to_string)
    };
    let of = |dtype| {
        let command = command(dtype);
        outcome(&command.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (code, _, err) = of("f32");
    assert_eq!(code, 0, "{err}");
    for dtype in ["f16", "q8_0"] {
        let (code, out, err) = of(dtype);
        assert_eq!((code, out.as_str()), (1, ""), "{dtype}: {err}");
        assert!(err.contains(&format!("{dtype} cannot hold")), "{err}");
        assert!(
            err.contains("--dtype f32") && err.contains("layers.4.mlp.down_proj"),
            "{err}"
        );
    }
}

#[test]
fn a_cell_that_overflows_is_marked_and_is_not_the_best() {
    let sweep = ["sweep", "demo", "-p", FACT, "--strengths", "1,3e38"];
    let (code, out, err) = outcome(&sweep);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("not finite (NaN or infinity)") && out.contains("check FAILED"),
        "{out}"
    );
    assert!(out.contains("selected maximum: strength 1 "), "{out}");
    assert!(err.contains("WARNING"), "{err}");
    let alone = ["sweep", "demo", "-p", FACT, "--strengths", "3e38"];
    let (_, out, _) = outcome(&alone);
    assert!(
        out.contains("not finite") && !out.contains("selected maximum: strength"),
        "{out}"
    );
    let (_, out, err) = outcome(&["dose", "demo", "-p", FACT, "--strengths", "1,3e38"]);
    assert!(
        out.contains("not finite") && out.contains("check FAILED"),
        "{out}"
    );
    assert!(err.contains("WARNING"), "{err}");
}

#[test]
fn sound_figures_are_not_marked() {
    let mut lab = Lab::open("demo", &Options::default()).unwrap();
    let tokens = lab.model.encode(FACT, false).unwrap();
    let run = Run::plain(tokens);
    for of in INSTRUMENTS {
        if matches!(of.name(), "select" | "triggers" | "languages" | "probe") {
            continue;
        }
        let given = Arguments::default();
        let given = match of.name() {
            "relation" => given
                .with("relation", demo_file("relations/capital.json"))
                .with("prompts", "zero-shot"),
            "attribute-lens" => given.with("map", demo_file("vectors/capital.safetensors")),
            "attribution" | "circuit" => given.with("corrupt", OTHER),
            _ => given,
        };
        let figure = observe(*of, &run, &given, &mut lab).unwrap();
        let notes = figure.notes.join("\n");
        assert!(!notes.contains("not finite"), "{}: {notes}", of.name());
        // Every number of a row stands under a name.
        if let Body::Table(table) = &figure.body {
            let rows = table.pages.iter().flat_map(|page| &page.rows);
            let most = rows.map(|row| row.entries.len()).max().unwrap_or_default();
            assert!(
                most <= table.columns.len(),
                "{}: {:?}",
                of.name(),
                table.columns
            );
        }
        assert!(figure.check.is_none_or(Check::passed), "{}", of.name());
    }
}

/// Every family refuses NaN in its last norm, and an edit that is too strong.
#[test]
fn every_family_refuses_what_is_not_finite() {
    let tokens = vec![3u32, 9, 4, 11, 7];
    let begin = |lab: &mut Lab, edits: &[&str]| {
        let edits: Vec<Edit> = edits.iter().map(|e| e.parse().unwrap()).collect();
        let schedule = Schedule::always(edits);
        let writer = Writer::begin(lab, tokens.clone(), schedule, Sampling::default());
        writer.and_then(|mut writer| Ok(writer.step(lab, &[])?.choice.id))
    };
    for family in FAMILIES {
        let mut lab = Lab::new(Model::tiny(family, 3).unwrap());
        begin(&mut lab, &[]).unwrap();
        let found = begin(&mut lab, &["scale@resid_pre.1*3e38"]);
        assert!(
            matches!(found, Err(Error::NotFinite { .. })),
            "{}: {found:?}",
            family.name
        );
        let said = found.unwrap_err().to_string();
        assert!(
            said.contains("scale@resid_pre.1"),
            "{}: {said}",
            family.name
        );
        for temperature in [0.0, 1.0] {
            let mut model = Model::tiny(family, 3).unwrap();
            let norm = &mut model.transformer.norm;
            norm.gain = (&norm.gain * f64::NAN).unwrap();
            if !model.transformer.blueprint.final_norm {
                let embed = &model.transformer.embed;
                let bad = (embed.weight().unwrap() * f64::NAN).unwrap();
                model.transformer.head =
                    lmscope::model::network::linear::Linear::dense(bad, None).unwrap();
            }
            let mut lab = Lab::new(model);
            let sampling = Sampling {
                temperature,
                ..Sampling::default()
            };
            let found = Writer::begin(&mut lab, tokens.clone(), Schedule::none(), sampling);
            let error = found
                .err()
                .unwrap_or_else(|| panic!("{} wrote", family.name));
            assert!(
                matches!(error, Error::NotFinite { .. }),
                "{}: {error}",
                family.name
            );
            let run = Run::plain(tokens.clone());
            for of in INSTRUMENTS.iter().filter(|of| {
                matches!(
                    of.name(),
                    "lens" | "settle" | "knockout" | "heads" | "backpatch"
                )
            }) {
                let figure = observe(*of, &run, &Arguments::default(), &mut lab);
                let named = figure.as_ref().map(|f| f.title.clone());
                assert!(figure.is_err(), "{} {}: {named:?}", family.name, of.name());
            }
        }
    }
}

/// What overflows in f16 is found in every family that does: the stream of a scaled embedding.
#[test]
fn an_edit_in_f16_is_named() {
    let options = Options {
        dtype: Some("f16".into()),
        ..Options::default()
    };
    let mut lab = Lab::open("demo", &options).unwrap();
    let tokens = lab.model.encode(FACT, false).unwrap();
    let edits = vec!["scale@resid_pre.2*1e6".parse().unwrap()];
    let found = Writer::begin(
        &mut lab,
        tokens,
        Schedule::always(edits),
        Sampling::default(),
    );
    let said = found.err().unwrap().to_string();
    assert!(said.contains("scale@resid_pre.2"), "{said}");
}

#[test]
fn a_text_survives_an_edit_that_is_too_strong() {
    let (sender, updates) = channel();
    let handle = spawn(move |update| sender.send(update).is_ok()).unwrap();
    handle.ask(Request::Load {
        model: "demo".into(),
        options: Options::default(),
    });
    let until = |fits: &dyn Fn(&Update) -> bool| {
        let mut seen = Vec::new();
        loop {
            seen.push(updates.recv_timeout(Duration::from_mins(1)).unwrap());
            if seen.last().is_some_and(fits) {
                return seen;
            }
        }
    };
    let ended = |u: &Update| matches!(u, Update::Ended { .. });
    let ids = |seen: &[Update]| -> Vec<u32> {
        let token = |u: &Update| match u {
            Update::Token { token, .. } => Some(token.id),
            _ => None,
        };
        seen.iter().filter_map(token).collect()
    };
    until(&|u| matches!(u, Update::Loaded(_)));
    let write = |count| {
        handle.ask(Request::Generate {
            prompt: PromptSource::Text("Tell me about".into()),
            count,
        });
        until(&ended)
    };
    let start = ids(&write(2));
    handle.ask(Request::Continue { count: 4 });
    let plain = ids(&until(&ended));
    assert_eq!(plain.len(), 4);
    assert_eq!(ids(&write(2)), start);
    let strong: Edit = TOO_STRONG.parse().unwrap();
    handle.ask(Request::Edits {
        edits: vec![strong.clone()],
        mode: Mode::FromNow,
    });
    handle.ask(Request::Continue { count: 4 });
    let seen = until(&ended);
    assert_eq!(
        ids(&seen),
        [0u32; 0],
        "no token is chosen from what is not finite"
    );
    assert!(
        seen.iter().any(|u| matches!(u, Update::NotFinite(_))),
        "{seen:?}"
    );
    assert!(matches!(
        seen.last(),
        Some(Update::Ended {
            ending: Ending::NotFinite,
            ..
        })
    ));
    let said = |u: &Update| matches!(u, Update::Failed { message, .. } if message.contains("Lower the strength"));
    assert!(seen.iter().any(said), "{seen:?}");
    // Its receipt says so.
    let seen = until(&|u| matches!(u, Update::Receipts(_)));
    let Some(Update::Receipts(receipts)) = seen.last() else {
        panic!()
    };
    assert!(receipts[0].not_finite, "{receipts:?}");
    // Without it the text goes on as if nothing had been.
    handle.ask(Request::Edits {
        edits: Vec::new(),
        mode: Mode::FromNow,
    });
    handle.ask(Request::Continue { count: 4 });
    assert_eq!(ids(&until(&ended)), plain);
    // As if always, the change itself is refused and the text stays.
    handle.ask(Request::Edits {
        edits: vec![strong],
        mode: Mode::AsIfAlways,
    });
    let seen = until(&|u| matches!(u, Update::Failed { .. }));
    assert!(
        seen.iter()
            .any(|u| matches!(u, Update::Refused(edits) if edits.is_empty()))
    );
    handle.close();
}

#[test]
fn the_header_is_red_with_the_reason_and_the_way_out() {
    for size in [(80, 24), (120, 40)] {
        let updates = vec![
            recorded::loaded(),
            began(&recorded::PROMPT),
            Update::NotFinite("use --dtype f32"),
            Update::Failed {
                slot: None,
                message: "The model's logits are not finite.".into(),
            },
            Update::Ended {
                ending: Ending::NotFinite,
                written: 0,
                rate: 0.0,
            },
        ];
        let app = recorded::app(size, updates);
        let theme = Theme::default();
        let buffer = paint(&app, &theme);
        let shown = text(&buffer);
        let header = shown.lines().next().unwrap();
        assert!(
            header.contains("lens ✗ not finite: use --dtype f32"),
            "{header}"
        );
        assert!(!header.contains('✓'), "{header}");
        let red = theme.style(Role::Error).fg.unwrap();
        let column = header.chars().position(|c| c == '✗').unwrap() as u16;
        assert_eq!(buffer[(column, 0)].fg, red);
        insta::assert_snapshot!(format!("not_finite_{}x{}", size.0, size.1), shown);
        // A new text begins anew.
        let mut app = app;
        let _effects = app.update(lmscope::app::Event::Engine(began(&recorded::PROMPT)));
        assert!(!text(&paint(&app, &theme)).contains("not finite:"));
    }
}

#[test]
fn a_check_of_what_is_not_finite_fails() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (a, b) in [
            ([1.0, bad, 2.0], [1.0, 0.0, 2.0]),
            ([1.0, 0.0, 2.0], [bad, 0.0, 2.0]),
        ] {
            assert!(!Check::of(&a, &b, 1e-4).passed());
        }
    }
    assert!(!Check::of(&[f32::NAN], &[f32::NAN], 1.0).passed());
    assert!(!Check::of(&[f32::INFINITY], &[f32::INFINITY], 1.0).passed());
    // A banned token is the same in both.
    assert!(Check::of(&[f32::NEG_INFINITY, 1.0], &[f32::NEG_INFINITY, 1.0], 0.0).passed());
    assert!(!Check::of(&[1.0], &[1.0, 2.0], 1.0).passed());
    let fine = Check {
        error: 0.0,
        tolerance: 1.0,
    };
    assert!(!fine.worst(Check::not_finite()).passed() && !Check::not_finite().worst(fine).passed());
}

/// Quantized products drop NaN on their way: what the file is known to hold is enough to stop.
#[test]
fn a_broken_weight_stops_a_quantized_model_too() {
    for (tensor, value) in BROKEN {
        let (_folder, model) = broken_demo(tensor, *value);
        for command in [
            &["generate", &model, "-p", FACT, "-n", "2"][..],
            &["lens", &model, "-p", FACT],
            &["settle", &model, "-p", FACT],
            &["neurons", &model, "-p", FACT],
        ] {
            let (code, out, err) = outcome(&[command, &["--dtype", "q8_0"]].concat());
            assert_eq!((code, out.as_str()), (1, ""), "{tensor} {command:?}: {err}");
            assert!(err.contains("not finite"), "{err}");
        }
    }
}

/// The real model, where there is one: an edit that is too strong, and NaN in a layer.
#[test]
fn the_real_model_says_it_too() {
    let Ok(model) = std::env::var("LMSCOPE_REAL_MODEL") else {
        println!("skipped: LMSCOPE_REAL_MODEL names no model");
        return;
    };
    let edit = "scale@resid_pre.3*3e38";
    let command = ["generate", &model, "-p", FACT, "-n", "2", "--edit", edit];
    let (code, out, err) = outcome(&command);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(
        err.contains("NOT FINITE") && err.contains(edit.split('*').next().unwrap()),
        "{err}"
    );
    let figure = {
        let mut lab = Lab::open(&model, &Options::default()).unwrap();
        let run = Run::plain(lab.model.encode(FACT, false).unwrap());
        observe(
            &lmscope::instruments::logit_lens::lens::Lens,
            &run,
            &Arguments::default(),
            &mut lab,
        )
        .unwrap()
    };
    assert!(figure.check.is_some_and(Check::passed));
    assert!(matches!(figure.body, Body::Grid(_)));
}
