//! The way back through what lies between products: norms, activations, attention.
//!
//! For a function `y = f(x)` an adjoint takes gradients with respect to `y` to gradients with respect to `x`. There are usually
//! more gradients than values: every row of values has `each` gradients, one behind the other ([`Spread`]).
//! Invariant: the gradient of a row depends on its own values alone, and everything is summed in f32. To support another
//! function, add its adjoint here and use it in [`crate::model::network::adjoint`].

use super::lanes::Lanes;
use super::machine::Processor;
use super::threads;
use super::vectorised::{Vectorised, run};

/// How rows of gradients belong to rows of values: `units` rows of a text follow each other, and `each` gradients of a text
/// follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Rows of one text: its tokens, or its tokens times heads.
    pub units: usize,
    /// Gradients of each text.
    pub each: usize,
}

impl Spread {
    /// The row of values that a row of gradients belongs to.
    fn source(self, row: usize) -> usize {
        row / (self.units * self.each) * self.units + row % self.units
    }
}

/// The function of a norm: its gain, `[gains, width]`, of which consecutive rows take one after the other.
#[derive(Clone, Copy, Debug)]
pub struct NormShape<'a> {
    pub gain: &'a [f32],
    pub width: usize,
    pub epsilon: f32,
    /// Whether the mean is subtracted first.
    pub centred: bool,
}

/// Gradients `[.., width]` with respect to a norm's output become those with respect to its input, `x`, `[rows, width]`.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn norm(shape: NormShape, x: &[f32], spread: Spread, by: &mut [f32]) {
    let width = shape.width;
    let gains = shape.gain.len() / width;
    let cost = 8 * by.len();
    threads::rows(by, width, cost, |first, part| {
        for (i, by) in part.chunks_exact_mut(width).enumerate() {
            let row = first + i;
            let x = &x[spread.source(row) * width..][..width];
            let gain = &shape.gain[row % gains * width..][..width];
            run(Processor::best(), NormBack { x, gain, shape, by });
        }
    });
}

/// `y += x`.
///
/// # Panics
///
/// If the lengths differ.
pub fn add(x: &[f32], y: &mut [f32]) {
    const PART: usize = 1 << 14;
    assert_eq!(x.len(), y.len());
    let cost = y.len();
    threads::rows(y, PART, cost, |first, y| {
        let x = &x[first * PART..][..y.len()];
        run(Processor::best(), Sum { x, y });
    });
}

/// The product of every row of `by`, `[.., width]`, with the row of `factors`, `[rows, width]`, that it belongs to.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn scaled_by(factors: &[f32], width: usize, spread: Spread, by: &[f32], y: &mut [f32]) {
    assert_eq!(by.len(), y.len());
    let cost = y.len();
    threads::rows(y, width, cost, |first, part| {
        for (i, y) in part.chunks_exact_mut(width).enumerate() {
            let row = first + i;
            let by = &by[row * width..][..width];
            let factor = &factors[spread.source(row) * width..][..width];
            run(Processor::best(), Scaled { by, factor, y });
        }
    });
}

/// The values that attention was computed from, and its shape.
#[derive(Clone, Copy, Debug)]
pub struct AttendedValues<'a> {
    /// Texts.
    pub rows: usize,
    pub heads: usize,
    /// Query heads that read one key-value head.
    pub group: usize,
    /// Positions of the pass.
    pub tokens: usize,
    /// Positions before them, which no gradient enters.
    pub before: usize,
    pub width: usize,
    /// Rotated queries, `[rows, heads, tokens, width]`.
    pub q: &'a [f32],
    /// Rotated keys of all positions, `[rows, kv heads, before + tokens, width]`.
    pub k: &'a [f32],
    /// Values of all positions, as the keys.
    pub v: &'a [f32],
    /// `[rows, heads, tokens, before + tokens]`.
    pub probs: &'a [f32],
    /// The scores, with the cap that they were squeezed by, if there is one.
    pub capped: Option<(&'a [f32], f32)>,
    /// The factor of the scores.
    pub scale: f32,
}

