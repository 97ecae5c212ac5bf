//! Receipts with effects: how far each edit alone moves the model's output, with its controls.
//!
//! Every KL is KL(unedited ‖ edited) in nats on the same tokens, over the last positions. The controls are several draws of a random
//! direction of equal norm or of random units of nearly the same activation rank, and the same edit on an unrelated text. The draws
//! ride one batch, which shares the blocks below the edit. Invariant: all random choices are seeded, and the seed is in the receipt. To add a control, add a field to [`Receipt`] and measure it here.

use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::IndexedRandom;

use super::capture::{After, Capture, Output};
use super::draws::{DRAWS, draw_seed};
use super::lab::Lab;
use super::pass::{Pass, PassRow};
use super::readout::RowStats;
use super::run::Run;
use super::sample::Sampling;
use super::writer::{BaselineMode, Writer};
use crate::edit::Edit;
use crate::edit::receipt::{Receipt, mean};
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::network::finite;
use crate::model::tokenizer::{Bos, Tokenizer};

/// The largest number of positions whose logits are compared.
const WINDOW: usize = 64;

/// The largest length of an unrelated text, in tokens.
const UNRELATED: usize = 32;

/// How far a row moved the output.
#[derive(Default)]
struct MovedOutput {
    /// KL from the unedited run after each of the last positions.
    kl: Vec<f32>,
    /// What a control is, where that was chosen.
    is: String,
    /// The receipts of the row's edits.
    own: Vec<Receipt>,
}

impl Lab {
    /// Receipts of a run's edits with KL and control KL: each edit is measured alone, on the same tokens.
    ///
    /// # Errors
    ///
    /// Those of the passes.
    pub fn receipts(&mut self, run: &Run) -> Result<Vec<Receipt>> {
        self.receipts_of_draws(run, DRAWS)
    }

    /// The same with so many draws of the control.
    ///
    /// # Errors
    ///
    /// Those of the passes.
    pub fn receipts_of_draws(&mut self, run: &Run, count: usize) -> Result<Vec<Receipt>> {
        let program = self.compile(run)?;
        if program.is_idle() {
            return Ok(program.receipts().to_vec());
        }
        let plain = self.whole(&run.unedited())?;
        // An edit that is alone has its counts from the pass that measures it.
        let single = program.receipts().iter().filter(|r| r.active).count() == 1;
        let mut receipts = if single {
            program.receipts().to_vec()
        } else {
            // Lenient, so that a receipt can report that its edit makes the numbers overflow.
            let edited = self.run_one(&Pass {
                lenient: true,
                ..Pass::after(run.clone(), Output::top(1))
            })?;
            edited.receipts
        };
        let mut unrelated = self.unrelated(run.seed, run.tokens.len().min(UNRELATED))?;
        // The unrelated text has the same share of prompt as the run, so that an edit of one phase (prefill or decode) has
        // positions in both.
        let (total, length) = (run.tokens.len(), unrelated.tokens.len());
        unrelated.prompt = (run.prompt * length).div_ceil(total.max(1)).min(length);
        let elsewhere = self.whole(&unrelated)?;
        for receipt in receipts.iter_mut().filter(|r| r.active) {
            let mut alone = run.schedule.clone();
            for stage in &mut alone.stages {
                stage.edits.retain(|e| e.id == receipt.id);
            }
            let draws = self.control_draws(&alone, count)?;
            let mut measured = self.moved(run, &alone, draws.count, &plain)?.into_iter();
            let MovedOutput { kl: moved, own, .. } = measured.next().unwrap_or_default();
            if let Some(own) = own.into_iter().find(|own| single && own.id == receipt.id) {
                *receipt = own;
            }
            let first = run.tokens.len() - moved.len();
            receipt.kl = Some(mean(&moved));
            receipt.prompt = run.prompt;
            receipt.not_finite |= !finite::all(&moved);
            receipt.positions = moved
                .into_iter()
                .enumerate()
                .map(|(i, kl)| (first + i, kl))
                .collect();
            receipt.seed = run.seed;
            receipt.no_control = draws.why;
            for MovedOutput { kl, is, .. } in measured {
                receipt.draws.push(mean(&kl));
                receipt.control_is = is;
            }
            receipt.control = (!receipt.draws.is_empty()).then(|| mean(&receipt.draws));
            // On the unrelated text the edit is in force from the first position on, whatever its stage in the run.
            let always = Schedule::always(
                alone
                    .stages
                    .iter()
                    .filter_map(|s| s.edits.first())
                    .take(1)
                    .cloned()
                    .collect(),
            );
            let covers = |e: &Edit| (0..length).any(|p| e.covers(p, unrelated.prompt));
            // If none of the edit's positions exists in the unrelated text, there is nothing to compare.
            let placed = always
                .latest()
                .iter()
                .all(|e| e.reads_prompt() || covers(e));
            receipt.elsewhere = match self.moved(&unrelated, &always, 0, &elsewhere) {
                Ok(found) => (placed.then_some(found)).and_then(|f| Some(mean(&f.first()?.kl))),
                // Fails, for example, if a position is named by a text that only the prompt contains.
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(_) => None,
            };
            receipt.not_finite |= receipt.elsewhere.is_some_and(|kl| !kl.is_finite());
            if let Some(cost) = self.splice_cost(run, &alone, WINDOW)? {
                let before = std::mem::take(&mut receipt.note);
                let both = [cost, before].into_iter().filter(|note| !note.is_empty());
                receipt.note = both.collect::<Vec<_>>().join("; ");
            }
        }
        Ok(receipts)
    }

