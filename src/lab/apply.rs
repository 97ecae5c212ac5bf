//! Edits at work: from lines of text to operations on tensors, with a tally of what they did.
//!
//! Formulas are in `lab/change.rs`. Invariants: a neutral edit is never applied; values at positions or
//! units outside an edit keep their bits; tallies are read back after the pass, never inside it.
//! To add an operation, add an arm in `prepare`.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use super::change::Change;
use super::direction::{random_like, unit};
use super::edit::{Edit, What};
use super::op::Op;
use super::receipt::Receipt;
use super::schedule::Schedule;
use super::shelf::places;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::site::{Address, Axis};
use crate::model::tap::Span;

/// What the compiler asks its caller: the vectors that edits name, and the means they need.
pub trait Lookup {
    /// The direction's vector for an address, checked against the model.
    fn direction(&mut self, name: &str, at: Address) -> Result<Vec<f32>>;
    /// Whether the direction has a vector for an address.
    fn has(&mut self, name: &str, at: Address) -> Result<bool>;
    /// What to know about the direction before it is used; empty where there is nothing.
    fn caution(&mut self, name: &str) -> Result<String>;
    /// The mean of an address over the unedited prompt, `[width]`, and where it came from.
    fn mean(&mut self, at: Address) -> Result<(Vec<f32>, String)>;
    /// An address on another text, `[positions, width]`, f32, and which text that was.
    fn other(&mut self, text: &str, at: Address) -> Result<(Tensor, String)>;
}

/// One edit at one address.
#[derive(Debug)]
struct Act {
    edit: Edit,
    receipt: usize,
    span: Range<usize>,
    change: Change,
}

/// What one edit did so far.
#[derive(Debug, Default)]
struct Tally {
    fired: usize,
    relative: f64,
    /// Ratios of passes that have not been read back: `[rows]` each.
    pending: Vec<Tensor>,
}

/// A schedule ready to run on a model.
#[derive(Debug, Default)]
pub struct Program {
    prompt: usize,
    acts: HashMap<Address, Vec<Act>>,
    receipts: Vec<Receipt>,
    tallies: Vec<Tally>,
}

/// How directions and units are replaced to measure a null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Null {
    /// Not at all.
    No,
    /// By random ones of equal size, from this seed.
    Random(u64),
}

impl Program {
    /// Prepares the edits of a schedule for a run whose prompt has `prompt` tokens spelled `pieces`.
    /// Receipts come in the order of the latest stage's edits; earlier stages share them by text.
    pub fn compile(
        schedule: &Schedule,
        prompt: usize,
        pieces: &[Vec<u8>],
        model: &Model,
        lookup: &mut dyn Lookup,
        null: Null,
    ) -> Result<Self> {
        let mut program = Self {
            prompt,
            ..Self::default()
        };
        for edit in schedule.latest() {
            program.receipt_for(edit);
        }
        for (span, edits) in schedule.spans() {
            for edit in edits.iter().filter(|e| e.active()) {
                let receipt = program.receipt_for(edit);
                let mut resolved = edit.clone();
                resolved.positions = edit.positions.resolve(pieces)?;
                let (places, caution) = places(edit, model.card.layers, lookup)?;
                program.receipts[receipt].remark(&caution);
                for at in places {
                    model.offers(at)?;
                    let (change, note) = prepare(&resolved, at, model, lookup, null)?;
                    program.receipts[receipt].remark(&note);
                    program.acts.entry(at).or_default().push(Act {
                        edit: resolved.clone(),
                        receipt,
                        span: span.clone(),
                        change,
                    });
                }
            }
        }
        Ok(program)
    }

    fn receipt_for(&mut self, edit: &Edit) -> usize {
        let text = edit.to_string();
        if let Some(i) = self.receipts.iter().position(|r| r.edit == text) {
            self.receipts[i].active |= edit.active();
            return i;
        }
        self.receipts.push(Receipt {
            edit: text,
            active: edit.active(),
            ..Receipt::default()
        });
        self.tallies.push(Tally::default());
        self.receipts.len() - 1
    }

    /// Whether any edit acts here.
    pub fn touches(&self, at: Address) -> bool {
        self.acts.contains_key(&at)
    }

    /// Whether nothing acts anywhere.
    pub fn is_idle(&self) -> bool {
        self.acts.is_empty()
    }

