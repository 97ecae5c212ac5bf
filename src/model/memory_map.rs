//! Memory maps: the only way in which formats of our own see the bytes of a checkpoint.
//!
//! Invariant: files are mapped read-only; what a model keeps is copied out of the map, and then the map's own pages are
//! given back ([`release`]), so that loading never holds the weights twice. A file that somebody makes shorter meanwhile
//! ends the program with a sentence ([`super::shrunk`]).

use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

#[allow(unsafe_code)]
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let file = crate::file::open(path)?;
    super::truncated_file::watch();
    // SAFETY: the file is opened read-only and mapped privately. When somebody truncates it, pages behind its new end
    // raise SIGBUS, which ends the program (`shrunk`) before anything is computed from them.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}

/// Gives the pages of a map that were read back to the system: they no longer count as this process's memory.
pub(crate) fn release(map: &Mmap) {
    #[cfg(unix)]
    {
        #[allow(unsafe_code)]
        // SAFETY: the map is read-only and of a file, so pages that are dropped are read from it again when they are
        // looked at; nothing that was written can be lost.
        let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        if let Err(error) = advised {
            tracing::debug!("pages of a checkpoint stay until its map is closed: {error}");
        }
    }
    #[cfg(not(unix))]
    let _: &Mmap = map; // there is no such advice
}
