//! Files that lie: wrong shapes, missing keys, numbers that are not finite, archives that would unpack to more than there is,
//! pickles that call. Each is refused in words that say what to do, without running anything and within little memory.

use std::collections::HashMap;
use std::path::Path;

use lmscope::dictionaries::formats;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// Writes a safetensors file of f32 tensors.
pub fn write(path: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., numbers)| numbers.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap();
        ((*name).to_string(), view)
    });
    serialize_to_file(views, None, path).unwrap();
}

/// A folder of SAELens without biases.
pub fn saelens(
    folder: &Path,
    width: usize,
    features: usize,
    w_enc: &[f32],
    w_dec: &[f32],
    kind: &str,
) {
    std::fs::create_dir_all(folder).unwrap();
    let tensors = [
        ("W_enc", &[width, features][..], w_enc.to_vec()),
        ("W_dec", &[features, width], w_dec.to_vec()),
        ("b_enc", &[features], vec![0.0; features]),
        ("b_dec", &[width], vec![0.0; width]),
        ("threshold", &[features], vec![0.1; features]),
    ];
    write(&folder.join("sae_weights.safetensors"), &tensors);
    let config = format!(
        r#"{{"architecture": "{kind}", "d_in": {width}, "d_sae": {features}, "k": 4, "metadata": {{"sae_lens_version": "6.54.12", "model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"}}}}"#
    );
    std::fs::write(folder.join("cfg.json"), config).unwrap();
}

fn refused(path: &Path) -> String {
    match formats::open(path) {
        Ok(_) => panic!("{} was read", path.display()),
        Err(error) => error.to_string(),
    }
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (i * 7 % 13) as f32 / 13.0 - 0.4)
        .collect()
}

