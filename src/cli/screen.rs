//! The flags of the screen: the initial settings of `lmscope [MODEL]`.
//!
//! Invariant: every flag has the same meaning as in `lmscope generate`. To add one, add a field to [`ScreenOptions`] and its
//! flag here.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command, value_parser};

use super::{Subcommand, arguments, generate};
use crate::app::AppSettings;
use crate::error::{Error, Result};
use crate::ui::theme::THEMES;
use crate::ui::{Resume, ScreenOptions, Shot};

/// The arguments that begin a session, and have no place where one goes on.
const BEGINS: [&str; 11] = [
    "model",
    "prompt",
    "chat",
    "edit",
    "preset",
    "dictionary",
    "labels",
    "temperature",
    "top-p",
    "top-k",
    "seed",
];

/// The flags that are settings as well.
const GIVEN: [&str; 7] = [
    "theme",
    "chat",
    "count",
    "temperature",
    "top-p",
    "top-k",
    "seed",
];

/// The settings that the steps of the tour rely on.
const SAMPLING: [&str; 10] = [
    "chat",
    "count",
    "temperature",
    "top-p",
    "top-k",
    "seed",
    "figure",
    "cells",
    "flip",
    "tint",
];

/// The row of `tour`.
pub const TOUR: Subcommand = Subcommand {
    name: "tour",
    about: "Opens the screen with a tour: ten steps on the embedded model, an idea each, done by keyboard",
    arguments: appearance,
    run: |matches| {
        let start = AppSettings {
            tour: true,
            ..AppSettings::default()
        };
        crate::ui::run(ScreenOptions {
            // Its steps are about these.
            given: SAMPLING.to_vec(),
            ..with_appearance(start, matches)
        })
    },
};

/// Adds the flags of how the screen looks and what is kept.
fn appearance(command: Command) -> Command {
    let themes = THEMES.iter().map(|t| t.name).collect::<Vec<_>>().join(", ");
    let folder = |name: &'static str, help: &'static str| {
        arguments::value(name, "FOLDER", help).value_parser(value_parser!(PathBuf))
    };
    command
        .arg(arguments::value("theme", "THEME", format!("A theme: {themes}, or one of your own")))
        .arg(arguments::value("color", "DEPTH", "Number of colours, if the terminal does not report it correctly: auto, none, 16, 256 or truecolor"))
        .arg(folder("config", "The folder with config.toml, keys.toml and themes/ [default: the user's]"))
        .arg(folder("state", "The folder for session files [default: the user's]"))
        .arg(super::switch("no-session", "Keeps no session file; `save = false` in config.toml does so permanently"))
}

