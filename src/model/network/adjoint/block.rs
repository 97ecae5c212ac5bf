//! The way back through the arrangement of a block: its norms, additions and sub-layers, in the order opposite to that of
//! [`crate::model::network::transformer`].
//!
//! Invariant: every site is met once, where the forward pass has it.

use std::collections::HashMap;

use candle_core::Tensor;

use super::attention::AttentionAdjoint;
use super::mlp::MlpAdjoint;
use super::norms::NormAdjoint;
use super::values::{AdjointTap, Values};
use crate::error::{Error, Result};
use crate::model::kernels::adjoint::{Spread, add};
use crate::model::network::blueprint::{BlockOrder, Blueprint};
use crate::model::network::cache::Cache;
use crate::model::network::context::PassContext;
use crate::model::network::linear::Linear;
use crate::model::network::norm::Norm;
use crate::model::network::site::Site::{
    AttnAdd, AttnIn, AttnOut, MlpAdd, MlpIn, MlpNormed, MlpOut, ResidMid, ResidPost, ResidPre,
};
use crate::model::network::site::{Address, Site};
use crate::model::network::transformer::{Block, Transformer};

/// Whether the way back through a block can be computed here.
pub fn serves(transformer: &Transformer, layer: usize) -> bool {
    let block = transformer.blocks.get(layer);
    transformer.device.is_cpu()
        && block.is_some_and(|block| block.mlp.dense().is_some() && block.has_kernels())
}

impl Block {
    /// Whether the kernels can multiply with all matrices of the block.
    fn has_kernels(&self) -> bool {
        let attention = &self.attention;
        let own = [&attention.q, &attention.k, &attention.v, &attention.out];
        let mlp = self.mlp.dense().into_iter();
        let mlp = mlp.flat_map(|mlp| mlp.gate.iter().chain([&mlp.up, &mlp.down]));
        own.into_iter().chain(mlp).all(Linear::has_kernel)
    }
}

/// The values of one block in a pass, and what is needed to go back.
pub struct BlockAdjoint<'a> {
    layer: usize,
    blueprint: &'a Blueprint,
    spread: Spread,
    attn_input: Option<NormAdjoint>,
    attn_output: Option<NormAdjoint>,
    attn_stream: Option<NormAdjoint>,
    mlp_input: Option<NormAdjoint>,
    mlp_output: Option<NormAdjoint>,
    mlp_stream: Option<NormAdjoint>,
    attention: AttentionAdjoint<'a>,
    mlp: MlpAdjoint<'a>,
}

impl<'a> BlockAdjoint<'a> {
    /// From the values that a pass had at every site of block `layer`, `[rows, tokens, ..]`, with the keys and values of a prefix,
    /// if there is one. Each row will have `each` gradients, one behind the other.
    ///
    /// # Errors
    ///
    /// When a value is missing, or [`serves`] says no.
    pub fn new(
        transformer: &'a Transformer,
        layer: usize,
        pass: &PassContext<'a>,
        prefix: Option<&Cache>,
        values: &HashMap<Address, Tensor>,
        each: usize,
    ) -> Result<Self> {
        let block = &transformer.blocks[layer];
        let values = Values { of: values, layer };
        let entering = values.get(ResidPre)?;
        let tokens = entering.dim(1)?;
        let spread = Spread {
            units: tokens,
            each,
        };
        let norm = |norm: &Option<Norm>, x: &dyn Fn() -> Result<Tensor>| {
            let own = norm.as_ref().map(|norm| NormAdjoint::new(norm, &x()?));
            own.transpose()
        };
        let (attn, mlp) = (&block.norms_attn, &block.norms_mlp);
        let arrangement = pass.blueprint.arrangement;
        let before_mlp = if arrangement.is_parallel() {
            ResidPre
        } else {
            ResidMid
        };
        Ok(Self {
            layer,
            blueprint: pass.blueprint,
            spread,
            attn_input: norm(&attn.input, &|| values.get(ResidPre))?,
            attn_output: norm(&attn.output, &|| values.get(AttnOut))?,
            attn_stream: norm(&attn.stream, &|| values.sum(ResidPre, AttnAdd))?,
            mlp_input: norm(&mlp.input, &|| values.get(before_mlp))?,
            mlp_output: norm(&mlp.output, &|| values.get(MlpOut))?,
            mlp_stream: norm(&mlp.stream, &|| values.sum(ResidMid, MlpAdd))?,
            attention: AttentionAdjoint::new(&block.attention, &values, pass, prefix, spread)?,
            mlp: MlpAdjoint::new(&block.mlp, &values, spread)?,
        })
    }

