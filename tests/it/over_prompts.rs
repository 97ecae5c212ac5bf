//! Methods over lists of prompts: every mean is that of the same command on each prompt alone, whatever the method; intervals are those
//! of the bootstrap; positions go by what stands there; a list that is stopped goes on.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use candle_core::{DType, Tensor};
use lmscope::edit::schedule::Schedule;
use lmscope::error::{Error, Result};
use lmscope::figure::{Body, Cell, Entry, Figure, Grid, Table};
use lmscope::instruments::{Arguments, INSTRUMENTS, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::bootstrap::WithInterval;
use lmscope::lab::run::Run;

use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::{Address, SITES, Site};

use super::demo::demo;
use super::tools::{lmscope, lmscope_on, prompt, tiny};

/// A prompt with its answer and entity.
type Asked = (&'static str, &'static str, &'static str);

/// Prompts of different lengths, with a token that comes again in each.
const PROMPTS: [Asked; 3] = [
    ("The capital of France is", " Paris", "France"),
    (
        "Berlin is the capital of Germany. The capital of Spain is",
        " Madrid",
        "Spain",
    ),
    ("Q: the capital of Italy is the", " Rome", "Italy"),
];

fn list(folder: &Path) -> String {
    let path = folder.join("list.tsv");
    let mut file = std::fs::File::create(&path).unwrap();
    writeln!(file, "prompt\tanswer\tentity").unwrap();
    for (prompt, answer, entity) in PROMPTS {
        writeln!(file, "{prompt}\t{answer}\t{entity}").unwrap();
    }
    path.to_str().unwrap().to_string()
}

fn asked(name: &str, run: &Run, given: &[(&str, &str)], lab: &mut Lab) -> Result<Figure> {
    let all = given.iter();
    let arguments = all.fold(Arguments::default(), |all, (name, value)| {
        all.with(name, value)
    });
    observe(instrument(name).unwrap(), run, &arguments, lab)
}

fn table(figure: &Figure) -> &Table {
    match &figure.body {
        Body::Table(table) => table,
        _ => panic!("a table: {figure:?}"),
    }
}

fn grid(figure: &Figure) -> &Grid {
    match &figure.body {
        Body::Grid(grid) => grid,
        _ => panic!("a grid: {figure:?}"),
    }
}

fn number(entry: &Entry) -> Option<f64> {
    match entry {
        Entry::Whole(value) => Some(*value as f64),
        Entry::Number(value) => Some(f64::from(*value)),
        Entry::Missing => None,
        Entry::Text(text) => text.parse().ok(),
    }
}

fn word(entry: &Entry) -> String {
    match entry {
        Entry::Whole(value) => value.to_string(),
        Entry::Number(value) => value.to_string(),
        Entry::Missing => String::new(),
        Entry::Text(text) => text.clone(),
    }
}

/// The lines of a table by their columns.
fn lines(figure: &Figure) -> Vec<BTreeMap<String, Entry>> {
    let table = table(figure);
    let rows = table.pages.iter().flat_map(|page| &page.rows);
    rows.map(|row| {
        assert_eq!(row.entries.len(), table.columns.len());
        table
            .columns
            .iter()
            .cloned()
            .zip(row.entries.iter().cloned())
            .collect()
    })
    .collect()
}

/// Numbers by name and row.
type Numbers = BTreeMap<(String, String), f64>;

fn of_table(figure: &Figure, row: &str, names: &[&str]) -> Numbers {
    let mut out = Numbers::new();
    for line in lines(figure) {
        for name in names {
            let value = number(&line[*name]);
            let row = if row.is_empty() {
                String::new()
            } else {
                word(&line[row])
            };
            out.extend(value.map(|value| (((*name).to_string(), row), value)));
        }
    }
    out
}

/// The cells of the last column, by the labels of their rows.
fn of_last_column(figure: &Figure, of: impl Fn(&Cell) -> Vec<(String, f32)>) -> Numbers {
    let grid = grid(figure);
    let cells = grid.rows.iter().zip(grid.cells.last().unwrap());
    let all = cells.flat_map(|(row, cell)| {
        let own = of(cell).into_iter();
        own.map(|(name, value)| ((name, row.label.clone()), f64::from(value)))
    });
    all.collect()
}

/// All cells, as `LAYER.HEAD`.
fn of_heads(figure: &Figure, name: &str) -> Numbers {
    let grid = grid(figure);
    let mut out = Numbers::new();
    for (column, cells) in grid.columns.iter().zip(&grid.cells) {
        for (row, cell) in grid.rows.iter().zip(cells) {
            let label = format!("{}.{}", row.label, column.label);
            out.insert((name.to_string(), label), f64::from(cell.value));
        }
    }
    out
}

fn of_series(figure: &Figure, name: &str) -> Numbers {
    let Body::Series(series) = &figure.body else {
        panic!("a series: {figure:?}")
    };
    let curve = &series.curves[0];
    let points = series.points.iter().zip(&curve.values);
    let mut out: Numbers = points
        .map(|(point, value)| ((name.to_string(), point.label.clone()), f64::from(*value)))
        .collect();
    let total = curve
        .total
        .map(|total| ((name.to_string(), "total".into()), f64::from(total)));
    out.extend(total);
    out
}

/// What is asked about a list, what about one prompt, and what numbers that has.
struct Case {
    name: &'static str,
    /// Parameters of both.
    both: &'static [(&'static str, &'static str)],
    /// Those of one prompt.
    alone: fn(&Asked) -> Vec<(&'static str, String)>,
    numbers: fn(&Figure) -> Numbers,
}

const CASES: &[Case] = &[
    Case {
        name: "lens",
        both: &[("show", "probability")],
        alone: |asked| vec![("of", asked.1.into())],
        numbers: |figure| of_last_column(figure, |cell| vec![("p".into(), cell.value)]),
    },
    Case {
        name: "lens",
        both: &[("show", "kl")],
        alone: |_| vec![],
        numbers: |figure| of_last_column(figure, |cell| vec![("KL".into(), cell.value)]),
    },
    Case {
        name: "track",
        both: &[("show", "logprob")],
        alone: |asked| vec![("tokens", asked.1.into())],
        numbers: |figure| of_series(figure, "logprob of answer"),
    },
    Case {
        name: "settle",
        both: &[("kl", "3")],
        alone: |_| vec![("window", "1".into())],
        numbers: |figure| {
            of_table(
                figure,
                "",
                &[
                    "converges",
                    "same top from",
                    "first",
                    "p",
                    "p there",
                    "KL there",
                ],
            )
        },
    },
    Case {
        name: "trajectory",
        both: &[],
        alone: |asked| vec![("token", asked.1.into())],
        numbers: |figure| {
            let names = [
                "answer p",
                "rank",
                "p",
                "entropy",
                "KL",
                "turn",
                "‖x‖",
                "‖attn‖",
                "‖mlp‖",
            ];
            of_table(figure, "layer", &names)
        },
    },
    Case {
        name: "meters",
        both: &[],
        alone: |_| vec![],
        numbers: |figure| of_last_column(figure, |cell| cell.more.clone()),
    },
    Case {
        name: "residual",
        both: &[],
        alone: |asked| vec![("token", asked.1.into())],
        numbers: |figure| of_series(figure, "effect"),
    },
    Case {
        name: "residual",
        both: &[("by", "head"), ("on", "logit"), ("rows", "0")],
        alone: |asked| vec![("token", asked.1.into())],
        numbers: |figure| of_heads(figure, "effect"),
    },
    Case {
        name: "neurons",
        both: &[("count", "200"), ("layer", "5"), ("rows", "0")],
        alone: |asked| vec![("token", asked.1.into()), ("window", "1".into())],
        numbers: |figure| of_table(figure, "neuron", &["act", "size", "effect"]),
    },
    Case {
        name: "attention",
        both: &[("show", "scores"), ("score", "duplicate"), ("rows", "0")],
        alone: |_| vec![("on", "prompt".into())],
        // Where no token comes again, every score is 0, which is none.
        numbers: |figure| {
            let found = of_heads(figure, "duplicate score");
            if found.values().all(|score| *score == 0.0) {
                Numbers::new()
            } else {
                found
            }
        },
    },
    Case {
        name: "heads",
        both: &[("rows", "0")],
        alone: |asked| vec![("token", asked.1.into()), ("control", "every".into())],
        numbers: |figure| {
            let mut found = of_heads(figure, "change");
            let grid = grid(figure);
            for (column, cells) in grid.columns.iter().zip(&grid.cells) {
                for (row, cell) in grid.rows.iter().zip(cells) {
                    let label = format!("{}.{}", row.label, column.label);
                    let random = cell
                        .more
                        .iter()
                        .find(|(name, _)| name == "random")
                        .unwrap()
                        .1;
                    assert!(random != 0.0);
                    let key = |name: &str| (name.to_string(), label.clone());
                    found.insert(key("random"), f64::from(random));
                    found.insert(
                        key("beyond random"),
                        f64::from(cell.value.abs() - random.abs()),
                    );
                }
            }
            found
        },
    },
    Case {
        name: "knockout",
        both: &[("value", "logprob")],
        alone: |asked| {
            let sources = format!("entity=text:\"{}\"; rest", asked.2);
            vec![("token", asked.1.into()), ("sources", sources)]
        },
        numbers: |figure| {
            let grid = grid(figure);
            let mut out = Numbers::new();
            for (column, cells) in grid.columns.iter().zip(&grid.cells) {
                for (row, cell) in grid.rows.iter().zip(cells) {
                    let of = |name: &str| cell.more.iter().find(|m| m.0 == name).map(|m| m.1);
                    let before = of("before").unwrap().ln();
                    let key = |name: &str| (format!("{}{name}", column.label), row.label.clone());
                    out.insert(key(""), f64::from(cell.value));
                    let random = of("random edges").map(|p| f64::from(p.ln() - before));
                    out.extend(random.map(|change| (key(", random"), change)));
                }
            }
            out
        },
    },
    Case {
        name: "answers",
        both: &[],
        alone: |asked| vec![("token", asked.1.into())],
        numbers: |figure| of_table(figure, "", &["p", "rank", "surprisal", "first", "entropy"]),
    },
    Case {
        name: "dose",
        both: &[
            ("units", "5/17,6/3"),
            ("strengths", "0,1,3"),
            ("on", "logprob"),
        ],
        alone: |asked| vec![("token", asked.1.into())],
        numbers: |figure| of_table(figure, "times", &["log p", "p", "rank", "KL", "control p"]),
    },
    Case {
        name: "patchscope",
        both: &[("layer", "0-2"), ("tokens", "3")],
        alone: |asked| vec![("answers", asked.1.into()), ("entity", asked.2.into())],
        numbers: |figure| {
            of_table(
                figure,
                "layer",
                &["p answers", "p matched", "p first", "‖h‖ ratio"],
            )
        },
    },
];

/// The largest difference of two tensors; what is masked in both is equal.
fn most_apart(a: &Tensor, b: &Tensor) -> f32 {
    let numbers = |t: &Tensor| {
        let flat = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        flat.to_vec1::<f32>().unwrap()
    };
    let pairs = numbers(a).into_iter().zip(numbers(b));
    let apart = pairs.map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
    apart.fold(0.0, f32::max)
}

/// Means with the number of prompts, by name and row.
fn means(figure: &Figure) -> BTreeMap<(String, String), [f64; 4]> {
    let columns = &table(figure).columns;
    let axis = (columns[1] != "mean").then(|| columns[1].clone());
    let found = lines(figure).into_iter().map(|line| {
        let row = axis
            .as_ref()
            .map_or_else(String::new, |axis| word(&line[axis]));
        let of = ["mean", "low", "high", "prompts"]
            .map(|name| number(&line[name]).unwrap_or(f64::INFINITY));
        ((word(&line["number"]), row), of)
    });
    found.collect()
}

#[test]
fn every_mean_is_that_of_each_prompt_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = list(folder.path());
    let mut lab = demo();
    for case in CASES {
        let name = case.name;
        let given = [case.both, &[("prompts", file.as_str())]].concat();
        let run = Run {
            seed: 1,
            ..Run::default()
        };
        let found = means(&asked(name, &run, &given, &mut lab).unwrap());
        let mut alone: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
        for prompt in &PROMPTS {
            let run = Run::plain(lab.model.encode(prompt.0, false).unwrap());
            let own = (case.alone)(prompt);
            let own = own.iter().map(|(name, value)| (*name, value.as_str()));
            // How many rows are shown is said of lists alone.
            let both = case
                .both
                .iter()
                .copied()
                .filter(|(name, _)| *name != "rows");
            let given: Vec<(&str, &str)> = both.chain(own).collect();
            let figure = asked(name, &run, &given, &mut lab).unwrap();
            for (key, value) in (case.numbers)(&figure) {
                alone.entry(key).or_default().push(value);
            }
        }
        assert!(!alone.is_empty());
        let (mut apart, mut several) = (0, 0);
        for (key, values) in &alone {
            let [mean, low, high, count] =
                found.get(key).unwrap_or_else(|| panic!("{name} {key:?}"));
            let wanted = values.iter().sum::<f64>() / values.len() as f64;
            let size = values.iter().fold(0.1, |most: f64, v| most.max(v.abs()));
            assert!(
                (mean - wanted).abs() < 2e-5 * size,
                "{name} {key:?}: {mean} {wanted} {values:?}"
            );
            assert_eq!(*count, values.len() as f64, "{name} {key:?}");
            // One prompt has no interval.
            assert!(
                low <= mean && mean <= high || values.len() == 1 && low.is_infinite(),
                "{name} {key:?}"
            );
            let interval = WithInterval::over(values.len(), 1, |chosen| {
                chosen.iter().map(|i| values[*i]).sum::<f64>() / chosen.len() as f64
            });
            for (found, wanted) in [(low, interval.low), (high, interval.high)] {
                if values.len() == 1 {
                    continue;
                }
                assert!(
                    (found - wanted).abs() < 2e-5 * size,
                    "{name} {key:?}: {found} {wanted}"
                );
            }
            several += usize::from(values.len() > 1);
            apart += usize::from((values[0] - wanted).abs() > 1e-4 * size);
        }
        assert!(3 * apart >= several, "{name}: prompts hardly differ");
    }
}

/// Every method that takes a list is among the cases above, and announces how long it is.
#[test]
fn no_method_takes_lists_untested() {
    let folder = tempfile::tempdir().unwrap();
    let given = Arguments::default().with("prompts", list(folder.path()));
    let mut lab = demo();
    lab.announce = Some(hear);
    for of in INSTRUMENTS {
        let has = |name: &str| of.parameters().iter().any(|p| p.name == name);
        let takes = has("prompts") && has("at") && has("list");
        let tested = CASES.iter().any(|case| case.name == of.name());
        assert_eq!(takes, tested, "{}", of.name());
        if takes {
            SAID.lock().unwrap().clear();
            // What cannot be asked without further parameters says so before anything is announced.
            if observe(*of, &Run::default(), &given, &mut lab).is_err() {
                assert!(["dose", "meters"].contains(&of.name()), "{}", of.name());
                assert!(SAID.lock().unwrap().is_empty());
                continue;
            }
            let tokens = |prompt: &Asked| lab.model.encode(prompt.0, false).unwrap().len();
            let all: usize = PROMPTS.iter().map(tokens).sum();
            let said = SAID.lock().unwrap().concat();
            let begins = format!("{}: 3 prompts, {all} tokens, at most about ", of.name());
            assert!(said.starts_with(&begins), "{said}");
            assert!(said.contains("iB of memory"), "{said}");
        }
    }
}

/// What a lab has announced.
static SAID: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

fn hear(words: &str) {
    SAID.lock().unwrap().push(words.into());
}

/// The lines of each prompt join with anything: its number, text, tokens as ids, and numbers.
#[test]
fn lines_of_prompts_say_what_they_are_about() {
    let folder = tempfile::tempdir().unwrap();
    let file = list(folder.path());
    let mut lab = demo();
    let given = [
        ("prompts", file.as_str()),
        ("list", "prompts"),
        ("at", "entity"),
    ];
    let found = lines(&asked("lens", &Run::default(), &given, &mut lab).unwrap());
    let layers = lab.model.card.layers;
    assert_eq!(found.len(), 3 * layers);
    for (i, line) in found.iter().enumerate() {
        let (prompt, answer, entity) = PROMPTS[i / layers];
        let tokens = lab.model.encode(prompt, false).unwrap();
        let is = |name: &str| number(&line[name]).unwrap();
        assert_eq!(is("prompt"), (i / layers + 1) as f64);
        assert_eq!(is("layer"), (i % layers) as f64);
        assert_eq!(word(&line["text"]), prompt);
        let at = is("position") as usize;
        assert_eq!(is("token id"), f64::from(tokens[at]));
        assert_eq!(word(&line["token"]).replace('␣', ""), entity);
        assert_eq!(word(&line["answer"]).replace('␣', " "), answer);
        let id = lab
            .model
            .tokenizer()
            .unwrap()
            .encode_literal(answer)
            .unwrap()[0];
        assert_eq!(is("answer id"), f64::from(id));
        assert!(matches!(line["rank"], Entry::Number(rank) if rank >= 1.0));
    }
}

/// Positions of a conversation's answer are averaged, and a text's are those of the rule.
#[test]
fn positions_go_by_what_stands_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("turns.json");
    let turns = r#"[{"messages": [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "The capital is"}]}]"#;
    std::fs::write(&file, turns).unwrap();
    let file = file.to_str().unwrap();
    let mut lab = demo();
    let run = Run::default();
    let one = |at: &str, lab: &mut Lab| {
        let given = [("prompts", file), ("at", at), ("show", "entropy")];
        means(&asked("lens", &run, &given, lab).unwrap())
    };
    let whole = one("response", &mut lab);
    let key = ("entropy".to_string(), "3".to_string());
    let last: Vec<f64> = (1..=3)
        .map(|n| one(&format!("-{n}"), &mut lab)[&key][0])
        .collect();
    assert!((last[0] - last[2]).abs() > 1e-4);
    let mean = last.iter().sum::<f64>() / 3.0;
    assert!(
        (whole[&key][0] - mean).abs() < 1e-5,
        "{} {mean}",
        whole[&key][0]
    );
    // A prompt with an answer is the same conversation.
    let answered = folder.path().join("answered.json");
    let turns = r#"[{"prompt": "What is the capital of France?", "answer": "The capital is"}]"#;
    std::fs::write(&answered, turns).unwrap();
    let given = [
        ("prompts", answered.to_str().unwrap()),
        ("at", "response"),
        ("show", "entropy"),
    ];
    let figure = asked("lens", &run, &given, &mut lab).unwrap();
    assert_eq!(means(&figure), whole);
    let said = figure
        .notes
        .iter()
        .any(|note| note.contains("are what is read"));
    assert!(said, "{:?}", figure.notes);
    assert_eq!(one("text:\"The capital is\"", &mut lab)[&key], whole[&key]);
    assert_eq!(one("token:\" is\"", &mut lab)[&key][0], last[0]);
}

/// What texts share is read once, and what is recorded of them stays what it is of each alone, at every site that can be continued.
#[test]
fn a_shared_beginning_changes_nothing() {
    let mut sites = Vec::new();
    for family in FAMILIES {
        let mut lab = tiny(family);
        let shared = prompt(21);
        let texts: Vec<Vec<u32>> = [&[3, 9, 4][..], &[9], &[4, 4, 3, 9, 1]]
            .iter()
            .map(|end| [&shared, *end].concat())
            .collect();
        let layers = lab.model.card.layers;
        let all = SITES.iter().filter(|spec| spec.layered);
        let all = all.flat_map(|spec| (0..layers).map(|layer| spec.site.at(layer)));
        let all: Vec<Address> = all.filter(|at| lab.model.offers(*at).is_ok()).collect();
        sites.extend(all.iter().map(|at| at.site));
        for wanted in all.chunks(7) {
            let alone: Vec<_> = texts
                .iter()
                .map(|text| {
                    let mut lab = tiny(family);
                    let run = Run::plain(text.clone());
                    lab.record_with_output(&run, wanted).unwrap()
                })
                .collect();
            for (text, alone) in texts.iter().zip(&alone) {
                lab.share_prefix(&shared);
                let run = Run::plain(text.clone());
                let found = lab.record_with_output(&run, wanted).unwrap();
                assert_eq!(found.positions, alone.positions);
                for at in wanted {
                    let (a, b) = (found.get(*at).unwrap(), alone.get(*at).unwrap());
                    assert_eq!(a.dims(), b.dims(), "{} {at}", family.name);
                    assert!(most_apart(a, b) < 1e-4, "{} {at}", family.name);
                }
                let apart = found.logits().iter().zip(alone.logits());
                let apart = apart.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(apart < 1e-4, "{}: {apart}", family.name);
            }
        }
    }
    assert!(sites.contains(&Site::AttnProbs) && sites.contains(&Site::Z));

    // A list whose prompts share their beginning is measured so, and its numbers stay those of each prompt alone.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("list.tsv");
    let begin =
        "Once upon a time there was a boy. His name was Tom. The capital of Italy is Rome. ";
    let ends = ["The capital of France is", "The capital of Spain is"];
    let rows = ends.map(|end| format!("{begin}{end}\t Paris\n"));
    std::fs::write(&file, format!("prompt\tanswer\n{}", rows.concat())).unwrap();
    let given = [("prompts", file.to_str().unwrap())];
    let mut lab = demo();
    let found = means(&asked("lens", &Run::default(), &given, &mut lab).unwrap());
    let alone = ends.map(|end| {
        let tokens = lab.model.encode(&format!("{begin}{end}"), false).unwrap();
        assert!(tokens.len() > 20);
        let run = Run::plain(tokens);
        let figure = asked("lens", &run, &[("of", " Paris")], &mut lab).unwrap();
        of_last_column(&figure, |cell| vec![("p".into(), cell.value)])
    });
    for (key, value) in &alone[0] {
        let wanted = f64::midpoint(*value, alone[1][key]);
        assert!((found[key][0] - wanted).abs() < 1e-5, "{key:?}");
    }
}

/// Edits act in every prompt, and what they did is said.
#[test]
fn edits_act_in_every_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let file = list(folder.path());
    let mut lab = demo();
    let given = [("prompts", file.as_str())];
    let edits = vec!["add:mood@resid_pre.4:last*3".parse().unwrap()];
    let edited = Run {
        seed: 1,
        ..Run::default().under(&Schedule::always(edits))
    };
    let key = ("p".to_string(), "7".to_string());
    let run = Run {
        seed: 1,
        ..Run::default()
    };
    let plain = means(&asked("lens", &run, &given, &mut lab).unwrap())[&key];
    let figure = asked("lens", &edited, &given, &mut lab).unwrap();
    let found = means(&figure);
    assert!((found[&key][0] - plain[0]).abs() > 1e-4);
    let named = |name: &str| found[&(name.to_string(), "7".to_string())];
    assert_eq!(named("p, plain"), plain);
    let change = named("p, change");
    assert!((change[0] - (found[&key][0] - plain[0])).abs() < 1e-6);
    // The interval is of changes, prompt by prompt, and no sum of both intervals.
    let apart = |of: [f64; 4]| of[2] - of[1];
    assert!((apart(change) - apart(found[&key]) - apart(plain)).abs() > 1e-6);
    // A direction of equal norm moves it less, in every prompt another one; an edit that does nothing of its own is no more than that.
    let chance = named("p, control");
    assert!(
        chance[0] != 0.0 && chance[0].abs() < change[0].abs(),
        "{chance:?} {change:?}"
    );
    let beyond = named("p, beyond control");
    assert!(beyond[0] <= change[0].abs() + chance[0].abs(), "{beyond:?}");
    let verdicts = |figure: &Figure| -> Vec<(String, String)> {
        let lines = lines(figure).into_iter();
        let change = lines.filter(|line| word(&line["number"]).ends_with(", change"));
        change
            .map(|line| (word(&line["layer"]), word(&line["against control"])))
            .collect()
    };
    assert!(
        verdicts(&figure).contains(&("7".into(), "more".into())),
        "{:?}",
        verdicts(&figure)
    );
    let note = figure.notes.iter().find(|note| note.contains("fired"));
    assert!(note.unwrap().contains("fired 3 times"), "{note:?}");
    assert_eq!(figure.provenance.edits.len(), 1);
}

