//! Sweeps: many trials of one question, done in slices. A sweep reports its progress, can be stopped between slices, keeps its
//! results, and resumes when it is asked for again.
//!
//! Invariant: a result is stored under everything it depends on (model, weights, dtype, device, tokens, edits, seed,
//! parameters, version), and a resumed sweep returns what an uninterrupted one would have. To sweep over something, count the
//! trials and call [`Lab::trials`] with a function that measures a slice of them.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::circuit::file::SavedCircuit;
use super::lab::Lab;
use super::run::Run;
use crate::edit::Edit;
use crate::error::{Error, Result};
use crate::model::Fingerprint;

/// The size in bytes up to which the content of a file is part of a sweep's key.
const LARGE: u64 = 64 << 20;

/// The shortest time that is said before work begins.
pub const WORTH_SAYING: Duration = Duration::from_secs(3);

/// The cost of a sweep, known before it starts: the number of rows that run through the whole model, and the positions of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepCost {
    pub passes: usize,
    /// Positions in a row, on average.
    pub tokens: usize,
}

impl SweepCost {
    /// The duration in seconds at a pace in positions a second.
    pub fn seconds(self, pace: f32) -> f32 {
        (self.passes * self.tokens) as f32 / pace.max(f32::MIN_POSITIVE)
    }
}

impl fmt::Display for SweepCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        write!(
            f,
            "{} pass{} of {} token{}",
            self.passes,
            if self.passes == 1 { "" } else { "es" },
            self.tokens,
            plural(self.tokens)
        )
    }
}

/// The estimated time that the rest will take at the pace so far; none while too little is done for an estimate.
pub fn time_left(spent: Duration, done: f32) -> Option<Duration> {
    if spent < Duration::from_secs(2) || done < 0.01 {
        return None;
    }
    Some(spent.mul_f32((1.0 / done - 1.0).max(0.0)))
}

/// The results of a sweep, in the order of its trials.
#[derive(Clone, Debug, PartialEq)]
pub struct Trials<T> {
    /// One result for each trial; none for trials that were not reached before the sweep was stopped.
    pub results: Vec<Option<T>>,
}

impl<T> Trials<T> {
    /// How many trials have a result.
    pub fn done(&self) -> usize {
        self.results.iter().flatten().count()
    }

    /// Whether the sweep was stopped before the last trial.
    pub fn stopped(&self) -> bool {
        self.done() < self.results.len()
    }

    /// A note for a figure in which cells are missing.
    pub fn note(&self) -> Option<String> {
        self.stopped().then(|| {
            format!(
                "stopped after {} of {} trials; the same request continues from there",
                self.done(),
                self.results.len()
            )
        })
    }
}

