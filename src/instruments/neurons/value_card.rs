//! Value cards: what a neuron's value vector promotes and suppresses (Geva et al. 2022, 2203.14680).
//!
//! The value vector of neuron i is column i of the MLP's down projection, as the block adds it; it is read through the
//! unembedding, either as it is (Geva et al., LM-Debugger) or through the final norm's gain, without statistics (centred
//! first where the norm centres). Invariant: a card depends on the weights alone, so each of its parts is made once.
//! To add a way of reading, add a variant of [`ValueNorm`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use candle_core::Tensor;

use crate::error::Result;
use crate::lab::Lab;
use crate::lab::finite_guard::not_finite;
use crate::lab::sample::top;
use crate::lab::target::LogitTarget;
use crate::model::Model;
use crate::model::network::blueprint::NormKind;
use crate::model::network::finite;

/// Tokens kept on each side.
pub const SIDE: usize = 30;

/// Views kept: every layer of a few targets.
const VIEWS: usize = 1024;

/// How a value vector becomes logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueNorm {
    /// `W_U (γ ⊙ v)`, centred first where the norm centres.
    Gained,
    /// `W_U v`.
    Raw,
}

/// The ends of a row of logits.
#[derive(Clone, Debug, PartialEq)]
pub struct TopAndBottom {
    /// Strongest promoted tokens and their logits per unit of activation, strongest first.
    pub promoted: Vec<(u32, f32)>,
    /// Strongest suppressed tokens, strongest first.
    pub suppressed: Vec<(u32, f32)>,
}

/// What one neuron writes.
#[derive(Clone, Debug)]
pub struct ValueCard {
    /// The value vector through the final norm's gain, `[d_model]`: dot with a token's logit direction and
    /// divide by the final scale for a direct effect.
    pub gained: Vec<f32>,
    /// The tokens that it promotes and suppresses, through the final norm's gain.
    pub sides: TopAndBottom,
}

/// Cards made so far, the lengths of all value vectors, and how targets see them.
#[derive(Debug, Default)]
pub struct ValueCards {
    cards: HashMap<(u16, u32), ValueCard>,
    raw: HashMap<(u16, u32), TopAndBottom>,
    norms: Vec<Vec<f32>>,
    views: HashMap<(LogitTarget, usize), Vec<f32>>,
}

impl ValueCards {
    /// The cards of the lab's model, which the lab keeps.
    pub fn on(lab: &mut Lab) -> Rc<RefCell<Self>> {
        lab.derived()
    }

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

    /// What each neuron of a layer adds to a target's logit for one unit of activation, before the final scale:
    /// `[d_mlp]`. One product a layer.
    pub fn view(&mut self, model: &Model, layer: usize, target: LogitTarget) -> Result<&[f32]> {
        if self.views.len() >= VIEWS && !self.views.contains_key(&(target, layer)) {
            self.views.clear();
        }
        Ok(match self.views.entry((target, layer)) {
            std::collections::hash_map::Entry::Occupied(held) => held.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => {
                let direction = target.direction(model)?;
                free.insert(model.transformer.value_view(layer, &direction)?)
            }
        })
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
        let (gained, logits) = read(model, &missing, ValueNorm::Gained)?;
        let known = model.known_tokens();
        for ((key, gained), logits) in missing.into_iter().zip(gained).zip(logits) {
            let sides = sides(logits, known);
            self.cards.insert(key, ValueCard { gained, sides });
        }
        Ok(())
    }

    /// A card that [`ValueCards::prepare`] made.
    pub fn get(&self, layer: u16, neuron: u32) -> Option<&ValueCard> {
        self.cards.get(&(layer, neuron))
    }

    /// What one neuron promotes and suppresses, either way.
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
        let sides = sides(logits.remove(0), model.known_tokens());
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

/// Both ends of a row of logits.
fn sides(mut logits: Vec<f32>, known: usize) -> TopAndBottom {
    let promoted = top(&logits, known, SIDE);
    logits.iter_mut().for_each(|z| *z = -*z);
    let suppressed = top(&logits, known, SIDE);
    TopAndBottom {
        promoted,
        suppressed: suppressed.into_iter().map(|(id, z)| (id, -z)).collect(),
    }
}

/// Rows read back.
type ReadRows = Vec<Vec<f32>>;

/// Value vectors as they are read, `[n][d_model]`, and what the unembedding makes of them, `[n][vocab]`.
fn read(model: &Model, neurons: &[(u16, u32)], reading: ValueNorm) -> Result<(ReadRows, ReadRows)> {
    let transformer = &model.transformer;
    transformer.on_thread_pool(|| {
        let column = |(l, i): &(u16, u32)| transformer.value_vector(usize::from(*l), *i as usize);
        let columns: Vec<Tensor> = neurons.iter().map(column).collect::<Result<_>>()?;
        let mut values = Tensor::stack(&columns, 0)?;
        if reading == ValueNorm::Gained {
            if transformer.norm.kind == NormKind::Layer {
                values = values.broadcast_sub(&values.mean_keepdim(1)?)?;
            }
            values = values.broadcast_mul(&transformer.norm.gain)?;
        }
        let logits = transformer.direct_logits(&values)?;
        Ok((values.to_vec2()?, logits.to_vec2()?))
    })
}
