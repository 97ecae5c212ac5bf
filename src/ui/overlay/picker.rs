//! Pickers: one of a few values, for example a theme or a direction.
//!
//! Invariant: the picker says of each value what it is.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{boxed, items, typed};
use crate::app::palette::Listing;
use crate::ui::theme::Theme;

/// Draws it.
pub fn draw(listing: &Listing, theme: &Theme, body: Rect, buf: &mut Buffer) {
    let height = listing.items.len() as u16 + 3;
    let inner = boxed(&listing.title, (56, height.min(16)), theme, body, buf);
    typed(listing.filter.halves(), "> ", theme, inner, buf);
    let rest = Rect {
        y: inner.y + 1.min(inner.height),
        height: inner.height.saturating_sub(1),
        ..inner
    };
    items(listing, 22, theme, rest, buf);
}
