//! Circuits: a model as a graph of what writes into the residual stream and what reads of it, and the edges that are kept.
//!
//! The graph is that of edge attribution patching (Syed, Rager and Conmy 2023, 2310.10348; Hanna, Pezzelle and Belinkov 2024,
//! 2403.17806): the embedding, every head and every MLP send; every head receives three times (its query, its key and its value), every MLP
//! once, and so does the final norm. What a receiver reads under a circuit is the corrupted run's stream with the changes of those
//! senders that it keeps an edge from, normed as it then is. In place of the corrupted run's values it can have the means of what senders
//! write ([`means`]), which are the same for every text: the edit `only` (`lab/only.rs`) runs any text under a circuit with them.
//! Invariant: all of it is plain data; `lab/runner` carries a circuit out ([`super::pass::PassRow::circuit`]). To let a family through
//! that is refused, give its writes a share of their own in [`graph::CircuitGraph::of`] and in the runner's tap.

pub mod edges;
pub mod file;
pub mod graph;
pub mod means;
pub mod mixed;
pub mod states;
