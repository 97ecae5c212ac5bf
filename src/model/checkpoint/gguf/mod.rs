//! GGUF files, presented as Hugging Face checkpoints.
//!
//! Invariant: all changes that the converter made (names, row order, shifted norm gains) are undone here, so that families and
//! the forward pass know only one layout. Metadata becomes a config.json ([`config`]), tensors get their Hugging Face names and
//! row order back ([`names`]); quantized rows are moved without unpacking. To support another architecture, add its row to
//! [`names::ARCHITECTURES`].

pub mod config;
pub mod header;
pub mod names;
pub mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::model::memory_map::{map_file, release};
use header::{GgufHeader, HeaderReader, MetadataEntry, TensorInfo, width};
use names::{GgufNames, GgufPiece};

/// What to do about a file that cannot be read.
const AGAIN: &str = "It is truncated or not a GGUF file; download it again.";

/// Mixtures of tensor types by their `general.file_type`; `_S`, `_M` and `_L` tell how many tensors are of a finer type.
const FILE_TYPES: &[(u64, &str)] = &[
    (11, "q3_K_S"),
    (12, "q3_K_M"),
    (13, "q3_K_L"),
    (14, "q4_K_S"),
    (15, "q4_K_M"),
    (16, "q5_K_S"),
    (17, "q5_K_M"),
    (21, "q2_K_S"),
];

/// The bytes of one file.
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// An open GGUF file, or all parts of a split one.
pub struct Gguf {
    /// The path of the first part, whose metadata is the model's.
    path: PathBuf,
    parts: Vec<Bytes>,
    metadata: BTreeMap<String, MetadataEntry>,
    /// By name: the index of the part, and the tensor's location in it.
    tensors: BTreeMap<String, (usize, TensorInfo)>,
    /// The tensors that were requested.
    read: Mutex<BTreeSet<String>>,
}

