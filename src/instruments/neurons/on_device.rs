//! The neurons of positions ranked where their activations are: of all layers' activations only those of the neurons that are listed
//! become numbers of the host.
//!
//! Invariant: the neurons and their numbers are those of [`super::at_position`], which ranks on the host, to the rounding of f32 sums.
//! It takes two read-backs a figure: which neurons are strongest, and their numbers. To list another number, add it to
//! [`ListedNeuron`] in both.

use candle_core::{DType, Tensor};

use super::value_card::ValueCards;
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::effect::{EffectDirections, EffectScale};
use crate::lab::target::LogitTarget;
use crate::model::host::ToHost;
use crate::model::network::reduced::strongest_of_rows;
use crate::model::network::site::Site;

/// Which neurons are listed.
pub(super) struct NeuronListing {
    pub count: usize,
    /// One layer, or all.
    pub layer: Option<usize>,
    /// Ranked by their direct effect, or by the size of their output.
    pub by_effect: bool,
    /// What the effect is on.
    pub on: EffectScale,
}

/// A neuron that is listed at a position, with its numbers.
pub(super) struct ListedNeuron {
    pub layer: u16,
    pub neuron: u32,
    pub act: f32,
    /// `|act|·‖v‖`.
    pub size: f32,
    /// The direct effect.
    pub effect: f32,
}

/// What was recorded of the positions, as tensors.
struct Recorded {
    /// Layers with neurons that are listed.
    layers: Vec<usize>,
    /// `[positions, layers * d_mlp]`, f32.
    acts: Tensor,
    /// The factor of the norm of the MLP's output, `[positions, layers]`.
    factors: Tensor,
    /// `1 / rms` of the last state, `[positions, 1]`.
    scale: Tensor,
}

/// The listed neurons of every position of a capture, strongest first, and the directions that their effects are along.
pub(super) fn listed(
    listing: &NeuronListing,
    of: &Capture,
    targets: &[LogitTarget],
    lab: &mut Lab,
) -> Result<(Vec<Vec<ListedNeuron>>, EffectDirections)> {
    let recorded = recorded(listing.layer, of, lab)?;
    let end = Site::ResidPost.at(lab.model.card.layers - 1);
    let last = of.get(end)?.to_dtype(lab.model.transformer.dtype())?;
    let along = lab.effect_directions(&last, Some(targets), listing.on)?;
    let d_mlp = lab.model.card.d_mlp;
    let cards = ValueCards::on(lab);
    let norms = cards
        .borrow_mut()
        .norms_on_device(&lab.model, &recorded.layers)?;
    let sizes = recorded.acts.abs()?.broadcast_mul(&norms)?;
    let sizes = each_layer(&sizes, &recorded.factors, d_mlp)?;
    let scores = if listing.by_effect {
        let stream = along.of_stream(&lab.model)?;
        let views = recorded.layers.iter();
        let views = views.map(|l| lab.model.transformer.neuron_views(*l, &stream));
        let views = Tensor::cat(&views.collect::<Result<Vec<_>>>()?, 1)?;
        let effects = each_layer(&(&recorded.acts * views)?, &recorded.factors, d_mlp)?;
        effects.broadcast_mul(&recorded.scale)?.abs()?
    } else {
        sizes.clone()
    };
    let strongest = strongest_of_rows(&scores, listing.count)?;
    if strongest.iter().any(Vec::is_empty) {
        return Err(lab.not_finite("The output of neurons is"));
    }
    let numbers = numbers(&recorded, &sizes, &strongest, &along, lab)?;
    let mut numbers = numbers.chunks_exact(3);
    let pages = strongest.iter().map(|page| {
        let one = |(at, _): &(u32, f32)| {
            let (layer, neuron) = (*at as usize / d_mlp, *at as usize % d_mlp);
            let own = numbers.next().unwrap_or(&[f32::NAN; 3]);
            ListedNeuron {
                layer: recorded.layers[layer] as u16,
                neuron: neuron as u32,
                act: own[0],
                size: own[1],
                effect: own[2],
            }
        };
        page.iter().map(one).collect()
    });
    Ok((pages.collect(), along))
}

fn recorded(only: Option<usize>, of: &Capture, lab: &Lab) -> Result<Recorded> {
    let (card, transformer) = (&lab.model.card, &lab.model.transformer);
    let layers = card.neuron_layers.iter().copied();
    let layers: Vec<usize> = layers
        .filter(|l| only.is_none_or(|only| only == *l))
        .collect();
    let acts = layers.iter().map(|l| of.get(Site::MlpAct.at(*l)));
    let acts = Tensor::cat(&acts.collect::<Result<Vec<_>>>()?, 1)?;
    let factors = layers.iter().map(|l| {
        if card.norms_writes {
            transformer.write_factors(*l, of.get(Site::MlpOut.at(*l))?)
        } else {
            Ok(acts.narrow(1, 0, 1)?.ones_like()?)
        }
    });
    let factors = Tensor::cat(&factors.collect::<Result<Vec<_>>>()?, 1)?;
    let last = of.get(Site::ResidPost.at(card.layers - 1))?;
    let scale = transformer.norm.inverse_scale(last)?;
    Ok(Recorded {
        layers,
        acts,
        factors,
        scale,
    })
}

/// `[positions, layers * d_mlp]` times one number a layer, `[positions, layers]`.
fn each_layer(values: &Tensor, factors: &Tensor, d_mlp: usize) -> Result<Tensor> {
    let (positions, layers) = factors.dims2()?;
    let own = values.reshape((positions, layers, d_mlp))?;
    let own = own.broadcast_mul(&factors.unsqueeze(2)?)?;
    Ok(own.reshape((positions, layers * d_mlp))?)
}

/// Activation, size and direct effect of the neurons of every position, one after the other.
fn numbers(
    recorded: &Recorded,
    sizes: &Tensor,
    strongest: &[Vec<(u32, f32)>],
    along: &EffectDirections,
    lab: &Lab,
) -> Result<Vec<f32>> {
    let (transformer, d_mlp) = (&lab.model.transformer, lab.model.card.d_mlp);
    let mut pages = Vec::with_capacity(strongest.len());
    for (i, page) in strongest.iter().enumerate() {
        let ids: Vec<u32> = page.iter().map(|(at, _)| *at).collect();
        let layers: Vec<u32> = ids.iter().map(|at| *at / d_mlp as u32).collect();
        let of = |t: &Tensor, ids: &[u32]| {
            let row = t.get(i)?;
            row.index_select(&Tensor::new(ids, row.device())?, 0)
        };
        let values = ids.iter().map(|at| {
            let (layer, neuron) = (*at as usize / d_mlp, *at as usize % d_mlp);
            transformer.value_vector(recorded.layers[layer], neuron)
        });
        let values = Tensor::stack(&values.collect::<Result<Vec<_>>>()?, 0)?;
        let gained = transformer.norm.at_scale_one(&values)?;
        let u = along.after_norm.get(i)?.to_dtype(DType::F32)?;
        let dots = gained.matmul(&u.unsqueeze(1)?)?.squeeze(1)?;
        let (acts, factors) = (of(&recorded.acts, &ids)?, of(&recorded.factors, &layers)?);
        let effects = ((&acts * factors)? * dots)?.broadcast_mul(&recorded.scale.get(i)?)?;
        let all = [acts, of(sizes, &ids)?, effects];
        pages.push(Tensor::stack(&all, 1)?);
    }
    Ok(Tensor::cat(&pages, 0)?.flatten_all()?.host_vec1()?)
}
