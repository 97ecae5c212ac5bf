//! Rows of activations in the form for products with quantized blocks: 16-bit integers, with one scale for 32 of them.
//!
//! Invariant: every number is represented to 1/65534 of the largest of its block of 32, so the relative error of a product is
//! about 1e-5. A value that is not finite makes its whole block NaN. The representation of a row does not depend on other rows.

/// How many numbers share a scale.
pub(super) const BLOCK: usize = 32;

/// The numbers of rows that a tile can have beside one, the largest first.
pub(super) type TileSizes = [usize; 3];

/// The number of rows in the next tile, given how many are left. A tile may have more rows, of which the last are zero, if these
/// are a third of it at most: a tile costs more by its weights than by its rows.
pub(super) fn next(left: usize, sizes: TileSizes) -> usize {
    let smallest = sizes.into_iter().rev().find(|size| *size >= left);
    match smallest {
        Some(size) if left > 1 && 3 * (size - left) <= size => size,
        Some(_) | None => sizes.into_iter().find(|size| *size <= left).unwrap_or(1),
    }
}

/// One block of `R` rows.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Record<const R: usize> {
    /// Every four numbers are in the order 0 2 1 3, to match weights at even and at odd bytes.
    pub numbers: [[i16; BLOCK]; R],
    pub scales: [f32; R],
    /// The sums of the first sixteen numbers and of the last sixteen.
    pub sums: [[i32; 2]; R],
}

/// Allocated as records of one row, but read as records of as many rows as their tile has. The last tile may have more rows than
/// there are; these are zero.
pub(super) struct Activations {
    pub rows: usize,
    blocks: usize,
    sizes: TileSizes,
    records: Vec<Record<1>>,
}

impl Activations {
    /// `x` has `rows * blocks * 32` numbers.
    pub fn new(x: &[f32], rows: usize, blocks: usize, sizes: TileSizes) -> Self {
        let empty = Record {
            numbers: [[0; BLOCK]],
            scales: [0.0],
            sums: [[0; 2]],
        };
        let mut ends = vec![0];
        let mut end = 0;
        while end < rows {
            end += next(rows - end, sizes);
            ends.push(end);
        }
        let mut records = vec![empty; end * blocks];
        let width = blocks * BLOCK;
        let mut tiles = Vec::with_capacity(ends.len());
        let mut to = &mut records[..];
        for pair in ends.windows(2) {
            let (tile, rest) = to.split_at_mut((pair[1] - pair[0]) * blocks);
            tiles.push((tile, &x[pair[0] * width..pair[1].min(rows) * width]));
            to = rest;
        }
        if tiles.len() > 8 {
            use rayon::prelude::*;
            tiles
                .into_par_iter()
                .for_each(|(tile, x)| fill(tile, x, blocks));
        } else {
            for (tile, x) in tiles {
                fill(tile, x, blocks);
            }
        }
        Self {
            rows,
            blocks,
            sizes,
            records,
        }
    }

    /// The number of rows of the tile that begins at this row.
    pub fn rows_of_tile(&self, row: usize) -> usize {
        next(self.rows - row, self.sizes)
    }

    /// The records of the tile that begins at this row and has `R` rows.
    pub fn tile<const R: usize>(&self, row: usize) -> &[Record<R>] {
        assert_eq!(R, self.rows_of_tile(row));
        let records = &self.records[row * self.blocks..(row + R) * self.blocks];
        // SAFETY: the same number of bytes, all initialised and valid for any value; the same alignment of four bytes.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(records.as_ptr().cast(), self.blocks)
        }
    }
}

/// Fills the records of one tile; rows that are not in `x` stay zero.
fn fill(tile: &mut [Record<1>], x: &[f32], blocks: usize) {
    let rows = tile.len() / blocks.max(1);
    // A record of `rows` rows contains all numbers first, then all scales, then all sums.
    let start = tile.as_mut_ptr();
    let size = size_of::<Record<1>>();
    for (row, x) in x.chunks_exact(blocks * BLOCK).enumerate() {
        for (block, x) in x.chunks_exact(BLOCK).enumerate() {
            let one = round(x);
            // SAFETY: the record of this block begins `block * rows` single-row records into the tile, and `row` is one of its
            // rows, so all three fields are within the tile.
            #[allow(unsafe_code)]
            unsafe {
                let record = start.cast::<u8>().add(block * rows * size);
                record.cast::<[i16; BLOCK]>().add(row).write(one.numbers[0]);
                let scales = record.add(rows * size_of::<[i16; BLOCK]>());
                scales.cast::<f32>().add(row).write(one.scales[0]);
                let sums = scales.add(rows * size_of::<f32>());
                sums.cast::<[i32; 2]>().add(row).write(one.sums[0]);
            }
        }
    }
}

/// Absolute values compare like their bits, and values that are not finite are the largest.
const INFINITE: u32 = 0x7f80_0000;

fn round(x: &[f32]) -> Record<1> {
    let mut largest = 0;
    for v in x {
        largest = largest.max(v.to_bits() & 0x7fff_ffff);
    }
    let scale = f32::from_bits(largest) / 32767.0;
    let by = 1.0 / scale;
    let mut record = Record {
        numbers: [[0; BLOCK]],
        scales: [scale],
        sums: [[0; 2]],
    };
    if largest >= INFINITE {
        record.scales = [f32::NAN];
    } else if by.is_finite() {
        let mut numbers = [0i32; BLOCK];
        for (n, v) in numbers.iter_mut().zip(x) {
            // Rounds to the nearest integer: after adding 1.5 * 2^23 it is in the lowest bits.
            *n = ((v * by + 12_582_912.0).to_bits() as i32) - 0x4b40_0000;
        }
        for half in 0..2 {
            record.sums[0][half] = numbers[half * 16..][..16].iter().sum();
        }
        for i in (0..BLOCK).step_by(4) {
            for (to, from) in [0, 2, 1, 3].into_iter().enumerate() {
                record.numbers[0][i + to] = numbers[i + from] as i16;
            }
        }
    } else {
        record.scales = [0.0];
    }
    record
}
