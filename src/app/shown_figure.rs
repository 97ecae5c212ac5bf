//! What the pane of an instrument shows: its figures, how old they are, and how far the next one is.
//!
//! Invariant: a figure stays until a newer one is there. To show something else of a figure, add a field.

use std::time::Duration;

use super::cursor::{self, CellUnderCursor, FigureCell};
use super::layout::Pane;
use super::{App, commands};
use crate::engine::{Mode, PaneName};
use crate::figure::Figure;
use crate::instruments::Arguments;
use crate::instruments::instrument;

/// How far a figure is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FigureProgress {
    /// From 0 to 1; 0 before anything was heard.
    pub done: f32,
    /// What the rest will take.
    pub left: Option<Duration>,
}

/// Where the cursor is, seen from a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorFocus {
    /// At a position that the figure holds, or it is about no positions of this text.
    Here,
    /// The cursor's position is not measured yet; it comes with the next columns.
    Coming,
    /// Outside the positions from the first to the second.
    Outside(usize, usize),
}

/// What an instrument's pane shows.
#[derive(Clone, Debug, Default)]
pub struct ShownFigure {
    /// The figure of the run.
    pub figure: Option<Figure>,
    /// The figure of the unedited run.
    pub unedited: Option<Figure>,
    /// The first less the second.
    pub difference: Option<Figure>,
    /// Why there is no difference, in a sentence.
    pub refused: Option<String>,
    /// What the figure is older than, in words.
    pub stale: Option<&'static str>,
    /// How far the next one is.
    pub working: Option<FigureProgress>,
    /// Why there is none.
    pub failed: Option<String>,
    /// The parameters asked with.
    pub arguments: Arguments,
    /// How many tokens of the text it was asked about, where that is not all of them.
    pub until: Option<usize>,
    /// The row and column that the anchor does not decide.
    pub spot: FigureCell,
    /// Which of the numbers of its cells was chosen.
    pub number: Option<usize>,
    /// The beginning of the text that the figure is about.
    pub text: String,
}

/// What a figure is older than.
pub(super) const BEFORE_EDIT: &str = "for the run before the last edit";
pub(super) const EARLIER_TEXT: &str = "for an earlier text";

/// What is said of a difference whose parts were not measured.
const STOPPED: &str = "The unedited run was not measured; D twice requests it again.";

impl ShownFigure {
    /// Shows the chosen number in every figure that has it.
    pub(super) fn show_chosen_number(&mut self) {
        let Some(number) = self.number else { return };
        let figures = [&mut self.figure, &mut self.unedited, &mut self.difference];
        for figure in figures.into_iter().flatten() {
            figure.show_number(number);
        }
    }

