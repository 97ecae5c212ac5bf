//! What the screen is apart from what was asked of the model (panes, theme, marks, cursor, what was written): into a session's
//! line, and back.
//!
//! Invariant: what a line names and does not exist here is left out and said; everything else is as it was. To keep something
//! else, add a field to [`ScreenLine`], and its lines in [`App::screen_line`] and here.

use std::str::FromStr;

use super::cursor::FigureCell;
use super::history::ExampleTurn;
use super::layout::Pane;
use super::mark::Mark;
use super::session::lines::{ExampleLine, ScreenLine, ViewLine};
use super::tour::{STEPS, Tour};
use super::transcript::Transcript;
use super::{App, Effect, ShownFigure};
use crate::engine::{PaneName, Request};
use crate::instruments::{Arguments, instrument};
use crate::model::Card;
use crate::model::network::site::{Address, Site};
use crate::text;

/// The most earlier texts that are kept of each kind.
const EARLIER: usize = 200;

/// How many bytes they have at most, but for the newest, because they are written anew with every change of the screen.
const EARLIER_BYTES: usize = 1 << 18;

/// The most tokens of a text kept for comparison that a session has, for the same reason.
const KEPT: usize = 1000;

/// The newest of earlier texts.
fn newest(earlier: &[String]) -> Vec<String> {
    let mut bytes = 0;
    let fits = |(i, text): &(usize, &String)| {
        bytes += text.len();
        *i == 0 || bytes <= EARLIER_BYTES
    };
    let newest_first = earlier.iter().rev().take(EARLIER).enumerate();
    let mut kept: Vec<String> = newest_first
        .take_while(fits)
        .map(|(_, text)| text.clone())
        .collect();
    kept.reverse();
    kept
}

fn mark_in_words(mark: Mark) -> String {
    format!("{}@{}", mark.unit, mark.at)
}

/// A mark from its words; none of a site whose units cannot be marked.
fn read_mark(words: &str) -> Option<Mark> {
    let (unit, at) = words.split_once('@')?;
    let at = Address::from_str(at).ok()?;
    let unit = unit.parse().ok()?;
    [Site::MlpAct, Site::Z]
        .contains(&at.site)
        .then_some(Mark { at, unit })
}

/// Whether a model has a unit.
pub(super) fn has_unit(card: &Card, mark: Mark) -> bool {
    let units = if mark.at.site == Site::MlpAct {
        card.d_mlp
    } else if mark.at.site == Site::Z {
        card.heads
    } else {
        // Others are named by unit sets, and measured where they are used.
        usize::MAX
    };
    usize::from(mark.at.layer) < card.layers && (mark.unit as usize) < units
}

fn view(shown: &ShownFigure) -> ViewLine {
    ViewLine {
        row: shown.spot.row,
        column: shown.spot.column,
        sorted: shown.sorted.clone(),
        number: shown.number,
        step: shown.step,
        aside: shown.aside,
    }
}

