//! `lmscope doctor`: what this build, machine and terminal offer, and whether the demo works here.
//!
//! Invariant: it only looks; nothing is written, downloaded or changed. To add a fact, add a row in `facts`.

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::{Subcommand, log, models, output};
use crate::error::{Error, Result};
use crate::instruments::{Arguments, Instrument, lens::Lens};
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::model::hub::{cache_folder, cached_models};
use crate::model::load::{Options, device};
use crate::text;

/// The row.
pub const DOCTOR: Subcommand = Subcommand {
    name: "doctor",
    about: "Says what this build, machine and terminal offer, and checks the demo",
    arguments: build,
    run,
};

fn build(command: Command) -> Command {
    models::format(command)
}

fn run(matches: &ArgMatches) -> Result<()> {
    let mut rows: Vec<Vec<Value>> = facts()
        .into_iter()
        .map(|(name, fact)| vec![json!(name), json!(fact)])
        .collect();
    let checked = demo();
    rows.push(vec![
        json!("demo"),
        json!(
            checked
                .as_ref()
                .map_or_else(ToString::to_string, Clone::clone)
        ),
    ]);
    output::listing(&["what", "found"], &rows, models::as_json(matches))?;
    checked.map(drop)
}

fn facts() -> Vec<(&'static str, String)> {
    let var = |name: &str| std::env::var(name).unwrap_or_else(|_| "not set".into());
    let size = crossterm::terminal::size().map_or_else(
        |_| "unknown: no terminal".into(),
        |(w, h)| format!("{w} x {h}"),
    );
    let stream = |terminal: bool| if terminal { "terminal" } else { "no terminal" };
    let features: Vec<&str> = [
        ("demo", cfg!(feature = "demo")),
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ]
    .into_iter()
    .filter(|f| f.1)
    .map(|f| f.0)
    .collect();
    vec![
        (
            "version",
            format!(
                "lmscope {} ({})",
                env!("CARGO_PKG_VERSION"),
                if cfg!(debug_assertions) {
                    "debug build"
                } else {
                    "release build"
                }
            ),
        ),
        (
            "features",
            if features.is_empty() {
                "none".into()
            } else {
                features.join(", ")
            },
        ),
        (
            "system",
            format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        ),
        (
            "cpu",
            format!("{}, {} threads", cpu(), rayon::current_num_threads()),
        ),
        ("memory", memory()),
        ("devices", devices().join(", ")),
        (
            "standard output",
            stream(output::stdout_is_terminal()).into(),
        ),
        ("TERM", var("TERM")),
        ("COLORTERM", var("COLORTERM")),
        ("NO_COLOR", var("NO_COLOR")),
        ("size", size),
        ("unicode", unicode()),
        (
            "hub cache",
            format!(
                "{} ({} models)",
                cache_folder().display(),
                cached_models().len()
            ),
        ),
        (
            "state folder",
            log::state_folder().map_or_else(
                || "none: no home folder".into(),
                |f| f.display().to_string(),
            ),
        ),
    ]
}

/// Loads the demo, reads a prompt through the lens and looks at the lens's own check.
fn demo() -> Result<String> {
    let mut bench = Bench::open("demo", &Options::default())?;
    let run = Run::plain(bench.model.encode("The capital of France is", false)?);
    let figure = Lens.observe(&run, &Arguments::default(), &mut bench)?;
    match figure.check {
        Some(check) if check.passed() => Ok(format!(
            "loads, and its last lens row is the model's own output (largest difference {:.1e})",
            check.error
        )),
        Some(check) => Err(Error::Engine(format!(
            "the demo's last lens row differs from its output by {:.1e}, tolerated are {:.0e}",
            check.error, check.tolerance
        ))),
        None => Err(Error::Engine("the demo's lens has no check".into())),
    }
}

/// The CPU's name.
pub fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| {
        l.strip_prefix("model name")?
            .split_once(':')
            .map(|(_, n)| n.trim().to_string())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_string())
}

/// A value of a `/proc` file that is given in kB, in bytes.
pub fn kilobytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    value
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|k| k * 1024)
}

fn memory() -> String {
    let read = |key: &str| kilobytes("/proc/meminfo", key);
    match (read("MemTotal"), read("MemAvailable")) {
        (Some(total), Some(free)) => {
            format!("{} available of {}", text::size(free), text::size(total))
        }
        _ => "unknown".into(),
    }
}

fn devices() -> Vec<String> {
    let mut out = vec!["cpu".to_string()];
    let extra = |name: &str| match device(name) {
        Ok(_) => name.to_string(),
        Err(error) => format!("{name} ({error})"),
    };
    if cfg!(feature = "cuda") {
        out.push(extra("cuda:0"));
    }
    if cfg!(feature = "metal") {
        out.push(extra("metal"));
    }
    out
}

fn unicode() -> String {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    match locale {
        Some(locale) if locale.to_lowercase().replace('-', "").contains("utf8") => {
            format!("yes ({locale})")
        }
        Some(locale) => {
            format!("the locale {locale} does not say UTF-8; box drawing may look broken")
        }
        None => "no locale is set; UTF-8 is assumed".into(),
    }
}
