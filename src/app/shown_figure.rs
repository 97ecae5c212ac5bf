//! The state of an instrument's pane: its figures, whether they are outdated, and the progress of the next one.
//!
//! Invariant: a figure stays until a newer one arrives. To show something else about a figure, add a field.

use std::time::Duration;

use super::cursor::{self, CellUnderCursor, FigureCell};
use super::following::FollowedText;
use super::layout::Pane;
use super::{App, commands};
use crate::engine::{Mode, PaneName, PromptSource};
use crate::figure::{Body, Figure};
use crate::instruments::Arguments;
use crate::instruments::instrument;

/// The progress of a figure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FigureProgress {
    /// From 0 to 1; 0 before the first report.
    pub done: f32,
    /// The estimated time left.
    pub left: Option<Duration>,
}

/// The cursor's position relative to a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorFocus {
    /// At a position that the figure contains; or the figure does not contain positions of this text.
    Here,
    /// At a position that is not measured yet and comes with the next columns.
    Coming,
    /// Outside the figure, which contains the positions from the first to the second.
    Outside(usize, usize),
}

/// The state of an instrument's pane.
#[derive(Clone, Debug, Default)]
pub struct ShownFigure {
    /// The figure of the run.
    pub figure: Option<Figure>,
    /// The figure of the run that is compared with: the unedited one, or that of the kept text.
    pub unedited: Option<Figure>,
    /// The difference: `figure` minus `unedited`.
    pub difference: Option<Figure>,
    /// Why there is no difference, in a sentence.
    pub refused: Option<String>,
    /// Why the figure is outdated, in words; none if it is not.
    pub stale: Option<&'static str>,
    /// The progress of the next figure, if one is being made.
    pub working: Option<FigureProgress>,
    /// Why the last request failed.
    pub failed: Option<String>,
    /// The arguments of the request.
    pub arguments: Arguments,
    /// The arguments to go back to if the request fails.
    pub until_it_works: Option<Arguments>,
    /// How many tokens of the text the request was about; none for all.
    pub until: Option<usize>,
    /// The row and column of the cursor, as far as the anchor does not determine them.
    pub spot: FigureCell,
    /// The index of the cells' number that is shown, if the user has chosen one.
    pub number: Option<usize>,
    /// The index of the graph's step of pruning that is shown, if the user has chosen one.
    pub step: Option<usize>,
    /// The column by which the rows of a table are sorted, if the user has chosen one, and whether backwards.
    pub sorted: Option<(String, bool)>,
    /// How many columns of a table, from the second one on, are scrolled away.
    pub aside: usize,
    /// The beginning of the text that the figure is about.
    pub text: String,
    /// Of a figure that follows the cursor: what it was asked for last.
    pub(super) asked_at: Option<FollowedText>,
    /// Of a figure that follows the cursor: those of the places where it was, the latest last.
    pub(super) earlier: Vec<Figure>,
}

/// Values of [`ShownFigure::stale`].
pub(super) const BEFORE_EDIT: &str = "for the run before the last edit";
pub(super) const EARLIER_TEXT: &str = "for an earlier text";

/// The text shown if the parts of a difference were not measured.
const STOPPED: &str = "The unedited run was not measured; D twice requests it again.";

impl ShownFigure {
    /// Shows the chosen number, or step of pruning, in every figure that has it.
    pub(super) fn show_chosen(&mut self) {
        let figures = [&mut self.figure, &mut self.unedited, &mut self.difference];
        for figure in figures.into_iter().flatten() {
            if let Some(number) = self.number {
                figure.show_number(number);
            }
            if let (Some(step), Body::Graph(graph)) = (self.step, &mut figure.body) {
                graph.show_step(step);
            }
            if let (Some((name, backwards)), Body::Table(table)) = (&self.sorted, &mut figure.body)
                && let Some(column) = table.columns.iter().position(|own| own == name)
            {
                table.sort_by(column, *backwards);
            }
        }
    }

    /// A sentence on what the figure was measured on, if it is outdated.
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

    /// Drops the figures of the unedited run, which have to be measured again.
    pub(super) fn forget_difference(&mut self) {
        self.unedited = None;
        self.difference = None;
        self.refused = None;
    }

    /// The requested figure will not come.
    pub(super) fn cancel_request(&mut self) {
        self.working = None;
        if self.difference.is_none() {
            self.refused.get_or_insert_with(|| STOPPED.into());
        }
    }
}

