//! The engine's thread: a queue of requests, one token a turn, and recovery from errors and panics.
//!
//! Invariant: all waiting requests are looked at between two tokens; the newest request for a pane replaces an older one; a
//! panic or a cancellation leaves the model loaded and the text as it was before the turn.

mod baseline;
mod changes;
mod following;
mod kept_texts;
mod live;
mod loading;
mod tokens;

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use super::{Ending, FigureRequest, PaneName, PromptSource, Request, Update};
use crate::edit::Edit;
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::figure::Check;
use crate::instruments::{instrument, observe};
use crate::lab::Lab;
use crate::lab::capture::Needs;
use crate::lab::run::Run;
use crate::lab::sample::Sampling;
use crate::lab::trials::time_left;
use crate::lab::writer::{BaselineMode, Writer};
use crate::model::known::known_models;
use crate::model::load::Options;
use baseline::BaselineContinuation;
use kept_texts::KeptTexts;
use live::Live;
use tokens::{no_model, prompt_ids, prompt_tokens, written_token};

/// How many tokens are left to generate, how many were generated, and since when.
struct WritingGoal {
    left: usize,
    written: usize,
    since: Instant,
}

impl WritingGoal {
    fn of(count: usize) -> Self {
        Self {
            left: count,
            written: 0,
            since: Instant::now(),
        }
    }
}

/// The state of the engine's thread.
pub(super) struct Worker {
    requests: Receiver<Request>,
    cancel: Arc<AtomicBool>,
    /// Raised when a request is sent.
    hurry: Arc<AtomicBool>,
    deliver: Rc<dyn Fn(Update) -> bool>,
    lab: Option<Lab>,
    /// What the lab's model was loaded from.
    opened: Option<(String, Options)>,
    writer: Option<Writer>,
    sampling: Sampling,
    edits: Vec<Edit>,
    live: Vec<Live>,
    /// Which layers the screen shows of figures whose rows are layers; of a figure that is not here, all are read at once.
    views: BTreeMap<PaneName, Range<usize>>,
    /// Whether layers came into view that were not, so that those that wait are read while the text is written.
    came_into_view: bool,
    /// The indices of the live instruments that grow, and what each needs of a token; none if that has to be determined anew.
    growing: Option<(Vec<usize>, Vec<Needs>)>,
    waiting: Vec<FigureRequest>,
    /// Figures that are made when nothing else is to be done.
    following: Vec<FigureRequest>,
    goal: Option<WritingGoal>,
    baseline: Option<BaselineContinuation>,
    receipts_due: bool,
    /// The baseline run of this and later texts.
    baseline_mode: BaselineMode,
    check: Option<Check>,
    kept: KeptTexts,
}

impl Worker {
    pub fn new(
        requests: Receiver<Request>,
        (cancel, hurry): (Arc<AtomicBool>, Arc<AtomicBool>),
        deliver: impl Fn(Update) -> bool + 'static,
    ) -> Self {
        Self {
            requests,
            cancel,
            hurry,
            deliver: Rc::new(deliver),
            lab: None,
            opened: None,
            writer: None,
            sampling: Sampling::default(),
            edits: Vec::new(),
            live: Vec::new(),
            views: BTreeMap::new(),
            came_into_view: false,
            growing: None,
            waiting: Vec::new(),
            following: Vec::new(),
            goal: None,
            baseline: None,
            receipts_due: false,
            baseline_mode: BaselineMode::default(),
            check: None,
            kept: KeptTexts::default(),
        }
    }

    /// Handles requests until the other side is closed.
    pub fn work(mut self) {
        loop {
            // Before the look at the requests: what comes after it interrupts the work of this turn.
            self.hurry.store(false, Ordering::Release);
            let next = if self.busy() {
                self.requests.try_recv()
            } else {
                let next = self.requests.recv();
                next.map_err(|_| TryRecvError::Disconnected)
            };
            if matches!(next, Err(TryRecvError::Disconnected)) {
                return;
            }
            if self.cancel.swap(false, Ordering::Relaxed) {
                self.stop();
            }
            match next {
                Ok(request) => self.run_guarded(None, |w| w.handle(request)),
                Err(_) => self.work_one_turn(),
            }
            self.remark();
        }
    }

    /// Passes on remarks that the model collected during the work.
    fn remark(&self) {
        let said = self.lab.as_ref().map(|lab| lab.model.remarks.take());
        for sentence in said.into_iter().flatten() {
            self.tell(Update::Noted(sentence));
        }
    }

