//! The gradient of a product with respect to its input: `by W`.
//!
//! Invariant: it is computed in f32 from the weights as they are stored, unpacked strip by strip; the rows of the result are
//! independent of each other. To support another storage of weights, add its arm here.

use super::attention::{HeadShape, Kept, Segment, mix};
use super::dense::PlainWeights;
use super::product::StoredRows;

/// How many rows of quantized weights are unpacked at once.
const STRIP: usize = 512;

/// The product of `by`, `[rows, out]`, with `W`, `[out, input]`: `y`, `[rows, input]`.
pub fn backward(input: usize, weights: &StoredRows, by: &[f32], y: &mut [f32]) {
    let rows = y.len() / input;
    let shape = HeadShape {
        batch: 1,
        heads: 1,
        group: 1,
        tokens: rows,
        width: input,
    };
    match weights {
        StoredRows::Plain(PlainWeights::F32(w)) => {
            mix(shape, by, &[all(Kept::F32(w), w.len() / input)], y);
        }
        StoredRows::Plain(PlainWeights::F16(w)) => {
            mix(shape, by, &[all(Kept::F16(w), w.len() / input)], y);
        }
        StoredRows::Plain(PlainWeights::Bf16(w)) => {
            mix(shape, by, &[all(Kept::Bf16(w), w.len() / input)], y);
        }
        StoredRows::Packed(packed, range) => {
            y.fill(0.0);
            let mut part = vec![0f32; y.len()];
            for start in range.clone().step_by(STRIP) {
                let end = range.end.min(start + STRIP);
                let unpacked = packed.rows(start..end);
                let columns = start - range.start..end - range.start;
                let by: Vec<f32> = by
                    .chunks_exact(range.len())
                    .flat_map(|row| row[columns.clone()].iter().copied())
                    .collect();
                mix(
                    shape,
                    &by,
                    &[all(Kept::F32(&unpacked), end - start)],
                    &mut part,
                );
                y.iter_mut().zip(&part).for_each(|(y, part)| *y += part);
            }
        }
    }
}

/// Rows of weights as the values of `positions` positions.
fn all(kept: Kept, positions: usize) -> Segment {
    Segment {
        kept,
        batch: 0,
        head: 0,
        positions,
    }
}
