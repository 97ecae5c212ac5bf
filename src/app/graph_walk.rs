//! Walking in a graph: along its edges, and from one step of pruning to the next.
//!
//! Invariant: a walk moves the shared cursor to the node's layer and unit, so that other panes follow, and never to another token. The ways
//! themselves are in [`crate::figure::graph::walk`]; to let a key do something else in a graph, add its arm here.

use super::App;
use super::cursor::{self, CursorMove};
use crate::engine::PaneName;
use crate::figure::{Body, Graph};

impl App {
    /// Moves in the graph that a pane shows; false if it shows none.
    pub(super) fn walk_in_graph(&mut self, slot: PaneName, step: CursorMove) -> bool {
        let Some((shown, figure)) = self.shown.get(slot).zip(self.figure(slot)) else {
            return false;
        };
        let Body::Graph(graph) = &figure.body else {
            return false;
        };
        let pruned = match step {
            CursorMove::PageUp => Some(graph.shown + 1),
            CursorMove::PageDown => Some(graph.shown.saturating_sub(1)),
            CursorMove::Left
            | CursorMove::Right
            | CursorMove::Up
            | CursorMove::Down
            | CursorMove::First
            | CursorMove::Last => None,
        };
        if let Some(next) = pruned {
            self.show_step(slot, next);
            return true;
        }
        let to = cursor::locate(figure, self.cursor, shown.spot)
            .map(|from| cursor::step(figure, from, step, 1, self.flip));
        let found = to.and_then(|to| Some((to, cursor::read(figure, to)?.anchor)));
        if let Some((to, anchor)) = found {
            if let Some(shown) = self.shown.get_mut(slot) {
                shown.spot = to;
            }
            self.point_at(anchor);
        }
        true
    }

    /// The graph that the chosen figure is.
    pub(super) fn graph(&self) -> Option<&Graph> {
        match &self.figure(self.layout.figure)?.body {
            Body::Graph(graph) => Some(graph),
            Body::Grid(_) | Body::Table(_) | Body::Series(_) | Body::Text(_) => None,
        }
    }

    /// Shows a step of pruning of a pane's graph, or the nearest whose edges are listed.
    pub(super) fn show_step(&mut self, slot: PaneName, step: usize) {
        self.change_figure(slot, |shown| {
            shown.step = Some(step);
            shown.show_chosen();
        });
    }
}
