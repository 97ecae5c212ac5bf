//! The header of a GGUF file: metadata and the list of tensors, parsed without trusting any length.
//!
//! Invariant: every count, length and offset is checked against the size of the file before it is used, so a malicious file
//! gives an error sentence: never a panic, an endless loop, or an allocation larger than its own size justifies. Strings and
//! lists stay in the file; the header stores their location. To read a new tensor type, add its row to `TYPES`.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::quantized::GgmlDType;

/// Tensor types by their number in the file: their name, and candle's type if they can be read.
const TYPES: &[(u32, &str, Option<GgmlDType>)] = &[
    (0, "F32", Some(GgmlDType::F32)),
    (1, "F16", Some(GgmlDType::F16)),
    (2, "Q4_0", Some(GgmlDType::Q4_0)),
    (3, "Q4_1", Some(GgmlDType::Q4_1)),
    (6, "Q5_0", Some(GgmlDType::Q5_0)),
    (7, "Q5_1", Some(GgmlDType::Q5_1)),
    (8, "Q8_0", Some(GgmlDType::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(GgmlDType::Q2K)),
    (11, "Q3_K", Some(GgmlDType::Q3K)),
    (12, "Q4_K", Some(GgmlDType::Q4K)),
    (13, "Q5_K", Some(GgmlDType::Q5K)),
    (14, "Q6_K", Some(GgmlDType::Q6K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(GgmlDType::BF16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", None),
    (40, "NVFP4", None),
];

/// The largest nesting depth of arrays; current files have none.
const MAX_NESTING: usize = 4;

/// The type of a tensor, as numbered in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GgufType(u32);

impl GgufType {
    /// Candle's type for the data; none if it cannot be read.
    pub fn readable(self) -> Option<GgmlDType> {
        TYPES.iter().find(|t| t.0 == self.0)?.2
    }

    /// The name of its quantized blocks, as flags and headers write it: `q4_K`; `None` for plain numbers and for types that
    /// cannot be read.
    pub fn blocks(self) -> Option<&'static str> {
        Some(match self.readable()? {
            GgmlDType::Q4_0 => "q4_0",
            GgmlDType::Q4_1 => "q4_1",
            GgmlDType::Q5_0 => "q5_0",
            GgmlDType::Q5_1 => "q5_1",
            GgmlDType::Q8_0 => "q8_0",
            GgmlDType::Q2K => "q2_K",
            GgmlDType::Q3K => "q3_K",
            GgmlDType::Q4K => "q4_K",
            GgmlDType::Q5K => "q5_K",
            GgmlDType::Q6K => "q6_K",
            GgmlDType::F32
            | GgmlDType::F16
            | GgmlDType::BF16
            | GgmlDType::Q8_1
            | GgmlDType::Q8K => return None,
        })
    }

    /// The name as llama.cpp prints it: `Q4_K`, `IQ3_S`, `type 77`.
    pub fn name(self) -> String {
        TYPES
            .iter()
            .find(|t| t.0 == self.0)
            .map_or_else(|| format!("type {}", self.0), |t| t.1.to_string())
    }
}

/// The shape, type and location of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Dimensions, outermost first (`[out, in]` for a matrix); the file has them in reverse order.
    pub shape: Vec<usize>,
    pub kind: GgufType,
    /// Its bytes in the file; for a type that cannot be read, an empty range at its start.
    pub span: Range<usize>,
}

/// A metadata value; strings and lists are ranges of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MetadataEntry {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(Range<usize>),
    List {
        kind: u32,
        count: usize,
        span: Range<usize>,
    },
}

/// The header of one file.
#[derive(Clone, Debug, Default)]
pub struct GgufHeader {
    pub(crate) metadata: BTreeMap<String, MetadataEntry>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// What is wrong with a file, without its path.
pub(crate) type HeaderError = String;

impl GgufHeader {
    /// Parses the header of a whole file. The error says what is wrong; the caller adds the path.
    pub fn parse(file: &[u8]) -> Result<Self, String> {
        let mut at = HeaderReader { file, at: 0 };
        if at.take(4, "the magic number")? != b"GGUF" {
            return Err("it does not begin with `GGUF`".into());
        }
        match at.u32("the version")? {
            2 | 3 => {}
            1 => return Err("it is of GGUF version 1, which no current tool writes".into()),
            v if v.trailing_zeros() >= 16 => {
                return Err("it is a big-endian GGUF; only little-endian files are read".into());
            }
            v => return Err(format!("it is of GGUF version {v}; 2 and 3 are read")),
        }
        let tensors = at.u64("the number of tensors")?;
        let entries = at.u64("the number of metadata entries")?;
        // A tensor takes at least 24 bytes and an entry 13, which limits the counts.
        at.check_count(tensors, 24, "tensors")?;
        at.check_count(entries, 13, "metadata entries")?;

        let mut header = Self::default();
        for _ in 0..entries {
            let key = at.name("a metadata key")?;
            let kind = at.u32("the type of a value")?;
            let value = at.value(kind, &key)?;
            if header.metadata.insert(key.clone(), value).is_some() {
                return Err(format!("the metadata key `{key}` is there twice"));
            }
        }
        let alignment = match header.metadata.get("general.alignment") {
            None => 32,
            Some(MetadataEntry::Unsigned(n))
                if n.is_power_of_two() && (8..=1 << 20).contains(n) =>
            {
                *n as usize
            }
            Some(_) => return Err("its `general.alignment` is not a power of two from 8 up".into()),
        };

        // A repeated name is an error at once: zeros at the end of a long file would otherwise be read as tensors without a
        // name.
        for _ in 0..tensors {
            let name = at.name("a tensor's name")?;
            let info = at.tensor(&name)?;
            if header.tensors.insert(name.clone(), info).is_some() {
                return Err(format!("the tensor `{name}` is there twice"));
            }
        }
        let start = at.at.next_multiple_of(alignment);
        for (name, info) in &mut header.tensors {
            // Blocks contain 16-bit and 32-bit numbers, which are read in place.
            if !info.span.start.is_multiple_of(alignment) {
                return Err(format!("the data of tensor `{name}` is not aligned"));
            }
            info.span = place(name, info, start, file.len())?;
        }
        Ok(header)
    }
}

/// Computes the byte range of a tensor, whose span so far contains only its offset.
fn place(
    name: &str,
    info: &TensorInfo,
    start: usize,
    length: usize,
) -> Result<Range<usize>, HeaderError> {
    let beyond = |end: Option<usize>| {
        let end = end.map_or("more bytes than any file has".into(), |e| {
            format!("{e} bytes")
        });
        format!("the tensor `{name}` needs {end} and the file has {length}")
    };
    let from = start
        .checked_add(info.span.start)
        .ok_or_else(|| beyond(None))?;
    if from > length {
        return Err(beyond(Some(from)));
    }
    let Some(dtype) = info.kind.readable() else {
        return Ok(from..from);
    };
    let columns = info.shape.last().copied().unwrap_or(1);
    let block = dtype.block_size();
    if !columns.is_multiple_of(block) {
        return Err(format!(
            "the rows of tensor `{name}` have {columns} columns, which {} (blocks of {block}) cannot hold",
            info.kind.name()
        ));
    }
    let end = info
        .shape
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(*d))
        .and_then(|n| (n / block).checked_mul(dtype.type_size()))
        .and_then(|bytes| from.checked_add(bytes))
        .ok_or_else(|| beyond(None))?;
    if end > length {
        return Err(beyond(Some(end)));
    }
    Ok(from..end)
}

/// A position in the file; every step is checked.
pub(crate) struct HeaderReader<'a> {
    pub file: &'a [u8],
    pub at: usize,
}

