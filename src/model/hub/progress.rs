//! The progress of a download: [`Progress`] in numbers and words, and [`DownloadWatch`] to receive it and to stop the download.
//!
//! Invariant: the number of bytes only grows, and never exceeds the total; a listener is called at most ten times a second, and
//! at every change of phase. To report something else, add a field to [`Progress`] and its words to [`Progress::words`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::text;

/// The time between calls of a listener, and between checks for cancelling.
pub const TICK: Duration = Duration::from_millis(100);

/// The time over which the rate is measured.
const WINDOW: Duration = Duration::from_secs(5);

/// The phase of a download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DownloadPhase {
    /// The hub is asked for the list of files.
    #[default]
    Asking,
    /// A file is received.
    Downloading,
    /// The part that already existed is read again, to check the whole.
    Checking,
    /// The hub asks to wait for this many seconds.
    Waiting(u64),
    /// Another process is downloading the same file.
    Queued,
    /// All files are complete; the model is read from the disk.
    Reading,
}

/// The progress of a download.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The model argument.
    pub model: String,
    /// The current phase.
    pub phase: DownloadPhase,
    /// The current file; empty before the first.
    pub file: String,
    /// The number of the current file, from 1; 0 before the first.
    pub number: usize,
    /// How many files there are.
    pub files: usize,
    /// Bytes of all files that are complete or received.
    pub done: u64,
    /// Bytes of all files; 0 if not known yet.
    pub total: u64,
    /// Bytes that existed before this download.
    pub before: u64,
    /// Bytes a second, averaged over the last few seconds.
    pub rate: f64,
    /// The time left at this rate; none if it cannot be estimated.
    pub left: Option<Duration>,
}

impl Progress {
    /// The progress of a download that has not begun.
    pub fn of(model: &str) -> Self {
        Self {
            model: model.to_string(),
            ..Self::default()
        }
    }

    /// The share that is done, 0 to 1; none if the total is unknown.
    pub fn share(&self) -> Option<f64> {
        (self.total > 0).then(|| self.done as f64 / self.total as f64)
    }

    /// The phase in a few words.
    pub fn doing(&self) -> String {
        match self.phase {
            DownloadPhase::Asking => "asking the hub".into(),
            DownloadPhase::Downloading => "downloading".into(),
            DownloadPhase::Checking => "checking which files are there".into(),
            DownloadPhase::Waiting(seconds) => {
                format!("the hub limits requests, going on in {seconds} s")
            }
            DownloadPhase::Queued => "waiting for another process that downloads it".into(),
            DownloadPhase::Reading => "reading".into(),
        }
    }

    /// The phase in one word.
    pub fn word(&self) -> &'static str {
        match self.phase {
            DownloadPhase::Asking => "asking",
            DownloadPhase::Downloading => "downloading",
            DownloadPhase::Checking => "checking",
            DownloadPhase::Waiting(_) | DownloadPhase::Queued => "waiting",
            DownloadPhase::Reading => "reading",
        }
    }

    /// `file 3 of 9`.
    pub fn count(&self) -> String {
        format!("file {} of {}", self.number, self.files)
    }

    /// `1.9 GiB of 4.5 GiB`.
    pub fn amount(&self) -> String {
        if self.total == 0 {
            text::size(self.done)
        } else {
            format!("{} of {}", text::size(self.done), text::size(self.total))
        }
    }

    /// `23.1 MiB/s, 1 min 53 s left`; empty while nothing is received.
    pub fn speed(&self) -> String {
        if self.rate <= 0.0 || self.phase != DownloadPhase::Downloading {
            return String::new();
        }
        let rate = format!("{}/s", text::size(self.rate as u64));
        match self.left {
            Some(left) => format!("{rate}, {} left", crate::text::duration(left)),
            None => rate,
        }
    }

    /// Everything on one line, most important first.
    pub fn words(&self) -> String {
        if self.phase == DownloadPhase::Reading {
            return format!("reading {}", self.model);
        }
        if self.number == 0 {
            return format!("{} about {}", self.doing(), self.model);
        }
        let amount = match self.share() {
            Some(share) => format!("{:.0} %, {}", (share * 100.0).floor(), self.amount()),
            None => self.amount(),
        };
        let first = format!("{} {amount}", self.doing());
        let parts = [first, self.speed(), self.count(), self.file.clone()];
        let parts: Vec<String> = parts.into_iter().filter(|p| !p.is_empty()).collect();
        parts.join(", ")
    }
}

/// Receives the progress of a download, and can stop it.
pub struct DownloadWatch<'a> {
    /// Called with the progress.
    pub show: &'a mut dyn FnMut(&Progress),
    /// Called ten times a second; the download stops if it returns true.
    pub cancelled: &'a dyn Fn() -> bool,
}

