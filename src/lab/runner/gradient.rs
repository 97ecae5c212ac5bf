//! Gradients of a pass: backwards through the blocks, one at a time.
//!
//! The rows are read forwards without a graph. Where it is little, everything at the sites of the blocks is kept; otherwise only the
//! stream between them, and from the last block back each is run again (recomputation of Chen et al. 2016, 1604.06174, with a
//! segment a block): memory holds one block's values and no more, whatever the depth. The gradient that comes from above is
//! multiplied with the block's Jacobian, by the kernels or, where something is changed in the block, by a graph. Positions before the
//! earliest one that matters lie in a cache that no gradient enters.
//!
//! Invariant: gradients are those of one graph over the whole pass, to rounding, and a row's do not depend on the others. What is
//! read and how much memory it takes is decided here; the way back is in [`super::backward`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use super::adjoint::sites_of;
use super::backward::{GradientRows, GraphTap, Seeds, branch, entering};
use super::programs::{act_on, conditional};
use super::tail::tensor;
use super::{own_run, text};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{After, Capture};
use crate::lab::gradient::{Gradient, GradientRequest, Scalar};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::row_programs::RowPrograms;
use crate::lab::run::Run;
use crate::lab::tap::{RecordedPositions, RunTap};
use crate::model::network::cache::Cache;
use crate::model::network::finite;
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::{PassPhase, PassSpan};
use crate::model::{Model, memory};
use crate::text::size;

impl Lab {
    /// Carries out a pass that asks for a gradient.
    pub(super) fn gradients(
        &mut self,
        pass: &Pass,
        request: &GradientRequest,
    ) -> Result<Vec<Capture>> {
        if pass.tail > 0 || pass.output.after != After::Nothing {
            let what = "a pass with a gradient reads no output and goes on with no text";
            return Err(Error::Engine(what.into()));
        }
        let wrong = request.each.len();
        if wrong > 0 && wrong != pass.rows.len() {
            let expected = format!("a scalar for each of {} rows, or none", pass.rows.len());
            return Err(Error::argument("each", wrong.to_string(), expected));
        }
        if pass.rows.iter().any(|row| !row.tokens.is_empty()) {
            return self.gradients_of_texts(pass, request);
        }
        self.gradients_together(pass, request)
    }

    /// Rows of one length, of one text or each of its own.
    fn gradients_together(
        &mut self,
        pass: &Pass,
        request: &GradientRequest,
    ) -> Result<Vec<Capture>> {
        let model = &self.model;
        model.check_prompt(&pass.run.tokens)?;
        request.check(model, pass.run.tokens.len())?;
        for at in &pass.record {
            model.offers(*at)?;
            if is_late(*at) {
                return Err(Error::Refused {
                    address: at.to_string(),
                    why: "with a gradient, values of the blocks alone are recorded. Record it in a pass of its own.".into(),
                });
            }
        }
        let span = span(model, pass, request);
        let each = self.gradient_bytes(span.start..span.start + span.len);
        let more = request.of.vectors()?.saturating_sub(1);
        let together = vectors_together(model, &span, 1).min(more);
        let each = each + together * vector_bytes(model, &span);
        check_memory(model, &span, each)?;
        let most = self.room(each);
        let prefix = (span.start > 0)
            .then(|| self.prefix(pass, span.start))
            .transpose()?;
        let numbers: Vec<usize> = (0..pass.rows.len()).collect();
        let mut out = Vec::with_capacity(numbers.len());
        let whole = numbers.len().max(1) as f32;
        for rows in numbers.chunks(most) {
            let share = rows[0] as f32 / whole..(rows[0] + rows.len()) as f32 / whole;
            let own = self.part(share, |lab| {
                lab.gradient_rows(pass, request, rows, span, prefix.as_ref())
            });
            out.extend(own?);
        }
        Ok(out)
    }

