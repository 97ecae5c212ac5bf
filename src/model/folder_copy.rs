//! Copies the folder of a model with some of its weights changed, without loading the model.
//!
//! Invariants: the folder has its name only when it is complete; files that are no weights are copied as they are, but for
//! `tie_word_embeddings` in config.json where the embedding and the unembedding become two; weights in other formats, which would
//! be those of the old model, are left out and listed. To copy from another source, add it to [`FolderSource::open`].

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Card;
use super::checkpoint::changed::arithmetic::{StreamAxis, TensorChange};
use super::checkpoint::changed::copy::{
    AddedTensor, CopiedTensor, Shard, ShardChange, ShardTensor,
};
use super::checkpoint::changed::stream::{StreamPart, StreamTensors, Untying, output_gain};
use super::checkpoint::folder;
use super::checkpoint::weights::Weights;
use super::hub::ModelSource;
use super::load::{DEFAULT_CONTEXT, embedded_files};
use super::network::blueprint::Blueprint;
use super::network::families::{self, Family};
use super::network::linear::Precision;
use super::new_folder::{NewFile, PIECE, UnfinishedFolder, check_folder};
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::text::hexadecimal;

/// The file in a copied folder that says what was changed.
pub const MANIFEST: &str = "lmscope_export.json";

/// The configuration of a model.
const CONFIG: &str = "config.json";

/// The list of shards.
const INDEX: &str = "model.safetensors.index.json";

/// Endings of files with weights.
const WEIGHTS: &[&str] = &[
    "safetensors",
    "bin",
    "gguf",
    "pt",
    "pth",
    "ckpt",
    "h5",
    "msgpack",
    "onnx",
    "onnx_data",
    "ot",
    "tflite",
    "npz",
    "nemo",
];

/// A model whose folder is to be copied.
pub struct FolderSource {
    /// Its card; the context is that of its configuration.
    pub card: Card,
    /// The commit of a snapshot from the hub.
    pub commit: Option<String>,
    family: &'static Family,
    blueprint: Blueprint,
    /// None for the demo, which is embedded in the binary.
    folder: Option<PathBuf>,
    weights: Weights,
    stream: StreamTensors,
    shards: Vec<Shard>,
}

/// A file of the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedFile {
    /// Its path in the folder.
    pub name: String,
    pub bytes: u64,
    /// SHA-256 of the copy, in hexadecimal.
    pub sha256: String,
    /// SHA-256 of the file that it was made from.
    pub source_sha256: String,
}

/// What a copy holds.
#[derive(Clone, Debug, Default)]
pub struct FolderCopy {
    pub files: Vec<CopiedFile>,
    /// The changed and added tensors, each with the file that it is in and the part of the model that it belongs to; none for an
    /// unembedding.
    pub tensors: Vec<(CopiedTensor, String, Option<StreamPart>)>,
    /// Files and folders of the source that were not copied.
    pub left_out: Vec<String>,
    /// Whether embedding and unembedding shared one tensor and are two in the copy.
    pub untied: bool,
    /// The manifest of the source, if it was made by a copy too.
    pub source_manifest: Option<Value>,
}

