//! The runner: carries out a [`Pass`]. Nothing else calls the forward pass, but for what checks it.
//!
//! Rows of one text share what they have in common. It is read once and kept as a stem: keys and values of every position,
//! and the stream between the blocks. No position sees a later one, so what lies before the first change of a row is not
//! read again; blocks below the first change are not computed again either: a row joins the batch at the block where it
//! begins to differ, so that the batch grows on its way up. Edits with a condition look at values that are not computed
//! again, so under them rows are read whole. Rows with texts of their own are read side by side where they are of one
//! length, and one by one where the edits depend on the tokens of a prompt ([`crate::edit::Edit::reads_prompt`]).
//!
//! Invariant: a row's logits are those of its whole text with its edits and its patches put in after them, to the rounding
//! of wider products. To read something else of rows, add a field to [`Pass`] and serve it in both ways of reading here.

use std::sync::Arc;

use candle_core::Tensor;

use super::apply::{Null, Program};
use super::bench::Bench;
use super::pass::{Logits, Pass, PassRow, Patch, RowCapture};
use super::run::{Keep, Run, RunTap, Stem, put};
use super::sample::{log_softmax, top};
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::network::cache::{Cache, Own};
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::{Phase, Span, Tap};

/// Most rows of one pass.
const ROWS: usize = 256;

/// Most texts of their own in one pass.
const TEXTS: usize = 16;

/// Bytes that the values of one pass may take, roughly.
const BYTES: usize = 256 << 20;

/// Stems that are kept, unless they are larger than what else is kept.
const STEMS: usize = 2;

/// Takes the number of a row and what it came to.
type Took<'a> = dyn FnMut(&Bench, usize, RowCapture) -> Result<()> + 'a;

/// Rows that are read in one pass: the position from which on, and their first blocks and indices, lowest block first.
struct Chunk {
    from: usize,
    rows: Vec<(usize, usize)>,
}

impl Bench {
    /// Carries out a pass: what every row comes to, in their order.
    ///
    /// # Errors
    ///
    /// When a text, an edit or a patch does not fit, numbers are not finite, or the work is stopped.
    pub fn run(&mut self, pass: &Pass) -> Result<Vec<RowCapture>> {
        let mut out = vec![RowCapture::default(); pass.rows.len()];
        self.run_each(pass, &mut |_, i, row| {
            out[i] = row;
            Ok(())
        })?;
        Ok(out)
    }

    /// The same for a pass of one row.
    ///
    /// # Errors
    ///
    /// Those of [`Bench::run`]; and when there is no row.
    pub fn run_one(&mut self, pass: &Pass) -> Result<RowCapture> {
        let row = self.run(pass)?.into_iter().next();
        row.ok_or_else(|| Error::Engine("a pass without rows".into()))
    }

    /// The same, handed over row by row as they come, not in order: what is not kept takes no memory.
    ///
    /// # Errors
    ///
    /// Those of [`Bench::run`], and those of `each`.
    pub fn run_each(&mut self, pass: &Pass, each: &mut Took) -> Result<()> {
        let alone = pass.rows.iter().all(PassRow::is_plain);
        if pass.rows.iter().any(|row| !row.tokens.is_empty())
            || (alone && pass.common.is_empty() && pass.from.is_none())
        {
            return self.side_by_side(pass, each);
        }
        let stem = self.stem(pass)?;
        self.branches(pass, &stem, each)
    }

    /// Reads texts side by side.
    fn side_by_side(&mut self, pass: &Pass, each: &mut Took) -> Result<()> {
        let texts: Vec<&[u32]> = pass.rows.iter().map(|row| text(pass, row)).collect();
        let groups = groups(&texts, &pass.run.schedule);
        for group in groups {
            self.together(pass, &group, each)?;
        }
        Ok(())
    }

