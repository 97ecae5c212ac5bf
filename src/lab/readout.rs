//! Reading many residual rows through the unembedding at once: the strongest tokens, entropy, KL, ranks.
//!
//! Invariant: every row is read against the whole vocabulary, with statistics in f32 and f64; a row with a logit that is
//! NaN or infinite names no token, has no ranks, and all its numbers are not-a-number; and no row of logits is ever held
//! whole unless it is asked for: the unembedding is read once, a strip of tokens at a time, and each strip
//! is taken into running sums while it is still in the cache. To read something else of a row, add a field to
//! [`RowRequest`], one to [`RowStats`], and its sum to `State`.
//!
//! Source: the running maximum and sum of Milakov & Gimelshein 2018 (1805.02867), with two more sums beside.

use std::ops::Range;

use candle_core::{D, DType, Device, Storage, Tensor};
use rayon::prelude::*;

use super::sample::{CHUNK, LANES, NO_RANK, NO_TOKEN, exp, summed};
use crate::error::{Error, Result};
use crate::figure::Check;
use crate::model::Model;

/// Tokens of the vocabulary in one product.
const STRIP: usize = 2048;

/// A difference below the largest logit that counts as nothing; `-inf` times zero would be no number.
const FLOOR: f32 = -104.0;

/// The largest difference of logits that the self-check tolerates: 1e-4 in f32, more in narrower dtypes.
pub fn tolerance(dtype: DType) -> f32 {
    let wide = matches!(dtype, DType::F32 | DType::F64);
    if wide { 1e-4 } else { 5e-2 }
}

/// Whose log-probability and rank a row is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub enum Tokens<'a> {
    /// Nobody's.
    #[default]
    None,
    /// The same tokens in every row.
    Same(&'a [u32]),
    /// One token a row.
    Each(&'a [u32]),
}

/// What a row's distribution is compared with: for every row, which of these rows of logits.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceRows<'a> {
    /// Rows that were read with [`RowRequest::keep`].
    pub rows: &'a [RowStats],
    /// For every row the number of its own.
    pub of: &'a [usize],
}

/// What is asked of every row.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowRequest<'a> {
    /// How many of the strongest tokens.
    pub top: usize,
    /// Tokens of interest.
    pub tokens: Tokens<'a>,
    /// Whether the ranks of those tokens are counted too.
    pub ranks: bool,
    pub entropy: bool,
    /// KL from other rows.
    pub against: Option<ReferenceRows<'a>>,
    /// Whether the logits themselves are kept.
    pub keep: bool,
}

/// A token of interest in one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenStats {
    pub id: u32,
    pub logit: f32,
    /// Its natural log-probability.
    pub logprob: f32,
    /// How many tokens are strictly more probable; 0 where it was not counted, [`NO_RANK`] where the row is no distribution.
    pub rank: u32,
}

impl TokenStats {
    /// The rank as a number; not-a-number where there is none.
    pub fn rank(&self) -> f32 {
        if self.rank == NO_RANK {
            f32::NAN
        } else {
            self.rank as f32
        }
    }
}

/// What a row says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowStats {
    /// The strongest tokens and their probabilities.
    pub top: Vec<(u32, f32)>,
    /// Tokens of interest, in the order they were asked for.
    pub tokens: Vec<TokenStats>,
    /// Nats; not-a-number where it was not asked for.
    pub entropy: f32,
    /// KL(other row ‖ this row), nats; not-a-number where it was not asked for.
    pub kl: f32,
    /// The largest difference of its logits from those of the other row; not-a-number where it was not asked for, and in rows
    /// that were read strip by strip.
    pub gap: f32,
    /// `ln Σ exp(z)`.
    pub total: f64,
    /// `[vocab]` logits, where they were to be kept.
    pub logits: Vec<f32>,
}

impl RowStats {
    /// The strongest token and its probability; [`NO_TOKEN`] and not-a-number where the row is no distribution, or none was
    /// asked for.
    pub fn first(&self) -> (u32, f32) {
        self.top.first().copied().unwrap_or((NO_TOKEN, f32::NAN))
    }

