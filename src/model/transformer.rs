//! The one forward pass, with one line a site.
//!
//! Invariant: every value that a reader of the blocks can name passes through `tap.visit` exactly once a pass,
//! in the order of [`super::site::SITES`]. To serve a new architecture, extend the blueprint, not this file's branches.

use candle_core::{DType, Device, Tensor};

use super::attention::{Attention, Pass};
use super::blueprint::{Blueprint, Positions};
use super::cache::Cache;
use super::families::{Family, QkvNames};
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::Norm;
use super::rope::RopeTable;
use super::site::Site::{
    AttnAdd, AttnIn, AttnOut, Embed, FinalNorm, Logits, LogitsRaw, MlpAdd, MlpIn, MlpOut, ResidMid,
    ResidPost, ResidPre,
};
use super::tap::{Span, Tap};
use super::weights::{Precision, Weights};
use crate::error::Result;

/// One block.
#[derive(Clone, Debug)]
pub struct Block {
    /// Norm before attention.
    pub norm_attn: Norm,
    /// Attention.
    pub attention: Attention,
    /// Norm before the MLP.
    pub norm_mlp: Norm,
    /// MLP.
    pub mlp: Mlp,
}

/// A decoder: embedding, blocks, final norm, unembedding.
#[derive(Clone, Debug)]
pub struct Transformer {
    /// What differs between families.
    pub blueprint: Blueprint,
    /// `[vocab, d_model]`.
    pub embed: Tensor,
    /// `[context, d_model]`, where positions are learned.
    pub positions: Option<Tensor>,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// Final norm.
    pub norm: Norm,
    /// `d_model -> vocab`.
    pub head: Linear,
    rope: Option<RopeTable>,
    /// Where it runs.
    pub device: Device,
    /// How matrices are kept.
    pub precision: Precision,
    /// Most positions that tables were made for.
    pub context: usize,
}

impl Transformer {
    /// Loads every tensor of a family; `context` bounds the position tables.
    pub fn load(
        family: &Family,
        blueprint: Blueprint,
        weights: Weights,
        context: usize,
    ) -> Result<Self> {
        let names = &family.names;
        let weights = weights.under(names.prefixes, &format!("{}.weight", names.embed));
        let b = &blueprint;
        let embed = weights.get(&format!("{}.weight", names.embed), &[b.vocab, b.d_model])?;
        let positions = match b.positions {
            Positions::Learned => Some(weights.get(
                &format!("{}.weight", names.positions),
                &[b.context, b.d_model],
            )?),
            Positions::Rotary(_) => None,
        };
        let blocks = (0..b.layers)
            .map(|layer| load_block(family, b, &weights, layer))
            .collect::<Result<Vec<_>>>()?;
        let norm = Norm::load(b.norm, b.epsilon, b.d_model, &weights, names.norm_final)?;
        let dtype = weights.precision.compute();
        let rope = match &b.positions {
            Positions::Rotary(rope) => Some(RopeTable::new(
                rope,
                b.head_dim,
                context,
                dtype,
                &weights.device,
            )?),
            Positions::Learned => None,
        };
        let (device, precision) = (weights.device.clone(), weights.precision);
        // A checkpoint may hold a head although the configuration ties it; the configuration decides.
        let head = if b.tied {
            Linear::dense(embed.clone(), None)?
        } else {
            weights.bare().linear(
                names.head,
                b.d_model,
                b.vocab,
                super::weights::Layout::OutIn,
                false,
            )?
        };
        Ok(Self {
            blueprint,
            embed,
            positions,
            blocks,
            norm,
            head,
            rope,
            device,
            precision,
            context,
        })
    }

    /// The dtype of the residual stream.
    pub fn dtype(&self) -> DType {
        self.precision.compute()
    }

    /// Embedding and blocks: `tokens` `[batch, tokens]` (u32) to `resid_post` of the last block,
    /// `[batch, tokens, d_model]`. With a cache, the pass continues after the positions it holds.
    pub fn trunk(
        &self,
        tokens: &Tensor,
        span: Span,
        cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        self.inside(|| self.pass(tokens, span, cache, tap))
    }

