//! The one forward pass, with one line a site.
//!
//! Invariant: every value that a reader of the blocks can name passes through `tap.visit` exactly once a pass,
//! in the order of [`super::site::SITES`]. To serve a new architecture, extend the blueprint, not this file's branches.
//! How a checkpoint becomes a [`Transformer`] is in [`crate::model::checkpoint::assemble`].

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
use super::rope::RopeTable;
use super::site::Site::{
    AttnAdd, AttnIn, AttnOut, Embed, FinalNorm, Logits, LogitsRaw, MlpAdd, MlpIn, MlpOut, ResidMid,
    ResidPost, ResidPre,
};
use super::tap::{PassSpan, Tap, TapOutcome};
use crate::error::Result;
use crate::model::kernels;

/// The norms around one sub-layer; which of them exist depends on the arrangement.
#[derive(Clone, Debug, Default)]
pub struct SubNorms {
    /// The norm before the sub-layer.
    pub input: Option<Norm>,
    /// The norm of the sub-layer's output, before that is added.
    pub output: Option<Norm>,
    /// The norm of the residual stream, after the output was added.
    pub stream: Option<Norm>,
}

#[derive(Clone, Debug)]
pub struct Block {
    /// Norms around attention.
    pub norms_attn: SubNorms,
    pub attention: AttentionWeights,
    /// Norms around the MLP.
    pub norms_mlp: SubNorms,
    /// MLP, or a mixture of them.
    pub mlp: Mlp,
}

/// A decoder: embedding, blocks, final norm, unembedding.
#[derive(Clone, Debug)]
pub struct Transformer {
    /// What differs between families.
    pub blueprint: Blueprint,
    /// `[vocab, d_embed]`.
    pub embed: Linear,
    /// `d_embed -> d_model`, where the table is narrower than the stream.
    pub project_in: Option<Linear>,
    /// `[context + offset, d_model]`, where positions are learned.
    pub positions: Option<Tensor>,
    pub blocks: Vec<Block>,
    /// Final norm.
    pub norm: Norm,
    /// `d_model -> d_embed`, where the table is narrower than the stream.
    pub project_out: Option<Linear>,
    /// `d_embed -> vocab`.
    pub head: Linear,
    /// The rotations that layers choose among.
    pub ropes: Vec<RopeTable>,
    /// The device that holds the weights.
    pub device: Device,
    /// How matrices are kept.
    pub precision: Precision,
    /// Most positions that tables were made for.
    pub context: usize,
    /// Tensors with values that are not finite, as they are kept.
    pub damage: Vec<NonFinite>,
}

impl Transformer {
    /// The dtype of the residual stream.
    pub fn dtype(&self) -> DType {
        self.precision.compute()
    }

    /// Embedding and blocks: `tokens` `[batch, tokens]` (u32) to `resid_post` of the last block,
    /// `[batch, tokens, d_model]`. With a cache, the pass continues after the positions it holds.
    pub fn trunk(
        &self,
        tokens: &Tensor,
        span: PassSpan,
        cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        if tap.differentiable() {
            return self.on_thread_pool(|| self.pass(tokens, span, cache, tap));
        }
        self.pass(tokens, span, cache, tap)
    }

