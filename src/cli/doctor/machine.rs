//! The features of this build, machine and terminal.
//!
//! Invariant: it only inspects; nothing is written, downloaded or changed. To add a fact, add a row in [`facts`].

use serde_json::{Map, Value, json};

use crate::cli::{bench_report, log, output};
use crate::model::devices;
use crate::model::hub::{cache_folder, cached_models};
use crate::text;

/// The facts, by name.
pub(super) fn facts() -> Vec<(&'static str, String)> {
    let var = |name: &str| std::env::var(name).unwrap_or_else(|_| "not set".into());
    let size = match crossterm::terminal::size() {
        Ok((w, h)) => format!("{w} x {h}"),
        Err(_) => "unknown: no terminal".into(),
    };
    let stream = |terminal: bool| if terminal { "terminal" } else { "no terminal" };
    let (version, profile) = (env!("CARGO_PKG_VERSION"), bench_report::profile());
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    let cpu = format!("{}, {} threads", cpu(), rayon::current_num_threads());
    let (cache, models) = (cache_folder(), cached_models().len());
    let hub = format!("{} ({models} models)", cache.display());
    let state = match log::state_folder() {
        Some(folder) => folder.display().to_string(),
        None => "none: no home folder".into(),
    };
    let terminal = stream(output::stdout_is_terminal());
    vec![
        ("version", format!("lmscope {version} ({profile} build)")),
        ("features", present(&features())),
        ("system", format!("{system} {machine}")),
        ("cpu", cpu),
        ("memory", memory()),
        ("devices", devices().join(", ")),
        ("standard output", terminal.into()),
        ("TERM", var("TERM")),
        ("COLORTERM", var("COLORTERM")),
        ("NO_COLOR", var("NO_COLOR")),
        ("size", size),
        ("unicode", unicode()),
        ("hub cache", hub),
        ("state folder", state),
    ]
}

/// The facts whose value is more than words, by their names, for scripts.
pub(super) fn numbers() -> Map<String, Value> {
    let read = |key: &str| kilobytes("/proc/meminfo", key);
    let size = crossterm::terminal::size().ok();
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "features": features().iter().filter(|f| f.1).map(|f| f.0).collect::<Vec<_>>(),
        "cpu": {"name": cpu(), "threads": rayon::current_num_threads()},
        "memory": {"total_bytes": read("MemTotal"), "available_bytes": read("MemAvailable")},
        "devices": devices(),
        "standard output": output::stdout_is_terminal(),
        "TERM": std::env::var("TERM").ok(),
        "COLORTERM": std::env::var("COLORTERM").ok(),
        "NO_COLOR": std::env::var("NO_COLOR").ok(),
        "size": size.map(|(columns, rows)| json!({"columns": columns, "rows": rows})),
        "hub cache": {"folder": cache_folder().display().to_string(), "models": cached_models().len()},
        "state folder": log::state_folder().map(|folder| folder.display().to_string()),
    });
    value.as_object().cloned().unwrap_or_default()
}

/// What a build may have, and whether this one has it.
fn features() -> [(&'static str, bool); 3] {
    [
        ("demo", cfg!(feature = "demo")),
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ]
}

/// The names of those features that are present.
pub(super) fn present(all: &[(&str, bool)]) -> String {
    let there: Vec<&str> = all.iter().filter(|a| a.1).map(|a| a.0).collect();
    match there.as_slice() {
        [] => "none".into(),
        there => there.join(", "),
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

/// A value of a `/proc` file that is given in kB, converted to bytes.
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
    let extra = |name: &str| match devices::parse(name) {
        Ok(_) => name.to_string(),
        Err(error) => format!("{name} ({error})"),
    };
    if cfg!(feature = "cuda") {
        // All that answer; of none the reason.
        let names = (0..).map(|number| format!("cuda:{number}"));
        let found: Vec<String> = names
            .take_while(|name| devices::parse(name).is_ok())
            .collect();
        if found.is_empty() {
            out.push(extra("cuda:0"));
        }
        out.extend(found);
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
