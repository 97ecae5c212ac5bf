//! `.npy` and `.npz` files of numpy: arrays of floating-point numbers, parsed without executing anything.
//!
//! Invariant: an array has exactly the bytes that its header claims, and no file unpacks to more than `MOST` bytes; arrays of
//! Python objects are pickles and are refused. To read another element type, add its row to `KINDS`.

use std::borrow::Cow;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_with_limit};

use super::torch::archive::{ArchiveEntry, directory_of};
use super::torch::{SmallTensor, strided};
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::memory_map::map_file;

/// The most bytes to which the arrays of a file may unpack.
const MOST: u64 = 256 << 20;

/// The most bytes in a header; numpy itself refuses more than 10 000 unless asked.
pub(super) const HEADER: usize = 1 << 16;

/// numpy's names of element types, without byte order.
const KINDS: &[(&str, DType, usize)] = &[
    ("f2", DType::F16, 2),
    ("f4", DType::F32, 4),
    ("f8", DType::F64, 8),
    // numpy has no bfloat16; arrays of ml_dtypes are saved as opaque values of two bytes.
    ("V2", DType::BF16, 2),
];

/// The header of an array.
pub(super) struct NpyHeader {
    pub kind: String,
    pub big_endian: bool,
    pub column_major: bool,
    pub shape: Vec<usize>,
    /// The offset of its elements.
    pub start: usize,
}

/// The arrays of a `.npy` (a single one, without a name) or `.npz` file.
///
/// # Errors
///
/// When the file is damaged, contains something other than numbers, or unpacks to too many bytes.
pub fn arrays(path: &Path) -> Result<Vec<SmallTensor>> {
    let next = "Save it again: numpy.save(FILE, VECTOR.astype('float32')), or numpy.savez(FILE, NAME=VECTOR, ...).";
    let bad = |what: String| Error::bad_file(path, what, next);
    let map = map_file(path)?;
    if !map.starts_with(b"PK") {
        return Ok(vec![array(String::new(), &map).map_err(bad)?]);
    }
    let entries = directory_of(&map).map_err(bad)?;
    let entries: Vec<(String, ArchiveEntry)> = entries
        .into_iter()
        .filter_map(|(name, entry)| Some((name.strip_suffix(".npy")?.to_string(), entry)))
        .collect();
    if entries.is_empty() {
        return Err(bad("it holds no array".into()));
    }
    let total = entries.iter().map(|(_, e)| e.size);
    let total = total.fold(0u64, u64::saturating_add);
    if total > MOST {
        // The arrays are too large to unpack, but their names and shapes can be reported.
        let heads = entries.iter().map(|(name, entry)| {
            let head = unpacked(&map, entry, HEADER)?;
            let header = header(&head)?;
            Ok(SmallTensor {
                name: name.clone(),
                shape: header.shape,
                values: Vec::new(),
            })
        });
        return heads.collect::<Result<_, String>>().map_err(bad);
    }
    let read = entries.into_iter().map(|(name, entry)| {
        let size = usize::try_from(entry.size).map_err(|e| e.to_string())?;
        let bytes = unpacked(&map, &entry, size)?;
        if bytes.len() != size || (entry.packed && crc32fast::hash(&bytes) != entry.crc) {
            return Err(format!("its array `{name}` is damaged"));
        }
        array(name, &bytes)
    });
    read.collect::<Result<_, String>>().map_err(bad)
}

fn unpacked<'a>(
    file: &'a [u8],
    entry: &ArchiveEntry,
    most: usize,
) -> Result<Cow<'a, [u8]>, String> {
    let data = &file[entry.data.clone()];
    if entry.packed {
        return Ok(Cow::Owned(inflate(data, most)?));
    }
    Ok(Cow::Borrowed(&data[..data.len().min(most)]))
}

/// Decompresses at most `most` bytes of a deflate stream.
pub(super) fn inflate(packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    match decompress_to_vec_with_limit(packed, most) {
        Ok(all) => Ok(all),
        Err(cut) if cut.status == TINFLStatus::HasMoreOutput => Ok(cut.output),
        Err(_) => Err("its compressed data are damaged".into()),
    }
}

