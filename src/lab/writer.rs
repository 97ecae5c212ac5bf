//! The writer: a text that grows token by token under edits, with receipts, and the unedited run beside it.
//!
//! Both are rows of one batch, so that the weights are read once for both. Invariants: the cache holds exactly the tokens of
//! the run, under the run's schedule; the second row is never edited; without active edits there is no second row.
//! One call of [`Writer::step`] is one turn of the engine. To compare with another run, add a variant of [`BaselineMode`].

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::apply::Program;
use super::capture::{Capture, Needs, StateStats};
use super::lab::Lab;
use super::lens_rows::{LensRead, LensRows};
use super::readout::{RowStats, tolerance};
use super::row_programs::RowPrograms;
use super::run::Run;
use super::runner::{RowsBeside, read_on, read_on_beside, unedited};
use super::sample::Sampling;
use super::tap::{RecordedPositions, RunTap};
pub use super::token::{BaselineMode, Choice, Other, WrittenToken};
use super::token_choice::{BeforeToken, NextToken};
use super::unembed::{CaptureParts, captured, drawn};
use crate::edit::Edit;
use crate::edit::receipt::{FiredAt, Receipt};
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::network::cache::Cache;
use crate::model::network::readout::{ReadoutRequest, ReadoutRows};
use crate::model::network::site::{Address, Site};

/// The unedited run in the second row of the batch.
#[derive(Clone)]
struct BaselineRow {
    /// Its text: that of the run, or its own in lockstep.
    tokens: Vec<u32>,
    /// Its logits after the last token, `[vocab]`.
    logits: Tensor,
    /// How many tokens its own text had when it ended; from there on the run's tokens keep its row as long as the run's.
    ended: Option<usize>,
}

/// A text that was put aside, with what a writer needs to go on with it.
#[derive(Clone, Debug)]
pub struct SavedText {
    /// Tokens, prompt and schedule.
    run: Run,
    /// In lockstep, the unedited run's own text, and where it ended.
    own: Option<(Vec<u32>, Option<usize>)>,
    diverged: Option<usize>,
}

/// A growing text.
pub struct Writer {
    /// Tokens, prompt and schedule.
    pub run: Run,
    /// How tokens are chosen.
    pub sampling: Sampling,
    beside: BaselineMode,
    cache: Cache,
    program: Program,
    companion: Option<BaselineRow>,
    /// The unedited run on the edited text for conditions on its probabilities: it must be ahead of the edited one.
    scout: Option<Cache>,
    /// The first position at which the two runs chose differently.
    diverged: Option<usize>,
    logits: Tensor,
    /// Space for logits that are laid out, kept from token to token.
    laid_out: Vec<f32>,
}

impl Writer {
    /// Reads a prompt.
    pub fn begin(
        lab: &mut Lab,
        tokens: Vec<u32>,
        schedule: Schedule,
        sampling: Sampling,
    ) -> Result<Self> {
        Self::begin_with_baseline(lab, tokens, schedule, sampling, BaselineMode::default())
    }

    /// Reads a prompt, with a choice of what runs beside it.
    pub fn begin_with_baseline(
        lab: &mut Lab,
        tokens: Vec<u32>,
        schedule: Schedule,
        sampling: Sampling,
        beside: BaselineMode,
    ) -> Result<Self> {
        lab.model.check_prompt(&tokens)?;
        let run = Run {
            schedule,
            seed: sampling.seed,
            ..Run::plain(tokens)
        };
        let program = lab.compile(&run)?;
        let logits = Tensor::zeros(1, DType::F32, &candle_core::Device::Cpu)?;
        let mut writer = Self {
            run,
            sampling,
            beside,
            cache: lab.model.cache(1)?,
            program,
            companion: None,
            scout: None,
            diverged: None,
            logits,
            laid_out: Vec::new(),
        };
        writer.read(lab)?;
        Ok(writer)
    }

    /// What runs beside the text.
    pub fn baseline_mode(&self) -> BaselineMode {
        self.beside
    }

    /// The text of the unedited run: its own in lockstep, else that of the run. None where no edit is in force, for
    /// then they are one.
    pub fn baseline_row(&self) -> Option<&[u32]> {
        let companion = self.companion.as_ref()?;
        Some(&companion.tokens[..companion.ended.unwrap_or(companion.tokens.len())])
    }

    /// The first position at which the two runs of a lockstep chose differently.
    pub fn diverged(&self) -> Option<usize> {
        self.diverged
    }

    /// Runs something else beside the text from here on. A lockstep that begins shares everything up to here.
    pub fn set_beside(&mut self, lab: &mut Lab, beside: BaselineMode) -> Result<()> {
        if beside == self.beside {
            return Ok(());
        }
        self.attempt(|writer| {
            writer.beside = beside;
            writer.diverged = None;
            writer.sync_baseline(lab, true)
        })
    }

