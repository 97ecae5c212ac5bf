//! Weights: named tensors from memory-mapped safetensors, PyTorch and GGUF files, from bytes in the binary, or from a seed.
//!
//! Invariant: a tensor arrives with the shape that was asked for, or an error names it.
//! To add a format, add a variant of `Source` and its arm in `Weights::read`.

mod damage;
mod map;
mod random;
mod range;
mod safetensors;
pub mod shrunk;

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use ::safetensors::SafeTensors;
use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};

use self::random::random;
use self::safetensors::{Files, Mapped, check_header, files_of};
use super::gguf::Checkpoint;
use super::linear::{Linear, Matrix, select};
use super::pickle::Pickled;
use crate::error::{Error, Result};

pub use self::damage::Damage;
pub(crate) use self::map::{map_file, release};
pub use self::random::normals;

/// Where tensors come from.
enum Source {
    Mapped(Mapped),
    Embedded(SafeTensors<'static>),
    /// A PyTorch checkpoint.
    Pickled(Pickled),
    /// A GGUF file, whose matrices lie `[out, in]` for every family.
    Gguf(Checkpoint),
    /// Every tensor asked for exists, with values that depend on the seed and the name alone.
    Random(u64),
}

/// How the matrices of a model are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Dense, in this dtype.
    Dense(DType),
    /// Q8_0 blocks; activations in f32.
    Q8,
    /// The blocks that the file has, named as llama.cpp names such a file; activations in f32.
    Stored(&'static str),
}

impl Precision {
    /// The dtype of activations.
    pub fn compute(self) -> DType {
        match self {
            Self::Dense(dtype) => dtype,
            Self::Q8 | Self::Stored(_) => DType::F32,
        }
    }

    /// As flags and headers write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense(dtype) => dtype.as_str(),
            Self::Q8 => "q8_0",
            Self::Stored(name) => name,
        }
    }

    /// Refuses gradients where weights are in blocks, which no gradient passes.
    pub fn check_gradients(self) -> Result<()> {
        match self {
            Self::Dense(_) => Ok(()),
            Self::Q8 | Self::Stored(_) => Err(Error::argument(
                "--dtype",
                self.name(),
                "f32 or f16 for a gradient, which does not pass through weights kept in blocks",
            )),
        }
    }
}

/// Named tensors, on their way to a device in a dtype.
pub struct Weights {
    source: Source,
    place: String,
    prefix: &'static str,
    /// How matrices are kept.
    pub precision: Precision,
    /// Where tensors go.
    pub device: Device,
    /// Tensors read so far with values that are not finite.
    damage: RefCell<Vec<Damage>>,
}

/// How a checkpoint lays out a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[out, in]`, as `torch.nn.Linear`.
    OutIn,
    /// `[in, out]`, as GPT-2's `Conv1D`.
    InOut,
}

impl Weights {
    /// Maps the weights of a folder: `model.safetensors`, or the shards its index names, or where there is neither,
    /// `pytorch_model.bin` likewise.
    pub fn open(folder: &Path, precision: Precision, device: &Device) -> Result<Self> {
        let (source, files) = match files_of(folder)? {
            Files::Safetensors(files) => {
                for file in &files {
                    check_header(file)?;
                }
                (Source::Mapped(Mapped::open(&files)?), files)
            }
            Files::Pickled(files) => (Source::Pickled(Pickled::open(&files)?), files),
        };
        let place = files
            .iter()
            .map(|f| f.display().to_string())
            .collect::<Vec<_>>()
            .join(", ");
        Ok(Self {
            source,
            place,
            prefix: "",
            precision,
            device: device.clone(),
            damage: RefCell::default(),
        })
    }

    /// Reads a safetensors file that is part of the binary.
    pub fn embedded(bytes: &'static [u8], precision: Precision, device: &Device) -> Result<Self> {
        let parsed = SafeTensors::deserialize(bytes).map_err(|e| {
            Error::bad_file(
                "(embedded demo model)",
                e.to_string(),
                "This binary is damaged; build it again.",
            )
        })?;
        Ok(Self {
            source: Source::Embedded(parsed),
            place: "the binary".into(),
            prefix: "",
            precision,
            device: device.clone(),
            damage: RefCell::default(),
        })
    }

