//! Commands about what is shown and how: panes, zoom, density, colours.
//!
//! Invariant: none of them asks the engine for anything. To add a command, add a row.

use super::{CommandResult, Unavailable, has_text};
use crate::app::App;

rows! {
    "next-pane" ["Tab"] |app, _| pane(app, 1), "switches to the next pane", hint "pane";
    "previous-pane" ["S-Tab"] |app, _| pane(app, -1), "switches to the pane before";
    "zoom" ["z"] |app, _| { app.layout.zoom = app.layout.zoom.next(); Ok(vec![]) }, "changes the size of the focused pane: wide, full, normal", hint "zoom";
    "tint" ["v"] |app, _| { app.tint = app.next_tint(); Ok(vec![]) }, "colours tokens by surprisal (how unexpected each was), then by the number that the figure has for each, then not", when has_text;
    "more" ["+"] |app, _| { app.density = app.density.more(); Ok(vec![]) }, "shows more in every cell";
    "less" ["-"] |app, _| { app.density = app.density.less(); Ok(vec![]) }, "shows less in every cell, so that more cells fit";
    "flip" [] |app, _| { app.flip = !app.flip; Ok(vec![]) }, "flips grids: first layer on top";
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
