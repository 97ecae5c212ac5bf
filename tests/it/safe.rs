//! What a hostile file, name or argument can do to a terminal (nothing), and what a command does to files that are there
//! (nothing without consent).
//!
//! Invariant: every test runs the built binary, offline, in a home of its own. To add a way in, add a row to a table.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lmscope::text;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::pty;

const FACT: &str = "The capital of France is";

/// Sets a clipboard, clears a screen, reverses and hides text, and forges a line of ours.
const HOSTILE: &str = "x\u{1b}]52;c;aGFja2Vk\u{7}\u{9b}2J\u{202e}\u{200b}\u{7f}\r\nlmscope: forged";

/// Runs the binary with a home of its own.
fn call(home: &Path, arguments: &[OsString]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lmscope"));
    for name in ["HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "LMSCOPE_LOG"] {
        command.env_remove(name);
    }
    command
        .env("HOME", home)
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .args(arguments)
        .output()
        .unwrap()
}

fn words<T: AsRef<OsStr>>(arguments: &[T]) -> Vec<OsString> {
    arguments
        .iter()
        .map(|a| a.as_ref().to_os_string())
        .collect()
}

/// Asserts that nothing of an output can act on a terminal; returns exit code, output and errors.
fn harmless(arguments: &[OsString], output: Output) -> (i32, String, String) {
    let read = |bytes: Vec<u8>| {
        String::from_utf8(bytes).unwrap_or_else(|e| panic!("{arguments:?} wrote no UTF-8: {e}"))
    };
    let (out, err) = (read(output.stdout), read(output.stderr));
    for said in [&out, &err] {
        assert!(text::is_safe(said), "{arguments:?}: {said:?}");
        assert!(
            !said.lines().any(|l| l.starts_with("lmscope: forged")),
            "{arguments:?}: {said}"
        );
    }
    assert!(!err.contains("panicked"), "{arguments:?}: {err}");
    (output.status.code().unwrap(), out, err)
}

#[test]
fn no_argument_reaches_the_terminal_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let mut cases: Vec<Vec<OsString>> = vec![
        words(&[HOSTILE]),
        words(&[&format!("--{HOSTILE}")]),
        words(&["lens", "demo", "-p", "x", "--edit", HOSTILE]),
        words(&[
            "lens",
            "demo",
            "-p",
            "x",
            "--edit",
            &format!("zero:1@{HOSTILE}"),
        ]),
        words(&["lens", "demo", "-p", "x", "--dtype", HOSTILE]),
        words(&["lens", "demo", "-p", "x", "--device", HOSTILE]),
        words(&["lens", "demo", "-p", "x", "--format", HOSTILE]),
        words(&[
            "lens",
            "demo",
            "-p",
            "x",
            "-o",
            &format!("{HOSTILE}/none/y"),
        ]),
        words(&["lens", "demo", "--ids", HOSTILE]),
        words(&["lens", "demo", "-p", "x", "--preset", HOSTILE]),
        words(&["trace", "demo", "-p", "x", "-o", "y", "--sites", HOSTILE]),
        words(&["direction", "demo", "--combine", HOSTILE, "-o", "y"]),
        words(&["direction", "demo", "--method", HOSTILE]),
        words(&["sites", "--model", HOSTILE]),
        words(&["--log-level", HOSTILE, "sites"]),
        words(&["generate", "demo", "-p", "x", "-n", HOSTILE]),
    ];
    for sub in lmscope::cli::command().get_subcommands() {
        cases.push(words(&[sub.get_name(), HOSTILE]));
        cases.push(words(&[sub.get_name(), HOSTILE, "-p", "x"]));
        cases.push(words(&[sub.get_name(), "demo", &format!("--{HOSTILE}")]));
    }
    // Not even UTF-8.
    for prefix in ["", "--edit=", "/none/"] {
        let mut bytes = prefix.as_bytes().to_vec();
        bytes.extend(b"a\xff\x9b2J\x1b]0;x\x07");
        let bad = OsString::from_vec(bytes);
        cases.push(vec!["lens".into(), bad.clone(), "-p".into(), "x".into()]);
        cases.push(vec![
            "stats".into(),
            "demo".into(),
            bad,
            "-o".into(),
            "y".into(),
        ]);
    }
    for arguments in &cases {
        let (code, _, err) = harmless(arguments, call(home.path(), arguments));
        assert!(
            [1, 2].contains(&code) && !err.is_empty(),
            "{arguments:?}: {code} {err}"
        );
    }
}

