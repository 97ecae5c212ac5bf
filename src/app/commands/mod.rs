//! Commands: everything a user can do, as rows. Help, palette, footer hints, `keys.toml` and `lmscope keys` are
//! derived from them.
//!
//! Invariant: names are unique, every row says what it does, and a command that cannot run says why.
//! To add a command, add a row to one of the files here.
#![allow(clippy::unnecessary_wraps)] // a row's functions share one type, also those that cannot fail

/// The rows of a topic: name, keys, function, description, and optional fields.
macro_rules! rows {
    ($($name:literal [$($key:literal)*] $run:expr, $about:literal $(, $part:ident $value:expr)*;)*) => {
        pub(super) const ROWS: &[super::Command] = &[
            $(super::Command::new($name, &[$($key),*], $run, $about)$(.$part($value))*),*
        ];
    };
}

mod directions;
pub(in crate::app) mod edits;
mod experiment;
mod figure;
mod find;
mod global;
mod text;
mod view;

use std::fmt;

use super::{App, Effect};
use crate::dictionaries::embedded::embedded;

pub(in crate::app) use edits::{default_place, offered_edit};
pub(in crate::app) use figure::{DICTIONARY, LABELS, features};

/// The reason why something cannot be done, with what to do instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Unavailable {
    fn from(text: &str) -> Self {
        Self(text.to_string())
    }
}

impl From<String> for Unavailable {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<crate::error::Error> for Unavailable {
    fn from(error: crate::error::Error) -> Self {
        Self(error.to_string())
    }
}

/// The effects of a command, or why it cannot run.
pub type CommandResult = Result<Vec<Effect>, Unavailable>;

/// The part of the screen in which a command's keys apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// Everywhere, even while the user is writing text.
    Always,
    /// In every pane.
    Anywhere,
    Transcript,
    Figure,
    /// In the list of edits.
    Edits,
    /// In the detail of a cell.
    Cell,
}

impl Context {
    /// The name in lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Anywhere => "anywhere",
            Self::Transcript => "transcript",
            Self::Figure => "figure",
            Self::Edits => "edits",
            Self::Cell => "cell",
        }
    }
}

/// A command: a row of [`COMMANDS`].
pub struct Command {
    /// The name in the palette and in `keys.toml`.
    pub name: &'static str,
    /// A one-sentence description.
    pub about: &'static str,
    /// Its default keys.
    pub keys: &'static [&'static str],
    /// Where these keys apply.
    pub context: Context,
    /// The argument: none, `NAME`, or `[NAME]` if it is optional.
    pub arguments: &'static str,
    /// One or two words for the footer; empty for none.
    pub hint: &'static str,
    /// The current value of the setting that the command changes; shown where its argument is asked for.
    pub now: Option<fn(&App) -> String>,
    /// What an argument that begins so can be as a whole; files are known without.
    pub completes: Option<fn(&App, &str) -> Vec<String>>,
    /// If digits are among its keys: what a digit does.
    pub numbered: Option<fn(&mut App, usize) -> CommandResult>,
    /// Whether it can run now.
    pub enabled: fn(&App) -> Result<(), Unavailable>,
    pub run: fn(&mut App, &str) -> CommandResult,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Commands are equal if their names are, because names are unique.
impl PartialEq for Command {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Command {}

impl Command {
    /// A command that applies in every pane, can always run and takes no argument.
    const fn new(
        name: &'static str,
        keys: &'static [&'static str],
        run: fn(&mut App, &str) -> CommandResult,
        about: &'static str,
    ) -> Self {
        Self {
            name,
            about,
            keys,
            context: Context::Anywhere,
            arguments: "",
            hint: "",
            now: None,
            completes: None,
            numbered: None,
            enabled: always,
            run,
        }
    }

    const fn within(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    const fn takes(mut self, arguments: &'static str) -> Self {
        self.arguments = arguments;
        self
    }

    const fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    const fn now(mut self, now: fn(&App) -> String) -> Self {
        self.now = Some(now);
        self
    }

    const fn completes(mut self, completes: fn(&App, &str) -> Vec<String>) -> Self {
        self.completes = Some(completes);
        self
    }

    const fn numbered(mut self, run: fn(&mut App, usize) -> CommandResult) -> Self {
        self.numbered = Some(run);
        self
    }

    const fn when(mut self, enabled: fn(&App) -> Result<(), Unavailable>) -> Self {
        self.enabled = enabled;
        self
    }

    /// Whether the command takes the name of a file or folder, as the last of what it takes.
    pub fn takes_file(&self) -> bool {
        ["FILE", "PATH"]
            .iter()
            .any(|word| self.arguments.contains(word))
    }

    /// Whether Tab completes its argument.
    pub fn can_complete(&self) -> bool {
        self.completes.is_some() || self.takes_file()
    }

    /// Whether the command requires an argument.
    pub fn wants(&self) -> bool {
        !self.arguments.is_empty() && !self.arguments.starts_with('[')
    }
}

/// All commands, one slice for each topic; footer hints come in this order.
pub const COMMANDS: &[&[Command]] = &[
    text::ROWS,
    edits::ROWS,
    directions::ROWS,
    experiment::ROWS,
    figure::ROWS,
    find::ROWS,
    view::ROWS,
    global::ROWS,
];

pub fn commands() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().flat_map(|rows| rows.iter())
}

/// Finds a command by name.
pub fn command(name: &str) -> Option<&'static Command> {
    commands().find(|c| c.name == name)
}

/// An error with a reason if a condition does not hold.
fn needs(holds: bool, why: impl Into<Unavailable>) -> Result<(), Unavailable> {
    if holds { Ok(()) } else { Err(why.into()) }
}

fn always(_: &App) -> Result<(), Unavailable> {
    Ok(())
}

fn has_model(app: &App) -> Result<(), Unavailable> {
    needs(app.model.is_some(), "no model is loaded yet")
}

fn has_text(app: &App) -> Result<(), Unavailable> {
    needs(
        !app.transcript.tokens.is_empty(),
        "there is no text yet; choose a ready prompt or press i",
    )
}

fn has_figure(app: &App) -> Result<(), Unavailable> {
    needs(
        app.figure(app.layout.figure).is_some(),
        format!("there is no {} figure yet", app.layout.figure),
    )
}

/// The dictionaries that come with the program for this model.
fn dictionaries(app: &App, _: &str) -> Vec<String> {
    let card = app.model.as_ref().map(|model| &model.card);
    let own = card.into_iter().flat_map(embedded);
    own.map(|of| of.name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_unique_and_say_what_they_do() {
        let mut seen = std::collections::BTreeSet::new();
        for row in commands() {
            assert!(seen.insert(row.name), "{} twice", row.name);
            assert!(
                row.about.len() > 10 && !row.about.ends_with('.'),
                "{}: {}",
                row.name,
                row.about
            );
        }
        assert!(seen.len() > 40);
    }
}
