//! Composition scores and singular directions of heads against whole matrices in numpy, and what they say of the demo.

use std::path::{Path, PathBuf};

use lmscope::figure::{Body, Entry, Figure, Unit};
use lmscope::instruments::head_circuits::factors::{Factor, singular_directions};
use lmscope::instruments::{Arguments, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::load::Options;
use lmscope::model::network::head_circuits::HeadInput;
use serde_json::Value;

use super::demo::demo;
use super::tools::every_family;

fn references() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references")
}

fn figure(lab: &mut Lab, name: &str, given: &[(&str, &str)]) -> lmscope::error::Result<Figure> {
    let arguments = given
        .iter()
        .fold(Arguments::default(), |a, (n, v)| a.with(n, *v));
    let of = instrument(name).unwrap();
    let arguments = of.read(&arguments)?;
    observe(of, &Run::plain(Vec::new()), &arguments, lab)
}

/// The rows of a table: texts and numbers as they are.
fn rows(figure: &Figure) -> Vec<Vec<Entry>> {
    let Body::Table(table) = &figure.body else {
        panic!("a table is expected");
    };
    let pages = table.pages.iter().flat_map(|page| &page.rows);
    pages.map(|row| row.entries.clone()).collect()
}

fn text(entry: &Entry) -> &str {
    let Entry::Text(text) = entry else {
        panic!("a text is expected");
    };
    text
}

fn number(entry: &Entry) -> f64 {
    let Entry::Number(number) = entry else {
        panic!("a number is expected");
    };
    f64::from(*number)
}

fn numbers(value: &Value) -> Vec<f64> {
    let all = value.as_array().unwrap().iter();
    all.map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn scores_and_directions_are_those_of_whole_matrices() {
    let known = std::fs::read_to_string(references().join("head_circuits.json")).unwrap();
    let known: Value = serde_json::from_str(&known).unwrap();
    for (name, expected) in known.as_object().unwrap() {
        let folder = references().join(name);
        let mut lab = Lab::open(folder.to_str().unwrap(), &Options::default()).unwrap();
        for by in ["q", "k", "v"] {
            let table = figure(&mut lab, "composition", &[("by", by), ("count", "1000")]).unwrap();
            let heads = lab.model.card.heads;
            let found = rows(&table);
            assert_eq!(found.len(), heads * heads, "{name} {by}");
            for row in &found {
                let head =
                    |entry| -> usize { text(entry).split_once('.').unwrap().1.parse().unwrap() };
                let own = &expected["scores"][by][head(&row[0])][head(&row[1])];
                let (own, score) = (own.as_f64().unwrap(), number(&row[2]));
                assert!((own - score).abs() < 2e-5, "{name} {by} {row:?}: {own}");
            }
        }
        let network = &lab.model.transformer;
        let input = |input| Factor::of(&network.head_input_rows(1, input).unwrap(), 1).unwrap();
        let output = Factor::of(&network.head_output_rows(1).unwrap(), 1).unwrap();
        let ov = singular_directions(&input(HeadInput::Value), &output, 100);
        let qk = singular_directions(&input(HeadInput::Query), &input(HeadInput::Key), 100);
        for (circuit, (found, squares, _)) in [("ov", ov), ("qk", qk)] {
            let own = &expected[circuit];
            let values = numbers(&own["values"]);
            assert!(found.len() >= values.len(), "{name} {circuit}: rank");
            for (i, value) in values.iter().enumerate() {
                let apart = (value - found[i].value).abs();
                assert!(apart < 2e-5 * values[0], "{name} {circuit} {i}: {apart}");
            }
            let sum: f64 = values.iter().map(|v| v * v).sum();
            assert!((sum - squares).abs() < 1e-4 * sum, "{name} {circuit}");
            let first = &found[0];
            let most = (0..first.left.len()).max_by(|a, b| {
                let size = |i: &usize| first.left[*i].abs();
                size(a).total_cmp(&size(b))
            });
            let sign = first.left[most.unwrap()].signum();
            for (side, own_side) in [("left", &first.left), ("right", &first.right)] {
                for (a, b) in numbers(&own[side]).iter().zip(own_side) {
                    let b = f64::from(b * sign);
                    assert!((a - b).abs() < 1e-3, "{name} {circuit} {side}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn a_control_of_unrelated_heads_is_what_chance_says() {
    // Of random weights every pair scores as the control does.
    for mut lab in every_family() {
        let family = lab.model.card.family;
        let found = figure(&mut lab, "composition", &[("by", "v"), ("count", "1000")]);
        let found = match found {
            Ok(found) => rows(&found),
            Err(error) => {
                assert!(
                    error.to_string().contains("normalizes the stream"),
                    "{error}"
                );
                continue;
            }
        };
        let mean = |column: usize| {
            found.iter().map(|row| number(&row[column])).sum::<f64>() / found.len() as f64
        };
        let (score, control) = (mean(2), mean(3));
        assert!(
            (score / control - 1.0).abs() < 0.35,
            "{family}: {score} {control}"
        );
    }
}

/// The heads of a model by a score of `attention --show scores`, highest first, as `LAYER.HEAD`.
pub fn scored(lab: &mut Lab, score: &str) -> Vec<(f32, String)> {
    let given = [("show", "scores"), ("score", score)];
    let Body::Grid(grid) = figure(lab, "attention", &given).unwrap().body else {
        panic!("a grid is expected");
    };
    let mut heads: Vec<(f32, String)> = Vec::new();
    for cell in grid.cells.iter().flatten() {
        let Some(Unit::Head(head)) = cell.anchor.unit else {
            continue;
        };
        let layer = cell.anchor.layer.unwrap();
        heads.push((cell.value, format!("{layer}.{head}")));
    }
    heads.sort_by(|a, b| b.0.total_cmp(&a.0));
    heads
}

#[test]
fn the_induction_heads_of_the_demo_compose_through_keys() {
    let mut lab = demo();
    let previous = scored(&mut lab, "previous")[0].1.clone();
    let induction: Vec<String> = scored(&mut lab, "induction")
        .into_iter()
        .take_while(|head| head.0 > 0.5)
        .map(|head| head.1)
        .collect();
    assert!(induction.len() >= 3, "{induction:?}");
    // The previous-token head and the induction heads are the strongest pairs of all, and far above their controls.
    let found = rows(&figure(&mut lab, "composition", &[("by", "k")]).unwrap());
    for row in &found[..induction.len()] {
        assert_eq!(text(&row[0]), previous, "{row:?}");
        assert!(
            induction.iter().any(|head| head == text(&row[1])),
            "{row:?}"
        );
        assert!(number(&row[2]) > 1.5 * number(&row[4]), "{row:?}");
    }
}

#[test]
fn a_head_that_the_model_lacks_is_refused() {
    let mut lab = demo();
    for (name, given) in [
        ("head-svd", "9.0"),
        ("composition", "0.99"),
        ("head-svd", "x"),
    ] {
        let error = figure(&mut lab, name, &[("head", given)]).unwrap_err();
        assert!(error.to_string().contains("head"), "{error}");
    }
}
