//! Commands about figures and the cell under the cursor: move, request, read through a Patchscope, copy, export.
//!
//! Invariant: they use anchors, so they work in every figure. To add a command, add a row.

use std::path::PathBuf;

use super::{CommandResult, Context, Unavailable, has_figure, has_model, has_text, needs};
use crate::app::cursor::{self, CursorMove};
use crate::app::layout::Pane;
use crate::app::{App, CursorFocus, Effect, Overlay};
use crate::engine::PromptSource;
use crate::figure::{Body, Entry, Figure, Table, Unit};
use crate::instruments::{INSTRUMENTS, Instrument, ParamKind, instrument};

rows! {
    "next-figure" ["f"] |app, _| turn(app, 1), "switches to the next instrument", hint "figure";
    "previous-figure" ["F"] |app, _| turn(app, INSTRUMENTS.len() - 1), "switches to the instrument before";
    "patchscope" ["p"] patchscope, "Patchscope: reads the state under the cursor with another prompt; shows the parameters first", hint "patchscope", when has_text;
    "sweep" ["P"] sweep, "reads the states of all layers at the cursor's position with a Patchscope", hint "sweep", when has_text;
    "question" ["o"] |app, _| open_form(app, app.layout.figure), "sets the parameters of the figure and measures again", hint "parameters";
    "number" ["#"] number, "shows the next number of the cells: rank, probability of the answer, top-1, KL, entropy", hint "number", when has_numbers;
    "widen" ["w"] widen, "extends the figure's window back to the cursor and measures again", hint "measure here", when can_widen;
    "notes" ["N"] |app, _| { app.overlay = Some(Overlay::Notes { scroll: 0 }); Ok(vec![]) }, "shows all notes of the figure: what it shows, its controls and its limits", hint "notes", when has_figure;
    "difference" ["D"] difference, "shows the figure minus that of the unedited run, or of the text that keep has kept", hint "difference", when has_figure;
    "show" [] show, "switches to an instrument: lens, neurons, patchscope", takes "INSTRUMENT", completes |_, _| INSTRUMENTS.iter().map(|of| of.name().to_string()).collect();
    "instruments" ["Space"] |app, _| { app.open_instruments(); Ok(vec![]) }, "picks an instrument from a list, by what it is about, with what it costs", hint "instruments", when has_model;
    "prompts" [] prompts, "shows a list of prompts as a table: each answer's rank and surprisal, and the edits' effect; Enter on a row reads its prompt", takes "FILE", when has_model;
    "sort" ["|"] |app, _| sort(app, None), "sorts the rows of the table by the next column", within Context::Figure, when has_table;
    "sort-by" [] |app, text| sort(app, Some(text.trim())), "sorts the rows of the table by a column, and by the same again backwards", takes "COLUMN", when has_table;
    "columns-left" ["("] |app, _| aside(app, false), "scrolls a table back by a column", within Context::Figure, when has_table;
    "columns-right" [")"] |app, _| aside(app, true), "scrolls a table on by a column; the first one stays", within Context::Figure, when has_table;
    "measure" ["M"] measure, "measures the figure again, as it was asked for: of the text and the edits that are there now", within Context::Figure, when has_figure;
    "dictionary" [] dictionary, "shows the features of a dictionary: the folder or file of a sparse autoencoder or transcoder", takes "PATH", completes super::dictionaries;
    "card" ["Enter"] open, "measures a figure that is not there yet; else opens the card under the cursor: of a feature, or of a head with what it attends to and promotes; in a graph also the neurons of an MLP; in a table of prompts the prompt", within Context::Figure, hint "open", when opens;
    "prune" ["["] |app, _| prune(app, false), "shows the next smaller circuit of a graph", within Context::Figure, hint "prune", when has_graph;
    "grow" ["]"] |app, _| prune(app, true), "shows the next larger circuit of a graph", within Context::Figure, hint "grow", when has_graph;
    "copy" ["y"] copy, "copies the token or cell under the cursor", when has_text;
    "copy-figure" ["Y"] copy_figure, "copies the figure as a table for a spreadsheet", when has_figure;
    "export" [] export, "writes the figure to a file, with its provenance (model, tokens, edits, parameters)", takes "FORMAT FILE", when has_figure;
    "left" ["h" "Left"] |app, _| Ok(app.move_cursor(CursorMove::Left)), "moves one position back; in a graph to the next stronger edge";
    "right" ["l" "Right"] |app, _| Ok(app.move_cursor(CursorMove::Right)), "moves one position on; in a graph to the next weaker edge";
    "up" ["k" "Up"] |app, _| Ok(app.move_cursor(CursorMove::Up)), "moves up: a layer, a row, a line; in a graph along the strongest edge";
    "down" ["j" "Down"] |app, _| Ok(app.move_cursor(CursorMove::Down)), "moves down: a layer, a row, a line; in a graph along the strongest edge";
    "page-up" ["PgUp" "ctrl-u"] |app, _| Ok(app.move_cursor(CursorMove::PageUp)), "moves half a page up; in a graph to a step with more edges";
    "page-down" ["PgDn" "ctrl-d"] |app, _| Ok(app.move_cursor(CursorMove::PageDown)), "moves half a page down; in a graph to a step with fewer edges";
    "first" ["Home" "g g"] |app, _| Ok(app.move_cursor(CursorMove::First)), "moves to the first position; in a graph to where values enter";
    "last" ["End" "G"] |app, _| Ok(app.move_cursor(CursorMove::Last)), "moves to the newest token and follows it; in a graph to the logits", hint "follow", when not_following;
    "goto" [] goto, "moves to a position", takes "POSITION", when has_text;
}

