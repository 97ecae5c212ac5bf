//! Agreement with TransformerLens: the same checkpoints, the same tokens, the same questions.
//!
//! Invariant: what is compared was computed elsewhere, by `tests/references/against_transformer_lens.py`, whose header says
//! with which settings and what every tensor is. To compare something else, add it there and a test here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::bench::Bench;
use lmscope::lab::figure::{Body, Cell, Entry, Figure, Grid, Unit};
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

    /// The questions of the attributions: their name in the file, and as a parameter.
    fn questions(&self) -> [(&'static str, String); 2] {
        let answers = self.ids("answers");
        let (right, wrong) = (answers[0], answers[1]);
        [
            ("token", format!("#{right}")),
            ("difference", format!("#{right} - #{wrong}")),
        ]
    }

    /// Whether the heads and neurons of this model are in the file: not where a norm stands behind them.
    fn opens(&self) -> bool {
        self.expected.contains_key("direct.head.token")
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

/// The grid of a figure.
fn grid(figure: &Figure) -> &Grid {
    let Body::Grid(grid) = &figure.body else {
        panic!("{} is a grid", figure.title)
    };
    grid
}

/// The values of a grid's row, by its label.
fn row(grid: &Grid, label: &str) -> Option<Vec<f32>> {
    let at = grid.rows.iter().position(|r| r.label == label)?;
    Some(grid.cells.iter().map(|column| column[at].value).collect())
}

/// Rows one behind the other.
fn stack(rows: impl IntoIterator<Item = Vec<f32>>, shape: &[usize]) -> Tensor {
    let all: Vec<f32> = rows.into_iter().flatten().collect();
    Tensor::from_vec(all, shape, &Device::Cpu).unwrap()
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
        let grid = grid(&figure);
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

/// Every write at every position, on a token and on a difference.
#[test]
fn attributions_by_layer_are_those_of_transformer_lens() {
    for mut case in Case::all() {
        let run = case.run();
        let (layers, window) = (case.bench.model.card.layers, run.tokens.len());
        for (kind, token) in case.questions() {
            let parameters = [("token", token.as_str()), ("window", &window.to_string())];
            let figure = case.observe(&run, "residual", &parameters);
            let grid = grid(&figure);
            let mut rows = grid.rows.len();
            for (name, label) in [("attn", "attn"), ("mlp", "mlp")] {
                let found = (0..layers).map(|l| row(grid, &format!("{label} {l}")).unwrap());
                case.agrees(
                    &format!("direct.{name}.{kind}"),
                    &stack(found, &[layers, window]),
                );
                rows -= layers;
            }
            let learned = case
                .expected
                .contains_key(&format!("direct.pos_embed.{kind}"));
            let names: &[(&str, &str)] = if learned {
                &[("embed", "token"), ("pos_embed", "position")]
            } else {
                &[("embed", "embed")]
            };
            for (name, label) in names {
                let found = row(grid, label).unwrap();
                case.agrees(&format!("direct.{name}.{kind}"), &stack([found], &[window]));
                rows -= 1;
            }
            // TransformerLens folds the norm's bias into that of the unembedding.
            let biases: Vec<_> = ["norm bias", "token bias"]
                .iter()
                .filter_map(|label| row(grid, label))
                .collect();
            rows -= biases.len();
            for position in 0..window {
                let sum = biases.iter().map(|bias| bias[position]).sum();
                case.agrees(&format!("direct.bias.{kind}"), &stack([vec![sum]], &[1]));
            }
            assert_eq!(
                rows, 0,
                "the figure of {} has other rows as well",
                case.name
            );
        }
    }
}

#[test]
fn attributions_by_head_are_those_of_transformer_lens() {
    for mut case in Case::all().filter(Case::opens) {
        let run = case.run();
        let window = run.tokens.len();
        let (layers, heads) = (case.bench.model.card.layers, case.bench.model.card.heads);
        for (kind, token) in case.questions() {
            let parameters = [
                ("token", token.as_str()),
                ("by", "head"),
                ("window", &window.to_string()),
            ];
            let figure = case.observe(&run, "residual", &parameters);
            let all = (0..layers).flat_map(|l| (0..heads).map(move |h| format!("{l}.{h}")));
            let found = all.map(|label| row(grid(&figure), &label).unwrap());
            let found = stack(found, &[layers, heads, window]);
            case.agrees(&format!("direct.head.{kind}"), &found);
        }
    }
}

/// At the last position, every neuron of every layer.
#[test]
fn attributions_by_neuron_are_those_of_transformer_lens() {
    for mut case in Case::all().filter(Case::opens) {
        let run = case.run();
        let (layers, width) = (case.bench.model.card.layers, case.bench.model.card.d_mlp);
        for (kind, token) in case.questions() {
            let count = (layers * width).to_string();
            let parameters = [
                ("token", token.as_str()),
                ("by", "neuron"),
                ("count", &count),
            ];
            let figure = case.observe(&run, "residual", &parameters);
            let Body::Table(table) = &figure.body else {
                panic!("neurons are a table")
            };
            let mut found = vec![f32::NAN; layers * width];
            for row in &table.pages[0].rows {
                let (Some(layer), Some(Unit::Neuron(neuron))) = (row.anchor.layer, row.anchor.unit)
                else {
                    continue;
                };
                let Entry::Number(effect) = row.entries[1] else {
                    panic!("an effect is a number")
                };
                found[usize::from(layer) * width + neuron as usize] = effect;
            }
            case.agrees(
                &format!("direct.neuron.{kind}"),
                &stack([found], &[layers, width]),
            );
        }
    }
}

/// At the last position, what every head adds by reading each token.
#[test]
fn attributions_by_source_are_those_of_transformer_lens() {
    for mut case in Case::all().filter(Case::opens) {
        let run = case.run();
        let (layers, heads) = (case.bench.model.card.layers, case.bench.model.card.heads);
        for (kind, token) in case.questions() {
            let mut found = Vec::new();
            for layer in 0..layers {
                let parameters = [
                    ("token", token.as_str()),
                    ("by", "source"),
                    ("layer", &layer.to_string()),
                ];
                let figure = case.observe(&run, "residual", &parameters);
                let of = |h| row(grid(&figure), &format!("{layer}.{h}")).unwrap();
                found.extend((0..heads).flat_map(of));
            }
            let found = stack([found], &[layers, heads, run.tokens.len()]);
            case.agrees(&format!("direct.source.{kind}"), &found);
        }
    }
}
