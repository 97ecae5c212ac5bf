//! Directions along which a lens reads a token: to steer along, to project out, or to swap.
//!
//! For a map `M_ℓ` of a lens the logit of token `t` rises most along `v = M_ℓᵀ (γ ⊙ (W_U[t] − mean W_U))`, with the scale of the final
//! norm left out (Gurnee et al. 2026, 2607.15495, for the Jacobian lens). The mean over the vocabulary is taken off because a softmax
//! does not see what all tokens have in common; in a difference of two tokens it falls out. Invariant: there is a vector after every
//! block for which the file has a map, and nowhere else.

use super::lens_file::LensFile;
use crate::edit::direction::{Direction, DirectionOrigin};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::target::LogitTarget;
use crate::model::host::ToHost;
use crate::model::network::finite;
use crate::model::network::site::Site;

/// The directions of a token after every block that the lens has a map for, each `[d_model]`.
///
/// # Errors
///
/// When the lens has no such block, or a number is not finite.
pub fn token_direction(lab: &Lab, lens: &LensFile, target: LogitTarget) -> Result<Direction> {
    let model = &lab.model;
    let transformer = &model.transformer;
    let mut read = target.direction(model)?;
    if target.minus.is_none() {
        let (mean, _) = transformer.mean_logit_direction(model.known_tokens())?;
        read = (read - mean)?;
    }
    let read = transformer.norm.seen_from_behind(&read.unsqueeze(0)?)?;
    let mut rows = Vec::new();
    for layer in 0..model.card.layers {
        lab.report(layer as f32 / model.card.layers as f32)?;
        let at = Site::ResidPost.at(layer);
        if !lens.has_map(at)? {
            continue;
        }
        let vector: Vec<f32> = lens.pulled_back(at, &read)?.flatten_all()?.host_vec1()?;
        if !finite::all(&vector) {
            return Err(lab.not_finite(&format!("The token's direction at {at} is")));
        }
        rows.push((at, vector));
    }
    if rows.is_empty() {
        return Err(Error::argument(
            "--maps",
            &lens.about,
            "a lens with maps of states after blocks",
        ));
    }
    let mut notes = vec![format!("read through: {}", lens.about)];
    if target.minus.is_none() {
        notes.push("the mean over the vocabulary is taken off".into());
    }
    Ok(Direction {
        rows,
        origin: DirectionOrigin {
            method: format!("{} of {}", lens.kind.name(), target.spell(lab)),
            positions: "none: from the weights and the lens".into(),
            notes,
            ..DirectionOrigin::of(&model.card)
        },
    })
}
