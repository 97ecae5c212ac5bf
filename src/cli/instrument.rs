//! `lmscope INSTRUMENT`: one subcommand for each instrument, made from its row.
//!
//! Invariant: no instrument is named here; every parameter is a flag with its own description, range and default.
//! To add a subcommand, add an instrument.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Arg, ArgMatches, Command, value_parser};

use super::{arguments, log, output};
use crate::error::{Error, Result};
use crate::export::{self, FORMATS};
use crate::figure::Check;
use crate::file::{self, Overwrite};
use crate::instruments::{Arguments, Instrument, ParamKind, Parameter, observe};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::lab::trials::{SweepCost, WORTH_SAYING};
use crate::text;

/// The flag of a parameter: its name, unless that is already a flag for the prompt, the model or the output.
pub fn flag(of: &dyn Instrument, parameter: &Parameter) -> String {
    spelled(of, parameter.name)
}

fn spelled(of: &dyn Instrument, name: &str) -> String {
    match name {
        // The target prompt of a Patchscope, as opposed to the run's own prompt.
        "prompt" => "target-prompt".to_string(),
        // One switch for all texts.
        CHAT => CHAT.to_string(),
        name if arguments::RESERVED.contains(&name) => format!("{}-{name}", of.name()),
        name => name.to_string(),
    }
}

/// The parameter that says whether texts are encoded by the chat template; its flag is the switch `--chat` in every instrument.
const CHAT: &str = "chat";

/// The identifier of a parameter's argument; `prompt` belongs to the run's own prompt.
fn id(name: &'static str) -> String {
    if arguments::RESERVED.contains(&name) {
        format!("of-{name}")
    } else {
        name.to_string()
    }
}

/// The subcommand of an instrument.
pub fn build(of: &'static dyn Instrument) -> Command {
    let mut command =
        arguments::edits(arguments::prompt(arguments::model(Command::new(of.name()))));
    if !of.always_needs_prompt() {
        // Whether a prompt is required depends on the parameters; see `run`.
        command = command.mut_group("start", |start| start.required(false));
    }
    command = command
        .about(of.about())
        .after_help(format!("Source: {}", of.source()));
    for parameter in of.parameters().iter().filter(|p| p.name != CHAT) {
        command = command.arg(argument(of, parameter));
    }
    let formats: Vec<&'static str> = FORMATS.iter().map(|f| f.name).collect();
    let format = Arg::new("format").long("format").value_parser(formats);
    let written = "Writes the figure to a file instead of standard output";
    let output = arguments::value("output", "FILE", written).short('o');
    command
        .arg(format.help("Output format of the figure [default: by the ending of FILE, else text]"))
        .arg(output.value_parser(value_parser!(PathBuf)))
        .arg(arguments::force())
}

fn argument(of: &'static dyn Instrument, parameter: &'static Parameter) -> Arg {
    let arg = Arg::new(id(parameter.name))
        .long(flag(of, parameter))
        .aliases(parameter.older.iter().map(|name| spelled(of, name)))
        .help_heading("Parameters")
        .help(parameter.about);
    let default = Some(parameter.default).filter(|default| !default.is_empty());
    let arg = arg.default_value(default);
    match parameter.kind {
        ParamKind::Count { lo, hi } => {
            arg.value_name("N")
                .value_parser(move |text: &str| match text.parse::<usize>() {
                    Ok(n) if (lo..=hi).contains(&n) => Ok(text.to_string()),
                    Ok(_) | Err(_) => Err(format!("expected a whole number from {lo} to {hi}")),
                })
        }
        ParamKind::Layer => arg.value_name("LAYER").allow_hyphen_values(true),
        ParamKind::Position => arg.value_name("POSITION").allow_hyphen_values(true),
        ParamKind::Choice(words) => {
            let word =
                |w: &&'static str| PossibleValue::new(*w).aliases(parameter.older_spellings(w));
            arg.value_parser(words.iter().map(word).collect::<Vec<_>>())
        }
        ParamKind::Word(_) | ParamKind::Text => arg.value_name("TEXT").allow_hyphen_values(true),
    }
}

/// The value of a parameter; clap has filled in the default.
fn value(matches: &ArgMatches, parameter: &Parameter) -> Option<String> {
    if parameter.name == CHAT {
        return Some(
            if arguments::chat(matches) {
                "yes"
            } else {
                "no"
            }
            .into(),
        );
    }
    matches.get_one::<String>(&id(parameter.name)).cloned()
}

/// Announces the cost of a long sweep: its passes, and the time estimated from one pass over the run itself.
fn say_cost(lab: &mut Lab, run: &Run, name: &str, cost: SweepCost) -> Result<()> {
    if run.tokens.is_empty() {
        output::note(&format!("{name}: {cost}"));
        return Ok(());
    }
    lab.record(run, &[])?;
    let time = Duration::from_secs_f32(cost.seconds(lab.pace.unwrap_or(f32::MAX)));
    if time >= WORTH_SAYING {
        let time = text::duration(time);
        output::note(&format!(
            "{name}: {cost}, at most about {time}; Ctrl-C keeps the results so far"
        ));
    }
    Ok(())
}

