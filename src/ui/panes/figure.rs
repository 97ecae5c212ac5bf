//! The figure pane, the same for every instrument.
//!
//! Invariant: it depends on figures, not on instruments; an outdated figure is dimmed and says so. To show a new instrument,
//! add it to `INSTRUMENTS`; nothing here changes.

use std::ops::Range;

use ratatui::text::Line;

use super::Canvas;
use crate::app::cursor;
use crate::app::layout::Pane;
use crate::app::pointer::PointedAt;
use crate::app::{CursorFocus, FigureProgress, ShownFigure};
use crate::engine::PaneName;
use crate::figure::Anchor;
use crate::instruments::{Instrument, instrument};
use crate::text;
use crate::ui::figures::{self, FigureView};
use crate::ui::theme::Role;
use crate::ui::widgets::bar;

/// The rows of a figure that has no rows of its own, or is not there yet.
const ALL: Range<usize> = 0..usize::MAX;

pub fn draw(canvas: &mut Canvas, pane: Pane) {
    let Pane::Figure(slot) = pane else { return };
    let app = canvas.app;
    let Some(shown) = app.shown.get(slot) else {
        return;
    };
    let figure = app.figure(slot);
    let left = canvas.title(pane);
    let right = title_and_progress(canvas, shown, slot);
    let refused = refused(canvas, shown, slot);
    let below = caption(canvas, shown, slot, refused);
    let inner = canvas.frame(pane, &left, &right, &below);
    if inner.is_empty() {
        return;
    }
    let Some(figure) = figure else {
        canvas.memory.rows.insert(slot, ALL);
        let lines = empty_lines(canvas, shown, slot, usize::from(inner.width));
        return canvas.lines(inner, &lines);
    };
    let held = app.cursor_focus(slot);
    let spot = cursor::locate(figure, app.cursor, shown.spot).filter(|_| held == CursorFocus::Here);
    let anchor = spot.and_then(|s| cursor::read(figure, s)).map(|r| r.anchor);
    let (anchor, first_column) = match held {
        CursorFocus::Here => {
            let before = canvas.memory.first_column.get(slot).copied();
            let first = match (app.cursor.follow, app.cursor.at_run_start) {
                (true, _) => None,
                // As many of the following columns as there is room for.
                (false, true) => Some(usize::MAX),
                (false, false) => before,
            };
            (anchor.unwrap_or(app.cursor.anchor()), first)
        }
        // The cursor is in no column of the figure, so none is marked.
        CursorFocus::Coming => (Anchor::layer(app.cursor.layer), None),
        CursorFocus::Outside(first, _) => {
            let before = app.cursor.position < first;
            (Anchor::layer(app.cursor.layer), before.then_some(0))
        }
    };
    let view = FigureView {
        cursor: Some(anchor),
        spot: spot.map(|s| (s.column, s.row)),
        focused: app.layout.focus == pane && app.overlay.is_none(),
        density: app.density,
        stale: shown.stale.is_some(),
        flip: app.flip,
        folded: app.folded,
        first_column,
        aside: shown.aside,
        sorted: shown
            .sorted
            .as_ref()
            .map(|(name, back)| (name.as_str(), *back)),
        first_line: spot.map_or(0, |s| s.row),
        marks: app.history.marks(),
    };
    let hits = figures::draw(figure, &view, canvas.theme, inner, canvas.buf);
    if let Some(first) = hits.first_column {
        canvas.memory.first_column.insert(slot, first);
    }
    if app.settings.mouse {
        let cells = hits.cells.iter();
        let spots = cells.map(|(rect, anchor)| (*rect, PointedAt::Cell(slot, *anchor)));
        canvas.memory.spots.extend(spots);
    }
    canvas.memory.rows.insert(slot, hits.rows.unwrap_or(ALL));
}

/// The caption below a figure: why it is not the requested one, what it was measured on if it is outdated, or that the cursor
/// is outside it; else its content at the cursor. With the key that shows all notes.
fn caption(
    canvas: &Canvas,
    shown: &ShownFigure,
    slot: PaneName,
    refused: Option<&str>,
) -> Line<'static> {
    let app = canvas.app;
    let Some(figure) = app.figure(slot) else {
        return Line::default();
    };
    let warned = app
        .outdated_notice(shown)
        .or_else(|| refused.map(ToString::to_string))
        .or_else(|| app.outside_notice(slot));
    if let Some(words) = warned {
        return Line::from(canvas.span(format!(" {words} "), Role::Warning));
    }
    let room = usize::from(canvas.area.width).saturating_sub(6);
    let story = app.cell_of_figure(slot).and_then(|r| r.story);
    let said = story.map(|(story, _)| {
        let mut said = story.to_string();
        // The ranks of the jump are shown in the cell pane as well.
        if text::width(&said) + 2 > room
            && let Some(at) = said.rfind(" (#")
        {
            said.truncate(at);
        }
        said
    });
    let Some(said) = said.or_else(|| figure.notes.first().cloned()) else {
        return Line::default();
    };
    let more = match figure.notes.len() {
        0 | 1 => String::new(),
        count => format!("· N: {count} notes "),
    };
    let whole = text::width(&said) + text::width(&more) + 2 <= room;
    let mut spans = vec![canvas.span(format!(" {said} "), Role::Faint)];
    if whole {
        spans.push(canvas.span(more, Role::Faint));
    }
    Line::from(spans)
}

