//! The shape of the house, held by parsing every source file: arrows between the folders of `src` point one way
//! (`ui -> app -> engine -> instruments -> vectors, dictionaries -> lab -> edit -> figure -> model`, `cli` and `export` beside them), and files of one folder do not use each other
//! in a circle. Leaves that everybody may use: error, text, file, out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// Layers from right to left; a module may use what stands before it in this list, `export` figures and edits only.
const ORDER: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("figure", &["model"]),
    ("edit", &["figure", "model"]),
    ("lab", &["edit", "figure", "model"]),
    ("vectors", &["lab", "edit", "figure", "model"]),
    ("dictionaries", &["lab", "edit", "figure", "model"]),
    (
        "instruments",
        &["vectors", "dictionaries", "lab", "edit", "figure", "model"],
    ),
    (
        "engine",
        &[
            "instruments",
            "vectors",
            "dictionaries",
            "lab",
            "edit",
            "figure",
            "model",
        ],
    ),
    ("export", &["edit", "figure", "model"]),
    (
        "app",
        &[
            "engine",
            "instruments",
            "vectors",
            "dictionaries",
            "lab",
            "edit",
            "figure",
            "model",
            "export",
        ],
    ),
    (
        "ui",
        &[
            "app",
            "engine",
            "instruments",
            "vectors",
            "dictionaries",
            "lab",
            "edit",
            "figure",
            "model",
            "export",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "ui",
            "engine",
            "instruments",
            "vectors",
            "dictionaries",
            "lab",
            "edit",
            "figure",
            "model",
            "export",
        ],
    ),
];

/// Circles that are still there, by their folder; this list only shrinks. A circle that is gone has to leave it.
const CIRCLES: &[(&str, &[&str])] = &[];

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
    out.sort();
    out
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A file as the module that it is: `lab/readout.rs` and `lab/readout/mod.rs` are `lab::readout`.
fn module(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> = path
        .strip_prefix(root())
        .unwrap()
        .with_extension("")
        .iter()
        .map(|p| p.to_str().unwrap().to_string())
        .collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

/// The paths that a file's code names, tests left out, each from the root of the crate.
struct Uses {
    /// Where the code that is being read stands.
    module: Vec<String>,
    paths: BTreeSet<Vec<String>>,
}

impl Uses {
    /// Takes a path as it is written, if it begins in this crate.
    fn take(&mut self, written: &[String]) {
        let mut at = match written.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        for part in written {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => {
                    at.pop();
                }
                part => at.push(part.to_string()),
            }
        }
        self.paths.insert(at);
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| {
            let mut path = before.to_vec();
            path.push(name.to_string());
            path
        };
        match tree {
            syn::UseTree::Path(part) => self.tree(&with(&part.ident), &part.tree),
            syn::UseTree::Name(last) => self.take(&with(&last.ident)),
            syn::UseTree::Rename(last) => self.take(&with(&last.ident)),
            syn::UseTree::Glob(_) => self.take(before),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(before, tree);
                }
            }
        }
    }
}

/// Whether an item is there for tests only.
fn test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| {
        let cfg = a
            .meta
            .require_list()
            .ok()
            .filter(|_| a.path().is_ident("cfg"));
        let words = cfg.map(|list| list.tokens.to_string().replace(' ', ""));
        words.is_some_and(|w| w == "test" || w.starts_with("all(test,"))
    })
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if test_only(&item.attrs) || item.content.is_none() {
            return;
        }
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !test_only(&item.attrs) {
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !test_only(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !test_only(&item.attrs) {
            syn::visit::visit_item_impl(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !test_only(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let written: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.take(&written);
        syn::visit::visit_path(self, path);
    }

    /// Code inside macros is tokens; what parses as expressions with commas between is read too.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        type Arguments = syn::punctuated::Punctuated<syn::Expr, syn::Token![,]>;
        if let Ok(arguments) = call.parse_body_with(Arguments::parse_terminated) {
            for argument in &arguments {
                self.visit_expr(argument);
            }
        }
    }
}

/// Every file of the crate as the module that it is, with the paths that its code names.
fn uses() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    sources(&root())
        .into_iter()
        .filter(|path| !path.ends_with("src/main.rs"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let mut uses = Uses {
                module: module(&path),
                paths: BTreeSet::new(),
            };
            uses.visit_file(&file);
            (module(&path), uses.paths)
        })
        .collect()
}

#[test]
fn modules_use_only_what_stands_to_their_right() {
    for (file, paths) in uses() {
        let Some((_, allowed)) = ORDER
            .iter()
            .find(|(m, _)| file.first().is_some_and(|f| f == m))
        else {
            continue;
        };
        for path in paths {
            let (Some(other), own) = (path.first(), &file[0]) else {
                continue;
            };
            let known = ORDER.iter().any(|(m, _)| m == other);
            assert!(
                !known || other == own || allowed.contains(&other.as_str()),
                "{} uses {}",
                file.join("::"),
                path.join("::")
            );
        }
    }
}

/// Who uses whom inside a folder: its files and subfolders, each as one thing. Its `mod.rs` names its rows and is left out.
fn inside(
    folder: &[String],
    uses: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
) -> BTreeMap<String, BTreeSet<String>> {
    let depth = folder.len();
    let children: BTreeSet<&String> = uses
        .keys()
        .filter(|m| m.len() > depth && m.starts_with(folder))
        .map(|m| &m[depth])
        .collect();
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, paths) in uses
        .iter()
        .filter(|(m, _)| m.len() > depth && m.starts_with(folder))
    {
        let from = &module[depth];
        let to = paths
            .iter()
            .filter(|p| p.len() > depth && p.starts_with(folder))
            .map(|p| &p[depth])
            .filter(|to| *to != from && children.contains(to));
        out.entry(from.clone()).or_default().extend(to.cloned());
    }
    out
}