impl App {
    /// The figure that a pane shows: the difference if it is switched on and available.
    pub fn figure(&self, slot: PaneName) -> Option<&Figure> {
        let shown = self.shown.get(slot)?;
        if self.shows_reference(slot) {
            return shown.unedited.as_ref();
        }
        shown
            .difference
            .as_ref()
            .filter(|_| self.difference)
            .or(shown.figure.as_ref())
    }

    /// The content of a pane's figure at the cursor.
    pub fn cell_of_figure(&self, slot: PaneName) -> Option<CellUnderCursor> {
        if let CursorFocus::Outside(..) = self.cursor_focus(slot) {
            return None;
        }
        let figure = self.figure(slot)?;
        let spot = cursor::locate(figure, self.cursor, self.shown.get(slot)?.spot)?;
        cursor::read(figure, spot)
    }

    /// The cursor's position relative to a pane's figure.
    pub fn cursor_focus(&self, slot: PaneName) -> CursorFocus {
        let Some((shown, figure)) = self.shown.get(slot).zip(self.figure(slot)) else {
            return CursorFocus::Here;
        };
        let own = shown.is_about_text(slot) && shown.stale != Some(EARLIER_TEXT);
        let at = self.cursor.position;
        match cursor::holds(figure).filter(|_| own) {
            Some((first, last)) if at < first || at > last => {
                // A figure that grows with the text will contain the position soon.
                if at > last && (self.transcript.busy() || shown.working.is_some()) {
                    CursorFocus::Coming
                } else {
                    CursorFocus::Outside(first, last)
                }
            }
            Some(_) | None => CursorFocus::Here,
        }
    }

    /// A notice if a figure is outdated, with the key that measures it again.
    pub fn outdated_notice(&self, shown: &ShownFigure) -> Option<String> {
        let words = shown.outdated()?;
        let key = commands::command("measure").map(|row| self.keymap.keys_of(row));
        Some(match key.and_then(|keys| keys.into_iter().next()) {
            Some(key) => format!("{words} · {key} measures again"),
            None => words,
        })
    }

    /// A notice if the cursor is outside a figure.
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

    /// The layer and position that commands act on. In a figure they are those of the cell shown under the cursor (the nearest
    /// one if the figure does not reach the cursor); in the text, the cursor's own.
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

    /// The content of the chosen figure at the cursor.
    pub fn cell_under_cursor(&self) -> Option<CellUnderCursor> {
        self.cell_of_figure(self.layout.figure)
    }

    /// The first words of the prompt, for a notice.
    pub(super) fn text_excerpt(&self) -> String {
        let words = self
            .transcript
            .source
            .as_ref()
            .and_then(PromptSource::last_words);
        let words = words.unwrap_or_default();
        crate::text::clip(
            &crate::text::visible(words.as_bytes()).replace('␣', " "),
            40,
        )
    }

    /// The active edits, each as its line of the edit grammar.
    pub(super) fn active_edits(&self) -> Vec<String> {
        let on = self.history.edits().iter().filter(|e| e.active());
        on.map(ToString::to_string).collect()
    }

    /// Marks the figures that are outdated by the edits that were just requested.
    pub(super) fn mark_outdated(&mut self, mode: Mode) {
        let on = self.active_edits();
        let live: Vec<PaneName> = self.live().iter().map(|q| q.instrument).collect();
        for (slot, shown) in &mut self.shown {
            // The columns of a live figure were measured under the edits of their time, so changes from now on do not outdate
            // it.
            let holds = mode == Mode::FromNow && live.contains(slot);
            let holds = holds || !shown.is_under_edits(slot);
            let Some(figure) = &shown.figure else {
                continue;
            };
            if figure.provenance.edits == on {
                // The figure was measured under exactly these edits, so it is no longer outdated.
                shown.stale = shown.stale.filter(|s| *s != BEFORE_EDIT);
            } else if !holds && shown.stale.is_none() {
                shown.stale = Some(BEFORE_EDIT);
            }
        }
    }
}

impl ShownFigure {
    /// Whether the edits act in what an instrument's figure is about: the text, or texts that it reads itself.
    fn is_under_edits(&self, slot: PaneName) -> bool {
        let own = instrument(slot).is_ok_and(|of| of.edits_its_texts(&self.arguments));
        own || self.is_about_text(slot)
    }

    /// Whether an instrument's figure is about the text and its edits; some instruments read files of their own.
    pub(super) fn is_about_text(&self, slot: PaneName) -> bool {
        instrument(slot).is_ok_and(|of| of.needs_prompt(&self.arguments))
    }
}
