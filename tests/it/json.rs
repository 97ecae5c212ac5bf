//! JSON for scripts: what `docs/files.md` says of it: keys, numbers as numbers, ids and raw texts beside labels, every character back.
//!
//! To let another command print JSON, add its document to the table of that page and to [`documents`].

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// A prompt with characters that act on a terminal, hidden ones, and one that takes several tokens.
const HOSTILE: &str = "The capital\u{1b}[31m of\tFrance\u{202e}\r\n is \u{9b}2J 漢";

fn lmscope(arguments: &[&str]) -> String {
    super::tools::lmscope(arguments).0
}

fn json(arguments: &[&str]) -> Value {
    let out = lmscope(&[arguments, &["--format", "json"]].concat());
    let shown = |c: char| c == '\n' || !(c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
    assert!(out.chars().all(shown), "{arguments:?} is not safe to show");
    serde_json::from_str(&out).unwrap()
}

fn root(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(path)
        .to_str()
        .unwrap()
        .to_string()
}

/// Every key of a document's objects, those of maps by id left out.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key.parse::<u32>().is_err() {
                    found.insert(key.clone());
                }
                keys(value, found);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| keys(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A document of each command that prints one.
fn documents(folder: &Path) -> Vec<(&'static str, Value)> {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let (plus, minus) = (
        root("demo/lists/mood_plus.txt"),
        root("demo/lists/mood_minus.txt"),
    );
    let (direction, stats, text) = (path("d.safetensors"), path("s.safetensors"), path("t.txt"));
    std::fs::write(
        &text,
        "Once upon a time there was a pony named Tom. ".repeat(40),
    )
    .unwrap();
    let lists = [
        "--plus", &plus, "--minus", &minus, "--layer", "3-4", "-o", &direction,
    ];
    let made = json(&[&["direction", "demo"][..], &lists].concat());
    let measured = json(&[
        "stats",
        "demo",
        &text,
        "--sites",
        "mlp_act.2,final_norm",
        "-o",
        &stats,
    ]);
    vec![
        ("direction", made),
        ("stats", measured),
        ("doctor", json(&["doctor"])),
        ("doctor demo", json(&["doctor", "demo"])),
        (
            "generate",
            json(&[
                "generate",
                "demo",
                "-p",
                HOSTILE,
                "-n",
                "3",
                "--edit",
                "zero:1@mlp_act.0",
            ]),
        ),
    ]
}

#[test]
fn documents_have_the_keys_that_the_page_names_and_numbers_are_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let page = std::fs::read_to_string(root("docs/files.md")).unwrap();
    let documents = documents(folder.path());
    for (command, document) in &documents {
        if *command != "doctor" {
            assert_eq!(document["schema"], 1, "{command}");
        }
        let mut found = BTreeSet::new();
        // What a receipt and a number of a model are called stands in the reference.
        match *command {
            "generate" => {
                let mut rows = document.clone();
                rows.as_object_mut().unwrap().remove("summary");
                keys(&rows, &mut found);
                found.extend(["prompt_ids", "prompt_texts", "receipts"].map(ToString::to_string));
            }
            "doctor demo" => {
                let mut rows = document.clone();
                rows.as_object_mut().unwrap().remove("numbers");
                keys(&rows, &mut found);
            }
            "doctor" => found.extend(["what", "found", "value"].map(ToString::to_string)),
            _ => keys(document, &mut found),
        }
        for key in found {
            // Of an edit on a token: said with the receipts.
            if [
                "edit", "fired", "relative", "special", "tensor", "values", "in_file",
            ]
            .contains(&key.as_str())
            {
                continue;
            }
            assert!(
                page.contains(&format!("`{key}`")),
                "{command}: `{key}` is not documented"
            );
        }
    }
    let of = |command: &str| {
        &documents
            .iter()
            .find(|(name, _)| *name == command)
            .unwrap()
            .1
    };
    let direction = of("direction");
    assert_eq!(direction["rows"].as_array().unwrap().len(), 2);
    let row = &direction["rows"][1];
    assert_eq!(
        (row["address"].as_str(), row["layer"].as_u64()),
        (Some("resid_pre.4"), Some(4))
    );
    assert!(row["auroc"].as_f64().unwrap() > 0.9 && row["norm"].as_f64().unwrap() > 1.0);
    assert!(row["shuffled"].as_array().unwrap().len() > 1);
    assert_eq!(
        (direction["plus"].as_u64(), direction["minus"].as_u64()),
        (Some(32), Some(32))
    );
    let file =
        lmscope::edit::direction::Direction::load(&folder.path().join("d.safetensors")).unwrap();
    let norm = lmscope::edit::direction::norm(&file.rows[1].1);
    assert!((row["norm"].as_f64().unwrap() - f64::from(norm)).abs() < 1e-6);
    let stats = of("stats");
    assert_eq!(stats["addresses"][0]["width"], 384);
    assert!(stats["addresses"][1]["layer"].is_null() && stats["addresses"][0]["layer"] == 2);
    assert!(stats["tokens"].as_u64().unwrap() > 100);
    let doctor = of("doctor");
    let value = |what: &str| {
        let rows = doctor.as_array().unwrap().iter();
        rows.filter(|row| row["what"] == what)
            .map(|row| row["value"].clone())
            .next()
            .unwrap()
    };
    assert!(value("cpu")["threads"].as_u64().unwrap() > 0);
    assert_eq!(value("demo"), true);
    assert_eq!(of("doctor demo")["numbers"]["layers"], 8);
    assert!(
        of("doctor demo")["numbers"]["memory"]["weights_bytes"]
            .as_u64()
            .unwrap()
            > 0
    );
}