    /// Reads texts of one length in one pass.
    fn together(&mut self, pass: &Pass, group: &[usize], each: &mut Took) -> Result<()> {
        let rows: Vec<&PassRow> = group.iter().map(|i| &pass.rows[*i]).collect();
        let mut texts: Vec<Vec<u32>> = rows.iter().map(|row| text(pass, row).to_vec()).collect();
        for text in &texts {
            self.model.check_prompt(text)?;
        }
        let length = texts[0].len();
        let run = if rows[0].tokens.is_empty() {
            pass.run.clone()
        } else {
            Run {
                schedule: pass.run.schedule.clone(),
                seed: pass.run.seed,
                ..Run::plain(texts[0].clone())
            }
        };
        let mut program = self.compile(&run, null(pass))?;
        let model = &self.model;
        let mut patches: Vec<(usize, &Patch)> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            for patch in pass.common.iter().chain(&row.patches) {
                patch.check(model, 0..length)?;
                patches.push((i, patch));
            }
        }
        let trials = pass.lenient || !rows.iter().all(|row| row.is_plain());
        let guard = self.guard().lenient_if(trials);
        // The last token that is chosen need not be read.
        let count = pass.tail.min(model.card.context - length + 1);
        let mut cache = (count > 1).then(|| model.cache(rows.len())).transpose()?;
        // The unedited model reads along where a condition asks what it says.
        let mut beside = (program.asks_probability() && count > 1)
            .then(|| model.cache(rows.len()))
            .transpose()?;
        let span = Span {
            start: 0,
            len: length,
            prompt: run.prompt,
            phase: Phase::Prefill,
        };
        let knockouts = rows.iter().enumerate();
        let knockouts = knockouts.filter_map(|(i, row)| Some((i, row.knockout.as_ref()?)));
        let mut tap = RunTap::new(&mut program, &patches, &pass.record, Keep::All, guard)
            .cutting(knockouts.collect());
        let transformer = &model.transformer;
        let tokens = tensor(model, &texts, 0)?;
        let x = transformer.trunk(&tokens, span, cache.as_mut(), &mut tap)?;
        let (first, wanted) = match pass.logits {
            Logits::None if count > 0 => (length - 1, 1),
            Logits::None => (0, 0),
            Logits::Last(n) => (length - n.min(length), n.min(length)),
            Logits::After(at) => (at, 1),
        };
        let late =
            |at: &Address| matches!(at.site, Site::FinalNorm | Site::LogitsRaw | Site::Logits);
        let mut logits: Vec<Vec<Vec<f32>>> = Vec::with_capacity(rows.len());
        if pass.record.iter().any(late) {
            let (all, _) = transformer.read_out(&x, None, &mut tap)?;
            if wanted > 0 {
                logits = all.narrow(1, first, wanted)?.to_vec3()?;
            }
        } else if wanted > 0 {
            // Edits after the last block see these positions and no others.
            tap.begin(Span {
                start: first,
                len: wanted,
                ..span
            });
            // Of one position all rows in one product, of many each row by itself, for they are large.
            let at_once = if wanted == 1 || !patches.is_empty() {
                rows.len()
            } else {
                1
            };
            for row in (0..rows.len()).step_by(at_once) {
                let own = x.narrow(0, row, at_once)?.narrow(1, first, wanted)?;
                let (read, _) = transformer.read_out(&own.contiguous()?, None, &mut tap)?;
                logits.extend(read.to_vec3()?);
            }
        }
        tap.program.settle()?;
        let mut out: Vec<RowCapture> = Vec::with_capacity(rows.len());
        let recorded = std::mem::take(&mut tap.recorded);
        for row in 0..rows.len() {
            let own = recorded.iter().map(|(at, t)| {
                let one = if rows.len() == 1 {
                    t.squeeze(0)
                } else {
                    t.get(row)
                };
                Ok((*at, one?))
            });
            out.push(RowCapture {
                recorded: own.collect::<Result<_>>()?,
                receipts: tap.program.receipts().to_vec(),
                ..RowCapture::default()
            });
        }
        if let Some(cache) = cache.as_mut().filter(|_| count > 0) {
            let last = logits
                .iter()
                .filter_map(|row| row.last().cloned())
                .collect();
            let mut listen = |program: &mut Program, texts: &[Vec<u32>]| match &mut beside {
                Some(beside) => {
                    program.hear(
                        texts[0].len() - 1,
                        &unedited(self, &texts[..1], run.prompt, beside)?,
                    );
                    Ok(())
                }
                None => Ok(()),
            };
            let tails = go_on(
                model,
                &mut texts,
                run.prompt,
                cache,
                &mut tap,
                last,
                count,
                &mut listen,
            )?;
            for (row, (tail, silent)) in out.iter_mut().zip(tails) {
                (row.tail, row.silent) = (tail, silent);
            }
        } else if count == 1 {
            for (row, logits) in out.iter_mut().zip(&logits) {
                let best = logits.last().and_then(|row| best(model, row));
                (row.tail, row.silent) = (best.into_iter().collect(), best.is_none());
            }
        }
        for (row, logits) in out.iter_mut().zip(logits) {
            row.logits = logits;
        }
        for (i, row) in group.iter().zip(out) {
            each(self, *i, row)?;
        }
        Ok(())
    }

    /// What the rows of a pass have in common, read now or kept from an earlier pass.
    fn stem(&mut self, pass: &Pass) -> Result<Arc<Stem>> {
        let (run, model) = (&pass.run, &self.model);
        let length = run.tokens.len();
        model.check_prompt(&run.tokens)?;
        let read = match pass.logits {
            Logits::None | Logits::Last(1) => length - 1,
            Logits::After(position) => position,
            Logits::Last(n) => {
                let expected = "one position, where rows differ from their run";
                return Err(Error::argument("logits", n.to_string(), expected));
            }
        };
        let from = pass.from.unwrap_or_else(|| {
            let changed = pass.rows.iter().filter_map(PassRow::from).min();
            changed.unwrap_or(read)
        });
        for (name, position) in [("read", read), ("from", from)] {
            if position >= length {
                let expected = format!("a position from 0 to {}", length - 1);
                return Err(Error::argument(name, position.to_string(), expected));
            }
        }
        // What comes after the last position of interest changes nothing before it, unless the length of the text does.
        let regime = |total| model.transformer.regime(total);
        let end = if regime(read + 1) == regime(length) {
            read + 1
        } else {
            length
        };
        for patch in &pass.common {
            patch.check(model, 0..end)?;
        }
        let key = self.key(run);
        let same = |stem: &&Arc<Stem>| {
            (stem.key, stem.random, stem.from, stem.read) == (key, pass.random, from, read)
                && alike(&stem.common, &pass.common)
                && pass.record.iter().all(|at| stem.value(*at).is_some())
        };
        if let Some(stem) = self.stems.iter().find(same) {
            return Ok(stem.clone());
        }
        let stem = Arc::new(self.read_stem(pass, key, from, read, end)?);
        self.stems.push(stem.clone());
        let large = |stems: &[Arc<Stem>]| stems.iter().map(|s| s.bytes()).sum::<usize>();
        while self.stems.len() > STEMS || (self.stems.len() > 1 && large(&self.stems) > self.budget)
        {
            self.stems.remove(0);
        }
        Ok(stem)
    }

    fn read_stem(
        &mut self,
        pass: &Pass,
        key: u64,
        from: usize,
        read: usize,
        end: usize,
    ) -> Result<Stem> {
        let run = &pass.run;
        let program = self.compile(run, null(pass))?;
        let model = &self.model;
        let streams: Vec<Address> = std::iter::once(Site::Embed.at(0))
            .chain((0..model.card.layers).map(|l| Site::ResidPost.at(l)))
            .collect();
        pass.record.iter().try_for_each(|at| model.offers(*at))?;
        let wanted: Vec<Address> = streams.iter().chain(&pass.record).copied().collect();
        let mut cache = model.cache(1)?;
        let mut own = program.clone();
        let common: Vec<(usize, &Patch)> = pass.common.iter().map(|patch| (0, patch)).collect();
        let guard = self.guard().lenient_if(pass.lenient);
        let mut tap = RunTap::new(&mut own, &common, &wanted, Keep::From(from), guard);
        let span = Span {
            start: 0,
            len: end,
            prompt: run.prompt,
            phase: Phase::Prefill,
        };
        let tokens = model.tokens(&run.tokens[..end])?;
        let x = model
            .transformer
            .trunk(&tokens, span, Some(&mut cache), &mut tap)?;
        let logits = after(model, &x, span, read, &mut tap)?;
        let mut values = std::mem::take(&mut tap.recorded);
        let streams = streams.iter().filter_map(|at| values.remove(at)).collect();
        own.settle()?;
        let conditional = run.schedule.spans().any(|(_, edits)| {
            let mut edits = edits.iter();
            edits.any(|edit| edit.active() && edit.when.is_some())
        });
        Ok(Stem {
            key,
            random: pass.random,
            common: pass.common.clone(),
            program,
            cache,
            streams,
            values,
            from,
            read,
            end,
            shares: !conditional,
            logits: logits.flatten_all()?.to_vec1()?,
            receipts: own.receipts().to_vec(),
        })
    }

    /// Reads the rows of a pass on from what they have in common.
    fn branches(&mut self, pass: &Pass, stem: &Stem, each: &mut Took) -> Result<()> {
        let length = pass.run.tokens.len();
        let count = pass.tail.min(self.model.card.context - length + 1);
        if count > 0 && stem.read + 1 != length {
            let expected = format!("{}, the last, where texts are to go on", length - 1);
            return Err(Error::argument("read", stem.read.to_string(), expected));
        }
        if count > 1 && stem.program.asks_probability() {
            // The unedited model would have to read along with every row.
            return Err(Error::Refused {
                address: "when p(...)".into(),
                why: "what the unedited model would say of tokens that trials write is not measured. Read the next token alone (measure=probability, or tokens=1), or take the condition away.".into(),
            });
        }
        let (plain, chunks) = self.chunks(pass, stem, count > 1)?;
        if !plain.is_empty() {
            let capture = self.unchanged(pass, stem, count)?;
            for index in plain {
                each(self, index, capture.clone())?;
            }
        }
        for chunk in &chunks {
            self.chunk(pass, stem, chunk, count, each)?;
        }
        Ok(())
    }

    /// The run itself, as every plain row has it.
    fn unchanged(&self, pass: &Pass, stem: &Stem, count: usize) -> Result<RowCapture> {
        let mut capture = RowCapture {
            logits: vec![stem.logits.clone()],
            receipts: stem.receipts.clone(),
            ..RowCapture::default()
        };
        for at in &pass.record {
            if let Some(value) = stem.value(*at) {
                capture.recorded.insert(*at, value.squeeze(0)?);
            }
        }
        if count > 0 {
            let alone = Chunk {
                from: pass.run.tokens.len() - 1,
                rows: vec![(self.model.card.layers, 0)],
            };
            let whole = Pass {
                rows: vec![PassRow::default()],
                ..pass.clone()
            };
            self.chunk(&whole, stem, &alone, count, &mut |_, _, row| {
                (capture.tail, capture.silent) = (row.tail, row.silent);
                Ok(())
            })?;
        }
        Ok(capture)
    }

    /// Which rows are the run itself, and which of the others are read together.
    fn chunks(&self, pass: &Pass, stem: &Stem, kept: bool) -> Result<(Vec<usize>, Vec<Chunk>)> {
        let model = &self.model;
        let layers = model.card.layers;
        let (mut plain, mut order) = (Vec::new(), Vec::new());
        for (index, row) in pass.rows.iter().enumerate() {
            for patch in &row.patches {
                patch.check(model, stem.from..stem.end)?;
            }
            match row.from() {
                None => plain.push(index),
                Some(from) if !(stem.from..stem.end).contains(&from) => {
                    let expected = format!("positions {} to {}", stem.from, stem.end - 1);
                    return Err(Error::argument("targets", from.to_string(), expected));
                }
                Some(from) if stem.shares => order.push((from, row.entry(layers), index)),
                Some(_) => order.push((0, 0, index)),
            }
        }
        order.sort_unstable();
        let mut out = Vec::new();
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let from = group[0].0;
            let kept = kept || !stem.shares;
            for rows in group.chunks(most(model, stem.end - from, stem.end, kept)) {
                let rows = rows.iter().map(|(_, entry, index)| (*entry, *index));
                out.push(Chunk {
                    from,
                    rows: rows.collect(),
                });
            }
        }
        Ok((plain, out))
    }

    /// One pass over a chunk of rows, and what they go on with.
    fn chunk(
        &self,
        pass: &Pass,
        stem: &Stem,
        chunk: &Chunk,
        count: usize,
        each: &mut Took,
    ) -> Result<()> {
        let model = &self.model;
        let layers = model.card.layers;
        let mut program = stem.program.clone();
        let rows = || chunk.rows.iter().enumerate();
        let all = |row: usize, index: usize| {
            let own = pass.common.iter().chain(&pass.rows[index].patches);
            own.map(move |patch| (row, patch))
        };
        // What lies in the stream that a row joins with is put there, see `joined`.
        let later: Vec<(usize, &Patch)> = rows()
            .flat_map(|(row, (entry, index))| {
                all(row, *index).filter(move |(_, patch)| {
                    let own = patch.entry(layers);
                    !stem.shares || own > *entry || (own == *entry && !patch.at_the_door())
                })
            })
            .collect();
        let cuts = || {
            let own =
                rows().filter_map(|(i, (_, row))| Some((i, pass.rows[*row].knockout.as_ref()?)));
            own.collect::<Vec<_>>()
        };
        // Every row is a trial, and who takes its logits looks at it.
        let guard = self.guard().lenient();
        let mut tap = RunTap::new(&mut program, &later, &[], Keep::Last, guard).cutting(cuts());
        let mut texts = vec![pass.run.tokens.clone(); chunk.rows.len()];
        let (logits, mut cache) = if stem.shares {
            let own = if count > 1 { Own::Kept } else { Own::Passing };
            let (logits, mut cache) = joined(model, pass, stem, chunk, own, &mut tap)?;
            if count > 1 {
                cache.complete(chunk.rows.len(), &stem.cache)?;
            }
            (logits, cache)
        } else {
            let span = Span {
                start: 0,
                len: stem.end,
                prompt: pass.run.prompt,
                phase: Phase::Prefill,
            };
            let read: Vec<Vec<u32>> = texts.iter().map(|t| t[..stem.end].to_vec()).collect();
            let mut cache = model.cache(texts.len())?;
            let tokens = tensor(model, &read, 0)?;
            let x = model
                .transformer
                .trunk(&tokens, span, Some(&mut cache), &mut tap)?;
            (after(model, &x, span, stem.read, &mut tap)?, cache)
        };
        let logits = logits.to_vec2::<f32>()?;
        let mut tails = vec![(Vec::new(), false); texts.len()];
        if count > 0 {
            // What is put in comes back where the whole text has to be read again.
            let patches: Vec<(usize, &Patch)> = rows()
                .flat_map(|(row, (_, index))| all(row, *index))
                .collect();
            let guard = self.guard().lenient();
            let mut tap =
                RunTap::new(&mut program, &patches, &[], Keep::Last, guard).cutting(cuts());
            tails = go_on(
                model,
                &mut texts,
                pass.run.prompt,
                &mut cache,
                &mut tap,
                logits.clone(),
                count,
                &mut |_, _| Ok(()),
            )?;
        }
        for (((_, index), logits), (tail, silent)) in chunk.rows.iter().zip(logits).zip(tails) {
            let row = RowCapture {
                logits: vec![logits],
                tail,
                silent,
                ..RowCapture::default()
            };
            each(self, *index, row)?;
        }
        Ok(())
    }
}

