//! Handles the engine's updates.
//!
//! Invariant: an update about something that no longer exists changes nothing; if a figure fails, the previous one stays. To
//! handle a new update, add its arm in [`App::answer`].

use super::baseline::{self, Baseline};
use super::commands::{default_place, offered_edit};
use super::history::{ReplacedText, UndoOrRedo};
use super::layout::Pane;
use super::notice::Level;
use super::prompt_work::PromptLength;
use super::replay::Heard;
use super::shown_figure::EARLIER_TEXT;
use super::transcript::{Activity, Transcript};
use super::{App, Effect, FigureProgress, ShownFigure, mark};
use crate::edit::receipt::{Receipt, keep_effects};
use crate::edit::{Edit, EditPlace};
use crate::engine::{
    Ending, FigureRequest, KnownDirection, Loaded, PaneName, Request, Token, Update,
};
use crate::figure::Figure;
use crate::figure::column::Column;
use crate::instruments::{INSTRUMENTS, complete, grow, instrument};
use crate::lab::writer::BaselineMode;

impl App {
    pub(super) fn apply_update(&mut self, update: Update) -> Vec<Effect> {
        if let Some(failure) = self.session.hear(&update) {
            self.notices.say(self.now, Level::Error, failure);
        }
        if self.is_outdated() {
            return Vec::new();
        }
        match self.hear_replay(&update) {
            Heard::Waiting => self.apply(update, true),
            Heard::Done => {
                let mut effects = self.apply(update, true);
                effects.extend(self.replay_on(None));
                effects
            }
            Heard::Failed(why) => {
                // It is said at the end, with all that is missing; but for a model, without which there is no end.
                let mut effects = self.apply(update, self.model.is_none());
                effects.extend(self.replay_on(Some(why)));
                effects
            }
        }
    }

    /// Takes in an update; says that something failed if that is `said`.
    fn apply(&mut self, update: Update, said: bool) -> Vec<Effect> {
        match update {
            // It is of use to those who count requests.
            Update::TakenUp => {}
            Update::Loading(phase) => self.loading = Some(phase),
            Update::Loaded(loaded) => return self.loaded(*loaded),
            Update::Counted { text, chat, tokens } => {
                self.prompt_counted = Some(PromptLength { text, chat, tokens });
            }
            Update::Models(models) => self.show_models(models),
            Update::Began(tokens) => self.receive_start(tokens),
            Update::Token { token, receipts } => self.receive_token(token, receipts),
            Update::Ended {
                ending,
                written,
                rate,
            } => return self.ended(ending, written, rate),
            Update::Refused(edits) => {
                self.history.revert_refused(&edits);
                self.inform("the edits were not changed");
            }
            Update::Kept(number) => self.history.keep(ReplacedText {
                number,
                text: self.transcript.clone(),
            }),
            Update::Rewound(left) => self.rewound(left),
            Update::Restored(number) => return self.restored(number),
            Update::Edited { boundary, receipts } => self.edited(boundary, receipts),
            Update::Figure {
                slot,
                unedited,
                figure,
            } => return self.receive_figure(slot, unedited, *figure),
            Update::Column { slot, column } => self.receive_column(slot, *column),
            Update::Completed { slot, column } => self.receive_completed(slot, *column),
            Update::Working { slot, done, left } => {
                self.change_figure(slot, |s| s.working = Some(FigureProgress { done, left }));
            }
            Update::Dropped(slot) => self.change_figure(slot, ShownFigure::cancel_request),
            Update::Pace(pace) => self.pace = Some(pace),
            Update::Checked(check) => self.check = Some(check),
            Update::NotFinite(way_out) => self.transcript.not_finite = Some(way_out),
            Update::Receipts(receipts) => self.receipts = receipts,
            Update::Fired(fired) => self.transcript.refire(&fired),
            Update::Beside {
                beside,
                tokens,
                diverged,
            } => self.receive_baseline_mode(beside, tokens, diverged),
            Update::Grouped(name) => self.receive_unit_set(&name),
            Update::Baseline { tokens, diverges } => self.receive_baseline(tokens, diverges),
            Update::Direction(known) => self.receive_direction(&known),
            Update::Noted(sentence) => self.warn(sentence),
            Update::Failed { slot, message } => return self.failed(slot, message, said),
        }
        Vec::new()
    }

