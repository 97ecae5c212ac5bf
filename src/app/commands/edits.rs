//! Commands about edits: toggle, strength, ablate, steer, write, remove, undo.
//!
//! Invariant: every change of edits goes through [`App::edit`], which sends them to the engine and can be undone.
//! To add a command, add a row.

use super::{Command, Context, Outcome, Why, always, has_model};
use crate::app::{App, palette};
use crate::engine::{Known, Mode, Request};
use crate::lab::edit::{Edit, Place, What};
use crate::lab::figure::Unit;
use crate::lab::op::Op;
use crate::lab::positions::Positions;
use crate::model::site::{Address, Site};

pub(super) const ROWS: &[Command] = &[
    Command {
        name: "toggle",
        about: "switches the edit with that number on or off, even between two tokens",
        keys: &["1", "2", "3", "4", "5", "6", "7", "8", "9"],
        context: Context::Anywhere,
        arguments: "N",
        hint: "edit on/off",
        enabled: has_edits,
        run: toggle,
    },
    Command {
        name: "toggle-selected",
        about: "switches the selected edit on or off",
        keys: &["Space", "Enter"],
        context: Context::Edits,
        arguments: "",
        hint: "on/off",
        enabled: has_edits,
        run: toggle_selected,
    },
    Command {
        name: "stronger",
        about: "raises the strength of the selected edit by a quarter",
        keys: &[">"],
        context: Context::Anywhere,
        arguments: "",
        hint: "stronger",
        enabled: has_edits,
        run: |app, _| strengthen(app, 0.25),
    },
    Command {
        name: "weaker",
        about: "lowers the strength of the selected edit by a quarter",
        keys: &["<"],
        context: Context::Anywhere,
        arguments: "",
        hint: "weaker",
        enabled: has_edits,
        run: |app, _| strengthen(app, -0.25),
    },
    Command {
        name: "strength",
        about: "sets the strength of the selected edit",
        keys: &[],
        context: Context::Anywhere,
        arguments: "NUMBER",
        hint: "",
        enabled: has_edits,
        run: strength,
    },
    Command {
        name: "ablate",
        about: "sets the neuron or head under the cursor to zero",
        keys: &["x"],
        context: Context::Anywhere,
        arguments: "",
        hint: "ablate",
        enabled: has_unit,
        run: |app, _| ablate(app, Op::Zero),
    },
    Command {
        name: "ablate-mean",
        about: "sets the neuron or head under the cursor to its mean over the prompt",
        keys: &["X"],
        context: Context::Anywhere,
        arguments: "",
        hint: "",
        enabled: has_unit,
        run: |app, _| ablate(app, Op::Mean),
    },
    Command {
        name: "steer",
        about: "adds a direction at the cursor's layer",
        keys: &["s"],
        context: Context::Anywhere,
        arguments: "[DIRECTION]",
        hint: "steer",
        enabled: has_directions,
        run: steer,
    },
    Command {
        name: "edit",
        about: "writes a new edit: OP[:WHAT]@ADDRESS[:POSITIONS][*STRENGTH]",
        keys: &["e"],
        context: Context::Anywhere,
        arguments: "EDIT",
        hint: "new edit",
        enabled: has_model,
        run: edit,
    },
    Command {
        name: "operation",
        about: "turns the selected edit's operation: add, project out, add to the local norm",
        keys: &["O"],
        context: Context::Edits,
        arguments: "",
        hint: "operation",
        enabled: has_direction,
        run: operation,
    },
    Command {
        name: "delete",
        about: "removes the selected edit",
        keys: &["d", "Delete"],
        context: Context::Edits,
        arguments: "",
        hint: "delete",
        enabled: has_edits,
        run: delete,
    },
    Command {
        name: "undo",
        about: "takes the last change of edits back",
        keys: &["u"],
        context: Context::Anywhere,
        arguments: "",
        hint: "undo",
        enabled: can_undo,
        run: undo,
    },
    Command {
        name: "redo",
        about: "brings an undone change of edits back",
        keys: &["ctrl-r"],
        context: Context::Anywhere,
        arguments: "",
        hint: "",
        enabled: can_redo,
        run: redo,
    },
    Command {
        name: "mode",
        about: "whether a change of edits holds from now on, or as if it always had",
        keys: &["m"],
        context: Context::Anywhere,
        arguments: "",
        hint: "mode",
        enabled: always,
        run: mode,
    },
    Command {
        name: "direction",
        about: "makes a direction from two files of prompts, one a line: NAME PLUS_FILE MINUS_FILE, at the cursor's layer",
        keys: &[],
        context: Context::Anywhere,
        arguments: "NAME PLUS MINUS",
        hint: "",
        enabled: has_model,
        run: direction,
    },
];

