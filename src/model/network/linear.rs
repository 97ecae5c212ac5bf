//! Dense products: the one seam through which every weight matrix is applied.
//!
//! Invariant: `forward(x)` is `x Wᵀ + b` for `W` of shape `[out, in]`, however `W` is stored. On the CPU every product is one of
//! [`crate::model::kernels`], which widen f16 and bf16 exactly: weights that a file has so stay so, and no number changes.
//! To add another storage, add a variant of `Storage`.

use std::ops::Range;

use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Storage as Stored, Tensor};
use half::slice::HalfFloatSliceExt;

use super::quantized::{Blocks, mismatch, with_rows};
use crate::error::{Error, Result};
use crate::model::kernels::vocabulary::Matrix;
use crate::model::kernels::{self, PlainWeights};

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

/// How a weight matrix is kept.
#[derive(Clone, Debug)]
enum Storage {
    /// `[out, in]`, in the compute dtype or, on the CPU, as a file stores it.
    Dense(Tensor),
    /// Blocks of few bits, multiplied as they are. Gradients do not pass.
    Quantized(Blocks),
}

/// A weight matrix and its bias.
#[derive(Clone, Debug)]
pub struct Linear {
    storage: Storage,
    /// `[out]`, in the compute dtype.
    pub bias: Option<Tensor>,
    /// Rows of the weight.
    pub out: usize,
}

impl Linear {
    /// Keeps `weight` `[out, in]` as it is.
    pub fn dense(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let out = weight.dim(0)?;
        Ok(Self {
            storage: Storage::Dense(weight),
            bias,
            out,
        })
    }

    /// Quantizes `weight` `[out, in]` to Q8_0 (blocks of 32 along the input).
    pub fn quantized(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self::blocks(
            Blocks::quantize(weight, GgmlDType::Q8_0)?,
            bias,
        ))
    }

    /// Keeps the blocks of a weight `[out, in]` as they are.
    pub fn blocks(weight: Blocks, bias: Option<Tensor>) -> Self {
        Self {
            out: weight.out(),
            storage: Storage::Quantized(weight),
            bias,
        }
    }

    /// `[.., in] -> [.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.product(x)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// `x Wᵀ` without the bias.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        match &self.storage {
            Storage::Dense(weight) => dense(x, weight),
            Storage::Quantized(blocks) => blocks.product(x),
        }
    }

    /// `x` `[n, in]` times some rows of the weight: `[n, rows]`, without the bias.
    pub fn part(&self, x: &Tensor, rows: Range<usize>) -> Result<Tensor> {
        match &self.storage {
            Storage::Dense(weight) => dense(x, &weight.narrow(0, rows.start, rows.len())?),
            Storage::Quantized(blocks) => blocks.part(x, rows),
        }
    }

    /// The same in f32, whatever the dtype of `x` and of the bias.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return Ok(self.forward(x)?.to_dtype(DType::F32)?);
        }
        let y = self.product(&x.to_dtype(DType::F32)?)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(&bias.to_dtype(DType::F32)?)?,
            None => y,
        })
    }

    /// Lends the weight, as it is stored, to what the CPU's kernels do with it; nothing where they have no kernel for it.
    pub fn lend<R>(&self, work: impl FnOnce(Matrix) -> R) -> Result<Option<R>> {
        match &self.storage {
            Storage::Dense(weight) if has_kernel(weight) => {
                let input = weight.dim(1)?;
                Ok(Some(plain(weight, |numbers| {
                    work(Matrix::Plain(numbers, input))
                })?))
            }
            Storage::Dense(_) => Ok(None),
            Storage::Quantized(blocks) => {
                Ok(blocks.packed().map(|packed| work(Matrix::Packed(packed))))
            }
        }
    }

    /// Rows of the weight as a table: ids `[n]` to `[n, in]`, in `dtype`.
    pub fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(match &self.storage {
            Storage::Dense(weight) => weight.index_select(ids, 0)?.to_dtype(dtype)?,
            Storage::Quantized(blocks) => blocks.rows(ids)?.to_dtype(dtype)?,
        })
    }

    /// The whole weight, `[out, in]`, f32.
    pub fn weight(&self) -> Result<Tensor> {
        match &self.storage {
            Storage::Dense(weight) => Ok(weight.to_dtype(DType::F32)?),
            Storage::Quantized(blocks) => blocks.unpack(),
        }
    }

    /// One column of the weight, `[out]`, f32: what input unit `i` writes.
    pub fn column(&self, i: usize) -> Result<Tensor> {
        match &self.storage {
            Storage::Dense(weight) => Ok(weight
                .narrow(1, i, 1)?
                .squeeze(1)?
                .to_dtype(DType::F32)?
                .contiguous()?),
            Storage::Quantized(blocks) => blocks.column(i),
        }
    }
}

/// A weight matrix `[out, in]` on its way from a file into a [`Linear`].
#[derive(Clone, Debug)]
pub enum LoadedMatrix {
    /// In the compute dtype or, on the CPU, as the file stores it; on its device.
    Dense(Tensor),
    /// Blocks as a GGUF file stores them, row after row.
    Blocks {
        /// The kind of block.
        kind: GgmlDType,
        out: usize,
        /// Columns, a multiple of the block's length.
        input: usize,
        /// The rows' bytes.
        bytes: Vec<u8>,
    },
}

