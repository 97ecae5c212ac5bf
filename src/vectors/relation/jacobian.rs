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

/// `∂o/∂s` after each of these blocks, `[d_model, d_model]` each, row after row, for the subject's position `at` in a prompt whose
/// last token is read.
///
/// # Errors
///
/// When numbers are not finite, there is no memory for the graph, or the work is stopped.
pub fn jacobian(
    lab: &mut Lab,
    tokens: &[u32],
    at: usize,
    layers: &[usize],
) -> Result<Vec<Vec<f32>>> {
    let d = lab.model.card.d_model;
    let end = object_address(&lab.model);
    let mut out = vec![Vec::with_capacity(d * d); layers.len()];
    for i in 0..d {
        lab.report(i as f32 / d as f32)?;
        let mut unit = vec![0f32; d];
        unit[i] = 1.0;
        let pass = Pass {
            gradient: Some(GradientRequest {
                of: Scalar::Along {
                    at: end,
                    vector: Tensor::from_vec(unit, d, &Device::Cpu)?,
                },
                after: tokens.len() - 1,
                at: layers.iter().map(|l| Site::ResidPost.at(*l)).collect(),
                positions: vec![at],
            }),
            ..Pass::of(Run::plain(tokens.to_vec()))
        };
        let read = lab.without_progress(|lab| lab.run_one(&pass))?;
        let gradient = read.gradient.unwrap_or_default();
        for (rows, layer) in out.iter_mut().zip(layers) {
            let row = gradient.get(Site::ResidPost.at(*layer))?.flatten_all()?;
            rows.extend(row.to_dtype(DType::F32)?.to_vec1::<f32>()?);
        }
    }
    Ok(out)
}
