//! Live figures: what to capture of each new token for them, and the column by which each grows.
//!
//! Invariant: columns are sent only for a figure that was sent whole once, and not while a request for the whole figure is
//! waiting.

use super::{Update, Worker};
use crate::engine::FigureRequest;
use crate::error::{Error, Result};
use crate::instruments::Instrument;
use crate::lab::capture::{Capture, Needs};

/// A live instrument.
pub(super) struct Live {
    pub(super) question: FigureRequest,
    pub(super) of: &'static dyn Instrument,
    /// Whether the figure of the current text was sent whole, so that columns can be appended to it.
    pub(super) whole: bool,
}

impl Worker {
    /// What each growing live instrument needs of a token. It is the same for all tokens until the next request.
    pub(super) fn growing(&mut self) -> Result<Vec<(usize, Needs)>> {
        let live = std::mem::take(&mut self.live);
        let (writer, lab) = self.writer()?;
        let needs = |(i, live): (usize, &Live)| {
            let arguments = &live.question.arguments;
            let grows = !live.question.unedited && live.of.live(&lab.model.card, arguments);
            // An error in the arguments was reported when the whole figure was requested, so it is ignored here.
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
        // The whole figure that is waiting will include this position.
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
