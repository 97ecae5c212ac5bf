//! The experiment as a whole, on the demo model: presets on the screen and headless, and undo of texts and schedules.

use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use lmscope::app::{App, AppSettings, Effect, Event};
use lmscope::edit::preset::EditPreset;
use lmscope::edit::schedule::Mode;
use lmscope::engine::{Handle, Request, Update, spawn};
use lmscope::model::load::Options;

use crate::recorded::{press, type_in};

const FACT: &str = "The capital of France is";

/// The app with an engine, and everything that the app wanted done but for requests.
struct Stage {
    app: App,
    engine: Handle,
    updates: Receiver<Update>,
    others: Vec<Effect>,
    /// Answers that are still to come.
    awaited: usize,
}

impl Stage {
    /// The screen after the prompt was run and so many tokens were written.
    fn new(count: usize) -> Self {
        let (sender, updates) = channel();
        let engine = spawn(move |update| sender.send(update).is_ok()).unwrap();
        let (mut app, first) = App::new(AppSettings {
            options: Options {
                device: Some("cpu".into()),
                ..Options::default()
            },
            prompt: Some(FACT.into()),
            count,
            ..AppSettings::default()
        });
        app.update(Event::Resize(120, 40));
        let mut stage = Self {
            app,
            engine,
            updates,
            others: Vec::new(),
            awaited: 0,
        };
        stage.perform(first);
        stage.settle();
        assert!(stage.app.model.is_some());
        stage
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Ask(request) => {
                    self.awaited += usize::from(matches!(
                        request,
                        Request::Edits { .. } | Request::Beside(_) | Request::Restore(_)
                    ));
                    self.engine.ask(request);
                }
                Effect::Cancel => self.engine.cancel(),
                other => self.others.push(other),
            }
        }
    }

    /// Takes in updates until nothing comes any more.
    fn settle(&mut self) {
        loop {
            let app = &self.app;
            let busy = app.loading.is_some() || app.transcript.busy() || app.history.is_restoring();
            let patience = if busy || self.awaited > 0 {
                60_000
            } else {
                600
            };
            let Ok(update) = self.updates.recv_timeout(Duration::from_millis(patience)) else {
                return;
            };
            let answer = match &update {
                Update::Edited { .. } | Update::Refused(_) | Update::Restored(_) => true,
                Update::Beside { .. } => {
                    self.app.baseline_mode != self.app.history.now().baseline_mode
                }
                _ => false,
            };
            self.awaited = self.awaited.saturating_sub(usize::from(answer));
            let effects = self.app.update(Event::Engine(update));
            self.perform(effects);
        }
    }

    fn keys(&mut self, keys: &str) {
        let effects = press(&mut self.app, keys);
        self.perform(effects);
        self.settle();
    }

    /// Runs a command line of the palette.
    fn command(&mut self, line: &str) {
        self.keys(":");
        let effects = type_in(&mut self.app, line);
        self.perform(effects);
        self.keys("Enter");
    }

    fn ids(&self) -> Vec<u32> {
        self.app.transcript.tokens.iter().map(|t| t.id).collect()
    }

    /// What was written of the text: ids after the prompt.
    fn written(&self) -> Vec<u32> {
        self.ids().split_off(self.app.transcript.prompt)
    }
}

/// Ids that `lmscope generate` writes, and what it says on standard error.
fn headless(arguments: &[&str]) -> (Vec<u32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lmscope"))
        .args(["generate", "demo", "-p", FACT, "--format", "jsonl"])
        .args(["--device", "cpu"])
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let ids = lines
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["id"].as_u64())
        .map(|id| id as u32)
        .collect();
    (ids, errors)
}

#[test]
fn a_preset_saved_on_the_screen_writes_the_same_tokens_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refusal.toml");
    let mut stage = Stage::new(6);
    let plain = stage.written();
    // An edit that is on, at another strength, and one that stays off.
    stage.keys("3 >");
    stage.command("edit zero@attn_out.1-3");
    stage.command("edit zero@mlp_out.*");
    stage.keys("5");
    stage.command(&format!("save-edits {}", path.display()));
    let Some(Effect::Write(to, bytes)) = stage.others.pop() else {
        panic!("nothing was written");
    };
    assert_eq!(to, path);
    std::fs::write(&path, bytes).unwrap();
    let preset = EditPreset::load(&path).unwrap();
    assert_eq!(preset.edits, stage.app.history.edits());
    assert_eq!(
        preset.revision,
        stage.app.model.as_ref().unwrap().card.revision
    );
    stage.keys("R");
    let edited = stage.written();
    assert_ne!(plain, edited);

    let (ids, errors) = headless(&["-n", "6", "--preset", path.to_str().unwrap()]);
    assert_eq!(ids, edited);
    assert!(!errors.contains("CAUTION"), "{errors}");
    assert!(
        !errors.contains("zero@mlp_out"),
        "off edits stay off: {errors}"
    );

    let mut other = Stage::new(6);
    other.command(&format!("load-edits {}", path.display()));
    assert_eq!(other.app.history.edits(), stage.app.history.edits());
    other.keys("R");
    assert_eq!(other.written(), edited);
    other.keys("u");
    assert_eq!(other.written(), plain, "the text before");
    other.keys("u");
    assert_eq!(other.app.history.active(), 0);
}

