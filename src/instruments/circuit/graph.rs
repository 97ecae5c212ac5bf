//! A circuit as a graph, with the circuits of other sizes as its steps of pruning.
//!
//! Invariant: every step is a circuit that was evaluated; edges are listed only where each has a number of its own. To show something else
//! of a node or an edge, add a field in `figure/graph`.

use super::FoundCircuit;
use super::evaluate::Evaluated;
use super::task::Outside;
use crate::figure::{Anchor, AxisLabel, Graph, GraphEdge, GraphNode, PruningStep};
use crate::lab::circuit::edges::EdgeSet;
use crate::lab::circuit::graph::{CircuitGraph, Receiver, Sender};

/// The most edges of a step that are listed, if the circuit itself does not have more.
const LISTED: usize = 2000;

/// The name of a circuit's shares.
pub fn share(outside: &Outside) -> &'static str {
    match outside.texts() {
        None => "share of the metric (0: corrupted, 1: clean)",
        Some(_) => "share of the metric (0: means alone, 1: clean)",
    }
}

/// What an evaluated circuit keeps, in the numbers of a figure.
pub fn step(own: &Evaluated) -> PruningStep {
    let (least, most) = own.band();
    PruningStep {
        edges: own.edges,
        faithfulness: own.faithfulness as f32,
        without: own.without as f32,
        random_most: most as f32,
        random_least: least as f32,
    }
}

/// The graph of circuits of growing size, the found one among them.
pub fn graph(
    of: &CircuitGraph,
    share: &str,
    found: &FoundCircuit,
    circuits: &[EdgeSet],
    all: &[Evaluated],
) -> Graph {
    // A saved circuit need not hold the strongest of its own edges: what does not nest with it is no step towards it.
    let nested = circuits.iter().zip(all);
    let nested =
        nested.filter(|(own, _)| own.is_within(&found.edges) || found.edges.is_within(own));
    let (circuits, all): (Vec<&EdgeSet>, Vec<&Evaluated>) = nested.unzip();
    let shown = circuits.iter().position(|own| **own == found.edges);
    let shown = shown.unwrap_or_default();
    let small = |own: &&&EdgeSet| found.whole && own.len() <= LISTED.max(found.edges.len());
    let listed = circuits.iter().take_while(small).count().max(shown + 1);
    let listed = listed.min(circuits.len());
    let largest = circuits.get(listed.saturating_sub(1));
    let edges: Vec<usize> = largest.map_or_else(Vec::new, |own| own.iter().collect());
    let senders = senders(of, &edges);
    let mut nodes: Vec<GraphNode> = senders.iter().map(|own| node(of, *own)).collect();
    nodes.push(GraphNode {
        label: Receiver::Logits.name(),
        row: of.layers + 1,
        column: of.heads,
        anchor: Anchor::default(),
    });
    Graph {
        rows: rows(of),
        columns: columns(of),
        weight: found.called.into(),
        share: share.into(),
        edges: listed_edges(of, found, &circuits[..listed], &edges, &senders),
        nodes,
        steps: all.iter().map(|own| step(own)).collect(),
        shown,
        listed,
    }
}

