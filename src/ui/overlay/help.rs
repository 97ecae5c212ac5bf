//! Help: what can be done here, with its keys; typing narrows it, Enter does it.
//!
//! Invariant: it lists only what works now; the list is made by the app.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{boxed, items, typed};
use crate::app::palette::Listing;
use crate::ui::theme::Theme;

/// Draws it.
pub fn draw(listing: &Listing, theme: &Theme, body: Rect, buf: &mut Buffer) {
    let inner = boxed(&listing.title, (100, body.height), theme, body, buf);
    typed(listing.filter.halves(), "filter: ", theme, inner, buf);
    let rest = Rect {
        y: inner.y + 1.min(inner.height),
        height: inner.height.saturating_sub(1),
        ..inner
    };
    items(listing, 22, theme, rest, buf);
}
