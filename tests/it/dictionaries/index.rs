//! The corpus index: numbers against PyTorch, the same however often it is interrupted, refused for other models and dictionaries,
//! and files that lie.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::Ordering;

use lmscope::dictionaries::index::{FeatureIndex, IndexRequest};
use lmscope::dictionaries::opened::{DictionarySet, OpenDictionaries};
use lmscope::error::Error;
use lmscope::figure::{Body, Entry};
use lmscope::file::Overwrite;
use lmscope::instruments::{Arguments, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use serde_json::Value;

use super::rows;
use super::single::{CASES, case, close, numbers, whole_numbers};

fn request(given: &str, expected: &Value) -> IndexRequest {
    IndexRequest {
        dictionary: given.into(),
        text: "text.txt".into(),
        tokens: whole_numbers(&expected["text"]),
        context: 16,
        keep: 3,
        layer: None,
    }
}

fn build(lab: &mut Lab, given: &str, expected: &Value, unfinished: &Path) -> FeatureIndex {
    let set = lab.derived::<OpenDictionaries>().get(given, lab).unwrap();
    FeatureIndex::build(lab, &set, request(given, expected), unfinished).unwrap()
}

#[test]
fn densities_and_strongest_contexts_are_those_of_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    for name in CASES {
        let (mut lab, given, expected) = case(name);
        let index = build(&mut lab, &given, &expected, &folder.path().join(name));
        let layer = index.layer(0).unwrap();
        // 18 windows of 16 tokens and one of 12, each without its first.
        assert_eq!((index.origin.positions, index.windows()), (281, 19));
        let some = |key: &str| numbers(&expected[key]);
        for (f, ((density, mean), largest)) in some("density")
            .iter()
            .zip(some("mean"))
            .zip(some("largest"))
            .enumerate()
        {
            let f = f as u32;
            close(layer.density(f).unwrap(), *density, 1e-6);
            close(layer.mean(f).unwrap(), mean, 1e-4);
            close(index.largest(0, f).unwrap(), largest, 1e-4);
        }
        let contexts = expected["strongest"].as_array().unwrap();
        for (f, expected) in whole_numbers(&expected["some"]).iter().zip(contexts) {
            let found = layer.contexts(*f);
            let expected = rows(expected);
            assert_eq!(found.len(), expected.len(), "{name} {f}");
            for (found, expected) in found.iter().zip(&expected) {
                close(found.act, expected[0], 1e-4);
                assert_eq!(found.at as f32, expected[1], "{name} {f}");
                assert_eq!(index.before(found.at).len(), found.at % 16 + 1);
            }
        }
        let text = whole_numbers(&expected["text"]);
        assert_eq!(index.before(35), &text[32..36]);
        assert_eq!((index.after(35), index.after(299)), (Some(text[36]), None));
        assert_eq!((index.layer(1), index.largest(0, 32)), (None, None));
    }
}

