//! Finds weights that are not finite: NaN and infinity in a file, and numbers that overflow the dtype in which they are stored.
//!
//! Invariant: every tensor of a model is tested while it is loaded, in the form in which it will be multiplied. To support
//! another kind of block, add its row in [`scales`].

use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, DType, Storage, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::model::host::{ToHost, lent};

/// How many numbers are tested at once.
const STRIP: usize = 1 << 18;

fn bad<T: Sync>(values: &[T], is_bad: impl Fn(&T) -> bool + Sync) -> usize {
    let strips = values.par_chunks(STRIP);
    strips.map(|s| s.iter().filter(|v| is_bad(v)).count()).sum()
}

/// The number of values of a CPU tensor that are not finite.
#[expect(clippy::wildcard_enum_match_arm, reason = "whole numbers are finite")]
pub(crate) fn count(x: &Tensor) -> Result<usize> {
    let contiguous = x.contiguous()?;
    let (storage, layout) = lent(&contiguous);
    let (Storage::Cpu(held), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        return Ok(0);
    };
    Ok(match held {
        CpuStorage::F32(v) => bad(&v[start..end], |v| !v.is_finite()),
        CpuStorage::F64(v) => bad(&v[start..end], |v| !v.is_finite()),
        CpuStorage::F16(v) => bad(&v[start..end], |v| v.to_bits() & 0x7c00 == 0x7c00),
        CpuStorage::BF16(v) => bad(&v[start..end], |v| v.to_bits() & 0x7f80 == 0x7f80),
        _ => 0,
    })
}

/// The byte offsets of a block's f16 scales.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "other types have no scales in f16"
)]
fn scales(kind: GgmlDType) -> &'static [usize] {
    match kind {
        GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => &[0],
        GgmlDType::Q4_1 | GgmlDType::Q5_1 | GgmlDType::Q4K | GgmlDType::Q5K => &[0, 2],
        GgmlDType::Q2K => &[80, 82],
        GgmlDType::Q3K => &[108],
        GgmlDType::Q6K => &[208],
        _ => &[],
    }
}

/// The number of blocks with a scale that is not finite.
pub(crate) fn count_blocks(kind: GgmlDType, bytes: &[u8]) -> usize {
    let (size, at) = (kind.type_size(), scales(kind));
    if at.is_empty() {
        return 0;
    }
    let bad = |block: &[u8]| {
        at.iter()
            .any(|i| block.get(*i + 1).is_some_and(|high| high & 0x7c == 0x7c))
    };
    bytes
        .par_chunks(size * 1024)
        .map(|strip| strip.chunks_exact(size).filter(|b| bad(b)).count())
        .sum()
}

/// The number of weights that overflow Q8_0: the scale is f16, times at most 127.
pub(crate) fn past_q8(weight: &Tensor) -> Result<usize> {
    const MOST: f64 = 65504.0 * 127.0;
    let large = weight.to_dtype(DType::F32)?.abs()?.gt(MOST)?;
    Ok(large
        .to_dtype(DType::F32)?
        .sum_all()?
        .host_scalar::<f32>()? as usize)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn what_is_not_finite_is_counted_in_every_dtype() {
        let x = Tensor::new(&[1.0f32, f32::NAN, 1e5, f32::NEG_INFINITY], &Device::Cpu).unwrap();
        assert_eq!(count(&x).unwrap(), 2);
        assert_eq!(count(&x.to_dtype(DType::BF16).unwrap()).unwrap(), 2);
        // 1e5 overflows f16.
        assert_eq!(count(&x.to_dtype(DType::F16).unwrap()).unwrap(), 3);
        let fine = Tensor::new(&[1.0f32, -65504.0], &Device::Cpu).unwrap();
        assert_eq!(count(&fine.to_dtype(DType::F16).unwrap()).unwrap(), 0);
    }

    #[test]
    fn a_broken_scale_of_any_kind_of_block_is_seen() {
        for kind in [
            GgmlDType::Q4_0,
            GgmlDType::Q4_1,
            GgmlDType::Q5_0,
            GgmlDType::Q5_1,
            GgmlDType::Q8_0,
            GgmlDType::Q2K,
            GgmlDType::Q3K,
            GgmlDType::Q4K,
            GgmlDType::Q5K,
            GgmlDType::Q6K,
        ] {
            let weight = Tensor::ones((2, 256), DType::F32, &Device::Cpu).unwrap();
            let q = candle_core::quantized::QTensor::quantize(&weight, kind).unwrap();
            let mut bytes = crate::model::host::block_bytes(&q).unwrap().into_owned();
            assert_eq!(count_blocks(kind, &bytes), 0, "{kind:?}");
            for at in scales(kind) {
                let kept = bytes.clone();
                bytes[at + 1] = 0x7e;
                assert_eq!(count_blocks(kind, &bytes), 1, "{kind:?}");
                // The offset is that of a scale: with it, the block unpacks to values that are not finite.
                let unpacked = candle_core::quantized::QStorage::from_data(
                    std::borrow::Cow::Borrowed(&bytes),
                    &Device::Cpu,
                    kind,
                )
                .and_then(|s| candle_core::quantized::QTensor::new(s, (2, 256)))
                .and_then(|q| q.dequantize(&Device::Cpu))
                .unwrap();
                assert!(count(&unpacked).unwrap() > 0, "{kind:?} {at}");
                bytes = kept;
            }
        }
    }
}
