//! Files of a few named f32 tensors with a JSON entry about their origin (safetensors), in which linear maps are stored.
//!
//! Invariant: shapes are checked before a value is used, and a number that is not finite is refused. To store something else in
//! such a file, name its tensors and write its origin as one metadata entry.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::model::host::ToHost;

/// A tensor to be written.
pub struct NamedTensor<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: &'a [f32],
}

/// Writes tensors with their origin under a key; an existing file is overwritten only if `overwrite` allows it.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write<T: Serialize>(
    path: &Path,
    tensors: &[NamedTensor<'_>],
    origin: Option<(&str, &T)>,
    overwrite: Overwrite,
) -> Result<()> {
    file::write(path, &bytes(tensors, origin)?, overwrite)
}

/// The bytes of such a file.
///
/// # Errors
///
/// When a shape does not fit its values.
pub fn bytes<T: Serialize>(
    tensors: &[NamedTensor<'_>],
    origin: Option<(&str, &T)>,
) -> Result<Vec<u8>> {
    let fail = |e: String| Error::Engine(format!("the tensors were not written: {e}"));
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|t| t.values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|(tensor, bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes);
            Ok((tensor.name.as_str(), view.map_err(|e| fail(e.to_string()))?))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = origin
        .map(|(key, origin)| -> Result<HashMap<String, String>> {
            let json = serde_json::to_string(origin).map_err(|e| fail(e.to_string()))?;
            Ok(HashMap::from([(key.to_string(), json)]))
        })
        .transpose()?;
    safetensors::serialize(views, metadata).map_err(|e| fail(e.to_string()))
}

/// A file that was read.
pub struct SavedTensors {
    path: PathBuf,
    /// What to do if it is not as expected.
    next: &'static str,
    tensors: HashMap<String, Tensor>,
    metadata: HashMap<String, String>,
}

impl SavedTensors {
    /// Reads a file; `next` ends every complaint about it.
    ///
    /// # Errors
    ///
    /// When the file does not exist or is of another kind.
    pub fn read(path: &Path, next: &'static str) -> Result<Self> {
        Self::parse(&file::read(path, file::NUMBERS)?, path, next)
    }

    /// The same for bytes; `path` is for messages.
    ///
    /// # Errors
    ///
    /// When they are of another kind.
    pub fn parse(bytes: &[u8], path: &Path, next: &'static str) -> Result<Self> {
        let fail = |what: String| Error::bad_file(path, what, next);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| fail(e.to_string()))?;
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
            .map_err(|e| fail(e.to_string()))?;
        Ok(Self {
            path: path.to_path_buf(),
            next,
            tensors,
            metadata: header.metadata().clone().unwrap_or_default(),
        })
    }

    /// A complaint about the file.
    pub fn bad(&self, what: impl Into<String>) -> Error {
        Error::bad_file(&self.path, what.into(), self.next)
    }

    /// The origin under a key; none for a file of another program.
    ///
    /// # Errors
    ///
    /// When it is damaged.
    pub fn origin<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let held = self.metadata.get(key);
        held.map(|text| serde_json::from_str(text))
            .transpose()
            .map_err(|e| self.bad(format!("its provenance is damaged ({e})")))
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The shape of a tensor; empty if there is none.
    pub fn shape(&self, name: &str) -> &[usize] {
        self.tensors.get(name).map_or(&[], |t| t.dims())
    }

    /// A tensor's values, row after row; none if the file has no such tensor.
    ///
    /// # Errors
    ///
    /// When it has another shape, or a number that is not finite.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.tensors.get(name) else {
            return Ok(None);
        };
        if tensor.dims() != shape {
            let found = tensor.dims();
            return Err(self.bad(format!(
                "`{name}` has shape {found:?}, but this model needs {shape:?}"
            )));
        }
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.host_vec1()?;
        if values.iter().any(|v: &f32| !v.is_finite()) {
            return Err(self.bad(format!(
                "`{name}` holds a number that is not finite (NaN or infinity)"
            )));
        }
        Ok(Some(values))
    }
}
