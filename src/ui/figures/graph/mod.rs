//! Draws graphs: where there is room, nodes in rows with their edges, the edges of the node under the cursor, and what pruning keeps;
//! elsewhere the strongest paths through that node.
//!
//! Invariant: a weight's sign is a character as well as a colour; the node under the cursor is always visible. To draw something else of a
//! node, add lines in [`GraphPainter::side`].
//!
//! ```text
//! logits          -logits        ▐ a4.h0
//!     4      ▐a4.h0▌ ⡠⠊            to logits   -4.46 ████
//!     2   -a2.h0⢄⠔⠁ -m2            <v> from m0 -10.8 ████████
//!     0          -m0               <q> from m2 +0.50 ▌
//! ▁▂▅▇█ 27 edges (4/9): keeps 0.83, without it 0.11, random -0.00 to 0.01
//! ```

mod list;
mod rows;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::{FigureView, Hits, covers, significant};
use crate::figure::graph::EdgeEnd;
use crate::figure::{Anchor, Graph, GraphEdge};
use crate::text::{clip, fit, width};
use crate::ui::paint;
use crate::ui::theme::{Role, Theme};
use crate::ui::widgets::{bar, sparkline};

/// The least room for rows of nodes, in columns and lines.
const ROOM: (u16, u16) = (56, 13);
/// The least height for a curve of its own, and that curve's height.
const CURVE: (u16, u16) = (20, 7);

/// Draws a graph.
pub(super) fn draw(
    graph: &Graph,
    view: &FigureView,
    theme: &Theme,
    area: Rect,
    buf: &mut Buffer,
) -> Hits {
    let present = graph.present();
    let Some(node) = locate(graph, view, &present) else {
        return Hits::default();
    };
    let mut painter = GraphPainter {
        graph,
        view,
        theme,
        present,
        node,
        led: view.spot.and_then(|(column, _)| column.checked_sub(1)),
        area,
        buf,
        hits: Hits::default(),
    };
    if area.width >= ROOM.0 && area.height >= ROOM.1 {
        painter.picture();
    } else {
        painter.list();
    }
    painter.hits
}

/// The node under the cursor; without one, the first.
fn locate(graph: &Graph, view: &FigureView, present: &[bool]) -> Option<usize> {
    let there = |node: &usize| present.get(*node) == Some(&true);
    if let Some((_, node)) = view.spot.filter(|(_, node)| there(node)) {
        return Some(node);
    }
    let mut all = (0..present.len()).filter(there);
    let cursor = view.cursor.unwrap_or_default();
    let found = all
        .clone()
        .find(|node| covers(graph.nodes[*node].anchor, cursor));
    found.or_else(|| all.next())
}

/// The inputs of drawing a graph.
struct GraphPainter<'a> {
    graph: &'a Graph,
    view: &'a FigureView<'a>,
    theme: &'a Theme,
    /// Which nodes the shown step has.
    present: Vec<bool>,
    /// The node under the cursor.
    node: usize,
    /// The edge that led there.
    led: Option<usize>,
    area: Rect,
    buf: &'a mut Buffer,
    hits: Hits,
}

