//! Commands about what is shown and how: panes, zoom, density, colours.
//!
//! Invariant: none of them but `set` asks the engine for anything. To add a command, add a row.

use super::{CommandResult, Unavailable, has_text, needs};
use crate::app::App;
use crate::app::layout::{Area, Pane, Resized};
use crate::app::setting::{Background, SETTINGS, Setting};

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
    "theme" [] theme, "chooses the colours: a theme, with a preview", takes "[NAME]", completes |app, _| Setting::named("theme").map_or_else(Vec::new, |own| (own.values)(&app.settings));
    "set" [] set, "shows the settings, or gives one a value that is remembered: `set count 100`; `set count?` says what it is now", takes "[NAME VALUE]", completes settings;
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
    app.layout.resized = had.by(side * columns, text * rows);
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
    let (dark, light) = (&app.settings.theme_dark, &app.settings.theme_light);
    // Where there is one for this background, that is the one which is changed.
    let which = match app.settings.background {
        Some(Background::Dark) if !dark.is_empty() => "theme-dark",
        Some(Background::Light) if !light.is_empty() => "theme-light",
        Some(Background::Dark | Background::Light) | None => "theme",
    };
    let own = Setting::named(which).ok_or("there is no such setting")?;
    let effects = app.set_setting(own, name)?;
    app.settings.theme = name.to_string();
    Ok(effects)
}

/// What can be typed behind `set`.
fn settings(app: &App, typed: &str) -> Vec<String> {
    match typed.split_once(' ') {
        None => SETTINGS.iter().map(|own| own.name.to_string()).collect(),
        Some((name, _)) => {
            let values = Setting::named(name).map(|own| (own.values)(&app.settings));
            let values = values.unwrap_or_default().into_iter();
            values.map(|value| format!("{name} {value}")).collect()
        }
    }
}

fn set(app: &mut App, text: &str) -> CommandResult {
    let (name, value) = text
        .split_once(|c: char| c == '=' || c.is_whitespace())
        .map_or((text.trim(), ""), |(name, value)| {
            (name.trim(), value.trim_start_matches(['=', ' ']).trim())
        });
    if name.is_empty() {
        let row = |own: &Setting| {
            let now = format!("{} = {}", own.name, (own.now)(app));
            (now, own.about.to_string(), own.name.to_string())
        };
        let rows = SETTINGS.iter().map(row).collect();
        app.open_named_picker("set", "settings, as they are now", rows);
        return Ok(vec![]);
    }
    let asks = name.ends_with('?');
    let name = name.trim_end_matches('?');
    let own = Setting::named(name).ok_or_else(|| {
        let known: Vec<&str> = SETTINGS.iter().map(|own| own.name).collect();
        format!(
            "there is no setting `{name}`; there are {}",
            known.join(", ")
        )
    })?;
    let now = (own.now)(app);
    if asks {
        app.inform(format!("{name} = {now}: {}", own.about));
        return Ok(vec![]);
    }
    if !value.is_empty() {
        let value = if value == "\"\"" { "" } else { value };
        return app.set_setting(own, value).map_err(Unavailable);
    }
    if own.name == "theme" {
        app.open_themes();
        return Ok(vec![]);
    }
    let values = (own.values)(&app.settings);
    if values.is_empty() {
        let row = super::command("set").ok_or("there is no such command")?;
        app.open_line_with(row, &format!("{name} "));
        return Ok(vec![]);
    }
    let row = |value: String| {
        let about = if value == now { "now" } else { "" };
        (value.clone(), about.to_string(), format!("{name} {value}"))
    };
    let rows = values.into_iter().map(row).collect();
    app.open_named_picker("set", own.name, rows);
    Ok(vec![])
}
