//! The demo's own dictionary: a planted mood has a feature that is found by a rule, and that changes what the model writes.
//! `demo/CARD.md` says the numbers that are measured here.

use std::path::Path;
use std::rc::Rc;

use lmscope::dictionaries::handles::with_features;
use lmscope::dictionaries::opened::{DictionarySet, OpenDictionaries};
use lmscope::edit::Edit;
use lmscope::edit::direction::Direction;
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Entry, TableRow};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::Writer;
use lmscope::model::network::site::{Address, Site};

use crate::demo::demo;
use crate::tools::values;

const AT: Address = Address {
    site: Site::ResidPost,
    layer: 3,
};

fn list(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("demo/lists")
        .join(name);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|l| !l.is_empty())
        .map(String::from)
        .collect()
}

fn own(lab: &Lab) -> Rc<DictionarySet> {
    // Nothing named: the one that is embedded for the model.
    lab.derived::<OpenDictionaries>().get("", lab).unwrap()
}

/// The activations of all features at a position of a text; by default the last one.
fn activations(lab: &mut Lab, tokens: &[u32], position: Option<usize>) -> Vec<f32> {
    let set = own(lab);
    let dictionary = &set.dictionaries[0].dictionary;
    let capture = lab.record(&Run::plain(tokens.to_vec()), &[AT]).unwrap();
    let rows = values(capture.get(AT).unwrap());
    let width = rows.len() / tokens.len();
    let at = position.unwrap_or(tokens.len() - 1);
    let encoded = dictionary
        .encode(&[&rows[at * width..(at + 1) * width]])
        .unwrap();
    let mut dense = vec![0f32; dictionary.features()];
    encoded.features[0]
        .iter()
        .for_each(|(f, act)| dense[*f as usize] = *act);
    dense
}

/// The share of pairs in which the positive one is larger; ties count half.
fn auroc(plus: &[f32], minus: &[f32]) -> f32 {
    let pairs = plus.iter().flat_map(|p| minus.iter().map(move |m| (p, m)));
    let won = pairs.map(|(p, m)| {
        if p > m {
            1.0
        } else if p < m {
            0.0
        } else {
            0.5
        }
    });
    won.sum::<f32>() / (plus.len() * minus.len()) as f32
}

/// A feature that tells two lists of prompts apart: the one with the best AUROC on every other prompt, of equal ones that with
/// the largest difference of means. With its AUROC on the other half, and its largest activation.
struct Found {
    feature: usize,
    held_out: f32,
    largest: f32,
}

fn find(plus: &[Vec<f32>], minus: &[Vec<f32>]) -> Found {
    let column = |rows: &[Vec<f32>], f: usize, odd: usize| -> Vec<f32> {
        rows.iter().skip(odd).step_by(2).map(|row| row[f]).collect()
    };
    let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
    let score = |f: usize| {
        let (p, m) = (column(plus, f, 0), column(minus, f, 0));
        (auroc(&p, &m), mean(&p) - mean(&m))
    };
    let best = (0..plus[0].len())
        .map(|f| (score(f), f))
        .max_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
    let feature = best.unwrap().1;
    Found {
        feature,
        held_out: auroc(&column(plus, feature, 1), &column(minus, feature, 1)),
        largest: plus.iter().map(|row| row[feature]).fold(0.0, f32::max),
    }
}

/// A feature's vector, and a random one of the same length, as directions that edits name.
fn name(lab: &mut Lab, feature: usize) {
    let set = own(lab);
    let vector = set.dictionaries[0]
        .dictionary
        .direction(0, feature)
        .unwrap();
    let random: Vec<f32> = {
        let draw: Vec<f32> = (0..vector.len())
            .map(|i| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0)
            .collect();
        let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        let by = length(&vector) / length(&draw);
        draw.into_iter().map(|x| x * by).collect()
    };
    let origin = lab.directions["mood"].origin.clone();
    for (name, vector) in [("feature", vector), ("random", random)] {
        let direction = Direction {
            rows: vec![(AT, vector)],
            origin: origin.clone(),
        };
        lab.directions.insert(name.into(), direction);
    }
}

