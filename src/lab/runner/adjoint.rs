//! Backwards through a block that nothing changes, by the kernels: all gradients of all rows together.
//!
//! Invariant: it gives what the graph of the block gives, to rounding; a block for which that cannot be said is gone through by its
//! graph. To let more blocks through, extend [`serves`] and [`GradientRows::on_kernels`] together.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::Tensor;

use super::backward::{GradientRows, GraphTap, Seeds, branch, check_width};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::adjoint::{AdjointTap, BlockAdjoint, BlockValues, serves};
use crate::model::network::context::PassContext;
use crate::model::network::site::{Address, Axis, SITES, Site};
use crate::model::network::tap::Tap;

impl GradientRows<'_> {
    /// Whether the kernels can go back through a block: nothing is changed there, and no scalar is taken between the scores and
    /// the heads or between a norm and its gain.
    pub(super) fn on_kernels(&self, block: usize, tap: &GraphTap) -> bool {
        let within = self.request.of.at().filter(|at| is_inside(*at, block));
        let has_value =
            |at: Address| at.site.spec().axis != Axis::Positions && at.site != Site::MlpNormed;
        within.is_none_or(has_value)
            && !tap.run.cuts()
            && serves(&self.model.transformer, block)
            && !sites_of(self.model, block).any(|at| tap.run.wants(at))
    }

    /// From the stream that leaves a block to the one that enters it, `[gradients, tokens, d_model]`, f32.
    pub(super) fn through_kernels(
        &mut self,
        block: usize,
        above: Option<Tensor>,
        context: &PassContext,
    ) -> Result<Tensor> {
        let (span, each) = (self.span, self.each());
        let transformer = &self.model.transformer;
        let mut passing = branch(self.prefix, span.start)?;
        let kept = Site::MlpOut.at(block);
        let again;
        let values = if self.values.contains_key(&kept) {
            self.values
        } else {
            let mut tap = BlockValues::default();
            transformer.through(
                block..block + 1,
                self.entering(block)?,
                context,
                passing.as_mut(),
                &mut tap,
            )?;
            again = tap.0;
            &again
        };
        let shape = self.shape(Site::ResidPost.at(block), span.len);
        let leaving: Vec<f32> = match above {
            Some(above) => above.flatten_all()?.host_vec1()?,
            None => vec![0.0; shape.iter().product()],
        };
        let adjoint =
            BlockAdjoint::new(transformer, block, context, passing.as_ref(), values, each)?;
        let mut found = HashMap::new();
        let seeds = self.seeds.as_ref();
        let seeds = seeds.filter(|seeds| is_inside(seeds.at, block));
        let mut tap = BackwardTap {
            rows: self,
            seeds,
            found: &mut found,
        };
        let entering = adjoint.back(leaving, &mut tap)?;
        if let Some(seeds) = seeds {
            let value = values.get(&seeds.at);
            let value = value.ok_or_else(|| Error::Engine(format!("{} was not kept", seeds.at)))?;
            self.scalars = products(value, self.multiplied(), seeds)?;
        }
        self.found.extend(found);
        Ok(Tensor::from_vec(entering, shape, self.last.device())?)
    }
}

/// Whether an address lies in a block.
fn is_inside(at: Address, block: usize) -> bool {
    at.site.spec().layered && usize::from(at.layer) == block
}

/// The addresses of a block.
pub(super) fn sites_of(model: &Model, block: usize) -> impl Iterator<Item = Address> + '_ {
    let layered = SITES.iter().filter(|spec| spec.layered);
    let own = layered.map(move |spec| spec.site.at(block));
    own.filter(|at| model.offers(*at).is_ok())
}

/// Adds the scalars' own gradients where they are taken, and keeps those that are asked for.
struct BackwardTap<'a, 'b> {
    rows: &'a GradientRows<'b>,
    /// The vectors that are multiplied with a value of this block.
    seeds: Option<&'a Seeds>,
    found: &'a mut HashMap<Address, Tensor>,
}

impl AdjointTap for BackwardTap<'_, '_> {
    fn wants(&self, at: Address) -> bool {
        self.rows.request.at.contains(&at) || self.seeds.is_some_and(|seeds| seeds.at == at)
    }

    fn visit(&mut self, at: Address, gradient: &mut [f32]) -> Result<()> {
        let (rows, span) = (self.rows, self.rows.span);
        if let Some(seeds) = self.seeds.filter(|seeds| seeds.at == at) {
            let width = gradient.len() / (rows.count * rows.each() * span.len);
            check_width(at, width, seeds.width)?;
            for (i, own) in gradient.chunks_exact_mut(span.len * width).enumerate() {
                let vector = &seeds.numbers[i % seeds.count() * width..][..width];
                for place in rows.multiplied() {
                    let own = &mut own[place * width..][..width];
                    own.iter_mut().zip(vector).for_each(|(g, v)| *g += v);
                }
            }
        }
        if rows.request.at.contains(&at) {
            let shape = rows.shape(at, span.len);
            let whole = Tensor::from_slice(gradient, shape, rows.last.device())?;
            let positions = span.start..span.start + span.len;
            self.found
                .insert(at, rows.at_positions(at, &whole, positions)?);
        }
        Ok(())
    }
}

/// The products of the vectors with the value of every row, summed over some places: `[rows * vectors]`.
fn products(value: &Tensor, places: Range<usize>, seeds: &Seeds) -> Result<Vec<f32>> {
    let own = value
        .narrow(1, places.start, places.len())?
        .flatten_from(2)?;
    let own = own.to_dtype(candle_core::DType::F32)?.sum(1)?;
    let own: Vec<Vec<f32>> = own.host_vec2()?;
    let vectors = || seeds.numbers.chunks_exact(seeds.width);
    let product = |x: &[f32], v: &[f32]| {
        let terms = x.iter().zip(v).map(|(x, v)| f64::from(*x) * f64::from(*v));
        terms.sum::<f64>() as f32
    };
    let all = own.iter().flat_map(|x| vectors().map(|v| product(x, v)));
    Ok(all.collect())
}
