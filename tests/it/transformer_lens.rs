//! Agreement with TransformerLens: the same checkpoints, the same tokens, the same questions.
//!
//! Invariant: what is compared was computed elsewhere, by `tests/references/against_transformer_lens.py`, whose header says
//! with which settings and what every tensor is. To compare something else, add it there and a test here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmscope::figure::{AxisLabel, Body, Cell, Entry, Figure, Grid, Unit};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::sample::{entropy, kl, log_softmax};
use lmscope::model::load::Options;
use lmscope::model::network::site::Site;

use super::tools::{edited, gap};

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

/// A checkpoint on the lab, and what TransformerLens says of it.
struct Case {
    name: &'static str,
    lab: Lab,
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
            lab: Lab::open(&folder(name).to_string_lossy(), &options).unwrap(),
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
        of.observe(run, &arguments, &mut self.lab).unwrap()
    }

    /// The metric of every patched run of a patching map `[layers, columns]`. Positions at which the prompts are still
    /// the same are left out of a map: nothing can change there.
    fn patched(&mut self, run: &Run, parameters: &[(&str, String)], columns: usize) -> Tensor {
        let parameters: Vec<(&str, &str)> =
            parameters.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let figure = self.observe(run, "patching", &parameters);
        let grid = grid(&figure);
        let before = metric(&grid.cells[0][0], "before");
        let mut found = vec![before; grid.rows.len() * columns];
        for (header, cells) in grid.columns.iter().zip(&grid.cells) {
            let column = match (header.anchor.unit, header.anchor.position) {
                (Some(Unit::Head(head)), _) => head as usize,
                (_, Some(position)) => position as usize,
                _ => panic!("a column is a head or a position"),
            };
            for (layer, cell) in cells.iter().enumerate() {
                found[layer * columns + column] = metric(cell, "patched");
            }
        }
        stack([found], &[grid.rows.len(), columns])
    }

    /// Asserts that a grid that keeps the whole vocabulary is that of expected logits `[layers, .., vocab]`.
    fn lens_agrees(&self, name: &str, expected: &Tensor, grid: &Grid) {
        let rows = self.log_probabilities(expected);
        assert_eq!(grid.cells.len() * grid.rows.len(), rows.len(), "{name}");
        let mut apart = 0f32;
        for (position, column) in grid.cells.iter().enumerate() {
            for (layer, cell) in column.iter().enumerate() {
                let row = &rows[layer * grid.cells.len() + position];
                for (id, log) in row.iter().enumerate() {
                    let p = probability(&self.lab, cell, id as u32);
                    apart = apart.max((p.ln() - log).abs());
                }
            }
        }
        println!("{} lens of {name}: {apart:.1e}", self.name);
        assert!(apart <= TOLERANCE, "{name} of {}: {apart:.2e}", self.name);
    }

    /// Natural log-probabilities of expected logits, as flat rows of the vocabulary.
    fn log_probabilities(&self, logits: &Tensor) -> Vec<Vec<f32>> {
        let vocab = self.lab.model.card.vocab;
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
fn probability(lab: &Lab, cell: &Cell, id: u32) -> f32 {
    let label = lab.visible(id);
    let mut found = cell.more.iter().filter(|(l, _)| *l == label);
    let (_, p) = found.next().expect("the cell keeps every token");
    assert!(found.next().is_none(), "two tokens are called {label}");
    *p
}

#[test]
fn logits_and_attention_are_those_of_transformer_lens() {
    for mut case in Case::all() {
        let layers = case.lab.model.card.layers;
        let probs: Vec<_> = (0..layers).map(|l| Site::AttnProbs.at(l)).collect();
        let logits = Site::Logits.at(0);
        let wanted = [&probs[..], &[logits]].concat();
        let recording = case.lab.record(&case.run(), &wanted).unwrap();
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
        let vocab = case.lab.model.card.vocab;
        let figure = case.observe(&run, "lens", &[("top", &vocab.to_string())]);
        let layers = case.lab.model.card.layers;
        let expected = case.get("lens").narrow(0, 1, layers).unwrap();
        case.lens_agrees("resid_post", &expected, grid(&figure));
    }
}

/// The stream between attention and MLP, and what enters a block.
#[test]
fn the_lens_reads_other_sites_as_transformer_lens_does() {
    for mut case in Case::all() {
        let run = case.run();
        let (layers, window) = (case.lab.model.card.layers, run.tokens.len());
        let all = case.get("lens").clone();
        let mut sites = vec![("resid_pre", all.narrow(0, 0, layers).unwrap(), window)];
        if let Some(mid) = case.expected.get("lens.mid") {
            sites.push(("resid_mid", mid.clone(), window));
        }
        for (site, name) in [("attn_add", "lens.attn"), ("mlp_add", "lens.mlp")] {
            sites.push((site, case.get(name).clone(), 1));
        }
        for (site, expected, window) in sites {
            let parameters = [
                ("site", site),
                ("top", &case.lab.model.card.vocab.to_string()),
                ("window", &window.to_string()),
            ];
            let figure = case.observe(&run, "lens", &parameters);
            case.lens_agrees(site, &expected, grid(&figure));
        }
    }
}

/// Entropy and KL of every cell, from TransformerLens' logits.
#[test]
fn entropy_and_kl_are_those_of_the_logits_of_transformer_lens() {
    for mut case in Case::all() {
        let run = case.run();
        let (layers, window) = (case.lab.model.card.layers, run.tokens.len());
        let expected = case.log_probabilities(case.get("lens"));
        let last = &expected[layers * window..];
        for show in ["entropy", "kl"] {
            let figure = case.observe(&run, "lens", &[("show", show)]);
            let grid = grid(&figure);
            let of = |layer: usize, position: usize| {
                let row = &expected[(layer + 1) * window + position];
                if show == "kl" {
                    kl(&last[position], row)
                } else {
                    entropy(row)
                }
            };
            let mut apart = 0f32;
            for (position, column) in grid.cells.iter().enumerate() {
                for (layer, cell) in column.iter().enumerate() {
                    apart = apart.max((cell.value - of(layer, position)).abs());
                }
            }
            println!("{} {show}: {apart:.1e}", case.name);
            assert!(apart <= TOLERANCE, "{show} of {}: {apart:.2e}", case.name);
        }
    }
}

/// Every write at every position, on a token and on a difference.
#[test]
fn attributions_by_layer_are_those_of_transformer_lens() {
    for mut case in Case::all() {
        let run = case.run();
        let (layers, window) = (case.lab.model.card.layers, run.tokens.len());
        for (kind, token) in case.questions() {
            let parameters = [
                ("on", "logit"),
                ("token", token.as_str()),
                ("window", &window.to_string()),
            ];
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
        let (layers, heads) = (case.lab.model.card.layers, case.lab.model.card.heads);
        for (kind, token) in case.questions() {
            let parameters = [
                ("on", "logit"),
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
        let (layers, width) = (case.lab.model.card.layers, case.lab.model.card.d_mlp);
        for (kind, token) in case.questions() {
            let count = (layers * width).to_string();
            let parameters = [
                ("on", "logit"),
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
        let (layers, heads) = (case.lab.model.card.layers, case.lab.model.card.heads);
        for (kind, token) in case.questions() {
            let mut found = Vec::new();
            for layer in 0..layers {
                let parameters = [
                    ("on", "logit"),
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

/// The detector gives the share of all attention, one unit a query; ours is the mean over the queries that have such tokens to
/// read.
#[test]
fn head_scores_are_those_of_transformer_lens() {
    for mut case in Case::all() {
        let (layers, heads) = (case.lab.model.card.layers, case.lab.model.card.heads);
        for text in ["repeated", "text"] {
            let tokens = case.ids(text);
            let run = Run::plain(tokens.clone());
            for name in ["induction", "duplicate", "previous"] {
                let reads = |i: &usize| match name {
                    "induction" => (1..*i).any(|j| tokens[j - 1] == tokens[*i]),
                    "duplicate" => tokens[..*i].contains(&tokens[*i]),
                    _ => *i > 0,
                };
                let queries = (0..tokens.len()).filter(reads).count();
                let parameters = [("show", "scores"), ("on", "prompt"), ("score", name)];
                let figure = case.observe(&run, "attention", &parameters);
                let all = (0..layers).map(|l| row(grid(&figure), &l.to_string()).unwrap());
                let found = stack(all, &[layers, heads]);
                let share = queries as f64 / tokens.len() as f64;
                case.agrees(&format!("scores.{name}.{text}"), &(found * share).unwrap());
            }
        }
    }
}

#[test]
fn patterns_are_those_of_transformer_lens() {
    for mut case in Case::all() {
        let run = case.run();
        let (layers, heads) = (case.lab.model.card.layers, case.lab.model.card.heads);
        let length = run.tokens.len();
        let mut found = Vec::new();
        for (layer, head) in (0..layers).flat_map(|l| (0..heads).map(move |h| (l, h))) {
            let (layer, head) = (layer.to_string(), head.to_string());
            let parameters = [("show", "pattern"), ("layer", &*layer), ("head", &*head)];
            let figure = case.observe(&run, "attention", &parameters);
            let grid = grid(&figure);
            for query in 0..length {
                // Rows say which position they are.
                let at = |h: &AxisLabel| h.anchor.position.map(|p| p as usize) == Some(query);
                let at = grid.rows.iter().position(at).unwrap();
                found.extend(grid.cells.iter().map(|source| source[at].value));
            }
        }
        let found = stack([found], &[layers, heads, length, length]);
        case.agrees("pattern", &found);
    }
}

/// The tokens that the write of each head promotes most at the last position. Two that are equal to rounding may change places.
#[test]
fn heads_promote_what_they_promote_in_transformer_lens() {
    for mut case in Case::all().filter(Case::opens) {
        let run = case.run();
        let expected = case.get("direct.head.all").clone();
        let (layers, heads, _) = expected.dims3().unwrap();
        let count = (layers * heads).to_string();
        let parameters = [("show", "outputs"), ("count", count.as_str())];
        let figure = case.observe(&run, "attention", &parameters);
        let Body::Table(table) = &figure.body else {
            panic!("writes are a table")
        };
        let rows = &table.pages[0].rows;
        assert_eq!(rows.len(), layers * heads);
        let column = |name: &str| table.columns.iter().position(|c| c == name).unwrap();
        for row in rows {
            let (Some(layer), Some(Unit::Head(head))) = (row.anchor.layer, row.anchor.unit) else {
                panic!("a row is of a head")
            };
            let values = expected.get(usize::from(layer)).unwrap();
            let values: Vec<f32> = values.get(head as usize).unwrap().to_vec1().unwrap();
            for (name, sign) in [("promotes", 1.0), ("suppresses", -1.0)] {
                let Entry::Text(words) = &row.entries[column(name)] else {
                    panic!("tokens are text")
                };
                let mut sorted: Vec<f32> = values.iter().map(|v| sign * v).collect();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let words: Vec<&str> = words.split(' ').collect();
                assert_eq!(words.len(), 5);
                for (word, best) in words.iter().zip(&sorted) {
                    let id: usize = word.trim_start_matches('w').parse().unwrap();
                    let apart = (sign * values[id] - best).abs();
                    assert!(
                        apart < TOLERANCE,
                        "{} {layer}.{head} {name} {word}",
                        case.name
                    );
                }
            }
        }
    }
}

#[test]
fn a_cut_is_that_of_transformer_lens() {
    for mut case in Case::all() {
        let sources = case.ids("knockout.sources");
        let layers = case.lab.model.card.layers;
        let edits: Vec<String> = sources
            .iter()
            .map(|source| format!("cut:={source}@attn_scores.1-{}:last", layers - 1))
            .collect();
        let edits: Vec<&str> = edits.iter().map(String::as_str).collect();
        let run = edited(case.ids("tokens"), &edits);
        let found = case.lab.last_logits(&run).unwrap();
        case.agrees("knockout.logits", &stack([found.clone()], &[found.len()]));
    }
}

/// Clean values in the corrupted run and the other way round, by layer and position or head: the metric of every patched run.
/// A tensor's name, the parameters that ask for it, and its columns.
type Plan<'a> = (String, Vec<(&'a str, String)>, usize);

/// A number that a cell of a patching map carries beside its share.
fn metric(cell: &Cell, which: &str) -> f32 {
    let found = cell.more.iter().find(|(name, _)| name == which);
    found.expect("a cell says the metric itself").1
}

#[test]
fn patching_maps_are_those_of_transformer_lens() {
    for mut case in Case::all() {
        let run = case.run();
        let heads = case.lab.model.card.heads;
        let length = run.tokens.len();
        let words = |ids: &[u32]| -> String {
            let words: Vec<String> = ids.iter().map(|id| format!("w{id} ")).collect();
            words.concat()
        };
        let corrupt = words(&case.ids("corrupted"));
        let [_, (_, answer)] = case.questions();
        let mut plans: Vec<Plan> = Vec::new();
        for (site, name) in [
            ("resid", "resid_pre"),
            ("attn", "attn_out"),
            ("mlp", "mlp_out"),
            ("heads", "z"),
        ] {
            let columns = if site == "heads" { heads } else { length };
            for (way, metric) in [
                ("denoise", "difference"),
                ("noise", "difference"),
                ("denoise", "probability"),
                ("denoise", "kl"),
            ] {
                let tensor = format!("{way}.{name}.{metric}");
                if case.expected.contains_key(&tensor) {
                    let parameters = [("site", site), ("way", way), ("metric", metric)];
                    let parameters = parameters.map(|(k, v)| (k, v.to_string())).to_vec();
                    plans.push((tensor, parameters, columns));
                }
            }
        }
        assert_eq!(plans.len(), 10, "every map of the file");
        for (tensor, mut parameters, columns) in plans {
            parameters.push(("corrupt", corrupt.clone()));
            parameters.push(("answer", answer.clone()));
            let found = case.patched(&run, &parameters, columns);
            case.agrees(&tensor, &found);
        }
        // Heads at one position; where the prompts are still the same there is nothing to patch, and no number moves.
        let (clean, other) = (case.ids("tokens"), case.ids("corrupted"));
        let same = clean.iter().zip(&other).take_while(|(a, b)| a == b).count();
        assert!((1..length).contains(&same));
        for way in ["denoise", "noise"] {
            let whole = case.get(&format!("{way}.z_by_pos.difference")).clone();
            let asked = |position: usize| {
                [
                    ("site", "heads".to_string()),
                    ("way", way.into()),
                    ("positions", position.to_string()),
                    ("corrupt", corrupt.clone()),
                    ("answer", answer.clone()),
                ]
            };
            for position in 0..length {
                let found = if position < same {
                    let parameters = asked(same);
                    let parameters = parameters.each_ref().map(|(k, v)| (*k, v.as_str()));
                    let figure = case.observe(&run, "patching", &parameters);
                    let grid = grid(&figure);
                    let before = metric(&grid.cells[0][0], "before");
                    let layers = grid.rows.len();
                    stack([vec![before; layers * heads]], &[layers, heads])
                } else {
                    case.patched(&run, &asked(position), heads)
                };
                let expected = whole.narrow(1, position, 1).unwrap().squeeze(1).unwrap();
                let apart = gap(&expected, &found);
                assert!(
                    apart <= TOLERANCE,
                    "{way} at {position} of {}: {apart:.2e}",
                    case.name
                );
            }
        }
    }
}
