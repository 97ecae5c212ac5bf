//! The shared cursor, and the cell under it in any figure.
//!
//! Invariant: a cell that is found in a figure exists in it. All panes follow one anchor: layer, position, unit; a figure whose
//! rows or columns are something else has an additional spot of its own.
//! To add a way to move, add a variant of [`CursorMove`].

use serde::{Deserialize, Serialize};

use crate::export::number::spelled;
use crate::figure::cell_details::RankStory;
use crate::figure::graph::EdgeEnd;
use crate::figure::graph::walk::{GraphPlace, GraphWalk};
use crate::figure::{
    Anchor, Body, Entry, FeatureHandle, Figure, Graph, GraphEdge, Grid, Scale, Series, Style,
    Table, TablePage, TableRow, Unit, positions,
};

/// The cursor that all panes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cursor {
    /// The block.
    pub layer: usize,
    /// The token position.
    pub position: usize,
    /// The neuron, head, token or feature that was chosen last.
    pub unit: Option<Unit>,
    /// Whether it follows the newest token.
    pub follow: bool,
    /// Whether it is where the start of a run put it, on the position that predicted the first generated token. Panes then also
    /// show as much as possible of what was generated since.
    pub at_run_start: bool,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            layer: 0,
            position: 0,
            unit: None,
            follow: true,
            at_run_start: false,
        }
    }
}

