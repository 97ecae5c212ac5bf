//! Signals from outside the program, received on a thread of their own.
//!
//! Invariant: a signal that ends the program ends it within [`GRACE`], whatever the screen's thread is doing. To handle another
//! signal, add it to [`ENDING`], or an arm to the wait in [`watch`].

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;

use crate::error::{Error, Result};

/// How long the screen has to keep the session and leave before the process is ended anyway.
const GRACE: Duration = Duration::from_millis(900);

/// The signals that end the program.
const ENDING: &[Signal] = &[
    Signal::TERM,
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];

/// An event from outside the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutsideEvent {
    /// The window may have been resized.
    Resized,
    /// Stop, and hand the terminal to the shell (SIGTSTP).
    Stop,
    /// Continue after a stop; the terminal may be in any state (SIGCONT).
    Continued,
    /// End, with the number of the signal.
    End(i32),
}

/// A vanished terminal ends the program in the same way as the signal that usually comes with it.
pub const GONE: i32 = Signal::HUP.as_raw();

/// The exit code of a process that a signal ended.
pub fn code(signal: i32) -> i32 {
    128 + signal
}

/// Watches for signals and reports them. `last` gives the terminal back if the screen's thread does not.
pub fn watch(told: UnboundedSender<OutsideEvent>, last: Arc<dyn Fn() + Send + Sync>) -> Result<()> {
    let fail = |e: std::io::Error| Error::io("signals", e);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(fail)?;
    // Registered before this function returns, so that no signal is missed.
    let inside = runtime.enter();
    let on = |which: Signal| signal(SignalKind::from_raw(which.as_raw())).map_err(fail);
    let (mut resized, mut stop, mut go) =
        (on(Signal::WINCH)?, on(Signal::TSTP)?, on(Signal::CONT)?);
    let mut ends = Vec::new();
    for which in ENDING {
        ends.push((which.as_raw(), on(*which)?));
    }
    drop(inside);
    let next_end = |ends: &mut [(i32, tokio::signal::unix::Signal)],
                    context: &mut std::task::Context<'_>| {
        for (number, signal) in ends {
            if signal.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(*number);
            }
        }
        std::task::Poll::Pending
    };
    let watch = move || {
        loop {
            let heard = runtime.block_on(async {
                tokio::select! {
                    number = std::future::poll_fn(|c| next_end(&mut ends, c)) => OutsideEvent::End(number),
                    _ = resized.recv() => OutsideEvent::Resized,
                    _ = stop.recv() => OutsideEvent::Stop,
                    _ = go.recv() => OutsideEvent::Continued,
                }
            });
            let unheard = told.send(heard).is_err();
            if let OutsideEvent::End(number) = heard {
                end(number, last.as_ref());
            }
            if unheard {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("lmscope-signals".into())
        .spawn(watch)
        .map(|_| ())
        .map_err(fail)
}

/// Lets the screen keep the session and leave; ends the process if it does not.
pub fn end(number: i32, last: &(dyn Fn() + Send + Sync)) {
    std::thread::sleep(GRACE);
    last();
    std::process::exit(code(number));
}

/// Stops this process, as the terminal driver does for ctrl-z; returns when it is continued.
///
/// With `group` the whole job is stopped, so that a wrapper such as `cargo run` stops as well. SIGTSTP has a handler in this
/// program, so SIGSTOP is used.
pub fn stop(group: bool) -> std::io::Result<()> {
    if group {
        rustix::process::kill_current_process_group(Signal::STOP)?;
    } else {
        rustix::process::kill_process(rustix::process::getpid(), Signal::STOP)?;
    }
    Ok(())
}

/// Whether there is a shell that can continue a stopped job: an ancestor in the same session that is not part of the job.
///
/// If processes cannot be looked up, the answer is yes, as in other programs.
pub fn has_shell() -> bool {
    let Some(job) = family(rustix::process::getpid()) else {
        return true;
    };
    let mut ancestor = job.parent;
    while let Some(of) = ancestor.and_then(family) {
        if of.session != job.session {
            return false;
        }
        if of.group != job.group {
            return true;
        }
        ancestor = of.parent;
    }
    false
}

/// The parent, group and session of a process.
///
/// Read from `/proc`: in a container the group or session of an ancestor may have no id inside the container and be 0, which
/// [`rustix::process::getsid`] considers impossible.
#[derive(Debug)]
struct ProcessGroup {
    parent: Option<Pid>,
    group: i32,
    session: i32,
}

fn family(pid: Pid) -> Option<ProcessGroup> {
    let line = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name is in parentheses and may contain any character.
    let mut rest = line.rsplit_once(')')?.1.split_whitespace().skip(1);
    let mut next = || rest.next()?.parse::<i32>().ok();
    Some(ProcessGroup {
        parent: Pid::from_raw(next()?),
        group: next()?,
        session: next()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_found() {
        let found = family(rustix::process::getpid()).unwrap();
        assert_eq!(found.parent, rustix::process::getppid());
        assert!(found.group >= 0 && found.session >= 0, "{found:?}");
    }

    #[test]
    fn codes_are_those_of_shells() {
        assert_eq!([1, 2, 15].map(code), [129, 130, 143]);
        assert_eq!(GONE, 1);
    }
}