fn not_following(app: &App) -> Result<(), Unavailable> {
    has_text(app)?;
    needs(!app.cursor.follow, "it follows the newest token already")
}

fn has_numbers(app: &App) -> Result<(), Unavailable> {
    has_figure(app)?;
    match app.figure(app.layout.figure).map(|f| &f.body) {
        Some(Body::Grid(grid)) if grid.also.numbers.len() > 1 => Ok(()),
        _ => Err(Unavailable(format!(
            "the {} figure has one number a cell; o opens its parameters",
            app.layout.figure
        ))),
    }
}

fn number(app: &mut App, _: &str) -> CommandResult {
    has_numbers(app)?;
    let next = match app.figure(app.layout.figure).map(|f| &f.body) {
        Some(Body::Grid(grid)) => {
            let numbers = grid.also.numbers.len().max(1);
            grid.shown_number().map_or(0, |at| (at + 1) % numbers)
        }
        _ => 0,
    };
    app.change_figure(app.layout.figure, |shown| {
        shown.number = Some(next);
        shown.show_chosen();
    });
    Ok(vec![])
}

/// The number of last positions that a figure must show to reach the cursor, if it begins after the cursor.
fn window(app: &App) -> Option<usize> {
    let CursorFocus::Outside(first, _) = app.cursor_focus(app.layout.figure) else {
        return None;
    };
    let has = instrument(app.layout.figure)
        .is_ok_and(|of| of.parameters().iter().any(|p| p.name == "window"));
    let back = app.transcript.tokens.len() - app.cursor.position;
    // A few positions more, so that moving left stays inside the figure.
    (has && app.cursor.position < first).then(|| (back + 8).min(app.transcript.tokens.len()))
}

fn can_widen(app: &App) -> Result<(), Unavailable> {
    has_figure(app)?;
    window(app).map(|_| ()).ok_or_else(|| {
        Unavailable(format!(
            "the {} figure already covers the cursor's position, or has no window",
            app.layout.figure
        ))
    })
}

fn widen(app: &mut App, _: &str) -> CommandResult {
    can_widen(app)?;
    let wide = window(app).unwrap_or(1);
    let slot = app.layout.figure;
    let arguments = app.shown.get(slot).map(|s| s.arguments.clone());
    let arguments = arguments.unwrap_or_default().with("window", wide);
    let arguments = instrument(slot)?.read(&arguments)?;
    let focus = app.layout.focus;
    let effects = app.question(slot, arguments);
    app.set_focus(focus);
    Ok(effects)
}

fn turn(app: &mut App, by: usize) -> CommandResult {
    let at = INSTRUMENTS
        .iter()
        .position(|i| i.name() == app.layout.figure)
        .unwrap_or(0);
    let next = INSTRUMENTS[(at + by) % INSTRUMENTS.len()].name();
    app.set_focus(Pane::Figure(next));
    Ok(vec![])
}

fn show(app: &mut App, text: &str) -> CommandResult {
    app.set_focus(Pane::Figure(instrument(text.trim())?.name()));
    Ok(vec![])
}

