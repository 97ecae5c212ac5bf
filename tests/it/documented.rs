//! README and docs: every command that stands in them runs, and prints what the page says.
//!
//! Invariants: every line of an `sh` block is a command of `lmscope`, which runs here, or begins with one of [`OTHERS`]. The commands
//! of a page run in their order, in a folder that the page has for itself, in which `demo` and `docs` are those of the repository. A `text` block
//! behind an `sh` block is what its commands print, shortened: each of its lines is one that was printed, `...` stands for what was
//! left out (a line, or the rest of one), and numbers with a point may differ by rounding. Commands on SmolLM2 run where
//! `LMSCOPE_REAL_MODEL` names it (`.ci/nightly real`). To document a command, write it down; where what is printed has changed,
//! `INSTA_UPDATE=always cargo test --test it documented::` puts the new lines into the pages.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lmscope::lab::Lab;
use lmscope::model::load::Options;

/// The model of the guide: what `$SMOL` stands for.
const SMOL: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";

/// The longest line of output in a page.
const WIDTH: usize = 118;

/// How lines of `sh` blocks begin that are not run here.
const OTHERS: [&str; 9] = [
    "export SMOL=",
    "cargo ",
    "git ",
    "python3 ",
    "PYTHON=",
    ".ci/",
    "docs/picture.sh ",
    "fuzz/run ",
    "INSTA_UPDATE=",
];

/// Commands that stand together, and what is said to come out.
struct Block {
    /// Its first line in the page.
    line: usize,
    commands: Vec<String>,
    printed: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, pages: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, pages);
        } else if path.extension().is_some_and(|e| e == "md") {
            pages.push(path);
        }
    }
}

/// README, CONTRIBUTING, and everything under docs.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    collect(&root().join("docs"), &mut pages);
    pages.sort();
    pages
}

/// The commands of a page, with what is said to come out of them.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines().enumerate().peekable();
    // Whether only blank lines stand between the last command and here.
    let mut near = false;
    while let Some((number, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            near &= line.trim().is_empty();
            continue;
        };
        let mut inside: Vec<String> = Vec::new();
        for (_, line) in lines.by_ref().take_while(|(_, l)| !l.starts_with("```")) {
            match inside.last_mut() {
                Some(last) if kind == "sh" && last.ends_with('\\') => {
                    last.pop();
                    last.push_str(line.trim_start());
                }
                _ => inside.push(line.to_string()),
            }
        }
        match (kind, blocks.last_mut()) {
            ("sh", _) => blocks.push(Block {
                line: number + 1,
                commands: inside
                    .into_iter()
                    .filter(|l| !l.is_empty() && !l.starts_with('#'))
                    .collect(),
                printed: Vec::new(),
            }),
            ("text", Some(block)) if near => block.printed = inside,
            _ => {}
        }
        near = kind == "sh";
    }
    blocks
}

/// Whether a command is about the model that is not part of the program.
fn on_a_real_model(command: &str) -> bool {
    command.contains("$SMOL") || command.contains(SMOL) || command.contains("path/to/")
}

