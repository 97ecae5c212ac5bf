//! `lmscope dictionary train`: trains a sparse autoencoder on the activations of a site, and reports what it is worth on the last
//! tenth of the text.
//!
//! Invariant: an existing dictionary is never overwritten unasked; a training that is stopped leaves a state from which
//! `--resume` goes on. To add a flag, add it to [`build`] and read it in [`options`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{ArgMatches, Command, value_parser};
use serde_json::json;

use super::super::{Subcommand, arguments, models, output};
use super::{cut, cut_of, read, report};
use crate::dictionaries::evaluate::{DictionaryReport, evaluate, first_of};
use crate::dictionaries::opened::{DictionarySet, PlacedDictionary};
use crate::dictionaries::train::activations::{SplitText, check_site, rows_of};
use crate::dictionaries::train::file::{CONFIG, TrainedDictionary, WEIGHTS};
use crate::dictionaries::train::losses::BatchMeasures;
use crate::dictionaries::train::state::{self, STATE, TrainingFacts};
use crate::dictionaries::train::training::{CurvePoint, DictionaryTrainer, TrainingWatch, train};
use crate::dictionaries::train::{TrainKind, TrainOptions};
use crate::error::{Error, Result};
use crate::file::Overwrite;
use crate::lab::Lab;
use crate::lab::trials::time_left;
use crate::model::network::address::resolve;
use crate::model::network::site::Address;
use crate::text::{self, grouped};

pub const TRAIN: Subcommand = Subcommand {
    name: "train",
    about: "Trains a sparse autoencoder on the activations of a site, and writes it as a SAELens folder",
    arguments: build,
    run,
};

/// Tokens of the held-out part that the report reads.
const REPORTED: usize = 8192;

/// How often a line of progress is written, and how often the state is saved.
const EVERY: Duration = Duration::from_secs(5);
const SAVED_EVERY: Duration = Duration::from_mins(1);

/// A feature that was inactive in this share of all rows is dead, but not before so many rows.
const DEAD_SHARE: usize = 10;
const DEAD_AT_MOST: usize = 4_000_000;

fn build(command: Command) -> Command {
    let count = |name: &'static str, help: &'static str| {
        arguments::value(name, "N", help).value_parser(value_parser!(usize))
    };
    let factor = |name: &'static str, help: &'static str| {
        arguments::value(name, "C", help)
            .value_parser(value_parser!(f32))
            .allow_negative_numbers(true)
    };
    let kinds = TrainKind::ALL.map(TrainKind::name);
    let command = arguments::model(models::format(command));
    cut(command)
        .arg(arguments::value("site", "ADDRESS", "Where activations are read, for example resid_post.6").required(true))
        .arg(arguments::one_of("kind", kinds, "What makes the features sparse: the k largest of a position (topk) or of a batch (batchtopk), thresholds with a penalty on the number of active features (jumprelu), a penalty on their sum (standard)"))
        .arg(count("features", "How many features").required(true))
        .arg(count("k", "Active features of a position, for topk and batchtopk (there on average)").short('k').default_value("32"))
        .arg(factor("l0", "The factor of the penalty on active features, for jumprelu").default_value("1"))
        .arg(factor("l1", "The factor of the penalty on the sum of activations, for standard").default_value("5"))
        .arg(count("tokens", "How many tokens are trained on; the text is read again where it is shorter [default: the text once]"))
        .arg(count("batch", "Tokens in a step").default_value("1024"))
        .arg(factor("lr", "The learning rate; it falls to zero over the last fifth").default_value("0.0003"))
        .arg(factor("aux", "The factor of AuxK, which revives dead features; 0 turns it off").default_value("1"))
        .arg(count("dead-after", "A feature that is inactive for so many tokens is dead [default: a tenth of all tokens, at most 4 000 000]"))
        .arg(arguments::value("seed", "N", "Random seed").value_parser(value_parser!(u64)).default_value("1"))
        .arg(arguments::value("output", "FOLDER", "The folder to write").short('o').required(true).value_parser(value_parser!(PathBuf)))
        .arg(super::super::switch("resume", "Goes on from the state that an interrupted training left in the folder"))
        .arg(arguments::force())
}

