//! Sessions that are left and come back: the same tokens, edits, figures and panes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use lmscope::app::layout::{Pane, Zoom};
use lmscope::app::session::recorded::RecordedSession;
use lmscope::app::transcript::Activity;
use lmscope::app::{App, AppSettings, Effect, Event};
use lmscope::engine::{self, Handle, Update};
use lmscope::lab::sample::Sampling;
use lmscope::model::load::Options;
use lmscope::ui::theme::Theme;

use crate::pty;
use crate::recorded::{press, type_in};

/// An app with a real engine, without a terminal.
struct Stage {
    app: App,
    engine: Handle,
    updates: Receiver<Update>,
    /// How often a model was loaded, and whether the last time took it out of the files.
    loaded: Vec<f32>,
}

impl Stage {
    fn open(settings: AppSettings) -> Self {
        let (sender, updates) = channel();
        let engine = engine::spawn(move |update| sender.send(update).is_ok()).unwrap();
        let themes = ["terminal", "mocha"].map(|t| (t.to_string(), t.to_string()));
        let (mut app, first) = App::new(AppSettings {
            themes: themes.to_vec(),
            options: Options {
                device: Some("cpu".into()),
                ..Options::default()
            },
            ..settings
        });
        app.update(Event::Resize(120, 40));
        let mut stage = Self {
            app,
            engine,
            updates,
            loaded: Vec::new(),
        };
        stage.perform(first);
        stage
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Ask(request) => self.engine.ask(request),
                Effect::Cancel => self.engine.cancel(),
                _ => {}
            }
        }
    }

    /// Handles updates until it fits, and all that comes without pause after.
    fn until(&mut self, what: &str, fits: impl Fn(&App) -> bool) {
        loop {
            let wait = if fits(&self.app) { 150 } else { 60_000 };
            let Ok(update) = self.updates.recv_timeout(Duration::from_millis(wait)) else {
                assert!(fits(&self.app), "waited for {what}");
                return;
            };
            self.receive(update);
        }
    }

    fn receive(&mut self, update: Update) {
        if let Update::Loaded(loaded) = &update {
            self.loaded.push(loaded.seconds);
        }
        let effects = self.app.update(Event::Engine(update));
        self.perform(effects);
    }

    fn settle(&mut self) {
        self.until("the end of the work", |app| {
            !app.is_replaying()
                && app.model.is_some()
                && !app.transcript.busy()
                && !app.baseline_asked
                && app.shown.values().all(|s| s.working.is_none())
        });
    }

    fn press(&mut self, keys: &str) {
        let effects = press(&mut self.app, keys);
        self.perform(effects);
    }

    /// Runs a line of the palette.
    fn run(&mut self, line: &str) {
        let mut effects = press(&mut self.app, ":");
        effects.extend(type_in(&mut self.app, line));
        effects.extend(press(&mut self.app, "Enter"));
        self.perform(effects);
    }

    /// What has to be the same again.
    fn state(&self) -> State {
        let app = &self.app;
        let now = app.history.now();
        State {
            ids: app.transcript.tokens.iter().map(|t| t.id).collect(),
            // A probability may be read of another pass over the same tokens.
            logprobs: app
                .transcript
                .tokens
                .iter()
                .map(|t| t.logprob.map(|p| (p * 1000.0).round() as i64))
                .collect(),
            prompt: app.transcript.prompt,
            boundaries: app.transcript.boundaries.clone(),
            edits: now.edits.iter().map(|e| (e.to_string(), e.on)).collect(),
            sampling: format!("{:?} {:?} {:?}", now.sampling, now.mode, now.baseline_mode),
            marks: format!("{:?}", now.marks),
            screen: format!(
                "{:?} {:?} {} {:?} {:?} {} {}",
                app.layout.focus,
                app.layout.zoom,
                app.layout.figure,
                app.cursor,
                app.density,
                app.settings.theme,
                app.settings.count,
            ),
            figures: app
                .shown
                .iter()
                .filter_map(|(slot, s)| {
                    let figure = s.figure.as_ref()?;
                    Some(format!("{slot} {} {:?}", figure.title, s.stale))
                })
                .collect(),
        }
    }

    /// Ends the session, and reads it.
    fn leave(mut self) -> (RecordedSession, State) {
        let state = self.state();
        assert_eq!(self.app.finish_session(), None);
        let path = self.app.session.path().unwrap().to_path_buf();
        (RecordedSession::read(&path).unwrap(), state)
    }
}

