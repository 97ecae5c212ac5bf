//! The nodes of a graph in rows, with lines for its edges.
//!
//! Rows without a node are left out. Columns stand below each other where they fit; where they do not, a row keeps their order alone.
//! Of the edges of other nodes the strongest are drawn, as many as there is room for.
//! Invariant: the lines of the node under the cursor are drawn over the others, and dashed where the weight is negative. To place nodes in
//! another way, change [`places`].

use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::widgets::canvas::{Canvas, Line};

use super::GraphPainter;
use crate::figure::graph::EdgeEnd;
use crate::text::{clip, width};
use crate::ui::paint;
use crate::ui::theme::{Glyphs, Role};
use crate::ui::widgets::scroll;

/// The longest label of a node or row, in columns.
const LABEL: usize = 10;
/// The most lines from one row to the next.
const APART: usize = 5;
/// How many cells of the screen there are for each edge that is not the node's own.
const CELLS: usize = 60;
/// The length of a dash, in dots.
const DASH: f64 = 3.0;

/// Where a node is: its first column and its line, on the screen, and its width.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    x: u16,
    y: u16,
    wide: u16,
}

impl GraphPainter<'_> {
    /// Draws the rows of nodes into an area.
    pub(super) fn rows(&mut self, area: Rect) {
        let mut rows: Vec<usize> = (0..self.present.len())
            .filter(|node| self.present[*node])
            .map(|node| self.graph.nodes[node].row)
            .collect();
        rows.sort_unstable();
        rows.dedup();
        // From the top down.
        if !self.view.flip {
            rows.reverse();
        }
        let high = usize::from(area.height);
        let own = self.graph.nodes[self.node].row;
        let chosen = rows.iter().position(|row| *row == own).unwrap_or(0);
        let first = chosen
            .saturating_sub(high / 2)
            .min(rows.len().saturating_sub(high));
        let count = rows.len();
        let shown: Vec<usize> = rows.into_iter().skip(first).take(high).collect();
        // All the height, but not so much that a row is far from the next.
        let gaps = shown.len().saturating_sub(1);
        let span = high.saturating_sub(1).min(gaps * APART);
        let titles: Vec<String> = shown.iter().map(|row| self.row_title(*row)).collect();
        let left = titles.iter().map(|title| width(title)).max().unwrap_or(0) as u16 + 1;
        let inner = Rect {
            x: area.x + left.min(area.width),
            width: area.width.saturating_sub(left),
            ..area
        };
        let mut at: Vec<Option<Place>> = vec![None; self.present.len()];
        let (columns, beside) = (self.columns(), self.beside());
        let mut hidden = Vec::new();
        for (i, (row, title)) in shown.iter().zip(&titles).enumerate() {
            let y = area.y + (i * span).checked_div(gaps).unwrap_or(0) as u16;
            let pad = usize::from(left - 1).saturating_sub(width(title));
            let text = " ".repeat(pad) + title;
            let style = self.style(if *row == own { Role::Text } else { Role::Muted });
            self.put(area.x, y, &text, inner.x, style);
            hidden.push((
                y,
                self.place_row((*row, y), inner, &columns, &beside, &mut at),
            ));
        }
        self.lines(inner, &at);
        let muted = self.style(Role::Muted);
        let ends = [inner.x, inner.right().saturating_sub(1)];
        for (y, sides) in hidden {
            for (x, _) in ends.iter().zip(sides).filter(|(_, hidden)| *hidden) {
                self.put(*x, y, "…", inner.right(), muted);
            }
        }
        // In the gap before what stands beside.
        let marked = Rect {
            width: area.width + 1,
            ..area
        };
        let marked = marked.intersection(self.area);
        scroll::draw(count, first, self.theme, marked, self.buf);
        for (node, place) in at.iter().enumerate() {
            if let Some(place) = place {
                self.node(node, *place, beside[node], inner.right());
            }
        }
    }

    fn row_title(&self, row: usize) -> String {
        let label = self
            .graph
            .rows
            .get(row)
            .map_or("", |row| row.label.as_str());
        clip(label, LABEL)
    }

    /// The columns that have a node, in order.
    fn columns(&self) -> Vec<usize> {
        let nodes = self.graph.nodes.iter().zip(&self.present);
        let there = nodes.filter(|(_, there)| **there);
        let mut columns: Vec<usize> = there.map(|(node, _)| node.column).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// Places the nodes of a row; says whether some are left out at its left and at its right end.
    fn place_row(
        &self,
        (row, y): (usize, u16),
        area: Rect,
        columns: &[usize],
        beside: &[Option<usize>],
        at: &mut [Option<Place>],
    ) -> [bool; 2] {
        let there = (0..self.present.len()).filter(|node| self.present[*node]);
        let mut nodes: Vec<usize> = there.filter(|i| self.graph.nodes[*i].row == row).collect();
        nodes.sort_by_key(|node| self.graph.nodes[*node].column);
        let wide = |node: usize| width(&clip(self.graph.label(node), LABEL)) + 2;
        let wished = |node: usize| {
            let column = self.graph.nodes[node].column;
            let place = columns.iter().position(|own| *own == column).unwrap_or(0);
            let free = usize::from(area.width).saturating_sub(wide(node));
            (place * free)
                .checked_div(columns.len().saturating_sub(1))
                .unwrap_or(free / 2)
        };
        let each: Vec<(usize, usize)> = nodes.iter().map(|n| (wished(*n), wide(*n))).collect();
        // Where not all fit, those around the node under the cursor, or around the one that it has most to do with.
        let strength = |node: &usize| {
            let edge = beside[*node].map(|edge| self.graph.edges[edge].strength());
            let own = (*node == self.node).then_some(f32::INFINITY);
            own.or(edge).unwrap_or(-1.0)
        };
        let own = (0..nodes.len()).max_by(|a, b| {
            let (a, b) = (strength(&nodes[*a]), strength(&nodes[*b]));
            a.total_cmp(&b)
        });
        let room = usize::from(area.width);
        let all = each.iter().map(|(_, wide)| wide).sum::<usize>() <= room;
        // There is a mark at the ends then.
        let edge = usize::from(!all);
        let found = places(&each, room.saturating_sub(2 * edge), own.unwrap_or(0));
        for (node, x) in nodes.iter().zip(&found) {
            at[*node] = x.map(|x| Place {
                x: area.x + (edge + x) as u16,
                y,
                wide: wide(*node) as u16,
            });
        }
        [found.first(), found.last()].map(|end| end.is_some_and(Option::is_none))
    }

    /// The label of a node, with the sign of its edge to the node under the cursor.
    fn node(&mut self, node: usize, place: Place, edge: Option<usize>, end: u16) {
        let label = clip(self.graph.label(node), LABEL);
        let anchor = self.graph.nodes[node].anchor;
        let [open, close] = self.theme.glyphs.brackets();
        let (before, style, after) = if node == self.node {
            (open, self.here(), close)
        } else if let Some(edge) = edge.map(|edge| &self.graph.edges[edge]) {
            let sign = if edge.weight < 0.0 { "-" } else { "+" };
            (sign, self.sign(edge).add_modifier(Modifier::BOLD), " ")
        } else {
            (" ", self.style(Role::Muted), " ")
        };
        let edges = if node == self.node {
            self.theme.style(Role::Focus)
        } else {
            style
        };
        let after = if self.view.marked(anchor) {
            self.theme.glyphs.mark()
        } else {
            after
        };
        self.put(place.x, place.y, before, end, edges);
        self.put(place.x + 1, place.y, &label, end, style);
        self.put(place.x + place.wide - 1, place.y, after, end, edges);
        self.hit(Rect::new(place.x, place.y, place.wide, 1), node);
    }

    /// Of each node the strongest edge between it and that under the cursor.
    fn beside(&self) -> Vec<Option<usize>> {
        let mut beside = vec![None; self.present.len()];
        for end in [EdgeEnd::OutOf, EdgeEnd::Into] {
            for edge in self.graph.at(self.node, end) {
                beside[self.graph.edges[edge].other(end)].get_or_insert(edge);
            }
        }
        beside
    }

    /// A line for every edge between nodes that are visible.
    fn lines(&mut self, area: Rect, at: &[Option<Place>]) {
        if area.is_empty() {
            return;
        }
        let ground = self.theme.ground();
        let colour = |style: Style| style.fg.or(ground.fg).unwrap_or(Color::Reset);
        let faint = colour(self.style(Role::Faint));
        let dots = |place: Place| {
            let x = f64::from(place.x - area.x) + f64::from(place.wide) / 2.0;
            let y = f64::from(area.bottom() - 1 - place.y) + 0.5;
            (2.0 * x, 4.0 * y)
        };
        let mut others = Vec::new();
        let mut own = Vec::new();
        // The strongest last.
        for edge in self.graph.kept().into_iter().rev() {
            let edge = &self.graph.edges[edge];
            let ends = at[edge.from].zip(at[edge.to]);
            let Some((from, to)) = ends.map(|(a, b)| (dots(a), dots(b))) else {
                continue;
            };
            if edge.from == self.node || edge.to == self.node {
                let colour = colour(self.sign(edge));
                own.extend(dashes(from, to, edge.weight < 0.0, colour));
            } else {
                others.push(Line::new(from.0, from.1, to.0, to.1, faint));
            }
        }
        // The strongest of the others, as many as leave room between them.
        let most = usize::from(area.width) * usize::from(area.height) / CELLS;
        others.drain(..others.len().saturating_sub(most));
        // Where colour cannot set them apart, only the node's own edges are drawn.
        let told_apart = own.iter().all(|line| line.color != faint);
        if !told_apart {
            others.clear();
        }
        others.extend(own);
        let marker = match self.theme.glyphs {
            Glyphs::Unicode => Marker::Braille,
            Glyphs::Ascii => Marker::Custom('.'),
        };
        let canvas = Canvas::default()
            .marker(marker)
            .background_color(ground.bg.unwrap_or(Color::Reset))
            .x_bounds([0.0, 2.0 * f64::from(area.width) - 1.0])
            .y_bounds([0.0, 4.0 * f64::from(area.height) - 1.0])
            .paint(|context| others.iter().for_each(|line| context.draw(line)));
        paint::render(self.buf, area, canvas);
    }
}

