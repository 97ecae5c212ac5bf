//! `lmscope vectors`: lists the contents of direction files, and converts one format to another.
//!
//! Invariant: no model is loaded and nothing is guessed silently: what a file leaves open or in doubt is reported on standard
//! error. To add a format, see `edit/direction`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::{Subcommand, arguments, models, output};
use crate::edit::direction::{Direction, FORMATS, format_named, format_of, norm};
use crate::error::{Error, Result};

pub const VECTORS: Subcommand = Subcommand {
    name: "vectors",
    about: "Shows what direction files hold, and converts between their formats",
    arguments: build,
    run,
};

const COLUMNS: &[&str] = &[
    "file", "format", "at", "width", "length", "made by", "model", "cautions", "notes",
];

fn build(command: Command) -> Command {
    let formats: Vec<String> = FORMATS
        .iter()
        .map(|f| format!("{} (.{}): {}.", f.name, f.extensions.join(", ."), f.about))
        .collect();
    let files = Arg::new("files")
        .value_name("FILE")
        .required(true)
        .action(ArgAction::Append)
        .help("Direction files; FILE#-1 moves its vectors one layer earlier, here and in edits");
    let at = arguments::value(
        "at",
        "PLACE",
        "The address of its vector, such as resid_post.10; with several vectors their site, such as attn_out",
    );
    let output = arguments::value(
        "output",
        "FILE",
        "Converts the one given FILE to this file, in the format of its ending",
    )
    .short('o')
    .value_parser(value_parser!(PathBuf));
    models::format(command)
        .arg(files)
        .arg(at)
        .arg(output)
        .arg(arguments::force())
        .after_help(formats.join("\n"))
}

fn run(matches: &ArgMatches) -> Result<()> {
    let files: Vec<&String> = matches.get_many("files").into_iter().flatten().collect();
    if matches.contains_id("output") && files.len() != 1 {
        let given = format!("{} files", files.len());
        return Err(Error::argument("-o", given, "one file to convert"));
    }
    let target = arguments::output(matches)?;
    let form = models::form(matches);
    let raw = form.for_scripts();
    let mut rows = Vec::new();
    for name in files {
        let found = Direction::open(name)?;
        let mut direction = found.ok_or_else(|| {
            Error::argument("FILE", name.as_str(), "an existing file of directions")
        })?;
        let place = arguments::text(matches, "at");
        if !place.is_empty() {
            direction = direction.moved_to(place)?;
        }
        if let Some(path) = target {
            let lost = direction.save_as(path, arguments::overwrite(matches))?;
            let file = path.display();
            let format = format_named(path).map_or("safetensors", |f| f.name);
            output::note(&format!("{file}: {}, as {format}.", direction.span()));
            if !lost.is_empty() {
                output::note(&format!("{file}: {lost}."));
            }
        }
        let origin = &direction.origin;
        for said in origin.cautions.iter().chain(&origin.notes).filter(|_| !raw) {
            output::note(&format!("{name}: {said}."));
        }
        rows.push(row(name, &direction, raw));
    }
    // In the text format the notes are on standard error, above.
    let columns = if raw { COLUMNS } else { &COLUMNS[..7] };
    output::listing(columns, &rows, form)
}

fn row(name: &str, direction: &Direction, raw: bool) -> Vec<Value> {
    let path = name.rsplit_once('#').map_or(name, |(path, _)| path);
    let format = [name, path].iter().find_map(|p| format_of(p.as_ref()).ok());
    let lengths: Vec<f32> = direction.rows.iter().map(|(_, v)| norm(v)).collect();
    let origin = &direction.origin;
    let model = match (origin.model.as_str(), origin.family.as_str()) {
        ("", family) => family.to_string(),
        (model, _) => model.to_string(),
    };
    let least = lengths.iter().copied().fold(f32::INFINITY, f32::min);
    let most = lengths.iter().copied().fold(0.0, f32::max);
    let (at, length) = if raw {
        let places = direction.rows.iter().map(|(a, _)| a.to_string());
        let places: Vec<String> = places.filter(|_| !origin.anywhere).collect();
        (json!(places), json!(lengths))
    } else {
        let both = (format!("{least:.3}"), format!("{most:.3}"));
        let length = if both.0 == both.1 {
            both.0
        } else {
            format!("{} to {}", both.0, both.1)
        };
        (json!(direction.span()), json!(length))
    };
    vec![
        json!(name),
        json!(format.map_or("", |f| f.name)),
        at,
        json!(direction.rows.first().map_or(0, |(_, v)| v.len())),
        length,
        json!(origin.method),
        json!(model),
        json!(origin.cautions),
        json!(origin.notes),
    ]
}