/// The largest sets of things that all reach each other, of two or more.
fn circles(arrows: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reach = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut todo = vec![from];
        while let Some(at) = todo.pop() {
            for next in arrows.get(at).into_iter().flatten() {
                if seen.insert(next) {
                    todo.push(next);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        arrows.keys().map(|a| (a, reach(a))).collect();
    let mut out: BTreeSet<Vec<String>> = BTreeSet::new();
    for a in arrows.keys().filter(|a| reached[a].contains(a)) {
        let circle = arrows
            .keys()
            .filter(|b| reached[a].contains(b) && reached[b].contains(a));
        out.insert(circle.cloned().collect());
    }
    out.into_iter().collect()
}

#[test]
fn files_of_a_folder_do_not_use_each_other_in_a_circle() {
    let uses = uses();
    let folders: BTreeSet<Vec<String>> = uses
        .keys()
        .flat_map(|m| (1..m.len()).map(|n| m[..n].to_vec()))
        .collect();
    let mut found = Vec::new();
    for folder in &folders {
        for circle in circles(&inside(folder, &uses)) {
            found.push((folder.join("/"), circle.join(" ")));
        }
    }
    let known: Vec<(String, String)> = CIRCLES
        .iter()
        .map(|(folder, circle)| ((*folder).to_string(), circle.join(" ")))
        .collect();
    for new in found.iter().filter(|c| !known.contains(c)) {
        println!("a circle in src/{}: {}", new.0, new.1);
    }
    for gone in known.iter().filter(|c| !found.contains(c)) {
        println!("no longer a circle in src/{}: {}", gone.0, gone.1);
    }
    assert_eq!(
        BTreeSet::from_iter(found),
        BTreeSet::from_iter(known),
        "circles of files"
    );
}

#[test]
fn a_circle_is_found_and_a_chain_is_none() {
    let arrows = |rows: &[(&str, &[&str])]| {
        rows.iter()
            .map(|(a, to)| {
                (
                    (*a).to_string(),
                    to.iter().map(ToString::to_string).collect(),
                )
            })
            .collect::<BTreeMap<String, BTreeSet<String>>>()
    };
    let chain = arrows(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]);
    assert!(circles(&chain).is_empty());
    let round = arrows(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &["a"])]);
    assert_eq!(circles(&round), [["b", "c"]]);

    let mut uses = Uses {
        module: vec!["lab".into(), "edit".into()],
        paths: BTreeSet::new(),
    };
    let code = "use crate::{ui, model::{site::Site, load}}; use super::grammar as g; fn f() { self::own(); println!(\"{}\", crate::app::x()); }
        #[cfg(test)] mod tests { use crate::cli; }";
    uses.visit_file(&syn::parse_file(code).unwrap());
    let found: Vec<String> = uses.paths.iter().map(|p| p.join("::")).collect();
    let expected = [
        "app::x",
        "lab::edit::own",
        "lab::grammar",
        "model::load",
        "model::site::Site",
        "ui",
    ];
    assert_eq!(found, expected);
}

