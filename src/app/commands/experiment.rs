//! Commands about the experiment as a whole: undo, redo, the mode, marks, and presets of edits.
//!
//! Invariant: every change goes through [`App::change`], so that one undo takes it back. To add a command, add a row.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{CommandResult, Unavailable, needs};
use crate::app::history::UndoOrRedo;
use crate::app::mark::{self, Mark};
use crate::app::{App, Effect};
use crate::edit::preset::EditPreset;
use crate::edit::unit_set::UnitSet;
use crate::engine::{Mode, Request};
use crate::lab::writer::BaselineMode;
use crate::model::network::site::Site;

rows! {
    "undo" ["u"] |app, _| Ok(app.step(UndoOrRedo::Back)), "undoes the last change: of edits, mode, sampling, marks, or a text that was shortened or replaced", hint "undo", when can_undo;
    "redo" ["ctrl-r"] |app, _| Ok(app.step(UndoOrRedo::Forth)), "redoes what was undone", hint "redo", when can_redo;
    "mode" ["m"] mode, "changes when edits apply: from the next token on, or to the whole text, as if they had always been on", hint "mode";
    "mark" ["a"] mark, "marks the neuron or head under the cursor, or unmarks it; x acts on all that are marked", hint "mark", when has_unit;
    "unmark" ["A"] unmark, "removes all marks", hint "unmark all", when has_marks;
    "group" [] group, "keeps the marked units as a unit set under a name that edits can use: {NAME}; a name with .toml also writes a file", takes "NAME", when has_marks;
    "lockstep" ["B"] lockstep, "generates with the unedited model as well, token by token, from the same seed", hint "lockstep", when super::has_model;
    "force" ["="] force, "gives this run the tokens that the unedited run chooses, so that KL always compares the same text", hint "force", when super::has_model;
    "save-edits" [] save, "saves the edits, on and off, and the mode to a TOML file", takes "FILE", when has_edits;
    "load-edits" [] load, "loads edits and mode from a TOML file, in place of the current ones", takes "FILE", when super::has_model;
}

fn settled(app: &App) -> Result<(), Unavailable> {
    needs(
        !app.history.is_restoring(),
        "a text is being restored; wait for it",
    )
}

fn can_undo(app: &App) -> Result<(), Unavailable> {
    settled(app)?;
    needs(
        app.history.has_step(UndoOrRedo::Back),
        "there is no change to undo",
    )
}

fn can_redo(app: &App) -> Result<(), Unavailable> {
    settled(app)?;
    needs(
        app.history.has_step(UndoOrRedo::Forth),
        "there is no undone change to redo",
    )
}

fn unit(app: &App) -> Result<Mark, Unavailable> {
    let anchor = app
        .cell_under_cursor()
        .map(|r| r.anchor)
        .unwrap_or_default();
    Mark::of(anchor).ok_or_else(|| {
        "a needs a neuron or a head under the cursor; f switches to the neurons".into()
    })
}

fn has_unit(app: &App) -> Result<(), Unavailable> {
    unit(app).map(|_| ())
}

fn has_marks(app: &App) -> Result<(), Unavailable> {
    needs(
        !app.history.marks().is_empty(),
        "nothing is marked; a marks the neuron under the cursor",
    )
}

fn has_edits(app: &App) -> Result<(), Unavailable> {
    needs(
        !app.history.edits().is_empty(),
        "there is no edit to save; e writes one, s steers at the cursor",
    )
}

fn mode(app: &mut App, _: &str) -> CommandResult {
    let effects = app.change(|state| state.mode = state.mode.other());
    if effects.is_empty() {
        app.inform(match app.history.mode() {
            Mode::FromNow => "a change of edits applies from the next token on",
            Mode::AsIfAlways => "a change of edits applies to the whole text, which is read again",
        });
    }
    Ok(effects)
}

fn mark(app: &mut App, _: &str) -> CommandResult {
    let mark = unit(app)?;
    let effects = app.change(|state| match state.marks.binary_search(&mark) {
        Ok(index) => {
            state.marks.remove(index);
        }
        Err(index) => state.marks.insert(index, mark),
    });
    Ok(effects)
}

fn unmark(app: &mut App, _: &str) -> CommandResult {
    let gone = mark::count(app.history.marks());
    let effects = app.change(|state| state.marks.clear());
    app.inform(format!("unmarked: {gone}; u marks them again"));
    Ok(effects)
}

