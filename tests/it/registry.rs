//! The registries: names are unique, every row is documented, and docs/reference.md says what they say.
//!
//! Invariant: what stands in that page between `<!-- NAME: made from the code -->` and `<!-- end -->` is made here, and written anew by
//! `INSTA_UPDATE=always cargo test --test it registry::the_reference`. To list another registry, add it to [`tables`].

use std::collections::HashSet;
use std::path::Path;

use lmscope::app::commands::commands;
use lmscope::app::setting::SETTINGS;
use lmscope::app::{App, AppSettings};
use lmscope::cli::SUBCOMMANDS;
use lmscope::edit::Edit;
use lmscope::edit::direction as directions;
use lmscope::edit::op::OPS;
use lmscope::export::FORMATS;
use lmscope::instruments::{INSTRUMENTS, Instrument, ParamKind, Parameter};
use lmscope::model::network::families::{FAMILIES, Family};
use lmscope::model::network::names::SPELLINGS;
use lmscope::model::network::site::SITES;
use lmscope::ui::panes::PANES;
use lmscope::ui::theme::{THEMES, Theme, ThemeVariant};

use super::parity::CASES;

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

fn unique(names: impl IntoIterator<Item = &'static str>) {
    let mut seen = HashSet::new();
    for name in names {
        assert!(seen.insert(name), "{name} is there twice");
    }
}

#[test]
fn names_are_unique() {
    unique(SITES.iter().map(|s| s.name));
    unique(SPELLINGS.iter().map(|s| s.name));
    unique(INSTRUMENTS.iter().map(|i| i.name()));
    unique(FAMILIES.iter().map(|f| f.name));
    unique(FAMILIES.iter().flat_map(|f| f.model_types).copied());
    unique(OPS.iter().map(|o| o.name));
    unique(FORMATS.iter().map(|f| f.name));
    unique(THEMES.iter().map(|t| t.name));
    for of in INSTRUMENTS {
        unique(of.parameters().iter().map(|p| p.name));
    }
}

#[test]
fn every_row_is_documented() {
    assert!(
        SITES
            .iter()
            .all(|s| !s.about.is_empty() && !s.shape.is_empty())
    );
    for row in OPS {
        let edit: Edit = row.example.parse().unwrap();
        assert!(!row.about.is_empty() && edit.op.spec().name == row.name);
    }
    assert!(FORMATS.iter().all(|f| !f.about.is_empty()));
    for of in INSTRUMENTS {
        assert!(!of.about().is_empty() && !of.source().is_empty());
        assert!(
            of.parameters().iter().all(|p| !p.about.is_empty()),
            "{}",
            of.name()
        );
    }
}

#[test]
fn themes_and_their_folder_agree() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("themes");
    let files: HashSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|e| e.path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let rows: HashSet<String> = THEMES.iter().map(|t| t.name.to_string()).collect();
    assert_eq!(files, rows);
}

/// The reference checkpoints of a family: what holds it.
fn cases_of(family: &Family) -> Vec<&'static str> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references");
    let mut cases: Vec<&str> = CASES
        .into_iter()
        .filter(|case| {
            let config = std::fs::read(folder.join(case).join("config.json")).unwrap();
            let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
            family
                .model_types
                .contains(&config["model_type"].as_str().unwrap())
        })
        .collect();
    cases.sort_unstable();
    cases
}

/// A table of Markdown.
fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let heads: Vec<String> = columns.iter().map(ToString::to_string).collect();
    let mut table = line(&heads) + &"|---".repeat(columns.len()) + "|\n";
    for row in rows {
        let cells: Vec<String> = row.iter().map(|c| c.replace('|', "\\|")).collect();
        table += &line(&cells);
    }
    table
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// Several words as code, with blanks between.
fn codes(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|w| code(w)).collect();
    words.join(" ")
}

