//! The details of the cell under the cursor: its token, and the chosen figure's content there, with bars.
//!
//! Invariant: everything here is about the shared cursor. To show more about a cell, add lines in [`draw`].

use ratatui::text::{Line, Span};

use super::{Canvas, fold, role_of};
use crate::app::ShownFigure;
use crate::app::cursor::{CellUnderCursor, number, spell_scaled};
use crate::app::layout::Pane;
use crate::text;
use crate::ui::theme::Role;
use crate::ui::widgets::bar;

pub fn draw(canvas: &mut Canvas, pane: Pane) {
    let app = canvas.app;
    let left = canvas.title(pane);
    let reading = app.cell_under_cursor();
    let anchor = reading.as_ref().map_or(app.cursor.anchor(), |r| r.anchor);
    // The figure may have been measured at another position than the cursor's.
    let position = anchor.position.map_or(app.cursor.position, |p| p as usize);
    // A cell without a layer (the embedding, a sum) is shown without one.
    let layer = match (&reading, anchor.layer) {
        (Some(_), None) => String::new(),
        (_, layer) => format!(" · layer {}", layer.map_or(app.cursor.layer, usize::from)),
    };
    let right = Line::from(canvas.span(
        format!(" {}{layer} · position {position} ", app.layout.figure),
        Role::Muted,
    ));
    let shown = app.shown.get(app.layout.figure);
    let outdated = shown
        .filter(|_| reading.is_some())
        .and_then(ShownFigure::outdated);
    // A rank story is shown in the pane itself. Otherwise show the second note, which is about the newest position.
    let below = app
        .figure(app.layout.figure)
        .filter(|_| outdated.is_none() && reading.as_ref().is_some_and(|r| r.story.is_none()))
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
    if let (Some(outdated), Some(reading)) = (&outdated, &reading) {
        return canvas.lines(inner, &outdated_lines(canvas, outdated, reading, width));
    }
    let Some(token) = app.transcript.tokens.get(position).or(app.token()) else {
        // Some figures are not about the text.
        if let Some(reading) = reading {
            return canvas.lines(inner, &reading_lines(canvas, &reading, width));
        }
        let words = "No cell yet. A prompt makes some: Enter runs a ready one, i writes your own.";
        lines.extend(canvas.folded(words, width, Role::Muted));
        return canvas.lines(inner, &lines);
    };
    let mut first = vec![
        canvas.span("token ", Role::Muted),
        canvas.span(text::visible(&token.bytes), role_of(token)),
        canvas.span(
            format!("  {}  id {}", text::exact(&token.bytes), token.id),
            Role::Muted,
        ),
    ];
    if token.special {
        first.push(canvas.span("  special", Role::Special));
    }
    lines.push(Line::from(first));
    lines.extend(canvas.folded(&written(token), width, Role::Muted));
    lines.extend(fired(canvas, position, width));
    if let Some(outside) = app.outside_notice(app.layout.figure) {
        lines.extend(canvas.folded(&outside, width, Role::Warning));
    }
    if let Some(reading) = reading {
        lines.extend(reading_lines(canvas, &reading, width));
    }
    canvas.lines(inner, &lines);
}

/// The cell of an outdated figure: what the figure is about, and the cell's own text, all in faint style.
fn outdated_lines(
    canvas: &Canvas,
    outdated: &str,
    reading: &CellUnderCursor,
    width: usize,
) -> Vec<Line<'static>> {
    let mut lines = canvas.folded(outdated, width, Role::Warning);
    if reading.anchor.position.is_some() && !reading.column.is_empty() {
        let then = format!("then at the cursor: {}", reading.column);
        lines.push(Line::from(canvas.span(then, Role::Stale)));
    }
    let stale = canvas.theme.style(Role::Stale);
    for mut line in reading_lines(canvas, reading, width) {
        for span in &mut line.spans {
            span.style = stale;
        }
        lines.push(line);
    }
    lines
}