impl Cursor {
    /// The cursor as an anchor.
    pub fn anchor(self) -> Anchor {
        Anchor {
            unit: self.unit,
            ..Anchor::cell(self.layer, self.position)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorMove {
    Left,
    Right,
    Up,
    Down,
    First,
    Last,
    /// One page up.
    PageUp,
    /// One page down.
    PageDown,
}

/// A cell of a figure by row and column; in a table the column is the index of the page, in a graph the row is the index of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FigureCell {
    pub row: usize,
    /// The column of a grid, or the page of a table; in a graph one more than the index of the edge that led there, or 0; 0 in a text.
    pub column: usize,
}

/// The content of one cell of a figure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CellUnderCursor {
    /// The layer, position and unit that the cell is about.
    pub anchor: Anchor,
    /// The label of its column or page: for positions, the token.
    pub column: String,
    /// The text of the cell.
    pub label: String,
    /// The name of the cell's number, and the number.
    pub value: Option<(String, f32)>,
    /// The top candidates with their numbers.
    pub more: Vec<(String, f32)>,
    /// The name of the candidates' numbers and the range for their bars; none if the numbers are of different kinds.
    pub axis: Option<(String, (f32, f32))>,
    /// The ranks of a token along the layers of the column, and the index of the cell's layer.
    pub story: Option<(RankStory, usize)>,
    /// The scale that decides how the number is formatted.
    pub scale: Option<Scale>,
    /// Named entries of a table row.
    pub entries: Vec<(String, String)>,
    /// The feature that a table row is about.
    pub handle: Option<FeatureHandle>,
}

/// The cell of a figure that corresponds to the cursor; `spot` decides what the anchor leaves open.
pub fn locate(figure: &Figure, cursor: Cursor, spot: FigureCell) -> Option<FigureCell> {
    match &figure.body {
        Body::Grid(grid) => locate_grid(grid, cursor, spot),
        Body::Table(table) => locate_table(table, cursor, spot),
        Body::Series(series) => locate_series(series, cursor, spot),
        Body::Graph(graph) => {
            let place = graph.nearest(place_of(spot), cursor.layer, cursor.unit)?;
            Some(cell_of(place))
        }
        Body::Text(text) => (!text.lines.is_empty()).then(|| FigureCell {
            row: spot.row.min(text.lines.len() - 1),
            column: 0,
        }),
    }
}

/// The index of the anchor nearest to `wanted`. Among equally near ones (several directions of one layer, several strengths at
/// one position) it is `held`, if that is one of them, else the first.
fn nearest(
    anchors: impl Iterator<Item = Option<usize>>,
    wanted: usize,
    held: usize,
) -> Option<usize> {
    anchors
        .enumerate()
        .filter_map(|(i, a)| Some((a?.abs_diff(wanted), i != held, i)))
        .min()
        .map(|(.., i)| i)
}

fn place(anchor: Anchor) -> Option<usize> {
    anchor.position.map(|p| p as usize)
}

fn locate_grid(grid: &Grid, cursor: Cursor, spot: FigureCell) -> Option<FigureCell> {
    let last = FigureCell {
        row: grid.rows.len().checked_sub(1)?,
        column: grid.columns.len().checked_sub(1)?,
    };
    let layers = grid.rows.iter().map(|h| h.anchor.layer.map(usize::from));
    let positions = grid.columns.iter().map(|h| place(h.anchor));
    let row = nearest(layers, cursor.layer, spot.row).unwrap_or(spot.row);
    let column = nearest(positions, cursor.position, spot.column).unwrap_or(spot.column);
    let found = FigureCell {
        row: row.min(last.row),
        column: column.min(last.column),
    };
    grid.cells.get(found.column)?.get(found.row).map(|_| found)
}

fn locate_table(table: &Table, cursor: Cursor, spot: FigureCell) -> Option<FigureCell> {
    let last = table.pages.len().checked_sub(1)?;
    let positions = table.pages.iter().map(|p| place(p.anchor));
    let column = nearest(positions, cursor.position, spot.column).unwrap_or(spot.column);
    let column = column.min(last);
    let rows = &table.pages.get(column)?.rows;
    let plain = rows.iter().all(|r| r.anchor.unit.is_none());
    let mut positions: Vec<_> = rows.iter().map(|r| r.anchor.position).collect();
    positions.dedup();
    let moving = positions.len() > 1 && positions.iter().all(Option::is_some);
    // Three kinds of table: if rows have positions of the text, find the nearest position, then layer; if every row has a
    // layer, find the nearest layer; otherwise rows are a ranking, and the row stays.
    let row = if plain && moving {
        let away = |(i, row): (usize, &TableRow)| {
            let anchor = row.anchor;
            let position = (anchor.position? as usize).abs_diff(cursor.position);
            let layer = anchor
                .layer
                .map_or(0, |l| usize::from(l).abs_diff(cursor.layer));
            Some((position, layer, i != spot.row, i))
        };
        let found = rows.iter().enumerate().filter_map(away).min();
        found.map_or(spot.row, |(.., i)| i)
    } else if plain && rows.iter().all(|r| r.anchor.layer.is_some()) {
        let layers = rows.iter().map(|r| r.anchor.layer.map(usize::from));
        nearest(layers, cursor.layer, spot.row).unwrap_or(spot.row)
    } else {
        spot.row
    };
    Some(FigureCell {
        row: row.min(rows.len().checked_sub(1)?),
        column,
    })
}

/// The point nearest to the cursor on the nearest curve; indices that the anchors do not decide stay.
fn locate_series(series: &Series, cursor: Cursor, spot: FigureCell) -> Option<FigureCell> {
    let last = FigureCell {
        row: series.curves.len().checked_sub(1)?,
        column: series.points.len().checked_sub(1)?,
    };
    let row = nearest_index(series.curves.iter().map(|c| c.anchor), cursor, spot.row);
    let column = nearest_index(series.points.iter().map(|p| p.anchor), cursor, spot.column);
    Some(FigureCell {
        row: row.min(last.row),
        column: column.min(last.column),
    })
}

/// The index nearest by layer if any anchor has a layer, else by position. If the held anchor has neither (the embedding among
/// blocks), the index stays.
fn nearest_index(
    anchors: impl Iterator<Item = Anchor> + Clone,
    cursor: Cursor,
    held: usize,
) -> usize {
    let layers = anchors.clone().map(|a| a.layer.map(usize::from));
    let positions = anchors.map(place);
    let (mut titles, wanted) = if layers.clone().any(|l| l.is_some()) {
        (layers.collect::<Vec<_>>(), cursor.layer)
    } else {
        (positions.collect(), cursor.position)
    };
    if titles.get(held).is_some_and(Option::is_none) {
        return held;
    }
    nearest(titles.drain(..), wanted, held).unwrap_or(held)
}

/// The place in a graph that a cell stands for: its node, and the edge that led there.
fn place_of(cell: FigureCell) -> GraphPlace {
    GraphPlace {
        node: cell.row,
        edge: cell.column.checked_sub(1),
    }
}

fn cell_of(place: GraphPlace) -> FigureCell {
    FigureCell {
        row: place.node,
        column: place.edge.map_or(0, |edge| edge + 1),
    }
}

/// A node with its edges, the strongest first.
fn read_node(graph: &Graph, node: usize) -> Option<CellUnderCursor> {
    let own = graph.nodes.get(node)?;
    let ends = [EdgeEnd::OutOf, EdgeEnd::Into].map(|end| graph.at(node, end));
    let mut edges = ends.concat();
    edges.sort_by(|a, b| {
        let (a, b) = (&graph.edges[*a], &graph.edges[*b]);
        b.strength().total_cmp(&a.strength())
    });
    let name = |edge: &GraphEdge| {
        if edge.from == node {
            format!("to {}", graph.into_label(edge))
        } else if edge.part.is_empty() {
            format!("from {}", graph.label(edge.from))
        } else {
            format!("<{}> from {}", edge.part, graph.label(edge.from))
        }
    };
    let more: Vec<(String, f32)> = edges
        .iter()
        .map(|edge| (name(&graph.edges[*edge]), graph.edges[*edge].weight))
        .collect();
    let most = more.iter().map(|(_, weight)| weight.abs());
    let most = most
        .filter(|weight| weight.is_finite())
        .fold(1e-6, f32::max);
    let signed = more.iter().any(|(_, weight)| *weight < 0.0);
    let lowest = if signed { -most } else { 0.0 };
    let count = |of: &[usize]| of.len().to_string();
    Some(CellUnderCursor {
        anchor: own.anchor,
        column: graph
            .rows
            .get(own.row)
            .map_or_else(String::new, |row| row.label.clone()),
        label: own.label.clone(),
        axis: Some((graph.weight.clone(), (lowest, most))),
        more,
        entries: vec![
            ("node".into(), own.label.clone()),
            ("edges in".into(), count(&ends[1])),
            ("edges out".into(), count(&ends[0])),
        ],
        ..CellUnderCursor::default()
    })
}

/// The content of a cell.
pub fn read(figure: &Figure, spot: FigureCell) -> Option<CellUnderCursor> {
    match &figure.body {
        Body::Grid(grid) => {
            let cell = grid.cells.get(spot.column)?.get(spot.row)?;
            let (row, column) = (grid.rows.get(spot.row), grid.columns.get(spot.column));
            let mut anchor = cell.anchor;
            anchor.layer = anchor.layer.or(row.and_then(|h| h.anchor.layer));
            anchor.position = anchor.position.or(column.and_then(|h| h.anchor.position));
            let layer = anchor.layer.map(usize::from);
            let story = grid.rank_story(spot.column).cloned().zip(layer);
            Some(CellUnderCursor {
                anchor,
                column: column.map_or_else(String::new, |h| h.label.clone()),
                label: cell.label.clone(),
                value: Some((grid.value.clone(), cell.value)),
                axis: candidates(grid, spot),
                more: cell.more.clone(),
                scale: Some(grid.scale),
                story,
                ..CellUnderCursor::default()
            })
        }
        Body::Table(table) => {
            let page = table.pages.get(spot.column)?;
            let row = page.rows.get(spot.row)?;
            let mut anchor = row.anchor;
            anchor.position = anchor.position.or(page.anchor.position);
            // Whole numbers may be ids, of which every digit counts.
            let spelled = |(i, entry): (usize, &Entry)| match entry {
                Entry::Number(n) if page.is_whole(i) => format!("{n:.0}"),
                Entry::Whole(_) | Entry::Number(_) | Entry::Missing | Entry::Text(_) => {
                    spell(entry)
                }
            };
            let entries = row.entries.iter().enumerate().map(spelled);
            Some(CellUnderCursor {
                anchor,
                column: page.title.clone(),
                label: entries.clone().next().unwrap_or_default(),
                entries: table.columns.iter().cloned().zip(entries).collect(),
                handle: row.handle.clone(),
                ..CellUnderCursor::default()
            })
        }
        Body::Series(series) => {
            let point = series.points.get(spot.column)?;
            series.curves.get(spot.row)?;
            // The values of all curves at this point, the selected one first; the cell pane shows them as bars.
            let mut more: Vec<(String, f32)> = (0..series.curves.len())
                .filter_map(|curve| {
                    let value = series.value(curve, spot.column)?;
                    Some((series.curves[curve].label.clone(), value))
                })
                .collect();
            let chosen = series.value(spot.row, spot.column);
            if chosen.is_some() {
                let before = (0..spot.row)
                    .filter(|curve| series.value(*curve, spot.column).is_some())
                    .count();
                more[..=before].rotate_right(1);
            }
            Some(CellUnderCursor {
                anchor: series.anchor(spot.row, spot.column),
                column: point.label.clone(),
                axis: Some((series.value.clone(), series.value_range(spot.row))),
                scale: Some(series.scale),
                label: point.label.clone(),
                value: chosen.map(|v| (series.value.clone(), v)),
                more,
                ..CellUnderCursor::default()
            })
        }
        Body::Graph(graph) => read_node(graph, spot.row),
        Body::Text(text) => Some(CellUnderCursor {
            label: text.lines.get(spot.row)?.clone(),
            ..CellUnderCursor::default()
        }),
    }
}

/// The name and range of the numbers of a cell's candidates, if they are all of one kind: that of the grid, or another.
fn candidates(grid: &Grid, spot: FigureCell) -> Option<(String, (f32, f32))> {
    if let Some(name) = &grid.also.candidates {
        return Some((name.clone(), Scale::Unit.ends()));
    }
    let cell = grid.cells.get(spot.column)?.get(spot.row)?;
    let (name, value) = cell.more.first()?;
    let own = *name == cell.label && value.to_bits() == cell.value.to_bits();
    own.then(|| (grid.value.clone(), grid.scale.ends()))
}

/// The first and the last position of the text in a figure; none if its columns, pages or points are not positions.
pub fn holds(figure: &Figure) -> Option<(usize, usize)> {
    let ends = match &figure.body {
        Body::Grid(grid) => positions(grid.columns.iter().map(|h| h.anchor)),
        Body::Table(table) => positions(table.pages.iter().map(|p| p.anchor)),
        Body::Series(series) => positions(series.points.iter().map(|p| p.anchor)),
        Body::Graph(_) | Body::Text(_) => None,
    };
    ends.map(|(lo, hi)| (lo as usize, hi as usize))
}

/// A number formatted for its scale.
pub fn spell_scaled(scale: Option<Scale>, value: f32) -> String {
    match scale {
        Some(scale @ Scale::Rank { .. }) => spelled(scale, value),
        Some(Scale::Unit | Scale::Range { .. } | Scale::Diverging { .. }) | None => number(value),
    }
}

/// An entry of a table as text.
pub fn spell(entry: &Entry) -> String {
    match entry {
        Entry::Whole(n) => n.to_string(),
        Entry::Number(n) => number(*n),
        Entry::Missing => String::new(),
        Entry::Text(text) => text.clone(),
    }
}

/// A number with about three significant digits.
pub fn number(n: f32) -> String {
    let size = n.abs();
    if n == 0.0 || !n.is_finite() {
        format!("{n}")
    } else if !(0.001..1000.0).contains(&size) {
        format!("{n:.1e}")
    } else if size >= 100.0 {
        format!("{n:.0}")
    } else if size >= 10.0 {
        format!("{n:.1}")
    } else if size >= 1.0 {
        format!("{n:.2}")
    } else {
        format!("{n:.3}")
    }
}

/// The cell to which a move leads within a figure. `page` is the length of a page in rows; `flipped` tells whether grids have
/// row 0 on top.
pub fn step(
    figure: &Figure,
    from: FigureCell,
    step: CursorMove,
    page: usize,
    flipped: bool,
) -> FigureCell {
    if let Body::Series(series) = &figure.body
        && series.style != Style::Lines
    {
        return step_bars(series, from, step, page);
    }
    let (rows, columns, downward) = match &figure.body {
        Body::Grid(grid) => (grid.rows.len(), grid.columns.len(), flipped),
        Body::Table(table) => (
            table.pages.get(from.column).map_or(0, |p| p.rows.len()),
            table.pages.len(),
            // Layers are ordered as in grids, with the last on top.
            flipped
                || !table
                    .pages
                    .get(from.column)
                    .is_some_and(TablePage::by_layer),
        ),
        Body::Series(series) => (series.curves.len(), series.points.len(), true),
        Body::Graph(graph) => return step_graph(graph, from, step, flipped),
        Body::Text(text) => (text.lines.len(), 1, true),
    };
    let (last_row, last_column) = (rows.saturating_sub(1), columns.saturating_sub(1));
    let FigureCell { row, column } = from;
    let (row, column) = match step {
        CursorMove::Left => (row, column.saturating_sub(1)),
        CursorMove::Right => (row, (column + 1).min(last_column)),
        CursorMove::First => (row, 0),
        CursorMove::Last => (row, last_column),
        CursorMove::Up | CursorMove::Down | CursorMove::PageUp | CursorMove::PageDown => {
            let pages = matches!(step, CursorMove::PageUp | CursorMove::PageDown);
            let by = if pages { page } else { 1 };
            let row = if matches!(step, CursorMove::Up | CursorMove::PageUp) == downward {
                row.saturating_sub(by)
            } else {
                (row + by).min(last_row)
            };
            (row, column)
        }
    };
    FigureCell { row, column }
}

/// Bars are drawn below each other, so up and down move over points, and left and right over curves.
fn step_bars(series: &Series, from: FigureCell, step: CursorMove, page: usize) -> FigureCell {
    let last = series.points.len().saturating_sub(1);
    let (row, column) = (from.row, from.column);
    let (row, column) = match step {
        CursorMove::Up => (row, column.saturating_sub(1)),
        CursorMove::Down => (row, (column + 1).min(last)),
        CursorMove::PageUp => (row, column.saturating_sub(page)),
        CursorMove::PageDown => (row, (column + page).min(last)),
        CursorMove::First => (row, 0),
        CursorMove::Last => (row, last),
        CursorMove::Left => (row.saturating_sub(1), column),
        CursorMove::Right => ((row + 1).min(series.curves.len().saturating_sub(1)), column),
    };
    FigureCell { row, column }
}

/// Up is along an edge towards the row on top, sideways among the edges that might have been taken instead. Pages are steps of pruning,
/// which the figure has and not the cursor.
fn step_graph(graph: &Graph, from: FigureCell, step: CursorMove, flipped: bool) -> FigureCell {
    let walk = match (step, flipped) {
        (CursorMove::Up, false) | (CursorMove::Down, true) => GraphWalk::On,
        (CursorMove::Down, false) | (CursorMove::Up, true) => GraphWalk::Back,
        (CursorMove::Left, _) => GraphWalk::Stronger,
        (CursorMove::Right, _) => GraphWalk::Weaker,
        (CursorMove::First, _) => GraphWalk::First,
        (CursorMove::Last, _) => GraphWalk::Last,
        (CursorMove::PageUp | CursorMove::PageDown, _) => return from,
    };
    cell_of(graph.walk(place_of(from), walk))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::figure::{AxisLabel, Cell, Provenance};

    fn figure(body: Body) -> Figure {
        Figure {
            title: "t".into(),
            body,
            notes: vec![],
            check: None,
            provenance: Provenance::default(),
        }
    }

    /// Several directions have the anchor of their common layer, and strengths have none: the spot tells them apart.
    #[test]
    fn titles_that_share_an_anchor_are_told_apart_by_the_spot() {
        let mut figure = grid();
        let Body::Grid(grid) = &mut figure.body else {
            return;
        };
        grid.rows
            .iter_mut()
            .for_each(|h| h.anchor = Anchor::layer(1));
        grid.columns
            .iter_mut()
            .for_each(|h| h.anchor = Anchor::default());
        let cursor = Cursor {
            layer: 1,
            position: 9,
            ..Cursor::default()
        };
        for held in [(0, 3), (1, 0), (2, 2)] {
            let held = FigureCell {
                row: held.0,
                column: held.1,
            };
            assert_eq!(locate(&figure, cursor, held), Some(held));
        }
    }

    fn grid() -> Figure {
        let cell = |l, p| Cell {
            label: format!("{l}.{p}"),
            value: 0.5,
            anchor: Anchor::cell(l, p),
            more: vec![],
            ids: vec![],
        };
        figure(Body::Grid(Grid {
            opening: None,
            also: crate::figure::cell_details::CellDetails::default(),
            row_axis: "layer".into(),
            column_axis: "position".into(),
            value: "p".into(),
            rows: (0..3)
                .map(|l| AxisLabel {
                    label: l.to_string(),
                    anchor: Anchor::layer(l),
                })
                .collect(),
            columns: (2..6)
                .map(|p| AxisLabel {
                    label: p.to_string(),
                    anchor: Anchor::position(p),
                })
                .collect(),
            cells: (2..6)
                .map(|p| (0..3).map(|l| cell(l, p)).collect())
                .collect(),
            scale: Scale::Unit,
        }))
    }

    #[test]
    fn the_cursor_is_found_by_anchor() {
        let at = |layer, position| {
            locate(
                &grid(),
                Cursor {
                    layer,
                    position,
                    ..Cursor::default()
                },
                FigureCell::default(),
            )
            .unwrap()
        };
        assert_eq!(at(1, 4), FigureCell { row: 1, column: 2 });
        assert_eq!(
            at(9, 0),
            FigureCell { row: 2, column: 0 },
            "the nearest that exists"
        );
        assert_eq!(read(&grid(), at(1, 4)).unwrap().label, "1.4");
    }

    #[test]
    fn grids_have_the_top_layer_on_top() {
        let spot = FigureCell { row: 1, column: 1 };
        assert_eq!(step(&grid(), spot, CursorMove::Up, 5, false).row, 2);
        assert_eq!(step(&grid(), spot, CursorMove::Up, 5, true).row, 0);
        assert_eq!(step(&grid(), spot, CursorMove::PageDown, 5, false).row, 0);
        assert_eq!(step(&grid(), spot, CursorMove::Last, 5, false).column, 3);
    }

    #[test]
    fn a_page_belongs_to_a_position() {
        let row = |n| TableRow {
            anchor: Anchor::layer(n).with(Unit::Neuron(7)),
            entries: vec![Entry::Text("L".into()), Entry::Number(1.234)],
            handle: None,
            ids: std::collections::BTreeMap::new(),
        };
        let page = |p| TablePage {
            title: "p".into(),
            anchor: Anchor::position(p),
            rows: vec![row(0), row(1)],
        };
        let table = figure(Body::Table(Table {
            columns: vec!["a".into(), "b".into()],
            pages: vec![page(0), page(1)],
        }));
        let spot = locate(
            &table,
            Cursor {
                position: 1,
                ..Cursor::default()
            },
            FigureCell { row: 9, column: 0 },
        )
        .unwrap();
        assert_eq!(spot, FigureCell { row: 1, column: 1 });
        let reading = read(&table, spot).unwrap();
        assert_eq!(reading.anchor.position, Some(1));
        assert_eq!(reading.entries[1], ("b".to_string(), "1.23".to_string()));
    }

    /// If rows are positions, the row is the cursor's position, whatever the row's layer.
    #[test]
    fn rows_of_positions_follow_the_position() {
        let row = |anchor| TableRow {
            anchor,
            entries: vec![],
            handle: None,
            ids: std::collections::BTreeMap::new(),
        };
        // The convergence layers of positions 3 to 6; the third position has none, and the last has two rows.
        let anchors = [
            Anchor::cell(5, 3),
            Anchor::cell(1, 4),
            Anchor::position(5),
            Anchor::cell(0, 6),
            Anchor::cell(5, 6),
        ];
        let settle = figure(Body::Table(Table {
            columns: vec![],
            pages: vec![TablePage {
                title: String::new(),
                anchor: Anchor::default(),
                rows: anchors.map(row).to_vec(),
            }],
        }));
        let at = |layer, position, held| {
            let cursor = Cursor {
                layer,
                position,
                ..Cursor::default()
            };
            let held = FigureCell {
                row: held,
                column: 0,
            };
            locate(&settle, cursor, held).unwrap().row
        };
        assert_eq!(at(5, 4, 0), 1, "layer 5 is at other positions");
        assert_eq!(at(5, 5, 0), 2, "a position without a layer");
        assert_eq!(at(0, 0, 3), 0, "the nearest");
        assert_eq!((at(4, 17, 0), at(1, 17, 4)), (4, 3), "then the layer");
    }

    #[test]
    fn empty_figures_have_no_places() {
        let empty = figure(Body::Table(Table {
            columns: vec![],
            pages: vec![],
        }));
        assert_eq!(
            locate(&empty, Cursor::default(), FigureCell::default()),
            None
        );
    }
}