    fn receive_token(&mut self, token: Token, receipts: Vec<Receipt>) {
        self.receipts = keep_effects(&self.receipts, receipts);
        if let Some(baseline) = self.baseline.as_mut().filter(|b| b.live) {
            baseline.grow(&token, self.baseline_mode);
        }
        self.transcript.push(token, self.baseline_mode);
        self.restore_cursor();
        self.follow();
    }

    /// The engine has changed the baseline mode.
    fn receive_baseline_mode(
        &mut self,
        beside: BaselineMode,
        tokens: Vec<Token>,
        diverged: Option<usize>,
    ) {
        self.baseline_mode = beside;
        if !beside.is_lockstep() {
            if self.baseline.take_if(|b| b.live).is_some() {
                self.compare = false;
            }
            return;
        }
        let written = self.transcript.tokens.iter().skip(self.transcript.prompt);
        self.baseline = Some(match beside {
            BaselineMode::OwnText if !tokens.is_empty() => Baseline::live(tokens, diverged),
            BaselineMode::Forced => {
                // Tokens generated before the mode was `Forced` were chosen by the edited run itself.
                let forced = |t: &&Token| self.transcript.baseline_mode_at(t.position) == beside;
                let chosen = written.map(|t| {
                    let other = Some(t).filter(forced).and_then(|t| t.other.as_deref());
                    other.cloned().unwrap_or_else(|| baseline::plain(t))
                });
                Baseline::live(chosen, diverged)
            }
            BaselineMode::Nothing | BaselineMode::SameText | BaselineMode::OwnText => {
                Baseline::live(written.map(baseline::plain), diverged)
            }
        });
    }

    /// A set of units has been named: offers an edit that ablates it.
    fn receive_unit_set(&mut self, name: &str) {
        let Some(site) = self
            .groups
            .get(name)
            .and_then(|marks| marks.first())
            .map(|mark| mark.at.site)
        else {
            return;
        };
        let edit = mark::group(name, site);
        let rows = self.history.edits();
        let place = rows.iter().position(|e| e.same(&edit));
        let number = place.unwrap_or(rows.len()) + 1;
        if place.is_none() {
            self.history.add_offered_edit(&edit);
        }
        self.inform(format!(
            "kept as {{{name}}}: {number} turns {edit} on, and any edit can use it"
        ));
    }

    pub(super) fn change_figure(&mut self, slot: PaneName, change: impl FnOnce(&mut ShownFigure)) {
        if let Some(shown) = self.shown.get_mut(slot) {
            change(shown);
        }
    }

    fn loaded(&mut self, loaded: Loaded) -> Vec<Effect> {
        self.loading = None;
        self.unopened = None;
        self.directions.clone_from(&loaded.directions);
        if !loaded.notes.is_empty() {
            self.warn(loaded.notes.join(" "));
        }
        self.cursor.layer = loaded.card.layers.saturating_sub(1);
        let mut rows = Vec::new();
        for (path, preset) in std::mem::take(&mut self.settings.presets) {
            if let Some(caution) = preset.caution(&path, &loaded.card) {
                self.warn(caution);
            }
            self.history.start_in_mode(preset.mode);
            rows.extend(preset.edits);
        }
        rows.append(&mut self.settings.edits);
        // An edit that cannot be resolved here is refused when it is sent, with the reason.
        let understood = |row: Edit| row.on(&loaded.card.blueprint).unwrap_or(row);
        rows = rows.into_iter().map(understood).collect();
        let missing = |e: &Edit| !rows.iter().any(|r| r.direction() == e.direction());
        let offered: Vec<Edit> = self
            .directions
            .iter()
            .map(offered_edit)
            .filter(missing)
            .collect();
        rows.extend(offered);
        let chosen = !rows.iter().any(|e| e.on);
        self.history.set_initial_edits(rows);
        self.model = Some(loaded);
        if !self.chat_possible() && self.settings.chat {
            self.settings.chat = false;
            self.warn("this model has no chat template; prompts are raw text");
        }
        self.watched.clear();
        if self.is_replaying() {
            self.check_marks();
            // Its own requests say how the text is written, and under which edits.
            return self.update_live_instruments().into_iter().collect();
        }
        let mut effects = vec![self.send_request(Request::Sampling(self.history.sampling()))];
        effects.extend(self.update_live_instruments());
        if !chosen {
            effects.push(self.ask_edits());
        }
        if let Some(text) = self.settings.prompt.take() {
            let chat = self.settings.chat;
            effects.extend(self.start(text, chat));
        }
        effects
    }

