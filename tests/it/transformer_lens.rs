//! Agreement with TransformerLens: the same checkpoints, the same tokens, the same questions.
//!
//! Invariant: what is compared was computed elsewhere, by `tests/references/against_transformer_lens.py`, whose header says
//! with which settings and what every tensor is. To compare something else, add it there and a test here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::bench::Bench;
use lmscope::lab::figure::{Body, Cell, Figure};
use lmscope::lab::run::Run;
use lmscope::lab::sample::log_softmax;
use lmscope::model::load::Options;
use lmscope::model::site::Site;

use super::tools::gap;

/// A family with learned positions and biases, one with grouped heads and RMSNorm, one whose attention and MLP read the same
/// stream, and one with soft-caps, a window and norms behind its writes.
const CASES: [&str; 4] = ["gpt2", "llama", "gpt_neox", "gemma2"];

/// Most that a number may differ.
const TOLERANCE: f32 = 1e-4;

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/references/transformer_lens")
        .join(case)
}

/// A checkpoint on the bench, and what TransformerLens says of it.
struct Case {
    name: &'static str,
    bench: Bench,
    /// By the name that the script gives it.
    expected: HashMap<String, Tensor>,
}

impl Case {
    fn open(name: &'static str) -> Self {
        let options = Options {
            dtype: Some("f32".into()),
            device: Some("cpu".into()),
            ..Options::default()
        };
        let results = folder(name).join("results.safetensors");
        Self {
            name,
            bench: Bench::open(&folder(name).to_string_lossy(), &options).unwrap(),
            expected: candle_core::safetensors::load(results, &Device::Cpu).unwrap(),
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        CASES.into_iter().map(Self::open)
    }

    fn get(&self, name: &str) -> &Tensor {
        let found = self.expected.get(name);
        found.unwrap_or_else(|| panic!("{} has no {name}", self.name))
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.get(name).to_dtype(DType::U32).unwrap();
        ids.to_vec1().unwrap()
    }

    fn run(&self) -> Run {
        Run::plain(self.ids("tokens"))
    }

    /// Asserts that a tensor is the expected one.
    fn agrees(&self, name: &str, found: &Tensor) {
        let expected = self.get(name);
        assert_eq!(expected.dims(), found.dims(), "{name} of {}", self.name);
        let apart = gap(expected, found);
        println!("{} {name}: {apart:.1e}", self.name);
        assert!(
            apart <= TOLERANCE,
            "{name} of {}: {apart:.2e} apart",
            self.name
        );
    }

    /// The figure of an instrument, by the names and values of its parameters.
    fn observe(&mut self, run: &Run, name: &str, parameters: &[(&str, &str)]) -> Figure {
        let of = instrument(name).unwrap();
        let arguments = parameters
            .iter()
            .fold(Arguments::default(), |all, (name, value)| {
                all.with(name, value)
            });
        of.observe(run, &arguments, &mut self.bench).unwrap()
    }

    /// Natural log-probabilities of expected logits, as flat rows of the vocabulary.
    fn log_probabilities(&self, logits: &Tensor) -> Vec<Vec<f32>> {
        let vocab = self.bench.model.card.vocab;
        let mut rows = logits
            .reshape(((), vocab))
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        rows.iter_mut().for_each(|row| log_softmax(row));
        rows
    }
}

/// The probability of a token in a cell that keeps the whole vocabulary.
fn probability(bench: &Bench, cell: &Cell, id: u32) -> f32 {
    let label = bench.visible(id);
    let mut found = cell.more.iter().filter(|(l, _)| *l == label);
    let (_, p) = found.next().expect("the cell keeps every token");
    assert!(found.next().is_none(), "two tokens are called {label}");
    *p
}

#[test]
fn logits_and_attention_are_those_of_transformer_lens() {
    for mut case in Case::all() {
        let layers = case.bench.model.card.layers;
        let probs: Vec<_> = (0..layers).map(|l| Site::AttnProbs.at(l)).collect();
        let logits = Site::Logits.at(0);
        let wanted = [&probs[..], &[logits]].concat();
        let recording = case.bench.record(&case.run(), &wanted).unwrap();
        case.agrees("logits", recording.get(logits).unwrap());
        let patterns: Vec<_> = probs.iter().map(|a| recording.get(*a).unwrap()).collect();
        case.agrees("pattern", &Tensor::stack(&patterns, 0).unwrap());
    }
}

/// Log-probabilities of every token of the vocabulary in every cell; row L of the instrument is what leaves block L.
#[test]
fn the_lens_is_that_of_transformer_lens() {
    for mut case in Case::all() {
        let run = case.run();
        let vocab = case.bench.model.card.vocab;
        let figure = case.observe(&run, "lens", &[("top", &vocab.to_string())]);
        let Body::Grid(grid) = &figure.body else {
            panic!("the lens is a grid")
        };
        let layers = case.bench.model.card.layers;
        let expected = case.log_probabilities(case.get("lens"));
        assert_eq!(
            (grid.rows.len(), grid.cells.len()),
            (layers, run.tokens.len())
        );
        let mut apart = 0f32;
        for (position, column) in grid.cells.iter().enumerate() {
            for (layer, cell) in column.iter().enumerate() {
                let row = &expected[(layer + 1) * run.tokens.len() + position];
                for (id, log) in row.iter().enumerate() {
                    let p = probability(&case.bench, cell, id as u32);
                    apart = apart.max((p.ln() - log).abs());
                }
            }
        }
        println!("{} lens: {apart:.1e}", case.name);
        assert!(apart <= TOLERANCE, "{}: {apart:.2e} apart", case.name);
    }
}