impl FolderSource {
    /// Opens a source: the demo, or a folder in Hugging Face layout with safetensors.
    ///
    /// # Errors
    ///
    /// When it is something else, or its files do not fit together.
    pub fn open(given: &str, source: ModelSource) -> Result<Self> {
        let refuse = |found: &str, next: &str| {
            Err(Error::NotThisKind {
                given: given.into(),
                found: found.into(),
                next: next.into(),
            })
        };
        let folder = match source {
            ModelSource::Gguf(_) => {
                return refuse(
                    "the weights are in a GGUF file, whose blocks of codes cannot hold a changed matrix without being quantized again",
                    "Give the folder that it was made from, with config.json and safetensors, and convert the result",
                );
            }
            ModelSource::Demo => None,
            ModelSource::Folder(folder) => Some(folder),
        };
        let (cpu, f32) = (Device::Cpu, Precision::Dense(DType::F32));
        let (config, mut weights, shards) = match &folder {
            None => {
                let files = embedded_files();
                if files.is_empty() {
                    return Err(Error::NotAModel {
                        given: given.into(),
                        found: "this build has no demo model (feature `demo`)".into(),
                    });
                }
                let bytes =
                    |name: &str| files.iter().find(|f| f.0 == name).map_or(&[][..], |f| f.1);
                let stored = bytes("model.safetensors");
                let shard = Shard::embedded("model.safetensors", stored)?;
                let weights = Weights::embedded(stored, f32, &cpu)?;
                (bytes(CONFIG).to_vec(), weights, vec![shard])
            }
            Some(folder) => {
                let path = folder.join(CONFIG);
                let Some(config) = file::read_if_there(&path, file::SMALL)? else {
                    return match folder::what_it_is(folder, None) {
                        Some((what, next)) => refuse(&format!("the folder holds {what}"), &next),
                        None => Err(Error::NotAModel {
                            given: given.into(),
                            found: "the folder has no config.json".into(),
                        }),
                    };
                };
                let weights = Weights::open(folder, f32, &cpu)?;
                let files = weights.files();
                if files.iter().any(|name| !is_safetensors(name)) {
                    return refuse(
                        "the weights are in PyTorch files (pytorch_model.bin)",
                        "Save it as safetensors first (Python: `AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)`)",
                    );
                }
                let open = |name: &String| Shard::open(&folder.join(name));
                let shards = files.iter().map(open).collect::<Result<_>>()?;
                (config, weights, shards)
            }
        };
        let place = folder
            .as_ref()
            .map_or(PathBuf::from(CONFIG), |f| f.join(CONFIG));
        let config: Value = serde_json::from_slice(&config)
            .map_err(|e| Error::bad_file(&place, e.to_string(), "Download config.json again."))?;
        let (family, blueprint) = families::read(&config)?;
        let revision = format!("{:016x}", weights.fingerprint());
        let stream = StreamTensors::of(family, &blueprint, &mut weights)?;
        let context = blueprint.context.min(DEFAULT_CONTEXT);
        let card = Card::of(given.to_string(), revision, &blueprint, context);
        let commit = folder.as_deref().and_then(commit_of);
        Ok(Self {
            card,
            commit,
            family,
            blueprint,
            folder,
            weights,
            stream,
            shards,
        })
    }

    /// The gain of the norm between a part's output and the stream, `[d_model]`; none where there is no such norm.
    ///
    /// # Errors
    ///
    /// When its tensor is missing.
    pub fn output_gain(&self, part: StreamPart) -> Result<Option<Vec<f32>>> {
        output_gain(self.family, &self.blueprint, &self.weights, part)
    }

    /// How many bytes of weights are copied.
    pub fn length(&self) -> u64 {
        self.shards.iter().map(Shard::length).sum()
    }

