//! The registries: names are unique, every row is documented, and the README says what they say.

use std::collections::HashSet;
use std::path::Path;

use lmscope::edit::Edit;
use lmscope::edit::op::OPS;
use lmscope::export::FORMATS;
use lmscope::instruments::INSTRUMENTS;
use lmscope::model::network::families::{FAMILIES, Family};
use lmscope::model::network::names::SPELLINGS;
use lmscope::model::network::site::SITES;
use lmscope::ui::theme::THEMES;

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

#[test]
fn the_readme_lists_what_there_is() {
    let readme = readme();
    for of in INSTRUMENTS {
        let row = format!("| `{}` | {} | {} |", of.name(), of.about(), of.source());
        assert!(readme.contains(&row), "README.md should say\n{row}");
    }
    for family in FAMILIES {
        let cases = cases_of(family).join(", ");
        let row = format!("| `{}` | {} | {cases} |", family.name, family.differs);
        assert!(readme.contains(&row), "README.md should say\n{row}");
    }
    for op in OPS {
        let row = format!("| `{}` | {} | `{}` |", op.name, op.about, op.example);
        assert!(readme.contains(&row), "README.md should say\n{row}");
    }
}
