//! Files of arrays that need not fit into memory: every array has its place from the start, and rows are written where they belong, in
//! any order, also by a later process.
//!
//! Invariant: the same arrays give the same bytes everywhere, whoever wrote the rows and in which order; a file can be read once
//! [`ArrayFile::finish`] is done. Safetensors keep metadata in their header; a `.npz` keeps
//! them as an array `metadata`, the bytes of a JSON object.
//! To write another container, add a variant of [`Container`] and its arms here.
//!
//! Sources: the safetensors format (`data_offsets` of a contiguous buffer); numpy's `NEP 1` (`.npy`, version 1.0); PKWARE's APPNOTE 6.3
//! for zip64, which `numpy.savez` writes, too.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::{Error, Result};

/// How many bytes are read at once for a checksum.
const PIECE: usize = 1 << 20;

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    Safetensors,
    Npz,
}

impl Container {
    /// The container that the ending of a file names.
    ///
    /// # Errors
    ///
    /// When it names none.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Ok(Self::Safetensors),
            Some("npz") => Ok(Self::Npz),
            Some(_) | None => {
                let expected = "a file name that ends in .safetensors or .npz";
                Err(Error::argument("-o", path.display(), expected))
            }
        }
    }
}

/// The elements of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayKind {
    F32,
    I64,
    /// A byte each: 0 or 1.
    Bool,
}

impl ArrayKind {
    fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::I64 => 8,
            Self::Bool => 1,
        }
    }

    /// As safetensors and numpy call it.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::F32 => ("F32", "<f4"),
            Self::I64 => ("I64", "<i8"),
            // Not every reader of safetensors knows its BOOL.
            Self::Bool => ("U8", "|b1"),
        }
    }
}

/// An array of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArraySpec {
    pub name: String,
    pub kind: ArrayKind,
    pub shape: Vec<usize>,
}

impl ArraySpec {
    pub fn new(name: impl Into<String>, kind: ArrayKind, shape: &[usize]) -> Self {
        Self {
            name: name.into(),
            kind,
            shape: shape.to_vec(),
        }
    }

    /// The bytes of its elements.
    pub fn bytes(&self) -> u64 {
        let count = self.shape.iter().map(|side| *side as u64);
        count.product::<u64>() * self.kind.bytes()
    }
}

/// An entry of a zip archive: what stands before its elements, and where.
struct ZipEntry {
    name: String,
    /// Where its local header begins.
    local: u64,
    /// The bytes of the local header.
    header: u64,
    /// The bytes that its checksum is of.
    size: u64,
}

/// A file on its way.
pub struct ArrayFile {
    path: PathBuf,
    file: File,
    arrays: Vec<ArraySpec>,
    /// Where the elements of each array begin.
    starts: Vec<u64>,
    entries: Vec<ZipEntry>,
    end: u64,
}

/// Where everything goes: pieces that stand between the elements, by their offset.
struct FileLayout {
    pieces: Vec<(u64, Vec<u8>)>,
    starts: Vec<u64>,
    entries: Vec<ZipEntry>,
    end: u64,
}

