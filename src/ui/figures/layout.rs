//! The layout of a grid: cell sizes, and which part of the grid is visible.
//!
//! Invariant: it depends on the area, the density and the cursor, but not on the contents of cells, so that nothing moves while
//! a text grows; the cursor's cell is always visible. To add a density, add its arm to [`FigureLayout::new`].

use ratatui::layout::Rect;

use super::{Density, FigureView, covers};
use crate::figure::{AxisLabel, Grid, Scale};
use crate::ui::theme::Theme;

/// The minimum and maximum width of a token in a cell, in columns.
const TOKEN: usize = 7;
const MOST: usize = 14;
/// The width of a share, in columns.
const SHORT: usize = 3;
/// The maximum width of a row label, in columns.
const LABEL: usize = 10;

/// How the area is divided. All widths are in terminal columns.
pub(super) struct FigureLayout {
    /// Width of the row labels, including the gap after them.
    pub(super) label: usize,
    /// Width of the shade before the token, if colour cannot show the number.
    pub(super) shade: usize,
    /// Width of the token.
    pub(super) token: usize,
    /// Width of the number.
    pub(super) number: usize,
    /// Width of a whole cell; except for the densest ones, it begins with a gap, which holds the cursor's left bracket.
    pub(super) cell: usize,
    /// How many rows of the grid one line of the screen shows.
    pub(super) stack: usize,
    /// Whether there is room for column labels and the legend.
    pub(super) header: bool,
    pub(super) legend: bool,
    /// The visible columns.
    pub(super) columns: std::ops::Range<usize>,
    /// The visible rows, counted from the top.
    pub(super) places: std::ops::Range<usize>,
}

/// The cursor as column and row, the latter counted from the top; each may be absent.
pub(super) fn locate(grid: &Grid, view: &FigureView) -> (Option<usize>, Option<usize>) {
    let Some(cursor) = view.cursor else {
        return (None, None);
    };
    let (columns, rows) = (grid.columns.len(), grid.rows.len());
    if let Some((column, row)) = view.spot.filter(|(c, r)| *c < columns && *r < rows) {
        return (Some(column), Some(flip(row, rows, view.flip)));
    }
    let find = |titles: &[AxisLabel]| {
        titles
            .iter()
            .rposition(|title| covers(title.anchor, cursor))
    };
    (
        find(&grid.columns),
        find(&grid.rows).map(|row| flip(row, grid.rows.len(), view.flip)),
    )
}

/// Converts a row index to its place from the top, and back.
pub(super) fn flip(row: usize, count: usize, flipped: bool) -> usize {
    if flipped {
        row
    } else {
        count.saturating_sub(1).saturating_sub(row)
    }
}

impl FigureLayout {
    pub(super) fn new(
        grid: &Grid,
        view: &FigureView,
        theme: &Theme,
        area: Rect,
        cursor: (Option<usize>, Option<usize>),
    ) -> Self {
        let (wide, high) = (usize::from(area.width), usize::from(area.height));
        let worded = grid
            .cells
            .iter()
            .flatten()
            .any(|cell| !cell.label.is_empty());
        let signed = matches!(grid.scale, Scale::Diverging { .. });
        let dense = view.density == Density::Colour;
        let shade = match (theme.paints(), dense) {
            (true, _) | (_, true) => 0,
            // A number shows its own sign.
            (false, false) => 1 + usize::from(signed && worded && view.density == Density::Token),
        };
        let number = match (view.density, grid.scale) {
            (Density::Colour, _) => 0,
            (Density::Token, _) if worded => 0,
            (_, Scale::Unit) => SHORT,
            (_, Scale::Diverging { reach }) if reach <= 1.0 => 4,
            (_, Scale::Range { .. } | Scale::Diverging { .. } | Scale::Rank { .. }) => 5,
        };
        let several = grid.also.numbers.len() > 1 && number > SHORT;
        let least = match (worded && !dense, several) {
            (false, _) => 0,
            (true, false) => TOKEN,
            // If the user can switch between numbers, cells keep their width; the token gets what a number leaves.
            (true, true) => TOKEN + SHORT - number,
        };
        let cell = if dense { 2 } else { 1 + shade + least + number };
        let stack = if dense && theme.paints() { 2 } else { 1 };

        let titles = grid.title_width().min(LABEL);
        // Labels are dropped if they would be wider than the cells.
        let label = if titles + 1 + cell < wide {
            titles + 1
        } else {
            0
        };
        let header = high >= 2;
        let legend = high >= 4;
        let lines = high - usize::from(header) - usize::from(legend);
        // One more column at the right end, for the cursor's right bracket.
        let room = wide.saturating_sub(label + usize::from(!dense));
        let fits = (room / cell).max(1);
        // Remaining width lengthens the tokens. It depends only on the area, so that cells never move.
        let spare = if least > 0 {
            (room.saturating_sub(fits * cell) / fits).min(MOST - least)
        } else {
            0
        };
        let (token, cell) = (least + spare, cell + spare);
        let newest = grid.columns.len().saturating_sub(1);
        let columns = window(
            grid.columns.len(),
            fits,
            view.first_column,
            cursor.0.or(view.first_column.is_none().then_some(newest)),
        );
        let places = window(grid.rows.len(), lines * stack, None, cursor.1);
        // A line with two rows begins at an even row, so that the pairs do not change while scrolling.
        let start = places.start - places.start % stack;
        Self {
            label,
            shade,
            token,
            number,
            cell,
            stack,
            header,
            legend,
            columns,
            places: start..(start + places.len()).min(grid.rows.len()),
        }
    }

