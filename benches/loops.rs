//! The lens grid and back-patching on a model of GPT-2 small's shape, timed beside the PyTorch loops of
//! `benches/torch_loops.py`; `benches/compare.sh` makes the model, runs both sides in turn and prints the ratios.
//!
//! Invariant: every turn reads another prompt, so that nothing of one turn serves the next, and what is found is what
//! the loops have found. To time something else, add a loop to the script and a function to [`main`].
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // a benchmark that cannot start should stop

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lmscope::figure::{Body, Figure};
use lmscope::instruments::backpatch::Backpatch;
use lmscope::instruments::backpatch::layer_pairs::{
    AnswerForms, SourceAndTarget, Vector, WantedAnswer, block_outputs_from, is_backward, pairs,
    trials,
};
use lmscope::instruments::logit_lens::lens::Lens;
use lmscope::instruments::{Arguments, Instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::load::Options;

/// Most that a probability may differ from the loops', as a share of it.
const TOLERANCE: f32 = 1e-3;

/// Answers: the strongest token and its probability.
type Answer = (u32, f32);

/// What the loops have found, by the name of the measurement: a value a turn.
type Found = BTreeMap<String, Vec<serde_json::Value>>;

fn main() {
    let Some(folder) = std::env::args().skip(1).find(|a| !a.starts_with("--")) else {
        eprintln!("loops: nothing to compare with. Run benches/compare.sh.");
        return;
    };
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
    measure.time("lens", lens, |turn, figure, lab| {
        let expected: Vec<Vec<Answer>> =
            serde_json::from_value(found["lens"][turn].clone()).unwrap();
        compare_lens(&expected, figure, lab);
    });
    measure.time("back-patching", back_patch, |turn, became, _| {
        let expected: Vec<(SourceAndTarget, Answer)> =
            serde_json::from_value(found["back-patching"][turn].clone()).unwrap();
        compare_pairs(&expected, became);
    });
    measure.time("back-patching, the whole figure", figure, |_, _, _| {});
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

/// The figure as a pane shows it: all pairs of layers, each with two nulls.
fn figure(run: &Run, lab: &mut Lab) -> Figure {
    Backpatch.observe(run, &Arguments::default(), lab).unwrap()
}
