//! Graphs: nodes in rows, and weighted edges between them, one of the shapes of a figure. A circuit is one.
//!
//! A graph is shown at one of several pruning steps, each with what it keeps: the circuit of that many edges. [`walk`] is how a cursor
//! goes along its edges, [`paths`] which ways through it are strongest.
//! Invariant: an edge leads from a node to a later one, so that there is no circle; a step keeps what every smaller one keeps; every number
//! of a step was measured, none is a sum of weights. To show something else of a graph, add a method here.

pub mod paths;
pub mod walk;

use serde::{Deserialize, Serialize};

use super::builders::entries;
use super::series::number;
use super::{Anchor, AxisLabel, Curve, Entry, Scale, Series, Style, Table, TablePage, TableRow};

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GraphNode {
    /// Safe visible text.
    pub label: String,
    /// The index of its row, from the one drawn at the bottom up.
    pub row: usize,
    /// The index of its column.
    pub column: usize,
    /// The head or the layer that it is about; empty for what is in no layer.
    pub anchor: Anchor,
}

/// One edge. An edge into a key or value that several heads share stands once for each of them, under one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GraphEdge {
    /// Its name in files.
    pub name: String,
    /// The index of the node that it leads out of.
    pub from: usize,
    /// The index of the node that it leads into.
    pub to: usize,
    /// What of that node it leads into: `q`, `k` or `v` of a head; empty where there is only one.
    pub part: String,
    #[serde(deserialize_with = "number")]
    pub weight: f32,
    /// The first pruning step, of growing ones, that keeps it.
    pub step: usize,
}

/// The parameter of an instrument that prunes its graph to a number of edges.
pub const PRUNED_TO: &str = "keep";

/// What the graph pruned to a number of edges keeps, as shares of a metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PruningStep {
    pub edges: usize,
    /// The share that is left with these edges alone.
    #[serde(deserialize_with = "number")]
    pub faithfulness: f32,
    /// The share that is left without them.
    #[serde(deserialize_with = "number")]
    pub without: f32,
    /// The most that a random graph of this size keeps.
    #[serde(deserialize_with = "number")]
    pub random_most: f32,
    /// The least that a random graph of this size keeps.
    #[serde(deserialize_with = "number")]
    pub random_least: f32,
}

/// Nodes in rows and columns, edges, and the steps of pruning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The labels of the rows, from the bottom up: where values enter, the layers, where they leave.
    pub rows: Vec<AxisLabel>,
    /// The labels of the columns.
    pub columns: Vec<AxisLabel>,
    /// The name of the weights.
    pub weight: String,
    /// The name of the steps' numbers.
    pub share: String,
    /// In the order in which they write.
    pub nodes: Vec<GraphNode>,
    pub edges: Vec<GraphEdge>,
    /// From the fewest edges to the most. Edges of the last ones may not be listed.
    pub steps: Vec<PruningStep>,
    /// The index of the step that is shown.
    pub shown: usize,
    /// How many steps have their edges listed.
    pub listed: usize,
}

/// Which way edges are looked at from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeEnd {
    /// Edges into the node.
    Into,
    /// Edges out of the node.
    OutOf,
}

impl GraphEdge {
    /// How much it counts in an order by strength; nothing if the weight is not finite.
    pub fn strength(&self) -> f32 {
        if self.weight.is_finite() {
            self.weight.abs()
        } else {
            0.0
        }
    }

    /// The node at one end, seen from the other.
    pub fn other(&self, end: EdgeEnd) -> usize {
        match end {
            EdgeEnd::Into => self.from,
            EdgeEnd::OutOf => self.to,
        }
    }
}

impl Graph {
    /// Shows a step whose edges are listed, or the nearest such one.
    pub fn show_step(&mut self, step: usize) {
        self.shown = step.min(self.listed.min(self.steps.len()).saturating_sub(1));
    }

    /// The step that is shown.
    pub fn step(&self) -> Option<&PruningStep> {
        self.steps.get(self.shown)
    }

