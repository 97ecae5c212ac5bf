//! The storage formats of weights, and plain Rust that decodes each of them.
//!
//! Invariant: [`Encoding::unpack`] gives the same numbers as ggml for the same bytes; all kernels are tested against it. To add
//! a kind of block, add a variant with its sizes, its fields and an arm of `unpack`, and its product in `blocks`.

use super::lanes::{from_bf16, from_f16};

/// The storage format of weights, row after row. The blocks are those of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // their own names
pub enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// The fields of a block: the offsets of its two-byte numbers, and the offsets and lengths of its runs of four-byte words.
pub(super) struct BlockFields {
    pub halves: &'static [usize],
    pub words: &'static [(usize, usize)],
}

impl Encoding {
    /// All formats with quantized blocks.
    pub const BLOCKS: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The number of weights in a block; 1 for plain numbers.
    pub fn length(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// The size of a block in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    pub(super) fn fields(self) -> BlockFields {
        let (halves, words): (&[usize], &[(usize, usize)]) = match self {
            Self::F32 => (&[], &[(0, 1)]),
            Self::F16 | Self::Bf16 => (&[0], &[]),
            Self::Q4_0 => (&[0], &[(2, 4)]),
            Self::Q4_1 => (&[0, 2], &[(4, 4)]),
            Self::Q5_0 => (&[0], &[(2, 5)]),
            Self::Q5_1 => (&[0, 2], &[(4, 5)]),
            Self::Q8_0 => (&[0], &[(2, 8)]),
            Self::Q2K => (&[80, 82], &[(0, 20)]),
            Self::Q3K => (&[108], &[(0, 27)]),
            Self::Q4K => (&[0, 2], &[(4, 35)]),
            Self::Q5K => (&[0, 2], &[(4, 43)]),
            Self::Q6K => (&[208], &[(0, 52)]),
        };
        BlockFields { halves, words }
    }

    /// Decodes the weights of consecutive blocks.
    pub fn unpack(self, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(self.bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(self.length())) {
            self.block(block, out);
        }
    }

    fn block(self, b: &[u8], out: &mut [f32]) {
        let half = |at: usize| from_f16(u16::from_le_bytes([b[at], b[at + 1]]));
        // Four-bit numbers, the sixteen low halves first; `fifth` and `from` are the offsets of the fifth bits and of the
        // numbers.
        let mut nibbles = |scale: f32, low: f32, fifth: Option<usize>, from: usize| {
            for i in 0..32 {
                let four = (b[from + i % 16] >> (i / 16 * 4)) & 15;
                let fifth = fifth.map_or(0, |at| (b[at + i / 8] >> (i % 8)) & 1);
                out[i] = scale * f32::from(four | fifth << 4) + low;
            }
        };
        match self {
            Self::F32 => out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Self::F16 => out[0] = half(0),
            Self::Bf16 => out[0] = from_bf16(u16::from_le_bytes([b[0], b[1]])),
            Self::Q4_0 => nibbles(half(0), -8.0 * half(0), None, 2),
            Self::Q4_1 => nibbles(half(0), half(2), None, 4),
            Self::Q5_0 => nibbles(half(0), -16.0 * half(0), Some(2), 6),
            Self::Q5_1 => nibbles(half(0), half(2), Some(4), 8),
            Self::Q8_0 => {
                for i in 0..32 {
                    out[i] = half(0) * f32::from(b[2 + i] as i8);
                }
            }
            Self::Q2K => {
                for i in 0..256 {
                    let scale = b[i / 16];
                    let two = (b[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
                    out[i] = half(80) * f32::from(scale & 15) * f32::from(two)
                        - half(82) * f32::from(scale >> 4);
                }
            }
            Self::Q3K => {
                let scales = &b[96..108];
                for i in 0..256 {
                    let (s, at) = (i / 16, i % 128 / 32 * 2);
                    let low = (scales[s % 8] >> (s / 8 * 4)) & 15;
                    let high = (scales[8 + s % 4] >> (s / 4 * 2)) & 3;
                    let two = (b[32 + i / 128 * 32 + i % 32] >> at) & 3;
                    let third = (b[i % 32] >> (i / 32)) & 1;
                    let scale = half(108) * (f32::from(low | high << 4) - 32.0);
                    out[i] = scale * (f32::from(two | third << 2) - 4.0);
                }
            }
            Self::Q4K | Self::Q5K => {
                let s = &b[4..16];
                let quants = if self == Self::Q4K { 16 } else { 48 };
                for i in 0..256 {
                    let j = i / 32;
                    let (scale, low) = if j < 4 {
                        (s[j] & 63, s[j + 4] & 63)
                    } else {
                        (
                            (s[j + 4] & 15) | (s[j - 4] >> 6) << 4,
                            (s[j + 4] >> 4) | (s[j] >> 6) << 4,
                        )
                    };
                    let four = (b[quants + i / 64 * 32 + i % 32] >> (j % 2 * 4)) & 15;
                    let fifth = if self == Self::Q5K {
                        (b[16 + i % 32] >> j) & 1
                    } else {
                        0
                    };
                    out[i] = half(0) * f32::from(scale) * f32::from(four | fifth << 4)
                        - half(2) * f32::from(low);
                }
            }
            Self::Q6K => {
                for i in 0..256 {
                    let (n, j, l) = (i / 128, i % 128 / 32, i % 32);
                    let four = (b[n * 64 + j % 2 * 32 + l] >> (j / 2 * 4)) & 15;
                    let two = (b[128 + n * 32 + l] >> (j * 2)) & 3;
                    let scale = half(208) * f32::from(b[192 + i / 16] as i8);
                    out[i] = scale * (f32::from(four | two << 4) - 32.0);
                }
            }
        }
    }
}
