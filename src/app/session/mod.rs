//! The session: the user's requests and what was written between them, as lines of JSON from which the same screen comes back.
//!
//! Invariant: from the first request for a text on, every request is written to the disk when it is made, one line each in
//! order, to a file of this process alone that only its owner can read; the last line is the screen, written anew when it has
//! changed. If writing fails, nothing else does; the user is told, and the next request tries again. While it is written, the
//! file is locked. A session that was replayed has no file until the user goes on. The lines are those of [`lines`], which also
//! reads them.

pub mod kept;
pub mod lines;
pub mod recorded;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use crate::engine::{Request, Update};
use crate::file;
use lines::ScreenLine;

/// How the name of a session's file begins and ends.
const PREFIX: &str = "session-";
const ENDING: &str = ".jsonl";

/// The requests so far, and the file that holds them.
#[derive(Debug, Default)]
pub struct Session {
    lines: Vec<String>,
    /// The folder for the file; none if the session is not kept.
    folder: Option<PathBuf>,
    held: Option<OpenFile>,
    /// How many of the lines are on the disk.
    kept: usize,
    /// Whether a text was requested; before that, no file is made.
    begun: bool,
    /// The error that keeps lines from being written.
    failure: Option<String>,
    keeping: Keeping,
    /// The file that is replayed, or was.
    origin: Option<OriginFile>,
    /// The newest screen, and whether it is the last line of the file.
    screen: Option<ScreenLine>,
    screen_kept: bool,
    text: TextProgress,
}

/// When lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Keeping {
    /// As they come.
    #[default]
    AtOnce,
    /// Not yet: they are those of another file, which is being replayed.
    Replaying,
    /// With what the user does next, because until then the other file has them all.
    Replayed,
    /// With the user's next request, because they are only a part of the other file.
    Partly,
}

/// The file that a session was replayed from.
#[derive(Debug)]
struct OriginFile {
    path: PathBuf,
    /// Held open and locked, so that it is seen to be in use.
    _lock: Option<File>,
}

/// What a request about the text does to the writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// A new text: tokens come once it has begun.
    Begins,
    /// Tokens come from now on.
    GoesOn,
    /// No more tokens come.
    Ends,
    /// They go on coming if they came before.
    AsBefore,
}

impl Writing {
    fn after(request: &Request) -> Self {
        match request {
            Request::Generate { .. } => Self::Begins,
            Request::Continue { .. } => Self::GoesOn,
            Request::Load { .. } | Request::Rewind { .. } | Request::Restore(_) => Self::Ends,
            Request::Sampling(_)
            | Request::Edits { .. }
            | Request::Beside(_)
            | Request::CountTokens { .. }
            | Request::ListModels(_)
            | Request::Stop
            | Request::Live(_)
            | Request::View { .. }
            | Request::Observe(_)
            | Request::Follow(_)
            | Request::Baseline
            | Request::Group { .. }
            | Request::Direction { .. }
            | Request::Panic => Self::AsBefore,
        }
    }
}

/// A request about the text that was sent and not taken up.
#[derive(Debug)]
struct WaitingRequest {
    /// The number of its line, from 1.
    line: usize,
    writing: Writing,
    /// Whether it cannot fail, so that the engine does not answer it.
    silent: bool,
}

/// Which request about the text the engine has taken up last, and what was written since.
#[derive(Debug, Default)]
struct TextProgress {
    /// The requests that were not taken up yet.
    waiting: VecDeque<WaitingRequest>,
    /// How many requests of an earlier session were not taken up.
    foreign: usize,
    /// The number of the line of the request that was taken up last; 0 before the first.
    last: usize,
    /// Whether that request has done something, so that a failure is not its own.
    answered: bool,
    /// Whether tokens are written.
    writing: bool,
    ids: Vec<u32>,
}

