//! From the place that a dictionary reconstructs to the residual stream, and back.
//!
//! A place is a state of the stream (`resid_*`, `embed`) or a term of it (what attention or an MLP writes, the outputs of heads
//! before the output projection, neurons). Invariant: the map is linear, with the scale of a norm of the written output, if the
//! family has one, left out; [`write_scale`] is that scale. To serve another place, add a variant of [`StreamRole`].
//!
//! Sources: direct logit attribution as in TransformerLens `logit_attrs`; features: Bricken et al. 2023.

use candle_core::{DType, Tensor};

use super::Report;
use super::opened::PlacedDictionary;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::blueprint::NormKind;
use crate::model::network::heads::Constants;
use crate::model::network::norm::Norm;
use crate::model::network::site::{Address, Site};

/// How a place belongs to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRole {
    /// It is the stream itself.
    State,
    /// It is a term of the stream, as it is added.
    Added,
    /// The outputs of the heads before the output projection.
    Heads,
    /// The output of attention, before a norm and a multiplier.
    Attention,
    /// Neurons.
    Neurons,
    /// The output of an MLP, before a norm and a multiplier.
    Mlp,
}

/// How a place belongs to the stream.
///
/// # Errors
///
/// When what is there reaches the stream only through something that is not linear.
pub fn role(at: Address) -> Result<StreamRole> {
    match at.site {
        Site::Embed | Site::ResidPre | Site::ResidMid | Site::ResidPost => Ok(StreamRole::State),
        Site::AttnAdd | Site::MlpAdd => Ok(StreamRole::Added),
        Site::Z => Ok(StreamRole::Heads),
        Site::AttnOut => Ok(StreamRole::Attention),
        Site::MlpAct => Ok(StreamRole::Neurons),
        Site::MlpOut => Ok(StreamRole::Mlp),
        Site::AttnIn
        | Site::Q
        | Site::K
        | Site::V
        | Site::AttnScores
        | Site::AttnProbs
        | Site::MlpNormed
        | Site::MlpIn
        | Site::MlpGate
        | Site::MlpUp
        | Site::Router
        | Site::FinalNorm
        | Site::LogitsRaw
        | Site::Logits => Err(Error::Refused {
            address: at.to_string(),
            why: "what is there is no term of the residual stream, so a feature of it writes to no logit directly. Take a dictionary of the stream, of an attention or MLP output, of z, or a transcoder.".into(),
        }),
    }
}

/// The norm of what a component writes, if the family has one.
fn write_norm(model: &Model, at: Address) -> Result<Option<&Norm>> {
    let block = model.transformer.blocks.get(usize::from(at.layer));
    Ok(match role(at)? {
        StreamRole::State | StreamRole::Added => None,
        StreamRole::Heads | StreamRole::Attention => {
            block.and_then(|block| block.norms_attn.output.as_ref())
        }
        StreamRole::Neurons | StreamRole::Mlp => {
            block.and_then(|block| block.norms_mlp.output.as_ref())
        }
    })
}

/// Where the component's output is recorded whose norm gives [`write_scale`]; none where there is no such norm.
///
/// # Errors
///
/// As [`role`].
pub fn written_at(model: &Model, at: Address) -> Result<Option<Address>> {
    let layer = usize::from(at.layer);
    let output = match role(at)? {
        StreamRole::State | StreamRole::Added => return Ok(None),
        StreamRole::Heads | StreamRole::Attention => Site::AttnOut.at(layer),
        StreamRole::Neurons | StreamRole::Mlp => Site::MlpOut.at(layer),
    };
    Ok(write_norm(model, at)?.map(|_| output))
}

/// The scale of that norm for a row of the output; 1 without one.
///
/// # Errors
///
/// As [`role`].
pub fn write_scale(model: &Model, at: Address, row: &[f32]) -> Result<f32> {
    Ok(write_norm(model, at)?.map_or(1.0, |norm| norm.inverse_scale_of(row)))
}

/// What vectors at a place, `[n, width]`, are in the stream, `[n, d_model]`, f32.
///
/// # Errors
///
/// As [`role`].
pub fn in_stream(model: &Model, at: Address, rows: &Tensor) -> Result<Tensor> {
    let transformer = &model.transformer;
    let layer = usize::from(at.layer);
    let written = match role(at)? {
        StreamRole::State | StreamRole::Added => return Ok(rows.clone()),
        // These have the gain and the multiplier already.
        StreamRole::Neurons => return Ok(rows.matmul(&transformer.value_vectors(layer)?.t()?)?),
        StreamRole::Heads => {
            let out = transformer.blocks[layer].attention.out.weight()?;
            rows.matmul(&out.on_device(rows.device())?.t()?)?
        }
        StreamRole::Attention | StreamRole::Mlp => rows.clone(),
    };
    let normed = match write_norm(model, at)? {
        None => written,
        Some(norm) => {
            let centred = match norm.kind {
                NormKind::Layer => written.broadcast_sub(&written.mean_keepdim(1)?)?,
                NormKind::Rms | NormKind::Identity => written,
            };
            centred.broadcast_mul(&norm.gain.on_device(centred.device())?)?
        }
    };
    Ok((normed * transformer.blueprint.residual_scale)?)
}

