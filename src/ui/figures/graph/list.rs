//! A graph where there is little room: the strongest paths through the node under the cursor, one in a line.
//!
//! Invariant: the node under the cursor is visible in every line. To say more about a path, add it in [`GraphPainter::path`].

use ratatui::layout::Rect;
use ratatui::style::Style;

use super::GraphPainter;
use crate::figure::graph::paths::GraphPath;
use crate::text::{clip, width};
use crate::ui::theme::Role;

/// The width of a path's strength, in columns.
const STRENGTH: u16 = 6;

/// A piece of a path's line: its text, style, and the node that it names.
type Piece = (String, Style, Option<usize>);

impl GraphPainter<'_> {
    pub(super) fn list(&mut self) {
        let area = self.area;
        let mut y = area.y;
        if area.height >= 2 {
            self.step(y, false);
            y += 1;
        }
        let weight = &self.graph.weight;
        if area.height >= 4 {
            let words = format!(
                "paths through {}, by the smallest |{weight}| along them",
                self.graph.label(self.node)
            );
            let muted = self.style(Role::Muted);
            let words = clip(&words, area.width.into());
            self.put(area.x, y, &words, area.right(), muted);
            y += 1;
        }
        let lines = usize::from(area.bottom().saturating_sub(y));
        let paths = self.graph.strongest_paths(lines, Some(self.node));
        for path in &paths {
            self.path(y, path);
            y += 1;
        }
    }

    /// One path: its strength, then its nodes with the sign of each edge between them.
    fn path(&mut self, y: u16, path: &GraphPath) {
        let area = self.area;
        let mut x = area.x;
        if area.width >= 5 * STRENGTH {
            let strength = super::significant(path.strength());
            let style = self.style(Role::Muted);
            let text = format!("{strength:>5} ");
            self.put(x, y, &text, area.right(), style);
            x += STRENGTH;
        }
        let pieces = self.pieces(path);
        let room = usize::from(area.right().saturating_sub(x));
        let own = pieces
            .iter()
            .position(|(.., node)| *node == Some(self.node));
        let first = first_visible(&pieces, own.unwrap_or(0), room);
        for (i, (text, style, node)) in pieces.into_iter().enumerate().skip(first) {
            let text = if i == first && first > 0 {
                format!("…{text}")
            } else {
                text
            };
            self.put(x, y, &text, area.right(), style);
            let wide = width(&text) as u16;
            if let Some(node) = node {
                self.hit(Rect::new(x, y, wide, 1), node);
            }
            x = x.saturating_add(wide);
        }
    }

    fn pieces(&self, path: &GraphPath) -> Vec<Piece> {
        let graph = self.graph;
        let named = |node: usize, text: String| {
            let style = if node == self.node {
                self.here()
            } else {
                self.style(Role::Text)
            };
            (text, style, Some(node))
        };
        let first = path.edges.first().map(|edge| graph.edges[*edge].from);
        let mut pieces: Vec<Piece> = first
            .map(|node| named(node, graph.label(node).to_owned()))
            .into_iter()
            .collect();
        for edge in &path.edges {
            let edge = &graph.edges[*edge];
            let head = self.theme.glyphs.pick("→", ">");
            let sign = if edge.weight < 0.0 { '-' } else { '+' };
            pieces.push((format!(" {sign}{head} "), self.sign(edge), None));
            pieces.push(named(edge.to, graph.into_label(edge)));
        }
        pieces
    }
}

/// The first piece of a line that is drawn, so that the one at `own` ends within the room.
fn first_visible(pieces: &[Piece], own: usize, room: usize) -> usize {
    let wide = |from: usize| -> usize {
        let cut = usize::from(from > 0);
        cut + pieces[from..=own.min(pieces.len() - 1)]
            .iter()
            .map(|(text, ..)| width(text))
            .sum::<usize>()
    };
    if pieces.is_empty() {
        return 0;
    }
    (0..=own).find(|from| wide(*from) <= room).unwrap_or(own)
}