    /// The bytes that the gradient of a run takes at the most beside its cache, when these positions are run again: what is kept of
    /// the blocks or the streams between them, and the graph of one block with its gradients. Held against what SmolLM2 takes in
    /// `tests/it/gradient.rs`, where that model is given.
    pub fn gradient_bytes(&self, positions: Range<usize>) -> usize {
        let b = &self.model.transformer.blueprint;
        let (tokens, end) = (positions.len(), positions.end);
        let width = b.heads * b.head_dim;
        let experts = b.experts.map_or(1, |e| e.active);
        let scores = 26 * b.heads * end;
        let block = tokens * (66 * b.d_model + 18 * b.d_mlp * experts + 34 * width + scores);
        let streams = (b.layers.len() + 2) * tokens * b.d_model;
        let span = PassSpan {
            start: positions.start,
            ..PassSpan::prompt(tokens)
        };
        let kept = block_bytes(&self.model, &span) * b.layers.len();
        let kept = if kept <= KEPT { kept } else { 0 };
        4 * (streams + block + 12 * b.vocab) + kept
    }

    /// Rows with texts of their own: those of one length together.
    fn gradients_of_texts(
        &mut self,
        pass: &Pass,
        request: &GradientRequest,
    ) -> Result<Vec<Capture>> {
        let whole = pass.rows.len() as f32;
        let length = |row: usize| text(pass, &pass.rows[row]).len();
        let mut order: Vec<usize> = (0..pass.rows.len()).collect();
        order.sort_by_key(|row| length(*row));
        let mut out: Vec<(usize, Capture)> = Vec::with_capacity(pass.rows.len());
        for alike in order.chunk_by(|a, b| length(*a) == length(*b)) {
            let rows: Vec<PassRow> = alike.iter().map(|row| pass.rows[*row].clone()).collect();
            let together = Pass {
                run: if rows.iter().any(|row| row.tokens.is_empty()) {
                    pass.run.clone()
                } else {
                    Run {
                        seed: pass.run.seed,
                        ..Run::plain(rows[0].tokens.clone()).under(&pass.run.schedule)
                    }
                },
                rows,
                ..pass.clone()
            };
            let scalars = alike.iter().map(|row| request.of_row(*row).clone());
            let request = GradientRequest {
                each: if request.each.is_empty() {
                    Vec::new()
                } else {
                    scalars.collect()
                },
                ..request.clone()
            };
            let share = out.len() as f32 / whole..(out.len() + alike.len()) as f32 / whole;
            let found = self.part(share, |lab| lab.gradients_together(&together, &request))?;
            out.extend(alike.iter().copied().zip(found));
        }
        out.sort_unstable_by_key(|(row, _)| *row);
        Ok(out.into_iter().map(|(_, row)| row).collect())
    }

    /// Keys and values of what lies before the positions that are run again.
    fn prefix(&mut self, pass: &Pass, from: usize) -> Result<Cache> {
        let run = &pass.run;
        let mut program = self.compile(run)?;
        let model = &self.model;
        let mut cache = model.cache(1)?;
        let guard = self.guard().lenient_if(pass.lenient);
        let acting = RowPrograms::all(&mut program);
        let mut tap = RunTap::new(acting, &[], &[], RecordedPositions::Last, guard);
        let span = PassSpan {
            start: 0,
            len: from,
            prompt: run.prompt,
            phase: PassPhase::Prefill,
        };
        let tokens = model.tokens(&run.tokens[..from])?;
        model
            .transformer
            .trunk(&tokens, span, Some(&mut cache), &mut tap)?;
        Ok(cache)
    }

    /// Some rows of a pass: forwards without a graph, and back block by block.
    fn gradient_rows(
        &mut self,
        pass: &Pass,
        request: &GradientRequest,
        numbers: &[usize],
        span: PassSpan,
        prefix: Option<&Cache>,
    ) -> Result<Vec<Capture>> {
        let rows: Vec<&PassRow> = numbers.iter().map(|i| &pass.rows[*i]).collect();
        let runs: Vec<Run> = rows.iter().map(|row| own_run(pass, row)).collect();
        let mut programs = self.programs(&rows, &runs)?;
        let (model, layers) = (&self.model, self.model.card.layers);
        let transformer = &model.transformer;
        let end = span.start + span.len;
        let mut patches: Vec<(usize, &Patch)> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            for patch in pass.common.iter().chain(&row.patches) {
                patch.check(model, 0..pass.run.tokens.len())?;
                patches.push((i, patch));
            }
        }
        let knockouts = || {
            let rows = rows.iter().enumerate();
            let own = rows.filter_map(|(i, row)| Some((i, row.knockout.as_ref()?)));
            own.collect::<Vec<_>>()
        };
        let lenient = pass.lenient || !rows.iter().all(|row| row.is_plain());

