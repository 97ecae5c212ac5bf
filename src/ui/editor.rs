//! The user's own editor for the prompt: a private file that it changes while it has the terminal.
//!
//! Invariant: the file is gone when the editor has ended, and the terminal is the caller's to lend and to take back.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::file;

/// How often it is asked whether the editor has ended.
const LOOK: Duration = Duration::from_millis(30);

/// The longest prompt that is read back, in bytes.
const LONGEST: u64 = 16 << 20;

/// The editor that the environment names.
pub fn named() -> Option<OsString> {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    given("VISUAL").or_else(|| given("EDITOR"))
}

/// A file that is deleted when it is let go.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _absent = std::fs::remove_file(&self.0);
    }
}

/// Runs an editor on a text and returns what it leaves, without the line break that editors put at the end. `over` is asked while it
/// runs; if it says so, the editor is ended.
///
/// # Errors
///
/// When the file cannot be written or read, or the editor does not start or reports a failure: the text is then what it was.
pub fn edit(editor: &OsString, text: &str, mut over: impl FnMut() -> bool) -> Result<String> {
    let name = format!("lmscope-prompt-{}.txt", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(name));
    let path = &scratch.0;
    let _stale = std::fs::remove_file(path);
    let write = || file::create_private(path)?.write_all(text.as_bytes());
    write().map_err(|error| Error::io(path, error))?;
    let words = editor.to_string_lossy().into_owned();
    // By the shell, because the variable may hold arguments: `code --wait`.
    let child = Command::new("sh")
        .args(["-c", &format!("{words} \"$1\""), "sh"])
        .arg(path)
        .spawn();
    let failed = |what: String| {
        Error::argument(
            "EDITOR",
            &words,
            format!("an editor that takes a file ({what})"),
        )
    };
    let mut child = child.map_err(|error| failed(error.to_string()))?;
    let status = wait(&mut child, &mut over).map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(format!(
            "it ended with {status}; the prompt is as it was"
        )));
    }
    let left = file::words_of(path, LONGEST)?;
    Ok(left.strip_suffix('\n').unwrap_or(&left).to_string())
}

fn wait(child: &mut Child, over: &mut impl FnMut() -> bool) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if over() {
            child.kill()?;
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_editor_leaves_is_the_text_and_its_file_is_gone() {
        let editor = OsString::from("sed -i s/France/Japan/");
        let left = edit(&editor, "The capital of France is", || false).unwrap();
        assert_eq!(left, "The capital of Japan is");
        let fails = edit(&OsString::from("false"), "a", || false).unwrap_err();
        assert!(fails.to_string().contains("as it was"), "{fails}");
        // One that does not end is ended with the program.
        let since = std::time::Instant::now();
        assert!(edit(&OsString::from("sleep 30; :"), "a", || true).is_err());
        assert!(since.elapsed() < Duration::from_secs(10));
        let name = format!("lmscope-prompt-{}.txt", std::process::id());
        assert!(!std::env::temp_dir().join(name).exists());
    }
}