fn run(matches: &ArgMatches) -> Result<()> {
    let path = matches
        .get_one::<PathBuf>("text")
        .cloned()
        .unwrap_or_default();
    let folder = matches
        .get_one::<PathBuf>("output")
        .cloned()
        .unwrap_or_default();
    let resume = matches.get_flag("resume");
    check_folder(&folder, resume, arguments::overwrite(matches))?;
    // What the text does not decide is refused before a model is loaded.
    options(matches, usize::MAX)?.check()?;
    let words = read(&path)?;
    let mut lab = arguments::open(matches)?;
    let at = resolve(arguments::text(matches, "site"), &lab.model.card.blueprint)?;
    check_site(&lab.model, at)?;
    let text = SplitText::of(&lab.model, &words, cut_of(matches, lab.model.card.context))?;
    drop(words);
    let rows = rows_of(&text.training);
    let options = options(matches, rows)?;
    options.check()?;
    options.check_memory(lab.model.width(at.site))?;
    let facts = TrainingFacts {
        options: options.clone(),
        revision: lab.model.card.revision.clone(),
        dtype: lab.model.card.dtype.into(),
        site: at.to_string(),
        text: text.digest,
    };
    let state = folder.join(STATE);
    let (mut trainer, rate_before) = if resume {
        let (trainer, rate_before) = state::load(&state, &facts)?;
        (Some(trainer), rate_before)
    } else {
        (None, None)
    };
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    let name = arguments::file_name(&path);
    output::note(&format!(
        "{} features of {at}, {} tokens of {name} ({:.2} times its first nine tenths, {} tokens); the last tenth, {} tokens, is held out.",
        grouped(options.features),
        grouped(options.tokens),
        options.tokens as f64 / rows.max(1) as f64,
        grouped(rows),
        grouped(rows_of(&text.held_out)),
    ));
    if let Some(trainer) = &trainer {
        let rate = rate_before.map_or_else(String::new, |before| {
            format!(
                "; the learning rate was {before} so far and is {} from here on",
                options.rate
            )
        });
        output::note(&format!(
            "resumed after {} tokens{rate}.",
            grouped(trainer.seen)
        ));
    }
    let mut watch = Watch::new(&state, &facts, trainer.as_ref());
    let outcome = arguments::showing_progress(&mut lab, "reading the text", |lab| {
        train(lab, &text, at, &options, &mut trainer, &mut watch)
    });
    if let Err(error) = outcome {
        return Err(stopped(error, trainer.as_ref(), &facts, &state, &folder));
    }
    let Some(mut trainer) = trainer else {
        return Err(Error::Engine("a training without a step".into()));
    };
    // Saved before the report is measured, which takes a while and can be stopped.
    state::save(&trainer, &facts, &state)?;
    trainer.options = options.clone();
    let held = first_of(&text.held_out, REPORTED);
    let (found, control) = reports(&mut lab, &trainer, at, held)?;
    let about = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "revision": lab.model.card.revision,
        "site": at.to_string(),
        "text": name,
        "tokens_in_text": rows,
        "tokens_trained": trainer.seen,
        "lines": matches.get_flag("lines"),
        "options": options,
        "scale": trainer.scale,
        "held_out": report::value(&found, Some(&control)),
        "curve": trainer.curve,
    });
    let finished = trainer.finished();
    let config = finished.config(&lab.model, at, &options, about);
    finished.save(&folder, &config, overwritten(resume, matches))?;
    if let Err(error) = std::fs::remove_file(&state) {
        output::note(&format!("{}: {error}.", state.display()));
    }
    curves(&trainer.curve);
    output::note(&format!(
        "{}: {CONFIG} and {WEIGHTS}; measured on {} held-out tokens in {} contexts.",
        folder.display(),
        grouped(found.tokens),
        grouped(found.contexts)
    ));
    report::print(&found, Some(&control), models::form(matches))
}

