//! Matrices in quantized blocks, as a GGUF file stores them, and products with them.
//!
//! Invariant: a product equals that of the unpacked weights to a relative error of about 3e-5. On the CPU the kernels of
//! [`crate::model::kernels`] multiply blocks with activations directly; on other devices candle's kernels do.
//! To add a kind of block, add it to `encoding` and to [`crate::model::kernels::encoding`].

use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Tensor};

use super::numbers::elsewhere;
use crate::error::{Error, Result};
use crate::model::host::{ToHost, block_bytes};
use crate::model::kernels::Packed;
use crate::model::kernels::encoding::Encoding;

/// How many rows of the weight a device unpacks at once.
const STRIP: usize = 4096;

/// A matrix `[out, in]` in blocks along the input.
#[derive(Clone, Debug)]
pub struct Blocks {
    weight: BlockStorage,
    out: usize,
    /// The number of columns.
    input: usize,
}

#[derive(Clone, Debug)]
enum BlockStorage {
    Here(Arc<Packed>),
    Device(QMatMul, Device),
}

/// The kernels' name for a kind of block; none if they have no kernel for it.
fn encoding(kind: GgmlDType) -> Option<Encoding> {
    Some(match kind {
        GgmlDType::Q4_0 => Encoding::Q4_0,
        GgmlDType::Q4_1 => Encoding::Q4_1,
        GgmlDType::Q5_0 => Encoding::Q5_0,
        GgmlDType::Q5_1 => Encoding::Q5_1,
        GgmlDType::Q8_0 => Encoding::Q8_0,
        GgmlDType::Q2K => Encoding::Q2K,
        GgmlDType::Q3K => Encoding::Q3K,
        GgmlDType::Q4K => Encoding::Q4K,
        GgmlDType::Q5K => Encoding::Q5K,
        GgmlDType::Q6K => Encoding::Q6K,
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 | GgmlDType::Q8_1 | GgmlDType::Q8K => {
            return None;
        }
    })
}

impl Blocks {
    /// Quantizes a dense matrix.
    pub fn quantize(weight: &Tensor, kind: GgmlDType) -> Result<Self> {
        let shape = weight.dims2()?;
        let blocks = QTensor::quantize(&weight.to_dtype(DType::F32)?, kind)?;
        if weight.device().is_cpu() {
            return Self::from_bytes(kind, shape, &block_bytes(&blocks)?, weight.device());
        }
        Ok(Self {
            weight: BlockStorage::Device(QMatMul::from_qtensor(blocks)?, weight.device().clone()),
            out: shape.0,
            input: shape.1,
        })
    }

    /// A matrix from the bytes of a file, row after row.
    pub fn from_bytes(
        kind: GgmlDType,
        (out, input): (usize, usize),
        bytes: &[u8],
        device: &Device,
    ) -> Result<Self> {
        let weight = if device.is_cpu() {
            let packed = encoding(kind).and_then(|kind| Packed::new(kind, out, input, bytes));
            BlockStorage::Here(Arc::new(packed.ok_or_else(|| {
                let length = bytes.len();
                Error::Engine(format!(
                    "{length} bytes are no matrix [{out}, {input}] in blocks of {kind:?}"
                ))
            })?))
        } else {
            let storage = QStorage::from_data(bytes.into(), device, kind)?;
            let blocks = QTensor::new(storage, (out, input))?;
            BlockStorage::Device(QMatMul::from_qtensor(blocks)?, device.clone())
        };
        Ok(Self { weight, out, input })
    }

    pub fn out(&self) -> usize {
        self.out
    }

    /// The number of columns.
    pub fn input(&self) -> usize {
        self.input
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        match &self.weight {
            BlockStorage::Here(_) => &Device::Cpu,
            BlockStorage::Device(_, device) => device,
        }
    }

    /// The same matrix on another device.
    pub fn on(&self, device: &Device) -> Result<Self> {
        match &self.weight {
            BlockStorage::Device(QMatMul::QTensor(blocks), own) if !own.same_device(device) => {
                let bytes = block_bytes(blocks)?;
                Self::from_bytes(blocks.dtype(), (self.out, self.input), &bytes, device)
            }
            BlockStorage::Device(QMatMul::Tensor(dense) | QMatMul::TensorF16(dense), own)
                if !own.same_device(device) =>
            {
                Ok(Self {
                    weight: BlockStorage::Device(
                        QMatMul::Tensor(dense.on_device(device)?),
                        device.clone(),
                    ),
                    ..self.clone()
                })
            }
            BlockStorage::Here(_) | BlockStorage::Device(..) => Ok(self.clone()),
        }
    }

    /// The blocks in the form that the CPU kernels take; none on another device.
    pub fn here(&self) -> Option<&Packed> {
        match &self.weight {
            BlockStorage::Here(packed) => Some(packed),
            BlockStorage::Device(..) => None,
        }
    }

