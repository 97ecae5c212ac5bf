//! The formats of dictionaries, and how a file is told to be of one.
//!
//! Invariant: a file is told by what it holds, never by its name alone; of a format each reader takes exactly the layout of its
//! own tool, and what it does not know it refuses. To add a format, write its reader and add a row to [`FORMATS`].

mod circuit_tracer;
mod crosscoder;
mod dictionary_learning;
mod gemma_scope;
mod gemma_scope_2;
mod llama_scope;
mod openai;
mod qwen_scope;
mod repository;
mod saelens;
mod source;
mod sparsify;
mod state_dict;

use std::path::{Path, PathBuf};

use super::Report;
use super::dictionary::Dictionary;
use super::embedded::EmbeddedDictionary;
use crate::error::{Error, Result};
use crate::model::hub::{DownloadWatch, PartFiles, RepositoryPart};
use crate::text;
use source::Source;

/// A format: a row of [`FORMATS`].
pub struct Format {
    /// Its name in notes.
    pub name: &'static str,
    /// What its folder or file has.
    pub about: &'static str,
    /// Whether a file or folder is of this format, by the names in it.
    fits: fn(&Source) -> bool,
    /// Its dictionaries; several of a set.
    read: fn(&Source) -> Result<Vec<Dictionary>>,
}

/// All formats; the first one that fits reads.
pub const FORMATS: &[Format] = &[
    llama_scope::DISTILL,
    saelens::SAELENS,
    sparsify::SPARSIFY,
    gemma_scope::GEMMA_SCOPE,
    gemma_scope_2::GEMMA_SCOPE_2,
    llama_scope::LLAMA_SCOPE,
    dictionary_learning::DICTIONARY_LEARNING,
    crosscoder::CROSSCODER,
    circuit_tracer::CROSS_LAYER,
    circuit_tracer::PER_LAYER,
    openai::OPENAI,
    qwen_scope::QWEN_SCOPE,
    state_dict::STATE_DICT,
];

/// The dictionaries of a file or folder.
///
/// # Errors
///
/// When it is of no format that is known, or does not hold what its format has.
pub fn open(path: &Path) -> Result<Vec<Dictionary>> {
    open_watched(path, &|_| Ok(()))
}

/// As [`open`]; `report` is told of long reads, and its error ends them.
///
/// # Errors
///
/// As [`open`], and what `report` says.
pub fn open_watched(path: &Path, report: Report) -> Result<Vec<Dictionary>> {
    read(&Source::of(path, report)?)
}

/// The dictionaries of an embedded folder.
///
/// # Errors
///
/// As [`open`].
pub fn open_embedded(of: &'static EmbeddedDictionary, report: Report) -> Result<Vec<Dictionary>> {
    let mut found = read(&Source::embedded(of, report))?;
    found.iter_mut().for_each(|d| d.name = of.name.into());
    Ok(found)
}

fn read(source: &Source) -> Result<Vec<Dictionary>> {
    let Some(format) = FORMATS.iter().find(|format| (format.fits)(source)) else {
        return Err(unknown(source));
    };
    source.forget();
    let mut found = (format.read)(source)?;
    let unread = source.unread();
    for dictionary in &mut found {
        dictionary.format = format.name;
        dictionary.remarks.extend(unread.iter().cloned());
        dictionary.check().map_err(|error| {
            if let Error::BadFile { what, next, .. } = error {
                Error::bad_file(&source.path, what, next)
            } else {
                error
            }
        })?;
    }
    if found.is_empty() {
        return Err(source.bad("it holds no dictionary"));
    }
    Ok(found)
}

/// The file or folder of a dictionary on the hub, after downloading what is missing of it, and nothing else.
///
/// # Errors
///
/// Those of the hub, and when it has no dictionary there, with those that it has.
pub fn fetch(of: &RepositoryPart, watch: &mut DownloadWatch<'_>) -> Result<PathBuf> {
    let whole = |path: &Path| {
        Source::of(path, &|_| Ok(()))
            .is_ok_and(|source| FORMATS.iter().any(|format| (format.fits)(&source)))
    };
    let files = PartFiles {
        choose: &repository::files,
        whole: &whole,
    };
    of.fetch(&files, watch)
}

/// The error for what is of no format, with the dictionaries that lie below.
fn unknown(source: &Source) -> Error {
    let known: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
    let mut what = format!(
        "it is not a dictionary of a known format ({})",
        known.join(", ")
    );
    let fits = |inner: Source| FORMATS.iter().any(|format| (format.fits)(&inner));
    let names = source.names();
    let below = names.iter().take(10_000);
    let below = below.filter(|name| source.inner(name).is_some_and(fits));
    let below: Vec<String> = below.map(|name| text::visible(name.as_bytes())).collect();
    let next = if below.is_empty() {
        what.push_str(", and no folder of it is one");
        "Give the folder or file of one dictionary.".to_string()
    } else {
        format!("Give one of those in it: {}.", text::quoted(&below, 8))
    };
    Error::bad_file(&source.path, what, next)
}