fn has_edits(app: &App) -> Result<(), Why> {
    if app.edits.edits().is_empty() {
        Err("there is no edit; e writes one, s steers at the cursor".into())
    } else {
        Ok(())
    }
}

fn has_direction(app: &App) -> Result<(), Why> {
    if app.edits.current().is_some_and(|e| e.op.directed()) {
        Ok(())
    } else {
        Err("the selected edit has no direction".into())
    }
}

fn has_directions(app: &App) -> Result<(), Why> {
    has_model(app)?;
    if app.directions.is_empty() {
        Err("this model has no direction yet; :direction makes one".into())
    } else {
        Ok(())
    }
}

/// The site and the unit under the cursor: a neuron, or a head's result.
fn unit(app: &App) -> Result<(Address, u32), Why> {
    let anchor = app.reading().map(|r| r.anchor).unwrap_or_default();
    let at = |site: Site, layer: u16| site.at(usize::from(layer));
    match (anchor.layer, anchor.unit) {
        (Some(layer), Some(Unit::Neuron(neuron))) => Ok((at(Site::MlpAct, layer), neuron)),
        (Some(layer), Some(Unit::Head(head))) => Ok((at(Site::Z, layer), head)),
        (_, None | Some(Unit::Neuron(_) | Unit::Head(_) | Unit::Token(_))) => {
            Err("x needs a neuron or a head under the cursor; f turns to the neurons".into())
        }
    }
}

fn has_unit(app: &App) -> Result<(), Why> {
    unit(app).map(|_| ())
}

fn can_undo(app: &App) -> Result<(), Why> {
    if app.edits.can_undo() {
        Ok(())
    } else {
        Err("there is no change of edits to take back".into())
    }
}

fn can_redo(app: &App) -> Result<(), Why> {
    if app.edits.can_redo() {
        Ok(())
    } else {
        Err("there is no undone change to bring back".into())
    }
}

fn toggle(app: &mut App, text: &str) -> Outcome {
    let count = app.edits.edits().len();
    let number: usize = text
        .trim()
        .parse()
        .map_err(|_| Why(format!("`{text}` is no number of an edit")))?;
    let Some(index) = number.checked_sub(1).filter(|i| *i < count) else {
        return Err(Why(format!("there is no edit {number}; there are {count}")));
    };
    app.edits.selected = index;
    toggle_selected(app, "")
}

fn toggle_selected(app: &mut App, _: &str) -> Outcome {
    let index = app.edits.selected;
    Ok(app.edit(|edits| {
        if let Some(edit) = edits.get_mut(index) {
            edit.on = !edit.on;
        }
    }))
}

fn strengthen(app: &mut App, by: f32) -> Outcome {
    let index = app.edits.selected;
    Ok(app.edit(|edits| {
        if let Some(edit) = edits.get_mut(index) {
            edit.strength = ((edit.strength + by) * 100.0).round() / 100.0;
        }
    }))
}

fn strength(app: &mut App, text: &str) -> Outcome {
    let value: f32 = text
        .trim()
        .parse()
        .ok()
        .filter(|v: &f32| v.is_finite())
        .ok_or_else(|| Why(format!("`{text}` is no number")))?;
    let index = app.edits.selected;
    Ok(app.edit(|edits| {
        if let Some(edit) = edits.get_mut(index) {
            edit.strength = value;
        }
    }))
}

/// Adds an edit, or switches the equal one that is there.
fn add(app: &mut App, edit: Edit) -> Outcome {
    let same = app
        .edits
        .edits()
        .iter()
        .position(|e| e.to_string() == edit.to_string());
    let index = same.unwrap_or(app.edits.edits().len());
    let effects = app.edit(|edits| match same.and_then(|i| edits.get_mut(i)) {
        Some(there) => there.on = !there.on,
        None => edits.push(edit),
    });
    app.edits.selected = index;
    Ok(effects)
}

fn ablate(app: &mut App, op: Op) -> Outcome {
    let (at, unit) = unit(app)?;
    let edit = Edit {
        place: Place::At(at),
        ..Edit::ablate(op, usize::from(at.layer), unit)
    };
    add(app, edit)
}