    /// Whether it is a distribution.
    pub fn is_finite(&self) -> bool {
        self.total.is_finite()
    }

    /// A token of interest; of one that was not asked for, numbers that are none.
    pub fn token(&self, id: u32) -> TokenStats {
        let told = self.tokens.iter().find(|told| told.id == id);
        told.copied().unwrap_or(TokenStats {
            id,
            logit: f32::NAN,
            logprob: f32::NAN,
            rank: NO_RANK,
        })
    }

    /// The probability of all tokens of interest together.
    pub fn share(&self) -> f64 {
        let each = self.tokens.iter().map(|told| f64::from(told.logprob).exp());
        each.sum()
    }
}

/// The way from a product with the unembedding to a logit.
struct Finish {
    bias: Option<Vec<f32>>,
    scale: f32,
    /// `1 / cap` and `cap`.
    cap: Option<(f32, f32)>,
}

impl Finish {
    fn of(model: &Model) -> Result<Self> {
        let transformer = &model.transformer;
        let bias = transformer.head.bias.as_ref();
        let bias = bias
            .map(|b| b.to_dtype(DType::F32)?.to_vec1())
            .transpose()?;
        let blueprint = &transformer.blueprint;
        Ok(Self {
            bias,
            scale: blueprint.logit_scale as f32,
            cap: blueprint
                .logit_cap
                .map(|cap| ((1.0 / cap) as f32, cap as f32)),
        })
    }

    #[allow(clippy::float_cmp)] // the default is exactly one
    fn is_nothing(&self) -> bool {
        self.bias.is_none() && self.scale == 1.0 && self.cap.is_none()
    }

    fn one(&self, raw: f32, id: usize) -> f32 {
        let z = raw + self.bias.as_ref().map_or(0.0, |b| b[id]);
        let z = z * self.scale;
        self.cap.map_or(z, |(less, cap)| (z * less).tanh() * cap)
    }
}

/// The running sums of one row.
#[derive(Clone, Default)]
struct RunningSums {
    /// Whether a logit was NaN or infinite.
    broken: bool,
    /// The largest logit so far.
    top: f32,
    /// `Σ e^(z - top)`.
    sum: f64,
    /// `Σ e^(z - top) (z - top)`.
    first: f64,
    /// `Σ p' (z' - z)` over the other row's probabilities `p'` and logits `z'`.
    cross: f64,
    /// The strongest tokens and their logits.
    best: Vec<(u32, f32)>,
    /// Tokens of interest: id, logit, and how many are larger.
    tokens: Vec<(u32, f32, u32)>,
    logits: Vec<f32>,
}

/// Reads rows `[n, d_embed]` that [`prepared`](crate::model::network::transformer::Transformer::normalize_for_unembed) made; `report` is told
/// how far it is, 0 to 1, and may stop it.
pub fn read(
    model: &Model,
    rows: &Tensor,
    ask: &RowRequest,
    report: &mut dyn FnMut(f32) -> Result<()>,
) -> Result<Vec<RowStats>> {
    let transformer = &model.transformer;
    let (count, vocab) = (rows.dim(0)?, transformer.head.out);
    let finish = Finish::of(model)?;
    let known = model.known_tokens();
    let rows = rows.contiguous()?;
    let mut states = vec![
        RunningSums {
            top: f32::NEG_INFINITY,
            best: Vec::with_capacity(ask.top + 1),
            ..RunningSums::default()
        };
        count
    ];
    chosen(model, &rows, ask.tokens, &finish, &mut states)?;
    for start in (0..vocab).step_by(STRIP) {
        report(start as f32 / vocab as f32)?;
        let range = start..(start + STRIP).min(vocab);
        transformer.on_thread_pool(|| -> Result<()> {
            let strip = transformer.head.part(&rows, range.clone())?;
            on_cpu(&strip, |strip| {
                states
                    .par_iter_mut()
                    .zip(strip.par_chunks(range.len()))
                    .enumerate()
                    .for_each(|(row, (state, strip))| {
                        let other = ask.against.map(|a| &a.rows[a.of[row]]);
                        if finish.is_nothing() {
                            state.take(strip, range.clone(), ask, known, other);
                        } else {
                            let ids = range.clone();
                            let logits = strip.iter().zip(ids).map(|(z, id)| finish.one(*z, id));
                            let logits: Vec<f32> = logits.collect();
                            state.take(&logits, range.clone(), ask, known, other);
                        }
                    });
            })
        })?;
    }
    Ok(states
        .into_iter()
        .enumerate()
        .map(|(row, state)| state.said(ask, ask.against.map(|a| a.rows[a.of[row]].total)))
        .collect())
}

