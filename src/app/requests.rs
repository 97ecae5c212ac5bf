//! Requests that the app sends to the engine, and what changes in the app at once while it waits for the answer.
//!
//! Invariant: every request goes through [`App::send_request`], which records it in the session. To send a new request, add a
//! method that returns effects.

use super::commands;
use super::cursor::{self, CursorMove};
use super::history::{Experiment, HistoryStep as Undo, ReplacedText, UndoOrRedo};
use super::layout::Pane;
use super::notice::Level;
use super::shown_figure::EARLIER_TEXT;
use super::transcript::{Activity, Transcript, column_of, line_of, token_at};
use super::{App, CursorFocus, Effect, FigureProgress, ShownFigure, baseline, mark};
use crate::edit::Edit;
use crate::engine::{Ending, FigureRequest, Mode, PaneName, PromptSource, Request};
use crate::figure::graph::PRUNED_TO;
use crate::figure::{Anchor, Body};
use crate::instruments::{Arguments, Instrument, ParamKind, instrument};

impl App {
    /// Records a request in the session and turns it into an effect.
    pub(super) fn send_request(&mut self, request: Request) -> Effect {
        if request.is_about_text() {
            // One of the user's own: a replay sends its requests while it is taken out.
            self.stop_replay();
        }
        if let Some(failure) = self.session.note(&request) {
            self.notices.say(self.now, Level::Error, failure);
        }
        Effect::Ask(request)
    }

    /// Starts a new text with a plain prompt.
    pub(super) fn start(&mut self, text: String, chat: bool) -> Vec<Effect> {
        self.start_prompt(if chat {
            PromptSource::Chat(text)
        } else {
            PromptSource::Text(text)
        })
    }

    /// Starts a new text.
    pub(super) fn start_prompt(&mut self, prompt: PromptSource) -> Vec<Effect> {
        self.last = Some(prompt.clone());
        self.send_prompt(prompt)
    }

    /// Starts a text that is no prompt of its own, but is made from the one that is shown.
    pub(super) fn send_prompt(&mut self, prompt: PromptSource) -> Vec<Effect> {
        self.show_presets = false;
        self.compare &= self.baseline_mode.is_lockstep() || self.reference.is_some();
        self.transcript.activity = Activity::Reading;
        self.transcript.since = Some((self.now, 0));
        vec![self.send_request(Request::Generate {
            prompt,
            count: self.settings.count,
        })]
    }

    /// The words of the prompt that was run last, and whether they are a turn of chat; none of one that is no plain text.
    pub(super) fn last_words(&self) -> Option<(String, bool)> {
        let (text, chat) = self.last.as_ref()?.words()?;
        Some((text.to_string(), chat))
    }

    /// Generates more tokens.
    pub(super) fn continue_generating(&mut self) -> Vec<Effect> {
        self.transcript.activity = Activity::Writing;
        self.transcript.since = Some((self.now, 0));
        self.drop_outdated_baseline();
        vec![self.send_request(Request::Continue {
            count: self.settings.count,
        })]
    }

    /// Cuts the text at a position and generates from there.
    pub(super) fn rewind(&mut self, position: usize) -> Vec<Effect> {
        self.cursor.follow = true;
        let cut = self.send_request(Request::Rewind { position });
        let mut effects = vec![cut];
        effects.extend(self.continue_generating());
        effects
    }

    /// The pane in which the shown figure was opened, which is left for it; none if it was not opened in another.
    pub(super) fn opened_from(&mut self) -> Option<PaneName> {
        let (_, from) = self
            .opened
            .pop_if(|(slot, _)| *slot == self.layout.figure)?;
        Some(from)
    }

    /// Stops generation.
    pub(super) fn stop(&mut self) -> Vec<Effect> {
        if self.transcript.activity == Activity::Reading {
            self.transcript.activity = Activity::Idle;
        }
        self.stop_replay();
        vec![Effect::Cancel, self.send_request(Request::Stop)]
    }

    /// Changes the edits and sends them, unless nothing changed.
    pub(super) fn edit(&mut self, with: impl FnOnce(&mut Vec<Edit>)) -> Vec<Effect> {
        self.change(|state| with(&mut state.edits))
    }

