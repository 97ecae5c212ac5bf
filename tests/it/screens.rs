//! Snapshots of every pane and overlay at two sizes and more, without a model; a few with their styles.
//!
//! To review a change: `INSTA_UPDATE=always cargo test screens`, then read the difference.

use std::fmt::Write as _;
use std::time::Duration;

use lmscope::app::{App, Event};
use lmscope::engine::{Loading, Update};
use lmscope::lab::writer::BaselineMode;
use lmscope::model::hub::{DownloadPhase, Progress};
use lmscope::ui::theme::{Depth, Theme};
use lmscope::ui::{Memory, draw};
use proptest::prelude::*;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;

use crate::recorded::{
    self, PROMPT, began, lens, loaded, neurons, patchscope, press, session, shown, token, type_in,
    wrote,
};

pub fn paint(app: &App, theme: &Theme) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, app.layout.size.0, app.layout.size.1));
    draw(app, theme, &mut Memory::default(), &mut buffer);
    buffer
}

pub fn text(buffer: &Buffer) -> String {
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let mut line = String::new();
        let mut skip = 0usize;
        for x in 0..buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            if skip == 0 {
                line.push_str(symbol);
            }
            skip = skip.max(lmscope::text::width(symbol)).saturating_sub(1);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn shot(name: &str, app: &App) {
    let (width, height) = app.layout.size;
    insta::assert_snapshot!(
        format!("{name}_{width}x{height}"),
        text(&paint(app, &Theme::default()))
    );
}

/// Runs of equal style, so that colour bugs show.
fn styles(buffer: &Buffer) -> String {
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let mut last = None;
        for x in 0..buffer.area.width {
            let cell = &buffer[(x, y)];
            let style = (cell.fg, cell.bg, cell.modifier);
            if last != Some(style) {
                write!(out, "{y}:{x} {:?} on {:?}", style.0, style.1).unwrap();
                if style.2 != Modifier::empty() {
                    write!(out, " {:?}", style.2).unwrap();
                }
                out.push('\n');
                last = Some(style);
            }
        }
    }
    out
}

const SIZES: [(u16, u16); 2] = [(80, 24), (120, 40)];

fn at_both(name: &str, updates: impl Fn() -> Vec<Update>, keys: &str) {
    for size in SIZES {
        let mut app = recorded::app(size, updates());
        if !keys.is_empty() {
            press(&mut app, keys);
        }
        shot(name, &app);
    }
}

#[test]
fn loading() {
    at_both(
        "loading",
        || vec![Update::Loading("loading demo".into())],
        "",
    );
}

#[test]
fn downloading() {
    let progress = || Progress {
        phase: DownloadPhase::Downloading,
        file: "model-00002-of-00004.safetensors".into(),
        number: 3,
        files: 9,
        done: 2_040_109_465,
        total: 4_831_838_208,
        before: 1 << 30,
        rate: 24_222_105.6,
        left: Some(Duration::from_secs(116)),
        ..Progress::of("Qwen/Qwen3-4B")
    };
    let told = |progress: Progress| {
        vec![Update::Loading(Loading {
            phase: progress.word().into(),
            download: Some(progress),
        })]
    };
    at_both("downloading", || told(progress()), "");
    let waiting = Progress {
        phase: DownloadPhase::Waiting(12),
        ..progress()
    };
    at_both("download_waits", || told(waiting.clone()), "");
    at_both(
        "download_begins",
        || told(Progress::of("Qwen/Qwen3-4B")),
        "",
    );
}

#[test]
fn ready_prompts() {
    at_both("prompts", || vec![loaded()], "j j");
}

#[test]
fn writing_a_prompt() {
    at_both("write", || vec![loaded()], "i H i ctrl-j y o u");
}

#[test]
fn streaming() {
    let updates = || {
        let mut out = vec![loaded(), began(&PROMPT), shown("lens", lens(0, 6, 0.0))];
        out.push(wrote(6, b" Paris", None));
        out.push(Update::Column {
            slot: "lens",
            column: Box::new(lens(6, 7, 0.0).into()),
        });
        out
    };
    at_both("streaming", updates, "");
}

