//! What the pane of an instrument shows: its figures, how old they are, and how far the next one is.
//!
//! Invariant: a figure stays until a newer one is there. To show something else of a figure, add a field.

use std::time::Duration;

use super::answer::BEFORE_EDIT;
use super::cursor::Spot;
use crate::instruments::Arguments;
use crate::lab::figure::{Body, Figure};

/// How far a figure is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Working {
    /// From 0 to 1; 0 before anything was heard.
    pub done: f32,
    /// What the rest will take.
    pub left: Option<Duration>,
}

/// Where the cursor is, seen from a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// At a position that the figure holds, or it is about no positions of this text.
    Here,
    /// At a position that comes with the next columns.
    Coming,
    /// Outside the positions from the first to the second.
    Outside(usize, usize),
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
    /// Which of the numbers of its cells was chosen.
    pub number: Option<usize>,
    /// The beginning of the text that the figure is about.
    pub text: String,
}

/// What is said of a difference whose parts were not measured.
const STOPPED: &str = "The unedited run was not measured; D twice asks for it again.";

impl Shown {
    /// Shows the chosen number in every figure that has it.
    pub(super) fn turn(&mut self) {
        let Some(number) = self.number else { return };
        let figures = [&mut self.figure, &mut self.unedited, &mut self.difference];
        for figure in figures.into_iter().flatten() {
            if let Body::Grid(grid) = &mut figure.body {
                grid.turn(number);
            }
        }
    }

    /// What the figure is about, where that is no longer what stands on the screen, in a sentence.
    pub fn outdated(&self) -> Option<String> {
        let words = self.stale?;
        let from = self.figure.as_ref().map(|f| &f.provenance);
        let about = match (words, from) {
            (BEFORE_EDIT, Some(from)) if from.edits.is_empty() => "then no edit was on".into(),
            (BEFORE_EDIT, Some(from)) => format!("then on: {}", from.edits.join(" · ")),
            (_, Some(from)) if !self.text.is_empty() => {
                format!("“{}”, {} tokens", self.text, from.tokens.len())
            }
            (_, Some(from)) => format!("{} tokens", from.tokens.len()),
            (_, None) => return Some(words.into()),
        };
        Some(format!("{words}: {about}"))
    }

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