/// Gradients with respect to queries, keys (both after their rotation) and values.
#[derive(Debug, Default)]
pub struct AttendedGradients {
    /// `[gradients, tokens, heads, width]`.
    pub q: Vec<f32>,
    /// `[gradients, tokens, kv heads, width]`.
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// `[gradients, heads, tokens, positions]`, if they are wanted.
    pub scores: Vec<f32>,
    pub probs: Vec<f32>,
}

/// The way back through attention, from gradients with respect to the heads' outputs, `[rows * each, tokens, heads, width]`.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn attention(
    a: AttendedValues,
    each: usize,
    by: &[f32],
    with_scores: bool,
) -> AttendedGradients {
    let positions = a.before + a.tokens;
    let kv_heads = a.heads / a.group;
    let count = a.rows * each;
    assert_eq!(by.len(), count * a.tokens * a.heads * a.width);
    assert_eq!(a.q.len(), a.rows * a.heads * a.tokens * a.width);
    assert_eq!(a.k.len(), a.rows * kv_heads * positions * a.width);
    assert_eq!(a.v.len(), a.k.len());
    assert_eq!(a.probs.len(), a.rows * a.heads * a.tokens * positions);
    let lines = count * a.tokens;
    let inner = if with_scores {
        count * a.heads * a.tokens * positions
    } else {
        0
    };
    let mut out = AttendedGradients {
        q: vec![0.0; lines * a.heads * a.width],
        k: vec![0.0; lines * kv_heads * a.width],
        v: vec![0.0; lines * kv_heads * a.width],
        scores: vec![0.0; inner],
        probs: vec![0.0; inner],
    };
    let q = threads::OutputColumns::new(&mut out.q, lines, a.heads * a.width);
    let k = threads::OutputColumns::new(&mut out.k, lines, kv_heads * a.width);
    let v = threads::OutputColumns::new(&mut out.v, lines, kv_heads * a.width);
    let squares = inner / positions.max(1);
    let scores = threads::OutputColumns::new(&mut out.scores, squares, positions);
    let probs = threads::OutputColumns::new(&mut out.probs, squares, positions);
    let cost = 4 * by.len() * positions;
    threads::each(count * kv_heads, cost, |task| {
        let (gradient, kv_head) = (task / kv_heads, task % kv_heads);
        let mut own = HeadGradients::new(&a, positions);
        run(
            Processor::best(),
            OneHead {
                a: &a,
                by,
                gradient,
                row: gradient / each,
                kv_head,
                whole: with_scores,
                own: &mut own,
            },
        );
        for t in 0..a.tokens {
            let line = gradient * a.tokens + t;
            let at = kv_head * a.width;
            // SAFETY: every task writes the columns of its own head in the rows of its own gradient.
            #[allow(unsafe_code)]
            unsafe {
                k.put(line, at, &own.k[t * a.width..][..a.width]);
                v.put(line, at, &own.v[t * a.width..][..a.width]);
                for h in 0..a.group {
                    let from = (h * a.tokens + t) * a.width;
                    let head = kv_head * a.group + h;
                    q.put(line, head * a.width, &own.q[from..][..a.width]);
                    if with_scores {
                        let square = (gradient * a.heads + head) * a.tokens + t;
                        let from = (h * a.tokens + t) * positions;
                        scores.put(square, 0, &own.scores[from..][..positions]);
                        probs.put(square, 0, &own.probs[from..][..positions]);
                    }
                }
            }
        }
    });
    out
}

/// The gradients of one key-value head and the query heads that read it.
struct HeadGradients {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    scores: Vec<f32>,
    probs: Vec<f32>,
}

impl HeadGradients {
    fn new(a: &AttendedValues, positions: usize) -> Self {
        Self {
            q: vec![0.0; a.group * a.tokens * a.width],
            k: vec![0.0; a.tokens * a.width],
            v: vec![0.0; a.tokens * a.width],
            scores: vec![0.0; a.group * a.tokens * positions],
            probs: vec![0.0; a.group * a.tokens * positions],
        }
    }
}

struct NormBack<'a> {
    x: &'a [f32],
    gain: &'a [f32],
    shape: NormShape<'a>,
    by: &'a mut [f32],
}

struct Sum<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

struct Scaled<'a> {
    by: &'a [f32],
    factor: &'a [f32],
    y: &'a mut [f32],
}