#[test]
fn lens_pane() {
    at_both("lens", session, "Tab k h h");
}

#[test]
fn neurons_pane() {
    at_both("neurons", session, "f j j");
}

#[test]
fn patchscope_pane() {
    let updates = || {
        session()
            .into_iter()
            .chain([shown("patchscope", patchscope())])
            .collect()
    };
    at_both("patchscope", updates, "f f j");
}

#[test]
fn prompts_pane() {
    for size in SIZES {
        let mut app = recorded::app(size, session());
        press(&mut app, ":");
        type_in(&mut app, "prompts list.tsv");
        press(&mut app, "Enter");
        app.update(Event::Engine(shown("answers", recorded::answers())));
        press(&mut app, "|");
        shot("prompt_list", &app);
    }
}

#[test]
fn patchscope_empty() {
    at_both("patchscope_empty", session, "f f");
}

fn edited(size: (u16, u16), fired: usize) -> App {
    let mut app = recorded::app(size, session());
    press(&mut app, "3 2");
    let receipts = recorded::receipts(&app, fired);
    app.update(Event::Engine(Update::Edited {
        boundary: Some(8),
        receipts: receipts.clone(),
    }));
    for (i, word) in [" is", " big"].iter().enumerate() {
        let update = Update::Token {
            token: token(11 + i, word.as_bytes(), Some(-0.5), Some(0.7)),
            receipts: receipts.clone(),
        };
        app.update(Event::Engine(update));
    }
    app
}

#[test]
fn edits_pane() {
    for size in SIZES {
        let mut app = edited(size, 12);
        press(&mut app, "Tab Tab");
        shot("edits", &app);
    }
}

#[test]
fn an_edit_that_never_fired() {
    for size in SIZES {
        let mut app = edited(size, 0);
        press(&mut app, "Tab Tab");
        let all = text(&paint(&app, &Theme::default()));
        assert!(all.contains("never fired"), "{all}");
    }
}

#[test]
fn cell_pane() {
    at_both("cell", session, "Tab k k h Tab Tab");
}

#[test]
fn comparison() {
    for size in SIZES {
        let mut app = edited(size, 12);
        press(&mut app, "b");
        let tokens = [" Paris", ".", " The", " end", ".", " It", " is"]
            .iter()
            .enumerate()
            .map(|(i, w)| token(6 + i, w.as_bytes(), Some(-0.1), None))
            .collect();
        app.update(Event::Engine(Update::Baseline {
            tokens,
            diverges: Some(9),
        }));
        shot("compare", &app);
    }
}

#[test]
fn two_runs_in_lockstep() {
    for size in SIZES {
        let mut app = recorded::app(size, vec![loaded(), began(&PROMPT)]);
        recorded::lockstep(&mut app, BaselineMode::OwnText);
        shot("lockstep", &app);
        press(&mut app, "h h h h Tab Tab");
        shot("lockstep_token", &app);
        let mut app = recorded::app(size, vec![loaded(), began(&PROMPT)]);
        recorded::lockstep(&mut app, BaselineMode::Forced);
        shot("forced", &app);
    }
    let mut narrow = recorded::app((40, 24), vec![loaded(), began(&PROMPT)]);
    recorded::lockstep(&mut narrow, BaselineMode::OwnText);
    shot("lockstep", &narrow);
}

#[test]
fn conditions_reasons_and_marks() {
    for size in SIZES {
        let mut app = recorded::app(size, session());
        press(&mut app, "f a j a A a k a");
        press(&mut app, "e");
        type_in(
            &mut app,
            "add:refusal@resid_pre.3:generated when mood@resid_pre.2>0.5",
        );
        press(&mut app, "Enter 1 2");
        let mut receipts = recorded::receipts(&app, 12);
        receipts[1].why = "its positions 900.. are not in this text of 11 tokens; a longer text reaches them, or :edit writes other positions".into();
        receipts[1].fired = 0;
        receipts[3].note = "the mean is over 40 tokens of the prompt alone".into();
        app.update(Event::Engine(Update::Edited {
            boundary: None,
            receipts,
        }));
        app.update(Event::Tick(Duration::from_secs(9)));
        shot("marks", &app);
        press(&mut app, "Tab k k");
        shot("reasons", &app);
    }
}

