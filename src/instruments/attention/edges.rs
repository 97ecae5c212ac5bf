//! Attention edges and head outputs at a position: probabilities, weighted values, and the tokens that a head's output
//! promotes.
//!
//! Invariant: probabilities are shown as they are, never renormalised; the first position, an attention sink in many models, is
//! left out of the strongest sources and of colour scales unless it is asked for. To weight edges by something else, add a
//! variant of [`EdgeMeasure`].

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::edit::direction::norm;
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::sample::top;
use crate::model::host::ToHost;
use crate::model::network::blueprint::NormKind;
use crate::model::network::finite::order;
use crate::model::network::site::{Address, Site};

/// How an edge from a query to a source is weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeMeasure {
    Probability,
    /// The probability times the norm of the value vector.
    Value,
    /// The probability times the norm of the value vector after the output projection (Kobayashi et al. 2020, 2004.10102).
    Write,
}

impl EdgeMeasure {
    /// The addresses of a layer that must be recorded.
    pub fn addresses(self, layer: usize) -> Vec<Address> {
        match self {
            Self::Probability => vec![Site::AttnProbs.at(layer)],
            Self::Value | Self::Write => vec![Site::AttnProbs.at(layer), Site::V.at(layer)],
        }
    }
}

/// The edges of one layer.
#[derive(Clone, Debug)]
pub struct Edges {
    /// `[heads][queries][sources]`.
    values: Vec<f32>,
    queries: Range<usize>,
    sources: usize,
}

impl Edges {
    /// The edges of a captured layer; the capture must have [`EdgeMeasure::addresses`] and, to weight by values, every
    /// position.
    pub fn read(lab: &Lab, capture: &Capture, layer: usize, weight: EdgeMeasure) -> Result<Self> {
        let probs = capture.get(Site::AttnProbs.at(layer))?;
        let sources = probs.dim(2)?;
        let values = match weight {
            EdgeMeasure::Probability => probs.clone(),
            EdgeMeasure::Value | EdgeMeasure::Write => {
                let lengths = weighted_value_norms(lab, capture, layer, weight)?;
                probs.broadcast_mul(&lengths.unsqueeze(1)?)?
            }
        };
        Ok(Self {
            values: values.flatten_all()?.host_vec1()?,
            queries: capture.positions.clone(),
            sources,
        })
    }

    /// The weights of all sources for one query of a head, `[sources]`.
    pub fn row(&self, head: usize, query: usize) -> &[f32] {
        let row = head * self.queries.len() + query - self.queries.start;
        &self.values[row * self.sources..][..self.sources]
    }
}

