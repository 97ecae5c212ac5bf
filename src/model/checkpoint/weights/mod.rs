//! Weights: named tensors from memory-mapped safetensors, PyTorch and GGUF files, from bytes in the binary, or from a seed.
//!
//! Invariant: a tensor has the requested shape, or an error names it.
//! To add a format, add a variant of `TensorSource` and its arm in `Weights::read`.

mod names;
mod non_finite;
mod random;
mod range;
mod safetensors;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use ::safetensors::SafeTensors;
use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};

use super::gguf::Checkpoint;
use super::torch::Pickled;
use crate::error::{Error, Result};
pub use crate::model::checkpoint::weights::names::NameProbes;
use crate::model::checkpoint::weights::names::Renamed;
use crate::model::checkpoint::weights::random::random;
pub(super) use crate::model::checkpoint::weights::safetensors::check_header;
use crate::model::checkpoint::weights::safetensors::{Mapped, WeightFiles, files_of};
use crate::model::host::ToHost;
use crate::model::network::families::MatrixLayout;
use crate::model::network::finite::NonFinite;
use crate::model::network::linear::{Linear, LoadedMatrix, Precision, select};

/// The source of tensors.
enum TensorSource {
    Mapped(Mapped),
    Embedded(SafeTensors<'static>),
    /// A PyTorch checkpoint.
    Pickled(Pickled),
    /// A GGUF file, whose matrices are `[out, in]` for every family.
    Gguf(Checkpoint),
    /// Random weights: every requested tensor exists, with values that depend only on the seed and the name.
    Random(u64),
}

/// Named tensors, to be put on a device in a dtype.
pub struct Weights {
    source: TensorSource,
    place: String,
    files: Vec<String>,
    prefix: &'static str,
    /// The file's own names, if a wrapper has changed them.
    renamed: Renamed,
    /// The tensors read so far, by the file's names.
    read: RefCell<BTreeSet<String>>,
    /// How weight matrices are stored.
    pub precision: Precision,
    /// The device for the tensors.
    pub device: Device,
    /// The tensors read so far that have values that are not finite.
    damage: RefCell<Vec<NonFinite>>,
}

impl Weights {
    /// Maps the weights of a folder into memory: `model.safetensors`, or the shards in its index, or if neither exists,
    /// `pytorch_model.bin` likewise.
    pub fn open(folder: &Path, precision: Precision, device: &Device) -> Result<Self> {
        let (source, files) = match files_of(folder)? {
            WeightFiles::Safetensors(files) => {
                for file in &files {
                    check_header(file)?;
                }
                (TensorSource::Mapped(Mapped::open(&files)?), files)
            }
            WeightFiles::Pickled(files) => (TensorSource::Pickled(Pickled::open(&files)?), files),
        };
        let place: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        let names = files.iter().filter_map(|f| f.file_name()?.to_str());
        Ok(Self {
            files: names.map(str::to_owned).collect(),
            ..Self::new(source, place.join(", "), precision, device)
        })
    }

    fn new(source: TensorSource, place: String, precision: Precision, device: &Device) -> Self {
        Self {
            source,
            place,
            files: Vec::new(),
            prefix: "",
            renamed: Renamed::new(),
            read: RefCell::default(),
            precision,
            device: device.clone(),
            damage: RefCell::default(),
        }
    }

    /// The names of the opened files.
    pub fn files(&self) -> Vec<String> {
        self.files.clone()
    }

    /// Reads a safetensors file that is embedded in the binary.
    pub fn embedded(bytes: &'static [u8], precision: Precision, device: &Device) -> Result<Self> {
        let parsed = SafeTensors::deserialize(bytes).map_err(|e| {
            Error::bad_file(
                "(embedded demo model)",
                e.to_string(),
                "This binary is damaged; build it again.",
            )
        })?;
        let source = TensorSource::Embedded(parsed);
        Ok(Self::new(source, "the binary".into(), precision, device))
    }

    /// Weights from a GGUF file.
    pub fn gguf(checkpoint: Checkpoint, precision: Precision, device: &Device) -> Self {
        let place = checkpoint.gguf.path().display().to_string();
        Self::new(TensorSource::Gguf(checkpoint), place, precision, device)
    }