fn written_under(lab: &mut Lab, tokens: &[u32], schedule: Schedule, count: usize) -> String {
    let mut writer = Writer::begin(lab, tokens.to_vec(), schedule, Sampling::default()).unwrap();
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

/// The share of prompts whose continuation has one of these words.
fn share(lab: &mut Lab, prompts: &[Vec<u32>], edit: &str, words: &[&str]) -> f32 {
    let edits = [edit].into_iter().filter(|edit| !edit.is_empty());
    let edits = edits.map(|edit| edit.parse().unwrap()).collect();
    share_under(lab, prompts, &Schedule::always(edits), words)
}

fn encoded(lab: &Lab, texts: &[String], chat: bool) -> Vec<Vec<u32>> {
    texts
        .iter()
        .map(|text| lab.model.encode(text, chat).unwrap())
        .collect()
}

fn two_lists(lab: &mut Lab, plus: &str, minus: &str, chat: bool) -> Found {
    let mut rows = |name: &str| -> Vec<Vec<f32>> {
        let texts = encoded(lab, &list(name), chat);
        texts
            .iter()
            .map(|tokens| activations(lab, tokens, None))
            .collect()
    };
    let (plus, minus) = (rows(plus), rows(minus));
    find(&plus, &minus)
}

#[test]
fn a_mood_has_a_feature_that_changes_the_story() {
    let mut lab = demo();
    let found = two_lists(&mut lab, "mood_plus.txt", "mood_minus.txt", false);
    name(&mut lab, found.feature);
    let open = encoded(&lab, &list("mood_test.txt"), false);
    let happy = ["sunny", "bright", "lovely", "warm"];
    let add = |name: &str, times: f32| format!("add:{name}@resid_post.3*{}", times * found.largest);
    let before = share(&mut lab, &open, "", &happy);
    let shares: Vec<(f32, f32, f32)> = [1.0, 2.0, 4.0]
        .into_iter()
        .map(|times| {
            (
                times,
                share(&mut lab, &open, &add("feature", times), &happy),
                share(&mut lab, &open, &add("random", times), &happy),
            )
        })
        .collect();
    println!(
        "mood: feature {} AUROC {:.3} largest {:.2}; happy {before:.2}, added (times, feature, random) {shares:?}",
        found.feature, found.held_out, found.largest
    );
    assert!(found.held_out >= 0.9);
    let best = shares.iter().map(|s| s.1 - s.2).fold(0.0, f32::max);
    assert!(best >= 0.4, "{shares:?}");
}

/// The share of prompts whose continuation has one of these words under a schedule.
fn share_under(lab: &mut Lab, prompts: &[Vec<u32>], schedule: &Schedule, words: &[&str]) -> f32 {
    let hits = prompts.iter().filter(|tokens| {
        let text = written_under(lab, tokens, schedule.clone(), 8);
        words.iter().any(|word| text.contains(word))
    });
    hits.count() as f32 / prompts.len() as f32
}

/// An edit alone, and four draws of its control: other features of the dictionary that are set as high.
fn with_controls(line: &str) -> (Schedule, Vec<Schedule>) {
    let own = Schedule::always(vec![line.parse::<Edit>().unwrap()]);
    let controls = (0..4).map(|seed| own.control(seed)).collect();
    (own, controls)
}

#[test]
fn refusing_has_a_feature_that_makes_the_model_refuse() {
    let mut lab = with_features(demo());
    let found = two_lists(&mut lab, "refusal_plus.txt", "refusal_minus.txt", true);
    let plain = encoded(&lab, &list("refusal_test_plain.txt"), true);
    let refuses = ["sorry"];
    let before = share_under(&mut lab, &plain, &Schedule::none(), &refuses);
    let line = format!(
        "set:world#{}={}@resid_post.3:last",
        found.feature,
        2.0 * found.largest
    );
    let (own, controls) = with_controls(&line);
    let with = share_under(&mut lab, &plain, &own, &refuses);
    let controls: Vec<f32> = controls
        .iter()
        .map(|control| share_under(&mut lab, &plain, control, &refuses))
        .collect();
    println!(
        "refusing: feature {} AUROC {:.3} largest {:.2}; refused {before:.2}, set to twice that {with:.2}, other features {controls:?}",
        found.feature, found.held_out, found.largest
    );
    assert!(found.held_out >= 0.95 && before <= 0.05);
    assert!(with >= 0.75, "{with}");
    assert!(
        controls.iter().all(|control| *control <= 0.3),
        "{controls:?}"
    );
}

/// The feature of a country: the one that is most above its mean over other countries, where their capitals are asked for. Set to 20 there,
/// the model says this capital of others, which had no part in finding it.
#[test]
fn countries_have_features_that_exchange_capitals() {
    let mut lab = with_features(demo());
    let pairs: Vec<(String, String)> = list("capitals.tsv")
        .iter()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(country, capital)| (country.to_string(), capital.to_string()))
        .collect();
    let asked: Vec<String> = pairs
        .iter()
        .map(|(country, _)| format!("The capital of {country} is"))
        .collect();
    let asked = encoded(&lab, &asked, false);
    let (finding, others) = (&asked[..20], &asked[20..28]);
    let acts: Vec<Vec<f32>> = finding
        .iter()
        .map(|tokens| activations(&mut lab, tokens, None))
        .collect();
    let (mut steerable, mut by_control) = (0, Vec::new());
    for (own, (country, capital)) in pairs.iter().enumerate().take(12) {
        let above = |feature: &usize| {
            let rest = acts.iter().enumerate().filter(|(i, _)| *i != own);
            let rest: f32 = rest.map(|(_, act)| act[*feature]).sum();
            acts[own][*feature] - rest / (acts.len() - 1) as f32
        };
        let feature = (0..acts[own].len()).max_by(|a, b| above(a).total_cmp(&above(b)));
        let feature = feature.unwrap();
        let (set, controls) = with_controls(&format!("set:world#{feature}=20@resid_post.3:last"));
        let with = share_under(&mut lab, others, &set, &[capital]);
        let control = share_under(&mut lab, others, &controls[0], &[capital]);
        println!(
            "{country}: feature {feature} ({:.2}), {with:.2} say {capital}, of other features {control:.2}",
            acts[own][feature]
        );
        steerable += usize::from(with >= 0.75);
        by_control.push(control);
    }
    let control = by_control.iter().sum::<f32>() / by_control.len() as f32;
    println!("countries: {steerable} of 12 have one, control {control:.3}");
    assert!(steerable >= 5 && control <= 0.05, "{steerable}, {control}");
}

