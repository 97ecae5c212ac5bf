//! History: the user's changes of the experiment, with undo and redo.
//!
//! Invariant: every change goes through [`History::change`], and every replaced text through [`History::keep`], so undo
//! restores exactly the earlier state. To make something else undoable, add it to [`Experiment`].

use std::rc::Rc;

use super::mark::Mark;
use super::transcript::Transcript;
use crate::edit::schedule::Mode;
use crate::edit::{Edit, EditId, EditIds};
use crate::lab::sample::Sampling;
use crate::lab::writer::BaselineMode;

/// The most steps that are kept.
const DEPTH: usize = 200;

/// The user's settings of the experiment, without the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Experiment {
    /// The edits, on and off.
    pub edits: Vec<Edit>,
    /// Whether a change of edits also applies to what was read before.
    pub mode: Mode,
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// Marked units, sorted.
    pub marks: Vec<Mark>,
    /// How the baseline run is made.
    pub baseline_mode: BaselineMode,
    /// Prompts picked as examples, to make a direction from.
    pub turns: Vec<ExampleTurn>,
}

/// A prompt picked as an example of a behaviour or of its absence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleTurn {
    pub text: String,
    /// Whether it is encoded by the chat template.
    pub chat: bool,
    /// Whether it shows the behaviour.
    pub plus: bool,
}

/// A text that was cut or replaced, and that undo can restore.
#[derive(Clone, Debug)]
pub struct ReplacedText {
    /// The number under which the engine keeps it.
    pub number: u64,
    pub text: Transcript,
}

/// One step of undo or redo: what it restores.
#[derive(Clone, Debug)]
pub enum HistoryStep {
    /// The state; and the text with its edit schedule, if the change made the engine drop the schedule.
    State(Rc<Experiment>, Option<ReplacedText>),
    Text(ReplacedText),
}

/// The direction of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoOrRedo {
    Back,
    Forth,
}

/// The current state with the steps of undo and redo. States are reference-counted, so steps share them.
#[derive(Clone, Debug, Default)]
pub struct History {
    now: Rc<Experiment>,
    ids: EditIds,
    past: Vec<HistoryStep>,
    future: Vec<HistoryStep>,
    /// The text that the engine has kept last, before it cuts or replaces it or drops its edit schedule.
    kept: Option<ReplacedText>,
    /// The text that is being restored: with a direction, by a step about the text; without one, for its edit schedule.
    being_restored: Option<(Option<UndoOrRedo>, ReplacedText)>,
    /// The index of the selected edit.
    pub selected: usize,
}

impl History {
    /// A history that begins in this state.
    pub fn new(mut now: Experiment) -> Self {
        let mut ids = EditIds::default();
        ids.give(&mut now.edits);
        Self {
            now: Rc::new(now),
            ids,
            ..Self::default()
        }
    }

    /// The edit of this session that has an id, as it was when the id was given.
    pub fn edit(&self, id: EditId) -> Option<&Edit> {
        self.ids.get(id)
    }

    /// The present state.
    pub fn now(&self) -> &Experiment {
        &self.now
    }

    /// The edits, on and off.
    pub fn edits(&self) -> &[Edit] {
        &self.now.edits
    }

    /// The selected edit.
    pub fn current(&self) -> Option<&Edit> {
        self.now.edits.get(self.selected)
    }

    /// The number of edits that are in force.
    pub fn active(&self) -> usize {
        self.now.edits.iter().filter(|e| e.active()).count()
    }

    /// The ids of the edits that are switched on.
    pub fn in_force(&self) -> Vec<EditId> {
        let on = self.now.edits.iter().filter(|e| e.active());
        on.map(|e| e.id).collect()
    }

    /// Whether a change of edits also applies to what was read before.
    pub fn mode(&self) -> Mode {
        self.now.mode
    }

    /// How tokens are sampled.
    pub fn sampling(&self) -> Sampling {
        self.now.sampling
    }

    /// Marked units, sorted.
    pub fn marks(&self) -> &[Mark] {
        &self.now.marks
    }

    /// Sets the initial mode, without a step of undo.
    pub fn start_in_mode(&mut self, mode: Mode) {
        Rc::make_mut(&mut self.now).mode = mode;
    }