/// The pass of a chunk: every row joins at its block with the stream of the run there. Logits `[rows, vocab]` after the
/// position that is read.
fn joined(
    model: &Model,
    pass: &Pass,
    stem: &Stem,
    chunk: &Chunk,
    own: Own,
    tap: &mut RunTap,
) -> Result<(Tensor, Cache)> {
    let transformer = &model.transformer;
    let layers = model.card.layers;
    let span = Span {
        start: chunk.from,
        len: stem.end - chunk.from,
        prompt: pass.run.prompt,
        phase: Phase::Prefill,
    };
    let mut cache = stem.cache.branch(chunk.from, own)?;
    cache.reserve(span.len)?;
    let shared = transformer.prepare(span)?;
    tap.begin(span);
    let mut stream: Option<Tensor> = None;
    let mut reached = 0;
    for group in chunk.rows.chunk_by(|a, b| a.0 == b.0) {
        let entry = group[0].0;
        let joining = stem.streams[entry].narrow(1, chunk.from - stem.from, span.len)?;
        let joining = joining.repeat((group.len(), 1, 1))?;
        let door: Vec<(usize, &Patch)> = group
            .iter()
            .enumerate()
            .flat_map(|(row, (_, index))| {
                let patches = pass.rows[*index].patches.iter();
                patches.map(move |patch| (row, patch))
            })
            .filter(|(_, patch)| patch.at_the_door() && patch.entry(layers) == entry)
            .collect();
        let joining = put(joining, &door, span)?;
        stream = Some(match stream {
            None => joining,
            Some(x) => {
                let x = transformer.through(reached..entry, x, &shared, Some(&mut cache), tap)?;
                Tensor::cat(&[&x, &joining], 0)?
            }
        });
        reached = entry;
    }
    let Some(x) = stream else {
        return Err(Error::Engine("a pass without rows".into()));
    };
    let x = transformer.through(reached..layers, x, &shared, Some(&mut cache), tap)?;
    cache.advance(span.len);
    Ok((after(model, &x, span, stem.read, tap)?, cache))
}

