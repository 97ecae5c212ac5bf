//! What one position looks like from its neurons: activations, what scales their writes, the end of the stream.
//!
//! Invariant: `effect = act · value_view · final scale · write factor` is the change of the target's logit (before a
//! soft-cap) when the neuron's write is put into the last residual row and every scale is held (direct logit attribution).
//! Ablating the neuron before anything later reacts takes exactly that away. To read more of a position, add a field,
//! its address in `addresses` and its part in `NeuronsAtPosition::read`, in the same order.

use candle_core::Tensor;

use super::value_card::ValueCards;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::run::Run;
use crate::model::network::finite::order;
use crate::model::network::site::{Address, Site};
use crate::model::{Card, Model};

/// One position's neurons.
#[derive(Clone, Debug)]
pub struct NeuronsAtPosition {
    pub position: usize,
    /// Layers that have neurons, with their activations, `[d_mlp]` each.
    pub activations: Vec<(usize, Vec<f32>)>,
    /// What the writes of each of those layers were scaled by on their way into the stream.
    factors: Vec<f32>,
    /// `1 / rms` (or `1 / std`) of the last residual row.
    pub scale: f32,
    /// The residual stream after the last block, `[d_model]`.
    pub last: Vec<f32>,
}

/// What is recorded, in this order: activations, the writes where they are normed, the end of the stream.
fn addresses(card: &Card) -> Vec<Address> {
    let of = |site: Site| card.neuron_layers.iter().map(move |l| site.at(*l));
    let writes = card.norms_writes.then(|| of(Site::MlpOut));
    of(Site::MlpAct)
        .chain(writes.into_iter().flatten())
        .chain([Site::ResidPost.at(card.layers - 1)])
        .collect()
}

/// The positions of a run from `first` on.
pub fn neurons_at(lab: &mut Lab, run: &Run, first: usize) -> Result<Vec<NeuronsAtPosition>> {
    let needs = needs(&lab.model)?;
    let capture = lab.capture(run, first..run.tokens.len(), &needs)?;
    NeuronsAtPosition::of(&capture, &lab.model)
}

/// What a capture must have for [`NeuronsAtPosition::of`].
///
/// # Errors
///
/// When the model has no neurons.
pub fn needs(model: &Model) -> Result<Needs> {
    if model.card.neuron_layers.is_empty() {
        return Err(model.transformer.no_neurons());
    }
    Ok(Needs {
        record: addresses(&model.card),
        ..Needs::default()
    })
}

impl NeuronsAtPosition {
    /// The positions of a capture.
    ///
    /// # Errors
    ///
    /// When it lacks an address of [`needs`].
    pub fn of(capture: &Capture, model: &Model) -> Result<Vec<Self>> {
        let rows = addresses(&model.card);
        let rows = rows.iter().map(|at| capture.get(*at));
        // One transfer for all layers.
        let rows = Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 1)?.to_vec2::<f32>()?;
        let positions = capture.positions.clone().zip(&rows);
        Ok(positions
            .map(|(p, row)| Self::read(row, p, model))
            .collect())
    }

    /// Takes a position's recorded rows apart, one after the other as `addresses` has them.
    fn read(mut rest: &[f32], position: usize, model: &Model) -> Self {
        let (card, transformer) = (&model.card, &model.transformer);
        let mut take = |width: usize| {
            let (row, after) = rest.split_at(width);
            rest = after;
            row
        };
        let layers = &card.neuron_layers;
        let activations = layers
            .iter()
            .map(|layer| (*layer, take(card.d_mlp).to_vec()))
            .collect();
        let factors = layers
            .iter()
            .map(|layer| {
                if card.norms_writes {
                    transformer.write_factor(*layer, take(card.d_model))
                } else {
                    1.0
                }
            })
            .collect();
        let last = take(card.d_model).to_vec();
        Self {
            position,
            activations,
            factors,
            scale: transformer.norm.inverse_scale_of(&last),
            last,
        }
    }

    /// A layer's activations and what its writes were scaled by; nothing for a layer without neurons.
    pub fn layer(&self, layer: usize) -> Option<(&[f32], f32)> {
        let found = self.activations.iter().zip(&self.factors);
        found
            .filter(|((l, _), _)| *l == layer)
            .map(|((_, row), factor)| (row.as_slice(), *factor))
            .next()
    }

    /// The direct effects of all neurons of a layer, `[d_mlp]`, from [`crate::model::network::transformer::Transformer::value_view`].
    pub fn effects(&self, layer: usize, view: &[f32]) -> Vec<f32> {
        self.layer(layer).map_or_else(Vec::new, |(row, factor)| {
            let write = self.scale * factor;
            row.iter().zip(view).map(|(a, v)| a * v * write).collect()
        })
    }

    /// `|act|·‖v‖` of all neurons of a layer as they are added, `[d_mlp]`.
    pub fn sizes(&self, layer: usize, norms: &[f32]) -> Vec<f32> {
        self.layer(layer).map_or_else(Vec::new, |(row, factor)| {
            let sizes = row.iter().zip(norms);
            sizes.map(|(a, n)| a.abs() * n * factor).collect()
        })
    }
}

/// The neuron that a parameter names; where it is empty, the one with the largest `|act|·‖v‖` at the end of the run.
pub fn neuron_of(run: &Run, name: &str, text: &str, lab: &mut Lab) -> Result<(u16, u32)> {
    if !text.is_empty() || run.tokens.is_empty() {
        return neuron(name, text, &lab.model);
    }
    let local = neurons_at(lab, run, run.tokens.len() - 1)?.remove(0);
    let cards = ValueCards::on(lab);
    let mut cards = cards.borrow_mut();
    let norms = cards.norms(&lab.model)?;
    let sizes = local.activations.iter().flat_map(|(layer, _)| {
        let sizes = local.sizes(*layer, &norms[*layer]);
        let units = sizes.into_iter().enumerate();
        units.map(|(i, size)| (size, *layer as u16, i as u32))
    });
    let best = sizes.max_by(|a, b| order(a.0, b.0));
    best.map(|(_, layer, unit)| (layer, unit))
        .ok_or_else(|| lab.model.transformer.no_neurons())
}

/// Reads a neuron as `L/I`, such as `5/17`, and checks that the model has it.
pub fn neuron(name: &str, text: &str, model: &Model) -> Result<(u16, u32)> {
    let card = &model.card;
    if card.neuron_layers.is_empty() {
        return Err(model.transformer.no_neurons());
    }
    let expected = || {
        format!(
            "a neuron as LAYER/NEURON, such as {}/17: neurons 0 to {} of layers {}",
            card.neuron_layers[0],
            card.d_mlp - 1,
            ranges(&card.neuron_layers)
        )
    };
    let parts = text.trim().split_once('/').and_then(|(layer, unit)| {
        let layer = layer.trim().parse::<usize>().ok()?;
        Some((layer, unit.trim().parse::<u32>().ok()?))
    });
    parts
        .filter(|(l, i)| card.neuron_layers.contains(l) && (*i as usize) < card.d_mlp)
        .map(|(l, i)| (l as u16, i))
        .ok_or_else(|| Error::argument(name, text, expected()))
}

/// `0-5, 7`.
fn ranges(layers: &[usize]) -> String {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for layer in layers {
        match out.last_mut() {
            Some((_, end)) if *end + 1 == *layer => *end = *layer,
            _ => out.push((*layer, *layer)),
        }
    }
    let spell = |(a, b): &(usize, usize)| {
        if a == b {
            a.to_string()
        } else {
            format!("{a}-{b}")
        }
    };
    out.iter().map(spell).collect::<Vec<_>>().join(", ")
}
