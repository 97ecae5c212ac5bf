//! Value vectors: what each neuron adds to the stream (Geva et al. 2022, 2203.14680).
//!
//! Invariant: `mlp_add = Σ_i mlp_act[i] · value_i · factor + bias terms`, where `factor` is 1 or, in families that norm the MLP
//! output, that norm's own scale at the position. Layers with a mixture of experts have no value vectors.

use candle_core::{DType, Tensor};

use super::blueprint::BlockOrder;
use super::heads::Constants;
use super::norm::Norm;
use super::statistics::StatisticsOn;
use super::transformer::Transformer;
use crate::error::{Error, Result};
use crate::model::host::ToHost;

impl Transformer {
    /// The layers whose neurons can be addressed and attributed to logits: those with a dense MLP, unless the family norms the
    /// stream between components.
    pub fn neuron_layers(&self) -> Vec<usize> {
        self.blueprint.neuron_layers()
    }

    /// The error that says why [`Transformer::neuron_layers`] is empty.
    pub fn no_neurons(&self) -> Error {
        let why = if self.blueprint.arrangement == BlockOrder::NormedStream {
            "this family normalizes the stream after every component, so no neuron has a direct effect. Use the lens, or record mlp_act."
        } else {
            "every block is a mixture of experts, whose neurons are inside the experts. Use mlp_out or router."
        };
        Error::Refused {
            address: "mlp_act.*".into(),
            why: why.into(),
        }
    }

    /// All value vectors of a layer, `[d_model, d_mlp]`, f32, including the gain of the norm of the MLP output, if there is
    /// one, and the residual multiplier.
    pub fn value_vectors(&self, layer: usize) -> Result<Tensor> {
        let down = self.dense(layer)?.down.weight()?.on_device(&self.device)?;
        self.added(layer, down.t()?)?.t().map_err(Error::from)
    }

    /// One value vector, `[d_model]`, f32: a column of [`Transformer::value_vectors`].
    pub fn value_vector(&self, layer: usize, neuron: usize) -> Result<Tensor> {
        let column = self.dense(layer)?.down.column(neuron)?;
        self.added(layer, column.on_device(&self.device)?)
    }

    /// What one unit of each neuron's activation adds along directions of the stream, computed as in
    /// [`Transformer::value_vectors`]: `[n, d_model]` to `[n, d_mlp]`, f32. Multiplied by the activation and by
    /// [`Transformer::write_factor`] this is a direct effect.
    pub fn neuron_views(&self, layer: usize, directions: &Tensor) -> Result<Tensor> {
        let read = self.before_write(self.write_norm(layer), directions)?;
        let down = &self.dense(layer)?.down;
        if !down.has_kernel() || self.statistics == StatisticsOn::Device {
            let read = read.on_device(down.device())?;
            return Ok(read
                .matmul(&down.weight()?)?
                .on_device(directions.device())?);
        }
        let rows = read.dim(0)?;
        let read = read
            .to_dtype(DType::F32)?
            .flatten_all()?
            .host_vec1::<f32>()?;
        let views = self.on_thread_pool(|| down.adjoint(&read))?;
        let width = views.len() / rows.max(1);
        Ok(Tensor::from_vec(views, (rows, width), &self.device)?)
    }

    /// The constant part of what an MLP adds, along directions `[n, d_model]`.
    pub fn mlp_constants(&self, layer: usize, directions: &Tensor) -> Result<Constants> {
        let bias = self.dense(layer)?.down.bias.as_ref();
        self.constants(self.write_norm(layer), bias, directions)
    }

    /// The scale that the norm of the MLP output has for a row of `mlp_out`; 1 if the family has no such norm.
    pub fn write_factor(&self, layer: usize, mlp_out: &[f32]) -> f32 {
        self.write_norm(layer)
            .map_or(1.0, |norm| norm.inverse_scale_of(mlp_out))
    }

    /// The same of rows where they are: `[n, d_model]` to `[n, 1]`, f32.
    pub fn write_factors(&self, layer: usize, mlp_out: &Tensor) -> Result<Tensor> {
        match self.write_norm(layer) {
            Some(norm) => norm.inverse_scale(mlp_out),
            None => Ok(mlp_out.narrow(1, 0, 1)?.ones_like()?.to_dtype(DType::F32)?),
        }
    }

    /// Whether [`Transformer::write_factor`] depends on the position.
    pub fn norms_writes(&self) -> bool {
        self.blueprint.arrangement.norms_writes()
    }

    fn write_norm(&self, layer: usize) -> Option<&Norm> {
        self.blocks[layer].norms_mlp.output.as_ref()
    }

    fn dense(&self, layer: usize) -> Result<&super::mlp::DenseMlp> {
        self.blocks[layer]
            .mlp
            .dense()
            .ok_or_else(|| self.no_neurons())
    }

    /// From a part of the MLP output, `[.., d_model]`, to what it adds to the stream, without the norm's scale.
    fn added(&self, layer: usize, written: Tensor) -> Result<Tensor> {
        let gained = match self.write_norm(layer) {
            Some(norm) => written.broadcast_mul(&norm.gain.on_device(written.device())?)?,
            None => written,
        };
        Ok((gained * self.blueprint.residual_scale)?)
    }
}
