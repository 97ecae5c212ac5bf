//! History: everything the user changes about the experiment, and every earlier state of it.
//!
//! Invariant: every change goes through [`History::change`] or [`History::lost`], so undo brings back exactly what was
//! there. To let undo cover something else, add it to [`State`].

use super::mark::Mark;
use super::transcript::Transcript;
use crate::edit::schedule::Mode;
use crate::edit::{Edit, EditId, EditIds};
use crate::lab::sample::Sampling;
use crate::lab::writer::Beside;

/// The most steps kept.
const DEPTH: usize = 200;

/// What the user decided about the experiment, but for the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The edits, on and off.
    pub edits: Vec<Edit>,
    /// What a change of edits means for the past.
    pub mode: Mode,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What is marked, sorted.
    pub marks: Vec<Mark>,
    /// What runs beside the text.
    pub beside: Beside,
    /// Turns kept as examples, for a direction between them.
    pub turns: Vec<Turn>,
}

/// What the user said once, as an example of a behaviour or of its absence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The text.
    pub text: String,
    /// Whether it went through the chat template.
    pub chat: bool,
    /// Whether it shows the behaviour.
    pub plus: bool,
}

/// A text that was cut or replaced.
#[derive(Clone, Debug)]
pub struct Lost {
    /// What the engine keeps it under.
    pub number: u64,
    /// The text.
    pub text: Transcript,
}

/// One step.
#[derive(Clone, Debug)]
enum Step {
    /// The state before, and the text where the change made it forget which edits were in force where.
    State(Box<State>, Option<Box<Lost>>),
    Text(Box<Lost>),
}

/// Which way a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Undo.
    Back,
    /// Redo.
    Forth,
}

/// What a step led to.
#[derive(Clone, Debug)]
pub enum Taken {
    /// The state is another one; this was it before, and this the text that goes with the new one, where one does.
    State(Box<State>, Option<Box<Lost>>),
    /// This text has to be brought back; [`History::swapped`] completes the step.
    Text(Box<Lost>),
}

/// A text on its way back.
#[derive(Clone, Debug)]
pub enum Restoring {
    /// The step is about the text: another one stands in its place, and comes back by the opposite step.
    Text(Way, Box<Lost>),
    /// The tokens are those that stand there; the edits that were in force where come back.
    Schedule(Box<Lost>),
}

impl Restoring {
    /// What is on its way.
    pub fn lost(&self) -> &Lost {
        match self {
            Self::Text(_, lost) | Self::Schedule(lost) => lost,
        }
    }
}

/// The state with undo and redo.
#[derive(Clone, Debug, Default)]
pub struct History {
    now: State,
    ids: EditIds,
    past: Vec<Step>,
    future: Vec<Step>,
    /// The selected edit.
    pub selected: usize,
}

impl History {
    /// A history that begins with these.
    pub fn new(mut now: State) -> Self {
        let mut ids = EditIds::default();
        ids.give(&mut now.edits);
        Self {
            now,
            ids,
            ..Self::default()
        }
    }

    /// The edit of this session that an id names, as it was then.
    pub fn edit(&self, id: EditId) -> Option<&Edit> {
        self.ids.get(id)
    }