    /// Whether the shown step keeps an edge.
    pub fn keeps(&self, edge: &GraphEdge) -> bool {
        let known = edge.from < self.nodes.len() && edge.to < self.nodes.len();
        known && edge.step <= self.shown
    }

    /// The indices of the edges that the shown step keeps, the strongest first.
    pub fn kept(&self) -> Vec<usize> {
        self.by_strength(|_| true)
    }

    /// The edges into or out of a node that the shown step keeps, the strongest first.
    pub fn at(&self, node: usize, end: EdgeEnd) -> Vec<usize> {
        self.by_strength(|edge| match end {
            EdgeEnd::Into => edge.to == node,
            EdgeEnd::OutOf => edge.from == node,
        })
    }

    fn by_strength(&self, wanted: impl Fn(&GraphEdge) -> bool) -> Vec<usize> {
        let all = 0..self.edges.len();
        let kept = all.filter(|i| self.keeps(&self.edges[*i]) && wanted(&self.edges[*i]));
        let mut kept: Vec<usize> = kept.collect();
        kept.sort_by(|a, b| {
            let (a, b) = (&self.edges[*a], &self.edges[*b]);
            b.strength().total_cmp(&a.strength())
        });
        kept
    }

    /// Whether the shown step has each node: one that an edge leads into or out of.
    pub fn present(&self) -> Vec<bool> {
        let mut present = vec![false; self.nodes.len()];
        for edge in self.edges.iter().filter(|edge| self.keeps(edge)) {
            present[edge.from] = true;
            present[edge.to] = true;
        }
        present
    }

    /// The largest finite weight's magnitude; at least a small positive number.
    pub fn reach(&self) -> f32 {
        let all = self.edges.iter().map(GraphEdge::strength);
        all.fold(1e-6, f32::max)
    }

    /// The label of a node; empty if there is none.
    pub fn label(&self, node: usize) -> &str {
        self.nodes.get(node).map_or("", |node| node.label.as_str())
    }

    /// The receiving end of an edge: `a4.h1<v>`.
    pub fn into_label(&self, edge: &GraphEdge) -> String {
        let node = self.label(edge.to);
        if edge.part.is_empty() {
            node.to_owned()
        } else {
            format!("{node}<{}>", edge.part)
        }
    }

    /// Faithfulness and what stands beside it, against the number of edges.
    pub fn curve(&self) -> Series {
        curve(&self.steps, &self.share)
    }

    /// The edges that the shown step keeps, strongest first, as rows at the nodes that they lead out of.
    pub fn edge_table(&self) -> Table {
        let rows = self.kept().into_iter().enumerate().map(|(place, edge)| {
            let edge = &self.edges[edge];
            let (from, to) = (self.label(edge.from), self.into_label(edge));
            let smallest = self.steps.get(edge.step).map_or(0, |step| step.edges);
            let entries = entries![place + 1, from, to, edge.weight, smallest];
            TableRow::at(self.nodes[edge.from].anchor, entries)
        });
        let columns = ["", "from", "to", self.weight.as_str(), "in circuits from"];
        Table::of(&columns, rows.collect())
    }

    /// The steps as rows; the one that is shown is marked.
    pub fn step_table(&self) -> Table {
        let mut table = self.curve().table();
        table.columns.push("shown".into());
        let rows = table
            .pages
            .iter_mut()
            .flat_map(|page: &mut TablePage| &mut page.rows);
        for (step, row) in rows.enumerate() {
            let mark = if step == self.shown { "yes" } else { "" };
            row.entries.push(Entry::Text(mark.into()));
        }
        table
    }
}

