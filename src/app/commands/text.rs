//! Commands about the text: write, run, stop, rewind, sampling settings, and the baseline run.
//!
//! Invariant: no command waits; each only sends requests to the engine. To add a command, add a row.

use super::{CommandResult, Context, Unavailable, has_model, has_text, needs};
use crate::app::App;
use crate::engine::Request;
use crate::lab::sample::Sampling;

rows! {
    "run" ["Enter"] run_preset, "runs the selected ready prompt; with a text, generates more tokens", within Context::Transcript, hint "run", when can_run;
    "write" ["i"] write, "starts a prompt of your own (ctrl-j starts a new line, ctrl-x opens your editor)", hint "write", when can_load;
    "edit-prompt" ["I"] |app, _| app.edit_prompt(), "edits the prompt that was run, or the selected ready prompt", hint "edit prompt", when can_edit_prompt;
    "replace" ["E"] App::replace_token, "puts another text in the place of the token under the cursor, and runs the prompt again; from a generated token on it writes anew", takes "TEXT", now App::token_words, when has_text;
    "stop" [] |app, _| Ok(app.stop()), "stops generating", when busy;
    "continue" ["c"] |app, _| Ok(app.continue_generating()), "generates more tokens", hint "continue", when can_go_on;
    "rewind" ["r"] |app, _| Ok(app.rewind(app.cursor.position.max(1))), "removes the text from the cursor on and generates again from there", hint "rewind", when has_text;
    "again" ["R"] again, "runs the same prompt again from its beginning, under the current edits", hint "again", when has_last;
    "new" ["n"] new, "shows the ready prompts", hint "prompts", when not_choosing;
    "compare" ["b"] compare, "shows or hides the unedited run of the same seed next to this one, or the text that keep has kept", hint "compare", when has_text;
    "keep" ["V"] |app, _| app.toggle_reference(), "keeps this text to compare the next ones with: b shows both, D subtracts their figures; again forgets it", when has_text;
    "chat" ["C"] chat, "switches between raw text and one chat turn for what you write", when has_chat;
    "temperature" ["t"] temperature, "sets the sampling temperature; 0 takes the most probable token", takes "NUMBER", now |app| app.history.sampling().temperature.to_string();
    "seed" ["T"] seed, "sets the random seed", takes "NUMBER", now |app| app.history.sampling().seed.to_string();
    "top-p" [] top_p, "sets top-p: sampling keeps the smallest set of tokens with this much probability; 1 keeps all", takes "NUMBER", now |app| app.history.sampling().top_p.to_string();
    "top-k" [] top_k, "sets top-k: sampling keeps this many tokens; 0 keeps all", takes "NUMBER", now |app| app.history.sampling().top_k.to_string();
    "count" [] count, "sets how many tokens are generated at most", takes "NUMBER", now |app| app.settings.count.to_string();
}

fn can_run(app: &App) -> Result<(), Unavailable> {
    if app.choosing() {
        choosing(app)
    } else {
        can_go_on(app)
    }
}

fn choosing(app: &App) -> Result<(), Unavailable> {
    if !app.choosing() {
        return Err("the ready prompts are not shown; n shows them".into());
    }
    can_load(app)?;
    needs(
        !app.presets.is_empty(),
        "there is no ready prompt; press i to write one",
    )
}

/// An error if there is no model and none is being loaded.
fn can_load(app: &App) -> Result<(), Unavailable> {
    if app.model.is_none() && app.loading.is_none() {
        return Err("no model is loaded; L tries again, q quits".into());
    }
    Ok(())
}

fn not_choosing(app: &App) -> Result<(), Unavailable> {
    needs(!app.choosing(), "the ready prompts are shown already")
}

fn busy(app: &App) -> Result<(), Unavailable> {
    needs(app.transcript.busy(), "nothing is being generated")
}

fn can_go_on(app: &App) -> Result<(), Unavailable> {
    has_text(app)?;
    needs(
        !app.transcript.busy(),
        "it is generating already; ctrl-c stops it",
    )
}

