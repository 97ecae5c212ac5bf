//! How a cursor walks in a graph: along edges, and among those that it might have taken instead.
//!
//! On leads along the strongest edge out of the node, back along the strongest into it; whoever turns round goes back the way that they
//! came. Sideways goes to the next weaker or stronger of the edges that led here, and so to the node at its end; where no edge led here,
//! to the next node of the row. Several edges between the same two nodes are one way, as strong as the strongest of them.
//! Invariant: a walk ends at a node that the shown step has, unless it began at another and found no edge. To walk in another way, add a
//! variant of [`GraphWalk`].

use super::{EdgeEnd, Graph};
use crate::figure::Unit;

/// Where a cursor is in a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphPlace {
    pub node: usize,
    /// The edge that led there.
    pub edge: Option<usize>,
}

/// A step of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphWalk {
    /// Along an edge, with what flows.
    On,
    /// Along an edge, to where it comes from.
    Back,
    /// To the next weaker edge.
    Weaker,
    /// To the next stronger edge.
    Stronger,
    /// To the first node.
    First,
    /// To the last node.
    Last,
}

impl Graph {
    /// The ways from a node: of the edges to each neighbour the strongest, the strongest first.
    pub fn ways(&self, node: usize, end: EdgeEnd) -> Vec<usize> {
        let mut seen = vec![false; self.nodes.len()];
        let mut ways = self.at(node, end);
        ways.retain(|edge| !std::mem::replace(&mut seen[self.edges[*edge].other(end)], true));
        ways
    }

    /// The place of a cursor at a layer and unit: where it was held if that agrees, or is in no layer, else the nearest node.
    pub fn nearest(
        &self,
        held: GraphPlace,
        layer: usize,
        unit: Option<Unit>,
    ) -> Option<GraphPlace> {
        let present = self.present();
        let at = |node: usize| self.nodes[node].anchor;
        let agrees = |node: usize| {
            at(node).layer.is_none_or(|own| usize::from(own) == layer)
                && at(node).unit.is_none_or(|own| Some(own) == unit)
        };
        if present.get(held.node) == Some(&true) && agrees(held.node) {
            return Some(held);
        }
        let there = (0..present.len()).filter(|node| present[*node]);
        // Of one layer the unit itself, else what is about the whole layer.
        let away = |node: &usize| {
            let apart = at(*node).layer.map(|own| usize::from(own).abs_diff(layer));
            let rank = match at(*node).unit {
                own @ Some(_) if own == unit => 0,
                None => 1,
                Some(_) => 2,
            };
            (apart.unwrap_or(usize::MAX), rank, *node)
        };
        let node = there.min_by_key(away)?;
        Some(GraphPlace { node, edge: None })
    }

    /// The edge that led to a place, with the end from which it is a way; none if the shown step does not keep it.
    fn led(&self, place: GraphPlace) -> Option<(usize, EdgeEnd)> {
        let at = place.edge?;
        let edge = self.edges.get(at).filter(|edge| self.keeps(edge))?;
        if edge.to == place.node {
            Some((at, EdgeEnd::OutOf))
        } else {
            (edge.from == place.node).then_some((at, EdgeEnd::Into))
        }
    }

    /// The place to which a step leads; the same if there is no way.
    pub fn walk(&self, place: GraphPlace, step: GraphWalk) -> GraphPlace {
        match step {
            GraphWalk::On => self.along(place, EdgeEnd::OutOf),
            GraphWalk::Back => self.along(place, EdgeEnd::Into),
            GraphWalk::Weaker => self.beside(place, true),
            GraphWalk::Stronger => self.beside(place, false),
            GraphWalk::First => self.end(place, self.present().iter().position(|held| *held)),
            GraphWalk::Last => self.end(place, self.present().iter().rposition(|held| *held)),
        }
    }

    fn end(&self, place: GraphPlace, node: Option<usize>) -> GraphPlace {
        node.filter(|node| *node != place.node)
            .map_or(place, |node| GraphPlace { node, edge: None })
    }

    fn along(&self, place: GraphPlace, end: EdgeEnd) -> GraphPlace {
        // Who came down along an edge goes up along the same one.
        let turned = self.led(place).filter(|(_, came)| *came != end);
        let way = turned.map(|(edge, _)| edge);
        let way = way.or_else(|| self.ways(place.node, end).first().copied());
        way.map_or(place, |edge| GraphPlace {
            node: self.edges[edge].other(end),
            edge: Some(edge),
        })
    }

