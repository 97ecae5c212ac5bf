//! Gradients of a pass: backwards through the blocks, one at a time.
//!
//! The rows are read forwards without a graph, and only the stream between the blocks is kept. From the last block back each is
//! then run again with a graph, and the gradient that came from above is multiplied with its Jacobian: memory holds the graph of
//! one block and no more, whatever the depth (recomputation of Chen et al. 2016, 1604.06174, with a segment a block). Positions
//! before the earliest one that matters lie in a cache that no gradient enters. Where a gradient is asked for, a variable of
//! zeros is added to the value: its gradient is that of the value.
//!
//! Invariant: gradients are those of one graph over the whole pass, to rounding, and a row's do not depend on the others. To take
//! the gradient of something else, see [`Scalar`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Tensor, Var};

use super::own_run;
use super::programs::{act_on, conditional, control};
use super::tail::tensor;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{After, Capture};
use crate::lab::gradient::{Gradient, GradientRequest, Scalar};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::row_programs::RowPrograms;
use crate::lab::run::Run;
use crate::lab::tap::{RecordedPositions, RunTap};
use crate::model::network::cache::{BranchCache, Cache};
use crate::model::network::context::PassContext;
use crate::model::network::finite;
use crate::model::network::site::{Address, Axis, Site};
use crate::model::network::tap::{PassPhase, PassSpan, Tap};
use crate::model::{Model, memory};
use crate::text::size;

/// Runs as the lab's tap does, with a variable at every address whose gradient is asked for.
struct GraphTap<'a, 'b> {
    run: RunTap<'b>,
    asked: &'a [Address],
    /// The value that the scalar is made of, where it is made of one.
    along: Option<Address>,
    /// The variables of the blocks that were run since they were last taken.
    leaves: Vec<(Address, Var)>,
    /// That value, once it was visited.
    found: Option<Tensor>,
}

impl Tap for GraphTap<'_, '_> {
    fn begin(&mut self, span: PassSpan) {
        self.run.begin(span);
    }

    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        let mut x = self.run.visit(at, x)?;
        if self.asked.contains(&at) {
            let leaf = Var::zeros(x.shape(), x.dtype(), x.device())?;
            x = (x + leaf.as_tensor())?;
            self.leaves.push((at, leaf));
        }
        if self.along == Some(at) {
            self.found = Some(x.clone());
        }
        Ok(x)
    }

    fn wants(&self, at: Address) -> bool {
        self.run.wants(at) || self.asked.contains(&at) || self.along == Some(at)
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.run.checkpoint()
    }

    fn differentiable(&self) -> bool {
        true
    }
}