/// The arguments given by the flags.
pub fn given(of: &dyn Instrument, matches: &ArgMatches) -> Result<Arguments> {
    let named = |p: &Parameter| Some((p.name.to_string(), value(matches, p)?));
    let given = of.parameters().iter().filter_map(named);
    of.read(&Arguments::of(given.collect()))
}

/// Runs an instrument on a prompt and writes its figure.
pub fn run(of: &'static dyn Instrument, matches: &ArgMatches) -> Result<()> {
    let edits = arguments::parse_edits(matches)?;
    let given = given(of, matches)?;
    let path = arguments::output(matches)?;
    if let Some(path) = path.filter(|p| p.extension().is_some_and(|e| e == "safetensors")) {
        let expected = "a file name for the figure that ends in a format; directions are written by `lmscope direction` and `lmscope select --save`";
        return Err(Error::argument("-o", path.display(), expected));
    }
    let ending = path
        .and_then(|p| p.extension())
        .and_then(|e| e.to_str())
        .filter(|e| FORMATS.iter().any(|f| f.extension == *e));
    let named = matches.get_one::<String>("format").map(String::as_str);
    let unknown = path.filter(|p| named.is_none() && ending.is_none() && p.extension().is_some());
    if let Some(path) = unknown {
        let endings: Vec<&str> = FORMATS.iter().map(|f| f.extension).collect();
        let expected = format!(
            "a name that ends in {}; or any, with --format",
            endings.join(", ")
        );
        return Err(Error::argument("-o", path.display(), expected));
    }
    let format = export::format_named(named.or(ending).unwrap_or(FORMATS[0].name))?;
    // The view that makes a graph is called so; what has none is refused before anything is measured.
    if format.only_graphs && given.given.get("show").map(String::as_str) != Some("graph") {
        return Err(export::not_a_graph());
    }

    let mut lab = arguments::open(matches)?;
    let prompted = arguments::has_prompt(matches);
    let run = if prompted || of.needs_prompt(&given) {
        arguments::run(matches, &lab, edits)?
    } else if edits.is_empty() || of.edits_its_texts(&given) {
        Run {
            schedule: arguments::schedule(edits, &lab)?,
            seed: arguments::seed(matches),
            ..Run::default()
        }
    } else {
        return Err(Error::argument(
            "--edit",
            &edits[0],
            "a prompt that it can act on; without one, the edit has no effect here",
        ));
    };
    lab.unfinished.folder = log::state_folder().map(|folder| folder.join("unfinished"));
    lab.announce = Some(output::note);
    if let Some(cost) = of.cost(run.tokens.len(), &given, &lab.model.card) {
        say_cost(&mut lab, &run, of.name(), cost)?;
    }
    let figure = match arguments::showing_progress(&mut lab, of.name(), |lab| {
        observe(of, &run, &given, lab)
    }) {
        Err(Error::Cancelled) if lab.unfinished.stopped => return Err(stopped(&lab)),
        figure => figure?,
    };
    let written = (format.write)(&figure)?;
    match path {
        // What is not complete has no right to the name: the same command, which goes on, will want it.
        Some(path) if lab.unfinished.stopped && !file::is_pipe(path) => {
            let part = file::beside(path, "unfinished");
            file::write(&part, written.as_bytes(), Overwrite::Allowed)?;
            output::note(&format!("the results so far are in {}", part.display()));
        }
        Some(path) => {
            file::write(path, written.as_bytes(), lab.overwrite)?;
            let _absent = std::fs::remove_file(file::beside(path, "unfinished"));
        }
        None => output::text(&written)?,
    }
    // No receipts if the instrument reads only other texts, or if the figure is of unedited runs; nor if the user has stopped
    // the sweep and does not want to wait.
    let waiting = !lab.unfinished.stopped;
    if waiting && !figure.provenance.edits.is_empty() && !run.tokens.is_empty() {
        let receipts = lab.receipts(&run)?;
        output::receipts(&receipts);
    }
    if lab.unfinished.stopped {
        return Err(stopped(&lab));
    }
    if let Some(failure) = figure.check.and_then(Check::failure) {
        output::note(&format!("WARNING: {failure}."));
    }
    Ok(())
}

/// Says what becomes of the results of a sweep that was stopped.
fn stopped(lab: &Lab) -> Error {
    match &lab.unfinished.failure {
        None => output::note("stopped; the same command continues from there"),
        Some(why) => output::note(&format!(
            "stopped; the same command starts again, because the results could not be kept: {why}"
        )),
    }
    Error::Cancelled
}
