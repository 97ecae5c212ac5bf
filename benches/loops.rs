//! The lens grid and back-patching on a model of GPT-2 small's shape, and a Jacobian on one of SmolLM2's, timed beside the PyTorch loops of
//! `benches/torch_loops.py`; `benches/compare.sh` makes the model, runs both sides in turn and prints the ratios.
//!
//! Invariant: every turn reads another prompt, so that nothing of one turn serves the next, and what is found is what
//! the loops have found. To time something else, add a loop to the script and a function to [`main`].
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods
)] // a benchmark that cannot start should stop

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use lmscope::figure::{Body, Figure};
use lmscope::instruments::backpatch::Backpatch;
use lmscope::instruments::backpatch::layer_pairs::{
    AnswerForms, SourceAndTarget, Vector, WantedAnswer, block_outputs_from, is_backward, pairs,
    trials,
};
use lmscope::instruments::logit_lens::lens::Lens;
use lmscope::instruments::{Arguments, Instrument};
use lmscope::lab::Lab;
use lmscope::lab::gradient::{GradientRequest, Scalar};
use lmscope::lab::pass::Pass;
use lmscope::lab::run::Run;
use lmscope::lab::target::LogitTarget;
use lmscope::model::load::Options;
use lmscope::model::network::site::{SITES, Site};

/// Most that a probability may differ from the loops', as a share of it.
const TOLERANCE: f32 = 1e-3;

/// How many tokens the Jacobian is taken over.
const SUFFIX: usize = 12;

/// Answers: the strongest token and its probability.
type Answer = (u32, f32);

/// What the loops have found, by the name of the measurement: a value a turn.
type Found = BTreeMap<String, Vec<serde_json::Value>>;

fn main() {
    let mut words = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let Some(folder) = words.next() else {
        eprintln!("loops: nothing to compare with. Run benches/compare.sh.");
        return;
    };
    let only = words.next();
    let wanted = |what: &str| only.as_deref().is_none_or(|only| only == what);
    let folder = PathBuf::from(folder);
    let options = Options {
        dtype: Some("f32".into()),
        device: Some("cpu".into()),
        ..Options::default()
    };
    let lab = Lab::open(&folder.to_string_lossy(), &options).unwrap();
    let found: Found = read(&folder, "found.json");
    let mut measure = Measure {
        folder: &folder,
        prompts: read(&folder, "prompts.json"),
        lab,
    };
    if wanted("lens") {
        measure.time("lens", lens, |turn, figure, lab| {
            let expected: Vec<Vec<Answer>> =
                serde_json::from_value(found["lens"][turn].clone()).unwrap();
            compare_lens(&expected, figure, lab);
        });
    }
    if wanted("back-patching") {
        measure.time("back-patching", back_patch, |turn, became, _| {
            let expected: Vec<(SourceAndTarget, Answer)> =
                serde_json::from_value(found["back-patching"][turn].clone()).unwrap();
            compare_pairs(&expected, became);
        });
        measure.time("back-patching, the whole figure", figure, |_, _, _| {});
    }
    if !wanted("jacobian") && !wanted("gradient") {
        return;
    }
    measure.lab = Lab::open(&folder.join("llama").to_string_lossy(), &options).unwrap();
    let vocab = measure.lab.model.card.vocab as u32;
    for prompt in &mut measure.prompts {
        prompt.iter_mut().for_each(|id| *id %= vocab);
    }
    measure.time("forward pass, 128 tokens", forward, |_, (), _| {});
    measure.time(
        "gradient, all sites of the first token",
        of_first,
        |_, (), _| {},
    );
    measure.time(
        "gradient, all sites of the last token",
        of_last,
        |_, (), _| {},
    );
    if !wanted("jacobian") {
        return;
    }
    for prompt in &mut measure.prompts {
        prompt.truncate(SUFFIX);
    }
    measure.time("jacobian", jacobian, |turn, rows, _| {
        let expected: Vec<Vec<f32>> =
            serde_json::from_value(found["jacobian"][turn].clone()).unwrap();
        compare_rows(&expected, rows);
    });
}

fn read<T: serde::de::DeserializeOwned>(folder: &Path, file: &str) -> T {
    let text = std::fs::read(folder.join(file)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// What is timed, and where the times go.
struct Measure<'a> {
    folder: &'a Path,
    prompts: Vec<Vec<u32>>,
    lab: Lab,
}

impl Measure<'_> {
    /// Times one unmeasured turn and one for every further prompt, and writes the line that the script reads.
    fn time<T>(
        &mut self,
        what: &str,
        work: fn(&Run, &mut Lab) -> T,
        check: impl Fn(usize, &T, &Lab),
    ) {
        let mut seconds = Vec::new();
        for (turn, prompt) in self.prompts.iter().enumerate() {
            let run = Run::plain(prompt.clone());
            let start = Instant::now();
            let answer = work(&run, &mut self.lab);
            if turn > 0 {
                seconds.push(start.elapsed().as_secs_f64());
                check(turn - 1, &answer, &self.lab);
            }
        }
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        let line = serde_json::json!({"side": "lmscope", "what": what, "median": median, "seconds": seconds});
        println!("{line}");
        let times = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.folder.join("times.jsonl"));
        writeln!(times.unwrap(), "{line}").unwrap();
    }
}

