//! Backwards through the blocks of a pass, one at a time, from the scalar to the lowest block.
//!
//! A block that nothing changes is gone through by the kernels ([`super::adjoint`]); one with edits, patches or cut edges, and what
//! lies behind the blocks, by a graph of its own.
//! Invariant: of every block at least the stream that enters it is kept, and what it is run with again is what it was run with: the
//! same edits, patches and cache. To take the gradient of something else, add a variant of [`Scalar`] and its arm in [`of_logits`].

use std::collections::HashMap;
use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Tensor, Var};

use crate::error::{Error, Result};
use crate::lab::gradient::{GradientRequest, Scalar};
use crate::lab::tap::RunTap;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::cache::{BranchCache, Cache};
use crate::model::network::context::PassContext;
use crate::model::network::site::{Address, Axis, Site};
use crate::model::network::tap::{PassSpan, Tap};

/// Runs as the lab's tap does, with a variable at every address whose gradient is asked for.
pub(super) struct GraphTap<'a, 'b> {
    pub(super) run: RunTap<'b>,
    pub(super) asked: &'a [Address],
    /// The value that the scalar is made of, where it is made of one.
    pub(super) along: Option<Address>,
    /// The variables of the blocks that were run since they were last taken.
    pub(super) leaves: Vec<(Address, Var)>,
    /// That value, once it was visited.
    pub(super) found: Option<Tensor>,
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
pub(super) struct GradientRows<'a> {
    pub(super) model: &'a Model,
    pub(super) request: &'a GradientRequest,
    /// Which rows of the pass they are.
    pub(super) numbers: &'a [usize],
    /// The positions that are run again.
    pub(super) span: PassSpan,
    /// Keys and values of the positions before them.
    pub(super) prefix: Option<&'a Cache>,
    pub(super) count: usize,
    /// The vectors whose products with a value are the scalars, where they are such products.
    pub(super) seeds: Option<Seeds>,
    /// What enters every block from the lowest on, `[rows, tokens, d_model]`; and everything at the sites of a block, where that was
    /// kept.
    pub(super) values: &'a HashMap<Address, Tensor>,
    /// What leaves the last one.
    pub(super) last: Tensor,
    /// Gradients so far, `[gradients, positions, ..]`, f32; those of a row follow each other.
    pub(super) found: HashMap<Address, Tensor>,
    /// The scalar of every gradient.
    pub(super) scalars: Vec<f32>,
}

/// Vectors `[n, width]` at an address.
pub(super) struct Seeds {
    pub at: Address,
    pub numbers: Vec<f32>,
    pub width: usize,
}

impl Seeds {
    /// Some of the vectors of a scalar, if it is made of vectors.
    pub fn of(scalar: &Scalar, range: Range<usize>) -> Result<Option<Self>> {
        let (at, vectors) = match scalar {
            Scalar::Along { at, vector } => (*at, vector.flatten_all()?.unsqueeze(0)?),
            Scalar::Each { at, vectors } => (*at, vectors.narrow(0, range.start, range.len())?),
            Scalar::Logit(_) | Scalar::LogProbability(_) | Scalar::Kl(_) => return Ok(None),
        };
        let width = vectors.dim(1)?;
        let numbers = vectors.to_dtype(DType::F32)?.flatten_all()?.host_vec1()?;
        Ok(Some(Self { at, numbers, width }))
    }

    pub fn count(&self) -> usize {
        self.numbers.len() / self.width
    }
}

/// The address at which a stream enters a block.
pub(super) fn entering(block: usize) -> Address {
    match block.checked_sub(1) {
        None => Site::Embed.at(0),
        Some(before) => Site::ResidPost.at(before),
    }
}