    /// The requests of live instruments: those with a place on the screen, and those that are always live.
    pub(super) fn live(&self) -> Vec<FigureRequest> {
        let Some(model) = &self.model else {
            return Vec::new();
        };
        let asked = |name: PaneName| {
            self.shown
                .get(name)
                .map(|s| s.arguments.clone())
                .unwrap_or_default()
        };
        let question = |name: PaneName| FigureRequest {
            instrument: name,
            arguments: asked(name),
            unedited: false,
            other: None,
            until: None,
        };
        let panes = self.panes();
        let live = INSTRUMENTS
            .iter()
            .filter(|of| {
                of.steady()
                    || [self.layout.figure, self.layout.second].contains(&of.name())
                    || panes.contains(&Pane::Figure(of.name()))
            })
            .filter(|i| i.live(&model.card, &asked(i.name())));
        live.map(|i| question(i.name())).collect()
    }

    /// Sends the list of live instruments to the engine, if it has changed. The figure of an instrument that is no longer live
    /// is marked as outdated; that of a new one is shown as being made.
    pub(super) fn update_live_instruments(&mut self) -> Option<Effect> {
        let live = self.live();
        if live == self.watched {
            return None;
        }
        let before = std::mem::replace(&mut self.watched, live.clone());
        let within =
            |list: &[FigureRequest], slot: PaneName| list.iter().any(|q| q.instrument == slot);
        for question in &before {
            if !within(&live, question.instrument) {
                self.change_figure(question.instrument, |s| {
                    s.stale = s.figure.is_some().then_some(EARLIER_TEXT);
                });
            }
        }
        if !self.transcript.tokens.is_empty() {
            for question in live.iter().filter(|q| !before.contains(q)) {
                self.change_figure(question.instrument, |s| {
                    s.working = Some(FigureProgress::default());
                });
            }
        }
        Some(self.send_request(Request::Live(live)))
    }

    /// Whether an instrument's figure grows with the text.
    pub(super) fn is_live(&self, slot: PaneName) -> bool {
        self.live().iter().any(|q| q.instrument == slot)
    }

    fn receive_start(&mut self, tokens: Vec<Token>) {
        self.history.text_replaced(0);
        let ids = |tokens: &[Token]| tokens.iter().map(|t| t.id).collect::<Vec<_>>();
        let before = &self.transcript.tokens;
        let again = !before.is_empty() && ids(before).starts_with(&ids(&tokens));
        self.transcript.begin(tokens, self.now, self.baseline_mode);
        self.transcript.source.clone_from(&self.last);
        self.show_presets = false;
        self.baseline = self
            .baseline_mode
            .is_lockstep()
            .then(|| Baseline::live([], None));
        self.baseline_asked = false;
        self.check = None;
        // What the edits did to another text says nothing about this one.
        let receipts = self.receipts.drain(..);
        self.receipts = receipts
            .map(|receipt| receipt.with_effects_of(&Receipt::default()))
            .collect();
        self.in_force = self.history.in_force();
        self.place_cursor_for_run(again);
        self.follow();
        self.forget_figures();
    }

    /// The engine has restored a text; the text that it replaced can be restored in turn.
    fn restored(&mut self, number: u64) -> Vec<Effect> {
        let Some((way, lost)) = self.history.take_restored(number) else {
            return Vec::new();
        };
        self.transcript = lost.text;
        self.transcript.not_finite = None;
        self.transcript.activity = Activity::Idle;
        self.transcript.since = None;
        self.last.clone_from(&self.transcript.source);
        self.show_presets = false;
        self.baseline = None;
        self.baseline_asked = false;
        self.check = None;
        self.follow();
        self.forget_figures();
        let word = match way {
            Some(UndoOrRedo::Back) => Some("undone"),
            Some(UndoOrRedo::Forth) => Some("redone"),
            // The undo itself has been reported already.
            None => None,
        };
        if let Some(word) = word {
            self.inform(format!(
                "{word}: the text is as it was, {} tokens",
                self.transcript.tokens.len()
            ));
        }
        if self.difference {
            self.ask_unedited()
        } else {
            Vec::new()
        }
    }

