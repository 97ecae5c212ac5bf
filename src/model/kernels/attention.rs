//! Attention over keys and values in place: rotations, scores, and weighted sums of values.
//!
//! Invariant: the results for a query depend, bit for bit, only on the query and the positions it sees: a score is one sum over
//! the width, in the order of every dense product, and values are summed position after position.
//! To add a storage format of keys and values, add a variant of [`Kept`].
#![allow(unsafe_code)] // Each block says what it relies on.

use super::dense::{Bf16, DEPTH, Element, F16, TileAt, add_products};
use super::lanes::Lanes;
use super::machine::Processor;
use super::threads::{self, OutputColumns};
use super::vectorised::{Vectorised, run};

/// The number of queries of a head in one task, if there are several.
const QUERIES: usize = 32;
const POSITIONS: usize = 256;

/// The smallest number of value columns in one task: two of the widest vectors.
const STRIP: usize = 32;

/// The numbers of keys or values, as they are stored.
#[derive(Clone, Copy, Debug)]
pub enum Kept<'a> {
    /// f32.
    F32(&'a [f32]),
    /// f16, as bits.
    F16(&'a [u16]),
    /// bf16, as bits: the upper half of an f32.
    Bf16(&'a [u16]),
}

/// Keys or values at consecutive positions, `[batch, kv_heads, positions, width]`; strides are in numbers.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub kept: Kept<'a>,
    /// The stride from one row of the batch to the next; 0 if the rows share them.
    pub batch: usize,
    /// The stride from one head to the next.
    pub head: usize,
    pub positions: usize,
}

impl Segment<'_> {
    fn numbers(&self) -> usize {
        match self.kept {
            Kept::F32(x) => x.len(),
            Kept::F16(x) | Kept::Bf16(x) => x.len(),
        }
    }
}

/// The shape of one layer's attention.
#[derive(Clone, Copy, Debug)]
pub struct HeadShape {
    pub batch: usize,
    pub heads: usize,
    /// The number of query heads that share a key-value head.
    pub group: usize,
    /// The number of queries in a row of the batch.
    pub tokens: usize,
    /// The width of a head.
    pub width: usize,
}

impl HeadShape {
    fn kv_heads(&self) -> usize {
        self.heads / self.group
    }

    /// Panics unless a segment has all its numbers.
    fn check(&self, segments: &[Segment]) {
        for s in segments.iter().filter(|s| s.positions > 0) {
            let last = (self.batch - 1) * s.batch + (self.kv_heads() - 1) * s.head;
            assert!(s.numbers() >= last + s.positions * self.width);
        }
    }

    /// How queries are divided into tasks: blocks of queries of one head or, if each row has a single query, the queries of all
    /// heads in a group.
    fn blocks(&self) -> QueryBlocks {
        let one = self.tokens == 1;
        QueryBlocks {
            shape: *self,
            rows: if one { self.group } else { QUERIES },
            each: if one {
                1
            } else {
                self.group * self.tokens.div_ceil(QUERIES)
            },
        }
    }
}

/// Blocks of rows of `[batch, heads, tokens]` that read the same keys and values.
#[derive(Clone, Copy)]
struct QueryBlocks {
    shape: HeadShape,
    /// The most rows in a block.
    rows: usize,
    /// The number of blocks for each key-value head.
    each: usize,
}

/// One of these blocks.
struct QueryBlock {
    batch: usize,
    kv_head: usize,
    /// The head of the first row.
    head: usize,
    /// The first row in `[batch, heads, tokens]`.
    row: usize,
    rows: usize,
    /// The index of the first query, and one past the last.
    queries: [usize; 2],
}

impl QueryBlocks {
    fn count(&self) -> usize {
        self.shape.batch * self.shape.kv_heads() * self.each
    }

    fn at(&self, i: usize) -> QueryBlock {
        let HeadShape {
            heads,
            group,
            tokens,
            ..
        } = self.shape;
        let (whole, part) = (i / self.each, i % self.each);
        let (batch, kv_head) = (whole / self.shape.kv_heads(), whole % self.shape.kv_heads());
        if tokens == 1 {
            let head = kv_head * group;
            return QueryBlock {
                batch,
                kv_head,
                head,
                row: batch * heads + head,
                rows: group,
                queries: [0, 1],
            };
        }
        let along = tokens.div_ceil(self.rows);
        let head = kv_head * group + part / along;
        let first = part % along * self.rows;
        let last = tokens.min(first + self.rows);
        QueryBlock {
            batch,
            kv_head,
            head,
            row: (batch * heads + head) * tokens + first,
            rows: last - first,
            queries: [first, last],
        }
    }
}