impl GradientRows<'_> {
    /// From the scalar back to the lowest block.
    pub(super) fn go(
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
            let stream = above.take();
            let next = if self.on_kernels(block, tap) {
                transformer.on_thread_pool(|| self.through_kernels(block, stream, &context))?
            } else {
                transformer.on_thread_pool(|| self.through(block, stream, &context, tap))?
            };
            above = Some(next);
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
            Scalar::Along { at, vector } => along(*at, &found(tap, *at)?, 0..1, vector)?,
            Scalar::Logit(_) | Scalar::LogProbability(_) | Scalar::Kl(_) | Scalar::Each { .. }
                if request.each.is_empty() =>
            {
                of_logits(&request.of, &logits.squeeze(1)?)?
            }
            Scalar::Logit(_) | Scalar::LogProbability(_) | Scalar::Kl(_) | Scalar::Each { .. } => {
                let logits = logits.squeeze(1)?;
                let each = self.numbers.iter().enumerate();
                let each =
                    each.map(|(i, row)| of_logits(request.of_row(*row), &logits.narrow(0, i, 1)?));
                Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?
            }
        };
        self.scalars = each.host_vec1()?;
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
        let entering = self.entering(block)?;
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
            Some(above) if half => f64::from(above.abs()?.max_all()?.host_scalar::<f32>()?),
            Some(_) | None => 1.0,
        };
        let factor = if factor > 0.0 && factor.is_finite() {
            factor
        } else {
            1.0
        };
        let mut total: Option<Tensor> = None;
        if let Some(above) = above {
            let above = above.on_device(leaving.device())?;
            let product = leaving.to_dtype(DType::F32)?.mul(&(above / factor)?)?;
            total = Some(product.sum_all()?);
        }
        if let Scalar::Along { at, vector } = &self.request.of
            && at.site.spec().layered
            && usize::from(at.layer) == block
        {
            let own = found(tap, *at)?;
            let each = along(*at, &own, self.multiplied(), vector)?;
            self.scalars = each.host_vec1()?;
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

    /// The stream that enters a block, `[rows, tokens, d_model]`.
    pub(super) fn entering(&self, block: usize) -> Result<Tensor> {
        let own = self.values.get(&entering(block)).cloned();
        own.ok_or_else(|| Error::Engine("a stream that was not kept".into()))
    }

    /// The places of the positions whose values the scalar is a product with.
    pub(super) fn multiplied(&self) -> Range<usize> {
        let positions = self.request.multiplied();
        positions.start - self.span.start..positions.end - self.span.start
    }

    /// How many gradients each row has.
    pub(super) fn each(&self) -> usize {
        self.seeds.as_ref().map_or(1, Seeds::count)
    }

    /// The gradient with respect to what enters the first block.
    fn at_the_embedding(&mut self, above: Option<Tensor>) -> Result<()> {
        let (request, span) = (self.request, self.span);
        let mut above = above;
        if let Scalar::Along { at, vector } = &request.of
            && at.site == Site::Embed
        {
            let embedding = self.entering(0)?;
            let place = request.after - span.start;
            self.scalars = along(*at, &embedding, place..place + 1, vector)?.host_vec1()?;
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
            let whole = whole.on_device(self.last.device())?;
            let rows = self.at_positions(at, &whole, positions.clone())?;
            self.found.insert(at, rows);
        }
        tap.found = None;
        Ok(())
    }

    /// The asked positions of a gradient over some, zeros where it has none: `[rows, positions, ..]`.
    pub(super) fn at_positions(
        &self,
        at: Address,
        whole: &Tensor,
        positions: Range<usize>,
    ) -> Result<Tensor> {
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

    /// The shape of all gradients at an address, for some positions.
    pub(super) fn shape(&self, at: Address, positions: usize) -> Vec<usize> {
        let b = &self.model.transformer.blueprint;
        let count = self.count * self.each();
        match at.site.spec().axis {
            Axis::Heads => vec![count, positions, b.heads, b.head_dim],
            Axis::KvHeads => vec![count, positions, b.kv_heads, b.head_dim],
            Axis::Positions => vec![count, b.heads, positions, self.span.start + self.span.len],
            Axis::Model | Axis::Mlp | Axis::Experts | Axis::Vocab => {
                vec![count, positions, self.model.width(at.site)]
            }
        }
    }

    /// Zeros where the scalar does not depend on a value.
    fn zeros_elsewhere(&mut self) -> Result<()> {
        for at in &self.request.at {
            if self.found.contains_key(at) {
                continue;
            }
            let shape = self.shape(*at, self.request.positions.len());
            let zeros = Tensor::zeros(shape, DType::F32, self.last.device())?;
            self.found.insert(*at, zeros);
        }
        Ok(())
    }
}

/// A cache whose positions before `from` are those of the prefix, and into which no gradient enters.
pub(super) fn branch(prefix: Option<&Cache>, from: usize) -> Result<Option<Cache>> {
    let branch = prefix.map(|prefix| prefix.branch(from, BranchCache::Passing));
    branch.transpose()
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

/// `v · x` of every row, summed over the values of some positions: `[rows]`, f32.
fn along(at: Address, value: &Tensor, places: Range<usize>, vector: &Tensor) -> Result<Tensor> {
    let own = value.narrow(axis(at), places.start, places.len())?;
    let own = own
        .to_dtype(DType::F32)?
        .sum_keepdim(axis(at))?
        .flatten_from(1)?;
    let vector = vector.to_dtype(DType::F32)?.flatten_all()?;
    check_width(at, own.dim(1)?, vector.dim(0)?)?;
    let vector = vector.on_device(own.device())?;
    Ok(own.broadcast_mul(&vector)?.sum(D::Minus1)?)
}

/// Refuses a vector of another width than the value at an address has at a position.
pub(super) fn check_width(at: Address, width: usize, given: usize) -> Result<()> {
    if width == given {
        return Ok(());
    }
    let expected = format!("{width} numbers, as {at} has at a position");
    Err(Error::argument("vector", given.to_string(), expected))
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
        Scalar::Along { .. } | Scalar::Each { .. } => {
            Err(Error::Engine("a scalar that is not of the output".into()))
        }
    }
}