/// Files that call the forward pass and the unembedding: the runner, what checks it against other ways to the same numbers,
/// and those that read states without a pass. Nothing else does, so that prefixes, batches, budgets and stops are one.
const CALLERS: &[(&str, &[&str])] = &[
    (
        "trunk",
        &["cli/doctor/identities", "lab/finite_guard", "lab/runner"],
    ),
    (
        "read_out",
        &["cli/doctor/identities", "lab/finite_guard", "lab/runner"],
    ),
    ("trunk_below", &["lab/runner"]),
    ("read_out_beside", &["cli/doctor/identities", "lab/runner"]),
    ("read_out_statistics", &["lab/runner"]),
    ("row_statistics", &["lab/readout"]),
    ("through", &["lab/runner"]),
    ("prepare", &["lab/runner"]),
    ("unembed", &["cli/doctor/identities", "lab/unembed"]),
];

/// The methods that a file's code calls, tests left out.
#[derive(Default)]
struct Calls(BTreeSet<String>);

impl<'ast> Visit<'ast> for Calls {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !test_only(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.0.insert(call.method.to_string());
        syn::visit::visit_expr_method_call(self, call);
    }
}

#[test]
fn the_runner_alone_calls_the_forward_pass() {
    let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for path in sources(&root()) {
        let file = module(&path).join("/");
        if file.starts_with("model") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut calls = Calls::default();
        calls.visit_file(&syn::parse_file(&text).unwrap());
        for (method, allowed) in CALLERS {
            // `prepare` is a common word: it is the transformer's where a pass is taken apart.
            let own = *method != "prepare" || text.contains("transformer.prepare(");
            if !own || !calls.0.contains(*method) {
                continue;
            }
            let room = allowed.iter().find(|room| file.starts_with(*room));
            assert!(room.is_some(), "{file} calls `{method}` of the transformer");
            let room = room.map(ToString::to_string);
            found.entry(method).or_default().extend(room);
        }
    }
    for (method, allowed) in CALLERS {
        let allowed: BTreeSet<String> = allowed.iter().map(ToString::to_string).collect();
        assert_eq!(found[method], allowed, "who calls `{method}`");
    }
}

/// The code of a file without its unit tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]").next().unwrap().to_string()
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
    for path in sources(&root().join("model/network/families")) {
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
        if path.ends_with("paint.rs") {
            continue;
        }
        for (number, line) in code(&path).lines().enumerate() {
            for word in direct {
                assert!(
                    !line.contains(word),
                    "{}:{} says `{word}`; write through ui/paint.rs, which clips",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn the_files_that_the_walks_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let named: Vec<&str> = text.split('`').filter(|w| w.starts_with("src/")).collect();
    assert!(named.len() > 20, "{named:?}");
    for path in named {
        assert!(root.join(path).exists(), "{path} is gone");
    }
}

/// The names of types that items declare, tests left out.
fn type_names(items: &[syn::Item], into: &mut Vec<String>) {
    for item in items {
        match item {
            syn::Item::Struct(item) => into.push(item.ident.to_string()),
            syn::Item::Enum(item) => into.push(item.ident.to_string()),
            syn::Item::Trait(item) => into.push(item.ident.to_string()),
            syn::Item::Type(item) => into.push(item.ident.to_string()),
            syn::Item::Mod(item) if item.ident != "tests" => {
                let inside = item.content.as_ref().map(|(_, items)| items.as_slice());
                type_names(inside.unwrap_or_default(), into);
            }
            _ => {}
        }
    }
}

/// A reader who meets a type knows which one it is.
#[test]
fn a_type_name_stands_once() {
    let mut seen: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in sources(&root()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut names = Vec::new();
        type_names(&syn::parse_file(&text).unwrap().items, &mut names);
        for name in names {
            seen.entry(name).or_default().push(path.clone());
        }
    }
    assert!(seen.len() > 400, "{} types", seen.len());
    seen.retain(|_, files| files.len() > 1);
    assert!(seen.is_empty(), "{seen:#?}");
}

/// A lab that a user works in can open dictionaries, so that edits can name features: nothing but `dictionaries/handles.rs` opens one.
#[test]
fn labs_of_users_are_opened_in_one_place() {
    let (mut opening, mut others) = (0, Vec::new());
    for path in sources(&root()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let calls = ["Lab::open(", "Lab::open_watched("].map(|call| text.matches(call).count());
        let count: usize = calls.iter().sum();
        match module(&path).join("::").as_str() {
            "dictionaries::handles" => opening += count,
            name if count > 0 => others.push(name.to_string()),
            _ => {}
        }
    }
    assert_eq!((opening, others), (2, Vec::<String>::new()));
}
