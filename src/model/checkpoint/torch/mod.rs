//! `pytorch_model.bin`: reads the tensors of a PyTorch checkpoint without Python and without executing anything.
//!
//! Invariant: a pickle is a program; here it is only parsed (`pickle.rs`), and every call in it is refused by name unless it is
//! one by which tensors are written. Every tensor is checked to be inside its file before it is listed. candle has a reader of
//! its own; it copies values at every reference, indexes arguments unchecked and prints, so a malicious file could exhaust
//! memory or end the program. To read another element type, add its row to `STORAGES`.

pub(crate) mod archive;
mod pickle;
mod small;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::model::memory_map::{map_file, release};
use pickle::{Node, PARAMETER, Pickle, SUBCLASS, TENSOR, ValueId};
pub use small::{CappingConfig, SmallTensor, capping, facts, shapes, values};
pub use write::{TorchValue, archive_of, archive_with};

/// Element types by the name of their storage, and their size in bytes.
const STORAGES: &[(&str, Option<DType>, usize)] = &[
    ("torch.FloatStorage", Some(DType::F32), 4),
    ("torch.HalfStorage", Some(DType::F16), 2),
    ("torch.BFloat16Storage", Some(DType::BF16), 2),
    ("torch.DoubleStorage", None, 8),
    ("torch.LongStorage", None, 8),
    ("torch.IntStorage", None, 4),
    ("torch.ShortStorage", None, 2),
    ("torch.CharStorage", None, 1),
    ("torch.ByteStorage", None, 1),
    ("torch.BoolStorage", None, 1),
];

/// What to do about a file that cannot be read.
const CONVERT: &str = "Download it again, or take the model's safetensors files.";

/// The location of a tensor in its file.
#[derive(Clone, Debug)]
pub(super) struct TorchTensor {
    file: usize,
    /// The bytes of its storage.
    pub storage: Range<usize>,
    /// `None` for elements that no model weight has, such as the integers of a mask.
    dtype: Option<DType>,
    pub kind: String,
    /// In elements, from the beginning of the storage.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

/// The bytes of a tensor, row-major.
#[derive(Debug)]
pub struct Stored<'a> {
    /// F32, F16 or BF16.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: &'a [usize],
    /// Its elements.
    pub bytes: Cow<'a, [u8]>,
}

impl Stored<'_> {
    /// The tensor on the CPU, in its own dtype.
    pub fn load(&self) -> Result<Tensor> {
        let (dtype, cpu) = (self.dtype, Device::Cpu);
        Ok(Tensor::from_raw_buffer(
            &self.bytes,
            dtype,
            self.shape,
            &cpu,
        )?)
    }
}

/// An open PyTorch checkpoint, single or in shards.
pub struct Pickled {
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, TorchTensor>,
}

impl Pickled {
    /// Opens all files of a checkpoint.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let mut all = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for path in files {
            let map = map_file(path)?;
            let number = all.files.len();
            let found = tensors(&map, number).map_err(|w| Error::bad_file(path, w, CONVERT))?;
            for (name, place) in found {
                if all.tensors.insert(name.clone(), place).is_some() {
                    let what = format!("the tensor `{name}` is in two places");
                    return Err(Error::bad_file(path, what, CONVERT));
                }
            }
            all.files.push((path.clone(), map));
        }
        Ok(all)
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether a tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The data of a tensor; `None` if it does not exist, an error if its elements have a type that no weight has.
    pub fn get(&self, name: &str) -> Result<Option<Stored<'_>>> {
        let Some(place) = self.tensors.get(name) else {
            return Ok(None);
        };
        let (path, map) = &self.files[place.file];
        let Some(dtype) = place.dtype else {
            return Err(Error::bad_file(
                path,
                format!(
                    "the tensor `{name}` is of {}; F32, F16 and BF16 are read",
                    place.kind
                ),
                CONVERT,
            ));
        };
        Ok(Some(Stored {
            dtype,
            shape: &place.shape,
            bytes: place.gather(&map[place.storage.clone()], dtype.size_in_bytes()),
        }))
    }

    /// Releases the pages of the memory map that were read.
    pub fn release(&self) {
        self.files.iter().for_each(|(_, map)| release(map));
    }

    /// The shape of a tensor and the bytes of its storage, for fingerprints.
    pub fn sample(&self, name: &str) -> Option<(&[usize], &[u8])> {
        let place = self.tensors.get(name)?;
        let (_, map) = self.files.get(place.file)?;
        Some((&place.shape, map.get(place.storage.clone())?))
    }
}