fn group(app: &mut App, text: &str) -> CommandResult {
    let name = text.trim().to_string();
    let marks = app.history.marks().to_vec();
    let sites: BTreeSet<Site> = marks.iter().map(|m| m.at.site).collect();
    let (Some(site), 1) = (sites.first(), sites.len()) else {
        return Err("a unit set has neurons or heads, not both; unmark some with a".into());
    };
    if name.contains(['{', '}', '@', ':', '=', '*']) || name.split_whitespace().count() != 1 {
        return Err(Unavailable(format!(
            "`{name}` cannot be written in an edit; use letters, digits and dashes"
        )));
    }
    let path = Path::new(&name);
    let save = path.extension().map(|_| path.to_path_buf());
    if save.as_ref().is_some_and(|p| p.exists()) {
        return Err(Unavailable(format!(
            "{name} exists already; nothing was overwritten, choose another name"
        )));
    }
    let units = marks.iter().map(|m| (m.at.layer, m.unit)).collect();
    let revision = app.model.as_ref().map_or("", |m| m.card.revision.as_str());
    let set = UnitSet::new(*site, units, revision);
    app.groups.insert(name.clone(), marks);
    Ok(vec![app.send_request(Request::Group { name, set, save })])
}

fn lockstep(app: &mut App, _: &str) -> CommandResult {
    let wanted = if app.history.now().baseline_mode.is_lockstep() {
        BaselineMode::SameText
    } else {
        BaselineMode::OwnText
    };
    Ok(set_baseline_mode(app, wanted))
}

fn force(app: &mut App, _: &str) -> CommandResult {
    let wanted = if app.history.now().baseline_mode == BaselineMode::Forced {
        BaselineMode::OwnText
    } else {
        BaselineMode::Forced
    };
    Ok(set_baseline_mode(app, wanted))
}

fn set_baseline_mode(app: &mut App, beside: BaselineMode) -> Vec<Effect> {
    let effects = app.change(|state| state.baseline_mode = beside);
    if beside.is_lockstep() {
        app.compare = true;
        app.show_presets = app.show_presets && app.transcript.tokens.is_empty();
    }
    app.inform(match beside {
        BaselineMode::OwnText if app.history.active() == 0 => {
            "lockstep: both runs are the same until an edit is on"
        }
        BaselineMode::OwnText => {
            "lockstep: the unedited run is generated next to this one, from the next token on"
        }
        BaselineMode::Forced => {
            "forced: from the next token on this run gets the unedited one's tokens"
        }
        BaselineMode::Nothing | BaselineMode::SameText => "no lockstep",
    });
    effects
}

/// A path with the extension `.toml` unless it has an extension.
fn file(text: &str) -> PathBuf {
    let path = Path::new(text.trim());
    if path.extension().is_some() {
        path.to_path_buf()
    } else {
        path.with_extension("toml")
    }
}

fn save(app: &mut App, text: &str) -> CommandResult {
    let card = app.model.as_ref().map(|m| &m.card);
    let preset = EditPreset {
        model: card.map_or_else(String::new, |c| c.name.clone()),
        revision: card.map_or_else(String::new, |c| c.revision.clone()),
        mode: app.history.mode(),
        edits: app.history.edits().to_vec(),
    };
    Ok(vec![Effect::Write(
        file(text),
        preset.to_string().into_bytes(),
    )])
}

fn load(app: &mut App, text: &str) -> CommandResult {
    let path = file(text);
    let mut preset = EditPreset::load(&path)?;
    let card = app.model.as_ref().map(|m| &m.card);
    let caution = card.and_then(|c| preset.caution(&path, c));
    if let Some(card) = card {
        for edit in &mut preset.edits {
            *edit = edit.on(&card.blueprint)?;
            edit.place.addresses(card.layers)?;
        }
    }
    let (count, on) = (
        preset.edits.len(),
        preset.edits.iter().filter(|e| e.on).count(),
    );
    let effects = app.change(|state| {
        state.edits = preset.edits;
        state.mode = preset.mode;
    });
    app.history.selected = 0;
    match caution {
        Some(caution) => app.warn(caution),
        None => app.inform(format!(
            "{}: {count} edits, {on} of them on; u restores the previous ones",
            path.display()
        )),
    }
    Ok(effects)
}