#[test]
fn difference_and_staleness() {
    for size in SIZES {
        let mut app = recorded::app(
            size,
            session()
                .into_iter()
                .chain([shown("patchscope", patchscope())])
                .collect(),
        );
        press(&mut app, "Tab D");
        app.update(Event::Engine(shown("lens", lens(0, 11, 0.05))));
        app.update(Event::Engine(Update::Figure {
            slot: "lens",
            unedited: true,
            figure: Box::new(lens(0, 11, 0.0)),
        }));
        shot("difference", &app);
        press(&mut app, "3 f f");
        let all = text(&paint(&app, &Theme::default()));
        assert!(all.contains("for the run before the last edit"), "{all}");
    }
}

#[test]
fn help() {
    at_both("help", session, "Tab ?");
}

#[test]
fn palette() {
    at_both("palette", session, ": t e m");
}

#[test]
fn form() {
    at_both("form", session, "p");
}

#[test]
fn line_with_its_error() {
    for size in SIZES {
        let mut app = recorded::app(size, session());
        press(&mut app, "e");
        type_in(&mut app, "zero:17");
        press(&mut app, "Enter");
        shot("line", &app);
    }
}

#[test]
fn notices() {
    let updates = || {
        let fail = |m: &str| Update::Failed {
            slot: None,
            message: m.into(),
        };
        session().into_iter().chain([fail("It failed. Try again."), fail("It failed. Try again."), fail("Another thing went wrong, and it takes a long sentence to say what exactly was expected, what was found, and what is to be done about it by whoever reads this.")]).collect()
    };
    at_both("notice", updates, "");
    at_both("notices", updates, ": n o t i c e s Enter");
}

#[test]
fn large_and_narrow_layouts() {
    for size in [(200, 60), (160, 45), (60, 50), (100, 18), (40, 10)] {
        let mut app = recorded::app(size, session());
        press(&mut app, "Tab k");
        shot("layout", &app);
    }
}

#[test]
fn zoomed() {
    at_both("zoom_wide", session, "Tab z");
    at_both("zoom_full", session, "Tab z z");
}

#[test]
fn too_small() {
    let app = recorded::app((36, 8), session());
    let all = text(&paint(&app, &Theme::default()));
    assert!(all.contains("40x10 needed, 36x8 now"), "{all}");
}

#[test]
fn styles_with_16_colours_and_with_none() {
    let mut app = edited((80, 24), 12);
    press(&mut app, "Tab k");
    let sixteen = Theme::default().adapt(Depth::Ansi16);
    insta::assert_snapshot!("styles_ansi16_80x24", styles(&paint(&app, &sixteen)));
    let none = Theme::default().adapt(Depth::None);
    let plain = paint(&app, &none);
    let coloured = plain
        .content
        .iter()
        .any(|c| c.fg != ratatui::style::Color::Reset || c.bg != ratatui::style::Color::Reset);
    assert!(!coloured, "no colour at all");
    assert!(
        plain
            .content
            .iter()
            .any(|c| c.modifier.contains(Modifier::REVERSED)),
        "and the cursor can still be seen"
    );
}

#[test]
fn hostile_text_stays_in_its_cells() {
    let mut updates = vec![
        loaded(),
        began(&["\x1b[2J", "\u{202e}abc", "\0\0", "👩\u{200d}🚀", "\r\n"]),
    ];
    updates.push(Update::Failed {
        slot: None,
        message: "\x1b]0;title\x07 bad".into(),
    });
    let app = recorded::app((80, 24), updates);
    let all = text(&paint(&app, &Theme::default()));
    assert!(
        !all.contains(['\x1b', '\u{202e}', '\0', '\x07', '\r']),
        "{all}"
    );
}

