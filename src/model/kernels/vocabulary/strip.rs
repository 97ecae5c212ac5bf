//! What is taken of the logits of one strip, and how the sums of strips become those of a row.
//!
//! Invariant: a strip is padded to whole vectors with what changes no sum; sums are merged in f64, in the order of the strips, and
//! what does not depend on that order is kept apart ([`RowFindings`]).
//! To take something else, add it to [`StripSums`] or [`RowFindings`], and to `take`.
#![allow(unsafe_code)] // Vector instructions over strips whose lengths are compared first.

use std::ops::Range;

use super::request::{LogitScale, RowQuestion, RowSums, STRIP};
use crate::model::kernels::exponent::{SMALLEST, exp, tanh};
use crate::model::kernels::lanes::Lanes;
use crate::model::kernels::machine::{Processor, with_lanes};

/// What stands for logits behind the end of the vocabulary, and for minus infinity where a difference is taken.
pub(super) const LEAST: f32 = -1e30;

/// Sums of one strip; exponentials are taken of differences from the strip's largest logit.
#[derive(Clone, Copy, Default)]
pub(super) struct StripSums {
    top: f32,
    /// `Σ e^(z - top)`.
    sum: f64,
    /// `Σ e^(z - top) (z - top)`.
    first: f64,
    /// The largest logit of the other row.
    their_top: f32,
    /// `Σ e^(z' - their_top)`.
    mass: f64,
    /// `Σ e^(z' - their_top) (z' - z)`.
    cross: f64,
}

/// The sums so far, against the largest logit so far.
#[derive(Clone, Copy)]
pub(super) struct RunningSums(pub StripSums);

/// What does not depend on the order of strips.
#[derive(Clone)]
pub(super) struct RowFindings {
    finite: bool,
    best: Vec<(u32, f32)>,
    above: Vec<u32>,
    gap: f32,
}

impl RunningSums {
    pub const NOTHING: Self = Self(StripSums {
        top: f32::NEG_INFINITY,
        sum: 0.0,
        first: 0.0,
        their_top: f32::NEG_INFINITY,
        mass: 0.0,
        cross: 0.0,
    });

    pub fn add(&mut self, strip: &StripSums) {
        let sums = &mut self.0;
        let top = sums.top.max(strip.top);
        let (less, by) = weight(sums.top, top);
        let (own, own_by) = weight(strip.top, top);
        sums.first = less * (sums.first + by * sums.sum) + own * (strip.first + own_by * strip.sum);
        sums.sum = less * sums.sum + own * strip.sum;
        sums.top = top;
        let top = sums.their_top.max(strip.their_top);
        let (less, own) = (
            weight(sums.their_top, top).0,
            weight(strip.their_top, top).0,
        );
        sums.mass = less * sums.mass + own * strip.mass;
        sums.cross = less * sums.cross + own * strip.cross;
        sums.their_top = top;
    }
}

/// What sums against `from` are multiplied by to be sums against `to`, and its logarithm; nothing where that is nothing.
fn weight(from: f32, to: f32) -> (f64, f64) {
    let by = f64::from(from) - f64::from(to);
    if by > -700.0 {
        (by.exp(), by)
    } else {
        (0.0, 0.0)
    }
}

impl RowFindings {
    pub fn of(question: &RowQuestion) -> Self {
        Self {
            finite: true,
            best: Vec::with_capacity(question.top.min(STRIP) + 1),
            above: vec![0; question.tokens.len()],
            gap: 0.0,
        }
    }

    /// Takes in what others found.
    pub fn join(&mut self, other: &Self, top: usize) {
        self.finite &= other.finite;
        self.best.extend_from_slice(&other.best);
        self.best.sort_by(|a, b| {
            let larger = b.1.partial_cmp(&a.1);
            larger
                .unwrap_or(std::cmp::Ordering::Equal)
                .then(a.0.cmp(&b.0))
        });
        self.best.truncate(top);
        for (above, other) in self.above.iter_mut().zip(&other.above) {
            *above += other;
        }
        self.gap = larger(self.gap, other.gap);
    }