struct OneHead<'a> {
    a: &'a AttendedValues<'a>,
    by: &'a [f32],
    gradient: usize,
    row: usize,
    kv_head: usize,
    /// Whether gradients are wanted with respect to all probabilities, those of positions that are not attended to as well.
    whole: bool,
    own: &'a mut HeadGradients,
}

/// The sum of a function of pairs of numbers, over lanes first.
#[inline(always)]
fn total(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let (left, right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = left.remainder().iter().zip(right.remainder());
    let rest: f32 = rest.map(|(a, b)| of(*a, *b)).sum();
    for (a, b) in left.zip(right) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += of(*a, *b);
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The inner product.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    total(a, b, |a, b| a * b)
}

/// `y += factor x`.
#[inline(always)]
fn plus(factor: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += factor * x;
    }
}

// The bodies are plain loops: the compiler makes them with the instructions of each machine.
#[allow(unsafe_code)]
impl Vectorised for Sum<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        plus(1.0, self.x, self.y);
    }
}

#[allow(unsafe_code)]
impl Vectorised for Scaled<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        for ((y, by), factor) in self.y.iter_mut().zip(self.by).zip(self.factor) {
            *y = by * factor;
        }
    }
}

#[allow(unsafe_code)]
impl Vectorised for NormBack<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self { x, gain, shape, by } = self;
        let width = x.len() as f32;
        let mean = if shape.centred {
            total(x, x, |x, _| x) / width
        } else {
            0.0
        };
        let square = total(x, x, |x, _| (x - mean) * (x - mean)) / width;
        let scale = (square + shape.epsilon).sqrt().recip();
        for (by, gain) in by.iter_mut().zip(gain) {
            *by *= gain;
        }
        let along = total(by, x, |by, x| by * (x - mean)) / width * scale * scale;
        let level = if shape.centred {
            total(by, by, |by, _| by) / width
        } else {
            0.0
        };
        for (by, x) in by.iter_mut().zip(x) {
            *by = scale * (*by - level - along * (x - mean));
        }
    }
}

#[allow(unsafe_code)]
impl Vectorised for OneHead<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self {
            a,
            by,
            gradient,
            row,
            kv_head,
            whole,
            own,
        } = self;
        let (width, positions) = (a.width, a.before + a.tokens);
        let head_of_row = row * (a.heads / a.group) + kv_head;
        let keys = &a.k[head_of_row * positions * width..][..positions * width];
        let values = &a.v[head_of_row * positions * width..][..positions * width];
        for h in 0..a.group {
            let head = kv_head * a.group + h;
            for t in 0..a.tokens {
                let line = (row * a.heads + head) * a.tokens + t;
                let probs = &a.probs[line * positions..][..positions];
                let q = &a.q[line * width..][..width];
                let by = &by[((gradient * a.tokens + t) * a.heads + head) * width..][..width];
                let place = h * a.tokens + t;
                let of_probs = &mut own.probs[place * positions..][..positions];
                let of_scores = &mut own.scores[place * positions..][..positions];
                // Where nothing is attended to, after the query or outside its window, there is a gradient with respect to the
                // probability and none with respect to the score.
                let mut along = 0.0;
                for s in (0..positions).filter(|s| whole || probs[*s] != 0.0) {
                    of_probs[s] = dot(by, &values[s * width..][..width]);
                    along += probs[s] * of_probs[s];
                }
                let of_q = &mut own.q[place * width..][..width];
                for s in 0..positions {
                    if probs[s] == 0.0 {
                        continue;
                    }
                    let of_score = probs[s] * (of_probs[s] - along);
                    of_scores[s] = of_score;
                    let slope = match a.capped {
                        Some((scores, cap)) => {
                            let part = scores[line * positions + s] / cap;
                            1.0 - part * part
                        }
                        None => 1.0,
                    };
                    let inner = of_score * slope * a.scale;
                    plus(inner, &keys[s * width..][..width], of_q);
                    if s >= a.before {
                        let place = (s - a.before) * width;
                        plus(inner, q, &mut own.k[place..][..width]);
                        plus(probs[s], by, &mut own.v[place..][..width]);
                    }
                }
            }
        }
    }
}
