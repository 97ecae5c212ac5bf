//! What a dictionary is worth on a text: how sparse it is, what it explains, and what the model loses when it goes on from the
//! reconstruction.
//!
//! `L0`: active features a position. Explained variance: `1 − Σ‖y − ŷ‖² / Σ‖y − mean y‖²`. CE recovered: `(CE_zero − CE_spliced) /
//! (CE_zero − CE_base)`, where the target is replaced at every position but the first: by the reconstruction, by zeros, and, as a
//! control, by its mean over the text. A control for the variance is the same dictionary with the vectors of other features.
//! Dead: never active on the text.
//!
//! Invariant: the first position of a context is neither replaced nor counted, and neither are positions with ten times the usual
//! norm, for which no dictionary is trained; an interval is that of resampled contexts (95 %,
//! percentiles). To measure something else, add it to [`DictionaryReport`].
//!
//! Source: methods.md M5; SAELens `evals.py`; Gao et al. 2406.04093, section 4.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Serialize;

use super::captured::{captures, later_values};
use super::dictionary::Encoded;
use super::opened::{DictionarySet, PlacedDictionary};
use super::train::activations::{limit_of, rows_of};
use crate::edit::direction::norm;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::bootstrap::WithInterval;
use crate::lab::capture::{Capture, Output};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::run::Run;
use crate::model::network::site::Address;

/// Rows that are read at once.
const AT_ONCE: usize = 4096;

/// What a dictionary is worth on a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DictionaryReport {
    /// The address that is reconstructed.
    pub target: String,
    pub contexts: usize,
    /// Positions that are counted.
    pub tokens: usize,
    /// Positions that are left out because their norm is ten times the usual one.
    pub left_out: usize,
    pub l0: f64,
    pub explained: WithInterval,
    /// Explained variance with the vectors of other features.
    pub explained_control: f64,
    /// Cross-entropy of the model as it is, in nats a token.
    pub ce_base: f64,
    /// With the reconstruction in place of the target.
    pub ce_spliced: f64,
    /// With zeros there.
    pub ce_zero: f64,
    /// With its mean over this text there.
    pub ce_mean: f64,
    /// Not-a-number, null in JSON, where zeros make the text no less probable: it is foreign to the model.
    pub ce_recovered: WithInterval,
    /// CE recovered by the mean alone: what any dictionary has for nothing.
    pub ce_recovered_control: f64,
    /// The share of features that are never active on this text.
    pub dead: f64,
    pub features: usize,
}

/// What one context gives.
#[derive(Clone, Debug, Default)]
struct ContextSums {
    rows: f64,
    left_out: usize,
    l0: f64,
    error: f64,
    control: f64,
    squares: f64,
    sums: Vec<f64>,
    /// Σ −log p: base, spliced, zero, mean.
    losses: [f64; 4],
    predicted: f64,
}