/// Logits `[rows, vocab]` after one position of a pass, from its stream.
fn after(
    model: &Model,
    x: &Tensor,
    span: Span,
    position: usize,
    tap: &mut RunTap,
) -> Result<Tensor> {
    let x = x.narrow(1, position - span.start, 1)?.contiguous()?;
    // Edits after the last block see this position and no other.
    tap.begin(Span {
        start: position,
        len: 1,
        ..span
    });
    let (logits, _) = model.transformer.read_out(&x, None, tap)?;
    Ok(logits.squeeze(1)?)
}

/// Continues texts greedily from their logits by at most `count` tokens, an end token included: what each wrote, and
/// whether it broke off. `listen` is called before every pass.
#[allow(clippy::too_many_arguments)] // each is another part of a text that grows
fn go_on(
    model: &Model,
    texts: &mut [Vec<u32>],
    prompt: usize,
    cache: &mut Cache,
    tap: &mut RunTap,
    mut logits: Vec<Vec<f32>>,
    count: usize,
    listen: &mut dyn FnMut(&mut Program, &[Vec<u32>]) -> Result<()>,
) -> Result<Vec<(Vec<u32>, bool)>> {
    let mut out: Vec<(Vec<u32>, bool)> = vec![(Vec::new(), false); texts.len()];
    let ended = |(written, silent): &(Vec<u32>, bool)| {
        *silent || written.last().is_some_and(|t| model.is_end(*t))
    };
    for step in 1..=count {
        for ((text, out), row) in texts.iter_mut().zip(&mut out).zip(&logits) {
            let best = best(model, row);
            // A row without numbers says nothing any more; it is read on with any token beside the others.
            text.push(best.unwrap_or(0));
            if !ended(out) {
                out.1 |= best.is_none();
                out.0.extend(best);
            }
        }
        if step == count || out.iter().all(ended) {
            break;
        }
        listen(tap.program, texts)?;
        let (read, _) = read_on(model, texts, prompt, cache, tap, &[])?;
        logits = read.to_vec2()?;
        tap.program.settle()?;
    }
    Ok(out)
}

