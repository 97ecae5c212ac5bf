//! What the pane of an instrument shows: its figures, how old they are, and how far the next one is.
//!
//! Invariant: a figure stays until a newer one is there. To show something else of a figure, add a field.

use std::time::Duration;

use super::cursor::Spot;
use crate::instruments::Arguments;
use crate::lab::figure::Figure;

/// How far a figure is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Working {
    /// From 0 to 1; 0 before anything was heard.
    pub done: f32,
    /// What the rest will take.
    pub left: Option<Duration>,
}

/// What an instrument's pane shows.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The figure of the run.
    pub figure: Option<Figure>,
    /// The same of the unedited run.
    pub unedited: Option<Figure>,
    /// The first less the second.
    pub difference: Option<Figure>,
    /// Why there is no difference, in a sentence.
    pub refused: Option<String>,
    /// What the figure is older than, in words.
    pub stale: Option<&'static str>,
    /// How far the next one is.
    pub working: Option<Working>,
    /// Why there is none.
    pub failed: Option<String>,
    /// The parameters asked with.
    pub arguments: Arguments,
    /// How many tokens of the text it was asked about, where that is not all of them.
    pub until: Option<usize>,
    /// The row and column that the anchor does not decide.
    pub spot: Spot,
}

/// What is said of a difference whose parts were not measured.
const STOPPED: &str = "The unedited run was not measured; D twice asks for it again.";

impl Shown {
    /// The unedited run is to be measured anew.
    pub(super) fn forget_difference(&mut self) {
        self.unedited = None;
        self.difference = None;
        self.refused = None;
    }

    /// What was asked does not come.
    pub(super) fn drop_question(&mut self) {
        self.working = None;
        if self.difference.is_none() {
            self.refused.get_or_insert_with(|| STOPPED.into());
        }
    }
}
