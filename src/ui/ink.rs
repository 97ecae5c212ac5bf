//! Writing into the screen's buffer: the one place that does, and the one that clips.
//!
//! Invariant: whatever is asked for, only cells inside the buffer change, so that an app laid out for one size can be
//! drawn on a buffer of any other; nothing else in `ui` writes into a buffer (`tests/it/architecture.rs` holds it).
//! To write something new, add a function here that clips.

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::widgets::Widget;

/// Writes text into at most `room` columns; returns the column after it.
pub fn write(
    buf: &mut Buffer,
    x: u16,
    y: u16,
    text: impl AsRef<str>,
    room: usize,
    style: Style,
) -> u16 {
    if !buf.area.contains(Position { x, y }) {
        return x;
    }
    buf.set_stringn(x, y, text, room, style).0
}

/// Gives an area a style and leaves its text.
pub fn tint(buf: &mut Buffer, area: Rect, style: Style) {
    buf.set_style(area.intersection(buf.area), style);
}

/// Empties an area: blanks that have this style and nothing of what was there.
pub fn clear(buf: &mut Buffer, area: Rect, style: Style) {
    let area = area.intersection(buf.area);
    for position in area.positions() {
        if let Some(cell) = buf.cell_mut(position) {
            cell.reset();
            cell.set_style(style);
        }
    }
}

/// Draws a widget of the terminal library, in the part of its area that is there.
pub fn render(buf: &mut Buffer, area: Rect, widget: impl Widget) {
    let area = area.intersection(buf.area);
    if !area.is_empty() {
        widget.render(area, buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_outside() {
        for (width, height) in [(0, 0), (1, 1), (3, 2), (9, 9)] {
            let area = Rect::new(2, 1, width, height);
            for (x, y) in (0..14).flat_map(|x| (0..14).map(move |y| (x, y))) {
                let mut buf = Buffer::empty(area);
                let end = write(&mut buf, x, y, "漢字ab", 5, Style::new());
                assert!(end >= x && end <= area.right().max(x), "{area} {x},{y}");
                let inside = buf.content.iter().any(|c| c.symbol() != " ");
                assert_eq!(
                    inside,
                    area.contains(Position { x, y }) && area.right() > x + 1
                );
                tint(&mut buf, Rect::new(x, y, 20, 20), Style::new());
                clear(&mut buf, Rect::new(x, y, 20, 20), Style::new());
            }
        }
        let mut buf = Buffer::empty(Rect::new(0, 0, 4, 1));
        assert_eq!(
            write(&mut buf, u16::MAX, u16::MAX, "x", 1, Style::new()),
            u16::MAX
        );
    }
}