/// Numbers that are not finite fail the check of a list, and count as none.
#[test]
fn numbers_that_are_not_finite_fail_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = list(folder.path());
    let mut lab = demo();
    let given = [
        ("prompts", file.as_str()),
        ("units", "5/17"),
        ("strengths", "1,3e38"),
    ];
    let figure = asked("dose", &Run::default(), &given, &mut lab).unwrap();
    assert!(!figure.check.unwrap().passed(), "{:?}", figure.notes);
    let found = means(&figure);
    assert!(found.values().all(|of| of.iter().all(|n| n.is_finite())));
    assert!(found.keys().any(|(_, times)| times == "1"));
}

/// What a method needs of a list and does not find is said.
#[test]
fn what_a_list_lacks_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let plain = write(
        "plain.txt",
        "The capital of France is\nThe capital of Spain is\n",
    );
    let some = write(
        "some.tsv",
        "prompt\tanswer\nThe capital of\t Paris\nThe capital of\t\n",
    );
    let unspaced = write(
        "unspaced.tsv",
        "prompt\tanswer\nThe capital of France is\tParis\nThe capital of Spain is\t Madrid\n",
    );
    let mut lab = demo();
    for (name, given, said) in [
        (
            "lens",
            vec![("prompts", some.as_str())],
            "prompt 2 has no `answer`",
        ),
        (
            "lens",
            vec![("prompts", &plain), ("at", "entity")],
            "says the entity",
        ),
        (
            "lens",
            vec![("prompts", &plain), ("at", "response")],
            "end in an answer",
        ),
        (
            "lens",
            vec![("prompts", &plain), ("at", "token:\" Italy\"")],
            "prompt 1",
        ),
        ("knockout", vec![("prompts", &plain)], "names entities"),
        ("dose", vec![("prompts", &plain)], "units such as"),
        (
            "attention",
            vec![("prompts", &plain), ("show", "pattern")],
            "scores with a list",
        ),
        (
            "attention",
            vec![("prompts", &plain), ("show", "scores"), ("at", "-2")],
            "whole prompts",
        ),
        (
            "residual",
            vec![("prompts", &plain), ("by", "source")],
            "layer or head",
        ),
        (
            "patchscope",
            vec![("prompts", &plain), ("show", "grid")],
            "table with a list",
        ),
    ] {
        let error = asked(name, &Run::default(), &given, &mut lab)
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{name} {given:?}: {error}");
    }
    let tokens = lab.model.encode("Once", false).unwrap();
    let error = asked(
        "lens",
        &Run::plain(tokens),
        &[("prompts", &plain)],
        &mut lab,
    );
    assert!(error.unwrap_err().to_string().contains("not both"));
    let notes = asked("lens", &Run::default(), &[("prompts", &plain)], &mut lab)
        .unwrap()
        .notes;
    assert!(
        notes.iter().any(|note| note.contains("names no answers")),
        "{notes:?}"
    );
    let notes = asked("lens", &Run::default(), &[("prompts", &unspaced)], &mut lab)
        .unwrap()
        .notes;
    assert!(
        notes
            .iter()
            .any(|note| note.contains("1 of 2 answers begin without a space")),
        "{notes:?}"
    );
}