impl ArrayFile {
    /// Begins a file, or goes on with one of the same arrays and metadata where `go_on`: its rows stay as they are.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn begin(
        path: &Path,
        container: Container,
        arrays: Vec<ArraySpec>,
        metadata: &BTreeMap<String, String>,
        go_on: bool,
    ) -> Result<Self> {
        let fail = |e| Error::io(path, e);
        let layout = match container {
            Container::Safetensors => safetensors(&arrays, metadata),
            Container::Npz => npz(&arrays, metadata),
        };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(!go_on);
        let file = file.open(path).map_err(fail)?;
        file.set_len(layout.end).map_err(fail)?;
        for (at, piece) in &layout.pieces {
            file.write_all_at(piece, *at).map_err(fail)?;
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
            arrays,
            starts: layout.starts,
            entries: layout.entries,
            end: layout.end,
        })
    }

    /// Writes the bytes of elements of an array, from an element on.
    ///
    /// # Errors
    ///
    /// When they do not fit into the array, or cannot be written.
    pub fn write(&self, array: usize, element: usize, bytes: &[u8]) -> Result<()> {
        let of = &self.arrays[array];
        let at = element as u64 * of.kind.bytes();
        if at + bytes.len() as u64 > of.bytes() {
            let what = format!("element {element} of `{}` {:?}", of.name, of.shape);
            return Err(Error::Engine(format!("{what} has no place in its array")));
        }
        let written = self.file.write_all_at(bytes, self.starts[array] + at);
        written.map_err(|e| Error::io(&self.path, e))
    }

    /// Completes the file: checksums and directory of an archive, and everything on the disk.
    ///
    /// # Errors
    ///
    /// When it cannot be read again or written.
    pub fn finish(self) -> Result<()> {
        let fail = |e| Error::io(&self.path, e);
        let mut directory = Vec::new();
        let mut buffer = vec![0; PIECE];
        for entry in &self.entries {
            let mut crc = crc32fast::Hasher::new();
            let (mut at, end) = (
                entry.local + entry.header,
                entry.local + entry.header + entry.size,
            );
            while at < end {
                let piece = &mut buffer[..PIECE.min((end - at) as usize)];
                self.file.read_exact_at(piece, at).map_err(fail)?;
                crc.update(piece);
                at += piece.len() as u64;
            }
            let crc = crc.finalize();
            self.file
                .write_all_at(&crc.to_le_bytes(), entry.local + 14)
                .map_err(fail)?;
            directory.extend(entry.record(crc));
        }
        if !self.entries.is_empty() {
            let tail = zip_end(self.entries.len() as u64, directory.len() as u64, self.end);
            directory.extend(tail);
            self.file.write_all_at(&directory, self.end).map_err(fail)?;
        }
        self.file.sync_all().map_err(fail)
    }
}

fn safetensors(arrays: &[ArraySpec], metadata: &BTreeMap<String, String>) -> FileLayout {
    let mut head = serde_json::Map::new();
    head.insert("__metadata__".into(), json!(metadata));
    let mut at = 0;
    let mut starts = Vec::with_capacity(arrays.len());
    for array in arrays {
        let end = at + array.bytes();
        let about = json!({ "dtype": array.kind.names().0, "shape": array.shape, "data_offsets": [at, end] });
        head.insert(array.name.clone(), about);
        starts.push(at);
        at = end;
    }
    let mut head = serde_json::Value::Object(head).to_string().into_bytes();
    head.resize(head.len().next_multiple_of(8), b' ');
    let begin = 8 + head.len() as u64;
    let piece = [(head.len() as u64).to_le_bytes().as_slice(), &head].concat();
    FileLayout {
        pieces: vec![(0, piece)],
        starts: starts.iter().map(|start| begin + start).collect(),
        entries: Vec::new(),
        end: begin + at,
    }
}

fn npz(arrays: &[ArraySpec], metadata: &BTreeMap<String, String>) -> FileLayout {
    let mut layout = FileLayout {
        pieces: Vec::new(),
        starts: Vec::new(),
        entries: Vec::new(),
        end: 0,
    };
    for array in arrays {
        let head = npy_header(array.kind.names().1, &array.shape);
        let start = layout.add(&array.name, head, array.bytes());
        layout.starts.push(start);
    }
    let text = json!(metadata).to_string().into_bytes();
    let head = npy_header("|u1", &[text.len()]);
    let start = layout.add("metadata", head, text.len() as u64);
    layout.pieces.push((start, text));
    layout
}

impl FileLayout {
    /// Adds an entry of an archive; the offset of its elements.
    fn add(&mut self, name: &str, head: Vec<u8>, bytes: u64) -> u64 {
        let name = format!("{name}.npy");
        let size = head.len() as u64 + bytes;
        let mut local = b"PK\x03\x04".to_vec();
        // Version 4.5 (zip64), no flags, stored, 1980-01-01; the checksum comes last.
        local.extend([45, 0, 0, 0, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0]);
        local.extend([0xff; 8]);
        local.extend((name.len() as u16).to_le_bytes());
        local.extend(20u16.to_le_bytes());
        local.extend(name.bytes());
        local.extend([1, 0, 16, 0]);
        local.extend(size.to_le_bytes());
        local.extend(size.to_le_bytes());
        let entry = ZipEntry {
            name,
            local: self.end,
            header: local.len() as u64,
            size,
        };
        let start = self.end + entry.header + head.len() as u64;
        self.pieces.push((self.end, [local, head].concat()));
        self.end = start + bytes;
        self.entries.push(entry);
        start
    }
}

