//! Products with weight matrices; every matrix of a model is applied here.
//!
//! Invariant: `forward(x)` is `x Wᵀ + b` for `W` of shape `[out, in]`, however `W` is stored. On the CPU every product is one
//! of [`crate::model::kernels`], which widen f16 and bf16 exactly: a weight stays in the dtype of its file, and its values do
//! not change.
//! To add another storage, add a variant of `Storage`.

use std::borrow::Cow;
use std::ops::{Deref, Range};

use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Storage as Stored, Tensor};
use half::slice::HalfFloatSliceExt;

use super::numbers::{elsewhere, on_numbers, plain, wide};
use super::quantized::{Blocks, mismatch};
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::host::lent;
use crate::model::kernels::vocabulary::Matrix;
use crate::model::kernels::{self, PlainWeights, Product, StoredRows};

/// Rows of a weight that a device widens at a time.
const WIDENED: usize = 8192;

/// How the weight matrices of a model are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Dense, in this dtype.
    Dense(DType),
    /// Q8_0 blocks; activations in f32.
    Q8,
    /// The quantized blocks of a GGUF file, named as llama.cpp names such a file; activations in f32.
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

    /// The name, as flags and headers write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense(dtype) => dtype.as_str(),
            Self::Q8 => "q8_0",
            Self::Stored(name) => name,
        }
    }

    /// Refuses gradients where weights are in quantized blocks on a device: candle's product with them has no gradient.
    pub fn check_gradients(self, device: &Device) -> Result<()> {
        match self {
            Self::Dense(_) => Ok(()),
            Self::Q8 | Self::Stored(_) if device.is_cpu() => Ok(()),
            Self::Q8 | Self::Stored(_) => Err(Error::argument(
                "--dtype",
                self.name(),
                "f32 or f16 for a gradient, which does not pass through weights kept in blocks on a device (--device cpu lets it)",
            )),
        }
    }
}

/// The storage of one weight matrix.
#[derive(Clone, Debug)]
enum Storage {
    /// `[out, in]`, in the compute dtype or, on the CPU, in the dtype of the file.
    Dense(Tensor),
    /// Quantized blocks, multiplied without unpacking the whole matrix.
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
    /// A matrix from a dense `weight`, `[out, in]`, stored as it is.
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

    /// A matrix from quantized blocks `[out, in]`, stored as they are.
    pub fn blocks(weight: Blocks, bias: Option<Tensor>) -> Self {
        Self {
            out: weight.out(),
            storage: Storage::Quantized(weight),
            bias,
        }
    }