    /// Sets the initial marks and examples, without a step of undo.
    pub fn start_with(&mut self, marks: Vec<Mark>, turns: Vec<ExampleTurn>) {
        let now = Rc::make_mut(&mut self.now);
        (now.marks, now.turns) = (marks, turns);
    }

    /// Replaces the edits without a step of undo.
    fn replace_edits(&mut self, edits: Vec<Edit>) {
        let now = Rc::make_mut(&mut self.now);
        now.edits = edits;
        self.ids.give(&mut now.edits);
    }

    /// Sets the edits that a model comes with, without a step of undo.
    pub fn set_initial_edits(&mut self, edits: Vec<Edit>) {
        self.replace_edits(edits);
        self.selected = 0;
    }

    /// Adds an offered edit, switched off, without a step of undo: to the current state and to all steps.
    pub fn add_offered_edit(&mut self, edit: &Edit) {
        let steps = self.past.iter_mut().chain(&mut self.future);
        let states = steps.filter_map(|step| match step {
            HistoryStep::State(state, _) => Some(state),
            HistoryStep::Text(_) => None,
        });
        for state in std::iter::once(&mut self.now).chain(states) {
            let edits = &mut Rc::make_mut(state).edits;
            edits.push(edit.clone());
            self.ids.give(edits);
        }
    }

    /// Changes the state as one step of undo. Returns the state before; none if nothing changed.
    pub fn change(&mut self, with: impl FnOnce(&mut Experiment)) -> Option<Rc<Experiment>> {
        let mut now = Experiment::clone(&self.now);
        with(&mut now);
        if now == *self.now {
            return None;
        }
        self.ids.give(&mut now.edits);
        let before = std::mem::replace(&mut self.now, Rc::new(now));
        self.push(HistoryStep::State(before.clone(), None));
        self.clamp();
        Some(before)
    }

    /// The engine refused the last change of edits and `edits` are still in force: reverts the change without a step.
    pub fn revert_refused(&mut self, edits: &[Edit]) {
        let same = |state: &Experiment| {
            let on = state.edits.iter().filter(|e| e.on);
            on.eq(edits.iter().filter(|e| e.on))
        };
        if same(&self.now) {
            return;
        }
        match self.past.pop() {
            Some(HistoryStep::State(state, _)) if same(&state) => self.now = state,
            other => {
                self.past.extend(other);
                // The others stay in the list, off.
                let mut rows = self.now.edits.clone();
                for row in &mut rows {
                    match edits.iter().find(|edit| edit.same(row)) {
                        Some(edit) => row.clone_from(edit),
                        None => row.on = false,
                    }
                }
                let lost = |edit: &&Edit| !rows.iter().any(|row| row.same(edit));
                let lost: Vec<Edit> = edits.iter().filter(lost).cloned().collect();
                rows.extend(lost);
                self.replace_edits(rows);
            }
        }
        self.clamp();
    }

    fn push(&mut self, step: HistoryStep) {
        self.past.push(step);
        if self.past.len() > DEPTH {
            self.past.remove(0);
        }
        self.future.clear();
    }

    fn steps(&mut self, way: UndoOrRedo) -> &mut Vec<HistoryStep> {
        match way {
            UndoOrRedo::Back => &mut self.past,
            UndoOrRedo::Forth => &mut self.future,
        }
    }

    /// Takes a step and returns what it is about; none if there is no step. For a state, it is the state before the step; a
    /// text must be [restored](History::begin_restoring) by the engine first.
    pub fn take_step(&mut self, way: UndoOrRedo) -> Option<HistoryStep> {
        match self.steps(way).pop()? {
            HistoryStep::State(state, text) => {
                let before = std::mem::replace(&mut self.now, state);
                self.steps(way.opposite())
                    .push(HistoryStep::State(before.clone(), None));
                self.clamp();
                Some(HistoryStep::State(before, text))
            }
            text @ HistoryStep::Text(_) => Some(text),
        }
    }

    /// Notes that the engine was asked to restore a text: by a step about the text (`way`), or only for its edit schedule.
    pub fn begin_restoring(&mut self, way: Option<UndoOrRedo>, text: ReplacedText) {
        self.being_restored = Some((way, text));
    }