#[test]
fn a_preset_of_other_weights_is_used_with_a_caution_and_edits_follow_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.toml");
    let preset = EditPreset {
        model: "llama".into(),
        revision: "beefbeefbeefbeef".into(),
        mode: Mode::AsIfAlways,
        edits: vec!["zero@mlp_out.1".parse().unwrap()],
    };
    std::fs::write(&path, preset.to_string()).unwrap();
    let file = path.to_str().unwrap();
    let (ids, errors) = headless(&["-n", "5", "--preset", file, "--edit", "scale@mlp_out.2*2"]);
    assert!(
        errors.contains("CAUTION") && errors.contains("llama (weights beefbeef)"),
        "{errors}"
    );
    let first = errors.find("edit zero@mlp_out.1").unwrap();
    assert!(
        first < errors.find("edit scale@mlp_out.2").unwrap(),
        "presets come first"
    );
    let (same, errors) = headless(&[
        "-n",
        "5",
        "--edit",
        "zero@mlp_out.1",
        "--edit",
        "scale@mlp_out.2*2",
    ]);
    assert_eq!(ids, same);
    assert!(!errors.contains("CAUTION"));

    let mut stage = Stage::new(3);
    stage.command(&format!("load-edits {}", path.display()));
    assert!(
        stage
            .app
            .notices
            .all
            .iter()
            .any(|n| n.text.contains("CAUTION"))
    );
    assert_eq!(stage.app.history.mode(), Mode::AsIfAlways);
    stage.command("load-edits nowhere.toml");
    assert!(
        stage
            .app
            .notices
            .all
            .iter()
            .any(|n| n.text.contains("nowhere.toml"))
    );
    assert_eq!(stage.app.history.edits(), preset.edits, "as before");
}

#[test]
fn broken_presets_are_refused_with_a_sentence_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.toml");
    std::fs::write(
        &path,
        "[[edit]]\nedit = \"zero@mlp_out.1\"\nstrong = true\n",
    )
    .unwrap();
    for arguments in [vec!["generate", "-p", "x"], vec!["lens", "-p", "x"], vec![]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lmscope"));
        if arguments.is_empty() {
            command.args(["demo", "--shot", "nowhere.svg"]);
        } else {
            command
                .args(&arguments[..1])
                .arg("demo")
                .args(&arguments[1..]);
        }
        let output = command
            .args(["--preset", path.to_str().unwrap()])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(
            errors.contains("broken.toml") && errors.contains("strong"),
            "{errors}"
        );
    }
}

#[test]
fn a_text_that_was_cut_comes_back_with_the_edits_it_was_written_under() {
    let mut stage = Stage::new(4);
    stage.keys("3");
    stage.keys("c");
    let before = stage.ids();
    let boundaries = stage.app.transcript.boundaries.clone();
    assert_eq!(boundaries, [before.len() - 4]);
    let text = stage.app.transcript.tokens.clone();
    assert!(text.last().unwrap().kl.is_some());

    stage.keys("g g l l l");
    stage.keys("r");
    let cut = stage.ids();
    assert_ne!(cut, before);
    stage.keys("u");
    assert_eq!(stage.ids(), before);
    assert_eq!(stage.app.transcript.boundaries, boundaries);
    let kls = |tokens: &[lmscope::engine::Token]| -> Vec<Option<f32>> {
        tokens.iter().map(|t| t.kl).collect()
    };
    assert_eq!(kls(&stage.app.transcript.tokens), kls(&text));
    // It goes on as if it had never been cut.
    stage.keys("c");
    let on = stage.ids();
    let mut straight = Stage::new(4);
    straight.keys("3");
    straight.keys("c");
    straight.keys("c");
    assert_eq!(on, straight.ids());

    stage.keys("ctrl-r");
    assert_eq!(
        stage.ids(),
        cut,
        "redo cuts again, also after more was written"
    );
    stage.keys("u");
    assert_eq!(stage.ids(), on);
    stage.keys("u");
    assert_eq!(stage.app.history.active(), 0, "and then the edit");
}

