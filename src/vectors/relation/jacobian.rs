//! The Jacobian of the object's state with respect to the subject's, for one prompt.
//!
//! Row `i` is the vector-Jacobian product of the `i`th unit vector, which goes back through the tokens from the subject on; one
//! way back gives the row after every block. Invariant: everything but the subject's state is held, what lies before it and
//! the positions after it included as far as they do not depend on it (Hernandez et al. 2024, section 3).

use super::states::object_address;
use crate::error::Result;
use crate::lab::Lab;
use crate::vectors::jacobian::{JacobianRequest, jacobian_rows};

/// `∂o/∂s` after each of these blocks, `[d_model, d_model]` each, row after row, for the subject's position `at` in a prompt whose
/// last token is read.
///
/// # Errors
///
/// Those of [`jacobian_rows`].
pub fn jacobian(
    lab: &mut Lab,
    tokens: &[u32],
    at: usize,
    layers: &[usize],
) -> Result<Vec<Vec<f32>>> {
    let last = tokens.len() - 1;
    let request = JacobianRequest {
        tokens,
        end: object_address(&lab.model),
        after: last..=last,
        layers,
        positions: vec![at],
    };
    jacobian_rows(lab, &request, |gradient| Ok(gradient.clone()))
}
