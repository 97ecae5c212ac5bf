//! `lmscope sites`, `themes`, `keys`: tables made from the registries.
//!
//! Invariant: every entry is a row of a registry. To add an entry, add it to its registry.

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::output::PrintedForm;
use super::{Subcommand, arguments, models, output};
use crate::app::commands::commands;
use crate::error::Result;
use crate::ui::theme::{Theme, ThemeVariant};

/// The row of `sites`.
pub const SITES: Subcommand = Subcommand {
    name: "sites",
    about: "Lists the sites: the named places in the forward pass",
    arguments: build_sites,
    run: super::sites::run,
};

/// The row of `themes`.
pub const THEMES: Subcommand = Subcommand {
    name: "themes",
    about: "Lists the themes of the screen",
    arguments: models::format,
    run: themes,
};

/// The row of `keys`.
pub const KEYS: Subcommand = Subcommand {
    name: "keys",
    about: "Lists the commands of the screen with their keys",
    arguments: models::format,
    run: keys,
};

fn build_sites(command: Command) -> Command {
    let model = arguments::value(
        "model",
        "MODEL",
        "Shows which sites this model has, and what TransformerLens hook names mean on it",
    );
    models::format(command)
        .arg(model)
        .args(arguments::loading())
}

fn themes(matches: &ArgMatches) -> Result<()> {
    let made_for = |theme: &Theme| match theme.variant {
        ThemeVariant::Any => "any background",
        ThemeVariant::Dark => "dark",
        ThemeVariant::Light => "light",
    };
    let rows: Vec<Vec<Value>> = Theme::all()
        .iter()
        .map(|t| vec![json!(t.name), json!(t.title), json!(made_for(t))])
        .collect();
    output::listing(
        &["theme", "title", "made_for"],
        &rows,
        models::form(matches),
    )
}

fn keys(matches: &ArgMatches) -> Result<()> {
    let form = models::form(matches);
    let spell = |keys: &[&str]| {
        if form == PrintedForm::Json {
            json!(keys)
        } else {
            json!(keys.join(" "))
        }
    };
    let rows: Vec<Vec<Value>> = commands()
        .map(|c| {
            vec![
                spell(c.keys),
                json!(c.name),
                json!(c.arguments),
                json!(c.context.name()),
                json!(c.about),
            ]
        })
        .collect();
    output::listing(
        &["keys", "command", "arguments", "where", "about"],
        &rows,
        form,
    )
}
