//! `lmscope dictionary`: what is made of a dictionary of features, as subcommands of its own.
//!
//! Invariant: each action is a row of [`ACTIONS`], with its own arguments. To add one, write `dictionary/x.rs` with a `pub const`
//! [`Subcommand`] and add a word to the list.

pub mod index;

use clap::{ArgMatches, Command};

use super::Subcommand;
use crate::error::{Error, Result};

pub const DICTIONARY: Subcommand = Subcommand {
    name: "dictionary",
    about: "Dictionaries of features: an index of where in a text each feature is active",
    arguments: build,
    run,
};

/// The actions.
const ACTIONS: &[Subcommand] = &[index::INDEX];

fn build(command: Command) -> Command {
    let command = command
        .subcommand_required(true)
        .arg_required_else_help(true);
    ACTIONS.iter().fold(command, |command, row| {
        command.subcommand((row.arguments)(Command::new(row.name).about(row.about)))
    })
}

fn run(matches: &ArgMatches) -> Result<()> {
    let Some((name, own)) = matches.subcommand() else {
        return Err(Error::argument("dictionary", "", "an action"));
    };
    let action = ACTIONS.iter().find(|row| row.name == name);
    let action = action.ok_or_else(|| Error::argument("dictionary", name, "an action"))?;
    (action.run)(own)
}