/// The senders that edges lead out of, in the order in which they write.
fn senders(of: &CircuitGraph, edges: &[usize]) -> Vec<Sender> {
    let own = edges.iter().map(|edge| of.ends(*edge).0);
    let mut numbers: Vec<usize> = own.map(|sender| of.sender_number(sender)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().map(|own| of.sender(own)).collect()
}

fn node(of: &CircuitGraph, sender: Sender) -> GraphNode {
    let (row, column, anchor) = match sender {
        Sender::Embedding => (0, of.heads, Anchor::default()),
        Sender::Head { layer, head } => (layer + 1, head, Anchor::head(layer, head)),
        Sender::Mlp { layer } => (layer + 1, of.heads, Anchor::layer(layer)),
    };
    GraphNode {
        label: sender.name(),
        row,
        column,
        anchor,
    }
}

fn rows(of: &CircuitGraph) -> Vec<AxisLabel> {
    let mut rows = vec![AxisLabel::of(Sender::Embedding.name(), Anchor::default())];
    rows.extend(AxisLabel::layers(of.layers));
    rows.push(AxisLabel::of(Receiver::Logits.name(), Anchor::default()));
    rows
}

fn columns(of: &CircuitGraph) -> Vec<AxisLabel> {
    let mut columns: Vec<AxisLabel> = (0..of.heads)
        .map(|head| AxisLabel::of(format!("h{head}"), Anchor::default()))
        .collect();
    columns.push(AxisLabel::of("mlp", Anchor::default()));
    columns
}

/// The edges of growing circuits, each once for every node that it leads into, with the first circuit in which it leads on from there.
fn listed_edges(
    of: &CircuitGraph,
    found: &FoundCircuit,
    circuits: &[&EdgeSet],
    edges: &[usize],
    senders: &[Sender],
) -> Vec<GraphEdge> {
    let leads_on: Vec<Vec<bool>> = circuits
        .iter()
        .map(|own| {
            let mut leads = vec![false; of.senders()];
            own.iter()
                .for_each(|edge| leads[of.sender_number(of.ends(edge).0)] = true);
            leads
        })
        .collect();
    let index = |sender: Sender| senders.iter().position(|own| *own == sender);
    let mut out = Vec::with_capacity(edges.len());
    for edge in edges.iter().copied() {
        let (from, to) = of.ends(edge);
        let name = format!("{}->{}", from.name(), of.label(to));
        let Some(from) = index(from) else { continue };
        let mut push = |to: usize, part: &str, step: Option<usize>| {
            if let Some(step) = step {
                out.push(GraphEdge {
                    name: name.clone(),
                    from,
                    to,
                    part: part.into(),
                    weight: found.scores[edge] as f32,
                    step,
                });
            }
        };
        let first = |leads: &dyn Fn(usize) -> bool| {
            (0..circuits.len()).find(|i| circuits[*i].contains(edge) && leads(*i))
        };
        let part = match to {
            Receiver::Query { .. } => "q",
            Receiver::Key { .. } => "k",
            Receiver::Value { .. } => "v",
            Receiver::Mlp { .. } | Receiver::Logits => "",
        };
        if to == Receiver::Logits {
            push(senders.len(), part, first(&|_| true));
        }
        for reader in of.outputs_of(to) {
            let number = of.sender_number(reader);
            if let Some(node) = index(reader) {
                push(node, part, first(&|i| leads_on[i][number]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers of two heads that share their keys and values.
    const GRAPH: CircuitGraph = CircuitGraph {
        layers: 2,
        heads: 2,
        kv_heads: 1,
        parallel: false,
    };

    fn circuit(names: &[&str]) -> EdgeSet {
        EdgeSet::of(
            &GRAPH,
            names.iter().filter_map(|name| GRAPH.edge_named(name)),
        )
    }

    fn evaluated(own: &EdgeSet) -> Evaluated {
        Evaluated {
            edges: own.len(),
            metric: 0.0,
            faithfulness: 0.1 * own.len() as f64,
            interval: None,
            without: 0.5,
            random: vec![0.25, -0.125],
        }
    }

    fn found(edges: &EdgeSet, whole: bool) -> FoundCircuit {
        FoundCircuit {
            edges: edges.clone(),
            scores: (0..GRAPH.edges()).map(|edge| edge as f64).collect(),
            called: "score",
            whole,
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_shared_value_leads_into_every_head_that_leads_on() {
        let small = circuit(&["input->a1.h0<v>", "a1.h1->logits"]);
        let large = circuit(&[
            "input->a1.h0<v>",
            "a1.h1->logits",
            "a1.h0->logits",
            "input->m0",
            "m0->logits",
        ]);
        let circuits = [small.clone(), large.clone(), EdgeSet::all(&GRAPH)];
        let all: Vec<Evaluated> = circuits.iter().map(evaluated).collect();
        let graph = graph(&GRAPH, "share", &found(&small, true), &circuits, &all);
        assert_eq!((graph.shown, graph.listed, graph.steps.len()), (0, 3, 3));
        let labels = |graph: &Graph| {
            let present = graph.present();
            let nodes = graph.nodes.iter().zip(present);
            let there = nodes.filter(|(_, there)| *there);
            there
                .map(|(node, _)| node.label.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            labels(&graph),
            ["input", "a1.h1", "logits"],
            "h0 leads nowhere"
        );
        let mut graph = graph;
        graph.show_step(1);
        assert_eq!(labels(&graph), ["input", "m0", "a1.h0", "a1.h1", "logits"]);
        let values: Vec<&GraphEdge> = graph
            .edges
            .iter()
            .filter(|edge| edge.name == "input->a1.h0-1<v>")
            .collect();
        assert_eq!(values.len(), 2);
        assert_eq!((values[0].step, values[1].step), (1, 0));
        assert_eq!(graph.nodes[values[0].to].anchor, Anchor::head(1, 0));
        let row = |label: &str| graph.nodes.iter().find(|node| node.label == label);
        let place = |label: &str| row(label).map(|node| (node.row, node.column));
        assert_eq!(place("input"), Some((0, 2)));
        assert_eq!(place("a1.h1"), Some((2, 1)));
        assert_eq!(place("logits"), Some((3, 2)));
        assert_eq!(graph.steps[0].random_most.to_bits(), 0.25f32.to_bits());
        assert_eq!(graph.steps[0].random_least.to_bits(), (-0.125f32).to_bits());
    }

    #[test]
    fn edges_without_a_number_are_not_listed_and_steps_nest() {
        let saved = circuit(&["input->m0", "m0->logits"]);
        let other = circuit(&["input->m1"]);
        let circuits = [other, saved.clone(), EdgeSet::all(&GRAPH)];
        let all: Vec<Evaluated> = circuits.iter().map(evaluated).collect();
        let graph = graph(&GRAPH, "share", &found(&saved, false), &circuits, &all);
        assert_eq!((graph.shown, graph.listed, graph.steps.len()), (0, 1, 2));
        assert_eq!(graph.edges.len(), 2);
        assert!(graph.edges.iter().all(|edge| edge.from < edge.to));
    }
}