/// What a command prints on standard output and then on standard error.
fn run(command: &str, folder: &Path, model: &str) -> Result<String, String> {
    let bin = Path::new(env!("CARGO_BIN_EXE_lmscope")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let command = command
        .replace(SMOL, model)
        .replace("path/to/model.gguf", model);
    let output = Command::new("sh")
        .arg("-c")
        .arg(&command)
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("SMOL", model)
        .env("HOME", folder)
        .env("XDG_STATE_HOME", folder.join("state"))
        .env("XDG_CONFIG_HOME", folder.join("config"))
        .env("HF_HUB_OFFLINE", "1")
        .env("COLUMNS", "110")
        .env("RAYON_NUM_THREADS", "1")
        .env_remove("LMSCOPE_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let spell = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (spell(&output.stdout), spell(&output.stderr));
    if output.status.success() {
        Ok(out + "\n" + &err)
    } else {
        Err(err)
    }
}

/// A word as its numbers and what stands between them.
fn parts(word: &str) -> Vec<&str> {
    let numeric = |c: char| c.is_ascii_digit() || c == '.';
    let mut parts = Vec::new();
    let mut begin = 0;
    let mut before = None;
    for (at, c) in word.char_indices() {
        if before.is_some_and(|b| b != numeric(c)) {
            parts.push(&word[begin..at]);
            begin = at;
        }
        before = Some(numeric(c));
    }
    parts.push(&word[begin..]);
    parts
}

/// Whether two words are the same but for rounding.
fn alike(said: &str, printed: &str) -> bool {
    // Rounding decides which sign a zero has.
    let zero = |word: &str| word.parse::<f64>().is_ok_and(|x| x == 0.0);
    if zero(said) && zero(printed) {
        return true;
    }
    // A number with an exponent is small here, and of the smallest ones rounding is the whole.
    let tiny = |word: &str| {
        word.contains("e-")
            .then(|| word.parse::<f64>().ok())
            .flatten()
    };
    if let (Some(x), Some(y)) = (tiny(said), tiny(printed)) {
        return (x - y).abs() <= 0.02 * x.abs().max(y.abs()) + 1e-6;
    }
    let (said, printed) = (parts(said), parts(printed));
    said.len() == printed.len()
        && said.iter().zip(&printed).all(|(a, b)| {
            let close = match (a.parse::<f64>(), b.parse::<f64>()) {
                (Ok(x), Ok(y)) if a.contains('.') && b.contains('.') => {
                    (x - y).abs() <= 0.02 * x.abs().max(y.abs()) + 0.002
                }
                _ => false,
            };
            a == b || close
        })
}

/// Whether a line of a page is this line of the output.
fn is_line(said: &str, printed: &str) -> bool {
    let mut printed = printed.split_whitespace();
    for word in said.split_whitespace() {
        if word == "..." {
            return true;
        }
        if !printed.next().is_some_and(|other| alike(word, other)) {
            return false;
        }
    }
    printed.next().is_none()
}

/// The printed line that is most like what a page says, as long as lines of pages are.
fn nearest(said: &str, printed: &str) -> Option<String> {
    let shared = |line: &str| {
        let mut words = line.split_whitespace();
        let both = |w: &&str| words.next().is_some_and(|o| alike(w, o));
        said.split_whitespace().filter(both).count()
    };
    let line = printed.lines().max_by_key(|l| shared(l))?;
    if shared(line) == 0 {
        return None;
    }
    if line.chars().count() <= WIDTH {
        return Some(line.trim_end().to_string());
    }
    let cut: String = line.chars().take(WIDTH - 4).collect();
    Some(format!("{} ...", cut.rsplit_once(' ')?.0.trim_end()))
}

/// What came of a page.
#[derive(Default)]
struct Outcome {
    /// Commands that fail, and lines that no command printed.
    faults: Vec<String>,
    /// How many commands ran.
    ran: usize,
    /// How many blocks of output were compared with what was printed.
    compared: usize,
}

/// Writes the dictionary of the demo that the page on dictionaries calls `lens`: feature N is the direction of token N at the last
/// block.
fn lens(folder: &Path) {
    let lab = Lab::open("demo", &Options::default()).unwrap();
    let (width, features) = (lab.model.card.d_model, lab.model.card.vocab);
    let gain: Vec<f32> = lab.model.transformer.norm.gain.to_vec1().unwrap();
    let rows: Vec<f32> = (0..features as u32)
        .flat_map(|token| {
            let row = lab.model.transformer.logit_direction(token).unwrap();
            let row: Vec<f32> = row.to_vec1().unwrap();
            let row: Vec<f32> = row.iter().zip(&gain).map(|(w, g)| w * g).collect();
            let length = row.iter().map(|w| w * w).sum::<f32>().sqrt().max(1e-9);
            row.into_iter().map(move |w| w / length)
        })
        .collect();
    let columns: Vec<f32> = (0..width)
        .flat_map(|j| (0..features).map(move |f| (f, j)))
        .map(|(f, j)| rows[f * width + j])
        .collect();
    let path = folder.join("lens");
    crate::dictionaries::hostile::saelens(&path, width, features, &columns, &rows, "topk");
    let config = path.join("cfg.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let last = format!("blocks.{}.", lab.model.card.layers - 1);
    let text = text
        .replace("blocks.1.", &last)
        .replace("\"model_name\": \"tiny\", ", "");
    std::fs::write(&config, text).unwrap();
}

/// Runs the commands of a page, and compares what they print with what it says.
fn check(page: &Path, real: bool, model: &str, compares: bool) -> Outcome {
    let text = std::fs::read_to_string(page).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for part in ["demo", "docs"] {
        std::os::unix::fs::symlink(root().join(part), folder.path().join(part)).unwrap();
    }
    if page.ends_with("dictionaries.md") {
        lens(folder.path());
    }
    let name = page.strip_prefix(root()).unwrap().display();
    let renew = std::env::var("INSTA_UPDATE").is_ok_and(|v| v == "always");
    let mut page_now = text.clone();
    let mut outcome = Outcome::default();
    let faults = &mut outcome.faults;
    for block in blocks(&text) {
        let mut printed = String::new();
        let (mut ran, mut all) = (0, 0);
        for command in &block.commands {
            if !command.starts_with("lmscope") {
                if !OTHERS.iter().any(|o| command.starts_with(o)) {
                    faults.push(format!(
                        "{name}:{}: `{command}` is no command of lmscope",
                        block.line
                    ));
                }
                continue;
            }
            all += 1;
            if on_a_real_model(command) != real {
                continue;
            }
            ran += 1;
            match run(command, folder.path(), model) {
                Ok(text) => printed += &text,
                Err(why) => faults.push(format!("{name}:{}: `{command}`: {why}", block.line)),
            }
        }
        outcome.ran += ran;
        // A page that says what comes out says it of one kind of model in one block.
        if ran == 0 || !compares || block.printed.is_empty() {
            continue;
        }
        assert_eq!(ran, all, "{name}:{}: two models in one block", block.line);
        outcome.compared += 1;
        for said in block.printed.iter().filter(|l| !l.trim().is_empty()) {
            if printed.lines().any(|line| is_line(said, line)) {
                continue;
            }
            if let Some(line) = nearest(said, &printed).filter(|_| renew) {
                page_now = page_now.replace(said.as_str(), &line);
            } else {
                faults.push(format!(
                    "{name}:{}: nothing printed is\n{said}\nbut\n{printed}",
                    block.line
                ));
                break;
            }
        }
    }
    if page_now != text {
        std::fs::write(page, page_now).unwrap();
    }
    outcome
}

/// Runs the pages beside each other.
fn check_all(real: bool, model: &str, compares: bool) -> Outcome {
    let pages = pages();
    let found: Vec<Outcome> = std::thread::scope(|scope| {
        let running: Vec<_> = pages
            .iter()
            .map(|page| scope.spawn(move || check(page, real, model, compares)))
            .collect();
        running.into_iter().map(|r| r.join().unwrap()).collect()
    });
    let mut all = Outcome::default();
    for outcome in found {
        all.faults.extend(outcome.faults);
        all.ran += outcome.ran;
        all.compared += outcome.compared;
    }
    all
}

/// Fails with what is wrong, and where so few blocks were compared that the comparison itself must be broken.
fn assert_all_hold(outcome: &Outcome, at_least: usize) {
    println!(
        "{} commands of the pages ran, {} blocks of output were compared",
        outcome.ran, outcome.compared
    );
    assert!(outcome.faults.is_empty(), "{}", outcome.faults.join("\n\n"));
    assert!(
        outcome.compared >= at_least,
        "only {} blocks were compared",
        outcome.compared
    );
}

#[test]
fn every_command_in_the_pages_runs_and_prints_what_they_say() {
    assert_all_hold(&check_all(false, "demo", true), 20);
}

#[test]
fn every_command_on_a_real_model_runs_and_prints_what_the_pages_say() {
    let Ok(model) = std::env::var("LMSCOPE_REAL_MODEL") else {
        println!("skipped: LMSCOPE_REAL_MODEL names no model");
        return;
    };
    let model = std::fs::canonicalize(&model).map_or(model, |p| p.to_string_lossy().into_owned());
    let card = Lab::open(&model, &Options::default()).unwrap().model.card;
    if (card.layers, card.d_model) != (30, 576) {
        println!("skipped: {model} is not SmolLM2-135M-Instruct, which the pages are about");
        return;
    }
    // Of a quantized file the numbers are others.
    if Path::new(&model).extension().is_some_and(|e| e == "gguf") {
        println!(
            "only run, not compared: the pages are about the weights in f32, and {model} is quantized"
        );
        assert_all_hold(&check_all(true, &model, false), 0);
        return;
    }
    assert_eq!(
        card.dtype, "f32",
        "the pages are about f32, and {model} was loaded in another type; is there too little free memory?"
    );
    assert_all_hold(&check_all(true, &model, true), 20);
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for part in text.split("](").skip(1) {
            let target = part.split(')').next().unwrap();
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if target.contains("://") {
                continue;
            }
            let path = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(file)
            };
            assert!(path.exists(), "{}: {target} is not there", page.display());
            if !anchor.is_empty() {
                let there = std::fs::read_to_string(&path).unwrap();
                let found = there
                    .lines()
                    .filter(|l| l.starts_with('#'))
                    .any(|l| slug(l) == anchor);
                assert!(found, "{}: {target} is no heading", page.display());
            }
        }
    }
}

/// A heading as GitHub spells it in a link.
fn slug(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().replace(' ', "-")
}

#[test]
fn the_readme_is_short() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 150);
}
