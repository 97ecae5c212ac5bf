//! Memory maps: the only way in which our own readers access the bytes of a checkpoint.
//!
//! Invariant: files are mapped read-only; what a model keeps is copied out of the map, and the map's pages are then released
//! ([`release`]), so that loading never holds the weights twice. If another program truncates a mapped file, the program ends
//! with an error message ([`super::truncated_file`]).

use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

#[allow(unsafe_code)]
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let file = crate::file::open(path)?;
    super::truncated_file::watch();
    // SAFETY: the file is opened read-only and mapped privately. If another program truncates it, access to pages beyond its
    // new end raises SIGBUS, which ends the program (`truncated_file`) before anything is computed from them.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}

/// Releases the pages of a map that were read, so that they no longer count as memory of this process.
pub(crate) fn release(map: &Mmap) {
    release_range(map, 0..map.len());
}

/// As [`release`], of the pages of these bytes.
pub(crate) fn release_range(map: &Mmap, bytes: Range<usize>) {
    #[cfg(unix)]
    {
        #[allow(unsafe_code)]
        // SAFETY: the map is read-only and backed by a file, so released pages are read from the file again on access; no
        // written data can be lost.
        let advised = unsafe {
            map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len())
        };
        if let Err(error) = advised {
            tracing::debug!("pages of a checkpoint stay until its map is closed: {error}");
        }
    }
    #[cfg(not(unix))]
    let _: (&Mmap, Range<usize>) = (map, bytes); // there is no such advice
}

/// Bytes of a file as f32, where they lie as the processor wants them.
#[allow(unsafe_code)]
pub(crate) fn as_f32(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: every pattern of bits is an f32.
    match unsafe { bytes.align_to::<f32>() } {
        ([], numbers, []) => Some(numbers),
        _ => None,
    }
}

/// Bytes of a file as numbers of sixteen bits, where they lie as the processor wants them.
#[allow(unsafe_code)]
pub(crate) fn as_u16(bytes: &[u8]) -> Option<&[u16]> {
    // SAFETY: every pattern of bits is a u16.
    match unsafe { bytes.align_to::<u16>() } {
        ([], numbers, []) => Some(numbers),
        _ => None,
    }
}
