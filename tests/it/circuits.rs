//! Circuits: what a model does when only some edges between its heads and MLPs are left, and scores of all edges at once.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use lmscope::edit::Edit;
use lmscope::edit::schedule::Schedule;
use lmscope::error::Error;
use lmscope::figure::graph::EdgeEnd;
use lmscope::figure::{Anchor, Body, Cell, Entry, Figure, Unit};
use lmscope::instruments::attribution::NodeKind;
use lmscope::instruments::attribution::exact::compared;
use lmscope::instruments::attribution::nodes::Nodes;
use lmscope::instruments::attribution::scores::node_scores;
use lmscope::instruments::circuit::discover;
use lmscope::instruments::circuit::scores::edge_scores;
use lmscope::instruments::circuit::task::{CircuitTask, Outside};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::capture::{After, Output};
use lmscope::lab::circuit::edges::EdgeSet;
use lmscope::lab::circuit::graph::{CircuitGraph, Receiver};
use lmscope::lab::circuit::states::{CircuitRow, NodeValues};
use lmscope::lab::gradient::GradientRequest;
use lmscope::lab::pairs::{
    MeasuredPair, Metric, MetricKind, PairSource, PairedRuns, align, measured,
};
use lmscope::lab::pass::{Pass, PassRow, Patch};
use lmscope::lab::ranks::rank_correlation;
use lmscope::lab::run::Run;
use lmscope::lab::target::LogitTarget;
use lmscope::model::load::Options;
use lmscope::model::network::blueprint::Activation;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::linear::Linear;
use lmscope::model::network::mlp::Mlp;
use lmscope::model::network::norm::Norm;
use lmscope::model::network::site::Site;
use serde_json::Value;

use super::demo::demo;
use super::head_circuits::scored;
use super::organisms::{Layout, circuit, tokens};
use super::tools::{every_family, prompt, tiny, values};

/// Two texts of one length that differ at some places.
pub fn texts(length: usize) -> (Vec<u32>, Vec<u32>) {
    let clean = prompt(length);
    let mut corrupt = clean.clone();
    for (place, token) in [(1, 44), (length / 2, 3), (length - 2, 27)] {
        corrupt[place] = token;
    }
    (clean, corrupt)
}

pub fn logits(lab: &mut Lab, tokens: &[u32]) -> Vec<f32> {
    lab.last_logits(&Run::plain(tokens.to_vec())).unwrap()
}

pub fn corrupted(lab: &mut Lab, graph: &CircuitGraph, tokens: &[u32]) -> Arc<NodeValues> {
    let run = Run::plain(tokens.to_vec());
    let capture = lab.record(&run, &NodeValues::addresses(graph)).unwrap();
    Arc::new(NodeValues::of(graph, tokens.len(), &capture.recorded).unwrap())
}

/// Logits after the last position under circuits.
pub fn under(
    lab: &mut Lab,
    clean: &[u32],
    values: &Arc<NodeValues>,
    graph: &CircuitGraph,
    circuits: &[EdgeSet],
) -> Vec<Vec<f32>> {
    let row = |edges: &EdgeSet| PassRow {
        tokens: clean.to_vec(),
        circuit: Some(CircuitRow {
            graph: *graph,
            edges: Arc::new(edges.clone()),
            corrupted: values.clone(),
            base: None,
            keep: false,
        }),
        ..PassRow::default()
    };
    let pass = Pass {
        rows: circuits.iter().map(row).collect(),
        output: Output::whole(After::Last(1)),
        ..Pass::default()
    };
    let rows = lab.run(&pass).unwrap();
    rows.iter().map(|row| row.logits().to_vec()).collect()
}

pub fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    gaps.fold(0.0, f32::max)
}

/// The labs whose graph has a node for each head.
pub fn graphs() -> Vec<(Lab, CircuitGraph)> {
    let own = every_family().filter_map(|lab| {
        let graph = CircuitGraph::of(&lab.model).ok()?;
        Some((lab, graph))
    });
    own.collect()
}

/// T29.
#[test]
fn all_edges_are_the_clean_run_and_none_the_corrupted_one() {
    let (clean, corrupt) = texts(17);
    let mut families = Vec::new();
    for (mut lab, graph) in graphs() {
        let name = lab.model.card.name.clone();
        let values = corrupted(&mut lab, &graph, &corrupt);
        let circuits = [EdgeSet::all(&graph), EdgeSet::none(&graph)];
        let found = under(&mut lab, &clean, &values, &graph, &circuits);
        let own = [logits(&mut lab, &clean), logits(&mut lab, &corrupt)];
        assert!(apart(&own[0], &own[1]) > 1e-2, "{name}");
        for (found, own) in found.iter().zip(&own) {
            assert!(apart(found, own) < 1e-5, "{name}: {}", apart(found, own));
        }
        families.push(name);
    }
    assert!(families.len() >= 15, "{families:?}");
}

