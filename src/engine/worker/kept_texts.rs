//! Texts that were cut or replaced, kept so that undo can restore them.
//!
//! Invariant: a text is kept before it is lost, with the edit schedule under which it was generated; restoring computes it
//! again from its tokens, so it is the same run. To keep another kind of state, add it to [`KeptTexts`].

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::Worker;
use crate::engine::Update;
use crate::error::{Error, Result};
use crate::lab::writer::{SavedText, Writer};

/// The most texts kept; the oldest is dropped first.
const MOST: usize = 512;

/// Kept texts by number.
#[derive(Debug, Default)]
pub(super) struct KeptTexts {
    texts: BTreeMap<u64, SavedText>,
    next: u64,
}

impl KeptTexts {
    fn add(&mut self, held: SavedText) -> u64 {
        self.next += 1;
        self.texts.insert(self.next, held);
        if self.texts.len() > MOST {
            self.texts.pop_first();
        }
        self.next
    }
}

impl Worker {
    /// Keeps the current text, if there is one.
    pub(super) fn keep(&mut self) {
        if let Some(held) = self.writer.as_ref().map(Writer::hold) {
            self.keep_text(held);
        }
    }

    /// Keeps a text and reports its number.
    pub(super) fn keep_text(&mut self, held: SavedText) {
        let number = self.kept.add(held);
        self.tell(Update::Kept(number));
    }

    /// Replaces the current text by a kept one.
    pub(super) fn restore(&mut self, number: u64) -> Result<()> {
        self.stop();
        let Some(held) = self.kept.texts.get(&number).cloned() else {
            return Err(Error::argument(
                "restore",
                number.to_string(),
                "a text that is still kept; the oldest ones are dropped",
            ));
        };
        let (writer, lab) = self.writer()?;
        let before = writer.hold();
        if let Err(error) = writer.resume(lab, &held) {
            self.cancel.store(false, Ordering::Relaxed);
            let why = if matches!(error, Error::Cancelled) {
                "it was stopped; undo tries again.".into()
            } else {
                error.to_string()
            };
            self.tell(Update::Failed {
                slot: None,
                message: format!("The text was not restored: {why}"),
            });
            return Ok(());
        }
        let edits = writer.run.schedule.latest().to_vec();
        self.edits = edits;
        self.kept.texts.remove(&number);
        self.keep_text(before);
        self.check = None;
        self.tell(Update::Restored(number));
        self.tell_edits();
        self.refresh();
        self.receipts_due = self.edited();
        Ok(())
    }
}