    /// From the gradients with respect to the stream that leaves the block, `[rows * each, tokens, d_model]`, to those with
    /// respect to the stream that enters it.
    ///
    /// # Errors
    ///
    /// Those of the tap.
    pub fn back(&self, leaving: Vec<f32>, tap: &mut dyn AdjointTap) -> Result<Vec<f32>> {
        let i = self.layer;
        let visit = |tap: &mut dyn AdjointTap, site: Site, g: &mut Vec<f32>| {
            let at = site.at(i);
            if tap.wants(at) {
                tap.visit(at, g)?;
            }
            Ok::<_, Error>(())
        };
        let mut stream = leaving;
        visit(tap, ResidPost, &mut stream)?;
        self.normed(self.mlp_stream.as_ref(), &mut stream);

        let mut m = stream.clone();
        visit(tap, MlpAdd, &mut m)?;
        self.scaled(&mut m);
        self.normed(self.mlp_output.as_ref(), &mut m);
        visit(tap, MlpOut, &mut m)?;
        let mut read = self.mlp.back(i, m, tap)?;
        visit(tap, MlpIn, &mut read)?;

        // Into which norm the MLP's input goes back is what the arrangements differ in.
        let shared = match self.blueprint.arrangement {
            BlockOrder::ParallelSharedNorm => Some(read),
            BlockOrder::Parallel => {
                self.through_mlp_input(&mut read, tap)?;
                Some(read)
            }
            BlockOrder::PreNorm
            | BlockOrder::SandwichNorm
            | BlockOrder::PostNorm
            | BlockOrder::NormedStream => {
                self.through_mlp_input(&mut read, tap)?;
                add(&read, &mut stream);
                visit(tap, ResidMid, &mut stream)?;
                self.normed(self.attn_stream.as_ref(), &mut stream);
                None
            }
        };

        let mut a = stream.clone();
        visit(tap, AttnAdd, &mut a)?;
        self.scaled(&mut a);
        self.normed(self.attn_output.as_ref(), &mut a);
        visit(tap, AttnOut, &mut a)?;
        let mut h = self.attention.back(i, a, tap)?;
        visit(tap, AttnIn, &mut h)?;
        match (shared, self.blueprint.arrangement) {
            (Some(read), BlockOrder::ParallelSharedNorm) => add(&read, &mut h),
            (Some(read), _) => add(&read, &mut stream),
            (None, _) => {}
        }
        self.normed(self.attn_input.as_ref(), &mut h);
        add(&h, &mut stream);
        visit(tap, ResidPre, &mut stream)?;
        Ok(stream)
    }

    fn normed(&self, norm: Option<&NormAdjoint>, by: &mut [f32]) {
        if let Some(norm) = norm {
            norm.back(self.spread, by);
        }
    }

    /// Back through the norm before the MLP, in two steps where somebody looks at what is between.
    fn through_mlp_input(&self, by: &mut [f32], tap: &mut dyn AdjointTap) -> Result<()> {
        let between = MlpNormed.at(self.layer);
        match &self.mlp_input {
            Some(norm) if tap.wants(between) => {
                norm.back_to_gain(by);
                tap.visit(between, by)?;
                norm.back_from_gain(self.spread, by);
            }
            Some(norm) => norm.back(self.spread, by),
            None => {}
        }
        Ok(())
    }

    /// Applies the factor of component outputs.
    fn scaled(&self, by: &mut [f32]) {
        let factor = self.blueprint.residual_scale as f32;
        #[allow(clippy::float_cmp)] // the default is exactly one
        if factor != 1.0 {
            by.iter_mut().for_each(|x| *x *= factor);
        }
    }
}