    /// `[.., in] -> [.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.with_bias(self.product(x)?)
    }

    /// The products of several matrices with the same input, in a single call of the kernels if all can use them.
    pub fn forward_all<const N: usize>(linears: [&Self; N], x: &Tensor) -> Result<[Tensor; N]> {
        let products = if linears.iter().all(|l| l.is_for_kernels(x)) {
            let rows = linears.map(|l| (l, 0..l.out));
            products(x, &rows)?
        } else {
            let each = linears.iter().map(|l| l.product(x));
            each.collect::<Result<_>>()?
        };
        let all = products
            .into_iter()
            .zip(linears)
            .map(|(y, l)| l.with_bias(y));
        let all: Vec<Tensor> = all.collect::<Result<_>>()?;
        all.try_into()
            .map_err(|_| Error::Engine("a product for every matrix".into()))
    }

    fn with_bias(&self, y: Tensor) -> Result<Tensor> {
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(&bias.on_device(y.device())?)?,
            None => y,
        })
    }

    /// `x Wᵀ` without the bias.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        self.part(x, 0..self.out)
    }

    /// `x` `[.., in]` times some rows of the weight: `[.., rows]`, without the bias.
    /// It is computed where the weight is, and is where `x` is: in a pass that is one device.
    pub fn part(&self, x: &Tensor, rows: Range<usize>) -> Result<Tensor> {
        let there = self.device();
        if !x.device().same_device(there) {
            let own = self.part(&x.on_device(there)?, rows)?;
            return Ok(own.on_device(x.device())?);
        }
        if self.is_for_kernels(x) {
            let mut products = products(x, &[(self, rows)])?;
            return products
                .pop()
                .ok_or_else(|| Error::Engine("a product for every matrix".into()));
        }
        if self.has_kernel() && x.device().is_cpu() {
            let op = FrozenProduct {
                linear: self.clone(),
                rows,
            };
            return Ok(plain(x)?.apply_op1(op)?.to_dtype(x.dtype())?);
        }
        match &self.storage {
            Storage::Dense(weight) => dense(x, &weight.narrow(0, rows.start, rows.len())?),
            Storage::Quantized(blocks) => blocks.part(x, rows),
        }
    }

    /// `x Wᵀ + b` in f32, whatever the dtype of `x` and of the bias (in f64 for f64).
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        if !x.device().is_cpu() || x.dtype() == DType::F64 {
            return Ok(self.forward(x)?.to_dtype(wide(x.dtype()))?);
        }
        let y = self.product(&x.to_dtype(DType::F32)?)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(&bias.to_dtype(DType::F32)?)?,
            None => y,
        })
    }

    /// Calls `work` with the weight as it is stored for the CPU kernels; none if there is no kernel for it.
    pub fn lend<R>(&self, work: impl FnOnce(Matrix) -> R) -> Result<Option<R>> {
        if !self.has_kernel() {
            return Ok(None);
        }
        let held = self.hold();
        Ok(Some(match self.stored(held.as_ref(), 0..self.out)? {
            StoredRows::Plain(numbers) => work(Matrix::Plain(numbers, self.input()?)),
            StoredRows::Packed(packed, _) => work(Matrix::Packed(packed)),
        }))
    }

    /// The device that the weight is on.
    pub fn device(&self) -> &Device {
        match &self.storage {
            Storage::Dense(weight) => weight.device(),
            Storage::Quantized(blocks) => blocks.device(),
        }
    }

    /// The same matrix on another device.
    pub fn on(&self, device: &Device) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.on_device(device));
        let storage = match &self.storage {
            Storage::Dense(weight) => Storage::Dense(weight.on_device(device)?),
            Storage::Quantized(blocks) => Storage::Quantized(blocks.on(device)?),
        };
        Ok(Self {
            storage,
            bias: bias.transpose()?,
            out: self.out,
        })
    }

    /// Whether there is a CPU kernel for the weight as it is stored.
    pub fn has_kernel(&self) -> bool {
        match &self.storage {
            Storage::Dense(w) => {
                let known = matches!(w.dtype(), DType::F32 | DType::F16 | DType::BF16);
                known && w.device().is_cpu() && w.is_contiguous()
            }
            Storage::Quantized(blocks) => blocks.here().is_some(),
        }
    }

    /// The gradient with respect to the input, `[rows, in]`, of a product whose output has the gradient `by`, `[rows, out]`: `by W`,
    /// f32, on the CPU.
    ///
    /// # Errors
    ///
    /// When there is no kernel for the weight.
    pub fn adjoint(&self, by: &[f32]) -> Result<Vec<f32>> {
        self.adjoint_of(0..self.out, by)
    }

    /// As [`Linear::adjoint`], of the product with some rows of the weight.
    pub(super) fn adjoint_of(&self, rows: Range<usize>, by: &[f32]) -> Result<Vec<f32>> {
        let input = self.input()?;
        let held = self.hold();
        let mut y = vec![0f32; by.len() / rows.len().max(1) * input];
        let weights = self.stored(held.as_ref(), rows)?;
        kernels::backward(input, &weights, by, &mut y);
        Ok(y)
    }

    /// Whether the product with `x` runs in the CPU kernels, which is so if no gradient is needed.
    fn is_for_kernels(&self, x: &Tensor) -> bool {
        x.device().is_cpu() && !x.track_op() && self.has_kernel()
    }

    /// The lock on the weight's storage, with its layout; held while the kernels read it.
    fn hold(&self) -> Option<(impl Deref<Target = Stored> + '_, &Layout)> {
        match &self.storage {
            Storage::Dense(weight) => Some(lent(weight)),
            Storage::Quantized(_) => None,
        }
    }

    /// Some rows of the weight in the form that the kernels take.
    fn stored<'a>(
        &'a self,
        held: Option<&'a (impl Deref<Target = Stored>, &Layout)>,
        rows: Range<usize>,
    ) -> Result<StoredRows<'a>> {
        match (&self.storage, held) {
            (Storage::Dense(_), Some((storage, layout))) => {
                let (start, input) = (layout.start_offset(), self.input()?);
                let span = start + rows.start * input..start + rows.end * input;
                Ok(StoredRows::Plain(numbers(storage, span)?))
            }
            (Storage::Quantized(blocks), _) => {
                let packed = blocks.here().ok_or_else(elsewhere)?;
                Ok(StoredRows::Packed(packed, rows))
            }
            (Storage::Dense(_), None) => Err(elsewhere()),
        }
    }

    /// The number of weights in the matrix.
    pub fn elements(&self) -> Result<usize> {
        Ok(self.out * self.input()?)
    }

    /// The number of columns.
    fn input(&self) -> Result<usize> {
        match &self.storage {
            Storage::Dense(weight) => Ok(weight.dim(1)?),
            Storage::Quantized(blocks) => Ok(blocks.input()),
        }
    }

    /// Rows of the weight, looked up as in a table: ids `[n]` to `[n, in]`, in `dtype`.
    pub fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(match &self.storage {
            Storage::Dense(weight) => weight.index_select(ids, 0)?.to_dtype(dtype)?,
            Storage::Quantized(blocks) => blocks.rows(ids)?.to_dtype(dtype)?,
        })
    }

    /// Weighted sums of the rows of the weight, `[n, out]` to `[n, in]`, f32; some rows at a time are widened.
    pub fn weighted_rows(&self, weights: &Tensor) -> Result<Tensor> {
        let mut sum = Tensor::zeros(
            (weights.dim(0)?, self.input()?),
            DType::F32,
            weights.device(),
        )?;
        for start in (0..self.out).step_by(WIDENED) {
            let count = WIDENED.min(self.out - start);
            let rows = match &self.storage {
                Storage::Dense(weight) => weight.narrow(0, start, count)?.to_dtype(DType::F32)?,
                Storage::Quantized(blocks) => {
                    let ids =
                        Tensor::arange(start as u32, (start + count) as u32, weights.device())?;
                    blocks.rows(&ids)?
                }
            };
            let own = weights.narrow(1, start, count)?.contiguous()?;
            sum = (sum + own.matmul(&rows)?)?;
        }
        Ok(sum)
    }

    /// The whole weight, `[out, in]`, f32.
    pub fn weight(&self) -> Result<Tensor> {
        match &self.storage {
            Storage::Dense(weight) => Ok(weight.to_dtype(DType::F32)?),
            Storage::Quantized(blocks) => blocks.unpack(),
        }
    }

    /// One column of the weight, `[out]`, f32: what input unit `i` adds to the output.
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

