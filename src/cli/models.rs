//! `lmscope models`: the models that can be opened here: the demo and the snapshots of the hub cache.
//!
//! Invariant: only headers and configurations are read, never weights; a model that no family supports is listed with its
//! `model_type` and marked. To add a source of models, add its rows to `run`.

use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::{ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::output::PrintedForm;
use super::{Subcommand, arguments, output};
use crate::error::Result;
use crate::file;
use crate::model::hub::{Cached, cache_folder, cached_models};
use crate::model::load::{DEFAULT_CONTEXT, Options, load};
use crate::model::memory;
use crate::model::network::families::family_of;
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

/// The longest header that is accepted, in bytes; those of the largest models have a few megabytes.
const LONGEST_HEADER: u64 = 100 << 20;

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
    let mut rows = Vec::new();
    let on_cpu = Options {
        device: Some("cpu".into()),
        ..Options::default()
    };
    if let Ok(demo) = load("demo", &on_cpu) {
        let card = demo.card;
        let size = if json { Value::Null } else { json!("embedded") };
        rows.push(vec![
            json!("demo"),
            json!(card.family),
            quantity(card.parameters as u64, json, text::count),
            json!(card.dtype),
            size,
            if json { json!(true) } else { json!("yes") },
            Value::Null,
            Value::Null,
        ]);
    }
    for cached in cached_models() {
        rows.push(row(&cached, json));
    }
    output::listing(COLUMNS, &rows, form)?;
    if rows.len() < 2 {
        output::note(&format!(
            "no other model in {}. `lmscope OWNER/NAME` downloads one; a folder in Hugging Face layout works as it is.",
            cache_folder().display()
        ));
    }
    Ok(())
}

/// The row of a model in the cache.
fn row(cached: &Cached, json: bool) -> Vec<Value> {
    let weights = WeightsSummary::of(&cached.path);
    let family = if cached.path.is_file() {
        "gguf".to_string()
    } else if cached.missing.as_deref() == Some("config.json") {
        String::new()
    } else {
        family(&cached.path)
    };
    let parameters = match weights.parameters {
        0 => Value::Null,
        n => quantity(n, json, text::count),
    };
    let fits = fits(&cached.path, &weights).filter(|_| cached.missing.is_none());
    vec![
        json!(cached.id),
        json!(family),
        parameters,
        json!(weights.dtypes()),
        quantity(weights.bytes, json, text::size),
        match fits {
            None => Value::Null,
            Some(fits) if json => json!(fits),
            Some(fits) => json!(if fits { "yes" } else { "no" }),
        },
        match &cached.missing {
            Some(part) if !json => json!(format!("incomplete: {part}")),
            part => json!(part),
        },
        json!(cached.path.display().to_string()),
    ]
}

/// Whether the model, loaded with default options, fits into the memory that is free now. If its configuration does not tell (a
/// GGUF file, an unsupported family), whether its weights fit. None if the free memory is unknown.
fn fits(path: &Path, weights: &WeightsSummary) -> Option<bool> {
    let free = memory::available(&Device::Cpu)?;
    let by_shape = configuration(path).and_then(|c| memory::fits(&c, DEFAULT_CONTEXT, free));
    by_shape.or(Some(weights.bytes <= free))
}

fn configuration(folder: &Path) -> Option<Value> {
    let bytes = file::read(&folder.join("config.json"), file::SMALL).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn quantity(n: u64, raw: bool, spell: fn(u64) -> String) -> Value {
    if raw { json!(n) } else { json!(spell(n)) }
}

/// The family, or the `model_type` if no family supports it.
fn family(folder: &Path) -> String {
    let Some(config) = configuration(folder) else {
        return "unreadable config.json".into();
    };
    match family_of(&config) {
        Ok(family) => family.name.to_string(),
        Err(_) => format!(
            "{} (not supported)",
            config
                .get("model_type")
                .and_then(Value::as_str)
                .unwrap_or("no model_type")
        ),
    }
}

/// The weights of a model: their bytes, and the contents of the headers of safetensors files.
#[derive(Default)]
struct WeightsSummary {
    parameters: u64,
    bytes: u64,
    dtypes: Vec<(String, u64)>,
    kind: &'static str,
}

impl WeightsSummary {
    /// The weights of a snapshot folder, or of one file.
    fn of(path: &Path) -> Self {
        let mut out = Self::default();
        let mut files: Vec<PathBuf> = if path.is_file() {
            vec![path.to_path_buf()]
        } else {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|e| e.path()).collect()
        };
        let ends = |path: &PathBuf, with: &str| path.extension().is_some_and(|e| e == with);
        // A snapshot with both kinds was made for the first.
        let kinds = [
            ("safetensors", "safetensors"),
            ("bin", "pytorch"),
            ("gguf", "gguf"),
        ];
        let held = |(extension, _): &(&str, _)| files.iter().any(|f| ends(f, extension));
        if let Some((extension, kind)) = kinds.into_iter().find(held) {
            files.retain(|f| ends(f, extension));
            out.kind = kind;
            for file in &files {
                // Snapshots link to blobs, so the size is that of the link's target.
                out.bytes += std::fs::metadata(file).map_or(0, |m| m.len());
                if kind == "safetensors" {
                    out.add(file);
                }
            }
        }
        out.dtypes.sort_by_key(|d| std::cmp::Reverse(d.1));
        out
    }

    /// Adds the contents of a file's header; a file that cannot be read adds nothing. The safetensors crate reads headers only
    /// of whole files in memory, and these can have many gigabytes.
    fn add(&mut self, path: &Path) -> Option<()> {
        let mut file = file::open(path).ok()?;
        let mut length = [0u8; 8];
        file.read_exact(&mut length).ok()?;
        let count = u64::from_le_bytes(length);
        if count > LONGEST_HEADER {
            return None;
        }
        let mut header = Vec::new();
        file.take(count).read_to_end(&mut header).ok()?;
        let header: Map<String, Value> = serde_json::from_slice(&header).ok()?;
        for (_, info) in header.iter().filter(|(name, _)| *name != "__metadata__") {
            let shape = info["shape"].as_array()?;
            let size: u64 = shape.iter().filter_map(Value::as_u64).product();
            let dtype = info["dtype"].as_str()?.to_lowercase();
            self.parameters += size;
            match self.dtypes.iter_mut().find(|(d, _)| *d == dtype) {
                Some((_, held)) => *held += size,
                None => self.dtypes.push((dtype, size)),
            }
        }
        Some(())
    }

    /// All dtypes of the weights, most frequent first; the kind of file if its header is not read.
    fn dtypes(&self) -> String {
        if self.dtypes.is_empty() {
            return self.kind.to_string();
        }
        let names: Vec<&str> = self.dtypes.iter().map(|(d, _)| d.as_str()).collect();
        names.join("+")
    }
}
