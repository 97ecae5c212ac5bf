//! Values put into slots of a target prompt while it is read, many such branches side by side, and what each goes on with.
//!
//! Invariants: a value acts once, in the pass that reads its slot, and lives on through keys and values alone; what lies before
//! the first slot is read once for all branches; a value that found no place is an error. To ask something else of a
//! branch, add a field to [`Written`].

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::lab::apply::Program;
use crate::lab::bench::{Bench, Reading, reading};
use crate::lab::run::{Keep, Patch, RunTap};
use crate::lab::sample::log_sum_exp;
use crate::model::Model;
use crate::model::network::cache::Cache;
use crate::model::network::finite;
use crate::model::network::site::Address;
use crate::model::network::tap::{Phase, Span};

/// Most branches of one pass.
const ROWS: usize = 32;

/// Bytes that the caches of one pass may take.
const BYTES: usize = 512 << 20;

/// Candidates kept for the first token.
const TOP: usize = 5;

/// A value for a place in the target: overwrites `at` at `position`.
#[derive(Clone, Debug)]
pub struct Put {
    /// Where.
    pub at: Address,
    /// At which position of the target.
    pub position: usize,
    /// `[width]`.
    pub value: Tensor,
}

/// What a branch goes on with.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The tokens, greedily, an end token included.
    pub tokens: Vec<u32>,
    /// Whether it broke off because its numbers were not finite any more.
    pub silent: bool,
    /// The most probable first tokens.
    pub first: Reading,
    /// Probabilities of the watched tokens as the first, in the order they were asked for.
    pub watched: Vec<f32>,
}

/// A target prompt, read up to its first slot.
pub struct Target {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Positions from here on are read by every branch.
    pub from: usize,
    cache: Option<Cache>,
}

impl Target {
    /// Reads a target up to position `from`, which every branch goes on from.
    ///
    /// # Errors
    ///
    /// When the prompt does not fit, or the work is stopped.
    pub fn read(bench: &Bench, tokens: &[u32], from: usize) -> Result<Self> {
        let model = &bench.model;
        model.check_prompt(tokens)?;
        let from = from.min(tokens.len() - 1);
        let regime = |total: usize| model.transformer.regime(total);
        // Nothing is shared where the whole text has other rotary frequencies than its beginning alone.
        let shared = from > 0 && regime(from) == regime(tokens.len());
        let cache = if shared {
            let mut cache = model.cache(1)?;
            let ids = model.tokens(&tokens[..from])?;
            let span = Span {
                prompt: tokens.len(),
                ..Span::prompt(from)
            };
            let trunk = &model.transformer;
            let mut idle = Program::default();
            let mut tap = RunTap::new(&mut idle, &[], &[], Keep::All, bench.guard());
            trunk.trunk(&ids, span, Some(&mut cache), &mut tap)?;
            Some(cache)
        } else {
            None
        };
        Ok(Self {
            tokens: tokens.to_vec(),
            from: if shared { from } else { 0 },
            cache,
        })
    }

    /// Most branches that one pass takes.
    pub fn rows(&self, model: &Model) -> Result<usize> {
        let bytes = match &self.cache {
            Some(cache) => cache.bytes(),
            None => model.cache(1)?.bytes(),
        };
        Ok((BYTES / bytes.max(1)).clamp(1, ROWS))
    }

