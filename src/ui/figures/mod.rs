//! Figures on the screen: one file a shape.
//!
//! Invariant: nothing is drawn outside the area, at any size; every cell that can be seen and has an anchor is in
//! the [`Hits`]. To add a shape, add a file here and the arm the compiler asks for.

mod grid;
mod number;
mod table;
mod text;

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

use crate::lab::figure::{Anchor, Body, Figure};
use crate::ui::theme::Theme;

pub use number::{compact, significant};

/// How much a grid cell says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Density {
    /// Token and number.
    #[default]
    Full,
    /// Token; its colour is the number.
    Token,
    /// Colour alone, two rows to a line.
    Colour,
}

impl Density {
    /// One step towards more text.
    #[must_use]
    pub fn more(self) -> Self {
        match self {
            Self::Colour => Self::Token,
            Self::Token | Self::Full => Self::Full,
        }
    }

    /// One step towards more cells.
    #[must_use]
    pub fn less(self) -> Self {
        match self {
            Self::Full => Self::Token,
            Self::Token | Self::Colour => Self::Colour,
        }
    }
}

/// How a figure is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The cell under the cursor; without one, the newest columns show.
    pub cursor: Option<Anchor>,
    /// Whether the pane has the keys; elsewhere the cursor is shown, but not loudly.
    pub focused: bool,
    /// How much a grid cell says.
    pub density: Density,
    /// The figure is older than the edits.
    pub stale: bool,
    /// First row on top, instead of at the bottom.
    pub flip: bool,
    /// The first column drawn, when the cursor allows it: what [`Hits::first_column`] said last time.
    pub first_column: Option<usize>,
    /// The first line drawn of a text, and of a table without a cursor row.
    pub first_line: usize,
}

/// Where things were drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Each place with what it stands for; of two that overlap, the first is meant.
    pub cells: Vec<(Rect, Anchor)>,
    /// The first column drawn of a grid.
    pub first_column: Option<usize>,
}

impl Hits {
    /// What stands at a place on the screen.
    pub fn at(&self, x: u16, y: u16) -> Option<Anchor> {
        self.cells.iter().find(|(rect, _)| rect.contains(Position { x, y })).map(|(_, anchor)| *anchor)
    }
}

/// Draws the body of a figure; its title, notes and check belong to the pane around it.
pub fn draw(figure: &Figure, view: &View, theme: &Theme, area: Rect, buf: &mut Buffer) -> Hits {
    let area = area.intersection(buf.area);
    if area.is_empty() {
        return Hits::default();
    }
    match &figure.body {
        Body::Grid(grid) => grid::draw(grid, view, theme, area, buf),
        Body::Table(table) => table::draw(table, view, theme, area, buf),
        Body::Text(text) => text::draw(text, view, theme, area, buf),
    }
}

/// Whether a title stands for the cursor: all that it names agrees, and it names something.
fn covers(title: Anchor, cursor: Anchor) -> bool {
    let agrees = |a: bool, b: bool| !a || b;
    title != Anchor::default()
        && agrees(title.layer.is_some(), title.layer == cursor.layer)
        && agrees(title.position.is_some(), title.position == cursor.position)
        && agrees(title.unit.is_some(), title.unit == cursor.unit)
}
