//! The runner: carries out a [`Pass`]. Nothing else calls the forward pass, but for what checks it.
//!
//! Rows of one text share what they have in common. It is read once and kept: keys and values of every position,
//! and the stream between the blocks. No position sees a later one, so what lies before the first change of a row is not
//! read again; blocks below the first change are not computed again either: a row joins the batch at the block where it
//! begins to differ, so that the batch grows on its way up. Edits with a condition look at values that are not computed
//! again, so under them rows are read whole. Rows with texts of their own are read side by side where they are of one
//! length. Every row may have edits of its own: a batch has as many programs as it has different ones ([`RowPrograms`]).
//!
//! Invariant: a row's logits are those of its whole text with its edits and its patches put in after them, to the rounding
//! of wider products. To read something else of rows, add a field to [`Pass`] and serve it in both ways of reading here.

mod adjoint;
mod backward;
mod circuit;
mod gradient;
mod output;
mod prefix;
mod programs;
mod reading;
mod shared;
mod tail;

use std::ops::Range;
use std::sync::Arc;

use output::read_output;
use programs::{act_on, conditional};
use shared::bytes;
pub(crate) use tail::{RowsBeside, read_on, read_on_beside, unedited};
use tail::{best, go_on, tensor};

use super::capture::{After, Capture};
use super::finite_guard::Guard;
use super::lab::Lab;
use super::only::refused_beside;
use super::pass::{Pass, PassRow, Patch};
use super::readout::{RowStats, read_logits};
use super::row_programs::RowPrograms;
use super::run::Run;
use super::tap::{RecordedPositions, RunTap};
use crate::error::{Error, Result};
use crate::model::network::finite;
use crate::model::network::site::{Address, SITES, Site};
use crate::model::network::tap::{PassPhase, PassSpan, Tap, TapOutcome};
use candle_core::Tensor;

/// Rows by their number and what they came to, in the order in which they were read.
type Rows = Vec<(usize, Capture)>;

impl Lab {
    /// Carries out a pass: what every row comes to, in their order.
    ///
    /// # Errors
    ///
    /// When a text, an edit or a patch does not fit, numbers are not finite, or the work is stopped.
    pub fn run(&mut self, pass: &Pass) -> Result<Vec<Capture>> {
        check_under_circuits(pass)?;
        if let Some(request) = &pass.gradient {
            return self.gradients(pass, request);
        }
        if pass.rows.iter().any(|row| row.circuit.is_some()) {
            return self.circuits(pass);
        }
        let mut out = Rows::with_capacity(pass.rows.len());
        match self.branching(pass)? {
            Some(starts) => {
                let shared = self.shared_run(pass, &starts)?;
                self.branches(pass, &starts, &shared, &mut out)?;
            }
            None => {
                for group in self.groups(pass) {
                    self.together(pass, &group, &mut out)?;
                }
            }
        }
        out.sort_unstable_by_key(|(index, _)| *index);
        Ok(out.into_iter().map(|(_, row)| row).collect())
    }

    /// The same for a pass of one row.
    ///
    /// # Errors
    ///
    /// Those of [`Lab::run`]; and when there is no row.
    pub fn run_one(&mut self, pass: &Pass) -> Result<Capture> {
        let row = self.run(pass)?.into_iter().next();
        row.ok_or_else(|| Error::Engine("a pass without rows".into()))
    }

    /// Rows that are read whole together: texts of one length, as many as there is room for; one by one where texts go on and a
    /// condition waits for what the unedited model says of each.
    fn groups(&self, pass: &Pass) -> Vec<Vec<usize>> {
        let length = |row: usize| text(pass, &pass.rows[row]).len();
        let mut order: Vec<usize> = (0..pass.rows.len()).collect();
        order.sort_by_key(|i| length(*i));
        let mut out = Vec::new();
        for alike in order.chunk_by(|a, b| length(*a) == length(*b)) {
            let tokens = length(alike[0]);
            let most = if pass.tail > 1 && conditional(pass) {
                1
            } else {
                let each = bytes(&self.model, tokens, tokens, pass.tail > 1);
                let written = alike
                    .iter()
                    .any(|row| is_under_circuit(pass, &pass.rows[*row]));
                self.room(
                    each + if written {
                        self.written_bytes(tokens)
                    } else {
                        0
                    },
                )
            };
            out.extend(alike.chunks(most).map(<[usize]>::to_vec));
        }
        out
    }

