//! The session: the user's requests, as lines of JSON that can be read, and replayed by hand.
//!
//! Invariant: from the first request for a text on, every request is written to the disk when it is made, one line each in
//! order, to a file of this process alone that only its owner can read. If writing fails, nothing else does; the user is told,
//! and the next request tries again. To record another request, add an arm in [`line`].

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::engine::{PromptSource, Request};
use crate::file;

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
}

/// The open file with its path and length.
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

    /// Records a request. Returns a sentence if writing fails for a new reason.
    pub fn note(&mut self, request: &Request) -> Option<String> {
        self.lines.push(line(request)?.to_string());
        self.begun |= matches!(request, Request::Generate { .. });
        let before = self.failure.is_some();
        self.keep();
        self.failure.clone().filter(|_| !before)
    }

    /// Tries once more to write the missing lines, at the end of the program. Returns a sentence if that fails.
    pub fn finish(&mut self) -> Option<String> {
        self.keep();
        if self.failure.is_some()
            && let Some(held) = self.held.take_if(|held| held.length == 0)
        {
            let _absent = std::fs::remove_file(held.path);
        }
        self.failure.clone()
    }

    /// The content of the file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.lines.join("\n");
        out.push('\n');
        out.into_bytes()
    }

    /// The path of the file, once it exists.
    pub fn path(&self) -> Option<&Path> {
        self.held.as_ref().map(|held| held.path.as_path())
    }

    fn keep(&mut self) {
        let Some(folder) = self.folder.as_deref().filter(|_| self.begun) else {
            return;
        };
        if self.kept == self.lines.len() {
            return;
        }
        let mut text = self.lines[self.kept..].join("\n");
        text.push('\n');
        let kept = append(&mut self.held, folder, text.as_bytes());
        match kept {
            Ok(()) => {
                self.kept = self.lines.len();
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

/// Appends to the session's file, which is created if necessary. If not everything can be written, the file is cut back to its
/// earlier length.
fn append(held: &mut Option<OpenFile>, folder: &Path, text: &[u8]) -> std::io::Result<()> {
    if held.is_none() {
        *held = Some(begin(folder)?);
    }
    let Some(held) = held else {
        return Ok(());
    };
    match held.file.write_all(text) {
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
        let path = folder.join(format!("session-{stamp}-{process}-{number}.jsonl"));
        match file::create_private(&path) {
            Ok(file) => {
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

/// The line for a request; none for requests that only measure.
fn line(request: &Request) -> Option<Value> {
    Some(match request {
        Request::Load { model, options } => json!({
            "request": "load", "model": model, "dtype": options.dtype, "device": options.device,
            "context": options.context, "version": env!("CARGO_PKG_VERSION"),
        }),
        Request::Generate { prompt, count } => {
            let (kind, text) = match prompt {
                PromptSource::Text(text) => ("text", json!(text)),
                PromptSource::Chat(text) => ("chat", json!(text)),
                PromptSource::Ids(ids) => ("ids", json!(ids)),
                PromptSource::Messages(turns) => ("messages", json!(turns)),
                PromptSource::Spliced {
                    before,
                    text,
                    after,
                } => (
                    "spliced",
                    json!({ "before": before, "text": text, "after": after }),
                ),
            };
            json!({ "request": "generate", kind: text, "count": count })
        }
        Request::Continue { count } => json!({ "request": "continue", "count": count }),
        Request::Rewind { position } => json!({ "request": "rewind", "position": position }),
        Request::Restore(number) => json!({ "request": "restore", "number": number }),
        Request::Sampling(sampling) => json!({ "request": "sampling", "sampling": sampling }),
        Request::Edits { edits, mode } => {
            let rows: Vec<Value> = edits
                .iter()
                .map(|e| json!({ "edit": e.to_string(), "on": e.on }))
                .collect();
            json!({ "request": "edits", "edits": rows, "mode": mode.name() })
        }
        Request::Observe(question) => json!({
            "request": "observe", "instrument": question.instrument, "arguments": question.arguments.given, "unedited": question.unedited,
        }),
        Request::Direction {
            name, layer, chat, ..
        } => json!({ "request": "direction", "name": name, "layer": layer, "chat": chat }),
        Request::Beside(beside) => json!({ "request": "beside", "beside": beside }),
        Request::Group { name, set, .. } => {
            let units: Vec<String> = set.units.iter().map(|(l, u)| format!("{l}/{u}")).collect();
            json!({ "request": "group", "name": name, "site": set.site.spec().name, "units": units })
        }
        Request::Stop
        | Request::CountTokens { .. }
        | Request::Follow(_)
        | Request::Live(_)
        | Request::View { .. }
        | Request::Baseline
        | Request::Panic => {
            return None;
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::Mode;

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
        assert_eq!(std::fs::read(&path).unwrap(), session.bytes());
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder)), (0o600, 0o700));
        // Two sessions in the same second and process have different files.
        let mut other = Session::kept_in(Some(folder.clone()));
        other.note(&generate("b"));
        assert_eq!(files(&folder).len(), 2);
        assert_eq!(session.finish(), None);
    }

    #[test]
    fn without_a_folder_nothing_is_kept_and_nothing_fails() {
        let mut session = Session::default();
        assert_eq!(session.note(&generate("a")), None);
        assert_eq!((session.finish(), session.path()), (None, None));
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
        assert_eq!(session.finish(), Some(said));
        // After the obstacle is removed, everything is written.
        std::fs::remove_file(&taken).unwrap();
        assert_eq!(session.note(&generate("c")), None);
        let kept = std::fs::read(session.path().unwrap()).unwrap();
        assert_eq!((session.finish(), kept), (None, session.bytes()));
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
        let text = String::from_utf8(session.bytes()).unwrap();
        let values: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(values[0]["text"], "a \"b\"\n");
        assert_eq!(values[1]["edits"][0]["edit"], "zero:1@mlp_act.0");
    }
}
