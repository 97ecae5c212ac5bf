//! Files that lie: whatever stands in a file, there is a sentence or a model, never a panic, a hang, or an allocation
//! larger than the file justifies.
//!
//! Each input is a seed of its kind, damaged as a number says: the same number gives the same input. `LMSCOPE_LIES=1000000`
//! runs a million of them, `LMSCOPE_LIES=17..18` number 17 alone. What found something is kept in tests/lies/ (its name
//! begins with its kind) and runs first.
//! To add a kind of file, add a variant of [`Kind`] with its seeds and what reads it.

mod damage;
pub mod guard;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lmscope::lab::bench::Bench;
use lmscope::lab::run::Run;
use lmscope::model::families::{FAMILIES, family_of};
use lmscope::model::gguf::Gguf;
use lmscope::model::gguf::config::describe;
use lmscope::model::load::{Options, load};
use lmscope::model::template::{Message, Sources, Template};
use lmscope::model::tokenizer::{Bos, Files, Tokenizer};
use lmscope::model::weights::{Precision, Weights};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use self::damage::{damage, damage_header, damage_json, pieces, safetensors};
use self::guard::peak_of;
use crate::text::{as_gguf, references};

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Safetensors,
    Gguf,
    Config,
    Model,
    Tokenizer,
    TokenizerConfig,
    Template,
}

const KINDS: [Kind; 7] = [
    Kind::Safetensors,
    Kind::Gguf,
    Kind::Config,
    Kind::Model,
    Kind::Tokenizer,
    Kind::TokenizerConfig,
    Kind::Template,
];

impl Kind {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// What may be allocated at once for a file of a length: what its reader takes for any file, and so much for each byte.
    fn most(self, length: usize) -> usize {
        let (any, each) = match self {
            // What a template renders is bounded by its fuel, on a thread of its own.
            Self::Safetensors | Self::Config | Self::Template => (1 << 20, 64),
            Self::Gguf => (8 << 20, 256),
            Self::Model => (32 << 20, 64),
            Self::Tokenizer | Self::TokenizerConfig => (16 << 20, 512),
        };
        any + each * length
    }
}

/// Everything that inputs are made from, and where files go that must be files.
struct Workshop {
    seeds: Vec<(Kind, Vec<Vec<u8>>)>,
    /// The weights that belong to each seed of [`Kind::Model`], by its place.
    weights: Vec<PathBuf>,
    tokenizer: Vec<u8>,
    folder: tempfile::TempDir,
}