/// A list that is stopped shows the prompts so far, says how many, and goes on when it is asked for again.
#[test]
fn a_list_that_is_stopped_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = list(folder.path());
    let given = [("prompts", file.as_str())];
    let run = || Run {
        seed: 2,
        ..Run::default()
    };
    // A knockout is a sweep itself: what it has of a prompt when it is stopped does not count.
    for name in ["lens", "knockout"] {
        let whole = asked(name, &run(), &given, &mut demo()).unwrap();
        let mut lab = demo();
        let cancel = lab.cancel.clone();
        let stop = move |done: f32| {
            if done > 0.4 {
                cancel.store(true, Ordering::Relaxed);
            }
        };
        let part = lab.with_progress(stop, |lab| asked(name, &run(), &given, lab));
        let part = part.unwrap();
        assert!(std::mem::take(&mut lab.unfinished.stopped), "{name}");
        let done = means(&part).values().next().unwrap()[3];
        assert!((1.0..3.0).contains(&done), "{name}");
        assert!(means(&part).values().all(|of| of[3] == done));
        let note = &part.notes[0];
        let wanted = format!("stopped after {done} of 3 prompts");
        assert!(note.starts_with(&wanted), "{name}: {note}");
        let rest = asked(name, &run(), &given, &mut lab).unwrap();
        assert!(!lab.unfinished.stopped);
        assert_eq!(rest.body, whole.body, "{name}");
    }
    let mut lab = demo();
    lab.cancel.store(true, Ordering::Relaxed);
    let none = asked(
        "lens",
        &Run {
            seed: 9,
            ..Run::default()
        },
        &[("prompts", &file)],
        &mut lab,
    );
    assert!(matches!(none, Err(Error::Cancelled)));
}