/// The norm by which each source's probability is multiplied, `[heads, sources]`.
fn weighted_value_norms(
    lab: &Lab,
    capture: &Capture,
    layer: usize,
    weight: EdgeMeasure,
) -> Result<Tensor> {
    let transformer = &lab.model.transformer;
    let heads = transformer.blueprint.heads;
    let (width, group) = (
        transformer.blueprint.head_dim,
        heads / transformer.blueprint.kv_heads,
    );
    let v = capture.get(Site::V.at(layer))?;
    let out = transformer.blocks[layer].attention.out.weight()?;
    let out = out.on_device(v.device())?;
    let rows = (0..heads)
        .map(|head| {
            let v = v.narrow(1, head / group, 1)?.squeeze(1)?.contiguous()?;
            let carried = match weight {
                EdgeMeasure::Probability | EdgeMeasure::Value => v,
                EdgeMeasure::Write => v.matmul(&out.narrow(1, head * width, width)?.t()?)?,
            };
            Ok(carried.sqr()?.sum(1)?.sqrt()?)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::stack(&rows, 0)?)
}

/// The strongest sources of a row, strongest first. If `apart`, the first position comes last.
pub fn strongest(row: &[f32], query: usize, count: usize, apart: bool) -> Vec<(usize, f32)> {
    let seen = &row[..=query];
    let skip = usize::from(apart && query > 0);
    let mut found: Vec<(usize, f32)> = top(&seen[skip..], seen.len() - skip, count)
        .into_iter()
        .map(|(j, v)| (j as usize + skip, v))
        .collect();
    if skip == 1 && found.len() < count {
        found.push((0, seen[0]));
    }
    found
}

/// The entropy of a row of probabilities, in nats.
pub fn entropy(row: &[f32]) -> f32 {
    let own = row.iter().map(|p| f64::from(*p)).filter(|p| *p > 0.0);
    -own.map(|p| p * p.ln()).sum::<f64>() as f32
}

/// The output of one head at a position, as added to the stream.
#[derive(Clone, Debug)]
pub struct HeadOutput {
    /// Layer and head index.
    pub head: (usize, usize),
    /// The norm of the output.
    pub size: f32,
    /// The tokens that it promotes through the final norm's gain and the unembedding, with the change of their logits before
    /// the final norm's scale.
    pub promoted: Vec<(u32, f32)>,
    /// The tokens that it suppresses, likewise.
    pub suppressed: Vec<(u32, f32)>,
}

/// The addresses to record for the head outputs of a layer.
pub fn output_addresses(layer: usize, norms_writes: bool) -> Vec<Address> {
    crate::instruments::residual::decomposition::of_attention(&[layer], norms_writes, false)
}

/// What heads add to the stream, each at a position, `[d_model]`. The capture must have [`output_addresses`] of their layers.
pub fn head_additions(
    lab: &Lab,
    recording: &Capture,
    places: &[((usize, usize), usize)],
) -> Result<Vec<Vec<f32>>> {
    let model = &lab.model;
    let transformer = &model.transformer;
    transformer.check_head_writes()?;
    let width = transformer.blueprint.head_dim;
    let row = |at: Address, position: usize| -> Result<Vec<f32>> {
        let row = recording.get(at)?.get(position)?.to_dtype(DType::F32)?;
        Ok(row.flatten_all()?.host_vec1()?)
    };
    let each = places.iter().map(|((layer, head), position)| {
        let z = row(Site::Z.at(*layer), *position)?;
        let scale = if model.card.norms_writes {
            transformer.attention_scale(*layer, &row(Site::AttnOut.at(*layer), *position)?)
        } else {
            1.0
        };
        let own = transformer.head_write(*layer, *head, &z[head * width..(head + 1) * width])?;
        transformer.head_added(*layer, &own, scale)
    });
    each.collect()
}

/// So many heads with the largest outputs of all at a position, in shares of the norm of the stream that they are added to, which grows
/// from layer to layer. The capture must have [`output_addresses`] and `resid_pre` of their layers.
pub fn largest_outputs(
    lab: &Lab,
    recording: &Capture,
    places: &[((usize, usize), usize)],
    count: usize,
) -> Result<Vec<(usize, usize)>> {
    let added = head_additions(lab, recording, places)?;
    let each = places.iter().zip(&added).map(|((head, position), added)| {
        let stream = recording.get(Site::ResidPre.at(head.0))?.get(*position)?;
        let stream: Vec<f32> = stream.to_dtype(DType::F32)?.flatten_all()?.host_vec1()?;
        Ok((*head, norm(added) / norm(&stream)))
    });
    let mut sizes = each.collect::<Result<Vec<_>>>()?;
    sizes.sort_by(|a, b| order(b.1, a.1));
    Ok(sizes
        .into_iter()
        .take(count)
        .map(|(head, _)| head)
        .collect())
}

/// The outputs of heads, each at a position, with the `count` tokens that each promotes and suppresses most. The capture must have
/// [`output_addresses`] of their layers.
pub fn head_outputs(
    lab: &Lab,
    recording: &Capture,
    places: &[((usize, usize), usize)],
    count: usize,
) -> Result<Vec<HeadOutput>> {
    let model = &lab.model;
    let transformer = &model.transformer;
    let added = head_additions(lab, recording, places)?;
    let values = Tensor::new(added.concat(), &transformer.device)?;
    let mut values = values.reshape((places.len(), model.card.d_model))?;
    if transformer.norm.kind == NormKind::Layer {
        values = values.broadcast_sub(&values.mean_keepdim(1)?)?;
    }
    let gained = values.broadcast_mul(&transformer.norm.gain)?;
    let logits = transformer.direct_logits(&gained)?.host_vec2::<f32>()?;
    let known = model.known_tokens();
    let both = places.iter().zip(added).zip(logits);
    Ok(both
        .map(|(((head, _), added), mut logits)| {
            let promoted = top(&logits, known, count);
            logits.iter_mut().for_each(|z| *z = -*z);
            let suppressed = top(&logits, known, count);
            HeadOutput {
                head: *head,
                size: norm(&added),
                promoted,
                suppressed: suppressed.into_iter().map(|(id, z)| (id, -z)).collect(),
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_position_is_set_apart_and_comes_last() {
        let row = [0.7f32, 0.1, 0.2, 0.0];
        assert_eq!(strongest(&row, 2, 2, true), [(2, 0.2), (1, 0.1)]);
        assert_eq!(strongest(&row, 2, 9, true), [(2, 0.2), (1, 0.1), (0, 0.7)]);
        assert_eq!(strongest(&row, 2, 1, false), [(0, 0.7)]);
        assert_eq!(
            strongest(&row, 0, 3, true),
            [(0, 0.7)],
            "it has nothing else to read"
        );
    }

    #[test]
    fn an_even_row_has_the_entropy_of_its_length() {
        assert!((entropy(&[0.25; 4]) - 4f32.ln()).abs() < 1e-6);
        assert!(entropy(&[1.0, 0.0]).abs() < 1e-9);
    }
}
