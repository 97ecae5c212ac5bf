//! A logit as an exact sum: features, the decoder's bias, the error of the dictionary, and the rest of the stream.
//!
//! Invariant: the parts sum to what direct logit attribution gives, to rounding. To take another part apart, add a field to
//! [`PositionSum`].

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{GivenDictionary, layer_of};
use crate::dictionaries::captured::values;
use crate::dictionaries::dictionary::{Encoded, Target};
use crate::dictionaries::in_stream::{
    StreamRole, constants_behind, role, seen_from, write_scale, written_at, written_targets,
};
use crate::dictionaries::opened::PlacedDictionary;
use crate::error::{Error, Result};
use crate::figure::Check;
use crate::instruments::residual::attribution::{Attribution, LogitPart, edited, rounding};
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::model::Fingerprint;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};

/// Draws of the control.
pub(super) const DRAWS: usize = 8;

/// The rounding error of a dot product in f32, relative to the norms of its factors.
const EXACT: f32 = 1e-6;

/// A place whose part of the sum is split into features.
pub(super) struct SplitPart {
    pub(super) at: Address,
    /// Dictionaries of the set, by number, each with the target that is there.
    pub(super) writers: Vec<(usize, usize)>,
}

impl SplitPart {
    /// The places of the dictionaries at a layer, or of all.
    pub(super) fn all(given: &GivenDictionary, layer: Option<usize>) -> Result<Vec<Self>> {
        let chosen = given.at(layer)?;
        let dictionaries = &given.set.dictionaries;
        let mut places: Vec<Address> = Vec::new();
        for placed in &chosen {
            let targets = written_targets(placed)?;
            // Of a cross-layer transcoder one layer alone is asked for its own place.
            let own = if layer.is_some() && targets.len() > 1 {
                &targets[..1]
            } else {
                &targets[..]
            };
            places.extend(own.iter().map(|target| placed.writes[*target]));
        }
        places.sort_unstable();
        places.dedup();
        let parts = places.iter().map(|at| part_of(*at));
        let mut parts = parts.collect::<Result<Vec<_>>>()?;
        let states = parts.iter().filter(|part| part.is_none()).count();
        let count = parts.len();
        parts.sort_unstable_by_key(|part| part.map(|p| (p.layer(), p.name())));
        parts.dedup();
        if parts.len() < count || (states > 0 && count > 1) {
            let layers: Vec<String> = chosen.iter().map(|d| layer_of(d).to_string()).collect();
            return Err(Error::argument(
                "layer",
                "all",
                format!(
                    "one layer of this set, {}: its dictionaries reconstruct the same parts of the stream",
                    layers.join(", ")
                ),
            ));
        }
        let split = |at: Address| {
            let writers = dictionaries.iter().enumerate().filter_map(|(n, placed)| {
                let target = placed.writes.iter().position(|write| *write == at)?;
                // Dictionaries of one place are alternatives, unless they are one set that writes there together.
                let alone = part_of(at).ok()?.is_none() && !std::ptr::eq(placed, chosen[0]);
                (!alone).then_some((n, target))
            });
            Self {
                at,
                writers: writers.collect(),
            }
        };
        Ok(places.into_iter().map(split).collect())
    }
}

/// The part of the attribution that a place is; none for a state of the stream.
fn part_of(at: Address) -> Result<Option<LogitPart>> {
    let layer = usize::from(at.layer);
    Ok(match role(at)? {
        StreamRole::State => None,
        StreamRole::Heads | StreamRole::Attention => Some(LogitPart::Attention(layer)),
        StreamRole::Added if at.site == Site::AttnAdd => Some(LogitPart::Attention(layer)),
        StreamRole::Neurons | StreamRole::Mlp | StreamRole::Added => Some(LogitPart::Mlp(layer)),
    })
}

/// The parts of the attribution that a state of the stream is the sum of: how many from the first.
fn parts_in(at: Address, parts: &[LogitPart]) -> usize {
    let layer = usize::from(at.layer);
    let is_in = |part: &LogitPart| match part {
        LogitPart::Embed | LogitPart::Token | LogitPart::Position => true,
        LogitPart::Attention(of) => {
            *of < layer || (*of == layer && matches!(at.site, Site::ResidMid | Site::ResidPost))
        }
        LogitPart::Mlp(of) => *of < layer || (*of == layer && at.site == Site::ResidPost),
        LogitPart::Edits(of) => of.seen_by(at),
        LogitPart::NormBias | LogitPart::TokenBias => false,
    };
    let embed = at.site == Site::Embed;
    let inside = |part: &&LogitPart| {
        is_in(part)
            && (!embed
                || matches!(
                    part,
                    LogitPart::Embed | LogitPart::Token | LogitPart::Position
                ))
    };
    parts.iter().take_while(inside).count()
}