fn any_update() -> impl Strategy<Value = Update> {
    prop_oneof![
        Just(loaded()),
        Just(began(&PROMPT)),
        (0usize..20).prop_map(|p| wrote(p, b" word", None)),
        (0usize..20).prop_map(|p| wrote(p, b"\xf0\x9f", Some(0.3))),
        (0usize..8, 1usize..9).prop_map(|(a, n)| shown("lens", lens(a, a + n, 0.1))),
        (0usize..8, 0usize..9).prop_map(|(a, n)| shown("neurons", neurons(a, a + n))),
        Just(shown("patchscope", patchscope())),
        (0usize..20).prop_map(|p| Update::Column {
            slot: "lens",
            column: Box::new(lens(p, p + 1, 0.0).into())
        }),
        (0usize..20).prop_map(|p| Update::Column {
            slot: "neurons",
            column: Box::new(neurons(p, p + 1).into())
        }),
        Just(Update::Figure {
            slot: "lens",
            unedited: true,
            figure: Box::new(lens(0, 4, 0.0))
        }),
        (0usize..12).prop_map(Update::Rewound),
        (0u64..3).prop_map(Update::Kept),
        (0usize..20).prop_map(|p| Update::Token {
            token: recorded::beside(p, " a", " b", 0.2),
            receipts: vec![],
        }),
        prop_oneof![
            Just(BaselineMode::SameText),
            Just(BaselineMode::OwnText),
            Just(BaselineMode::Forced)
        ]
        .prop_map(|beside| Update::Beside {
            beside,
            tokens: vec![token(6, b" c\n", None, None)],
            diverged: Some(6),
        }),
        Just(Update::Grouped("facts".into())),
        (0u64..3).prop_map(Update::Restored),
        (0usize..12).prop_map(|b| Update::Edited {
            boundary: Some(b),
            receipts: vec![]
        }),
        Just(Update::Baseline {
            tokens: vec![token(6, b"x", None, None)],
            diverges: Some(6)
        }),
        Just(Update::Direction(lmscope::engine::KnownDirection {
            name: "calm".into(),
            addresses: vec!["resid_pre.2".parse().unwrap()],
            anywhere: false,
            length: 3.0,
            remarks: Vec::new(),
            strength: 1.0
        })),
        Just(Update::Failed {
            slot: Some("lens"),
            message: "no".into()
        }),
        Just(Update::Failed {
            slot: None,
            message: "no".into()
        }),
        Just(Update::Working {
            slot: "patchscope",
            done: 0.4,
            left: Some(std::time::Duration::from_secs(75))
        }),
        Just(Update::Ended {
            ending: lmscope::engine::Ending::EndToken,
            written: 3,
            rate: 9.0
        }),
    ]
}

fn any_key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "h",
        "j",
        "k",
        "l",
        "g",
        "G",
        "Home",
        "End",
        "PgUp",
        "PgDn",
        "Tab",
        "S-Tab",
        "Enter",
        "Space",
        "Esc",
        "1",
        "2",
        "3",
        "9",
        "<",
        ">",
        "x",
        "X",
        "s",
        "e",
        "d",
        "O",
        "u",
        "ctrl-r",
        "m",
        "a",
        "A",
        "B",
        "=",
        "b",
        "D",
        "p",
        "P",
        "o",
        "f",
        "F",
        "r",
        "R",
        "c",
        "n",
        "i",
        "v",
        "z",
        "+",
        "-",
        "t",
        "T",
        "C",
        "?",
        ":",
        "y",
        "Y",
        "ctrl-c",
        "ctrl-j",
        "ctrl-w",
        "Up",
        "Down",
        "Left",
        "Right",
        "Backspace",
        "a",
        "0",
        ".",
        "漢",
        "q",
    ])
}

