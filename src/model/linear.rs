//! Dense products: the one seam through which every weight matrix is applied.
//!
//! Invariant: `forward(x)` is `x Wᵀ + b` for `W` of shape `[out, in]`, however `W` is stored.
//! To add a faster kernel or another storage, add a variant of `Storage`.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Module, Tensor};

use crate::error::Result;

/// How a weight matrix is kept.
#[derive(Clone, Debug)]
enum Storage {
    /// `[out, in]` in the compute dtype.
    Dense(Tensor),
    /// Blocks of eight bits, multiplied as they are. Gradients do not pass.
    Quantized(Arc<QMatMul>),
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
        let out = weight.dim(0)?;
        let blocks = QTensor::quantize(&weight.to_dtype(DType::F32)?, GgmlDType::Q8_0)?;
        Ok(Self {
            storage: Storage::Quantized(Arc::new(QMatMul::from_qtensor(blocks)?)),
            bias,
            out,
        })
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
            Storage::Dense(weight) => {
                let mut dims = x.dims().to_vec();
                let width = dims.pop().unwrap_or(0);
                let rows: usize = dims.iter().product();
                let y = x.reshape((rows, width))?.matmul(&weight.t()?)?;
                dims.push(self.out);
                Ok(y.reshape(dims)?)
            }
            Storage::Quantized(blocks) => {
                let dtype = x.dtype();
                Ok(blocks
                    .forward(&x.to_dtype(DType::F32)?.contiguous()?)?
                    .to_dtype(dtype)?)
            }
        }
    }

    /// The whole weight, `[out, in]`, f32.
    pub fn weight(&self) -> Result<Tensor> {
        match &self.storage {
            Storage::Dense(weight) => Ok(weight.to_dtype(DType::F32)?),
            Storage::Quantized(blocks) => Ok(blocks
                .dequantize_f16()
                .and_then(|t| t.to_dtype(DType::F32))?),
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
            Storage::Quantized(_) => {
                Ok(self.weight()?.narrow(1, i, 1)?.squeeze(1)?.contiguous()?)
            }
        }
    }

    /// The dense weight `[out, in]`, when there is one in the compute dtype.
    pub fn as_dense(&self) -> Option<&Tensor> {
        match &self.storage {
            Storage::Dense(weight) => Some(weight),
            Storage::Quantized(_) => None,
        }
    }
}
