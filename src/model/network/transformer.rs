//! The one forward pass, with one line for each site.
//!
//! Invariant: every value that has an address passes through `tap.visit` exactly once in a pass, in the order of
//! [`super::site::SITES`]. To serve a new architecture, extend the blueprint, not this file's branches. How a checkpoint
//! becomes a [`Transformer`] is in [`crate::model::checkpoint::assemble`].

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::attended::soft_cap;
use super::attention::AttentionWeights;
use super::blueprint::{BlockOrder, Blueprint};
use super::cache::Cache;
use super::context::PassContext;
use super::finite::NonFinite;
use super::linear::{Linear, Precision};
use super::mlp::Mlp;
use super::norm::Norm;
use super::numbers::wide;
use super::placement::Placement;
use super::rope::RopeTable;
use super::site::Site::{
    AttnAdd, AttnIn, AttnOut, Embed, FinalNorm, Logits, LogitsRaw, MlpAdd, MlpIn, MlpNormed,
    MlpOut, ResidMid, ResidPost, ResidPre,
};
use super::statistics::StatisticsOn;
use super::tap::{PassSpan, Tap, TapOutcome};
use crate::error::Result;
use crate::model::host::{self, ToHost};
use crate::model::kernels;

/// The norms around one sub-layer; the arrangement of the block decides which of them exist.
#[derive(Clone, Debug, Default)]
pub struct SubNorms {
    /// The norm before the sub-layer.
    pub input: Option<Norm>,
    /// The norm of the sub-layer's output, before the addition to the stream.
    pub output: Option<Norm>,
    /// The norm of the residual stream, after the addition.
    pub stream: Option<Norm>,
}

#[derive(Clone, Debug)]
pub struct Block {
    /// Norms around attention.
    pub norms_attn: SubNorms,
    pub attention: AttentionWeights,
    /// Norms around the MLP.
    pub norms_mlp: SubNorms,
    /// The MLP, or a mixture of experts.
    pub mlp: Mlp,
}

/// A decoder: embedding, blocks, final norm, unembedding.
#[derive(Clone, Debug)]
pub struct Transformer {
    /// The architecture.
    pub blueprint: Blueprint,
    /// `[vocab, d_embed]`.
    pub embed: Linear,
    /// `d_embed -> d_model`, if the embedding table is narrower than the stream.
    pub project_in: Option<Linear>,
    /// `[context + offset, d_model]`, if positions are learned.
    pub positions: Option<Tensor>,
    pub blocks: Vec<Block>,
    /// Final norm.
    pub norm: Norm,
    /// `d_model -> d_embed`, if the embedding table is narrower than the stream.
    pub project_out: Option<Linear>,
    /// `d_embed -> vocab`.
    pub head: Linear,
    /// The rotations on each device of the placement; [`super::blueprint::LayerSpec::rope`] is an index into those of one.
    pub ropes: Vec<Vec<RopeTable>>,
    /// The device of the last block and of the unembedding, where values come that are taken.
    pub device: Device,
    /// Which blocks are on which device.
    pub placement: Placement,
    /// How weight matrices are stored.
    pub precision: Precision,
    /// The most positions that the tables cover.
    pub context: usize,
    /// The weights with values that are not finite.
    pub damage: Vec<NonFinite>,
    /// Where statistics of the vocabulary are taken.
    pub statistics: StatisticsOn,
}

impl Transformer {
    /// The dtype of the residual stream.
    pub fn dtype(&self) -> DType {
        self.precision.compute()
    }

    /// Embedding and blocks: from `tokens`, `[batch, tokens]` (u32), to `resid_post` of the last block, `[batch, tokens,
    /// d_model]`. With a cache, the pass continues after the positions that the cache holds.
    pub fn trunk(
        &self,
        tokens: &Tensor,
        span: PassSpan,
        cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        self.trunk_below(self.blocks.len(), tokens, span, cache, tap)
    }

