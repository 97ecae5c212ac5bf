//! Applies edits of features to the rows of a pass: gathers what their dictionary reads, and puts back what it changes.
//!
//! Invariant: rows outside the mask, and rows whose numbers an earlier edit has broken, keep their bits. To let a dictionary read
//! something else, add it to [`Program::inputs`].

use candle_core::{DType, Tensor};

use super::apply::Program;
use super::formulas::{self, DictionaryChange};
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::network::site::Address;
use crate::model::network::tap::PassSpan;

impl Program {
    /// The values that a change of a dictionary reads: `own` where it reads the address itself, else what was remembered.
    pub(crate) fn inputs(
        &self,
        change: &DictionaryChange,
        at: Address,
        own: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let (batch, tokens, _) = own.dims3()?;
        let value = |read: &Address| -> Result<Tensor> {
            if *read == at {
                return Ok(own.clone());
            }
            let held = self.remembered.get(read).and_then(Option::as_ref);
            let held = held.ok_or_else(|| Error::Refused {
                address: read.to_string(),
                why: format!("the features of an edit of {at} are read there, in another block, and a gradient goes through one block at a time. Switch the edit off."),
            })?;
            Ok(held.reshape((batch, tokens, ()))?)
        };
        change.reads.iter().map(value).collect()
    }

    /// Changes features in the rows of the mask; what changed, by position. `x`, `[batch, tokens, width]`, is the value
    /// before the edits of the address, and `values` its rows as the edits before this one left them.
    pub(crate) fn by_dictionary(
        &self,
        change: &DictionaryChange,
        at: Address,
        x: &Tensor,
        values: &mut [f32],
        mask: &[bool],
        span: PassSpan,
    ) -> Result<Vec<(usize, f64)>> {
        let (_, tokens, width) = x.dims3()?;
        let inputs = self.inputs(change, at, x)?;
        let inputs = change.reads.iter().zip(inputs).map(|(read, input)| {
            // Its own address as the edits before this one left it.
            let other =
                (*read != at).then(|| input.to_dtype(DType::F32)?.flatten_all()?.host_vec1());
            Ok((other.transpose()?, input.dim(2)?))
        });
        let inputs = inputs.collect::<Result<Vec<(Option<Vec<f32>>, usize)>>>()?;
        let row = |all: &Option<Vec<f32>>, own: &[f32], i: usize, width: usize| -> Vec<f32> {
            all.as_deref().unwrap_or(own)[i * width..][..width].to_vec()
        };
        // What an earlier edit has broken is that edit's fault, and has no features.
        let whole = |i: &usize| {
            let mut read = inputs
                .iter()
                .map(|(all, width)| row(all, values, *i, *width));
            formulas::has_length(&values[i * width..][..width])
                && read.all(|x| formulas::has_length(&x))
        };
        let chosen: Vec<usize> = (0..mask.len()).filter(|i| mask[*i]).filter(whole).collect();
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let gather = |all: &Option<Vec<f32>>, width: usize| -> Vec<f32> {
            chosen
                .iter()
                .flat_map(|i| row(all, values, *i, width))
                .collect()
        };
        let inputs: Vec<Vec<f32>> = inputs
            .iter()
            .map(|(all, width)| gather(all, *width))
            .collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let before = gather(&None, width);
        let mut after = before.clone();
        let positions: Vec<usize> = chosen.iter().map(|i| span.start + i % tokens).collect();
        change.on(&mut after, &inputs, &positions)?;
        let mut changed = Vec::new();
        let pairs = before.chunks_exact(width).zip(after.chunks_exact(width));
        for ((i, position), (before, after)) in chosen.iter().zip(positions).zip(pairs) {
            if before != after {
                values[i * width..][..width].copy_from_slice(after);
                changed.push((position, formulas::moved(before, after)));
            }
        }
        Ok(changed)
    }
}
