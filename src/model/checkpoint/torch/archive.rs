//! The zip archive of a PyTorch checkpoint: the locations of its entries.
//!
//! Invariant: every entry is inside the file, and nothing is decompressed here: `torch.save` stores entries uncompressed, so a
//! compressed one is refused; those of numpy are decompressed within a limit (`model/checkpoint/numpy.rs`).

use std::collections::BTreeMap;
use std::ops::Range;

/// The byte ranges of entries by name.
pub(crate) type Entries = BTreeMap<String, Range<usize>>;

/// Reads the directory of a zip archive; the error says what is wrong, without the path.
pub(crate) fn entries(file: &[u8]) -> Result<Entries, String> {
    let mut entries = Entries::new();
    for (name, entry) in directory_of(file)? {
        if entry.packed {
            return Err(format!(
                "its entry `{name}` is compressed, which `torch.save` never does"
            ));
        }
        entries.insert(name, entry.data);
    }
    Ok(entries)
}

pub(crate) struct ArchiveEntry {
    /// Its bytes in the file.
    pub data: Range<usize>,
    /// Whether they are compressed (deflate).
    pub packed: bool,
    /// The uncompressed size in bytes.
    pub size: u64,
    /// The CRC-32 of the uncompressed bytes.
    pub crc: u32,
}

/// Reads the directory of a zip archive with stored or deflated entries; the error says what is wrong, without the path.
pub(crate) fn directory_of(file: &[u8]) -> Result<BTreeMap<String, ArchiveEntry>, String> {
    let damaged = || "its zip directory is damaged".to_string();
    let (count, start) = directory(file).ok_or_else(damaged)?;
    // An entry takes at least 46 bytes of the directory.
    if start > file.len() as u64 || count > (file.len() as u64 - start) / 46 {
        return Err(damaged());
    }
    let mut at = start as usize;
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let (name, found, next) = entry(file, at).ok_or_else(damaged)?;
        if entries.insert(name.clone(), found).is_some() {
            return Err(format!("its entry `{name}` is there twice"));
        }
        at = next;
    }
    Ok(entries)
}

/// The number of entries in the directory, and its offset.
fn directory(file: &[u8]) -> Option<(u64, u64)> {
    // The end record has 22 bytes and a comment of at most 65535.
    let from = file.len().saturating_sub(22 + 65_535);
    let end = (from..=file.len().checked_sub(22)?)
        .rev()
        .find(|at| file[*at..].starts_with(b"PK\x05\x06"))?;
    let (count, start) = (u16_at(file, end + 10)?, u32_at(file, end + 16)?);
    if count != u16::MAX && start != u32::MAX {
        return Some((u64::from(count), u64::from(start)));
    }
    // Zip64: a locator of 20 bytes before the end record points to a larger one.
    let locator = end.checked_sub(20)?;
    if !file[locator..].starts_with(b"PK\x06\x07") {
        return Some((u64::from(count), u64::from(start)));
    }
    let large = usize::try_from(u64_at(file, locator + 8)?).ok()?;
    if !file.get(large..)?.starts_with(b"PK\x06\x06") {
        return None;
    }
    Some((
        u64_at(file, large.checked_add(32)?)?,
        u64_at(file, large.checked_add(48)?)?,
    ))
}

/// One record of the directory: the entry's name, its data, and the offset of the next record.
fn entry(file: &[u8], at: usize) -> Option<(String, ArchiveEntry, usize)> {
    if !file.get(at..)?.starts_with(b"PK\x01\x02") {
        return None;
    }
    let method = u16_at(file, at + 10)?;
    let mut packed = u64::from(u32_at(file, at + 20)?);
    let mut size = u64::from(u32_at(file, at + 24)?);
    let (name, extra, comment) = (
        usize::from(u16_at(file, at + 28)?),
        usize::from(u16_at(file, at + 30)?),
        usize::from(u16_at(file, at + 32)?),
    );
    let mut local = u64::from(u32_at(file, at + 42)?);
    let name_at = at + 46;
    let text = file.get(name_at..name_at + name)?;
    let extras = file.get(name_at + name..name_at + name + extra)?;
    // Fields that do not fit 32 bits are in the zip64 extra field, in this order.
    let mut wide = zip64(extras).unwrap_or(&[]);
    for field in [&mut size, &mut packed, &mut local] {
        if *field == u64::from(u32::MAX) {
            *field = u64_at(wide, 0)?;
            wide = &wide[8..];
        }
    }
    let next = name_at + name + extra + comment;
    let name = String::from_utf8_lossy(text).into_owned();
    // Encrypted, or compressed by another method than deflate.
    if u16_at(file, at + 8)? & 1 == 1 || !matches!(method, 0 | 8) || (method == 0 && packed != size)
    {
        return None;
    }
    let local = usize::try_from(local).ok()?;
    if !file.get(local..)?.starts_with(b"PK\x03\x04") {
        return None;
    }
    let skip = 30
        + usize::from(u16_at(file, local.checked_add(26)?)?)
        + usize::from(u16_at(file, local + 28)?);
    let start = local.checked_add(skip)?;
    let end = start.checked_add(usize::try_from(packed).ok()?)?;
    file.get(start..end)?;
    let entry = ArchiveEntry {
        data: start..end,
        packed: method == 8,
        size,
        crc: u32_at(file, at + 16)?,
    };
    Some((name, entry, next))
}

/// The zip64 part of an entry's extra fields.
fn zip64(mut extras: &[u8]) -> Option<&[u8]> {
    loop {
        let (id, size) = (u16_at(extras, 0)?, usize::from(u16_at(extras, 2)?));
        let body = extras.get(4..4 + size)?;
        if id == 1 {
            return Some(body);
        }
        extras = &extras[4 + size..];
    }
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(fixed(file, at)?))
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(fixed(file, at)?))
}

fn u64_at(file: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(fixed(file, at)?))
}

fn fixed<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at.checked_add(N)?)?.try_into().ok()
}
