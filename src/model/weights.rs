//! Weights: named tensors from memory-mapped safetensors, from bytes in the binary, or from a seed.
//!
//! Invariant: a tensor arrives with the shape that was asked for, or an error names it.
//! To add a format, add a variant of `Source` and its arm in `Weights::read`.

use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::Distribution;
use safetensors::SafeTensors;

use super::linear::Linear;
use crate::error::{Error, Result};

/// Where tensors come from.
enum Source {
    Mapped(MmapedSafetensors),
    Embedded(SafeTensors<'static>),
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
}

impl Precision {
    /// The dtype of activations.
    pub fn compute(self) -> DType {
        match self {
            Self::Dense(dtype) => dtype,
            Self::Q8 => DType::F32,
        }
    }

    /// As flags and headers write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense(dtype) => dtype.as_str(),
            Self::Q8 => "q8_0",
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
    /// Maps the safetensors files of a folder: `model.safetensors`, or the shards its index names.
    pub fn open(folder: &Path, precision: Precision, device: &Device) -> Result<Self> {
        let files = files_of(folder)?;
        for file in &files {
            check_header(file)?;
        }
        let source = map(&files)?;
        let place = files
            .iter()
            .map(|f| f.display().to_string())
            .collect::<Vec<_>>()
            .join(", ");
        Ok(Self {
            source: Source::Mapped(source),
            place,
            prefix: "",
            precision,
            device: device.clone(),
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
        })
    }

    /// Makes up every tensor from a seed, for tests.
    pub fn random(seed: u64, precision: Precision, device: &Device) -> Self {
        Self {
            source: Source::Random(seed),
            place: format!("seed {seed}"),
            prefix: "",
            precision,
            device: device.clone(),
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
            Source::Mapped(m) => m.get(full).is_ok(),
            Source::Embedded(s) => s.tensor(full).is_ok(),
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
            Source::Mapped(m) => m.get(&full).map_err(|_| missing())?.load(&Device::Cpu)?,
            Source::Embedded(s) => s.tensor(&full).map_err(|_| missing())?.load(&Device::Cpu)?,
            Source::Random(seed) => random(*seed, &full, shape)?,
        };
        if found.dims() != shape {
            return Err(Error::TensorShape {
                name: full,
                expected: shape.to_vec(),
                found: found.dims().to_vec(),
            });
        }
        Ok(found.to_dtype(dtype)?.to_device(&self.device)?)
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
        let weight = match layout {
            Layout::OutIn => self.get(&format!("{name}.weight"), &[output, input])?,
            Layout::InOut => self
                .get(&format!("{name}.weight"), &[input, output])?
                .t()?
                .contiguous()?,
        };
        let bias = bias
            .then(|| self.get(&format!("{name}.bias"), &[output]))
            .transpose()?;
        self.keep(weight, bias)
    }

    /// A stack of matrices that share one tensor, `parts` outputs each, in order.
    pub fn fused(
        &self,
        name: &str,
        input: usize,
        parts: &[usize],
        layout: Layout,
        bias: bool,
    ) -> Result<Vec<Linear>> {
        let output = parts.iter().sum();
        let whole = match layout {
            Layout::OutIn => self.get(&format!("{name}.weight"), &[output, input])?,
            Layout::InOut => self
                .get(&format!("{name}.weight"), &[input, output])?
                .t()?
                .contiguous()?,
        };
        let whole_bias = bias
            .then(|| self.get(&format!("{name}.bias"), &[output]))
            .transpose()?;
        let mut start = 0;
        parts
            .iter()
            .map(|&rows| {
                // Copies, so that no part keeps the whole tensor alive.
                let weight = whole.narrow(0, start, rows)?.copy()?;
                let bias = whole_bias
                    .as_ref()
                    .map(|b| b.narrow(0, start, rows)?.copy())
                    .transpose()?;
                start += rows;
                self.keep(weight, bias)
            })
            .collect()
    }