    /// Whether any edit acts in the text.
    fn edited(&self) -> bool {
        let run = self.writer.as_ref().map(|w| &w.run);
        run.is_some_and(|run| !run.schedule.is_idle())
    }

    fn busy(&self) -> bool {
        self.goal.is_some()
            || !self.waiting.is_empty()
            || !self.following.is_empty()
            || self.baseline.is_some()
            || self.receipts_due
            || self.layers_due().is_some()
    }

    fn tell(&self, update: Update) {
        // If the other side is closed, the next receive ends the loop.
        let _listening = (self.deliver)(update);
    }

    /// One turn: a token, and one of the waiting requests or some of the waiting layers.
    fn work_one_turn(&mut self) {
        if self.goal.is_some() {
            self.run_guarded(None, Self::write);
        }
        if !self.waiting.is_empty() {
            let question = self.waiting.remove(0);
            let slot = question.instrument;
            self.run_guarded(Some(slot), |w| w.observe(&question));
        } else if let Some(i) = self.layers_due() {
            let slot = self.live[i].question.instrument;
            self.run_guarded(Some(slot), |w| w.read_later(i));
        } else if self.goal.is_none() && !self.following.is_empty() {
            self.follow_one();
        } else if self.goal.is_none() && self.baseline.is_some() {
            self.run_guarded(None, Self::write_baseline);
        } else if self.goal.is_none() && self.receipts_due {
            self.receipts_due = false;
            self.run_guarded(None, Self::measure_receipts);
        }
    }