    /// Changes the experiment as one step of undo, and sends what is different.
    pub(super) fn change(&mut self, with: impl FnOnce(&mut Experiment)) -> Vec<Effect> {
        let before = self.history.change(with);
        before.map_or_else(Vec::new, |before| self.send_changes(&before))
    }

    /// Undoes or redoes one step, and says what it changed.
    pub(super) fn step(&mut self, way: UndoOrRedo) -> Vec<Effect> {
        match self.history.take_step(way) {
            None => Vec::new(),
            Some(Undo::State(before, text)) => {
                let ids = |t: &Transcript| t.tokens.iter().map(|t| t.id).collect::<Vec<_>>();
                let same = |lost: &ReplacedText| ids(&lost.text) == ids(&self.transcript);
                let effects = match text.filter(|lost| same(lost)) {
                    // Nothing was generated since, so the text is restored with its edit schedule.
                    Some(lost) => self.bring_back(None, lost),
                    None => self.send_changes(&before),
                };
                self.inform(step_in_words(way, &before, self.history.now()));
                effects
            }
            Some(Undo::Text(lost)) => self.bring_back(Some(way), lost),
        }
    }

    pub(super) fn bring_back(
        &mut self,
        way: Option<UndoOrRedo>,
        lost: ReplacedText,
    ) -> Vec<Effect> {
        let number = lost.number;
        self.history.begin_restoring(way, lost);
        vec![self.send_request(Request::Restore(number))]
    }

    /// Sends what differs from the state before.
    fn send_changes(&mut self, before: &Experiment) -> Vec<Effect> {
        let (sampling, mode) = (self.history.sampling(), self.history.mode());
        let beside = self.history.now().baseline_mode;
        let mut effects = Vec::new();
        if sampling != before.sampling {
            effects.push(self.send_request(Request::Sampling(sampling)));
        }
        if beside != before.baseline_mode {
            effects.push(self.send_request(Request::Beside(beside)));
        }
        // If edits now also apply to what was read before, the text must be read again even if the edits themselves are the
        // same.
        let again = mode != before.mode && mode == Mode::AsIfAlways && self.history.active() > 0;
        if again || self.history.edits() != before.edits {
            let on = |e: &&Edit| e.active();
            let now = self.history.edits().iter().filter(on);
            if again || !now.eq(before.edits.iter().filter(on)) {
                self.mark_outdated(self.history.mode());
                self.drop_outdated_baseline();
            }
            // Only edits that are off have changed, so no figure is outdated.
            effects.push(self.ask_edits());
        }
        effects
    }

    /// Drops the baseline's text if it belongs to the text before the change; one in lockstep is updated by the engine.
    pub(super) fn drop_outdated_baseline(&mut self) {
        self.baseline = self.baseline.take().filter(|b| b.live);
    }

    pub(super) fn ask_edits(&mut self) -> Effect {
        let request = Request::Edits {
            edits: self.history.edits().to_vec(),
            mode: self.history.mode(),
        };
        self.send_request(request)
    }

    /// Requests a figure with these arguments and shows its pane.
    pub(super) fn question(&mut self, slot: PaneName, arguments: Arguments) -> Vec<Effect> {
        self.set_focus(Pane::Figure(slot));
        let of_text = instrument(slot).is_ok_and(|of| of.needs_prompt(&arguments));
        let question = FigureRequest {
            instrument: slot,
            arguments,
            unedited: false,
            other: None,
            until: self.end_of_text_for(slot).filter(|_| of_text),
        };
        if let Some(shown) = self.shown.get_mut(slot) {
            // The same asked again is looked at in the same way.
            if shown.arguments != question.arguments {
                shown.arguments = question.arguments.clone();
                shown.number = None;
                shown.step = None;
                shown.sorted = None;
                shown.aside = 0;
            }
            shown.until = question.until;
            shown.forget_followed();
        }
        let known = self.watched.contains(&question);
        let mut effects: Vec<Effect> = self.update_live_instruments().into_iter().collect();
        let live = self.is_live(slot);
        if live && (!known || self.transcript.tokens.is_empty()) {
            // The engine makes the figure anyway, now or with the first token.
            return effects;
        }
        if let Some(shown) = self.shown.get_mut(slot) {
            shown.working = Some(FigureProgress::default());
        }
        effects.push(self.send_request(Request::Observe(question)));
        effects
    }