/// Parses one array; the error says what is wrong, with the array's name.
fn array(name: String, bytes: &[u8]) -> Result<SmallTensor, String> {
    let what = if name.is_empty() {
        "it".to_string()
    } else {
        format!("its array `{name}`")
    };
    let header = header(bytes).map_err(|why| format!("{what} {why}"))?;
    let Some((_, dtype, width)) = KINDS.iter().find(|k| k.0 == header.kind) else {
        return Err(match header.kind.chars().next() {
            Some('O') => format!(
                "{what} holds Python objects, which is a pickle that would have to be run. Of a dict, save numpy.savez(FILE, **DICT)"
            ),
            _ => format!(
                "{what} is of `{}`; floating-point numbers of 2, 4 or 8 bytes are read",
                header.kind
            ),
        });
    };
    let count = header
        .shape
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(*d));
    let expected = count.and_then(|n| n.checked_mul(*width));
    let data = &bytes[header.start..];
    if expected != Some(data.len()) || data.len() as u64 > MOST {
        return Err(format!(
            "{what} is {:?} and has {} bytes of numbers",
            header.shape,
            data.len()
        ));
    }
    let mut own = Cow::Borrowed(data);
    if header.big_endian {
        own.to_mut()
            .chunks_exact_mut(*width)
            .for_each(<[u8]>::reverse);
    }
    let numbers = Tensor::from_raw_buffer(&own, *dtype, &[data.len() / width], &Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F32)?.host_vec1::<f32>())
        .map_err(|e| format!("{what} cannot be read ({e})"))?;
    // From column-major to row-major order.
    let values = if header.column_major {
        let columns = header.shape.iter().scan(1, |stride, side| {
            Some(std::mem::replace(stride, *stride * side))
        });
        let stride: Vec<usize> = columns.collect();
        strided(&header.shape, &stride)
            .map(|at| numbers[at])
            .collect()
    } else {
        numbers
    };
    Ok(SmallTensor {
        name,
        shape: header.shape,
        values,
    })
}

/// Parses the header of an array.
pub(super) fn header(bytes: &[u8]) -> Result<NpyHeader, String> {
    let damaged = || "has no header that numpy writes".to_string();
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err("is not an array that numpy saved".into());
    }
    let at = |i: usize| bytes.get(i).copied().ok_or_else(damaged);
    let (length, begin) = match at(6)? {
        1 => (usize::from(u16::from_le_bytes([at(8)?, at(9)?])), 10),
        2 | 3 => {
            let long = u32::from_le_bytes([at(8)?, at(9)?, at(10)?, at(11)?]);
            (long as usize, 12)
        }
        other => {
            return Err(format!(
                "is of version {other} of the format; 1 to 3 are read"
            ));
        }
    };
    let start = begin + length;
    if length > HEADER {
        return Err(format!("has a header of {length} bytes"));
    }
    let text = bytes.get(begin..start).ok_or_else(damaged)?;
    let text = std::str::from_utf8(text).map_err(|_| damaged())?;
    let after = |key: &str| -> Result<&str, String> {
        let quoted = [format!("'{key}':"), format!("\"{key}\":")];
        let found = quoted.iter().find_map(|q| text.split_once(q.as_str()));
        found.map(|(_, rest)| rest.trim_start()).ok_or_else(damaged)
    };
    let descr = after("descr")?;
    let Some(quote) = descr.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
        return Err("has named fields; save one of them".into());
    };
    let (descr, _) = descr[1..].split_once(quote).ok_or_else(damaged)?;
    let kind = descr.trim_start_matches(['<', '>', '|', '=']);
    let column_major = after("fortran_order")?.starts_with("True");
    let (shape, _) = after("shape")?
        .strip_prefix('(')
        .and_then(|s| s.split_once(')'))
        .ok_or_else(damaged)?;
    let sides = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
    let shape = sides
        .map(|s| s.parse().map_err(|_| damaged()))
        .collect::<Result<Vec<usize>, String>>()?;
    if shape.len() > 32 {
        return Err(damaged());
    }
    Ok(NpyHeader {
        kind: kind.to_string(),
        big_endian: descr.starts_with('>'),
        column_major,
        shape,
        start,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::inflate;

    /// A text compressed by zlib (raw deflate, level 9), in one block with fixed codes.
    const HELLO: &[u8] = &[
        0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x57, 0xc8, 0x40, 0x27, 0xb9, 0x00,
    ];

    /// The same for 300 letters of a small alphabet, in a block with dynamic codes.
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
