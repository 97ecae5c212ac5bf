//! What readers of formats share: the file or folder that was named, its small files, and its tensors as parts of a dictionary.
//!
//! Invariant: a part has the shape that the format says, or the error names the tensor with both shapes.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::dictionary::{Input, Target};
use super::super::matrix::{FeatureMatrix, FeatureScale};
use super::super::norms::InputNorm;
use super::super::place::DictionaryPlace;
use crate::error::{Error, Result};
use crate::file;
use crate::model::checkpoint::tensor_file::TensorFile;
use crate::text;

/// What to do about a file that does not fit its format.
pub const NEXT: &str = "Download the dictionary again, config and weights together.";

/// A file or folder that was named.
#[derive(Debug)]
pub struct Source {
    /// As it was named.
    pub path: PathBuf,
    /// The folder itself, or that of the file.
    pub folder: PathBuf,
    /// The name of the file, if one was named; else empty.
    pub file: String,
    /// The whole path as text, with links resolved and `--` of hub caches as it is.
    pub words: String,
}

impl Source {
    /// A file or folder.
    ///
    /// # Errors
    ///
    /// When it does not exist.
    pub fn of(path: &Path) -> Result<Self> {
        // What the path says of a dictionary (its layer, its k) may be in a folder above that was not written.
        let whole = std::path::absolute(path).map_err(|e| Error::io(path, e))?;
        let found = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        let (folder, file) = if found.is_dir() {
            (path.to_path_buf(), String::new())
        } else {
            let name = path.file_name().unwrap_or_default();
            let folder = path.parent().unwrap_or(Path::new(""));
            (folder.to_path_buf(), name.to_string_lossy().into_owned())
        };
        Ok(Self {
            path: path.to_path_buf(),
            folder,
            file,
            words: whole.to_string_lossy().into_owned(),
        })
    }

    /// Whether a file was named whose name ends in one of these.
    pub fn ends_in(&self, extensions: &[&str]) -> bool {
        let own = Path::new(&self.file).extension();
        own.is_some_and(|own| extensions.iter().any(|e| own.eq_ignore_ascii_case(e)))
    }

    /// Whether this is the file that was named, or a file of the folder that was named.
    pub fn has(&self, name: &str) -> bool {
        self.file.is_empty() && self.folder.join(name).is_file()
            || Path::new(name)
                .file_name()
                .is_some_and(|n| n.to_string_lossy() == self.file)
                && self.folder.join(name).is_file()
    }

    /// A JSON file of the folder; none if there is none.
    ///
    /// # Errors
    ///
    /// When it is not JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        let path = self.folder.join(name);
        match file::read_if_there(&path, file::WORDS)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| Error::bad_file(&path, format!("it is not JSON ({e})"), NEXT)),
            None => Ok(None),
        }
    }

    /// A file of tensors of the folder.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn tensors(&self, name: &str) -> Result<TensorFile> {
        TensorFile::open(&self.folder.join(name))
    }

    /// A short name: the last parts of the path.
    pub fn name(&self) -> String {
        let parts: Vec<_> = Path::new(&self.words)
            .components()
            .map(|part| part.as_os_str().to_string_lossy())
            .collect();
        let last = &parts[parts.len().saturating_sub(3)..];
        text::visible(last.join("/").trim_start_matches('/').as_bytes())
    }

    /// An error about what was named.
    pub fn bad(&self, what: impl Into<String>) -> Error {
        Error::bad_file(&self.path, what, NEXT)
    }
}

/// A text of a config.
pub fn word<'a>(config: &'a Value, key: &str) -> Option<&'a str> {
    config.get(key).and_then(Value::as_str)
}

/// A whole number of a config.
pub fn count(config: &Value, key: &str) -> Option<usize> {
    let value = config.get(key)?;
    let whole = value
        .as_f64()
        .filter(|v| v.fract() == 0.0 && *v >= 0.0 && *v < 1e15);
    whole.map(|v| v as usize)
}

/// A number of a config.
pub fn number(config: &Value, key: &str) -> Option<f32> {
    config.get(key).and_then(Value::as_f64).map(|v| v as f32)
}

/// A switch of a config.
pub fn switch(config: &Value, key: &str) -> Option<bool> {
    config.get(key).and_then(Value::as_bool)
}

/// A model's name as a file has it, safe to show.
pub fn model_name(config: &Value, key: &str) -> Option<String> {
    word(config, key).map(|name| text::visible(name.as_bytes()))
}

/// A tensor `[features, width]`.
pub fn by_feature(file: &TensorFile, name: &str) -> Result<FeatureMatrix> {
    let tensor = file.get(name)?;
    let shape = tensor.shape.clone();
    FeatureMatrix::by_feature(tensor).ok_or_else(|| flat(file, name, &shape, "[features, width]"))
}

/// A tensor `[width, features]`.
pub fn by_width(file: &TensorFile, name: &str) -> Result<FeatureMatrix> {
    let tensor = file.get(name)?;
    let shape = tensor.shape.clone();
    FeatureMatrix::by_width(tensor).ok_or_else(|| flat(file, name, &shape, "[width, features]"))
}

/// One of the targets of a tensor `[features, targets, width]`.
pub fn of_target(file: &TensorFile, name: &str, target: usize) -> Result<FeatureMatrix> {
    let tensor = file.get(name)?;
    let shape = tensor.shape.clone();
    FeatureMatrix::of_target(tensor, target)
        .ok_or_else(|| flat(file, name, &shape, "[features, targets, width]"))
}

fn flat(file: &TensorFile, name: &str, shape: &[usize], expected: &str) -> Error {
    file.bad(
        format!("its `{name}` is {shape:?}; {expected} is expected"),
        NEXT,
    )
}

/// A vector, with its length.
pub fn vector(file: &TensorFile, name: &str, length: usize) -> Result<Vec<f32>> {
    match file.shape(name) {
        Some([found]) if *found == length => file.numbers(name),
        Some(shape) => Err(file.bad(
            format!("its `{name}` is {shape:?}; [{length}] is expected"),
            "Are config and weights of one dictionary, and is no matrix transposed?",
        )),
        None => file.numbers(name),
    }
}

/// An input without norm and bias.
pub fn input(place: DictionaryPlace, encoder: FeatureMatrix) -> Input {
    Input {
        place,
        norm: InputNorm::Nothing,
        less: None,
        encoder,
        scale: FeatureScale::One,
    }
}

/// A target without skip connection.
pub fn target(place: DictionaryPlace, decoder: FeatureMatrix, bias: Vec<f32>) -> Target {
    Target {
        place,
        decoder,
        scale: FeatureScale::One,
        bias,
        undo: false,
        skip: None,
    }
}