    /// Takes the step about the text of this number, or the text of the step that has it for its schedule, with the direction of
    /// the step; none if there is no such step.
    pub fn take_text(&mut self, number: u64) -> Option<(Option<UndoOrRedo>, ReplacedText)> {
        for way in [UndoOrRedo::Back, UndoOrRedo::Forth] {
            let steps = self.steps(way);
            let is_it = |text: &ReplacedText| text.number == number;
            let own = |step: &HistoryStep| matches!(step, HistoryStep::Text(text) if is_it(text));
            if let Some(at) = steps.iter().rposition(own)
                && let HistoryStep::Text(text) = steps.remove(at)
            {
                return Some((Some(way), text));
            }
            let held = steps.iter_mut().find_map(|step| match step {
                HistoryStep::State(_, text) => text.take_if(|text| is_it(text)),
                HistoryStep::Text(_) => None,
            });
            if let Some(text) = held {
                return Some((None, text));
            }
        }
        None
    }

    /// Whether a text is being restored.
    pub fn is_restoring(&self) -> bool {
        self.being_restored.is_some()
    }

    /// The engine could not restore the text: puts the step back, so that it can be repeated.
    pub fn restoring_failed(&mut self) {
        if let Some((Some(way), text)) = self.being_restored.take() {
            self.steps(way).push(HistoryStep::Text(text));
        }
    }

    /// The engine has restored the text of this number: the text that it replaced becomes the opposite step.
    pub fn take_restored(&mut self, number: u64) -> Option<(Option<UndoOrRedo>, ReplacedText)> {
        let gone = self.kept.take();
        let (way, text) = self
            .being_restored
            .take()
            .filter(|(_, t)| t.number == number)?;
        if let (Some(way), Some(gone)) = (way, gone) {
            self.steps(way.opposite()).push(HistoryStep::Text(gone));
        }
        Some((way, text))
    }

    /// Notes a text that the engine keeps because it is about to be changed.
    pub fn keep(&mut self, text: ReplacedText) {
        self.kept = Some(text);
    }

    /// The kept text was replaced, or cut to `left` tokens: makes a step that restores it.
    pub fn text_replaced(&mut self, left: usize) {
        if let Some(text) = self.kept.take()
            && left < text.text.tokens.len()
        {
            self.push(HistoryStep::Text(text));
        }
    }

    /// The last change of edits or of the mode made the engine drop the kept text's edit schedule: the undo of that change will
    /// restore it.
    pub fn schedule_forgotten(&mut self) {
        if let Some(lost) = self.kept.take()
            && let Some(HistoryStep::State(state, text)) = self.past.last_mut()
            && (state.edits != self.now.edits || state.mode != self.now.mode)
        {
            *text = Some(lost);
        }
    }

    /// Whether there is a step in this direction.
    pub fn has_step(&self, way: UndoOrRedo) -> bool {
        match way {
            UndoOrRedo::Back => !self.past.is_empty(),
            UndoOrRedo::Forth => !self.future.is_empty(),
        }
    }

    fn clamp(&mut self) {
        self.selected = self.selected.min(self.now.edits.len().saturating_sub(1));
    }
}

