//! Operations on rows between products: norms, softmax, activations.
//!
//! Invariant: the result of a row does not depend on other rows; that of a softmax does not depend on the number of masked
//! positions after the last visible one. Sums are over lanes first; the last vector of a row is padded with values that do not
//! change the sum. NaN stays NaN. To add an activation, add a variant of [`Gate`] and its arm in `gate`.
#![allow(unsafe_code)] // Each block says what it relies on; vectors are loaded and stored within slices that are checked here.

use super::exponent::exp_of_any;
use super::lanes::Lanes;
use super::machine::Processor;
use super::threads;
use super::vectorised::{Vectorised, run};

/// The largest number of lanes.
const MOST: usize = 16;

/// The cost of an exponential, in multiplications.
const EXPONENTIAL: usize = 16;

/// Activations that are computed here from exponentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// `x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3)))`, which equals the form with tanh.
    GeluTanh,
}

/// RMSNorm of every row of `x`, `[rows, width]`: divided by the root of its mean square, times `gain`, `[width]`.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn rms_norm(x: &[f32], gain: &[f32], epsilon: f32, y: &mut [f32]) {
    normed(Processor::best(), x, gain, None, epsilon, y);
}

/// LayerNorm of every row of `x`, `[rows, width]`: minus its mean, divided by its standard deviation, times `gain`, plus
/// `bias`, `[width]` each.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) {
    normed(Processor::best(), x, gain, Some(bias), epsilon, y);
}

/// Gain and bias of a norm, `[width]` each, on every row of `x`: with the same bits as the norms themselves give.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn gained(x: &[f32], gain: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let width = gain.len();
    assert!(x.len() == y.len() && bias.is_none_or(|b| b.len() == width));
    if width == 0 {
        return;
    }
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        run(Processor::best(), GainedRow { x, gain, bias, y });
    }
}

/// Both norms, with the instructions of a processor; a row is centred if there is a bias.
pub(super) fn normed(
    on: Processor,
    x: &[f32],
    gain: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    y: &mut [f32],
) {
    let width = gain.len();
    assert!(x.len() == y.len() && bias.is_none_or(|b| b.len() == width));
    if width == 0 {
        return;
    }
    threads::rows(y, width, 4 * x.len(), |first, y| {
        let x = &x[first * width..][..y.len()];
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            run(
                on,
                NormedRow {
                    x,
                    gain,
                    bias,
                    epsilon,
                    y,
                },
            );
        }
    });
}

/// The softmax of every row of `x` `[rows, width]`, in place.
pub fn softmax(x: &mut [f32], width: usize) {
    softmax_on(Processor::best(), x, width);
}

/// As [`softmax`], with the instructions of a processor.
pub(super) fn softmax_on(on: Processor, x: &mut [f32], width: usize) {
    if width == 0 {
        return;
    }
    let cost = EXPONENTIAL * x.len();
    threads::rows(x, width, cost, |_, rows| {
        for row in rows.chunks_exact_mut(width) {
            run(on, SoftmaxRow(row));
        }
    });
}

/// The activation of every number of `x`, times the corresponding number of `by`.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn activated(gate: Gate, x: &[f32], by: Option<&[f32]>, y: &mut [f32]) {
    activated_on(Processor::best(), gate, x, by, y);
}

/// As [`activated`], with the instructions of a processor.
pub(super) fn activated_on(
    on: Processor,
    gate: Gate,
    x: &[f32],
    by: Option<&[f32]>,
    y: &mut [f32],
) {
    /// How many numbers a task has.
    const PART: usize = 1024;
    assert!(x.len() == y.len() && by.is_none_or(|by| by.len() == x.len()));
    threads::rows(y, PART, EXPONENTIAL * x.len(), |first, y| {
        let at = first * PART;
        let (x, by) = (&x[at..][..y.len()], by.map(|by| &by[at..][..y.len()]));
        run(on, Activated { gate, x, by, y });
    });
}

/// The derivative of an activation at every number of `x`.
///
/// # Panics
///
/// If the lengths differ.
pub fn slopes(gate: Gate, x: &[f32], y: &mut [f32]) {
    slopes_on(Processor::best(), gate, x, y);
}