impl<'a> HeaderReader<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], HeaderError> {
        let bytes = self
            .at
            .checked_add(count)
            .and_then(|end| self.file.get(self.at..end))
            .ok_or_else(|| {
                let (at, length) = (self.at, self.file.len());
                format!("it ends early: {what} needs {count} bytes at byte {at} of {length}")
            })?;
        self.at += count;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, HeaderError> {
        self.fixed(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, HeaderError> {
        self.fixed(what).map(u64::from_le_bytes)
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], HeaderError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, what)?);
        Ok(bytes)
    }

    /// Refuses a count that the rest of the file is too short for.
    fn check_count(&self, count: u64, least: u64, what: &str) -> Result<usize, HeaderError> {
        let left = (self.file.len() - self.at) as u64;
        if count > left / least {
            return Err(format!(
                "it claims {count} {what}, more than its {left} remaining bytes can hold"
            ));
        }
        Ok(count as usize)
    }

    /// The byte range of a string.
    fn text(&mut self, what: &str) -> Result<Range<usize>, HeaderError> {
        let length = self.u64(what)?;
        let length = self.check_count(length, 1, &format!("bytes for {what}"))?;
        self.take(length, what)?;
        Ok(self.at - length..self.at)
    }

    fn name(&mut self, what: &str) -> Result<String, HeaderError> {
        let span = self.text(what)?;
        // The format allows 65535 bytes for a key and 64 for a tensor name.
        if span.len() > 65_535 {
            return Err(format!("{what} is {} bytes long", span.len()));
        }
        match std::str::from_utf8(&self.file[span]) {
            Ok(name) => Ok(name.to_string()),
            Err(_) => Err(format!("{what} is not text")),
        }
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<MetadataEntry, HeaderError> {
        let what = format!("`{key}`");
        let what = what.as_str();
        Ok(match kind {
            0 => MetadataEntry::Unsigned(u64::from(self.fixed::<1>(what)?[0])),
            1 => MetadataEntry::Signed(i64::from(i8::from_le_bytes(self.fixed(what)?))),
            2 => MetadataEntry::Unsigned(u64::from(u16::from_le_bytes(self.fixed(what)?))),
            3 => MetadataEntry::Signed(i64::from(i16::from_le_bytes(self.fixed(what)?))),
            4 => MetadataEntry::Unsigned(u64::from(self.u32(what)?)),
            5 => MetadataEntry::Signed(i64::from(i32::from_le_bytes(self.fixed(what)?))),
            6 => MetadataEntry::Float(widen(f32::from_le_bytes(self.fixed(what)?))),
            7 => MetadataEntry::Bool(self.fixed::<1>(what)?[0] != 0),
            8 => MetadataEntry::Text(self.text(what)?),
            9 => {
                let kind = self.u32(what)?;
                let count = self.u64(what)?;
                let start = self.at;
                let count = self.skip(kind, count, what, 0)?;
                MetadataEntry::List {
                    kind,
                    count,
                    span: start..self.at,
                }
            }
            10 => MetadataEntry::Unsigned(self.u64(what)?),
            11 => MetadataEntry::Signed(i64::from_le_bytes(self.fixed(what)?)),
            12 => MetadataEntry::Float(f64::from_le_bytes(self.fixed(what)?)),
            other => return Err(format!("{what} has the unknown value type {other}")),
        })
    }

    /// Skips `count` values of a kind, and returns how many there are.
    fn skip(
        &mut self,
        kind: u32,
        count: u64,
        what: &str,
        depth: usize,
    ) -> Result<usize, HeaderError> {
        if let Some(width) = width(kind) {
            let count = self.check_count(count, width as u64, &format!("values for {what}"))?;
            self.take(count * width, what)?;
            return Ok(count);
        }
        match kind {
            8 => {
                let count = self.check_count(count, 8, &format!("strings for {what}"))?;
                for _ in 0..count {
                    self.text(what)?;
                }
                Ok(count)
            }
            9 if depth < MAX_NESTING => {
                let count = self.check_count(count, 12, &format!("lists for {what}"))?;
                for _ in 0..count {
                    let kind = self.u32(what)?;
                    let inner = self.u64(what)?;
                    self.skip(kind, inner, what, depth + 1)?;
                }
                Ok(count)
            }
            9 => Err(format!("{what} nests lists deeper than {MAX_NESTING}")),
            other => Err(format!(
                "{what} is a list of the unknown value type {other}"
            )),
        }
    }

    fn tensor(&mut self, name: &str) -> Result<TensorInfo, HeaderError> {
        let what = format!("tensor `{name}`");
        let dims = self.u32(&what)?;
        if dims > 4 {
            return Err(format!("{what} claims {dims} dimensions; 4 is the most"));
        }
        let mut shape = Vec::with_capacity(dims as usize);
        for _ in 0..dims {
            let d = usize::try_from(self.u64(&what)?)
                .map_err(|_| format!("{what} is larger than memory can be"))?;
            if d == 0 {
                return Err(format!("{what} has an empty dimension"));
            }
            shape.push(d);
        }
        shape.reverse();
        let kind = GgufType(self.u32(&what)?);
        let offset = usize::try_from(self.u64(&what)?)
            .map_err(|_| format!("{what} lies beyond what memory can hold"))?;
        Ok(TensorInfo {
            shape,
            kind,
            span: offset..offset,
        })
    }

    /// The next string in a list of strings.
    pub fn next_text(&mut self) -> Option<&'a [u8]> {
        let span = self.text("a string").ok()?;
        self.file.get(span)
    }
}

