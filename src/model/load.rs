//! Loads a [`Model`] from a resolved source and the user's options.
//!
//! Invariant: the embedded demo is loaded in the same way as a folder; every refusal names the file or the flag.
//! To add an option, add a field to [`Options`].

use std::borrow::Cow;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;

use super::Model;
use super::checkpoint::folder;
use super::checkpoint::gguf::config::describe;
use super::checkpoint::gguf::{Checkpoint, Gguf, is_later_part};
use super::checkpoint::weights::Weights;
use super::device_memory::{self, BlocksOverDevices};
use super::devices;
use super::hub::{DownloadWatch, ModelSource, is_gguf, resolve};
use super::memory::{self, MemoryPlan};
use super::network::blueprint::Blueprint;
use super::network::families;
use super::network::linear::Precision;
use super::network::placement::{NamedDevice, Placement};
use super::tokenizer::template;
use super::tokenizer::template::ChatTemplate;
use super::tokenizer::{Older, Tokenizer, TokenizerFiles};
use crate::error::{Error, Result};
use crate::file;

/// The user's options for loading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `f32`, `f16`, `bf16` or `q8_0`; by default chosen for the device.
    pub dtype: Option<String>,
    /// `auto`, `cpu`, `cuda:N`, `metal`, or several as `cuda:0-3`.
    pub device: Option<String>,
    /// How many blocks go to each of several devices; empty for a choice by their memory.
    pub split: Vec<usize>,
    /// The most tokens in a run.
    pub context: Option<usize>,
    /// The memory limit in bytes; by default the free memory.
    pub memory: Option<u64>,
    /// The folder with the user's config.toml; none for no settings.
    pub config: Option<PathBuf>,
}

/// The default context, in tokens, if the model allows more.
pub const DEFAULT_CONTEXT: usize = 8192;

#[cfg(feature = "demo")]
mod embedded {
    pub const CONFIG: &[u8] = include_bytes!("../../demo/model/config.json");
    pub const WEIGHTS: &[u8] = include_bytes!("../../demo/model/model.safetensors");
    pub const TOKENIZER: &[u8] = include_bytes!("../../demo/model/tokenizer.json");
    pub const TOKENIZER_CONFIG: &[u8] = include_bytes!("../../demo/model/tokenizer_config.json");
    pub const GENERATION: &[u8] = include_bytes!("../../demo/model/generation_config.json");
    pub const TEMPLATE: &str = include_str!("../../demo/model/chat_template.jinja");

    /// The files by their names.
    pub const FILES: &[(&str, &[u8])] = &[
        ("config.json", CONFIG),
        ("model.safetensors", WEIGHTS),
        ("tokenizer.json", TOKENIZER),
        ("tokenizer_config.json", TOKENIZER_CONFIG),
        ("generation_config.json", GENERATION),
        ("chat_template.jinja", TEMPLATE.as_bytes()),
    ];
}

/// The files of folders that have no `tokenizer.json`.
#[derive(Default)]
struct OlderFiles {
    vocab: Option<Vec<u8>>,
    merges: Option<Vec<u8>>,
    sentence_piece: Option<Vec<u8>>,
    added: Option<Vec<u8>>,
}

impl OlderFiles {
    fn found(&self) -> Option<Older<'_>> {
        let added = self.added.as_deref();
        match (&self.vocab, &self.merges, &self.sentence_piece) {
            (Some(vocab), Some(merges), _) => Some(Older::ByteLevel {
                vocab,
                merges,
                added,
            }),
            (_, _, Some(model)) => Some(Older::SentencePiece { model, added }),
            _ => None,
        }
    }
}

/// The small files of a model, next to its weights.
struct ModelFiles {
    config: Cow<'static, [u8]>,
    tokenizer: Option<Cow<'static, [u8]>>,
    older: OlderFiles,
    /// `added_tokens.json`.
    added: Option<Cow<'static, [u8]>>,
    tokenizer_config: Option<Cow<'static, [u8]>>,
    special_tokens_map: Option<Cow<'static, [u8]>>,
    generation: Option<Cow<'static, [u8]>>,
    template: Option<String>,
    /// The files of `chat_templates/`, by name.
    named_templates: Vec<(String, String)>,
}

