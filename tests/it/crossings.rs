//! What crosses from tensors to the host, counted where it crosses: the live view of a model whose statistics are taken on a device, on a
//! CPU that stands in for it.

use lmscope::edit::direction::{Direction, DirectionOrigin};
use lmscope::edit::schedule::Schedule;
use lmscope::figure::Check;
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::capture::Needs;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::{BaselineMode, Writer};
use lmscope::model::Model;
use lmscope::model::host::{Crossings, crossed};
use lmscope::model::network::families::{FAMILIES, Family};
use lmscope::model::network::readout::StatisticsOn;
use lmscope::model::network::site::Site;
use serde_json::{Value, json};

use crate::tools::{edited, prompt, tiny};

/// Every pane that grows with the text, but for attention patterns, and for those of dictionaries, which need a file.
const PANES: [&str; 5] = ["lens", "neurons", "residual", "surprisal", "meters"];

/// As on a device.
fn standing_in(mut lab: Lab) -> Lab {
    lab.model.transformer.statistics = StatisticsOn::Device;
    lab
}

fn with_direction(mut lab: Lab) -> Lab {
    let vector = (0..lab.model.card.d_model).map(|i| (i % 7) as f32 - 3.0);
    let direction = Direction {
        rows: vec![(Site::ResidPost.at(0), vector.collect())],
        origin: DirectionOrigin::default(),
    };
    lab.directions.insert("d".into(), direction);
    lab
}

/// Writes tokens with these panes open: the columns of each as JSON, and what crossed for each token.
fn live(
    lab: &mut Lab,
    panes: &[(&'static str, Arguments)],
    tokens: Vec<u32>,
    edits: &[&str],
    count: usize,
) -> (Vec<Vec<Value>>, Vec<Crossings>) {
    let schedule = if edits.is_empty() {
        Schedule::default()
    } else {
        edited(tokens.clone(), edits).schedule
    };
    let beside = BaselineMode::OwnText;
    let greedy = Sampling::default();
    let mut writer = Writer::begin_with_baseline(lab, tokens, schedule, greedy, beside).unwrap();
    let panes: Vec<_> = panes
        .iter()
        .map(|(name, arguments)| (instrument(name).unwrap(), arguments))
        .filter(|(of, arguments)| of.live(&lab.model.card, arguments))
        .collect();
    let (mut columns, mut counts) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let needs = panes
            .iter()
            .map(|(of, arguments)| of.needs(&writer.run, arguments, lab));
        let needs: Vec<Needs> = needs.collect::<Result<_, _>>().unwrap();
        let before = crossed();
        let step = writer.step(lab, &needs).unwrap();
        let mut own = vec![json!({
            "id": step.choice.id, "logprob": step.choice.logprob, "rank": step.choice.rank,
            "kl": step.choice.kl, "other": step.choice.other.map(|other| (other.id, other.logprob)),
        })];
        for ((of, arguments), capture) in panes.iter().zip(&step.captures) {
            let column = of.column(capture, arguments, lab).unwrap();
            own.push(json!({ "body": column.body, "notes": column.notes }));
            assert!(column.check.is_none_or(Check::passed), "{}", of.name());
        }
        counts.push(crossed() - before);
        columns.push(own);
    }
    (columns, counts)
}

fn panes() -> Vec<(&'static str, Arguments)> {
    let with = |given: &[(&str, &str)]| {
        let given = given
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Arguments::of(given.collect())
    };
    let mut all: Vec<_> = PANES.map(|name| (name, Arguments::default())).into();
    all.push(("lens", with(&[("show", "rank"), ("of", "answer")])));
    all.push(("neurons", with(&[("rank", "effect")])));
    all
}

/// Equal, but for the rounding of sums.
fn near(a: &Value, b: &Value, place: &str) {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!(
                (a - b).abs() <= 2e-3 * a.abs().max(0.05),
                "{place}: {a} {b}"
            );
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{place}");
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                near(a, b, &format!("{place}/{i}"));
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.len(), b.len(), "{place}");
            for (key, a) in a {
                near(a, &b[key], &format!("{place}/{key}"));
            }
        }
        (Value::String(a), Value::String(b)) => {
            let words =
                |text: &str| text.replace(|c: char| c.is_ascii_digit() || "-.e".contains(c), "");
            assert_eq!(words(a), words(b), "{place}");
        }
        _ => assert_eq!(a, b, "{place}"),
    }
}

