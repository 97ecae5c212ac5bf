//! What senders wrote, less what others have, and the streams that receivers make of it.
//!
//! Invariant: a receiver's stream is the base with the changes of exactly those senders that it keeps an edge from, whichever of two ways
//! to the sum is the shorter. To mix in another way, change [`MixedStreams::mix`].

use std::sync::Arc;

use super::edges::EdgeSet;
use super::graph::{CircuitGraph, Receiver};

/// The changes of senders, each `[tokens, d_model]` from a base that receivers have instead of what they do not keep.
#[derive(Clone, Debug, Default)]
pub struct MixedStreams {
    /// By sender; none where it wrote what the base has of it.
    pub changes: Vec<Option<Arc<Vec<f32>>>>,
    /// The sum of the changes of the first so many senders.
    sum: Vec<f32>,
    summed: usize,
}

impl MixedStreams {
    /// Streams of `each` numbers, with the changes that are known.
    pub fn new(changes: Vec<Option<Arc<Vec<f32>>>>, each: usize) -> Self {
        Self {
            changes,
            sum: vec![0.0; each],
            summed: 0,
        }
    }

    /// The senders of changes that a receiver keeps, and of those that it does not keep.
    pub fn parted(
        &self,
        graph: &CircuitGraph,
        edges: &EdgeSet,
        receiver: Receiver,
    ) -> (Vec<usize>, Vec<usize>) {
        let range = graph.into_receiver(receiver);
        let senders = (0..range.len()).filter(|sender| self.changes[*sender].is_some());
        senders.partition(|sender| edges.contains(range.start + sender))
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

    /// What a receiver reads, `[tokens, d_model]`: the base with the changes that are kept.
    pub fn mix(
        &self,
        graph: &CircuitGraph,
        edges: &EdgeSet,
        receiver: Receiver,
        base: &[f32],
        into: &mut [f32],
    ) {
        into.copy_from_slice(base);
        let (kept, gone) = self.parted(graph, edges, receiver);
        let changes =
            |senders: Vec<usize>| senders.into_iter().filter_map(|s| self.changes[s].as_ref());
        // Of two ways to the same sum the shorter.
        if gone.len() < kept.len() && self.summed == graph.reach(receiver) {
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

/// Adds numbers to others.
pub fn add(into: &mut [f32], x: &[f32]) {
    into.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}