/// The open file with its path, and its length without the last line, if that is the screen.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Session {
    /// A session that is kept in a file in this folder.
    pub fn kept_in(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            ..Self::default()
        }
    }

    /// The session that replays the one of a file after this. It is written when the user goes on.
    pub fn to_replay(&self, folder: Option<PathBuf>, origin: &Path) -> Self {
        Self {
            keeping: Keeping::Replaying,
            origin: Some(OriginFile {
                path: origin.to_path_buf(),
                _lock: File::open(origin)
                    .ok()
                    .filter(|file| file.try_lock_shared().is_ok()),
            }),
            text: TextProgress {
                foreign: self.text.foreign + self.text.waiting.len(),
                ..TextProgress::default()
            },
            ..Self::kept_in(folder)
        }
    }

    /// The replay is done, and the screen is this one.
    pub fn replayed(&mut self, screen: ScreenLine) {
        (self.keeping, self.screen) = (Keeping::Replayed, Some(screen));
    }

    /// The replay was stopped where it was.
    pub fn stop_replaying(&mut self) {
        self.keeping = Keeping::Partly;
    }

    /// The replay that was stopped goes on.
    pub fn go_on_replaying(&mut self) {
        self.keeping = Keeping::Replaying;
    }

    /// Whether the engine is still at work on what an earlier session asked for.
    pub fn is_behind(&self) -> bool {
        self.text.foreign > 0 || self.text.last == 0
    }

    /// Records a request. Returns a sentence if writing fails for a new reason.
    pub fn note(&mut self, request: &Request) -> Option<String> {
        let line = lines::of_request(request)?;
        self.begun |= matches!(request, Request::Generate { .. });
        match self.keeping {
            Keeping::AtOnce | Keeping::Replaying => {}
            Keeping::Replayed | Keeping::Partly => self.keeping = Keeping::AtOnce,
        }
        let failure = self.add(line);
        if request.is_about_text() {
            self.text.waiting.push_back(WaitingRequest {
                line: self.lines.len(),
                writing: Writing::after(request),
                silent: matches!(request, Request::Sampling(_)),
            });
        }
        failure
    }

    /// Records what an update says about when requests were carried out. Returns a sentence if writing fails for a new reason.
    pub fn hear(&mut self, update: &Update) -> Option<String> {
        let text = &mut self.text;
        match update {
            Update::TakenUp if text.foreign > 0 => {
                text.foreign -= 1;
                None
            }
            Update::TakenUp => {
                let failure = self.note_written();
                let text = &mut self.text;
                let taken = text.waiting.pop_front()?;
                text.last = taken.line;
                text.answered = taken.silent;
                text.writing = match taken.writing {
                    Writing::Begins | Writing::Ends => false,
                    Writing::GoesOn => true,
                    Writing::AsBefore => text.writing,
                };
                failure
            }
            Update::Began(_) => {
                (text.writing, text.answered) = (true, true);
                None
            }
            Update::Token { token, .. } => {
                text.answered = true;
                if text.writing {
                    text.ids.push(token.id);
                }
                None
            }
            Update::Ended { .. } => {
                text.answered = true;
                let failure = self.note_written();
                self.text.writing = false;
                failure
            }
            Update::Failed { slot: None, .. } if text.last > 0 && !text.answered => {
                text.answered = true;
                let failed = text.last;
                self.add(lines::of_failed(failed))
            }
            Update::Loaded(_)
            | Update::Rewound(_)
            | Update::Restored(_)
            | Update::Edited { .. }
            | Update::Beside { .. } => {
                text.answered = true;
                None
            }
            Update::Failed { .. }
            | Update::Loading(_)
            | Update::Counted { .. }
            | Update::Models(_)
            | Update::Refused(_)
            | Update::Kept(_)
            | Update::Figure { .. }
            | Update::Column { .. }
            | Update::Completed { .. }
            | Update::Working { .. }
            | Update::Dropped(_)
            | Update::Pace(_)
            | Update::Checked(_)
            | Update::NotFinite(_)
            | Update::Receipts(_)
            | Update::Fired(_)
            | Update::Grouped(_)
            | Update::Baseline { .. }
            | Update::Direction(_)
            | Update::Noted(_) => None,
        }
    }

    /// Records the tokens that were written since the last request was taken up. That there were none is recorded too.
    fn note_written(&mut self) -> Option<String> {
        let text = &mut self.text;
        if !text.writing || text.last == 0 {
            return None;
        }
        let line = lines::of_written(std::mem::take(&mut text.ids), text.last);
        self.add(line)
    }

    fn add(&mut self, line: String) -> Option<String> {
        self.lines.push(line);
        let before = self.failure.is_some();
        self.keep();
        self.failure.clone().filter(|_| !before)
    }

    /// Records the screen as it is now. Returns a sentence if writing fails for a new reason.
    pub fn note_screen(&mut self, screen: ScreenLine) -> Option<String> {
        if self.screen.as_ref() == Some(&screen) {
            return None;
        }
        let still = |screen: &ScreenLine| ScreenLine {
            cursor: Cursor::default(),
            views: BTreeMap::new(),
            commands: Vec::new(),
            ..screen.clone()
        };
        // Who only looks around does not need another file of the same.
        if self.keeping == Keeping::Replayed
            && self.screen.as_ref().map(still) != Some(still(&screen))
        {
            self.keeping = Keeping::AtOnce;
        }
        (self.screen, self.screen_kept) = (Some(screen), false);
        let before = self.failure.is_some();
        self.keep();
        self.failure.clone().filter(|_| !before)
    }

    /// Records the screen and tries once more to write the missing lines, at the end of the session. Returns a sentence if that
    /// fails.
    pub fn finish(&mut self, screen: Option<ScreenLine>) -> Option<String> {
        self.note_written();
        if let Some(screen) = screen {
            self.note_screen(screen);
        }
        self.keep();
        if self.failure.is_some()
            && let Some(held) = self.held.take_if(|held| held.length == 0)
        {
            let _absent = std::fs::remove_file(held.path);
        }
        self.failure.clone()
    }

    /// The content of the file, with the screen as it is now.
    pub fn bytes(&self, screen: Option<ScreenLine>) -> Vec<u8> {
        let text = &self.text;
        let written = text
            .writing
            .then(|| lines::of_written(text.ids.clone(), text.last));
        let rest = written.into_iter().chain(screen.map(lines::of_screen));
        let lines: Vec<String> = self.lines.iter().cloned().chain(rest).collect();
        let mut out = lines.join("\n");
        out.push('\n');
        out.into_bytes()
    }

    /// Why lines are not on the disk, if there are such that were to be; tries to write them first.
    pub fn unsaved(&mut self) -> Option<String> {
        self.keep();
        self.failure.clone()
    }

    /// The file that brings this session back: its own or, as long as that says the same or more, the one that it was replayed
    /// from.
    pub fn path(&self) -> Option<&Path> {
        let origin = self.origin.as_ref().filter(|_| match self.keeping {
            Keeping::AtOnce => false,
            Keeping::Replaying | Keeping::Replayed | Keeping::Partly => true,
        });
        let own = self.held.as_ref().map(|held| held.path.as_path());
        own.or(origin.map(|origin| origin.path.as_path()))
    }

    fn keep(&mut self) {
        let wanted = self.begun && self.keeping == Keeping::AtOnce;
        let Some(folder) = self.folder.as_deref().filter(|_| wanted) else {
            return;
        };
        let screen_kept = self.screen_kept || self.screen.is_none();
        if self.kept == self.lines.len() && screen_kept {
            return;
        }
        let mut text = String::new();
        for line in self.lines.iter().skip(self.kept) {
            text.extend([line, "\n"]);
        }
        let screen = self
            .screen
            .clone()
            .map(|screen| lines::of_screen(screen) + "\n");
        let screen = screen.unwrap_or_default();
        let kept = append(&mut self.held, folder, &text, &screen);
        match kept {
            Ok(()) => {
                self.kept = self.lines.len();
                self.screen_kept = true;
                self.failure = None;
            }
            Err(error) => {
                let place = self.held.as_ref().map_or(folder, |held| &held.path);
                self.failure = Some(format!(
                    "the session is not kept in {} ({error}); :session FILE writes it elsewhere, --state FOLDER names another folder, and --no-session turns it off",
                    place.display()
                ));
            }
        }
    }
}