    /// A new text has replaced the old one: live figures are dropped and come anew; other figures are marked as outdated.
    fn forget_figures(&mut self) {
        let live: Vec<PaneName> = self.live().iter().map(|q| q.instrument).collect();
        let own: Vec<u32> = self.transcript.tokens.iter().map(|t| t.id).collect();
        for (slot, shown) in &mut self.shown {
            // A text that was brought back may be the one that a figure is of.
            let same = |figure: &Figure| figure.provenance.tokens == own;
            if live.contains(slot) {
                *shown = ShownFigure {
                    arguments: shown.arguments.clone(),
                    spot: shown.spot,
                    number: shown.number,
                    sorted: shown.sorted.clone(),
                    aside: shown.aside,
                    ..ShownFigure::default()
                };
            } else if shown.figure.as_ref().is_some_and(same) {
                shown.stale = shown.stale.filter(|s| *s != EARLIER_TEXT);
            } else if shown.figure.is_some() && shown.is_about_text(slot) {
                shown.stale = Some(EARLIER_TEXT);
            }
            shown.forget_difference();
            if shown.asked_at.is_some() {
                shown.forget_followed();
                shown.failed = None;
            }
        }
    }

    /// Moves the cursor to the newest token if it follows the text.
    pub(super) fn follow(&mut self) {
        let last = self.transcript.tokens.len().saturating_sub(1);
        if self.cursor.follow || self.cursor.position > last {
            self.cursor.position = last;
        }
    }

    fn ended(&mut self, ending: Ending, written: usize, rate: f32) -> Vec<Effect> {
        self.transcript.activity = Activity::Idle;
        self.transcript.ending = Some(ending);
        self.transcript.since = None;
        if written > 0 {
            self.transcript.rate = Some(rate);
        }
        match ending {
            Ending::Context => self.warn("the context is full; r rewinds, n starts a new text"),
            Ending::Count | Ending::EndToken | Ending::Stopped | Ending::NotFinite => {}
        }
        if self.difference {
            self.ask_unedited()
        } else {
            Vec::new()
        }
    }

    fn rewound(&mut self, left: usize) {
        self.history.text_replaced(left);
        self.transcript.truncate(left);
        self.transcript.not_finite = None;
        self.baseline = None;
        self.follow();
        let live: Vec<PaneName> = self.live().iter().map(|q| q.instrument).collect();
        for (slot, shown) in &mut self.shown {
            let about = shown.is_about_text(slot);
            if let Some(figure) = &mut shown.figure {
                if live.contains(slot) {
                    figure.truncate(left as u32);
                } else if about && figure.provenance.tokens.len() > left {
                    // This figure does not come anew by itself, and it contains tokens that were removed.
                    shown.stale = Some(EARLIER_TEXT);
                }
            }
            shown.forget_difference();
        }
    }

    fn edited(&mut self, boundary: Option<usize>, receipts: Vec<Receipt>) {
        self.history.schedule_forgotten();
        self.receipts = receipts;
        self.transcript.not_finite = None;
        let now = self.history.in_force();
        let before = std::mem::replace(&mut self.in_force, now);
        match boundary {
            Some(position) => {
                // The end of the prompt is a boundary as well if the edits changed after it.
                self.transcript.mark(position, &before, &self.in_force);
                self.transcript.keep_boundaries(|b| b <= position);
            }
            None => self.transcript.keep_boundaries(|_| false),
        }
    }