impl Gguf {
    /// Opens a file. For a split file any part can be given, and all of them are opened.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        let Some((stem, count)) = split_name(name) else {
            let gguf = Self::read(path, Bytes::Mapped(map_file(path)?))?;
            return match gguf.u64("split.count") {
                Some(count @ 2..) => Err(Error::bad_file(
                    path,
                    format!("it is one of {count} parts, and its name does not say which"),
                    format!("Name the parts as they were made: model-00001-of-{count:05}.gguf."),
                )),
                _ => Ok(gguf),
            };
        };
        let part = |no: usize| path.with_file_name(format!("{stem}-{no:05}-of-{count:05}.gguf"));
        let first = part(1);
        let mut gguf = Self::read(&first, Bytes::Mapped(map_file(&first)?))?;
        match gguf.u64("split.count") {
            Some(n) if n == count as u64 => {}
            said => {
                let said = said.map_or("nothing".into(), |n| n.to_string());
                return Err(Error::bad_file(
                    first,
                    format!("its name says {count} parts and its `split.count` says {said}"),
                    "Give the files the names they were made with.",
                ));
            }
        }
        for no in 2..=count {
            let path = part(no);
            if !path.exists() {
                return Err(Error::bad_file(
                    path,
                    format!("part {no} of {count} is not there"),
                    "Finish the download.",
                ));
            }
            let more = Self::read(&path, Bytes::Mapped(map_file(&path)?))?;
            gguf.append(more)?;
        }
        Ok(gguf)
    }

    /// Parses a file in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::read(Path::new("(GGUF in memory)"), Bytes::Owned(bytes))
    }

    fn read(path: &Path, bytes: Bytes) -> Result<Self> {
        let header = GgufHeader::parse(bytes.all()).map_err(|w| Error::bad_file(path, w, AGAIN))?;
        Ok(Self {
            path: path.to_path_buf(),
            parts: vec![bytes],
            metadata: header.metadata,
            tensors: header
                .tensors
                .into_iter()
                .map(|(name, info)| (name, (0, info)))
                .collect(),
            read: Mutex::default(),
        })
    }

    fn append(&mut self, more: Self) -> Result<()> {
        let part = self.parts.len();
        self.parts.extend(more.parts);
        for (name, (_, info)) in more.tensors {
            if self.tensors.insert(name.clone(), (part, info)).is_some() {
                let what = format!("the tensor `{name}` is in two parts");
                return Err(Error::bad_file(
                    &more.path,
                    what,
                    "Download the parts again.",
                ));
            }
        }
        Ok(())
    }

    /// The path of the file, or of its first part.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a file with a tensor type that cannot be read; names the first such tensor.
    pub fn check_types(&self) -> Result<()> {
        match self.tensors().find(|(_, t)| t.kind.readable().is_none()) {
            None => Ok(()),
            Some((name, tensor)) => Err(Error::bad_file(
                &self.path,
                format!(
                    "the tensor `{name}` is {}, which is not supported",
                    tensor.kind.name()
                ),
                "Take a file with F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 or Q2_K to Q6_K (such as Q4_K_M).",
            )),
        }
    }

    /// The name of its quantization: that of `general.file_type` (`q4_K_M`) if most bytes have that type, else the type of most
    /// bytes; `None` if most are not quantized.
    pub fn quantization(&self) -> Option<&'static str> {
        let mut sizes: BTreeMap<_, usize> = BTreeMap::new();
        for (_, t) in self.tensors() {
            *sizes.entry(t.kind).or_default() += t.span.len();
        }
        let (most, _) = sizes.into_iter().max_by_key(|(_, size)| *size)?;
        let plain = most.blocks()?;
        let said = FILE_TYPES
            .iter()
            .find(|t| Some(t.0) == self.u64("general.file_type"));
        match said {
            Some((_, name)) if name.starts_with(plain) => Some(name),
            _ => Some(plain),
        }
    }

    /// Every tensor, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, (_, t))| (name.as_str(), t))
    }

    /// The location and type of a tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|(_, info)| info)
    }

    /// A tensor's bytes; empty for a type that cannot be read.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (part, info) = self.tensors.get(name)?;
        self.parts.get(*part)?.all().get(info.span.clone())
    }

    /// Records that a tensor was requested.
    fn mark(&self, name: &str) {
        if let Ok(mut read) = self.read.lock()
            && !read.contains(name)
        {
            read.insert(name.to_owned());
        }
    }

    /// Whether a tensor was ever requested under a Hugging Face name.
    pub fn was_requested(&self, name: &str) -> bool {
        self.read.lock().is_ok_and(|read| read.contains(name))
    }

    /// Releases the pages of the memory map that were read.
    pub fn release(&self) {
        for part in &self.parts {
            match part {
                Bytes::Mapped(map) => release(map),
                Bytes::Owned(_) => {}
            }
        }
    }

    /// Every metadata key.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// A string; `None` if the key is absent or has another type.
    pub fn string(&self, key: &str) -> Option<&str> {
        let MetadataEntry::Text(span) = self.metadata.get(key)? else {
            return None;
        };
        std::str::from_utf8(self.span(span)).ok()
    }

    /// A nonnegative integer of any width.
    pub fn u64(&self, key: &str) -> Option<u64> {
        match self.metadata.get(key)? {
            MetadataEntry::Unsigned(n) => Some(*n),
            MetadataEntry::Signed(n) => u64::try_from(*n).ok(),
            MetadataEntry::Float(_)
            | MetadataEntry::Bool(_)
            | MetadataEntry::Text(_)
            | MetadataEntry::List { .. } => None,
        }
    }

    /// Whether an integer has a signed type; `None` if the key is absent or not an integer.
    pub fn signed(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            MetadataEntry::Unsigned(_) => Some(false),
            MetadataEntry::Signed(_) => Some(true),
            MetadataEntry::Float(_)
            | MetadataEntry::Bool(_)
            | MetadataEntry::Text(_)
            | MetadataEntry::List { .. } => None,
        }
    }

    /// An integer that fits u32: token ids and counts.
    pub fn u32(&self, key: &str) -> Option<u32> {
        self.u64(key).and_then(|n| u32::try_from(n).ok())
    }

    /// A number of any type; an f32 becomes the f64 with the same decimal notation.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            MetadataEntry::Unsigned(n) => Some(*n as f64),
            MetadataEntry::Signed(n) => Some(*n as f64),
            MetadataEntry::Float(x) => Some(*x),
            MetadataEntry::Bool(_) | MetadataEntry::Text(_) | MetadataEntry::List { .. } => None,
        }
    }

    /// A flag.
    pub fn bool(&self, key: &str) -> Option<bool> {
        let MetadataEntry::Bool(b) = self.metadata.get(key)? else {
            return None;
        };
        Some(*b)
    }

    /// A list of strings, such as `tokenizer.ggml.tokens`; also `None` if one of them is not UTF-8.
    pub fn strings(&self, key: &str) -> Option<Vec<&str>> {
        let MetadataEntry::List {
            kind: 8,
            count,
            span,
        } = self.metadata.get(key)?
        else {
            return None;
        };
        let mut at = HeaderReader {
            file: self.span(span),
            at: 0,
        };
        (0..*count)
            .map(|_| std::str::from_utf8(at.next_text()?).ok())
            .collect()
    }

    /// A list of floating-point numbers, such as `tokenizer.ggml.scores`.
    pub fn floats(&self, key: &str) -> Option<Vec<f32>> {
        let MetadataEntry::List { kind: 6, span, .. } = self.metadata.get(key)? else {
            return None;
        };
        let numbers = self.span(span).chunks_exact(4);
        let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Some(numbers.map(number).collect())
    }

    /// A list of integers of any width (booleans count as 0 and 1), such as `tokenizer.ggml.token_type`.
    pub fn integers(&self, key: &str) -> Option<Vec<i64>> {
        let MetadataEntry::List { kind, span, .. } = self.metadata.get(key)? else {
            return None;
        };
        if matches!(kind, 6 | 12) {
            return None;
        }
        let signed = matches!(kind, 1 | 3 | 5 | 11);
        let width = width(*kind)?;
        self.span(span)
            .chunks_exact(width)
            .map(|chunk| {
                let fill = if signed && chunk[width - 1] >= 0x80 {
                    0xff
                } else {
                    0
                };
                let mut bytes = [fill; 8];
                bytes[..width].copy_from_slice(chunk);
                let n = i64::from_le_bytes(bytes);
                (signed || n >= 0).then_some(n)
            })
            .collect()
    }

    fn span(&self, span: &Range<usize>) -> &[u8] {
        // The header's parser has checked every span against the first part, so this cannot fail.
        self.parts[0].all().get(span.clone()).unwrap_or(&[])
    }
}

/// A GGUF file as a checkpoint: its tensors under their Hugging Face names.
pub struct Checkpoint {
    pub gguf: Arc<Gguf>,
    /// The Hugging Face names of its tensors.
    pub names: GgufNames,
}

impl Checkpoint {
    /// A tensor as in the Hugging Face checkpoint, but in the type of the file; `None` if it does not exist.
    pub fn piece(&self, name: &str) -> Result<Option<GgufPiece<'_>>> {
        self.names.piece(&self.gguf, name)
    }
}

/// Whether a file is a part of a split model other than the first.
pub fn is_later_part(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    split_name(name).is_some() && !name.contains("-00001-of-")
}

/// `model-00001-of-00003.gguf` is `("model", 3)`.
fn split_name(name: &str) -> Option<(&str, usize)> {
    let rest = name.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (stem, no) = rest.rsplit_once('-')?;
    let number = |s: &str| (s.len() == 5).then(|| s.parse::<usize>().ok()).flatten();
    let (no, count) = (number(no)?, number(count)?);
    (1..=count).contains(&no).then_some((stem, count))
}