/// The size in bytes of a value of fixed width.
pub(crate) fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// The f64 with the decimal notation of an f32: 1e-5 stays 1e-5 rather than 9.99999974e-6.
fn widen(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_they_were_written() {
        assert!((widen(1e-5) - 1e-5).abs() < f64::EPSILON * 1e-5);
        assert!(widen(f32::NAN).is_nan());
        assert!(widen(f32::INFINITY).is_infinite());
    }

    #[test]
    fn versions_and_byte_orders_that_are_not_read_are_named() {
        let file = |version: u32| [b"GGUF".as_slice(), &version.to_le_bytes(), &[0; 16]].concat();
        assert!(GgufHeader::parse(&file(3)).unwrap().tensors.is_empty());
        for (version, word) in [(1, "version 1"), (4, "version 4"), (3 << 24, "big-endian")] {
            let wrong = GgufHeader::parse(&file(version)).unwrap_err();
            assert!(wrong.contains(word), "{wrong}");
        }
        assert!(GgufHeader::parse(b"GGML").unwrap_err().contains("GGUF"));
    }

    #[test]
    fn counts_beyond_the_file_are_refused() {
        let mut file = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
        file.extend(u64::MAX.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        assert!(GgufHeader::parse(&file).unwrap_err().contains("tensors"));
    }
}