/// Parameters as a table.
fn parameter_table<'a>(all: impl Iterator<Item = &'a Parameter>) -> String {
    let rows = all.map(|p| {
        let takes = match p.kind {
            ParamKind::Choice(words) => words.join(", "),
            ParamKind::Count { lo, hi } => format!("{lo} to {hi}"),
            ParamKind::Layer => "layer".into(),
            ParamKind::Position => "position".into(),
            ParamKind::Word(_) | ParamKind::Text => "text".into(),
        };
        let default = match p.default {
            "" => String::new(),
            text => code(&text.replace('\n', "\\n")),
        };
        let about = p.about.replace('\n', "\\n").replace('<', "&lt;");
        vec![code(&format!("--{}", p.name)), takes, default, about]
    });
    table(&["flag", "takes", "default", "what it is"], rows)
}

/// The parameters of an instrument, as its part of the page; those of lists are there once.
fn parameters(of: &dyn Instrument) -> String {
    let all = of.parameters();
    if all.is_empty() {
        return String::new();
    }
    let lists: Vec<String> = all
        .iter()
        .filter(|p| p.of_lists)
        .map(|p| code(&format!("--{}", p.name)))
        .collect();
    let lists = match lists.as_slice() {
        [] => String::new(),
        some => format!(
            "\nOf [lists of prompts](#lists-of-prompts) also {}.\n",
            some.join(", ")
        ),
    };
    let table = parameter_table(all.iter().filter(|p| !p.of_lists));
    format!("### {}\n\n{}.\n\n{table}{lists}\n", of.name(), of.about())
}

/// The parameters of lists of prompts, which several instruments have.
fn list_parameters() -> String {
    let of = INSTRUMENTS.iter().find(|of| {
        let own = of.parameters().iter();
        own.filter(|p| p.of_lists).count() == 5
    });
    let own = of.unwrap().parameters().iter().filter(|p| p.of_lists);
    let table = parameter_table(own);
    format!(
        "### Lists of prompts\n\nWhat instruments that take [lists of prompts](guide/lists.md#the-same-question-many-prompts) have in common.\n\n{table}\n"
    )
}

/// What docs/reference.md has from the registries, by the name in its marker.
fn tables() -> Vec<(&'static str, String)> {
    let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
    let instruments = INSTRUMENTS
        .iter()
        .map(|i| vec![code(i.name()), i.about().into(), i.source().into()]);
    let subcommands = SUBCOMMANDS
        .iter()
        .map(|s| vec![code(s.name), s.about.into()]);
    let operations = OPS
        .iter()
        .map(|o| vec![code(o.name), o.about.into(), code(o.example)]);
    let families = FAMILIES
        .iter()
        .map(|f| vec![code(f.name), f.differs.into(), cases_of(f).join(", ")]);
    let sites = SITES.iter().map(|s| {
        let layer = if s.layered { ".L" } else { "" };
        vec![
            code(&format!("{}{layer}", s.name)),
            code(s.shape),
            s.about.into(),
        ]
    });
    let keys = commands().map(|c| {
        let name = format!("{} {}", c.name, c.arguments);
        let keys = codes(c.keys);
        vec![
            keys,
            code(name.trim()),
            c.context.name().into(),
            c.about.into(),
        ]
    });
    let panes = PANES.iter().map(|p| row(&[p.name, p.about]));
    let themes = Theme::all().into_iter().map(|t| {
        let ground = match t.variant {
            ThemeVariant::Any => "any",
            ThemeVariant::Dark => "dark",
            ThemeVariant::Light => "light",
        };
        vec![code(&t.name), t.title.clone(), ground.into()]
    });
    let (app, _) = App::new(AppSettings::default());
    let settings = SETTINGS.iter().map(|own| {
        let first = own.in_file(&(own.now)(&app));
        let wants = own.wants.replace('|', "\\|");
        vec![code(own.name), code(&first), wants, own.about.into()]
    });
    let formats = FORMATS
        .iter()
        .map(|f| vec![code(f.name), code(f.extension), f.about.into()]);
    let directions = directions::FORMATS.iter().map(|f| {
        let ends: Vec<String> = f.extensions.iter().map(|e| format!(".{e}")).collect();
        let ends: Vec<&str> = ends.iter().map(String::as_str).collect();
        vec![f.name.into(), codes(&ends), f.about.into()]
    });
    vec![
        (
            "instruments",
            table(&["instrument", "what it shows", "source"], instruments),
        ),
        (
            "subcommands",
            table(&["command", "what it does"], subcommands),
        ),
        (
            "operations",
            table(&["operation", "what it does", "for example"], operations),
        ),
        ("sites", table(&["site", "shape", "what it is"], sites)),
        (
            "keys",
            table(&["keys", "command", "where", "what it does"], keys),
        ),
        ("panes", table(&["pane", "what it shows"], panes)),
        ("themes", table(&["theme", "title", "background"], themes)),
        (
            "settings",
            table(&["setting", "at first", "may be", "what it is"], settings),
        ),
        (
            "families",
            table(
                &[
                    "family",
                    "what differs from Llama",
                    "cases of `cargo test parity`",
                ],
                families,
            ),
        ),
        (
            "formats",
            table(&["format", "extension", "what it is for"], formats),
        ),
        (
            "directions",
            table(
                &["format", "extensions", "what its layers mean"],
                directions,
            ),
        ),
        (
            "parameters",
            INSTRUMENTS
                .iter()
                .map(|i| parameters(*i))
                .chain([list_parameters()])
                .collect(),
        ),
    ]
}