    /// How many tokens of the text to give to an instrument that predicts what follows: up to the cursor in the transcript or,
    /// if the cursor follows a text that the model has ended, the prompt. None for the whole text.
    pub(super) fn end_of_text_for(&self, slot: PaneName) -> Option<usize> {
        if !instrument(slot).is_ok_and(Instrument::reads_end) {
            return None;
        }
        let within = match self.layout.focus {
            Pane::Figure(focus) => focus == slot,
            Pane::Cell => self.layout.figure == slot,
            Pane::Transcript | Pane::Edits => false,
        };
        // A new request from within the instrument's own figure concerns the same part of the text as that figure.
        let fresh = |s: &&ShownFigure| s.figure.is_some() && s.stale != Some(EARLIER_TEXT);
        if let Some(shown) = self.shown.get(slot).filter(|s| within && fresh(s)) {
            return shown.until;
        }
        let text = &self.transcript;
        let ended = !text.busy() && text.ending == Some(Ending::EndToken);
        let until = match self.cursor.follow {
            false => self.cursor.position + 1,
            true if ended => text.prompt,
            true => text.tokens.len(),
        };
        (1..text.tokens.len()).contains(&until).then_some(until)
    }

    /// Requests the chosen figure of the run that is compared with: that of the kept text, or else the unedited one.
    pub(super) fn ask_unedited(&mut self) -> Vec<Effect> {
        let shown = self.shown.get(self.layout.figure);
        let (arguments, until) = shown
            .map(|s| (s.arguments.clone(), s.until))
            .unwrap_or_default();
        let question = |unedited| FigureRequest {
            instrument: self.layout.figure,
            arguments: arguments.clone(),
            unedited,
            until,
            other: None,
        };
        // Both figures, so that they cover the same positions.
        let edited = question(false);
        let unedited = self
            .about_reference(edited.clone())
            .unwrap_or_else(|| question(true));
        self.change_figure(self.layout.figure, |s| s.refused = None);
        vec![
            self.send_request(Request::Observe(edited)),
            self.send_request(Request::Observe(unedited)),
        ]
    }

    /// The arguments of an instrument, with the cursor's layer and position filled in.
    pub(super) fn prefilled(&self, instrument: &'static dyn Instrument) -> Arguments {
        let mut arguments = self
            .shown
            .get(instrument.name())
            .map(|s| s.arguments.clone())
            .unwrap_or_default();
        let live = self.is_live(instrument.name());
        let named = |kind: ParamKind| instrument.parameters().iter().find(|p| p.kind == kind);
        let here = self.layer_and_position();
        // One layer of a dictionary need not be the cursor's.
        let reads_dictionary = instrument
            .parameters()
            .iter()
            .any(|p| p.name == commands::DICTIONARY);
        let layer = named(ParamKind::Layer).filter(|_| !live);
        if let Some(layer) = layer.filter(|layer| !reads_dictionary || layer.default != "all") {
            arguments = arguments.with(layer.name, here.0);
        }
        // What is saved next is the circuit that is shown, where another step of pruning was chosen.
        let keeps = instrument.parameters().iter().any(|p| p.name == PRUNED_TO);
        let chosen = self
            .shown
            .get(instrument.name())
            .and_then(|shown| shown.step);
        if let Some(Body::Graph(graph)) = self.figure(instrument.name()).map(|figure| &figure.body)
            && let Some(step) = graph.step().filter(|_| keeps && chosen.is_some())
        {
            arguments = arguments.with(PRUNED_TO, step.edges);
        }
        // Further prompts are encoded in the same way as the text's own.
        let chat = instrument.parameters().iter().find(|p| p.name == "chat");
        let begun = self.last.as_ref().is_some_and(PromptSource::is_chat);
        let said = |name: &str| begun || arguments.given.contains_key(name);
        if let Some(chat) = chat.filter(|c| said(c.name) && instrument.needs_prompt(&arguments)) {
            arguments = arguments.with(chat.name, if begun { "yes" } else { "no" });
        }
        // A position that a live figure already shows need not be filled in.
        let shown = |position: usize| {
            let reading = self.cell_of_figure(instrument.name());
            reading.is_some_and(|r| r.anchor.position == Some(position as u32))
        };
        if let Some(position) = named(ParamKind::Position) {
            let newest = self.cursor.follow && position.default == "-1";
            if newest {
                arguments = arguments.with(position.name, position.default);
            } else if !live || !shown(self.cursor.position) {
                // For the figure that is shown, use the position of the cursor in the text; for another one, that of the cell
                // under the cursor.
                let own = self.layout.figure == instrument.name();
                let at = if own { self.cursor.position } else { here.1 };
                arguments = arguments.with(position.name, at);
            }
        }
        arguments
    }

