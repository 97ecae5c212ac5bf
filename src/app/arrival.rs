//! What figures cost, and which of them can be measured where they are not there yet.
//!
//! Invariant: nothing that is not cheap everywhere is measured unasked; what it takes is said before. To estimate another instrument, give
//! it a cost.

use std::time::Duration;

use super::App;
use crate::engine::PaneName;
use crate::instruments::{Arguments, Instrument, instrument};
use crate::lab::trials::SweepCost;
use crate::text;

/// A time below this is not said in numbers.
pub(super) const WORTH_WAITING: Duration = Duration::from_secs(1);

impl App {
    /// The arguments with which a figure that is not there can be measured of the text that is; none where it is there, is being made,
    /// failed, comes by itself, or is about no text.
    pub fn measurable(&self, slot: PaneName) -> Option<Arguments> {
        let shown = self.shown.get(slot)?;
        let text = !self.transcript.tokens.is_empty() && !self.transcript.busy();
        let there = shown.figure.is_some() || shown.working.is_some() || shown.failed.is_some();
        let of = instrument(slot).ok()?;
        let itself = self.is_live(slot) || of.following(&shown.arguments).is_some();
        if !text || there || itself || self.model.is_none() {
            return None;
        }
        let arguments = of.read(&self.prefilled(of)).ok()?;
        of.needs_prompt(&arguments).then_some(arguments)
    }

    /// What measuring a figure that is not there takes, in words; none where [`App::measurable`] gives nothing, or that is not known.
    pub fn price_of(&self, slot: PaneName) -> Option<String> {
        let arguments = self.measurable(slot)?;
        self.cost_in_words(instrument(slot).ok()?, &arguments)
    }

    /// What a figure costs in words: passes, and the time where the pace is known.
    pub(super) fn cost_in_words(
        &self,
        of: &dyn Instrument,
        arguments: &Arguments,
    ) -> Option<String> {
        let (cost, time) = self.cost_of(of, arguments)?;
        let time = time.map(|time| {
            if time < WORTH_WAITING {
                ", less than a second".to_string()
            } else {
                format!(", at most about {}", text::duration(time))
            }
        });
        Some(format!("{cost}{}", time.unwrap_or_default()))
    }

    /// What a figure of the text that is there costs; and its time, where the pace is known.
    pub(super) fn cost_of(
        &self,
        of: &dyn Instrument,
        arguments: &Arguments,
    ) -> Option<(SweepCost, Option<Duration>)> {
        let card = &self.model.as_ref()?.card;
        let all = self.transcript.tokens.len();
        let tokens = self.end_of_text_for(of.name()).unwrap_or(all);
        let cost = of.cost(tokens, arguments, card)?;
        let time = |pace| Duration::try_from_secs_f32(cost.seconds(pace)).ok();
        Some((cost, self.pace.and_then(time)))
    }
}