/// Every text reads back with all of its characters, and ids lead to it.
#[test]
fn raw_texts_read_back() {
    let figure = json(&["lens", "demo", "-p", HOSTILE]);
    let texts = &figure["provenance"]["texts"];
    let ids = figure["provenance"]["tokens"].as_array().unwrap();
    let text = |id: &Value| texts[id.to_string()].clone();
    let whole: Vec<Option<String>> = ids[1..]
        .iter()
        .map(|id| text(id).as_str().map(ToString::to_string))
        .collect();
    // A character of several tokens has no text in any of them.
    let before: Vec<String> = whole.iter().map_while(Clone::clone).collect();
    assert!(
        HOSTILE.starts_with(&before.concat()) && before.concat().contains("\u{1b}[31m of\tFrance")
    );
    let cells = figure["body"]["grid"]["cells"].as_array().unwrap();
    let mut seen = 0;
    for cell in cells.iter().flat_map(|column| column.as_array().unwrap()) {
        let (ids, more) = (
            cell["ids"].as_array().unwrap(),
            cell["more"].as_array().unwrap(),
        );
        assert_eq!(ids.len(), more.len());
        for (id, candidate) in ids.iter().zip(more) {
            assert!(
                texts.as_object().unwrap().contains_key(&id.to_string()),
                "{id}"
            );
            if let Some(text) = text(id).as_str() {
                let label = lmscope::text::visible(text.as_bytes());
                assert_eq!(candidate[0].as_str(), Some(label.as_str()));
                seen += 1;
            }
        }
    }
    assert!(seen > 50);

    let one = json(&["generate", "demo", "-p", HOSTILE, "-n", "4"]);
    let texts = one["summary"]["prompt_texts"].as_array().unwrap();
    let found: Vec<&str> = texts[1..].iter().map_while(Value::as_str).collect();
    assert!(HOSTILE.starts_with(&found.concat()) && found.len() >= before.len());
    assert_eq!(one["summary"]["prompt_ids"].as_array().unwrap(), ids);
    let lines = lmscope(&[
        "generate", "demo", "-p", HOSTILE, "-n", "4", "--format", "jsonl",
    ]);
    let lines: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(
        one["tokens"].as_array().unwrap()[..],
        lines[..lines.len() - 1]
    );
    assert_eq!(
        lines.last().unwrap()["summary"]["prompt_ids"],
        one["summary"]["prompt_ids"]
    );

    // Under edits the difference names the candidate of the unedited run too.
    let edited = json(&[
        "lens",
        "demo",
        "-p",
        "The capital of France is",
        "--edit",
        "zero@mlp_act.7",
    ]);
    assert!(edited["body"]["grid"]["cells"][0][0]["ids"].is_array());
}

/// Columns of CSV have one name each, none of which a spreadsheet takes for a formula.
#[test]
fn columns_of_csv_have_names_of_their_own() {
    let prompt = "The capital of France is";
    for arguments in [
        &["score", "demo", "-p", prompt, "--show", "tokens"][..],
        &["neurons", "demo", "-p", prompt],
        &["track", "demo", "-p", prompt],
        &["settle", "demo", "-p", prompt],
        &["fact", "demo", "-p", prompt],
    ] {
        let out = lmscope(&[arguments, &["--format", "csv"]].concat());
        let header = out.lines().find(|line| !line.starts_with('#')).unwrap();
        let names: Vec<&str> = header.split(',').collect();
        let unique: BTreeSet<&&str> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{header}");
        assert!(!header.contains('\''), "{header}");
    }
}

