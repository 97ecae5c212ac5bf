//! The prompt being written, and the drawing of any text being written.
//!
//! Invariant: the cursor is visible, and the text is made safe to show although the user wrote it.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::{Canvas, put};
use crate::app::App;
use crate::text;
use crate::ui::paint;
use crate::ui::theme::{Role, Theme};

/// The height of the prompt in rows, including its title.
pub fn rows(app: &App, inner: Rect) -> u16 {
    let (before, after) = app.prompt.halves();
    let (rows, _) = wrapped(before, after, usize::from(inner.width.max(1)));
    // A long prompt may have half of the pane.
    let most = (inner.height / 2).max(6);
    ((rows.len() as u16).clamp(1, most) + 1).min(inner.height)
}

/// One character of a text that is being written, and whether the cursor is on it.
type WrittenCharacter = (String, bool);

/// A text in rows of so many columns, broken between words where there is room for them, and the row of the cursor.
fn wrapped(before: &str, after: &str, width: usize) -> (Vec<Vec<WrittenCharacter>>, usize) {
    let mut rows: Vec<Vec<WrittenCharacter>> = vec![Vec::new()];
    let mut used = 0;
    let head = before.chars().map(|c| (c, false));
    let tail = after.chars().enumerate().map(|(i, c)| (c, i == 0));
    let end = after.is_empty().then_some((' ', true));
    for (c, here) in head.chain(tail).chain(end) {
        let shown = match (c, here) {
            ('\n', true) => " ".to_string(),
            ('\n', false) => String::new(),
            (c, _) => text::plain(c.to_string().as_bytes()),
        };
        let wide = text::width(&shown);
        // A combining mark stays with the letter before it, on any line.
        if wide > 0 && used + wide > width {
            let full = rows.last_mut().map(std::mem::take).unwrap_or_default();
            let (row, word) = broken(full, shown == " ");
            used = word.iter().map(|(c, _)| text::width(c)).sum();
            if let Some(last) = rows.last_mut() {
                *last = row;
            }
            rows.push(word);
        }
        if let Some(row) = rows.last_mut() {
            row.push((shown, here));
        }
        used += wide;
        if c == '\n' {
            rows.push(Vec::new());
            used = 0;
        }
    }
    let at = rows
        .iter()
        .position(|row| row.iter().any(|(_, here)| *here));
    (rows, at.unwrap_or(0))
}

/// A full row up to its last space, and the word behind it, which goes on in the next row; a row without a space, and one that a space
/// follows on, stays whole.
fn broken(
    mut row: Vec<WrittenCharacter>,
    ends: bool,
) -> (Vec<WrittenCharacter>, Vec<WrittenCharacter>) {
    let space = row.iter().rposition(|(c, _)| c == " ").filter(|_| !ends);
    let word = space.map_or_else(Vec::new, |at| row.split_off(at + 1));
    (row, word)
}

/// Draws the prompt with its title.
pub fn draw(canvas: &mut Canvas, area: Rect) {
    let app = canvas.app;
    let label = match (app.chat_possible(), app.settings.chat) {
        (false, _) => "RAW (this model has no chat template)",
        (true, true) => "CHAT (one user turn through the template) · Tab: raw",
        (true, false) => "RAW (text as it is) · Tab: chat",
    };
    let context = app.model.as_ref().map_or(0, |model| model.card.context);
    let counted = app.prompt_length().map_or_else(String::new, |tokens| {
        format!(
            "{} of {} · ",
            text::counted(tokens, "token"),
            text::grouped(context)
        )
    });
    let label = format!(" write · {counted}{label} ");
    let dash = canvas.theme.glyphs.pick("─", "-");
    let fill = dash.repeat(usize::from(area.width));
    let border = canvas.theme.style(Role::Focus);
    let wide = usize::from(area.width);
    paint::write(canvas.buf, area.x, area.y, &fill, wide, border);
    let line = Line::from(canvas.span(label, Role::Accent));
    let room = area.width.saturating_sub(1);
    put(canvas.buf, area.x + 1, area.y, room, &line);
    let rest = Rect {
        y: area.y + 1,
        height: area.height.saturating_sub(1),
        ..area
    };
    editor(canvas.buf, canvas.theme, rest, app.prompt.halves());
}

/// Draws text being written with its cursor visible, and made safe to show.
pub fn editor(buf: &mut Buffer, theme: &Theme, area: Rect, (before, after): (&str, &str)) {
    if area.is_empty() {
        return;
    }
    let (rows, at) = wrapped(before, after, usize::from(area.width));
    let first = (at + 1).saturating_sub(usize::from(area.height));
    let high = usize::from(area.height);
    for (i, row) in rows.iter().skip(first).take(high).enumerate() {
        let mut x = area.x;
        for (shown, here) in row {
            let style = theme.style(if *here { Role::Cursor } else { Role::Text });
            let room = usize::from(area.right().saturating_sub(x));
            x = paint::joined(buf, (area.x, x, area.y + i as u16), shown, room, style);
        }
    }
}