impl DownloadWatch<'_> {
    /// Reports that the model is now read from the disk.
    pub fn reading(&mut self, model: &str) {
        let progress = Progress {
            phase: DownloadPhase::Reading,
            ..Progress::of(model)
        };
        (self.show)(&progress);
    }
}

/// Counts received bytes and reports the progress.
pub(super) struct ByteCounter<'a, 'w> {
    /// The current progress.
    pub now: Progress,
    watch: &'a mut DownloadWatch<'w>,
    last_update: Instant,
    samples: VecDeque<(Instant, u64)>,
}

impl<'a, 'w> ByteCounter<'a, 'w> {
    pub fn new(model: &str, watch: &'a mut DownloadWatch<'w>) -> Self {
        let mut meter = Self {
            now: Progress::of(model),
            watch,
            last_update: Instant::now(),
            samples: VecDeque::new(),
        };
        meter.tell();
        meter
    }

    /// Returns an error if the user has asked to stop.
    pub fn check(&self) -> Result<()> {
        if (self.watch.cancelled)() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Enters a phase.
    pub fn phase(&mut self, phase: DownloadPhase) {
        if self.now.phase != phase {
            self.now.phase = phase;
            self.tell();
        }
    }

    /// Begins the next file.
    pub fn file(&mut self, name: &str) {
        self.now.number += 1;
        self.now.file = name.to_string();
        self.tell();
    }

    /// Counts bytes that already existed.
    pub fn reuse(&mut self, bytes: u64) {
        self.now.before += bytes;
        self.now.done += bytes;
    }

    /// Subtracts bytes that turned out to be useless.
    pub fn discard(&mut self, bytes: u64) {
        self.now.done = self.now.done.saturating_sub(bytes);
        self.now.before = self.now.before.min(self.now.done);
        self.samples.clear();
    }

    /// Counts received bytes.
    pub fn add(&mut self, bytes: u64) {
        self.now.done += bytes;
        self.tick();
    }

    /// Reports the progress if enough time has passed.
    pub fn tick(&mut self) {
        if self.last_update.elapsed() >= TICK {
            self.measure();
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.last_update = Instant::now();
        (self.watch.show)(&self.now);
    }

    fn measure(&mut self) {
        let now = Instant::now();
        self.samples.push_back((now, self.now.done));
        let old = |sample: Option<&(Instant, u64)>| {
            sample.is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        };
        while self.samples.len() > 2 && old(self.samples.front()) {
            self.samples.pop_front();
        }
        let Some((since, from)) = self.samples.front() else {
            return;
        };
        let seconds = now.duration_since(*since).as_secs_f64();
        if seconds < 0.2 {
            return;
        }
        self.now.rate = self.now.done.saturating_sub(*from) as f64 / seconds;
        let missing = self.now.total.saturating_sub(self.now.done);
        self.now.left = (self.now.rate > 0.0 && self.now.total > 0)
            .then(|| Duration::from_secs((missing as f64 / self.now.rate).min(1e7).ceil() as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let progress = Progress {
            phase: DownloadPhase::Downloading,
            file: "model-00003-of-00004.safetensors".into(),
            number: 3,
            files: 9,
            done: 3 << 30,
            total: 4 << 30,
            rate: f64::from(32 << 20),
            left: Some(Duration::from_secs(32)),
            ..Progress::of("a/b")
        };
        assert_eq!(
            progress.words(),
            "downloading 75 %, 3.0 GiB of 4.0 GiB, 32.0 MiB/s, 32 s left, file 3 of 9, model-00003-of-00004.safetensors"
        );
        assert_eq!(Progress::of("a/b").words(), "asking the hub about a/b");
    }

    #[test]
    fn a_meter_stops_when_asked_and_takes_useless_bytes_back() {
        let mut last_update = Vec::new();
        let mut show = |p: &Progress| last_update.push(p.done);
        let stop = std::cell::Cell::new(false);
        let cancelled = || stop.get();
        let mut watch = DownloadWatch {
            show: &mut show,
            cancelled: &cancelled,
        };
        let mut meter = ByteCounter::new("a/b", &mut watch);
        meter.reuse(10);
        meter.file("x");
        meter.discard(4);
        meter.file("y");
        assert!(meter.check().is_ok());
        stop.set(true);
        assert!(matches!(meter.check(), Err(Error::Cancelled)));
        assert_eq!((meter.now.before, meter.now.number), (6, 2));
        assert_eq!(last_update, [0, 10, 6]);
    }
}
