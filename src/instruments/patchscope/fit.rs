//! Fits affine maps between the states of two addresses, by ridge regression over a file of prompts.
//!
//! Invariants: the first position of a prompt is left out, because it is an attention sink; every fifth prompt is held out as a
//! whole (with fewer than five prompts, every fifth position), and no map is fitted on it. To fit by another method, see
//! [`crate::instruments::patchscope::ridge`].

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::instruments::patchscope::map::{AffineMaps, Fit, MapOrigin, spelled};
use crate::instruments::patchscope::ridge::{Affine, Regression};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::network::site::Address;

/// The most positions that are used; the paper fits on 10 000.
const MOST: usize = 20_000;

/// One of this many prompts (or positions) is held out.
const HELD: usize = 5;

/// The memory limit in bytes for the maps and the states that they are fitted on.
const BYTES: usize = 2 << 30;

/// The states of one address, `[n, d_model]`, for fitting and held out.
struct States {
    fitted: Tensor,
    held: Tensor,
}

/// Fits a map for every pair of addresses; reports progress from 0 to 1.
///
/// # Errors
///
/// When the file has too few positions, the maps would not fit into memory, or the work is stopped.
pub fn fit(
    lab: &mut Lab,
    path: &Path,
    pairs: &[(Address, Address)],
    ridge: f64,
) -> Result<AffineMaps> {
    let d = lab.model.card.d_model;
    if pairs.len() * d * d * 4 > BYTES {
        let expected = format!(
            "fewer pairs of layers: {} maps of {d} x {d} numbers take {} GB",
            pairs.len(),
            (pairs.len() * d * d * 4) >> 30
        );
        return Err(Error::argument("layer", pairs.len(), expected));
    }
    let prompts = crate::file::prompts(path)?;
    let mut wanted: Vec<Address> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let (states, positions, held_out) = collect_states(lab, path, &prompts, &wanted)?;
    let mut out = AffineMaps::default();
    let mut fits = BTreeMap::new();
    let mut factored: Option<(Address, Regression)> = None;
    for (i, (from, to)) in pairs.iter().enumerate() {
        lab.report(0.5 + 0.5 * i as f32 / pairs.len() as f32)?;
        let (x, y) = (&states[from], &states[to]);
        if factored.as_ref().is_none_or(|(at, _)| at != from) {
            factored = Some((*from, Regression::new(&x.fitted, ridge)?));
        }
        let Some((_, regression)) = &factored else {
            continue;
        };
        let map = regression.to(&y.fitted)?;
        let measured = Fit {
            residual: unexplained_by(&map, &x.fitted, y, &y.fitted)?,
            held_out: unexplained_by(&map, &x.held, y, &y.held)?,
            identity: unexplained(&x.held, y, &y.held)?,
        };
        fits.insert(spelled((*from, *to)), measured);
        out.maps.push((Some((*from, *to)), map));
    }
    let card = &lab.model.card;
    out.origin = Some(MapOrigin {
        model: card.name.clone(),
        revision: card.revision.clone(),
        text: path.display().to_string(),
        prompts: prompts.len(),
        positions,
        held_out,
        ridge,
        fits,
        version: env!("CARGO_PKG_VERSION").into(),
    });
    Ok(out)
}

/// Runs the prompts and keeps their states. Also returns how many positions are for fitting, and how many held out.
fn collect_states(
    lab: &mut Lab,
    path: &Path,
    prompts: &[String],
    wanted: &[Address],
) -> Result<(BTreeMap<Address, States>, usize, usize)> {
    let d = lab.model.card.d_model;
    let most = positions_that_fit(wanted.len(), d);
    let mut fitted: BTreeMap<Address, Vec<f32>> = BTreeMap::new();
    let mut held: BTreeMap<Address, Vec<f32>> = BTreeMap::new();
    let mut seen = 0;
    for (number, prompt) in prompts.iter().enumerate() {
        lab.report(0.5 * number as f32 / prompts.len() as f32)?;
        let tokens = lab.model.encode(prompt, false)?;
        let recording = lab.record(&Run::plain(tokens.clone()), wanted)?;
        for at in wanted {
            let rows = recording
                .get(*at)?
                .to_dtype(DType::F32)?
                .host_vec2::<f32>()?;
            for (i, row) in rows.iter().enumerate().skip(1).take(most - seen) {
                let out = if prompts.len() >= HELD {
                    number % HELD == HELD - 1
                } else {
                    (seen + i) % HELD == 0
                };
                let side = if out { &mut held } else { &mut fitted };
                side.entry(*at).or_default().extend(row);
            }
        }
        seen = (seen + tokens.len() - 1).min(most);
        if seen == most {
            break;
        }
    }
    let mut states = BTreeMap::new();
    let mut counts = (0, 0);
    for at in wanted {
        let rows = |side: &mut BTreeMap<Address, Vec<f32>>| -> Result<Tensor> {
            // Moved rather than copied, because all states together are large.
            let values = side.remove(at).unwrap_or_default();
            let n = values.len() / d;
            if n < 2 {
                let next = "Give a text with at least a few dozen prompts, one a line; thousands of positions make a good map.";
                return Err(Error::bad_file(
                    path,
                    format!("it gives only {n} positions to fit or hold out"),
                    next,
                ));
            }
            Ok(Tensor::from_vec(values, (n, d), &Device::Cpu)?)
        };
        let both = States {
            fitted: rows(&mut fitted)?,
            held: rows(&mut held)?,
        };
        counts = (both.fitted.dim(0)?, both.held.dim(0)?);
        states.insert(*at, both);
    }
    Ok((states, counts.0, counts.1))
}

/// How many positions of so many addresses of width `d` fit into the memory limit.
fn positions_that_fit(addresses: usize, d: usize) -> usize {
    MOST.min(BYTES / (addresses * d * size_of::<f32>()).max(1))
}

/// The share of the variance of `y`, about the mean of the rows for fitting, that a map does not explain.
fn unexplained_by(map: &Affine, x: &Tensor, known: &States, y: &Tensor) -> Result<f64> {
    let d = map.bias.len();
    let weight = Tensor::from_slice(&map.weight, (d, map.weight.len() / d), &Device::Cpu)?;
    let bias = Tensor::from_slice(&map.bias, (1, d), &Device::Cpu)?;
    let predicted = x.matmul(&weight.t()?.contiguous()?)?.broadcast_add(&bias)?;
    unexplained(&predicted, known, y)
}

/// `Σ‖y - predicted‖² / Σ‖y - mean‖²`, with the mean of the rows for fitting.
fn unexplained(predicted: &Tensor, known: &States, y: &Tensor) -> Result<f64> {
    let mean = known.fitted.to_dtype(DType::F64)?.mean_keepdim(0)?;
    let y = y.to_dtype(DType::F64)?;
    let square = |t: &Tensor| -> Result<f64> { Ok(t.sqr()?.sum_all()?.host_scalar()?) };
    let miss = square(&(&y - predicted.to_dtype(DType::F64)?)?)?;
    let all = square(&y.broadcast_sub(&mean)?)?;
    Ok(if all > 0.0 { miss / all } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_positions_are_kept_as_fit_into_memory() {
        assert_eq!(
            positions_that_fit(4, 64),
            MOST,
            "a small model is fitted on all"
        );
        // All layers of a model with eight billion parameters.
        let (addresses, d) = (33, 4096);
        let kept = positions_that_fit(addresses, d);
        assert!(kept < MOST && kept * addresses * d * 4 <= BYTES, "{kept}");
        assert!((kept + 1) * addresses * d * 4 > BYTES, "{kept}");
    }
}
