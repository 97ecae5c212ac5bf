//! The kinds of input: what each looks like, and how the program reads it.
//!
//! Invariant: whatever stands in an input, there is a sentence or a value, never a panic, a hang, or an allocation larger
//! than the input justifies. [`Kind::read`] goes through the readers that the program uses and panics where a promise
//! that belongs to the kind is broken (what was accepted prints and parses back, a picture has no control characters).
//! To add a kind, add a row to [`KINDS`] with what reads it, its seeds, and how it is damaged.

mod damage;
pub mod guard;
mod hub;
mod lab;
mod models;
mod screen;
mod tokens;

use std::cell::{RefCell, RefMut};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lmscope::error::Result;
use lmscope::lab::Lab;
use lmscope::model::Model;
use lmscope::model::load::Options;
use lmscope::model::network::families::FAMILIES;
use lmscope::text;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use damage::Form;

/// A kind of input.
pub struct Kind {
    /// Its name: a folder of the corpus, the beginning of a file's name.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// How its inputs are damaged.
    pub form: Form,
    /// How many of the gate's inputs are of this kind, in proportion.
    pub share: usize,
    /// What may be allocated at once: for any input, and for each byte of it.
    pub most: (usize, usize),
    /// Inputs that it accepts, made by our own writers or by what other programs wrote for our tests.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads an input as the program would; `Err` is the sentence with which it was refused.
    pub read: fn(&Place, &[u8]) -> Result<()>,
}

const KB: usize = 1 << 10;
const MB: usize = 1 << 20;