/// A pair of token texts with the difference of two tokens' logits as its metric.
pub fn pair(lab: &mut Lab, clean: &[u32], corrupt: &[u32], tokens: (u32, u32)) -> MeasuredPair {
    let (clean, corrupt) = (Run::plain(clean.to_vec()), Run::plain(corrupt.to_vec()));
    let target = LogitTarget {
        token: tokens.0,
        minus: Some(tokens.1),
    };
    let metric = Metric::Difference(target);
    let of = |lab: &mut Lab, run: &Run| target.of(&lab.last_logits(run).unwrap());
    MeasuredPair {
        clean: of(lab, &clean),
        corrupt: of(lab, &corrupt),
        runs: PairedRuns {
            alignment: align(lab, &clean.tokens, &corrupt.tokens, false).unwrap(),
            clean,
            corrupt,
            answer: None,
            other: None,
        },
        metric,
    }
}

fn task(lab: &mut Lab, length: usize) -> CircuitTask {
    let (clean, corrupt) = texts(length);
    let pair = pair(lab, &clean, &corrupt, (5, 9));
    CircuitTask::new(lab, vec![pair]).unwrap()
}

/// The edges out of the embedding together are its whole change times its whole gradient, which another way of the code says as
/// well: every receiver's own gradient is right, or its share would be missing.
#[test]
fn the_gradients_of_receivers_sum_to_that_of_the_embedding_in_every_family() {
    for (mut lab, graph) in graphs() {
        let name = lab.model.card.name.clone();
        let task = task(&mut lab, 17);
        let scores = edge_scores(&mut lab, &task, None).unwrap();
        let pair = &task.pairs[0];
        let embed = Site::Embed.at(0);
        let length = pair.runs.clean.tokens.len();
        let pass = Pass {
            record: vec![embed],
            gradient: Some(GradientRequest {
                of: pair.metric.scalar(),
                each: Vec::new(),
                after: length - 1,
                from: None,
                at: vec![embed],
                positions: (0..length).collect(),
            }),
            ..Pass::of(pair.runs.clean.clone())
        };
        let clean = lab.run_one(&pass).unwrap();
        let slope = values(clean.gradient.as_ref().unwrap().get(embed).unwrap());
        let own = values(clean.get(embed).unwrap());
        let other = task.corrupted[0].at(embed).unwrap();
        let terms = own.iter().zip(other).zip(&slope);
        let whole: f64 = terms
            .map(|((a, b), g)| f64::from(b - a) * f64::from(*g))
            .sum();
        let size = scores.scores.iter().fold(0f64, |most, x| most.max(x.abs()));
        assert!(
            (scores.out_of_embedding - whole).abs() < 1e-4 * (size + whole.abs()),
            "{name}: {} {whole}",
            scores.out_of_embedding
        );
        assert_eq!(scores.scores.len(), graph.edges());
    }
}

/// A GPT-2 in which everything is linear: no norms, neurons that are never off, and heads that attend evenly, if they do not attend
/// as they would.
pub fn linear(attends: bool) -> Lab {
    let family = FAMILIES
        .iter()
        .find(|family| family.name == "gpt2")
        .unwrap();
    let mut lab = tiny(family);
    let transformer = &mut lab.model.transformer;
    let device = transformer.device.clone();
    let d = transformer.blueprint.d_model;
    transformer.norm = Norm::identity(d, &device).unwrap();
    for block in &mut transformer.blocks {
        block.norms_attn.input = Some(Norm::identity(d, &device).unwrap());
        block.norms_mlp.input = Some(Norm::identity(d, &device).unwrap());
        if !attends {
            let q = &mut block.attention.q;
            let zeros = q.weight().unwrap().zeros_like().unwrap();
            let bias = q.bias.as_ref().map(|b| b.zeros_like().unwrap());
            *q = Linear::dense(zeros, bias).unwrap();
        }
        if let Mlp::Dense(mlp) = &mut block.mlp {
            mlp.activation = Activation::Relu;
            let bias = mlp.up.bias.as_ref().unwrap();
            mlp.up.bias = Some((bias.zeros_like().unwrap() + 8.0).unwrap());
            // So little that no neuron of a later block is switched off.
            let down = (mlp.down.weight().unwrap() * 0.02).unwrap();
            mlp.down = Linear::dense(down, mlp.down.bias.clone()).unwrap();
        }
    }
    lab
}

/// T30 and I18.
#[test]
fn of_a_linear_model_the_scores_are_exact() {
    let mut lab = linear(false);
    let task = task(&mut lab, 13);
    let whole = task.corrupt - task.clean;
    assert!(whole.abs() > 1e-2, "{whole}");
    // The metric itself is a difference of logits, each rounded to f32.
    let row = logits(&mut lab, &task.pairs[0].runs.clean.tokens);
    let near = 1e-5 * f64::from(row.iter().fold(1f32, |most, z| most.max(z.abs())));
    for steps in [None, Some(1), Some(5)] {
        let found = edge_scores(&mut lab, &task, steps).unwrap();
        let into = task.graph.into_receiver(Receiver::Logits);
        let sum: f64 = into.map(|edge| found.scores[edge]).sum();
        assert!((sum - whole).abs() < near, "{sum} {whole}");
        let out = found.out_of_embedding;
        assert!((out - whole).abs() < near, "{out} {whole}");
        // Every edge by itself, too: what the metric changes by without it.
        for edge in (0..task.graph.edges()).step_by(7) {
            let mut left = EdgeSet::all(&task.graph);
            left.set(edge, false);
            let (metric, _) = task.under(&mut lab, &Arc::new(left), None, false).unwrap();
            let effect = metric - task.clean;
            assert!(
                (effect - found.scores[edge]).abs() < near,
                "{}: {effect} {}",
                task.graph.edge_name(edge),
                found.scores[edge]
            );
        }
    }
}

