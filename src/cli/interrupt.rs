//! Ctrl-C: the first one raises a flag, which is checked in every layer and at every step of a download; a second one ends the
//! process. While nothing checks the flag (weights are being read from the disk), the first one ends the process.
//!
//! Invariant: stopped work reports its results so far and exits with 130. To react to another signal, add it to the wait in
//! [`watch`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::output;
use crate::error::{Error, Result};

/// The exit code of interrupted work.
const INTERRUPTED: i32 = 130;

/// The state of Ctrl-C.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    /// Raised by Ctrl-C.
    pub requested: Arc<AtomicBool>,
    /// Whether the flag is being checked.
    pub watched: Arc<AtomicBool>,
}

/// Watches for Ctrl-C (SIGINT) from here on.
pub fn watch() -> Result<Interrupt> {
    let fail =
        |e: std::io::Error| Error::Engine(format!("waiting for Ctrl-C is not possible: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(fail)?;
    // Registered before this function returns, so that no signal is missed.
    let mut signals = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).map_err(fail)?
    };
    let interrupt = Interrupt::default();
    let Interrupt { requested, watched } = interrupt.clone();
    let watch = move || {
        runtime.block_on(async {
            while signals.recv().await.is_some() {
                let again = requested.swap(true, Ordering::Relaxed);
                if again || !watched.load(Ordering::Relaxed) {
                    output::clear_status();
                    std::process::exit(INTERRUPTED);
                }
            }
        });
    };
    std::thread::Builder::new()
        .name("lmscope-signals".into())
        .spawn(watch)
        .map(|_| interrupt)
        .map_err(fail)
}
