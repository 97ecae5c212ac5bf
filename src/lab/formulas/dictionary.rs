//! The formulas of edits of features (M5 and B9 of docs/methods.md; Cunningham 2309.08600, Bricken et al. 2023).
//!
//! What the dictionary leaves out is kept: `x + Σ (f' − f)·w` with the features' vectors `w`, times what undoes the norm of a row.
//! Dictionaries are read on the host, because their matrices stay in their files: on another device that is one read-back of a
//! place and pass.
//! Invariant: where no activation changes, the value keeps every bit. To change something else of a dictionary, add a variant of
//! [`DictionaryOperation`].

use std::sync::Arc;

use candle_core::{DType, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Numbers;
use crate::edit::direction::{norm, unit};
use crate::error::{Error, Result};
use crate::lab::features::{FeatureDictionary, FeatureReader};
use crate::model::gaussian::normals;
use crate::model::host::ToHost;
use crate::model::network::site::Address;

/// A change that a dictionary makes at one address.
#[derive(Clone, Debug)]
pub(crate) struct DictionaryChange {
    /// What it reads, in the order of its inputs.
    pub(crate) reads: Vec<Address>,
    pub(crate) kind: DictionaryOperation,
}

/// What is done to its features.
#[derive(Clone, Debug)]
pub(crate) enum DictionaryOperation {
    /// The activations of some features.
    Units {
        reader: Arc<dyn FeatureReader>,
        target: usize,
        /// `f' − f = slope·f + offset`.
        slope: f64,
        /// `[features]`.
        offsets: Vec<f64>,
        /// `[features, width]`.
        vectors: Numbers<f32>,
    },
    /// The reconstruction by the dictionaries that write here, each with its target and how many inputs of `reads` are its own.
    Splice {
        parts: Vec<(Arc<dyn FeatureDictionary>, usize)>,
        strength: f64,
        /// The seed of the control: a change of equal norm in a random direction.
        control: Option<u64>,
    },
}

impl DictionaryChange {
    /// Changes rows `[rows, width]` in place, whose inputs are these and whose positions those. A row with an input that is not
    /// finite is left as it is.
    pub(crate) fn on(&self, x: &mut [f32], inputs: &[&[f32]], positions: &[usize]) -> Result<()> {
        let width = x.len() / positions.len().max(1);
        match &self.kind {
            DictionaryOperation::Units {
                reader,
                target,
                slope,
                offsets,
                vectors,
            } => {
                let read = reader.read(*target, inputs)?;
                let rows = x.chunks_exact_mut(width.max(1));
                let read = read.activations.chunks_exact(offsets.len()).zip(read.undo);
                for (row, (activations, undo)) in rows.zip(read) {
                    let features = activations.iter().zip(offsets);
                    for ((f, offset), vector) in features.zip(vectors.host.chunks_exact(width)) {
                        let shift = (slope * f64::from(*f) + offset) * f64::from(undo);
                        if shift != 0.0 {
                            let pairs = row.iter_mut().zip(vector);
                            pairs.for_each(|(x, w)| {
                                *x = (f64::from(*x) + shift * f64::from(*w)) as f32;
                            });
                        }
                    }
                }
            }
            DictionaryOperation::Splice {
                parts,
                strength,
                control,
            } => {
                let made = reconstruction(parts, inputs, x.len())?;
                let rows = x
                    .chunks_exact_mut(width.max(1))
                    .zip(made.chunks_exact(width.max(1)));
                for ((row, made), position) in rows.zip(positions) {
                    match control {
                        None => towards(row, made, *strength),
                        Some(seed) => {
                            let moved = row.iter().zip(made).map(|(x, m)| m - x);
                            let size = norm(&moved.collect::<Vec<f32>>());
                            let seed = seed.wrapping_add(*position as u64);
                            let random = unit(&normals(&mut StdRng::seed_from_u64(seed), width));
                            let by = *strength as f32 * size;
                            row.iter_mut().zip(random).for_each(|(x, r)| *x += by * r);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The same on `[batch, tokens, width]`, where a gradient follows it: which features are active is held.
    pub(crate) fn on_tensor(&self, x: &Tensor, inputs: &[Tensor]) -> Result<Tensor> {
        let DictionaryOperation::Units {
            reader,
            target,
            slope,
            offsets,
            vectors,
        } = &self.kind
        else {
            return Err(Error::argument(
                "edit",
                "splice",
                "no splice of a dictionary where a gradient is taken: which features are active changes with the values. Switch it off",
            ));
        };
        let wide = |t: &Tensor| t.to_dtype(DType::F32);
        let inputs = inputs
            .iter()
            .map(wide)
            .collect::<candle_core::Result<Vec<_>>>()?;
        let host = |t: &Tensor| t.detach().flatten_all()?.host_vec1::<f32>();
        let rows = inputs
            .iter()
            .map(host)
            .collect::<candle_core::Result<Vec<_>>>()?;
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let read = reader.read(*target, &rows)?;
        let (batch, tokens, width) = x.dims3()?;
        let shape = (batch, tokens, offsets.len());
        let active = read
            .activations
            .iter()
            .map(|f| f32::from(u8::from(*f != 0.0)));
        let active = Tensor::from_vec(active.collect::<Vec<f32>>(), shape, x.device())?;
        let (activations, undo) = reader.differentiable(*target, &inputs)?;
        let offsets: Vec<f32> = offsets.iter().map(|o| *o as f32).collect();
        let offsets = Tensor::new(offsets, x.device())?;
        let shift = ((activations * active)? * *slope)?.broadcast_add(&offsets)?;
        let vectors = vectors.tensor.reshape(((), width))?;
        let moved = shift.broadcast_matmul(&vectors)?.broadcast_mul(&undo)?;
        Ok((wide(x)? + moved)?.to_dtype(x.dtype())?)
    }
}

/// What the parts make together: `[rows, width]`.
fn reconstruction(
    parts: &[(Arc<dyn FeatureDictionary>, usize)],
    inputs: &[&[f32]],
    length: usize,
) -> Result<Vec<f32>> {
    let mut made = vec![0f32; length];
    let mut first = 0;
    for (part, target) in parts {
        let own = &inputs[first..first + part.reads().len()];
        let sums = part.reconstruct(*target, own)?;
        made.iter_mut().zip(sums).for_each(|(m, s)| *m += s);
        first += part.reads().len();
    }
    Ok(made)
}

/// `x + c·(to − x)`; where both are equal, `x` keeps its bits, and at `c` = 1 it becomes the other.
fn towards(x: &mut [f32], to: &[f32], c: f64) {
    for (x, to) in x.iter_mut().zip(to) {
        #[allow(clippy::float_cmp)] // exactly equal, exactly full strength
        if *x == *to {
            continue;
        }
        #[allow(clippy::float_cmp)] // at exactly 1 the target itself, not a rounding of it
        if c == 1.0 {
            *x = *to;
        } else {
            *x = (f64::from(*x) + (f64::from(*to) - f64::from(*x)) * c) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_equal_keeps_its_bits() {
        let mut x = [0.5f32, -0.0, 3.0];
        towards(&mut x, &[0.5, 0.0, 1.0], 0.5);
        assert_eq!(x.map(f32::to_bits), [0.5f32, -0.0, 2.0].map(f32::to_bits));
        towards(&mut x, &[0.1, 0.0, 1.0], 1.0);
        assert_eq!(x.map(f32::to_bits), [0.1f32, -0.0, 1.0].map(f32::to_bits));
    }
}
