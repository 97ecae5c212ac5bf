//! What a name stands for, where a dictionary is read, and what is said when it is not what it seems; long work that can be
//! stopped, and what does not fit into memory.

use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use lmscope::dictionaries::formats;
use lmscope::dictionaries::opened::OpenDictionaries;
use lmscope::edit::schedule::Schedule;
use lmscope::error::Error;
use lmscope::figure::{Body, Entry, Figure, TablePage};
use lmscope::instruments::{Arguments, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::Site;

use super::hostile::{saelens, write};
use crate::tools::{prompt, tiny};

/// The width of the small models' stream.
const D: usize = 24;

fn lab() -> Lab {
    tiny(FAMILIES.iter().find(|f| f.name == "llama").unwrap())
}

/// An identity of `2 · D` features, as `SAELens` writes it.
fn identity(folder: &Path) {
    let sign = |f: usize| if f < D { 1.0f32 } else { -1.0 };
    let w_enc: Vec<f32> = (0..D)
        .flat_map(|j| (0..2 * D).map(move |f| if f % D == j { sign(f) } else { 0.0 }))
        .collect();
    let w_dec: Vec<f32> = (0..2 * D)
        .flat_map(|f| (0..D).map(move |j| if f % D == j { sign(f) } else { 0.0 }))
        .collect();
    saelens(folder, D, 2 * D, &w_enc, &w_dec, "standard");
}

fn change(folder: &Path, from: &str, to: &str) {
    let path = folder.join("cfg.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

fn observed(lab: &mut Lab, arguments: &Arguments) -> lmscope::error::Result<Figure> {
    observe(
        instrument("features").unwrap(),
        &Run::plain(prompt(6)),
        arguments,
        lab,
    )
}

fn given(dictionary: impl ToString) -> Arguments {
    Arguments::default().with("dictionary", dictionary)
}

fn pages(figure: &Figure) -> &[TablePage] {
    let Body::Table(table) = &figure.body else {
        panic!("a table");
    };
    &table.pages
}

/// The first entries of the rows of the last page.
fn names(figure: &Figure) -> Vec<String> {
    let rows = &pages(figure).last().unwrap().rows;
    let name = |entry: &Entry| match entry {
        Entry::Text(name) => name.clone(),
        other @ (Entry::Whole(_) | Entry::Number(_) | Entry::Missing) => panic!("{other:?}"),
    };
    rows.iter().map(|row| name(&row.entries[0])).collect()
}

fn config(lab: &mut Lab, folder: &Path, words: &str) {
    std::fs::write(folder.join("config.toml"), words).unwrap();
    lab.config = Some(folder.to_path_buf());
}

#[test]
fn rows_of_several_dictionaries_have_their_names_and_the_same_one_counts_once() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let (one, two) = (folder.path().join("one/sae"), folder.path().join("two/sae"));
    identity(&one);
    identity(&two);
    let twice = format!("{0},{0}/,{0}@resid_post.1", one.display());
    let shown = observed(&mut lab, &given(&twice)).unwrap();
    let counted = |shown: &Figure, name: &str| names(shown).iter().filter(|n| *n == name).count();
    assert_eq!((counted(&shown, "L0"), pages(&shown).len()), (1, 6));
    assert!(names(&shown)[0].starts_with("1/"), "{:?}", names(&shown));
    let both = format!("{},{}@resid_post.0", one.display(), two.display());
    let shown = observed(&mut lab, &given(both)).unwrap();
    let all = names(&shown);
    for row in ["L0 · one/sae", "error · two/sae"] {
        assert!(all.iter().any(|name| name == row), "{row} {all:?}");
    }
    assert!(
        all.iter().any(|name| name.starts_with("one/sae#")),
        "{all:?}"
    );
    let title = &shown.title;
    assert!(title.contains("one/sae (resid_post.1)"), "{title}");
    // A sentence for each of them.
    let said = &shown.notes[0];
    assert_eq!(said.matches("median share explained").count(), 2, "{said}");
    assert!(
        said.contains("one/sae: ") && said.contains("two/sae: "),
        "{said}"
    );
}

#[test]
fn a_name_is_looked_up_in_the_users_config_first() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let path = folder.path().join("sae");
    identity(&path);
    std::fs::write(
        folder.path().join("labels.json"),
        r#"{"3": "three", "9999": "none"}"#,
    )
    .unwrap();
    let words = "[dictionaries]\nmine = { path = \"sae\", labels = \"labels.json\" }\nlow = \"sae@resid_post.0\"\nitself = \"itself\"\n";
    config(&mut lab, folder.path(), words);
    let open = lab.derived::<OpenDictionaries>();
    let set = open.get("mine", &lab).unwrap();
    assert_eq!(
        (set.name.as_str(), set.dictionaries[0].reads[0]),
        ("mine", Site::ResidPost.at(1))
    );
    assert!(Rc::ptr_eq(
        &set,
        &open.get(&path.display().to_string(), &lab).unwrap()
    ));
    let low = open.get("low", &lab).unwrap();
    assert_eq!(low.dictionaries[0].reads[0], Site::ResidPost.at(0));
    // What is said last holds.
    let high = open.get("low@resid_post.2", &lab).unwrap();
    assert_eq!(high.dictionaries[0].reads[0], Site::ResidPost.at(2));
    let error = open.get("itself", &lab).unwrap_err().to_string();
    assert!(
        error.contains("itself") && error.contains("known: "),
        "{error}"
    );
    let error = open.get("other", &lab).unwrap_err().to_string();
    assert!(error.contains("mine") && error.contains("low"), "{error}");
    let shown = observed(&mut lab, &given("mine").with("count", 200)).unwrap();
    let labels = pages(&shown)[3].rows.iter().map(|row| &row.entries[4]);
    assert!(
        labels.clone().any(|l| *l == Entry::Text("three".into()))
            || pages(&shown)[3].rows.len() > 4
    );
    let said = shown.notes.join("\n");
    assert!(said.contains("1 of 2 labels fit layer 1"), "{said}");
}

#[test]
fn an_address_that_replaces_what_the_file_says_is_said() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    identity(folder.path());
    let at = |place: &str| given(format!("{}{place}", folder.path().display()));
    let said = |figure: Figure| figure.notes.join("\n");
    let moved = said(observed(&mut lab, &at("@resid_post.0")).unwrap());
    let words = "its file says blocks.1.hook_resid_post; it is read at resid_post.0, as asked";
    assert!(moved.contains(words), "{moved}");
    let same = said(observed(&mut lab, &at("")).unwrap());
    assert!(!same.contains("as asked"), "{same}");
    let error = observed(&mut lab, &at("@foo")).unwrap_err().to_string();
    assert!(
        error.contains("`@foo`") && error.contains("resid_post.1"),
        "{error}"
    );
}

