//! Safetensors files: which ones a folder contains, whether they are complete, and their memory map.
//!
//! Invariant: a file is mapped only after its header has been checked against its length.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::TensorView;
use ::safetensors::{Dtype, SafeTensors};
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::model::memory_map::{map_file, release};

/// The files with a folder's weights.
pub(crate) enum WeightFiles {
    /// `model.safetensors`, or the shards of its index.
    Safetensors(Vec<PathBuf>),
    /// `pytorch_model.bin`, or the shards of its index.
    Pickled(Vec<PathBuf>),
}

/// The weights of a folder; safetensors are preferred.
pub(crate) fn files_of(folder: &Path) -> Result<WeightFiles> {
    if let Some(files) = one_or_shards(folder, "model.safetensors")? {
        return Ok(WeightFiles::Safetensors(files));
    }
    if let Some(files) = one_or_shards(folder, "pytorch_model.bin")? {
        return Ok(WeightFiles::Pickled(files));
    }
    Err(Error::NotAModel {
        given: folder.display().to_string(),
        found: "the folder has neither model.safetensors nor pytorch_model.bin, and no index (.index.json) of either"
            .into(),
    })
}

/// A file, or the shards that its index names.
fn one_or_shards(folder: &Path, name: &str) -> Result<Option<Vec<PathBuf>>> {
    let single = folder.join(name);
    if single.exists() {
        return Ok(Some(vec![single]));
    }
    let index = folder.join(format!("{name}.index.json"));
    if !index.exists() {
        return Ok(None);
    }
    let text = crate::file::read(&index, crate::file::SMALL)?;
    let next = "Download the index again.";
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| Error::bad_file(&index, e.to_string(), next))?;
    let map = json
        .get("weight_map")
        .and_then(|m| m.as_object())
        .ok_or_else(|| Error::bad_file(&index, "there is no weight_map", next))?;
    let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let files: Vec<PathBuf> = names.iter().map(|n| folder.join(n)).collect();
    match files.iter().find(|f| !f.exists()) {
        Some(gone) => Err(Error::bad_file(
            gone,
            "the index names this shard, and it is not there",
            "Finish the download.",
        )),
        None => Ok(Some(files)),
    }
}

/// Refuses a file whose header does not match its length: an incomplete download.
pub(crate) fn check_header(file: &Path) -> Result<()> {
    use std::io::Read;
    let mut reader = crate::file::open(file)?;
    let length = reader.metadata().map_err(|e| Error::io(file, e))?.len();
    let next = "It is truncated or not a safetensors file; download it again.";
    let mut first = [0u8; 8];
    reader.read_exact(&mut first).map_err(|_| {
        Error::bad_file(
            file,
            format!("it has {length} bytes, too few for a header"),
            next,
        )
    })?;
    let header = u64::from_le_bytes(first);
    if header > length.saturating_sub(8) || header > 100_000_000 {
        return Err(Error::bad_file(
            file,
            format!("its header asks for {header} bytes and the file has {length}"),
            next,
        ));
    }
    let mut text = vec![0u8; header as usize];
    reader
        .read_exact(&mut text)
        .map_err(|e| Error::io(file, e))?;
    let json: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|e| Error::bad_file(file, format!("its header is not JSON ({e})"), next))?;
    let end = json
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, t)| t.get("data_offsets")?.get(1)?.as_u64())
        .max()
        .unwrap_or(0);
    let needed = (8 + header).saturating_add(end);
    if needed > length {
        return Err(Error::bad_file(
            file,
            format!("its tensors need {needed} bytes and the file has {length}"),
            next,
        ));
    }
    Ok(())
}

/// The location of a tensor.
struct TensorRange {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    span: Range<usize>,
}

/// Mapped files and the tensors in them.
pub(crate) struct Mapped {
    maps: Vec<Mmap>,
    tensors: BTreeMap<String, TensorRange>,
}

impl Mapped {
    /// Maps files whose headers have been checked.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let mut mapped = Self {
            maps: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for (file, path) in files.iter().enumerate() {
            let map = map_file(path)?;
            let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
                let next = "It is not a valid safetensors file; download it again.";
                Error::bad_file(path, e.to_string(), next)
            })?;
            for (name, info) in metadata.tensors() {
                let (start, end) = info.data_offsets;
                let place = TensorRange {
                    file,
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    span: 8 + header + start..8 + header + end,
                };
                mapped.tensors.insert(name, place);
            }
            mapped.maps.push(map);
        }
        Ok(mapped)
    }

    /// A tensor; none if it does not exist.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.view(self.tensors.get(name)?)
    }

    fn view(&self, place: &TensorRange) -> Option<TensorView<'_>> {
        let bytes = self.maps.get(place.file)?.get(place.span.clone())?;
        TensorView::new(place.dtype, place.shape.clone(), bytes).ok()
    }

    /// Every tensor, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, TensorView<'_>)> {
        let all = self.tensors.iter();
        all.filter_map(|(name, place)| Some((name.as_str(), self.view(place)?)))
    }

    /// Releases the pages of the memory map that were read.
    pub fn release(&self) {
        self.maps.iter().for_each(release);
    }
}