/// Adds the flags.
pub fn arguments(command: Command) -> Command {
    let hidden = |name: &'static str, value: &'static str, help: &'static str| {
        arguments::value(name, value, help).hide(true)
    };
    let command = generate::sampling_arguments(command)
        .arg(arguments::value("prompt", "TEXT", "A prompt to run at the start; @FILE reads it from a file").short('p').allow_hyphen_values(true))
        .arg(super::switch("chat", "Wraps the prompt as one user turn of the chat template").requires("prompt"))
        .arg(arguments::value("edit", "EDIT", "An edit (intervention) that applies from the start; may be repeated").action(ArgAction::Append))
        .arg(arguments::value("dictionary", "PATH", "The folder, file, hub id (OWNER/NAME/FOLDER) or name (config.toml) of a dictionary (sparse autoencoder or transcoder) whose features are shown, with @ADDRESS after it where its file does not say the place; may be repeated").action(ArgAction::Append))
        .arg(arguments::value("labels", "FILE", "A JSON file with labels of the features of --dictionary (Neuronpedia's export)"))
        .arg(arguments::preset())
        .arg(arguments::value("seed", "N", "Random seed").value_parser(value_parser!(u64)).default_value("1"));
    appearance(command)
        .arg(
            arguments::value(
                "resume",
                "FILE",
                "Goes on with a session: that of a file or, without one, the newest that was kept",
            )
            .num_args(0..=1)
            .value_parser(value_parser!(PathBuf))
            .conflicts_with_all(BEGINS),
        )
        .arg(
            hidden(
                "shot",
                "FILE",
                "Writes a picture of a scripted session as SVG, then exits",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(hidden("shot-size", "WxH", "Columns and rows of the picture").default_value("120x40"))
        .arg(
            hidden(
                "shot-keys",
                "KEYS",
                "Keys to press after the first text, spelled as in keys.toml, separated by spaces",
            )
            .default_value("")
            .allow_hyphen_values(true),
        )
        .arg(
            hidden(
                "shot-seconds",
                "SECONDS",
                "Makes an animation: the screen after every key, each for so many seconds",
            )
            .default_value("0"),
        )
}

/// Whether a picture was requested, which needs no terminal.
pub fn is_shot(matches: &ArgMatches) -> bool {
    matches.contains_id("shot")
}

/// The settings given by the flags.
pub fn options(matches: &ArgMatches) -> Result<ScreenOptions> {
    let word = |name: &str| matches.get_one::<String>(name).cloned();
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    arguments::threads(matches)?;
    let shot = match path("shot") {
        Some(path) => Some(Shot {
            path,
            size: size(arguments::text(matches, "shot-size"))?,
            keys: arguments::text(matches, "shot-keys").to_string(),
            seconds: seconds(arguments::text(matches, "shot-seconds"))?,
        }),
        None => None,
    };
    let start = AppSettings {
        model: arguments::model_name(matches).to_string(),
        options: arguments::options(matches),
        prompt: word("prompt")
            .map(|text| arguments::given_text("-p", &text))
            .transpose()?,
        chat: matches.get_flag("chat"),
        sampling: generate::sampling(matches)?,
        count: generate::count(matches),
        presets: arguments::presets(matches)?,
        edits: arguments::written_edits(matches)?,
        dictionaries: matches
            .get_many::<String>("dictionary")
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
        labels: word("labels"),
        ..AppSettings::default()
    };
    let given = |name: &&&str| matches.value_source(name) == Some(ValueSource::CommandLine);
    let mut given: Vec<&str> = GIVEN.iter().filter(given).copied().collect();
    if matches.contains_id("prompt") {
        // `-p` without `--chat` is raw text.
        given.push("chat");
    }
    Ok(ScreenOptions {
        given,
        resume: resume(matches),
        shot,
        ..with_appearance(start, matches)
    })
}

/// What the screen starts with, and the flags of how it looks.
fn with_appearance(start: AppSettings, matches: &ArgMatches) -> ScreenOptions {
    let word = |name: &str| matches.get_one::<String>(name).cloned();
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    ScreenOptions {
        start,
        theme: word("theme"),
        color: word("color"),
        given: Vec::new(),
        config: path("config"),
        state: path("state"),
        resume: None,
        keep_session: !matches.get_flag("no-session"),
        shot: None,
    }
}

/// The session to go on with.
fn resume(matches: &ArgMatches) -> Option<Resume> {
    matches.contains_id("resume").then(|| {
        let file = matches.get_one::<PathBuf>("resume");
        file.cloned().map_or(Resume::Newest, Resume::File)
    })
}

/// Whether a session is to go on, which only the screen does.
pub fn is_resumed(matches: &ArgMatches) -> bool {
    resume(matches).is_some()
}

/// Seconds that a screen is shown.
fn seconds(given: &str) -> Result<f32> {
    let read = given.parse().ok();
    let read = read.filter(|seconds: &f32| (0.0..=60.0).contains(seconds));
    read.ok_or_else(|| Error::argument("--shot-seconds", given, "seconds, from 0 to 60"))
}

fn size(given: &str) -> Result<(u16, u16)> {
    let parsed = given
        .split_once('x')
        .and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    parsed.ok_or_else(|| Error::argument("--shot-size", given, "columns x rows, such as 120x40"))
}
