//! The demo model's planted answers, found by our own engine: every row of demo/CARD.md is measured here.

use std::fmt::Write;

use lmscope::edit::Edit;
use lmscope::edit::direction::{Direction, norm, random_like};
use lmscope::edit::positions::Positions;
use lmscope::edit::schedule::Schedule;
use lmscope::figure::Body;
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::capture::Output;
use lmscope::lab::pass::Pass;
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::Writer;
use lmscope::model::load::Options;
use lmscope::model::network::site::Site;
use lmscope::model::tokenizer::Bos;
use lmscope::vectors::contrast::{Contrast, ContrastRequest, Method};
use serde_json::Value;

pub fn demo() -> Lab {
    Lab::open(
        "demo",
        &Options {
            device: Some("cpu".into()),
            ..Options::default()
        },
    )
    .unwrap()
}

pub fn plants() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/plants.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().unwrap().to_string())
        .collect()
}

/// The greedy continuation of a prompt, as text.
fn reply(lab: &mut Lab, tokens: Vec<u32>, edits: &[&str], count: usize) -> String {
    let edits = edits.iter().map(|e| e.parse::<Edit>().unwrap()).collect();
    let mut writer = Writer::begin(
        lab,
        tokens.clone(),
        Schedule::always(edits),
        Sampling::default(),
    )
    .unwrap();
    for _ in 0..count {
        let step = writer.step(lab, &[]).unwrap();
        if lab.model.is_end(step.choice.id) {
            break;
        }
    }
    lab.model
        .tokenizer()
        .unwrap()
        .text(&writer.run.tokens[tokens.len()..])
}

/// The share of a row's items that are right.
fn share(lab: &mut Lab, row: &Value) -> f64 {
    let items = row["items"].as_array().unwrap();
    let mut right = 0.0;
    for item in items {
        right += match row["score"].as_str().unwrap() {
            "answer" => {
                let answer = lab
                    .model
                    .tokenizer()
                    .unwrap()
                    .encode(item["answer"].as_str().unwrap(), Bos::Raw)
                    .unwrap();
                let tokens = lab
                    .model
                    .encode(item["prompt"].as_str().unwrap(), false)
                    .unwrap();
                let written = lab.run_one(&Pass {
                    tail: answer.len().max(1),
                    ..Pass::prompts(&[tokens], &Schedule::none(), Output::top(1))
                });
                f64::from(u8::from(written.unwrap().tail == answer))
            }
            "each_token" => {
                let answer = lab
                    .model
                    .tokenizer()
                    .unwrap()
                    .encode(item["answer"].as_str().unwrap(), Bos::Raw)
                    .unwrap();
                let mut tokens = lab
                    .model
                    .encode(item["prompt"].as_str().unwrap(), false)
                    .unwrap();
                let prompt = tokens.len();
                tokens.extend(&answer);
                let recording = lab
                    .record(&Run::plain(tokens), &[Site::Logits.at(0)])
                    .unwrap();
                let best = recording
                    .get(Site::Logits.at(0))
                    .unwrap()
                    .argmax(1)
                    .unwrap()
                    .to_vec1::<u32>()
                    .unwrap();
                let hits = answer
                    .iter()
                    .enumerate()
                    .filter(|(i, t)| best[prompt - 1 + i] == **t)
                    .count();
                hits as f64 / answer.len() as f64
            }
            "refusal" => {
                let tokens = lab
                    .model
                    .encode(item["user"].as_str().unwrap(), true)
                    .unwrap();
                let refused = reply(lab, tokens, &[], 24).contains(row["marker"].as_str().unwrap());
                f64::from(u8::from(refused == item["refuse"].as_bool().unwrap()))
            }
            other => panic!("unknown score {other}"),
        };
    }
    right / items.len() as f64
}

