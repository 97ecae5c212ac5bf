//! Value cards: the tokens that a neuron's value vector promotes and suppresses (Geva et al. 2022, 2203.14680).
//!
//! The value vector of neuron i is column i of the MLP's down projection, as the block adds it to the stream. It is multiplied
//! with the unembedding either directly (Geva et al., LM-Debugger) or after the final norm's gain without statistics (centred
//! first if the norm centres). Invariant: a card depends on the weights alone, so each of its parts is computed once.
//! To read a neuron's vector otherwise, see [`crate::lab::logit_effects`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use candle_core::Tensor;

use crate::error::Result;
use crate::lab::Lab;
use crate::lab::finite_guard::not_finite;
use crate::lab::logit_effects::{
    HostRows, TopAndBottom, ValueNorm, logit_effects, sides_on_device,
};
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::finite;
use crate::model::network::readout::StatisticsOn;

/// How many bytes of logits are kept.
const KEPT: usize = 64 << 20;

/// The value vector of one neuron, and its top tokens.
#[derive(Clone, Debug)]
pub struct ValueCard {
    /// The value vector multiplied by the final norm's gain, `[d_model]`. Its dot product with a token's logit direction,
    /// divided by the final norm's scale, is the direct effect of one unit of activation. Empty where vectors stay on the device.
    pub gained: Vec<f32>,
    /// The tokens that it promotes and suppresses most, after the final norm's gain.
    pub sides: TopAndBottom,
}

/// A cache of value cards and of the norms of all value vectors.
#[derive(Debug, Default)]
pub struct ValueCards {
    cards: HashMap<(u16, u32), ValueCard>,
    raw: HashMap<(u16, u32), TopAndBottom>,
    /// What one unit of some neurons adds to every logit, `[vocab]` each: those of the latest cards, as many as there is room for.
    logits: HashMap<(u16, u32), Vec<f32>>,
    norms: Vec<Vec<f32>>,
    /// Those of some layers, on the device.
    norms_there: HashMap<usize, Tensor>,
}

impl ValueCards {
    /// The cards of the lab's model; the lab keeps them.
    pub fn on(lab: &mut Lab) -> Rc<RefCell<Self>> {
        lab.derived()
    }

    /// `‖v_i‖` for every neuron of every layer, as added to the stream; empty for layers without neurons.
    pub fn norms(&mut self, model: &Model) -> Result<&[Vec<f32>]> {
        if self.norms.is_empty() {
            let layers = model.transformer.neuron_layers();
            let of = |layer: usize| -> Result<Vec<f32>> {
                if !layers.contains(&layer) {
                    return Ok(Vec::new());
                }
                let values = model.transformer.value_vectors(layer)?;
                Ok(values.sqr()?.sum(0)?.sqrt()?.host_vec1()?)
            };
            self.norms = (0..model.card.layers).map(of).collect::<Result<_>>()?;
        }
        Ok(&self.norms)
    }

    /// `‖v_i‖` of the neurons of these layers, one layer after the other, `[1, layers * d_mlp]`, on the device.
    ///
    /// # Errors
    ///
    /// When a layer has no neurons.
    pub fn norms_on_device(&mut self, model: &Model, layers: &[usize]) -> Result<Tensor> {
        for layer in layers {
            if !self.norms_there.contains_key(layer) {
                let values = model.transformer.value_vectors(*layer)?;
                self.norms_there
                    .insert(*layer, values.sqr()?.sum(0)?.sqrt()?);
            }
        }
        let all: Vec<&Tensor> = layers.iter().map(|l| &self.norms_there[l]).collect();
        Ok(Tensor::cat(&all, 0)?.unsqueeze(0)?)
    }

    /// Computes the missing cards, all in one product.
    pub fn prepare(&mut self, model: &Model, neurons: &[(u16, u32)]) -> Result<()> {
        let missing: Vec<(u16, u32)> = neurons
            .iter()
            .filter(|n| !self.cards.contains_key(n))
            .copied()
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let known = model.known_tokens();
        if model.transformer.statistics == StatisticsOn::Device {
            let rows = stacked(model, &missing)?;
            let sides = sides_on_device(model, &rows, ValueNorm::Gained)?;
            for (key, sides) in missing.into_iter().zip(sides) {
                let gained = Vec::new();
                self.cards.insert(key, ValueCard { gained, sides });
            }
            return Ok(());
        }
        let (gained, logits) = read(model, &missing, ValueNorm::Gained)?;
        for ((key, gained), logits) in missing.into_iter().zip(gained).zip(logits) {
            self.keep(key, logits.clone());
            let sides = TopAndBottom::of(logits, known);
            self.cards.insert(key, ValueCard { gained, sides });
        }
        Ok(())
    }