    /// Random weights from a seed, for tests.
    pub fn random(seed: u64, precision: Precision, device: &Device) -> Self {
        Self::new(
            TensorSource::Random(seed),
            format!("seed {seed}"),
            precision,
            device,
        )
    }

    /// Determines the file's tensor names: chooses the prefix under which the tensors exist that every checkpoint of the family
    /// has; if there is none, removes the wrappers of other programs. Returns an example of a name and its form in the file, if
    /// they differ.
    pub fn settle_names(&mut self, probes: &NameProbes<'_>) -> Option<(String, String)> {
        let found = |weights: &Self, prefix: &str| {
            let there = |probe: &&String| weights.exists(&format!("{prefix}{probe}"));
            probes.first.iter().filter(there).count()
        };
        let best = |weights: &Self| {
            let ranked = probes.prefixes.iter().rev().copied();
            ranked
                .map(|prefix| (found(weights, prefix), prefix))
                .max_by_key(|(count, _)| *count)
                .filter(|(count, _)| *count > 0)
        };
        let direct = best(self);
        self.prefix = direct.map_or("", |(_, prefix)| prefix);
        if direct.is_some_and(|(count, _)| count == probes.first.len()) {
            return None;
        }
        let renamed = names::unwrap(self.names().into_iter(), probes)?;
        let shown = renamed
            .iter()
            .find(|(name, _)| probes.first.iter().any(|probe| name.ends_with(probe)))
            .or_else(|| renamed.first_key_value())
            .map(|(name, stored)| (name.clone(), stored.clone()));
        let before = std::mem::replace(&mut self.renamed, renamed);
        let unwrapped = best(self);
        if unwrapped.map_or(0, |(count, _)| count) < direct.map_or(0, |(count, _)| count) {
            self.renamed = before;
            return None;
        }
        self.prefix = unwrapped.map_or("", |(_, prefix)| prefix);
        shown
    }

    /// The names of all tensors in the file; empty for random weights.
    fn names(&self) -> Vec<&str> {
        match &self.source {
            TensorSource::Mapped(m) => m.tensors().map(|(name, _)| name).collect(),
            TensorSource::Embedded(s) => s.names(),
            TensorSource::Pickled(p) => p.names().collect(),
            TensorSource::Gguf(g) => g.gguf.tensors().map(|(name, _)| name).collect(),
            TensorSource::Random(_) => Vec::new(),
        }
    }

