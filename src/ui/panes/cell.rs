//! The cell under the cursor in full: its token, and what the chosen figure says there, with bars.
//!
//! Invariant: everything here is about the shared cursor. To say more about a cell, add lines in [`draw`].

use ratatui::text::{Line, Span};

use super::{Canvas, fold};
use crate::app::cursor::{Reading, number};
use crate::app::layout::Pane;
use crate::lab::writer::Beside;
use crate::text;
use crate::ui::theme::Role;
use crate::ui::widgets::bar;

/// Draws the pane.
pub fn draw(canvas: &mut Canvas, pane: Pane) {
    let app = canvas.app;
    let left = canvas.title(pane);
    let reading = app.reading();
    let anchor = reading.as_ref().map_or(app.cursor.anchor(), |r| r.anchor);
    // A figure may have been measured at another position than the cursor's.
    let position = anchor.position.map_or(app.cursor.position, |p| p as usize);
    // What belongs to no layer (the embedding, a sum) is said to be in none.
    let layer = match (&reading, anchor.layer) {
        (Some(_), None) => String::new(),
        (_, layer) => format!(" · layer {}", layer.map_or(app.cursor.layer, usize::from)),
    };
    let right = Line::from(canvas.span(
        format!(" {}{layer} · position {position} ", app.slot),
        Role::Muted,
    ));
    let below = app
        .figure(app.slot)
        .filter(|_| reading.is_some())
        .and_then(|f| f.notes.get(1).or(f.notes.first()))
        .map_or_else(Line::default, |n| {
            Line::from(canvas.span(format!(" {n} "), Role::Faint))
        });
    let inner = canvas.frame(pane, &left, &right, &below);
    if inner.is_empty() {
        return;
    }
    let width = usize::from(inner.width);
    let mut lines = Vec::new();
    let Some(token) = app.transcript.tokens.get(position).or(app.token()) else {
        // Some figures are about no text.
        if let Some(reading) = reading {
            return canvas.lines(inner, &reading_lines(canvas, &reading, width));
        }
        let words = "No cell yet. A prompt makes some: Enter runs a ready one, i writes your own.";
        lines.extend(
            fold(words, width)
                .into_iter()
                .map(|l| Line::from(canvas.span(l, Role::Muted))),
        );
        return canvas.lines(inner, &lines);
    };
    let mut first = vec![
        canvas.span("token ", Role::Muted),
        canvas.span(
            text::visible(&token.bytes),
            if token.special {
                Role::Special
            } else {
                Role::Title
            },
        ),
        canvas.span(
            format!("  {}  id {}", text::exact(&token.bytes), token.id),
            Role::Muted,
        ),
    ];
    if token.special {
        first.push(canvas.span("  special", Role::Special));
    }
    lines.push(Line::from(first));
    lines.extend(
        fold(&written(token), width)
            .into_iter()
            .map(|l| Line::from(canvas.span(l, Role::Muted))),
    );
    lines.extend(fired(canvas, position, width));
    if let Some(reading) = reading {
        lines.extend(reading_lines(canvas, &reading, width));
    }
    canvas.lines(inner, &lines);
}

/// Which edits did something at a token, and what the other run chose there.
fn fired(canvas: &Canvas, position: usize, width: usize) -> Vec<Line<'static>> {
    let text = &canvas.app.transcript;
    let mut lines = Vec::new();
    for (edit, fired) in text.fired_at(position) {
        let said = format!(" {}× Δh/h {}", fired.fired, number(fired.relative));
        let room = width
            .saturating_sub(text::width(&said))
            .min(text::width(edit));
        lines.push(Line::from(vec![
            canvas.span(text::fit(edit, room), Role::Edited),
            canvas.span(said, Role::Muted),
        ]));
    }
    if let Some(other) = text.tokens.get(position).and_then(|t| t.other.as_ref()) {
        let name = match text.beside(position) {
            Beside::Forced => "edited run's choice ",
            Beside::Nothing | Beside::SameText | Beside::OwnText => "unedited ",
        };
        lines.push(Line::from(vec![
            canvas.span(name, Role::Muted),
            canvas.span(text::visible(&other.bytes), Role::Title),
            canvas.span(format!("  p {}", number(other.logprob.exp())), Role::Muted),
        ]));
    }
    lines
}

fn written(token: &crate::engine::Token) -> String {
    let (Some(logprob), Some(rank)) = (token.logprob, token.rank) else {
        return "in the prompt".into();
    };
    let kl = token
        .kl
        .map_or_else(String::new, |kl| format!(" · KL {} nats", number(kl)));
    format!(
        "written with p {} · rank {rank} · {:.2} nats of surprise{kl}",
        number(logprob.exp()),
        -logprob
    )
}

fn reading_lines(canvas: &Canvas, reading: &Reading, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let name = reading.value.as_ref().map_or("", |v| v.0.as_str());
    if reading.entries.is_empty() && reading.more.is_empty() {
        let value = reading
            .value
            .as_ref()
            .map_or_else(String::new, |(name, v)| format!("  {name} {}", number(*v)));
        lines.push(Line::from(vec![
            canvas.span(reading.label.clone(), Role::Text),
            canvas.span(value, Role::Muted),
        ]));
    }
    let longest = reading
        .more
        .iter()
        .map(|m| text::width(&m.0))
        .max()
        .unwrap_or(0)
        .clamp(6, 18);
    let most = reading
        .more
        .iter()
        .map(|m| m.1.abs())
        .fold(0.0f32, f32::max)
        .max(f32::MIN_POSITIVE);
    let share = if most <= 1.0 { 1.0 } else { most };
    let columns = width.saturating_sub(longest + 10).min(40);
    for (i, (label, value)) in reading.more.iter().enumerate() {
        lines.push(Line::from(vec![
            canvas.span(
                text::fit(label, longest),
                if i == 0 { Role::Title } else { Role::Text },
            ),
            Span::raw(" "),
            canvas.span(
                bar::bar(value.abs() / share, columns, canvas.theme.glyphs),
                Role::Bar,
            ),
            canvas.span(format!(" {:>7}", number(*value)), Role::Muted),
        ]));
    }
    if !reading.more.is_empty() && !name.is_empty() {
        lines.push(Line::from(canvas.span(
            reading.anchor.layer.map_or_else(
                || name.to_string(),
                |layer| format!("{name} at layer {layer}"),
            ),
            Role::Faint,
        )));
    }
    let names = reading
        .entries
        .iter()
        .map(|e| text::width(&e.0))
        .max()
        .unwrap_or(0);
    for (name, value) in &reading.entries {
        let folded = fold(value, width.saturating_sub(names + 1).max(8));
        for (i, part) in folded.into_iter().enumerate() {
            let label = if i == 0 {
                text::fit(name, names)
            } else {
                " ".repeat(names)
            };
            lines.push(Line::from(vec![
                canvas.span(label, Role::Muted),
                Span::raw(" "),
                canvas.span(part, Role::Text),
            ]));
        }
    }
    lines
}