impl Workshop {
    fn open() -> Self {
        let read = |path: &Path| std::fs::read(path).unwrap();
        let mut tokenizers: Vec<PathBuf> = ["tokenizers", "tokenizers_more"]
            .iter()
            .flat_map(|folder| std::fs::read_dir(references().join(folder)).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect();
        tokenizers.sort();
        let files = |name: &str| {
            tokenizers
                .iter()
                .map(|path| read(&path.join(name)))
                .collect::<Vec<_>>()
        };
        let more = references().join("tokenizers_more");
        let ggufs = [("gpt_2", "gpt2", "gpt-2"), ("llama_2", "llama", "default")]
            .map(|(name, model, pre)| as_gguf(&more.join(name), model, pre, &[]));
        let mut models: Vec<PathBuf> = std::fs::read_dir(references())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.join("config.json").exists() && path.join("model.safetensors").exists()
            })
            .collect();
        models.sort();
        let templates: Value =
            serde_json::from_slice(&read(&references().join("templates/templates.json"))).unwrap();
        let templates = templates["cases"].as_array().unwrap().iter();
        let configs = FAMILIES
            .iter()
            .map(|family| (family.tiny)().to_string().into_bytes());
        let seeds = vec![
            (Kind::Safetensors, vec![safetensors()]),
            (Kind::Gguf, ggufs.to_vec()),
            (Kind::Config, configs.collect()),
            (
                Kind::Model,
                models
                    .iter()
                    .map(|path| read(&path.join("config.json")))
                    .collect(),
            ),
            (Kind::Tokenizer, files("tokenizer.json")),
            (Kind::TokenizerConfig, files("tokenizer_config.json")),
            (
                Kind::Template,
                templates
                    .map(|c| c["template"].as_str().unwrap().into())
                    .collect(),
            ),
        ];
        Self {
            seeds,
            weights: models
                .iter()
                .map(|path| path.join("model.safetensors"))
                .collect(),
            tokenizer: read(&more.join("gpt_2/tokenizer.json")),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The input of a number, and the seed it was made from.
    fn input(&self, number: u64) -> (Kind, usize, Vec<u8>) {
        let mut rng = StdRng::seed_from_u64(number);
        // Those that are cheap to read, more often.
        let kind = match number % 16 {
            0..4 => Kind::Config,
            4..6 => Kind::Safetensors,
            6..8 => Kind::Gguf,
            8..12 => Kind::Tokenizer,
            12 => Kind::TokenizerConfig,
            13 => Kind::Model,
            _ => Kind::Template,
        };
        let seeds = &self.seeds.iter().find(|(of, _)| *of == kind).unwrap().1;
        let seed = rng.random_range(0..seeds.len());
        if kind == Kind::Template && rng.random_bool(0.7) {
            return (kind, seed, pieces(&mut rng).into_bytes());
        }
        let mut bytes = seeds[seed].clone();
        let is_json = !matches!(kind, Kind::Safetensors | Kind::Gguf | Kind::Template);
        for _ in 0..rng.random_range(1..4) {
            match kind {
                _ if is_json && rng.random_bool(0.8) => damage_json(&mut bytes, &mut rng),
                Kind::Safetensors if rng.random_bool(0.6) => damage_header(&mut bytes, &mut rng),
                _ => damage(&mut bytes, &mut rng),
            }
        }
        (kind, seed, bytes)
    }

    /// Reads an input as the program would.
    fn read(&self, kind: Kind, seed: usize, bytes: &[u8]) {
        match kind {
            Kind::Safetensors => {
                let folder = self.folder.path().join("safetensors");
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
                let f32 = Precision::Dense(candle_core::DType::F32);
                if let Ok(weights) = Weights::open(&folder, f32, &candle_core::Device::Cpu) {
                    let _ = weights.fingerprint();
                    for (name, shape) in [("a.weight", &[2, 3][..]), ("b", &[4]), ("c", &[1, 2, 2])]
                    {
                        let _ = weights.get(name, shape);
                    }
                }
            }
            Kind::Gguf => {
                let Ok(gguf) = Gguf::from_bytes(bytes.to_vec()) else {
                    return;
                };
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
                let _ = Template::from_gguf(&gguf);
            }
            Kind::Config => {
                if let Ok(config) = serde_json::from_slice::<Value>(bytes)
                    && let Ok(family) = family_of(&config)
                {
                    let _ = (family.blueprint)(&config);
                }
            }
            Kind::Model => {
                let folder = self.folder.path().join(format!("model{seed}"));
                if !folder.exists() {
                    std::fs::create_dir_all(&folder).unwrap();
                    std::fs::copy(&self.weights[seed], folder.join("model.safetensors")).unwrap();
                }
                std::fs::write(folder.join("config.json"), bytes).unwrap();
                if let Ok(model) = load(folder.to_str().unwrap(), &Options::default()) {
                    let _ = Bench::new(model).last_logits(&Run::plain(vec![1, 2, 3]));
                }
            }
            Kind::Tokenizer => {
                let files = Files {
                    tokenizer: bytes,
                    ..Files::default()
                };
                if let Ok(tokenizer) = Tokenizer::from_files(&files) {
                    speak(&tokenizer);
                }
            }
            Kind::TokenizerConfig => {
                let files = Files {
                    tokenizer: &self.tokenizer,
                    tokenizer_config: Some(bytes),
                    special_tokens_map: Some(bytes),
                    generation: Some(bytes),
                    config: Some(bytes),
                    older: None,
                    added: Some(bytes),
                };
                if let Ok(tokenizer) = Tokenizer::from_files(&files) {
                    speak(&tokenizer);
                }
                let sources = Sources {
                    tokenizer_config: Some(bytes),
                    special_tokens_map: Some(bytes),
                    ..Sources::default()
                };
                if let Ok(Some(template)) = Template::from_sources(&sources) {
                    let _ = template.render(&[Message::new("user", "hi")], true);
                }
            }
            Kind::Template => {
                let source = String::from_utf8_lossy(bytes);
                let sources = Sources {
                    jinja: Some(&source),
                    ..Sources::default()
                };
                let turns = [
                    ("system", "Be."),
                    ("user", "Hi é\n"),
                    ("assistant", "<think>\n</think> ho"),
                ];
                let turns = turns.map(|(role, content)| Message::new(role, content));
                if let Ok(Some(template)) = Template::from_sources(&sources) {
                    let _ = template.render(&turns, true);
                }
            }
        }
    }
}

/// Uses a tokenizer.
fn speak(tokenizer: &Tokenizer) {
    for text in [
        "",
        "the <|im_end|> <s>",
        " é日本 👍\u{301}\n\n  1234567",
        "▁a\u{0}",
    ] {
        for ids in [
            tokenizer.encode(text, Bos::Add),
            tokenizer.encode_literal(text),
        ]
        .into_iter()
        .flatten()
        {
            let _ = (tokenizer.text(&ids), tokenizer.join(&ids));
        }
    }
    let _ = (
        tokenizer.visible(0),
        tokenizer.visible(u32::MAX),
        tokenizer.single(" the"),
    );
}

/// The numbers to run.
fn numbers() -> std::ops::Range<u64> {
    let given = std::env::var("LMSCOPE_LIES").unwrap_or_default();
    match given.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => 0..given.parse().unwrap_or(10_000),
    }
}

