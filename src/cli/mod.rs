//! The command line: the same functions as the screen, for scripts and pipes.
//!
//! Invariants: results go to standard output and everything else to standard error; a closed pipe is success; every instrument
//! has a subcommand automatically.
//! To add a subcommand, write `cli/x.rs` with a `pub const` [`Subcommand`] and add a word to [`SUBCOMMANDS`].

pub mod arguments;
pub mod bench;
pub mod bench_report;
pub mod completions;
pub mod dictionary;
pub mod direction;
pub mod doctor;
pub mod edit_value;
pub mod export_weights;
pub mod generate;
pub mod instrument;
pub mod interrupt;
pub mod lens_fit;
pub mod lists;
pub mod loading;
pub mod log;
pub mod models;
pub mod output;
pub mod screen;
pub mod sites;
pub mod stats;
pub mod trace;
pub mod vectors;
pub mod without_terminal;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::error::{Error, Result};
use crate::instruments::INSTRUMENTS;
use crate::text;

/// One row of [`SUBCOMMANDS`].
#[derive(Debug)]
pub struct Subcommand {
    pub name: &'static str,
    /// A one-sentence description.
    pub about: &'static str,
    /// Adds its arguments.
    pub arguments: fn(Command) -> Command,
    pub run: fn(&ArgMatches) -> Result<()>,
}

/// All subcommands except those of the instruments, which are made from their own list.
pub const SUBCOMMANDS: &[Subcommand] = &[
    generate::GENERATE,
    trace::TRACE,
    direction::DIRECTION,
    vectors::VECTORS,
    stats::STATS,
    dictionary::DICTIONARY,
    edit_value::EDIT_VALUE,
    export_weights::EXPORT_WEIGHTS,
    lens_fit::LENS_FIT,
    bench::BENCH,
    screen::TOUR,
    models::MODELS,
    lists::SITES,
    lists::THEMES,
    lists::KEYS,
    doctor::DOCTOR,
    completions::COMPLETIONS,
];

/// The whole command line.
pub fn command() -> Command {
    let mut command = Command::new("lmscope")
        .bin_name("lmscope")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .after_help("An EDIT is OP[:WHAT]@ADDRESS[:POSITIONS][*STRENGTH], for example zero:17,52@mlp_act.3 or\nadd:refusal@resid_pre.3*1.5; `lmscope sites` lists addresses.\nExit codes: 0 done, 1 failed, 2 usage, 128 + n ended by signal n (130 interrupted).")
        .args_conflicts_with_subcommands(true)
        .subcommand_precedence_over_arg(true)
        .disable_help_subcommand(true)
        .arg(arguments::value("log-level", "LEVEL", "Writes a log to the state folder: error, warn, info, debug, trace, or a filter").global(true).env("LMSCOPE_LOG").hide_env_values(true))
        .arg(Arg::new("model").value_name("MODEL").help("Opens the screen on `demo` (the default), a folder in Hugging Face layout, a .gguf file, or a hub id"))
        .args(arguments::loading());
    command = screen::arguments(command);
    for of in INSTRUMENTS {
        command = command.subcommand(instrument::build(*of));
    }
    for row in SUBCOMMANDS {
        command = command.subcommand((row.arguments)(Command::new(row.name).about(row.about)));
    }
    command
}

/// Runs the subcommand. Without one it opens the screen or, if there is no terminal, prints as plain text what the screen would
/// show.
pub fn run(matches: &ArgMatches) -> Result<()> {
    if let Some(level) = matches.get_one::<String>("log-level") {
        log::start(level)?;
    }
    let Some((name, of)) = matches.subcommand() else {
        return if output::stdout_is_terminal()
            || screen::is_shot(matches)
            || screen::is_resumed(matches)
        {
            crate::ui::run(screen::options(matches)?)
        } else {
            without_terminal::run(matches)
        };
    };
    match SUBCOMMANDS.iter().find(|row| row.name == name) {
        Some(row) => (row.run)(of),
        None => instrument::run(crate::instruments::instrument(name)?, of),
    }
}

/// Prints the error as a sentence and returns the exit code: 0, 1 failed, 2 usage, 128 + n ended by signal n (130 interrupted).
pub fn exit_code(outcome: &Result<()>) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    let code = match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        // The sender of the signal knows.
        Error::Signal(number) => return ExitCode::from(128 + *number as u8),
        Error::Cancelled | Error::DownloadStopped(_) => 130,
        Error::BadArgument { .. }
        | Error::BadEdit { .. }
        | Error::UnknownSite { .. }
        | Error::BadAddress { .. }
        | Error::EmptyPrompt => 2,
        Error::NotAModel { .. }
        | Error::NotThisKind { .. }
        | Error::Hub { .. }
        | Error::UnknownFamily { .. }
        | Error::Config { .. }
        | Error::TooLarge { .. }
        | Error::MissingTensor { .. }
        | Error::TensorShape { .. }
        | Error::BadFile { .. }
        | Error::Io { .. }
        | Error::Refused { .. }
        | Error::PromptTooLong { .. }
        | Error::Text { .. }
        | Error::Device { .. }
        | Error::Identities { .. }
        | Error::NotFinite { .. }
        | Error::NoDifference { .. }
        | Error::Engine(_)
        | Error::Tensor(_) => 1,
    };
    output::note(&error.to_string());
    ExitCode::from(code)
}

