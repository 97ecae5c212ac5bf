//! Seeded random weights, for tests of every family.
//!
//! Invariant: a tensor depends on the seed and its name alone, never on the order of loading.

use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::error::Result;
use crate::model::gaussian::normals;

/// Seeded values: norm gains near one, biases and matrices around zero, but large enough that a forgotten bias or gain changes
/// the results.
pub(crate) fn random(seed: u64, name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut digest = crate::model::Fingerprint::default();
    digest.write(&seed.to_le_bytes());
    digest.write(name.as_bytes());
    let mut rng = StdRng::seed_from_u64(digest.finish());
    let count: usize = shape.iter().product();
    let (centre, spread) = match shape {
        [_] if name.ends_with("weight") => (1.0, 0.2),
        [_] => (0.0, 0.2),
        [_, columns, ..] => (0.0, 1.2 / (*columns as f64).sqrt()),
        [] => (0.0, 1.0),
    };
    let values: Vec<f32> = normals(&mut rng, count)
        .into_iter()
        .map(|n| (centre + spread * f64::from(n)) as f32)
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