    fn receive_figure(&mut self, slot: PaneName, unedited: bool, figure: Figure) -> Vec<Effect> {
        let (mut problem, mut anew, mut failed, mut saved) = (None, false, None, None);
        let title = figure.title.clone();
        let text = self.text_excerpt();
        let two = unedited || self.shown.get(slot).is_some_and(|s| s.unedited.is_some());
        let counterparts = two.then(|| self.counterparts()).flatten();
        self.change_figure(slot, |s| {
            s.working = None;
            failed = s.failed.take();
            s.until_it_works = None;
            saved = s.arguments.forget_saved();
            if unedited {
                s.unedited = Some(figure);
            } else {
                // Under other edits the answer may be another token, for which the unedited run must be measured again.
                anew = s
                    .unedited
                    .take_if(|u| counterparts.is_none() && !u.same_tokens_followed(&figure))
                    .is_some();
                if s.asked_at.is_some() {
                    s.keep_followed();
                }
                s.figure = Some(figure);
                s.stale = None;
                s.text = text;
            }
            s.show_chosen();
            s.difference = match (&s.figure, &s.unedited) {
                (Some(own), Some(other)) => Self::subtract(counterparts.as_ref(), own, other)
                    .map_err(|e| problem = Some(e.to_string()))
                    .ok(),
                _ => None,
            };
            s.refused.clone_from(&problem);
        });
        // What failed before has been done now.
        self.notices.take_back(failed.as_deref());
        if let Some(file) = saved {
            self.inform(format!("written: {file} ({title})"));
        }
        // Of a kept text its own figure is shown then, and the reason stands below it.
        if let Some(problem) = problem.filter(|_| self.difference && self.reference.is_none()) {
            self.warn(problem);
        }
        if anew && self.difference && slot == self.layout.figure {
            return self.ask_unedited();
        }
        Vec::new()
    }

    fn receive_column(&mut self, slot: PaneName, column: Column) {
        let text = self.text_excerpt();
        self.change_figure(slot, |s| {
            s.text = text;
            s.difference = None;
            s.refused = None;
            if let (Some(figure), Ok(of)) = (&mut s.figure, instrument(slot)) {
                grow(of, figure, column);
            }
        });
    }

    /// Columns that are there already, with the layers that were left for later.
    fn receive_completed(&mut self, slot: PaneName, column: Column) {
        let again = self.shown.get(slot).is_some_and(|s| s.difference.is_some());
        let counterparts = again.then(|| self.counterparts()).flatten();
        self.change_figure(slot, |s| {
            if let (Some(figure), Ok(of)) = (&mut s.figure, instrument(slot)) {
                complete(of, figure, column);
            }
            // A difference from unread cells says nothing of them.
            if let (true, Some(edited), Some(unedited)) = (again, &s.figure, &s.unedited) {
                s.difference = Self::subtract(counterparts.as_ref(), edited, unedited).ok();
            }
        });
    }

    fn receive_baseline(&mut self, tokens: Vec<Token>, diverges: Option<usize>) {
        self.baseline_asked = false;
        let mut text = Transcript::default();
        for token in tokens {
            text.join(token);
        }
        self.baseline = Some(Baseline {
            text,
            diverges,
            live: false,
        });
    }

    fn receive_direction(&mut self, known: &KnownDirection) {
        let (name, about) = (&known.name, known.about());
        self.directions.retain(|d| d.name != *name);
        self.directions.push(known.clone());
        if !self.history.edits().iter().any(|e| e.direction() == name) {
            self.history.add_offered_edit(&offered_edit(known));
        }
        let number = self
            .history
            .edits()
            .iter()
            .position(|e| e.direction() == name)
            .map_or(0, |i| i + 1);
        self.inform(format!(
            "the direction {name} is ready ({about}); {number} turns it on"
        ));
    }

    fn failed(&mut self, slot: Option<PaneName>, message: String, said: bool) -> Vec<Effect> {
        // A request to a model that failed to load; the reason for that is shown already.
        let echo = slot.is_none()
            && self.model.is_none()
            && self.loading.is_none()
            && self.notices.shown().is_some();
        let mut effects = Vec::new();
        if let Some(slot) = slot {
            let mut back = false;
            self.change_figure(slot, |s| {
                s.working = None;
                // What worked before is shown on, and asked for again.
                if let Some(before) = s.until_it_works.take() {
                    s.arguments = before;
                    back = true;
                }
                s.failed = Some(message.clone()).filter(|_| s.figure.is_none() || !back);
            });
            if back {
                effects.extend(self.update_live_instruments());
            }
        } else {
            self.transcript.activity = Activity::Idle;
            self.baseline_asked = false;
            self.history.restoring_failed();
            if self.model.is_none() {
                self.loading = None;
            }
        }
        if said && !echo {
            self.notices.say(self.now, Level::Error, message);
        }
        effects
    }

    /// The address at which a direction was measured.
    pub(super) fn measured_place(&self, direction: &str) -> Option<EditPlace> {
        self.directions
            .iter()
            .find(|d| d.name == direction)
            .map(default_place)
    }
}