/// The longest that one input may take; a busy machine, without optimization.
const LONGEST: Duration = Duration::from_secs(20);

#[test]
fn files_that_lie_do_no_harm() {
    let numbers = numbers();
    let workshop = Workshop::open();
    let mut kept: Vec<PathBuf> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lies"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with(".gitkeep"))
            .collect();
    kept.sort();
    // What is being read, for the one who watches.
    let now = AtomicUsize::new(0);
    let found: Mutex<Vec<String>> = Mutex::default();
    let one = |name: &str, kind: Kind, seed: usize, bytes: &[u8]| {
        let started = Instant::now();
        let mut peak = 0;
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            peak = peak_of(|| workshop.read(kind, seed, bytes));
        }));
        let (took, most) = (started.elapsed(), kind.most(bytes.len()));
        let wrong = match read {
            Err(_) => "a panic".to_owned(),
            Ok(()) if peak > most => format!("{peak} bytes at once; {most} is the most"),
            Ok(()) if took > LONGEST => format!("{took:?}"),
            Ok(()) => return (peak, took),
        };
        let file = std::env::temp_dir().join(format!("lmscope-lie-{}-{name}", kind.name()));
        std::fs::write(&file, bytes).unwrap();
        let mut found = found.lock().unwrap();
        let of = kind.name();
        found.push(format!(
            "input {name} ({of}, made from seed {seed}): {wrong}; see {}",
            file.display()
        ));
        assert!(found.len() < 100, "{}", found.join("\n"));
        (peak, took)
    };
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            for path in &kept {
                let name = path.file_name().unwrap().to_str().unwrap();
                let kind = KINDS
                    .iter()
                    .find(|kind| name.split('-').next() == Some(&kind.name()));
                let kind = *kind.unwrap_or_else(|| panic!("{name} has no kind"));
                one(name, kind, 0, &std::fs::read(path).unwrap());
            }
            let mut highest = vec![(0, Duration::ZERO, 0u32, Duration::ZERO); KINDS.len()];
            for number in numbers {
                now.store(number as usize, Ordering::Relaxed);
                let (kind, seed, bytes) = workshop.input(number);
                let (peak, took) = one(&number.to_string(), kind, seed, &bytes);
                let high = &mut highest[KINDS.iter().position(|of| *of == kind).unwrap()];
                *high = (
                    high.0.max(peak),
                    high.1.max(took),
                    high.2 + 1,
                    high.3 + took,
                );
            }
            for (kind, (peak, longest, count, all)) in KINDS.iter().zip(highest) {
                println!(
                    "{kind:?}: {count} inputs in {all:?}, at most {peak} bytes and {longest:?}"
                );
            }
        });
        let mut last = (usize::MAX, Instant::now());
        while !worker.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            let at = now.load(Ordering::Relaxed);
            if at != last.0 {
                last = (at, Instant::now());
            } else if last.1.elapsed() > 3 * LONGEST {
                eprintln!(
                    "input {at} does not come to an end; see it with LMSCOPE_LIES={at}..{}",
                    at + 1
                );
                std::process::abort();
            }
        }
        worker.join().unwrap();
    });
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