    /// Refuses a folder that [`FolderSource::copy`] would refuse; to be called before long work.
    ///
    /// # Errors
    ///
    /// When it exists and must not be replaced, or is that of the source.
    pub fn check_target(&self, target: &Path, overwrite: Overwrite) -> Result<()> {
        let same = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
            (Ok(a), Ok(b)) => a.starts_with(&b) || b.starts_with(&a),
            _ => false,
        };
        if let Some(folder) = &self.folder
            && target.exists()
            && same(folder, target)
        {
            let what = "it is the folder of the model that is read, or one is inside the other";
            return Err(Error::bad_file(target, what, "Name another folder."));
        }
        check_folder(target, overwrite, MANIFEST)
    }

    /// Writes the folder with changed weights. `manifest` makes the text of [`MANIFEST`]; `watch` is told after every piece how many
    /// bytes of weights were written so far, and stops the work with an error.
    ///
    /// # Errors
    ///
    /// Those of [`FolderSource::check_target`] and of the file system; nothing has changed then.
    pub fn copy(
        &self,
        changes: &BTreeMap<StreamPart, TensorChange>,
        (target, overwrite): (&Path, Overwrite),
        manifest: &dyn Fn(&FolderCopy) -> Value,
        watch: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<FolderCopy> {
        self.check_target(target, overwrite)?;
        let plan = self.plan(changes);
        let unfinished = UnfinishedFolder::beside(target)?;
        let mut copy = FolderCopy {
            untied: plan.unties,
            ..FolderCopy::default()
        };
        let mut done = 0;
        for shard in &self.shards {
            let path = unfinished.path.join(&shard.name);
            let mut out = NewFile::create(&path)?;
            let mut since = 0;
            let added = plan.added.get(&shard.name).map_or(&[][..], Vec::as_slice);
            let copied = shard.copy(&plan.changes, added, &mut |bytes| {
                out.put(bytes)?;
                done += bytes.len() as u64;
                since += bytes.len();
                if since >= PIECE {
                    since = 0;
                    watch(done)?;
                }
                Ok(())
            })?;
            out.finish()?;
            let part = |name: &str| plan.parts.get(name).copied();
            let tensors = copied.tensors.into_iter();
            let tensors = tensors.map(|t| (part(&t.name), t));
            let tensors = tensors.map(|(part, t)| (t, shard.name.clone(), part));
            copy.tensors.extend(tensors);
            copy.files.push(CopiedFile {
                name: shard.name.clone(),
                bytes: copied.length,
                sha256: copied.written,
                source_sha256: copied.read,
            });
        }
        self.small_files(&plan, &unfinished.path, &mut copy)?;
        watch(done)?;
        copy.files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut text = serde_json::to_vec_pretty(&manifest(&copy))
            .map_err(|e| Error::Engine(format!("the manifest cannot be written: {e}")))?;
        text.push(b'\n');
        let mut out = NewFile::create(&unfinished.path.join(MANIFEST))?;
        out.put(&text)?;
        out.finish()?;
        unfinished.take(target, overwrite, MANIFEST)?;
        Ok(copy)
    }

    /// What is done to which tensor of which file.
    fn plan(&self, changes: &BTreeMap<StreamPart, TensorChange>) -> CopyPlan {
        let mut plan = CopyPlan::default();
        for tensor in &self.stream.tensors {
            let Some(change) = changes.get(&tensor.part) else {
                continue;
            };
            let change = if tensor.bias {
                change.of_bias()
            } else {
                change.clone()
            };
            if change.is_empty() {
                continue;
            }
            let axis = tensor.axis;
            plan.parts.insert(tensor.name.clone(), tensor.part);
            plan.changes
                .insert(tensor.name.clone(), ShardChange { axis, change });
        }
        let Some(embedding) = changes.get(&StreamPart::Embedding) else {
            return plan;
        };
        let holder = |name: &str| {
            let mut shards = self.shards.iter();
            shards
                .find(|s| s.tensor(name).is_some())
                .map(|s| s.name.clone())
        };
        let added = match &self.stream.untying {
            Untying::NotNeeded => None,
            Untying::BothStored => {
                plan.unties = self.blueprint.tied;
                None
            }
            Untying::AddUnembedding(name) => {
                plan.unties = true;
                // The embedding is listed first.
                self.stream.tensors.first().map(|from| AddedTensor {
                    name: name.clone(),
                    from: from.name.clone(),
                    change: None,
                })
            }
            Untying::AddEmbedding { stored, added } => {
                plan.unties = true;
                plan.parts.insert(added.clone(), StreamPart::Embedding);
                Some(AddedTensor {
                    name: added.clone(),
                    from: stored.clone(),
                    change: Some(ShardChange {
                        axis: StreamAxis::Columns,
                        change: embedding.clone(),
                    }),
                })
            }
        };
        if let Some(added) = added
            && let Some(shard) = holder(&added.from)
        {
            plan.added.entry(shard).or_default().push(added);
        }
        plan
    }

    /// Copies what is no weights.
    fn small_files(&self, plan: &CopyPlan, to: &Path, copy: &mut FolderCopy) -> Result<()> {
        let Some(folder) = &self.folder else {
            for (name, bytes) in embedded_files() {
                if !is_safetensors(name) {
                    self.small_file(plan, name, bytes, to, copy)?;
                }
            }
            return Ok(());
        };
        for name in files_under(folder, Path::new(""), &mut copy.left_out)? {
            let path = folder.join(&name);
            if self.shards.iter().any(|shard| shard.name == name) {
                continue;
            }
            let index = name.ends_with(".index.json") && name != INDEX;
            if is_weights(&name) || index {
                copy.left_out.push(name);
            } else if name == MANIFEST {
                let bytes = file::read(&path, file::SMALL)?;
                copy.source_manifest = serde_json::from_slice(&bytes).ok();
            } else if (name == CONFIG && plan.unties) || (name == INDEX && !plan.added.is_empty()) {
                let bytes = file::read(&path, file::SMALL)?;
                self.small_file(plan, &name, &bytes, to, copy)?;
            } else {
                let (bytes, sha256) = copied_file(&path, &to.join(&name))?;
                copy.files.push(CopiedFile {
                    source_sha256: sha256.clone(),
                    name,
                    bytes,
                    sha256,
                });
            }
        }
        copy.left_out.sort();
        Ok(())
    }

    /// Writes a small file, changed where embedding and unembedding become two.
    fn small_file(
        &self,
        plan: &CopyPlan,
        name: &str,
        bytes: &[u8],
        to: &Path,
        copy: &mut FolderCopy,
    ) -> Result<()> {
        let changed = match name {
            CONFIG if plan.unties => Some(untied(bytes)),
            INDEX if !plan.added.is_empty() => Some(self.index_with(plan, bytes)),
            _ => None,
        };
        let written = match changed {
            Some(value) => {
                let bad = |e: serde_json::Error| {
                    Error::bad_file(name, e.to_string(), "Download it again.")
                };
                let mut text = serde_json::to_vec_pretty(&value.map_err(bad)?).map_err(bad)?;
                text.push(b'\n');
                text
            }
            None => bytes.to_vec(),
        };
        let mut out = NewFile::create(&to.join(name))?;
        out.put(&written)?;
        out.finish()?;
        let digest = |bytes: &[u8]| hexadecimal(&Sha256::digest(bytes));
        copy.files.push(CopiedFile {
            name: name.to_string(),
            bytes: written.len() as u64,
            sha256: digest(&written),
            source_sha256: digest(bytes),
        });
        Ok(())
    }

    /// The list of shards with the added tensors.
    fn index_with(&self, plan: &CopyPlan, bytes: &[u8]) -> serde_json::Result<Value> {
        let mut index: Value = serde_json::from_slice(bytes)?;
        for (shard, added) in &plan.added {
            for own in added {
                index["weight_map"][&own.name] = json!(shard);
                let mut shards = self.shards.iter();
                let length = shards
                    .find_map(|s| s.tensor(&own.from))
                    .map_or(0, ShardTensor::bytes);
                if let Some(total) = index["metadata"]["total_size"].as_u64() {
                    index["metadata"]["total_size"] = json!(total + length);
                }
            }
        }
        Ok(index)
    }
}

