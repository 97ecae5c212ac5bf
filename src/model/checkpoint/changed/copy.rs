//! Copies a safetensors file with some of its tensors changed, and tensors added at its end.
//!
//! Invariant: without added tensors the header is copied as it is; the bytes between and of the tensors that are not changed are
//! copied in the order of the file. The file is read through its memory map and written as it is read, and its pages are
//! released after every piece and every changed tensor, so that the memory does not depend on the file. To copy another format,
//! write its reader here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::{Dtype, SafeTensors};
use memmap2::Mmap;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::arithmetic::{ChangeSizes, StoredMatrix, StoredNumber, StreamAxis, TensorChange};
use crate::error::{Error, Result};
use crate::model::checkpoint::weights::check_header;
use crate::model::memory_map::{map_file, release_range};
use crate::text::hexadecimal;

/// How many bytes are copied at once.
const PIECE: usize = 4 << 20;

/// Where the bytes of a file are.
enum ShardBytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    span: Range<usize>,
}

/// A safetensors file that is to be copied.
pub struct Shard {
    /// Its name, without the folder.
    pub name: String,
    /// Its tensors, in the order of their bytes.
    pub tensors: Vec<ShardTensor>,
    path: PathBuf,
    bytes: ShardBytes,
    /// Where the tensors begin.
    data: usize,
}

/// What is done to a tensor.
#[derive(Clone, Debug)]
pub struct ShardChange {
    pub axis: StreamAxis,
    pub change: TensorChange,
}

/// A tensor that is added to a file: a copy of another one, changed or not.
#[derive(Clone, Debug)]
pub struct AddedTensor {
    pub name: String,
    /// The tensor that it is a copy of.
    pub from: String,
    pub change: Option<ShardChange>,
}

/// A tensor that was changed or added.
#[derive(Clone, Debug)]
pub struct CopiedTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// How much it changed; none for an unchanged copy.
    pub sizes: Option<ChangeSizes>,
}

/// What came of copying a file.
#[derive(Clone, Debug, Default)]
pub struct ShardCopy {
    /// The changed and added tensors.
    pub tensors: Vec<CopiedTensor>,
    /// SHA-256 of the file that was read, in hexadecimal.
    pub read: String,
    /// SHA-256 of the file that was written.
    pub written: String,
    /// Bytes written.
    pub length: u64,
}

impl Shard {
    /// Maps a file into memory.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is incomplete.
    pub fn open(path: &Path) -> Result<Self> {
        check_header(path)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let bytes = ShardBytes::Mapped(map_file(path)?);
        Self::parse(name.unwrap_or_default(), path.to_path_buf(), bytes)
    }