    /// Takes the tensors of a GGUF file.
    pub fn gguf(checkpoint: Checkpoint, precision: Precision, device: &Device) -> Self {
        Self {
            place: checkpoint.gguf.path().display().to_string(),
            source: Source::Gguf(checkpoint),
            prefix: "",
            precision,
            device: device.clone(),
            damage: RefCell::default(),
        }
    }

    /// Makes up every tensor from a seed, for tests.
    pub fn random(seed: u64, precision: Precision, device: &Device) -> Self {
        Self {
            source: Source::Random(seed),
            place: format!("seed {seed}"),
            prefix: "",
            precision,
            device: device.clone(),
            damage: RefCell::default(),
        }
    }

    /// Chooses the prefix under which `probe` exists; checkpoints of one family differ in it.
    pub fn under(mut self, prefixes: &[&'static str], probe: &str) -> Self {
        self.prefix = prefixes
            .iter()
            .find(|p| self.exists(&format!("{p}{probe}")))
            .copied()
            .unwrap_or("");
        self
    }

    /// Drops the prefix: heads live outside it.
    pub fn bare(mut self) -> Self {
        self.prefix = "";
        self
    }

    fn exists(&self, full: &str) -> bool {
        match &self.source {
            Source::Mapped(m) => m.get(full).is_some(),
            Source::Embedded(s) => s.tensor(full).is_ok(),
            Source::Pickled(p) => p.contains(full),
            Source::Gguf(g) => g.names.exists(&g.gguf, full),
            Source::Random(_) => true,
        }
    }

    /// A tensor in the compute dtype.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.read(name, shape, self.precision.compute())
    }

