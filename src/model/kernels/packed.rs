//! Matrices of quantized blocks with sixteen rows interleaved: equal fields of sixteen rows are adjacent, so that a vector has
//! one row in each lane, and scales are loaded as vectors.
//!
//! Invariant: the bytes are those of the file in another order, padded with zeros to a multiple of sixteen rows. A group of
//! sixteen rows contains, block after block, first the two-byte fields, then the four-byte words. The fifth bits of Q5_0 and
//! Q5_1 are permuted (see [`spread`]).

use super::encoding::Encoding;
use super::threads;

/// How many rows are interleaved.
pub(super) const GROUP: usize = 16;

/// A matrix of quantized blocks, `[out, input]`.
#[derive(Debug)]
pub struct Packed {
    /// The format of its blocks.
    pub encoding: Encoding,
    pub out: usize,
    /// The number of columns.
    pub input: usize,
    bytes: Vec<u8>,
}

impl Packed {
    /// Interleaves rows; none if the number of bytes does not fit the shape, or if the format has no blocks.
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

    /// The number of blocks in a row.
    pub(super) fn blocks(&self) -> usize {
        self.input / self.encoding.length()
    }

    /// The bytes of a group of sixteen rows.
    pub(super) fn group(&self, group: usize) -> &[u8] {
        let size = GROUP * self.blocks() * self.encoding.bytes();
        &self.bytes[group * size..][..size]
    }

    /// Decodes one row to f32.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (length, size) = (self.encoding.length(), self.encoding.bytes());
        let mut block = [0; 256];
        let blocks = self.group(row / GROUP).chunks_exact(GROUP * size);
        for (from, out) in blocks.zip(out.chunks_exact_mut(length)) {
            self.gather(from, row % GROUP, &mut block[..size]);
            self.encoding.unpack(&block[..size], out);
        }
    }

    /// Decodes some rows to f32, one after the other.
    pub fn rows(&self, rows: impl ExactSizeIterator<Item = usize>) -> Vec<f32> {
        let rows: Vec<usize> = rows.collect();
        let mut out = vec![0.0; rows.len() * self.input];
        let to = threads::OutputColumns::new(&mut out, rows.len(), self.input);
        threads::each(rows.len(), rows.len() * self.input, |i| {
            let mut row = vec![0.0; self.input];
            self.row(rows[i], &mut row);
            // SAFETY: the tasks write different rows.
            #[allow(unsafe_code)]
            unsafe {
                to.put(i, 0, &row);
            }
        });
        out
    }

    /// Decodes one column to f32.
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

    /// The block of one row out of sixteen, in the file's layout.
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

/// Calls `field` for every field of a block: its offset in our layout, its offset in the file's, and its size in bytes.
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

/// Interleaves the rows of one group (fewer than sixteen at the end).
fn interleave(encoding: Encoding, to: &mut [u8], from: &[u8], row: usize) {
    let (size, fields, fifth) = (encoding.bytes(), encoding.fields(), fifth(encoding));
    for (lane, row) in from.chunks_exact(row).enumerate() {
        let blocks = to.chunks_exact_mut(GROUP * size);
        for (to, block) in blocks.zip(row.chunks_exact(size)) {
            let (halves, words) = to.split_at_mut(fields.halves.len() * 2 * GROUP);
            // Arrays of a known size are copied in one instruction.
            let (halves, _) = halves.as_chunks_mut::<2>();
            for (to, at) in halves.chunks_exact_mut(GROUP).zip(fields.halves) {
                to[lane] = [block[*at], block[at + 1]];
            }
            let (places, _) = words.as_chunks_mut::<4>();
            let mut places = places.chunks_exact_mut(GROUP);
            for (start, count) in fields.words {
                let (words, _) = block[*start..start + 4 * count].as_chunks::<4>();
                for (word, to) in words.iter().zip(&mut places) {
                    to[lane] = *word;
                }
            }
            if let Some(file) = fifth {
                // The fifth bits are the first of the words.
                debug_assert_eq!(fields.words[0].0, file);
                spread(&mut words[4 * lane..4 * lane + 4]);
            }
        }
    }
}

/// The offset of a block's fifth bits in the file; none for formats without them.
fn fifth(encoding: Encoding) -> Option<usize> {
    if encoding == Encoding::Q5_0 {
        Some(2)
    } else {
        (encoding == Encoding::Q5_1).then_some(4)
    }
}

/// Exchanges bits 1 and 4 of the index of every fifth bit, so that the fifth bits of a pair of weights, whose indices differ by
/// two, are sixteen bits apart like the pair itself. Applying it twice undoes it.
fn spread(word: &mut [u8]) {
    if let Ok(bytes) = <[u8; 4]>::try_from(&*word) {
        let bits = u32::from_le_bytes(bytes);
        let apart = (bits ^ (bits >> 14)) & 0xcccc;
        word.copy_from_slice(&(bits ^ apart ^ (apart << 14)).to_le_bytes());
    }
}
