//! Standard normal random numbers, for seeded weights, noise, and random directions.
//!
//! Invariant: a generator gives the same numbers on every machine. To draw from another distribution, add a function.

use rand::rngs::StdRng;
use rand_distr::Distribution;

/// Standard normal numbers.
pub fn normals(rng: &mut StdRng, count: usize) -> Vec<f32> {
    rand_distr::StandardNormal
        .sample_iter(rng)
        .take(count)
        .collect()
}