/// The command line announces what it reads, and its JSON has numbers as numbers and ids beside tokens.
#[test]
fn the_command_line_announces_a_list_and_writes_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let file = list(folder.path());
    let given = [
        "track",
        "demo",
        "--prompts",
        &file,
        "--list",
        "prompts",
        "--format",
        "json",
    ];
    let (out, said) = lmscope(&given);
    assert!(said.contains("track: 3 prompts, "), "{said}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let table = &json["body"]["table"];
    let columns: Vec<&str> = table["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c.as_str().unwrap())
        .collect();
    assert_eq!(
        columns,
        [
            "prompt",
            "layer",
            "answer",
            "probability of answer",
            "text",
            "position",
            "token",
            "token id",
            "answer id"
        ]
    );
    let rows = table["pages"][0]["rows"].as_array().unwrap();
    // Ids are whole in text, too.
    let (text, _) = lmscope(&[&given[..6], &["--format", "text"]].concat());
    let id = rows[0]["entries"][8].as_f64().unwrap() as u32;
    assert!(
        id > 999 && text.contains(&format!(" {id}\n")),
        "{id}: {text}"
    );
    for row in rows {
        let texts = ["token", "answer", "text"];
        for (column, entry) in columns.iter().zip(row["entries"].as_array().unwrap()) {
            assert_eq!(
                entry.is_string(),
                texts.contains(column),
                "{column} {entry}"
            );
            assert_eq!(
                entry.is_number(),
                !texts.contains(column),
                "{column} {entry}"
            );
        }
    }
}

/// A list is read once: a pipe has nothing to say a second time.
#[test]
fn a_list_from_a_pipe_is_read_once() {
    let given = [
        "answers",
        "demo",
        "--prompts",
        "/dev/stdin",
        "--format",
        "json",
    ];
    let list = "The capital of France is\nThe capital of Japan is\n";
    let (code, out, said) = lmscope_on(list, &given);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("answers: 2 prompts, "), "{said}");
    let figure: serde_json::Value = serde_json::from_str(&out).unwrap();
    let title = figure["title"].as_str().unwrap();
    assert!(title.contains("2 prompts"), "{figure}");
}