    fn keep(&self, weight: Tensor, bias: Option<Tensor>) -> Result<Linear> {
        // Q8_0 blocks are 32 wide; a narrower input stays dense.
        match self.precision {
            Precision::Q8 if weight.dim(1)? % 32 == 0 => Linear::quantized(&weight, bias),
            Precision::Q8 | Precision::Dense(_) => Linear::dense(weight, bias),
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
            Source::Mapped(m) => {
                let mut views = m.tensors();
                views.sort_by(|a, b| a.0.cmp(&b.0));
                views
                    .iter()
                    .for_each(|(name, view)| take(name, view.shape(), view.data()));
            }
            Source::Embedded(s) => {
                let mut views = s.tensors();
                views.sort_by(|a, b| a.0.cmp(&b.0));
                views
                    .iter()
                    .for_each(|(name, view)| take(name, view.shape(), view.data()));
            }
            Source::Random(seed) => digest.write(&seed.to_le_bytes()),
        }
        digest.finish()
    }
}

/// The safetensors files of a folder.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return Err(Error::NotAModel {
            given: folder.display().to_string(),
            found: "the folder has neither model.safetensors nor model.safetensors.index.json"
                .into(),
        });
    }
    let text = std::fs::read_to_string(&index).map_err(|e| Error::io(&index, e))?;
    let next = "Download the index again.";
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| Error::bad_file(&index, e.to_string(), next))?;
    let map = json
        .get("weight_map")
        .and_then(|m| m.as_object())
        .ok_or_else(|| Error::bad_file(&index, "there is no weight_map", next))?;
    let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let files: Vec<PathBuf> = names.iter().map(|n| folder.join(n)).collect();
    match files.iter().find(|f| !f.exists()) {
        Some(gone) => Err(Error::bad_file(
            gone,
            "the index names this shard, and it is not there",
            "Finish the download.",
        )),
        None => Ok(files),
    }
}

/// Refuses a file whose header does not fit its length: a download that stopped half way.
fn check_header(file: &Path) -> Result<()> {
    use std::io::Read;
    let mut reader = std::fs::File::open(file).map_err(|e| Error::io(file, e))?;
    let length = reader.metadata().map_err(|e| Error::io(file, e))?.len();
    let next = "It is truncated or no safetensors file; download it again.";
    let mut first = [0u8; 8];
    reader.read_exact(&mut first).map_err(|_| {
        Error::bad_file(
            file,
            format!("it has {length} bytes, too few for a header"),
            next,
        )
    })?;
    let header = u64::from_le_bytes(first);
    if header > length.saturating_sub(8) || header > 100_000_000 {
        return Err(Error::bad_file(
            file,
            format!("its header asks for {header} bytes and the file has {length}"),
            next,
        ));
    }
    let mut text = vec![0u8; header as usize];
    reader
        .read_exact(&mut text)
        .map_err(|e| Error::io(file, e))?;
    let json: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|e| Error::bad_file(file, format!("its header is no JSON ({e})"), next))?;
    let end = json
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, t)| t.get("data_offsets")?.get(1)?.as_u64())
        .max()
        .unwrap_or(0);
    if 8 + header + end > length {
        return Err(Error::bad_file(
            file,
            format!(
                "its tensors need {} bytes and the file has {length}",
                8 + header + end
            ),
            next,
        ));
    }
    Ok(())
}

/// Maps one file: the only way that formats of our own see the bytes of a checkpoint.
#[allow(unsafe_code)]
pub(crate) fn map_file(path: &Path) -> Result<memmap2::Mmap> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    // SAFETY: the file is opened read-only and mapped privately; as for every program that maps a checkpoint,
    // truncating the file while it is loaded is outside the contract. Tensors are copied out of the map.
    unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}

#[allow(unsafe_code)]
fn map(files: &[PathBuf]) -> Result<MmapedSafetensors> {
    // SAFETY: the files are opened read-only and mapped privately; as for every program that maps a checkpoint,
    // truncating the file while it is loaded is outside the contract. Tensors are copied out of the map.
    unsafe { MmapedSafetensors::multi(files) }.map_err(|e| {
        let place = files.first().cloned().unwrap_or_default();
        Error::bad_file(
            place,
            e.to_string(),
            "It is no valid safetensors file; download it again.",
        )
    })
}

/// Seeded values: norm gains near one, biases and matrices around zero with non-default size, so that a
/// forgotten bias or gain changes the numbers.
fn random(seed: u64, name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut digest = crate::model::Fingerprint::default();
    digest.write(&seed.to_le_bytes());
    digest.write(name.as_bytes());
    let mut rng = StdRng::seed_from_u64(digest.finish());
    let count: usize = shape.iter().product();
    let (centre, spread) = match shape {
        [_] if name.ends_with("weight") => (1.0, 0.2),
        [_] => (0.0, 0.2),
        [_, columns, ..] => (0.0, 1.2 / (*columns as f64).sqrt()),
        [] => (0.0, 1.0),
    };
    let values: Vec<f32> = normals(&mut rng, count)
        .into_iter()
        .map(|n| (centre + spread * f64::from(n)) as f32)
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Standard normal numbers.
pub fn normals(rng: &mut StdRng, count: usize) -> Vec<f32> {
    rand_distr::StandardNormal
        .sample_iter(rng)
        .take(count)
        .collect()
}