/// Loads the model that an argument names, without reporting progress.
pub fn load(given: &str, options: &Options) -> Result<Model> {
    let mut watch = DownloadWatch {
        show: &mut |_| (),
        cancelled: &|| false,
    };
    load_watched(given, options, &mut watch)
}

/// Loads the model that an argument names, after downloading the files that the cache lacks.
pub fn load_watched(
    given: &str,
    options: &Options,
    watch: &mut DownloadWatch<'_>,
) -> Result<Model> {
    let source = resolve(given, watch)?;
    watch.reading(given);
    let folder = match source {
        ModelSource::Demo => None,
        ModelSource::Gguf(file) => return load_gguf(given, &file, options),
        ModelSource::Folder(folder) => match only_gguf(&folder) {
            Some(file) => return load_gguf(given, &file, options),
            None => Some(folder),
        },
    };
    let devices = devices_of(options)?;
    let device = devices[0].device.clone();
    let (files, place) = match &folder {
        None => (demo_files()?, "(embedded demo model)".into()),
        Some(folder) => (folder_files(folder)?, folder.join("config.json")),
    };
    let config: Value = serde_json::from_slice(&files.config)
        .map_err(|e| Error::bad_file(&place, e.to_string(), "Download config.json again."))?;
    let (family, blueprint) = families::read(&config)
        .map_err(|e| explain_folder(e, given, folder.as_deref(), &config))?;
    let context = context(options.context, blueprint.context)?;
    let asked = requested_precision(options.dtype.as_deref(), &device)?;
    let f32 = Precision::Dense(DType::F32);
    let mut weights = match &folder {
        None => demo_weights(f32, &device)?,
        Some(folder) => Weights::open(folder, f32, &device)
            .map_err(|e| explain_folder(e, given, Some(folder), &config))?,
    };
    let also = (folder.as_ref()).and_then(|f| folder::also_holds(f, &weights.files()));
    let mut plan = plan(given, options, &blueprint, context, &devices);
    plan.stored = weights.stored_bytes();
    let (precision, note) = plan.settle(asked, || weights.within_f16())?;
    let need = plan.need(precision);
    let (placement, spread) = placed(&plan, precision, devices, &options.split)?;
    weights.precision = precision;
    let older = files.older.found().filter(|_| files.tokenizer.is_none());
    let listed = (files.tokenizer.is_some() || older.is_some()).then(|| TokenizerFiles {
        tokenizer: files.tokenizer.as_deref().unwrap_or_default(),
        older,
        added: files.added.as_deref(),
        tokenizer_config: files.tokenizer_config.as_deref(),
        special_tokens_map: files.special_tokens_map.as_deref(),
        generation: files.generation.as_deref(),
        config: Some(&files.config),
    });
    let (assembled, tokenizer) = std::thread::scope(|scope| {
        let tokenizer = listed.map(|listed| scope.spawn(move || Tokenizer::from_files(&listed)));
        let name = given.to_string();
        let assembled = Model::assemble(name, family, blueprint, weights, context, placement);
        let made = tokenizer.map(std::thread::ScopedJoinHandle::join);
        (assembled, made)
    });
    let mut model = assembled?;
    let tokenizer = tokenizer.map(|made| made.unwrap_or_else(|panic| resume_unwind(panic)));
    model.tokenizer = tokenizer.transpose()?;
    model.template = ChatTemplate::from_sources(&template::Sources {
        jinja: files.template.as_deref(),
        named: files.named_templates,
        tokenizer_config: files.tokenizer_config.as_deref(),
        special_tokens_map: files.special_tokens_map.as_deref(),
    })?;
    model.card.chat = model.template.is_some();
    model.need = need;
    let said = std::mem::take(&mut model.notes);
    let notes = note.into_iter().chain(spread).chain(also).chain(said);
    model.notes = notes.collect();
    model.notes.extend(model.past_range());
    model.notes.extend(families::remarks(&config, family));
    model.notes.extend(tokenizer_remarks(&model));
    Ok(model)
}

