//! `lmscope stats`: mean and variance of activations over a neutral text, for mean ablation.
//!
//! Invariant: the file is written completely or not at all, and records the model and the text. To measure something else, add
//! a site; to store another statistic, see `lab/statistics.rs`.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::{Subcommand, arguments, models, output};
use crate::error::{Error, Result};
use crate::export;
use crate::file;
use crate::lab::Lab;
use crate::lab::statistics::{Moments, Statistics, TextReading, pieces};
use crate::model::network::address::expand;
use crate::model::network::site::Address;
use crate::text::grouped;

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
    models::format(arguments::model(command))
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
    let found = as_json(&statistics, &target, cut.len());
    output::document(&found, "addresses", models::form(matches))?;
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

/// What was measured, for scripts; the numbers of every coordinate are in the file.
fn as_json(statistics: &Statistics, target: &Path, pieces: usize) -> Value {
    let origin = &statistics.origin;
    let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let row = |row: &Moments| {
        let variance = row.variance.iter().map(|x| f64::from(*x)).sum::<f64>();
        json!({
            "address": row.at.to_string(), "site": row.at.site.spec().name,
            "layer": row.at.site.spec().layered.then_some(row.at.layer), "width": row.mean.len(),
            "norm_of_mean": length(&row.mean), "mean_variance": variance / row.mean.len().max(1) as f64,
        })
    };
    json!({
        "schema": export::SCHEMA, "file": target.display().to_string(), "model": origin.model,
        "revision": origin.revision, "dtype": origin.dtype, "version": origin.version, "text": origin.text,
        "tokens": origin.tokens, "skipped": origin.skipped, "skip": origin.skip, "piece": origin.piece,
        "pieces": pieces, "caution": (!origin.caution.is_empty()).then_some(&origin.caution),
        "addresses": statistics.rows.iter().map(row).collect::<Vec<_>>(),
    })
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