    /// Moves the cursor, or the selection of a list.
    pub(super) fn move_cursor(&mut self, step: CursorMove) -> Vec<Effect> {
        match self.layout.focus {
            Pane::Transcript if self.choosing() => self.choose_in_list(step),
            Pane::Transcript => self.walk(step),
            Pane::Edits => self.select(step),
            Pane::Figure(slot) => self.move_in(slot, step),
            Pane::Cell => self.move_in(self.layout.figure, step),
        }
        Vec::new()
    }

    fn choose_in_list(&mut self, step: CursorMove) {
        let last = self.presets.len().saturating_sub(1);
        self.preset = match step {
            CursorMove::Up | CursorMove::Left => self.preset.saturating_sub(1),
            CursorMove::Down | CursorMove::Right => (self.preset + 1).min(last),
            CursorMove::First | CursorMove::PageUp => 0,
            CursorMove::Last | CursorMove::PageDown => last,
        };
    }

    fn select(&mut self, step: CursorMove) {
        let last = self.history.edits().len().saturating_sub(1);
        match step {
            CursorMove::Up => self.history.selected = self.history.selected.saturating_sub(1),
            CursorMove::Down => self.history.selected = (self.history.selected + 1).min(last),
            CursorMove::PageUp => self.history.selected = 0,
            CursorMove::PageDown => self.history.selected = last,
            CursorMove::Left | CursorMove::Right | CursorMove::First | CursorMove::Last => {
                self.move_along_text(step);
            }
        }
    }

    /// Places the cursor at the beginning of a run: if the same prompt runs again, where it was (as soon as the text reaches
    /// that position), else on the position that predicts the first generated token.
    pub(super) fn place_cursor_for_run(&mut self, again: bool) {
        self.return_to = (again && !self.cursor.at_run_start).then_some(self.cursor.position);
        if again && (self.cursor.follow || self.cursor.position + 1 < self.transcript.prompt) {
            return;
        }
        self.cursor.follow = false;
        self.cursor.at_run_start = true;
        self.cursor.position = self.transcript.prompt.saturating_sub(1);
    }

    /// Moves the cursor back to where it was when a text that is generated again has reached that position, unless the user has
    /// moved it in the meantime.
    pub(super) fn restore_cursor(&mut self) {
        let written = self.transcript.tokens.len();
        if let Some(position) = self.return_to.take_if(|p| *p < written)
            && self.cursor.at_run_start
        {
            self.cursor.at_run_start = false;
            self.cursor.position = position;
        }
    }

    /// Moves the cursor along the positions of the text.
    fn move_along_text(&mut self, step: CursorMove) {
        let last = self.transcript.tokens.len().saturating_sub(1);
        let position = self.cursor.position;
        self.cursor.follow = step == CursorMove::Last;
        self.cursor.at_run_start = false;
        self.cursor.position = match step {
            CursorMove::Left => position.saturating_sub(1),
            CursorMove::Right => (position + 1).min(last),
            CursorMove::First => 0,
            CursorMove::Last => last,
            CursorMove::Up | CursorMove::Down | CursorMove::PageUp | CursorMove::PageDown => {
                position
            }
        };
    }

    /// The width of the text in the transcript, in columns.
    pub fn text_width(&self) -> usize {
        let area = self.arrangement().and_then(|a| a.area(Pane::Transcript));
        area.map_or(40, |a| usize::from(a.width.saturating_sub(2)))
    }