/// What the flags ask for; `rows`: how many tokens the text has.
fn options(matches: &ArgMatches, rows: usize) -> Result<TrainOptions> {
    let count = |name: &str| matches.get_one::<usize>(name).copied();
    let factor = |name: &str| matches.get_one::<f32>(name).copied().unwrap_or_default();
    let kind: TrainKind = arguments::text(matches, "kind").parse()?;
    for (flag, belongs) in [
        ("k", kind.counts()),
        ("l0", kind == TrainKind::JumpRelu),
        ("l1", kind == TrainKind::Standard),
    ] {
        let given = matches.value_source(flag) == Some(clap::parser::ValueSource::CommandLine);
        if given && !belongs {
            let dashes = if flag == "k" { "-" } else { "--" };
            let expected =
                "another kind: -k is for topk and batchtopk, --l0 for jumprelu, --l1 for standard";
            let kind = format!("{kind} with {dashes}{flag}");
            return Err(Error::argument("--kind", kind, expected));
        }
    }
    let tokens = count("tokens").unwrap_or(rows);
    Ok(TrainOptions {
        kind,
        features: count("features").unwrap_or_default(),
        k: count("k").unwrap_or_default(),
        penalty: match kind {
            TrainKind::JumpRelu => factor("l0"),
            TrainKind::Standard => factor("l1"),
            TrainKind::TopK | TrainKind::BatchTopK => 0.0,
        },
        tokens,
        batch: count("batch").unwrap_or_default(),
        rate: factor("lr"),
        seed: matches.get_one::<u64>("seed").copied().unwrap_or(1),
        aux: factor("aux"),
        dead_after: count("dead-after").unwrap_or((tokens / DEAD_SHARE).min(DEAD_AT_MOST)),
    })
}

/// Refuses a folder with something in it, unless it is to be overwritten or gone on with.
fn check_folder(folder: &Path, resume: bool, overwrite: Overwrite) -> Result<()> {
    let has = |name: &str| folder.join(name).exists();
    if folder.exists() && !folder.is_dir() {
        return Err(Error::bad_file(
            folder,
            "it is not a folder",
            "Choose another name.",
        ));
    }
    if resume {
        if has(STATE) {
            return Ok(());
        }
        return Err(Error::bad_file(
            folder,
            format!("it has no {STATE}, so there is nothing to resume"),
            "Leave --resume out, or name the folder of a training that was stopped.",
        ));
    }
    if overwrite == Overwrite::Allowed {
        return Ok(());
    }
    if has(STATE) {
        return Err(Error::bad_file(
            folder,
            "it holds a training that was stopped",
            "Go on with --resume, begin again with --force, or choose another name.",
        ));
    }
    let filled = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if filled {
        return Err(Error::bad_file(
            folder,
            "this folder exists, and nothing in it was overwritten",
            "Choose another name, or overwrite a dictionary in it with --force.",
        ));
    }
    Ok(())
}

/// A resumed training was begun with leave to write there.
fn overwritten(resume: bool, matches: &ArgMatches) -> Overwrite {
    if resume {
        Overwrite::Allowed
    } else {
        arguments::overwrite(matches)
    }
}

/// Saves what can be saved of a training that stopped, and says how to go on.
fn stopped(
    error: Error,
    trainer: Option<&DictionaryTrainer>,
    facts: &TrainingFacts,
    state: &Path,
    folder: &Path,
) -> Error {
    match (&error, trainer) {
        (Error::Cancelled | Error::Signal(_), Some(trainer)) => {
            match state::save(trainer, facts, state) {
                Ok(()) => output::note(&format!(
                    "stopped after {} of {} tokens; the same command with --resume goes on from there.",
                    grouped(trainer.seen),
                    grouped(trainer.options.tokens)
                )),
                Err(failed) => return failed,
            }
        }
        (_, Some(_)) if state.exists() => output::note(&format!(
            "the last good state is kept in {}; --resume goes on from it with the same flags, and training anew with others needs --force or another folder.",
            folder.display()
        )),
        _ => {
            // An empty folder is no dictionary; one with something in it stays.
            let _kept = std::fs::remove_dir(folder);
        }
    }
    error
}

/// The trained dictionary and the one that it was before, on held-out text.
fn reports(
    lab: &mut Lab,
    trainer: &DictionaryTrainer,
    at: Address,
    text: &[Vec<u32>],
) -> Result<(DictionaryReport, DictionaryReport)> {
    let seed = trainer.options.seed;
    let measure = |lab: &mut Lab, trained: &TrainedDictionary| {
        let dictionary = trained.dictionary("dictionary", at)?;
        let set = DictionarySet::of(PlacedDictionary::on(dictionary, &lab.model)?);
        evaluate(lab, &set, &set.dictionaries[0], text, seed)
    };
    arguments::showing_progress(lab, "report", |lab| {
        let found = lab.part(0.0..0.5, |lab| measure(lab, &trainer.finished()))?;
        let control = lab.part(0.5..1.0, |lab| {
            measure(lab, &trainer.untrained().finished())
        })?;
        Ok((found, control))
    })
}

