//! What the screen reads: themes, key maps, keys, pastes, sizes; and the arguments of the command line.

use std::path::PathBuf;
use std::time::Duration;

use lmscope::app::commands::commands;
use lmscope::app::key::{Code, Key, chord, spell};
use lmscope::app::keymap::Keymap;
use lmscope::app::{App, AppSettings, Event};
use lmscope::cli::{self, SUBCOMMANDS, arguments as flags, instrument as observed};
use lmscope::edit::schedule::Schedule;
use lmscope::engine::Update;
use lmscope::error::{Error, Result};
use lmscope::export;
use lmscope::instruments::INSTRUMENTS;
use lmscope::lab::run::Run;
use lmscope::lab::writer::BaselineMode;
use lmscope::text;
use lmscope::ui::theme::{Depth, THEMES, Theme};
use lmscope::ui::{Memory, draw};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::Place;
use crate::recorded;

/// Paints the app, and looks whether a terminal could be harmed.
fn paint(app: &App, theme: &Theme, memory: &mut Memory) {
    let (width, height) = app.layout.size;
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    draw(app, theme, memory, &mut buffer);
    for cell in buffer.content() {
        let symbol = cell.symbol();
        assert!(
            text::plain(symbol.as_bytes()) == symbol && symbol != "\n"
                || symbol.contains('\u{fe0f}'),
            "{symbol:?} is on the screen"
        );
    }
}

/// Those that are built in.
pub fn themes() -> Vec<Vec<u8>> {
    THEMES
        .iter()
        .map(|theme| theme.source.as_bytes().to_vec())
        .collect()
}

/// Reads one, and paints with it in every depth.
pub fn read_theme(_: &Place, bytes: &[u8]) -> Result<()> {
    let source = String::from_utf8_lossy(bytes);
    let (theme, warnings) = Theme::parse("own", "themes/own.toml".as_ref(), &source);
    let app = recorded::app((80, 24), recorded::session());
    if let Some(theme) = &theme {
        for depth in [Depth::None, Depth::Ansi16, Depth::Ansi256, Depth::True] {
            paint(&app, &theme.adapt(depth), &mut Memory::default());
        }
    }
    match warnings.into_iter().next() {
        None => Ok(()),
        Some(warning) => Err(Error::Engine(warning)),
    }
}

/// One with every way to write a binding.
pub fn keymaps() -> Vec<Vec<u8>> {
    vec![
        b"quit = \"Q\"\nablate = [\"x\", \"ctrl-x\"]\nfirst = \"g g\"\nnext-pane = \"Tab\"\nlast = []\n".to_vec(),
        b"[keys]\nwrite = \"F2\"\n".to_vec(),
    ]
}

/// Lays one over the defaults; what a key is printed as is that key.
pub fn read_keymap(_: &Place, bytes: &[u8]) -> Result<()> {
    let source = String::from_utf8_lossy(bytes).into_owned();
    let path = PathBuf::from("keys.toml");
    let (keymap, warnings) = Keymap::new(Some((&path, &source)));
    for command in commands() {
        for keys in keymap.keys_of(command) {
            let read = chord(&keys);
            assert!(
                read.as_ref().is_ok_and(|k| spell(k) == keys),
                "{keys:?} reads as {read:?}"
            );
        }
    }
    let settings = AppSettings {
        keys: Some((path, source)),
        ..AppSettings::default()
    };
    let (mut app, _) = App::new(settings);
    app.update(Event::Resize(80, 24));
    for update in recorded::session() {
        app.update(Event::Engine(update));
    }
    for c in "?jx:q".chars() {
        app.update(Event::Key(Key::char(c)));
        paint(&app, &Theme::default(), &mut Memory::default());
    }
    match warnings.into_iter().next() {
        None => Ok(()),
        Some(warning) => Err(Error::Engine(warning)),
    }
}

/// A session with a little of everything.
pub fn keys() -> Vec<Vec<u8>> {
    [
        "\tjjhh:export json x\n",
        "iHello\nffF\u{84}?j\n",
        "ezero:17@mlp_act.3\n12u\u{12}",
        "\tPf\u{88}D\u{82}zz\u{83}",
        "\u{80}\u{50}\u{18}:theme\nj\n",
        "B\u{8a}=\u{8a}b\u{8b}\u{8c}",
        "\u{90}pasted \u{1b}[2J\n\u{90}\n",
    ]
    .map(|keys| keys.as_bytes().to_vec())
    .to_vec()
}

/// Presses keys, and lets the engine say things between them: a character is a key; U+0080 and two characters are a size,
/// U+0081 to U+008F what an engine may say, U+0090 begins and ends a paste, U+0091 lets time pass.
pub fn read_keys(_: &Place, bytes: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::argument("keys", e.to_string(), "characters in UTF-8"))?;
    let mut app = recorded::app((100, 30), recorded::session());
    let (theme, mut memory) = (Theme::default(), Memory::default());
    let mut rest = text.chars();
    let mut events = 0;
    while let Some(c) = rest.next() {
        let event = match c {
            '\u{80}' => {
                let (width, height) = (
                    rest.next().unwrap_or('\u{1}'),
                    rest.next().unwrap_or('\u{1}'),
                );
                Event::Resize((width as u32 % 300) as u16, (height as u32 % 120) as u16)
            }
            '\u{90}' => Event::Paste(rest.by_ref().take_while(|c| *c != '\u{90}').collect()),
            '\u{91}' => Event::Tick(app.now + Duration::from_secs(3)),
            '\u{81}'..='\u{8f}' => Event::Engine(said(c as u32 - 0x81, &app)),
            _ => Event::Key(key(c)),
        };
        app.update(event);
        events += 1;
        if events > 200 {
            break;
        }
        paint(&app, &theme, &mut memory);
    }
    Ok(())
}