    /// As [`Transformer::trunk`], with the first `blocks` blocks alone: to `resid_post` of the last of them.
    pub fn trunk_below(
        &self,
        blocks: usize,
        tokens: &Tensor,
        span: PassSpan,
        cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        if tap.differentiable() {
            return self.on_thread_pool(|| self.pass(blocks, tokens, span, cache, tap));
        }
        self.pass(blocks, tokens, span, cache, tap)
    }

    /// Runs `work` on a worker thread of rayon's pool, so that parallel loops of candle and of our own start without waking the
    /// pool. The CPU products have a pool of their own and can be called from any thread.
    pub(crate) fn on_thread_pool<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if self.device.is_cpu() {
            let (done, crossed) = rayon::scope(|_| host::counted_here(work));
            host::add(crossed);
            done
        } else {
            work()
        }
    }

    fn pass(
        &self,
        blocks: usize,
        tokens: &Tensor,
        span: PassSpan,
        mut cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        let length = tokens.dim(1)?;
        if tap.differentiable() {
            self.precision.check_gradients(&self.device)?;
        }
        tap.reads(tokens, span)?;
        tap.begin(span);
        if let Some(cache) = cache.as_deref_mut() {
            cache.reserve(length)?;
        }
        let pass = self.prepare(span)?;
        let tokens = &tokens.on_device(self.placement.device(0))?;
        let x = tap.visit(Embed.at(0), self.embedding(tokens, span)?)?;
        let blocks = blocks.min(self.blocks.len());
        let x = self.walk(0..blocks, x, &pass, cache.as_deref_mut(), tap)?;
        if let Some(cache) = cache {
            cache.advance(length);
        }
        tap.leaves(TapOutcome::Stream {
            tokens: Some(tokens),
            x: &x,
        })?;
        Ok(x)
    }

    /// Masks and rotations of a pass over these positions.
    pub fn prepare(&self, span: PassSpan) -> Result<PassContext<'_>> {
        let of_device = |ropes: &Vec<RopeTable>| {
            let each = ropes.iter().map(|rope| rope.at(span.start, span.len));
            each.collect::<Result<_>>()
        };
        let rotations = self.ropes.iter().map(of_device).collect::<Result<_>>()?;
        Ok(PassContext::new(
            &self.blueprint,
            &self.placement,
            rotations,
            span,
        ))
    }

    /// Runs some of the blocks: from the stream that enters the first of them, `[batch, tokens, d_model]`, on whatever device, to the
    /// stream that leaves the last, on that block's. The caller must call [`Tap::begin`] and [`Cache::reserve`] before, and [`Cache::advance`] after it.
    pub fn through(
        &self,
        blocks: Range<usize>,
        x: Tensor,
        pass: &PassContext,
        cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        let x = x.on_device(self.placement.device(blocks.start))?;
        if tap.differentiable() {
            return self.on_thread_pool(|| self.walk(blocks, x, pass, cache, tap));
        }
        self.walk(blocks, x, pass, cache, tap)
    }

    fn walk(
        &self,
        blocks: Range<usize>,
        mut x: Tensor,
        pass: &PassContext,
        mut cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        let first = blocks.start;
        for i in blocks {
            tap.checkpoint()?;
            if i > first {
                let place = &self.placement;
                x = place.cross(&x, place.of(i - 1), place.of(i))?;
            }
            x = self.block(i, &self.blocks[i], x, pass, cache.as_deref_mut(), tap)?;
        }
        Ok(x)
    }

    /// The scaled token embeddings, without learned positions: ids `[n]` to `[n, d_model]`, on the device of the ids.
    pub fn embed_tokens(&self, ids: &Tensor) -> Result<Tensor> {
        let own = ids.on_device(self.placement.device(0))?;
        Ok(self.embedded(&own)?.on_device(ids.device())?)
    }

    fn embedded(&self, ids: &Tensor) -> Result<Tensor> {
        let x = projected(
            self.project_in.as_ref(),
            &self.embed.rows(ids, self.dtype())?,
        )?;
        scaled(x, self.blueprint.embed_scale)
    }

    /// The stream that enters block 0, before any edit: `[batch, tokens]` to `[batch, tokens, d_model]`.
    fn embedding(&self, tokens: &Tensor, span: PassSpan) -> Result<Tensor> {
        let (batch, length) = tokens.dims2()?;
        let x = self.embedded(&tokens.flatten_all()?)?;
        let x = x.reshape((batch, length, self.blueprint.d_model))?;
        Ok(match &self.positions {
            Some(positions) => {
                x.broadcast_add(&positions.narrow(0, span.start + self.offset(), length)?)?
            }
            None => x,
        })
    }

    /// One block, `[batch, tokens, d_model] -> [batch, tokens, d_model]`: only the equations of the paper and the sites.
    fn block(
        &self,
        i: usize,
        block: &Block,
        x: Tensor,
        pass: &PassContext,
        cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        let gradients = tap.differentiable();
        let norm = |norm: &Option<Norm>, x: &Tensor| match norm {
            Some(norm) => norm.forward(x, gradients),
            None => Ok(x.clone()),
        };
        // What the MLP reads; where somebody looks at it before the gain, in two steps of equal bits.
        let mlp_read = |x: &Tensor, tap: &mut dyn Tap| match &block.norms_mlp.input {
            Some(norm) if tap.wants(MlpNormed.at(i)) => {
                // In f32 between the two steps, whatever the stream is in.
                let in_wide = x.to_dtype(wide(x.dtype()))?;
                let normed = norm.without_gain()?.forward(&in_wide, gradients)?;
                let normed = tap.visit(MlpNormed.at(i), normed)?;
                norm.gained(&normed, x.dtype(), gradients)
            }
            _ => norm(&block.norms_mlp.input, x),
        };
        let (attn, mlp) = (&block.norms_attn, &block.norms_mlp);
        let scale = self.blueprint.residual_scale;

        let x = tap.visit(ResidPre.at(i), x)?;
        let read = norm(&attn.input, &x)?;
        let h = tap.visit(AttnIn.at(i), read.clone())?;
        let a = block.attention.forward(i, &h, pass, cache, tap)?;
        let a = tap.visit(AttnOut.at(i), a)?;
        let a = tap.visit(AttnAdd.at(i), scaled(norm(&attn.output, &a)?, scale)?)?;
        let (x, read) = match self.blueprint.arrangement {
            // The MLP reads the same normed stream as attention, without the attention output.
            BlockOrder::ParallelSharedNorm => ((x + a)?, read),
            BlockOrder::Parallel => {
                let read = mlp_read(&x, tap)?;
                ((x + a)?, read)
            }
            BlockOrder::PreNorm
            | BlockOrder::SandwichNorm
            | BlockOrder::PostNorm
            | BlockOrder::NormedStream => {
                let x = tap.visit(ResidMid.at(i), norm(&attn.stream, &(x + a)?)?)?;
                let read = mlp_read(&x, tap)?;
                (x, read)
            }
        };
        let h = tap.visit(MlpIn.at(i), read)?;
        let m = match tap.known(MlpOut.at(i))? {
            Some(m) => m,
            None => block.mlp.forward(i, &h, tap)?,
        };
        let m = tap.visit(MlpOut.at(i), m)?;
        let m = tap.visit(MlpAdd.at(i), scaled(norm(&mlp.output, &m)?, scale)?)?;
        tap.visit(ResidPost.at(i), norm(&mlp.stream, &(x + m)?)?)
    }

    /// Final norm and unembedding of `[batch, rows, d_model]`: logits `[batch, rows, vocab]`, f32. For other rows in the same
    /// product, or for statistics alone, see [`super::readout`].
    pub fn read_out(&self, x: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let y = tap.visit(FinalNorm.at(0), self.norm.forward(x, tap.differentiable())?)?;
        self.leave(self.raw(&y)?, tap)
    }

    /// From the raw product with the unembedding to the model's logits, `[batch, rows, vocab]`, through their sites.
    pub(super) fn leave(&self, raw: Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let raw = tap.visit(LogitsRaw.at(0), raw)?;
        let logits = tap.visit(Logits.at(0), self.finish(raw)?)?;
        tap.leaves(TapOutcome::Logits(&logits))?;
        Ok(logits)
    }

    /// Final norm with each row's own statistics, unembedding, multiplier and soft-cap: `[n, d_model] -> [n, vocab]`, f32.
    pub fn unembed(&self, rows: &Tensor) -> Result<Tensor> {
        self.finish(self.raw(&self.norm.forward(rows, false)?)?)
    }

    /// As [`Transformer::unembed`] without the soft-cap: the quantity that direct effects sum to.
    pub fn uncapped(&self, rows: &Tensor) -> Result<Tensor> {
        let raw = self.raw(&self.norm.forward(rows, false)?)?;
        scaled(raw, self.blueprint.logit_scale)
    }

    /// The logits of rows that have passed the final norm, multiplier and soft-cap included.
    pub fn logits_of_normed(&self, normed: &Tensor) -> Result<Tensor> {
        self.finish(self.raw(normed)?)
    }

    /// The unembedding of normed rows, `[.., d_model] -> [.., vocab]`, f32, before multiplier and soft-cap.
    pub(super) fn raw(&self, normed: &Tensor) -> Result<Tensor> {
        let read = self.projected(&normed.to_dtype(self.dtype())?)?;
        self.head.logits(&read)
    }

    pub(super) fn projected(&self, x: &Tensor) -> Result<Tensor> {
        projected(self.project_out.as_ref(), x)
    }

    /// Applies the logit multiplier and the soft-cap.
    pub(super) fn finish(&self, raw: Tensor) -> Result<Tensor> {
        let logits = scaled(raw, self.blueprint.logit_scale)?;
        match self.blueprint.logit_cap {
            // Without gradients on the CPU: the same function as the fused read-out, for equal bits.
            Some(cap)
                if self.statistics == StatisticsOn::Host
                    && !logits.track_op()
                    && logits.dtype() == DType::F32 =>
            {
                let shape = logits.shape().clone();
                let mut numbers = logits.flatten_all()?.host_vec1::<f32>()?;
                kernels::vocabulary::soft_cap(&mut numbers, cap as f32);
                Ok(Tensor::from_vec(numbers, shape, &self.device)?)
            }
            Some(cap) => soft_cap(&logits, cap),
            None => Ok(logits),
        }
    }

    /// Rows as the unembedding takes them, `[n, d_model] -> [n, d_embed]`, after the final norm with each row's own statistics,
    /// or with the inverse scales `[n, 1]` of other rows.
    pub fn normalize_for_unembed(&self, rows: &Tensor, scale: Option<&Tensor>) -> Result<Tensor> {
        let normed = match scale {
            None => self.norm.forward(rows, false)?,
            Some(scale) => self.norm.forward_scaled(rows, scale)?,
        };
        self.projected(&normed)
    }

    /// What rows add to the logits before the soft-cap, without norm and bias: `[n, d_model] -> [n, vocab]`, f32.
    pub fn direct_logits(&self, rows: &Tensor) -> Result<Tensor> {
        let read = self.projected(&rows.to_dtype(self.dtype())?)?;
        let promoted = self.head.product(&read)?.to_dtype(DType::F32)?;
        scaled(promoted, self.blueprint.logit_scale)
    }

    /// The gradient of a token's logit (before the soft-cap) with respect to the stream after the final norm: `[d_model]`, f32.
    pub fn logit_direction(&self, token: u32) -> Result<Tensor> {
        let id = Tensor::new(&[token], &self.device)?;
        self.before_projection(self.head.rows(&id, DType::F32)?)
    }

    /// A row of the unembedding as a direction of the stream after the final norm.
    fn before_projection(&self, row: Tensor) -> Result<Tensor> {
        let row = match &self.project_out {
            Some(projection) => row.matmul(&projection.weight()?)?,
            None => row,
        };
        scaled(row.squeeze(0)?, self.blueprint.logit_scale)
    }

    /// The gradients of weighted sums of all logits (before the soft-cap) with respect to the stream after the final norm: weights
    /// `[n][vocab]`, one after the other, to `[n, d_model]`, f32.
    pub fn weighted_logit_directions(&self, weights: Vec<f32>, rows: usize) -> Result<Tensor> {
        let vocab = weights.len() / rows.max(1);
        let read = if self.head.has_kernel() {
            let read = self.on_thread_pool(|| self.head.adjoint(&weights))?;
            let width = read.len() / rows.max(1);
            Tensor::from_vec(read, (rows, width), &self.device)?
        } else {
            let weights = Tensor::from_vec(weights, (rows, vocab), &self.device)?;
            weights.matmul(&self.head.weight()?)?
        };
        let read = match &self.project_out {
            Some(projection) => read.matmul(&projection.weight()?)?,
            None => read,
        };
        scaled(read, self.blueprint.logit_scale)
    }

    /// As [`Transformer::weighted_logit_directions`] of weights `[n, vocab]` where they are, f32.
    pub fn weighted_directions_on_device(&self, weights: &Tensor) -> Result<Tensor> {
        let read = self.head.weighted_rows(weights)?;
        let read = match &self.project_out {
            Some(projection) => read.matmul(&projection.weight()?)?,
            None => read,
        };
        scaled(read, self.blueprint.logit_scale)
    }

    /// The means of the logit directions and of the biases of the first `known` tokens, which are subtracted from a token's to
    /// centre its logit.
    pub fn mean_logit_direction(&self, known: usize) -> Result<(Tensor, f32)> {
        let rows = self.head.weight()?.narrow(0, 0, known)?;
        let row = self.before_projection(rows.mean_keepdim(0)?)?;
        let bias = match &self.head.bias {
            Some(bias) => {
                let known = bias.to_dtype(DType::F32)?.narrow(0, 0, known)?;
                known.mean_all()?.host_scalar::<f32>()?
            }
            None => 0.0,
        };
        Ok((row, bias * self.blueprint.logit_scale as f32))
    }

    /// The constant part of a token's logit: the bias of the unembedding times the multiplier.
    pub fn logit_bias(&self, token: u32) -> Result<f32> {
        let Some(bias) = &self.head.bias else {
            return Ok(0.0);
        };
        let own = bias.to_dtype(DType::F32)?.get(token as usize)?;
        Ok(own.host_scalar::<f32>()? * self.blueprint.logit_scale as f32)
    }

    /// The vectors of `count` learned positions from `first` on, `[count, d_model]`, f32; none if positions are rotated.
    pub fn position_vectors(&self, first: usize, count: usize) -> Result<Option<Tensor>> {
        let Some(table) = &self.positions else {
            return Ok(None);
        };
        let rows = table.narrow(0, first + self.offset(), count)?;
        Ok(Some(rows.to_dtype(DType::F32)?.on_device(&self.device)?))
    }

    /// The number of unused rows in the table of learned positions.
    fn offset(&self) -> usize {
        match self.blueprint.positions {
            super::blueprint::PositionEncoding::Learned { offset } => offset,
            super::blueprint::PositionEncoding::Rotary(_) => 0,
        }
    }

    /// The regime of a text of `total` tokens, over all rotations: see [`super::rope::Rope::scaling_regime`]. A cache that was
    /// made under one regime cannot be used under another: the text is read again.
    pub fn rope_scaling_regime(&self, total: usize) -> usize {
        let regimes = self
            .ropes
            .iter()
            .flatten()
            .map(|table| table.rope.scaling_regime(total));
        regimes.max().unwrap_or(0)
    }
}

/// Applies a projection between the widths of stream and embedding, if there is one.
fn projected(projection: Option<&Linear>, x: &Tensor) -> Result<Tensor> {
    projection.map_or_else(|| Ok(x.clone()), |p| p.forward(x))
}

/// `x * factor`; a factor of exactly one returns `x` itself.
fn scaled(x: Tensor, factor: f64) -> Result<Tensor> {
    #[allow(clippy::float_cmp)] // the default is exactly one
    if factor == 1.0 {
        return Ok(x);
    }
    Ok((x * factor)?)
}