/// A file of a model, and what is done to it.
type Damage = (&'static str, fn(&mut Value));

/// A copy of the demo under a hostile name.
fn demo_folder(home: &TempDir, name: &str) -> PathBuf {
    let folder = home.path().join(name);
    std::fs::create_dir(&folder).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    for entry in std::fs::read_dir(model).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    folder
}

fn change(path: &Path, with: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    with(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_model_cannot_act_on_the_terminal() {
    let home = tempfile::tempdir().unwrap();
    let folder = demo_folder(&home, &HOSTILE.replace('/', "-"));
    let model = folder.as_os_str();
    let os = |w: &str| OsString::from(w);
    // With a hostile name everything works, in every format.
    for format in ["text", "json", "csv", "svg", "html"] {
        let arguments = [
            os("lens"),
            model.into(),
            os("-p"),
            os(FACT),
            os("--format"),
            os(format),
        ];
        let (code, out, err) = harmless(&arguments, call(home.path(), &arguments));
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("Paris"), "{format}");
    }
    let trace = home.path().join(format!("{HOSTILE}.safetensors"));
    for arguments in [
        vec![
            os("generate"),
            model.into(),
            os("-p"),
            os(FACT),
            os("--format"),
            os("jsonl"),
        ],
        vec![os("doctor"), model.into()],
        vec![
            os("trace"),
            model.into(),
            os("-p"),
            os("x"),
            os("--sites"),
            os("logits"),
            os("-o"),
            trace.into(),
        ],
        vec![model.into()],
    ] {
        let (code, _, err) = harmless(&arguments, call(home.path(), &arguments));
        assert_eq!(code, 0, "{err}");
    }
    // What is wrong in it is quoted, and harmless.
    let cases: &[Damage] = &[
        ("config.json", |c| c["model_type"] = json!(HOSTILE)),
        ("config.json", |c| c["hidden_act"] = json!(HOSTILE)),
        ("config.json", |c| {
            c["rope_scaling"] = json!({"rope_type": HOSTILE, "type": HOSTILE});
        }),
        ("config.json", |c| {
            c["quantization_config"] = json!({"quant_method": HOSTILE});
        }),
        ("config.json", |c| c["hidden_size"] = json!(HOSTILE)),
        ("tokenizer.json", |t| t["version"] = json!(HOSTILE)),
        ("tokenizer.json", |t| t["model"]["type"] = json!(HOSTILE)),
    ];
    for (file, damage) in cases {
        let path = folder.join(file);
        let before = std::fs::read(&path).unwrap();
        change(&path, damage);
        for command in ["lens", "generate"] {
            let arguments = [os(command), model.into(), os("-p"), os(FACT)];
            let (code, _, err) = harmless(&arguments, call(home.path(), &arguments));
            assert!(code == 1 && !err.is_empty(), "{file}: {code} {err}");
        }
        std::fs::write(&path, before).unwrap();
    }
    let template = format!("{{{{ raise_exception({HOSTILE:?}) }}}}");
    std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
    let index = json!({"weight_map": {"a": HOSTILE}}).to_string();
    let arguments = [os("lens"), model.into(), os("-p"), os(FACT), os("--chat")];
    let (code, _, _) = harmless(&arguments, call(home.path(), &arguments));
    assert_eq!(code, 1);
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    let (code, _, _) = harmless(&arguments, call(home.path(), &arguments));
    assert_eq!(code, 1);
}

/// A GGUF file with one piece of metadata.
fn gguf(key: &str, value: &str) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(0u64.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    for (i, word) in [key, value].into_iter().enumerate() {
        if i == 1 {
            out.extend(8u32.to_le_bytes());
        }
        out.extend((word.len() as u64).to_le_bytes());
        out.extend(word.as_bytes());
    }
    out
}

#[test]
fn no_file_that_is_read_reaches_the_terminal_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| {
        let path = home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let quoted = toml::Value::from(HOSTILE).to_string();
    let mode = put("mode.toml", format!("mode = {quoted}").as_bytes());
    let set = put(
        "set.toml",
        format!("site = {quoted}\nunits = [{quoted}]").as_bytes(),
    );
    let units = put(
        "units.toml",
        format!("site = \"mlp_act\"\nunits = [{quoted}]").as_bytes(),
    );
    let torn = put("torn.toml", format!("site = {HOSTILE}").as_bytes());
    let lines = put("lines.txt", HOSTILE.as_bytes());
    let facts = put(
        "facts.json",
        json!([{ HOSTILE: 1, "prompts": HOSTILE }])
            .to_string()
            .as_bytes(),
    );
    let model = put("model.gguf", &gguf("general.architecture", HOSTILE));
    let keys = put("keys.gguf", &gguf(HOSTILE, HOSTILE));
    let named = |file: &str, site: &str| format!("zero:{{{file}}}@{site}");
    let run = |more: &[&str]| words(&[&["lens", "demo", "-p", "x"], more].concat());
    let cases = [
        run(&["--preset", &mode]),
        run(&["--edit", &named(&set, "mlp_act.3")]),
        run(&["--edit", &named(&units, "mlp_act.3")]),
        run(&["--edit", &named(&torn, "mlp_act.3")]),
        run(&["--edit", &format!("add:{keys}@resid_post.3")]),
        words(&["edit-value", "demo", "--fact", &facts]),
        words(&["edit-value", "demo", "--fact", &lines]),
        words(&[
            "direction",
            "demo",
            "--demos",
            &lines,
            "--method",
            "task-vector",
            "-o",
            "y",
        ]),
        words(&["lens", &model, "-p", "x"]),
        words(&["lens", &keys, "-p", "x"]),
        words(&["vectors", &keys]),
        words(&["backpatch", "demo", "--questions", &facts]),
        words(&["languages", "demo", "-p", FACT, "--words", &lines]),
    ];
    for arguments in &cases {
        let (code, _, err) = harmless(arguments, call(home.path(), arguments));
        assert!(
            [1, 2].contains(&code) && !err.is_empty(),
            "{arguments:?}: {code} {err}"
        );
    }
}

#[test]
fn a_pipe_gets_the_bytes_unless_safe_ones_are_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let folder = demo_folder(&home, "model");
    // The answer's token begins with an escape: `ě` is byte 0x1b in this alphabet.
    change(&folder.join("tokenizer.json"), |t| {
        let parts = |merge: &Value| match merge {
            Value::Array(pair) => pair
                .iter()
                .map(|p| p.as_str().unwrap().to_string())
                .collect(),
            pair => pair
                .as_str()
                .unwrap()
                .split(' ')
                .map(String::from)
                .collect::<Vec<_>>(),
        };
        let merges = t["model"]["merges"].as_array_mut().unwrap();
        merges.retain(|m| {
            let parts = parts(m);
            parts.concat() != "ĠParis" && parts.iter().all(|p| p != "ĠParis")
        });
        let vocab = t["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("ĠParis").unwrap();
        vocab.insert("ě[2JĠParis".into(), id);
    });
    let model = folder.to_str().unwrap();
    let run = |more: &[&str]| {
        let first = ["generate", model, "-p", FACT, "-n", "3"];
        let output = call(home.path(), &words(&[&first, more].concat()));
        assert!(output.status.success());
        output.stdout
    };
    let raw = run(&[]);
    assert!(raw.starts_with(b"\x1b[2J Paris"), "{raw:?}");
    let safe = String::from_utf8(run(&["--safe"])).unwrap();
    assert!(
        text::is_safe(&safe) && safe.starts_with("␛[2J Paris"),
        "{safe:?}"
    );
    let lines = String::from_utf8(run(&["--format", "jsonl"])).unwrap();
    assert!(text::is_safe(&lines));
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["text"], "\u{1b}[2J Paris");
}

#[test]
fn no_command_replaces_a_file_without_consent() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| {
        home.path()
            .join(name)
            .into_os_string()
            .into_string()
            .unwrap()
    };
    std::fs::write(
        path("text.txt"),
        "The capital of France is Paris. ".repeat(20),
    )
    .unwrap();
    std::fs::write(path("list.txt"), "a\nb\n").unwrap();
    std::fs::write(path("other.txt"), "c\nd\n").unwrap();
    let (text_file, list, other) = (path("text.txt"), path("list.txt"), path("other.txt"));
    let direction = [
        "direction",
        "demo",
        "--plus",
        &list,
        "--minus",
        &other,
        "--layer",
        "1",
    ];
    let mood = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/vectors/mood.safetensors");
    let mood = mood.to_str().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["lens", "demo", "-p", FACT], "f.html"),
        (
            &["trace", "demo", "-p", "x", "--sites", "logits"],
            "t.safetensors",
        ),
        (
            &["stats", "demo", &text_file, "--sites", "mlp_act.0"],
            "s.safetensors",
        ),
        (&direction, "d.safetensors"),
        (&["vectors", mood], "v.pt"),
    ];
    for (arguments, name) in cases {
        let target = path(name);
        let run = |more: &[&str]| {
            let all = words(&[arguments, &["-o", &target][..], more].concat());
            let output = call(home.path(), &all);
            harmless(&all, output)
        };
        std::fs::write(&target, "precious").unwrap();
        let (code, out, err) = run(&[]);
        assert_eq!((code, out.as_str()), (1, ""), "{name}: {err}");
        assert!(err.contains("taken") && err.contains("--force"), "{err}");
        assert_eq!(std::fs::read(&target).unwrap(), b"precious", "{name}");
        std::fs::remove_file(&target).unwrap();
        // Nor is anything written through a link.
        std::os::unix::fs::symlink(&text_file, &target).unwrap();
        let (code, _, err) = run(&[]);
        assert!(code == 1 && err.contains("link"), "{name}: {err}");
        let before = std::fs::read(&text_file).unwrap();
        let (code, _, err) = run(&["--force"]);
        assert_eq!(code, 0, "{name}: {err}");
        assert!(std::fs::symlink_metadata(&target).unwrap().is_file());
        assert_eq!(std::fs::read(&text_file).unwrap(), before, "{name}");
    }
    // A stream that is open already is written to directly.
    let output = call(
        home.path(),
        &words(&["lens", "demo", "-p", FACT, "-o", "/dev/stdout"]),
    );
    assert!(output.status.success() && output.stdout.starts_with(b"lens"));
    if Path::new("/dev/full").exists() {
        let all = words(&["lens", "demo", "-p", FACT, "-o", "/dev/full"]);
        let (code, _, err) = harmless(&all, call(home.path(), &all));
        assert!(code == 1 && err.contains("disk is full"), "{err}");
        for what in ["--help", "--version", "sites"] {
            let full = std::fs::File::options().write(true).open("/dev/full");
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lmscope"));
            let status = command.arg(what).stdout(full.unwrap()).status().unwrap();
            assert_eq!(status.code(), Some(1), "{what}");
        }
    }
    let left = std::fs::read_dir(home.path()).unwrap().flatten();
    let parts = left.filter(|e| e.file_name().to_string_lossy().ends_with(".part"));
    assert_eq!(parts.count(), 0);
}

