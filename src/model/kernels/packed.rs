//! Matrices of blocks, with sixteen rows interleaved: what stands at the same place of sixteen rows stands together, so that a
//! vector has one row a lane, and no scale is fetched alone.
//!
//! Invariant: the same bytes in another order, padded with zeros to a multiple of sixteen rows: in a group of sixteen rows,
//! block after block, first the fields of two bytes, then the words of four. The fifth bits of Q5_0 and Q5_1 are in another
//! order (see [`spread`]).

use super::encoding::Encoding;
use super::threads;

/// Rows that are interleaved.
pub(super) const GROUP: usize = 16;

/// A matrix of blocks, `[out, input]`.
#[derive(Debug)]
pub struct Packed {
    /// How its weights are stored.
    pub encoding: Encoding,
    pub out: usize,
    /// Columns.
    pub input: usize,
    bytes: Vec<u8>,
}

impl Packed {
    /// Interleaves rows; nothing where the bytes are not as many as the shape needs, or the encoding has no blocks.
    pub fn new(encoding: Encoding, out: usize, input: usize, rows: &[u8]) -> Option<Self> {
        let (length, size) = (encoding.length(), encoding.bytes());
        if length == 1 || input == 0 || !input.is_multiple_of(length) {
            return None;
        }
        let row = input / length * size;
        if rows.len() != row * out {
            return None;
        }
        let mut bytes = vec![0; out.div_ceil(GROUP) * GROUP * row];
        {
            use rayon::prelude::*;
            let groups = bytes.par_chunks_mut(GROUP * row);
            groups
                .zip(rows.par_chunks(GROUP * row))
                .for_each(|(to, from)| interleave(encoding, to, from, row));
        }
        Some(Self {
            encoding,
            out,
            input,
            bytes,
        })
    }

    /// Blocks of a row.
    pub(super) fn blocks(&self) -> usize {
        self.input / self.encoding.length()
    }

    /// The bytes of sixteen rows.
    pub(super) fn group(&self, group: usize) -> &[u8] {
        let size = GROUP * self.blocks() * self.encoding.bytes();
        &self.bytes[group * size..][..size]
    }

    /// One row, f32.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (length, size) = (self.encoding.length(), self.encoding.bytes());
        let mut block = [0; 256];
        let blocks = self.group(row / GROUP).chunks_exact(GROUP * size);
        for (from, out) in blocks.zip(out.chunks_exact_mut(length)) {
            self.gather(from, row % GROUP, &mut block[..size]);
            self.encoding.unpack(&block[..size], out);
        }
    }

    /// Some rows one after the other, f32.
    pub fn rows(&self, rows: impl ExactSizeIterator<Item = usize>) -> Vec<f32> {
        let rows: Vec<usize> = rows.collect();
        let mut out = vec![0.0; rows.len() * self.input];
        let to = threads::OutputColumns::new(&mut out, rows.len(), self.input);
        threads::each(rows.len(), rows.len() * self.input, |i| {
            let mut row = vec![0.0; self.input];
            self.row(rows[i], &mut row);
            // SAFETY: every task has a row of its own.
            #[allow(unsafe_code)]
            unsafe {
                to.put(i, 0, &row);
            }
        });
        out
    }

    /// One column, f32.
    pub fn column(&self, column: usize) -> Vec<f32> {
        let (length, size) = (self.encoding.length(), self.encoding.bytes());
        let mut block = [0; 256];
        let mut weights = vec![0.0; length];
        (0..self.out)
            .map(|row| {
                let from = self.group(row / GROUP);
                let from = &from[column / length * GROUP * size..][..GROUP * size];
                self.gather(from, row % GROUP, &mut block[..size]);
                self.encoding.unpack(&block[..size], &mut weights);
                weights[column % length]
            })
            .collect()
    }

    /// One row's block out of sixteen, as the file has it.
    fn gather(&self, from: &[u8], lane: usize, block: &mut [u8]) {
        units(self.encoding, |at, file, width| {
            let at = at * GROUP + lane * width;
            block[file..file + width].copy_from_slice(&from[at..at + width]);
        });
        if let Some(at) = fifth(self.encoding) {
            spread(&mut block[at..at + 4]);
        }
    }
}

/// Calls with every field of a block: where it stands in our order, where in the file's, and its bytes.
fn units(encoding: Encoding, mut field: impl FnMut(usize, usize, usize)) {
    let fields = encoding.fields();
    let mut at = 0;
    for half in fields.halves {
        field(at, *half, 2);
        at += 2;
    }
    for (start, count) in fields.words {
        for word in 0..*count {
            field(at, start + 4 * word, 4);
            at += 4;
        }
    }
}

/// The rows of one group (fewer than sixteen at the end), row after row, to their places.
fn interleave(encoding: Encoding, to: &mut [u8], from: &[u8], row: usize) {
    let (size, fields, fifth) = (encoding.bytes(), encoding.fields(), fifth(encoding));
    for (lane, row) in from.chunks_exact(row).enumerate() {
        let blocks = to.chunks_exact_mut(GROUP * size);
        for (to, block) in blocks.zip(row.chunks_exact(size)) {
            let (halves, words) = to.split_at_mut(fields.halves.len() * 2 * GROUP);
            let places = halves.chunks_exact_mut(2 * GROUP);
            for (to, at) in places.zip(fields.halves) {
                to[2 * lane..2 * lane + 2].copy_from_slice(&block[*at..at + 2]);
            }
            let mut places = words.chunks_exact_mut(4 * GROUP);
            for (start, count) in fields.words {
                let words = block[*start..start + 4 * count].chunks_exact(4);
                for (word, to) in words.zip(&mut places) {
                    to[4 * lane..4 * lane + 4].copy_from_slice(word);
                }
            }
            if let Some(file) = fifth {
                // It is the first of the words.
                debug_assert_eq!(fields.words[0].0, file);
                spread(&mut words[4 * lane..4 * lane + 4]);
            }
        }
    }
}

/// Where the fifth bits of a block of 32 begin in the file.
fn fifth(encoding: Encoding) -> Option<usize> {
    if encoding == Encoding::Q5_0 {
        Some(2)
    } else {
        (encoding == Encoding::Q5_1).then_some(4)
    }
}

/// Puts the fifth bit of weight `i` where bits 1 and 4 of `i` are exchanged: so the bits of a pair of weights, whose places
/// differ by two, are sixteen apart, as the pair is. Doing it twice undoes it.
fn spread(word: &mut [u8]) {
    if let Ok(bytes) = <[u8; 4]>::try_from(&*word) {
        let bits = u32::from_le_bytes(bytes);
        let apart = (bits ^ (bits >> 14)) & 0xcccc;
        word.copy_from_slice(&(bits ^ apart ^ (apart << 14)).to_le_bytes());
    }
}