/// Brings a cache to the whole text of every row: logits after them, `[rows, vocab]`, and of the states at `lens` in the
/// first row, which the tap has recorded, what the unembedding makes of them in the same product, `[lens, vocab]`.
///
/// It reads what the cache does not hold: one token as a rule, and all of them when an interrupted pass left it behind, or
/// when the text has just grown into other rotary frequencies ([`crate::model::network::rope::Rope::regime`]). Texts are of one length.
pub(crate) fn read_on(
    model: &Model,
    texts: &[Vec<u32>],
    prompt: usize,
    cache: &mut Cache,
    tap: &mut RunTap,
    lens: &[Address],
) -> Result<(Tensor, Option<Tensor>)> {
    let transformer = &model.transformer;
    let total = texts[0].len();
    if transformer.regime(cache.len().max(1)) != transformer.regime(total) {
        cache.truncate(0);
    }
    let start = cache.len();
    let len = total - start;
    let phase = if start == 0 {
        Phase::Prefill
    } else {
        Phase::Decode
    };
    let span = Span {
        start,
        len,
        prompt,
        phase,
    };
    let mut x = transformer.trunk(&tensor(model, texts, start)?, span, Some(cache), tap)?;
    if len > 1 {
        // What follows reads the last position alone.
        tap.begin(Span {
            start: total - 1,
            len: 1,
            ..span
        });
        x = x.narrow(1, len - 1, 1)?.contiguous()?;
    }
    let states = lens.iter().map(|at| {
        let row = tap.recorded.get(at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "it was not visited by this pass. Unembed a residual site.".into(),
        })?;
        Ok(row.flatten_all()?)
    });
    let states = states.collect::<Result<Vec<_>>>()?;
    let states = if states.is_empty() {
        None
    } else {
        Some(Tensor::stack(&states, 0)?)
    };
    let (logits, lens) = transformer.read_out(&x, states.as_ref(), tap)?;
    Ok((logits.squeeze(1)?, lens))
}