impl LoadedMatrix {
    /// Some of the rows, in this order, in storage of their own.
    pub fn rows(&self, ranges: &[Range<usize>]) -> Result<Self> {
        Ok(match self {
            Self::Dense(whole) => Self::Dense(select(whole, ranges)?),
            Self::Blocks {
                kind, input, bytes, ..
            } => {
                let row = input / kind.block_size() * kind.type_size();
                let chosen = ranges
                    .iter()
                    .flat_map(|r| bytes[r.start * row..r.end * row].iter().copied());
                Self::Blocks {
                    kind: *kind,
                    out: ranges.iter().map(Range::len).sum(),
                    input: *input,
                    bytes: chosen.collect(),
                }
            }
        })
    }

    /// Ends the way: `device` is where blocks go.
    pub fn into_linear(self, bias: Option<Tensor>, device: &Device) -> Result<Linear> {
        match self {
            Self::Dense(weight) => Linear::dense(weight, bias),
            Self::Blocks {
                kind,
                out,
                input,
                bytes,
            } => {
                let blocks = Blocks::from_bytes(kind, (out, input), &bytes, device)?;
                Ok(Linear::blocks(blocks, bias))
            }
        }
    }
}

/// `x Wᵀ` in the dtype of `x`: our kernels on the CPU, candle's elsewhere.
fn dense(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (out, input) = weight.dims2()?;
    let mut dims = x.dims().to_vec();
    let width = dims.pop();
    if width != Some(input) {
        return Err(mismatch(x, out, input));
    }
    if x.device().is_cpu() && has_kernel(weight) {
        if !x.track_op() {
            return with_rows(x, (out, input), |x, y| numbers(weight, x, y));
        }
        let y = x.to_dtype(DType::F32)?.contiguous()?;
        return Ok(y
            .apply_op1(FrozenProduct(weight.clone()))?
            .to_dtype(x.dtype())?);
    }
    let rows: usize = dims.iter().product();
    let y = x.reshape((rows, input))?.matmul(&weight.t()?)?;
    dims.push(out);
    Ok(y.reshape(dims)?)
}

/// Whether the CPU's kernels multiply with it.
fn has_kernel(weight: &Tensor) -> bool {
    let ours = matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16);
    ours && weight.device().is_cpu() && weight.is_contiguous()
}

/// Lends the numbers of a weight on the CPU.
fn plain<R>(weight: &Tensor, work: impl FnOnce(PlainWeights) -> R) -> candle_core::Result<R> {
    let (storage, layout) = weight.storage_and_layout();
    let span = layout.start_offset()..layout.start_offset() + weight.elem_count();
    Ok(work(match &*storage {
        Stored::Cpu(CpuStorage::F32(w)) => PlainWeights::F32(&w[span]),
        Stored::Cpu(CpuStorage::F16(w)) => PlainWeights::F16(w[span].reinterpret_cast()),
        Stored::Cpu(CpuStorage::BF16(w)) => PlainWeights::Bf16(w[span].reinterpret_cast()),
        Stored::Cpu(_) | Stored::Cuda(_) | Stored::Metal(_) => {
            candle_core::bail!("no kernel for weights in {:?}", weight.dtype())
        }
    }))
}

/// The kernel for the weight's dtype.
fn numbers(weight: &Tensor, x: &[f32], y: &mut [f32]) -> candle_core::Result<()> {
    let input = weight.dim(1)?;
    plain(weight, |numbers| kernels::dense(numbers, input, x, y))
}

/// A product on the CPU whose weight is no variable: a gradient passes to `x`, and none is made for the weight.
struct FrozenProduct(Tensor);

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (out, input) = self.0.dims2()?;
        let CpuStorage::F32(values) = storage else {
            candle_core::bail!("{} takes f32", self.name());
        };
        let mut dims = layout.dims().to_vec();
        let count = layout.shape().elem_count();
        dims.pop();
        dims.push(out);
        let mut y = vec![0f32; count / input * out];
        numbers(&self.0, &values[layout.start_offset()..][..count], &mut y)?;
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, by: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (out, input) = self.0.dims2()?;
        let rows = by.reshape((by.elem_count() / out, out))?;
        let gradient = rows.matmul(&self.0.to_dtype(DType::F32)?)?;
        debug_assert_eq!(x.elem_count() / input, rows.dim(0)?);
        Ok(Some(gradient.reshape(x.dims())?))
    }
}

/// Rows of a tensor in storage of their own, so that no part keeps the whole alive.
pub fn select(whole: &Tensor, ranges: &[Range<usize>]) -> Result<Tensor> {
    let parts = ranges
        .iter()
        .map(|r| whole.narrow(0, r.start, r.len()))
        .collect::<candle_core::Result<Vec<_>>>()?;
    Ok(match parts.as_slice() {
        [one] => one.force_contiguous()?,
        many => Tensor::cat(many, 0)?,
    })
}
