//! From a schedule to a program: what edits need is measured or found first, because it needs passes of its own.
//!
//! Invariant: a mean, another text and the sizes for a null are those of unedited runs. To serve an edit that needs
//! something else, gather it in [`Bench::compile`] and hand it out in `lab/shelf.rs`.

use std::collections::HashMap;

use candle_core::{DType, Tensor};

use super::apply::{Act, Null, Program};
use super::bench::Bench;
use super::prepare::{Prepared, prepare, sizes, unit_size};
use super::run::Run;
use super::shelf::{Measured, Shelf};
use super::watch::{Watch, Watched};
use crate::edit::condition::Probe;
use crate::edit::direction::unit;
use crate::edit::op::{CutEdges, Op, Which};
use crate::edit::schedule::Schedule;
use crate::edit::{Edit, Place};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::network::site::{Address, check_layer};

impl Bench {
    /// Prepares the edits of a run. A program whose edits depend on the tokens of its prompt acts on no other.
    pub fn compile(&mut self, run: &Run, null: Null) -> Result<Program> {
        let schedule = &run.schedule;
        if schedule.is_idle() && schedule.latest().is_empty() {
            return Ok(Program::default());
        }
        let schedule = &schedule.on(&self.model.card.blueprint)?;
        let given = run.given();
        let pieces: Vec<Vec<u8>> = given.iter().map(|t| self.model.bytes(*t)).collect();
        let mut measured = Measured::default();
        let edits = schedule.spans().flat_map(|(_, edits)| edits);
        for edit in edits.filter(|e| e.active()) {
            for at in edit.place.addresses(self.model.card.layers)? {
                self.model.offers(at)?;
                self.gather(edit, at, &given, null, &mut measured)?;
            }
        }
        let mut shelf = Shelf {
            bench: self,
            measured: &measured,
            opened: HashMap::new(),
            read: HashMap::new(),
        };
        let mut program = program(schedule, run.prompt, &pieces, &self.model, &mut shelf, null)?;
        if schedule.reads_prompt() || matches!(null, Null::Random(_)) {
            program.bind(given);
        }
        if program.asks_probability() && !run.tokens.is_empty() {
            let plain = run.unedited();
            let rows = self.log_probs(&plain, run.tokens.len())?;
            for (position, row) in rows.iter().enumerate() {
                program.hear(position, row);
            }
        }
        Ok(program)
    }

    /// Measures what an edit needs at one of its addresses.
    fn gather(
        &mut self,
        edit: &Edit,
        at: Address,
        prompt: &[u32],
        null: Null,
        measured: &mut Measured,
    ) -> Result<()> {
        let mentions = edit.op.argument().mentions();
        if mentions.prompt_mean && !measured.means.contains_key(&at) {
            let mean = self.mean(at, prompt)?;
            measured.means.insert(at, mean);
        }
        if let Some(text) = mentions.text {
            let other = self.other(text, at)?;
            measured.others.insert((text.to_string(), at), other);
        }
        let drawn = mentions.units.is_some_and(|which| *which != Which::All);
        let drawn = drawn && mentions.sources.is_none();
        if matches!(null, Null::Random(_)) && drawn && !measured.sizes.contains_key(&at) {
            let recording = self.record(&Run::plain(prompt.to_vec()), &[at])?;
            let sizes = sizes(recording.get(at)?, unit_size(at.site, &self.model))?;
            measured.sizes.insert(at, sizes);
        }
        Ok(())
    }

    /// An address on another text, unedited, `[positions * width]`.
    fn other(&mut self, text: &str, at: Address) -> Result<(Vec<f32>, String)> {
        let tokens = self.model.encode(text, false)?;
        let count = tokens.len();
        let recording = self.record(&Run::plain(tokens), &[at])?;
        let rows = recording.get(at)?.to_dtype(DType::F32)?.flatten_all()?;
        let note = format!("values of another text of {count} tokens");
        Ok((rows.to_vec1()?, note))
    }

    /// The mean of an address over an unedited prompt, its first token left out when there are others.
    fn mean(&mut self, at: Address, prompt: &[u32]) -> Result<(Vec<f32>, String)> {
        let recording = self.record(&Run::plain(prompt.to_vec()), &[at])?;
        let values = recording
            .get(at)?
            .to_dtype(DType::F32)?
            .flatten_from(1)?
            .to_vec2::<f32>()?;
        let rows = if values.len() > 1 {
            &values[1..]
        } else {
            &values[..]
        };
        let mut sums = vec![0f64; rows[0].len()];
        for row in rows {
            let pairs = sums.iter_mut().zip(row);
            pairs.for_each(|(s, v)| *s += f64::from(*v));
        }
        let mean = sums.iter().map(|s| (s / rows.len() as f64) as f32);
        let note = format!("mean over {} tokens of this prompt", rows.len());
        Ok((mean.collect(), note))
    }
}

