//! The Jacobian of the object's state with respect to the subject's, for one prompt.
//!
//! Row `i` is the vector-Jacobian product of the `i`th unit vector, which goes back through the tokens from the subject on; one
//! way back gives the row after every block. Invariant: everything but the subject's state is held, what lies before it and
//! the positions after it included as far as they do not depend on it (Hernandez et al. 2024, section 3).

use candle_core::{DType, Device, Tensor};

use super::states::object_address;
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::gradient::{GradientRequest, Scalar};
use crate::lab::pass::Pass;
use crate::lab::run::Run;
use crate::model::network::site::Site;

/// How many rows a pass gives; progress is reported after each.
const ROWS: usize = 256;

/// `∂o/∂s` after each of these blocks, `[d_model, d_model]` each, row after row, for the subject's position `at` in a prompt whose
/// last token is read.
///
/// # Errors
///
/// When numbers are not finite, there is no memory for the way back, or the work is stopped.
pub fn jacobian(
    lab: &mut Lab,
    tokens: &[u32],
    at: usize,
    layers: &[usize],
) -> Result<Vec<Vec<f32>>> {
    let d = lab.model.card.d_model;
    let end = object_address(&lab.model);
    let units = Tensor::eye(d, DType::F32, &Device::Cpu)?;
    let mut out = vec![Vec::with_capacity(d * d); layers.len()];
    for first in (0..d).step_by(ROWS) {
        let count = ROWS.min(d - first);
        let pass = Pass {
            gradient: Some(GradientRequest {
                each: Vec::new(),
                of: Scalar::Each {
                    at: end,
                    vectors: units.narrow(0, first, count)?,
                },
                after: tokens.len() - 1,
                from: None,
                at: layers.iter().map(|l| Site::ResidPost.at(*l)).collect(),
                positions: vec![at],
            }),
            ..Pass::of(Run::plain(tokens.to_vec()))
        };
        let share = first as f32 / d as f32..(first + count) as f32 / d as f32;
        let read = lab.part(share, |lab| lab.run_one(&pass))?;
        let gradient = read.gradient.unwrap_or_default();
        for (rows, layer) in out.iter_mut().zip(layers) {
            let block = gradient.get(Site::ResidPost.at(*layer))?.flatten_all()?;
            rows.extend(block.to_dtype(DType::F32)?.to_vec1::<f32>()?);
        }
    }
    Ok(out)
}
