//! Handles a mapped file that is truncated while it is read: the system raises SIGBUS, and the program ends with an error
//! message, a restored terminal and exit code 1 instead of being killed by the signal.
//!
//! Invariant: the handler calls only functions that POSIX allows in a handler (`write`, `tcsetattr`, `alarm`, `_exit`), on data
//! that was prepared before. Session files keep what was written. To undo another mode of the terminal, add it to the bytes
//! that are given to [`on_screen`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::Termios;

/// The message. It begins with a line feed, because the cursor may be anywhere.
const SENTENCE: &[u8] = b"\nlmscope: A file of weights became shorter, or its disk failed, while it was being read. Nothing was computed from what is missing. When the file is whole, run the same command again.\n";

/// The terminal's settings before the screen took it, and the bytes that restore it.
static BEFORE: OnceLock<(Termios, Vec<u8>)> = OnceLock::new();
/// Whether the screen has the terminal now.
static OURS: AtomicBool = AtomicBool::new(false);

/// Records that the screen has taken the terminal: `before` are its settings, `leave` the bytes that restore it.
pub fn on_screen(before: Termios, leave: Vec<u8>) {
    let _first = BEFORE.get_or_init(|| (before, leave));
    OURS.store(true, Ordering::SeqCst);
}

/// Records that the terminal was restored.
pub fn off_screen() {
    OURS.store(false, Ordering::SeqCst);
}

/// Installs the handler. On systems other than Linux the signal also has other causes, so a truncated map ends the program as
/// usual.
#[cfg(target_os = "linux")]
pub(crate) fn watch() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(install);
}

/// Other systems raise the same signal for other reasons.
#[cfg(not(target_os = "linux"))]
pub(crate) fn watch() {}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn install() {
    extern "C" fn ended(_: libc::c_int) {
        // SAFETY: every function called here is async-signal-safe (POSIX 2.4.3), and the statics were set before `OURS`.
        unsafe {
            // A terminal that does not read must not delay the end.
            libc::signal(libc::SIGALRM, libc::SIG_DFL);
            libc::alarm(1);
            if OURS.swap(false, Ordering::SeqCst)
                && let Some((before, leave)) = BEFORE.get()
            {
                libc::write(libc::STDOUT_FILENO, leave.as_ptr().cast(), leave.len());
                let _best = rustix::termios::tcsetattr(
                    std::os::fd::BorrowedFd::borrow_raw(libc::STDIN_FILENO),
                    rustix::termios::OptionalActions::Now,
                    before,
                );
            }
            libc::write(
                libc::STDERR_FILENO,
                SENTENCE.as_ptr().cast(),
                SENTENCE.len(),
            );
            libc::_exit(1);
        }
    }
    // SAFETY: the action is completely initialised, and its handler never returns. It runs on the stack that Rust's runtime
    // reserves for signals.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int) = ended;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::model::memory_map::map_file;

    /// Runs only in the process that the test below starts, and ends it.
    #[test]
    fn child() {
        let Some(path) = std::env::var_os("LMSCOPE_TEST_SHRINKS").map(std::path::PathBuf::from)
        else {
            return;
        };
        let map = map_file(&path).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(10).unwrap();
        let sum: u64 = map.iter().map(|b| u64::from(*b)).sum();
        std::process::exit(i32::try_from(sum % 7).unwrap() + 40);
    }

    #[test]
    fn a_map_that_shrinks_ends_with_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![1u8; 1 << 16]).unwrap();
        let ended = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "model::truncated_file::tests::child",
                "--exact",
                "--nocapture",
            ])
            .env("LMSCOPE_TEST_SHRINKS", &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(
            said.contains("became shorter") && said.contains("again"),
            "{said}"
        );
    }
}