#[test]
fn a_device_shows_what_the_host_shows() {
    for family in FAMILIES {
        for edits in [&[][..], &["scale@mlp_out.1*0.5"]] {
            let mut host = with_direction(tiny(family));
            let mut device = standing_in(with_direction(tiny(family)));
            let (expected, _) = live(&mut host, &panes(), prompt(9), edits, 3);
            let (found, _) = live(&mut device, &panes(), prompt(9), edits, 3);
            for (step, (a, b)) in expected.iter().zip(&found).enumerate() {
                for (pane, (a, b)) in a.iter().zip(b).enumerate() {
                    near(a, b, &format!("{} {edits:?} {step} {pane}", family.name));
                }
            }
        }
    }
}

/// A random Llama of these sizes; widths are small, because nothing that crosses depends on them.
fn llama(layers: usize, vocab: usize, context: usize, width: usize) -> Lab {
    let family: &'static Family = FAMILIES.iter().find(|f| f.name == "llama").unwrap();
    let mut config = (family.tiny)();
    config["num_hidden_layers"] = layers.into();
    config["vocab_size"] = vocab.into();
    config["max_position_embeddings"] = context.into();
    config["intermediate_size"] = (4 * width).into();
    let lab = Lab::new(Model::random(family, &config, 3, &[]).unwrap());
    standing_in(with_direction(lab))
}

/// What the first token of a text crosses, for which nothing is kept yet.
fn a_token(lab: &mut Lab, panes: &[(&'static str, Arguments)], positions: usize) -> Crossings {
    live(lab, panes, prompt(positions), &[], 1).1[0]
}

#[test]
fn what_crosses_for_a_token_grows_with_neither_vocabulary_nor_text_nor_neurons() {
    // Of two lists of neurons some are on both, and cross once.
    let panes = &panes()[..=PANES.len()];
    let of = |layers, vocab, width, positions| {
        a_token(&mut llama(layers, vocab, 128, width), panes, positions)
    };
    let small = of(3, 300, 16, 8);
    assert_eq!(of(3, 1500, 16, 8), small, "a larger vocabulary");
    assert_eq!(of(3, 300, 16, 90), small, "a longer text");
    assert_eq!(of(3, 300, 64, 8), small, "more neurons");
    let more = of(6, 300, 16, 8);
    assert!(more.bytes > small.bytes);
    assert_eq!(
        more.synchronisations, small.synchronisations,
        "a layer waits for nothing"
    );
}

#[test]
fn a_token_of_the_live_view_crosses_with_64_kilobytes() {
    let found = a_token(&mut llama(32, 152_000, 1100, 16), &panes(), 1000);
    println!("a token: {found:?}");
    assert!(found.bytes <= 64 << 10, "{found:?}");
    assert!(found.synchronisations <= 16, "{found:?}");
}

/// The lint that keeps other ways shut is switched off where the count is, and where candle's sampler reads a row of the host.
#[test]
fn numbers_leave_tensors_by_one_door() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read_to_string(&path)
                .unwrap_or_default()
                .contains("disallowed_methods")
            {
                open.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    open.sort();
    assert_eq!(open, ["src/lab/sample.rs", "src/model/host.rs"]);
    let lint = std::fs::read_to_string(root.join("clippy.toml")).unwrap();
    for way in [
        "to_scalar",
        "to_vec0",
        "to_vec1",
        "to_vec2",
        "to_vec3",
        "to_device",
        "storage_and_layout",
    ] {
        assert!(
            lint.contains(&format!("candle_core::Tensor::{way}\"")),
            "{way}"
        );
    }
}