/// The completeness error of EAP-IG goes away as gradients are added; where a router chooses experts, the metric jumps on the way, and it
/// does not.
#[test]
fn integrated_gradients_are_complete_in_the_end() {
    let smooth = graphs().into_iter();
    let smooth = smooth.filter(|(lab, _)| lab.model.transformer.blueprint.experts.is_none());
    for (mut lab, _) in smooth.take(5) {
        let task = task(&mut lab, 13);
        let mut error = |steps| {
            let found = edge_scores(&mut lab, &task, Some(steps)).unwrap();
            (found.out_of_embedding - found.whole).abs()
        };
        let (few, many) = (error(4), error(64));
        let whole = (task.corrupt - task.clean).abs();
        assert!(many < 0.02 * whole, "{few} {many} of {whole}");
        assert!(many < 0.3 * few, "{few} {many}");
    }
}

/// Scores of some edges, and what the metric changes by without each.
fn beside_patching(
    lab: &mut Lab,
    task: &CircuitTask,
    every: usize,
    steps: Option<usize>,
) -> (Vec<f64>, Vec<f64>) {
    let found = edge_scores(lab, task, steps).unwrap();
    let edges: Vec<usize> = (0..task.graph.edges()).step_by(every).collect();
    let all = Arc::new(EdgeSet::all(&task.graph));
    let (whole, states) = task.under(lab, &all, None, true).unwrap();
    let effect = |edge: &usize| {
        let mut left = (*all).clone();
        left.set(*edge, false);
        let without = task.under(lab, &Arc::new(left), Some(&states), false);
        without.unwrap().0 - whole
    };
    let effects = edges.iter().map(effect).collect();
    (
        edges.iter().map(|edge| found.scores[*edge]).collect(),
        effects,
    )
}

/// T31, over every fifth edge of the demo, most of which do next to nothing: far from the clean run a slope is not an effect.
#[test]
fn scores_order_edges_as_patching_them_does() {
    let mut lab = demo();
    let source = PairSource {
        corrupt: None,
        pairs: Some(Path::new("demo/lists/gifts.json")),
        answer: None,
        chat: false,
        ends: false,
    };
    let run = Run::plain(Vec::new());
    let pairs = source
        .runs(&run, &lab)
        .unwrap()
        .into_iter()
        .take(4)
        .collect();
    let pairs = measured(&mut lab, MetricKind::Difference, pairs).unwrap();
    let task = CircuitTask::new(&mut lab, pairs).unwrap();
    let (scores, effects) = beside_patching(&mut lab, &task, 5, Some(5));
    let rho = rank_correlation(&scores, &effects).unwrap();
    assert!(rho > 0.6, "{rho}");
}

/// T31, on the tiny model of every family with another text as the corrupted one, over every third edge: EAP's scores order edges as
/// patching them does, more in one random model than in another. Mean gradients (EAP-IG) are about many edges at once, and do so less.
#[test]
fn on_every_family_scores_order_edges_as_patching_them_does() {
    let mut all = Vec::new();
    for (mut lab, _) in graphs() {
        let task = task(&mut lab, 13);
        let (scores, effects) = beside_patching(&mut lab, &task, 3, None);
        all.push(rank_correlation(&scores, &effects).unwrap());
    }
    all.sort_by(f64::total_cmp);
    assert!(all[all.len() / 2] >= 0.8 && all[0] > 0.4, "{all:.2?}");
}

/// Of a corrupted run that is close to the clean one, scores are the effects, edge by edge, in every family.
#[test]
fn near_the_clean_run_every_score_is_the_effect() {
    for (mut lab, _) in graphs() {
        let name = lab.model.card.name.clone();
        let mut task = task(&mut lab, 9);
        // Two thousandths of the way.
        let embed = Site::Embed.at(0);
        let clean = task.pairs[0].runs.clean.clone();
        let own = lab.record(&clean, &[embed]).unwrap();
        let own = values(own.get(embed).unwrap());
        let other = task.corrupted[0].at(embed).unwrap();
        let near = own.iter().zip(other).map(|(a, b)| a + 0.002 * (b - a));
        let near: Vec<f32> = near.collect();
        let width = lab.model.card.d_model;
        let patches = near.chunks_exact(width).enumerate().map(|(position, row)| {
            Patch::new(embed, position, Tensor::new(row, &Device::Cpu).unwrap())
        });
        let pass = Pass {
            rows: vec![PassRow::patched(patches.collect())],
            record: NodeValues::addresses(&task.graph),
            from: Some(0),
            output: Output::whole(After::Last(1)),
            ..Pass::of(clean)
        };
        let row = lab.run_one(&pass).unwrap();
        let target = LogitTarget {
            token: 5,
            minus: Some(9),
        };
        task.corrupt = f64::from(target.of(row.logits()));
        task.corrupted = vec![Arc::new(
            NodeValues::of(&task.graph, row.positions.len(), &row.recorded).unwrap(),
        )];
        let (scores, effects) = beside_patching(&mut lab, &task, 3, Some(5));
        let size = effects.iter().fold(0f64, |most, x| most.max(x.abs()));
        let apart: f64 = scores
            .iter()
            .zip(&effects)
            .map(|(a, b)| (a - b).powi(2))
            .sum();
        let whole: f64 = effects.iter().map(|x| x.powi(2)).sum();
        assert!(size > 1e-5, "{name}: {size}");
        let apart = (apart / whole).sqrt();
        assert!(apart < 0.05, "{name}: {apart}");
        let rho = rank_correlation(&scores, &effects).unwrap();
        assert!(rho > 0.95, "{name}: {rho}");
    }
}

