//! Tests of every machine's kernels against plain Rust, in f64.
#![allow(clippy::unwrap_used, clippy::float_cmp)]

use super::encoding::Encoding;
use super::machine::Processor;
use super::{Packed, PlainWeights, dense_on, packed_on};

/// Pseudorandom numbers that are the same on every machine.
pub(super) struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn byte(&mut self) -> u8 {
        (self.bits() >> 20) as u8
    }

    /// Approximately normal numbers with the standard deviation `size`.
    pub fn normals(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let four: f64 = (0..4)
                    .map(|_| f64::from(self.bits()) / 2f64.powi(32) - 0.5)
                    .sum();
                (four * 1.7) as f32 * size
            })
            .collect()
    }

    /// Random blocks whose scales are drawn from `scales`.
    fn blocks(&mut self, encoding: Encoding, out: usize, input: usize, scales: &[u16]) -> Vec<u8> {
        let size = encoding.bytes();
        let mut bytes: Vec<u8> = (0..out * input / encoding.length() * size)
            .map(|_| self.byte())
            .collect();
        for block in bytes.chunks_exact_mut(size) {
            for at in encoding.fields().halves {
                let scale = scales[self.bits() as usize % scales.len()];
                block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        bytes
    }
}

/// 0.01, -0.02 and 0.03 as f16.
const SCALES: [u16; 3] = [0x211f, 0xa51f, 0x27ae];

fn expected(weights: &[f32], input: usize, x: &[f32]) -> Vec<f32> {
    x.chunks(input)
        .flat_map(|x| {
            weights.chunks(input).map(|w| {
                let sum: f64 = x
                    .iter()
                    .zip(w)
                    .map(|(x, w)| f64::from(*x) * f64::from(*w))
                    .sum();
                sum as f32
            })
        })
        .collect()
}

/// The norm of the difference, relative to the norm of the product; if there are so few numbers that they may cancel, relative
/// to its expected norm.
fn apart(found: &[f32], expected: &[f32], weights: &[f32], x: &[f32]) -> f64 {
    let size = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let difference = size(
        &mut found
            .iter()
            .zip(expected)
            .map(|(a, b)| f64::from(*a) - f64::from(*b)),
    );
    let norm = |v: &[f32]| size(&mut v.iter().map(|v| f64::from(*v)));
    let input = (weights.len() * x.len()) as f64 / expected.len() as f64;
    let average = norm(weights) * norm(x) / input.sqrt().sqrt();
    difference / norm(expected).max(average).max(f64::MIN_POSITIVE)
}

fn unpacked(encoding: Encoding, bytes: &[u8], count: usize) -> Vec<f32> {
    let mut weights = vec![0.0; count];
    encoding.unpack(bytes, &mut weights);
    weights
}

#[test]
fn products_of_blocks_are_those_of_the_unpacked_weights() {
    let mut random = Random(1);
    for encoding in Encoding::BLOCKS {
        for (out, blocks) in [(1, 1), (7, 2), (16, 1), (37, 3), (48, 2)] {
            let input = blocks * encoding.length();
            let bytes = random.blocks(encoding, out, input, &SCALES);
            let packed = Packed::new(encoding, out, input, &bytes).unwrap();
            let weights = unpacked(encoding, &bytes, out * input);
            assert_eq!(packed.rows(0..out), weights, "{encoding:?}");
            let column: Vec<f32> = (0..out).map(|row| weights[row * input + 17]).collect();
            assert_eq!(packed.column(17), column, "{encoding:?}");
            for rows in [1, 2, 3, 7, 8, 17] {
                let x = random.normals(rows * input, 1.0);
                let expected = expected(&weights, input, &x);
                for on in Processor::all() {
                    let mut y = vec![9.0; rows * out];
                    packed_on(on, &packed, 0..out, &x, &mut y);
                    let apart = apart(&y, &expected, &weights, &x);
                    assert!(
                        apart < 5e-5,
                        "{encoding:?} {}, [{out}, {input}], {rows} rows: {apart:.1e}",
                        on.name()
                    );
                }
            }
        }
    }
}

fn narrow(x: &[f32]) -> (Vec<u16>, Vec<f32>) {
    let bits: Vec<u16> = x.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
    let wide = bits.iter().map(|b| super::lanes::from_bf16(*b)).collect();
    (bits, wide)
}

#[test]
fn dense_products_are_those_of_the_widened_weights() {
    let mut random = Random(2);
    for (out, input) in [(1, 1), (3, 5), (8, 16), (9, 33), (37, 100), (70, 1100)] {
        let f32s = random.normals(out * input, 0.3);
        let (bf16s, wide_bf16) = narrow(&f32s);
        // Finite numbers of all sizes, including subnormal ones and zeros of both signs.
        let f16s: Vec<u16> = (0..out * input)
            .map(|_| random.bits() as u16 & 0xbfff)
            .collect();
        let wide_f16: Vec<f32> = f16s.iter().map(|b| super::lanes::from_f16(*b)).collect();
        let kinds = [
            (PlainWeights::F32(&f32s), &f32s),
            (PlainWeights::Bf16(&bf16s), &wide_bf16),
            (PlainWeights::F16(&f16s), &wide_f16),
        ];
        for rows in [1, 2, 3, 4, 5, 6, 7, 17] {
            let x = random.normals(rows * input, 1.0);
            for (numbers, wide) in kinds {
                let expected = expected(wide, input, &x);
                for on in Processor::all() {
                    let mut y = vec![9.0; rows * out];
                    dense_on(on, numbers, input, &x, &mut y);
                    let apart = apart(&y, &expected, wide, &x);
                    assert!(
                        apart < 2e-6,
                        "{numbers:.1?} {}, {rows} rows: {apart:.1e}",
                        on.name()
                    );
                }
            }
        }
    }
}

#[test]
fn some_rows_of_blocks_are_those_of_the_whole() {
    let (out, input) = (75, 64);
    let mut random = Random(6);
    let bytes = random.blocks(Encoding::Q4_1, out, input, &SCALES);
    let packed = Packed::new(Encoding::Q4_1, out, input, &bytes).unwrap();
    let x = random.normals(5 * input, 1.0);
    let mut whole = vec![0.0; 5 * out];
    packed_on(Processor::best(), &packed, 0..out, &x, &mut whole);
    for range in [0..16, 16..75, 3..4, 5..40, 20..20] {
        let mut some = vec![0.0; 5 * range.len()];
        packed_on(Processor::best(), &packed, range.clone(), &x, &mut some);
        let expected: Vec<f32> = whole
            .chunks(out)
            .flat_map(|row| row[range.clone()].to_vec())
            .collect();
        assert_eq!(some, expected, "{range:?}");
    }
}

/// Runs `work` on a pool with `count` threads.
fn threads(count: usize, work: impl FnOnce() + Send) {
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .build()
        .unwrap()
        .install(work);
}

#[test]
fn a_row_is_the_same_beside_others_and_on_any_number_of_threads() {
    let (out, input, rows) = (83, 256, 12);
    let mut random = Random(3);
    let x = random.normals(rows * input, 1.0);
    let weights = random.normals(out * input, 0.1);
    let (bf16s, _) = narrow(&weights);
    for on in Processor::all() {
        let alone_and_beside = |product: &(dyn Fn(&[f32], &mut [f32]) + Sync)| {
            let mut all = vec![0.0; rows * out];
            threads(1, || product(&x, &mut all));
            let mut again = vec![0.0; rows * out];
            threads(3, || product(&x, &mut again));
            assert_eq!(all, again);
            for (x, y) in x.chunks(input).zip(all.chunks(out)) {
                let mut alone = vec![0.0; out];
                product(x, &mut alone);
                assert_eq!(alone, y);
            }
        };
        alone_and_beside(&|x, y| dense_on(on, PlainWeights::F32(&weights), input, x, y));
        alone_and_beside(&|x, y| dense_on(on, PlainWeights::Bf16(&bf16s), input, x, y));
        let (odd, odd_input) = (&weights[..83 * 233], 233);
        let x_odd = &x[..rows * odd_input];
        let on_threads = |count| {
            let mut y = vec![0.0; rows * out];
            threads(count, || {
                dense_on(on, PlainWeights::F32(odd), odd_input, x_odd, &mut y);
            });
            y
        };
        assert_eq!(on_threads(1), on_threads(3), "a rest of columns");
        for encoding in Encoding::BLOCKS {
            let bytes = random.blocks(encoding, out, input, &SCALES);
            let packed = Packed::new(encoding, out, input, &bytes).unwrap();
            alone_and_beside(&|x, y| packed_on(on, &packed, 0..out, x, y));
        }
    }
}

#[test]
fn extreme_scales_and_zeros_are_multiplied_too() {
    let mut random = Random(4);
    let (out, input) = (19, 256);
    for encoding in Encoding::BLOCKS {
        // Zeros of both signs, the smallest subnormal number, the largest number.
        for scales in [&[0u16, 0x8000][..], &[0x0001, 0x8003], &[0x7bff, 0xfbff]] {
            let bytes = random.blocks(encoding, out, input, scales);
            let packed = Packed::new(encoding, out, input, &bytes).unwrap();
            let weights = unpacked(encoding, &bytes, out * input);
            for size in [1e-25, 1.0, 1e25] {
                let x = random.normals(3 * input, size);
                let expected = expected(&weights, input, &x);
                for on in Processor::all() {
                    let mut y = vec![9.0; 3 * out];
                    packed_on(on, &packed, 0..out, &x, &mut y);
                    let apart = apart(&y, &expected, &weights, &x);
                    assert!(
                        apart < 5e-5,
                        "{encoding:?} {} {scales:x?} {size:e}: {apart:.1e}",
                        on.name()
                    );
                }
            }
            for zeros in [0.0, -0.0, 1e-44] {
                let mut y = vec![9.0; out];
                packed_on(
                    Processor::best(),
                    &packed,
                    0..out,
                    &vec![zeros; input],
                    &mut y,
                );
                assert!(y.iter().all(|y| y.abs() < 1e-30), "{encoding:?}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let mut random = Random(5);
    let (out, input) = (19, 256);
    let weights = random.normals(out * input, 0.1);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 100, 255] {
            let mut x = random.normals(9 * input, 1.0);
            x[4 * input + at] = bad;
            for on in Processor::all() {
                let mut y = vec![9.0; 9 * out];
                let check = |y: &[f32]| {
                    for (row, y) in y.chunks(out).enumerate() {
                        assert!(
                            y.iter().all(|y| y.is_finite() != (row == 4)),
                            "{} {row}",
                            on.name()
                        );
                        assert!(!bad.is_nan() || row != 4 || y.iter().all(|y| y.is_nan()));
                    }
                };
                dense_on(on, PlainWeights::F32(&weights), input, &x, &mut y);
                check(&y);
                for encoding in Encoding::BLOCKS {
                    let bytes = random.blocks(encoding, out, input, &SCALES);
                    let packed = Packed::new(encoding, out, input, &bytes).unwrap();
                    packed_on(on, &packed, 0..out, &x, &mut y);
                    check(&y);
                }
            }
        }
    }
}

#[test]
fn other_shapes_and_lengths_are_refused() {
    assert!(Packed::new(Encoding::Q8_0, 2, 33, &[0; 68]).is_none());
    assert!(Packed::new(Encoding::Q8_0, 2, 32, &[0; 67]).is_none());
    assert!(Packed::new(Encoding::F32, 2, 1, &[0; 8]).is_none());
}