#[test]
fn another_model_is_said_in_the_title_and_the_same_one_briefly() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    identity(folder.path());
    let own = lab.model.card.name.clone();
    change(folder.path(), "\"tiny\"", &format!("\"somebody/{own}\""));
    let shown = observed(&mut lab, &given(folder.path().display())).unwrap();
    assert!(!shown.title.contains("MADE FOR"), "{own}: {}", shown.title);
    assert!(
        shown.notes[1].contains(&format!("made for somebody/{own}, as this model")),
        "{:?}",
        shown.notes
    );
    change(
        folder.path(),
        &format!("somebody/{own}"),
        "google/gemma-2-2b",
    );
    let mut lab = Lab::new(lab.model);
    let shown = observed(&mut lab, &given(folder.path().display())).unwrap();
    assert!(
        shown
            .title
            .contains(&format!("MADE FOR google/gemma-2-2b, THIS IS {own}")),
        "{}",
        shown.title
    );
    let said = shown.notes.join("\n");
    assert!(
        said.contains("names another model: google/gemma-2-2b"),
        "{said}"
    );
}

#[test]
fn a_control_that_explains_as_much_is_said_loudly() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    // An identity reconstructs its control as well as anything else.
    identity(folder.path());
    let shown = observed(&mut lab, &given(folder.path().display())).unwrap();
    assert!(
        shown.notes[0].contains("THE CONTROL EXPLAINS AS MUCH"),
        "{}",
        shown.notes[0]
    );
    let rows = &pages(&shown).last().unwrap().rows;
    let Entry::Text(label) = &rows.last().unwrap().entries[4] else {
        panic!("a label");
    };
    assert!(label.contains("EXPLAINS AS MUCH"), "{label}");
}

/// A position with a huge activation is not listed.
#[test]
fn a_position_with_a_huge_activation_is_outside_training() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    identity(folder.path());
    let arguments = given(folder.path().display());
    let listed = |figure: &Figure, page: usize| pages(figure)[page].rows.len() - 4;
    let shown = observed(&mut lab, &arguments).unwrap();
    assert!(listed(&shown, 0) == 0 && listed(&shown, 3) == 10);
    let all: Vec<String> = (0..D).map(|i| i.to_string()).collect();
    let edit = format!("scale:{}@resid_post.1:3*60", all.join(","));
    let run = Run {
        schedule: Schedule::always(vec![edit.parse().unwrap()]),
        ..Run::plain(prompt(6))
    };
    let shown = observe(instrument("features").unwrap(), &run, &arguments, &mut lab).unwrap();
    let mark = format!("{:?}", pages(&shown)[3].rows[1].entries[4]);
    assert_eq!(listed(&shown, 3), 0, "{mark}");
    assert!(
        mark.contains("more than 10 times as large as usual"),
        "{mark}"
    );
    assert_eq!(listed(&shown, 4), 10);
}

