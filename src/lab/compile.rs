//! From a schedule to a program: what edits need is measured or found first, because it needs passes of its own.
//!
//! Invariant: a mean, another text and the sizes for a null are those of unedited runs. To serve an edit that needs
//! something else, gather it in [`Bench::compile`] and hand it out in `lab/shelf.rs`.

use std::collections::HashMap;

use candle_core::DType;

use super::apply::{Null, Program};
use super::bench::Bench;
use super::prepare::{sizes, unit_size};
use super::run::Run;
use super::shelf::Shelf;
use crate::edit::op::Op;
use crate::edit::{Edit, What, Which};
use crate::error::Result;
use crate::model::network::site::Address;

/// What was measured for a program.
#[derive(Default)]
pub(crate) struct Measured {
    /// Means over the prompt, and over what they were taken.
    pub(crate) means: HashMap<Address, (Vec<f32>, String)>,
    /// Addresses on other texts, `[positions * width]`, and which texts.
    pub(crate) others: HashMap<(String, Address), (Vec<f32>, String)>,
    /// How large units are.
    pub(crate) sizes: HashMap<Address, Vec<f32>>,
}

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
        let mut program =
            Program::compile(schedule, run.prompt, &pieces, &self.model, &mut shelf, null)?;
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
        match &edit.what {
            What::Units(_) if edit.op == Op::Mean && !measured.means.contains_key(&at) => {
                let mean = self.mean(at, prompt)?;
                measured.means.insert(at, mean);
            }
            What::UnitsAsIn(_, text) => {
                let other = self.other(text, at)?;
                measured.others.insert((text.clone(), at), other);
            }
            _ => {}
        }
        let drawn = edit.op != Op::Cut && edit.which().is_some_and(|which| *which != Which::All);
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