/// One feature at one position.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FeatureEffect {
    pub(super) act: f32,
    pub(super) effect: f64,
}

/// The effects of random features in place of the active ones, by dictionary and place in its list of active ones.
pub(super) type ControlDraw = BTreeMap<(usize, usize), f64>;

/// The sum at one position.
#[derive(Clone, Debug, Default)]
pub(super) struct PositionSum {
    /// By dictionary of the set and feature.
    pub(super) features: BTreeMap<(usize, u32), FeatureEffect>,
    pub(super) bias: f64,
    pub(super) skip: f64,
    pub(super) error: f64,
    /// What edits change between the dictionary's place and the stream.
    pub(super) edits: f64,
    pub(super) rest: f64,
    /// Biases behind the place and after the stream, by name.
    pub(super) constants: Vec<(String, f64)>,
    pub(super) control: Vec<ControlDraw>,
}

impl PositionSum {
    pub(super) fn total(&self) -> f64 {
        let features = self.features.values().map(|f| f.effect).sum::<f64>();
        let constants = self.constants.iter().map(|(_, effect)| effect).sum::<f64>();
        features + self.bias + self.skip + self.error + self.edits + self.rest + constants
    }

    /// The sum of the magnitudes of all parts.
    pub(super) fn mass(&self) -> f64 {
        let features = self.features.values().map(|f| f.effect.abs());
        let constants = self.constants.iter().map(|(_, effect)| effect.abs());
        let others = [self.bias, self.skip, self.error, self.edits, self.rest];
        features.chain(constants).sum::<f64>() + others.iter().map(|e| e.abs()).sum::<f64>()
    }
}

/// The sum at all positions.
pub(super) struct FeatureSum {
    pub(super) positions: Vec<PositionSum>,
    pub(super) check: Check,
}

impl FeatureSum {
    pub(super) fn read(
        sum: &Attribution,
        splits: &[SplitPart],
        given: &GivenDictionary,
        of: &Capture,
        lab: &Lab,
    ) -> Result<Self> {
        let model = &lab.model;
        let count = sum.positions.len();
        let dictionaries = &given.set.dictionaries;
        let mut read = BTreeMap::new();
        for (n, _) in splits.iter().flat_map(|split| &split.writers) {
            if !read.contains_key(n) {
                read.insert(*n, ReadFeatures::of(&dictionaries[*n], *n, of)?);
            }
        }
        let control = vec![ControlDraw::new(); DRAWS];
        let empty = PositionSum {
            control,
            ..PositionSum::default()
        };
        let mut positions = vec![empty; count];
        let mut lengths = vec![0f64; count];
        let touched = edited(&of.run, model.card.layers)?;
        let mut split_parts = Vec::new();
        let mut inside = 0;
        for split in splits {
            let scales = write_scales(split.at, of, lab, count)?;
            let seen = seen_from(model, split.at, &sum.directions)?.host_vec2::<f32>()?;
            let directions: Vec<Vec<f32>> = seen
                .into_iter()
                .zip(&scales)
                .map(|(row, scale)| row.into_iter().map(|u| u * scale).collect())
                .collect();
            let y = values(of, split.at)?;
            let mut made = vec![0f32; y.len()];
            for (n, target) in &split.writers {
                let dictionary = &dictionaries[*n].dictionary;
                let features = &read[n];
                let part = dictionary.decode(*target, &features.encoded, &features.first)?;
                made.iter_mut().zip(&part).for_each(|(m, p)| *m += p);
                for (i, here) in positions.iter_mut().enumerate() {
                    features.take(*n, &dictionary.targets[*target], i, &directions[i], here)?;
                }
            }
            let part = part_of(split.at)?;
            if part.is_none() {
                inside = parts_in(split.at, &sum.parts);
            }
            let behind = constants_behind(model, split.at, &sum.directions)?;
            let layer = usize::from(split.at.layer);
            let later = [
                Site::Z,
                Site::AttnOut,
                Site::AttnAdd,
                Site::MlpAct,
                Site::MlpOut,
                Site::MlpAdd,
            ];
            let is_edited = later.iter().map(|site| site.at(layer)).any(|at| {
                at > split.at && part_of(at).is_ok_and(|of| of == part) && touched.contains(&at)
            });
            let width = y.len() / count.max(1);
            for (i, here) in positions.iter_mut().enumerate() {
                let (y, made) = (&y[i * width..][..width], &made[i * width..][..width]);
                let u = &directions[i];
                let own = dot(y, u);
                here.error += own - dot(made, u);
                lengths[i] += dot(u, u).sqrt() * (dot(y, y).sqrt() + dot(made, made).sqrt());
                let Some(part) = part else { continue };
                let constant =
                    f64::from(behind.scaled[i]) * f64::from(scales[i]) + f64::from(behind.fixed[i]);
                if constant.abs() > 0.0 {
                    let name = format!("biases of {}", part.name());
                    here.constants.push((name, constant));
                }
                if is_edited {
                    here.edits += f64::from(sum.effect(i, part)) - own - constant;
                }
            }
            split_parts.extend(part);
        }
        let mut check = Check {
            error: 0.0,
            tolerance: 0.0,
        };
        for (i, here) in positions.iter_mut().enumerate() {
            for (k, part) in sum.parts.iter().enumerate() {
                let effect = f64::from(sum.shares[i][k].effect);
                if matches!(part, LogitPart::NormBias | LogitPart::TokenBias) {
                    here.constants.push((part.name(), effect));
                } else if k >= inside && !split_parts.contains(part) {
                    here.rest += effect;
                }
            }
            let error = (here.total() - f64::from(sum.logits[i])).abs();
            let tolerance = f64::from(rounding(model)) * here.mass().max(1.0);
            check = check.worst(Check {
                error: error as f32,
                tolerance: (tolerance + f64::from(EXACT) * lengths[i]) as f32 + sum.check.tolerance,
            });
        }
        Ok(Self { positions, check })
    }
}

