//! Directions of effects where the logits are: what [`super::effect`] makes of rows of logits on the host, by tensor operations, so that
//! a few numbers a row cross and no row of logits does.
//!
//! Invariant: the directions are those of the host to the rounding of f32 sums. To add a scale, see [`super::effect`].

use candle_core::{D, DType, Tensor};

use super::effect::{EffectDirections, EffectScale, from_weights, of_distribution};
use super::finite_guard::not_finite;
use super::lab::Lab;
use super::sample::NO_TOKEN;
use super::target::LogitTarget;
use crate::error::Result;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::reduced::strongest_of_rows;

/// Instead of the logit of a banned token, where it is multiplied by a weight of 0.
const BANNED: f64 = -1e30;

/// A direction `[1, d_model]`, and what is read of it: value, bias and probability, `[1]` each.
struct RowDirection {
    after_norm: Tensor,
    read: [Tensor; 3],
}

impl Lab {
    /// As [`Lab::effect_directions`], on the device.
    pub(super) fn effect_directions_on_device(
        &self,
        last: &Tensor,
        targets: Option<&[LogitTarget]>,
        scale: EffectScale,
    ) -> Result<EffectDirections> {
        let model = &self.model;
        let count = last.dim(0)?;
        let mut out = EffectDirections::at(last, scale);
        let (mut directions, mut numbers) = (Vec::new(), Vec::new());
        // A row of logits and what becomes of it on the way to weights.
        let most = self.room(24 * model.card.vocab);
        for start in (0..count).step_by(most) {
            let rows = start..count.min(start + most);
            let some = last.narrow(0, start, rows.len())?.contiguous()?;
            let logits = model.transformer.uncapped(&some)?;
            let own = match targets {
                Some(targets) => targets[rows].to_vec(),
                None => strongest(model, &logits)?,
            };
            for (i, target) in own.iter().enumerate() {
                let row = logits.narrow(0, i, 1)?;
                let found = of_row(model, &row, *target, scale)?;
                directions.push(found.after_norm);
                numbers.extend(found.read);
            }
            out.targets.extend(own);
        }
        out.after_norm = Tensor::cat(&directions, 0)?;
        for row in Tensor::cat(&numbers, 0)?
            .host_vec1::<f32>()?
            .chunks_exact(3)
        {
            if !row[0].is_finite() {
                let place = "The logits of the residual stream are";
                return Err(not_finite(&model.transformer, place));
            }
            out.values.push(row[0]);
            out.biases.push(row[1]);
            out.shares.push(row[2]);
        }
        Ok(out)
    }
}

/// The top prediction of every row of logits.
fn strongest(model: &Model, logits: &Tensor) -> Result<Vec<LogitTarget>> {
    let known = model.known_tokens().min(logits.dim(1)?);
    let rows = strongest_of_rows(&logits.narrow(1, 0, known)?, 1)?;
    let first = rows.iter().map(|row| row.first().map_or(NO_TOKEN, |t| t.0));
    Ok(first.map(LogitTarget::one).collect())
}

/// The direction of one target at one row of logits before the soft-cap, `[1, vocab]`.
fn of_row(
    model: &Model,
    row: &Tensor,
    target: LogitTarget,
    scale: EffectScale,
) -> Result<RowDirection> {
    let transformer = &model.transformer;
    let at = |token: u32| row.narrow(1, token as usize, 1)?.flatten_all();
    if !of_distribution(target, scale) {
        let (direction, bias) = from_weights(model, target, scale)?;
        let mut value = at(target.token)?;
        if let Some(minus) = target.minus {
            value = (value - at(minus)?)?;
        } else if scale == EffectScale::Centred {
            let known = row.narrow(1, 0, model.known_tokens().min(row.dim(1)?))?;
            value = (value - known.mean(1)?)?;
        }
        let number = |number: f32| Tensor::new(&[number], row.device());
        return Ok(RowDirection {
            after_norm: direction.unsqueeze(0)?,
            read: [value, number(bias)?, number(f32::NAN)?],
        });
    }
    let cap = transformer.blueprint.logit_cap;
    let capped = match cap {
        Some(cap) => ((row / cap)?.tanh()? * cap)?,
        None => row.clone(),
    };
    let largest = capped.max_keepdim(D::Minus1)?;
    let shares = capped.broadcast_sub(&largest)?.exp()?;
    let shares = shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)?;
    let token = Tensor::new(&[[target.token]], row.device())?;
    let one = Tensor::ones((1, 1), DType::F32, row.device())?;
    let weights = shares.neg()?.scatter_add(&token, &one, 1)?;
    let weights = match cap {
        Some(cap) => (weights * (1.0 - (capped / cap)?.sqr()?)?)?,
        None => weights,
    };
    let value = (&weights * row.maximum(BANNED)?)?.sum(1)?;
    let bias = match &transformer.head.bias {
        Some(bias) => {
            let bias = bias.to_dtype(DType::F32)?.unsqueeze(0)?;
            ((&weights * bias)?.sum(1)? * transformer.blueprint.logit_scale)?
        }
        None => value.zeros_like()?,
    };
    Ok(RowDirection {
        after_norm: transformer.weighted_directions_on_device(&weights)?,
        read: [value, bias, shares.gather(&token, 1)?.flatten_all()?],
    })
}