/// The whole grid, with as many tokens a cell as the loops keep.
fn lens(run: &Run, lab: &mut Lab) -> Figure {
    let arguments = Arguments::default()
        .with("show", "probability")
        .with("top", 5)
        .with("window", run.tokens.len());
    Lens.observe(run, &arguments, lab).unwrap()
}

/// The grid against `[layers][positions]` of the loops. Two tokens that are equally likely may change places.
fn compare_lens(expected: &[Vec<Answer>], figure: &Figure, lab: &Lab) {
    let Body::Grid(grid) = &figure.body else {
        unreachable!("the lens is a grid")
    };
    let mut others = 0;
    for (layer, row) in expected.iter().enumerate() {
        assert_eq!(row.len(), grid.cells.len());
        for (position, (id, p)) in row.iter().enumerate() {
            let cell = &grid.cells[position][layer];
            others += usize::from(cell.label != lab.visible(*id));
            let apart = (cell.value - p).abs() / p;
            assert!(
                apart < TOLERANCE,
                "layer {layer}, position {position}: {apart}"
            );
        }
    }
    let cells = grid.cells.len() * expected.len();
    assert!(
        others * 1000 < cells,
        "{others} of {cells} cells name another token"
    );
}

/// Every pair whose source lies above its target, at the last position: the run read once, the next token of each pair.
fn back_patch(run: &Run, lab: &mut Lab) -> Vec<(SourceAndTarget, AnswerForms)> {
    let last = run.tokens.len() - 1;
    let own = block_outputs_from(lab, run, last, last).unwrap();
    let best = lab.top_prediction(run).unwrap();
    let wanted = WantedAnswer::top_prediction(lab, "answer", best, None).unwrap();
    let back: Vec<SourceAndTarget> = pairs(lab.model.card.layers)
        .into_iter()
        .filter(|pair| is_backward(*pair))
        .collect();
    let rows = trials(&own, last, &back, Vector::Own, false).unwrap();
    let became = wanted.of(lab, run, last, rows).unwrap();
    back.into_iter().zip(became).collect()
}

/// The pairs against those of the loops: the same next token, but for ties.
fn compare_pairs(expected: &[(SourceAndTarget, Answer)], found: &[(SourceAndTarget, AnswerForms)]) {
    assert_eq!(expected.len(), found.len());
    let found: BTreeMap<SourceAndTarget, &AnswerForms> =
        found.iter().map(|(pair, b)| (*pair, b)).collect();
    let others = expected
        .iter()
        .filter(|(pair, (id, _))| found[pair].top != *id)
        .count();
    assert!(
        others * 20 < expected.len(),
        "{others} pairs name another token"
    );
}

fn forward(run: &Run, lab: &mut Lab) {
    lab.last_logits(run).unwrap();
}

fn of_first(run: &Run, lab: &mut Lab) {
    of_a_logit(run, lab, 0);
}

fn of_last(run: &Run, lab: &mut Lab) {
    of_a_logit(run, lab, run.tokens.len() - 1);
}

/// The gradient of one logit with respect to every value that the model has at a position.
fn of_a_logit(run: &Run, lab: &mut Lab, position: usize) {
    let layers = lab.model.card.layers;
    let all = SITES.iter().flat_map(|spec| {
        let count = if spec.layered { layers } else { 1 };
        (0..count).map(|layer| spec.site.at(layer))
    });
    let offered = all.filter(|at| lab.model.offers(*at).is_ok());
    let pass = Pass {
        gradient: Some(GradientRequest {
            of: Scalar::Logit(LogitTarget::one(7)),
            each: Vec::new(),
            after: run.tokens.len() - 1,
            from: None,
            at: offered.collect(),
            positions: vec![position],
        }),
        ..Pass::of(run.clone())
    };
    lab.run_one(&pass).unwrap();
}

/// All rows of the derivative of what leaves the last block at the last token by what enters the first at the first.
fn jacobian(run: &Run, lab: &mut Lab) -> Vec<Vec<f32>> {
    let width = lab.model.card.d_model;
    let (first, last) = (
        Site::ResidPre.at(0),
        Site::ResidPost.at(lab.model.card.layers - 1),
    );
    let vectors = Tensor::eye(width, DType::F32, &Device::Cpu).unwrap();
    let pass = Pass {
        gradient: Some(GradientRequest {
            of: Scalar::Each { at: last, vectors },
            each: Vec::new(),
            after: run.tokens.len() - 1,
            from: None,
            at: vec![first],
            positions: vec![0],
        }),
        ..Pass::of(run.clone())
    };
    let rows = lab.run_one(&pass).unwrap().gradient.unwrap();
    rows.get(first)
        .unwrap()
        .squeeze(1)
        .unwrap()
        .to_vec2()
        .unwrap()
}

/// Some rows and columns against those of PyTorch, to a share of the largest.
fn compare_rows(expected: &[Vec<f32>], found: &[Vec<f32>]) {
    let largest = expected.iter().flatten().fold(0f32, |a, b| a.max(b.abs()));
    for (row, expected) in expected.iter().enumerate() {
        for (column, expected) in expected.iter().enumerate() {
            let apart = (found[row * 191][column * 97] - expected).abs() / largest;
            assert!(apart < 1e-4, "row {row}, column {column}: {apart}");
        }
    }
}

/// The figure as a pane shows it: all pairs of layers, each with two nulls.
fn figure(run: &Run, lab: &mut Lab) -> Figure {
    Backpatch.observe(run, &Arguments::default(), lab).unwrap()
}