/// Reads rows of logits that are there already, one after the other: waking a second thread costs more than a vocabulary of
/// exponentials.
pub fn read_rows(rows: &[&[f32]], known: usize, ask: &RowRequest) -> Vec<RowStats> {
    let read = |(i, row): (usize, &&[f32])| read_row(row, i, known, ask);
    rows.iter().enumerate().map(read).collect()
}

/// Reads a tensor of logits, `[.., vocab]`, of which something else may be asked in every row. They are there whole, so that
/// KL is exact however small it is.
pub(crate) fn read_logits<'a>(
    logits: &Tensor,
    known: usize,
    ask: impl Fn(usize) -> RowRequest<'a> + Sync,
) -> Result<Vec<RowStats>> {
    let vocab = logits.dim(D::Minus1)?;
    let read = |(i, row): (usize, &[f32])| {
        let mut ask = ask(i);
        let other = ask.against.take().map(|a| &a.rows[a.of[0]]);
        let mut said = read_row(row, 0, known, &ask);
        if let Some(other) = other {
            said.kl = divergence(other, row, said.total);
            said.gap = Check::of(&other.logits, row, 0.0).error;
        }
        said
    };
    on_cpu(logits, |all| {
        if all.len() == vocab {
            return vec![read((0, all))];
        }
        all.par_chunks(vocab).enumerate().map(read).collect()
    })
}

/// KL(other ‖ row), nats, in f64.
fn divergence(other: &RowStats, row: &[f32], total: f64) -> f32 {
    let pairs = other.logits.iter().zip(row);
    let logs = pairs.map(|(p, q)| (f64::from(*p) - other.total, f64::from(*q) - total));
    // What has no probability counts nothing; what is not a number is kept.
    let parts = logs.filter_map(|(p, q)| {
        let share = p.exp();
        (share != 0.0 || q.is_nan()).then_some(share * (p - q))
    });
    let kl: f64 = parts.sum();
    (if kl < 0.0 { 0.0 } else { kl }) as f32
}

/// Reads the `i`th row.
fn read_row(row: &[f32], i: usize, known: usize, ask: &RowRequest) -> RowStats {
    let other = ask.against.map(|a| &a.rows[a.of[i]]);
    let mut state = RunningSums {
        top: f32::NEG_INFINITY,
        best: Vec::with_capacity(ask.top + 1),
        ..RunningSums::default()
    };
    let ids = match ask.tokens {
        Tokens::None => &[][..],
        Tokens::Same(ids) => ids,
        Tokens::Each(ids) => &ids[i..=i],
    };
    let logit = |id: &u32| row.get(*id as usize).map(|z| (*id, *z, 0));
    state.tokens = ids.iter().filter_map(logit).collect();
    state.take(row, 0..row.len(), ask, known, other);
    state.said(ask, other.map(|o| o.total))
}

