//! Compiles a schedule of edits into a program: at which addresses each edit acts, and under which condition.
//!
//! Invariant: an edit that this model cannot carry out is refused before the first pass. `lab/named_vectors.rs` finds the
//! vectors and sets that edits name; `lab/prepare.rs` prepares the change of a value. To let an edit depend on something else,
//! add it here.

use std::sync::Arc;

use candle_core::Tensor;

use super::apply::{EditAtAddress, Program};
use super::capture::{After, Output};
use super::circuit::means::{MeanCircuit, MeanStreams};
use super::conditions::{ConditionWatch, FeatureWatch, Watched};
use super::feature_edits::{prepare_features, prepare_splice};
use super::lab::Lab;
use super::named_vectors::NamedVectors;
use super::only::{CircuitRule, OnlyCircuit, refused_beside};
use super::pass::Pass;
use super::prepare::{Placed, prepare};
use super::run::Run;
use crate::edit::condition::ConditionProbe;
use crate::edit::direction::unit;
use crate::edit::op::{CircuitName, CutEdges, Op, UnitChoice};
use crate::edit::schedule::Schedule;
use crate::edit::{Edit, EditPlace};
use crate::error::{Error, Result};
use crate::model::network::site::{Address, check_layer};

impl Lab {
    /// Compiles the edits of a run, or its control. A program whose edits depend on the tokens of the prompt refuses any other prompt.
    pub fn compile(&mut self, run: &Run) -> Result<Program> {
        let schedule = &run.schedule;
        if schedule.is_idle() && schedule.latest().is_empty() {
            return Ok(Program::default());
        }
        let schedule = &schedule.on(&self.model.card.blueprint)?;
        let given = run.given();
        let mut named = NamedVectors::new(self, &given);
        let mut program = program(schedule, run.prompt, &mut named)?;
        if schedule.reads_prompt() || schedule.random.is_some() {
            program.bind(given);
        }
        if program.asks_probability() && !run.tokens.is_empty() {
            let output = Output {
                after: After::Each(0..run.tokens.len()),
                tokens: program.watched_tokens(),
                ..Output::default()
            };
            let plain = self.run_one(&Pass::after(run.unedited(), output))?;
            for (position, stats) in plain.output.iter().enumerate() {
                program.set_base_log_probs(position, stats);
            }
        }
        Ok(program)
    }
}

