//! Replacing: a run is read once, then read on from any block and position with vectors put into slots, many trials side
//! by side.
//!
//! A trial is what one row has in its slots; all of them come from the same run. Positions before the earliest slot are
//! not read again: no position sees a later one, so their keys and values serve every row, held once. Blocks below the
//! earliest slot are not computed again either: the stream that left them was kept, and a row joins the batch where its
//! slot lies, so the batch grows on its way up (Biran et al. 2024, 2406.12775, patch so at one position; the cost is that
//! of methods such as Meng et al. 2022, 2202.05262, without what does not change).
//!
//! Invariant: a trial's logits are those of the whole run with its edits and the same values put in after them, to
//! rounding. Edits with a condition look at values that are not computed again, so their trials are read whole.
//! To read something else of trials, add a method of [`Replay`] that walks `Replay::chunks`.

mod slot;

use std::collections::HashMap;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::lab::apply::{Null, Program};
use crate::lab::bench::Bench;
use crate::lab::extend::extend;
use crate::lab::run::Run;
use crate::lab::sample::top;
use crate::model::Model;
use crate::model::network::cache::{Cache, Own};
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::{Phase, Span, Tap};
pub use slot::{Slot, Trial};
use slot::{SlotTap, check, put};

/// Most rows of one pass.
const ROWS: usize = 256;

/// Bytes that the values of one pass may take, roughly.
const BYTES: usize = 256 << 20;

/// Takes a trial's number and its logits.
type Took<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + 'a;

/// Takes a trial's number, its logits and the tokens that it went on with.
type Wrote<'a> = dyn FnMut(usize, &[f32], &[u32]) -> Result<()> + 'a;

/// How a run is read the first time.
#[derive(Clone, Debug, Default)]
pub struct Reading<'a> {
    /// What the run itself has in its slots.
    pub put: Trial,
    /// The first position that trials may replace.
    pub from: usize,
    /// The position after which logits are read; the last by default.
    pub read: Option<usize>,
    /// What else is kept of it, from the first position on.
    pub wanted: &'a [Address],
}

/// A run that was read once.
pub struct Replay {
    run: Run,
    /// As compiled: every pass works on a copy, so that no trial sees what another measured.
    program: Program,
    put: Trial,
    cache: Cache,
    /// What enters every block, and what leaves the last: `[1, end - from, d_model]`.
    streams: Vec<Tensor>,
    values: HashMap<Address, Tensor>,
    from: usize,
    read: usize,
    /// Positions that passes cover.
    end: usize,
    /// Whether what comes before a slot may be shared.
    shares: bool,
    /// The run's own logits after the position that is read, `[vocab]`.
    pub logits: Vec<f32>,
}

impl Bench {
    /// Reads a run once, to be replayed.
    pub fn replay(&mut self, run: &Run, reading: Reading) -> Result<Replay> {
        let length = run.tokens.len();
        self.model.check_prompt(&run.tokens)?;
        let read = reading.read.unwrap_or(length - 1);
        for (name, position) in [("read", read), ("from", reading.from)] {
            if position >= length {
                let expected = format!("a position from 0 to {}", length - 1);
                return Err(Error::argument(name, position.to_string(), expected));
            }
        }
        let program = self.compile(run, Null::No)?;
        let model = &self.model;
        let transformer = &model.transformer;
        // What comes after the last position of interest changes nothing before it, unless the length of the text does.
        let end = if transformer.regime(read + 1) == transformer.regime(length) {
            read + 1
        } else {
            length
        };
        for slot in &reading.put {
            check(model, slot, 0..end)?;
        }
        let layers = model.card.layers;
        let streams: Vec<Address> = std::iter::once(Site::Embed.at(0))
            .chain((0..layers).map(|l| Site::ResidPost.at(l)))
            .collect();
        let wanted: Vec<Address> = streams.iter().chain(reading.wanted).copied().collect();
        wanted.iter().try_for_each(|at| model.offers(*at))?;
        let mut cache = model.cache(1)?;
        let mut own = program.clone();
        let slots = reading.put.iter().map(|slot| (0, slot)).collect();
        let mut tap = SlotTap::new(&mut own, slots, self.guard());
        tap.wanted = &wanted;
        tap.from = reading.from;
        let span = Span {
            start: 0,
            len: end,
            prompt: run.prompt,
            phase: Phase::Prefill,
        };
        let tokens = model.tokens(&run.tokens[..end])?;
        let x = transformer.trunk(&tokens, span, Some(&mut cache), &mut tap)?;
        let logits = tap.read_out(model, &x, span, read)?;
        let mut values = std::mem::take(&mut tap.kept);
        let streams = streams
            .iter()
            .filter_map(|at| {
                if reading.wanted.contains(at) {
                    values.get(at).cloned()
                } else {
                    values.remove(at)
                }
            })
            .collect();
        Ok(Replay {
            shares: !run.schedule.spans().any(|(_, edits)| {
                let mut edits = edits.iter();
                edits.any(|edit| edit.active() && edit.when.is_some())
            }),
            run: run.clone(),
            program,
            put: reading.put,
            cache,
            streams,
            values,
            from: reading.from,
            read,
            end,
            logits: logits.flatten_all()?.to_vec1()?,
        })
    }
}