/// What each command prints as CSV has a line for each row of its JSON, with the same values, and the rest in comments.
#[test]
fn csv_of_commands_has_the_rows_of_their_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (plus, minus) = (
        root("demo/lists/mood_plus.txt"),
        root("demo/lists/mood_minus.txt"),
    );
    let (direction, stats, text) = (path("d.safetensors"), path("s.safetensors"), path("t.txt"));
    std::fs::write(&text, "Once upon a time there was a pony. ".repeat(20)).unwrap();
    let commands: [(&str, &[&str]); 6] = [
        (
            "rows",
            &[
                "direction",
                "demo",
                "--plus",
                &plus,
                "--minus",
                &minus,
                "--layer",
                "3-4",
                "--force",
                "-o",
                &direction,
            ],
        ),
        (
            "addresses",
            &[
                "stats",
                "demo",
                &text,
                "--sites",
                "mlp_act.2",
                "--force",
                "-o",
                &stats,
            ],
        ),
        ("identities", &["doctor", "demo"]),
        (
            "tokens",
            &[
                "generate",
                "demo",
                "-p",
                "A, \"b\"",
                "-n",
                "3",
                "--edit",
                "zero:1@mlp_act.0",
            ],
        ),
        ("", &["doctor"]),
        ("", &["sites"]),
    ];
    for (list, command) in commands {
        let document = json(command);
        let rows = document.get(list).unwrap_or(&document).as_array().unwrap();
        let out = lmscope(&[command, &["--format", "csv"]].concat());
        assert_eq!(!list.is_empty(), out.contains("# schema: 1\n"), "{out}");
        let mut reader = csv::ReaderBuilder::new()
            .comment(Some(b'#'))
            .from_reader(out.as_bytes());
        let header = reader.headers().unwrap().clone();
        // A line of another length is an error.
        let reader = reader.records().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(reader.len(), rows.len(), "{command:?}: {out}");
        for (row, cells) in rows.iter().zip(&reader) {
            for (name, cell) in header.iter().zip(cells) {
                match &row[name] {
                    Value::String(own) if !own.contains(['\n', '\u{1b}']) => {
                        assert_eq!(cell.trim_start_matches('\''), own, "{command:?} {name}");
                    }
                    // What a machine has free is another number by then.
                    Value::Number(own) if !command.contains(&"doctor") => {
                        let (found, own) = (cell.parse::<f64>(), own.as_f64().unwrap());
                        let near = (found.unwrap() - own).abs() <= 1e-14 * own.abs();
                        assert!(near, "{command:?} {name}: {cell} {own}");
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Tokens that a table names have their ids beside the row, and a number that is not there is null.
#[test]
fn tables_name_tokens_by_id_and_a_missing_number_is_null() {
    let prompt = "The capital of France is";
    let list = root("demo/lists/mood_test.txt");
    for (columns, command) in [
        (
            &["promotes", "suppresses"][..],
            &["neurons", "demo", "-p", prompt][..],
        ),
        (&["promotes", "suppresses"], &["fact", "demo", "-p", prompt]),
        (
            &["promotes", "suppresses"],
            &["promoters", "demo", "--token", " Paris"],
        ),
        (
            &["promotes", "suppresses raw"],
            &["value", "demo", "--neuron", "3/17"],
        ),
        (&["after", "answer"], &["settle", "demo", "-p", prompt]),
        (&["top"], &["trajectory", "demo", "-p", prompt]),
        (&["top"], &["dose", "demo", "-p", prompt, "--units", "3/17"]),
        (
            &["token", "top"],
            &["score", "demo", "-p", prompt, "--show", "tokens"],
        ),
        (
            &["promotes"],
            &["feature-search", "demo", "--token", " Paris"],
        ),
    ] {
        let figure = json(command);
        let (table, texts) = (&figure["body"]["table"], &figure["provenance"]["texts"]);
        let names = table["columns"].as_array().unwrap();
        let mut seen = 0;
        for row in table["pages"][0]["rows"].as_array().unwrap() {
            for column in columns {
                let at = names.iter().position(|name| name == column).unwrap();
                let Some(ids) = row["ids"][*column].as_array() else {
                    continue;
                };
                let labels = ids.iter().map(|id| {
                    let text = texts.get(id.to_string()).unwrap_or_else(|| panic!("{id}"));
                    text.as_str()
                        .map(|text| lmscope::text::visible(text.as_bytes()))
                });
                if let Some(labels) = labels.collect::<Option<Vec<String>>>()
                    && !labels.is_empty()
                {
                    assert_eq!(row["entries"][at], labels.join(" "), "{command:?} {column}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 0, "{command:?}");
    }
    // The first token of a text has nothing before it; nothing stands in a column of texts for it.
    let figure = json(&["score", "demo", "-p", prompt, "--show", "tokens"]);
    let first = &figure["body"]["table"]["pages"][0]["rows"][0]["entries"];
    assert!(first[3].is_null() && first[4] == "", "{first}");
    let csv = lmscope(&[
        "score", "demo", "-p", prompt, "--show", "tokens", "--format", "csv",
    ]);
    let line = csv
        .lines()
        .find(|line| line.contains(",0,") && !line.starts_with('#'));
    assert!(line.unwrap().ends_with(",,"), "{line:?}");
    // Of a single prompt there is no interval.
    let folder = tempfile::tempdir().unwrap();
    let one = folder.path().join("one.txt");
    let words = std::fs::read_to_string(list).unwrap();
    std::fs::write(&one, words.lines().next().unwrap()).unwrap();
    let figure = json(&["settle", "demo", "--prompts", one.to_str().unwrap()]);
    let row = &figure["body"]["table"]["pages"][0]["rows"][0]["entries"];
    assert!(
        row[1].is_number() && row[2].is_null() && row[3].is_null(),
        "{row}"
    );
}
