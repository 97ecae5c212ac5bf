//! `.npy` and `.npz` of numpy: arrays of floating-point numbers, read and never run.
//!
//! Invariant: an array has the bytes that its header claims, and no header or archive makes more memory than
//! `MOST`; arrays of Python objects are pickles and are refused. To read another element type, add its row to `KINDS`.

use std::borrow::Cow;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::inflate::inflate;
use super::torch::Loose;
use super::torch::archive::{Entry, checksum, directory_of};
use super::weights::map_file;
use crate::error::{Error, Result};

/// Most bytes that the arrays of a file may unpack to.
const MOST: u64 = 256 << 20;

/// Most bytes of a header; numpy itself refuses more than 10 000 unless asked.
const HEADER: usize = 1 << 16;

/// How numpy names element types, without byte order.
const KINDS: &[(&str, DType, usize)] = &[
    ("f2", DType::F16, 2),
    ("f4", DType::F32, 4),
    ("f8", DType::F64, 8),
    // numpy has no bfloat16; ml_dtypes' arrays are saved as two bytes without a meaning.
    ("V2", DType::BF16, 2),
];

/// What an array's header says.
struct Header {
    kind: String,
    big: bool,
    fortran: bool,
    shape: Vec<usize>,
    /// Where its elements begin.
    start: usize,
}

/// The arrays of a `.npy` (one, without a name) or `.npz` file.
///
/// # Errors
///
/// When the file is damaged, holds other things than numbers, or unpacks to too much.
pub fn arrays(path: &Path) -> Result<Vec<Loose>> {
    let next = "Save it once more: numpy.save(FILE, VECTOR.astype('float32')), or numpy.savez(FILE, NAME=VECTOR, ...).";
    let bad = |what: String| Error::bad_file(path, what, next);
    let map = map_file(path)?;
    if !map.starts_with(b"PK") {
        return Ok(vec![array(String::new(), &map).map_err(bad)?]);
    }
    let entries = directory_of(&map).map_err(bad)?;
    let entries: Vec<(String, Entry)> = entries
        .into_iter()
        .filter_map(|(name, entry)| Some((name.strip_suffix(".npy")?.to_string(), entry)))
        .collect();
    if entries.is_empty() {
        return Err(bad("it holds no array".into()));
    }
    let total = entries.iter().map(|(_, e)| e.size);
    let total = total.fold(0u64, u64::saturating_add);
    if total > MOST {
        // Too much to unpack, but not to say what it is.
        let heads = entries.iter().map(|(name, entry)| {
            let head = unpacked(&map, entry, HEADER)?;
            let header = header(&head)?;
            Ok(Loose {
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
        if bytes.len() != size || (entry.packed && checksum(&bytes) != entry.crc) {
            return Err(format!("its array `{name}` is damaged"));
        }
        array(name, &bytes)
    });
    read.collect::<Result<_, String>>().map_err(bad)
}

fn unpacked<'a>(file: &'a [u8], entry: &Entry, most: usize) -> Result<Cow<'a, [u8]>, String> {
    let data = &file[entry.data.clone()];
    if entry.packed {
        return Ok(Cow::Owned(inflate(data, most)?));
    }
    Ok(Cow::Borrowed(&data[..data.len().min(most)]))
}

/// Reads one array; the error says what is wrong, with its name.
fn array(name: String, bytes: &[u8]) -> Result<Loose, String> {
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
    if header.big {
        own.to_mut()
            .chunks_exact_mut(*width)
            .for_each(<[u8]>::reverse);
    }
    let numbers = Tensor::from_raw_buffer(&own, *dtype, &[data.len() / width], &Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F32)?.to_vec1::<f32>())
        .map_err(|e| format!("{what} cannot be read ({e})"))?;
    let values = if header.fortran {
        rows(&header.shape, &numbers)
    } else {
        numbers
    };
    Ok(Loose {
        name,
        shape: header.shape,
        values,
    })
}

/// Columns first to rows first.
fn rows(shape: &[usize], columns: &[f32]) -> Vec<f32> {
    let mut index = vec![0usize; shape.len()];
    (0..columns.len())
        .map(|_| {
            let place = index.iter().zip(shape).rev().fold(0, |n, (i, d)| n * d + i);
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
            columns[place]
        })
        .collect()
}

/// Reads the header, a dict of Python: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn header(bytes: &[u8]) -> Result<Header, String> {
    let damaged = || "has no header that numpy writes".to_string();
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err("is no array that numpy saved".into());
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
    let fortran = after("fortran_order")?.starts_with("True");
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
    Ok(Header {
        kind: kind.to_string(),
        big: descr.starts_with('>'),
        fortran,
        shape,
        start,
    })
}