/// A trial that goes on from another circuit is the circuit read from the beginning, whatever differs.
#[test]
fn what_goes_on_from_another_circuit_is_the_circuit_itself() {
    for (mut lab, graph) in graphs() {
        let name = lab.model.card.name.clone();
        let task = task(&mut lab, 11);
        let some = EdgeSet::of(&graph, (0..graph.edges()).filter(|edge| edge % 5 != 2));
        let some = Arc::new(some);
        let (_, states) = task.under(&mut lab, &some, None, true).unwrap();
        for receiver in (0..graph.receivers()).step_by(5) {
            let range = graph.into_receiver(graph.receiver(receiver));
            let mut other = (*some).clone();
            let edge = range.start + receiver % range.len();
            other.set(edge, !some.contains(edge));
            let other = Arc::new(other);
            let (fresh, whole) = task.under(&mut lab, &other, None, true).unwrap();
            let (trial, kept) = task.under(&mut lab, &other, Some(&states), true).unwrap();
            assert!(
                (fresh - trial).abs() < 1e-5,
                "{name} {edge}: {fresh} {trial}"
            );
            for (a, b) in whole[0].by_sender.iter().zip(&kept[0].by_sender) {
                let zeros = Vec::new();
                let (a, b) = (
                    a.as_deref().unwrap_or(&zeros),
                    b.as_deref().unwrap_or(&zeros),
                );
                let size = a.len().max(b.len());
                for i in 0..size {
                    let at = |list: &[f32]| list.get(i).copied().unwrap_or(0.0);
                    assert!((at(a) - at(b)).abs() < 1e-4, "{name} {edge}");
                }
            }
        }
    }
}

/// Pairs of many lengths are what each of them is alone.
#[test]
fn pairs_are_scored_and_run_as_each_alone() {
    let mut lab = tiny(&FAMILIES[0]);
    let mut pairs = Vec::new();
    for (length, tokens) in [(9, (5, 9)), (13, (7, 2)), (9, (11, 3)), (9, (1, 4))] {
        let (mut clean, mut corrupt) = texts(length);
        clean[2] = tokens.0;
        corrupt[2] = tokens.0;
        pairs.push(pair(&mut lab, &clean, &corrupt, tokens));
    }
    let graph = CircuitGraph::of(&lab.model).unwrap();
    let some = Arc::new(EdgeSet::of(
        &graph,
        (0..graph.edges()).filter(|edge| edge % 3 != 1),
    ));
    let mut sums = vec![0.0; graph.edges()];
    let mut metric = 0.0;
    for pair in &pairs {
        let task = CircuitTask::new(&mut lab, vec![pair.clone()]).unwrap();
        let own = edge_scores(&mut lab, &task, Some(3)).unwrap();
        sums.iter_mut()
            .zip(own.scores)
            .for_each(|(sum, x)| *sum += x / 4.0);
        metric += task.under(&mut lab, &some, None, false).unwrap().0 / 4.0;
    }
    let task = CircuitTask::new(&mut lab, pairs).unwrap();
    let all = edge_scores(&mut lab, &task, Some(3)).unwrap();
    let size = sums.iter().fold(0f64, |most, x| most.max(x.abs()));
    for (a, b) in sums.iter().zip(&all.scores) {
        assert!((a - b).abs() < 1e-5 * size, "{a} {b}");
    }
    let (own, _) = task.under(&mut lab, &some, None, false).unwrap();
    assert!((own - metric).abs() < 1e-5, "{own} {metric}");
}

/// Families whose heads do not add to the stream one by one are refused, with the reason.
#[test]
fn norms_over_all_heads_are_refused() {
    let mut seen = 0;
    for lab in every_family() {
        if let Err(error) = CircuitGraph::of(&lab.model) {
            let error = error.to_string();
            assert!(error.contains("norms the"), "{error}");
            seen += 1;
        }
    }
    assert_eq!(seen, 3, "Gemma 2 and 3, OLMo 2");
}

