//! Tensors of a file that is not a model, in any of three containers: safetensors, `torch.save` (`.pt`, `.pth`, `.bin`) and
//! numpy (`.npz`, `.npy`). The file is mapped, and a tensor is a range of it.
//!
//! Invariant: opening reads names and shapes only; nothing in a file is executed; every tensor is within its file. What cannot
//! be a range (a compressed array, another order of elements, other numbers than f32, f16 and bf16) is copied when it is asked
//! for, and never more than `MOST` bytes. To read another container, add its arm in [`TensorFile::open`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};

use super::numpy::{self, NpyHeader};
use super::stored_tensor::{FileBytes, TensorBytes};
pub use super::stored_tensor::{NumberKind, StoredTensor};
use super::torch::{self, TorchTensor, archive, strided};
use crate::error::{Error, Result};
use crate::model::memory;
use crate::model::memory_map::map_file;
use crate::text;

/// The most bytes that are copied out of a file for one tensor.
const MOST: usize = 1 << 30;

/// Where the numbers of a tensor are.
#[derive(Clone, Debug)]
enum EntryPlace {
    /// As they are needed: f32, f16 or bf16 in order, at these bytes of the file.
    InOrder(Range<usize>),
    /// In another order: the strides, in elements from the first.
    Strided(Range<usize>, Vec<usize>),
    /// Compressed, with the offset of the numbers in what is unpacked.
    Packed(Range<usize>, usize, u64, u32),
}

/// A tensor that was found in a file.
#[derive(Clone, Debug)]
struct TensorEntry {
    number: NumberKind,
    shape: Vec<usize>,
    place: EntryPlace,
}

/// An open file of tensors.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: FileBytes,
    tensors: BTreeMap<String, TensorEntry>,
    /// The names that were asked for.
    asked: RefCell<BTreeSet<String>>,
}

/// What to do about a file that is damaged, or a program.
const NEXT: &str = "Nothing in it was executed. Download it again; if it is whole and you trust it, load it in Python and save its tensors as safetensors (safetensors.torch.save_file).";