/// As [`slopes`], with the instructions of a processor.
pub(super) fn slopes_on(on: Processor, gate: Gate, x: &[f32], y: &mut [f32]) {
    /// How many numbers a task has.
    const PART: usize = 1024;
    assert_eq!(x.len(), y.len());
    threads::rows(y, PART, EXPONENTIAL * x.len(), |first, y| {
        let x = &x[first * PART..][..y.len()];
        run(on, Slopes { gate, x, y });
    });
}

struct NormedRow<'a> {
    x: &'a [f32],
    gain: &'a [f32],
    bias: Option<&'a [f32]>,
    epsilon: f32,
    y: &'a mut [f32],
}

struct GainedRow<'a> {
    x: &'a [f32],
    gain: &'a [f32],
    bias: Option<&'a [f32]>,
    y: &'a mut [f32],
}

struct SoftmaxRow<'a>(&'a mut [f32]);

struct Activated<'a> {
    gate: Gate,
    x: &'a [f32],
    by: Option<&'a [f32]>,
    y: &'a mut [f32],
}

struct Slopes<'a> {
    gate: Gate,
    x: &'a [f32],
    y: &'a mut [f32],
}

/// `N` numbers of a slice from `at` on; numbers past its end are replaced by `rest`.
#[inline(always)]
unsafe fn take<S: Lanes>(x: &[f32], at: usize, rest: f32) -> S::F {
    if at + S::N <= x.len() {
        // SAFETY: within the slice; the caller's machine has these instructions.
        return unsafe { S::load(x.as_ptr().add(at)) };
    }
    let mut whole = [rest; MOST];
    let left = &x[at..];
    whole[..left.len()].copy_from_slice(left);
    // SAFETY: as many numbers as the largest number of lanes; the caller's machine has these instructions.
    unsafe { S::load(whole.as_ptr()) }
}

/// Writes `N` numbers to a slice from `at` on, as many as there is room for.
#[inline(always)]
unsafe fn give<S: Lanes>(v: S::F, y: &mut [f32], at: usize) {
    if at + S::N <= y.len() {
        // SAFETY: within the slice; the caller's machine has these instructions.
        return unsafe { S::store(v, y.as_mut_ptr().add(at)) };
    }
    let mut whole = [0.0; MOST];
    // SAFETY: as many numbers as the largest number of lanes; the caller's machine has these instructions.
    unsafe { S::store(v, whole.as_mut_ptr()) };
    let left = &mut y[at..];
    let count = left.len();
    left.copy_from_slice(&whole[..count]);
}

/// The sum of a function over a row; the function is zero for `rest`.
#[inline(always)]
unsafe fn total<S: Lanes>(x: &[f32], rest: f32, of: impl Fn(S::F) -> S::F) -> f32 {
    // SAFETY: the caller's machine has these instructions.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        let mut at = 0;
        while at < x.len() {
            for sum in &mut sums {
                if at < x.len() {
                    *sum = S::add(*sum, of(take::<S>(x, at, rest)));
                    at += S::N;
                }
            }
        }
        let [a, b, c, d] = sums;
        S::sum(S::add(S::add(a, b), S::add(c, d)))
    }
}

impl Vectorised for NormedRow<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self {
            x,
            gain,
            bias,
            epsilon,
            y,
        } = self;
        let width = x.len() as f32;
        // SAFETY: the caller's machine has these instructions.
        unsafe {
            let mean = match bias {
                Some(_) => total::<S>(x, 0.0, |v| v) / width,
                None => 0.0,
            };
            let less = S::splat(-mean);
            // The padding is the mean itself, so that its difference is zero.
            let square = total::<S>(x, mean, |v| {
                let v = S::add(v, less);
                S::mul(v, v)
            });
            let scale = S::splat((square / width + epsilon).sqrt().recip());
            for at in (0..x.len()).step_by(S::N) {
                let v = S::mul(S::add(take::<S>(x, at, 0.0), less), scale);
                let gain = take::<S>(gain, at, 0.0);
                let v = match bias {
                    Some(bias) => S::fma(v, gain, take::<S>(bias, at, 0.0)),
                    None => S::mul(v, gain),
                };
                give::<S>(v, y, at);
            }
        }
    }
}