/// Every kind. What is missing: session files, which nothing reads.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "safetensors",
        about: "safetensors weights",
        form: Form::Header,
        share: 16,
        most: (MB, 64),
        seeds: models::safetensors,
        read: models::read_safetensors,
    },
    Kind {
        name: "gguf",
        about: "GGUF, tokenizer and model in it",
        form: Form::Gguf,
        share: 16,
        most: (32 * MB, 256),
        seeds: models::ggufs,
        read: models::read_gguf,
    },
    Kind {
        name: "pickle",
        about: "PyTorch pickles",
        form: Form::Bytes,
        share: 12,
        most: (4 * MB, 64),
        seeds: models::pickles,
        read: models::read_pickle,
    },
    Kind {
        name: "dictionary",
        about: "weights of sparse autoencoders",
        form: Form::Bytes,
        share: 10,
        // Arrays of numpy may be compressed, a thousandfold at most.
        most: (16 * MB, 4096),
        seeds: models::dictionaries,
        read: models::read_dictionary,
    },
    Kind {
        name: "index",
        about: "indices of shards",
        form: Form::Json,
        share: 6,
        most: (4 * MB, 64),
        seeds: models::indices,
        read: models::read_index,
    },
    Kind {
        name: "sparse",
        about: "headers that lie over sparse files",
        form: Form::Bytes,
        share: 6,
        // The header of a safetensors file may have 100 MB, and here the file has them.
        most: (256 * MB, 256),
        seeds: models::sparse,
        read: models::read_sparse,
    },
    Kind {
        name: "inplace",
        about: "a model's header in place",
        form: Form::Json,
        share: 6,
        most: (16 * MB, 256),
        seeds: models::headers,
        read: models::read_header,
    },
    Kind {
        name: "config",
        about: "config.json of every family",
        form: Form::Json,
        share: 30,
        most: (MB, 64),
        seeds: models::configs,
        read: models::read_config,
    },
    Kind {
        name: "model",
        about: "config.json with weights",
        form: Form::Json,
        share: 8,
        most: (32 * MB, 64),
        seeds: models::folders_of,
        read: models::read_folder,
    },
    Kind {
        name: "tokenizer",
        about: "tokenizer.json",
        form: Form::Json,
        share: 24,
        most: (16 * MB, 512),
        seeds: tokens::tokenizers,
        read: tokens::read_tokenizer,
    },
    Kind {
        name: "tokenizerconfig",
        about: "tokenizer_config and generation_config",
        form: Form::Json,
        share: 8,
        most: (16 * MB, 512),
        seeds: tokens::configs,
        read: tokens::read_config,
    },
    Kind {
        name: "template",
        about: "chat templates",
        form: Form::Template,
        share: 12,
        most: (MB, 64),
        seeds: tokens::templates,
        read: tokens::read_template,
    },
    Kind {
        name: "direction",
        about: "directions of every format",
        form: Form::Binary,
        share: 12,
        most: (4 * MB, 128),
        seeds: lab::directions,
        read: lab::read_direction,
    },
    Kind {
        name: "lens",
        about: "tuned and Jacobian lenses",
        form: Form::Bytes,
        share: 8,
        most: (4 * MB, 64),
        seeds: lab::lenses,
        read: lab::read_lens,
    },
    Kind {
        name: "statistics",
        about: "statistics",
        form: Form::Header,
        share: 8,
        most: (MB, 64),
        seeds: lab::statistics,
        read: lab::read_statistics,
    },
    Kind {
        name: "maps",
        about: "maps of Patchscopes",
        form: Form::Header,
        share: 8,
        most: (MB, 64),
        seeds: lab::maps,
        read: lab::read_maps,
    },
    Kind {
        name: "edit",
        about: "the edit grammar, and the edits on a model",
        form: Form::Words(damage::EDITS),
        share: 16,
        most: (64 * MB, 64 * KB),
        seeds: lab::edits,
        read: lab::read_edit,
    },
    Kind {
        name: "preset",
        about: "presets",
        form: Form::Words(damage::EDITS),
        share: 8,
        most: (MB, 128),
        seeds: lab::presets,
        read: lab::read_preset,
    },
    Kind {
        name: "unitset",
        about: "unit sets",
        form: Form::Words(damage::TOML),
        share: 6,
        most: (MB, 128),
        seeds: lab::unit_sets,
        read: lab::read_unit_set,
    },
    Kind {
        name: "library",
        about: "template libraries",
        form: Form::Words(damage::TOML),
        share: 6,
        most: (MB, 128),
        seeds: lab::libraries,
        read: lab::read_library,
    },
    Kind {
        name: "list",
        about: "words, demonstrations, facts, hops, pairs, texts",
        form: Form::Words(damage::LISTS),
        share: 5,
        most: (64 * MB, 16 * KB),
        seeds: lab::lists,
        read: lab::read_list,
    },
    Kind {
        name: "theme",
        about: "themes",
        form: Form::Words(damage::TOML),
        share: 6,
        most: (8 * MB, 256),
        seeds: screen::themes,
        read: screen::read_theme,
    },
    Kind {
        name: "keymap",
        about: "keys.toml",
        form: Form::Words(damage::TOML),
        share: 6,
        most: (8 * MB, 256),
        seeds: screen::keymaps,
        read: screen::read_keymap,
    },
    Kind {
        name: "keys",
        about: "keys, pastes and sizes",
        form: Form::Words(damage::KEYS),
        share: 5,
        most: (64 * MB, 16 * KB),
        seeds: screen::keys,
        read: screen::read_keys,
    },
    Kind {
        name: "arguments",
        about: "arguments of every subcommand",
        form: Form::Words(damage::ARGUMENTS),
        share: 6,
        most: (64 * MB, 16 * KB),
        seeds: screen::arguments,
        read: screen::read_arguments,
    },
    Kind {
        name: "hub",
        about: "answers of a hub",
        form: Form::Words(damage::HTTP),
        share: 1,
        most: (16 * MB, 256),
        seeds: hub::answers,
        read: hub::read,
    },
];

/// The kind of a name.
pub fn named(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// The repository, whichever crate this is compiled in.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    if here.join("src/kinds").is_dir() {
        here.parent().unwrap().to_path_buf()
    } else {
        here.to_path_buf()
    }
}

/// What other programs wrote for our tests.
fn references() -> PathBuf {
    repository().join("tests/references")
}

fn file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The folders in a folder, in order.
fn folders(of: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(of)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    all
}

/// Where files go that must be files, and the models that others are read for.
pub struct Place {
    folder: tempfile::TempDir,
    demo: RefCell<Option<Lab>>,
    tiny: RefCell<Option<Lab>>,
    hub: RefCell<Option<hub::Server>>,
}

