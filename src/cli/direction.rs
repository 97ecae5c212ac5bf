//! `lmscope direction`: makes a direction from two files of prompts, by difference of means.
//!
//! Invariant: the file says on which model, where and from how many prompts it was measured, and is refused elsewhere.
//! To add a method, add it to `lab/direction.rs` and a choice here.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};

use super::{Subcommand, arguments, output};
use crate::error::{Error, Result};

/// The row.
pub const DIRECTION: Subcommand = Subcommand {
    name: "direction",
    about: "Makes a direction from two lists of prompts (difference of means)",
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
        .arg(Arg::new("layer").long("layer").value_name("LAYER").required(true).value_parser(value_parser!(usize)).help("Measured at resid_pre of this layer, at the last prompt token"))
        .arg(super::switch("chat", "Wraps every prompt as one user turn of the chat template"))
        .arg(Arg::new("strength").long("strength").value_name("C").value_parser(value_parser!(f32)).allow_negative_numbers(true).default_value("1").help("A strength at which it was seen to work, kept in the file for the screen to start with"))
        .arg(Arg::new("name").long("name").value_name("NAME").help("A name for the file, when -o gives none: NAME.safetensors"))
        .arg(Arg::new("output").short('o').long("output").value_name("FILE").required_unless_present("name").value_parser(value_parser!(PathBuf)).help("The safetensors file to write"))
}

fn run(matches: &ArgMatches) -> Result<()> {
    let prompts = |name: &str| {
        matches
            .get_one::<PathBuf>(name)
            .map_or_else(|| Ok(Vec::new()), |path| lines(path))
    };
    let (plus, minus) = (prompts("plus")?, prompts("minus")?);
    let layer = matches.get_one::<usize>("layer").copied().unwrap_or(0);
    let named = || PathBuf::from(format!("{}.safetensors", arguments::text(matches, "name")));
    let path = matches
        .get_one::<PathBuf>("output")
        .cloned()
        .unwrap_or_else(named);
    let mut bench = arguments::open(matches)?;
    let layers = bench.model.card.layers;
    if layer >= layers {
        return Err(Error::argument(
            "--layer",
            layer.to_string(),
            format!("a layer from 0 to {}", layers - 1),
        ));
    }
    arguments::show_progress(&mut bench, "direction");
    let direction = bench.difference_of_means(&plus, &minus, matches.get_flag("chat"), &[layer]);
    bench.progress = None;
    output::clear_status();
    let mut direction = direction?;
    direction.origin.strength = matches.get_one::<f32>("strength").copied().unwrap_or(1.0);
    direction.save(&path)?;
    output::note(&format!(
        "{} from {} and {} prompts at {}, length {:.3}. Use it as --edit 'add:{}@{}' or --edit 'project_out:{}@writes'.",
        path.display(),
        plus.len(),
        minus.len(),
        direction.places(),
        direction.norm(),
        path.display(),
        direction.places(),
        path.display(),
    ));
    Ok(())
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