    /// Applies every edit of an address to `x`, `[batch, tokens, ..width]`.
    pub fn apply(&mut self, at: Address, x: Tensor, span: Span) -> Result<Tensor> {
        let Some(acts) = self.acts.get(&at) else {
            return Ok(x);
        };
        let dims = x.dims().to_vec();
        let (batch, tokens) = (dims[0], dims[1]);
        let mut flat = x.reshape((batch, tokens, ()))?;
        for act in acts {
            let covered: Vec<bool> = (0..tokens)
                .map(|i| span.start + i)
                .map(|p| act.span.contains(&p) && act.edit.covers(p, self.prompt))
                .collect();
            let count = covered.iter().filter(|c| **c).count();
            if count == 0 {
                continue;
            }
            let changed = act.change.on(&flat, span.start)?;
            let next = if count == tokens {
                changed
            } else {
                let mask: Vec<u8> = covered.iter().map(|c| u8::from(*c)).collect();
                let mask = Tensor::from_vec(mask, (1, tokens, 1), flat.device())?
                    .broadcast_as(flat.shape())?;
                mask.where_cond(&changed, &flat)?
            };
            let tally = &mut self.tallies[act.receipt];
            tally.fired += count * batch;
            let rows: Vec<u32> = (0..tokens as u32)
                .filter(|i| covered[*i as usize])
                .collect();
            tally.pending.push(ratio(&flat, &next, &rows)?);
            flat = next;
        }
        Ok(flat.reshape(dims)?)
    }

    /// Reads back what the passes since the last call measured, one transfer for all edits.
    pub fn settle(&mut self) -> Result<()> {
        let sizes: Vec<usize> = self
            .tallies
            .iter()
            .map(|t| t.pending.iter().map(Tensor::elem_count).sum())
            .collect();
        let pending: Vec<Tensor> = self
            .tallies
            .iter_mut()
            .flat_map(|t| t.pending.drain(..))
            .collect();
        if pending.is_empty() {
            return Ok(());
        }
        let values = Tensor::cat(&pending, 0)?.to_vec1::<f32>()?;
        let mut values = values.into_iter();
        for ((tally, receipt), size) in self.tallies.iter_mut().zip(&mut self.receipts).zip(sizes) {
            tally.relative += values.by_ref().take(size).map(f64::from).sum::<f64>();
            receipt.fired = tally.fired;
            receipt.relative = if tally.fired == 0 {
                0.0
            } else {
                (tally.relative / tally.fired as f64) as f32
            };
        }
        Ok(())
    }

    /// The receipts, in the order of the latest edits.
    pub fn receipts(&self) -> &[Receipt] {
        &self.receipts
    }

    /// Keeps counting where an earlier program stopped, for edits with the same text.
    pub fn carry(&mut self, earlier: &Self) {
        for (i, receipt) in self.receipts.iter_mut().enumerate() {
            if let Some(j) = earlier.receipts.iter().position(|r| r.edit == receipt.edit) {
                self.tallies[i].fired = earlier.tallies[j].fired;
                self.tallies[i].relative = earlier.tallies[j].relative;
                receipt.fired = earlier.receipts[j].fired;
                receipt.relative = earlier.receipts[j].relative;
            }
        }
    }
}

/// ‖Δ‖/‖x‖ of the given rows: `[batch * rows]`, f32.
fn ratio(before: &Tensor, after: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let index = Tensor::new(rows, before.device())?;
    let pick = |t: &Tensor| t.index_select(&index, 1)?.to_dtype(DType::F32);
    let (before, after) = (pick(before)?, pick(after)?);
    let length = |t: Tensor| t.sqr()?.sum(D::Minus1)?.sqrt();
    let ratio = (length((after - &before)?)? / (length(before)? + 1e-12)?)?;
    Ok(ratio.flatten_all()?)
}