/// A line, or its dashes.
fn dashes(from: (f64, f64), to: (f64, f64), dashed: bool, colour: Color) -> Vec<Line> {
    let along = |part: f64| {
        let x = from.0 + (to.0 - from.0) * part;
        (x, from.1 + (to.1 - from.1) * part)
    };
    if !dashed {
        return vec![Line::new(from.0, from.1, to.0, to.1, colour)];
    }
    let long = (to.0 - from.0).hypot(to.1 - from.1).max(1.0);
    let count = (long / (2.0 * DASH)).ceil().max(1.0) as usize;
    let dash = |i: usize| {
        let start = i as f64 * 2.0 * DASH / long;
        let (a, b) = (along(start.min(1.0)), along((start + DASH / long).min(1.0)));
        Line::new(a.0, a.1, b.0, b.1, colour)
    };
    (0..count).map(dash).collect()
}

/// The first columns of things in a row of some width, each with the column that it wishes and its width, in order: where they wish to be
/// if they do not overlap, else pushed aside; where not all fit, those around the one at `own`.
fn places(each: &[(usize, usize)], room: usize, own: usize) -> Vec<Option<usize>> {
    let total = |from: usize, to: usize| each[from..to].iter().map(|(_, wide)| wide).sum::<usize>();
    let (mut from, mut to) = (0, each.len());
    while to > from && total(from, to) > room {
        // What is further away goes first.
        if own.saturating_sub(from) > (to - 1).saturating_sub(own) {
            from += 1;
        } else {
            to -= 1;
        }
    }
    let mut out = vec![None; each.len()];
    let mut free = 0;
    for i in from..to {
        let (wish, wide) = each[i];
        // What follows needs its room as well.
        let last = room - total(i, to);
        let x = wish.max(free).min(last);
        out[i] = Some(x);
        free = x + wide;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nodes_stand_where_they_wish_or_beside_each_other() {
        assert_eq!(places(&[(0, 5), (20, 5)], 30, 0), [Some(0), Some(20)]);
        assert_eq!(places(&[(3, 5), (4, 5)], 30, 0), [Some(3), Some(8)]);
        assert_eq!(places(&[(25, 5), (25, 5)], 30, 0), [Some(20), Some(25)]);
        assert_eq!(
            places(&[(0, 5), (5, 5), (9, 5)], 10, 2),
            [None, Some(0), Some(5)],
            "those around the cursor"
        );
    }

    #[test]
    fn a_dashed_line_has_gaps() {
        let whole = dashes((0.0, 0.0), (0.0, 24.0), false, Color::Red);
        assert_eq!(whole.len(), 1);
        let parts = dashes((0.0, 0.0), (0.0, 24.0), true, Color::Red);
        assert_eq!(parts.len(), 4);
        let drawn: f64 = parts.iter().map(|part| part.y2 - part.y1).sum();
        assert!((drawn - 12.0).abs() < 1e-6, "{drawn}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nodes_never_overlap_and_the_cursor_is_there(
            each in prop::collection::vec((0_usize..60, 1_usize..12), 1..12),
            room in 0_usize..60,
            own in 0_usize..12,
        ) {
            let own = own.min(each.len() - 1);
            let found = places(&each, room, own);
            let mut free = 0;
            for (place, (_, wide)) in found.iter().zip(&each) {
                if let Some(x) = place {
                    prop_assert!(*x >= free && x + wide <= room);
                    free = x + wide;
                }
            }
            prop_assert_eq!(found[own].is_some(), each[own].1 <= room);
        }
    }
}
