//! `lmscope completions SHELL`: the completion script of a shell.
//!
//! Invariant: generated from the same [`super::command`] that parses arguments, so it knows every instrument.
//! To add a shell, `clap_complete` must support it.

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::{Subcommand, output};
use crate::error::{Error, Result};

pub const COMPLETIONS: Subcommand = Subcommand {
    name: "completions",
    about: "Writes a completion script: bash, elvish, fish, powershell or zsh",
    arguments,
    run,
};

fn arguments(command: Command) -> Command {
    command.arg(
        Arg::new("shell")
            .value_name("SHELL")
            .required(true)
            .value_parser(value_parser!(Shell)),
    )
}

fn run(matches: &ArgMatches) -> Result<()> {
    let shell = matches
        .get_one::<Shell>("shell")
        .ok_or_else(|| Error::argument("SHELL", "", "the name of a shell"))?;
    // Into memory first: clap_complete panics if writing fails, and a closed pipe is not a failure.
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut super::command(), "lmscope", &mut script);
    output::bytes(&script)
}
