//! Controls of a direction: random vectors, and what the same method makes of the same prompts with shuffled labels.
//!
//! Invariant: their vectors have the lengths of the direction's own. How shuffled ones are made is in `vectors/contrast.rs`.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Direction, DirectionOrigin, norm, unit};
use crate::model::gaussian::normals;
use crate::model::network::site::Address;

/// A vector for each of some addresses.
pub type DirectionRows = Vec<(Address, Vec<f32>)>;

impl Direction {
    /// The vector of a draw with shuffled labels for an address; none if there is none.
    pub fn shuffled(&self, draw: usize, address: Address) -> Option<Vec<f32>> {
        let count = self.origin.shuffled.len();
        let rows = self.origin.shuffled.get(draw.checked_rem(count)?)?.clone();
        let origin = DirectionOrigin::default();
        let one = Self { rows, origin };
        one.at(address).ok().map(<[f32]>::to_vec)
    }

    /// A random mixture of the vectors with shuffled labels for an address, at their length: what more draws are made of than are saved.
    /// None if there are none. What labels shuffled at random make of the same prompts varies about as much in every direction as
    /// those that are saved do, and so does a mixture of them with normal weights.
    pub fn mixed(&self, seed: u64, address: Address) -> Option<Vec<f32>> {
        let count = self.origin.shuffled.len();
        let first = self.shuffled(0, address)?;
        let weights = normals(&mut StdRng::seed_from_u64(seed), count);
        let mut sum = vec![0f32; first.len()];
        for (draw, weight) in weights.into_iter().enumerate() {
            let own = self.shuffled(draw, address)?;
            sum.iter_mut()
                .zip(own)
                .for_each(|(sum, x)| *sum += weight * x);
        }
        let length = norm(&first);
        Some(unit(&sum).iter().map(|x| x * length).collect())
    }
}

/// A seeded random vector of the same norm: the control of a direction.
pub fn random_like(v: &[f32], seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let raw = normals(&mut rng, v.len());
    let length = norm(v);
    unit(&raw).iter().map(|x| x * length).collect()
}
