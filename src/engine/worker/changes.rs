//! Requests that change edits, sets of units, directions, or the baseline run.
//!
//! Invariant: a request that fails leaves the edits as they were. To add a change, add a method and its arm in `handle`.

use std::time::Instant;

use super::Worker;
use super::tokens::plain_tokens;
use crate::edit::Edit;
use crate::edit::schedule::Schedule;
use crate::edit::unit_set::UnitSet;
use crate::engine::{KnownDirection, Mode, Update};
use crate::error::{Error, Result};
use crate::lab::run::Run;
use crate::lab::trials::time_left;
use crate::lab::writer::BaselineMode;
use crate::vectors::contrast::{Contrast, ContrastRequest, Method};

impl Worker {
    /// Changes the edits, or reports that the previous ones are still in force.
    pub(super) fn change(&mut self, edits: Vec<Edit>, mode: Mode) -> Result<()> {
        let changed = self.edit(edits, mode);
        if changed.is_err() {
            self.tell(Update::Refused(self.edits.clone()));
        }
        match changed {
            // Only the new edits overflow; the text and its numbers are as before.
            Err(error @ Error::NotFinite { .. }) => {
                self.tell(Update::Failed {
                    slot: None,
                    message: error.to_string(),
                });
                Ok(())
            }
            changed => changed,
        }
    }

    fn edit(&mut self, edits: Vec<Edit>, mode: Mode) -> Result<()> {
        if self.writer.is_none()
            && let Some(lab) = &mut self.lab
        {
            // What can be found out without a text is: files that are not there, places that the model lacks.
            let known = edits.iter().filter(|edit| !edit.reads_prompt()).cloned();
            let run = Run {
                schedule: Schedule::always(known.collect()),
                ..Run::plain(Vec::new())
            };
            lab.compile(&run)?;
        }
        let Ok((writer, lab)) = self.writer() else {
            self.edits = edits;
            self.tell(Update::Edited {
                boundary: None,
                receipts: Vec::new(),
            });
            return Ok(());
        };
        // Reading the whole text again drops the schedule that says which edits were in force at which positions.
        let forgets = mode == Mode::AsIfAlways && writer.run.schedule.stages.len() > 1;
        let before = forgets.then(|| writer.hold());
        let boundary = match mode {
            Mode::FromNow => Some(writer.edit_from_now(lab, edits.clone())?),
            Mode::AsIfAlways => {
                writer.edit_always(lab, edits.clone())?;
                None
            }
        };
        let receipts = writer.receipts().to_vec();
        self.edits = edits;
        if let Some(before) = before {
            self.keep_text(before);
        }
        self.tell(Update::Edited { boundary, receipts });
        if mode == Mode::AsIfAlways {
            let fired = self.writer.as_ref().map(|w| w.fired().to_vec());
            self.tell(Update::Fired(fired.unwrap_or_default()));
            self.send_baseline_text();
            self.check = None;
            self.refresh();
        } else {
            if self.baseline_mode.is_lockstep() {
                self.send_baseline_text();
            }
            // The figure's rows depend on the edits, so new columns would not fit the figure so far.
            for i in 0..self.live.len() {
                if self.live[i].of.rows_follow_edits() {
                    self.live[i].set_whole(false);
                    self.enqueue(self.live[i].question.clone());
                }
            }
        }
        self.receipts_due = true;
        Ok(())
    }

    pub(super) fn set_baseline_mode(&mut self, beside: BaselineMode) -> Result<()> {
        if let (Some(writer), Some(lab)) = (&mut self.writer, &mut self.lab) {
            writer.set_beside(lab, beside)?;
        }
        self.baseline_mode = beside;
        self.send_baseline_text();
        Ok(())
    }

    /// Reports the baseline mode, with the baseline run's own text if it has one.
    pub(super) fn send_baseline_text(&self) {
        let (mut tokens, mut diverged) = (Vec::new(), None);
        if let (Some(writer), Some(lab)) = (&self.writer, &self.lab) {
            let prompt = writer.run.prompt;
            diverged = writer.diverged();
            if let Some(text) = writer
                .baseline_row()
                .filter(|_| self.baseline_mode.is_lockstep())
            {
                tokens = plain_tokens(lab, prompt, &text[prompt..]);
            }
        }
        let beside = self.baseline_mode;
        self.tell(Update::Beside {
            beside,
            tokens,
            diverged,
        });
    }

    pub(super) fn group(
        &mut self,
        name: String,
        set: UnitSet,
        save: Option<&std::path::Path>,
    ) -> Result<()> {
        let lab = self.lab()?;
        if let Some(path) = save {
            set.save(path)?;
        }
        lab.sets.insert(name.clone(), set);
        self.tell(Update::Grouped(name));
        Ok(())
    }

    pub(super) fn measure_receipts(&mut self) -> Result<()> {
        let (writer, lab) = self.writer()?;
        let mut measured = lab.receipts(&writer.run)?;
        // Keep the counts from generating the text, rather than those of the pass that measured KL.
        for (own, kept) in measured.iter_mut().zip(writer.receipts()) {
            own.count_as(kept);
        }
        self.tell(Update::Receipts(measured));
        Ok(())
    }

    pub(super) fn direction(
        &mut self,
        name: String,
        plus: &[String],
        minus: &[String],
        chat: bool,
        layer: usize,
        save: Option<std::path::PathBuf>,
    ) -> Result<()> {
        let deliver = self.deliver.clone();
        let lab = self.lab()?;
        if layer >= lab.model.card.layers {
            return Err(Error::argument(
                "layer",
                layer.to_string(),
                format!("0 to {}", lab.model.card.layers - 1),
            ));
        }
        let since = Instant::now();
        let tell = move |done| {
            let _listening = deliver(Update::Working {
                slot: "direction",
                done,
                left: time_left(since.elapsed(), done),
            });
        };
        let contrast = lab.with_progress(tell, |lab| {
            Contrast::measure(lab, plus, minus, ContrastRequest::last(layer, chat))
        });
        let made = contrast?.direction(Method::Mean, lab)?;
        if let Some(path) = &save {
            made.save(path)?;
        }
        let mut told = KnownDirection::of(&name, &made);
        told.remarks.extend_from_slice(&made.origin.notes);
        lab.directions.insert(name, made);
        self.tell(Update::Direction(told));
        // Live figures may depend on directions.
        self.refresh();
        Ok(())
    }
}