    /// A product on a device with some rows of the matrix, in the dtype of `x`: `[.., in] -> [.., rows]`.
    pub fn part(&self, x: &Tensor, rows: Range<usize>) -> Result<Tensor> {
        match &self.weight {
            BlockStorage::Here(_) => Err(elsewhere()),
            BlockStorage::Device(weight, _) if rows == (0..self.out) => {
                let mut dims = x.dims().to_vec();
                let width = dims.pop().unwrap_or(0);
                let count: usize = dims.iter().product();
                let flat = x.to_dtype(DType::F32)?.reshape((count, width))?;
                let y = weight.forward(&flat.contiguous()?)?;
                dims.push(self.out);
                Ok(y.reshape(dims)?.to_dtype(x.dtype())?)
            }
            BlockStorage::Device(weight, device) => {
                let ids = Tensor::arange(rows.start as u32, rows.end as u32, device)?;
                let weight = weight.embedding(&ids)?.to_dtype(x.dtype())?;
                Ok(x.matmul(&weight.t()?)?)
            }
        }
    }

    /// Rows of the matrix, looked up as in a table: ids `[n]` to `[n, in]`, f32.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match &self.weight {
            BlockStorage::Here(packed) => {
                let ids = ids.host_vec1::<u32>()?;
                if let Some(id) = ids.iter().find(|id| **id as usize >= self.out) {
                    let rows = self.out;
                    return Err(Error::Engine(format!("row {id} of a table of {rows}")));
                }
                let rows = packed.rows(ids.iter().map(|id| *id as usize));
                let shape = (ids.len(), packed.input);
                Ok(Tensor::from_vec(rows, shape, &Device::Cpu)?)
            }
            BlockStorage::Device(weight, _) => Ok(weight.embedding(ids)?),
        }
    }

    /// The whole matrix, f32.
    pub fn unpack(&self) -> Result<Tensor> {
        match &self.weight {
            BlockStorage::Here(packed) => {
                let shape = (self.out, packed.input);
                Ok(Tensor::from_vec(
                    packed.rows(0..self.out),
                    shape,
                    &Device::Cpu,
                )?)
            }
            BlockStorage::Device(QMatMul::QTensor(blocks), device) => {
                Ok(blocks.dequantize(device)?)
            }
            BlockStorage::Device(QMatMul::Tensor(dense) | QMatMul::TensorF16(dense), _) => {
                Ok(dense.to_dtype(DType::F32)?)
            }
        }
    }

    /// One column, `[out]`, f32.
    pub fn column(&self, i: usize) -> Result<Tensor> {
        match &self.weight {
            BlockStorage::Here(packed) => {
                Ok(Tensor::from_vec(packed.column(i), self.out, &Device::Cpu)?)
            }
            BlockStorage::Device(weight, device) => {
                let strips = (0..self.out)
                    .step_by(STRIP)
                    .map(|start| {
                        let end = (start + STRIP).min(self.out);
                        let ids = Tensor::arange(start as u32, end as u32, device)?;
                        let rows = weight.embedding(&ids)?;
                        Ok(rows.narrow(1, i, 1)?.squeeze(1)?.copy()?)
                    })
                    .collect::<Result<Vec<_>>>()?;
                Ok(Tensor::cat(&strips, 0)?)
            }
        }
    }
}

/// The error for activations of the wrong width.
pub(super) fn mismatch(x: &Tensor, out: usize, input: usize) -> Error {
    let shape = x.shape();
    Error::Engine(format!("{shape:?} times a matrix [{out}, {input}]"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::model::gaussian::normals;

    const KINDS: [GgmlDType; 10] = [
        GgmlDType::Q8_0,
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    fn random(rows: usize, columns: usize) -> Tensor {
        let mut rng = StdRng::seed_from_u64(9);
        let values = normals(&mut rng, rows * columns);
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn relative(a: &Tensor, b: &Tensor) -> f32 {
        let size = |t: &Tensor| {
            t.sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .host_scalar::<f32>()
                .unwrap()
                .sqrt()
        };
        size(&(a - b).unwrap()) / size(b)
    }

    #[test]
    fn products_are_those_of_the_unpacked_weights() {
        for kind in KINDS {
            for (out, input) in [(48, 512), (37, 256), (48, 96)] {
                if input % kind.block_size() != 0 {
                    continue;
                }
                let blocks = Blocks::quantize(&random(out, input), kind).unwrap();
                let dense = blocks.unpack().unwrap();
                let linear = super::super::linear::Linear::blocks(blocks, None);
                for rows in [1, 3, 32] {
                    let x = random(rows, input);
                    let apart = relative(
                        &linear.product(&x).unwrap(),
                        &x.matmul(&dense.t().unwrap()).unwrap(),
                    );
                    assert!(
                        apart < 5e-5,
                        "{kind:?} [{out}, {input}], {rows} rows: {apart:.1e}"
                    );
                }
            }
        }
    }

    #[test]
    fn rows_and_columns_are_those_of_the_whole() {
        let blocks = Blocks::quantize(&random(4101, 64), GgmlDType::Q5_0).unwrap();
        let whole = blocks.unpack().unwrap();
        let column = whole.narrow(1, 17, 1).unwrap().squeeze(1).unwrap();
        assert_eq!(relative(&blocks.column(17).unwrap(), &column), 0.0);
        let ids = Tensor::new(&[3u32, 4100], &Device::Cpu).unwrap();
        let rows = whole.index_select(&ids, 0).unwrap();
        assert_eq!(relative(&blocks.rows(&ids).unwrap(), &rows), 0.0);
    }
}
