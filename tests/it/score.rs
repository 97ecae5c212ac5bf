//! Scores of given texts: those of transformers in eager f32, plain and under edits; each token once whatever the windows; and the
//! same numbers as other instruments have of them.

use std::path::Path;

use lmscope::edit::schedule::Schedule;
use lmscope::error::Error;
use lmscope::figure::{Body, Entry, Figure, Table, TableRow};
use lmscope::instruments::{Arguments, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::load::Options;
use serde_json::Value;

use super::demo::demo;

fn under(edits: &[&str]) -> Schedule {
    Schedule::always(edits.iter().map(|e| e.parse().unwrap()).collect())
}

fn score(lab: &mut Lab, run: &Run, given: &[(&str, &str)]) -> Figure {
    let all = given.iter();
    let arguments = all.fold(Arguments::default(), |all, (name, value)| {
        all.with(name, value)
    });
    observe(instrument("score").unwrap(), run, &arguments, lab).unwrap()
}

fn table(figure: &Figure) -> &Table {
    match &figure.body {
        Body::Table(table) => table,
        _ => panic!("a table"),
    }
}

/// The numbers of a column of the first page; empty entries are left out.
fn column(figure: &Figure, name: &str) -> Vec<f64> {
    let table = table(figure);
    let at = table.columns.iter().position(|c| c == name);
    let at = at.unwrap_or_else(|| panic!("no {name} in {:?}", table.columns));
    let rows = table.pages[0].rows.iter();
    rows.filter_map(|row| match &row.entries[at] {
        Entry::Whole(value) => Some(*value as f64),
        Entry::Number(value) => Some(f64::from(*value)),
        Entry::Missing => None,
        Entry::Text(text) => text.parse().ok(),
    })
    .collect()
}

#[test]
fn it_is_what_transformers_says_of_a_text_in_windows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references/score.json");
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.txt");
    std::fs::write(&file, expected["text"].as_str().unwrap()).unwrap();
    let options = Options {
        dtype: Some("f32".into()),
        device: Some("cpu".into()),
        ..Options::default()
    };
    let mut lab = Lab::open("demo", &options).unwrap();
    let (window, stride) = (
        expected["window"].to_string(),
        expected["stride"].to_string(),
    );
    let given = [
        ("text", file.to_str().unwrap()),
        ("window", &window),
        ("stride", &stride),
        ("draws", "1"),
    ];
    let near = |found: f64, wanted: &Value, within: f64, what: &str| {
        let wanted = wanted.as_f64().unwrap();
        assert!(
            (found - wanted).abs() <= within * wanted.abs().max(1e-9),
            "{what}: {found} {wanted}"
        );
    };
    for (edit, case) in expected["cases"].as_object().unwrap() {
        let plain = edit == "plain";
        let schedule = if plain {
            Schedule::none()
        } else {
            under(&[edit])
        };
        let run = Run::default().under(&schedule);
        let names = if plain {
            ["loss", "perplexity", "accuracy"]
        } else {
            ["edited loss", "edited perplexity", "edited accuracy"]
        };
        let figure = score(&mut lab, &run, &given);
        near(column(&figure, "tokens")[0], &case["tokens"], 0.0, edit);
        for (name, key) in names.into_iter().zip(["loss", "perplexity", "accuracy"]) {
            near(
                column(&figure, name)[0],
                &case[key],
                1e-5,
                &format!("{edit}, {key}"),
            );
        }
        let given: Vec<_> = given.into_iter().chain([("show", "tokens")]).collect();
        let figure = score(&mut lab, &run, &given);
        let losses = column(&figure, if plain { "loss" } else { "edited loss" });
        let wanted = case["losses"].as_array().unwrap();
        assert_eq!(losses.len(), wanted.len(), "{edit}");
        for (found, wanted) in losses.iter().zip(wanted) {
            assert!(
                (found - wanted.as_f64().unwrap()).abs() < 1e-4,
                "{edit}: {found} {wanted}"
            );
        }
    }
}

