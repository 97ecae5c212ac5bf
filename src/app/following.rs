//! Figures that are made by themselves wherever the cursor rests, because one takes little.
//!
//! Invariant: none is asked for while a text is written, nor twice for the same tokens under the same edits; what was asked for
//! by hand stays until the cursor moves, and comes back with it. To let an instrument follow the cursor, give it
//! [`Measurement::FOLLOWS`](crate::instruments::Measurement::FOLLOWS).

use super::layout::Pane;
use super::{App, Effect, FigureProgress, ShownFigure};
use crate::engine::{FigureRequest, PaneName, Request};
use crate::figure::Figure;
use crate::instruments::instrument;

/// How many earlier figures are kept for when the cursor comes back.
const KEPT: usize = 64;

/// What a figure would be about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowedText {
    tokens: Vec<u32>,
    edits: Vec<String>,
}

impl FollowedText {
    fn is_of(&self, figure: &Figure) -> bool {
        let of = &figure.provenance;
        of.tokens == self.tokens && of.edits == self.edits
    }
}

impl ShownFigure {
    /// Keeps the figure for when the cursor comes back, before another one takes its place.
    pub(super) fn keep_followed(&mut self) {
        if let Some(figure) = self.figure.clone() {
            self.earlier.retain(|held| {
                let (a, b) = (&held.provenance, &figure.provenance);
                (&a.tokens, &a.edits) != (&b.tokens, &b.edits)
            });
            if self.earlier.len() >= KEPT {
                self.earlier.remove(0);
            }
            self.earlier.push(figure);
        }
    }

    /// The text or the question is another one: what was measured before does not come back.
    pub(super) fn forget_followed(&mut self) {
        self.asked_at = None;
        self.earlier.clear();
    }
}

impl App {
    /// Asks for the figures that follow the cursor, where it rests at a place that they are not about.
    pub(super) fn follow_cursor(&mut self) -> Vec<Effect> {
        if self.transcript.tokens.is_empty() || self.transcript.busy() || self.choosing() {
            return Vec::new();
        }
        let mut slots = vec![self.layout.figure];
        let panes = self.panes();
        for slot in [self.layout.second, self.layout.third] {
            if slot != self.layout.figure && panes.contains(&Pane::Figure(slot)) {
                slots.push(slot);
            }
        }
        let each = slots.into_iter().filter_map(|slot| self.follow_in(slot));
        each.collect()
    }

    fn follow_in(&mut self, slot: PaneName) -> Option<Effect> {
        let shown = self.shown.get(slot)?;
        let arguments = instrument(slot).ok()?.following(&shown.arguments)?;
        // Rows of a figure are positions, too: who walks in it goes on looking at it.
        let within = match self.layout.focus {
            Pane::Figure(focus) => focus == slot,
            Pane::Cell => self.layout.figure == slot,
            Pane::Transcript | Pane::Edits => false,
        };
        let walking = within && shown.figure.is_some() && shown.stale.is_none();
        let compared = self.difference && self.layout.figure == slot;
        let by_hand = shown.working.is_some() && shown.asked_at.is_none();
        // What failed here fails elsewhere, and was said once.
        if walking || compared || by_hand || shown.failed.is_some() {
            return None;
        }
        let until = self.end_of_text_for(slot);
        let tokens = self.transcript.tokens.iter().map(|token| token.id);
        let about = FollowedText {
            tokens: tokens.take(until.unwrap_or(usize::MAX)).collect(),
            edits: self.active_edits(),
        };
        let fresh = shown.figure.as_ref().filter(|_| shown.stale.is_none());
        if fresh.is_some_and(|figure| about.is_of(figure))
            || shown.asked_at.as_ref() == Some(&about)
        {
            return None;
        }
        let mut found = false;
        self.change_figure(slot, |shown| {
            shown.keep_followed();
            shown.asked_at = Some(about.clone());
            shown.until = until;
            shown.forget_difference();
            let held = shown.earlier.iter().position(|held| about.is_of(held));
            if let Some(held) = held {
                shown.figure = Some(shown.earlier.remove(held));
                shown.stale = None;
                found = true;
            }
            shown.working = (!found).then(FigureProgress::default);
        });
        if found {
            return None;
        }
        Some(self.send_request(Request::Follow(FigureRequest {
            instrument: slot,
            arguments,
            unedited: false,
            other: None,
            until,
        })))
    }
}
