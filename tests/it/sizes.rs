//! Every state of the screen, drawn on buffers of other sizes than the app was laid out for: a window that is dragged
//! is always ahead of the app.

use lmscope::app::{App, Event};
use lmscope::engine::{Loading, Update};
use lmscope::lab::writer::BaselineMode;
use lmscope::model::hub::{DownloadPhase, Progress};
use lmscope::ui::theme::Theme;
use lmscope::ui::{Memory, draw};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::recorded::{
    self, PROMPT, began, lens, loaded, neurons, patchscope, press, session, shown, token, type_in,
    wrote,
};
use crate::screens::text;

/// Draws on a buffer of this size; in all of it, and only with what may be seen.
fn paint_on(app: &App, width: u16, height: u16) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    draw(app, &Theme::default(), &mut Memory::default(), &mut buffer);
    assert!(
        buffer
            .content
            .iter()
            .all(|c| !c.symbol().chars().any(char::is_control))
    );
    buffer
}

fn after(size: (u16, u16), updates: Vec<Update>, keys: &str) -> App {
    let mut app = recorded::app(size, updates);
    if !keys.is_empty() {
        press(&mut app, keys);
    }
    app
}

fn failed(message: &str) -> Update {
    Update::Failed {
        slot: None,
        message: message.into(),
    }
}

fn with(more: Update) -> Vec<Update> {
    session().into_iter().chain([more]).collect()
}

/// The states that have snapshots, and more: every pane, pop-up, form, prompt and notice.
fn states(size: (u16, u16)) -> Vec<(&'static str, App)> {
    let download = |phase| Progress {
        phase,
        file: "model-00002-of-00004.safetensors".into(),
        number: 3,
        files: 9,
        done: 2_040_109_465,
        total: 4_831_838_208,
        rate: 24_222_105.6,
        ..Progress::of("Qwen/Qwen3-4B")
    };
    let told = |progress: Progress| {
        vec![Update::Loading(Loading {
            phase: progress.word().into(),
            download: Some(progress),
        })]
    };
    let long = "Something went wrong, and it takes a long sentence to say what exactly was expected, what was found, and what is to be done about it by whoever reads this; \u{6f22}\u{5b57} and more words.".repeat(3);
    let mut out = vec![
        ("nothing", after(size, vec![], "")),
        (
            "loading",
            after(size, vec![Update::Loading("loading demo".into())], ""),
        ),
        (
            "download",
            after(size, told(download(DownloadPhase::Downloading)), ""),
        ),
        (
            "download waits",
            after(size, told(download(DownloadPhase::Waiting(12))), ""),
        ),
        ("prompts", after(size, vec![loaded()], "j j")),
        ("writing", after(size, vec![loaded()], "i H i ctrl-j y o u")),
        ("text", after(size, session(), "")),
        ("lens", after(size, session(), "Tab k h h")),
        ("neurons", after(size, session(), "f j j")),
        (
            "patchscope",
            after(size, with(shown("patchscope", patchscope())), "f f j"),
        ),
        ("patchscope empty", after(size, session(), "f f")),
        ("cell", after(size, session(), "Tab k k h Tab Tab")),
        ("help", after(size, session(), "Tab ?")),
        ("palette", after(size, session(), ": t e m")),
        ("picker", after(size, session(), ": t h e m e Enter")),
        ("form", after(size, session(), "p")),
        ("notice", after(size, with(failed(&long)), "")),
        (
            "notices",
            after(size, with(failed(&long)), ": n o t i c e s Enter"),
        ),
        ("wide", after(size, session(), "Tab z")),
        ("full", after(size, session(), "Tab z z")),
        ("leaving", after(size, session(), "ctrl-c")),
    ];
    let mut streaming = vec![loaded(), began(&PROMPT), shown("lens", lens(0, 6, 0.0))];
    streaming.push(wrote(6, b" Paris", None));
    streaming.push(shown("neurons", neurons(0, 7)));
    out.push(("streaming", after(size, streaming, "")));
    let mut line = after(size, session(), "e");
    type_in(&mut line, "zero:17");
    press(&mut line, "Enter");
    out.push(("line", line));
    for (name, keys) in [("edits", "Tab Tab"), ("comparison", "b")] {
        let mut app = after(size, session(), "3 2");
        let receipts = recorded::receipts(&app, 12);
        app.update(Event::Engine(Update::Edited {
            boundary: Some(8),
            receipts,
        }));
        press(&mut app, keys);
        let tokens = (6..12)
            .map(|p| token(p, b" word", Some(-0.1), None))
            .collect();
        app.update(Event::Engine(Update::Baseline {
            tokens,
            diverges: Some(9),
        }));
        out.push((name, app));
    }
    for (name, beside) in [
        ("lockstep", BaselineMode::OwnText),
        ("forced", BaselineMode::Forced),
    ] {
        let mut app = recorded::app(size, vec![loaded(), began(&PROMPT)]);
        recorded::lockstep(&mut app, beside);
        out.push((name, app));
    }
    let mut marks = after(size, session(), "f a j a A a k a Tab k k");
    marks.update(Event::Tick(std::time::Duration::from_secs(9)));
    out.push(("marks", marks));
    let mut difference = after(size, session(), "Tab D");
    difference.update(Event::Engine(Update::Figure {
        slot: "lens",
        unedited: true,
        figure: Box::new(lens(0, 11, 0.05)),
    }));
    out.push(("difference", difference));
    out
}

