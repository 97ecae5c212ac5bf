//! One row under a circuit, on its way up: what its senders have written so far, and what its receivers read of that.
//!
//! Invariant: a change is what a sender writes less what it wrote in the corrupted run. To mix in another way, change [`RowState::mix`].

use std::sync::Arc;

use crate::lab::circuit::graph::Receiver;
use crate::lab::circuit::states::CircuitRow;

/// One row on its way.
pub(super) struct RowState<'a> {
    pub circuit: &'a CircuitRow,
    /// What every sender wrote, less what it wrote in the corrupted run, `[tokens, d_model]`; none where that is nothing. What lies
    /// below the first block that differs is that of the run that the row goes on from.
    pub changes: Vec<Option<Arc<Vec<f32>>>>,
    /// Whether a sender wrote something else than in the run that the row goes on from.
    pub moved: Vec<bool>,
    /// The sum of the changes of the first so many senders.
    pub sum: Vec<f32>,
    pub summed: usize,
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
                let wrote = self.changes[sender].is_some() || self.moved[sender];
                (kept && self.moved[sender]) || (kept != before && wrote)
            })
    }

    /// Whether a receiver reads of a sender something else than in the corrupted run.
    pub fn reads_change(&self, receiver: Receiver) -> bool {
        let graph = &self.circuit.graph;
        let kept = self.circuit.edges.senders_of(graph, receiver);
        kept.iter().any(|sender| self.changes[*sender].is_some())
    }

    /// The senders of changes that a receiver keeps, and of those that it does not keep.
    pub fn parted(&self, receiver: Receiver) -> (Vec<usize>, Vec<usize>) {
        let range = self.circuit.graph.into_receiver(receiver);
        let senders = (0..range.len()).filter(|sender| self.changes[*sender].is_some());
        senders.partition(|sender| self.circuit.edges.contains(range.start + sender))
    }

    /// Brings the sum up to the first so many senders.
    pub fn sum_up(&mut self, senders: usize) {
        for sender in self.summed..senders {
            if let Some(own) = &self.changes[sender] {
                add(&mut self.sum, own);
            }
        }
        self.summed = self.summed.max(senders);
    }

    /// What a receiver reads, `[tokens, d_model]`: the corrupted stream with the changes that are kept.
    pub fn mix(&self, receiver: Receiver, corrupted: &[f32], into: &mut [f32]) {
        into.copy_from_slice(corrupted);
        let (kept, gone) = self.parted(receiver);
        let changes =
            |senders: Vec<usize>| senders.into_iter().filter_map(|s| self.changes[s].as_ref());
        // Of two ways to the same sum the shorter.
        if gone.len() < kept.len() && self.summed == self.circuit.graph.reach(receiver) {
            add(into, &self.sum);
            for change in changes(gone) {
                into.iter_mut()
                    .zip(change.iter())
                    .for_each(|(x, y)| *x -= y);
            }
        } else {
            changes(kept).for_each(|change| add(into, change));
        }
    }
}

fn add(into: &mut [f32], x: &[f32]) {
    into.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}