fn steer(app: &mut App, text: &str) -> Outcome {
    let name = match (text.trim(), app.directions.as_slice()) {
        ("", [only]) => only.name.clone(),
        ("", many) => {
            let item = |known: &Known| palette::Item {
                name: known.name.clone(),
                about: known.about.clone(),
                keys: String::new(),
                line: format!("steer {}", known.name),
                wants: false,
            };
            let items = many.iter().map(item).collect();
            let title = format!("steer at layer {} with", app.cursor.layer);
            app.open_listing(palette::Purpose::Picker, &title, items);
            return Ok(vec![]);
        }
        (name, many) => {
            let known = many
                .iter()
                .map(|d| d.name.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            many.iter()
                .find(|d| d.name == name)
                .map(|d| d.name.clone())
                .ok_or_else(|| Why(format!("there is no direction `{name}`; there are {known}")))?
        }
    };
    add(
        app,
        steering(&name, Place::At(Site::ResidPost.at(app.cursor.layer))),
    )
}

/// Adds a direction at a place, everywhere in the text.
pub(in crate::app) fn steering(direction: &str, place: Place) -> Edit {
    Edit {
        op: Op::Add,
        what: What::Direction(direction.to_string()),
        place,
        positions: Positions::All,
        phase: None,
        strength: 1.0,
        when: None,
        on: true,
    }
}

fn edit(app: &mut App, text: &str) -> Outcome {
    let edit: Edit = text.trim().parse()?;
    if let Some(model) = &app.model {
        edit.place.addresses(model.card.layers)?;
    }
    add(app, edit)
}

/// The next operation that works with the same thing: with a direction, or with units.
fn operation(app: &mut App, _: &str) -> Outcome {
    let index = app.edits.selected;
    let Some(edit) = app.edits.current().cloned() else {
        return Ok(Vec::new());
    };
    let home = app.home_of(edit.direction());
    let known = app.directions.iter().find(|d| d.name == edit.direction());
    let strength = known.map_or(1.0, |d| d.strength);
    let place = home.unwrap_or(edit.place.clone());
    let (op, place, strength) = match (&edit.what, edit.op) {
        (What::Direction(_), Op::Add) => (Op::ProjectOut, Place::Writes, 1.0),
        (What::Direction(_), Op::ProjectOut) => (Op::AddUnitNorm, place, 0.5),
        (What::Direction(_), Op::AddUnitNorm) => (Op::AddRenorm, place, strength),
        (What::Direction(_), _) => (Op::Add, place, strength),
        (What::Units(_), Op::Zero) => (Op::Mean, edit.place.clone(), 1.0),
        (What::Units(_), _) => (Op::Zero, edit.place.clone(), 1.0),
        _ => {
            let name = edit.op.spec().name;
            return Err(Why(format!(
                "no other operation takes what {name} takes; e writes an edit"
            )));
        }
    };
    Ok(app.edit(|edits| {
        if let Some(edit) = edits.get_mut(index) {
            (edit.op, edit.place, edit.strength) = (op, place, strength);
        }
    }))
}

fn delete(app: &mut App, _: &str) -> Outcome {
    let index = app.edits.selected;
    Ok(app.edit(|edits| {
        if index < edits.len() {
            edits.remove(index);
        }
    }))
}

fn undo(app: &mut App, _: &str) -> Outcome {
    app.edits.undo();
    Ok(app.send_edits())
}

fn redo(app: &mut App, _: &str) -> Outcome {
    app.edits.redo();
    Ok(app.send_edits())
}

fn mode(app: &mut App, _: &str) -> Outcome {
    app.mode = match app.mode {
        Mode::FromNow => Mode::AsIfAlways,
        Mode::AsIfAlways => Mode::FromNow,
    };
    if app.mode == Mode::AsIfAlways && app.edits.active() > 0 {
        return Ok(app.send_edits());
    }
    app.inform(match app.mode {
        Mode::FromNow => "a change of edits holds from the next token on",
        Mode::AsIfAlways => "a change of edits reads the whole text again under it",
    });
    Ok(vec![])
}

fn direction(app: &mut App, text: &str) -> Outcome {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [name, plus, minus] = words.as_slice() else {
        return Err(
            "write :direction NAME PLUS_FILE MINUS_FILE, the files with one prompt a line".into(),
        );
    };
    let read = |path: &str| -> Result<Vec<String>, Why> {
        let text = std::fs::read_to_string(path).map_err(|e| Why(format!("{path}: {e}")))?;
        let lines: Vec<String> = text
            .lines()
            .filter(|l| !l.trim().is_empty())
            .map(str::to_string)
            .collect();
        if lines.is_empty() {
            Err(Why(format!("{path} has no prompt; write one a line")))
        } else {
            Ok(lines)
        }
    };
    let (plus, minus) = (read(plus)?, read(minus)?);
    let request = Request::Direction {
        name: (*name).to_string(),
        plus,
        minus,
        chat: app.chat,
        layer: app.cursor.layer,
        save: None,
    };
    app.inform(format!(
        "measuring the direction {name} at layer {}",
        app.cursor.layer
    ));
    Ok(vec![app.ask(request)])
}
