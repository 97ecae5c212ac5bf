//! Loading a model, and beginning anew with the one that is loaded.
//!
//! Invariant: whatever was about the model before, or its texts, is gone when the app hears of the model. To show another phase of
//! loading, add its arm in [`loading`].

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Worker;
use super::kept_texts::KeptTexts;
use crate::dictionaries::handles;
use crate::engine::{KnownDirection, Loaded, Loading, Update};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::sample::Sampling;
use crate::lab::writer::BaselineMode;
use crate::model::hub::{DownloadPhase, DownloadWatch, Progress};
use crate::model::load::Options;

/// The progress of loading a model, in the form for the screen.
fn loading(progress: &Progress) -> Loading {
    match progress.phase {
        DownloadPhase::Reading => format!("loading {}", progress.model).as_str().into(),
        DownloadPhase::Asking
        | DownloadPhase::Downloading
        | DownloadPhase::Checking
        | DownloadPhase::Waiting(_)
        | DownloadPhase::Queued => Loading {
            phase: progress.word().into(),
            download: Some(progress.clone()),
        },
    }
}

impl Worker {
    /// Loads a model, or begins anew with the one that is loaded.
    pub(super) fn load(&mut self, model: &str, options: &Options) -> Result<()> {
        let since = Instant::now();
        let same = |(held, by): &(String, Options)| held == model && by == options;
        let held = self.lab.take();
        let lab = if let Some(held) = held.filter(|_| self.opened.as_ref().is_some_and(same)) {
            held
        } else {
            // The model before has made room, which two of them may not have.
            self.writer = None;
            self.stop();
            self.open(model, options)?
        };
        let known = lab.directions.iter();
        let mut directions: Vec<KnownDirection> =
            known.map(|(n, d)| KnownDirection::of(n, d)).collect();
        directions.sort_by(|a, b| a.name.cmp(&b.name));
        let loaded = Loaded {
            card: lab.model.card.clone(),
            seconds: since.elapsed().as_secs_f32(),
            directions,
            circuits: lab.known_circuits(),
            notes: lab.model.notes.clone(),
        };
        // Nothing goes on that was about the model before.
        self.stop();
        self.receipts_due = false;
        self.check = None;
        self.lab = Some(lab);
        self.opened = Some((model.to_string(), options.clone()));
        self.writer = None;
        (self.edits, self.sampling) = (Vec::new(), Sampling::default());
        self.baseline_mode = BaselineMode::default();
        self.drop_following();
        for live in &mut self.live {
            live.set_whole(false);
        }
        self.kept = KeptTexts::default();
        self.tell(Update::Loaded(Box::new(loaded)));
        Ok(())
    }

    /// Reads a model.
    fn open(&self, model: &str, options: &Options) -> Result<Lab> {
        let (deliver, cancel) = (self.deliver.clone(), self.cancel.clone());
        let mut show = |progress: &Progress| {
            // If the other side is closed, the next receive ends the loop.
            let _listening = deliver(Update::Loading(loading(progress)));
        };
        let mut watch = DownloadWatch {
            show: &mut show,
            cancelled: &|| cancel.load(Ordering::Relaxed),
        };
        let opened = handles::open_watched(model, options, &mut watch);
        if matches!(opened, Err(Error::DownloadStopped(_))) {
            self.cancel.store(false, Ordering::Relaxed);
        }
        let mut lab = opened?;
        lab.cancel = self.cancel.clone();
        Ok(lab)
    }
}
