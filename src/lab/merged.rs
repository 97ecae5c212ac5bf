//! Edits as changes of weights: which edits a matrix can do, and what they make of which part of the model.
//!
//! Taking a direction out of the stream wherever something is added to it is the same function as the model whose embedding,
//! attention outputs and MLP outputs are orthogonal to it (Arditi et al. 2024, 2406.11717, section 4.1); silencing or scaling
//! neurons and heads, and turning value vectors, are changes of columns. Invariant: an edit that the weights cannot do exactly is
//! refused with the reason; the one exception, directions under a norm of component outputs, is said in
//! [`MergedEdits::cautions`]. To merge another operation, add its arm in `Merge::edit`.

use std::collections::{BTreeMap, HashMap};

use super::Lab;
use super::named_vectors::{NamedVectors, find_direction};
use crate::edit::direction::{Direction, norm, unit};
use crate::edit::op::{Op, UnitChoice};
use crate::edit::positions::Positions;
use crate::edit::{Edit, EditPlace};
use crate::error::{Error, Result};
use crate::model::Card;
use crate::model::checkpoint::changed::arithmetic::{AlongDirection, TensorChange};
use crate::model::checkpoint::changed::stream::StreamPart;
use crate::model::host::ToHost;
use crate::model::network::blueprint::{BlockOrder, MlpKind};
use crate::model::network::site::{Address, Site};

/// Directions whose cosine is smaller count as orthogonal.
const ORTHOGONAL: f64 = 1e-5;

/// What a merge needs of the model.
pub struct MergeSources<'a> {
    pub card: &'a Card,
    /// The gain of the norm between a part's output and the stream.
    pub output_gain: &'a dyn Fn(StreamPart) -> Result<Option<Vec<f32>>>,
    /// Opens the model, for what cannot be said without it: value vectors, sets of units, features of dictionaries.
    pub open: &'a mut dyn FnMut() -> Result<Lab>,
}

/// A direction that was taken out or scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedDirection {
    /// The name in the edit.
    pub name: String,
    /// The method that made it.
    pub method: String,
    /// Where it was measured.
    pub measured_at: String,
    /// The vector that was used, `[d_model]`.
    pub vector: Vec<f32>,
}

/// Edits as changes of weights.
#[derive(Clone, Debug, Default)]
pub struct MergedEdits {
    /// The change of each part of the model that changes.
    pub changes: BTreeMap<StreamPart, TensorChange>,
    pub directions: Vec<MergedDirection>,
    /// Where the changed weights do something else than the live edits; nothing where they are the same function.
    pub cautions: Vec<String>,
}

/// Turns the active edits of a list into changes of weights.
///
/// # Errors
///
/// When no edit is active, or one cannot be merged.
pub fn merge(edits: &[Edit], sources: MergeSources<'_>) -> Result<MergedEdits> {
    let mut merge = Merge {
        loaded: Direction::embedded_for(sources.card)?,
        sources,
        lab: None,
        opened: HashMap::new(),
        before_norm: BTreeMap::new(),
        after_norm: BTreeMap::new(),
        everywhere: false,
        out: MergedEdits::default(),
    };
    for edit in edits.iter().filter(|edit| edit.active()) {
        merge.edit(&edit.on(&merge.sources.card.blueprint)?)?;
    }
    merge.finish()
}

/// A merge in progress.
struct Merge<'a> {
    sources: MergeSources<'a>,
    /// The directions embedded in the program.
    loaded: HashMap<String, Direction>,
    lab: Option<Lab>,
    opened: HashMap<String, Direction>,
    /// Changes along directions of what a part returns, before the norm of component outputs and after it.
    before_norm: BTreeMap<StreamPart, Vec<AlongDirection>>,
    after_norm: BTreeMap<StreamPart, Vec<AlongDirection>>,
    /// Whether a direction is taken out of everything that is written.
    everywhere: bool,
    out: MergedEdits,
}