#[test]
fn a_feature_is_followed_over_the_text_and_layers_lie_above_each_other() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let (low, high) = (folder.path().join("low"), folder.path().join("high"));
    identity(&low);
    change(&low, "blocks.1.", "blocks.0.");
    identity(&high);
    let both = given(format!("{},{}", high.display(), low.display()));
    let run = Run::plain(prompt(6));
    let capture = lab
        .record(&run, &[Site::ResidPost.at(0), Site::ResidPost.at(1)])
        .unwrap();
    let x = |layer: usize| crate::tools::values(capture.get(Site::ResidPost.at(layer)).unwrap());
    let shown = observed(&mut lab, &both.clone().with("feature", "low#5, high#29")).unwrap();
    let Body::Grid(grid) = &shown.body else {
        panic!("a grid");
    };
    assert_eq!((grid.rows.len(), grid.columns.len()), (2, 6));
    assert_eq!(
        (grid.rows[0].label.as_str(), grid.rows[1].label.as_str()),
        ("low#5", "high#29")
    );
    for position in 1..6 {
        let (low, high) = (x(0)[position * D + 5], x(1)[position * D + 5]);
        assert_eq!(grid.cells[position][0].value, low.max(0.0));
        assert_eq!(grid.cells[position][1].value, (-high).max(0.0));
        let anchor = grid.cells[position][1].anchor;
        assert_eq!(
            (anchor.layer, anchor.position),
            (Some(1), Some(position as u32))
        );
    }
    assert_eq!(
        (grid.cells[0][0].label.as_str(), grid.cells[0][0].value),
        ("×", 0.0)
    );
    let error = observed(&mut lab, &both.clone().with("feature", "low#48")).unwrap_err();
    assert!(error.to_string().contains("low#0 to 47"), "{error}");
    let error = observed(&mut lab, &both.clone().with("feature", "five")).unwrap_err();
    assert!(error.to_string().contains("NAME#12/1234"), "{error}");

    let shown = observed(&mut lab, &both.with("view", "layers").with("window", 3)).unwrap();
    let Body::Grid(grid) = &shown.body else {
        panic!("a grid");
    };
    let rows: Vec<&str> = grid.rows.iter().map(|row| row.label.as_str()).collect();
    assert_eq!((rows, grid.columns.len()), (vec!["low", "high"], 3));
    for (i, position) in (3..6).enumerate() {
        for layer in 0..2 {
            let row = &x(layer)[position * D..][..D];
            let (most, value) = row
                .iter()
                .enumerate()
                .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
                .unwrap();
            let feature = if *value > 0.0 { most } else { most + D };
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            let cell = &grid.cells[i][layer];
            assert_eq!(cell.label, feature.to_string());
            assert!((cell.value - value.abs() / norm).abs() < 1e-4);
            assert_eq!(cell.more.len(), 4);
        }
    }
}

#[test]
fn a_decoder_that_is_not_finite_is_refused_with_the_feature() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let ones = |count: usize| vec![0.1f32; count];
    let mut w_dec = ones(D * 4);
    w_dec[2 * D + 3] = f32::NAN;
    let bias = [-100.0, -100.0, 100.0, 1.0];
    saelens(folder.path(), D, 4, &ones(D * 4), &w_dec, "standard");
    write(
        &folder.path().join("sae_weights.safetensors"),
        &[
            ("W_enc", &[D, 4], ones(D * 4)),
            ("W_dec", &[4, D], w_dec),
            ("b_enc", &[4], bias.to_vec()),
            ("b_dec", &[D], vec![0.0; D]),
        ],
    );
    let error = observed(&mut lab, &given(folder.path().display())).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("not finite") && error.contains("feature 2"),
        "{error}"
    );
}

