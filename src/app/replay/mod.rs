//! Replay: the requests of a session, sent to the engine again one after another, until the screen is the one that was left.
//!
//! Invariant: the next request is sent when the engine has answered the one before, so that each meets the text that it met then,
//! with as many tokens as were written then. What cannot be done again is said at the end, and the rest is shown. A request of
//! the user's own ends the replay where it is. To replay another kind of request, add its arms in [`ReplayAnswer::to`] and
//! [`App::ask_again`].

mod plan;
mod waiting;

use std::collections::VecDeque;

use super::history::Experiment;
use super::session::lines::ScreenLine;
use super::session::recorded::RecordedSession;
use super::{App, Effect, FigureProgress, mark, screen_state};
use crate::edit::Edit;
use crate::engine::{Mode, PaneName, PromptSource, Request, Update};
use crate::instruments::instrument;
use crate::text;
use plan::{EditTrial, Step, plan};

/// The most things that one notice lists: more are cut on the screen, and all of these are among the notices.
const LISTED: usize = 20;

/// What a request is answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplayAnswer {
    Model,
    /// The end of writing.
    Text,
    Rewound,
    Restored,
    Edited,
    Baseline,
    Figure(PaneName),
    Group,
    Direction,
    /// It is done when it is taken up.
    Nothing,
}

impl ReplayAnswer {
    fn to(request: &Request) -> Self {
        match request {
            Request::Load { .. } => Self::Model,
            Request::Generate { .. } | Request::Continue { .. } => Self::Text,
            Request::Rewind { .. } => Self::Rewound,
            Request::Restore(_) => Self::Restored,
            Request::Edits { .. } => Self::Edited,
            Request::Beside(_) => Self::Baseline,
            Request::Observe(question) => Self::Figure(question.instrument),
            Request::Group { .. } => Self::Group,
            Request::Direction { .. } => Self::Direction,
            Request::Sampling(_)
            | Request::CountTokens { .. }
            | Request::ListModels(_)
            | Request::Stop
            | Request::Live(_)
            | Request::View { .. }
            | Request::Follow(_)
            | Request::Baseline
            | Request::Panic => Self::Nothing,
        }
    }

    /// Whether an update answers it. A failure does so too.
    fn is(self, update: &Update) -> bool {
        match self {
            Self::Model => matches!(update, Update::Loaded(_)),
            Self::Text => matches!(update, Update::Ended { .. }),
            Self::Rewound => matches!(update, Update::Rewound(_)),
            Self::Restored => matches!(update, Update::Restored(_)),
            Self::Edited => matches!(update, Update::Edited { .. }),
            Self::Baseline => matches!(update, Update::Beside { .. }),
            Self::Figure(slot) => {
                matches!(update, Update::Figure { slot: own, .. } | Update::Dropped(own) if *own == slot)
            }
            Self::Group => matches!(update, Update::Grouped(_)),
            Self::Direction => matches!(update, Update::Direction(_)),
            Self::Nothing => false,
        }
    }
}

/// The request that was sent last and is not answered.
#[derive(Debug)]
struct Awaited {
    answer: ReplayAnswer,
    /// How many requests the engine still has to take up, this one the last of them. Before, what comes is about what was asked
    /// for earlier.
    to_take: usize,
    written: Option<Vec<u32>>,
    /// The first position that was written since, and what.
    since: Option<usize>,
    ids: Vec<u32>,
    /// The edits and their mode, if it changes them.
    edits: Option<(Vec<Edit>, Mode, EditTrial)>,
    /// The prompt and how many tokens it writes, if it begins a text and what is refused there can still be found out.
    prompt: Option<(PromptSource, usize)>,
}

/// What an update says about the request that was sent last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing yet.
    Waiting,
    Done,
    /// It failed, with the reason.
    Failed(String),
}

/// A session that is being replayed.
#[derive(Debug)]
pub(super) struct Replay {
    /// The file's name, safe to show.
    name: String,
    steps: VecDeque<Step>,
    awaited: Option<Awaited>,
    /// What cannot be had, in words.
    missing: Vec<String>,
    /// The edits that the engine refused.
    refused: Vec<Edit>,
    screen: Option<ScreenLine>,
    /// The first position at which another token was written than then.
    differs: Option<usize>,
    /// How many steps there were at the beginning.
    count: usize,
}

impl Replay {
    fn of(recorded: RecordedSession) -> Self {
        let steps = plan(recorded.requests);
        Self {
            name: text::line(&recorded.path.display().to_string()),
            count: steps.len(),
            steps,
            awaited: None,
            missing: recorded.missing,
            refused: Vec::new(),
            screen: recorded.screen,
            differs: None,
        }
    }

