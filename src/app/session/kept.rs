//! The sessions that are kept in a folder: the newest one to go on with, and a list to choose from.
//!
//! Invariant: a session that another process is at work on is never taken without being named, nor is one without a text. To
//! say more of a session in the list, add a field to [`KeptSession`].

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::recorded::RecordedSession;
use super::{ENDING, PREFIX};
use crate::engine::Request;
use crate::error::{Error, Result};
use crate::text;

/// How many sessions a list has at most.
const LISTED: usize = 200;

/// How many columns of a prompt a list shows.
const WORDS: usize = 60;

/// How many columns of a model's name it shows.
const MODEL: usize = 24;

/// A session of a folder, for a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSession {
    pub path: PathBuf,
    /// The time since it was written last.
    pub age: Duration,
    pub model: String,
    /// The first words of its last prompt, safe to show.
    pub words: String,
    /// How many edits were on at the end.
    pub edits: usize,
    /// Whether a process is at work on it.
    pub in_use: bool,
}

/// The session files of a folder with the time when they were written last, newest first.
fn files(folder: &Path) -> Vec<(SystemTime, PathBuf)> {
    let ours = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(ENDING))
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| {
        // A link is none of ours.
        let found = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((found.modified().ok()?, entry.path()))
    });
    let mut files: Vec<_> = files.filter(|(_, path)| ours(path)).collect();
    files.sort();
    files.reverse();
    files
}