    /// Runs work where the parallel loops of candle and of our own that are rayon's need no waking: on a worker of its pool.
    /// The products of the CPU have a pool of their own and are asked for from anywhere.
    pub(crate) fn on_thread_pool<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if self.device.is_cpu() {
            rayon::scope(|_| work())
        } else {
            work()
        }
    }

    fn pass(
        &self,
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
        let x = tap.visit(Embed.at(0), self.embedding(tokens, span)?)?;
        let x = self.walk(0..self.blocks.len(), x, &pass, cache.as_deref_mut(), tap)?;
        if let Some(cache) = cache {
            cache.advance(length);
        }
        tap.leaves(TapOutcome::Stream {
            tokens: Some(tokens),
            x: &x,
        })?;
        Ok(x)
    }

    /// What a pass over these positions shares between its layers.
    pub fn prepare(&self, span: PassSpan) -> Result<PassContext<'_>> {
        let rotations = self
            .ropes
            .iter()
            .map(|rope| rope.at(span.start, span.len))
            .collect::<Result<_>>()?;
        Ok(PassContext::new(
            &self.blueprint,
            &self.device,
            rotations,
            span,
        ))
    }

    /// Some of the blocks: the stream that enters the first of them, `[batch, tokens, d_model]`, to the one that leaves the
    /// last. The caller begins the tap, and makes room in the cache before and counts its positions after the pass.
    pub fn through(
        &self,
        blocks: Range<usize>,
        x: Tensor,
        pass: &PassContext,
        cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
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
        for i in blocks {
            tap.checkpoint()?;
            x = self.block(i, &self.blocks[i], x, pass, cache.as_deref_mut(), tap)?;
        }
        Ok(x)
    }

    /// Rows of the embedding table as they enter the stream, without learned positions: ids `[n]` to `[n, d_model]`.
    pub fn embed_tokens(&self, ids: &Tensor) -> Result<Tensor> {
        let x = projected(
            self.project_in.as_ref(),
            &self.embed.rows(ids, self.dtype())?,
        )?;
        scaled(x, self.blueprint.embed_scale)
    }

    /// What enters block 0, before any edit: `[batch, tokens]` to `[batch, tokens, d_model]`.
    fn embedding(&self, tokens: &Tensor, span: PassSpan) -> Result<Tensor> {
        let (batch, length) = tokens.dims2()?;
        let x = self.embed_tokens(&tokens.flatten_all()?)?;
        let x = x.reshape((batch, length, self.blueprint.d_model))?;
        Ok(match &self.positions {
            Some(positions) => {
                x.broadcast_add(&positions.narrow(0, span.start + self.offset(), length)?)?
            }
            None => x,
        })
    }

    /// One block, `[batch, tokens, d_model] -> [batch, tokens, d_model]`: nothing but the paper and the sites.
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
        let (attn, mlp) = (&block.norms_attn, &block.norms_mlp);
        let scale = self.blueprint.residual_scale;

        let x = tap.visit(ResidPre.at(i), x)?;
        let read = norm(&attn.input, &x)?;
        let h = tap.visit(AttnIn.at(i), read.clone())?;
        let a = block.attention.forward(i, &h, pass, cache, tap)?;
        let a = tap.visit(AttnOut.at(i), a)?;
        let a = tap.visit(AttnAdd.at(i), scaled(norm(&attn.output, &a)?, scale)?)?;
        let (x, read) = match self.blueprint.arrangement {
            // The MLP reads what attention read, before attention wrote.
            BlockOrder::ParallelSharedNorm => ((x + a)?, read),
            BlockOrder::Parallel => {
                let read = norm(&mlp.input, &x)?;
                ((x + a)?, read)
            }
            BlockOrder::PreNorm
            | BlockOrder::SandwichNorm
            | BlockOrder::PostNorm
            | BlockOrder::NormedStream => {
                let x = tap.visit(ResidMid.at(i), norm(&attn.stream, &(x + a)?)?)?;
                let read = norm(&mlp.input, &x)?;
                (x, read)
            }
        };
        let h = tap.visit(MlpIn.at(i), read)?;
        let m = block.mlp.forward(i, &h, tap)?;
        let m = tap.visit(MlpOut.at(i), m)?;
        let m = tap.visit(MlpAdd.at(i), scaled(norm(&mlp.output, &m)?, scale)?)?;
        tap.visit(ResidPost.at(i), norm(&mlp.stream, &(x + m)?)?)
    }

    /// Final norm and unembedding of `[batch, rows, d_model]`: logits `[batch, rows, vocab]`, f32. To read other rows in the
    /// same product, or statistics alone, see [`super::readout`].
    pub fn read_out(&self, x: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let y = tap.visit(FinalNorm.at(0), self.norm.forward(x, tap.differentiable())?)?;
        self.leave(self.raw(&y)?, tap)
    }

    /// From products with the unembedding to the model's own logits, `[batch, rows, vocab]`.
    pub(super) fn leave(&self, raw: Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let raw = tap.visit(LogitsRaw.at(0), raw)?;
        let logits = tap.visit(Logits.at(0), self.finish(raw)?)?;
        tap.leaves(TapOutcome::Logits(&logits))?;
        Ok(logits)
    }

    /// Final norm (statistics of each row itself) and unembedding, with multiplier and soft-cap:
    /// `[n, d_model] -> [n, vocab]`, f32.
    pub fn unembed(&self, rows: &Tensor) -> Result<Tensor> {
        self.finish(self.raw(&self.norm.forward(rows, false)?)?)
    }

    /// As [`Transformer::unembed`], before the soft-cap: what direct effects sum to.
    pub fn uncapped(&self, rows: &Tensor) -> Result<Tensor> {
        let raw = self.raw(&self.norm.forward(rows, false)?)?;
        scaled(raw, self.blueprint.logit_scale)
    }

    /// The unembedding of normed rows, `[.., d_model] -> [.., vocab]`, f32, before multiplier and soft-cap.
    pub(super) fn raw(&self, normed: &Tensor) -> Result<Tensor> {
        let read = self.projected(&normed.to_dtype(self.dtype())?)?;
        self.head.logits(&read)
    }

    pub(super) fn projected(&self, x: &Tensor) -> Result<Tensor> {
        projected(self.project_out.as_ref(), x)
    }

    /// Multiplier and soft-cap.
    pub(super) fn finish(&self, raw: Tensor) -> Result<Tensor> {
        let logits = scaled(raw, self.blueprint.logit_scale)?;
        match self.blueprint.logit_cap {
            // The bits of the read-out, where no gradient is to pass.
            Some(cap) if logits.device().is_cpu() && !logits.track_op() => {
                let shape = logits.shape().clone();
                let mut numbers = logits.flatten_all()?.to_vec1::<f32>()?;
                kernels::vocabulary::soft_cap(&mut numbers, cap as f32);
                Ok(Tensor::from_vec(numbers, shape, &self.device)?)
            }
            Some(cap) => soft_cap(&logits, cap),
            None => Ok(logits),
        }
    }

    /// Rows as the unembedding takes them, `[n, d_model] -> [n, d_embed]`: through the final norm, with the statistics of
    /// each row itself, or with those of other rows, whose `1 / scale` is `[n, 1]`.
    pub fn normalize_for_unembed(&self, rows: &Tensor, scale: Option<&Tensor>) -> Result<Tensor> {
        let normed = match scale {
            None => self.norm.forward(rows, false)?,
            Some(scale) => self.norm.forward_scaled(rows, scale)?,
        };
        self.projected(&normed)
    }

    /// What rows add to the logits before the soft-cap, norm and bias left out: `[n, d_model] -> [n, vocab]`, f32.
    pub fn direct_logits(&self, rows: &Tensor) -> Result<Tensor> {
        let read = self.projected(&rows.to_dtype(self.dtype())?)?;
        let promoted = self.head.product(&read)?.to_dtype(DType::F32)?;
        scaled(promoted, self.blueprint.logit_scale)
    }

    /// The direction in the normed stream that one unit of a token's logit (before the soft-cap) stands for:
    /// `[d_model]`, f32.
    pub fn logit_direction(&self, token: u32) -> Result<Tensor> {
        let id = Tensor::new(&[token], &self.device)?;
        self.before_projection(self.head.rows(&id, DType::F32)?)
    }

    /// A row of the head as a direction of the stream behind the final norm.
    fn before_projection(&self, row: Tensor) -> Result<Tensor> {
        let row = match &self.project_out {
            Some(projection) => row.matmul(&projection.weight()?)?,
            None => row,
        };
        scaled(row.squeeze(0)?, self.blueprint.logit_scale)
    }

    /// The mean of the first `known` tokens' logit directions, and of their biases: what a logit is compared with where it
    /// is centred.
    pub fn mean_logit_direction(&self, known: usize) -> Result<(Tensor, f32)> {
        let rows = self.head.weight()?.narrow(0, 0, known)?;
        let row = self.before_projection(rows.mean_keepdim(0)?)?;
        let bias = match &self.head.bias {
            Some(bias) => {
                let known = bias.to_dtype(DType::F32)?.narrow(0, 0, known)?;
                known.mean_all()?.to_scalar::<f32>()?
            }
            None => 0.0,
        };
        Ok((row, bias * self.blueprint.logit_scale as f32))
    }

    /// What a token's logit has before anything is read: the bias of the unembedding, through the multiplier.
    pub fn logit_bias(&self, token: u32) -> Result<f32> {
        let Some(bias) = &self.head.bias else {
            return Ok(0.0);
        };
        let own = bias.to_dtype(DType::F32)?.get(token as usize)?;
        Ok(own.to_scalar::<f32>()? * self.blueprint.logit_scale as f32)
    }

    /// What learned positions add to the embedding, `[count, d_model]`, f32; nothing where positions are rotated.
    pub fn position_vectors(&self, first: usize, count: usize) -> Result<Option<Tensor>> {
        let Some(table) = &self.positions else {
            return Ok(None);
        };
        let rows = table.narrow(0, first + self.offset(), count)?;
        Ok(Some(rows.to_dtype(DType::F32)?))
    }

    /// Unused rows before the learned vector of position 0.
    fn offset(&self) -> usize {
        match self.blueprint.positions {
            super::blueprint::PositionEncoding::Learned { offset } => offset,
            super::blueprint::PositionEncoding::Rotary(_) => 0,
        }
    }

    /// Which frequencies a text of `total` tokens has, over all rotations. A cache made under one regime does not
    /// serve another: the text is read again.
    pub fn rope_scaling_regime(&self, total: usize) -> usize {
        let regimes = self
            .ropes
            .iter()
            .map(|table| table.rope.scaling_regime(total));
        regimes.max().unwrap_or(0)
    }
}

/// Through a projection between the stream and the embedding's width, where there is one.
fn projected(projection: Option<&Linear>, x: &Tensor) -> Result<Tensor> {
    projection.map_or_else(|| Ok(x.clone()), |p| p.forward(x))
}

/// `x * factor`; a factor of exactly one leaves every bit alone.
fn scaled(x: Tensor, factor: f64) -> Result<Tensor> {
    #[allow(clippy::float_cmp)] // the default is exactly one
    if factor == 1.0 {
        return Ok(x);
    }
    Ok((x * factor)?)
}
