//! Figures that follow the cursor: made when nothing else is to be done.
//!
//! Invariant: they delay no token and no other request: they wait while a text is written, and a request that comes while one is
//! made interrupts it within a layer ([`Worker::hurry`](super::Worker)); it then begins again. To let something else wait for
//! quiet, put it into the list.

use std::sync::atomic::Ordering;

use super::{Update, Worker};
use crate::engine::{FigureRequest, PaneName};
use crate::error::{Error, Result};

impl Worker {
    /// Adds a request, in place of an older one for the same pane.
    pub(super) fn follow(&mut self, question: FigureRequest) {
        self.not_following(question.instrument);
        if self.writer.is_some() {
            self.following.push(question);
        }
    }

    /// What is asked for now need not be made later.
    pub(super) fn not_following(&mut self, slot: PaneName) {
        self.following.retain(|waits| waits.instrument != slot);
    }

    /// Makes the first of the figures that wait.
    pub(super) fn follow_one(&mut self) {
        let question = self.following.remove(0);
        let slot = question.instrument;
        self.run_guarded(Some(slot), |worker| worker.observe_quietly(question));
        // Also where that panicked.
        if let Some(lab) = &mut self.lab {
            lab.cancel = self.cancel.clone();
        }
    }

    fn observe_quietly(&mut self, question: FigureRequest) -> Result<()> {
        let hurry = self.hurry.clone();
        self.lab()?.cancel = hurry;
        let made = self.observe(&question);
        let interrupted =
            matches!(made, Err(Error::Cancelled)) && !self.cancel.load(Ordering::Relaxed);
        if interrupted {
            self.following.insert(0, question);
            return Ok(());
        }
        made
    }

    /// Drops all that waits; not where a text stops being written, for whose end it waits.
    pub(super) fn drop_following(&mut self) {
        for question in std::mem::take(&mut self.following) {
            self.tell(Update::Dropped(question.instrument));
        }
    }
}
