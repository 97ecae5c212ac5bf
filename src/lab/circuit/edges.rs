//! Sets of edges of a graph: which a circuit keeps.
//!
//! Invariant: a set belongs to one graph, and has as many bits as that has edges. To ask something else of a circuit's shape, add a method here.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::graph::{CircuitGraph, Receiver, Sender};

/// Some edges of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EdgeSet {
    bits: Vec<u64>,
    edges: usize,
}

impl EdgeSet {
    /// No edge.
    pub fn none(graph: &CircuitGraph) -> Self {
        let edges = graph.edges();
        Self {
            bits: vec![0; edges.div_ceil(64)],
            edges,
        }
    }

    /// Every edge.
    pub fn all(graph: &CircuitGraph) -> Self {
        Self::of(graph, 0..graph.edges())
    }

    /// These edges.
    pub fn of(graph: &CircuitGraph, edges: impl IntoIterator<Item = usize>) -> Self {
        let mut own = Self::none(graph);
        edges.into_iter().for_each(|edge| own.set(edge, true));
        own
    }

    /// Every edge that is not in this set.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut own = self.clone();
        own.bits.iter_mut().for_each(|bits| *bits = !*bits);
        let spare = own.bits.len() * 64 - own.edges;
        if let Some(last) = own.bits.last_mut() {
            *last = (*last << spare) >> spare;
        }
        own
    }

    pub fn contains(&self, edge: usize) -> bool {
        self.bits[edge / 64] >> (edge % 64) & 1 == 1
    }

    pub fn set(&mut self, edge: usize, kept: bool) {
        let bit = 1 << (edge % 64);
        if kept {
            self.bits[edge / 64] |= bit;
        } else {
            self.bits[edge / 64] &= !bit;
        }
    }

    /// How many edges it has.
    pub fn len(&self) -> usize {
        self.bits
            .iter()
            .map(|bits| bits.count_ones() as usize)
            .sum()
    }

    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|bits| *bits == 0)
    }

    /// Its edges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.edges).filter(|edge| self.contains(*edge))
    }

    /// The numbers of the senders from which a receiver keeps an edge.
    pub fn senders_of(&self, graph: &CircuitGraph, receiver: Receiver) -> Vec<usize> {
        let range = graph.into_receiver(receiver);
        let start = range.start;
        let kept = range.filter(|edge| self.contains(*edge));
        kept.map(|edge| edge - start).collect()
    }

    /// The first edge that is in one of two sets alone.
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        let mut words = self.bits.iter().zip(&other.bits).enumerate();
        words.find_map(|(i, (own, other))| {
            let apart = own ^ other;
            (apart != 0).then(|| i * 64 + apart.trailing_zeros() as usize)
        })
    }

    /// Whether every edge of this set is in the other.
    pub fn is_within(&self, other: &Self) -> bool {
        let mut pairs = self.bits.iter().zip(&other.bits);
        self.edges == other.edges && pairs.all(|(own, other)| own & !other == 0)
    }

    /// The same without edges that lie on no path from the embedding to the logits: into a node whose output goes nowhere, or
    /// from one that nothing reaches. Such edges change nothing, the ones, or bring nothing, the others.
    #[must_use]
    pub fn connected(&self, graph: &CircuitGraph) -> Self {
        let mut own = self.clone();
        // Senders that the embedding reaches, in the order in which they write.
        let mut reached = vec![false; graph.senders()];
        for number in 0..graph.senders() {
            let sender = graph.sender(number);
            let inputs = graph.inputs_of(sender);
            let mut inputs = inputs.iter().flat_map(|at| own.senders_of(graph, *at));
            reached[number] = sender == Sender::Embedding || inputs.any(|from| reached[from]);
        }
        for edge in self.iter() {
            let (from, _) = graph.ends(edge);
            own.set(edge, reached[graph.sender_number(from)]);
        }
        let used = own.receivers_that_lead(graph);
        for (number, leads) in used.into_iter().enumerate() {
            if !leads {
                let range = graph.into_receiver(graph.receiver(number));
                range.for_each(|edge| own.set(edge, false));
            }
        }
        own
    }

    /// Random edges, as many into each block, and into the logits, as this set has: a control of equal size.
    #[must_use]
    pub fn random_like(&self, graph: &CircuitGraph, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let block = |edge: usize| graph.ends(edge).1.layer().unwrap_or(graph.layers);
        let mut pools: Vec<Vec<usize>> = vec![Vec::new(); graph.layers + 1];
        (0..graph.edges()).for_each(|edge| pools[block(edge)].push(edge));
        let mut counts = vec![0; pools.len()];
        self.iter().for_each(|edge| counts[block(edge)] += 1);
        let chosen = pools.iter_mut().zip(counts).flat_map(|(pool, count)| {
            pool.shuffle(&mut rng);
            pool[..count].to_vec()
        });
        Self::of(graph, chosen.collect::<Vec<_>>())
    }

    /// By receiver, whether what it reads can reach the logits over edges of this set.
    pub fn receivers_that_lead(&self, graph: &CircuitGraph) -> Vec<bool> {
        let mut used = vec![false; graph.senders()];
        let mut out = vec![false; graph.receivers()];
        // The latest first, so that what a sender reaches is known before what reaches it.
        for number in (0..graph.receivers()).rev() {
            let receiver = graph.receiver(number);
            let outputs = graph.outputs_of(receiver);
            let mut outputs = outputs.iter().map(|to| used[graph.sender_number(*to)]);
            out[number] = receiver == Receiver::Logits || outputs.any(|used| used);
            if out[number] {
                let kept = self.senders_of(graph, receiver);
                kept.into_iter().for_each(|sender| used[sender] = true);
            }
        }
        out
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn graph() -> CircuitGraph {
        CircuitGraph {
            layers: 2,
            heads: 2,
            kv_heads: 1,
            parallel: false,
        }
    }

    #[test]
    fn a_set_and_its_complement_share_nothing_and_are_everything() {
        let graph = graph();
        let some = EdgeSet::of(&graph, [0, 3, 11]);
        let others = some.complement();
        assert_eq!(some.len() + others.len(), graph.edges());
        assert!(some.iter().all(|edge| !others.contains(edge)));
        assert_eq!(others.complement(), some);
        assert_eq!(EdgeSet::none(&graph).complement(), EdgeSet::all(&graph));
        assert!(some.is_within(&EdgeSet::all(&graph)) && !EdgeSet::all(&graph).is_within(&some));
    }

    #[test]
    fn only_edges_on_a_path_from_the_embedding_to_the_logits_stay() {
        let graph = graph();
        let named = |names: &[&str]| {
            let edges = names.iter().map(|name| graph.edge_named(name).unwrap());
            EdgeSet::of(&graph, edges)
        };
        let path = ["input->a0.h0<v>", "a0.h1->m1", "m1->logits"];
        // A value is shared by the heads of its group: what enters it reaches the second head as well.
        assert_eq!(named(&path).connected(&graph), named(&path));
        let dangling = named(&[
            "input->a0.h0<v>",
            "a0.h1->m1",
            "m0->logits",
            "input->logits",
        ]);
        assert_eq!(dangling.connected(&graph), named(&["input->logits"]));
    }

    #[test]
    fn a_control_has_as_many_edges_into_every_block() {
        let graph = CircuitGraph {
            layers: 4,
            heads: 3,
            kv_heads: 3,
            parallel: false,
        };
        let circuit = EdgeSet::of(&graph, (0..graph.edges()).filter(|edge| edge % 7 == 0));
        let into = |of: &EdgeSet, layer: Option<usize>| {
            let own = of
                .iter()
                .filter(|edge| graph.ends(*edge).1.layer() == layer);
            own.count()
        };
        let (one, other) = (
            circuit.random_like(&graph, 1),
            circuit.random_like(&graph, 2),
        );
        assert_ne!(one, other);
        assert_eq!(one, circuit.random_like(&graph, 1));
        for layer in (0..4).map(Some).chain([None]) {
            assert_eq!(into(&one, layer), into(&circuit, layer));
        }
        assert_ne!(one, circuit);
    }
}