#[derive(Debug, PartialEq)]
struct State {
    ids: Vec<u32>,
    logprobs: Vec<Option<i64>>,
    prompt: usize,
    boundaries: Vec<usize>,
    edits: Vec<(String, bool)>,
    sampling: String,
    marks: String,
    screen: String,
    figures: Vec<String>,
}

const STORY: &str = "Once upon a time there was a fox named Ben. It was a";

fn settings(folder: &Path) -> AppSettings {
    AppSettings {
        session: Some(folder.to_path_buf()),
        prompt: Some(STORY.into()),
        count: 40,
        sampling: Sampling {
            temperature: 0.9,
            seed: 5,
            ..Sampling::default()
        },
        ..AppSettings::default()
    }
}

fn resumed(folder: &Path, recorded: RecordedSession) -> AppSettings {
    AppSettings {
        session: Some(folder.to_path_buf()),
        resume: Some(recorded),
        ..AppSettings::default()
    }
}

/// A session with an edit that comes while the model writes, a rewind, a continuation, and a text before all of that.
fn long_session(folder: &Path) -> Stage {
    let mut stage = Stage::open(settings(folder));
    stage.settle();
    stage.press("i");
    stage.perform(Vec::new());
    let effects = type_in(&mut stage.app, STORY);
    stage.perform(effects);
    stage.press("Enter");
    // While it is written, wherever the model is by then.
    stage.until_written(4);
    stage.press("2");
    stage.settle();
    stage.press("G h h h h h h r");
    stage.settle();
    stage.press("c");
    stage.settle();
    stage.run("count 7");
    stage.press("c");
    stage.settle();
    stage
}

impl Stage {
    /// Handles updates one by one until so many tokens are written.
    fn until_written(&mut self, count: usize) {
        loop {
            let text = &self.app.transcript;
            // Not that of the text before, while the prompt is read.
            if text.activity == Activity::Writing && text.tokens.len() >= text.prompt + count {
                return;
            }
            let update = self.updates.recv_timeout(Duration::from_mins(1)).unwrap();
            self.receive(update);
        }
    }
}

#[test]
fn a_session_comes_back_with_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = long_session(folder.path());
    stage.press("Tab k z +");
    stage.run("theme mocha");
    let (recorded, state) = stage.leave();
    assert!(state.ids.len() > state.prompt + 20, "{state:?}");
    assert!(state.edits.iter().any(|(_, on)| *on), "{state:?}");
    assert!(
        state.boundaries.iter().any(|b| *b > state.prompt),
        "the edit came while it was written: {state:?}"
    );
    let mut again = Stage::open(resumed(folder.path(), recorded.clone()));
    again.settle();
    assert_eq!(again.state(), state);
    let notices: Vec<_> = again.app.notices.all.iter().map(|n| &n.text).collect();
    assert!(
        notices.iter().any(|n| n.starts_with("opened ")),
        "{notices:?}"
    );
    assert!(
        notices.iter().all(|n| !n.contains("Missing")),
        "{notices:?}"
    );
    // Until the user goes on, the file is the same; then it is one of its own, from which all comes back too; and undo knows the
    // text before the rewinding.
    assert_eq!(again.app.session.path().unwrap(), recorded.path);
    again.run("flip");
    let (twice, _) = again.leave();
    assert_ne!(twice.path, recorded.path);
    let mut third = Stage::open(resumed(folder.path(), twice));
    third.settle();
    assert_eq!(third.state(), state);
    third.press("u");
    third.settle();
    assert_ne!(third.state().ids, state.ids);
}

#[test]
fn a_session_is_opened_in_place_of_another_and_the_model_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (recorded, state) = long_session(folder.path()).leave();
    let mut stage = Stage::open(AppSettings {
        prompt: Some("The capital of France is".into()),
        ..settings(folder.path())
    });
    stage.until_written(1);
    // In the midst of writing, with a change that the engine has not seen.
    stage.press("1");
    stage.run(&format!("open {}", recorded.path.display()));
    stage.settle();
    assert_eq!(stage.state(), state);
    assert_eq!(stage.loaded.len(), 2);
    assert!(
        stage.loaded[1] < stage.loaded[0] / 2.0,
        "{:?}",
        stage.loaded
    );
    // The session before is kept, with its screen.
    let kept = std::fs::read_dir(folder.path()).unwrap();
    let kept: Vec<PathBuf> = kept.map(|e| e.unwrap().path()).collect();
    assert_eq!(kept.len(), 2, "what was opened has its file: {kept:?}");
    let before = kept.iter().map(|p| std::fs::read_to_string(p).unwrap());
    let before: Vec<String> = before.filter(|text| text.contains("capital")).collect();
    assert!(
        before.len() == 1 && before[0].contains("\"screen\""),
        "{before:?}"
    );
}

