//! Matrices kept in blocks of few bits, as a GGUF file stores them, and products with them.
//!
//! Invariant: a product is that of the unpacked weights, to about 1e-4 of its size: only the weights are coarse.
//! candle's CPU kernels round the activations to eight bits first, which alone costs 6e-3. Here what that rounding leaves
//! over is multiplied as well, `W x = W round(x) + W (x - round(x))`, in one call whose two rows share every weight read;
//! the second rounding then costs 6e-3 of the remainder. Many rows at once are multiplied in f32, by unpacked weights, a
//! few thousand of their rows at a time.
//! To add a kernel that takes f32 activations as they are, put it in [`Blocks::product`].

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::error::Result;
use crate::model::normal::normals;

/// Rows of activations from which unpacking the weights is faster than multiplying blocks twice.
const MANY: usize = 32;

/// Rows of the weight that are unpacked together.
const STRIP: usize = 4096;

/// A matrix `[out, in]` in blocks along the input.
#[derive(Clone, Debug)]
pub struct Blocks {
    weight: QMatMul,
    out: usize,
    /// How the kernel rounds activations, when that could be found out.
    rounding: Option<GgmlDType>,
    device: Device,
}

impl Blocks {
    /// Keeps a quantized matrix.
    pub fn new(weight: QTensor) -> Result<Self> {
        let (out, input) = weight.shape().dims2()?;
        let device = weight.device();
        let rounding = if device.is_cpu() {
            rounding(weight.dtype(), out, input)?
        } else {
            None
        };
        Ok(Self {
            weight: QMatMul::from_qtensor(weight)?,
            out,
            rounding,
            device,
        })
    }

    /// Rounds a dense matrix to blocks.
    pub fn quantize(weight: &Tensor, kind: GgmlDType) -> Result<Self> {
        Self::new(QTensor::quantize(&weight.to_dtype(DType::F32)?, kind)?)
    }

    /// Takes blocks from a file's bytes, row after row.
    pub fn from_bytes(
        kind: GgmlDType,
        (out, input): (usize, usize),
        bytes: &[u8],
        device: &Device,
    ) -> Result<Self> {
        let storage = QStorage::from_data(bytes.into(), device, kind)?;
        Self::new(QTensor::new(storage, (out, input))?)
    }

    /// Rows.
    pub fn out(&self) -> usize {
        self.out
    }

    /// `[.., in] -> [.., out]`, in the dtype of `x`.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        let width = dims.pop().unwrap_or(0);
        let rows: usize = dims.iter().product();
        let flat = x
            .to_dtype(DType::F32)?
            .reshape((rows, width))?
            .contiguous()?;
        let y = match self.rounding {
            _ if !self.device.is_cpu() => self.weight.forward(&flat)?,
            Some(kind) if rows < MANY => self.twice(&flat, kind)?,
            _ => self.unpacked(&flat)?,
        };
        dims.push(self.out);
        Ok(y.reshape(dims)?.to_dtype(x.dtype())?)
    }

    /// The product of what the kernel keeps of `x`, plus that of what it drops.
    fn twice(&self, x: &Tensor, kind: GgmlDType) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let kept = QTensor::quantize(x, kind)?.dequantize(&self.device)?;
        let both = Tensor::cat(&[&kept, &(x - &kept)?], 0)?;
        let y = self.weight.forward(&both)?;
        Ok((y.narrow(0, 0, rows)? + y.narrow(0, rows, rows)?)?)
    }

    fn unpacked(&self, x: &Tensor) -> Result<Tensor> {
        let strips = (0..self.out)
            .step_by(STRIP)
            .map(|start| {
                let end = (start + STRIP).min(self.out);
                let ids = Tensor::arange(start as u32, end as u32, &self.device)?;
                Ok(x.matmul(&self.weight.embedding(&ids)?.t()?)?)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(match strips.as_slice() {
            [one] => one.clone(),
            many => Tensor::cat(many, 1)?,
        })
    }

    /// Rows as a table: ids `[n]` to `[n, in]`, f32.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(self.weight.embedding(ids)?)
    }

    /// The whole matrix, f32.
    pub fn unpack(&self) -> Result<Tensor> {
        Ok(match &self.weight {
            QMatMul::QTensor(blocks) => blocks.dequantize(&self.device)?,
            QMatMul::Tensor(dense) | QMatMul::TensorF16(dense) => dense.to_dtype(DType::F32)?,
        })
    }

    /// One column, `[out]`, f32; the matrix is unpacked strip by strip.
    pub fn column(&self, i: usize) -> Result<Tensor> {
        let strips = (0..self.out)
            .step_by(STRIP)
            .map(|start| {
                let end = (start + STRIP).min(self.out);
                let ids = Tensor::arange(start as u32, end as u32, &self.device)?;
                Ok(self
                    .weight
                    .embedding(&ids)?
                    .narrow(1, i, 1)?
                    .squeeze(1)?
                    .copy()?)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&strips, 0)?)
    }
}

