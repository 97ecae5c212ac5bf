//! Draws prose: lines, wrapped between words.
//!
//! Invariant: no word is lost: what does not fit in a line is continued on the next, even if a word is longer than a line.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_segmentation::UnicodeSegmentation as _;

use super::{FigureView, Hits};
use crate::figure::Text;
use crate::text::width;
use crate::ui::paint;
use crate::ui::theme::{Role, Theme};
use crate::ui::widgets::scroll;

/// Draws a text from `view.first_line` on.
pub(super) fn draw(
    text: &Text,
    view: &FigureView,
    theme: &Theme,
    area: Rect,
    buf: &mut Buffer,
) -> Hits {
    let style = theme.style(if view.stale { Role::Stale } else { Role::Text });
    let room = usize::from(area.width.saturating_sub(1)).max(1);
    let lines: Vec<String> = text
        .lines
        .iter()
        .flat_map(|line| wrap(line, room))
        .collect();
    let high = usize::from(area.height);
    let first = view.first_line.min(lines.len().saturating_sub(high));
    for (line, y) in lines.iter().skip(first).zip(area.y..area.bottom()) {
        paint::write(buf, area.x, y, line, room, style);
    }
    scroll::draw(lines.len(), first, theme, area, buf);
    Hits::default()
}

/// Breaks a line into pieces of at most `columns` columns, between words where there are any.
pub fn wrap(line: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut current, mut used) = (String::new(), 0);
    for word in line.split_inclusive(' ') {
        let bare = width(word.trim_end_matches(' '));
        if used > 0 && used + bare > columns {
            lines.push(std::mem::take(&mut current).trim_end().to_owned());
            used = 0;
        }
        for grapheme in word.graphemes(true) {
            let wide = width(grapheme);
            if used + wide > columns && used > 0 {
                // A space at the end of a line is not drawn.
                if grapheme == " " {
                    continue;
                }
                lines.push(std::mem::take(&mut current));
                used = 0;
            }
            current.push_str(grapheme);
            used += wide;
        }
    }
    if !current.is_empty() || lines.is_empty() {
        lines.push(current.trim_end().to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_break_between_words_and_long_words_inside() {
        assert_eq!(wrap("the quick brown fox", 10), ["the quick", "brown fox"]);
        assert_eq!(wrap("the quick brown fox", 9), ["the quick", "brown fox"]);
        assert_eq!(
            wrap("a incomprehensible b", 6),
            ["a", "incomp", "rehens", "ible b"]
        );
        assert_eq!(wrap("漢字漢字", 5), ["漢字", "漢字"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("  indented", 20), ["  indented"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_is_lost_and_nothing_sticks_out(line in "[a-c漢 ]{0,40}", columns in 2_usize..12) {
            let lines = wrap(&line, columns);
            prop_assert!(lines.iter().all(|l| width(l) <= columns), "{:?}", lines);
            let letters = |s: &str| s.replace(' ', "");
            prop_assert_eq!(letters(&lines.concat()), letters(&line));
        }
    }
}