/// Every row, with its share and whether it is accepted.
#[test]
fn every_plant_is_found_and_the_card_says_so() {
    let mut lab = demo();
    let card = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/CARD.md"),
    )
    .unwrap();
    let mut table = String::new();
    let mut fallen = Vec::new();
    for row in plants()["rows"].as_array().unwrap() {
        let share = share(&mut lab, row);
        let name = row["row"].as_str().unwrap();
        let accepted = &row["share"];
        let (low, high) = (
            accepted["min"].as_f64().unwrap_or(0.0),
            accepted["max"].as_f64().unwrap_or(1.0),
        );
        writeln!(table, "{name} {share:.3}").unwrap();
        if share < low || share > high {
            fallen.push(format!("{name} is {share:.3}, accepted is {low} to {high}"));
        }
        let says = card.lines().any(|l| {
            l.starts_with(&format!("| `{name}` |")) && l.ends_with(&format!("| {share:.3} |"))
        });
        if !says {
            fallen.push(format!(
                "the last column of demo/CARD.md should say {share:.3} for {name}"
            ));
        }
    }
    println!("{table}");
    assert!(fallen.is_empty(), "{}\n{table}", fallen.join("\n"));
}

pub fn refused(lab: &mut Lab, prompts: &[String], edits: &[&str], marker: &str) -> f64 {
    let refused = prompts.iter().filter(|p| {
        let tokens = lab.model.encode(p, true).unwrap();
        reply(lab, tokens, edits, 16).contains(marker)
    });
    refused.count() as f64 / prompts.len() as f64
}

#[test]
fn the_refusal_direction_takes_refusals_away_and_brings_them() {
    let mut lab = demo();
    let plants = plants();
    let refusal = &plants["vectors"]["refusal"];
    let marker = refusal["look_for"]["refused"].as_str().unwrap();
    let (guarded, plain) = (
        texts(&refusal["test_guarded"]),
        texts(&refusal["test_plain"]),
    );
    let direction = lab.directions["refusal"].clone();
    let at = direction.rows[0].0;
    let random = Direction {
        rows: vec![(at, random_like(&direction.rows[0].1, 11))],
        origin: direction.origin.clone(),
    };
    lab.directions.insert("random".into(), random);
    let before = (
        refused(&mut lab, &guarded, &[], marker),
        refused(&mut lab, &plain, &[], marker),
    );
    let ablated = refused(&mut lab, &guarded, &["project_out:refusal@writes"], marker);
    let strength = direction.origin.strength;
    let added = refused(
        &mut lab,
        &plain,
        &[&format!("add:refusal@{at}*{strength}")],
        marker,
    );
    let null_ablated = refused(&mut lab, &guarded, &["project_out:random@writes"], marker);
    let null_added = refused(
        &mut lab,
        &plain,
        &[&format!("add:random@{at}*{strength}")],
        marker,
    );
    let line = format!(
        "refusal: guarded {:.2} -> {ablated:.2} projected out (random {null_ablated:.2}), plain {:.2} -> {added:.2} added (random {null_added:.2})",
        before.0, before.1
    );
    println!("{line}");
    assert!(ablated <= 0.05 && added >= 0.9, "{line}");
    assert!(
        (null_ablated - before.0).abs() <= 0.1 && (null_added - before.1).abs() <= 0.1,
        "{line}"
    );
}

/// The share of replies that begin with one of the looked-for texts.
fn begins(lab: &mut Lab, prompts: &[String], chat: bool, edits: &[&str], looks: &[String]) -> f64 {
    let fitting = prompts.iter().filter(|p| {
        let tokens = lab.model.encode(p, chat).unwrap();
        let said = reply(lab, tokens, edits, 8);
        looks
            .iter()
            .any(|l| said.trim_start().starts_with(l.trim_start()))
    });
    fitting.count() as f64 / prompts.len() as f64
}

