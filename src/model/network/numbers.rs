//! Gives the CPU kernels access to tensors as slices.
//!
//! Invariant: data is copied only if it is not contiguous or not f32. To let another dtype through, add it to [`kept`].

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use half::slice::HalfFloatSliceExt;

use crate::error::{Error, Result};
use crate::model::host::lent;
use crate::model::kernels::attention::Kept;

/// The error for a tensor that is not on the CPU.
pub(super) fn elsewhere() -> Error {
    Error::Engine("a kernel of the CPU was asked for elsewhere".into())
}

/// Calls `work` with the numbers of a contiguous f32 tensor.
pub(super) fn on_numbers<T>(x: &Tensor, work: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = lent(x);
    let (Storage::Cpu(CpuStorage::F32(values)), true) = (&*storage, layout.is_contiguous()) else {
        return Err(elsewhere());
    };
    let start = layout.start_offset();
    Ok(work(&values[start..start + layout.shape().elem_count()]))
}

/// The dtype of statistics, whatever that of the values: f32, or f64 where the values are f64.
pub(super) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 {
        DType::F64
    } else {
        DType::F32
    }
}

/// Converts a tensor to what [`on_numbers`] takes: f32 and contiguous.
pub(super) fn plain(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_dtype(DType::F32)?.contiguous()?)
}

/// The numbers of a storage from index `start` on, in their stored dtype.
pub(super) fn kept(storage: &Storage, start: usize) -> Result<Kept<'_>> {
    match storage {
        Storage::Cpu(CpuStorage::F32(x)) => Ok(Kept::F32(&x[start..])),
        Storage::Cpu(CpuStorage::F16(x)) => Ok(Kept::F16(x[start..].reinterpret_cast())),
        Storage::Cpu(CpuStorage::BF16(x)) => Ok(Kept::Bf16(x[start..].reinterpret_cast())),
        Storage::Cpu(_) | Storage::Cuda(_) | Storage::Metal(_) => Err(elsewhere()),
    }
}

/// A new tensor of this shape, filled by `work` in f32 and converted to `dtype`.
pub(super) fn made(
    shape: &[usize],
    dtype: DType,
    work: impl FnOnce(&mut [f32]) -> Result<()>,
) -> Result<Tensor> {
    let mut y = vec![0f32; shape.iter().product()];
    work(&mut y)?;
    Ok(Tensor::from_vec(y, shape, &Device::Cpu)?.to_dtype(dtype)?)
}
