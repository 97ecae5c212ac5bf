//! Which tokens a vector promotes and suppresses: its product with the unembedding (Geva et al. 2022, 2203.14680; Bricken et
//! al. 2023 for features).
//!
//! `W_U (γ ⊙ v)` with the final norm's gain and without its scale (centred first if the norm centres), or `W_U v` without the
//! norm. Invariant: both depend on weights alone. To add a way of reading, add a variant of [`ValueNorm`].

use candle_core::Tensor;

use super::lab::Lab;
use super::sample::top;
use crate::error::Result;
use crate::figure::TableRow;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::reduced::strongest_of_rows;

/// The number of tokens kept on each side.
pub const SIDE: usize = 30;

/// How a vector of the stream is converted to logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueNorm {
    /// `W_U (γ ⊙ v)`, centred first if the norm centres.
    Gained,
    /// `W_U v`.
    Raw,
}

/// The largest and the smallest entries of a row of logits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopAndBottom {
    /// The most promoted tokens with their logits for one unit of activation, largest first.
    pub promoted: Vec<(u32, f32)>,
    /// The most suppressed tokens, lowest logit first.
    pub suppressed: Vec<(u32, f32)>,
}

impl TopAndBottom {
    /// The largest and the smallest entries of a row of logits; the first `known` tokens count.
    pub fn of(mut logits: Vec<f32>, known: usize) -> Self {
        let promoted = top(&logits, known, SIDE);
        logits.iter_mut().for_each(|z| *z = -*z);
        let suppressed = top(&logits, known, SIDE);
        Self {
            promoted,
            suppressed: suppressed.into_iter().map(|(id, z)| (id, -z)).collect(),
        }
    }

    /// The ids of the first few promoted and suppressed tokens for an activation: a negative one exchanges the two.
    pub fn ids(&self, act: f32) -> [Vec<u32>; 2] {
        let first = |side: &[(u32, f32)]| side.iter().take(4).map(|(id, _)| *id).collect();
        let mut ids = [first(&self.promoted), first(&self.suppressed)];
        if act < 0.0 {
            ids.reverse();
        }
        ids
    }

    /// A table row with two entries more, `promotes` and `suppresses`: those tokens as text, with their ids.
    pub fn listed(&self, act: f32, lab: &Lab, mut row: TableRow) -> TableRow {
        for (column, ids) in ["promotes", "suppresses"].into_iter().zip(self.ids(act)) {
            row.entries.push(lab.visibles(ids.iter().copied()).into());
            row = row.naming(column, ids);
        }
        row
    }
}

/// Vectors of the stream as the unembedding reads them: `[n, d_model]`, f32, without the final norm's scale.
///
/// # Errors
///
/// Those of the tensor library.
pub fn before_unembedding(model: &Model, rows: &Tensor, reading: ValueNorm) -> Result<Tensor> {
    match reading {
        ValueNorm::Raw => Ok(rows.clone()),
        ValueNorm::Gained => model.transformer.norm.at_scale_one(rows),
    }
}

/// Rows on the host.
pub type HostRows = Vec<Vec<f32>>;

/// Vectors of the stream `[n, d_model]` multiplied by the gain, and what one unit of each adds to every logit, `[n][vocab]`.
///
/// # Errors
///
/// Those of the tensor library.
pub fn logit_effects(
    model: &Model,
    rows: &Tensor,
    reading: ValueNorm,
) -> Result<(HostRows, HostRows)> {
    model.transformer.on_thread_pool(|| {
        let values = before_unembedding(model, rows, reading)?;
        let logits = model.transformer.direct_logits(&values)?;
        Ok((values.host_vec2()?, logits.host_vec2()?))
    })
}

/// The largest and the smallest entries of what one unit of each vector `[n, d_model]` adds to the logits, reduced where they are: what
/// crosses does not grow with the vocabulary.
///
/// # Errors
///
/// Those of the tensor library.
pub fn sides_on_device(
    model: &Model,
    rows: &Tensor,
    reading: ValueNorm,
) -> Result<Vec<TopAndBottom>> {
    let values = before_unembedding(model, rows, reading)?;
    let logits = model.transformer.direct_logits(&values)?;
    let known = model.known_tokens().min(logits.dim(1)?);
    let logits = logits.narrow(1, 0, known)?;
    let both = Tensor::cat(&[&logits, &logits.neg()?], 0)?;
    let mut promoted = strongest_of_rows(&both, SIDE)?;
    let suppressed = promoted.split_off(promoted.len() / 2);
    let sides = promoted.into_iter().zip(suppressed);
    let signed = |side: Vec<(u32, f32)>| side.into_iter().map(|(id, z)| (id, -z)).collect();
    Ok(sides
        .map(|(promoted, suppressed)| TopAndBottom {
            promoted,
            suppressed: signed(suppressed),
        })
        .collect())
}