#[test]
fn windows_that_hold_the_whole_text_change_nothing() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.txt");
    let words = "The capital of France is Paris\nThe capital of Korea is Seoul\n";
    std::fs::write(&file, words).unwrap();
    let run = Run::plain(lab.model.encode(words, false).unwrap());
    let own = score(&mut lab, &run, &[("show", "tokens")]);
    let name = file.to_str().unwrap();
    let read = score(
        &mut lab,
        &Run::default(),
        &[("text", name), ("show", "tokens")],
    );
    let losses = column(&own, "loss");
    assert_eq!(losses.len(), run.tokens.len() - 1);
    assert_eq!(losses, column(&read, "loss"));
    // As surprisal has it.
    let surprisal = observe(
        instrument("surprisal").unwrap(),
        &run,
        &Arguments::default(),
        &mut lab,
    )
    .unwrap();
    let series = surprisal.body.series().unwrap();
    for (found, wanted) in losses.iter().zip(&series.curves[0].values[1..]) {
        assert!(
            (found - f64::from(*wanted)).abs() < 1e-5,
            "{found} {wanted}"
        );
    }
    // With a stride of one every token but those of the first window has the whole window before it.
    let near = score(
        &mut lab,
        &Run::default(),
        &[
            ("text", name),
            ("show", "tokens"),
            ("window", "6"),
            ("stride", "1"),
        ],
    );
    let short = column(&near, "loss");
    assert_eq!(short.len(), losses.len());
    assert!((short[3] - losses[3]).abs() < 1e-4, "{short:?} {losses:?}");
    assert!(
        (short[9] - losses[9]).abs() > 1e-3,
        "what stands further back is not seen"
    );
}

#[test]
fn a_list_is_the_mean_over_its_tokens_and_an_edit_costs_what_it_costs() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.txt");
    let lines = [
        "The capital of France is Paris",
        "The capital of Korea is Seoul",
        "Spain lies in Europe",
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let name = file.to_str().unwrap();
    let run = Run::default().under(&under(&["add:mood@resid_pre.4*2"]));
    let figure = score(&mut lab, &run, &[("prompts", name), ("draws", "3")]);
    let (tokens, loss) = (column(&figure, "tokens"), column(&figure, "loss"));
    assert_eq!(tokens.len(), 4);
    assert!((tokens[0] - tokens[1..].iter().sum::<f64>()).abs() < 0.5);
    let mean = |of: &[f64]| {
        of[1..]
            .iter()
            .zip(&tokens[1..])
            .map(|(l, n)| l * n)
            .sum::<f64>()
            / tokens[0]
    };
    assert!((loss[0] - mean(&loss)).abs() < 1e-5, "{loss:?}");
    let (edited, apart) = (column(&figure, "edited loss"), column(&figure, "ΔCE"));
    for i in 0..4 {
        assert!((edited[i] - loss[i] - apart[i]).abs() < 1e-5);
    }
    assert!(apart[0] > 0.5, "{apart:?}");
    // Each text alone, under the edit, without the others beside it.
    let alone = Run::plain(lab.model.encode(lines[1], false).unwrap()).under(&run.schedule);
    let alone = score(&mut lab, &alone, &[("draws", "0")]);
    assert!((column(&alone, "edited loss")[0] - edited[2]).abs() < 1e-4);
    assert!(!table(&alone).columns.contains(&"control ΔCE".to_string()));
    let said = figure.notes.join("\n");
    assert!(
        said.contains("control: 3 random edits of equal size"),
        "{said}"
    );
    assert!(said.contains("the 3 texts drawn again"), "{said}");
    assert!(
        said.contains("fired 69 times") || said.contains("fired "),
        "{said}"
    );
    let control = column(&figure, "control ΔCE");
    assert_eq!(control.len(), 4);
    assert!(control[0].abs() > 1e-3, "random edits act, too");
}

#[test]
fn an_edit_that_never_fires_is_said_and_what_cannot_be_scored_refused() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.txt");
    std::fs::write(&file, "Spain lies in Europe\nJapan lies in Asia\n").unwrap();
    let name = file.to_str().unwrap();
    let run = Run::default().under(&under(&["zero@mlp_out.1:40..50"]));
    let figure = score(&mut lab, &run, &[("prompts", name)]);
    let said = figure.notes.join("\n");
    assert!(said.contains("NEVER FIRED"), "{said}");
    assert!(said.contains("no control"), "{said}");
    assert!(column(&figure, "ΔCE")[0].abs() < 1e-6);
    let refused = |lab: &mut Lab, run: &Run, given: &[(&str, &str)]| {
        let all = given.iter();
        let arguments = all.fold(Arguments::default(), |all, (name, value)| {
            all.with(name, value)
        });
        let error = observe(instrument("score").unwrap(), run, &arguments, lab).unwrap_err();
        error.to_string()
    };
    let both = refused(
        &mut lab,
        &Run::default(),
        &[("prompts", name), ("text", name)],
    );
    assert!(both.contains("not both"), "{both}");
    let prompt = Run::plain(vec![0, 1]);
    let both = refused(&mut lab, &prompt, &[("prompts", name)]);
    assert!(both.contains("not both"), "{both}");
    let short = refused(&mut lab, &Run::plain(vec![0]), &[]);
    assert!(short.contains("two tokens or more"), "{short}");
}

