//! `lmscope dictionary`: trains a dictionary, evaluates one, and makes an index of where in a text its features are active.
//!
//! Invariant: a report goes to standard output, progress to standard error. To add an action, write `cli/dictionary/x.rs` with a
//! `pub const` [`Subcommand`] and add a word to `ACTIONS`.

mod evaluate;
pub mod index;
mod report;
mod train;

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Command, value_parser};

use super::{Subcommand, arguments};
use crate::dictionaries::train::activations::TextCut;
use crate::error::{Error, Result};

pub const DICTIONARY: Subcommand = Subcommand {
    name: "dictionary",
    about: "Trains a dictionary (sparse autoencoder) on the activations of a site, evaluates one on a text, or makes an index of where in a text each feature is active",
    arguments: build,
    run,
};

const ACTIONS: &[Subcommand] = &[train::TRAIN, evaluate::EVALUATE, index::INDEX];

/// The default number of tokens of a context.
const CONTEXT: usize = 128;

fn build(command: Command) -> Command {
    let command = command
        .subcommand_required(true)
        .arg_required_else_help(true);
    ACTIONS.iter().fold(command, |command, row| {
        command.subcommand((row.arguments)(Command::new(row.name).about(row.about)))
    })
}

fn run(matches: &ArgMatches) -> Result<()> {
    let Some((name, of)) = matches.subcommand() else {
        return Ok(());
    };
    match ACTIONS.iter().find(|row| row.name == name) {
        Some(row) => (row.run)(of),
        None => Err(Error::argument(
            "dictionary",
            name,
            "train, evaluate or index",
        )),
    }
}

/// The flags of a text. `--context` is that of loading: the most tokens of a run.
fn cut(command: Command) -> Command {
    command
        .arg(
            arguments::value(
                "text",
                "FILE",
                "The text; it is read in contexts of 128 tokens, or of --context",
            )
            .required(true)
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(super::switch(
            "lines",
            "Reads every line of the text as a context of its own, instead of one long text",
        ))
}

/// The tokens of a context, on a model with so long a one: that of `--context`, or the default.
fn context_of(matches: &ArgMatches, most: usize) -> usize {
    let given = matches.get_one::<usize>("context").is_some();
    if given { most } else { CONTEXT.min(most) }
}

/// What they say, on a model with so long a context.
fn cut_of(matches: &ArgMatches, most: usize) -> TextCut {
    TextCut {
        context: context_of(matches, most),
        lines: matches.get_flag("lines"),
    }
}

/// The text of a file, which must hold some.
fn read(path: &Path) -> Result<String> {
    let next = "Give a text of some thousand tokens, like those that the model will read.";
    arguments::words(path, next)
}