/// Writes progress, notes the curve and saves the state now and then.
struct Watch<'a> {
    state: &'a Path,
    facts: &'a TrainingFacts,
    began: Instant,
    /// The tokens that were there at the beginning.
    before: usize,
    said: Instant,
    saved: Instant,
    /// The tokens at which the next point of the curve is noted.
    next: usize,
    unsaved: bool,
}

impl<'a> Watch<'a> {
    fn new(state: &'a Path, facts: &'a TrainingFacts, trainer: Option<&DictionaryTrainer>) -> Self {
        let now = Instant::now();
        let before = trainer.map_or(0, |t| t.seen);
        Self {
            state,
            facts,
            began: now,
            before,
            said: now,
            saved: now,
            next: next_point(before, facts.options.tokens),
            unsaved: true,
        }
    }
}

/// The tokens at which a point of the curve is noted next: sixty in all.
fn next_point(seen: usize, tokens: usize) -> usize {
    let step = (tokens / 60).max(1);
    (seen / step + 1) * step
}

impl TrainingWatch for Watch<'_> {
    fn stepped(&mut self, trainer: &mut DictionaryTrainer, measures: &BatchMeasures) -> Result<()> {
        let tokens = trainer.options.tokens;
        if trainer.seen >= self.next || trainer.is_done() || trainer.curve.is_empty() {
            trainer.note(measures);
            self.next = next_point(trainer.seen, tokens);
        }
        if self.unsaved || self.saved.elapsed() > SAVED_EVERY {
            state::save(trainer, self.facts, self.state)?;
            (self.saved, self.unsaved) = (Instant::now(), false);
        }
        // The first step comes after the first part of the text was read, and says nothing of the rate.
        if trainer.seen <= self.before + trainer.options.batch {
            self.said = Instant::now();
        }
        if self.said.elapsed() > EVERY {
            self.said = Instant::now();
            let spent = self.began.elapsed();
            let since = trainer.seen - self.before;
            let rate = since as f64 / spent.as_secs_f64().max(1e-9);
            let share = since as f32 / (tokens - self.before).max(1) as f32;
            let left = time_left(spent, share).map_or_else(String::new, |left| {
                format!(" · about {} left", text::duration(left))
            });
            let bars = |of: fn(&CurvePoint) -> f64| sparkline(trainer.curve.iter().map(of));
            output::note(&format!(
                "{} of {} tokens · {} tokens/s · loss {:.2} {} · explained {:.3} {} · L0 {:.1} · dead {:.1} %{left}",
                grouped(trainer.seen),
                grouped(tokens),
                grouped(rate as usize),
                measures.loss,
                bars(|p| p.loss),
                measures.explained(),
                bars(|p| p.explained),
                measures.l0,
                100.0 * trainer.dead_share(),
            ));
        }
        Ok(())
    }
}

/// The course of a number as twelve bars, between its smallest and its largest.
fn sparkline(values: impl Iterator<Item = f64>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values: Vec<f64> = values.collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let count = values.len().min(12);
    (0..count)
        .map(|i| {
            let value = values[(i + 1) * values.len() / count - 1];
            let place = (value - least) / (most - least).max(f64::MIN_POSITIVE);
            BARS[((place * 7.0).round() as usize).min(7)]
        })
        .collect()
}

/// The whole course, in a few lines.
fn curves(curve: &[CurvePoint]) {
    let (Some(first), Some(last)) = (curve.first(), curve.last()) else {
        return;
    };
    #[allow(clippy::type_complexity)] // a name and how a point says it
    let rows: [(&str, fn(&CurvePoint) -> f64); 4] = [
        ("loss", |p| p.loss),
        ("explained", |p| p.explained),
        ("L0", |p| p.l0),
        ("dead", |p| p.dead),
    ];
    for (name, of) in rows {
        let bars = sparkline(curve.iter().map(of));
        output::note(&format!(
            "{name:<10}{:>9.3} {bars} {:.3}",
            of(first),
            of(last)
        ));
    }
}