/// What is done to the files.
#[derive(Default)]
struct CopyPlan {
    changes: BTreeMap<String, ShardChange>,
    /// The part of the model that a changed tensor belongs to.
    parts: BTreeMap<String, StreamPart>,
    /// The tensors that are added to a file.
    added: BTreeMap<String, Vec<AddedTensor>>,
    /// Whether embedding and unembedding become two.
    unties: bool,
}

/// A config.json that does not tie the unembedding to the embedding.
fn untied(bytes: &[u8]) -> serde_json::Result<Value> {
    const KEY: &str = "tie_word_embeddings";
    let mut config: Value = serde_json::from_slice(bytes)?;
    config[KEY] = json!(false);
    // Of a multimodal model.
    if let Some(text) = config.get_mut("text_config").and_then(Value::as_object_mut) {
        text.insert(KEY.into(), json!(false));
    }
    Ok(config)
}

/// The commit of a snapshot in the cache of the hub.
fn commit_of(folder: &Path) -> Option<String> {
    let parent = folder.parent()?.file_name()?;
    (parent == "snapshots").then(|| folder.file_name()?.to_str().map(str::to_owned))?
}

fn has_ending(name: &str, endings: &[&str]) -> bool {
    let ending = Path::new(name).extension().and_then(|e| e.to_str());
    ending.is_some_and(|own| endings.iter().any(|e| own.eq_ignore_ascii_case(e)))
}

fn is_safetensors(name: &str) -> bool {
    has_ending(name, &["safetensors"])
}

fn is_weights(name: &str) -> bool {
    has_ending(name, WEIGHTS)
}

/// The files of a folder and the folders in it, sorted; hidden folders and what is no file are listed as left out.
fn files_under(folder: &Path, inside: &Path, left_out: &mut Vec<String>) -> Result<Vec<String>> {
    let here = folder.join(inside);
    let fail = |e: std::io::Error| Error::io(&here, e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&here).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let path = inside.join(entry.file_name());
        let name = path.to_string_lossy().into_owned();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // Links of the cache lead to files.
        let kind = std::fs::metadata(entry.path());
        match kind {
            Ok(found) if found.is_file() => names.push(name),
            Ok(found) if found.is_dir() && !hidden && !entry.path().is_symlink() => {
                names.extend(files_under(folder, &path, left_out)?);
            }
            Ok(_) | Err(_) => left_out.push(name),
        }
    }
    names.sort();
    Ok(names)
}

/// Copies a file; returns its length and SHA-256.
fn copied_file(from: &Path, to: &Path) -> Result<(u64, String)> {
    let mut source = file::open(from)?;
    let mut out = NewFile::create(to)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0u8; PIECE];
    let mut length = 0;
    loop {
        let count = source.read(&mut buffer).map_err(|e| Error::io(from, e))?;
        if count == 0 {
            break;
        }
        digest.update(&buffer[..count]);
        out.put(&buffer[..count])?;
        length += count as u64;
    }
    out.finish()?;
    Ok((length, hexadecimal(&digest.finalize())))
}
