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
/// The width of the strip with the rank of the answer, and from which width on there is room for it.
const STRIP: usize = 22;
const WITH_STRIP: usize = 62;

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
    /// What each line of the screen shows.
    pub(super) lines: Vec<GridLine>,
    /// Columns at the right for the rank of the answer in the cursor's column.
    pub(super) strip: usize,
}

/// A line of the screen: a row and those stacked with it, or rows that are folded away; places are counted from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GridLine {
    Row(usize),
    Folded(std::ops::Range<usize>),
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
        let dense = view.density == Density::Colour;
        let story = cursor.0.and_then(|column| grid.rank_story(column));
        // Figures whose columns have stories keep the room, so that no cell moves with the cursor.
        let strip =
            if wide >= WITH_STRIP && !dense && (story.is_some() || grid.rank_story(0).is_some()) {
                STRIP
            } else {
                0
            };
        let wide = wide - strip;
        let worded = grid
            .cells
            .iter()
            .flatten()
            .any(|cell| !cell.label.is_empty());
        let signed = matches!(grid.scale, Scale::Diverging { .. });
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
        let places = start..(start + places.len()).min(grid.rows.len());
        let folded = view.folded && stack == 1 && places.len() < grid.rows.len();
        let lines = if folded {
            folded_lines(&changes(grid, view.flip), lines, cursor.1)
        } else {
            places.clone().step_by(stack).map(GridLine::Row).collect()
        };
        let places = if folded { 0..grid.rows.len() } else { places };
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
            places,
            lines,
            strip,
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

/// How much each row of a grid differs from its neighbours, on the scale of the colours, summed over the columns; by place from the top.
fn changes(grid: &Grid, flipped: bool) -> Vec<f32> {
    let count = grid.rows.len();
    let mut out = vec![0.0; count];
    for column in &grid.cells {
        let values: Vec<f32> = column.iter().map(|c| grid.scale.place(c.value)).collect();
        for (below, pair) in values.windows(2).enumerate() {
            let step = (pair[1] - pair[0]).abs();
            if step.is_finite() {
                out[flip(below, count, flipped)] += step;
                out[flip(below + 1, count, flipped)] += step;
            }
        }
    }
    out
}

/// As many rows as fit into so many lines, those first that differ most from their neighbours; the first, the last and the cursor's are
/// always there, and the others are folded, each run of them into a line.
fn folded_lines(changes: &[f32], lines: usize, cursor: Option<usize>) -> Vec<GridLine> {
    let last = changes.len().saturating_sub(1);
    let mut shown = vec![false; changes.len()];
    for place in [Some(0), Some(last), cursor].into_iter().flatten() {
        if let Some(own) = shown.get_mut(place) {
            *own = true;
        }
    }
    let mut order: Vec<usize> = (0..changes.len()).collect();
    order.sort_by(|a, b| changes[*b].total_cmp(&changes[*a]).then(a.cmp(b)));
    for place in order {
        if shown[place] {
            continue;
        }
        shown[place] = true;
        if grid_lines(&shown).len() > lines {
            shown[place] = false;
        }
    }
    let mut out = grid_lines(&shown);
    out.truncate(lines);
    out
}

/// The lines of rows that are shown or not; a single row that is not is shown in the place of its fold.
fn grid_lines(shown: &[bool]) -> Vec<GridLine> {
    let mut out: Vec<GridLine> = Vec::new();
    let mut from = None;
    for place in 0..=shown.len() {
        let visible = shown.get(place).copied().unwrap_or(true);
        if !visible {
            from.get_or_insert(place);
            continue;
        }
        match from.take() {
            Some(start) if place - start == 1 => out.push(GridLine::Row(start)),
            Some(start) => out.push(GridLine::Folded(start..place)),
            None => {}
        }
        if place < shown.len() {
            out.push(GridLine::Row(place));
        }
    }
    out
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
    fn rows_that_change_least_are_folded_and_the_ends_and_the_cursor_never() {
        use GridLine::{Folded, Row};
        let mut changes = vec![0.0; 30];
        changes[6] = 5.0;
        changes[7] = 4.0;
        changes[20] = 1.0;
        let rows = |lines: usize, cursor| folded_lines(&changes, lines, cursor);
        assert_eq!(
            rows(9, None),
            [
                Row(0),
                Row(1),
                Folded(2..6),
                Row(6),
                Row(7),
                Folded(8..20),
                Row(20),
                Folded(21..29),
                Row(29)
            ]
        );
        assert_eq!(
            rows(5, None),
            [Row(0), Folded(1..6), Row(6), Folded(7..29), Row(29)]
        );
        assert!(rows(7, Some(13)).contains(&Row(13)));
        for lines in 0..40 {
            for cursor in [None, Some(0), Some(13), Some(29)] {
                let found = folded_lines(&changes, lines, cursor);
                assert!(found.len() <= lines.max(5), "{lines}");
                let all: usize = found
                    .iter()
                    .map(|line| match line {
                        Row(_) => 1,
                        Folded(rows) => rows.len(),
                    })
                    .sum();
                assert!(lines < 5 || all == 30, "{lines}: {found:?}");
            }
        }
        assert_eq!(folded_lines(&[], 4, Some(2)), []);
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