    /// Whole rows of logits at the last positions of a run.
    fn whole(&mut self, run: &Run) -> Result<Arc<Vec<Vec<RowStats>>>> {
        let output = Output::whole(After::Last(WINDOW));
        let read = self.run_one(&Pass::after(run.clone(), output))?;
        Ok(Arc::new(vec![read.output]))
    }

    /// KL(plain ‖ run under this schedule) at each of the last positions of a run, then the same in so many draws of the control,
    /// each with what the control is where that was chosen.
    fn moved(
        &mut self,
        run: &Run,
        schedule: &Schedule,
        draws: usize,
        plain: &Arc<Vec<Vec<RowStats>>>,
    ) -> Result<Vec<MovedOutput>> {
        let run = Run {
            schedule: schedule.clone(),
            ..run.clone()
        };
        let output = Output {
            after: After::Last(WINDOW),
            kl: Some(plain.clone()),
            ..Output::default()
        };
        let control = |draw| schedule.control(draw_seed(run.seed, draw));
        let drawn = (0..draws).map(|draw| PassRow::edited(control(draw)));
        let rows = std::iter::once(PassRow::default()).chain(drawn).collect();
        let read = self.run(&Pass {
            rows,
            lenient: true,
            ..Pass::after(run, output)
        })?;
        let of = |row: &Capture| {
            // Overflow in a quantized product may come out as finite but meaningless numbers, so the receipt decides.
            let broken = row.receipts.iter().any(|r| r.not_finite);
            let kl = |stats: &RowStats| if broken { f32::NAN } else { stats.kl };
            let mut is = row.receipts.iter().map(|r| r.control_is.clone());
            let is = is.rfind(|is| !is.is_empty()).unwrap_or_default();
            MovedOutput {
                kl: row.output.iter().map(kl).collect(),
                is,
                own: row.receipts.clone(),
            }
        };
        Ok(read.iter().map(of).collect())
    }

    /// A text unrelated to the prompt, for controls: what the model generates at temperature 1 after its begin token, or after
    /// a random token if it has none. Seeded.
    pub fn unrelated(&mut self, seed: u64, length: usize) -> Result<Run> {
        let known: Vec<u32> = (0..self.model.known_tokens() as u32).collect();
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let drawn = known.choose(&mut rng).copied().unwrap_or(0);
        let begins = |tokenizer: &Tokenizer| tokenizer.encode("", Bos::Add).ok();
        let first = self.model.tokenizer.as_ref().and_then(begins);
        let first = first.and_then(|tokens| tokens.first().copied());
        if let Some((key, run)) = &self.unrelated
            && *key == (seed, length)
        {
            return Ok(run.clone());
        }
        let sampling = Sampling {
            temperature: 1.0,
            seed,
            ..Sampling::default()
        };
        let start = vec![first.unwrap_or(drawn)];
        let mut writer = Writer::begin_with_baseline(
            self,
            start,
            Schedule::none(),
            sampling,
            BaselineMode::Nothing,
        )?;
        while writer.run.tokens.len() < length && writer.has_room(self) {
            writer.step(self, &[])?;
        }
        let run = Run::plain(writer.run.tokens);
        self.unrelated = Some(((seed, length), run.clone()));
        Ok(run)
    }
}