    /// The bytes of what all senders of a circuit write in a text of so many tokens.
    fn written_bytes(&self, tokens: usize) -> usize {
        let b = &self.model.transformer.blueprint;
        4 * (1 + b.layers.len() * (b.heads + 1)) * tokens * b.d_model
    }

    /// Reads texts of one length in one pass.
    fn together(&mut self, pass: &Pass, group: &[usize], into: &mut Rows) -> Result<()> {
        let rows: Vec<&PassRow> = group.iter().map(|i| &pass.rows[*i]).collect();
        let mut texts: Vec<Vec<u32>> = rows.iter().map(|row| text(pass, row).to_vec()).collect();
        for text in &texts {
            self.model.check_prompt(text)?;
        }
        let length = texts[0].len();
        let runs: Vec<Run> = rows.iter().map(|row| own_run(pass, row)).collect();
        let mut programs = self.programs(&rows, &runs)?;
        let prompt = runs[0].prompt;
        let model = &self.model;
        let mut patches: Vec<(usize, &Patch)> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            for patch in pass.common.iter().chain(&row.patches) {
                patch.check(model, 0..length)?;
                patches.push((i, patch));
            }
        }
        let trials = !rows.iter().all(|row| row.is_plain());
        let guard = self.guard().lenient_if(pass.lenient || trials);
        // The last token that is chosen need not be read.
        let count = pass.tail.min(model.card.context - length + 1);
        let mut cache = (count > 1).then(|| model.cache(rows.len())).transpose()?;
        let asks = programs
            .iter()
            .any(|(_, program)| program.asks_probability());
        if trials && asks && count > 1 {
            // The unedited model would have to read along with every row.
            return Err(Error::Refused {
                address: "when p(...)".into(),
                why: "the condition needs the unedited model's probabilities of generated tokens, which are not measured here. Read only the next token (measure=probability, or tokens=1), or remove the condition.".into(),
            });
        }
        // The unedited model reads along where a condition asks what it says.
        let mut beside = (asks && count > 1)
            .then(|| model.cache(rows.len()))
            .transpose()?;
        let span = PassSpan {
            start: 0,
            len: length,
            prompt,
            phase: PassPhase::Prefill,
        };
        let knockouts = rows.iter().enumerate();
        let knockouts = knockouts.filter_map(|(i, row)| Some((i, row.knockout.as_ref()?)));
        let from = pass.from.filter(|_| rows[0].tokens.is_empty()).unwrap_or(0);
        let keep = RecordedPositions::From(from);
        let acting = act_on(&mut programs);
        let mut tap = RunTap::new(acting, &patches, &pass.record, keep, guard.clone())
            .cutting(knockouts.collect());
        let transformer = &model.transformer;
        let tokens = tensor(model, &texts, 0)?;
        let quiet =
            !trials && pass.common.is_empty() && runs.iter().all(|run| run.schedule.is_idle());
        let blocks = needed_blocks(pass, quiet).unwrap_or(model.card.layers);
        let below = self.alike_below(pass, &rows, &texts, &tap, cache.is_some());
        let x = if below == 0 {
            transformer.trunk_below(blocks, &tokens, span, cache.as_mut(), &mut tap)?
        } else {
            self.fanned_out(below, &tokens, span, guard, &mut tap)?
        };
        let (first, wanted) = match &pass.output.after {
            After::Nothing if count > 0 => (length - 1, 1),
            After::Nothing => (0, 0),
            After::Last(n) => (length - n.min(&length), *n.min(&length)),
            After::Each(at) => (at.start, at.len()),
        };
        if first + wanted > length || (count > 0 && first + wanted < length) {
            let expected = format!("positions to {}", length - 1);
            let given = (first + wanted).saturating_sub(1).to_string();
            return Err(Error::argument("after", given, expected));
        }
        let late =
            |at: &Address| matches!(at.site, Site::FinalNorm | Site::LogitsRaw | Site::Logits);
        let mut output: Vec<Vec<RowStats>> = vec![Vec::new(); rows.len()];
        let ask = |i: usize, after: &Range<usize>| {
            let (row, at) = (i / after.len(), after.start + i % after.len());
            pass.output.ask(group[row], first + wanted - 1 - at)
        };
        let mut take = |stats: Vec<RowStats>, after: &Range<usize>| {
            for (output, own) in output.iter_mut().zip(stats.chunks(after.len())) {
                output.extend_from_slice(own);
            }
        };
        if pass.record.iter().any(late) {
            let all = transformer.read_out(&x, &mut tap)?;
            if wanted > 0 {
                let after = first..first + wanted;
                let logits = all.narrow(1, first, wanted)?;
                let stats = read_logits(&logits, model.known_tokens(), |i| ask(i, &after))?;
                take(stats, &after);
            }
        } else {
            // So many positions at a time as there is room for the logits of all rows.
            let most = self.room(4 * rows.len() * model.card.vocab);
            for start in (first..first + wanted).step_by(most) {
                let len = most.min(first + wanted - start);
                // Edits after the last block see these positions and no others.
                tap.begin(PassSpan { start, len, ..span });
                let own = x.narrow(1, start, len)?.contiguous()?;
                let after = start..start + len;
                take(
                    read_output(model, &own, &mut tap, |i| ask(i, &after))?,
                    &after,
                );
            }
        }
        tap.programs.settle()?;
        let fine = if pass.lenient || trials {
            finite::rows(&x)?
        } else {
            vec![true; rows.len()]
        };
        let mut out: Vec<Capture> = Vec::with_capacity(rows.len());
        let recorded = std::mem::take(&mut tap.recorded);
        for (row, output) in output.into_iter().enumerate() {
            let own = recorded.iter().map(|(at, t)| {
                let one = if rows.len() == 1 {
                    t.squeeze(0)
                } else {
                    t.get(row)
                };
                Ok((*at, one?))
            });
            let own = own.collect::<Result<_>>()?;
            let receipts = tap.programs.receipts(row);
            out.push(Capture {
                recorded: own,
                broken: !fine[row] || receipts.iter().any(|r| r.not_finite),
                receipts,
                output,
                ..Capture::of(Arc::new(runs[row].clone()), from..length)
            });
        }
        let firsts: Vec<Option<u32>> = out.iter().map(|row| best(row.last())).collect();
        if let Some(cache) = cache.as_mut() {
            // Where a condition asks for what the unedited model says, there is one row.
            let mut listen = |programs: &mut RowPrograms, texts: &[Vec<u32>]| {
                if let (Some(beside), Some(program)) = (&mut beside, programs.first_program()) {
                    let stats =
                        unedited(self, &texts[..1], prompt, &program.watched_tokens(), beside)?;
                    program.set_base_log_probs(texts[0].len() - 1, &stats);
                }
                Ok(())
            };
            let tails = go_on(
                model,
                &mut texts,
                prompt,
                cache,
                &mut tap,
                firsts,
                count,
                &mut listen,
            )?;
            for (row, (tail, silent)) in out.iter_mut().zip(tails) {
                (row.tail, row.silent) = (tail, silent);
            }
        } else if count == 1 {
            for (row, best) in out.iter_mut().zip(firsts) {
                (row.tail, row.silent) = (best.into_iter().collect(), best.is_none());
            }
        }
        into.extend(group.iter().copied().zip(out));
        Ok(())
    }
}