#[test]
fn what_was_undone_stays_undone() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(settings(folder.path()));
    stage.settle();
    let first = stage.state().ids;
    stage.press("g g l l l l l l l l l l l l l l l l l l l l r");
    stage.settle();
    stage.press("u");
    stage.settle();
    assert_eq!(stage.state().ids, first, "the rewinding is undone");
    let (recorded, state) = stage.leave();
    let mut again = Stage::open(resumed(folder.path(), recorded));
    again.settle();
    assert_eq!(again.state(), state);
}

#[test]
fn figures_marks_and_what_was_written_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(AppSettings {
        prompt: Some("The capital of France is".into()),
        count: 6,
        ..settings(folder.path())
    });
    stage.settle();
    stage.press("f a");
    stage.run("group facts");
    stage.settle();
    stage.press("P");
    stage.settle();
    stage.press("i");
    type_in(&mut stage.app, "a draft");
    stage.press("Esc");
    let (recorded, state) = stage.leave();
    assert!(
        state.figures.iter().any(|f| f.starts_with("patchscope ")),
        "{state:?}"
    );
    assert!(
        state.edits.iter().any(|(e, _)| e.contains("{facts}")),
        "{state:?}"
    );
    assert!(state.marks.contains("unit"), "{state:?}");
    let mut again = Stage::open(resumed(folder.path(), recorded));
    again.settle();
    assert_eq!(again.state(), state);
    assert_eq!(again.app.prompt.text(), "a draft");
    // The earlier command line stands behind Up.
    again.press(": Up");
    let Some(lmscope::app::Overlay::Listing(list)) = &again.app.overlay else {
        panic!("the palette")
    };
    assert_eq!(list.filter.text(), "group facts");
}

#[test]
fn what_is_missing_is_said_and_the_rest_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.jsonl");
    let lines = [
        r#"{"request":"load","model":"demo"}"#,
        r#"{"request":"edits","edits":[{"edit":"add:gone.gguf@resid_pre.2","on":true},{"edit":"zero:3@mlp_act.2","on":true}],"mode":"from now"}"#,
        r#"{"request":"generate","text":"The capital of France is","count":3}"#,
        r#"{"request":"edits","edits":[{"edit":"add:gone.gguf@resid_pre.2","on":true},{"edit":"zero:3@mlp_act.2","on":true},{"edit":"zero:4@mlp_act.2","on":true}],"mode":"from now"}"#,
        r#"{"request":"continue","count":2}"#,
        r#"{"screen":{"focus":"lens","theme":"sunset","side":"ball"}}"#,
    ];
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let recorded = RecordedSession::read(&path).unwrap();
    let mut stage = Stage::open(resumed(folder.path(), recorded));
    stage.settle();
    let state = stage.state();
    assert_eq!(state.ids.len(), state.prompt + 5, "{state:?}");
    let on: Vec<_> = state.edits.iter().filter(|(_, on)| *on).collect();
    assert_eq!(on.len(), 2, "{:?}", state.edits);
    let shown = &stage.app.notices.shown().unwrap().text;
    for word in ["gone.gguf", "sunset", "ball"] {
        assert_eq!(shown.matches(word).count(), 1, "{word}: {shown}");
    }
    assert_eq!(stage.app.layout.focus, Pane::Figure("lens"));
    assert_eq!(stage.app.layout.zoom, Zoom::Normal);
}

#[test]
fn another_text_than_then_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.jsonl");
    let lines = [
        r#"{"request":"load","model":"demo"}"#,
        r#"{"request":"generate","text":"The capital of France is","count":3}"#,
        r#"{"written":[1,2,3],"after":2}"#,
    ];
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let recorded = RecordedSession::read(&path).unwrap();
    let mut stage = Stage::open(resumed(folder.path(), recorded));
    stage.settle();
    let shown = &stage.app.notices.shown().unwrap().text;
    assert!(
        shown.contains("from token 6 on the text is another"),
        "{shown}"
    );
}