    pub fn finish(self, question: &RowQuestion, sums: &StripSums, marks: &[(u32, f32)]) -> RowSums {
        let tokens = marks.iter().zip(self.above);
        let tokens = tokens
            .map(|((id, logit), above)| (*id, *logit, above))
            .collect();
        if !self.finite || sums.top <= LEAST {
            return RowSums::no_distribution(tokens);
        }
        let total = f64::from(sums.top) + sums.sum.ln();
        let compared = question.against.is_some();
        RowSums {
            total,
            top: self.best,
            tokens,
            // ln Σ e^(z - top) - Σ p (z - top).
            entropy: if question.entropy {
                (sums.sum.ln() - sums.first / sums.sum).max(0.0)
            } else {
                f64::NAN
            },
            // Σ p' (ln p' - ln p) = Σ p' (z' - z) - total' + total, with the same p' everywhere.
            kl: if compared {
                let theirs = f64::from(sums.their_top) + sums.mass.ln();
                RowSums::divergence(sums.cross / sums.mass - theirs + total, self.gap)
            } else {
                f64::NAN
            },
            gap: if compared { self.gap } else { f32::NAN },
        }
    }
}

/// The larger; what is not a number is kept.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// A strip of one row and what is asked of it.
pub(super) struct StripTask<'a> {
    /// Logits, padded with [`LEAST`] to whole vectors.
    pub logits: &'a [f32],
    /// Those of the other row, likewise.
    pub other: Option<&'a [f32]>,
    /// How many of them there are.
    pub count: usize,
    /// The first token.
    pub start: usize,
    pub known: usize,
    pub question: &'a RowQuestion<'a>,
    /// Logits of the tokens of interest.
    pub marks: &'a [(u32, f32)],
}

/// Takes a strip in.
///
/// # Safety
/// The machine has the lanes.
#[inline(always)]
unsafe fn take<S: Lanes>(task: &StripTask, found: &mut RowFindings) -> StripSums {
    let length = task.logits.len();
    assert!(length.is_multiple_of(16) && length - task.count < 16);
    let z = task.logits.as_ptr();
    let all = u32::MAX >> (32 - S::N);
    // SAFETY: the rows are padded to whole vectors, and the caller's machine has the lanes.
    unsafe {
        let mut most = S::splat(LEAST);
        let mut finite = all;
        for k in (0..length).step_by(S::N) {
            let v = S::load(z.add(k));
            finite &= S::greater(S::splat(f32::INFINITY), v);
            most = S::max(most, v);
        }
        if finite != all {
            found.finite = false;
        }
        if !found.finite {
            return StripSums::default();
        }
        let top = horizontal::<S>(most);
        let mut sums = StripSums {
            top,
            ..StripSums::default()
        };
        let (mut sum, mut first) = (S::splat(0.0), S::splat(0.0));
        if task.question.entropy {
            for k in (0..length).step_by(S::N) {
                let by = S::minus(S::load(z.add(k)), S::splat(top));
                let by = S::max(by, S::splat(SMALLEST));
                let e = exp::<S>(by);
                sum = S::add(sum, e);
                first = S::fma(e, by, first);
            }
        } else {
            for k in (0..length).step_by(S::N) {
                sum = S::add(sum, exp::<S>(S::minus(S::load(z.add(k)), S::splat(top))));
            }
        }
        sums.sum = f64::from(S::sum(sum));
        sums.first = f64::from(S::sum(first));
        strongest::<S>(task, top, found);
        if task.question.ranks {
            for ((_, logit), above) in task.marks.iter().zip(&mut found.above) {
                if top > *logit {
                    *above += larger_than::<S>(task.logits, task.count, *logit);
                }
            }
        }
        if let Some(other) = task.other {
            assert_eq!(other.len(), length);
            let theirs = other.as_ptr();
            let (mut most, mut finite) = (S::splat(LEAST), all);
            for k in (0..length).step_by(S::N) {
                let v = S::load(theirs.add(k));
                finite &= S::greater(S::splat(f32::INFINITY), v);
                most = S::max(most, v);
            }
            if finite != all {
                found.gap = f32::NAN;
                return sums;
            }
            sums.their_top = horizontal::<S>(most);
            let (mut mass, mut cross, mut gap) = (S::splat(0.0), S::splat(0.0), S::splat(0.0));
            for k in (0..length).step_by(S::N) {
                let theirs = S::max(S::load(theirs.add(k)), S::splat(LEAST));
                let own = S::max(S::load(z.add(k)), S::splat(LEAST));
                let by = S::minus(theirs, S::splat(sums.their_top));
                let e = exp::<S>(by);
                mass = S::add(mass, e);
                // Differences of what lies below the largest, whose rounding is least where the weight is greatest.
                cross = S::fma(e, S::minus(by, S::minus(own, S::splat(top))), cross);
                gap = S::max(gap, S::max(S::minus(own, theirs), S::minus(theirs, own)));
            }
            sums.mass = f64::from(S::sum(mass));
            let between = f64::from(sums.their_top) - f64::from(top);
            sums.cross = f64::from(S::sum(cross)) + sums.mass * between;
            let gap = horizontal::<S>(gap);
            // A token that one row bans and the other does not.
            let gap = if gap > -0.5 * LEAST {
                f32::INFINITY
            } else {
                gap
            };
            found.gap = larger(found.gap, gap);
        }
        sums
    }
}

