//! `lmscope dictionary index`: how often each feature is active in a text, how strongly, and where most.
//!
//! Invariant: the index is written whole or not at all; stopped work is kept in a file beside it, with which the same command goes
//! on. To index something else, see [`crate::dictionaries::index`].

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgMatches, Command, value_parser};

use super::{context_of, read};
use crate::cli::{Subcommand, arguments, output};
use crate::dictionaries::index::{FeatureIndex, IndexRequest, MOST_KEPT};
use crate::dictionaries::opened::OpenDictionaries;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::trials::time_left;
use crate::text::{self, grouped};

/// How many bytes of the text are converted to tokens at once.
const PIECE: usize = 1 << 16;

pub const INDEX: Subcommand = Subcommand {
    name: "index",
    about: "Indexes the features of a dictionary over a text: how often each is active, how strongly, and its strongest contexts",
    arguments: build,
    run,
};

fn build(command: Command) -> Command {
    let number = |name, value_name, help: &'static str, default| {
        arguments::value(name, value_name, help)
            .value_parser(value_parser!(usize))
            .default_value(default)
    };
    arguments::model(command)
        .arg(arguments::value("dictionary", "DICTIONARY", "The folder or file of a dictionary, or its name, with @ADDRESS after it where its file does not say the place").required(true))
        .arg(arguments::value("text", "FILE", "A plain text file; it is read in windows of 128 tokens, or of --context, and a token sees only its own window").required(true).value_parser(value_parser!(PathBuf)))
        .arg(number("tokens", "N", "The most tokens that are read of the text", "1000000"))
        .arg(number("keep", "N", "How many of its strongest contexts are kept of each feature", "20"))
        .arg(arguments::value("layer", "LAYER", "One layer of a set of dictionaries").value_parser(value_parser!(usize)))
        .arg(arguments::value("output", "FILE", "The index to write, a safetensors file").short('o').required(true).value_parser(value_parser!(PathBuf)))
        .arg(arguments::force())
}

fn run(matches: &ArgMatches) -> Result<()> {
    let target = arguments::output(matches)?.cloned().unwrap_or_default();
    let number = |name: &str| matches.get_one::<usize>(name).copied().unwrap_or_default();
    let (most, keep) = (number("tokens"), number("keep"));
    if !(1..=MOST_KEPT).contains(&keep) {
        return Err(Error::argument(
            "--keep",
            keep,
            format!("1 to {MOST_KEPT} contexts"),
        ));
    }
    let source = matches.get_one::<PathBuf>("text").cloned();
    let source = source.unwrap_or_default();
    let words = read(&source)?;
    let given = arguments::text(matches, "dictionary").to_string();
    let mut lab = arguments::open(matches)?;
    let context = context_of(matches, lab.model.card.context);
    let set = lab.derived::<OpenDictionaries>().get(&given, &lab)?;
    let tokens = encode(&lab, &words, most)?;
    let request = IndexRequest {
        dictionary: given,
        text: arguments::file_name(&source),
        tokens,
        context,
        keep,
        layer: matches.get_one::<usize>("layer").copied(),
    };
    let unfinished = beside(&target);
    if unfinished.exists() {
        let name = unfinished.display();
        output::note(&format!("goes on with the unfinished work in {name}."));
    }
    let (before, all) = (Instant::now(), request.tokens.len());
    let built = showing_rate(&mut lab, all, |lab| {
        FeatureIndex::build(lab, &set, request, &unfinished)
    });
    if matches!(built, Err(Error::Cancelled)) {
        let name = unfinished.display();
        output::note(&format!(
            "stopped; the same command goes on from there, with {name}."
        ));
    }
    let index = built?;
    index.save(&target, lab.overwrite)?;
    if unfinished.exists() {
        std::fs::remove_file(&unfinished).map_err(|e| Error::io(&unfinished, e))?;
    }
    let features: usize = index.origin.dictionaries.iter().map(|d| d.features).sum();
    let layers = index.origin.dictionaries.iter();
    let silent: usize = layers
        .filter_map(|d| index.layer(d.layer))
        .map(crate::dictionaries::index::LayerIndex::silent)
        .sum();
    let file = target.display();
    output::note(&format!(
        "{file}: {} features over {} positions of {}, in {}; {} are never active. Use it as --index {file}.",
        grouped(features),
        grouped(index.origin.positions),
        index.origin.text,
        text::duration(before.elapsed()),
        grouped(silent),
    ));
    Ok(())
}

/// The file of unfinished work beside an index.
fn beside(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_os_string();
    name.push(".unfinished");
    name.into()
}

/// The first tokens of a text. It is converted in pieces that end with a line, so that of a long one only the beginning is.
fn encode(lab: &Lab, words: &str, most: usize) -> Result<Vec<u32>> {
    let tokenizer = lab.model.tokenizer()?;
    let mut tokens = Vec::new();
    let mut rest = words;
    while !rest.is_empty() && tokens.len() < most {
        let mut end = PIECE.min(rest.len());
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let line = rest[..end].rfind('\n').map(|at| at + 1);
        let end = if end == rest.len() {
            end
        } else {
            line.unwrap_or(end)
        };
        tokens.extend(tokenizer.encode_literal(&rest[..end])?);
        rest = &rest[end..];
    }
    tokens.truncate(most);
    Ok(tokens)
}

/// Does `work` and shows how far it is and how many tokens a second it reads on standard error, if that is a terminal.
fn showing_rate<T>(lab: &mut Lab, tokens: usize, work: impl FnOnce(&mut Lab) -> T) -> T {
    if !output::stderr_is_terminal() {
        return work(lab);
    }
    let mut begin: Option<(Instant, f32)> = None;
    let show = move |done: f32| {
        // Where it goes on with unfinished work, the first share is not zero.
        let (since, first) = *begin.get_or_insert((Instant::now(), done));
        let spent = since.elapsed();
        if spent.as_millis() > 400 {
            let share = (done - first) / (1.0 - first).max(f32::MIN_POSITIVE);
            let rate = (done - first) * tokens as f32 / spent.as_secs_f32();
            let left = time_left(spent, share).map_or_else(String::new, |left| {
                format!(" · about {} left", text::duration(left))
            });
            output::status(&format!(
                "index {:3.0} % · {rate:.0} tokens a second{left}",
                done * 100.0
            ));
        }
    };
    let done = lab.with_progress(show, work);
    output::clear_status();
    done
}