/// Prints help, version, or what is wrong with the arguments, and returns the exit code.
///
/// Arguments are quoted in the message, so each of them is made safe to show first.
pub fn explain(mut usage: clap::Error) -> ExitCode {
    use clap::builder::StyledStr;
    use clap::error::ContextValue::{
        String as One, Strings as Many, StyledStr as Tip, StyledStrs as Tips,
    };
    let tip = |tip: &StyledStr| StyledStr::from(text::line(&tip.to_string()));
    if usage.use_stderr() {
        let quoted: Vec<_> = usage.context().map(|(k, v)| (k, v.clone())).collect();
        for (kind, value) in quoted {
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "clap has kinds that hold no text"
            )]
            let safe = match value {
                One(word) => One(text::line(&word)),
                Many(words) => Many(words.iter().map(|w| text::line(w)).collect()),
                // Contains only our own words, on several lines.
                Tip(usage) if kind == clap::error::ContextKind::Usage => Tip(usage),
                Tip(one) => Tip(tip(&one)),
                Tips(all) => Tips(all.iter().map(tip).collect()),
                other => other,
            };
            usage.insert(kind, safe);
        }
        crate::out::error_lines(&usage.render().to_string());
    } else {
        // Only our own words; if the output is closed, that is success as well.
        let written = usage.print().and_then(|()| std::io::stdout().flush());
        if let Err(source) = written {
            return exit_code(&Err(Error::io("(standard output)", source)));
        }
    }
    ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
}

/// A flag without a value.
pub(crate) fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// All earlier spellings of a parameter or value that are still read, with the current ones.
    const OLDER: [(&str, [&str; 2], [&str; 2]); 20] = [
        ("heads", ["--null", "random"], ["--control", "random"]),
        ("heads", ["--rank", "asked"], ["--rank", "zero_shot"]),
        ("attention", ["--show", "writes"], ["--show", "outputs"]),
        ("attention", ["--value", "write"], ["--value", "output"]),
        ("attention", ["--silence", "3"], ["--ablate", "3"]),
        ("sweep", ["--null", "beside"], ["--control", "cells"]),
        ("sweep", ["--null", "columns"], ["--control", "columns"]),
        ("sweep", ["--null", "random"], ["--control", "random"]),
        ("sweep", ["--null", "no"], ["--control", "no"]),
        (
            "patchscope",
            ["--null", "beside"],
            ["--control", "unrelated"],
        ),
        ("patchscope", ["--slot", "Z"], ["--placeholder", "Z"]),
        (
            "patchscope",
            ["--slots", "each"],
            ["--placeholders", "each"],
        ),
        ("patching", ["--null", "top"], ["--control", "top"]),
        ("patching", ["--null", "random"], ["--control", "random"]),
        ("backpatch", ["--null", "beside"], ["--control", "all"]),
        ("backpatch", ["--control", "both"], ["--control", "all"]),
        ("residual", ["--centred", "yes"], ["--on", "centred"]),
        ("residual", ["--centred", "no"], ["--on", "logit"]),
        (
            "backpatch",
            ["--null", "unrelated"],
            ["--control", "unrelated"],
        ),
        ("backpatch", ["--slot", "Z"], ["--placeholder", "Z"]),
    ];

    #[test]
    fn every_older_spelling_asks_for_the_same_figure_and_is_named_nowhere() {
        let given = |name: &str, flags: [&str; 2]| {
            let of = crate::instruments::instrument(name).unwrap();
            let line = ["lmscope", name, "demo", "-p", "x"].into_iter();
            let matches = command().try_get_matches_from(line.chain(flags)).unwrap();
            let (_, own) = matches.subcommand().unwrap();
            // The arguments from the flags, and the same arguments by name, as from a form or a session.
            let name = flags[0].trim_start_matches("--");
            let alone = crate::instruments::Arguments::default().with(name, flags[1]);
            (
                instrument::given(of, own).unwrap(),
                of.read(&alone).unwrap(),
            )
        };
        for (name, older, today) in OLDER {
            assert_eq!(given(name, older), given(name, today), "{name} {older:?}");
        }
        for of in INSTRUMENTS {
            let mut own = command().find_subcommand(of.name()).unwrap().clone();
            let help = own.render_long_help().to_string();
            for row in of.parameters() {
                let of_it = || OLDER.iter().filter(|(name, ..)| *name == of.name());
                for older in row.older {
                    let flag = format!("--{older}");
                    assert!(of_it().any(|row| row.1[0] == flag), "{} {flag}", of.name());
                    assert!(!help.contains(&format!("{flag} <")), "{flag}");
                }
                for (older, today) in row.older_values {
                    let listed =
                        |r: &&(_, [&str; 2], [&str; 2])| r.1[1] == *older && r.2[1] == *today;
                    assert!(of_it().any(|row| listed(&row)), "{} {older}", of.name());
                    // Other flags may have a value of that name.
                    let flag = own.get_arguments().find(|a| a.get_long() == Some(row.name));
                    let values = flag.unwrap().get_possible_values();
                    assert!(values.iter().all(|v| v.get_name() != *older), "{older}");
                }
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_instrument_has_a_subcommand_and_a_flag_a_parameter() {
        let command = command();
        for of in INSTRUMENTS {
            let sub = command
                .get_subcommands()
                .find(|c| c.get_name() == of.name());
            let flags: Vec<&str> = sub
                .into_iter()
                .flat_map(Command::get_arguments)
                .filter_map(Arg::get_long)
                .collect();
            for parameter in of.parameters() {
                assert!(
                    flags.contains(&instrument::flag(*of, parameter).as_str()),
                    "{} {}",
                    of.name(),
                    parameter.name
                );
            }
        }
    }
}
