//! Commands about edits: toggle, strength, ablate, steer, write, remove.
//!
//! Invariant: every change of edits goes through [`App::edit`], which sends them to the engine and can be undone.
//! To add a command, add a row.

use std::any::Any;

use super::{CommandResult, Context, Unavailable, has_model, needs};
use crate::app::layout::Pane;
use crate::app::mark::{self, Mark};
use crate::app::{App, Effect};
use crate::edit::feature::FeatureChoice;
use crate::edit::grammar::{place, understood};
use crate::edit::op::{CircuitName, DirectionName, Op, SetValue, UnitChoice, UnitsMean, UnitsTo};
use crate::edit::positions::Positions;
use crate::edit::{Edit, EditPlace};
use crate::engine::KnownDirection;
use crate::figure::FeatureHandle;
use crate::model::network::site::Site;

/// The name of the circuit figure.
const CIRCUIT: &str = "circuit";

rows! {
    "toggle" ["1" "2" "3" "4" "5" "6" "7" "8" "9"] toggle, "turns the edit with that number on or off, even between two tokens", takes "N", numbered toggle_number, hint "edit on/off", when has_edits;
    "toggle-selected" ["Space" "Enter"] toggle_selected, "turns the selected edit on or off", within Context::Edits, hint "on/off", when has_edits;
    "stronger" [">"] |app, _| strengthen(app, 0.25), "raises the strength of the selected edit by a quarter", hint "stronger", when has_edits;
    "weaker" ["<"] |app, _| strengthen(app, -0.25), "lowers the strength of the selected edit by a quarter", hint "weaker", when has_edits;
    "strength" [] strength, "sets the strength of the selected edit", takes "NUMBER", when has_edits;
    "ablate" ["x"] |app, _| ablate(app, Op::Zero), "ablates the neuron, head or feature under the cursor, or everything marked: sets it to zero", hint "ablate", when has_target;
    "ablate-mean" ["X"] |app, _| ablate(app, |units| Op::Mean(UnitsMean(units, None))), "mean-ablates the neuron, head or feature under the cursor, or everything marked: sets it to its mean over the prompt", when has_target;
    "steer" ["s"] steer, "steers: adds a direction at the cursor's layer, or the feature under the cursor as much as it is active there", takes "[DIRECTION]", hint "steer", when can_steer;
    "clamp" ["S"] clamp, "clamps the feature under the cursor: sets it to a value, by default three times what it is there, and keeps what its dictionary leaves out", takes "[VALUE]", hint "clamp", when has_feature;
    "edit" ["e"] edit, "writes a new edit: OP[:WHAT]@ADDRESS[:POSITIONS][*STRENGTH]", takes "EDIT", hint "new edit", when has_model;
    "only" [] only, "leaves a circuit alone, everything else at its mean: that of the circuit figure, if it was saved, or one of a name or file; again switches it off", takes "[CIRCUIT]", when has_model;
    "operation" ["O"] operation, "changes the selected edit's operation: add, project out, add in units of the local norm", within Context::Edits, hint "operation", when has_direction;
    "delete" ["d" "Delete"] delete, "removes the selected edit", within Context::Edits, hint "delete", when has_edits;
}

fn has_edits(app: &App) -> Result<(), Unavailable> {
    needs(
        !app.history.edits().is_empty(),
        "there is no edit; e writes one, s steers at the cursor",
    )
}

fn has_direction(app: &App) -> Result<(), Unavailable> {
    needs(
        app.history.current().is_some_and(|e| e.op.directed()),
        "the selected edit has no direction",
    )
}

fn has_directions(app: &App) -> Result<(), Unavailable> {
    has_model(app)?;
    needs(
        !app.directions.is_empty(),
        "this model has no direction yet; :direction makes one",
    )
}

/// What `x` ablates: all marked units or, without marks, the unit under the cursor.
fn targets(app: &App) -> Result<Vec<Mark>, Unavailable> {
    if !app.history.marks().is_empty() {
        return Ok(app.history.marks().to_vec());
    }
    let anchor = app
        .cell_under_cursor()
        .map(|r| r.anchor)
        .unwrap_or_default();
    Mark::of(anchor).map(|m| vec![m]).ok_or_else(|| {
        "x needs a neuron, a head or a feature under the cursor; f switches to the neurons".into()
    })
}

fn has_target(app: &App) -> Result<(), Unavailable> {
    if app.history.marks().is_empty() && handle(app).is_some() {
        return Ok(());
    }
    targets(app).map(|_| ())
}

