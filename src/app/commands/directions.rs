//! Commands about directions: the user picks prompts as examples, from the transcript or from files, and makes a direction from
//! them.
//!
//! Invariant: an example is a whole prompt, and records whether it was encoded by the chat template.
//! To add a command, add a row.

use super::{CommandResult, Unavailable, has_model, needs};
use crate::app::App;
use crate::app::history::ExampleTurn;
use crate::engine::Request;

rows! {
    "example-plus" ["g +"] |app, _| example(app, true), "keeps this turn as an example of a behaviour, or removes it again; :direction NAME uses the examples", when has_turn;
    "example-minus" ["g -"] |app, _| example(app, false), "keeps this turn as an example without the behaviour, or removes it again", when has_turn;
    "direction" [] direction, "makes a direction at the cursor's layer (difference of means): NAME, from the turns kept as + and -, or NAME PLUS_FILE MINUS_FILE with one prompt a line", takes "NAME [PLUS MINUS]", when has_model;
}

fn has_turn(app: &App) -> Result<(), Unavailable> {
    needs(
        app.last_words().is_some(),
        "there is no text yet; i starts a prompt",
    )
}

fn example(app: &mut App, plus: bool) -> CommandResult {
    let (text, chat) = app.last_words().ok_or("there is no text yet")?;
    let turn = ExampleTurn { text, chat, plus };
    let effects = app.change(|state| {
        let held = state.turns.len();
        state.turns.retain(|t| *t != turn);
        if state.turns.len() == held {
            // A prompt can be an example of one side only.
            state
                .turns
                .retain(|t| (&t.text, t.chat) != (&turn.text, turn.chat));
            state.turns.push(turn);
        }
    });
    let (plus, minus) = counts(app);
    let next = match (plus, minus) {
        (0, _) => "; g + keeps one with the behaviour",
        (_, 0) => "; g - keeps one without it",
        _ => "; :direction NAME makes a direction from them",
    };
    app.inform(format!("examples: {plus} with, {minus} without{next}"));
    Ok(effects)
}

fn counts(app: &App) -> (usize, usize) {
    let turns = &app.history.now().turns;
    let plus = turns.iter().filter(|t| t.plus).count();
    (plus, turns.len() - plus)
}

/// The prompts of both sides, and whether they are encoded by the chat template.
type SidesArgument = (Vec<String>, Vec<String>, bool);

fn kept(app: &App) -> Result<SidesArgument, Unavailable> {
    let turns = &app.history.now().turns;
    let side = |plus: bool| {
        let own = turns.iter().filter(|t| t.plus == plus);
        own.map(|t| t.text.clone()).collect::<Vec<_>>()
    };
    let (plus, minus) = (side(true), side(false));
    if plus.is_empty() || minus.is_empty() {
        return Err(
            "keep at least one turn with g + and one with g -, or name two files: :direction NAME PLUS MINUS"
                .into(),
        );
    }
    let chat = turns.iter().any(|t| t.chat);
    if turns.iter().any(|t| t.chat != chat) {
        return Err(
            "some examples went through the chat template and some did not; a direction between them would be that of the template"
                .into(),
        );
    }
    Ok((plus, minus, chat))
}

fn from_files(app: &App, plus: &str, minus: &str) -> Result<SidesArgument, Unavailable> {
    let read = |path: &str| crate::file::prompts(path.as_ref());
    Ok((read(plus)?, read(minus)?, app.settings.chat))
}

fn direction(app: &mut App, text: &str) -> CommandResult {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (name, (plus, minus, chat)) = match words.as_slice() {
        [name] => (*name, kept(app)?),
        [name, plus, minus] => (*name, from_files(app, plus, minus)?),
        _ => {
            return Err(
                "write :direction NAME, or :direction NAME PLUS_FILE MINUS_FILE with one prompt a line"
                    .into(),
            );
        }
    };
    let layer = app.layer_and_position().0;
    app.inform(format!(
        "measuring the direction {name} at layer {layer} from {} and {} prompts",
        plus.len(),
        minus.len()
    ));
    let request = Request::Direction {
        name: name.to_string(),
        plus,
        minus,
        chat,
        layer,
        save: None,
    };
    Ok(vec![app.send_request(request)])
}