impl Vectorised for GainedRow<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self { x, gain, bias, y } = self;
        // SAFETY: the caller's machine has these instructions.
        unsafe {
            for at in (0..x.len()).step_by(S::N) {
                let v = take::<S>(x, at, 0.0);
                let gain = take::<S>(gain, at, 0.0);
                let v = match bias {
                    Some(bias) => S::fma(v, gain, take::<S>(bias, at, 0.0)),
                    None => S::mul(v, gain),
                };
                give::<S>(v, y, at);
            }
        }
    }
}

impl Vectorised for SoftmaxRow<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self(row) = self;
        // Masked positions at the end are left out of everything.
        let seen = row.iter().rposition(|v| *v != f32::NEG_INFINITY);
        let (row, hidden) = row.split_at_mut(seen.map_or(row.len(), |last| last + 1));
        hidden.fill(0.0);
        // SAFETY: the caller's machine has these instructions.
        unsafe {
            let mut most = S::splat(f32::NEG_INFINITY);
            for at in (0..row.len()).step_by(S::N) {
                most = S::max(most, take::<S>(row, at, f32::NEG_INFINITY));
            }
            let mut lanes = [f32::NEG_INFINITY; MOST];
            S::store(most, lanes.as_mut_ptr());
            let most = lanes.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            let less = S::splat(-most);
            for at in (0..row.len()).step_by(S::N) {
                let v = take::<S>(row, at, f32::NEG_INFINITY);
                give::<S>(exp_of_any::<S>(S::add(v, less)), row, at);
            }
            let sum = S::splat(total::<S>(row, 0.0, |v| v));
            for at in (0..row.len()).step_by(S::N) {
                give::<S>(S::over(take::<S>(row, at, 0.0), sum), row, at);
            }
        }
    }
}

impl Vectorised for Activated<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self {
            gate: kind,
            x,
            by,
            y,
        } = self;
        for at in (0..x.len()).step_by(S::N) {
            // SAFETY: the caller's machine has these instructions.
            unsafe {
                let v = gate::<S>(kind, take::<S>(x, at, 0.0));
                let v = match by {
                    Some(by) => S::mul(v, take::<S>(by, at, 0.0)),
                    None => v,
                };
                give::<S>(v, y, at);
            }
        }
    }
}

impl Vectorised for Slopes<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self { gate: kind, x, y } = self;
        for at in (0..x.len()).step_by(S::N) {
            // SAFETY: the caller's machine has these instructions.
            unsafe { give::<S>(slope::<S>(kind, take::<S>(x, at, 0.0)), y, at) }
        }
    }
}

/// The derivative of `x s(u(x))`, where `s` is the logistic function: `s + x u' s (1 - s)`.
#[inline(always)]
unsafe fn slope<S: Lanes>(kind: Gate, x: S::F) -> S::F {
    // SAFETY: the caller's machine has these instructions.
    unsafe {
        let one = S::splat(1.0);
        let rate = match kind {
            Gate::Silu => one,
            Gate::QuickGelu => S::splat(1.702),
            Gate::GeluTanh => {
                let square = S::mul(x, x);
                S::fma(square, S::splat(3.0 * 0.071_354_82), S::splat(1.595_769))
            }
        };
        let share = S::over(one, S::add(exp_of_any::<S>(exponent::<S>(kind, x)), one));
        let rest = S::mul(share, S::minus(one, share));
        S::fma(S::mul(x, rate), rest, share)
    }
}

#[inline(always)]
unsafe fn gate<S: Lanes>(kind: Gate, x: S::F) -> S::F {
    // SAFETY: the caller's machine has these instructions.
    unsafe {
        let below = S::add(exp_of_any::<S>(exponent::<S>(kind, x)), S::splat(1.0));
        S::over(x, below)
    }
}

/// `-u(x)`, where the activation is `x / (1 + exp(-u(x)))`.
#[inline(always)]
unsafe fn exponent<S: Lanes>(kind: Gate, x: S::F) -> S::F {
    // SAFETY: the caller's machine has these instructions.
    unsafe {
        match kind {
            Gate::Silu => S::mul(x, S::splat(-1.0)),
            Gate::QuickGelu => S::mul(x, S::splat(-1.702)),
            Gate::GeluTanh => {
                let square = S::mul(x, x);
                // -2 sqrt(2 / pi), and that times 0.044715.
                let rate = S::fma(square, S::splat(-0.071_354_82), S::splat(-1.595_769));
                S::mul(x, rate)
            }
        }
    }
}