/// The instrument that says how probable answers are.
const ANSWERS: &str = "answers";

/// Shows a list of prompts, a row each, with the other parameters as they are.
fn prompts(app: &mut App, text: &str) -> CommandResult {
    needs(
        !text.trim().is_empty(),
        "name a list of prompts: `:prompts FILE`",
    )?;
    let slot = instrument(ANSWERS)?.name();
    let before = app.shown.get(slot).map(|s| s.arguments.clone());
    let before = before.unwrap_or_default();
    let arguments = before.clone().with("prompts", text.trim());
    let arguments = instrument(slot)?.read(&arguments.with("list", "prompts"))?;
    app.set_focus(Pane::Figure(slot));
    let effects = app.question(slot, arguments);
    app.change_figure(slot, |shown| shown.until_it_works = Some(before));
    Ok(effects)
}

/// The table that is shown.
fn shown_table(app: &App) -> Option<&Table> {
    match &app.figure(app.layout.figure)?.body {
        Body::Table(table) => Some(table),
        Body::Grid(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => None,
    }
}

fn has_table(app: &App) -> Result<(), Unavailable> {
    has_figure(app)?;
    needs(shown_table(app).is_some(), "this figure is no table")
}

/// Sorts the table by the column of a name, or by the next one.
fn sort(app: &mut App, name: Option<&str>) -> CommandResult {
    has_table(app)?;
    let slot = app.layout.figure;
    let columns = shown_table(app).map_or_else(Vec::new, |table| table.columns.clone());
    let sorted = app.shown.get(slot).and_then(|shown| shown.sorted.clone());
    let sorted = sorted.and_then(|(name, back)| {
        let column = columns.iter().position(|own| *own == name)?;
        Some((column, back))
    });
    let next = match name {
        None => sorted.map_or(0, |(column, _)| (column + 1) % columns.len().max(1)),
        Some(name) => {
            let found = columns.iter().position(|column| column == name);
            found.ok_or_else(|| {
                Unavailable(format!(
                    "there is no column `{name}`; there are {}",
                    crate::text::quoted(&columns, columns.len())
                ))
            })?
        }
    };
    let backwards = sorted.is_some_and(|(column, back)| column == next && !back);
    let name = columns.get(next).map_or("", String::as_str);
    app.change_figure(slot, |shown| {
        shown.sorted = Some((name.to_string(), backwards));
        shown.show_chosen();
    });
    let way = if backwards { ", backwards" } else { "" };
    app.inform(format!("sorted by {name}{way}"));
    Ok(vec![])
}

/// Scrolls the columns of a table sideways.
fn aside(app: &mut App, on: bool) -> CommandResult {
    has_table(app)?;
    let slot = app.layout.figure;
    let most = shown_table(app).map_or(0, |table| table.columns.len().saturating_sub(2));
    app.change_figure(slot, |shown| {
        let now = shown.aside.min(most);
        shown.aside = if on {
            (now + 1).min(most)
        } else {
            now.saturating_sub(1)
        };
    });
    Ok(vec![])
}

/// Asks for the figure again, with the arguments that it has.
fn measure(app: &mut App, _: &str) -> CommandResult {
    has_figure(app)?;
    let slot = app.layout.figure;
    let arguments = app.shown.get(slot).map(|shown| shown.arguments.clone());
    let focus = app.layout.focus;
    let effects = app.question(slot, arguments.unwrap_or_default());
    app.set_focus(focus);
    Ok(effects)
}

/// The prompt under the cursor, where a figure has rows of prompts.
fn prompt_under_cursor(app: &App) -> Option<PromptSource> {
    let figure = app.figure(app.layout.figure)?;
    let table = shown_table(app).filter(|_| !figure.provenance.prompts.is_empty())?;
    let column = table.columns.iter().position(|own| own == "prompt")?;
    let shown = app.shown.get(app.layout.figure)?;
    let spot = cursor::locate(figure, app.cursor, shown.spot)?;
    let row = table.pages.get(spot.column)?.rows.get(spot.row)?;
    let Some(Entry::Whole(number)) = row.entries.get(column) else {
        return None;
    };
    let prompt = usize::try_from(*number).ok()?.checked_sub(1)?;
    figure
        .provenance
        .prompts
        .get(prompt)
        .cloned()
        .map(PromptSource::from)
}

/// Shows the features of a dictionary, with the other parameters as they are.
fn dictionary(app: &mut App, text: &str) -> CommandResult {
    needs(
        !text.trim().is_empty(),
        "name the folder or file of a dictionary: `:dictionary PATH`",
    )?;
    let slot = features()?;
    let before = app.shown.get(slot).map(|s| s.arguments.clone());
    let before = before.unwrap_or_default();
    let mut arguments = before.clone().with(DICTIONARY, text.trim());
    // A figure that has grown keeps its positions.
    let shown = app.figure(slot).map_or(0, |figure| match &figure.body {
        Body::Table(table) => table.pages.len(),
        Body::Grid(grid) => grid.columns.len(),
        Body::Series(_) | Body::Graph(_) | Body::Text(_) => 0,
    });
    if let Some(most) = most(slot, WINDOW) {
        let held = arguments.given.get(WINDOW).and_then(|w| w.parse().ok());
        if shown > held.unwrap_or(0) {
            arguments = arguments.with(WINDOW, shown.min(most));
        }
    }
    let arguments = instrument(slot)?.read(&arguments)?;
    app.set_focus(Pane::Figure(slot));
    let effects = app.question(slot, arguments);
    app.change_figure(slot, |shown| shown.until_it_works = Some(before));
    Ok(effects)
}

/// The parameter that says how many positions are read.
const WINDOW: &str = "window";

/// The largest value of a parameter.
fn most(slot: &str, parameter: &str) -> Option<usize> {
    let all = instrument(slot).ok()?.parameters();
    all.iter().find_map(|row| match row.kind {
        ParamKind::Count { hi, .. } if row.name == parameter => Some(hi),
        ParamKind::Count { .. }
        | ParamKind::Layer
        | ParamKind::Position
        | ParamKind::Choice(_)
        | ParamKind::Word(_)
        | ParamKind::Text => None,
    })
}

fn on_feature(app: &App) -> Result<(), Unavailable> {
    let there = app
        .cell_under_cursor()
        .is_some_and(|cell| cell.handle.is_some());
    needs(there, "no feature of a dictionary is under the cursor")
}

/// The instrument and its arguments that show what a node of the model does on this text.
fn inside(app: &App) -> Option<(&'static str, Vec<(&'static str, String)>)> {
    let anchor = app.cell_under_cursor()?.anchor;
    let layer = anchor.layer?.to_string();
    let in_graph = app.graph().is_some();
    match anchor.unit {
        Some(Unit::Head(head)) => {
            let head = ("head", head.to_string());
            Some((
                "attention",
                vec![("show", "head".into()), ("layer", layer), head],
            ))
        }
        None if in_graph => Some(("neurons", vec![("layer", layer)])),
        Some(Unit::Neuron(_) | Unit::Token(_) | Unit::Feature(_)) | None => None,
    }
}