/// The logits of the tokens of interest, from a product with their rows alone.
fn chosen(
    model: &Model,
    rows: &Tensor,
    tokens: Tokens,
    finish: &Finish,
    states: &mut [RunningSums],
) -> Result<()> {
    let head = &model.transformer.head;
    let (Tokens::Same(ids) | Tokens::Each(ids)) = tokens else {
        return Ok(());
    };
    let mut unique = ids.to_vec();
    unique.sort_unstable();
    unique.dedup();
    if unique.is_empty() {
        return Ok(());
    }
    let table = head.rows(
        &Tensor::new(unique.as_slice(), rows.device())?,
        rows.dtype(),
    )?;
    on_cpu(&rows.matmul(&table.t()?)?, |found| {
        for (row, state) in states.iter_mut().enumerate() {
            let found = &found[row * unique.len()..][..unique.len()];
            let logit = |id: u32| {
                let at = unique.binary_search(&id).unwrap_or(0);
                (id, finish.one(found[at], id as usize), 0)
            };
            state.tokens = match tokens {
                Tokens::None => Vec::new(),
                Tokens::Same(ids) => ids.iter().map(|id| logit(*id)).collect(),
                Tokens::Each(ids) => vec![logit(ids[row])],
            };
        }
    })
}

/// Lends the numbers of a tensor, f32 and in order.
pub(crate) fn on_cpu<R>(t: &Tensor, use_it: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let t = t
        .to_dtype(DType::F32)?
        .to_device(&Device::Cpu)?
        .contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(values), Some((start, end))) => {
            Ok(use_it(&values.as_slice::<f32>()?[start..end]))
        }
        _ => Err(Error::Engine("logits are not where they were put".into())),
    }
}

impl RunningSums {
    /// Takes the logits of a range of tokens in.
    fn take(
        &mut self,
        logits: &[f32],
        range: Range<usize>,
        ask: &RowRequest,
        known: usize,
        other: Option<&RowStats>,
    ) {
        for (start, chunk) in range.step_by(CHUNK).zip(logits.chunks(CHUNK)) {
            let largest = largest(chunk);
            // Not a number is less than nothing. Minus infinity bans a token.
            let below = chunk.iter().filter(|z| **z < f32::INFINITY).count();
            self.broken |= below < chunk.len();
            if self.broken {
                break;
            }
            self.rank(chunk, start, largest, ask, known);
            if largest > self.top {
                // What was summed was taken against a smaller logit.
                let by = f64::from(self.top - largest);
                if self.sum > 0.0 {
                    let less = by.exp();
                    self.first = less * (self.first + by * self.sum);
                    self.sum *= less;
                }
                self.top = largest;
            }
            if self.top.is_finite() {
                if ask.entropy {
                    let (sum, first) = weighed(chunk, self.top);
                    self.sum += sum;
                    self.first += first;
                } else {
                    self.sum += summed(chunk, self.top);
                }
            }
            if let Some(other) = other {
                let theirs = &other.logits[start..start + chunk.len()];
                self.cross += crossed(theirs, other.total as f32, chunk);
            }
        }
        if ask.keep {
            self.logits.extend_from_slice(logits);
        }
    }

    /// Strongest tokens, and how many are stronger than those of interest.
    fn rank(&mut self, chunk: &[f32], start: usize, largest: f32, ask: &RowRequest, known: usize) {
        let worst = match self.best.last() {
            Some(last) if self.best.len() >= ask.top => last.1,
            _ => f32::NEG_INFINITY,
        };
        let full = self.best.len() >= ask.top;
        if ask.top > 0 && (!full || largest > worst) {
            let counted = known.saturating_sub(start).min(chunk.len());
            for (i, value) in chunk[..counted].iter().enumerate() {
                if self.best.len() == ask.top && self.best.last().is_some_and(|l| *value <= l.1) {
                    continue;
                }
                // Ids come in order, so equals stay in order of their ids.
                let at = self.best.partition_point(|held| held.1 >= *value);
                self.best.insert(at, ((start + i) as u32, *value));
                self.best.truncate(ask.top);
            }
        }
        if ask.ranks {
            for (id, logit, above) in &mut self.tokens {
                if largest > *logit {
                    *above += chunk.iter().map(|z| u32::from(*z > *logit)).sum::<u32>();
                    // Its own logit here may be larger by a rounding.
                    let own = (*id as usize).checked_sub(start).and_then(|i| chunk.get(i));
                    *above -= u32::from(own.is_some_and(|z| *z > *logit));
                }
            }
        }
    }