/// Why the requested difference is not shown.
fn refused<'a>(canvas: &Canvas, shown: &'a ShownFigure, slot: PaneName) -> Option<&'a str> {
    let asked =
        canvas.app.difference && shown.difference.is_none() && canvas.app.layout.figure == slot;
    let why = shown.refused.as_deref().or(shown.failed.as_deref());
    why.filter(|_| asked)
}

/// The right side of the title: the figure's own title, and progress.
fn title_and_progress(canvas: &Canvas, shown: &ShownFigure, slot: PaneName) -> Line<'static> {
    let app = canvas.app;
    let mut spans = Vec::new();
    if let Some(FigureProgress { done, left }) = shown.working {
        let text = if done > 0.0 {
            let left = left.map_or_else(String::new, |left| {
                format!("· {} left ", text::duration(left))
            });
            let bar = bar::bar(done, 8, canvas.theme.glyphs);
            format!(" {bar} {:>3.0} % {left}", done * 100.0)
        } else {
            " asked … ".to_string()
        };
        spans.push(canvas.span(text, Role::Accent));
    }
    if app.shows_reference(slot) {
        spans.push(canvas.span(" of the kept text ", Role::Warning));
    } else if refused(canvas, shown, slot).is_some() {
        spans.push(canvas.span(" no Δ ", Role::Warning));
    } else if app.difference && shown.difference.is_none() && app.layout.figure == slot {
        spans.push(canvas.span(" Δ being measured ", Role::Accent));
    }
    if shown.failed.is_some() && shown.figure.is_some() {
        spans.push(canvas.span(" failed; this is the previous one ", Role::Error));
    }
    if let Some(figure) = app.figure(slot) {
        let title = figure
            .title
            .strip_prefix(slot)
            .map_or(figure.title.as_str(), |t| t.trim_start_matches([' ', '·']));
        if !title.is_empty() {
            let role = if app.difference {
                Role::Warning
            } else {
                Role::Muted
            };
            spans.push(canvas.span(format!(" {title} "), role));
        }
    }
    Line::from(spans)
}

/// A line that states a fact and a line that says what to do.
fn empty_lines(
    canvas: &Canvas,
    shown: &ShownFigure,
    slot: PaneName,
    width: usize,
) -> Vec<Line<'static>> {
    let app = canvas.app;
    let about = instrument(slot).map_or_else(|_| String::new(), |i| i.about().to_string());
    let live = app
        .model
        .as_ref()
        .is_some_and(|m| instrument(slot).is_ok_and(|i| i.live(&m.card, &shown.arguments)));
    let download = app.loading.as_ref().and_then(|l| l.download.as_ref());
    if let Some(progress) = download {
        return super::download::lines(canvas, progress, width);
    }
    let own = instrument(slot);
    let reads_prompt = own.as_ref().is_ok_and(|i| i.needs_prompt(&shown.arguments));
    let about = format!("{about}.");
    let parameters = "o opens its parameters.";
    let (fact, action) = match (&shown.failed, app.transcript.tokens.is_empty()) {
        (Some(why), _) => (why.clone(), "o opens its parameters; Enter measures again."),
        (None, true) if app.loading.is_some() => ("The model is being loaded.".into(), ""),
        (None, true) if app.model.is_none() => ("No model is loaded.".into(), ""),
        (None, true) if !reads_prompt => (about, parameters),
        (None, true) => (
            about,
            "Nothing to look at yet: choose a ready prompt with Enter, or write one with i.",
        ),
        (None, false) if live || shown.working.is_some() => (about, "It is being measured."),
        (None, false) if own.is_ok_and(Instrument::reads_cell) => (
            about,
            "p reads the state under the cursor with a Patchscope, P those of all layers there.",
        ),
        (None, false) => (about, parameters),
    };
    let price = app.measurable(slot).map(|_| match app.price_of(slot) {
        Some(price) => format!("Enter measures it, which takes {price}."),
        None => "Enter measures it.".into(),
    });
    let action = match price {
        Some(price) => format!("{price} {action}"),
        None => action.to_string(),
    };
    let role = match shown.failed {
        Some(_) => Role::Error,
        None => Role::Muted,
    };
    let mut lines = canvas.folded(&fact, width, role);
    lines.extend(canvas.folded(&action, width, Role::Accent));
    lines
}
