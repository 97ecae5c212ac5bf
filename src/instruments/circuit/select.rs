//! Which edges a circuit keeps, from a score of each.
//!
//! Invariant: a budget of more edges gives a circuit that holds that of fewer; edges of equal scores are taken in their order. Edges on no
//! path from the embedding to the logits are left out, so that a circuit may have fewer edges than its budget. To select in another way,
//! add a variant of [`EdgeSelection`].

use std::collections::BinaryHeap;

use crate::instruments::params::choices;
use crate::lab::circuit::edges::EdgeSet;
use crate::lab::circuit::graph::{CircuitGraph, Receiver};

choices! {
    /// How edges are chosen from their scores.
    pub enum EdgeSelection {
        /// The strongest of all.
        Top = "top",
        /// From the logits down, the strongest of those that lead into what is chosen already.
        Greedy = "greedy",
    }
}

impl EdgeSelection {
    /// The circuit of so many edges.
    pub fn circuit(self, graph: &CircuitGraph, scores: &[f64], budget: usize) -> EdgeSet {
        first(graph, &self.order(graph, scores), budget)
    }

    /// The edges in the order in which a growing budget takes them.
    pub fn order(self, graph: &CircuitGraph, scores: &[f64]) -> Vec<usize> {
        match self {
            Self::Top => {
                let mut order: Vec<usize> = (0..scores.len()).collect();
                order.sort_by(|a, b| scores[*b].abs().total_cmp(&scores[*a].abs()));
                order
            }
            Self::Greedy => greedy(graph, scores),
        }
    }
}

/// The first edges of an order that lie on a path.
pub fn first(graph: &CircuitGraph, order: &[usize], count: usize) -> EdgeSet {
    EdgeSet::of(graph, order.iter().take(count).copied()).connected(graph)
}

/// An edge that waits to be taken: the strongest first, of equal ones the one with the lower number.
#[derive(PartialEq)]
struct Waiting {
    strength: f64,
    edge: usize,
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let strength = self.strength.total_cmp(&other.strength);
        strength.then(other.edge.cmp(&self.edge))
    }
}

/// Prim's way: from the logits, always the strongest edge into a node that is there.
fn greedy(graph: &CircuitGraph, scores: &[f64]) -> Vec<usize> {
    let mut heap = BinaryHeap::new();
    let mut there = vec![false; graph.receivers()];
    let open = |receiver: Receiver, there: &mut Vec<bool>, heap: &mut BinaryHeap<Waiting>| {
        let number = graph.receiver_number(receiver);
        if !std::mem::replace(&mut there[number], true) {
            heap.extend(graph.into_receiver(receiver).map(|edge| Waiting {
                strength: scores[edge].abs(),
                edge,
            }));
        }
    };
    open(Receiver::Logits, &mut there, &mut heap);
    let mut order = Vec::with_capacity(scores.len());
    while let Some(next) = heap.pop() {
        order.push(next.edge);
        let (from, _) = graph.ends(next.edge);
        for receiver in graph.inputs_of(from) {
            open(receiver, &mut there, &mut heap);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_budget_holds_the_circuit_of_a_smaller_one() {
        let graph = CircuitGraph {
            layers: 3,
            heads: 2,
            kv_heads: 1,
            parallel: false,
        };
        // Numbers that are nobody's scores, with ties.
        let scores: Vec<f64> = (0..graph.edges())
            .map(|i| ((i * 37) % 23) as f64 - 11.0)
            .collect();
        for selection in [EdgeSelection::Top, EdgeSelection::Greedy] {
            let mut before = EdgeSet::none(&graph);
            for budget in 0..=graph.edges() {
                let own = selection.circuit(&graph, &scores, budget);
                assert!(before.is_within(&own), "{budget}");
                assert!(own.len() <= budget);
                before = own;
            }
            assert_eq!(before.len(), graph.edges());
        }
        // From the logits down, every edge leads somewhere as soon as it is taken.
        let order = EdgeSelection::Greedy.order(&graph, &scores);
        let (_, first) = graph.ends(order[0]);
        assert_eq!(first, Receiver::Logits);
    }
}
