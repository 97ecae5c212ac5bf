//! Edits of features: the activations of some features of a dictionary are changed, or the whole of it is put in the place of the
//! activation (M5 and B9 of docs/methods.md; Cunningham 2309.08600, Bricken et al. 2023).
//!
//! What the dictionary leaves out is kept: `x + Σ (f' − f)·w` with the features' vectors `w`, times what undoes the norm of a row.
//! Features are read where their dictionary reads, in the same pass and after earlier edits there, and the change is made where
//! it writes. Dictionaries are read on the host, because their matrices stay in their files: on another device that is one
//! read-back of a place and pass.
//! Invariant: where no activation changes, the value keeps every bit. To change activations in another way, add it to
//! [`shift_of`].

use std::sync::Arc;

use candle_core::{DType, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::apply::RandomControl;
use super::features::{ActiveRow, FeatureDictionary, FeatureReader};
use super::formulas::{Change, Numbers};
use super::named_vectors::NamedVectors;
use super::prepare::{Placed, alike};
use crate::edit::Edit;
use crate::edit::direction::{NOTHING, norm, random_like, unit};
use crate::edit::feature::FeatureChoice;
use crate::edit::op::{Op, SetValue, UnitsMean};
use crate::error::{Error, Result};
use crate::model::gaussian::normals;
use crate::model::network::finite;
use crate::model::network::site::Address;

/// A change that a dictionary makes at one address.
#[derive(Clone, Debug)]
pub(crate) struct DictionaryChange {
    /// What it reads, in the order of its inputs.
    pub(crate) reads: Vec<Address>,
    kind: ChangeKind,
}

#[derive(Clone, Debug)]
enum ChangeKind {
    /// The activations of some features.
    Units {
        reader: Arc<dyn FeatureReader>,
        target: usize,
        /// `f' − f = slope·f + offset`.
        slope: f64,
        /// `[features]`.
        offsets: Vec<f64>,
        /// `[features, width]`.
        vectors: Numbers<f32>,
    },
    /// The reconstruction by the dictionaries that write here, each with its target and how many inputs of `reads` are its own.
    Splice {
        parts: Vec<(Arc<dyn FeatureDictionary>, usize)>,
        strength: f64,
        /// The seed of the control: a change of equal norm in a random direction.
        control: Option<u64>,
    },
}

impl DictionaryChange {
    /// Changes rows `[rows, width]` in place, whose inputs are these and whose positions those. A row with an input that is not
    /// finite is left as it is.
    pub(crate) fn on(&self, x: &mut [f32], inputs: &[&[f32]], positions: &[usize]) -> Result<()> {
        let width = x.len() / positions.len().max(1);
        match &self.kind {
            ChangeKind::Units {
                reader,
                target,
                slope,
                offsets,
                vectors,
            } => {
                let read = reader.read(*target, inputs)?;
                let rows = x.chunks_exact_mut(width.max(1));
                let read = read.activations.chunks_exact(offsets.len()).zip(read.undo);
                for (row, (activations, undo)) in rows.zip(read) {
                    let features = activations.iter().zip(offsets);
                    for ((f, offset), vector) in features.zip(vectors.host.chunks_exact(width)) {
                        let shift = (slope * f64::from(*f) + offset) * f64::from(undo);
                        if shift != 0.0 {
                            let pairs = row.iter_mut().zip(vector);
                            pairs.for_each(|(x, w)| {
                                *x = (f64::from(*x) + shift * f64::from(*w)) as f32
                            });
                        }
                    }
                }
            }
            ChangeKind::Splice {
                parts,
                strength,
                control,
            } => {
                let made = reconstruction(parts, inputs, x.len())?;
                let rows = x
                    .chunks_exact_mut(width.max(1))
                    .zip(made.chunks_exact(width.max(1)));
                for ((row, made), position) in rows.zip(positions) {
                    match control {
                        None => towards(row, made, *strength),
                        Some(seed) => {
                            let moved = row.iter().zip(made).map(|(x, m)| m - x);
                            let size = norm(&moved.collect::<Vec<f32>>());
                            let seed = seed.wrapping_add(*position as u64);
                            let random = unit(&normals(&mut StdRng::seed_from_u64(seed), width));
                            let by = *strength as f32 * size;
                            row.iter_mut().zip(random).for_each(|(x, r)| *x += by * r);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The same on `[batch, tokens, width]`, where a gradient follows it: which features are active is held.
    pub(crate) fn on_tensor(&self, x: &Tensor, inputs: &[Tensor]) -> Result<Tensor> {
        let ChangeKind::Units {
            reader,
            target,
            slope,
            offsets,
            vectors,
        } = &self.kind
        else {
            return Err(Error::argument(
                "edit",
                "splice",
                "no splice of a dictionary where a gradient is taken: which features are active changes with the values. Switch it off",
            ));
        };
        let wide = |t: &Tensor| t.to_dtype(DType::F32);
        let inputs = inputs
            .iter()
            .map(wide)
            .collect::<candle_core::Result<Vec<_>>>()?;
        let host = |t: &Tensor| t.detach().flatten_all()?.to_vec1::<f32>();
        let rows = inputs
            .iter()
            .map(host)
            .collect::<candle_core::Result<Vec<_>>>()?;
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let read = reader.read(*target, &rows)?;
        let (batch, tokens, width) = x.dims3()?;
        let shape = (batch, tokens, offsets.len());
        let active = read
            .activations
            .iter()
            .map(|f| f32::from(u8::from(*f != 0.0)));
        let active = Tensor::from_vec(active.collect::<Vec<f32>>(), shape, x.device())?;
        let (activations, undo) = reader.differentiable(*target, &inputs)?;
        let offsets: Vec<f32> = offsets.iter().map(|o| *o as f32).collect();
        let offsets = Tensor::new(offsets, x.device())?;
        let shift = ((activations * active)? * *slope)?.broadcast_add(&offsets)?;
        let vectors = vectors.tensor.reshape(((), width))?;
        let moved = shift.broadcast_matmul(&vectors)?.broadcast_mul(&undo)?;
        Ok((wide(x)? + moved)?.to_dtype(x.dtype())?)
    }
}

/// What the parts make together: `[rows, width]`.
fn reconstruction(
    parts: &[(Arc<dyn FeatureDictionary>, usize)],
    inputs: &[&[f32]],
    length: usize,
) -> Result<Vec<f32>> {
    let mut made = vec![0f32; length];
    let mut first = 0;
    for (part, target) in parts {
        let own = &inputs[first..first + part.reads().len()];
        let sums = part.reconstruct(*target, own)?;
        made.iter_mut().zip(sums).for_each(|(m, s)| *m += s);
        first += part.reads().len();
    }
    Ok(made)
}

/// `x + c·(to − x)`; where both are equal, `x` keeps its bits, and at `c` = 1 it becomes the other.
fn towards(x: &mut [f32], to: &[f32], c: f64) {
    for (x, to) in x.iter_mut().zip(to) {
        #[allow(clippy::float_cmp)] // exactly equal, exactly full strength
        if *x == *to {
            continue;
        } else if c == 1.0 {
            *x = *to;
        } else {
            *x = (f64::from(*x) + (f64::from(*to) - f64::from(*x)) * c) as f32;
        }
    }
}

/// The features that an operation changes, and how.
struct Shift {
    slope: f64,
    offsets: Vec<f64>,
    note: String,
}

/// By what the operation changes activations; none of operations that take no features.
fn shift_of(
    edit: &Edit,
    features: &FeatureChoice,
    dictionary: &Arc<dyn FeatureDictionary>,
    named: &mut NamedVectors,
) -> Result<Option<Shift>> {
    let (c, count) = (f64::from(edit.strength), features.numbers.len());
    let towards = |values: Vec<f32>, note: String| {
        Some(Shift {
            slope: -c,
            offsets: values.into_iter().map(|v| c * f64::from(v)).collect(),
            note,
        })
    };
    let all = |slope: f64| {
        Some(Shift {
            slope,
            offsets: vec![0.0; count],
            note: String::new(),
        })
    };
    Ok(match &edit.op {
        Op::Zero(_) => all(-c),
        Op::Scale(_) => all(c - 1.0),
        Op::Set(set) => match set.1 {
            SetValue::Is(value) => towards(vec![value; count], String::new()),
            SetValue::Times(factor) => {
                let rows = named.active_in_prompt(dictionary)?;
                let mut notes = Vec::new();
                let mut values = Vec::new();
                for f in &features.numbers {
                    let Some((largest, position)) = largest(&rows, *f) else {
                        return Err(Error::BadEdit {
                            edit: edit.to_string(),
                            why: format!(
                                "feature {f} is not active in this prompt, so `{factor}x` is a multiple of nothing. Give a number: set:{}=5",
                                features.only(*f)
                            ),
                        });
                    };
                    let value = factor * largest;
                    notes.push(format!(
                        "{f} to {value:.4}, {factor} times its largest activation in the unedited prompt ({largest:.4} at position {position})"
                    ));
                    values.push(value);
                }
                towards(values, format!("sets {}", notes.join(", ")))
            }
        },
        Op::Mean(UnitsMean(_, None)) => {
            let rows = named.active_in_prompt(dictionary)?;
            let counted = &rows[usize::from(rows.len() > 1)..];
            let mean = |f: &u32| {
                let sum: f64 = counted
                    .iter()
                    .map(|row| f64::from(activation(row, *f)))
                    .sum();
                (sum / counted.len().max(1) as f64) as f32
            };
            let note = format!("mean over {} tokens of this prompt", counted.len());
            towards(features.numbers.iter().map(mean).collect(), note)
        }
        Op::Mean(_)
        | Op::Resample(_)
        | Op::Rewrite(_)
        | Op::Cut(_)
        | Op::Splice(_)
        | Op::Relate(_)
        | Op::Add(_)
        | Op::AddUnitNorm(_)
        | Op::AddRenorm(_)
        | Op::Icv(_)
        | Op::ProjectOut(_)
        | Op::ScaleAlong(_)
        | Op::ClampAlong(_)
        | Op::SetAlong(_)
        | Op::Swap(_)
        | Op::Replace(_) => None,
    })
}

/// The activation of a feature in a row.
fn activation(row: &ActiveRow, feature: u32) -> f32 {
    let found = row.binary_search_by_key(&feature, |(f, _)| *f);
    found.map_or(0.0, |i| row[i].1)
}

/// The largest activation of a feature and where that is, the first position left out if there are others; none where it is not
/// active.
fn largest(rows: &[ActiveRow], feature: u32) -> Option<(f32, usize)> {
    let skipped = usize::from(rows.len() > 1);
    let all = rows.iter().enumerate().skip(skipped);
    let all = all.map(|(position, row)| (activation(row, feature), position));
    all.filter(|(f, _)| *f != 0.0)
        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
}

/// Prepares an edit of features at one of its addresses.
pub(crate) fn prepare_features(
    edit: &Edit,
    features: &FeatureChoice,
    at: Address,
    named: &mut NamedVectors,
    control: RandomControl,
) -> Result<Placed> {
    let refused = |why: String| Error::BadEdit {
        edit: edit.to_string(),
        why,
    };
    let mut features = features.clone();
    let mut seen = Vec::new();
    features.numbers.retain(|f| {
        let new = !seen.contains(f);
        seen.push(*f);
        new
    });
    let dictionary = named.lab.dictionary_of(&features)?;
    let target = target_at(&dictionary, at).map_err(&refused)?;
    let Some(mut shift) = shift_of(edit, &features, &dictionary, named)? else {
        let name = edit.op.spec().name;
        return Err(refused(format!(
            "`{name}` does not take features of a dictionary; zero, scale, set and mean (over the prompt) do, and every operation on a direction takes {} as one",
            features.only(features.numbers[0])
        )));
    };
    let width = named.lab.model.width(at.site);
    let device = &named.lab.model.transformer.device.clone();
    let vectors_of = |list: &[u32]| -> Result<Vec<Vec<f32>>> {
        let each = list.iter().map(|f| dictionary.direction(target, *f));
        each.collect()
    };
    let mut vectors = vectors_of(&features.numbers)?;
    let mut control_note = String::new();
    if let RandomControl::Random(seed) = control {
        let rows = named.active_in_prompt(&dictionary)?;
        match others(&features.numbers, &rows, seed) {
            Some(list) => {
                let own = vectors_of(&list)?;
                // What is added stays as long as it was, whatever the lengths of the vectors.
                for ((offset, before), after) in shift.offsets.iter_mut().zip(&vectors).zip(&own) {
                    let size = norm(after);
                    *offset *= if size > NOTHING {
                        f64::from(norm(before) / size)
                    } else {
                        1.0
                    };
                }
                let spelled: Vec<String> = list.iter().map(u32::to_string).collect();
                control_note = format!(
                    "other active features of similar size, {}",
                    spelled.join(", ")
                );
                (vectors, features.numbers) = (own, list);
            }
            None => {
                vectors = vectors.iter().map(|v| random_like(v, seed)).collect();
                control_note = "random directions of equal norm, as too few other features are active in the prompt".into();
            }
        }
    }
    let kind = ChangeKind::Units {
        reader: dictionary.reader(&features.numbers)?,
        target,
        slope: shift.slope,
        offsets: shift.offsets,
        vectors: Numbers::new(vectors.concat(), width, device)?,
    };
    let reads = dictionary.reads().to_vec();
    check_order(&reads, at).map_err(refused)?;
    let elsewhere = match dictionary.writes().len() {
        1 => String::new(),
        count => format!(
            "the dictionary writes to {count} places; {}.* edits all of that site",
            at.site.spec().name
        ),
    };
    let notes = [
        shift.note,
        dictionary.caution(),
        elsewhere,
        at_the_first(edit, named),
    ];
    Ok(Placed {
        at,
        reads: reads.clone(),
        change: Change::Dictionary(Box::new(DictionaryChange { reads, kind })),
        note: joined(notes),
        control: control_note,
    })
}

/// Prepares a splice at one of its addresses.
pub(crate) fn prepare_splice(
    edit: &Edit,
    name: &str,
    at: Address,
    named: &NamedVectors,
    control: RandomControl,
) -> Result<Placed> {
    let refused = |why: String| Error::BadEdit {
        edit: edit.to_string(),
        why,
    };
    let set = named.lab.dictionaries(name)?;
    let mut parts = Vec::new();
    for dictionary in &set {
        let target = dictionary.writes().iter().position(|write| *write == at);
        parts.extend(target.map(|target| (dictionary.clone(), target)));
    }
    if parts.is_empty() {
        let all: Vec<&Address> = set.iter().flat_map(|d| d.writes()).collect();
        return Err(refused(places_of(name, &all)));
    }
    let reads: Vec<Address> = parts.iter().flat_map(|(d, _)| d.reads().to_vec()).collect();
    check_order(&reads, at).map_err(refused)?;
    let (control, control_note) = match control {
        RandomControl::No => (None, String::new()),
        RandomControl::Random(seed) => (
            Some(seed),
            "a change of equal norm in a random direction at every position".to_string(),
        ),
    };
    let notes = [at_the_first(edit, named)];
    let kind = ChangeKind::Splice {
        parts,
        strength: f64::from(edit.strength),
        control,
    };
    Ok(Placed {
        at,
        reads: reads.clone(),
        change: Change::Dictionary(Box::new(DictionaryChange { reads, kind })),
        note: joined(notes),
        control: control_note,
    })
}

/// The target of a dictionary at an address.
fn target_at(dictionary: &Arc<dyn FeatureDictionary>, at: Address) -> Result<usize, String> {
    let writes = dictionary.writes();
    let found = writes.iter().position(|write| *write == at);
    found.ok_or_else(|| places_of(dictionary.name(), &writes.iter().collect::<Vec<_>>()))
}

fn places_of(name: &str, writes: &[&Address]) -> String {
    let mut all: Vec<String> = writes.iter().map(ToString::to_string).collect();
    all.dedup();
    format!(
        "the features of {name} are changed where it writes: {}. As a direction a feature can be added anywhere: add:NAME#12@ADDRESS",
        all.join(", ")
    )
}

/// Refuses what is read only after it would be needed.
fn check_order(reads: &[Address], at: Address) -> Result<(), String> {
    match reads.iter().find(|read| !read.seen_by(at)) {
        Some(late) => Err(format!(
            "its features are read at {late}, which the forward pass reaches only after {at}. Name other places with the dictionary: PATH@READ>WRITE"
        )),
        None => Ok(()),
    }
}

/// A caution where the edit acts at the first position.
fn at_the_first(edit: &Edit, named: &NamedVectors) -> String {
    if edit.covers(0, named.given_length()) {
        "it acts at the first position too, which dictionaries are not trained on; :all-but-bos leaves it out".into()
    } else {
        String::new()
    }
}

fn joined(notes: impl IntoIterator<Item = String>) -> String {
    let said: Vec<String> = notes.into_iter().filter(|n| !n.is_empty()).collect();
    said.join("; ")
}

/// As many other features, each near one of `features` in the ranking by mean activation over the prompt, its first position left
/// out; none where too few others are active.
fn others(features: &[u32], rows: &[ActiveRow], seed: u64) -> Option<Vec<u32>> {
    let counted = &rows[usize::from(rows.len() > 1)..];
    let mut sums: std::collections::BTreeMap<u32, f32> =
        features.iter().map(|f| (*f, 0.0)).collect();
    for (f, activation) in counted.iter().flatten() {
        *sums.entry(*f).or_default() += activation.abs();
    }
    let (pool, sizes): (Vec<u32>, Vec<f32>) = sums.into_iter().unzip();
    let places = features
        .iter()
        .map(|f| pool.binary_search(f).ok().map(|i| i as u32));
    let places = places.collect::<Option<Vec<u32>>>()?;
    if pool.len() < 2 * features.len() || !finite::all(&sizes) {
        return None;
    }
    let found = alike(&places, &sizes, seed);
    let found: Vec<u32> = found.into_iter().map(|i| pool[i as usize]).collect();
    (found.len() == features.len()).then_some(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_other_active_features_of_similar_size() {
        // Sixty features, each as active as its number; the first position counts for nothing.
        let row: ActiveRow = (0..60).map(|f| (f, f as f32 + 1.0)).collect();
        let rows = vec![vec![(99, 1e6)], row.clone(), row];
        for seed in 0..20 {
            let found = others(&[30, 50], &rows, seed).unwrap();
            assert_eq!(found.len(), 2);
            assert!(!found.contains(&30) && !found.contains(&50) && !found.contains(&99));
            assert!(found[0].abs_diff(30) <= 3, "{found:?}");
            assert!(found[1].abs_diff(50) <= 3, "{found:?}");
        }
        assert_eq!(others(&[1], &[vec![], vec![(1, 2.0)]], 1), None);
    }

    #[test]
    fn the_largest_activation_is_not_that_of_the_first_position() {
        let rows = vec![vec![(3, 9.0)], vec![(3, 2.0), (4, 5.0)], vec![(3, 2.0)]];
        assert_eq!(largest(&rows, 3), Some((2.0, 1)));
        assert_eq!(largest(&rows, 5), None);
        assert_eq!(largest(&rows[..1], 3), Some((9.0, 0)));
    }

    #[test]
    fn what_is_equal_keeps_its_bits() {
        let mut x = [0.5f32, -0.0, 3.0];
        towards(&mut x, &[0.5, 0.0, 1.0], 0.5);
        assert_eq!(x.map(f32::to_bits), [0.5f32, -0.0, 2.0].map(f32::to_bits));
        towards(&mut x, &[0.1, 0.0, 1.0], 1.0);
        assert_eq!(x.map(f32::to_bits), [0.1f32, -0.0, 1.0].map(f32::to_bits));
    }
}
