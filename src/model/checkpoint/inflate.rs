//! Deflate (RFC 1951) unpacked within a bound: what `numpy.savez_compressed` writes.
//!
//! Invariant: never more bytes than were asked for, whatever the packed ones claim; a stream that is not whole is an error.
//! To read a wrapper around it (zlib, gzip), strip it before.

/// Base and extra bits of lengths 257 to 285.
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// Base and extra bits of distances 0 to 29.
const DISTANCES: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

/// The order in which lengths of code lengths come.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Unpacks at most `most` bytes; stops there.
///
/// # Errors
///
/// When the stream is damaged or ends early.
pub fn inflate(packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    let mut bits = Bits {
        bytes: packed,
        at: 0,
        held: 0,
        count: 0,
    };
    let mut out = Vec::new();
    loop {
        let last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => stored(&mut bits, &mut out, most)?,
            1 => {
                let lengths: Vec<u8> = (0..288)
                    .map(|i| match i {
                        144..256 => 9,
                        256..280 => 7,
                        _ => 8,
                    })
                    .collect();
                let codes = (Codes::new(&lengths)?, Codes::new(&[5; 30])?);
                block(&mut bits, &codes.0, &codes.1, &mut out, most)?;
            }
            2 => {
                let (literals, distances) = tables(&mut bits)?;
                block(&mut bits, &literals, &distances, &mut out, most)?;
            }
            _ => return Err(damaged()),
        }
        if last || out.len() >= most {
            return Ok(out);
        }
    }
}

fn damaged() -> String {
    "its compressed data are damaged".into()
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u32,
    count: u8,
}

impl Bits<'_> {
    /// The next bits, lowest first; 16 at most.
    fn take(&mut self, count: u8) -> Result<usize, String> {
        while self.count < count {
            let byte = self.bytes.get(self.at).ok_or_else(damaged)?;
            self.held |= u32::from(*byte) << self.count;
            self.at += 1;
            self.count += 8;
        }
        let found = self.held & ((1 << count) - 1);
        self.held >>= count;
        self.count -= count;
        Ok(found as usize)
    }
}

/// A Huffman code: how many codes there are of each length, and their symbols in order.
struct Codes {
    counts: [u16; 16],
    symbols: Vec<u16>,
}

impl Codes {
    fn new(lengths: &[u8]) -> Result<Self, String> {
        let mut counts = [0u16; 16];
        for length in lengths {
            counts[usize::from(*length)] += 1;
        }
        counts[0] = 0;
        // No more codes than there is room for.
        let mut left = 1i32;
        for count in &counts[1..] {
            left = (left << 1) - i32::from(*count);
            if left < 0 {
                return Err(damaged());
            }
        }
        let mut starts = [0usize; 17];
        for length in 1..16 {
            starts[length + 1] = starts[length] + usize::from(counts[length]);
        }
        let mut symbols = vec![0u16; starts[16]];
        for (symbol, length) in lengths.iter().enumerate().filter(|(_, l)| **l > 0) {
            let place = &mut starts[usize::from(*length)];
            symbols[*place] = symbol as u16;
            *place += 1;
        }
        Ok(Self { counts, symbols })
    }

