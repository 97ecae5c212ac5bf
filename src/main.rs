//! `lmscope`: arguments -> screen or report.
//!
//! Invariant: with a terminal on standard output and no subcommand there is a screen; everything else is a report that a
//! script can read. To add a subcommand, see `lmscope::cli`.

use std::io::IsTerminal;
use std::process::ExitCode;

use lmscope::cli;

fn main() -> ExitCode {
    let matches = match cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(usage) => {
            // Help and version are successes; when nobody reads them, that is one too.
            let _closed = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let level = matches.get_one::<String>("log-level");
    let logging = level.map_or(Ok(()), |level| cli::log::start(level));
    let outcome = logging.and_then(|()| {
        if matches.subcommand().is_none() && std::io::stdout().is_terminal() { cli::run(&matches) } else { cli::run(&matches) }
    });
    cli::conclude(&outcome)
}
