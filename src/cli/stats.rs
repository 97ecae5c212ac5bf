//! `lmscope stats`: mean and variance of activations over a neutral text, for mean ablation.
//!
//! Invariant: the file is written completely or not at all, and records the model and the text. To measure something else, add
//! a site; to store another statistic, see `lab/statistics.rs`.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};

use super::{Subcommand, arguments, output};
use crate::error::{Error, Result};
use crate::file;
use crate::lab::Lab;
use crate::lab::statistics::{Statistics, TextReading, grouped, pieces};
use crate::model::network::address::expand;
use crate::model::network::site::Address;

/// The sites that are measured by default.
const USUAL: &str = "mlp_act,z,resid_post";

/// The default number of tokens in a piece.
const PIECE: usize = 128;

pub const STATS: Subcommand = Subcommand {
    name: "stats",
    about: "Measures the mean and variance of activations over a text, for `mean` edits (mean ablation)",
    arguments: build,
    run,
};

fn build(command: Command) -> Command {
    arguments::model(command)
        .arg(Arg::new("text").value_name("TEXT_FILE").required(true).value_parser(value_parser!(PathBuf)).help("A neutral text of 10 000 tokens or more"))
        .arg(arguments::value("sites", "SITES", format!("Addresses, for example 'mlp_act.*,resid_post.4' [default: {USUAL}, at every layer that has them]")))
        .arg(arguments::value("skip", "N", "How many first positions of every piece are left out; attention sinks are there").value_parser(value_parser!(usize)).default_value("1"))
        .arg(arguments::value("piece", "N", format!("Tokens of one piece that is read at once [default: {PIECE}, or the context if that is shorter]")).value_parser(value_parser!(usize)))
        .arg(arguments::value("output", "FILE", "The safetensors file to write").short('o').required(true).value_parser(value_parser!(PathBuf)))
        .arg(arguments::force())
}

fn run(matches: &ArgMatches) -> Result<()> {
    let source = matches.get_one::<PathBuf>("text");
    let source = source.cloned().unwrap_or_default();
    let target = arguments::output(matches)?.cloned().unwrap_or_default();
    let words = arguments::words(&source, "Give a neutral text of 10 000 tokens or more.")?;
    let mut lab = arguments::open(matches)?;
    let wanted = sites(matches, &lab)?;
    let context = lab.model.card.context;
    let piece = match matches.get_one::<usize>("piece") {
        None => PIECE.min(context),
        Some(n) if (2..=context).contains(n) => *n,
        Some(n) => {
            let expected = format!("2 to {context} tokens");
            return Err(Error::argument("--piece", n, expected));
        }
    };
    let how = TextReading {
        skip: matches.get_one::<usize>("skip").copied().unwrap_or(1),
        piece,
        text: arguments::file_name(&source),
    };
    let tokens = lab.model.encode(&words, false)?;
    let cut = pieces(&tokens, lab.model.tokenizer()?.bos(), piece);
    let statistics = arguments::showing_progress(&mut lab, "stats", |lab| {
        Statistics::measure(lab, &cut, &wanted, &how)
    })?;
    file::write(&target, &statistics.bytes()?, lab.overwrite)?;
    let origin = &statistics.origin;
    if !origin.caution.is_empty() {
        output::note(&format!("WARNING: {}.", origin.caution));
    }
    let file = target.display();
    output::note(&format!(
        "{file}: {} over {} tokens of {} in {} pieces ({} first positions left out). Use it as --edit 'mean:UNITS={file}@{}'.",
        statistics.places(),
        grouped(origin.tokens),
        origin.text,
        cut.len(),
        grouped(origin.skipped),
        statistics
            .rows
            .first()
            .map_or_else(String::new, |r| r.at.to_string()),
    ));
    Ok(())
}

/// The addresses that the flags ask for; by default the usual sites, as far as this model has them.
fn sites(matches: &ArgMatches, lab: &Lab) -> Result<Vec<Address>> {
    let blueprint = &lab.model.card.blueprint;
    if let Some(given) = matches.get_one::<String>("sites") {
        return expand(given, blueprint);
    }
    let mut usual = expand(USUAL, blueprint)?;
    let before = usual.len();
    usual.retain(|at| lab.model.offers(*at).is_ok());
    if usual.len() < before {
        let missing = before - usual.len();
        output::note(&format!(
            "{missing} of the usual addresses do not exist on this model and are left out."
        ));
    }
    Ok(usual)
}