        let source = request.source(layers);
        let lowest = request.lowest(layers).min(source.unwrap_or(0));
        let streams = (lowest..layers).map(entering);
        let mut wanted: Vec<Address> = streams.chain(pass.record.iter().copied()).collect();
        let top = source.map_or(lowest, |source| layers.min(source + 1));
        if rows.len() * block_bytes(model, &span) * (top - lowest) <= KEPT {
            let all = (lowest..top).flat_map(|block| sites_of(model, block));
            wanted.extend(all.filter(|at| at.site != Site::MlpNormed));
        }
        let guard = self.guard().lenient_if(lenient);
        let acting = act_on(&mut programs);
        let mut tap = RunTap::new(acting, &patches, &wanted, RecordedPositions::All, guard)
            .cutting(knockouts());
        let texts = rows.iter().map(|row| text(pass, row)[..end].to_vec());
        let tokens = tensor(model, &texts.collect::<Vec<_>>(), span.start)?;
        let mut cache = branch(prefix, span.start)?;
        let last = transformer.trunk(&tokens, span, cache.as_mut(), &mut tap)?;
        tap.programs.settle()?;
        let recorded = std::mem::take(&mut tap.recorded);
        let receipts: Vec<_> = (0..rows.len()).map(|i| tap.programs.receipts(i)).collect();
        let fine = finite::rows(&last)?;

        // What conditions look at was seen on the way forwards, and is seen alike again.
        let acting = act_on(&mut programs);
        let guard = self.guard().lenient();
        let run = RunTap::new(acting, &patches, &[], RecordedPositions::Last, guard);
        let mut tap = GraphTap {
            run: run.cutting(knockouts()),
            asked: &request.at,
            along: request.of.at(),
            leaves: Vec::new(),
            found: None,
        };
        let vectors = request.of.vectors()?;
        let mut parts: Vec<Gradients> = Vec::new();
        let mut first = 0;
        while first < vectors {
            let rows_of = |request, seeds| GradientRows {
                model,
                request,
                numbers,
                span,
                prefix,
                count: rows.len(),
                seeds,
                values: &recorded,
                last: last.clone(),
                found: HashMap::new(),
                scalars: Vec::new(),
            };
            let together = vectors_together(model, &span, rows.len()).min(vectors - first);
            let seeds = Seeds::of(&request.of, first..first + together)?;
            let mut back = rows_of(request, seeds);
            // A graph goes back for one scalar at a time.
            let alone = matches!(request.of, Scalar::Each { .. })
                && !(source < Some(layers)
                    && (lowest..top).all(|block| back.on_kernels(block, &tap)));
            let one;
            if alone {
                one = GradientRequest {
                    of: request.of.one(first)?,
                    ..request.clone()
                };
                back = rows_of(&one, Seeds::of(&one.of, 0..1)?);
            }
            let done = back.each();
            let share = |part: f32| (first as f32 + part * done as f32) / vectors as f32;
            back.go(lowest, &mut tap, |part| self.report(share(part)))?;
            parts.push(Gradients {
                each: done,
                scalars: back.scalars,
                at: back.found,
            });
            first += done;
        }

        let mut out = Vec::with_capacity(rows.len());
        for (row, receipts) in receipts.into_iter().enumerate() {
            let mut gradient = Gradient {
                scalar: parts
                    .first()
                    .map_or(0.0, |part| part.scalars[row * part.each]),
                at: HashMap::new(),
            };
            for at in &request.at {
                let own = parts.iter().map(|part| {
                    let whole = &part.at[at];
                    whole.narrow(0, row * part.each, part.each)
                });
                let own = own.collect::<candle_core::Result<Vec<_>>>()?;
                let own = Tensor::cat(&own, 0)?;
                let own = match &request.of {
                    Scalar::Each { .. } => own.force_contiguous()?,
                    Scalar::Along { .. }
                    | Scalar::Logit(_)
                    | Scalar::LogProbability(_)
                    | Scalar::Kl(_) => own.squeeze(0)?.force_contiguous()?,
                };
                gradient.at.insert(*at, own);
            }
            let broken = !fine[row] || !gradient.is_finite()?;
            if broken && !lenient {
                return Err(self.not_finite("The gradient's numbers are"));
            }
            let asked = recorded.iter().filter(|(at, _)| pass.record.contains(at));
            out.push(Capture {
                recorded: of_row(asked, row)?,
                broken: broken || receipts.iter().any(|r| r.not_finite),
                receipts,
                gradient: Some(gradient),
                ..Capture::of(Arc::new(runs[row].clone()), span.start..end)
            });
        }
        Ok(out)
    }
}

