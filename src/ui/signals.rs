//! Signals: what the world outside asks of the screen, told on a thread of its own.
//!
//! Invariant: a signal that ends the program ends it within [`GRACE`], whatever the screen's own thread is doing.
//! To heed another signal, add it to [`ENDING`], or an arm to the wait in [`watch`].

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;

use crate::error::{Error, Result};

/// How long the screen has to save and leave before it is left to itself.
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

/// What the world outside asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutsideEvent {
    /// The window may have another size.
    Resized,
    /// Stop, and give the terminal to the shell (SIGTSTP).
    Stop,
    /// Go on after a stop: the terminal may be in any state (SIGCONT).
    Continued,
    /// End, with the number of the signal.
    End(i32),
}

/// A terminal that vanished ends the program as the signal does that usually comes with it.
pub const GONE: i32 = Signal::HUP.as_raw();

/// The exit code of a process that a signal ended.
pub fn code(signal: i32) -> i32 {
    128 + signal
}

/// Watches for signals from here on and tells about them. `last` gives the terminal back when nobody else did.
pub fn watch(told: UnboundedSender<OutsideEvent>, last: Arc<dyn Fn() + Send + Sync>) -> Result<()> {
    let fail = |e: std::io::Error| Error::io("signals", e);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(fail)?;
    // Registered before this returns, so that none is missed.
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

/// Lets the screen save and leave; when it does not, ends the process all the same.
pub fn end(number: i32, last: &(dyn Fn() + Send + Sync)) {
    std::thread::sleep(GRACE);
    last();
    std::process::exit(code(number));
}

/// Stops this process, as its terminal's driver does for ctrl-z; returns when it goes on.
///
/// With `group` the whole job, so that a wrapper such as `cargo run` stops too. SIGTSTP has a handler here, so it takes
/// the signal that has none.
pub fn stop(group: bool) -> std::io::Result<()> {
    if group {
        rustix::process::kill_current_process_group(Signal::STOP)?;
    } else {
        rustix::process::kill_process(rustix::process::getpid(), Signal::STOP)?;
    }
    Ok(())
}

/// Whether there is a shell that could let a stopped job go on: an ancestor in this session that is not of the job.
///
/// Where processes cannot be looked up, there is taken to be one, as other programs do.
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

/// Where a process belongs.
///
/// Read from `/proc`: in a container the group or session of an ancestor may be one that has no id inside, and is 0
/// there, which [`rustix::process::getsid`] takes for impossible.
#[derive(Debug)]
struct ProcessGroup {
    parent: Option<Pid>,
    group: i32,
    session: i32,
}

fn family(pid: Pid) -> Option<ProcessGroup> {
    let line = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name stands in brackets and may hold anything.
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