/// How a product becomes a score, in a pass that begins at position `start`: a query sees itself and the positions before it,
/// all of them or those within a window.
#[derive(Clone, Copy, Debug)]
pub struct ToScores {
    pub start: usize,
    pub window: Option<usize>,
    pub scale: f32,
    /// The soft-cap: `cap * tanh(score / cap)`.
    pub cap: Option<f32>,
}

impl ToScores {
    /// The positions that query `q` of the pass sees.
    fn seen(&self, q: usize) -> std::ops::Range<usize> {
        let end = self.start + q + 1;
        self.window.map_or(0, |w| end.saturating_sub(w))..end
    }

    fn score(&self, product: f32) -> f32 {
        let score = product * self.scale;
        self.cap.map_or(score, |cap| (score / cap).tanh() * cap)
    }
}

/// Scores of queries `[batch, heads, tokens, width]` with the keys of all segments: `[batch, heads, tokens, positions]`, -inf
/// at positions that a query does not see.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn scores(shape: HeadShape, q: &[f32], keys: &[Segment], to: ToScores, y: &mut [f32]) {
    scores_on(Processor::best(), shape, q, keys, to, y);
}

/// As [`scores`], with the instructions of a processor.
pub(super) fn scores_on(
    on: Processor,
    shape: HeadShape,
    q: &[f32],
    keys: &[Segment],
    to: ToScores,
    y: &mut [f32],
) {
    shape.check(keys);
    let rows = shape.batch * shape.heads * shape.tokens;
    let positions: usize = keys.iter().map(|s| s.positions).sum();
    assert!(q.len() == rows * shape.width && y.len() == rows * positions);
    assert!(shape.width <= DEPTH && positions >= to.start + shape.tokens);
    let y = OutputColumns::new(y, rows, positions);
    let blocks = shape.blocks();
    let strips = positions.div_ceil(POSITIONS);
    let cost = rows * positions * shape.width;
    threads::each(blocks.count() * strips, cost, |i| {
        let block = blocks.at(i / strips);
        let first = i % strips * POSITIONS;
        let last = positions.min(first + POSITIONS);
        let seen = to.seen(block.queries[0]).start..to.seen(block.queries[1] - 1).end;
        let mut sums = vec![0f32; block.rows * (last - first)];
        let mut start = 0;
        for keys in keys {
            // The positions of this segment that are in the strip and that some query sees.
            let from = first.max(start).max(seen.start);
            let to = last.min(start + keys.positions).min(seen.end);
            if from < to {
                let work = Scores {
                    keys,
                    at: block.batch * keys.batch
                        + block.kv_head * keys.head
                        + (from - start) * shape.width,
                    count: to - from,
                    q: &q[block.row * shape.width..][..block.rows * shape.width],
                    width: shape.width,
                    sums: &mut sums[from - first..],
                    row: last - first,
                };
                run(on, work);
            }
            start += keys.positions;
        }
        for (r, sums) in sums.chunks_exact_mut(last - first).enumerate() {
            let query = if shape.tokens == 1 {
                0
            } else {
                block.queries[0] + r
            };
            let seen = to.seen(query);
            for (p, sum) in (first..last).zip(&mut *sums) {
                *sum = if seen.contains(&p) {
                    to.score(*sum)
                } else {
                    f32::NEG_INFINITY
                };
            }
            // SAFETY: the tasks write disjoint rows and columns.
            unsafe { y.put(block.row + r, first, sums) };
        }
    });
}

/// Products of some queries with some keys, added to `sums`, whose rows have the stride `row`.
struct Scores<'a> {
    keys: &'a Segment<'a>,
    at: usize,
    count: usize,
    q: &'a [f32],
    width: usize,
    sums: &'a mut [f32],
    row: usize,
}

impl Vectorised for Scores<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        // SAFETY: the caller's machine has these instructions.
        unsafe {
            match self.keys.kept {
                Kept::F32(keys) => self.with::<S, f32>(keys),
                Kept::F16(keys) => self.with::<S, F16>(F16::of(keys)),
                Kept::Bf16(keys) => self.with::<S, Bf16>(Bf16::of(keys)),
            }
        }
    }
}

impl Scores<'_> {
    #[inline(always)]
    unsafe fn with<S: Lanes, E: Element>(self, keys: &[E]) {
        let keys = &keys[self.at..][..self.count * self.width];
        let rows = self.q.len() / self.width;
        assert!(self.sums.len() >= (rows - 1) * self.row + self.count);
        let at = TileAt {
            w: keys.as_ptr(),
            w_row: self.width,
            x: self.q.as_ptr(),
            x_row: self.width,
            depth: self.width,
            sums: self.sums.as_mut_ptr(),
            sums_row: self.row,
        };
        // SAFETY: the rows of keys and queries and the sums exist, as was just checked.
        unsafe { add_products::<S, E>(at, self.count, rows) }
    }
}