/// A weight matrix `[out, in]` as read from a file, before it becomes a [`Linear`].
#[derive(Clone, Debug)]
pub enum LoadedMatrix<'a> {
    /// On its device, in the compute dtype or, on the CPU, in the dtype of the file.
    Dense(Tensor),
    /// Blocks as a GGUF file stores them, row after row.
    Blocks {
        /// The kind of block.
        kind: GgmlDType,
        out: usize,
        /// The number of columns, a multiple of the block length.
        input: usize,
        /// The bytes of the rows, borrowed from the memory map if possible; they are rearranged for the kernels from there.
        bytes: Cow<'a, [u8]>,
    },
}

impl LoadedMatrix<'_> {
    /// A copy of some of the rows, in the order of `ranges`.
    pub fn rows(&self, ranges: &[Range<usize>]) -> Result<LoadedMatrix<'static>> {
        Ok(match self {
            Self::Dense(whole) => LoadedMatrix::Dense(select(whole, ranges)?),
            Self::Blocks {
                kind, input, bytes, ..
            } => {
                let row = input / kind.block_size() * kind.type_size();
                let chosen = ranges
                    .iter()
                    .flat_map(|r| bytes[r.start * row..r.end * row].iter().copied());
                LoadedMatrix::Blocks {
                    kind: *kind,
                    out: ranges.iter().map(Range::len).sum(),
                    input: *input,
                    bytes: chosen.collect(),
                }
            }
        })
    }

    /// Converts to a [`Linear`]; `device` is where blocks are put.
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

