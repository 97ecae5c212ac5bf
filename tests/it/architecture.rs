//! The arrows point one way: `ui, cli -> app -> engine -> instruments -> lab -> model`, held by reading
//! the source. Leaves that everybody may use: error, text.

use std::path::{Path, PathBuf};

/// Layers from right to left; a module may use what stands before it in this list.
const ORDER: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("lab", &["model"]),
    ("instruments", &["lab", "model"]),
    ("engine", &["instruments", "lab", "model"]),
    ("export", &["lab", "model"]),
    ("app", &["engine", "instruments", "lab", "model", "export"]),
    (
        "ui",
        &["app", "engine", "instruments", "lab", "model", "export"],
    ),
    (
        "cli",
        &[
            "app",
            "ui",
            "engine",
            "instruments",
            "lab",
            "model",
            "export",
        ],
    ),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            out.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of a file without its unit tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]").next().unwrap().to_string()
}

#[test]
fn modules_use_only_what_stands_to_their_right() {
    for (module, allowed) in ORDER {
        let folder = root().join(module);
        for path in sources(&folder) {
            for (number, line) in code(&path)
                .lines()
                .enumerate()
                .filter(|(_, l)| !l.trim_start().starts_with("//"))
            {
                for (other, _) in ORDER
                    .iter()
                    .filter(|(o, _)| o != module && !allowed.contains(o))
                {
                    assert!(
                        !line.contains(&format!("crate::{other}")),
                        "{}:{} uses {other}",
                        path.display(),
                        number + 1
                    );
                }
            }
        }
    }
}

#[test]
fn the_app_knows_neither_terminal_nor_tensors() {
    for path in sources(&root().join("app")) {
        let text = code(&path);
        for word in ["ratatui::", "crossterm::", "candle_core::", "candle_nn::"] {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn files_have_one_size() {
    for path in sources(&root()) {
        let lines = code(&path).lines().count();
        assert!(
            lines <= 600,
            "{} has {lines} lines without tests",
            path.display()
        );
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("//!"),
            "{} does not say what it is for",
            path.display()
        );
    }
}

#[test]
fn families_hold_no_forward_pass() {
    for path in sources(&root().join("model/families")) {
        let text = code(&path);
        assert!(
            !text.contains("matmul") && !text.contains("candle_core"),
            "{}",
            path.display()
        );
    }
}

/// Whatever is written into a screen buffer is clipped, because one file writes.
#[test]
fn one_file_writes_into_buffers() {
    let direct = [
        ".set_string(",
        ".set_stringn(",
        ".set_line(",
        ".set_span(",
        ".cell_mut(",
        ".index_of(",
        ".set_symbol(",
        ".render(",
        "buf[",
        "buffer[",
        ".content[",
        "Cell::",
        "buf.set_style(",
    ];
    let folder = root().join("ui");
    for path in sources(&folder) {
        if path.ends_with("ink.rs") {
            continue;
        }
        for (number, line) in code(&path).lines().enumerate() {
            for word in direct {
                assert!(
                    !line.contains(word),
                    "{}:{} says `{word}`; write through ui/ink.rs, which clips",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}