/// What pruning keeps, as curves over the number of edges.
pub fn curve(steps: &[PruningStep], share: &str) -> Series {
    let line = |label: &str, of: fn(&PruningStep) -> f32| {
        Curve::of(label, Anchor::default(), steps.iter().map(of).collect())
    };
    let curves = vec![
        line("faithfulness", |step| step.faithfulness),
        line("without it", |step| step.without),
        line("random, most", |step| step.random_most),
        line("random, least", |step| step.random_least),
    ];
    let numbers = curves.iter().flat_map(|curve| curve.values.iter().copied());
    let numbers = numbers.filter(|number| number.is_finite());
    let (lo, hi) = numbers.fold((0.0f32, 1.0f32), |(lo, hi), x| (lo.min(x), hi.max(x)));
    let points = steps
        .iter()
        .map(|step| AxisLabel::of(step.edges.to_string(), Anchor::default()));
    Series {
        axis: "edges".into(),
        value: share.into(),
        points: points.collect(),
        curves,
        scale: Scale::Range { lo, hi },
        style: Style::Lines,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// Nodes by their labels in rows, and edges `from to part weight step`.
    pub(crate) fn graph(
        nodes: &[(&str, usize)],
        edges: &[(usize, usize, &str, f32, usize)],
    ) -> Graph {
        let node = |(i, (label, row)): (usize, &(&str, usize))| GraphNode {
            label: (*label).into(),
            row: *row,
            column: i,
            anchor: Anchor::layer(*row),
        };
        let edge = |(from, to, part, weight, step): &(usize, usize, &str, f32, usize)| GraphEdge {
            name: format!("{from}->{to}{part}"),
            from: *from,
            to: *to,
            part: (*part).into(),
            weight: *weight,
            step: *step,
        };
        Graph {
            nodes: nodes.iter().enumerate().map(node).collect(),
            edges: edges.iter().map(edge).collect(),
            steps: vec![PruningStep::default(); 3],
            shown: 1,
            listed: 3,
            ..Graph::default()
        }
    }

    /// `0 -> 1 -> 3`, `0 -> 2 -> 3`, with a second edge from 0 into 1, and one that a later step brings.
    pub(crate) fn diamond() -> Graph {
        graph(
            &[("in", 0), ("a", 1), ("b", 1), ("out", 2)],
            &[
                (0, 1, "q", -2.0, 0),
                (0, 1, "v", 5.0, 0),
                (0, 2, "", 3.0, 0),
                (1, 3, "", 1.0, 0),
                (2, 3, "", -4.0, 1),
                (0, 3, "", 9.0, 2),
            ],
        )
    }

    #[test]
    fn a_step_keeps_its_edges_and_their_nodes() {
        let mut graph = diamond();
        assert_eq!(graph.kept(), [1, 4, 2, 0, 3], "the strongest first");
        assert_eq!(graph.at(0, EdgeEnd::OutOf), [1, 2, 0]);
        assert_eq!(graph.at(3, EdgeEnd::Into), [4, 3]);
        graph.show_step(0);
        assert_eq!(graph.kept(), [1, 2, 0, 3]);
        graph.edges[2].step = 1;
        assert_eq!(graph.present(), [true, true, false, true]);
        graph.listed = 2;
        graph.show_step(7);
        assert_eq!(graph.shown, 1, "only steps whose edges are listed");
    }

    #[test]
    fn tables_say_what_is_shown() {
        let mut graph = diamond();
        graph.steps[1].edges = 5;
        graph.steps[1].faithfulness = 0.75;
        let rows = &graph.edge_table().pages[0].rows;
        assert_eq!(rows.len(), 5);
        assert_eq!(rows[0].entries[2], Entry::Text("a<v>".into()));
        assert_eq!(rows[1].entries[4], Entry::Whole(5));
        let table = graph.step_table();
        assert_eq!(table.columns[1], "faithfulness");
        let marks = table.pages[0].rows.iter().map(|row| row.entries[5].clone());
        let marks: Vec<Entry> = marks.collect();
        assert_eq!(marks, ["", "yes", ""].map(Entry::from));
        assert_eq!(table.pages[0].rows[1].entries[1], Entry::Number(0.75));
    }

    #[test]
    fn what_is_no_number_has_no_strength_and_survives_a_file() {
        let mut graph = diamond();
        graph.edges[1].weight = f32::NAN;
        assert_eq!(graph.at(0, EdgeEnd::OutOf), [2, 0, 1]);
        let text = serde_json::to_string(&graph).unwrap();
        let back: Graph = serde_json::from_str(&text).unwrap();
        assert!(back.edges[1].weight.is_nan());
        assert_eq!(back.edges[2..], graph.edges[2..]);
    }
}