/// Trials that are read in one pass: the position from which on, and their blocks and indices, lowest block first.
#[derive(Debug)]
struct Chunk {
    from: usize,
    rows: Vec<(usize, usize)>,
}

impl Replay {
    /// A value of the first reading at a position, `[width]`, or `[head_dim]` of one head; of the addresses that were wanted.
    pub fn value(&self, at: Address, position: usize, head: Option<usize>) -> Result<Tensor> {
        let held = self.values.get(&at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "it was not kept. Ask for it before the run.".into(),
        })?;
        let row = held.narrow(1, position - self.from, 1)?.flatten_all()?;
        Ok(match head {
            None => row,
            Some(head) => {
                let width = held.dim(held.rank() - 1)?;
                row.narrow(0, head * width, width)?
            }
        })
    }

    /// What left a block, at a position of the first reading, `[d_model]`.
    pub fn state(&self, layer: usize, position: usize) -> Result<Tensor> {
        let stream = &self.streams[layer + 1];
        Ok(stream.narrow(1, position - self.from, 1)?.flatten_all()?)
    }

    /// The logits of every trial after the position that is read, `[vocab]` each, handed over as they come, not in order.
    pub fn logits_of(&self, bench: &Bench, trials: &[Trial], each: &mut Took) -> Result<()> {
        for chunk in self.chunks(bench, trials, false, each)? {
            let mut program = self.program.clone();
            let tap = self.tap(bench, &mut program, &chunk, trials);
            let (logits, _) = self.pass(bench, &chunk, trials, Own::Passing, tap)?;
            let logits = logits.to_vec2::<f32>()?;
            for ((_, index), row) in chunk.rows.iter().zip(&logits) {
                each(*index, row)?;
            }
        }
        Ok(())
    }

    /// Continues every trial greedily by at most `count` tokens, an end token included: its logits after the text, and the
    /// tokens, handed over as they come. The position that is read must be the last.
    pub fn texts_of(
        &self,
        bench: &Bench,
        trials: &[Trial],
        count: usize,
        each: &mut Wrote,
    ) -> Result<()> {
        let length = self.run.tokens.len();
        if self.read + 1 != length {
            let expected = format!("{}, the last, where texts are to go on", length - 1);
            return Err(Error::argument("read", self.read.to_string(), expected));
        }
        let count = count.clamp(1, bench.model.card.context - length + 1);
        if count > 1 && self.program.asks_probability() {
            // The unedited model would have to read along with every trial.
            return Err(Error::Refused {
                address: "when p(...)".into(),
                why: "what the unedited model would say of tokens that trials write is not measured. Read the next token alone (measure=probability, or tokens=1), or take the condition away.".into(),
            });
        }
        let mut own = Vec::new();
        let chunks = self.chunks(bench, trials, true, &mut |index, _| {
            own.push(index);
            Ok(())
        })?;
        // The run itself goes on once for all trials without slots.
        if !own.is_empty() {
            let alone = Chunk {
                from: length - 1,
                rows: vec![(bench.model.card.layers, own[0])],
            };
            let (first, written) = self.go_on(bench, &alone, trials, count)?.swap_remove(0);
            for index in own {
                each(index, &first, &written)?;
            }
        }
        for chunk in chunks {
            let written = self.go_on(bench, &chunk, trials, count)?;
            for ((_, index), (first, written)) in chunk.rows.iter().zip(&written) {
                each(*index, first, written)?;
            }
        }
        Ok(())
    }

    /// Which trials are read together; those without slots are the run itself and handed over at once.
    fn chunks(
        &self,
        bench: &Bench,
        trials: &[Trial],
        kept: bool,
        each: &mut Took,
    ) -> Result<Vec<Chunk>> {
        let model = &bench.model;
        let layers = model.card.layers;
        let mut order = Vec::new();
        for (index, trial) in trials.iter().enumerate() {
            for slot in trial {
                check(model, slot, self.from..self.end)?;
            }
            let from = trial.iter().map(|slot| slot.position).min();
            let entry = trial.iter().map(|slot| slot.entry(layers)).min();
            match (from, entry) {
                (Some(from), Some(entry)) if self.shares => order.push((from, entry, index)),
                (Some(_), Some(_)) => order.push((0, 0, index)),
                _ => each(index, &self.logits)?,
            }
        }
        order.sort_unstable();
        let mut out = Vec::new();
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let from = group[0].0;
            for rows in group.chunks(self.most(model, self.end - from, kept)) {
                let rows = rows.iter().map(|(_, entry, index)| (*entry, *index));
                out.push(Chunk {
                    from,
                    rows: rows.collect(),
                });
            }
        }
        Ok(out)
    }

    /// How many rows of so many tokens fit into the bytes of a pass.
    fn most(&self, model: &Model, tokens: usize, kept: bool) -> usize {
        let b = &model.transformer.blueprint;
        let width = b.heads * b.head_dim;
        let mut floats =
            tokens * (8 * b.d_model + 3 * b.d_mlp + 4 * width + 3 * b.heads * self.end);
        floats += 2 * b.vocab;
        if kept || !self.shares {
            floats += 2 * b.layers.len() * b.kv_heads * b.head_dim * (tokens + 16);
        }
        (BYTES / (4 * floats)).clamp(1, ROWS)
    }

    /// The tap of a pass: the run's own slots in every row, then each trial's.
    fn tap<'a>(
        &'a self,
        bench: &'a Bench,
        program: &'a mut Program,
        chunk: &Chunk,
        trials: &'a [Trial],
    ) -> SlotTap<'a> {
        let layers = bench.model.card.layers;
        let mut slots = Vec::new();
        for (row, (entry, index)) in chunk.rows.iter().enumerate() {
            // What lies in the stream that a row joins with is put there, see `Replay::pass`.
            let later = |slot: &&Slot| {
                let own = slot.entry(layers);
                !self.shares || own > *entry || (own == *entry && !slot.at_the_door())
            };
            let own = self.put.iter().chain(&trials[*index]).filter(later);
            slots.extend(own.map(|slot| (row, slot)));
        }
        // Every row is a trial, and who takes its logits looks at it.
        SlotTap::new(program, slots, bench.guard().lenient())
    }

    /// One pass over a chunk: logits `[rows, vocab]` after the position that is read.
    fn pass(
        &self,
        bench: &Bench,
        chunk: &Chunk,
        trials: &[Trial],
        own: Own,
        mut tap: SlotTap,
    ) -> Result<(Tensor, Cache)> {
        let model = &bench.model;
        if !self.shares {
            let texts = vec![self.run.tokens[..self.end].to_vec(); chunk.rows.len()];
            return self.whole(model, &texts, self.read, &mut tap);
        }
        let transformer = &model.transformer;
        let layers = model.card.layers;
        let span = Span {
            start: chunk.from,
            len: self.end - chunk.from,
            prompt: self.run.prompt,
            phase: Phase::Prefill,
        };
        let mut cache = self.cache.branch(chunk.from, own)?;
        cache.reserve(span.len)?;
        let pass = transformer.prepare(span)?;
        tap.begin(span);
        let mut stream: Option<Tensor> = None;
        let mut reached = 0;
        for group in chunk.rows.chunk_by(|a, b| a.0 == b.0) {
            let entry = group[0].0;
            let joining = self.streams[entry].narrow(1, chunk.from - self.from, span.len)?;
            let joining = joining.repeat((group.len(), 1, 1))?;
            let door: Vec<(usize, &Slot)> = group
                .iter()
                .enumerate()
                .flat_map(|(row, (_, index))| trials[*index].iter().map(move |slot| (row, slot)))
                .filter(|(_, slot)| slot.at_the_door() && slot.entry(layers) == entry)
                .collect();
            let joining = put(joining, &door, span)?;
            stream = Some(match stream {
                None => joining,
                Some(x) => {
                    let x = transformer.through(
                        reached..entry,
                        x,
                        &pass,
                        Some(&mut cache),
                        &mut tap,
                    )?;
                    Tensor::cat(&[&x, &joining], 0)?
                }
            });
            reached = entry;
        }
        let Some(x) = stream else {
            return Err(Error::Engine("a pass without rows".into()));
        };
        let x = transformer.through(reached..layers, x, &pass, Some(&mut cache), &mut tap)?;
        cache.advance(span.len);
        let x = x.narrow(1, self.read - chunk.from, 1)?.contiguous()?;
        let logits = tap.read_out(model, &x, span, self.read)?;
        Ok((logits, cache))
    }

    /// Texts read whole, a row each, with their slots: logits after a position, and the cache.
    fn whole(
        &self,
        model: &Model,
        texts: &[Vec<u32>],
        read: usize,
        tap: &mut SlotTap,
    ) -> Result<(Tensor, Cache)> {
        let span = Span {
            start: 0,
            len: texts[0].len(),
            prompt: self.run.prompt,
            phase: Phase::Prefill,
        };
        let rows = texts.iter().map(|text| model.tokens(text));
        let tokens = Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?;
        let mut cache = model.cache(texts.len())?;
        let transformer = &model.transformer;
        let x = transformer.trunk(&tokens, span, Some(&mut cache), tap)?;
        Ok((tap.read_out(model, &x, span, read)?, cache))
    }

    /// Continues the trials of a chunk: logits after the text, and what is written, in the order of its rows.
    fn go_on(
        &self,
        bench: &Bench,
        chunk: &Chunk,
        trials: &[Trial],
        count: usize,
    ) -> Result<Vec<(Vec<f32>, Vec<u32>)>> {
        let model = &bench.model;
        let rows = chunk.rows.len();
        let mut program = self.program.clone();
        let tap = self.tap(bench, &mut program, chunk, trials);
        let (logits, mut cache) = self.pass(bench, chunk, trials, Own::Kept, tap)?;
        if self.shares {
            cache.complete(rows, &self.cache)?;
        }
        let mut logits = logits.to_vec2::<f32>()?;
        let mut out: Vec<(Vec<f32>, Vec<u32>)> =
            logits.iter().map(|row| (row.clone(), Vec::new())).collect();
        let mut texts = vec![self.run.tokens.clone(); rows];
        let mut silent = vec![false; rows];
        let ended = |written: &[u32]| written.last().is_some_and(|t| model.is_end(*t));
        // What is in the slots comes back where the whole text has to be read again.
        let slots = chunk.rows.iter().enumerate().flat_map(|(row, (_, index))| {
            let own = self.put.iter().chain(&trials[*index]);
            own.map(move |slot| (row, slot))
        });
        let mut tap = SlotTap::new(&mut program, slots.collect(), bench.guard().lenient());
        for step in 1..=count {
            for (i, row) in logits.iter().enumerate() {
                let best = top(row, model.known_tokens(), 1).first().map(|t| t.0);
                // A row without numbers says nothing any more; it is read on with any token beside the others.
                silent[i] |= best.is_none();
                texts[i].push(best.unwrap_or(0));
                let written = &mut out[i].1;
                if !silent[i] && !ended(written) {
                    written.extend(best);
                }
            }
            let mut rows = out.iter().zip(&silent);
            if step == count || rows.all(|((_, written), silent)| *silent || ended(written)) {
                break;
            }
            let x = extend(model, &texts, self.run.prompt, &mut cache, &mut tap)?;
            let span = tap.span;
            logits = tap
                .read_out(model, &x, span, texts[0].len() - 1)?
                .to_vec2()?;
        }
        Ok(out)
    }
}