impl TorchTensor {
    /// The elements in row-major order: a view of the file if they are stored so, a copy if the strides are unusual.
    fn gather<'a>(&self, storage: &'a [u8], width: usize) -> Cow<'a, [u8]> {
        let count: usize = self.shape.iter().product();
        if count == 0 {
            return Cow::Borrowed(&[]);
        }
        let mut plain = 1;
        let in_order = self.shape.iter().zip(&self.stride).rev().all(|(d, s)| {
            let fits = *d == 1 || *s == plain;
            plain *= d;
            fits
        });
        if in_order {
            return Cow::Borrowed(&storage[self.offset * width..(self.offset + count) * width]);
        }
        let places = strided(&self.shape, &self.stride).map(|at| (self.offset + at) * width);
        Cow::Owned(
            places
                .flat_map(|at| &storage[at..at + width])
                .copied()
                .collect(),
        )
    }
}

/// The indices of a tensor's elements in its storage, in row-major order.
pub(crate) fn strided(shape: &[usize], stride: &[usize]) -> impl Iterator<Item = usize> {
    let mut index = vec![0usize; shape.len()];
    (0..shape.iter().product()).map(move |_| {
        let at = index.iter().zip(stride).map(|(i, s)| i * s).sum();
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
        at
    })
}

/// The contents of an archive: its entries, and the folder that contains them.
type Archive = (BTreeMap<String, Range<usize>>, String);

/// Reads the pickle of one file; the error says what is wrong.
fn unpickled(file: &[u8]) -> Result<(Archive, Pickle), String> {
    if !file.starts_with(b"PK\x03\x04") {
        return Err(if file.first() == Some(&0x80) {
            "it is in the format of PyTorch before 1.6, which keeps everything in one pickle"
        } else if file.starts_with(b"version https://git-lfs") {
            "it is a Git LFS pointer, not the file itself"
        } else {
            "it is not a PyTorch checkpoint (a zip file that `torch.save` wrote)"
        }
        .into());
    }
    let entries = archive::entries(file)?;
    let (root, pickle) = entries
        .iter()
        .find_map(|(name, range)| Some((name.strip_suffix("data.pkl")?, range)))
        .ok_or("it has no `data.pkl`")?;
    if let Some(order) = entries.get(&format!("{root}byteorder"))
        && &file[order.clone()] != b"little"
    {
        return Err("it was written on a big-endian machine".into());
    }
    if pickle.len() > 100_000_000 {
        return Err(format!(
            "its pickle has {} bytes, too many for names and shapes",
            pickle.len()
        ));
    }
    let pickle = pickle::read(&file[pickle.clone()])?;
    let root = root.to_string();
    Ok(((entries, root), pickle))
}

/// The tensors of one file; the error says what is wrong. Those in a dict with integer keys are named `dict.number`.
pub(super) fn tensors(file: &[u8], number: usize) -> Result<Vec<(String, TorchTensor)>, String> {
    let (archive, pickle) = unpickled(file)?;
    let state = state_dict(&pickle).ok_or("it holds no dict of tensors")?;
    let is_tensor = |at: ValueId| matches!(pickle.get(at), Node::Call(..));
    let mut named = Vec::new();
    for (key, value) in state {
        let Some(name) = pickle.text(*key) else {
            continue;
        };
        if is_tensor(*value) {
            named.push((name.to_string(), *value));
        }
        let inner = pickle.dict(*value).unwrap_or_default().iter();
        named.extend(inner.filter(|(_, v)| is_tensor(*v)).filter_map(|(k, v)| {
            let number = pickle.size(*k)?;
            Some((format!("{name}.{number}"), *v))
        }));
    }
    let found = named.into_iter().map(|(name, value)| {
        let place = located(&pickle, &archive, &name, value, number)?;
        Ok((name, place))
    });
    found.collect()
}