/// Sums of values weighted by `probs`, `[batch, heads, tokens, positions]`: `[batch, tokens, heads, width]`.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn mix(shape: HeadShape, probs: &[f32], values: &[Segment], y: &mut [f32]) {
    mix_on(Processor::best(), shape, probs, values, y);
}

/// As [`mix`], with the instructions of a processor.
pub(super) fn mix_on(
    on: Processor,
    shape: HeadShape,
    probs: &[f32],
    values: &[Segment],
    y: &mut [f32],
) {
    shape.check(values);
    let rows = shape.batch * shape.heads * shape.tokens;
    let positions: usize = values.iter().map(|s| s.positions).sum();
    assert!(probs.len() == rows * positions);
    let y = OutputColumns::new(y, rows, shape.width);
    let blocks = shape.blocks();
    // Blocks of few rows are also divided by columns, in whole vectors, which changes no bit.
    let parts = threads::share_of(blocks.count());
    let strip = shape.width.div_ceil(parts).next_multiple_of(STRIP);
    let strips = shape.width.div_ceil(strip);
    let cost = rows * positions * shape.width;
    threads::each(blocks.count() * strips, cost, |i| {
        let block = blocks.at(i / strips);
        let first = i % strips * strip;
        let columns = first..shape.width.min(first + strip);
        let probs = &probs[block.row * positions..][..block.rows * positions];
        // Positions to which no row gives weight are not even read.
        let heavy = |rows: &[f32]| {
            let rows = rows.chunks_exact(positions);
            let spans = rows.filter_map(|row| {
                let first = row.iter().position(|p| *p != 0.0)?;
                Some(first..row.iter().rposition(|p| *p != 0.0)? + 1)
            });
            spans.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
        };
        let mut sums = vec![0f32; block.rows * columns.len()];
        let seen = heavy(probs).unwrap_or(0..0);
        let mut start = 0;
        for values in values {
            let from = start.max(seen.start);
            let to = (start + values.positions).min(seen.end);
            if from < to {
                let work = Mix {
                    values,
                    at: block.batch * values.batch
                        + block.kv_head * values.head
                        + (from - start) * shape.width
                        + columns.start,
                    count: to - from,
                    width: shape.width,
                    probs: &probs[from..],
                    row: positions,
                    columns: columns.len(),
                    sums: &mut sums,
                };
                run(on, work);
            }
            start += values.positions;
        }
        for (r, sums) in sums.chunks_exact(columns.len()).enumerate() {
            let (head, query) = if shape.tokens == 1 {
                (block.head + r, 0)
            } else {
                (block.head, block.queries[0] + r)
            };
            let to = (block.batch * shape.tokens + query) * shape.heads + head;
            // SAFETY: the tasks write disjoint rows and columns.
            unsafe { y.put(to, first, sums) };
        }
    });
}

/// Adds the weighted values to every row of `sums`, `[rows, columns]`.
struct Mix<'a> {
    values: &'a Segment<'a>,
    at: usize,
    count: usize,
    /// The stride from one position to the next.
    width: usize,
    probs: &'a [f32],
    /// The stride from one row of weights to the next.
    row: usize,
    columns: usize,
    sums: &'a mut [f32],
}

impl Vectorised for Mix<'_> {
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        // SAFETY: the caller's machine has these instructions.
        unsafe {
            match self.values.kept {
                Kept::F32(values) => self.with::<S, f32>(values),
                Kept::F16(values) => self.with::<S, F16>(F16::of(values)),
                Kept::Bf16(values) => self.with::<S, Bf16>(Bf16::of(values)),
            }
        }
    }
}

impl Mix<'_> {
    #[inline(always)]
    unsafe fn with<S: Lanes, E: Element>(self, values: &[E]) {
        let values = &values[self.at..][..(self.count - 1) * self.width + self.columns];
        let rows = self.sums.len() / self.columns;
        assert!(self.probs.len() >= (rows - 1) * self.row + self.count);
        let sums = self.sums.as_mut_ptr();
        let mut row = 0;
        while row < rows {
            let many = row + 3 <= rows;
            let mut column = 0;
            while column < self.columns {
                let left = self.columns - column;
                let at = MixTile {
                    values: values[column..].as_ptr(),
                    width: self.width,
                    count: self.count,
                    probs: self.probs[row * self.row..].as_ptr(),
                    row: self.row,
                    sums: sums.wrapping_add(row * self.columns + column),
                    columns: self.columns,
                };
                // SAFETY: this many rows and columns are left; the caller's machine has these instructions.
                unsafe {
                    column += match (many, left >= 4 * S::N, left >= S::N) {
                        (true, true, _) => at.vectors::<S, 3, 4>(),
                        (true, false, true) => at.vectors::<S, 3, 1>(),
                        (false, true, _) => at.vectors::<S, 1, 4>(),
                        (false, false, true) => at.vectors::<S, 1, 1>(),
                        (true, false, false) => at.one(3),
                        (false, false, false) => at.one(1),
                    };
                }
            }
            row += if many { 3 } else { 1 };
        }
    }
}