#[test]
fn the_user_goes_on_before_all_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (recorded, state) = long_session(folder.path()).leave();
    let mut stage = Stage::open(resumed(folder.path(), recorded));
    stage.until_written(2);
    stage.press("x 1 ctrl-c");
    stage.settle();
    assert!(stage.state().ids.len() < state.ids.len());
    let said = |n: &lmscope::app::notice::Notice| n.text.contains("opened up to here");
    assert_eq!(stage.app.notices.all.iter().filter(|n| said(n)).count(), 1);
}

/// Writes a session file, opens it, and waits until all is there.
fn opened(folder: &Path, lines: &[&str]) -> Stage {
    let path = folder.join("made.jsonl");
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let recorded = RecordedSession::read(&path).unwrap();
    let mut stage = Stage::open(resumed(folder, recorded));
    stage.settle();
    stage
}

const LOAD: &str = r#"{"request":"load","model":"demo"}"#;
const FACT: &str = r#"{"request":"generate","text":"The capital of France is","count":3}"#;

#[test]
fn marks_and_sets_that_the_model_lacks_are_said_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let stage = opened(
        folder.path(),
        &[
            LOAD,
            r#"{"request":"group","name":"far","site":"mlp_act","units":["99/1"]}"#,
            FACT,
            r#"{"screen":{"marks":["3@mlp_act.2","3@mlp_act.99","99999@mlp_act.2","77@z.1","1@resid_post.1"],"cursor":{"layer":400,"position":900,"unit":null,"follow":false,"at_run_start":false}}}"#,
        ],
    );
    let marks = stage.app.history.marks().len();
    assert_eq!(marks, 1, "{:?}", stage.app.history.marks());
    let shown = &stage.app.notices.shown().unwrap().text;
    for word in ["mlp_act.99", "99999@", "77@z.1", "1@resid_post.1", "{far}"] {
        assert_eq!(shown.matches(word).count(), 1, "{word}: {shown}");
    }
    let last = stage.app.transcript.tokens.len() - 1;
    assert!(stage.app.cursor.layer < 8 && stage.app.cursor.position == last);
}

/// Numbers that nothing has are drawn, walked and left again.
#[test]
fn places_that_no_figure_has_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let view = r#"{"row":1e18,"column":1e18,"aside":1e18,"number":1e18,"step":1e18,"sorted":["nothing",true]}"#
        .replace("1e18", "18446744073709551615");
    let screen = format!(
        r#"{{"screen":{{"tour":18446744073709551615,"selected":18446744073709551615,"focus":"neurons","figure":"neurons","views":{{"lens":{view},"neurons":{view},"circuit":{view},"melt":{view}}}}}}}"#
    );
    let mut stage = opened(folder.path(), &[LOAD, FACT, &screen]);
    for keys in [
        "j k h l",
        "( ) | #",
        "f j",
        "Tab j x",
        ": t o u r Space n e x t Enter",
    ] {
        stage.press(keys);
        let drawn = crate::screens::text(&crate::screens::paint(&stage.app, &Theme::default()));
        assert!(drawn.contains("demo"), "{keys}: {drawn}");
    }
    stage.settle();
}

/// All that is missing is listed where it takes no more lines than its number would.
#[test]
fn what_is_missing_is_listed_as_far_as_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let marks = |count: usize| {
        let marks: Vec<String> = (0..count).map(|i| format!("\"no{i}\"")).collect();
        format!(r#"{{"screen":{{"marks":[{}]}}}}"#, marks.join(","))
    };
    for (count, named, words) in [(5, 5, ""), (21, 21, ""), (40, 20, "20 more")] {
        let stage = opened(folder.path(), &[LOAD, FACT, &marks(count)]);
        let shown = &stage.app.notices.shown().unwrap().text;
        assert_eq!(shown.matches("the mark `no").count(), named, "{shown}");
        assert!(shown.contains(words), "{shown}");
        assert_eq!(shown.contains(" more"), !words.is_empty(), "{shown}");
    }
}

#[test]
fn sorting_and_the_selected_row_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(AppSettings {
        prompt: Some("The capital of France is".into()),
        count: 3,
        ..settings(folder.path())
    });
    stage.settle();
    stage.press("P");
    stage.settle();
    stage.press("| | | j j j )");
    let view = |stage: &Stage| {
        let shown = &stage.app.shown["patchscope"];
        let rows = format!("{:?}", shown.figure.as_ref().map(|f| &f.body));
        (shown.sorted.clone(), shown.spot, shown.aside, rows)
    };
    let before = view(&stage);
    assert!(
        before.0.is_some() && before.1.row > 0,
        "{:?} {:?}",
        before.0,
        before.1
    );
    let (recorded, _) = stage.leave();
    let mut again = Stage::open(resumed(folder.path(), recorded));
    again.settle();
    assert_eq!(view(&again), before);
}

