//! The lab: what an instrument may ask for: record, unembed, continue, compare, within a byte budget.
//!
//! Invariant: every answer belongs to a [`Run`] and is the same however often it is asked for; recordings are
//! dropped, oldest first, when the budget is full. To add a question, add a method that instruments share.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use rayon::prelude::*;

use super::guard::{Guard, not_finite};
use super::pass::{Logits, Pass};
use super::progress::WorkProgress;
use super::run::{Recording, Run};
use super::sample::{NO_TOKEN, log_sum_exp, top};
use super::shared::SharedRun;
use super::target::Target;
use super::unfinished::Unfinished;
use super::value_card::ValueCards;
use crate::edit::Edit;
use crate::edit::direction::Direction;
use crate::edit::unit_set::UnitSet;
use crate::error::{Error, Result};
use crate::figure::{Header, Provenance};
use crate::file::Overwrite;
use crate::model::hub::Watch;
use crate::model::load::{Options, load_watched};
use crate::model::network::finite::NOT_FINITE;
use crate::model::network::site::Address;
use crate::model::{Fingerprint, Model};
use crate::text;

/// Bytes of recordings that are kept, unless told otherwise.
const BUDGET: usize = 512 << 20;

/// Rows that go through the unembedding at once.
const CHUNK: usize = 64;

/// One row of logits, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The strongest tokens and their probabilities.
    pub top: Vec<(u32, f32)>,
}

/// A model on the lab.
pub struct Lab {
    /// The model.
    pub model: Model,
    /// Directions that edits can name.
    pub directions: HashMap<String, Direction>,
    /// Named groups of units.
    pub sets: HashMap<String, UnitSet>,
    /// Raised to stop what runs, within a layer.
    pub cancel: Arc<AtomicBool>,
    /// The run whose own strongest tokens are "the answer", where it is not the run that is read: a difference of two runs
    /// is of one token in both.
    pub answers_of: Option<Run>,
    /// How far the work is, and who is told.
    pub progress: WorkProgress,
    /// Whether files that an instrument saves may take the place of others.
    pub overwrite: Overwrite,
    /// Sweeps that were stopped, to go on with.
    pub unfinished: Unfinished,
    /// Positions a second of the latest whole pass; none before the first one.
    pub pace: Option<f32>,
    /// Value cards.
    pub cards: ValueCards,
    /// Bytes of recordings that are kept, and of attention that is recorded at once.
    pub budget: usize,
    /// The text of the null, by seed and length.
    pub(crate) unrelated: Option<((u64, usize), Run)>,
    kept: Vec<(u64, Arc<Recording>)>,
    /// Runs that passes go on from, the latest last.
    pub(crate) shared_runs: Vec<Arc<SharedRun>>,
    /// Tokens as safe visible text, filled as they are asked for.
    spelled: Vec<OnceLock<String>>,
}

impl Lab {
    /// A lab for a model, with the directions that belong to it.
    pub fn new(model: Model) -> Self {
        let spelled = (0..model.card.vocab).map(|_| OnceLock::new()).collect();
        Self {
            spelled,
            model,
            directions: HashMap::new(),
            sets: HashMap::new(),
            unrelated: None,
            cancel: Arc::new(AtomicBool::new(false)),
            answers_of: None,
            progress: WorkProgress::default(),
            overwrite: Overwrite::Never,
            unfinished: Unfinished::default(),
            pace: None,
            cards: ValueCards::default(),
            budget: BUDGET,
            kept: Vec::new(),
            shared_runs: Vec::new(),
        }
    }

    /// Loads the model that an argument names, with the directions that come with it.
    pub fn open(given: &str, options: &Options) -> Result<Self> {
        Self::with(crate::model::load::load(given, options)?)
    }

    /// The same, watched: a model that the cache lacks is downloaded first.
    pub fn open_watched(given: &str, options: &Options, watch: &mut Watch<'_>) -> Result<Self> {
        Self::with(load_watched(given, options, watch)?)
    }

    fn with(model: Model) -> Result<Self> {
        let mut lab = Self::new(model);
        for (name, bytes) in crate::edit::direction::embedded() {
            let direction = Direction::parse(bytes, std::path::Path::new(name))?;
            if direction.origin.revision == lab.model.card.revision {
                lab.directions.insert((*name).to_string(), direction);
            }
        }
        Ok(lab)
    }

    /// Does work and tells somebody how far it is.
    pub fn told<T>(
        &mut self,
        listener: impl FnMut(f32) + 'static,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.under(WorkProgress::told(listener), work)
    }