fn key(c: char) -> Key {
    match c {
        '\n' => Key::plain(Code::Enter),
        '\u{1b}' => Key::plain(Code::Esc),
        '\t' => Key::plain(Code::Tab),
        '\u{7f}' => Key::plain(Code::Backspace),
        '\u{1}'..='\u{1a}' => Key::ctrl((b'a' + c as u8 - 1) as char),
        '\u{92}' => Key::plain(Code::Up),
        '\u{93}' => Key::plain(Code::Down),
        '\u{94}' => Key::plain(Code::Left),
        '\u{95}' => Key::plain(Code::Right),
        '\u{96}' => Key::plain(Code::PageUp),
        '\u{97}' => Key::plain(Code::PageDown),
        '\u{98}' => Key::plain(Code::Delete),
        c => Key::char(c),
    }
}

fn said(number: u32, app: &App) -> Update {
    let next = app.transcript.tokens.len();
    match number {
        0 => recorded::began(&recorded::PROMPT),
        1 => recorded::wrote(next, " é\u{202e}日本".as_bytes(), Some(0.5)),
        2 => recorded::wrote(next, b"\xf0\x9f", None),
        3 => recorded::shown("lens", recorded::lens(0, next, 0.1)),
        4 => recorded::shown("neurons", recorded::neurons(0, next)),
        5 => recorded::shown("patchscope", recorded::patchscope()),
        6 => Update::Rewound(next / 2),
        7 => Update::Edited {
            boundary: Some(next),
            receipts: recorded::receipts(app, 3),
        },
        8 => Update::Beside {
            beside: BaselineMode::OwnText,
            tokens: vec![],
            diverged: None,
        },
        9 => Update::Token {
            token: recorded::beside(next, " a", " b", 0.3),
            receipts: recorded::receipts(app, 1),
        },
        10 => Update::Baseline {
            tokens: vec![recorded::token(next, b" x", Some(-0.1), None)],
            diverges: Some(next),
        },
        11 => Update::Failed {
            slot: None,
            message: "it \u{1b}[2J failed".into(),
        },
        12 => Update::Dropped("lens"),
        13 => Update::Column {
            slot: "lens",
            column: Box::new(recorded::lens(next, next + 1, 0.0).into()),
        },
        _ => recorded::loaded(),
    }
}

/// A line an argument.
pub fn arguments() -> Vec<Vec<u8>> {
    [
        "lens\ndemo\n-p\nThe capital of France is\n",
        "neurons\ndemo\n-p\nThe\n--edit\nadd:mood@resid_pre.2\n--format\njson\n",
        "generate\ndemo\n-p\nThe\n-n\n3\n--temperature\n0.5\n",
        "value\ndemo\n--layer\n3\n",
        "trace\ndemo\n--ids\n1,2,3\n--sites\nresid_post.*\n-o\nx\n",
        "direction\ndemo\n--plus\na\n--minus\nb\n-o\nc.gguf\n",
        "edit-value\ndemo\n",
        "demo\n-p\nThe\n--theme\nmocha\n--color\n16\n",
        "attention\ndemo\n--ids\n4,5,6\n--layer\n1\n",
        "settle\ndemo\n-p\nOnce upon a time\n",
    ]
    .map(|lines| lines.as_bytes().to_vec())
    .to_vec()
}

/// Those that make one pass of the run, and write nothing.
const QUICK: [&str; 8] = [
    "lens",
    "neurons",
    "attention",
    "settle",
    "track",
    "meters",
    "trajectory",
    "value",
];

/// Parses a command line as `main` does; a quick instrument runs on the demo, and its figure is written in every format.
pub fn read_arguments(place: &Place, bytes: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(bytes);
    let matches =
        cli::command().try_get_matches_from(std::iter::once("lmscope").chain(text.lines()));
    let matches = match matches {
        Ok(matches) => matches,
        Err(usage) if usage.exit_code() == 0 => return Ok(()),
        Err(usage) => return Err(Error::Engine(usage.to_string())),
    };
    let Some((name, of)) = matches.subcommand() else {
        let _ = (flags::written_edits(&matches)?, flags::options(&matches));
        return Ok(());
    };
    if SUBCOMMANDS.iter().any(|row| row.name == name) {
        return Ok(());
    }
    let instrument = INSTRUMENTS.iter().find(|i| i.name() == name).unwrap();
    let edits = flags::written_edits(of)?;
    let given = observed::given(*instrument, of)?;
    if !QUICK.contains(&name) || flags::model_name(of) != "demo" {
        return Ok(());
    }
    let mut lab = place.demo();
    let prompted = of.contains_id("prompt") || of.contains_id("ids");
    let run = if prompted || instrument.needs_prompt(&given) {
        let tokens = flags::tokens(of, &lab)?;
        Run {
            schedule: Schedule::always(edits),
            ..Run::plain(tokens).until(24)
        }
    } else {
        Run::default()
    };
    let figure = instrument.observe(&run, &given, &mut lab)?;
    for format in export::FORMATS {
        (format.write)(&figure)?;
    }
    Ok(())
}
