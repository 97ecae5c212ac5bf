//! History: the edits, which of them is selected, and every earlier state of them.
//!
//! Invariant: every change goes through [`History::change`], so undo brings back exactly what was there.
//! To add a kind of change, call [`History::change`] with a closure.

use crate::lab::edit::Edit;

/// The most states kept.
const DEPTH: usize = 200;

/// The edits with undo and redo.
#[derive(Clone, Debug, Default)]
pub struct History {
    edits: Vec<Edit>,
    past: Vec<Vec<Edit>>,
    future: Vec<Vec<Edit>>,
    /// The selected row.
    pub selected: usize,
}

impl History {
    /// The edits, on and off.
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// The selected edit.
    pub fn current(&self) -> Option<&Edit> {
        self.edits.get(self.selected)
    }

    /// How many are in force.
    pub fn active(&self) -> usize {
        self.edits.iter().filter(|e| e.active()).count()
    }

    /// Puts rows in place without a step of undo: the ready rows of a model.
    pub fn ready(&mut self, edits: Vec<Edit>) {
        self.edits = edits;
        self.selected = 0;
    }

    /// Adds a ready row without a step of undo.
    pub fn offer(&mut self, edit: Edit) {
        self.edits.push(edit);
    }

    /// Changes the edits; false when nothing changed.
    pub fn change(&mut self, with: impl FnOnce(&mut Vec<Edit>)) -> bool {
        let before = self.edits.clone();
        with(&mut self.edits);
        if self.edits == before {
            return false;
        }
        self.past.push(before);
        if self.past.len() > DEPTH {
            self.past.remove(0);
        }
        self.future.clear();
        self.clamp();
        true
    }

    /// Goes one step back; false when there is none.
    pub fn undo(&mut self) -> bool {
        let Some(before) = self.past.pop() else {
            return false;
        };
        self.future.push(std::mem::replace(&mut self.edits, before));
        self.clamp();
        true
    }

    /// Goes one step forth again; false when there is none.
    pub fn redo(&mut self) -> bool {
        let Some(after) = self.future.pop() else {
            return false;
        };
        self.past.push(std::mem::replace(&mut self.edits, after));
        self.clamp();
        true
    }

    /// Whether there is a step to undo.
    pub fn can_undo(&self) -> bool {
        !self.past.is_empty()
    }

    /// Whether there is a step to redo.
    pub fn can_redo(&self) -> bool {
        !self.future.is_empty()
    }

    fn clamp(&mut self) {
        self.selected = self.selected.min(self.edits.len().saturating_sub(1));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn undo_brings_back_what_was_there() {
        let mut history = History::default();
        assert!(!history.undo() && !history.redo());
        assert!(history.change(|e| e.push("zero:1@mlp_act.0".parse().unwrap())));
        assert!(!history.change(|_| {}), "nothing changed, no step");
        assert!(history.change(|e| e[0].on = false));
        assert!(history.undo());
        assert!(history.edits()[0].on);
        assert!(history.redo());
        assert!(!history.edits()[0].on);
        assert!(history.undo() && history.undo() && !history.undo());
        assert!(history.edits().is_empty());
        assert!(history.change(|e| e.push("zero:2@mlp_act.0".parse().unwrap())));
        assert!(!history.can_redo(), "a new change ends the other future");
    }
}
