//! The figures of a circuit: its edges, strongest first, what circuits of growing size keep, or the graph of both.
//!
//! Invariant: each says how much the circuit keeps, how much is left without it, and what random circuits of its size keep. To show something
//! else, add a view.

use super::evaluate::Evaluated;
use super::task::{CircuitTask, Outside};
use super::{CircuitOthers, CircuitParams, CircuitView, FoundCircuit, graph};
use crate::figure::builders::entries;
use crate::figure::graph::curve;
use crate::figure::{Anchor, Body, PruningStep, Table, TableRow};
use crate::instruments::Draft;
use crate::lab::Lab;
use crate::lab::circuit::edges::EdgeSet;
use crate::lab::circuit::graph::{Receiver, Sender};
use crate::lab::pairs::MetricKind;

pub fn draft(
    params: &CircuitParams,
    lab: &Lab,
    outside: &Outside,
    found: &FoundCircuit,
    own: &Evaluated,
    (circuits, all): (&[EdgeSet], &[Evaluated]),
    seed: u64,
) -> Draft {
    let task = outside.task;
    let body: Body = match params.show {
        CircuitView::Edges => edges(task, found).into(),
        CircuitView::Curve => {
            let steps: Vec<PruningStep> = all.iter().map(graph::step).collect();
            curve(&steps, graph::share(outside)).into()
        }
        CircuitView::Graph => {
            graph::graph(&task.graph, graph::share(outside), found, circuits, all).into()
        }
    };
    let count = task.graph.edges();
    let title = format!(
        "{} of {count} edges ({:.1} %), faithfulness {:.2}",
        own.edges,
        100.0 * own.edges as f64 / count as f64,
        own.faithfulness
    );
    Draft::of(body)
        .titled(title)
        .notes(notes(params, lab, outside, found, own, seed))
}

fn edges(task: &CircuitTask, found: &FoundCircuit) -> Table {
    let graph = &task.graph;
    let mut order: Vec<usize> = found.edges.iter().collect();
    order.sort_by(|a, b| found.scores[*b].abs().total_cmp(&found.scores[*a].abs()));
    let rows = order.into_iter().enumerate().map(|(place, edge)| {
        let (from, to) = graph.ends(edge);
        let number = found.scores[edge] as f32;
        let entries = entries![place + 1, from.name(), graph.label(to), number];
        TableRow::at(anchor(from, to), entries)
    });
    Table::of(&["", "from", "to", found.called], rows.collect())
}

/// The place of an edge: the head or MLP that it comes from; of the embedding's, what it leads to.
fn anchor(from: Sender, to: Receiver) -> Anchor {
    match from {
        Sender::Head { layer, head } => Anchor::head(layer, head),
        Sender::Mlp { layer } => Anchor::layer(layer),
        Sender::Embedding => match to {
            Receiver::Query { layer, head } => Anchor::head(layer, head),
            Receiver::Key { layer, .. }
            | Receiver::Value { layer, .. }
            | Receiver::Mlp { layer } => Anchor::layer(layer),
            Receiver::Logits => Anchor::default(),
        },
    }
}

fn notes(
    params: &CircuitParams,
    lab: &Lab,
    outside: &Outside,
    found: &FoundCircuit,
    own: &Evaluated,
    seed: u64,
) -> Vec<String> {
    let task = outside.task;
    let (value, there, ends) = match outside.texts() {
        None => (
            "at the corrupted run's value".to_string(),
            "with the corrupted run's values elsewhere, not with zeros",
            "corrupted",
        ),
        Some(texts) => (
            format!(
                "at the mean of what its sender writes over the corrupted texts ({texts}; the first position by itself)"
            ),
            "with means elsewhere, not with zeros",
            "means alone",
        ),
    };
    let pairs = match task.pairs.len() {
        1 => String::new(),
        n => format!(", mean over {n} pairs; the tokens named are those of the first"),
    };
    let metric = task.pairs.first().map(|pair| pair.metric.in_words(lab));
    let (least, most) = own.band();
    let between = own.interval.map_or_else(String::new, |(low, high)| {
        format!(" (95 % {low:.3} to {high:.3} where other pairs are drawn)")
    });
    let mut notes = vec![
        format!(
            "{}: clean {:.4}, corrupted {:.4}{pairs}",
            metric.unwrap_or_default(),
            task.clean,
            task.corrupt
        ),
        format!(
            "faithfulness {:.3}{between}: with every edge outside the circuit {value} the metric is {:.4} (0: {ends}, 1: clean); with the circuit's own edges there instead, {:.3} is left",
            own.faithfulness, own.metric, own.without
        ),
        format!(
            "control: {} random circuits with as many edges into every block keep {least:.3} to {most:.3} (seed {seed})",
            own.random.len()
        ),
    ];
    if params.metric == MetricKind::Difference {
        notes.push(format!(
            "a faithfulness of {:.2} is a logit difference of 0, where neither answer is ahead: only what lies above it has the clean answer",
            outside.share(0.0)
        ));
    }
    if outside.texts().is_some() {
        notes.push(format!(
            "with means alone, without any edge, the metric is {:.4}",
            outside.nothing
        ));
    }
    notes.extend(found.notes.clone());
    if params.load.is_none() && found.called == "score" {
        let value = match params.others {
            CircuitOthers::Corrupted => "the corrupted value",
            CircuitOthers::Mean => "the mean",
        };
        notes.push(format!("score: what the metric changes by, to first order, if this edge alone has {value}; negative: the edge holds the clean answer up"));
    }
    let sizes = match params.show {
        CircuitView::Edges => false,
        CircuitView::Curve | CircuitView::Graph => true,
    };
    if sizes && found.called == "loss" {
        notes.push("the curve goes by what each edge took from the metric when ACDC tried it; edges that were removed come last, in no order".into());
    }
    if params.show == CircuitView::Graph {
        let called = found.called;
        notes.push(format!(
            "the strength of a path is the smallest |{called}| along it"
        ));
        if !found.whole {
            notes.push(format!("edges outside the circuit have no {called} of their own: circuits of more edges, which take them in no order, are on the curve alone"));
        }
    }
    if task.graph.kv_heads < task.graph.heads {
        let at_each = match params.show {
            CircuitView::Edges | CircuitView::Curve => "",
            CircuitView::Graph => ", and one edge into them leads into each of those that lead on",
        };
        notes.push(format!(
            "keys and values are shared: a head's <k> and <v> are those of a group of {} heads{at_each}",
            task.graph.heads / task.graph.kv_heads
        ));
    }
    notes.push(format!("a circuit is made for these pairs and this metric: other texts may take other ways, and what it keeps is measured {there}"));
    notes
}