impl TensorFile {
    /// Opens a file by its content, whatever its name is.
    ///
    /// # Errors
    ///
    /// When the file is no container that is known, is damaged, or would have to be executed.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(path, FileBytes::Mapped(Arc::new(map_file(path)?)))
    }

    /// As [`TensorFile::open`], for a file that is in the binary; the path is its name in errors.
    ///
    /// # Errors
    ///
    /// As [`TensorFile::open`].
    pub fn embedded(path: &Path, bytes: &'static [u8]) -> Result<Self> {
        Self::of(path, FileBytes::Embedded(bytes))
    }

    fn of(path: &Path, map: FileBytes) -> Result<Self> {
        let bad = |what: String| Error::bad_file(path, what, NEXT);
        let tensors = if map.starts_with(b"\x93NUMPY") {
            BTreeMap::from([(String::new(), array(&map, 0..map.len()).map_err(bad)?)])
        } else if map.starts_with(b"PK") {
            archived(&map).map_err(bad)?
        } else if map.first() == Some(&0x80)
            && map.get(1).is_some_and(|version| *version < 6)
            // The length of a safetensors header may begin so; the header itself follows.
            && map.get(8) != Some(&b'{')
        {
            return Err(bad("it is one pickle (PyTorch before 1.6, or pickle.dump), which would have to be executed".into()));
        } else {
            if let FileBytes::Mapped(_) = map {
                super::weights::check_header(path)?;
            }
            in_safetensors(&map).map_err(bad)?
        };
        Ok(Self {
            path: path.to_path_buf(),
            map,
            tensors,
            asked: RefCell::default(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensors that nobody asked for.
    pub fn unread(&self) -> Vec<String> {
        let asked = self.asked.borrow();
        let names = self.tensors.keys();
        names
            .filter(|name| !asked.contains(*name))
            .cloned()
            .collect()
    }

    fn asks(&self, name: &str) {
        self.asked.borrow_mut().insert(name.to_string());
    }

    pub fn has(&self, name: &str) -> bool {
        self.asks(name);
        self.tensors.contains_key(name)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.asks(name);
        Some(&self.tensors.get(name)?.shape)
    }

    /// The error for a file with another content than is needed.
    pub fn bad(&self, what: impl Into<String>, next: &str) -> Error {
        Error::bad_file(&self.path, what, next)
    }

    fn find(&self, name: &str) -> Result<&TensorEntry> {
        self.asks(name);
        self.tensors.get(name).ok_or_else(|| {
            let all: Vec<&str> = self.names().collect();
            self.bad(
                format!("it lacks `{name}`; it has {}", text::quoted(&all, 8)),
                "Is it the file of another tool, or half of a download?",
            )
        })
    }

    /// A tensor.
    ///
    /// # Errors
    ///
    /// When it is not there, is not of floating-point numbers, or would have to be copied and is too large for that.
    pub fn get(&self, name: &str) -> Result<StoredTensor> {
        let found = self.find(name)?;
        let count: usize = found.shape.iter().product();
        let stored = |number, bytes| StoredTensor {
            number,
            shape: found.shape.clone(),
            bytes,
        };
        match (&found.place, found.number) {
            (EntryPlace::InOrder(span), NumberKind::F32 | NumberKind::F16 | NumberKind::Bf16) => {
                return Ok(stored(
                    found.number,
                    TensorBytes::InFile(self.map.clone(), span.clone()),
                ));
            }
            (_, NumberKind::Integer(_) | NumberKind::Other(_)) => {
                let what = format!("its `{name}` is not of floating-point numbers");
                return Err(self.bad(what, NEXT));
            }
            _ => {}
        }
        let size = count.saturating_mul(found.number.width().max(4));
        if size > MOST {
            let what = format!(
                "its `{name}` is {:?} and is not stored as it is needed (compressed, in another order or in f64), so {} would have to be copied, more than {}",
                found.shape,
                text::size(size as u64),
                text::size(MOST as u64)
            );
            return Err(self.bad(what, "Save it again as safetensors in f32, f16 or bf16."));
        }
        memory::check_free(
            &self.path.display().to_string(),
            &format!("a copy of its `{name}`"),
            // With the numbers from which it is made.
            2 * size as u64,
        )?;
        if let (
            EntryPlace::Packed(data, start, size, crc),
            NumberKind::F32 | NumberKind::F16 | NumberKind::Bf16,
        ) = (&found.place, found.number)
        {
            let whole = self.unpacked(data, *size, *crc, name)?;
            let own = array(&whole, 0..whole.len()).map_err(|what| self.bad(what, NEXT))?;
            if let EntryPlace::InOrder(_) = own.place {
                // What was unpacked is the tensor, so that it is held once.
                let span = *start..whole.len();
                let bytes = TensorBytes::Owned(Arc::new(whole), span);
                return Ok(stored(found.number, bytes));
            }
        }
        let values = self.values(found, name)?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let span = 0..bytes.len();
        Ok(stored(
            NumberKind::F32,
            TensorBytes::Owned(Arc::new(bytes), span),
        ))
    }

    /// All numbers of a small tensor as f32, row-major; integers as well.
    ///
    /// # Errors
    ///
    /// As [`TensorFile::get`].
    pub fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        let found = self.find(name)?;
        let count: usize = found.shape.iter().product();
        if count.saturating_mul(4) > MOST {
            let what = format!("its `{name}` is {:?}, too large", found.shape);
            return Err(self.bad(what, NEXT));
        }
        memory::check_free(
            &self.path.display().to_string(),
            &format!("its `{name}`"),
            count.saturating_mul(4) as u64,
        )?;
        if matches!(found.number, NumberKind::Other(_)) {
            let what = format!("its `{name}` is not of numbers");
            return Err(self.bad(what, NEXT));
        }
        self.values(found, name)
    }

    /// The one number of a tensor that has no more.
    ///
    /// # Errors
    ///
    /// When it is not there or has several.
    pub fn number(&self, name: &str) -> Result<f32> {
        match self.numbers(name)?.as_slice() {
            [one] => Ok(*one),
            many => Err(self.bad(
                format!(
                    "its `{name}` is one number in this format, and has {}",
                    many.len()
                ),
                NEXT,
            )),
        }
    }

    /// A compressed array with its header, checked.
    fn unpacked(&self, data: &Range<usize>, size: u64, crc: u32, name: &str) -> Result<Vec<u8>> {
        memory::check_free(
            &self.path.display().to_string(),
            &format!("its compressed `{name}`, unpacked"),
            size,
        )?;
        let size = size as usize;
        let bytes = numpy::inflate(&self.map[data.clone()], size)
            .ok()
            .filter(|bytes| bytes.len() == size && crc32fast::hash(bytes) == crc);
        bytes.ok_or_else(|| self.bad(format!("its array `{name}` is damaged"), NEXT))
    }

    fn values(&self, found: &TensorEntry, name: &str) -> Result<Vec<f32>> {
        let (number, width) = (found.number, found.number.width());
        let of = |bytes: &[u8]| -> Vec<f32> {
            bytes.chunks_exact(width).map(|b| number.value(b)).collect()
        };
        Ok(match &found.place {
            EntryPlace::InOrder(span) => of(&self.map[span.clone()]),
            EntryPlace::Strided(span, stride) => {
                let bytes = &self.map[span.clone()];
                strided(&found.shape, stride)
                    .map(|at| number.value(&bytes[at * width..][..width]))
                    .collect()
            }
            EntryPlace::Packed(span, start, size, crc) => {
                let bytes = self.unpacked(span, *size, *crc, name)?;
                let own = array(&bytes, 0..bytes.len()).map_err(|what| self.bad(what, NEXT))?;
                match own.place {
                    EntryPlace::InOrder(_) => of(&bytes[*start..]),
                    EntryPlace::Strided(_, stride) => strided(&found.shape, &stride)
                        .map(|at| number.value(&bytes[start + at * width..][..width]))
                        .collect(),
                    EntryPlace::Packed(..) => Vec::new(),
                }
            }
        })
    }
}

/// The tensors of a safetensors file.
fn in_safetensors(map: &[u8]) -> Result<BTreeMap<String, TensorEntry>, String> {
    let (header, metadata) = SafeTensors::read_metadata(map).map_err(|e| e.to_string())?;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let span = 8 + header + start..8 + header + end;
        if span.end > map.len() || span.start > span.end {
            return Err(format!("its tensor `{name}` is not within the file"));
        }
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "other types hold no weights"
        )]
        let number = match info.dtype {
            Dtype::F32 => NumberKind::F32,
            Dtype::F16 => NumberKind::F16,
            Dtype::BF16 => NumberKind::Bf16,
            Dtype::F64 => NumberKind::F64,
            Dtype::I64 | Dtype::U64 => NumberKind::Integer(8),
            Dtype::I32 | Dtype::U32 => NumberKind::Integer(4),
            Dtype::I16 | Dtype::U16 => NumberKind::Integer(2),
            Dtype::I8 | Dtype::U8 => NumberKind::Integer(1),
            _ => NumberKind::Other(1),
        };
        let found = TensorEntry {
            number,
            shape: info.shape.clone(),
            place: EntryPlace::InOrder(span),
        };
        tensors.insert(name.clone(), found);
    }
    Ok(tensors)
}

