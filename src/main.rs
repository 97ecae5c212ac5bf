//! `lmscope`: arguments -> screen or report.
//!
//! Invariant: nothing is decided here but the exit code. To add a subcommand, see `lmscope::cli`.

use std::process::ExitCode;

use lmscope::cli;

fn main() -> ExitCode {
    cli::threads::settle();
    match cli::command().try_get_matches() {
        Ok(matches) => cli::conclude(&cli::run(&matches)),
        Err(usage) => {
            // Help and version are successes; when nobody reads them, that is one too.
            let _closed = usage.print();
            ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
        }
    }
}
