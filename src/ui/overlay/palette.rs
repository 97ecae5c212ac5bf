//! The palette: a command line with everything that can be typed under it.
//!
//! Invariant: what Enter would run is the marked line, or what is typed when that is a whole command.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{boxed, items, typed};
use crate::app::palette::Listing;
use crate::ui::theme::Theme;

/// Draws it.
pub fn draw(listing: &Listing, theme: &Theme, body: Rect, buf: &mut Buffer) {
    let inner = boxed(&listing.title, (90, 18), theme, body, buf);
    typed(listing.filter.halves(), ":", theme, inner, buf);
    let rest = Rect {
        y: inner.y + 1.min(inner.height),
        height: inner.height.saturating_sub(1),
        ..inner
    };
    items(listing, 24, theme, rest, buf);
}