/// A step of the tour is where it was, and what the replay does again does not count as done.
#[test]
fn the_place_in_the_tour_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(AppSettings {
        tour: true,
        ..AppSettings {
            prompt: None,
            ..settings(folder.path())
        }
    });
    stage.settle();
    stage.press("Enter");
    stage.settle();
    stage.press("Tab");
    let step = |stage: &Stage| stage.app.tour.map(|tour| tour.step);
    assert_eq!(step(&stage), Some(1));
    let (recorded, _) = stage.leave();
    let mut again = Stage::open(resumed(folder.path(), recorded));
    again.settle();
    assert_eq!(step(&again), Some(1));
    again.press("j j j j j j");
    assert_eq!(step(&again), Some(2));
}

/// What is not there is not on: neither the header nor the list says so, and the next run goes without it.
#[test]
fn an_edit_that_cannot_be_is_off_before_there_is_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let edits = ["add:gone.gguf@resid_pre.2", "zero:3@mlp_act.2"];
    let mut stage = Stage::open(AppSettings {
        prompt: None,
        edits: edits.map(|edit| edit.parse().unwrap()).to_vec(),
        ..settings(folder.path())
    });
    stage.until("the refusal", |app| {
        app.model.is_some() && app.history.active() == 0
    });
    let shown = &stage.app.notices.shown().unwrap().text;
    assert!(shown.contains("gone.gguf"), "{shown}");
    let rows = stage.app.history.edits();
    assert!(
        edits
            .iter()
            .all(|edit| rows.iter().any(|row| row.to_string() == *edit))
    );
    let number = rows
        .iter()
        .position(|row| row.to_string() == edits[1])
        .unwrap();
    stage.press(&format!("{} Enter", number + 1));
    stage.settle();
    assert!(stage.app.history.active() == 1 && stage.app.transcript.tokens.len() > 6);
}

/// A model that was away is loaded with `L` when it is back, and the session is opened then.
#[test]
fn a_session_waits_for_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("model");
    std::fs::create_dir(&home).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    for entry in std::fs::read_dir(demo).unwrap().flatten() {
        std::fs::copy(entry.path(), home.join(entry.file_name())).unwrap();
    }
    let mut stage = Stage::open(AppSettings {
        model: home.display().to_string(),
        prompt: Some("The capital of France is".into()),
        count: 3,
        ..settings(folder.path())
    });
    stage.settle();
    let (recorded, state) = stage.leave();
    let origin = recorded.path.clone();
    let away = folder.path().join("away");
    std::fs::rename(&home, &away).unwrap();
    let mut again = Stage::open(resumed(folder.path(), recorded));
    again.until("the failure", |app| app.loading.is_none());
    assert!(again.app.has_unopened() && again.app.model.is_none());
    // Left like this, the way back is the session that was not opened.
    assert_eq!(again.app.session.path(), Some(origin.as_path()));
    std::fs::rename(&away, &home).unwrap();
    again.press("Esc L");
    again.settle();
    assert_eq!(again.state(), state);
    assert!(!again.app.has_unopened());
}

/// What was written and marked is on the disk a second later, whatever ends the program.
#[test]
fn the_screen_is_recorded_while_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(settings(folder.path()));
    stage.settle();
    stage.press("i");
    type_in(&mut stage.app, "The capital of Italy is");
    stage.press("Enter");
    stage.settle();
    stage.press("f a i");
    type_in(&mut stage.app, "a draft");
    assert!(stage.app.deadline().is_some(), "it asks for the time");
    let later = stage.app.now + Duration::from_secs(2);
    stage.app.update(Event::Tick(later));
    let path = stage.app.session.path().unwrap().to_path_buf();
    // The program ends here without a word.
    let recorded = RecordedSession::read(&path).unwrap();
    let screen = recorded.screen.clone().unwrap();
    assert_eq!(screen.draft, "a draft");
    assert_eq!(screen.marks.len(), 1);
    let mut again = Stage::open(resumed(folder.path(), recorded));
    again.settle();
    assert_eq!(again.app.prompt.text(), "a draft");
    again.press("i Up Up");
    assert_eq!(
        again.app.prompt.text(),
        STORY,
        "the text before the last one"
    );
    // And so it is from the session that comes of this one.
    again.press("Esc b");
    again.settle();
    again.run("count 9");
    again
        .app
        .update(Event::Tick(again.app.now + Duration::from_secs(2)));
    let path = again.app.session.path().unwrap().to_path_buf();
    let twice = RecordedSession::read(&path).unwrap();
    let words = twice.screen.unwrap().prompts;
    assert!(words.iter().any(|words| words == STORY), "{words:?}");
}