#[test]
fn undoing_as_if_always_brings_back_which_edits_were_in_force_where() {
    let mut stage = Stage::new(4);
    stage.command("edit zero@attn_out.1-3");
    stage.keys("c");
    let (text, how) = (
        stage.app.transcript.tokens.clone(),
        stage.app.transcript.boundaries.clone(),
    );
    assert_eq!(how, [text.len() - 4]);
    stage.keys("m");
    assert!(stage.app.transcript.boundaries.is_empty());
    assert!(
        stage.app.receipts.iter().any(|r| r.fired > 3 * 4),
        "now at every position"
    );
    stage.keys("u");
    assert_eq!(stage.app.transcript.boundaries, how);
    assert_eq!(stage.app.history.mode(), Mode::FromNow);
    let fired = stage.app.receipts.iter().find(|r| r.active).unwrap().fired;
    assert_eq!(fired, 3 * 4, "at the four tokens written under it alone");
    stage.keys("c");
    let mut straight = Stage::new(4);
    straight.command("edit zero@attn_out.1-3");
    straight.keys("c");
    straight.keys("c");
    assert_eq!(stage.ids(), straight.ids());
}

#[test]
fn an_edit_that_the_engine_refuses_leaves_the_list_as_it_is_in_force() {
    let mut stage = Stage::new(3);
    stage.command("edit zero@attn_out.1");
    let held = stage.app.history.edits().to_vec();
    stage.command("edit zero:999999@mlp_act.0");
    assert_eq!(stage.app.history.edits(), held);
    assert!(
        stage
            .app
            .notices
            .all
            .iter()
            .any(|n| n.text.contains("999999"))
    );
    stage.keys("Esc u");
    assert_eq!(stage.app.history.active(), 0, "the step before");
}

#[test]
fn a_text_that_is_not_kept_is_refused_and_the_present_one_stays() {
    let mut stage = Stage::new(3);
    let before = stage.ids();
    stage.engine.ask(Request::Restore(77));
    stage.settle();
    assert!(
        stage
            .app
            .notices
            .all
            .iter()
            .any(|n| n.text.contains("still kept"))
    );
    stage.keys("Esc c");
    assert_eq!(stage.ids()[..before.len()], before);
    assert!(stage.ids().len() > before.len());
}

#[test]
fn a_lockstep_shows_the_unedited_run_and_forcing_makes_both_one_text() {
    let mut plain = Stage::new(12);
    let unedited = plain.written();
    plain.keys("B");
    plain.command("edit zero@attn_out.1-3");
    plain.keys("R");
    let baseline = plain.app.baseline.clone().unwrap();
    let own: Vec<u32> = baseline.text.tokens.iter().map(|t| t.id).collect();
    let shared = own.len().min(unedited.len());
    assert!(shared > 2);
    assert_eq!(
        own[..shared],
        unedited[..shared],
        "the second column is the unedited run"
    );
    let edited = plain.ids();
    let differs = (0..edited.len().min(own.len() + plain.app.transcript.prompt))
        .skip(plain.app.transcript.prompt)
        .find(|p| edited[*p] != own[*p - plain.app.transcript.prompt]);
    assert_eq!(baseline.diverges, differs);
    assert!(differs.is_some());
    // Cut and brought back, both texts are there again, and go on as they would have.
    plain.keys("h h");
    plain.keys("r");
    plain.keys("u");
    assert_eq!(plain.ids(), edited);
    let back = plain.app.baseline.clone().unwrap();
    assert_eq!(back.text.pieces, baseline.text.pieces);
    assert_eq!(back.diverges, differs);

    plain.keys("=");
    plain.keys("R");
    let forced = plain.written();
    let shared = forced.len().min(unedited.len());
    assert_eq!(forced[..shared], unedited[..shared]);
    let text = &plain.app.transcript;
    let written = text.tokens.iter().skip(text.prompt);
    assert!(written.clone().all(|t| t.kl.is_some() && t.other.is_some()));
    assert!(text.fired_at(text.prompt).iter().any(|f| {
        plain.app.history.edit(f.edit).unwrap().to_string() == "zero@attn_out.1-3" && f.fired == 3
    }));

    // A text that comes back in lockstep goes on in lockstep.
    plain.keys("u");
    assert_eq!(plain.ids(), edited);
    plain.keys("u");
    plain.keys("c");
    assert!(plain.app.baseline.as_ref().unwrap().live);
    assert!(
        plain
            .app
            .notices
            .all
            .iter()
            .all(|n| !n.text.contains("fail")),
        "{:?}",
        plain.app.notices.all
    );
}
