//! `lmscope generate`: generates a continuation, as text or as one line of JSON for each token.
//!
//! Invariant: the same model, prompt, edits, temperature and seed give the same tokens; standard output gets only the generated
//! text, so that it can be piped.
//! To add a statistic of a token, add a key to its line; to add one of a run, to the summary.

use std::cell::RefCell;
use std::time::Instant;

use clap::{ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::output::PrintedForm;
use super::{Subcommand, arguments, output};
use crate::edit::receipt::Receipt;
use crate::engine::Ending;
use crate::error::{Error, Result};
use crate::export;
use crate::figure::Check;
use crate::lab::Lab;
use crate::lab::capture::{Needs, Readout};
use crate::lab::run::Run;
use crate::lab::sample::Sampling;
use crate::lab::writer::{BaselineMode, Writer, WrittenToken};
use crate::model::network::site::Site;
use crate::text;

pub const GENERATE: Subcommand = Subcommand {
    name: "generate",
    about: "Generates a continuation of a prompt, with or without edits",
    arguments: build,
    run,
};

fn build(command: Command) -> Command {
    let command = arguments::edits(arguments::prompt(arguments::model(command)));
    let command = command
        .arg(super::switch("lockstep", "Also generates with the unedited model, in lockstep and from the same seed: KL divergence for each token, and where the texts diverge"))
        .arg(super::switch("forced", "Like lockstep, but the edited run is given the unedited run's tokens, so that KL always compares the same text"))
        .arg(super::switch("alone", "Does not run the unedited model: faster, but no KL for each token").conflicts_with_all(["lockstep", "forced"]));
    let safe = "Escapes control characters in a pipe as well, as on a terminal; by default a pipe gets the model's raw bytes";
    let format = "text; jsonl: one line for each token and a summary; json: the same in one document; csv: a line for each token, the summary in comments";
    sampling_arguments(command.arg(super::switch("safe", safe))).arg(arguments::one_of(
        "format",
        ["text", "jsonl", "json", "csv"],
        format,
    ))
}

/// Flags for the number of tokens and for sampling.
pub fn sampling_arguments(command: Command) -> Command {
    let count = arguments::value("count", "N", "Maximum tokens to generate").short('n');
    let temperature =
        arguments::value("temperature", "T", "0 always takes the most probable token");
    let top_p = "Top-p sampling: keeps the smallest set of tokens with this much probability";
    let top_p = arguments::value("top-p", "P", top_p);
    let top_k = arguments::value(
        "top-k",
        "K",
        "Top-k sampling: keeps this many tokens; 0 keeps all",
    );
    command
        .arg(count.value_parser(value_parser!(usize)).default_value("64"))
        .arg(
            temperature
                .value_parser(value_parser!(f64))
                .default_value("0"),
        )
        .arg(top_p.value_parser(value_parser!(f64)).default_value("1"))
        .arg(top_k.value_parser(value_parser!(usize)).default_value("0"))
}

/// The most tokens to generate.
pub fn count(matches: &ArgMatches) -> usize {
    matches.get_one::<usize>("count").copied().unwrap_or(64)
}

/// The form of the output.
enum OutputFormat {
    /// Text made safe to show, for a terminal or a pipe that leads to one.
    Screen,
    /// The raw bytes of the tokens, for a pipe.
    Bytes,
    /// One line of JSON for each token.
    Lines,
    /// One document, when everything is known.
    Document(RefCell<Vec<Value>>, PrintedForm),
}

impl OutputFormat {
    /// Whether it is for scripts.
    fn is_for_scripts(&self) -> bool {
        matches!(self, Self::Lines | Self::Document(..))
    }

    /// Takes what is known of a token.
    fn take(&self, line: Value) -> Result<()> {
        match self {
            Self::Document(lines, _) => {
                lines.borrow_mut().push(line);
                Ok(())
            }
            Self::Lines | Self::Screen | Self::Bytes => output::json_line(&line),
        }
    }

    /// Writes the summary, which comes last; a document is written with it.
    fn finish(&self, summary: &Value) -> Result<()> {
        match self {
            Self::Document(lines, form) => {
                let tokens = Value::from(lines.take());
                let all = json!({"schema": export::SCHEMA, "tokens": tokens, "summary": summary});
                output::document(&all, "tokens", *form)
            }
            Self::Lines | Self::Screen | Self::Bytes => {
                output::json_line(&json!({ "summary": summary }))
            }
        }
    }
}

/// The summary of a run.
struct GenerateSummary {
    written: usize,
    prompt_seconds: f64,
    seconds: f64,
    ending: Ending,
    check: Option<Check>,
    /// The error if the numbers were not finite.
    broken: Option<Error>,
}

fn run(matches: &ArgMatches) -> Result<()> {
    let edits = arguments::parse_edits(matches)?;
    let sampling = sampling(matches)?;
    let count = count(matches);
    let format = arguments::text(matches, "format");
    let shape = match (format, output::stdout_is_terminal()) {
        ("jsonl", _) => OutputFormat::Lines,
        ("json", _) => OutputFormat::Document(RefCell::default(), PrintedForm::Json),
        ("csv", _) => OutputFormat::Document(RefCell::default(), PrintedForm::Csv),
        (_, terminal) if terminal || matches.get_flag("safe") => OutputFormat::Screen,
        (_, _) => OutputFormat::Bytes,
    };
    let mut lab = arguments::open(matches)?;
    let begun = arguments::run(matches, &lab, edits)?;
    let beside = beside(matches);
    let since = Instant::now();
    let (tokens, schedule) = (begun.tokens.clone(), begun.schedule.clone());
    let writer = Writer::begin_with_baseline(&mut lab, tokens, schedule, sampling, beside);
    let mut writer = match writer {
        Err(error @ Error::NotFinite { .. }) => {
            return Err(refused(&mut lab, &begun, &shape, error));
        }
        writer => writer?,
    };
    let prompt_seconds = since.elapsed().as_secs_f64();
    let mut tally = GenerateSummary {
        written: 0,
        prompt_seconds,
        seconds: 0.0,
        ending: Ending::Count,
        check: None,
        broken: None,
    };
    write(&mut lab, &mut writer, count, &shape, &mut tally)?;

    let counted = writer.receipts().to_vec();
    let stopped = tally.ending == Ending::Stopped;
    let receipts = if stopped || counted.is_empty() {
        counted
    } else {
        output::measured(&mut lab, &writer.run, &counted)
    };
    if shape.is_for_scripts() {
        shape.finish(&summary(&lab, &writer, &tally, &json!(receipts)))?;
    } else if output::stderr_is_terminal() {
        let (written, seconds, rate) = (tally.written, tally.seconds, rate(&tally));
        output::note(&format!(
            "{written} tokens in {seconds:.2} s, {rate:.1} a second."
        ));
    }
    if let (Some((text, diverged)), false) = (unedited(&lab, &writer), shape.is_for_scripts()) {
        let parted = diverged.map_or_else(
            || "they did not diverge".into(),
            |position| format!("they diverge at position {position}"),
        );
        let text = crate::text::plain(text.as_bytes());
        output::note(&format!("unedited, from the same seed ({parted}):{text}"));
    }
    output::receipts(&receipts);
    if let Some(failure) = tally.check.and_then(Check::failure) {
        output::note(&format!("WARNING: {failure}."));
    }
    match tally.broken {
        Some(error) => Err(error),
        None if stopped => Err(Error::Cancelled),
        None => Ok(()),
    }
}

/// Reports what is known if not even the prompt could be read: the edits' receipts, and in JSON a summary without tokens.
fn refused(lab: &mut Lab, run: &Run, shape: &OutputFormat, error: Error) -> Error {
    let receipts = if run.schedule.is_idle() {
        Vec::new()
    } else {
        output::measured(lab, run, &[])
    };
    if shape.is_for_scripts() {
        let edits = run.schedule.latest().iter().map(ToString::to_string);
        let summary = json!({
            "model": lab.model.card.name,
            "revision": lab.model.card.revision,
            "dtype": lab.model.card.dtype,
            "device": lab.model.card.device,
            "version": env!("CARGO_PKG_VERSION"),
            "prompt_tokens": run.prompt,
            "tokens": 0,
            "ending": Ending::NotFinite,
            "error": error.to_string(),
            "seed": run.seed,
            "edits": edits.collect::<Vec<_>>(),
            "receipts": receipts,
            "check": as_json(Check::not_finite()),
        });
        if let Err(closed) = shape.finish(&summary) {
            return closed;
        }
    }
    output::receipts(&receipts);
    error
}

/// The JSON of a check; a difference that is not finite is null, and has not passed.
fn as_json(check: Check) -> Value {
    json!({ "error": check.error, "tolerance": check.tolerance, "passed": check.passed() })
}

/// The baseline run that the flags ask for.
fn beside(matches: &ArgMatches) -> BaselineMode {
    match ["forced", "lockstep", "alone"].map(|flag| matches.get_flag(flag)) {
        [true, ..] => BaselineMode::Forced,
        [_, true, _] => BaselineMode::OwnText,
        [_, _, true] => BaselineMode::Nothing,
        _ => BaselineMode::SameText,
    }
}

/// In lockstep, the text of the baseline run, and the position at which the texts diverge.
fn unedited(lab: &Lab, writer: &Writer) -> Option<(String, Option<usize>)> {
    let lockstep = writer.baseline_mode() == BaselineMode::OwnText;
    let tokens = writer.baseline_row().filter(|_| lockstep)?;
    let tokenizer = lab.model.tokenizer.as_ref()?;
    let written = &tokens[writer.run.prompt..];
    let end = written.iter().position(|t| lab.model.is_end(*t));
    let text = tokenizer.text(&written[..end.unwrap_or(written.len())]);
    Some((text, writer.diverged()))
}

/// The sampling settings of the flags.
pub fn sampling(matches: &ArgMatches) -> Result<Sampling> {
    let number =
        |name: &str, default: f64| matches.get_one::<f64>(name).copied().unwrap_or(default);
    let (temperature, top_p) = (number("temperature", 0.0), number("top-p", 1.0));
    if !(temperature.is_finite() && temperature >= 0.0) {
        return Err(Error::argument("--temperature", temperature, "0 or more"));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(Error::argument("--top-p", top_p, "more than 0, at most 1"));
    }
    Ok(Sampling {
        temperature,
        top_p,
        top_k: matches.get_one::<usize>("top-k").copied().unwrap_or(0),
        seed: arguments::seed(matches),
    })
}

/// Generates tokens until the requested number, the end of the text, the end of the context, or Ctrl-C.
fn write(
    lab: &mut Lab,
    writer: &mut Writer,
    count: usize,
    shape: &OutputFormat,
    tally: &mut GenerateSummary,
) -> Result<()> {
    let since = Instant::now();
    let mut stream = text::TextStream::default();
    // The lens is computed only in the first step, for the self-check.
    let last = vec![Site::ResidPost.at(lab.model.card.layers - 1)];
    let mut needs = vec![Needs::of(Readout {
        at: last,
        ..Readout::default()
    })];
    while tally.written < count {
        if !writer.has_room(lab) {
            tally.ending = Ending::Context;
            break;
        }
        let step = match writer.step(lab, &needs) {
            Err(Error::Cancelled) => {
                tally.ending = Ending::Stopped;
                break;
            }
            // The tokens before the error are reported as usual.
            Err(error @ Error::NotFinite { .. }) => {
                tally.ending = Ending::NotFinite;
                tally.broken = Some(error);
                break;
            }
            step => step?,
        };
        needs.clear();
        tally.written += 1;
        tally.check = tally.check.or(step.captures.first().and_then(|c| c.check));
        show(lab, &mut stream, &step, writer.receipts(), shape)?;
        if lab.model.is_end(step.choice.id) {
            tally.ending = Ending::EndToken;
            break;
        }
    }
    tally.seconds = since.elapsed().as_secs_f64();
    match shape {
        OutputFormat::Lines | OutputFormat::Document(..) => Ok(()),
        OutputFormat::Screen => output::line(&stream.finish()),
        OutputFormat::Bytes => {
            let rest = stream.open().to_vec();
            output::bytes(&[rest.as_slice(), b"\n"].concat())
        }
    }
}

fn show(
    lab: &Lab,
    stream: &mut text::TextStream,
    step: &WrittenToken,
    receipts: &[Receipt],
    shape: &OutputFormat,
) -> Result<()> {
    let choice = &step.choice;
    let line = |text: &str, special| token(lab, step, receipts, text, special);
    let special = lab
        .model
        .tokenizer
        .as_ref()
        .is_some_and(|t| t.is_special(choice.id))
        || lab.model.is_end(choice.id);
    let bytes = lab.model.bytes(choice.id);
    if special {
        return if shape.is_for_scripts() {
            shape.take(line(&String::from_utf8_lossy(&bytes), true))
        } else {
            Ok(())
        };
    }
    // The bytes that can be written now: those pending and those of this token, without an incomplete character at the end.
    let mut raw = stream.open().to_vec();
    raw.extend(bytes.iter());
    let safe = stream.push(&bytes);
    raw.truncate(raw.len() - stream.open().len());
    match shape {
        OutputFormat::Screen => output::text(&safe),
        OutputFormat::Bytes => output::bytes(&raw),
        OutputFormat::Lines | OutputFormat::Document(..) => {
            shape.take(line(&String::from_utf8_lossy(&raw), false))
        }
    }
}

fn token(lab: &Lab, step: &WrittenToken, receipts: &[Receipt], text: &str, special: bool) -> Value {
    let choice = &step.choice;
    let mut line = json!({ "pos": choice.position, "id": choice.id, "text": text, "logprob": choice.logprob, "rank": choice.rank });
    if let Some(kl) = choice.kl {
        line["kl"] = json!(kl);
    }
    if !step.fired.is_empty() {
        // An edit is identified by its index in the list.
        let place = |id| receipts.iter().position(|r| r.id == id);
        let fired = step
            .fired
            .iter()
            .map(|f| json!({ "edit": place(f.edit), "fired": f.fired, "relative": f.relative }));
        line["edits"] = fired.collect();
    }
    if let Some(other) = choice.other {
        let bytes = lab.model.bytes(other.id);
        line["other"] = json!({ "id": other.id, "text": String::from_utf8_lossy(&bytes), "logprob": other.logprob });
    }
    if special {
        line["special"] = json!(true);
    }
    line
}

fn rate(tally: &GenerateSummary) -> f64 {
    tally.written as f64 / tally.seconds.max(1e-9)
}

fn summary(lab: &Lab, writer: &Writer, tally: &GenerateSummary, receipts: &Value) -> Value {
    let card = &lab.model.card;
    let check = if tally.broken.is_some() {
        Some(Check::not_finite())
    } else {
        tally.check
    };
    json!({
        "model": card.name,
        "family": card.family,
        "revision": card.revision,
        "dtype": card.dtype,
        "device": card.device,
        "version": env!("CARGO_PKG_VERSION"),
        "prompt_tokens": writer.run.prompt,
        "prompt_ids": writer.run.tokens[..writer.run.prompt],
        "prompt_texts": writer.run.given().iter().map(|id| lab.model.raw_text(*id)).collect::<Vec<_>>(),
        "tokens": tally.written,
        "prompt_seconds": tally.prompt_seconds,
        "seconds": tally.seconds,
        "tokens_per_second": rate(tally),
        "ending": tally.ending,
        "seed": writer.sampling.seed,
        "temperature": writer.sampling.temperature,
        "top_p": writer.sampling.top_p,
        "top_k": writer.sampling.top_k,
        "edits": writer.run.schedule.latest().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "beside": writer.baseline_mode(),
        "diverged": writer.diverged(),
        "unedited": unedited(lab, writer).map(|(text, _)| text),
        "receipts": receipts,
        "check": check.map(as_json),
        "error": tally.broken.as_ref().map(ToString::to_string),
    })
}