/// The rounding that candle's kernel for this kind and shape applies to activations: it depends on the machine, so it is
/// tried on a small matrix. `None` when neither is the kernel's own, and for kinds whose kernels are not worth using: those
/// of Q4_1 and Q5_1 keep a sum in sixteen bits, that of Q5_0 fails on an odd number of blocks, and none of the three is
/// faster than unpacking.
fn rounding(kind: GgmlDType, out: usize, input: usize) -> Result<Option<GgmlDType>> {
    if matches!(kind, GgmlDType::Q4_1 | GgmlDType::Q5_0 | GgmlDType::Q5_1) {
        return Ok(None);
    }
    let cpu = Device::Cpu;
    // Kernels are chosen by whether rows come in sixteens and columns in 256s.
    let rows = if out.is_multiple_of(16) { 16 } else { 15 };
    let columns = if input.is_multiple_of(256) { 256 } else { 32 };
    let mut rng = StdRng::seed_from_u64(0);
    let mut random = |rows: usize| {
        let values = normals(&mut rng, rows * columns);
        Tensor::from_vec(values, (rows, columns), &cpu)
    };
    let (weight, x) = (random(rows)?, random(2)?);
    let weight = QTensor::quantize(&weight, kind)?;
    let expected = x.matmul(&weight.dequantize(&cpu)?.t()?)?;
    let size = expected.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
    let mut blocks = Blocks {
        weight: QMatMul::from_qtensor(weight)?,
        out: rows,
        rounding: None,
        device: Device::Cpu,
    };
    for candidate in [GgmlDType::Q8K, GgmlDType::Q8_0] {
        if !columns.is_multiple_of(candidate.block_size()) {
            continue;
        }
        blocks.rounding = Some(candidate);
        let apart = (blocks.twice(&x, candidate)? - &expected)?;
        let apart = apart.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
        if apart <= 3e-4 * size {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

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
                .to_scalar::<f32>()
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
                for rows in [1, 3, MANY] {
                    let x = random(rows, input);
                    let apart = relative(
                        &blocks.product(&x).unwrap(),
                        &x.matmul(&dense.t().unwrap()).unwrap(),
                    );
                    assert!(
                        apart < 1e-4,
                        "{kind:?} [{out}, {input}], {rows} rows: {apart:.1e}"
                    );
                }
            }
        }
    }

    /// Else few rows would go the slow way unnoticed.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_rounding_of_the_fast_kernels_is_known() {
        for kind in KINDS {
            let slow = matches!(kind, GgmlDType::Q4_1 | GgmlDType::Q5_0 | GgmlDType::Q5_1);
            for out in [32, 33] {
                assert_eq!(
                    rounding(kind, out, 512).unwrap().is_none(),
                    slow,
                    "{kind:?}"
                );
            }
        }
    }

    #[test]
    fn rows_and_columns_are_those_of_the_whole() {
        let blocks = Blocks::quantize(&random(STRIP + 5, 64), GgmlDType::Q5_0).unwrap();
        let whole = blocks.unpack().unwrap();
        let column = whole.narrow(1, 17, 1).unwrap().squeeze(1).unwrap();
        assert_eq!(relative(&blocks.column(17).unwrap(), &column), 0.0);
        let ids = Tensor::new(&[3u32, 4100], &Device::Cpu).unwrap();
        let rows = whole.index_select(&ids, 0).unwrap();
        assert_eq!(relative(&blocks.rows(&ids).unwrap(), &rows), 0.0);
    }
}
