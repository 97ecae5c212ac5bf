//! Knowledge neurons by integrated gradients: against PyTorch on three reference checkpoints
//! (`tests/references/knowledge_neurons.py`), their sums on every family, and what they find in the demo.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lmscope::edit::schedule::Schedule;
use lmscope::error::Error;
use lmscope::figure::{Body, Entry, Figure, Table};
use lmscope::instruments::knowledge::fact_neurons::{AnswerDirection, FactScoring, Search, ask};
use lmscope::instruments::knowledge::integrated::{
    IntegralRule, IntegralSteps, LayerAttribution, integrate,
};
use lmscope::instruments::neurons::at_position::neurons_at;
use lmscope::instruments::{Arguments, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::capture::Output;
use lmscope::lab::effect::EffectScale;
use lmscope::lab::run::Run;
use lmscope::lab::target::LogitTarget;
use lmscope::model::load::{Options, load};
use lmscope::model::network::site::Site;

use super::cli::written;
use super::tools::{edited, every_family, prompt, values};

const MIDPOINT: IntegralSteps = IntegralSteps {
    steps: 20,
    rule: IntegralRule::Midpoint,
};

fn demo() -> Lab {
    let options = Options {
        device: Some("cpu".into()),
        ..Options::default()
    };
    Lab::open("demo", &options).unwrap()
}

fn attributions(
    lab: &mut Lab,
    run: &Run,
    target: LogitTarget,
    path: IntegralSteps,
) -> Vec<LayerAttribution> {
    let local = neurons_at(lab, run, run.tokens.len() - 1)
        .unwrap()
        .remove(0);
    let layers = lab.model.card.neuron_layers.clone();
    integrate(lab, run, &local, &layers, target, path).unwrap()
}

/// How far two lists are from each other, of the length of the second.
fn apart(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let length = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let mut between = found.iter().zip(expected).map(|(a, b)| a - b);
    let all = length(&mut expected.iter().copied());
    assert!(all > 0.0);
    (length(&mut between) / all).sqrt()
}

#[test]
fn attributions_are_those_of_the_paper_in_pytorch() {
    let references = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references");
    for case in ["llama", "gemma2", "gpt2"] {
        let options = Options {
            dtype: Some("f32".into()),
            device: Some("cpu".into()),
            ..Options::default()
        };
        let folder = references.join(case);
        let mut lab = Lab::new(load(&folder.to_string_lossy(), &options).unwrap());
        let read = |file: &str| {
            candle_core::safetensors::load(references.join(file), &Device::Cpu).unwrap()
        };
        let ids = |t: &Tensor| {
            let flat = t.flatten_all().unwrap().to_dtype(DType::U32).unwrap();
            flat.to_vec1::<u32>().unwrap()
        };
        let expected = read(&format!("knowledge_neurons/{case}.safetensors"));
        let tokens = ids(&read(&format!("{case}/activations.safetensors"))["tokens"]);
        let lengths = ids(&expected["lengths"]);
        let target = LogitTarget::one(ids(&expected["answer"])[0]);
        let prompts: Vec<Vec<u32>> = lengths
            .iter()
            .map(|length| tokens[..*length as usize].to_vec())
            .collect();
        for (name, rule) in [
            ("midpoint", IntegralRule::Midpoint),
            ("left", IntegralRule::Left),
            ("right", IntegralRule::Right),
        ] {
            for (i, tokens) in prompts.iter().enumerate() {
                let path = IntegralSteps { steps: 20, rule };
                let run = Run::plain(tokens.clone());
                let at = |key: String| values(&expected[&key].get(i).unwrap());
                let (mut found, mut own) = (Vec::new(), Vec::new());
                for layer in attributions(&mut lab, &run, target, path) {
                    own.extend(at(format!("{name}.{}", layer.layer)));
                    found.extend(layer.neurons);
                    let whole = f64::from(at(format!("whole.{}", layer.layer))[0]);
                    // A difference of two probabilities, of f32 each.
                    let off = (layer.whole - whole).abs();
                    let within = 1e-4 * whole.abs() + 1e-6;
                    assert!(off < within, "{case} {i}: {whole} {off}");
                }
                let apart = apart(&found, &own);
                assert!(apart < 1e-4, "{case} {name} prompt {i}: {apart:.1e}");
            }
        }
        let along = AnswerDirection::Of(target, EffectScale::Logit);
        let search = Search::new(lab.model.card.layers);
        let scoring = FactScoring::Integrated {
            target,
            path: MIDPOINT,
        };
        let none = Schedule::none();
        let scores = ask(&mut lab, &prompts, &none, &along, scoring, search).unwrap();
        let found: Vec<u32> = scores
            .present(2.0 / 3.0)
            .flat_map(|n| [u32::from(n.layer), n.neuron])
            .collect();
        assert_eq!(found, ids(&expected["chosen"]), "{case}");
    }
}

/// T47. The sums are those of probabilities that nothing of the method computed.
#[test]
fn a_layers_attributions_sum_to_what_its_neurons_make() {
    let mut seen = 0;
    for mut lab in every_family() {
        let layers = lab.model.card.neuron_layers.clone();
        if layers.is_empty() {
            continue;
        }
        let edits = format!("scale:1,2@mlp_act.{}*3", layers[0]);
        for run in [Run::plain(prompt(9)), edited(prompt(9), &[&edits])] {
            let path = IntegralSteps {
                steps: 200,
                rule: IntegralRule::Midpoint,
            };
            let minus = |minus| LogitTarget { token: 5, minus };
            for target in [minus(None), minus(Some(7))] {
                let found = attributions(&mut lab, &run, target, path);
                let value = |lab: &mut Lab, run: &Run| {
                    let stats = lab.last(run, Output::tokens(&target.tokens())).unwrap();
                    match target.minus {
                        None => f64::from(stats.token(5).logprob).exp(),
                        Some(_) => f64::from(target.logit(&stats)),
                    }
                };
                let before = value(&mut lab, &run);
                for layer in &found {
                    let off = format!("zero@mlp_act.{}:-1", layer.layer).parse().unwrap();
                    let without = Run {
                        schedule: run.schedule.and(&off),
                        ..run.clone()
                    };
                    let whole = before - value(&mut lab, &without);
                    let name = &lab.model.card.name;
                    let off = (layer.whole - whole).abs();
                    assert!(off < 1e-4 * whole.abs() + 1e-6, "{name}: {layer:?} {whole}");
                    let size: f64 = layer.neurons.iter().map(|x| f64::from(x.abs())).sum();
                    let error = layer.completeness_error();
                    // An expert that is chosen on the way is a jump, which no gradient sees.
                    let mixed = layers.len() < lab.model.card.layers;
                    // A norm of what the MLP writes hides how far it has gone, but for the first steps.
                    let normed = lab.model.card.norms_writes;
                    let within = if normed { 0.2 } else { 5e-3 };
                    assert!(
                        mixed || error.abs() < within * size.max(whole.abs()),
                        "{name} layer {}: {error} of {size}",
                        layer.layer
                    );
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 40, "{seen}");
}

fn fact(lab: &mut Lab, run: &Run, given: &[(&str, &str)]) -> lmscope::error::Result<Figure> {
    let arguments = given
        .iter()
        .fold(Arguments::default(), |a, (name, value)| a.with(name, value));
    observe(instrument("fact")?, run, &arguments, lab)
}

fn table(figure: &Figure) -> &Table {
    match &figure.body {
        Body::Table(table) => table,
        Body::Grid(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => panic!("a table"),
    }
}

/// A column of a table's first page, as text.
fn column(figure: &Figure, name: &str) -> Vec<String> {
    let table = table(figure);
    let at = table.columns.iter().position(|c| c == name).unwrap();
    let rows = table.pages[0].rows.iter();
    rows.map(|row| match &row.entries[at] {
        Entry::Whole(n) => n.to_string(),
        Entry::Number(n) => n.to_string(),
        Entry::Missing => String::new(),
        Entry::Text(text) => text.clone(),
    })
    .collect()
}

#[test]
fn every_family_ranks_its_neurons_or_says_why_not() {
    for mut lab in every_family() {
        let run = Run::plain(prompt(6));
        let given = [("by", "integrated"), ("answer", "#5"), ("steps", "3")];
        let (some, layers) = (lab.model.card.neuron_layers.len(), lab.model.card.layers);
        match fact(&mut lab, &run, &given) {
            Ok(figure) => {
                assert!(some > 0 && !column(&figure, "neuron").is_empty());
                let said = figure
                    .notes
                    .iter()
                    .any(|n| n.contains("mixtures of experts"));
                assert_eq!(said, some < layers, "{:?}", figure.notes);
            }
            Err(Error::Refused { why, .. }) => {
                assert!(some == 0 && why.contains("experts"), "{why}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn the_demos_facts_break_without_the_neurons_and_not_without_others() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let given = [
        ("answer", " Paris"),
        ("on", "logit"),
        ("count", "30"),
        ("share", "5"),
    ];
    let by = [&given[..], &[("by", "integrated")]].concat();
    let figure = fact(&mut lab, &run, &by).unwrap();
    let title = &table(&figure).pages[0].title;
    let numbers: Vec<f32> = title
        .split([' ', ','])
        .filter_map(|w| w.parse().ok())
        .collect();
    let [before, without, _count, _by_effect, control, ..] = numbers[..] else {
        panic!("{title}")
    };
    assert!(before > 0.99 && without < 0.7 && control > 0.95, "{title}");
    let notes = figure.notes.join("\n");
    for words in [
        "20 steps, midpoint rule",
        "completeness",
        "control",
        "parts of very little",
        "Niu",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    // The places are those of the direct ranking.
    let direct = fact(&mut lab, &run, &given).unwrap();
    let order = column(&direct, "neuron");
    let found = column(&figure, "neuron").into_iter();
    let mut compared = 0;
    for (neuron, place) in found.zip(column(&figure, "by effect")) {
        if let Some(at) = order.iter().position(|n| *n == neuron) {
            compared += 1;
            // The direct list is in this order, and holds none that is not kept.
            assert!(
                place.parse::<usize>().unwrap() > at,
                "{neuron}: {place} {at}"
            );
        }
    }
    assert!(compared > 0);
    // A layer that is chosen alone has the same numbers.
    let layer: u16 = column(&figure, "neuron")[0]
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let layer = layer.to_string();
    let one = [&by[..], &[("layer", layer.as_str())]].concat();
    let alone = fact(&mut lab, &run, &one).unwrap();
    assert_eq!(
        column(&alone, "attribution")[0],
        column(&figure, "attribution")[0]
    );
}

#[test]
fn an_activation_that_is_zero_has_no_attribution() {
    let mut lab = every_family()
        .find(|lab| !lab.model.card.neuron_layers.is_empty())
        .unwrap();
    let layer = lab.model.card.neuron_layers[0];
    let run = edited(prompt(7), &[&format!("zero:3@mlp_act.{layer}")]);
    let found = attributions(&mut lab, &run, LogitTarget::one(5), MIDPOINT);
    assert_eq!(found[0].neurons[3].abs(), 0.0);
    let at = Site::MlpAct.at(layer);
    assert!(lab.record(&run, &[at]).is_ok());
    assert!(found[0].neurons.iter().filter(|x| **x != 0.0).count() > 10);
}

#[test]
fn edit_value_holds_both_rankings_against_random_neurons() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("facts.tsv");
    let fact = |country: &str, capital: &str| {
        format!("capital\t {capital}\tThe capital of {country} is\t{country}'s capital is\n")
    };
    let text = fact("France", "Paris") + &fact("Japan", "Tokyo") + &fact("Cuba", "Havana");
    std::fs::write(&list, text).unwrap();
    let list = list.to_str().unwrap();
    let given = [
        "edit-value",
        "demo",
        "--fact",
        list,
        "--score",
        "integrated",
    ];
    let out = written(&given);
    let rows: Vec<&str> = out.lines().collect();
    let names: Vec<&str> = rows
        .iter()
        .filter(|row| {
            row.contains("found") || row.contains("by direct effect") || row.contains("random")
        })
        .copied()
        .collect();
    assert_eq!(names.len(), 3, "{out}");
    assert!(
        names[1].contains("by direct effect") && names[2].contains("random"),
        "{out}"
    );
    let json = written(&[&given[..], &["--format", "json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let case = &report["cases"][0];
    assert!(
        case["neurons"][0]["by_effect"].as_u64().unwrap() >= 1,
        "{case}"
    );
    assert!(
        report["edited"]["changed"].as_f64() > report["random"]["changed"].as_f64(),
        "{report}"
    );
    assert!(report["direct"]["changed"].is_number(), "{report}");
}