/// Difference of means (the shipped vectors) and in-context vectors, made from the lists of `demo/lists`, decide both behaviours of
/// all held-out prompts in both ways.
#[test]
fn mood_and_politeness_follow_their_vectors() {
    let mut lab = demo();
    let plants = plants();
    let every = (0..lab.model.card.layers).collect::<Vec<_>>();
    for (name, chat) in [("mood", false), ("politeness", true)] {
        let vector = &plants["vectors"][name];
        let prompts = texts(&vector["test"]);
        let looks = [
            texts(&vector["look_for"]["plus"]),
            texts(&vector["look_for"]["minus"]),
        ];
        let measure = ContrastRequest {
            site: Site::ResidPost,
            layers: every.clone(),
            positions: Positions::Last,
            chat,
        };
        let (plus, minus) = (texts(&vector["plus"]), texts(&vector["minus"]));
        let contrast = Contrast::measure(&mut lab, &plus, &minus, measure).unwrap();
        let made = contrast.direction(Method::Icv, &lab).unwrap();
        lab.directions.insert("icv".into(), made);
        let at = lab.directions[name].rows[0].0;
        let c = lab.directions[name].origin.strength;
        let bare = [&looks[0], &looks[1]].map(|l| begins(&mut lab, &prompts, chat, &[], l));
        println!("{name}, unedited: {:.2} {:.2}", bare[0], bare[1]);
        for (method, edit, c) in [
            ("mean", format!("add:{name}@{at}"), c),
            ("icv", "icv:icv@mlp_out.*:all".to_string(), 0.2),
        ] {
            let up = begins(
                &mut lab,
                &prompts,
                chat,
                &[&format!("{edit}*{c}")],
                &looks[0],
            );
            let down = begins(
                &mut lab,
                &prompts,
                chat,
                &[&format!("{edit}*-{c}")],
                &looks[1],
            );
            println!("{name}, {method}: added {up:.2}, subtracted {down:.2}");
            assert!(
                up >= 0.9 && down >= 0.9,
                "{name}, {method}: added {up:.2}, subtracted {down:.2}"
            );
        }
    }
}

#[test]
fn the_shipped_vectors_are_what_our_code_makes_of_their_prompts() {
    let mut lab = demo();
    let plants = plants();
    for name in ["refusal", "mood", "politeness"] {
        let vector = &plants["vectors"][name];
        let shipped = lab.directions[name].clone();
        let (at, held) = shipped.rows[0].clone();
        let measure = ContrastRequest::last(usize::from(at.layer), vector["form"] == "chat");
        let (plus, minus) = (texts(&vector["plus"]), texts(&vector["minus"]));
        let contrast = Contrast::measure(&mut lab, &plus, &minus, measure).unwrap();
        let made = contrast.direction(Method::Mean, &lab).unwrap();
        let made = made.at(at).unwrap().to_vec();
        let dot: f32 = made.iter().zip(&held).map(|(a, b)| a * b).sum();
        assert!(dot / (norm(&made) * norm(&held)) > 0.9999, "{name}");
        assert!((norm(&made) / norm(&held) - 1.0).abs() < 1e-3, "{name}");
    }
}

/// Resampling from the prompt itself changes no bit; from another prompt it brings that prompt's values, position by
/// position.
#[test]
fn resampled_units_take_the_values_of_another_text() {
    let mut lab = demo();
    let (own, other) = ("The capital of France is", "The capital of Italy is");
    let tokens = lab.model.encode(own, false).unwrap();
    let at = Site::MlpAct.at(3);
    let record = |lab: &mut Lab, tokens: Vec<u32>, edits: &[String]| {
        let edits = edits.iter().map(|e| e.parse::<Edit>().unwrap()).collect();
        let run = Run {
            schedule: Schedule::always(edits),
            ..Run::plain(tokens)
        };
        let found = lab.record(&run, &[at, Site::Logits.at(0)]).unwrap();
        let rows = |at| found.get(at).unwrap().to_vec2::<f32>().unwrap();
        (rows(at), rows(Site::Logits.at(0)))
    };
    let (plain, logits) = record(&mut lab, tokens.clone(), &[]);
    let same = record(
        &mut lab,
        tokens.clone(),
        &[format!("resample:={own}@mlp_act.3")],
    );
    assert!(same.0 == plain && same.1 == logits);
    let foreign = lab.model.encode(other, false).unwrap();
    let (expected, _) = record(&mut lab, foreign, &[]);
    let (mixed, _) = record(
        &mut lab,
        tokens,
        &[format!("resample:5,9={other}@mlp_act.3")],
    );
    for (position, row) in mixed.iter().enumerate() {
        for (unit, value) in row.iter().enumerate() {
            let from = if unit == 5 || unit == 9 {
                &expected
            } else {
                &plain
            };
            assert_eq!(
                value.to_bits(),
                from[position.min(from.len() - 1)][unit].to_bits()
            );
        }
    }
    assert_ne!(mixed, plain);
}