#[test]
fn threads_have_a_bound_and_files_an_end() {
    let home = tempfile::tempdir().unwrap();
    for count in ["0", "100000", "18446744073709551615"] {
        let all = words(&["lens", "demo", "-p", "x", "--threads", count]);
        let (code, _, err) = harmless(&all, call(home.path(), &all));
        assert!(
            code == 2 && err.contains("--threads") && err.contains("cores"),
            "{err}"
        );
    }
    let all = words(&["lens", "demo", "-p", "x", "--preset", "/dev/zero"]);
    let (code, _, err) = harmless(&all, call(home.path(), &all));
    assert!(code == 1 && err.contains("more than 64.0 MiB"), "{err}");
}

fn sessions(state: &Path) -> Vec<PathBuf> {
    let folder = state.join("lmscope/sessions");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.path()).collect()
}

#[test]
fn a_session_is_on_the_disk_while_it_lasts_and_survives_a_kill() {
    let state = tempfile::tempdir().unwrap();
    let environment = [("XDG_STATE_HOME", state.path().to_str().unwrap())];
    let arguments = ["-p", FACT];
    let mut screens: Vec<_> = (0..2)
        .map(|_| pty::open(24, 80, &environment, &arguments))
        .collect();
    for screen in &screens {
        screen.wait("the end", |t| t.contains("the model ended"));
    }
    let files = sessions(state.path());
    assert_eq!(files.len(), 2, "a file a process: {files:?}");
    for file in &files {
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let kept = std::fs::read_to_string(file).unwrap();
        assert!(kept.ends_with('\n') && kept.contains(FACT), "{kept}");
        for line in kept.lines() {
            serde_json::from_str::<Value>(line).unwrap();
        }
    }
    screens[0].kill();
    screens[1].press("q");
    assert_eq!(screens[1].ended(), 0);
    assert_eq!(sessions(state.path()).len(), 2);
}

