//! What readers of formats share: the file or folder that was named, its small files, and its tensors as parts of a dictionary.
//!
//! Invariant: a part has the shape that the format says, or the error names the tensor with both shapes.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::Value;

use super::super::Report;
use super::super::dictionary::{Input, Target};
use super::super::embedded::EmbeddedDictionary;
use super::super::matrix::{FeatureMatrix, FeatureScale};
use super::super::norms::InputNorm;
use super::super::place::DictionaryPlace;
use crate::error::{Error, Result};
use crate::file;
use crate::model::checkpoint::tensor_file::TensorFile;
use crate::text;

/// What to do about a file that does not fit its format.
pub const NEXT: &str = "Download the dictionary again, config and weights together.";

/// Tensors of training, and such as a format has and does not use when it encodes.
const WITHOUT_EFFECT: &[&str] = &[
    "active_groups",
    "code_normalization_id",
    "group_sizes",
    "group_weights",
    "k",
    "num_batches_not_active",
    "stats_last_nonzero",
    "step",
    "threshold",
];

/// A file or folder that was named.
pub struct Source<'a> {
    /// As it was named.
    pub path: PathBuf,
    /// The folder itself, or that of the file.
    folder: PathBuf,
    /// The name of the file, if one was named; else empty.
    pub file: String,
    /// The whole path as text, with links resolved and `--` of hub caches as it is.
    pub words: String,
    /// Where its files are not on the disk.
    embedded: Option<&'static EmbeddedDictionary>,
    /// The files of tensors that were opened.
    opened: RefCell<Vec<Rc<TensorFile>>>,
    /// Is told how far a long read has come; its error ends the read.
    pub report: Report<'a>,
}

impl<'a> Source<'a> {
    /// A file or folder.
    ///
    /// # Errors
    ///
    /// When it does not exist.
    pub fn of(path: &Path, report: Report<'a>) -> Result<Self> {
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
            embedded: None,
            opened: RefCell::default(),
            report,
        })
    }

    /// A dictionary in the binary, as if its files were in a folder of its name.
    pub fn embedded(of: &'static EmbeddedDictionary, report: Report<'a>) -> Self {
        Self {
            path: PathBuf::from(of.name),
            folder: PathBuf::from(of.name),
            file: String::new(),
            words: of.name.into(),
            embedded: Some(of),
            opened: RefCell::default(),
            report,
        }
    }

    /// Whether a file was named whose name ends in one of these.
    pub fn ends_in(&self, extensions: &[&str]) -> bool {
        let own = Path::new(&self.file).extension();
        own.is_some_and(|own| extensions.iter().any(|e| own.eq_ignore_ascii_case(e)))
    }

    /// Whether the folder has a file, whichever was named.
    pub fn beside(&self, name: &str) -> bool {
        match self.embedded {
            Some(of) => of.file(name).is_some(),
            None => self.folder.join(name).is_file(),
        }
    }

    /// Whether this is the file that was named, or a file of the folder that was named.
    pub fn has(&self, name: &str) -> bool {
        let named = Path::new(name)
            .file_name()
            .is_some_and(|n| n.to_string_lossy() == self.file);
        (self.file.is_empty() || named) && self.beside(name)
    }

    /// The names of the files and folders in the folder, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = if let Some(of) = self.embedded {
            of.files.iter().map(|(name, _)| (*name).into()).collect()
        } else {
            let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
            let names = entries.flatten().map(|entry| entry.file_name());
            names
                .map(|name| name.to_string_lossy().into_owned())
                .take(100_000)
                .collect()
        };
        names.sort();
        names
    }

    /// A file or folder in the folder that was named.
    pub fn inner(&self, name: &str) -> Option<Self> {
        if self.embedded.is_some() || !self.file.is_empty() {
            return None;
        }
        Self::of(&self.folder.join(name), self.report).ok()
    }

    /// The bytes of a small file of the folder; none if there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self.embedded {
            Some(of) => Ok(of.file(name).map(<[u8]>::to_vec)),
            None => file::read_if_there(&self.folder.join(name), file::WORDS),
        }
    }

    /// A JSON file of the folder; none if there is none.
    ///
    /// # Errors
    ///
    /// When it is not JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        let path = self.folder.join(name);
        match self.bytes(name)? {
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
    pub fn tensors(&self, name: &str) -> Result<Rc<TensorFile>> {
        let path = self.folder.join(name);
        let file = Rc::new(match self.embedded.and_then(|of| of.file(name)) {
            Some(bytes) => TensorFile::embedded(&path, bytes)?,
            None => TensorFile::open(&path)?,
        });
        self.opened.borrow_mut().push(file.clone());
        Ok(file)
    }

    /// A short name: the last parts of the path.
    pub fn name(&self) -> String {
        let words = self.words.trim_end_matches('/');
        let mut cuts = words.rmatch_indices('/').map(|(at, _)| at);
        match cuts.nth(2).filter(|at| *at > 0) {
            Some(at) => format!("…{}", text::visible(&words.as_bytes()[at..])),
            None => text::visible(words.as_bytes()),
        }
    }

    /// What files have beside what was asked of them, in a sentence a file.
    pub fn unread(&self) -> Vec<String> {
        let opened = self.opened.borrow();
        let files = opened.iter().filter_map(|file| {
            let unread = file.unread();
            let unread: Vec<&String> = unread
                .iter()
                .filter(|name| !WITHOUT_EFFECT.contains(&name.as_str()))
                .collect();
            let name = file.path().file_name().unwrap_or_default();
            (!unread.is_empty()).then(|| {
                format!(
                    "{} has tensors that are not read, and may change what features are: {}",
                    text::visible(name.as_encoded_bytes()),
                    text::quoted(&unread, 8)
                )
            })
        });
        files.collect()
    }

    /// Forgets which files were looked at.
    pub fn forget(&self) {
        self.opened.borrow_mut().clear();
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

/// What is wrong with a whole number of a config that [`count`] does not find.
pub fn no_count(config: &Value, key: &str) -> String {
    match config.get(key) {
        None => format!("its cfg.json has no {key}"),
        Some(value) => format!(
            "its cfg.json says {key} {}, and a whole number from 1 is expected",
            text::line(&value.to_string())
        ),
    }
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
