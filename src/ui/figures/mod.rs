//! Draws figures on the screen: one file for each shape.
//!
//! Invariant: nothing is drawn outside the area, at any size; every visible cell that has an anchor is in the [`Hits`]. To add
//! a shape, add a file here and the arm the compiler asks for.

mod graph;
mod grid;
mod layout;
mod series;
mod table;
pub mod text;

use std::ops::Range;

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

use crate::figure::{Anchor, Body, Figure};
use crate::ui::theme::Theme;

pub use crate::app::Density;
use crate::app::mark::Mark;
pub use crate::export::number::{compact, significant};

/// How a figure is viewed.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own that the user flips
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FigureView<'a> {
    /// The anchor of the cell under the cursor; without one, the newest columns are visible.
    pub cursor: Option<Anchor>,
    /// Column and row of that cell in a grid, if known: labels may share an anchor, or have none.
    pub spot: Option<(usize, usize)>,
    /// Whether the pane is focused; otherwise the cursor is less prominent.
    pub focused: bool,
    /// How much a grid cell shows.
    pub density: Density,
    /// Whether the figure is outdated.
    pub stale: bool,
    /// Whether the first row is on top, instead of at the bottom.
    pub flip: bool,
    /// Whether rows that say little are folded where not all of them fit.
    pub folded: bool,
    /// The first visible column, if the cursor allows it: [`Hits::first_column`] of the last frame.
    pub first_column: Option<usize>,
    /// How many columns of a table, from the second one on, are scrolled away.
    pub aside: usize,
    /// The column by which a table was sorted, and whether backwards.
    pub sorted: Option<(&'a str, bool)>,
    /// The first visible line of a text, and of a table without a cursor row.
    pub first_line: usize,
    /// The marked units, sorted.
    pub marks: &'a [Mark],
}

impl FigureView<'_> {
    /// Whether the unit of a cell is marked.
    fn marked(&self, anchor: Anchor) -> bool {
        !self.marks.is_empty()
            && Mark::of(anchor).is_some_and(|mark| self.marks.binary_search(&mark).is_ok())
    }
}

/// The places of drawn cells on the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Each place with its anchor; where two overlap, the first counts.
    pub cells: Vec<(Rect, Anchor)>,
    /// The first visible column of a grid.
    pub first_column: Option<usize>,
    /// The rows drawn of a grid.
    pub rows: Option<Range<usize>>,
}

impl Hits {
    /// The anchor at a place on the screen.
    pub fn at(&self, x: u16, y: u16) -> Option<Anchor> {
        self.cells
            .iter()
            .find(|(rect, _)| rect.contains(Position { x, y }))
            .map(|(_, anchor)| *anchor)
    }
}

/// Draws the body of a figure; title, notes and check are drawn by the pane around it.
pub fn draw(
    figure: &Figure,
    view: &FigureView,
    theme: &Theme,
    area: Rect,
    buf: &mut Buffer,
) -> Hits {
    let area = area.intersection(buf.area);
    if area.is_empty() {
        return Hits::default();
    }
    match &figure.body {
        Body::Grid(grid) => grid::draw(grid, view, theme, area, buf),
        Body::Table(table) => table::draw(table, view, theme, area, buf),
        Body::Series(series) => series::draw(series, view, theme, area, buf),
        Body::Graph(graph) => graph::draw(graph, view, theme, area, buf),
        Body::Text(text) => text::draw(text, view, theme, area, buf),
    }
}

/// Whether a label belongs to the cursor: it has an anchor, and all parts of it agree with the cursor.
fn covers(title: Anchor, cursor: Anchor) -> bool {
    let agrees = |a: bool, b: bool| !a || b;
    title != Anchor::default()
        && agrees(title.layer.is_some(), title.layer == cursor.layer)
        && agrees(title.position.is_some(), title.position == cursor.position)
        && agrees(title.unit.is_some(), title.unit == cursor.unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::samples;
    use crate::figure::Unit;
    use crate::ui::theme::Depth;
    use proptest::prelude::*;

    #[test]
    fn a_title_covers_what_it_names_and_nothing_covers_everything() {
        let cursor = Anchor::cell(3, 5).with(Unit::Token(9));
        assert!(covers(Anchor::layer(3), cursor) && covers(Anchor::position(5), cursor));
        assert!(!covers(Anchor::layer(4), cursor));
        assert!(!covers(Anchor::cell(3, 6), cursor));
        assert!(!covers(Anchor::layer(3).with(Unit::Head(9)), cursor));
        assert!(!covers(Anchor::default(), cursor));
    }

    #[test]
    fn density_has_two_ends() {
        assert_eq!(Density::Full.less().less().less(), Density::Colour);
        assert_eq!(Density::Colour.more().more().more(), Density::Full);
    }

    fn views() -> impl Strategy<Value = FigureView<'static>> {
        let cursor = proptest::option::of((0_usize..6, 0_usize..8, 0_u32..30));
        let density = prop_oneof![
            Just(Density::Full),
            Just(Density::Token),
            Just(Density::Colour)
        ];
        (
            cursor,
            density,
            any::<[bool; 3]>(),
            proptest::option::of(0_usize..50),
            0_usize..50,
        )
            .prop_map(
                |(cursor, density, [focused, stale, flip], first_column, first_line)| FigureView {
                    // Any place, inside the grid or outside.
                    spot: first_column.map(|c| (c / 2, first_line / 4)),
                    cursor: cursor.map(|(layer, position, unit)| {
                        Anchor::cell(layer, position).with(Unit::Neuron(unit))
                    }),
                    focused,
                    density,
                    stale,
                    flip,
                    folded: focused != stale,
                    first_column,
                    aside: first_line % 3,
                    sorted: Some(("rank", flip)),
                    first_line,
                    marks: &[],
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn any_size_any_view_and_never_outside(
            view in views(),
            (x, y, wide, high) in (0_u16..6, 0_u16..6, 0_u16..70, 0_u16..20),
            which in 0_usize..12,
            deep: bool,
        ) {
            let figure = &samples::all()[which];
            let theme = Theme::default().adapt(if deep { Depth::True } else { Depth::Ansi16 });
            let mut buf = Buffer::filled(Rect::new(0, 0, 64, 20), ratatui::buffer::Cell::new("x"));
            let area = Rect::new(x, y, wide, high);
            let hits = draw(figure, &view, &theme, area, &mut buf);
            for cy in 0..20 {
                for cx in 0..64 {
                    if !area.contains(Position { x: cx, y: cy }) {
                        prop_assert_eq!(buf[(cx, cy)].symbol(), "x", "at {},{}", cx, cy);
                    }
                }
            }
            for (rect, _) in &hits.cells {
                prop_assert_eq!(rect.intersection(area), *rect);
                prop_assert!(!rect.is_empty());
            }
        }
    }
}