    fn beside(&self, place: GraphPlace, weaker: bool) -> GraphPlace {
        let Some((edge, end)) = self.led(place) else {
            return self.in_row(place, weaker);
        };
        let edge = &self.edges[edge];
        let origin = match end {
            EdgeEnd::OutOf => edge.from,
            EdgeEnd::Into => edge.to,
        };
        let ways = self.ways(origin, end);
        let here = ways
            .iter()
            .position(|way| self.edges[*way].other(end) == place.node);
        let next = match (here, weaker) {
            (Some(here), true) => ways.get(here + 1),
            (Some(here), false) => here.checked_sub(1).and_then(|before| ways.get(before)),
            (None, _) => None,
        };
        next.map_or(place, |way| GraphPlace {
            node: self.edges[*way].other(end),
            edge: Some(*way),
        })
    }

    fn in_row(&self, place: GraphPlace, right: bool) -> GraphPlace {
        let present = self.present();
        let Some(own) = self.nodes.get(place.node) else {
            return place;
        };
        let beside = (0..self.nodes.len()).filter(|i| present[*i] && self.nodes[*i].row == own.row);
        let column = |i: &usize| self.nodes[*i].column;
        let next = if right {
            beside.filter(|i| column(i) > own.column).min_by_key(column)
        } else {
            beside.filter(|i| column(i) < own.column).max_by_key(column)
        };
        next.map_or(place, |node| GraphPlace { node, edge: None })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{diamond, graph};
    use super::*;

    fn walk(graph: &Graph, steps: &[GraphWalk]) -> Vec<usize> {
        let mut place = GraphPlace::default();
        let each = steps.iter().map(|step| {
            place = graph.walk(place, *step);
            place.node
        });
        each.collect()
    }

    #[test]
    fn on_goes_along_the_strongest_edge_and_back_the_way_it_came() {
        use GraphWalk::{Back, On, Stronger, Weaker};
        let graph = diamond();
        assert_eq!(walk(&graph, &[On, On, On]), [1, 3, 3], "and no further");
        // Into the last node the edge from 2 is the stronger one, but the way led through 1.
        assert_eq!(walk(&graph, &[On, On, Back, Back]), [1, 3, 1, 0]);
        // The other edges out of node 0: one way to node 1, however many edges lead there.
        assert_eq!(
            walk(&graph, &[On, Weaker, Weaker, Stronger, Stronger]),
            [1, 2, 2, 1, 1]
        );
        // From the end backwards the siblings are those into the last node.
        let from_last = [GraphWalk::Last, Back, Weaker, On, Back];
        assert_eq!(walk(&graph, &from_last), [3, 2, 1, 3, 1]);
    }

    #[test]
    fn without_an_edge_sideways_is_along_the_row() {
        use GraphWalk::{Stronger, Weaker};
        let graph = graph(
            &[("x", 0), ("y", 0), ("z", 0), ("out", 1)],
            &[(0, 3, "", 1.0, 0), (2, 3, "", 1.0, 0)],
        );
        assert_eq!(
            walk(&graph, &[Weaker, Weaker, Stronger]),
            [2, 2, 0],
            "past the node that has no edge"
        );
    }

    #[test]
    fn a_cursor_from_elsewhere_finds_its_head_or_the_nearest_layer() {
        use crate::figure::Anchor;
        let mut graph = diamond();
        let anchors = [
            Anchor::default(),
            Anchor::head(3, 1),
            Anchor::layer(5),
            Anchor::default(),
        ];
        for (node, anchor) in graph.nodes.iter_mut().zip(anchors) {
            node.anchor = anchor;
        }
        let at = |graph: &Graph, node: usize, layer: usize, unit: Option<Unit>| {
            let held = GraphPlace {
                node,
                edge: Some(7),
            };
            graph
                .nearest(held, layer, unit)
                .map(|place| (place.node, place.edge))
        };
        let head = Some(Unit::Head(1));
        assert_eq!(at(&graph, 1, 3, head), Some((1, Some(7))), "it is there");
        assert_eq!(at(&graph, 2, 3, head), Some((1, None)));
        assert_eq!(at(&graph, 1, 3, Some(Unit::Head(2))), Some((1, None)));
        assert_eq!(at(&graph, 1, 9, head), Some((2, None)), "the nearest layer");
        assert_eq!(at(&graph, 3, 3, head), Some((3, Some(7))), "in no layer");
        graph.edges.clear();
        assert_eq!(at(&graph, 3, 3, head), None, "no edge, no node");
    }

    #[test]
    fn an_edge_that_pruning_took_leads_nowhere() {
        let mut graph = diamond();
        let place = GraphPlace {
            node: 2,
            edge: Some(4),
        };
        assert_eq!(graph.walk(place, GraphWalk::On).node, 3);
        graph.show_step(0);
        assert_eq!(graph.walk(place, GraphWalk::On), place);
        assert_eq!(graph.walk(place, GraphWalk::Back).node, 0);
        assert_eq!(graph.walk(GraphPlace::default(), GraphWalk::Last).node, 3);
    }
}