/// Each on its own thread: the machine has more than one core, and debug builds draw slowly.
fn on_all(sizes: &[(u16, u16)], buffers: &[(u16, u16)]) {
    std::thread::scope(|scope| {
        for size in sizes {
            scope.spawn(move || {
                for (name, app) in states(*size) {
                    for (width, height) in buffers {
                        let drawn = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            paint_on(&app, *width, *height);
                        }));
                        assert!(drawn.is_ok(), "{name} of {size:?} on {width}x{height}");
                    }
                }
            });
        }
    });
}

#[test]
fn every_state_is_drawn_on_every_small_buffer() {
    let buffers: Vec<(u16, u16)> = (0..48u16)
        .flat_map(|w| (0..13u16).map(move |h| (w, h)))
        .filter(|(w, h)| w * h < 120 || (w + h) % 5 == 0)
        .collect();
    on_all(&[(80, 24), (120, 40)], &buffers);
}

#[test]
fn every_state_is_drawn_on_buffers_of_all_kinds() {
    let edges = [0, 1, 39, 40, 79, 80, 81, 100, 159, 161, 230];
    let rows = [0, 1, 2, 9, 10, 18, 23, 25, 41, 70];
    let buffers: Vec<(u16, u16)> = edges
        .into_iter()
        .flat_map(|w| rows.into_iter().map(move |h| (w, h)))
        .filter(|(w, h)| w % 3 == 0 || h % 2 == 1)
        .collect();
    on_all(&[(160, 50), (60, 36), (40, 10), (12, 4)], &buffers);
}

#[test]
fn every_state_is_drawn_at_and_on_extreme_sizes() {
    let extremes = [(u16::MAX, 1), (1, u16::MAX), (u16::MAX, 3), (600, 300)];
    on_all(&[(80, 24)], &extremes);
    on_all(&extremes[2..], &[(1, 1), (80, 24), (u16::MAX, 2)]);
}

#[test]
fn only_what_lies_outside_is_clipped() {
    // What is clipped is what lies outside, and nothing else.
    for (name, app) in states((80, 24)) {
        let (whole, cut) = (text(&paint_on(&app, 80, 24)), text(&paint_on(&app, 80, 30)));
        let header = |text: &str| text.lines().next().map(str::to_string);
        assert_eq!(header(&whole), header(&cut), "{name}");
        let narrow = text(&paint_on(&app, 80, 12));
        assert_eq!(header(&whole), header(&narrow), "{name}");
    }
}
