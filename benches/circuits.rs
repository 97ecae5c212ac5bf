//! Edge attribution patching and ACDC on a model of GPT-2 small's shape, timed beside `benches/torch_circuits.py`; `benches/compare.sh circuits`
//! makes the model, runs both sides in turn and prints the ratios.
//!
//! Invariant: both sides score the same edges of the same pairs, and what the script has found is what is found here. To time
//! something else, add a line to the script and a turn to [`main`].
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // a benchmark that cannot start should stop

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use lmscope::instruments::circuit::discover;
use lmscope::instruments::circuit::scores::{EdgeScores, edge_scores};
use lmscope::instruments::circuit::select::EdgeSelection;
use lmscope::instruments::circuit::task::CircuitTask;
use lmscope::lab::Lab;
use lmscope::lab::circuit::edges::EdgeSet;
use lmscope::lab::circuit::graph::{CircuitGraph, Receiver};
use lmscope::lab::pairs::{MeasuredPair, Metric, PairedRuns, align};
use lmscope::lab::run::Run;
use lmscope::lab::target::LogitTarget;
use lmscope::model::load::Options;
use serde::Deserialize;

/// Turns of the scores, after one that is not counted.
const TURNS: usize = 3;

/// Most that a number may differ from the script's, as a share of the largest.
const TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Pairs {
    clean: Vec<Vec<u32>>,
    corrupt: Vec<Vec<u32>>,
    answers: (u32, u32),
}

/// What the script has found: scores by `LAYER KIND`, `[senders][receivers]`, and the metric under the strongest edges.
#[derive(Deserialize)]
struct Found {
    eap: BTreeMap<String, Vec<Vec<f64>>>,
    under: f64,
    kept: usize,
}

fn main() {
    let Some(folder) = std::env::args().skip(1).find(|a| !a.starts_with("--")) else {
        eprintln!("circuits: nothing to compare with. Run benches/compare.sh circuits.");
        return;
    };
    let folder = PathBuf::from(folder);
    let options = Options {
        dtype: Some("f32".into()),
        device: Some("cpu".into()),
        ..Options::default()
    };
    let mut lab = Lab::open(&folder.to_string_lossy(), &options).unwrap();
    let pairs: Pairs = read(&folder, "pairs.json");
    let found: Found = read(&folder, "found.json");
    let texts = pairs.clean.into_iter().zip(pairs.corrupt);
    let measured = texts.map(|(clean, corrupt)| pair(&mut lab, clean, corrupt, pairs.answers));
    let measured: Vec<MeasuredPair> = measured.collect();

    let mut seconds = Vec::new();
    let mut scored = None;
    for turn in 0..=TURNS {
        let measured = measured.clone();
        let start = Instant::now();
        let task = CircuitTask::new(&mut lab, measured).unwrap();
        let scores = edge_scores(&mut lab, &task, None).unwrap();
        if turn > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
        scored = Some((task, scores));
    }
    let (task, scores) = scored.unwrap();
    seconds.sort_by(f64::total_cmp);
    write(&folder, "eap", seconds[seconds.len() / 2], None);
    compare(&task.graph, &scores, &found);

    let strongest = EdgeSelection::Top.order(&task.graph, &scores.scores);
    let strongest = EdgeSet::of(&task.graph, strongest.into_iter().take(found.kept));
    let (under, _) = task
        .under(&mut lab, &Arc::new(strongest.clone()), None, false)
        .unwrap();
    let apart = (under - found.under).abs() / (task.clean - task.corrupt).abs();
    assert!(
        apart < 1e-2,
        "{under} under the circuit, the script has {}",
        found.under
    );

    // A threshold that leaves some and removes some: a thousandth of what the pairs differ by.
    let threshold = 0.001 * (task.clean - task.corrupt).abs();
    let start = Instant::now();
    let left = discover(
        &mut lab,
        &task,
        &strongest,
        threshold,
        &mut vec![None; task.graph.edges()],
    )
    .unwrap();
    let took = start.elapsed().as_secs_f64();
    println!(
        "acdc: {} of {} candidates left, {} tried",
        left.edges.len(),
        left.candidates,
        left.trials
    );
    write(&folder, "acdc", took, Some(left.trials));
}

fn read<T: serde::de::DeserializeOwned>(folder: &Path, file: &str) -> T {
    let text = std::fs::read(folder.join(file)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn write(folder: &Path, what: &str, seconds: f64, trials: Option<usize>) {
    let mut line = serde_json::json!({"side": "lmscope", "what": what, "median": seconds});
    if let Some(trials) = trials {
        line["trials"] = trials.into();
    }
    println!("{line}");
    let times = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(folder.join("times.jsonl"));
    writeln!(times.unwrap(), "{line}").unwrap();
}

fn pair(lab: &mut Lab, clean: Vec<u32>, corrupt: Vec<u32>, answers: (u32, u32)) -> MeasuredPair {
    let (clean, corrupt) = (Run::plain(clean), Run::plain(corrupt));
    let target = LogitTarget {
        token: answers.0,
        minus: Some(answers.1),
    };
    let mut of = |run: &Run| target.of(&lab.last_logits(run).unwrap());
    MeasuredPair {
        clean: of(&clean),
        corrupt: of(&corrupt),
        runs: PairedRuns {
            alignment: align(lab, &clean.tokens, &corrupt.tokens, false).unwrap(),
            clean,
            corrupt,
            answer: None,
            other: None,
        },
        metric: Metric::Difference(target),
    }
}

/// Every score against the script's, as a share of the largest.
fn compare(graph: &CircuitGraph, scores: &EdgeScores, found: &Found) {
    let largest = scores.scores.iter().fold(0f64, |a, b| a.max(b.abs()));
    for receiver in (0..graph.receivers()).map(|number| graph.receiver(number)) {
        let (key, column) = match receiver {
            Receiver::Query { layer, head } => (format!("{layer} heads"), head),
            Receiver::Key { layer, head } => (format!("{layer} heads"), graph.heads + head),
            Receiver::Value { layer, head } => (format!("{layer} heads"), 2 * graph.heads + head),
            Receiver::Mlp { layer } => (format!("{layer} mlp"), 0),
            Receiver::Logits => (format!("{} logits", graph.layers), 0),
        };
        for (sender, edge) in graph.into_receiver(receiver).enumerate() {
            let apart = (scores.scores[edge] - found.eap[&key][sender][column]).abs() / largest;
            assert!(apart < TOLERANCE, "{}: {apart}", graph.edge_name(edge));
        }
    }
}