/// A score that is stopped has the texts that were reached, and the same request goes on to the same figure; an unfinished text has no row.
#[test]
fn a_score_that_is_stopped_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.txt");
    // Windows of several shapes, so that there are several groups.
    let texts: Vec<String> = (1..9)
        .map(|n| "The capital of France is Paris. ".repeat(n))
        .collect();
    std::fs::write(&file, texts.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    let given = [("prompts", file), ("window", "24"), ("stride", "12")];
    let run = Run::default().under(&under(&["zero:1,2,3@mlp_act.2"]));
    let whole = score(&mut demo(), &run, &given);
    let mut lab = demo();
    let cancel = lab.cancel.clone();
    let stop = move |done: f32| {
        if done > 0.5 {
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let part = lab.with_progress(stop, |lab| score(lab, &run, &given));
    assert!(std::mem::take(&mut lab.unfinished.stopped));
    assert!(
        part.notes
            .iter()
            .any(|note| note.starts_with("stopped after ")),
        "{:?}",
        part.notes
    );
    let reached = table(&part).pages[0].rows.len();
    assert!(reached > 1 && reached < 9, "{reached}");
    // Those that were reached are as in the whole figure.
    let of = |figure: &Figure, name: &str| -> Vec<TableRow> {
        let rows = table(figure).pages[0].rows.iter();
        rows.filter(|row| row.entries[0].exact() == name)
            .cloned()
            .collect()
    };
    for row in &table(&part).pages[0].rows[1..] {
        let name = row.entries[0].exact();
        assert_eq!(of(&whole, &name), std::slice::from_ref(row), "{name}");
    }
    let rest = score(&mut lab, &run, &given);
    assert!(!lab.unfinished.stopped);
    assert_eq!((&rest.body, &rest.notes), (&whole.body, &whole.notes));
    // Nothing that is reached is no figure.
    let mut lab = demo();
    lab.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    let arguments = Arguments::default().with("prompts", file);
    let none = observe(instrument("score").unwrap(), &run, &arguments, &mut lab);
    assert!(matches!(none, Err(Error::Cancelled)), "{none:?}");
}

/// A list's own names stand beside its texts, whose whole text is with the figure.
#[test]
fn texts_of_a_list_keep_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.tsv");
    std::fs::write(
        &file,
        "prompt\tid\nThe capital of France is Paris\ta\nOne\tb\nIn Rome they speak Italian\tc\n",
    )
    .unwrap();
    let figure = score(
        &mut demo(),
        &Run::default(),
        &[("prompts", file.to_str().unwrap())],
    );
    let table = table(&figure);
    assert_eq!(table.columns.last().unwrap(), "id");
    let rows = &table.pages[0].rows;
    let named = |row: &TableRow| (row.entries[0].clone(), row.entries.last().unwrap().exact());
    assert_eq!(named(&rows[0]), (Entry::Missing, String::new()));
    assert_eq!(named(&rows[1]), (Entry::Whole(1), "a".into()));
    assert_eq!(named(rows.last().unwrap()), (Entry::Whole(3), "c".into()));
    assert_eq!(figure.provenance.prompts.len(), 3);
}

#[test]
fn the_command_line_announces_a_score() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.txt");
    std::fs::write(&file, "The capital of France is Paris\nThe capital of\n").unwrap();
    let (_, said) = super::tools::lmscope(&["score", "demo", "--prompts", file.to_str().unwrap()]);
    assert!(
        said.contains("score: 2 windows, ") && said.contains("Ctrl-C keeps the windows so far"),
        "{said}"
    );
}
