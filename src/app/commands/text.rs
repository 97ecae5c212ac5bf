//! Commands about the text: write, run, stop, rewind, how tokens are chosen, and the unedited run beside it.
//!
//! Invariant: nothing here waits; each row only asks the engine. To add a command, add a row.

use super::{Command, Context, Outcome, Why, has_model, has_text};
use crate::app::{App, Effect};
use crate::engine::Request;
use crate::lab::sample::Sampling;

pub(super) const ROWS: &[Command] = &[
    Command::new("run", &["Enter"], run_preset)
        .about("runs the selected ready prompt; with a text, generates more tokens")
        .within(Context::Transcript)
        .hint("run")
        .when(can_run),
    Command::new("write", &["i"], write)
        .about("starts a prompt of your own (ctrl-j starts a new line)")
        .hint("write")
        .when(can_load),
    Command::new("stop", &[], |app, _| Ok(app.stop()))
        .about("stops generating")
        .when(busy),
    Command::new("continue", &["c"], go_on)
        .about("generates more tokens")
        .hint("continue")
        .when(can_go_on),
    Command::new("rewind", &["r"], rewind)
        .about("removes the text from the cursor on and generates again from there")
        .hint("rewind")
        .when(has_text),
    Command::new("again", &["R"], again)
        .about("runs the same prompt again from its beginning, under the current edits")
        .hint("again")
        .when(has_last),
    Command::new("new", &["n"], new)
        .about("shows the ready prompts")
        .hint("prompts")
        .when(not_choosing),
    Command::new("compare", &["b"], compare)
        .about("shows or hides the unedited run of the same seed next to this one")
        .hint("compare")
        .when(has_text),
    Command::new("chat", &["C"], chat)
        .about("switches between raw text and one chat turn for what you write")
        .when(has_chat),
    Command::new("temperature", &["t"], temperature)
        .about("sets the sampling temperature; 0 takes the most probable token")
        .takes("NUMBER"),
    Command::new("seed", &["T"], seed)
        .about("sets the random seed")
        .takes("NUMBER"),
    Command::new("top-p", &[], top_p)
        .about("sets top-p: sampling keeps the smallest set of tokens with this much probability; 1 keeps all")
        .takes("NUMBER"),
    Command::new("top-k", &[], top_k)
        .about("sets top-k: sampling keeps this many tokens; 0 keeps all")
        .takes("NUMBER"),
    Command::new("count", &[], count)
        .about("sets how many tokens are generated at most")
        .takes("NUMBER"),
];

fn can_run(app: &App) -> Result<(), Why> {
    if app.choosing() {
        choosing(app)
    } else {
        can_go_on(app)
    }
}

fn choosing(app: &App) -> Result<(), Why> {
    if !app.choosing() {
        return Err("the ready prompts are not shown; n shows them".into());
    }
    can_load(app)?;
    if app.presets.is_empty() {
        Err("there is no ready prompt; press i to write one".into())
    } else {
        Ok(())
    }
}

/// A model is there, or on its way.
fn can_load(app: &App) -> Result<(), Why> {
    if app.model.is_none() && app.loading.is_none() {
        return Err("no model is loaded; L tries again, q quits".into());
    }
    Ok(())
}

fn not_choosing(app: &App) -> Result<(), Why> {
    if app.choosing() {
        Err("the ready prompts are shown already".into())
    } else {
        Ok(())
    }
}

fn busy(app: &App) -> Result<(), Why> {
    if app.transcript.busy() {
        Ok(())
    } else {
        Err("nothing is being generated".into())
    }
}

fn can_go_on(app: &App) -> Result<(), Why> {
    has_text(app)?;
    if app.transcript.busy() {
        Err("it is generating already; ctrl-c stops it".into())
    } else {
        Ok(())
    }
}

fn has_last(app: &App) -> Result<(), Why> {
    if app.last.is_some() {
        Ok(())
    } else {
        Err("nothing has been run yet".into())
    }
}