/// Directions of the stream, `[n, d_model]`, pulled back to a place: `[n, width]`, f32. The dot product with a vector there is
/// that of the direction with what the vector is in the stream.
///
/// # Errors
///
/// As [`role`].
pub fn seen_from(model: &Model, at: Address, directions: &Tensor) -> Result<Tensor> {
    let transformer = &model.transformer;
    let layer = usize::from(at.layer);
    match role(at)? {
        StreamRole::State | StreamRole::Added => Ok(directions.clone()),
        StreamRole::Heads => transformer.head_views(layer, directions),
        StreamRole::Neurons => transformer.neuron_views(layer, directions),
        StreamRole::Attention | StreamRole::Mlp => {
            transformer.before_write(write_norm(model, at)?, directions)
        }
    }
}

/// What the biases behind a place add along directions `[n, d_model]`.
///
/// # Errors
///
/// As [`role`].
pub fn constants_behind(model: &Model, at: Address, directions: &Tensor) -> Result<Constants> {
    let transformer = &model.transformer;
    let layer = usize::from(at.layer);
    match role(at)? {
        StreamRole::Heads => transformer.attention_constants(layer, directions),
        StreamRole::Neurons => transformer.mlp_constants(layer, directions),
        StreamRole::Attention | StreamRole::Mlp => {
            transformer.constants(write_norm(model, at)?, None, directions)
        }
        StreamRole::State | StreamRole::Added => {
            let none = vec![0.0; directions.dim(0)?];
            Ok(Constants {
                scaled: none.clone(),
                fixed: none,
            })
        }
    }
}

/// The targets of a dictionary whose vectors a feature adds to the stream together: all of its terms; of several states of the
/// same stream the last.
///
/// # Errors
///
/// As [`role`].
pub fn written_targets(placed: &PlacedDictionary) -> Result<Vec<usize>> {
    let roles = placed.writes.iter().map(|at| role(*at));
    let roles = roles.collect::<Result<Vec<_>>>()?;
    let last = roles.iter().rposition(|role| *role == StreamRole::State);
    Ok(last.map_or_else(|| (0..roles.len()).collect(), |last| vec![last]))
}

/// What one unit of some features adds to the stream, `[n, d_model]`, f32: through all targets, without the scale of a norm of
/// the written output, and before a norm of the input is undone.
///
/// # Errors
///
/// As [`role`]; and for a feature that the dictionary does not have.
pub fn stream_vectors(
    placed: &PlacedDictionary,
    model: &Model,
    features: &[u32],
) -> Result<Tensor> {
    let device = &model.transformer.device;
    let mut sum = Tensor::zeros((features.len(), model.card.d_model), DType::F32, device)?;
    for target in written_targets(placed)? {
        let rows = features.iter().map(|f| {
            let row = placed.dictionary.direction(target, *f as usize);
            row.ok_or_else(|| no_feature(placed, *f))
        });
        let rows = rows.collect::<Result<Vec<_>>>()?.concat();
        let width = placed.dictionary.targets[target].decoder.width;
        let rows = Tensor::from_vec(rows, (features.len(), width), device)?;
        sum = (sum + in_stream(model, placed.writes[target], &rows)?)?;
    }
    Ok(sum)
}

/// The products of what one unit of every feature adds to the stream with a direction of the stream, `[features]`. Reads the
/// decoders once.
///
/// # Errors
///
/// As [`role`].
pub fn stream_products(
    placed: &PlacedDictionary,
    model: &Model,
    direction: &Tensor,
    report: Report,
) -> Result<Vec<f32>> {
    let features = placed.dictionary.features();
    let mut sums = vec![0f32; features];
    let direction = direction.unsqueeze(0)?;
    for target in written_targets(placed)? {
        let seen = seen_from(model, placed.writes[target], &direction)?;
        let seen: Vec<f32> = seen.flatten_all()?.host_vec1()?;
        let target = &placed.dictionary.targets[target];
        let mut products = vec![0f32; features];
        target.decoder.add_products(&seen, &mut products, report)?;
        let scaled = products.iter().enumerate();
        sums.iter_mut()
            .zip(scaled)
            .for_each(|(sum, (f, p))| *sum += p * target.scale.of(f));
    }
    Ok(sums)
}

/// The error for a feature that a dictionary does not have.
pub fn no_feature(placed: &PlacedDictionary, feature: u32) -> Error {
    let count = placed.dictionary.features();
    Error::argument(
        "feature",
        feature,
        format!("a feature from 0 to {}", count.saturating_sub(1)),
    )
}