/// Rows that are gone through together, and what they share.
struct GradientRows<'a> {
    model: &'a Model,
    request: &'a GradientRequest,
    /// The positions that are run again.
    span: PassSpan,
    /// Keys and values of the positions before them.
    prefix: Option<&'a Cache>,
    count: usize,
    /// What enters every block from the lowest on, `[rows, tokens, d_model]`.
    streams: Vec<Option<Tensor>>,
    /// What leaves the last one.
    last: Tensor,
    /// Gradients so far, `[rows, positions, ..]`, f32.
    found: HashMap<Address, Tensor>,
    /// The scalar of every row.
    scalars: Vec<f32>,
}

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
        if pass.rows.iter().any(|row| !row.tokens.is_empty()) {
            return self.gradients_of_texts(pass, request);
        }
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
        let each = graph_bytes(model, span.len, span.start + span.len);
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

    /// Rows with texts of their own, each as a pass of its own.
    fn gradients_of_texts(
        &mut self,
        pass: &Pass,
        request: &GradientRequest,
    ) -> Result<Vec<Capture>> {
        let whole = pass.rows.len() as f32;
        let mut out = Vec::with_capacity(pass.rows.len());
        for (i, row) in pass.rows.iter().enumerate() {
            let alone = PassRow {
                tokens: Vec::new(),
                schedule: None,
                ..row.clone()
            };
            let alone = Pass {
                run: own_run(pass, row),
                rows: vec![alone],
                ..pass.clone()
            };
            let share = i as f32 / whole..(i + 1) as f32 / whole;
            out.extend(self.part(share, |lab| lab.gradients(&alone, request))?);
        }
        Ok(out)
    }

    /// Keys and values of what lies before the positions that are run again.
    fn prefix(&mut self, pass: &Pass, from: usize) -> Result<Cache> {
        let run = &pass.run;
        let mut program = self.compile(run, control(pass))?;
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
        let mut programs = self.programs(&runs, control(pass))?;
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
        let entering = |block: usize| match block.checked_sub(1) {
            None => Site::Embed.at(0),
            Some(before) => Site::ResidPost.at(before),
        };
        let streams = (lowest..layers).map(entering);
        let wanted: Vec<Address> = streams.chain(pass.record.iter().copied()).collect();
        let guard = self.guard().lenient_if(lenient);
        let acting = act_on(&mut programs);
        let mut tap = RunTap::new(acting, &patches, &wanted, RecordedPositions::All, guard)
            .cutting(knockouts());
        let texts = vec![pass.run.tokens[..end].to_vec(); rows.len()];
        let tokens = tensor(model, &texts, span.start)?;
        let mut cache = branch(prefix, span.start)?;
        let last = transformer.trunk(&tokens, span, cache.as_mut(), &mut tap)?;
        tap.programs.settle()?;
        let recorded = std::mem::take(&mut tap.recorded);
        let receipts: Vec<_> = (0..rows.len()).map(|i| tap.programs.receipts(i)).collect();
        let fine = finite::rows(&last)?;

        let stream = |block| recorded.get(&entering(block)).cloned();
        let mut back = GradientRows {
            model,
            request,
            span,
            prefix,
            count: rows.len(),
            streams: (0..layers).map(stream).collect(),
            last,
            found: HashMap::new(),
            scalars: Vec::new(),
        };
        // What conditions look at was seen on the way forwards, and is seen alike again.
        let acting = act_on(&mut programs);
        let guard = self.guard().lenient();
        let run = RunTap::new(acting, &patches, &[], RecordedPositions::Last, guard);
        let mut tap = GraphTap {
            run: run.cutting(knockouts()),
            asked: &request.at,
            along: match &request.of {
                Scalar::Along { at, .. } => Some(*at),
                Scalar::Logit(_) | Scalar::LogProbability(_) | Scalar::Kl(_) => None,
            },
            leaves: Vec::new(),
            found: None,
        };
        back.go(lowest, &mut tap, |done| self.report(done))?;

        let mut out = Vec::with_capacity(rows.len());
        for (row, receipts) in receipts.into_iter().enumerate() {
            let gradient = Gradient {
                scalar: back.scalars[row],
                at: of_row(back.found.iter(), row)?,
            };
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

impl GradientRows<'_> {
    /// From the scalar back to the lowest block.
    fn go(
        &mut self,
        lowest: usize,
        tap: &mut GraphTap,
        report: impl Fn(f32) -> Result<()>,
    ) -> Result<()> {
        let transformer = &self.model.transformer;
        let layers = transformer.blocks.len();
        let source = self.request.source(layers);
        let context = transformer.prepare(self.span)?;
        let mut above: Option<Tensor> = None;
        if source == Some(layers) {
            above = Some(transformer.on_thread_pool(|| self.through_the_output(tap))?);
        }
        let top = source.map_or(0, |source| layers.min(source + 1));
        for block in (lowest..top).rev() {
            let done = (top - 1 - block) as f32 / (top - lowest).max(1) as f32;
            report(done)?;
            above = Some(
                transformer.on_thread_pool(|| self.through(block, above.take(), &context, tap))?,
            );
        }
        report(1.0)?;
        self.at_the_embedding(above)?;
        self.zeros_elsewhere()
    }

    /// From the scalar to the stream that leaves the last block, `[rows, tokens, d_model]`, f32; no gradient where the scalar is
    /// read at another position.
    fn through_the_output(&mut self, tap: &mut GraphTap) -> Result<Tensor> {
        let (request, span) = (self.request, self.span);
        let at = request.after - span.start;
        let leaf = Var::from_tensor(&self.last.narrow(1, at, 1)?.contiguous()?)?;
        let after = PassSpan {
            start: request.after,
            len: 1,
            ..span
        };
        // Edits after the last block see this position and no other.
        tap.begin(after);
        let logits = self.model.transformer.read_out(leaf.as_tensor(), tap)?;
        let each = match &request.of {
            Scalar::Along { at, vector } => along(*at, &found(tap, *at)?, 0, vector)?,
            Scalar::Logit(_) | Scalar::LogProbability(_) | Scalar::Kl(_) => {
                of_logits(&request.of, &logits.squeeze(1)?)?
            }
        };
        self.scalars = each.to_vec1()?;
        let gradients = each.sum_all()?.backward()?;
        self.take(tap, &gradients, request.after..request.after + 1, 1.0)?;
        let own = of(&gradients, &leaf)?;
        let stream = Tensor::zeros(self.last.shape(), DType::F32, self.last.device())?;
        stream.slice_set(&own.contiguous()?, 1, at)?;
        Ok(stream)
    }

    /// From the stream that leaves a block to the one that enters it.
    fn through(
        &mut self,
        block: usize,
        above: Option<Tensor>,
        context: &PassContext,
        tap: &mut GraphTap,
    ) -> Result<Tensor> {
        let span = self.span;
        let entering = self.streams[block].take();
        let entering =
            entering.ok_or_else(|| Error::Engine("a stream that was not kept".into()))?;
        let leaf = Var::from_tensor(&entering)?;
        let mut cache = branch(self.prefix, span.start)?;
        tap.begin(span);
        let leaving = self.model.transformer.through(
            block..block + 1,
            leaf.as_tensor().clone(),
            context,
            cache.as_mut(),
            tap,
        )?;
        // Numbers of half precision end early: what goes back through them is brought to size before, and back after.
        let half = leaving.dtype() != DType::F32;
        let factor = match &above {
            Some(above) if half => f64::from(above.abs()?.max_all()?.to_scalar::<f32>()?),
            Some(_) | None => 1.0,
        };
        let factor = if factor > 0.0 && factor.is_finite() {
            factor
        } else {
            1.0
        };
        let mut total: Option<Tensor> = None;
        if let Some(above) = above {
            let product = leaving.to_dtype(DType::F32)?.mul(&(above / factor)?)?;
            total = Some(product.sum_all()?);
        }
        if let Scalar::Along { at, vector } = &self.request.of
            && at.site.spec().layered
            && usize::from(at.layer) == block
        {
            let own = found(tap, *at)?;
            let each = along(*at, &own, self.request.after - span.start, vector)?;
            self.scalars = each.to_vec1()?;
            let own = (each.sum_all()? / factor)?;
            total = Some(match total {
                Some(total) => (total + own)?,
                None => own,
            });
        }
        let Some(total) = total else {
            return Ok(Tensor::zeros(leaf.shape(), DType::F32, leaf.device())?);
        };
        let gradients = total.backward()?;
        self.take(tap, &gradients, span.start..span.start + span.len, factor)?;
        Ok((of(&gradients, &leaf)? * factor)?)
    }

    /// The gradient with respect to what enters the first block.
    fn at_the_embedding(&mut self, above: Option<Tensor>) -> Result<()> {
        let (request, span) = (self.request, self.span);
        let mut above = above;
        if let Scalar::Along { at, vector } = &request.of
            && at.site == Site::Embed
        {
            let embedding = self.streams[0].clone();
            let embedding =
                embedding.ok_or_else(|| Error::Engine("a stream that was not kept".into()))?;
            let place = request.after - span.start;
            self.scalars = along(*at, &embedding, place, vector)?.to_vec1()?;
            let own = vector.to_dtype(DType::F32)?.flatten_all()?;
            let own = own.reshape((1, 1, ()))?.repeat((self.count, 1, 1))?;
            let whole = Tensor::zeros(embedding.shape(), DType::F32, embedding.device())?;
            whole.slice_set(&own.contiguous()?, 1, place)?;
            above = Some(whole);
        }
        if let Some(above) = above
            && request.at.contains(&Site::Embed.at(0))
        {
            let positions = span.start..span.start + span.len;
            let rows = self.at_positions(Site::Embed.at(0), &above, positions)?;
            self.found.insert(Site::Embed.at(0), rows);
        }
        Ok(())
    }

    /// Takes the gradients of the variables that a tap has laid, of a graph over these positions.
    fn take(
        &mut self,
        tap: &mut GraphTap,
        gradients: &GradStore,
        positions: Range<usize>,
        factor: f64,
    ) -> Result<()> {
        for (at, leaf) in tap.leaves.drain(..) {
            if gradients.get(&leaf).is_none() {
                continue;
            }
            let whole = (of(gradients, &leaf)? * factor)?;
            let rows = self.at_positions(at, &whole, positions.clone())?;
            self.found.insert(at, rows);
        }
        tap.found = None;
        Ok(())
    }

    /// The asked positions of a gradient over some, zeros where it has none: `[rows, positions, ..]`.
    fn at_positions(&self, at: Address, whole: &Tensor, positions: Range<usize>) -> Result<Tensor> {
        let axis = axis(at);
        let none = whole.narrow(axis, 0, 1)?.zeros_like()?;
        let rows = self.request.positions.iter().map(|position| {
            Ok(if positions.contains(position) {
                whole.narrow(axis, position - positions.start, 1)?
            } else {
                none.clone()
            })
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        if rows.is_empty() {
            return Ok(whole.narrow(axis, 0, 0)?);
        }
        Ok(Tensor::cat(&rows, axis)?)
    }

    /// Zeros where the scalar does not depend on a value.
    fn zeros_elsewhere(&mut self) -> Result<()> {
        let b = &self.model.transformer.blueprint;
        let (rows, positions) = (self.count, self.request.positions.len());
        for at in &self.request.at {
            if self.found.contains_key(at) {
                continue;
            }
            let shape = match at.site.spec().axis {
                Axis::Heads => vec![rows, positions, b.heads, b.head_dim],
                Axis::KvHeads => vec![rows, positions, b.kv_heads, b.head_dim],
                Axis::Positions => {
                    vec![rows, b.heads, positions, self.span.start + self.span.len]
                }
                Axis::Model | Axis::Mlp | Axis::Experts | Axis::Vocab => {
                    vec![rows, positions, self.model.width(at.site)]
                }
            };
            let zeros = Tensor::zeros(shape, DType::F32, self.last.device())?;
            self.found.insert(*at, zeros);
        }
        Ok(())
    }
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
    let earliest = earliest.chain([request.after]).min().unwrap_or(0);
    let own_edits = pass.rows.iter().any(|row| row.schedule.is_some());
    // A condition looks at every position, and rows under edits of their own may differ anywhere.
    let whole = conditional(pass) || own_edits || regime(earliest.max(1)) != regime(end);
    let start = if whole { 0 } else { earliest };
    PassSpan {
        start,
        len: end - start,
        prompt: pass.run.prompt,
        phase: PassPhase::Prefill,
    }
}

/// A cache whose positions before `from` are those of the prefix, and into which no gradient enters.
fn branch(prefix: Option<&Cache>, from: usize) -> Result<Option<Cache>> {
    let branch = prefix.map(|prefix| prefix.branch(from, BranchCache::Passing));
    branch.transpose()
}

/// Whether an address lies behind the blocks.
fn is_late(at: Address) -> bool {
    matches!(at.site, Site::FinalNorm | Site::LogitsRaw | Site::Logits)
}

/// Along which axis of a batch of values positions lie.
fn axis(at: Address) -> usize {
    1 + usize::from(at.site.spec().axis == Axis::Positions)
}

/// The gradient of a variable, f32.
fn of(gradients: &GradStore, leaf: &Var) -> Result<Tensor> {
    match gradients.get(leaf) {
        Some(own) => Ok(own.to_dtype(DType::F32)?),
        None => Ok(Tensor::zeros(leaf.shape(), DType::F32, leaf.device())?),
    }
}

/// The value that a scalar is made of, as it was visited.
fn found(tap: &GraphTap, at: Address) -> Result<Tensor> {
    let found = tap.found.clone();
    found.ok_or_else(|| Error::Engine(format!("{at} was not visited")))
}

/// `v · x` of every row for the value of one position: `[rows]`, f32.
fn along(at: Address, value: &Tensor, place: usize, vector: &Tensor) -> Result<Tensor> {
    let own = value.narrow(axis(at), place, 1)?.flatten_from(1)?;
    let vector = vector.to_dtype(DType::F32)?.flatten_all()?;
    let (width, given) = (own.dim(1)?, vector.dim(0)?);
    if width != given {
        let expected = format!("{width} numbers, as {at} has at a position");
        return Err(Error::argument("vector", given.to_string(), expected));
    }
    let vector = vector.to_device(own.device())?;
    let products = own.to_dtype(DType::F32)?.broadcast_mul(&vector)?;
    Ok(products.sum(D::Minus1)?)
}

/// A scalar of logits `[rows, vocab]`: `[rows]`, f32.
fn of_logits(of: &Scalar, logits: &Tensor) -> Result<Tensor> {
    let token =
        |t: &Tensor, id: u32| -> Result<Tensor> { Ok(t.narrow(1, id as usize, 1)?.squeeze(1)?) };
    match of {
        Scalar::Logit(target) => {
            let own = token(logits, target.token)?;
            match target.minus {
                Some(minus) => Ok((own - token(logits, minus)?)?),
                None => Ok(own),
            }
        }
        Scalar::LogProbability(id) => token(&candle_nn::ops::log_softmax(logits, D::Minus1)?, *id),
        Scalar::Kl(given) => {
            // Tokens without probability have no part in it.
            let shares = given.iter().map(|logprob| f64::from(*logprob).exp());
            let kept = shares.enumerate().filter(|(_, share)| *share > 0.0);
            let (ids, shares): (Vec<u32>, Vec<f64>) = kept.map(|(i, p)| (i as u32, p)).unzip();
            let own = shares.iter().zip(&ids);
            let own: f64 = own.map(|(p, id)| p * f64::from(given[*id as usize])).sum();
            let shares: Vec<f32> = shares.into_iter().map(|p| p as f32).collect();
            let count = ids.len();
            let ids = Tensor::from_vec(ids, count, logits.device())?;
            let shares = Tensor::from_vec(shares, (1, count), logits.device())?;
            let logprobs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
            let chosen = logprobs.contiguous()?.index_select(&ids, 1)?;
            let crossed = chosen.broadcast_mul(&shares)?.sum(D::Minus1)?;
            Ok((crossed.neg()? + own)?)
        }
        Scalar::Along { .. } => Err(Error::Engine("a scalar that is not of the output".into())),
    }
}

/// The bytes that a row of so many tokens, which see `end` positions, takes at the most on the way back: the streams between
/// the blocks, and the graph of one block with its gradients. Measured on graphs of every family, see `tests/it/gradient.rs`.
fn graph_bytes(model: &Model, tokens: usize, end: usize) -> usize {
    let b = &model.transformer.blueprint;
    let width = b.heads * b.head_dim;
    let experts = b.experts.map_or(1, |e| e.active);
    let scores = 18 * b.heads * end;
    let block = tokens * (60 * b.d_model + 16 * b.d_mlp * experts + 30 * width + scores);
    let streams = (b.layers.len() + 2) * tokens * b.d_model;
    4 * (streams + block + 12 * b.vocab)
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
