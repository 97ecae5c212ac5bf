//! Commands about the program: help, palette, notices, files, quitting.
//!
//! Invariant: quitting never loses the session file. To add a command, add a row.

use std::path::{Path, PathBuf};

use super::{CommandResult, Context, Unavailable, has_model, needs};
use crate::app::layout::{Pane, Zoom};
use crate::app::session::kept;
use crate::app::session::recorded::RecordedSession;
use crate::app::{App, Effect, Overlay};
use crate::engine::Request;
use crate::model::known::opens;

rows! {
    "help" ["?" "F1"] |app, _| { app.open_help(); Ok(vec![]) }, "shows what can be done here; Enter runs the selected command", hint "help";
    "palette" [":" "ctrl-p"] |app, _| { app.open_palette(); Ok(vec![]) }, "opens the palette: type a command";
    "load" ["L"] |app, _| Ok(app.load_again()), "tries again to load the model; a download continues where it stopped", hint "load", when lacks_model;
    "quit" ["q"] |app, _| Ok(app.quit()), "quits; the session is kept", hint "quit";
    "back" ["Esc"] back, "goes back one level: dismisses a notice, leaves a comparison, returns from a card or node to the figure that it was opened in";
    "interrupt" ["ctrl-c"] |app, _| Ok(app.interrupt()), "stops generating, then clears what you write, then (twice) quits", within Context::Always;
    "suspend" ["ctrl-z"] |_, _| Ok(vec![Effect::Suspend]), "suspends lmscope and returns to the shell; fg resumes", within Context::Always;
    "redraw" ["ctrl-l"] |_, _| Ok(vec![Effect::Redraw]), "redraws the whole screen", within Context::Always;
    "notices" [] |app, _| { app.overlay = Some(Overlay::Notices { scroll: 0 }); Ok(vec![]) }, "shows all notices so far";
    "model" [] model, "describes the loaded model", when has_model;
    "models" ["g m"] models, "opens another model: the demo, those of the cache, those beside this one; or the one that is named", takes "[MODEL]";
    "shot" [] shot, "writes the screen as an SVG picture", takes "FILE";
    "tour" [] App::take_tour, "begins a tour in ten steps on the demo model, ends it, or goes on where it was ended", takes "[next|off]";
    "record" [] record, "records what the screen shows as an asciinema cast; without FILE it ends the recording", takes "[FILE]";
    "open" [] open, "opens a session: its text, edits, figures and panes are there again; the present session is kept", takes "FILE";
    "sessions" [] sessions, "lists the sessions that are kept: when each was left, its model, prompt and edits; Enter opens one";
    "session" [] session, "writes the session so far to a file, one request a line", takes "FILE";
    "panic" [] panic, "makes the engine fail on purpose, to test that the model survives", takes "[screen]";
}

fn models(app: &mut App, argument: &str) -> CommandResult {
    match argument.trim() {
        "" => Ok(app.ask_models()),
        argument => {
            // What lies here and is no model is said before the present one makes room.
            let path = Path::new(argument);
            needs(
                !path.exists() || opens(path),
                format!(
                    "`{argument}` is no model: it is neither a folder with config.json or a .gguf file, nor such a file"
                ),
            )?;
            app.open_model(argument)
        }
    }
}

fn lacks_model(app: &App) -> Result<(), Unavailable> {
    match (&app.model, &app.loading) {
        (Some(_), _) => Err("a model is loaded already; g m opens another one".into()),
        (None, Some(_)) => Err("it is being loaded".into()),
        (None, None) => Ok(()),
    }
}

#[allow(clippy::panic)] // what this command is for
fn panic(_: &mut App, which: &str) -> CommandResult {
    match which {
        "screen" => panic!("a test asked for this panic"),
        "" => Ok(vec![Effect::Ask(Request::Panic)]),
        other => {
            Err(format!("`{other}` cannot be made to fail; `:panic screen` or `:panic`").into())
        }
    }
}

fn back(app: &mut App, _: &str) -> CommandResult {
    let informed = app.notices.dismiss_information();
    if app.notices.dismiss() {
        return Ok(vec![]);
    }
    if app.compare {
        app.compare = false;
    } else if app.difference {
        app.difference = false;
    } else if app.show_presets && !app.transcript.tokens.is_empty() {
        app.show_presets = false;
    } else if app.layout.zoom != Zoom::Normal {
        app.layout.zoom = Zoom::Normal;
    } else if let Some(from) = app.opened_from() {
        app.set_focus(Pane::Figure(from));
    } else if !informed {
        app.inform("there is nothing to go back from; q quits");
    }
    Ok(vec![])
}

fn model(app: &mut App, _: &str) -> CommandResult {
    let model = app.model.as_ref().ok_or("no model is loaded yet")?;
    let card = &model.card;
    let text = format!(
        "{}: {} family, {:.1} M weights, {} layers of width {} with {} neurons and {} heads, {} tokens in the vocabulary, {} on {}, loaded in {:.2} s, revision {}",
        card.name,
        card.family,
        card.parameters as f64 / 1e6,
        card.layers,
        card.d_model,
        card.d_mlp,
        card.heads,
        card.vocab,
        card.dtype,
        card.device,
        model.seconds,
        card.revision,
    );
    app.warn(text);
    Ok(vec![])
}

fn shot(_: &mut App, text: &str) -> CommandResult {
    Ok(vec![Effect::Shot(path(text)?)])
}

fn record(_: &mut App, text: &str) -> CommandResult {
    let file = Some(text.trim()).filter(|text| !text.is_empty());
    Ok(vec![Effect::Record(file.map(PathBuf::from))])
}

fn session(app: &mut App, text: &str) -> CommandResult {
    let bytes = app.session.bytes(Some(app.screen_line()));
    Ok(vec![Effect::WritePrivate(path(text)?, bytes)])
}

fn open(app: &mut App, text: &str) -> CommandResult {
    let recorded = RecordedSession::read(&path(text)?)?;
    Ok(app.open_session(recorded))
}

fn sessions(app: &mut App, _: &str) -> CommandResult {
    let folder = app.settings.sessions.clone();
    let all = folder.map_or_else(Vec::new, |folder| kept::list(&folder));
    let own = app.session.path();
    let others = all.iter().filter(|other| Some(other.path.as_path()) != own);
    let rows: Vec<_> = others
        .map(|other| {
            let path = other.path.display().to_string();
            (other.when(), other.about(), path)
        })
        .collect();
    if rows.is_empty() {
        return Err("no other session is kept; one is from its first text on, unless --no-session or `save = false` turns it off".into());
    }
    app.open_named_picker("open", "sessions, newest first", rows);
    Ok(vec![])
}

fn path(text: &str) -> Result<PathBuf, Unavailable> {
    if text.trim().is_empty() {
        Err("a file name is missing".into())
    } else {
        Ok(PathBuf::from(text.trim()))
    }
}
