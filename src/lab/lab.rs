//! The lab: a model and the questions that instruments share: record, unembed, continue, compare, within a byte budget.
//!
//! Invariant: every answer belongs to a [`Run`] and is the same however often it is asked for; when the budget is full, the
//! oldest captures are dropped first. To add a question, add a method here if several instruments need it.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use candle_core::Tensor;

use super::capture::{After, Capture, Output};
use super::circuit::{self, file::SavedCircuit};
use super::features::FeatureDictionary;
use super::finite_guard::{Guard, not_finite};
use super::pass::{Pass, ReadPrefix, SharedRun};
use super::progress::{UnfinishedSweeps, WorkProgress};
use super::readout::{RowRequest, RowStats, read};
use super::run::Run;
use super::sample::NO_TOKEN;
use super::target::LogitTarget;
use crate::edit::Edit;
use crate::edit::direction::Direction;
use crate::edit::relation_map::RelationMap;
use crate::edit::schedule::Schedule;
use crate::edit::unit_set::UnitSet;
use crate::error::{Error, Result};
use crate::figure::{AxisLabel, Provenance};
use crate::file::Overwrite;
use crate::model::hub::DownloadWatch;
use crate::model::load::{Options, load_watched};
use crate::model::network::finite::NOT_FINITE;
use crate::model::network::site::Address;
use crate::model::{Fingerprint, Model};
use crate::text;

/// The default memory budget of the lab in bytes, in addition to the model. It is one number, so that a machine that runs the
/// model runs every instrument: captures and shared runs are kept within it ([`Lab::make_room`]), and what a pass allocates at
/// once takes half of it ([`Lab::room`]). Beyond this size larger batches are no faster.
const BUDGET: usize = 512 << 20;

/// Opens the dictionary of a name or path on the lab's model: one, or a set with one for each of several layers.
pub type OpenDictionary = fn(&Lab, &str) -> Result<Vec<Arc<dyn FeatureDictionary>>>;

/// A model, with what is kept between passes.
pub struct Lab {
    pub model: Model,
    /// Directions that edits can name.
    pub directions: HashMap<String, Direction>,
    /// Named groups of units.
    pub sets: HashMap<String, UnitSet>,
    /// Relation maps that edits can name.
    pub relations: HashMap<String, Arc<RelationMap>>,
    /// Saved circuits that edits can name.
    pub circuits: HashMap<String, Arc<SavedCircuit>>,
    /// What opens the dictionaries whose features edits can name; none in a lab that was made without.
    pub open_dictionary: Option<OpenDictionary>,
    /// Raised to stop the work in progress; it stops within a layer.
    pub cancel: Arc<AtomicBool>,
    /// Which part of a piece of work is being done, and the listener that is told.
    pub progress: WorkProgress,
    /// The folder with the user's config.toml; none for no settings.
    pub config: Option<PathBuf>,
    /// Whether files that an instrument saves may overwrite existing ones.
    pub overwrite: Overwrite,
    /// Stopped sweeps, with the results so far, so that they can be resumed.
    pub unfinished: UnfinishedSweeps,
    /// Hears what long work will take before it begins, where somebody wants to know.
    pub announce: Option<fn(&str)>,
    /// Speed of the latest whole pass in positions a second; none before the first one.
    pub pace: Option<f32>,
    /// The memory budget in bytes for captures and shared runs; a pass may allocate half of it at once.
    pub budget: usize,
    /// The unrelated text of the control, with the seed and length it was made for.
    pub(crate) unrelated: Option<((u64, usize), Run)>,
    captures: Vec<(u64, Arc<Capture>)>,
    /// What instruments derive from the weights, one value for each type.
    derived: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
    /// Runs that later passes can continue from, the latest last.
    pub(crate) shared_runs: Vec<Arc<SharedRun>>,
    /// The beginning that the texts being read have in common.
    pub(crate) prefix: Option<ReadPrefix>,
    /// Every token as safe visible text, filled in on first use.
    spelled: Vec<OnceLock<String>>,
}

impl Lab {
    /// A lab for a model, without directions.
    pub fn new(model: Model) -> Self {
        let spelled = (0..model.card.vocab).map(|_| OnceLock::new()).collect();
        Self {
            spelled,
            model,
            directions: HashMap::new(),
            sets: HashMap::new(),
            relations: HashMap::new(),
            circuits: HashMap::new(),
            open_dictionary: None,
            unrelated: None,
            cancel: Arc::new(AtomicBool::new(false)),
            progress: WorkProgress::default(),
            config: None,
            overwrite: Overwrite::Never,
            unfinished: UnfinishedSweeps::default(),
            announce: None,
            pace: None,
            derived: RefCell::default(),
            budget: BUDGET,
            captures: Vec::new(),
            shared_runs: Vec::new(),
            prefix: None,
        }
    }

    /// Loads the model that an argument names, with the embedded directions made for it.
    pub fn open(given: &str, options: &Options) -> Result<Self> {
        Self::with(crate::model::load::load(given, options)?, options)
    }