fn can_edit_prompt(app: &App) -> Result<(), Unavailable> {
    can_load(app)?;
    needs(
        app.last_words().is_some() || app.choosing() && !app.presets.is_empty(),
        "there is no prompt of text to edit; i writes one",
    )
}

fn has_last(app: &App) -> Result<(), Unavailable> {
    needs(app.last.is_some(), "nothing has been run yet")
}

fn has_chat(app: &App) -> Result<(), Unavailable> {
    has_model(app)?;
    needs(
        app.chat_possible(),
        "this model has no chat template; prompts are raw text",
    )
}

fn run_preset(app: &mut App, _: &str) -> CommandResult {
    if !app.choosing() {
        return Ok(app.continue_generating());
    }
    let preset = app
        .presets
        .get(app.preset)
        .cloned()
        .ok_or("there is no ready prompt")?;
    app.settings.chat = preset.chat;
    Ok(app.start(preset.text, preset.chat))
}

fn write(app: &mut App, _: &str) -> CommandResult {
    app.writing = true;
    app.set_focus(crate::app::layout::Pane::Transcript);
    Ok(vec![])
}

fn again(app: &mut App, _: &str) -> CommandResult {
    let prompt = app.last.clone().ok_or("nothing has been run yet")?;
    Ok(app.start_prompt(prompt))
}

fn new(app: &mut App, _: &str) -> CommandResult {
    app.show_presets = true;
    app.set_focus(crate::app::layout::Pane::Transcript);
    Ok(vec![])
}

fn compare(app: &mut App, _: &str) -> CommandResult {
    app.compare = !app.compare;
    if app.compare && app.baseline.is_none() && app.reference.is_none() {
        app.baseline_asked = true;
        return Ok(vec![app.send_request(Request::Baseline)]);
    }
    Ok(vec![])
}

fn chat(app: &mut App, _: &str) -> CommandResult {
    app.settings.chat = !app.settings.chat;
    app.inform(if app.settings.chat {
        "prompts go through the chat template"
    } else {
        "prompts are raw text"
    });
    Ok(vec![])
}

fn parse<T: std::str::FromStr>(text: &str, expected: &str) -> Result<T, Unavailable> {
    text.trim()
        .parse()
        .map_err(|_| Unavailable(format!("`{text}` is not {expected}")))
}

fn sample(app: &mut App, with: impl FnOnce(&mut Sampling)) -> CommandResult {
    Ok(app.change(|state| with(&mut state.sampling)))
}

fn number(text: &str, wanted: &str, passes: impl Fn(f64) -> bool) -> Result<f64, Unavailable> {
    let number = parse(text, wanted)?;
    needs(passes(number), format!("`{text}` is not {wanted}"))?;
    Ok(number)
}

fn temperature(app: &mut App, text: &str) -> CommandResult {
    let wanted = "a number from 0 to 10";
    let temperature = number(text, wanted, |t| (0.0..=10.0).contains(&t))?;
    sample(app, |s| s.temperature = temperature)
}

fn seed(app: &mut App, text: &str) -> CommandResult {
    let seed = parse(text, "a whole number, 0 or more")?;
    sample(app, |s| s.seed = seed)
}

fn top_p(app: &mut App, text: &str) -> CommandResult {
    let top_p = number(text, "a number above 0, up to 1", |p| p > 0.0 && p <= 1.0)?;
    sample(app, |s| s.top_p = top_p)
}

fn top_k(app: &mut App, text: &str) -> CommandResult {
    let top_k = parse(text, "a whole number, 0 or more")?;
    sample(app, |s| s.top_k = top_k)
}

fn count(app: &mut App, text: &str) -> CommandResult {
    let count: usize = parse(text, "a whole number, 1 or more")?;
    app.settings.count = count.max(1);
    app.inform(format!(
        "at most {} tokens are generated",
        app.settings.count
    ));
    Ok(vec![])
}
