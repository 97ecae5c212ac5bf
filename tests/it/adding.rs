//! The worked examples of CONTRIBUTING: what it takes to add a thing, as a diff that is true.
//!
//! Invariant: each file of `docs/adding` is the history of something that is there: taken out of this tree in reverse, it leaves the
//! tree from before; so what it shows compiles and is tested like all the rest. `INSTA_UPDATE=always cargo test --test it adding::`
//! writes them anew; `.ci/nightly adding` builds the tree without each. To add an example, add a row to [`EXAMPLES`].

use std::path::Path;
use std::process::Command;

/// A thing that is there.
struct Example {
    /// The name of its diff.
    name: &'static str,
    /// The files that came with it.
    files: &'static [&'static str],
    /// The word that it is known by in files that were there before; what mentions it came with it.
    mentions: &'static [(&'static str, &'static str)],
}

const EXAMPLES: [Example; 5] = [
    Example {
        name: "family",
        files: &["src/model/network/families/olmo.rs"],
        mentions: &[("src/model/network/families/mod.rs", "olmo")],
    },
    Example {
        name: "instrument",
        files: &["src/instruments/surprisal.rs", "tests/it/surprisal.rs"],
        mentions: &[
            ("src/instruments/mod.rs", "surprisal"),
            ("tests/it/main.rs", "surprisal"),
        ],
    },
    Example {
        name: "command",
        files: &[],
        mentions: &[("src/app/commands/view.rs", "flip")],
    },
    Example {
        name: "theme",
        files: &["themes/nord.toml"],
        mentions: &[("src/ui/theme/mod.rs", "nord")],
    },
    Example {
        name: "operation",
        files: &[],
        mentions: &[
            ("src/edit/op.rs", "Icv"),
            ("src/lab/formulas/mod.rs", "Icv"),
        ],
    },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn mentions(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(inside) && !line[at + word.len()..].starts_with(inside)
    })
}

/// How many brackets a line opens and does not close.
fn depth(line: &str) -> i32 {
    line.chars()
        .map(|c| match c {
            '(' | '[' | '{' => 1,
            ')' | ']' | '}' => -1,
            _ => 0,
        })
        .sum()
}

/// The lines of a file that came with a word: those that mention it, up to where their brackets close, and the comments above them;
/// its unit tests are left alone.
fn came_with(lines: &[&str], word: &str) -> Vec<bool> {
    let mut came = vec![false; lines.len()];
    let tests = lines.iter().position(|l| l.starts_with("#[cfg(test)]"));
    let code = tests.unwrap_or(lines.len());
    let mut at = 0;
    while at < code {
        if !mentions(lines[at], word) {
            at += 1;
            continue;
        }
        let mut begin = at;
        while begin > 0 && lines[begin - 1].trim_start().starts_with("///") {
            begin -= 1;
        }
        let mut open = depth(lines[at]);
        while open > 0 {
            at += 1;
            open += depth(lines[at]);
        }
        // Of the blank lines around it, one goes with it.
        if begin > 0 && lines[begin - 1].is_empty() && lines.get(at + 1) == Some(&"") {
            begin -= 1;
        }
        came[begin..=at].fill(true);
        at += 1;
    }
    came
}

/// A file that was changed, with a line of context.
fn changed(path: &str, word: &str) -> String {
    let Ok(text) = std::fs::read_to_string(root().join(path)) else {
        return String::new();
    };
    let lines: Vec<&str> = text.lines().collect();
    let came = came_with(&lines, word);
    let near = |i: usize| came[i.saturating_sub(1)..(i + 2).min(lines.len())].contains(&true);
    let (mut hunks, mut at, mut before) = (String::new(), 0, 0);
    while at < lines.len() {
        if !near(at) {
            at += 1;
            before += 1;
            continue;
        }
        let begin = at;
        while at < lines.len() && near(at) {
            at += 1;
        }
        let body: String = (begin..at)
            .map(|i| format!("{}{}\n", if came[i] { '+' } else { ' ' }, lines[i]))
            .collect();
        let kept = (begin..at).filter(|i| !came[*i]).count();
        hunks += &format!(
            "@@ -{},{kept} +{},{} @@\n{body}",
            before + 1,
            begin + 1,
            at - begin
        );
        before += kept;
    }
    if hunks.is_empty() {
        return hunks;
    }
    format!("diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n{hunks}")
}

/// A file that is new.
fn new(path: &str) -> String {
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    let count = text.lines().count();
    let body: String = text.lines().map(|l| format!("+{l}\n")).collect();
    format!(
        "diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,{count} @@\n{body}"
    )
}

#[test]
fn the_worked_examples_are_what_is_there() {
    for example in EXAMPLES {
        let listed = example
            .mentions
            .iter()
            .map(|(path, word)| changed(path, word));
        let right: String = listed.chain(example.files.iter().map(|f| new(f))).collect();
        let path = root().join(format!("docs/adding/{}.diff", example.name));
        if std::env::var("INSTA_UPDATE").is_ok_and(|v| v == "always") {
            std::fs::write(&path, &right).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == right,
            "docs/adding/{}.diff is not what is there; write it anew with INSTA_UPDATE=always cargo test --test it adding::",
            example.name
        );
        let taken = Command::new("git")
            .args(["apply", "--reverse", "--check", "--unidiff-zero"])
            .arg(&path)
            .current_dir(root())
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&taken.stderr);
        assert!(taken.status.success(), "{}: {why}", example.name);
    }
}