/// Notes for the user on the tokenizer and whether it fits the model.
fn tokenizer_remarks(model: &Model) -> Vec<String> {
    let Some(tokenizer) = &model.tokenizer else {
        return Vec::new();
    };
    let mut out = tokenizer.remarks.clone();
    let (tokens, rows) = (tokenizer.vocab_size(), model.card.vocab);
    let beyond: Vec<u32> = (rows..tokens)
        .filter_map(|id| u32::try_from(id).ok())
        .filter(|id| tokenizer.knows(*id))
        .collect();
    if let [first, rest @ ..] = beyond.as_slice() {
        out.push(format!(
            "the tokenizer knows {} that the embedding has no row for ({}{}): a text with one is refused.",
            match rest.len() {
                0 => "a token".to_owned(),
                n => format!("{} tokens", n + 1),
            },
            tokenizer.visible(*first),
            if rest.is_empty() { "" } else { ", ..." }
        ));
    }
    out
}

/// Explains an error about a folder by the folder's contents: an unsupported kind of model, or no weights.
fn explain_folder(error: Error, given: &str, folder: Option<&Path>, config: &Value) -> Error {
    let unfit = matches!(error, Error::NotAModel { .. } | Error::Config { .. });
    if !unfit {
        return error;
    }
    let typed = config.get("model_type").is_some_and(Value::is_string);
    let bare = matches!(error, Error::NotAModel { .. }) || !typed;
    match folder.and_then(|folder| folder::what_it_is(folder, Some(config))) {
        Some((what, next)) if bare => Error::NotThisKind {
            given: given.into(),
            found: format!("the folder holds {what}"),
            next,
        },
        _ => error,
    }
}

/// The only GGUF file (or the first part of the only one) in a folder without config.json.
fn only_gguf(folder: &Path) -> Option<PathBuf> {
    if folder.join("config.json").exists() {
        return None;
    }
    let mut models: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_gguf(path) && !is_later_part(path))
        .collect();
    (models.len() == 1).then(|| models.remove(0))
}

fn load_gguf(given: &str, file: &Path, options: &Options) -> Result<Model> {
    let devices = devices_of(options)?;
    let device = devices[0].device.clone();
    let gguf = Arc::new(Gguf::open(file)?);
    if let Some((what, next)) = other_gguf(&gguf) {
        return Err(Error::NotThisKind {
            given: given.into(),
            found: format!("the file holds {what}"),
            next,
        });
    }
    let (config, names) = describe(&gguf)?;
    gguf.check_types()?;
    let (family, blueprint) = families::read_whole(&config)?;
    let context = context(options.context, blueprint.context)?;
    let asked = requested_precision(options.dtype.as_deref(), &device)?;
    let asked = asked.or_else(|| gguf.quantization().map(Precision::Stored));
    let stored = gguf.tensors().map(|(_, t)| t.span.len() as u64).sum();
    // A file without a vocabulary can still be used with token ids, like a folder without tokenizer.json.
    let listed = gguf.keys().any(|key| key == "tokenizer.ggml.tokens");
    let tokenizer = listed.then(|| {
        let gguf = Arc::clone(&gguf);
        std::thread::spawn(move || Tokenizer::from_gguf(&gguf))
    });
    let template = ChatTemplate::from_gguf(&gguf);
    let checkpoint = Checkpoint { gguf, names };
    let mut weights = Weights::gguf(checkpoint, Precision::Dense(DType::F32), &device);
    let mut plan = plan(given, options, &blueprint, context, &devices);
    plan.stored = Some(stored);
    let (precision, note) = plan.settle(asked, || weights.within_f16())?;
    let need = plan.need(precision);
    let (placement, spread) = placed(&plan, precision, devices, &options.split)?;
    weights.precision = precision;
    let name = given.to_string();
    let assembled = Model::assemble(name, family, blueprint, weights, context, placement);
    let tokenizer =
        tokenizer.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
    let mut model = assembled?;
    model.tokenizer = tokenizer.transpose()?;
    model.card.chat = template.is_some();
    model.template = template;
    model.need = need;
    model.notes.splice(0..0, note.into_iter().chain(spread));
    model.notes.extend(model.past_range());
    model.notes.extend(tokenizer_remarks(&model));
    Ok(model)
}