/// The products of `x` with some rows of several matrices, without their biases, in the dtype of `x`.
fn products(x: &Tensor, matrices: &[(&Linear, Range<usize>)]) -> Result<Vec<Tensor>> {
    let Some((first, _)) = matrices.first() else {
        return Ok(Vec::new());
    };
    let input = first.input()?;
    for (linear, _) in matrices {
        let (width, own) = (x.dims().last(), linear.input()?);
        if width != Some(&own) {
            return Err(mismatch(x, linear.out, own));
        }
    }
    let flat = x.to_dtype(DType::F32)?.contiguous()?;
    let rows = flat.elem_count() / input;
    let of = |(_, range): &(&Linear, Range<usize>)| vec![0f32; rows * range.len()];
    let mut outputs: Vec<Vec<f32>> = matrices.iter().map(of).collect();
    on_numbers(&flat, |x| multiply(x, matrices, &mut outputs))??;
    let shaped = outputs.into_iter().zip(matrices).map(|(y, (_, range))| {
        let mut dims = x.dims().to_vec();
        dims.pop();
        dims.push(range.len());
        Ok(Tensor::from_vec(y, dims, x.device())?.to_dtype(x.dtype())?)
    });
    shaped.collect()
}

/// The products of `x` with some rows of several matrices of equal width, in a single call of the kernels.
fn multiply(
    x: &[f32],
    matrices: &[(&Linear, Range<usize>)],
    outputs: &mut [Vec<f32>],
) -> Result<()> {
    let held: Vec<_> = matrices.iter().map(|(linear, _)| linear.hold()).collect();
    let parts = matrices.iter().zip(&held).zip(outputs);
    let parts = parts.map(|(((linear, range), held), y)| {
        let weights = linear.stored(held.as_ref(), range.clone())?;
        Ok(Product { weights, y })
    });
    let mut parts = parts.collect::<Result<Vec<_>>>()?;
    if let Some((first, _)) = matrices.first() {
        kernels::products(first.input()?, x, &mut parts);
    }
    Ok(())
}

/// `x Wᵀ` in the dtype of `x`, computed by the device.
fn dense(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (out, input) = weight.dims2()?;
    let mut dims = x.dims().to_vec();
    let width = dims.pop();
    if width != Some(input) {
        return Err(mismatch(x, out, input));
    }
    let rows: usize = dims.iter().product();
    let y = x.reshape((rows, input))?.matmul(&weight.t()?)?;
    dims.push(out);
    Ok(y.reshape(dims)?)
}

/// A range of a dense weight's numbers on the CPU.
fn numbers(storage: &Stored, span: Range<usize>) -> candle_core::Result<PlainWeights<'_>> {
    Ok(match storage {
        Stored::Cpu(CpuStorage::F32(w)) => PlainWeights::F32(&w[span]),
        Stored::Cpu(CpuStorage::F16(w)) => PlainWeights::F16(w[span].reinterpret_cast()),
        Stored::Cpu(CpuStorage::BF16(w)) => PlainWeights::Bf16(w[span].reinterpret_cast()),
        Stored::Cpu(_) | Stored::Cuda(_) | Stored::Metal(_) => {
            candle_core::bail!("no kernel for weights in {:?}", storage.dtype())
        }
    })
}

/// A product on the CPU with a constant weight: the gradient flows to `x`, and none is computed for the weight.
struct FrozenProduct {
    linear: Linear,
    rows: Range<usize>,
}

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let CpuStorage::F32(values) = storage else {
            candle_core::bail!("{} takes f32", self.name());
        };
        let input = self.linear.input().map_err(candle_core::Error::wrap)?;
        let mut dims = layout.dims().to_vec();
        let count = layout.shape().elem_count();
        dims.pop();
        dims.push(self.rows.len());
        let mut y = [vec![0f32; count / input * self.rows.len()]];
        let x = &values[layout.start_offset()..][..count];
        multiply(x, &[(&self.linear, self.rows.clone())], &mut y)
            .map_err(candle_core::Error::wrap)?;
        let [y] = y;
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, by: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradient = self.gradient(x, by).map_err(candle_core::Error::wrap)?;
        Ok(Some(gradient))
    }
}

impl FrozenProduct {
    /// The gradient for `x`, `[.., in]`, given the gradient `by`, `[.., rows]`, of the product: `by W`.
    fn gradient(&self, x: &Tensor, by: &Tensor) -> Result<Tensor> {
        let rows = self.rows.clone();
        let y = on_numbers(&plain(by)?, |by| self.linear.adjoint_of(rows, by))??;
        Ok(Tensor::from_vec(y, x.dims(), x.device())?)
    }
}

/// A copy of some rows of a tensor, so that the whole can be freed.
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