    /// Runs work where its many short parallel loops need no waking: on a worker of the thread pool. On a small
    /// model this is most of the time of a token.
    pub(crate) fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if self.device.is_cpu() {
            rayon::scope(|_| work())
        } else {
            work()
        }
    }

    fn pass(
        &self,
        tokens: &Tensor,
        span: Span,
        mut cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        let (batch, length) = tokens.dims2()?;
        tap.begin(span);
        if let Some(cache) = cache.as_deref_mut() {
            cache.reserve(length)?;
        }
        let mask = self.mask(span)?;
        let pass = Pass {
            blueprint: &self.blueprint,
            rope: self.rope.as_ref(),
            mask: mask.as_ref(),
            span,
        };
        let x = self
            .embed
            .index_select(&tokens.flatten_all()?, 0)?
            .reshape((batch, length, self.blueprint.d_model))?;
        let x = match &self.positions {
            Some(positions) => x.broadcast_add(&positions.narrow(0, span.start, length)?)?,
            None => x,
        };
        let mut x = tap.visit(Embed.at(0), x)?;
        for (i, block) in self.blocks.iter().enumerate() {
            tap.checkpoint()?;
            x = self.block(i, block, x, &pass, cache.as_deref(), tap)?;
        }
        if let Some(cache) = cache {
            cache.advance(length);
        }
        Ok(x)
    }

    /// One block, `[batch, tokens, d_model] -> [batch, tokens, d_model]`: nothing but the paper and the sites.
    fn block(
        &self,
        i: usize,
        block: &Block,
        x: Tensor,
        pass: &Pass,
        cache: Option<&Cache>,
        tap: &mut dyn Tap,
    ) -> Result<Tensor> {
        let gradients = tap.differentiable();
        let x = tap.visit(ResidPre.at(i), x)?;
        let h = tap.visit(AttnIn.at(i), block.norm_attn.forward(&x, gradients)?)?;
        let a = block.attention.forward(i, &h, pass, cache, tap)?;
        let a = tap.visit(AttnOut.at(i), a)?;
        let a = tap.visit(AttnAdd.at(i), a)?;
        let x = tap.visit(ResidMid.at(i), (x + a)?)?;
        let h = tap.visit(MlpIn.at(i), block.norm_mlp.forward(&x, gradients)?)?;
        let m = block.mlp.forward(i, &h, tap)?;
        let m = tap.visit(MlpOut.at(i), m)?;
        let m = tap.visit(MlpAdd.at(i), m)?;
        tap.visit(ResidPost.at(i), (x + m)?)
    }

    /// Final norm and unembedding of `[batch, rows, d_model]`: logits `[batch, rows, vocab]`, f32.
    ///
    /// `lens` rows `[n, d_model]` ride along in the same product, so the unembedding is read once; their
    /// norm is recomputed from each row and no edit touches them. They come back as
    /// `[n, vocab]`, f32.
    pub fn read_out(
        &self,
        x: &Tensor,
        lens: Option<&Tensor>,
        tap: &mut dyn Tap,
    ) -> Result<(Tensor, Option<Tensor>)> {
        self.inside(|| self.logits(x, lens, tap))
    }

    fn logits(
        &self,
        x: &Tensor,
        lens: Option<&Tensor>,
        tap: &mut dyn Tap,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (batch, rows, width) = x.dims3()?;
        let y = tap.visit(FinalNorm.at(0), self.norm.forward(x, tap.differentiable())?)?;
        let own = batch * rows;
        let (raw, lens) = match lens {
            None => (self.head.forward(&y)?, None),
            Some(lens) => {
                let riders = self.norm.forward(lens, false)?;
                let all = self
                    .head
                    .forward(&Tensor::cat(&[&y.reshape((own, width))?, &riders], 0)?)?;
                let count = all.dim(0)? - own;
                let rest = all.narrow(0, own, count)?.to_dtype(DType::F32)?;
                (
                    all.narrow(0, 0, own)?
                        .reshape((batch, rows, self.blueprint.vocab))?,
                    Some(rest),
                )
            }
        };
        let raw = tap.visit(LogitsRaw.at(0), raw.to_dtype(DType::F32)?)?;
        let logits = tap.visit(Logits.at(0), raw)?;
        Ok((logits, lens))
    }

    /// Final norm (statistics of each row itself) and unembedding: `[n, d_model] -> [n, vocab]`, f32.
    pub fn unembed(&self, rows: &Tensor) -> Result<Tensor> {
        self.inside(|| self.raw_logits(rows))
    }

    fn raw_logits(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(self
            .head
            .forward(&self.norm.forward(rows, false)?)?
            .to_dtype(DType::F32)?)
    }

    /// `[tokens, start + tokens]`, 0 where a query may look and -inf elsewhere.
    fn mask(&self, span: Span) -> Result<Option<Tensor>> {
        if span.len == 1 {
            return Ok(None);
        }
        let total = span.start + span.len;
        let rows = (0..span.len).flat_map(|q| {
            (0..total).map(move |k| {
                if k <= span.start + q {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })
        });
        Ok(Some(Tensor::from_vec(
            rows.collect::<Vec<f32>>(),
            (span.len, total),
            &self.device,
        )?))
    }
}