#[test]
fn interrupted_work_goes_on_and_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (mut lab, given, mut expected) = case("llama");
    // Several batches.
    let text = whole_numbers(&expected["text"]);
    let long: Vec<u32> = text.iter().cycle().take(5000).copied().collect();
    expected["text"] = long.into();
    let whole = build(&mut lab, &given, &expected, &folder.path().join("a"));
    assert!(!folder.path().join("a").exists());
    let set = lab.derived::<OpenDictionaries>().get(&given, &lab).unwrap();
    let unfinished = folder.path().join("b");
    let (mut stops, mut last) = (0, 0);
    let found = loop {
        // Stops after one batch, and once in the middle of one.
        let middle = stops == 1;
        let first = Cell::new(None);
        let cancel = lab.cancel.clone();
        let listener = move |done: f32| {
            let begin = first.get().unwrap_or(done);
            if done > begin || (middle && first.get().is_some()) {
                cancel.store(true, Ordering::Relaxed);
            }
            first.set(Some(begin));
        };
        let asked = request(&given, &expected);
        let found = lab.with_progress(listener, |lab| {
            FeatureIndex::build(lab, &set, asked, &unfinished)
        });
        lab.cancel.store(false, Ordering::Relaxed);
        if !matches!(found, Err(Error::Cancelled)) {
            break found.unwrap();
        }
        stops += 1;
        assert!(stops < 10, "no end");
        let held = FeatureIndex::read(&unfinished).unwrap();
        assert_eq!(held.origin.windows > last, !middle);
        assert!(!held.is_complete());
        last = held.origin.windows;
        let refused = held.check(&set, &lab.model).unwrap_err().to_string();
        assert!(refused.contains("finished index"), "{refused}");
    };
    assert!(stops > 1, "{stops}");
    assert_eq!(found.bytes().unwrap(), whole.bytes().unwrap());
    // Unfinished work of another text is not touched.
    let mut other = request(&given, &expected);
    other.tokens.pop();
    let said = FeatureIndex::build(&mut lab, &set, other, &unfinished).unwrap_err();
    assert!(said.to_string().contains("another text"), "{said}");
}

#[test]
fn an_index_is_refused_for_another_model_or_dictionary() {
    let folder = tempfile::tempdir().unwrap();
    let (mut lab, given, expected) = case("llama");
    let path = folder.path().join("index.safetensors");
    let index = build(&mut lab, &given, &expected, &folder.path().join("a"));
    index.save(&path, Overwrite::Never).unwrap();
    let set = lab.derived::<OpenDictionaries>().get(&given, &lab).unwrap();
    assert_eq!(FeatureIndex::open(&path, &set, &lab.model).unwrap(), index);
    let elsewhere = lab
        .derived::<OpenDictionaries>()
        .get(&format!("{given}@resid_pre.1"), &lab)
        .unwrap();
    let said = FeatureIndex::open(&path, &elsewhere, &lab.model)
        .unwrap_err()
        .to_string();
    assert!(said.contains("this dictionary at the same place"), "{said}");
    let (other, _, _) = case("gpt2");
    let said = FeatureIndex::open(&path, &set, &other.model)
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("gpt2") && said.contains("dictionary index"),
        "{said}"
    );
    // The same through an instrument.
    let arguments = Arguments::default()
        .with("dictionary", format!("{given}@resid_pre.1"))
        .with("feature", 7)
        .with("index", path.display());
    let run = Run::plain(whole_numbers(&expected["prompt"]));
    let said = observe(instrument("feature").unwrap(), &run, &arguments, &mut lab).unwrap_err();
    assert!(said.to_string().contains("same place"), "{said}");
}

