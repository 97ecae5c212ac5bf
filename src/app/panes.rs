//! Which panes the screen has, how large they are, and which one has the keys.
//!
//! Invariant: sizes follow from the screen, from what the panes hold, and from what the user has changed; see [`super::layout`].

use super::App;
use super::layout::{self, Arrangement, ContentRows, LayoutRequest, Pane};

fn rows(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

impl App {
    /// The areas of all panes; none if the screen is too small.
    pub fn arrangement(&self) -> Option<Arrangement> {
        let rows = if self.layout.divides_by_text() {
            ContentRows {
                text: self.text_rows(),
                edits: self.edit_rows(),
                ..ContentRows::default()
            }
        } else {
            ContentRows {
                cell: self.cell_rows(),
                edits: self.edit_rows(),
                ..ContentRows::default()
            }
        };
        let wish = LayoutRequest {
            rows,
            ..self.layout
        };
        layout::arrange(&wish, self.tour.is_some())
    }

    /// How many rows the text has at the width of the screen; as many as there can be where it is long, or something else is in its place.
    fn text_rows(&self) -> u16 {
        let width = usize::from(self.layout.size.0).saturating_sub(3).max(1);
        let long = self.transcript.tokens.len() > 16 * width;
        if long || self.writing || self.choosing() || self.compare {
            return u16::MAX;
        }
        rows(self.transcript.wrap(width).len() + self.transcript.boundaries.len())
    }

    fn edit_rows(&self) -> u16 {
        let edits = self.history.edits().iter().enumerate();
        let edits = edits.map(|(i, edit)| match (edit.on, i == self.history.selected) {
            (false, _) => 1,
            (true, false) => 3,
            (true, true) => 5,
        });
        rows(edits.sum::<usize>().max(3))
    }

    fn cell_rows(&self) -> u16 {
        rows(self.cell_under_cursor().map_or(3, |cell| {
            let story = if cell.story.is_some() { 2 } else { 0 };
            let bars = cell.more.len() + usize::from(cell.axis.is_some());
            let at = cell
                .anchor
                .position
                .map_or(self.cursor.position, |p| p as usize);
            3 + story + bars + cell.entries.len() + self.transcript.fired_at(at).len()
        }))
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