/// Prepares the edits of a schedule for a run whose prompt has `prompt` tokens spelled `pieces`.
/// Receipts come in the order of the latest stage's edits; earlier stages share them.
fn program(
    schedule: &Schedule,
    prompt: usize,
    pieces: &[Vec<u8>],
    model: &Model,
    shelf: &mut Shelf,
    null: Null,
) -> Result<Program> {
    let mut program = Program::after(prompt);
    for edit in schedule.latest() {
        program.receipt_for(edit);
    }
    for (span, edits) in schedule.spans() {
        for edit in edits.iter().filter(|e| e.active()) {
            let receipt = program.receipt_for(edit);
            let mut resolved = edit.clone();
            resolved.positions = edit.positions.resolve(pieces)?;
            if let Op::Cut(CutEdges(_, sources)) = &mut resolved.op {
                *sources = sources.resolve(pieces)?;
            }
            let (places, caution) = places(edit, model.card.layers, shelf)?;
            program.receipts[receipt].remark(&caution);
            let watched = watch(&resolved, &places, model, shelf)?;
            let watch = watched.map(|watch| {
                program.watches.push(watch);
                program.watches.len() - 1
            });
            let rule = (resolved.clone(), span.clone(), watch);
            program.tallies[receipt].rules.push(rule);
            for at in places {
                model.offers(at)?;
                let Some(ready) = prepare(&resolved, at, model, shelf, null)? else {
                    continue;
                };
                let Prepared {
                    at: place,
                    change,
                    note,
                } = ready;
                model.offers(place)?;
                program.receipts[receipt].remark(&note);
                if place != at {
                    program.remembered.insert(at, None);
                }
                program.acts.entry(place).or_default().push(Act {
                    edit: resolved.clone(),
                    receipt,
                    span: span.clone(),
                    change,
                    watch,
                });
            }
        }
    }
    program.explain();
    Ok(program)
}

/// The watch of an edit's condition; equal ones of one stage are shared by position anyway, so each edit has its own.
fn watch(
    edit: &Edit,
    places: &[Address],
    model: &Model,
    shelf: &mut Shelf,
) -> Result<Option<Watch>> {
    let Some(condition) = &edit.when else {
        return Ok(None);
    };
    let refused = |why: String| Error::BadEdit {
        edit: edit.to_string(),
        why,
    };
    let watched = match &condition.probe {
        Probe::Along(name, at) => {
            check_layer(*at, model.card.layers)?;
            model.offers(*at)?;
            // What an overlay changes comes later than the neurons it is addressed by.
            if let Some(early) = places.iter().find(|place| !at.seen_by(**place)) {
                return Err(refused(format!(
                    "its condition looks at {at}, which the pass reaches only after {early}. Look at an earlier address."
                )));
            }
            let vector = shelf.direction(name, *at)?;
            let width = model.width(at.site);
            if vector.len() != width {
                return Err(refused(format!(
                    "direction `{name}` has {} numbers and {at} has {width}",
                    vector.len()
                )));
            }
            let vector = Tensor::new(unit(&vector), &model.transformer.device)?;
            Watched::Along(*at, vector)
        }
        Probe::Probability(text) => Watched::Probability(shelf.token(text)?),
    };
    Ok(Some(Watch::new(condition.clone(), watched)))
}

/// The addresses of an edit, and what to know about its directions. An edit of every layer means those that its
/// direction has vectors for, as llama.cpp steers the layers of a file and no others; a named layer without one is an
/// error when it is prepared.
fn places(edit: &Edit, layers: usize, shelf: &mut Shelf) -> Result<(Vec<Address>, String)> {
    let all = edit.place.addresses(layers)?;
    let names = edit.op.argument().mentions().directions;
    let names: Vec<&str> = names.into_iter().flatten().collect();
    let mut cautions: Vec<String> = Vec::new();
    for name in &names {
        let caution = shelf.caution(name)?;
        if !caution.is_empty() && !cautions.contains(&caution) {
            cautions.push(caution);
        }
    }
    let (mut held, mut missing) = (Vec::new(), Vec::new());
    for at in &all {
        let mut here = true;
        for name in &names {
            here &= shelf.has(name, *at)?;
        }
        if here {
            held.push(*at);
        } else {
            missing.push(at.to_string());
        }
    }
    if !matches!(edit.place, Place::Every(_)) || held.is_empty() {
        return Ok((all, cautions.join("; ")));
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        cautions.push(format!("no vector for {missing}, left as it is"));
    }
    Ok((held, cautions.join("; ")))
}
