//! The neurons of one position: activations, the scale of their outputs, and the last residual row.
//!
//! Invariant: `effect = act · view · final scale · write factor` is the change of the target (its log-probability to first order,
//! or its logit before a soft-cap: [`crate::lab::effect`]) when the neuron's output is added to the last residual row with every norm's scale held constant (direct logit attribution).
//! Ablating the neuron removes exactly that, as long as later components do not react. To read more of a position, add a field,
//! its address in `addresses` and its part in `NeuronsAtPosition::read`, in the same order.

use candle_core::Tensor;

use super::value_card::ValueCards;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::effect::{EffectDirections, EffectScale};
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::model::host::ToHost;
use crate::model::network::finite::order;
use crate::model::network::site::{Address, Site};
use crate::model::{Card, Model};

/// The neurons of one position.
#[derive(Clone, Debug)]
pub struct NeuronsAtPosition {
    pub position: usize,
    /// Layers that have neurons, with their activations, `[d_mlp]` each.
    pub activations: Vec<(usize, Vec<f32>)>,
    /// For each of those layers, the factor on the MLP output from its norm
    /// ([`crate::model::network::transformer::Transformer::write_factor`]).
    factors: Vec<f32>,
    /// `1 / rms` (or `1 / std`) of the last residual row.
    pub scale: f32,
    /// The residual stream after the last block, `[d_model]`.
    pub last: Vec<f32>,
}

/// The addresses to record, in this order: activations, MLP outputs if they are normed, the last residual state.
fn addresses(card: &Card) -> Vec<Address> {
    let of = |site: Site| card.neuron_layers.iter().map(move |l| site.at(*l));
    let writes = card.norms_writes.then(|| of(Site::MlpOut));
    of(Site::MlpAct)
        .chain(writes.into_iter().flatten())
        .chain([Site::ResidPost.at(card.layers - 1)])
        .collect()
}

/// The neurons of a run at all positions from `first` on.
pub fn neurons_at(lab: &mut Lab, run: &Run, first: usize) -> Result<Vec<NeuronsAtPosition>> {
    let needs = needs(&lab.model)?;
    let capture = lab.capture(run, first..run.tokens.len(), &needs)?;
    NeuronsAtPosition::of(&capture, &lab.model)
}

/// What a capture must contain for [`NeuronsAtPosition::of`].
///
/// # Errors
///
/// When the model has no layer whose neurons can be addressed.
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
    /// The neurons of all positions of a capture.
    ///
    /// # Errors
    ///
    /// When the capture lacks an address of [`needs`].
    pub fn of(capture: &Capture, model: &Model) -> Result<Vec<Self>> {
        let rows = addresses(&model.card);
        let rows = rows.iter().map(|at| capture.get(*at));
        // One transfer from the device for all layers.
        let rows = Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 1)?.host_vec2::<f32>()?;
        let positions = capture.positions.clone().zip(&rows);
        Ok(positions
            .map(|(p, row)| Self::read(row, p, model))
            .collect())
    }

    /// Splits the recorded values of a position, which are concatenated in the order of `addresses`.
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

    /// The activations of a layer and the factor on its MLP output; none for a layer without neurons.
    pub fn layer(&self, layer: usize) -> Option<(&[f32], f32)> {
        let found = self.activations.iter().zip(&self.factors);
        found
            .filter(|((l, _), _)| *l == layer)
            .map(|((_, row), factor)| (row.as_slice(), *factor))
            .next()
    }

    /// The direct effects of all neurons of a layer, `[d_mlp]`, from [`crate::model::network::transformer::Transformer::neuron_views`].
    pub fn effects(&self, layer: usize, view: &[f32]) -> Vec<f32> {
        self.layer(layer).map_or_else(Vec::new, |(row, factor)| {
            let write = self.scale * factor;
            row.iter().zip(view).map(|(a, v)| a * v * write).collect()
        })
    }

    /// The sizes `|act|·‖v‖` of all neurons of a layer, with value vectors as they are added to the stream: `[d_mlp]`.
    pub fn sizes(&self, layer: usize, norms: &[f32]) -> Vec<f32> {
        self.layer(layer).map_or_else(Vec::new, |(row, factor)| {
            let sizes = row.iter().zip(norms);
            sizes.map(|(a, n)| a.abs() * n * factor).collect()
        })
    }
}

/// The final stream at each of these positions, `[n, d_model]`, as the model itself has it.
///
/// # Errors
///
/// Those of the tensor library.
pub fn final_stream(lab: &Lab, positions: &[NeuronsAtPosition]) -> Result<Tensor> {
    let rows: Vec<f32> = positions.iter().flat_map(|at| at.last.clone()).collect();
    let shape = (positions.len(), lab.model.card.d_model);
    let rows = Tensor::from_vec(rows, shape, &lab.model.transformer.device)?;
    Ok(rows.to_dtype(lab.model.transformer.dtype())?)
}

/// The directions of targets at each of these positions: of the given ones, or of the top prediction at each.
///
/// # Errors
///
/// Those of [`Lab::effect_directions`].
pub fn directions_at(
    lab: &Lab,
    positions: &[NeuronsAtPosition],
    targets: Option<&[LogitTarget]>,
    scale: EffectScale,
) -> Result<EffectDirections> {
    lab.effect_directions(&final_stream(lab, positions)?, targets, scale)
}

/// The neuron named by a parameter; if the text is empty, the one with the largest `|act|·‖v‖` at the run's last position.
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

/// Spells layers as ranges: `0-5, 7`.
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
