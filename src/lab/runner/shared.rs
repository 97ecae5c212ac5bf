//! Rows of one text: what they share is read once and kept, and they are read on from where they begin to differ.
//!
//! Invariant: what is shared belongs to a run, its common patches and a first position; every pass works on copies of what it would
//! change. To share something else, keep it in [`SharedRun`].

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::Rows;
use super::output::read_output;
use super::own_run;
use super::programs::{OfRows, RowStart, act_on};
use super::tail::{best, go_on};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::apply::Program;
use crate::lab::capture::{After, Capture};
use crate::lab::pass::{Pass, PassRow, Patch, SharedRun};
use crate::lab::readout::read_logits;
use crate::lab::row_programs::RowPrograms;
use crate::lab::tap::{RecordedPositions, RunTap, put};
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::cache::{BranchCache, Cache};
use crate::model::network::finite;
use crate::model::network::site::{Address, Axis, Site};
use crate::model::network::tap::{PassPhase, PassSpan, Tap};

/// Rows that are read in one pass: the position from which on, and their first blocks and indices, lowest block first.
struct Chunk {
    from: usize,
    rows: Vec<(usize, usize)>,
}

impl Lab {
    /// What the rows of a pass have in common, read now or kept from an earlier pass.
    pub(super) fn shared_run(
        &mut self,
        pass: &Pass,
        starts: &[RowStart],
    ) -> Result<Arc<SharedRun>> {
        let (run, model) = (&pass.run, &self.model);
        let length = run.tokens.len();
        model.check_prompt(&run.tokens)?;
        let read = match &pass.output.after {
            After::Nothing | After::Last(1) => length - 1,
            After::Each(at) if at.len() == 1 => at.start,
            After::Last(_) | After::Each(_) => {
                let expected = "one position, where rows differ from their run";
                return Err(Error::argument("after", "several positions", expected));
            }
        };
        let from = pass.from.unwrap_or_else(|| {
            let changed = starts.iter().filter_map(|start| start.from).min();
            changed.unwrap_or(read)
        });
        for (name, position) in [("read", read), ("from", from)] {
            if position >= length {
                let expected = format!("a position from 0 to {}", length - 1);
                return Err(Error::argument(name, position.to_string(), expected));
            }
        }
        // What comes after the last position of interest changes nothing before it, unless the length of the text does.
        let regime = |total| model.transformer.rope_scaling_regime(total);
        let end = if regime(read + 1) == regime(length) {
            read + 1
        } else {
            length
        };
        for patch in &pass.common {
            patch.check(model, 0..end)?;
        }
        let key = self.key(run);
        let same = |shared: &&Arc<SharedRun>| {
            (shared.key, shared.from, shared.read) == (key, from, read)
                && alike(&shared.common, &pass.common)
                && pass.record.iter().all(|at| shared.value(*at).is_some())
        };
        if let Some(shared) = self.shared_runs.iter().find(same) {
            return Ok(shared.clone());
        }
        let shared = Arc::new(self.read_shared(pass, key, from, read, end)?);
        self.shared_runs.push(shared.clone());
        self.make_room();
        Ok(shared)
    }

    fn read_shared(
        &mut self,
        pass: &Pass,
        key: u64,
        from: usize,
        read: usize,
        end: usize,
    ) -> Result<SharedRun> {
        let run = &pass.run;
        let program = self.compile(run)?;
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
        let mut tap = RunTap::new(
            RowPrograms::all(&mut own),
            &common,
            &wanted,
            RecordedPositions::From(from),
            guard,
        );
        let span = PassSpan {
            start: 0,
            len: end,
            prompt: run.prompt,
            phase: PassPhase::Prefill,
        };
        let tokens = model.tokens(&run.tokens[..end])?;
        let x = model
            .transformer
            .trunk(&tokens, span, Some(&mut cache), &mut tap)?;
        let x = after(&x, span, read, &mut tap)?;
        let logits = model.transformer.read_out(&x, &mut tap)?.squeeze(1)?;
        let mut values = std::mem::take(&mut tap.recorded);
        let streams = streams.iter().filter_map(|at| values.remove(at)).collect();
        own.settle()?;
        Ok(SharedRun {
            key,
            common: pass.common.clone(),
            program,
            cache,
            streams,
            values,
            from,
            read,
            end,
            logits: logits.force_contiguous()?,
            receipts: own.receipts().to_vec(),
        })
    }

