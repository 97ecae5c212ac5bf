//! Commands about what is shown and how: panes, zoom, density, colours.
//!
//! Invariant: none of them asks the engine for anything. To add a command, add a row.

use super::{Command, Outcome, Why, has_text};
use crate::app::palette::{Item, Purpose};
use crate::app::{App, Density};

pub(super) const ROWS: &[Command] = &[
    Command::new("next-pane", &["Tab"], |app, _| pane(app, 1))
        .about("switches to the next pane")
        .hint("pane"),
    Command::new("previous-pane", &["S-Tab"], |app, _| pane(app, -1))
        .about("switches to the pane before"),
    Command::new("zoom", &["z"], zoom)
        .about("changes the size of the focused pane: wide, full, normal")
        .hint("zoom"),
    Command::new("tint", &["v"], tint)
        .about("colours tokens by surprisal (how unexpected each was)")
        .when(has_text),
    Command::new("more", &["+"], |app, _| density(app, app.density.more()))
        .about("shows more in every cell"),
    Command::new("less", &["-"], |app, _| density(app, app.density.less()))
        .about("shows less in every cell, so that more cells fit"),
    Command::new("flip", &[], flip).about("flips grids: first layer on top"),
    Command::new("theme", &[], theme)
        .about("chooses the theme (colours), with a preview")
        .takes("[NAME]"),
];

fn pane(app: &mut App, by: i64) -> Outcome {
    let order = app.panes();
    let at = order.iter().position(|p| *p == app.focus).unwrap_or(0) as i64;
    let next = order[(at + by).rem_euclid(order.len() as i64) as usize];
    app.set_focus(next);
    Ok(vec![])
}

fn zoom(app: &mut App, _: &str) -> Outcome {
    app.zoom = app.zoom.next();
    Ok(vec![])
}

fn tint(app: &mut App, _: &str) -> Outcome {
    app.tint = !app.tint;
    Ok(vec![])
}

fn density(app: &mut App, density: Density) -> Outcome {
    app.density = density;
    Ok(vec![])
}

fn flip(app: &mut App, _: &str) -> Outcome {
    app.flip = !app.flip;
    Ok(vec![])
}

fn theme(app: &mut App, text: &str) -> Outcome {
    let name = text.trim();
    if name.is_empty() {
        let item = |(name, about): &(String, String)| Item {
            name: name.clone(),
            about: about.clone(),
            keys: String::new(),
            line: format!("theme {name}"),
            wants: false,
        };
        let items = app.themes.iter().map(item).collect();
        app.open_listing(Purpose::Theme, "theme", items);
        return Ok(vec![]);
    }
    if !app.themes.iter().any(|t| t.0 == name) {
        let known = app
            .themes
            .iter()
            .map(|t| t.0.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        return Err(Why(format!(
            "there is no theme `{name}`; there are {known}"
        )));
    }
    app.theme = name.to_string();
    Ok(vec![])
}