#[inline(always)]
unsafe fn horizontal<S: Lanes>(v: S::F) -> f32 {
    let mut lanes = [LEAST; 16];
    // SAFETY: the array has room for the widest lanes, which the caller's machine has.
    unsafe { S::store(v, lanes.as_mut_ptr()) }
    lanes.into_iter().fold(LEAST, f32::max)
}

/// How many of the first `count` numbers are larger.
#[inline(always)]
unsafe fn larger_than<S: Lanes>(numbers: &[f32], count: usize, than: f32) -> u32 {
    let mut above = 0;
    let mut k = 0;
    while k < count {
        // SAFETY: logits are padded to whole vectors, and the caller's machine has the lanes.
        let mask = unsafe { S::greater(S::load(numbers.as_ptr().add(k)), S::splat(than)) };
        let left = count - k;
        above += (mask & (u32::MAX >> (32 - left.min(S::N)))).count_ones();
        k += S::N;
    }
    above
}

/// Keeps the strongest tokens. Ids come in order, so equals stay in the order of their ids.
#[inline(always)]
unsafe fn strongest<S: Lanes>(task: &StripTask, top: f32, found: &mut RowFindings) {
    let most = task.question.top;
    let counted = task.known.saturating_sub(task.start).min(task.count);
    let mut next = 0;
    while next < counted && found.best.len() < most {
        insert(
            &mut found.best,
            (task.start + next) as u32,
            task.logits[next],
        );
        next += 1;
    }
    let Some(mut worst) = found.best.last().map(|last| last.1) else {
        return;
    };
    if top <= worst {
        return;
    }
    let mut k = next / S::N * S::N;
    while k < counted {
        // SAFETY: logits are padded to whole vectors, and the caller's machine has the lanes.
        let mask = unsafe { S::greater(S::load(task.logits.as_ptr().add(k)), S::splat(worst)) };
        let left = counted - k;
        let mut mask = mask & (u32::MAX >> (32 - left.min(S::N)));
        if k < next {
            mask &= u32::MAX << (next - k);
        }
        while mask != 0 {
            let at = k + mask.trailing_zeros() as usize;
            mask &= mask - 1;
            if task.logits[at] > worst {
                found.best.pop();
                insert(&mut found.best, (task.start + at) as u32, task.logits[at]);
                worst = found.best.last().map_or(worst, |last| last.1);
            }
        }
        k += S::N;
    }
}

fn insert(best: &mut Vec<(u32, f32)>, id: u32, logit: f32) {
    let at = best.partition_point(|held| held.1 >= logit);
    best.insert(at, (id, logit));
}

/// Multiplier and soft-cap.
///
/// # Safety
/// The machine has the lanes, and whole vectors are given.
#[inline(always)]
unsafe fn scaled<S: Lanes>(row: &mut [f32], scale: &LogitScale) {
    // SAFETY: the rows are padded to whole vectors, and the caller's machine has the lanes.
    unsafe {
        for k in (0..row.len()).step_by(S::N) {
            let at = row.as_mut_ptr().add(k);
            let mut z = S::mul(S::load(at), S::splat(scale.scale));
            if let Some(cap) = scale.cap {
                z = S::mul(tanh::<S>(S::mul(z, S::splat(1.0 / cap))), S::splat(cap));
            }
            S::store(z, at);
        }
    }
}

pub(super) fn take_on(on: Processor, task: &StripTask, found: &mut RowFindings) -> StripSums {
    with_lanes!(on, take(task: &StripTask, found: &mut RowFindings) -> StripSums)
}

pub(super) fn scaled_on(on: Processor, row: &mut [f32], scale: &LogitScale) {
    with_lanes!(on, scaled(row: &mut [f32], scale: &LogitScale));
}

/// A strip of a row that is laid out; the last one is copied, to be padded.
pub(super) fn padded<'a>(
    row: &'a [f32],
    range: &Range<usize>,
    end: &'a mut [f32; STRIP],
) -> &'a [f32] {
    if range.len() == STRIP {
        return &row[range.clone()];
    }
    let length = range.len().next_multiple_of(16);
    end[..range.len()].copy_from_slice(&row[range.clone()]);
    end[range.len()..length].fill(LEAST);
    &end[..length]
}
