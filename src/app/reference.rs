//! Another prompt beside this one (A/B): a text that is kept, and how its tokens stand for those of the text that is shown.
//!
//! Invariant: both texts are read under the edits that are on, so that only the prompts differ. A figure is subtracted where tokens stand
//! for each other; of a figure that has no difference, that of the kept text is shown instead. To compare something else of two texts,
//! use [`App::aligned`].

use std::collections::BTreeMap;

use super::App;
use super::baseline::lines_of_two;
use super::commands::CommandResult;
use super::transcript::Transcript;
use crate::engine::{FigureRequest, OtherText, PaneName};
use crate::figure::Figure;
use crate::figure::alignment::align;
use crate::instruments::params::ParamKind;
use crate::instruments::{Arguments, instrument};
use crate::text;

/// Tokens of the kept text and of the shown one, in pairs.
pub type TokenPairs = Vec<(Option<usize>, Option<usize>)>;

impl App {
    /// Keeps the present text to compare the next ones with; if it is kept already, forgets it.
    pub(super) fn toggle_reference(&mut self) -> CommandResult {
        if self.transcript.busy() {
            return Err("the text is being written; wait until it is done".into());
        }
        let kept = self.reference.as_ref().map(Transcript::ids);
        self.forget_comparisons();
        if kept.is_some_and(|kept| kept == self.transcript.ids()) {
            self.reference = None;
            self.inform("no text is kept any more; D and b compare with the unedited run");
        } else {
            self.reference = Some(self.transcript.clone());
            self.inform("this text is kept: run another prompt, b shows both, D subtracts their figures; V here forgets it");
        }
        Ok(Vec::new())
    }

    /// What was compared with another run has to be measured again.
    pub(super) fn forget_comparisons(&mut self) {
        (self.difference, self.compare) = (false, false);
        let slots: Vec<PaneName> = self.shown.keys().copied().collect();
        for slot in slots {
            self.change_figure(slot, super::ShownFigure::forget_difference);
        }
    }

    /// The tokens of the kept text and of the one that is shown, in pairs that stand for each other; none without a kept text.
    pub fn aligned(&self) -> Option<TokenPairs> {
        let kept = self.reference.as_ref()?;
        Some(align(&kept.ids(), &self.transcript.ids()))
    }

    /// For positions of the shown text those of the kept one that stand for them; none without a kept text.
    pub(super) fn counterparts(&self) -> Option<BTreeMap<u32, u32>> {
        let pairs = self.aligned()?.into_iter();
        let both = pairs.filter_map(|(kept, own)| Some((own? as u32, kept? as u32)));
        Some(both.collect())
    }

    /// The lines of both texts, kept text left: pairs of tokens that stand for each other, each side within `width` columns. A line ends
    /// after a line break, and where a word begins if that is near.
    pub fn lines_of_both(&self, width: usize) -> Vec<TokenPairs> {
        let Some(kept) = &self.reference else {
            return Vec::new();
        };
        let pairs = self.aligned().unwrap_or_default();
        let both = |at: usize| {
            let (a, b) = pairs[at];
            let left = a.and_then(|a| kept.pieces.get(a));
            let right = b.and_then(|b| self.transcript.pieces.get(b));
            [left, right].map(|piece| piece.map(String::as_str))
        };
        let lines = lines_of_two(0..pairs.len(), both, &[], width, usize::MAX);
        lines.into_iter().map(|line| pairs[line].to_vec()).collect()
    }

    /// The columns of each of two texts side by side.
    pub fn column_of_both(width: usize) -> usize {
        width.saturating_sub(3) / 2
    }

    /// Says that a difference from the kept text is none of the edits, where both have the same prompt and edits are on.
    pub(super) fn say_if_same_prompt(&mut self) {
        let prompt = |text: &Transcript| {
            let mut ids = text.ids();
            ids.truncate(text.prompt);
            ids
        };
        let kept = self.reference.as_ref().map(prompt);
        if kept.is_some_and(|kept| kept == prompt(&self.transcript)) && self.history.active() > 0 {
            self.inform("the kept text has the same prompt, and both are read under the edits that are on: forget it with V, and D shows what the edits do");
        }
    }

    /// The beginning of the kept text's prompt, for titles.
    pub fn reference_excerpt(&self) -> Option<String> {
        let kept = self.reference.as_ref()?;
        let words: String = kept.pieces[..kept.prompt.min(kept.pieces.len())].concat();
        Some(text::clip(&text::line(words.trim()), 32))
    }

    /// Whether a pane shows the figure of the kept text, because that of the shown one minus it does not exist.
    pub fn shows_reference(&self, slot: PaneName) -> bool {
        let shown = self.shown.get(slot);
        self.difference
            && self.reference.is_some()
            && shown.is_some_and(|s| s.difference.is_none() && s.unedited.is_some())
    }

    /// The question about the kept text that corresponds to one about the shown text: positions are those that stand for its own.
    pub(super) fn about_reference(&self, question: FigureRequest) -> Option<FigureRequest> {
        let kept = self.reference.as_ref()?;
        let map = self.counterparts()?;
        let there = |position: usize| Some(*map.get(&(position as u32))? as usize);
        let mut given: BTreeMap<String, String> = question.arguments.given.clone();
        let of = instrument(question.instrument).ok()?;
        let positions = of.parameters().iter();
        for parameter in positions.filter(|p| p.kind == ParamKind::Position) {
            let Some(value) = given.get_mut(parameter.name) else {
                continue;
            };
            if let Some(other) = value.parse().ok().and_then(there) {
                *value = other.to_string();
            }
        }
        let until = question
            .until
            .map(|until| there(until - 1).map_or(kept.tokens.len(), |p| p + 1));
        Some(FigureRequest {
            arguments: Arguments::of(given),
            unedited: false,
            until,
            other: Some(OtherText {
                tokens: kept.ids(),
                prompt: kept.prompt,
            }),
            ..question
        })
    }

    /// A figure minus that of the run that it is compared with, or why there is none.
    pub(super) fn subtract(
        counterparts: Option<&BTreeMap<u32, u32>>,
        own: &Figure,
        other: &Figure,
    ) -> crate::error::Result<Figure> {
        match counterparts {
            Some(positions) => own.minus_text(other, positions),
            None => own.minus(other),
        }
    }
}