    /// Does one part of what is being done: `share` of it, from 0 to 1.
    pub fn part<T>(&mut self, share: Range<f32>, work: impl FnOnce(&mut Self) -> T) -> T {
        self.under(self.progress.split(share), work)
    }

    /// Does work that tells nobody how far it is, because who asked for it does.
    pub fn untold<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        self.under(WorkProgress::default(), work)
    }

    fn under<T>(&mut self, progress: WorkProgress, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.progress, progress);
        let out = work(self);
        self.progress = before;
        out
    }

    /// Tells how far the work is, `done` of its part, and stops it if the user asked.
    pub fn report(&self, done: f32) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        self.progress.tell(done);
        Ok(())
    }

    /// Runs the tokens in one pass and keeps the values at `wanted`, all positions.
    /// Sites after the last block cost an unembedding of every position.
    pub fn record(&mut self, run: &Run, wanted: &[Address]) -> Result<Arc<Recording>> {
        self.model.check_prompt(&run.tokens)?;
        wanted.iter().try_for_each(|a| self.model.offers(*a))?;
        let key = self.key(run);
        if let Some((_, held)) = self.kept.iter().find(|(k, r)| *k == key && r.holds(wanted)) {
            return Ok(held.clone());
        }
        let since = std::time::Instant::now();
        let read = self.run_one(&recorded(run, wanted))?;
        let recording = Arc::new(read.recording(false));
        let seconds = since.elapsed().as_secs_f32();
        self.pace = Some(run.tokens.len() as f32 / seconds.max(f32::MIN_POSITIVE));
        self.keep(key, recording.clone());
        Ok(recording)
    }

    /// As [`Lab::record`], with the model's own logits after the last position, of the same pass.
    pub fn record_with_output(
        &mut self,
        run: &Run,
        wanted: &[Address],
    ) -> Result<(Arc<Recording>, Vec<f32>)> {
        self.model.check_prompt(&run.tokens)?;
        wanted.iter().try_for_each(|a| self.model.offers(*a))?;
        let key = self.key(run);
        let held = self.kept.iter().find_map(|(k, r)| {
            let output = r.output.clone().filter(|_| *k == key && r.holds(wanted))?;
            Some((r.clone(), output))
        });
        if let Some(held) = held {
            return Ok(held);
        }
        let read = self.run_one(&Pass {
            logits: Logits::Last(1),
            ..recorded(run, wanted)
        })?;
        let recording = Arc::new(read.recording(true));
        self.keep(key, recording.clone());
        let output = recording.output.clone().unwrap_or_default();
        Ok((recording, output))
    }

    /// Of how many layers attention `[heads, tokens, tokens]` may be recorded at once, so that a long text or a large model does
    /// not take the memory of the machine; at least one.
    pub fn attention_layers(&self, tokens: usize) -> usize {
        let bytes = 4 * self.model.card.heads * tokens * tokens;
        (self.budget / bytes.max(1)).max(1)
    }

    /// What a recording is kept under: tokens, edits, and what the names in them mean now.
    pub(crate) fn key(&self, run: &Run) -> u64 {
        let edits = run.schedule.stages.iter().flat_map(|stage| &stage.edits);
        let names = edits.filter(|e| e.active()).flat_map(Edit::names);
        let names: Vec<String> = names.map(ToString::to_string).collect();
        if names.is_empty() {
            return run.digest();
        }
        let mut digest = Fingerprint::default();
        digest.write(&run.digest().to_le_bytes());
        self.meanings(&names, &mut digest);
        digest.finish()
    }

    fn keep(&mut self, key: u64, recording: Arc<Recording>) {
        self.kept.push((key, recording));
        while self.kept.len() > 1
            && self.kept.iter().map(|(_, r)| r.bytes()).sum::<usize>() > self.budget
        {
            self.kept.remove(0);
        }
    }

    /// As [`Lab::record`] where the numbers are not finite, for those who want to look at them all the same.
    pub fn record_as_is(&mut self, run: &Run, wanted: &[Address]) -> Result<Recording> {
        let pass = Pass {
            lenient: true,
            ..recorded(run, wanted)
        };
        Ok(self.run_one(&pass)?.recording(false))
    }

    /// The model's own logits after the last position of a run: `[vocab]`.
    pub fn last_logits(&mut self, run: &Run) -> Result<Vec<f32>> {
        let mut read = self.run_one(&Pass {
            logits: Logits::Last(1),
            ..Pass::of(run.clone())
        })?;
        Ok(read.logits.pop().unwrap_or_default())
    }

    /// Natural log-probabilities of the model after each of the last positions of a run: `[n][vocab]`.
    pub fn log_probs(&mut self, run: &Run, window: usize) -> Result<Vec<Vec<f32>>> {
        let read = self.run_one(&Pass {
            logits: Logits::Last(window),
            ..Pass::of(run.clone())
        })?;
        Ok(read.log_probs())
    }

    /// The strongest `k` tokens of each residual row `[n, d_model]`, through final norm and unembedding.
    pub fn read(&mut self, rows: &Tensor, k: usize) -> Result<Vec<Reading>> {
        let count = rows.dim(0)?;
        let known = self.model.known_tokens();
        let mut out = Vec::with_capacity(count);
        let mut start = 0;
        while start < count {
            self.report(start as f32 / count as f32)?;
            let size = CHUNK.min(count - start);
            let logits = self.unembedded(&rows.narrow(0, start, size)?)?;
            out.par_extend(logits.into_par_iter().map(|row| reading(&row, known, k)));
            if out.iter().any(|read| read.top.is_empty()) {
                return Err(self.not_finite("The logits of the residual stream are"));
            }
            start += size;
        }
        Ok(out)
    }

    /// What final norm and unembedding make of residual rows `[n, d_model]`: logits `[n][vocab]`.
    pub fn unembedded(&self, rows: &Tensor) -> Result<Vec<Vec<f32>>> {
        Ok(self.model.transformer.unembed(rows)?.to_vec2()?)
    }

    /// The guard of a pass.
    pub fn guard(&self) -> Guard<'_> {
        Guard::new(&self.model.transformer, &self.cancel)
    }

    /// The error for what is read of the model alone and is not finite; `place` begins the sentence: "Its logits are".
    pub fn not_finite(&self, place: &str) -> Error {
        not_finite(&self.model.transformer, place)
    }

    /// A token alone, as safe visible text.
    pub fn visible(&self, id: u32) -> String {
        if id == NO_TOKEN {
            return NOT_FINITE.into();
        }
        let spell = || text::visible(&self.model.bytes(id));
        let held = self.spelled.get(id as usize);
        held.map_or_else(spell, |cell| cell.get_or_init(spell).clone())
    }

    /// Tokens alone, as safe visible text with blanks between.
    pub fn visibles(&self, ids: impl IntoIterator<Item = u32>) -> String {
        let words: Vec<String> = ids.into_iter().map(|id| self.visible(id)).collect();
        words.join(" ")
    }

    /// The top prediction of a row of logits; [`NO_TOKEN`] where the row is no distribution.
    pub fn top_token(&self, logits: &[f32]) -> u32 {
        reading(logits, self.model.known_tokens(), 1).first().0
    }

    /// The titles of positions: their tokens.
    pub fn headers(&self, run: &Run, positions: impl IntoIterator<Item = usize>) -> Vec<Header> {
        let header = |p: usize| Header::token(self.visible(run.tokens[p]), p);
        positions.into_iter().map(header).collect()
    }

    /// What a figure of this run was measured on.
    pub fn provenance(&self, run: &Run, parameters: Vec<(String, String)>) -> Provenance {
        let card = &self.model.card;
        Provenance {
            model: card.name.clone(),
            revision: card.revision.clone(),
            dtype: card.dtype.into(),
            device: card.device.clone(),
            tokens: run.tokens.clone(),
            edits: run.schedule.lines(),
            seed: run.seed,
            parameters,
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

impl Target {
    /// Safe visible text.
    pub fn spell(self, lab: &Lab) -> String {
        match self.less {
            None => lab.visible(self.token),
            Some(less) => format!("{} − {}", lab.visible(self.token), lab.visible(less)),
        }
    }
}

/// A run of which every position is recorded.
fn recorded(run: &Run, wanted: &[Address]) -> Pass {
    Pass {
        record: wanted.to_vec(),
        ..Pass::of(run.clone())
    }
}

impl Reading {
    /// The strongest token and its probability, [`NO_TOKEN`] and not-a-number where the row is no distribution.
    pub fn first(&self) -> (u32, f32) {
        self.top.first().copied().unwrap_or((NO_TOKEN, f32::NAN))
    }
}

/// Softmax statistics and the strongest tokens of one row of logits.
pub fn reading(row: &[f32], known: usize, k: usize) -> Reading {
    let total = log_sum_exp(row);
    Reading {
        top: top(row, known, k)
            .into_iter()
            .map(|(id, z)| (id, (z - total).exp()))
            .collect(),
    }
}
