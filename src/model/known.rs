//! The models that can be opened on this machine: the demo, the hub cache, and the folders beside a model.
//!
//! Invariant: only headers and configurations are read, never weights; a model that no family supports is listed with its
//! `model_type` and marked. To add a source of models, add its rows to [`known_models`].

use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde_json::{Map, Value};

use super::hub::{Cached, cached_models, is_gguf};
use super::load::{DEFAULT_CONTEXT, Options, load};
use super::memory;
use super::network::families::family_of;
use crate::file;

/// The longest header that is accepted, in bytes; those of the largest models have a few megabytes.
const LONGEST_HEADER: u64 = 100 << 20;

/// The most entries of a folder that are looked at.
const ENTRIES: usize = 1000;

/// A model that can be opened, or what keeps it from that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownModel {
    /// The model argument that opens it.
    pub argument: String,
    /// Its family; of a GGUF file `gguf`; empty where there is no configuration.
    pub family: String,
    /// The number of its parameters; none where no header says it.
    pub parameters: Option<u64>,
    /// All dtypes of its weights, most frequent first, or the kind of file.
    pub dtypes: String,
    /// The bytes of its weights; none for the demo, which is in the program.
    pub bytes: Option<u64>,
    /// Whether it fits into the memory that is free now; none if that is unknown.
    pub fits: Option<bool>,
    /// The first file that is missing.
    pub missing: Option<String>,
    /// Where it lies; none for the demo.
    pub path: Option<PathBuf>,
}

/// The demo, then the models of the hub cache, then those in these folders, each once.
pub fn known_models(folders: &[PathBuf]) -> Vec<KnownModel> {
    let mut out: Vec<KnownModel> = demo().into_iter().collect();
    out.extend(cached_models().iter().map(KnownModel::cached));
    for folder in folders {
        for path in models_in(folder) {
            let argument = path.display().to_string();
            if out.iter().all(|held| held.argument != argument) {
                out.push(KnownModel::at(argument, path));
            }
        }
    }
    out
}

fn demo() -> Option<KnownModel> {
    let on_cpu = Options {
        device: Some("cpu".into()),
        ..Options::default()
    };
    let card = load("demo", &on_cpu).ok()?.card;
    Some(KnownModel {
        argument: "demo".into(),
        family: card.family.to_string(),
        parameters: Some(card.parameters as u64),
        dtypes: card.dtype.to_string(),
        fits: Some(true),
        ..KnownModel::default()
    })
}

/// Whether a path is that of a model: a folder in Hugging Face layout, or a GGUF file.
fn is_model(path: &Path) -> bool {
    (path.is_file() && is_gguf(path)) || (path.is_dir() && path.join("config.json").is_file())
}

/// Whether a path can be opened as a model: one, or a folder that holds a GGUF file.
pub fn opens(path: &Path) -> bool {
    is_model(path) || models_in(path).iter().any(|held| held.is_file())
}

/// The folders in Hugging Face layout and the GGUF files in a folder, by name.
fn models_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.take(ENTRIES).map(|entry| entry.path());
    let mut found: Vec<PathBuf> = paths.filter(|path| is_model(path)).collect();
    found.sort();
    found
}

impl KnownModel {
    fn cached(cached: &Cached) -> Self {
        let own = Self::at(cached.id.clone(), cached.path.clone());
        let fits = own.fits.filter(|_| cached.missing.is_none());
        let family = if cached.missing.as_deref() == Some("config.json") {
            String::new()
        } else {
            own.family.clone()
        };
        Self {
            missing: cached.missing.clone(),
            family,
            fits,
            ..own
        }
    }

    fn at(argument: String, path: PathBuf) -> Self {
        let weights = WeightsSummary::of(&path);
        Self {
            argument,
            family: if path.is_file() {
                "gguf".into()
            } else {
                family(&path)
            },
            parameters: Some(weights.parameters).filter(|n| *n > 0),
            dtypes: weights.dtypes(),
            bytes: Some(weights.bytes),
            fits: fits(&path, &weights),
            missing: None,
            path: Some(path),
        }
    }
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