impl Lab {
    /// How many of the first blocks all rows of a batch compute alike: those of one text below all that their edits touch. None
    /// where it is not worth it, or where something else happens there.
    fn alike_below(
        &self,
        pass: &Pass,
        rows: &[&PassRow],
        texts: &[Vec<u32>],
        tap: &RunTap,
        cached: bool,
    ) -> usize {
        let quiet = |row: &&PassRow| {
            row.patches.is_empty() && row.knockout.is_none() && !is_under_circuit(pass, row)
        };
        let one = texts.windows(2).all(|pair| pair[0] == pair[1]) && rows.iter().all(quiet);
        let busy = cached || !pass.common.is_empty() || !pass.record.is_empty();
        if rows.len() < 2 || !one || busy || conditional(pass) {
            return 0;
        }
        let touched = |at: Address| tap.programs.touches(at);
        if touched(Site::Embed.at(0)) {
            return 0;
        }
        let sites = || SITES.iter().filter(|spec| spec.layered);
        let layers = self.model.card.layers;
        let first = (0..layers).find(|l| sites().any(|spec| touched(spec.site.at(*l))));
        first.unwrap_or(layers)
    }

    /// The stream of a batch whose rows are alike below a block: what lies below is computed once.
    fn fanned_out(
        &self,
        below: usize,
        tokens: &Tensor,
        span: PassSpan,
        guard: Guard,
        tap: &mut RunTap,
    ) -> Result<Tensor> {
        let transformer = &self.model.transformer;
        let mut plain = RunTap::new(
            RowPrograms::each([]),
            &[],
            &[],
            RecordedPositions::Last,
            guard,
        );
        let one = tokens.narrow(0, 0, 1)?;
        let x = transformer.trunk_below(below, &one, span, None, &mut plain)?;
        let x = x.repeat((tokens.dim(0)?, 1, 1))?;
        tap.reads(tokens, span)?;
        tap.begin(span);
        let context = transformer.prepare(span)?;
        let layers = self.model.card.layers;
        let x = transformer.through(below..layers, x, &context, None, tap)?;
        tap.leaves(TapOutcome::Stream {
            tokens: Some(tokens),
            x: &x,
        })?;
        Ok(x)
    }
}

