//! Panes: the parts of the screen between header and footer, as rows of a list.
//!
//! Invariant: a pane draws inside its area, and reads the app without changing it.
//! To add a pane, add a file, a row in [`PANES`], a variant of [`crate::app::layout::Pane`] and its place there.

mod cell;
mod compared;
mod download;
mod edits;
mod figure;
mod prompt;
mod tokens;
mod transcript;
mod two_prompts;

pub(in crate::ui) use prompt::editor;

use std::collections::BTreeMap;
use std::ops::Range;

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};

use crate::app::App;
use crate::app::layout::Pane;
use crate::app::pointer::PointedAt;
use crate::engine::{PaneName, Token};
use crate::text;
use crate::ui::paint;
use crate::ui::theme::{Glyphs, Role, Theme};

/// Scroll positions that are kept between frames, so that nothing jumps.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The first visible column of each grid.
    pub first_column: BTreeMap<PaneName, usize>,
    /// The rows drawn of each figure in the last frame; a figure that was not drawn is not here.
    pub rows: BTreeMap<PaneName, Range<usize>>,
    /// The first visible line of the transcript.
    pub first_line: usize,
    /// What the last frame shows where, for the mouse; where two overlap, the first counts.
    pub spots: Vec<(Rect, PointedAt)>,
}

impl Memory {
    /// What the last frame shows at a column and row.
    pub fn at(&self, (x, y): (u16, u16)) -> PointedAt {
        let holds = |(rect, _): &&(Rect, PointedAt)| rect.contains(Position { x, y });
        self.spots
            .iter()
            .find(holds)
            .map_or(PointedAt::Nothing, |(_, what)| *what)
    }
}

/// The inputs of drawing a pane.
pub struct Canvas<'a> {
    /// The state.
    pub app: &'a App,
    /// The colours.
    pub theme: &'a Theme,
    /// The scroll positions of the last frame.
    pub memory: &'a mut Memory,
    /// The whole pane with its border.
    pub area: Rect,
    /// Whether the title has tabs for the other panes.
    pub tabs: bool,
    pub buf: &'a mut Buffer,
}

/// A row of [`PANES`]: one kind of pane.
pub struct PaneRow {
    pub name: &'static str,
    /// A one-sentence description.
    pub about: &'static str,
    /// Whether this row draws a pane.
    pub draws: fn(Pane) -> bool,
    pub draw: fn(&mut Canvas, Pane),
}

/// Every kind of pane.
pub const PANES: &[PaneRow] = &[
    PaneRow {
        name: "text",
        about: "the text, token by token, and the prompt",
        draws: |p| p == Pane::Transcript,
        draw: transcript::draw,
    },
    PaneRow {
        name: "figure",
        about: "what an instrument shows",
        draws: |p| matches!(p, Pane::Figure(_)),
        draw: figure::draw,
    },
    PaneRow {
        name: "edits",
        about: "the edits and what each one changed",
        draws: |p| p == Pane::Edits,
        draw: edits::draw,
    },
    PaneRow {
        name: "cell",
        about: "the cell under the cursor in full",
        draws: |p| p == Pane::Cell,
        draw: cell::draw,
    },
];

pub fn draw(pane: Pane, canvas: &mut Canvas) {
    if let Some(row) = PANES.iter().find(|row| (row.draws)(pane)) {
        (row.draw)(canvas, pane);
    }
}

/// The role in which a token's name is drawn.
pub(super) fn role_of(token: &Token) -> Role {
    if token.special {
        Role::Special
    } else {
        Role::Title
    }
}