/// The location of a tensor in its file.
fn located(
    pickle: &Pickle,
    (entries, root): &Archive,
    name: &str,
    at: ValueId,
    number: usize,
) -> Result<TorchTensor, String> {
    let tensor = tensor(pickle, at, 0)
        .ok_or_else(|| format!("its tensor `{name}` is not described as PyTorch does"))?;
    let bytes = entries
        .get(&format!("{root}data/{}", tensor.key))
        .ok_or_else(|| format!("the data of its tensor `{name}` is missing"))?;
    tensor.place(bytes.clone(), number).ok_or_else(|| {
        format!(
            "its tensor `{name}` needs more than the {} bytes of its storage",
            bytes.len()
        )
    })
}

/// The dict of tensors: the whole pickle, or its value for `state_dict`.
fn state_dict(pickle: &Pickle) -> Option<&[(ValueId, ValueId)]> {
    let Node::Dict(top) = pickle.top() else {
        return None;
    };
    let inner = top
        .iter()
        .find(|(key, _)| pickle.text(*key) == Some("state_dict"))
        .map(|(_, value)| pickle.get(*value));
    match inner {
        Some(Node::Dict(inner)) => Some(inner),
        _ => Some(top),
    }
}

/// A tensor as described in the pickle.
struct PickledTensor<'a> {
    key: &'a str,
    kind: &'a str,
    elements: usize,
    offset: usize,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

fn tensor(pickle: &Pickle, at: ValueId, depth: usize) -> Option<PickledTensor<'_>> {
    let Node::Call(callable, args) = pickle.get(at) else {
        return None;
    };
    let args = pickle.tuple(*args)?;
    match pickle.global(*callable)? {
        TENSOR => rebuild(pickle, args),
        // A parameter wraps a tensor; it is unwrapped once.
        PARAMETER if depth == 0 => tensor(pickle, *args.first()?, 1),
        SUBCLASS if pickle.global(*args.first()?)? == TENSOR => {
            rebuild(pickle, pickle.tuple(*args.get(2)?)?)
        }
        _ => None,
    }
}

/// The arguments: storage, offset, size, stride, and others that a weight does not need.
fn rebuild<'a>(pickle: &'a Pickle, args: &[ValueId]) -> Option<PickledTensor<'a>> {
    let [storage, offset, size, stride, ..] = args else {
        return None;
    };
    let Node::Storage(id) = pickle.get(*storage) else {
        return None;
    };
    // ("storage", type, key, device, elements)
    let [_, kind, key, _, elements] = pickle.tuple(*id)? else {
        return None;
    };
    Some(PickledTensor {
        key: pickle.text(*key)?,
        kind: pickle.global(*kind)?,
        elements: pickle.size(*elements)?,
        offset: pickle.size(*offset)?,
        shape: pickle.sizes(*size)?,
        stride: pickle.sizes(*stride)?,
    })
}

impl PickledTensor<'_> {
    /// Checks the description against the bytes of the storage.
    fn place(self, storage: Range<usize>, file: usize) -> Option<TorchTensor> {
        let row = STORAGES.iter().find(|s| s.0 == self.kind);
        let (dtype, width) = row.map_or((None, 1), |s| (s.1, s.2));
        let count = self
            .shape
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(*d))?;
        // No more elements than the storage has, so that a stride of 0 cannot make a small file large.
        if self.shape.len() != self.stride.len()
            || self.elements.checked_mul(width)? > storage.len()
            || count > self.elements
        {
            return None;
        }
        if count > 0 {
            let last = self
                .shape
                .iter()
                .zip(&self.stride)
                .try_fold(self.offset, |n, (d, s)| {
                    n.checked_add((d - 1).checked_mul(*s)?)
                })?;
            if last >= self.elements {
                return None;
            }
        } else if self.offset > self.elements {
            return None;
        }
        Some(TorchTensor {
            file,
            storage,
            dtype,
            kind: self.kind.to_string(),
            offset: self.offset,
            shape: self.shape,
            stride: self.stride,
        })
    }
}