/// Gradients of some vectors: `[rows * each, positions, ..]`.
struct Gradients {
    each: usize,
    scalars: Vec<f32>,
    at: HashMap<Address, Tensor>,
}

/// How many bytes of values are kept at the most, so that blocks need not be run again.
const KEPT: usize = 256 << 20;

/// How many bytes gradients on their way through a block may take: little enough for the allocator to use them again.
const ON_THE_WAY: usize = 80 << 20;

/// The bytes of the values at the sites of one block, in one row.
fn block_bytes(model: &Model, span: &PassSpan) -> usize {
    let b = &model.transformer.blueprint;
    let heads = (2 * b.heads + 2 * b.kv_heads) * b.head_dim;
    let scores = 2 * b.heads * (span.start + span.len);
    4 * span.len * (10 * b.d_model + 3 * b.d_mlp + heads + scores)
}

/// How many vectors go back together.
fn vectors_together(model: &Model, span: &PassSpan, rows: usize) -> usize {
    (ON_THE_WAY / (rows * vector_bytes(model, span)).max(1)).max(1)
}

/// The bytes of one gradient on its way through a block.
fn vector_bytes(model: &Model, span: &PassSpan) -> usize {
    let b = &model.transformer.blueprint;
    let heads = 3 * b.heads * b.head_dim;
    4 * span.len * (6 * b.d_model + 3 * b.d_mlp.max(heads))
}

/// What belongs to one row of a batch, in storage of its own.
fn of_row<'a>(
    values: impl Iterator<Item = (&'a Address, &'a Tensor)>,
    row: usize,
) -> Result<HashMap<Address, Tensor>> {
    values
        .map(|(at, t)| Ok((*at, t.get(row)?.force_contiguous()?)))
        .collect()
}

/// The positions that are run again: from the earliest one that is asked for or changed, to the one that is read.
fn span(model: &Model, pass: &Pass, request: &GradientRequest) -> PassSpan {
    let length = pass.run.tokens.len();
    let regime = |total: usize| model.transformer.rope_scaling_regime(total);
    // What comes after the position that is read changes nothing before it, unless the length of the text does.
    let end = if regime(request.after + 1) == regime(length) {
        request.after + 1
    } else {
        length
    };
    let changed = pass.rows.iter().filter_map(PassRow::from);
    let common = pass.common.iter().map(|patch| patch.position);
    let asked = request.positions.iter().copied();
    let earliest = changed.chain(common).chain(asked).chain(pass.from);
    let earliest = earliest.chain(request.from);
    let earliest = earliest.chain([request.after]).min().unwrap_or(0);
    let own = |row: &PassRow| row.schedule.is_some() || !row.tokens.is_empty();
    let differing = pass.rows.iter().any(own);
    // A condition looks at every position, and rows with texts or edits of their own may differ anywhere.
    let whole = conditional(pass) || differing || regime(earliest.max(1)) != regime(end);
    let start = if whole { 0 } else { earliest };
    PassSpan {
        start,
        len: end - start,
        prompt: pass.run.prompt,
        phase: PassPhase::Prefill,
    }
}

/// Whether an address lies behind the blocks.
fn is_late(at: Address) -> bool {
    matches!(at.site, Site::FinalNorm | Site::LogitsRaw | Site::Logits)
}

/// Refuses what the machine has no memory for.
fn check_memory(model: &Model, span: &PassSpan, need: usize) -> Result<()> {
    let Some(free) = memory::available(&model.transformer.device) else {
        return Ok(());
    };
    if need as u64 <= free {
        return Ok(());
    }
    Err(Error::TooLarge {
        name: format!("The gradient over {} tokens", span.len),
        need: format!("{} (the graph of one block)", size(need as u64)),
        free: size(free),
        next: "Shorten the text, or ask for later positions: what lies before the earliest one takes no graph".into(),
    })
}
