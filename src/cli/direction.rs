//! `lmscope direction`: makes a direction from two files of prompts.
//!
//! Invariant: the file says on which model, where, how and from how many prompts it was measured, and is refused elsewhere.
//! To add a method, add it to `lab/contrast.rs`.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};

use super::{Subcommand, arguments, output};
use crate::error::{Error, Result};
use crate::lab::contrast::{Contrast, Measure, Method};
use crate::lab::positions::Positions;
use crate::model::site::site_named;

/// The row.
pub const DIRECTION: Subcommand = Subcommand {
    name: "direction",
    about: "Makes a direction from two lists of prompts: difference of means, PCA, or an in-context vector",
    arguments: build,
    run,
};

fn build(command: Command) -> Command {
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("FILE")
            .required(true)
            .value_parser(value_parser!(PathBuf))
            .help(help)
    };
    arguments::model(command)
        .arg(file("plus", "Prompts that show the behaviour, one a line"))
        .arg(file("minus", "Prompts that do not, one a line"))
        .arg(Arg::new("layer").long("layer").value_name("LAYERS").required(true).help("Measured at this layer, at A-B, or at all of them"))
        .arg(Arg::new("method").long("method").value_name("METHOD").value_parser(Method::names()).default_value("mean").help("mean: difference of means; pca, pca-diff: as repeng's pca_center and pca_diff; icv: in-context vector, for the edit `icv`"))
        .arg(Arg::new("site").long("site").value_name("SITE").help("Measured at this site; resid_pre unless the method is icv, which reads resid_post"))
        .arg(Arg::new("positions").long("positions").value_name("POSITIONS").allow_hyphen_values(true).default_value("last").help("Measured at these positions of each prompt, as in edits: last, -2 (from the end), all-but-bos, token:\"text\"; the mean over them"))
        .arg(super::switch("chat", "Wraps every prompt as one user turn of the chat template"))
        .arg(Arg::new("strength").long("strength").value_name("C").value_parser(value_parser!(f32)).allow_negative_numbers(true).default_value("1").help("A strength at which it was seen to work, kept in the file for the screen to start with"))
        .arg(Arg::new("name").long("name").value_name("NAME").help("A name for the file, when -o gives none: NAME.safetensors"))
        .arg(Arg::new("output").short('o').long("output").value_name("FILE").required_unless_present("name").value_parser(value_parser!(PathBuf)).help("The file to write: .safetensors, or .gguf, .pt, .f32 as `lmscope vectors --help` has them"))
}

fn run(matches: &ArgMatches) -> Result<()> {
    let prompts = |name: &str| {
        matches
            .get_one::<PathBuf>(name)
            .map_or_else(|| Ok(Vec::new()), |path| lines(path))
    };
    let (plus, minus) = (prompts("plus")?, prompts("minus")?);
    let method: Method = arguments::text(matches, "method").parse()?;
    let usual = if method == Method::Icv {
        "resid_post"
    } else {
        "resid_pre"
    };
    let site = site_named(
        matches
            .get_one::<String>("site")
            .map_or(usual, String::as_str),
    )?;
    let positions: Positions = arguments::text(matches, "positions").parse()?;
    let named = || PathBuf::from(format!("{}.safetensors", arguments::text(matches, "name")));
    let path = matches
        .get_one::<PathBuf>("output")
        .cloned()
        .unwrap_or_else(named);
    let mut bench = arguments::open(matches)?;
    let measure = Measure {
        site,
        layers: layers(arguments::text(matches, "layer"), bench.model.card.layers)?,
        positions,
        chat: matches.get_flag("chat"),
    };
    arguments::show_progress(&mut bench, "direction");
    let contrast = Contrast::measure(&mut bench, &plus, &minus, measure);
    bench.progress = None;
    output::clear_status();
    let mut direction = contrast?.direction(method, &bench)?;
    direction.origin.strength = matches.get_one::<f32>("strength").copied().unwrap_or(1.0);
    let lost = direction.save(&path)?;
    let file = path.display();
    if !lost.is_empty() {
        output::note(&format!("{file}: {lost}."));
    }
    let usage = if method == Method::Icv {
        format!("--edit 'icv:{file}@mlp_out.*:all*0.1'")
    } else {
        let place = direction.rows[0].0;
        format!("--edit 'add:{file}@{place}' or --edit 'project_out:{file}@writes'")
    };
    output::note(&format!(
        "{file}: {method}, from {} and {} prompts at {}, length {:.3}. Use it as {usage}.",
        plus.len(),
        minus.len(),
        direction.places(),
        direction.norm(),
    ));
    Ok(())
}

/// `3`, `2-5` or `all`.
fn layers(given: &str, count: usize) -> Result<Vec<usize>> {
    let bad = || {
        Error::argument(
            "--layer",
            given,
            format!("a layer from 0 to {}, A-B, or all", count - 1),
        )
    };
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| bad());
    let (first, last) = match given.split_once('-') {
        _ if given == "all" || given == "*" => (0, count - 1),
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(given)?, number(given)?),
    };
    if first > last || last >= count {
        return Err(bad());
    }
    Ok((first..=last).collect())
}

/// The prompts of a file: one a line, empty lines left out.
fn lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let prompts: Vec<String> = text
        .lines()
        .filter(|l| !l.trim().is_empty())
        .map(ToString::to_string)
        .collect();
    if prompts.is_empty() {
        return Err(Error::bad_file(
            path,
            "it holds no prompt",
            "Write one prompt a line.",
        ));
    }
    Ok(prompts)
}