impl GraphPainter<'_> {
    /// Writes into the area, at most up to `end`.
    fn put(&mut self, x: u16, y: u16, text: &str, end: u16, style: Style) {
        let room = usize::from(end.min(self.area.right()).saturating_sub(x));
        if room > 0 && (self.area.y..self.area.bottom()).contains(&y) {
            paint::write(self.buf, x, y, text, room, style);
        }
    }

    fn hit(&mut self, rect: Rect, node: usize) {
        let rect = rect.intersection(self.area);
        let anchor = self.graph.nodes[node].anchor;
        if anchor != Anchor::default() && !rect.is_empty() {
            self.hits.cells.push((rect, anchor));
        }
    }

    fn style(&self, role: Role) -> Style {
        self.theme
            .style(if self.view.stale { Role::Stale } else { role })
    }

    fn here(&self) -> Style {
        self.theme.style(if self.view.focused {
            Role::Cursor
        } else {
            Role::Selection
        })
    }

    /// The style of a weight by its sign.
    fn sign(&self, edge: &GraphEdge) -> Style {
        self.style(if edge.weight < 0.0 {
            Role::Warning
        } else {
            Role::Bar
        })
    }

    /// The rows of nodes, the edges of one of them at their side, and what pruning keeps below.
    fn picture(&mut self) {
        let side = (self.area.width / 3).clamp(24, 38);
        let low = if self.area.height >= CURVE.0 {
            CURVE.1 + 1
        } else {
            1
        };
        let rows = Rect {
            width: self.area.width - side - 1,
            height: self.area.height - low,
            ..self.area
        };
        self.rows(rows);
        let beside = Rect {
            x: rows.right() + 1,
            width: side,
            ..rows
        };
        self.side(beside);
        self.step(rows.bottom(), low > 1);
        if low > 1 {
            let below = Rect {
                y: rows.bottom() + 1,
                height: low - 1,
                ..self.area
            };
            let view = FigureView {
                spot: Some((self.graph.shown, 0)),
                ..*self.view
            };
            let curve = self.graph.curve();
            // The curve's points are no places of the model.
            super::series::draw(&curve, &view, self.theme, below, self.buf);
        }
    }

    /// One line about the step that is shown: its numbers, and before them the faithfulness of all steps where no curve is drawn.
    fn step(&mut self, y: u16, with_curve: bool) {
        let Some(step) = self.graph.step().copied() else {
            return;
        };
        let count = self.graph.steps.len();
        let words = format!(
            "{} edges ({}/{count}): keeps {:.2}, without it {:.2}, random {:.2} to {:.2}",
            step.edges,
            self.graph.shown + 1,
            step.faithfulness,
            step.without,
            step.random_least,
            step.random_most,
        );
        let (mut x, right) = (self.area.x, self.area.right());
        let room = usize::from(self.area.width).saturating_sub(width(&words) + 1);
        if !with_curve && room >= 4.min(count) {
            let wide = count.min(room).min(16);
            self.sparkline(y, wide);
            x += wide as u16 + 1;
        }
        let text = self.style(Role::Text);
        self.put(x, y, &clip(&words, usize::from(right - x)), right, text);
    }

    /// The faithfulness of so many steps, the shown one among them.
    fn sparkline(&mut self, y: u16, wide: usize) {
        let all: Vec<f32> = self.graph.steps.iter().map(|s| s.faithfulness).collect();
        // The first ones, or those up to the one that is shown.
        let end = all.len().min((self.graph.shown + 1).max(wide));
        let (lo, hi) = sparkline::range(&all);
        let ends = (lo.min(0.0), hi.max(1.0));
        let line = sparkline::sparkline(&all[..end], ends, wide, self.theme.glyphs);
        let (x, right) = (self.area.x, self.area.right());
        let bar = self.style(Role::Bar);
        self.put(x, y, &line, right, bar);
        let at = (self.graph.shown + wide).checked_sub(end);
        if let Some((at, sign)) = at.and_then(|at| Some((at, line.chars().nth(at)?))) {
            let here = self.here();
            self.put(x + at as u16, y, &sign.to_string(), right, here);
        }
    }

    /// The node under the cursor with its edges, strongest first: those out of it, then those into it.
    fn side(&mut self, area: Rect) {
        let (mut y, right) = (area.y, area.right());
        let graph = self.graph;
        let node = &graph.nodes[self.node];
        let row = graph
            .rows
            .get(node.row)
            .map_or("", |row| row.label.as_str());
        let place = if node.anchor.layer.is_some() {
            format!("{} · layer {row}", node.label)
        } else {
            node.label.clone()
        };
        let title = self.style(Role::Title);
        self.put(area.x, y, &clip(&place, area.width.into()), right, title);
        y += 1;
        let [out, into] = [EdgeEnd::OutOf, EdgeEnd::Into].map(|end| graph.at(self.node, end));
        let own = out.iter().chain(&into);
        let strengths = own.map(|edge| graph.edges[*edge].strength());
        let longest = strengths.fold(f32::MIN_POSITIVE, f32::max);
        let lines = usize::from(area.height).saturating_sub(1);
        // Each half gets what the other does not need.
        let half = lines / 2;
        let upper = (out.len() + 1).min(half.max(lines.saturating_sub(into.len() + 1)));
        for (name, edges, end, most) in [
            ("out of it", &out, EdgeEnd::OutOf, upper),
            ("into it", &into, EdgeEnd::Into, lines - upper.min(lines)),
        ] {
            if most == 0 {
                continue;
            }
            let hidden = edges.len().saturating_sub(most - 1);
            let more = if hidden > 0 {
                format!(", {hidden} weaker ones not shown")
            } else {
                String::new()
            };
            let head = format!("{} {name}{more}", edges.len());
            let muted = self.style(Role::Muted);
            self.put(area.x, y, &clip(&head, area.width.into()), right, muted);
            y += 1;
            for edge in edges.iter().take(most - 1) {
                let line = Rect::new(area.x, y, area.width, 1);
                self.edge_line(line, *edge, end, longest);
                y += 1;
            }
        }
    }

    /// One edge, with a bar that is full for a strength of `longest`.
    fn edge_line(&mut self, area: Rect, index: usize, end: EdgeEnd, longest: f32) {
        let graph = self.graph;
        let edge = &graph.edges[index];
        let name = match end {
            EdgeEnd::OutOf => graph.into_label(edge),
            EdgeEnd::Into if edge.part.is_empty() => graph.label(edge.from).to_owned(),
            EdgeEnd::Into => format!("<{}> {}", edge.part, graph.label(edge.from)),
        };
        let number = signed(edge.weight);
        let wide = usize::from(area.width).saturating_sub(1);
        let label = wide.saturating_sub(9).min(12);
        let style = self.sign(edge);
        let mut line = format!("{} {number:>7} ", fit(&name, label));
        let left = wide.saturating_sub(width(&line));
        line.push_str(&bar::bar(
            edge.strength() / longest,
            left,
            self.theme.glyphs,
        ));
        if self.led == Some(index) {
            let mark = self.theme.glyphs.brackets()[0];
            let focus = self.theme.style(Role::Focus);
            self.put(area.x, area.y, mark, area.right(), focus);
        }
        let style = if self.led == Some(index) {
            style.add_modifier(Modifier::BOLD)
        } else {
            style
        };
        self.put(area.x + 1, area.y, &line, area.right(), style);
        self.hit(area, edge.other(end));
    }
}

/// A weight with its sign.
fn signed(weight: f32) -> String {
    let plus = if weight > 0.0 { "+" } else { "" };
    format!("{plus}{}", significant(weight))
}