/// Evaluates one dictionary of a set on contexts of two tokens or more; of a cross-layer set every dictionary that writes to the same
/// place takes part in the reconstruction.
///
/// # Errors
///
/// When there is no context, the work is stopped, or numbers are not finite.
pub fn evaluate(
    lab: &mut Lab,
    set: &DictionarySet,
    chosen: &PlacedDictionary,
    contexts: &[Vec<u32>],
    seed: u64,
) -> Result<DictionaryReport> {
    if contexts.is_empty() {
        return Err(Error::argument(
            "--text",
            "no context",
            "a text of two tokens or more",
        ));
    }
    let target = chosen.writes.first().copied();
    let target = target.ok_or_else(|| Error::Engine("a dictionary without a target".into()))?;
    let features = chosen.dictionary.features();
    let mut record = vec![target];
    for part in set
        .dictionaries
        .iter()
        .filter(|d| d.writes.contains(&target))
    {
        record.extend(&part.reads);
    }
    record.sort_unstable();
    record.dedup();
    // Contexts of one length are read together.
    let mut by_length: BTreeMap<usize, Vec<&Vec<u32>>> = BTreeMap::new();
    contexts
        .iter()
        .for_each(|c| by_length.entry(c.len()).or_default().push(c));
    let groups: Vec<Vec<Vec<u32>>> = by_length
        .into_iter()
        .flat_map(|(length, alike)| {
            let most = (AT_ONCE / length).max(1);
            let groups = alike
                .chunks(most)
                .map(|g| g.iter().map(|c| (*c).clone()).collect());
            groups.collect::<Vec<Vec<Vec<u32>>>>()
        })
        .collect();
    let mut sums: Vec<ContextSums> = Vec::with_capacity(contexts.len());
    let mut active = vec![false; features];
    let mut made: Vec<Vec<Replaced>> = Vec::with_capacity(groups.len());
    let total = 5 * groups.len();
    let mut limit = None;
    for (i, group) in groups.iter().enumerate() {
        lab.report(i as f32 / total as f32)?;
        let captures = lab.without_progress(|lab| captures(lab, group.iter().cloned(), &record))?;
        if limit.is_none() {
            let all = captures.iter().map(|capture| later_values(capture, target));
            let all = all.collect::<Result<Vec<_>>>()?.concat();
            limit = Some(limit_of(&all, lab.model.width(target.site)));
        }
        let limit = limit.unwrap_or(f32::INFINITY);
        let mut own = Vec::with_capacity(group.len());
        for capture in &captures {
            let (reconstruction, context) =
                reconstruct(set, chosen, target, capture, limit, &mut active)?;
            own.push(reconstruction);
            sums.push(context);
        }
        made.push(own);
    }
    let rows: f64 = sums.iter().map(|s| s.rows).sum();
    let width = lab.model.width(target.site);
    let mut mean = vec![0f64; width];
    for context in &sums {
        mean.iter_mut()
            .zip(&context.sums)
            .for_each(|(m, s)| *m += s / rows);
    }
    let flat: Vec<f32> = mean.iter().map(|m| *m as f32).collect();
    let mut done = 0;
    for (i, group) in groups.iter().enumerate() {
        let length = group[0].len();
        for place in 0..4 {
            lab.report((groups.len() + 4 * i + place) as f32 / total as f32)?;
            let value = |context: usize, position: usize| -> Option<Vec<f32>> {
                let of = &made[i][context];
                if of.outside[position - 1] {
                    return None;
                }
                match place {
                    0 => None,
                    1 => Some(of.values[(position - 1) * width..position * width].to_vec()),
                    2 => Some(vec![0.0; width]),
                    _ => Some(flat.clone()),
                }
            };
            let losses = lab.without_progress(|lab| losses(lab, group, target, &value))?;
            for (context, loss) in losses.into_iter().enumerate() {
                let to = &mut sums[done + context];
                to.losses[place] = loss;
                to.predicted = length.saturating_sub(2) as f64;
            }
        }
        done += group.len();
    }
    Ok(report(&sums, &mean, target, features, &active, seed))
}

/// What stands in the place of a context's activations.
struct Replaced {
    /// Without the first position, `[positions − 1, width]`.
    values: Vec<f32>,
    /// Positions that are left as they are.
    outside: Vec<bool>,
}

/// What a dictionary makes of a context: the reconstruction without the first position, and what is counted of it.
fn reconstruct(
    set: &DictionarySet,
    chosen: &PlacedDictionary,
    target: Address,
    capture: &Capture,
    limit: f32,
    active: &mut [bool],
) -> Result<(Replaced, ContextSums)> {
    let y = later_values(capture, target)?;
    let width = chosen
        .dictionary
        .targets
        .first()
        .map_or(1, |t| t.decoder.width)
        .max(1);
    let mut made = vec![0f32; y.len()];
    let mut control = made.clone();
    let outside: Vec<bool> = y.chunks_exact(width).map(|row| norm(row) > limit).collect();
    let left_out = outside.iter().filter(|out| **out).count();
    let mut sums = ContextSums {
        rows: (outside.len() - left_out) as f64,
        left_out,
        ..ContextSums::default()
    };
    for part in &set.dictionaries {
        let Some(at) = part.writes.iter().position(|write| *write == target) else {
            continue;
        };
        let encoded = part.encode(capture, later_values)?;
        let first = part.reads.first().map(|read| later_values(capture, *read));
        let first = &first.transpose()?.unwrap_or_default();
        let add =
            |to: &mut [f32], from: Vec<f32>| to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
        add(&mut made, part.dictionary.decode(at, &encoded, first)?);
        add(
            &mut control,
            part.dictionary
                .decode(at, &turned(&encoded, part.dictionary.features()), first)?,
        );
        if std::ptr::eq(part, chosen) {
            let rows = encoded.features.iter().zip(&outside);
            for (row, _) in rows.filter(|(_, out)| !**out) {
                sums.l0 += row.len() as f64;
                row.iter().for_each(|(f, _)| active[*f as usize] = true);
            }
        }
    }
    let off = |made: &[f32]| -> f64 {
        let rows = y
            .chunks_exact(width)
            .zip(made.chunks_exact(width))
            .zip(&outside);
        let pairs = rows
            .filter(|(_, out)| !**out)
            .flat_map(|((y, made), _)| y.iter().zip(made));
        pairs.map(|(y, made)| f64::from(y - made).powi(2)).sum()
    };
    (sums.error, sums.control) = (off(&made), off(&control));
    sums.sums = vec![0.0; width];
    for (row, _) in y
        .chunks_exact(width)
        .zip(&outside)
        .filter(|(_, out)| !**out)
    {
        for (sum, y) in sums.sums.iter_mut().zip(row) {
            *sum += f64::from(*y);
            sums.squares += f64::from(*y).powi(2);
        }
    }
    let replaced = Replaced {
        values: made,
        outside,
    };
    Ok((replaced, sums))
}