/// A reader's own name of a prompt stands in the table, and a pipe is the list that its text looks like.
#[test]
fn a_list_from_a_pipe_is_a_table_and_keeps_the_readers_names() {
    let table = "id\tprompt\tanswer\nq-7\tThe capital of France is\t Paris\n=1\tThe capital of Japan is\t Tokyo\n";
    let command = [
        "track",
        "demo",
        "--prompts",
        "/dev/stdin",
        "--list",
        "prompts",
        "--format",
        "json",
    ];
    let read = |text: &str| -> serde_json::Value {
        let (code, out, said) = super::tools::lmscope_on(text, &command);
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str(&out).unwrap()
    };
    let json = r#"[{"id": "q-7", "prompt": "The capital of France is", "answer": " Paris"}, {"id": "=1", "prompt": "The capital of Japan is", "answer": " Tokyo"}]"#;
    let lines = "{\"id\": \"q-7\", \"prompt\": \"The capital of France is\", \"answer\": \" Paris\"}\n{\"id\": \"=1\", \"prompt\": \"The capital of Japan is\", \"answer\": \" Tokyo\"}\n";
    let first = read(table);
    let found = &first["body"]["table"];
    assert_eq!(found["columns"].as_array().unwrap().last().unwrap(), "id");
    let rows = found["pages"][0]["rows"].as_array().unwrap();
    let ids: Vec<&str> = rows
        .iter()
        .map(|row| {
            row["entries"]
                .as_array()
                .unwrap()
                .last()
                .unwrap()
                .as_str()
                .unwrap()
        })
        .collect();
    assert_eq!((ids[0], *ids.last().unwrap()), ("q-7", "=1"));
    for other in [json, lines] {
        assert_eq!(read(other)["body"], first["body"]);
    }
    let dash = [&command[..3], &["-"], &command[4..]].concat();
    let (code, out, said) = super::tools::lmscope_on(table, &dash);
    assert_eq!(code, Some(0), "{said}");
    let again: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(again["body"], first["body"]);
    // What is said of an entity that is not in its prompt names the prompt.
    let (code, _, said) = super::tools::lmscope_on(
        "prompt\tentity\nThe capital of France is\tFrance\nThe capital of Japan is\tFrance\n",
        &["knockout", "demo", "--prompts", "/dev/stdin"],
    );
    assert_eq!(code, Some(1));
    assert!(
        said.contains("of its prompt 2: `entity` is `France`"),
        "{said}"
    );
}