/// A description of a GGUF file that is not a language model, and what to do.
fn other_gguf(gguf: &Gguf) -> Option<(String, String)> {
    let word = |key: &str| {
        let found = gguf.string(key).filter(|w| !w.is_empty())?;
        Some(crate::text::plain(found.as_bytes()))
    };
    let architecture = word("general.architecture").unwrap_or_default();
    let kind = word("general.type").unwrap_or_default();
    if kind == "adapter" || gguf.keys().any(|key| key.starts_with("adapter.")) {
        let base = word("general.base_model.0.repo_url")
            .or_else(|| word("general.base_model.0.name"))
            .or_else(|| word("general.finetune.base"));
        let of = base
            .as_deref()
            .map_or_else(String::new, |b| format!(" ({b})"));
        return Some((
            format!("a LoRA adapter for another model{of}"),
            format!(
                "Open {}, or merge the adapter first (llama.cpp's llama-export-lora)",
                base.unwrap_or_else(|| "the model that it was made for".into())
            ),
        ));
    }
    let what = match (kind.as_str(), architecture.as_str()) {
        ("mmproj", _) | (_, "clip") => "the eyes or ears of a multimodal model (mmproj)",
        ("imatrix", _) => "an importance matrix",
        ("vocab", _) => "a vocabulary without weights",
        (_, "bert" | "nomic-bert" | "jina-bert-v2" | "modern-bert" | "neo-bert" | "eurobert") => {
            "an encoder, which makes embeddings of texts and does not generate text"
        }
        (_, "t5" | "t5encoder") => "an encoder with a decoder, or an encoder alone",
        (_, "whisper") => "an audio model",
        (_, "controlvector") => "a steering vector",
        _ => return None,
    };
    let next = if architecture == "controlvector" {
        "Open a model, and name the file in an edit: add:FILE.gguf@resid_post.4"
    } else {
        "Open the file of the language model"
    };
    Some((what.into(), next.into()))
}

/// The devices that the options name; a split belongs to several.
fn devices_of(options: &Options) -> Result<Vec<NamedDevice>> {
    let devices = devices::parse(options.device.as_deref().unwrap_or("auto"))?;
    if devices.len() == 1 && !options.split.is_empty() {
        let given: Vec<String> = options.split.iter().map(ToString::to_string).collect();
        return Err(Error::argument(
            "--split",
            given.join(","),
            format!(
                "several devices to split over, and --device names one ({}): name them as in cuda:0-1, or leave --split out",
                devices::spelled(&devices)
            ),
        ));
    }
    Ok(devices)
}

/// Where the blocks go, and a note on it where that is several devices.
fn placed(
    plan: &MemoryPlan,
    precision: Precision,
    devices: Vec<NamedDevice>,
    split: &[usize],
) -> Result<(Placement, Option<String>)> {
    let blocks = plan.blueprint.layers.len();
    let mut devices = devices;
    if devices.len() == 1
        && let Some(device) = devices.pop()
    {
        return Ok((Placement::whole(device, blocks), None));
    }
    let over = BlocksOverDevices {
        name: plan.name,
        blueprint: plan.blueprint,
        precision,
        context: plan.context,
        stored: plan.stored_for(precision),
    };
    let (placement, shares) = over.place(devices, split)?;
    Ok((placement, Some(device_memory::sentence(&shares))))
}

/// The memory plan of a model on all of its devices together.
fn plan<'a>(
    given: &'a str,
    options: &Options,
    blueprint: &'a Blueprint,
    context: usize,
    devices: &[NamedDevice],
) -> MemoryPlan<'a> {
    let first = &devices[0].device;
    // Logical devices of a CPU have one memory between them.
    let free = if first.is_cpu() {
        memory::available(first)
    } else {
        devices.iter().map(|d| memory::available(&d.device)).sum()
    };
    MemoryPlan {
        name: given,
        blueprint,
        context,
        place: memory::place(first),
        available: options.memory.or(free),
        stored: None,
    }
}

/// The precision of a flag; none if it is not given, in which case [`memory::choose`] decides.
fn requested_precision(given: Option<&str>, device: &Device) -> Result<Option<Precision>> {
    match given {
        None => Ok(None),
        Some("f32") => Ok(Some(Precision::Dense(DType::F32))),
        Some("f16") => Ok(Some(Precision::Dense(DType::F16))),
        Some("bf16") if device.is_cpu() => Err(Error::argument(
            "--dtype",
            "bf16",
            "f32, f16 or q8_0 on a CPU, where bf16 products widen every weight at every step",
        )),
        Some("bf16") => Ok(Some(Precision::Dense(DType::BF16))),
        Some("q8_0") => Ok(Some(Precision::Q8)),
        Some(other) => Err(Error::argument("--dtype", other, "f32, f16, bf16 or q8_0")),
    }
}

