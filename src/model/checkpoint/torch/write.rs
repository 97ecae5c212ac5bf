//! Writes one f32 vector as `torch.save` does, so that `torch.load` reads it with `weights_only=True`.
//!
//! Invariant: the pickle is the one that PyTorch writes for a contiguous CPU tensor; nothing else can be written. To write
//! another shape, change `pickle`.

/// The name of the archive's top folder.
const ROOT: &str = "direction";

/// The bytes of a file with a vector.
pub fn archive_of(vector: &[f32]) -> Vec<u8> {
    let data = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
    zip(&[
        ("data.pkl", pickle(vector.len() as u32)),
        ("byteorder", b"little".to_vec()),
        ("data/0", data),
        ("version", b"3\n".to_vec()),
    ])
}

/// `_rebuild_tensor_v2(storage, 0, (n,), (1,), False, OrderedDict())`, protocol 2.
fn pickle(count: u32) -> Vec<u8> {
    let mut out = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    let text = |out: &mut Vec<u8>, words: &str| {
        out.push(b'X');
        out.extend((words.len() as u32).to_le_bytes());
        out.extend(words.as_bytes());
    };
    let number = |out: &mut Vec<u8>, n: u32| {
        out.push(b'J');
        out.extend(n.to_le_bytes());
    };
    text(&mut out, "storage");
    out.extend(b"ctorch\nFloatStorage\n");
    text(&mut out, "0");
    text(&mut out, "cpu");
    number(&mut out, count);
    out.extend(b"tQ"); // the tuple, as what names a storage
    number(&mut out, 0); // offset
    number(&mut out, count);
    out.push(0x85); // a tuple of one
    number(&mut out, 1);
    out.push(0x85);
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR.");
    out
}

/// A zip archive of uncompressed entries, with their data aligned to 64 bytes as in PyTorch.
fn zip(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let name = format!("{ROOT}/{name}");
        let at = out.len() as u32;
        // An extra field named FB, as in PyTorch, pads to the alignment.
        let bare = out.len() + 30 + name.len() + 4;
        let fill = bare.next_multiple_of(64) - bare;
        let mut common = Vec::new();
        common.extend([0; 8]); // flags, method, time and date
        common.extend(crc32fast::hash(data).to_le_bytes());
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        out.extend(b"PK\x03\x04\0\0");
        out.extend(&common);
        out.extend((fill as u16 + 4).to_le_bytes());
        out.extend(name.bytes());
        out.extend(b"FB");
        out.extend((fill as u16).to_le_bytes());
        out.resize(out.len() + fill, b'Z');
        out.extend(data);
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend(&common);
        directory.extend([0; 12]); // extra, comment, disk and attributes
        directory.extend(at.to_le_bytes());
        directory.extend(name.bytes());
    }
    let at = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0; 2]); // comment
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn checksums_are_those_of_zip() {
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
    }
}
