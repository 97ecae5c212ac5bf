//! The line for a command's argument, with the reason if it was refused.
//!
//! Invariant: after a refusal the text is unchanged.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{boxed, lines_from_top, skip_lines, typed};
use crate::app::ArgumentLine;
use crate::ui::panes::fold;
use crate::ui::theme::{Role, Theme};

pub fn draw(line: &ArgumentLine, theme: &Theme, body: Rect, buf: &mut Buffer) {
    let width = 80.min(body.width);
    let room = usize::from(width).saturating_sub(2);
    let wrong = line
        .error
        .as_ref()
        .map_or_else(Vec::new, |e| fold(&crate::text::plain(e.as_bytes()), room));
    let size = (width, 3 + wrong.len() as u16);
    let inner = boxed(&line.label, size, theme, body, buf);
    typed(line.value.halves(), "> ", theme, inner, buf);
    let wrong = wrong.into_iter().map(|text| (text, Role::Error));
    lines_from_top(wrong, theme, skip_lines(inner, 1), buf);
}