/// The tensors of a zip archive: of `torch.save`, or of numpy.
fn archived(map: &[u8]) -> Result<BTreeMap<String, TensorEntry>, String> {
    let entries = archive::directory_of(map)?;
    if entries.keys().any(|name| name.ends_with("data.pkl")) {
        let tensors = torch::tensors(map, 0)?;
        return tensors
            .into_iter()
            .map(|(name, tensor)| Ok((name, pickled(tensor))))
            .collect();
    }
    let mut tensors = BTreeMap::new();
    for (name, entry) in entries {
        let Some(name) = name.strip_suffix(".npy") else {
            continue;
        };
        let named = |why: String| format!("its array `{name}`: {why}");
        let found = if entry.packed {
            let head = numpy::inflate(&map[entry.data.clone()], numpy::HEADER).map_err(named)?;
            let header = numpy::header(&head).map_err(named)?;
            let size = usize::try_from(entry.size).map_err(|e| named(e.to_string()))?;
            packed(&header, &entry, size).map_err(named)?
        } else {
            array(map, entry.data.clone()).map_err(named)?
        };
        tensors.insert(name.to_string(), found);
    }
    if tensors.is_empty() {
        return Err(
            "it is a zip archive that holds neither tensors of `torch.save` nor arrays of numpy"
                .into(),
        );
    }
    Ok(tensors)
}