/// Where the task is planted: O9.
fn planted(layout: Layout) -> (Lab, CircuitTask, EdgeSet) {
    let mut lab = circuit::organism(layout).open();
    let mut pairs = Vec::new();
    for (i, j) in [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (3, 1)] {
        let text = |name: &str| tokens(&lab, &format!("{} stone", name.trim()));
        let (clean, corrupt) = (text(circuit::NAMES[i]), text(circuit::NAMES[j]));
        let answer = |i: usize| {
            lab.model
                .tokenizer()
                .unwrap()
                .single(circuit::ANSWERS[i])
                .unwrap()
        };
        let answers = (answer(i), answer(j));
        pairs.push(pair(&mut lab, &clean, &corrupt, answers));
    }
    let task = CircuitTask::new(&mut lab, pairs).unwrap();
    let edges = circuit::PLANTED
        .iter()
        .map(|name| task.graph.edge_named(name).unwrap());
    let planted = EdgeSet::of(&task.graph, edges);
    (lab, task, planted)
}

/// T32.
#[test]
fn planted_edges_are_found() {
    for layout in [Layout::Llama, Layout::Gpt2] {
        let (mut lab, task, planted) = planted(layout);
        assert_eq!(task.graph.senders() - 1, 24);
        assert!(
            task.clean > 10.0 && task.corrupt < -10.0,
            "{} {}",
            task.clean,
            task.corrupt
        );
        let all = EdgeSet::all(&task.graph);
        let found = discover(
            &mut lab,
            &task,
            &all,
            0.05,
            &mut vec![None; task.graph.edges()],
        )
        .unwrap();
        let names = |of: &EdgeSet| {
            of.iter()
                .map(|e| task.graph.edge_name(e))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&found.edges), names(&planted), "{layout:?}");
        let (metric, _) = task
            .under(&mut lab, &Arc::new(planted.clone()), None, false)
            .unwrap();
        assert!(task.share(metric) > 0.99, "{}", task.share(metric));
        let scores = edge_scores(&mut lab, &task, Some(5)).unwrap().scores;
        // The area under the curve: how often a planted edge is stronger than another.
        let (mut won, mut count) = (0.0, 0.0);
        for own in planted.iter() {
            for other in (0..scores.len()).filter(|edge| !planted.contains(*edge)) {
                let (own, other) = (scores[own].abs(), scores[other].abs());
                won += if own > other {
                    1.0
                } else if own == other {
                    0.5
                } else {
                    0.0
                };
                count += 1.0;
            }
        }
        assert!(won / count >= 0.95, "{layout:?}: {}", won / count);
    }
}