/// What the unedited model says after the text of the first row, brought there through a cache of its own:
/// log-probabilities, `[vocab]`.
pub(crate) fn unedited(
    bench: &Bench,
    texts: &[Vec<u32>],
    prompt: usize,
    cache: &mut Cache,
) -> Result<Vec<f32>> {
    let mut idle = Program::default();
    let mut tap = RunTap::new(&mut idle, &[], &[], Keep::Last, bench.guard());
    let (logits, _) = read_on(&bench.model, texts, prompt, cache, &mut tap, &[])?;
    let mut row = logits.get(0)?.to_vec1::<f32>()?;
    log_softmax(&mut row);
    Ok(row)
}

/// The text of a row.
fn text<'a>(pass: &'a Pass, row: &'a PassRow) -> &'a [u32] {
    if row.tokens.is_empty() {
        &pass.run.tokens
    } else {
        &row.tokens
    }
}

fn null(pass: &Pass) -> Null {
    pass.random.map_or(Null::No, Null::Random)
}

/// The most probable token; none where the row is no distribution.
fn best(model: &Model, row: &[f32]) -> Option<u32> {
    top(row, model.known_tokens(), 1).first().map(|t| t.0)
}

/// Whether two lists put the same values into the same places.
fn alike(a: &[Patch], b: &[Patch]) -> bool {
    let one = |(a, b): (&Patch, &Patch)| {
        (a.at, a.position, a.head, a.value.id()) == (b.at, b.position, b.head, b.value.id())
    };
    a.len() == b.len() && a.iter().zip(b).all(one)
}