/// What the card says of an index, and the promise: it is kept where the text was made so, and not elsewhere.
#[test]
fn a_promise_that_is_kept_differs_from_the_control() {
    let folder = tempfile::tempdir().unwrap();
    let (mut lab, given, mut expected) = case("llama");
    let set = lab.derived::<OpenDictionaries>().get(&given, &lab).unwrap();
    let shown = |lab: &mut Lab, expected: &Value, name: &str| {
        let asked = IndexRequest {
            keep: 20,
            ..request(&given, expected)
        };
        let path = folder.path().join(name);
        let index = FeatureIndex::build(lab, &set, asked, &folder.path().join("u")).unwrap();
        index.save(&path, Overwrite::Never).unwrap();
        let arguments = Arguments::default()
            .with("dictionary", &given)
            .with("feature", 7)
            .with("index", path.display());
        let run = Run::plain(whole_numbers(&expected["prompt"]));
        observe(instrument("feature").unwrap(), &run, &arguments, lab).unwrap()
    };
    let row = |figure: &lmscope::figure::Figure, name: &str| {
        let Body::Table(table) = &figure.body else {
            panic!("a table");
        };
        let rows = table.pages[0].rows.iter();
        let rows = rows.filter(|r| r.entries[0] == Entry::Text(name.into()));
        rows.map(|r| match &r.entries[1..] {
            [Entry::Number(number), Entry::Text(words)] => (*number, words.clone()),
            other => panic!("{other:?}"),
        })
        .collect::<Vec<_>>()
    };
    let plain = shown(&mut lab, &expected, "plain");
    close(
        row(&plain, "density")[0].0,
        numbers(&expected["density"])[7],
        1e-6,
    );
    assert_eq!(row(&plain, "strongest").len(), 5);
    assert!(
        row(&plain, "follows")[0]
            .1
            .contains("no more than in the control"),
        "{plain:?}"
    );
    assert!(
        row(&plain, "control")[0].1.contains("20 other features"),
        "{plain:?}"
    );
    // The same text, in which a promoted token follows wherever the feature is strongest.
    let promoted = rows(&expected["promoted"]);
    let at = whole_numbers(&expected["some"])
        .iter()
        .position(|f| *f == 7)
        .unwrap();
    let best = promoted[at]
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .unwrap()
        .0;
    let mut text = whole_numbers(&expected["text"]);
    for _ in 0..20 {
        expected["text"] = text.clone().into();
        let index = build_with(
            &mut lab,
            &set,
            request(&given, &expected),
            &folder.path().join("v"),
        );
        for context in index.layer(0).unwrap().contexts(7) {
            if let Some(next) = text.get_mut(context.at + 1) {
                *next = best as u32;
            }
        }
    }
    expected["text"] = text.into();
    let kept = shown(&mut lab, &expected, "kept");
    let (own, control) = (row(&kept, "follows")[0].clone(), row(&kept, "control")[0].0);
    assert!(own.0 > control, "{own:?} {control}");
    assert!(
        own.1.contains("more than after any of the control"),
        "{own:?} {control}"
    );
}

fn build_with(
    lab: &mut Lab,
    set: &DictionarySet,
    asked: IndexRequest,
    unfinished: &Path,
) -> FeatureIndex {
    let asked = IndexRequest { keep: 20, ..asked };
    FeatureIndex::build(lab, set, asked, unfinished).unwrap()
}

#[test]
fn files_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut lab, given, expected) = case("llama");
    let path = folder.path().join("i");
    let bytes = build(&mut lab, &given, &expected, &path).bytes().unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let with = |from: &str, to: &str| {
        assert!(header.contains(from), "{from} in {header}");
        let header = header.replace(from, to);
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.extend(&bytes[8 + length..]);
        FeatureIndex::parse(&out, &path)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(FeatureIndex::parse(&bytes, &path).is_ok());
    let said = with("lmscope.features", "lmscope.feature_");
    assert!(said.contains("no index of features"), "{said}");
    let said = with("\\\"features\\\":32", "\\\"features\\\":99999999");
    assert!(
        said.contains("[99999999") && said.contains("expected"),
        "{said}"
    );
    let said = with("\\\"keep\\\":3", "\\\"keep\\\":0");
    assert!(said.contains("impossible"), "{said}");
    let said = with("\\\"context\\\":16", "\\\"context\\\":1");
    assert!(said.contains("impossible"), "{said}");
    let said = with("\\\"positions\\\":281", "\\\"positions\\\":3");
    assert!(said.contains("more positions"), "{said}");
    let said = with("\"0.active\"", "\"0.xctive\"");
    assert!(said.contains("lacks `0.active`"), "{said}");
    for end in (0..bytes.len()).step_by(97) {
        assert!(FeatureIndex::parse(&bytes[..end], &path).is_err(), "{end}");
    }
    // A place outside the text, and a number that is not finite.
    for what in [u32::to_le_bytes(4_000_000), f32::NAN.to_le_bytes()] {
        let mut refused = 0;
        for at in (8 + length..bytes.len()).step_by(4) {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&what);
            refused += usize::from(FeatureIndex::parse(&bytes, &path).is_err());
        }
        assert!(refused > 50, "{refused}");
    }
}
