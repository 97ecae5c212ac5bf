//! What dictionaries make of captured positions: features, what is left out, and the control.
//!
//! Invariant: a dictionary is encoded once for positions and control together, so that its encoder is read once. To measure
//! something else of a position, add it to [`PositionFit`].

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::shown::ShownSet;
use crate::dictionaries::captured::{OUTLIER, norms_of, usual, values};
use crate::dictionaries::dictionary::Encoded;
use crate::dictionaries::opened::PlacedDictionary;
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::features::ActiveRow;
use crate::model::network::site::Address;

/// How well one position is reconstructed.
#[derive(Clone, Copy)]
pub struct PositionFit {
    /// `‖ŷ‖`.
    pub size: f32,
    /// `‖y − ŷ‖`.
    pub error: f32,
    pub explained: f32,
}

impl PositionFit {
    /// Sums in f64.
    fn of(y: &[f32], made: &[f32], bias: &[f32]) -> Self {
        let (mut size, mut error, mut around) = (0f64, 0f64, 0f64);
        for (i, (y, made)) in y.iter().zip(made).enumerate() {
            let (y, made) = (f64::from(*y), f64::from(*made));
            size += made * made;
            error += (y - made).powi(2);
            around += (y - bias.get(i).map_or(0.0, |b| f64::from(*b))).powi(2);
        }
        Self {
            size: size.sqrt() as f32,
            error: error.sqrt() as f32,
            explained: (1.0 - error / around.max(f64::MIN_POSITIVE)) as f32,
        }
    }
}

/// What a dictionary makes of the captured positions.
pub struct Reconstruction {
    /// By position.
    pub features: Vec<ActiveRow>,
    /// The norms of what one unit of each active feature adds, by position.
    pub norms: Vec<Vec<f32>>,
    pub fits: Vec<PositionFit>,
    /// L0 and fit of the control, by position.
    pub controls: Vec<(usize, PositionFit)>,
    /// How many dictionaries of the set write to the same place.
    pub parts: usize,
    /// Why a position is outside what the dictionary was trained on, by position.
    pub outside: Vec<Option<&'static str>>,
}

/// Every row in reverse order.
fn backwards(x: &[f32], width: usize) -> Vec<f32> {
    let rows = x.chunks_exact(width.max(1));
    rows.flat_map(|row| row.iter().rev().copied()).collect()
}

/// The features of a dictionary at the captured positions, and of the control behind them if it is asked for; with the first
/// input, as often.
fn encoded(
    part: &PlacedDictionary,
    of: &Capture,
    control: bool,
    report: &dyn Fn(f32) -> Result<()>,
) -> Result<(Encoded, Vec<f32>)> {
    let inputs = part.reads.iter().zip(&part.dictionary.inputs);
    let mut xs = inputs
        .map(|(read, input)| {
            let mut x = values(of, *read)?;
            if control {
                x.extend(backwards(&x, input.encoder.width));
            }
            Ok(x)
        })
        .collect::<Result<Vec<Vec<f32>>>>()?;
    let rows: Vec<&[f32]> = xs.iter().map(Vec::as_slice).collect();
    let encoded = part.dictionary.encode_watched(&rows, report)?;
    Ok((encoded, xs.swap_remove(0)))
}

/// The median norm of activations by address, of the latest text of which several positions were read at once; so that a newest
/// position alone can be compared.
#[derive(Debug, Default)]
struct UsualNorms(RefCell<BTreeMap<Address, f32>>);

/// Why positions are outside training: the first one, and those with very large activations.
fn outside(
    at: Address,
    width: usize,
    of: &Capture,
    lab: &Lab,
) -> Result<Vec<Option<&'static str>>> {
    let norms = norms_of(&values(of, at)?, width);
    let kept = lab.derived::<UsualNorms>();
    let mut kept = kept.0.borrow_mut();
    let positions = of.positions.clone();
    let later: Vec<f32> = norms
        .iter()
        .zip(positions.clone())
        .filter(|(_, p)| *p > 0)
        .map(|(n, _)| *n)
        .collect();
    if later.len() > 2 {
        kept.extend(usual(later).map(|usual| (at, usual)));
    }
    let usual = kept.get(&at).copied().unwrap_or(f32::INFINITY);
    let why = |(norm, position): (&f32, usize)| match position {
        0 => Some("outside training: the first position"),
        _ if *norm > OUTLIER * usual => {
            Some("outside training: more than 10 times as large as usual")
        }
        _ => None,
    };
    Ok(norms.iter().zip(positions).map(why).collect())
}

