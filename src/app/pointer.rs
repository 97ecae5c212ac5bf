//! The mouse: a click puts the cursor where it points or switches an edit, the wheel moves, a border is dragged.
//!
//! Invariant: it does nothing that keys do not, and nothing while an overlay or the prompt has them. What stands where is said by the part that
//! draws, in [`Pointer::what`]. To let it point at something else, add a variant of [`PointedAt`].

use super::commands::edits::toggle_number;
use super::cursor::{CursorMove, FigureCell};
use super::layout::{Area, Pane};
use super::{App, Effect};
use crate::engine::PaneName;
use crate::figure::Anchor;

/// What the mouse did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointerMove {
    Press,
    /// It was moved with the button held.
    Drag,
    Release,
    WheelUp,
    WheelDown,
}

/// What is drawn where the mouse is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PointedAt {
    #[default]
    Nothing,
    /// A token of the text, by position.
    Token(usize),
    /// A cell of a figure.
    Cell(PaneName, Anchor),
    /// An edit by its index, and whether it is its switch.
    Edit(usize, bool),
}

/// An event of the mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    pub how: PointerMove,
    /// Column and row, from 0.
    pub at: (u16, u16),
    pub what: PointedAt,
}

/// A border that can be dragged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Border {
    /// Between the text's side and the figures.
    Side,
    /// Below the text.
    Text,
}

impl App {
    pub(super) fn point(&mut self, pointer: Pointer) -> Vec<Effect> {
        if self.overlay.is_some() || self.writing || !self.settings.mouse {
            return Vec::new();
        }
        match pointer.how {
            PointerMove::Press => self.press_at(pointer),
            PointerMove::Drag => {
                self.drag(pointer.at);
                Vec::new()
            }
            PointerMove::Release => {
                self.dragged = None;
                Vec::new()
            }
            PointerMove::WheelUp => self.wheel(pointer, CursorMove::Up),
            PointerMove::WheelDown => self.wheel(pointer, CursorMove::Down),
        }
    }

    fn pane_at(&self, at: (u16, u16)) -> Option<Pane> {
        let arrangement = self.arrangement()?;
        let holds = |area: &Area| {
            (area.x..area.x + area.width).contains(&at.0)
                && (area.y..area.y + area.height).contains(&at.1)
        };
        let found = arrangement.panes.iter().find(|(_, area)| holds(area));
        found.map(|(pane, _)| *pane)
    }

    fn border_at(&self, (x, y): (u16, u16)) -> Option<Border> {
        let arrangement = self.arrangement()?;
        let text = arrangement.area(Pane::Transcript)?;
        let (right, bottom) = (text.x + text.width, text.y + text.height);
        let starts = |fits: &dyn Fn(&Area) -> bool| arrangement.panes.iter().any(|(_, a)| fits(a));
        if (x == right || x + 1 == right) && starts(&|area| area.x == right) {
            return Some(Border::Side);
        }
        let within = (text.x..right).contains(&x) && (y == bottom || y + 1 == bottom);
        let below = starts(&|area: &Area| area.y == bottom && area.x == text.x);
        (within && below).then_some(Border::Text)
    }

    fn press_at(&mut self, pointer: Pointer) -> Vec<Effect> {
        self.dragged = self
            .border_at(pointer.at)
            .map(|border| (border, pointer.at));
        if self.dragged.is_some() {
            return Vec::new();
        }
        if let Some(pane) = self.pane_at(pointer.at) {
            self.set_focus(pane);
        }
        match pointer.what {
            PointedAt::Nothing => {}
            PointedAt::Token(position) => {
                self.cursor.follow = false;
                self.cursor.at_run_start = false;
                self.cursor.position = position;
            }
            PointedAt::Cell(slot, anchor) => {
                // The cell is found by what it is about.
                self.change_figure(slot, |shown| shown.spot = FigureCell::default());
                self.cursor.at_run_start = false;
                self.cursor.follow &= anchor.position.is_none();
                self.point_at(anchor);
            }
            PointedAt::Edit(index, switch) => {
                self.history.selected = index.min(self.history.edits().len().saturating_sub(1));
                if switch {
                    let outcome = toggle_number(self, index + 1);
                    return self.settle(outcome);
                }
            }
        }
        Vec::new()
    }

    fn drag(&mut self, at: (u16, u16)) {
        let Some((border, from)) = self.dragged else {
            return;
        };
        let by = |to: u16, from: u16| (i32::from(to) - i32::from(from)) as i16;
        let before = (self.layout.resized, self.arrangement());
        self.layout.resized = match border {
            Border::Side => before.0.by(by(at.0, from.0), 0),
            Border::Text => before.0.by(0, by(at.1, from.1)),
        };
        if self.arrangement() == before.1 {
            // The border is as far as it goes, and waits there for the mouse.
            self.layout.resized = before.0;
        } else {
            self.dragged = Some((border, at));
        }
    }

    /// Moves in the pane under the mouse, whichever has the keys.
    fn wheel(&mut self, pointer: Pointer, step: CursorMove) -> Vec<Effect> {
        let focus = (self.layout.focus, self.layout.figure);
        let Some(pane) = self.pane_at(pointer.at) else {
            return Vec::new();
        };
        self.layout.focus = pane;
        if let Pane::Figure(slot) = pane {
            self.layout.figure = slot;
        }
        let effects = self.move_cursor(step);
        (self.layout.focus, self.layout.figure) = focus;
        effects
    }
}