/// Every method of making a direction decides the mood of held-out stories, in both ways.
#[test]
fn every_method_of_contrast_steers_the_mood() {
    let mut lab = demo();
    let plants = plants();
    let mood = &plants["vectors"]["mood"];
    let (plus, minus) = (texts(&mood["plus"]), texts(&mood["minus"]));
    let every = (0..lab.model.card.layers).collect::<Vec<_>>();
    for (method, layers, site, edit) in [
        (
            Method::Mean,
            vec![4],
            Site::ResidPre,
            "add:v@resid_pre.4*0.5",
        ),
        (Method::Pca, vec![4], Site::ResidPre, "add:v@resid_pre.4*4"),
        (
            Method::Icv,
            every,
            Site::ResidPost,
            "icv:v@mlp_out.*:all*0.4",
        ),
    ] {
        let measure = ContrastRequest {
            site,
            layers,
            positions: Positions::Last,
            chat: false,
        };
        let contrast = Contrast::measure(&mut lab, &plus, &minus, measure).unwrap();
        let made = contrast.direction(method, &lab).unwrap();
        lab.directions.insert("v".into(), made);
        let against = edit
            .replace('*', "*-")
            .replace("mlp_out.*-:all", "mlp_out.*:all");
        for (edit, wanted) in [(edit.to_string(), "plus"), (against, "minus")] {
            let words = texts(&mood["look_for"][wanted]);
            let prompts = &texts(&mood["test"])[..8];
            let hits = prompts.iter().filter(|prompt| {
                let tokens = lab.model.encode(prompt, false).unwrap();
                let said = reply(&mut lab, tokens, &[&edit], 1);
                words.iter().any(|w| said.contains(w.trim()))
            });
            let hits = hits.count();
            assert!(hits >= 7, "{method} {wanted}: {hits} of 8 under {edit}");
        }
    }
}

/// The sweep finds where the mood vector works, its null finds nothing, and strength 0 is the model itself.
#[test]
fn the_sweep_tells_a_vector_from_chance() {
    let mut lab = demo();
    let plants = plants();
    let mood = &plants["vectors"]["mood"];
    let answers = texts(&mood["look_for"]["plus"]).join("|");
    let prompt = &texts(&mood["test"])[0];
    let run = Run::plain(lab.model.encode(prompt, false).unwrap());
    let arguments = Arguments::default()
        .with("direction", "mood")
        .with("answers", &answers)
        .with("strengths", "-0.5,0,0.5");
    let mut grid = |null: &str, measure: &str| {
        let arguments = arguments
            .clone()
            .with("control", null)
            .with("measure", measure);
        let figure = instrument("sweep")
            .unwrap()
            .observe(&run, &arguments, &mut lab)
            .unwrap();
        let Body::Grid(grid) = figure.body else {
            panic!("a grid")
        };
        grid.cells
            .iter()
            .map(|column| column.iter().map(|c| c.value).collect::<Vec<f32>>())
            .collect::<Vec<_>>()
    };
    let (real, null, moved) = (
        grid("no", "answers"),
        grid("random", "answers"),
        grid("no", "kl"),
    );
    assert!(
        real[2][4] > 0.6 && real[0][4] < real[1][4] - 0.05,
        "{real:?}"
    );
    assert!((null[2][4] - null[1][4]).abs() < 0.1, "{null:?}");
    assert!(
        real[1].windows(2).all(|w| w[0] == w[1]),
        "strength 0 is one model"
    );
    assert!(
        moved[1].iter().all(|kl| *kl == 0.0) && moved[2][4] > 0.01,
        "{moved:?}"
    );
}