fn has_graph(app: &App) -> Result<(), Unavailable> {
    let shown = app.shown.get(app.layout.figure);
    let measuring = shown.is_some_and(|shown| shown.working.is_some());
    needs(
        app.graph().is_some(),
        if measuring {
            "this figure is still being measured"
        } else {
            "no graph is shown: `circuit` makes one with show=graph"
        },
    )
}

/// Shows the next larger or the next smaller circuit of the graph.
fn prune(app: &mut App, grow: bool) -> CommandResult {
    has_graph(app)?;
    let Some(graph) = app.graph() else {
        return Ok(vec![]);
    };
    let next = if grow {
        let more = Some(graph.shown + 1).filter(|step| *step < graph.listed);
        more.ok_or(if graph.listed < graph.steps.len() {
            "circuits of more edges are on the curve alone"
        } else {
            "this is the largest circuit of the graph"
        })?
    } else {
        let fewer = graph.shown.checked_sub(1);
        fewer.ok_or("this is the smallest circuit of the graph")?
    };
    app.show_step(app.layout.figure, next);
    Ok(vec![])
}

fn opens(app: &App) -> Result<(), Unavailable> {
    if app.measurable(app.layout.figure).is_some() {
        return Ok(());
    }
    if on_feature(app).is_ok() || prompt_under_cursor(app).is_some() {
        return Ok(());
    }
    needs(
        inside(app).is_some(),
        "no feature, head or node with a card is under the cursor, and no prompt",
    )?;
    has_text(app)
}