/// The feature under the cursor.
fn handle(app: &App) -> Option<FeatureHandle> {
    app.cell_under_cursor()?.handle
}

fn has_feature(app: &App) -> Result<(), Unavailable> {
    needs(
        handle(app).is_some(),
        "S needs a feature under the cursor; `:dictionary PATH` shows those of a dictionary",
    )
}

/// The feature that `s` steers with: that under the cursor, where the figure has the keys. In the text `s` means a direction.
fn steered(app: &App) -> Option<FeatureHandle> {
    match app.layout.focus {
        Pane::Figure(_) | Pane::Cell => handle(app),
        Pane::Transcript | Pane::Edits => None,
    }
}

fn can_steer(app: &App) -> Result<(), Unavailable> {
    if steered(app).is_some() {
        return Ok(());
    }
    has_directions(app)
}

/// A feature as edits name it.
pub(in crate::app) fn feature(handle: &FeatureHandle) -> FeatureChoice {
    FeatureChoice {
        dictionary: handle.dictionary.clone(),
        layer: handle.layer,
        numbers: vec![handle.feature],
    }
}

/// An edit of a feature where its dictionary writes, but for the first position, which dictionaries are not trained on.
fn of_feature(handle: &FeatureHandle, op: Op) -> Result<Edit, Unavailable> {
    Ok(Edit {
        positions: Positions::AllButBos,
        ..Edit::new(op, place(&handle.place)?)
    })
}

/// A number with two digits, as one types it.
fn round(number: f32) -> f32 {
    format!("{number:.1e}").parse().unwrap_or(number)
}

fn toggle(app: &mut App, text: &str) -> CommandResult {
    let number = text.trim().parse();
    let number =
        number.map_err(|_| Unavailable(format!("`{text}` is not the number of an edit")))?;
    toggle_number(app, number)
}

/// Turns the edit with this number, from 1 on, on or off.
pub(in crate::app) fn toggle_number(app: &mut App, number: usize) -> CommandResult {
    let count = app.history.edits().len();
    let Some(index) = number.checked_sub(1).filter(|i| *i < count) else {
        return Err(Unavailable(format!(
            "there is no edit {number}; there are {count}"
        )));
    };
    app.history.selected = index;
    toggle_selected(app, "")
}

/// Changes the selected edit.
fn selected(app: &mut App, with: impl FnOnce(&mut Edit)) -> CommandResult {
    let index = app.history.selected;
    Ok(app.edit(|edits| {
        if let Some(edit) = edits.get_mut(index) {
            with(edit);
        }
    }))
}

fn toggle_selected(app: &mut App, _: &str) -> CommandResult {
    selected(app, |edit| edit.on = !edit.on)
}

fn strengthen(app: &mut App, by: f32) -> CommandResult {
    let stronger = |edit: &Edit| {
        // Of a large strength, as features have it, a step is a larger one: between a fortieth and a quarter.
        let tens = edit.strength.abs().max(1.0).log10().floor();
        let step = by * 10f32.powf((tens).max(0.0));
        ((edit.strength + step) * 100.0).round() / 100.0
    };
    if let Some(edit) = app.history.current() {
        allowed(edit, stronger(edit))?;
    }
    selected(app, |edit| edit.strength = stronger(edit))
}

/// Refuses a strength that the edit's operation cannot have.
fn allowed(edit: &Edit, strength: f32) -> Result<(), Unavailable> {
    let strengths = edit.op.strengths();
    if strengths.contains(&strength) {
        return Ok(());
    }
    let (least, most) = strengths.into_inner();
    Err(Unavailable(format!(
        "the strength of `{}` is a number from {least} to {most}",
        edit.op.spec().name
    )))
}

fn strength(app: &mut App, text: &str) -> CommandResult {
    let value: f32 = text
        .trim()
        .parse()
        .ok()
        .filter(|v: &f32| v.is_finite())
        .ok_or_else(|| Unavailable(format!("`{text}` is not a number")))?;
    if let Some(edit) = app.history.current() {
        allowed(edit, value)?;
    }
    selected(app, |edit| edit.strength = value)
}

