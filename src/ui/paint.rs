//! Writes into the screen's buffer, with clipping. No other place does.
//!
//! Invariant: only cells inside the buffer change, whatever the arguments, so that an app laid out for one size can be drawn on
//! a buffer of any other size; nothing else in `ui` writes into a buffer (`tests/it/architecture.rs` checks it). To write
//! something new, add a function here that clips.

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::symbols::border::Set;
use ratatui::widgets::{Block, Widget};
use unicode_segmentation::UnicodeSegmentation as _;

use crate::text;

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

/// Writes text into at most `room` columns, without cutting characters; returns the column after it. A combining mark at the
/// beginning (an accent, a vowel sign) is added to the cell of the previous letter, even if that was written before; `left` is
/// the first column of the line.
pub fn joined(
    buf: &mut Buffer,
    (left, mut x, y): (u16, u16, u16),
    text: &str,
    room: usize,
    style: Style,
) -> u16 {
    let end = usize::from(x) + room;
    let area = buf.area;
    for grapheme in text.graphemes(true) {
        let wide = text::width(grapheme);
        if wide == 0 {
            // The second half of a wide letter is an empty cell.
            let before = left.max(area.left())..x.min(area.right());
            let base = before.rev().find(|x| !hidden(buf, left, (*x, y)));
            if let Some(cell) = base.and_then(|x| buf.cell_mut((x, y))) {
                let joined = format!("{}{grapheme}", cell.symbol());
                cell.set_symbol(&joined);
                cell.set_style(style);
            }
            continue;
        }
        if usize::from(x) + wide > end {
            break;
        }
        let next = write(buf, x, y, grapheme, end - usize::from(x), style);
        if next == x {
            break;
        }
        x = next;
    }
    x
}

/// Whether a cell is the second half of a wide letter.
fn hidden(buf: &Buffer, left: u16, (x, y): (u16, u16)) -> bool {
    x > left
        && buf
            .cell((x - 1, y))
            .is_some_and(|cell| text::width(cell.symbol()) > 1)
}

/// Changes the style of an area and keeps its text.
pub fn tint(buf: &mut Buffer, area: Rect, style: Style) {
    buf.set_style(area.intersection(buf.area), style);
}

/// Fills an area with blanks of a style.
pub fn clear(buf: &mut Buffer, area: Rect, style: Style) {
    let area = area.intersection(buf.area);
    for position in area.positions() {
        if let Some(cell) = buf.cell_mut(position) {
            cell.reset();
            cell.set_style(style);
        }
    }
}

/// Draws the border of an area and returns its inside; empty if the area is too small.
pub fn border(buf: &mut Buffer, area: Rect, set: Set<'_>, style: Style) -> Rect {
    let area = area.intersection(buf.area);
    if area.width < 2 || area.height < 2 {
        return Rect::default();
    }
    let block = Block::bordered().border_set(set).border_style(style);
    let inner = block.inner(area);
    block.render(area, buf);
    inner
}

/// A border in ASCII.
pub const fn ascii(corner: &'static str, across: &'static str) -> Set<'static> {
    Set {
        top_left: corner,
        top_right: corner,
        bottom_left: corner,
        bottom_right: corner,
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: across,
        horizontal_bottom: across,
    }
}

/// Draws a widget of the terminal library in the part of its area that is inside the buffer.
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