    /// Reads the rows of a pass on from what they have in common.
    pub(super) fn branches(
        &mut self,
        pass: &Pass,
        starts: &[RowStart],
        shared: &SharedRun,
        into: &mut Rows,
    ) -> Result<()> {
        let length = pass.run.tokens.len();
        let count = pass.tail.min(self.model.card.context - length + 1);
        if count > 0 && shared.read + 1 != length {
            let expected = format!("{}, the last, where texts are to go on", length - 1);
            return Err(Error::argument("read", shared.read.to_string(), expected));
        }
        let (plain, chunks) = self.chunks(pass, starts, shared, count > 1)?;
        for index in plain {
            let start = &starts[index];
            let row = self.unchanged(pass, shared, start, index, count)?;
            into.push((index, row));
        }
        for chunk in &chunks {
            self.chunk(pass, starts, shared, chunk, count, into)?;
        }
        Ok(())
    }

    /// The run itself, as a plain row has it.
    fn unchanged(
        &self,
        pass: &Pass,
        shared: &SharedRun,
        start: &RowStart,
        index: usize,
        count: usize,
    ) -> Result<Capture> {
        let run = Arc::new(own_run(pass, &pass.rows[index]));
        let own = start.program.as_ref().map(Program::receipts);
        let output = read_logits(&shared.logits, self.model.known_tokens(), |_| {
            pass.output.ask(index, 0)
        })?;
        let mut capture = Capture {
            output,
            receipts: own.unwrap_or(&shared.receipts).to_vec(),
            ..Capture::of(run, shared.from..shared.end)
        };
        for at in &pass.record {
            if let Some(value) = shared.value(*at) {
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
            let itself = [RowStart {
                from: None,
                entry: self.model.card.layers,
                program: start.program.clone(),
            }];
            let mut read = Rows::new();
            self.chunk(&whole, &itself, shared, &alone, count, &mut read)?;
            for (_, row) in read {
                (capture.tail, capture.silent) = (row.tail, row.silent);
            }
        }
        Ok(capture)
    }

    /// Which rows are the run itself, and which of the others are read together.
    fn chunks(
        &self,
        pass: &Pass,
        starts: &[RowStart],
        shared: &SharedRun,
        kept: bool,
    ) -> Result<(Vec<usize>, Vec<Chunk>)> {
        let model = &self.model;
        let (mut plain, mut order) = (Vec::new(), Vec::new());
        for (index, row) in pass.rows.iter().enumerate() {
            for patch in &row.patches {
                patch.check(model, shared.from..shared.end)?;
            }
            match starts[index].from {
                None => plain.push(index),
                Some(from) if !(shared.from..shared.end).contains(&from) => {
                    let expected = format!("positions {} to {}", shared.from, shared.end - 1);
                    return Err(Error::argument("targets", from.to_string(), expected));
                }
                Some(from) => order.push((from, starts[index].entry, index)),
            }
        }
        order.sort_unstable();
        let mut out = Vec::new();
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let from = group[0].0;
            let each = bytes(model, shared.end - from, shared.end, kept);
            for rows in group.chunks(self.room(each)) {
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
        starts: &[RowStart],
        shared: &SharedRun,
        chunk: &Chunk,
        count: usize,
        into: &mut Rows,
    ) -> Result<()> {
        let model = &self.model;
        let layers = model.card.layers;
        let mut programs = programs(starts, shared, chunk);
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
                    own > *entry || (own == *entry && !patch.is_block_input())
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
        let keep = RecordedPositions::From(shared.from);
        let acting = act_on(&mut programs);
        let mut tap = RunTap::new(acting, &later, &pass.record, keep, guard).cutting(cuts());
        let mut texts = vec![pass.run.tokens.clone(); chunk.rows.len()];
        let own = if count > 1 {
            BranchCache::Kept
        } else {
            BranchCache::Passing
        };
        let (x, fine, mut cache) = joined(model, pass, shared, chunk, own, &mut tap)?;
        if count > 1 {
            cache.complete(chunk.rows.len(), &shared.cache)?;
        }
        let stats = read_output(model, &x, &mut tap, |row| {
            pass.output.ask(chunk.rows[row].1, 0)
        })?;
        tap.programs.settle()?;
        let broken = |row: usize| {
            let receipts = tap.programs.receipts(row);
            !fine[row] || receipts.iter().any(|r| r.not_finite)
        };
        let broken: Vec<bool> = (0..chunk.rows.len()).map(broken).collect();
        let values = std::mem::take(&mut tap.recorded);
        let mut tails = vec![(Vec::new(), false); texts.len()];
        if count > 0 {
            // What is put in comes back where the whole text has to be read again.
            let patches: Vec<(usize, &Patch)> = rows()
                .flat_map(|(row, (_, index))| all(row, *index))
                .collect();
            let guard = self.guard().lenient();
            let acting = act_on(&mut programs);
            let mut tap =
                RunTap::new(acting, &patches, &[], RecordedPositions::Last, guard).cutting(cuts());
            tails = go_on(
                model,
                &mut texts,
                pass.run.prompt,
                &mut cache,
                &mut tap,
                stats.iter().map(best).collect(),
                count,
                &mut |_, _| Ok(()),
            )?;
        }
        let shared_by_all = Arc::new(pass.run.clone());
        for (i, ((stats, (tail, silent)), (_, index))) in
            stats.into_iter().zip(tails).zip(&chunk.rows).enumerate()
        {
            let run = match &pass.rows[*index].schedule {
                Some(schedule) => Arc::new(pass.run.clone().under(schedule)),
                None => shared_by_all.clone(),
            };
            let row = Capture {
                recorded: recorded(pass, shared, chunk, &values, i)?,
                output: vec![stats],
                tail,
                silent,
                broken: broken[i],
                ..Capture::of(run, shared.from..shared.end)
            };
            into.push((*index, row));
        }
        Ok(())
    }
}

/// The programs of a chunk, with the rows of each: that of the run for the rows without edits of their own.
fn programs(starts: &[RowStart], shared: &SharedRun, chunk: &Chunk) -> Vec<OfRows> {
    let mut out: Vec<OfRows> = Vec::new();
    let mut own_before = true;
    for (row, (_, index)) in chunk.rows.iter().enumerate() {
        let own = starts[*index].program.as_ref();
        match out.last_mut() {
            Some((rows, _)) if own.is_none() && !own_before => rows.end = row + 1,
            Some(_) | None => {
                let program = own.unwrap_or(&shared.program).clone();
                out.push((row..row + 1, program));
            }
        }
        own_before = own.is_some();
    }
    out
}

/// What the `i`th row of a chunk holds, from the first position that rows may change: what was recorded of it, and what it has
/// in common with the run before and below that.
fn recorded(
    pass: &Pass,
    shared: &SharedRun,
    chunk: &Chunk,
    values: &HashMap<Address, Tensor>,
    i: usize,
) -> Result<HashMap<Address, Tensor>> {
    let before = chunk.from - shared.from;
    let span = PassSpan {
        start: shared.from,
        len: shared.end - shared.from,
        prompt: pass.run.prompt,
        phase: PassPhase::Prefill,
    };
    let mut out = HashMap::new();
    for at in &pass.record {
        let axis = usize::from(at.site.spec().axis == Axis::Positions);
        let common = shared.value(*at).map(|t| t.squeeze(0)).transpose()?;
        // A row is in the batch from the block on at which it joins.
        let own = values.get(at).filter(|t| t.dims()[0] > i);
        let value = match (own.map(|t| t.get(i)).transpose()?, common) {
            (None, None) => continue,
            (None, Some(common)) => {
                let own = pass.rows[chunk.rows[i].1].patches.iter();
                let here: Vec<(usize, &Patch)> =
                    own.filter(|p| p.at == *at).map(|p| (0, p)).collect();
                put(common.unsqueeze(0)?, &here, span)?.squeeze(0)?
            }
            (Some(own), Some(common)) if own.dim(axis)? + before == common.dim(axis)? => {
                Tensor::cat(&[&common.narrow(axis, 0, before)?, &own], axis)?
            }
            // After the last block one position alone is read.
            (Some(own), _) => own.force_contiguous()?,
        };
        out.insert(*at, value);
    }
    Ok(out)
}

/// The pass of a chunk: every row joins at its block with the stream of the run there. The stream `[rows, 1, d_model]` at the
/// position after which logits are read, and whether that of each row is finite at every position.
fn joined(
    model: &Model,
    pass: &Pass,
    shared: &SharedRun,
    chunk: &Chunk,
    own: BranchCache,
    tap: &mut RunTap,
) -> Result<(Tensor, Vec<bool>, Cache)> {
    let transformer = &model.transformer;
    let layers = model.card.layers;
    let span = PassSpan {
        start: chunk.from,
        len: shared.end - chunk.from,
        prompt: pass.run.prompt,
        phase: PassPhase::Prefill,
    };
    let mut cache = shared.cache.branch(chunk.from, own)?;
    cache.reserve(span.len)?;
    let context = transformer.prepare(span)?;
    tap.begin(span);
    let mut stream: Option<Tensor> = None;
    let mut reached = 0;
    for group in chunk.rows.chunk_by(|a, b| a.0 == b.0) {
        let entry = group[0].0;
        let joining = shared.streams[entry].narrow(1, chunk.from - shared.from, span.len)?;
        let joining = joining.repeat((group.len(), 1, 1))?;
        let door: Vec<(usize, &Patch)> = group
            .iter()
            .enumerate()
            .flat_map(|(row, (_, index))| {
                let patches = pass.rows[*index].patches.iter();
                patches.map(move |patch| (row, patch))
            })
            .filter(|(_, patch)| patch.is_block_input() && patch.entry(layers) == entry)
            .collect();
        let device = transformer.placement.device(entry);
        let joining = put(joining, &door, span)?.on_device(device)?;
        stream = Some(match stream {
            None => joining,
            Some(x) => {
                let x = transformer.through(reached..entry, x, &context, Some(&mut cache), tap)?;
                Tensor::cat(&[&x.on_device(device)?, &joining], 0)?
            }
        });
        reached = entry;
    }
    let Some(x) = stream else {
        return Err(Error::Engine("a pass without rows".into()));
    };
    let x = transformer.through(reached..layers, x, &context, Some(&mut cache), tap)?;
    cache.advance(span.len);
    let fine = finite::rows(&x)?;
    Ok((after(&x, span, shared.read, tap)?, fine, cache))
}

/// One position of a pass's stream, `[rows, 1, d_model]`, to be read out.
fn after(x: &Tensor, span: PassSpan, position: usize, tap: &mut RunTap) -> Result<Tensor> {
    let x = x.narrow(1, position - span.start, 1)?.contiguous()?;
    // Edits after the last block see this position and no other.
    tap.begin(PassSpan {
        start: position,
        len: 1,
        ..span
    });
    Ok(x)
}

/// Whether two lists put the same values into the same places.
fn alike(a: &[Patch], b: &[Patch]) -> bool {
    let one = |(a, b): (&Patch, &Patch)| {
        (a.at, a.position, a.head, a.value.id()) == (b.at, b.position, b.head, b.value.id())
    };
    a.len() == b.len() && a.iter().zip(b).all(one)
}

/// The bytes of a row of so many tokens, which see `end` positions, while a pass goes through, roughly.
pub(super) fn bytes(model: &Model, tokens: usize, end: usize, kept: bool) -> usize {
    let b = &model.transformer.blueprint;
    let width = b.heads * b.head_dim;
    let mut floats = tokens * (8 * b.d_model + 3 * b.d_mlp + 4 * width + 3 * b.heads * end);
    floats += 2 * b.vocab;
    if kept {
        floats += 2 * b.layers.len() * b.kv_heads * b.head_dim * (tokens + 16);
    }
    4 * floats
}