    /// Goes on from the target under each branch's values, greedily, by at most `count` tokens (one at least).
    /// At most [`Target::rows`] branches.
    ///
    /// # Errors
    ///
    /// When a value has no place here, or the work is stopped.
    pub fn branches(
        &self,
        bench: &Bench,
        branches: &[Vec<Put>],
        count: usize,
        watched: &[u32],
    ) -> Result<Vec<Written>> {
        let model = &bench.model;
        let rows = branches.len();
        let patches = self.patches(model, branches)?;
        let prompt = self.tokens.len();
        // The last token that is chosen need not be read.
        let count = count.clamp(1, model.card.context - prompt + 1);
        let mut cache = match &self.cache {
            Some(cache) => cache.copy(rows)?,
            None => model.cache(rows)?,
        };
        let mut program = Program::default();
        let mut texts = model.tokens(&self.tokens)?.repeat((rows, 1))?;
        let mut out: Vec<Written> = Vec::with_capacity(rows);
        for step in 0..count {
            let total = prompt + step;
            // Other rotary frequencies: the texts are read again, with their values.
            if model.transformer.regime(total) != model.transformer.regime(cache.len().max(1)) {
                cache.truncate(0);
            }
            let start = cache.len();
            let reads = start < prompt;
            let span = Span {
                start,
                len: total - start,
                prompt,
                phase: if reads { Phase::Prefill } else { Phase::Decode },
            };
            let put: &[Patch] = if reads { &patches } else { &[] };
            let pass = texts.narrow(1, start, span.len)?.contiguous()?;
            // Every row is a branch, and is looked at below.
            let guard = bench.guard().lenient();
            let mut tap = RunTap::new(&mut program, put, &[], Keep::All, guard);
            let trunk = &model.transformer;
            let x = trunk.trunk(&pass, span, Some(&mut cache), &mut tap)?;
            let last = x.narrow(1, span.len - 1, 1)?.contiguous()?;
            let (logits, _) = trunk.read_out(&last, None, &mut tap)?;
            if tap.patched != put.len() {
                return Err(Error::Engine(format!(
                    "{} of {} values found their slot",
                    tap.patched,
                    put.len()
                )));
            }
            let logits = logits.squeeze(1)?.to_vec2::<f32>()?;
            // A value may break its own branch; without one, or in all of them, it is the model that is broken.
            let broken = |i: usize| !finite::distribution(&logits[i]);
            let bare = |i: &usize| branches[*i].is_empty();
            if step == 0 && ((0..rows).filter(bare).any(broken) || (0..rows).all(broken)) {
                return Err(tap.guard.explain(tap.program));
            }
            let next = choose(model, &mut out, &logits, watched);
            if out.iter().all(|w| ended(model, w)) || step + 1 == count {
                break;
            }
            let next = Tensor::from_vec(next, (rows, 1), &trunk.device)?;
            texts = Tensor::cat(&[&texts, &next], 1)?;
        }
        Ok(out)
    }

    /// The branches' values as patches of one batch, each with a row of its own.
    fn patches(&self, model: &Model, branches: &[Vec<Put>]) -> Result<Vec<Patch>> {
        let mut out = Vec::new();
        for (row, puts) in branches.iter().enumerate() {
            for put in puts {
                model.offers(put.at)?;
                if !(self.from..self.tokens.len()).contains(&put.position) {
                    return Err(Error::Engine(format!(
                        "a value for position {} of a target that is read from {} to {}",
                        put.position,
                        self.from,
                        self.tokens.len()
                    )));
                }
                out.push(Patch {
                    at: put.at,
                    position: put.position,
                    row: Some(row),
                    value: put.value.clone(),
                });
            }
        }
        Ok(out)
    }
}

fn ended(model: &Model, written: &Written) -> bool {
    written.silent || written.tokens.last().is_some_and(|t| model.is_end(*t))
}

/// Takes every row's most probable token, and notes it where the row has not ended. A row that is no distribution says
/// nothing any more, and is read on with any token beside the others.
fn choose(model: &Model, out: &mut Vec<Written>, logits: &[Vec<f32>], watched: &[u32]) -> Vec<u32> {
    let mut next = Vec::with_capacity(logits.len());
    for (i, row) in logits.iter().enumerate() {
        let read = reading(row, model.known_tokens(), TOP);
        let best = read.top.first().map(|t| t.0);
        next.push(best.unwrap_or(0));
        match out.get_mut(i) {
            None => {
                let total = log_sum_exp(row);
                let p = watched.iter().map(|t| (row[*t as usize] - total).exp());
                out.push(Written {
                    tokens: best.into_iter().collect(),
                    silent: best.is_none(),
                    watched: p.collect(),
                    first: read,
                });
            }
            Some(held) if !ended(model, held) => {
                held.silent |= best.is_none();
                held.tokens.extend(best.filter(|_| !held.silent));
            }
            Some(_) => {}
        }
    }
    next
}