impl Lab {
    /// Does `count` trials in slices of at most `slice`. `work` measures the trials of a range and returns one result for each.
    /// `parameters` are those of the figure ([`Lab::provenance`]), with a digest of every other file that was read.
    ///
    /// If the user stops the sweep, the results so far are returned, and the same sweep resumes from them later.
    ///
    /// # Errors
    ///
    /// Those of `work`; [`Error::Cancelled`] if the sweep was stopped before anything was measured.
    pub fn trials<T: Clone + Serialize + DeserializeOwned>(
        &mut self,
        run: &Run,
        parameters: Vec<(String, String)>,
        count: usize,
        slice: usize,
        mut work: impl FnMut(&mut Self, Range<usize>) -> Result<Vec<T>>,
    ) -> Result<Trials<T>> {
        let key = self.sweep_key(run, parameters)?;
        let mut kept = self.unfinished.take(key, count);
        let mut results: Vec<Option<T>> = kept
            .iter()
            .map(|value| {
                let value = value.clone()?;
                serde_json::from_value(value).ok()
            })
            .collect();
        let mut next = 0;
        let outcome = loop {
            let Some(first) = (next..count).find(|i| results[*i].is_none()) else {
                break Ok(());
            };
            let missing = (first..count).take_while(|i| results[*i].is_none());
            let range = first..first + missing.take(slice.max(1)).count();
            next = range.end;
            let share = |trials: usize| trials as f32 / count as f32;
            let done = results.iter().flatten().count();
            let part = share(done)..share(done + range.len());
            let measured = self
                .report(part.start)
                .and_then(|()| self.part(part, |lab| work(lab, range.clone())));
            match measured {
                Ok(measured) => {
                    for (i, result) in range.zip(measured) {
                        results[i] = Some(result);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        let trials = Trials { results };
        match outcome {
            Ok(()) => {
                self.unfinished.forget(key);
                Ok(trials)
            }
            Err(Error::Cancelled) if trials.done() > 0 => {
                place(&mut kept, &trials);
                self.unfinished.keep(key, kept);
                self.unfinished.stopped = true;
                self.cancel.store(false, Ordering::Relaxed);
                Ok(trials)
            }
            Err(error) => {
                if trials.done() > 0 && !matches!(error, Error::Cancelled) {
                    place(&mut kept, &trials);
                    self.unfinished.keep(key, kept);
                }
                Err(error)
            }
        }
    }

    /// Work whose steps depend on those before, so that it is no sweep: `work` fills in one number for each of `count` steps as it goes,
    /// and begins with those that an earlier, stopped call has left.
    ///
    /// # Errors
    ///
    /// Those of `work`; after [`Error::Cancelled`] the same call goes on.
    pub fn resumable<T>(
        &mut self,
        run: &Run,
        parameters: Vec<(String, String)>,
        count: usize,
        work: impl FnOnce(&mut Self, &mut [Option<f64>]) -> Result<T>,
    ) -> Result<T> {
        let key = self.sweep_key(run, parameters)?;
        let kept = self.unfinished.take(key, count);
        let mut steps: Vec<Option<f64>> = kept.iter().map(|v| v.as_ref()?.as_f64()).collect();
        let outcome = work(self, &mut steps);
        match outcome {
            Ok(_) => self.unfinished.forget(key),
            Err(_) if steps.iter().any(Option::is_some) => {
                let steps = steps.into_iter().map(|step| step.map(Value::from));
                self.unfinished.keep(key, steps.collect());
                self.unfinished.stopped |= matches!(outcome, Err(Error::Cancelled));
            }
            Err(_) => {}
        }
        outcome
    }

    /// The key of a sweep: a digest of everything its results depend on.
    pub(crate) fn sweep_key(&self, run: &Run, parameters: Vec<(String, String)>) -> Result<u64> {
        let edits = run.schedule.stages.iter().flat_map(|stage| &stage.edits);
        let mut names: Vec<String> = edits
            .flat_map(Edit::names)
            .chain(parameters.iter().map(|(_, value)| value.as_str()))
            .map(ToString::to_string)
            .collect();
        let provenance = self.provenance(run, parameters);
        let text = serde_json::to_vec(&provenance)
            .map_err(|e| Error::Engine(format!("a sweep has no name: {e}")))?;
        let mut digest = Fingerprint::default();
        digest.write(&text);
        digest.write(&run.digest().to_le_bytes());
        names.sort_unstable();
        names.dedup();
        self.meanings(&names, &mut digest);
        Ok(digest.finish())
    }

    /// Writes into `digest` the current content of the directions, sets and files that names stand for: a name may later stand
    /// for something else.
    pub(crate) fn meanings(&self, names: &[String], digest: &mut Fingerprint) {
        let mut directions: Vec<_> = self.directions.iter().collect();
        directions.sort_by_key(|(name, _)| *name);
        for (name, direction) in directions {
            digest.write(name.as_bytes());
            for (at, vector) in &direction.rows {
                digest.write(at.to_string().as_bytes());
                vector
                    .iter()
                    .for_each(|x| digest.write(&x.to_bits().to_le_bytes()));
            }
        }
        let mut sets: Vec<_> = self.sets.iter().collect();
        sets.sort_by_key(|(name, _)| *name);
        digest.write(format!("{sets:?}").as_bytes());
        let named = |(name, _): &(&String, &Arc<SavedCircuit>)| names.contains(name);
        let mut circuits: Vec<_> = self.circuits.iter().filter(named).collect();
        circuits.sort_by_key(|(name, _)| *name);
        for (name, circuit) in circuits {
            digest.write(name.as_bytes());
            circuit.write_into(digest);
        }
        for name in names {
            // Remove decorations: a vector file may be shifted by layers (`FILE#-1`), a list is named `@FILE`.
            let bare = name.strip_prefix('@').unwrap_or(name);
            let shifted = bare.rsplit_once('#').map_or(bare, |(name, _)| name);
            for path in [bare, shifted] {
                if let Some(held) = held(Path::new(path)) {
                    digest.write(path.as_bytes());
                    digest.write(&held);
                }
            }
        }
    }
}

/// Copies the results of `trials` into `kept`, in the form in which they are stored.
fn place<T: Serialize>(kept: &mut [Option<Value>], trials: &Trials<T>) {
    for (value, result) in kept.iter_mut().zip(&trials.results) {
        *value = result.as_ref().and_then(|r| serde_json::to_value(r).ok());
    }
}

/// The content of a file, or for a large file or a folder its length and modification time; none if the path does not exist.
fn held(path: &Path) -> Option<Vec<u8>> {
    let facts = std::fs::metadata(path).ok()?;
    if facts.is_file() && facts.len() <= LARGE {
        return std::fs::read(path).ok();
    }
    Some(format!("{} {:?}", facts.len(), facts.modified().ok()).into_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::edit::schedule::Schedule;
    use crate::lab::progress::KEPT;
    use crate::model::Model;
    use crate::model::network::families::FAMILIES;

    fn lab() -> Lab {
        Lab::new(Model::tiny(&FAMILIES[0], 7).unwrap())
    }

    fn named(name: &str) -> Vec<(String, String)> {
        vec![("instrument".into(), name.into())]
    }

    /// Runs a sweep of nine trials that is stopped before trial `stop`; also returns which trials it measured.
    fn sweep(lab: &mut Lab, name: &str, stop: usize) -> (Result<Trials<f32>>, Vec<usize>) {
        let run = Run::plain(vec![1, 2]);
        let mut seen = Vec::new();
        let trials = lab.trials(&run, named(name), 9, 2, |lab, range| {
            seen.extend(range.clone());
            if range.end > stop {
                lab.cancel.store(true, Ordering::Relaxed);
                return Err(Error::Cancelled);
            }
            Ok(range.map(|i| 0.1 * i as f32).collect())
        });
        (trials, seen)
    }

    /// A file's name stands for its current content: after a change, a sweep does not continue from the old results.
    #[test]
    fn a_sweep_whose_file_has_changed_begins_anew() {
        let lab = lab();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vector.safetensors");
        let parameters = vec![("direction".to_string(), file.display().to_string())];
        let edit = format!(
            "add:{}@resid_pre.0 when {}@resid_pre.0>1",
            "x",
            file.display()
        );
        let conditioned = Run {
            schedule: Schedule::always(vec![edit.parse().unwrap()]),
            ..Run::plain(vec![1, 2])
        };
        let plain = Run::plain(vec![1, 2]);
        let key = |run: &Run, parameters: &[(String, String)]| {
            lab.sweep_key(run, parameters.to_vec()).unwrap()
        };
        let mut keys = Vec::new();
        for content in ["one", "two"] {
            std::fs::write(&file, content).unwrap();
            keys.push((key(&plain, &parameters), key(&conditioned, &[])));
            assert_eq!(key(&plain, &parameters), keys[keys.len() - 1].0);
        }
        assert_ne!(keys[0].0, keys[1].0, "a parameter that names it");
        assert_ne!(keys[0].1, keys[1].1, "an edit that names it");
    }

    /// Results measured before an error are kept for the next attempt.
    #[test]
    fn an_error_loses_nothing() {
        let mut lab = lab();
        let run = Run::plain(vec![1, 2]);
        let mut again = Vec::new();
        for attempt in 0..2 {
            let found = lab.trials(&run, named("e"), 6, 2, |_, range| {
                if attempt == 0 && range.start == 4 {
                    return Err(Error::Engine("broken".into()));
                }
                again.push((attempt, range.start));
                Ok(range.map(|i| i as f32).collect())
            });
            assert_eq!(found.is_err(), attempt == 0);
            assert!(!lab.unfinished.stopped, "nobody stopped it");
        }
        assert_eq!(again, [(0, 0), (0, 2), (1, 4)]);
    }

    #[test]
    fn a_stopped_sweep_goes_on_where_it_was() {
        let mut lab = lab();
        let (whole, _) = sweep(&mut lab, "whole", 9);
        let (part, seen) = sweep(&mut lab, "a", 5);
        let part = part.unwrap();
        assert_eq!((part.done(), seen), (4, vec![0, 1, 2, 3, 4, 5]));
        assert!(part.note().unwrap().contains("4 of 9"));
        assert!(!lab.cancel.load(Ordering::Relaxed), "the wish was met");
        assert!(std::mem::take(&mut lab.unfinished.stopped));
        let (other, seen) = sweep(&mut lab, "b", 9);
        assert_eq!(seen.len(), 9, "another sweep owes nothing to the first");
        assert_eq!(other.unwrap(), whole.as_ref().unwrap().clone());
        let (rest, seen) = sweep(&mut lab, "a", 9);
        assert_eq!(seen, [4, 5, 6, 7, 8]);
        assert_eq!(rest.unwrap(), whole.unwrap());
        assert!(!lab.unfinished.stopped);
    }

    #[test]
    fn a_file_brings_a_sweep_into_another_process() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let mut lab = lab();
            lab.unfinished.folder = Some(folder.path().join("unfinished"));
            lab
        };
        let files = || {
            let entries = std::fs::read_dir(folder.path().join("unfinished")).unwrap();
            entries.count()
        };
        sweep(&mut open(), "a", 5).0.unwrap();
        assert_eq!(files(), 1);
        let (rest, seen) = sweep(&mut open(), "a", 9);
        assert_eq!(seen, [4, 5, 6, 7, 8]);
        assert_eq!(rest.unwrap(), sweep(&mut lab(), "a", 9).0.unwrap());
        assert_eq!(files(), 0, "what is finished leaves nothing behind");
        for name in 0..KEPT + 3 {
            sweep(&mut open(), &name.to_string(), 5).0.unwrap();
        }
        assert_eq!(files(), KEPT, "the oldest are let go");
        let foreign = folder.path().join("unfinished/notes.txt");
        std::fs::write(&foreign, "mine").unwrap();
        sweep(&mut open(), "one more", 5).0.unwrap();
        assert!(foreign.exists() && files() == KEPT + 1, "and nothing else");
        std::fs::remove_file(foreign).unwrap();
        for entry in std::fs::read_dir(folder.path().join("unfinished")).unwrap() {
            std::fs::write(entry.unwrap().path(), "[null, 1").unwrap();
        }
        let (_, seen) = sweep(&mut open(), "5", 9);
        assert_eq!(seen.len(), 9, "a damaged file is as good as none");
    }

    #[test]
    fn a_sweep_that_cannot_be_kept_as_a_file_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        std::fs::write(&taken, "a file").unwrap();
        let mut lab = lab();
        lab.unfinished.folder = Some(taken.join("unfinished"));
        sweep(&mut lab, "a", 5).0.unwrap();
        let why = lab.unfinished.failure.clone().unwrap();
        assert!(why.contains("taken"), "{why}");
        lab.unfinished.folder = Some(folder.path().join("unfinished"));
        sweep(&mut lab, "b", 5).0.unwrap();
        assert_eq!(lab.unfinished.failure, None);
    }

    #[test]
    fn nothing_measured_is_nothing_kept() {
        let mut lab = lab();
        let (stopped, _) = sweep(&mut lab, "a", 1);
        assert!(matches!(stopped, Err(Error::Cancelled)));
        assert!(lab.cancel.load(Ordering::Relaxed));
    }

    #[test]
    fn the_time_left_follows_the_pace() {
        let minute = Duration::from_mins(1);
        assert_eq!(time_left(minute, 0.25), Some(minute * 3));
        assert_eq!(time_left(Duration::from_millis(900), 0.25), None);
        assert_eq!(time_left(minute, 0.0), None);
    }

    #[test]
    fn costs_read_as_sentences() {
        let cost = |passes, tokens| SweepCost { passes, tokens };
        assert_eq!(cost(66, 12).to_string(), "66 passes of 12 tokens");
        assert_eq!(cost(1, 1).to_string(), "1 pass of 1 token");
        assert!((cost(10, 20).seconds(100.0) - 2.0).abs() < 1e-6);
    }
}
