//! A dictionary of tens of gigabytes: how much memory it takes to open, encode and decode. The file has holes, so that it takes
//! no room on the disk.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use lmscope::dictionaries::formats;

const F: usize = 75_000;
const D: usize = 4096;
const TARGETS: usize = 20;

/// A tensor of zeros: its name, type, bytes a number and shape, and the numbers at its beginning.
type Zeros<'a> = (&'a str, &'a str, usize, &'a [usize], &'a [f32]);

/// Writes a safetensors file of zeros, but for the numbers given at the beginning of a tensor.
fn holes(path: &Path, tensors: &[Zeros]) -> u64 {
    let (mut header, mut at, mut starts) = (String::from("{"), 0usize, Vec::new());
    for (name, dtype, width, shape, _) in tensors {
        let end = at + shape.iter().product::<usize>() * width;
        let comma = if header.len() > 1 { "," } else { "" };
        header.push_str(&format!(
            "{comma}\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"
        ));
        starts.push(at);
        at = end;
    }
    header.push('}');
    let padded = header.len().next_multiple_of(8);
    let header = format!("{header:<padded$}");
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let begin = 8 + header.len() as u64;
    file.set_len(begin + at as u64).unwrap();
    for ((.., numbers), start) in tensors.iter().zip(starts) {
        file.seek(SeekFrom::Start(begin + start as u64)).unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        file.write_all(&bytes).unwrap();
    }
    begin + at as u64
}

/// Runs only in the process that the test below starts: opens the set that is named and says its largest memory in kB.
#[test]
fn child() {
    let Some(path) = std::env::var_os("LMSCOPE_TEST_LARGE") else {
        return;
    };
    let dictionary = formats::open(Path::new(&path)).unwrap().remove(0);
    let x = vec![0.5f32; 3 * D];
    let encoded = dictionary.encode(&[&x]).unwrap();
    assert!(encoded.features.iter().all(|active| active.len() == 50));
    let last = dictionary.targets.len() - 1;
    let sum: f32 = dictionary.decode(last, &encoded, &x).unwrap().iter().sum();
    assert_eq!((last + 1, sum), (TARGETS, 0.0));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    println!("{peak}");
}

#[cfg(target_os = "linux")]
#[test]
fn tens_of_gigabytes_are_read_within_two() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut bias = vec![-1.0f32; F];
    bias[1000..1050].fill(1.0);
    let encoder = [
        ("W_enc_0", "F32", 4, &[F, D][..], &[][..]),
        ("b_enc_0", "F32", 4, &[F], &bias[..]),
        ("b_dec_0", "F32", 4, &[D], &[]),
    ];
    let mut size = holes(&path.join("W_enc_0.safetensors"), &encoder);
    let decoder = [("W_dec_0", "F32", 4, &[F, TARGETS, D][..], &[][..])];
    size += holes(&path.join("W_dec_0.safetensors"), &decoder);
    assert!(size > 24 << 30, "{size}");
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["dictionaries::large::child", "--exact", "--nocapture"])
        .env("LMSCOPE_TEST_LARGE", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let peak = said
        .split("VmHWM:")
        .nth(1)
        .and_then(|rest| rest.trim().split(' ').next());
    let peak: u64 = peak.unwrap().parse().unwrap();
    // The encoder alone has 1.2 GB: it is read in strips, and the decoder's rows of 50 features.
    assert!(peak < 900 << 10, "{peak} kB");
}
