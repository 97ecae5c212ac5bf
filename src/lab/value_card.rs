//! Value cards: what a neuron's value vector promotes and suppresses (Geva et al. 2022, 2203.14680).
//!
//! The value vector of neuron i is column i of the MLP's down projection, as the block adds it; it is read through the
//! final norm's gain and the unembedding, without statistics (centred first where the norm centres).
//! Invariant: a card depends on the weights alone, so it is made once.

use std::collections::HashMap;

use candle_core::Tensor;

use super::sample::top;
use crate::error::Result;
use crate::model::Model;
use crate::model::blueprint::NormKind;

/// Tokens kept on each side.
pub const SIDE: usize = 8;

/// What one neuron writes.
#[derive(Clone, Debug)]
pub struct ValueCard {
    /// The value vector through the final norm's gain, `[d_model]`: dot with a token's logit direction and
    /// divide by the final scale for a direct effect.
    pub gained: Vec<f32>,
    /// Strongest promoted tokens and their logits per unit of activation.
    pub promoted: Vec<(u32, f32)>,
    /// Strongest suppressed tokens.
    pub suppressed: Vec<(u32, f32)>,
}

/// Cards made so far, and the lengths of all value vectors.
#[derive(Debug, Default)]
pub struct ValueCards {
    cards: HashMap<(u16, u32), ValueCard>,
    norms: Vec<Vec<f32>>,
}

impl ValueCards {
    /// ‖v_i‖ for every neuron of every layer, as it is added; none for layers without neurons.
    pub fn norms(&mut self, model: &Model) -> Result<&[Vec<f32>]> {
        if self.norms.is_empty() {
            let layers = model.transformer.neuron_layers();
            let of = |layer: usize| -> Result<Vec<f32>> {
                if !layers.contains(&layer) {
                    return Ok(Vec::new());
                }
                let values = model.transformer.value_vectors(layer)?;
                Ok(values.sqr()?.sum(0)?.sqrt()?.to_vec1()?)
            };
            self.norms = (0..model.card.layers).map(of).collect::<Result<_>>()?;
        }
        Ok(&self.norms)
    }

    /// Makes the cards that are missing, all in one product.
    pub fn prepare(&mut self, model: &Model, neurons: &[(u16, u32)]) -> Result<()> {
        let missing: Vec<(u16, u32)> = neurons
            .iter()
            .filter(|n| !self.cards.contains_key(n))
            .copied()
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let (gained, logits) = model.transformer.inside(|| read(model, &missing))?;
        let known = model.known_tokens();
        for ((key, gained), mut logits) in missing.into_iter().zip(gained).zip(logits) {
            let promoted = top(&logits, known, SIDE);
            logits.iter_mut().for_each(|z| *z = -*z);
            let suppressed = top(&logits, known, SIDE)
                .into_iter()
                .map(|(id, z)| (id, -z))
                .collect();
            self.cards.insert(
                key,
                ValueCard {
                    gained,
                    promoted,
                    suppressed,
                },
            );
        }
        Ok(())
    }

    /// A card that [`ValueCards::prepare`] made.
    pub fn get(&self, layer: u16, neuron: u32) -> Option<&ValueCard> {
        self.cards.get(&(layer, neuron))
    }
}

/// Rows read back.
type Rows = Vec<Vec<f32>>;

/// Value vectors through the final norm's gain, `[n][d_model]`, and what the unembedding makes of them, `[n][vocab]`.
fn read(model: &Model, neurons: &[(u16, u32)]) -> Result<(Rows, Rows)> {
    let transformer = &model.transformer;
    let column = |(l, i): &(u16, u32)| transformer.value_vector(usize::from(*l), *i as usize);
    let columns: Vec<Tensor> = neurons.iter().map(column).collect::<Result<_>>()?;
    let mut values = Tensor::stack(&columns, 0)?;
    if transformer.norm.kind == NormKind::Layer {
        values = values.broadcast_sub(&values.mean_keepdim(1)?)?;
    }
    let gained = values.broadcast_mul(&transformer.norm.gain)?;
    let logits = transformer.promote(&gained)?;
    Ok((gained.to_vec2()?, logits.to_vec2()?))
}