/// Opens a folder of SAELens after something was changed in it.
fn changed(change: impl Fn(&Path, &mut HashMap<&'static str, (Vec<usize>, Vec<f32>)>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    saelens(path, 8, 16, &numbers(128), &numbers(128), "jumprelu");
    let mut tensors = HashMap::from([
        ("W_enc", (vec![8, 16], numbers(128))),
        ("W_dec", (vec![16, 8], numbers(128))),
        ("b_enc", (vec![16], numbers(16))),
        ("b_dec", (vec![8], numbers(8))),
        ("threshold", (vec![16], vec![0.1; 16])),
    ]);
    change(path, &mut tensors);
    let all: Vec<(&str, &[usize], Vec<f32>)> = tensors
        .iter()
        .map(|(name, (shape, numbers))| (*name, &shape[..], numbers.clone()))
        .collect();
    write(&path.join("sae_weights.safetensors"), &all);
    refused(path)
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let turned = changed(|_, t| {
        t.get_mut("W_enc").unwrap().0 = vec![16, 8];
    });
    assert!(
        turned.contains("d_sae 16") && turned.contains("transposed"),
        "{turned}"
    );
    let turned = changed(|_, t| {
        t.get_mut("W_dec").unwrap().0 = vec![8, 16];
    });
    assert!(
        turned.contains("b_dec") && turned.contains("[16]"),
        "{turned}"
    );
    let missing = changed(|_, t| {
        t.remove("threshold");
    });
    assert!(
        missing.contains("lacks `threshold`") && missing.contains("W_dec"),
        "{missing}"
    );
    let bad = changed(|_, t| t.get_mut("threshold").unwrap().1[3] = f32::NAN);
    assert!(
        bad.contains("thresholds") && bad.contains("not finite"),
        "{bad}"
    );
    let short = changed(|_, t| *t.get_mut("b_enc").unwrap() = (vec![15], numbers(15)));
    assert!(short.contains("`b_enc` is [15]; [16]"), "{short}");
    let deep = changed(|_, t| t.get_mut("W_dec").unwrap().0 = vec![2, 8, 8]);
    assert!(deep.contains("[features, width] is expected"), "{deep}");
    let flat = changed(|_, t| {
        *t = HashMap::from([
            ("W_enc", (vec![0, 16], vec![])),
            ("W_dec", (vec![16, 0], vec![])),
            ("b_enc", (vec![16], numbers(16))),
            ("b_dec", (vec![0], vec![])),
            ("threshold", (vec![16], numbers(16))),
        ]);
    });
    assert!(
        flat.contains("d_in 8") || flat.contains("width 0"),
        "{flat}"
    );
    let rewrite = |from: &'static str, to: &'static str| {
        changed(move |path, _| {
            let path = path.join("cfg.json");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from));
            std::fs::write(&path, text.replace(from, to)).unwrap();
        })
    };
    let other = rewrite("jumprelu", "temp\\u001boral");
    assert!(
        other.contains("temp␛oral") && other.contains("jumprelu"),
        "{other}"
    );
    let none = rewrite(
        r#""jumprelu", "d_in": 8, "d_sae": 16, "k": 4"#,
        r#""topk", "d_in": 8, "d_sae": 16"#,
    );
    assert!(none.contains("no k"), "{none}");
    let zero = rewrite(
        r#""jumprelu", "d_in": 8, "d_sae": 16, "k": 4"#,
        r#""topk", "k": 0"#,
    );
    assert!(zero.contains("its k is 0"), "{zero}");
    for (given, said) in [
        (r#""topk", "k": 17"#, "its k is 17, for 16 features"),
        (r#""topk", "k": -3"#, "says k -3"),
    ] {
        let wrong = rewrite(r#""jumprelu", "d_in": 8, "d_sae": 16, "k": 4"#, given);
        assert!(wrong.contains(said), "{wrong}");
    }
    let words = rewrite("{\"architecture\"", "\"architecture\"");
    assert!(words.contains("not JSON"), "{words}");
    let head = rewrite(r#""model_name""#, r#""hook_head_index": 3, "model_name""#);
    assert!(head.contains("one head"), "{head}");
}

#[test]
fn numbers_that_are_not_finite_end_an_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let mut w_enc = numbers(128);
    w_enc[5] = f32::NAN;
    saelens(folder.path(), 8, 16, &w_enc, &numbers(128), "standard");
    let dictionary = formats::open(folder.path()).unwrap().remove(0);
    let error = dictionary.encode(&[&[1.0; 8]]).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}

#[test]
fn halves_of_files_are_refused() {
    for name in [
        "saelens_standard/sae_weights.safetensors",
        "gemma-scope-2b-pt-res/layer_1/width_16/average_l0_4/params.npz",
        "dictionary_learning/AutoEncoder/trainer_0/ae.pt",
        "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5/layer1.sae.pt",
    ] {
        let from = super::folder().join(name);
        let folder = tempfile::tempdir().unwrap();
        // The folders above say layer and k.
        let to = folder.path().join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        for entry in std::fs::read_dir(from.parent().unwrap()).unwrap().flatten() {
            std::fs::copy(entry.path(), to.with_file_name(entry.file_name())).unwrap();
        }
        let given = if name.ends_with(".sae.pt") {
            to.as_path()
        } else {
            to.parent().unwrap()
        };
        let bytes = std::fs::read(&from).unwrap();
        formats::open(given).unwrap();
        for part in [0, 1, 7, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&to, &bytes[..part]).unwrap();
            refused(given);
        }
        // One bit at a time: read or refused, never worse.
        let step = (bytes.len() / 199).max(1);
        for at in (0..bytes.len()).step_by(step) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&to, &bytes).unwrap();
            if let Ok(found) = formats::open(given) {
                let _read = found[0].encode(&[&[0.5; 8]]);
            }
        }
    }
}

