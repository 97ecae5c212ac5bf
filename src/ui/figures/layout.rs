//! How a grid is cut up: what fits, and which part of it shows.
//!
//! Invariant: it depends on the area, the density and the cursor, not on what cells say, so that nothing moves while
//! text grows; the cursor's cell is always part of it. To add a density, add its arm to [`FigureLayout::new`].

use ratatui::layout::Rect;

use super::{Density, FigureView, covers};
use crate::figure::{AxisLabel, Grid, Scale};
use crate::ui::theme::Theme;

/// Columns of a token in a cell, at least and at most.
const TOKEN: usize = 7;
const MOST: usize = 14;
/// Columns of a share.
const SHORT: usize = 3;
/// Longest row title.
const LABEL: usize = 10;

/// How the area is cut up.
pub(super) struct FigureLayout {
    /// Columns of the row titles, with the gap after them.
    pub(super) label: usize,
    /// Columns of the shade before the token, where colour cannot show the number.
    pub(super) shade: usize,
    /// Columns of the token.
    pub(super) token: usize,
    /// Columns of the number.
    pub(super) number: usize,
    /// Columns of a whole cell; all but the densest begin with a gap, which holds the cursor's left bracket.
    pub(super) cell: usize,
    /// Rows of the grid in one line of the screen.
    pub(super) stack: usize,
    /// Whether column titles and the legend have room.
    pub(super) header: bool,
    pub(super) legend: bool,
    /// Grid columns drawn.
    pub(super) columns: std::ops::Range<usize>,
    /// Grid rows drawn, as places from the top.
    pub(super) places: std::ops::Range<usize>,
}

/// The cursor as (column, place from the top); each may be missing.
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

/// Turns a row into its place from the top, and back.
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
            // Where one number takes the place of another, cells keep their width; the token has what a number leaves.
            (true, true) => TOKEN + SHORT - number,
        };
        let cell = if dense { 2 } else { 1 + shade + least + number };
        let stack = if dense && theme.paints() { 2 } else { 1 };

        let titles = grid.title_width().min(LABEL);
        // Titles go when there would be more title than cell.
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
        // What is left over lengthens the tokens; this depends on the area alone, so that cells never move.
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
        // A line holds two rows from an even place on, so that pairs do not change while scrolling.
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

    /// Where the cells of a line begin.
    pub(super) fn left(&self, area: Rect) -> usize {
        usize::from(area.x) + self.label
    }
}

/// The part of `count` things to show when `fits` do: it begins at `hint` if the cursor allows it, else with the
/// cursor in the middle; it is full whenever there are enough things.
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
}