/// Adds edits as one step of undo. Edits that exist already are switched on, or all off if every one is on.
fn add_all(app: &mut App, more: Vec<Edit>) -> Vec<Effect> {
    let rows = app.history.edits();
    let found = |edit: &Edit| rows.iter().position(|e| e.same(edit));
    let places: Vec<Option<usize>> = more.iter().map(found).collect();
    let all_on = places
        .iter()
        .all(|p| p.and_then(|i| rows.get(i)).is_some_and(|e| e.on));
    let last = match places.last() {
        Some(Some(index)) => *index,
        _ => {
            rows.len()
                + places
                    .iter()
                    .filter(|p| p.is_none())
                    .count()
                    .saturating_sub(1)
        }
    };
    let effects = app.edit(|edits| {
        for (place, edit) in places.iter().zip(more) {
            match place.and_then(|i| edits.get_mut(i)) {
                Some(there) => there.on = !all_on,
                None => edits.push(edit),
            }
        }
    });
    app.history.selected = last;
    effects
}

fn add(app: &mut App, edit: Edit) -> CommandResult {
    Ok(add_all(app, vec![edit]))
}

fn ablate(app: &mut App, op: fn(UnitChoice) -> Op) -> CommandResult {
    if app.history.marks().is_empty()
        && let Some(handle) = handle(app)
    {
        let op = op(UnitChoice::Features(feature(&handle)));
        return add(app, of_feature(&handle, op)?);
    }
    let marks = targets(app)?;
    Ok(add_all(app, mark::edits(op, &marks)))
}

/// How many times its activation a feature is clamped to.
const CLAMP: f32 = 3.0;

fn clamp(app: &mut App, text: &str) -> CommandResult {
    has_feature(app)?;
    let Some(handle) = handle(app) else {
        return Ok(Vec::new());
    };
    let value = match (text.trim(), handle.activation) {
        ("", Some(activation)) => SetValue::Is(round(CLAMP * activation)),
        ("", None) => SetValue::Times(CLAMP),
        (typed, activation) => match (typed.parse().map_err(Unavailable)?, activation) {
            // What it is here is known, also where the prompt has nothing of it.
            (SetValue::Times(factor), Some(activation)) => SetValue::Is(round(factor * activation)),
            (value, _) => value,
        },
    };
    let op = Op::Set(UnitsTo(UnitChoice::Features(feature(&handle)), value));
    let edit = of_feature(&handle, op)?;
    let clamps = |other: &Edit| matches!((&other.op, &edit.op), (Op::Set(UnitsTo(a, _)), Op::Set(UnitsTo(b, _))) if a == b);
    let other = |e: &Edit| e.on && clamps(e) && e.place == edit.place && !e.same(&edit);
    let Some(index) = app.history.edits().iter().position(other) else {
        return add(app, edit);
    };
    // A feature has one value: the new one takes the place of the old.
    app.history.selected = index;
    selected(app, |there| there.op = edit.op)
}

fn steer(app: &mut App, text: &str) -> CommandResult {
    if text.trim().is_empty()
        && let Some(handle) = steered(app)
    {
        let op = Op::Add(DirectionName(feature(&handle).direction()));
        let strength = handle.activation.map_or(1.0, round);
        return add(
            app,
            Edit {
                strength,
                ..of_feature(&handle, op)?
            },
        );
    }
    let name = match (text.trim(), app.directions.as_slice()) {
        ("", [only]) => only.name.clone(),
        ("", many) => {
            let item = |known: &KnownDirection| (known.name.clone(), known.about());
            let title = format!("steer at layer {} with", app.layer_and_position().0);
            app.open_picker("steer", &title, many.iter().map(item).collect());
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
                .ok_or_else(|| {
                    Unavailable(format!("there is no direction `{name}`; there are {known}"))
                })?
        }
    };
    add(
        app,
        steering(
            &name,
            EditPlace::At(Site::ResidPost.at(app.layer_and_position().0)),
        ),
    )
}

/// The default place of an edit with a direction.
pub(in crate::app) fn default_place(known: &KnownDirection) -> EditPlace {
    known.home().map_or(EditPlace::Writes, EditPlace::At)
}

/// The edit that is offered for a direction: at the address where it was measured, switched off.
pub(in crate::app) fn offered_edit(known: &KnownDirection) -> Edit {
    Edit {
        on: false,
        strength: known.strength,
        ..steering(&known.name, default_place(known))
    }
}

/// An edit that adds a direction at an address, at every position.
pub(in crate::app) fn steering(direction: &str, place: EditPlace) -> Edit {
    Edit::new(Op::Add(DirectionName(direction.to_string())), place)
}