/// A feature that is clamped stands in the live rows with what the encoder reads afterwards, and its row says so; others do not.
#[test]
fn the_row_of_an_edited_feature_says_that_it_is_edited() {
    let mut lab = with_features(demo());
    let tokens = lab.model.encode("The capital of France is", true).unwrap();
    let figure = |lab: &mut Lab, edits: Vec<Edit>| {
        let run = Run::plain(tokens.clone()).under(&Schedule::always(edits));
        let arguments = Arguments::default().with("dictionary", "world");
        let figure = instrument("features").unwrap();
        match figure.observe(&run, &arguments, lab).unwrap().body {
            Body::Table(table) => table.pages.last().unwrap().rows.clone(),
            other => panic!("{other:?}"),
        }
    };
    let plain = figure(&mut lab, Vec::new());
    let feature = plain[0].handle.clone().unwrap().feature;
    let edit = |line: &str| line.parse::<Edit>().unwrap();
    let line = format!("set:world#{feature}=20@resid_post.3:all-but-bos");
    let marked = |rows: &[TableRow]| -> Vec<u32> {
        let edited = rows.iter().filter(|row| {
            matches!(row.entries.last(), Some(Entry::Text(label)) if label.contains("after the edit"))
        });
        edited
            .map(|row| row.handle.clone().unwrap().feature)
            .collect()
    };
    assert!(marked(&plain).is_empty());
    assert_eq!(marked(&figure(&mut lab, vec![edit(&line)])), [feature]);
    let mut off = edit(&line);
    off.on = false;
    assert!(marked(&figure(&mut lab, vec![off.clone()])).is_empty());
    // Its card names the edit, where that acts; another feature's does not.
    let mut acting = |feature: u32, edit: &Edit| {
        let run = Run::plain(tokens.clone()).under(&Schedule::always(vec![edit.clone()]));
        let arguments = Arguments::default().with("dictionary", "world");
        let arguments = arguments.with("feature", feature.to_string());
        let card = instrument("feature").unwrap();
        let Body::Table(table) = card.observe(&run, &arguments, &mut lab).unwrap().body else {
            panic!("a table")
        };
        let rows = table.pages.last().unwrap().rows.iter();
        let mut named = rows.filter(|row| row.entries[0] == Entry::from("edit that is on"));
        named.next().map(|row| row.entries[2].exact())
    };
    let said = acting(feature, &edit(&line)).unwrap();
    assert!(said.starts_with(&line), "{said}");
    assert_eq!(acting(feature, &off), None);
    assert_eq!(acting(feature + 1, &edit(&line)), None);
}