    /// A name under the chosen prefix.
    pub(in crate::model::checkpoint) fn prefixed(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Refuses a tensor, by its name in the file, that is missing or has another shape.
    pub(in crate::model::checkpoint) fn check_shape(
        &self,
        stored: &str,
        shape: &[usize],
    ) -> Result<()> {
        let missing = || Error::MissingTensor {
            name: stored.to_owned(),
            place: self.place.clone(),
            holds: names::holds(self.names(), stored),
        };
        let found = match &self.source {
            TensorSource::Mapped(m) => m.get(stored).ok_or_else(missing)?.shape().to_vec(),
            TensorSource::Embedded(s) => s.tensor(stored).map_err(|_| missing())?.shape().to_vec(),
            TensorSource::Pickled(_) | TensorSource::Gguf(_) | TensorSource::Random(_) => {
                return Err(missing());
            }
        };
        if found == shape {
            return Ok(());
        }
        Err(Error::TensorShape {
            name: stored.to_owned(),
            expected: shape.to_vec(),
            found,
        })
    }

    /// A tensor's name in the file.
    pub(in crate::model::checkpoint) fn stored<'a>(&'a self, full: &'a str) -> &'a str {
        self.renamed.get(full).map_or(full, String::as_str)
    }

    fn exists(&self, full: &str) -> bool {
        let full = self.stored(full);
        match &self.source {
            TensorSource::Mapped(m) => m.get(full).is_some(),
            TensorSource::Embedded(s) => s.tensor(full).is_ok(),
            TensorSource::Pickled(p) => p.contains(full),
            TensorSource::Gguf(g) => g.names.exists(&g.gguf, full),
            TensorSource::Random(_) => true,
        }
    }

    /// Whether these are random weights, which contain any requested tensor.
    pub fn is_made_up(&self) -> bool {
        matches!(self.source, TensorSource::Random(_))
    }

    /// A hint on the contents of the file, for the error about a missing tensor.
    pub fn holds(&self, wanted: &str) -> String {
        names::holds(self.names(), wanted)
    }

    /// Whether a tensor exists under the chosen prefix.
    pub fn has(&self, name: &str) -> bool {
        self.exists(&format!("{}{name}", self.prefix))
    }

    /// The first of these names that the file contains, without its prefix; none for random weights.
    pub fn find(&self, prefixes: &[&'static str], names: &[String]) -> Option<String> {
        if matches!(self.source, TensorSource::Random(_)) {
            return None;
        }
        let all = names
            .iter()
            .flat_map(|name| prefixes.iter().map(move |prefix| format!("{prefix}{name}")));
        all.into_iter().find(|full| self.exists(full))
    }

    /// Does `work` without the chosen prefix, for tensors outside of it such as the unembedding.
    pub fn at_root<T>(&mut self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let prefix = std::mem::take(&mut self.prefix);
        let out = work(self);
        self.prefix = prefix;
        out
    }

    /// The tensors of the file that were not read, by its own names.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        let left = |name: &&str| match &self.source {
            TensorSource::Gguf(g) => !g.gguf.was_requested(name),
            TensorSource::Mapped(_)
            | TensorSource::Embedded(_)
            | TensorSource::Pickled(_)
            | TensorSource::Random(_) => !read.contains(*name),
        };
        let names = self.names().into_iter();
        names.filter(left).map(str::to_owned).collect()
    }