    fn said(self, ask: &RowRequest, other: Option<f64>) -> RowStats {
        if self.broken || self.top == f32::NEG_INFINITY {
            let told = self.tokens.iter().map(|(id, logit, _)| TokenStats {
                id: *id,
                logit: *logit,
                logprob: f32::NAN,
                rank: NO_RANK,
            });
            return RowStats {
                tokens: told.collect(),
                entropy: f32::NAN,
                kl: f32::NAN,
                gap: f32::NAN,
                total: f64::NAN,
                logits: self.logits,
                ..RowStats::default()
            };
        }
        let total = f64::from(self.top) + self.sum.ln();
        let share = |z: f32| (f64::from(z) - total).exp() as f32;
        RowStats {
            top: self.best.iter().map(|(id, z)| (*id, share(*z))).collect(),
            tokens: self
                .tokens
                .iter()
                .map(|(id, z, rank)| TokenStats {
                    id: *id,
                    logit: *z,
                    logprob: (f64::from(*z) - total) as f32,
                    rank: *rank,
                })
                .collect(),
            // ln Σ e^(z-top) - Σ p (z-top).
            entropy: if ask.entropy {
                (self.sum.ln() - self.first / self.sum).max(0.0) as f32
            } else {
                f32::NAN
            },
            // Σ p' (ln p' - ln p) = Σ p' (z' - z) - total' + total.
            kl: other.map_or(f32::NAN, |theirs| {
                let kl = self.cross - theirs + total;
                // Rounding goes below nothing; what is not a number stays so.
                (if kl < 0.0 { 0.0 } else { kl }) as f32
            }),
            gap: f32::NAN,
            total,
            logits: self.logits,
        }
    }
}

fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let blocks = values.chunks_exact(LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for (lane, z) in lanes.iter_mut().zip(block) {
            *lane = if *z > *lane { *z } else { *lane };
        }
    }
    let most = |a: f32, b: f32| if b > a { b } else { a };
    lanes
        .into_iter()
        .chain(rest.iter().copied())
        .fold(f32::NEG_INFINITY, most)
}

/// `Σ e^(z - top)` and `Σ e^(z - top) (z - top)`.
fn weighed(values: &[f32], top: f32) -> (f64, f64) {
    let mut lanes = [[0f32; LANES]; 2];
    let take = |sum: &mut f32, first: &mut f32, z: f32| {
        let by = (z - top).max(FLOOR);
        let e = exp(by);
        *sum += e;
        *first += e * by;
    };
    let blocks = values.chunks_exact(LANES);
    let mut rest = [0f32; 2];
    for z in blocks.remainder() {
        let [sum, first] = &mut rest;
        take(sum, first, *z);
    }
    for block in blocks {
        let [sums, firsts] = &mut lanes;
        for ((sum, first), z) in sums.iter_mut().zip(firsts).zip(block) {
            take(sum, first, *z);
        }
    }
    let whole = |lanes: &[f32], rest: f32| {
        f64::from(rest) + lanes.iter().map(|l| f64::from(*l)).sum::<f64>()
    };
    (whole(&lanes[0], rest[0]), whole(&lanes[1], rest[1]))
}

/// `Σ e^(z' - total') (z' - z)`.
fn crossed(theirs: &[f32], total: f32, own: &[f32]) -> f64 {
    let part = |z: f32, own: f32| {
        let p = exp((z - total).min(0.0));
        // Where the other row has no probability, what this one has does not matter.
        p * (z - own).clamp(-1e30, 1e30)
    };
    let mut lanes = [0f32; LANES];
    let (a, b) = (theirs.chunks_exact(LANES), own.chunks_exact(LANES));
    let rest: f64 = a
        .remainder()
        .iter()
        .zip(b.remainder())
        .map(|(z, own)| f64::from(part(*z, *own)))
        .sum();
    for (a, b) in a.zip(b) {
        for ((lane, z), own) in lanes.iter_mut().zip(a).zip(b) {
            *lane += part(*z, *own);
        }
    }
    rest + lanes.iter().map(|l| f64::from(*l)).sum::<f64>()
}
