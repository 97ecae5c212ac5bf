//! Rows of the Jacobian of a value with respect to states after blocks, a pack at a time.
//!
//! Row `i` is the vector-Jacobian product of the `i`th unit vector; one way back gives the row after every block that is asked for.
//! Invariant: how many rows go together follows from what their gradients take, so that memory does not grow with the model's width.

use std::ops::RangeInclusive;

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::lab::Lab;
use crate::lab::gradient::{GradientRequest, Scalar};
use crate::lab::pass::Pass;
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};

/// The bytes of gradients that are held at once.
const HELD: usize = 256 << 20;

/// The most rows of a pass; progress is reported after each.
const ROWS: usize = 256;

/// Of what, and with respect to what.
#[derive(Clone, Debug)]
pub struct JacobianRequest<'a> {
    pub tokens: &'a [u32],
    /// The value, one of the stream: `[d_model]` at a position.
    pub end: Address,
    /// The positions over which it is summed.
    pub after: RangeInclusive<usize>,
    /// The blocks after which the state is meant.
    pub layers: &'a [usize],
    /// The positions of the state.
    pub positions: Vec<usize>,
}

/// The rows by layer, in their order: `of` makes a row of every vector's gradient `[vectors, positions, d_model]`.
///
/// # Errors
///
/// When numbers are not finite, there is no memory for the way back, or the work is stopped.
pub fn jacobian_rows(
    lab: &mut Lab,
    request: &JacobianRequest,
    of: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Vec<Vec<f32>>> {
    let d = lab.model.card.d_model;
    let each = 4 * d * request.positions.len() * request.layers.len();
    let together = (HELD / each.max(1)).clamp(1, ROWS.min(d));
    let units = Tensor::eye(d, DType::F32, &Device::Cpu)?;
    let after = *request.after.end();
    let from = *request.after.start();
    let mut out = vec![Vec::with_capacity(d * d); request.layers.len()];
    for first in (0..d).step_by(together) {
        let count = together.min(d - first);
        let layers = request.layers.iter();
        let pass = Pass {
            gradient: Some(GradientRequest {
                of: Scalar::Each {
                    at: request.end,
                    vectors: units.narrow(0, first, count)?,
                },
                each: Vec::new(),
                after,
                from: (from < after).then_some(from),
                at: layers.map(|l| Site::ResidPost.at(*l)).collect(),
                positions: request.positions.clone(),
            }),
            ..Pass::of(Run::plain(request.tokens.to_vec()))
        };
        let share = first as f32 / d as f32..(first + count) as f32 / d as f32;
        let read = lab.part(share, |lab| lab.run_one(&pass))?;
        let gradient = read.gradient.unwrap_or_default();
        for (rows, layer) in out.iter_mut().zip(request.layers) {
            let own = of(gradient.get(Site::ResidPost.at(*layer))?)?;
            rows.extend(
                own.flatten_all()?
                    .to_dtype(DType::F32)?
                    .host_vec1::<f32>()?,
            );
        }
    }
    Ok(out)
}
