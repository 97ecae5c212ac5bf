//! A scroll mark at the right edge, which shows the position in a long list.
//!
//! Invariant: nothing is drawn if the whole list is visible; the mark is at an end exactly if the view is.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::ui::paint;
use crate::ui::theme::{Role, Theme};

/// First line and length of the mark, for `count` lines of which `high` are visible from `first` on.
pub fn thumb(count: usize, first: usize, high: usize) -> Option<(usize, usize)> {
    if high == 0 || count <= high {
        return None;
    }
    let length = (high * high / count).clamp(1, high);
    let (last, free) = (count - high, high - length);
    let first = first.min(last);
    let at = match first {
        0 => 0,
        _ if first == last => free,
        // At neither end, unless there is no line between them.
        _ => (first * free / last)
            .max(1)
            .min(free.saturating_sub(1).max(1).min(free)),
    };
    Some((at, length))
}

/// The area without the mark's column, for `count` lines.
pub fn beside(count: usize, area: Rect) -> Rect {
    let marked = area.width >= 2 && thumb(count, 0, area.height.into()).is_some();
    Rect {
        width: area.width - u16::from(marked),
        ..area
    }
}

/// Draws the mark in the last column of the area.
pub fn draw(count: usize, first: usize, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let area = area.intersection(buf.area);
    let Some((at, length)) = thumb(count, first, area.height.into()) else {
        return;
    };
    if area.width < 2 {
        return;
    }
    let glyph = theme.glyphs.pick("▐", "|");
    let (x, style) = (area.right() - 1, theme.style(Role::Faint));
    for y in at..at + length {
        paint::write(buf, x, area.y + y as u16, glyph, 1, style);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends_are_ends() {
        assert_eq!(thumb(5, 0, 5), None);
        assert_eq!(thumb(5, 0, 0), None);
        assert_eq!(thumb(100, 0, 10), Some((0, 1)));
        assert_eq!(thumb(100, 1, 10), Some((1, 1)), "no longer at the top");
        assert_eq!(thumb(100, 89, 10), Some((8, 1)), "not yet at the bottom");
        assert_eq!(thumb(100, 90, 10), Some((9, 1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_mark_stays_inside(count in 0_usize..200, first in 0_usize..300, high in 0_usize..50) {
            if let Some((at, length)) = thumb(count, first, high) {
                prop_assert!(length >= 1 && at + length <= high);
            }
        }
    }
}
