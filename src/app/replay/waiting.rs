//! A replay that waits, for its model or for what comes next: how far it is, and going on when the model can be loaded.
//!
//! Invariant: a session whose model could not be loaded stays as it was, until that or another model is loaded. To say more of a
//! replay that goes on, add a method.

use crate::app::{App, Effect};

impl App {
    /// Loads the model again; a session that waits for it is opened then.
    pub(in crate::app) fn load_again(&mut self) -> Vec<Effect> {
        let Some(replay) = self.unopened.take() else {
            return self.load();
        };
        self.session.go_on_replaying();
        self.replay = Some(replay);
        self.replay_on(None)
    }

    /// How many of how many steps of the replay are asked for, if one is going on.
    pub fn replay_progress(&self) -> Option<(usize, usize)> {
        let replay = self.replay.as_ref()?;
        let count = replay.count.max(replay.steps.len());
        Some((count - replay.steps.len(), count))
    }

    /// Whether a session waits for its model, which could not be loaded.
    pub fn has_unopened(&self) -> bool {
        self.unopened.is_some()
    }

    /// What the session that is replayed names and the model that was just loaded does not have.
    pub(in crate::app) fn check_marks(&mut self) {
        let gone = self.drop_impossible_marks();
        if let Some(replay) = &mut self.replay {
            gone.iter().for_each(|what| replay.miss(what));
        }
    }
}