/// The edits that acted at a token, and the token that the other run chose there.
fn fired(canvas: &Canvas, position: usize, width: usize) -> Vec<Line<'static>> {
    let text = &canvas.app.transcript;
    let mut lines = Vec::new();
    for fired in text.fired_at(position) {
        let Some(edit) = canvas.app.history.edit(fired.edit) else {
            continue;
        };
        let edit = edit.to_string();
        let said = format!(" {}× Δh/h {}", fired.fired, number(fired.relative));
        let room = width
            .saturating_sub(text::width(&said))
            .min(text::width(&edit));
        lines.push(Line::from(vec![
            canvas.span(text::fit(&edit, room), Role::Edited),
            canvas.span(said, Role::Muted),
        ]));
    }
    if let Some(other) = text.tokens.get(position).and_then(|t| t.other.as_ref()) {
        let p = other.logprob.map_or(f32::NAN, f32::exp);
        let name = canvas.app.other_run_name(position);
        lines.push(Line::from(vec![
            canvas.span(name, Role::Muted),
            canvas.span(text::visible(&other.bytes), Role::Title),
            canvas.span(format!("  p {}", number(p)), Role::Muted),
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
        "generated with p {} · #{} · surprisal {:.2} nats{kl}",
        number(logprob.exp()),
        rank + 1,
        -logprob
    )
}

fn reading_lines(canvas: &Canvas, reading: &CellUnderCursor, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let at = reading
        .anchor
        .layer
        .map_or_else(String::new, |l| format!(" at layer {l}"));
    if reading.entries.is_empty() && reading.more.is_empty() {
        let value = reading
            .value
            .as_ref()
            .map_or_else(String::new, |(name, v)| {
                format!("  {name} {}", spell_scaled(reading.scale, *v))
            });
        lines.push(Line::from(vec![
            canvas.span(reading.label.clone(), Role::Text),
            canvas.span(value, Role::Muted),
        ]));
    }
    if let Some((story, layer)) = &reading.story
        && let (Some(rank), Some(p)) = (story.ranks.get(*layer), story.probabilities.get(*layer))
    {
        let vocab = canvas.app.model.as_ref().map(|m| m.card.vocab);
        let of = vocab.map_or_else(String::new, |v| format!(" of {}", text::grouped(v)));
        lines.push(Line::from(vec![
            canvas.span(story.token.clone(), Role::Accent),
            canvas.span(
                format!(
                    "  #{}{of} · p {}{at}",
                    text::grouped(*rank as usize),
                    number(*p)
                ),
                Role::Muted,
            ),
        ]));
        lines.extend(canvas.folded(&story.to_string(), width, Role::Text));
    }
    lines.extend(candidates(canvas, reading, width));
    let own = |name: &str| reading.axis.as_ref().is_some_and(|axis| axis.0 == name);
    match &reading.value {
        // The name of the number that the bars show, or else the cell's own number.
        Some((name, _)) if !reading.more.is_empty() && own(name) => {
            lines.push(Line::from(canvas.span(format!("{name}{at}"), Role::Faint)));
        }
        Some((name, value)) if !reading.more.is_empty() && !name.is_empty() => {
            let value = spell_scaled(reading.scale, *value);
            lines.push(Line::from(
                canvas.span(format!("{name} {value}{at}"), Role::Faint),
            ));
        }
        Some(_) | None => {}
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

/// The candidates of a cell. If their numbers are of one kind, they have bars on the scale of that kind, which is named; on a
/// diverging scale, the bar of a negative number has another colour.
fn candidates(canvas: &Canvas, reading: &CellUnderCursor, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let names = reading.more.iter().map(|m| text::width(&m.0)).max();
    let most = if reading.axis.is_some() {
        18
    } else {
        width.saturating_sub(9).max(6)
    };
    let longest = names.unwrap_or(0).clamp(6, most.max(6));
    let columns = width.saturating_sub(longest + 10).min(40);
    for (i, (label, value)) in reading.more.iter().enumerate() {
        let role = if i == 0 { Role::Title } else { Role::Text };
        let mut spans = vec![canvas.span(text::fit(label, longest), role), Span::raw(" ")];
        if let Some((_, ends)) = &reading.axis {
            let (share, negative) = along(*ends, *value);
            let role = if negative { Role::Warning } else { Role::Bar };
            spans.push(canvas.span(bar::bar(share, columns, canvas.theme.glyphs), role));
        }
        spans.push(canvas.span(format!(" {:>7}", number(*value)), Role::Muted));
        lines.push(Line::from(spans));
    }
    if let Some((name, (lo, hi))) = reading.axis.as_ref().filter(|_| !lines.is_empty()) {
        let (lo, hi) = (number(*lo), number(*hi));
        let indent = " ".repeat(longest + 1);
        let scale = format!("{indent}bars: {name}, {lo} to {hi}");
        lines.push(Line::from(
            canvas.span(text::clip(&scale, width), Role::Faint),
        ));
    }
    lines
}

/// The length of a number's bar, 0 to 1, and whether it points the other way: from the lower end of the scale, or from zero on
/// a diverging scale.
fn along((lo, hi): (f32, f32), value: f32) -> (f32, bool) {
    if lo < 0.0 && hi > 0.0 {
        let reach = hi.max(-lo);
        return (value.abs() / reach, value < 0.0);
    }
    ((value - lo) / (hi - lo).max(f32::MIN_POSITIVE), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_measures_its_number_on_its_scale() {
        let near = |a: (f32, bool), b: (f32, bool)| (a.0 - b.0).abs() < 1e-6 && a.1 == b.1;
        assert!(near(along((0.0, 1.0), 0.25), (0.25, false)), "a share");
        // For log-probabilities the largest number has the longest bar.
        let log = |v| along((-10.0, 0.0), v).0;
        assert!(log(-0.05) > 0.99 && log(-9.5) < 0.06);
        assert!(near(along((-8.0, 8.0), -6.0), (0.75, true)), "below zero");
        assert!(near(along((-8.0, 8.0), 6.0), (0.75, false)));
        assert!(
            near(along((2.0, 4.0), 3.0), (0.5, false)),
            "from the lower end"
        );
    }
}