/// The page with its tables as the registries have them.
fn written(page: &str) -> String {
    let mut page = page.to_string();
    for (name, table) in tables() {
        let begin = format!("<!-- {name}: made from the code -->\n");
        let (before, rest) = page
            .split_once(&begin)
            .unwrap_or_else(|| panic!("docs/reference.md has no line `{}`", begin.trim()));
        let (_, after) = rest.split_once("<!-- end -->").unwrap();
        page = format!(
            "{before}{begin}\n{}\n\n<!-- end -->{after}",
            table.trim_end()
        );
    }
    page
}

#[test]
fn the_reference_lists_what_there_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let right = written(&page);
    if std::env::var("INSTA_UPDATE").is_ok_and(|v| v == "always") {
        std::fs::write(&path, &right).unwrap();
        return;
    }
    let wrong = page.lines().zip(right.lines()).find(|(a, b)| a != b);
    assert!(
        page == right,
        "docs/reference.md is not what the registries say; the first difference is {wrong:?}. Write its tables anew with\n\
         INSTA_UPDATE=always cargo test --test it registry::the_reference"
    );
}

#[test]
fn the_readme_counts_the_families() {
    let said = format!("{} model families", FAMILIES.len());
    assert!(readme().contains(&said), "README.md should say {said}");
}

/// The ids of a text that stand in it as `I26` or as the name of a test, `i26_...`.
fn ids(text: &str) -> HashSet<u32> {
    let mut ids = HashSet::new();
    for line in text.lines() {
        let named = line.trim_start().strip_prefix("fn i");
        let told = line.split("//").skip(1).flat_map(|c| c.split('I').skip(1));
        for rest in named.into_iter().chain(told) {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let after = rest[digits.len()..].chars().next();
            if matches!(after, Some('_' | ':' | ',' | ')' | ' ')) {
                ids.extend(digits.parse::<u32>());
            }
        }
    }
    ids
}

#[test]
fn the_ids_that_tests_carry_are_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/methods.md")).unwrap();
    let explained: HashSet<u32> = page
        .lines()
        .filter_map(|l| l.strip_prefix("| I")?.split(' ').next()?.parse().ok())
        .collect();
    let mut carried = HashSet::new();
    let mut folders = vec![root.join("tests/it"), root.join("src/cli/doctor")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("registry.rs")
            {
                carried.extend(ids(&std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(carried.len() > 10, "{carried:?}");
    assert_eq!(
        carried, explained,
        "the ids in tests, and those of docs/methods.md"
    );
}