/// Automatic circuit discovery that was stopped goes on behind the edges that it has tried, and comes to the same.
#[test]
fn a_stopped_discovery_goes_on() {
    let (mut lab, task, _) = planted(Layout::Llama);
    let all = EdgeSet::all(&task.graph);
    let count = task.graph.edges();
    let whole = discover(&mut lab, &task, &all, 0.05, &mut vec![None; count]).unwrap();
    let name = || vec![("instrument".to_string(), "circuit".to_string())];
    let run = Run::default();
    let cancel = lab.cancel.clone();
    let stop = move |done: f32| cancel.store(done > 0.5, std::sync::atomic::Ordering::Relaxed);
    let mut left = 0;
    let stopped = lab.with_progress(stop, |lab| {
        lab.resumable(&run, name(), count, |lab, tried| {
            let out = discover(lab, &task, &all, 0.05, tried);
            left = tried.iter().flatten().count();
            out
        })
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert!(lab.unfinished.stopped && left > 0 && left < count, "{left}");
    lab.cancel
        .store(false, std::sync::atomic::Ordering::Relaxed);
    let rest = lab
        .resumable(&run, name(), count, |lab, tried| {
            assert_eq!(tried.iter().flatten().count(), left);
            discover(lab, &task, &all, 0.05, tried)
        })
        .unwrap();
    assert_eq!(rest.edges, whole.edges);
    assert_eq!(rest.losses, whole.losses);
    assert!(
        rest.trials < whole.trials,
        "{} {}",
        rest.trials,
        whole.trials
    );
}

/// Attribution patching of a linear model is patching: T70.
#[test]
fn of_a_linear_model_every_node_is_attributed_exactly() {
    let mut lab = linear(false);
    let (clean, corrupt) = texts(11);
    let pairs = [pair(&mut lab, &clean, &corrupt, (5, 9))];
    let row = logits(&mut lab, &clean);
    let near = 2e-5 * f64::from(row.iter().fold(1f32, |most, z| most.max(z.abs())));
    for kind in [
        NodeKind::Heads,
        NodeKind::Values,
        NodeKind::Resid,
        NodeKind::Attn,
        NodeKind::Mlp,
        NodeKind::Neurons,
    ] {
        let nodes = Nodes::new(kind, &lab, &pairs).unwrap();
        let found = node_scores(&mut lab, &nodes, &pairs, false, 1).unwrap();
        let exact = compared(&mut lab, &nodes, &pairs, &found, 4, 1).unwrap();
        assert!(
            exact.nodes.len() > exact.strongest,
            "{kind:?}: strongest and others"
        );
        for (node, effect) in &exact.nodes {
            let score = found.scores[*node];
            assert!(
                (score - effect).abs() < near,
                "{kind:?} {node}: {score} {effect}"
            );
        }
        let most = found.scores.iter().fold(0f64, |most, x| most.max(x.abs()));
        assert!(
            most > 10.0 * near || kind == NodeKind::Neurons,
            "{kind:?}: {most}"
        );
    }
}

/// Where the softmax is the last thing that is not linear, the QK fix is exact, and the slope is not.
#[test]
fn the_fix_of_queries_and_keys_is_exact_behind_the_last_softmax() {
    let mut lab = linear(true);
    let (clean, corrupt) = texts(11);
    let pairs = [pair(&mut lab, &clean, &corrupt, (5, 9))];
    let row = logits(&mut lab, &clean);
    let near = 5e-5 * f64::from(row.iter().fold(1f32, |most, z| most.max(z.abs())));
    for kind in [NodeKind::Queries, NodeKind::Keys] {
        let nodes = Nodes::new(kind, &lab, &pairs).unwrap();
        let fixed = node_scores(&mut lab, &nodes, &pairs, true, 1).unwrap();
        let plain = node_scores(&mut lab, &nodes, &pairs, false, 1).unwrap();
        let exact = compared(&mut lab, &nodes, &pairs, &fixed, nodes.count(), 1).unwrap();
        let last = (nodes.layers - 1) * nodes.columns..nodes.count();
        let (mut worst, mut wrong) = (0f64, 0f64);
        for node in last {
            let effect = exact.effect(node).unwrap();
            worst = worst.max((fixed.scores[node] - effect).abs());
            wrong = wrong.max((plain.scores[node] - effect).abs());
        }
        assert!(worst < near, "{kind:?}: {worst}");
        assert!(wrong > 5.0 * worst, "{kind:?}: {wrong} {worst}");
    }
}

/// What PyTorch's automatic differentiation says of two reference checkpoints (`tests/references/circuits.py`).
#[test]
fn pytorch_says_the_same_of_two_checkpoints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references");
    for case in ["gpt2", "llama"] {
        let folder = root.join(case);
        let mut lab = Lab::open(folder.to_str().unwrap(), &Options::default()).unwrap();
        let file = std::fs::read_to_string(root.join(format!("circuits/{case}.json"))).unwrap();
        let said: Value = serde_json::from_str(&file).unwrap();
        let ids = |name: &str| -> Vec<u32> { serde_json::from_value(said[name].clone()).unwrap() };
        let pairs = [pair(&mut lab, &ids("clean"), &ids("corrupt"), (5, 9))];
        let metrics = [
            (pairs[0].clean, "clean_metric"),
            (pairs[0].corrupt, "corrupt_metric"),
        ];
        for (own, name) in metrics {
            assert!(
                (f64::from(own) - said[name].as_f64().unwrap()).abs() < 1e-5,
                "{case} {name}"
            );
        }
        let task = CircuitTask::new(&mut lab, pairs.to_vec()).unwrap();
        for (name, steps) in [("eap", None), ("eap_ig", Some(5))] {
            let found = edge_scores(&mut lab, &task, steps).unwrap();
            let theirs = said[name].as_object().unwrap();
            assert_eq!(theirs.len(), task.graph.edges(), "{case}");
            let numbers = theirs.values().map(|x| x.as_f64().unwrap().abs());
            let size = numbers.fold(0.0, f64::max);
            for (edge, number) in theirs {
                let own = found.scores[task.graph.edge_named(edge).unwrap()];
                let number = number.as_f64().unwrap();
                assert!(
                    (own - number).abs() < 1e-4 * size,
                    "{case} {name} {edge}: {own} {number}"
                );
            }
        }
        let mut names: Vec<&String> = said["eap"].as_object().unwrap().keys().collect();
        names.sort();
        let kept = names.iter().enumerate().filter(|(i, _)| i % 3 != 1);
        let kept = kept.map(|(_, name)| task.graph.edge_named(name).unwrap());
        let kept = Arc::new(EdgeSet::of(&task.graph, kept));
        let (own, _) = task.under(&mut lab, &kept, None, false).unwrap();
        assert!(
            (own - said["under"].as_f64().unwrap()).abs() < 1e-5,
            "{case}: {own}"
        );
        let means = task.means(&lab).unwrap();
        let outside = Outside::means(&mut lab, &task, means).unwrap();
        let own = outside.under(&mut lab, &kept).unwrap();
        assert!(
            (own - said["under_means"].as_f64().unwrap()).abs() < 1e-5,
            "{case}: {own} with means"
        );
        let nodes = Nodes::new(NodeKind::Heads, &lab, &pairs).unwrap();
        let found = node_scores(&mut lab, &nodes, &pairs, false, 1).unwrap();
        for (node, own) in found.scores.iter().enumerate() {
            let name = format!("a{}.h{}", node / nodes.columns, node % nodes.columns);
            let theirs = said["heads"][&name].as_f64().unwrap();
            assert!(
                (own - theirs).abs() < 1e-4 * theirs.abs().max(0.1),
                "{case} {name}"
            );
        }
    }
}

fn figure(lab: &mut Lab, name: &str, given: &[(&str, &str)]) -> Figure {
    let arguments = given
        .iter()
        .fold(Arguments::default(), |all, (name, value)| {
            all.with(name, value)
        });
    let of = instrument(name).unwrap();
    of.observe(&Run::plain(Vec::new()), &arguments, lab)
        .unwrap()
}

/// The share in `faithfulness 0.93` of a title.
fn faithfulness(figure: &Figure) -> f64 {
    let (_, number) = figure.title.split_once("faithfulness ").unwrap();
    number.parse().unwrap()
}

pub const GIFTS: &str = "demo/lists/gifts.json";
const REPEATS: &str = "demo/lists/repeats.json";

/// The edges of a figure that keeps most of the metric with few of them, which random circuits do not.
fn kept(figure: &Figure) -> Vec<(String, String)> {
    assert!(faithfulness(figure) >= 0.8, "{}", figure.title);
    let mut notes = figure.notes.iter();
    let control = notes.find(|note| note.starts_with("control:")).unwrap();
    let (_, most) = control.split_once(" to ").unwrap();
    let (most, _) = most.split_once(' ').unwrap();
    assert!(most.parse::<f64>().unwrap() < 0.3, "{control}");
    let Body::Table(table) = &figure.body else {
        panic!("a table")
    };
    let rows = table.pages[0].rows.iter();
    let rows = rows.map(|row| match &row.entries[1..3] {
        [Entry::Text(from), Entry::Text(to)] => (from.clone(), to.clone()),
        _ => panic!("the ends of an edge"),
    });
    rows.collect()
}

/// Judged on the demo: a twentieth of the edges keeps induction, and they are the path that the paper names: the head that attends to
/// the previous token writes into the keys of the induction heads, and those into the logits.
#[test]
fn a_twentieth_of_the_edges_keeps_induction() {
    let mut lab = demo();
    let found = figure(&mut lab, "circuit", &[("pairs", REPEATS), ("edges", "5%")]);
    let edges = kept(&found);
    let node = |name: &str| {
        let (layer, head) = name.split_once('.').unwrap();
        format!("a{layer}.h{head}")
    };
    let previous = node(&scored(&mut lab, "previous")[0].1);
    let induction = scored(&mut lab, "induction").into_iter();
    let induction: Vec<String> = induction
        .take_while(|head| head.0 > 0.5)
        .map(|head| node(&head.1))
        .collect();
    assert!(induction.len() >= 3, "{induction:?}");
    let has = |from: &str, to: &str| edges.iter().any(|edge| edge.0 == from && edge.1 == to);
    assert_eq!(previous, "a1.h0");
    assert!(has("m0", "a1.h0-1<v>"), "{edges:?}");
    for head in &induction {
        assert!(has(head, "logits"), "{head}: {edges:?}");
        assert!(has("m0", &format!("{head}<q>")), "{head}: {edges:?}");
    }
    // Two heads share a key.
    for key in ["a2.h0-1<k>", "a2.h2-3<k>"] {
        assert!(has(&previous, key), "{key}: {edges:?}");
    }
}

/// Judged on the demo: a twentieth of the edges keeps the indirect object, random circuits do not, and the heads that patching names are in it.
#[test]
fn a_twentieth_of_the_edges_keeps_the_indirect_object() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gifts.circuit.json");
    let saved = file.display().to_string();
    let found = figure(
        &mut lab,
        "circuit",
        &[("pairs", GIFTS), ("edges", "5%"), ("save", &saved)],
    );
    let edges = kept(&found);
    for head in ["a4.h0", "a2.h1"] {
        assert!(
            edges.iter().any(|(from, _)| from == head),
            "{head} in {edges:?}"
        );
    }
    // The saved circuit, on other pairs than the first half: evaluated again, not searched.
    let again = figure(&mut lab, "circuit", &[("pairs", GIFTS), ("load", &saved)]);
    assert!(
        (faithfulness(&again) - faithfulness(&found)).abs() < 0.011,
        "{}",
        again.title
    );
    // Pruned, before it is saved and after it was loaded: the same edges, the strongest.
    let few = folder.path().join("few.circuit.json").display().to_string();
    let graph = [
        ("pairs", GIFTS),
        ("edges", "5%"),
        ("show", "graph"),
        ("points", "4"),
    ];
    let all = figure(&mut lab, "circuit", &graph);
    let Body::Graph(own) = &all.body else {
        panic!("a graph")
    };
    let size = own.steps[1].edges;
    assert!(size > 1 && size < edges.len(), "{size} of {}", edges.len());
    let keep = size.to_string();
    let pruned = [("keep", keep.as_str()), ("save", &few)];
    let pruned = figure(&mut lab, "circuit", &[graph.as_slice(), &pruned].concat());
    let said = format!("the circuit of {size} edges is saved");
    assert!(
        pruned.notes.iter().any(|note| note.contains(&said)),
        "{:?}",
        pruned.notes
    );
    let alone = figure(&mut lab, "circuit", &[("pairs", GIFTS), ("load", &few)]);
    let less = figure(
        &mut lab,
        "circuit",
        &[("pairs", GIFTS), ("load", &saved), ("keep", &keep)],
    );
    assert_eq!((kept(&alone).len(), kept(&alone)), (size, kept(&less)));
    assert!(kept(&alone).iter().all(|edge| edges.contains(edge)));
    assert!((faithfulness(&alone) - f64::from(own.steps[1].faithfulness)).abs() < 0.011);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("->logits", "->logit")).unwrap();
    let arguments = Arguments::default()
        .with("pairs", GIFTS)
        .with("load", &saved);
    let of = instrument("circuit").unwrap();
    let error = of
        .observe(&Run::plain(Vec::new()), &arguments, &mut lab)
        .unwrap_err();
    assert!(error.to_string().contains("->logit\""), "{error}");
}

