//! Files that lie: whatever stands in an input, there is a sentence or a value, never a panic, a hang, or an allocation
//! larger than the input justifies.
//!
//! The kinds of input are those of the fuzzer (`fuzz/src/kinds`), compiled into the tests. What found something is kept in
//! fuzz/corpus/KIND/ and runs first, after the seeds; then come inputs that are seeds, damaged as a number says: the same
//! number gives the same input. `LMSCOPE_LIES=1000000` runs a million of them, `LMSCOPE_LIES=17..18` number 17 alone.
//! To add a kind, see `kinds`.

#[path = "../../../fuzz/src/kinds/mod.rs"]
mod kinds;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub use self::kinds::guard;
use self::kinds::{KINDS, Kind, LONGEST, Place, Read, Seeds, named, repository};

/// The numbers to run.
fn numbers() -> std::ops::Range<u64> {
    let given = std::env::var("LMSCOPE_LIES").unwrap_or_default();
    match given.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => 0..given.parse().unwrap_or(6_000),
    }
}

/// What was kept, with its kind.
fn corpus() -> Vec<(&'static Kind, PathBuf)> {
    let mut all = Vec::new();
    for folder in std::fs::read_dir(repository().join("fuzz/corpus")).unwrap() {
        let folder = folder.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let kind = named(&name).unwrap_or_else(|| panic!("{name} is no kind"));
        let files = std::fs::read_dir(folder).unwrap();
        all.extend(files.map(|file| (kind, file.unwrap().path())));
    }
    all.sort_by(|a, b| a.1.cmp(&b.1));
    all
}

/// What became of a kind's inputs.
#[derive(Clone, Copy, Default)]
struct Tally {
    inputs: u32,
    accepted: u32,
    peak: usize,
    longest: Duration,
    all: Duration,
}

/// What is read just now, and since when.
type Now = Mutex<(String, Instant)>;

struct Reader<'a> {
    place: Place,
    now: &'a Now,
    found: Vec<String>,
    tallies: Vec<Tally>,
}

impl Reader<'_> {
    fn one(&mut self, kind: &'static Kind, name: &str, bytes: &[u8]) -> Option<Read> {
        *self.now.lock().unwrap() = (format!("{name} ({})", kind.name), Instant::now());
        let place = &self.place;
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kinds::read(kind, place, bytes)
        }));
        let wrong = match read {
            Ok(Ok(read)) => {
                let at = KINDS.iter().position(|k| k.name == kind.name).unwrap();
                let tally = &mut self.tallies[at];
                tally.inputs += 1;
                tally.accepted += u32::from(read.refused.is_none());
                tally.peak = tally.peak.max(read.peak);
                tally.longest = tally.longest.max(read.took);
                tally.all += read.took;
                return Some(read);
            }
            Ok(Err(wrong)) => wrong,
            Err(_) => {
                // What a reader left half done is not the next one's.
                self.place = Place::open();
                self.place.warm();
                "a panic".to_owned()
            }
        };
        let file = std::env::temp_dir().join(format!("lmscope-lie-{}-{name}", kind.name));
        std::fs::write(&file, bytes).unwrap();
        self.found.push(format!(
            "input {name} ({}): {wrong}; see {}",
            kind.name,
            file.display()
        ));
        let found = &self.found;
        assert!(found.len() < 100, "{}", found.join("\n"));
        None
    }
}

#[test]
fn inputs_that_lie_do_no_harm() {
    let numbers = numbers();
    let now: Now = Mutex::new(("the seeds".into(), Instant::now()));
    let found = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let seeds = Seeds::new();
            let mut reader = Reader {
                place: Place::open(),
                now: &now,
                found: Vec::new(),
                tallies: vec![Tally::default(); KINDS.len()],
            };
            reader.place.warm();
            for kind in KINDS {
                let mut refused = Vec::new();
                for (i, seed) in seeds.of(kind).iter().enumerate() {
                    let read = reader.one(kind, &format!("seed {i}"), seed);
                    refused.extend(read.and_then(|r| r.refused));
                }
                if refused.len() == seeds.of(kind).len() {
                    let name = kind.name;
                    reader
                        .found
                        .push(format!("no seed of {name} is accepted: {refused:?}"));
                }
            }
            for (kind, path) in corpus() {
                let name = path.file_name().unwrap().to_str().unwrap();
                reader.one(kind, name, &std::fs::read(&path).unwrap());
            }
            for number in numbers {
                let (kind, seed, bytes) = seeds.input(number);
                reader.one(kind, &format!("{number}, made from seed {seed},"), &bytes);
            }
            for (kind, tally) in KINDS.iter().zip(&reader.tallies) {
                println!(
                    "{:16} {:6} inputs, {:6} accepted, in {:.1?}: at most {} KB and {:.1?} ({})",
                    kind.name,
                    tally.inputs,
                    tally.accepted,
                    tally.all,
                    tally.peak >> 10,
                    tally.longest,
                    kind.about
                );
            }
            reader.found
        });
        while !worker.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            let (name, since) = now.lock().unwrap().clone();
            if since.elapsed() > 3 * LONGEST {
                eprintln!("input {name} does not come to an end");
                std::process::abort();
            }
        }
        worker.join().unwrap()
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}
