//! `lmscope`: parses the arguments, runs the command, returns the exit code.
//!
//! Invariant: nothing is decided here but the exit code. To add a subcommand, see `lmscope::cli`.

use std::process::ExitCode;

use lmscope::cli;

fn main() -> ExitCode {
    lmscope::out::report_panics();
    match cli::command().try_get_matches() {
        Ok(matches) => cli::exit_code(&cli::run(&matches)),
        Err(usage) => cli::explain(usage),
    }
}
