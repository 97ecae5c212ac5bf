//! Writes f32 tensors, alone or in dicts and lists, as `torch.save` does, so that `torch.load` reads them with `weights_only=True`.
//!
//! Invariant: a tensor's pickle is the one that PyTorch writes for a contiguous CPU tensor, and nothing that calls anything else can
//! be written. To write another kind of value, add a variant of [`TorchValue`].

/// The name of the archive's top folder.
const ROOT: &str = "direction";

/// A value that a file can hold.
#[derive(Clone, Debug)]
pub enum TorchValue<'a> {
    /// An f32 tensor, row-major.
    Tensor {
        shape: Vec<usize>,
        numbers: &'a [f32],
    },
    Text(String),
    Whole(i32),
    List(Vec<Self>),
    /// Keys are texts or whole numbers.
    Dict(Vec<(Self, Self)>),
}

impl TorchValue<'_> {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}

/// The bytes of a file with a vector.
pub fn archive_of(vector: &[f32]) -> Vec<u8> {
    archive_with(&TorchValue::Tensor {
        shape: vec![vector.len()],
        numbers: vector,
    })
}

/// The bytes of a file with a value, as `torch.save` writes them. Its tensors take less than 4 GiB.
pub fn archive_with(value: &TorchValue<'_>) -> Vec<u8> {
    let mut pickle = PickleWriter {
        out: b"\x80\x02".to_vec(),
        tensors: Vec::new(),
    };
    pickle.value(value);
    pickle.out.push(b'.');
    let mut entries = vec![
        ("data.pkl".to_string(), pickle.out),
        ("byteorder".to_string(), b"little".to_vec()),
    ];
    for (i, numbers) in pickle.tensors.into_iter().enumerate() {
        let data = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        entries.push((format!("data/{i}"), data));
    }
    entries.push(("version".to_string(), b"3\n".to_vec()));
    zip(&entries)
}

/// A pickle of protocol 2 on its way, with the numbers of its tensors.
struct PickleWriter<'a> {
    out: Vec<u8>,
    tensors: Vec<&'a [f32]>,
}

impl<'a> PickleWriter<'a> {
    fn value(&mut self, value: &TorchValue<'a>) {
        match value {
            TorchValue::Text(text) => self.text(text),
            TorchValue::Whole(number) => self.number(*number),
            TorchValue::List(values) => {
                self.out.extend(b"](");
                values.iter().for_each(|value| self.value(value));
                self.out.push(b'e');
            }
            TorchValue::Dict(pairs) => {
                self.out.extend(b"}(");
                for (key, value) in pairs {
                    self.value(key);
                    self.value(value);
                }
                self.out.push(b'u');
            }
            TorchValue::Tensor { shape, numbers } => self.tensor(shape, numbers),
        }
    }

    /// `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`.
    fn tensor(&mut self, shape: &[usize], numbers: &'a [f32]) {
        self.out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.out.extend(b"ctorch\nFloatStorage\n");
        self.text(&self.tensors.len().to_string());
        self.text("cpu");
        self.number(numbers.len() as i32);
        self.out.extend(b"tQ"); // the tuple, as what names a storage
        self.number(0); // offset
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        for sizes in [shape, &strides] {
            // Tuples of up to three have an opcode of their own, the others a mark.
            let short = (1..=3).contains(&sizes.len());
            if !short {
                self.out.push(b'(');
            }
            sizes.iter().for_each(|size| self.number(*size as i32));
            self.out.push(if short {
                0x84 + sizes.len() as u8
            } else {
                b't'
            });
        }
        self.out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        self.tensors.push(numbers);
    }

    fn text(&mut self, words: &str) {
        self.out.push(b'X');
        self.out.extend((words.len() as u32).to_le_bytes());
        self.out.extend(words.as_bytes());
    }

    fn number(&mut self, number: i32) {
        self.out.push(b'J');
        self.out.extend(number.to_le_bytes());
    }
}

/// A zip archive of uncompressed entries, with their data aligned to 64 bytes as in PyTorch.
fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
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