    /// What the figure is about, where that is no longer what stands on the screen, in a sentence.
    pub fn outdated(&self) -> Option<String> {
        let words = self.stale?;
        let from = self.figure.as_ref().map(|f| &f.provenance);
        let about = match (words, from) {
            (BEFORE_EDIT, Some(from)) if from.edits.is_empty() => "measured without edits".into(),
            (BEFORE_EDIT, Some(from)) => format!("on then: {}", from.edits.join(" · ")),
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

    /// The figure that was requested will not come.
    pub(super) fn cancel_request(&mut self) {
        self.working = None;
        if self.difference.is_none() {
            self.refused.get_or_insert_with(|| STOPPED.into());
        }
    }
}

impl App {
    /// The figure that a pane shows: the difference where it is asked for and there.
    pub fn figure(&self, slot: PaneName) -> Option<&Figure> {
        let shown = self.shown.get(slot)?;
        shown
            .difference
            .as_ref()
            .filter(|_| self.difference)
            .or(shown.figure.as_ref())
    }

    /// What a figure says at the cursor.
    pub fn cell_of_figure(&self, slot: PaneName) -> Option<CellUnderCursor> {
        if let CursorFocus::Outside(..) = self.cursor_focus(slot) {
            return None;
        }
        let figure = self.figure(slot)?;
        let spot = cursor::locate(figure, self.cursor, self.shown.get(slot)?.spot)?;
        cursor::read(figure, spot)
    }

    /// Whether the cursor's position is among those that a figure of this text holds.
    pub fn cursor_focus(&self, slot: PaneName) -> CursorFocus {
        let Some((shown, figure)) = self.shown.get(slot).zip(self.figure(slot)) else {
            return CursorFocus::Here;
        };
        let own = shown.is_about_text(slot) && shown.stale != Some(EARLIER_TEXT);
        let at = self.cursor.position;
        match cursor::holds(figure).filter(|_| own) {
            Some((first, last)) if at < first || at > last => {
                // What grows with the text is about to be there.
                if at > last && (self.transcript.busy() || shown.working.is_some()) {
                    CursorFocus::Coming
                } else {
                    CursorFocus::Outside(first, last)
                }
            }
            Some(_) | None => CursorFocus::Here,
        }
    }

    /// What is said where the cursor is outside a figure.
    pub fn outside_notice(&self, slot: PaneName) -> Option<String> {
        let CursorFocus::Outside(first, last) = self.cursor_focus(slot) else {
            return None;
        };
        let end = self.transcript.tokens.len().saturating_sub(1);
        let key = commands::command("widen").filter(|row| (row.enabled)(self).is_ok());
        let key = key.and_then(|row| self.keymap.keys_of(row).into_iter().next());
        let next = key.map_or_else(
            || "o opens the parameters".to_owned(),
            |key| format!("{key} measures at the cursor too"),
        );
        Some(format!(
            "the {slot} shows positions {first}-{last} of 0-{end}; {next}"
        ))
    }

    /// The layer and position that commands are about: those of the cell that is shown under the cursor, which stands at the
    /// edge of a figure that ends before the cursor, or the cursor's own in the text.
    pub fn layer_and_position(&self) -> (usize, usize) {
        let own = (self.cursor.layer, self.cursor.position);
        let cell = match self.layout.focus {
            Pane::Transcript | Pane::Edits => None,
            Pane::Figure(_) | Pane::Cell => self.cell_under_cursor(),
        };
        cell.map_or(own, |cell| {
            let layer = cell.anchor.layer.map_or(own.0, usize::from);
            (layer, cell.anchor.position.map_or(own.1, |p| p as usize))
        })
    }

    /// What the chosen figure says at the cursor.
    pub fn cell_under_cursor(&self) -> Option<CellUnderCursor> {
        self.cell_of_figure(self.layout.figure)
    }

    /// The first words of the prompt, for a notice.
    pub(super) fn text_excerpt(&self) -> String {
        let asked = self.transcript.source.as_ref().map_or("", |s| s.0.as_str());
        crate::text::clip(
            &crate::text::visible(asked.as_bytes()).replace('␣', " "),
            40,
        )
    }

    /// The edits that are on, as they print.
    pub(super) fn active_edits(&self) -> Vec<String> {
        let on = self.history.edits().iter().filter(|e| e.active());
        on.map(ToString::to_string).collect()
    }

    /// Marks figures that the edits just asked for leave behind.
    pub(super) fn mark_outdated(&mut self, mode: Mode) {
        let on = self.active_edits();
        let live: Vec<PaneName> = self.live().iter().map(|q| q.instrument).collect();
        for (slot, shown) in &mut self.shown {
            // A live figure's columns were measured under the edits of their time; from now on they go on.
            let holds = mode == Mode::FromNow && live.contains(slot);
            let holds = holds || !shown.is_about_text(slot);
            let Some(figure) = &shown.figure else {
                continue;
            };
            if figure.provenance.edits == on {
                // What was measured is what stands again.
                shown.stale = shown.stale.filter(|s| *s != BEFORE_EDIT);
            } else if !holds && shown.stale.is_none() {
                shown.stale = Some(BEFORE_EDIT);
            }
        }
    }
}

impl ShownFigure {
    /// Whether what an instrument shows is about the text and its edits; some read files of their own.
    pub(super) fn is_about_text(&self, slot: PaneName) -> bool {
        instrument(slot).is_ok_and(|of| of.needs_prompt(&self.arguments))
    }
}