impl Merge<'_> {
    fn edit(&mut self, edit: &Edit) -> Result<()> {
        let refused = |why: &str| Err(refusal(edit, why));
        if edit.positions != Positions::All || edit.phase.is_some() || edit.when.is_some() {
            return refused(
                "weights act at every position of every text: leave out its positions, phase and condition",
            );
        }
        let strength = f64::from(edit.strength);
        match &edit.op {
            Op::ProjectOut(_) => self.along(edit, -strength),
            Op::ScaleAlong(_) => self.along(edit, strength - 1.0),
            Op::Zero(units) => self.scaled(edit, units, 1.0 - strength),
            Op::Scale(units) => self.scaled(edit, units, strength),
            Op::Rewrite(turn) => {
                for layer in self.dense_layers(edit)? {
                    let units = self.units(edit, &turn.0, Site::MlpAct.at(layer))?;
                    let lab = self.lab()?;
                    let deltas = NamedVectors::new(lab, &[])
                        .turned(layer, &units, turn, edit.strength)?
                        .host_vec2::<f32>()?;
                    let change = self.out.changes.entry(StreamPart::Mlp(layer)).or_default();
                    for (neuron, delta) in units.iter().zip(deltas) {
                        let neuron = *neuron as usize;
                        check_first(edit, change, neuron)?;
                        let delta = delta.into_iter().map(f64::from).collect();
                        change.added.insert(neuron, delta);
                    }
                }
                Ok(())
            }
            Op::Add(_) | Op::SetAlong(_) | Op::Replace(_) | Op::Set(_) | Op::Relate(_) => refused(
                "it adds something that does not depend on the text, for which a matrix has no place and most models no bias",
            ),
            Op::Mean(_) | Op::Resample(_) => refused(
                "it puts the values of another text in, which no matrix does; zero and scale can be merged",
            ),
            Op::AddUnitNorm(_) | Op::AddRenorm(_) | Op::Icv(_) | Op::ClampAlong(_) => refused(
                "what it does depends on the activation in a way that no matrix can do; project_out and scale_along can be merged",
            ),
            Op::Swap(_) => {
                refused("swapping two directions is not merged; project_out and scale_along are")
            }
            Op::Splice(_) | Op::Cut(_) | Op::Only(_) => {
                refused("it changes how the model computes, not one of its matrices")
            }
        }
    }

    /// An edit along a direction: `x + factor (x·u) u`.
    fn along(&mut self, edit: &Edit, factor: f64) -> Result<()> {
        let card = self.sources.card;
        let blueprint = card.blueprint.clone();
        let order = blueprint.arrangement;
        let name = edit.direction().to_string();
        #[allow(clippy::float_cmp)] // idempotent only at exactly this value
        let whole = factor == -1.0;
        let addresses = edit.place.addresses(card.layers)?;
        if edit.place == EditPlace::Writes {
            if !whole {
                return Err(refusal(
                    edit,
                    "`writes` acts on what is written and again on the stream that it is added to, which the weights do only where the whole component is taken out: use strength 1 (of scale_along 0), or the addresses attn_out.* and mlp_out.*",
                ));
            }
            if order == BlockOrder::NormedStream {
                return Err(refusal(
                    edit,
                    "this model normalizes the stream itself after every component, which brings the direction back. Keep the edit live.",
                ));
            }
            self.everywhere = true;
            let vectors = self.vectors(edit, &name, &addresses)?;
            if vectors.iter().any(|v| *v != vectors[0]) {
                return Err(refusal(
                    edit,
                    "the direction has another vector at each layer, and what is written at one layer stays in the stream at all later ones. Make a direction at one layer.",
                ));
            }
            let along = self.used(&name, &vectors[0], factor)?;
            push(&mut self.before_norm, StreamPart::Embedding, along.clone());
            for layer in 0..card.layers {
                for part in [StreamPart::Attention(layer), StreamPart::Mlp(layer)] {
                    push(&mut self.after_norm, part, along.clone());
                }
            }
            return Ok(());
        }
        let vectors = self.vectors(edit, &name, &addresses)?;
        for (at, vector) in addresses.iter().zip(vectors) {
            let layer = usize::from(at.layer);
            let (part, normed) = if at.site == Site::AttnOut {
                (StreamPart::Attention(layer), false)
            } else if at.site == Site::AttnAdd {
                (StreamPart::Attention(layer), order.norms_writes())
            } else if at.site == Site::MlpOut {
                (StreamPart::Mlp(layer), false)
            } else if at.site == Site::MlpAdd {
                (StreamPart::Mlp(layer), order.norms_writes())
            } else {
                return Err(refusal(
                    edit,
                    "no matrix returns the value at its address. Use writes (everything that is added to the stream), attn_out.L or mlp_out.L.",
                ));
            };
            if normed && !whole {
                return Err(refusal(
                    edit,
                    "a norm stands between the matrix and its address, under which only a whole component can be taken out. Use attn_out or mlp_out.",
                ));
            }
            let along = self.used(&name, &vector, factor)?;
            let list = if at.site == Site::AttnOut || at.site == Site::MlpOut {
                &mut self.before_norm
            } else {
                &mut self.after_norm
            };
            push(list, part, along);
        }
        Ok(())
    }

    /// The vectors of a direction at addresses, checked against the width of the stream.
    fn vectors(&mut self, edit: &Edit, name: &str, at: &[Address]) -> Result<Vec<Vec<f32>>> {
        let width = self.sources.card.d_model;
        let direction = self.direction(name)?;
        let mut vectors = Vec::with_capacity(at.len());
        for at in at {
            let vector = direction.at(*at)?.to_vec();
            if vector.len() != width {
                let why = format!(
                    "direction `{name}` has {} numbers and {at} has {width}: it was made for another model or site",
                    vector.len()
                );
                return Err(refusal(edit, &why));
            }
            vectors.push(vector);
        }
        Ok(vectors)
    }

    /// The change along a vector; notes that it was used.
    fn used(&mut self, name: &str, vector: &[f32], factor: f64) -> Result<AlongDirection> {
        let direction = self.direction(name)?;
        let used = MergedDirection {
            name: name.to_string(),
            method: direction.origin.method.clone(),
            measured_at: direction.span(),
            vector: vector.to_vec(),
        };
        if !self.out.directions.contains(&used) {
            self.out.directions.push(used);
        }
        Ok(AlongDirection {
            unit: unit(vector).into_iter().map(f64::from).collect(),
            factor,
        })
    }

    fn direction(&mut self, name: &str) -> Result<Direction> {
        if let Some(held) = self.opened.get(name) {
            return Ok(held.clone());
        }
        let found = match find_direction(&self.loaded, self.sources.card, name) {
            Ok(found) => found,
            // It may be a feature of a dictionary, `NAME#12`.
            Err(_) if name.contains('#') => self.lab()?.direction(name)?,
            Err(error) => return Err(error),
        };
        let caution = found.caution(self.sources.card);
        if !caution.is_empty() {
            self.caution(format!("direction {name}: {caution}"));
        }
        self.opened.insert(name.to_string(), found.clone());
        Ok(found)
    }

    fn caution(&mut self, words: String) {
        if !self.out.cautions.contains(&words) {
            self.out.cautions.push(words);
        }
    }

    /// An edit that multiplies neurons or heads.
    fn scaled(&mut self, edit: &Edit, units: &UnitChoice, factor: f64) -> Result<()> {
        let card = self.sources.card;
        let site = edit.place.site();
        let (layers, width) = if site == Site::MlpAct {
            (self.dense_layers(edit)?, 1)
        } else if site == Site::Z {
            let at = edit.place.addresses(card.layers)?;
            let layers = at.iter().map(|at| usize::from(at.layer)).collect();
            (layers, card.blueprint.head_dim)
        } else {
            return Err(refusal(
                edit,
                "only neurons (mlp_act) and heads (z) are inputs of a matrix that writes to the stream",
            ));
        };
        for layer in layers {
            let at = site.at(layer);
            let part = if at.site == Site::Z {
                StreamPart::Attention(layer)
            } else {
                StreamPart::Mlp(layer)
            };
            let chosen = self.units(edit, units, at)?;
            let change = self.out.changes.entry(part).or_default();
            for unit in chosen {
                let first = unit as usize * width;
                for input in first..first + width {
                    check_first(edit, change, input)?;
                    change.factors.insert(input, factor);
                }
            }
        }
        Ok(())
    }

    /// The layers of an edit of neurons, none of which may have experts.
    fn dense_layers(&self, edit: &Edit) -> Result<Vec<usize>> {
        let card = self.sources.card;
        let addresses = edit.place.addresses(card.layers)?;
        let layers = addresses.iter().map(|at| usize::from(at.layer));
        let layers: Vec<usize> = layers.collect();
        let mixed = |layer: &&usize| card.blueprint.layers[**layer].mlp == MlpKind::Experts;
        match layers.iter().find(mixed) {
            Some(layer) => Err(refusal(
                edit,
                &format!("layer {layer} is a mixture of experts, whose neurons have no address"),
            )),
            None => Ok(layers),
        }
    }

    /// The units of an edit at an address, checked against their number.
    fn units(&mut self, edit: &Edit, units: &UnitChoice, at: Address) -> Result<Vec<u32>> {
        let card = self.sources.card;
        let count = if at.site == Site::Z {
            card.heads
        } else {
            card.d_mlp
        };
        let list = match units {
            UnitChoice::All => (0..count as u32).collect(),
            UnitChoice::List(list) => list.clone(),
            UnitChoice::Set(name) => NamedVectors::new(self.lab()?, &[]).units(name, at)?,
            UnitChoice::Features(_) => {
                return Err(refusal(
                    edit,
                    "features are units of a dictionary, which is no part of the model",
                ));
            }
        };
        match list.iter().find(|unit| **unit as usize >= count) {
            Some(bad) => {
                let why = format!(
                    "unit {bad} is past the end; {at} has {count}, 0 to {}",
                    count - 1
                );
                Err(refusal(edit, &why))
            }
            None => Ok(list),
        }
    }

    /// The model, opened when it is first asked for.
    fn lab(&mut self) -> Result<&mut Lab> {
        if self.lab.is_none() {
            let lab = (self.sources.open)()?;
            if lab.model.card.dtype == "q8_0" {
                return Err(Error::argument(
                    "--dtype",
                    "q8_0",
                    "f32, f16 or bf16: value vectors are measured on the loaded weights, and those are rounded to eight bits",
                ));
            }
            self.lab = Some(lab);
        }
        let held = self.lab.as_mut();
        held.ok_or_else(|| Error::Engine("the model was lost".into()))
    }

    fn finish(mut self) -> Result<MergedEdits> {
        self.check_orthogonal()?;
        for (part, along) in std::mem::take(&mut self.before_norm) {
            let change = self.out.changes.entry(part).or_default();
            change.along.extend(along);
        }
        let mut under_norm = false;
        for (part, along) in std::mem::take(&mut self.after_norm) {
            let gain = (self.sources.output_gain)(part)?;
            let change = self.out.changes.entry(part).or_default();
            for mut own in along {
                if let Some(gain) = &gain {
                    own.unit = through_gain(&own.unit, gain);
                    under_norm = true;
                }
                change.along.push(own);
            }
        }
        if under_norm {
            self.caution(format!(
                "{} normalizes what components return before it is added to the stream: the matrices are orthogonal to the direction times the norm's gain, so that nothing along the direction is written, but the scale of the norm changes with them, and the logits are not those of the live edit",
                self.sources.card.family
            ));
        }
        self.out.changes.retain(|_, change| !change.is_empty());
        if self.out.changes.is_empty() {
            return Err(Error::argument(
                "--edit",
                "no active edit",
                "an edit that changes something, such as project_out:FILE@writes",
            ));
        }
        Ok(self.out)
    }

    /// Where a direction is taken out of everything, no other one may have a part along it: it would be taken out once from what
    /// is written and again from the stream.
    fn check_orthogonal(&self) -> Result<()> {
        if !self.everywhere {
            return Ok(());
        }
        let all = &self.out.directions;
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                let cosine = cosine(&a.vector, &b.vector);
                if cosine.abs() > ORTHOGONAL && 1.0 - cosine.abs() > 1e-6 {
                    return Err(Error::argument(
                        "--edit",
                        format!("{} and {}, whose cosine is {cosine:.4}", a.name, b.name),
                        "directions at right angles, where one is taken out at `writes`: the live edit takes each out again and again, and one brings back some of the other. Export one, and make the other from the exported model",
                    ));
                }
            }
        }
        Ok(())
    }
}