impl App {
    /// The screen as a line of the session.
    pub(super) fn screen_line(&self) -> ScreenLine {
        let now = self.history.now();
        let arguments = self.shown.iter().filter(|(slot, shown)| {
            let usual =
                instrument(slot).map(|of| super::ready_prompts::defaults(&self.settings.model, of));
            !usual.is_ok_and(|usual| usual == shown.arguments)
        });
        let views = self.shown.iter().map(|(slot, own)| (slot, view(own)));
        let views = views.filter(|(_, view)| *view != ViewLine::default());
        let example = |turn: &ExampleTurn| ExampleLine {
            text: turn.text.clone(),
            chat: turn.chat,
            plus: turn.plus,
        };
        let kept = self.reference.as_ref();
        let kept = kept.filter(|kept| kept.tokens.len() <= KEPT);
        ScreenLine {
            focus: self.layout.focus.name().into(),
            side: self.layout.last_side_pane.name().into(),
            figure: self.layout.figure.into(),
            second: self.layout.second.into(),
            third: self.layout.third.into(),
            resized: self.layout.resized,
            zoom: self.layout.zoom,
            reference: kept.map_or_else(Vec::new, |kept| kept.tokens.clone()),
            reference_prompt: kept.map_or(0, |kept| kept.prompt),
            density: self.density,
            flip: self.flip,
            folded: self.folded,
            tint: self.tint,
            difference: self.difference,
            compare: self.compare,
            theme: self
                .theme_before
                .as_ref()
                .unwrap_or(&self.settings.theme)
                .clone(),
            cursor: self.cursor,
            arguments: arguments
                .map(|(slot, shown)| ((*slot).to_string(), shown.arguments.given.clone()))
                .collect(),
            views: views.map(|(slot, view)| (slot.to_string(), view)).collect(),
            tour: self.tour.map(|tour| tour.step),
            selected: self.history.selected,
            mode: now.mode,
            marks: now.marks.iter().copied().map(mark_in_words).collect(),
            examples: now.turns.iter().map(example).collect(),
            count: Some(self.settings.count),
            chat: self.settings.chat,
            draft: self.prompt.text().into(),
            prompts: newest(self.prompt.earlier()),
            commands: newest(&self.commands),
        }
    }

    /// Puts back what can be there before the text is: panes, theme, what was written. Returns what does not exist here.
    pub(super) fn restore_screen(&mut self, line: &ScreenLine) -> Vec<String> {
        let mut missing = Vec::new();
        let mut named = |name: &str| {
            let pane = Pane::named(name);
            if pane.is_none() && !name.is_empty() {
                missing.push(format!("the pane `{name}`"));
            }
            pane
        };
        let figure = |pane: Option<Pane>| match pane {
            Some(Pane::Figure(slot)) => Some(slot),
            Some(Pane::Transcript | Pane::Edits | Pane::Cell) | None => None,
        };
        let slots: [Option<PaneName>; 3] =
            [&line.figure, &line.second, &line.third].map(|n| figure(named(n)));
        if let Some(side) = named(&line.side).filter(|side| *side != Pane::Transcript) {
            self.layout.last_side_pane = side;
        }
        self.layout.focus = named(&line.focus).unwrap_or(Pane::Transcript);
        if let Pane::Figure(slot) = self.layout.focus {
            self.layout.figure = slot;
        }
        self.layout.figure = slots[0].unwrap_or(self.layout.figure);
        self.layout.second = slots[1].unwrap_or(self.layout.second);
        self.layout.third = slots[2].unwrap_or(self.layout.third);
        self.layout.resized = line.resized;
        self.layout.zoom = line.zoom;
        if !line.reference.is_empty() {
            let mut kept = Transcript::default();
            line.reference
                .iter()
                .for_each(|token| kept.join(token.clone()));
            kept.prompt = line.reference_prompt.min(kept.tokens.len());
            self.reference = Some(kept);
        }
        (self.density, self.flip, self.tint) = (line.density, line.flip, line.tint);
        self.folded = line.folded;
        for (name, given) in &line.arguments {
            let Some(shown) = self.shown.get_mut(name.as_str()) else {
                missing.push(format!("the figure `{name}`"));
                continue;
            };
            let mut arguments = Arguments::of(given.clone());
            arguments.forget_saved();
            let read = instrument(name).and_then(|of| of.read(&arguments));
            match read {
                Ok(read) => shown.arguments = read,
                Err(error) => missing.push(format!("the parameters of {name}: {error}")),
            }
        }
        let mut marks = Vec::new();
        for words in &line.marks {
            match read_mark(words) {
                Some(mark) => marks.push(mark),
                None => missing.push(format!("the mark `{words}`")),
            }
        }
        marks.sort_unstable();
        marks.dedup();
        let examples = line.examples.iter().map(|example| ExampleTurn {
            text: example.text.clone(),
            chat: example.chat,
            plus: example.plus,
        });
        self.history.start_with(marks, examples.collect());
        self.settings.count = line.count.unwrap_or(self.settings.count).max(1);
        self.settings.chat = line.chat;
        self.prompt.set(&line.draft);
        // Those of the session's own requests are later than all that it did not ask for itself.
        let mut prompts = line.prompts.clone();
        let asked = self.prompt.earlier().to_vec();
        prompts.retain(|words| !asked.contains(words));
        for (at, words) in asked.iter().enumerate() {
            if !asked[at + 1..].contains(words) {
                prompts.push(words.clone());
            }
        }
        self.prompt.remember(newest(&prompts));
        self.commands = newest(&line.commands);
        if self
            .settings
            .themes
            .iter()
            .any(|(name, _)| *name == line.theme)
        {
            self.settings.theme.clone_from(&line.theme);
        } else if !line.theme.is_empty() {
            missing.push(format!("the theme `{}`", line.theme));
        }
        missing.iter().map(|what| text::line(what)).collect()
    }

