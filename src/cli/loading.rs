//! Reports the progress of loading a model, on a terminal or in a log.
//!
//! Invariant: on a terminal, one status line is overwritten; elsewhere there is a line at the beginning, one at the end, and
//! one at every tenth between, never two within a few seconds. A model that needs no download is loaded silently. To report
//! more, add it to `LoadingMessages::hear`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::interrupt::{self, Interrupt};
use super::output;
use crate::error::Result;
use crate::model::hub::{DownloadPhase, DownloadWatch, Progress, cache_folder};
use crate::text;

/// The shortest time between two lines of a log.
const SPARSE: Duration = Duration::from_secs(5);

/// Opens something that may have to be downloaded. Ctrl-C stops the download and, from then on, the work that checks the
/// returned flag.
pub fn watched<T>(
    open: impl FnOnce(&mut DownloadWatch<'_>) -> Result<T>,
) -> Result<(T, Interrupt)> {
    let interrupt = interrupt::watch()?;
    let mut teller = LoadingMessages::new(output::stderr_is_terminal());
    let mut show = |progress: &Progress| {
        interrupt
            .watched
            .store(progress.phase != DownloadPhase::Reading, Ordering::Relaxed);
        teller.hear(progress);
    };
    let mut watch = DownloadWatch {
        show: &mut show,
        cancelled: &|| interrupt.requested.load(Ordering::Relaxed),
    };
    let opened = open(&mut watch);
    teller.end();
    interrupt.watched.store(true, Ordering::Relaxed);
    opened.map(|opened| (opened, interrupt))
}

/// The messages so far.
struct LoadingMessages {
    terminal: bool,
    began: Instant,
    /// The time of the last line, and its tenth of the way.
    last_report: Option<(Instant, u64)>,
    waiting: bool,
    last: Option<Progress>,
}

impl LoadingMessages {
    fn new(terminal: bool) -> Self {
        Self {
            terminal,
            began: Instant::now(),
            last_report: None,
            waiting: false,
            last: None,
        }
    }

    fn hear(&mut self, progress: &Progress) {
        if matches!(progress.phase, DownloadPhase::Reading) {
            return self.finished(progress);
        }
        if self.terminal {
            let columns = crossterm::terminal::size().map_or(80, |(w, _)| usize::from(w));
            let words = text::plain(progress.words().as_bytes());
            output::status(&text::clip(&words, columns.saturating_sub(1)));
        } else {
            self.log(progress, progress.phase);
        }
        self.last = Some(progress.clone());
    }

    fn log(&mut self, progress: &Progress, phase: DownloadPhase) {
        let waits = matches!(phase, DownloadPhase::Waiting(_) | DownloadPhase::Queued);
        if waits && !self.waiting {
            output::note(&format!("{}.", progress.doing()));
        }
        self.waiting = waits;
        if progress.number == 0 {
            return;
        }
        let tenth = progress.share().map_or(0, |s| (s * 10.0) as u64);
        match self.last_report {
            None => {
                let there = if progress.before > 0 {
                    format!(", of which {} are there", text::size(progress.before))
                } else {
                    String::new()
                };
                output::note(&format!(
                    "downloading {}: {} files, {}{there}.",
                    progress.model,
                    progress.files,
                    text::size(progress.total)
                ));
                self.last_report = Some((Instant::now(), tenth));
            }
            Some((at, before)) if tenth > before && at.elapsed() >= SPARSE => {
                output::note(&text::plain(progress.words().as_bytes()));
                self.last_report = Some((Instant::now(), tenth));
            }
            Some(_) => {}
        }
    }

    /// The model is loaded; reports it if it was downloaded.
    fn finished(&mut self, progress: &Progress) {
        let came = self.last.take().filter(|p| p.number > 0);
        if let Some(came) = came {
            output::note(&format!(
                "{} is in the cache {}: {} in {}.",
                progress.model,
                cache_folder().display(),
                text::size(came.total - came.before),
                text::duration(self.began.elapsed())
            ));
        }
    }

    fn end(&mut self) {
        if self.terminal {
            output::clear_status();
        }
    }
}