fn edit(app: &mut App, text: &str) -> CommandResult {
    let mut edit: Edit = text.trim().parse()?;
    if let Some(model) = &app.model {
        edit = edit.on(&model.card.blueprint)?;
        edit.place.addresses(model.card.layers)?;
    }
    if let Some(note) = understood(text, &edit) {
        app.inform(note);
    }
    add(app, edit)
}

/// The file of the circuit in the figure; nothing without such a figure.
///
/// # Errors
///
/// When the circuit was neither saved nor loaded.
fn circuit_shown(app: &App) -> Result<Option<String>, Unavailable> {
    let Some(figure) = app.figure(app.layout.figure) else {
        return Ok(None);
    };
    if app.layout.figure != CIRCUIT {
        return Ok(None);
    }
    let parameters = &figure.provenance.parameters;
    let of = |name: &str| {
        let found = parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, file)| file.clone())
    };
    let files = [of("save"), of("load")];
    let file = files.into_iter().flatten().find(|file| !file.is_empty());
    file.map(Some).ok_or_else(|| {
        Unavailable("the circuit of this figure is not saved: o sets `save`, and then `:only` leaves it alone. `:only NAME` takes another".into())
    })
}

fn only(app: &mut App, text: &str) -> CommandResult {
    let known = app.model.as_ref().map_or(&[][..], |model| &model.circuits);
    let shown = if text.trim().is_empty() {
        circuit_shown(app)?
    } else {
        None
    };
    let name = match (text.trim(), shown, known) {
        ("", Some(file), _) => file,
        ("", None, [(name, _)]) => name.clone(),
        ("", None, []) => {
            return Err(Unavailable(
                "no circuit is saved: o in the circuit figure sets `save`, and `:only FILE` leaves the circuit of a file alone".into(),
            ));
        }
        ("", None, many) => {
            let items = many.to_vec();
            app.open_picker("only", "leave alone", items);
            return Ok(Vec::new());
        }
        (name, ..) => name.to_string(),
    };
    let edit = Edit::new(Op::Only(CircuitName(name)), EditPlace::Edges);
    let others = |e: &Edit| e.on && e.op.is_only() && !e.same(&edit);
    if app.history.edits().iter().any(others) {
        // One circuit at a time: the new one takes the place of the other, as one step of undo.
        let rows = app.history.edits();
        let there = rows.iter().position(|e| e.same(&edit));
        let selected = there.unwrap_or(rows.len());
        let effects = app.edit(|edits| {
            let old = edits.iter_mut().filter(|e| e.op.is_only());
            old.for_each(|e| e.on = false);
            match there.and_then(|i| edits.get_mut(i)) {
                Some(own) => own.on = true,
                None => edits.push(edit),
            }
        });
        app.history.selected = selected;
        return Ok(effects);
    }
    add(app, edit)
}

/// Changes the selected edit to the next operation that takes a direction, with the same direction.
fn operation(app: &mut App, _: &str) -> CommandResult {
    let Some(edit) = app.history.current().cloned() else {
        return Ok(Vec::new());
    };
    let home = app.measured_place(edit.direction());
    let known = app.directions.iter().find(|d| d.name == edit.direction());
    let strength = known.map_or(1.0, |d| d.strength);
    let place = home.unwrap_or(edit.place.clone());
    let argument: &dyn Any = edit.op.argument();
    let Some(direction) = argument.downcast_ref::<DirectionName>() else {
        let name = edit.op.spec().name;
        return Err(Unavailable(format!(
            "no other operation takes what {name} takes; e writes an edit"
        )));
    };
    let with = || direction.clone();
    let mut turns = [
        (Op::Add(with()), place.clone(), strength),
        (Op::ProjectOut(with()), EditPlace::Writes, 1.0),
        (Op::AddUnitNorm(with()), place.clone(), 0.5),
        (Op::AddRenorm(with()), place, strength),
    ];
    let now = turns.iter().position(|(op, ..)| *op == edit.op);
    turns.rotate_left(now.map_or(0, |now| (now + 1) % 4));
    let [(op, place, strength), ..] = turns;
    selected(app, |edit| {
        (edit.op, edit.place, edit.strength) = (op, place, strength);
    })
}

fn delete(app: &mut App, _: &str) -> CommandResult {
    let index = app.history.selected;
    Ok(app.edit(|edits| {
        if index < edits.len() {
            edits.remove(index);
        }
    }))
}
