//! The strongest paths through a graph, from where nothing leads in to where nothing leads out.
//!
//! A path is as strong as its weakest edge, which is named; of equally strong ones the one comes first whose next weakest edge is stronger,
//! and so on. Weights along a path are not multiplied: the score of an edge is measured with everything else in place already.
//! Invariant: no path that is left out is stronger than one that is given: with one more edge at their end two paths keep their order, so
//! that the best so many to each node are enough. To order paths in another way, change `compare`.

use std::cmp::Ordering;

use super::{EdgeEnd, Graph};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Table, TableRow};

/// A path, as the indices of its edges in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GraphPath {
    pub edges: Vec<usize>,
    /// The strengths of its edges, the weakest first.
    strengths: Vec<f32>,
}

impl GraphPath {
    /// The strength of its weakest edge; infinite for a path without edges.
    pub fn strength(&self) -> f32 {
        self.strengths.first().copied().unwrap_or(f32::INFINITY)
    }

    /// The path with other edges before or behind it.
    fn with(&self, edges: &[usize], strengths: &[f32], end: EdgeEnd) -> Self {
        let mut out = self.clone();
        match end {
            EdgeEnd::Into => out.edges.extend(edges),
            EdgeEnd::OutOf => {
                out.edges.splice(0..0, edges.iter().copied());
            }
        }
        out.strengths.extend(strengths);
        out.strengths.sort_by(f32::total_cmp);
        out
    }

    /// The stronger one comes first.
    fn compare(&self, other: &Self) -> Ordering {
        let both = self.strengths.iter().zip(&other.strengths);
        let mut apart = both.map(|(a, b)| b.total_cmp(a)).filter(|o| o.is_ne());
        // Edges that a path does not have cannot be its weakest.
        let longer = self.strengths.len().cmp(&other.strengths.len());
        apart.next().unwrap_or(longer)
    }
}

impl Graph {
    /// The strongest paths that the shown step keeps, at most so many; only those through a node if one is given.
    pub fn strongest_paths(&self, count: usize, through: Option<usize>) -> Vec<GraphPath> {
        let present = self.present();
        let into = self.partial(count, EdgeEnd::Into);
        let ends = (0..self.nodes.len()).filter(|node| present[*node]);
        let mut found: Vec<GraphPath> = match through {
            None => ends
                .filter(|node| self.at(*node, EdgeEnd::OutOf).is_empty())
                .flat_map(|node| into[node].clone())
                .collect(),
            Some(node) => {
                let out = self.partial(count, EdgeEnd::OutOf);
                let here = into.get(node).zip(out.get(node)).into_iter();
                here.flat_map(|(into, out)| {
                    into.iter().flat_map(move |before| {
                        let joined = out.iter().map(|behind| {
                            before.with(&behind.edges, &behind.strengths, EdgeEnd::Into)
                        });
                        joined.collect::<Vec<_>>()
                    })
                })
                .collect()
            }
        };
        found.retain(|path| !path.edges.is_empty());
        found.sort_by(GraphPath::compare);
        found.truncate(count);
        found
    }

    /// Of each node the strongest paths that lead to it, or that lead on from it.
    fn partial(&self, count: usize, end: EdgeEnd) -> Vec<Vec<GraphPath>> {
        let mut of_node: Vec<Vec<GraphPath>> = vec![Vec::new(); self.nodes.len()];
        let mut edges: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (i, edge) in self.edges.iter().enumerate() {
            if self.keeps(edge) {
                let node = match end {
                    EdgeEnd::Into => edge.to,
                    EdgeEnd::OutOf => edge.from,
                };
                edges[node].push(i);
            }
        }
        // An edge leads from a node to a later one, so that what it needs is there.
        let order: Vec<usize> = match end {
            EdgeEnd::Into => (0..self.nodes.len()).collect(),
            EdgeEnd::OutOf => (0..self.nodes.len()).rev().collect(),
        };
        for node in order {
            let own = edges[node].iter().flat_map(|i| {
                let edge = &self.edges[*i];
                let strength = [edge.strength()];
                let before = of_node[edge.other(end)].iter();
                before
                    .map(move |path| path.with(&[*i], &strength, end))
                    .collect::<Vec<_>>()
            });
            let mut own: Vec<GraphPath> = own.collect();
            if edges[node].is_empty() {
                own.push(GraphPath::default());
            }
            own.sort_by(GraphPath::compare);
            own.truncate(count);
            of_node[node] = own;
        }
        of_node
    }