fn context(given: Option<usize>, allowed: usize) -> Result<usize> {
    match given {
        None => Ok(allowed.min(DEFAULT_CONTEXT)),
        Some(n) if (1..=allowed).contains(&n) => Ok(n),
        Some(n) => Err(Error::argument(
            "--context",
            n,
            format!("1 to {allowed}, what the model was made for"),
        )),
    }
}

fn folder_files(folder: &Path) -> Result<ModelFiles> {
    let read = |name: &str| -> Result<Option<Cow<'static, [u8]>>> {
        Ok(file::read_if_there(&folder.join(name), file::SMALL)?.map(Cow::Owned))
    };
    let config = read("config.json")?.ok_or_else(|| {
        let given = folder.display().to_string();
        match folder::what_it_is(folder, None) {
            Some((what, next)) => Error::NotThisKind {
                given,
                found: format!("the folder holds {what}"),
                next,
            },
            None => Error::NotAModel {
                given,
                found: "the folder has no config.json".into(),
            },
        }
    })?;
    let tokenizer = read("tokenizer.json")?;
    let mut older = OlderFiles::default();
    if tokenizer.is_none() {
        let owned = |name: &str| Ok::<_, Error>(read(name)?.map(Cow::into_owned));
        older = OlderFiles {
            vocab: owned("vocab.json")?,
            merges: owned("merges.txt")?,
            sentence_piece: owned("tokenizer.model")?,
            added: owned("added_tokens.json")?,
        };
    }
    let added = read("added_tokens.json")?;
    let template = read("chat_template.jinja")?.map(|b| String::from_utf8_lossy(&b).into_owned());
    Ok(ModelFiles {
        config,
        tokenizer,
        older,
        added,
        tokenizer_config: read("tokenizer_config.json")?,
        special_tokens_map: read("special_tokens_map.json")?,
        generation: read("generation_config.json")?,
        template,
        named_templates: named_templates(&folder.join("chat_templates"))?,
    })
}

/// The templates in a `chat_templates` folder, by name; empty if there is none.
fn named_templates(folder: &Path) -> Result<Vec<(String, String)>> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut named = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_stem().and_then(|name| name.to_str());
        if let (Some(name), Some("jinja")) = (name, path.extension().and_then(|e| e.to_str())) {
            let bytes = file::read(&path, file::WORDS)?;
            named.push((
                name.to_owned(),
                String::from_utf8_lossy(&bytes).into_owned(),
            ));
        }
    }
    named.sort();
    Ok(named)
}

#[cfg(feature = "demo")]
#[allow(clippy::unnecessary_wraps)] // the build without the demo refuses
fn demo_files() -> Result<ModelFiles> {
    Ok(ModelFiles {
        config: Cow::Borrowed(embedded::CONFIG),
        tokenizer: Some(Cow::Borrowed(embedded::TOKENIZER)),
        older: OlderFiles::default(),
        added: None,
        tokenizer_config: Some(Cow::Borrowed(embedded::TOKENIZER_CONFIG)),
        special_tokens_map: None,
        generation: Some(Cow::Borrowed(embedded::GENERATION)),
        template: Some(embedded::TEMPLATE.to_string()),
        named_templates: Vec::new(),
    })
}

/// The files of the demo model, by their names in its folder; none in a build without it.
#[cfg(feature = "demo")]
pub(super) fn embedded_files() -> &'static [(&'static str, &'static [u8])] {
    embedded::FILES
}

/// This build has no demo model.
#[cfg(not(feature = "demo"))]
pub(super) fn embedded_files() -> &'static [(&'static str, &'static [u8])] {
    &[]
}

#[cfg(feature = "demo")]
fn demo_weights(precision: Precision, device: &Device) -> Result<Weights> {
    Weights::embedded(embedded::WEIGHTS, precision, device)
}

#[cfg(not(feature = "demo"))]
fn demo_files() -> Result<ModelFiles> {
    Err(Error::NotAModel {
        given: "demo".into(),
        found: "this build has no demo model (feature `demo`)".into(),
    })
}

#[cfg(not(feature = "demo"))]
fn demo_weights(_precision: Precision, _device: &Device) -> Result<Weights> {
    Err(Error::NotAModel {
        given: "demo".into(),
        found: "this build has no demo model (feature `demo`)".into(),
    })
}