fn prepare(
    edit: &Edit,
    at: Address,
    model: &Model,
    lookup: &mut dyn Lookup,
    null: Null,
) -> Result<(Change, String)> {
    let device = &model.transformer.device;
    let width = model.width(at.site);
    let c = f64::from(edit.strength);
    let mut note = String::new();
    let mut direction = |name: &str| -> Result<Vec<f32>> {
        let vector = lookup.direction(name, at)?;
        if vector.len() != width {
            let why = format!(
                "direction `{name}` has {} numbers and {at} has {width}: it was made for another model or site",
                vector.len()
            );
            return Err(Error::BadEdit {
                edit: edit.to_string(),
                why,
            });
        }
        Ok(match null {
            // One vector for all addresses, as the direction itself is one.
            Null::Random(seed) => random_like(&vector, seed),
            Null::No => vector,
        })
    };
    let tensor = |v: Vec<f32>| Tensor::new(v, device);
    let scaled = |v: Vec<f32>| tensor(v.iter().map(|x| x * edit.strength).collect());
    let change = match &edit.what {
        What::Direction(name) => {
            let vector = direction(name)?;
            match edit.op {
                Op::Add => Change::Add(scaled(vector)?),
                Op::AddRenorm => Change::AddRenorm(scaled(vector)?),
                Op::Icv => Change::Icv(tensor(unit(&vector))?, c),
                Op::AddUnitNorm => {
                    if c.abs() > 1.0 {
                        note = "the strength is capped at once the local norm".into();
                    }
                    Change::AddUnitNorm(tensor(unit(&vector))?, c.clamp(-1.0, 1.0))
                }
                Op::ScaleAlong => Change::ProjectOut(tensor(unit(&vector))?, 1.0 - c),
                Op::Replace => Change::Towards {
                    mask: Tensor::ones(width, DType::U8, device)?,
                    target: tensor(vector)?,
                    strength: c,
                },
                _ => Change::ProjectOut(tensor(unit(&vector))?, c),
            }
        }
        What::DirectionTo(name, value) => {
            Change::SetAlong(tensor(unit(&direction(name)?))?, f64::from(*value), c)
        }
        What::DirectionWithin(name, low, high) => Change::ClampAlong {
            unit: tensor(unit(&direction(name)?))?,
            low: f64::from(*low),
            high: f64::from(*high),
            strength: c,
        },
        What::Swap(from, to) => Change::Swap {
            from: tensor(unit(&direction(from)?))?,
            to: tensor(unit(&direction(to)?))?,
            strength: c,
        },
        What::UnitsTo(_, value) => Change::Towards {
            mask: mask(edit, at, model, null)?,
            target: Tensor::full(*value, width, device)?,
            strength: c,
        },
        What::UnitsFrom(_, text) => {
            let (target, from) = lookup.other(text, at)?;
            note = from;
            Change::Towards {
                mask: mask(edit, at, model, null)?,
                target,
                strength: c,
            }
        }
        What::Units(_) => {
            let mask = mask(edit, at, model, null)?;
            match edit.op {
                Op::Scale => Change::Times { mask, factor: c },
                Op::Mean => {
                    let (mean, from) = lookup.mean(at)?;
                    note = from;
                    Change::Towards {
                        mask,
                        target: tensor(mean)?,
                        strength: c,
                    }
                }
                _ => Change::Towards {
                    mask,
                    target: Tensor::zeros(width, DType::F32, device)?,
                    strength: c,
                },
            }
        }
    };
    Ok((change, note))
}

/// `[width]`, 1 where the edit's units are; a head covers `head_dim` coordinates.
fn mask(edit: &Edit, at: Address, model: &Model, null: Null) -> Result<Tensor> {
    let width = model.width(at.site);
    let axis = at.site.spec().axis;
    let size = if matches!(axis, Axis::Heads | Axis::KvHeads) {
        model.transformer.blueprint.head_dim
    } else {
        1
    };
    let count = width / size;
    let mut units = edit.units().to_vec();
    if let Some(bad) = units.iter().find(|u| **u as usize >= count) {
        let why = format!(
            "unit {bad} is past the end; {at} has {count}, 0 to {}",
            count - 1
        );
        return Err(Error::BadEdit {
            edit: edit.to_string(),
            why,
        });
    }
    if let Null::Random(seed) = null {
        units = other_units(&units, count, seed);
    }
    let mut flags = vec![u8::from(units.is_empty()); width];
    for unit in units {
        flags[unit as usize * size..(unit as usize + 1) * size].fill(1);
    }
    Ok(Tensor::from_vec(flags, width, &Device::Cpu)?.to_device(&model.transformer.device)?)
}

/// As many units, drawn from the others.
fn other_units(units: &[u32], count: usize, seed: u64) -> Vec<u32> {
    use rand::SeedableRng;
    use rand::seq::SliceRandom;
    let mut others: Vec<u32> = (0..count as u32).filter(|u| !units.contains(u)).collect();
    others.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
    others.truncate(units.len());
    others
}