    fn walk(&mut self, step: CursorMove) {
        let by = match step {
            CursorMove::Up => -1,
            CursorMove::Down => 1,
            CursorMove::PageUp => -8,
            CursorMove::PageDown => 8,
            CursorMove::Left | CursorMove::Right | CursorMove::First | CursorMove::Last => {
                return self.move_along_text(step);
            }
        };
        let width = self.text_width();
        let area = self.arrangement().and_then(|a| a.area(Pane::Transcript));
        let high = area.map_or(usize::MAX, |a| usize::from(a.height.saturating_sub(2)));
        let mut lines = self.lines(width);
        if lines.len() + self.transcript.breaks().len() > high && !self.compare {
            // The last column is for the scroll mark.
            lines = self.lines(width.saturating_sub(1));
        }
        let line = line_of(&lines, self.cursor.position);
        let target = (line as i64 + by).clamp(0, lines.len() as i64 - 1) as usize;
        let column = column_of(&lines[line], self.cursor.position);
        if target != line
            && let Some(token) = token_at(&lines[target], column)
        {
            self.cursor.follow = false;
            self.cursor.at_run_start = false;
            self.cursor.position = token;
        }
    }

    fn move_in(&mut self, slot: PaneName, step: CursorMove) {
        let page = self
            .arrangement()
            .and_then(|a| a.area(Pane::Figure(slot)))
            .map_or(8, |a| usize::from(a.height / 2).max(1));
        let Some(held) = self.shown.get(slot).map(|s| s.spot) else {
            return;
        };
        if self.walk_in_graph(slot, step) {
            return;
        }
        // If the cursor is outside the figure, it moves in the text.
        if let (
            CursorFocus::Outside(..),
            CursorMove::Left | CursorMove::Right | CursorMove::First | CursorMove::Last,
        ) = (self.cursor_focus(slot), step)
        {
            return self.move_along_text(step);
        }
        let (cursor, flip) = (self.cursor, self.flip);
        let Some((from, to, reading)) = self.figure(slot).and_then(|figure| {
            let from = cursor::locate(figure, cursor, held)?;
            let to = cursor::step(figure, from, step, page, flip);
            Some((from, to, cursor::read(figure, to)?))
        }) else {
            return self.move_along_text(step);
        };
        // At the edge of the figure, continue in the text.
        let along = [CursorMove::Left, CursorMove::Right, CursorMove::First];
        if to == from && along.contains(&step) {
            return self.move_along_text(step);
        }
        if let Some(shown) = self.shown.get_mut(slot) {
            shown.spot = to;
        }
        match step {
            CursorMove::Left | CursorMove::Right | CursorMove::First => {
                self.cursor.follow = false;
                self.cursor.at_run_start = false;
            }
            CursorMove::Last => {
                self.cursor.follow = true;
                self.cursor.at_run_start = false;
            }
            CursorMove::Up | CursorMove::Down | CursorMove::PageUp | CursorMove::PageDown => {}
        }
        self.point_at(reading.anchor);
    }

    /// Puts the cursor on what a cell is about, and keeps what the cell leaves open.
    pub(super) fn point_at(&mut self, anchor: Anchor) {
        self.cursor.layer = anchor.layer.map_or(self.cursor.layer, usize::from);
        self.cursor.position = anchor.position.map_or(self.cursor.position, |p| p as usize);
        self.cursor.unit = anchor.unit.or(self.cursor.unit);
        self.follow();
    }
}

/// A description of what undo or redo changed.
fn step_in_words(way: UndoOrRedo, before: &Experiment, now: &Experiment) -> String {
    let mut parts = Vec::new();
    if now.edits != before.edits {
        let on = now.edits.iter().filter(|e| e.active()).count();
        parts.push(format!("{on} of {} edits on", now.edits.len()));
    }
    if now.mode != before.mode {
        parts.push(format!("mode {}", now.mode.name()));
    }
    if now.sampling != before.sampling {
        let s = now.sampling;
        parts.push(format!(
            "temperature {}, seed {}, top-p {}, top-k {}",
            s.temperature, s.seed, s.top_p, s.top_k
        ));
    }
    if now.baseline_mode != before.baseline_mode {
        parts.push(
            baseline::name(now.baseline_mode)
                .unwrap_or("no lockstep")
                .into(),
        );
    }
    if now.marks != before.marks {
        parts.push(format!("{} marked", mark::count(&now.marks)));
    }
    if now.turns != before.turns {
        let plus = now.turns.iter().filter(|t| t.plus).count();
        let minus = now.turns.len() - plus;
        parts.push(format!("{plus} examples with, {minus} without"));
    }
    let word = match way {
        UndoOrRedo::Back => "undone",
        UndoOrRedo::Forth => "redone",
    };
    format!("{word}: {}", parts.join(" · "))
}