fn refusal(edit: &Edit, why: &str) -> Error {
    Error::BadEdit {
        edit: edit.to_string(),
        why: format!("it cannot be merged into the weights: {why}"),
    }
}

/// Refuses a second change of an input.
fn check_first(edit: &Edit, change: &TensorChange, input: usize) -> Result<()> {
    if change.factors.contains_key(&input) || change.added.contains_key(&input) {
        return Err(refusal(
            edit,
            "another edit changes the same neuron or head. Give one for each.",
        ));
    }
    Ok(())
}

fn push(
    list: &mut BTreeMap<StreamPart, Vec<AlongDirection>>,
    part: StreamPart,
    along: AlongDirection,
) {
    list.entry(part).or_default().push(along);
}

/// The unit vector along `gain ⊙ u`: what is orthogonal to it has no component along `u` after an RMSNorm with that gain.
fn through_gain(unit: &[f64], gain: &[f32]) -> Vec<f64> {
    let product: Vec<f64> = unit
        .iter()
        .zip(gain)
        .map(|(u, g)| u * f64::from(*g))
        .collect();
    let length = product.iter().map(|x| x * x).sum::<f64>().sqrt();
    product.iter().map(|x| x / (length + 1e-30)).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum();
    dot / (f64::from(norm(a)) * f64::from(norm(b)) + 1e-30)
}