fn load_block(family: &Family, b: &Blueprint, weights: &Weights, layer: usize) -> Result<Block> {
    let names = &family.names;
    let base = names.block.replace("{}", &layer.to_string());
    let name = |part: &str| format!("{base}.{part}");
    let (q_out, kv_out) = (b.heads * b.head_dim, b.kv_heads * b.head_dim);
    let (q, k, v) = match names.qkv {
        QkvNames::Split { q, k, v } => (
            weights.linear(&name(q), b.d_model, q_out, names.layout, b.biases.qkv)?,
            weights.linear(&name(k), b.d_model, kv_out, names.layout, b.biases.qkv)?,
            weights.linear(&name(v), b.d_model, kv_out, names.layout, b.biases.qkv)?,
        ),
        QkvNames::Fused(fused) => {
            let mut parts = weights
                .fused(
                    &name(fused),
                    b.d_model,
                    &[q_out, kv_out, kv_out],
                    names.layout,
                    b.biases.qkv,
                )?
                .into_iter();
            match (parts.next(), parts.next(), parts.next()) {
                (Some(q), Some(k), Some(v)) => (q, k, v),
                _ => {
                    return Err(crate::error::Error::MissingTensor {
                        name: name(fused),
                        place: "the fused projection".into(),
                    });
                }
            }
        }
    };
    let out = weights.linear(
        &name(names.attn_out),
        q_out,
        b.d_model,
        names.layout,
        b.biases.attn_out,
    )?;
    let gate = match b.mlp {
        super::blueprint::MlpKind::Gated => Some(weights.linear(
            &name(names.gate),
            b.d_model,
            b.d_mlp,
            names.layout,
            b.biases.mlp,
        )?),
        super::blueprint::MlpKind::Plain => None,
    };
    let up = weights.linear(
        &name(names.up),
        b.d_model,
        b.d_mlp,
        names.layout,
        b.biases.mlp,
    )?;
    let down = weights.linear(
        &name(names.down),
        b.d_mlp,
        b.d_model,
        names.layout,
        b.biases.mlp,
    )?;
    Ok(Block {
        norm_attn: Norm::load(
            b.norm,
            b.epsilon,
            b.d_model,
            weights,
            &name(names.norm_attn),
        )?,
        attention: Attention { q, k, v, out },
        norm_mlp: Norm::load(b.norm, b.epsilon, b.d_model, weights, &name(names.norm_mlp))?,
        mlp: Mlp {
            kind: b.mlp,
            activation: b.activation,
            gate,
            up,
            down,
        },
    })
}