/// Appends lines to the session's file, which is created if necessary, and behind them the screen, in the place of the one that
/// was there. If not everything can be written, the file is cut back to its earlier lines.
fn append(
    held: &mut Option<OpenFile>,
    folder: &Path,
    text: &str,
    screen: &str,
) -> std::io::Result<()> {
    if held.is_none() {
        *held = Some(begin(folder)?);
    }
    let Some(held) = held else {
        return Ok(());
    };
    held.file.set_len(held.length)?;
    match held.file.write_all([text, screen].concat().as_bytes()) {
        Ok(()) => {
            held.length += text.len() as u64;
            Ok(())
        }
        Err(error) => {
            held.file.set_len(held.length)?;
            Err(error)
        }
    }
}

/// Creates a file whose name contains the start time of the session and the process id.
fn begin(folder: &Path) -> std::io::Result<OpenFile> {
    file::private_folder(folder)?;
    let stamp = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let process = std::process::id();
    let mut number = 0;
    loop {
        let path = folder.join(format!("{PREFIX}{stamp}-{process}-{number}{ENDING}"));
        match file::create_private(&path) {
            Ok(file) => {
                // Where a file system has no locks, nobody is kept from opening it.
                let _locked = file.try_lock();
                return Ok(OpenFile {
                    path,
                    file,
                    length: 0,
                });
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::{Mode, PromptSource};
    use serde_json::Value;

    fn generate(text: &str) -> Request {
        Request::Generate {
            prompt: PromptSource::Text(text.into()),
            count: 3,
        }
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|e| e.path()).collect()
    }

    #[test]
    fn lines_are_on_the_disk_as_they_come_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state/sessions");
        let mut session = Session::kept_in(Some(folder.clone()));
        assert_eq!(session.note(&Request::Continue { count: 2 }), None);
        assert!(!folder.exists(), "nothing happened yet");
        assert_eq!(session.note(&generate("a")), None);
        let path = session.path().unwrap().to_path_buf();
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!(lines(&path), 2, "what came before is kept as well");
        session.note(&Request::Rewind { position: 1 });
        assert_eq!(lines(&path), 3);
        assert_eq!(std::fs::read(&path).unwrap(), session.bytes(None));
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder)), (0o600, 0o700));
        // Two sessions in the same second and process have different files.
        let mut other = Session::kept_in(Some(folder.clone()));
        other.note(&generate("b"));
        assert_eq!(files(&folder).len(), 2);
        assert_eq!(session.finish(None), None);
    }

    #[test]
    fn the_screen_is_the_last_line_and_takes_the_place_of_the_one_before() {
        let home = tempfile::tempdir().unwrap();
        let mut session = Session::kept_in(Some(home.path().to_path_buf()));
        let screen = |draft: &str| ScreenLine {
            draft: draft.into(),
            ..ScreenLine::default()
        };
        session.note_screen(screen("before"));
        assert!(files(home.path()).is_empty(), "there is no text yet");
        session.note(&generate("a"));
        let path = session.path().unwrap().to_path_buf();
        let lines = || {
            let text = std::fs::read_to_string(&path).unwrap();
            text.lines().map(String::from).collect::<Vec<_>>()
        };
        assert!(lines().len() == 2 && lines()[1].contains("before"));
        session.note_screen(screen("a longer draft than that"));
        session.note_screen(screen("short"));
        assert!(
            lines().len() == 2 && lines()[1].contains("\"short\""),
            "{:?}",
            lines()
        );
        session.note(&Request::Rewind { position: 1 });
        let now = lines();
        assert_eq!(now.len(), 3);
        assert!(
            now[1].contains("rewind") && now[2].contains("short"),
            "{now:?}"
        );
    }

    #[test]
    fn what_was_replayed_has_a_file_once_the_user_goes_on() {
        let home = tempfile::tempdir().unwrap();
        let origin = home.path().join("origin");
        std::fs::write(&origin, "").unwrap();
        let folder = home.path().join("sessions");
        let cursor = |position| ScreenLine {
            cursor: Cursor {
                position,
                ..Cursor::default()
            },
            ..ScreenLine::default()
        };
        let replaying = || {
            let mut session = Session::default().to_replay(Some(folder.clone()), &origin);
            session.note(&generate("a"));
            session
        };
        let mut session = replaying();
        session.finish(Some(cursor(0)));
        assert_eq!(session.path(), Some(origin.as_path()), "it ends on the way");
        let mut session = replaying();
        session.replayed(cursor(0));
        session.note_screen(cursor(3));
        assert_eq!(session.path(), Some(origin.as_path()), "a look around");
        session.note_screen(ScreenLine {
            draft: "own".into(),
            ..cursor(3)
        });
        assert_ne!(session.path(), Some(origin.as_path()));
        // Of what was not replayed to its end, a file begins with a request.
        let mut session = replaying();
        session.stop_replaying();
        session.note_screen(ScreenLine {
            draft: "own".into(),
            ..ScreenLine::default()
        });
        assert_eq!(session.path(), Some(origin.as_path()));
        assert_eq!(files(&folder).len(), 1);
        session.note(&Request::Continue { count: 2 });
        assert_eq!(files(&folder).len(), 2);
    }

    #[test]
    fn without_a_folder_nothing_is_kept_and_nothing_fails() {
        let mut session = Session::default();
        assert_eq!(session.note(&generate("a")), None);
        assert_eq!((session.finish(None), session.path()), (None, None));
    }

    #[test]
    fn what_cannot_be_kept_is_said_once_and_again_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let taken = home.path().join("taken");
        std::fs::write(&taken, "a file").unwrap();
        let mut session = Session::kept_in(Some(taken.join("sessions")));
        let said = session.note(&generate("a")).unwrap();
        assert!(
            said.contains("not kept") && said.contains("taken"),
            "{said}"
        );
        assert_eq!(session.note(&generate("b")), None, "it is no news");
        assert_eq!(session.finish(None), Some(said));
        // After the obstacle is removed, everything is written.
        std::fs::remove_file(&taken).unwrap();
        assert_eq!(session.note(&generate("c")), None);
        let kept = std::fs::read(session.path().unwrap()).unwrap();
        assert_eq!((session.finish(None), kept), (None, session.bytes(None)));
    }

    #[test]
    fn a_session_is_one_json_line_a_request() {
        let mut session = Session::default();
        session.note(&Request::Live(vec![]));
        session.note(&Request::Generate {
            prompt: PromptSource::Text("a \"b\"\n".into()),
            count: 3,
        });
        session.note(&Request::Edits {
            edits: vec!["zero:1@mlp_act.0".parse().unwrap()],
            mode: Mode::FromNow,
        });
        let text = String::from_utf8(session.bytes(None)).unwrap();
        let values: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(values[0]["text"], "a \"b\"\n");
        assert_eq!(values[1]["edits"][0]["edit"], "zero:1@mlp_act.0");
    }
}
