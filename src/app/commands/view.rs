//! Commands about what is shown and how: panes, zoom, density, colours.
//!
//! Invariant: none of them asks the engine for anything. To add a command, add a row.

use super::{CommandResult, Unavailable, has_text, needs};
use crate::app::App;
use crate::app::layout::{Area, Pane, Resized};

rows! {
    "next-pane" ["Tab"] |app, _| pane(app, 1), "switches to the next pane", hint "pane";
    "previous-pane" ["S-Tab"] |app, _| pane(app, -1), "switches to the pane before";
    "zoom" ["z"] |app, _| { app.layout.zoom = app.layout.zoom.next(); Ok(vec![]) }, "changes the size of the focused pane: wide, full, normal", hint "zoom";
    "wider" ["ctrl-w >"] |app, _| resize(app, 4, 0), "gives the focused pane more columns", when beside_another;
    "narrower" ["ctrl-w <"] |app, _| resize(app, -4, 0), "takes columns from the focused pane", when beside_another;
    "taller" ["ctrl-w +"] |app, _| resize(app, 0, 2), "gives the focused pane more rows", when above_another;
    "lower" ["ctrl-w -"] |app, _| resize(app, 0, -2), "takes rows from the focused pane", when above_another;
    "usual-sizes" ["ctrl-w ="] |app, _| { app.layout.resized = Resized::default(); Ok(vec![]) }, "gives all panes their usual sizes";
    "tint" ["v"] |app, _| { app.tint = app.next_tint(); Ok(vec![]) }, "colours tokens by surprisal (how unexpected each was), then by the number that the figure has for each, then not", when has_text;
    "more" ["+"] |app, _| { app.density = app.density.more(); Ok(vec![]) }, "shows more in every cell";
    "less" ["-"] |app, _| { app.density = app.density.less(); Ok(vec![]) }, "shows less in every cell, so that more cells fit";
    "flip" [] |app, _| { app.flip = !app.flip; Ok(vec![]) }, "flips grids: first layer on top";
    "fold" ["Z"] |app, _| { app.folded = !app.folded; Ok(vec![]) }, "folds the rows of a grid that change least, where not all of them fit";
    "theme" [] theme, "chooses the colours: a theme, with a preview", takes "[NAME]";
}

fn pane(app: &mut App, by: i64) -> CommandResult {
    let order = app.panes();
    let at = order
        .iter()
        .position(|p| *p == app.layout.focus)
        .unwrap_or(0) as i64;
    let next = order[(at + by).rem_euclid(order.len() as i64) as usize];
    app.set_focus(next);
    Ok(vec![])
}

/// Moves the border of the focused pane: the text's side and the text have what is given to it, all others what is left.
fn resize(app: &mut App, columns: i16, rows: i16) -> CommandResult {
    let side = match app.layout.focus {
        Pane::Figure(_) => -1,
        Pane::Transcript | Pane::Edits | Pane::Cell => 1,
    };
    let text = if app.layout.focus == Pane::Transcript {
        1
    } else {
        -1
    };
    let before = app.arrangement();
    let had = app.layout.resized;
    app.layout.resized.columns += side * columns;
    app.layout.resized.rows += text * rows;
    if app.arrangement() == before {
        app.layout.resized = had;
        app.inform("The border is as far as it goes.");
    }
    Ok(vec![])
}

/// Whether a pane stands beside the focused one.
fn beside_another(app: &App) -> Result<(), Unavailable> {
    let (own, all) = areas(app);
    let other = own.is_some_and(|own| all.iter().any(|a| a.x != own.x));
    needs(other, "no pane stands beside it")
}

/// Whether the focused pane shares its columns with another one.
fn above_another(app: &App) -> Result<(), Unavailable> {
    let (own, all) = areas(app);
    let other = own.is_some_and(|own| all.iter().any(|a| a.x == own.x && a.y != own.y));
    let text = match app.layout.focus {
        Pane::Figure(_) => app.layout.size.0 < 100,
        Pane::Transcript | Pane::Edits | Pane::Cell => true,
    };
    needs(
        other && text,
        "it has all rows, or shares them with another figure",
    )
}

/// The area of the focused pane, and those of all panes.
fn areas(app: &App) -> (Option<Area>, Vec<Area>) {
    let Some(arrangement) = app.arrangement() else {
        return (None, Vec::new());
    };
    let all = arrangement.panes.iter().map(|(_, area)| *area).collect();
    (arrangement.area(app.layout.focus), all)
}

fn theme(app: &mut App, text: &str) -> CommandResult {
    let name = text.trim();
    if name.is_empty() {
        app.open_themes();
        return Ok(vec![]);
    }
    if !app.settings.themes.iter().any(|t| t.0 == name) {
        let known: Vec<&str> = app.settings.themes.iter().map(|t| t.0.as_str()).collect();
        let known = known.join(", ");
        return Err(Unavailable(format!(
            "there is no theme `{name}`; there are {known}"
        )));
    }
    app.settings.theme = name.to_string();
    Ok(vec![])
}