impl Canvas<'_> {
    /// Draws the border with titles at the left, right and bottom, and returns the inside.
    pub fn frame(&mut self, pane: Pane, left: &Line, right: &Line, below: &Line) -> Rect {
        let area = self.area.intersection(self.buf.area);
        if area.width < 2 || area.height < 2 {
            return Rect::default();
        }
        let focused = self.app.layout.focus == pane && self.app.overlay.is_none();
        let style = self
            .theme
            .style(if focused { Role::Focus } else { Role::Border });
        let set = match (self.theme.glyphs, focused) {
            (Glyphs::Unicode, false) => border::PLAIN,
            (Glyphs::Unicode, true) => border::THICK,
            (Glyphs::Ascii, false) => paint::ascii("+", "-"),
            (Glyphs::Ascii, true) => paint::ascii("#", "="),
        };
        let inner = paint::border(self.buf, area, set, style);
        let room = area.width.saturating_sub(4);
        let used = put(self.buf, area.x + 2, area.y, room, left);
        let rest = room.saturating_sub(used + 1);
        let wide = (right.width() as u16).min(rest);
        if wide >= 6 || right.width() as u16 <= wide {
            put(self.buf, area.x + 2 + room - wide, area.y, wide, right);
        }
        put(self.buf, area.x + 2, area.bottom() - 1, room, below);
        inner
    }

    pub fn span(&self, text: impl Into<String>, role: Role) -> Span<'static> {
        Span::styled(text.into(), self.theme.style(role))
    }

    /// A sentence in a role, wrapped to a width.
    pub fn folded(&self, sentence: &str, width: usize, role: Role) -> Vec<Line<'static>> {
        let lines = fold(sentence, width).into_iter();
        lines.map(|l| Line::from(self.span(l, role))).collect()
    }

    /// Draws lines from the top of an area; a line that does not fit is cut with a mark.
    pub fn lines(&mut self, area: Rect, lines: &[Line<'static>]) {
        for (i, line) in lines.iter().take(usize::from(area.height)).enumerate() {
            let y = area.y.saturating_add(i as u16);
            put(self.buf, area.x, y, area.width, line);
        }
    }

    /// The names of all panes that share this place, with the current one marked.
    pub fn title(&self, pane: Pane) -> Line<'static> {
        let app = self.app;
        let mut names: Vec<(String, bool)> = Vec::new();
        let figure = matches!(pane, Pane::Figure(_));
        if figure || self.tabs {
            let one = app.layout.size.0 >= 160 && !self.tabs;
            for instrument in crate::instruments::INSTRUMENTS {
                let here = pane == Pane::Figure(instrument.name());
                if !one || here {
                    names.push((instrument.name().to_string(), here));
                }
            }
        }
        if self.tabs || !figure {
            for (name, other) in [("edits", Pane::Edits), ("cell", Pane::Cell)] {
                if self.tabs || pane == other {
                    names.push((name.to_string(), pane == other));
                }
            }
        }
        // The rest of the line is for the figure's own title.
        let width = usize::from(app.layout.size.0);
        drop_furthest(
            &mut names,
            if self.tabs { width / 2 } else { width * 3 / 10 },
        );
        let focused = app.layout.focus == pane && app.overlay.is_none();
        let mut spans = vec![Span::raw(" ")];
        for (name, here) in names {
            let role = match (here, focused) {
                (true, true) => Role::Focus,
                (true, false) => Role::Title,
                (false, _) => Role::Muted,
            };
            let name = if here && self.tabs {
                format!("[{name}]")
            } else {
                name
            };
            spans.push(self.span(name, role));
            spans.push(Span::raw(" "));
        }
        Line::from(spans)
    }
}

/// Drops the names furthest from the current one until they fit, so that the current one is always visible.
fn drop_furthest(names: &mut Vec<(String, bool)>, room: usize) {
    let columns = |names: &[(String, bool)]| {
        let each = names.iter().map(|(name, _)| text::width(name) + 1);
        each.sum::<usize>()
    };
    while names.len() > 1 && columns(names) > room {
        let here = names.iter().position(|(_, here)| *here).unwrap_or(0);
        if here > names.len() - 1 - here {
            names.remove(0);
        } else {
            names.pop();
        }
    }
}

/// Draws a line in at most `width` columns, with a mark where it is cut; returns the columns used.
pub fn put(buf: &mut Buffer, x: u16, y: u16, width: u16, line: &Line) -> u16 {
    let mut used = 0;
    for span in &line.spans {
        let room = width.saturating_sub(used);
        if room == 0 {
            break;
        }
        let cut = text::clip(&span.content, usize::from(room));
        let style = line.style.patch(span.style);
        let start = x.saturating_add(used);
        let end = paint::joined(buf, (x, start, y), &cut, usize::from(room), style);
        used = end - x;
        if cut.len() < span.content.len() {
            break;
        }
    }
    used
}

/// Wraps a sentence into lines of at most `width` columns.
pub fn fold(sentence: &str, width: usize) -> Vec<String> {
    let mut out = Vec::new();
    for paragraph in sentence.lines() {
        let pieces: Vec<String> = paragraph.split_inclusive(' ').map(str::to_string).collect();
        // In the transcript's wrapping spaces begin a piece; in prose they end it.
        let mut line = String::new();
        for piece in pieces {
            if text::width(&line) + text::width(piece.trim_end()) > width && !line.is_empty() {
                out.push(std::mem::take(&mut line).trim_end().to_string());
            }
            line.push_str(&piece);
            while text::width(line.trim_end()) > width {
                let head = text::clip(&line, width);
                let kept = head.trim_end_matches('…').to_string();
                if kept.is_empty() {
                    break;
                }
                line = line[kept.len()..].to_string();
                out.push(kept);
            }
        }
        out.push(line.trim_end().to_string());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_fold_at_spaces() {
        assert_eq!(fold("one two three", 8), ["one two", "three"]);
        assert_eq!(fold("abcdefghij", 5), ["abcd", "efgh", "ij"]);
        assert_eq!(fold("", 5), Vec::<String>::new());
    }
}
