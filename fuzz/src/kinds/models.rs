//! Checkpoints: safetensors, GGUF, pickles, their indices and configurations.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use lmscope::dictionaries::formats;
use lmscope::error::{Error, Result};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::checkpoint::gguf::Gguf;
use lmscope::model::checkpoint::gguf::config::describe;
use lmscope::model::checkpoint::torch::{Pickled, facts, values};
use lmscope::model::checkpoint::weights::Weights;
use lmscope::model::load::{Options, load};
use lmscope::model::network::families::{FAMILIES, family_of};
use lmscope::model::network::linear::Precision;
use lmscope::model::tokenizer::Tokenizer;
use lmscope::model::tokenizer::template::ChatTemplate;
use serde_json::{Value, json};

use super::tokens::speak;
use super::{Place, file, folders, references};
use crate::gguf::convert::convert;
use crate::gguf::vocabulary::as_gguf;

/// Three tensors and what else a header may hold.
pub fn safetensors() -> Vec<Vec<u8>> {
    let header = json!({
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "c": {"dtype": "F16", "shape": [1, 2, 2], "data_offsets": [32, 40]},
    });
    vec![with_header(header.to_string().as_bytes(), &[7; 40])]
}

/// A safetensors file of a header and its data.
fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// Opens a folder of weights and reads what it says it holds.
pub fn read_safetensors(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = place.put("safetensors/model.safetensors", bytes);
    let weights = dense(path.parent().unwrap())?;
    let _ = weights.fingerprint();
    for (name, shape) in [("a.weight", &[2, 3][..]), ("b", &[4]), ("c", &[1, 2, 2])] {
        weights.get(name, shape)?;
    }
    Ok(())
}

fn dense(folder: &Path) -> Result<Weights> {
    Weights::open(folder, Precision::Dense(DType::F32), &Device::Cpu)
}

/// Two tokenizers, and a whole model with one.
pub fn ggufs() -> Vec<Vec<u8>> {
    let more = references().join("tokenizers_more");
    let mut all = [("gpt_2", "gpt2", "gpt-2"), ("llama_2", "llama", "default")]
        .map(|(name, model, pre)| as_gguf(&more.join(name), model, pre, &[]))
        .to_vec();
    for name in ["llama", "gpt2", "qwen3_moe"] {
        let folder = references().join(name);
        let config = serde_json::from_slice(&file(&folder.join("config.json"))).unwrap();
        let tensors: HashMap<String, Tensor> =
            candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
        all.push(
            convert(&config, &tensors, |_| GgmlDType::F16)
                .unwrap()
                .bytes(),
        );
    }
    all
}

/// Reads everything a GGUF file can say, and loads it as a model where it is one.
pub fn read_gguf(place: &Place, bytes: &[u8]) -> Result<()> {
    let gguf = Gguf::from_bytes(bytes.to_vec())?;
    let _ = (describe(&gguf), gguf.check_types());
    for key in gguf.keys() {
        let _ = (
            gguf.strings(key),
            gguf.integers(key),
            gguf.floats(key),
            gguf.number(key),
        );
    }
    for (name, _) in gguf.tensors() {
        let _ = gguf.bytes(name);
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        speak(&tokenizer);
    }
    let _ = ChatTemplate::from_gguf(&gguf);
    if gguf.tensors().next().is_some() {
        run(&place.put("model.gguf", bytes))?;
    }
    Ok(())
}

/// Loads a model and runs three tokens.
fn run(path: &Path) -> Result<()> {
    let model = load(path.to_str().unwrap(), &Options::default())?;
    let vocab = model.card.vocab;
    let logits = Lab::new(model).last_logits(&Run::plain(vec![1, 2, 3]))?;
    assert!(logits.len() <= vocab, "{} logits of {vocab}", logits.len());
    Ok(())
}

/// Whole checkpoints, a vector, lenses.
pub fn pickles() -> Vec<Vec<u8>> {
    [
        "llama_pickle/pytorch_model-00002-of-00002.bin",
        "vectors/direction.pt",
        "vectors/ours.pt",
        "lenses/jacobian.pt",
        "lenses/tuned/params.pt",
    ]
    .map(|name| file(&references().join(name)))
    .to_vec()
}