/// Shows the card of what is under the cursor, with the other parameters as they are.
fn open(app: &mut App, text: &str) -> CommandResult {
    opens(app)?;
    if let Some(arguments) = app.measurable(app.layout.figure) {
        return Ok(app.question(app.layout.figure, arguments));
    }
    if on_feature(app).is_ok() {
        return card(app, text);
    }
    if let Some(prompt) = prompt_under_cursor(app) {
        app.set_focus(Pane::Transcript);
        return Ok(app.start_prompt(prompt));
    }
    let Some((slot, given)) = inside(app) else {
        return Ok(vec![]);
    };
    let arguments = app.shown.get(slot).map(|shown| shown.arguments.clone());
    let arguments = given
        .into_iter()
        .fold(arguments.unwrap_or_default(), |all, (name, value)| {
            all.with(name, value)
        });
    let arguments = instrument(slot)?.read(&arguments)?;
    let shown = app.figure(app.layout.figure);
    let own_text = shown.is_some_and(|figure| !figure.provenance.tokens.is_empty());
    if app.graph().is_some() && !own_text {
        app.inform("the graph is about a file of pairs; this is what its node does on the text on the screen");
    }
    app.opened.push((slot, app.layout.figure));
    app.set_focus(Pane::Figure(slot));
    Ok(app.question(slot, arguments))
}

/// Shows the card of the feature under the cursor, with the other parameters as they are.
fn card(app: &mut App, _: &str) -> CommandResult {
    on_feature(app)?;
    let Some(handle) = app.cell_under_cursor().and_then(|cell| cell.handle) else {
        return Ok(vec![]);
    };
    let slot = instrument("feature")?.name();
    let number = match handle.layer {
        Some(layer) => format!("{layer}/{}", handle.feature),
        None => handle.feature.to_string(),
    };
    let arguments = app.shown.get(slot).map(|shown| shown.arguments.clone());
    let arguments = arguments.unwrap_or_default();
    // The card has a page for every position from the cursor's on.
    let back = app
        .transcript
        .tokens
        .len()
        .saturating_sub(app.cursor.position);
    let arguments = arguments
        .with(DICTIONARY, handle.dictionary.as_str())
        .with("feature", number.as_str())
        .with(WINDOW, back.clamp(1, most(slot, WINDOW).unwrap_or(1)));
    let arguments = instrument(slot)?.read(&arguments)?;
    app.opened.push((slot, app.layout.figure));
    app.set_focus(Pane::Figure(slot));
    Ok(app.question(slot, arguments))
}

/// The parameter that names a dictionary.
pub(in crate::app) const DICTIONARY: &str = "dictionary";

/// The parameter that names a file of labels.
pub(in crate::app) const LABELS: &str = "labels";

/// The first instrument that reads dictionaries.
pub(in crate::app) fn features() -> Result<&'static str, Unavailable> {
    let mut all = INSTRUMENTS.iter();
    let reads = |i: &&&'static dyn Instrument| i.parameters().iter().any(|p| p.name == DICTIONARY);
    let found = all.find(reads).map(|i| i.name());
    found.ok_or("no instrument reads dictionaries".into())
}

fn open_form(app: &mut App, slot: &str) -> CommandResult {
    let instrument = instrument(slot)?;
    app.open_form(instrument);
    Ok(vec![])
}

/// The instrument that decodes the state under the cursor.
fn reader() -> Result<&'static dyn Instrument, Unavailable> {
    let mut all = INSTRUMENTS.iter().copied();
    all.find(|i| i.reads_cell())
        .ok_or("no instrument reads the state under the cursor".into())
}

fn patchscope(app: &mut App, _: &str) -> CommandResult {
    app.open_form(reader()?);
    Ok(vec![])
}

fn sweep(app: &mut App, _: &str) -> CommandResult {
    let instrument = reader()?;
    let mut arguments = app.prefilled(instrument);
    if let Some(layer) = instrument
        .parameters()
        .iter()
        .find(|p| p.kind == ParamKind::Layer)
    {
        arguments = arguments.with(layer.name, "all");
    }
    let arguments = instrument.read(&arguments)?;
    Ok(app.question(instrument.name(), arguments))
}

fn difference(app: &mut App, _: &str) -> CommandResult {
    if app
        .shown
        .get(app.layout.figure)
        .is_some_and(|s| !s.is_about_text(app.layout.figure))
    {
        return Err(
            "this figure is about texts of its own, to which the edits do not apply".into(),
        );
    }
    app.difference = !app.difference;
    if !app.difference {
        return Ok(vec![]);
    }
    app.say_if_same_prompt();
    Ok(app.ask_unedited())
}