/// The scale of the norm of the written output behind a place, at every captured position.
pub(super) fn write_scales(at: Address, of: &Capture, lab: &Lab, count: usize) -> Result<Vec<f32>> {
    let Some(written) = written_at(&lab.model, at)? else {
        return Ok(vec![1.0; count]);
    };
    let rows = values(of, written)?;
    let width = (rows.len() / count.max(1)).max(1);
    let rows = rows.chunks_exact(width);
    rows.map(|row| write_scale(&lab.model, at, row)).collect()
}

/// The features of a dictionary at all positions, with random ones in their place.
pub(super) struct ReadFeatures {
    pub(super) encoded: Encoded,
    /// The first input, `[positions * width]`, for a skip connection.
    pub(super) first: Vec<f32>,
    /// As many random features as are active: by position and draw.
    pub(super) drawn: Vec<Vec<Vec<u32>>>,
}

impl ReadFeatures {
    pub(super) fn of(placed: &PlacedDictionary, n: usize, of: &Capture) -> Result<Self> {
        let first = values(of, placed.reads[0])?;
        let encoded = placed.encode(of, values)?;
        let features = placed.dictionary.features() as u32;
        let drawn = of.positions.clone().zip(&encoded.features);
        let drawn = drawn.map(|(position, active)| {
            let draw = |draw: usize| {
                let seed = [of.run.seed, position as u64, draw as u64, n as u64];
                let mut rng = StdRng::seed_from_u64(Fingerprint::of(seed));
                let ids = active.iter().map(|_| rng.random_range(0..features));
                ids.collect()
            };
            (0..DRAWS).map(draw).collect()
        });
        Ok(Self {
            drawn: drawn.collect(),
            first,
            encoded,
        })
    }

    /// Adds what the dictionary writes to one target at the `i`th position, along a direction there.
    pub(super) fn take(
        &self,
        n: usize,
        target: &Target,
        i: usize,
        direction: &[f32],
        here: &mut PositionSum,
    ) -> Result<()> {
        let active = &self.encoded.features[i];
        let norm = self.encoded.norms[i];
        let back = if target.undo {
            f64::from(norm.back)
        } else {
            1.0
        };
        let decoder = &target.decoder;
        // Few rows are read one by one, many as all of them at once.
        let mut all = Vec::new();
        if active.len() * (DRAWS + 1) > decoder.features {
            all.resize(decoder.features, 0f32);
            decoder.add_products(direction, &mut all, &|_| Ok(()))?;
        }
        let product = |f: u32| {
            let f = f as usize;
            let product = match all.get(f) {
                Some(product) => f64::from(*product),
                None => dot(&decoder.row(f), direction),
            };
            product * f64::from(target.scale.of(f)) * back
        };
        for (f, act) in active {
            let held = here.features.entry((n, *f)).or_default();
            held.act = *act;
            held.effect += f64::from(*act) * product(*f);
        }
        for (draw, ids) in here.control.iter_mut().zip(&self.drawn[i]) {
            for (k, (f, (_, act))) in ids.iter().zip(active).enumerate() {
                *draw.entry((n, k)).or_default() += f64::from(*act) * product(*f);
            }
        }
        here.bias += dot(&target.bias, direction) * back;
        if target.undo {
            let all: f64 = direction.iter().map(|u| f64::from(*u)).sum();
            here.bias += f64::from(norm.mean) * all;
        }
        if let Some(skip) = &target.skip {
            let width = skip.width;
            let mut row = vec![0f32; skip.features];
            skip.add_products(&self.first[i * width..][..width], &mut row, &|_| Ok(()))?;
            here.skip += dot(&row, direction);
        }
        Ok(())
    }
}

/// The dot product, summed in f64.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let both = a.iter().zip(b);
    both.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