/// Opens a checkpoint of one file, and reads its tensors, its values and what it keeps beside them.
pub fn read_pickle(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = place.put("pickle/pytorch_model.bin", bytes);
    let _ = (values(&path), facts(&path));
    let opened = Pickled::open(std::slice::from_ref(&path))?;
    let names: Vec<String> = opened.names().map(str::to_owned).collect();
    for name in &names {
        let _ = opened.sample(name);
        if let Some(stored) = opened.get(name)? {
            stored.load()?;
        }
    }
    Ok(())
}

/// Weights of three containers.
pub fn dictionaries() -> Vec<Vec<u8>> {
    [
        "saelens_jumprelu/sae_weights.safetensors",
        "gemma-scope-2b-pt-res/layer_1/width_16/average_l0_4/params.npz",
        "gemma-scope-2b-pt-mlp/layer_1/width_16/average_l0_4/params.npz",
        "dictionary_learning/BatchTopKSAE/trainer_0/ae.pt",
    ]
    .map(|name| file(&references().join("dictionaries").join(name)))
    .to_vec()
}

/// Opens the weights beside the config that fits their container, and encodes a row.
pub fn read_dictionary(place: &Place, bytes: &[u8]) -> Result<()> {
    let put = |name: &str, config: &str, as_in: &str| {
        let path = place.put(&format!("dictionary/{name}"), bytes);
        if !config.is_empty() {
            let from = references().join("dictionaries").join(as_in).join(config);
            std::fs::copy(from, path.with_file_name(config)).unwrap();
        }
        let dictionary = formats::open(path.parent().unwrap())?.remove(0);
        let width = dictionary.inputs[0].encoder.width;
        let x = vec![0.5; width];
        let encoded = dictionary.encode(&[&x])?;
        dictionary.decode(0, &encoded, &x).map(drop)
    };
    if !bytes.starts_with(b"PK") {
        let name = "saelens/sae_weights.safetensors";
        return put(name, "cfg.json", "saelens_jumprelu");
    }
    let class = "dictionary_learning/BatchTopKSAE/trainer_0";
    let torch = put("torch/ae.pt", "config.json", class);
    put("layer_1/params.npz", "", "").or(torch)
}

/// Of safetensors and of pickles.
pub fn indices() -> Vec<Vec<u8>> {
    [
        "llama_sharded/model.safetensors.index.json",
        "llama_pickle/pytorch_model.bin.index.json",
    ]
    .map(|name| file(&references().join(name)))
    .to_vec()
}

/// Loads a model in shards whose index this is.
pub fn read_index(place: &Place, bytes: &[u8]) -> Result<()> {
    let pickled = bytes.windows(4).any(|w| w == b".bin");
    let name = if pickled {
        "llama_pickle"
    } else {
        "llama_sharded"
    };
    let folder = copied(place, &references().join(name));
    let index = if pickled {
        "pytorch_model.bin.index.json"
    } else {
        "model.safetensors.index.json"
    };
    std::fs::write(folder.join(index), bytes).unwrap();
    run(&folder)
}