/// The same activations on the vectors of other features: half the features further on.
fn turned(encoded: &Encoded, features: usize) -> Encoded {
    let by = (features / 2).max(1) as u32;
    let turn = |(f, act): &(u32, f32)| ((f + by) % features as u32, *act);
    let rows = encoded
        .features
        .iter()
        .map(|row| row.iter().map(turn).collect());
    Encoded {
        features: rows.collect(),
        norms: encoded.norms.clone(),
    }
}

/// Σ −log p of the tokens from the third on, for contexts of one length, with some values in place of the target.
fn losses(
    lab: &mut Lab,
    contexts: &[Vec<u32>],
    target: Address,
    value: &dyn Fn(usize, usize) -> Option<Vec<f32>>,
) -> Result<Vec<f64>> {
    let length = contexts.first().map_or(0, Vec::len);
    if length < 3 {
        return Ok(vec![0.0; contexts.len()]);
    }
    let device = lab.model.transformer.device.clone();
    let mut rows = Vec::with_capacity(contexts.len());
    for (i, tokens) in contexts.iter().enumerate() {
        let mut patches = Vec::new();
        for position in 1..length {
            if let Some(value) = value(i, position) {
                let value = Tensor::from_vec(value, lab.model.width(target.site), &device)?;
                patches.push(Patch::new(target, position, value));
            }
        }
        rows.push(PassRow {
            tokens: tokens.clone(),
            patches,
            ..PassRow::default()
        });
    }
    let output = Output::next_tokens(contexts.iter().map(Vec::as_slice), 2..length);
    let captures = lab.run(&Pass {
        rows,
        output,
        ..Pass::of(Run::plain(Vec::new()))
    })?;
    let loss = |capture: &Capture| capture.next_token_losses().sum::<f64>();
    Ok(captures.iter().map(loss).collect())
}

/// The numbers of a report from those of its contexts.
fn report(
    sums: &[ContextSums],
    mean: &[f64],
    target: Address,
    features: usize,
    active: &[bool],
    seed: u64,
) -> DictionaryReport {
    let around: f64 = mean.iter().map(|m| m * m).sum();
    let variances: Vec<f64> = sums
        .iter()
        .map(|s| {
            let along: f64 = s.sums.iter().zip(mean).map(|(s, m)| s * m).sum();
            s.squares - 2.0 * along + s.rows * around
        })
        .collect();
    let all: Vec<usize> = (0..sums.len()).collect();
    let sum =
        |of: &dyn Fn(usize) -> f64, chosen: &[usize]| chosen.iter().map(|i| of(*i)).sum::<f64>();
    let explained = |chosen: &[usize]| {
        1.0 - sum(&|i| sums[i].error, chosen)
            / sum(&|i| variances[i], chosen).max(f64::MIN_POSITIVE)
    };
    let recovered = |place: usize, chosen: &[usize]| {
        let loss = |place: usize| sum(&|i| sums[i].losses[place], chosen);
        let cost = loss(2) - loss(0);
        // Of nothing that is lost there is no share.
        if cost > 0.0 {
            (loss(2) - loss(place)) / cost
        } else {
            f64::NAN
        }
    };
    let interval = |of: &dyn Fn(&[usize]) -> f64| WithInterval::over(sums.len(), seed, of);
    let rows = sum(&|i| sums[i].rows, &all);
    let predicted = sum(&|i| sums[i].predicted, &all).max(1.0);
    let ce = |place: usize| sum(&|i| sums[i].losses[place], &all) / predicted;
    let variance = sum(&|i| variances[i], &all).max(f64::MIN_POSITIVE);
    DictionaryReport {
        target: target.to_string(),
        contexts: sums.len(),
        tokens: rows as usize,
        left_out: sums.iter().map(|s| s.left_out).sum(),
        l0: sum(&|i| sums[i].l0, &all) / rows,
        explained: interval(&explained),
        explained_control: 1.0 - sum(&|i| sums[i].control, &all) / variance,
        ce_base: ce(0),
        ce_spliced: ce(1),
        ce_zero: ce(2),
        ce_mean: ce(3),
        ce_recovered: interval(&|chosen| recovered(1, chosen)),
        ce_recovered_control: recovered(3, &all),
        dead: active.iter().filter(|a| !**a).count() as f64 / features.max(1) as f64,
        features,
    }
}

/// The first contexts that give at most so many rows; at least one.
pub fn first_of(contexts: &[Vec<u32>], tokens: usize) -> &[Vec<u32>] {
    let mut count = 0;
    let fits = |i: &usize| rows_of(&contexts[..*i]) <= tokens;
    while count < contexts.len() && fits(&(count + 1)) {
        count += 1;
    }
    &contexts[..count.max(1).min(contexts.len())]
}
