//! Two prompts side by side (A/B): the kept text left, the shown one right, tokens that stand for each other on one line.
//!
//! Invariant: a token that has another counterpart, or none, is marked in both texts; the cursor is in both at once.

use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;

use super::tokens::{TokenColours, in_sight, split, style_of};
use super::{Canvas, put};
use crate::app::App;
use crate::app::layout::Pane;
use crate::app::transcript::Transcript;
use crate::text;
use crate::ui::paint;
use crate::ui::theme::Role;
use crate::ui::widgets::scroll;

pub(super) fn draw(canvas: &mut Canvas, area: Rect) {
    let app = canvas.app;
    let Some(kept) = app.reference.as_ref().filter(|_| !area.is_empty()) else {
        return;
    };
    let (head, body) = split(area, area.height - 1);
    let column = App::column_of_both(usize::from(area.width));
    let title = Line::from(vec![
        canvas.span(text::fit("kept", column + 3), Role::Title),
        canvas.span(text::fit("now", column), Role::Title),
    ]);
    put(canvas.buf, head.x, head.y, head.width, &title);
    let lines = app.lines_of_both(column);
    let high = usize::from(body.height);
    let cursor = app.cursor.position;
    let holds = |line: &Vec<(Option<usize>, Option<usize>)>| {
        line.iter().any(|(_, own)| *own == Some(cursor))
    };
    let at = lines.iter().position(holds).unwrap_or(0);
    let most = lines.len().saturating_sub(high);
    let first = if app.cursor.follow {
        most
    } else {
        in_sight(at, canvas.memory.first_line.min(most), high)
    };
    canvas.memory.first_line = first;
    let colours = TokenColours::of(app);
    for (line, y) in lines.iter().skip(first).take(high).zip(body.y..) {
        let right = body.x + column as u16 + 3;
        let edges = [(body.x, body.x + column as u16), (right, body.right())];
        let mut x = edges.map(|(from, _)| from);
        for (a, b) in line {
            let same = match (a, b) {
                (Some(a), Some(b)) => {
                    let own = app.transcript.tokens.get(*b).map(|t| t.id);
                    kept.tokens.get(*a).map(|t| t.id) == own
                }
                (_, _) => false,
            };
            let here = *b == Some(cursor);
            let sides = [(kept, *a), (&app.transcript, *b)];
            for (side, (of, index)) in sides.into_iter().enumerate() {
                let Some(index) = index else { continue };
                let style = style(canvas, &colours, of, index, (side == 1, same, here));
                x[side] = token(
                    canvas,
                    (edges[side].0, x[side], y),
                    edges[side].1,
                    (of, index),
                    style,
                );
            }
        }
        let rule = canvas.theme.glyphs.pick("│", "|");
        let faint = canvas.theme.style(Role::Border);
        paint::write(canvas.buf, body.x + column as u16 + 1, y, rule, 1, faint);
    }
    scroll::draw(lines.len(), first, canvas.theme, body, canvas.buf);
}

/// How many tokens differ, for the border.
pub(super) fn summary(canvas: &Canvas) -> Line<'static> {
    let app = canvas.app;
    let (Some(kept), Some(pairs)) = (&app.reference, app.aligned()) else {
        return Line::default();
    };
    let id = |of: &Transcript, at: Option<usize>| at.and_then(|at| of.tokens.get(at)).map(|t| t.id);
    let same = pairs.iter().filter(|(a, b)| {
        let both = id(kept, *a).zip(id(&app.transcript, *b));
        both.is_some_and(|(a, b)| a == b)
    });
    let said = format!(
        " {} of {} tokens are the same · D subtracts the figures ",
        same.count(),
        app.transcript.tokens.len()
    );
    Line::from(canvas.span(said, Role::Muted))
}

fn style(
    canvas: &Canvas,
    colours: &TokenColours,
    of: &Transcript,
    index: usize,
    (own, same, here): (bool, bool, bool),
) -> Style {
    let Some(token) = of.tokens.get(index) else {
        return Style::new();
    };
    let mut style = style_of(canvas.theme, colours, token, index < of.prompt, own);
    if !same {
        let marked = canvas.theme.style(Role::Warning);
        style = marked.add_modifier(Modifier::UNDERLINED);
    }
    if here {
        let role = if own && canvas.app.layout.focus == Pane::Transcript {
            Role::Cursor
        } else {
            Role::Selection
        };
        style = style.patch(canvas.theme.style(role));
    }
    style
}

/// Draws a token; returns the column of the next one.
fn token(
    canvas: &mut Canvas,
    (left, x, y): (u16, u16, u16),
    right: u16,
    (of, index): (&Transcript, usize),
    style: Style,
) -> u16 {
    let shown = of.pieces.get(index).map(|piece| piece.replace('\n', "⏎"));
    let room = usize::from(right.saturating_sub(x));
    let shown = text::clip(&shown.unwrap_or_default(), room);
    paint::joined(canvas.buf, (left, x, y), &shown, room, style)
}
