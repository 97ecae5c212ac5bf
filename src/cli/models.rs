//! `lmscope models`: what can be opened here: the demo and the snapshots of the hub cache.
//!
//! Invariant: only headers and configurations are read, never weights, and a model that no family serves is listed with
//! its `model_type` and marked. To add a source of models, add its rows to `run`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::{Subcommand, output};
use crate::error::Result;
use crate::model::families::family_of;
use crate::model::hub::{cache_folder, cached_models};
use crate::model::load::{Options, load};

/// The row.
pub const MODELS: Subcommand = Subcommand {
    name: "models",
    about: "Lists the demo and the models of the hub cache",
    arguments: build,
    run,
};

const COLUMNS: &[&str] = &["id", "family", "parameters", "dtype", "size", "folder"];

/// The longest header that is believed; those of the largest models have a few megabytes.
const LONGEST_HEADER: u64 = 100 << 20;

/// `--format text|json`, for every list.
pub fn format(command: Command) -> Command {
    command.arg(
        Arg::new("format")
            .long("format")
            .value_parser(["text", "json"])
            .default_value("text")
            .help("A table for people, or JSON"),
    )
}

/// Whether JSON was asked for.
pub fn as_json(matches: &ArgMatches) -> bool {
    matches
        .get_one::<String>("format")
        .is_some_and(|f| f == "json")
}

fn build(command: Command) -> Command {
    format(command)
}

fn run(matches: &ArgMatches) -> Result<()> {
    let json = as_json(matches);
    let mut rows = Vec::new();
    if let Ok(demo) = load(
        "demo",
        &Options {
            device: Some("cpu".into()),
            ..Options::default()
        },
    ) {
        let card = demo.card;
        let size = if json { Value::Null } else { json!("embedded") };
        rows.push(vec![
            json!("demo"),
            json!(card.family),
            quantity(card.parameters as u64, json, count),
            json!(card.dtype),
            size,
            Value::Null,
        ]);
    }
    for (id, folder) in cached_models() {
        let weights = Weights::of(&folder);
        let parameters = quantity(weights.parameters, json, count);
        rows.push(vec![
            json!(id),
            json!(family(&folder)),
            parameters,
            json!(weights.dtypes()),
            quantity(weights.bytes, json, bytes),
            json!(folder.display().to_string()),
        ]);
    }
    output::listing(COLUMNS, &rows, json)?;
    if rows.len() < 2 {
        output::note(&format!(
            "no other model in {}. `hf download OWNER/NAME` puts one there; a folder in Hugging Face layout works as it is.",
            cache_folder().display()
        ));
    }
    Ok(())
}

fn quantity(n: u64, raw: bool, spell: fn(u64) -> String) -> Value {
    if raw { json!(n) } else { json!(spell(n)) }
}

/// The family, or the `model_type` that none serves.
fn family(folder: &Path) -> String {
    let config: Option<Value> = std::fs::read(folder.join("config.json"))
        .ok()
        .and_then(|b| serde_json::from_slice(&b).ok());
    let Some(config) = config else {
        return "unreadable config.json".into();
    };
    match family_of(&config) {
        Ok(family) => family.name.to_string(),
        Err(_) => format!(
            "{} (not served)",
            config
                .get("model_type")
                .and_then(Value::as_str)
                .unwrap_or("no model_type")
        ),
    }
}

/// What the headers of a folder's safetensors files say.
#[derive(Default)]
struct Weights {
    parameters: u64,
    bytes: u64,
    dtypes: Vec<(String, u64)>,
}

impl Weights {
    fn of(folder: &Path) -> Self {
        let mut out = Self::default();
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for path in entries
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        {
            // Snapshots link to blobs, so the size is that of what the link leads to.
            out.bytes += std::fs::metadata(&path).map_or(0, |m| m.len());
            out.add(&path);
        }
        out.dtypes.sort_by_key(|d| std::cmp::Reverse(d.1));
        out
    }

    /// Adds what a file's header says; a file that cannot be read adds nothing. The safetensors crate reads headers of
    /// whole files only, and these can have many gigabytes.
    fn add(&mut self, path: &Path) -> Option<()> {
        let mut file = File::open(path).ok()?;
        let mut length = [0u8; 8];
        file.read_exact(&mut length).ok()?;
        let count = u64::from_le_bytes(length);
        if count > LONGEST_HEADER {
            return None;
        }
        let mut header = Vec::new();
        file.take(count).read_to_end(&mut header).ok()?;
        let header: Map<String, Value> = serde_json::from_slice(&header).ok()?;
        for info in header
            .iter()
            .filter(|(name, _)| *name != "__metadata__")
            .map(|(_, info)| info)
        {
            let size: u64 = info["shape"]
                .as_array()?
                .iter()
                .filter_map(Value::as_u64)
                .product();
            let dtype = info["dtype"].as_str()?.to_lowercase();
            self.parameters += size;
            match self.dtypes.iter_mut().find(|(d, _)| *d == dtype) {
                Some((_, held)) => *held += size,
                None => self.dtypes.push((dtype, size)),
            }
        }
        Some(())
    }

    /// Every dtype of the weights, the commonest first.
    fn dtypes(&self) -> String {
        if self.dtypes.is_empty() {
            "no safetensors".into()
        } else {
            self.dtypes
                .iter()
                .map(|(d, _)| d.as_str())
                .collect::<Vec<_>>()
                .join("+")
        }
    }
}

/// A number of weights, for people: `3.6M`.
pub fn count(n: u64) -> String {
    scaled(n as f64, 1000.0, &["", "K", "M", "B", "T"])
}

/// A number of bytes, for people: `7.3 MiB`.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(mut n: f64, step: f64, units: &[&str]) -> String {
    let mut i = 0;
    while n >= step && i + 1 < units.len() {
        n /= step;
        i += 1;
    }
    if i == 0 {
        format!("{n:.0}{}", units[0])
    } else {
        format!("{n:.1}{}", units[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(7_654_321), "7.3 MiB");
        assert_eq!(count(3_600_000), "3.6M");
    }
}
