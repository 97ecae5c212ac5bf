//! A tensor as it is stored: its kind of numbers, and its bytes as a range of a mapped file or a copy.
//!
//! Invariant: the numbers are read where they lie; what was read of a mapped file can be released again. To read another kind of
//! number, add a variant to [`NumberKind`].

use std::ops::{Deref, Range};
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use crate::model::memory_map::release_range;

/// A kind of number in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberKind {
    F32,
    F16,
    Bf16,
    F64,
    /// Signed or unsigned integers of so many bytes.
    Integer(usize),
    /// Something else of so many bytes, which is listed and not read.
    Other(usize),
}

impl NumberKind {
    /// The size in bytes.
    pub fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F64 => 8,
            Self::Integer(width) | Self::Other(width) => width,
        }
    }

    /// One number; NaN for what is not read.
    pub(super) fn value(self, bytes: &[u8]) -> f32 {
        let mut wide = [0u8; 8];
        let count = bytes.len().min(8);
        wide[..count].copy_from_slice(&bytes[..count]);
        let [a, b, c, d, ..] = wide;
        match self {
            Self::F32 => f32::from_le_bytes([a, b, c, d]),
            Self::F16 => f16::from_le_bytes([a, b]).to_f32(),
            Self::Bf16 => bf16::from_le_bytes([a, b]).to_f32(),
            Self::F64 => f64::from_le_bytes(wide) as f32,
            Self::Integer(width) => {
                let shift = 64 - 8 * width.clamp(1, 8) as u32;
                ((i64::from_le_bytes(wide) << shift) >> shift) as f32
            }
            Self::Other(_) => f32::NAN,
        }
    }
}

/// The bytes of a file.
#[derive(Clone, Debug)]
pub(super) enum FileBytes {
    Mapped(Arc<Mmap>),
    /// Of the binary itself.
    Embedded(&'static [u8]),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

/// The bytes of a tensor: a range of a file, or a copy.
#[derive(Clone, Debug)]
pub(super) enum TensorBytes {
    InFile(FileBytes, Range<usize>),
    Owned(Arc<Vec<u8>>, Range<usize>),
}

/// A tensor of numbers, row-major.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// F32, F16 or Bf16.
    pub number: NumberKind,
    pub shape: Vec<usize>,
    pub(super) bytes: TensorBytes,
}

impl StoredTensor {
    /// A tensor from numbers in memory.
    pub fn of(shape: &[usize], numbers: &[f32]) -> Self {
        let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        let span = 0..bytes.len();
        Self {
            number: NumberKind::F32,
            shape: shape.to_vec(),
            bytes: TensorBytes::Owned(Arc::new(bytes), span),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            TensorBytes::InFile(map, span) => &map[span.clone()],
            TensorBytes::Owned(bytes, span) => &bytes[span.clone()],
        }
    }

    /// One of the equal parts along the first axis.
    pub fn part(&self, i: usize) -> Option<Self> {
        let (count, rest) = self.shape.split_first()?;
        if i >= *count {
            return None;
        }
        let size = rest.iter().product::<usize>() * self.number.width();
        let within = |span: &Range<usize>| {
            let start = span.start + i * size;
            start..start + size
        };
        let bytes = match &self.bytes {
            TensorBytes::InFile(map, span) => TensorBytes::InFile(map.clone(), within(span)),
            TensorBytes::Owned(bytes, span) => TensorBytes::Owned(bytes.clone(), within(span)),
        };
        Some(Self {
            number: self.number,
            shape: rest.to_vec(),
            bytes,
        })
    }

    /// The same numbers under another shape of equal size.
    #[must_use]
    pub fn shaped(self, shape: Vec<usize>) -> Self {
        Self { shape, ..self }
    }

    /// `count` numbers from element `start` on, as f32.
    pub fn read(&self, start: usize, count: usize) -> Vec<f32> {
        let width = self.number.width();
        let bytes = &self.bytes()[start * width..][..count * width];
        bytes
            .chunks_exact(width)
            .map(|b| self.number.value(b))
            .collect()
    }

    /// The number at an element.
    pub fn at(&self, i: usize) -> f32 {
        let width = self.number.width();
        self.number.value(&self.bytes()[i * width..][..width])
    }

    /// Releases the pages of the file that hold these elements, so that they no longer count as memory of this process.
    pub fn release(&self, elements: Range<usize>) {
        if let TensorBytes::InFile(FileBytes::Mapped(map), span) = &self.bytes {
            let width = self.number.width();
            let start = span.start + elements.start * width;
            release_range(map, start..start + elements.len() * width);
        }
    }
}
