//! `lmscope direction`: makes a direction from two files of prompts, from demonstrations of a task, or from other directions.
//!
//! Invariant: the file records the model, the addresses, the method and the number of prompts, and is refused for other models.
//! To add a method on two lists of prompts, add it to `vectors/contrast.rs`; on demonstrations, to `vectors/task_vector.rs`.

mod demonstrations;
mod prompts;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgMatches, Command, value_parser};
use serde_json::json;

use super::{Subcommand, arguments, models, output};
use crate::edit::direction::{Direction, norm};
use crate::error::{Error, Result};
use crate::export;
use crate::file;
use crate::instruments::logit_lens::lens_file::LensFile;
use crate::instruments::logit_lens::token_direction::token_direction;
use crate::lab::target::LogitTarget;
use crate::model::network::site::Address;
use crate::vectors::combine::combine;
use crate::vectors::contrast::Method;
use crate::vectors::quality::DirectionQuality;
use crate::vectors::task_vector::InContext;

pub const DIRECTION: Subcommand = Subcommand {
    name: "direction",
    about: "Makes a direction: from two lists of prompts (difference of means, PCA, in-context vector, CAA), from demonstrations of a task (task vector, function vector, layer average), or from other directions",
    arguments: build,
    run,
};

/// The flags that replace the two lists.
const OTHERWISE: [&str; 3] = ["demos", "combine", "maps"];

fn build(command: Command) -> Command {
    let file = |name: &'static str, help: &'static str| {
        arguments::value(name, "FILE", help).value_parser(value_parser!(PathBuf))
    };
    let methods = Method::names().into_iter().chain(InContext::names());
    let command = models::format(arguments::model(command))
        .arg(file("plus", "Prompts that show the behaviour: a text a line, or a .tsv, .json or .jsonl list, also of conversations (messages)").required_unless_present_any(OTHERWISE))
        .arg(file("minus", "Prompts that do not show it, likewise").required_unless_present_any(OTHERWISE))
        .arg(arguments::value("layer", "LAYERS", "Layer to measure at: a number, A-B, or all; with demonstrations the layer of the highest zero-shot accuracy is the default").required_unless_present_any(OTHERWISE))
        .arg(arguments::value("method", "METHOD", "mean (default for lists): difference of means; pca, pca-diff: like repeng's pca_center and pca_diff; icv: in-context vector, for the edit `icv`; caa: difference of means at the answer letters that end the texts. From --demos: task-vector, function-vector, layer-average").value_parser(PossibleValuesParser::new(methods).try_map(|name| name.parse::<DirectionMethod>())))
        .arg(arguments::value("site", "SITE", "Site to measure at; default resid_pre, with icv and caa resid_post"))
        .arg(arguments::value("positions", "POSITIONS", "Positions of each prompt to average over, as in edits: last, -2 (from the end), all-but-bos, token:\"text\"; or response: all tokens of the answer, for persona vectors, of messages whose last turn is the assistant's, or of a prompt with an answer").allow_hyphen_values(true).default_value("last"))
        .arg(super::switch("chat", "Wraps every prompt as one user turn of the chat template"));
    demonstrations::arguments(arguments::encoding_flags(command))
        .arg(arguments::value("combine", "SUM", "Adds and subtracts directions of this model, for example 'a.safetensors + 2*b.safetensors - mood', with spaces around the signs").conflicts_with_all(["plus", "minus", "method"]))
        .arg(file("maps", "A Jacobian or tuned lens: the direction along which it reads a token, after every block").requires("token").conflicts_with_all(["plus", "minus", "method", "combine", "demos"]))
        .arg(arguments::value("token", "TOKEN", "With --maps: the token, as a text or #ID; \"A\" - \"B\" for a difference").requires("maps"))
        .arg(arguments::value("strength", "C", "A strength that works, saved in the file as the screen's starting strength").value_parser(value_parser!(f32)).allow_negative_numbers(true).default_value("1"))
        .arg(arguments::value("name", "NAME", "Names the file if -o does not: NAME.safetensors"))
        .arg(arguments::value("output", "FILE", "The output file: .safetensors, or .gguf, .pt, .f32 (see `lmscope vectors --help`)").short('o').required_unless_present_any(["name", "evaluate"]).value_parser(value_parser!(PathBuf)))
        .arg(arguments::force())
}

/// How a direction is made: from two lists of prompts, or from demonstrations.
#[derive(Clone, Copy)]
enum DirectionMethod {
    Lists(Method),
    Demos(InContext),
}

impl FromStr for DirectionMethod {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let lists = name.parse().map(Self::Lists);
        lists.or_else(|_| name.parse().map(Self::Demos))
    }
}

