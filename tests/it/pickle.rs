//! PyTorch checkpoints: the same model as its safetensors, and pickles that want more than tensors.
//!
//! Invariant: `llama_pickle` was written by `torch.save` (`tests/references/pickles.py`); the hostile files are written here.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmscope::model::checkpoint::torch::Pickled;
use lmscope::model::load::{Options, load};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/references")
        .join(case)
}

fn shards() -> Vec<PathBuf> {
    let file = |no| folder("llama_pickle").join(format!("pytorch_model-{no:05}-of-00002.bin"));
    vec![file(1), file(2)]
}

#[test]
fn every_tensor_is_the_one_that_was_saved() -> Outcome {
    let pickled = Pickled::open(&shards())?;
    let expected = candle_core::safetensors::load(
        folder("llama_bf16").join("model.safetensors"),
        &Device::Cpu,
    )?;
    for (name, tensor) in &expected {
        let found = pickled.get(name)?.ok_or(format!("no {name}"))?;
        assert_eq!(
            (found.shape, found.dtype),
            (tensor.dims(), DType::BF16),
            "{name}"
        );
        let found = Tensor::from_raw_buffer(&found.bytes, DType::BF16, found.shape, &Device::Cpu)?;
        let bits = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        assert_eq!(bits(&found)?, bits(tensor)?, "{name}");
    }
    assert_eq!(pickled.names().count(), expected.len() + 1);
    let mask = "model.layers.0.self_attn.causal_mask";
    let wrong = pickled.get(mask).map(|_| ()).unwrap_err().to_string();
    assert!(
        wrong.contains(mask) && wrong.contains("BoolStorage"),
        "{wrong}"
    );
    assert!(pickled.get("gone")?.is_none());
    Ok(())
}

#[test]
fn a_pickled_checkpoint_loads_like_its_safetensors() -> Outcome {
    let logits = |case: &str| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        let options = Options {
            dtype: Some("f32".into()),
            device: Some("cpu".into()),
            ..Options::default()
        };
        let model = load(&folder(case).to_string_lossy(), &options)?;
        let mut lab = lmscope::lab::Lab::new(model);
        let run = lmscope::lab::run::Run::plain(vec![1, 5, 9, 2, 40]);
        let recording = lab.record(&run, &["logits".parse()?])?;
        Ok(recording.get("logits".parse()?)?.flatten_all()?.to_vec1()?)
    };
    assert_eq!(logits("llama_pickle")?, logits("llama_bf16")?);
    Ok(())
}

/// A zip as `torch.save` writes it: entries stored as they are.
fn zip(entries: &[(&str, Vec<u8>)], method: u16) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = out.len() as u32;
        let mut common = Vec::new();
        common.extend(0u16.to_le_bytes()); // flags
        common.extend(method.to_le_bytes());
        common.extend([0; 8]); // time, date and checksum, which nobody reads here
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend(0u16.to_le_bytes()); // extra
        out.extend(b"PK\x03\x04\x14\0");
        out.extend(&common);
        out.extend(name.bytes());
        out.extend(data);
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]); // comment, disk and attributes
        directory.extend(at.to_le_bytes());
        directory.extend(name.bytes());
    }
    let at = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend(0u16.to_le_bytes());
    out
}

fn open(bytes: &[u8]) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = folder.path().join("pytorch_model.bin");
    std::fs::write(&path, bytes).map_err(|e| e.to_string())?;
    Pickled::open(&[path])
        .map(|_| ())
        .map_err(|e| e.to_string())
}

/// A checkpoint with one vector of two numbers; `size` and `offset` are what it claims.
fn vector(size: u8, offset: u8, storage: &str) -> Vec<u8> {
    let mut p = b"\x80\x02}(".to_vec();
    let text = |s: &str| {
        [
            b"X".as_slice(),
            &(s.len() as u32).to_le_bytes(),
            s.as_bytes(),
        ]
        .concat()
    };
    p.extend(text("w"));
    p.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    p.extend(text("storage"));
    p.extend(format!("ctorch\n{storage}\n").bytes());
    p.extend(text("0"));
    p.extend(text("cpu"));
    p.extend(b"K\x02tQ"); // two elements
    p.extend([b'K', offset, b'K', size, 0x85, b'K', 1, 0x85, 0x89]);
    p.extend(b"ccollections\nOrderedDict\n)RtRu.");
    zip(&[("a/data.pkl", p), ("a/data/0", vec![0; 8])], 0)
}