/// How many blocks a pass that only records has to compute; none where it takes all of them. `quiet`: nothing is edited.
fn needed_blocks(pass: &Pass, quiet: bool) -> Option<usize> {
    let records =
        pass.only_recorded && quiet && pass.tail == 0 && pass.output.after == After::Nothing;
    let layered = pass.record.iter().all(|at| at.site.spec().layered);
    let highest = pass.record.iter().map(|at| usize::from(at.layer) + 1).max();
    highest.filter(|_| records && layered)
}

/// Whether a row, or an edit of it, leaves a circuit alone.
fn is_under_circuit(pass: &Pass, row: &PassRow) -> bool {
    let schedule = row.schedule.as_ref().unwrap_or(&pass.run.schedule);
    row.only.is_some() || programs::active_edits(schedule).any(|edit| edit.op.is_only())
}

/// Refuses what has no meaning where a circuit is left alone: gradients, which it does not carry, and patches of what nothing reads.
fn check_under_circuits(pass: &Pass) -> Result<()> {
    for row in pass.rows.iter().filter(|row| is_under_circuit(pass, row)) {
        if pass.gradient.is_some() {
            return Err(Error::Refused {
                address: "only".into(),
                why: "the stream of every receiver is mixed outside of the forward pass, where no gradient is followed. Switch the edit off for this figure.".into(),
            });
        }
        for patch in pass.common.iter().chain(&row.patches) {
            if let Some(why) = refused_beside(patch.at.site) {
                return Err(Error::Refused {
                    address: patch.at.to_string(),
                    why: why.into(),
                });
            }
        }
    }
    Ok(())
}

fn text<'a>(pass: &'a Pass, row: &'a PassRow) -> &'a [u32] {
    if row.tokens.is_empty() {
        &pass.run.tokens
    } else {
        &row.tokens
    }
}

/// The run that a row is.
fn own_run(pass: &Pass, row: &PassRow) -> Run {
    let run = if row.tokens.is_empty() {
        pass.run.clone()
    } else {
        Run {
            seed: pass.run.seed,
            ..Run::plain(row.tokens.clone()).under(&pass.run.schedule)
        }
    };
    match &row.schedule {
        Some(schedule) => run.under(schedule),
        None => run,
    }
}
