//! The edits pane: every edit with its number, whether it is on, how strong, and what it really did.
//!
//! Invariant: an edit that is on and never fired is red and says so in words.
//! To show more of a receipt, add to [`receipt`].

use ratatui::text::{Line, Span};

use super::{Canvas, fold, put};
use crate::app::App;
use crate::app::cursor::number;
use crate::app::layout::Pane;
use crate::lab::edit::Edit;
use crate::lab::receipt::Receipt;
use crate::text;
use crate::ui::theme::{Glyphs, Role};
use crate::ui::widgets::bar;

/// The strength at the end of the bar.
const FULL: f32 = 4.0;

/// Draws the pane.
pub fn draw(canvas: &mut Canvas, pane: Pane) {
    let app = canvas.app;
    let left = canvas.title(pane);
    let mode = format!(" {} ", app.history.mode().name());
    let right = Line::from(canvas.span(mode, Role::Accent));
    let inner = canvas.frame(pane, &left, &right, &Line::default());
    if inner.is_empty() {
        return;
    }
    if app.history.edits().is_empty() {
        let words = "No edits. s steers at the cursor's layer, x ablates the neuron under the cursor, e writes one.";
        let lines: Vec<Line> = fold(words, usize::from(inner.width))
            .into_iter()
            .map(|l| Line::from(canvas.span(l, Role::Muted)))
            .collect();
        return canvas.lines(inner, &lines);
    }
    // A change made from now has had no chance to do anything before the next token.
    let waiting = app
        .transcript
        .boundaries
        .last()
        .is_some_and(|b| *b >= app.transcript.tokens.len());
    let wide = inner.width >= 84;
    let mut rows: Vec<(usize, Line)> = Vec::new();
    for (i, edit) in app.history.edits().iter().enumerate() {
        let given = receipt_of(app, i, edit);
        let idle = given.is_some_and(Receipt::idle) && !waiting;
        let mut first = head(canvas, i, edit, usize::from(inner.width), wide, idle);
        let told = given
            .filter(|_| edit.on)
            .map(|r| receipt(canvas, r, waiting));
        match told {
            Some(told) if wide => {
                first.spans.push(Span::raw("  "));
                first.spans.extend(told);
                rows.push((i, first));
            }
            Some(told) => {
                rows.push((i, first));
                let mut line = vec![Span::raw("     ")];
                line.extend(told);
                rows.push((i, Line::from(line)));
            }
            None => rows.push((i, first)),
        }
    }
    let high = usize::from(inner.height);
    let last = rows
        .iter()
        .rposition(|(i, _)| *i == app.history.selected)
        .unwrap_or(0);
    let first = (last + 1).saturating_sub(high);
    for (row, (_, line)) in rows.iter().skip(first).take(high).enumerate() {
        put(canvas.buf, inner.x, inner.y + row as u16, inner.width, line);
    }
}

fn receipt_of<'a>(app: &'a App, index: usize, edit: &Edit) -> Option<&'a Receipt> {
    let line = edit.to_string();
    app.receipts
        .get(index)
        .filter(|r| r.edit == line)
        .or_else(|| app.receipts.iter().find(|r| r.edit == line))
}

fn head(
    canvas: &Canvas,
    index: usize,
    edit: &Edit,
    width: usize,
    wide: bool,
    idle: bool,
) -> Line<'static> {
    let app = canvas.app;
    let selected = index == app.history.selected;
    let unicode = canvas.theme.glyphs == Glyphs::Unicode;
    let role = match (selected && app.focus == Pane::Edits, edit.on, idle) {
        (true, _, _) => Role::Selection,
        (false, true, true) => Role::Error,
        (false, true, false) => Role::Edited,
        (false, false, _) => Role::Text,
    };
    let mark = match (edit.on, unicode) {
        (true, true) => "●",
        (false, true) => "○",
        (true, false) => "x",
        (false, false) => "-",
    };
    let pointer = if selected { ">" } else { " " };
    let key = if index < 9 {
        (index + 1).to_string()
    } else {
        "·".into()
    };
    let mut plain = edit.clone();
    plain.strength = 1.0;
    let bar_width = 6;
    let room = if wide {
        34
    } else {
        width.saturating_sub(5 + 7 + bar_width)
    };
    Line::from(vec![
        canvas.span(pointer, Role::Accent),
        canvas.span(key, Role::Key),
        Span::raw(" "),
        canvas.span(
            mark,
            if idle && edit.on {
                Role::Error
            } else if edit.on {
                Role::Edited
            } else {
                Role::Muted
            },
        ),
        Span::raw(" "),
        canvas.span(text::fit(&plain.to_string(), room), role),
        canvas.span(format!("{:>6.2} ", edit.strength), role),
        canvas.span(
            bar::bar(
                (edit.strength.abs() / FULL).min(1.0),
                bar_width,
                canvas.theme.glyphs,
            ),
            Role::Bar,
        ),
    ])
}

fn receipt(canvas: &Canvas, receipt: &Receipt, waiting: bool) -> Vec<Span<'static>> {
    if !receipt.active {
        return vec![canvas.span("on, but at a strength that changes nothing", Role::Warning)];
    }
    if receipt.idle() && waiting {
        return vec![canvas.span(
            "from the next token on: c goes on, R starts anew",
            Role::Muted,
        )];
    }
    if receipt.idle() {
        let words = if receipt.fired == 0 {
            "never fired"
        } else {
            "changed nothing"
        };
        return vec![canvas.span(format!("on, but {words}: {}", receipt.why), Role::Error)];
    }
    let kl = receipt.kl.map_or_else(
        || " KL …".to_string(),
        |kl| {
            let null = receipt
                .null
                .map_or_else(String::new, |null| format!(" null {}", number(null)));
            format!(" KL {}{null}", number(kl))
        },
    );
    let mut spans = vec![canvas.span(
        format!(
            "fired {}× Δh/h {}{kl}",
            receipt.fired,
            number(receipt.relative)
        ),
        Role::Muted,
    )];
    if !receipt.note.is_empty() {
        spans.push(canvas.span(format!(" · {}", receipt.note), Role::Warning));
    }
    spans
}