/// Some rows and columns of a [`Mix`].
struct MixTile<E> {
    values: *const E,
    width: usize,
    count: usize,
    probs: *const f32,
    row: usize,
    sums: *mut f32,
    columns: usize,
}

impl<E: Element> MixTile<E> {
    /// Sums `R` rows and `C` vectors of columns; returns the number of columns.
    #[inline(always)]
    unsafe fn vectors<S: Lanes, const R: usize, const C: usize>(&self) -> usize {
        // SAFETY: the caller guarantees this many rows and columns, and the instructions.
        unsafe {
            let mut sums = [[S::splat(0.0); C]; R];
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = S::load(self.sums.add(r * self.columns + c * S::N));
                }
            }
            for p in 0..self.count {
                let mut values = [S::splat(0.0); C];
                for c in 0..C {
                    values[c] = E::load::<S>(self.values.add(p * self.width + c * S::N));
                }
                for r in 0..R {
                    let weight = S::splat(*self.probs.add(r * self.row + p));
                    for c in 0..C {
                        sums[r][c] = S::fma(weight, values[c], sums[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    S::store(sums[r][c], self.sums.add(r * self.columns + c * S::N));
                }
            }
        }
        C * S::N
    }

    /// Sums one column of some rows, in the same order.
    #[inline(always)]
    unsafe fn one(&self, rows: usize) -> usize {
        for r in 0..rows {
            // SAFETY: the caller guarantees this many rows, and a column.
            unsafe {
                let sum = self.sums.add(r * self.columns);
                for p in 0..self.count {
                    let value = (*self.values.add(p * self.width)).widen();
                    *sum += *self.probs.add(r * self.row + p) * value;
                }
            }
        }
        1
    }
}

/// A rotation of the first `2 * half` dimensions of every head, at consecutive positions.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// `[tokens, half]`.
    pub cos: &'a [f32],
    /// `[tokens, half]`.
    pub sin: &'a [f32],
    pub half: usize,
    /// Whether neighbouring dimensions are paired, instead of the two halves.
    pub interleaved: bool,
}

/// Transposes `[batch, tokens, heads, width]` to `[batch, heads, tokens, width]`, with a rotation if one is given.
///
/// # Panics
///
/// If a length does not fit the shape.
pub fn by_head(
    [batch, tokens, heads, width]: [usize; 4],
    x: &[f32],
    turn: Option<Turn>,
    y: &mut [f32],
) {
    assert!(x.len() == batch * tokens * heads * width && x.len() == y.len());
    if let Some(turn) = turn {
        assert!(2 * turn.half <= width && turn.cos.len() >= tokens * turn.half);
        assert!(turn.sin.len() >= tokens * turn.half);
    }
    threads::rows(y, width, 4 * x.len(), |first, y| {
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            let row = first + i;
            let (token, whole) = (row % tokens, row / tokens);
            let (head, batch) = (whole % heads, whole / heads);
            let x = &x[((batch * tokens + token) * heads + head) * width..][..width];
            match turn {
                Some(turn) => turn.apply(token, x, y),
                None => y.copy_from_slice(x),
            }
        }
    });
}

impl Turn<'_> {
    fn apply(&self, token: usize, x: &[f32], y: &mut [f32]) {
        let half = self.half;
        let cos = &self.cos[token * half..][..half];
        let sin = &self.sin[token * half..][..half];
        let (turned, rest) = y.split_at_mut(2 * half);
        rest.copy_from_slice(&x[2 * half..]);
        if self.interleaved {
            let pairs = x.chunks_exact(2).zip(turned.chunks_exact_mut(2));
            for ((x, y), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                y[0] = x[0] * cos - x[1] * sin;
                y[1] = x[0] * sin + x[1] * cos;
            }
        } else {
            let (a, b) = x[..2 * half].split_at(half);
            let (low, high) = turned.split_at_mut(half);
            for i in 0..half {
                low[i] = a[i] * cos[i] - b[i] * sin[i];
                high[i] = a[i] * sin[i] + b[i] * cos[i];
            }
        }
    }
}