    /// Whether a tensor under the chosen prefix has the same numbers as one under its full name.
    pub fn same(&self, name: &str, other: &str) -> Result<bool> {
        /// The number of rows that are compared at once.
        const ROWS: usize = 4096;
        let full = format!("{}{name}", self.prefix);
        if let TensorSource::Mapped(m) = &self.source
            && let (Some(a), Some(b)) = (m.get(self.stored(&full)), m.get(self.stored(other)))
            && a.dtype() == b.dtype()
        {
            let mut read = self.read.borrow_mut();
            read.insert(self.stored(&full).to_owned());
            read.insert(self.stored(other).to_owned());
            return Ok(a.shape() == b.shape() && a.data() == b.data());
        }
        let (a, b) = (self.load(&full)?, self.load(other)?);
        if a.dims() != b.dims() {
            return Ok(false);
        }
        let rows = a.dim(0)?;
        for start in (0..rows).step_by(ROWS) {
            let part = |t: &Tensor| -> Result<Vec<f32>> {
                let part = t.narrow(0, start, ROWS.min(rows - start))?;
                Ok(part.to_dtype(DType::F32)?.flatten_all()?.host_vec1()?)
            };
            if part(&a)? != part(&b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A tensor in the compute dtype.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.read(name, shape, self.precision.compute(), false)
    }

    /// A tensor in f32, for norms and other small tensors.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.read(name, shape, DType::F32, false)
    }

    /// A tensor as it is stored, by its full name.
    fn load(&self, full: &str) -> Result<Tensor> {
        let stored = self.stored(full);
        let missing = || Error::MissingTensor {
            name: full.to_owned(),
            place: self.place.clone(),
            holds: names::holds(self.names(), full),
        };
        self.read.borrow_mut().insert(stored.to_owned());
        Ok(match &self.source {
            TensorSource::Mapped(m) => m.get(stored).ok_or_else(missing)?.load(&Device::Cpu)?,
            TensorSource::Embedded(s) => s
                .tensor(stored)
                .map_err(|_| missing())?
                .load(&Device::Cpu)?,
            TensorSource::Pickled(p) => p.get(stored)?.ok_or_else(missing)?.load()?,
            TensorSource::Gguf(g) => g.piece(stored)?.ok_or_else(missing)?.numbers()?,
            TensorSource::Random(_) => return Err(missing()),
        })
    }

    /// A tensor in a dtype. On the CPU an f16 or bf16 matrix stays as it is, because the kernels widen it while reading, unless
    /// it is to be quantized.
    fn read(&self, name: &str, shape: &[usize], dtype: DType, matrix: bool) -> Result<Tensor> {
        let full = format!("{}{name}", self.prefix);
        let found = match &self.source {
            TensorSource::Random(seed) => random(*seed, &full, shape)?,
            TensorSource::Mapped(_)
            | TensorSource::Embedded(_)
            | TensorSource::Pickled(_)
            | TensorSource::Gguf(_) => self.load(&full)?,
        };
        if found.dtype().is_int() {
            return Err(Error::Config {
                what: format!(
                    "tensor `{full}` is stored in whole numbers ({}), so the weights are quantized, which config.json does not say",
                    found.dtype().as_str()
                ),
                next: "Take the original checkpoint (with --dtype q8_0 if memory is short) or a GGUF file.".into(),
            });
        }
        if found.dims() != shape {
            return Err(Error::TensorShape {
                name: full,
                expected: shape.to_vec(),
                found: found.dims().to_vec(),
            });
        }
        self.release(found.elem_count());
        let narrow = matches!(found.dtype(), DType::F16 | DType::BF16)
            && dtype == DType::F32
            && self.precision != Precision::Q8
            && self.device.is_cpu();
        let dtype = if matrix && narrow {
            found.dtype()
        } else {
            dtype
        };
        let kept = found.to_dtype(dtype)?;
        let bad = non_finite::count(&kept)?;
        if bad > 0 {
            let stored = non_finite::count(&found)?;
            self.note_damage(full, if stored > 0 { stored } else { bad }, stored > 0);
        }
        Ok(kept.on_device(&self.device)?)
    }

    /// Records a tensor with values that are not finite.
    fn note_damage(&self, name: String, count: usize, stored: bool) {
        let mut damage = self.damage.borrow_mut();
        // A tensor may be read several times.
        if count > 0 && !damage.iter().any(|d| d.name == name) {
            damage.push(NonFinite {
                name,
                count,
                stored,
            });
        }
    }

    /// The tensors with values that are not finite.
    pub fn damage(&self) -> Vec<NonFinite> {
        self.damage.take()
    }

    /// Releases the pages of the memory map after `numbers` numbers were copied out of it; skipped for small tensors, because
    /// the call is expensive.
    fn release(&self, numbers: usize) {
        if numbers < 1 << 18 {
            return;
        }
        match &self.source {
            TensorSource::Mapped(m) => m.release(),
            TensorSource::Pickled(p) => p.release(),
            TensorSource::Gguf(g) => g.gguf.release(),
            TensorSource::Embedded(_) | TensorSource::Random(_) => {}
        }
    }

    /// A matrix, `[out, in]` whatever its layout in the file.
    pub fn matrix(
        &self,
        name: &str,
        input: usize,
        output: usize,
        layout: MatrixLayout,
    ) -> Result<LoadedMatrix<'_>> {
        let name = format!("{name}.weight");
        if let Some(blocks) = self.stored_blocks(&name, input, output)? {
            return Ok(blocks);
        }
        let turned = matches!(self.source, TensorSource::Gguf(_));
        let read = |shape: [usize; 2]| self.read(&name, &shape, self.precision.compute(), true);
        Ok(LoadedMatrix::Dense(match layout {
            MatrixLayout::InOut if turned => read([output, input])?,
            MatrixLayout::OutIn => read([output, input])?,
            MatrixLayout::InOut => read([input, output])?.t()?.contiguous()?,
        }))
    }