    /// Keeps what a neuron adds to the logits, and forgets the others where there are too many.
    fn keep(&mut self, neuron: (u16, u32), logits: Vec<f32>) {
        if (self.logits.len() + 1) * 4 * logits.len() > KEPT {
            self.logits.clear();
        }
        self.logits.insert(neuron, logits);
    }

    /// What one unit of each neuron adds to a weighted sum of all logits, `weights` being `[vocab]`, before the final norm's scale.
    ///
    /// # Errors
    ///
    /// Those of the tensor library.
    pub fn weighted(
        &mut self,
        model: &Model,
        neurons: &[(u16, u32)],
        weights: &[f32],
    ) -> Result<Vec<f32>> {
        let missing = neurons.iter().filter(|n| !self.logits.contains_key(n));
        let missing: Vec<(u16, u32)> = missing.copied().collect();
        let mut fresh = HashMap::new();
        if !missing.is_empty() {
            let (_, logits) = read(model, &missing, ValueNorm::Gained)?;
            fresh.extend(missing.iter().copied().zip(logits));
        }
        let sum = |neuron: &(u16, u32)| {
            let logits = self.logits.get(neuron).or_else(|| fresh.get(neuron));
            let pairs = logits.into_iter().flatten().zip(weights);
            pairs
                .map(|(z, w)| f64::from(*z) * f64::from(*w))
                .sum::<f64>() as f32
        };
        let sums = neurons.iter().map(sum).collect();
        for (neuron, logits) in fresh {
            self.keep(neuron, logits);
        }
        Ok(sums)
    }

    /// A card that [`ValueCards::prepare`] made.
    pub fn get(&self, layer: u16, neuron: u32) -> Option<&ValueCard> {
        self.cards.get(&(layer, neuron))
    }

    /// The tokens that one neuron promotes and suppresses, with or without the norm.
    pub fn sides(
        &mut self,
        model: &Model,
        neuron: (u16, u32),
        reading: ValueNorm,
    ) -> Result<TopAndBottom> {
        let held = match reading {
            ValueNorm::Gained => self.cards.get(&neuron).map(|card| &card.sides),
            ValueNorm::Raw => self.raw.get(&neuron),
        };
        if let Some(held) = held {
            return Ok(held.clone());
        }
        let (mut gained, mut logits) = read(model, &[neuron], reading)?;
        let sound = logits.iter().chain(&gained).all(|row| finite::all(row));
        if !sound {
            let place = format!("The value vector of neuron {}/{} is", neuron.0, neuron.1);
            return Err(not_finite(&model.transformer, &place));
        }
        let sides = TopAndBottom::of(logits.remove(0), model.known_tokens());
        match reading {
            ValueNorm::Gained => {
                let card = ValueCard {
                    gained: gained.remove(0),
                    sides: sides.clone(),
                };
                self.cards.insert(neuron, card);
            }
            ValueNorm::Raw => {
                self.raw.insert(neuron, sides.clone());
            }
        }
        Ok(sides)
    }
}

/// Value vectors in the chosen reading, `[n][d_model]`, and their products with the unembedding, `[n][vocab]`.
fn read(model: &Model, neurons: &[(u16, u32)], reading: ValueNorm) -> Result<(HostRows, HostRows)> {
    let transformer = &model.transformer;
    transformer.on_thread_pool(|| logit_effects(model, &stacked(model, neurons)?, reading))
}

/// Value vectors as rows, `[n, d_model]`.
fn stacked(model: &Model, neurons: &[(u16, u32)]) -> Result<Tensor> {
    let column = |(l, i): &(u16, u32)| {
        let (layer, neuron) = (usize::from(*l), *i as usize);
        model.transformer.value_vector(layer, neuron)
    };
    let columns: Vec<Tensor> = neurons.iter().map(column).collect::<Result<_>>()?;
    Ok(Tensor::stack(&columns, 0)?)
}