/// Compiles a schedule for a run whose prompt has `prompt` tokens. Receipts come in the order of the edits of the latest stage;
/// an edit that is also in earlier stages has one receipt for all of them.
fn program(schedule: &Schedule, prompt: usize, named: &mut NamedVectors) -> Result<Program> {
    let control = schedule.random;
    let pieces = named.prompt_bytes();
    let mut program = Program::after(prompt);
    for edit in schedule.latest() {
        program.receipt_for(edit);
    }
    for (span, edits) in schedule.spans() {
        for edit in edits.iter().filter(|e| e.active()) {
            let receipt = program.receipt_for(edit);
            let mut resolved = edit.clone();
            resolved.positions = edit.positions.resolve(&pieces)?;
            if let Op::Cut(CutEdges(_, sources)) = &mut resolved.op {
                *sources = sources.resolve(&pieces)?;
            }
            let (places, caution) = places(edit, named)?;
            program.remark(receipt, caution);
            let watched = watch(&resolved, &places, named)?;
            let watch = watched.map(|watch| {
                program.watches.push(watch);
                program.watches.len() - 1
            });
            let rule = (resolved.clone(), span.clone(), watch);
            program.tallies[receipt].rules.push(rule);
            if let Op::Only(CircuitName(name)) = &edit.op {
                let rule = CircuitRule {
                    edit: resolved,
                    receipt,
                    span: span.clone(),
                    watch,
                };
                let alone = edits
                    .iter()
                    .filter(|e| e.active() && e.op.is_only())
                    .count()
                    == 1;
                let (circuit, note) = only(edit, name, alone, named, control)?;
                program.remark(receipt, note);
                program.receipts[receipt].keeps = true;
                if control.is_some() {
                    program.receipts[receipt].control_is =
                        "a random circuit with as many edges into every block".into();
                }
                let circuit = OnlyCircuit::new(circuit, edit.strength, Some(rule));
                program.circuits.push(circuit);
                continue;
            }
            let under = edits.iter().find(|e| e.active() && e.op.is_only());
            for at in places {
                named.lab.model.offers(at)?;
                let Some(ready) = ready(&resolved, at, named, control)? else {
                    continue;
                };
                let Placed {
                    at: place,
                    reads,
                    change,
                    note,
                    control,
                } = ready;
                named.lab.model.offers(place)?;
                if let Some(under) = under {
                    for at in reads.iter().chain([&place]) {
                        beside(edit, under, *at)?;
                    }
                }
                program.remark(receipt, note);
                program.receipts[receipt].control_is = control;
                for read in reads.into_iter().filter(|read| *read != place) {
                    named.lab.model.offers(read)?;
                    program.remembered.insert(read, None);
                }
                program.acts.entry(place).or_default().push(EditAtAddress {
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

/// The circuit that an edit leaves alone, and a note for its receipt. `alone`: no other edit of its stage does the same.
fn only(
    edit: &Edit,
    name: &str,
    alone: bool,
    named: &NamedVectors,
    control: Option<u64>,
) -> Result<(MeanCircuit, String)> {
    let refused = |why: &str| {
        Err(Error::BadEdit {
            edit: edit.to_string(),
            why: why.into(),
        })
    };
    if !alone {
        return refused(
            "two circuits are switched on at once, and each would leave itself alone. Switch one of them off",
        );
    }
    if !edit.op.strengths().contains(&edit.strength) {
        return refused(
            "its strength is how far everything outside the circuit is moved to its mean: a number from 0 to 1",
        );
    }
    let model = &named.lab.model;
    let saved = named.lab.saved_circuit(name)?;
    let edges = match control {
        None => saved.edges.clone(),
        Some(seed) => Arc::new(saved.edges.random_like(&saved.graph, seed)),
    };
    let streams = MeanStreams::new(saved.graph, saved.means.clone(), model)?;
    let circuit = MeanCircuit {
        edges,
        streams: Arc::new(streams),
    };
    Ok((circuit, saved.about()))
}

/// Refuses an edit that has no meaning where another leaves a circuit alone.
fn beside(edit: &Edit, under: &Edit, at: Address) -> Result<()> {
    match refused_beside(at.site) {
        None => Ok(()),
        Some(why) => Err(Error::BadEdit {
            edit: edit.to_string(),
            why: format!("it cannot act beside `{under}`: {why}"),
        }),
    }
}

/// An edit prepared for one of its addresses; none where its unit set has nothing there.
fn ready(
    edit: &Edit,
    at: Address,
    named: &mut NamedVectors,
    control: Option<u64>,
) -> Result<Option<Placed>> {
    let mentioned = edit.op.argument().mentions();
    if let Some(UnitChoice::Features(features)) = mentioned.units {
        return prepare_features(edit, features, at, named, control).map(Some);
    }
    match mentioned.dictionary {
        Some(name) => prepare_splice(edit, name, at, named, control).map(Some),
        None => prepare(edit, at, named, control),
    }
}

/// The watch that measures an edit's condition; none for an edit without one. Every edit has a watch of its own, even where two
/// conditions are equal.
fn watch(
    edit: &Edit,
    places: &[Address],
    named: &mut NamedVectors,
) -> Result<Option<ConditionWatch>> {
    let Some(condition) = &edit.when else {
        return Ok(None);
    };
    let refused = |why: String| Error::BadEdit {
        edit: edit.to_string(),
        why,
    };
    let watched = match &condition.probe {
        ConditionProbe::Along(name, at) => {
            check_layer(*at, named.lab.model.card.layers)?;
            named.lab.model.offers(*at)?;
            // An overlay is addressed by `mlp_act` but changes `mlp_out`, so the place that decides is where the change is
            // made.
            if let Some(early) = places.iter().find(|place| !at.seen_by(**place)) {
                return Err(refused(format!(
                    "its condition reads {at}, which the forward pass reaches only after {early}. Use an earlier address."
                )));
            }
            let vector = named.direction(name, *at)?;
            let width = named.lab.model.width(at.site);
            if vector.len() != width {
                return Err(refused(format!(
                    "direction `{name}` has {} numbers and {at} has {width}",
                    vector.len()
                )));
            }
            let device = named.lab.model.transformer.placement.device_at(*at);
            let vector = Tensor::new(unit(&vector), device)?;
            Watched::Along(*at, vector)
        }
        ConditionProbe::Feature(feature) => {
            let dictionary = named.lab.dictionary_of(feature)?;
            let reads = dictionary.reads().to_vec();
            for at in &reads {
                named.lab.model.offers(*at)?;
                if let Some(early) = places.iter().find(|place| !at.seen_by(**place)) {
                    return Err(refused(format!(
                        "its condition reads {at}, as `{}` does, which the forward pass reaches only after {early}. Use a later address for the edit.",
                        dictionary.name()
                    )));
                }
            }
            Watched::Feature(FeatureWatch::new(
                reads,
                dictionary.reader(&feature.numbers)?,
            ))
        }
        ConditionProbe::Probability(text) => Watched::Probability(named.token(text)?),
    };
    Ok(Some(ConditionWatch::new(condition.clone(), watched)))
}

/// The addresses at which an edit acts, and cautions about its directions. An edit of every layer acts only where its direction
/// has a vector, as llama.cpp steers only the layers that a file contains; if a layer is named and has no vector, [`prepare`]
/// returns an error.
fn places(edit: &Edit, named: &mut NamedVectors) -> Result<(Vec<Address>, String)> {
    let mut all = edit.place.addresses(named.lab.model.card.layers)?;
    if matches!(edit.place, EditPlace::Every(_)) {
        let writes = named.written_by(edit)?;
        // Where none of them is written to, preparing says so.
        if writes.iter().any(|write| all.contains(write)) {
            all.retain(|at| writes.contains(at));
        }
    }
    let names = edit.op.argument().mentions().directions;
    let names: Vec<&str> = names.into_iter().flatten().collect();
    let mut cautions: Vec<String> = Vec::new();
    for name in &names {
        let caution = named.caution(name)?;
        if !caution.is_empty() && !cautions.contains(&caution) {
            cautions.push(caution);
        }
    }
    let (mut held, mut missing) = (Vec::new(), Vec::new());
    for at in &all {
        let mut here = true;
        for name in &names {
            here &= named.has_vector(name, *at)?;
        }
        if here {
            held.push(*at);
        } else {
            missing.push(at.to_string());
        }
    }
    if !matches!(edit.place, EditPlace::Every(_)) || held.is_empty() {
        return Ok((all, cautions.join("; ")));
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        cautions.push(format!("no vector for {missing}, which stays unedited"));
    }
    Ok((held, cautions.join("; ")))
}