fn has_chat(app: &App) -> Result<(), Why> {
    has_model(app)?;
    if app.chat_possible() {
        Ok(())
    } else {
        Err("this model has no chat template; prompts are raw text".into())
    }
}

fn run_preset(app: &mut App, _: &str) -> Outcome {
    if !app.choosing() {
        return Ok(app.go_on());
    }
    let preset = app
        .presets
        .get(app.preset)
        .cloned()
        .ok_or("there is no ready prompt")?;
    app.chat = preset.chat;
    Ok(app.start(preset.text, preset.chat))
}

fn write(app: &mut App, _: &str) -> Outcome {
    app.writing = true;
    app.set_focus(crate::app::layout::Pane::Transcript);
    Ok(vec![])
}

fn go_on(app: &mut App, _: &str) -> Outcome {
    Ok(app.go_on())
}

fn rewind(app: &mut App, _: &str) -> Outcome {
    Ok(app.rewind(app.cursor.position.max(1)))
}

fn again(app: &mut App, _: &str) -> Outcome {
    let (text, chat) = app.last.clone().ok_or("nothing has been run yet")?;
    Ok(app.start(text, chat))
}

fn new(app: &mut App, _: &str) -> Outcome {
    app.show_presets = true;
    app.set_focus(crate::app::layout::Pane::Transcript);
    Ok(vec![])
}

fn compare(app: &mut App, _: &str) -> Outcome {
    app.compare = !app.compare;
    if app.compare && app.baseline.is_none() {
        app.baseline_asked = true;
        return Ok(vec![app.ask(Request::Baseline)]);
    }
    Ok(vec![])
}

fn chat(app: &mut App, _: &str) -> Outcome {
    app.chat = !app.chat;
    app.inform(if app.chat {
        "prompts go through the chat template"
    } else {
        "prompts are raw text"
    });
    Ok(vec![])
}

fn parse<T: std::str::FromStr>(text: &str, expected: &str) -> Result<T, Why> {
    text.trim()
        .parse()
        .map_err(|_| Why(format!("`{text}` is not {expected}")))
}

fn sample(app: &mut App, sampling: Sampling) -> Vec<Effect> {
    app.change(|state| state.sampling = sampling)
}

fn temperature(app: &mut App, text: &str) -> Outcome {
    let wanted = "a number from 0 to 10";
    let temperature = Some(parse::<f64>(text, wanted)?)
        .filter(|t| (0.0..=10.0).contains(t))
        .ok_or_else(|| Why(format!("`{text}` is not {wanted}")))?;
    Ok(sample(
        app,
        Sampling {
            temperature,
            ..app.history.sampling()
        },
    ))
}

fn seed(app: &mut App, text: &str) -> Outcome {
    let seed = parse(text, "a whole number, 0 or more")?;
    Ok(sample(
        app,
        Sampling {
            seed,
            ..app.history.sampling()
        },
    ))
}

fn top_p(app: &mut App, text: &str) -> Outcome {
    let wanted = "a number above 0, up to 1";
    let top_p = Some(parse::<f64>(text, wanted)?)
        .filter(|p| *p > 0.0 && *p <= 1.0)
        .ok_or_else(|| Why(format!("`{text}` is not {wanted}")))?;
    Ok(sample(
        app,
        Sampling {
            top_p,
            ..app.history.sampling()
        },
    ))
}

fn top_k(app: &mut App, text: &str) -> Outcome {
    let top_k = parse(text, "a whole number, 0 or more")?;
    Ok(sample(
        app,
        Sampling {
            top_k,
            ..app.history.sampling()
        },
    ))
}

fn count(app: &mut App, text: &str) -> Outcome {
    let count: usize = parse(text, "a whole number, 1 or more")?;
    app.count = count.max(1);
    app.inform(format!("at most {} tokens are generated", app.count));
    Ok(vec![])
}