impl UndoOrRedo {
    fn opposite(self) -> Self {
        match self {
            Self::Back => Self::Forth,
            Self::Forth => Self::Back,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn edit(text: &str) -> Edit {
        text.parse().unwrap()
    }

    /// A kept text that was replaced as a whole.
    fn replaced_text(number: u64) -> ReplacedText {
        let mut text = Transcript::default();
        text.join(crate::engine::Token::of_prompt(0, b""));
        ReplacedText { number, text }
    }

    #[test]
    fn undo_brings_back_what_was_there() {
        let mut history = History::default();
        assert!(
            history.take_step(UndoOrRedo::Back).is_none()
                && history.take_step(UndoOrRedo::Forth).is_none()
        );
        assert!(
            history
                .change(|s| s.edits.push(edit("zero:1@mlp_act.0")))
                .is_some()
        );
        assert!(history.change(|_| {}).is_none(), "nothing changed, no step");
        assert!(history.change(|s| s.edits[0].on = false).is_some());
        assert!(history.change(|s| s.mode = Mode::AsIfAlways).is_some());
        assert!(history.change(|s| s.sampling.seed = 7).is_some());
        let last = history.now().clone();
        assert!(history.take_step(UndoOrRedo::Back).is_some());
        assert_eq!(
            (history.sampling().seed, history.mode()),
            (1, Mode::AsIfAlways)
        );
        assert!(history.take_step(UndoOrRedo::Back).is_some());
        assert_eq!(history.mode(), Mode::FromNow);
        assert!(history.take_step(UndoOrRedo::Back).is_some());
        assert!(history.edits()[0].on);
        for _ in 0..3 {
            assert!(history.take_step(UndoOrRedo::Forth).is_some());
        }
        assert_eq!(*history.now(), last);
        while history.take_step(UndoOrRedo::Back).is_some() {}
        assert_eq!(*history.now(), Experiment::default());
        assert!(
            history
                .change(|s| s.edits.push(edit("zero:2@mlp_act.0")))
                .is_some()
        );
        assert!(
            !history.has_step(UndoOrRedo::Forth),
            "a new change ends the other future"
        );
    }

    #[test]
    fn a_text_waits_between_two_states_until_it_is_back() {
        let mut history = History::default();
        history.change(|s| s.edits.push(edit("zero:1@mlp_act.0")));
        history.keep(replaced_text(1));
        history.text_replaced(0);
        let Some(HistoryStep::Text(text)) = history.take_step(UndoOrRedo::Back) else {
            unreachable!("the text was the last step");
        };
        assert_eq!(text.number, 1);
        history.begin_restoring(Some(UndoOrRedo::Back), text);
        history.restoring_failed();
        let Some(HistoryStep::Text(text)) = history.take_step(UndoOrRedo::Back) else {
            unreachable!("it can be tried again");
        };
        history.begin_restoring(Some(UndoOrRedo::Back), text);
        history.keep(replaced_text(2));
        assert!(history.is_restoring());
        let (way, text) = history.take_restored(1).unwrap();
        assert_eq!((way, text.number), (Some(UndoOrRedo::Back), 1));
        assert!(matches!(
            history.take_step(UndoOrRedo::Back),
            Some(HistoryStep::State(_, None))
        ));
        assert!(history.edits().is_empty());
        assert!(matches!(
            history.take_step(UndoOrRedo::Forth),
            Some(HistoryStep::State(..))
        ));
        let Some(HistoryStep::Text(text)) = history.take_step(UndoOrRedo::Forth) else {
            unreachable!("and forth again");
        };
        assert_eq!(text.number, 2, "the text that stood in its place");
    }

    #[test]
    fn a_change_that_forgot_the_past_has_a_text_to_bring_back() {
        let mut history = History::default();
        history.change(|s| s.mode = Mode::AsIfAlways);
        history.keep(replaced_text(3));
        history.schedule_forgotten();
        history.change(|s| s.marks.clear());
        history.change(|s| s.sampling.seed = 4);
        history.keep(replaced_text(4));
        history.schedule_forgotten();
        assert!(
            matches!(
                history.take_step(UndoOrRedo::Back),
                Some(HistoryStep::State(_, None))
            ),
            "a seed forgets nothing"
        );
        let Some(HistoryStep::State(_, Some(text))) = history.take_step(UndoOrRedo::Back) else {
            unreachable!("the mode was the step before");
        };
        assert_eq!(text.number, 3);
        assert!(matches!(
            history.take_step(UndoOrRedo::Forth),
            Some(HistoryStep::State(_, None))
        ));
    }

    #[test]
    fn what_was_refused_never_was() {
        let mut history = History::default();
        history.change(|s| s.edits.push(edit("zero:1@mlp_act.0")));
        let held = history.edits().to_vec();
        history.change(|s| s.edits[0].strength = 2.0);
        history.revert_refused(&held);
        assert_eq!(history.edits(), held);
        assert!(matches!(
            history.take_step(UndoOrRedo::Back),
            Some(HistoryStep::State(..))
        ));
        assert!(history.edits().is_empty() && !history.has_step(UndoOrRedo::Back));
        // A refused step of undo: the list shows the edits in force.
        history.revert_refused(&held);
        assert_eq!(history.edits(), held);
    }

    #[test]
    fn a_row_that_was_offered_later_survives_undo() {
        let mut history = History::default();
        history.change(|s| s.edits.push(edit("zero:1@mlp_act.0")));
        history.add_offered_edit(&edit("add:calm@resid_pre.2"));
        history.take_step(UndoOrRedo::Back);
        assert_eq!(history.edits(), [edit("add:calm@resid_pre.2")]);
    }
}