    /// A file that is embedded in the binary.
    ///
    /// # Errors
    ///
    /// When the binary is damaged.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self> {
        let bytes = ShardBytes::Embedded(bytes);
        Self::parse(name.to_string(), PathBuf::from(name), bytes)
    }

    fn parse(name: String, path: PathBuf, bytes: ShardBytes) -> Result<Self> {
        let whole = match &bytes {
            ShardBytes::Mapped(map) => &map[..],
            ShardBytes::Embedded(bytes) => bytes,
        };
        let (header, metadata) = SafeTensors::read_metadata(whole).map_err(|e| {
            let next = "It is not a valid safetensors file; download it again.";
            Error::bad_file(&path, e.to_string(), next)
        })?;
        let data = 8 + header;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| {
            let (start, end) = info.data_offsets;
            ShardTensor {
                name,
                dtype: info.dtype,
                shape: info.shape.clone(),
                span: data + start..data + end,
            }
        });
        let mut tensors: Vec<ShardTensor> = tensors.collect();
        tensors.sort_by_key(|tensor| (tensor.span.start, tensor.span.end));
        Ok(Self {
            name,
            tensors,
            path,
            bytes,
            data,
        })
    }

    fn whole(&self) -> &[u8] {
        match &self.bytes {
            ShardBytes::Mapped(map) => map,
            ShardBytes::Embedded(bytes) => bytes,
        }
    }

    fn release(&self, span: Range<usize>) {
        if let ShardBytes::Mapped(map) = &self.bytes {
            release_range(map, span);
        }
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&ShardTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// How many bytes the copy will have, nearly: the header may grow.
    pub fn length(&self) -> u64 {
        self.whole().len() as u64
    }

    /// Writes the copy: every piece to `out`, in order.
    ///
    /// # Errors
    ///
    /// Those of `out`, and when a tensor cannot be changed: it holds other numbers than floats of 16 to 64 bits, or its numbers would
    /// not be finite any more.
    pub fn copy(
        &self,
        changes: &BTreeMap<String, ShardChange>,
        added: &[AddedTensor],
        out: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<ShardCopy> {
        let mut copy = ShardCopy::default();
        let mut read = Sha256::new();
        let mut target = HashedOutput {
            digest: Sha256::new(),
            length: 0,
            out,
        };
        let whole = self.whole();
        read.update(&whole[..self.data]);
        if added.is_empty() {
            target.put(&whole[..self.data])?;
        } else {
            target.put(&self.header_with(added)?)?;
        }
        let mut at = self.data;
        for tensor in &self.tensors {
            let Some(change) = changes.get(&tensor.name) else {
                continue;
            };
            self.plain(at..tensor.span.start, Some(&mut read), &mut target)?;
            for piece in whole[tensor.span.clone()].chunks(PIECE) {
                read.update(piece);
            }
            let sizes = self.changed(tensor, &tensor.name, change, &mut target)?;
            copy.tensors.push(CopiedTensor {
                sizes: Some(sizes),
                ..tensor.copied(&tensor.name)
            });
            at = tensor.span.end;
        }
        self.plain(at..whole.len(), Some(&mut read), &mut target)?;
        for own in added {
            let tensor = self.source_of(own)?;
            let sizes = if let Some(change) = &own.change {
                Some(self.changed(tensor, &own.name, change, &mut target)?)
            } else {
                self.plain(tensor.span.clone(), None, &mut target)?;
                None
            };
            copy.tensors.push(CopiedTensor {
                sizes,
                ..tensor.copied(&own.name)
            });
        }
        copy.read = hexadecimal(&read.finalize());
        copy.length = target.length;
        copy.written = hexadecimal(&target.digest.finalize());
        Ok(copy)
    }

    /// Copies bytes as they are.
    fn plain(
        &self,
        span: Range<usize>,
        mut read: Option<&mut Sha256>,
        target: &mut HashedOutput<'_>,
    ) -> Result<()> {
        for start in span.clone().step_by(PIECE) {
            let piece = start..span.end.min(start + PIECE);
            let bytes = &self.whole()[piece.clone()];
            if let Some(digest) = read.as_deref_mut() {
                digest.update(bytes);
            }
            target.put(bytes)?;
            self.release(piece);
        }
        Ok(())
    }

    fn changed(
        &self,
        tensor: &ShardTensor,
        name: &str,
        change: &ShardChange,
        target: &mut HashedOutput<'_>,
    ) -> Result<ChangeSizes> {
        let kind = StoredNumber::of(tensor.dtype).ok_or_else(|| Error::Config {
            what: format!(
                "tensor `{name}` is stored as {:?}, which is not changed",
                tensor.dtype
            ),
            next: "Take the original checkpoint in f32, bf16 or f16.".into(),
        })?;
        let matrix = StoredMatrix {
            bytes: &self.whole()[tensor.span.clone()],
            kind,
            axis: change.axis,
            columns: tensor.shape.last().copied().unwrap_or(1),
        };
        let sizes = matrix.changed(&change.change, |bytes| target.put(bytes))?;
        self.release(tensor.span.clone());
        if sizes.lost > 0 {
            return Err(Error::not_finite(
                format!(
                    "{} numbers of `{name}` that {:?} cannot hold",
                    sizes.lost, tensor.dtype
                ),
                "Lower the strength of the edit.",
            ));
        }
        Ok(sizes)
    }

    fn source_of(&self, added: &AddedTensor) -> Result<&ShardTensor> {
        let found = self.tensor(&added.from);
        found.ok_or_else(|| Error::Engine(format!("`{}` was lost", added.from)))
    }

    /// The header with entries for the added tensors, whose bytes follow those that are there.
    fn header_with(&self, added: &[AddedTensor]) -> Result<Vec<u8>> {
        let whole = self.whole();
        let bad = |what: String| {
            let next = "It is not a valid safetensors file; download it again.";
            Error::bad_file(&self.path, what, next)
        };
        let mut header: Map<String, Value> =
            serde_json::from_slice(&whole[8..self.data]).map_err(|e| bad(e.to_string()))?;
        let mut end = whole.len() - self.data;
        for own in added {
            let tensor = self.source_of(own)?;
            if header.contains_key(&own.name) {
                return Err(bad(format!("it has a tensor `{}` already", own.name)));
            }
            let entry = header.get(&own.from).cloned();
            let mut entry = entry.ok_or_else(|| bad(format!("`{}` is missing", own.from)))?;
            let next = end + tensor.span.len();
            entry["data_offsets"] = json!([end, next]);
            header.insert(own.name.clone(), entry);
            end = next;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        // Tensors begin at a multiple of eight bytes.
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.append(&mut text);
        Ok(out)
    }
}

impl ShardTensor {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.span.len() as u64
    }

    fn copied(&self, name: &str) -> CopiedTensor {
        CopiedTensor {
            name: name.to_string(),
            dtype: self.dtype,
            shape: self.shape.clone(),
            sizes: None,
        }
    }
}

/// An output whose bytes are counted and hashed.
struct HashedOutput<'a> {
    digest: Sha256,
    length: u64,
    out: &'a mut dyn FnMut(&[u8]) -> Result<()>,
}

impl HashedOutput<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        (self.out)(bytes)
    }
}
