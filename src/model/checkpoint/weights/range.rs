//! Tests whether weights are within the range of f16.
//!
//! Invariant: the answer is yes only if every number of the checkpoint becomes a finite f16; weights that cannot be tested are
//! not within. To support another source, add its arm in [`Weights::within_f16`].

use ::safetensors::Dtype;
use candle_core::DType;
use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use super::{TensorSource, Weights};

/// How many numbers are tested at once.
const STRIP: usize = 1 << 20;

impl Weights {
    /// The size of all tensors in the file, in bytes; none if it is unknown before reading.
    pub fn stored_bytes(&self) -> Option<u64> {
        match &self.source {
            TensorSource::Mapped(m) => Some(m.tensors().map(|(_, t)| t.data().len() as u64).sum()),
            TensorSource::Embedded(s) => {
                Some(s.tensors().iter().map(|(_, t)| t.data().len() as u64).sum())
            }
            TensorSource::Gguf(g) => Some(g.gguf.tensors().map(|(_, t)| t.span.len() as u64).sum()),
            TensorSource::Pickled(_) | TensorSource::Random(_) => None,
        }
    }

    /// Whether all weights are within the range; reads every number that is not stored as f16 already.
    pub fn within_f16(&self) -> bool {
        match &self.source {
            TensorSource::Mapped(m) => m.tensors().all(|(_, t)| {
                let all = within(t.dtype(), t.data());
                m.release();
                all
            }),
            TensorSource::Embedded(s) => {
                s.tensors().iter().all(|(_, t)| within(t.dtype(), t.data()))
            }
            TensorSource::Pickled(p) => p.names().all(|name| match p.get(name) {
                Ok(Some(stored)) if stored.dtype == DType::BF16 => {
                    within(Dtype::BF16, &stored.bytes)
                }
                Ok(Some(stored)) if stored.dtype == DType::F32 => within(Dtype::F32, &stored.bytes),
                Ok(Some(stored)) => stored.dtype == DType::F16,
                // Integers, which no model weight has.
                _ => true,
            }),
            TensorSource::Gguf(g) => g.gguf.tensors().all(|(name, t)| {
                let bytes = g.gguf.bytes(name).unwrap_or_default();
                match t.kind.readable() {
                    Some(GgmlDType::F16) => true,
                    Some(GgmlDType::BF16) => within(Dtype::BF16, bytes),
                    Some(GgmlDType::F32) => within(Dtype::F32, bytes),
                    _ => false,
                }
            }),
            TensorSource::Random(_) => true,
        }
    }
}

/// Whether little-endian numbers are within the range; integers and masks are not weights.
#[expect(clippy::wildcard_enum_match_arm, reason = "other types are narrower")]
fn within(dtype: Dtype, bytes: &[u8]) -> bool {
    // The bits of the smallest magnitude that rounds to infinity, without the sign.
    match dtype {
        Dtype::BF16 => bytes.par_chunks(2 * STRIP).all(|strip| {
            strip
                .chunks_exact(2)
                .all(|b| u16::from_le_bytes([b[0], b[1]]) & 0x7fff < 0x4780)
        }),
        Dtype::F32 => bytes.par_chunks(4 * STRIP).all(|strip| {
            strip
                .chunks_exact(4)
                .all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).abs() < 65520.0)
        }),
        Dtype::F64 => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_of_the_range_is_seen() {
        let f32s = |n: f32| {
            within(
                Dtype::F32,
                &[0.5f32.to_le_bytes(), n.to_le_bytes()].concat(),
            )
        };
        assert!(f32s(-65519.0) && !f32s(65520.0) && !f32s(f32::NAN) && !f32s(-1e9));
        let bf16 = |n: f32| {
            let bits = (n.to_bits() >> 16) as u16;
            within(Dtype::BF16, &bits.to_le_bytes())
        };
        assert!(bf16(65280.0) && !bf16(65536.0) && !bf16(-3e38) && !bf16(f32::NAN));
    }
}