fn run(matches: &ArgMatches) -> Result<()> {
    if let Some(path) = target(matches) {
        file::check(&path, arguments::overwrite(matches))?;
    }
    if let Some(lens) = matches.get_one::<PathBuf>("maps") {
        return from_lens(matches, lens);
    }
    let combined = matches.get_one::<String>("combine");
    let evaluated = matches.get_one::<String>("evaluate");
    match (combined, evaluated) {
        (Some(text), _) => {
            crate::vectors::combine::parse(text)?;
            let mut lab = arguments::open(matches)?;
            let direction = combine(&lab, text)?;
            let file = write(matches, direction.clone())?;
            output::note(&format!(
                "{file}: {text}, at {}, norm {:.3}.",
                direction.places(),
                direction.norm()
            ));
            if !matches.contains_id("demos") {
                return print_json(matches, &file, &direction, &[]);
            }
            if matches.contains_id("demos") {
                demonstrations::evaluate(matches, &mut lab, text, &direction)?;
            }
            Ok(())
        }
        (None, Some(name)) => {
            let mut lab = arguments::open(matches)?;
            let direction = lab.direction(name)?;
            demonstrations::evaluate(matches, &mut lab, name, &direction)
        }
        (None, None) if matches.contains_id("demos") => demonstrations::run(matches),
        (None, None) => prompts::run(matches),
    }
}

/// A token's direction through a lens.
fn from_lens(matches: &ArgMatches, lens: &Path) -> Result<()> {
    let lab = arguments::open(matches)?;
    let target = LogitTarget::parse("--token", arguments::text(matches, "token"), &lab.model)?;
    let lens = LensFile::open(&lens.display().to_string(), &lab.model)?;
    let direction = token_direction(&lab, &lens, target)?;
    let file = write(matches, direction.clone())?;
    output::note(&format!(
        "{file}: {}, at {}. Use it as --edit 'add_unit_norm:{file}@resid_post.L*0.1', project_out, or swap.",
        direction.origin.method,
        direction.places()
    ));
    print_json(matches, &file, &direction, &[])
}

/// The error for a method that does not fit the other flags; lists those that do.
fn other_method(matches: &ArgMatches, fitting: &[&str], next: &str) -> Error {
    let given = matches.get_raw("method").into_iter().flatten().next();
    let given = given.map_or_else(String::new, |g| g.to_string_lossy().into_owned());
    let expected = format!("one of {}, {next}", fitting.join(", "));
    Error::argument("--method", given, expected)
}

/// The file to write: that of -o, or one with the given name.
fn target(matches: &ArgMatches) -> Option<PathBuf> {
    let named = |name: &String| PathBuf::from(format!("{name}.safetensors"));
    let given = matches.get_one::<PathBuf>("output").cloned();
    given.or_else(|| matches.get_one::<String>("name").map(named))
}

/// Writes a direction to the file that the user chose, and returns a sentence that names the file.
fn write(matches: &ArgMatches, mut direction: Direction) -> Result<String> {
    let path = target(matches).unwrap_or_default();
    direction.origin.strength = matches.get_one::<f32>("strength").copied().unwrap_or(1.0);
    let lost = direction.save_as(&path, arguments::overwrite(matches))?;
    let file = path.display().to_string();
    if !lost.is_empty() {
        output::note(&format!("{file}: {lost}."));
    }
    Ok(file)
}

/// Prints a direction for scripts, if they ask for it: where it was measured and how long it is, and at each layer how well it tells
/// the lists apart that it was made from, where that was measured.
fn print_json(
    matches: &ArgMatches,
    file: &str,
    direction: &Direction,
    quality: &[(usize, DirectionQuality)],
) -> Result<()> {
    let form = models::form(matches);
    if !form.for_scripts() {
        return Ok(());
    }
    let origin = &direction.origin;
    let row = |(at, vector): &(Address, Vec<f32>)| {
        let mut row = json!({
            "address": at.to_string(), "site": at.site.spec().name, "layer": at.layer, "width": vector.len(), "norm": norm(vector),
        });
        let own = quality
            .iter()
            .find(|(layer, _)| *layer == usize::from(at.layer))
            .map(|(_, own)| own);
        let draw = |draw: &[f64; 3]| json!({"auroc": draw[0], "split_half_cosine": draw[1], "norm": draw[2]});
        row["auroc"] = json!(own.map(|own| own.auroc));
        row["split_half_cosine"] = json!(own.map(|own| own.cosine));
        row["shuffled"] = json!(own.map(|own| own.shuffled.iter().map(draw).collect::<Vec<_>>()));
        row
    };
    let made = json!({
        "schema": export::SCHEMA, "file": file, "model": origin.model, "family": origin.family,
        "revision": origin.revision, "dtype": origin.dtype, "version": origin.version, "method": origin.method,
        "positions": origin.positions, "plus": origin.prompts.0, "minus": origin.prompts.1,
        "strength": origin.strength, "seed": arguments::seed(matches),
        "rows": direction.rows.iter().map(row).collect::<Vec<_>>(), "notes": origin.notes,
    });
    output::document(&made, "rows", form)
}

/// Parses layers: `3`, `2-5` or `all`.
fn layers(given: &str, count: usize) -> Result<Vec<usize>> {
    if given == "all" || given == "*" {
        return Ok((0..count).collect());
    }
    let expected = format!("a layer from 0 to {}, A-B, or all", count - 1);
    let (first, last) = arguments::layers("--layer", given, count, expected)?;
    Ok((first..=last).collect())
}
