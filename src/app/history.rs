//! History: everything the user changes about the experiment, and every earlier state of it.
//!
//! Invariant: every change goes through [`History::change`] or [`History::lost`], so undo brings back exactly what was
//! there. To let undo cover something else, add it to [`State`].

use super::mark::Mark;
use super::transcript::Transcript;
use crate::lab::edit::Edit;
use crate::lab::sample::Sampling;
use crate::lab::schedule::Mode;
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
    State(Box<State>),
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
    /// The state is another one; this was it before.
    State(Box<State>),
    /// This text has to be brought back; [`History::swapped`] completes the step.
    Text(Box<Lost>),
}

/// The state with undo and redo.
#[derive(Clone, Debug, Default)]
pub struct History {
    now: State,
    past: Vec<Step>,
    future: Vec<Step>,
    /// The selected edit.
    pub selected: usize,
}

impl History {
    /// A history that begins with these.
    pub fn new(now: State) -> Self {
        Self {
            now,
            ..Self::default()
        }
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
        self.selected = 0;
    }

    /// Adds a ready row without a step of undo; earlier and later states get it as well.
    pub fn offer(&mut self, edit: &Edit) {
        for step in self.past.iter_mut().chain(&mut self.future) {
            if let Step::State(state) = step {
                state.edits.push(edit.clone());
            }
        }
        self.now.edits.push(edit.clone());
    }

    /// Changes the state; false when nothing changed.
    pub fn change(&mut self, with: impl FnOnce(&mut State)) -> bool {
        let before = self.now.clone();
        with(&mut self.now);
        if self.now == before {
            return false;
        }
        self.push(Step::State(Box::new(before)));
        self.clamp();
        true
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
            Step::State(state) => {
                let before = std::mem::replace(&mut self.now, *state);
                to.push(Step::State(Box::new(before.clone())));
                self.clamp();
                Some(Taken::State(Box::new(before)))
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
        assert!(matches!(history.take(Way::Back), Some(Taken::State(_))));
        assert!(history.edits().is_empty());
        assert!(matches!(history.take(Way::Forth), Some(Taken::State(_))));
        let Some(Taken::Text(text)) = history.take(Way::Forth) else {
            unreachable!("and forth again");
        };
        assert_eq!(text.number, 2, "the text that stood in its place");
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