    /// The present state.
    pub fn now(&self) -> &State {
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

    /// How many are in force.
    pub fn active(&self) -> usize {
        self.now.edits.iter().filter(|e| e.active()).count()
    }

    /// Those that are in force.
    pub fn in_force(&self) -> Vec<EditId> {
        let on = self.now.edits.iter().filter(|e| e.active());
        on.map(|e| e.id).collect()
    }

    /// What a change of edits means for the past.
    pub fn mode(&self) -> Mode {
        self.now.mode
    }

    /// How tokens are chosen.
    pub fn sampling(&self) -> Sampling {
        self.now.sampling
    }

    /// What is marked, sorted.
    pub fn marks(&self) -> &[Mark] {
        &self.now.marks
    }

    /// Begins in a mode, without a step of undo.
    pub fn start_in(&mut self, mode: Mode) {
        self.now.mode = mode;
    }

    /// Puts rows in place without a step of undo: the ready rows of a model.
    pub fn ready(&mut self, edits: Vec<Edit>) {
        self.now.edits = edits;
        self.ids.give(&mut self.now.edits);
        self.selected = 0;
    }

    /// Adds a ready row without a step of undo; earlier and later states get it as well.
    pub fn offer(&mut self, edit: &Edit) {
        let steps = self.past.iter_mut().chain(&mut self.future);
        let states = steps.filter_map(|step| match step {
            Step::State(state, _) => Some(&mut **state),
            Step::Text(_) => None,
        });
        for state in std::iter::once(&mut self.now).chain(states) {
            state.edits.push(edit.clone());
            self.ids.give(&mut state.edits);
        }
    }

    /// Changes the state; false when nothing changed.
    pub fn change(&mut self, with: impl FnOnce(&mut State)) -> bool {
        let before = self.now.clone();
        with(&mut self.now);
        self.ids.give(&mut self.now.edits);
        if self.now == before {
            return false;
        }
        self.push(Step::State(Box::new(before), None));
        self.clamp();
        true
    }

    /// The last change of edits or of the mode made the text forget which edits were in force where; undoing it brings
    /// this one back.
    pub fn forgot(&mut self, lost: Lost) {
        if let Some(Step::State(state, text)) = self.past.last_mut()
            && (state.edits != self.now.edits || state.mode != self.now.mode)
        {
            *text = Some(Box::new(lost));
        }
    }

    /// The last change of edits was refused and these are in force: it never was.
    pub fn refuse(&mut self, edits: &[Edit]) {
        let on = |edits: &'_ [Edit]| edits.iter().filter(|e| e.on).cloned().collect::<Vec<_>>();
        let same = |state: &State| on(&state.edits) == on(edits);
        if same(&self.now) {
            return;
        }
        match self.past.pop() {
            Some(Step::State(state, _)) if same(&state) => self.now = *state,
            other => {
                self.past.extend(other);
                self.now.edits = edits.to_vec();
                self.ids.give(&mut self.now.edits);
            }
        }
        self.clamp();
    }

    /// Notes that a text was cut or replaced.
    pub fn lost(&mut self, lost: Lost) {
        self.push(Step::Text(Box::new(lost)));
    }

    fn push(&mut self, step: Step) {
        self.past.push(step);
        if self.past.len() > DEPTH {
            self.past.remove(0);
        }
        self.future.clear();
    }

    /// Takes a step; none when there is none. A text stays where it is until [`History::swapped`] or
    /// [`History::put_back`] is told.
    pub fn take(&mut self, way: Way) -> Option<Taken> {
        let (from, to) = match way {
            Way::Back => (&mut self.past, &mut self.future),
            Way::Forth => (&mut self.future, &mut self.past),
        };
        match from.pop()? {
            Step::State(state, text) => {
                let before = std::mem::replace(&mut self.now, *state);
                to.push(Step::State(Box::new(before.clone()), None));
                self.clamp();
                Some(Taken::State(Box::new(before), text))
            }
            Step::Text(lost) => Some(Taken::Text(lost)),
        }
    }

    /// A text came back; `lost` is the one that stood in its place.
    pub fn swapped(&mut self, way: Way, lost: Lost) {
        let to = match way {
            Way::Back => &mut self.future,
            Way::Forth => &mut self.past,
        };
        to.push(Step::Text(Box::new(lost)));
    }

    /// A text could not be brought back: the step can be tried again.
    pub fn put_back(&mut self, way: Way, lost: Box<Lost>) {
        match way {
            Way::Back => self.past.push(Step::Text(lost)),
            Way::Forth => self.future.push(Step::Text(lost)),
        }
    }

    /// Whether there is a step to take.
    pub fn can(&self, way: Way) -> bool {
        match way {
            Way::Back => !self.past.is_empty(),
            Way::Forth => !self.future.is_empty(),
        }
    }

    fn clamp(&mut self) {
        self.selected = self.selected.min(self.now.edits.len().saturating_sub(1));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn edit(text: &str) -> Edit {
        text.parse().unwrap()
    }

    fn lost(number: u64) -> Lost {
        Lost {
            number,
            text: Transcript::default(),
        }
    }

    #[test]
    fn undo_brings_back_what_was_there() {
        let mut history = History::default();
        assert!(history.take(Way::Back).is_none() && history.take(Way::Forth).is_none());
        assert!(history.change(|s| s.edits.push(edit("zero:1@mlp_act.0"))));
        assert!(!history.change(|_| {}), "nothing changed, no step");
        assert!(history.change(|s| s.edits[0].on = false));
        assert!(history.change(|s| s.mode = Mode::AsIfAlways));
        assert!(history.change(|s| s.sampling.seed = 7));
        let last = history.now().clone();
        assert!(history.take(Way::Back).is_some());
        assert_eq!(
            (history.sampling().seed, history.mode()),
            (1, Mode::AsIfAlways)
        );
        assert!(history.take(Way::Back).is_some());
        assert_eq!(history.mode(), Mode::FromNow);
        assert!(history.take(Way::Back).is_some());
        assert!(history.edits()[0].on);
        for _ in 0..3 {
            assert!(history.take(Way::Forth).is_some());
        }
        assert_eq!(*history.now(), last);
        while history.take(Way::Back).is_some() {}
        assert_eq!(*history.now(), State::default());
        assert!(history.change(|s| s.edits.push(edit("zero:2@mlp_act.0"))));
        assert!(
            !history.can(Way::Forth),
            "a new change ends the other future"
        );
    }

    #[test]
    fn a_text_waits_between_two_states_until_it_is_back() {
        let mut history = History::default();
        history.change(|s| s.edits.push(edit("zero:1@mlp_act.0")));
        history.lost(lost(1));
        let Some(Taken::Text(text)) = history.take(Way::Back) else {
            unreachable!("the text was the last step");
        };
        assert_eq!(text.number, 1);
        history.put_back(Way::Back, text);
        assert!(matches!(history.take(Way::Back), Some(Taken::Text(_))));
        history.swapped(Way::Back, lost(2));
        assert!(matches!(
            history.take(Way::Back),
            Some(Taken::State(_, None))
        ));
        assert!(history.edits().is_empty());
        assert!(matches!(history.take(Way::Forth), Some(Taken::State(..))));
        let Some(Taken::Text(text)) = history.take(Way::Forth) else {
            unreachable!("and forth again");
        };
        assert_eq!(text.number, 2, "the text that stood in its place");
    }

    #[test]
    fn a_change_that_forgot_the_past_has_a_text_to_bring_back() {
        let mut history = History::default();
        history.change(|s| s.mode = Mode::AsIfAlways);
        history.forgot(lost(3));
        history.change(|s| s.marks.clear());
        history.change(|s| s.sampling.seed = 4);
        history.forgot(lost(4));
        assert!(
            matches!(history.take(Way::Back), Some(Taken::State(_, None))),
            "a seed forgets nothing"
        );
        let Some(Taken::State(_, Some(text))) = history.take(Way::Back) else {
            unreachable!("the mode was the step before");
        };
        assert_eq!(text.number, 3);
        assert!(matches!(
            history.take(Way::Forth),
            Some(Taken::State(_, None))
        ));
    }

    #[test]
    fn what_was_refused_never_was() {
        let mut history = History::default();
        history.change(|s| s.edits.push(edit("zero:1@mlp_act.0")));
        let held = history.edits().to_vec();
        history.change(|s| s.edits[0].strength = 2.0);
        history.refuse(&held);
        assert_eq!(history.edits(), held);
        assert!(matches!(history.take(Way::Back), Some(Taken::State(..))));
        assert!(history.edits().is_empty() && !history.can(Way::Back));
        // A step of undo was refused: the list shows what is in force.
        history.refuse(&held);
        assert_eq!(history.edits(), held);
    }

    #[test]
    fn a_row_that_was_offered_later_survives_undo() {
        let mut history = History::default();
        history.change(|s| s.edits.push(edit("zero:1@mlp_act.0")));
        history.offer(&edit("add:calm@resid_pre.2"));
        history.take(Way::Back);
        assert_eq!(history.edits(), [edit("add:calm@resid_pre.2")]);
    }
}