impl ZipEntry {
    /// Its record in the directory.
    fn record(&self, crc: u32) -> Vec<u8> {
        let mut out = b"PK\x01\x02".to_vec();
        out.extend([45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]);
        out.extend(crc.to_le_bytes());
        out.extend([0xff; 8]);
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend(28u16.to_le_bytes());
        // No comment, the first disk, no attributes; the offset is in the zip64 field.
        out.extend([0; 10]);
        out.extend([0xff; 4]);
        out.extend(self.name.bytes());
        out.extend([1, 0, 24, 0]);
        for wide in [self.size, self.size, self.local] {
            out.extend(wide.to_le_bytes());
        }
        out
    }
}

/// The end of an archive: the zip64 record, its locator, and the end record, which points to them.
fn zip_end(count: u64, size: u64, start: u64) -> Vec<u8> {
    let mut out = b"PK\x06\x06".to_vec();
    out.extend(44u64.to_le_bytes());
    out.extend([45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for wide in [count, count, size, start] {
        out.extend(wide.to_le_bytes());
    }
    out.extend(b"PK\x06\x07\0\0\0\0");
    out.extend((start + size).to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([0xff; 12]);
    out.extend([0, 0]);
    out
}

/// The header of an array of numpy.
fn npy_header(kind: &str, shape: &[usize]) -> Vec<u8> {
    let sides: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let text = format!(
        "{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}{comma}), }}",
        sides.join(", ")
    );
    // The whole header is a multiple of 64 bytes long and ends in a line break.
    let padded = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((padded as u16).to_le_bytes());
    out.extend(text.bytes());
    out.resize(10 + padded - 1, b' ');
    out.push(b'\n');
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::checkpoint::torch::archive::directory_of;

    fn arrays() -> Vec<ArraySpec> {
        vec![
            ArraySpec::new("a", ArrayKind::F32, &[3, 2]),
            ArraySpec::new("b", ArrayKind::F32, &[1]),
        ]
    }

    /// Writes the arrays in two goes, the rows from the last to the first; the bytes of the file.
    fn written(container: Container, name: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let about = BTreeMap::from([("made".to_string(), "by \"é\"".to_string())]);
        let row = |i: usize| -> Vec<u8> {
            let values = [i as f32, -0.5 - i as f32];
            values.iter().flat_map(|v| v.to_le_bytes()).collect()
        };
        let first = ArrayFile::begin(&path, container, arrays(), &about, false).unwrap();
        first.write(0, 4, &row(2)).unwrap();
        first.write(1, 0, &7f32.to_le_bytes()).unwrap();
        assert!(first.write(1, 1, &[0; 4]).is_err(), "beyond its array");
        drop(first);
        let again = ArrayFile::begin(&path, container, arrays(), &about, true).unwrap();
        again.write(0, 2, &row(1)).unwrap();
        again.write(0, 0, &row(0)).unwrap();
        again.finish().unwrap();
        (folder, path)
    }

    const WANTED: [f32; 6] = [0.0, -0.5, 1.0, -1.5, 2.0, -2.5];

    #[test]
    fn safetensors_are_read_by_their_library() {
        let (_folder, path) = written(Container::Safetensors, "x.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let a = file.tensor("a").unwrap();
        assert_eq!(a.shape(), [3, 2]);
        let values: Vec<u8> = WANTED.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(a.data(), values);
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["made"], "by \"é\"");
    }

    #[test]
    fn archives_are_read_by_the_reader_of_numpys() {
        let (_folder, path) = written(Container::Npz, "x.npz");
        let file = crate::model::checkpoint::tensor_file::TensorFile::open(&path).unwrap();
        assert_eq!(file.shape("a").unwrap(), [3, 2]);
        assert_eq!(file.numbers("a").unwrap(), WANTED);
        assert_eq!(file.numbers("b").unwrap(), [7.0]);
        let bytes = std::fs::read(&path).unwrap();
        let entries = directory_of(&bytes).unwrap();
        assert_eq!(entries.len(), 3);
        for (name, entry) in entries {
            assert_eq!(
                crc32fast::hash(&bytes[entry.data.clone()]),
                entry.crc,
                "{name}"
            );
        }
    }
}