/// A copy of a folder that may be spoilt, made once.
fn copied(place: &Place, from: &Path) -> PathBuf {
    let name = format!("copy-{}", from.file_name().unwrap().to_str().unwrap());
    let there = place.folder(&name);
    if !there.join("config.json").exists() {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, there.join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    there
}

/// Beginnings of files of every kind: a byte for the length, then what stands at the start.
pub fn sparse() -> Vec<Vec<u8>> {
    let head = json!({"a.weight": {"dtype": "F32", "shape": [1 << 30, 8], "data_offsets": [0, 1u64 << 35]}});
    let short = |bytes: &[u8]| bytes[..bytes.len().min(600)].to_vec();
    // One that says the truth: 512 bytes of header before zeros, 64 KB in all.
    let true_head = json!({"a": {"dtype": "F32", "shape": [16256], "data_offsets": [0, 65024]}});
    let true_head = format!("{:504}", true_head.to_string());
    [
        (16, with_header(true_head.as_bytes(), &[])),
        (35, with_header(head.to_string().as_bytes(), &[])),
        (35, short(&ggufs()[2])),
        (35, short(&pickles()[1])),
    ]
    .map(|(power, start)| [&[power][..], &start].concat())
    .to_vec()
}

/// A file of up to a terabyte that holds almost nothing, under every name that weights have.
pub fn read_sparse(place: &Place, bytes: &[u8]) -> Result<()> {
    let Some((power, start)) = bytes.split_first() else {
        return Ok(());
    };
    let path = place.put("sparse/model.safetensors", start);
    let opened = std::fs::File::options().write(true).open(&path).unwrap();
    opened
        .set_len((1 << (power % 41)).max(start.len() as u64))
        .unwrap();
    let weights = dense(path.parent().unwrap()).map(drop);
    let gguf = Gguf::open(&path).map(|gguf| drop(describe(&gguf)));
    let pickle = Pickled::open(std::slice::from_ref(&path)).map(drop);
    // The reader of this beginning says what is wrong.
    match start.get(..4) {
        Some(b"GGUF") => gguf,
        Some(b"PK\x03\x04") => pickle,
        _ => weights,
    }
}

/// The header of a checkpoint.
pub fn headers() -> Vec<Vec<u8>> {
    let whole = file(&references().join("llama/model.safetensors"));
    let length = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    vec![whole[8..8 + length].to_vec()]
}

/// The checkpoint with this header in the place of its own, loaded and run.
pub fn read_header(place: &Place, bytes: &[u8]) -> Result<()> {
    static DATA: OnceLock<Vec<u8>> = OnceLock::new();
    let from = references().join("llama");
    let data = DATA.get_or_init(|| {
        let whole = file(&from.join("model.safetensors"));
        let length = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
        whole[8 + length..].to_vec()
    });
    let folder = place.folder("inplace");
    if !folder.join("config.json").exists() {
        std::fs::copy(from.join("config.json"), folder.join("config.json")).unwrap();
    }
    std::fs::write(folder.join("model.safetensors"), with_header(bytes, data)).unwrap();
    run(&folder)
}

/// The tiny configuration of each family.
pub fn configs() -> Vec<Vec<u8>> {
    let tiny = FAMILIES.iter().map(|family| (family.tiny)());
    tiny.map(|config| config.to_string().into_bytes()).collect()
}

/// Finds the family, and its blueprint.
pub fn read_config(_: &Place, bytes: &[u8]) -> Result<()> {
    let config: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::bad_file("config.json", e.to_string(), "Mend it"))?;
    (family_of(&config)?.blueprint)(&config).map(drop)
}

/// The checkpoints that the tests have, by the family their configuration names.
fn checkpoints() -> &'static [(String, PathBuf)] {
    static ALL: OnceLock<Vec<(String, PathBuf)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let whole = |path: &PathBuf| {
            path.join("config.json").exists() && path.join("model.safetensors").exists()
        };
        let family = |path: PathBuf| {
            let config: Value = serde_json::from_slice(&file(&path.join("config.json"))).unwrap();
            (
                config["model_type"].as_str().unwrap_or_default().to_owned(),
                path,
            )
        };
        folders(&references())
            .into_iter()
            .filter(whole)
            .map(family)
            .collect()
    })
}

/// The configurations of those checkpoints.
pub fn folders_of() -> Vec<Vec<u8>> {
    checkpoints()
        .iter()
        .map(|(_, path)| file(&path.join("config.json")))
        .collect()
}

/// The first checkpoint of the configuration's family with this configuration, loaded and run.
pub fn read_folder(place: &Place, bytes: &[u8]) -> Result<()> {
    let config: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let family = config["model_type"].as_str().unwrap_or("llama");
    let all = checkpoints();
    let (_, from) = all.iter().find(|(of, _)| of == family).unwrap_or(&all[0]);
    let folder = place.folder(&format!(
        "model-{}",
        from.file_name().unwrap().to_str().unwrap()
    ));
    if !folder.join("model.safetensors").exists() {
        std::fs::copy(
            from.join("model.safetensors"),
            folder.join("model.safetensors"),
        )
        .unwrap();
    }
    std::fs::write(folder.join("config.json"), bytes).unwrap();
    run(&folder)
}