    /// A path in words: `input -> m0 -> a2.h1<v> -> logits`.
    pub fn path_words(&self, path: &GraphPath) -> String {
        let first = path.edges.first().map(|edge| self.edges[*edge].from);
        let mut words = first.map_or("", |node| self.label(node)).to_owned();
        for edge in &path.edges {
            words.push_str(" -> ");
            words.push_str(&self.into_label(&self.edges[*edge]));
        }
        words
    }

    /// The strongest paths as rows.
    pub fn path_table(&self, count: usize) -> Table {
        let paths = self.strongest_paths(count, None);
        let rows = paths.iter().map(|path| {
            let entries = entries![path.strength(), self.path_words(path)];
            TableRow::at(Anchor::default(), entries)
        });
        Table::of(&["strength", "path"], rows.collect())
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::super::tests::{diamond, graph};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_is_as_strong_as_its_weakest_edge() {
        let mut graph = diamond();
        let words = |graph: &Graph, through| {
            let found = graph.strongest_paths(9, through);
            let each = found.iter();
            each.map(|path| (graph.path_words(path), path.strength()))
                .collect::<Vec<_>>()
        };
        let expected = [
            ("in -> b -> out".to_owned(), 3.0),
            ("in -> a<v> -> out".to_owned(), 1.0),
            ("in -> a<q> -> out".to_owned(), 1.0),
        ];
        assert_eq!(words(&graph, None), expected);
        assert_eq!(words(&graph, Some(1)), expected[1..]);
        assert_eq!(words(&graph, Some(0)), expected, "all begin there");
        graph.show_step(2);
        assert_eq!(words(&graph, None)[0], ("in -> out".to_owned(), 9.0));
        assert_eq!(graph.strongest_paths(2, None).len(), 2);
    }

    /// All paths to the nodes that lead nowhere.
    fn all(graph: &Graph, node: usize) -> Vec<Vec<usize>> {
        let ways = graph.at(node, EdgeEnd::OutOf);
        if ways.is_empty() {
            return vec![Vec::new()];
        }
        let each = ways.into_iter().flat_map(|edge| {
            let rest = all(graph, graph.edges[edge].to).into_iter();
            rest.map(move |mut rest| {
                rest.insert(0, edge);
                rest
            })
        });
        each.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The best of all paths, found by listing them.
        #[test]
        fn none_that_is_left_out_is_stronger(
            ends in prop::collection::vec((0_usize..6, 0_usize..6, -4_i8..5), 1..14),
            count in 1_usize..6,
            through in 0_usize..6,
        ) {
            let edges = ends.iter().filter(|(a, b, _)| a < b);
            let edges: Vec<_> = edges.map(|(a, b, w)| (*a, *b, "", f32::from(*w), 0)).collect();
            let nodes = [("a", 0), ("b", 1), ("c", 2), ("d", 3), ("e", 4), ("f", 5)];
            let graph = graph(&nodes, &edges);
            let firsts = (0..6).filter(|node| graph.at(*node, EdgeEnd::Into).is_empty());
            let paths = firsts.flat_map(|node| all(&graph, node)).filter(|path| !path.is_empty());
            let all: Vec<Vec<usize>> = paths.collect();
            let weakest = |path: &Vec<usize>| {
                let own = path.iter().map(|edge| graph.edges[*edge].strength());
                own.fold(f32::INFINITY, f32::min)
            };
            for through in [None, Some(through)] {
                let touches = |path: &&Vec<usize>| through.is_none_or(|node| {
                    path.iter().any(|edge| graph.edges[*edge].from == node || graph.edges[*edge].to == node)
                });
                let mut expected: Vec<f32> = all.iter().filter(touches).map(weakest).collect();
                expected.sort_by(|a, b| b.total_cmp(a));
                expected.truncate(count);
                let found = graph.strongest_paths(count, through);
                let strengths: Vec<f32> = found.iter().map(GraphPath::strength).collect();
                prop_assert_eq!(strengths, expected);
                prop_assert!(found.iter().all(|path| all.contains(&path.edges)));
            }
        }
    }
}
