//! Ctrl-C: the first one raises a flag that the model looks at in every layer, a second one ends the process.
//!
//! Invariant: work that was asked to stop says what it has and exits with 130. To react to another signal, add it
//! to the wait in [`raise`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// The exit code of interrupted work.
const INTERRUPTED: i32 = 130;

/// Raises `flag` at Ctrl-C (SIGINT); the next one exits at once.
pub fn raise(flag: Arc<AtomicBool>) -> Result<()> {
    let fail =
        |e: std::io::Error| Error::Engine(format!("waiting for Ctrl-C is not possible: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(fail)?;
    let watch = move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(INTERRUPTED);
                }
            }
        });
    };
    std::thread::Builder::new()
        .name("lmscope-signals".into())
        .spawn(watch)
        .map(drop)
        .map_err(fail)
}