    /// Whether the next request can be sent. One that writes on goes together with the rewinding before it, as it did then.
    fn is_free(&self) -> bool {
        let Some(awaited) = &self.awaited else {
            return true;
        };
        let next = self.steps.front().map(|step| &step.request);
        awaited.answer == ReplayAnswer::Rewound && matches!(next, Some(Request::Continue { .. }))
    }

    /// Takes in what an update says about the request that was sent last.
    pub(super) fn hear(&mut self, update: &Update) -> Heard {
        let Some(awaited) = &mut self.awaited else {
            return Heard::Waiting;
        };
        if let Update::TakenUp = update {
            awaited.to_take = awaited.to_take.saturating_sub(1);
            return match awaited.answer {
                ReplayAnswer::Nothing => Heard::Done,
                ReplayAnswer::Model
                | ReplayAnswer::Text
                | ReplayAnswer::Rewound
                | ReplayAnswer::Restored
                | ReplayAnswer::Edited
                | ReplayAnswer::Baseline
                | ReplayAnswer::Figure(_)
                | ReplayAnswer::Group
                | ReplayAnswer::Direction => Heard::Waiting,
            };
        }
        if awaited.to_take > 0 {
            return Heard::Waiting;
        }
        if let Update::Token { token, .. } = update {
            awaited.since.get_or_insert(token.position);
            awaited.ids.push(token.id);
        }
        if let Update::Failed { slot, message } = update
            && slot.is_none_or(|slot| awaited.answer == ReplayAnswer::Figure(slot))
        {
            return Heard::Failed(message.clone());
        }
        if awaited.answer.is(update) {
            Heard::Done
        } else {
            Heard::Waiting
        }
    }

    /// The request that was sent last is answered: compares what was written, and plans what a refused edit leaves.
    fn settle(&mut self, failure: Option<String>, now: &Experiment) {
        let Some(awaited) = self.awaited.take() else {
            return;
        };
        if let (Some(then), Some(since)) = (&awaited.written, awaited.since) {
            let mut pairs = then.iter().zip(&awaited.ids);
            let other = pairs.position(|(then, now)| then != now);
            let shorter = (awaited.ids.len() < then.len()).then_some(awaited.ids.len());
            let differs = other.or(shorter).map(|at| since + at);
            self.differs = self.differs.or(differs);
        }
        let Some(why) = failure else { return };
        if let Some((prompt, count)) = awaited.prompt {
            return self.begin_without(now, (prompt, count, awaited.written));
        }
        let Some((edits, mode, trial)) = awaited.edits else {
            return self.miss(&why);
        };
        match trial {
            EditTrial::All => {
                let step = |trial| Step {
                    request: Request::Edits {
                        edits: edits.clone(),
                        mode,
                    },
                    written: None,
                    trial,
                };
                self.steps.push_front(step(EditTrial::Rest));
                for (at, _) in edits.iter().enumerate().rev().filter(|(_, edit)| edit.on) {
                    self.steps.push_front(step(EditTrial::One(at)));
                }
            }
            EditTrial::One(at) => {
                self.refused.extend(edits.get(at).cloned());
                self.miss(&why);
            }
            EditTrial::Rest => self.miss(&why),
        }
    }

    /// A text did not begin under these edits, and it is only with a text that the engine looks at them: it is begun without, then
    /// each of them is tried, and then the text is begun again.
    fn begin_without(
        &mut self,
        now: &Experiment,
        (prompt, count, written): (PromptSource, usize, Option<Vec<u32>>),
    ) {
        let step = |request, written, trial| Step {
            request,
            written,
            trial,
        };
        let edits = |edits| Request::Edits {
            edits,
            mode: now.mode,
        };
        let mut off = now.edits.clone();
        off.iter_mut().for_each(|edit| edit.on = false);
        let generate = |prompt, count| Request::Generate { prompt, count };
        let again = [
            step(edits(off), None, EditTrial::Rest),
            step(generate(prompt.clone(), 0), None, EditTrial::Rest),
            step(edits(now.edits.clone()), None, EditTrial::All),
            step(generate(prompt, count), written, EditTrial::Rest),
        ];
        again
            .into_iter()
            .rev()
            .for_each(|step| self.steps.push_front(step));
    }

    fn miss(&mut self, what: &str) {
        let what = text::line(what.trim_end_matches('.'));
        if !self.missing.contains(&what) {
            self.missing.push(what);
        }
    }

    fn is_refused(&self, edit: &Edit) -> bool {
        self.refused.iter().any(|refused| refused.same(edit))
    }

    /// What is not as it was, in a sentence.
    fn in_words(&self) -> Option<String> {
        let mut parts = self.missing.clone();
        // The last one takes no more room than its number.
        if parts.len() > LISTED + 1 {
            let rest = parts.split_off(LISTED).len();
            parts.push(format!("{rest} more"));
        }
        if let Some(position) = self.differs {
            parts.push(format!(
                "from token {position} on the text is another one than then"
            ));
        }
        (!parts.is_empty()).then(|| {
            let parts = parts.join("; ");
            format!(
                "{} is shown as far as possible. Missing: {parts}",
                self.name
            )
        })
    }
}

