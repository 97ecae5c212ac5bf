//! Prepares edits of features: finds the dictionary, and says by what its activations change and what the control is.
//!
//! Features are read where their dictionary reads, in the same pass and after earlier edits there, and the change is made where
//! it writes. The formulas are in `lab/formulas/dictionary.rs`.
//! Invariant: what does not fit the model or the dictionary is refused here, before the first pass. To change activations in
//! another way, add it to [`shift_of`].

use std::sync::Arc;

use super::control_units::near_in_size;
use super::features::{ActiveRow, FeatureDictionary, activation};
use super::formulas::{Change, DictionaryChange, DictionaryOperation, Numbers};
use super::named_vectors::NamedVectors;
use super::prepare::Placed;
use crate::edit::Edit;
use crate::edit::direction::{NOTHING, norm, random_like};
use crate::edit::feature::FeatureChoice;
use crate::edit::op::{Op, SetValue, UnitsMean};
use crate::error::{Error, Result};
use crate::model::network::finite;
use crate::model::network::site::Address;

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
                                "feature {f} is not active in this prompt, so `{factor}x` is a multiple of nothing. Give a number: `:clamp 5` on the screen, set:{}=5 in an edit",
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
        | Op::Only(_)
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
    control: Option<u64>,
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
    let device = &named.lab.model.transformer.placement.device_at(at).clone();
    let vectors_of = |list: &[u32]| -> Result<Vec<Vec<f32>>> {
        let each = list.iter().map(|f| dictionary.direction(target, *f));
        each.collect()
    };
    let mut vectors = vectors_of(&features.numbers)?;
    let mut control_note = String::new();
    if let Some(seed) = control {
        let rows = named.active_in_prompt(&dictionary)?;
        if let Some(list) = others(&features.numbers, &rows, seed) {
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
                "other active features of similar size ({})",
                spelled.join(", ")
            );
            (vectors, features.numbers) = (own, list);
        } else {
            vectors = vectors.iter().map(|v| random_like(v, seed)).collect();
            control_note = "random directions of equal norm, as too few other features are active in the prompt".into();
        }
    }
    let kind = DictionaryOperation::Units {
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
    control: Option<u64>,
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
        None => (None, String::new()),
        Some(seed) => (
            Some(seed),
            "a change of equal norm in a random direction at every position".to_string(),
        ),
    };
    let notes = [at_the_first(edit, named)];
    let kind = DictionaryOperation::Splice {
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
    let found = near_in_size(&sizes, &places, seed);
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
            assert!(found[0].abs_diff(30) <= 9, "{found:?}");
            assert!(found[1].abs_diff(50) <= 9, "{found:?}");
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
}