/// The graph on the demo has the edges of the table, with their numbers, and the steps of the curve; every edge lies on a path.
#[test]
fn the_graph_has_the_edges_of_the_table_and_the_steps_of_the_curve() {
    let mut lab = demo();
    let mut show = |view: &str| {
        let given = [("pairs", GIFTS), ("method", "eap"), ("edges", "4%")];
        let few = [("controls", "1"), ("points", "4"), ("show", view)];
        figure(&mut lab, "circuit", &[given.as_slice(), &few].concat())
    };
    let (graph, table, curve) = (show("graph"), show("edges"), show("curve"));
    assert_eq!(graph.title, table.title);
    assert_eq!(graph.notes[..4], table.notes[..4]);
    let (Body::Graph(graph), Body::Table(table), Body::Series(curve)) =
        (graph.body, table.body, curve.body)
    else {
        panic!("a graph, a table and curves")
    };
    assert_eq!(graph.curve(), curve);
    let mut named: Vec<(String, u32)> = graph
        .kept()
        .into_iter()
        .map(|edge| &graph.edges[edge])
        .map(|edge| (edge.name.clone(), edge.weight.to_bits()))
        .collect();
    named.sort_unstable();
    // A shared key or value leads into several heads.
    named.dedup();
    let row = |row: &lmscope::figure::TableRow| match row.entries.as_slice() {
        [_, Entry::Text(from), Entry::Text(to), Entry::Number(score)] => {
            (format!("{from}->{to}"), score.to_bits())
        }
        other => panic!("{other:?}"),
    };
    let mut rows: Vec<(String, u32)> = table.pages[0].rows.iter().map(row).collect();
    rows.sort_unstable();
    assert_eq!(named, rows);
    for shown in 0..graph.listed {
        let mut pruned = graph.clone();
        pruned.show_step(shown);
        let mut names: Vec<&str> = pruned
            .kept()
            .into_iter()
            .map(|edge| pruned.edges[edge].name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), pruned.steps[shown].edges, "step {shown}");
        for (node, there) in pruned.present().into_iter().enumerate() {
            let [first, last] = [0, pruned.nodes.len() - 1].map(|end| end == node);
            let [into, out] = [EdgeEnd::Into, EdgeEnd::OutOf].map(|end| pruned.at(node, end));
            assert!(
                !there || first || !into.is_empty(),
                "{}",
                pruned.label(node)
            );
            assert!(!there || last || !out.is_empty(), "{}", pruned.label(node));
        }
    }
    assert_eq!(graph.listed, graph.steps.len(), "the demo is small enough");
}