/// Whether a process is at work on a session file: it holds a lock.
fn in_use(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Whether a text was begun.
fn has_text(session: &RecordedSession) -> bool {
    let begins = |request: &Request| matches!(request, Request::Generate { .. });
    session.requests.iter().any(|row| begins(&row.request))
}

/// The newest session in a folder that has a text, and that no process is at work on.
///
/// # Errors
///
/// When there is none.
pub fn newest_in(folder: &Path) -> Result<RecordedSession> {
    let (mut busy, mut damaged) = (0, Vec::new());
    for (_, path) in files(folder) {
        if in_use(&path) {
            busy += 1;
            continue;
        }
        match RecordedSession::read(&path) {
            Ok(mut session) if has_text(&session) => {
                session.missing.extend(damaged);
                return Ok(session);
            }
            // Nothing came of it.
            Ok(_) => {}
            Err(why) => damaged.push(format!(
                "a newer session, which cannot be read ({})",
                text::line(why.to_string().trim_end_matches('.'))
            )),
        }
    }
    let what = match busy {
        0 => "there is no session to go on with".to_string(),
        1 => "there is no session to go on with but that of an lmscope that still runs".into(),
        n => format!("there is no session to go on with but those of {n} lmscope that still run"),
    };
    Err(Error::bad_file(
        folder,
        what,
        "One is kept from the first text on, unless --no-session or config.toml turns it off; --resume FILE names a file.",
    ))
}

/// The sessions of a folder that have a text, newest first.
pub fn list(folder: &Path) -> Vec<KeptSession> {
    let now = SystemTime::now();
    let row = |(at, path): (SystemTime, PathBuf)| {
        let session = RecordedSession::read(&path).ok().filter(has_text)?;
        Some(KeptSession {
            age: now.duration_since(at).unwrap_or_default(),
            model: model_of(&session),
            words: words_of(&session),
            edits: edits_of(&session),
            in_use: in_use(&path),
            path,
        })
    };
    let files = files(folder).into_iter().take(LISTED);
    files.filter_map(row).collect()
}

/// What the last request of a kind says.
fn last<T>(session: &RecordedSession, of: fn(&Request) -> Option<T>) -> Option<T> {
    session
        .requests
        .iter()
        .rev()
        .find_map(|row| of(&row.request))
}

fn model_of(session: &RecordedSession) -> String {
    let model = last(session, |request| {
        if let Request::Load { model, .. } = request {
            Some(text::clip(&text::line(model), MODEL))
        } else {
            None
        }
    });
    model.unwrap_or_default()
}

fn words_of(session: &RecordedSession) -> String {
    let words = last(session, |request| {
        if let Request::Generate { prompt, .. } = request {
            prompt.last_words().map(String::from)
        } else {
            None
        }
    });
    let words = words.unwrap_or_default();
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    text::clip(&text::line(&words), WORDS)
}

fn edits_of(session: &RecordedSession) -> usize {
    let edits = last(session, |request| {
        if let Request::Edits { edits, .. } = request {
            Some(edits.iter().filter(|edit| edit.active()).count())
        } else {
            None
        }
    });
    edits.unwrap_or(0)
}

impl KeptSession {
    /// Its name in a list: when it was written last.
    pub fn when(&self) -> String {
        let ago = |n: u64, one: &str, many: &str| match n {
            1 => format!("1 {one} ago"),
            n => format!("{n} {many} ago"),
        };
        let seconds = self.age.as_secs();
        match seconds {
            0..60 => "just now".into(),
            60..3600 => ago(seconds / 60, "minute", "minutes"),
            3600..86_400 => ago(seconds / 3600, "hour", "hours"),
            _ => ago(seconds / 86_400, "day", "days"),
        }
    }

    /// What it is about, in a line.
    pub fn about(&self) -> String {
        let edits = match self.edits {
            0 => String::new(),
            1 => " · 1 edit".into(),
            n => format!(" · {n} edits"),
        };
        let used = if self.in_use { " · in use" } else { "" };
        format!("{} · {}{edits}{used}", self.model, self.words)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A session file, written so many seconds ago.
    fn write(folder: &Path, name: &str, lines: &[&str], ago: u64) -> PathBuf {
        let path = folder.join(format!("{PREFIX}{name}{ENDING}"));
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        let at = SystemTime::now() - Duration::from_secs(ago);
        File::open(&path).unwrap().set_modified(at).unwrap();
        path
    }

    const LOAD: &str = r#"{"request":"load","model":"demo"}"#;
    const TEXT: &str = r#"{"request":"generate","text":"The  capital\nof France","count":3}"#;
    const EDITS: &str = r#"{"request":"edits","edits":[{"edit":"zero:1@mlp_act.0"},{"edit":"zero:2@mlp_act.0","on":false}]}"#;

    #[test]
    fn the_newest_with_a_text_that_nobody_is_at_work_on_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let why = newest_in(folder.path()).unwrap_err().to_string();
        assert!(
            why.contains("no session to go on with:") || why.contains("no session to go on with."),
            "{why}"
        );
        let old = write(folder.path(), "a", &[LOAD, TEXT], 900);
        let busy = write(folder.path(), "b", &[LOAD, TEXT], 600);
        write(folder.path(), "c", &[LOAD, TEXT, r#"{"failed":2}"#], 300);
        write(folder.path(), "d", &[LOAD, r#"{"failed":1}"#], 200);
        write(folder.path(), "e", &[LOAD, "melt"], 100);
        let held = File::open(&busy).unwrap();
        held.try_lock().unwrap();
        let found = newest_in(folder.path()).unwrap();
        assert_eq!(found.path, old);
        let said = found.missing.join("; ");
        assert!(
            said.contains("-e.jsonl") && said.contains("line 2"),
            "{said}"
        );
        std::fs::remove_file(&old).unwrap();
        let why = newest_in(folder.path()).unwrap_err().to_string();
        assert!(why.contains("an lmscope that still runs"), "{why}");
        drop(held);
        assert_eq!(newest_in(folder.path()).unwrap().path, busy);
    }

    #[test]
    fn a_list_says_when_what_and_under_how_many_edits() {
        let folder = tempfile::tempdir().unwrap();
        let old = write(folder.path(), "a", &[LOAD, EDITS, TEXT], 7300);
        let new = write(folder.path(), "b", &[LOAD, TEXT], 90);
        write(folder.path(), "c", &[LOAD], 30);
        std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
        let held = File::open(&new).unwrap();
        held.try_lock_shared().unwrap();
        let found = list(folder.path());
        let said: Vec<_> = found
            .iter()
            .map(|own| (&own.path, own.when(), own.about()))
            .collect();
        assert_eq!(
            said,
            [
                (
                    &new,
                    "1 minute ago".into(),
                    "demo · The capital of France · in use".into()
                ),
                (
                    &old,
                    "2 hours ago".into(),
                    "demo · The capital of France · 1 edit".into()
                ),
            ]
        );
    }
}