    fn read(&self, bits: &mut Bits<'_>) -> Result<usize, String> {
        let (mut code, mut first, mut index) = (0usize, 0usize, 0usize);
        for count in &self.counts[1..] {
            let count = usize::from(*count);
            code |= bits.take(1)?;
            if code < first + count {
                let symbol = self.symbols.get(index + code - first);
                return symbol.map(|s| usize::from(*s)).ok_or_else(damaged);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(damaged())
    }
}

fn stored(bits: &mut Bits<'_>, out: &mut Vec<u8>, most: usize) -> Result<(), String> {
    // From the next whole byte on; none is held beyond it.
    (bits.held, bits.count) = (0, 0);
    let word = |at: usize| -> Option<u16> {
        let bytes = bits.bytes.get(at..at + 2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    };
    let (length, check) = word(bits.at).zip(word(bits.at + 2)).ok_or_else(damaged)?;
    if length != !check {
        return Err(damaged());
    }
    let start = bits.at + 4;
    let end = start + usize::from(length);
    let data = bits.bytes.get(start..end).ok_or_else(damaged)?;
    out.extend_from_slice(&data[..data.len().min(most - out.len())]);
    bits.at = end;
    Ok(())
}

/// The codes that a block brings along.
fn tables(bits: &mut Bits<'_>) -> Result<(Codes, Codes), String> {
    let literals = bits.take(5)? + 257;
    let distances = bits.take(5)? + 1;
    let count = bits.take(4)? + 4;
    if literals > 286 || distances > 30 {
        return Err(damaged());
    }
    let mut lengths = [0u8; 19];
    for place in &ORDER[..count] {
        lengths[*place] = bits.take(3)? as u8;
    }
    let codes = Codes::new(&lengths)?;
    let total = literals + distances;
    let mut lengths: Vec<u8> = Vec::with_capacity(total);
    while lengths.len() < total {
        let (length, times) = match codes.read(bits)? {
            symbol @ 0..16 => (symbol as u8, 1),
            16 => (*lengths.last().ok_or_else(damaged)?, bits.take(2)? + 3),
            17 => (0, bits.take(3)? + 3),
            _ => (0, bits.take(7)? + 11),
        };
        if lengths.len() + times > total {
            return Err(damaged());
        }
        lengths.extend(std::iter::repeat_n(length, times));
    }
    Ok((
        Codes::new(&lengths[..literals])?,
        Codes::new(&lengths[literals..])?,
    ))
}

fn block(
    bits: &mut Bits<'_>,
    literals: &Codes,
    distances: &Codes,
    out: &mut Vec<u8>,
    most: usize,
) -> Result<(), String> {
    while out.len() < most {
        let symbol = literals.read(bits)?;
        let Some(row) = symbol.checked_sub(257) else {
            if symbol == 256 {
                return Ok(());
            }
            out.push(symbol as u8);
            continue;
        };
        let (base, extra) = LENGTHS.get(row).ok_or_else(damaged)?;
        let length = usize::from(*base) + bits.take(*extra)?;
        let (base, extra) = DISTANCES.get(distances.read(bits)?).ok_or_else(damaged)?;
        let distance = usize::from(*base) + bits.take(*extra)?;
        let from = out.len().checked_sub(distance).ok_or_else(damaged)?;
        let length = length.min(most - out.len());
        // What is copied may be what was just written.
        for place in from..from + length {
            out.push(out[place]);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What zlib (raw deflate, level 9) makes of a text, in one block of fixed codes.
    const HELLO: &[u8] = &[
        0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x57, 0xc8, 0x40, 0x27, 0xb9, 0x00,
    ];

    /// The same of 300 letters of few kinds, in a block with codes of its own.
    const OWN: &[u8] = &[
        0x55, 0x4f, 0x49, 0x0e, 0x00, 0x31, 0x08, 0x7a, 0x2b, 0x8b, 0xff, 0xff, 0xc2, 0x80, 0x6d,
        0x0f, 0x63, 0xa2, 0x71, 0x01, 0x54, 0x18, 0x24, 0x41, 0x40, 0x23, 0x01, 0x18, 0xb8, 0x21,
        0x96, 0xb6, 0xe2, 0x9d, 0x65, 0x7a, 0x26, 0x0b, 0x55, 0xdc, 0x43, 0xce, 0x2c, 0x58, 0xa2,
        0x0b, 0xb2, 0x28, 0x1f, 0xe6, 0x46, 0x50, 0x2b, 0xc0, 0xa5, 0x0f, 0x4f, 0xaf, 0xb8, 0xa3,
        0xb7, 0xcb, 0x0a, 0xba, 0x0b, 0xd4, 0x3c, 0x02, 0x5c, 0x01, 0x6d, 0x4b, 0xd9, 0x66, 0x8f,
        0x2f, 0x15, 0xf7, 0xae, 0x52, 0x5f, 0x79, 0x6c, 0xec, 0xf4, 0x43, 0xa3, 0xef, 0xbc, 0x0a,
        0xfd, 0x00, 0xc4, 0x0f, 0xaa, 0xa7, 0xd4, 0x64, 0xc1, 0xc1, 0x84, 0xbd, 0x77, 0xec, 0x27,
        0x7a, 0xdb, 0xfa, 0xe2, 0xbb, 0x35, 0xf5, 0x07,
    ];

    #[test]
    fn what_zlib_packed_is_unpacked_within_the_bound() {
        let text = b"hello hello hello hello\n";
        assert_eq!(inflate(HELLO, 100).unwrap(), text);
        for most in 0..text.len() {
            assert_eq!(inflate(HELLO, most).unwrap(), text[..most]);
        }
        let mut state = 1u64;
        let letters: Vec<u8> = (0..300)
            .map(|_| {
                state = (state * 1_103_515_245 + 12345) & 0x7fff_ffff;
                b"aaaaaaaaabbbccde"[(state >> 16) as usize % 16]
            })
            .collect();
        assert_eq!(inflate(OWN, 1000).unwrap(), letters);
        assert_eq!(inflate(OWN, 299).unwrap(), letters[..299]);
        let stored = [&[1, 3, 0, 0xfc, 0xff][..], b"abc"].concat();
        assert_eq!(inflate(&stored, 9).unwrap(), b"abc");
        assert_eq!(inflate(&stored, 2).unwrap(), b"ab");
    }

    #[test]
    fn damage_is_an_error_and_no_more() {
        for whole in [HELLO, OWN] {
            for cut in 0..whole.len() - 1 {
                assert!(inflate(&whole[..cut], 1000).is_err(), "{cut}");
            }
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut bytes = whole.to_vec();
                    bytes[at] ^= 1 << bit;
                    let out = inflate(&bytes, 1000);
                    assert!(out.is_err() || out.is_ok_and(|out| out.len() <= 1000));
                }
            }
        }
    }
}