    /// As it stands. It shares the caches, so that of the two only one may be written on.
    fn copy(&self) -> Self {
        Self {
            run: self.run.clone(),
            cache: self.cache.clone(),
            program: self.program.clone(),
            companion: self.companion.clone(),
            scout: self.scout.clone(),
            logits: self.logits.clone(),
            laid_out: Vec::new(),
            ..*self
        }
    }

    /// Makes a change, or leaves everything as it was: what reads the text again reads it into a new cache, so that the
    /// one before it is whole.
    fn attempt<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.copy();
        let changed = change(self);
        if changed.is_err() {
            *self = before;
        }
        changed
    }

    /// Reads every token again into a new cache.
    fn read(&mut self, lab: &mut Lab) -> Result<()> {
        let rows = self.texts();
        let mut cache = lab.model.cache(rows.len())?;
        self.program.forget();
        let logits = {
            let mut tap = RunTap::new(
                RowPrograms::first(&mut self.program, 1),
                &[],
                &[],
                RecordedPositions::Last,
                lab.guard(),
            );
            read_on(&lab.model, &rows, self.run.prompt, &mut cache, &mut tap)?
        };
        cache.digest = self.run.schedule.digest();
        self.cache = cache;
        self.logits = logits.get(0)?;
        self.companion = (rows.len() > 1)
            .then(|| -> Result<_> {
                let ended = self.companion.as_ref().and_then(|c| c.ended);
                Ok(BaselineRow {
                    tokens: rows[1].clone(),
                    logits: logits.get(1)?,
                    ended,
                })
            })
            .transpose()?;
        self.program.settle()?;
        self.scout = None;
        if self.program.asks_probability() {
            let mut cache = lab.model.cache(1)?;
            self.probe(lab, &mut cache)?;
            self.scout = Some(cache);
        }
        Ok(())
    }

    /// The rows of a pass: the run, and the unedited one where edits are in force and somebody compares.
    fn texts(&self) -> Vec<Vec<u32>> {
        let mut rows = vec![self.run.tokens.clone()];
        if !self.program.is_idle() && self.beside != BaselineMode::Nothing {
            // Of another length, it is that of a text that was replaced.
            let length = self.run.tokens.len();
            let own = self
                .companion
                .as_ref()
                .filter(|c| self.beside.is_lockstep() && c.tokens.len() == length);
            rows.push(own.map_or_else(|| self.run.tokens.clone(), |c| c.tokens.clone()));
        }
        rows
    }

    /// Brings the unedited run to where it should be after a change of edits or of what runs beside: starts it, renews it
    /// (`anew`), or drops it.
    fn sync_baseline(&mut self, lab: &mut Lab, anew: bool) -> Result<()> {
        let wanted = !self.program.is_idle() && self.beside != BaselineMode::Nothing;
        let scouting = self.program.asks_probability() != self.scout.is_some();
        match (&self.companion, wanted) {
            (Some(_), false) => {
                self.cache = self.cache.row(0)?;
                self.companion = None;
            }
            // Nothing was changed before this position, so that both runs are one up to here.
            (None, true) if self.run.schedule.began() >= self.run.tokens.len() && !scouting => {
                self.cache = self.cache.copy(2)?;
                self.companion = Some(BaselineRow {
                    tokens: self.run.tokens.clone(),
                    logits: self.logits.clone(),
                    ended: None,
                });
            }
            (None, true) => {
                self.companion = None;
                return self.read(lab);
            }
            (Some(_), true) if anew => {
                self.companion = None;
                return self.read(lab);
            }
            (Some(_), true) | (None, false) => {}
        }
        if scouting {
            return self.read(lab);
        }
        Ok(())
    }

    /// Brings the scout to the end of the text, and tells conditions what it saw on its last position.
    fn probe(&mut self, lab: &Lab, cache: &mut Cache) -> Result<()> {
        let text = [self.run.tokens.clone()];
        let stats = unedited(
            lab,
            &text,
            self.run.prompt,
            &self.program.watched_tokens(),
            cache,
        )?;
        self.program
            .set_base_log_probs(self.run.tokens.len() - 1, &stats);
        Ok(())
    }

    /// Whether the context has room for another token.
    pub fn has_room(&self, lab: &Lab) -> bool {
        self.run.tokens.len() < lab.model.card.context
    }

    /// Chooses the next token of both runs.
    fn choose(&self, lab: &Lab) -> Result<NextToken> {
        let companion = self.companion.as_ref();
        let before = BeforeToken {
            position: self.run.tokens.len(),
            sampling: self.sampling,
            beside: self.beside,
            logits: &self.logits,
            unedited: companion.map(|c| (&c.logits, c.ended.is_some())),
        };
        before.choose(lab)
    }

    /// Chooses the next token, reads it in, and returns what was asked for at its position.
    /// When the pass is cancelled the token is not kept.
    pub fn step(&mut self, lab: &mut Lab, needs: &[Needs]) -> Result<WrittenToken> {
        let position = self.run.tokens.len();
        let next = self.choose(lab)?;
        let (choice, unedited) = (next.choice, next.unedited);
        let before = match (needs.iter().any(|n| n.before), next.before) {
            (false, _) => None,
            (true, Some(before)) => Some(before),
            (true, None) => drawn(&[&next.row], &[choice.id], lab.model.known_tokens()).pop(),
        };
        self.run.tokens.push(choice.id);
        let mut rows = vec![self.run.tokens.clone()];
        if let Some(companion) = &self.companion {
            let mut text = companion.tokens.clone();
            text.push(unedited);
            rows.push(text);
        }
        let passed = match self.pass(lab, needs, &rows) {
            Ok(passed) => passed,
            Err(error) => {
                // Nothing of an interrupted pass may stay behind.
                self.program.abandon();
                self.run.tokens.truncate(position);
                self.cache.truncate(position);
                if let Some(scout) = &mut self.scout {
                    scout.truncate(position);
                }
                return Err(error);
            }
        };
        self.program.settle()?;
        self.logits = passed.logits.get(0)?;
        if let Some(companion) = &mut self.companion {
            companion.tokens.push(unedited);
            let ends = self.beside == BaselineMode::OwnText && lab.model.is_end(unedited);
            let length = companion.tokens.len();
            companion.ended = companion.ended.or(ends.then_some(length));
            companion.logits = passed.logits.get(1)?;
        }
        if choice.other.is_some_and(|other| other.id != choice.id) {
            self.diverged = self.diverged.or(Some(position));
        }
        let captures = self.captures(lab, needs, &passed, before.as_ref())?;
        self.laid_out = passed.read.laid_out;
        Ok(WrittenToken {
            choice,
            fired: self.program.latest().to_vec(),
            captures,
        })
    }

    /// What the newest position leaves behind.
    fn captures(
        &self,
        lab: &Lab,
        needs: &[Needs],
        passed: &TokenPass,
        before: Option<&RowStats>,
    ) -> Result<Vec<Capture>> {
        let run = Arc::new(self.run.clone());
        let position = run.tokens.len() - 1;
        // One comparison serves everybody who reads states of this position.
        let check = if self.output_is_plain() {
            let tolerance = tolerance(lab.model.transformer.dtype());
            passed.read.check(&self.logits, tolerance)?
        } else {
            None
        };
        let rows = |at: Address| {
            let rows = passed.recorded.get(&at).ok_or_else(|| not_visited(at))?;
            Ok(rows.squeeze(0)?)
        };
        let capture = |(needs, read): (&Needs, &StateStats)| {
            let parts = CaptureParts {
                receipts: self.program.receipts().to_vec(),
                before: if needs.before {
                    vec![before.cloned()]
                } else {
                    Vec::new()
                },
                read: read.clone(),
                check: check.filter(|_| needs.read.is_some()),
            };
            captured(run.clone(), position..position + 1, needs, parts, rows)
        };
        needs.iter().zip(&passed.read.states).map(capture).collect()
    }

    /// The model's own logits after the last token, `[vocab]`.
    ///
    /// # Errors
    ///
    /// When the device does not give them.
    pub fn output(&self) -> Result<Vec<f32>> {
        Ok(self.logits.host_vec1()?)
    }

    /// One pass over the newest token of every row.
    fn pass(&mut self, lab: &mut Lab, needs: &[Needs], rows: &[Vec<u32>]) -> Result<TokenPass> {
        if let Some(mut scout) = self.scout.take() {
            let probed = self.probe(lab, &mut scout);
            self.scout = Some(scout);
            probed?;
        }
        let beside = LensRows::of(needs, &lab.model, rows.len())?;
        let mut wanted: Vec<Address> = needs.iter().flat_map(|n| &n.record).copied().collect();
        wanted.extend(&beside.at);
        wanted.sort_unstable();
        wanted.dedup();
        let mut tap = RunTap::new(
            RowPrograms::first(&mut self.program, 1),
            &[],
            &wanted,
            RecordedPositions::Last,
            lab.guard(),
        );
        let (prompt, cache) = (self.run.prompt, &mut self.cache);
        let (logits, output) = if beside.at.is_empty() {
            let logits = read_on(&lab.model, rows, prompt, cache, &mut tap)?;
            (logits, ReadoutRows::default())
        } else {
            let questions = beside.questions();
            let lookups = beside.lookups();
            let request = RowsBeside {
                at: &beside.at,
                request: ReadoutRequest {
                    questions: &questions,
                    whole: &beside.whole,
                    known: lab.model.known_tokens(),
                    lookups: &lookups,
                    keep: beside.keep(),
                },
                space: std::mem::take(&mut self.laid_out),
            };
            read_on_beside(&lab.model, rows, prompt, cache, &mut tap, request)?
        };
        Ok(TokenPass {
            recorded: std::mem::take(&mut tap.recorded),
            logits,
            read: beside.sort(output, lab.model.card.vocab),
        })
    }

    /// Whether no edit acts after the last block, where the lens does not look.
    fn output_is_plain(&self) -> bool {
        !self.program.touches(Site::FinalNorm.at(0))
    }

    /// The receipts so far, in the order of the edits.
    pub fn receipts(&self) -> &[Receipt] {
        self.program.receipts()
    }

    /// What the edits did at the positions of the latest pass: the whole text after it was read, the newest token after
    /// a step.
    pub fn fired(&self) -> &[FiredAt] {
        self.program.latest()
    }

    /// Changes the edits from the next position on; what was computed stays. Returns that position.
    pub fn edit_from_now(&mut self, lab: &mut Lab, edits: Vec<Edit>) -> Result<usize> {
        let position = self.run.tokens.len();
        let mut schedule = self.run.schedule.clone();
        schedule.change(position, edits);
        let run = Run {
            schedule: schedule.clone(),
            ..self.run.clone()
        };
        let mut program = lab.compile(&run)?;
        program.carry(&self.program);
        self.attempt(|writer| {
            writer.program = program;
            writer.run.schedule = schedule;
            writer.cache.digest = writer.run.schedule.digest();
            writer.sync_baseline(lab, false)
        })?;
        Ok(position)
    }

    /// Changes the edits as if they had always been so: the tokens stay, everything is computed again. A lockstep
    /// begins again here.
    pub fn edit_always(&mut self, lab: &mut Lab, edits: Vec<Edit>) -> Result<()> {
        let mut schedule = self.run.schedule.clone();
        schedule.change(0, edits);
        let run = Run {
            schedule: schedule.clone(),
            ..self.run.clone()
        };
        let program = lab.compile(&run)?;
        self.attempt(|writer| {
            (writer.run.schedule, writer.program) = (schedule, program);
            (writer.companion, writer.diverged) = (None, None);
            writer.read(lab)
        })
    }

    /// The text as it stands, to be put aside.
    pub fn hold(&self) -> SavedText {
        let companion = self.companion.as_ref();
        let own = companion.filter(|_| self.beside.is_lockstep());
        SavedText {
            run: self.run.clone(),
            own: own.map(|c| (c.tokens.clone(), c.ended)),
            diverged: self.diverged,
        }
    }

    /// Goes on with a text that was put aside, under the edits that it was written under. A lockstep goes on with the
    /// unedited run's own text; where there was none, both share everything up to here.
    pub fn resume(&mut self, lab: &mut Lab, held: &SavedText) -> Result<()> {
        let lockstep = self.beside.is_lockstep();
        let own = held.own.clone().filter(|_| lockstep);
        self.attempt(|writer| {
            writer.run = held.run.clone();
            writer.diverged = held.diverged.filter(|_| lockstep);
            writer.companion = own.map(|(tokens, ended)| BaselineRow {
                tokens,
                logits: writer.logits.clone(),
                ended,
            });
            writer.read_anew(lab)
        })
    }

    /// Prepares the edits for the text as it is now, and reads it.
    fn read_anew(&mut self, lab: &mut Lab) -> Result<()> {
        self.program = lab.compile(&self.run)?;
        self.read(lab)
    }

    /// Forgets everything from `position` on, and computes the rest again so that receipts stay true.
    pub fn rewind(&mut self, lab: &mut Lab, position: usize) -> Result<()> {
        let position = position.clamp(1, self.run.tokens.len());
        self.attempt(|writer| {
            writer.run.tokens.truncate(position);
            writer.run.prompt = writer.run.prompt.min(position);
            writer.run.schedule.rewind(position);
            writer.diverged = writer.diverged.filter(|p| *p < position);
            if let Some(companion) = &mut writer.companion {
                companion.tokens.truncate(position);
                companion.ended = companion.ended.filter(|length| *length <= position);
            }
            writer.read_anew(lab)
        })
    }
}

/// What a pass over one token gave.
struct TokenPass {
    recorded: HashMap<Address, Tensor>,
    /// `[rows, vocab]`.
    logits: Tensor,
    /// What the states that rode along say.
    read: LensRead,
}

fn not_visited(at: Address) -> Error {
    Error::Refused {
        address: at.to_string(),
        why: "it was not visited by this pass. Ask for a site that the model has.".into(),
    }
}
