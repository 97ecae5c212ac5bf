//! Linear relations: the affine map that takes the state of a subject to the state from which its object is read (linear
//! relational embedding, LRE; Hernandez et al. 2024, 2308.09124).
//!
//! [`pairs`] reads relations from files, [`states`] asks the model about subjects, [`jacobian`] takes derivatives, [`fit`] makes
//! the map and chooses where it is read and how it is scaled. Invariant: nothing is chosen on a subject that is held out. What
//! is claimed of a map is counted in `instruments/relation`.

pub mod fit;
pub mod jacobian;
pub mod pairs;
pub mod states;