impl Place {
    /// An empty one, in memory where that is possible.
    pub fn open() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        Self {
            folder: folder.unwrap(),
            demo: RefCell::default(),
            tiny: RefCell::default(),
            hub: RefCell::default(),
        }
    }

    /// A folder of its own.
    fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A file with this content.
    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The demo model, which has a tokenizer and directions.
    fn demo(&self) -> RefMut<'_, Lab> {
        let open = || Lab::open("demo", &Options::default()).unwrap();
        RefMut::map(self.demo.borrow_mut(), |lab| lab.get_or_insert_with(open))
    }

    /// A random llama of three layers, as the reference files are made for.
    fn tiny(&self) -> RefMut<'_, Lab> {
        let open = || {
            let llama = FAMILIES.iter().find(|f| f.name == "llama").unwrap();
            Lab::new(Model::tiny(llama, 7).unwrap())
        };
        RefMut::map(self.tiny.borrow_mut(), |lab| lab.get_or_insert_with(open))
    }

    /// Loads what inputs of every kind need, so that it is not counted as theirs.
    pub fn warm(&self) {
        drop((self.demo(), self.tiny()));
    }
}

/// What became of an input.
#[derive(Clone, Debug)]
pub struct Read {
    /// What was said of it, when it was refused.
    pub refused: Option<String>,
    /// Bytes allocated at once, at the most.
    pub peak: usize,
    /// How long it took.
    pub took: Duration,
}

/// The longest that one input may take; a busy machine, without optimization.
pub const LONGEST: Duration = Duration::from_secs(20);

/// Reads an input; a panic in the reader passes through.
///
/// # Errors
///
/// Says which promise was broken.
pub fn read(kind: &Kind, place: &Place, bytes: &[u8]) -> std::result::Result<Read, String> {
    let began = Instant::now();
    let mut outcome = Ok(());
    let peak = guard::peak_of(|| outcome = (kind.read)(place, bytes));
    let took = began.elapsed();
    let most = kind.most.0 + kind.most.1 * bytes.len();
    if peak > most {
        return Err(format!("{peak} bytes at once; {most} is the most"));
    }
    if took > LONGEST {
        return Err(format!("it took {took:?}"));
    }
    let mut refused = None;
    if let Err(error) = &outcome {
        let sentence = error.to_string();
        let said = lmscope::out::stderr_line(&sentence);
        if sentence.trim().is_empty() {
            return Err("it was refused without a word".into());
        }
        if !text::is_safe(&said) || said.lines().count() != 1 {
            return Err(format!("what is said of it is not one safe line: {said:?}"));
        }
        // A sentence may quote what was written, and it is still a sentence.
        if said.len() > 16 * KB + 16 * bytes.len() {
            return Err(format!("it was refused with {} bytes", said.len()));
        }
        refused = Some(said);
    }
    Ok(Read {
        refused,
        peak,
        took,
    })
}

/// Every kind with its seeds.
pub struct Seeds(Vec<Vec<Vec<u8>>>);

impl Seeds {
    /// Makes them.
    pub fn new() -> Self {
        Self(KINDS.iter().map(|kind| (kind.seeds)()).collect())
    }

    /// The seeds of a kind.
    pub fn of(&self, kind: &Kind) -> &[Vec<u8>] {
        let at = KINDS.iter().position(|k| k.name == kind.name).unwrap();
        &self.0[at]
    }

    /// The input of a number, and the place of the seed it was made from: the same number gives the same input.
    pub fn input(&self, number: u64) -> (&'static Kind, usize, Vec<u8>) {
        let mut rng = StdRng::seed_from_u64(number);
        let all: usize = KINDS.iter().map(|kind| kind.share).sum();
        let mut at = rng.random_range(0..all);
        let kind = KINDS.iter().find(|kind| {
            let here = at < kind.share;
            at = at.saturating_sub(kind.share);
            here
        });
        let kind = kind.unwrap();
        let (seed, bytes) = self.fresh(kind, &mut rng);
        (kind, seed, bytes)
    }

    /// A fresh input of a kind, and the place of the seed it was made from.
    pub fn fresh(&self, kind: &Kind, rng: &mut StdRng) -> (usize, Vec<u8>) {
        let seeds = self.of(kind);
        let seed = rng.random_range(0..seeds.len());
        let mut bytes = seeds[seed].clone();
        for _ in 0..rng.random_range(1..4) {
            kind.form.damage(&mut bytes, rng);
        }
        (seed, bytes)
    }
}

impl Default for Seeds {
    fn default() -> Self {
        Self::new()
    }
}