    /// Takes away the marks of units that the model does not have; each in words.
    pub(super) fn drop_impossible_marks(&mut self) -> Vec<String> {
        let Some(model) = &self.model else {
            return Vec::new();
        };
        let marks = self.history.marks().iter().copied();
        let (there, gone): (Vec<Mark>, Vec<Mark>) =
            marks.partition(|mark| has_unit(&model.card, *mark));
        let turns = self.history.now().turns.clone();
        self.history.start_with(there, turns);
        let said =
            |mark: &Mark| format!("the mark {}, which this model lacks", mark_in_words(*mark));
        gone.iter().map(said).collect()
    }

    /// Puts back how figures are looked at.
    fn restore_views(&mut self, line: &ScreenLine) {
        for (name, view) in &line.views {
            let Some(shown) = self.shown.get_mut(name.as_str()) else {
                continue;
            };
            shown.spot = FigureCell {
                row: view.row,
                column: view.column,
            };
            shown.sorted.clone_from(&view.sorted);
            (shown.number, shown.step, shown.aside) = (view.number, view.step, view.aside);
            shown.show_chosen();
        }
    }

    /// Puts back what belongs to the text, when it is there: the cursor, the selected edit, what it is compared with.
    pub(super) fn restore_in_text(&mut self, line: &ScreenLine) -> Vec<Effect> {
        let mut effects = Vec::new();
        let layers = self.model.as_ref().map_or(1, |model| model.card.layers);
        self.restore_views(line);
        self.tour = line.tour.map(|step| Tour {
            step: step.min(STEPS.len()),
        });
        self.cursor = line.cursor;
        self.cursor.layer = line.cursor.layer.min(layers.saturating_sub(1));
        self.return_to = None;
        self.follow();
        let edits = self.history.edits().len();
        self.history.selected = line.selected.min(edits.saturating_sub(1));
        self.history.start_in_mode(line.mode);
        if line.compare {
            self.compare = true;
            if self.baseline.is_none() && self.reference.is_none() {
                self.baseline_asked = true;
                effects.push(self.send_request(Request::Baseline));
            }
        }
        if line.difference && self.figure(self.layout.figure).is_some() {
            self.difference = true;
            let shown = self.shown.get(self.layout.figure);
            if shown.is_some_and(|shown| shown.difference.is_none()) {
                effects.extend(self.ask_unedited());
            }
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_earlier_texts_are_kept_as_far_as_they_are_few_and_short() {
        let texts = |count: usize, long: usize| -> Vec<String> {
            let spaces = " ".repeat(long);
            let wide = |i| format!("{spaces}{i}");
            (0..count).map(wide).collect()
        };
        let many = newest(&texts(EARLIER + 7, 2));
        assert_eq!(many.len(), EARLIER);
        assert_eq!(many.first().map(String::as_str), Some("  7"));
        let long = newest(&texts(9, EARLIER_BYTES / 4));
        assert_eq!(long.len(), 3);
        assert!(long.last().is_some_and(|text| text.ends_with('8')));
        assert_eq!(newest(&texts(2, EARLIER_BYTES * 2)).len(), 1);
        assert!(newest(&[]).is_empty());
    }
}
