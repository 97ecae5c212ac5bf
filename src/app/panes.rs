//! Which panes the screen has, how large they are, and which one has the keys.
//!
//! Invariant: sizes follow from the screen, from what the panes hold, and from what the user has changed; see [`super::layout`].

use super::App;
use super::layout::{self, Arrangement, ContentRows, LayoutRequest, Pane};

impl App {
    /// The areas of all panes; none if the screen is too small.
    pub fn arrangement(&self) -> Option<Arrangement> {
        let wish = LayoutRequest {
            rows: self.content_rows(),
            ..self.layout
        };
        layout::arrange(&wish, self.tour.is_some())
    }

    /// How many rows the contents of the panes have.
    fn content_rows(&self) -> ContentRows {
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        let width = usize::from(self.layout.size.0).saturating_sub(3).max(1);
        // Of a long text it is enough to know that it is long.
        let long = self.transcript.tokens.len() > 16 * width;
        let text = if long || self.writing || self.choosing() || self.compare {
            u16::MAX
        } else {
            count(self.transcript.wrap(width).len() + self.transcript.boundaries.len())
        };
        let edits = self.history.edits().iter().enumerate();
        let edits = edits.map(|(i, edit)| match (edit.on, i == self.history.selected) {
            (false, _) => 1,
            (true, false) => 3,
            (true, true) => 5,
        });
        let edits: usize = edits.sum();
        let cell = self.cell_under_cursor().map_or(3, |cell| {
            let story = if cell.story.is_some() { 2 } else { 0 };
            let bars = cell.more.len() + usize::from(cell.axis.is_some());
            let at = cell
                .anchor
                .position
                .map_or(self.cursor.position, |p| p as usize);
            3 + story + bars + cell.entries.len() + self.transcript.fired_at(at).len()
        });
        ContentRows {
            text,
            cell: count(cell),
            edits: count(edits.max(3)),
        }
    }

    /// The panes in the order of Tab.
    pub fn panes(&self) -> Vec<Pane> {
        layout::order(&self.layout)
    }

    /// Focuses a pane.
    pub fn set_focus(&mut self, pane: Pane) {
        self.layout.focus = pane;
        if pane != Pane::Transcript {
            self.layout.last_side_pane = pane;
        }
        if let Pane::Figure(slot) = pane {
            self.layout.choose(slot);
            if self.difference && self.shown.get(slot).is_some_and(|s| s.difference.is_none()) {
                self.difference = false;
            }
        }
    }
}