fn copy(app: &mut App, _: &str) -> CommandResult {
    let text = match app.layout.focus {
        Pane::Figure(_) | Pane::Cell => app.cell_under_cursor().map(|cell| {
            let feature = cell.handle.as_ref().map(super::edits::feature);
            feature.map_or(cell.label, |feature| feature.to_string())
        }),
        Pane::Transcript | Pane::Edits => None,
    };
    let text = match (text, app.layout.focus, app.history.current()) {
        (_, Pane::Edits, Some(edit)) => edit.to_string(),
        (Some(label), _, _) => label,
        (None, _, _) => app
            .transcript
            .tokens
            .get(app.cursor.position)
            .map(|t| crate::text::plain(&t.bytes))
            .ok_or("there is nothing under the cursor")?,
    };
    Ok(vec![Effect::Copy(text)])
}

fn copy_figure(app: &mut App, _: &str) -> CommandResult {
    let figure = app
        .figure(app.layout.figure)
        .cloned()
        .ok_or("there is no figure")?;
    Ok(vec![Effect::Copy(tabbed(&figure))])
}

/// A text in which tabs are made visible, so that tabs separate cells only.
fn clean(text: &str) -> String {
    text.replace('\t', "⇥")
}

/// The rows of a table; if it has pages, each row begins with the title of its page.
fn tabbed_table(table: &Table, pages: bool) -> Vec<Vec<String>> {
    let first = |text: &str| pages.then(|| clean(text)).into_iter();
    let titles = table.columns.iter().map(|c| clean(c));
    let mut lines = vec![first("page").chain(titles).collect()];
    for page in &table.pages {
        for row in &page.rows {
            let entries = row.entries.iter().map(|entry| clean(&entry.exact()));
            lines.push(first(&page.title).chain(entries).collect());
        }
    }
    lines
}

/// A figure as lines of cells separated by tabs, in the layout of the screen.
fn tabbed(figure: &Figure) -> String {
    let mut lines: Vec<Vec<String>> = Vec::new();
    match &figure.body {
        Body::Grid(grid) => {
            let corner = format!("{}/{}", grid.row_axis, grid.column_axis);
            let titles = grid
                .columns
                .iter()
                .flat_map(|h| [clean(&h.label), grid.value.clone()]);
            lines.push(std::iter::once(corner).chain(titles).collect());
            for (row, header) in grid.rows.iter().enumerate().rev() {
                let cells = grid
                    .cells
                    .iter()
                    .filter_map(|column| column.get(row))
                    .flat_map(|c| [clean(&c.label), c.value.to_string()]);
                lines.push(std::iter::once(clean(&header.label)).chain(cells).collect());
            }
        }
        Body::Series(series) => lines.extend(tabbed_table(&series.table(), false)),
        Body::Table(table) => lines.extend(tabbed_table(table, true)),
        Body::Graph(graph) => lines.extend(tabbed_table(&graph.edge_table(), false)),
        Body::Text(text) => lines.extend(text.lines.iter().map(|l| vec![clean(l)])),
    }
    lines.iter().map(|l| l.join("\t") + "\n").collect()
}

fn export(app: &mut App, text: &str) -> CommandResult {
    let known = app.settings.formats.join(", ");
    let (format, path) = text.trim().split_once(char::is_whitespace).ok_or_else(|| {
        Unavailable(format!(
            "write :export FORMAT FILE, with one of the formats {known}"
        ))
    })?;
    if !app.settings.formats.iter().any(|f| f == format) {
        return Err(Unavailable(format!(
            "there is no format `{format}`; there are {known}"
        )));
    }
    let figure = app
        .figure(app.layout.figure)
        .cloned()
        .ok_or("there is no figure")?;
    Ok(vec![Effect::Export {
        format: format.to_string(),
        path: PathBuf::from(path.trim()),
        figure: Box::new(figure),
    }])
}

fn goto(app: &mut App, text: &str) -> CommandResult {
    let position: usize = text
        .trim()
        .parse()
        .map_err(|_| Unavailable(format!("`{text}` is not a position")))?;
    app.cursor.position = position.min(app.transcript.tokens.len().saturating_sub(1));
    app.cursor.follow = false;
    app.cursor.at_run_start = false;
    Ok(vec![])
}