fn pickled(tensor: TorchTensor) -> TensorEntry {
    let number = match tensor.kind.as_str() {
        "torch.FloatStorage" => NumberKind::F32,
        "torch.HalfStorage" => NumberKind::F16,
        "torch.BFloat16Storage" => NumberKind::Bf16,
        "torch.DoubleStorage" => NumberKind::F64,
        "torch.LongStorage" => NumberKind::Integer(8),
        "torch.IntStorage" => NumberKind::Integer(4),
        "torch.ShortStorage" => NumberKind::Integer(2),
        "torch.CharStorage" | "torch.ByteStorage" | "torch.BoolStorage" => NumberKind::Integer(1),
        _ => NumberKind::Other(1),
    };
    let start = tensor.storage.start + tensor.offset * number.width();
    let count: usize = tensor.shape.iter().product();
    let place = if in_order(&tensor.shape, &tensor.stride) {
        EntryPlace::InOrder(start..start + count * number.width())
    } else {
        EntryPlace::Strided(start..tensor.storage.end, tensor.stride)
    };
    TensorEntry {
        number,
        shape: tensor.shape,
        place,
    }
}

fn in_order(shape: &[usize], stride: &[usize]) -> bool {
    let mut plain = 1;
    let fits = shape.iter().zip(stride).rev().all(|(d, s)| {
        let fits = *d == 1 || *s == plain;
        plain *= d;
        fits
    });
    fits || shape.contains(&0)
}

/// The numbers of an array of numpy that lies at `span` of a file.
fn array(file: &[u8], span: Range<usize>) -> Result<TensorEntry, String> {
    let header = numpy::header(&file[span.clone()])?;
    let (number, count) = described(&header)?;
    let start = span.start + header.start;
    if start + count * number.width() != span.end {
        return Err(format!(
            "it is {:?} and has {} bytes of numbers",
            header.shape,
            span.end.saturating_sub(start)
        ));
    }
    let place = if header.column_major && header.shape.len() > 1 {
        EntryPlace::Strided(start..span.end, column_major(&header.shape))
    } else {
        EntryPlace::InOrder(start..span.end)
    };
    Ok(TensorEntry {
        number,
        shape: header.shape,
        place,
    })
}

/// The strides of an array whose first index runs fastest.
fn column_major(shape: &[usize]) -> Vec<usize> {
    let strides = shape.iter().scan(1, |stride, side| {
        Some(std::mem::replace(stride, *stride * side))
    });
    strides.collect()
}

fn packed(
    header: &NpyHeader,
    entry: &archive::ArchiveEntry,
    size: usize,
) -> Result<TensorEntry, String> {
    let (number, count) = described(header)?;
    if header.start + count * number.width() != size {
        return Err(format!(
            "it is {:?} and unpacks to {size} bytes",
            header.shape
        ));
    }
    Ok(TensorEntry {
        number,
        shape: header.shape.clone(),
        place: EntryPlace::Packed(entry.data.clone(), header.start, entry.size, entry.crc),
    })
}

/// The kind of an array's numbers, and how many there are.
fn described(header: &NpyHeader) -> Result<(NumberKind, usize), String> {
    if header.big_endian && !header.kind.ends_with('1') {
        return Err("it was written on a big-endian machine".into());
    }
    let number = match header.kind.as_str() {
        "f4" => NumberKind::F32,
        "f2" => NumberKind::F16,
        "f8" => NumberKind::F64,
        "V2" => NumberKind::Bf16,
        "i8" | "u8" => NumberKind::Integer(8),
        "i4" | "u4" => NumberKind::Integer(4),
        "i2" | "u2" => NumberKind::Integer(2),
        "i1" | "u1" | "b1" => NumberKind::Integer(1),
        kind if kind.starts_with('O') => {
            return Err(
                "it holds Python objects, which is a pickle that would have to be executed".into(),
            );
        }
        kind => {
            return Err(format!(
                "it is of `{}`, which is not read",
                text::visible(kind.as_bytes())
            ));
        }
    };
    let count = header
        .shape
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(*d))
        .filter(|n| n.checked_mul(8).is_some());
    let count = count.ok_or_else(|| format!("its shape {:?} is impossible", header.shape))?;
    Ok((number, count))
}