#[test]
fn a_pickle_that_wants_more_than_tensors_is_refused_by_name() {
    assert_eq!(open(&vector(2, 0, "FloatStorage")), Ok(()));
    let call = b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.".to_vec();
    let wrong = open(&zip(&[("a/data.pkl", call)], 0)).unwrap_err();
    assert!(wrong.contains("`os.system`"), "{wrong}");
    let object = b"\x80\x02csubprocess\nPopen\n)\x81}b.".to_vec();
    let wrong = open(&zip(&[("a/data.pkl", object)], 0)).unwrap_err();
    assert!(wrong.contains("`subprocess.Popen`"), "{wrong}");
    let other = b"\x80\x02cos\nsystem\n.".to_vec();
    let wrong = open(&zip(&[("a/data.pkl", other)], 0)).unwrap_err();
    assert!(wrong.contains("no dict"), "{wrong}");
}

#[test]
fn tensors_beyond_their_storage_are_refused() {
    for (size, offset) in [(3, 0), (2, 1), (1, 2), (255, 0)] {
        let wrong = open(&vector(size, offset, "FloatStorage")).unwrap_err();
        assert!(wrong.contains("storage"), "{size} from {offset}: {wrong}");
    }
    let wrong = open(&vector(2, 0, "DoubleStorage")).unwrap_err();
    assert!(wrong.contains("storage"), "{wrong}");
}

/// Sharing doubles at every step: a reader that copies would need 2^40 values.
#[test]
fn sharing_costs_nothing() {
    let mut bomb = b"\x80\x02)".to_vec();
    for id in 0..40u8 {
        bomb.extend([b'q', id, b'h', id, 0x86]);
    }
    bomb.push(b'.');
    let wrong = open(&zip(&[("a/data.pkl", bomb)], 0)).unwrap_err();
    assert!(wrong.contains("no dict"), "{wrong}");
    // And a deep nest is no deep recursion.
    let deep = [b"\x80\x02)".as_slice(), &vec![0x85; 1_000_000], b"."].concat();
    assert!(open(&zip(&[("a/data.pkl", deep)], 0)).is_err());
}

#[test]
fn other_formats_are_told_apart() {
    for (bytes, word) in [
        (
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(),
            "before 1.6",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1".to_vec(),
            "Git LFS",
        ),
        (b"<html>".to_vec(), "not a PyTorch checkpoint"),
        (zip(&[("a/data.pkl", b".".to_vec())], 8), "compressed"),
        (zip(&[("a/other", b".".to_vec())], 0), "data.pkl"),
        (b"PK\x03\x04".to_vec(), "zip directory"),
    ] {
        let wrong = open(&bytes).unwrap_err();
        assert!(wrong.contains(word), "{wrong}");
    }
}

#[test]
fn files_that_lie_do_no_harm() -> Outcome {
    let mut rng = StdRng::seed_from_u64(2);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("pytorch_model.bin");
    for whole in [vector(2, 0, "FloatStorage"), std::fs::read(&shards()[0])?] {
        // What is no tensor's data: the pickle at the start and the directory at the end.
        let edge = whole.len().min(4_000);
        for _ in 0..600 {
            let mut bytes = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                let mut at = rng.random_range(0..2 * edge);
                if at >= edge {
                    at = whole.len() - 1 - (at - edge);
                }
                match rng.random_range(0..3) {
                    0 => bytes[at] = rng.random(),
                    1 => bytes[at] ^= 1 << rng.random_range(0..8),
                    _ => {
                        let end = (at + 4).min(bytes.len());
                        bytes[at..end].fill(0xff);
                    }
                }
            }
            std::fs::write(&path, &bytes)?;
            if let Ok(pickled) = Pickled::open(std::slice::from_ref(&path)) {
                for name in pickled.names() {
                    if let Ok(Some(tensor)) = pickled.get(name) {
                        let count: usize = tensor.shape.iter().product();
                        assert_eq!(count * tensor.dtype.size_in_bytes(), tensor.bytes.len());
                    }
                }
            }
        }
    }
    Ok(())
}