/// Fields of `SAELens` that change the numbers are honoured, refused or said.
#[test]
fn fields_that_change_the_numbers_are_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let changed = |to: &str| {
        identity(path);
        change(path, "\"architecture\"", &format!("{to}, \"architecture\""));
        formats::open(path).map(|mut found| found.remove(0))
    };
    let metadata = |to: &str| {
        identity(path);
        change(path, "\"model_name\"", &format!("{to}, \"model_name\""));
        formats::open(path).map(|mut found| found.remove(0))
    };
    let error = |found: lmscope::error::Result<lmscope::dictionaries::Dictionary>| {
        found.map(|d| d.name).unwrap_err().to_string()
    };
    let said = error(changed("\"reshape_activations\": \"hook_z\""));
    assert!(said.contains("hook_z"), "{said}");
    let said = error(changed("\"finetuning_scaling_factor\": true"));
    assert!(said.contains("scaling_factor is missing"), "{said}");
    let remarks = metadata("\"seqpos_slice\": [5, -5]")
        .unwrap()
        .remarks
        .join("; ");
    assert!(remarks.contains("seqpos_slice [5, -5]"), "{remarks}");
    for whole in ["[null]", "[0, null]", "[null, null, 1]", "null"] {
        let remarks = metadata(&format!("\"seqpos_slice\": {whole}"))
            .unwrap()
            .remarks;
        assert!(remarks.is_empty(), "{whole}: {remarks:?}");
    }
    let remarks = metadata("\"prepend_bos\": false")
        .unwrap()
        .remarks
        .join("; ");
    assert!(remarks.contains("without a BOS"), "{remarks}");
    let remarks = metadata("\"exclude_special_tokens\": true")
        .unwrap()
        .remarks
        .join("; ");
    assert!(remarks.contains("special tokens"), "{remarks}");
    // Metadata without a version, as other tools write it.
    identity(path);
    change(path, "\"sae_lens_version\": \"6.54.12\", ", "");
    let found = formats::open(path).unwrap().remove(0);
    assert_eq!(
        found.inputs[0].place.to_string(),
        "blocks.1.hook_resid_post"
    );
    assert_eq!(found.made_for.as_deref(), Some("tiny"));
    // An old config with a function that is not read.
    let old = |function: &str| {
        identity(path);
        let config = format!(
            r#"{{"d_in": {D}, "d_sae": {}, "hook_point": "blocks.1.hook_resid_post", "activation_fn_str": "{function}"}}"#,
            2 * D
        );
        std::fs::write(path.join("cfg.json"), config).unwrap();
        formats::open(path).map(|mut found| found.remove(0))
    };
    assert!(old("relu").is_ok());
    let said = error(old("tanh-relu"));
    assert!(
        said.contains("tanh-relu") && said.contains("relu and topk"),
        "{said}"
    );
    let said = error(old("topk"));
    assert!(said.contains("no k"), "{said}");
}

/// What a file has and a reader does not read is said.
#[test]
fn tensors_that_are_not_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    identity(folder.path());
    write(
        &folder.path().join("sae_weights.safetensors"),
        &[
            ("W_enc", &[D, 4], vec![0.1; D * 4]),
            ("W_dec", &[4, D], vec![0.1; D * 4]),
            ("b_enc", &[4], vec![0.0; 4]),
            ("b_dec", &[D], vec![0.0; D]),
            ("activation_mean", &[D], vec![0.0; D]),
        ],
    );
    change(
        folder.path(),
        &format!("\"d_sae\": {}", 2 * D),
        "\"d_sae\": 4",
    );
    let found = formats::open(folder.path()).unwrap().remove(0);
    let said = found.remarks.join("; ");
    assert!(
        said.contains("not read") && said.contains("`activation_mean`"),
        "{said}"
    );
}

#[test]
fn a_short_name_is_the_end_of_a_path_and_keeps_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/c/d");
    identity(&path);
    assert_eq!(formats::open(&path).unwrap()[0].name, "…/b/c/d");
}

/// Opening and encoding tell what share is done, and stop when they are told to.
#[test]
fn opening_and_encoding_can_be_watched_and_stopped() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    identity(folder.path());
    let dictionary = formats::open(folder.path()).unwrap().remove(0);
    let x = vec![1f32; 3 * D];
    let told = std::cell::RefCell::new(Vec::new());
    let watch = |done: f32| {
        told.borrow_mut().push(done);
        Ok(())
    };
    dictionary.encode_watched(&[&x], &watch).unwrap();
    assert!(!told.borrow().is_empty() && told.borrow().iter().all(|d| (0.0..=1.0).contains(d)));
    let stop = |_: f32| Err(Error::Cancelled);
    let stopped = dictionary.encode_watched(&[&x], &stop);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let stopped = dictionary.decoder_norms_watched(&stop);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    // A TopK over decoder norms reads its decoder when it is opened.
    change(
        folder.path(),
        "\"standard\"",
        "\"topk\", \"rescale_acts_by_decoder_norm\": true",
    );
    assert!(matches!(
        formats::open_watched(folder.path(), &stop),
        Err(Error::Cancelled)
    ));
    lab.cancel.store(true, Ordering::Relaxed);
    let stopped = observed(&mut lab, &given(folder.path().display()));
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

#[test]
fn nothing_named_is_refused_with_what_to_do() {
    let error = observed(&mut lab(), &Arguments::default()).unwrap_err();
    assert!(matches!(error, Error::BadArgument { .. }), "{error}");
    assert!(error.to_string().contains(":dictionary PATH"), "{error}");
}