    /// A tensor in f32: norms and other small things.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.read(name, shape, DType::F32)
    }

    fn read(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let full = format!("{}{name}", self.prefix);
        let missing = || Error::MissingTensor {
            name: full.clone(),
            place: self.place.clone(),
        };
        let found = match &self.source {
            Source::Mapped(m) => m.get(&full).ok_or_else(missing)?.load(&Device::Cpu)?,
            Source::Embedded(s) => s.tensor(&full).map_err(|_| missing())?.load(&Device::Cpu)?,
            Source::Pickled(p) => p.get(&full)?.ok_or_else(missing)?.load()?,
            Source::Gguf(g) => g.piece(&full)?.ok_or_else(missing)?.unpack()?,
            Source::Random(seed) => random(*seed, &full, shape)?,
        };
        if found.dims() != shape {
            return Err(Error::TensorShape {
                name: full,
                expected: shape.to_vec(),
                found: found.dims().to_vec(),
            });
        }
        self.release(found.elem_count());
        let kept = found.to_dtype(dtype)?;
        let bad = damage::count(&kept)?;
        if bad > 0 {
            let stored = damage::count(&found)?;
            self.note_damage(full, if stored > 0 { stored } else { bad }, stored > 0);
        }
        Ok(kept.to_device(&self.device)?)
    }

    /// Notes a tensor with values that are not finite.
    fn note_damage(&self, name: String, count: usize, stored: bool) {
        let mut damage = self.damage.borrow_mut();
        // A tensor may be read for several places.
        if count > 0 && !damage.iter().any(|d| d.name == name) {
            damage.push(Damage {
                name,
                count,
                stored,
            });
        }
    }

    /// Takes what was found of tensors with values that are not finite.
    pub fn damage(&self) -> Vec<Damage> {
        self.damage.take()
    }

    /// Gives back what a file's map holds once so many numbers have been copied out of it; it is not worth the call for a
    /// few.
    fn release(&self, numbers: usize) {
        if numbers < 1 << 18 {
            return;
        }
        match &self.source {
            Source::Mapped(m) => m.release(),
            Source::Pickled(p) => p.release(),
            Source::Gguf(g) => g.gguf.release(),
            Source::Embedded(_) | Source::Random(_) => {}
        }
    }

    /// A matrix, `[out, in]` however the file lays it out.
    pub fn matrix(
        &self,
        name: &str,
        input: usize,
        output: usize,
        layout: Layout,
    ) -> Result<Matrix> {
        let name = format!("{name}.weight");
        if let Some(blocks) = self.stored_blocks(&name, input, output)? {
            return Ok(blocks);
        }
        let turned = matches!(self.source, Source::Gguf(_));
        Ok(Matrix::Dense(match layout {
            Layout::InOut if turned => self.get(&name, &[output, input])?,
            Layout::OutIn => self.get(&name, &[output, input])?,
            Layout::InOut => self.get(&name, &[input, output])?.t()?.contiguous()?,
        }))
    }

    /// The blocks of a matrix, when the file has some and they are to be kept.
    fn stored_blocks(&self, name: &str, input: usize, output: usize) -> Result<Option<Matrix>> {
        let (Precision::Stored(_), Source::Gguf(checkpoint)) = (self.precision, &self.source)
        else {
            return Ok(None);
        };
        let full = format!("{}{name}", self.prefix);
        // What is missing or of another shape is left to `get`, which says so.
        let blocks = checkpoint
            .piece(&full)?
            .filter(|p| p.dtype.block_size() > 1 && p.shape == [output, input])
            .map(|piece| {
                let bad = damage::count_blocks(piece.dtype, &piece.bytes);
                self.note_damage(full, bad, true);
                Matrix::Blocks {
                    kind: piece.dtype,
                    out: output,
                    input,
                    bytes: piece.bytes.into_owned(),
                }
            });
        self.release(output * input);
        Ok(blocks)
    }

    /// A matrix `[out, in]` and its bias `[out]`.
    pub fn linear(
        &self,
        name: &str,
        input: usize,
        output: usize,
        layout: Layout,
        bias: bool,
    ) -> Result<Linear> {
        let matrix = self.matrix(name, input, output, layout)?;
        let bias = bias
            .then(|| self.get(&format!("{name}.bias"), &[output]))
            .transpose()?;
        self.keep(name, matrix, bias)
    }

    /// Matrices that share one tensor: each takes these of its rows, in this order.
    pub fn fused(
        &self,
        name: &str,
        input: usize,
        parts: &[Vec<Range<usize>>],
        layout: Layout,
        bias: bool,
    ) -> Result<Vec<Linear>> {
        let output = parts.iter().flatten().map(Range::len).sum();
        let whole = self.matrix(name, input, output, layout)?;
        let whole_bias = bias
            .then(|| self.get(&format!("{name}.bias"), &[output]))
            .transpose()?;
        parts
            .iter()
            .map(|rows| {
                let bias = whole_bias.as_ref().map(|b| select(b, rows)).transpose()?;
                self.keep(name, whole.rows(rows)?, bias)
            })
            .collect()
    }

    /// A table of vectors `[rows, width]`, which may serve as the unembedding as well.
    pub fn table(&self, name: &str, rows: usize, width: usize) -> Result<Linear> {
        self.linear(name, width, rows, Layout::OutIn, false)
    }

    fn keep(&self, name: &str, matrix: Matrix, bias: Option<Tensor>) -> Result<Linear> {
        // Q8_0 blocks are 32 wide; a narrower input stays dense.
        match (self.precision, &matrix) {
            (Precision::Q8, Matrix::Dense(weight)) if weight.dim(1)? % 32 == 0 => {
                let full = format!("{}{name}.weight", self.prefix);
                self.note_damage(full, damage::past_q8(weight)?, false);
                Linear::quantized(weight, bias)
            }
            _ => matrix.into_linear(bias, &self.device),
        }
    }

    /// A fingerprint of names, shapes and samples of the data: equal files agree, other models differ.
    pub fn fingerprint(&self) -> u64 {
        let mut digest = crate::model::Fingerprint::default();
        let mut take = |name: &str, shape: &[usize], data: &[u8]| {
            digest.write(name.as_bytes());
            shape.iter().for_each(|d| digest.write(&d.to_le_bytes()));
            let edge = data.len().min(64);
            digest.write(&data[..edge]);
            digest.write(&data[data.len() - edge..]);
        };
        match &self.source {
            Source::Mapped(m) => m
                .tensors()
                .for_each(|(name, view)| take(name, view.shape(), view.data())),
            Source::Embedded(s) => {
                let mut views = s.tensors();
                views.sort_by(|a, b| a.0.cmp(&b.0));
                views
                    .iter()
                    .for_each(|(name, view)| take(name, view.shape(), view.data()));
            }
            Source::Pickled(p) => p.names().for_each(|name| {
                if let Some((shape, data)) = p.sample(name) {
                    take(name, shape, data);
                }
            }),
            Source::Gguf(g) => g.gguf.tensors().for_each(|(name, info)| {
                take(name, &info.shape, g.gguf.bytes(name).unwrap_or(&[]));
            }),
            Source::Random(seed) => digest.write(&seed.to_le_bytes()),
        }
        digest.finish()
    }
}
