//! Statistics of the vocabulary for rows of the stream: through the final norm and the unembedding, logits laid out only where
//! somebody wants them.
//!
//! Invariant: a row has the same statistics whether it is read alone, beside the model's own row, or of logits that are laid out.
//! On the CPU the kernels of [`crate::model::kernels::vocabulary`] read strip by strip; elsewhere logits are laid out on the device and
//! reduced there, so that only what was asked comes back. [`Transformer::row_statistics`] chooses between them.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use super::reduced::reduced;
use super::site::Site::{FinalNorm, Logits, LogitsRaw};
pub use super::statistics::{ReadoutRequest, StatisticsOn, StrongestLookup, StrongestToken};
use super::tap::{Tap, TapOutcome};
use super::transformer::Transformer;
use crate::error::{Error, Result};
use crate::model::host::{ToHost, lent};
use crate::model::kernels::vocabulary::{
    LaidOut, LogitScale, Reading, RowSums, STRIP, Unembedding, read_rows,
};

/// Multiplications between two reports.
const WORK: usize = 1 << 29;

/// What rows say.
#[derive(Debug, Default)]
pub struct ReadoutRows {
    /// In the order of the questions.
    pub sums: Vec<RowSums>,
    /// The logits of the rows that were to be laid out, `[rows, vocab]`.
    pub whole: Vec<f32>,
    /// In the order of the lookups.
    pub looked: Vec<StrongestToken>,
    /// The logits that stay where they are, `[vocab]`.
    pub kept: Option<Tensor>,
}

impl Transformer {
    /// What rows `[n, d_embed]` say, which [`Transformer::normalize_for_unembed`] made. `report` is told how far it is, 0 to 1,
    /// and may stop it. `space` is used for what is laid out.
    pub fn row_statistics(
        &self,
        rows: &Tensor,
        request: &ReadoutRequest,
        space: Vec<f32>,
        report: &mut dyn FnMut(f32) -> Result<()>,
    ) -> Result<ReadoutRows> {
        Ok(self.read_rows(rows, 0, request, space, report)?.1)
    }

    /// As [`Transformer::read_out`], with other rows of the stream, `[n, d_model]`, in the same product: their norm is that of each
    /// row itself, and no edit touches them. The model's own rows come first where questions number them.
    pub fn read_out_beside(
        &self,
        x: &Tensor,
        beside: &Tensor,
        request: &ReadoutRequest,
        space: Vec<f32>,
        tap: &mut dyn Tap,
    ) -> Result<(Tensor, ReadoutRows)> {
        self.on_thread_pool(|| {
            let (batch, rows, width) = x.dims3()?;
            let own = batch * rows;
            let y = tap.visit(FinalNorm.at(0), self.norm.forward(x, false)?)?;
            let beside = self.norm.forward(beside, false)?;
            let all = Tensor::cat(&[&y.reshape((own, width))?, &beside], 0)?;
            let all = self.projected(&all.to_dtype(self.dtype())?)?;
            let (raw, output) = self.read_rows(&all, own, request, space, &mut |_| Ok(()))?;
            let raw = raw.reshape((batch, rows, self.blueprint.vocab))?;
            Ok((self.leave(raw, tap)?, output))
        })
    }

    /// What the model's own logits after `[batch, rows, d_model]` say; they are laid out where the tap looks at them, or where they
    /// are not finite.
    pub fn read_out_statistics(
        &self,
        x: &Tensor,
        request: &ReadoutRequest,
        tap: &mut dyn Tap,
    ) -> Result<ReadoutRows> {
        let looks = tap.wants(LogitsRaw.at(0)) || tap.wants(Logits.at(0));
        self.on_thread_pool(|| {
            let y = tap.visit(FinalNorm.at(0), self.norm.forward(x, false)?)?;
            if !looks {
                let rows = self.projected(&y.flatten_to(1)?.to_dtype(self.dtype())?)?;
                let (_, output) = self.read_rows(&rows, 0, request, Vec::new(), &mut |_| Ok(()))?;
                if output.sums.iter().all(|sums| sums.total.is_finite()) {
                    tap.leaves(TapOutcome::Finite)?;
                    return Ok(output);
                }
            }
            let logits = self.leave(self.raw(&y)?, tap)?;
            self.laid_out(&logits, request)
        })
    }

