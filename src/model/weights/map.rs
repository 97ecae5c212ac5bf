//! Memory maps: the only way in which formats of our own see the bytes of a checkpoint.
//!
//! Invariant: files are mapped read-only; what a model keeps is copied out of the map.

use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps one file.
#[allow(unsafe_code)]
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    // SAFETY: the file is opened read-only and mapped privately; as for every program that maps a checkpoint,
    // truncating the file while it is loaded is outside the contract.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}