/// Tokens as `[rows, n]`, from position `start` on.
fn tensor(model: &Model, texts: &[Vec<u32>], start: usize) -> Result<Tensor> {
    let rows = texts.iter().map(|text| model.tokens(&text[start..]));
    let mut rows = rows.collect::<Result<Vec<_>>>()?;
    if rows.len() == 1 {
        return Ok(rows.remove(0));
    }
    Ok(Tensor::cat(&rows, 0)?)
}

/// Indices of texts that may be read together: of equal length, a few at a time; one by one where the edits depend on the
/// tokens of a prompt.
fn groups(texts: &[&[u32]], schedule: &Schedule) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|i| texts[*i].len());
    let most = if schedule.reads_prompt() { 1 } else { TEXTS };
    let mut out: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match out.last_mut() {
            Some(group) if group.len() < most && texts[group[0]].len() == texts[i].len() => {
                group.push(i);
            }
            _ => out.push(vec![i]),
        }
    }
    out
}

/// How many rows of so many tokens, which see `end` positions, fit into the bytes of a pass.
fn most(model: &Model, tokens: usize, end: usize, kept: bool) -> usize {
    let b = &model.transformer.blueprint;
    let width = b.heads * b.head_dim;
    let mut floats = tokens * (8 * b.d_model + 3 * b.d_mlp + 4 * width + 3 * b.heads * end);
    floats += 2 * b.vocab;
    if kept {
        floats += 2 * b.layers.len() * b.kv_heads * b.head_dim * (tokens + 16);
    }
    (BYTES / (4 * floats)).clamp(1, ROWS)
}
