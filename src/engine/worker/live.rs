//! Live figures: what they need of a new token, and the column that each of them grows by.
//!
//! Invariant: a figure grows by columns only after it was made whole once; one that waits to be made whole is sent none.

use super::{Update, Worker};
use crate::engine::FigureRequest;
use crate::error::{Error, Result};
use crate::instruments::Instrument;
use crate::lab::capture::{Capture, Needs};

/// A question about a growing text.
pub(super) struct Live {
    pub(super) question: FigureRequest,
    pub(super) of: &'static dyn Instrument,
    /// Whether its figure of this text was made whole, so that columns have something to go on from.
    pub(super) whole: bool,
}

impl Worker {
    /// What every live instrument needs of a token, found once for all tokens until something is asked.
    pub(super) fn growing(&mut self) -> Result<Vec<(usize, Needs)>> {
        let live = std::mem::take(&mut self.live);
        let (writer, lab) = self.writer()?;
        let needs = |(i, live): (usize, &Live)| {
            let arguments = &live.question.arguments;
            let grows = !live.question.unedited && live.of.live(&lab.model.card, arguments);
            // One that cannot be asked so said it when its whole figure was asked for.
            let needs = grows.then(|| live.of.needs(&writer.run, arguments, lab).ok());
            Some((i, needs??))
        };
        let found = live.iter().enumerate().filter_map(needs).collect();
        self.live = live;
        Ok(found)
    }

    /// Sends the newest column of a live figure.
    pub(super) fn grow(&mut self, i: usize, capture: &Capture) -> Result<()> {
        let (Some(live), Some(lab)) = (self.live.get(i), &mut self.lab) else {
            return Ok(());
        };
        let slot = live.question.instrument;
        let mut waiting = self.waiting.iter();
        // A figure that waits to be made whole covers this position already.
        if waiting.any(|q| q.instrument == slot && !q.unedited) {
            return Ok(());
        }
        if !live.whole {
            let question = live.question.clone();
            self.enqueue(question);
            return Ok(());
        }
        let update = match live.of.column(capture, &live.question.arguments, lab) {
            Ok(column) => Update::Column {
                slot,
                column: Box::new(column),
            },
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => Update::Failed {
                slot: Some(slot),
                message: error.to_string(),
            },
        };
        self.tell(update);
        Ok(())
    }
}
