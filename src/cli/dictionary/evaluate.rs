//! `lmscope dictionary evaluate`: what a dictionary is worth on a text.
//!
//! Invariant: what is measured is what [`crate::dictionaries::evaluate`] says; here are only flags. To add a flag, add it to
//! [`build`] and read it in [`run`].

use std::path::PathBuf;

use clap::{ArgMatches, Command, value_parser};

use super::super::{Subcommand, arguments, models, output};
use super::{cut, cut_of, read, report};
use crate::dictionaries::evaluate::{evaluate, first_of};
use crate::dictionaries::opened::OpenDictionaries;
use crate::dictionaries::train::activations::{contexts, rows_of};
use crate::error::{Error, Result};
use crate::text::grouped;

/// The default number of tokens.
const TOKENS: &str = "8192";

pub const EVALUATE: Subcommand = Subcommand {
    name: "evaluate",
    about: "Evaluates a dictionary on a text: L0, explained variance, cross-entropy with the reconstruction in place, dead features",
    arguments: build,
    run,
};

fn build(command: Command) -> Command {
    let command = arguments::model(models::format(command));
    cut(command)
        .arg(
            arguments::value(
                "dictionary",
                "PATH",
                "The dictionary: a folder or file, with @ADDRESS where it does not say its place",
            )
            .required(true),
        )
        .arg(
            arguments::value(
                "layer",
                "L",
                "Of a set of several layers only the dictionary that reads at layer L",
            )
            .value_parser(value_parser!(usize)),
        )
        .arg(
            arguments::value("tokens", "N", "How many tokens of the text are read")
                .value_parser(value_parser!(usize))
                .default_value(TOKENS),
        )
        .arg(
            arguments::value("seed", "N", "Random seed of the intervals")
                .value_parser(value_parser!(u64))
                .default_value("1"),
        )
}

fn run(matches: &ArgMatches) -> Result<()> {
    let path = matches
        .get_one::<PathBuf>("text")
        .cloned()
        .unwrap_or_default();
    let words = read(&path)?;
    let mut lab = arguments::open(matches)?;
    let given = arguments::text(matches, "dictionary");
    let set = lab.derived::<OpenDictionaries>().get(given, &lab)?;
    let only = matches.get_one::<usize>("layer").copied();
    let chosen: Vec<_> = set
        .dictionaries
        .iter()
        .filter(|d| only.is_none_or(|only| d.reads.iter().any(|at| usize::from(at.layer) == only)))
        .collect();
    if chosen.is_empty() {
        return Err(Error::argument(
            "--layer",
            only.unwrap_or_default(),
            "a layer at which the set has a dictionary",
        ));
    }
    let all = contexts(&lab.model, &words, cut_of(matches, lab.model.card.context))?;
    if all.is_empty() {
        return Err(Error::argument(
            "--text",
            path.display(),
            "a text of two tokens or more",
        ));
    }
    let tokens = matches
        .get_one::<usize>("tokens")
        .copied()
        .unwrap_or_default();
    if tokens < 2 {
        return Err(Error::argument("--tokens", tokens, "2 or more"));
    }
    let text = first_of(&all, tokens);
    let seed = matches.get_one::<u64>("seed").copied().unwrap_or(1);
    for dictionary in chosen {
        let found = arguments::showing_progress(&mut lab, "dictionary", |lab| {
            evaluate(lab, &set, dictionary, text, seed)
        })?;
        let about = &dictionary.dictionary;
        output::note(&about.about());
        about.remarks.iter().for_each(|note| output::note(note));
        output::note(&format!(
            "{} of {} tokens, in {} contexts; the first position of each is left out.",
            grouped(found.tokens),
            grouped(rows_of(&all)),
            grouped(found.contexts),
        ));
        report::print(&found, None, models::form(matches))?;
    }
    Ok(())
}