#[test]
fn a_session_is_kept_only_where_that_is_wanted_and_possible() {
    let state = tempfile::tempdir().unwrap();
    let environment = [("XDG_STATE_HOME", state.path().to_str().unwrap())];
    let config = tempfile::tempdir().unwrap();
    std::fs::write(config.path().join("config.toml"), "save = false\n").unwrap();
    for arguments in [
        vec!["-p", FACT, "--no-session"],
        vec!["-p", FACT, "--config", config.path().to_str().unwrap()],
        vec![],
    ] {
        let mut screen = pty::open(24, 80, &environment, &arguments);
        let word = if arguments.is_empty() {
            "France"
        } else {
            "Paris"
        };
        screen.wait("the screen", |t| t.contains(word));
        screen.press("q");
        assert_eq!(screen.ended(), 0);
        assert!(sessions(state.path()).is_empty(), "{arguments:?}");
    }
    // Where it cannot be kept, that is said on the screen and after it.
    let mut screen = pty::open(24, 80, &[("XDG_STATE_HOME", "/dev/null")], &["-p", FACT]);
    screen.wait("the notice", |t| t.contains("session is not kept"));
    // What is not on the disk is not left without a question.
    screen.press("q");
    screen.wait("the question", |t| t.contains("not left"));
    screen.press("q");
    assert_eq!(screen.ended(), 0);
    std::thread::sleep(Duration::from_millis(200));
    let after = screen.text().replace('\n', "");
    assert!(
        after.contains("lmscope: the session is not kept"),
        "{after}"
    );
}