    /// As [`Lab::open`], reporting the progress of a download if the model is not in the cache.
    pub fn open_watched(
        given: &str,
        options: &Options,
        watch: &mut DownloadWatch<'_>,
    ) -> Result<Self> {
        Self::with(load_watched(given, options, watch)?, options)
    }

    fn with(model: Model, options: &Options) -> Result<Self> {
        let mut lab = Self::new(model);
        lab.config.clone_from(&options.config);
        lab.directions = Direction::embedded_for(&lab.model.card)?;
        for (name, bytes) in crate::edit::relation_map::embedded() {
            let held = RelationMap::parse(bytes, std::path::Path::new(name), &lab.model.card);
            if let Ok(map) = held {
                lab.relations.insert((*name).to_string(), Arc::new(map));
            }
        }
        for (name, document, means) in circuit::file::embedded() {
            if let Ok(held) = SavedCircuit::parse(name, document, means, &lab.model) {
                lab.circuits.insert((*name).to_string(), Arc::new(held));
            }
        }
        Ok(lab)
    }

    /// What an instrument derives from the weights alone and keeps between figures: one value for each type `T`.
    pub fn derived<T: Default + 'static>(&self) -> Rc<T> {
        let mut derived = self.derived.borrow_mut();
        let entry = derived.entry(TypeId::of::<T>());
        let held = entry.or_insert_with(|| Rc::new(T::default())).clone();
        held.downcast().unwrap_or_default()
    }

    /// Does `work` and reports its progress to `listener`.
    pub fn with_progress<T>(
        &mut self,
        listener: impl FnMut(f32) + 'static,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.under(WorkProgress::reporting_to(listener), work)
    }

    /// Does `work` as a part of the current work: progress is reported within `share`, a range within 0 to 1.
    pub fn part<T>(&mut self, share: Range<f32>, work: impl FnOnce(&mut Self) -> T) -> T {
        self.under(self.progress.split(share), work)
    }

    /// Does `work` without reporting progress, for a caller that reports its own.
    pub fn without_progress<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        self.under(WorkProgress::default(), work)
    }

    fn under<T>(&mut self, progress: WorkProgress, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.progress, progress);
        let out = work(self);
        self.progress = before;
        out
    }

    /// Reports that `done`, from 0 to 1, of the current part is done. Returns [`Error::Cancelled`] if the user has asked to
    /// stop.
    pub fn report(&self, done: f32) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        self.progress.tell(done);
        Ok(())
    }

    /// Runs the tokens in one pass and records the values at `wanted` at all positions. Sites after the last block cost an
    /// unembedding of every position.
    pub fn record(&mut self, run: &Run, wanted: &[Address]) -> Result<Arc<Capture>> {
        self.kept(run, wanted, false)
    }

    /// As [`Lab::record`], with the model's own logits after the last position from the same pass.
    pub fn record_with_output(&mut self, run: &Run, wanted: &[Address]) -> Result<Arc<Capture>> {
        self.kept(run, wanted, true)
    }

    fn kept(&mut self, run: &Run, wanted: &[Address], output: bool) -> Result<Arc<Capture>> {
        self.model.check_prompt(&run.tokens)?;
        wanted.iter().try_for_each(|a| self.model.offers(*a))?;
        let key = self.key(run);
        let serves = |(k, held): &&(u64, Arc<Capture>)| {
            *k == key && held.holds(wanted) && (!output || !held.output.is_empty())
        };
        if let Some((_, held)) = self.captures.iter().find(serves) {
            return Ok(held.clone());
        }
        let since = std::time::Instant::now();
        let after = if output {
            After::Last(1)
        } else {
            After::Nothing
        };
        let output = Output::whole(after);
        let capture = match self.after_prefix(run, wanted, &output)? {
            Some(read_on) => read_on,
            None => self.run_one(&Pass {
                record: wanted.to_vec(),
                ..Pass::after(run.clone(), output)
            })?,
        };
        let capture = Arc::new(capture);
        let seconds = since.elapsed().as_secs_f32();
        self.pace = Some(run.tokens.len() as f32 / seconds.max(f32::MIN_POSITIVE));
        self.captures.push((key, capture.clone()));
        self.make_room();
        Ok(capture)
    }

    /// Drops the oldest shared runs, then the oldest captures, until both and the shared beginning fit the budget; the newest of each is
    /// kept.
    pub(crate) fn make_room(&mut self) {
        let prefix = self.prefix.as_ref().map_or(0, ReadPrefix::bytes);
        let captures = |lab: &Self| lab.captures.iter().map(|(_, c)| c.bytes()).sum::<usize>();
        let shared = |lab: &Self| lab.shared_runs.iter().map(|s| s.bytes()).sum::<usize>();
        while self.shared_runs.len() > 1 && prefix + captures(self) + shared(self) > self.budget {
            self.shared_runs.remove(0);
        }
        while self.captures.len() > 1 && prefix + captures(self) + shared(self) > self.budget {
            self.captures.remove(0);
        }
    }

    /// The most memory that is held at any time, in bytes: by the model, by one pass, and by what is kept of passes.
    pub fn most_memory(&self) -> u64 {
        self.model.need.total() + (self.budget + self.budget / 2) as u64
    }

    /// How many objects of `bytes` each a pass may allocate at once; at least one.
    pub(crate) fn room(&self, bytes: usize) -> usize {
        (self.budget / 2 / bytes.max(1)).max(1)
    }

    /// In how many layers attention patterns `[heads, tokens, tokens]` may be recorded at once, so that a long text or a large
    /// model does not exhaust the memory; at least one.
    pub fn attention_layers(&self, tokens: usize) -> usize {
        let bytes = 4 * self.model.card.heads * tokens * tokens;
        (self.budget / bytes.max(1)).max(1)
    }

    /// The key under which a capture is kept: a digest of tokens, edits, and the current content of the directions, sets and
    /// files that the edits name.
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

    /// Statistics of a run's output after its last token.
    pub fn last(&mut self, run: &Run, output: Output) -> Result<RowStats> {
        let capture = self.run_one(&Pass::after(run.clone(), output))?;
        Ok(capture.last().clone())
    }

    /// Statistics of the output after the last token of each prompt, all in one batch under a schedule.
    pub fn last_of(
        &mut self,
        prompts: &[Vec<u32>],
        schedule: &Schedule,
        output: Output,
    ) -> Result<Vec<RowStats>> {
        let read = self.run(&Pass::prompts(prompts, schedule, output))?;
        let last = |mut row: Capture| row.output.pop().unwrap_or_default();
        Ok(read.into_iter().map(last).collect())
    }

    /// The top prediction of a run after its last token.
    pub fn top_prediction(&mut self, run: &Run) -> Result<u32> {
        Ok(self.last(run, Output::top(1))?.first().0)
    }

    /// The model's own logits after the last position of a run: `[vocab]`.
    pub fn last_logits(&mut self, run: &Run) -> Result<Vec<f32>> {
        Ok(self.last(run, Output::whole(After::Last(1)))?.logits)
    }

    /// Vocabulary statistics of residual rows `[n, d_model]`, read through the final norm and the unembedding.
    pub fn read(&mut self, rows: &Tensor, ask: &RowRequest) -> Result<Vec<RowStats>> {
        let rows = self.model.transformer.normalize_for_unembed(rows, None)?;
        let out = read(&self.model, &rows, ask, &mut |done| self.report(done))?;
        if out.iter().all(RowStats::is_finite) {
            return Ok(out);
        }
        Err(self.not_finite("The logits of the residual stream are"))
    }

    /// A guard for a pass of this model, which stops when [`Lab::cancel`] is raised.
    pub fn guard(&self) -> Guard<'_> {
        Guard::new(&self.model.transformer, &self.cancel)
    }

    /// The error for numbers of the unedited model that are not finite; `place` is the beginning of the sentence: "Its logits
    /// are".
    pub fn not_finite(&self, place: &str) -> Error {
        not_finite(&self.model.transformer, place)
    }

    /// A single token as safe visible text.
    pub fn visible(&self, id: u32) -> String {
        if id == NO_TOKEN {
            return NOT_FINITE.into();
        }
        let spell = || text::visible(&self.model.bytes(id));
        let held = self.spelled.get(id as usize);
        held.map_or_else(spell, |cell| cell.get_or_init(spell).clone())
    }

    /// Tokens as safe visible text, separated by blanks.
    pub fn visibles(&self, ids: impl IntoIterator<Item = u32>) -> String {
        let words: Vec<String> = ids.into_iter().map(|id| self.visible(id)).collect();
        words.join(" ")
    }

    /// The labels of positions on an axis: their tokens.
    pub fn headers(&self, run: &Run, positions: impl IntoIterator<Item = usize>) -> Vec<AxisLabel> {
        let header = |p: usize| AxisLabel::token(self.visible(run.tokens[p]), p);
        positions.into_iter().map(header).collect()
    }

    /// What a figure of this run was measured on: model, dtype, device, tokens, edits, seed and parameters.
    pub fn provenance(&self, run: &Run, mut parameters: Vec<(String, String)>) -> Provenance {
        let card = &self.model.card;
        parameters.extend(self.model.encoding.lines());
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
            texts: BTreeMap::new(),
            prompts: Vec::new(),
        }
    }

    /// The raw texts of tokens, by id.
    pub fn raw_texts(&self, ids: impl IntoIterator<Item = u32>) -> BTreeMap<u32, Option<String>> {
        let text = |id| (id, self.model.raw_text(id));
        ids.into_iter().map(text).collect()
    }
}

impl LogitTarget {
    /// The target as safe visible text.
    pub fn spell(self, lab: &Lab) -> String {
        match self.minus {
            None => lab.visible(self.token),
            Some(less) => format!("{} − {}", lab.visible(self.token), lab.visible(less)),
        }
    }
}