impl App {
    /// Opens a session in place of the present one, which is kept.
    pub(super) fn open_session(&mut self, recorded: RecordedSession) -> Vec<Effect> {
        let mut settings = self.settings_of_another();
        let load = recorded.requests.iter().find_map(|row| {
            if let Request::Load { model, options } = &row.request {
                Some((model, options))
            } else {
                None
            }
        });
        let at_work = self.model.is_some() || self.loading.is_some();
        if let Some((model, then)) = load {
            settings.model.clone_from(model);
            // The flags of `--resume` come before what the file says; those of another session do not.
            let own = Some(settings.options.clone())
                .filter(|_| !at_work)
                .unwrap_or_default();
            settings.options.dtype = own.dtype.or_else(|| then.dtype.clone());
            // A split belongs to the devices that it was given with.
            settings.options.split = if own.split.is_empty() && own.device.is_none() {
                then.split.clone()
            } else {
                own.split
            };
            settings.options.device = own.device.or_else(|| then.device.clone());
            settings.options.context = own.context.or(then.context);
        }
        let folder = settings.session.clone();
        let before = self.begin_another(settings);
        self.session = before.session.to_replay(folder, &recorded.path);
        let prompts = recorded.requests.iter().filter_map(|row| {
            if let Request::Generate { prompt, .. } = &row.request {
                Some(prompt)
            } else {
                None
            }
        });
        let own = |prompt: &&PromptSource| !matches!(prompt, PromptSource::Spliced { .. });
        self.last = prompts.clone().rfind(own).cloned();
        let words = prompts.filter_map(|prompt| Some(prompt.words()?.0.to_string()));
        self.prompt.remember(words.collect());
        let screen = recorded.screen.clone();
        let mut replay = Replay::of(recorded);
        let missing = screen.map(|screen| self.restore_screen(&screen));
        missing.iter().flatten().for_each(|what| replay.miss(what));
        self.inform(format!("opening {}", replay.name));
        self.replay = Some(replay);
        let mut effects = Vec::new();
        if at_work {
            effects.push(Effect::Cancel);
        }
        effects.extend(self.replay_on(None));
        effects
    }

    /// Sends the next requests of the session that is being replayed, after the last one was answered.
    pub(super) fn replay_on(&mut self, failure: Option<String>) -> Vec<Effect> {
        let Some(mut replay) = self.replay.take() else {
            return Vec::new();
        };
        let loads = |awaited: &Awaited| awaited.answer == ReplayAnswer::Model;
        if failure.is_some() && replay.awaited.as_ref().is_some_and(loads) {
            self.session.stop_replaying();
            self.inform(format!(
                "{} is opened when its model is loaded; L tries again",
                replay.name
            ));
            replay.awaited = None;
            replay.steps.push_front(Step::load(&self.settings));
            self.unopened = Some(replay);
            return Vec::new();
        }
        replay.settle(failure, self.history.now());
        let mut effects = Vec::new();
        while replay.is_free() {
            let Some(step) = replay.steps.pop_front() else {
                effects.extend(self.end_replay(&replay));
                return effects;
            };
            effects.extend(self.ask_again(step, &mut replay));
        }
        self.replay = Some(replay);
        effects
    }

    /// Everything was asked for: puts the cursor back, and says what is missing.
    fn end_replay(&mut self, replay: &Replay) -> Vec<Effect> {
        let screen = replay.screen.as_ref();
        let effects = screen.map(|screen| self.restore_in_text(screen));
        let screen = self.screen_line();
        self.session.replayed(screen);
        match replay.in_words() {
            Some(sentence) => self.warn_loudly(sentence),
            None => self.inform(format!("opened {}", replay.name)),
        }
        effects.unwrap_or_default()
    }

    /// The user goes on before everything is there.
    pub(super) fn stop_replay(&mut self) {
        let Some(replay) = self.replay.take() else {
            return;
        };
        self.session.stop_replaying();
        self.warn(format!(
            "{} was opened up to here; :open opens it again",
            replay.name
        ));
    }

    /// Whether a session is being replayed.
    pub fn is_replaying(&self) -> bool {
        self.replay.is_some()
    }

    /// Whether an update is about what was asked for before the session was opened.
    pub(super) fn is_outdated(&self) -> bool {
        self.replay.is_some() && self.session.is_behind()
    }

    /// What an update says about the replay.
    pub(super) fn hear_replay(&mut self, update: &Update) -> Heard {
        let replay = self.replay.as_mut();
        replay.map_or(Heard::Waiting, |replay| replay.hear(update))
    }