#[derive(Clone, Debug)]
enum Deed {
    Key(&'static str),
    Update(Box<Update>),
    Resize(u16, u16),
    Paste(String),
    Tick(u64),
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => any_key().prop_map(Deed::Key),
        3 => any_update().prop_map(|u| Deed::Update(Box::new(u))),
        1 => (0u16..210, 0u16..70).prop_map(|(w, h)| Deed::Resize(w, h)),
        1 => ".{0,12}".prop_map(Deed::Paste),
        1 => (0u64..100).prop_map(Deed::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_the_user_or_the_engine_does_can_break_it(deeds in prop::collection::vec(any_deed(), 1..60)) {
        let mut app = recorded::app((80, 24), vec![]);
        let theme = Theme::default();
        let mut memory = Memory::default();
        for deed in deeds {
            match deed {
                Deed::Key(key) => { press(&mut app, key); }
                Deed::Update(update) => { app.update(Event::Engine(*update)); }
                Deed::Resize(w, h) => { app.update(Event::Resize(w, h)); }
                Deed::Paste(text) => { app.update(Event::Paste(text)); }
                Deed::Tick(s) => { app.update(Event::Tick(std::time::Duration::from_millis(s * 100))); }
            }
            let mut buffer = Buffer::empty(Rect::new(0, 0, app.layout.size.0, app.layout.size.1));
            draw(&app, &theme, &mut memory, &mut buffer);
            prop_assert!(buffer.content.iter().all(|c| !c.symbol().chars().any(char::is_control)));
        }
    }

    #[test]
    fn every_size_is_drawn(width in 0u16..220, height in 0u16..80, keys in prop::collection::vec(any_key(), 0..6)) {
        let mut app = recorded::app((width, height), session());
        for key in keys {
            press(&mut app, key);
        }
        paint(&app, &Theme::default());
    }
}

#[test]
fn idle_time_changes_nothing() {
    let mut app = recorded::app((120, 40), session());
    app.update(Event::Tick(std::time::Duration::from_mins(1)));
    let revision = app.revision;
    assert_eq!(app.deadline(), None, "nothing will change by itself");
    for second in 61..90 {
        app.update(Event::Tick(std::time::Duration::from_secs(second)));
    }
    assert_eq!(app.revision, revision);
}

/// A text coloured by the numbers of a figure: at every depth the sign and the size are seen.
#[test]
fn tokens_are_coloured_by_a_figure() {
    let updates = || {
        let mut out = session();
        out.push(shown("saliency", recorded::saliency(6)));
        out
    };
    for size in SIZES {
        let mut app = recorded::app(size, updates());
        press(&mut app, ":");
        type_in(&mut app, "show saliency");
        press(&mut app, "Enter S-Tab v v");
        shot("tint", &app);
        let none = Theme::default().adapt(Depth::None);
        let name = format!("tint_no_colour_{}x{}", size.0, size.1);
        insta::assert_snapshot!(name, text(&paint(&app, &none)));
    }
    let mut app = recorded::app((120, 40), updates());
    press(&mut app, ":");
    type_in(&mut app, "show saliency");
    press(&mut app, "Enter S-Tab v v");
    // France (1.2 of 1.2) raises the answer, capital (-0.3) and is (-0.9) lower it; of (0.02) does nothing.
    let cell = |theme: &Theme, word: &str| {
        let buffer = paint(&app, theme);
        let cells = buffer.content();
        let at = (0..cells.len())
            .find(|i| {
                let symbols = cells[*i..].iter().zip(word.chars());
                symbols.clone().count() == word.len()
                    && symbols
                        .into_iter()
                        .all(|(c, w)| c.symbol() == w.to_string())
            })
            .unwrap_or_else(|| panic!("{word}: {}", text(&buffer)));
        cells[at].clone()
    };
    let rich = Theme::default();
    assert_ne!(cell(&rich, "France").bg, cell(&rich, "capital").bg);
    assert_ne!(cell(&rich, "France").bg, cell(&rich, "of France").bg);
    let sixteen = rich.adapt(Depth::Ansi16);
    let (up, down, nothing) = (
        cell(&sixteen, "France"),
        cell(&sixteen, "capital"),
        cell(&sixteen, "of France"),
    );
    assert!(up.fg != down.fg && up.fg != nothing.fg && down.fg != nothing.fg);
    assert!(up.modifier.contains(Modifier::REVERSED), "it is large");
    assert!(!down.modifier.contains(Modifier::REVERSED));
    let none = rich.adapt(Depth::None);
    let up = cell(&none, "+France");
    assert!(up.modifier.contains(Modifier::BOLD));
    assert!(
        cell(&none, "capital")
            .modifier
            .contains(Modifier::UNDERLINED)
    );
    let plain = cell(&none, "of+France").modifier;
    assert!(!plain.intersects(Modifier::BOLD | Modifier::UNDERLINED));
}
