//! `lmscope models`: the models that can be opened here: the demo and the snapshots of the hub cache.
//!
//! Invariant: what is listed is what the screen's `:model` lists, of [`crate::model::known`]. To add a source of models, add it there.

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::output::PrintedForm;
use super::{Subcommand, arguments, output};
use crate::error::Result;
use crate::model::hub::cache_folder;
use crate::model::known::{KnownModel, known_models};
use crate::text;

pub const MODELS: Subcommand = Subcommand {
    name: "models",
    about: "Lists the demo and the models in the hub cache",
    arguments: build,
    run,
};

const COLUMNS: &[&str] = &[
    "id",
    "family",
    "parameters",
    "dtype",
    "size",
    "fits",
    "missing",
    "folder",
];

/// The flag `--format text|json|csv`, for every list.
pub fn format(command: Command) -> Command {
    let help =
        "A table to read; or for scripts JSON, or CSV: a line for each row, the rest in comments";
    command.arg(arguments::one_of("format", ["text", "json", "csv"], help))
}

/// The form that was asked for.
pub fn form(matches: &ArgMatches) -> PrintedForm {
    match arguments::text(matches, "format") {
        "json" => PrintedForm::Json,
        "csv" => PrintedForm::Csv,
        _ => PrintedForm::Text,
    }
}

fn build(command: Command) -> Command {
    format(command)
}

fn run(matches: &ArgMatches) -> Result<()> {
    let form = form(matches);
    let json = form.for_scripts();
    let rows: Vec<_> = known_models(&[]).iter().map(|m| row(m, json)).collect();
    output::listing(COLUMNS, &rows, form)?;
    if rows.len() < 2 {
        output::note(&format!(
            "no other model in {}. `lmscope OWNER/NAME` downloads one; a folder in Hugging Face layout works as it is.",
            cache_folder().display()
        ));
    }
    Ok(())
}

/// The row of a model.
fn row(known: &KnownModel, json: bool) -> Vec<Value> {
    let number = |n: Option<u64>, spell| n.map_or(Value::Null, |n| quantity(n, json, spell));
    vec![
        json!(known.argument),
        json!(known.family),
        number(known.parameters, text::count),
        json!(known.dtypes),
        match known.bytes {
            None if json => Value::Null,
            None => json!("embedded"),
            bytes => number(bytes, text::size),
        },
        match known.fits {
            None => Value::Null,
            Some(fits) if json => json!(fits),
            Some(fits) => json!(if fits { "yes" } else { "no" }),
        },
        match &known.missing {
            Some(part) if !json => json!(format!("incomplete: {part}")),
            part => json!(part),
        },
        json!(known.path.as_ref().map(|path| path.display().to_string())),
    ]
}

fn quantity(n: u64, raw: bool, spell: fn(u64) -> String) -> Value {
    if raw { json!(n) } else { json!(spell(n)) }
}