    /// Records the screen, and ends the session. Returns a sentence if it could not be kept.
    pub fn finish_session(&mut self) -> Option<String> {
        let screen = self.screen_line();
        self.session.finish(Some(screen))
    }

    /// Does what a step says, and notes what it waits for; a step that cannot be done is left out.
    fn ask_again(&mut self, step: Step, replay: &mut Replay) -> Vec<Effect> {
        let Step {
            request,
            written,
            trial,
        } = step;
        let before = replay.awaited.take().map_or(0, |awaited| awaited.to_take);
        let mut awaited = Awaited {
            answer: ReplayAnswer::to(&request),
            to_take: before + usize::from(request.is_about_text()),
            written,
            since: None,
            ids: Vec::new(),
            edits: None,
            prompt: None,
        };
        let effects = match request {
            Request::Load { .. } => self.load(),
            Request::Generate { prompt, count } => {
                if trial == EditTrial::All && self.history.active() > 0 {
                    awaited.prompt = Some((prompt.clone(), count));
                }
                self.with_count(count, |app| app.send_prompt(prompt))
            }
            Request::Continue { count } => self.with_count(count, Self::continue_generating),
            Request::Rewind { position } => {
                self.cursor.follow = true;
                vec![self.send_request(Request::Rewind { position })]
            }
            Request::Restore(number) => {
                let Some((way, held)) = self.history.take_text(number) else {
                    replay.miss("a text that undo brought back");
                    return Vec::new();
                };
                self.bring_back(way, held)
            }
            Request::Sampling(sampling) => {
                self.history.change(|state| state.sampling = sampling);
                vec![self.send_request(Request::Sampling(sampling))]
            }
            Request::Beside(beside) => {
                self.history.change(|state| state.baseline_mode = beside);
                vec![self.send_request(Request::Beside(beside))]
            }
            Request::Edits { edits, mode } => {
                let mut rows = edits.clone();
                for (at, row) in rows.iter_mut().enumerate() {
                    let tried = match trial {
                        EditTrial::All | EditTrial::Rest => true,
                        EditTrial::One(last) => at <= last,
                    };
                    row.on = row.on && tried && !replay.is_refused(row);
                    if let Some(model) = &self.model {
                        *row = row
                            .on(&model.card.blueprint)
                            .unwrap_or_else(|_| row.clone());
                    }
                }
                awaited.edits = Some((edits, mode, trial));
                self.history.change(|state| {
                    (state.edits, state.mode) = (rows, mode);
                });
                self.mark_outdated(mode);
                self.drop_outdated_baseline();
                vec![self.ask_edits()]
            }
            Request::Observe(question) => {
                let slot = question.instrument;
                let read = instrument(slot).and_then(|of| of.read(&question.arguments));
                let arguments = match read {
                    Ok(arguments) => arguments,
                    Err(error) => {
                        replay.miss(&format!("the figure {slot}: {error}"));
                        return Vec::new();
                    }
                };
                self.change_figure(slot, |shown| {
                    shown.arguments = arguments;
                    shown.until = question.until;
                    shown.working = Some(FigureProgress::default());
                    shown.forget_followed();
                });
                vec![self.send_request(Request::Observe(question))]
            }
            Request::Group { name, set, save } => {
                let units = set.units.iter();
                let marks = units.map(|(layer, unit)| mark::Mark {
                    at: set.site.at(usize::from(*layer)),
                    unit: *unit,
                });
                let marks: Vec<mark::Mark> = marks.collect();
                let card = self.model.as_ref().map(|model| &model.card);
                let lacks = |mark: &mark::Mark| {
                    card.is_some_and(|card| !screen_state::has_unit(card, *mark))
                };
                if marks.iter().any(lacks) {
                    replay.miss(&format!(
                        "the unit set {{{name}}}, of which this model lacks units"
                    ));
                    return Vec::new();
                }
                self.groups.insert(name.clone(), marks);
                vec![self.send_request(Request::Group { name, set, save })]
            }
            Request::Direction { .. } => vec![self.send_request(request)],
            // None of these is recorded.
            Request::CountTokens { .. }
            | Request::ListModels(_)
            | Request::Stop
            | Request::Live(_)
            | Request::View { .. }
            | Request::Follow(_)
            | Request::Baseline
            | Request::Panic => return Vec::new(),
        };
        replay.awaited = Some(awaited);
        effects
    }

    /// Does something that writes at most so many tokens.
    fn with_count(
        &mut self,
        count: usize,
        ask: impl FnOnce(&mut Self) -> Vec<Effect>,
    ) -> Vec<Effect> {
        let usual = std::mem::replace(&mut self.settings.count, count);
        let effects = ask(self);
        self.settings.count = usual;
        effects
    }
}
