//! One row under a circuit, on its way up: what its senders have written so far, and what its receivers read of that.
//!
//! Invariant: a change is what a sender writes less what it wrote in the corrupted run. How streams are mixed of them is in
//! [`crate::lab::circuit::mixed`]; to keep something else of a row, add a field to [`RowState`].

use crate::lab::circuit::graph::Receiver;
use crate::lab::circuit::mixed::MixedStreams;
use crate::lab::circuit::states::CircuitRow;

/// One row on its way.
pub(super) struct RowState<'a> {
    pub circuit: &'a CircuitRow,
    /// What every sender wrote, less what it wrote in the corrupted run. What lies below the first block that differs is that of the
    /// run that the row goes on from.
    pub mixed: MixedStreams,
    /// Whether a sender wrote something else than in the run that the row goes on from.
    pub moved: Vec<bool>,
}

impl RowState<'_> {
    /// Whether a receiver reads something else than in the run that the row goes on from.
    pub fn differs(&self, receiver: Receiver) -> bool {
        let circuit = self.circuit;
        circuit
            .graph
            .into_receiver(receiver)
            .enumerate()
            .any(|(sender, edge)| {
                let kept = circuit.edges.contains(edge);
                let before = circuit
                    .base
                    .as_ref()
                    .is_some_and(|base| base.edges.contains(edge));
                let wrote = self.mixed.changes[sender].is_some() || self.moved[sender];
                (kept && self.moved[sender]) || (kept != before && wrote)
            })
    }

    /// Whether a receiver reads of a sender something else than in the corrupted run.
    pub fn reads_change(&self, receiver: Receiver) -> bool {
        let graph = &self.circuit.graph;
        let kept = self.circuit.edges.senders_of(graph, receiver);
        kept.iter()
            .any(|sender| self.mixed.changes[*sender].is_some())
    }
}