/// Attribution patching on the demo: signs and order of the strongest heads are those of patching, and the heads that it finds too.
#[test]
fn attribution_finds_the_heads_that_patching_finds() {
    let mut lab = demo();
    let found = figure(
        &mut lab,
        "attribution",
        &[("pairs", GIFTS), ("exact", "16")],
    );
    let Body::Grid(grid) = &found.body else {
        panic!("a grid")
    };
    let mut cells: Vec<&Cell> = grid.cells.iter().flatten().collect();
    cells.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
    let patched = |cell: &Cell| {
        cell.more
            .iter()
            .find(|(name, _)| name == "patched")
            .map(|x| x.1)
    };
    let measured: Vec<(f64, f64)> = cells
        .iter()
        .filter_map(|cell| Some((f64::from(cell.value), f64::from(patched(cell)?))))
        .collect();
    assert_eq!(measured.len(), 32, "16 and 16 of 32 heads");
    let decile = &measured[..4];
    assert!(
        decile.iter().all(|(score, effect)| score * effect > 0.0),
        "{decile:?}"
    );
    let (scores, effects): (Vec<f64>, Vec<f64>) = measured.into_iter().unzip();
    let rho = rank_correlation(&scores, &effects).unwrap();
    println!("{rho} {:#?}", found.notes);
    assert!(rho > 0.8, "{rho}");
    let strongest: Vec<Anchor> = cells[..6].iter().map(|cell| cell.anchor).collect();
    for (layer, head) in [(4, 0), (2, 1)] {
        let is = |at: &Anchor| at.layer == Some(layer) && at.unit == Some(Unit::Head(head));
        assert!(strongest.iter().any(is), "{layer}.{head}: {strongest:?}");
    }
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.contains("n = 32, 95 % interval"))
    );
}

/// A circuit is the model's own: the metric of an edited run beside edges of the unedited one would be a share of nothing.
#[test]
fn edits_are_refused() {
    let mut lab = demo();
    let tokens = lab.model.encode("The capital of France is", false).unwrap();
    let edit: Edit = "zero:3@mlp_act.2".parse().unwrap();
    let run = Run::plain(tokens).under(&Schedule::always(vec![edit]));
    let arguments = Arguments::default().with("corrupt", "The capital of Japan is");
    let of = instrument("circuit").unwrap();
    let said = of.observe(&run, &arguments, &mut lab).unwrap_err();
    assert!(said.to_string().contains("edits are on"), "{said}");
}
