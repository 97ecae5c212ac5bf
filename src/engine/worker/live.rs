//! Live figures: what to capture of each new token for them, the column by which each grows, and layers that are read later.
//!
//! Invariant: columns are sent only for a figure that was sent whole once, and not while a request for the whole figure is
//! waiting. Of a figure whose rows are layers, the layers on the screen are read in the pass that writes a token. The states of
//! the other layers are recorded, and read when writing pauses or when they come into view: newest positions first, several of
//! them in one pass over the vocabulary.

use std::ops::Range;

use super::{Update, Worker};
use crate::engine::{FigureRequest, PaneName};
use crate::error::{Error, Result};
use crate::figure::column::Column;
use crate::instruments::Instrument;
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};

/// How many positions share a pass over the vocabulary. The work of a turn is bounded by it: a key is answered between two turns.
const TOGETHER: usize = 8;

/// The most bytes of states that wait to be read; beyond that they are read while the text is written.
const WAITING: usize = 256 << 20;

/// A live instrument.
pub(super) struct Live {
    pub(super) question: FigureRequest,
    pub(super) of: &'static dyn Instrument,
    /// Whether the figure of the current text was sent whole, so that columns can be appended to it.
    pub(super) whole: bool,
    /// What was recorded of positions whose layers were not all read, in the order of the positions.
    later: Vec<Capture>,
}

impl Live {
    pub(super) fn of(question: FigureRequest, of: &'static dyn Instrument) -> Self {
        Self {
            question,
            of,
            whole: false,
            later: Vec::new(),
        }
    }

    /// The figure was made whole, or is going to be: nothing of it waits to be read.
    pub(super) fn set_whole(&mut self, whole: bool) {
        self.whole = whole;
        self.later.clear();
    }

    /// Takes the newest positions that wait, consecutive ones.
    fn newest_few(&mut self) -> Vec<Capture> {
        let pairs = self.later.windows(2);
        let gap = pairs
            .map(|pair| pair[0].positions.end != pair[1].positions.start)
            .rposition(|gap| gap);
        let from = self.later.len().saturating_sub(TOGETHER);
        self.later
            .split_off(gap.map_or(from, |gap| from.max(gap + 1)))
    }

    /// The columns of positions all of whose layers are read now.
    fn column_of(&self, few: &[Capture], lab: &mut Lab) -> Result<Column> {
        let arguments = &self.question.arguments;
        let mut capture = Capture::join(few)?;
        let needs = self.of.needs(&capture.run, arguments, lab)?;
        if let Some(readout) = &needs.read {
            lab.read_later(&mut capture, readout)?;
        }
        self.of.column(&capture, arguments, lab)
    }

    /// Bytes of the states that wait.
    fn waiting(&self) -> usize {
        self.later.iter().map(Capture::bytes).sum()
    }
}

impl Worker {
    /// What each growing live instrument needs of a token. It is the same for all tokens until the next request.
    pub(super) fn growing(&mut self) -> Result<Vec<(usize, Needs)>> {
        let live = std::mem::take(&mut self.live);
        let views = std::mem::take(&mut self.views);
        let (writer, lab) = self.writer()?;
        let needs = |(i, live): (usize, &Live)| {
            let arguments = &live.question.arguments;
            let grows =
                !live.question.is_compared_with() && live.of.live(&lab.model.card, arguments);
            // An error in the arguments was reported when the whole figure was requested, so it is ignored here.
            let needs = grows.then(|| live.of.needs(&writer.run, arguments, lab).ok());
            let (needs, layers) = (needs??, lab.model.card.layers);
            let view = views
                .get(live.of.name())
                .filter(|_| live.of.rows_are_layers());
            Some(match view {
                Some(view) => (i, needs.with_states_at_once(view.clone(), layers)),
                None => (i, needs),
            })
        };
        let found = live.iter().enumerate().filter_map(needs).collect();
        (self.live, self.views) = (live, views);
        Ok(found)
    }

    /// Notes which layers the screen shows of a figure. What is in view and waits is read at once.
    pub(super) fn view(&mut self, slot: PaneName, layers: Range<usize>) {
        let before = self.views.insert(slot, layers.clone());
        self.came_into_view |= before.is_some_and(|before| {
            !layers.is_empty() && (layers.start < before.start || layers.end > before.end)
        });
    }

    /// Sends the newest column of a live figure.
    pub(super) fn grow(&mut self, i: usize, capture: Capture) -> Result<()> {
        let (Some(live), Some(lab)) = (self.live.get_mut(i), &mut self.lab) else {
            return Ok(());
        };
        let slot = live.question.instrument;
        let mut waiting = self.waiting.iter();
        // The whole figure that is waiting will include this position.
        if waiting.any(|q| q.instrument == slot && !q.is_compared_with()) {
            return Ok(());
        }
        if !live.whole {
            let question = live.question.clone();
            self.enqueue(question);
            return Ok(());
        }
        let update = match live.of.column(&capture, &live.question.arguments, lab) {
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
        if !capture.read.is_whole() {
            live.later.push(capture);
        }
        self.tell(update);
        Ok(())
    }

    /// A figure whose layers wait to be read, and now: writing pauses, they came into view, or too many wait.
    pub(super) fn layers_due(&self) -> Option<usize> {
        let urgent = self.goal.is_none() || self.came_into_view;
        let due = |live: &Live| !live.later.is_empty() && (urgent || live.waiting() > WAITING);
        self.live.iter().position(due)
    }

    /// Reads the layers of a few positions that were left for later, the newest first, and sends their columns again.
    pub(super) fn read_later(&mut self, i: usize) -> Result<()> {
        let (Some(live), Some(lab)) = (self.live.get_mut(i), &mut self.lab) else {
            return Ok(());
        };
        // What cannot be read now cannot be read the next time: it goes, unless the user stopped it.
        let few = live.newest_few();
        let column = match live.column_of(&few, lab) {
            Ok(column) => column,
            Err(error) => {
                if let Error::Cancelled = error {
                    live.later.extend(few);
                }
                return Err(error);
            }
        };
        let slot = live.question.instrument;
        self.came_into_view &= self.live.iter().any(|live| !live.later.is_empty());
        self.tell(Update::Completed {
            slot,
            column: Box::new(column),
        });
        Ok(())
    }
}