    /// The quantized blocks of a matrix, if the file has any and they are to be kept.
    fn stored_blocks(
        &self,
        name: &str,
        input: usize,
        output: usize,
    ) -> Result<Option<LoadedMatrix<'_>>> {
        let (Precision::Stored(_), TensorSource::Gguf(checkpoint)) = (self.precision, &self.source)
        else {
            return Ok(None);
        };
        let full = format!("{}{name}", self.prefix);
        // A missing tensor or a wrong shape is left to `get`, which reports it.
        let blocks = checkpoint
            .piece(&full)?
            .filter(|p| p.dtype.block_size() > 1 && p.shape == [output, input])
            .map(|piece| {
                let bad = non_finite::count_blocks(piece.dtype, &piece.bytes);
                self.note_damage(full, bad, true);
                LoadedMatrix::Blocks {
                    kind: piece.dtype,
                    out: output,
                    input,
                    bytes: piece.bytes,
                }
            });
        Ok(blocks)
    }

    /// A matrix `[out, in]` and its bias `[out]`.
    pub fn linear(
        &self,
        name: &str,
        input: usize,
        output: usize,
        layout: MatrixLayout,
        bias: bool,
    ) -> Result<Linear> {
        let matrix = self.matrix(name, input, output, layout)?;
        let bias = bias
            .then(|| self.get(&format!("{name}.bias"), &[output]))
            .transpose()?;
        self.keep(name, matrix, bias)
    }

    /// Matrices that share one tensor: for each, the ranges of its rows in order.
    pub fn fused<const N: usize>(
        &self,
        name: &str,
        input: usize,
        parts: &[Vec<Range<usize>>; N],
        layout: MatrixLayout,
        bias: bool,
    ) -> Result<[Linear; N]> {
        let output = parts.iter().flatten().map(Range::len).sum();
        let whole = self.matrix(name, input, output, layout)?;
        let whole_bias = bias
            .then(|| self.get(&format!("{name}.bias"), &[output]))
            .transpose()?;
        let part = |rows: &Vec<_>| {
            let bias = whole_bias.as_ref().map(|b| select(b, rows)).transpose()?;
            self.keep(name, whole.rows(rows)?, bias)
        };
        let loaded: Vec<Linear> = parts.iter().map(part).collect::<Result<_>>()?;
        loaded.try_into().map_err(|_| Error::MissingTensor {
            name: name.to_owned(),
            place: "the fused projection".into(),
            holds: "It has fewer parts than it should".into(),
        })
    }

    /// A table of vectors `[rows, width]`, which may also be used as the unembedding.
    pub fn table(&self, name: &str, rows: usize, width: usize) -> Result<Linear> {
        self.linear(name, width, rows, MatrixLayout::OutIn, false)
    }

    fn keep(&self, name: &str, matrix: LoadedMatrix<'_>, bias: Option<Tensor>) -> Result<Linear> {
        // Q8_0 blocks are 32 wide; other widths stay dense.
        match (self.precision, &matrix) {
            (Precision::Q8, LoadedMatrix::Dense(weight)) if weight.dim(1)? % 32 == 0 => {
                let full = format!("{}{name}.weight", self.prefix);
                self.note_damage(full, non_finite::past_q8(weight)?, false);
                Linear::quantized(weight, bias)
            }
            _ => {
                let linear = matrix.into_linear(bias, &self.device)?;
                self.release(linear.elements()?);
                Ok(linear)
            }
        }
    }

    /// A fingerprint of names, shapes and samples of the data: equal files have equal fingerprints, other models different
    /// ones.
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
            TensorSource::Mapped(m) => m
                .tensors()
                .for_each(|(name, view)| take(name, view.shape(), view.data())),
            TensorSource::Embedded(s) => {
                let mut views = s.tensors();
                views.sort_by(|a, b| a.0.cmp(&b.0));
                views
                    .iter()
                    .for_each(|(name, view)| take(name, view.shape(), view.data()));
            }
            TensorSource::Pickled(p) => p.names().for_each(|name| {
                if let Some((shape, data)) = p.sample(name) {
                    take(name, shape, data);
                }
            }),
            TensorSource::Gguf(g) => g.gguf.tensors().for_each(|(name, info)| {
                take(name, &info.shape, g.gguf.bytes(name).unwrap_or(&[]));
            }),
            TensorSource::Random(seed) => digest.write(&seed.to_le_bytes()),
        }
        digest.finish()
    }
}