    /// What is asked of rows of logits `[rows, vocab]` that are there already.
    pub fn logit_statistics(
        &self,
        logits: &Tensor,
        request: &ReadoutRequest,
    ) -> Result<ReadoutRows> {
        self.laid_out(logits, request)
    }

    /// Rows `[n, d_embed]`: of the first `own` the products with the unembedding, `[own, vocab]`, and what is asked.
    fn read_rows(
        &self,
        rows: &Tensor,
        own: usize,
        request: &ReadoutRequest,
        mut space: Vec<f32>,
        report: &mut dyn FnMut(f32) -> Result<()>,
    ) -> Result<(Tensor, ReadoutRows)> {
        let vocab = self.head.out;
        if self.statistics == StatisticsOn::Device {
            report(0.0)?;
            let all = self.head.logits(rows)?;
            let output = self.laid_out(&self.finish(all.clone())?, request)?;
            return Ok((all.narrow(0, 0, own)?, output));
        }
        let bias = self.head.bias.as_ref();
        let bias = bias.map(|b| b.to_dtype(DType::F32)?.host_vec1::<f32>());
        let bias = bias.transpose()?;
        let scale = LogitScale {
            bias: bias.as_deref(),
            scale: self.blueprint.logit_scale as f32,
            cap: self.blueprint.logit_cap.map(|cap| cap as f32),
        };
        let mut raw = vec![0.0; own * vocab];
        space.resize(request.whole.len() * vocab, 0.0);
        let (count, width) = rows.dims2()?;
        let here: Option<Result<Vec<RowSums>>> = self.head.lend(|matrix| {
            let unembedding = Unembedding {
                matrix,
                scale,
                known: request.known,
            };
            on_host(rows, |x| {
                let begin = || Reading::new(unembedding, x, request.questions);
                let mut reading = self.on_thread_pool(begin);
                let mut lay = LaidOut {
                    raw: &mut raw,
                    whole: &mut space,
                    which: request.whole,
                };
                let strips = reading.strips();
                let step = (WORK / (count * width * STRIP).max(1)).max(8);
                for start in (0..strips).step_by(step) {
                    report(start as f32 / strips as f32)?;
                    let some = start..strips.min(start + step);
                    self.on_thread_pool(|| reading.take(some, &mut lay));
                }
                Ok(reading.into_sums())
            })?
        })?;
        if let Some(sums) = here {
            let raw = Tensor::from_vec(raw, (own, vocab), &Device::Cpu)?;
            let output = ReadoutRows {
                sums: sums?,
                whole: space,
                ..ReadoutRows::default()
            };
            return Ok((raw, output));
        }
        report(0.0)?;
        let all = self.head.logits(rows)?;
        let output = self.laid_out(&self.finish(all.clone())?, request)?;
        Ok((all.narrow(0, 0, own)?, output))
    }

    /// The same of logits `[.., vocab]` that are there.
    fn laid_out(&self, logits: &Tensor, request: &ReadoutRequest) -> Result<ReadoutRows> {
        let vocab = logits.dim(candle_core::D::Minus1)?;
        if self.statistics == StatisticsOn::Device {
            let rows = logits.reshape(((), vocab))?;
            let which: Vec<u32> = request.whole.iter().map(|row| *row as u32).collect();
            let whole = if which.is_empty() {
                Vec::new()
            } else {
                let which = Tensor::new(which, rows.device())?;
                on_host(&rows.index_select(&which, 0)?, <[f32]>::to_vec)?
            };
            let (sums, looked) = reduced(&rows, request)?;
            return Ok(ReadoutRows {
                sums,
                whole,
                looked,
                kept: request.keep.map(|row| rows.get(row)).transpose()?,
            });
        }
        on_host(logits, |all| {
            let rows: Vec<&[f32]> = all.chunks_exact(vocab).collect();
            ReadoutRows {
                sums: read_rows(&rows, request.known, request.questions),
                whole: request
                    .whole
                    .iter()
                    .flat_map(|row| rows[*row])
                    .copied()
                    .collect(),
                ..ReadoutRows::default()
            }
        })
    }
}

/// Lends the numbers of a tensor, f32 and in order, here.
pub fn on_host<R>(t: &Tensor, use_it: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let t = t
        .to_dtype(DType::F32)?
        .on_device(&Device::Cpu)?
        .contiguous()?;
    let (storage, layout) = lent(&t);
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            Ok(use_it(&values[start..end]))
        }
        _ => Err(Error::Engine("numbers are not where they were put".into())),
    }
}