    /// Runs a piece of work; errors and panics become notices.
    fn run_guarded(&mut self, slot: Option<PaneName>, work: impl FnOnce(&mut Self) -> Result<()>) {
        let mut ending = Ending::Stopped;
        let message = match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(Ok(())) => return,
            Ok(Err(Error::Cancelled)) => {
                self.cancel.store(false, Ordering::Relaxed);
                if let Some(slot) = slot {
                    self.tell(Update::Dropped(slot));
                }
                self.stop();
                return;
            }
            Ok(Err(error)) => {
                if let Error::NotFinite { brief, .. } = &error {
                    self.tell(Update::NotFinite(brief));
                    ending = Ending::NotFinite;
                }
                error.to_string()
            }
            Err(panic) => {
                // The panic may have left the text inconsistent, so it is computed again from its tokens. The model itself is
                // only read.
                let recovered = catch_unwind(AssertUnwindSafe(|| self.recover()));
                if !matches!(recovered, Ok(Ok(()))) {
                    self.writer = None;
                }
                let what = panic
                    .downcast_ref::<&str>()
                    .map(ToString::to_string)
                    .or_else(|| panic.downcast_ref::<String>().cloned());
                Error::Engine(what.unwrap_or_else(|| "unknown panic".into())).to_string()
            }
        };
        tracing::error!("{message}");
        self.tell(Update::Failed { slot, message });
        if slot.is_none() && self.goal.is_some() {
            self.end(ending);
        }
    }

    /// Computes the text's cache and receipts again, after a turn that panicked.
    fn recover(&mut self) -> Result<()> {
        if let (Some(writer), Some(lab)) = (&mut self.writer, &mut self.lab) {
            let length = writer.run.tokens.len();
            writer.rewind(lab, length)?;
        }
        Ok(())
    }

    fn stop(&mut self) {
        for question in std::mem::take(&mut self.waiting) {
            self.tell(Update::Dropped(question.instrument));
        }
        self.baseline = None;
        if self.goal.is_some() {
            self.end(Ending::Stopped);
        } else {
            self.drop_following();
        }
    }

    fn end(&mut self, ending: Ending) {
        if let Some(goal) = self.goal.take() {
            let seconds = goal.since.elapsed().as_secs_f32().max(1e-6);
            self.tell(Update::Ended {
                ending,
                written: goal.written,
                rate: goal.written as f32 / seconds,
            });
            self.receipts_due = self.edited();
        }
    }

    fn handle(&mut self, request: Request) -> Result<()> {
        self.growing = None;
        if request.is_about_text() {
            self.tell(Update::TakenUp);
        }
        match request {
            Request::Load { model, options } => self.load(&model, &options),
            Request::Generate { prompt, count } => self.generate(prompt, count),
            Request::CountTokens { text, chat } => self.count_tokens(text, chat),
            Request::ListModels(folders) => {
                self.tell(Update::Models(known_models(&folders)));
                Ok(())
            }
            Request::Continue { count } => {
                self.writer()?;
                self.goal = Some(WritingGoal::of(count));
                Ok(())
            }
            Request::Stop => {
                self.stop();
                Ok(())
            }
            Request::Rewind { position } => self.rewind(position),
            Request::Restore(number) => self.restore(number),
            Request::Sampling(sampling) => {
                self.sampling = sampling;
                if let Some(writer) = &mut self.writer {
                    writer.sampling = sampling;
                    writer.run.seed = sampling.seed;
                }
                Ok(())
            }
            Request::Edits { edits, mode } => self.change(edits, mode),
            Request::Live(questions) => {
                let mut before = std::mem::take(&mut self.live);
                for question in questions {
                    let of = instrument(question.instrument)?;
                    let held = before.iter().position(|live| live.question == question);
                    let live = if let Some(held) = held {
                        before.swap_remove(held)
                    } else {
                        self.enqueue(question.clone());
                        Live::of(question, of)
                    };
                    self.live.push(live);
                }
                Ok(())
            }
            Request::View { slot, layers } => {
                self.view(slot, layers);
                Ok(())
            }
            Request::Follow(question) => {
                self.follow(question);
                Ok(())
            }
            Request::Observe(question) => {
                self.not_following(question.instrument);
                if question.needs_text()? {
                    self.writer()?;
                } else {
                    self.lab()?;
                }
                self.enqueue(question);
                Ok(())
            }
            Request::Baseline => self.begin_baseline(),
            Request::Beside(beside) => self.set_baseline_mode(beside),
            Request::Group { name, set, save } => self.group(name, set, save.as_deref()),
            Request::Direction {
                name,
                plus,
                minus,
                chat,
                layer,
                save,
            } => self.direction(name, &plus, &minus, chat, layer, save),
            #[allow(clippy::panic)] // what this request is for
            Request::Panic => panic!("a test asked for this panic"),
        }
    }

    fn lab(&mut self) -> Result<&mut Lab> {
        self.lab.as_mut().ok_or_else(no_model)
    }

    /// The current text and the lab; an error if there is none.
    fn writer(&mut self) -> Result<(&mut Writer, &mut Lab)> {
        match (&mut self.writer, &mut self.lab) {
            (Some(writer), Some(lab)) => Ok((writer, lab)),
            (_, None) => Err(no_model()),
            (None, _) => Err(Error::EmptyPrompt),
        }
    }

    fn generate(&mut self, prompt: PromptSource, count: usize) -> Result<()> {
        self.stop();
        let (edits, sampling, beside) = (self.edits.clone(), self.sampling, self.baseline_mode);
        let lab = self.lab()?;
        let tokens = prompt_ids(lab, prompt)?;
        let schedule = Schedule::always(edits);
        let writer = Writer::begin_with_baseline(lab, tokens, schedule, sampling, beside)?;
        let tokens = prompt_tokens(lab, &writer);
        self.keep();
        self.writer = Some(writer);
        self.check = None;
        self.tell(Update::Began(tokens));
        self.refresh();
        self.goal = Some(WritingGoal::of(count));
        Ok(())
    }

    /// Requests a whole figure of every live instrument.
    fn refresh(&mut self) {
        for i in 0..self.live.len() {
            self.live[i].set_whole(false);
            self.enqueue(self.live[i].question.clone());
        }
    }

    /// Adds a figure request to the queue, in place of an older one for the same pane.
    fn enqueue(&mut self, question: FigureRequest) {
        if self.writer.is_none() && question.needs_text().unwrap_or(true) {
            return;
        }
        self.waiting.retain(|q| {
            (q.instrument, q.is_compared_with())
                != (question.instrument, question.is_compared_with())
        });
        self.waiting.push(question);
    }

    /// Generates one token of the text and sends the columns of live figures.
    fn write(&mut self) -> Result<()> {
        let Some(goal) = &self.goal else {
            return Ok(());
        };
        let left = goal.left;
        let (writer, lab) = self.writer()?;
        if left == 0 {
            self.end(Ending::Count);
            return Ok(());
        }
        if !writer.has_room(lab) {
            self.end(Ending::Context);
            return Ok(());
        }
        let (which, needs) = match self.growing.take() {
            Some(growing) => growing,
            None => self.growing()?.into_iter().unzip(),
        };
        let (writer, lab) = self.writer()?;
        let step = writer.step(lab, &needs)?;
        let token = written_token(lab, step.choice, &step.fired);
        let receipts = writer.receipts().to_vec();
        let ended = lab.model.is_end(step.choice.id);
        if let Some(goal) = &mut self.goal {
            goal.left -= 1;
            goal.written += 1;
        }
        self.tell(Update::Token { token, receipts });
        self.checked(step.captures.iter().find_map(|c| c.check));
        for (i, capture) in which.iter().zip(step.captures) {
            self.grow(*i, capture)?;
        }
        self.growing = Some((which, needs));
        if ended {
            self.end(Ending::EndToken);
        } else if left == 1 {
            self.end(Ending::Count);
        }
        Ok(())
    }

    /// Reports the worst self-check so far, if it has changed.
    fn checked(&mut self, check: Option<Check>) {
        let Some(check) = check else { return };
        let worst = self.check.map_or(check, |held| held.worst(check));
        if self.check != Some(worst) {
            self.check = Some(worst);
            self.tell(Update::Checked(worst));
        }
    }

    fn observe(&mut self, question: &FigureRequest) -> Result<()> {
        let deliver = self.deliver.clone();
        let slot = question.instrument;
        let run = if question.needs_text()? {
            let (writer, _) = self.writer()?;
            let run = writer.run.clone();
            let run = match &question.other {
                None => run,
                Some(other) => Run {
                    prompt: other.prompt,
                    seed: run.seed,
                    schedule: Schedule::always(run.schedule.latest().to_vec()),
                    ..Run::plain(other.tokens.clone())
                },
            };
            let run = run.until(question.until.unwrap_or(usize::MAX));
            if question.unedited {
                // The answers are those of the edited run, so that both figures are about the same tokens.
                Run {
                    answers: Some(Arc::new(run.clone())),
                    ..run.unedited()
                }
            } else {
                run
            }
        } else {
            // The instrument reads its own texts. If it applies edits at all, the current edits are in force from the first
            // position on.
            let own = instrument(slot)?.edits_its_texts(&question.arguments) && !question.unedited;
            // Where nothing was written yet, those that are on are in force all the same.
            let edits = self.writer.as_ref().map_or_else(
                || self.edits.clone(),
                |writer| writer.run.schedule.latest().to_vec(),
            );
            Run {
                schedule: Schedule::always(if own { edits } else { Vec::new() }),
                seed: self.sampling.seed,
                ..Run::default()
            }
        };
        let lab = self.lab()?;
        let since = Instant::now();
        let tell = move |done| {
            // Short work needs no progress bar.
            if since.elapsed().as_millis() > 150 {
                let left = time_left(since.elapsed(), done);
                let _listening = deliver(Update::Working { slot, done, left });
            }
        };
        let of = instrument(slot)?;
        let figure = lab.with_progress(tell, |lab| observe(of, &run, &question.arguments, lab));
        if figure.is_err() {
            // Nothing is shown of it, and what it has is kept.
            lab.unfinished.stopped = false;
        }
        let mut figure = figure?;
        if question.until.is_some()
            && let Some((last, before)) = run.tokens.split_last()
        {
            let last = lab.visible(*last);
            figure.title = format!("{} · after {last} ({})", figure.title, before.len());
        }
        self.checked(figure.check.filter(|_| !question.is_compared_with()));
        if let Some(live) = self.live.iter_mut().find(|l| l.question == *question) {
            live.set_whole(true);
        }
        self.tell(Update::Figure {
            slot,
            unedited: question.is_compared_with(),
            figure: Box::new(figure),
        });
        let lab = self.lab()?;
        let pace = lab.pace;
        let stopped = std::mem::take(&mut lab.unfinished.stopped);
        if let Some(pace) = pace {
            self.tell(Update::Pace(pace));
        }
        if stopped {
            // The figure shows the results so far; waiting requests are dropped as after any other stop.
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    fn rewind(&mut self, position: usize) -> Result<()> {
        self.goal = None;
        let (writer, lab) = self.writer()?;
        let before = writer.hold();
        writer.rewind(lab, position)?;
        let left = writer.run.tokens.len();
        self.keep_text(before);
        self.tell(Update::Rewound(left));
        self.tell_edits();
        self.refresh();
        Ok(())
    }

    /// Reports the receipts, what the edits did at each position, and the baseline run's text.
    fn tell_edits(&self) {
        if let Some(writer) = &self.writer {
            self.tell(Update::Receipts(writer.receipts().to_vec()));
            self.tell(Update::Fired(writer.fired().to_vec()));
        }
        self.send_baseline_text();
    }
}