/// The directory entry and data of one member of a zip archive.
fn archive(members: &[(&str, Vec<u8>, u64)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data, size) in members {
        let at = out.len() as u32;
        let mut common = vec![20, 0, 0, 0, 8, 0, 0, 0, 0, 0];
        common.extend([0u8; 4]);
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((*size as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend([0, 0]);
        out.extend(name.bytes());
        out.extend(data);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 12]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.bytes());
    }
    let at = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend((members.len() as u16).to_le_bytes());
    out.extend((members.len() as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// An array of zeros that is small in the file: `[rows, columns]` in f32.
fn bomb(rows: usize, columns: usize) -> (Vec<u8>, u64) {
    let words =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let padded = (10 + words.len() + 1).next_multiple_of(64) - 10;
    let mut head = b"\x93NUMPY\x01\0".to_vec();
    head.extend((padded as u16).to_le_bytes());
    head.extend(words.bytes());
    head.resize(10 + padded - 1, b' ');
    head.push(b'\n');
    let size = (head.len() + rows * columns * 4) as u64;
    // The header as a stored block, and zeros as many equal blocks of deflate.
    head.resize(head.len() + 1_000_000, 0);
    (miniz_oxide::deflate::compress_to_vec(&head, 9), size)
}

#[test]
fn archives_that_unpack_to_more_than_there_is_are_refused_with_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("params.npz");
    let (data, size) = bomb(20_000, 20_000);
    let members = ["W_enc.npy", "W_dec.npy"].map(|name| (name, data.clone(), size));
    std::fs::write(&path, archive(&members)).unwrap();
    let error = refused(&path);
    assert!(
        error.contains("[20000, 20000]") && error.contains("1.5 GiB"),
        "{error}"
    );
    // A claim within the bound that the data do not keep.
    let (data, size) = bomb(1000, 1000);
    std::fs::write(&path, archive(&[("W_enc.npy", data.clone(), size)])).unwrap();
    let error = refused(&path);
    assert!(error.contains("damaged"), "{error}");
    // A header with another claim than the directory.
    std::fs::write(&path, archive(&[("W_enc.npy", data, size + 4)])).unwrap();
    let error = refused(&path);
    assert!(error.contains("unpacks to"), "{error}");
}

#[test]
fn nothing_in_a_file_is_executed() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("it_ran");
    let word = format!("touch {}", marker.display());
    let mut call = b"cos\nsystem\nX".to_vec();
    call.extend((word.len() as u32).to_le_bytes());
    call.extend(word.bytes());
    call.extend(b"\x85R.");
    let path = folder.path().join("SAE-l1.pt");
    // One pickle, as before PyTorch 1.6.
    std::fs::write(&path, [b"\x80\x02".to_vec(), call.clone()].concat()).unwrap();
    let error = refused(&path);
    assert!(
        error.contains("not a dictionary") || error.contains("executed"),
        "{error}"
    );
    // In an archive.
    let inner = [b"\x80\x02".to_vec(), call].concat();
    let stored = |name: &str, data: &[u8]| {
        let mut bytes = archive(&[(name, data.to_vec(), data.len() as u64)]);
        // Not compressed.
        for at in 0..bytes.len() - 12 {
            if bytes[at..].starts_with(b"PK\x03\x04") {
                bytes[at + 8] = 0;
            } else if bytes[at..].starts_with(b"PK\x01\x02") {
                bytes[at + 10] = 0;
            }
        }
        bytes
    };
    std::fs::create_dir(folder.path().join("trainer_0")).unwrap();
    let path = folder.path().join("trainer_0/ae.pt");
    std::fs::write(&path, stored("archive/data.pkl", &inner)).unwrap();
    std::fs::write(
        path.with_file_name("config.json"),
        "{\"trainer\": {\"dict_class\": \"AutoEncoder\"}}",
    )
    .unwrap();
    let error = refused(path.parent().unwrap());
    assert!(
        error.contains("os.system") || error.contains("posix.system"),
        "{error}"
    );
    // Objects in numpy's array.
    let mut object = b"\x93NUMPY\x01\0\x46\0".to_vec();
    object.extend(
        format!(
            "{:<69}\n",
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        )
        .bytes(),
    );
    object.extend(inner);
    let path = folder.path().join("params.npz");
    std::fs::write(&path, stored("W_enc.npy", &object)).unwrap();
    let error = refused(&path);
    assert!(error.contains("executed"), "{error}");
    assert!(!marker.exists());
}

#[test]
fn what_is_no_dictionary_is_told_what_lies_in_it() {
    let error = refused(&super::folder());
    assert!(
        error.contains("saelens_standard") || error.contains("Give one of those in it"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let error = refused(folder.path());
    assert!(
        error.contains("no folder of it is one") && error.contains("SAELens"),
        "{error}"
    );
    let error = refused(&folder.path().join("nothing"));
    assert!(error.contains("exists"), "{error}");
}