impl Reconstruction {
    /// Of every chosen dictionary of a set.
    pub fn all(
        shown: &ShownSet,
        of: &Capture,
        lab: &Lab,
        report: &dyn Fn(f32) -> Result<()>,
    ) -> Result<Vec<Self>> {
        let set = &shown.set.dictionaries;
        // Of a cross-layer set every earlier layer writes to the same place.
        let writes =
            |part: &PlacedDictionary, at: Address| part.writes.iter().position(|w| *w == at);
        let ats: Vec<Address> = shown.chosen.iter().map(|i| set[*i].writes[0]).collect();
        let needed = |part: &PlacedDictionary| ats.iter().any(|at| writes(part, *at).is_some());
        let count = set.iter().filter(|part| needed(part)).count();
        let steps = (count + ats.len()) as f32;
        let mut step = 0.0;
        let mut parts: Vec<Option<(Encoded, Vec<f32>)>> = Vec::new();
        for part in set {
            parts.push(if needed(part) {
                let told = |done: f32| report((step + done) / steps);
                let made = encoded(part, of, true, &told)?;
                step += 1.0;
                Some(made)
            } else {
                None
            });
        }
        let mut all = Vec::new();
        for (i, at) in shown.chosen.iter().zip(ats) {
            let told = |done: f32| report((step + done) / steps);
            let width = set[*i].dictionary.targets[0].decoder.width;
            let y = values(of, at)?;
            let mut made = vec![0f32; 2 * y.len()];
            let (mut bias, mut count): (&[f32], usize) = (&[], 0);
            for (part, read) in set.iter().zip(&parts) {
                let (Some(target), Some((encoded, x))) = (writes(part, at), read) else {
                    continue;
                };
                let sums = part.dictionary.decode_watched(target, encoded, x, &told)?;
                made.iter_mut().zip(sums).for_each(|(m, s)| *m += s);
                let target = &part.dictionary.targets[target];
                if !target.bias.is_empty() {
                    bias = &target.bias;
                }
                count += 1;
            }
            let Some((encoded, _)) = &parts[*i] else {
                continue;
            };
            let dictionary = &set[*i].dictionary;
            let to = if dictionary.is_autoencoder() {
                backwards(&y, width)
            } else {
                y.clone()
            };
            let (made, control) = made.split_at(y.len());
            let fits = |y: &[f32], made: &[f32]| -> Vec<PositionFit> {
                let rows = y
                    .chunks_exact(width.max(1))
                    .zip(made.chunks_exact(width.max(1)));
                rows.map(|(y, made)| PositionFit::of(y, made, bias))
                    .collect()
            };
            let rows = of.positions.len();
            let active = encoded.features[rows..].iter().map(Vec::len);
            let features = encoded.features[..rows].to_vec();
            let target = &dictionary.targets[0];
            let norms = features.iter().zip(&encoded.norms).map(|(features, norm)| {
                let ids: Vec<u32> = features.iter().map(|(f, _)| *f).collect();
                let back = if target.undo { norm.back } else { 1.0 };
                let scale = |f: &u32| target.scale.of(*f as usize).abs() * back;
                let norms = target.decoder.norms_of(&ids).into_iter().zip(&ids);
                norms.map(|(norm, f)| norm * scale(f)).collect()
            });
            let fitted = fits(&y, made);
            let mut outside = outside(
                set[*i].reads[0],
                dictionary.inputs[0].encoder.width,
                of,
                lab,
            )?;
            for (why, fit) in outside.iter_mut().zip(&fitted) {
                let no_better = (fit.explained <= 0.0)
                    .then_some("outside what it reconstructs: no better than the bias alone");
                *why = why.or(no_better);
            }
            all.push(Self {
                norms: norms.collect(),
                controls: active.zip(fits(&to, control)).collect(),
                features,
                fits: fitted,
                parts: count,
                outside,
            });
            step += 1.0;
        }
        Ok(all)
    }
}

/// The features of a dictionary at the captured positions, and why a position is outside training; without what they reconstruct.
pub fn features_alone(
    placed: &PlacedDictionary,
    of: &Capture,
    lab: &Lab,
    report: &dyn Fn(f32) -> Result<()>,
) -> Result<(Vec<ActiveRow>, Vec<Option<&'static str>>)> {
    let (encoded, _) = encoded(placed, of, false, report)?;
    let width = placed.dictionary.inputs[0].encoder.width;
    Ok((encoded.features, outside(placed.reads[0], width, of, lab)?))
}
