//! Writes small GGUF files of f32 vectors, such as control vectors.
//!
//! Invariant: version 3, little-endian, data aligned to 32 bytes, as [`super::header`] and llama.cpp read it.
//! To add a kind of metadata, add a variant of [`MetadataValue`].

#[derive(Clone, Copy, Debug)]
pub enum MetadataValue<'a> {
    /// An unsigned integer.
    U32(u32),
    Text(&'a str),
}

/// The format's default alignment.
const ALIGNMENT: usize = 32;

/// The bytes of a file with this metadata and these vectors.
pub fn file(metadata: &[(&str, MetadataValue<'_>)], vectors: &[(String, &[f32])]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((vectors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        match value {
            MetadataValue::U32(number) => {
                out.extend(4u32.to_le_bytes());
                out.extend(number.to_le_bytes());
            }
            MetadataValue::Text(words) => {
                out.extend(8u32.to_le_bytes());
                text(&mut out, words);
            }
        }
    }
    let mut offset = 0;
    for (name, vector) in vectors {
        text(&mut out, name);
        out.extend(1u32.to_le_bytes()); // dimensions
        out.extend((vector.len() as u64).to_le_bytes());
        out.extend(0u32.to_le_bytes()); // F32
        out.extend((offset as u64).to_le_bytes());
        offset += (4 * vector.len()).next_multiple_of(ALIGNMENT);
    }
    let align = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    align(&mut out);
    for (_, vector) in vectors {
        out.extend(vector.iter().flat_map(|v| v.to_le_bytes()));
        align(&mut out);
    }
    out
}

fn text(out: &mut Vec<u8>, words: &str) {
    out.extend((words.len() as u64).to_le_bytes());
    out.extend(words.as_bytes());
}