fn refused(arguments: &[&str], state: &Path) -> (i32, String) {
    let run = Command::new(env!("CARGO_BIN_EXE_lmscope"))
        .args(arguments)
        .env("XDG_STATE_HOME", state)
        .env("XDG_CONFIG_HOME", state)
        .output()
        .unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    (run.status.code().unwrap(), said)
}

#[test]
fn what_cannot_be_resumed_is_refused_before_the_screen_opens() {
    let state = tempfile::tempdir().unwrap();
    let (code, said) = refused(&["--resume"], state.path());
    assert!(
        code == 1 && said.contains("no session to go on with"),
        "{code} {said}"
    );
    let file = state.path().join("x.jsonl");
    std::fs::write(&file, b"\x1f\x8b\x00\xff\n").unwrap();
    let path = file.to_str().unwrap();
    let (code, said) = refused(&["--resume", path], state.path());
    assert!(code == 1 && said.contains("x.jsonl"), "{code} {said}");
    std::fs::write(&file, "{\"request\":\"\\u001b[31m\"}\n").unwrap();
    let (code, said) = refused(&["--resume", path], state.path());
    assert!(
        code == 1 && said.contains("line 1") && !said.contains('\u{1b}'),
        "{code} {said}"
    );
    let (code, said) = refused(&["--resume", "/dev/zero"], state.path());
    assert!(
        code == 1 && said.contains("it is a device"),
        "{code} {said}"
    );
    let (code, _) = refused(&["demo", "--resume", path], state.path());
    assert_eq!(code, 2, "a session has a model of its own");
}

#[test]
fn leaving_says_how_to_come_back_and_that_works() {
    let state = tempfile::tempdir().unwrap();
    let environment = [("XDG_STATE_HOME", state.path().to_str().unwrap())];
    let mut terminal = pty::open(40, 120, &environment, &[]);
    terminal.write_first();
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
    let after = terminal.text().replace('\n', "");
    assert!(
        after.contains("to come back: lmscope --resume /"),
        "{after}"
    );
    let path = after.split("--resume ").nth(1).unwrap();
    let path = format!("{}.jsonl", path.split(".jsonl").next().unwrap());
    for arguments in [vec!["--resume"], vec!["--resume", &path]] {
        let mut terminal = pty::open(40, 120, &environment, &arguments);
        terminal.wait("the text", |t| t.contains("Paris") && t.contains("lens ✓"));
        terminal.wait("all of it", |t| t.contains("opened "));
        terminal.press("q");
        assert_eq!(terminal.ended(), 0);
    }
    // While one is at work on it, it is nobody else's.
    let mut busy = pty::open(40, 120, &environment, &["--resume"]);
    busy.wait("all of it", |t| t.contains("opened "));
    let (code, said) = refused(&["--resume"], state.path());
    assert!(code == 1 && said.contains("still runs"), "{code} {said}");
    busy.press("q");
    assert_eq!(busy.ended(), 0);
    let after = busy.text().replace('\n', "");
    assert!(
        after.contains(&format!("to come back: lmscope --resume {path}")),
        "{after}"
    );
    // Inside, the list of sessions opens it.
    let mut terminal = pty::open(24, 80, &environment, &[]);
    terminal.wait("the model", |t| t.contains("f32"));
    terminal.press(":sessions\r");
    terminal.wait("the list", |t| t.contains("ago") || t.contains("just now"));
    assert!(
        terminal.text().contains("demo · The capital of France is"),
        "{}",
        terminal.text()
    );
    terminal.press("\r");
    terminal.wait("the text", |t| t.contains("opened ") && t.contains("Paris"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
    // Where no text was written there is nothing to come back to.
    let mut terminal = pty::open(24, 80, &environment, &[]);
    terminal.wait("the model", |t| t.contains("f32"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
    assert!(!terminal.text().contains("--resume"), "{}", terminal.text());
}