    /// The rows of a grid of so many that are drawn.
    pub(super) fn rows(&self, count: usize, flipped: bool) -> std::ops::Range<usize> {
        if self.places.is_empty() {
            return 0..0;
        }
        let ends = [self.places.start, self.places.end - 1].map(|p| flip(p, count, flipped));
        ends[0].min(ends[1])..ends[0].max(ends[1]) + 1
    }

    /// The column where the cells of a line begin.
    pub(super) fn left(&self, area: Rect) -> usize {
        usize::from(area.x) + self.label
    }
}

/// The visible part of `count` items if `fits` of them fit: it begins at `hint` if that includes the cursor, else the cursor is
/// in the middle. It is filled whenever there are enough items.
fn window(
    count: usize,
    fits: usize,
    hint: Option<usize>,
    cursor: Option<usize>,
) -> std::ops::Range<usize> {
    let fits = fits.min(count);
    let last = count - fits;
    let start = match (cursor, hint) {
        (Some(cursor), Some(hint)) => hint.clamp((cursor + 1).saturating_sub(fits.max(1)), cursor),
        (Some(cursor), None) => cursor.saturating_sub(fits / 2),
        (None, hint) => hint.unwrap_or(0),
    }
    .min(last);
    start..start + fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_stays_where_it_was_while_the_cursor_is_inside() {
        assert_eq!(window(50, 10, Some(20), Some(25)), 20..30);
        assert_eq!(window(50, 10, Some(20), Some(30)), 21..31);
        assert_eq!(window(50, 10, Some(20), Some(19)), 19..29);
        assert_eq!(window(50, 10, None, Some(49)), 40..50);
        assert_eq!(window(50, 10, None, None), 0..10);
        assert_eq!(window(5, 10, Some(3), Some(4)), 0..5);
        assert_eq!(window(0, 10, Some(3), None), 0..0);
    }

    #[test]
    fn rows_that_are_drawn_are_counted_from_the_bottom_unless_the_figure_is_flipped() {
        use crate::figure::{Anchor, Cell};
        let title = |l: usize| AxisLabel::of(l.to_string(), Anchor::layer(l));
        let grid = Grid {
            rows: (0..30).map(title).collect(),
            columns: vec![AxisLabel::of("t", Anchor::position(0))],
            cells: vec![vec![Cell::default(); 30]],
            ..Grid::default()
        };
        let at = |layer: usize, flip: bool| {
            let view = FigureView {
                cursor: Some(Anchor::cell(layer, 0)),
                flip,
                ..FigureView::default()
            };
            // A line of titles, ten of cells, and the legend.
            let area = Rect::new(0, 0, 40, 12);
            let theme = Theme::default();
            let plan = FigureLayout::new(&grid, &view, &theme, area, locate(&grid, &view));
            plan.rows(30, flip)
        };
        assert_eq!(at(29, false), 20..30);
        assert_eq!(at(0, false), 0..10);
        assert_eq!(at(0, true), 0..10);
        assert_eq!(at(29, true), 20..30);
        let middle = at(15, false);
        assert!(middle.len() == 10 && middle.contains(&15));
    }
}
