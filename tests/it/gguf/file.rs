//! A GGUF file in memory, written field by field as the format's specification says.

use candle_core::quantized::GgmlDType;

/// A metadata value.
#[derive(Clone, Debug)]
pub enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Ints(Vec<i32>),
    Bools(Vec<bool>),
    /// A list of lists of whole numbers.
    Nested(Vec<Vec<i32>>),
}

impl From<usize> for Meta {
    fn from(n: usize) -> Self {
        Self::U32(n as u32)
    }
}

impl From<f64> for Meta {
    fn from(x: f64) -> Self {
        Self::F32(x as f32)
    }
}

impl From<bool> for Meta {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<&str> for Meta {
    fn from(s: &str) -> Self {
        Self::Text(s.into())
    }
}

/// One tensor; its shape is outermost first.
#[derive(Clone, Debug)]
pub struct Stored {
    pub name: String,
    pub shape: Vec<usize>,
    /// The number of its type.
    pub kind: u32,
    pub bytes: Vec<u8>,
}

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct File {
    pub metadata: Vec<(String, Meta)>,
    pub tensors: Vec<Stored>,
}

/// The number of a type, from the specification.
pub fn kind(dtype: GgmlDType) -> u32 {
    match dtype {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q8_1 => 9,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        GgmlDType::Q8K => 15,
        GgmlDType::BF16 => 30,
    }
}

impl File {
    /// Adds a metadata entry.
    pub fn put(&mut self, key: impl Into<String>, value: impl Into<Meta>) {
        self.metadata.push((key.into(), value.into()));
    }

    /// The bytes of the file, version 3.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            meta(&mut out, value);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            text(&mut out, &t.name);
            out.extend((t.shape.len() as u32).to_le_bytes());
            t.shape
                .iter()
                .rev()
                .for_each(|d| out.extend((*d as u64).to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += t.bytes.len().next_multiple_of(32) as u64;
        }
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&t.bytes);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out
    }
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn list<T>(out: &mut Vec<u8>, kind: u32, items: &[T], mut item: impl FnMut(&mut Vec<u8>, &T)) {
    out.extend(kind.to_le_bytes());
    out.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|i| item(out, i));
}

fn meta(out: &mut Vec<u8>, value: &Meta) {
    let kind: u32 = match value {
        Meta::U32(_) => 4,
        Meta::F32(_) => 6,
        Meta::Bool(_) => 7,
        Meta::Text(_) => 8,
        _ => 9,
    };
    out.extend(kind.to_le_bytes());
    match value {
        Meta::U32(n) => out.extend(n.to_le_bytes()),
        Meta::F32(x) => out.extend(x.to_le_bytes()),
        Meta::Bool(b) => out.push(u8::from(*b)),
        Meta::Text(s) => text(out, s),
        Meta::Texts(all) => list(out, 8, all, |out, s| text(out, s)),
        Meta::Floats(all) => list(out, 6, all, |out, x| out.extend(x.to_le_bytes())),
        Meta::Ints(all) => list(out, 5, all, |out, n| out.extend(n.to_le_bytes())),
        Meta::Bools(all) => list(out, 7, all, |out, b| out.push(u8::from(*b))),
        Meta::Nested(all) => list(out, 9, all, |out, inner| {
            list(out, 5, inner, |out, n| out.extend(n.to_le_bytes()));
        }),
    }
}
